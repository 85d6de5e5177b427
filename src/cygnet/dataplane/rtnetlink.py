"""Routes, rules and addresses over rtnetlink: just the messages that the tunnels' routes need.

pyroute2 takes milliseconds a route and its import costs the data plane 20 MB; a gateway has tens of
thousands of routes, which this writes many to a datagram (RFC 3549; linux/rtnetlink.h, fib_rules.h).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cygnet.policy.selectors import IpAddress

NEW_ROUTE, DEL_ROUTE, GET_ROUTE = 24, 25, 26
NEW_RULE, DEL_RULE = 32, 33
NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NO_DAD, _NO_PREFIX_ROUTE = 0x02, 0x200
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCLUSIVE, _CREATE = 1, 4, 0x300, 0x100, 0x200, 0x400
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_DST, _SRC, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS, _TABLE, _MARK = 1, 2, 4, 5, 6, 7, 8, 15, 16
_METRIC_MTU, _FIB_MATCH = 2, 0x2000
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 6, 10, 15, 16
_FIB_RULE_INVERT = 2
_UNICAST, _UNREACHABLE, _THROW, _TO_TABLE = 1, 7, 9, 1
NEW_LINK, DEL_LINK, GET_LINK = 16, 17, 18
_IFALIAS = 20
_IFNAME, _LINKINFO, _KIND, _DATA, _XFRM_IF_ID, _UP = 3, 18, 1, 2, 2, 1
_PROTOCOL = 217
"""Who made a route (rtnetlink.h: from 192 on anybody may take one)."""
BATCH = 32768
"""Octets of requests in one datagram; if all are refused the refusals must fit the receive buffer."""
_RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE, _SOL_NETLINK, _GET_STRICT_CHK = 33, 270, 12
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSION = {number: version for version, number in _FAMILY.items()}
_OCTETS = {4: 4, 6: 16}


@dataclass(frozen=True, slots=True)
class Route:
    """A prefix to a device, or, with `device` 0, unreachable. `source` 0: the kernel chooses; `gateway` 0: on
    the link. `throw`: the table has no say about the prefix."""

    family: int
    prefix: int
    length: int
    metric: int
    device: int = 0
    source: int = 0
    gateway: int = 0
    throw: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """Of an interface, with the length of the prefix that is on its link."""

    family: int
    address: int
    length: int
    interface: int


class NetlinkError(OSError):
    """The kernel's refusal of one request."""


