"""MACs on AES-128: XCBC (RFC 3566) and CMAC (RFC 4493), and the PRFs on them (RFC 4434, RFC 4615).

XCBC is one CBC pass here: all blocks but the last go in as they are, the last with K2 or K3 added.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

BLOCK = 16
_ZERO_BLOCK = bytes(BLOCK)
_DERIVE = b"\x01" * BLOCK + b"\x02" * BLOCK + b"\x03" * BLOCK


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(BLOCK, "big")


def xcbc(key: bytes, data: bytes) -> bytes:
    """AES-XCBC-MAC, 16 octets, not truncated (RFC 3566, section 4). `key` is 16 octets."""
    # ECB only to derive three constants' encryptions, as RFC 3566, section 4, step 1 says.
    derived = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(_DERIVE)  # noqa: S305
    whole = max(0, len(data) - 1) // BLOCK * BLOCK
    last = data[whole:]
    if len(last) == BLOCK:
        last = _xor(last, derived[16:32])
    else:
        last = _xor(last + b"\x80" + bytes(BLOCK - 1 - len(last)), derived[32:48])
    chain = Cipher(algorithms.AES(derived[:16]), modes.CBC(_ZERO_BLOCK)).encryptor()
    return chain.update(data[:whole] + last)[-BLOCK:]


def cmac(key: bytes, data: bytes) -> bytes:
    """AES-CMAC, 16 octets (RFC 4493). `key` is 16 octets."""
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def xcbc_prf(key: bytes, data: bytes) -> bytes:
    """AES-XCBC-PRF-128 with a key of any length (RFC 4434, section 2)."""
    if len(key) < BLOCK:
        key += bytes(BLOCK - len(key))
    elif len(key) > BLOCK:
        key = xcbc(_ZERO_BLOCK, key)
    return xcbc(key, data)


def cmac_prf(key: bytes, data: bytes) -> bytes:
    """AES-CMAC-PRF-128 with a key of any length (RFC 4615, section 3)."""
    if len(key) != BLOCK:
        key = cmac(_ZERO_BLOCK, key)
    return cmac(key, data)
