"""What is forged, replayed, edited on the way or only half true: a live IKE SA stays as it was.

Hints are hints, loops end, nobody talks us into less than we offered (docs/security.md has the list).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import pytest

from cygnet.crypto.proposals import parse_proposals
from cygnet.ike.configuration import Unique
from cygnet.ike.errors import Reason
from cygnet.ike.events import ChildSaUp
from cygnet.ike.v2.ike_sa_init import MAX_COOKIES
from cygnet.ike.v2.receiving import HINT_INTERVAL
from cygnet.ike.world import Path
from cygnet.wire.message import decode, encode
from cygnet.wire.numbers import Exchange, Flags, KeMethod, Notify, Protocol, TransformType
from cygnet.wire.payloads import (
    AuthPayload,
    DeletePayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    WireSelector,
)
from tests.unit.ike_by_hand import PATH, Sun, ike_proposal, selectors, with_secret
from tests.unit.security_by_hand import (
    ELSEWHERE,
    OPEN_DOOR,
    ROLES,
    SECRET,
    SUN,
    SUN_SPI,
    Talk,
    Watched,
    everything,
    first_request,
    good_first,
    psk_connection,
    seal_raw,
)

ERRORS = (
    Notify.UNSUPPORTED_CRITICAL_PAYLOAD, Notify.INVALID_IKE_SPI, Notify.INVALID_MAJOR_VERSION,
    Notify.INVALID_SYNTAX, Notify.INVALID_MESSAGE_ID, Notify.INVALID_SPI, Notify.NO_PROPOSAL_CHOSEN,
    Notify.INVALID_KE_PAYLOAD, Notify.AUTHENTICATION_FAILED, Notify.NO_ADDITIONAL_SAS,
    Notify.TEMPORARY_FAILURE, Notify.CHILD_SA_NOT_FOUND, 8191,
)  # fmt: skip


@ROLES
def test_v29_nothing_in_clear_and_no_bad_icv_moves_a_live_ike_sa(we_answer: bool) -> None:
    """OpenIKED 7111c5e: clear payloads were accepted, and the window moved for a bad message."""
    talk = Talk(we_answer).established()
    sun, moon = talk.sun, talk.moon
    before = moon.picture()
    for exchange, payloads in everything(talk):
        for message_id, response in itertools.product((talk.next_id, 0, 5), (False, True)):
            header = sun.header(exchange, message_id, response=response)
            if not any(isinstance(p, NotifyPayload) and Notify.is_error(p.type) for p in payloads):
                # An error in clear is a hint, and may cause a probe (T11).
                assert moon.receive(encode(header, payloads)) == []
            sealed = bytearray(sun.seal(payloads, exchange, message_id, response=response))
            sealed[-1] ^= 1
            assert moon.receive(bytes(sealed)) == []
            assert moon.picture() == before
    # What stands outside of SK in a message that is good means nothing (RFC 7383, section 2.5.3).
    assert talk.ask(Exchange.INFORMATIONAL, []) is not None


@ROLES
def test_v29_a_payload_in_front_of_sk_means_nothing(we_answer: bool) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    talk = Talk(we_answer).established()
    sun = talk.sun
    assert sun.keys is not None
    key = sun.keys.sk_ei if sun.initiator else sun.keys.sk_er
    delete = bytes((46, 0, 0, 8, 1, 0, 0, 0))
    header = bytearray(seal_raw(sun, 0, b"", Exchange.INFORMATIONAL, talk.next_id)[:28])
    header[16] = 42
    iv = (900).to_bytes(8, "big")
    sk = b"\0\0" + (4 + 8 + 1 + 16).to_bytes(2, "big")
    whole = len(header) + len(delete) + 4 + 8 + 1 + 16
    associated = bytes(header[:24]) + whole.to_bytes(4, "big") + delete + sk
    sealed = AESGCM(key[:-4]).encrypt(key[-4:] + iv, b"\0", associated)
    (answer,) = talk.moon.receive(associated + iv + sealed)
    assert talk.sun.open(answer).payloads == ()
    assert [view.state for view in talk.moon.views] == ["ESTABLISHED"]


@ROLES
def test_v30_a_forged_message_from_elsewhere_moves_no_endpoint(we_answer: bool) -> None:
    """OpenIKED baf0c8e: the peer's address was updated before the packet was authenticated."""
    talk = Talk(we_answer).established()
    (sa,) = talk.moon.endpoint.by_number.values()
    for nat in (False, True):
        sa.state = replace(sa.state, nat_remote=nat)
        before = talk.moon.picture()
        good = talk.sun.seal([], Exchange.INFORMATIONAL, talk.next_id)
        for at in range(28, len(good)):
            odd = bytearray(good)
            odd[at] ^= 0x10
            assert talk.moon.receive(bytes(odd), ELSEWHERE) == []
        assert talk.moon.picture() == before
        assert sa.state.path == PATH


