"""On the machine that runs the guest: sun, a userspace engine at the other end of the guest's network card.

Called through the fixture `host` (see conftest.py). Commands come as the octets of `messages`, in hex.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import msgspec

from bench.plane import Plane
from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options
from cygnet.lab.capture import Capture
from cygnet.lab.guest import TAP
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import BOB, BOB6, MOON_NET, MOON_NET6, SUN, SUN6, SUN_NET, SUN_NET6

ECHO_PORT = 7077
PROTECTED = (MOON_NET, MOON_NET6, SUN_NET, SUN_NET6)
_running: dict[str, Any] = {}


def start(namespace: Namespace, engine: str) -> None:
    """One engine at a time: `portable`, `native`. The addresses and the echo stay."""
    if "addresses" not in _running:
        namespace.ip(
            f"addr add {SUN}/24 dev {TAP}", f"addr add {SUN6}/64 dev {TAP} nodad",
            f"addr add {BOB}/32 dev lo", f"addr add {BOB6}/128 dev lo",
        )  # fmt: skip
        _running["addresses"] = True
        for address in (BOB, BOB6, SUN, SUN6):
            sock = namespace.inside(lambda address=address: _bound(address))  # type: ignore[misc]
            threading.Thread(target=_echo, args=(sock,), daemon=True).start()
    stop(namespace)
    _running["plane"] = Plane(namespace, Options(tun="sun0", **_choice(engine)))
    _running["capture"] = Capture((namespace, TAP), protected=PROTECTED)


def _choice(engine: str) -> dict[str, Any]:
    return {"engine": engine} if "engine" in Options.__struct_fields__ else {}


def stop(namespace: Namespace) -> list[str]:
    """What was seen in clear since the start, in hex."""
    plane, capture = _running.pop("plane", None), _running.pop("capture", None)
    if plane is not None:
        with contextlib.suppress(Exception):
            plane.do(lambda request: messages.Shutdown(request, True))
        plane.close()
    return [frame.hex() for frame in capture.stop().clear] if capture is not None else []


def do(namespace: Namespace, *commands: str) -> list[str]:
    """The error of each command."""
    plane: Plane = _running["plane"]
    errors = []
    for text in commands:
        command = messages.decode_command(bytes.fromhex(text))
        done = plane.ask(lambda request, c=command: msgspec.structs.replace(c, request=request),  # type: ignore[misc]
                         messages.Done)  # fmt: skip
        errors.append(done.error)
    return errors


def counters(namespace: Namespace) -> dict[str, Any]:
    """Of the pairs, by number: `in`, `out` packets and drops; and the whole engine's drops."""
    found = _running["plane"].counters()
    return {
        "pairs": {str(one.pair): [one.packets_in, one.packets_out, one.drops] for one in found.pairs},
        "drops": found.drops,
    }


def seen(namespace: Namespace) -> dict[str, Any]:
    """Frames on the outer link so far, by kind."""
    return dict(_running["capture"].seen.frames)


def _bound(address: str) -> Any:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    deadline = time.monotonic() + 10
    while True:
        try:
            sock.bind((address, ECHO_PORT))
            return sock
        except OSError:  # the link has only just come up, and its address of IPv6 is not ready
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # between attempts


def _echo(sock: Any) -> None:
    while True:
        data, sender = sock.recvfrom(1 << 16)
        with contextlib.suppress(OSError):
            sock.sendto(data, sender)


def record(namespace: Namespace) -> None:
    """Keep what leaves from here on."""
    _running["recorded"] = namespace.inside(_packets)


def send_again(namespace: Namespace) -> int:
    """Every sealed packet that has left since `record`, once more; how many."""
    sock = _running.pop("recorded")
    sock.setblocking(False)
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, address = sock.recvfrom(1 << 16)
            if address[2] == socket.PACKET_OUTGOING and frame[23] == 50:
                frames.append(frame)
    for frame in frames:
        sock.send(frame)
    sock.close()
    return len(frames)


def _packets() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.bind((TAP, 3))
    return sock


def answer_gre(namespace: Namespace, within: float) -> None:
    """A GRE tunnel's other end, by hand: echo requests that come in GRE (RFC 2784) are answered in GRE."""
    sock = namespace.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE))
    sock.settimeout(within)
    threading.Thread(target=_answer_gre, args=(sock,), daemon=True).start()


def _answer_gre(sock: socket.socket) -> None:
    with sock, contextlib.suppress(TimeoutError):
        while True:
            packet, sender = sock.recvfrom(1 << 16)
            gre = packet[(packet[0] & 15) * 4 :]
            inner = bytearray(gre[4:])
            if gre[:4] != b"\0\0\x08\0" or len(inner) < 28 or (inner[9], inner[20]) != (1, 8):
                continue
            inner[12:16], inner[16:20] = inner[16:20], inner[12:16]
            # An answer's type is 0 where the request's is 8: the ICMP checksum grows by that much.
            total = int.from_bytes(inner[22:24], "big") + 0x0800
            inner[20], inner[22:24] = 0, (total % 0xFFFF).to_bytes(2, "big")
            sock.sendto(gre[:4] + bytes(inner), (sender[0], 0))


def change_port(namespace: Namespace, port: int, other: int) -> None:
    """What leaves from a UDP port leaves from another, as behind a NAT; 0: no more."""
    rules = "add table ip mapping\ndelete table ip mapping\n"
    if port:
        rules += (
            "add table ip mapping\nadd chain ip mapping post { type filter hook postrouting priority 100; }\n"
            f"add rule ip mapping post udp sport {port} udp sport set {other}\n"
        )
    namespace.run("nft", "-f", "-", stdin=rules)
