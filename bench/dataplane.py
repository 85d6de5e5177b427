"""One tunnel: TCP, 64-octet UDP, eight TCP flows both ways, ping; against peers in the same call.

Both ends and iperf3 run on this machine; each peer has namespaces of its own, all stand at once, and
the runs go round: every peer once, then again, so that a busy moment of the machine hits all alike.
A figure is the median of the runs; a peer that cannot be had is null, and the table says why.

    python -m bench.dataplane [--seconds 10] [--runs 5] [--peers NAME ...]

writes build/bench/dataplane.json: `tcp_gbps`, `many_gbps` (the sum of both directions) and `udp64_kpps`
(arrived) by peer, round trips of a ping (`ping_median_ms`, `ping_p99_ms`), the CPU of the tunnel's own
processes in microseconds per packet of 1400 octets (`tcp_cpu_us`), ratios between peers (each the median
of the ratios of the runs that stand side by side), what the native engine's memory grew by while ten million
packets passed (`memory`, behind the rounds), the load of the machine, and the single runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.dataplane_peers import LEFT, MTU, PEERS, RIGHT, Ends, Missing
from bench.plane import cpu_seconds
from cygnet.lab.namespaces import LabError, Namespace, require

OUTPUT = Path("build/bench/dataplane.json")
PORT = 5201
PINGS = 400
PACKETS = 10_000_000
"""That pass while memory is watched."""
WATCHED = "cygnet_native"
FIGURES = ("tcp_gbps", "many_gbps", "udp64_kpps", "ping_median_ms", "ping_p99_ms", "tcp_cpu_us")
WANTED = (
    ("tcp_gbps", "cygnet_native", "strongswan_libipsec", ">= 9"),
    ("tcp_gbps", "cygnet_native", "wireguard_go", ">= 1.5"),
    ("tcp_gbps", "cygnet_native", "relay_no_crypto", ">= 0.6"),
    ("tcp_gbps", "cygnet_portable", "strongswan_libipsec", ">= 2.5"),
    ("udp64_kpps", "cygnet_native", "strongswan_libipsec", ">= 4"),
    ("udp64_kpps", "cygnet_native", "wireguard_go", ">= 2.5"),
    ("ping_median_ms", "cygnet_native", "strongswan_libipsec", "<= 0.6"),
)


class RunFailed(Exception):
    """What iperf3 said."""


def iperf(ends: Ends, seconds: float, *options: str) -> dict[str, Any]:
    """One run of iperf3 from left to right, its result as it is printed with --json."""
    server = ends.right.start("iperf3", "--server", "--one-off", "--forceflush", "--port", str(PORT))
    try:
        _listening(ends.right, server)
        done = ends.left.run(
            "iperf3", "--client", RIGHT, "--bind", LEFT, "--port", str(PORT), "--json",
            "--time", f"{seconds:g}", *options, check=False, timeout=seconds + 30,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RunFailed("iperf3 does not end") from error
    finally:
        server.kill()
        server.communicate()
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise RunFailed(done.stderr.strip()[:200] or "iperf3 says nothing") from error
    if "error" in result:
        raise RunFailed(result["error"])
    return result


def _listening(namespace: Namespace, server: subprocess.Popen[str]) -> None:
    """Wait until the server says that it listens."""
    if server.stdout is None:
        raise RunFailed("iperf3 has no output")
    for line in server.stdout:
        if "Server listening" in line:
            return
    raise RunFailed(f"iperf3 does not start in {namespace.name}")


def tcp(ends: Ends, seconds: float) -> tuple[float, float]:
    """Gbit/s that arrived, and CPU microseconds of the tunnel's processes per full packet."""
    before = sum(map(cpu_seconds, ends.pids))
    result = iperf(ends, seconds)
    spent = sum(map(cpu_seconds, ends.pids)) - before
    received = result["end"]["sum_received"]
    packets = received["bytes"] / (MTU - 52)
    return received["bits_per_second"] / 1e9, spent / packets * 1e6 if packets else 0.0


def udp64(ends: Ends, seconds: float) -> float:
    """Thousands of 64-octet datagrams a second that arrived, sent as fast as the sender can."""
    result = iperf(ends, seconds, "--udp", "--length", "64", "--bitrate", "0")
    total = result["end"]["sum"]
    return float((total["packets"] - total["lost_packets"]) / total["seconds"] / 1e3)


def many(ends: Ends, seconds: float) -> float:
    """Gbit/s that arrived at both ends: four flows each way at once."""
    end = iperf(ends, seconds, "--bidir", "--parallel", "4")["end"]
    received = sum(end[name]["bits_per_second"] for name in ("sum_received", "sum_received_bidir_reverse"))
    return float(received / 1e9)


