"""How EAP-TLS, TTLS and PEAP cut TLS into packets (RFC 5216, sections 2.1.5 and 3.1; RFC 5281, section 9.1).

    |  Flags L M S 0 0 Version  | [TLS message length, 4 octets] | TLS data ...

A flight goes in fragments; each but the last has M and is acknowledged by an empty packet. As generators:
`turn` sends the server's flight and returns the client's; `gather` and `fragments` are the client's halves.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from cygnet.auth.eap.method import EapFailed, Reply
from cygnet.auth.eap.packet import Packet
from cygnet.wire.cursor import Cursor, Malformed

LENGTH, MORE, START, VERSION = 0x80, 0x40, 0x20, 0x07
FRAGMENT: Final = 1000
"""Octets of TLS data in one packet: its IKE message then fits a common MTU whole."""
MAX_MESSAGE: Final = 65_536
MAX_FRAGMENTS: Final = 90


def frame(data: bytes, flags: int = 0) -> bytes:
    return bytes((flags,)) + data


def split(flight: bytes) -> list[bytes]:
    """The packets' type-data for a flight; the first of several says how long it is in all."""
    if len(flight) <= FRAGMENT:
        return [frame(flight)]
    parts = [flight[at : at + FRAGMENT] for at in range(0, len(flight), FRAGMENT)]
    head = frame(len(flight).to_bytes(4, "big") + parts[0], LENGTH | MORE)
    return [head, *(frame(part, MORE) for part in parts[1:-1]), frame(parts[-1])]


class Assembly:
    """The other side's flight as its fragments come."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.announced = 0

    def add(self, data: bytes) -> bool:
        """Whether more is to come. Raises `Malformed`, `EapFailed`."""
        cursor = Cursor(data)
        flags = cursor.u8()
        if flags & LENGTH:
            announced = cursor.u32()
            if self.parts and announced != self.announced:
                raise EapFailed("a TLS flight that changes its length")
            self.announced = announced
        self.parts.append(cursor.rest())
        size = sum(map(len, self.parts))
        more = bool(flags & MORE)
        if self.announced > MAX_MESSAGE or size > MAX_MESSAGE or len(self.parts) > MAX_FRAGMENTS:
            raise EapFailed("a TLS flight longer than there can be")
        if more and not self.parts[-1]:
            raise EapFailed("an empty fragment of a TLS flight")
        if not more and self.announced and size != self.announced:
            raise Malformed(f"a TLS flight of {size} octets that says {self.announced}")
        return more

    @property
    def flight(self) -> bytes:
        return b"".join(self.parts)


# -- server -------------------------------------------------------------------------------------


def turn(flight: bytes) -> Generator[bytes, Packet, bytes]:
    """Send our flight, take the client's."""
    *before, last = split(flight)
    for part in before:
        acknowledgement = yield part
        if len(acknowledgement.data) > 1:
            raise EapFailed("a TLS fragment was not acknowledged")
    return (yield from take((yield last)))


def take(packet: Packet) -> Generator[bytes, Packet, bytes]:
    """The client's flight, whose first packet has come."""
    assembly = Assembly()
    while assembly.add(packet.data):
        packet = yield frame(b"")
    return assembly.flight


# -- client -------------------------------------------------------------------------------------


def gather(packet: Packet, version: int) -> Generator[Reply, Packet, bytes]:
    """The server's flight, whose first packet has come."""
    assembly = Assembly()
    while assembly.add(packet.data):
        packet = yield Reply(frame(b"", version))
    return assembly.flight


def fragments(flight: bytes, version: int) -> Generator[Reply, Packet, bytes]:
    """Send all of our flight but its last packet, which is returned: the caller says what it is worth."""
    *before, last = split(flight)
    for part in before:
        acknowledgement = yield Reply(bytes((part[0] | version,)) + part[1:])
        if len(acknowledgement.data) > 1:
            raise EapFailed("a TLS fragment was not acknowledged")
    return bytes((last[0] | version,)) + last[1:]


def begins(packet: Packet) -> int:
    """The version that the server's first packet offers. Raises `EapFailed` if it does not begin anything."""
    flags = Cursor(packet.data).u8()
    if not flags & START:
        raise EapFailed("TLS does not begin with a start")
    return flags & VERSION
