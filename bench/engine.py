"""What a packet costs in the native engine, in process: nanoseconds by size and transform.

    python -m bench.engine [--short]

writes build/bench/engine.json: for each transform and size of inner packet `seal` and `open` (numbers, IV,
pad, replay window, counters and the cipher) beside `cipher_seal` and `cipher_open` (the cipher alone), all in
ns, and `ratio`: what the engine costs of the bare cipher. Best of many batches of 64 packets. `scale`: a
packet's whole way out of the crate with one SA and with very many.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import struct
import sys
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cygnet.crypto.suites import suite
from cygnet.dataplane.engines import native, native_available
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol
from cygnet.policy.selectors import TrafficSelector
from cygnet.wire.numbers import Encr, Integ

OUTPUT = Path("build/bench/engine.json")
SIZES = (64, 256, 576, 1400, 9000)
TRANSFORMS = {
    "aes128gcm16": (Encr.AES_GCM_16, 128, Integ.NONE),
    "aes256gcm16": (Encr.AES_GCM_16, 256, Integ.NONE),
    "aes256gcm8": (Encr.AES_GCM_8, 256, Integ.NONE),
    "aes256gmac": (Encr.NULL_AES_GMAC, 256, Integ.NONE),
    "chacha20poly1305": (Encr.CHACHA20_POLY1305, 0, Integ.NONE),
    "aes256ccm16": (Encr.AES_CCM_16, 256, Integ.NONE),
    "aes256-sha256": (Encr.AES_CBC, 256, Integ.HMAC_SHA2_256_128),
    "aes256ctr-sha256": (Encr.AES_CTR, 256, Integ.HMAC_SHA2_256_128),
    "null-sha256": (Encr.NULL, 0, Integ.HMAC_SHA2_256_128),
}
WANTED = 1.5
"""Of 1400 octets with AES-GCM, beside the bare cipher."""


def parameters(direction: Direction, encryption: int, bits: int, integrity: int) -> SaParameters:
    chosen = suite(encryption, bits, integrity)
    end = IPv4Address("192.0.2.1")
    return SaParameters(
        direction, SaProtocol.ESP, Mode.TUNNEL, 0x1000, 1, 1, end, end, None, encryption, bits, integrity,
        bytes(range(chosen.encryption_key_length)), bytes(range(chosen.integrity_key_length)), False, 1024,
        (), (),
    )  # fmt: skip


def measure(batches: int) -> dict[str, Any]:
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name, transform in TRANSFORMS.items():
        figures[name] = {}
        for size in SIZES:
            sender = native.NativeOutbound(1, parameters(Direction.OUT, *transform))
            receiver = native.NativeInbound(2, parameters(Direction.IN, *transform))
            costs = native.measure(sender, receiver, size, batches)
            found = dict(zip(("seal", "open", "cipher_seal", "cipher_open"), costs, strict=True))
            found["ratio"] = max(costs[0] / costs[2], costs[1] / costs[3])
            figures[name][str(size)] = {key: round(value, 2) for key, value in found.items()}
    return {"batches": batches, "cores": os.cpu_count(), "load": os.getloadavg(), "ns": figures}


SCALES = {"1 SA, 1 policy": (1, 1), "10,000 SAs, 100,000 policies": (10_000, 100_000)}
ROUNDS, ROUND = 30_000, 32


def scale(sas: int, policies: int, rounds: int) -> dict[str, float]:
    """Nanoseconds of a 1400-octet packet from a stand-in for the TUN to a UDP socket, in one thread: in runs
    of one flow, each of another SA; of flows never seen before; and every packet of another SA, which are as
    many sends."""
    tun, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lane = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    lane.bind(("127.0.0.1", 0))
    theirs.setblocking(False)
    ports, here = (lane.getsockname()[1], 9), IPv4Address("127.0.0.1")
    engine = native.crate_module().Engine(
        theirs.fileno(), [(lane.fileno(), 4, ports[0])], -1, 2, True, time.monotonic()
    )
    source = (0x0A010000, 0x0A01FFFF)
    kept = []
    for number in range(sas):
        first = 0x0B000000 + number * 256
        filed = []
        for place in range(policies // sas):
            own = (first + place, first + place if place else first + 255)
            order = (0 if place else 1, number + 1, place)
            under = [(first + place, 32 if place else 24)]
            bounds = (own, source, (0, 255), (-1, 65535), (-1, 65535))
            filed.append((4, True, (order, 1, number + 1, *bounds), under))
        engine.put_policy(number + 1, "bench", False, [number + 1], filed)
        wanted = parameters(Direction.OUT, *TRANSFORMS["aes256gcm16"])
        selectors = tuple(
            TrafficSelector(4, 0, low, high, 0, 65535) for low, high in (source, (first, first + 255))
        )
        wanted = replace(wanted, local_selectors=selectors[:1], remote_selectors=selectors[1:])
        sa = native.NativeOutbound(number, replace(wanted, flow=number + 1))
        sa.crate.set_path(0, here, here, ports, 1500)
        engine.install_outbound(sa.crate)
        kept.append(sa)
    chance = random.Random(1)
    head = bytes.fromhex("450005780001400040110000")
    spent: dict[str, list[float]] = {"known_flow": [], "new_flow": [], "scattered": []}
    for turn in range(rounds):
        what = tuple(spent)[max(0, turn % 8 - 5)]
        one, new = chance.randrange(sas), chance.randrange(2000, 60000)
        for _ in range(ROUND):
            number = chance.randrange(sas) if what == "scattered" else one
            destination = 0x0B000000 + number * 256 + 250
            port = new if what == "new_flow" else 53
            addresses = struct.pack(">II", 0x0A010001, destination)
            tun.send(bytes(10) + head + addresses + struct.pack(">HHHH", port, 53, 1380, 0) + bytes(1372))
        since = time.perf_counter()
        engine.step(0)
        if turn > rounds // 2:  # trees are grown
            spent[what].append((time.perf_counter() - since) / ROUND * 1e9)
    sent = sum(sa.packets for sa in kept)
    if sent != rounds * ROUND:
        raise SystemExit(f"{sent} of {rounds * ROUND} packets left: {engine.drops}")
    for sock in (tun, theirs, lane):
        sock.close()
    return {what: statistics.median(found) for what, found in spent.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engine")
    parser.add_argument("--short", action="store_true")
    chosen = parser.parse_args(arguments)
    say = Console()
    if not native_available():
        say.print("The native engine was not built: no Rust toolchain")
        return 0
    result = measure(200 if chosen.short else 2000)
    result["scale"] = {name: scale(*size, ROUNDS) for name, size in SCALES.items()}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("ns a packet", *map(str, SIZES), title="seal / open (of which the cipher)")
    for name, by_size in result["ns"].items():
        cells = [
            f"{c['seal']:.0f} / {c['open']:.0f} ({c['cipher_seal']:.0f} / {c['cipher_open']:.0f})"
            for c in by_size.values()
        ]
        table.add_row(name, *cells)
    say.print(table)
    ratio = result["ns"]["aes256gcm16"]["1400"]["ratio"]
    say.print(f"AES-256-GCM, 1400 octets: {ratio:.2f} x the bare cipher (wanted: <= {WANTED})")
    for name, costs in result["scale"].items():
        told = ", ".join(f"{what} {cost:.0f}" for what, cost in costs.items())
        say.print(f"{name}: ns a packet: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
