"""Key exchange methods by their IANA number: MODP, ECP, Brainpool, X25519, X448, ML-KEM.

The initiator of an exchange makes a key with `generate` and takes the secret from the answer with
`shared`; the responder does its half in one step with `respond`: so it is the same for Diffie-Hellman,
where both halves are alike, and for ML-KEM, where they are not (RFC 9370, section 2.1).

`public` and `shared` are octets as the KE payload carries them: MODP values in the full length of
the modulus, curve points as x | y without a format octet and the secret as x alone (RFC 5903,
section 7; RFC 6954), X25519 and X448 as RFC 8031 says. The peer's value is checked as RFC 6989
demands before anything is computed with it, by `check_public` or by `shared`, whichever comes first.
"""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from cygnet.crypto import ml_kem, modp
from cygnet.crypto.entropy import Entropy, SystemEntropy
from cygnet.crypto.errors import InvalidPublicValue, UnsupportedAlgorithm
from cygnet.records import dataclass
from cygnet.wire.numbers import KeMethod

__all__ = [
    "SUPPORTED_GROUPS",
    "InvalidPublicValue",
    "KeyExchange",
    "Response",
    "check_public",
    "generate",
    "public_length",
    "respond",
]


class KeyExchange(Protocol):
    """The initiator's private key for one exchange. It lives until the secret is computed, and no longer."""

    @property
    def group(self) -> int: ...

    @property
    def public(self) -> bytes:
        """What goes into our KE payload."""
        ...

    def shared(self, peer_public: bytes) -> bytes:
        """The shared secret g^ir; raises InvalidPublicValue."""
        ...


_CURVES: dict[int, ec.EllipticCurve] = {
    KeMethod.ECP_256: ec.SECP256R1(),
    KeMethod.ECP_384: ec.SECP384R1(),
    KeMethod.ECP_521: ec.SECP521R1(),
    KeMethod.ECP_256_BP: ec.BrainpoolP256R1(),
    KeMethod.ECP_384_BP: ec.BrainpoolP384R1(),
    KeMethod.ECP_512_BP: ec.BrainpoolP512R1(),
}
# Diffie-Hellman; `ml_kem.METHODS` come on top.
SUPPORTED_GROUPS = (KeMethod.CURVE_25519, KeMethod.CURVE_448, *_CURVES, *modp.GROUPS)