@ROLES
def test_v30_t43_a_replayed_message_from_elsewhere_moves_no_endpoint(we_answer: bool) -> None:
    talk = Talk(we_answer).established()
    (sa,) = talk.moon.endpoint.by_number.values()
    sa.state = replace(sa.state, nat_remote=True)
    old = talk.sun.seal([], Exchange.INFORMATIONAL, talk.next_id)
    talk.moon.receive(old)
    talk.next_id += 1
    talk.ask(Exchange.INFORMATIONAL, [])
    for datagram in (old, talk.sun.sent):
        talk.moon.receive(datagram, ELSEWHERE)
        assert sa.state.path == PATH
    # An authentic, new one does, where the peer is behind a NAT (RFC 7296, section 2.23) and not elsewhere.
    talk.ask(Exchange.INFORMATIONAL, [], path=ELSEWHERE)
    assert sa.state.path == ELSEWHERE


@ROLES
def test_t5_junk_with_the_right_spis_is_one_drop_each_and_nothing_else(we_answer: bool) -> None:
    talk = Talk(we_answer).established()
    before, sent = talk.moon.picture(), len(talk.moon.sent)
    good = talk.sun.seal([], Exchange.INFORMATIONAL, talk.next_id)
    for number in range(2000):
        junk = good[:32] + number.to_bytes(8, "big") * ((len(good) - 32) // 8 + 1)
        talk.moon.receive(junk[: len(good)], PATH if number % 2 else ELSEWHERE)
    assert talk.moon.drops[-2000:] == ["integrity"] * 2000
    assert talk.moon.picture() == before
    assert len(talk.moon.sent) == sent
    assert talk.ask(Exchange.INFORMATIONAL, []) is not None


def whole_conversation(we_answer: bool) -> tuple[Talk, list[bytes], dict[bytes, list[bytes]]]:
    """What sun has said in the life of an IKE SA, and what moon answered to each."""
    talk = Talk(we_answer)
    said: list[bytes] = [talk.sun.sent]
    answered: dict[bytes, list[bytes]] = {}

    def say(payloads: Iterable[Payload], exchange: int, message_id: int, response: bool = False) -> None:
        datagram = talk.sun.seal(payloads, exchange, message_id, response=response)
        answered[datagram] = talk.moon.receive(datagram)
        said.append(datagram)

    say(talk.good(), Exchange.IKE_AUTH, 1, response=not we_answer)
    at = 2 if we_answer else 0
    say([], Exchange.INFORMATIONAL, at)
    say(talk.child_request(), Exchange.CREATE_CHILD_SA, at + 1)
    say(talk.rekey_request(spi=b"\0\5\5\5", nonce=b"\x46" * 32), Exchange.CREATE_CHILD_SA, at + 2)
    say([DeletePayload(Protocol.ESP, (SUN_SPI,))], Exchange.INFORMATIONAL, at + 3)
    talk.next_id = at + 4
    return talk, said, answered


@ROLES
def test_t9_a_replayed_conversation_changes_nothing_and_only_the_last_request_is_answered_again(
    we_answer: bool,
) -> None:
    talk, said, answered = whole_conversation(we_answer)
    moon = talk.moon
    live = said[1:]
    before = moon.picture()
    for order in (live, live[::-1], live * 20):
        for datagram in order:
            again = moon.receive(datagram)
            assert again in ([], answered[datagram])
            assert bool(again) == (datagram is said[-1])
            assert moon.picture() == before
    # The first message of all is any stranger's: at most a half-open SA that goes by itself.
    for _ in range(100):
        moon.receive(said[0])
    assert len(moon.views) <= 1 + len(moon.endpoint.half_open) <= 6
    moon.wait(40)
    assert [view.state for view in moon.views] == ["ESTABLISHED"]
    assert talk.ask(Exchange.INFORMATIONAL, []) is not None


@ROLES
def test_t9_message_ids_outside_the_window_of_one_are_ignored(we_answer: bool) -> None:
    talk = Talk(we_answer).established()
    before = talk.moon.picture()
    for distance in (-2, -1, 1, 2, 3, 1000, 1 << 31):
        message_id = (talk.next_id + distance) % (1 << 32)
        assert talk.moon.receive(talk.sun.seal([], Exchange.INFORMATIONAL, message_id)) == []
        assert talk.moon.drops[-1] == "message-id"
        assert talk.moon.receive(talk.sun.seal([], Exchange.INFORMATIONAL, message_id, response=True)) == []
    assert talk.moon.picture() == before


@ROLES
def test_t9_a_different_request_with_an_answered_id_is_not_answered(we_answer: bool) -> None:
    talk = Talk(we_answer).established()
    assert talk.ask(Exchange.INFORMATIONAL, []) is not None
    talk.next_id -= 1
    before = talk.moon.picture()
    assert talk.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.IKE, ())]) is None
    assert talk.moon.picture() == before


