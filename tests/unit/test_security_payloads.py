"""Payloads that killed or fooled other IKE daemons, sent at ours: every length, count, type and protocol.

What is demanded each time: one defined answer or silence, and the ledger balanced (docs/security.md).
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.key_exchange import generate
from cygnet.ike.errors import Reason
from cygnet.testing import corpus
from cygnet.testing.mutate import mutate
from cygnet.wire.message import MAX_PAYLOADS, decode, encode, encode_payloads
from cygnet.wire.numbers import (
    CertEncoding,
    Encr,
    Exchange,
    IdType,
    KeMethod,
    Notify,
    PayloadType,
    Prf,
    Protocol,
)
from cygnet.wire.payloads import (
    CertPayload,
    CertReqPayload,
    ConfigAttribute,
    ConfigPayload,
    DeletePayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorIdPayload,
)
from tests.unit.ike_by_hand import Sun, esp_proposal, with_secret
from tests.unit.security_by_hand import (
    DEFINED,
    OPEN_DOOR,
    ROLES,
    SECRET,
    SUN,
    SUN_SPI,
    Talk,
    Watched,
    first_request,
    good_first,
    notifies,
    requests_of,
    seal_fragment,
    with_fixed_length,
)


@ROLES
@pytest.mark.parametrize("kind", ["rekey", "notify", "delete"])
def test_v19_any_protocol_and_spi_size_gets_an_answer_that_can_be_encoded(we_answer: bool, kind: str) -> None:
    """CVE-2023-38710: a protocol id copied into its own reply."""
    talk = Talk(we_answer).established()
    number = 0
    for protocol, size in itertools.product(
        (0, 1, 2, 3, 4, 200, 255), (0, 1, 3, 4, 5, 7, 8, 9, 16, 254, 255)
    ):
        if not talk.moon.views or talk.moon.views[0].state != "ESTABLISHED":
            number += 1
            talk = Talk(we_answer, spi=(number + 500).to_bytes(8, "big")).established()
        spi = bytes(range(size))
        if kind == "delete":
            payload: Payload = DeletePayload(protocol, (spi,) if size else (), 0)
            answer = talk.ask(Exchange.INFORMATIONAL, [payload])
        elif kind == "notify":
            answer = talk.ask(
                Exchange.INFORMATIONAL, [NotifyPayload(protocol, spi, Notify.INVALID_SELECTORS, b"")]
            )
        else:
            notify = NotifyPayload(protocol, spi, Notify.REKEY_SA, b"")
            answer = talk.ask(Exchange.CREATE_CHILD_SA, [notify, *talk.child_request()])
        assert answer is not None
        assert set(notifies(answer)) <= DEFINED
        assert talk.moon.objections == []


@ROLES
def test_v19_odd_sizes_of_a_delete_without_spis_are_answered(we_answer: bool) -> None:
    for protocol, size in itertools.product((0, 1, 2, 3, 255), (0, 1, 4, 255)):
        talk = Talk(we_answer).established()
        answer = talk.ask(Exchange.INFORMATIONAL, [DeletePayload(protocol, (), size)])
        assert answer is not None
        assert set(notifies(answer)) <= DEFINED


@ROLES
def test_v21_deletes_of_the_same_in_one_message_take_effect_once(we_answer: bool) -> None:
    """CVE-2023-38712: a Delete, and further payloads that act on what it has deleted."""
    esp = DeletePayload(Protocol.ESP, (SUN_SPI,))
    ike = DeletePayload(Protocol.IKE, ())
    rekey = NotifyPayload(Protocol.ESP, SUN_SPI, Notify.REKEY_SA, b"")
    failed = NotifyPayload(0, b"", Notify.AUTHENTICATION_FAILED, b"")
    cases: list[list[Payload]] = [
        [esp, esp], [DeletePayload(Protocol.ESP, (SUN_SPI,) * 1000)], [esp, rekey], [ike, ike], [ike, esp],
        [esp, ike], [ike, failed], [failed, ike, esp], [*[esp] * 30, *[ike] * 30], [ike, rekey],
    ]  # fmt: skip
    for payloads in cases:
        talk = Talk(we_answer).established()
        answer = talk.ask(Exchange.INFORMATIONAL, payloads)
        assert answer is not None
        assert set(notifies(answer)) <= DEFINED
        deleted = [spi for d in answer.all(DeletePayload) for spi in d.spis]
        assert len(deleted) <= 1
        # And once more, as a message of its own.
        talk.ask(Exchange.INFORMATIONAL, payloads)
        talk.moon.wait(30)
        assert talk.moon.in_force == set()
        assert talk.moon.objections == []
        assert all(count == 1 for count in talk.moon.ended.values())


def test_v21_a_peer_cannot_delete_what_belongs_to_another() -> None:
    """The SPI of a Delete is looked up among the children of its own IKE SA only."""
    moon = Watched(options=OPEN_DOOR)
    one = Talk(True, moon, spi=b"\x01" * 8).established()
    other = Talk(True, moon, spi=b"\x02" * 8, nonce=b"\x35" * 32)
    good = other.good()
    (proposal,) = esp_proposal().proposals
    good = [
        SaPayload((replace(proposal, spi=b"\x55\x66\x77\x88"),)) if isinstance(p, SaPayload) else p
        for p in good
    ]
    other.authenticate(good)
    moon.wait(2.0)
    before = set(moon.in_force)
    ours = [spi.to_bytes(4, "big") for _, spi, _ in before]
    assert len(before) == 4
    answer = other.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.ESP, (SUN_SPI, *ours))])
    assert answer is not None
    # Of what it named only its own pair is gone, though it named the other's SPIs of both directions.
    (mine,) = [view for view in moon.views if view.children]
    assert {pair for _, _, pair in moon.in_force} == {mine.children[0].pair}
    assert one.ask(Exchange.INFORMATIONAL, []) is not None


def raw_ts(*selectors_: bytes, count: int | None = None) -> bytes:
    number = len(selectors_) if count is None else count
    return bytes((number & 255, 0, 0, 0)) + b"".join(selectors_)


def raw_selector(
    kind: int = 7, protocol: int = 0, length: int | None = None, ports: tuple[int, int] = (0, 65535),
    first: bytes = b"\x0a\2\0\0", last: bytes = b"\x0a\2\xff\xff",
) -> bytes:  # fmt: skip
    body = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + first + last
    size = 4 + len(body) if length is None else length
    return bytes((kind, protocol)) + size.to_bytes(2, "big") + body


TRAFFIC_SELECTORS = {
    "none": raw_ts(),
    "count too large": raw_ts(raw_selector(), count=2),
    "count 255": raw_ts(raw_selector(), count=255),
    "count too small": raw_ts(raw_selector(), raw_selector(), count=1),
    "length short": raw_ts(raw_selector(length=15)),
    "length long": raw_ts(raw_selector(length=17)),
    "length 0": raw_ts(raw_selector(length=0)),
    "length 65535": raw_ts(raw_selector(length=65535)),
    "backwards": raw_ts(raw_selector(first=b"\x0a\3\0\0", last=b"\x0a\2\0\0")),
    "ports backwards": raw_ts(raw_selector(ports=(90, 80))),
    "IPv6 in IPv4": raw_ts(raw_selector(first=bytes(16), last=b"\xff" * 16)),
    "IPv4 in IPv6": raw_ts(raw_selector(kind=8)),
    "type 0": raw_ts(raw_selector(kind=0)),
    "type 255 only": raw_ts(raw_selector(kind=255)),
    "type 255 without content": raw_ts(b"\xff\0\0\4"),
    "255 of a kind": raw_ts(*[raw_selector()] * 255),
    "255 different": raw_ts(*[raw_selector(ports=(n, n), protocol=17) for n in range(255)]),
    "opaque": raw_ts(raw_selector(ports=(65535, 0))),
    "elsewhere": raw_ts(raw_selector(first=b"\x0a\x63\0\0", last=b"\x0a\x63\xff\xff")),
    "all": raw_ts(raw_selector(first=bytes(4), last=b"\xff" * 4)),
    "mixed families": raw_ts(raw_selector(), raw_selector(kind=8, first=bytes(16), last=b"\xff" * 16)),
}


@ROLES
@pytest.mark.parametrize("title", TRAFFIC_SELECTORS)
def test_v22_any_traffic_selector_payload_is_refused_or_narrowed(we_answer: bool, title: str) -> None:
    """CVE-2023-23009: a malformed TS was accepted and freed twice."""
    talk = Talk(we_answer).established()
    before = set(talk.moon.in_force)
    first, good = encode_payloads(talk.child_request()[:2])
    body = TRAFFIC_SELECTORS[title]
    other = raw_ts(raw_selector(first=b"\x0a\1\0\0", last=b"\x0a\1\xff\xff"))
    at = good.rindex(b"\0\0\0\x24")  # the nonce, last of the chain so far, gets a successor
    chain = good[:at] + bytes((PayloadType.TSI,)) + good[at + 1 :]
    chain += bytes((PayloadType.TSR, 0)) + (4 + len(body)).to_bytes(2, "big") + body
    chain += b"\0\0" + (4 + len(other)).to_bytes(2, "big") + other
    answer = talk.ask_raw(Exchange.CREATE_CHILD_SA, first, chain)
    assert answer is not None
    accepted = answer.maybe(TsiPayload)
    if accepted is None:
        assert set(notifies(answer)) <= {Notify.TS_UNACCEPTABLE, Notify.INVALID_SYNTAX}
        assert set(talk.moon.in_force) <= before
    else:
        assert len(set(talk.moon.in_force) - before) == 2
        for one in accepted.ranges:
            assert b"\x0a\2\0\0" <= one.first <= one.last <= b"\x0a\2\xff\xff"
    assert talk.moon.objections == []


def test_v24_as_many_payloads_as_fit_pass_and_one_more_is_refused() -> None:
    """CVE-2026-12413: a fixed table, off by one. In clear, and inside SK."""
    for count in (MAX_PAYLOADS - 1, MAX_PAYLOADS, MAX_PAYLOADS + 1, 255, 2000):
        moon = Watched(options=OPEN_DOOR, loud=True)
        fill = [UnknownPayload(200, False, b"")] * (count - 3)
        answers = moon.receive(first_request([*good_first(), *fill]))
        assert bool(answers) == (count <= MAX_PAYLOADS)
        talk = Talk(True, Watched(loud=True)).established()
        answer = talk.ask(Exchange.INFORMATIONAL, [UnknownPayload(200, False, b"")] * count)
        assert answer is not None
        assert notifies(answer) == ([] if count <= MAX_PAYLOADS else [Notify.INVALID_SYNTAX])


def test_v24_unknown_payloads_before_a_fragment_fill_nothing() -> None:
    talk = Talk(True)
    first, content = encode_payloads(talk.good())
    sealed = seal_fragment(talk.sun, 1, 1, content, Exchange.IKE_AUTH, 1, first=first)
    for count in (1, MAX_PAYLOADS - 1, MAX_PAYLOADS, 500):
        fill = b"".join([bytes((200 if n < count - 1 else PayloadType.SKF, 0, 0, 4)) for n in range(count)])
        odd = bytearray(sealed[:28] + fill + sealed[28:])
        odd[16] = 200
        # What stands before it is not covered by its ICV as sent: an honest peer sends nothing there.
        assert talk.moon.receive(with_fixed_length(bytes(odd))) == []
        assert talk.moon.drops[-1] in ("integrity", "malformed")
    assert len(talk.moon.receive(sealed)) == 1
    assert len(talk.moon.established) == 1


NOTIFY_TYPES = sorted(
    {value for name, value in vars(Notify).items() if name.isupper() and isinstance(value, int)}
    | {0, 8191, 8192, 16383, 40959, 40960, 65535}
)


LENGTHS = (0, 1, 2, 3, 4, 8, 19, 20, 21, 64, 65)


def test_v25_a_notify_of_any_type_and_length_in_clear_is_taken_or_passed_over() -> None:
    """VPP's NAT detection compared twenty octets without asking how many there were."""
    moon = Watched(options=OPEN_DOOR)
    for kind, length in itertools.product(NOTIFY_TYPES, LENGTHS):
        spi = (1 << 48 | kind << 16 | length).to_bytes(8, "big")
        answers = moon.receive(
            first_request([*good_first(), NotifyPayload(0, b"", kind, bytes(length))], spi=spi)
        )
        assert len(answers) <= 1
    assert set(moon.drops) <= {"illegal-payload"}


