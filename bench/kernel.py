"""The kernel engine beside strongSwan's kernel-netlink, in one guest on one kernel.

- `throughput_ratio`: TCP through the kernel's ESP as Cygnet sets it up, over the same as strongSwan does
  (AES-GCM-128, tunnel mode). Both pairs of namespaces stand at once and the runs alternate; medians.
- `install_ratio`: seconds in which 5,000 pairs of SAs with their policies are in the kernel, Cygnet's over
  strongSwan's: its own plugin driven without IKE (bench/strongswan_kernel.c), ours from the commands' octets.

    python -m bench.kernel [--short]

writes build/bench/kernel.json. Needs what `tests/guest` needs, iperf3, strongSwan and a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.plane import Pair, Side
from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines.kernel import KernelEngine
from cygnet.dataplane.translate import policy, sa_parameters
from cygnet.lab import guest
from cygnet.lab.guest import Guest
from cygnet.lab.namespaces import LabError, Namespace, connect
from cygnet.lab.strongswan import StrongSwan

OUTPUT = Path("build/bench/kernel.json")
ROOT = Path(__file__).parents[1]
WANTED = {"throughput_ratio": 0.97, "install_ratio": 1.0}
PAIRS, RUNS, SECONDS = 5000, 5, 6.0
SILENT_FOR = 900.0
LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
INNER = ("10.1.0.1", "10.2.0.1")
BATCH = 256
"""SAs that the data plane takes together when so many wait."""

CONF = """
connections {{ peer {{
  version = 2
  local_addrs = {0}
  remote_addrs = {1}
  proposals = aes128gcm16-prfsha256-x25519
  local {{ auth = psk
 id = {0} }}
  remote {{ auth = psk
 id = {1} }}
  children {{ net {{ local_ts = {2}/32
 remote_ts = {3}/32
 esp_proposals = aes128gcm16 }} }}
}} }}
secrets {{ ike-1 {{ secret = "a secret for a bench alone" }} }}
"""


# -- in the guest ---------------------------------------------------------------------------------


@contextlib.contextmanager
def ends(name: str) -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace(f"{name}-left") as left, Namespace(f"{name}-right") as right:
        connect(left, "outer", right, "outer")
        for space, outer, inner in ((left, LEFT, INNER[0]), (right, RIGHT, INNER[1])):
            space.ip(f"addr add {outer}/24 dev outer", f"addr add {inner}/32 dev lo")
        yield left, right


@contextlib.contextmanager
def by_cygnet() -> Iterator[tuple[Namespace, Namespace]]:
    pair = Pair(Side(LEFT, (f"{INNER[0]}/32",)), Side(RIGHT, (f"{INNER[1]}/32",)), 1, key_bits=128,
                key_length=20, port=0)  # fmt: skip
    with ends("cygnet") as spaces:
        for space, left in zip(spaces, (True, False), strict=True):

            def install(left: bool = left) -> None:
                engine = KernelEngine(Options(), lambda _: None)
                commands = [pair.policy(left)(0), pair.sa(left, 0)(0), pair.sa(left, 1)(0)]
                carry_out(engine, [messages.encode(command) for command in commands])

            space.inside(install)
        yield spaces


@contextlib.contextmanager
def by_strongswan() -> Iterator[tuple[Namespace, Namespace]]:
    with ends("strongswan") as (left, right), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = [
            StrongSwan(space, folder / space.name, CONF.format(*ends), kernel=True)
            for space, ends in (
                (right, (RIGHT, LEFT, INNER[1], INNER[0])),
                (left, (LEFT, RIGHT, INNER[0], INNER[1])),
            )
        ]
        for one in running:
            stack.callback(one.stop, True)
        done = running[1].swanctl("--initiate", "--child", "net")
        if done.returncode:
            raise LabError(f"strongSwan: {done.stdout}{done.stderr}")
        yield left, right


def tcp(left: Namespace, right: Namespace, seconds: float) -> float:
    """Mbit/s that arrived."""
    server = right.start("iperf3", "--server", "--one-off", "--forceflush")
    try:
        for line in server.stdout or ():
            if "Server listening" in line:
                break
        done = left.run(
            "iperf3", "--client", INNER[1], "--bind", INNER[0], "--json", "--time", f"{seconds:g}",
            timeout=seconds + 60,
        )  # fmt: skip
    finally:
        server.kill()
        server.communicate()
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6


def throughput(seconds: float, runs: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {"cygnet": [], "strongswan": []}
    with by_cygnet() as ours, by_strongswan() as theirs:
        for _ in range(runs):
            figures["cygnet"].append(tcp(*ours, seconds))
            figures["strongswan"].append(tcp(*theirs, seconds))
    return figures


def carry_out(engine: KernelEngine, commands: list[bytes]) -> None:
    """As the data plane does that finds them waiting: policies together, SAs in batches."""
    policies, sas = [], []
    for data in commands:
        command = messages.decode_command(data)
        if isinstance(command, messages.InstallPolicy):
            policies.append(policy(command))
        elif isinstance(command, messages.InstallSa):
            sas.append(sa_parameters(command))
    errors = engine.change_policies(policies)
    for start in range(0, len(sas), BATCH):
        errors += engine.install_sas(sas[start : start + BATCH])
    if any(errors):
        raise LabError(next(filter(None, errors)))


def install_by_cygnet(count: int) -> float:
    encoded = []
    for number in range(1, count + 1):
        inner = f"10.{2 + number // 250}.{number % 250}.0/24"
        pair = Pair(Side(LEFT, ("10.1.0.0/16",)), Side(RIGHT, (inner,)), number, key_bits=128, key_length=20,
                    port=0)  # fmt: skip
        encoded.append(messages.encode(pair.policy(True)(0)))
        encoded += [messages.encode(pair.sa(True, direction)(0)) for direction in (0, 1)]
    with ends("many") as (left, _):
        engine = left.inside(lambda: KernelEngine(Options(), lambda _: None))
        # What a start costs once is not counted, as with strongSwan's libraries.
        left.inside(lambda: carry_out(engine, encoded[:1]))
        began = time.monotonic()
        left.inside(lambda: carry_out(engine, encoded[1:]))
        took = time.monotonic() - began
        assert len(engine.book) == 2 * count
        engine.close()
    return took


def install_by_strongswan(count: int, program: str) -> float:
    with ends("many") as (left, _):
        environment = {**os.environ, "STRONGSWAN_CONF": f"{program}.conf"}
        done = subprocess.run(left.argv([program, str(count), LEFT, RIGHT]), env=environment, check=False,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise LabError(f"strongSwan's kernel-netlink: {done.stderr}")
    return float(done.stdout)


def inside(arguments: argparse.Namespace) -> None:
    with Path(os.environ[guest.CHANNEL]).open("r+b", buffering=0) as channel:

        def say(what: str, value: object) -> None:
            channel.write(json.dumps({what: value}).encode() + b"\n")

        try:
            turns: dict[str, Callable[[], float]] = {
                "cygnet": lambda: install_by_cygnet(arguments.pairs),
                "strongswan": lambda: install_by_strongswan(arguments.pairs, arguments.program),
            }
            took: dict[str, list[float]] = {name: [] for name in turns}
            for _ in range(max(1, arguments.runs // 2)):
                for name, turn in turns.items():
                    took[name].append(turn())
                    say("progress", f"{arguments.pairs} pairs by {name}: {took[name][-1]:.2f} s")
            say("install_seconds", took)
            say("tcp_mbps", throughput(arguments.seconds, arguments.runs))
        except (LabError, OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", "") or ""
            say("failed", f"{error} {said}")
        say("done", True)


# -- on this machine ------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cygnet-bench-") as folder:
        program = Path(folder) / "strongswan_kernel"
        libraries = ["-L/usr/lib/ipsec", "-Wl,-rpath,/usr/lib/ipsec", "-lcharon", "-lstrongswan"]
        source = str(ROOT / "bench/strongswan_kernel.c")
        subprocess.run(["cc", "-O2", "-o", str(program), source, *libraries], check=True)
        Path(f"{program}.conf").write_text("charon {\n}\n")
        command = [sys.executable, "-m", "bench.kernel", "--inside", "--program", str(program)]
        for name in ("pairs", "runs", "seconds"):
            command += [f"--{name}", str(getattr(arguments, name))]
        found: dict[str, Any] = {}
        with Guest(*command, directory=ROOT, memory=2560) as running:
            running.channel.settimeout(SILENT_FOR)
            with running.channel.makefile("rb") as lines:
                for line in lines:
                    told = json.loads(line)
                    if "progress" in told:
                        print(told["progress"], flush=True)
                    elif "done" in told:
                        break
                    else:
                        found |= told
            if "tcp_mbps" not in found:
                raise LabError(found.get("failed") or running.said())
    return report(found)


def report(found: dict[str, Any]) -> dict[str, Any]:
    install = {name: statistics.median(runs) for name, runs in found["install_seconds"].items()}
    speed = {name: statistics.median(runs) for name, runs in found["tcp_mbps"].items()}
    return {
        "throughput_ratio": speed["cygnet"] / speed["strongswan"],
        "install_ratio": install["cygnet"] / install["strongswan"],
        "tcp_mbps": speed,
        "install_seconds": install,
        "single_runs": found,
        "wanted": WANTED,
        "kernel": "Debian's, in qemu under software emulation: only the ratios mean something",
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument(
        "--short", action="store_true", help="seconds instead of minutes, to see that it works"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--program", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments)
        return 0
    if arguments.short:
        arguments.pairs, arguments.runs, arguments.seconds = 300, 2, 2.0
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    if lacking := guest.missing():
        print(lacking)
        OUTPUT.write_text(
            json.dumps({"throughput_ratio": None, "install_ratio": None, "why": lacking}) + "\n"
        )
        return 0
    try:
        result = measure(arguments)
    except (LabError, OSError, subprocess.SubprocessError) as error:
        print(error)
        return 1
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"throughput {result['throughput_ratio']:.3f} x strongSwan (wanted: 0.97 at least)")
    print(f"installation {result['install_ratio']:.2f} x strongSwan's time (wanted: 1.0 at most)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
