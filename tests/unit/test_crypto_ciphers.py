"""Ciphers give what their RFCs print, refuse every changed bit, and never run without integrity."""

from __future__ import annotations

import hmac

import pytest

from cygnet.crypto.errors import IntegrityFailure, UnsupportedAlgorithm
from cygnet.crypto.suites import CipherSuite, Protector, is_aead, suite
from cygnet.wire.numbers import Encr, Integ

# RFC 3602, section 4, cases 1 to 4: key, IV, plaintext, ciphertext.
RFC_3602 = [
    (
        "06a9214036b8a15b512e03d534120006",
        "3dafba429d9eb430b422da802c9fac41",
        b"Single block msg".hex(),
        "e353779c1079aeb82708942dbe77181a",
    ),
    (
        "c286696d887c9aa0611bbb3e2025a45a",
        "562e17996d093d28ddb3ba695a2e6f58",
        bytes(range(32)).hex(),
        "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
    ),
    (
        "6c3ea0477630ce21a2ce334aa746c2cd",
        "c782dc4c098c66cbd9cd27d825682c81",
        b"This is a 48-byte message (exactly 3 AES blocks)".hex(),
        "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5021c19216bad525c8579695d83ba2684",
    ),
    (
        "56e47a38c5598974bc46903dba290349",
        "8ce82eefbea0da3c44699ed7db51b7d9",
        bytes(range(0xA0, 0xE0)).hex(),
        "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e"
        "35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
    ),
]
# RFC 3686, section 6: key, nonce, IV, plaintext, ciphertext.
RFC_3686 = [
    (
        "ae6852f8121067cc4bf7a5765577f39e",
        "00000030",
        "0000000000000000",
        "53696e676c6520626c6f636b206d7367",
        "e4095d4fb7a7b3792d6175a3261311b8",
    ),
    (
        "7e24067817fae0d743d6ce1f32539163",
        "006cb6db",
        "c0543b59da48d90b",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "5104a106168a72d9790d41ee8edad388eb2e1efc46da57c8fce630df9141be28",
    ),
    (
        "7691be035e5020a8ac6e618529f9a0dc",
        "00e0017b",
        "27777f3f4a1786f0",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
        "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f",
    ),
    (
        "16af5b145fc9f579c175f93e3bfb0eed863d06ccfdb78515",
        "00000048",
        "36733c147d6d93cb",
        "53696e676c6520626c6f636b206d7367",
        "4b55384fe259c9c84e7935a003cbe928",
    ),
    (
        "7c5cb2401b3dc33c19e7340819e0f69c678c3db8e6f6a91a",
        "0096b03b",
        "020c6eadc2cb500d",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "453243fc609b23327edfaafa7131cd9f8490701c5ad4a79cfc1fe0ff42f4fb00",
    ),
    (
        "02bf391ee8ecb159b959617b0965279bf59b60a786d3e0fe",
        "0007bdfd",
        "5cbd60278dcc0912",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
        "96893fc55e5c722f540b7dd1ddf7e758d288bc95c69165884536c811662f2188abee0935",
    ),
    (
        "776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c104",
        "00000060",
        "db5672c97aa8f0b2",
        "53696e676c6520626c6f636b206d7367",
        "145ad01dbf824ec7560863dc71e3e0c0",
    ),
    (
        "f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a23884",
        "00faac24",
        "c1585ef15a43d875",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c",
    ),
    (
        "ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d",
        "001cc5b7",
        "51a51d70a1c11148",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
        "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8",
    ),
]
# RFC 7634, appendix A (an ESP packet) and B (an IKEv2 message): aad, plaintext, ciphertext, tag.
RFC_7634_KEY = bytes(range(0x80, 0xA4))
RFC_7634_IV = bytes(range(0x10, 0x18))
RFC_7634 = [
    (
        "0102030400000005",
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec1000073627"
        "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637"
        "01020204",
        "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7"
        "2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0",
        "76aaa8266b7fb0f7b11b369907e1ad43",
    ),
    (
        "c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029",
        "0000000c000040010000000a00",
        "610394701f8d017f7c12924889",
        "6b71bfe25236efd7cdc67066906315b2",
    ),
]
# McGrew and Viega, The Galois/Counter Mode of Operation, test case 4, its IV cut into salt and IV (RFC 4106).
GCM_CASE_4 = (
    "feffe9928665731c6d6a8f9467308308",
    "cafebabe",
    "facedbaddecaf888",
    "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b39",
    "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05"
    "1ba30b396a0aac973d58e091",
    "5bc94fbc3221a5db94fae95ae7121a47",
)

