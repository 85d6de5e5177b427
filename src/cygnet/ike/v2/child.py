"""Child SAs: what IKE_AUTH and CREATE_CHILD_SA have in common (RFC 7296, sections 1.2, 1.3, 2.9, 2.17).

Offers and choices of proposals and selectors, keys, and the parameters that the data plane gets.
The inbound SA is installed before the peer is told its SPI; the outbound one when the peer holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.kdf import ChildKeys, child_keymat, child_keys
from cygnet.crypto.prf import Prf, prf
from cygnet.ike import children, proposals
from cygnet.ike.children import Agreed, Pair, Selectors, check_spi, flow_selectors, format_selectors
from cygnet.ike.connections import Loaded, LoadedChild, any_of
from cygnet.ike.errors import (
    Difference,
    IkeError,
    LocalMisuse,
    PeerIncompatible,
    PeerMisbehaved,
    Reason,
)
from cygnet.ike.proposals import Selected
from cygnet.ike.seen import Seen
from cygnet.ike.state import Half
from cygnet.ike.steps import Context, Received, Steps, pause, send
from cygnet.ike.v2 import modes
from cygnet.ike.v2.modes import Wishes
from cygnet.policy.narrowing import choose, within
from cygnet.policy.selectors import TrafficSelector, resolve_all, stand_in
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify, TsType
from cygnet.wire.payloads import (
    DeletePayload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    WireSelector,
)

AT_ONCE_PAUSE: Final = 1.0
"""Seconds until a new pair is sent on while one of ours for the same traffic is on its way."""
_TS_TYPE: Final = {4: TsType.IPV4_ADDR_RANGE, 6: TsType.IPV6_ADDR_RANGE}
_FAMILY: Final = {TsType.IPV4_ADDR_RANGE: 4, TsType.IPV6_ADDR_RANGE: 6}
_OCTETS: Final = {4: 4, 6: 16}


def to_wire(selectors: Sequence[TrafficSelector]) -> tuple[WireSelector, ...]:
    return tuple(
        [
            WireSelector(
                _TS_TYPE[s.family],
                s.protocol,
                s.port_first,
                s.port_last,
                s.first.to_bytes(_OCTETS[s.family], "big"),
                s.last.to_bytes(_OCTETS[s.family], "big"),
            )
            for s in selectors
        ]
    )


def from_wire(selectors: Sequence[WireSelector]) -> Selectors:
    return tuple(
        [
            TrafficSelector(
                _FAMILY[s.ts_type],
                s.protocol,
                int.from_bytes(s.first, "big"),
                int.from_bytes(s.last, "big"),
                s.port_first,
                s.port_last,
            )
            for s in selectors
        ]
    )


# -- offering -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """What we ask for: one flow of one child."""

    loaded: LoadedChild
    index: int
    pair: int
    spi: int
    sa: SaPayload
    local: Selectors
    remote: Selectors
    wishes: Wishes

    @property
    def protocol(self) -> int:
        """What is withdrawn if it cannot be taken: that of the first proposal."""
        return self.sa.proposals[0].protocol

    @property
    def name(self) -> str:
        return self.loaded.child.name

    @property
    def payloads(self) -> tuple[TsiPayload, TsrPayload]:
        return TsiPayload(to_wire(self.local)), TsrPayload(to_wire(self.remote))


def make_offer(
    context: Context,
    loaded: LoadedChild,
    index: int,
    pair: int,
    spi: int,
    *,
    key_exchange: bool,
    first_group: int = 0,
) -> Offer:
    local, remote = flow_selectors(context, loaded, index)
    if context.connection.vips and context.state.given is None:
        # RFC 7296, section 2.19: the answer narrows it to the address that comes with it.
        flow = loaded.child.flows[index]
        local = stand_in(flow.local, any_of(context.connection.vips))
        remote = resolve_all(flow.remote, context.state.remote_hosts)
    sa = proposals.offer(
        children.through_nat(loaded.child.proposals, context.state),
        spi.to_bytes(4, "big"),
        key_exchange=key_exchange,
        first_group=first_group,
    )
    return Offer(loaded, index, pair, spi, sa, local, remote, modes.wishes(loaded, context.entropy))


def check_accepted(context: Context, offer: Offer, message: Message) -> Agreed:
    """The responder's answer lies inside our offer. Raises `PeerMisbehaved`, `PeerIncompatible`."""
    selected = proposals.check_answer(offer.sa, message.one(SaPayload))
    check_spi(selected)
    local = from_wire(message.one(TsiPayload).ranges)
    remote = from_wire(message.one(TsrPayload).ranges)
    if not within(offer.local, offer.remote, local, remote):
        raise PeerMisbehaved(
            Reason.SELECTOR_MISMATCH,
            "the peer answered with traffic selectors that we did not offer",
            notify=Notify.TS_UNACCEPTABLE,
            difference=Difference(
                format_selectors(offer.local, offer.remote), format_selectors(local, remote), "selectors"
            ),
        )
    return modes.agreed_by_peer(offer.wishes, message, Agreed(selected, local, remote), context.state)


