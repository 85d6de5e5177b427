"""The state machine under attack: messages in the wrong state, and things taken away in the middle.

Whoever is not authenticated changes nothing beyond a bounded, expiring entry. Both roles; sun has the right
keys wherever keys can be had (docs/security.md has the list of cases).
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cygnet.ike import collisions
from cygnet.ike.effects import InstallSa
from cygnet.ike.errors import Reason
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.policy.sa import Direction
from cygnet.wire.message import decode
from cygnet.wire.numbers import Exchange, KeMethod, Notify, Protocol, TransformType
from cygnet.wire.payloads import (
    DeletePayload,
    KePayload,
    NotifyPayload,
    Payload,
    SaPayload,
)
from tests.unit.ike_by_hand import PATH, Sun, ike_proposal, with_secret
from tests.unit.security_by_hand import (
    OPEN_DOOR,
    ROLES,
    SUN,
    SUN_SPI,
    Talk,
    Watched,
    everything,
    first_request,
    good_first,
    notifies,
    store,
    swapped,
)


def is_untouched(moon: Watched) -> None:
    assert moon.untouched
    assert moon.in_force == set()
    assert moon.objections == []


def refused_first_messages() -> dict[str, list[Payload]]:
    sa, ke, nonce = good_first()
    assert isinstance(ke, KePayload)
    (proposal,) = ike_proposal().proposals
    foreign = tuple([replace(t, id=3) if t.type == TransformType.ENCR else t for t in proposal.transforms])
    return {
        "no proposal": [SaPayload((replace(proposal, transforms=foreign),)), ke, nonce],
        "another group": [sa, KePayload(KeMethod.ECP_256, bytes(64)), nonce],
        "a bad value": [sa, KePayload(ke.group, bytes(32)), nonce],
        "no nonce": [sa, ke],
        "two nonces": [sa, ke, nonce, nonce],
        "nothing": [],
    }


@pytest.mark.parametrize("title", refused_first_messages())
def test_v2_v18_after_a_refused_first_message_there_is_nothing_to_go_on_with(title: str) -> None:
    """CVE-2009-1957/1958, CVE-2023-30570: a partial SA was left behind, and the next message met it."""
    moon = Watched(options=OPEN_DOOR)
    answers = [decode(one) for one in moon.receive(first_request(refused_first_messages()[title]))]
    assert not moon.endpoint.by_number
    assert not moon.endpoint.by_spi
    spis = {bytes(8), b"\x22" * 8, *[one.header.responder_spi for one in answers]}
    talk = Talk(True, Watched())
    for spi in spis:
        sun = replace(talk.sun, spi_i=b"\x66" * 8, spi_r=spi)
        for exchange, payloads in everything(talk):
            for message_id in (0, 1, 2):
                for response in (False, True):
                    moon.receive(sun.seal(payloads, exchange, message_id, response=response))
                    is_untouched(moon)
    assert moon.endpoint.by_number == {} or exchange_left_only_strangers(moon)


def exchange_left_only_strangers(moon: Watched) -> bool:
    """A good first message among them is a stranger's: half open, nothing more."""
    return {view.state for view in moon.views} <= {"CONNECTING"}


def test_v18_a_peer_whose_proof_failed_cannot_go_on_with_the_spi_that_it_got() -> None:
    for message_id in range(4):
        talk = Talk(True)
        talk.authenticate(talk.sun.authentication(SUN, with_secret(b"x" * 32)))
        assert notifies(talk.said[0]) == [Notify.AUTHENTICATION_FAILED]
        for exchange, payloads in [*everything(talk), (Exchange.IKE_AUTH, talk.good())]:
            for response in (False, True):
                talk.moon.receive(talk.sun.seal(payloads, exchange, message_id, response=response))
                is_untouched(talk.moon)
        talk.moon.wait(60)
        talk.moon.nothing_left()


@ROLES
@pytest.mark.parametrize("state", ["keys only", "half of a fragmented IKE_AUTH", "refused"])
def test_v6_create_child_sa_before_authentication_is_refused(we_answer: bool, state: str) -> None:
    """CVE-2014-2338: with valid keys, in every state before AUTH, in both roles, any exchange: never
    ESTABLISHED, no child, nobody told that it is."""
    from cygnet.wire.message import encode_payloads
    from tests.unit.security_by_hand import seal_fragment

    talk = Talk(we_answer)
    if state == "half of a fragmented IKE_AUTH":
        first, content = encode_payloads(talk.good())
        half = seal_fragment(
            talk.sun, 1, 2, content[:80], Exchange.IKE_AUTH, 1, first=first, response=not we_answer
        )
        assert talk.moon.receive(half) == []
    elif state == "refused":
        talk.authenticate(talk.sun.authentication(SUN, with_secret(b"x" * 32)))
    for exchange, payloads in everything(talk):
        for message_id, response in itertools.product((0, 1, 2), (False, True)):
            if exchange == Exchange.IKE_AUTH and response and not we_answer:
                continue  # the answer that we wait for; an empty one is a failure of its own
            if exchange == Exchange.IKE_AUTH and not response and we_answer and message_id == 1:
                continue
            talk.moon.receive(talk.sun.seal(payloads, exchange, message_id, response=response))
            is_untouched(talk.moon)
    if state != "refused":
        talk.authenticate()
        assert len(talk.moon.established) == 1


