"""Key derivation gives what NIST's CAVS prints, and cuts the stream as RFC 7296 says."""

from __future__ import annotations

import hmac

import pytest

from cygnet.crypto.kdf import (
    ChildKeys,
    child_keymat,
    child_keymat_length,
    child_keys,
    ike_sa_keys,
    split_child_keymat,
)
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import CipherSuite, suite
from cygnet.wire.numbers import Encr, Integ, Prf

# NIST CAVS for SP 800-135, IKEv2, SHA-1, as libreswan's test program prints it.
G_IR = bytes.fromhex("4b2c1f971981a8ad8d0abeafabf38cf75fc8349c148142465ed9c8b516b8be52")
G_IR_NEW = bytes.fromhex("863f3c9d06efd39d2b907b97f8699e5dd5251ef64a2a176f36ee40c87d4f9330")
NI, NR = bytes.fromhex("32b50d5f4a3763f3"), bytes.fromhex("9206a04b26564cb1")
SPI_I, SPI_R = bytes.fromhex("34c9e7c188868785"), bytes.fromhex("3ff77d760d2b2199")
DKM = bytes.fromhex(
    "a14293677cc80ff8f9cc0eee30d895da9d8f405666e30ef0dfcb63c634a46002a2a63080e514a062768b76606f9fa5e992204fc5"
    "a670bde3f10d6b027113936a5c55b648a194ae587b0088d52204b702c979fa280870d2ed41efa9c549fd11198af1670b143d384b"
    "d275c5f594cf266b05ebadca855e4249520a441a81157435a7a56cc4"
)
DKM_CHILD = bytes.fromhex(
    "8059e3ee8810e6c3a91bc8bcd2a7a41151b8d0e6ae239c7b38093ad85ef4c5811a8e7b5d1cdabd9560b2d5e092d1f24e2d4b85ec"
    "cdf0ad0dc9abd94b51ee71814ca6dbc8bb51b6309f5b9545c7eb35cf5580b1e521a8fe20754a2d883ba0c2cf285f524aea6545b3"
    "3106bc03e614296d319d41d4b50b3f510b1c0a22f3e664994d234cb4"
)
DKM_CHILD_DH = bytes.fromhex(
    "bb43244c1860ad65ee1e211ffe8bb3661750c8f89cb9f547df7f4fa61d37301628190e38c66232eab4b3ab14c400a5197dd3730e"
    "d4820a8a10394d51e1c0400052f63ebd36b0e7ef53aaed31eba4a5080d7d4b5666023a8bbb5ffb7857240f9a05884d1b7d2f9337"
    "08450b7b3288f1fc863ab49fa901227cffc06e27899c7054d56fd74c"
)
SKEYSEED_REKEY = bytes.fromhex("63e81194946ebd05df7df5ebf5d8750056bf1f1d")
SHA1 = prf(Prf.PRF_HMAC_SHA1)
CBC_SHA1 = suite(Encr.AES_CBC, 128, Integ.HMAC_SHA1_96)


def test_ike_keys_agree_with_cavs_in_the_order_of_rfc_7296() -> None:
    keys = ike_sa_keys(SHA1, NI, NR, SPI_I, SPI_R, G_IR, CBC_SHA1)
    stream = keys.sk_d + keys.sk_ai + keys.sk_ar + keys.sk_ei + keys.sk_er + keys.sk_pi + keys.sk_pr
    lengths = [len(key) for key in (keys.sk_d, keys.sk_ai, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr)]
    assert lengths == [20, 20, 16, 16, 20, 20]
    assert stream == DKM


def test_child_keys_agree_with_cavs() -> None:
    sk_d = DKM[:20]
    assert child_keymat(SHA1, sk_d, NI, NR, None, 132) == DKM_CHILD
    assert child_keymat(SHA1, sk_d, NI, NR, G_IR_NEW, 132) == DKM_CHILD_DH
    keys = child_keys(SHA1, sk_d, NI, NR, G_IR_NEW, CBC_SHA1)
    assert keys == ChildKeys(DKM_CHILD_DH[:16], DKM_CHILD_DH[16:36], DKM_CHILD_DH[36:52], DKM_CHILD_DH[52:72])


def test_a_rekeyed_ike_sa_grows_from_the_old_sk_d_with_the_old_prf() -> None:
    new = prf(Prf.PRF_HMAC_SHA2_256)
    chosen = suite(Encr.AES_GCM_16, 128)
    keys = ike_sa_keys(new, NI, NR, SPI_I, SPI_R, G_IR_NEW, chosen, old_sk_d=DKM[:20], old_prf=SHA1)
    expected = new.plus(SKEYSEED_REKEY, NI + NR + SPI_I + SPI_R, 3 * 32 + 2 * 20)
    assert keys.sk_d + keys.sk_ei + keys.sk_er + keys.sk_pi + keys.sk_pr == expected
    assert keys.sk_ai == keys.sk_ar == b""
    same = ike_sa_keys(SHA1, NI, NR, SPI_I, SPI_R, G_IR_NEW, chosen, old_sk_d=DKM[:20])
    assert same.sk_d == hmac.digest(SKEYSEED_REKEY, NI + NR + SPI_I + SPI_R + b"\x01", "sha1")


@pytest.mark.parametrize("number", [Prf.PRF_AES128_XCBC, Prf.PRF_AES128_CMAC])
def test_fixed_key_prfs_take_eight_octets_of_each_nonce_for_skeyseed(number: int) -> None:
    """RFC 7296, section 2.14: half the key from each nonce, the whole nonces in the seed."""
    function = prf(number)
    ni, nr = bytes(range(32)), bytes(range(100, 132))
    keys = ike_sa_keys(function, ni, nr, SPI_I, SPI_R, G_IR, CBC_SHA1)
    skeyseed = function.compute(ni[:8] + nr[:8], G_IR)
    assert keys.sk_d == function.compute(skeyseed, ni + nr + SPI_I + SPI_R + b"\x01")


@pytest.mark.parametrize(
    ("chosen", "length"),
    [
        (suite(Encr.AES_GCM_16, 256), 72),
        (suite(Encr.AES_CBC, 128, Integ.HMAC_SHA2_512_256), 160),
        (suite(Encr.NULL, 0, Integ.HMAC_SHA1_96), 40),
        (suite(Encr.AES_CCM_8, 192), 54),
    ],
)
def test_keymat_is_split_initiators_half_first_encryption_before_integrity(
    chosen: CipherSuite, length: int
) -> None:
    assert child_keymat_length(chosen) == length
    keymat = bytes(range(length))
    keys = split_child_keymat(chosen, keymat)
    assert keys.encryption_initiator + keys.integrity_initiator == keymat[: length // 2]
    assert keys.encryption_responder + keys.integrity_responder == keymat[length // 2 :]
    assert len(keys.encryption_initiator) == len(keys.encryption_responder) == chosen.encryption_key_length


def test_keys_are_not_printed() -> None:
    keys = ike_sa_keys(SHA1, NI, NR, SPI_I, SPI_R, G_IR, CBC_SHA1)
    assert repr(keys) == "IkeKeys()"
    assert repr(child_keys(SHA1, keys.sk_d, NI, NR, None, CBC_SHA1)) == "ChildKeys()"
