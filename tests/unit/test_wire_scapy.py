"""Scapy's IKEv2 (contrib.ikev2) as an independent judge: it reads what we write, we read what it writes."""

from __future__ import annotations

import logging

import pytest

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
ikev2 = pytest.importorskip("scapy.contrib.ikev2")

from cygnet.testing import corpus  # noqa: E402
from cygnet.wire.message import decode, encode  # noqa: E402
from cygnet.wire.numbers import Exchange, PayloadType  # noqa: E402
from cygnet.wire.payloads import (  # noqa: E402
    AuthPayload,
    CertReqPayload,
    DeletePayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    IdiPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    VendorIdPayload,
    WireSelector,
)

SEEN_BY_SCAPY = {
    33: "IKEv2_SA", 34: "IKEv2_KE", 35: "IKEv2_IDi", 36: "IKEv2_IDr", 37: "IKEv2_CERT", 38: "IKEv2_CERTREQ",
    39: "IKEv2_AUTH", 40: "IKEv2_Nonce", 41: "IKEv2_Notify", 42: "IKEv2_Delete", 43: "IKEv2_VendorID",
    44: "IKEv2_TSi", 45: "IKEv2_TSr", 46: "IKEv2_Encrypted", 47: "IKEv2_CP", 48: "IKEv2_EAP",
    53: "IKEv2_Encrypted_Fragment",
}  # fmt: skip


def dissect(datagram: bytes) -> list[object]:
    layers: list[object] = []
    packet = ikev2.IKEv2(datagram)
    layer = packet.payload
    while layer.name != "NoPayload":
        layers.append(layer)
        layer = layer.payload
    return layers


def in_clear(exchange: int, payloads: tuple[Payload, ...]) -> bytes:
    return encode(corpus.header(exchange, 0), payloads)


@pytest.mark.parametrize("name", [*corpus.CLEAR, *corpus.INNER])
def test_scapy_sees_the_payloads_that_we_wrote(name: str) -> None:
    exchange, _, payloads = corpus.CLEAR.get(name) or corpus.INNER[name]
    known = tuple(p for p in payloads if p.payload_type in SEEN_BY_SCAPY)
    seen = [type(layer).__name__ for layer in dissect(in_clear(exchange, known))]
    assert seen == [SEEN_BY_SCAPY[p.payload_type] for p in known]


def test_scapy_reads_the_fields_that_we_wrote() -> None:
    _, _, payloads = corpus.CLEAR["init request"]
    layers = dissect(in_clear(Exchange.IKE_SA_INIT, payloads))
    sa, ke, nonce = layers[0], layers[1], layers[2]
    transforms = []
    proposal = sa.prop  # type: ignore[attr-defined]
    while proposal.name != "NoPayload":
        transform = proposal.trans
        while transform.name != "NoPayload":
            transforms.append((proposal.proposal, transform.transform_type, transform.transform_id))
            transform = transform.payload
        proposal = proposal.payload
    offered = payloads[0]
    assert isinstance(offered, SaPayload)
    assert transforms == [(p.number, t.type, t.id) for p in offered.proposals for t in p.transforms]
    assert ke.group == 31  # type: ignore[attr-defined]
    assert ke.ke == corpus.octets(32, 5)  # type: ignore[attr-defined]
    assert nonce.nonce == corpus.octets(32, 6)  # type: ignore[attr-defined]


def test_scapy_reads_the_selectors_that_we_wrote() -> None:
    _, _, payloads = corpus.INNER["auth response"]
    layers = dissect(in_clear(Exchange.IKE_AUTH, payloads))
    selectors = next(x for x in layers if type(x).__name__ == "IKEv2_TSr")
    first = selectors.traffic_selector[0]  # type: ignore[attr-defined]
    assert (first.IP_protocol_ID, first.start_port, first.end_port) == (6, 80, 443)
    assert (first.starting_address_v4, first.ending_address_v4) == ("10.2.0.0", "10.2.0.255")


