"""The native engine: packets' ways in Rust (`native/`, built as `cygnet._native`), the rest as portable.

It is the portable engine with the two loops taken out: two threads of the crate read the TUN and the sockets
and seal, open, judge and send without the interpreter. This side keeps the books (`Sad`, `Spd`, lifetimes,
path MTUs, the kernel's routes), tells the crate what changes, and passes its events upward as messages.

An SA that the crate does not carry (`carries`) is served by the portable code in this process: the crate
hands its packets up and sends its sealed ones. Nothing is refused that portable takes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines import built as _native
from cygnet.dataplane.engines.outbound import selector_of
from cygnet.dataplane.engines.portable import Device, Kernel, PortableEngine, Sockets
from cygnet.dataplane.engines.transmit import Transmitter
from cygnet.dataplane.messages import (
    Acquire,
    FirstUse,
    ForeignDatagram,
    PairCounters,
    PeerMoved,
    Report,
    Warned,
)
from cygnet.dataplane.sad import Inbound, Outbound, is_outer
from cygnet.dataplane.tun import Offloads, TunUnavailable
from cygnet.ipsec.ah import AhInbound, AhOutbound
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import InboundSa, OutboundSa, Workspace
from cygnet.ipsec.inner import Inner
from cygnet.ipsec.replay import ReplayWindow
from cygnet.ipsec.rows import Rows, Run
from cygnet.policy.sa import Mode, SaParameters, SaProtocol, UdpEncapsulation
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.policy.spd import Action, Policy
from cygnet.wire.numbers import Encr, Integ

if TYPE_CHECKING:
    from cygnet import _native as crate

_ALL = (1 << 64) - 1
_OUT, _IN = 0, 1
_ENCRYPTION = frozenset(
    {
        Encr.NULL, Encr.AES_CBC, Encr.AES_CTR, Encr.AES_CCM_8, Encr.AES_CCM_12, Encr.AES_CCM_16,
        Encr.AES_GCM_8, Encr.AES_GCM_12, Encr.AES_GCM_16, Encr.CHACHA20_POLY1305, Encr.NULL_AES_GMAC,
        Encr.AES_CCM_8_IIV, Encr.AES_GCM_16_IIV, Encr.CHACHA20_POLY1305_IIV,
    }
)  # fmt: skip
_GCM = frozenset({Encr.AES_GCM_8, Encr.AES_GCM_12, Encr.AES_GCM_16, Encr.AES_GCM_16_IIV, Encr.NULL_AES_GMAC})
_INTEGRITY = frozenset(
    {
        Integ.NONE, Integ.HMAC_SHA1_96, Integ.HMAC_SHA2_256_128, Integ.HMAC_SHA2_384_192,
        Integ.HMAC_SHA2_512_256,
    }
)  # fmt: skip


def crate_module() -> Any:
    """The crate itself, for tests; None where it was not built."""
    return _native


def measure(
    sender: NativeOutbound, receiver: NativeInbound, length: int, batches: int
) -> tuple[float, float, float, float]:
    """Nanoseconds a packet of `length` octets: sealed, opened, and the cipher alone for both."""
    return _native.measure(sender.crate, receiver.crate, length, batches)


def crate_describe(packet: bytes) -> tuple[int, int, int, int, int, int] | None:
    """What the crate's policy sees of a packet; for tests."""
    return _native.describe(packet)


def carries(parameters: SaParameters) -> bool:
    """Whether the crate seals and opens for such an SA; else the portable code does."""
    return (
        parameters.protocol == SaProtocol.ESP
        and parameters.mode == Mode.TUNNEL
        and parameters.encryption in _ENCRYPTION
        and parameters.integrity in _INTEGRITY
        # ring has no AES-192-GCM.
        and not (parameters.encryption in _GCM and parameters.key_bits == 192)
        and not parameters.header.fragment_before
        and not (parameters.ipcomp or parameters.tfc_padding or parameters.dummy_interval)
        and not (parameters.bundle or parameters.interface or parameters.mark)
    )