@ROLES
def test_v25_a_notify_of_any_type_and_length_inside_sk_is_answered(we_answer: bool) -> None:
    talk = Talk(we_answer, Watched(loud=True)).established()
    number = 0
    for kind, length in itertools.product(NOTIFY_TYPES, LENGTHS[::3]):
        if not talk.moon.views or talk.moon.views[0].state != "ESTABLISHED":
            number += 1
            talk = Talk(we_answer, spi=(number + 9000).to_bytes(8, "big")).established()
        answer = talk.ask(Exchange.INFORMATIONAL, [NotifyPayload(0, b"", kind, bytes(length))])
        assert answer is not None
        assert set(notifies(answer)) <= DEFINED


def test_v25_a_notify_of_any_type_and_length_in_an_answer_waits_for_a_better_one() -> None:
    moon = Watched()
    moon.initiate("peer")
    sun = Sun(False)
    sun.spi_i = decode(moon.sent[0]).header.initiator_spi
    header = sun.header(Exchange.IKE_SA_INIT, 0, response=True)
    for kind, length in itertools.product(NOTIFY_TYPES, LENGTHS):
        moon.receive(encode(header, [NotifyPayload(0, b"", kind, bytes(length))]))
    assert [view.state for view in moon.views] == ["CONNECTING"]
    assert moon.failures == []


