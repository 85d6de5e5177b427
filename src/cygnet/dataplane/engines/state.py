"""What both directions of the portable engine share: the databases, the buffers, the clock, the way up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from cygnet.dataplane.messages import Expire, Report
from cygnet.dataplane.ports import Port, Ports
from cygnet.dataplane.sad import Inbound, Outbound, Sad
from cygnet.dataplane.tun import Offloads
from cygnet.ipsec.esp import Workspace
from cygnet.policy.spd import Policy, Spd


class State:
    """`now` is monotonic seconds as of this turn of the loop: nothing on a packet's way asks for the time."""

    def __init__(
        self, tun: int, offloads: Offloads, spd: Spd, report: Callable[[Report], None], *, bursts: bool
    ) -> None:
        self.offloads = offloads
        self.report = report
        self.ports = Ports(Port("", tun, spd), bursts=bursts)
        self.sad = Sad()
        self.work = Workspace()
        self.drops: Counter[str] = Counter()
        self.now = 0.0
        self.policy_of: dict[int, Policy] = {}
        """By flow."""
        self.forget_routes: Callable[[], None] = lambda: None
        """Called when a policy or an outbound SA came or went: which SA a flow takes is decided anew."""
        self.removed: Callable[[Outbound | Inbound], None] = lambda entry: None
        """Called when an SA is gone."""
        self.paths_changed: Callable[[], None] = lambda: None
        """Called when a path turned out narrower than it was known to be."""

    @property
    def spd(self) -> Spd:
        """The policy-based tunnels' own."""
        return self.ports.own.spd

    def remove(self, entry: Outbound | Inbound) -> None:
        """Its drops stay counted."""
        if entry not in self.sad:
            return
        self.sad.remove(entry)
        self.removed(entry)
        self.drops.update(entry.sa.drops)
        if isinstance(entry, Outbound):
            self.forget_routes()

    def alarm(self, entry: Outbound | Inbound) -> None:
        """A limit that entry's alarms stand for was reached: tell it once, and take away what is used up."""
        sa = entry.sa
        volume = sa.parameters.volume
        used = entry.sa.sequence if isinstance(entry, Outbound) else sa.packets
        hard = ""
        if volume.hard_bytes and sa.bytes >= volume.hard_bytes:
            hard = "bytes"
        elif volume.hard_packets and used >= volume.hard_packets:
            hard = "packets"
        elif isinstance(entry, Outbound) and used >= entry.sa.limit:
            hard = "sequence"
        if hard:
            self.expire(entry, hard)
            return
        if not entry.soft_told:
            if volume.soft_bytes and sa.bytes >= volume.soft_bytes:
                self.tell_soft(entry, "bytes")
            elif volume.soft_packets and used >= volume.soft_packets:
                self.tell_soft(entry, "packets")
            elif isinstance(entry, Outbound) and used >= entry.sequence_alarm:
                self.tell_soft(entry, "sequence")
        entry.rearm()

    def expire(self, entry: Outbound | Inbound, why: str) -> None:
        """A hard end: the SA is gone, the daemon is told."""
        if not entry.hard_told:
            entry.hard_told = True
            parameters = entry.sa.parameters
            self.remove(entry)
            self.report(Expire(parameters.pair, int(parameters.direction), parameters.spi, True, why))

    def tell_soft(self, entry: Outbound | Inbound, why: str) -> None:
        entry.soft_told = True
        parameters = entry.sa.parameters
        self.report(Expire(parameters.pair, int(parameters.direction), parameters.spi, False, why))
