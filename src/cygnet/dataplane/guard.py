"""The kernel's own enforcement of the policy, in nftables: fail closed, and bypass without a detour.

Three questions are asked of a packet, all answered by the same sets (`guard_sets`), in first-match order:

  outbound  (prerouting, output)  denied and unmatched packets that routing would bring to the TUN get a
                                  mark that makes it skip the tunnels' table: they never see the TUN
  egress    (postrouting)         what is permitted into a tunnel leaves through the TUN or not at all
  ingress   (prerouting)          what should have come out of a tunnel is not accepted in clear (RFC 4301,
                                  section 5.2, 3b)

Ingress and outbound are asked only of packets whose source or destination routing would find behind the
TUN, so that others pay for one lookup, egress.

The table is there before the first SA, needs no process to work, and goes only with the policy. What
cannot cross a router (link-local traffic, neighbour discovery, limited broadcast) is never a tunnel's.
Sealed packets carry the mark of Cygnet's sockets on the way out; on the way in, ESP and the UDP ports of
this gateway are let by, and what the path says of the size of sealed packets.

Fragments are put together before anything is asked, since later ones show no ports: a rule that is never
reached makes the kernel do so (nft_tproxy turns defragmentation on). The kernel engine takes that chain
alone (`defragmenting`).

A process that starts finds the sets of the one before it, and keeps asking them after its own until it
is told that it knows all policies (`sweep`): names of sets begin with a generation for that.
"""

from __future__ import annotations

import itertools
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from cygnet.dataplane.descriptors import IKE_PORT, MARK, NAT_PORT
from cygnet.dataplane.guard_sets import Compiler, SetKey, Shape, Spans
from cygnet.dataplane.nftables import Element, KernelError, change_elements, listing, nft, set_names
from cygnet.policy.spd import Action, Policy

__all__ = ["BYPASS_MARK", "MARK_MASK", "TABLE", "Guard", "KernelError"]

TABLE = "cygnet"
MARK_MASK = 0xFFFF0000
"""Packets with `MARK` under this mask skip the tunnels' routing table."""
BYPASS_MARK = MARK | 1

_PRIORITY_DEFRAGMENT, _PRIORITY = -450, -180
"""Before connection tracking's defragmentation (-400); before mangle (-150) and NAT, so that addresses are
the packets' own."""

_FAMILY_WORD = {4: "ip", 6: "ip6"}
_BITS = {4: 32, 6: 128}
_REMOTE, _LOCAL, _PROTOCOL, _LOCAL_PORT, _REMOTE_PORT = range(5)
_FIELDS = {
    Shape.ADDRESSES: (_LOCAL, _REMOTE),
    Shape.PROTOCOL: (_PROTOCOL, _LOCAL, _REMOTE),
    Shape.PORTS: (_PROTOCOL, _LOCAL, _REMOTE, _LOCAL_PORT, _REMOTE_PORT),
    Shape.TYPE: (_PROTOCOL, _LOCAL, _REMOTE, _REMOTE_PORT),
    Shape.FRAGMENT: (_PROTOCOL, _LOCAL, _REMOTE),
}
"""Of a set's key, as places in a box's spans."""
_FRAGMENT_TEST = {4: "ip frag-off & 0x1fff != 0 ", 6: "exthdr frag exists "}
_NAME = re.compile(r"g[0-9]+_[46]_[0-9]+_[123]_[0-4]_[0-9]+(_[0-9]+){0,5}")
_DEVICE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")


