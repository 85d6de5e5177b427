"""What strangers and hostile peers may cost: memory, key exchanges, octets sent, lines logged.

Before an address is proved: no state beyond a bounded, expiring entry, no more octets than half as many
again as came, nothing unasked for. Behind a proof: bounds on children, on IKE SAs and on rekeys. Counted,
not timed.
"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import cast

import pytest

from cygnet.crypto import kdf, key_exchange
from cygnet.daemon.log import Severity, Sink
from cygnet.ike import admission, endpoint
from cygnet.ike.configuration import AuthClass, LocalAuth, RemoteAuth, Unique
from cygnet.ike.errors import Drop, Reason
from cygnet.ike.events import Dropped
from cygnet.ike.sa import CONFIRM_AFTER
from cygnet.ike.v2 import create_child_sa, ike_sa_init
from cygnet.ike.v2.fragments import MAX_CONTENT
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.ike.world import Path
from cygnet.testing import corpus
from cygnet.testing.mutate import mutate
from cygnet.wire.message import decode, encode, encode_payloads
from cygnet.wire.numbers import Exchange, KeMethod, Notify, Protocol
from cygnet.wire.payloads import (
    DeletePayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
)
from tests.unit.auth_material import ca
from tests.unit.ike_by_hand import PATH, Sun, connection, ike_proposal, with_secret
from tests.unit.security_by_hand import (
    ELSEWHERE,
    MOON,
    OPEN_DOOR,
    ROLES,
    SECRET,
    SUN,
    Talk,
    Watched,
    everything,
    first_request,
    good_first,
    notifies,
    psk_connection,
    seal_fragment,
    seal_raw,
    store,
    with_fixed_length,
)


def from_(number: int, port: int = 500) -> Path:
    """A stranger's path: one of many addresses."""
    return replace(PATH, remote=IPv4Address(0xC6120000 + number), remote_port=port)


def numbered(number: int) -> bytes:
    return (1 << 40 | number).to_bytes(8, "big")


def everybody() -> Watched:
    """A gateway that anybody may speak to."""
    return Watched(replace(psk_connection(), remote_addrs=()))


class Counted:
    """How many keys were made for key exchanges meanwhile."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.keys = 0
        genuine = key_exchange.respond

        def respond(group: int, public: bytes, entropy: object) -> object:
            self.keys += 1
            return genuine(group, public, entropy)  # type: ignore[arg-type]

        patch.setattr(ike_sa_init, "respond_to", respond)


# T1: floods


def test_t1_a_spoofed_flood_leaves_a_bounded_number_of_entries_and_costs_no_key_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once half-open SAs are many: no state, no key, before a cookie has come back."""
    moon = everybody()
    counted = Counted(monkeypatch)
    for number in range(3000):
        moon.receive(first_request(spi=numbered(number)), from_(number))
    limit = moon.endpoint.options.cookie_threshold
    assert len(moon.endpoint.half_open) == limit
    assert counted.keys == limit
    last = decode(moon.sent[-1])
    assert notifies(last) == [Notify.COOKIE]
    # One who receives at its address gets in.
    cookie = last.one(NotifyPayload)
    answer = moon.receive(first_request([cookie, *good_first()], spi=numbered(2999)), from_(2999))
    assert decode(answer[0]).one(SaPayload)
    moon.wait(31)
    assert len(moon.endpoint.half_open) == 0
    assert moon.endpoint.by_number == {}
    # Calm again: no cookie is asked for.
    assert decode(moon.receive(first_request(spi=numbered(9)), from_(9))[0]).one(SaPayload)


