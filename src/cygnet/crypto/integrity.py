"""Integrity algorithms of IKEv2, ESP and AH by their IANA number: a MAC cut to its ICV length.

GMAC (RFC 4543) is one of AH alone: it needs an IV that never repeats, which AH carries before the tag.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cygnet.crypto import aes_mac, legacy
from cygnet.crypto.errors import UnsupportedAlgorithm
from cygnet.wire.numbers import Integ


@dataclass(frozen=True, slots=True)
class Integrity:
    """Lengths are octets. `compute(key, data)` is the ICV, already truncated.

    With GMAC `iv_length` is 8, `key` ends with the salt, and `data` begins with the IV, which is not
    authenticated by being there: AH's own data holds it once more.
    """

    id: int
    key_length: int
    icv_length: int
    compute: Callable[[bytes, bytes], bytes]
    iv_length: int = 0


def _hmac(digest: Callable[[], Any], icv_length: int) -> Callable[[bytes, bytes], bytes]:
    def compute(key: bytes, data: bytes) -> bytes:
        # The constructor instead of its name: a name is looked up again in each call.
        return hmac.digest(key, data, digest)[:icv_length]

    return compute


def _xcbc_96(key: bytes, data: bytes) -> bytes:
    return aes_mac.xcbc(key, data)[:12]


def _cmac_96(key: bytes, data: bytes) -> bytes:
    return aes_mac.cmac(key, data)[:12]


def _gmac(key: bytes, data: bytes) -> bytes:
    iv, authenticated = data[:8], memoryview(data)[8:]
    return AESGCM(key[:-4]).encrypt(key[-4:] + iv, b"", authenticated)


# RFC 2403, RFC 2404, RFC 4868 (ICV = half the digest, key = the whole), RFC 3566, RFC 4494.
_INTEGRITY = {
    Integ.HMAC_MD5_96: Integrity(Integ.HMAC_MD5_96, 16, 12, _hmac(legacy.md5, 12)),
    Integ.HMAC_SHA1_96: Integrity(Integ.HMAC_SHA1_96, 20, 12, _hmac(hashlib.sha1, 12)),
    Integ.HMAC_SHA2_256_128: Integrity(Integ.HMAC_SHA2_256_128, 32, 16, _hmac(hashlib.sha256, 16)),
    Integ.HMAC_SHA2_384_192: Integrity(Integ.HMAC_SHA2_384_192, 48, 24, _hmac(hashlib.sha384, 24)),
    Integ.HMAC_SHA2_512_256: Integrity(Integ.HMAC_SHA2_512_256, 64, 32, _hmac(hashlib.sha512, 32)),
    Integ.AES_XCBC_96: Integrity(Integ.AES_XCBC_96, 16, 12, _xcbc_96),
    Integ.AES_CMAC_96: Integrity(Integ.AES_CMAC_96, 16, 12, _cmac_96),
    # RFC 4543, section 5.3: a number for each key length; the key ends with 4 octets of salt.
    Integ.AES_128_GMAC: Integrity(Integ.AES_128_GMAC, 20, 16, _gmac, 8),
    Integ.AES_192_GMAC: Integrity(Integ.AES_192_GMAC, 28, 16, _gmac, 8),
    Integ.AES_256_GMAC: Integrity(Integ.AES_256_GMAC, 36, 16, _gmac, 8),
}
SUPPORTED_INTEGRITY = tuple(number for number, algorithm in _INTEGRITY.items() if not algorithm.iv_length)
"""Of IKE and ESP; AH has GMAC too."""


def integrity(number: int) -> Integrity:
    """The integrity algorithm with this IANA number; raises UnsupportedAlgorithm."""
    try:
        return _INTEGRITY[number]
    except KeyError:
        raise UnsupportedAlgorithm(f"integrity {Integ.name_of(number)}") from None
