"""The SPD and the kernel guard: time per lookup by number of policies, and what loading them costs.

`lookup_ns` is the time of `Spd.lookup_outbound` (there is no flow cache in it) with 1,000 flows active,
hits and misses, on the worst of three sets; `lookup_ns_10000_flows` the same with 10,000 flows, where the
processor's caches miss. Figures are the best of interleaved rounds, because what disturbs a round only
ever adds to it. Verdicts are compared with a linear scan. `guard_ns` is what the guard adds to forwarding
a packet, protected or not, with 100,000 policies in it.

    python -m bench.spd [--short]      writes build/bench/spd.json
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import spd_guard
from bench.spd_sets import SETS, Packet, packets
from cygnet.config.from_vici import connections
from cygnet.config.load import load
from cygnet.dataplane.nftables import KernelError
from cygnet.lab.namespaces import LabError
from cygnet.policy.spd import Action, Spd

OUTPUT = Path("build/bench/spd.json")
SIZES = (10, 1_000, 100_000)
ACTIVE, MANY = 1_000, 10_000
ROUNDS = 25
SEED = 1


class Mismatch(Exception):
    """A verdict differs from a linear scan."""


class Prepared:
    """A set of policies in an SPD, with packets that have been looked up once."""

    def __init__(self, name: str, count: int) -> None:
        rng = random.Random(SEED)
        self.policies = list(SETS[name](count, rng))
        self.spd = Spd()
        started = time.perf_counter()
        for policy in self.policies:
            self.spd.put(policy)
        self.load_s = time.perf_counter() - started
        self.few, self.many = packets(self.policies, ACTIVE, rng), packets(self.policies, MANY, rng)
        started = time.perf_counter()
        for packet in self.many:
            self.spd.lookup_outbound(*packet)
        self.first_ns = (time.perf_counter() - started) / MANY * 1e9
        self.best = {ACTIVE: float("inf"), MANY: float("inf")}

    def round(self) -> None:
        for count, sample in ((ACTIVE, self.few), (MANY, self.many)):
            self.best[count] = min(self.best[count], time_lookups(self.spd, sample, MANY // count))


def time_lookups(spd: Spd, sample: list[Packet], passes: int) -> float:
    """CPU nanoseconds per lookup, after a pass that is not counted."""
    lookup = spd.lookup_outbound
    for packet in sample:
        lookup(*packet)
    started = time.process_time_ns()
    for _ in range(passes):
        for packet in sample:
            lookup(*packet)
    return (time.process_time_ns() - started) / (len(sample) * passes)


def compare_with_scan(prepared: Prepared, count: int) -> None:
    """Raises Mismatch. The scan is the SPD's law in numpy: all rules, the first that matches."""
    rules = [policy.rules[0] for policy in prepared.policies]
    columns = {
        name: np.array([getattr(getattr(rule, where), name) for rule in rules], dtype=np.int64)
        for where, name in (("remote", "first"), ("remote", "last"), ("remote", "port_first"),
                            ("remote", "port_last"), ("remote", "protocol"))
    }  # fmt: skip
    low = np.array([rule.local.first for rule in rules], dtype=np.int64)
    high = np.array([rule.local.last for rule in rules], dtype=np.int64)
    for packet in prepared.many[:count]:
        protocol, local, remote, _, port, _ = packet
        match = (columns["first"] <= remote) & (remote <= columns["last"])
        match &= (low <= local) & (local <= high)
        match &= (columns["protocol"] == 0) | (columns["protocol"] == protocol)
        match &= (columns["port_first"] <= port) & (port <= columns["port_last"])
        expected = (Action.BYPASS, 0)
        if match.any():
            first = rules[int(match.argmax())]
            expected = (first.action, first.flow)
        found = prepared.spd.lookup_outbound(*packet)
        if found != expected:
            raise Mismatch(f"{packet}: {found} instead of {expected}")


