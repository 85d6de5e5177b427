"""Fuzz target: packets of the control socket; what is accepted survives a round trip."""

from __future__ import annotations

from contextlib import suppress

from cygnet.testing import fuzzing
from cygnet.vici.codec import PacketType, Unencodable, decode_packet, encode_packet, texts
from cygnet.wire.cursor import Malformed


def one(data: bytes) -> None:
    with suppress(Malformed, Unencodable):
        packet = decode_packet(data)
        repr(texts(packet.message))
        again = decode_packet(encode_packet(packet.type, packet.name, packet.message)[4:])
        if again != packet:
            raise AssertionError("another message came back")


def seeds() -> list[bytes]:
    nested = {"a": {"b": {"c": "d", "list": ["x", "y", b"\xff"]}, "empty": {}}, "none": [], "number": 7}
    packets = [
        encode_packet(
            PacketType.CMD_REQUEST, "load-conn", {"branch": {"version": 2, "local": {"auth": "psk"}}}
        ),
        encode_packet(PacketType.CMD_REQUEST, "version"),
        encode_packet(PacketType.CMD_RESPONSE, "", nested),
        encode_packet(PacketType.EVENT, "list-sa", nested),
        encode_packet(PacketType.EVENT_REGISTER, "log"),
    ]
    return [packet[4:] for packet in packets]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
