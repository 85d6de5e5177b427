"""IKEv2 as a responder: CPU and memory of a handshake, and where the time goes.

PSK, X25519, AES-256-GCM, one Child SA. Measured is the daemon's process alone, by the kernel's
account of it, while a load runs in this process. 10,000 SAs are set up in batches of 1,000: the
CPU figure is the batches' median, the memory figure the growth over all of them. Then as many are set
up and deleted again, batch by batch, and what the process has grown by meanwhile is told. The split comes
from a second daemon with its functions timed, and is scaled to the first one's figure. strongSwan
is measured the same way where it can be had; else its figures are null.

    python -m bench.ike [--sas 10000] [--batch 1000] [--short]      writes build/bench/ike.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import ike_methods, ike_responders, ike_split, ike_versions
from bench.ike_load import LoadFailed
from bench.ike_responders import Responder
from cygnet.lab.namespaces import LabError

OUTPUT = Path("build/bench/ike.json")
WARM_UP = 300
LINGER = 15.0
"""Seconds; a closed SA keeps its answers for 10 of them."""


def measure(responder: AbstractContextManager[Responder], sas: int, batch: int) -> dict[str, float]:
    """Figures of one responder that keeps all its SAs. Raises LabError, LoadFailed."""
    with responder as running:
        load = running.load
        load.handshakes(WARM_UP)
        resident = running.usage().resident
        cpu: list[float] = []
        rates: list[float] = []
        for _ in range(max(1, sas // batch)):
            _batch(running, batch, cpu, rates)
        grown = running.usage().resident - resident
        figures = _figures(cpu, rates, grown, len(cpu) * batch, load.resent)
        load.delete_all()
        figures["bytes_kept_per_deleted_sa"] = _kept(running, len(cpu), batch)
        return figures


def _kept(running: Responder, batches: int, batch: int) -> int:
    """Growth over handshakes and deletes, for each, once as much lingers as ever will."""
    settled_at = time.monotonic() + LINGER
    while time.monotonic() < settled_at:
        _up_and_down(running, batch)
    settled = running.usage().resident
    for _ in range(batches):
        _up_and_down(running, batch)
    return round((running.usage().resident - settled) / (batches * batch))


def _up_and_down(running: Responder, batch: int) -> None:
    running.load.handshakes(batch)
    running.load.delete_all()


def measure_fresh(responder: AbstractContextManager[Responder], sas: int, batch: int) -> dict[str, float]:
    """The same for one that slows down with each SA: CPU with few SAs at a time, memory at the end."""
    with responder as running:
        load = running.load
        load.handshakes(WARM_UP)
        load.delete_all()
        cpu: list[float] = []
        rates: list[float] = []
        for _ in range(max(1, sas // batch)):
            _batch(running, batch, cpu, rates)
            load.delete_all()
        resident = running.usage().resident
        load.handshakes(sas)
        return _figures(cpu, rates, running.usage().resident - resident, sas, load.resent)


def _batch(running: Responder, count: int, cpu: list[float], rates: list[float]) -> None:
    started = running.usage().cpu
    seconds = running.load.handshakes(count)
    cpu.append((running.usage().cpu - started) / count * 1e3)
    rates.append(count / seconds)


def _figures(cpu: list[float], rates: list[float], grown: int, sas: int, resent: int) -> dict[str, float]:
    return {
        "responder_cpu_ms_per_handshake": round(statistics.median(cpu), 3),
        "handshakes_per_s": round(statistics.median(rates), 1),
        "bytes_per_sa": round(grown / sas),
        "sas": sas,
        "resent": resent,
    }


def run(sas: int = 10_000, batch: int = 1_000) -> dict[str, Any]:
    """All of `ike.json`. Raises LabError or LoadFailed where Cygnet itself cannot be measured."""
    figures: dict[str, Any] = measure(ike_responders.cygnet(), sas, batch)
    figures["split_ms"] = ike_split.measure(batch, figures["responder_cpu_ms_per_handshake"])
    figures |= ike_versions.measure(min(sas, 2000), min(batch, 500))
    with tempfile.TemporaryDirectory() as directory:
        figures["methods"] = ike_methods.measure(
            max(2, min(sas // batch, 7)), min(batch, 200), Path(directory)
        )
    try:
        # Its userspace ESP searches a list of policies one by one: many SAs at a time would measure that.
        figures["strongswan"] = measure_fresh(ike_responders.charon(), min(sas, 2000), 200)
    except (LabError, LoadFailed) as error:
        figures["strongswan"] = None
        figures["strongswan_missing"] = str(error)
    return figures


def show(figures: dict[str, Any], console: Console) -> None:
    peer = figures["strongswan"] or {}
    table = Table(title="IKEv2 responder: PSK, X25519, AES-256-GCM, one Child SA")
    table.add_column("")
    table.add_column("Cygnet", justify="right")
    table.add_column("strongSwan", justify="right")
    table.add_column("aim", justify="right")
    for key, title, aim in (
        ("responder_cpu_ms_per_handshake", "CPU per handshake, ms", "≤ 0.7"),
        ("bytes_per_sa", "memory per IKE SA, octets", "≤ 12,288"),
        ("bytes_kept_per_deleted_sa", "memory kept after its delete, octets", "0"),
        ("handshakes_per_s", "handshakes per second", ""),
        ("sas", "SAs set up", ""),
    ):
        table.add_row(title, f"{figures[key]:,}", f"{peer[key]:,}" if key in peer else "null", aim)
    console.print(table)
    if not peer:
        console.print(f"strongSwan: {figures.get('strongswan_missing', 'not measured')}")
    parts = Table(title="Where the daemon's CPU goes, ms per handshake")
    parts.add_column("part")
    parts.add_column("ms", justify="right")
    for part, value in figures["split_ms"].items():
        parts.add_row(part, f"{value:.3f}")
    console.print(parts)
    versions = Table(title=f"IKEv1 beside IKEv2, CPU ms per tunnel; beyond the exchange ≤ {ike_versions.AIM}")
    for column in ("group", "IKEv1", "IKEv2", "bare exchange", "ratio beyond it"):
        versions.add_column(column, justify="left" if column == "group" else "right")
    for name, found in figures["ikev1_beside_ikev2"].items():
        versions.add_row(name, *(f"{value}" for value in found.values()))
    console.print(versions)
    methods = Table(title="Ways to authenticate, CPU ms per handshake")
    for column in ("method", "CPU", "bare operations", "rest", "exchanges", "aim for the rest"):
        methods.add_column(column, justify="left" if column == "method" else "right")
    for name, found in figures["methods"].items():
        methods.add_row(name, *(f"{value}" for value in found.values()))
    console.print(methods)


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU and memory of the IKEv2 responder")
    parser.add_argument("--sas", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--short", action="store_true", help="a few hundred, to see that it works")
    chosen = parser.parse_args()
    if chosen.short:
        chosen.sas, chosen.batch = 600, 200
    try:
        figures = run(chosen.sas, chosen.batch)
    except (LabError, LoadFailed) as error:
        print(f"ike bench: {error}", file=sys.stderr)
        return 1
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
