"""Messages that killed or fooled other IKE daemons, sent at ours: missing parts, cuts, other versions.

In clear and with the right keys, in both roles. What is demanded each time: one defined answer or silence,
the ledger balanced, a bounded amount of work (docs/security.md has the list of cases).
"""

from __future__ import annotations

import itertools
import random

import pytest

from cygnet.testing import corpus
from cygnet.testing.mutate import mutate
from cygnet.wire.message import decode, encode, encode_payloads
from cygnet.wire.numbers import (
    Exchange,
    Flags,
    Notify,
    Protocol,
)
from cygnet.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorIdPayload,
)
from tests.unit.ike_by_hand import Sun, selectors, with_secret
from tests.unit.security_by_hand import (
    DEFINED,
    OPEN_DOOR,
    ROLES,
    SECRET,
    SUN,
    Talk,
    Watched,
    first_request,
    good_first,
    notifies,
    power_set,
    requests_of,
    seal_fragment,
    seal_raw,
    swapped,
    with_fixed_length,
    work,
)


def test_v3_an_ike_sa_init_request_without_any_of_its_payloads_is_nothing() -> None:
    needed = {SaPayload, KePayload, NoncePayload}
    extra = NotifyPayload(0, b"", Notify.SIGNATURE_HASH_ALGORITHMS, b"\0\2")
    for payloads in power_set([*good_first(), extra]):
        moon = Watched(options=OPEN_DOOR)
        answers = moon.receive(first_request(payloads))
        whole = needed <= {type(p) for p in payloads}
        assert len(answers) == len(moon.endpoint.half_open) == len(moon.endpoint.by_number) == whole


def test_v3_an_ike_sa_init_answer_without_any_of_its_payloads_is_passed_over() -> None:
    moon = Watched()
    moon.initiate("peer")
    sun = Sun(False)
    sun.spi_i = decode(moon.sent[0]).header.initiator_spi
    before = moon.picture()
    header = sun.header(Exchange.IKE_SA_INIT, 0, response=True)
    for payloads in power_set([*good_first(), VendorIdPayload(b"x")]):
        if {SaPayload, KePayload, NoncePayload} <= {type(p) for p in payloads}:
            continue
        assert moon.receive(encode(header, payloads)) == []
        assert moon.picture() == before
    sun.first(moon)
    sun.answer(moon, sun.authentication(SUN, with_secret(SECRET)))
    assert len(moon.established) == 1


@ROLES
@pytest.mark.parametrize("kind", ["create child", "rekey child", "rekey ike", "delete child"])
def test_v3_a_request_without_any_of_its_payloads_has_one_defined_answer(we_answer: bool, kind: str) -> None:
    """CVE-2013-6467, CVE-2013-6075: the power set of removals of each exchange on an established IKE SA."""
    count = len(requests_of(Talk(True).established())[kind][1])
    for kept in itertools.product((True, False), repeat=count):
        talk = Talk(we_answer).established()
        exchange, payloads = requests_of(talk)[kind]
        answer = talk.ask(exchange, [p for p, wanted in zip(payloads, kept, strict=True) if wanted])
        assert answer is not None
        assert set(notifies(answer)) <= DEFINED
        here = {type(p) for p, wanted in zip(payloads, kept, strict=True) if wanted}
        needed = {
            SaPayload,
            NoncePayload,
            *({KePayload} if kind == "rekey ike" else {TsiPayload, TsrPayload}),
        }
        if answer.all(SaPayload):
            assert needed <= here
        assert talk.moon.objections == []


@ROLES
def test_v3_an_answer_without_any_of_its_payloads_makes_no_child(we_answer: bool) -> None:
    """As initiator of CREATE_CHILD_SA: whatever is missing, there is no half pair and the old one serves."""
    good = Talk(True).child_request()
    for kept in itertools.product((True, False), repeat=len(good)):
        talk = Talk(we_answer).established()
        before = set(talk.moon.in_force)
        (view,) = talk.moon.views
        message_id = 0 if we_answer else 2
        talk.moon.endpoint.rekey(view.unique_id, view.children[0].pair, talk.moon.now)
        talk.moon.carry_out()
        payloads = talk.child_request() if we_answer else [*talk.child_request()[:2], *swapped()]
        talk.answers(
            [p for p, wanted in zip(payloads, kept, strict=True) if wanted],
            Exchange.CREATE_CHILD_SA,
            message_id,
        )
        new = set(talk.moon.in_force) - before
        assert len(new) in (0, 2)
        if not all(kept):
            assert new == set()