@ROLES
def test_t11_unprotected_errors_are_hints_that_cause_one_probe_at_most(we_answer: bool) -> None:
    """RFC 7296, sections 1.5 and 2.21.4: they never delete state."""
    talk = Talk(we_answer).established()
    moon, sun = talk.moon, talk.sun
    requests = 0
    own_id = 0 if we_answer else 2
    for round_ in range(3):
        sent = len(moon.sent)
        for number in range(700):
            notify = NotifyPayload(0, b"", ERRORS[number % len(ERRORS)], b"\0\x0e")
            header = sun.header(
                (Exchange.INFORMATIONAL, Exchange.IKE_AUTH, Exchange.CREATE_CHILD_SA)[number % 3],
                number % 7, response=number % 2 == 0,
            )  # fmt: skip
            moon.receive(encode(header, [notify]), PATH if number % 5 else ELSEWHERE)
        probes = moon.sent[sent:]
        assert len(probes) <= 1, round_
        for probe in probes:
            assert sun.open(probe).payloads == ()
            talk.answers([], Exchange.INFORMATIONAL, own_id)
            own_id += 1
            requests += 1
        assert [view.state for view in moon.views] == ["ESTABLISHED"]
        assert len(moon.in_force) == 2
        moon.wait(HINT_INTERVAL + 1)
    assert 1 <= requests <= 3


def test_t11_t14_refusals_in_clear_are_believed_only_after_we_asked_again() -> None:
    """A forger's INVALID_MAJOR_VERSION or NO_PROPOSAL_CHOSEN: the real answer still counts, and there is no
    older version to fall back to."""
    for error in (Notify.INVALID_MAJOR_VERSION, Notify.NO_PROPOSAL_CHOSEN, Notify.INVALID_SYNTAX, 8191):
        moon = Watched()
        moon.initiate("peer")
        sun = Sun(False)
        sun.spi_i = decode(moon.sent[0]).header.initiator_spi
        header = sun.header(Exchange.IKE_SA_INIT, 0, response=True)
        for _ in range(500):
            assert moon.receive(encode(header, [NotifyPayload(0, b"", error, b"")])) == []
        assert [view.state for view in moon.views] == ["CONNECTING"]
        sun.first(moon)
        sun.answer(moon, sun.authentication(SUN, with_secret(SECRET)))
        assert len(moon.established) == 1
        assert {one[17] >> 4 for one in moon.sent} == {2}


def test_t14_a_gateway_that_gets_no_ikev2_never_says_anything_else() -> None:
    moon = Watched()
    moon.initiate("peer")
    header = bytearray(moon.sent[0])
    for version in (0x10, 0x11, 0x30):
        answer = bytearray(encode(replace(decode(moon.sent[0]).header, flags=Flags.RESPONSE), []))
        answer[17] = version
        assert moon.receive(bytes(answer)) == []
    moon.wait(700)
    assert {one[17] for one in moon.sent} == {header[17]} == {0x20}
    assert moon.failures[-1].reason == Reason.PEER_UNREACHABLE
    moon.nothing_left()


