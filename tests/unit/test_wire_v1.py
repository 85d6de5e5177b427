"""IKEv1 messages: lossless, bounded, and the octets of each payload kept as they came."""

from __future__ import annotations

import hashlib
import struct

import pytest

from cygnet.testing import corpus_v1
from cygnet.wire import message as wire
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header
from cygnet.wire.v1 import message, numbers, vendor_ids
from cygnet.wire.v1.message import MAX_PAYLOADS, decode, decode_payloads, encode, encode_payloads, opened
from cygnet.wire.v1.numbers import Exchange, PayloadType, Protocol
from cygnet.wire.v1.payloads import (
    MAX_ATTRIBUTES,
    MAX_CONFIG_ATTRIBUTES,
    MAX_DELETED_SPIS,
    MAX_PROPOSALS,
    MAX_TRANSFORMS,
    Attribute,
    AttributesPayload,
    DeletePayload,
    FragmentPayload,
    HashPayload,
    NatDPayload,
    NatOaPayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    UnknownPayload,
    VendorIdPayload,
)

CLEAR = corpus_v1.clear_messages()
INNER = corpus_v1.plaintexts()
HEADER = corpus_v1.header(Exchange.MAIN_MODE, 0)


@pytest.mark.parametrize("name", CLEAR)
def test_decoding_and_encoding_a_message_gives_the_same_octets(name: str) -> None:
    decoded = decode(CLEAR[name])
    assert decoded.payloads == corpus_v1.CLEAR[name][2]
    assert encode(decoded.header, decoded.payloads) == CLEAR[name]
    assert b"".join(decoded.octets) == CLEAR[name][28:]
    assert wire.decode_header(CLEAR[name]) == decoded.header


@pytest.mark.parametrize("name", INNER)
def test_decoding_and_encoding_a_decrypted_body_gives_the_same_octets(name: str) -> None:
    first, octets = INNER[name]
    payloads, pieces, padding = decode_payloads(first, octets)
    assert payloads == corpus_v1.INNER[name][2]
    assert encode_payloads(payloads) == (first, octets[: len(octets) - len(padding)])
    assert b"".join(pieces) + padding == octets


@pytest.mark.parametrize("name", CLEAR)
def test_every_prefix_of_a_message_is_refused(name: str) -> None:
    for length in range(len(CLEAR[name])):
        with pytest.raises(Malformed):
            decode(CLEAR[name][:length])


@pytest.mark.parametrize("name", CLEAR)
def test_every_prefix_whose_header_is_made_to_fit_is_refused(name: str) -> None:
    for length in range(28, len(CLEAR[name])):
        with pytest.raises(Malformed):
            decode(CLEAR[name][:24] + struct.pack("!I", length) + CLEAR[name][28:length])


def test_every_payload_type_is_in_the_corpus() -> None:
    held = [p for _, _, payloads in (*corpus_v1.CLEAR.values(), *corpus_v1.INNER.values()) for p in payloads]
    structural = {PayloadType.NONE, PayloadType.PROPOSAL, PayloadType.TRANSFORM}
    assert {p.payload_type for p in held} >= set(PayloadType.numbers()) - structural


def test_an_encrypted_message_stays_sealed_until_it_is_opened() -> None:
    for name, datagram in corpus_v1.sealed_messages().items():
        sealed = decode(datagram)
        assert sealed.encrypted
        assert (sealed.payloads, sealed.octets) == ((), ())
        assert sealed.sealed == datagram[28:]
        clear = opened(sealed, INNER[name][1])
        assert clear.payloads == corpus_v1.INNER[name][2]
        assert message.encode_sealed(HEADER, 5, b"x" * 16)[19] == numbers.Flags.ENCRYPTION
    with pytest.raises(Malformed, match="of no octets"):
        decode(message.encode_sealed(HEADER, 5, b""))


