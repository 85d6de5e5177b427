"""XAUTH's login as a conversation, without messages (draft-beaulieu-ike-xauth-02, sections 5 and 6).

    Edge device                                              IPsec host
    REQUEST(NAME="", PASSWORD="")                     -->
                                       <--  REPLY(NAME="joe", PASSWORD="foobar")
    or, a password that serves once and is never sent:
    REQUEST(TYPE=RADIUS-CHAP, CHALLENGE, NAME="", PASSWORD="")  -->
              <--  REPLY(TYPE=RADIUS-CHAP, NAME="joe", PASSWORD=ID | MD5(ID | secret | CHALLENGE))

`serve` and `serve_by_radius` yield `Asked` (or a question, `auth.ask`), are sent the reply's attributes, and
return the `User`.
`reply` is the host's side: a pure function, since all that it knows comes with each request.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from cygnet.auth import radius
from cygnet.auth.ask import AskRadius, AuthQuestion, RadiusAnswer
from cygnet.auth.eap.gtc import check_password
from cygnet.auth.eap.method import EapFailed, Lookup, printable
from cygnet.auth.eap.relay import groups_of
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.passwords import MAX_PASSWORD
from cygnet.crypto.entropy import Entropy
from cygnet.records import dataclass
from cygnet.wire.v1.numbers import CfgAttribute, XauthStatus, XauthType
from cygnet.wire.v1.payloads import Attribute

MAX_NAME: Final = 253
"""Octets of a user's name (RFC 4282, section 2.2)."""
MAX_CHALLENGES: Final = 4
"""Access-Challenges of one login."""
MAX_MESSAGE: Final = 512
"""Octets of a text for the user that are looked at."""
CHALLENGE_LENGTH: Final = 16
_NAME, _PASSWORD = CfgAttribute.XAUTH_USER_NAME, CfgAttribute.XAUTH_USER_PASSWORD
_TYPE, _CHALLENGE = CfgAttribute.XAUTH_TYPE, CfgAttribute.XAUTH_CHALLENGE
_STATUS, _PASSCODE = CfgAttribute.XAUTH_STATUS, CfgAttribute.XAUTH_PASSCODE