def test_t1_a_cookie_serves_one_address_one_nonce_one_spi_and_a_short_time() -> None:
    moon = everybody()
    for number in range(40):
        moon.receive(first_request(spi=numbered(number)), from_(number))
    cookie = decode(moon.sent[-1]).one(NotifyPayload)
    held = len(moon.endpoint.half_open)
    sa, ke, _ = good_first()
    bent = replace(cookie, data=cookie.data[:-1] + bytes((cookie.data[-1] ^ 1,)))
    for odd, path in (
        (first_request([cookie, *good_first()], spi=numbered(39)), from_(40)),
        (first_request([cookie, *good_first()], spi=numbered(38)), from_(39)),
        (first_request([cookie, sa, ke, NoncePayload(b"\x34" * 32)], spi=numbered(39)), from_(39)),
        (first_request([bent, *good_first()], spi=numbered(39)), from_(39)),
        (first_request([replace(cookie, data=b"x"), *good_first()], spi=numbered(39)), from_(39)),
    ):
        (answer,) = moon.receive(odd, path)
        assert notifies(decode(answer)) == [Notify.COOKIE]
        assert len(moon.endpoint.half_open) == held
        assert moon.drops[-1] == "cookie-invalid"
    moon.wait(2 * admission.SECRET_LIFE + 1)
    for number in range(100, 140):
        moon.receive(first_request(spi=numbered(number)), from_(number))
    (answer,) = moon.receive(first_request([cookie, *good_first()], spi=numbered(39)), from_(39))
    assert notifies(decode(answer)) == [Notify.COOKIE]


