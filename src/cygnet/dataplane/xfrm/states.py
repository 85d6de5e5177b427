"""SAs as the kernel's: one of ours is one state, or two where it compresses.

    outbound: packet → IPComp state (its mode the SA's) → ESP state (transport) → wire

Around what already has its outer header, ESP and AH are in transport mode. The kernel chooses among states
by request number, ends, mode and, where a state has one, selector, and takes the youngest. What it must keep
for whoever comes after this process stands in the state's ledger: the flow and the pair it belongs to;
outbound ones are told by the mark that their sealed packets carry, which lets these skip the tunnels' routes.
"""

from __future__ import annotations

import errno
import math
import socket
from dataclasses import dataclass, field

from cygnet.dataplane.descriptors import MARK
from cygnet.dataplane.translate import Refused
from cygnet.dataplane.xfrm import algorithms, codec
from cygnet.dataplane.xfrm.codec import Encapsulation, Limits, Sa, SaKey, SaSeen, Selector
from cygnet.dataplane.xfrm.policies import REQID, REQID_MASK, Shape
from cygnet.dataplane.xfrm.rules import selectors, turned
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol
from cygnet.policy.selectors import IpAddress
from cygnet.policy.spd import Action, PolicyRule

MARK_BITS = 0xFFFF0000
MAX_NAME = 1 << 62
"""Names of flows and pairs are below this."""
SEQUENCE_ALARM = 4 / 5
"""RFC 4303, 3.3.3: a new SA before the numbers run out."""
_LAST_NUMBER = (1 << 32) - 1


@dataclass(slots=True)
class Entry:
    """An SA of ours in the kernel. `keys`: the states it is made of, the one on the wire first.

    `limits` are what tells why it expires; `moved_at` bounds how often a move is told."""

    direction: Direction
    pair: int
    flow: int
    protocol: int
    local: IpAddress
    remote: IpAddress
    keys: tuple[SaKey, ...]
    spi: int
    reqid: int
    encapsulated: bool
    mode: int
    """The kernel's number, of the innermost state."""
    sequence_limited: bool = False
    awaiting_first: bool = False
    remove_at: float | None = None
    hard_told: bool = False
    packets: int = 0
    used: float = -1.0
    """Monotonic seconds of when `packets` was last seen to have grown."""
    volume: Limits = field(default_factory=Limits)


def check(sa: SaParameters) -> None:
    """What the kernel cannot do. Raises Refused."""
    header = sa.header
    if header.set_df and not header.copy_df:
        raise Refused("the kernel copies DF or clears it; it cannot set it")
    if header.fragment_before:
        raise Refused("the kernel does not cut packets before it seals them")
    if sa.dummy_interval:
        raise Refused("the kernel sends no dummy packets")
    if not 0 <= sa.flow < MAX_NAME or not 0 <= sa.pair < MAX_NAME:
        raise Refused("a name of a flow or a pair that the kernel cannot keep")


def made_of(sa: SaParameters, reqid: int, offload: codec.Offload | None = None) -> list[Sa]:
    """The states of one SA, the one on the wire last. Raises Refused for what the kernel lacks."""
    check(sa)
    outbound = sa.direction == Direction.OUT
    source, destination = (sa.local, sa.remote) if outbound else (sa.remote, sa.local)
    mode = codec.TUNNEL if sa.mode == Mode.TUNNEL else codec.TRANSPORT
    selector = _selector(sa)
    header_flags = (codec.NO_ECN * (not sa.header.copy_ecn) | codec.DECAP_DSCP * sa.header.copy_dscp_in
                    | codec.NO_PMTU_DISC * (not sa.header.copy_df))  # fmt: skip
    extra = codec.DONT_ENCAP_DSCP * (not sa.header.copy_dscp_out)
    any_family = 0 if selector.family else codec.AF_UNSPEC
    ledger = (sa.flow, sa.pair)
    mark = (MARK | sa.mark, MARK_BITS | (0xFFFF if sa.mark else 0)) if outbound else None
    states = []
    if sa.ipcomp:
        states.append(
            Sa(
                SaKey(destination, sa.ipcomp, codec.IPCOMP), source, mode, reqid, (codec.deflate(),),
                selector=selector, limits=Limits(ledger=ledger), flags=header_flags | any_family,
                extra_flags=extra, if_id=sa.if_id, set_mark=mark,
            )
        )  # fmt: skip
        mode = codec.TRANSPORT
    transform = algorithms.transform(sa)
    parts = [codec.aead(transform.aead)] if transform.aead else []
    parts += [codec.cipher(transform.cipher)] if transform.cipher else []
    parts += [codec.mac(transform.mac)] if transform.mac else []
    protocol = codec.AH if sa.protocol == SaProtocol.AH else codec.ESP
    align = codec.ALIGN4 if protocol == codec.AH and destination.version == 4 else 0
    encapsulation = None
    if sa.encapsulation is not None:
        ports = sa.encapsulation.local_port, sa.encapsulation.remote_port
        encapsulation = Encapsulation(*(ports if outbound else reversed(ports)))
    window = 0 if outbound else min(sa.replay_window, codec.MAX_WINDOW)
    states.append(
        Sa(
            SaKey(destination, sa.spi, protocol), source, mode, reqid, tuple(parts),
            selector=Selector() if sa.ipcomp else selector, limits=limits(sa, ledger),
            # The kernel wants a window for extended numbers, in either direction.
            window=max(window, 32) if sa.esn else window, esn=sa.esn,
            flags=header_flags | align | (codec.AF_UNSPEC if sa.ipcomp else any_family), extra_flags=extra,
            encapsulation=encapsulation, tfc_padding=sa.tfc_padding if outbound else 0, set_mark=mark,
            if_id=sa.if_id, offload=offload, tell_each=int(sa.notify_first_use and not outbound),
        )
    )  # fmt: skip
    return states


