"""Ready-made gateways: two that protect what lies behind them, or a full mesh. One line a simulation.

pair = Pair(seed=7)
pair.up()
pair.b.rekey(child="net")
pair.settle()
assert_agreement(pair.a, pair.b, up=[("peer", "net")])
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from cygnet.testing.configurations import connection_text, gateway_address
from cygnet.testing.gateway import Gateway
from cygnet.testing.network import Conditions, Network, Packet

QUIET: Final = 400.0
"""Seconds after which retransmissions (165 s) and the liveness check behind them are surely over."""


class Pair:
    """Two gateways, `a` (192.0.2.1, behind it 10.1.0.0/16) and `b` (192.0.2.2, 10.2.0.0/16).

    `connection`, `settings` and `options` are TOML lines for both ends' connection "peer", for each
    child, and for the section of that name; `a_only`, `b_settings` and so on replace them at one end.
    `version` is the IKE version.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        conditions: Conditions | None = None,
        connection: str = "",
        settings: str = "",
        children: Iterable[str] = ("net",),
        a_only: str | None = None,
        b_only: str | None = None,
        a_settings: str | None = None,
        b_settings: str | None = None,
        options: str = "",
        b_options: str | None = None,
        network: Network | None = None,
        version: int = 2,
    ) -> None:
        self.network = network or Network(seed, conditions=conditions)
        self.children = tuple(children)
        texts = []
        for local, remote, own, child, head in (
            (1, 2, a_only, a_settings, options),
            (2, 1, b_only, b_settings, options if b_options is None else b_options),
        ):
            text = connection_text(
                "peer",
                local,
                remote,
                connection=connection if own is None else own,
                children=self.children,
                settings=settings if child is None else child,
                version=version,
            )
            texts.append(f"[options]\n{head}\n{text}")
        self.a_text, self.b_text = texts
        self.a = Gateway(self.network, "a", gateway_address(1), self.a_text)
        self.b = Gateway(self.network, "b", gateway_address(2), self.b_text)

    @property
    def both(self) -> tuple[Gateway, Gateway]:
        return self.a, self.b

    def up(self) -> Pair:
        """`a` initiates all children; returns when they are up. RuntimeError if they do not come up."""
        operations = [self.a.initiate("peer", child) for child in self.children]
        done = self.network.run_until(lambda: all(o in self.a.operations for o in operations))
        failed = [f for o in operations if (f := self.a.operations.get(o)) is not None]
        if not done or failed:
            raise RuntimeError(f"seed {self.network.seed}: did not come up: {failed}")
        self.network.run_for(2.0)
        return self

    def settle(self, seconds: float = QUIET) -> None:
        """Let everything that is under way come to its end."""
        self.network.settle(seconds)

    def restart(self, name: str) -> Gateway:
        """The gateway `a` or `b` loses power and comes back with nothing but its configuration."""
        old = self.a if name == "a" else self.b
        old.die()
        text = self.a_text if name == "a" else self.b_text
        new = Gateway(self.network, f"{old.name}'", str(old.address), text)
        if name == "a":
            self.a = new
        else:
            self.b = new
        return new

    def packet(self, *, forward: bool = True, number: int = 0, size: int = 100) -> Packet:
        """A packet from a's network to b's, or back."""
        ends = ip_address("10.1.0.5"), ip_address("10.2.0.5")
        source, destination = ends if forward else ends[::-1]
        return Packet(17, source, destination, 5000, 5000, size, number)

    def talk(self, count: int = 1, *, apart: float = 0.0) -> tuple[int, int]:
        """Send `count` packets each way; returns how many arrived at b and at a."""
        before = len(self.b.plane.received), len(self.a.plane.received)
        for number in range(count):
            self.a.send(self.packet(number=number))
            self.b.send(self.packet(forward=False, number=number))
            if apart:
                self.network.run_for(apart)
        self.network.run_for(1.0)
        return len(self.b.plane.received) - before[0], len(self.a.plane.received) - before[1]


class Mesh:
    """`count` gateways, each with a connection "to-N" to every other; gateway N protects 10.N.0.0/16."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        conditions: Conditions | None = None,
        connection: str = "",
        settings: str = "",
    ) -> None:
        self.network = Network(seed, conditions=conditions)
        self.gateways: list[Gateway] = []
        for n in range(1, count + 1):
            text = "".join(
                connection_text(f"to-{m}", n, m, connection=connection, settings=settings)
                for m in range(1, count + 1)
                if m != n
            )
            self.gateways.append(Gateway(self.network, f"g{n}", gateway_address(n), text))

    def up(self) -> Mesh:
        """Each initiates to all with a higher number, all at once. RuntimeError if one stays down."""
        asked = [
            (gateway, gateway.initiate(f"to-{m}", "net"))
            for n, gateway in enumerate(self.gateways, 1)
            for m in range(n + 1, len(self.gateways) + 1)
        ]
        done = self.network.run_until(lambda: all(o in g.operations for g, o in asked), steps=1_000_000)
        failed = [g.operations[o] for g, o in asked if g.operations.get(o) is not None]
        if not done or failed:
            raise RuntimeError(f"seed {self.network.seed}: did not come up: {failed}")
        return self