class RouteSocket:
    """A socket in the network namespace of the thread that makes it. All methods raise OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        with contextlib.suppress(OSError):  # dumps of one table, not of all a router may have (Linux 4.20)
            self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def add_routes(self, table: int, routes: Iterable[Route]) -> None:
        """In place of a route to the same prefix with the same metric."""
        self._request(NEW_ROUTE, _CREATE | _REPLACE, (_route(table, one) for one in routes), ())

    def delete_routes(self, table: int, routes: Iterable[Route]) -> None:
        """Those that are gone already are no error."""
        self._request(DEL_ROUTE, 0, (_route(table, one) for one in routes), (errno.ESRCH, errno.ENODEV))

    def routes(self, table: int) -> list[Route]:
        found = []
        for family in _FAMILY.values():
            request = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + _number(_TABLE, table)
            for body in self._dump(GET_ROUTE, request):
                route = _parsed_route(body, table)
                if route is not None:
                    found.append(route)
        return found

    def addresses(self) -> list[Address]:
        """All of global scope."""
        found = []
        for body in self._dump(GET_ADDRESS, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            family, length, _, scope, index = struct.unpack_from("=BBBBI", body)
            attributes = _attributes(body, 8)
            address = attributes.get(2) or attributes.get(1)  # IFA_LOCAL, IFA_ADDRESS
            if scope == 0 and address and family in _VERSION:
                found.append(Address(_VERSION[family], int.from_bytes(address), length, index))
        return found

    def host_addresses(self, interface: int) -> list[Address]:
        """Those of an interface that stand for one host and bring no route: what `add_addresses` made."""
        found = []
        for body in self._dump(GET_ADDRESS, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            family, length, _, _, index = struct.unpack_from("=BBBBI", body)
            attributes = _attributes(body, 8)
            address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            flags = int.from_bytes(attributes.get(_IFA_FLAGS, b""), sys.byteorder)
            if index == interface and address and length == 8 * len(address) and flags & _NO_PREFIX_ROUTE:
                found.append(Address(_VERSION[family], int.from_bytes(address), length, index))
        return found

    def add_addresses(self, interface: int, addresses: Iterable[IpAddress]) -> None:
        """Each for itself, usable at once: nobody else can have it. Those there already are no error."""
        bodies = [_interface_address(interface, one) for one in addresses]
        self._request(NEW_ADDRESS, _CREATE | _REPLACE, bodies, (errno.EEXIST,))

    def delete_addresses(self, interface: int, addresses: Iterable[IpAddress]) -> None:
        """Those that are gone already are no error."""
        bodies = [_interface_address(interface, one) for one in addresses]
        self._request(DEL_ADDRESS, 0, bodies, (errno.EADDRNOTAVAIL, errno.ENODEV))

    def add_rule(self, priority: int, mark: int, mask: int, table: int) -> None:
        """Both families: what does not carry the mark looks into the table. There already is no error."""
        for family in _FAMILY.values():
            self._request(
                NEW_RULE,
                _CREATE | _EXCLUSIVE,
                [_rule(family, priority, mark, mask, table)],
                _NO_IPV6_OR_THERE,
            )

    def delete_rule(self, priority: int, mark: int, mask: int, table: int) -> None:
        """Not there is no error."""
        for family in _FAMILY.values():
            self._request(
                DEL_RULE, 0, [_rule(family, priority, mark, mask, table)], (errno.ENOENT, errno.EAFNOSUPPORT)
            )

    def towards(self, family: int, address: int, mark: int) -> Route | None:
        """How packets with this mark get to an address; None: not at all."""
        bits = 8 * _OCTETS[family]
        body = _ROUTE.pack(_FAMILY[family], bits, 0, 0, 0, 0, 0, 0, 0)
        body += _attribute(_DST, address.to_bytes(_OCTETS[family])) + _number(_MARK, mark)
        try:
            found = next(self._asked(GET_ROUTE, _REQUEST, body), None)
        except NetlinkError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
                return None
            raise
        return None if found is None else _parsed_route(found, None)

    def way(self, local: IpAddress, remote: IpAddress, mark: int) -> tuple[int, int]:
        """(the device that packets with this mark between these leave by, the MTU that the route was given or
        0), as configured: what ICMP has told the kernel of the path does not count."""
        bits = 8 * len(remote.packed)
        from_bits = 0 if local.is_unspecified else bits
        body = _ROUTE.pack(_FAMILY[remote.version], bits, from_bits, 0, 0, 0, 0, 0, _FIB_MATCH)
        body += _attribute(_DST, remote.packed) + _number(_MARK, mark)
        if not local.is_unspecified:
            body += _attribute(_SRC, local.packed)
        found = _attributes(next(self._asked(GET_ROUTE, _REQUEST, body)), _ROUTE.size)
        metrics = _attributes(found.get(_METRICS, b""), 0)
        if _OIF not in found:  # several ways: the one that is taken now
            body = _ROUTE.pack(_FAMILY[remote.version], bits, *[0] * 7)
            body += _attribute(_DST, remote.packed) + _number(_MARK, mark)
            found = _attributes(next(self._asked(GET_ROUTE, _REQUEST, body)), _ROUTE.size)
        device, mtu = found.get(_OIF, b""), metrics.get(_METRIC_MTU, b"")
        return int.from_bytes(device, sys.byteorder), int.from_bytes(mtu, sys.byteorder)

    # -- links -------------------------------------------------------------------------------------

    def add_xfrm_interface(self, name: str, if_id: int) -> None:
        """An interface whose packets take the policies with this number, up. There already is no error."""
        data = _attribute(_XFRM_IF_ID, struct.pack("=I", if_id))
        info = _attribute(_KIND, b"xfrm") + _attribute(_DATA, data)
        body = struct.pack("=BxHiII", 0, 0, 0, _UP, _UP) + _attribute(_IFNAME, name.encode() + b"\0")
        body += _attribute(_LINKINFO, info)
        self._request(NEW_LINK, _CREATE | _EXCLUSIVE, [body], (errno.EEXIST,))

    def set_alias(self, interface: int, alias: str) -> None:
        """What people see beside a link's name; ours stay known by it when their process is gone."""
        body = struct.pack("=BxHiII", 0, 0, interface, 0, 0) + _attribute(_IFALIAS, alias.encode())
        self._request(NEW_LINK, 0, [body], ())

    def aliases(self) -> dict[str, str]:
        """Links that have one, by name."""
        found = {}
        for body in self._dump(GET_LINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
            attributes = _attributes(body, 16)
            if _IFALIAS in attributes and _IFNAME in attributes:
                name, alias = (attributes[kind].rstrip(b"\0") for kind in (_IFNAME, _IFALIAS))
                found[name.decode(errors="replace")] = alias.decode(errors="replace")
        return found

    def delete_link(self, name: str) -> None:
        """Not there is no error."""
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(_IFNAME, name.encode() + b"\0")
        self._request(DEL_LINK, 0, [body], (errno.ENODEV,))

    # -- messages ----------------------------------------------------------------------------------

    def _request(self, kind: int, flags: int, bodies: Iterable[bytes], accepted: Sequence[int]) -> None:
        """Many to a datagram. The first refusal is raised, after all were tried."""
        batch: list[bytes] = []
        size = 0
        refusal = 0
        for body in bodies:
            batch.append(body)
            size += _HEADER.size + len(body)
            if size >= BATCH:
                refusal = refusal or self._exchange(kind, flags, batch, accepted)
                batch, size = [], 0
        if batch:
            refusal = refusal or self._exchange(kind, flags, batch, accepted)
        if refusal:
            raise NetlinkError(refusal, os.strerror(refusal))

    def _exchange(self, kind: int, flags: int, bodies: list[bytes], accepted: Sequence[int]) -> int:
        """The errno of the first that was refused, or 0. Refusals come unasked; only the last request
        asks for an acknowledgement."""
        requests = []
        for left in range(len(bodies) - 1, -1, -1):
            self._sequence = self._sequence + 1 & 0xFFFFFFFF
            body = bodies[-1 - left]
            asked = flags | _REQUEST | (0 if left else _ACK)
            requests.append(_HEADER.pack(_HEADER.size + len(body), kind, asked, self._sequence, 0) + body)
        self._socket.send(b"".join(requests))
        refusal = 0
        while True:
            for answer, sequence, content in _messages(self._socket.recv(1 << 17)):
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code and code not in accepted:
                        refusal = refusal or code
                    if sequence == self._sequence:
                        return refusal

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        yield from self._asked(kind, _REQUEST | _DUMP, body)

    def _asked(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, flags, self._sequence, 0) + body)
        while True:
            for answer, _, content in _messages(self._socket.recv(1 << 17)):
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    raise NetlinkError(code, os.strerror(code))
                yield content
                if not flags & _DUMP:
                    return


