"""What is right, and yet hardly what was meant: notes on connections, for whoever checks or loads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cygnet.config.problems import KeyPath
from cygnet.ike.configuration import AddressRange, Connection
from cygnet.policy.selectors import IpAddress


def oddities(connections: Iterable[Connection]) -> Iterator[tuple[KeyPath, str]]:
    """Places and sentences."""
    seen: dict[Any, str] = {}
    for connection in connections:
        place: KeyPath = ("connections", connection.name)
        yield from _peers(place, connection.remote_addrs)
        peer = connection.remote_addrs, connection.remote_host
        for child in connection.children if any(peer) else ():
            what = f"{connection.name}/{child.name}"
            for flow in child.flows if not child.if_id and not child.interface else ():
                other = seen.setdefault((peer, flow.local, flow.remote), what)
                if other != what:
                    yield (
                        (*place, "children", child.name),
                        f"has the selectors of {other} to the same peer: only one of the two gets traffic",
                    )
                    break


def _peers(place: KeyPath, ranges: Iterable[AddressRange]) -> Iterator[tuple[KeyPath, str]]:
    for entry in ranges:
        if entry.first == entry.last and _is_nobodys(entry.first):
            yield (*place, "remote_addrs"), f"{entry.first} is no address that a peer can have"


def _is_nobodys(address: IpAddress) -> bool:
    return address.is_multicast or address.is_unspecified or address.packed == b"\xff" * 4