def test_t1_a_flood_writes_a_bounded_number_of_log_lines() -> None:
    """B13: 20 lines at once, then 5 a second for each kind; what was held back is counted."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sink = Sink(Severity.DEBUG, descriptor=writer)
    moon = everybody()
    for number in range(3000):
        moon.receive(first_request(spi=numbered(number)), from_(number % 50))
        moon.receive(numbered(number), from_(number % 50))
    dropped = [event for event in moon.events if isinstance(event, Dropped)]
    for event in dropped:
        sink.tell(event)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        lines = stream.read().splitlines()
    assert len(dropped) == 3000
    assert len(lines) < 200
    assert sink.held + sink.lost + len(lines) == len(dropped)


# T2: neighbours


def test_t2_one_who_leaves_his_own_half_open_does_not_keep_his_neighbours_out() -> None:
    """RFC 8019, section 4: behind one address are a hostile one, twenty times a second, and an honest one."""
    moon = everybody()
    path, honest = from_(7, 1024), from_(7, 2048)
    number = 0

    def attack(seconds: float) -> None:
        nonlocal number
        for _ in range(int(seconds * 20)):
            number += 1
            spi = numbered(number)
            (answer,) = moon.receive(first_request(spi=spi), path) or [b""]
            if answer and decode(answer).notify(Notify.COOKIE) is not None:
                cookie = decode(answer).one(NotifyPayload)
                moon.receive(first_request([cookie, *good_first()], spi=spi), path)
            moon.wait(0.05)

    attack(5)
    passed = 0
    for attempt in range(10):
        sun = Sun(True, spi_i=bytes((attempt + 1,)) * 8, nonce=bytes((attempt + 50,)) * 32)
        sun.first(cast(Watched, There(moon, honest)))
        attack(0.1)  # the time for a message to go and an answer to come
        before = len(moon.established)
        proof = sun.authentication(SUN, with_secret(SECRET))
        moon.receive(sun.seal(proof, Exchange.IKE_AUTH, 1), honest)
        passed += len(moon.established) - before
        assert moon.endpoint.half_open.of_source(path.remote) <= moon.endpoint.options.block_threshold
    assert passed >= 9


class There:
    """The same gateway, all that is said to it coming from one path."""

    def __init__(self, moon: Watched, path: Path) -> None:
        self._moon, self._path = moon, path

    def receive(self, datagram: bytes) -> list[bytes]:
        return self._moon.receive(datagram, self._path)


def test_t2_the_pace_at_which_places_change_hands_is_bounded_for_each_source() -> None:
    moon = everybody()
    path = from_(7)
    for number in range(4000):
        spi = numbered(number)
        answers = moon.receive(first_request(spi=spi), path)
        for answer in answers:
            cookie = decode(answer).notify(Notify.COOKIE)
            if cookie is not None:
                moon.receive(first_request([cookie, *good_first()], spi=spi), path)
    assert (
        moon.endpoint._last_number
        <= moon.endpoint.options.block_threshold + endpoint.NEWCOMERS_PER_SECOND + 1
    )
    assert Counter(moon.drops)["half-open-limit"] > 3000
    # All of an IPv6 subscriber's /64 is one source.
    for number in range(50):
        six = replace(PATH, local=ip_address("2001:db8::1"), remote=IPv6Address((0x20010DB8 << 96) + number))
        moon.receive(first_request(spi=numbered(number)), six)
    assert moon.endpoint.half_open.of_source(IPv6Address((0x20010DB8 << 96) + 99)) <= 5


# T4, T6: half-open SAs


def test_t4_junk_on_a_half_open_sa_costs_a_check_each_and_the_real_one_still_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = Talk(True)
    counted = Counted(monkeypatch)
    derived = Counter[str]()

    def derive(*arguments: object) -> object:
        derived.update(["keys"])
        return kdf.ike_sa_keys(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ike_sa_init, "ike_sa_keys", derive)
    good = talk.sun.seal(talk.good(), Exchange.IKE_AUTH, 1)
    before = talk.moon.picture()
    for number in range(5000):
        junk = good[:32] + random.Random(number).randbytes(len(good) - 32)
        assert talk.moon.receive(junk) == []
    assert counted.keys == derived.total() == 0
    assert talk.moon.picture() == before
    assert set(talk.moon.drops) == {"integrity"}
    talk.authenticate()
    assert len(talk.moon.established) == 1


def test_t6_fragments_of_strangers_are_bounded_each_and_in_all() -> None:
    """A thousand half-open SAs, each with as many fragments as it gets in."""
    moon = Watched(replace(psk_connection(), remote_addrs=()), options=OPEN_DOOR)
    template = Talk(True, moon, spi=numbered(1))
    (sa,) = [sa for sa in moon.endpoint.by_number.values() if isinstance(sa, IkeV2Sa)]
    for number in range(2, 250):
        datagram = seal_fragment(template.sun, number, 255, bytes(1100), Exchange.IKE_AUTH, 1)
        moon.receive(datagram)
    assert sa.reassembly is None or sa.reassembly.octets <= MAX_CONTENT
    assert moon.endpoint.half_open._octets <= MAX_CONTENT
    held = 0
    for number in range(2, 1000):
        talk = Talk(True, moon, spi=numbered(number), nonce=number.to_bytes(32, "big"))
        for at in (2, 3):
            chunk = bytes(25_000)
            moon.receive(seal_fragment(talk.sun, at, 9, chunk, Exchange.IKE_AUTH, 1))
        held = max(held, moon.endpoint.half_open._octets)
    assert held <= admission.MAX_FRAGMENTS
    assert Counter(moon.drops)["fragment"] > 200
    moon.wait(31)
    assert moon.endpoint.half_open._octets == 0
    assert moon.endpoint.half_open._held == {}
    assert moon.endpoint.by_number == {}


@ROLES
def test_t6_fragments_of_a_peer_are_bounded_and_forgotten_in_time(we_answer: bool) -> None:
    talk = Talk(we_answer).established()
    moon, sun = talk.moon, talk.sun
    moon.wait(20)
    chunk = bytes(60_000)
    moon.receive(seal_fragment(sun, 2, 3, chunk, Exchange.INFORMATIONAL, talk.next_id))
    (sa,) = [sa for sa in moon.endpoint.by_number.values() if isinstance(sa, IkeV2Sa)]
    assert sa.reassembly is not None
    moon.receive(seal_fragment(sun, 3, 3, chunk, Exchange.INFORMATIONAL, talk.next_id))
    assert moon.drops[-1] == "fragment"
    assert sa.reassembly is None or sa.reassembly.octets <= MAX_CONTENT
    moon.receive(seal_fragment(sun, 2, 2, b"x", Exchange.INFORMATIONAL, talk.next_id))
    assert sa.reassembly is not None
    # A wait between two fragments is no harm, however long the peer was silent before; too long a one is.
    moon.wait(20)
    assert sa.reassembly is not None
    moon.wait(11)
    assert sa.reassembly is None
    assert talk.ask(Exchange.INFORMATIONAL, []) is not None


@ROLES
def test_t6_a_message_whose_fragments_come_slowly_after_a_long_silence_is_put_together(
    we_answer: bool,
) -> None:
    talk = Talk(we_answer).established()
    if we_answer:
        talk.ask(Exchange.INFORMATIONAL, [])
    talk.moon.wait(500)
    first, content = encode_payloads([NotifyPayload(0, b"", 40961, bytes(900))])
    datagrams = [
        seal_fragment(
            talk.sun, n, 3, content[(n - 1) * 400 : n * 400], Exchange.INFORMATIONAL, talk.next_id,
            first=first if n == 1 else 0,
        )
        for n in (1, 2, 3)
    ]  # fmt: skip
    for datagram in datagrams[:2]:
        assert talk.moon.receive(datagram) == []
        talk.moon.wait(1)
    (answer,) = talk.moon.receive(datagrams[2])
    assert talk.sun.open(answer).payloads == ()
    # Only the first fragment asks for the answer again (RFC 7383, section 2.6.1).
    assert talk.moon.receive(datagrams[1]) == talk.moon.receive(datagrams[2]) == []
    assert talk.moon.receive(datagrams[0]) == [answer]


# T8, B12: octets out for octets in


def amplification(moon: Watched, datagram: bytes, path: Path = PATH) -> float:
    moon.receive(datagram, path)  # so that all of a source's answers are counted, not the first alone
    before = moon.bytes_out
    moon.receive(datagram, path)
    return (moon.bytes_out - before) / len(datagram)


def strangers_messages() -> Iterable[bytes]:
    """Requests of every kind from nobody: small and large, right and wrong."""
    yield first_request()
    yield first_request([*good_first()[:2], NoncePayload(b"\x33" * 16)])
    sa, ke, nonce = good_first(b"\x33" * 16)
    yield first_request([sa, KePayload(KeMethod.ECP_256, b""), nonce])
    (proposal,) = ike_proposal().proposals
    yield first_request([SaPayload((replace(proposal, transforms=()),)), KePayload(0, b""), nonce])
    yield first_request([sa, ke, nonce, NotifyPayload(0, b"", Notify.SIGNATURE_HASH_ALGORITHMS, b"\0\2")])
    yield first_request([sa, ke, nonce, NotifyPayload(0, b"", Notify.NAT_DETECTION_SOURCE_IP, bytes(20))])
    talk = Talk(True)
    for spi in (bytes(8), b"\x22" * 8):
        sun = replace(talk.sun, spi_r=spi)
        for exchange, payloads in everything(talk):
            yield encode(sun.header(exchange, 0, response=False), payloads)
            yield sun.seal(payloads, exchange, 0)
            yield sun.seal(payloads, exchange, 0, response=True)
    for version in (0x10, 0x11, 0x30, 0xF0):
        for size in (28, 29, 36, 300):
            yield (
                first_request([])[:17]
                + bytes((version,))
                + first_request([])[18:24]
                + size.to_bytes(4, "big")
                + bytes(size - 28)
            )
    yield from corpus.clear_messages().values()
    for size in (0, 1, 4, 27, 28, 29, 100, 1400):
        yield b"\xff" * size


def test_t8_b12_no_stranger_gets_half_as_much_again_as_it_sent() -> None:
    for number, datagram in enumerate(strangers_messages()):
        if not datagram:
            continue
        for moon in (Watched(), everybody()):
            assert amplification(moon, datagram) <= 1.5, number
            assert amplification(moon, with_fixed_length(datagram.ljust(28, b"\0"))) <= 1.5, number


@pytest.mark.parametrize("authorities", [0, 1, 3, 8, 40])
def test_t8_b12_however_many_authorities_are_asked_for(authorities: int) -> None:
    """CERTREQ names each CA with 20 octets: where that is too much, a cookie proves the address first."""
    credentials = store()
    made = [ca(f"CN=CA {n}") for n in range(authorities)]
    for one in made:
        credentials.add_certificate(one.der, ca=True)
    remote = RemoteAuth(AuthClass.PUBKEY, SUN, ca_certificates=tuple([one.der for one in made]))
    way = connection("peer", LocalAuth(AuthClass.PSK, MOON), remote) if made else psk_connection()
    moon = Watched(way, credentials=credentials)
    sa, ke, nonce = good_first(b"\x33" * 16)
    detection = [
        NotifyPayload(0, b"", kind, bytes(20))
        for kind in (Notify.NAT_DETECTION_SOURCE_IP, Notify.NAT_DETECTION_DESTINATION_IP)
    ]
    for number, extra in enumerate(([], detection)):
        datagram = first_request([sa, ke, nonce, *extra], spi=numbered(number))
        (answer,) = moon.receive(datagram)
        assert len(answer) <= 1.5 * len(datagram)
        cookie = decode(answer).notify(Notify.COOKIE)
        if cookie is not None:
            (answer,) = moon.receive(first_request([cookie, sa, ke, nonce, *extra], spi=numbered(number)))
        assert decode(answer).one(SaPayload)


def test_t8_under_load_no_stranger_gets_more_than_it_sent() -> None:
    moon = everybody()
    for number in range(40):
        moon.receive(first_request(spi=numbered(number)), from_(number))
    for number, datagram in enumerate(strangers_messages()):
        if len(datagram) < 28 or datagram[17] >> 4 != 2:
            continue
        path = from_(1000 + number)
        before = moon.bytes_out
        moon.receive(datagram, path)
        assert moon.bytes_out - before <= len(datagram), number


def test_t8_v39_a_responder_says_nothing_by_itself_until_the_peer_is_authenticated() -> None:
    """CVE-2016-5361: a responder's retransmissions amplify. There are none, whatever is half done."""
    moon = everybody()
    for number, datagram in enumerate(strangers_messages()):
        if datagram:
            moon.receive(datagram, from_(number))
    Talk(True, moon, spi=numbered(1))
    refused = Talk(True, moon, spi=numbered(2))
    refused.authenticate(refused.sun.authentication(SUN, with_secret(b"x" * 32)))
    sent = len(moon.sent)
    moon.wait(600)
    assert len(moon.sent) == sent
    moon.nothing_left()


