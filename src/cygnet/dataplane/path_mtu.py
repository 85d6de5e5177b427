"""Path MTUs: what the route and its device take, and what the path says of itself, if it can be believed.

ICMP comes from anybody (RFC 4301, section 8.2). The kernel believes whoever can quote addresses and ports, so
its own notion of a path is not asked; ESP sockets do not obey it either (IP_PMTUDISC_PROBE). What "packet too
big" says counts here if it quotes the SPI of a live outbound SA and the peer that it goes to, never below the
floor, and for a while. Unreachable and all else of ICMP changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from ipaddress import ip_address
from typing import Final

from cygnet.dataplane.descriptors import MARK
from cygnet.dataplane.rtnetlink import RouteSocket
from cygnet.policy.selectors import IpAddress
from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed

DEFAULT_PATH_MTU: Final = 1280
MTU_FLOOR: Final = {4: 576, 6: 1280}
"""Below these nothing is believed: packets are fragmented outside instead (RFC 1191, RFC 8200)."""
BELIEVED_FOR: Final = 600.0
"""Seconds, as the kernel keeps what ICMP said (RFC 8201, section 4: not less than five minutes)."""
MAX_BELIEVED: Final = 4096
"""Paths that something is remembered of; beyond it the oldest is forgotten."""
_UDP, _ESP, _AH = 17, 50, 51
_SIOCGIFMTU: Final = 0x8921
_SOL_RAW, _ICMP_FILTER, _ICMPV6_FILTER = 255, 1, 1


@dataclass(frozen=True, slots=True)
class TooBig:
    """What a "packet too big" says: so long may packets be that go to `remote` on the SA `spi`."""

    mtu: int
    local: IpAddress
    remote: IpAddress
    spi: int


class PathMtus:
    """Of every pair of tunnel ends. `now` is monotonic."""

    def __init__(self) -> None:
        self._believed: dict[tuple[IpAddress, IpAddress], tuple[int, float]] = {}

    def of(self, local: IpAddress, remote: IpAddress, now: float) -> int:
        mtu = route_mtu(local, remote)
        told, until = self._believed.get((local, remote), (mtu, 0.0))
        if until <= now:
            self._believed.pop((local, remote), None)
            told = mtu
        return max(min(mtu, told), MTU_FLOOR[remote.version])

    def believe(self, told: TooBig, now: float) -> bool:
        """Of an SA that is known to live; whether that made the path narrower. It never makes it wider: that
        time does (RFC 8201, section 4)."""
        key, mtu = (told.local, told.remote), max(told.mtu, MTU_FLOOR[told.remote.version])
        before, until = self._believed.get(key, (0, now))
        if until > now and mtu > before:
            return False
        self._believed.pop(key, None)
        self._believed[key] = mtu, now + BELIEVED_FOR
        if len(self._believed) > MAX_BELIEVED:
            del self._believed[next(iter(self._believed))]
        return until <= now or mtu < before


def route_mtu(local: IpAddress, remote: IpAddress) -> int:
    """What the route to `remote` takes, as it was configured, or else its device; a guess without a route."""
    try:
        with contextlib.closing(RouteSocket()) as routes:
            device, metric = routes.way(local, remote, MARK)
        if metric:
            return min(metric, 65535)
        name = socket.if_indextoname(device).encode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            answer = fcntl.ioctl(asking.fileno(), _SIOCGIFMTU, struct.pack("16si12x", name, 0))
        return min(int(struct.unpack_from("=i", answer, 16)[0]), 65535)
    except OSError:
        return DEFAULT_PATH_MTU


# -- what the path says -------------------------------------------------------------------------------


def listeners() -> list[socket.socket]:
    """Raw sockets that get unreachables and "packet too big" alone. Raises OSError (no CAP_NET_RAW)."""
    made = [socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)]
    made[0].setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << 3) & 0xFFFFFFFF))
    with contextlib.suppress(OSError):  # a kernel without IPv6
        six = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        blocked = bytearray(b"\xff" * 32)
        blocked[0] &= ~(1 << 2)
        six.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, bytes(blocked))
        made.append(six)
    return made


def read_v4(datagram: bytes) -> TooBig | None:
    """An IPv4 packet with ICMP in it: what it says, None if it is no "fragmentation needed" about ESP."""
    try:
        cursor = Cursor(datagram)
        cursor.take((cursor.u8() & 15) * 4 - 1)
        kind, code = cursor.u8(), cursor.u8()
        cursor.take(4)
        mtu = cursor.u16()
        if (kind, code) != (3, 4):
            return None
        length = (cursor.u8() & 15) * 4
        cursor.take(8)
        protocol = cursor.u8()
        cursor.take(2)
        local, remote = ip_address(bytes(cursor.take(4))), ip_address(bytes(cursor.take(4)))
        cursor.take(length - 20)
        return _quoted(cursor, protocol, mtu, local, remote)
    except (Malformed, ValueError):
        return None


def read_v6(datagram: bytes) -> TooBig | None:
    """An ICMPv6 message: what it says, None if it is no "packet too big" about ESP."""
    try:
        cursor = Cursor(datagram)
        kind = cursor.u8()
        cursor.take(3)
        mtu = cursor.u32()
        if kind != 2:
            return None
        cursor.take(6)
        protocol = cursor.u8()
        cursor.take(1)
        local, remote = ip_address(bytes(cursor.take(16))), ip_address(bytes(cursor.take(16)))
        return _quoted(cursor, protocol, mtu, local, remote)
    except (Malformed, ValueError):
        return None


def _quoted(cursor: Cursor, protocol: int, mtu: int, local: IpAddress, remote: IpAddress) -> TooBig | None:
    """The SPI must be there: with UDP, 8 octets behind the IP header (RFC 792) are too few."""
    if protocol == _UDP:
        cursor.take(8)
    elif protocol == _AH:
        cursor.take(4)
    elif protocol != _ESP:
        return None
    return TooBig(mtu, local, remote, cursor.u32())
