"""VICI's octets: what strongSwan's own library writes and reads, and nothing beyond the bounds."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vici.protocol import Message as TheirMessage
from vici.protocol import Packet as TheirPacket

from cygnet.vici import codec
from cygnet.vici.codec import (
    MAX_DEPTH,
    MAX_PACKET,
    PacketType,
    Unencodable,
    decode_message,
    decode_packet,
    encode_packet,
    texts,
)
from cygnet.wire.cursor import Cursor, Malformed

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
MESSAGES = st.recursive(
    st.dictionaries(NAMES, st.binary(max_size=20) | st.lists(st.binary(max_size=8), max_size=3), max_size=4),
    lambda inner: st.dictionaries(NAMES, inner | st.binary(max_size=8), max_size=3),
    max_leaves=6,
)

# The example of strongSwan's README.md (key1 = value1, section1 { sub-section { ... } list1 = [ ... ] }).
README = {"key1": b"value1", "section1": {"sub-section": {"key2": b"value2"}, "list1": [b"item1", b"item2"]}}


@settings(max_examples=200)
@given(MESSAGES)
def test_strongswans_library_reads_what_we_write_and_we_what_it_writes(message: dict[str, Any]) -> None:
    packet = encode_packet(PacketType.CMD_RESPONSE, message=message)
    assert TheirMessage.deserialize(_stream(packet[5:])) == message
    theirs = TheirMessage.serialize(message)
    assert decode_message(Cursor(theirs)) == message
    assert theirs == packet[5:]


def _stream(data: bytes) -> Any:
    from vici.protocol import FiniteStream

    return FiniteStream(data)


def test_the_readmes_example_has_its_octets() -> None:
    assert (
        encode_packet(PacketType.CMD_RESPONSE, message=README)[5:].hex()
        == (
            "03046b65793100067661"  # key1 = va
            "6c756531"
            "010873656374696f6e31"
            "010b7375622d73656374696f6e"
            "03046b657932000676616c756532"
            "02"
            "04056c69737431050005" + b"item1".hex() + "050005" + b"item2".hex() + "06"
            "02"
        )
    )
    assert decode_packet(encode_packet(PacketType.CMD_REQUEST, "x", README)[4:]).message == README


@pytest.mark.parametrize("packet_type", PacketType)
def test_a_packet_has_a_name_where_its_type_has_one(packet_type: PacketType) -> None:
    named = packet_type in codec.NAMED
    packet = decode_packet(encode_packet(packet_type, "name" if named else "", {"a": b"b"})[4:])
    assert (packet.type, packet.name, packet.message) == (packet_type, "name" if named else "", {"a": b"b"})


def test_requests_are_octet_for_octet_those_of_the_library() -> None:
    assert encode_packet(PacketType.CMD_REQUEST, "list-sas")[4:] == TheirPacket.request("list-sas")
    assert encode_packet(PacketType.EVENT_REGISTER, "log")[4:] == TheirPacket.register_event("log")
    assert encode_packet(PacketType.EVENT_UNREGISTER, "log")[4:] == TheirPacket.unregister_event("log")


def test_text_numbers_and_yes_become_octets() -> None:
    message = {
        "text": "ü",
        "number": 7,
        "yes": True,
        "no": False,
        "list": ("a", 1),
        "octets": bytearray(b"x"),
    }
    assert decode_packet(encode_packet(PacketType.CMD_RESPONSE, message=message)[4:]).message == {
        "text": "ü".encode(), "number": b"7", "yes": b"yes", "no": b"no", "list": [b"a", b"1"], "octets": b"x"
    }  # fmt: skip


def test_texts_shows_what_is_no_text_with_escapes() -> None:
    assert texts({"a": b"\xff\x00", "b": {"c": [b"d"]}}) == {"a": "\\xff\x00", "b": {"c": ["d"]}}


@pytest.mark.parametrize(
    "message",
    [
        {"n" * 256: b""},
        {"a": bytes(65536)},
        {"a": [bytes(65535)] * 9},
        {"s" * 300: {}},
    ],
)
def test_what_does_not_fit_is_not_encoded(message: dict[str, Any]) -> None:
    with pytest.raises(Unencodable):
        encode_packet(PacketType.CMD_RESPONSE, message=message)


def test_depth_is_bounded_both_ways() -> None:
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 2):
        deep = {"s": deep}
    with pytest.raises(Unencodable):
        encode_packet(PacketType.CMD_RESPONSE, message=deep)
    with pytest.raises(Malformed):
        decode_message(Cursor(b"\x01\x01s" * (MAX_DEPTH + 2) + b"\x02" * (MAX_DEPTH + 2)))
    with pytest.raises(Malformed):
        decode_message(Cursor(b"\x01\x01s" * 100_000))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        b"\x00",
        b"\x00\x05ab",
        b"\x01\x07",
        b"\x01\x00",
        b"\x01\x02",
        b"\x01\x03\x01a\x00\x05bc",
        b"\x01\x03\x02a",
        b"\x01\x01\x01s",
        b"\x01\x01\x01s\x02\x02",
        b"\x01\x04\x01l",
        b"\x01\x04\x01l\x05\x00\x01x",
        b"\x01\x04\x01l\x03\x01a\x00\x00\x06",
        b"\x01\x05\x00\x01x",
        b"\x01\x06",
        b"\x01\x03\x01\xff\x00\x00",
        b"\x00\x01\xff",
    ],
)
def test_what_is_no_packet_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_packet(data)


def test_the_number_of_elements_is_bounded() -> None:
    with pytest.raises(Malformed, match="more than"):
        decode_message(Cursor(b"\x03\x00\x00\x00" * 70_000))
    with pytest.raises(Malformed, match="more than"):
        decode_message(Cursor(b"\x04\x00" + b"\x05\x00\x00" * 70_000 + b"\x06"))


def test_every_truncation_and_twenty_thousand_mutations_are_malformed_or_a_message() -> None:
    """V62 of the catalogue of failures: lengths of lists, sections and names unchecked."""
    chance = random.Random(62)
    seed = encode_packet(PacketType.CMD_REQUEST, "load-conn", README)[4:]
    samples = [seed[:length] for length in range(len(seed))]
    for _ in range(20_000):
        data = bytearray(seed)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            kind = chance.random()
            if kind < 0.6:
                data[at] = chance.choice((chance.randrange(256), 0, 1, 2, 3, 4, 5, 6, 255))
            elif kind < 0.8:
                del data[at : at + chance.randint(1, 5)]
            else:
                data[at:at] = seed[at : at + chance.randint(1, 9)]
            if not data:
                break
        samples.append(bytes(data))
    kept = 0
    for sample in samples:
        try:
            packet = decode_packet(sample)
        except Malformed:
            continue
        kept += 1
        assert len(sample) <= MAX_PACKET
        again = encode_packet(packet.type, packet.name, packet.message)
        assert decode_packet(again[4:]) == packet
    assert kept
