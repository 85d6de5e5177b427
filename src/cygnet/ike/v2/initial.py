"""The initial exchanges as one, in both roles: IKE_SA_INIT, IKE_INTERMEDIATE for each further key exchange
(RFC 9370), then IKE_AUTH (RFC 7296, section 1.2)."""

from __future__ import annotations

from cygnet.ike.changes import ChangePath
from cygnet.ike.steps import Context, Steps, apply
from cygnet.ike.v2 import ike_auth, ike_sa_init, intermediate
from cygnet.ike.v2.ike_sa_init import Admitted
from cygnet.ike.wanted import CreateChild
from cygnet.ike.ways import find_path


def initiate(context: Context, wanted: CreateChild | None) -> Steps[None]:
    """Four messages to an established IKE SA and its first Child SA; two more for each further key
    exchange."""
    path = yield from find_path(context)
    if path != context.state.path:
        yield from apply(ChangePath(path))
    initial = yield from ike_sa_init.initiate(context)
    initial = yield from intermediate.initiate(context, initial)
    yield from ike_auth.initiate(context, initial, wanted)


def respond(context: Context, admitted: Admitted) -> Steps[None]:
    """The same four messages from the other side."""
    initial = yield from ike_sa_init.respond(context, admitted)
    initial = yield from intermediate.respond(context, initial)
    yield from ike_auth.respond(context, initial)
