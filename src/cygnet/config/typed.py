"""Values that other parts define: identities, proposals, selectors, signature schemes, access list rules.

Same contract as `values`: a value or a `PydanticCustomError` that says what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cygnet.auth.eap.packet import EapType
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.config import values
from cygnet.config.values import refuse
from cygnet.crypto.proposals import BadProposal, Proposal, parse_proposals
from cygnet.policy.selectors import AnySelector, BadSelector, parse_selector
from cygnet.wire.numbers import Protocol
from cygnet.wire.v1.numbers import XauthType

MAX_PROPOSALS = 32
MAX_SELECTORS = 255
"""What one TS payload can count (RFC 7296, section 3.13)."""
MAX_RULES = 10_000

SIGNATURE_HASHES = ("sha256", "sha384", "sha512")
"""What a kind of key may sign with where no hash is named."""
_HASHES = ("sha1", *SIGNATURE_HASHES)
EAP_DYNAMIC = (EapType.TLS, EapType.MSCHAPV2, EapType.TTLS, EapType.PEAP)
"""What is offered where no method is named, best first; the peer may name another of them."""
_EAP_METHODS = {
    "mschapv2": (EapType.MSCHAPV2,),
    "md5": (EapType.MD5,),
    "gtc": (EapType.GTC,),
    "tls": (EapType.TLS,),
    "ttls": (EapType.TTLS,),
    "peap": (EapType.PEAP,),
    "dynamic": EAP_DYNAMIC,
}
_XAUTH = {
    "xauth": XauthType.GENERIC,
    "xauth-generic": XauthType.GENERIC,
    "xauth-chap": XauthType.RADIUS_CHAP,
}
_AUTH_ALLOWED = (
    "psk, pubkey, xauth, xauth-chap, xauth-radius (IKEv1), eap-mschapv2, eap-tls, eap-ttls, eap-peap, "
    "eap-md5, eap-gtc, eap-dynamic, eap-radius, null (nothing), for `local` also eap (any of them), "
    "or signature schemes: ike:pubkey-sha256, ike:rsa-sha256, ike:rsa/pss-sha256, ike:ecdsa-sha384, "
    "ike:ed25519, ike:ed448; several joined by -"
)


@dataclass(frozen=True, slots=True)
class AuthChoice:
    """`method` is psk, pubkey, eap, xauth or null; `schemes` limits the signatures, as names of
    `crypto.signatures`; `eap` are EAP's method types, best first; `xauth` is how a peer logs in."""

    method: str
    schemes: tuple[str, ...] = ()
    eap: tuple[int, ...] = ()
    inside: str = ""
    radius: bool = False
    xauth: int = XauthType.GENERIC


def identity(value: Any) -> Identity | None:
    """An identity; `%any` is None."""
    try:
        parsed = _identity(values.text(value))
    except BadIdentity as error:
        raise refuse(
            f"is no identity: {error}",
            "an address, a name, user@name, a distinguished name, or with prefix, as keyid:",
        ) from None
    return None if parsed.is_any else parsed


@lru_cache(maxsize=4096)
def _identity(text: str) -> Identity:
    return Identity.parse(text)


def identities(value: Any) -> tuple[Identity, ...]:
    """One identity (its commas are its own), or a list of them. `%any` stays: it is everybody."""
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple(identity(entry) or Identity.any() for entry in entries)


def ike_proposals(value: Any) -> tuple[Proposal, ...]:
    return _proposals(values.texts(value), Protocol.IKE)


def esp_proposals(value: Any) -> tuple[Proposal, ...]:
    return _proposals(values.texts(value), Protocol.ESP)


def ah_proposals(value: Any) -> tuple[Proposal, ...]:
    return _proposals(values.texts(value), Protocol.AH)


@lru_cache(maxsize=1024)
def _proposals(texts: tuple[str, ...], protocol: int) -> tuple[Proposal, ...]:
    try:
        result = parse_proposals(texts, protocol)
    except BadProposal as error:
        if len(texts) > 1:
            values.each(texts, lambda text: _proposals((text,), protocol))
        text, _, allowed = str(error).partition("; allowed: ")
        raise refuse(f"cannot be used: {text}", allowed) from None
    if len(result) > MAX_PROPOSALS:
        raise refuse(f"holds {len(result)} proposals", f"up to {MAX_PROPOSALS}")
    return result


def selectors(value: Any) -> tuple[AnySelector, ...]:
    texts = values.texts(value)
    if not texts:
        raise refuse("is empty", "at least one selector, or nothing for dynamic")
    if len(texts) > MAX_SELECTORS:
        raise refuse(f"holds {len(texts)} selectors", f"up to {MAX_SELECTORS}")
    return values.each(texts, _selector)