def test_v6_establishing_takes_a_proof_as_an_argument() -> None:
    """`Establish` and every Child SA take an AuthenticatedPeer, which only a verification can make."""
    from cygnet.auth.peer import AuthenticatedPeer
    from cygnet.ike.changes import AddChild, Establish, ImpossibleChange, transition
    from cygnet.ike.state import Phase, SaState

    state = SaState(Phase.CONNECTING, True, b"\1" * 8, b"\2" * 8, PATH, 0.0)
    with pytest.raises(TypeError, match="verification"):
        AuthenticatedPeer(SUN, 2, "psk", (), 1e9)
    talk = Talk(True).established()
    child = next(iter(talk.moon.endpoint.by_number.values())).state.children[0]
    with pytest.raises(ImpossibleChange):
        transition(state, (AddChild(child),))
    assert "peer" in Establish.__dataclass_fields__


@ROLES
def test_v16_messages_before_there_are_keys_are_dropped_in_silence(we_answer: bool) -> None:
    """CVE-2019-12312: an error reply was encrypted before there were keys; VPP decrypted without any."""
    moon = Watched()
    talk = Talk(True, Watched())  # its keys are those of another IKE SA
    if not we_answer:
        moon.initiate("peer")
        sun = replace(talk.sun, initiator=False, spi_i=decode(moon.sent[0]).header.initiator_spi)
    else:
        sun = replace(talk.sun, spi_r=bytes(8))
    before = moon.picture()
    for spi_r in (sun.spi_r, bytes(8), b"\x22" * 8):
        odd = replace(sun, spi_r=spi_r)
        for exchange, payloads in everything(talk):
            for message_id, response in itertools.product((0, 1), (False, True)):
                if exchange == Exchange.IKE_SA_INIT:
                    continue
                for answer in moon.receive(odd.seal(payloads, exchange, message_id, response=response)):
                    assert notifies(decode(answer)) == [Notify.INVALID_IKE_SPI]
                assert moon.picture() == before
    is_untouched(moon)


def test_v16_informational_in_place_of_ike_auth_gets_no_answer() -> None:
    talk = Talk(True)
    before = talk.moon.picture()
    for payloads in (
        [],
        [DeletePayload(Protocol.IKE, ())],
        [NotifyPayload(0, b"", Notify.AUTHENTICATION_FAILED, b"")],
    ):
        assert talk.moon.receive(talk.sun.seal(payloads, Exchange.INFORMATIONAL, 1)) == []
        assert talk.moon.drops[-1] == "not-authenticated"
        assert talk.moon.picture() == before
    talk.authenticate()
    assert len(talk.moon.established) == 1


@ROLES
@pytest.mark.parametrize("step", ["before", "after IKE_SA_INIT", "after IKE_AUTH", "before the rekey"])
def test_v23_a_secret_that_is_removed_at_any_step_ends_the_attempt_with_a_reason(
    we_answer: bool, step: str
) -> None:
    """CVE-2024-2357: without a secret the state was kept, and no message."""
    credentials = store()
    moon = Watched(credentials=credentials)
    if step == "before":
        credentials.clear()
    if step == "before" and not we_answer:
        moon.initiate("peer")
        Sun(False).first(moon)
        assert moon.failures[-1].reason == Reason.PSK_NOT_FOUND
        assert decode(moon.sent[-1]).header.exchange == Exchange.IKE_SA_INIT
        moon.wait(700)
        moon.nothing_left()
        return
    talk = Talk(we_answer, moon)
    if step == "after IKE_SA_INIT":
        credentials.clear()
    talk.authenticate()
    if step in ("before", "after IKE_SA_INIT"):
        is_untouched(moon)
        assert moon.failures[-1].reason == Reason.PSK_NOT_FOUND
        assert set(notifies(talk.said[-1])) == {Notify.AUTHENTICATION_FAILED}
    else:
        # What is authenticated stays: a secret is needed for the next IKE SA only.
        credentials.clear()
        assert len(moon.established) == 1
        if step == "before the rekey":
            assert talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request()).all(SaPayload)  # type: ignore[union-attr]
        talk.close()
    sent = len(moon.sent)
    moon.wait(700)
    assert len(moon.sent) - sent < 10
    moon.nothing_left()


@ROLES
def test_v23_a_connection_that_is_unloaded_between_two_messages_takes_the_attempt_along(
    we_answer: bool,
) -> None:
    talk = Talk(we_answer)
    talk.moon.endpoint.unload("peer", talk.moon.now)
    talk.moon.carry_out()
    talk.moon.receive(talk.sun.seal(talk.good(), Exchange.IKE_AUTH, 1, response=not we_answer))
    is_untouched(talk.moon)
    talk.moon.wait(700)
    talk.moon.nothing_left()
    assert talk.moon.policies == set()


