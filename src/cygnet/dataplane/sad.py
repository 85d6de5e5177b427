"""The security association database (RFC 4301, section 4.4.2): which SA seals a flow, which opens an SPI.

Outbound: per flow the newest first, and the first whose narrowed selectors hold the packet.
Inbound: by SPI and destination. A removed inbound SA lingers for receiving only: what the peer
sent before it learnt of the removal still arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, cast

from cygnet.dataplane.descriptors import MARK
from cygnet.ipsec.ah import AhInbound, AhOutbound
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import InboundSa, OutboundSa
from cygnet.ipsec.inner import FlowKey, Inner, within
from cygnet.ipsec.ipcomp import Compressor
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol, UdpEncapsulation
from cygnet.policy.selectors import IpAddress

_NEVER = 1 << 127
MAX_ADMITTED = 4096
"""Flows that one inbound SA keeps verdicts of."""


def goes_singly(parameters: SaParameters) -> bool:
    """Packet by packet (engines.singly): all but ESP tunnels without extras."""
    return bool(
        parameters.mode != Mode.TUNNEL
        or parameters.protocol != SaProtocol.ESP
        or parameters.bundle
        or parameters.ipcomp
        or parameters.tfc_padding
        or parameters.dummy_interval
        or parameters.mark
    )


class Outbound:
    """An outbound SA and how its packets leave."""

    __slots__ = (
        "address",
        "ancillary",
        "around",
        "bytes_alarm",
        "compressor",
        "esp",
        "hard_bytes",
        "hard_packets",
        "hard_told",
        "mark",
        "max_inner",
        "path_mtu",
        "sa",
        "sequence_alarm",
        "singly",
        "socket",
        "soft_told",
        "wire",
    )

    def __init__(self, sa: OutboundSa | AhOutbound, around: int = 0) -> None:
        """`around`: octets of the AH that goes around it (a bundle)."""
        self.sa = sa
        self.esp = cast(OutboundSa, sa)
        """The same, to those who know that it is ESP: what does not go singly."""
        self.singly = goes_singly(sa.parameters)
        self.around = around
        self.compressor = Compressor(sa.parameters.ipcomp) if sa.parameters.ipcomp else None
        self.mark = MARK | sa.parameters.mark
        self.socket: Any = None
        self.wire: Any = None
        """Where whole packets go that are made here, header and all."""
        self.address: tuple[Any, ...] = ()
        self.ancillary: dict[tuple[int, int], list[tuple[int, int, bytes]]] = {}
        """Control messages by (segment size or 0, traffic class); cleared when the ends move."""
        self.path_mtu = 0
        self.max_inner = 0
        """The largest inner packet that leaves in one piece."""
        self.soft_told = False
        self.hard_told = False
        volume = sa.parameters.volume
        self.hard_bytes = volume.hard_bytes or _NEVER
        self.hard_packets = min(volume.hard_packets or _NEVER, sa.limit)
        self.bytes_alarm = volume.soft_bytes or self.hard_bytes
        self.sequence_alarm = min(volume.soft_packets or self.hard_packets, sa.limit // 5 * 4)
        """RFC 4303, 3.3.3: a new SA before the numbers run out, here at 80 %."""

    def used_up(self, count: int) -> str:
        """Which hard limit keeps `count` packets from being sealed; empty: none."""
        if self.sa.sequence + count > self.hard_packets:
            return "sequence" if self.hard_packets == self.sa.limit else "packets"
        return "bytes" if self.sa.bytes >= self.hard_bytes else ""

    def rearm(self) -> None:
        """After the soft limit only the hard ones are left to watch."""
        if self.soft_told:
            self.bytes_alarm, self.sequence_alarm = self.hard_bytes, self.hard_packets


class Inbound:
    """An inbound SA, the peer's address as last reported, and verdicts on the flows inside."""

    __slots__ = (
        "admitted",
        "bytes_alarm",
        "esp",
        "hard_bytes",
        "hard_packets",
        "hard_told",
        "packets_alarm",
        "sa",
        "singly",
        "soft_told",
        "source",
    )

    def __init__(self, sa: InboundSa | AhInbound) -> None:
        self.sa = sa
        self.esp = cast(InboundSa, sa)
        """As of `Outbound`."""
        self.singly = goes_singly(sa.parameters)
        self.source = _source(sa.parameters)
        self.admitted: dict[FlowKey, Drop | None] = {}
        self.soft_told = False
        self.hard_told = False
        volume = sa.parameters.volume
        self.hard_bytes = volume.hard_bytes or _NEVER
        self.hard_packets = volume.hard_packets or _NEVER
        self.bytes_alarm = volume.soft_bytes or self.hard_bytes
        self.packets_alarm = volume.soft_packets or self.hard_packets

    def rearm(self) -> None:
        if self.soft_told:
            self.bytes_alarm, self.packets_alarm = self.hard_bytes, self.hard_packets


def _source(parameters: SaParameters) -> tuple[str, int]:
    encapsulation = parameters.encapsulation
    return str(parameters.remote), encapsulation.remote_port if encapsulation else 0


