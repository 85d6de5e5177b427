"""MACs and PRFs give the values that their RFCs print."""

from __future__ import annotations

import pytest

from cygnet.crypto import aes_mac
from cygnet.crypto.errors import UnsupportedAlgorithm
from cygnet.crypto.integrity import integrity
from cygnet.crypto.prf import SUPPORTED_PRFS, prf
from cygnet.wire.numbers import Integ, Prf

# RFC 4231, sections 4.2 to 4.8: key, data, HMAC-SHA-256, HMAC-SHA-384, HMAC-SHA-512 (case 5 truncated).
RFC_4231 = [
    (
        "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
        "4869205468657265",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274e"
        "aea3f4e4be9d914eeb61f1702e696c203a126854",
    ),
    (
        "4a656665",
        "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65"
        "f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    ),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
        "dddddddddddd",
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
        "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a4"
        "7e67c807b946a337bee8942674278859e13292fb",
    ),
    (
        "0102030405060708090a0b0c0d0e0f10111213141516171819",
        "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
        "cdcdcdcdcdcd",
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb",
        "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275c"
        "c5788063a5f19741120c4f2de2adebeb10a298dd",
    ),
    (
        "0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c",
        "546573742057697468205472756e636174696f6e",
        "a3b6167473100ee06e0c796c2955552b",
        "3abf34c3503b2a23a46efc619baef897",
        "415fad6271580a531d4179bc891d87a6",
    ),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a65204b6579202d2048617368"
        "204b6579204669727374",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
        "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd221"
        "5d6a1e5295e64f73f63f0aec8b915a985d786598",
    ),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "5468697320697320612074657374207573696e672061206c6172676572207468616e20626c6f636b2d73697a"
        "65206b657920616e642061206c6172676572207468616e20626c6f636b2d73697a6520646174612e20546865"
        "206b6579206e6565647320746f20626520686173686564206265666f7265206265696e672075736564206279"
        "2074686520484d414320616c676f726974686d2e",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
        "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55"
        "c3e4de15134676fb6de0446065c97440fa8c6a58",
    ),
]
# RFC 2202, section 3, cases 1, 2 and 6.
RFC_2202 = [
    ("0b" * 20, b"Hi There".hex(), "b617318655057264e28bc0b6fb378c8ef146be00"),
    (b"Jefe".hex(), b"what do ya want for nothing?".hex(), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    (
        "aa" * 80,
        b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
        "aa4ae5e15272d00e95705637ce8a3b55ed402112",
    ),
]
COUNTING_KEY = "000102030405060708090a0b0c0d0e0f"
COUNTING = bytes(range(34)).hex()
# RFC 3566, section 4.6.
RFC_3566 = [
    ("", "75f0251d528ac01c4573dfd584d79f29"),
    ("000102", "5b376580ae2f19afe7219ceef172756f"),
    (COUNTING[: 2 * 16], "d2a246fa349b68a79998a4394ff7a263"),
    (COUNTING[: 2 * 20], "47f51b4564966215b8985c63055ed308"),
    (COUNTING[: 2 * 32], "f54f0ec8d2b9f3d36807734bd5283fd4"),
    (COUNTING[: 2 * 34], "becbb3bccdb518a30677d5481fb6b4d8"),
    ("00" * 1000, "f0dafee895db30253761103b5d84528f"),
]
# RFC 4434, section 2.1: keys of 16, 10 and 18 octets.
RFC_4434 = [
    (COUNTING_KEY, "47f51b4564966215b8985c63055ed308"),
    ("00010203040506070809", "0fa087af7d866e7653434e602fdde835"),
    (COUNTING_KEY + "edcb", "8cd3c93ae598a9803006ffb67c40e9e4"),
]
# RFC 4493, section 4.
CMAC_KEY = "2b7e151628aed2a6abf7158809cf4f3c"
CMAC_MESSAGE = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
RFC_4493 = [
    (0, "bb1d6929e95937287fa37d129b756746"),
    (16, "070a16b46b4d4144f79bdd9dd04a287c"),
    (40, "dfa66747de9ae63030ca32611497c827"),
    (64, "51f0bebf7e3b9d92fc49741779363cfe"),
]
# RFC 4615, section 4: keys of 18, 16 and 10 octets.
RFC_4615 = [
    (COUNTING_KEY + "edcb", "84a348a4a45d235babfffc0d2b4da09a"),
    (COUNTING_KEY, "980ae87b5f4c9c5214f5b6a8455e4c2d"),
    ("00010203040506070809", "290d9e112edb09ee141fcf64c0b72f3d"),
]
# RFC 4868, section 2.7.2, cases AUTH256-1, AUTH384-1, AUTH512-1: ICVs.
RFC_4868 = [
    (Integ.HMAC_SHA2_256_128, 32, "198a607eb44bfbc69903a0f1cf2bbdc5"),
    (Integ.HMAC_SHA2_384_192, 48, "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973"),
    (Integ.HMAC_SHA2_512_256, 64, "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8"),
]


@pytest.mark.parametrize(("key", "data", "sha256", "sha384", "sha512"), RFC_4231)
def test_hmac_prfs_agree_with_rfc_4231(key: str, data: str, sha256: str, sha384: str, sha512: str) -> None:
    for number, expected in (
        (Prf.PRF_HMAC_SHA2_256, sha256),
        (Prf.PRF_HMAC_SHA2_384, sha384),
        (Prf.PRF_HMAC_SHA2_512, sha512),
    ):
        assert prf(number).compute(bytes.fromhex(key), bytes.fromhex(data)).hex().startswith(expected)


@pytest.mark.parametrize(("key", "data", "expected"), RFC_2202)
def test_hmac_sha1_agrees_with_rfc_2202(key: str, data: str, expected: str) -> None:
    octets = bytes.fromhex(key), bytes.fromhex(data)
    assert prf(Prf.PRF_HMAC_SHA1).compute(*octets).hex() == expected
    assert integrity(Integ.HMAC_SHA1_96).compute(*octets).hex() == expected[:24]


@pytest.mark.parametrize(("number", "length", "icv"), RFC_4868)
def test_sha2_integrity_is_cut_to_half_the_digest(number: int, length: int, icv: str) -> None:
    algorithm = integrity(number)
    assert (algorithm.key_length, algorithm.icv_length) == (length, length // 2)
    assert algorithm.compute(b"\x0b" * length, b"Hi There").hex() == icv


@pytest.mark.parametrize(("data", "expected"), RFC_3566)
def test_xcbc_agrees_with_rfc_3566(data: str, expected: str) -> None:
    key = bytes.fromhex(COUNTING_KEY)
    assert aes_mac.xcbc(key, bytes.fromhex(data)).hex() == expected
    assert integrity(Integ.AES_XCBC_96).compute(key, bytes.fromhex(data)).hex() == expected[:24]


@pytest.mark.parametrize(("key", "expected"), RFC_4434)
def test_xcbc_prf_takes_keys_of_any_length(key: str, expected: str) -> None:
    computed = prf(Prf.PRF_AES128_XCBC).compute(bytes.fromhex(key), bytes(range(20)))
    assert computed.hex() == expected


@pytest.mark.parametrize(("length", "expected"), RFC_4493)
def test_cmac_agrees_with_rfc_4493(length: int, expected: str) -> None:
    key, data = bytes.fromhex(CMAC_KEY), bytes.fromhex(CMAC_MESSAGE)[:length]
    assert aes_mac.cmac(key, data).hex() == expected
    assert integrity(Integ.AES_CMAC_96).compute(key, data).hex() == expected[:24]


@pytest.mark.parametrize(("key", "expected"), RFC_4615)
def test_cmac_prf_takes_keys_of_any_length(key: str, expected: str) -> None:
    computed = prf(Prf.PRF_AES128_CMAC).compute(bytes.fromhex(key), bytes(range(20)))
    assert computed.hex() == expected


@pytest.mark.parametrize("number", SUPPORTED_PRFS)
def test_prf_plus_is_a_chain_whose_blocks_end_in_a_counter(number: int) -> None:
    function = prf(number)
    first = function.compute(b"key", b"seed\x01")
    second = function.compute(b"key", first + b"seed\x02")
    assert function.plus(b"key", b"seed", function.output_length + 5) == first + second[:5]
    assert function.plus(b"key", b"seed", 0) == b""


def test_prf_plus_refuses_more_than_255_blocks() -> None:
    function = prf(Prf.PRF_HMAC_SHA2_256)
    assert len(function.plus(b"key", b"seed", 255 * 32)) == 255 * 32
    with pytest.raises(ValueError, match="one octet"):
        function.plus(b"key", b"seed", 255 * 32 + 1)


def test_an_unknown_number_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedAlgorithm, match="PRF_HMAC_TIGER"):
        prf(Prf.PRF_HMAC_TIGER)
    with pytest.raises(UnsupportedAlgorithm, match="UNKNOWN_4000"):
        integrity(4000)
