"""Quick mode: Child SAs, and new keys for them (RFC 2409, section 5.5).

    Initiator                          Responder
    -----------                        -----------
    HDR*, HASH(1), SA, Ni,
      [, KE ] [, IDci, IDcr ]   -->
                                <--    HDR*, HASH(2), SA, Nr
                                         [, KE ] [, IDci, IDcr ]
    HDR*, HASH(3)               -->

The responder's inbound SA stands before its message leaves, its outbound one when HASH(3) has come. The third
message is never acknowledged: so where an old pair carries the traffic, the initiator goes on sending on that
until a packet comes on the new one, or for a second. A rekey is a quick mode like any other: what has the
same flow and the same client identities is replaced. When both ends begin at once, both answer, and the
nonces decide as in IKEv2 which pair is redundant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.errors import InvalidPublicValue
from cygnet.crypto.ikev1 import quick_keymat
from cygnet.crypto.kdf import ChildKeys
from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.ike import children, collisions
from cygnet.ike.changes import AddChild, Change, ChangeChild, Postpone
from cygnet.ike.children import Agreed, Selectors, flow_selectors, format_selectors
from cygnet.ike.configuration import Child
from cygnet.ike.connections import Loaded, LoadedChild
from cygnet.ike.errors import Difference, IkeError, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.lifetimes import pause_before_retry
from cygnet.ike.proposals import Selected
from cygnet.ike.seen import Seen, as_seen
from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, Half, SaState
from cygnet.ike.steps import Context, Steps, apply, begin, enqueue, install, obtain_child, pause, use_policy
from cygnet.ike.v1 import bundles, client_ids, lifetimes, nat, proposals
from cygnet.ike.v1.lifetimes import Lifetime
from cygnet.ike.v1.nat import is_draft
from cygnet.ike.v1.notifications import wrong
from cygnet.ike.v1.phase1 import NONCE_LENGTH
from cygnet.ike.v1.proposals import TRANSPORTS, TUNNELS, Phase2Choice
from cygnet.ike.v1.protection import check_hash, hash_1, hash_2, hash_3, isakmp_of, suite_of
from cygnet.ike.v1.steps import Received, answer, begin_exchange, send
from cygnet.ike.v1.vocabulary import pfs_group
from cygnet.ike.wanted import CreateChild, DeleteChild, RekeyChild
from cygnet.policy.narrowing import choose, within
from cygnet.policy.sa import Mode, SaParameters
from cygnet.records import dataclass, replace
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import Encapsulation, Exchange, Notify, Phase2Attribute
from cygnet.wire.v1.payloads import (
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
)

OUTBOUND_AFTER: Final = 1.0
"""Seconds after HASH(3) until the initiator of a rekey sends on the new pair, if no packet came on it."""
GRACE: Final = 10.0
"""Seconds that the peer has to close what lost a collision and is its own; then we close it."""
LEFT_OVER: Final = 30.0
"""Seconds that a replaced pair stays if the peer, who replaced it, does not close it."""
MAX_CHILDREN: Final = 1024
"""Child SAs of one phase 1; beyond it the peer's quick modes are refused (T30)."""


# -- initiator ----------------------------------------------------------------------------------


def create(context: Context, wanted: CreateChild) -> Steps[None]:
    """A Child SA for a flow that has none."""
    yield from begin(Attempt(AttemptKind.CREATE_CHILD, ours=True))
    yield from _initiate(context, wanted.name, wanted.index, None)


def rekey(context: Context, wanted: RekeyChild) -> Steps[None]:
    """The same for one that is to be replaced."""
    old = context.state.child(wanted.pair)
    if old is None or old.phase is not ChildPhase.INSTALLED:
        return
    yield from begin(Attempt(AttemptKind.REKEY_CHILD, ours=True, pair=old.pair))
    try:
        yield from _initiate(context, old.name, old.flow_index, old)
    except IkeError:
        if context.state.child(old.pair) is not None:
            now = context.now.monotonic
            pause = pause_before_retry(now, old.expires_at, context.entropy)
            yield from apply(Postpone(old.pair, now + pause))
        raise


