"""Pseudo-random functions by their IKEv2 IANA number, and prf+ (RFC 7296, section 2.13).

A single HMAC is one-shot (`hmac.digest`); a chain of them under one key starts from a context that
took in the key once, and no context outlives a call.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from cygnet.crypto import aes_mac, legacy
from cygnet.crypto.errors import UnsupportedAlgorithm
from cygnet.wire.numbers import Prf as PrfNumber


@dataclass(frozen=True, slots=True)
class Prf:
    """One pseudo-random function. Lengths are octets.

    `key_length` is the preferred key length: of SK_d, SK_pi and SK_pr (RFC 7296, section 2.14).
    `half_nonces`: AES-XCBC and AES-CMAC take only the first 8 octets of each nonce as the key of
    SKEYSEED, for historical reasons (same section).
    """

    id: int
    output_length: int
    key_length: int
    half_nonces: bool
    compute: Callable[[bytes, bytes], bytes]
    keyed: Callable[[bytes], Callable[[bytes], bytes]]
    """`compute` with the key taken in, for several computations."""

    def plus(self, key: bytes, seed: bytes, length: int) -> bytes:
        """prf+ (RFC 7296, section 2.13): `length` octets; at most 255 blocks, else ValueError."""
        count = -(-length // self.output_length)
        if count > 255:
            raise ValueError(f"prf+ cannot give {length} octets: its counter is one octet")
        compute = self.keyed(key)
        block = b""
        blocks = []
        for number in range(1, count + 1):
            block = compute(block + seed + number.to_bytes(1, "big"))
            blocks.append(block)
        return b"".join(blocks)[:length]


def _hmac(number: int, digest: Callable[[], Any], algorithm: hashes.HashAlgorithm) -> Prf:
    def compute(key: bytes, data: bytes) -> bytes:
        # The constructor instead of its name: a name is looked up again in each call.
        return hmac.digest(key, data, digest)

    def keyed(key: bytes) -> Callable[[bytes], bytes]:
        start = HMAC(key, algorithm)

        def further(data: bytes) -> bytes:
            running = start.copy()
            running.update(data)
            return running.finalize()

        return further

    size = algorithm.digest_size
    return Prf(number, size, size, False, compute, keyed)


def _aes(number: int, compute: Callable[[bytes, bytes], bytes]) -> Prf:
    def keyed(key: bytes) -> Callable[[bytes], bytes]:
        return functools.partial(compute, key)

    return Prf(number, aes_mac.BLOCK, aes_mac.BLOCK, True, compute, keyed)


_PRFS = {
    known.id: known
    for known in (
        _hmac(PrfNumber.PRF_HMAC_MD5, legacy.md5, legacy.MD5_ALGORITHM),
        _hmac(PrfNumber.PRF_HMAC_SHA1, hashlib.sha1, hashes.SHA1()),  # noqa: S303 - by name only, for old peers
        _hmac(PrfNumber.PRF_HMAC_SHA2_256, hashlib.sha256, hashes.SHA256()),
        _hmac(PrfNumber.PRF_HMAC_SHA2_384, hashlib.sha384, hashes.SHA384()),
        _hmac(PrfNumber.PRF_HMAC_SHA2_512, hashlib.sha512, hashes.SHA512()),
        _aes(PrfNumber.PRF_AES128_XCBC, aes_mac.xcbc_prf),
        _aes(PrfNumber.PRF_AES128_CMAC, aes_mac.cmac_prf),
    )
}
SUPPORTED_PRFS = tuple(_PRFS)


def prf(number: int) -> Prf:
    """The PRF with this IANA number; raises UnsupportedAlgorithm."""
    try:
        return _PRFS[number]
    except KeyError:
        raise UnsupportedAlgorithm(f"PRF {PrfNumber.name_of(number)}") from None
