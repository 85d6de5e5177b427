"""IKEv1's key derivation, IVs and HASHes against published vectors and recordings of others."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from cygnet.crypto import ikev1, legacy, modp
from cygnet.crypto.errors import UnsupportedAlgorithm
from cygnet.wire.numbers import KeMethod
from cygnet.wire.v1 import message as wire
from cygnet.wire.v1.numbers import Encryption, Hash, IdType, Protocol
from cygnet.wire.v1.payloads import (
    HashPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    SaPayload,
    VendorIdPayload,
)
from tests.unit import ikev1_vectors as vectors

AES_SHA1 = ikev1.phase1_suite(Encryption.AES_CBC, 128, Hash.SHA1)
PSK = b"AAAA"


def test_keys_are_those_of_nists_example_with_signatures() -> None:
    given = {name: bytes.fromhex(text) for name, text in vectors.NIST.items()}
    skeyid = ikev1.skeyid_of_signatures(AES_SHA1, given["ni"], given["nr"], given["g_xy"])
    keys = ikev1.phase1_keys(AES_SHA1, skeyid, given["g_xy"], given["cky_i"], given["cky_r"])
    assert keys.skeyid == given["skeyid"]
    assert keys.skeyid_d == given["skeyid_d"]
    assert keys.skeyid_a == given["skeyid_a"]
    assert keys.skeyid_e == given["skeyid_e"]
    assert keys.encryption == given["skeyid_e"][:16]


@pytest.mark.parametrize(("name", "number"), [("md5", Hash.MD5), ("sha1", Hash.SHA1)])
def test_hash_r_is_what_a_check_point_sent_and_psk_crack_finds(name: str, number: int) -> None:
    octets = [bytes.fromhex(text) for text in vectors.PSK_CRACK[name]]
    fields = dict(zip(vectors.PSK_CRACK_FIELDS, octets, strict=True))
    suite = ikev1.phase1_suite(Encryption.DES_CBC, 0, number)
    skeyid = ikev1.skeyid_of_secret(suite, b"abc123", fields["ni_b"], fields["nr_b"])
    made = ikev1.phase1_hash(
        suite, skeyid, fields["g_xr"], fields["g_xi"], fields["cky_r"], fields["cky_i"],
        fields["sai_b"], fields["idir_b"],
    )  # fmt: skip
    assert made == fields["hash_r"]


class Recorded:
    """What both ends of the recorded main mode know when its keys exist."""

    def __init__(self) -> None:
        self.messages = [wire.decode(bytes.fromhex(text)) for text in vectors.MAIN_MODE]
        self.cookies = self.messages[1].header.initiator_spi, self.messages[1].header.responder_spi
        self.publics = [self.messages[i].one(KePayload).data for i in (2, 3)]
        self.nonces = [self.messages[i].one(NoncePayload).data for i in (2, 3)]
        prime = modp.prime(KeMethod.MODP_1024)
        assert pow(2, vectors.MAIN_MODE_EXPONENT, prime).to_bytes(128, "big") == self.publics[0]
        theirs = int.from_bytes(self.publics[1], "big")
        shared = pow(theirs, vectors.MAIN_MODE_EXPONENT, prime).to_bytes(128, "big")
        skeyid = ikev1.skeyid_of_secret(AES_SHA1, PSK, *self.nonces)
        self.keys = ikev1.phase1_keys(AES_SHA1, skeyid, shared, *self.cookies)

    def open(self, message: wire.Message, iv: bytes) -> wire.Message:
        plaintext = AES_SHA1.decrypt(self.keys.encryption, iv, message.sealed)
        assert plaintext is not None
        return wire.opened(message, plaintext)

    def last_block_of_phase_1(self) -> bytes:
        return self.messages[5].sealed[-16:]


def test_a_recorded_main_mode_opens_with_our_keys_and_ivs_and_proves_both_ends() -> None:
    recorded = Recorded()
    iv = ikev1.phase1_iv(AES_SHA1, *recorded.publics)
    offer = recorded.messages[0]
    bodies, hashes = [], []
    for sealed in recorded.messages[4:]:
        message = recorded.open(sealed, iv)
        iv = sealed.sealed[-16:]
        identity = message.one(IdPayload)
        assert identity.id_type == IdType.IPV4_ADDR
        bodies.append(message.body_of(identity))
        hashes.append(message.one(HashPayload).data)
        assert not any(message.padding)
    ours, theirs = recorded.publics
    cky_i, cky_r = recorded.cookies
    sai_b = offer.body_of(offer.one(SaPayload))
    skeyid = recorded.keys.skeyid
    assert hashes[0] == ikev1.phase1_hash(AES_SHA1, skeyid, ours, theirs, cky_i, cky_r, sai_b, bodies[0])
    assert hashes[1] == ikev1.phase1_hash(AES_SHA1, skeyid, theirs, ours, cky_r, cky_i, sai_b, bodies[1])


def test_what_we_seal_is_what_the_recorded_initiator_sealed() -> None:
    recorded = Recorded()
    iv = ikev1.phase1_iv(AES_SHA1, *recorded.publics)
    opened = recorded.open(recorded.messages[4], iv)
    first, octets = wire.encode_payloads(opened.payloads)
    sealed = AES_SHA1.encrypt(recorded.keys.encryption, iv, octets)
    assert wire.encode_sealed(opened.header, first, sealed) == bytes.fromhex(vectors.MAIN_MODE[4])


def test_a_recorded_quick_mode_opens_and_its_three_hashes_are_ours() -> None:
    recorded = Recorded()
    number = vectors.QUICK_MODE_MESSAGE_ID
    iv = ikev1.phase2_iv(AES_SHA1, recorded.last_block_of_phase_1(), number)
    opened = []
    for text in vectors.QUICK_MODE:
        sealed = wire.decode(bytes.fromhex(text))
        assert sealed.header.message_id == number
        opened.append(recorded.open(sealed, iv))
        iv = sealed.sealed[-16:]
    skeyid_a = recorded.keys.skeyid_a
    ni, nr = (message.one(NoncePayload).data for message in opened[:2])
    assert ni == bytes.fromhex("695346ebcf35ab90")
    assert opened[1].one(SaPayload).proposals[0].spi == bytes.fromhex("c6bf8b4d")

    value, covered = opened[0].hashed()
    assert value == ikev1.quick_hash_1(AES_SHA1, skeyid_a, number, covered)
    value, covered = opened[1].hashed()
    assert value == ikev1.quick_hash_2(AES_SHA1, skeyid_a, number, ni, covered)
    value, _ = opened[2].hashed()
    assert value == ikev1.quick_hash_3(AES_SHA1, skeyid_a, number, ni, nr)

    assert len(recorded.messages[1].all(VendorIdPayload)) == 2


def test_keymat_chains_blocks_over_the_same_seed_and_pfs_comes_first() -> None:
    """RFC 2409, section 5.5, written out."""
    key, ni, nr, spi = b"d" * 20, b"i" * 16, b"r" * 16, b"\x01\x02\x03\x04"

    def prf(data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.sha1).digest()

    for shared in (None, b"g" * 128):
        seed = (shared or b"") + b"\x03" + spi + ni + nr
        k1 = prf(seed)
        k2 = prf(k1 + seed)
        k3 = prf(k2 + seed)
        made = ikev1.quick_keymat(AES_SHA1, key, Protocol.ESP, spi, ni, nr, shared, 52)
        assert made == (k1 + k2 + k3)[:52]
    assert (
        ikev1.quick_keymat(AES_SHA1, key, Protocol.ESP, spi, ni, nr, None, 16)
        == (hmac.new(key, b"\x03" + spi + ni + nr, hashlib.sha1).digest()[:16])
    )


def test_a_short_skeyid_e_is_expanded_from_a_single_zero_octet() -> None:
    """RFC 2409, appendix B: K1 = prf(SKEYID_e, 0), K2 = prf(SKEYID_e, K1)."""
    suite = ikev1.phase1_suite(Encryption.AES_CBC, 256, Hash.SHA1)
    skeyid_e = bytes(range(20))
    k1 = hmac.new(skeyid_e, b"\x00", hashlib.sha1).digest()
    k2 = hmac.new(skeyid_e, k1, hashlib.sha1).digest()
    assert ikev1.encryption_key(suite, skeyid_e) == (k1 + k2)[:32]
    triple = ikev1.phase1_suite(Encryption.TRIPLE_DES_CBC, 0, Hash.MD5)
    assert len(ikev1.encryption_key(triple, bytes(range(16)))) == 24
    fits = ikev1.phase1_suite(Encryption.AES_CBC, 256, Hash.SHA2_256)
    assert ikev1.encryption_key(fits, bytes(range(32))) == bytes(range(32))


def test_des_passes_over_its_weak_keys() -> None:
    suite = ikev1.phase1_suite(Encryption.DES_CBC, 0, Hash.SHA1)
    assert ikev1.encryption_key(suite, bytes(range(20))) == bytes(range(8))
    weak = bytes.fromhex("01fe01fe01fe01fe")
    assert ikev1.encryption_key(suite, weak + bytes(range(12))) == weak[2:] + b"\x00\x01"
    # Parity bits do not make a key another key.
    assert legacy.is_weak_des_key(bytes(8))
    assert legacy.is_weak_des_key(bytes.fromhex("1e1e1e1e0f0f0f0f"))
    assert not legacy.is_weak_des_key(bytes(range(8)))


def test_plaintext_is_padded_with_zeros_and_broken_blocks_open_to_nothing() -> None:
    key, iv = b"k" * 16, b"v" * 16
    for length in (1, 15, 16, 17):
        sealed = AES_SHA1.encrypt(key, iv, b"x" * length)
        assert len(sealed) % 16 == 0
        assert AES_SHA1.decrypt(key, iv, sealed) == (b"x" * length).ljust(len(sealed), b"\x00")
    assert AES_SHA1.decrypt(key, iv, b"x" * 17) is None
    assert AES_SHA1.decrypt(key, iv, b"") is None


@pytest.mark.parametrize(
    ("encryption", "bits", "hash_number"),
    [
        (Encryption.BLOWFISH_CBC, 0, Hash.SHA1),
        (Encryption.AES_CBC, 127, Hash.SHA1),
        (Encryption.AES_CBC, 0, Hash.SHA1),
        (Encryption.AES_CBC, 128, Hash.TIGER),
        (Encryption.TRIPLE_DES_CBC, 192, Hash.SHA1),
        (Encryption.CAMELLIA_CBC, 64, Hash.SHA1),
        (65001, 0, Hash.SHA1),
    ],
)
def test_an_unknown_cipher_hash_or_key_length_makes_no_suite(
    encryption: int, bits: int, hash_number: int
) -> None:
    with pytest.raises(UnsupportedAlgorithm):
        ikev1.phase1_suite(encryption, bits, hash_number)
