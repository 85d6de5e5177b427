"""IKE_INTERMEDIATE: further key exchanges before anyone says who he is (RFC 9242; RFC 9370, section 2.2.2).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {KEi(n)}  -->
                                 <--  HDR, SK {KEr(n)}

One exchange for each method that IKE_SA_INIT agreed on, in order; the keys change behind each. The last one
also names the pre-shared key that goes into the keys behind it (`ppk`), in an exchange of its own where there
is no other. What was said is added to what AUTH covers (RFC 9242, section 3.3.2): so nobody in the middle can
have changed it.
"""

from __future__ import annotations

from cygnet.crypto.kdf import IkeKeys, further_ike_keys
from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import suite
from cygnet.ike.changes import ChangeKeys
from cygnet.ike.steps import Context, Received, Steps, answer, apply, next_request, send
from cygnet.ike.v2 import ppk
from cygnet.ike.v2.announced import taken_by
from cygnet.ike.v2.fresh_keys import Further
from cygnet.ike.v2.ike_sa_init import Initial, Spoken
from cygnet.ike.v2.notifications import error_of
from cygnet.records import dataclass, replace
from cygnet.wire.message import HEADER_LENGTH, Header, Message, encode_header, encode_payloads
from cygnet.wire.numbers import Exchange, Flags, PayloadType
from cygnet.wire.payloads import KePayload, Payload


def initiate(context: Context, initial: Initial) -> Steps[Initial]:
    """HDR, SK {KEi(n)}  -->  <--  HDR, SK {KEr(n)}   for each further key exchange."""
    methods = [method for _, method in initial.suite.additional]
    for number, method in enumerate(methods, 1):
        ours = generate(method, context.entropy)
        named = ppk.offered(context, initial) if number == len(methods) else ()
        request: tuple[Payload, ...] = (KePayload(method, ours.public), *named)
        exchanged = yield from send(Exchange.IKE_INTERMEDIATE, request, _Judge(Further(method), ours).secret)
        received = exchanged.received.message
        asked = _ours(received.header, Flags.INITIATOR)
        initial = _spoken(initial, asked, request, received.header, received.payloads)
        initial = _further(context, initial, exchanged.value)
        initial = replace(initial, taken=initial.taken | taken_by(received))
        if named:
            initial = ppk.accepted(context, initial, received)
        yield from apply(ChangeKeys(initial.keys))
    if initial.ppk_inside and not methods:
        request_alone = ppk.offered(context, initial)
        received = (yield from send(Exchange.IKE_INTERMEDIATE, request_alone, _unrefused)).value
        asked = _ours(received.header, Flags.INITIATOR)
        initial = _spoken(initial, asked, request_alone, received.header, received.payloads)
        initial = replace(initial, taken=initial.taken | taken_by(received))
        initial = ppk.accepted(context, initial, received)
        yield from apply(ChangeKeys(initial.keys))
    return initial


def respond(context: Context, initial: Initial) -> Steps[Initial]:
    """-->  HDR, SK {KEi(n)}  <--  HDR, SK {KEr(n)}   for each further key exchange."""
    methods = [method for _, method in initial.suite.additional]
    for number, method in enumerate(methods, 1):
        further = Further(method)
        exchanged = yield from next_request(Exchange.IKE_INTERMEDIATE, further.public)
        ours = further.respond(exchanged.value, context)
        received = exchanged.received.message
        last = number == len(methods)
        name, secret, named = ppk.chosen(context, initial, received) if last else (None, b"", ())
        announced = initial.announce if last else ()
        reply: tuple[Payload, ...] = (KePayload(method, ours.public), *named, *announced)
        said = _ours(received.header, Flags.RESPONSE)
        initial = _spoken(initial, received.header, received.payloads, said, reply)
        initial = _further(context, initial, ours.shared)
        initial = ppk.mixed_inside(context, initial, name, secret)
        yield from answer(reply, ChangeKeys(initial.keys))
    if initial.ppk_inside and not methods:
        received = (yield from next_request(Exchange.IKE_INTERMEDIATE, _whole)).value
        name, secret, answered = ppk.chosen(context, initial, received)
        said = _ours(received.header, Flags.RESPONSE)
        initial = _spoken(initial, received.header, received.payloads, said, answered)
        initial = ppk.mixed_inside(context, initial, name, secret)
        yield from answer(answered, ChangeKeys(initial.keys))
    return initial


def _whole(received: Received) -> Message:
    return received.message


def _unrefused(received: Received) -> Message:
    error = received.message.error()
    if error is not None:
        raise error_of(error)
    return received.message


@dataclass(frozen=True, slots=True)
class _Judge:
    further: Further
    ours: KeyExchange

    def secret(self, received: Received) -> bytes:
        _unrefused(received)
        return self.further.secret(self.ours, received)


def _further(context: Context, initial: Initial, shared: bytes) -> Initial:
    """SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr), and all keys anew (RFC 9370, section 2.2.2)."""
    chosen, state = initial.suite, context.state
    keys: IkeKeys = further_ike_keys(
        prf(chosen.prf),
        initial.keys,
        shared,
        initial.nonce_i,
        initial.nonce_r,
        state.spi_i,
        state.spi_r,
        suite(chosen.encryption, chosen.key_bits, chosen.integrity),
    )
    return replace(initial, keys=keys)


def _spoken(
    initial: Initial,
    asked: Header,
    request: tuple[Payload, ...],
    answered: Header,
    reply: tuple[Payload, ...],
) -> Initial:
    """IntAuth_i(n) and IntAuth_r(n), by the keys that protected the exchange (RFC 9242, section 3.3.2)."""
    function, before = prf(initial.suite.prf), initial.spoken
    spoken = Spoken(
        function.compute(initial.keys.sk_pi, before.initiator + authenticated(asked, request)),
        function.compute(initial.keys.sk_pr, before.responder + authenticated(answered, reply)),
        before.exchanges + 1,
    )
    return replace(initial, spoken=spoken)


def _ours(theirs: Header, flags: int) -> Header:
    """The header of our message in the exchange that theirs belongs to."""
    return Header(
        theirs.initiator_spi, theirs.responder_spi, 0, 2, 0, theirs.exchange, flags, theirs.message_id
    )


def authenticated(header: Header, payloads: tuple[Payload, ...]) -> bytes:
    """IntAuth_*A | IntAuth_*P: the message as if it had been neither encrypted nor cut into fragments, its
    lengths those of what is here. RESERVED is taken to be zero, as RFC 7296, section 3.2, has it sent."""
    first, inner = encode_payloads(payloads)
    sealed = bytes((first, 0)) + (4 + len(inner)).to_bytes(2, "big")
    return encode_header(header, PayloadType.SK, HEADER_LENGTH + len(sealed) + len(inner)) + sealed + inner