def test_t10_initial_contact_counts_only_behind_a_proof_and_only_for_the_same_peer() -> None:
    for unique in (Unique.NO, Unique.REPLACE, Unique.NEVER):
        moon = Watched(replace(psk_connection(), unique=unique), options=OPEN_DOOR)
        Talk(True, moon, spi=b"\1" * 8).established()
        contact = NotifyPayload(0, b"", Notify.INITIAL_CONTACT, b"")
        # In clear, in a first message, under the wrong secret, of a live SA from elsewhere.
        moon.receive(first_request([*good_first(), contact]))
        rogue = Talk(True, moon, spi=b"\2" * 8)
        rogue.authenticate([*rogue.sun.authentication(SUN, with_secret(b"x" * 32)), contact])
        assert [v.state for v in moon.views if v.state == "ESTABLISHED"] == ["ESTABLISHED"]
        again = Talk(True, moon, spi=b"\3" * 8, nonce=b"\x37" * 32)
        again.authenticate([*again.good(), contact])
        count = sum(view.state == "ESTABLISHED" for view in moon.views)
        assert count == (2 if unique is Unique.NEVER else 1)


def test_t15_no_octet_of_ike_sa_init_can_be_changed_on_the_way() -> None:
    """AUTH covers both messages whole: whoever edits one, of either direction, prevents the tunnel."""
    probe = Talk(True)
    sizes = len(probe.sun.sent), len(probe.sun.received)
    for direction, size in enumerate(sizes):
        for at in range(size):
            moon = Watched()
            sun = Sun(True)
            if direction == 0:
                _edited_request(moon, sun, at)
            else:
                sun.first(moon)
                sun.received = _edited(sun.received, at)
                # Sun believes what it got: its proof covers its own message and moon's nonce as it read it.
                sun.their_nonce = _nonce_of(sun.received) or sun.their_nonce
            if sun.keys is None:
                continue
            payloads = sun.authentication(SUN, with_secret(SECRET))
            moon.receive(sun.seal(payloads, Exchange.IKE_AUTH, 1))
            if direction == 0:
                assert moon.established == [], at
            else:
                _sun_refuses(moon, sun, at)


def _edited(datagram: bytes, at: int) -> bytes:
    return datagram[:at] + bytes((datagram[at] ^ 0x01,)) + datagram[at + 1 :]


def _nonce_of(datagram: bytes) -> bytes | None:
    from cygnet.wire.cursor import Malformed

    try:
        return decode(datagram).one(NoncePayload).data
    except Malformed:
        return None


def _edited_request(moon: Watched, sun: Sun, at: int) -> None:
    """Sun's request is changed on the way; sun goes on with what it had sent."""
    from cygnet.wire.cursor import Malformed

    def on_the_way(datagram: bytes, path: Path = PATH) -> list[bytes]:
        return Watched.receive(moon, _edited(datagram, at), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moon, "receive", on_the_way)
        try:
            sun.first(moon)
        except (ValueError, Malformed):
            sun.keys = None  # there was no answer, or none to go on with


def _sun_refuses(moon: Watched, sun: Sun, at: int) -> None:
    """The other end checks moon's proof over what it received: an edited octet of moon's message is in it."""
    import hmac

    from cryptography.exceptions import InvalidTag

    from cygnet.auth.proof import prove_with_secret
    from cygnet.wire.cursor import Malformed
    from cygnet.wire.numbers import Prf

    answers = [one for one in moon.sent if decode(one).header.exchange == Exchange.IKE_AUTH]
    if not answers:
        return
    try:
        message = sun.open(answers[-1])
    except (InvalidTag, Malformed):
        return
    auth, idr = message.maybe(AuthPayload), message.maybe(IdrPayload)
    if auth is None or idr is None:
        return
    assert sun.keys is not None
    body = bytes((idr.id_type,)) + idr.reserved + idr.data
    octets = sun.received + sun.nonce + hmac.digest(sun.keys.sk_pr, body, "sha256")
    assert prove_with_secret(SECRET, Prf.PRF_HMAC_SHA2_256, octets).data != auth.data, at


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (TransformType.ENCR, Transform(TransformType.ENCR, 3)),
        (TransformType.ENCR, Transform(TransformType.ENCR, 20, ())),
        (TransformType.ENCR, None),
        (TransformType.PRF, Transform(TransformType.PRF, 2)),
        (TransformType.KE, Transform(TransformType.KE, 2)),
        (TransformType.KE, Transform(TransformType.KE, 0)),
        (TransformType.KE, None),
    ],
)
def test_t15_v79_an_answer_outside_of_our_offer_is_passed_over(kind: int, wrong: Transform | None) -> None:
    """The responder's choice is one transform of each type, of those that we offered, key length included."""
    moon = Watched()
    moon.initiate("peer")
    sun = Sun(False)
    sun.spi_i = decode(moon.sent[0]).header.initiator_spi
    (proposal,) = ike_proposal().proposals
    rest = tuple([t for t in proposal.transforms if t.type != kind])
    sa = SaPayload((replace(proposal, transforms=(*rest, *([wrong] if wrong else []))),))
    before = moon.picture()
    header = sun.header(Exchange.IKE_SA_INIT, 0, response=True)
    assert moon.receive(encode(header, [sa, *good_first()[1:]])) == []
    twice = SaPayload((replace(proposal, transforms=(*proposal.transforms, proposal.transforms[0])),))
    assert moon.receive(encode(header, [twice, *good_first()[1:]])) == []
    assert moon.picture() == before


