"""Reads a configuration and the files it names, writes the bundle:

    python -m cygnet.daemon.reader FILE FD [locked]

A process of its own, so that the supervisor loads none of the negotiation and holds no secret in a
form that it could show. Problems go to standard error, one a line, with exit status 1.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from cygnet.config.build import Gateway
from cygnet.config.load import load
from cygnet.config.problems import ConfigurationError
from cygnet.daemon.bundle import Bundle, Header, fingerprint, write
from cygnet.daemon.guard import tell_no_texts
from cygnet.daemon.privileges import hide_memory


def header_of(gateway: Gateway) -> Header:
    return Header(
        control_socket=gateway.control_socket,
        control_socket_group=gateway.control_socket_group,
        listen=tuple(str(address) for address in gateway.listen),
        port=gateway.options.port,
        port_nat_t=gateway.options.port_nat_t,
        engine=gateway.engine,
        gso=gateway.gso,
        tun=gateway.tun,
        default_discard=gateway.default_discard,
        log_level=gateway.log_level,
        state_directory=gateway.state_directory,
        resolver=gateway.resolver,
    )


def fingerprint_of(gateway: Gateway) -> str:
    """What `daemon-stats` says of a daemon that was started with these options."""
    return fingerprint(header_of(gateway), asdict(gateway.options))


def main() -> int:
    hide_memory()
    tell_no_texts("reading")
    path, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    try:
        # At the start there is nobody to ask; a reload would take away a key that somebody has unlocked.
        loaded = load(path, ask=(lambda _: None) if sys.argv[3:] == ["locked"] else None)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or path} cannot be read: {error.strerror}\n")
        return 1
    for warning in loaded.warnings:
        sys.stderr.write(f"{warning}\n")
    gateway = loaded.gateway
    write(Bundle(header_of(gateway), asdict(gateway.options), list(loaded.commands())), descriptor)
    return 0


if __name__ == "__main__":
    sys.exit(main())