def measure_lookups(rounds: int, verified: int) -> dict[str, Any]:
    prepared = {(name, size): Prepared(name, size) for name in SETS for size in SIZES}
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for one in prepared.values():
            one.round()
    for one in prepared.values():
        compare_with_scan(one, verified)

    def by_set(count: int) -> dict[str, dict[str, float]]:
        return {
            name: {str(size): round(prepared[name, size].best[count], 1) for size in SIZES} for name in SETS
        }

    def worst(figures: dict[str, dict[str, float]]) -> dict[str, float]:
        return {str(size): max(figures[name][str(size)] for name in SETS) for size in SIZES}

    few, many = by_set(ACTIVE), by_set(MANY)
    return {
        "lookup_ns": worst(few),
        "lookup_ns_by_set": few,
        "lookup_ns_10000_flows": worst(many),
        "lookup_ns_10000_flows_by_set": many,
        "first_lookup_ns": {name: round(prepared[name, SIZES[-1]].first_ns) for name in SETS},
        "load_s": {name: round(prepared[name, SIZES[-1]].load_s, 2) for name in SETS},
        "verified_packets": verified * len(prepared),
    }


def measure_connections(count: int, directory: Path) -> float:
    """Seconds to read, check and build so many connections, and to take them as the daemon does."""
    path = directory / "cygnet.toml"
    path.touch(mode=0o600)
    with path.open("w", encoding="ascii") as out:
        for number in range(count):
            out.write(
                f"[connections.c{number}]\n"
                f'remote_addrs = ["192.0.{number >> 8 & 255}.{number & 255}"]\n'
                'local = {auth = "psk", id = "hub.example"}\n'
                f'remote = {{auth = "psk", id = "spoke{number}.example"}}\n'
                f"[connections.c{number}.children.net]\n"
                'local_ts = ["10.0.0.0/8"]\n'
                f'remote_ts = ["172.{16 + (number >> 8 & 15)}.{number & 255}.0/24"]\n\n'
            )
        out.write('[secrets.ike1]\nsecret = "a shared secret of the benchmark"\n')
    started = time.perf_counter()
    loaded = load(path)
    for message in loaded.messages:
        connections(message)
    return time.perf_counter() - started


def run(short: bool) -> dict[str, Any]:
    """All of `spd.json`. Raises Mismatch."""
    count = 1_000 if short else 10_000
    with tempfile.TemporaryDirectory() as directory:
        seconds = measure_connections(count, Path(directory))
    figures: dict[str, Any] = {"connections_load_s": round(seconds, 2), "connections": count}
    try:
        figures |= spd_guard.measure(SIZES[-1], short)
    except (LabError, KernelError) as error:
        figures |= {"guard_ns": None, "guard_load_s": None, "guard_missing": str(error)}
    return measure_lookups(3 if short else ROUNDS, 100 if short else 10_000) | figures


def show(figures: dict[str, Any], console: Console) -> None:
    table = Table(title="SPD lookup, ns, no flow cache; hits and misses")
    table.add_column("policies", justify="right")
    for size in SIZES:
        table.add_column(f"{size:,}", justify="right")
    table.add_column("100,000 / 10 (aim ≤ 2)", justify="right")
    for title, rows in (
        ("", {"worst of three": figures["lookup_ns"]} | figures["lookup_ns_by_set"]),
        (", 10,000 flows", {"worst of three": figures["lookup_ns_10000_flows"]}
         | figures["lookup_ns_10000_flows_by_set"]),
    ):  # fmt: skip
        for name, row in rows.items():
            ratio = row[str(SIZES[-1])] / row[str(SIZES[0])]
            table.add_row(name + title, *(f"{row[str(size)]:,.0f}" for size in SIZES), f"{ratio:.2f}")
    console.print(table)
    other = Table(title="Guard and loading")
    for column in ("", "measured", "aim"):
        other.add_column(column, justify="left" if not column else "right")
    guard = figures["guard_ns"]
    other.add_row("kernel guard, ns per packet", "null" if guard is None else f"{guard:,.0f}", "≤ 3,000")
    load_s = figures["guard_load_s"]
    other.add_row("guard of 100,000 policies loaded, s", "null" if load_s is None else f"{load_s}", "≤ 2")
    other.add_row(
        f"{figures['connections']:,} connections loaded, s", f"{figures['connections_load_s']}", "≤ 10"
    )
    console.print(other)
    if guard is None:
        console.print(f"guard: {figures['guard_missing']}")


def main() -> int:
    parser = argparse.ArgumentParser(description="SPD lookup and kernel guard")
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes")
    chosen = parser.parse_args()
    try:
        figures = run(chosen.short)
    except Mismatch as error:
        print(f"spd bench: a lookup is wrong: {error}", file=sys.stderr)
        return 1
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
