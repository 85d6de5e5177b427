"""What is right, and yet hardly what was meant: notes on connections, for whoever checks or loads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from cygnet.config.problems import KeyPath
from cygnet.config.requests import SharedSecret
from cygnet.ike.configuration import AddressRange, Child, Connection
from cygnet.policy.sa import Mode, SaProtocol
from cygnet.policy.selectors import DynamicSelector, IpAddress, everything, format_selector
from cygnet.wire.numbers import TransformType

_PLAIN: Final = Connection("", (), (), (), ())
ONLY_IN: Final = {
    1: ("aggressive", "pull", "dpd_timeout"),
    2: ("childless", "ppk_id", "ocsp"),
}
"""Keys of connections that say something in one version of IKE alone."""


def oddities(
    connections: Iterable[Connection], secrets: Sequence[SharedSecret]
) -> Iterator[tuple[KeyPath, str]]:
    """Places and sentences."""
    keys = {owner.data for secret in secrets if secret.kind == "ppk" for owner in secret.owners}
    seen: dict[Any, str] = {}
    for connection in connections:
        place: KeyPath = ("connections", connection.name)
        yield from _peers(place, connection.remote_addrs)
        yield from _without_effect(place, connection)
        name = connection.ppk_id
        if connection.ppk_required and (name is None or name.data not in keys):
            yield (*place, "ppk_required"), "lets nothing come up: secrets.ppk-... holds no key of `ppk_id`"
        elif name is not None and name.data not in keys:
            yield (*place, "ppk_id"), f"has no effect: secrets.ppk-... holds no key of {name}"
        for child in connection.children:
            yield from _childs_without_effect((*place, "children", child.name), child)
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


def _without_effect(place: KeyPath, connection: Connection) -> Iterator[tuple[KeyPath, str]]:
    """Of the keys that were set, those that the connection's version of IKE has no word for."""
    what = {
        0: (2, "has no effect in IKEv1, which version = 0 speaks too"),
        1: (2, "has no effect in IKEv1"),
        2: (1, "has no effect in IKEv2"),
    }
    of, text = what[connection.version]
    for name in ONLY_IN[of]:
        if getattr(connection, name) != getattr(_PLAIN, name):
            yield (*place, name), text


def _peers(place: KeyPath, ranges: Iterable[AddressRange]) -> Iterator[tuple[KeyPath, str]]:
    for entry in ranges:
        if entry.first == entry.last and _is_nobodys(entry.first):
            yield (*place, "remote_addrs"), f"{entry.first} is no address that a peer can have"


def _childs_without_effect(place: KeyPath, child: Child) -> Iterator[tuple[KeyPath, str]]:
    """What the child's mode or protocol makes nothing of."""
    transport = child.mode == Mode.TRANSPORT
    for selector in (s for flow in child.flows for side in (flow.local, flow.remote) for s in side):
        if not transport or isinstance(selector, DynamicSelector) or selector.first == selector.last:
            continue
        whole = everything(selector.family)
        if (selector.first, selector.last) != (whole.first, whole.last):
            network = format_selector(selector)
            text = f"transport carries what is between the two ends themselves, and {network} is more"
            yield (*place, "mode"), f"{text}: that takes tunnel"
            break
    only_ah = child.protocols == (SaProtocol.AH,)
    if child.tfc_padding and (transport or only_ah):
        why = "AH" if only_ah else "transport mode"
        yield (*place, "tfc_padding"), f"has no effect in {why}: padding is that of ESP tunnels"
    if child.manual and any(t.type == TransformType.KE for p in child.proposals for t in p.transforms):
        key = "ah_proposals" if only_ah else "esp_proposals"
        yield (*place, key), "names a key exchange, and this child is keyed by hand: it has no effect"


def _is_nobodys(address: IpAddress) -> bool:
    return address.is_multicast or address.is_unspecified or address.packed == b"\xff" * 4