def _initiate(context: Context, name: str, index: int, old: ChildSa | None) -> Steps[None]:
    """HDR*, HASH(1), SA, Ni, [KE], IDci, IDcr -->  <-- HDR*, HASH(2), ...  HDR*, HASH(3) -->"""
    since = context.now.monotonic
    isakmp, peer = isakmp_of(context.state), _peer(context)
    loaded = _configured(context, name, index)
    local, remote = (old.local_selectors, old.remote_selectors) if old else _clients(context, loaded, index)
    spi, pair = yield from obtain_child()
    outer = (yield from obtain_child()) if loaded.child.around else None
    ours = _key_exchange(context, loaded, old)
    ni = context.entropy.octets(NONCE_LENGTH)
    transport = loaded.child.mode == Mode.TRANSPORT
    judge = _Judge(context, loaded, ours, ni, _offer(context, loaded, spi, outer, ours), local, remote)
    exchanged = yield from begin_exchange(
        Exchange.QUICK_MODE,
        (
            judge.offer,
            NoncePayload(ni),
            *_public(ours),
            client_ids.to_wire(local[0]),
            client_ids.to_wire(remote[0]),
            *(nat.original_addresses(context.state, initiator=True) if transport else ()),
        ),
        judge.second,
        hashed=hash_1(isakmp),
    )
    second = exchanged.value
    agreed = _agreed(context, second.choice, second.local, second.remote, second.told)
    policy = yield from use_policy(loaded, index, agreed.local, agreed.remote, old)
    made = children.make_pair(
        context, peer, _lasting(loaded, second.life), index, agreed,
        pair=pair, spi_in=spi, policy=policy, initiator=True,
        keys=_keys(context, second.choice.selected, spi, ni, second.nr, second.shared, initiator=True),
        replaces=old.pair if old is not None else 0, notify_first_use=old is not None,
        half=_half(context, second.choice, outer, ni, second.nr, second.shared, initiator=True),
    )  # fmt: skip
    first = (*made.around, made.inbound)
    yield from _install(name, first if old is not None else (*first, made.outbound))
    record = replace(made.child, nonce=min(ni, second.nr))
    if old is not None:
        record = replace(record, outbound=made.outbound, announced=False)
    changes, loser = _placed(context, record, since, ours=True)
    yield from answer((), *changes, hashed=hash_3(isakmp, ni, second.nr))
    if loser is not None:
        yield from enqueue(DeleteChild(loser, children.REDUNDANT), 0.0 if loser == pair else GRACE)
    yield from _close_replaced(changes, loser, OUTBOUND_AFTER + context.options.delete_rekeyed_delay)
    if loser != pair and old is not None:
        yield from send_soon(context, pair)


def _close_replaced(changes: Sequence[Change], loser: int | None, delay: float) -> Steps[None]:
    """What a new pair has replaced goes when nobody sends on it any more, and what was under way has come."""
    for change in changes:
        if isinstance(change, ChangeChild) and change.child.pair != loser:
            yield from enqueue(DeleteChild(change.child.pair, children.REPLACED), delay)


def send_soon(context: Context, pair: int) -> Steps[None]:
    """HASH(3) has left: who does not show by a packet that it came has had time enough."""
    yield from pause(OUTBOUND_AFTER)
    yield from children.activate(context, pair)


@dataclass(frozen=True, slots=True)
class _Second:
    choice: Phase2Choice
    life: Lifetime
    nr: bytes
    shared: bytes | None
    local: Selectors
    remote: Selectors
    told: nat.Originals


@dataclass(frozen=True, slots=True)
class _Judge:
    context: Context
    loaded: LoadedChild
    ours: KeyExchange | None
    ni: bytes
    offer: SaPayload
    local: Selectors
    remote: Selectors

    def second(self, received: Received) -> _Second:
        """HDR*, HASH(2), SA, Nr, [KE], [IDci, IDcr]: proved by HASH(2), inside of what we offered."""
        message = received.message
        check_hash(received, hash_2(isakmp_of(self.context.state), self.ni))
        check = bundles.check_answer if self.loaded.child.around else proposals.check_phase2_answer
        choice = check(self.offer, message.one(SaPayload))
        children.check_spi(choice.selected)
        nr = message.one(NoncePayload).data
        if nr == self.ni:
            raise wrong("our own nonce came back")
        shared = _shared(self.ours, message.maybe(KePayload))
        local, remote = _answered(message, self.local, self.remote)
        life = lifetimes.accepted(_life(self.loaded.child), choice.life)
        for notify in message.all(NotifyPayload):
            if notify.type == Notify.RESPONDER_LIFETIME:
                told = lifetimes.told(notify, 2)
                life = lifetimes.accepted(life, told) if told is not None else life
        known = nat.told_addresses(message, from_initiator=False)
        return _Second(choice, life, nr, shared, local, remote, known)


