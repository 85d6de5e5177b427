"""Aggressive mode: phase 1 in three messages, identities in clear (RFC 2409, sections 5.1 and 5.4).

    Initiator                          Responder
    -----------                        -----------
    HDR, SA, KE, Ni, IDii       -->
                                <--    HDR, SA, KE, Nr, IDir, [NAT-D, NAT-D,] HASH_R
    HDR*, HASH_I, [NAT-D, NAT-D] -->   with signatures: [CERT,] SIG_R and [CERT,] SIG_I

The offer holds one group, as the first message holds its public value. What HASH_R covers is known to who
sees the message: a pre-shared key can be guessed at leisure from it, so as responder this is off until it
is asked for by name (T12); an identity that nobody knows gets one of the same shape. Status notifies are not
sent inside of it, only after it.
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.ike.changes import UseIsakmpKeys
from cygnet.ike.steps import Context, Steps, apply
from cygnet.ike.v1 import lifetimes, nat, phase1, proposals, vocabulary
from cygnet.ike.v1.notifications import wrong
from cygnet.ike.v1.phase1 import Agreed, Material, Proved
from cygnet.ike.v1.steps import Received, answer, begin_exchange, last, receive
from cygnet.records import dataclass
from cygnet.wire.v1.numbers import Exchange
from cygnet.wire.v1.payloads import (
    CertReqPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    Payload,
    SaPayload,
)

UNLIMITED: Final = 1 << 16
"""Octets: the answer has to be larger than the question in any case."""

# -- initiator ----------------------------------------------------------------------------------


def initiate(context: Context) -> Steps[Proved]:
    """1 ->  <- 2   3 ->"""
    connection = context.connection
    methods, life = phase1.methods(context, connection), lifetimes.of_phase_1(connection)
    group = vocabulary.groups(vocabulary.usable(connection.proposals))[0]
    offer = proposals.offer_phase1(connection.proposals, methods, life, group)
    ours = generate(group, context.entropy)
    ni = phase1.nonce(context)
    identity = phase1.own_identity(context, connection)
    idii = phase1.id_payload(identity)
    # 1, 2: everything at once, and the responder's proof
    judge = _Initiator(context, offer, ours, ni)
    second = yield from begin_exchange(
        Exchange.AGGRESSIVE,
        (
            offer,
            KePayload(ours.public),
            NoncePayload(ni),
            idii,
            *phase1.certificate_requests(context, connection),
            *phase1.announcements(connection),
        ),
        judge.second,
    )
    material, use, proved = second.value
    yield from apply(use)
    # 3: ours
    asked = second.received.message.all(CertReqPayload)
    proof = phase1.prove(context, connection, material, material.hash_i(idii.emit()), asked)
    yield from last((*proof, *_nat_d(context, material.agreed)))
    return proved


@dataclass(frozen=True, slots=True)
class _Initiator:
    context: Context
    offer: SaPayload
    ours: KeyExchange
    ni: bytes

    def second(self, received: Received) -> tuple[Material, UseIsakmpKeys, Proved]:
        """HDR, SA, KE, Nr, IDir, HASH_R or SIG_R: all of it is judged, the proof included."""
        message, context = received.message, self.context
        header = message.header
        if header.responder_spi == bytes(8):
            raise wrong("an answer without the responder's cookie")
        choice = proposals.check_phase1_answer(self.offer, message.one(SaPayload))
        agreed = Agreed(
            choice, self.offer.emit(), header.initiator_spi, header.responder_spi, nat.announced(message)
        )
        public, shared = phase1.public_of(message, self.ours)
        nr = phase1.nonce_of(message, self.ni)
        secret = b""
        if not agreed.signs:
            secret = phase1.secret_for(context, context.connection, phase1.claimed(message))
        material = phase1.derive(agreed, secret, self.ni, nr, self.ours.public, public, shared)
        proved = phase1.verify_responder(context, material, received)
        use = phase1.use_keys(context, material, message, received.path, self.ni, nr, float_now=True)
        return material, use, proved


# -- responder ----------------------------------------------------------------------------------


def respond(context: Context, agreed: Agreed, received: Received) -> Steps[Proved]:
    """-> 1  2 <-   -> 3"""
    connection, message = context.connection, received.message
    idii = message.one(IdPayload)
    secret = b""
    if not agreed.signs:
        secret = phase1.secret_for_anybody(context, connection, phase1.identity_of(idii))
    ni = phase1.nonce_of(message, b"")
    ours = generate(agreed.choice.group, context.entropy)
    public_i, shared = phase1.public_of(message, ours)
    nr = phase1.nonce(context)
    material = phase1.derive(agreed, secret, ni, nr, public_i, ours.public, shared)
    local_id = phase1.own_identity(context, connection)
    idir = phase1.id_payload(local_id)
    # 2: everything, and our proof
    proof = phase1.prove(
        context, connection, material, material.hash_r(idir.emit()), message.all(CertReqPayload)
    )
    use = phase1.use_keys(context, material, message, received.path, ni, nr, float_now=False)
    yield from answer(
        (
            proposals.answer_phase1(agreed.choice),
            KePayload(ours.public),
            NoncePayload(nr),
            idir,
            *phase1.certificate_requests(context, connection),
            *_nat_d(context, agreed),
            *phase1.answers(connection, agreed.vendor_ids, UNLIMITED),
            *proof,
        ),
        use,
    )
    # 3: the initiator's; it is where its NAT-D come, if there are any
    third = yield from receive(_Responder(context, material, idii, message.body_of(idii)).third)
    last_message, path = third.received.message, third.received.path
    yield from apply(phase1.use_keys(context, material, last_message, path, ni, nr, float_now=False))
    return third.value


@dataclass(frozen=True, slots=True)
class _Responder:
    context: Context
    material: Material
    idii: IdPayload
    idii_b: bytes

    def third(self, received: Received) -> Proved:
        """HDR*, HASH_I or SIG_I, for the identity of the first message."""
        return phase1.verify_initiator(self.context, self.material, received, self.idii, self.idii_b)


def _nat_d(context: Context, agreed: Agreed) -> tuple[Payload, ...]:
    pretend = phase1.encapsulates(context)
    return nat.payloads(
        agreed.nat_t, agreed.suite, agreed.cky_i, agreed.cky_r, context.state.path, pretend=pretend
    )
