"""Ciphers by their IANA numbers: what protects an IKE message or an ESP packet.

A `CipherSuite` is a choice of encryption, key length and integrity with its lengths; it is shared
and holds no keys. A `Protector` is a suite with keys, made for a message (IKE) or for an SA's life
(ESP); it costs 1 to 3 µs, so nothing needs to keep one. All protectors speak one language:

- AEAD (RFC 5282, RFC 4106, RFC 4309, RFC 7634): nonce = salt | iv, additional data = `aad`.
- GMAC (RFC 4543): an AEAD that encrypts nothing; the IV is authenticated too (erratum 1821, as all do it).
- Implicit IV (RFC 8750): the AEADs with an IV that is not sent, because it is the sequence number.
- Separate algorithms: encrypt, then MAC over aad | iv | ciphertext | suffix, where `suffix` is what
  is authenticated and not sent: the high half of an extended sequence number (RFC 4303, 2.2.1).

`open` verifies before it decrypts. Its only failure is IntegrityFailure.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from cygnet.crypto import legacy
from cygnet.crypto.errors import IntegrityFailure, UnsupportedAlgorithm
from cygnet.crypto.integrity import Integrity, integrity
from cygnet.wire.numbers import Encr, Integ

__all__ = ["CipherSuite", "IntegrityFailure", "LibraryAead", "Protector", "UnsupportedAlgorithm", "suite"]

Octets = bytes | bytearray | memoryview
LibraryAead = AESGCM | AESCCM | ChaCha20Poly1305
_AES_BLOCK = 16
# RFC 3686, section 4: the counter block starts at one.
_CTR_START = b"\x00\x00\x00\x01"


class Protector:
    """A cipher suite with its keys. `aead`: the library's object, for engines that seal in place, or None."""

    __slots__ = ("aead", "salt")

    aead: LibraryAead | None
    salt: bytes

    def seal(self, aad: Octets, iv: Octets, plaintext: Octets, suffix: Octets = b"") -> bytes:
        """Ciphertext and ICV. `plaintext` is whole `block`s; `iv` never repeats under a key."""
        raise NotImplementedError

    def open(self, aad: Octets, iv: Octets, ciphertext_and_icv: Octets, suffix: Octets = b"") -> bytes:
        """The plaintext; raises IntegrityFailure."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CipherSuite:
    """Lengths are octets. `encryption_key_length` includes the salt, which is the key's end.

    `block` is what plaintext must be padded to a multiple of: the cipher's for CBC, else 1 (ESP itself
    wants 4). `iv_length` is what is sent: 0 with an implicit IV, which is the sequence number.
    """

    encryption: int
    key_bits: int
    integrity: int
    encryption_key_length: int
    integrity_key_length: int
    salt_length: int
    iv_length: int
    icv_length: int
    block: int
    aead: bool
    make: Callable[[CipherSuite, bytes, bytes], Protector]
    implicit_iv: bool = False

    @property
    def counter_mode(self) -> bool:
        """Whether an IV that comes twice under one key gives the plaintext or the key away: such a cipher
        is never keyed by hand (RFC 8221, section 3)."""
        return self.encryption in _COUNTER_MODES

    def protector(self, encryption_key: bytes, integrity_key: bytes = b"") -> Protector:
        """Raises ValueError where a key has the wrong length: a caller's mistake."""
        if (
            len(encryption_key) != self.encryption_key_length
            or len(integrity_key) != self.integrity_key_length
        ):
            raise ValueError("key length does not fit the cipher suite")
        return self.make(self, encryption_key, integrity_key)


class _Aead(Protector):
    """The library's one-shot AEADs."""

    __slots__ = ("_iv_length",)

    aead: LibraryAead

    def __init__(self, aead: LibraryAead, salt: bytes, iv_length: int) -> None:
        self.aead = aead
        self.salt = salt
        self._iv_length = iv_length

    def seal(self, aad: Octets, iv: Octets, plaintext: Octets, suffix: Octets = b"") -> bytes:
        return self.aead.encrypt(self.salt + iv, plaintext, aad)

    def open(self, aad: Octets, iv: Octets, ciphertext_and_icv: Octets, suffix: Octets = b"") -> bytes:
        if len(iv) != self._iv_length:
            raise IntegrityFailure("no room for the IV")
        try:
            return self.aead.decrypt(self.salt + iv, ciphertext_and_icv, aad)
        except InvalidTag:
            raise IntegrityFailure("wrong integrity check value") from None


