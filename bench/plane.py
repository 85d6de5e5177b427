"""A data plane under hand-made commands, without IKE: for the bench and the network tests.

Two `Plane`s in two namespaces become the ends of one tunnel by `tunnel`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Descriptors, Options, open_all
from cygnet.lab.namespaces import Namespace
from cygnet.wire.numbers import Encr, Integ

R = TypeVar("R", bound=messages.Report)
ANSWER_WITHIN = 10.0


class PlaneFailed(Exception):
    """What the data plane said, or that it said nothing."""


class Plane:
    """`python -m cygnet.dataplane` in a namespace, and its pair's other end."""

    def __init__(self, namespace: Namespace, options: Options | None = None) -> None:
        self.namespace = namespace
        self.descriptors: Descriptors = namespace.inside(lambda: open_all(options=options))
        self.reports: list[messages.Report] = []
        self.process: subprocess.Popen[str] | None = None
        self._request = 0
        self.start()

    def start(self) -> None:
        """Start, or start again with the same descriptors and a new pair."""
        self.pair, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pair.settimeout(ANSWER_WITHIN)
        arguments, fds = self.descriptors.for_dataplane(theirs.fileno())
        self.process = subprocess.Popen(
            self.namespace.argv([sys.executable, "-m", "cygnet.dataplane", *arguments]),
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def ask(self, command: Callable[[int], messages.Command], answer: type[R]) -> R:
        """Send a command and wait for its answer; other reports are kept in `reports`."""
        self._request += 1
        self.pair.send(messages.encode(command(self._request)))
        while True:
            report = self._receive()
            if isinstance(report, answer) and getattr(report, "request", None) == self._request:
                return report
            self.reports.append(report)

    def do(self, command: Callable[[int], messages.Command]) -> None:
        """Raises PlaneFailed with the error of `Done`."""
        done = self.ask(command, messages.Done)
        if done.error:
            raise PlaneFailed(done.error)

    def wait_for(self, kind: type[R], within: float = ANSWER_WITHIN) -> R:
        """The next report of this kind, or one that came before."""
        for index, report in enumerate(self.reports):
            if isinstance(report, kind):
                del self.reports[index]
                return report
        self.pair.settimeout(within)
        try:
            while True:
                report = self._receive()
                if isinstance(report, kind):
                    return report
                self.reports.append(report)
        finally:
            self.pair.settimeout(ANSWER_WITHIN)

    def counters(self) -> messages.Counters:
        return self.ask(lambda request: messages.ReadCounters(request, ()), messages.Counters)

    def _receive(self) -> messages.Report:
        try:
            data = self.pair.recv(messages.MAX_MESSAGE)
        except TimeoutError as error:
            raise PlaneFailed("the data plane does not answer") from error
        if not data:
            raise PlaneFailed("the data plane has ended")
        return messages.decode_report(data)

    def kill(self) -> None:
        """SIGKILL, and wait for its end. The descriptors stay open here."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.pair.close()

    def close(self) -> None:
        self.kill()
        self.descriptors.close()

    def __enter__(self) -> Plane:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Side:
    """One end: its outer address and what it protects (prefixes or addresses)."""

    outer: str
    inner: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """An SA pair between two sides; keys and SPIs are made from `number`."""

    left: Side
    right: Side
    number: int = 1
    encryption: int = Encr.AES_GCM_16
    key_bits: int = 256
    integrity: int = Integ.NONE
    key_length: int = 36
    integrity_length: int = 0
    port: int = 4500
    """0: plain ESP."""
    changed: dict[str, Any] = field(default_factory=dict)

    def policy(self, left: bool, trap: bool = False) -> Callable[[int], messages.Command]:
        mine, theirs = (self.left, self.right) if left else (self.right, self.left)
        rules = tuple(
            messages.Rule(1, selector(a), selector(b), self.number)
            for a in mine.inner
            for b in theirs.inner
            if ip_network(a).version == ip_network(b).version
        )
        return lambda request: messages.InstallPolicy(
            request,
            self.number,
            f"tunnel-{self.number}",
            0,
            rules,
            trap,
            packed(mine.outer),
            packed(theirs.outer),
        )

    def sa(self, left: bool, direction: int, **changed: Any) -> Callable[[int], messages.Command]:
        mine, theirs = (self.left, self.right) if left else (self.right, self.left)
        to_right = left == (direction == 1)
        spi = 0x10000 * self.number + 256 + (1 if to_right else 2)
        values: dict[str, Any] = {
            "direction": direction,
            "protocol": 50,
            "mode": 1,
            "spi": spi,
            "pair": self.number,
            "flow": self.number,
            "local": packed(mine.outer),
            "remote": packed(theirs.outer),
            "local_port": self.port,
            "remote_port": self.port,
            "encryption": self.encryption,
            "key_bits": self.key_bits,
            "integrity": self.integrity,
            "encryption_key": bytes((spi + i) & 255 for i in range(self.key_length)),
            "integrity_key": bytes((spi + i) & 255 for i in range(self.integrity_length)),
            "esn": False,
            "replay_window": 1024,
            "local_selectors": tuple(map(selector, mine.inner)),
            "remote_selectors": tuple(map(selector, theirs.inner)),
            "soft_bytes": 0,
            "hard_bytes": 0,
            "soft_packets": 0,
            "hard_packets": 0,
            "hard_seconds": 0.0,
            "copy_dscp_out": True,
            "copy_dscp_in": False,
            "copy_ecn": True,
            "copy_df": True,
            "notify_first_use": False,
        }
        return lambda request: messages.InstallSa(request, **(values | self.changed | changed))


def install(left: Plane, right: Plane, pair: Pair, **changed: Any) -> None:
    """Policy and both SAs on both sides, inbound first."""
    for plane, is_left in ((left, True), (right, False)):
        plane.do(pair.policy(is_left))
    for direction in (0, 1):
        for plane, is_left in ((left, True), (right, False)):
            plane.do(pair.sa(is_left, direction, **changed))


def packed(address: str) -> bytes:
    return ip_address(address).packed


def selector(text: str, protocol: int = 0, ports: tuple[int, int] = (0, 65535)) -> messages.Selector:
    network = ip_network(text)
    first, last = network.network_address, network.broadcast_address
    return messages.Selector(network.version, protocol, first.packed, last.packed, *ports)


@contextmanager
def opened(*planes: Plane) -> Iterator[None]:
    try:
        yield
    finally:
        for plane in planes:
            plane.close()


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
