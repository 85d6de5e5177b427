"""Payloads one by one: their bounds, their lists, and what killed others' parsers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cygnet.testing import corpus
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import decode, decode_payloads, encode, encode_payloads
from cygnet.wire.numbers import CertEncoding, CfgAttribute, Notify, PayloadType, Protocol, TransformType
from cygnet.wire.payloads import (
    MAX_ATTRIBUTES,
    MAX_CONFIG_ATTRIBUTES,
    MAX_DELETED_SPIS,
    MAX_PROPOSALS,
    MAX_TRANSFORMS,
    Attribute,
    AuthPayload,
    CertReqPayload,
    ConfigAttribute,
    ConfigPayload,
    DeletePayload,
    EapPayload,
    EncryptedFragmentPayload,
    IdiPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    UnknownSelector,
    WireSelector,
)


def body(kind: int, octets: bytes) -> Payload:
    return decode_payloads(kind, struct.pack("!BBH", 0, 0, 4 + len(octets)) + octets)[0]


def round_trip(payload: Payload) -> Payload:
    return decode_payloads(*encode_payloads([payload]))[0]


# -- SA ---------------------------------------------------------------------------------------

ENCR = Transform(TransformType.ENCR, 12, (Attribute(14, 256),))


def sa_octets(transforms: bytes, count: int, *, spi: bytes = b"", length: int | None = None) -> bytes:
    size = 8 + len(spi) + len(transforms) if length is None else length
    return struct.pack("!BBHBBBB", 0, 0, size, 1, 1, len(spi), count) + spi + transforms


def test_the_key_length_is_read_from_its_attribute_only() -> None:
    assert ENCR.key_bits == 256
    assert Transform(1, 28).key_bits == 0
    assert Transform(1, 12, (Attribute(14, b"\x01\x00"),)).key_bits == 0
    assert Transform(1, 12, (Attribute(15, 256),)).key_bits == 0


def test_unknown_transforms_and_attributes_of_both_forms_are_kept() -> None:
    odd = Transform(
        99, 65535, (Attribute(0x7FFF, 1), Attribute(5, b""), Attribute(6, b"long form")), (0xAA, 0xBB)
    )
    payload = SaPayload((Proposal(7, 200, b"12345", (odd, ENCR), 0xCC), Proposal(9, 1, b"", ())))
    assert round_trip(payload) == payload


@pytest.mark.parametrize("length", range(8))
def test_a_transform_shorter_than_its_header_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        body(PayloadType.SA, sa_octets(struct.pack("!BBHBBH", 0, 0, length, 1, 0, 12), 1))


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_a_transform_with_a_stump_of_an_attribute_is_refused(extra: int) -> None:
    """free5gc 940: an attribute has at least 4 octets."""
    transform = struct.pack("!BBHBBH", 0, 0, 8 + extra, 1, 0, 12) + bytes(extra)
    with pytest.raises(Malformed):
        body(PayloadType.SA, sa_octets(transform, 1))


@pytest.mark.parametrize("count", [0, 2, 255])
def test_a_count_of_transforms_that_lies_is_refused(count: int) -> None:
    transform = struct.pack("!BBHBBH", 0, 0, 8, 1, 0, 12)
    with pytest.raises(Malformed):
        body(PayloadType.SA, sa_octets(transform, count))


@pytest.mark.parametrize("length", [0, 7, 8, 15, 17, 65535])
def test_a_proposal_length_that_lies_is_refused(length: int) -> None:
    transform = struct.pack("!BBHBBH", 0, 0, 8, 1, 0, 12)
    with pytest.raises(Malformed):
        body(PayloadType.SA, sa_octets(transform, 1, length=length))


@pytest.mark.parametrize("last", [1, 2, 3, 255])
def test_a_last_proposal_that_promises_more_is_refused(last: int) -> None:
    octets = bytearray(sa_octets(struct.pack("!BBHBBH", 0, 0, 8, 1, 0, 12), 1))
    octets[0] = last
    with pytest.raises(Malformed):
        body(PayloadType.SA, bytes(octets))


@pytest.mark.parametrize("last", [1, 2, 3, 255])
def test_a_last_transform_that_promises_more_is_refused(last: int) -> None:
    with pytest.raises(Malformed):
        body(PayloadType.SA, sa_octets(struct.pack("!BBHBBH", last, 0, 8, 1, 0, 12), 1))


def test_an_spi_longer_than_its_proposal_is_refused() -> None:
    octets = bytearray(sa_octets(b"", 0, spi=b"1234"))
    octets[6] = 255
    with pytest.raises(Malformed):
        body(PayloadType.SA, bytes(octets))


def test_proposals_transforms_and_attributes_are_bounded() -> None:
    def offer(proposals: int, transforms: int, attributes: int = 0) -> SaPayload:
        one = Transform(1, 12, (Attribute(1, 1),) * attributes)
        return SaPayload((Proposal(1, 1, b"", (one,) * transforms),) * proposals)

    for fits in (
        offer(MAX_PROPOSALS, 1),
        offer(4, 255),
        offer(1, 1, MAX_ATTRIBUTES),
        offer(MAX_PROPOSALS, MAX_TRANSFORMS // MAX_PROPOSALS),
    ):
        assert round_trip(fits) == fits
    for too_many in (
        offer(MAX_PROPOSALS + 1, 1),
        offer(MAX_TRANSFORMS // 255 + 1, 255),
        offer(1, 1, MAX_ATTRIBUTES + 1),
    ):
        with pytest.raises(Malformed, match="more than"):
            round_trip(too_many)


transforms = st.builds(
    Transform,
    st.integers(0, 255),
    st.integers(0, 65535),
    st.lists(
        st.builds(Attribute, st.integers(0, 0x7FFF), st.integers(0, 65535) | st.binary(max_size=9)),
        max_size=3,
    ).map(tuple),
    st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
proposals = st.builds(
    Proposal,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=20),
    st.lists(transforms, max_size=5).map(tuple),
    st.integers(0, 255),
)


@given(st.lists(proposals, min_size=1, max_size=5).map(tuple))
def test_any_sa_payload_survives_a_round_trip(offered: tuple[Proposal, ...]) -> None:
    assert round_trip(SaPayload(offered)) == SaPayload(offered)


# -- KE, nonce, ID, AUTH, EAP -----------------------------------------------------------------


def test_a_key_keeps_its_leading_zeros() -> None:
    """python-vpn read it as a number and lost them."""
    payload = KePayload(31, bytes(3) + b"\1" * 29)
    assert round_trip(payload) == payload


@pytest.mark.parametrize("length", range(4))
def test_a_ke_payload_without_room_for_its_group_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        body(PayloadType.KE, bytes(length))


@pytest.mark.parametrize("length", [0, 1, 15, 257, 1000])
def test_nonces_of_forbidden_lengths_are_refused(length: int) -> None:
    with pytest.raises(Malformed, match="nonce"):
        body(PayloadType.NONCE, bytes(length))


@pytest.mark.parametrize("length", [16, 32, 256])
def test_nonces_of_allowed_lengths_pass(length: int) -> None:
    assert body(PayloadType.NONCE, bytes(length)) == NoncePayload(bytes(length))


@pytest.mark.parametrize("kind", [PayloadType.IDI, PayloadType.IDR, PayloadType.AUTH])
@pytest.mark.parametrize("length", range(4))
def test_ids_and_proofs_shorter_than_their_header_are_refused(kind: int, length: int) -> None:
    with pytest.raises(Malformed):
        body(kind, bytes(length))


def test_an_identity_may_be_empty_or_as_long_as_a_payload() -> None:
    """CVE-2025-9242: an identity without a length check."""
    for size in (0, 1, 65_527):
        payload = IdiPayload(2, b"x" * size)
        assert round_trip(payload) == payload


def test_the_octets_that_auth_covers_hold_the_reserved_ones() -> None:
    payload = body(PayloadType.IDI, b"\x02\xaa\xbb\xcchost")
    assert isinstance(payload, IdiPayload)
    assert payload.emit() == b"\x02\xaa\xbb\xcchost"
    assert round_trip(AuthPayload(14, b"sig", b"\1\2\3")) == AuthPayload(14, b"sig", b"\1\2\3")


@pytest.mark.parametrize("length", range(4))
def test_an_eap_message_without_its_header_is_refused(length: int) -> None:
    """free5gc 938."""
    with pytest.raises(Malformed):
        body(PayloadType.EAP, bytes(length))
    assert body(PayloadType.EAP, bytes(4)) == EapPayload(bytes(4))


@pytest.mark.parametrize("length", range(42))
def test_certificate_requests_of_any_length_are_kept(length: int) -> None:
    payload = CertReqPayload(CertEncoding.X509_SIGNATURE, bytes(length))
    assert round_trip(payload) == payload


@pytest.mark.parametrize("kind", [PayloadType.CERT, PayloadType.CERTREQ])
def test_a_certificate_payload_without_an_encoding_is_refused(kind: int) -> None:
    with pytest.raises(Malformed):
        body(kind, b"")


# -- N, D -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4, 8, 255])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 255])
def test_notifies_and_deletes_of_any_protocol_and_spi_size_survive(protocol: int, size: int) -> None:
    """CVE-2023-38710: the peer's protocol id came back in an assertion."""
    notify = NotifyPayload(protocol, bytes(size), Notify.REKEY_SA, b"data")
    assert round_trip(notify) == notify
    if size:
        delete = DeletePayload(protocol, (bytes(size), b"\1" * size))
        assert round_trip(delete) == delete
    empty = DeletePayload(protocol, (), size)
    assert round_trip(empty) == empty