def test_the_hash_covers_all_that_follows_it_as_received_without_the_padding() -> None:
    """RFC 2409, section 5.5. What is read is not what was hashed: here a reserved octet is set."""
    first, octets = encode_payloads([corpus_v1.PHASE2_OFFER, NoncePayload(b"n" * 16)])
    odd = octets[:1] + b"\x77" + octets[2:]
    kind, whole = message.prefix_hash(first, odd, b"h" * 20)
    assert kind == PayloadType.HASH
    received = opened(decode(message.encode_sealed(HEADER, kind, whole)), whole + bytes(7))
    assert received.hashed() == (b"h" * 20, odd)
    assert received.padding == bytes(7)
    assert received.body_of(received.one(SaPayload)) == corpus_v1.PHASE2_OFFER.emit()
    with pytest.raises(LookupError):
        received.body_of(NoncePayload(b"n" * 16))


@pytest.mark.parametrize(
    "payloads",
    [
        [NoncePayload(b"n" * 16)],
        [NoncePayload(b"n" * 16), HashPayload(b"h" * 20)],
        [HashPayload(b"h" * 20), HashPayload(b"h" * 20)],
    ],
)
def test_v17_a_hash_that_is_not_first_or_not_alone_covers_nothing(payloads: list[Payload]) -> None:
    """CVE-2019-10155."""
    first, octets = encode_payloads(payloads)
    received = opened(decode(message.encode_sealed(HEADER, first, octets)), octets)
    with pytest.raises(Malformed, match=r"HASH|Hash"):
        received.hashed()


def test_a_few_zeros_behind_a_clear_message_are_padding_and_nothing_else_is() -> None:
    """pluto fills messages up to four octets."""
    whole = encode(HEADER, [VendorIdPayload(b"v" * 9)], padding=bytes(3))
    assert decode(whole).padding == bytes(3)
    assert encode(decode(whole).header, decode(whole).payloads, decode(whole).padding) == whole
    for tail in (bytes(4), b"\x00\x01\x00"):
        with pytest.raises(Malformed, match="left over"):
            decode(encode(HEADER, [VendorIdPayload(b"v" * 9)], padding=tail))


def test_another_version_or_no_payload_is_refused() -> None:
    with pytest.raises(Malformed, match="major version 2"):
        decode(encode(Header(b"i" * 8, b"r" * 8, 0, 2, 0, 34, 0, 0), [VendorIdPayload(b"v")]))
    with pytest.raises(Malformed, match="without payloads"):
        decode(encode(HEADER, []))


T = Transform(1, 1, ())


@pytest.mark.parametrize(
    ("payloads", "said"),
    [
        ([VendorIdPayload(b"")] * (MAX_PAYLOADS + 1), "payloads"),
        ([SaPayload((Proposal(1, 1, b"", (T,)),) * (MAX_PROPOSALS + 1))], "proposals"),
        ([SaPayload((Proposal(1, 1, b"", (T,) * 200),) * 2)], "transforms"),
        (
            [
                SaPayload(
                    (Proposal(1, 1, b"", (Transform(1, 1, (Attribute(1, 1),) * (MAX_ATTRIBUTES + 1)),)),)
                )
            ],
            "attr",
        ),
        ([AttributesPayload(1, 1, (Attribute(1, 1),) * (MAX_CONFIG_ATTRIBUTES + 1))], "attributes"),
        ([DeletePayload(3, (b"1234",) * (MAX_DELETED_SPIS + 1))], "SPIs"),
    ],
)
def test_every_list_has_a_bound(payloads: list[Payload], said: str) -> None:
    with pytest.raises(Malformed, match=said):
        decode(encode(HEADER, payloads))


