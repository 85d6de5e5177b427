"""Pre-shared keys in the key derivation, so that a recorded key exchange that is broken one day opens
nothing (RFC 8784).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SAi1, KEi, Ni, N(USE_PPK)  -->
                                 <--  HDR, SAr1, KEr, Nr, N(USE_PPK)
    HDR, SK {IDi, AUTH, N(PPK_IDENTITY, id),
        [N(NO_PPK_AUTH)], ...}  -->
                                 <--  HDR, SK {IDr, AUTH, N(PPK_IDENTITY), ...}

The key is mixed into SK_d, SK_pi and SK_pr with the request that carries AUTH; NO_PPK_AUTH is the same proof
without it, given only where the key is not required, so that the responder may do without.
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.kdf import with_ppk
from cygnet.crypto.prf import prf
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import PeerIncompatible, Reason
from cygnet.ike.steps import Context
from cygnet.ike.v2.ike_sa_init import Initial
from cygnet.records import replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Notify
from cygnet.wire.payloads import NotifyPayload

FIXED: Final = b"\x02"
"""PPK_ID_FIXED: the rest of the notify's data is the name itself (RFC 8784, section 5.1)."""
USED: Final = NotifyPayload(0, b"", Notify.PPK_IDENTITY, b"")


def mixed(initial: Initial, secret: bytes) -> Initial:
    """What IKE_SA_INIT left, with the key mixed in."""
    return replace(initial, keys=with_ppk(prf(initial.suite.prf), initial.keys, secret))


def named(connection: Connection) -> NotifyPayload:
    """Which key we use."""
    identity = connection.ppk_id
    return NotifyPayload(0, b"", Notify.PPK_IDENTITY, FIXED + (identity.data if identity else b""))


def named_by(message: Message) -> bytes | None:
    """The name of the key that the peer uses; None: it uses none, or names it in a way of its own."""
    notify = message.notify(Notify.PPK_IDENTITY)
    if notify is None or notify.data[:1] != FIXED:
        return None
    return notify.data[1:]


def fits(context: Context, connection: Connection, name: bytes | None) -> bool:
    """Whether the key that the peer names is loaded, and is the connection's if that names one."""
    if name is None or context.credentials.ppk(name) is None:
        return False
    return connection.ppk_id is None or connection.ppk_id.data == name


def missing(detail: str) -> PeerIncompatible:
    """One end needs a key that the other does not have or does not want."""
    return PeerIncompatible(Reason.PPK_MISMATCH, detail, notify=Notify.AUTHENTICATION_FAILED)