class Guard:
    """The nftables table of one TUN device in the network namespace of the caller."""

    def __init__(self, ports: Sequence[int] = (IKE_PORT, NAT_PORT), default: Action = Action.BYPASS) -> None:
        """`ports`: where this gateway takes IKE and encapsulated ESP. `default`: for unmatched packets."""
        self._ports = tuple(ports)
        self._default = default
        self._compiler = Compiler(default)
        self._sizes: Counter[SetKey] = Counter()
        self._generation = -1
        self._own: set[int] = set()
        self._former: list[str] = []
        self._device = "", 0
        self._listed = ""

    def put(self, policy: Policy) -> None:
        self._compiler.put(policy)

    def remove(self, policy: int) -> None:
        self._compiler.remove(policy)

    def commit(self, tun: str) -> None:
        """What was put is in force, what was removed is not. Raises KernelError; then nothing has become
        weaker than before, and the next commit makes everything anew."""
        if not _DEVICE.fullmatch(tun):
            raise KernelError(f"{tun!r} is no name for a device that nftables takes")
        if self._generation < 0:
            self._begin()
        try:
            self._commit(tun)
        except (OSError, KernelError):
            # Somebody may have flushed the ruleset: once more, from nothing.
            self._begin()
            try:
                self._commit(tun)
            except OSError as error:
                self._generation = -1
                raise KernelError(f"nftables refused addresses of the policy: {error.strerror}") from error
            except KernelError:
                self._generation = -1
                raise
        self._retire(lambda name: _generation_of(name) in self._own)
        self._look()

    def was_lost(self) -> bool:
        """Did somebody take sets, chains or rules of ours away, or alter them? Then the next commit makes
        everything anew. Elements are not looked at: there may be a hundred thousand. Raises KernelError."""
        if self._generation < 0 or listing(TABLE) == self._listed:
            return False
        self._begin()
        return True

    def sweep(self) -> None:
        """The sets of a former process are gone. Raises KernelError."""
        if self._generation >= 0:
            self._retire(lambda name: True)
            self._look()

    def _look(self) -> None:
        """After a change of ours, remember how the table is written."""
        if not self._listed:
            self._listed = listing(TABLE)

    def _retire(self, which: Callable[[str], bool]) -> None:
        """Former sets are asked no more."""
        retired = [name for name in self._former if which(name)]
        if retired:
            self._former = [name for name in self._former if not which(name)]
            self._change(self._rules(self._sizes), _deletions(retired))

    def _change(self, *lines: Iterable[str]) -> None:
        self._listed = ""
        nft("\n".join(itertools.chain.from_iterable(lines)) + "\n")

    def clear(self) -> None:
        """Raises KernelError."""
        nft(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")
        self._generation = -1

    def _begin(self) -> None:
        """Everything is made anew beside what is there, which becomes the former."""
        self._former = [name for name in set_names(TABLE) if _NAME.fullmatch(name)]
        taken = {_generation_of(name) for name in self._former}
        self._generation = next(number for number in range(len(taken) + 1) if number not in taken)
        self._own.add(self._generation)
        self._sizes.clear()
        self._device = "", 0
        self._compiler.start_over()

    def _commit(self, tun: str) -> None:
        changes = self._compiler.changes()
        sizes = self._sizes.copy()
        for key, change in changes.items():
            sizes[key] += len(change.added) - len(change.removed)
        before, after = set(self._sizes), {key for key, size in sizes.items() if size}
        device = tun, socket.if_nametoindex(tun)
        if device != self._device or after - before:
            # Empty sets decide nothing, so the rules may come before the elements.
            self._device = device
            self._change(_skeleton(), self._sets(after - before), self._rules(before | after))
        change_elements(
            TABLE,
            [(self._name(key), _elements(key, change.removed)) for key, change in changes.items()],
            [(self._name(key), _elements(key, change.added)) for key, change in changes.items()],
        )
        self._sizes = Counter({key: sizes[key] for key in after})
        if before - after:
            unused = [self._name(key) for key in before - after]
            self._change(self._rules(after), _deletions(unused))

    def _name(self, key: SetKey) -> str:
        family, level, action, shape, number, masks = key
        parts = (self._generation, family, level, int(action), int(shape), number, *masks)
        return "g" + "_".join(map(str, parts))

    def _sets(self, keys: Iterable[SetKey]) -> list[str]:
        return [
            f"add set inet {TABLE} {self._name(key)} {{ type {_type(key)};{_flags(key)} }}"
            for key in sorted(keys)
        ]

    def _rules(self, keys: Iterable[SetKey]) -> list[str]:
        """All rules anew, in one transaction with what comes beside them."""
        asked = [(self._name(key), key) for key in sorted(keys)]
        asked += sorted(((name, _key_of(name)) for name in self._former), key=lambda pair: pair[1])
        lines = [f"flush chain inet {TABLE} {chain}" for chain in _CHAINS]
        for chain, rules in _bodies(asked, *self._device, self._ports, self._default).items():
            lines += [f"add rule inet {TABLE} {chain} {rule}" for rule in rules]
        return lines


def _generation_of(name: str) -> int:
    return int(name[1:].split("_")[0])


def _key_of(name: str) -> SetKey:
    _, family, level, action, shape, number, *masks = (int(part) for part in name[1:].split("_"))
    return SetKey(family, level, Action(action), Shape(shape), number, tuple(masks))


def _deletions(names: Iterable[str]) -> list[str]:
    return [f"delete set inet {TABLE} {name}" for name in names]


def _fields(key: SetKey) -> list[int]:
    return [place for place in _FIELDS[key.shape] if not key.masks or key.masks[place]]


def _type(key: SetKey) -> str:
    address, service = f"ipv{key.family}_addr", "inet_service"
    kinds = (address, address, "inet_proto", service, service)
    return " . ".join(kinds[place] for place in _fields(key))


def _flags(key: SetKey) -> str:
    return "" if key.masks else " flags interval;"


def _elements(key: SetKey, boxes: Iterable[Spans]) -> list[Element]:
    """The set's fields in the order of its rules' concatenation, each padded to 4 octets."""
    fields = _fields(key)
    address = "I" if key.family == 4 else "QQ"
    layout = (address, address, "B3x", "H2x", "H2x")
    pack = Struct(">" + "".join(layout[place] for place in fields)).pack
    if key.family == 4:
        firsts = [pack(*[box[place][0] for place in fields]) for box in boxes]
        if key.masks:
            return [(first, b"") for first in firsts]
        return list(zip(firsts, [pack(*[box[place][1] for place in fields]) for box in boxes], strict=True))
    firsts = [pack(*_halves(box, fields, 0)) for box in boxes]
    lasts = [b"" if key.masks else pack(*_halves(box, fields, 1)) for box in boxes]
    return list(zip(firsts, lasts, strict=True))


def _halves(box: Spans, fields: Iterable[int], end: int) -> list[int]:
    """IPv6 addresses in two numbers each."""
    numbers: list[int] = []
    for place in fields:
        number = box[place][end]
        numbers += divmod(number, 1 << 64) if place in (_REMOTE, _LOCAL) else (number,)
    return numbers


# -- chains -----------------------------------------------------------------------------------------

DEFRAGMENT = "defragment"
_NEVER = "meta mark 1 meta mark 2"
_DEFRAGMENTING = (
    f"meta nfproto ipv4 meta l4proto tcp {_NEVER} tproxy ip to 127.0.0.1:1",
    f"meta nfproto ipv6 meta l4proto tcp {_NEVER} tproxy ip6 to [::1]:1",
)
_HOOKS = {
    DEFRAGMENT: f"filter hook prerouting priority {_PRIORITY_DEFRAGMENT}",
    "prerouting": f"filter hook prerouting priority {_PRIORITY}",
    "output": f"route hook output priority {_PRIORITY}",
    "postrouting": f"filter hook postrouting priority {_PRIORITY}",
}
_QUESTIONS = ("outbound", "egress", "ingress")
_CHAINS = (
    "bypass",
    "link_scope",
    "sealed",
    *(f"{question}{family}" for question in _QUESTIONS for family in (4, 6)),
    "judge_outbound",
    "judge_decapsulated",
    "from_protected",
    "passed_ingress",
    "bypassed_ingress",
    "decapsulated",
    *_HOOKS,
)
_COUNTERS = ("left_in_clear", "arrived_in_clear", "discarded")


def _skeleton() -> list[str]:
    lines = [f"add table inet {TABLE}"]
    lines += [f"add counter inet {TABLE} {name}" for name in _COUNTERS]
    lines += [_chain(name) for name in _CHAINS]
    return lines


def _chain(name: str) -> str:
    hook = f" {{ type {_HOOKS[name]}; policy accept; }}" if name in _HOOKS else ""
    return f"add chain inet {TABLE} {name}{hook}"


def defragmenting() -> list[str]:
    """Commands for the part of the table that puts fragments together; nothing happens where it stands."""
    lines = [f"add table inet {TABLE}", _chain(DEFRAGMENT), f"flush chain inet {TABLE} {DEFRAGMENT}"]
    return [*lines, *(f"add rule inet {TABLE} {DEFRAGMENT} {rule}" for rule in _DEFRAGMENTING)]


def _bodies(
    asked: Sequence[tuple[str, SetKey]], tun: str, index: int, ports: Sequence[int], default: Action
) -> dict[str, list[str]]:
    """The rules of each chain."""
    discard = "counter name discarded drop"
    verdicts = {
        "outbound": {Action.PROTECT: "accept", Action.BYPASS: "goto bypass", Action.DISCARD: discard},
        "egress": {
            Action.PROTECT: "counter name left_in_clear drop",
            Action.BYPASS: "accept",
            Action.DISCARD: discard,
        },
        "ingress": {
            Action.PROTECT: "counter name arrived_in_clear drop",
            Action.BYPASS: "goto bypassed_ingress",
            Action.DISCARD: discard,
        },
    }
    bodies: dict[str, list[str]] = {}
    for question, meaning in verdicts.items():
        for family in (4, 6):
            bodies[f"{question}{family}"] = [
                f"{_lookup(name, key, reverse=question == 'ingress')} {meaning[key.action]}"
                for name, key in asked
                if key.family == family
            ]
    outbound, egress, ingress = (
        [f"meta nfproto ipv4 jump {question}4", f"meta nfproto ipv6 jump {question}6"]
        for question in _QUESTIONS
    )
    discarding = default is Action.DISCARD
    bodies["bypass"] = [f"meta mark set meta mark & 0xffff | {BYPASS_MARK:#x} accept"]
    bodies["link_scope"] = [
        "ip daddr { 224.0.0.0/24, 255.255.255.255 } accept",
        "ip6 daddr { fe80::/10, ff01::/16, ff02::/16 } accept",
        "ip6 saddr fe80::/10 accept",
        "icmpv6 type 133-137 ip6 hoplimit 255 accept",
    ]
    own_ports = f"{{ {', '.join(str(port) for port in ports)} }}"
    bodies["sealed"] = [
        "meta l4proto { esp, ah } goto bypass",
        f"udp dport {own_ports} goto bypass",
        *(f"{about} goto bypass" for about in _too_big_about_sealed(own_ports)),
    ]
    # Where routing says TUN, or nothing (0) because there is no TUN, an address is in a protected network.
    # An address of our own shows as nothing too.
    protected = f"fib {{0}} oif vmap {{{{ 0 : goto {{1}}, {index} : goto {{1}} }}}}"
    concerned = [
        protected.format("saddr", "from_protected"),
        "fib daddr type local accept",
        protected.format("daddr", "judge_outbound"),
    ]
    bodies["prerouting"] = [
        'iifname "lo" accept',
        "jump link_scope",
        f'iifname "{tun}" goto decapsulated',
        *(["goto from_protected"] if discarding else concerned),
    ]
    bodies["from_protected"] = ["fib daddr type local jump sealed", *ingress, "goto passed_ingress"]
    bodies["passed_ingress"] = [
        protected.format("daddr", "judge_outbound"),
        # The reverse path of what comes from protected networks must not be the TUN (see reverse_paths).
        "goto judge_outbound" if discarding else "goto bypass",
    ]
    # A bypass seen from the other side; it may still be on its way into a tunnel.
    arrived = f"fib daddr type local {'goto bypass' if discarding else 'accept'}"
    bodies["bypassed_ingress"] = [arrived, protected.format("daddr", "judge_decapsulated"), "goto bypass"]
    bodies["judge_outbound"] = [*outbound, discard if discarding else "goto bypass"]
    # What came out of a tunnel was judged there: it may go on, into another tunnel if policy says so.
    bodies["decapsulated"] = [
        arrived,
        protected.format("daddr", "judge_decapsulated"),
        *(["goto bypass"] if discarding else []),
    ]
    bodies["judge_decapsulated"] = [*outbound, "goto bypass"]
    bodies["output"] = [
        f"meta mark & {MARK_MASK:#x} == {MARK:#x} accept",
        f'oifname != "{tun}" accept',
        "jump link_scope",
        "goto judge_outbound",
    ]
    bodies["postrouting"] = [
        f'oifname {{ "lo", "{tun}" }} accept',
        f"meta mark & {MARK_MASK:#x} == {MARK:#x} accept",
        "jump link_scope",
        *egress,
        # Without them hosts inside send for ever what fits no tunnel. What is forwarded was judged before.
        *(f"{too_big} fib saddr type local accept" for too_big in _TOO_BIG if discarding),
        *([discard] if discarding else []),
    ]
    bodies[DEFRAGMENT] = list(_DEFRAGMENTING)
    return bodies


_TOO_BIG = "icmp type destination-unreachable icmp code frag-needed", "icmpv6 type packet-too-big"


def _too_big_about_sealed(ports: str) -> list[str]:
    """What the path says of sealed packets of ours: which protocol it quotes, of UDP from which port, behind
    8 octets of ICMP. The engine asks for more (`path_mtu`)."""
    four, six = f"{_TOO_BIG[0]} @th,64,8 0x45 @th,136,8", f"{_TOO_BIG[1]} @th,112,8"
    return [
        f"{four} {{ 50, 51 }}",
        f"{four} 17 @th,224,16 {ports}",
        f"{six} {{ 50, 51 }}",
        f"{six} 17 @th,384,16 {ports}",
    ]


def _lookup(name: str, key: SetKey, *, reverse: bool) -> str:
    word = _FAMILY_WORD[key.family]
    source, destination = ("daddr", "saddr") if reverse else ("saddr", "daddr")
    source_port, destination_port = ("dport", "sport") if reverse else ("sport", "dport")
    if key.shape is Shape.TYPE:
        destination_port = "sport"
    expressions = (
        f"{word} {destination}",
        f"{word} {source}",
        "meta l4proto",
        f"th {source_port}",
        f"th {destination_port}",
    )
    only = _FRAGMENT_TEST[key.family] if key.shape is Shape.FRAGMENT else ""
    fields = " . ".join(expressions[place] + _mask(key, place) for place in _fields(key))
    return f"{only}{fields} @{name}"


def _mask(key: SetKey, place: int) -> str:
    width = (_BITS[key.family], _BITS[key.family], 8, 16, 16)[place]
    if not key.masks or key.masks[place] == width:
        return ""
    mask = (1 << width) - (1 << width - key.masks[place])
    if place in (_REMOTE, _LOCAL):
        return f" & {IPv4Address(mask) if key.family == 4 else IPv6Address(mask)}"
    return f" & {mask:#x}"
