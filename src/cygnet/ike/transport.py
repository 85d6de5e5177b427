"""Datagrams leave, and what is told of each message and of each drop: the same in both versions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cygnet.ike.effects import SendDatagram
from cygnet.ike.errors import Drop
from cygnet.ike.events import Dropped, MessageSeen
from cygnet.ike.world import Path
from cygnet.wire.message import Message
from cygnet.wire.v1.message import Message as MessageV1

if TYPE_CHECKING:
    from cygnet.ike.sa import IkeSa

NON_ESP_MARKER: Final = bytes(4)
"""Before every IKE message on port 4500 (RFC 3948, section 2.2)."""


def digest(datagram: bytes) -> bytes:
    """How a repeat of a request is recognised."""
    return hashlib.blake2s(datagram, digest_size=16).digest()


def transmit(sa: IkeSa, datagrams: Sequence[bytes], path: Path) -> None:
    """Send the datagrams of one message."""
    gateway = sa.gateway
    marker = NON_ESP_MARKER if path.local_port == gateway.options.port_nat_t else b""
    for datagram in datagrams:
        gateway.emit(SendDatagram(path, marker + datagram))
    sa.sent = sa.now.monotonic


def drop(sa: IkeSa, reason: Drop, detail: str, path: Path) -> None:
    """A datagram is dropped in silence."""
    sa.gateway.event(Dropped(reason, detail, path, sa.unique_id))


def seen(
    sa: IkeSa, sent: bool, path: Path, message: Message | MessageV1 | None, *, repeat: bool = False
) -> None:
    """A message left or came; built and told only if someone listens."""
    if sa.gateway.observe and message is not None:
        sa.gateway.event(MessageSeen(sent, path, message, sa.unique_id, sa.connection.name, repeat))
