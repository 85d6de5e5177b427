"""Certificates by hash and URL (RFC 7296, section 3.6): messages stay short, whoever judges fetches.

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SAi1, KEi, Ni  -->
                                 <--  HDR, SAr1, KEr, Nr, [CERTREQ],
                                          N(HTTP_CERT_LOOKUP_SUPPORTED)
    HDR, SK {IDi, CERT(hash, URL), AUTH, ...}  -->

Off unless `options.hash_and_url` says otherwise: the sender is nobody yet when it is fetched. So only places
that the operator has named are gone to (`authorities.<name>.cert_uri_base`), whatever a peer writes, and of
what comes only that is taken whose hash the message has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from cygnet.auth import der
from cygnet.auth.ask import Fetch, FetchAll
from cygnet.auth.certificate import MAX_CERTIFICATE, Certificate
from cygnet.ike.revocation import PATIENCE
from cygnet.ike.steps import Context, Steps, ask
from cygnet.records import replace
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.message import Message
from cygnet.wire.numbers import CertEncoding, Notify
from cygnet.wire.payloads import CertPayload, NotifyPayload, Payload

MAX_LOOKUPS: Final = 4
"""URLs of one message that are fetched."""
MAX_IN_BUNDLE: Final = 8
_HASH: Final = 20
_BY_URL: Final = (CertEncoding.X509_HASH_AND_URL, CertEncoding.X509_HASH_AND_URL_BUNDLE)
SUPPORTED: Final = NotifyPayload(0, b"", Notify.HTTP_CERT_LOOKUP_SUPPORTED, b"")


def supported(context: Context) -> tuple[NotifyPayload, ...]:
    """Say that we fetch, where there is a place that we would fetch from."""
    enabled = context.options.hash_and_url and context.credentials.revocations.certificate_bases
    return (SUPPORTED,) if enabled else ()


def is_supported(context: Context, message: Message) -> bool:
    """Whether we may send URLs: the peer fetches, and we are to."""
    return context.options.hash_and_url and message.notify(SUPPORTED.type) is not None


def by_url(context: Context, certificate: Certificate) -> CertPayload | None:
    """The certificate as hash and URL, if its authority has a place for it."""
    base = context.credentials.certificate_base(certificate)
    if not base:
        return None
    digest = hashlib.sha1(certificate.der, usedforsecurity=False)
    return CertPayload(
        CertEncoding.X509_HASH_AND_URL, digest.digest() + (base + digest.hexdigest()).encode("ascii")
    )


def looked_up(context: Context, message: Message) -> Steps[Message]:
    """The message with certificates in place of what points to them. What cannot be had, or is not what its
    hash says, is left out: the proof then fails for want of it."""
    pointers = [p for p in message.payloads if type(p) is CertPayload and p.encoding in _BY_URL]
    if not pointers or not context.options.hash_and_url:
        return message
    bases = context.credentials.revocations.certificate_bases
    wanted = [p for p in pointers if _is_of(p, bases)][:MAX_LOOKUPS]
    kept = context.credentials.revocations.kept_certificates
    missing = [p for p in wanted if p.data[:_HASH] not in kept]
    if missing:
        fetches = tuple([Fetch(_url(p), _limit(p)) for p in missing])
        bodies = yield from ask(FetchAll(fetches), PATIENCE)
        if isinstance(bodies, tuple) and len(bodies) == len(missing):
            for pointer, body in zip(missing, bodies, strict=True):
                if body is not None and _digest(body) == pointer.data[:_HASH]:
                    kept.put(pointer.data[:_HASH], body)
    found: list[Payload] = []
    for payload in message.payloads:
        if type(payload) is not CertPayload or payload.encoding not in _BY_URL:
            found.append(payload)
        elif payload in wanted and (content := kept.get(payload.data[:_HASH])) is not None:
            found.extend(
                [CertPayload(CertEncoding.X509_SIGNATURE, one) for one in _content(payload, content)]
            )
    return replace(message, payloads=tuple(found))


def _url(pointer: CertPayload) -> str:
    return pointer.data[_HASH:].decode("ascii", "replace")


def _is_of(pointer: CertPayload, bases: Sequence[str]) -> bool:
    """Whether the URL is the one that the operator's place and the hash make: nothing in it is the peer's."""
    return len(pointer.data) > _HASH and any(
        _url(pointer) == base + pointer.data[:_HASH].hex() for base in bases
    )


def _limit(pointer: CertPayload) -> int:
    many = pointer.encoding == CertEncoding.X509_HASH_AND_URL_BUNDLE
    return MAX_CERTIFICATE * (MAX_IN_BUNDLE if many else 1)


def _digest(body: bytes) -> bytes:
    return hashlib.sha1(body, usedforsecurity=False).digest()


def _content(pointer: CertPayload, content: bytes) -> Sequence[bytes]:
    if pointer.encoding == CertEncoding.X509_HASH_AND_URL:
        return (content,)
    try:
        return _bundle(content)
    except Malformed:
        return ()


def _bundle(content: bytes) -> Sequence[bytes]:
    """CertificateBundle ::= SEQUENCE OF CHOICE { cert [0] Certificate, crl [1] CertificateList }; its lists
    are passed over: what was revoked is asked for elsewhere."""
    entries = der.element(Cursor(content), der.SEQUENCE)
    found: list[bytes] = []
    while entries.left and len(found) < MAX_IN_BUNDLE:
        tag, entry = der.any_element(entries)
        if tag == der.EXPLICIT_0:
            found.append(entry.rest())
    return found
