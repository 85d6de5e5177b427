"""Postquantum pre-shared keys in IKE_AUTH (RFC 8784) and before it (RFC 9867), in both roles: the tables of
both RFCs, and what is never dropped."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from cygnet.crypto.kdf import IkeKeys, with_ppk, with_ppk_inside
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import suite
from cygnet.ike.errors import Reason
from cygnet.ike.v2 import ike_sa_init, ppk
from cygnet.testing import ACTS, Fault, Pair, assert_agreement, assert_nothing_left
from cygnet.wire.numbers import Encr, Exchange, Notify, Prf
from tests.simulation.test_handshakes import UP, initiate

KEY = "a key that was carried by hand, 32+"
NAMED = 'ppk_id = "office"'
REQUIRED = 'ppk_id = "office"\nppk_required = true'


def keyed(name: str = "office", secret: str = KEY) -> str:
    return f'[secrets.ppk-{name}]\nid = "{name}"\nsecret = "{secret}"'


def pair(a: tuple[str, str], b: tuple[str, str]) -> Pair:
    """(lines of the connection, the secrets) of each."""
    return Pair(5, a_only=a[0], a_settings=a[1], b_only=b[0], b_settings=b[1])


@pytest.fixture
def in_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The responder does not know RFC 9867."""
    monkeypatch.setattr(ike_sa_init, "_does_inside", lambda message: False)


