"""Where to, and where from: configured, or asked of the world, each time that we initiate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.ike.connections import single_address
from cygnet.ike.effects import Resolve, Route
from cygnet.ike.errors import LocalMisuse, PeerIncompatible, Reason
from cygnet.ike.steps import Context, Steps, ask
from cygnet.ike.world import Path
from cygnet.policy.selectors import IpAddress

RESOLVE_PATIENCE: Final = 10.0
"""Seconds for a name or a route."""


def find_path(context: Context) -> Steps[Path]:
    """The path to the peer. Raises `IkeError` when there is none."""
    connection, path = context.connection, context.state.path
    remote = single_address(connection.remote_addrs)
    local = single_address(connection.local_addrs)
    if connection.remote_host:
        answer = yield from ask(Resolve(connection.remote_host), RESOLVE_PATIENCE)
        remote = _of_family(answer, local)
        if remote is None:
            raise PeerIncompatible(
                Reason.PEER_NAME_UNKNOWN, f"the name {connection.remote_host} has no usable address"
            )
    if remote is None:
        raise LocalMisuse(
            Reason.NO_SUCH_OBJECT, f"connection {connection.name} names no address to initiate to"
        )
    if local is None or local.version != remote.version:
        answer = yield from ask(Route(remote), RESOLVE_PATIENCE)
        local = _of_family(answer, remote)
        if local is None:
            raise PeerIncompatible(Reason.PEER_UNREACHABLE, f"there is no route to {remote}")
    return Path(local, path.local_port, remote, path.remote_port)


def _of_family(answer: object, like: IpAddress | None) -> IpAddress | None:
    """The first address, of the same family as `like` if that is given."""
    if not isinstance(answer, Sequence):
        return None
    for address in answer:
        if like is None or address.version == like.version:
            found: IpAddress = address
            return found
    return None