def test_t8_refusals_are_rationed_for_each_source() -> None:
    moon = Watched()
    (proposal,) = ike_proposal().proposals
    wrong = SaPayload((replace(proposal, transforms=()),))
    refused = [wrong, *good_first()[1:]]
    unknown = encode(
        replace(Sun(True).header(Exchange.INFORMATIONAL, 5, response=False)), [NotifyPayload(0, b"", 1, b"")]
    )
    for _ in range(10):
        before = len(moon.sent)
        for number in range(500):
            moon.receive(first_request(refused, spi=numbered(number)))
            moon.receive(unknown)
        assert len(moon.sent) - before <= endpoint.ANSWERS_PER_SECOND + 1
        moon.wait(1.0)
    # Others are not made to pay for it, and history holds no more than what was told.
    assert moon.receive(unknown, from_(3)) != []
    assert len(moon.failures) <= 101
    assert len(moon.endpoint.history) <= 200


@ROLES
def test_t8_a_repeat_of_a_request_from_elsewhere_is_answered_in_measure(we_answer: bool) -> None:
    """Who has seen a request may send it in a third one's name: that one gets a few answers a second."""
    talk = Talk(we_answer).established()
    request = talk.sun.seal(talk.child_request(), Exchange.CREATE_CHILD_SA, talk.next_id)
    (answer,) = talk.moon.receive(request)
    sent = len(talk.moon.sent)
    for _ in range(1000):
        talk.moon.receive(request, ELSEWHERE)
    assert len(talk.moon.sent) - sent <= endpoint.ANSWERS_PER_SECOND + 1
    assert talk.moon.drops[-1] == "rate-limit"
    # The peer itself is answered as often as it asks (RFC 7296, section 2.1).
    assert all(talk.moon.receive(request) == [answer] for _ in range(100))