@pytest.mark.parametrize("encoding", [0, 1, 4, 7, 11, 12, 13, 14, 255])
def test_v26_a_list_of_hashes_comes_whole(encoding: int) -> None:
    """CERTREQ whose hashes are not a multiple of twenty octets."""
    for length in (0, 1, 19, 20, 21, 40, 41):
        talk = Talk(True)
        answer = talk.authenticate([*talk.good(), CertReqPayload(encoding, bytes(length))])
        hashed = encoding in (
            CertEncoding.X509_SIGNATURE,
            CertEncoding.X509_HASH_AND_URL,
            CertEncoding.X509_HASH_AND_URL_BUNDLE,
            CertEncoding.OCSP_CONTENT,
        )
        whole = length % 20 == 0 or not hashed
        assert bool(talk.moon.established) == whole
        assert notifies(answer[0]) == ([] if whole else [Notify.INVALID_SYNTAX])


@ROLES
@pytest.mark.parametrize("size", [0, 1, 255, 256, 1024, 4096, 30_000, 64_000])
def test_v34_an_identity_or_a_certificate_of_any_size_authenticates_nobody(
    we_answer: bool, size: int
) -> None:
    """CVE-2025-9242 (exploited): the identity's length was not checked; CVE-2025-14733: the certificate's."""
    for kind in (IdType.FQDN, IdType.RFC822_ADDR, IdType.KEY_ID, IdType.DER_ASN1_DN, IdType.IPV4_ADDR, 0, 99):
        talk = Talk(we_answer, Watched(loud=True))
        mine = (IdiPayload if we_answer else IdrPayload)(kind, b"A" * size)
        payloads = [mine, talk.sun.proof(mine, with_secret(SECRET)), *talk.good()[2:]]
        talk.authenticate(payloads)
        assert talk.moon.established == []
        assert talk.moon.in_force == set()
    talk = Talk(we_answer, Watched(loud=True))
    talk.authenticate([*talk.good(), CertPayload(CertEncoding.X509_SIGNATURE, b"\x30\x83" + b"A" * size)])
    # With a pre-shared key the certificate is nobody's; it must only be survived.
    assert talk.moon.objections == []


