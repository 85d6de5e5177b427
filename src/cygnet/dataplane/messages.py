"""What the daemon and the data plane say to each other: the verbs of RFC 4301 and PF_KEY, typed.

They travel as msgpack, one message a datagram, over a SOCK_SEQPACKET pair. The daemon sends
`Command`s and gets one `Done` for each that carries a request number; the data plane sends
`Report`s when it pleases. Neither side ever blocks on the other: what does not fit is counted
and dropped (reports) or fails (commands).

Addresses are packed octets (4 or 16 of them). Keys travel here and nowhere else; a message is
never logged whole.
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_MESSAGE = 1 << 18
"""Octets of the largest message; the socket pair's buffers are sized to hold several."""


class Selector(msgspec.Struct, frozen=True, array_like=True):
    """`policy.selectors.TrafficSelector` in octets."""

    family: int
    protocol: int
    first: bytes
    last: bytes
    port_first: int
    port_last: int


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """One ordered SPD rule: both sides as selectors of one protocol; action as in `policy.spd.Action`."""

    action: int
    local: Selector
    remote: Selector
    flow: int


# -- commands ---------------------------------------------------------------------------------


class Command(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: int


class InstallPolicy(Command, frozen=True):
    """Put a policy (one child of one connection) into force, or replace it whole: guard, routes, SPD.

    Rules are in first-match order; policies are ordered by (`priority`, `policy`), lower first.
    `trap`: traffic for a flow without an SA is reported as `Acquire`, else it is only dropped.
    `local` and `remote` are the tunnel's ends if known (for the route's source and the MTU).
    """

    policy: int
    name: str
    priority: int
    rules: tuple[Rule, ...]
    trap: bool
    local: bytes
    remote: bytes
    mode: int = 1
    protocols: tuple[int, ...] = (50,)
    ipcomp: bool = False
    interface: str = ""
    if_id: int = 0
    """These as in `policy.spd.Policy`."""


class RemovePolicy(Command, frozen=True):
    policy: int


class InstallSa(Command, frozen=True):
    """One direction of a Child SA; fields as in `policy.sa.SaParameters`.

    Installing an outbound SA makes it the one its flow sends on (the newest wins).
    """

    direction: int
    protocol: int
    mode: int
    spi: int
    pair: int
    flow: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    """Both ports 0: plain ESP (IP protocol 50)."""
    encryption: int
    key_bits: int
    integrity: int
    encryption_key: bytes
    integrity_key: bytes
    esn: bool
    replay_window: int
    local_selectors: tuple[Selector, ...]
    remote_selectors: tuple[Selector, ...]
    soft_bytes: int
    hard_bytes: int
    soft_packets: int
    hard_packets: int
    hard_seconds: float
    copy_dscp_out: bool
    copy_dscp_in: bool
    copy_ecn: bool
    copy_df: bool
    notify_first_use: bool
    set_df: bool = False
    fragment_before: bool = False
    ipcomp: int = 0
    tfc_padding: int = 0
    dummy_interval: float = 0.0
    bundle: int = 0
    manual: bool = False
    original_local: bytes = b""
    original_remote: bytes = b""
    interface: str = ""
    if_id: int = 0
    mark: int = 0
    hw_offload: str = "no"
    """These as in `policy.sa.SaParameters`; an address that is None is empty."""


class UpdateSa(Command, frozen=True):
    """The ends of a live pair moved (NAT rebinding, MOBIKE): keys and counters stay."""

    pair: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int


class RemoveSa(Command, frozen=True):
    """Remove one direction. An inbound SA with `linger` seconds stays, for receiving only, that long.

    `pair` 0: whichever has this SPI. Outbound SPIs are the peers' choice: one of several behind one
    address may choose a neighbour's, and must not take it down with its own.
    """

    direction: int
    spi: int
    remote: bytes
    linger: float
    pair: int = 0


class Translation(msgspec.Struct, frozen=True, array_like=True):
    """Hosts of a network go into the tunnel under this address."""

    network: Selector
    address: bytes


class Configure(Command, frozen=True):
    """What gateways gave this host, all of it: addresses for the TUN, name servers, and the domains that
    these are asked about (none: all). Addresses `gone` go, and with `exact` all others of ours."""

    addresses: tuple[bytes, ...]
    gone: tuple[bytes, ...]
    servers: tuple[bytes, ...]
    domains: tuple[str, ...]
    translations: tuple[Translation, ...]
    exact: bool


class ReadCounters(Command, frozen=True):
    """Answered by `Counters`. Empty `pairs` asks for all."""

    pairs: tuple[int, ...]


class Dump(Command, frozen=True):
    """Answered by `Dumped`: what is installed, so that a restarted daemon can mark and sweep. All policies
    have been told: what a former process left does not override them any more, and holds beneath them."""


class Sweep(Command, frozen=True):
    """Remove every policy and SA pair not named: a restarted daemon's second step."""

    policies: tuple[int, ...]
    pairs: tuple[int, ...]


class ForwardDatagram(Command, frozen=True):
    """An ESP datagram that the kernel handed to the daemon's socket: back to its owner (request 0)."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    data: bytes


class Shutdown(Command, frozen=True):
    """Stop. With `clear` the operator wants all undone: routes, guard, addresses; without, they stay."""

    clear: bool


# -- reports ----------------------------------------------------------------------------------


class Report(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Done(Report, frozen=True):
    """The outcome of the command with this request number; `error` is empty on success."""

    request: int
    error: str


class Acquire(Report, frozen=True):
    """A packet of this flow needs an SA. Coalesced per flow. The packet's own selectors come along."""

    flow: int
    local: Selector
    remote: Selector


class Expire(Report, frozen=True):
    """An SA came to its end: `why` is bytes, packets, seconds or sequence; hard ones are already removed."""

    pair: int
    direction: int
    spi: int
    hard: bool
    why: str


class FirstUse(Report, frozen=True):
    """The first authentic packet arrived on an inbound SA installed with `notify_first_use`."""

    pair: int
    spi: int


class PeerMoved(Report, frozen=True):
    """An authentic packet, newest in sequence, came from another address or port (NAT rebinding)."""

    pair: int
    spi: int
    remote: bytes
    remote_port: int


class ForeignDatagram(Report, frozen=True):
    """An IKE datagram that the kernel handed to an ESP socket: to its owner, with its path."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    data: bytes


class PairCounters(msgspec.Struct, frozen=True, array_like=True):
    pair: int
    bytes_in: int
    packets_in: int
    use_in: float
    """Seconds since the last packet, -1 if never."""
    bytes_out: int
    packets_out: int
    use_out: float
    sequence_in: int
    sequence_out: int
    drops: dict[str, int]


class InterfaceCounters(msgspec.Struct, frozen=True, array_like=True):
    """A route-based interface: what came out of its tunnels (in) and what was routed into it (out)."""

    name: str
    bytes_in: int
    packets_in: int
    bytes_out: int
    packets_out: int
    drops: dict[str, int]


class Counters(Report, frozen=True):
    request: int
    pairs: tuple[PairCounters, ...]
    drops: dict[str, int]
    """Of the whole data plane, by stable reason name."""
    interfaces: tuple[InterfaceCounters, ...] = ()
    offloads: dict[str, bool] = {}
    """As in `Dumped`, now: any may have been switched off meanwhile."""


class Dumped(Report, frozen=True):
    request: int
    policies: tuple[int, ...]
    pairs: tuple[int, ...]
    engine: str
    offloads: dict[str, bool]
    flows: tuple[int, ...] = ()
    """Those that have an outbound SA: a restarted daemon negotiates them anew at once."""
    why: str = ""
    """Why it is this engine."""


class Warned(Report, frozen=True):
    """Something an operator should know: an offload switched off, a policy removed behind our back."""

    code: str
    text: str


_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    InstallPolicy | RemovePolicy | InstallSa | UpdateSa | RemoveSa | Configure | ReadCounters | Dump | Sweep
    | ForwardDatagram | Shutdown
)  # fmt: skip
_report_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Done | Acquire | Expire | FirstUse | PeerMoved | ForeignDatagram | Counters | Dumped | Warned
)


def encode(message: Command | Report) -> bytes:
    return _encoder.encode(message)


def decode_command(data: bytes) -> Command:
    """Raises msgspec.ValidationError or msgspec.DecodeError when it is not one of the commands."""
    command: Command = _command_decoder.decode(data)
    return command


def decode_report(data: bytes) -> Report:
    """Raises msgspec.ValidationError or msgspec.DecodeError when it is not one of the reports."""
    report: Report = _report_decoder.decode(data)
    return report