def test_the_memory_of_the_rate_limits_is_bounded() -> None:
    limit = admission.RateLimit(1.0, 1.0)
    for number in range(3 * admission.MAX_SOURCES):
        limit.allows(IPv4Address(number), 0.0)
    assert len(limit._buckets) <= admission.MAX_SOURCES


# V31: memory


def sites() -> dict[str, Callable[[Watched, Talk, int], object]]:
    """Places where a message is found wrong, in the order of its way through."""
    clear = list(corpus.clear_messages().values())
    inner = list(corpus.plaintexts().values())
    sa, ke, nonce = good_first()
    (proposal,) = ike_proposal().proposals

    def sealed(moon: Watched, talk: Talk, number: int) -> object:
        exchange, _, first, octets = inner[number % len(inner)]
        broken = mutate(octets, random.Random(number % 150), [octets])
        return moon.receive(seal_raw(talk.sun, first, broken, exchange, 77))

    def mutated(moon: Watched, talk: Talk, number: int) -> object:
        odd = mutate(clear[number % 150 % len(clear)], random.Random(number % 150), clear)
        return moon.receive(with_fixed_length(odd.ljust(28)))

    return {
        "header": lambda moon, talk, n: moon.receive(first_request()[: n % 28]),
        "payload": mutated,
        "legality": lambda moon, talk, n: moon.receive(
            first_request([sa, ke, nonce, nonce], spi=numbered(n))
        ),
        "no agreement": lambda moon, talk, n: moon.receive(
            first_request([SaPayload((replace(proposal, transforms=()),)), ke, nonce], spi=numbered(n)),
            from_(n),
        ),
        "no connection": lambda moon, talk, n: moon.receive(first_request(spi=numbered(n)), from_(n)),
        "bad value": lambda moon, talk, n: moon.receive(
            first_request([sa, KePayload(KeMethod.CURVE_25519, bytes(32)), nonce], spi=numbered(n))
        ),
        "cookie": lambda moon, talk, n: moon.receive(
            first_request([NotifyPayload(0, b"", Notify.COOKIE, bytes(20)), sa, ke, nonce], spi=numbered(n))
        ),
        "unknown SPI": lambda moon, talk, n: moon.receive(
            replace(talk.sun, spi_r=numbered(n)).seal([], Exchange.INFORMATIONAL, 1), from_(n)
        ),
        "integrity": lambda moon, talk, n: moon.receive(
            talk.sun.seal([], Exchange.INFORMATIONAL, talk.next_id)[:-1] + b"x"
        ),
        "window": sealed,
        "forged fragment": lambda moon, talk, n: moon.receive(
            seal_fragment(
                talk.sun, 1 + n % 9, 9, bytes(50), Exchange.INFORMATIONAL, talk.next_id, forged=True
            )
        ),
        "refused proof": _refused_proof,
    }


