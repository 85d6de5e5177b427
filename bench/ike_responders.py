"""The responders that are measured: the real daemon with a stub for its data plane, and strongSwan.

Of Cygnet it is `python -m cygnet.daemon` itself, with its sockets, its control socket and its log;
this file plays the supervisor. The stub answers each command at once from a process of its own, so
that what is measured is the daemon's part of an installation and nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.ike_load import Load
from bench.ike_load_v1 import LoadV1
from cygnet.daemon import bundle, kept
from cygnet.daemon.settings import Inherited
from cygnet.dataplane import messages
from cygnet.lab import strongswan
from cygnet.lab.namespaces import LabError, Namespace, connect, namespaces
from cygnet.wire.numbers import KeMethod

PSK = b"only for measuring"
IDENTITY = "gateway.example"
SOURCES = 8
SUITES = {1: "aes256-sha256", 2: "aes256gcm16-prfsha256"}
GROUPS = {KeMethod.CURVE_25519: "x25519", KeMethod.MODP_2048: "modp2048"}
START_WITHIN = 30.0

CONFIGURATION = """
[options]
control_socket = "{directory}/vici"
port = {port}
port_nat_t = {port_nat_t}

[connections.gateway]
version = {version}
proposals = "{proposal}"
unique = "never"

[connections.gateway.local]
auth = "psk"
id = "{identity}"

[connections.gateway.remote]
auth = "psk"

[connections.gateway.children.net]
local_ts = "0.0.0.0/0"
remote_ts = "10.0.0.0/8"
esp_proposals = "aes256gcm16"

[secrets.ike-all]
secret = "{psk}"
"""

SWANCTL = """
connections {{
  gateway {{
    version = 2
    local_addrs = {address}
    proposals = aes256gcm16-prfsha256-x25519
    unique = never
    local {{
      auth = psk
      id = {identity}
    }}
    remote {{
      auth = psk
    }}
    children {{
      net {{
        local_ts = 0.0.0.0/0
        remote_ts = 10.0.0.0/8
        esp_proposals = aes256gcm16
      }}
    }}
  }}
}}
secrets {{
  ike-all {{
    secret = "{psk}"
  }}
}}
"""
# What a load from a few addresses would trip over, and what would measure its log or its routes.
CHARON_OPTIONS = """
  dos_protection = no
  install_routes = no
  ikesa_table_size = 16384
  ikesa_table_segments = 64
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process: CPU seconds since its start (user and system), resident octets."""

    cpu: float
    resident: int


def usage(pid: int) -> Usage:
    # The CPU-time clock of another process: clock_getcpuclockid(3), to the nanosecond.
    cpu = time.clock_gettime((~pid << 3) | 2)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(cpu, pages * resource.getpagesize())


@dataclass(slots=True)
class Responder:
    pid: int
    load: Load

    def usage(self) -> Usage:
        return usage(self.pid)


def stub(descriptor: int) -> None:
    """A data plane that agrees to everything."""
    pair = socket.socket(fileno=descriptor)
    while data := pair.recv(messages.MAX_MESSAGE):
        command = messages.decode_command(data)
        if isinstance(command, messages.Dump):
            pair.send(messages.encode(messages.Dumped(command.request, (), (), "stub", {})))
        elif command.request:
            pair.send(messages.encode(messages.Done(command.request, "")))


def _wait_ready(channel: socket.socket, daemon: subprocess.Popen[bytes]) -> None:
    channel.settimeout(0.5)
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline and daemon.poll() is None:
        with contextlib.suppress(TimeoutError):
            word = channel.recv(65536).partition(b" ")[0]
            if word == b"ready":
                return
            if word == b"refused" or not word:
                break
    raise LabError("the daemon did not become ready")


@contextlib.contextmanager
def cygnet(
    module: str = "cygnet.daemon", version: int = 2, group: int = KeMethod.CURVE_25519
) -> Iterator[Responder]:
    """The daemon under a load of PSK handshakes; `module` may be one that wraps it. Raises LabError."""
    text = CONFIGURATION.format(
        directory="{directory}",
        port="{port}",
        port_nat_t="{port_nat_t}",
        identity=IDENTITY,
        psk=PSK.decode(),
        version=version,
        proposal=f"{SUITES[version]}-{GROUPS[group]}",
    )
    with daemon(text, module=module) as (pid, _, port_nat_t):
        sources = [f"127.0.1.{number + 1}" for number in range(SOURCES)]
        kind = LoadV1 if version == 1 else Load
        load = kind(sources, "127.0.0.1", PSK, port_nat_t, IDENTITY, group)
        with contextlib.closing(load):
            yield Responder(pid, load)


@contextlib.contextmanager
def daemon(
    text: str, equip: Callable[[Path], None] | None = None, module: str = "cygnet.daemon"
) -> Iterator[tuple[int, int, int]]:
    """(process id, port, NAT-T port) of the daemon on loopback, on ports of its own. `text`: its
    configuration, with {directory}, {port}, {port_nat_t}; `equip` puts files beside it. Raises LabError."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lanes = []
        for _ in range(2):
            lane = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            lane.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            lane.bind(("127.0.0.1", 0))
            lanes.append(lane)
        port, port_nat_t = (lane.getsockname()[1] for lane in lanes)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(directory / "vici"))
        listener.listen()
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (*pair, channel, theirs):
            stack.callback(end.close)
        file = directory / "cygnet.toml"
        file.touch(mode=0o600)
        file.write_text(text.format(directory=directory, port=port, port_nat_t=port_nat_t))
        if equip is not None:
            equip(directory)
        configuration, _ = bundle.obtain(file)
        stack.callback(os.close, configuration)
        remembered = kept.create()
        stack.callback(os.close, remembered)
        inherited = Inherited(
            lanes=((lanes[0].fileno(), False), (lanes[1].fileno(), True)),
            plane=pair[0].fileno(),
            channel=theirs.fileno(),
            listener=listener.fileno(),
            configuration=configuration,
            kept=remembered,
        )
        plane = stack.enter_context(
            _process("bench.ike_responders", [str(pair[1].fileno())], [pair[1].fileno()])
        )
        descriptors = [lanes[0].fileno(), lanes[1].fileno(), inherited.plane, inherited.channel]
        descriptors += [inherited.listener, inherited.configuration, inherited.kept]
        arguments = [msgspec.json.encode(inherited).decode()]
        measured = stack.enter_context(_process(module, arguments, descriptors))
        for end in (*pair, theirs, *lanes, listener):
            end.close()
        _wait_ready(channel, measured)
        yield measured.pid, port, port_nat_t
        del plane


