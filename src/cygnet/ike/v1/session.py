"""What leads to an established phase 1, in both roles, one parent of its parts:

find a path -> main or aggressive mode -> [XAUTH -> mode config ->] established
"""

from __future__ import annotations

from cygnet.auth.peer import AuthenticatedPeer, Phase1Peer
from cygnet.ike.changes import ChangePath
from cygnet.ike.errors import IkeError
from cygnet.ike.steps import Context, Steps, apply, enqueue
from cygnet.ike.v1 import aggressive_mode, informational, main_mode, mode_config, phase1, xauth
from cygnet.ike.v1.methods import local_login
from cygnet.ike.v1.phase1 import Agreed, Proved
from cygnet.ike.v1.protection import isakmp_of
from cygnet.ike.v1.steps import Received, close_phase_1
from cygnet.ike.wanted import CheckLiveness
from cygnet.ike.ways import find_path
from cygnet.records import replace


def initiate(context: Context) -> Steps[None]:
    """From nothing to an established phase 1."""
    path = yield from find_path(context)
    if path != context.state.path:
        yield from apply(ChangePath(path))
    if context.connection.aggressive:
        proved = yield from aggressive_mode.initiate(context)
        yield from phase1.check(context, proved)
    else:
        proved = yield from main_mode.initiate(context)
    yield from _establish(context, proved)


def respond(context: Context, agreed: Agreed, received: Received) -> Steps[None]:
    """The same from the other side; `received` is the first message, `agreed` what came of its offer."""
    if context.connection.aggressive:
        proved = yield from aggressive_mode.respond(context, agreed, received)
        yield from phase1.check(context, proved)
    else:
        proved = yield from main_mode.respond(context, agreed)
    yield from _establish(context, proved)
    shorter = phase1.shorter_life(context, proved.connection, agreed.choice)
    if shorter and context.connection.aggressive:
        # Status is told only after it (RFC 2407, section 4.6.3); main mode had room in its last message.
        yield from informational.inform(context, *shorter)


def _establish(context: Context, proved: Proved) -> Steps[None]:
    """Phase 1 stands: logins and addresses come next, and with them the SA. Nothing else is served before."""
    yield from close_phase_1()
    try:
        peer = yield from _come_in(context, proved)
    except IkeError:
        # The peer may think that all is well.
        yield from informational.delete_phase_1(context)
        raise
    if isakmp_of(context.state).contact:
        # Told behind aggressive mode, before the login.
        proved = replace(proved, initial_contact=True)
    yield from apply(phase1.established(context, proved, peer))
    if context.connection.aggressive:
        yield from enqueue(CheckLiveness(contact=True))


def _come_in(context: Context, proved: Proved) -> Steps[AuthenticatedPeer]:
    """XAUTH and mode config, whichever there is; the peer, who only now is somebody."""
    connection, peer = proved.connection, proved.peer
    if isinstance(peer, Phase1Peer):
        peer = yield from xauth.log_in_peer(context, connection, peer)
    if local_login(connection) is not None:
        yield from xauth.log_in(context, connection)
    if context.state.original_initiator:
        yield from mode_config.obtain(context, connection)
    elif connection.pools and not connection.pull:
        yield from mode_config.push(context, connection, proved.local_id, peer, alone=proved.is_alone)
    return peer