def _refused_proof(moon: Watched, talk: Talk, number: int) -> None:
    other = Talk(True, moon, spi=numbered(number), nonce=number.to_bytes(32, "big"))
    other.authenticate(other.sun.authentication(SUN, with_secret(b"x" * 32)))
    moon.wait(11)


@pytest.mark.parametrize("site", sites())
def test_v31_memory_is_flat_whatever_is_wrong_with_a_message(site: str) -> None:
    """CVE-2025-20224, CVE-2026-20012 and others, CVE-2026-35424: memory was not released on an error."""
    moon = Watched()
    talk = Talk(True, moon).established()
    talk.ask(Exchange.INFORMATIONAL, [])
    wrong = sites()[site]

    def round_(start: int) -> int:
        for number in range(start, start + 150):
            wrong(moon, talk, number)
        moon.wait(31)
        moon.events.clear()
        moon.sent.clear()
        moon.lines.clear()
        moon.endpoint._touched.clear()
        for held in (moon.endpoint.strangers, moon.endpoint.newcomers):
            held._buckets.clear()
        moon.endpoint.history._entries.clear()
        gc.collect()
        return sum(str(type(one).__module__).startswith("cygnet") for one in gc.get_objects())

    round_(0)
    before = round_(1500)
    assert round_(3000) <= before
    assert len(moon.endpoint.by_number) <= 2 + moon.endpoint.options.block_threshold


# T30, T31: who is authenticated and hostile all the same


