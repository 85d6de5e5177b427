"""The judge of a simulation: do both ends agree, is everything in its place, is nothing left over?

`disagreements` lists what is wrong in words; `assert_agreement` raises with all of it. The rules are
those of security.md, section 3.1: the same SPIs at both ends, exactly one live pair for each flow that
is up, nothing orphaned in the data plane, every SA announced once and taken back once, nothing under
way. Judge when the dust has settled: a network at rest, retransmissions over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cygnet.ike.events import ChildSaDown, ChildSaRekeyed, ChildSaUp, IkeSaDown, IkeSaRekeyed, IkeSaUp
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.testing.dataplane import keys_of
from cygnet.testing.gateway import Gateway

AT_REST = ("ESTABLISHED",)
CHILD_AT_REST = ("INSTALLED",)


class Disagreement(AssertionError):
    """The ends do not agree; the text says about what, and with which seed."""


def assert_agreement(*gateways: Gateway, up: Iterable[tuple[str, str]] | None = None) -> None:
    """Raise `Disagreement` if anything is wrong. `up`: (connection, child) that must be up at each gateway
    that has the connection, with exactly one pair a flow."""
    found = disagreements(gateways)
    for connection, child in up or ():
        found += [problem for gateway in gateways for problem in _not_up(gateway, connection, child)]
    if found:
        seed = gateways[0].network.seed if gateways else 0
        raise Disagreement(f"seed {seed}:\n  " + "\n  ".join(found))


def assert_nothing_left(*gateways: Gateway) -> None:
    """Raise `Disagreement` unless every SA is gone and was taken back."""
    found = disagreements(gateways)
    for gateway in gateways:
        found += [f"{gateway.name}: IKE SA {view.unique_id} is still there" for view in gateway.sas()]
        if gateway.plane.inbound or gateway.plane.outbound:
            found.append(f"{gateway.name}: SAs are left in the data plane")
    if found:
        raise Disagreement(f"seed {gateways[0].network.seed}:\n  " + "\n  ".join(found))


def disagreements(gateways: Sequence[Gateway]) -> list[str]:
    """What is wrong, in words; empty if nothing."""
    found: list[str] = []
    for gateway in gateways:
        found += [f"{gateway.name}: {text}" for text in gateway.plane.objections]
        found += _at_rest(gateway)
        found += _one_pair_each(gateway)
        found += _data_plane(gateway)
        found += _announced(gateway)
        found += _books(gateway)
        found += _addresses(gateway)
    found += _both_ends(gateways)
    return found


def _not_up(gateway: Gateway, connection: str, child: str) -> list[str]:
    """The child must be up with each of its flows, on one IKE SA."""
    views = [view for view in gateway.sas() if view.connection == connection]
    pairs = Counter(c.flow for view in views for c in view.children if c.name == child)
    problems = []
    if len(views) != 1:
        problems.append(f"{gateway.name}: {len(views)} IKE SAs for {connection}, one belongs")
    if not pairs or set(pairs.values()) != {1}:
        counts = sorted(pairs.values())
        problems.append(
            f"{gateway.name}: {connection}/{child} has {counts or 'no'} pairs a flow, one belongs"
        )
    return problems


def _at_rest(gateway: Gateway) -> list[str]:
    found = []
    for view in gateway.sas():
        if view.state not in AT_REST:
            found.append(f"{gateway.name}: IKE SA {view.unique_id} is {view.state}")
        found += [
            f"{gateway.name}: child {child.name} (pair {child.pair}) is {child.state}"
            for child in view.children
            if child.state not in CHILD_AT_REST
        ]
    return found


def _one_pair_each(gateway: Gateway) -> list[str]:
    flows = Counter((c.flow, v.connection) for v in gateway.sas() for c in v.children)
    return [
        f"{gateway.name}: {count} pairs for flow {flow} of {connection}"
        for (flow, connection), count in flows.items()
        if count > 1
    ]


def _data_plane(gateway: Gateway) -> list[str]:
    plane = gateway.plane
    inbound, outbound = plane.live_pairs()
    wanted = {pair for view in gateway.sas() for child in view.children for pair in _pairs(child)}
    found = []
    for title, have in (("inbound", inbound), ("outbound", outbound)):
        if have - wanted:
            found.append(f"{gateway.name}: orphaned {title} SAs of pairs {sorted(have - wanted)}")
        if wanted - have:
            found.append(f"{gateway.name}: no {title} SA for pairs {sorted(wanted - have)}")
    for view in gateway.sas():
        for child in view.children:
            entry = plane.inbound.get(child.spi_in)
            if entry is not None and entry.sa.pair != child.pair:
                found.append(f"{gateway.name}: inbound SPI {child.spi_in:08x} belongs to another pair")
    return found


def _announced(gateway: Gateway) -> list[str]:
    """Every SA up once, down or replaced once; what is up now was announced and not taken back."""
    ike: Counter[int] = Counter()
    children: Counter[int] = Counter()
    for event in gateway.events:
        match event:
            case IkeSaUp(sa):
                ike[sa.unique_id] += 1
            case IkeSaDown(sa, _):
                ike[sa.unique_id] -= 1
            case IkeSaRekeyed(old, new):
                ike[old.unique_id] -= 1
                ike[new.unique_id] += 1
            case ChildSaUp(_, child):
                children[child.pair] += 1
            case ChildSaDown(_, child, _):
                children[child.pair] -= 1
            case ChildSaRekeyed(_, old_child, new_child):
                children[old_child.pair] -= 1
                children[new_child.pair] += 1
    live = {view.unique_id for view in gateway.sas()}
    pairs = {child.pair for view in gateway.sas() for child in view.children}
    found = []
    for title, counts, now in (("IKE SA", ike, live), ("pair", children, pairs)):
        for number in sorted(set(counts) | now):
            is_up = number in now
            if counts[number] != is_up:
                found.append(
                    f"{gateway.name}: {title} {number} is {'up' if is_up else 'gone'}, but was announced "
                    f"{counts[number]} times more than taken back"
                )
    return found


def _books(gateway: Gateway) -> list[str]:
    """The endpoint's own registers hold what lives and nothing else."""
    endpoint = gateway.endpoint
    views = gateway.sas()
    children = [child for view in views for child in view.children]
    found = []
    for title, held, wanted in (
        ("IKE SAs", set(endpoint.by_number), {view.unique_id for view in views}),
        ("pairs", set(endpoint.by_pair), {pair for child in children for pair in _pairs(child)}),
        ("SPIs of children", endpoint._child_spis, {spi for child in children for spi in _spis(child)}),
        ("open questions", set(endpoint._asks), set()),
    ):
        if held - wanted:
            found.append(f"{gateway.name}: {len(held - wanted)} {title} are left on the books")
    if len(endpoint.by_spi) > len(views):
        found.append(
            f"{gateway.name}: {len(endpoint.by_spi) - len(views)} SPIs of IKE SAs are left on the books"
        )
    return found


