"""AH around ESP with IKEv2: two Child SAs that are linked, or the one proposal of RFC 4306.

IKEv2 has no bundles any more: RFC 7296 left out what RFC 4306 said of proposals that share a number. So we
make one with two exchanges:

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {N(USE_TRANSPORT_MODE), SA(AH), Ni, [KEi,]
        TSi(its end, ESP), TSr(its end, ESP)}  -->
                                 <--  HDR, SK {N(USE_TRANSPORT_MODE), SA(AH), Nr, [KEr,] TSi, TSr}
    HDR, SK {[N(REKEY_SA),] SA(ESP), Ni, [KEi,] TSi, TSr}  -->
                                 <--  HDR, SK {SA(ESP), Nr, [KEr,] TSi, TSr}

The first says by itself what it is for: its selector is ESP between the two ends (RFC 4301, section 4.4.1).
It becomes the AH of the next ESP that the same peer makes for a child with a bundle, and it is installed with
that, outermost first. From then on the two are one Child SA: who deletes one half deletes both, a rekey makes
both anew, and who wins a collision is decided by the ESP alone. What no ESP takes is forgotten after a while.

As responder we also take both under one number (RFC 4306, section 3.3; `v2.child`).
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.kdf import ChildKeys, child_keys
from cygnet.ike import children, proposals
from cygnet.ike.changes import AddHalf
from cygnet.ike.connections import Loaded, LoadedChild
from cygnet.ike.state import Half
from cygnet.ike.steps import Context, Received, Steps, answer, complain, obtain_child, send
from cygnet.ike.v2 import child as offers
from cygnet.ike.v2.fresh_keys import Refusal, answer_keys, public_value
from cygnet.ike.v2.ike_sa_init import NONCE_LENGTH
from cygnet.ike.v2.modes import Wishes
from cygnet.ike.v2.offering import Unacceptable, ask, check_child_nonce
from cygnet.policy.sa import SaProtocol
from cygnet.policy.selectors import IpAddress, TrafficSelector, of_address
from cygnet.records import replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify, Protocol
from cygnet.wire.payloads import DeletePayload, KePayload, NoncePayload, SaPayload, TsiPayload, TsrPayload

ESP_COMES_WITHIN: Final = 60.0
"""Seconds that the peer's AH waits for its ESP: two exchanges, each repeated for a while."""
_OUTER: Final = Wishes(transport=True, cpi=0)


def _end(address: IpAddress) -> TrafficSelector:
    return replace(of_address(address), protocol=int(SaProtocol.ESP))


# -- ours -----------------------------------------------------------------------------------------


def begin(context: Context, loaded: LoadedChild) -> Steps[Half | Refusal]:
    """Make the AH of a bundle, for the ESP that we make next. Raises `PeerIncompatible` behind a NAT."""
    configured = children.through_nat(loaded.child.around, context.state)
    spi, pair = yield from obtain_child()
    path = context.state.path

    def make(group: int) -> offers.Offer:
        sa = proposals.offer(configured, spi.to_bytes(4, "big"), first_group=group)
        return offers.Offer(loaded, 0, pair, spi, sa, (_end(path.local),), (_end(path.remote),), _OUTER)

    answered = yield from ask(context, configured, make, (), 0)
    if isinstance(answered, Refusal):
        return answered
    if isinstance(answered, Unacceptable):
        yield from complain(answered.error, loaded.child.name)
        yield from _delete(spi)
        raise answered.error
    keys = _keys(context, answered.agreed.selected, answered.ours, answered.theirs, answered.shared)
    return children.make_half(
        answered.agreed.selected, spi, pair, (keys.integrity_responder, keys.integrity_initiator)
    )


def withdraw(half: Half) -> Steps[None]:
    """Its ESP did not come about."""
    yield from _delete(half.around.spi_in)


def _delete(spi: int) -> Steps[None]:
    delete = DeletePayload(Protocol.AH, (spi.to_bytes(4, "big"),))
    yield from send(Exchange.INFORMATIONAL, (delete,), _anything)


def _anything(received: Received) -> Message:
    return received.message


# -- the peer's -------------------------------------------------------------------------------------


def is_outer(context: Context, loaded: Loaded, message: Message) -> bool:
    """Whether the request makes the AH of a bundle: for ESP between the two ends, and nothing else."""
    if not any(child.child.around for child in loaded.children):
        return False
    path = context.state.path
    return (
        message.notify(Notify.USE_TRANSPORT_MODE) is not None
        and all(proposal.protocol == Protocol.AH for proposal in message.one(SaPayload).proposals)
        and offers.from_wire(message.one(TsiPayload).ranges) == (_end(path.remote),)
        and offers.from_wire(message.one(TsrPayload).ranges) == (_end(path.local),)
    )


def respond(context: Context, loaded: Loaded, message: Message) -> Steps[None]:
    """-->  HDR, SK {..., SA(AH), Ni, [KEi,] TSi, TSr}  <--  HDR, SK {..., SA(AH), Nr, [KEr,] TSi, TSr}"""
    configured = children.through_nat(
        [proposal for child in loaded.children for proposal in child.child.around], context.state
    )
    public = message.maybe(KePayload)
    selected = proposals.select(
        message.one(SaPayload), configured, prefer_group=public.group if public is not None else 0
    )
    children.check_spi(selected)
    theirs, nonce = message.one(NoncePayload).data, context.entropy.octets(NONCE_LENGTH)
    check_child_nonce(context, theirs, b"")
    ours = answer_keys(context, public, selected)
    spi, pair = yield from obtain_child()
    keys = _keys(context, selected, theirs, nonce, ours.shared if ours is not None else None)
    half = children.make_half(selected, spi, pair, (keys.integrity_initiator, keys.integrity_responder))
    yield from answer(
        (
            *_OUTER.payloads,
            proposals.answer(selected, spi.to_bytes(4, "big")),
            NoncePayload(nonce),
            *public_value(ours),
            message.one(TsiPayload),
            message.one(TsrPayload),
        ),
        AddHalf(replace(half, expires_at=context.now.monotonic + ESP_COMES_WITHIN)),
    )


# -- keys -------------------------------------------------------------------------------------------


def _keys(
    context: Context, selected: proposals.Selected, ni: bytes, nr: bytes, shared: bytes | None
) -> ChildKeys:
    function, sk_d = offers.key_source(context)
    return child_keys(function, sk_d, ni, nr, shared, children.key_lengths(selected))
