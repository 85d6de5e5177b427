"""Finite-field Diffie-Hellman over the MODP groups of RFC 3526 and 2409: the one import place of the
library's DH.

`cryptography` deprecates it from 50 and moves it into its `decrepit` module from 53; IKE cannot do
without it. When it moves, this file follows, and nothing else does.
"""

from __future__ import annotations

import functools
import warnings

from cryptography.hazmat.primitives.asymmetric import dh
from cryptography.utils import CryptographyDeprecationWarning

from cygnet.crypto import legacy
from cygnet.crypto.entropy import Entropy, SystemEntropy
from cygnet.crypto.errors import InvalidPublicValue
from cygnet.wire.numbers import KeMethod

GENERATOR = 2
# group: (bits, the constant that RFC 3526 adds to pi's digits to make the number a safe prime)
_GROUPS: dict[int, tuple[int, int]] = {
    KeMethod.MODP_2048: (2048, 124476),
    KeMethod.MODP_3072: (3072, 1690314),
    KeMethod.MODP_4096: (4096, 240904),
    KeMethod.MODP_6144: (6144, 929484),
    KeMethod.MODP_8192: (8192, 4743158),
    **legacy.MODP_GROUPS,
}
GROUPS = tuple(_GROUPS)
# Twice the security strength that RFC 3526, section 8, gives the largest group (310 bits), rounded up.
_SEEDED_EXPONENT_OCTETS = 80


def _arctangent_of_inverse(n: int, unit: int) -> int:
    term = total = unit // n
    square, divisor, sign = n * n, 1, 1
    while term:
        term //= square
        divisor += 2
        sign = -sign
        total += sign * (term // divisor)
    return total


def _pi_times_power_of_two(exponent: int) -> int:
    """[2^exponent pi], by Machin's formula with 64 guard bits."""
    unit = 1 << (exponent + 64)
    quarter = 4 * _arctangent_of_inverse(5, unit) - _arctangent_of_inverse(239, unit)
    return (4 * quarter) >> 64


@functools.cache
def prime(group: int) -> int:
    """p = 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + c) (RFC 3526, sections 3 to 7)."""
    bits, addend = _GROUPS[group]
    return (1 << bits) - (1 << (bits - 64)) - 1 + ((_pi_times_power_of_two(bits - 130) + addend) << 64)


def public_length(group: int) -> int:
    return _GROUPS[group][0] // 8


@functools.cache
def _parameters(group: int) -> tuple[dh.DHParameterNumbers, dh.DHParameters]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        numbers = dh.DHParameterNumbers(prime(group), GENERATOR)
        return numbers, numbers.parameters()


def check_public(group: int, data: bytes) -> int:
    """The peer's value, 1 < y < p - 1 (RFC 6989, section 2.1), in the full length (RFC 7296, section 3.4)."""
    if len(data) != public_length(group):
        raise InvalidPublicValue(f"{KeMethod.name_of(group)} value of {len(data)} octets")
    value = int.from_bytes(data, "big")
    if not 1 < value < prime(group) - 1:
        raise InvalidPublicValue(f"{KeMethod.name_of(group)} value out of range")
    return value


class ModpKey:
    """One private exponent and its public value; `group` must be one of GROUPS."""

    __slots__ = ("_private", "group", "public")

    def __init__(self, group: int, entropy: Entropy) -> None:
        self.group = group
        numbers, parameters = _parameters(group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            if isinstance(entropy, SystemEntropy):
                self._private = parameters.generate_private_key()
            else:
                # Simulation: pow() is not constant-time, and nobody is there to time it.
                exponent = int.from_bytes(entropy.octets(_SEEDED_EXPONENT_OCTETS), "big") | 2
                public = dh.DHPublicNumbers(pow(GENERATOR, exponent, prime(group)), numbers)
                self._private = dh.DHPrivateNumbers(exponent, public).private_key()
            value = self._private.public_key().public_numbers().y
        self.public = value.to_bytes(public_length(group), "big")

    def shared(self, peer_public: bytes) -> bytes:
        """g^ir in the full length of the modulus (RFC 7296, section 2.14); raises InvalidPublicValue."""
        value = check_public(self.group, peer_public)
        numbers, _ = _parameters(self.group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            peer = dh.DHPublicNumbers(value, numbers).public_key()
            return self._private.exchange(peer).rjust(public_length(self.group), b"\x00")
