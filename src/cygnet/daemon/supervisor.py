"""The supervisor: systemd's main process, parent of the data plane and of the daemon, keeper of descriptors.

It has the configuration read while it may still be read, opens what needs privilege, starts both
children with what they need, and starts a dead one again with the same descriptors: a new daemon gets
the running data plane's pair, a new data plane a new pair, whose other end the daemon is sent.
Nothing here looks at what comes from the network.

    start:  configuration → control socket → descriptors → data plane → daemon → ready
    again:  configuration of the start and what was loaded since (`daemon.kept`) → daemon → ready
    stop:   daemon takes leave of its peers → data plane ends; routes and guard stay with the policy
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time

import msgspec

from cygnet.daemon import alone, control_socket, notify
from cygnet.daemon.child import DEATHS, WITHIN, Child
from cygnet.daemon.opening import NotStarted, Opened, open_everything, read_again
from cygnet.daemon.settings import Inherited, Settings
from cygnet.daemon.supervised import Leash, plane_pair

STOP_WITHIN, SILENT_FOR, STARTS_WITHIN = 10.0, 30.0, 240.0
"""Seconds to stop in; without a sign of life from the daemon until it is killed; until its first one."""
EXIT_NOT_STARTED, EXIT_GAVE_UP = 1, 3


class Supervisor:
    """`run`, until told to stop, returns the exit status."""

    def __init__(self, settings: Settings, opened: Opened) -> None:
        self.settings, self.opened = settings, opened
        self.dataplane, self.daemon = Child("dataplane"), Child("daemon")
        self.ready, self.heard, self.stop_by = False, time.monotonic(), 0.0
        self.up, self.waiting = False, -1
        """Does this daemon take a configuration; one that waits until it does."""
        self.pair = plane_pair()
        self.selector = selectors.DefaultSelector()
        self.leash = Leash(self.selector, self.hear)

    def run(self) -> int:
        self.wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self.selector.register(self.wake, selectors.EVENT_READ, self.signalled)
        if (held := self.opened.alone) is not None:
            self.selector.register(held, selectors.EVENT_READ, lambda: alone.let_go_of_callers(held))
        try:
            while (status := self.look_after(time.monotonic())) is None:
                for key, _ in self.selector.select(0.5):
                    key.data()
            return status
        finally:
            self.daemon.end(signal.SIGKILL)
            self.dataplane.end(signal.SIGKILL)
            control_socket.remove(self.opened.path)

    def look_after(self, now: float) -> int | None:
        """Start what should run; the exit status when all is over."""
        for child, start in ((self.dataplane, self.start_dataplane), (self.daemon, self.start_daemon)):
            ended = child.reap()
            if self.stop_by:
                continue
            if ended and not self.ready:
                return say(f"cygnet does not start: its {child.name} process {ended}", EXIT_NOT_STARTED)
            if ended and child.hopeless:
                return say(
                    f"the {child.name} process {ended}, {DEATHS}th time in {WITHIN:.0f} s", EXIT_GAVE_UP
                )
            if ended:
                say(f"the {child.name} process {ended} and is started again")
            if child.process is None and child.due <= now:
                start()
        if self.stop_by:
            if self.daemon.process is None:
                self.dataplane.end()
            return 0 if now > self.stop_by or self.daemon.process is self.dataplane.process is None else None
        if now - self.heard > (SILENT_FOR if self.ready else STARTS_WITHIN):
            self.daemon.end(signal.SIGKILL)
        elif self.ready and notify.watchdog_interval():
            notify.tell("WATCHDOG=1")
        return None

    def start_dataplane(self) -> None:
        if self.dataplane.due:  # it ran before: what waits in its old pair was meant for the dead one
            for end in self.pair:
                end.close()
            self.pair = plane_pair()
            self.leash.tell(b"pair", self.pair[1].fileno())
        self.dataplane.start(*self.opened.descriptors.for_dataplane(self.pair[0].fileno()))

    def start_daemon(self) -> None:
        while self.leash.ours is not None:  # what the former one handed over is newer than what we have
            self.hear()
        self.up, self.heard, s, opened = False, time.monotonic(), self.settings, self.opened
        theirs = self.leash.renew()
        fds = (self.pair[1].fileno(), theirs.fileno(), opened.listener.fileno(), opened.configuration)
        lanes, tag, engine = (held := opened.descriptors).lanes, held.tag, held.options.engine
        inherited = Inherited(
            lanes, *fds, tag, s.user, s.log_level, s.log_json, s.clear_on_stop, opened.state, engine,
            opened.kept,
        )  # fmt: skip
        kept = [opened.kept, *([opened.state] if opened.state >= 0 else [])]
        argument = msgspec.json.encode(inherited).decode()
        self.daemon.start([argument], [*fds, *kept, *(fd for fd, _ in lanes)])
        theirs.close()

    def hear(self) -> None:
        word, text, descriptors = self.leash.hear()
        self.heard = time.monotonic()
        if word == "kept" and descriptors:
            self.opened.keep(descriptors.pop())
        if word == "stuck":
            say("the dataplane process does not answer any more")
            self.dataplane.end(signal.SIGKILL)
        if word == "refused":
            say(f"{text}\nthe configuration stays as it was")
        if word in ("ready", "reloaded", "refused"):
            self.ready = self.up = True
            if self.waiting >= 0:
                self.hand_over()
            else:
                notify.tell("READY=1")

    def signalled(self) -> None:
        for number in os.read(self.wake, 64):
            if number in (signal.SIGTERM, signal.SIGINT) and not self.stop_by:
                self.stop_by = time.monotonic() + STOP_WITHIN
                notify.tell("STOPPING=1")
                self.leash.tell(b"stop")
            elif number == signal.SIGHUP and self.ready:
                self.reload()

    def reload(self) -> None:
        notify.reloading()
        try:
            new = read_again(self.settings.configuration)
        except NotStarted as error:
            say(f"{error}\nthe configuration stays as it was")
            notify.tell("READY=1")
            return
        if self.waiting >= 0:
            os.close(self.waiting)
        self.waiting = new
        if self.up:
            self.hand_over()

    def hand_over(self) -> None:
        """A daemon that dies of it comes back with what was in force before, and is not told again."""
        self.leash.tell(b"configuration", self.waiting)
        os.close(self.waiting)
        self.waiting = -1


def say(text: str, status: int = 0) -> int:
    """A line of the log, with its time as the daemon's have it; of what does not start, one for a person."""
    when = "" if status == EXIT_NOT_STARTED else f"{time.strftime('%H:%M:%S')} "
    sys.stderr.write(f"{when}{text}\n")
    return status


def run(settings: Settings) -> int:
    """Run Cygnet in the foreground until SIGTERM or SIGINT; the process's exit status."""
    try:
        opened = open_everything(settings)
    except NotStarted as error:
        return say(f"cygnet does not start: {error}", EXIT_NOT_STARTED)
    return Supervisor(settings, opened).run()