def _answered(message: Message, local: Selectors, remote: Selectors) -> tuple[Selectors, Selectors]:
    """The client identities of the answer: those that we sent, or parts of them."""
    ids = message.all(IdPayload)
    if not ids:
        return local, remote
    if len(ids) != 2:
        raise wrong("one client identity")
    ours, theirs = (client_ids.from_wire(ids[0]),), (client_ids.from_wire(ids[1]),)
    if not within(local, remote, ours, theirs):
        raise PeerMisbehaved(
            Reason.SELECTOR_MISMATCH,
            "the peer answered with client identities that we did not offer",
            difference=Difference(
                format_selectors(local, remote), format_selectors(ours, theirs), "selectors"
            ),
        )
    return ours, theirs


# -- responder ----------------------------------------------------------------------------------


def respond(context: Context, received: Received) -> Steps[None]:
    """--> HDR*, HASH(1), SA, Ni, [KE], IDci, IDcr  <-- HDR*, HASH(2), ...  --> HDR*, HASH(3)"""
    since = context.now.monotonic
    isakmp, peer, message = isakmp_of(context.state), _peer(context), received.message
    if len(context.state.children) >= MAX_CHILDREN:
        raise PeerIncompatible(Reason.LIMIT_REACHED, f"{MAX_CHILDREN} Child SAs are enough")
    loaded, index, choice, seen = _choose(context, message, *_asked(context, message))
    local, remote = seen.local, seen.remote
    theirs, ours = nat.told_addresses(message, from_initiator=True)
    agreed = _agreed(context, choice, local, remote, (ours, theirs))
    name = loaded.child.name
    ni, nr = message.one(NoncePayload).data, context.entropy.octets(NONCE_LENGTH)
    public = message.maybe(KePayload)
    exchange = generate(choice.group, context.entropy) if choice.group else None
    shared = _shared(exchange, public)
    spi, pair = yield from obtain_child()
    outer = (yield from obtain_child()) if choice.around is not None else None
    old = _same(context, name, index, local, remote)
    policy = yield from use_policy(loaded, index, local, remote, old)
    life = lifetimes.accepted(_life(loaded.child), choice.life)
    made = children.make_pair(
        context, peer, _lasting(loaded, life), index, agreed,
        pair=pair, spi_in=spi, policy=policy, initiator=False,
        keys=_keys(context, choice.selected, spi, ni, nr, shared, initiator=False),
        replaces=old.pair if old is not None else 0, notify_first_use=False,
        half=_half(context, choice, outer, ni, nr, shared, initiator=False),
    )  # fmt: skip
    yield from _install(name, (*made.around, made.inbound))
    spi_octets = spi.to_bytes(4, "big")
    told: tuple[NotifyPayload, ...] = ()
    if life.shorter_than(choice.life):
        told = (lifetimes.responder_lifetime(life, choice.selected.protocol, spi_octets, 2),)
    yield from send(
        (
            proposals.answer_phase2(choice, spi_octets, outer[0].to_bytes(4, "big") if outer else b""),
            NoncePayload(nr),
            *_public(exchange),
            *message.all(IdPayload),
            *(nat.original_addresses(context.state, initiator=False) if choice.transport else ()),
            *told,
        ),
        _Third(context, ni, nr).third,
        hashed=hash_2(isakmp, ni),
    )
    # The initiator holds the pair.
    yield from _install(name, (made.outbound,))
    record = replace(made.child, nonce=min(ni, nr))
    present = _same(context, name, index, local, remote)
    record = replace(record, replaces=present.pair if present is not None else 0)
    changes, loser = _placed(context, record, since, ours=False)
    yield from apply(*changes)
    if loser is not None:
        yield from enqueue(DeleteChild(loser, children.REDUNDANT), GRACE if loser == pair else 0.0)
    # Who began the rekey closes what it replaced; if it does not, we do.
    yield from _close_replaced(changes, loser, LEFT_OVER)


