"""Further key exchanges and pre-shared keys from a hostile peer: cut short, lying about what they are, said
twice, or never said (RFC 9242, 9370, 8784).

What comes before the peer has proved who it is ends the IKE SA at most; behind that, its own exchange.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from cygnet.auth.identity import Identity
from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.key_exchange import generate
from cygnet.crypto.proposals import parse_proposals
from cygnet.wire.message import Message, decode, encode
from cygnet.wire.numbers import Exchange, KeMethod, Notify, Protocol, TransformType
from cygnet.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
)
from tests.unit.ike_by_hand import Sun, esp_proposal, ike_proposal, selectors, with_secret
from tests.unit.security_by_hand import OPEN_DOOR, SECRET, SUN, Talk, Watched, psk_connection, seal_raw

ML_KEM = generate(KeMethod.ML_KEM_768, SeededEntropy(4)).public
POINT = generate(KeMethod.ECP_256, SeededEntropy(5)).public
X25519 = generate(KeMethod.CURVE_25519, SeededEntropy(6)).public
SUPPORTED = NotifyPayload(0, b"", Notify.INTERMEDIATE_EXCHANGE_SUPPORTED, b"")
PATIENCE = 21.0


def with_further(offer: SaPayload, method: int) -> SaPayload:
    (proposal,) = offer.proposals
    further = Transform(TransformType.ADDITIONAL_KE_1, method)
    return SaPayload((replace(proposal, transforms=(*proposal.transforms, further)),))


def hybrid() -> Watched:
    made = psk_connection()
    (child,) = made.children
    child = replace(child, proposals=parse_proposals("aes256gcm16-x25519-ke1_ecp256", Protocol.ESP))
    ike = parse_proposals("aes256gcm16-prfsha256-x25519-ke1_mlkem768", Protocol.IKE)
    return Watched(replace(made, proposals=ike, children=(child,)), options=OPEN_DOOR)


def met() -> tuple[Watched, Sun]:
    """Moon answers; IKE_SA_INIT agreed on ML-KEM-768 as a further key exchange."""
    moon = hybrid()
    sun = Sun(True, proposal=with_further(ike_proposal(), KeMethod.ML_KEM_768), more=(SUPPORTED,))
    sun.first(moon)
    assert decode(sun.received).notify(Notify.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None
    return moon, sun


# -- IKE_INTERMEDIATE -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payloads",
    [
        [],
        [KePayload(KeMethod.ML_KEM_768, b"")],
        [KePayload(KeMethod.ML_KEM_768, ML_KEM[:-1])],
        [KePayload(KeMethod.ML_KEM_768, ML_KEM + b"\0")],
        [KePayload(KeMethod.ML_KEM_768, b"\xff" * len(ML_KEM))],
        [KePayload(KeMethod.ML_KEM_1024, ML_KEM)],
        [KePayload(KeMethod.CURVE_25519, X25519)],
        [KePayload(KeMethod.ML_KEM_768, ML_KEM)] * 2,
        [NoncePayload(bytes(32))],
    ],
    ids=["none", "empty", "short", "long", "no key", "other size", "other method", "two", "no KE"],
)
def test_a_wrong_further_key_exchange_ends_the_attempt(payloads: list[Payload]) -> None:
    moon, sun = met()
    answer = sun.request(moon, payloads, Exchange.IKE_INTERMEDIATE)
    assert answer is not None
    assert answer.error() is not None
    assert answer.maybe(KePayload) is None
    moon.wait(60)
    moon.nothing_left()
    assert moon.established == []


@pytest.mark.parametrize("length", range(24))
def test_octets_cut_anywhere_are_no_further_key_exchange(length: int) -> None:
    moon, sun = met()
    body = bytes((0, 0)) + (8 + len(ML_KEM)).to_bytes(2, "big") + bytes((0, 36, 0, 0)) + ML_KEM
    moon.receive(seal_raw(sun, 34, body[:length], Exchange.IKE_INTERMEDIATE, 1))
    moon.wait(60)
    moon.nothing_left()
    assert moon.established == []


def test_a_further_key_exchange_said_twice_is_answered_from_the_kept_octets() -> None:
    moon, sun = met()
    datagram = sun.seal([KePayload(KeMethod.ML_KEM_768, ML_KEM)], Exchange.IKE_INTERMEDIATE, 1)
    (first,) = moon.receive(datagram)
    before = moon.picture()
    # Its keys have changed by now; the answer that was lost is what the peer waits for.
    assert moon.receive(datagram) == [first]
    assert moon.picture() == before
    another = sun.seal([KePayload(KeMethod.ML_KEM_768, ML_KEM)], Exchange.IKE_INTERMEDIATE, 1)
    assert moon.receive(another) == []
    assert moon.picture() == before


@pytest.mark.parametrize("exchange", [Exchange.IKE_AUTH, Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL])
def test_nothing_else_comes_before_the_further_key_exchange(exchange: int) -> None:
    """An agreed key exchange is never left out: not even by whoever could prove who he is without it."""
    moon, sun = met()
    before = moon.picture()
    payloads = sun.authentication(SUN, with_secret(SECRET)) if exchange == Exchange.IKE_AUTH else []
    assert moon.receive(sun.seal(payloads, exchange, 1)) == []
    assert moon.picture() == before
    assert moon.established == []


def test_who_takes_no_further_key_exchanges_is_offered_none() -> None:
    moon = hybrid()
    sun = Sun(True, proposal=with_further(ike_proposal(), KeMethod.ML_KEM_768))
    request = [sun.proposal, KePayload(KeMethod.CURVE_25519, X25519), NoncePayload(sun.nonce)]
    sun.spi_r = bytes(8)
    (answer,) = moon.receive(encode(sun.header(Exchange.IKE_SA_INIT, 0, response=False), request))  # type: ignore[arg-type]
    assert decode(answer).notify(Notify.NO_PROPOSAL_CHOSEN) is not None
    moon.nothing_left()


# -- IKE_FOLLOWUP_KE --------------------------------------------------------------------------------


def talking() -> Talk:
    """Everything is up, on keys of IKE_SA_INIT alone; a Child SA of the peer's takes a further exchange."""
    made = psk_connection()
    (child,) = made.children
    both = parse_proposals(["aes256gcm16-noesn", "aes256gcm16-x25519-ke1_ecp256"], Protocol.ESP)
    moon = Watched(replace(made, children=(replace(child, proposals=both[::-1]),)), options=OPEN_DOOR)
    return Talk(True, moon).established()


