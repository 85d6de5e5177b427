"""Nothing authenticates by accident (security bar B7; CVE-2020-16088, CVE-2013-2944, CVE-2012-2388).

For each method: every octet of every input of a verification that passes is changed, and every primitive on
the way is made to answer something that is not its success. No mutant may yield an `AuthenticatedPeer`.
"""

from __future__ import annotations

import dataclasses
import functools
import hmac
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509 as library
from cryptography.exceptions import InvalidSignature

from cygnet.auth import proof as proofs
from cygnet.auth import x509 as paths
from cygnet.auth.certificate import Certificate
from cygnet.auth.credentials import Credentials, OwnKey
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.auth.proof import Proof, prove_with_key, prove_with_secret, verify_secret, verify_signature
from cygnet.crypto import signatures
from cygnet.crypto.errors import SignatureInvalid
from cygnet.crypto.prf import prf
from cygnet.wire.numbers import AuthMethod, Prf
from tests.unit.auth_material import WALL, ca, entity, holding, key, trusting

PRF = Prf.PRF_HMAC_SHA2_256
HASHES = frozenset({2, 3, 4, 5})
ROOT = ca("C=CH,O=Test,CN=Root")
SECRET = bytes(range(32))
# name: key, hashes agreed on, scheme demanded
SIGNATURES: dict[str, tuple[str, frozenset[int] | None, tuple[str, ...]]] = {
    "rsa-sha1": ("rsa2048", None, ()),
    "rsa-pkcs1": ("rsa2048", HASHES, ("rsa-sha256",)),
    "rsa-pss": ("rsa2048", HASHES, ("rsa/pss-sha256",)),
    "ecdsa-256": ("p256", None, ()),
    "ecdsa-384": ("p384", None, ()),
    "ecdsa-521": ("p521", None, ()),
    "ecdsa": ("p256", HASHES, ()),
    "ed25519": ("ed25519", HASHES, ()),
    "ed448": ("ed448", HASHES, ()),
}
METHODS = ["psk", *SIGNATURES]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Everything that a verification takes: what the peer sent, and what both have calculated."""

    method: int
    data: bytes
    id_type: int
    id_data: bytes
    message: bytes
    nonce: bytes
    sk_p: bytes
    certificate: bytes = b""


def octets(attempt: Attempt) -> bytes:
    body = bytes((attempt.id_type, 0, 0, 0)) + attempt.id_data
    return proofs.signed_octets(attempt.message, attempt.nonce, prf(PRF), attempt.sk_p, body)


@functools.cache
def own(kind: str) -> OwnKey:
    return holding(entity(ROOT, holder=key(kind))).own_key()


@functools.cache
def gateway() -> Credentials:
    credentials = trusting(ROOT)
    credentials.add_shared("moon", "ike", SECRET, [Identity.parse("moon.example.org")])
    return credentials


@functools.cache
def good(method: str) -> Attempt:
    """An attempt that passes."""
    blank = Attempt(0, b"", 2, b"moon.example.org", bytes(range(1, 97)), bytes(range(32)), bytes(range(32)))
    if method == "psk":
        made = prove_with_secret(SECRET, PRF, octets(blank))
        return dataclasses.replace(blank, method=made.method, data=made.data)
    kind, hashes, schemes = SIGNATURES[method]
    signer = own(kind)
    made = prove_with_key(signer, octets(blank), hashes, schemes)
    return dataclasses.replace(blank, method=made.method, data=made.data, certificate=signer.certificate.der)


def judge(method: str, attempt: Attempt) -> AuthenticatedPeer | None:
    """The whole way of a received AUTH payload; None for a refusal, anything else escapes."""
    try:
        identity = Identity.from_wire(attempt.id_type, attempt.id_data)
        made = Proof(attempt.method, attempt.data)
        if method == "psk":
            secret = gateway().psk(Identity.parse("sun.example.org"), identity)
            return verify_secret(made, identity, None, secret, PRF, octets(attempt))
        _, hashes, schemes = SIGNATURES[method]
        trust = gateway().trusted_key(identity, [attempt.certificate], wall=WALL)
        return verify_signature(made, trust, None, octets(attempt), hashes, schemes)
    except (AuthenticationError, BadIdentity):
        return None


def changed(data: bytes) -> Iterator[bytes]:
    """Every octet changed in two ways, every octet taken out, cut off everywhere, and more behind it."""
    for at in range(len(data)):
        for mask in (0x01, 0x80):
            yield bytes((*data[:at], data[at] ^ mask, *data[at + 1 :]))
        yield data[:at] + data[at + 1 :]
        yield data[:at]
    yield data + b"\x00"
    yield bytes(len(data))
    yield b"\xff" * len(data)


def with_part(attempt: Attempt, part: str, value: bytes) -> Attempt:
    parts: dict[str, Any] = {part: value}
    return dataclasses.replace(attempt, **parts)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_changed_authenticates(method: str) -> None:
    peer = judge(method, good(method))
    assert isinstance(peer, AuthenticatedPeer)
    assert str(peer.identity) == "moon.example.org"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", ["data", "id_data", "message", "nonce", "sk_p", "certificate"])
def test_no_changed_octet_authenticates(method: str, part: str) -> None:
    before = good(method)
    value: bytes = getattr(before, part)
    if part == "certificate" and method not in ("ecdsa", "ed25519"):
        # The path does not depend on the AUTH method, and RSA is slow; a PSK has none.
        return
    mutants = changed(value)
    if part == "sk_p":
        # Its length is fixed; HMAC would not see zeros behind it.
        mutants = (mutant for mutant in mutants if len(mutant) == len(value))
    passed = [
        mutant for mutant in mutants if mutant != value and judge(method, with_part(before, part, mutant))
    ]
    assert passed == []


@pytest.mark.parametrize("method", METHODS)
def test_no_other_method_or_identity_type_authenticates(method: str) -> None:
    before = good(method)
    assert [
        number
        for number in range(256)
        if number != before.method and judge(method, dataclasses.replace(before, method=number))
    ] == []
    assert [
        number
        for number in range(256)
        if number != before.id_type and judge(method, dataclasses.replace(before, id_type=number))
    ] == []


def odd_results() -> list[object]:
    """Whatever a broken primitive may hand back instead of its success."""
    return [False, 0, -1, 1, "", "ok", b"", object(), NotImplemented, []]


def raising(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def giving(result: object) -> Callable[..., object]:
    return lambda *_, **__: result


@pytest.mark.parametrize(
    "result", [*odd_results(), None], ids=lambda value: "object" if type(value) is object else repr(value)
)
def test_a_comparison_of_macs_that_does_not_say_true_refuses(
    result: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmac, "compare_digest", giving(result))
    assert judge("psk", good("psk")) is None


@pytest.mark.parametrize("method", SIGNATURES)
@pytest.mark.parametrize(
    "result", [*odd_results(), True], ids=lambda value: "object" if type(value) is object else repr(value)
)
def test_a_signature_check_that_does_not_simply_return_refuses(
    method: str, result: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "verify", giving(result))
    assert judge(method, good(method)) is None


@pytest.mark.parametrize("method", SIGNATURES)
def test_a_signature_check_that_raises_refuses(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "verify", raising(SignatureInvalid("forced")))
    assert judge(method, good(method)) is None


class Handle:
    """A certificate of the library whose signature check is replaced."""

    def __init__(self, real: library.Certificate, check: Callable[..., object]) -> None:
        self._real = real
        self.verify_directly_issued_by = check

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.mark.parametrize("method", SIGNATURES)
@pytest.mark.parametrize(
    "check",
    [*map(giving, [*odd_results(), True]), *map(raising, [InvalidSignature(), ValueError(), TypeError()])],
)
def test_a_certificate_check_that_does_not_simply_return_refuses(
    method: str, check: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = paths.validate

    def validate(end_entity: Certificate, *rest: object) -> object:
        odd = dataclasses.replace(end_entity, handle=Handle(end_entity.handle, check))  # type: ignore[arg-type]
        return real(odd, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(paths, "validate", validate)
    assert judge(method, good(method)) is None


@pytest.mark.parametrize("method", SIGNATURES)
@pytest.mark.parametrize("step", ["validate", "vouches_for", "trusted_key"])
def test_a_refusing_step_is_enough(method: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = raising(AuthenticationError(Kind.AUTHENTICATION_FAILED, "forced"))
    if step == "validate":
        monkeypatch.setattr(paths, "validate", refusal)
    elif step == "vouches_for":
        monkeypatch.setattr(Certificate, "vouches_for", giving(False))
    else:
        monkeypatch.setattr(Credentials, "trusted_key", refusal)
    assert judge(method, good(method)) is None


@pytest.mark.parametrize("secret", [None, b""])
def test_no_secret_is_no_secret_even_for_who_computes_with_an_empty_one(secret: bytes | None) -> None:
    """CVE-2013-2944's kind: the MAC under an empty key is known to everyone."""
    made = prove_with_secret(b"", PRF, octets(good("psk")))
    with pytest.raises(AuthenticationError):
        verify_secret(made, Identity.parse("moon"), None, secret, PRF, octets(good("psk")))


