"""Postquantum pre-shared keys (RFC 8784): table 1 of the RFC in both roles, and what is never dropped."""

from __future__ import annotations

import pytest

from cygnet.crypto.kdf import with_ppk
from cygnet.crypto.prf import prf
from cygnet.ike.errors import Reason
from cygnet.ike.v2 import ppk
from cygnet.testing import ACTS, Fault, Pair, assert_agreement, assert_nothing_left
from cygnet.wire.numbers import Notify, Prf
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
def mixings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that were mixed in, in order."""
    found: list[bytes] = []

    def watched(*arguments: object) -> object:
        found.append(arguments[2])  # type: ignore[arg-type]
        return with_ppk(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ppk, "with_ppk", watched)
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
def test_one_end_alone_goes_without_where_the_key_is_optional(role: str, other: tuple[str, str]) -> None:
    has = (NAMED, keyed())
    made = pair(has, other) if role == "initiator" else pair(other, has)
    assert initiate(made) is None
    assert_agreement(*made.both, up=UP)
    assert made.talk(3) == (3, 3)


@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("other", [("", ""), ("", keyed("elsewhere"))])
def test_a_required_key_is_never_dropped(role: str, other: tuple[str, str]) -> None:
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
def test_another_key_of_the_same_name_authenticates_nobody(how: str) -> None:
    made = pair((how, keyed()), (how, keyed(secret="quite another key, as long as it")))
    assert initiate(made) is not None
    made.settle(60)
    assert_nothing_left(*made.both)


def test_who_strikes_the_announcement_out_is_found_out() -> None:
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
def test_with_a_fault_at_any_position_both_ends_agree(act: str) -> None:
    for side in (0, 1):
        for position in range(3):
            made = pair((NAMED, keyed()), (NAMED, keyed()))
            source = made.both[side].address
            made.network.meddlers.append(Fault(source, position, ACTS[act]))
            operation = made.a.initiate("peer", "net")
            made.settle()
            assert made.a.operations[operation] is None
            assert_agreement(*made.both, up=UP)


def test_the_mixed_keys_are_those_of_rfc_8784() -> None:
    """prf+ (PPK, SK_d') of a PRF whose output is as long as its key is prf (PPK, SK_d' | 0x01)."""
    import hashlib
    import hmac

    from cygnet.crypto.kdf import IkeKeys

    before = IkeKeys(*[bytes((n,)) * 32 for n in range(7)])
    after = with_ppk(prf(Prf.PRF_HMAC_SHA2_256), before, KEY.encode())
    expected = [
        hmac.new(KEY.encode(), k + b"\x01", hashlib.sha256).digest() for k in (before.sk_d, before.sk_pi)
    ]
    assert [after.sk_d, after.sk_pi] == expected
    assert (after.sk_ei, after.sk_er, after.sk_ai) == (before.sk_ei, before.sk_er, before.sk_ai)
