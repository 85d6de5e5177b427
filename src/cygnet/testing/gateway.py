"""A gateway in the virtual network: the real negotiation, a model data plane, one or more addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path as FilePath
from typing import Any

from cygnet.auth import passwords
from cygnet.auth.ask import CheckPassword, Fetch, FetchAll
from cygnet.auth.credentials import Credentials
from cygnet.config.load import load
from cygnet.config.requests import Pool
from cygnet.crypto.entropy import Entropy, SeededEntropy
from cygnet.ike.configuration import Connection, Options
from cygnet.ike.effects import (
    Ask,
    Configure,
    Effect,
    Emit,
    Installed,
    InstallPolicy,
    InstallSa,
    LeaseAddresses,
    LookAtTraffic,
    RemovePolicy,
    RemoveSa,
    Resolve,
    ReturnAddresses,
    SendDatagram,
    UpdateSa,
)
from cygnet.ike.endpoint import Endpoint
from cygnet.ike.errors import Failure
from cygnet.ike.events import Dropped, Event, NegotiationFailed, OperationDone
from cygnet.ike.remote_access import HostConfiguration
from cygnet.ike.view import IkeSaView
from cygnet.ike.world import Path
from cygnet.policy.selectors import TrafficSelector
from cygnet.store.leases import Leases
from cygnet.testing.dataplane import DataPlane
from cygnet.testing.network import Flight, IpAddress, Network, Packet


class Gateway:
    """One end. `configuration` is the text of a `cygnet.toml`, secrets included; or give
    `connections` and `credentials`. The endpoint's randomness comes from the network's seed and `name`.

    `events` are all that the negotiation told; `operations` the results of what was asked for
    (None: success). `names` are the host names that this gateway's resolver knows. `leases` are its address
    pools (those of another gateway, given to its successor, survive it). `host` is how it was set up with
    what a gateway gave it.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        addresses: str | Iterable[str],
        configuration: str = "",
        *,
        connections: Iterable[Connection] = (),
        credentials: Credentials | None = None,
        options: Options | None = None,
        entropy: Entropy | None = None,
        pools: Iterable[Pool] = (),
        leases: Leases | None = None,
    ) -> None:
        self.network = network
        self.name = name
        texts = [addresses] if isinstance(addresses, str) else list(addresses)
        self.addresses: tuple[IpAddress, ...] = tuple(ip_address(text) for text in texts)
        if configuration:
            loaded = load(FilePath(f"{name}.toml"), configuration)
            connections = (*loaded.connections, *connections)
            pools = (*loaded.pools, *pools)
            credentials = credentials or loaded.credentials()
            options = options or loaded.gateway.options
        self.options = options or Options()
        self.credentials = credentials or Credentials()
        self.names: dict[str, tuple[IpAddress, ...]] = {}
        self.web: Callable[[Fetch], bytes | None] = lambda fetch: None
        """What is fetched over HTTP; None: it cannot be had."""
        self.events: list[Event] = []
        self.operations: dict[int, Failure | None] = {}
        self.plane = DataPlane(self)
        entropy = entropy or SeededEntropy(hash_of(network.seed, name))
        self.endpoint = Endpoint(self.options, self.credentials, entropy, network.now)
        self.leases = leases or Leases(lambda: network.now.wall)
        for pool in pools:
            self.leases.load(pool)
        self.host = HostConfiguration()
        network.attach(self, *self.addresses)
        network.attach_clock(self)
        for connection in connections:
            self.load(connection)

    @property
    def address(self) -> IpAddress:
        """The first address."""
        return self.addresses[0]

    # -- what a person asks ---------------------------------------------------------------------

    def load(self, connection: Connection) -> None:
        self.endpoint.load(connection, self.network.now)
        self._carry_out()

    def unload(self, name: str) -> None:
        self.endpoint.unload(name, self.network.now)
        self._carry_out()

    def initiate(self, connection: str, child: str = "") -> int:
        """Returns the operation's number; its outcome will stand in `operations`."""
        return self._asked(self.endpoint.initiate(connection, child, self.network.now))

    def terminate(self, child: str = "", connection: str = "", *, force: bool = False) -> int:
        """Close the child of this name, or the whole IKE SA. Raises LookupError when there is none."""
        ike_sa, pair = self.numbers_of(child, connection)
        return self._asked(self.endpoint.terminate(ike_sa, pair, force, self.network.now))

    def rekey(self, child: str = "", connection: str = "") -> int:
        """Rekey the child of this name, or the IKE SA. Raises LookupError when there is none."""
        ike_sa, pair = self.numbers_of(child, connection)
        return self._asked(self.endpoint.rekey(ike_sa, pair, self.network.now))

    def numbers_of(self, child: str = "", connection: str = "") -> tuple[int, int]:
        """(IKE SA, pair) of the newest live child of this name; pair 0 where `child` is empty."""
        for view in reversed(self.sas()):
            if connection in ("", view.connection):
                pairs = [c.pair for c in view.children if c.name == child and c.state == "INSTALLED"]
                if not child or pairs:
                    return view.unique_id, max(pairs, default=0)
        raise LookupError(f"{self.name} has no SA for {connection} {child}")

    def _asked(self, operation: int) -> int:
        self._carry_out()
        return operation

    def die(self) -> None:
        """Power off: nothing is said to anybody, everything here is forgotten."""
        self.network.detach(self)

    # -- packets --------------------------------------------------------------------------------

    def send(self, packet: Packet) -> str:
        """A packet from the network behind this gateway; see `DataPlane.send`."""
        return self.plane.send(packet)

    # -- looking --------------------------------------------------------------------------------

    def sas(self) -> tuple[IkeSaView, ...]:
        return tuple(self.endpoint.sas())

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def failures(self) -> list[Failure]:
        """Why negotiations failed, in order."""
        return [event.failure for event in self.of(NegotiationFailed)]

    def drops(self) -> list[str]:
        """The reasons of datagrams dropped in silence, in order."""
        return [event.drop.value for event in self.of(Dropped)]

    # -- what the world does --------------------------------------------------------------------

    def arrive(self, flight: Flight) -> None:
        if flight.esp is not None:
            self.plane.arrive(flight, flight.esp)
            return
        if flight.ports is None:
            return
        source_port, local_port = flight.ports
        data = flight.data
        if local_port == self.options.port_nat_t:
            if data[:4] != bytes(4):
                return  # ESP of a session that the model does not know, or a keepalive
            data = data[4:]
        self.receive(data, Path(flight.destination, local_port, flight.source, source_port))

    def receive(self, data: bytes, path: Path) -> None:
        """An IKE datagram, its non-ESP marker already stripped."""
        self.endpoint.receive(data, path, self.network.now)
        self._carry_out()

    def next_timeout(self) -> float | None:
        return self.endpoint.next_timeout()

    def handle_timeout(self) -> None:
        self.endpoint.handle_timeout(self.network.now)
        self._carry_out()

    def answer(self, ask_id: int, result: Any) -> None:
        if ask_id:
            self.endpoint.resume(ask_id, result, self.network.now)
            self._carry_out()

    def acquire(self, flow: int, local: TrafficSelector, remote: TrafficSelector) -> None:
        def report() -> None:
            self.endpoint.acquire(flow, local, remote, self.network.now)
            self._carry_out()

        self.network.schedule(0.0, report)

    def expire(self, pair: int, direction: int, *, hard: bool, why: str) -> None:
        def report() -> None:
            self.endpoint.expire(pair, direction, hard, why, self.network.now)
            self._carry_out()

        self.network.schedule(0.0, report)

    def first_use(self, pair: int, spi: int) -> None:
        def report() -> None:
            self.endpoint.first_use(pair, spi, self.network.now)
            self._carry_out()

        self.network.schedule(0.0, report)

    def peer_moved(self, pair: int, remote: IpAddress, port: int) -> None:
        def report() -> None:
            self.endpoint.peer_moved(pair, remote, port, self.network.now)
            self._carry_out()

        self.network.schedule(0.0, report)

    def _carry_out(self) -> None:
        for effect in self.endpoint.effects():
            self._carry_out_one(effect)

    def _carry_out_one(self, effect: Effect) -> None:
        match effect:
            case SendDatagram(path, data):
                self.network.send(path.local, path.remote, (path.local_port, path.remote_port), data)
            case Configure(ask_id, host):
                self.host = host
                self.network.schedule(0.0, lambda: self.answer(ask_id, Installed()))
            case ReturnAddresses(leases):
                self.leases.give_back(leases)
            case Ask(ask_id, LeaseAddresses() as request, _):
                self.network.schedule(0.0, lambda: self.answer(ask_id, self.leases.lease(request)))
            case InstallSa() | RemoveSa() | UpdateSa() | InstallPolicy() | RemovePolicy():
                self.plane.order(effect)
            case Ask(ask_id, LookAtTraffic(pairs), _):
                self.network.schedule(0.0, lambda: self.answer(ask_id, self.plane.traffic(pairs)))
            case Ask(ask_id, Resolve(host), _):
                known = self.names.get(host, ())
                self.network.schedule(0.0, lambda: self.answer(ask_id, known))
            case Ask(ask_id, CheckPassword(stored, password), _):
                outcome = passwords.check(stored, password)
                self.network.schedule(0.0, lambda: self.answer(ask_id, outcome))
            case Ask(ask_id, FetchAll(fetches), _):
                bodies = tuple(map(self.web, fetches))
                self.network.schedule(0.0, lambda: self.answer(ask_id, bodies))
            case Emit(event):
                self.events.append(event)
                if isinstance(event, OperationDone):
                    self.operations[event.operation] = event.failure


def hash_of(seed: int, name: str) -> int:
    """A number for `SeededEntropy`, the same in every process (`hash` of a string is not)."""
    return seed * 1_000_003 + int.from_bytes(name.encode(), "big") % 1_000_003
