"""Is there a NAT on the way? (RFC 7296, section 2.23)

Each end sends digests of the addresses and ports as it sees them; what arrives is compared with what
the datagram shows. A source that matches none of the digests: the peer is behind a NAT. A destination
that does not match: we are.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cygnet.ike.world import Path
from cygnet.policy.selectors import IpAddress
from cygnet.wire.message import Message
from cygnet.wire.numbers import Notify
from cygnet.wire.payloads import NotifyPayload

PRETENDED: Final = bytes(20)
"""The source of a Cygnet that wants encapsulation without a NAT."""


def digest(spi_i: bytes, spi_r: bytes, address: IpAddress, port: int) -> bytes:
    """SHA-1, as the RFC says: a checksum against accidents, no security rests on it."""
    octets = spi_i + spi_r + address.packed + port.to_bytes(2, "big")
    return hashlib.sha1(octets, usedforsecurity=False).digest()


def notifies(spi_i: bytes, spi_r: bytes, path: Path, *, pretend: bool) -> tuple[NotifyPayload, NotifyPayload]:
    """What we send. `pretend` (swanctl `encap`): a source that no path has, so that the peer sees a NAT."""
    source = PRETENDED if pretend else digest(spi_i, spi_r, path.local, path.local_port)
    destination = digest(spi_i, spi_r, path.remote, path.remote_port)
    return (
        NotifyPayload(0, b"", Notify.NAT_DETECTION_SOURCE_IP, source),
        NotifyPayload(0, b"", Notify.NAT_DETECTION_DESTINATION_IP, destination),
    )


def asked(message: Message) -> bool:
    """Whether the peer does NAT traversal: who does not ask has no use for our answer (section 2.23)."""
    return message.notify(Notify.NAT_DETECTION_SOURCE_IP) is not None


def detect(message: Message, path: Path) -> tuple[bool, bool, bool]:
    """(we are behind a NAT, the peer is or pretends it, it pretends as we do).

    Without the notifies there is no NAT traversal: none of them.
    """
    spi_i, spi_r = message.header.initiator_spi, message.header.responder_spi
    sources, destinations = [], []
    for payload in message.payloads:
        if isinstance(payload, NotifyPayload):
            if payload.type == Notify.NAT_DETECTION_SOURCE_IP:
                sources.append(payload.data)
            elif payload.type == Notify.NAT_DETECTION_DESTINATION_IP:
                destinations.append(payload.data)
    behind = bool(destinations) and digest(spi_i, spi_r, path.local, path.local_port) not in destinations
    peer = bool(sources) and digest(spi_i, spi_r, path.remote, path.remote_port) not in sources
    return behind, peer, PRETENDED in sources