def test_v34_of_a_connection_that_was_deleted_nothing_can_be_reached() -> None:
    """WatchGuard's flaw could be reached after the vulnerable configuration was deleted."""
    moon = Watched()
    moon.endpoint.unload("peer", moon.now)
    moon.carry_out()
    (answer,) = moon.receive(first_request())
    assert notifies(decode(answer)) == [Notify.NO_PROPOSAL_CHOSEN]
    assert moon.endpoint.by_number == {}
    assert moon.failures[-1].reason == Reason.NO_CONNECTION


def test_v35_what_a_stranger_is_answered_depends_on_no_secret_and_never_echoes() -> None:
    """CVE-2016-6415: the answer held the process's memory. Gateways with different secrets say the same."""
    from cygnet.auth.credentials import Credentials

    def gateway(secret: bytes) -> Watched:
        credentials = Credentials()
        credentials.add_shared("s", "ike", secret)
        return Watched(credentials=credentials)

    one, other = gateway(b"A" * 40), gateway(b"B" * 40)
    chance = random.Random(5)
    seeds = [first_request(), *corpus.clear_messages().values()]
    for _ in range(600):
        datagram = mutate(chance.choice(seeds), chance, seeds)
        datagram = with_fixed_length(datagram) if len(datagram) >= 28 else datagram
        said = one.receive(datagram)
        assert said == other.receive(datagram)
    marker = b"0123456789abcdef" * 4
    for answer in one.receive(first_request([*good_first(), VendorIdPayload(marker)], spi=b"\x0f" * 8)):
        assert marker[:8] not in answer


