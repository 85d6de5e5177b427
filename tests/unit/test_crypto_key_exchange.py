"""Key exchange gives what the RFCs print, and computes with no public value that RFC 6989 forbids."""

from __future__ import annotations

import hashlib
import warnings

import pytest

from cygnet.crypto import modp
from cygnet.crypto.entropy import Entropy, SeededEntropy, SystemEntropy
from cygnet.crypto.errors import InvalidPublicValue, UnsupportedAlgorithm
from cygnet.crypto.key_exchange import SUPPORTED_GROUPS, check_public, generate, public_length
from cygnet.wire.numbers import KeMethod

# RFC 5903, sections 8.1 to 8.3: i, gix, giy, r, grx, gry, girx.
RFC_5903 = [
    (
        "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
        "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180",
        "5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
        "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
        "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63",
        "56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
        "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
    ),
    (
        "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194",
        "667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6de3ac808acb4bdb4c88732aee95f41aa",
        "9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38eeb9fcff3c2c947dae69b4c634573a81c",
        "41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942e0308312916b8ed2960e4bd55a7448fc",
        "e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d0d1ac43a0336def96fda41d0774a3571",
        "dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1fff83fa40142209dff5eaad96db9e6386c",
        "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d09cf5d4a270f59746",
    ),
    (
        "0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a095aa85a30fe1c2952c6771d9"
        "37ba9777f5957b2639bab072462f68c27a57382d4a52",
        "0015417e84dbf28c0ad3c278713349dc7df153c897a1891bd98bab4357c9ecbee1e3bf42e00b8e380aeae57c"
        "2d107564941885942af5a7f4601723c4195d176ced3e",
        "017cae20b6641d2eeb695786d8c946146239d099e18e1d5a514c739d7cb4a10ad8a788015ac405d7799dc75e"
        "7b7d5b6cf2261a6a7f1507438bf01beb6ca3926f9582",
        "0145ba99a847af43793fdd0e872e7cdfa16be30fdc780f97bccc3f078380201e9c677d600b343757a3bdbf2a"
        "3163e4c2f869cca7458aa4a4effc311f5cb151685eb9",
        "00d0b3975ac4b799f5bea16d5e13e9af971d5e9b984c9f39728b5e5739735a219b97c356436adc6e95bb0352"
        "f6be64a6c2912d4ef2d0433ced2b6171640012d9460f",
        "015c68226383956e3bd066e797b623c27ce0eac2f551a10c2c724d9852077b87220b6536c5c408a1d2aebb8e"
        "86d678ae49cb57091f4732296579ab44fcd17f0fc56a",
        "01144c7d79ae6956bc8edb8e7c787c4521cb086fa64407f97894e5e6b2d79b04d1427e73ca4baa240a347868"
        "59810c06b3c715a3a8cc3151f2bee417996d19f3ddea",
    ),
]
# RFC 6954, appendices A.2 to A.4: dA, x_qA, y_qA, dB, x_qB, y_qB, x_Z.
RFC_6954 = [
    (
        "81db1ee100150ff2ea338d708271be38300cb54241d79950f77b063039804f1d",
        "44106e913f92bc02a1705d9953a8414db95e1aaa49e81d9e85f929a8e3100be5",
        "8ab4846f11caccb73ce49cbdd120f5a900a69fd32c272223f789ef10eb089bdc",
        "55e40bc41e37e3e2ad25c3c6654511ffa8474a91a0032087593852d3e7d76bd3",
        "8d2d688c6cf93e1160ad04cc4429117dc2c41825e1e9fca0addd34e6f1b39f7b",
        "990c57520812be512641e47034832106bc7d3e8dd0e4c7f1136d7006547cec6a",
        "89afc39d41d3b327814b80940b042590f96556ec91e6ae7939bce31f3a18bf2b",
    ),
    (
        "1e20f5e048a5886f1f157c74e91bde2b98c8b52d58e5003d57053fc4b0bd65d6f15eb5d1ee1610df870795143627d042",
        "68b665dd91c195800650cdd363c625f4e742e8134667b767b1b476793588f885ab698c852d4a6e77a252d6380fcaf068",
        "55bc91a39c9ec01dee36017b7d673a931236d2f1f5c83942d049e3fa20607493e0d038ff2fd30c2ab67d15c85f7faa59",
        "032640bc6003c59260f7250c3db58ce647f98e1260acce4acda3dd869f74e01f8ba5e0324309db6a9831497abac96670",
        "4d44326f269a597a5b58bba565da5556ed7fd9a8a9eb76c25f46db69d19dc8ce6ad18e404b15738b2086df37e71d1eb4",
        "62d692136de56cbe93bf5fa3188ef58bc8a3a0ec6c1e151a21038a42e9185329b5b275903d192f8d4e1f32fe9cc78c48",
        "0bd9d3a7ea0b3d519d09d8e48d0785fb744a6b355e6304bc51c229fbbce239bbadf6403715c35d4fb2a5444f575d4f42",
    ),
    (
        "16302ff0dbbb5a8d733dab7141c1b45acbc8715939677f6a56850a38bd87bd59b09e80279609ff333eb9d4c0"
        "61231fb26f92eeb04982a5f1d1764cad57665422",
        "0a420517e406aac0acdce90fcd71487718d3b953efd7fbec5f7f27e28c6149999397e91e029e06457db2d3e6"
        "40668b392c2a7e737a7f0bf04436d11640fd09fd",
        "72e6882e8db28aad36237cd25d580db23783961c8dc52dfa2ec138ad472a0fcef3887cf62b623b2a87de5c58"
        "8301ea3e5fc269b373b60724f5e82a6ad147fde7",
        "230e18e1bcc88a362fa54e4ea3902009292f7f8033624fd471b5d8ace49d12cfabbc19963dab8e2f1eba00bf"
        "fb29e4d72d13f2224562f405cb80503666b25429",
        "9d45f66de5d67e2e6db6e93a59ce0bb48106097ff78a081de781cdb31fce8ccbaaea8dd4320c4119f1e9cd43"
        "7a2eab3731fa9668ab268d871deda55a5473199f",
        "2fdc313095bcdd5fb3a91636f07a959c8e86b5636a1e930e8396049cb481961d365cc11453a06c719835475b"
        "12cb52fc3c383bce35e27ef194512b71876285fa",
        "a7927098655f1f9976fa50a9d566865dc530331846381c87256baf3226244b76d36403c024d7bbf0aa0803ea"
        "ff405d3d24f11a9b5c0bef679fe1454b21c4cd1f",
    ),
]
CURVE_VECTORS = [
    *zip((KeMethod.ECP_256, KeMethod.ECP_384, KeMethod.ECP_521), RFC_5903, strict=True),
    *zip((KeMethod.ECP_256_BP, KeMethod.ECP_384_BP, KeMethod.ECP_512_BP), RFC_6954, strict=True),
]
# RFC 3526, section 3, as it is printed.
MODP_2048 = int(
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"
    "ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed"
    "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f"
    "83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b"
    "e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510"
    "15728e5a8aacaa68ffffffffffffffff",
    16,
)
# SHA-256 of the primes' octets as RFC 3526, sections 3 to 7, prints them.
MODP_DIGESTS = {
    KeMethod.MODP_2048: "d66436f79bbd6b2e38c0ffbd079be904d2641415e2e67140e09448be9a60890e",
    KeMethod.MODP_3072: "48cf8b092fbce4359d9871abf74f98e25b6163379eaa15cd9087e800c6d1c55c",
    KeMethod.MODP_4096: "4ee95187682bcb230ad26a95205f6920e84708f6251b3894329b09ec23919e33",
    KeMethod.MODP_6144: "d1bfe6d0925ce7e4da262b62861514a7755e35831e429f343e7b864848657efd",
    KeMethod.MODP_8192: "39ab4feab950a3128fb71accb9fc3965d857012e081998a85996e3ea8b3c3bcf",
}
# RFC 8031, appendix A.
X25519_PRIVATE_I = "751fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d94"
X25519_PRIVATE_R = "0a54645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05688"
X25519_PUBLIC_I = "48d5ddd4061257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766"
X25519_PUBLIC_R = "0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25"
X25519_SHARED = "c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950"
# RFC 7748, section 6.2.
X448_PRIVATE_A = (
    "9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28d"
    "d9c9baf574a9419744897391006382a6f127ab1d9ac2d8c0a598726b"
)
X448_PUBLIC_A = (
    "9b08f7cc31b7e3e67d22d5aea121074a273bd2b83de09c63faa73d2c"
    "22c5d9bbc836647241d953d40c5b12da88120d53177f80e532c41fa0"
)
X448_PUBLIC_B = (
    "3eb7a829b0cd20f5bcfc0b599b6feccf6da4627107bdb0d4f345b430"
    "27d8b972fc3e34fb4232a13ca706dcb57aec3dae07bdc1c67bf33609"
)
X448_SHARED = (
    "07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282b"
    "b60c0b56fd2464c335543936521c24403085d59a449a5037514a879d"
)


