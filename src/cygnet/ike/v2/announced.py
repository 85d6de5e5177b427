"""Which proofs we take, said before the peer has to choose one (SUPPORTED_AUTH_METHODS, RFC 9593).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SAi1, KEi, Ni  -->
                                 <--  HDR, SAr1, KEr, Nr, [N(SUPPORTED_AUTH_METHODS)]
    HDR, SK {IDi, AUTH, ...,
        [N(SUPPORTED_AUTH_METHODS)]}  -->
                                 <--  HDR, SK {IDr, AUTH, ...}

Where there is no room for the list in IKE_SA_INIT, an empty one says that it comes with the last answer in
IKE_INTERMEDIATE, which is not begun for it alone. It is said where it says something: what a connection
without limits to its signatures takes is in SIGNATURE_HASH_ALGORITHMS already. What the peer says is a hint,
and is followed where there is a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cygnet.crypto.signatures import scheme_named
from cygnet.ike.configuration import AuthClass, Connection
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.message import Message
from cygnet.wire.numbers import AuthMethod, Notify
from cygnet.wire.payloads import NotifyPayload

MAX_ANNOUNCED: Final = 64
"""Announcements of a peer that are looked at."""
COMES_LATER: Final = NotifyPayload(0, b"", Notify.SUPPORTED_AUTH_METHODS, b"")
_SYMMETRIC: Final = {AuthClass.PSK: AuthMethod.PSK, AuthClass.NULL: AuthMethod.NULL}


def announcement(connections: Iterable[Connection]) -> tuple[NotifyPayload, ...]:
    """What to say of these connections; nothing where a list would have to be of everything."""
    blobs: dict[bytes, None] = {}
    for connection in connections:
        for remote in connection.remote:
            if remote.method in _SYMMETRIC:
                blobs[bytes((2, _SYMMETRIC[remote.method]))] = None
            elif remote.method is AuthClass.PUBKEY and not remote.schemes:
                return ()
            elif remote.method is AuthClass.PUBKEY:
                for name in remote.schemes:
                    identifier = scheme_named(name).algorithm_identifier
                    if identifier:
                        head = bytes((3 + len(identifier), AuthMethod.DIGITAL_SIGNATURE, 0))
                        blobs[head + identifier] = None
    if not blobs:
        return ()
    return (NotifyPayload(0, b"", Notify.SUPPORTED_AUTH_METHODS, b"".join(blobs)),)


def taken_by(message: Message) -> frozenset[bytes]:
    """The AlgorithmIdentifiers of the signatures that the peer says it takes; empty: it does not say.
    Announcements that are cut off, or of another form, are passed over (RFC 9593, section 3.2)."""
    found: set[bytes] = set()
    for payload in message.all(NotifyPayload):
        if payload.type == Notify.SUPPORTED_AUTH_METHODS:
            found.update(_identifiers(payload.data))
    return frozenset(found)


def _identifiers(data: bytes) -> Iterator[bytes]:
    cursor = Cursor(data)
    for _ in range(MAX_ANNOUNCED):
        try:
            blob = Cursor(cursor.take(max(cursor.u8(), 1) - 1))
            if blob.u8() != AuthMethod.DIGITAL_SIGNATURE:
                continue
            # The link to a CA of the CERTREQ is not followed: our chain was chosen by that already.
            blob.u8()
            identifier = blob.rest()
        except Malformed:
            return
        if identifier:
            yield identifier