class _Parameters:
    """What the crate reads of an SA's parameters."""

    def __init__(self, number: int, parameters: SaParameters) -> None:
        self.id = number
        self.spi = parameters.spi
        self.flow = parameters.flow
        self.esn = parameters.esn
        self.encryption = parameters.encryption
        self.integrity = parameters.integrity
        self.encryption_key = parameters.encryption_key
        self.integrity_key = parameters.integrity_key
        self.local_selectors = _selectors(parameters.local_selectors)
        self.remote_selectors = _selectors(parameters.remote_selectors)
        header = parameters.header
        self.copy_dscp_out = header.copy_dscp_out
        self.copy_dscp_in = header.copy_dscp_in
        self.copy_ecn = header.copy_ecn
        self.copy_df = header.copy_df
        self.set_df = header.set_df


def _selectors(given: tuple[TrafficSelector, ...]) -> list[tuple[int, int, int, int, int, int]]:
    return [(s.family, s.protocol, s.first, s.last, s.port_first, s.port_last) for s in given]


def _counted(name: str) -> Any:
    """A number that the crate keeps. What the reference's methods store is passed over: it is there."""

    def get(sa: NativeOutbound | NativeInbound) -> Any:
        return getattr(sa.crate, name)

    return property(get, lambda sa, value: None)


