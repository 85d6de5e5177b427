"""Everything that can be refused at the start, opened in order; what was opened is closed when one is."""

from __future__ import annotations

import os
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cygnet.daemon import alone, bundle, control_socket, kept, state_directory
from cygnet.daemon.privileges import missing
from cygnet.daemon.settings import Settings
from cygnet.dataplane.descriptors import DescriptorError, Descriptors, Options, open_all
from cygnet.dataplane.engines import EngineUnavailable, settle


class NotStarted(Exception):
    """Why Cygnet does not start: a sentence, or a line for each problem of the configuration."""


@dataclass(slots=True)
class Opened:
    """`configuration`: a bundle's descriptor. `path`: of the control socket that `listener` listens on.
    `state`: of the directory that the daemon may write, -1 if there is none. `kept`: of what was loaded
    since the start. `alone`: what says that a Cygnet runs in this network namespace (`daemon.alone`)."""

    configuration: int
    path: Path
    listener: socket.socket
    descriptors: Descriptors
    state: int
    kept: int
    alone: socket.socket | None

    def keep(self, descriptor: int) -> None:
        """The daemon has written anew what was loaded since the start."""
        os.close(self.kept)
        self.kept = descriptor


def read_again(file: Path) -> int:
    """The configuration as it is now, a bundle's descriptor. Raises NotStarted."""
    try:
        return bundle.obtain(file)[0]
    except bundle.NotReadable as error:
        raise NotStarted(str(error)) from error


def not_here(listen: tuple[str, ...]) -> list[str]:
    """Addresses of `options.listen` that nothing can be received at, yet."""
    found = []
    for text in listen:
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((text, 0))
        except OSError:
            found.append(text)
    return found


def open_everything(settings: Settings) -> Opened:
    """Raises NotStarted."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the children's too: key material stays in memory
    try:
        configuration, header = bundle.obtain(settings.configuration, locked=True)
    except bundle.NotReadable as error:
        raise NotStarted(str(error)) from error
    lacking = missing((12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"))
    if lacking:
        os.close(configuration)
        raise NotStarted(f"a tunnel needs the privileges {' and '.join(lacking)}: start as root")
    try:
        held = hold_alone()
    except NotStarted:
        os.close(configuration)
        raise
    for text in not_here(header.listen):
        sys.stderr.write(
            f"options.listen: {text} is no address of this machine now: nothing comes in there\n"
        )
    path = settings.socket or Path(header.control_socket)
    try:
        listener = control_socket.listen(path, header.control_socket_group)
    except control_socket.ControlSocketRefused as error:
        os.close(configuration)
        raise NotStarted(str(error)) from error
    if header.port == header.port_nat_t:
        os.close(configuration)
        listener.close()
        control_socket.remove(path)
        raise NotStarted(f"options.port and options.port_nat_t are both {header.port}: they must differ")
    bursts = header.gso == "auto"
    options = Options(
        tun=header.tun,
        gso=bursts,
        gro=bursts,
        tun_offload=bursts,
        default_discard=header.default_discard,
        resolver=header.resolver,
    )
    try:
        engine, why = settle(header.engine)
        options = msgspec.structs.replace(options, engine=engine, why=why)
        descriptors = open_all(header.port, header.port_nat_t, options)
    except (DescriptorError, EngineUnavailable) as error:
        os.close(configuration)
        listener.close()
        control_socket.remove(path)
        raise NotStarted(str(error)) from error
    state = -1
    try:
        state = state_directory.prepare(settings.state or Path(header.state_directory), settings.user)
    except state_directory.NoStateDirectory as error:
        sys.stderr.write(f"nothing is kept over a restart: {error}\n")
    return Opened(configuration, path, listener, descriptors, state, kept.create(), held)


def hold_alone() -> socket.socket | None:
    """None: a stranger has the name, which is told. Raises NotStarted."""
    try:
        return alone.hold()
    except alone.Taken as taken:
        raise NotStarted(f"{taken}: a second one would open what it protects; stop it first") from taken
    except alone.Stranger as stranger:
        sys.stderr.write(f"a second Cygnet in this network namespace is not noticed: {stranger}\n")
        return None
