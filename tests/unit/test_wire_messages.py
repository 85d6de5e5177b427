"""Messages: lossless, bounded, and refused at every length but the right one."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cygnet.testing import corpus
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import (
    MAX_PAYLOADS,
    Header,
    Message,
    decode,
    decode_header,
    decode_payloads,
    encode,
    encode_payloads,
)
from cygnet.wire.numbers import Exchange, Flags, Notify, PayloadType
from cygnet.wire.payloads import (
    EncryptedFragmentPayload,
    EncryptedPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    UnknownPayload,
    VendorIdPayload,
)

CLEAR = corpus.clear_messages()
INNER = corpus.plaintexts()


@pytest.mark.parametrize("name", CLEAR)
def test_decoding_and_encoding_a_message_gives_the_same_octets(name: str) -> None:
    message = decode(CLEAR[name])
    assert message.payloads == corpus.CLEAR[name][2]
    assert encode(message.header, message.payloads) == CLEAR[name]


@pytest.mark.parametrize("name", INNER)
def test_decoding_and_encoding_sealed_contents_gives_the_same_octets(name: str) -> None:
    _, _, first, octets = INNER[name]
    payloads = decode_payloads(first, octets)
    assert payloads == corpus.INNER[name][2]
    assert encode_payloads(payloads) == (first, octets)


@pytest.mark.parametrize("name", CLEAR)
def test_every_prefix_of_a_message_is_refused(name: str) -> None:
    """CVE-2013-4564: the datagram is shorter than its header says."""
    for length in range(len(CLEAR[name])):
        with pytest.raises(Malformed):
            decode(CLEAR[name][:length])


@pytest.mark.parametrize("name", CLEAR)
def test_every_prefix_whose_header_is_made_to_fit_is_refused(name: str) -> None:
    datagram = CLEAR[name]
    for length in range(28, len(datagram)):
        with pytest.raises(Malformed):
            decode(datagram[:24] + struct.pack("!I", length) + datagram[28:length])


@pytest.mark.parametrize("name", INNER)
def test_every_prefix_of_sealed_contents_is_refused(name: str) -> None:
    _, _, first, octets = INNER[name]
    for length in range(len(octets)):
        with pytest.raises(Malformed):
            decode_payloads(first, octets[:length])


@pytest.mark.parametrize("length", [0, 27, 29, 1 << 31, (1 << 32) - 1])
def test_a_header_whose_length_is_not_the_datagrams_is_refused(length: int) -> None:
    datagram = CLEAR["empty"]
    with pytest.raises(Malformed):
        decode(datagram[:24] + struct.pack("!I", length))
    with pytest.raises(Malformed):
        decode_header(datagram[:24] + struct.pack("!I", length))


def test_octets_behind_the_last_payload_are_refused() -> None:
    datagram = CLEAR["init request"] + b"\0"
    with pytest.raises(Malformed, match="left over"):
        decode(datagram[:24] + struct.pack("!I", len(datagram)) + datagram[28:])


def test_a_header_alone_that_promises_a_payload_is_refused() -> None:
    """free5gc 968: an empty list of payloads was indexed."""
    datagram = bytearray(CLEAR["empty"])
    datagram[16] = PayloadType.SA
    with pytest.raises(Malformed):
        decode(bytes(datagram))


@pytest.mark.parametrize("kind", range(256))
def test_every_first_payload_type_gives_a_message_or_malformed(kind: int) -> None:
    """CVE-2015-3204, CVE-2015-3991: payload numbers of the other version, and any other."""
    for datagram in (*CLEAR.values(), corpus.SPI_I + corpus.SPI_R + bytes(8) + struct.pack("!I", 28)):
        changed = bytearray(datagram)
        changed[16] = kind
        try:
            message = decode(bytes(changed))
        except Malformed:
            continue
        assert encode(message.header, message.payloads) == bytes(changed)
        repr(message)


@pytest.mark.parametrize("kind", [k for k in range(1, 256) if not 33 <= k <= 48 and k != 53])
@pytest.mark.parametrize("critical", [False, True])
def test_unknown_payloads_are_kept_with_their_critical_flag(kind: int, critical: bool) -> None:
    payload = UnknownPayload(kind, critical, b"whatever", 0x15)
    first, octets = encode_payloads([payload, NoncePayload(bytes(16))])
    assert decode_payloads(first, octets)[0] == payload


@pytest.mark.parametrize("payload", corpus.all_payloads(), ids=lambda p: type(p).__name__)
def test_reserved_bits_and_the_critical_flag_survive(payload: Payload) -> None:
    if isinstance(payload, UnknownPayload):
        return
    marked = replace(payload, flags=0xFF)
    message = Message(corpus.header(Exchange.INFORMATIONAL, 0), (marked,))
    datagram = encode(message.header, message.payloads)
    assert decode(datagram).payloads == (marked,)


@pytest.mark.parametrize("length", range(4))
def test_a_payload_shorter_than_its_own_header_is_refused(length: int) -> None:
    """Loops that do not advance on length zero."""
    body = struct.pack("!BBH", 0, 0, length)
    with pytest.raises(Malformed):
        decode_payloads(PayloadType.VENDOR_ID, body)


def test_as_many_payloads_as_allowed_pass_and_one_more_is_refused() -> None:
    """CVE-2026-12413: a table of fixed size, off by one."""
    for count, passes in ((MAX_PAYLOADS - 1, True), (MAX_PAYLOADS, True), (MAX_PAYLOADS + 1, False)):
        payloads = [UnknownPayload(200, False, b"")] * count
        first, octets = encode_payloads(payloads)
        outer = encode(corpus.header(Exchange.IKE_AUTH, 0), payloads)
        if passes:
            assert len(decode_payloads(first, octets)) == count
            assert len(decode(outer).payloads) == count
        else:
            with pytest.raises(Malformed, match="more than"):
                decode_payloads(first, octets)
            with pytest.raises(Malformed, match="more than"):
                decode(outer)


def test_the_chain_ends_at_an_encrypted_payload_and_nothing_may_follow() -> None:
    datagram = encode(corpus.header(Exchange.IKE_AUTH, 0), [EncryptedPayload(41, bytes(40))])
    longer = datagram + encode_payloads([VendorIdPayload(b"x")])[1]
    with pytest.raises(Malformed, match="left over"):
        decode(longer[:24] + struct.pack("!I", len(longer)) + longer[28:])


@pytest.mark.parametrize("inner", [EncryptedPayload(41, b"x"), EncryptedFragmentPayload(41, 1, 1, b"x")])
def test_an_encrypted_payload_inside_another_is_refused(inner: Payload) -> None:
    first, octets = encode_payloads([inner])
    with pytest.raises(Malformed, match="inside an encrypted payload"):
        decode_payloads(first, octets)


def test_the_offset_of_an_encrypted_payload_says_what_its_icv_covers() -> None:
    vendor = VendorIdPayload(b"before")
    datagram = encode(corpus.header(Exchange.IKE_AUTH, 0), [vendor, EncryptedPayload(41, b"sealed")])
    sealed = decode(datagram).one(EncryptedPayload)
    assert datagram[sealed.offset + 4 :] == b"sealed"
    datagram = encode(corpus.header(Exchange.IKE_AUTH, 0), [EncryptedFragmentPayload(41, 1, 2, b"sealed")])
    part = decode(datagram).one(EncryptedFragmentPayload)
    assert datagram[part.offset + 8 :] == b"sealed"


@pytest.mark.parametrize("version", range(256))
def test_only_major_version_2_is_decoded_and_every_header_is_readable(version: int) -> None:
    datagram = bytearray(CLEAR["empty"])
    datagram[17] = version
    header = decode_header(bytes(datagram))
    assert (header.major, header.minor) == divmod(version, 16)
    if header.major == 2:
        assert decode(bytes(datagram)).header.minor == version & 15
    else:
        with pytest.raises(Malformed, match="major version"):
            decode(bytes(datagram))


def test_the_length_of_a_future_versions_header_is_not_judged() -> None:
    """RFC 7296, 2.5: it must be answered with INVALID_MAJOR_VERSION, whatever it holds."""
    datagram = bytearray(CLEAR["empty"] + b"more")
    datagram[17] = 0x30
    assert decode_header(bytes(datagram)).major == 3


def test_the_header_of_ikev1_is_read_too() -> None:
    datagram = struct.pack("!8s8sBBBBII", b"initiato", bytes(8), 1, 0x10, 2, 0, 0, 28)
    assert decode_header(datagram) == Header(b"initiato", bytes(8), 1, 1, 0, 2, 0, 0, 28)


def test_a_payload_is_asked_for_by_its_type_and_its_lack_is_malformed() -> None:
    message = decode(CLEAR["init request"])
    assert message.one(NoncePayload).data == corpus.octets(32, 6)
    assert message.maybe(EncryptedPayload) is None
    assert len(message.all(NotifyPayload)) == 5
    found = message.notify(Notify.FRAGMENTATION_SUPPORTED)
    assert found is not None
    assert found.data == b""
    assert message.notify(Notify.COOKIE) is None
    assert message.error() is None
    with pytest.raises(Malformed, match="0 Encrypted payloads"):
        message.one(EncryptedPayload)
    twice = replace(message, payloads=message.payloads * 2)
    with pytest.raises(Malformed, match="2 Sa payloads"):
        twice.one(SaPayload)
    with pytest.raises(Malformed, match="2 Ke payloads"):
        twice.maybe(KePayload)


def test_an_error_among_the_notifies_is_found() -> None:
    error = decode(CLEAR["no proposal chosen"]).error()
    assert error is not None
    assert error.type == Notify.NO_PROPOSAL_CHOSEN


def test_what_does_not_fit_its_field_is_our_mistake_and_a_value_error() -> None:
    header = corpus.header(Exchange.INFORMATIONAL, Flags.INITIATOR)
    with pytest.raises(ValueError, match="8 octets"):
        encode(replace(header, initiator_spi=b"short"), [])
    with pytest.raises(ValueError):
        encode(replace(header, message_id=1 << 32), [])
    with pytest.raises(ValueError):
        encode(header, [VendorIdPayload(bytes(65536))])
    with pytest.raises(ValueError):
        encode(header, [EncryptedPayload(0, b""), NoncePayload(bytes(16))])
    with pytest.raises(ValueError):
        encode(header, [SaPayload(())])


def _change_every_octet(octets: bytes) -> list[bytes]:
    return [
        octets[:at] + bytes((value,)) + octets[at + 1 :]
        for at in range(len(octets))
        for value in (0, 1, 0x7F, 0x80, 0xFF, octets[at] + 1 & 0xFF, octets[at] - 1 & 0xFF)
    ]


@pytest.mark.parametrize("name", CLEAR)
def test_any_octet_of_a_message_may_be_anything_and_what_is_accepted_is_lossless(name: str) -> None:
    for datagram in _change_every_octet(CLEAR[name]):
        try:
            message = decode(datagram)
        except Malformed:
            continue
        assert encode(message.header, message.payloads) == datagram


@pytest.mark.parametrize("name", INNER)
def test_any_octet_of_sealed_contents_may_be_anything(name: str) -> None:
    _, _, first, octets = INNER[name]
    for changed in _change_every_octet(octets):
        try:
            payloads = decode_payloads(first, changed)
        except Malformed:
            continue
        assert encode_payloads(payloads) == (first, changed)


@given(st.integers(0, 255), st.binary(max_size=200))
def test_random_octets_are_a_chain_or_malformed(first: int, octets: bytes) -> None:
    try:
        payloads = decode_payloads(first, octets)
    except Malformed:
        return
    if first:
        assert encode_payloads(payloads) == (first, octets)
