"""A file through the network: one program serves it, another fetches it, both say its SHA-256.

    python -m cygnet.lab.transfer serve ADDRESS PORT OCTETS
    python -m cygnet.lab.transfer fetch ADDRESS PORT

The contents repeat MARKER in clear text, so that a capture can look for them. Each prints one line,
`OCTETS SHA256 SECONDS`; `serve` first prints `ready`.
"""

from __future__ import annotations

import hashlib
import random
import socket
import sys
import time
from collections.abc import Iterator

MARKER = b"this text must not be seen outside of the tunnel"
CHUNK = 1 << 18


def contents(octets: int) -> Iterator[bytes]:
    """Pseudo-random octets with the marker in each 1 KiB."""
    source = random.Random(octets)
    block = b"".join(MARKER + source.randbytes(1024 - len(MARKER)) for _ in range(CHUNK // 1024))
    while octets > 0:
        yield block[:octets]
        octets -= CHUNK


def serve(address: str, port: int, octets: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        connection, _ = server.accept()
        digest = hashlib.sha256()
        started = time.monotonic()
        with connection:
            for chunk in contents(octets):
                digest.update(chunk)
                connection.sendall(chunk)
    _say(octets, digest.hexdigest(), started)


def fetch(address: str, port: int) -> None:
    digest = hashlib.sha256()
    octets = 0
    with socket.create_connection((address, port), timeout=30) as connection:
        started = time.monotonic()
        while chunk := connection.recv(CHUNK):
            digest.update(chunk)
            octets += len(chunk)
    _say(octets, digest.hexdigest(), started)


def _say(octets: int, digest: str, started: float) -> None:
    sys.stdout.write(f"{octets} {digest} {time.monotonic() - started:.3f}\n")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["serve", address, port, octets]:
            serve(address, int(port), int(octets))
        case ["fetch", address, port]:
            fetch(address, int(port))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
