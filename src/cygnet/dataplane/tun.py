"""The TUN device: packets with a vnet header, TCP and UDP bursts at once (linux/virtio_net.h, if_tun.h).

Every read and write carries a 10-octet header {flags, gso_type, hdr_len, gso_size, csum_start,
csum_offset} in host order. With TSO and USO on, a read gives up to 64 KB of one flow and its
checksums undone; a write may give as much. What the kernel can do is probed, never assumed, and
may be switched off while running (`Offloads`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from cygnet.ipsec.checksum import complement, fix_ipv4_header, residue, store, swap

VNET = 10
"""Octets of the header before each packet."""
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80
VNET_HEADER = struct.Struct("=BBHHHH")
NO_OFFLOAD = bytes(VNET)
MAX_PACKET = 65535

_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETOWNER, _TUNGETIFF = 0x400454CA, 0x400454D0, 0x400454CC, 0x800454D2
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_F_CSUM, _F_TSO4, _F_TSO6, _F_USO4, _F_USO6 = 1, 2, 4, 0x20, 0x40
_SIOCSIFMTU, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFTXQLEN = 0x8922, 0x8913, 0x8914, 0x8943
_IFF_UP = 1
_RTM_NEWLINK, _REQUEST_ACK, _IFLA_GSO_MAX_SIZE, _IFLA_GSO_IPV4_MAX_SIZE = 16, 5, 41, 63
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")
_QUEUE_LENGTH = 1000
"""Reads that the kernel keeps for us; each may be a burst of 64 KB. More only adds delay."""


class TunUnavailable(Exception):
    """Why there is no TUN device, in a sentence."""


@dataclass(slots=True)
class Offloads:
    """What works here; anything may turn false at run time, never true again."""

    tun_tso: bool = False
    tun_uso: bool = False
    udp_gso: bool = False
    udp_gro: bool = False


def open_tun(name: str) -> int:
    """A descriptor of a new (or own) TUN device with vnet header; raises TunUnavailable."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TunUnavailable(
            f"/dev/net/tun cannot be opened ({error.strerror}): a tunnel needs it"
        ) from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ_FLAGS.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
        # A device without an owner lets whoever may open /dev/net/tun attach to it.
        fcntl.ioctl(fd, _TUNSETOWNER, os.getuid())
        # The mask outlives the descriptor on a persistent device: start from nothing.
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
    except OSError as error:
        os.close(fd)
        raise TunUnavailable(f"TUN device {name} cannot be made: {error.strerror}") from error
    return fd


class Device:
    """The device behind a descriptor of `open_tun`, and what the data plane asks of it."""

    def __init__(self, fd: int) -> None:
        """Raises OSError if the descriptor is no TUN device."""
        self.fd = fd
        self.name = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))[:16].rstrip(b"\0").decode()

    def start(self, mtu: int, offloads: Offloads, *, bursts: bool) -> None:
        """Up and running, with what offloads this kernel has (written to `offloads`)."""
        offloads.tun_tso = offloads.tun_uso = False
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, 0)
        if bursts:
            self._enable(offloads)
        self.set_mtu(mtu)
        # Without the IPv6 link-local address whose solicitations nobody here wants.
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{self.name}/addr_gen_mode").write_text("1")
        name = self.name.encode()
        with contextlib.suppress(PermissionError):  # this one is the real root's, not a user namespace's
            _interface_ioctl(_SIOCSIFTXQLEN, _IFREQ_INT.pack(name, _QUEUE_LENGTH))
        flags = _IFREQ_FLAGS.unpack(_interface_ioctl(_SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name, 0)))[1]
        _interface_ioctl(_SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name, flags | _IFF_UP))
        self._probe(offloads)

    def _enable(self, offloads: Offloads) -> None:
        """Checksum and segmentation offloads, USO where the kernel has it (6.2)."""
        base = _F_CSUM | _F_TSO4 | _F_TSO6
        for mask, uso in ((base | _F_USO4 | _F_USO6, True), (base, False)):
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.fd, _TUNSETOFFLOAD, mask)
                offloads.tun_tso, offloads.tun_uso = True, uso
                return

    def _probe(self, offloads: Offloads) -> None:
        """Write one burst of each kind that cannot travel (TTL 0), once the device is up: some kernels
        refuse them (EINVAL, a regression of 6.6.44), and then every packet is written by itself."""
        for protocol, gso, attribute in ((6, GSO_TCPV4, "tun_tso"), (17, GSO_UDP_L4, "tun_uso")):
            if getattr(offloads, attribute):
                try:
                    os.write(self.fd, _burst(protocol, gso))
                except OSError:
                    setattr(offloads, attribute, False)

    def set_mtu(self, mtu: int) -> None:
        """Nothing happens if the device was renamed or taken away: packets still find their size by ICMP."""
        with contextlib.suppress(OSError):
            _interface_ioctl(_SIOCSIFMTU, _IFREQ_INT.pack(self.name.encode(), mtu))

    def set_burst_size(self, octets: int) -> None:
        """The largest burst a read gives (IFLA_GSO_MAX_SIZE): small enough to leave in one sealed send."""
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink,
        ):
            index = socket.if_nametoindex(self.name)
            payload = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
            payload += struct.pack("=HHI", 8, _IFLA_GSO_MAX_SIZE, octets)
            payload += struct.pack("=HHI", 8, _IFLA_GSO_IPV4_MAX_SIZE, octets)
            netlink.send(struct.pack("=IHHII", 16 + len(payload), _RTM_NEWLINK, _REQUEST_ACK, 1, 0) + payload)
            netlink.recv(4096)


def _burst(protocol: int, gso: int) -> bytes:
    transport = 20 if protocol == 6 else 8
    packet = bytearray(20 + transport + 64)
    struct.pack_into(">BBHHHBB", packet, 0, 0x45, 0, len(packet), 0, 0x4000, 0, protocol)
    packet[12:20] = b"\x7f\0\0\x01\x7f\0\0\x01"
    fix_ipv4_header(packet, 0)
    if protocol == 6:
        packet[32], packet[33] = 0x50, 0x10
    else:
        struct.pack_into(">H", packet, 24, len(packet) - 20)
    offset = 16 if protocol == 6 else 6
    pseudo = residue(memoryview(packet)[12:20]) + swap(protocol + len(packet) - 20)
    store(packet, 20 + offset, 0xFFFF - complement(pseudo))
    return VNET_HEADER.pack(NEEDS_CSUM, gso, 20 + transport, 32, 20, offset) + packet


def _interface_ioctl(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return fcntl.ioctl(any_socket, request, argument)