def test_as_much_as_the_bounds_allow_is_read() -> None:
    decode(encode(HEADER, [VendorIdPayload(b"")] * MAX_PAYLOADS))
    decode(encode(HEADER, [SaPayload((Proposal(1, 1, b"", (T,) * (MAX_TRANSFORMS // 2)),) * 2)]))
    decode(encode(HEADER, [DeletePayload(3, (b"1234",) * MAX_DELETED_SPIS)]))


def raw(kind: int, body: bytes) -> bytes:
    return encode(HEADER, [UnknownPayload(kind, body)])


SA = struct.pack("!II", 1, 1)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (PayloadType.SA, b""),
        (PayloadType.SA, SA),
        (PayloadType.SA, struct.pack("!II", 2, 1) + corpus_v1.PHASE1_OFFER.emit()[8:]),
        (PayloadType.SA, struct.pack("!II", 1, 2) + corpus_v1.PHASE1_OFFER.emit()[8:]),
        (PayloadType.SA, SA + struct.pack("!BBHBBBB", 0, 0, 8, 1, 1, 0, 0)),
        (PayloadType.SA, SA + struct.pack("!BBHBBBB", 0, 0, 7, 1, 1, 0, 0)),
        (
            PayloadType.SA,
            SA + struct.pack("!BBHBBBB", 2, 0, 16, 1, 1, 0, 1) + struct.pack("!BBHBBH", 0, 0, 8, 1, 1, 0),
        ),
        (
            PayloadType.SA,
            SA + struct.pack("!BBHBBBB", 0, 0, 16, 1, 1, 0, 2) + struct.pack("!BBHBBH", 0, 0, 8, 1, 1, 0),
        ),
        (
            PayloadType.SA,
            SA + struct.pack("!BBHBBBB", 0, 0, 16, 1, 1, 0, 1) + struct.pack("!BBHBBH", 3, 0, 8, 1, 1, 0),
        ),
        (
            PayloadType.SA,
            SA + struct.pack("!BBHBBBB", 0, 0, 15, 1, 1, 0, 1) + struct.pack("!BBHBBH", 0, 0, 7, 1, 1, 0),
        ),
        (PayloadType.NONCE, bytes(7)),
        (PayloadType.NONCE, bytes(257)),
        (PayloadType.ID, b"\x01\x00\x00"),
        (PayloadType.CERT, b""),
        (PayloadType.NOTIFY, struct.pack("!IBBH", 1, 1, 16, 1) + bytes(15)),
        (PayloadType.DELETE, struct.pack("!IBBH", 1, 3, 4, 0)),
        (PayloadType.DELETE, struct.pack("!IBBH", 1, 3, 0, 1)),
        (PayloadType.DELETE, struct.pack("!IBBH", 1, 3, 4, 2) + bytes(4)),
        (PayloadType.DELETE, struct.pack("!IBBH", 1, 3, 4, 1) + bytes(5)),
        (PayloadType.ATTRIBUTES, b"\x01\x00\x00\x01\x00\x01\x00\x05abc"),
        (PayloadType.NAT_OA, b"\x01\x00\x00"),
        (PayloadType.FRAGMENT, b"\x00\x01\x00\x00x"),
        (PayloadType.FRAGMENT, b"\x00\x01\x01\x00"),
    ],
)
def test_a_payload_whose_lengths_or_counts_lie_is_refused(kind: int, body: bytes) -> None:
    with pytest.raises(Malformed, match=f"payload {PayloadType.name_of(kind)}"):
        decode(raw(kind, body))


def test_v5_fragments_are_counted_from_one_and_say_which_is_the_last() -> None:
    """CVE-2013-6076, CVE-2016-1287: fragment 0, and sizes that underflow."""
    whole = decode(encode(HEADER, [FragmentPayload(7, 255, b"x", 1)])).one(FragmentPayload)
    assert (whole.id, whole.number, whole.last) == (7, 255, True)
    assert not FragmentPayload(7, 1, b"x", 2).last


def test_an_attribute_is_a_number_in_either_form() -> None:
    assert Attribute(12, 3600).number == Attribute(12, (3600).to_bytes(4, "big")).number == 3600
    assert Attribute(12, b"").number is None
    assert Attribute(12, bytes(9)).number is None


def test_nat_payloads_keep_the_number_of_their_draft() -> None:
    for payload in (
        NatDPayload(b"h"),
        NatDPayload(b"h", True),
        NatOaPayload(1, b"addr"),
        NatOaPayload(1, b"addr", True),
    ):
        received = decode(encode(HEADER, [payload])).payloads[0]
        assert received == payload
        assert received.payload_type in (20, 21, 130, 131)
    assert NatDPayload(b"h", True).payload_type == 130
    assert NatOaPayload(1, b"", True).payload_type == 131


def test_messages_are_searched_as_ikev2s() -> None:
    decoded = decode(CLEAR["aggressive mode 2"])
    assert len(decoded.all(VendorIdPayload)) == 5
    assert decoded.maybe(NotifyPayload) is None
    with pytest.raises(Malformed, match="0 Notify payloads"):
        decoded.one(NotifyPayload)
    with pytest.raises(Malformed, match="5 VendorId payloads"):
        decoded.one(VendorIdPayload)
    notify = decode(CLEAR["notify"])
    assert notify.notify(14) is not None
    assert notify.notify(15) is None


def test_what_does_not_fit_its_field_is_our_mistake() -> None:
    for payload in (
        SaPayload(()),
        SaPayload((Proposal(1, 1, b"", ()),)),
        SaPayload((Proposal(1, 1, b"", (T,) * 256),)),
        DeletePayload(3, ()),
        DeletePayload(3, (b"1234", b"12")),
        VendorIdPayload(bytes(70000)),
    ):
        with pytest.raises(ValueError, match=r"cannot be encoded|without|needs"):
            encode(HEADER, [payload])


@pytest.mark.parametrize(
    ("text", "constant"),
    [
        ("RFC 3947", vendor_ids.NAT_T_RFC),
        ("draft-ietf-ipsec-nat-t-ike-03", vendor_ids.NAT_T_03),
        ("draft-ietf-ipsec-nat-t-ike-02\n", vendor_ids.NAT_T_02_NEWLINE),
        ("draft-ietf-ipsec-nat-t-ike-02", vendor_ids.NAT_T_02),
        ("FRAGMENTATION", vendor_ids.FRAGMENTATION),
    ],
)
def test_vendor_ids_are_the_hashes_of_their_texts(text: str, constant: bytes) -> None:
    assert hashlib.md5(text.encode()).digest() == constant


def test_known_vendor_ids_have_names_and_unknown_ones_none() -> None:
    for text, name in (
        ("strongSwan", "strongSwan"),
        ("KAME/racoon", "KAME racoon"),
        ("GSSAPI", "Microsoft GSSAPI"),
        ("Vid-Initial-Contact", "Microsoft initial contact"),
        ("draft-ietf-ipsec-nat-t-ike-05", "NAT-T draft 05"),
    ):
        assert vendor_ids.name_of(hashlib.md5(text.encode()).digest()) == name
    windows = hashlib.md5(b"MS NT5 ISAKMPOAKLEY").digest() + b"\x00\x00\x00\x09"
    assert vendor_ids.name_of(windows) == "Microsoft Windows"
    assert vendor_ids.name_of(vendor_ids.FRAGMENTATION_CISCO) == "fragmentation"
    assert vendor_ids.name_of(vendor_ids.DPD) == "DPD"
    assert vendor_ids.name_of(b"") is None
    assert vendor_ids.name_of(b"\xff" * 16) is None


def test_the_same_number_means_other_things_in_both_versions() -> None:
    assert numbers.EspTransform.name_of(22) == "CAMELLIA_CBC"
    assert numbers.Encryption.name_of(7) == "AES_CBC"
    assert numbers.Protocol.name_of(Protocol.ISAKMP) == "ISAKMP"
    assert numbers.Notify.is_error(14)
    assert not numbers.Notify.is_error(24578)
    assert not numbers.Notify.is_error(0)
    assert numbers.Authentication.name_of(65001) == "XAUTH_INIT_PSK"
    assert numbers.CfgAttribute.name_of(4711) == "UNKNOWN_4711"