class NativeOutbound(OutboundSa):
    """An outbound SA of the crate, as the books see it; it also seals what the portable code brings."""

    def __init__(
        self,
        number: int,
        parameters: SaParameters,
        now: float = 0.0,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Raises as the reference does, and ValueError for what the crate does not carry."""
        super().__init__(parameters, now, random)
        volume = parameters.volume
        self.crate: crate.OutboundSa = _native.OutboundSa(
            _Parameters(number, parameters),
            self._iv_base,
            volume.hard_packets or _ALL,
            volume.hard_bytes or _ALL,
        )

    bytes = _counted("bytes")
    packets = _counted("packets")
    last_used = _counted("last_used")
    drops = _counted("drops")

    @property
    def sequence(self) -> int:
        return self.crate.sequence

    @sequence.setter
    def sequence(self, value: int) -> None:
        if value:  # the reference begins at 0
            self.crate.advance(value)

    def drop(self, reason: Drop, count: int = 1) -> None:
        self.crate.add_drop(str(reason), count)

    def seal_batch(
        self, work: Workspace, start: int, count: int, length: int, last: int, next_header: int
    ) -> int:
        drawn = 0 if self.pure_counter_iv else count
        random = b"".join(self._random(self.iv_length) for _ in range(drawn))
        return self.crate.seal_batch(
            work.sealed.buffer, start, count, length, last, next_header, random, time.monotonic()
        )


class _Top:
    """The one thing that the books ask of a replay window."""

    def __init__(self, sa: crate.InboundSa) -> None:
        self._sa = sa

    @property
    def top(self) -> int:
        return self._sa.top

    @top.setter
    def top(self, value: int) -> None:
        self._sa.mark(value)


class NativeInbound(InboundSa):
    """An inbound SA of the crate, as the books see it; it also opens what the portable code brings."""

    def __init__(self, number: int, parameters: SaParameters, now: float = 0.0) -> None:
        super().__init__(parameters, now)
        ports = parameters.encapsulation
        self.crate: crate.InboundSa = _native.InboundSa(
            _Parameters(number, parameters),
            parameters.replay_window,
            parameters.notify_first_use,
            ports is not None,
            (parameters.remote, ports.remote_port if ports else 0),
        )

    bytes = _counted("bytes")
    packets = _counted("packets")
    last_used = _counted("last_used")
    drops = _counted("drops")

    @property
    def window(self) -> ReplayWindow:
        return _Top(self.crate)  # type: ignore[return-value]

    @window.setter
    def window(self, made: ReplayWindow) -> None:
        """The reference makes one of its own; the crate's is the one that counts."""

    @property
    def seen(self) -> bool:
        return self.crate.seen

    @seen.setter
    def seen(self, value: bool) -> None:
        if value:
            self.crate.seen = True

    def drop(self, reason: Drop, count: int = 1) -> None:
        self.crate.add_drop(str(reason), count)

    def open_batch(
        self, work: Workspace, rows: Rows, start: int, stride: int, count: int, last: int
    ) -> tuple[list[Run], bool]:
        sizes = [stride] * (count - 1) + [last]
        packets = [bytes(rows.view[start + i * stride :][:size]) for i, size in enumerate(sizes)]
        opened, newest = self.crate.open_batch(packets, time.monotonic())
        runs: list[Run] = []
        at = 0
        for payload in opened:
            if isinstance(payload, bytes):
                work.opened.view[at : at + len(payload)] = payload
                runs.append(Run(at, 0, 1, len(payload), len(payload), 4 if payload[0] >> 4 == 4 else 41))
                at += len(payload)
        return runs, newest


class _NativeTransmitter(Transmitter):
    """Paths go to the crate, and so do packets that the portable code sealed: sockets have one owner."""

    def __init__(
        self, sockets: Sockets, offloads: Offloads, engine: crate.Engine, places: dict[int, int]
    ) -> None:
        super().__init__(
            sockets.udp4,
            sockets.udp6,
            sockets.raw4,
            sockets.raw6,
            offloads,
            sockets.wire4,
            sockets.wire6,
        )
        self._engine = engine
        self._places = places

    def measure(self, entry: Outbound) -> bool:
        changed = super().measure(entry)
        self.tell(entry)
        return changed

    def tell(self, entry: Outbound) -> None:
        """The crate, of where this SA's packets go and what fits."""
        if isinstance(entry.sa, NativeOutbound):
            entry.sa.crate.set_path(*self._path(entry), entry.max_inner)

    def send(
        self, entry: Outbound, view: memoryview, stride: int, count: int, last: int, tos: int, df: bool
    ) -> Drop | None:
        data = bytes(view[: (count - 1) * stride + last])
        failed = self._engine.transmit(*self._path(entry), data, stride, tos, df)
        return Drop(failed) if failed else None

    def _path(self, entry: Outbound) -> tuple[int, IpAddress, IpAddress, tuple[int, int] | None]:
        parameters = entry.sa.parameters
        ports = parameters.encapsulation
        both = (ports.local_port, ports.remote_port) if ports else None
        return self._places[entry.socket.fileno()], parameters.local, parameters.remote, both


class NativeEngine(PortableEngine):
    """`pair` is the descriptor that commands come from: an SPI that nobody knows may be among them."""

    name = "native"

    def __init__(
        self,
        device: Device,
        sockets: Sockets,
        kernel: Kernel,
        options: Options,
        report: Callable[[Report], None],
        drain_commands: Callable[[], None],
        pair: int = -1,
    ) -> None:
        self._last_number = 0
        self._entries: dict[int, Outbound | Inbound] = {}
        """By the number that the crate knows an SA by."""
        self._numbers: dict[Outbound | Inbound, int] = {}
        super().__init__(device, sockets, kernel, options, report, drain_commands)
        given = [
            (sock.fileno(), version, 0 if raw else sock.getsockname()[1])
            for sock, version, raw in (
                (sockets.udp4, 4, False),
                (sockets.udp6, 6, False),
                (sockets.raw4, 4, True),
                (sockets.raw6, 6, True),
            )
            if sock is not None
        ]
        default = Action.DISCARD if options.default_discard else Action.BYPASS
        self.crate: crate.Engine = _native.Engine(
            device.fd, given, pair, int(default), options.gso, time.monotonic()
        )
        self.crate.set_tun_offloads(self.offloads.tun_tso, self.offloads.tun_uso)
        self._places = {fd: place for place, (fd, _, _) in enumerate(given)}
        transmitter = _NativeTransmitter(sockets, self.offloads, self.crate, self._places)
        self._transmitter, self.tell_path = transmitter, transmitter.tell
        self.outward.use(transmitter)
        portable_forgets = self.state.forget_routes

        def forget() -> None:
            portable_forgets()
            self.crate.forget()

        self.state.forget_routes = forget
        self.state.removed = self._removed

    def readers(
        self, lanes: Sequence[socket.socket], raws: Sequence[socket.socket]
    ) -> dict[int, Callable[[], None]]:
        """The crate reads the packets; here its events are read, and AH."""
        self.crate.start()
        made = {self.crate.event_fd: self.events}
        for sock in raws:
            if sock.fileno() not in self._places:
                made[sock.fileno()] = partial(self.inward.raw_readable, sock)
        made.update(self.path_readers())
        return made

    def draining(self, yes: bool) -> None:
        self.crate.draining(yes)

    def close(self) -> None:
        self.crate.stop()

    # -- policies and SAs --------------------------------------------------------------------------------

    def change_policies(self, changes: Sequence[Policy | int]) -> list[str]:
        errors = super().change_policies(changes)
        for change, error in zip(changes, errors, strict=True):
            if error:
                continue
            if isinstance(change, Policy) and not change.interface:
                self._put(change)
            else:  # gone, or route-based: such devices are the portable code's
                self.crate.remove_policy(change.id if isinstance(change, Policy) else change)
        self.crate.forget()
        return errors

    def _put(self, policy: Policy) -> None:
        filed = [
            (family, by_remote, (entry[:3], *entry[3], *_paired(entry[4:])), list(under))
            for family, by_remote, entry, under in self.state.spd.filed(policy.id)
        ]
        flows = [rule.flow for rule in policy.rules if rule.flow]
        self.crate.put_policy(policy.id, policy.name.partition("/")[0], policy.trap, flows, filed)

    def make_inbound(self, parameters: SaParameters) -> AhInbound | InboundSa:
        if not carries(parameters):
            return super().make_inbound(parameters)
        return NativeInbound(self._next_number(), parameters, self.state.now)

    def make_outbound(self, parameters: SaParameters) -> AhOutbound | OutboundSa:
        if not carries(parameters):
            return super().make_outbound(parameters)
        return NativeOutbound(self._next_number(), parameters, self.state.now)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def install_sa(self, parameters: SaParameters) -> None:
        before = self._last_number
        super().install_sa(parameters)
        entry = self.state.sad.newest(parameters.pair, parameters.direction)
        sa = entry.sa
        number = self._last_number if self._last_number > before else self._next_number()
        self._entries[number], self._numbers[entry] = entry, number
        if isinstance(sa, NativeOutbound | NativeInbound):
            self._set_alarms(entry)
        if isinstance(entry, Outbound):
            if is_outer(parameters):
                return
            if isinstance(sa, NativeOutbound):
                self.crate.install_outbound(sa.crate)
            else:
                self.crate.install_other_outbound(
                    number,
                    parameters.flow,
                    _selectors(parameters.local_selectors),
                    _selectors(parameters.remote_selectors),
                )
            self.crate.release(parameters.flow)
        elif isinstance(sa, NativeInbound):
            self.crate.install_inbound(sa.crate, parameters.local)
        else:
            self.crate.install_other_inbound(number, parameters.spi, parameters.local)

    def _removed(self, entry: Outbound | Inbound) -> None:
        number = self._numbers.pop(entry)
        del self._entries[number]
        parameters = entry.sa.parameters
        if isinstance(entry, Outbound):
            self.crate.remove_outbound(number, parameters.flow)
        else:
            self.crate.remove_inbound(number, parameters.spi, parameters.local)

    def update_sa(
        self, pair: int, local: IpAddress, remote: IpAddress, ports: UdpEncapsulation | None
    ) -> None:
        before = {entry: entry.sa.parameters.local for entry in self.state.sad.of_pair(pair)}
        super().update_sa(pair, local, remote, ports)
        for entry, former in before.items():
            if isinstance(entry, Inbound):
                self.crate.move_inbound(self._numbers[entry], entry.sa.parameters.spi, former, local)
                if isinstance(entry.sa, NativeInbound):
                    source = remote, ports.remote_port if ports else 0
                    entry.sa.crate.set_source(source, ports is not None)

    def remove_sa(self, direction: int, spi: int, remote: bytes, linger: float, pair: int = 0) -> None:
        entry = self.state.sad.find(direction, spi, remote, pair)
        super().remove_sa(direction, spi, remote, linger, pair)
        if entry is not None and isinstance(entry.sa, NativeInbound) and entry.sa.remove_at is not None:
            entry.sa.crate.linger()

    def _set_alarms(self, entry: Outbound | Inbound) -> None:
        count = entry.sequence_alarm if isinstance(entry, Outbound) else entry.packets_alarm
        if isinstance(entry.sa, NativeOutbound | NativeInbound):
            entry.sa.crate.set_alarms(min(entry.bytes_alarm, _ALL), min(count, _ALL))

    # -- what the crate tells ----------------------------------------------------------------------------

    def events(self) -> None:
        """Raises TunUnavailable when the device was taken away."""
        for kind, *values in self.crate.events():
            self._HANDLERS[kind](self, *values)

    def _acquire(self, flow: int, packet: tuple[int, int, int, int, int, int]) -> None:
        family, protocol, source, destination, *ports = packet
        source_port, destination_port = (None if port < 0 else port for port in ports)
        inner = Inner(family, protocol, source, destination, source_port, destination_port, 0, False)
        local = selector_of(inner, source, source_port)
        self.state.report(Acquire(flow, local, selector_of(inner, destination, destination_port)))

    def _alarm(self, number: int) -> None:
        entry = self._entries.get(number)
        if entry is not None:
            self.state.alarm(entry)
            self._set_alarms(entry)

    def _hard(self, number: int, why: str) -> None:
        entry = self._entries.get(number)
        if entry is not None:
            self.state.expire(entry, why)

    def _first_use(self, number: int) -> None:
        entry = self._entries.get(number)
        if entry is not None:
            parameters = entry.sa.parameters
            self.state.report(FirstUse(parameters.pair, parameters.spi))

    def _moved(self, number: int, remote: IpAddress, port: int) -> None:
        entry = self._entries.get(number)
        if isinstance(entry, Inbound) and entry.sa.remove_at is None:
            entry.source = str(remote), port
            parameters = entry.sa.parameters
            self.state.report(PeerMoved(parameters.pair, parameters.spi, remote.packed, port))

    def _narrower(self, number: int) -> None:
        entry = self._entries.get(number)
        if isinstance(entry, Outbound) and self._transmitter.measure(entry):
            self.state.paths_changed()

    def _foreign(self, local: IpAddress, port: int, remote: IpAddress, remote_port: int, data: bytes) -> None:
        self.state.report(ForeignDatagram(local.packed, port, remote.packed, remote_port, data))

    def _inside(
        self,
        local: IpAddress,
        port: int,
        remote: IpAddress,
        remote_port: int,
        tos: int,
        data: bytes,
        outer: bytes,
        extensions: list[tuple[int, bytes]],
    ) -> None:
        if port:
            self.inward.forwarded(data, local.packed, port, (str(remote), remote_port), tos)
        else:
            self.inward.arrived(data, outer, extensions, tos, local.packed, str(remote))

    def _fault(self, text: str) -> None:
        self.state.report(Warned("fault", text[-2000:]))

    def _tun_gone(self) -> None:
        raise TunUnavailable("the TUN device was taken away")

    _HANDLERS: dict[str, Callable[..., None]] = {  # noqa: RUF012  # made once, for all
        "acquire": _acquire,
        "alarm": _alarm,
        "hard": _hard,
        "first_use": _first_use,
        "moved": _moved,
        "narrower": _narrower,
        "foreign": _foreign,
        "outside": lambda self, raw: self.outward.inject(raw),
        "inside": _inside,
        "fault": _fault,
        "tun_gone": _tun_gone,
    }

    # -- time, looking -----------------------------------------------------------------------------------

    def tick(self) -> None:
        super().tick()
        self.crate.drop_stale()
        tso, uso, gso = self.crate.offloads
        if not tso or not uso or not gso:
            self.offloads.tun_tso &= tso
            self.offloads.tun_uso &= uso
            self.offloads.udp_gso &= gso

    def counters(self, pairs: tuple[int, ...]) -> tuple[PairCounters, ...]:
        self.state.now = self.crate.now  # packets went on since this turn began
        return super().counters(pairs)

    def drops(self) -> dict[str, int]:
        total = super().drops()
        for reason, count in self.crate.drops.items():
            total[reason] = total.get(reason, 0) + count
        return total


def _paired(numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last of each dimension."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))