@ROLES
def test_v5_impossible_fragments_leave_everything_as_it_was(we_answer: bool) -> None:
    """CVE-2013-6076, CVE-2016-1287, CVE-2016-1344: numbers 0, beyond the total, beyond the limit; no room."""
    talk = Talk(we_answer)
    response = not we_answer
    moon, sun = talk.moon, talk.sun
    before = moon.picture()
    for number, total in [
        (0, 0),
        (0, 1),
        (2, 1),
        (0, 255),
        (256, 256),
        (1, 256),
        (1, 65535),
        (65535, 65535),
        (255, 254),
    ]:
        datagram = seal_fragment(
            sun, number, total, b"x" * 50, Exchange.IKE_AUTH, 1, first=35, response=response
        )
        assert moon.receive(datagram) == []
        assert moon.drops[-1] in ("malformed", "fragment")
        assert moon.picture() == before
    whole = seal_fragment(sun, 1, 2, b"x" * 50, Exchange.IKE_AUTH, 1, first=35, response=response)
    for size in range(12):
        cut = with_fixed_length(whole[: 28 + size])
        cut = cut[:30] + size.to_bytes(2, "big") + cut[32:] if size >= 4 else cut
        assert moon.receive(cut) == []
        assert moon.picture() == before
    # A later fragment that names a first payload (RFC 7383, section 2.5).
    assert (
        moon.receive(seal_fragment(sun, 2, 2, b"x", Exchange.IKE_AUTH, 1, first=35, response=response)) == []
    )
    assert moon.picture() == before
    talk.authenticate()
    assert len(moon.established) == 1


@ROLES
def test_v5_gaps_overlaps_and_changing_totals_still_end_in_one_message(we_answer: bool) -> None:
    talk = Talk(we_answer)
    moon, sun, response = talk.moon, talk.sun, not we_answer
    first, content = encode_payloads(talk.good())
    third = len(content) // 3 + 1
    chunks = [content[at : at + third] for at in range(0, len(content), third)]

    def send(number: int, total: int, chunk: bytes, *, forged: bool = False) -> list[bytes]:
        kind = first if number == 1 else 0
        return moon.receive(
            seal_fragment(
                sun, number, total, chunk, Exchange.IKE_AUTH, 1, first=kind, response=response, forged=forged
            )
        )

    send(2, 2, b"smaller total first")
    for number in (3, 1):
        send(number, 3, chunks[number - 1])
    send(3, 3, b"an overlap: the first of its number stays")
    send(1, 2, b"the total may not shrink")
    send(2, 3, b"forged", forged=True)
    send(5, 9, b"a larger total that nobody signed", forged=True)
    # IKEv1's FRAG payload means nothing here.
    v1 = bytearray(first_request([UnknownPayload(132, False, b"\0\1\1\1" + bytes(20))]))
    assert moon.receive(bytes(v1)) == []
    assert moon.established == []
    send(2, 3, chunks[1])
    assert len(moon.established) == 1


@ROLES
def test_v40_fragments_in_the_worst_order_cost_no_more_than_in_the_best(we_answer: bool) -> None:
    """CVE-2016-10396: racoon's list made reassembly quadratic."""
    costs = []
    for total in (60, 120, 240):
        talk = Talk(we_answer)
        datagrams = [
            seal_fragment(talk.sun, n, total, bytes(100), Exchange.IKE_AUTH, 1, response=not we_answer)
            for n in range(total, 1, -1)
        ]
        costs.append(work(map(talk.moon.receive, datagrams)))
    assert costs[2] < 4.6 * costs[0]


V1_PAYLOADS = [*range(1, 22), *range(128, 138)]