@pytest.mark.parametrize("kind", [*Notify.numbers(), 0, 40960, 65535])
def test_notify_data_of_any_length_is_kept_for_every_type(kind: int) -> None:
    for length in range(65):
        payload = NotifyPayload(0, b"", kind, corpus.octets(length))
        assert round_trip(payload) == payload


@pytest.mark.parametrize("octets", [b"\x03\x05\x40\x09abcd", b"\x03\xff\x40\x09", b"\0\0\0", b""])
def test_a_notify_whose_spi_does_not_fit_is_refused(octets: bytes) -> None:
    with pytest.raises(Malformed):
        body(PayloadType.NOTIFY, octets)


@pytest.mark.parametrize("count", [0, 1, 3, 65535])
def test_a_delete_whose_count_lies_is_refused(count: int) -> None:
    with pytest.raises(Malformed):
        body(PayloadType.DELETE, struct.pack("!BBH", Protocol.ESP, 4, count) + b"12345678")


@pytest.mark.parametrize("count", [1, 65535])
def test_a_delete_of_spis_without_octets_is_refused(count: int) -> None:
    with pytest.raises(Malformed):
        body(PayloadType.DELETE, struct.pack("!BBH", Protocol.ESP, 0, count))


def test_deleted_spis_are_bounded() -> None:
    fits = DeletePayload(Protocol.ESP, (b"spi!",) * MAX_DELETED_SPIS)
    assert round_trip(fits) == fits
    with pytest.raises(Malformed, match="more than"):
        round_trip(DeletePayload(Protocol.ESP, (b"spi!",) * (MAX_DELETED_SPIS + 1)))