def begun(talk: Talk, number: int = 0) -> NotifyPayload:
    """CREATE_CHILD_SA with a further key exchange; the link in its answer."""
    (proposal,) = with_further(esp_proposal(), KeMethod.ECP_256).proposals
    group = Transform(TransformType.KE, KeMethod.CURVE_25519)
    proposal = replace(proposal, spi=bytes((10, 11, 12, number)), transforms=(*proposal.transforms, group))
    answer = talk.ask(
        Exchange.CREATE_CHILD_SA,
        [
            SaPayload((proposal,)),
            NoncePayload(bytes((number + 1,)) * 32),
            KePayload(KeMethod.CURVE_25519, X25519),
            TsiPayload(selectors("2")),
            TsrPayload(selectors("1")),
        ],
    )
    assert answer is not None
    link = answer.notify(Notify.ADDITIONAL_KEY_EXCHANGE)
    assert link is not None, answer
    return link


def pairs(talk: Talk) -> int:
    return len(talk.moon.views[0].children)


def is_refused(answer: Message | None, notify: int) -> bool:
    return answer is not None and answer.notify(notify) is not None and answer.maybe(KePayload) is None


def test_the_pair_comes_to_be_with_the_further_key_exchange_and_not_before() -> None:
    talk = talking()
    link = begun(talk)
    assert pairs(talk) == 1
    answer = talk.ask(Exchange.IKE_FOLLOWUP_KE, [KePayload(KeMethod.ECP_256, POINT), link])
    assert answer is not None
    assert answer.one(KePayload).group == KeMethod.ECP_256
    assert answer.notify(Notify.ADDITIONAL_KEY_EXCHANGE) is None
    assert pairs(talk) == 2


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 200], ids=["empty", "zeros", "long"])
def test_a_link_that_nobody_gave_finds_nothing_and_changes_nothing(data: bytes) -> None:
    talk = talking()
    begun(talk)
    wrong = NotifyPayload(0, b"", Notify.ADDITIONAL_KEY_EXCHANGE, data)
    answer = talk.ask(Exchange.IKE_FOLLOWUP_KE, [KePayload(KeMethod.ECP_256, POINT), wrong])
    assert is_refused(answer, Notify.STATE_NOT_FOUND)
    assert is_refused(
        talk.ask(Exchange.IKE_FOLLOWUP_KE, [KePayload(KeMethod.ECP_256, POINT)]), Notify.STATE_NOT_FOUND
    )
    assert pairs(talk) == 1


