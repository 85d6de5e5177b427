"""IKEv1's cryptography: the suite of phase 1, key derivation, IVs, HASHes (RFC 2409, section 5, appendix B).

    SKEYID   = prf(psk, Ni | Nr)         or, with signatures, prf(Ni | Nr, g^xy)
    SKEYID_d = prf(SKEYID, g^xy | CKY-I | CKY-R | 0)               -> KEYMAT of phase 2
    SKEYID_a = prf(SKEYID, SKEYID_d | g^xy | CKY-I | CKY-R | 1)    -> the HASHes of phase 2
    SKEYID_e = prf(SKEYID, SKEYID_a | g^xy | CKY-I | CKY-R | 2)    -> the key of the cipher

The prf is HMAC with the negotiated hash: no other has a number (IANA, "PRF": none assigned). Nothing here
keeps state: the chain of IVs is its caller's. Encryption brings no integrity in IKEv1; HASH and SIG do.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import field
from typing import Any

from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, algorithms, modes

from cygnet.crypto import legacy
from cygnet.crypto.errors import UnsupportedAlgorithm
from cygnet.records import dataclass
from cygnet.wire.v1.numbers import Encryption, Hash

_HASHES: dict[int, Callable[..., Any]] = {
    Hash.MD5: legacy.md5,
    Hash.SHA1: hashlib.sha1,  # by name only, for old peers
    Hash.SHA2_256: hashlib.sha256,
    Hash.SHA2_384: hashlib.sha384,
    Hash.SHA2_512: hashlib.sha512,
}
SUPPORTED_HASHES = tuple(_HASHES)


@dataclass(frozen=True, slots=True)
class Phase1Suite:
    """A cipher and a hash; shared, without keys. Lengths are octets. Numbers as in `wire.v1.numbers`."""

    encryption: int
    key_bits: int
    hash: int
    key_length: int
    block: int
    hash_length: int
    digest: Callable[..., Any]
    cipher: Callable[[bytes], BlockCipherAlgorithm]

    def prf(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, self.digest)

    def hash_of(self, data: bytes) -> bytes:
        """The plain hash: of IVs, and of NAT-D (RFC 3947, section 3.2)."""
        value: bytes = self.digest(data).digest()
        return value

    def encrypt(self, key: bytes, iv: bytes, plaintext: bytes) -> bytes:
        """CBC over `plaintext`, padded here with zeros to whole blocks (appendix B). The last `block` octets
        of the result are the next message's IV."""
        padded = plaintext + bytes(-len(plaintext) % self.block)
        sealing = Cipher(self.cipher(key), modes.CBC(iv)).encryptor()
        return sealing.update(padded) + sealing.finalize()

    def decrypt(self, key: bytes, iv: bytes, ciphertext: bytes) -> bytes | None:
        """The plaintext with its padding; None when these are no whole blocks."""
        if not ciphertext or len(ciphertext) % self.block:
            return None
        opening = Cipher(self.cipher(key), modes.CBC(iv)).decryptor()
        return opening.update(ciphertext) + opening.finalize()


_AES_KEYS = {128: 16, 192: 24, 256: 32}


@functools.cache
def phase1_suite(encryption: int, key_bits: int, hash_number: int) -> Phase1Suite:
    """The suite of these numbers, one object for each choice. `key_bits` 0: no Key Length attribute, without
    which AES and Camellia are nothing (RFC 3602, section 5.3). Raises UnsupportedAlgorithm."""
    digest = _HASHES.get(hash_number)
    if digest is None:
        raise UnsupportedAlgorithm(f"hash {Hash.name_of(hash_number)}")
    cipher: Callable[[bytes], BlockCipherAlgorithm]
    length: int | None
    if encryption == Encryption.AES_CBC:
        cipher, length, block = algorithms.AES, _AES_KEYS.get(key_bits), 16
    elif encryption == Encryption.CAMELLIA_CBC:
        cipher, length, block = legacy.Camellia, _AES_KEYS.get(key_bits), 16
    elif encryption == Encryption.TRIPLE_DES_CBC and not key_bits:
        cipher, length, block = legacy.triple_des_cipher, legacy.TRIPLE_DES_KEY, legacy.DES_BLOCK
    elif encryption == Encryption.DES_CBC and not key_bits:
        cipher, length, block = legacy.des_cipher, legacy.DES_KEY, legacy.DES_BLOCK
    else:
        length = None
    if length is None:
        bits = f" with a key of {key_bits} bits" if key_bits else ""
        raise UnsupportedAlgorithm(f"encryption {Encryption.name_of(encryption)}{bits}")
    return Phase1Suite(encryption, key_bits, hash_number, length, block, digest().digest_size, digest, cipher)


@dataclass(frozen=True, slots=True)
class Phase1Keys:
    """What phase 1 yields. `encryption` is the cipher's key, derived from SKEYID_e (appendix B)."""

    skeyid: bytes = field(repr=False)
    skeyid_d: bytes = field(repr=False)
    skeyid_a: bytes = field(repr=False)
    skeyid_e: bytes = field(repr=False)
    encryption: bytes = field(repr=False)


