"""The kernel's own enforcement of the policy, in nftables: fail closed, and bypass without a detour.

Three questions are asked of a packet, all answered by the same sets (`guard_sets`), in first-match order:

  outbound  (prerouting, output)  denied and unmatched packets to a protected network get a mark that makes
                                  routing skip the tunnels' table: they never see the TUN
  egress    (postrouting)         what is permitted into a tunnel leaves through the TUN or not at all
  ingress   (prerouting)          what should have come out of a tunnel is not accepted in clear (RFC 4301,
                                  section 5.2, 3b)

The table is there before the first SA, needs no process to work, and goes only with the policy. What
cannot cross a router (link-local traffic, neighbour discovery, limited broadcast) is never a tunnel's.
Sealed packets carry the mark of Cygnet's sockets on the way out; on the way in, ESP and the two UDP ports
addressed to this host are let by. Fragments are put together before anything is asked, since later ones
show no ports: a rule that is never reached makes the kernel do so (nft_tproxy enables defragmentation).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from cygnet.dataplane.descriptors import IKE_PORT, MARK, NAT_PORT
from cygnet.dataplane.guard_sets import BoxSet, Shape, Span, compile_sets, merged_ranges
from cygnet.policy.spd import Action, Policy

TABLE = "cygnet"
MARK_MASK = 0xFFFF0000
"""Packets with `MARK` under this mask skip the tunnels' routing table."""
BYPASS_MARK = MARK | 1
NFT_SECONDS = 60.0

_PRIORITY_DEFRAGMENT, _PRIORITY = -450, -180
"""Before connection tracking's defragmentation (-400); before mangle (-150) and NAT, so that addresses are
the packets' own."""

_KEYS = {
    Shape.ADDRESSES: "{f} {a} . {f} {b}",
    Shape.PROTOCOL: "meta l4proto . {f} {a} . {f} {b}",
    Shape.PORTS: "meta l4proto . {f} {a} . {f} {b} . th {s} . th {d}",
    Shape.TYPE: "meta l4proto . {f} {a} . {f} {b} . th sport",
    Shape.FRAGMENT: "meta l4proto . {f} {a} . {f} {b}",
}
_TYPES = {
    Shape.ADDRESSES: "{t} . {t}",
    Shape.PROTOCOL: "inet_proto . {t} . {t}",
    Shape.PORTS: "inet_proto . {t} . {t} . inet_service . inet_service",
    Shape.TYPE: "inet_proto . {t} . {t} . inet_service",
    Shape.FRAGMENT: "inet_proto . {t} . {t}",
}
_FAMILY_WORD = {4: "ip", 6: "ip6"}
_ADDRESS_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_FRAGMENT_TEST = {4: "ip frag-off & 0x1fff != 0 ", 6: "exthdr frag exists "}


class KernelError(Exception):
    """What the kernel or a tool refused, in one sentence."""


