"""The responder's rounds of authentication, which go beside the initiator's (RFC 4739, section 2.1).

    Initiator                                          Responder
    -----------------------------------------------------------------------------------
    HDR, SK {IDi, [CERT,] AUTH, ...,
        N(MULTIPLE_AUTH_SUPPORTED)}  -->
                                                  <--  HDR, SK {IDr, [CERT,] AUTH,
                                                           N(ANOTHER_AUTH_FOLLOWS)}
    HDR, SK {whatever is next}  -->
                                                  <--  HDR, SK {IDr, [CERT,] AUTH, whatever is next}

Each further round comes with the very next answer, whatever else that carries; who has nothing more to say
asks with an empty request. EAP proves a responder in no round but the only one (RFC 5998).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.auth.proof import check_identity, join_rounds
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth
from cygnet.ike.errors import LocalMisuse, Reason
from cygnet.ike.revocation import check_chain, check_revocation
from cygnet.ike.steps import Context, Steps, send
from cygnet.ike.v2.ike_sa_init import Initial
from cygnet.ike.v2.lookup import looked_up
from cygnet.ike.v2.notifications import of_authentication
from cygnet.ike.v2.proving import (
    identity_of,
    local_of,
    octets_of,
    own_identity,
    prove,
    remote_of,
    unauthenticated,
    verify,
    whole,
)
from cygnet.ike.v2.stapling import prepare, stapled
from cygnet.records import replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import (
    AuthPayload,
    CertReqPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
)

ANOTHER: Final = NotifyPayload(0, b"", Notify.ANOTHER_AUTH_FOLLOWS, b"")
MAX_BESIDE_EAP: Final = 2
"""Rounds of ours that surely have been sent before the AUTH that EAP ends with, so that no answer has two."""


# -- initiator ----------------------------------------------------------------------------------


class TheirRounds:
    """What the responder has to prove, and has proved. `idr`: whom it last said that it is."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.wanted: tuple[RemoteAuth, ...] = context.connection.remote or (remote_of(context.connection),)
        self.alone = self.wanted[0].method is AuthClass.EAP
        if len(self.wanted) > 1 and any(one.method is AuthClass.EAP for one in self.wanted):
            raise LocalMisuse(
                Reason.AUTH_METHOD_MISMATCH,
                "a gateway can prove itself by EAP in its only round: this connection cannot be begun",
            )
        self.passed: list[AuthenticatedPeer] = []
        self.idr: IdrPayload | None = None
        self.due = not self.alone
        """Whether its next answer begins a round."""

    @property
    def proved(self) -> bool:
        """Whether it has passed one round at least: before that, it is told nothing that helps to guess."""
        return bool(self.passed)

    def judge(self, initial: Initial, local_id: Identity, message: Message) -> Steps[None]:
        """An answer that may carry a round of theirs."""
        if not self.due:
            return
        message = yield from looked_up(self.context, message)
        auth, idr = message.maybe(AuthPayload), message.maybe(IdrPayload)
        if auth is None or idr is None:
            raise unauthenticated("an answer without IDr and AUTH, where a round of authentication follows")
        remote = self.wanted[len(self.passed)]
        octets = octets_of(initial, initial.received, initial.nonce_i, initial.keys.sk_pr, idr)
        peer = verify(self.context, local_id, remote, idr, auth, message, octets, initial)
        yield from check_revocation(self.context, remote, peer, stapled(message))
        self.passed.append(peer)
        self.idr = idr
        self.due = message.notify(Notify.ANOTHER_AUTH_FOLLOWS) is not None
        if self.due != (len(self.passed) < len(self.wanted)):
            raise of_authentication(
                AuthenticationError(
                    Kind.AUTH_METHOD_MISMATCH,
                    "the peer begins a round too many"
                    if self.due
                    else "the peer leaves out a round of authentication",
                )
            )

    def name(self, message: Message) -> None:
        """Who it says that it is, where EAP alone is to prove it. Its certificate in the tunnel is held
        against this name, so it must be the one that we want before it hears anything (V9)."""
        idr = message.maybe(IdrPayload)
        if self.idr is not None or idr is None:
            return
        try:
            check_identity(identity_of(idr), self.wanted[0].id)
        except AuthenticationError as error:
            raise of_authentication(error) from None
        self.idr = idr

    def trust(self, chain: tuple[bytes, ...]) -> Steps[None]:
        """Whether the certificate that ends an EAP tunnel was revoked, before a password goes in. It is the
        gateway's own where EAP alone proves it; else an AAA server's, under any of our CAs."""
        remote = self.wanted[0]
        if self.proved:
            remote = replace(remote, ca_certificates=(), certificates=())
        yield from check_chain(self.context, remote, chain)

    def lacks(self, message: Message) -> bool:
        """Whether a round was due in this answer and is not there."""
        return self.due and (message.maybe(AuthPayload) is None or message.maybe(IdrPayload) is None)

    def confirm(self, peer: AuthenticatedPeer) -> Steps[None]:
        """EAP alone has proved it."""
        if self.alone and not self.passed:
            yield from check_revocation(self.context, self.wanted[0], peer)
            self.passed.append(peer)

    def rest(self, initial: Initial, local_id: Identity, last: Message) -> Steps[Message]:
        """What is left of its rounds when we have no more of our own. Returns its last answer."""
        while self.due:
            last = (yield from send(Exchange.IKE_AUTH, (), whole)).value
            yield from self.judge(initial, local_id, last)
        return last

    @property
    def peer(self) -> AuthenticatedPeer:
        """Whoever has passed them all."""
        if len(self.passed) != len(self.wanted):
            raise unauthenticated("the peer has not proved who it is")
        return join_rounds(self.passed)


