"""What is too weak for today and lives on in old peers: DES, 3DES, MD4, MD5, MODP groups below 2048 bits.

The one place that imports or names these primitives. Nothing offers or accepts them unless a proposal of the
configuration names them: no `default` holds one, and `LEGACY` is what loading warns of. MD4 and single blocks
of DES are what MS-CHAPv2 is made of (RFC 2759), and nothing else here uses them.

- DES: 56 bits, searched in days. The library has no DES of its own; 3DES with one key three times is DES
  (FIPS 46-3: E(D(E(x))) = E(x)).
- 3DES: blocks of 64 bits, which repeat after some 2^32 of them (CVE-2016-2183, "Sweet32"): rekey by bytes.
- MD5: collisions in seconds; inside HMAC it still holds, 96 or 128 bits of it.
- MODP 768 and 1024 are within reach of those who can compute for them once (CVE-2015-4000); 1536 is not far.
- MS-CHAPv2: whoever hears an exchange can break it for the price of one DES key, so it belongs inside an
  authenticated, encrypted channel. Its MD4 is neither in hashlib's default provider nor in `cryptography`:
  both come from `pycryptodome`, which is installed with `cygnet[eap]`.
- Camellia is sound; the library keeps it among what it deprecates, so it is imported here.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES
from cryptography.hazmat.primitives import hashes

from cygnet.crypto.errors import UnsupportedAlgorithm
from cygnet.wire.numbers import Encr, Integ, KeMethod, Prf, TransformType

__all__ = [
    "DES_BLOCK", "DES_KEY", "LEGACY", "MD5_ALGORITHM", "MISSING", "MODP_GROUPS", "TRIPLE_DES_KEY", "Camellia",
    "available", "des", "des_cipher", "is_weak_des_key", "md4", "md5", "triple_des_cipher",
]  # fmt: skip

DES_BLOCK: Final = 8
DES_KEY: Final = 8
TRIPLE_DES_KEY: Final = 24

MODP_GROUPS: Final = {
    KeMethod.MODP_768: (768, 149686),
    KeMethod.MODP_1024: (1024, 129093),
    KeMethod.MODP_1536: (1536, 741804),
}
"""(bits, constant added to pi's digits): RFC 2412, appendix E.1 and E.2; RFC 3526, section 2."""

LEGACY: Final = frozenset(
    {
        (TransformType.ENCR, Encr.DES_CBC),
        (TransformType.ENCR, Encr.TRIPLE_DES_CBC),
        (TransformType.INTEG, Integ.HMAC_MD5_96),
        (TransformType.PRF, Prf.PRF_HMAC_MD5),
        *((TransformType.KE, group) for group in MODP_GROUPS),
    }
)
"""(transform type, number) of all that is in this file."""

_WEAK_DES_KEYS: Final = frozenset(
    map(
        bytes.fromhex,
        (
            "0101010101010101", "fefefefefefefefe", "1f1f1f1f0e0e0e0e", "e0e0e0e0f1f1f1f1",
            "01fe01fe01fe01fe", "fe01fe01fe01fe01", "1fe01fe00ef10ef1", "e01fe01ff10ef10e",
            "01e001e001f101f1", "e001e001f101f101", "1ffe1ffe0efe0efe", "fe1ffe1ffe0efe0e",
            "011f011f010e010e", "1f011f010e010e01", "e0fee0fef1fef1fe", "fee0fee0fef1fef1",
        ),
    )
)  # fmt: skip
"""Weak, then semi-weak keys (RFC 2409, appendix A; its second line lacks the first line's parity bits: the
second half of those keys is 0e and f1 as in the others). With odd parity."""


def is_weak_des_key(key: bytes) -> bool:
    """Whether these 8 octets are one of DES's weak or semi-weak keys, parity bits aside."""
    odd = bytes([octet & 0xFE | (octet.bit_count() - (octet & 1)) % 2 ^ 1 for octet in key])
    return odd in _WEAK_DES_KEYS


def des_cipher(key: bytes) -> TripleDES:
    """DES with a key of 8 octets, for the library's `Cipher`."""
    return TripleDES(key * 3)


def triple_des_cipher(key: bytes) -> TripleDES:
    """3DES with a key of 24 octets, for the library's `Cipher`."""
    return TripleDES(key)


md5 = hashlib.md5
"""For `hmac.digest` and `hashlib`-like use."""
MD5_ALGORITHM: Final = hashes.MD5()  # noqa: S303 - this file is the place for it


MISSING = "MS-CHAPv2 needs MD4 and DES: pip install 'cygnet[eap]'"


def available() -> bool:
    """Whether the library is installed."""
    try:
        import Crypto.Cipher.DES
        import Crypto.Hash.MD4  # noqa: F401
    except ImportError:
        return False
    return True


def md4(data: bytes) -> bytes:
    """Raises `UnsupportedAlgorithm` where the library is missing."""
    try:
        from Crypto.Hash import MD4
    except ImportError:
        raise UnsupportedAlgorithm(MISSING) from None
    return bytes(MD4.new(data).digest())  # noqa: S303 - what MS-CHAPv2 is


def des(key: bytes, block: bytes) -> bytes:
    """One block with a key of 7 octets (56 bits; the parity bits are put in here)."""
    try:
        from Crypto.Cipher import DES
    except ImportError:
        raise UnsupportedAlgorithm(MISSING) from None
    return bytes(DES.new(_with_parity(key), DES.MODE_ECB).encrypt(block))  # noqa: S304 - the same


@lru_cache(maxsize=1)
def _parity() -> bytes:
    return bytes([seven << 1 | (seven.bit_count() + 1) % 2 for seven in range(128)])


def _with_parity(key: bytes) -> bytes:
    bits, parity = int.from_bytes(key, "big"), _parity()
    return bytes([parity[bits >> shift & 0x7F] for shift in range(49, -1, -7)])