class _ShortTagGcm(Protector):
    """AES-GCM with 8 or 12 octets of ICV, which the library's one-shot AEAD does not have."""

    __slots__ = ("_icv_length", "_key")

    def __init__(self, key: bytes, salt: bytes, icv_length: int) -> None:
        self.aead = None
        self.salt = salt
        self._key = algorithms.AES(key)
        self._icv_length = icv_length

    def seal(self, aad: Octets, iv: Octets, plaintext: Octets, suffix: Octets = b"") -> bytes:
        sealing = Cipher(self._key, modes.GCM(self.salt + iv)).encryptor()
        sealing.authenticate_additional_data(aad)
        ciphertext = sealing.update(plaintext) + sealing.finalize()
        return ciphertext + sealing.tag[: self._icv_length]

    def open(self, aad: Octets, iv: Octets, ciphertext_and_icv: Octets, suffix: Octets = b"") -> bytes:
        if len(iv) != 8 or len(ciphertext_and_icv) < self._icv_length:
            raise IntegrityFailure("no room for the IV and the integrity check value")
        tag = bytes(ciphertext_and_icv[-self._icv_length :])
        mode = modes.GCM(self.salt + iv, tag, min_tag_length=self._icv_length)
        opening = Cipher(self._key, mode).decryptor()
        opening.authenticate_additional_data(aad)
        plaintext = opening.update(ciphertext_and_icv[: -self._icv_length])
        try:
            return plaintext + opening.finalize()
        except InvalidTag:
            raise IntegrityFailure("wrong integrity check value") from None


class _Gmac(Protector):
    """AES-GMAC in ESP (RFC 4543): the payload goes in clear, as additional data of GCM without plaintext."""

    __slots__ = ("_gcm",)

    def __init__(self, key: bytes, salt: bytes) -> None:
        self.aead = None
        self.salt = salt
        self._gcm = AESGCM(key)

    def seal(self, aad: Octets, iv: Octets, plaintext: Octets, suffix: Octets = b"") -> bytes:
        return bytes(plaintext) + self._gcm.encrypt(self.salt + iv, b"", b"".join((aad, iv, plaintext)))

    def open(self, aad: Octets, iv: Octets, ciphertext_and_icv: Octets, suffix: Octets = b"") -> bytes:
        if len(iv) != 8 or len(ciphertext_and_icv) < _AES_BLOCK:
            raise IntegrityFailure("no room for the IV and the integrity check value")
        clear, tag = ciphertext_and_icv[:-_AES_BLOCK], ciphertext_and_icv[-_AES_BLOCK:]
        try:
            self._gcm.decrypt(self.salt + iv, tag, b"".join((aad, iv, clear)))
        except InvalidTag:
            raise IntegrityFailure("wrong integrity check value") from None
        return bytes(clear)


class _EncryptThenMac(Protector):
    """Separate encryption and integrity; subclasses are the ciphers."""

    __slots__ = ("_block", "_icv_length", "_integrity_key", "_iv_length", "_mac")

    def __init__(
        self,
        integrity_key: bytes,
        algorithm: Integrity,
        *,
        salt: bytes = b"",
        iv_length: int = 0,
        block: int = 1,
    ) -> None:
        self.aead = None
        self.salt = salt
        self._iv_length = iv_length
        self._block = block
        self._integrity_key = integrity_key
        self._mac = algorithm.compute
        self._icv_length = algorithm.icv_length

    def encrypt(self, iv: Octets, plaintext: Octets) -> bytes:
        raise NotImplementedError

    def decrypt(self, iv: Octets, ciphertext: Octets) -> bytes:
        raise NotImplementedError

    def seal(self, aad: Octets, iv: Octets, plaintext: Octets, suffix: Octets = b"") -> bytes:
        ciphertext = self.encrypt(iv, plaintext)
        return ciphertext + self._mac(self._integrity_key, b"".join((aad, iv, ciphertext, suffix)))

    def open(self, aad: Octets, iv: Octets, ciphertext_and_icv: Octets, suffix: Octets = b"") -> bytes:
        length = len(ciphertext_and_icv) - self._icv_length
        if len(iv) != self._iv_length or length < 0 or length % self._block:
            raise IntegrityFailure("no room for the IV and the integrity check value, or a broken block")
        ciphertext = ciphertext_and_icv[:length]
        expected = self._mac(self._integrity_key, b"".join((aad, iv, ciphertext, suffix)))
        if not hmac.compare_digest(expected, ciphertext_and_icv[length:]):
            raise IntegrityFailure("wrong integrity check value")
        return self.decrypt(iv, ciphertext)