# -- responder ----------------------------------------------------------------------------------


def can_answer(connection: Connection, first: Message) -> bool:
    """Whether we can prove ourselves to this peer in the rounds of this connection."""
    rounds = connection.local
    if len(rounds) < 2:
        return True
    with_eap = any(one.method is AuthClass.EAP for one in connection.remote)
    return (
        first.notify(Notify.MULTIPLE_AUTH_SUPPORTED) is not None
        and all(one.method is not AuthClass.EAP for one in rounds)
        and not (with_eap and len(rounds) > MAX_BESIDE_EAP)
    )


class OwnRounds:
    """How we prove ourselves to the initiator. `idr`: whom we last said that we are."""

    def __init__(
        self,
        context: Context,
        connection: Connection,
        local_id: Identity,
        claimed: Identity,
        requests: Sequence[CertReqPayload],
    ) -> None:
        self.context = context
        self.connection = connection
        self.rounds: tuple[LocalAuth, ...] = connection.local or (local_of(connection),)
        self.claimed = claimed
        self.requests = requests
        self.done = 0
        self.idr = IdrPayload(local_id.type, local_id.data)

    def prepare(self) -> Steps[bool]:
        """Have at hand what the peer wants to go along with our certificates; whether it wants any."""
        return prepare(self.context, self.connection, self.rounds, self.requests)

    @property
    def pending(self) -> bool:
        """Whether our next answer begins another round."""
        return self.done < len(self.rounds)

    def next(self, initial: Initial) -> tuple[Payload, ...]:
        """What goes with the next answer: IDr, our certificates and AUTH of one round; nothing is left at
        the end. Where EAP alone proves us, IDr."""
        if not self.pending:
            return ()
        local = self.rounds[self.done]
        if self.done:
            local_id = own_identity(self.context, local)
            self.idr = IdrPayload(local_id.type, local_id.data)
        else:
            local_id = Identity.from_wire(self.idr.id_type, self.idr.data)
        self.done += 1
        if local.method is AuthClass.EAP:
            return (self.idr,)
        octets = octets_of(initial, initial.sent, initial.nonce_i, initial.keys.sk_pr, self.idr)
        proof, certificates = prove(
            self.context, local, local_id, self.claimed, octets, initial, self.requests
        )
        follows = (ANOTHER,) if self.pending else ()
        return (self.idr, *certificates, AuthPayload(proof.method, proof.data), *follows)
