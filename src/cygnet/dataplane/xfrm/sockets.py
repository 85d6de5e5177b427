"""What IKE's UDP sockets are told where the kernel does IPsec.

Their own packets pass every policy (a socket's policy comes before the SPD), so that IKE gets through though
the peer's address be protected. On the port with the non-ESP marker the kernel takes ESP out of UDP before
the socket sees it (RFC 3948); what begins with the marker still comes to the socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

from cygnet.dataplane.messages import ForeignDatagram
from cygnet.dataplane.xfrm import codec
from cygnet.dataplane.xfrm.codec import IN, OUT, PolicyKey, Selector, Verdict
from cygnet.dataplane.xfrm.netlink import XfrmSocket

_IP_XFRM_POLICY, _IPV6_XFRM_POLICY = 17, 35
_UDP_ENCAP = 100
_IP_PKTINFO = 8
_BATCH = 64
_MARKER = bytes(4)


class SocketRefused(Exception):
    """What the kernel does not let a socket have, in a sentence."""


def prepare() -> None:
    """The kernel's module for all this is there from now on: a socket's option alone would not load it.
    Raises SocketRefused."""
    try:
        XfrmSocket().close()
    except OSError as error:
        raise SocketRefused(f"the kernel has no XFRM: {error.strerror}") from error


def exempt(sock: socket.socket) -> None:
    """Raises SocketRefused."""
    six = sock.family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY) if six else (socket.IPPROTO_IP, _IP_XFRM_POLICY)
    selector = codec.packed_selector(Selector(6 if six else 4))
    for direction in (IN, OUT):
        body = codec.policy_message(
            PolicyKey(direction, selector), Verdict(0, codec.ALLOW), 0, replace=False
        ).body
        try:
            sock.setsockopt(level, option, body)
        except OSError as error:
            raise SocketRefused(f"IKE's sockets cannot be exempted from IPsec: {error.strerror}") from error


def decapsulate(sock: socket.socket) -> None:
    """Raises SocketRefused."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, codec.ENCAP_ESP_IN_UDP)
    except OSError as error:
        raise SocketRefused(f"the kernel takes no ESP out of UDP: {error.strerror}") from error


def forward_foreign(sock: socket.socket, report: Callable[[ForeignDatagram], None]) -> None:
    """IKE that the kernel put on the lane of ESP, to its owner; the kernel has kept the ESP."""
    port = sock.getsockname()[1]
    for _ in range(_BATCH):
        try:
            data, ancillary, _, sender = sock.recvmsg(65535, 256)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error of an earlier datagram
        local = next(
            (
                value[8:12] if level == socket.IPPROTO_IP else value[:16]
                for level, kind, value in ancillary
                if (level, kind)
                in ((socket.IPPROTO_IP, _IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO))
            ),
            b"",
        )
        if local and data[:4] == _MARKER:
            remote = ip_address(sender[0].partition("%")[0]).packed
            report(ForeignDatagram(local, port, remote, sender[1], data))
