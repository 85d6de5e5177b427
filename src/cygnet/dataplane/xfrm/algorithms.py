"""The transforms by the names that the kernel's crypto has for them, with key and ICV lengths in bits.

What the kernel has no name for is refused with a sentence: implicit IVs (RFC 8750), Camellia in CTR and
CCM, AH with GMAC. Userspace engines carry those.
"""

from __future__ import annotations

from dataclasses import dataclass

from cygnet.dataplane.translate import Refused
from cygnet.policy.sa import SaParameters, SaProtocol
from cygnet.wire.numbers import Encr, Integ

_AEADS: dict[int, tuple[str, int]] = {
    Encr.AES_GCM_8: ("rfc4106(gcm(aes))", 64),
    Encr.AES_GCM_12: ("rfc4106(gcm(aes))", 96),
    Encr.AES_GCM_16: ("rfc4106(gcm(aes))", 128),
    Encr.AES_CCM_8: ("rfc4309(ccm(aes))", 64),
    Encr.AES_CCM_12: ("rfc4309(ccm(aes))", 96),
    Encr.AES_CCM_16: ("rfc4309(ccm(aes))", 128),
    Encr.NULL_AES_GMAC: ("rfc4543(gcm(aes))", 128),
    Encr.CHACHA20_POLY1305: ("rfc7539esp(chacha20,poly1305)", 128),
}
_CIPHERS: dict[int, str] = {
    Encr.DES_CBC: "cbc(des)",
    Encr.TRIPLE_DES_CBC: "cbc(des3_ede)",
    Encr.BLOWFISH_CBC: "cbc(blowfish)",
    Encr.CAST_CBC: "cbc(cast5)",
    Encr.NULL: "ecb(cipher_null)",
    Encr.AES_CBC: "cbc(aes)",
    Encr.AES_CTR: "rfc3686(ctr(aes))",
    Encr.CAMELLIA_CBC: "cbc(camellia)",
}
_MACS: dict[int, tuple[str, int]] = {
    Integ.HMAC_MD5_96: ("hmac(md5)", 96),
    Integ.HMAC_MD5_128: ("hmac(md5)", 128),
    Integ.HMAC_SHA1_96: ("hmac(sha1)", 96),
    Integ.HMAC_SHA1_160: ("hmac(sha1)", 160),
    Integ.AES_XCBC_96: ("xcbc(aes)", 96),
    Integ.AES_CMAC_96: ("cmac(aes)", 96),
    Integ.HMAC_SHA2_256_128: ("hmac(sha256)", 128),
    Integ.HMAC_SHA2_384_192: ("hmac(sha384)", 192),
    Integ.HMAC_SHA2_512_256: ("hmac(sha512)", 256),
}


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A name, its key, and the length of its ICV in bits (0 for ciphers)."""

    name: str
    key: bytes
    icv_bits: int = 0


@dataclass(frozen=True, slots=True)
class Transform:
    """Either `aead`, or `cipher` and `mac`, or, for AH, `mac` alone."""

    aead: Algorithm | None
    cipher: Algorithm | None
    mac: Algorithm | None


def transform(sa: SaParameters) -> Transform:
    """Raises Refused for what the kernel has no name for."""
    mac = None
    if sa.integrity:
        known = _MACS.get(sa.integrity)
        if known is None:
            raise Refused(f"the kernel has no integrity algorithm {Integ.name_of(sa.integrity)}")
        mac = Algorithm(known[0], sa.integrity_key, known[1])
    if sa.protocol == SaProtocol.AH:
        if mac is None:
            raise Refused("AH without an integrity algorithm")
        return Transform(None, None, mac)
    if sa.encryption in _AEADS:
        name, icv_bits = _AEADS[sa.encryption]
        return Transform(Algorithm(name, sa.encryption_key, icv_bits), None, None)
    name = _CIPHERS.get(sa.encryption, "")
    if not name:
        raise Refused(f"the kernel has no encryption algorithm {Encr.name_of(sa.encryption)}")
    return Transform(None, Algorithm(name, sa.encryption_key), mac)
