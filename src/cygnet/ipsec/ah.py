"""AH (RFC 4302), packet by packet: a header that authenticates what is behind it and what lasts before it.

    IP head | next header, length, reserved | SPI | sequence number | [IV of GMAC] ICV [pad] | payload

Outbound: number -> head and AH as they will arrive, ICV zero -> ICV. Inbound: lengths -> replay check ->
verify -> mark the window. The ICV covers the upper half of an extended sequence number too, behind all
else. AH is a whole number of 8 octets in IPv6, of 4 in IPv4 (section 2.6); what peers add beyond that is
taken, as long as it is authentic. Who picks the payload apart is the caller: in a tunnel a packet, in
transport mode upper layers, in a bundle ESP.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from struct import Struct

from cygnet.crypto.integrity import integrity
from cygnet.ipsec.association import Association
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import EXTENDED_LIMIT, SEQUENCE_LIMIT
from cygnet.ipsec.headers import AH, BadHeader, joined, lasting
from cygnet.ipsec.replay import ReplayWindow
from cygnet.policy.sa import Mode, SaParameters

FIXED = 12
"""Octets of AH before the ICV field."""
_HEADER = Struct(">BBHII")
_M64 = (1 << 64) - 1
NO_NEXT_HEADER = 59


class _Ah(Association):
    __slots__ = ("_algorithm", "header", "tunnel")

    def __init__(self, parameters: SaParameters, now: float = 0.0) -> None:
        """Raises crypto's UnsupportedAlgorithm, or ValueError for keys that do not fit."""
        super().__init__(parameters, now)
        algorithm = integrity(parameters.integrity)
        if len(parameters.integrity_key) != algorithm.key_length or parameters.encryption_key:
            raise ValueError("key length does not fit the integrity algorithm")
        if parameters.manual and algorithm.iv_length:
            raise ValueError("GMAC cannot be keyed by hand (RFC 4543, section 2)")
        self._algorithm = algorithm
        self.tunnel = parameters.mode == Mode.TUNNEL
        align = 4 if parameters.local.version == 4 else 8
        field = algorithm.iv_length + algorithm.icv_length
        self.header = -(-(FIXED + field) // align) * align
        """Octets of the AH that we send."""

    def sealed_length(self, length: int) -> int:
        return self.header + length

    def largest_payload(self, sealed: int) -> int:
        return sealed - self.header

    def _icv(self, head: bytes, header: bytes, iv: bytes, payload: bytes, sequence: int) -> bytes:
        """`header` is AH with the ICV's octets zero. Raises BadHeader."""
        upper = (sequence >> 32).to_bytes(4, "big") if self.parameters.esn else b""
        covered = b"".join((iv, lasting(head), header, payload, upper))
        return self._algorithm.compute(self.parameters.integrity_key, covered)


class AhOutbound(_Ah):
    __slots__ = ("_iv_base", "limit", "sequence")

    def __init__(
        self, parameters: SaParameters, now: float = 0.0, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        super().__init__(parameters, now)
        self._iv_base = int.from_bytes(random(8), "big")
        self.sequence = 0
        self.limit = EXTENDED_LIMIT if parameters.esn else SEQUENCE_LIMIT

    def protect(self, head: bytes, names_next: int, next_header: int, payload: bytes) -> bytes | None:
        """The packet to send; None if the sequence numbers are used up (section 3.3.2), or if AH cannot
        protect such a head: both are in `drops`."""
        if self.sequence >= self.limit:
            self.drop(Drop.SEQUENCE_EXHAUSTED)
            return None
        sequence = self.sequence + 1
        iv = b""
        if self._algorithm.iv_length:
            iv = (self._iv_base + sequence & _M64).to_bytes(8, "big")
        fixed = _HEADER.pack(next_header, self.header // 4 - 2, 0, self.parameters.spi, sequence & 0xFFFFFFFF)
        blank = fixed + iv + bytes(self.header - FIXED - len(iv))
        try:
            packet = joined(head, names_next, AH, blank + payload)
            icv = self._icv(packet[: len(head)], blank, iv, payload, sequence)
        except BadHeader:
            self.drop(Drop.BAD_HEADER)
            return None
        self.sequence = sequence
        self.packets += 1
        self.bytes += len(payload)
        at = len(head) + FIXED + len(iv)
        return packet[:at] + icv + packet[at + len(icv) :]


class AhInbound(_Ah):
    __slots__ = ("remove_at", "seen", "window")

    def __init__(self, parameters: SaParameters, now: float = 0.0) -> None:
        super().__init__(parameters, now)
        self.window = ReplayWindow(parameters.replay_window)
        self.seen = False
        self.remove_at: float | None = None

    def open(self, head: bytes, packet: bytes) -> tuple[int, bytes] | None:
        """Next header and payload of AH and what follows it; None if it was dropped (and counted)."""
        algorithm = self._algorithm
        field = algorithm.iv_length + algorithm.icv_length
        length = (packet[1] + 2) * 4 if len(packet) >= FIXED else 0
        if length < FIXED + field or length > len(packet):
            self.drop(Drop.SHORT)
            return None
        low = int.from_bytes(packet[8:12], "big")
        sequence = self.window.infer(low) if self.parameters.esn else low
        if sequence < 0 or not self.window.check(sequence):
            self.drop(Drop.REPLAY)
            return None
        at = FIXED + algorithm.iv_length
        end = at + algorithm.icv_length
        blank = packet[:at] + bytes(algorithm.icv_length) + packet[end:length]
        payload = packet[length:]
        try:
            expected = self._icv(head, blank, packet[FIXED:at], payload, sequence)
        except BadHeader:
            self.drop(Drop.BAD_HEADER)
            return None
        if not hmac.compare_digest(expected, packet[at:end]):
            self.drop(Drop.BAD_ICV)
            return None
        if not self.window.mark(sequence):
            self.drop(Drop.REPLAY)
            return None
        if packet[0] == NO_NEXT_HEADER:
            self.drop(Drop.DUMMY)
            return None
        self.packets += 1
        self.bytes += len(payload)
        return packet[0], payload
