"""MD4 and single DES, which MS-CHAPv2 is made of (RFC 2759) and nothing else here may use.

Neither is in hashlib's default provider nor in `cryptography`: they come from `pycryptodome`, which is
installed with `cygnet[eap]`. Whoever hears an MS-CHAPv2 exchange can break it for the price of one DES key:
it belongs inside an authenticated, encrypted channel.
"""

from __future__ import annotations

from functools import lru_cache

from cygnet.crypto.errors import UnsupportedAlgorithm

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