def ping(ends: Ends, count: int = PINGS) -> tuple[float, float]:
    """Median and 99th percentile of round trips in milliseconds."""
    done = ends.left.run(
        "ping", "-n", "-c", str(count), "-i", "0.005", "-W", "2", "-I", LEFT, RIGHT, check=False, timeout=60
    )
    times = sorted(float(found) for found in re.findall(r"time=([0-9.]+) ms", done.stdout))
    if len(times) < count * 9 // 10:
        raise RunFailed(f"{len(times)} of {count} pings came back")
    return statistics.median(times), times[len(times) * 99 // 100]


def memory(ends: Ends, packets: int, seconds: float) -> dict[str, float]:
    """KiB that the tunnel's processes hold before and after so many packets of one flow, and of small ones
    between; they have carried something before, so that what is made once is there."""
    before = sum(map(resident, ends.pids))
    carried = 0.0
    while carried < packets:
        carried += iperf(ends, seconds)["end"]["sum_received"]["bytes"] / (MTU - 52)
        carried += iperf(ends, 1, "--udp", "--length", "64", "--bitrate", "20M")["end"]["sum"]["packets"]
    after = sum(map(resident, ends.pids))
    return {"packets": round(carried), "before_kib": before >> 10, "grown_kib": (after - before) >> 10}


def resident(pid: int) -> int:
    """Octets."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(names: list[str], seconds: float, runs: int, packets: int, say: Console) -> dict[str, Any]:
    """All peers, round after round; then memory."""
    figures: dict[str, dict[str, list[float]]] = {}
    why: dict[str, str] = {}
    with ExitStack() as stack:
        standing: dict[str, Ends] = {}
        for name in names:
            try:
                standing[name] = stack.enter_context(PEERS[name]())
            except (Missing, LabError, OSError, subprocess.SubprocessError) as error:
                why[name] = str(error)
                continue
            figures[name] = {what: [] for what in FIGURES}
        for number in range(runs):
            for name, ends in standing.items():
                say.print(f"run {number + 1} of {runs}: {name}", style="dim")
                try:
                    gbps, cpu = tcp(ends, seconds)
                    figures[name]["tcp_gbps"].append(gbps)
                    figures[name]["tcp_cpu_us"].append(cpu)
                    figures[name]["udp64_kpps"].append(udp64(ends, seconds))
                    figures[name]["many_gbps"].append(many(ends, seconds))
                    median, high = ping(ends)
                    figures[name]["ping_median_ms"].append(median)
                    figures[name]["ping_p99_ms"].append(high)
                except RunFailed as error:
                    why[name] = str(error)
        grown = None
        if packets and (native := standing.get(WATCHED)) is not None:
            say.print(f"{packets:,} packets: {WATCHED}", style="dim")
            try:
                grown = memory(native, packets, seconds)
            except RunFailed as error:
                why["memory"] = str(error)
    return report(names, figures, why, seconds, runs) | {"memory": grown}


def report(
    names: list[str],
    figures: dict[str, dict[str, list[float]]],
    why: dict[str, str],
    seconds: float,
    runs: int,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "seconds": seconds,
        "runs": runs,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "inner_mtu": MTU,
        "relay": "a C program between two TUN devices (bench/relay.c)",
        "missing": why,
    }
    for what in FIGURES:
        result[what] = {
            name: statistics.median(found) if (found := figures.get(name, {}).get(what)) else None
            for name in names
        }
    result["single_runs"] = figures
    result["load"] = os.getloadavg()
    result["ratios"] = {
        f"{what}: {ours} / {theirs}": {
            "wanted": wanted,
            "is": _ratio(figures, what, ours, theirs),
        }
        for what, ours, theirs, wanted in WANTED
    }
    return result


def _ratio(figures: dict[str, dict[str, list[float]]], what: str, ours: str, theirs: str) -> float | None:
    """The median over the rounds: a busy moment of the machine hits both of a round."""
    pairs = zip(figures.get(ours, {}).get(what, ()), figures.get(theirs, {}).get(what, ()), strict=False)
    ratios = [our / their for our, their in pairs if their]
    return statistics.median(ratios) if ratios else None


def show(result: dict[str, Any], say: Console) -> None:
    table = Table(
        "peer",
        "TCP Gbit/s",
        "8 flows Gbit/s",
        "UDP 64 kpps",
        "ping ms",
        "p99 ms",
        "CPU µs/packet",
        "",
        title="One tunnel, both ends here",
    )
    for name in result["tcp_gbps"]:
        shown = ("tcp_gbps", "many_gbps", "udp64_kpps", "ping_median_ms", "ping_p99_ms", "tcp_cpu_us")
        cells = [result[what][name] for what in shown]
        table.add_row(
            name,
            *(
                "-" if value is None else f"{value:.{digits}f}"
                for value, digits in zip(cells, (2, 2, 0, 3, 3, 2), strict=True)
            ),
            result["missing"].get(name, ""),
        )
    say.print(table)
    if result["memory"] is not None:
        text = "memory over {packets:,} packets: {before_kib} KiB before, {grown_kib} more behind"
        say.print(text.format(**result["memory"]))
    for name, ratio in result["ratios"].items():
        if ratio["is"] is not None:
            say.print(f"{name}: {ratio['is']:.2f} (wanted: {ratio['wanted']})")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.dataplane", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--packets", type=int, default=PACKETS, help="for memory; 0: not measured")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args(arguments)
    say = Console()
    try:
        require()
    except LabError as error:
        say.print(str(error))
        return 1
    result = measure(chosen.peers, chosen.seconds, chosen.runs, chosen.packets, say)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(result, indent=2) + "\n")
    show(result, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