@dataclass(frozen=True, slots=True)
class _Third:
    context: Context
    ni: bytes
    nr: bytes

    def third(self, received: Received) -> None:
        """HDR*, HASH(3)"""
        check_hash(received, hash_3(isakmp_of(self.context.state), self.ni, self.nr))


def _asked(context: Context, message: Message) -> tuple[Selectors, Selectors]:
    """(our side, the peer's) of the client identities, or of the tunnel's ends (RFC 2409, section 5.5)."""
    ids, path = message.all(IdPayload), context.state.path
    if not ids:
        return (client_ids.of_host(path.local),), (client_ids.of_host(path.remote),)
    if len(ids) != 2:
        raise wrong("one client identity")
    return (client_ids.from_wire(ids[1]),), (client_ids.from_wire(ids[0]),)


def _choose(
    context: Context, message: Message, local: Selectors, remote: Selectors
) -> tuple[LoadedChild, int, Phase2Choice, Seen]:
    """The first of our flows that holds both client identities, and whose child takes a proposal. Transport
    mode behind a NAT has them as we see them."""
    loaded = children.connection_children(context, context.connection)
    offered = message.one(SaPayload)
    group = _group_of(offered) if message.maybe(KePayload) is not None else 0
    error: IkeError | None = None
    for child, index in _flows(loaded):
        ours, theirs = flow_selectors(context, child, index)
        transport = child.child.mode == Mode.TRANSPORT
        seen = as_seen(local, remote, context.state) if transport else Seen(local, remote)
        choice = choose(seen.local, seen.remote, ((ours, theirs),))
        if choice is None or (choice.local, choice.remote) != (seen.local, seen.remote):
            continue
        try:
            modes = _encapsulations(child.child)
            usable = children.through_nat(child.child.proposals, context.state)
            if child.child.around:
                around = children.through_nat(child.child.around, context.state)
                chosen = bundles.select(offered, usable, around, modes, group)
            else:
                chosen = proposals.select_phase2(offered, usable, modes, group)
            children.check_spi(chosen.selected)
        except IkeError as incompatible:
            incompatible.child = child.child.name
            error = error or incompatible
            continue
        return child, index, chosen, seen
    raise error or _no_flow(context, loaded, local, remote)


def _no_flow(context: Context, loaded: Loaded, local: Selectors, remote: Selectors) -> IkeError:
    ours = "; ".join(
        format_selectors(*flow_selectors(context, child, index)) for child, index in _flows(loaded)[:8]
    )
    return PeerIncompatible(
        Reason.SELECTOR_MISMATCH,
        "the peer's client identities lie in none of our traffic selectors",
        difference=Difference(ours, format_selectors(local, remote), "selectors"),
    )


def _flows(loaded: Loaded) -> list[tuple[LoadedChild, int]]:
    return [(child, index) for child in loaded.children for index in range(len(child.flows))]


def _group_of(offered: SaPayload) -> int:
    """The group of the KE payload: with PFS every transform names the same one (RFC 2409, section 5.5)."""
    for transform in offered.proposals[0].transforms:
        for attribute in transform.attributes:
            if attribute.type == Phase2Attribute.GROUP:
                return attribute.number or 0
    return 0


# -- both ---------------------------------------------------------------------------------------


def _peer(context: Context) -> AuthenticatedPeer:
    peer = context.state.peer
    if peer is None:
        raise PeerMisbehaved(Reason.AUTHENTICATION_FAILED, "quick mode before phase 1")
    return peer


def _configured(context: Context, name: str, index: int) -> LoadedChild:
    loaded = children.connection_children(context, context.connection).child(name)
    if loaded is None or index >= len(loaded.child.flows):
        raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"child {name} is not configured any more")
    return loaded


def _clients(context: Context, loaded: LoadedChild, index: int) -> tuple[Selectors, Selectors]:
    """What quick mode can say of a flow: its first pair of selectors. Loading has refused flows of more."""
    local, remote = flow_selectors(context, loaded, index)
    return local[:1], remote[:1]