def test_a_link_serves_once() -> None:
    talk = talking()
    link = begun(talk)
    talk.ask(Exchange.IKE_FOLLOWUP_KE, [KePayload(KeMethod.ECP_256, POINT), link])
    again = talk.ask(Exchange.IKE_FOLLOWUP_KE, [KePayload(KeMethod.ECP_256, POINT), link])
    assert is_refused(again, Notify.STATE_NOT_FOUND)
    assert pairs(talk) == 2


@pytest.mark.parametrize(
    "public",
    [
        KePayload(KeMethod.ECP_256, b""),
        KePayload(KeMethod.ECP_256, POINT[:-1]),
        KePayload(KeMethod.ECP_256, b"\x01" * 64),
        KePayload(KeMethod.ECP_384, POINT),
        KePayload(KeMethod.CURVE_25519, X25519),
    ],
    ids=["empty", "short", "no point", "other curve", "the first one's"],
)
def test_a_wrong_value_makes_no_pair_and_leaves_nothing(public: KePayload) -> None:
    talk = talking()
    answer = talk.ask(Exchange.IKE_FOLLOWUP_KE, [public, begun(talk)])
    assert is_refused(answer, Notify.INVALID_SYNTAX)
    talk.moon.wait(60)
    talk.moon.nothing_left()


def test_who_does_not_go_on_is_waited_for_in_measure_and_leaves_nothing() -> None:
    talk = talking()
    links = [begun(talk, number) for number in range(6)]
    held = len(talk.moon.endpoint._child_spis)
    # Four wait, besides the pair that is up.
    assert held <= 1 + 4
    beyond = talk.ask(Exchange.IKE_FOLLOWUP_KE, [KePayload(KeMethod.ECP_256, POINT), links[-1]])
    assert is_refused(beyond, Notify.STATE_NOT_FOUND)
    talk.moon.wait(PATIENCE)
    assert len(talk.moon.endpoint._child_spis) == 1
    late = talk.ask(Exchange.IKE_FOLLOWUP_KE, [KePayload(KeMethod.ECP_256, POINT), links[0]])
    assert is_refused(late, Notify.STATE_NOT_FOUND)
    talk.delete_ike()
    talk.moon.wait(60)
    talk.moon.nothing_left()


# -- pre-shared keys (RFC 8784) ---------------------------------------------------------------------


def with_office_key() -> Watched:
    moon = Watched(psk_connection(), options=OPEN_DOOR)
    key = b"carried by hand, and long"
    moon.endpoint.credentials.add_shared("office", "ppk", key, [Identity.parse("office")])
    return moon


@pytest.mark.parametrize("data", [b"", b"\x01office", b"\x02", b"\x02offic", b"\x02office\0", b"\x02" * 600])
def test_a_name_that_is_none_of_ours_authenticates_nobody(data: bytes) -> None:
    moon = with_office_key()
    sun = Sun(True, more=(NotifyPayload(0, b"", Notify.USE_PPK, b""),)).first(moon)
    assert decode(sun.received).notify(Notify.USE_PPK) is not None
    good = sun.authentication(SUN, with_secret(SECRET))
    answer = sun.request(moon, [*good, NotifyPayload(0, b"", Notify.PPK_IDENTITY, data)])
    assert is_refused(answer, Notify.AUTHENTICATION_FAILED)
    assert moon.established == []
    moon.wait(60)
    moon.nothing_left()


def test_who_said_that_it_uses_a_key_cannot_leave_it_out() -> None:
    moon = with_office_key()
    sun = Sun(True, more=(NotifyPayload(0, b"", Notify.USE_PPK, b""),)).first(moon)
    answer = sun.request(moon, sun.authentication(SUN, with_secret(SECRET)))
    assert is_refused(answer, Notify.AUTHENTICATION_FAILED)
    assert moon.established == []
