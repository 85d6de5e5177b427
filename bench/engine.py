"""What a packet costs in the native engine, in process: nanoseconds by size and transform.

    python -m bench.engine [--short]

writes build/bench/engine.json: for each transform and size of inner packet `seal` and `open` (numbers, IV,
pad, replay window, counters and the cipher) beside `cipher_seal` and `cipher_open` (the cipher alone), all in
ns, and `ratio`: what the engine costs of the bare cipher. Best of many batches of 64 packets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cygnet.crypto.suites import suite
from cygnet.dataplane.engines import native
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engine")
    parser.add_argument("--short", action="store_true")
    chosen = parser.parse_args(arguments)
    say = Console()
    if not native.available():
        say.print("The native engine was not built: no Rust toolchain")
        return 0
    result = measure(200 if chosen.short else 2000)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