def skeyid_of_secret(suite: Phase1Suite, psk: bytes, ni: bytes, nr: bytes) -> bytes:
    """SKEYID of a pre-shared key. `ni`, `nr`: the bodies of the nonce payloads."""
    return suite.prf(psk, ni + nr)


def skeyid_of_signatures(suite: Phase1Suite, ni: bytes, nr: bytes, shared: bytes) -> bytes:
    """SKEYID of signatures, hybrid included. `shared` is g^xy in the full length of its group."""
    return suite.prf(ni + nr, shared)


def phase1_keys(suite: Phase1Suite, skeyid: bytes, shared: bytes, cky_i: bytes, cky_r: bytes) -> Phase1Keys:
    common = shared + cky_i + cky_r
    skeyid_d = suite.prf(skeyid, common + b"\x00")
    skeyid_a = suite.prf(skeyid, skeyid_d + common + b"\x01")
    skeyid_e = suite.prf(skeyid, skeyid_a + common + b"\x02")
    return Phase1Keys(skeyid, skeyid_d, skeyid_a, skeyid_e, encryption_key(suite, skeyid_e))


def encryption_key(suite: Phase1Suite, skeyid_e: bytes) -> bytes:
    """The cipher's key: the first octets of SKEYID_e, or, when it is too short, of K1 | K2 | ... with
    K1 = prf(SKEYID_e, 0), Kn = prf(SKEYID_e, Kn-1) (appendix B). DES takes the first eight octets of SKEYID_e
    that are no weak key."""
    if suite.encryption == Encryption.DES_CBC:
        starts = range(len(skeyid_e) - suite.key_length + 1)
        keys = (skeyid_e[start : start + suite.key_length] for start in starts)
        return next(key for key in keys if not legacy.is_weak_des_key(key))
    if len(skeyid_e) >= suite.key_length:
        return skeyid_e[: suite.key_length]
    block = suite.prf(skeyid_e, b"\x00")
    material = block
    while len(material) < suite.key_length:
        block = suite.prf(skeyid_e, block)
        material += block
    return material[: suite.key_length]


def phase1_iv(suite: Phase1Suite, public_i: bytes, public_r: bytes) -> bytes:
    """The IV of phase 1's first encrypted message: of hash(g^xi | g^xr) (appendix B)."""
    return suite.hash_of(public_i + public_r)[: suite.block]


def phase2_iv(suite: Phase1Suite, last_block: bytes, message_id: int) -> bytes:
    """The IV of the first message of any later exchange. `last_block`: phase 1's last ciphertext block."""
    return suite.hash_of(last_block + message_id.to_bytes(4, "big"))[: suite.block]


def phase1_hash(
    suite: Phase1Suite,
    skeyid: bytes,
    own_public: bytes,
    other_public: bytes,
    own_cookie: bytes,
    other_cookie: bytes,
    sa_body: bytes,
    id_body: bytes,
) -> bytes:
    """HASH_I, made by the initiator: prf(SKEYID, g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b); HASH_R the
    other way round, still with SAi_b. `sa_body`, `id_body`: as received, without generic headers."""
    return suite.prf(skeyid, own_public + other_public + own_cookie + other_cookie + sa_body + id_body)


def quick_hash_1(suite: Phase1Suite, skeyid_a: bytes, message_id: int, octets: bytes) -> bytes:
    """HASH(1) of quick mode, of informational and of transaction exchanges: over M-ID and all octets that
    follow the HASH payload (RFC 2409, sections 5.5 and 5.7)."""
    return suite.prf(skeyid_a, message_id.to_bytes(4, "big") + octets)


def quick_hash_2(suite: Phase1Suite, skeyid_a: bytes, message_id: int, ni: bytes, octets: bytes) -> bytes:
    """HASH(2): as HASH(1), with Ni_b before the octets, which proves that the responder is alive."""
    return suite.prf(skeyid_a, message_id.to_bytes(4, "big") + ni + octets)


def quick_hash_3(suite: Phase1Suite, skeyid_a: bytes, message_id: int, ni: bytes, nr: bytes) -> bytes:
    """HASH(3): prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b)."""
    return suite.prf(skeyid_a, b"\x00" + message_id.to_bytes(4, "big") + ni + nr)


def quick_keymat(
    suite: Phase1Suite,
    skeyid_d: bytes,
    protocol: int,
    spi: bytes,
    ni: bytes,
    nr: bytes,
    shared: bytes | None,
    length: int,
) -> bytes:
    """KEYMAT of the SA with this SPI: its key of encryption, then of integrity (RFC 2409, section 5.5).

    `spi` is the destination's choice, so each direction has its own. `shared`: this quick mode's g^xy, None
    without PFS. KEYMAT = K1 | K2 | ..., K1 = prf(SKEYID_d, [g^xy |] protocol | SPI | Ni_b | Nr_b),
    Kn = prf(SKEYID_d, Kn-1 | what K1 covers).
    """
    seed = (shared or b"") + bytes((protocol,)) + spi + ni + nr
    block = suite.prf(skeyid_d, seed)
    material = block
    while len(material) < length:
        block = suite.prf(skeyid_d, block + seed)
        material += block
    return material[:length]