def offload(sa: SaParameters) -> codec.Offload | None:
    """What to ask of the device that the SA's packets pass, which the kernel finds by itself. Not for what
    no device does."""
    within_reach = sa.protocol == SaProtocol.ESP and sa.encapsulation is None and not sa.tfc_padding
    if sa.hw_offload == "no" or (sa.hw_offload == "auto" and not within_reach):
        return None
    return codec.Offload(0, sa.direction == Direction.IN, sa.hw_offload == "packet")


def limits(sa: SaParameters, ledger: tuple[int, int]) -> Limits:
    volume = sa.volume
    soft, hard = volume.soft_packets, volume.hard_packets
    if _numbers_run_out(sa):
        hard = min(hard or _LAST_NUMBER, _LAST_NUMBER)
        soft = min(soft or hard, int(_LAST_NUMBER * SEQUENCE_ALARM))
    return Limits(
        volume.soft_bytes, volume.hard_bytes, soft, hard, math.ceil(sa.hard_seconds), ledger
    )  # fmt: skip


def _numbers_run_out(sa: SaParameters) -> bool:
    return sa.direction == Direction.OUT and not sa.esn


def entry(sa: SaParameters, states: list[Sa]) -> Entry:
    return Entry(
        sa.direction, sa.pair, sa.flow, sa.protocol, sa.local, sa.remote,
        tuple(state.key for state in reversed(states)), sa.spi, states[-1].reqid,
        sa.encapsulation is not None, states[0].mode, _numbers_run_out(sa),
        sa.notify_first_use and sa.direction == Direction.IN,
        volume=Limits(sa.volume.soft_bytes, sa.volume.hard_bytes, sa.volume.soft_packets,
                      sa.volume.hard_packets, math.ceil(sa.hard_seconds)),
    )  # fmt: skip


def shape(sa: SaParameters, outer: Entry | None) -> Shape:
    """`outer`: the AH SA around this one."""
    protocols = (sa.protocol, int(SaProtocol.AH)) if sa.bundle else (sa.protocol,)
    return Shape(
        sa.mode, protocols, bool(sa.ipcomp), sa.local, sa.remote, outer.reqid if outer is not None else 0
    )


def adopted(seen: SaSeen) -> Entry | None:
    """What a former process installed; None for others' and for what a packet only asks for."""
    ledger = seen.limits.ledger
    if seen.reqid & REQID_MASK != REQID or ledger is None or not seen.key.spi:
        return None
    flow, pair = ledger
    outbound = seen.mark & MARK_BITS == MARK
    local, remote = seen.key.destination, seen.source
    if outbound:
        local, remote = remote, local
    return Entry(
        Direction.OUT if outbound else Direction.IN, pair, flow, seen.key.protocol, local, remote,
        (seen.key,), seen.key.spi, seen.reqid, seen.encapsulation is not None, seen.mode,
        outbound and seen.limits.hard_packets == _LAST_NUMBER, packets=seen.packets, volume=seen.limits,
    )  # fmt: skip


def adopted_shape(entry: Entry, *, bundled: bool) -> Shape:
    mode = Mode.TUNNEL if entry.mode == codec.TUNNEL else Mode.TRANSPORT
    protocols = (entry.protocol, int(SaProtocol.AH)) if bundled else (entry.protocol,)
    return Shape(mode, protocols, len(entry.keys) > 1, entry.local, entry.remote)


def why(seen: SaSeen, entry: Entry, *, hard: bool) -> str:
    """Which limit it was."""
    limits = seen.limits
    octets, packets = (
        (limits.hard_bytes, limits.hard_packets) if hard else (limits.soft_bytes, limits.soft_packets)
    )
    if octets and seen.octets >= octets:
        return "bytes"
    if packets and seen.packets >= packets:
        asked = entry.volume.hard_packets if hard else entry.volume.soft_packets
        return "packets" if not entry.sequence_limited or asked == packets else "sequence"
    return "seconds"


def refusal(sa: SaParameters, why: OSError) -> str:
    """The kernel's, in a sentence."""
    if why.errno == errno.EEXIST:
        return f"SPI {sa.spi:#010x} is in use"
    if why.errno in (errno.EPROTONOSUPPORT, errno.ENOSYS, errno.ENOENT):
        return f"the kernel lacks what the SA needs: {why.strerror}"
    return f"the kernel refused the SA: {why.strerror}"


def _selector(sa: SaParameters) -> Selector:
    """The SA's own, where one says it all; else everything: then the policies alone judge."""
    around = sa.protocol == SaProtocol.AH and sa.bundle
    if around or len(sa.local_selectors) != 1 or len(sa.remote_selectors) != 1:
        return Selector()  # around ESP, the kernel would still compare what is inside
    found = selectors(PolicyRule(Action.PROTECT, sa.local_selectors[0], sa.remote_selectors[0], sa.flow))
    if len(found) != 1:
        return Selector()
    return found[0] if sa.direction == Direction.OUT else turned(found[0])


def interface_index(name: str) -> int:
    """Raises Refused."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise Refused(f"there is no device {name}") from None