def test_spis_of_different_sizes_cannot_be_deleted_together() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        encode_payloads([DeletePayload(Protocol.ESP, (b"1234", b"12345678"))])


# -- TS ---------------------------------------------------------------------------------------

NET = WireSelector(7, 0, 0, 65535, bytes((10, 0, 0, 0)), bytes((10, 0, 0, 255)))


@pytest.mark.parametrize("count", [0, 2, 255])
def test_a_count_of_selectors_that_lies_is_refused(count: int) -> None:
    """CVE-2023-23009."""
    octets = bytearray(encode_payloads([TsiPayload((NET,))])[1])
    octets[4] = count
    with pytest.raises(Malformed):
        decode_payloads(PayloadType.TSI, bytes(octets))


@pytest.mark.parametrize("length", [0, 3, 4, 8, 15, 17, 40, 65535])
def test_a_selector_whose_length_does_not_fit_its_type_is_refused(length: int) -> None:
    octets = bytearray(encode_payloads([TsiPayload((NET, NET))])[1])
    octets[10:12] = struct.pack("!H", length)
    with pytest.raises(Malformed):
        decode_payloads(PayloadType.TSI, bytes(octets))


def test_an_ipv6_selector_in_an_ipv4_type_is_refused() -> None:
    octets = bytearray(encode_payloads([TsiPayload((NET,))])[1])
    octets[8] = 8
    with pytest.raises(Malformed):
        decode_payloads(PayloadType.TSI, bytes(octets))