ALL_SUITES = [
    *(
        (encryption, bits, Integ.HMAC_SHA2_256_128)
        for encryption in (Encr.AES_CBC, Encr.AES_CTR)
        for bits in (128, 192, 256)
    ),
    *((Encr.NULL, 0, mac) for mac in (Integ.HMAC_SHA1_96, Integ.HMAC_SHA2_384_192, Integ.HMAC_SHA2_512_256)),
    *((Encr.AES_CBC, 128, mac) for mac in (Integ.AES_XCBC_96, Integ.AES_CMAC_96)),
    *(
        (encryption, bits, Integ.NONE)
        for encryption in range(Encr.AES_CCM_8, Encr.AES_GCM_16 + 1)
        if encryption != 17
        for bits in (128, 192, 256)
    ),
    (Encr.CHACHA20_POLY1305, 0, Integ.NONE),
]


def keyed(chosen: CipherSuite) -> Protector:
    encryption_key = bytes(range(chosen.encryption_key_length))
    return chosen.protector(encryption_key, bytes(range(chosen.integrity_key_length)))


def sealed_with(chosen: CipherSuite, plaintext: bytes, aad: bytes = b"header") -> tuple[bytes, bytes]:
    iv = bytes(range(chosen.iv_length))
    return iv, keyed(chosen).seal(aad, iv, plaintext)


@pytest.mark.parametrize(("key", "iv", "plaintext", "ciphertext"), RFC_3602)
def test_cbc_agrees_with_rfc_3602(key: str, iv: str, plaintext: str, ciphertext: str) -> None:
    chosen = suite(Encr.AES_CBC, 128, Integ.HMAC_SHA1_96)
    mac_key = b"k" * 20
    sealed = chosen.protector(bytes.fromhex(key), mac_key).seal(
        b"aad", bytes.fromhex(iv), bytes.fromhex(plaintext)
    )
    assert sealed[:-12].hex() == ciphertext
    assert sealed[-12:] == hmac.digest(mac_key, b"aad" + bytes.fromhex(iv + ciphertext), "sha1")[:12]


@pytest.mark.parametrize(("key", "nonce", "iv", "plaintext", "ciphertext"), RFC_3686)
def test_ctr_agrees_with_rfc_3686(key: str, nonce: str, iv: str, plaintext: str, ciphertext: str) -> None:
    chosen = suite(Encr.AES_CTR, len(key) * 4, Integ.HMAC_SHA1_96)
    protector = chosen.protector(bytes.fromhex(key + nonce), b"k" * 20)
    sealed = protector.seal(b"", bytes.fromhex(iv), bytes.fromhex(plaintext))
    assert sealed[:-12].hex() == ciphertext
    assert protector.open(b"", bytes.fromhex(iv), sealed).hex() == plaintext


@pytest.mark.parametrize(("aad", "plaintext", "ciphertext", "tag"), RFC_7634)
def test_chacha20_poly1305_agrees_with_rfc_7634(aad: str, plaintext: str, ciphertext: str, tag: str) -> None:
    protector = suite(Encr.CHACHA20_POLY1305, 0).protector(RFC_7634_KEY)
    sealed = protector.seal(bytes.fromhex(aad), RFC_7634_IV, bytes.fromhex(plaintext))
    assert sealed.hex() == ciphertext + tag
    assert protector.open(bytes.fromhex(aad), RFC_7634_IV, sealed).hex() == plaintext