class FixedEntropy:
    """Gives the octets that a test wants to have as a private key."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def octets(self, count: int) -> bytes:
        return self._octets.rjust(count, b"\x00")

    def uniform(self) -> float:
        return 0.5


def scalar(value: str) -> FixedEntropy:
    """Entropy of which a curve key takes this scalar: it adds one to the number it draws."""
    return FixedEntropy((int(value, 16) - 1).to_bytes(len(value) // 2, "big"))


@pytest.mark.parametrize(("group", "vector"), CURVE_VECTORS)
def test_curves_agree_with_their_rfcs(group: int, vector: tuple[str, ...]) -> None:
    private_i, x_i, y_i, private_r, x_r, y_r, secret = vector
    initiator = generate(group, scalar(private_i))
    responder = generate(group, scalar(private_r))
    assert initiator.public.hex() == x_i + y_i
    assert responder.public.hex() == x_r + y_r
    assert initiator.shared(responder.public).hex() == secret
    assert responder.shared(initiator.public).hex() == secret


def test_x25519_agrees_with_rfc_8031() -> None:
    initiator = generate(KeMethod.CURVE_25519, FixedEntropy(bytes.fromhex(X25519_PRIVATE_I)))
    responder = generate(KeMethod.CURVE_25519, FixedEntropy(bytes.fromhex(X25519_PRIVATE_R)))
    assert initiator.public.hex() == X25519_PUBLIC_I
    assert responder.public.hex() == X25519_PUBLIC_R
    assert initiator.shared(responder.public).hex() == X25519_SHARED
    assert responder.shared(initiator.public).hex() == X25519_SHARED


def test_x448_agrees_with_rfc_7748() -> None:
    alice = generate(KeMethod.CURVE_448, FixedEntropy(bytes.fromhex(X448_PRIVATE_A)))
    assert alice.public.hex() == X448_PUBLIC_A
    assert alice.shared(bytes.fromhex(X448_PUBLIC_B)).hex() == X448_SHARED


@pytest.mark.parametrize(("group", "digest"), MODP_DIGESTS.items())
def test_modp_primes_are_those_of_rfc_3526(group: int, digest: str) -> None:
    prime = modp.prime(group)
    assert hashlib.sha256(prime.to_bytes(public_length(group), "big")).hexdigest() == digest
    assert modp.prime(KeMethod.MODP_2048) == MODP_2048


def test_modp_shared_secrets_are_those_of_plain_arithmetic_in_full_length() -> None:
    ours = generate(KeMethod.MODP_2048, FixedEntropy((12345).to_bytes(80, "big")))
    exponent = 12345 | 2
    assert int.from_bytes(ours.public, "big") == pow(2, exponent, MODP_2048)
    # A secret with leading zeros keeps them (RFC 7296, 2.14): 4^(e * 1/e) is small.
    inverse = pow(exponent, -1, (MODP_2048 - 1) // 2)
    peer = pow(4, inverse, MODP_2048)
    assert pow(peer, exponent, MODP_2048) == 4
    assert ours.shared(peer.to_bytes(256, "big")) == (4).to_bytes(256, "big")


@pytest.mark.parametrize("group", SUPPORTED_GROUPS)
def test_both_ends_agree_whatever_the_entropy(group: int) -> None:
    sources: tuple[Entropy, ...] = (SystemEntropy(), SeededEntropy(7))
    ours, theirs = (generate(group, source) for source in sources)
    assert ours.group == group
    assert len(ours.public) == public_length(group)
    check_public(group, ours.public)
    check_public(group, theirs.public)
    assert ours.shared(theirs.public) == theirs.shared(ours.public)


@pytest.mark.parametrize("group", [group for group in SUPPORTED_GROUPS if group not in modp.GROUPS[3:]])
def test_the_same_seed_gives_the_same_key_and_the_system_never_does(group: int) -> None:
    assert generate(group, SeededEntropy(1)).public == generate(group, SeededEntropy(1)).public
    assert generate(group, SeededEntropy(1)).public != generate(group, SeededEntropy(2)).public
    assert generate(group, SystemEntropy()).public != generate(group, SystemEntropy()).public


def test_seeded_entropy_repeats_itself_and_stays_in_range() -> None:
    first, second = SeededEntropy(3), SeededEntropy(3)
    assert first.octets(100) == second.octets(100)
    assert first.octets(8) != first.octets(8)
    assert all(0 <= first.uniform() < 1 for _ in range(100))
    assert 0 <= SystemEntropy().uniform() < 1
    assert len(SystemEntropy().octets(12)) == 12


def refused(group: int, data: bytes) -> None:
    with pytest.raises(InvalidPublicValue):
        check_public(group, data)
    with pytest.raises(InvalidPublicValue):
        generate(group, SeededEntropy(1)).shared(data)


@pytest.mark.parametrize("group", SUPPORTED_GROUPS)
def test_values_of_the_wrong_length_are_refused(group: int) -> None:
    """CVE-2023-41913 and its like: one octet short, one long, half, double, nothing."""
    good = generate(group, SeededEntropy(2)).public
    length = len(good)
    key = generate(group, SeededEntropy(1))
    for data in (b"", good[:-1], good + b"\x00", b"\x00" + good, good[: length // 2], good * 2):
        with pytest.raises(InvalidPublicValue):
            check_public(group, data)
        with pytest.raises(InvalidPublicValue):
            key.shared(data)


@pytest.mark.parametrize("group", modp.GROUPS)
def test_modp_values_outside_two_to_p_minus_two_are_refused(group: int) -> None:
    """CVE-2015-3240: g^x = 0. RFC 6989, section 2.1: 1 < y < p - 1."""
    prime, length = modp.prime(group), public_length(group)
    key = generate(group, SystemEntropy())
    for value in (0, 1, prime - 1, prime, prime + 1, (1 << 8 * length) - 1):
        with pytest.raises(InvalidPublicValue):
            check_public(group, value.to_bytes(length, "big"))
        with pytest.raises(InvalidPublicValue):
            key.shared(value.to_bytes(length, "big"))
    for value in (2, prime - 2):
        check_public(group, value.to_bytes(length, "big"))


# p and b of each curve (SEC 2, RFC 5639), to make points that look right and lie elsewhere.
CURVE_FIELDS = {
    KeMethod.ECP_256: 2**256 - 2**224 + 2**192 + 2**96 - 1,
    KeMethod.ECP_384: 2**384 - 2**128 - 2**96 + 2**32 - 1,
    KeMethod.ECP_521: 2**521 - 1,
    KeMethod.ECP_256_BP: int("A9FB57DBA1EEA9BC3E660A909D838D726E3BF623D52620282013481D1F6E5377", 16),
}


@pytest.mark.parametrize("group", [group for group, _ in CURVE_VECTORS])
def test_points_off_the_curve_are_refused(group: int) -> None:
    good = generate(group, SeededEntropy(5)).public
    half = len(good) // 2
    x, y = good[:half], good[half:]
    refused(group, bytes(len(good)))
    refused(group, b"\xff" * len(good))
    refused(group, y + x)
    refused(group, x + bytes(half))
    refused(group, bytes(half) + y)
    for bit in (0, 1, 7, 8 * half - 2):
        flipped = (int.from_bytes(y, "big") ^ 1 << bit).to_bytes(half, "big")
        refused(group, x + flipped)


@pytest.mark.parametrize(("group", "p"), CURVE_FIELDS.items())
def test_coordinates_beyond_the_field_are_refused(group: int, p: int) -> None:
    """x + p is the same residue; accepting it would give one point two encodings."""
    half = public_length(group) // 2
    for seed in range(40):
        good = generate(group, SeededEntropy(seed)).public
        x, y = int.from_bytes(good[:half], "big"), int.from_bytes(good[half:], "big")
        for high_x, high_y in ((x + p, y), (x, y + p)):
            if max(high_x, high_y).bit_length() <= 8 * half:
                refused(group, high_x.to_bytes(half, "big") + high_y.to_bytes(half, "big"))
    refused(group, p.to_bytes(half, "big") + (1).to_bytes(half, "big"))


def test_the_twist_of_p256_is_refused() -> None:
    p = CURVE_FIELDS[KeMethod.ECP_256]
    b = int("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b", 16)
    found = 0
    for x in range(1, 40):
        square = (x**3 - 3 * x + b) % p
        if pow(square, (p - 1) // 2, p) != 1:
            # No y on the curve for this x: on the twist there is one. Any y will do for the check.
            found += 1
            refused(
                KeMethod.ECP_256, x.to_bytes(32, "big") + pow(-square, (p + 1) // 4, p).to_bytes(32, "big")
            )
    assert found > 5


P25519 = 2**255 - 19
SMALL_25519 = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P25519 - 1,
    P25519,
    P25519 + 1,
]


@pytest.mark.parametrize("value", SMALL_25519)
def test_small_order_points_of_x25519_are_refused(value: int) -> None:
    """Known lists of small-order points; with them the secret is zero (RFC 8031, section 2)."""
    refused(KeMethod.CURVE_25519, value.to_bytes(32, "little"))
    refused(KeMethod.CURVE_25519, (value | 1 << 255).to_bytes(32, "little"))


P448 = 2**448 - 2**224 - 1


@pytest.mark.parametrize("value", [0, 1, P448 - 1, P448, P448 + 1])
def test_small_order_points_of_x448_are_refused(value: int) -> None:
    refused(KeMethod.CURVE_448, value.to_bytes(56, "little"))


@pytest.mark.parametrize("group", [0, 22, 23, 24, 25, 26, 27, 35, 4000])
def test_weak_withdrawn_and_unknown_groups_are_not_there(group: int) -> None:
    """Groups 22 to 24 hide their subgroups (RFC 8247, section 2.4); 1, 2, 5 are there by name only."""
    for attempt in (
        lambda: generate(group, SystemEntropy()),
        lambda: check_public(group, bytes(128)),
        lambda: public_length(group),
    ):
        with pytest.raises(UnsupportedAlgorithm):
            attempt()


def test_the_small_groups_have_the_primes_that_rfc_2409_prints() -> None:
    """RFC 2409, sections 6.1 and 6.2; RFC 3526, section 2, for the middle of group 5."""
    head = (
        "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"
        "ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9"
    )
    assert f"{modp.prime(KeMethod.MODP_768):x}" == head + "a63a3620ffffffffffffffff"
    assert f"{modp.prime(KeMethod.MODP_1024):x}" == (
        head + "a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece65381ffffffffffffffff"
    )
    middle = f"{modp.prime(KeMethod.MODP_1536):x}"
    assert len(middle) == 384
    assert middle.endswith("9ed529077096966d670c354e4abc9804f1746c08ca237327ffffffffffffffff")


def test_finite_field_exchange_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = generate(KeMethod.MODP_2048, SystemEntropy())
        theirs = generate(KeMethod.MODP_2048, SeededEntropy(1))
        assert ours.shared(theirs.public) == theirs.shared(ours.public)