@ROLES
def test_t30_children_without_end_are_refused(we_answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create_child_sa, "MAX_CHILDREN", 20)
    talk = Talk(we_answer).established()
    said = Counter[int]()
    for number in range(60):
        spi = (0x10000 + number).to_bytes(4, "big")
        answer = talk.ask(Exchange.CREATE_CHILD_SA, talk.child_request(spi=spi, nonce=spi * 8))
        said.update(notifies(answer))
    assert said[Notify.NO_ADDITIONAL_SAS] == 41
    (view,) = talk.moon.views
    assert len(view.children) == 20
    assert len(talk.moon.in_force) == 40
    # Rekeys count too: who never deletes what it replaced comes to the same end.
    last = (0x10000 + 18).to_bytes(4, "big")
    assert notifies(talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request(old=last))) == [
        Notify.NO_ADDITIONAL_SAS
    ]
    talk.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.ESP, (last,))])
    assert talk.ask(Exchange.CREATE_CHILD_SA, talk.child_request()).all(SaPayload)  # type: ignore[union-attr]


@ROLES
def test_t30_an_ike_sa_that_has_just_been_rekeyed_is_not_rekeyed_again_at_once(we_answer: bool) -> None:
    talk = Talk(we_answer).established()
    (proposal,) = ike_proposal().proposals
    request: list[Payload] = [SaPayload((replace(proposal, spi=b"\x99" * 8),)), *good_first()[1:]]
    for _ in range(5):
        assert notifies(talk.ask(Exchange.CREATE_CHILD_SA, request)) == [Notify.TEMPORARY_FAILURE]
    assert len(talk.moon.endpoint.by_number) == 1
    talk.moon.wait(2)
    assert talk.ask(Exchange.CREATE_CHILD_SA, request).all(SaPayload)  # type: ignore[union-attr]
    # The old one waits for its Delete: nothing more is made on it.
    for _ in range(5):
        assert notifies(talk.ask(Exchange.CREATE_CHILD_SA, request)) == [Notify.TEMPORARY_FAILURE]
        assert notifies(talk.ask(Exchange.CREATE_CHILD_SA, talk.child_request())) == [
            Notify.TEMPORARY_FAILURE
        ]
    assert len(talk.moon.endpoint.by_number) == 2


@pytest.mark.parametrize("unique", [Unique.NO, Unique.REPLACE])
def test_t30_t31_one_peer_has_a_bounded_number_of_ike_sas(unique: Unique) -> None:
    """Whether hostile, or a victim whose messages are relayed to us: the oldest go."""
    moon = Watched(replace(psk_connection(), unique=unique), options=OPEN_DOOR)
    for number in range(1, 60):
        talk = Talk(True, moon, spi=numbered(number), nonce=number.to_bytes(32, "big"))
        talk.authenticate()
        assert len(talk.moon.established) == number
    up = [view for view in moon.views if view.state == "ESTABLISHED"]
    assert len(up) == (endpoint.MAX_IKE_SAS_PER_PEER if unique is Unique.NO else 1)
    assert up[-1].initiator_spi == int.from_bytes(numbered(59), "big")


def test_t31_who_has_authenticated_and_is_silent_since_is_asked_whether_it_is_there() -> None:
    """Ninet 2019, the deviation attack: A's messages to C were led to us. A knows of no IKE SA with us."""
    moon = Watched()
    assert psk_connection().dpd_delay == 0
    Talk(True, moon).established()
    sent = len(moon.sent)
    moon.wait(CONFIRM_AFTER - 1)
    assert len(moon.sent) == sent
    moon.wait(2)
    assert len(moon.sent) == sent + 1
    assert decode(moon.sent[-1]).header.exchange == Exchange.INFORMATIONAL
    moon.wait(200)
    assert moon.views == []
    assert moon.endpoint.history.of("peer")[-1].failure.reason == Reason.PEER_DEAD


def test_t31_who_has_said_anything_since_is_left_in_peace() -> None:
    talk = Talk(True).established()
    talk.ask(Exchange.INFORMATIONAL, [])
    sent = len(talk.moon.sent)
    talk.moon.wait(300)
    assert len(talk.moon.sent) == sent
    # We began: its answer was the sign of life.
    ours = Talk(False).established()
    sent = len(ours.moon.sent)
    ours.moon.wait(300)
    assert len(ours.moon.sent) == sent


def test_every_drop_has_a_reason_that_is_counted() -> None:
    """Drops are accounted for by reason; each reason is a stable word."""
    assert all(drop.value.replace("-", "").isalpha() for drop in Drop)
    assert len({drop.value for drop in Drop}) == len(Drop)
