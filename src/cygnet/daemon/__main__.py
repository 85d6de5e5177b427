"""`python -m cygnet.daemon INHERITED`: what the supervisor starts; `process` says what it does then.

    import everything → give up privileges → apply the configuration → hear the data plane answer →
    answer the control socket, say that it is ready

Once the privileges are gone nothing need be readable any more: hence everything is imported first.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from dataclasses import replace
from typing import Any

import msgspec

from cygnet.auth.credentials import Credentials
from cygnet.crypto.entropy import SystemEntropy
from cygnet.daemon import bundle
from cygnet.daemon.collector import settle
from cygnet.daemon.commands import Commands, Server
from cygnet.daemon.control import Control, Refused
from cygnet.daemon.guard import Guard, tell_no_texts
from cygnet.daemon.kept import Kept
from cygnet.daemon.kept import read as read_kept
from cygnet.daemon.lanes import Lane, address
from cygnet.daemon.lease_file import LeaseFile
from cygnet.daemon.log import Line, Severity, Sink
from cygnet.daemon.preload import preload
from cygnet.daemon.privileges import PrivilegesKept, give_up
from cygnet.daemon.process import Daemon, now
from cygnet.daemon.settings import Inherited
from cygnet.daemon.sources import Sources, mark_of
from cygnet.daemon.supervised import Supervised
from cygnet.dataplane import messages
from cygnet.dataplane.engines import KERNEL
from cygnet.ike import events
from cygnet.ike.configuration import Options
from cygnet.ike.endpoint import Endpoint

SWEEP_AFTER = 60.0
"""Seconds that a former daemon's SAs may go on carrying traffic: by then the peers know, and ours are up."""
GOODBYE_WITHIN = 3.0
"""Seconds to delete all IKE SAs at a stop; a peer that is silent finds out by itself."""


