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

Where both can, it goes in before, so that IKE_AUTH is protected by it as well (RFC 9867, USE_PPK_INT):

    HDR, SK {..., N(PPK_IDENTITY_KEY, id, confirmation)}  -->
                                 <--  HDR, SK {..., N(PPK_IDENTITY, id)}

in the last IKE_INTERMEDIATE exchange. The confirmation says whether both hold the same key of that name.
"""

from __future__ import annotations

import hmac
from typing import Final

from cygnet.crypto.kdf import with_ppk, with_ppk_inside
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import suite
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
CONFIRMATION: Final = 8
MAX_OFFERED: Final = 8
"""Keys that a peer names which are looked at."""
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


# -- before IKE_AUTH (RFC 9867) ---------------------------------------------------------------------


def offered(context: Context, initial: Initial) -> tuple[NotifyPayload, ...]:
    """Our key by its name, with what proves that we hold it."""
    identity = context.connection.ppk_id
    secret = context.credentials.ppk(identity.data) if identity is not None else None
    if not initial.ppk_inside or secret is None:
        return ()
    data = named(context.connection).data + _confirmation(context, initial, secret)
    return (NotifyPayload(0, b"", Notify.PPK_IDENTITY_KEY, data),)


def accepted(context: Context, initial: Initial, message: Message) -> Initial:
    """What the responder says of it. Raises `PeerIncompatible` where the key is required and it has none."""
    notify = message.notify(Notify.PPK_IDENTITY)
    identity = context.connection.ppk_id
    if notify is None or identity is None:
        if context.connection.ppk_required:
            raise missing("the peer does not hold the postquantum pre-shared key, which is required")
        return initial
    secret = context.credentials.ppk(identity.data)
    if notify.data != named(context.connection).data or secret is None:
        raise missing("the peer chooses a postquantum pre-shared key that was not named")
    return mixed_inside(context, initial, identity.data, secret)


def chosen(
    context: Context, initial: Initial, message: Message
) -> tuple[bytes | None, bytes, tuple[NotifyPayload, ...]]:
    """(name, key, answer): the first of the peer's keys that we hold as well; (None, b"", ()): there is none,
    and whether there must be one is known when it is known who the peer is (`fits`)."""
    if not initial.ppk_inside:
        return None, b"", ()
    offers = [one for one in message.all(NotifyPayload) if one.type == Notify.PPK_IDENTITY_KEY]
    for one in offers[:MAX_OFFERED]:
        identifier, confirmation = one.data[:-CONFIRMATION], one.data[-CONFIRMATION:]
        secret = context.credentials.ppk(identifier[1:]) if identifier[:1] == FIXED else None
        if secret is not None and hmac.compare_digest(_confirmation(context, initial, secret), confirmation):
            answer = NotifyPayload(0, b"", Notify.PPK_IDENTITY, identifier)
            return identifier[1:], secret, (answer,)
    return None, b"", ()


def mixed_inside(context: Context, initial: Initial, name: bytes | None, secret: bytes) -> Initial:
    """All keys anew with the pre-shared one; as they are without one."""
    if name is None:
        return initial
    chosen_suite, state = initial.suite, context.state
    keys = with_ppk_inside(
        prf(chosen_suite.prf),
        initial.keys,
        secret,
        initial.nonce_i,
        initial.nonce_r,
        state.spi_i,
        state.spi_r,
        suite(chosen_suite.encryption, chosen_suite.key_bits, chosen_suite.integrity),
    )
    return replace(initial, keys=keys, ppk_name=name)


def _confirmation(context: Context, initial: Initial, secret: bytes) -> bytes:
    """The first octets of prf( PPK, Ni | Nr | SPIi | SPIr )."""
    state = context.state
    seed = initial.nonce_i + initial.nonce_r + state.spi_i + state.spi_r
    return prf(initial.suite.prf).compute(secret, seed)[:CONFIRMATION]


def missing(detail: str) -> PeerIncompatible:
    """One end needs a key that the other does not have or does not want."""
    return PeerIncompatible(Reason.PPK_MISMATCH, detail, notify=Notify.AUTHENTICATION_FAILED)