def _offer(
    context: Context,
    loaded: LoadedChild,
    spi: int,
    outer: tuple[int, int] | None,
    ours: KeyExchange | None,
) -> SaPayload:
    """`outer`: SPI and pair of a bundle's AH."""
    state = context.state
    transport = loaded.child.mode == Mode.TRANSPORT
    mode = Encapsulation.TRANSPORT if transport else Encapsulation.TUNNEL
    if state.encapsulated and transport:
        draft = is_draft(isakmp_of(state).nat_t)
        mode = Encapsulation.UDP_TRANSPORT_DRAFT if draft else Encapsulation.UDP_TRANSPORT
    elif state.encapsulated:
        draft = is_draft(isakmp_of(state).nat_t)
        mode = Encapsulation.UDP_TUNNEL_DRAFT if draft else Encapsulation.UDP_TUNNEL
    group, life = ours.group if ours is not None else 0, _life(loaded.child)
    if outer is not None:
        around = children.through_nat(loaded.child.around, state)
        spis = spi.to_bytes(4, "big"), outer[0].to_bytes(4, "big")
        return bundles.offer(loaded.child.proposals, around, spis, mode, life, group)
    usable = children.through_nat(loaded.child.proposals, state)
    return proposals.offer_phase2(usable, spi.to_bytes(4, "big"), mode, life, group)


def _encapsulations(child: Child) -> Sequence[int]:
    """What we accept: never a tunnel in place of transport mode, or the other way round."""
    return TUNNELS if child.mode == Mode.TUNNEL else TRANSPORTS


def _agreed(
    context: Context, choice: Phase2Choice, local: Selectors, remote: Selectors, told: nat.Originals
) -> Agreed:
    """What comes of it. In transport mode behind a NAT the peer's checksums were made with the addresses that
    it has told."""
    agreed = Agreed(choice.selected, local, remote, Mode.TRANSPORT if choice.transport else Mode.TUNNEL)
    return nat.with_originals(agreed, told, context.state) if choice.transport else agreed


def _key_exchange(context: Context, loaded: LoadedChild, old: ChildSa | None) -> KeyExchange | None:
    """The key exchange of PFS, None without it. A rekey has what the peer agreed to for `old`."""
    state = context.state
    replaced = old.suite.key_exchange if old is not None else None
    group = pfs_group(loaded.child.proposals, state.suite.key_exchange if state.suite else 0, replaced)
    return generate(group, context.entropy) if group else None


def _public(ours: KeyExchange | None) -> tuple[KePayload, ...]:
    return (KePayload(ours.public),) if ours is not None else ()


def _shared(ours: KeyExchange | None, theirs: KePayload | None) -> bytes | None:
    """g(qm)^xy, None without PFS."""
    if (ours is None) != (theirs is None):
        raise wrong("a KE payload and no group, or a group and no KE payload")
    if ours is None or theirs is None:
        return None
    try:
        return ours.shared(theirs.data)
    except InvalidPublicValue as error:
        raise wrong(str(error)) from None


def _keys(
    context: Context,
    selected: Selected,
    spi_in: int,
    ni: bytes,
    nr: bytes,
    shared: bytes | None,
    *,
    initiator: bool,
) -> ChildKeys:
    """KEYMAT of either direction: each SA's of its own protocol and SPI, which its receiver chose."""
    isakmp = isakmp_of(context.state)
    ciphers = children.key_lengths(selected)
    cut = ciphers.encryption_key_length
    length = cut + ciphers.integrity_key_length
    ours, theirs = (
        quick_keymat(suite_of(isakmp), isakmp.keys.skeyid_d, selected.protocol, spi, ni, nr, shared, length)
        for spi in (spi_in.to_bytes(4, "big"), selected.spi)
    )
    towards_initiator, towards_responder = (ours, theirs) if initiator else (theirs, ours)
    return ChildKeys(
        towards_responder[:cut], towards_responder[cut:], towards_initiator[:cut], towards_initiator[cut:]
    )


