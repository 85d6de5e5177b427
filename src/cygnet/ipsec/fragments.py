"""Stateful fragment checking (RFC 4301, section 7.3): later fragments show no ports, their first one did.

    first fragment → its protocol and ports are remembered → the later ones are judged by them

Gateways put fragments together before they judge them, and the kernel cuts them again to the TUN's
size: first fragments come first. A later one whose first was never seen is judged as what it shows.
"""

from __future__ import annotations

from collections import OrderedDict

from cygnet.ipsec.inner import Inner

MAX_PACKETS = 1024
SECONDS = 30.0
"""As long as receivers wait for the rest of a packet (RFC 791, 3.2; RFC 8200, 4.5: 60 s at most)."""

_Key = tuple[int, int, int, int, int]
_Ports = tuple[int, int | None, int | None, float]


class Fragments:
    """Packets of which a first fragment was seen, the oldest forgotten when there are too many."""

    def __init__(self) -> None:
        self._seen: OrderedDict[_Key, _Ports] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def whole(self, packet: Inner, channel: int, now: float) -> Inner:
        """The packet with the ports of its first fragment. `channel` keeps apart what came different ways:
        a first fragment of one flow vouches for none of another."""
        if packet.fragment is None:
            return packet
        # IPv6 reassembles by addresses and identification alone (RFC 8200, section 4.5).
        protocol = packet.protocol if packet.family == 4 else 0
        key = channel, protocol, packet.source, packet.destination, packet.fragment
        if not packet.later:
            while len(self._seen) >= MAX_PACKETS:
                self._seen.popitem(last=False)
            self._seen[key] = packet.protocol, packet.source_port, packet.destination_port, now + SECONDS
            return packet
        found = self._seen.get(key)
        if found is None:
            return packet
        protocol, source_port, destination_port, until = found
        if now >= until:
            del self._seen[key]
            return packet
        return packet._replace(protocol=protocol, source_port=source_port, destination_port=destination_port)
