"""ICMP "fragmentation needed", as a router on the path says it, or somebody who pretends to be one."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from cygnet.lab.namespaces import Namespace


def too_big(space: Namespace, local: str, remote: str, mtu: int, quoted: bytes, protocol: int = 17) -> None:
    """From `space` to `local`, about a packet from there to `remote`; `quoted`: what follows its header."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 1466, 1, 0x4000, 64, protocol, 0)
    head += ip_address(local).packed + ip_address(remote).packed
    message = bytearray(struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + head + quoted)
    words = struct.unpack(f">{len(message) // 2}H", message)
    message[2:4] = (0xFFFF - sum(words) % 0xFFFF).to_bytes(2, "big")
    with space.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as forger:
        forger.sendto(message, (local, 0))


def udp_esp(spi: int, port: int = 4500) -> bytes:
    """The begin of encapsulated ESP."""
    return struct.pack(">HHHHII", port, port, 1446, 0, spi, 1)