@ROLES
def test_v27_a_peer_that_rekeys_one_child_twice_leaves_one_pair_and_the_next_rekey_is_sound(
    we_answer: bool,
) -> None:
    """strongSwan 84a5208d, OpenIKED 689eeb0: a stale memory of a collision deleted a good SA next time."""
    talk = Talk(we_answer).established()
    for spi in (b"\0\1\1\1", b"\0\1\1\2"):
        answer = talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request(spi=spi, nonce=spi * 8))
        assert answer is not None
        assert answer.all(SaPayload)
    for spi in (SUN_SPI, b"\0\1\1\1"):
        talk.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.ESP, (spi,))])
    (view,) = talk.moon.views
    (child,) = view.children
    assert child.spi_out == 0x10102
    # Now moon rekeys what is left; sun answers; one pair again, and the old one is deleted by moon.
    before = len(talk.moon.sent)
    talk.moon.endpoint.rekey(view.unique_id, child.pair, talk.moon.now)
    talk.moon.carry_out()
    message_id = 0 if we_answer else 2
    request = talk.sun.open(talk.moon.sent[before])
    assert request.notify(Notify.REKEY_SA) is not None
    payloads = [*talk.child_request(spi=b"\0\1\1\3")[:2], *swapped()]
    (delete,) = talk.answers(payloads, Exchange.CREATE_CHILD_SA, message_id)
    assert delete.one(DeletePayload).spis == (child.spi_in.to_bytes(4, "big"),)
    talk.answers([DeletePayload(Protocol.ESP, (b"\0\1\1\2",))], Exchange.INFORMATIONAL, message_id + 1)
    (view,) = talk.moon.views
    assert [c.spi_out for c in view.children] == [0x10103]
    assert len(talk.moon.in_force) == 2
    assert talk.moon.objections == []


def test_v28_nonces_compare_octet_by_octet_and_the_one_that_ends_first_is_lower() -> None:
    """OpenIKED 7bd8441: the wrong SA was deleted. RFC 7296, section 2.8.1; each of the four may be lowest."""
    assert collisions.loses(b"\x00" * 16, b"\x00" * 15 + b"\x01")
    assert collisions.loses(b"\x00" * 16, b"\x00" * 17)
    assert not collisions.loses(b"\x01" + b"\x00" * 15, b"\x00" * 32)
    assert collisions.loses(b"\x7f" * 32, b"\x80" + b"\x00" * 15)
    assert not collisions.loses(b"\x11" * 32, b"\x11" * 32)


@ROLES
@pytest.mark.parametrize("refused", range(1, 7))
def test_v33_an_installation_that_fails_at_any_point_is_taken_back_once(
    we_answer: bool, refused: int
) -> None:
    """CVE-2026-33824: released twice after a failed validation. Each SA is created once and removed once."""
    moon = Watched()
    count = itertools.count(1)
    moon.refuse = lambda effect: next(count) == refused
    talk = Talk(we_answer, moon)
    talk.authenticate()
    # An initiator that could not install its half withdraws the pair, in an exchange of its own.
    message_id = 2
    while not we_answer and len(moon.sent) and moon.views and moon.endpoint.by_number:
        (sa,) = [sa for sa in moon.endpoint.by_number.values() if isinstance(sa, IkeV2Sa)]
        if sa.request is None:
            break
        talk.answers([], Exchange.INFORMATIONAL, message_id)
        message_id += 1
    if moon.views and moon.views[0].state == "ESTABLISHED":
        talk.ask(Exchange.CREATE_CHILD_SA, talk.child_request())
        talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request(old=b"\x0a\x0b\x0c\x0d", spi=b"\0\1\2\3"))
        talk.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.ESP, (b"\x0a\x0b\x0c\x0d", SUN_SPI))])
        talk.delete_ike()
    moon.wait(700)
    moon.nothing_left()


@ROLES
def test_t40_a_policy_stands_before_its_first_sa_and_when_all_are_gone(we_answer: bool) -> None:
    talk = Talk(we_answer)
    assert len(talk.moon.policies) == 1
    assert talk.moon.in_force == set()
    talk.authenticate()
    assert len(talk.moon.policies) == 1
    talk.delete_ike()
    talk.moon.wait(700)
    assert talk.moon.in_force == set()
    assert len(talk.moon.policies) == 1


@ROLES
def test_t42_the_inbound_sa_of_a_rekey_stands_before_the_answer_and_the_outbound_one_waits(
    we_answer: bool,
) -> None:
    talk = Talk(we_answer).established()
    sent = len(talk.moon.sent)
    order: list[str] = []

    def note(effect: InstallSa) -> bool:
        order.append(f"{Direction(effect.sa.direction).name} {len(talk.moon.sent) > sent}")
        return False

    talk.moon.refuse = note
    talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request())
    assert order == ["IN False"]
    talk.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.ESP, (SUN_SPI,))])
    assert [one.split()[0] for one in order] == ["IN", "OUT"]