class Program:
    """The daemon with everything around it, from its descriptors to its end."""

    def __init__(self, inherited: Inherited, loaded: bundle.Bundle, sources: Sources, sink: Sink) -> None:
        self.inherited = inherited
        self.sink = sink
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[int] = self.loop.create_future()
        self.guard = Guard(self.escaped)
        self.loop.set_exception_handler(self.escaped_from_loop)
        options = msgspec.convert(loaded.options, Options)
        if inherited.engine == KERNEL:  # UDP is for batches in userspace, and for NAT
            options = replace(options, encapsulate=False)
        self.credentials = Credentials()
        endpoint = Endpoint(options, self.credentials, SystemEntropy(), now())
        endpoint.spi_tag = inherited.spi_tag.to_bytes(2, "big")
        lanes = [Lane(socket.socket(fileno=fd), marker=marker) for fd, marker in inherited.lanes]
        listen = frozenset(address(text) for text in loaded.header.listen)
        epoch = secrets.randbits(29) + 1
        kept = LeaseFile(inherited.state, self.note)
        self.daemon = Daemon(self.loop, endpoint, lanes, self.guard, epoch, sources, listen, kept.leases)
        kept.read()
        self.daemon.listeners.append(sink.tell)
        self.kept = Kept(inherited.kept, lambda descriptor: self.supervised.hand_over(descriptor))
        self.control = Control(self.daemon, self.credentials, self.note, self.kept)
        self.commands = Commands(self.daemon, self.control, log_messages=sink.upto >= Severity.DEBUG)
        self.vici = Server(
            socket.socket(fileno=inherited.listener), self.commands.handlers, on_error=self.guard.escape
        )
        self.commands.attach(self.vici)
        self.supervised = Supervised(
            self.loop,
            socket.socket(fileno=inherited.channel),
            stop=self.stop,
            gone=lambda: self.end(0),
            new_pair=self.daemon.plane_restarted,
            new_configuration=self.reload,
        )
        self.daemon.plane.stuck = lambda: self.supervised.say(b"stuck")
        self.loaded = loaded
        self.commands.options = bundle.fingerprint(loaded.header, loaded.options)
        self.reloading: asyncio.Task[None] | None = None
        self.answered: asyncio.Future[None] = self.loop.create_future()

    async def run(self) -> int:
        self.daemon.start(socket.socket(fileno=self.inherited.plane))
        try:
            await self.control.apply(self.loaded.commands, read_kept(self.inherited.kept))
        except Refused as refused:
            # The rest is in force: better some tunnels than none because of one.
            self.say(Severity.ERROR, "not-loaded", str(refused))
            self.daemon.incomplete = True
        del self.loaded
        settle()
        self.daemon.plane.dump(self.plane_answered)
        # Whoever is answered may rely on it: nothing that is protected leaves in clear any more.
        await asyncio.wait((self.answered, self.done), return_when=asyncio.FIRST_COMPLETED)
        await self.vici.start()
        status = await self.done
        await self.vici.close()
        self.daemon.stop()
        return status

    def plane_answered(self, report: messages.Report | None) -> None:
        """The data plane answers in order: by now our policies are in force."""
        if not self.answered.done():
            self.answered.set_result(None)
        if not self.daemon.plane.attached:
            return  # it ended, and the next one's pair is on its way
        if self.daemon.not_in_force:
            # Whoever starts with a hole in the fence lets through what must not leave in clear.
            self.say(Severity.ERROR, "not-protected", next(iter(self.daemon.not_in_force.values())))
            self.end(1)
            return
        self.supervised.say(b"ready")
        if isinstance(report, messages.Dumped):
            self.daemon.engine = report.engine, report.why
        engine, why = self.daemon.engine
        engine += f" ({why})" if why else ""
        self.say(
            Severity.INFO, "ready", f"ready: {len(self.control.connections)} connections, engine {engine}"
        )
        if isinstance(report, messages.Dumped):
            self.daemon.take_over(report.flows)
        self.loop.call_later(SWEEP_AFTER, self.daemon.sweep)

    def reload(self, descriptor: int) -> None:
        self.reloading = self.loop.create_task(self.reload_from(descriptor, self.reloading))

    async def reload_from(self, descriptor: int, former: asyncio.Task[None] | None) -> None:
        """One after the other; the last wins."""
        if former is not None:
            await asyncio.wait([former])
        try:
            new = bundle.read(descriptor)
            await self.control.apply(new.commands)
        except Refused as refused:
            self.supervised.say(b"refused", str(refused))
            return
        finally:
            os.close(descriptor)
        self.supervised.say(b"reloaded")
        if self.daemon.incomplete:
            self.daemon.incomplete = False
            self.daemon.sweep()
        if bundle.fingerprint(new.header, new.options) != self.commands.options:
            self.say(Severity.WARNING, "options-later", "changed options take effect at the next start")
        self.say(
            Severity.INFO, "reloaded", f"configuration reloaded: {len(self.control.connections)} connections"
        )

    # -- the end -------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take leave of the peers, for as long as that may take; then end."""
        self.daemon.leave()
        self.loop.call_later(GOODBYE_WITHIN, self.left)
        self.until_left()

    def until_left(self) -> None:
        if self.daemon.deserted() and self.daemon.accounting.idle():
            self.left()
        else:
            self.loop.call_later(0.05, self.until_left)

    def left(self) -> None:
        if self.inherited.clear_on_stop:
            self.daemon.plane.shutdown(clear=True)
        self.end(0)

    def end(self, status: int) -> None:
        if not self.done.done():
            self.done.set_result(status)

    # -- the log -------------------------------------------------------------------------------

    def say(self, severity: Severity, code: str, text: str) -> None:
        self.sink.write(Line("DMN", severity, 1, code, text))

    def note(self, code: str, text: str) -> None:
        self.daemon.emit(events.Noted(code, text))

    def escaped(self, what: str, summary: str, told: str) -> None:
        self.say(Severity.ERROR, "escaped", f"a fault of Cygnet's own cost one {what}: {summary}")
        for line in told.splitlines():
            self.say(Severity.ERROR, "escaped-trace", line)

    def escaped_from_loop(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.guard.escape("task", error)


async def serve(inherited: Inherited, loaded: bundle.Bundle, sources: Sources, sink: Sink) -> int:
    return await Program(inherited, loaded, sources, sink).run()


def main() -> int:
    tell_no_texts("daemon")
    inherited = msgspec.json.decode(sys.argv[1], type=Inherited)
    loaded = bundle.read(inherited.configuration)
    level = inherited.log_level or loaded.header.log_level
    sink = Sink(Severity[level.upper()], as_json=inherited.log_json)
    preload()
    sources = Sources(mark_of(inherited.lanes[0][0]))
    try:
        given_up = give_up(inherited.user)
    except PrivilegesKept as kept:
        sys.stderr.write(f"the daemon does not run: {kept}\n")
        return 1
    sink.write(Line("DMN", Severity.DEBUG, 1, "privileges", given_up))
    if given_up.startswith("user nobody") and inherited.user != "nobody":
        text = f"there is no account {inherited.user} here: the daemon is nobody (`cygnet service install`)"
        sink.write(Line("DMN", Severity.WARNING, 1, "no-account", text))
    settle()
    return asyncio.run(serve(inherited, loaded, sources, sink))


if __name__ == "__main__":
    sys.exit(main())
