"""EAP inside IKE_AUTH (RFC 7296, section 2.16): the packets' way, and which methods a connection means.

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {IDi, ..., no AUTH}  -->
                                 <--  HDR, SK {IDr, [CERT,] AUTH, EAP}
    HDR, SK {EAP}  -->
                                 <--  HDR, SK {EAP (success)}

What a method is stands in `auth.eap`, which knows nothing of IKE; the AUTH payloads that follow, in `rounds`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cygnet.auth.eap import methods
from cygnet.auth.eap.method import Shown
from cygnet.auth.eap.packet import MUTUAL, name_of
from cygnet.auth.eap.session import Client, Conversation, Finished, failure_to, is_failure, respond
from cygnet.auth.errors import AuthenticationError
from cygnet.auth.identity import Identity
from cygnet.ike.configuration import AuthClass, LocalAuth, RemoteAuth
from cygnet.ike.effects import TimedOut
from cygnet.ike.errors import IkeError
from cygnet.ike.steps import Context, Steps, answer, ask, next_request, send
from cygnet.ike.v2.notifications import error_of, of_authentication
from cygnet.ike.v2.proving import unauthenticated, whole
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange
from cygnet.wire.payloads import EapPayload, NotifyPayload, Payload

PATIENCE: Final = 25.0
"""Seconds for a question; RADIUS servers are given up earlier than that."""


# -- server -------------------------------------------------------------------------------------


def serve(conversation: Conversation, beside: Callable[[], tuple[Payload, ...]]) -> Steps[Finished]:
    """Authenticate the initiator; `beside`: what goes with our next answer. Its AUTH is still to come."""
    value: object = None
    received = b""
    while True:
        try:
            step = conversation.send(value)
        except StopIteration as end:
            finished: Finished = end.value
            yield from answer((*beside(), EapPayload(finished.packet)))
            return finished
        except AuthenticationError as error:
            raise _failed(error, received) from None
        if not isinstance(step, bytes):
            value = yield from ask(step, PATIENCE)
            if isinstance(value, TimedOut):
                value = None
            continue
        yield from answer((*beside(), EapPayload(step)))
        exchanged = yield from next_request(Exchange.IKE_AUTH, whole)
        response = exchanged.value.maybe(EapPayload)
        if response is None:
            raise unauthenticated("a request without EAP in the middle of it")
        value = received = response.data


def _failed(error: AuthenticationError, received: bytes) -> IkeError:
    """The peer hears EAP's Failure beside AUTHENTICATION_FAILED."""
    failed = of_authentication(error)
    if received:
        failed.companions = (EapPayload(failure_to(received)),)
    return failed


# -- client -------------------------------------------------------------------------------------


def client(
    context: Context, local: LocalAuth, local_id: Identity, server: Identity | None, remote: RemoteAuth | None
) -> Client:
    """Our side of the conversation. `server`: whose certificate ends the tunnel, where there is one; None:
    any under our CAs. `remote`: what the gateway has to prove by this method alone, so that only methods are
    taken in which it proves itself first, under its CAs. Raises `IkeError` where we have nothing to prove
    ourselves with."""
    name = methods.name_text(local.eap_id or local_id)
    kinds = local.eap_methods or methods.ANY_CLIENT
    if remote is not None:
        kinds = tuple(kind for kind in kinds if kind in MUTUAL)
    try:
        makers = methods.client_makers(
            kinds,
            name,
            context.credentials,
            methods.Tls(
                local.certificates,
                local.eap_id or local_id,
                server,
                wall=context.now.wall,
                ca_certificates=remote.ca_certificates if remote is not None else (),
                pinned=remote.certificates if remote is not None else (),
            ),
            local.eap_inside,
        )
    except AuthenticationError as error:
        raise of_authentication(error) from None
    running = respond(name, makers, context.entropy)
    next(running)
    return running


def converse(
    running: Client,
    first: EapPayload,
    beside: Callable[[Message], Steps[None]],
    trust: Callable[[tuple[bytes, ...]], Steps[None]],
) -> Steps[Finished]:
    """Answer the responder until it says success and our method agrees; `beside` judges what else comes,
    `trust` the certificates of a tunnel before anything is said inside."""
    packet = first.data
    while True:
        try:
            response = running.send(packet)
            while isinstance(response, Shown):
                yield from trust(response.chain)
                response = running.send(b"")
        except StopIteration as end:
            finished: Finished = end.value
            return finished
        except AuthenticationError as error:
            failed = of_authentication(error)
            if is_failure(packet):
                failed.notify = 0  # the gateway has forgotten us: there is nobody to tell
            raise failed from None
        exchanged = yield from send(
            Exchange.IKE_AUTH, (EapPayload(response.data if response else b""),), whole
        )
        request = exchanged.value.maybe(EapPayload)
        if request is None:
            raise refused(exchanged.value.error(), "an answer without EAP in the middle of it")
        yield from beside(exchanged.value)
        packet = request.data


def refused(error: NotifyPayload | None, otherwise: str) -> IkeError:
    """What the peer said, or what it left out."""
    return unauthenticated(otherwise) if error is None else error_of(error)


def shown(local: LocalAuth) -> str:
    """How we prove ourselves, for a sentence."""
    if local.method is AuthClass.EAP:
        return " or ".join(name_of(kind) for kind in local.eap_methods) or "EAP"
    if local.method is AuthClass.NULL:
        return "nothing"
    return "a pre-shared key" if local.method is AuthClass.PSK else "a certificate"


def same_way(one: RemoteAuth, other: RemoteAuth) -> bool:
    """Whether a conversation for one of them serves the other as well."""
    mine = (one.method, one.radius, one.eap_methods, one.ca_certificates, one.certificates)
    return mine == (other.method, other.radius, other.eap_methods, other.ca_certificates, other.certificates)