class Guard:
    """The nftables table of one TUN device in the network namespace of the caller."""

    def __init__(self, ports: Sequence[int] = (IKE_PORT, NAT_PORT), default: Action = Action.BYPASS) -> None:
        """`ports`: where this gateway takes IKE and encapsulated ESP. `default`: for unmatched packets."""
        self._ports = tuple(ports)
        self._default = default

    def apply(self, policies: Iterable[Policy], tun: str) -> None:
        """In force in one transaction, in place of what was. Raises KernelError."""
        policies = list(policies)
        sets = compile_sets(policies, self._default)
        nft(script(sets, tun, self._ports, self._default))

    def clear(self) -> None:
        """Raises KernelError."""
        nft(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")


def script(sets: Sequence[BoxSet], tun: str, ports: Sequence[int], default: Action) -> str:
    """The whole table as nft's input; it replaces what is there."""
    names = {id(one): f"s{number}" for number, one in enumerate(sets)}
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    lines += ["counter left_in_clear { }", "counter arrived_in_clear { }", "counter discarded { }"]
    for family in (4, 6):
        # What may concern a tunnel at all: one lookup for everybody else's packets.
        remote = [box.spans[0] for one in sets if one.family == family for box in one.boxes]
        lines.append(_set(f"remote{family}", _ADDRESS_TYPE[family], _ranges(merged_ranges(remote), family)))
    for one in sets:
        lines.append(_set(names[id(one)], _set_type(one), [_element(one, box.spans) for box in one.boxes]))
    for family in (4, 6):
        here = [(names[id(one)], one) for one in sets if one.family == family]
        lines += _judging_chains(here, family)
    lines += _hooks(tun, ports, default)
    lines.append("}")
    return "\n".join(lines) + "\n"


def _set_type(one: BoxSet) -> str:
    return _TYPES[one.shape].format(t=_ADDRESS_TYPE[one.family])


def _set(name: str, kind: str, elements: Sequence[str]) -> str:
    listed = f" elements = {{ {', '.join(elements)} }}" if elements else ""
    return f"set {name} {{ type {kind}; flags interval;{listed} }}"


def _ranges(spans: Iterable[Span], family: int) -> list[str]:
    return [_range(span, family) for span in spans]


def _range(span: Span, family: int) -> str:
    kind = IPv4Address if family == 4 else IPv6Address
    first, last = span
    return str(kind(first)) if first == last else f"{kind(first)}-{kind(last)}"


def _number(span: Span) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"


def _element(one: BoxSet, spans: tuple[Span, ...]) -> str:
    remote, local, protocol, local_port, remote_port = spans
    fields = [_range(local, one.family), _range(remote, one.family)]
    if one.shape is not Shape.ADDRESSES:
        fields.insert(0, _number(protocol))
    if one.shape is Shape.PORTS:
        fields += [_number(local_port), _number(remote_port)]
    if one.shape is Shape.TYPE:
        fields.append(_number(remote_port))
    return " . ".join(fields)


def _lookup(name: str, one: BoxSet, *, reverse: bool) -> str:
    addresses = ("daddr", "saddr") if reverse else ("saddr", "daddr")
    ports = ("dport", "sport") if reverse else ("sport", "dport")
    key = _KEYS[one.shape].format(
        f=_FAMILY_WORD[one.family], a=addresses[0], b=addresses[1], s=ports[0], d=ports[1]
    )
    only = _FRAGMENT_TEST[one.family] if one.shape is Shape.FRAGMENT else ""
    return f"{only}{key} @{name}"


def _judging_chains(sets: Sequence[tuple[str, BoxSet]], family: int) -> list[str]:
    """One chain for each question; the sets in order, each with what its action means there."""
    drop = "counter name discarded drop"
    verdicts = {
        "outbound": {Action.PROTECT: "accept", Action.BYPASS: "goto bypass", Action.DISCARD: drop},
        "egress": {
            Action.PROTECT: "counter name left_in_clear drop",
            Action.BYPASS: "accept",
            Action.DISCARD: drop,
        },
        "ingress": {
            Action.PROTECT: "counter name arrived_in_clear drop",
            Action.BYPASS: "return",
            Action.DISCARD: drop,
        },
    }
    lines = []
    for question, meaning in verdicts.items():
        lines.append(f"chain {question}{family} {{")
        lines += [
            f"{_lookup(name, one, reverse=question == 'ingress')} {meaning[one.action]}" for name, one in sets
        ]
        lines.append("}")
    return lines


def _hooks(tun: str, ports: Sequence[int], default: Action) -> list[str]:
    sealed = ", ".join(str(port) for port in ports)
    unmatched = "counter name discarded drop" if default is Action.DISCARD else "goto bypass"
    quoted = f'"{tun}"'
    return f"""
chain bypass {{
  meta mark set meta mark & {0xFFFFFFFF ^ MARK_MASK:#x} | {BYPASS_MARK:#x} accept
}}
chain link_scope {{
  ip daddr {{ 224.0.0.0/24, 255.255.255.255 }} accept
  ip6 daddr {{ fe80::/10, ff01::/16, ff02::/16 }} accept
  ip6 saddr fe80::/10 accept
  icmpv6 type 133-137 ip6 hoplimit 255 accept
}}
chain sealed {{
  meta l4proto {{ esp, ah }} goto bypass
  udp dport {{ {sealed} }} goto bypass
}}
chain judge_outbound {{
  ip daddr @remote4 jump outbound4
  ip6 daddr @remote6 jump outbound6
  {unmatched}
}}
chain prerouting {{
  type filter hook prerouting priority {_PRIORITY}; policy accept;
  iifname "lo" accept
  jump link_scope
  iifname {quoted} goto decapsulated
  ip saddr @remote4 goto from_remote
  ip6 saddr @remote6 goto from_remote
  ip daddr @remote4 goto judge_outbound
  ip6 daddr @remote6 goto judge_outbound
}}
chain from_remote {{
  fib daddr type local jump sealed
  meta nfproto ipv4 jump ingress4
  meta nfproto ipv6 jump ingress6
  goto judge_outbound
}}
chain decapsulated {{
  ip daddr @remote4 goto judge_outbound
  ip6 daddr @remote6 goto judge_outbound
}}
chain output {{
  type route hook output priority {_PRIORITY}; policy accept;
  meta mark & {MARK_MASK:#x} == {MARK:#x} accept
  oifname "lo" accept
  jump link_scope
  ip daddr @remote4 goto judge_outbound
  ip6 daddr @remote6 goto judge_outbound
}}
chain postrouting {{
  type filter hook postrouting priority {_PRIORITY}; policy accept;
  oifname {{ "lo", {quoted} }} accept
  meta mark {MARK:#x} accept
  jump link_scope
  ip daddr @remote4 jump egress4
  ip6 daddr @remote6 jump egress6
}}
chain defragment {{
  type filter hook prerouting priority {_PRIORITY_DEFRAGMENT}; policy accept;
  meta nfproto ipv4 meta l4proto tcp meta mark 1 meta mark 2 tproxy ip to 127.0.0.1:1
  meta nfproto ipv6 meta l4proto tcp meta mark 1 meta mark 2 tproxy ip6 to [::1]:1
}}
""".split("\n")


def nft(text: str) -> None:
    """Run nft on a script: all of it or nothing. Raises KernelError."""
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=text, text=True, capture_output=True, timeout=NFT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise KernelError("nft is missing: install nftables, without which nothing fails closed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"nft could not be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise KernelError(f"nftables refused the guard: {said[0] if said else 'no reason given'}")
