"""OCSP inside IKE (RFC 4806): who shows a certificate brings along what its CA says of it now.

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SAi1, KEi, Ni  -->
                                 <--  HDR, SAr1, KEr, Nr, CERTREQ(OCSP)
    HDR, SK {IDi, CERT, CERT(OCSP response),
        CERTREQ(OCSP), AUTH, ...}  -->
                                 <--  HDR, SK {IDr, CERT, CERT(OCSP response), AUTH, ...}

So a gateway that cannot reach the responder, or should not have to, learns what it needs to know. What
comes so is judged as what is fetched, but for the nonce, which was the peer's: times bound its age.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.auth.ask import FetchAll
from cygnet.auth.certificate import Certificate
from cygnet.auth.credentials import OwnKey
from cygnet.auth.errors import AuthenticationError
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth
from cygnet.ike.revocation import PATIENCE
from cygnet.ike.steps import Context, Steps, ask
from cygnet.wire.message import Message
from cygnet.wire.numbers import CertEncoding
from cygnet.wire.payloads import CertPayload, CertReqPayload

MAX_STAPLED: Final = 4
"""OCSP answers of one message that are looked at; each may cost two signature checks."""
REQUEST: Final = CertReqPayload(CertEncoding.OCSP_CONTENT, b"")
"""No responders are named: the CA's own, or whom it delegated (RFC 4806, section 3.1)."""


def asks(connection: Connection, remote: RemoteAuth) -> bool:
    """Whether we want the peer to bring its status along."""
    return (
        connection.ocsp in ("request", "both")
        and remote.method is AuthClass.PUBKEY
        and not remote.public_keys
    )


def stapled(message: Message) -> tuple[bytes, ...]:
    """The OCSP answers in a message."""
    found = [c.data for c in message.all(CertPayload) if c.encoding == CertEncoding.OCSP_CONTENT]
    return tuple(found[:MAX_STAPLED])


def prepare(
    context: Context, connection: Connection, rounds: Sequence[LocalAuth], requests: Sequence[CertReqPayload]
) -> Steps[bool]:
    """Have answers about our own certificates at hand, if the peer asks for them and we are to bring them.
    Whether it is so."""
    wanted = any(request.encoding == CertEncoding.OCSP_CONTENT for request in requests)
    if not wanted or connection.ocsp not in ("reply", "both"):
        return False
    revocations = context.credentials.revocations
    for local in rounds:
        if local.method is not AuthClass.PUBKEY or local.public_keys:
            continue
        try:
            own = context.credentials.own_key(local.certificates, local.id)
            path = _path(context, own)
        except AuthenticationError:
            # Whoever proves us says what is wrong with our certificate; it has no status.
            continue
        asked = revocations.own_wanted(path, context.now.wall, context.entropy)
        if not asked:
            continue
        bodies = yield from ask(FetchAll(tuple([one.fetch for one in asked])), PATIENCE)
        if isinstance(bodies, tuple) and len(bodies) == len(asked):
            for one, body in zip(asked, bodies, strict=True):
                revocations.take_own(path, one, body, context.now.wall)
    return True


def beside(context: Context, own: OwnKey) -> dict[bytes, CertPayload]:
    """What goes behind each of our certificates (by DER)."""
    try:
        path = _path(context, own)
    except AuthenticationError:
        return {}
    answers = context.credentials.revocations.own_answers(path, context.now.wall)
    return {der: CertPayload(CertEncoding.OCSP_CONTENT, answer) for der, answer in answers.items()}


def _path(context: Context, own: OwnKey) -> tuple[Certificate, ...]:
    return context.credentials.path_of([one.der for one in own.chain], wall=context.now.wall)
