"""Pseudo-random functions of IKEv2 by their IANA number, and prf+ (RFC 7296, section 2.13).

HMACs are one-shot (`hmac.digest`): no context outlives a call.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from cygnet.crypto import aes_mac
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

    def plus(self, key: bytes, seed: bytes, length: int) -> bytes:
        """prf+ (RFC 7296, section 2.13): `length` octets; at most 255 blocks, else ValueError."""
        count = -(-length // self.output_length)
        if count > 255:
            raise ValueError(f"prf+ cannot give {length} octets: its counter is one octet")
        compute = self.compute
        block = b""
        blocks = []
        for number in range(1, count + 1):
            block = compute(key, block + seed + number.to_bytes(1, "big"))
            blocks.append(block)
        return b"".join(blocks)[:length]


def _hmac(digest: str) -> Callable[[bytes, bytes], bytes]:
    def compute(key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, digest)

    return compute


_PRFS = {
    PrfNumber.PRF_HMAC_SHA1: Prf(PrfNumber.PRF_HMAC_SHA1, 20, 20, False, _hmac("sha1")),
    PrfNumber.PRF_HMAC_SHA2_256: Prf(PrfNumber.PRF_HMAC_SHA2_256, 32, 32, False, _hmac("sha256")),
    PrfNumber.PRF_HMAC_SHA2_384: Prf(PrfNumber.PRF_HMAC_SHA2_384, 48, 48, False, _hmac("sha384")),
    PrfNumber.PRF_HMAC_SHA2_512: Prf(PrfNumber.PRF_HMAC_SHA2_512, 64, 64, False, _hmac("sha512")),
    PrfNumber.PRF_AES128_XCBC: Prf(PrfNumber.PRF_AES128_XCBC, 16, 16, True, aes_mac.xcbc_prf),
    PrfNumber.PRF_AES128_CMAC: Prf(PrfNumber.PRF_AES128_CMAC, 16, 16, True, aes_mac.cmac_prf),
}
SUPPORTED_PRFS = tuple(_PRFS)


def prf(number: int) -> Prf:
    """The PRF with this IANA number; raises UnsupportedAlgorithm."""
    try:
        return _PRFS[number]
    except KeyError:
        raise UnsupportedAlgorithm(f"PRF {PrfNumber.name_of(number)}") from None
