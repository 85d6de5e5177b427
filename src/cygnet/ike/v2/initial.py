"""The initial exchanges as one: IKE_SA_INIT, then IKE_AUTH (RFC 7296, section 1.2), in both roles."""

from __future__ import annotations

from cygnet.ike.state import ChangePath, CreateChild
from cygnet.ike.steps import Context, Steps, apply
from cygnet.ike.v2 import ike_auth, ike_sa_init
from cygnet.ike.v2.ike_sa_init import Admitted
from cygnet.ike.ways import find_path


def initiate(context: Context, wanted: CreateChild | None) -> Steps[None]:
    """Four messages to an established IKE SA and its first Child SA."""
    path = yield from find_path(context)
    if path != context.state.path:
        yield from apply(ChangePath(path))
    initial = yield from ike_sa_init.initiate(context)
    yield from ike_auth.initiate(context, initial, wanted)


def respond(context: Context, admitted: Admitted) -> Steps[None]:
    """The same four messages from the other side."""
    initial = yield from ike_sa_init.respond(context, admitted)
    yield from ike_auth.respond(context, initial)