_NO_IPV6_OR_THERE = (errno.EEXIST, errno.EAFNOSUPPORT)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence number, content) of each."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _number(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[at + 4 : at + length]
        at += length + 3 & ~3
    return found


def _interface_address(interface: int, address: IpAddress) -> bytes:
    head = struct.pack("=BBBBI", _FAMILY[address.version], address.max_prefixlen, 0, 0, interface)
    body = head + _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)
    return body + _number(_IFA_FLAGS, _NO_DAD | _NO_PREFIX_ROUTE)


def _route(table: int, route: Route) -> bytes:
    octets = _OCTETS[route.family]
    kind = _THROW if route.throw else _UNICAST if route.device else _UNREACHABLE
    body = _ROUTE.pack(_FAMILY[route.family], route.length, 0, 0, 0, _PROTOCOL, 0, kind, 0)
    body += _number(_TABLE, table) + _number(_PRIORITY, route.metric)
    if route.length:
        body += _attribute(_DST, route.prefix.to_bytes(octets))
    if route.device:
        body += _number(_OIF, route.device)
    if route.gateway:
        body += _attribute(_GATEWAY, route.gateway.to_bytes(octets))
    if route.source:
        body += _attribute(_PREFSRC, route.source.to_bytes(octets))
    return body


def _parsed_route(body: bytes, table: int | None) -> Route | None:
    family, length, _, _, _, _, _, _, _ = _ROUTE.unpack_from(body)
    attributes = _attributes(body, _ROUTE.size)

    def number(kind: int) -> int:
        return int.from_bytes(attributes.get(kind, b""), sys.byteorder)

    if family not in _VERSION or table not in (None, number(_TABLE)):
        return None
    return Route(
        _VERSION[family],
        int.from_bytes(attributes.get(_DST, b"")),
        length,
        number(_PRIORITY),
        number(_OIF) if _ROUTE.unpack_from(body)[7] == _UNICAST else 0,
        int.from_bytes(attributes.get(_PREFSRC, b"")),
        int.from_bytes(attributes.get(_GATEWAY, b"")),
        _ROUTE.unpack_from(body)[7] == _THROW,
    )


def _rule(family: int, priority: int, mark: int, mask: int, table: int) -> bytes:
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, _TO_TABLE, _FIB_RULE_INVERT)
    return (
        body
        + _number(_FRA_PRIORITY, priority)
        + _number(_FRA_FWMARK, mark)
        + _number(_FRA_FWMASK, mask)
        + _number(_FRA_TABLE, table)
    )