@pytest.fixture(params=["inside", "in IKE_AUTH"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "in IKE_AUTH":
        request.getfixturevalue("in_auth")
    return str(request.param)


@pytest.fixture
def mixings(way: str, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that were mixed in, in order."""
    found: list[bytes] = []

    used = "with_ppk_inside" if way == "inside" else "with_ppk"
    genuine = getattr(ppk, used)

    def watched(*arguments: Any) -> object:
        found.append(arguments[2])
        return genuine(*arguments)

    monkeypatch.setattr(ppk, used, watched)
    return found


def test_both_ends_mix_the_key_in_and_carry_packets(mixings: list[bytes]) -> None:
    made = pair((NAMED, keyed()), (NAMED, keyed()))
    assert initiate(made) is None
    assert set(mixings) == {KEY.encode()}
    ours, theirs = [next(iter(g.endpoint.by_number.values())).state.keys for g in made.both]
    assert ours is not None
    assert ours == theirs
    assert made.talk(3) == (3, 3)
    made.a.rekey()
    made.settle(60)
    assert_agreement(*made.both, up=UP)


@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("other", [("", ""), ("", keyed("elsewhere")), (NAMED, keyed("elsewhere"))])
def test_one_end_alone_goes_without_where_the_key_is_optional(
    role: str, other: tuple[str, str], way: str
) -> None:
    has = (NAMED, keyed())
    made = pair(has, other) if role == "initiator" else pair(other, has)
    assert initiate(made) is None
    assert_agreement(*made.both, up=UP)
    assert made.talk(3) == (3, 3)


@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("other", [("", ""), ("", keyed("elsewhere"))])
def test_a_required_key_is_never_dropped(role: str, other: tuple[str, str], way: str) -> None:
    has = (REQUIRED, keyed())
    made = pair(has, other) if role == "initiator" else pair(other, has)
    assert initiate(made) in (Reason.PPK_MISMATCH, Reason.PEER_REFUSED_AUTHENTICATION)
    made.settle(60)
    assert_nothing_left(*made.both)
    told = [failure.reason for gateway in made.both for failure in gateway.failures()]
    assert Reason.PPK_MISMATCH in told


def test_a_required_key_that_is_not_loaded_is_said_before_anything_is_sent() -> None:
    made = pair((REQUIRED, ""), (NAMED, keyed()))
    assert initiate(made) is Reason.PPK_MISMATCH
    assert not made.network.trace


@pytest.mark.parametrize("how", [NAMED, REQUIRED])
def test_another_key_of_the_same_name_authenticates_nobody(how: str, in_auth: None) -> None:
    made = pair((how, keyed()), (how, keyed(secret="quite another key, as long as it")))
    assert initiate(made) is not None
    made.settle(60)
    assert_nothing_left(*made.both)


@pytest.mark.parametrize("required", [(True, False), (False, True), (True, True), (False, False)])
def test_another_key_of_the_same_name_is_found_out_before_ike_auth(required: tuple[bool, bool]) -> None:
    """RFC 9867: by its confirmation; who does not require it goes on without."""
    ours, theirs = [REQUIRED if one else NAMED for one in required]
    made = pair((ours, keyed()), (theirs, keyed(secret="quite another key, as long as it")))
    assert (initiate(made) is None) is not any(required)
    made.settle(60)
    if any(required):
        assert_nothing_left(*made.both)
        told = [failure.reason for gateway in made.both for failure in gateway.failures()]
        assert Reason.PPK_MISMATCH in told
    else:
        assert_agreement(*made.both, up=UP)


def test_the_key_of_another_peer_is_not_taken_though_it_is_loaded() -> None:
    """RFC 9867, section 3.1: the responder chose it before it knew for whom."""
    made = pair((NAMED, keyed()), (NAMED.replace("office", "elsewhere"), keyed() + "\n" + keyed("elsewhere")))
    assert initiate(made) is not None
    made.settle(60)
    assert_nothing_left(*made.both)
    assert Reason.PPK_MISMATCH in [failure.reason for failure in made.b.failures()]


@pytest.mark.parametrize("further", ["", "-ke1_mlkem768"])
def test_the_key_goes_into_the_last_exchange_before_ike_auth(
    further: str, way: str, mixings: list[bytes]
) -> None:
    lines = f'proposals = ["aes256gcm16-prfsha256-x25519{further}"]\n{REQUIRED}'
    made = pair((lines, keyed()), (lines, keyed()))
    assert initiate(made) is None
    assert set(mixings) == {KEY.encode()}
    assert made.talk(3) == (3, 3)
    # However many things are in it, it is one exchange.
    inside = {
        f.header.message_id
        for f in made.network.trace
        if f.header is not None and f.header.exchange == Exchange.IKE_INTERMEDIATE
    }
    assert inside == ({1} if further or way == "inside" else set())


@pytest.mark.parametrize("notify", [Notify.USE_PPK_INT, Notify.INTERMEDIATE_EXCHANGE_SUPPORTED])
@pytest.mark.parametrize("sender", [0, 1])
def test_t28_who_strikes_what_comes_before_ike_auth_out_is_found_out(notify: int, sender: int) -> None:
    """A downgrade to IKE_AUTH's way, or to none: AUTH covers both first messages."""
    lines = f'proposals = ["aes256gcm16-prfsha256-x25519"]\n{NAMED}'
    made = pair((lines, keyed()), (lines, keyed()))
    struck = 0

    def strike(flight: Any, random: object) -> tuple[tuple[float, bytes], ...]:
        nonlocal struck
        data: bytes = flight.data
        at = data.find(bytes((0, 8, 0, 0)) + notify.to_bytes(2, "big"))
        assert at > 0
        struck += 1
        return ((0.0, data[: at + 4] + (40000).to_bytes(2, "big") + data[at + 6 :]),)

    made.network.meddlers.append(Fault(made.both[sender].address, 0, strike))
    assert initiate(made) is not None
    assert struck
    made.settle(400)
    assert_nothing_left(*made.both)


def test_who_strikes_the_announcement_out_is_found_out(in_auth: None) -> None:
    """AUTH covers N(USE_PPK): to remove it on the way breaks the proof, also where the key is optional."""
    made = pair((NAMED, keyed()), (NAMED, keyed()))
    stripped = 0

    def strike(flight: object, random: object) -> tuple[tuple[float, bytes], ...]:
        nonlocal stripped
        data: bytes = flight.data  # type: ignore[attr-defined]
        notify = bytes((0, 0, 8, 0, 0)) + Notify.USE_PPK.to_bytes(2, "big")
        at = data.find(notify[1:])
        stripped += 1
        assert at > 0
        changed = data[: at + 4] + (40000).to_bytes(2, "big") + data[at + 6 :]
        return ((0.0, changed),)

    made.network.meddlers.append(Fault(made.b.address, 0, strike))
    assert initiate(made) is not None
    assert stripped == 1
    made.settle(60)
    assert_nothing_left(*made.both)


@pytest.mark.parametrize("act", ["lost", "doubled", "delayed", "reordered", "truncated"])
def test_with_a_fault_at_any_position_both_ends_agree(act: str, way: str) -> None:
    for side in (0, 1):
        for position in range(3 + (way == "inside")):
            made = pair((NAMED, keyed()), (NAMED, keyed()))
            source = made.both[side].address
            made.network.meddlers.append(Fault(source, position, ACTS[act]))
            operation = made.a.initiate("peer", "net")
            made.settle()
            assert made.a.operations[operation] is None
            assert_agreement(*made.both, up=UP)


def test_the_keys_inside_are_those_of_rfc_9867() -> None:
    """SKEYSEED' = prf+ (PPK, SK_d), then prf+ (SKEYSEED', Ni | Nr | SPIi | SPIr), written out."""
    before = IkeKeys(*[bytes((n,)) * 32 for n in range(7)])
    ciphers = suite(Encr.AES_GCM_16, 256, 0)
    seed = (b"i" * 32, b"r" * 32, b"I" * 8, b"R" * 8)
    after = with_ppk_inside(prf(Prf.PRF_HMAC_SHA2_256), before, KEY.encode(), *seed, ciphers)

    def mac(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.sha256).digest()

    skeyseed = mac(KEY.encode(), before.sk_d + b"\x01")
    stream, block = b"", b""
    for number in range(1, 8):
        block = mac(skeyseed, block + b"".join(seed) + bytes((number,)))
        stream += block
    # AES-256-GCM: no integrity keys, keys of 36 octets with their salt.
    assert (after.sk_d, after.sk_ai, after.sk_ar) == (stream[:32], b"", b"")
    assert (after.sk_ei, after.sk_er) == (stream[32:68], stream[68:104])
    assert (after.sk_pi, after.sk_pr) == (stream[104:136], stream[136:168])


def test_the_mixed_keys_are_those_of_rfc_8784() -> None:
    """prf+ (PPK, SK_d') of a PRF whose output is as long as its key is prf (PPK, SK_d' | 0x01)."""
    before = IkeKeys(*[bytes((n,)) * 32 for n in range(7)])
    after = with_ppk(prf(Prf.PRF_HMAC_SHA2_256), before, KEY.encode())
    expected = [
        hmac.new(KEY.encode(), k + b"\x01", hashlib.sha256).digest() for k in (before.sk_d, before.sk_pi)
    ]
    assert [after.sk_d, after.sk_pi] == expected
    assert (after.sk_ei, after.sk_er, after.sk_ai) == (before.sk_ei, before.sk_er, before.sk_ai)