def test_we_read_what_scapy_writes() -> None:
    """Order and numbers of an IKE_SA_INIT request, every list with its own lengths."""
    transforms = (
        ikev2.IKEv2_Transform(transform_type="Encryption", transform_id=20, length=12, key_length=256)
        / ikev2.IKEv2_Transform(transform_type="PRF", transform_id=5)
        / ikev2.IKEv2_Transform(transform_type="GroupDesc", transform_id=31)
    )
    packet = (
        ikev2.IKEv2(init_SPI=corpus.SPI_I, exch_type=34, flags=0x08, next_payload=33)
        / ikev2.IKEv2_SA(
            next_payload=34, prop=ikev2.IKEv2_Proposal(proposal=1, proto=1, trans_nb=3, trans=transforms)
        )
        / ikev2.IKEv2_KE(next_payload=40, group=31, ke=bytes(range(32)))
        / ikev2.IKEv2_Nonce(next_payload=41, nonce=bytes(range(32)))
        / ikev2.IKEv2_Notify(next_payload=43, type=16388, notify=bytes(range(20)))
        / ikev2.IKEv2_VendorID(next_payload=0, vendorID=b"scapy")
    )
    message = decode(bytes(packet))
    assert message.header.exchange == Exchange.IKE_SA_INIT
    assert message.header.initiator_spi == corpus.SPI_I
    (proposal,) = message.one(SaPayload).proposals
    assert [(t.type, t.id, t.key_bits) for t in proposal.transforms] == [(1, 20, 256), (2, 5, 0), (4, 31, 0)]
    assert message.one(KePayload) == KePayload(31, bytes(range(32)))
    assert message.one(NoncePayload).data == bytes(range(32))
    assert message.one(NotifyPayload) == NotifyPayload(0, b"", 16388, bytes(range(20)))
    assert message.one(VendorIdPayload).data == b"scapy"
    assert encode(message.header, message.payloads) == bytes(packet)


def test_we_read_scapys_protected_payloads() -> None:
    selector = ikev2.IPv4TrafficSelector(
        start_port=0, end_port=65535, starting_address_v4="10.0.0.1", ending_address_v4="10.0.0.9"
    )
    packet = (
        ikev2.IKEv2(exch_type=35, next_payload=35)
        / ikev2.IKEv2_IDi(next_payload=38, IDtype="FQDN", ID=b"host")
        / ikev2.IKEv2_CERTREQ(next_payload=39, cert_encoding=4, cert_authority=bytes(20))
        / ikev2.IKEv2_AUTH(next_payload=42, auth_type=2, load=b"proof")
        / ikev2.IKEv2_Delete(next_payload=44, proto="ESP", SPIsize=4, SPInum=2, SPI=[b"1234", b"5678"])
        / ikev2.IKEv2_TSi(next_payload=45, traffic_selector=[selector])
        / ikev2.IKEv2_TSr(next_payload=46, traffic_selector=[selector])
        / ikev2.IKEv2_Encrypted(next_payload=41, load=b"sealed")
    )
    message = decode(bytes(packet))
    assert message.one(IdiPayload) == IdiPayload(2, b"host")
    assert message.one(CertReqPayload) == CertReqPayload(4, bytes(20))
    assert message.one(AuthPayload) == AuthPayload(2, b"proof")
    assert message.one(DeletePayload) == DeletePayload(3, (b"1234", b"5678"))
    wanted = (WireSelector(7, 0, 0, 65535, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 9))),)
    assert message.one(TsiPayload).selectors == message.one(TsrPayload).selectors == wanted
    sealed = message.one(EncryptedPayload)
    assert (sealed.first_inner, sealed.body) == (PayloadType.NOTIFY, b"sealed")
    assert encode(message.header, message.payloads) == bytes(packet)


def test_we_read_scapys_fragments() -> None:
    packet = ikev2.IKEv2(exch_type=35, next_payload=53) / ikev2.IKEv2_Encrypted_Fragment(
        next_payload=35, frag_number=2, frag_total=3, load=b"part"
    )
    part = decode(bytes(packet)).one(EncryptedFragmentPayload)
    assert (part.number, part.total, part.body, part.offset) == (2, 3, b"part", 28)