def _half(
    context: Context,
    choice: Phase2Choice,
    outer: tuple[int, int] | None,
    ni: bytes,
    nr: bytes,
    shared: bytes | None,
    *,
    initiator: bool,
) -> Half | None:
    """The AH of a bundle; `outer`: our SPI and the pair of it."""
    if choice.around is None or outer is None:
        return None
    selected = choice.around.selected
    keys = _keys(context, selected, outer[0], ni, nr, shared, initiator=initiator)
    ours, theirs = keys.integrity_initiator, keys.integrity_responder
    if not initiator:
        ours, theirs = theirs, ours
    return children.make_half(selected, *outer, (theirs, ours))


def _install(name: str, which: Sequence[SaParameters]) -> Steps[None]:
    for parameters in which:
        error = children.installation_error((yield from install(parameters)), name)
        if error is not None:
            raise error


def _life(child: Child) -> Lifetime:
    return Lifetime(int(child.life_time), child.life_bytes // lifetimes.KILOBYTE)


def _lasting(loaded: LoadedChild, life: Lifetime) -> LoadedChild:
    """The child with the lifetimes that both ends keep: its rekey comes early enough before each."""
    child = loaded.child
    if life == _life(child):
        return loaded
    changed = child
    if life.seconds and life.seconds != int(child.life_time):
        soft = lifetimes.soft(child.rekey_time, child.life_time, life.seconds)
        changed = replace(
            changed, life_time=float(life.seconds), rekey_time=soft, rand_time=min(child.rand_time, soft / 10)
        )
    octets = life.kilobytes * lifetimes.KILOBYTE
    if octets and octets != child.life_bytes:
        soft = lifetimes.soft(child.rekey_bytes, child.life_bytes, octets)
        changed = replace(
            changed,
            life_bytes=octets,
            rekey_bytes=int(soft),
            rand_bytes=min(child.rand_bytes, int(soft / 10)),
        )
    return replace(loaded, child=changed)


def _same(context: Context, name: str, index: int, local: Selectors, remote: Selectors) -> ChildSa | None:
    """The pair that a new one of this flow and these identities takes the place of."""
    for child in reversed(context.state.children):
        if (
            (child.name, child.flow_index) == (name, index)
            and (child.local_selectors, child.remote_selectors) == (local, remote)
            and child.phase is ChildPhase.INSTALLED
        ):
            return child
    return None


def _placed(
    context: Context, made: ChildSa, since: float, *, ours: bool
) -> tuple[tuple[Change, ...], int | None]:
    """The changes that give a new pair its place, and the pair that lost against another, if any.

    What came up while our exchange ran was begun by the peer at once with it: of the two the one with the
    lowest nonce is closed, by whoever began it.
    """
    others = [
        other
        for other in context.state.children
        if (other.name, other.flow_index) == (made.name, made.flow_index)
        and (other.local_selectors, other.remote_selectors) == (made.local_selectors, made.remote_selectors)
        and other.phase is ChildPhase.INSTALLED
    ]
    rival = next((o for o in others if o.installed >= since and o.initiator != ours and o.nonce), None)
    if rival is not None and collisions.loses(made.nonce, rival.nonce):
        lost = replace(made, announced=False, redundant=True, phase=ChildPhase.REKEYED)
        return (AddChild(lost),), made.pair
    changes: list[Change] = []
    for other in others:
        redundant = other is rival
        changes.append(ChangeChild(replace(other, phase=ChildPhase.REKEYED, redundant=redundant)))
    if rival is not None:
        made = replace(made, replaces=rival.pair)
    return (*changes, AddChild(made)), rival.pair if rival is not None else None


def surplus(state: SaState) -> list[ChildSa]:
    """Of pairs that carry the same all but one: both ends made one, each under a phase 1 of its own. Those
    with the lower nonces go."""
    best: dict[object, ChildSa] = {}
    losers: list[ChildSa] = []
    for child in state.children:
        if child.phase is not ChildPhase.INSTALLED:
            continue
        key = (child.name, child.flow_index, child.local_selectors, child.remote_selectors)
        known = best.setdefault(key, child)
        if known is not child:
            winner, loser = (child, known) if collisions.loses(known.nonce, child.nonce) else (known, child)
            best[key] = winner
            losers.append(loser)
    return losers
