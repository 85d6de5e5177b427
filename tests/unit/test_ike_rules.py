"""The pure rules of the negotiation: collisions, time, the door, lookup, NAT, sealing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import ip_address
from itertools import permutations, product
from random import Random
from typing import Any

import pytest

from cygnet.auth.identity import Identity
from cygnet.auth.peer import attest
from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.errors import IntegrityFailure
from cygnet.crypto.kdf import IkeKeys
from cygnet.crypto.proposals import parse_proposals
from cygnet.ike import collisions
from cygnet.ike.admission import MAX_SOURCES, SECRET_LIFE, Cookies, HalfOpen, RateLimit
from cygnet.ike.changes import (
    AddChild,
    ChangeChild,
    ChangePhase,
    DropChild,
    ForgetAttempt,
    Handover,
    ImpossibleChange,
    NoteAttempt,
    NoteEarlyDelete,
    Postpone,
    transition,
)
from cygnet.ike.configuration import AddressRange, AuthClass, Child, Connection, LocalAuth, RemoteAuth
from cygnet.ike.connections import Connections, LoadedChild
from cygnet.ike.errors import Failure, Reason
from cygnet.ike.history import SIZE, Entry, History
from cygnet.ike.lifetimes import child_deadlines, child_volume, ike_deadlines, pause_before_retry
from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, Phase, SaState, child_suite, ike_suite
from cygnet.ike.timers import Timers
from cygnet.ike.v2 import nat, protection
from cygnet.ike.v2.collisions import Request, admit
from cygnet.ike.world import Path
from cygnet.policy.selectors import IpAddress
from cygnet.wire.message import Header, Message, decode
from cygnet.wire.numbers import Encr, Exchange, Flags, Integ, KeMethod, Notify, Prf, Protocol
from cygnet.wire.payloads import EncryptedFragmentPayload, EncryptedPayload, NoncePayload, NotifyPayload

LOCAL, REMOTE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
PATH = Path(LOCAL, 500, REMOTE, 500)
PEER = attest(Identity.parse("sun.example"), 2, "psk")
GONE = Failure(Reason.PEER_CLOSED, "gone")


def child(pair: int, **changes: Any) -> ChildSa:
    made = ChildSa(
        pair=pair,
        name="net",
        flow_index=0,
        flow=1,
        policy=2,
        spi_in=0x1000 + pair,
        spi_out=0x2000 + pair,
        mode=1,
        protocol=50,
        encapsulated=False,
        suite=child_suite(Encr.AES_GCM_16, 256, 0, 0, False),
        local_selectors=(),
        remote_selectors=(),
        installed=100.0,
        rekey_at=0.0,
        expires_at=0.0,
        initiator=True,
    )
    return replace(made, **changes)


def state(
    *children: ChildSa, phase: Phase = Phase.ESTABLISHED, attempts: tuple[Attempt, ...] = ()
) -> SaState:
    return SaState(
        phase=phase,
        original_initiator=True,
        spi_i=b"i" * 8,
        spi_r=b"r" * 8,
        path=PATH,
        created=0.0,
        peer=PEER,
        children=children,
        attempts=attempts,
    )


# -- who wins (RFC 7296, section 2.25) ------------------------------------------------------------


def ours(kind: AttemptKind, pair: int = 0) -> Attempt:
    return Attempt(kind, ours=True, pair=pair)


def test_nothing_under_way_admits_everything() -> None:
    quiet = state(child(1))
    assert [admit(quiet, request, child(1)) for request in Request] == [0, 0, 0]


@pytest.mark.parametrize("phase", [Phase.CONNECTING, Phase.REKEYED, Phase.DELETING])
def test_an_ike_sa_that_closes_or_was_rekeyed_admits_nothing(phase: Phase) -> None:
    for request in Request:
        assert admit(state(child(1), phase=phase), request, child(1)) == Notify.TEMPORARY_FAILURE


@pytest.mark.parametrize(
    ("kind", "request_", "verdict"),
    [
        # If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or
        # closing a Child SA of that IKE SA, it SHOULD reply with TEMPORARY_FAILURE.
        (AttemptKind.CREATE_CHILD, Request.REKEY_IKE, Notify.TEMPORARY_FAILURE),
        (AttemptKind.REKEY_CHILD, Request.REKEY_IKE, Notify.TEMPORARY_FAILURE),
        (AttemptKind.DELETE_CHILD, Request.REKEY_IKE, Notify.TEMPORARY_FAILURE),
        # ... to rekey an IKE SA that it is currently rekeying, it SHOULD reply as usual.
        (AttemptKind.REKEY_IKE, Request.REKEY_IKE, 0),
        # ... to create or rekey a Child SA when it is currently rekeying the IKE SA: TEMPORARY_FAILURE.
        (AttemptKind.REKEY_IKE, Request.CREATE_CHILD, Notify.TEMPORARY_FAILURE),
        (AttemptKind.REKEY_IKE, Request.REKEY_CHILD, Notify.TEMPORARY_FAILURE),
        # ... to rekey a Child SA that it is currently rekeying, it SHOULD reply as usual.
        (AttemptKind.REKEY_CHILD, Request.REKEY_CHILD, 0),
        # ... to rekey a Child SA that it is currently trying to close: TEMPORARY_FAILURE.
        (AttemptKind.DELETE_CHILD, Request.REKEY_CHILD, Notify.TEMPORARY_FAILURE),
        (AttemptKind.CREATE_CHILD, Request.CREATE_CHILD, 0),
        (AttemptKind.DELETE_CHILD, Request.CREATE_CHILD, 0),
    ],
)
def test_collisions_are_admitted_as_the_rfc_says(kind: AttemptKind, request_: Request, verdict: int) -> None:
    busy = state(child(1), attempts=(ours(kind, 1 if "CHILD" in kind.name else 0),))
    assert admit(busy, request_, child(1)) == verdict


def test_what_is_closed_here_is_not_found_and_what_may_still_come_is_waited_for() -> None:
    assert admit(state(), Request.REKEY_CHILD, None) == Notify.CHILD_SA_NOT_FOUND
    coming = state(attempts=(ours(AttemptKind.CREATE_CHILD),))
    assert admit(coming, Request.REKEY_CHILD, None) == Notify.TEMPORARY_FAILURE


def test_after_the_peer_has_rekeyed_the_ike_sa_nothing_begins_on_the_old_one() -> None:
    theirs = Attempt(AttemptKind.REKEY_IKE, ours=False, nonce=b"n", result=7)
    for request in Request:
        verdict = admit(state(child(1), attempts=(theirs,)), request, child(1))
        assert verdict == Notify.TEMPORARY_FAILURE


def test_of_four_nonces_exactly_one_end_has_the_lowest_whatever_their_lengths() -> None:
    nonces = [b"\x01" * 16, b"\x01" * 17, b"\x02" + bytes(15), b"\x01" * 15 + b"\x02"]
    for a, b, c, d in permutations(nonces):
        first, second = min(a, b), min(c, d)
        assert collisions.loses(first, second) != collisions.loses(second, first)
        assert collisions.loses(first, second) is (min(nonces) in (a, b))


def test_a_nonce_that_ends_first_is_the_lower_one() -> None:
    assert collisions.loses(b"\x07" * 16, b"\x07" * 16 + b"\x00")
    assert not collisions.loses(b"\x07" * 16 + b"\x00", b"\x07" * 16)


def test_only_what_waits_to_be_sent_on_succeeds_a_closed_pair() -> None:
    waiting = child(2, replaces=1, outbound=object())
    assert collisions.successors(state(child(1), waiting), [1]) == [2]
    assert collisions.successors(state(child(1), child(2, replaces=1)), [1]) == []
    assert collisions.successors(state(child(1), waiting), [1, 2]) == []


# -- what becomes of a state ----------------------------------------------------------------------


def test_changes_come_true_together_or_not_at_all() -> None:
    before = state(child(1))
    with pytest.raises(ImpossibleChange):
        transition(before, (DropChild(1, GONE), AddChild(child(2)), ChangeChild(child(9))))
    assert before == state(child(1))


def test_no_child_without_an_authenticated_peer() -> None:
    stranger = replace(state(phase=Phase.CONNECTING), peer=None)
    with pytest.raises(ImpossibleChange):
        transition(stranger, (AddChild(child(1)),))


def test_a_pair_cannot_be_added_twice() -> None:
    with pytest.raises(ImpossibleChange):
        transition(state(child(1)), (AddChild(child(1)),))


def test_a_handover_takes_children_and_attempts_at_once() -> None:
    busy = state(child(1), child(2), attempts=(ours(AttemptKind.REKEY_IKE),))
    after = transition(busy, (Handover(7),))
    assert (after.phase, after.children, after.attempts, after.successor) == (Phase.REKEYED, (), (), 7)


def test_the_peers_rekey_of_a_child_is_forgotten_with_the_child_unless_ours_is_open() -> None:
    theirs = Attempt(AttemptKind.REKEY_CHILD, ours=False, pair=1, nonce=b"n", result=2)
    mine = ours(AttemptKind.REKEY_CHILD, 1)
    assert transition(state(child(1), attempts=(theirs,)), (DropChild(1),)).attempts == ()
    contested = transition(state(child(1), attempts=(mine, theirs)), (DropChild(1),))
    assert contested.attempts == (mine, theirs)
    assert transition(contested, (ForgetAttempt(mine),)).attempts == ()


def test_early_deletes_are_remembered_while_an_attempt_is_open_and_are_bounded() -> None:
    assert transition(state(), (NoteEarlyDelete(5),)).deleted_early == ()
    busy = state(attempts=(ours(AttemptKind.CREATE_CHILD),))
    after = transition(busy, tuple([NoteEarlyDelete(n) for n in range(100)]))
    assert after.deleted_early[-1] == 99
    assert len(after.deleted_early) <= 16


def test_a_rekey_is_postponed_for_the_ike_sa_and_for_one_child() -> None:
    after = transition(state(child(1), child(2)), (Postpone(0, 5.0), Postpone(2, 6.0), Postpone(9, 7.0)))
    assert after.rekey_at == 5.0
    assert [one.rekey_at for one in after.children] == [0.0, 6.0]


def test_of_pairs_that_carry_one_flow_one_is_announced() -> None:
    rekeyed = ChangeChild(child(1, phase=ChildPhase.REKEYED))
    after = transition(state(child(1)), (rekeyed, AddChild(child(2, replaces=1))))
    assert [(one.pair, one.announced) for one in after.children] == [(1, False), (2, True)]


def test_states_hold_no_more_than_can_be_stored() -> None:
    noted = transition(state(), (NoteAttempt(ours(AttemptKind.CREATE_CHILD)), ChangePhase(Phase.DELETING)))
    assert hash(noted.attempts)
    assert ike_suite(20, 256, 0, 7, 31) is ike_suite(20, 256, 0, 7, 31)


# -- time -----------------------------------------------------------------------------------------


def test_timers_wake_in_order_and_only_for_the_last_time_set() -> None:
    timers: Timers[int] = Timers()
    timers.arm(1, 5.0)
    timers.arm(2, 3.0)
    timers.arm(1, 1.0)
    timers.arm(1, 4.0)
    assert timers.next() == 3.0
    assert timers.pop_due(2.9) is None
    assert (timers.pop_due(10.0), timers.pop_due(10.0), timers.pop_due(10.0)) == (2, 1, None)
    assert timers.next() is None


def test_timers_agree_with_a_plain_list_and_stay_small() -> None:
    random = Random(1)
    timers: Timers[int] = Timers()
    plain: dict[int, float] = {}
    for _ in range(20_000):
        key = random.randrange(50)
        due = random.choice((None, random.random() * 1000))
        timers.arm(key, due)
        if due is None:
            plain.pop(key, None)
        else:
            plain[key] = due
        if random.random() < 0.1:
            assert timers.next() == min(plain.values(), default=None)
        if plain and random.random() < 0.05:
            now = min(plain.values())
            woken = timers.pop_due(now)
            assert woken is not None
            assert plain.pop(woken) == now
    assert len(timers) == len(plain)
    assert len(timers._heap) <= 2 * len(plain) + 65


def test_deadlines_are_jittered_downward_and_zero_is_never() -> None:
    connection = Connection("c", (), (), (), (), rekey_time=100.0, rand_time=20.0, over_time=10.0)
    entropy = SeededEntropy(1)
    soft = [ike_deadlines(connection, 1000.0, entropy)[0] for _ in range(200)]
    assert 1080.0 <= min(soft) < 1085.0
    assert 1095.0 < max(soft) <= 1100.0
    assert ike_deadlines(connection, 1000.0, entropy)[2] == 1110.0
    never = replace(connection, rekey_time=0.0)
    assert ike_deadlines(never, 1000.0, entropy) == (0.0, 0.0, 0.0)


def test_jitter_larger_than_the_lifetime_leaves_half_of_it() -> None:
    fast = Child("c", (), (), (), rekey_time=10.0, rand_time=100.0, life_time=12.0)
    for seed in range(50):
        soft, hard = child_deadlines(fast, 0.0, SeededEntropy(seed))
        assert 5.0 <= soft <= 10.0
        assert hard == 12.0


@pytest.mark.parametrize(
    ("left", "least", "most"), [(100.0, 10.0, 20.0), (20.0, 5.0, 10.0), (2.0, 1.0, 2.0), (0.01, 1.0, 2.0)]
)
def test_tries_do_not_come_ever_faster_towards_the_hard_end(left: float, least: float, most: float) -> None:
    for seed in range(50):
        assert least <= pause_before_retry(1000.0, 1000.0 + left, SeededEntropy(seed)) <= most


def test_volumes_are_jittered_and_zero_means_no_limit() -> None:
    worn = Child("c", (), (), (), rekey_bytes=1000, rand_bytes=100, life_bytes=1200, life_packets=7)
    volume = child_volume(worn, SeededEntropy(3))
    assert 900 <= volume.soft_bytes <= 1000
    assert (volume.hard_bytes, volume.soft_packets, volume.hard_packets) == (1200, 0, 7)


def test_the_history_keeps_the_newest() -> None:
    history = History()
    for number in range(SIZE + 5):
        history.add(Entry(float(number), f"c{number % 2}", "", True, "peer", GONE))
    assert len(history) == SIZE
    assert next(iter(history)).wall == 5.0
    assert {entry.connection for entry in history.of("c1")} == {"c1"}


# -- the door -------------------------------------------------------------------------------------


def test_a_cookie_is_good_for_its_request_address_and_time_only() -> None:
    cookies = Cookies(SeededEntropy(1))
    nonce, spi = b"n" * 32, b"s" * 8
    cookie = cookies.make(nonce, REMOTE, spi, 100.0)
    assert len(cookie) <= 64
    assert cookies.good(cookie, nonce, REMOTE, spi, 100.0)
    assert cookies.good(cookie, nonce, REMOTE, spi, 100.0 + SECRET_LIFE)
    assert not cookies.good(cookie, b"m" * 32, REMOTE, spi, 100.0)
    assert not cookies.good(cookie, nonce, LOCAL, spi, 100.0)
    assert not cookies.good(cookie, nonce, REMOTE, b"t" * 8, 100.0)
    for wrong in (b"", cookie[:-1], cookie + b"\0", bytes(17), bytes((cookie[0] ^ 1,)) + cookie[1:]):
        assert not cookies.good(wrong, nonce, REMOTE, spi, 100.0)


def test_two_cookie_secrets_live_and_no_more() -> None:
    cookies = Cookies(SeededEntropy(1))
    nonce, spi = b"n" * 32, b"s" * 8
    cookie = cookies.make(nonce, REMOTE, spi, 0.0)
    cookies.make(nonce, REMOTE, spi, SECRET_LIFE + 1)
    assert cookies.good(cookie, nonce, REMOTE, spi, SECRET_LIFE + 1)
    cookies.make(nonce, REMOTE, spi, 2 * SECRET_LIFE + 2)
    assert not cookies.good(cookie, nonce, REMOTE, spi, 2 * SECRET_LIFE + 2)


def test_after_a_calm_no_old_cookie_is_good() -> None:
    cookies = Cookies(SeededEntropy(1))
    cookie = cookies.make(b"n" * 32, REMOTE, b"s" * 8, 0.0)
    assert not cookies.good(cookie, b"n" * 32, REMOTE, b"s" * 8, 10 * SECRET_LIFE)


class _Sa:
    def __init__(self, number: int) -> None:
        self.unique_id = number


def test_half_open_sas_are_counted_by_who_owns_the_address() -> None:
    table = HalfOpen()
    sas: list[Any] = [_Sa(n) for n in range(6)]
    addresses: list[IpAddress] = [
        ip_address(text)
        for text in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    ]
    for number, (sa, address) in enumerate(zip(sas, addresses, strict=True)):
        table.add(sa, address, b"%08d" % number, b"d")
    assert [table.of_source(address) for address in addresses] == [2, 2, 1, 2, 2, 1]
    assert table.find(addresses[0], b"00000001", b"d") is sas[1]
    assert table.find(addresses[0], b"00000001", b"e") is None
    for sa in (*sas, *sas):
        table.release(sa)
    assert len(table) == 0
    assert table.find(addresses[0], b"00000001", b"d") is None
    assert table.of_source(addresses[0]) == 0


def test_strangers_are_answered_at_a_rate_and_their_number_is_bounded() -> None:
    limit = RateLimit(rate=10.0, burst=5.0)
    assert [limit.allows(REMOTE, 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limit.allows(LOCAL, 0.0)
    assert not limit.allows(REMOTE, 0.05)
    assert limit.allows(REMOTE, 0.2)
    for number in range(MAX_SOURCES + 100):
        limit.allows(ip_address(number), 1.0)
    assert len(limit._buckets) == MAX_SOURCES


# -- lookup ---------------------------------------------------------------------------------------


def connection(name: str, remote: str = "", id_: str | None = None, **changes: Any) -> Connection:
    ranges: tuple[AddressRange, ...] = ()
    if remote:
        first, _, last = remote.partition("-")
        ranges = (AddressRange(ip_address(first), ip_address(last or first)),)
    identity = None if id_ is None else Identity.parse(id_)
    return Connection(
        name,
        parse_proposals("aes128-sha256-x25519", Protocol.IKE),
        (LocalAuth(AuthClass.PSK),),
        (RemoteAuth(AuthClass.PSK, identity),),
        (),
        remote_addrs=ranges,
        **changes,
    )


def book(*connections: Connection) -> Connections:
    made = Connections()
    for one in connections:
        made.add(one, ())
    return made


def names(found: Any) -> list[str]:
    return [loaded.connection.name for loaded in found]


def test_the_connection_with_the_very_address_comes_first() -> None:
    made = book(
        connection("any"),
        connection("range", "192.0.2.0-192.0.2.255"),
        connection("exact", "192.0.2.2"),
        connection("other", "192.0.2.3"),
    )
    assert names(made.for_address(LOCAL, REMOTE)) == ["exact", "any", "range"]


def test_a_connection_of_another_local_address_is_not_meant() -> None:
    elsewhere = (AddressRange(ip_address("198.51.100.1"), ip_address("198.51.100.1")),)
    made = book(connection("elsewhere", "192.0.2.2", local_addrs=elsewhere))
    assert names(made.for_address(LOCAL, REMOTE)) == []
    assert names(made.for_address(elsewhere[0].first, REMOTE)) == ["elsewhere"]


def test_an_identity_finds_those_that_name_it_most_closely_and_no_others() -> None:
    made = book(
        connection("all"),
        connection("pattern", id_="*.example"),
        connection("own", id_="moon.example"),
        connection("other", id_="sun.example"),
    )

    def found(identity: str) -> list[str]:
        return names(made.for_identity(LOCAL, REMOTE, Identity.parse(identity), 2))

    assert found("moon.example") == ["own"]
    assert found("MOON.example") == ["own"]
    assert found("mars.example") == ["pattern"]
    assert found("mars.test") == ["all"]


def test_a_removed_connection_is_found_by_nothing() -> None:
    made = book(connection("a", "192.0.2.2", "moon.example"), connection("b"))
    made.remove("a")
    made.remove("a")
    assert names(made.for_address(LOCAL, REMOTE)) == ["b"]
    assert names(made.for_identity(LOCAL, REMOTE, Identity.parse("moon.example"), 2)) == ["b"]
    assert made.get("a") is None


def test_flows_are_numbered_for_the_whole_gateway() -> None:
    made = Connections()
    flows = (made.number(), made.number())
    one = Child("c", (), (), ())
    made.add(connection("a"), (LoadedChild(one, made.number(), flows),))
    owner = made.owner(flows[1])
    assert owner is not None
    assert (owner.connection, owner.child, owner.index) == ("a", "c", 1)
    made.remove("a")
    assert made.owner(flows[1]) is None


# -- NAT (RFC 7296, section 2.23) -----------------------------------------------------------------


def seen_through(path: Path, *, pretend: bool = False, natted: Path | None = None) -> tuple[bool, bool, bool]:
    """What the receiver of a message finds that was sent on `path` and arrives as `natted` shows."""
    header = Header(b"i" * 8, b"r" * 8, 0, 2, 0, Exchange.IKE_SA_INIT, Flags.RESPONSE, 0)
    message = Message(header, nat.notifies(b"i" * 8, b"r" * 8, path, pretend=pretend))
    shown = natted or path
    arrived = Path(shown.remote, shown.remote_port, shown.local, shown.local_port)
    return nat.detect(message, arrived)


def test_without_a_nat_nobody_is_behind_one() -> None:
    assert seen_through(PATH) == (False, False, False)


def test_a_changed_source_means_that_the_sender_is_behind_a_nat() -> None:
    public = Path(ip_address("203.0.113.1"), 61000, REMOTE, 500)
    assert seen_through(PATH, natted=public)[:2] == (False, True)


def test_a_changed_destination_means_that_the_receiver_is() -> None:
    assert seen_through(PATH, natted=Path(LOCAL, 500, ip_address("10.0.0.2"), 500))[:2] == (True, False)


def test_a_changed_port_alone_counts() -> None:
    assert seen_through(PATH, natted=replace(PATH, local_port=1024))[:2] == (False, True)


def test_without_the_notifies_there_is_no_nat_traversal() -> None:
    header = Header(b"i" * 8, b"r" * 8, 0, 2, 0, Exchange.IKE_SA_INIT, Flags.RESPONSE, 0)
    assert nat.detect(Message(header, ()), PATH) == (False, False, False)


def test_the_digest_is_sha1_of_spis_address_and_port() -> None:
    expected = hashlib.sha1(b"i" * 8 + bytes(8) + bytes((192, 0, 2, 1)) + b"\x01\xf4").digest()
    assert nat.digest(b"i" * 8, bytes(8), LOCAL, 500) == expected


# -- sealing (RFC 7296, section 3.14; RFC 5282; RFC 7383) -----------------------------------------

SUITES = [
    ike_suite(Encr.AES_GCM_16, 256, 0, Prf.PRF_HMAC_SHA2_256, KeMethod.CURVE_25519),
    ike_suite(Encr.AES_CBC, 128, Integ.HMAC_SHA2_256_128, Prf.PRF_HMAC_SHA2_256, KeMethod.CURVE_25519),
    ike_suite(Encr.AES_CTR, 256, Integ.HMAC_SHA2_512_256, Prf.PRF_HMAC_SHA2_256, KeMethod.CURVE_25519),
    ike_suite(Encr.CHACHA20_POLY1305, 0, 0, Prf.PRF_HMAC_SHA2_256, KeMethod.CURVE_25519),
]
HEADER = Header(b"i" * 8, b"r" * 8, 0, 2, 0, Exchange.INFORMATIONAL, Flags.INITIATOR, 5)


def keys_for(suite: Any) -> IkeKeys:
    ciphers = protection.cipher_suite(suite)
    encr, auth = ciphers.encryption_key_length, ciphers.integrity_key_length
    return IkeKeys(b"d" * 32, b"a" * auth, b"b" * auth, b"e" * encr, b"f" * encr, b"p" * 32, b"q" * 32)


def opened(datagram: bytes, suite: Any, keys: IkeKeys, by_initiator: bool) -> bytes:
    payload = decode(datagram).payloads[-1]
    assert isinstance(payload, EncryptedPayload | EncryptedFragmentPayload)
    return protection.open_sealed(datagram, payload, suite, keys, by_initiator)


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_sealed_opens_with_the_same_keys_and_direction_only(suite: Any) -> None:
    keys = keys_for(suite)
    for size in range(16, 60):
        payloads = (NoncePayload(b"n" * size),)
        (datagram,) = protection.seal(HEADER, payloads, suite, keys, True, 0, SeededEntropy(1))
        assert opened(datagram, suite, keys, True)[4:] == b"n" * size
        with pytest.raises(IntegrityFailure):
            opened(datagram, suite, keys, False)


@pytest.mark.parametrize("suite", SUITES)
def test_every_octet_of_a_sealed_message_is_protected(suite: Any) -> None:
    keys = keys_for(suite)
    payload = (NotifyPayload(0, b"", Notify.INITIAL_CONTACT, b""),)
    (datagram,) = protection.seal(HEADER, payload, suite, keys, True, 0, SeededEntropy(1))
    sealed = decode(datagram).payloads[0]
    assert isinstance(sealed, EncryptedPayload)
    for position in range(len(datagram)):
        broken = bytearray(datagram)
        broken[position] ^= 0x01
        body = bytes(broken[sealed.offset + 4 :])
        with pytest.raises(IntegrityFailure):
            protection.open_sealed(bytes(broken), replace(sealed, body=body), suite, keys, True)


def test_an_empty_message_is_sealed_and_opened() -> None:
    (datagram,) = protection.seal(HEADER, (), SUITES[0], keys_for(SUITES[0]), True, 0, SeededEntropy(1))
    assert opened(datagram, SUITES[0], keys_for(SUITES[0]), True) == b""


def test_counters_give_each_datagram_an_iv_of_its_own() -> None:
    suite, keys = SUITES[0], keys_for(SUITES[0])
    limit = protection.Limit(600, 4, marker=True)
    payloads = tuple([NoncePayload(bytes((n,)) * 250) for n in range(8)])
    datagrams = protection.seal(HEADER, payloads, suite, keys, True, 1000, SeededEntropy(1), limit)
    assert len(datagrams) > 3
    ivs = [decode(datagram).payloads[-1].body[:8] for datagram in datagrams]  # type: ignore[union-attr]
    assert ivs == [(1000 + n).to_bytes(8, "big") for n in range(len(datagrams))]


@pytest.mark.parametrize(("suite", "family"), list(product(SUITES, (4, 6))))
def test_fragments_fit_and_together_are_the_message(suite: Any, family: int) -> None:
    keys = keys_for(suite)
    limit = protection.Limit(576, family, marker=True)
    payloads = tuple([NoncePayload(bytes((n,)) * 256) for n in range(10)])
    datagrams = protection.seal(HEADER, payloads, suite, keys, True, 0, SeededEntropy(1), limit)
    outside = (20 if family == 4 else 40) + 8 + 4
    assert all(len(datagram) + outside <= 576 for datagram in datagrams)
    parts = []
    for number, datagram in enumerate(datagrams, 1):
        payload = decode(datagram).payloads[-1]
        assert isinstance(payload, EncryptedFragmentPayload)
        assert (payload.number, payload.total) == (number, len(datagrams))
        assert bool(payload.first_inner) is (number == 1)
        parts.append(opened(datagram, suite, keys, True))
    assert b"".join(parts).count(b"\x09" * 256) == 1
    assert len(b"".join(parts)) == 10 * 260
