"""SUPPORTED_AUTH_METHODS (RFC 9593): said where it says something, followed where there is a choice."""

from __future__ import annotations

import pytest

from cygnet.crypto.signatures import SCHEMES
from cygnet.ike.configuration import AuthClass, Connection, RemoteAuth
from cygnet.ike.steps import Context, Steps
from cygnet.ike.v2 import first, intermediate
from cygnet.ike.v2.announced import COMES_LATER, MAX_ANNOUNCED, announcement, taken_by
from cygnet.ike.v2.ike_sa_init import Initial
from cygnet.testing import Pair
from cygnet.wire.message import Header, Message, decode
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import NotifyPayload

SHA384 = next(one for one in SCHEMES if one.name == "ecdsa-sha384").algorithm_identifier
SIGNATURES = tuple(one.name for one in SCHEMES if one.algorithm_identifier)
ED25519 = bytes.fromhex("300506032b6570")


def connection(*remotes: RemoteAuth) -> Connection:
    return Connection("c", (), (), remotes, ())


def message(*data: bytes) -> Message:
    header = Header(bytes(8), bytes(8), 41, 2, 0, Exchange.IKE_AUTH, 0, 1)
    return Message(header, tuple(NotifyPayload(0, b"", Notify.SUPPORTED_AUTH_METHODS, one) for one in data))


def test_the_list_has_the_forms_of_the_rfc() -> None:
    psk, null = RemoteAuth(AuthClass.PSK), RemoteAuth(AuthClass.NULL)
    few = RemoteAuth(AuthClass.PUBKEY, schemes=("ed25519",))
    (notify,) = announcement([connection(psk), connection(null), connection(few)])
    assert notify.type == 16443
    assert notify.data == b"\x02\x02" + b"\x02\x0d" + b"\x0a\x0e\x00" + ED25519


def test_who_takes_any_signature_says_nothing() -> None:
    anything = RemoteAuth(AuthClass.PUBKEY)
    assert announcement([connection(RemoteAuth(AuthClass.PSK)), connection(anything)]) == ()
    assert announcement([connection(RemoteAuth(AuthClass.EAP))]) == ()


def test_what_the_peer_takes_is_read_from_all_its_lists() -> None:
    blob = bytes((3 + len(SHA384), 14, 1)) + SHA384
    assert taken_by(message(b"\x02\x02" + blob, b"\x03\x01\x00", b"\x0a\x0e\x00" + ED25519)) == {
        SHA384,
        ED25519,
    }


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\1", b"\2", b"\2\x0e", b"\3\x0e\0", b"\xff\x0e\0\x30", bytes(600)]
)
def test_v58_any_length_of_an_announcement_is_passed_over(data: bytes) -> None:
    assert taken_by(message(data)) == frozenset()


def test_the_list_of_a_peer_is_bounded() -> None:
    blobs = b"".join(bytes((4, 14, 0, number)) for number in range(200))
    assert len(taken_by(message(blobs))) == MAX_ANNOUNCED


def test_both_ends_say_it() -> None:
    pair = Pair(1).up()
    first, answer = [decode(f.data) for f in pair.network.trace if f.header and f.header.exchange == 34][:2]
    assert first.notify(Notify.SUPPORTED_AUTH_METHODS) is None
    said = answer.notify(Notify.SUPPORTED_AUTH_METHODS)
    assert said is not None
    assert said.data == b"\x02\x02"


def test_a_list_without_room_in_ike_sa_init_comes_with_ike_intermediate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 9593, section 3.1: an empty one says that it will come; the initiator follows what comes then."""
    (long,) = announcement([connection(RemoteAuth(AuthClass.PUBKEY, schemes=SIGNATURES))])
    assert len(long.data) > 200
    monkeypatch.setattr(first, "announcement", lambda _: (long,))
    monkeypatch.setattr(first, "_is_large", lambda said, _: any(len(one.data) > 200 for one in said))
    learnt: list[frozenset[bytes]] = []
    judge = intermediate.initiate

    def remembering(context: Context, initial: Initial) -> Steps[Initial]:
        found = yield from judge(context, initial)
        learnt.append(found.taken)
        return found

    monkeypatch.setattr("cygnet.ike.v2.intermediate.initiate", remembering)
    for further in ("-ke1_mlkem768-ke2_ecp256", ""):
        proposals = f'proposals = ["aes256gcm16-prfsha256-x25519{further}"]'
        pair = Pair(1, connection=proposals).up()
        answers = [decode(f.data) for f in pair.network.trace if f.header and f.header.exchange == 34]
        said = answers[1].notify(Notify.SUPPORTED_AUTH_METHODS)
        assert said == (COMES_LATER if further else None)
    assert learnt == [taken_by(message(long.data)), frozenset()]
