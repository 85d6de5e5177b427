"""Fuzz target: whatever was decoded can be shown to people; logging is attack surface too (CVE-2015-3204)."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

from cygnet.ike.events import MessageSeen
from cygnet.ike.world import Path
from cygnet.testing import corpus, fuzzing
from cygnet.testing.mutate import with_fitting_length
from cygnet.vici.codec import PacketType, Unencodable, encode_packet
from cygnet.vici.messages import ike_message
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Message, decode, decode_payloads

PATH = Path(ip_address("192.0.2.1"), 500, ip_address("2001:db8::2"), 500)


def one(data: bytes) -> None:
    """First octet odd: a datagram; even: first payload, exchange, and the chain inside SK."""
    if len(data) < 3:
        return
    selector, octets = data[0], data[1:]
    with suppress(Malformed):
        if selector & 1:
            message = decode(with_fitting_length(octets))
        else:
            payloads = decode_payloads(octets[0], octets[2:])
            message = Message(corpus.header(octets[1], 0x20 if selector & 2 else 0), payloads)
        event = MessageSeen(bool(selector & 4), PATH, message, 1, "name", bool(selector & 8))
        shape = ike_message(event, 1.8e9)
        with suppress(Unencodable):
            packet = encode_packet(PacketType.EVENT, "ike-message", shape)
            if b"\x1b" in packet or b"\n" in packet:
                _check_lengths_only(packet)


def _check_lengths_only(packet: bytes) -> None:
    """Control characters may stand in lengths, never in a value that a terminal would obey."""
    from cygnet.vici.codec import decode_packet, texts

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)
        elif isinstance(value, str) and not value.isprintable():
            raise AssertionError(f"control characters are shown: {value!r}")

    walk(texts(decode_packet(packet[4:]).message))


def seeds() -> list[bytes]:
    return [b"\1" + datagram for datagram in corpus.clear_messages().values()] + [
        bytes((2 if flags & 0x20 else 0, first, exchange)) + octets
        for exchange, flags, first, octets in corpus.plaintexts().values()
    ]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