class _Cbc(_EncryptThenMac):
    """AES-CBC (RFC 3602), Camellia-CBC (RFC 4312), 3DES-CBC (RFC 2451), DES-CBC (RFC 2405)."""

    __slots__ = ("_key",)

    def __init__(
        self,
        key: BlockCipherAlgorithm,
        block: int,
        integrity_key: bytes,
        algorithm: Integrity,
    ) -> None:
        super().__init__(integrity_key, algorithm, iv_length=block, block=block)
        self._key = key

    def encrypt(self, iv: Octets, plaintext: Octets) -> bytes:
        encryptor = Cipher(self._key, modes.CBC(bytes(iv))).encryptor()
        return encryptor.update(plaintext) + encryptor.finalize()

    def decrypt(self, iv: Octets, ciphertext: Octets) -> bytes:
        decryptor = Cipher(self._key, modes.CBC(bytes(iv))).decryptor()
        return decryptor.update(ciphertext) + decryptor.finalize()


class _Ctr(_EncryptThenMac):
    """AES-CTR (RFC 3686; in IKEv2: RFC 5930). The counter block is nonce (salt) | iv | 1."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes, salt: bytes, integrity_key: bytes, algorithm: Integrity) -> None:
        super().__init__(integrity_key, algorithm, salt=salt, iv_length=8)
        self._key = algorithms.AES(key)

    def encrypt(self, iv: Octets, plaintext: Octets) -> bytes:
        return Cipher(self._key, modes.CTR(self.salt + iv + _CTR_START)).encryptor().update(plaintext)

    def decrypt(self, iv: Octets, ciphertext: Octets) -> bytes:
        return self.encrypt(iv, ciphertext)


class _Null(_EncryptThenMac):
    """No encryption (RFC 2410), integrity only; for ESP."""

    __slots__ = ()

    iv_length = 0
    block = 1

    def encrypt(self, iv: Octets, plaintext: Octets) -> bytes:
        return bytes(plaintext)

    def decrypt(self, iv: Octets, ciphertext: Octets) -> bytes:
        return bytes(ciphertext)


def _make_gcm(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    key, salt = encryption_key[:-4], encryption_key[-4:]
    if chosen.icv_length == 16:
        return _Aead(AESGCM(key), salt, 8)
    return _ShortTagGcm(key, salt, chosen.icv_length)


def _make_ccm(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Aead(AESCCM(encryption_key[:-3], chosen.icv_length), encryption_key[-3:], 8)


def _make_chacha(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Aead(ChaCha20Poly1305(encryption_key[:-4]), encryption_key[-4:], 8)


def _make_gmac(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Gmac(encryption_key[:-4], encryption_key[-4:])


def _make_cbc(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Cbc(algorithms.AES(encryption_key), 16, integrity_key, integrity(chosen.integrity))


def _make_camellia(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Cbc(legacy.Camellia(encryption_key), 16, integrity_key, integrity(chosen.integrity))


def _make_triple_des(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Cbc(legacy.triple_des_cipher(encryption_key), 8, integrity_key, integrity(chosen.integrity))


def _make_des(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Cbc(legacy.des_cipher(encryption_key), 8, integrity_key, integrity(chosen.integrity))


def _make_ctr(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Ctr(encryption_key[:-4], encryption_key[-4:], integrity_key, integrity(chosen.integrity))


def _make_null(chosen: CipherSuite, encryption_key: bytes, integrity_key: bytes) -> Protector:
    return _Null(integrity_key, integrity(chosen.integrity))


@dataclass(frozen=True, slots=True)
class _Encryption:
    key_bits: tuple[int, ...]
    salt: int
    iv: int
    icv: int
    """Of the cipher itself; 0: it needs an integrity algorithm."""
    block: int
    make: Callable[[CipherSuite, bytes, bytes], Protector]
    key: int = 0
    """Octets where the number of bits is not negotiated."""


_AES_BITS = (128, 192, 256)
_ENCRYPTION = {
    Encr.NULL: _Encryption((0,), 0, 0, 0, 1, _make_null),
    Encr.AES_CBC: _Encryption(_AES_BITS, 0, 16, 0, 16, _make_cbc),
    Encr.AES_CTR: _Encryption(_AES_BITS, 4, 8, 0, 1, _make_ctr),
    Encr.AES_CCM_8: _Encryption(_AES_BITS, 3, 8, 8, 1, _make_ccm),
    Encr.AES_CCM_12: _Encryption(_AES_BITS, 3, 8, 12, 1, _make_ccm),
    Encr.AES_CCM_16: _Encryption(_AES_BITS, 3, 8, 16, 1, _make_ccm),
    Encr.AES_GCM_8: _Encryption(_AES_BITS, 4, 8, 8, 1, _make_gcm),
    Encr.AES_GCM_12: _Encryption(_AES_BITS, 4, 8, 12, 1, _make_gcm),
    Encr.AES_GCM_16: _Encryption(_AES_BITS, 4, 8, 16, 1, _make_gcm),
    # No Key Length attribute (RFC 7634, section 4); some peers send 256 all the same.
    Encr.CHACHA20_POLY1305: _Encryption((0, 256), 4, 8, 16, 1, _make_chacha, 32),
    Encr.NULL_AES_GMAC: _Encryption(_AES_BITS, 4, 8, 16, 1, _make_gmac),
    Encr.CAMELLIA_CBC: _Encryption(_AES_BITS, 0, 16, 0, 16, _make_camellia),
    # 192 bits, of which 168 count; the parity bits are nobody's affair (RFC 2451, section 2.4).
    Encr.TRIPLE_DES_CBC: _Encryption((0,), 0, 8, 0, 8, _make_triple_des, legacy.TRIPLE_DES_KEY),
    Encr.DES_CBC: _Encryption((0,), 0, 8, 0, 8, _make_des, legacy.DES_KEY),
    # RFC 8750: the IV is not sent.
    Encr.AES_CCM_8_IIV: _Encryption(_AES_BITS, 3, 0, 8, 1, _make_ccm),
    Encr.AES_GCM_16_IIV: _Encryption(_AES_BITS, 4, 0, 16, 1, _make_gcm),
    Encr.CHACHA20_POLY1305_IIV: _Encryption((0, 256), 4, 0, 16, 1, _make_chacha, 32),
}
IMPLICIT_IV = frozenset({Encr.AES_CCM_8_IIV, Encr.AES_GCM_16_IIV, Encr.CHACHA20_POLY1305_IIV})
ONLY_ESP = IMPLICIT_IV | {Encr.NULL, Encr.NULL_AES_GMAC}
"""What protects no IKE message: the numbers of its messages are not a packet's (RFC 8750, section 7), and
it must be encrypted."""
_COUNTER_MODES = frozenset(number for number, kind in _ENCRYPTION.items() if kind.salt)
SUPPORTED_ENCRYPTION = tuple(_ENCRYPTION)


def is_aead(encryption: int) -> bool:
    """Whether this encryption algorithm brings its own integrity. Unknown numbers: no."""
    known = _ENCRYPTION.get(encryption)
    return known is not None and known.icv > 0


@functools.cache
def suite(encryption: int, key_bits: int, integrity_number: int = Integ.NONE) -> CipherSuite:
    """The cipher suite of these IANA numbers; one object for each choice.

    Raises UnsupportedAlgorithm, also for encryption without integrity (RFC 8221, section 4) and for
    an AEAD with an integrity algorithm beside it (RFC 5282, section 8).
    """
    kind = _ENCRYPTION.get(encryption)
    name = Encr.name_of(encryption)
    if kind is None:
        raise UnsupportedAlgorithm(f"encryption {name}")
    if key_bits not in kind.key_bits:
        raise UnsupportedAlgorithm(f"encryption {name} with a key of {key_bits} bits")
    if kind.icv and integrity_number != Integ.NONE:
        raise UnsupportedAlgorithm(f"{name} with {Integ.name_of(integrity_number)}: it has integrity itself")
    if not kind.icv and integrity_number == Integ.NONE:
        raise UnsupportedAlgorithm(f"{name} without integrity")
    mac = integrity(integrity_number) if integrity_number != Integ.NONE else None
    if mac and mac.iv_length:
        raise UnsupportedAlgorithm(f"{name} with {Integ.name_of(integrity_number)}: that is for AH alone")
    key_length = kind.key or key_bits // 8
    return CipherSuite(
        encryption=encryption,
        key_bits=key_bits,
        integrity=integrity_number,
        encryption_key_length=key_length + kind.salt,
        integrity_key_length=mac.key_length if mac else 0,
        salt_length=kind.salt,
        iv_length=kind.iv,
        icv_length=mac.icv_length if mac else kind.icv,
        block=kind.block,
        aead=mac is None,
        make=kind.make,
        implicit_iv=encryption in IMPLICIT_IV,
    )
