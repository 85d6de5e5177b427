"""A network in virtual time: latency, loss, duplication, reordering, corruption, MTU, NAT, and a seed.

    network = Network(seed=7)
    network.conditions = Conditions(latency=0.02, loss=0.05)
    a = Gateway(network, "a", "192.0.2.1", TOML_OF_A)
    b = Gateway(network, "b", "192.0.2.2", TOML_OF_B)
    a.initiate("branch", "net")
    network.run_for(60)
    assert_agreement(a, b)

The flow: whatever happens is an entry in one queue ordered by time; the clock stands still while it
is worked on and jumps to the next one. Nothing sleeps. The same seed gives the same run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Final, Protocol

from cygnet.ike.world import Instant
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header, decode_header

IpAddress = IPv4Address | IPv6Address

STEPS_AT_ONE_TIME: Final = 10_000
"""So much may happen without the clock moving; more is a circle that feeds itself."""
_UDP_OVERHEAD: Final = {4: 28, 6: 48}
_NAT_T_PORT: Final = 4500


class Livelock(Exception):
    """The network did not come to rest: something answers itself, or a timer never moves on."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a link does to datagrams; probabilities are 0 to 1, times seconds.

    `jitter` is added to the latency, evenly spread: above the distance of two datagrams it reorders
    them. `mtu` (octets of an IP packet, 0 = any size) drops what is larger, as a path without
    fragmentation does. `packets_too`: the faults also hit protected traffic, else only IKE.
    """

    latency: float = 0.01
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    mtu: int = 0
    packets_too: bool = False


@dataclass(frozen=True, slots=True)
class VirtualEsp:
    """A protected packet as the model data plane sends it: what a receiver needs to judge it."""

    spi: int
    sequence: int
    keys: tuple[object, ...] = field(repr=False)
    packet: Packet
    around: VirtualEsp | None = None
    """The AH of a bundle."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A plain packet: ports as in `policy.selectors` (ICMP: type * 256 + code)."""

    protocol: int
    source: IpAddress
    destination: IpAddress
    source_port: int = 0
    destination_port: int = 0
    size: int = 100
    number: int = 0


@dataclass(frozen=True, slots=True)
class Flight:
    """One datagram on its way. `ports` is None for plain ESP (protocol 50).

    `index` counts all datagrams of a network, `ike_index` those of IKE from this sender, both from 0.
    """

    index: int
    ike_index: int
    at: float
    source: IpAddress
    destination: IpAddress
    ports: tuple[int, int] | None
    data: bytes = b""
    esp: VirtualEsp | None = None

    @property
    def is_ike(self) -> bool:
        return self.esp is None and len(self.data) > 1

    @property
    def message(self) -> bytes:
        """The IKE message without the non-ESP marker."""
        marked = self.ports is not None and _NAT_T_PORT in self.ports
        return self.data[4:] if marked else self.data

    @property
    def header(self) -> Header | None:
        """The IKE header, None where there is none."""
        if not self.is_ike:
            return None
        try:
            return decode_header(self.message)
        except Malformed:
            return None


Deliveries = Sequence[tuple[float, bytes]]
"""What becomes of a datagram: (extra delay, octets) for each copy that arrives."""


class Meddler(Protocol):
    """Sees every IKE datagram; returns None to let it be, else what arrives in its place."""

    def __call__(self, flight: Flight, random: Random) -> Deliveries | None: ...


class Node(Protocol):
    """Whatever has an address: a gateway, a NAT, a hostile peer of a test's own."""

    def arrive(self, flight: Flight) -> None: ...


class Clocked(Protocol):
    """Whatever has timers."""

    def next_timeout(self) -> float | None: ...
    def handle_timeout(self) -> None: ...


