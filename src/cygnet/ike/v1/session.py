"""What leads to an established phase 1, in both roles, one parent of its parts:

find a path -> main or aggressive mode -> [XAUTH -> mode config ->] established
"""

from __future__ import annotations

from cygnet.ike.state import ChangePath
from cygnet.ike.steps import Context, Steps, apply
from cygnet.ike.v1 import aggressive_mode, main_mode, phase1
from cygnet.ike.v1.phase1 import Agreed, Proved
from cygnet.ike.v1.steps import Received, close_phase_1
from cygnet.ike.ways import find_path


def initiate(context: Context) -> Steps[None]:
    """From nothing to an established phase 1."""
    path = yield from find_path(context)
    if path != context.state.path:
        yield from apply(ChangePath(path))
    if context.connection.aggressive:
        proved = yield from aggressive_mode.initiate(context)
    else:
        proved = yield from main_mode.initiate(context)
    yield from _establish(context, proved)


def respond(context: Context, agreed: Agreed, received: Received) -> Steps[None]:
    """The same from the other side; `received` is the first message, `agreed` what came of its offer."""
    if context.connection.aggressive:
        proved = yield from aggressive_mode.respond(context, agreed, received)
    else:
        proved = yield from main_mode.respond(context, agreed)
    yield from _establish(context, proved)


def _establish(context: Context, proved: Proved) -> Steps[None]:
    """Phase 1 stands: message ids begin."""
    yield from close_phase_1(phase1.established(context, proved))