# -- choosing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """The responder's choice among the connection's children and their flows."""

    loaded: LoadedChild
    index: int
    agreed: Agreed
    additional: bool
    seen: Seen
    half: Half | None = None
    """The AH of a bundle that the peer has made before."""

    @property
    def payloads(self) -> tuple[TsiPayload, TsrPayload]:
        """The selectors of the answer."""
        local, remote = self.seen.back(self.agreed)
        return TsiPayload(to_wire(remote)), TsrPayload(to_wire(local))


def choose_child(
    context: Context,
    loaded: Loaded,
    message: Message,
    *,
    key_exchange: bool,
    prefer_group: int = 0,
    only: tuple[str, int] | None = None,
) -> Chosen:
    """Which of our flows answers the request. `only`: this child's flow alone (a rekey).

    Raises `PeerIncompatible`: TS_UNACCEPTABLE or NO_PROPOSAL_CHOSEN, with the two offers.
    """
    offered = message.one(SaPayload)
    seen = modes.seen(
        message,
        from_wire(message.one(TsrPayload).ranges),
        from_wire(message.one(TsiPayload).ranges),
        context.state,
    )
    offered_local, offered_remote = seen.local, seen.remote
    flows = [
        (child, index)
        for child in loaded.children
        for index in range(len(child.flows))
        if only is None or only == (child.child.name, index)
    ]
    error: IkeError | None = None
    while flows and offered_local and offered_remote:
        sides = [flow_selectors(context, child, index) for child, index in flows]
        choice = choose(offered_local, offered_remote, sides)
        if choice is None:
            break
        child, index = flows[choice.flow]
        try:
            half, together = None, None
            configured = children.through_nat(child.child.proposals, context.state)
            if child.child.around:
                together = proposals.select_bundle(
                    offered,
                    configured,
                    children.through_nat(child.child.around, context.state),
                    key_exchange=key_exchange,
                    prefer_group=prefer_group,
                )
                half = _waiting(context, child) if together is None else None
            selected = (
                together[0]
                if together is not None
                else proposals.select(
                    offered, configured, key_exchange=key_exchange, prefer_group=prefer_group
                )
            )
            agreed = Agreed(
                selected,
                choice.local,
                choice.remote,
                ah=together[1] if together is not None else None,
                original_local=seen.original_local,
                original_remote=seen.original_remote,
            )
            agreed = modes.grant(child, message, agreed, context.entropy)
        except PeerIncompatible as incompatible:
            # Another child with the same selectors may have other proposals, or another mode.
            incompatible.child = child.child.name
            error = error or incompatible
            flows = [flow for flow in flows if flow[0] is not child]
            continue
        check_spi(selected)
        return Chosen(child, index, agreed, choice.additional, seen, half)
    if error is not None:
        raise error
    ours = "; ".join(
        format_selectors(*flow_selectors(context, child, index))
        for child in loaded.children
        for index in range(min(len(child.flows), 8))
    )
    raise PeerIncompatible(
        Reason.SELECTOR_MISMATCH,
        "the peer's traffic selectors and ours have nothing in common",
        notify=Notify.TS_UNACCEPTABLE,
        difference=Difference(ours, format_selectors(offered_local, offered_remote), "selectors"),
    )


def _waiting(context: Context, loaded: LoadedChild) -> Half | None:
    """The AH that the peer has made for the ESP that it offers now. Raises `PeerIncompatible` if a bundle is
    wanted and there is none; None: none is wanted."""
    if not loaded.child.around:
        return None
    children.through_nat(loaded.child.around, context.state)
    for half in context.state.halves:
        if proposals.accepts(loaded.child.around, half.proposal):
            return half
    raise PeerIncompatible(
        Reason.CHILD_PROPOSAL_MISMATCH,
        "peer offers ESP, you accept AH around ESP alone; first difference: bundle",
        notify=Notify.NO_PROPOSAL_CHOSEN,
    )