class Sad:
    def __init__(self) -> None:
        self._outbound: dict[int, list[Outbound]] = {}
        """By flow, newest first."""
        self._inbound: dict[tuple[int, bytes], Inbound] = {}
        self._by_spi: dict[tuple[int, int], list[Outbound | Inbound]] = {}
        self._count = 0
        self.pairs: dict[int, dict[Direction, list[Outbound | Inbound]]] = {}

    def install_outbound(self, entry: Outbound) -> None:
        parameters = entry.sa.parameters
        if not is_outer(parameters):
            self._outbound.setdefault(parameters.flow, []).insert(0, entry)
        self._file(entry)

    def install_inbound(self, sa: InboundSa | AhInbound) -> Inbound:
        """Raises ValueError if this SPI is in use at this destination."""
        parameters = sa.parameters
        key = parameters.spi, parameters.local.packed
        if key in self._inbound:
            raise ValueError(f"SPI {parameters.spi:#010x} is in use")
        entry = self._inbound[key] = Inbound(sa)
        self._file(entry)
        return entry

    def inbound(self, spi: int, destination: bytes) -> Inbound | None:
        return self._inbound.get((spi, destination))

    def outbound_of_pair(self, pair: int) -> Outbound | None:
        for entry in self.pairs.get(pair, {}).get(Direction.OUT, ()):
            if isinstance(entry, Outbound):
                return entry
        return None

    def outbound(self, flow: int, packet: Inner) -> Outbound | None:
        for entry in self._outbound.get(flow, ()):
            parameters = entry.sa.parameters
            if within(parameters.local_selectors, parameters.remote_selectors, packet, outbound=True):
                return entry
        return None

    def newest(self, pair: int, direction: Direction) -> Outbound | Inbound:
        """The SA that was installed last for a pair that has one."""
        return self.pairs[pair][direction][-1]

    def flows(self) -> tuple[int, ...]:
        """The flows that have an outbound SA."""
        return tuple(flow for flow, entries in self._outbound.items() if entries)

    def has_outbound(self, flow: int) -> bool:
        return bool(self._outbound.get(flow))

    def find(self, direction: int, spi: int, remote: bytes, pair: int = 0) -> Outbound | Inbound | None:
        """The SA of this direction and SPI with the peer `remote`, of this pair if one is named; an inbound
        SPI is ours and enough."""
        for entry in self._by_spi.get((direction, spi), ()):
            parameters = entry.sa.parameters
            of_peer = direction == Direction.IN or parameters.remote.packed == remote
            if of_peer and pair in (0, parameters.pair):
                return entry
        return None

    def manual(self, parameters: SaParameters) -> list[Outbound | Inbound]:
        """Manual SAs of this direction, SPI and ends that stand already."""
        return [
            entry
            for entry in self._by_spi.get((int(parameters.direction), parameters.spi), ())
            if entry.sa.parameters.manual
            and (entry.sa.parameters.local, entry.sa.parameters.remote)
            == (parameters.local, parameters.remote)
        ]

    def remove(self, entry: Outbound | Inbound) -> None:
        parameters = entry.sa.parameters
        if isinstance(entry, Inbound):
            self._inbound.pop((parameters.spi, parameters.local.packed), None)
        else:
            of_flow = self._outbound.get(parameters.flow, [])
            if entry in of_flow:
                of_flow.remove(entry)
            if not of_flow:
                self._outbound.pop(parameters.flow, None)
        key = int(parameters.direction), parameters.spi
        alike = self._by_spi.get(key, [])
        if entry in alike:
            alike.remove(entry)
        if not alike:
            self._by_spi.pop(key, None)
        directions = self.pairs.get(parameters.pair)
        if directions is not None:
            if entry in directions[parameters.direction]:
                directions[parameters.direction].remove(entry)
                self._count -= 1
            if not any(directions.values()):
                del self.pairs[parameters.pair]

    def move(self, pair: int, local: IpAddress, remote: IpAddress, ports: UdpEncapsulation | None) -> None:
        """New ends for a pair; keys, counters, windows stay. Raises ValueError if an SPI is in use there."""
        moved = list(self.of_pair(pair))
        for entry in moved:
            key = entry.sa.parameters.spi, local.packed
            if isinstance(entry, Inbound) and self._inbound.get(key, entry) is not entry:
                raise ValueError(f"SPI {key[0]:#010x} is in use at the new address")
        for entry in moved:
            sa = entry.sa
            old = sa.parameters
            sa.parameters = replace(old, local=local, remote=remote, encapsulation=ports)
            if isinstance(entry, Inbound):
                del self._inbound[(old.spi, old.local.packed)]
                self._inbound[(old.spi, local.packed)] = entry
                entry.source = _source(sa.parameters)
            else:
                entry.ancillary.clear()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, entry: Outbound | Inbound) -> bool:
        return entry in self.of_pair(entry.sa.parameters.pair)

    def of_pair(self, pair: int) -> Iterator[Outbound | Inbound]:
        for entries in self.pairs.get(pair, {}).values():
            yield from entries

    def entries(self) -> Iterator[Outbound | Inbound]:
        for pair in self.pairs:
            yield from self.of_pair(pair)

    def outbound_entries(self) -> Iterator[Outbound]:
        for entries in self._outbound.values():
            yield from entries

    def _file(self, entry: Outbound | Inbound) -> None:
        parameters = entry.sa.parameters
        directions = self.pairs.setdefault(parameters.pair, {Direction.IN: [], Direction.OUT: []})
        directions[parameters.direction].append(entry)
        self._count += 1
        self._by_spi.setdefault((int(parameters.direction), parameters.spi), []).append(entry)


def is_outer(parameters: SaParameters) -> bool:
    """AH of a bundle: no flow takes it by itself."""
    return parameters.protocol == SaProtocol.AH and bool(parameters.bundle)


def largest_inner(entry: Outbound) -> int:
    """Octets of the largest packet from the inside that leaves in one piece. In transport mode its own header
    is the outer one; options and extension headers are taken off again where they are seen."""
    parameters = entry.sa.parameters
    outer = 20 if isinstance(parameters.local, IPv4Address) else 40
    encapsulation = 8 if parameters.encapsulation else 0
    payload = entry.sa.largest_payload(entry.path_mtu - outer - encapsulation - entry.around)
    return payload if entry.sa.tunnel else payload + outer
