"""XAUTH in messages: a login between phase 1 and everything else (draft-beaulieu-ike-xauth-02).

    Edge device                                 IPsec host
    ATTR(REQUEST, NAME="", PASSWORD="")    -->
                                           <--  ATTR(REPLY, NAME="joe", PASSWORD="foobar")
    ATTR(SET, STATUS=OK or FAIL)           -->
                                           <--  ATTR(ACK)

Phase 1 with a method that demands a login yields a `Phase1Peer`, who may do nothing; only `log_in_peer` makes
an `AuthenticatedPeer` of it. If the login fails, phase 1 is deleted.
"""

from __future__ import annotations

from typing import Any, Final

from cygnet.auth import xauth
from cygnet.auth.eap.relay import session_pairs
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity, user_identity
from cygnet.auth.isakmp import logged_in
from cygnet.auth.peer import AuthenticatedPeer, Phase1Peer
from cygnet.ike.configuration import Connection, LocalAuth, RemoteAuth
from cygnet.ike.errors import IkeError, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.steps import Context, SaClosed, Steps, ask, complain
from cygnet.ike.v1 import informational, transaction
from cygnet.ike.v1.methods import local_login, remote_login
from cygnet.wire.v1.numbers import CfgAttribute, CfgType, XauthStatus
from cygnet.wire.v1.payloads import Attribute, AttributesPayload

CHECK_PATIENCE: Final = 30.0
"""Seconds that the check of a password may take."""
MAX_REQUESTS: Final = 8
"""REQUESTs of one login that we answer."""


# -- edge device --------------------------------------------------------------------------------


def log_in_peer(context: Context, connection: Connection, peer: Phase1Peer) -> Steps[AuthenticatedPeer]:
    """Have the peer log in. If that fails phase 1 is deleted (section 6), and `SaClosed` raised."""
    remote = remote_login(connection)
    if remote is None:
        raise LocalMisuse(Reason.INTERNAL, "nobody has to log in here")
    number = transaction.identifier(context)
    try:
        user = yield from _login(context, remote, number)
        identity = user_identity(user.name)
        _judge_user(remote, identity, user)
    except AuthenticationError as failed:
        error = PeerMisbehaved(Reason(failed.kind.value), failed.detail)
        # Told before the peer hears it: it may be gone before it has acknowledged that.
        yield from complain(error)
        yield from _set_status(context, number, XauthStatus.FAIL)
        yield from informational.delete_phase_1(context)
        raise SaClosed(error.failure, linger=True) from None
    yield from _set_status(context, number, XauthStatus.OK)
    return logged_in(peer, identity, groups=user.groups, attributes=user.attributes)


def _login(context: Context, remote: RemoteAuth, number: int) -> Steps[xauth.User]:
    """REQUEST and REPLY, as often as the login wants. Raises `AuthenticationError`."""
    login = _begin(context, remote)
    sent: Any = None
    while True:
        try:
            step = login.send(sent)
        except StopIteration as end:
            user: xauth.User = end.value
            return user
        if isinstance(step, xauth.Asked):
            sent = yield from transaction.exchange(context, CfgType.REQUEST, number, step.attributes)
        else:
            sent = yield from ask(step, CHECK_PATIENCE)


def _begin(context: Context, remote: RemoteAuth) -> xauth.Login:
    if not remote.radius:
        return xauth.serve(remote.xauth, context.credentials.user, context.entropy)
    path = context.state.path
    return xauth.serve_by_radius(lambda name: session_pairs(name, path.local, path.remote, context.unique_id))


def _judge_user(remote: RemoteAuth, identity: Identity, user: xauth.User) -> None:
    if remote.eap_id is not None and not identity.matches(remote.eap_id):
        raise AuthenticationError(
            Kind.LOGIN_FAILED, f"the user is {identity}, the connection takes {remote.eap_id}"
        )
    if remote.groups and not user.groups.intersection(remote.groups):
        raise AuthenticationError(
            Kind.LOGIN_FAILED, f"{identity} is in none of the groups that it must be in"
        )


def _set_status(context: Context, number: int, status: int) -> Steps[None]:
    attributes = (Attribute(CfgAttribute.XAUTH_STATUS, status),)
    yield from transaction.exchange(context, CfgType.SET, number, attributes)


# -- IPsec host ---------------------------------------------------------------------------------


def log_in(context: Context, connection: Connection) -> Steps[None]:
    """Log in as the peer asks us to. Raises `IkeError` if it says no, or asks for what we have not."""
    name = _own_name(local_login(connection))
    stored = context.credentials.user(name)
    password = stored.text if stored is not None else b""
    for _ in range(MAX_REQUESTS):
        asked = yield from transaction.heard(context, "the login that its method demands")
        if asked.cfg_type == CfgType.SET:
            yield from transaction.reply(context, asked, ())
            _judge_status(asked)
            return
        answered = (
            xauth.reply(asked.attributes, name, password, context.entropy) if password else xauth.FAILED
        )
        yield from transaction.reply(context, asked, answered)
        if answered == xauth.FAILED and not password:
            raise LocalMisuse(
                Reason.LOGIN_FAILED, f"no password is loaded for {name.decode('utf-8', 'replace')}"
            )
    raise PeerMisbehaved(Reason.PEER_MISBEHAVED, "the peer asks for our login again and again")


def _own_name(local: LocalAuth | None) -> bytes:
    identity = (local.xauth_id or local.id) if local is not None else None
    if identity is None:
        raise LocalMisuse(Reason.LOGIN_FAILED, "no user's name is configured (`xauth_id`)")
    return identity.data


def _judge_status(asked: AttributesPayload) -> None:
    status = xauth.number_of(asked.attributes, CfgAttribute.XAUTH_STATUS, -1)
    if status != XauthStatus.OK:
        said = xauth.message_of(asked.attributes)
        refused: IkeError = PeerIncompatible(
            Reason.PEER_REFUSED_AUTHENTICATION,
            "the peer refuses our login" + (f": {said}" if said else ""),
        )
        raise refused
