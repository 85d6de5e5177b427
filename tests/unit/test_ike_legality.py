"""The table of what may stand where: what real peers send passes, what they may not is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cygnet.ike.errors import PeerMisbehaved
from cygnet.ike.v2.legality import MAX_CERTIFICATES, TABLE, judge, sealed
from cygnet.testing import corpus
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Flags, Notify, PayloadType, Protocol
from cygnet.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertReqPayload,
    DeletePayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    IdiPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorIdPayload,
)

UNSEALED = [n for n in corpus.CLEAR if n not in ("sealed", "fragment", "later fragment")]


def clear(name: str) -> Message:
    exchange, flags, payloads = corpus.CLEAR[name]
    return Message(corpus.header(exchange, flags), payloads)


def inner(name: str) -> Message:
    exchange, flags, payloads = corpus.INNER[name]
    return Message(corpus.header(exchange, flags), payloads)


def refused(message: Message, *, protected: bool, notify: int = Notify.INVALID_SYNTAX) -> PeerMisbehaved:
    with pytest.raises(PeerMisbehaved) as caught:
        judge(message, protected=protected)
    assert caught.value.notify == notify
    return caught.value


def added(message: Message, *more: Payload) -> Message:
    return replace(message, payloads=message.payloads + more)


def without(message: Message, kind: type[Payload]) -> Message:
    return replace(message, payloads=tuple(p for p in message.payloads if type(p) is not kind))


@pytest.mark.parametrize("name", UNSEALED)
def test_what_peers_send_in_clear_is_legal(name: str) -> None:
    judge(clear(name), protected=False)


@pytest.mark.parametrize("name", corpus.INNER)
def test_what_peers_send_inside_sk_is_legal(name: str) -> None:
    judge(inner(name), protected=True)


@pytest.mark.parametrize("name", corpus.INNER)
def test_the_order_of_payloads_never_matters(name: str) -> None:
    """RFC 7296, section 2.5."""
    message = inner(name)
    judge(replace(message, payloads=message.payloads[::-1]), protected=True)


@pytest.mark.parametrize("name", [n for n in corpus.INNER if corpus.INNER[n][0] != Exchange.INFORMATIONAL])
def test_what_belongs_inside_sk_is_refused_outside(name: str) -> None:
    """OpenIKED 7111c5e: payloads in clear were taken after IKE_SA_INIT."""
    message = inner(name)
    if all(type(p) is NotifyPayload for p in message.payloads):
        judge(message, protected=False)
    else:
        refused(message, protected=False)


@pytest.mark.parametrize("name", ["init request", "init response"])
def test_an_ike_sa_init_inside_sk_is_refused(name: str) -> None:
    refused(clear(name), protected=True)


@pytest.mark.parametrize("exchange", [0, 2, 4, 32, 33, 38, 42, 255])
def test_exchanges_that_are_not_spoken_are_refused(exchange: int) -> None:
    for protected in (False, True):
        refused(Message(corpus.header(exchange, 0), ()), protected=protected)


@pytest.mark.parametrize("kind", [SaPayload, KePayload, NoncePayload])
@pytest.mark.parametrize("name", ["init request", "init response"])
def test_an_ike_sa_init_needs_each_of_its_three_payloads_once(name: str, kind: type[Payload]) -> None:
    """CVE-2013-6467: a missing payload was used all the same."""
    message = clear(name)
    refused(without(message, kind), protected=False)
    refused(added(message, message.one(kind)), protected=False)


@pytest.mark.parametrize(
    ("name", "singletons"),
    [
        ("auth request", ["IDI", "IDR", "AUTH", "CP", "SA", "TSI", "TSR"]),
        ("auth response", ["IDR", "AUTH", "SA", "TSI", "TSR"]),
        ("create child", ["SA", "NONCE", "KE", "TSI", "TSR"]),
        ("rekey ike", ["SA", "NONCE", "KE"]),
    ],
)
def test_singletons_may_not_be_doubled(name: str, singletons: list[str]) -> None:
    message = inner(name)
    for kind in singletons:
        twin = next(p for p in message.payloads if p.payload_type == getattr(PayloadType, kind))
        refused(added(message, twin), protected=True)


@pytest.mark.parametrize("name", ["create child", "rekey child", "rekey ike"])
@pytest.mark.parametrize("kind", [SaPayload, NoncePayload])
def test_a_create_child_sa_needs_an_sa_and_a_nonce(name: str, kind: type[Payload]) -> None:
    refused(without(inner(name), kind), protected=True)


@pytest.mark.parametrize("name", ["auth request", "auth response", "create child"])
@pytest.mark.parametrize("kind", [TsiPayload, TsrPayload])
def test_traffic_selectors_come_in_pairs(name: str, kind: type[Payload]) -> None:
    """CVE-2009-1957: each was looked for where the other was."""
    refused(without(inner(name), kind), protected=True)


def test_traffic_selectors_need_an_sa() -> None:
    refused(without(inner("auth request"), SaPayload), protected=True)


@pytest.mark.parametrize("extra", [NoncePayload(bytes(16)), KePayload(31, bytes(32)), IdiPayload(2, b"x")])
def test_a_payload_of_another_exchange_is_refused(extra: Payload) -> None:
    refused(added(inner("delete ike"), extra), protected=True)
    refused(added(inner("auth response"), extra), protected=True)


@pytest.mark.parametrize("name", list(corpus.INNER))
def test_vendor_ids_and_unknown_notifies_may_stand_anywhere(name: str) -> None:
    message = added(inner(name), VendorIdPayload(b"v"), NotifyPayload(0, b"", 50000, b"new"))
    judge(message, protected=True)


@pytest.mark.parametrize("kind", [1, 32, 49, 54, 55, 127, 128, 255])
def test_an_unknown_payload_is_passed_over_unless_it_is_critical(kind: int) -> None:
    for message, protected in ((clear("init request"), False), (inner("auth request"), True)):
        judge(added(message, UnknownPayload(kind, False, b"?")), protected=protected)
        error = refused(
            added(message, UnknownPayload(kind, True, b"?")),
            protected=protected,
            notify=Notify.UNSUPPORTED_CRITICAL_PAYLOAD,
        )
        assert error.notify_data == bytes((kind,))


def test_the_critical_bit_of_a_known_payload_is_ignored() -> None:
    """RFC 7296, section 2.5."""
    message = clear("init request")
    marked = tuple(p if isinstance(p, UnknownPayload) else replace(p, flags=0x80) for p in message.payloads)
    judge(replace(message, payloads=marked), protected=False)


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        (Notify.NAT_DETECTION_SOURCE_IP, {20}),
        (Notify.NAT_DETECTION_DESTINATION_IP, {20}),
        (Notify.COOKIE, set(range(1, 65))),
        (Notify.INVALID_KE_PAYLOAD, {2}),
        (Notify.SIGNATURE_HASH_ALGORITHMS, set(range(2, 80, 2))),
        (Notify.SET_WINDOW_SIZE, {4}),
        (Notify.INITIAL_CONTACT, set(range(80))),
        (49999, set(range(80))),
    ],
)
def test_notify_data_has_the_length_of_its_type(kind: int, allowed: set[int]) -> None:
    """VPP c3f677c1: NAT detection hashes were compared without a length."""
    for length in range(80):
        message = Message(
            corpus.header(Exchange.IKE_SA_INIT, Flags.RESPONSE),
            (NotifyPayload(0, b"", kind, bytes(length)), NotifyPayload(0, b"", Notify.INVALID_SYNTAX, b"")),
        )
        if length in allowed:
            judge(message, protected=False)
        else:
            refused(message, protected=False)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 255])
@pytest.mark.parametrize("size", [0, 3, 4, 8, 255])
def test_a_rekey_names_an_sa_of_esp_or_ah_with_four_octets(protocol: int, size: int) -> None:
    """CVE-2023-38710."""
    message = without(inner("rekey child"), NotifyPayload)
    message = added(message, NotifyPayload(protocol, bytes(size), Notify.REKEY_SA, b""))
    if protocol in (Protocol.AH, Protocol.ESP) and size == 4:
        judge(message, protected=True)
    else:
        refused(message, protected=True)


def test_two_rekeys_in_one_request_are_refused() -> None:
    message = inner("rekey child")
    refused(added(message, message.one(NotifyPayload)), protected=True)


@pytest.mark.parametrize(
    ("delete", "legal"),
    [
        (DeletePayload(Protocol.IKE, ()), True),
        (DeletePayload(Protocol.IKE, (), 8), False),
        (DeletePayload(Protocol.IKE, (bytes(8),)), False),
        (DeletePayload(Protocol.ESP, (bytes(4),) * 3), True),
        (DeletePayload(Protocol.ESP, ()), True),
        (DeletePayload(Protocol.ESP, (bytes(8),)), False),
        (DeletePayload(Protocol.AH, (bytes(4),)), True),
        (DeletePayload(0, (bytes(4),)), False),
        (DeletePayload(4, (bytes(4),)), False),
    ],
)
def test_a_delete_names_sas_as_its_protocol_does(delete: DeletePayload, legal: bool) -> None:
    message = Message(corpus.header(Exchange.INFORMATIONAL, 0), (delete,))
    if legal:
        judge(message, protected=True)
    else:
        refused(message, protected=True)


def _with_proposals(name: str, *proposals: Proposal) -> Message:
    message = inner(name) if name in corpus.INNER else clear(name)
    return added(without(message, SaPayload), SaPayload(proposals))


def test_proposals_count_from_one_and_an_answer_holds_one() -> None:
    esp = corpus.ESP_OFFER.proposals[0]
    judge(_with_proposals("create child", esp, replace(esp, number=2)), protected=True)
    for numbers in ((0,), (2,), (1, 1), (1, 3), (2, 1)):
        bad = [replace(esp, number=n) for n in numbers]
        refused(_with_proposals("create child", *bad), protected=True)
    judge(_with_proposals("auth response", replace(esp, number=9)), protected=True)
    refused(_with_proposals("auth response", esp, replace(esp, number=2)), protected=True)


def test_spis_of_proposals_have_their_protocols_size() -> None:
    esp, ike = corpus.ESP_OFFER.proposals[0], corpus.IKE_OFFER.proposals[0]
    refused(_with_proposals("create child", replace(esp, spi=b"")), protected=True)
    refused(_with_proposals("create child", replace(esp, spi=bytes(8))), protected=True)
    refused(_with_proposals("rekey ike", replace(ike, spi=b"")), protected=True)
    refused(_with_proposals("init request", replace(ike, spi=bytes(8))), protected=False)
    # A protocol that we do not know may do as it likes: its proposal is passed over.
    judge(_with_proposals("create child", replace(esp, protocol=9, spi=bytes(3))), protected=True)


@pytest.mark.parametrize("length", range(42))
def test_hashes_of_authorities_come_whole(length: int) -> None:
    """strongSwan 4af485d8."""
    for encoding in (4, 12, 13):
        message = added(clear("init response"), CertReqPayload(encoding, bytes(length)))
        if length % 20:
            refused(message, protected=False)
        else:
            judge(message, protected=False)
    judge(added(clear("init response"), CertReqPayload(1, bytes(length))), protected=False)


def test_certificates_of_one_message_are_bounded() -> None:
    request = without(inner("auth request"), CertPayload)
    many = [CertPayload(4, b"certificate")] * MAX_CERTIFICATES
    judge(added(request, *many), protected=True)
    refused(added(request, *many, many[0]), protected=True)


def test_an_error_needs_no_company_in_a_response_but_does_in_a_request() -> None:
    error = NotifyPayload(0, b"", Notify.NO_PROPOSAL_CHOSEN, b"")
    judge(Message(corpus.header(Exchange.CREATE_CHILD_SA, Flags.RESPONSE), (error,)), protected=True)
    refused(Message(corpus.header(Exchange.CREATE_CHILD_SA, 0), (error,)), protected=True)
    refused(Message(corpus.header(Exchange.IKE_SA_INIT, 0), (error,)), protected=False)
    # The authentication stands although the child failed (RFC 7296, section 2.21.2).
    partial = (*corpus.INNER["auth response"][2][:2], error)
    judge(Message(corpus.header(Exchange.IKE_AUTH, Flags.RESPONSE), partial), protected=True)


def test_the_encrypted_payload_is_found_at_the_end_only() -> None:
    assert sealed(clear("init request")) is None
    assert sealed(clear("empty")) is None
    assert type(sealed(clear("sealed"))) is EncryptedPayload
    assert type(sealed(clear("fragment"))) is EncryptedFragmentPayload


def test_every_row_of_the_table_names_payloads_and_sane_counts() -> None:
    for counts in TABLE.values():
        assert PayloadType.NOTIFY in counts
        for kind, (least, most) in counts.items():
            assert PayloadType.known(kind)
            assert 0 <= least <= most
            assert kind not in (PayloadType.SK, PayloadType.SKF)
    assert not any(AuthPayload.payload_type in c for (_, _, inside), c in TABLE.items() if not inside)
