"""Packet by packet: every SA but ESP tunnels without extras, which go in runs (outbound, inbound).

Out:  put together if it is a fragment (transport mode takes whole packets) -> split head and payload, or
      a tunnel's new head -> compress -> ESP -> AH -> cut to the path -> the wire socket
In:   AH -> ESP -> expand -> what the mode says: the inner packet, or head and payload joined again, with
      checksums that a NAT made wrong put right -> to the judge of selectors

The outer header is written here, not by the kernel, because AH authenticates it and transport mode keeps it:
the wire sockets take whole packets (IP_HDRINCL). The kernel does not fragment those, so they are cut here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from cygnet.dataplane.engines.state import State
from cygnet.dataplane.sad import Inbound, Outbound
from cygnet.ipsec.ah import AhInbound, AhOutbound
from cygnet.ipsec.checksum import complement, residue, store, swap
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import IPCOMP, IPV4_IN_IP, IPV6_IN_IP, NO_NEXT_HEADER, InboundSa, OutboundSa
from cygnet.ipsec.headers import AH, ESP, BadHeader, joined, split
from cygnet.ipsec.ipcomp import decompress
from cygnet.ipsec.pieces import Reassembly, cut
from cygnet.ipsec.rows import Rows
from cygnet.ipsec.translation import checked_anew, readdressed
from cygnet.ipsec.tunnel import dont_fragment, outer_df, outer_traffic_class, traffic_class
from cygnet.policy.sa import TFC_TO_MTU, SaParameters
from cygnet.policy.selectors import IpAddress

_UDP, _TTL = 17, 64
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_SO_MARK = 36
DUMMY_OCTETS = 256
"""Of a dummy packet's payload where no size is configured."""


class Head(NamedTuple):
    """What stood before the IPsec header of an arrived packet; `names_next` as in ipsec.headers.Split."""

    octets: bytes
    names_next: int


class Opened(NamedTuple):
    """`reason` says why there is no packet; None with an empty packet: it was dropped and counted already."""

    packet: bytes
    reason: Drop | None = None


_NOTHING = Opened(b"")