def test_v8_payload_numbers_of_ikev1_in_clear_are_unknown_ones() -> None:
    """CVE-2015-3991: no payload of one version is ever taken for one of the other."""
    for number, critical in itertools.product(V1_PAYLOADS, (False, True)):
        moon = Watched(options=OPEN_DOOR, loud=True)
        for body in (b"", bytes(8), b"\0\0\0\1\0\0\0\1" + bytes(40), b"\xff" * 64):
            spi = bytes((number, critical, len(body), 1)) + b"\x66" * 4
            answers = moon.receive(
                first_request([*good_first(), UnknownPayload(number, critical, body)], spi=spi)
            )
            (message,) = [decode(one) for one in answers]
            if critical:
                assert notifies(message) == [Notify.UNSUPPORTED_CRITICAL_PAYLOAD]
                assert message.one(NotifyPayload).data == bytes((number,))
            else:
                assert message.one(SaPayload)


@ROLES
def test_v8_payload_numbers_of_ikev1_inside_sk_are_unknown_ones(we_answer: bool) -> None:
    talk = Talk(we_answer, Watched(loud=True)).established()
    for number in V1_PAYLOADS:
        for body in (b"", b"\0\0\0\1\0\0\0\1" + bytes(40)):
            answer = talk.ask(Exchange.INFORMATIONAL, [UnknownPayload(number, False, body)])
            assert answer is not None
            assert answer.payloads == ()
        answer = talk.ask(Exchange.INFORMATIONAL, [UnknownPayload(number, True, b"")])
        assert notifies(answer) == [Notify.UNSUPPORTED_CRITICAL_PAYLOAD]
    assert [view.state for view in talk.moon.views] == ["ESTABLISHED"]


@ROLES
def test_v8_messages_of_other_versions_touch_no_ike_sa(we_answer: bool) -> None:
    """IKEv1 headers with the SPIs of a live IKEv2 SA, every payload number behind them; versions 0 to 15."""
    talk = Talk(we_answer, Watched(loud=True)).established()
    before = talk.moon.picture()
    template = talk.sun.seal([], Exchange.INFORMATIONAL, talk.next_id)
    for version, payload in itertools.product((0x00, 0x10, 0x11, 0x1F, 0x30, 0xF0), range(0, 256, 5)):
        odd = bytearray(template)
        odd[16], odd[17] = payload, version
        assert talk.moon.receive(bytes(odd)) == []
        assert talk.moon.drops[-1] in ("wrong-version", "malformed")
        assert talk.moon.picture() == before


@ROLES
def test_v13_every_prefix_and_every_wrong_length_changes_nothing(we_answer: bool) -> None:
    """CVE-2013-4564: the header's length is the datagram's, or there is no message."""
    talk = Talk(we_answer)
    moon = talk.moon
    sealed = talk.sun.seal(talk.good(), Exchange.IKE_AUTH, 1, response=not we_answer)
    before = moon.picture()
    for datagram in (sealed, first_request()):
        for size in range(len(datagram)):
            assert moon.receive(datagram[:size]) == []
            if size >= 28:
                assert moon.receive(with_fixed_length(datagram[:size])) == []
        for length in (0, 1, 27, 28, len(datagram) - 1, len(datagram) + 1, 1 << 31, (1 << 32) - 1):
            assert moon.receive(datagram[:24] + length.to_bytes(4, "big") + datagram[28:]) == []
        for more in (b"\0", b"\0" * 4, datagram):
            assert moon.receive(datagram + more) == []
    assert moon.picture() == before
    assert set(moon.drops) <= {"malformed", "integrity", "illegal-payload"}
    talk.authenticate()
    assert len(moon.established) == 1


def test_v14_every_next_payload_and_every_reserved_bit_is_shown_and_survived() -> None:
    """CVE-2015-3204: the log itself was overflown. All types, reserved octets set, everybody listening."""
    moon = Watched(options=OPEN_DOOR, loud=True)
    good = first_request([*good_first(), VendorIdPayload(b"\x1b[2J"), NotifyPayload(0, b"", 40960, b"\n")])
    for number in range(256):
        odd = bytearray(good)
        odd[:8] = number.to_bytes(8, "big") or b"\1" * 8
        odd[16] = number
        moon.receive(bytes(odd))
        odd[16], odd[28] = 33, number
        moon.receive(bytes(odd))
    for at in range(16, len(good)):
        for value in (0x7F, 0xFF):
            odd = bytearray(good)
            odd[:8] = (at << 8 | value | 1 << 40).to_bytes(8, "big")
            odd[at] = value
            moon.receive(bytes(odd))
    assert moon.lines