class Network:
    """Time, the queue, the links between all addresses. See the file's header.

    `meddlers` see every IKE datagram in order before the conditions do. `trace` holds the last
    datagrams as they were sent. `conditions` hold for every pair of addresses without conditions
    of its own in `links` (keyed source, destination as they are seen on the wire).
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        conditions: Conditions | None = None,
        start: float = 1000.0,
        wall: float = 1.8e9,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.conditions = conditions or Conditions()
        self.links: dict[tuple[IpAddress, IpAddress], Conditions] = {}
        self.meddlers: list[Meddler] = []
        self.trace: deque[Flight] = deque(maxlen=10_000)
        self.lost = 0
        self._monotonic = start
        self._wall_offset = wall - start
        self._nodes: dict[IpAddress, Node] = {}
        self._gates: dict[IpAddress, Gate] = {}
        self._clocked: list[Clocked] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._flights = 0
        self._sent_by: dict[IpAddress, int] = {}
        self._steps_now = 0

    # -- building ------------------------------------------------------------------------------

    def attach(self, node: Node, *addresses: IpAddress) -> None:
        """Give a node its addresses. A second node with the same address takes it over (a restart)."""
        for address in addresses:
            self._nodes[address] = node

    def attach_clock(self, clocked: Clocked) -> None:
        self._clocked.append(clocked)

    def detach(self, node: object) -> None:
        """The node dies: nothing reaches it, its timers stand still."""
        self._nodes = {address: n for address, n in self._nodes.items() if n is not node}
        self._clocked = [c for c in self._clocked if c is not node]

    def put_behind(self, gate: Gate, *inside: IpAddress) -> None:
        """All that these addresses send goes through `gate` (a NAT)."""
        for address in inside:
            self._gates[address] = gate

    # -- time ----------------------------------------------------------------------------------

    @property
    def now(self) -> Instant:
        return Instant(self._monotonic, self._monotonic + self._wall_offset)

    def move_wall_clock(self, seconds: float) -> None:
        """Someone sets the clock; monotonic time knows nothing of it."""
        self._wall_offset += seconds

    def schedule(self, delay: float, action: Callable[[], None]) -> None:
        """Do something after `delay` seconds."""
        self._order += 1
        heapq.heappush(self._queue, (self._monotonic + max(0.0, delay), self._order, action))

    def next_event(self) -> float | None:
        """When something happens next, None if never."""
        times = [t for c in self._clocked if (t := c.next_timeout()) is not None]
        if self._queue:
            times.append(self._queue[0][0])
        return min(times) if times else None

    @property
    def under_way(self) -> bool:
        """Whether a datagram or an answer of the world is on its way; timers do not count."""
        return bool(self._queue)

    def step(self, until: float = float("inf")) -> bool:
        """Go to the next event that is not later than `until` and let it happen. False: there is none.

        Raises `Livelock` when more happens at one time than can be meant.
        """
        at = self.next_event()
        if at is None or at > until:
            return False
        if at > self._monotonic:
            self._monotonic = at
            self._steps_now = 0
        self._steps_now += 1
        if self._steps_now > STEPS_AT_ONE_TIME:
            raise Livelock(f"{self._steps_now} events at {self._monotonic:.6f}, seed {self.seed}")
        if self._queue and self._queue[0][0] <= self._monotonic:
            heapq.heappop(self._queue)[2]()
            return True
        for clocked in self._clocked:
            due = clocked.next_timeout()
            if due is not None and due <= self._monotonic:
                clocked.handle_timeout()
        return True

    def run_for(self, seconds: float, *, steps: int = 100_000) -> int:
        """Let `seconds` pass. Returns the number of events; raises `Livelock` above `steps` of them."""
        return self.drive_bounded(self._monotonic + seconds, steps)

    def settle(self, seconds: float) -> None:
        """Let `seconds` pass, and what leaves in the last moment come to its end."""
        self.run_for(seconds)
        self.run_until(lambda: not self.under_way, timeout=5.0)

    def drive_bounded(self, until: float, steps: int) -> int:
        """Run until the monotonic time `until`; at most `steps` events, else `Livelock`."""
        count = 0
        while self.step(until):
            count += 1
            if count > steps:
                raise Livelock(f"more than {steps} events until {until:.3f}, seed {self.seed}")
        if self._monotonic < until < float("inf"):
            self._monotonic = until
            self._steps_now = 0
        return count

    def run_until(
        self, condition: Callable[[], bool], *, timeout: float = 600.0, steps: int = 100_000
    ) -> bool:
        """Run until the condition holds; False if it does not within `timeout` seconds."""
        end = self._monotonic + timeout
        for _ in range(steps):
            if condition():
                return True
            if not self.step(end):
                return condition()
        raise Livelock(f"more than {steps} events, seed {self.seed}")

    # -- sending -------------------------------------------------------------------------------

    def send(
        self,
        source: IpAddress,
        destination: IpAddress,
        ports: tuple[int, int] | None,
        data: bytes = b"",
        esp: VirtualEsp | None = None,
    ) -> None:
        """Put a datagram on the wire. `ports` are (source, destination)."""
        flight = Flight(self._flights, -1, self._monotonic, source, destination, ports, data, esp)
        if flight.is_ike:
            flight = replace(flight, ike_index=self._sent_by.get(source, 0))
            self._sent_by[source] = flight.ike_index + 1
        self._flights += 1
        self.trace.append(flight)
        copies = self._meddle(flight)
        gate = self._gates.get(source)
        if gate is not None:
            translated = gate.outward(flight, self._monotonic)
            if translated is None:
                self.lost += 1
                return
            flight = translated
        if copies is not None:
            for extra, octets in copies:
                self._carry(replace(flight, data=octets), extra, Conditions(latency=self._latency(flight)))
            return
        self._carry(flight, 0.0, self._link(flight))

    def ike_datagrams_of(self, source: IpAddress) -> int:
        """How many IKE datagrams this address has sent."""
        return self._sent_by.get(source, 0)

    def _meddle(self, flight: Flight) -> Deliveries | None:
        if not flight.is_ike:
            return None
        for meddler in self.meddlers:
            copies = meddler(flight, self.random)
            if copies is not None:
                return copies
        return None

    def _link(self, flight: Flight) -> Conditions:
        return self.links.get((flight.source, flight.destination), self.conditions)

    def _latency(self, flight: Flight) -> float:
        return self._link(flight).latency

    def _carry(self, flight: Flight, extra: float, link: Conditions) -> None:
        random = self.random
        octets = _UDP_OVERHEAD[flight.destination.version] + (
            flight.esp.packet.size + 40 if flight.esp is not None else len(flight.data)
        )
        faulty = flight.esp is None or link.packets_too
        if link.mtu and octets > link.mtu:
            self.lost += 1
            return
        if faulty and link.loss and random.random() < link.loss:
            self.lost += 1
            return
        copies = 2 if faulty and link.duplicate and random.random() < link.duplicate else 1
        for _ in range(copies):
            arriving = flight
            if faulty and link.corrupt and flight.data and random.random() < link.corrupt:
                arriving = replace(flight, data=flip(flight.data, random.randrange(8 * len(flight.data))))
            delay = link.latency + extra + (random.random() * link.jitter if link.jitter else 0.0)
            self.schedule(delay, lambda f=arriving: self._arrive(f))  # type: ignore[misc]

    def _arrive(self, flight: Flight) -> None:
        node = self._nodes.get(flight.destination)
        if node is None:
            self.lost += 1
            return
        node.arrive(flight)


def flip(data: bytes, bit: int) -> bytes:
    """The octets with one bit turned."""
    at, mask = bit // 8, 1 << (bit % 8)
    return data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :]


class Gate(Protocol):
    """What stands between an inside address and the network."""

    def outward(self, flight: Flight, now: float) -> Flight | None: ...


class Nat:
    """Network address and port translation, IPv4 to IPv4: one outside address for all inside.

    A mapping answers only addresses that the inside has sent to, and is forgotten `timeout` seconds
    after its last use. Plain ESP has no ports and does not pass. `rebind` gives every mapping a new
    port, as a rebooted or overloaded router does.
    """

    def __init__(
        self, network: Network, outside: IpAddress, *inside: IpAddress, timeout: float = 120.0
    ) -> None:
        self.network = network
        self.outside = outside
        self.timeout = timeout
        self._next_port = 20_000
        self._out: dict[tuple[IpAddress, int], int] = {}
        self._in: dict[int, tuple[IpAddress, int]] = {}
        self._peers: dict[int, set[IpAddress]] = {}
        self._used: dict[int, float] = {}
        network.attach(self, outside)
        network.put_behind(self, *inside)

    def rebind(self) -> None:
        self._out.clear()
        self._in.clear()
        self._peers.clear()
        self._used.clear()

    def outward(self, flight: Flight, now: float) -> Flight | None:
        if flight.ports is None:
            return None
        key = (flight.source, flight.ports[0])
        port = self._out.get(key)
        if port is not None and now - self._used[port] > self.timeout:
            self._forget(port)
            port = None
        if port is None:
            port = self._next_port
            self._next_port += 1
            self._out[key] = port
            self._in[port] = key
            self._peers[port] = set()
        self._used[port] = now
        self._peers[port].add(flight.destination)
        return replace(flight, source=self.outside, ports=(port, flight.ports[1]))

    def _forget(self, port: int) -> None:
        self._out.pop(self._in.pop(port))
        del self._peers[port], self._used[port]

    def arrive(self, flight: Flight) -> None:
        now = self.network.now.monotonic
        port = flight.ports[1] if flight.ports is not None else -1
        inside = self._in.get(port)
        if inside is None or flight.ports is None or flight.source not in self._peers[port]:
            self.network.lost += 1
            return
        if now - self._used[port] > self.timeout:
            self._forget(port)
            self.network.lost += 1
            return
        self._used[port] = now
        self.network._arrive(replace(flight, destination=inside[0], ports=(flight.ports[0], inside[1])))
