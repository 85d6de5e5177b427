"""Which authentication method of phase 1 a connection stands for, and which of its rounds is what.

local, remote                          method
psk                                    PSK
pubkey                                 signatures, of the kind that our key makes
psk, and a login by one side           XAUTH_INIT_PSK, XAUTH_RESP_PSK
pubkey, and a login by one side        XAUTH_INIT_RSA, XAUTH_RESP_RSA
pubkey here, and there only a login    HYBRID_INIT_RSA, HYBRID_RESP_RSA
"""

from __future__ import annotations

from cygnet.auth.errors import AuthenticationError
from cygnet.auth.isakmp import METHODS, PSK, RSA, method_for_key
from cygnet.crypto.signatures import PrivateKey
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth
from cygnet.ike.errors import PeerMisbehaved, Reason


def local_auth(connection: Connection) -> LocalAuth:
    """How we prove who we are in phase 1; where all that we do is log in, who we say we are."""
    for one in connection.local:
        if one.method is not AuthClass.XAUTH:
            return one
    return connection.local[0] if connection.local else LocalAuth(AuthClass.PUBKEY)


def remote_auth(connection: Connection) -> RemoteAuth:
    """The same of the peer."""
    for one in connection.remote:
        if one.method is not AuthClass.XAUTH:
            return one
    return connection.remote[0] if connection.remote else RemoteAuth(AuthClass.PUBKEY)


def local_login(connection: Connection) -> LocalAuth | None:
    """As whom we log in after phase 1, if we do."""
    return next((one for one in connection.local if one.method is AuthClass.XAUTH), None)


def remote_login(connection: Connection) -> RemoteAuth | None:
    """How the peer must log in after phase 1, if it must."""
    return next((one for one in connection.remote if one.method is AuthClass.XAUTH), None)


def who_logs_in(connection: Connection, initiator: bool) -> str:
    """ "initiator", "responder" or nobody; `initiator`: we are the one."""
    if local_login(connection) is not None:
        return "initiator" if initiator else "responder"
    if remote_login(connection) is not None:
        return "responder" if initiator else "initiator"
    return ""


def is_hybrid(connection: Connection) -> bool:
    """Whether one side proves nothing in phase 1 and logs in instead."""
    return AuthClass.XAUTH in (local_auth(connection).method, remote_auth(connection).method)


def needs_key(connection: Connection) -> bool:
    """Whether we sign with a key of ours in phase 1."""
    return local_auth(connection).method is AuthClass.PUBKEY


def method_of(connection: Connection, initiator: bool, key: PrivateKey | None) -> int:
    """The method's number; `key` is ours, where `needs_key`. Raises `PeerMisbehaved`: there is none of the
    kind."""
    login = who_logs_in(connection, initiator)
    try:
        number = method_for_key(key) if key is not None else 0
    except AuthenticationError as error:
        raise PeerMisbehaved(Reason(error.kind.value), error.detail) from None
    kind = METHODS[number].kind if number else PSK
    schemes = local_auth(connection).schemes
    if number and schemes and kind not in {one.partition("-")[0] for one in schemes}:
        raise PeerMisbehaved(
            Reason.AUTH_METHOD_MISMATCH, f"our key signs with {kind}, allowed are {', '.join(schemes)}"
        )
    if is_hybrid(connection) and key is None:
        kind = RSA
    if not login:
        return number or next(one.number for one in METHODS.values() if one.kind == PSK and not one.login)
    wanted = (kind, login, is_hybrid(connection))
    for method in METHODS.values():
        if (method.kind, method.login, method.hybrid) == wanted:
            return method.number
    raise PeerMisbehaved(
        Reason.AUTH_METHOD_MISMATCH, f"XAUTH goes with a pre-shared key or an RSA key, ours is {kind}"
    )
