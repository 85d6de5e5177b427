"""A data plane that only keeps books: it answers installations, carries virtual packets, and objects.

It does what the real ones must (RFC 4301): looks the SPD up in order, sends on the newest outbound SA
of a flow whose selectors hold the packet, finds inbound SAs by SPI, judges what comes out by the SA's
selectors, asks for SAs that it lacks, and reports wear. Keys are compared, not used: a packet opens only
if both ends hold the same. Whatever the negotiation orders and cannot be meant stands in `objections`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from cygnet.ike.effects import (
    Installed,
    InstallFailed,
    InstallPolicy,
    InstallSa,
    RemovePolicy,
    RemoveSa,
    Traffic,
    UpdateSa,
)
from cygnet.policy.sa import Direction, SaParameters, SaProtocol, UdpEncapsulation
from cygnet.policy.selectors import TrafficSelector
from cygnet.policy.spd import Action, Policy, PolicyRule
from cygnet.testing.network import Flight, IpAddress, Packet, VirtualEsp

if TYPE_CHECKING:
    from cygnet.testing.gateway import Gateway

Order = InstallSa | RemoveSa | UpdateSa | InstallPolicy | RemovePolicy

HELD: Final = 8
"""Packets of one flow that wait for its SA."""
ACQUIRE_AGAIN: Final = 5.0
"""Seconds after which a flow that still has no SA is reported again."""


@dataclass(slots=True)
class InstalledSa:
    """One direction as the data plane knows it; `dies_at` for an inbound one that lingers."""

    sa: SaParameters
    installed_at: float
    packets: int = 0
    octets: int = 0
    used_at: float = -float("inf")
    dies_at: float = 0.0
    told_soft: bool = False
    sequence: int = 0
    seen: set[int] = field(default_factory=set)


def keys_of(sa: SaParameters) -> tuple[object, ...]:
    """What both ends of an SA must agree on for a packet to open."""
    return (
        sa.protocol,
        sa.mode,
        sa.encryption,
        sa.key_bits,
        sa.integrity,
        sa.encryption_key,
        sa.integrity_key,
        sa.esn,
    )


class DataPlane:
    """See the file's header. `refuse` may fail an installation by returning the error's text.

    `received` are the packets delivered here, in order; `bypassed` those that left in clear because
    policy says so; `drops` counts the others by reason. `install_delay` is the time that an
    order takes, in seconds.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.inbound: dict[int, InstalledSa] = {}
        self.outbound: dict[int, list[InstalledSa]] = {}
        self.around_out: dict[int, InstalledSa] = {}
        """AH of bundles, by pair."""
        self.policies: dict[int, Policy] = {}
        self.received: list[Packet] = []
        self.bypassed: list[Packet] = []
        self.drops: Counter[str] = Counter()
        self.objections: list[str] = []
        self.refuse: Callable[[SaParameters], str] | None = None
        self.install_delay = 0.0
        self.installed = 0
        self.removed = 0
        self._held: dict[int, list[Packet]] = {}
        self._asked: dict[int, float] = {}

    # -- what the negotiation orders ------------------------------------------------------------

    def order(self, order: Order) -> None:
        """Orders are carried out in order, each `install_delay` after it was given."""
        self.gateway.network.schedule(self.install_delay, lambda: self._carry_out(order))

    def _carry_out(self, order: Order) -> None:
        match order:
            case InstallSa():
                self._install(order)
            case RemoveSa():
                self._remove(order)
            case UpdateSa():
                self._update(order)
            case InstallPolicy(policy):
                self.policies[policy.id] = policy
            case RemovePolicy(policy_id):
                if self.policies.pop(policy_id, None) is None:
                    self.objections.append(f"policy {policy_id} removed, which was not in force")

    def _install(self, order: InstallSa) -> None:
        sa = order.sa
        error = self.refuse(sa) if self.refuse is not None else ""
        if error:
            self.gateway.answer(order.ask_id, InstallFailed(error))
            return
        entry = InstalledSa(sa, self._now)
        if sa.direction == Direction.IN:
            if sa.spi in self.inbound and not self.inbound[sa.spi].dies_at:
                self.objections.append(f"inbound SPI {sa.spi:08x} installed twice")
            if not 256 <= sa.spi < 1 << 32:
                self.objections.append(f"inbound SPI {sa.spi:08x} is reserved (RFC 4303, section 2.1)")
            self.inbound[sa.spi] = entry
        else:
            known: list[InstalledSa] = []
            if _is_around(sa):
                self.around_out[sa.pair] = entry
            else:
                known = self.outbound.setdefault(sa.flow, [])
            if sa.bundle and not _is_around(sa) and sa.bundle not in self.around_out:
                self.objections.append(f"ESP of pair {sa.pair} installed before its AH")
            if any(other.sa.pair == sa.pair for other in known):
                self.objections.append(f"outbound of pair {sa.pair} installed twice")
            known.append(entry)
        self.installed += 1
        self._check_keys(sa)
        self._schedule_death(sa)
        self.gateway.answer(order.ask_id, Installed())
        if sa.direction == Direction.OUT:
            self._asked.pop(sa.flow, None)
            for packet in self._held.pop(sa.flow, []):
                self.send(packet)

    def _check_keys(self, sa: SaParameters) -> None:
        if not sa.encryption_key and not sa.integrity_key:
            self.objections.append(f"SA {sa.spi:08x} has no keys at all")
        if not sa.local_selectors or not sa.remote_selectors:
            self.objections.append(f"SA {sa.spi:08x} has no selectors")

    def _schedule_death(self, sa: SaParameters) -> None:
        if not sa.hard_seconds:
            return

        def die() -> None:
            if self._forget(sa.direction, sa.spi, sa.pair):
                self.gateway.expire(sa.pair, sa.direction, hard=True, why="seconds")

        self.gateway.network.schedule(sa.hard_seconds, die)

    def _remove(self, order: RemoveSa) -> None:
        if order.direction == Direction.OUT:
            if self._forget(Direction.OUT, order.spi, order.pair):
                self.removed += 1
            return
        entry = self.inbound.get(order.spi)
        if entry is None or entry.dies_at:
            return
        self.removed += 1
        if order.linger <= 0:
            del self.inbound[order.spi]
            return
        entry.dies_at = self._now + order.linger

        def vanish() -> None:
            if self.inbound.get(order.spi) is entry:
                del self.inbound[order.spi]

        self.gateway.network.schedule(order.linger, vanish)

    def _forget(self, direction: int, spi: int, pair: int) -> bool:
        if direction == Direction.OUT and pair in self.around_out:
            del self.around_out[pair]
            return True
        if direction == Direction.IN:
            entry = self.inbound.get(spi)
            if entry is None or entry.sa.pair != pair or entry.dies_at:
                return False
            del self.inbound[spi]
            return True
        for flow, entries in self.outbound.items():
            for entry in entries:
                if entry.sa.pair == pair and entry.sa.spi == spi:
                    entries.remove(entry)
                    if not entries:
                        del self.outbound[flow]
                    return True
        return False

    def _update(self, order: UpdateSa) -> None:
        path = order.path
        moved = UdpEncapsulation(path.local_port, path.remote_port) if order.encapsulated else None
        outbound = [e for es in self.outbound.values() for e in es]
        for entry in (*self.inbound.values(), *outbound, *self.around_out.values()):
            if entry.sa.pair == order.pair:
                entry.sa = replace(entry.sa, local=path.local, remote=path.remote, encapsulation=moved)

    # -- packets --------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self.gateway.network.now.monotonic

    def rule_for(self, packet: Packet, *, arriving: bool = False) -> PolicyRule | None:
        """The first rule that matches, by plain scan. `arriving`: the packet's destination is this side's."""
        ours, theirs = (
            (packet.destination, packet.source) if arriving else (packet.source, packet.destination)
        )
        our_port, their_port = (
            (packet.destination_port, packet.source_port)
            if arriving
            else (packet.source_port, packet.destination_port)
        )
        for policy in sorted(self.policies.values(), key=lambda p: (p.priority, p.id)):
            for rule in policy.rules:
                if _inside(rule.local, packet.protocol, ours, our_port) and _inside(
                    rule.remote, packet.protocol, theirs, their_port
                ):
                    return rule
        return None

    def send(self, packet: Packet) -> str:
        """A packet from this side. Returns what became of it: sent, bypass, discard, held, dropped."""
        rule = self.rule_for(packet)
        if rule is None or rule.action == Action.BYPASS:
            self.bypassed.append(packet)
            return "bypass"
        if rule.action == Action.DISCARD:
            self.drops["policy"] += 1
            return "discard"
        entries = self.outbound.get(rule.flow)
        if not entries:
            return self._lack(rule.flow, packet)
        entry = next((one for one in reversed(entries) if _carries(one.sa, packet)), None)
        if entry is None:
            self.drops["outside the SA"] += 1
            return "dropped"
        sa = entry.sa
        entry.sequence += 1
        ports = None
        if sa.encapsulation is not None:
            ports = (sa.encapsulation.local_port, sa.encapsulation.remote_port)
        outer = None
        if sa.bundle:
            around = self.around_out.get(sa.bundle)
            if around is None:
                self.objections.append(f"ESP of pair {sa.pair} without its AH")
                self.drops["no AH"] += 1
                return "dropped"
            around.sequence += 1
            outer = VirtualEsp(around.sa.spi, around.sequence, keys_of(around.sa), packet)
        esp = VirtualEsp(sa.spi, entry.sequence, keys_of(sa), packet, outer)
        self.gateway.network.send(sa.local, sa.remote, ports, esp=esp)
        self._wear(entry, packet)
        return "sent"

    def _lack(self, flow: int, packet: Packet) -> str:
        trap = next((p.trap for p in self.policies.values() if any(r.flow == flow for r in p.rules)), False)
        if not trap:
            self.drops["no SA"] += 1
            return "dropped"
        held = self._held.setdefault(flow, [])
        if len(held) >= HELD:
            self.drops["no SA"] += 1
        else:
            held.append(packet)
        asked = self._asked.get(flow)
        if asked is None or self._now - asked >= ACQUIRE_AGAIN:
            self._asked[flow] = self._now
            self.gateway.acquire(flow, _selector_of(packet, ours=True), _selector_of(packet, ours=False))
        return "held"

    def arrive(self, flight: Flight, esp: VirtualEsp) -> None:
        """A protected packet came in: the order of RFC 4303, section 3.4."""
        via = 0
        if esp.around is not None:
            ah = self.inbound.get(esp.around.spi)
            if ah is None or not _is_around(ah.sa):
                self.drops["no inbound AH"] += 1
                return
            if esp.around.keys != keys_of(ah.sa):
                self.drops["integrity"] += 1
                self.objections.append(f"AH {esp.around.spi:08x}: the two ends hold different keys")
                return
            via = ah.sa.pair
        entry = self.inbound.get(esp.spi)
        if entry is None:
            self.drops["no inbound SA"] += 1
            return
        if entry.sa.bundle != via:
            self.drops["not bundled"] += 1
            return
        if esp.sequence in entry.seen:
            self.drops["replay"] += 1
            return
        if esp.keys != keys_of(entry.sa):
            self.drops["integrity"] += 1
            self.objections.append(f"SA {esp.spi:08x}: the two ends hold different keys")
            return
        newest = not entry.seen or esp.sequence > max(entry.seen)
        entry.seen.add(esp.sequence)
        sa, packet = entry.sa, esp.packet
        if not _covered(
            sa.remote_selectors, packet.protocol, packet.source, packet.source_port
        ) or not _covered(sa.local_selectors, packet.protocol, packet.destination, packet.destination_port):
            self.drops["selector"] += 1
            return
        first = entry.packets == 0
        self._wear(entry, packet)
        self.received.append(packet)
        if first and sa.notify_first_use:
            self.gateway.first_use(sa.pair, sa.spi)
        if newest and sa.encapsulation is not None and flight.ports is not None:
            came_from = (flight.source, flight.ports[0])
            if came_from != (sa.remote, sa.encapsulation.remote_port):
                self.gateway.peer_moved(sa.pair, *came_from)

    def traffic(self, pairs: tuple[int, ...]) -> Traffic:
        """Of these pairs."""
        inbound = [one.used_at for one in self.inbound.values() if one.sa.pair in pairs]
        outbound = [one.used_at for ones in self.outbound.values() for one in ones if one.sa.pair in pairs]
        never = -float("inf")
        last_in, last_out = max(inbound, default=never), max(outbound, default=never)
        return Traffic(self._now - last_in, self._now - last_out)

    def _wear(self, entry: InstalledSa, packet: Packet) -> None:
        entry.packets += 1
        entry.used_at = self._now
        entry.octets += packet.size
        sa, volume = entry.sa, entry.sa.volume
        for why, count, soft, hard in (
            ("bytes", entry.octets, volume.soft_bytes, volume.hard_bytes),
            ("packets", entry.packets, volume.soft_packets, volume.hard_packets),
        ):
            if hard and count >= hard:
                if self._forget(sa.direction, sa.spi, sa.pair):
                    self.gateway.expire(sa.pair, sa.direction, hard=True, why=why)
                return
            if soft and count >= soft and not entry.told_soft:
                entry.told_soft = True
                self.gateway.expire(sa.pair, sa.direction, hard=False, why=why)

    # -- looking --------------------------------------------------------------------------------

    def live_pairs(self) -> tuple[set[int], set[int]]:
        """(pairs installed inbound, pairs installed outbound); what only lingers is left out."""
        inbound = {e.sa.pair for e in self.inbound.values() if not e.dies_at}
        outbound = {e.sa.pair for entries in self.outbound.values() for e in entries} | set(self.around_out)
        return inbound, outbound


def _is_around(sa: SaParameters) -> bool:
    """AH of a bundle: no flow takes it by itself."""
    return sa.protocol == SaProtocol.AH and bool(sa.bundle)


def _inside(selector: TrafficSelector, protocol: int, address: IpAddress, port: int) -> bool:
    return (
        selector.family == address.version
        and selector.protocol in (0, protocol)
        and selector.first <= int(address) <= selector.last
        and (
            (selector.port_first, selector.port_last) == (0, 65535)
            or selector.port_first <= port <= selector.port_last
        )
    )


def _carries(sa: SaParameters, packet: Packet) -> bool:
    return _covered(sa.local_selectors, packet.protocol, packet.source, packet.source_port) and _covered(
        sa.remote_selectors, packet.protocol, packet.destination, packet.destination_port
    )


def _covered(selectors: tuple[TrafficSelector, ...], protocol: int, address: IpAddress, port: int) -> bool:
    return any(_inside(selector, protocol, address, port) for selector in selectors)


def _selector_of(packet: Packet, *, ours: bool) -> TrafficSelector:
    address = packet.source if ours else packet.destination
    port = packet.source_port if ours else packet.destination_port
    return TrafficSelector(address.version, packet.protocol, int(address), int(address), port, port)