@contextlib.contextmanager
def _process(module: str, arguments: list[str], descriptors: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], pass_fds=descriptors)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def charon() -> Iterator[Responder]:
    """strongSwan in a namespace, with its userspace ESP and a silent log. Raises LabError."""
    if not strongswan.available():
        raise LabError("strongSwan is not installed")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateway, peers = stack.enter_context(namespaces("ike-gateway", "ike-peers"))
        connect(gateway, "outer", peers, "outer")
        gateway.ip("addr add 198.18.0.1/15 dev outer", "route add default dev outer")
        sources = [f"198.19.0.{number + 1}" for number in range(SOURCES)]
        peers.ip(*(f"addr add {source}/15 dev outer" for source in sources))
        text = SWANCTL.format(address="198.18.0.1", identity=IDENTITY, psk=PSK.decode())
        peer = _quiet(gateway, directory, text)
        stack.callback(peer.stop, kill=True)
        load = peers.inside(lambda: Load(sources, "198.18.0.1", PSK, 4500, IDENTITY))
        stack.callback(load.close)
        yield Responder(peer.pid, load)


def _quiet(namespace: Namespace, directory: Path, text: str) -> strongswan.StrongSwan:
    peer = strongswan.StrongSwan(namespace, directory, text, CHARON_OPTIONS)
    settings = directory / "strongswan.conf"
    lines = settings.read_text().splitlines()
    levels = ("default =", "ike =", "cfg =", "enc =")
    kept = [line for line in lines if not line.strip().startswith(levels)]
    kept.insert(next(i for i, line in enumerate(kept) if "flush_line" in line), "      default = -1")
    peer.stop()
    settings.write_text("\n".join(kept))
    peer.start()
    return peer


if __name__ == "__main__":
    stub(int(sys.argv[1]))