@lru_cache(maxsize=4096)
def _selector(text: str) -> AnySelector:
    try:
        return parse_selector(text)
    except BadSelector as error:
        raise refuse(
            f"cannot be used: {error}", "10.1.0.0/16, 10.1.0.1-10.1.0.9, dynamic, each with [protocol/port]"
        ) from None


def auth_choice(value: Any) -> AuthChoice:
    return _auth_choice(values.text(value).strip().lower())


@lru_cache(maxsize=256)
def _auth_choice(text: str) -> AuthChoice:
    if text in ("psk", "pubkey", "null"):
        return AuthChoice(text)
    if text == "xauth-radius":
        return AuthChoice("xauth", radius=True)
    if text in _XAUTH:
        return AuthChoice("xauth", xauth=_XAUTH[text])
    if text == "eap":
        return AuthChoice("eap")
    if text == "eap-radius":
        return AuthChoice("eap", radius=True)
    if text.startswith("eap-") and text.removeprefix("eap-") in _EAP_METHODS:
        return AuthChoice("eap", eap=_EAP_METHODS[text.removeprefix("eap-")])
    if text in ("eap-ttls-pap", "eap-ttls-mschapv2"):
        return AuthChoice("eap", eap=(EapType.TTLS,), inside=text.removeprefix("eap-ttls-"))
    if text == "xauth-noauth":
        raise refuse("would let in anybody who passes phase 1, without a password", _AUTH_ALLOWED)
    if text.startswith(("eap", "xauth")):
        raise refuse("is not supported yet", _AUTH_ALLOWED)
    if not text.startswith("ike:"):
        # Without the prefix swanctl limits the certificate chain as well, which would be believed in vain.
        if text.startswith(("rsa", "ecdsa", "ed25519", "ed448", "pubkey", "bliss")):
            raise refuse(
                "would limit the certificate chain as well, which is not supported yet", _AUTH_ALLOWED
            )
        raise refuse("is not a known authentication", _AUTH_ALLOWED)
    schemes: list[str] = []
    kind, hashes = "", 0
    for word in text.removeprefix("ike:").split("-"):
        if word in ("ed25519", "ed448"):
            schemes.append(word)
        elif word in ("pubkey", "rsa", "rsa/pss", "ecdsa"):
            kind, hashes = word, 0
            continue
        elif word in _HASHES and kind:
            schemes.extend(
                f"{one}-{word}" for one in (("rsa", "rsa/pss", "ecdsa") if kind == "pubkey" else (kind,))
            )
        elif word.isdigit() and kind:
            raise refuse("demands a minimum key strength, which is not supported yet", _AUTH_ALLOWED)
        else:
            raise refuse(f"holds {word!r}, which is no key type and no hash", _AUTH_ALLOWED)
        hashes += 1
    if kind and not hashes:
        kinds = ("rsa", "rsa/pss", "ecdsa") if kind == "pubkey" else (kind,)
        schemes.extend(f"{one}-{digest}" for one in kinds for digest in SIGNATURE_HASHES)
    return AuthChoice("pubkey", tuple(schemes))


Rule = str | dict[str, Any]
NamedRules = tuple[tuple[str | int, Rule], ...]
"""Rules in their order, each with the key that it stands under, for messages."""


def rule_texts(value: Any) -> NamedRules:
    """A list of rules (`10 permit ...`, or a table with `number`), or a section of number = rule."""
    allowed = 'a list ["10 deny tcp ...", "20 permit ..."], or a section of number = rule'
    rules: list[tuple[str | int, Rule]]
    if isinstance(value, dict):

        def numbered(entry: tuple[Any, Any]) -> tuple[str | int, Rule]:
            number, rule = str(entry[0]), entry[1]
            if not (number.isascii() and number.isdigit()):
                raise refuse(f"has the key {number[:40]!r}, which is no rule number", allowed)
            if isinstance(rule, dict):
                return number, {"number": number, **rule}
            return number, f"{number} {_line(rule)}"

        rules = sorted(values.each(value.items(), numbered), key=lambda entry: int(entry[0]))
    elif isinstance(value, list | tuple):
        lines = values.each(value, lambda rule: rule if isinstance(rule, dict) else _line(rule))
        rules = list(enumerate(lines))
    else:
        raise refuse("must hold rules", allowed)
    if not rules:
        raise refuse("holds no rule", allowed)
    if len(rules) > MAX_RULES:
        raise refuse(f"holds {len(rules)} rules", f"up to {MAX_RULES}")
    return tuple(rules)


def _line(rule: Any) -> str:
    """The words of a rule; whoever copies them out of a table has tabs between them."""
    return values.text(rule.replace("\t", " ") if isinstance(rule, str) else rule)


def acl_reference(value: Any) -> str | NamedRules:
    """The name of an access list, or its rules."""
    if isinstance(value, str):
        return values.name(value)
    return rule_texts(value)