def _coordinate_length(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


_PUBLIC_LENGTHS = {
    KeMethod.CURVE_25519: 32,
    KeMethod.CURVE_448: 56,
    **{group: 2 * _coordinate_length(curve) for group, curve in _CURVES.items()},
    **{group: modp.public_length(group) for group in modp.GROUPS},
}

# Points of small order: with them the secret is zero whatever our key is (RFC 7748, section 6). In
# curve25519 they are of order 1, 2, 4 and 8 and their encodings above p; the top bit is ignored.
_P25519 = 2**255 - 19
_ORDER_EIGHT = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
_SMALL_25519 = frozenset({0, 1, _P25519 - 1, _P25519, _P25519 + 1, *_ORDER_EIGHT})
_P448 = 2**448 - 2**224 - 1
_SMALL_448 = frozenset({0, 1, _P448 - 1, _P448, _P448 + 1})


class _X25519:
    __slots__ = ("_private", "public")

    group = KeMethod.CURVE_25519

    def __init__(self, entropy: Entropy) -> None:
        if isinstance(entropy, SystemEntropy):
            self._private = X25519PrivateKey.generate()
        else:
            self._private = X25519PrivateKey.from_private_bytes(entropy.octets(32))
        self.public = self._private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        _check_length(self.group, peer_public)
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            # The library refuses a secret of zeros, which RFC 8031, section 2, demands.
            raise InvalidPublicValue("CURVE_25519 value of small order") from None


class _X448:
    __slots__ = ("_private", "public")

    group = KeMethod.CURVE_448

    def __init__(self, entropy: Entropy) -> None:
        if isinstance(entropy, SystemEntropy):
            self._private = X448PrivateKey.generate()
        else:
            self._private = X448PrivateKey.from_private_bytes(entropy.octets(56))
        self.public = self._private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        _check_length(self.group, peer_public)
        try:
            return self._private.exchange(X448PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise InvalidPublicValue("CURVE_448 value of small order") from None


class _Curve:
    __slots__ = ("_private", "group", "public")

    def __init__(self, group: int, entropy: Entropy) -> None:
        self.group = group
        curve = _CURVES[group]
        if isinstance(entropy, SystemEntropy):
            self._private = ec.generate_private_key(curve)
        else:
            # 64 bits more than the order: its bias is far below what anyone could see (FIPS 186-5, A.2.1).
            wide = int.from_bytes(entropy.octets(_coordinate_length(curve) + 8), "big")
            self._private = ec.derive_private_key(1 + wide % (curve.group_order - 1), curve)
        numbers = self._private.public_key().public_numbers()
        size = _coordinate_length(curve)
        self.public = numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")

    def shared(self, peer_public: bytes) -> bytes:
        return self._private.exchange(ec.ECDH(), _point(self.group, peer_public))


def _point(group: int, data: bytes) -> ec.EllipticCurvePublicKey:
    """The peer's point, on the curve (RFC 6989, section 2.3); x | y has no way to write infinity."""
    _check_length(group, data)
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[group], b"\x04" + data)
    except ValueError:
        raise InvalidPublicValue(f"{KeMethod.name_of(group)} value is no point of the curve") from None


def _check_length(group: int, data: bytes) -> None:
    if len(data) != _PUBLIC_LENGTHS[group]:
        raise InvalidPublicValue(f"{KeMethod.name_of(group)} value of {len(data)} octets")


def public_length(group: int) -> int:
    """Octets in the initiator's KE payload of this method; raises UnsupportedAlgorithm."""
    return _PUBLIC_LENGTHS.get(group) or ml_kem.key_length(group)


def generate(group: int, entropy: Entropy) -> KeyExchange:
    """A fresh key pair; raises UnsupportedAlgorithm.

    The system's entropy means the library's generator; any other is asked for octets, so that the
    same seed gives the same key.
    """
    if group == KeMethod.CURVE_25519:
        return _X25519(entropy)
    if group in _CURVES:
        return _Curve(group, entropy)
    if group == KeMethod.CURVE_448:
        return _X448(entropy)
    if group in modp.GROUPS:
        return modp.ModpKey(group, entropy)
    if group in ml_kem.METHODS:
        return ml_kem.MlKemKey(group, entropy)
    raise UnsupportedAlgorithm(f"key exchange {KeMethod.name_of(group)}")


@dataclass(frozen=True, slots=True)
class Response:
    """The responder's half: what its KE payload carries, and the secret."""

    group: int
    public: bytes
    shared: bytes = field(repr=False)


def respond(group: int, peer_public: bytes, entropy: Entropy) -> Response:
    """Answer the initiator's value; raises InvalidPublicValue, before anything is made for it."""
    if group in ml_kem.METHODS:
        return Response(group, *ml_kem.encapsulate(group, peer_public))
    check_public(group, peer_public)
    ours = generate(group, entropy)
    return Response(group, ours.public, ours.shared(peer_public))


def check_public(group: int, data: bytes) -> None:
    """Judge the initiator's value without computing with it. Raises InvalidPublicValue,
    UnsupportedAlgorithm."""
    public_length(group)
    if group in ml_kem.METHODS:
        ml_kem.check_key(group, data)
        return
    if group in _CURVES:
        _point(group, data)
        return
    if group in modp.GROUPS:
        modp.check_public(group, data)
        return
    _check_length(group, data)
    value = int.from_bytes(data, "little")
    small = value & ((1 << 255) - 1) in _SMALL_25519 if group == KeMethod.CURVE_25519 else value in _SMALL_448
    if small:
        raise InvalidPublicValue(f"{KeMethod.name_of(group)} value of small order")