@pytest.mark.parametrize(
    ("number", "icv_length"), [(Encr.AES_GCM_8, 8), (Encr.AES_GCM_12, 12), (Encr.AES_GCM_16, 16)]
)
def test_gcm_agrees_with_its_specification_at_every_icv_length(number: int, icv_length: int) -> None:
    key, salt, iv, aad, plaintext, ciphertext, tag = (bytes.fromhex(part) for part in GCM_CASE_4)
    protector = suite(number, 128).protector(key + salt)
    sealed = protector.seal(aad, iv, plaintext)
    assert sealed == ciphertext + tag[:icv_length]
    assert protector.open(aad, iv, sealed) == plaintext


@pytest.mark.parametrize(("encryption", "bits", "mac"), ALL_SUITES)
def test_every_suite_opens_what_it_sealed(encryption: int, bits: int, mac: int) -> None:
    chosen = suite(encryption, bits, mac)
    for plaintext in (
        b"",
        b"p" * chosen.block,
        bytes(range(256)) * 5 + b"q" * (16 if chosen.block > 1 else 3),
    ):
        iv, sealed = sealed_with(chosen, plaintext)
        assert len(sealed) == len(plaintext) + chosen.icv_length
        assert keyed(chosen).open(b"header", iv, sealed) == plaintext
        view = memoryview(bytearray(b"header" + iv + sealed))
        body = 6 + chosen.iv_length
        assert keyed(chosen).open(view[:6], view[6:body], view[body:]) == plaintext


@pytest.mark.parametrize(("encryption", "bits", "mac"), ALL_SUITES)
def test_every_flipped_bit_is_refused(encryption: int, bits: int, mac: int) -> None:
    chosen = suite(encryption, bits, mac)
    protector = keyed(chosen)
    iv, sealed = sealed_with(chosen, b"p" * 16)
    whole = b"header" + iv + sealed
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        body = 6 + chosen.iv_length
        with pytest.raises(IntegrityFailure):
            protector.open(flipped[:6], flipped[6:body], flipped[body:])


@pytest.mark.parametrize(("encryption", "bits", "mac"), ALL_SUITES)
def test_every_truncation_is_refused(encryption: int, bits: int, mac: int) -> None:
    chosen = suite(encryption, bits, mac)
    protector = keyed(chosen)
    iv, sealed = sealed_with(chosen, b"p" * 16)
    for length in range(len(sealed)):
        with pytest.raises(IntegrityFailure):
            protector.open(b"header", iv, sealed[:length])
    if chosen.iv_length:
        for length in range(chosen.iv_length):
            with pytest.raises(IntegrityFailure):
                protector.open(b"header", iv[:length], sealed)


@pytest.mark.parametrize("encryption", [Encr.NULL, Encr.AES_CBC, Encr.AES_CTR])
def test_the_suffix_is_authenticated_after_the_ciphertext(encryption: int) -> None:
    chosen = suite(encryption, 0 if encryption == Encr.NULL else 256, Integ.HMAC_SHA2_256_128)
    protector = keyed(chosen)
    iv = bytes(chosen.iv_length)
    sealed = protector.seal(b"aad", iv, b"p" * 16, b"\x00\x00\x00\x07")
    covered = b"aad" + iv + sealed[:-16] + b"\x00\x00\x00\x07"
    assert sealed[-16:] == hmac.digest(bytes(range(32)), covered, "sha256")[:16]
    with pytest.raises(IntegrityFailure):
        protector.open(b"aad", iv, sealed, b"\x00\x00\x00\x08")


@pytest.mark.parametrize(
    ("encryption", "bits", "mac", "lengths"),
    [
        # encryption key with salt, integrity key, IV, ICV, block
        (Encr.AES_CBC, 256, Integ.HMAC_SHA2_512_256, (32, 64, 16, 32, 16)),
        (Encr.AES_CTR, 192, Integ.HMAC_SHA1_96, (28, 20, 8, 12, 1)),
        (Encr.AES_GCM_12, 128, Integ.NONE, (20, 0, 8, 12, 1)),
        (Encr.AES_CCM_8, 256, Integ.NONE, (35, 0, 8, 8, 1)),
        (Encr.CHACHA20_POLY1305, 0, Integ.NONE, (36, 0, 8, 16, 1)),
        (Encr.NULL, 0, Integ.AES_CMAC_96, (0, 16, 0, 12, 1)),
    ],
)
def test_suites_tell_their_lengths(encryption: int, bits: int, mac: int, lengths: tuple[int, ...]) -> None:
    chosen = suite(encryption, bits, mac)
    told = (
        chosen.encryption_key_length,
        chosen.integrity_key_length,
        chosen.iv_length,
        chosen.icv_length,
        chosen.block,
    )
    assert told == lengths
    assert suite(encryption, bits, mac) is chosen


