"""The configuration on its way to a daemon that may not read files: a sealed memory file.

    header length (4 octets) · header (msgpack: `Header`) · commands (msgpack: list of [name, message])

`python -m cygnet.daemon.reader` writes it with the rights of whoever started Cygnet; the supervisor
reads the header alone (it opens the ports) and keeps the rest unseen; the daemon applies it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

MAX_BUNDLE = 1 << 28
MAX_HEADER = 1 << 16

Commands = list[tuple[str, dict[str, Any]]]
"""The control socket's commands that load a whole configuration, in order."""


class Header(msgspec.Struct, frozen=True):
    """What the supervisor must know: the options that concern descriptors, processes and the log."""

    control_socket: str
    control_socket_group: str
    listen: tuple[str, ...]
    port: int
    port_nat_t: int
    engine: str
    gso: str
    tun: str
    default_discard: bool
    log_level: str
    state_directory: str = ""
    resolver: str = "none"


def fingerprint(header: Header, options: dict[str, Any]) -> str:
    """Of all that is read at the start only: two that differ mean a restart."""
    return sha256(msgspec.json.encode((header, options), order="deterministic")).hexdigest()


class NotReadable(Exception):
    """The configuration cannot be used; the text has one line for each problem."""


class Bundle(msgspec.Struct, frozen=True):
    """Everything. `options` are those of the negotiation (`ike.configuration.Options`), as plain data."""

    header: Header
    options: dict[str, Any]
    commands: Commands


def write(bundle: Bundle, descriptor: int) -> None:
    """Write and seal: nobody changes what was judged."""
    header = msgspec.msgpack.encode(bundle.header)
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(len(header).to_bytes(4, "big") + header)
        stream.write(msgspec.msgpack.encode((bundle.options, bundle.commands)))
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def read_header(descriptor: int) -> Header:
    """Raises msgspec.ValidationError, msgspec.DecodeError."""
    length = int.from_bytes(os.pread(descriptor, 4, 0), "big")
    return msgspec.msgpack.decode(os.pread(descriptor, min(length, MAX_HEADER), 4), type=Header)


def read(descriptor: int) -> Bundle:
    """Raises msgspec.ValidationError, msgspec.DecodeError."""
    size = min(os.fstat(descriptor).st_size, MAX_BUNDLE)
    length = int.from_bytes(os.pread(descriptor, 4, 0), "big")
    header = read_header(descriptor)
    rest = os.pread(descriptor, size - 4 - length, 4 + length)
    options, commands = msgspec.msgpack.decode(rest, type=tuple[dict[str, Any], Commands])
    return Bundle(header, options, commands)


def obtain(configuration: Path, *, locked: bool = False) -> tuple[int, Header]:
    """Have a process of its own read the file; the memory file's descriptor and header. Raises NotReadable.

    What is wrong goes into the exception; warnings go to standard error. `locked`: a private key whose
    passphrase nobody has given yet is one of these.
    """
    descriptor = os.memfd_create("cygnet-configuration", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cygnet.daemon.reader",
            str(configuration),
            str(descriptor),
            *["locked"] * locked,
        ],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode:
        os.close(descriptor)
        raise NotReadable(said or f"{configuration}: reading it ended with status {done.returncode}")
    if said:
        sys.stderr.write(f"{said}\n")
    return descriptor, read_header(descriptor)