Attributes = tuple[Attribute, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the host is asked for."""

    attributes: Attributes


@dataclass(frozen=True, slots=True)
class User:
    """Who has logged in. `groups` and `attributes` as in `AuthenticatedPeer`."""

    name: bytes
    groups: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, Any], ...] = ()


Login = Generator[Asked | AuthQuestion, Any, User]


# -- edge device --------------------------------------------------------------------------------


def serve_by_radius(pairs_of: Callable[[bytes], tuple[radius.Pair, ...]]) -> Login:
    """Have a user log in with a RADIUS server, which may challenge it (section 5.2): its message is shown,
    and the next password, of a token for example, serves once. `pairs_of`: what the server is told of a name.
    Raises `AuthenticationError`."""
    asked: Attributes = (Attribute(_NAME, b""), Attribute(_PASSWORD, b""))
    attributes: Attributes = yield Asked(asked)
    name, password = _credentials(attributes)
    state: tuple[bytes, ...] = ()
    server = ""
    for _ in range(MAX_CHALLENGES):
        pairs = (*pairs_of(name), (radius.Attribute.USER_PASSWORD, password))
        answer = yield AskRadius(pairs, b"", state, server)
        if not isinstance(answer, RadiusAnswer):
            raise _refused("no RADIUS server answers")
        if answer.code == radius.ACCESS_ACCEPT:
            return User(name, groups_of(answer), answer.attributes)
        if answer.code != radius.ACCESS_CHALLENGE:
            raise _refused(f"the RADIUS server refuses {printable(name)}")
        state, server = answer.state, answer.server
        said = next((value for kind, value in answer.attributes if kind == "Reply-Message"), b"")
        attributes = yield Asked((Attribute(CfgAttribute.XAUTH_MESSAGE, said[:MAX_MESSAGE]), *asked))
        again, password = _credentials(attributes)
        if again != name:
            raise _refused(f"{printable(name)} calls itself {printable(again)} in the same login")
    raise _refused("the RADIUS server does not come to an end")


def serve(kind: int, lookup: Lookup, entropy: Entropy) -> Login:
    """Have a user log in; `kind` is GENERIC or RADIUS_CHAP. Raises `AuthenticationError` if that fails."""
    try:
        if kind == XauthType.RADIUS_CHAP:
            return (yield from _challenged(lookup, entropy))
        return (yield from _generic(lookup))
    except EapFailed as failed:
        # The user's table and its check are EAP's too; the reason is not.
        raise _refused(failed.detail) from None


def _generic(lookup: Lookup) -> Login:
    attributes: Attributes = yield Asked((Attribute(_NAME, b""), Attribute(_PASSWORD, b"")))
    name, password = _credentials(attributes)
    stored = yield from _answered(check_password(lookup, name, password, "xauth"))
    return User(name, stored.groups)


def _answered(checking: Generator[bytes | AuthQuestion, Any, Any]) -> Generator[AuthQuestion, Any, Any]:
    """EAP's methods yield octets as well; a check of a password does not."""
    sent: Any = None
    while True:
        try:
            step = checking.send(sent)
        except StopIteration as end:
            return end.value
        if isinstance(step, bytes):
            raise _refused("a check of a password that wants to say something")
        sent = yield step


def _challenged(lookup: Lookup, entropy: Entropy) -> Login:
    challenge = entropy.octets(CHALLENGE_LENGTH)
    kind = Attribute(_TYPE, XauthType.RADIUS_CHAP)
    attributes: Attributes = yield Asked(
        (kind, Attribute(_CHALLENGE, challenge), Attribute(_NAME, b""), Attribute(_PASSWORD, b""))
    )
    name, proof = _credentials(attributes)
    if number_of(attributes, _TYPE, XauthType.GENERIC) != XauthType.RADIUS_CHAP:
        raise _refused("a reply of another type than was asked for")
    stored = lookup(name)
    # Who is not there costs as much, and is answered the same.
    secret = stored.text if stored is not None and stored.text else b"\0" * 16
    outcome: object = hmac.compare_digest(proof, chap(proof[:1], secret, challenge))
    if outcome is not True or stored is None or not stored.text:
        raise _wrong(name)
    return User(name, stored.groups)


def chap(identifier: bytes, secret: bytes, challenge: bytes) -> bytes:
    """The password of a REPLY of type RADIUS-CHAP (example A-8; RFC 1994, section 4.1)."""
    digest = hashlib.md5(identifier + secret + challenge, usedforsecurity=False).digest()
    return identifier + digest


def _credentials(attributes: Attributes) -> tuple[bytes, bytes]:
    """(name, password) of a reply. Raises `AuthenticationError`."""
    if number_of(attributes, _STATUS, XauthStatus.OK) != XauthStatus.OK:
        raise _refused("the client cannot log in in the way that it is asked to")
    name, password = octets_of(attributes, _NAME), octets_of(attributes, _PASSWORD)
    if name is None or password is None:
        raise _refused("a reply without a name or a password")
    if not 0 < len(name) <= MAX_NAME:
        raise _refused(f"a user's name of {len(name)} octets")
    if len(password) > MAX_PASSWORD:
        raise _wrong(name)
    return name, password


def _wrong(name: bytes) -> AuthenticationError:
    """One sentence for a user that there is not and for a password that is wrong."""
    return _refused(f"no such user, or another password: {printable(name)}")


def _refused(detail: str) -> AuthenticationError:
    return AuthenticationError(Kind.LOGIN_FAILED, detail)


# -- IPsec host ---------------------------------------------------------------------------------


def reply(attributes: Sequence[Attribute], name: bytes, password: bytes, entropy: Entropy) -> Attributes:
    """Everything that is asked for, or that we cannot: `XAUTH_STATUS` FAIL alone (section 6.1)."""
    asked = [attribute.type for attribute in attributes]
    kind = number_of(attributes, _TYPE, XauthType.GENERIC)
    proof = password
    if kind == XauthType.RADIUS_CHAP:
        challenge = octets_of(attributes, _CHALLENGE)
        if not challenge:
            return FAILED
        proof = chap(entropy.octets(1), password, challenge)
    elif kind != XauthType.GENERIC:
        return FAILED
    known = {_NAME: name, _PASSWORD: proof, _PASSCODE: proof, CfgAttribute.XAUTH_DOMAIN: b""}
    passed_over = (_TYPE, _CHALLENGE, CfgAttribute.XAUTH_MESSAGE)
    if _NAME not in asked or any(one not in known and one not in passed_over for one in asked):
        return FAILED
    typed = (Attribute(_TYPE, kind),) if _TYPE in asked else ()
    return (*typed, *[Attribute(one, known[one]) for one in dict.fromkeys(asked) if one in known])


FAILED: Final[Attributes] = (Attribute(_STATUS, XauthStatus.FAIL),)


# -- both ---------------------------------------------------------------------------------------


def number_of(attributes: Sequence[Attribute], kind: int, default: int) -> int:
    """An attribute's number; -1 if it is none."""
    found = next((one for one in attributes if one.type == kind), None)
    if found is None:
        return default
    return -1 if found.number is None else found.number


def octets_of(attributes: Sequence[Attribute], kind: int) -> bytes | None:
    """An attribute's octets; None where it is not there."""
    found = next((one for one in attributes if one.type == kind), None)
    if found is None:
        return None
    return found.value if isinstance(found.value, bytes) else found.value.to_bytes(2, "big")


def message_of(attributes: Sequence[Attribute]) -> str:
    """The text for the user, printable; empty if there is none."""
    text = (octets_of(attributes, CfgAttribute.XAUTH_MESSAGE) or b"")[:MAX_MESSAGE].decode("utf-8", "replace")
    return "".join(one if one.isprintable() else " " for one in text).strip()
