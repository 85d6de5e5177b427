"""Main mode: phase 1 that protects identities, six messages (RFC 2409, sections 5.1 and 5.4).

    Initiator                          Responder
    -----------                        -----------
    HDR, SA                     -->
                                <--    HDR, SA
    HDR, KE, Ni, [NAT-D, NAT-D] -->
                                <--    HDR, KE, Nr, [CERTREQ, NAT-D, NAT-D]
    HDR*, IDii, HASH_I          -->    with signatures:  HDR*, IDii, [CERT,] SIG_I
                                <--    HDR*, IDir, HASH_R              HDR*, IDir, [CERT,] SIG_R

Nothing before the fifth message is proved by anything, so `expect` judges all that can be judged. With a
pre-shared key the fifth can be read only by who has that key: it is found by address, not by identity.
"""

from __future__ import annotations

from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.ike.changes import MeetPeer
from cygnet.ike.steps import Context, Steps, apply
from cygnet.ike.v1 import lifetimes, nat, phase1, proposals
from cygnet.ike.v1.methods import remote_auth
from cygnet.ike.v1.notifications import wrong
from cygnet.ike.v1.phase1 import Agreed, Material, Proved
from cygnet.ike.v1.steps import Received, answer, begin_exchange, receive, send
from cygnet.records import dataclass
from cygnet.wire.v1.numbers import Exchange
from cygnet.wire.v1.payloads import CertReqPayload, IdPayload, KePayload, NoncePayload, Payload, SaPayload

# -- initiator ----------------------------------------------------------------------------------


def initiate(context: Context) -> Steps[Proved]:
    """1 ->  <- 2   3 ->  <- 4   5 ->  <- 6"""
    connection = context.connection
    methods, life = phase1.methods(context, connection), lifetimes.of_phase_1(connection)
    offer = proposals.offer_phase1(connection.proposals, methods, life)
    # 1, 2: algorithms, and what either end can do besides
    judge = _Initiator(context, offer)
    second = yield from begin_exchange(
        Exchange.MAIN_MODE, (offer, *phase1.announcements(connection)), judge.second
    )
    agreed = second.value
    yield from apply(MeetPeer(agreed.cky_r))
    secret = b"" if agreed.signs else phase1.secret_for(context, connection)
    # 3, 4: key exchange and nonces
    ours = generate(agreed.choice.group, context.entropy)
    ni = phase1.nonce(context)
    fourth = yield from send(
        (KePayload(ours.public), NoncePayload(ni), *_nat_d(context, agreed)),
        _Exchange(ours, ni).other_half,
    )
    public, shared, nr = fourth.value
    material = phase1.derive(agreed, secret, ni, nr, ours.public, public, shared)
    message, path = fourth.received.message, fourth.received.path
    yield from apply(phase1.use_keys(context, material, message, path, ni, nr, float_now=True))
    # 5, 6: who we are and the proof, encrypted
    identity = phase1.own_identity(context, connection)
    idii = phase1.id_payload(identity)
    asked = message.all(CertReqPayload)
    proof = phase1.prove(context, connection, material, material.hash_i(idii.emit()), asked)
    sixth = yield from send(
        (
            idii,
            *proof,
            *phase1.certificate_requests(context, connection),
            *phase1.initial_contact(context, connection, identity, remote_auth(connection).id),
        ),
        _Proof(context, material).responder,
    )
    yield from phase1.check(context, sixth.value)
    yield from apply(*phase1.told_life(context, sixth.received.message))
    return sixth.value


@dataclass(frozen=True, slots=True)
class _Initiator:
    context: Context
    offer: SaPayload

    def second(self, received: Received) -> Agreed:
        """HDR, SA: one of our transforms, and the responder's cookie."""
        message = received.message
        header = message.header
        if header.responder_spi == bytes(8):
            raise wrong("an answer without the responder's cookie")
        choice = proposals.check_phase1_answer(self.offer, message.one(SaPayload))
        return Agreed(
            choice, self.offer.emit(), header.initiator_spi, header.responder_spi, nat.announced(message)
        )


@dataclass(frozen=True, slots=True)
class _Exchange:
    ours: KeyExchange
    nonce: bytes

    def other_half(self, received: Received) -> tuple[bytes, bytes, bytes]:
        """HDR, KE, N: (the peer's public value, g^xy, its nonce)."""
        public, shared = phase1.public_of(received.message, self.ours)
        return public, shared, phase1.nonce_of(received.message, self.nonce)


@dataclass(frozen=True, slots=True)
class _Proof:
    context: Context
    material: Material

    def responder(self, received: Received) -> Proved:
        """HDR*, IDir, HASH_R or SIG_R"""
        return phase1.verify_responder(self.context, self.material, received)

    def initiator(self, received: Received) -> Proved:
        """HDR*, IDii, HASH_I or SIG_I"""
        message = received.message
        idii = message.one(IdPayload)
        return phase1.verify_initiator(self.context, self.material, received, idii, message.body_of(idii))


# -- responder ----------------------------------------------------------------------------------


def respond(context: Context, agreed: Agreed) -> Steps[Proved]:
    """-> 1  2 <-   -> 3  4 <-   -> 5  6 <-"""
    connection = context.connection
    # 2: the transform that we took, as it came
    sa = proposals.answer_phase1(agreed.choice)
    yield from answer((sa, *phase1.answers(connection, agreed.vendor_ids, agreed.room(sa))))
    # 3: a key of ours is made once the peer has shown one that is worth it
    third = yield from receive(_Third(agreed).third)
    public_i, ni = third.value
    secret = b"" if agreed.signs else phase1.secret_for(context, connection)
    ours = generate(agreed.choice.group, context.entropy)
    nr = phase1.nonce(context)
    _, shared = phase1.public_of(third.received.message, ours)
    material = phase1.derive(agreed, secret, ni, nr, public_i, ours.public, shared)
    message, path = third.received.message, third.received.path
    # 4
    yield from answer(
        (
            KePayload(ours.public),
            NoncePayload(nr),
            *phase1.certificate_requests(context, connection),
            *_nat_d(context, agreed),
        ),
        phase1.use_keys(context, material, message, path, ni, nr, float_now=False),
    )
    # 5, 6
    fifth = yield from receive(_Proof(context, material).initiator)
    proved = fifth.value
    yield from phase1.check(context, proved)
    idir = phase1.id_payload(proved.local_id)
    asked = fifth.received.message.all(CertReqPayload)
    proof = phase1.prove(context, proved.connection, material, material.hash_r(idir.emit()), asked)
    remote_id = remote_auth(proved.connection).id
    contact = phase1.initial_contact(context, proved.connection, proved.local_id, remote_id)
    yield from answer(
        (idir, *proof, *contact, *phase1.shorter_life(context, proved.connection, agreed.choice))
    )
    return proved


@dataclass(frozen=True, slots=True)
class _Third:
    agreed: Agreed

    def third(self, received: Received) -> tuple[bytes, bytes]:
        """HDR, KE, Ni: (g^xi, Ni_b), a public value that is worth an answer."""
        public = received.message.one(KePayload).data
        phase1.check_public_value(self.agreed.choice.group, public)
        return public, phase1.nonce_of(received.message, b"")


def _nat_d(context: Context, agreed: Agreed) -> tuple[Payload, ...]:
    pretend = phase1.encapsulates(context)
    return nat.payloads(
        agreed.nat_t, agreed.suite, agreed.cky_i, agreed.cky_r, context.state.path, pretend=pretend
    )