@pytest.mark.parametrize("method", [*SIGNATURES])
@pytest.mark.parametrize("value", ["empty", "zero", "one octet", "no signature", "algorithm only", "r=s=0"])
def test_signatures_of_nothing_do_not_authenticate(method: str, value: str) -> None:
    before = good(method)
    head = b""
    if before.method == AuthMethod.DIGITAL_SIGNATURE:
        head = before.data[: 1 + before.data[0]]
    body = before.data[len(head) :]
    data = {
        "empty": b"",
        "zero": head + bytes(len(body)),
        "one octet": head + b"\x00",
        "no signature": head,
        "algorithm only": b"\x00",
        "r=s=0": head + bytes.fromhex("3006020100020100"),
    }[value]
    assert judge(method, dataclasses.replace(before, data=data)) is None


def test_an_rsa_signature_of_zero_one_or_the_modulus_does_not_authenticate() -> None:
    """CVE-2017-11185: s = 0 and s = n."""
    before = good("rsa-pkcs1")
    head = before.data[: 1 + before.data[0]]
    modulus = own("rsa2048").certificate.public_key.public_numbers().n  # type: ignore[union-attr]
    for number in (0, 1, modulus - 1, modulus, modulus + 1):
        data = head + number.to_bytes(256, "big")
        assert judge("rsa-pkcs1", dataclasses.replace(before, data=data)) is None


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 64, 127, 222])
def test_pss_parameters_other_than_the_hash_length_are_refused(salt: int) -> None:
    """CVE-2018-6459, CVE-2026-14957: negative, huge or missing parameters are never interpreted."""
    before = good("rsa-pss")
    at = before.data.index(bytes.fromhex("a203020120"))
    data = before.data[: at + 4] + bytes((salt,)) + before.data[at + 5 :]
    assert judge("rsa-pss", dataclasses.replace(before, data=data)) is None