@ROLES
def test_v14_every_payload_type_inside_sk_is_shown_and_survived(we_answer: bool) -> None:
    talk = Talk(we_answer, Watched(loud=True)).established()
    spi = 1
    for number in range(256):
        for body in (b"", b"\x1b\n\r\0" * 16):
            plaintext = b"\0\x7f" + (len(body) + 4).to_bytes(2, "big") + body
            if not talk.moon.views:
                spi += 1
                talk = Talk(we_answer, Watched(loud=True), spi=spi.to_bytes(8, "big")).established()
            answer = talk.ask_raw(Exchange.INFORMATIONAL, number, plaintext)
            assert answer is None or set(notifies(answer)) <= DEFINED
            assert talk.moon.objections == []


@ROLES
@pytest.mark.parametrize("seed", range(2))
def test_v15_the_hostile_corpus_is_survived_with_every_logger_and_the_ladder_on(
    we_answer: bool, seed: int
) -> None:
    """CVE-2020-1763, CVE-2022-23094: a log line used the SA that there was not."""
    chance = random.Random(seed * 2 + we_answer)
    moon = Watched(options=OPEN_DOOR, loud=True)
    datagrams = list(corpus.clear_messages().values())
    chains = list(corpus.plaintexts().values())
    talk = Talk(we_answer, moon)
    datagrams.append(talk.sun.sent)
    number = 0
    for round_ in range(350):
        wild = mutate(chance.choice(datagrams), chance, datagrams)
        if round_ % 2:
            wild = with_fixed_length(wild) if len(wild) >= 28 else wild
        moon.receive(wild)
        exchange, flags, first, octets = chance.choice(chains)
        octets = mutate(octets, chance, [c[3] for c in chains])
        message_id = chance.choice((talk.next_id, talk.next_id, 0, 1, 2, 3))
        moon.receive(
            seal_raw(talk.sun, first, octets, exchange, message_id, response=bool(flags & Flags.RESPONSE))
        )
        if round_ % 25 == 12:
            moon.wait(chance.choice((0.1, 1.0, 5.0)))
        if round_ % 7 == 6:
            number += 1
            if not we_answer:
                talk.close()
            talk = Talk(we_answer, moon, spi=(number << 16).to_bytes(8, "big"), nonce=chance.randbytes(32))
            if round_ % 2:
                talk.authenticate()
    assert moon.objections == []
    talk.close()
    moon.wait(700)
    moon.nothing_left()


