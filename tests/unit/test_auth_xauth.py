"""XAUTH's login, both sides, without messages: what is asked, what is answered, that nothing else passes."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import Any

import pytest

from cygnet.auth import radius, xauth
from cygnet.auth.ask import AskRadius, CheckPassword, RadiusAnswer
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.passwords import Stored, check, hash_password
from cygnet.auth.xauth import Asked, User
from cygnet.crypto.entropy import SeededEntropy
from cygnet.wire.v1.numbers import CfgAttribute, XauthStatus, XauthType
from cygnet.wire.v1.payloads import Attribute

NAME, WORD = b"joe", b"foobar"
TEXT = Stored(NAME, text=WORD, groups=frozenset({"staff"}))
HASHED = Stored(NAME, scrypt=hash_password(WORD, SeededEntropy(1)))
_NAME, _PASSWORD = CfgAttribute.XAUTH_USER_NAME, CfgAttribute.XAUTH_USER_PASSWORD
_TYPE, _CHALLENGE = CfgAttribute.XAUTH_TYPE, CfgAttribute.XAUTH_CHALLENGE
_STATUS = CfgAttribute.XAUTH_STATUS


def begin(kind: int, stored: Stored = TEXT) -> tuple[Generator[Any, Any, User], Asked]:
    login = xauth.serve(kind, lambda name: stored if name == NAME else None, SeededEntropy(7))
    asked = next(login)
    assert isinstance(asked, Asked)
    return login, asked


def finish(login: Generator[Any, Any, User], attributes: xauth.Attributes) -> User:
    """The user, questions about passwords answered on the way."""
    sent: Any = attributes
    while True:
        try:
            step = login.send(sent)
        except StopIteration as end:
            user: User = end.value
            return user
        assert isinstance(step, CheckPassword)
        sent = check(step.stored, step.password)


def refused(login: Generator[Any, Any, User], attributes: xauth.Attributes) -> str:
    with pytest.raises(AuthenticationError) as caught:
        finish(login, attributes)
    assert caught.value.kind is Kind.LOGIN_FAILED
    return caught.value.detail


@pytest.mark.parametrize("stored", [TEXT, HASHED], ids=["text", "scrypt"])
def test_name_and_password_log_in_whatever_form_is_kept(stored: Stored) -> None:
    login, asked = begin(XauthType.GENERIC, stored)
    assert asked.attributes == (Attribute(_NAME, b""), Attribute(_PASSWORD, b""))
    user = finish(login, xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1)))
    assert user == User(NAME, stored.groups)


@pytest.mark.parametrize(
    ("name", "word"),
    [(NAME, b"Foobar"), (NAME, b""), (b"jane", WORD), (NAME, WORD + b"\0"), (b"JOE\0", WORD)],
)
@pytest.mark.parametrize("kind", [XauthType.GENERIC, XauthType.RADIUS_CHAP])
def test_whoever_is_wrong_hears_one_sentence(kind: int, name: bytes, word: bytes) -> None:
    login, asked = begin(kind)
    answered = xauth.reply(asked.attributes, name, word, SeededEntropy(1))
    assert refused(login, answered).startswith("no such user, or another password: ")


def test_the_challenge_is_answered_as_in_example_a_8() -> None:
    """The identifier, then MD5 over identifier, secret and challenge (RFC 1994, section 4.1)."""
    challenge = bytes.fromhex("01020304050607080910111213141516")
    digest = hashlib.md5(b"\xaa" + WORD + challenge, usedforsecurity=False).digest()
    assert xauth.chap(b"\xaa", WORD, challenge) == b"\xaa" + digest
    login, asked = begin(XauthType.RADIUS_CHAP)
    answered = xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1))
    assert WORD not in b"".join(a.value for a in answered if isinstance(a.value, bytes))
    assert finish(login, answered) == User(NAME, frozenset({"staff"}))


def test_each_challenge_is_another_one_and_an_old_answer_serves_no_more() -> None:
    entropy = SeededEntropy(3)
    first = xauth.serve(XauthType.RADIUS_CHAP, lambda name: TEXT, entropy)
    second = xauth.serve(XauthType.RADIUS_CHAP, lambda name: TEXT, entropy)
    asked = next(first)
    assert isinstance(asked, Asked)
    answered = xauth.reply(asked.attributes, NAME, WORD, entropy)
    next(second)
    assert finish(first, answered).name == NAME
    refused(second, answered)


def test_a_challenge_needs_the_password_itself() -> None:
    login, asked = begin(XauthType.RADIUS_CHAP, HASHED)
    refused(login, xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1)))


@pytest.mark.parametrize("kind", [XauthType.GENERIC, XauthType.RADIUS_CHAP])
def test_b7_no_flipped_octet_of_a_password_logs_in(kind: int) -> None:
    for position in range(8 * (17 if kind == XauthType.RADIUS_CHAP else len(WORD))):
        login, asked = begin(kind)
        answered = list(xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1)))
        at = next(n for n, one in enumerate(answered) if one.type == _PASSWORD)
        octets = bytearray(bytes(answered[at].value))
        octets[position // 8] ^= 1 << position % 8
        answered[at] = Attribute(_PASSWORD, bytes(octets))
        refused(login, tuple(answered))


@pytest.mark.parametrize("outcome", [False, None, 1, "yes", object(), b"\1"])
def test_b7_a_check_that_says_anything_but_true_lets_nobody_in(outcome: object) -> None:
    login, asked = begin(XauthType.GENERIC, HASHED)
    step = login.send(xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1)))
    assert isinstance(step, CheckPassword)
    with pytest.raises(AuthenticationError):
        login.send(outcome)


@pytest.mark.parametrize(
    "attributes",
    [
        (),
        (Attribute(_NAME, NAME),),
        (Attribute(_PASSWORD, WORD),),
        (Attribute(_NAME, b""), Attribute(_PASSWORD, WORD)),
        (Attribute(_NAME, b"x" * 254), Attribute(_PASSWORD, WORD)),
        (Attribute(_NAME, NAME), Attribute(_PASSWORD, b"x" * 257)),
        (Attribute(_STATUS, XauthStatus.FAIL), Attribute(_NAME, NAME), Attribute(_PASSWORD, WORD)),
        (Attribute(_STATUS, 7), Attribute(_NAME, NAME), Attribute(_PASSWORD, WORD)),
        (Attribute(_NAME, 0x6A6F), Attribute(_PASSWORD, 0x666F)),
    ],
)
@pytest.mark.parametrize("kind", [XauthType.GENERIC, XauthType.RADIUS_CHAP])
def test_a_reply_that_is_none_lets_nobody_in(kind: int, attributes: xauth.Attributes) -> None:
    refused(begin(kind)[0], attributes)


def test_a_challenge_answered_in_another_way_lets_nobody_in() -> None:
    login, _ = begin(XauthType.RADIUS_CHAP)
    refused(login, (Attribute(_NAME, NAME), Attribute(_PASSWORD, WORD)))


@pytest.mark.parametrize(
    "asked",
    [
        (Attribute(_PASSWORD, b""),),
        (Attribute(_NAME, b""), Attribute(CfgAttribute.XAUTH_NEXT_PIN, b"")),
        (Attribute(_NAME, b""), Attribute(CfgAttribute.XAUTH_ANSWER, b"")),
        (
            Attribute(_TYPE, XauthType.OTP),
            Attribute(_CHALLENGE, b"otp-md5 499 ke"),
            Attribute(_NAME, b""),
        ),
        (Attribute(_TYPE, XauthType.RADIUS_CHAP), Attribute(_NAME, b""), Attribute(_PASSWORD, b"")),
        (Attribute(_TYPE, b"\0\0\0\0\0\0\0\0\0\0\0\1"), Attribute(_NAME, b"")),
        (),
    ],
)
def test_what_a_client_cannot_answer_it_fails_and_says_nothing_else(asked: xauth.Attributes) -> None:
    assert xauth.reply(asked, NAME, WORD, SeededEntropy(1)) == xauth.FAILED


def test_a_passcode_and_a_message_are_taken_as_people_expect() -> None:
    asked = (
        Attribute(CfgAttribute.XAUTH_MESSAGE, b"Enter the number of your token"),
        Attribute(_NAME, b""),
        Attribute(CfgAttribute.XAUTH_PASSCODE, b""),
    )
    answered = xauth.reply(asked, NAME, WORD, SeededEntropy(1))
    assert answered == (Attribute(_NAME, NAME), Attribute(CfgAttribute.XAUTH_PASSCODE, WORD))
    assert xauth.message_of(asked) == "Enter the number of your token"


def test_a_message_is_printable_whatever_the_gateway_sends() -> None:
    told = (Attribute(CfgAttribute.XAUTH_MESSAGE, b"\x1b[2Jall is well\n\xff" + b"x" * 5000),)
    assert xauth.message_of(told).isprintable()
    assert len(xauth.message_of(told)) <= xauth.MAX_MESSAGE


# -- a RADIUS server's login ----------------------------------------------------------------------


def by_radius() -> tuple[Generator[Any, Any, User], AskRadius]:
    login = xauth.serve_by_radius(lambda name: ((radius.Attribute.USER_NAME, name),))
    asked = next(login)
    assert isinstance(asked, Asked)
    question = login.send(xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1)))
    assert isinstance(question, AskRadius)
    assert question.attributes == ((1, NAME), (radius.Attribute.USER_PASSWORD, WORD))
    return login, question


def said(code: int, *attributes: tuple[str, bytes], state: tuple[bytes, ...] = ()) -> RadiusAnswer:
    return RadiusAnswer(code, b"", state, "one", attributes=attributes)


def test_whom_the_radius_server_accepts_is_logged_in_with_its_groups() -> None:
    login, _ = by_radius()
    user = finish(login, said(radius.ACCESS_ACCEPT, ("Class", b"staff")))  # type: ignore[arg-type]
    assert user == User(NAME, frozenset({"staff"}), (("Class", b"staff"),))


@pytest.mark.parametrize("answer", [None, said(radius.ACCESS_REJECT), said(99), True, "yes"])
def test_whatever_else_the_radius_server_says_lets_nobody_in(answer: Any) -> None:
    refused(by_radius()[0], answer)


def test_a_challenge_of_the_radius_server_is_shown_and_its_answer_goes_to_the_same_server() -> None:
    login, _ = by_radius()
    asked = login.send(said(radius.ACCESS_CHALLENGE, ("Reply-Message", b"Token?"), state=(b"s1",)))
    assert isinstance(asked, Asked)
    assert xauth.message_of(asked.attributes) == "Token?"
    question = login.send(xauth.reply(asked.attributes, NAME, b"123456", SeededEntropy(1)))
    assert isinstance(question, AskRadius)
    assert (question.state, question.server) == ((b"s1",), "one")
    assert question.attributes[-1] == (radius.Attribute.USER_PASSWORD, b"123456")
    assert finish(login, said(radius.ACCESS_ACCEPT)).name == NAME  # type: ignore[arg-type]


def test_a_login_is_of_one_user_and_comes_to_an_end() -> None:
    login, _ = by_radius()
    asked = login.send(said(radius.ACCESS_CHALLENGE))
    refused(login, xauth.reply(asked.attributes, b"jane", WORD, SeededEntropy(1)))
    login, _ = by_radius()
    for _ in range(xauth.MAX_CHALLENGES - 1):
        asked = login.send(said(radius.ACCESS_CHALLENGE))
        login.send(xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1)))
    asked = login.send(said(radius.ACCESS_CHALLENGE))
    refused(login, xauth.reply(asked.attributes, NAME, WORD, SeededEntropy(1)))


def test_the_password_leaves_hidden_and_the_request_signed() -> None:
    pytest.importorskip("pyrad")
    request = radius.access_request(1, b"shared", ((radius.Attribute.USER_PASSWORD, WORD),), b"", ())
    assert WORD not in request.octets
    assert request.packet.PwDecrypt(request.packet[radius.Attribute.USER_PASSWORD][0]).encode() == WORD