def loops(
    answers: Iterable[NotifyPayload], keywords: str = "x25519-ecp256-ecp384-ecp521"
) -> tuple[Watched, int]:
    """A responder that always has another reason to send us back; how many first messages we sent."""
    connection = replace(
        psk_connection(), proposals=parse_proposals(f"aes256gcm16-prfsha256-{keywords}", Protocol.IKE)
    )
    moon = Watched(connection)
    moon.initiate("peer")
    sun = Sun(False)
    for notify in itertools.islice(itertools.cycle(answers), 200):
        sun.spi_i = decode(moon.sent[0]).header.initiator_spi
        sun.spi_r = bytes(8)
        header = sun.header(Exchange.IKE_SA_INIT, 0, response=True)
        moon.receive(encode(header, [notify]))
    return moon, len(moon.sent)


def invalid_ke(group: int) -> NotifyPayload:
    return NotifyPayload(0, b"", Notify.INVALID_KE_PAYLOAD, group.to_bytes(2, "big"))


def cookie(data: bytes) -> NotifyPayload:
    return NotifyPayload(0, b"", Notify.COOKIE, data)


GROUPS = (KeMethod.ECP_256, KeMethod.ECP_384, KeMethod.ECP_521, KeMethod.CURVE_25519)


def test_t16_a_responder_that_changes_its_mind_about_the_group_is_followed_once_for_each() -> None:
    _, sent = loops([invalid_ke(group) for group in GROUPS])
    assert sent == len(GROUPS)
    _, sent = loops([invalid_ke(KeMethod.ECP_256), invalid_ke(KeMethod.CURVE_25519)])
    assert sent == 2


def test_t16_a_group_that_is_not_configured_is_refused_at_once() -> None:
    """A downgrade to a weak group is not even considered; the reason names both sides."""
    moon, sent = loops([invalid_ke(KeMethod.MODP_1024 if hasattr(KeMethod, "MODP_1024") else 2)])
    assert sent == 1
    moon.wait(700)
    assert moon.failures[-1].reason == Reason.KEY_EXCHANGE_MISMATCH
    assert {decode(one).one(KePayload).group for one in moon.sent} == {KeMethod.CURVE_25519}


def test_t16_cookies_and_groups_together_are_bounded() -> None:
    answers = [item for n, group in enumerate(GROUPS) for item in (cookie(bytes((n, 1))), invalid_ke(group))]
    moon, sent = loops(answers)
    assert sent <= len(GROUPS) + MAX_COOKIES
    moon.wait(700)
    assert moon.failures[-1].reason == Reason.PEER_UNREACHABLE
    moon.nothing_left()


def test_t17_cookies_without_end_and_of_odd_sizes_are_passed_over() -> None:
    _, sent = loops([cookie(bytes((n,)) * 20) for n in range(100)])
    assert sent == 1 + MAX_COOKIES
    _, sent = loops([cookie(b""), cookie(bytes(65)), cookie(bytes(20_000))])
    assert sent == 1
    moon, sent = loops([cookie(bytes(64))])
    assert sent == 1 + MAX_COOKIES
    assert decode(moon.sent[-1]).notify(Notify.COOKIE).data == bytes(64)  # type: ignore[union-attr]


def wide(first: bytes, last: bytes) -> tuple[WireSelector, ...]:
    return (WireSelector(7, 0, 0, 65535, first, last),)