def costly(size: int) -> dict[str, bytes]:
    """Messages of about `size` octets whose parsing could cost the most."""
    _, heavy = encode_payloads(
        [SaPayload((Proposal(1, Protocol.IKE, b"", tuple([Transform(1, n) for n in range(200)])),))]
    )
    _, selector = encode_payloads([TsiPayload(selectors("1"))])
    return {
        "proposals": heavy * (size // len(heavy) + 1),
        "empty payloads": b"\x29\0\0\4" * (size // 4),
        "one long notify": b"\0\0" + size.to_bytes(2, "big") + bytes(size - 4),
        "selectors": b"\0\0" + size.to_bytes(2, "big") + b"\xff\0\0\0" + selector[8:] * ((size - 8) // 16),
        "zero lengths": b"\x21\0\0\0" * (size // 4),
        "one short": b"\x2c\0\0\3" * (size // 4),
        "delete": b"\0\0" + size.to_bytes(2, "big") + b"\3\4\xff\xff" + bytes(size - 8),
    }


@pytest.mark.parametrize("first", [33, 41, 42, 44, 47, 49, 200])
def test_v32_no_message_costs_more_than_its_length_allows(first: int) -> None:
    """CVE-2025-20253: a packet looped for ever. Counted, not timed: calls grow no faster than octets."""
    for title in costly(1000):
        counts = []
        for size in (1000, 4000, 16000, 60000):
            datagram = bytearray(first_request([]) + costly(size)[title])
            datagram[16] = first
            wire = with_fixed_length(bytes(datagram))
            moon = Watched(options=OPEN_DOOR)
            counts.append(work(map(moon.receive, [wire])))
            assert counts[-1] < 3000 + 12 * size, title
        assert counts[-1] < 100_000, title


@ROLES
def test_v32_no_protected_message_costs_more_than_its_length_allows(we_answer: bool) -> None:
    for title in costly(1000):
        for size in (1000, 16000, 60000):
            talk = Talk(we_answer).established()
            wire = seal_raw(talk.sun, 41, costly(size)[title], Exchange.INFORMATIONAL, talk.next_id)
            count = work(map(talk.moon.receive, [wire]))
            assert count < 6000 + 12 * size, title
            assert count < 120_000, title


def test_a3_a_header_alone_that_promises_a_payload_is_malformed() -> None:
    """free5gc #968."""
    moon = Watched()
    for kind in range(1, 256):
        datagram = bytearray(first_request([]))
        datagram[16] = kind
        assert moon.receive(bytes(datagram)) == []
        assert moon.drops[-1] == "malformed"


@ROLES
def test_a3_structures_below_their_least_length_are_malformed(we_answer: bool) -> None:
    """free5gc #940, #938, #984; pyikev2: a transform of 9 octets, EAP of 4, an address of 1, false counts."""
    transform = b"\0\0\0\x09\1\0\0\x14\x80"
    proposal = b"\0\0\0" + bytes((8 + len(transform),)) + b"\1\3\0\1" + transform
    chains = {
        "transform": (33, b"\0\0" + (4 + len(proposal)).to_bytes(2, "big") + proposal),
        "EAP": (48, b"\0\0\0\4"),
        "EAP of 7": (48, b"\0\0\0\7\1\1\0"),
        "address": (47, b"\0\0\0\x0d\1\0\0\0\0\1\0\1\xc0"),
        "address of 3": (47, b"\0\0\0\x0f\1\0\0\0\0\1\0\3\xc0\0\2"),
        "inner count": (33, b"\0\0\0\x0c\0\0\0\x08\1\3\4\xff"),
        "delete count": (42, b"\0\0\0\x0c\3\4\xff\xff\1\2\3\4"),
    }
    for first, chain in chains.values():
        talk = Talk(we_answer).established()
        answer = talk.ask_raw(Exchange.INFORMATIONAL, first, chain)
        assert notifies(answer) == [Notify.INVALID_SYNTAX]


@ROLES
def test_a3_padding_beyond_the_plaintext_is_dropped_like_a_bad_icv(we_answer: bool) -> None:
    """free5gc #997. Sealed by hand, so that the pad length is what no honest peer sends."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    talk = Talk(we_answer).established()
    before = talk.moon.picture()
    sun = talk.sun
    assert sun.keys is not None
    key = sun.keys.sk_ei if sun.initiator else sun.keys.sk_er
    for pad in (1, 2, 16, 255):
        good = seal_raw(sun, 0, b"", Exchange.INFORMATIONAL, talk.next_id)
        associated, iv = good[:32], good[32:40]
        sealed = AESGCM(key[:-4]).encrypt(key[-4:] + iv, bytes((pad,)), associated)
        assert talk.moon.receive(associated + iv + sealed) == []
        assert talk.moon.drops[-1] == "integrity"
        assert talk.moon.picture() == before


@ROLES
def test_a3_one_flipped_bit_anywhere_in_a_protected_message_is_refused(we_answer: bool) -> None:
    """SWu computed the ICV and compared it with nothing."""
    talk = Talk(we_answer).established()
    good = talk.sun.seal([], Exchange.INFORMATIONAL, talk.next_id)
    before = talk.moon.picture()
    for at in range(28, len(good)):
        for bit in range(8):
            odd = bytearray(good)
            odd[at] ^= 1 << bit
            assert talk.moon.receive(bytes(odd)) == []
            assert talk.moon.picture() == before
    assert len(talk.moon.receive(good)) == 1
