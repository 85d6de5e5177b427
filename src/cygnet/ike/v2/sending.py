"""What leaves: headers, sealing, datagrams; and what is told of each message and of each drop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cygnet.ike.errors import LocalMisuse, Reason
from cygnet.ike.state import Window
from cygnet.ike.v2 import protection
from cygnet.wire.message import Header, encode
from cygnet.wire.numbers import Exchange, Flags
from cygnet.wire.payloads import Payload

if TYPE_CHECKING:
    from cygnet.ike.v2.sa import IkeV2Sa


def header_of(sa: IkeV2Sa, exchange: int, message_id: int, *, response: bool) -> Header:
    """The header of a message of ours."""
    state = sa.state
    flags = (Flags.INITIATOR if state.original_initiator else 0) | (Flags.RESPONSE if response else 0)
    return Header(state.spi_i, state.spi_r, 0, 2, 0, exchange, flags, message_id)


def seal(
    sa: IkeV2Sa, header: Header, payloads: Sequence[Payload], window: Window
) -> tuple[tuple[bytes, ...], Window]:
    """The datagrams of a message, and the window with the IVs that they took."""
    state = sa.state
    if header.exchange == Exchange.IKE_SA_INIT:
        return (encode(header, payloads),), window
    if state.suite is None or state.keys is None:
        raise LocalMisuse(Reason.INTERNAL, "nothing can be sealed before there are keys")
    limit = None
    if state.fragmentation:
        path = state.path
        limit = protection.Limit(
            sa.options.fragment_size, path.local.version, path.local_port == sa.options.port_nat_t
        )
    datagrams = protection.seal(
        header, payloads, state.suite, state.keys, state.original_initiator, window.iv, sa.entropy, limit
    )
    iv = window.iv + len(datagrams)
    return datagrams, Window(window.next_out, window.next_in, iv, window.answered, window.answer)