EVERYTHING = wide(bytes(4), b"\xff" * 4)


WIDER = wide(b"\x0a\0\0\0", b"\x0a\xff\xff\xff")


NARROWER = wide(b"\x0a\2\0\0", b"\x0a\2\0\xff")


@pytest.mark.parametrize("side", ["TSi", "TSr"])
@pytest.mark.parametrize("answered", [EVERYTHING, WIDER, wide(b"\xc0\0\2\0", b"\xc0\0\2\xff")])
def test_t23_an_initiator_takes_no_selectors_that_it_did_not_offer(
    side: str, answered: tuple[WireSelector, ...]
) -> None:
    talk = Talk(False)
    payloads: list[Payload] = []
    for payload in talk.good():
        if isinstance(payload, TsiPayload) and side == "TSi":
            payload = TsiPayload(answered)
        elif isinstance(payload, TsrPayload) and side == "TSr":
            payload = TsrPayload(answered)
        payloads.append(payload)
    talk.authenticate(payloads)
    assert talk.moon.in_force == set()
    assert not [event for event in talk.moon.events if isinstance(event, ChildSaUp)]
    assert Reason.SELECTOR_MISMATCH in {failure.reason for failure in talk.moon.failures}
    # The IKE SA is good; the pair that the peer made is withdrawn.
    assert talk.said[-1].one(DeletePayload).protocol == Protocol.ESP


@ROLES
@pytest.mark.parametrize("asked", [EVERYTHING, WIDER, NARROWER])
def test_t23_what_is_asked_for_is_narrowed_to_what_is_configured_in_rekeys_too(
    we_answer: bool, asked: tuple[WireSelector, ...]
) -> None:
    """libreswan's rekey_respond_supernet and _subnet."""
    talk = Talk(we_answer).established()
    for payloads in (
        talk.child_request(),
        talk.rekey_request(spi=b"\0\7\7\7", nonce=b"\x47" * 32),
    ):
        odd = [TsiPayload(asked) if isinstance(p, TsiPayload) else p for p in payloads]
        answer = talk.ask(Exchange.CREATE_CHILD_SA, odd)
        assert answer is not None
        (got,) = answer.one(TsiPayload).ranges
        (most,) = asked
        assert b"\x0a\2\0\0" <= got.first <= got.last <= b"\x0a\2\xff\xff"
        assert most.first <= got.first <= got.last <= most.last
    for effect in talk.moon.installed:
        for selector in effect.sa.remote_selectors:
            assert 0x0A020000 <= selector.first <= selector.last <= 0x0A02FFFF


@ROLES
def test_t23_our_own_rekey_asks_for_what_the_old_pair_carries(we_answer: bool) -> None:
    """libreswan's rekey_initiate_*: neither more nor less (RFC 7296, section 2.9.2)."""
    talk = Talk(we_answer).established()
    (view,) = talk.moon.views
    talk.moon.endpoint.rekey(view.unique_id, view.children[0].pair, talk.moon.now)
    talk.moon.carry_out()
    request = talk.sun.open(talk.moon.sent[-1])
    assert request.one(TsiPayload).ranges == selectors("1")
    assert request.one(TsrPayload).ranges == selectors("2")


@pytest.mark.parametrize("kind", [Notify.REDIRECT, Notify.REDIRECTED_FROM, Notify.REDIRECT_SUPPORTED])
def test_t18_a_redirect_leads_nowhere(kind: int) -> None:
    """It is not built and not announced: in clear it is passed over, behind a proof it says nothing to us."""
    moon = Watched()
    moon.initiate("peer")
    assert decode(moon.sent[0]).notify(Notify.REDIRECT_SUPPORTED) is None
    sun = Sun(False)
    sun.spi_i = decode(moon.sent[0]).header.initiator_spi
    elsewhere = NotifyPayload(0, b"", kind, b"\x01\x04\xc0\x00\x02\x42" + b"\x33" * 32)
    before = moon.picture()
    header = sun.header(Exchange.IKE_SA_INIT, 0, response=True)
    assert moon.receive(encode(header, [elsewhere])) == []
    assert moon.picture() == before
    sun.first(moon)
    sun.answer(moon, [*sun.authentication(SUN, with_secret(SECRET)), elsewhere])
    assert len(moon.established) == 1
    assert {view.path for view in moon.views} == {PATH}
