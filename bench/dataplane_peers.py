"""The peers of the data plane's bench: two namespaces each, whose inner addresses reach each other its way.

A peer that this machine cannot have raises `Missing` with the reason.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.plane import Pair, Plane, Side, install
from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines import native_available
from cygnet.dataplane.tun import Device, Offloads, open_tun
from cygnet.lab.namespaces import LabError, Namespace, connect, namespaces
from cygnet.lab.strongswan import StrongSwan, available

MTU = 1400
LEFT, RIGHT = "10.1.0.1", "10.2.0.1"
OUTER_LEFT, OUTER_RIGHT = "192.0.2.1", "192.0.2.2"
RELAY_SOURCE = Path(__file__).with_name("relay.c")
BUILD = Path("build/bench")
WIREGUARD_GO = "golang.zx2c4.com/wireguard@latest"


class Missing(Exception):
    """Why this peer cannot be measured here."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the client and the server of a measurement run; `pids` are the tunnel's own processes."""

    left: Namespace
    right: Namespace
    pids: tuple[int, ...] = ()


@contextmanager
def outer_link() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, joined; the inner addresses are on their loopbacks."""
    with namespaces("left", "right") as (left, right):
        connect(left, "outer", right, "outer")
        left.ip(f"addr add {OUTER_LEFT}/24 dev outer", f"addr add {LEFT}/32 dev lo")
        right.ip(f"addr add {OUTER_RIGHT}/24 dev outer", f"addr add {RIGHT}/32 dev lo")
        yield left, right


@contextmanager
def cygnet(engine: str) -> Iterator[Ends]:
    if engine == "native" and not native_available():
        raise Missing("the native engine was not built: no Rust toolchain")
    options = Options(tun_mtu=MTU, engine=engine)
    with outer_link() as (left, right), Plane(left, options) as a, Plane(right, options) as b:
        install(a, b, Pair(Side(OUTER_LEFT, (f"{LEFT}/32",)), Side(OUTER_RIGHT, (f"{RIGHT}/32",))))
        yield Ends(left, right, (a.pid, b.pid))


@contextmanager
def strongswan_libipsec() -> Iterator[Ends]:
    if not available():
        raise Missing("strongSwan is not installed")
    with outer_link() as (left, right), tempfile.TemporaryDirectory() as directory:
        peers = []
        for name, namespace, here, there, mine, theirs in (
            ("left", left, OUTER_LEFT, OUTER_RIGHT, LEFT, RIGHT),
            ("right", right, OUTER_RIGHT, OUTER_LEFT, RIGHT, LEFT),
        ):
            configuration = f"""
connections {{ gw {{
  version = 2
  local_addrs = {here}
  remote_addrs = {there}
  proposals = aes256gcm16-prfsha384-x25519
  local {{ auth = psk
    id = {here} }}
  remote {{ auth = psk
    id = {there} }}
  children {{ net {{
    local_ts = {mine}/32
    remote_ts = {theirs}/32
    esp_proposals = aes256gcm16
    rekey_time = 0
  }} }}
}} }}
secrets {{ ike-1 {{ secret = "bench" }} }}
"""
            folder = Path(directory) / name
            folder.mkdir()
            try:
                peers.append(StrongSwan(namespace, folder, configuration))
            except LabError as error:
                raise Missing(str(error)) from error
        done = peers[0].swanctl("--initiate", "--child", "net", "--timeout", "10")
        if done.returncode:
            raise Missing(f"strongSwan's tunnel does not come up: {done.stdout[-500:]}")
        yield Ends(left, right, tuple(peer.pid for peer in peers))


def newest_wireguard_go() -> Path:
    """Built from the Go registry once; raises Missing."""
    program = BUILD.resolve() / "wireguard"
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            raise Missing("no Go toolchain for the newest wireguard-go")
        environment = {**os.environ, "GOBIN": str(program.parent)}
        built = subprocess.run(
            [go, "install", WIREGUARD_GO], env=environment, capture_output=True, text=True, check=False
        )
        if built.returncode:
            raise Missing(f"the newest wireguard-go cannot be built: {built.stderr[-300:]}")
    return program


@contextmanager
def wireguard_go(program: Callable[[], Path]) -> Iterator[Ends]:
    wireguard = program()
    keys = [X25519PrivateKey.generate() for _ in range(2)]
    with outer_link() as (left, right):
        programs = []
        for index, (namespace, there, theirs) in enumerate(
            ((left, OUTER_RIGHT, RIGHT), (right, OUTER_LEFT, LEFT))
        ):
            device = f"cygwg{index}"
            programs.append(
                namespace.start(
                    str(wireguard), "--foreground", device, env={**os.environ, "LOG_LEVEL": "error"}
                )
            )
            private = keys[index].private_bytes_raw().hex()
            public = (
                keys[1 - index]
                .public_key()
                .public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
                .hex()
            )
            _configure_wireguard(
                Path(f"/var/run/wireguard/{device}.sock"),
                f"set=1\nprivate_key={private}\nlisten_port=51820\npublic_key={public}\n"
                f"endpoint={there}:51820\nreplace_allowed_ips=true\nallowed_ip={theirs}/32\n\n",
            )
            namespace.ip(
                f"link set {device} mtu {MTU} up",
                f"route add {theirs}/32 dev {device} src {LEFT if index == 0 else RIGHT}",
            )
        yield Ends(left, right, tuple(program.pid for program in programs))


def _configure_wireguard(path: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            try:
                control.connect(str(path))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Missing(f"wireguard-go does not answer: {error}") from error
                os.sched_yield()
                continue
            control.sendall(text.encode())
            answer = control.recv(4096).decode()
        if "errno=0" not in answer:
            raise Missing(f"wireguard-go refuses its configuration: {answer.strip()}")
        return


@contextmanager
def relay_no_crypto() -> Iterator[Ends]:
    """A C program between two TUN devices: the same offloads, no tunnel."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler for the relay")
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "relay"
    subprocess.run([compiler, "-O2", "-o", str(program), str(RELAY_SOURCE)], check=True)
    with namespaces("left", "right") as (left, right), ExitStack() as stack:
        fds = []
        for namespace, here, there in ((left, LEFT, RIGHT), (right, RIGHT, LEFT)):
            fd = namespace.inside(lambda: open_tun("relay0"))
            stack.callback(os.close, fd)
            namespace.inside(_started(fd))
            namespace.ip(f"addr add {here}/32 dev lo", f"route add {there}/32 dev relay0 src {here}")
            fds.append(fd)
        running = subprocess.Popen([str(program), *map(str, fds)], pass_fds=fds)
        stack.callback(running.wait)
        stack.callback(running.kill)
        yield Ends(left, right, (running.pid,))


def _started(fd: int) -> Callable[[], None]:
    return lambda: Device(fd).start(MTU, Offloads(), bursts=True)


@contextmanager
def veth() -> Iterator[Ends]:
    with namespaces("left", "right") as (left, right):
        connect(left, "inner", right, "inner")
        left.ip(f"addr add {LEFT} peer {RIGHT} dev inner", f"link set inner mtu {MTU}")
        right.ip(f"addr add {RIGHT} peer {LEFT} dev inner", f"link set inner mtu {MTU}")
        yield Ends(left, right)


PEERS: dict[str, Callable[[], AbstractContextManager[Ends]]] = {
    "cygnet_native": partial(cygnet, "native"),
    "cygnet_portable": partial(cygnet, "portable"),
    "strongswan_libipsec": strongswan_libipsec,
    "wireguard_go": partial(wireguard_go, newest_wireguard_go),
    "relay_no_crypto": relay_no_crypto,
    "veth": veth,
}