class Singly:
    def __init__(self, state: State) -> None:
        self._state = state
        self._reassembly = Reassembly()
        self._identity = int.from_bytes(os.urandom(2), "big")
        self._rows = Rows(1 << 17)
        self.measure: Callable[[Outbound], bool] = lambda entry: False
        """Ask for the path MTU again (transmit.Transmitter.measure)."""

    # -- out -----------------------------------------------------------------------------------

    def send(self, entry: Outbound, packet: bytes) -> Drop | None:
        """A packet from the inside, its checksums done and not too big to be told so. None, or why it did
        not leave; the SA's own drops are counted by the SA."""
        try:
            if entry.sa.tunnel:
                return self._send_tunnelled(entry, packet)
            refused = self._reassembly.refused
            whole = self._reassembly.take(packet, self._state.now)
            if whole is None:
                return Drop.REASSEMBLY if self._reassembly.refused > refused else None
            return self._send_transport(entry, whole)
        except BadHeader:
            return Drop.BAD_HEADER

    def _send_transport(self, entry: Outbound, packet: bytes) -> Drop | None:
        if packet[0] >> 4 == 4 and packet[4:6] == b"\0\0":
            # The kernel would choose an identification, and AH authenticates it.
            packet = packet[:4] + self._next_identity() + packet[6:]
        head, names_next, next_header, payload = split(packet)
        if next_header in (ESP, AH):
            return Drop.LOOP
        return self._emit(entry, head, names_next, next_header, payload)

    def _send_tunnelled(self, entry: Outbound, packet: bytes) -> Drop | None:
        parameters, view = entry.sa.parameters, memoryview(packet)
        tos = outer_traffic_class(traffic_class(view, 0), parameters.header)
        fits = len(packet) <= entry.max_inner
        df = fits and outer_df(parameters.header, dont_fragment(view, 0))
        head = self._tunnel_head(parameters, tos, df)
        next_header = IPV4_IN_IP if packet[0] >> 4 == 4 else IPV6_IN_IP
        return self._emit(entry, head.octets, head.names_next, next_header, packet)

    def dummy(self, entry: Outbound) -> Drop | None:
        """Traffic that says nothing (RFC 4303, section 2.6), in the size of what is padded."""
        parameters = entry.sa.parameters
        size = _padded_size(entry) or DUMMY_OCTETS
        head = self._tunnel_head(parameters, 0, False)
        return self._emit(entry, head.octets, head.names_next, NO_NEXT_HEADER, bytes(size))

    def _emit(
        self, entry: Outbound, head: bytes, names_next: int, next_header: int, payload: bytes
    ) -> Drop | None:
        """The transforms, from the inside out, and the wire."""
        state, sa = self._state, entry.sa
        outer: AhOutbound | None = None
        around: Outbound | None = None
        if sa.parameters.bundle:
            around = state.sad.outbound_of_pair(sa.parameters.bundle)
            if around is None or not isinstance(around.sa, AhOutbound):
                return Drop.NO_OUTBOUND_SA
            outer = around.sa
        for used in filter(None, (entry, around)):
            reason = used.used_up(1)
            if reason:
                state.expire(used, reason)
                return Drop.HARD_LIMIT
        if entry.compressor is not None and next_header != NO_NEXT_HEADER:
            shorter = entry.compressor.compress(next_header, payload)
            if shorter is not None:
                next_header, payload = IPCOMP, shorter
        sa.last_used = state.now
        if isinstance(sa, OutboundSa):
            sealed = self._sealed(entry, sa, next_header, payload)
            if sealed is None:
                return None
            following, payload = ESP, sealed
            encapsulation = sa.parameters.encapsulation
            if encapsulation is not None:
                following = _UDP
                payload = _in_udp(sa.parameters, payload)
            if outer is None:
                packet: bytes | None = joined(head, names_next, following, payload)
            else:
                outer.last_used = state.now
                packet = outer.protect(head, names_next, following, payload)
        else:
            packet = sa.protect(head, names_next, next_header, payload)
        failed = self._transmit(entry, packet) if packet is not None else None
        for used in filter(None, (entry, around)):
            if used.sa.sequence >= used.sequence_alarm or used.sa.bytes >= used.bytes_alarm:
                state.alarm(used)
        return failed

    def _sealed(self, entry: Outbound, sa: OutboundSa, next_header: int, payload: bytes) -> bytes | None:
        work = self._state.work
        length = len(payload)
        if sa.tunnel and next_header != NO_NEXT_HEADER:
            length = max(length, _padded_size(entry))
        buffer = work.sealed.buffer
        buffer[sa.head : sa.head + length] = payload + bytes(length - len(payload))
        end = sa.seal_batch(work, 0, 1, length, length, next_header)
        return bytes(work.sealed.view[:end]) if end else None

    def _transmit(self, entry: Outbound, packet: bytes) -> Drop | None:
        try:
            self._send_pieces(entry, packet)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or not self.measure(entry):
                return Drop.TOO_BIG if error.errno == errno.EMSGSIZE else Drop.SEND_FAILED
            # The path became narrower just now: this one goes in fragments, the next ones fit.
            self._state.paths_changed()
            try:
                self._send_pieces(entry, packet)
            except OSError:
                return Drop.SEND_FAILED
        return None

    def _send_pieces(self, entry: Outbound, packet: bytes) -> None:
        """Raises OSError, and BadHeader for what cannot be cut."""
        ancillary = []
        if entry.sa.parameters.mark:
            ancillary.append((socket.SOL_SOCKET, _SO_MARK, struct.pack("=I", entry.mark)))
        for piece in cut(packet, entry.path_mtu):
            entry.wire.sendmsg((piece,), ancillary, 0, (entry.address[0], 0))

    def _next_identity(self) -> bytes:
        self._identity = self._identity % 0xFFFF + 1
        return self._identity.to_bytes(2, "big")

    def _tunnel_head(self, parameters: SaParameters, tos: int, df: bool) -> Head:
        identity = int.from_bytes(self._next_identity(), "big")
        return made_head(parameters.local, parameters.remote, tos, identity, df)

    # -- in ------------------------------------------------------------------------------------

    def open(self, entry: Inbound, head: Head, data: bytes, via: int = 0) -> tuple[Inbound, Opened]:
        """What was in a packet for this SA, and the SA whose selectors judge it. `data` begins with the IPsec
        header; `via` is the pair of the AH SA that it came through."""
        sa = entry.sa
        parameters = sa.parameters
        if isinstance(sa, AhInbound):
            found = sa.open(head.octets, data)
            if found is None:
                return entry, _NOTHING
            next_header, payload = found
            self._used(sa)
            if parameters.bundle:
                return self._open_inner(entry, head, next_header, payload)
        else:
            if parameters.bundle != via:
                return entry, Opened(b"", Drop.NOT_BUNDLED)
            run = self._open_esp(sa, data)
            if run is None:
                return entry, _NOTHING
            next_header, payload = run
            self._used(sa)
        if next_header == IPCOMP:
            expanded = decompress(payload, parameters.ipcomp) if parameters.ipcomp else None
            if expanded is None:
                return entry, Opened(b"", Drop.BAD_COMPRESSION)
            next_header, payload = expanded
        if sa.tunnel:
            return entry, _tunnelled(next_header, payload)
        return entry, self._transported(parameters, head, next_header, payload)

    def _open_inner(
        self, entry: Inbound, head: Head, next_header: int, payload: bytes
    ) -> tuple[Inbound, Opened]:
        """Inside a bundle's AH there is its ESP and nothing else."""
        parameters = entry.sa.parameters
        inner = None
        if next_header == ESP and len(payload) >= 8:
            spi = int.from_bytes(payload[:4], "big")
            inner = self._state.sad.inbound(spi, parameters.local.packed)
        if inner is None or inner.sa.parameters.pair != parameters.bundle:
            return entry, Opened(b"", Drop.NOT_BUNDLED)
        return self.open(inner, head, payload, via=parameters.pair)

    def _open_esp(self, sa: InboundSa, data: bytes) -> tuple[int, bytes] | None:
        rows, size = self._rows, len(data)
        rows.buffer[:size] = data
        runs, _ = sa.open_batch(self._state.work, rows, 0, size, 1, size)
        if not runs:
            return None
        run = runs[0]
        return run.next_header, bytes(self._state.work.opened.view[run.start : run.start + run.length])

    def _used(self, sa: InboundSa | AhInbound) -> None:
        sa.last_used = self._state.now

    @staticmethod
    def _transported(parameters: SaParameters, head: Head, next_header: int, payload: bytes) -> Opened:
        if next_header in (ESP, AH):
            return Opened(b"", Drop.WRONG_PROTOCOL)
        if parameters.original_local is not None or parameters.original_remote is not None:
            source = parameters.original_remote or parameters.remote
            destination = parameters.original_local or parameters.local
            seen = head.octets[12:20] if head.octets[0] >> 4 == 4 else head.octets[8:40]
            if source.is_unspecified or destination.is_unspecified:
                payload = checked_anew(next_header, payload, seen)
            else:
                payload = readdressed(next_header, payload, source.packed + destination.packed, seen)
        try:
            return Opened(joined(head.octets, head.names_next, next_header, payload))
        except BadHeader:
            return Opened(b"", Drop.BAD_HEADER)