@pytest.mark.parametrize(
    ("encryption", "bits", "mac"),
    [
        (Encr.NULL, 0, Integ.NONE),
        (Encr.AES_CBC, 128, Integ.NONE),
        (Encr.AES_CTR, 128, Integ.NONE),
        (Encr.AES_GCM_16, 128, Integ.HMAC_SHA2_256_128),
        (Encr.AES_CBC, 0, Integ.HMAC_SHA2_256_128),
        (Encr.AES_CBC, 127, Integ.HMAC_SHA2_256_128),
        (Encr.AES_GCM_16, 512, Integ.NONE),
        (Encr.CHACHA20_POLY1305, 128, Integ.NONE),
        (Encr.AES_CBC, 128, Integ.HMAC_MD5_128),
        (Encr.TRIPLE_DES_CBC, 0, Integ.NONE),
        (Encr.TRIPLE_DES_CBC, 192, Integ.HMAC_SHA1_96),
        (Encr.BLOWFISH_CBC, 128, Integ.HMAC_SHA1_96),
        (Encr.AES_CBC, 128, Integ.KPDK_MD5),
        (4000, 128, Integ.NONE),
    ],
)
def test_what_is_unknown_or_unsafe_makes_no_suite(encryption: int, bits: int, mac: int) -> None:
    with pytest.raises(UnsupportedAlgorithm):
        suite(encryption, bits, mac)


def test_keys_of_the_wrong_length_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="key length"):
        suite(Encr.AES_GCM_16, 128).protector(b"k" * 16)
    with pytest.raises(ValueError, match="key length"):
        suite(Encr.AES_CBC, 128, Integ.HMAC_SHA1_96).protector(b"k" * 16, b"k" * 16)


def test_the_librarys_aead_is_offered_to_engines_where_there_is_one() -> None:
    assert suite(Encr.AES_GCM_16, 256).protector(bytes(36)).aead is not None
    assert suite(Encr.AES_GCM_16, 256).protector(b"k" * 32 + b"salt").salt == b"salt"
    assert suite(Encr.AES_GCM_8, 256).protector(bytes(36)).aead is None
    assert suite(Encr.AES_CBC, 256, Integ.AES_XCBC_96).protector(bytes(32), bytes(16)).aead is None
    assert is_aead(Encr.CHACHA20_POLY1305)
    assert not is_aead(Encr.AES_CTR)
    assert not is_aead(4000)


@pytest.mark.parametrize(
    ("key", "ciphertext"),
    [
        ("0123456789abcdeffedcba9876543210", "67673138549669730857065648eabe43"),
        ("0123456789abcdeffedcba98765432100011223344556677", "b4993401b3e996f84ee5cee7d79b09b9"),
        (
            "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff",
            "9acc237dff16d76c20ef7c919e3a7509",
        ),
    ],
)
def test_camellia_agrees_with_rfc_3713(key: str, ciphertext: str) -> None:
    # Appendix A; one block of CBC with a zero IV is one block.
    chosen = suite(Encr.CAMELLIA_CBC, len(key) * 4, Integ.HMAC_SHA2_256_128)
    protector = chosen.protector(bytes.fromhex(key), bytes(32))
    plaintext = bytes.fromhex("0123456789abcdeffedcba9876543210")
    sealed = protector.seal(b"", bytes(16), plaintext)
    assert sealed[:16].hex() == ciphertext
    assert protector.open(b"", bytes(16), sealed) == plaintext


def test_gmac_is_an_integrity_algorithm_of_ah_alone() -> None:
    with pytest.raises(UnsupportedAlgorithm, match="for AH alone"):
        suite(Encr.AES_CBC, 128, Integ.AES_128_GMAC)