@ROLES
def test_t21_duplicates_and_critical_unknowns_are_refused_and_reserved_bits_ignored(we_answer: bool) -> None:
    for kind, (exchange, payloads) in requests_of(Talk(True).established()).items():
        for index, payload in enumerate(payloads):
            if isinstance(payload, (NotifyPayload, VendorIdPayload, DeletePayload)) and kind != "rekey child":
                continue
            if not isinstance(
                payload, (NotifyPayload, SaPayload, NoncePayload, KePayload, TsiPayload, TsrPayload)
            ):
                continue
            talk = Talk(we_answer).established()
            _, fresh = requests_of(talk)[kind]
            answer = talk.ask(exchange, [*fresh, fresh[index]])
            assert notifies(answer) == [Notify.INVALID_SYNTAX], (kind, payload)
        talk = Talk(we_answer).established()
        _, fresh = requests_of(talk)[kind]
        answer = talk.ask(exchange, [*fresh, UnknownPayload(222, True, b"")])
        assert notifies(answer) == [Notify.UNSUPPORTED_CRITICAL_PAYLOAD]
        talk = Talk(we_answer).established()
        _, fresh = requests_of(talk)[kind]
        first, chain = encode_payloads(fresh)
        reserved = bytearray(chain)
        at = 0
        while at < len(reserved):
            reserved[at + 1] = 0x7F
            at += int.from_bytes(reserved[at + 2 : at + 4], "big")
        answer = talk.ask_raw(exchange, first, bytes(reserved))
        assert answer is not None
        assert Notify.INVALID_SYNTAX not in notifies(answer)


@ROLES
def test_t21_an_unknown_payload_that_is_not_critical_is_passed_over_and_authenticated_all_the_same(
    we_answer: bool,
) -> None:
    """It stands in IKE_SA_INIT: the AUTH octets are the whole message as it was."""
    talk = Talk(we_answer)
    talk.authenticate([UnknownPayload(199, False, b"new"), *talk.good()])
    assert len(talk.moon.established) == 1
    if not we_answer:
        return
    moon = Watched()
    sun = Sun(True)
    odd = encode(
        replace(sun.header(Exchange.IKE_SA_INIT, 0, response=False), responder_spi=bytes(8)),
        [UnknownPayload(199, False, b"new"), *good_first()],
    )
    (answer,) = moon.receive(odd)
    sun.sent, sun.received = odd, answer
    message = decode(answer)
    from cygnet.crypto.kdf import ike_sa_keys
    from cygnet.crypto.prf import prf
    from cygnet.crypto.suites import suite

    ours = generate(KeMethod.CURVE_25519, SeededEntropy(2))
    sun.spi_r, sun.their_nonce = message.header.responder_spi, message.one(NoncePayload).data
    sun.keys = ike_sa_keys(
        prf(Prf.PRF_HMAC_SHA2_256), sun.nonce, sun.their_nonce, sun.spi_i, sun.spi_r,
        ours.shared(message.one(KePayload).data), suite(Encr.AES_GCM_16, 256, 0),
    )  # fmt: skip
    sun.request(moon, sun.authentication(SUN, with_secret(SECRET)))
    assert len(moon.established) == 1


def test_a3_configuration_requests_are_survived_though_nothing_is_leased_yet() -> None:
    for attributes in (
        (),
        (ConfigAttribute(1, b""),),
        (ConfigAttribute(1, b"\xc0\0\2\1"),),
        (ConfigAttribute(0x7FFF, b"x"),),
    ):
        talk = Talk(True)
        talk.authenticate([*talk.good(), ConfigPayload(1, attributes)])
        assert len(talk.moon.established) == 1
