"""In the guest: moon, whose engine is the kernel, with the guest's network card as its outer link."""

from __future__ import annotations

import random
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options, open_all
from cygnet.dataplane.engines.kernel import KernelEngine
from cygnet.dataplane.translate import address, policy, sa_parameters
from cygnet.lab.namespaces import Namespace, connect
from cygnet.lab.topology import ALICE, ALICE6, MOON, MOON6, MOON_INNER, MOON_INNER6, SUN, SUN6
from cygnet.policy.sa import UdpEncapsulation
from tests.guest.peer import ECHO_PORT

WITHIN = 20.0


class Moon:
    """The kernel engine in this process, its sockets in moon's namespace; commands are the daemon's."""

    def __init__(self, space: Namespace, alice: Namespace, **options: Any) -> None:
        self.space, self.alice = space, alice
        self.reports: list[messages.Report] = []
        self.options = Options(tun="moon0", engine="kernel", **options)
        # The sockets outlive the engine's process, as the supervisor's copies do.
        self.descriptors = space.inside(lambda: open_all(options=self.options))
        self.start()

    def start(self) -> None:
        self.engine = self.space.inside(lambda: KernelEngine(self.options, self.reports.append))

    def kill(self) -> None:
        """As a process that dies: its sockets are closed, nothing else happens."""
        self.engine.close()

    def close(self) -> None:
        self.clear()
        self.kill()
        self.descriptors.close()

    def do(self, make: Callable[[int], messages.Command]) -> None:
        error = self.space.inside(lambda: self._carry_out(make(1)))
        assert not error, error

    def _carry_out(self, command: messages.Command) -> str:
        engine = self.engine
        match command:
            case messages.InstallPolicy():
                return engine.change_policies([policy(command)])[0]
            case messages.RemovePolicy():
                return engine.change_policies([command.policy])[0]
            case messages.InstallSa():
                return engine.install_sas([sa_parameters(command)])[0]
            case messages.RemoveSa():
                engine.remove_sa(command.direction, command.spi, command.remote, command.linger, command.pair)
            case messages.UpdateSa():
                ports = None
                if command.local_port:
                    ports = UdpEncapsulation(command.local_port, command.remote_port)
                engine.update_sa(command.pair, address(command.local), address(command.remote), ports)
            case messages.Sweep():
                engine.sweep(command.policies, command.pairs)
        return ""

    def wait_for(self, kind: type[Any], within: float = WITHIN) -> Any:
        """The next report of this kind."""
        deadline = time.monotonic() + within
        while True:
            for index, report in enumerate(self.reports):
                if isinstance(report, kind):
                    return self.reports.pop(index)
            assert time.monotonic() < deadline, f"no {kind.__name__} among {self.reports}"
            if select.select([self.engine.fileno()], [], [], 0.2)[0]:
                self.space.inside(self.engine.readable)
            self.space.inside(self.engine.tick)

    def clear(self) -> None:
        self.space.inside(self.engine.clear)
        self.reports.clear()

    def counters(self) -> dict[int, messages.PairCounters]:
        return {one.pair: one for one in self.space.inside(lambda: self.engine.counters(()))}

    def show(self) -> str:
        return (
            self.space.run("ip", "-s", "xfrm", "state").stdout + self.space.run("ip", "xfrm", "policy").stdout
        )


@contextmanager
def moon_and_alice() -> Iterator[tuple[Namespace, Namespace]]:
    """moon with the guest's card, alice behind it; the card comes back when this ends."""
    with Namespace("moon") as moon, Namespace("alice") as alice:
        connect(moon, "inner", alice, "eth0")
        subprocess.run(["ip", "link", "set", "eth0", "netns", str(moon.pid)], check=True)
        moon.ip(
            f"addr add {MOON}/24 dev eth0", f"addr add {MOON6}/64 dev eth0 nodad", "link set eth0 up",
            f"addr add {MOON_INNER}/16 dev inner", f"addr add {MOON_INNER6}/64 dev inner nodad",
            f"route add default via {SUN}", f"route add ::/0 via {SUN6}",
        )  # fmt: skip
        moon.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        alice.ip(
            f"addr add {ALICE}/16 dev eth0", f"addr add {ALICE6}/64 dev eth0 nodad",
            f"route add default via {MOON_INNER}", f"route add ::/0 via {MOON_INNER6}",
        )  # fmt: skip
        try:
            yield moon, alice
        finally:
            moon.ip("link set eth0 netns 1")


def echoed(
    source: Namespace, here: str, there: str, sizes: tuple[int, ...] = (1, 57, 1000, 1372), seed: int = 1
) -> None:
    """Datagrams of random octets come back from `there` as they went; each may be sent a few times."""
    family = socket.AF_INET6 if ":" in there else socket.AF_INET
    sock = source.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))
    octets = random.Random(seed)
    with sock:
        sock.bind((here, 0))
        sock.settimeout(0.5)
        for size in sizes:
            data = octets.randbytes(size)
            assert _answer(sock, data, (there, ECHO_PORT)) == data, f"{size} octets did not come back"


def _answer(sock: socket.socket, data: bytes, target: tuple[str, int]) -> bytes:
    for _ in range(16):
        try:
            sock.sendto(data, target)
            return sock.recv(1 << 16)
        except (TimeoutError, PermissionError, BlockingIOError):
            continue
        except OSError as error:
            if error.errno not in (3, 11, 101, 113):
                raise
    return b""