def _tunnelled(next_header: int, payload: bytes) -> Opened:
    version = payload[0] >> 4 if payload else 0
    if (next_header, version) not in ((IPV4_IN_IP, 4), (IPV6_IN_IP, 6)):
        return Opened(b"", Drop.WRONG_PROTOCOL)
    return Opened(payload)


def _padded_size(entry: Outbound) -> int:
    """What payloads are filled up to (RFC 4303, section 2.7), never more than fits."""
    wanted = entry.sa.parameters.tfc_padding
    return entry.max_inner if wanted == TFC_TO_MTU else min(wanted, entry.max_inner)


def _in_udp(parameters: SaParameters, sealed: bytes) -> bytes:
    """RFC 3948, section 2.1: no checksum in IPv4; IPv6 cannot do without."""
    ports = parameters.encapsulation
    if ports is None:
        return sealed
    length = 8 + len(sealed)
    made = bytearray(struct.pack(">HHHH", ports.local_port, ports.remote_port, length, 0) + sealed)
    if parameters.local.version == 6:
        pseudo = residue(memoryview(parameters.local.packed + parameters.remote.packed))
        store(made, 6, complement(pseudo + swap(_UDP) + swap(length) + residue(memoryview(made))))
    return bytes(made)


def made_head(source: IpAddress, destination: IpAddress, tos: int, identity: int, df: bool) -> Head:
    """An IP header without options; its lengths, checksum and next header are written when it is joined."""
    if source.version == 4:
        flags = 0x4000 if df else 0
        octets = _IPV4.pack(0x45, tos, 0, identity, flags, _TTL, 0, 0, source.packed, destination.packed)
        return Head(octets, 9)
    return Head(_IPV6.pack(6 << 28 | tos << 20, 0, 0, _TTL, source.packed, destination.packed), 6)


def arrived_head_6(
    source: bytes, destination: bytes, tos: int, extensions: list[tuple[int, bytes]], size: int, protocol: int
) -> Head:
    """The head of an IPv6 packet, of which the kernel gave the pieces: extension headers in their order, each
    with its number, and `size` octets of `protocol` behind them."""
    octets = bytearray(_IPV6.pack(6 << 28 | tos << 20, 0, 0, _TTL, source, destination))
    names_next = 6
    for kind, extension in extensions:
        octets[names_next] = kind
        names_next = len(octets)
        octets += extension
    octets[names_next] = protocol
    octets[4:6] = (len(octets) - 40 + size).to_bytes(2, "big")
    return Head(bytes(octets), names_next)