@pytest.mark.parametrize(
    "selector",
    [
        WireSelector(7, 0, 0, 65535, bytes((10, 0, 0, 2)), bytes((10, 0, 0, 1))),
        WireSelector(8, 0, 0, 65535, b"\x20" + bytes(15), bytes(16)),
        WireSelector(7, 6, 81, 80, bytes(4), bytes(4)),
        WireSelector(7, 6, 65535, 1, bytes(4), bytes(4)),
    ],
)
def test_ranges_that_run_backwards_are_refused(selector: WireSelector) -> None:
    with pytest.raises(Malformed, match="below its first"):
        round_trip(TsiPayload((selector,)))


def test_opaque_ports_unknown_types_and_255_selectors_pass() -> None:
    opaque = WireSelector(7, 6, 65535, 0, bytes(4), bytes((255,) * 4))
    unknown = UnknownSelector(10, 3, b"security label")
    payload = TsiPayload((opaque, unknown, NET), b"\1\2\3")
    again = round_trip(payload)
    assert again == payload
    assert isinstance(again, TsiPayload)
    assert again.ranges == (opaque, NET)
    assert round_trip(TsiPayload((NET,) * 255)) == TsiPayload((NET,) * 255)


def test_a_selector_whose_addresses_do_not_fit_its_type_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="octets in a selector"):
        encode_payloads([TsiPayload((WireSelector(8, 0, 0, 65535, bytes(4), bytes(4)),))])


# -- CP, SKF ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16])
def test_an_internal_ipv4_address_of_another_size_is_refused(length: int) -> None:
    """free5gc 984."""
    with pytest.raises(Malformed, match="INTERNAL_IP4_ADDRESS"):
        round_trip(ConfigPayload(1, (ConfigAttribute(CfgAttribute.INTERNAL_IP4_ADDRESS, bytes(length)),)))


def test_configuration_attributes_are_kept_and_bounded() -> None:
    odd = ConfigPayload(9, (ConfigAttribute(0x7ABC, b"x", True), ConfigAttribute(7, b"")), b"\1\2\3")
    assert round_trip(odd) == odd
    full = ConfigPayload(1, (ConfigAttribute(7, b"x"),) * MAX_CONFIG_ATTRIBUTES)
    assert round_trip(full) == full
    with pytest.raises(Malformed, match="more than"):
        round_trip(ConfigPayload(1, (ConfigAttribute(7, b"x"),) * (MAX_CONFIG_ATTRIBUTES + 1)))


@pytest.mark.parametrize(("number", "total"), [(0, 0), (0, 1), (1, 0), (2, 1), (65535, 65534)])
def test_impossible_fragment_numbers_are_refused(number: int, total: int) -> None:
    """CVE-2013-6076, CVE-2016-1287."""
    datagram = corpus.SPI_I + corpus.SPI_R + struct.pack("!BBBBII", 53, 0x20, 35, 8, 1, 40)
    with pytest.raises(Malformed, match="fragment"):
        decode(datagram + struct.pack("!BBHHH", 35, 0, 12, number, total) + bytes(4))


@pytest.mark.parametrize("length", range(4))
def test_a_fragment_without_room_for_its_numbers_is_refused(length: int) -> None:
    datagram = corpus.SPI_I + corpus.SPI_R + struct.pack("!BBBBII", 53, 0x20, 35, 8, 1, 32 + length)
    with pytest.raises(Malformed):
        decode(datagram + struct.pack("!BBH", 35, 0, 4 + length) + bytes(length))


def test_the_largest_fragment_numbers_pass_the_wire() -> None:
    payload = EncryptedFragmentPayload(0, 65535, 65535, b"body", 28)
    assert decode(encode(corpus.header(35, 8), [payload])).payloads == (payload,)
