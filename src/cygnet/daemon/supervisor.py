"""The supervisor: systemd's main process, parent of the data plane and of the daemon, keeper of descriptors.

It has the configuration read while it may still be read, opens what needs privilege, starts both
children with what they need, and starts a dead one again with the same descriptors: a new daemon gets
the running data plane's pair, a new data plane a new pair, whose other end the daemon is sent.
Nothing here looks at what comes from the network.

    start:  configuration → control socket → descriptors → data plane → daemon → ready
    stop:   daemon takes leave of its peers → data plane ends; routes and guard stay with the policy
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from cygnet.daemon import control_socket, notify
from cygnet.daemon.bundle import NotReadable, obtain
from cygnet.daemon.child import DEATHS, WITHIN, Child
from cygnet.daemon.settings import Inherited, Settings
from cygnet.dataplane import descriptors

STOP_WITHIN, SILENT_FOR = 10.0, 30.0
"""Seconds to stop in; seconds without a sign of life from the daemon (one a second) until it is killed."""
EXIT_NOT_STARTED, EXIT_GAVE_UP = 1, 3


class NotStarted(Exception):
    """Why Cygnet does not start: a sentence, or a line for each problem of the configuration."""


class Supervisor:
    """Opens what may be refused (raises NotStarted); `run` until told to stop returns the exit status."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dataplane, self.daemon = Child("dataplane"), Child("daemon")
        self.ready, self.heard, self.stop_by = False, time.monotonic(), 0.0
        try:
            self.configuration, header = obtain(settings.configuration)
            self.path = settings.socket or Path(header.control_socket)
            self.listener = control_socket.listen(self.path, header.control_socket_group)
        except (NotReadable, control_socket.ControlSocketRefused) as error:
            raise NotStarted(str(error)) from error
        bursts = header.gso == "auto"
        options = descriptors.Options(tun=header.tun, gso=bursts, gro=bursts, tun_offload=bursts)
        try:
            self.opened = descriptors.open_all(header.port, header.port_nat_t, options)
        except descriptors.DescriptorError as error:
            control_socket.remove(self.path)
            raise NotStarted(str(error)) from error
        self.pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel: socket.socket | None = None
        self.selector = selectors.DefaultSelector()

    def run(self) -> int:
        self.wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self.selector.register(self.wake, selectors.EVENT_READ, self.signalled)
        try:
            while (status := self.look_after(time.monotonic())) is None:
                for key, _ in self.selector.select(0.5):
                    key.data()
            return status
        finally:
            self.daemon.end(signal.SIGKILL)
            self.dataplane.end(signal.SIGKILL)
            control_socket.remove(self.path)

    def look_after(self, now: float) -> int | None:
        """Start what should run; the exit status when all is over."""
        for child, start in ((self.dataplane, self.start_dataplane), (self.daemon, self.start_daemon)):
            ended = child.reap()
            if self.stop_by:
                continue
            if ended and not self.ready:
                say(f"cygnet does not start: the {child.name} process ended ({ended})")
                return EXIT_NOT_STARTED
            if ended and child.hopeless:
                say(f"the {child.name} process ended {DEATHS} times in {WITHIN:.0f} s ({ended}): giving up")
                return EXIT_GAVE_UP
            if ended:
                say(f"the {child.name} process ended ({ended}) and is started again")
            if child.process is None and child.due <= now:
                start()
        if self.stop_by:
            if self.daemon.process is None:
                self.dataplane.end()
            return 0 if now > self.stop_by or self.daemon.process is self.dataplane.process is None else None
        if now - self.heard > SILENT_FOR:
            self.daemon.end(signal.SIGKILL)
        elif self.ready and notify.watchdog_interval():
            notify.tell("WATCHDOG=1")
        return None

    def start_dataplane(self) -> None:
        if self.dataplane.due:  # it ran before: what waits in its old pair was meant for the dead one
            for end in self.pair:
                end.close()
            self.pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.tell_daemon(b"pair", self.pair[1].fileno())
        self.dataplane.start(*self.opened.for_dataplane(self.pair[0].fileno()))

    def start_daemon(self) -> None:
        if self.channel:
            self.selector.unregister(self.channel)
            self.channel.close()
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self.selector.register(self.channel, selectors.EVENT_READ, self.hear)
        self.heard = time.monotonic()
        s = self.settings
        inherited = Inherited(
            lanes=self.opened.lanes, plane=self.pair[1].fileno(), channel=theirs.fileno(),
            listener=self.listener.fileno(), configuration=self.configuration, spi_tag=self.opened.tag,
            user=s.user, log_level=s.log_level, log_json=s.log_json, clear_on_stop=s.clear_on_stop,
        )  # fmt: skip
        fds = [inherited.plane, inherited.channel, inherited.listener, inherited.configuration]
        self.daemon.start([msgspec.json.encode(inherited).decode()], fds + [fd for fd, _ in inherited.lanes])
        theirs.close()

    def tell_daemon(self, word: bytes, *fds: int) -> None:
        if self.channel:
            with contextlib.suppress(OSError):  # it is dead or will be found silent
                socket.send_fds(self.channel, [word], fds)

    def hear(self) -> None:
        """`ready`, `alive`, `reloaded`, `refused WHY` (of a configuration); nothing: it is ending."""
        try:
            word, _, rest = self.channel.recv(65536).partition(b" ") if self.channel else (b"", b"", b"")
        except OSError:
            return
        if not word and self.channel:
            self.selector.unregister(self.channel)
            self.channel.close()
            self.channel = None
        self.heard = time.monotonic()
        if word == b"refused":
            say(f"{rest.decode(errors='replace')}\nthe configuration stays as it was")
        if word in (b"ready", b"reloaded", b"refused"):
            self.ready = True
            notify.tell("READY=1")

    def signalled(self) -> None:
        for number in os.read(self.wake, 64):
            if number in (signal.SIGTERM, signal.SIGINT) and not self.stop_by:
                self.stop_by = time.monotonic() + STOP_WITHIN
                notify.tell("STOPPING=1")
                self.tell_daemon(b"stop")
            elif number == signal.SIGHUP and self.ready:
                self.reload()

    def reload(self) -> None:
        notify.reloading()
        try:
            new, _ = obtain(self.settings.configuration)
        except NotReadable as error:
            say(f"{error}\nthe configuration stays as it was")
            notify.tell("READY=1")
            return
        os.close(self.configuration)
        self.configuration = new
        self.tell_daemon(b"configuration", new)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def run(settings: Settings) -> int:
    """Run Cygnet in the foreground until SIGTERM or SIGINT; the process's exit status."""
    try:
        supervisor = Supervisor(settings)
    except NotStarted as error:
        say(f"cygnet does not start: {error}")
        return EXIT_NOT_STARTED
    return supervisor.run()
