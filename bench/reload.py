"""What `cygnet reload` takes: 10,000 connections that are new, and the same again.

The daemon is the real one with a stub for its data plane (`ike_responders`), on loopback; reading the
files is timed apart, as it is the command's own. `--lockstep` waits for each answer, as a plain client does.

    python -m bench.reload [--connections 10000] [--lockstep]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench import ike_responders
from cygnet.cli import reload
from cygnet.config.load import load
from cygnet.lab.namespaces import LabError
from cygnet.vici.client import Client
from cygnet.vici.codec import Message, Outgoing

CONFIGURATION = """
[options]
control_socket = "{directory}/vici"
port = {port}
port_nat_t = {port_nat_t}
"""
CONNECTION = """
[connections.c{number}]
remote_addrs = "10.{high}.{low}.1"
local = {{ auth = "psk", id = "gateway.example" }}
remote = {{ auth = "psk", id = "c{number}.example" }}

[connections.c{number}.children.net]
local_ts = "10.250.0.0/16"
remote_ts = "172.{second}.{low}.0/24"
"""


class Lockstep(Client):
    def pipeline(
        self, commands: Iterable[tuple[str, Outgoing]], *, timeout: float = 60.0
    ) -> Iterator[tuple[str, Message]]:
        for command, message in commands:
            yield command, self.request(command, message, timeout=timeout)


def many(count: int) -> str:
    found = [
        CONNECTION.format(number=n, high=n >> 8, low=n & 255, second=16 + (n >> 8) % 16) for n in range(count)
    ]
    return "".join([*found, '[secrets.ike-1]\nsecret = "a shared secret of the benchmark"\n'])


def measure(count: int, kind: type[Client]) -> dict[str, float]:
    """Seconds. Raises LabError."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "cygnet.toml"
        file.touch(mode=0o600)
        file.write_text(many(count))
        started = time.perf_counter()
        loaded = load(file)
        figures = {"read_s": time.perf_counter() - started}
        beside: list[Path] = []
        with ike_responders.daemon(CONFIGURATION, beside.append), kind.connect(beside[0] / "vici") as client:
            for what in ("new_s", "unchanged_s"):
                started = time.perf_counter()
                reload.send(client, loaded)
                figures[what] = time.perf_counter() - started
    return {name: round(seconds, 2) for name, seconds in figures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="What a reload takes.")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--lockstep", action="store_true")
    arguments = parser.parse_args()
    try:
        print(measure(arguments.connections, Lockstep if arguments.lockstep else Client))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