def _pairs(child: ChildSaView) -> list[int]:
    return [child.pair] if child.around is None else [child.pair, child.around.pair]


def _spis(child: ChildSaView) -> list[int]:
    return [child.spi_in] if child.around is None else [child.spi_in, child.around.spi_in]


def _addresses(gateway: Gateway) -> list[str]:
    """Leased is what IKE SAs hold, and the host has what they were given: each exactly."""
    views = gateway.sas()
    found = []
    held = {address for view in views for address in view.remote_vips}
    leased = {
        address for pool in gateway.leases.views(leases=True) for address, _, online in pool.leases if online
    }
    if held != leased:
        found.append(f"{gateway.name}: leased are {sorted(map(str, leased))}, held {sorted(map(str, held))}")
    given = {address for view in views for address in view.local_vips}
    if given != set(gateway.host.addresses):
        found.append(f"{gateway.name}: the host has {gateway.host.addresses}, given were {given}")
    return found


def _both_ends(gateways: Sequence[Gateway]) -> list[str]:
    found: list[str] = []
    by_spis: dict[tuple[int, int], list[tuple[Gateway, IkeSaView]]] = {}
    for gateway in gateways:
        for view in gateway.sas():
            by_spis.setdefault((view.initiator_spi, view.responder_spi), []).append((gateway, view))
    for ends in by_spis.values():
        first_gateway, first = ends[0]
        if len(ends) != 2:
            names = ", ".join(gateway.name for gateway, _ in ends)
            found.append(f"IKE SA {first.initiator_spi:016x} is known at {names} only")
            continue
        second_gateway, second = ends[1]
        if first.initiator == second.initiator:
            found.append(f"IKE SA {first.initiator_spi:016x} has two of one role")
        found += _same_children((first_gateway, first), (second_gateway, second))
        for (here, mine), (there, theirs) in (ends, ends[::-1]):
            if set(mine.local_vips) != set(theirs.remote_vips):
                found.append(
                    f"{here.name} was given {mine.local_vips}, {there.name} leased {theirs.remote_vips}"
                )
    return found


def _same_children(one: tuple[Gateway, IkeSaView], other: tuple[Gateway, IkeSaView]) -> list[str]:
    found: list[str] = []
    theirs = {(child.spi_out, child.spi_in): child for child in other[1].children}
    for child in one[1].children:
        twin = theirs.pop((child.spi_in, child.spi_out), None)
        if twin is None:
            found.append(
                f"child {child.name} {child.spi_in:08x}/{child.spi_out:08x} is at {one[0].name} only"
            )
            continue
        found += _same_pair(one[0], child, other[0], twin)
    found += [
        f"child {child.name} {child.spi_in:08x}/{child.spi_out:08x} is at {other[0].name} only"
        for child in theirs.values()
    ]
    return found


def _same_pair(here: Gateway, child: ChildSaView, there: Gateway, twin: ChildSaView) -> list[str]:
    found = []
    title = f"child {child.name} {child.spi_in:08x}/{child.spi_out:08x}"
    if set(child.local_selectors) != set(twin.remote_selectors) or set(child.remote_selectors) != set(
        twin.local_selectors
    ):
        found.append(f"{title}: the ends hold different selectors")
    suites = [(c.protocol, c.mode, c.encryption, c.key_bits, c.integrity, c.esn) for c in (child, twin)]
    around = [c.around.suite if c.around is not None else None for c in (child, twin)]
    if child.around is not None and twin.around is not None:
        ends = (child.around.spi_in, child.around.spi_out), (twin.around.spi_out, twin.around.spi_in)
        if ends[0] != ends[1]:
            found.append(f"{title}: the ends hold different AH around it")
    if suites[0] != suites[1] or around[0] != around[1]:
        found.append(f"{title}: the ends hold different suites")
    for sender, receiver, spi in ((here, there, child.spi_out), (there, here, child.spi_in)):
        out = [e.sa for entries in sender.plane.outbound.values() for e in entries if e.sa.spi == spi]
        entry = receiver.plane.inbound.get(spi)
        if out and entry is not None and keys_of(out[0]) != keys_of(entry.sa):
            found.append(f"{title}: {sender.name} sends with other keys than {receiver.name} receives")
    return found