# -- making -------------------------------------------------------------------------------------


def make_pair(
    context: Context,
    peer: AuthenticatedPeer,
    loaded: LoadedChild,
    index: int,
    agreed: Agreed,
    *,
    pair: int,
    spi_in: int,
    policy: tuple[int, int],
    ni: bytes,
    nr: bytes,
    shared: bytes | None,
    further: bytes = b"",
    initiator: bool,
    replaces: int = 0,
    at_once: bool = False,
    half: Half | None = None,
    joined: tuple[int, int] | None = None,
) -> Pair:
    """Both SAs of a pair, their keys from the IKE SA's SK_d (RFC 7296, section 2.17).

    `half`: the AH around it; `joined`: the SPI and the pair of one that was agreed on in the same proposal.

    `ni`, `nr`: the nonces of the exchange that makes it, `shared` its g^ir, `further` the secrets of
    the key exchanges that followed; `initiator`: we began it.
    """
    selected = agreed.selected
    if agreed.ah is not None and joined is not None:
        keys, around = _joint_keys(context, selected, agreed.ah, ni, nr, shared)
        half = children.make_half(agreed.ah, *joined, around)
    else:
        lengths = children.key_lengths(selected)
        keys = child_keys(*key_source(context), ni, nr, shared, lengths, further)
    return children.make_pair(
        context,
        peer,
        loaded,
        index,
        agreed,
        pair=pair,
        spi_in=spi_in,
        policy=policy,
        keys=keys,
        initiator=initiator,
        replaces=replaces,
        notify_first_use=(replaces > 0 or at_once) and not initiator,
        half=half,
    )


def accepted(agreed: Agreed, spi: int, joined: tuple[int, int] | None) -> SaPayload:
    """The SA payload of the answer; `joined`: SPI and pair of the AH that was offered under its number."""
    if agreed.ah is None or joined is None:
        return proposals.answer(agreed.selected, spi.to_bytes(4, "big"))
    return proposals.answer_bundle(
        agreed.selected, spi.to_bytes(4, "big"), agreed.ah, joined[0].to_bytes(4, "big")
    )


def key_source(context: Context) -> tuple[Prf, bytes]:
    """What Child SAs' keys are made with: the PRF and SK_d of the IKE SA."""
    state = context.state
    if state.keys is None or state.suite is None:
        raise LocalMisuse(Reason.INTERNAL, "a Child SA needs the keys of its IKE SA")
    return prf(state.suite.prf), state.keys.sk_d


def _joint_keys(
    context: Context,
    inner: Selected,
    outer: Selected,
    ni: bytes,
    nr: bytes,
    shared: bytes | None,
) -> tuple[ChildKeys, tuple[bytes, bytes]]:
    """Both halves' keys out of one KEYMAT: all of the initiator's direction first, and in it those of the
    outer header (RFC 4306, section 2.17): (ESP's, (AH's to the responder, AH's to the initiator))."""
    function, sk_d = key_source(context)
    within = children.key_lengths(inner)
    around = children.key_lengths(outer).integrity_key_length
    cut = around + within.encryption_key_length
    length = cut + within.integrity_key_length
    keymat = child_keymat(function, sk_d, ni, nr, shared, 2 * length)
    there, back = keymat[:length], keymat[length:]
    keys = ChildKeys(there[around:cut], there[cut:], back[around:cut], back[cut:])
    return keys, (there[:around], back[:around])


def activate_new(context: Context, pair: int, *, at_once: bool) -> Steps[None]:
    """The responder may send on a new pair as soon as it has answered, and early packets may be lost (RFC
    7296, section 2.8). `at_once`: the same traffic has a pair, or we are making one ourselves, that the
    peer holds for sure; so this one waits for its first packet, or for a while."""
    if at_once:
        yield from pause(AT_ONCE_PAUSE)
    yield from children.activate(context, pair)


def withdraw(offer: Offer) -> Steps[None]:
    """Tell the peer that a Child SA which it just made is not wanted: delete our half."""
    spi = offer.spi.to_bytes(4, "big")
    yield from send(Exchange.INFORMATIONAL, (DeletePayload(offer.protocol, (spi,)),), _anything)


def _anything(received: Received) -> Message:
    return received.message
