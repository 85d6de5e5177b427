"""IKEv1's cases of the catalogue of failures, each with its name: an endpoint, and a peer played by hand."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path as FilePath

import pytest

from cygnet.config.load import load
from cygnet.crypto import ikev1
from cygnet.ike import admission
from cygnet.ike.errors import Reason
from cygnet.ike.v1.phase1 import contacts
from cygnet.ike.v1.protection import MAX_REASSEMBLED
from cygnet.ike.world import Path
from cygnet.wire.numbers import Flags
from cygnet.wire.v1 import message as wire
from cygnet.wire.v1 import numbers as n
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import encode
from cygnet.wire.v1.numbers import Exchange, Notify, Protocol
from cygnet.wire.v1.payloads import (
    Attribute,
    AttributesPayload,
    DeletePayload,
    FragmentPayload,
    HashPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    VendorIdPayload,
)
from tests.unit.ike_by_hand import Moon
from tests.unit.ikev1_by_hand import PATH, SECRET, SUITE, TOML, Sun, child_offer, moon, offer, subnet

NOTIFIES = sorted({*Notify.numbers(), *range(1, 31), 8192, 16384, 24576, 65535})


def state(gateway: Moon) -> list[tuple[str, list[str]]]:
    return [(sa.state, [child.state for child in sa.children]) for sa in gateway.endpoint.sas()]


def up() -> tuple[Moon, Sun, bytes]:
    """Phase 1 and a Child SA, and its SPI at moon's."""
    gateway, sun = moon(), Sun()
    sun.establish(gateway)
    spi = sun.quick_mode(gateway)
    assert state(gateway) == [("ESTABLISHED", ["INSTALLED"])]
    return gateway, sun, spi


def cookies(sun: Sun) -> bytes:
    return sun.cookie + sun.theirs


def test_the_peer_by_hand_makes_a_tunnel() -> None:
    gateway, _, spi = up()
    assert len(gateway.installed) == 2
    assert spi != b"\x01\x02\x03\x04"


@pytest.mark.parametrize("kind", NOTIFIES, ids=Notify.name_of)
def test_v1_no_notify_in_clear_or_for_nobody_does_anything(kind: int) -> None:
    """CVE-2009-0790: R-U-THERE for phase 1 state that is not there."""
    notify = NotifyPayload(Protocol.ISAKMP, bytes(16), kind, b"\x00\x00\x00\x01")
    gateway = moon()
    nobody = Sun(9)
    for theirs in (bytes(8), b"nobodys!"):
        nobody.theirs = theirs
        for message_id in (0, 7):
            assert gateway.receive(encode(nobody.header(Exchange.INFORMATIONAL, message_id), [notify])) == []
            sealed = wire.encode_sealed(nobody.header(Exchange.INFORMATIONAL, message_id), 8, bytes(64))
            assert gateway.receive(sealed) == []
    assert gateway.untouched
    assert not list(gateway.endpoint.sas())
    assert len(gateway.drops) == 8

    half, sun = moon(), Sun()
    sun.second(half.receive(sun.first())[0])
    assert half.receive(encode(sun.header(Exchange.INFORMATIONAL, 7), [notify])) == []
    assert [name for name, _ in state(half)] == ["CONNECTING"]

    alive, sun, _ = up()
    before = state(alive)
    clear = encode(sun.header(Exchange.INFORMATIONAL, 7), [replace(notify, spi=cookies(sun))])
    # It may make us look whether the peer lives, which changes nothing.
    for answer in alive.receive(clear):
        assert sun.opened(answer).all(NotifyPayload)[0].type == Notify.R_U_THERE
    assert alive.drops[-1] == "unprotected-hint"
    # Encrypted, and no HASH before it.
    bare = sun.sealed(Exchange.INFORMATIONAL, [notify], 8, first=notify.payload_type)
    assert alive.receive(bare) == []
    assert alive.drops[-1] == "malformed"
    assert state(alive) == before


def test_v1_a_dead_peer_question_after_the_end_finds_nothing() -> None:
    gateway, sun, _ = up()
    gateway.receive(sun.sealed(Exchange.INFORMATIONAL, [DeletePayload(Protocol.ISAKMP, (cookies(sun),))], 1))
    assert state(gateway) == [] or all(name != "ESTABLISHED" for name, _ in state(gateway))
    question = NotifyPayload(Protocol.ISAKMP, cookies(sun), Notify.R_U_THERE, b"\x00\x00\x00\x05")
    assert gateway.receive(sun.sealed(Exchange.INFORMATIONAL, [question], 2)) == []


def test_v17_every_flipped_octet_of_the_body_is_found_by_the_hash() -> None:
    gateway, sun, _ = up()
    payloads = [DeletePayload(Protocol.ESP, (b"\x01\x02\x03\x04",))]
    whole = sun.sealed(Exchange.INFORMATIONAL, payloads, 77)
    for at in range(28, len(whole)):
        gateway.receive(whole[:at] + bytes((whole[at] ^ 0x40,)) + whole[at + 1 :])
        assert state(gateway) == [("ESTABLISHED", ["INSTALLED"])]
    gateway.receive(whole)
    assert state(gateway) != [("ESTABLISHED", ["INSTALLED"])]


def test_v18_the_cookie_of_a_refusal_is_nobodys() -> None:
    """CVE-2023-30570: a refused SA's responder cookie could be used again."""
    gateway, sun = moon(), Sun()
    sun.offer = offer(encryption=n.Encryption.BLOWFISH_CBC)
    (refusal,) = gateway.receive(sun.first())
    decoded = wire.decode(refusal)
    assert decoded.header.exchange == Exchange.INFORMATIONAL
    for cookie in (decoded.header.responder_spi, b"any one!"):
        sun.theirs = cookie
        payloads = (KePayload(sun.key.public), NoncePayload(sun.nonce))
        for exchange in (Exchange.MAIN_MODE, Exchange.AGGRESSIVE, Exchange.QUICK_MODE):
            assert gateway.receive(encode(sun.header(exchange), payloads)) == []
    assert not list(gateway.endpoint.sas())
    assert gateway.untouched


@pytest.mark.parametrize(
    "after",
    ["delete child", "delete phase 1", "notify", "twice", "foreign"],
)
def test_v21_what_follows_a_delete_in_one_message_acts_on_nothing_that_is_gone(after: str) -> None:
    """CVE-2023-38712."""
    gateway, sun, _ = up()
    child = DeletePayload(Protocol.ESP, (b"\x01\x02\x03\x04",))
    whole = DeletePayload(Protocol.ISAKMP, (cookies(sun),))
    chains: dict[str, list[Payload]] = {
        "delete child": [whole, child, child],
        "delete phase 1": [child, whole, whole, whole],
        "notify": [whole, NotifyPayload(Protocol.ISAKMP, cookies(sun), Notify.R_U_THERE, bytes(4))],
        "twice": [*[child] * 10, *[whole] * 10],
        "foreign": [
            DeletePayload(Protocol.ISAKMP, (bytes(16),)),
            DeletePayload(Protocol.AH, (bytes(4),)),
            child,
        ],
    }
    gateway.receive(sun.sealed(Exchange.INFORMATIONAL, chains[after], 5))
    alive = [child for name, children in state(gateway) if name == "ESTABLISHED" for child in children]
    assert "INSTALLED" not in alive
    # And nothing is left that trips over it.
    gateway.receive(sun.sealed(Exchange.INFORMATIONAL, chains[after], 6))
    other = Sun(2)
    other.establish(gateway)
    other.quick_mode(gateway)


def test_v39_t8_one_answer_for_each_question_and_none_unasked() -> None:
    """CVE-2016-5361: responders that repeat their answers by themselves amplify."""
    gateway, sun = moon(), Sun()
    question = sun.first()
    (answer,) = gateway.receive(question)
    assert len(answer) <= 1.5 * len(question)
    for _ in range(5):
        assert gateway.receive(question) == [answer]
    before = len(gateway.sent)
    for _ in range(40):
        deadline = gateway.endpoint.next_timeout()
        if deadline is None:
            break
        gateway.now = replace(gateway.now, monotonic=deadline)
        gateway.endpoint.handle_timeout(gateway.now)
        gateway.carry_out()
    assert len(gateway.sent) == before
    assert not list(gateway.endpoint.sas())


ANNOUNCED = (
    vendor_ids.DPD,
    vendor_ids.FRAGMENTATION,
    vendor_ids.XAUTH,
    vendor_ids.UNITY,
    *vendor_ids.NAT_T_BEST_FIRST,
)


@pytest.mark.parametrize("vendors", [ANNOUNCED[:number] for number in range(len(ANNOUNCED) + 1)], ids=len)
@pytest.mark.parametrize("where", ["gateway", "of clients"])
def test_t8_main_mode_sends_no_more_than_half_as_much_again_before_the_address_is_proven(
    where: str, vendors: tuple[bytes, ...]
) -> None:
    """Each answer by itself. The third message has our cookie in it, which proves the address."""
    pools = "" if where == "gateway" else 'pools = ["10.3.0.0/24"]'
    gateway, sun = moon(more=pools), Sun()
    question = sun.first(vendors)
    (answer,) = gateway.receive(question)
    assert len(answer) <= 1.5 * len(question)
    said = {one.data[:14] for one in wire.decode(answer).all(VendorIdPayload)}
    assert said <= {one[:14] for one in vendors}
    if vendor_ids.NAT_T_RFC in vendors:
        assert {vendor_ids.NAT_T_RFC[:14], vendor_ids.DPD[:14], vendor_ids.FRAGMENTATION[:14]} <= said


def test_a_phase_1_that_the_peer_has_replaced_and_left_empty_is_closed_in_the_end() -> None:
    """strongSwan keeps its old ones until they expire."""
    gateway, _, _ = up()
    newer = Sun(2)
    (two,) = gateway.receive(newer.first(vendors=()))
    (four,) = gateway.receive(newer.second(two))
    gateway.receive(newer.third(four))
    assert state(gateway) == [("ESTABLISHED", []), ("ESTABLISHED", ["INSTALLED"])]
    end = gateway.now.monotonic + 120
    while (deadline := gateway.endpoint.next_timeout()) is not None and deadline < end:
        gateway.now = replace(gateway.now, monotonic=deadline)
        gateway.endpoint.handle_timeout(gateway.now)
        gateway.carry_out()
    assert state(gateway) == [("ESTABLISHED", ["INSTALLED"])]


def fragment(sun: Sun, number: int, octets: bytes, *, last: bool = False, ident: int = 1) -> bytes:
    return encode(sun.header(Exchange.MAIN_MODE), [FragmentPayload(ident, number, octets, int(last))])


def pieces(octets: bytes, count: int) -> list[bytes]:
    size = -(-len(octets) // count)
    return [octets[at : at + size] for at in range(0, len(octets), size)]


def at_the_proof(
    vendors: tuple[bytes, ...] = (vendor_ids.FRAGMENTATION,), number: int = 1
) -> tuple[Moon, Sun, bytes]:
    """Up to the fifth message."""
    gateway, sun = moon(), Sun(number)
    (two,) = gateway.receive(sun.first(vendors))
    (four,) = gateway.receive(sun.second(two))
    return gateway, sun, sun.third(four)


def test_v40_fragments_in_the_worst_order_are_put_together_in_linear_time() -> None:
    """CVE-2016-10396: racoon's list of fragments was quadratic."""
    gateway, sun, message = at_the_proof()
    cut = pieces(message, len(message))
    assert len(cut) > 90
    for number in range(len(cut), 1, -1):
        sent = fragment(sun, number, cut[number - 1], last=number == len(cut))
        assert gateway.receive(sent) == []
    assert gateway.receive(fragment(sun, 1, cut[0]))
    assert state(gateway) == [("ESTABLISHED", [])]


@pytest.mark.parametrize("third", [False, True], ids=["fifth", "third"])
def test_t7_fragments_of_who_did_not_announce_them_are_dropped(third: bool) -> None:
    gateway, sun, message = at_the_exchange(()) if third else at_the_proof(vendors=())
    for number, piece in enumerate(pieces(message, 3), 1):
        assert gateway.receive(fragment(sun, number, piece, last=number == 3)) == []
    assert gateway.drops[-1] == "fragment"
    assert gateway.receive(message)


def at_the_exchange(
    vendors: tuple[bytes, ...] = (vendor_ids.FRAGMENTATION,), more: str = ""
) -> tuple[Moon, Sun, bytes]:
    """Up to the third message, a large group's public value: there are no keys yet."""
    gateway, sun = moon(more=more), Sun()
    (two,) = gateway.receive(sun.first(vendors))
    return gateway, sun, sun.second(two)


def test_main_modes_third_message_comes_in_pieces() -> None:
    """strongSwan cuts it with a group of 4096 bits and `fragment_size = 576`."""
    gateway, sun, message = at_the_exchange()
    first, second = pieces(message, 2)
    assert gateway.receive(fragment(sun, 2, second, last=True)) == []
    (four,) = gateway.receive(fragment(sun, 1, first))
    assert gateway.endpoint.half_open._octets == 0
    assert gateway.receive(sun.third(four))
    assert state(gateway) == [("ESTABLISHED", [])]


def test_t7_pieces_of_the_third_message_are_not_taken_with_fragmentation_off() -> None:
    gateway, sun, message = at_the_exchange(more='fragmentation = "no"')
    assert gateway.receive(fragment(sun, 1, message, last=True)) == []
    assert gateway.drops[-1] == "fragment"
    assert gateway.receive(message)


def test_t7_pieces_of_a_third_message_that_never_comes_change_nothing() -> None:
    gateway, sun, message = at_the_exchange()
    for ident in range(3):
        for number in range(1, 100):
            assert gateway.receive(fragment(sun, number, bytes(1400), ident=ident)) == []
            assert gateway.endpoint.half_open._octets <= MAX_REASSEMBLED
    assert state(gateway) == [("CONNECTING", [])]
    (four,) = gateway.receive(message)
    assert gateway.receive(sun.third(four))
    assert gateway.endpoint.half_open._octets == 0


@pytest.mark.parametrize("third", [False, True], ids=["fifth", "third"])
def test_t7_fragments_of_strangers_are_bounded_by_source_and_in_all(
    monkeypatch: pytest.MonkeyPatch, third: bool
) -> None:
    most = 300_000
    monkeypatch.setattr(admission, "MAX_FRAGMENTS", most)
    gateway = moon(anywhere=True)
    held = []
    for number in range(1, 12):
        path = Path(PATH.local, 500, ip_address(f"192.0.2.{100 + number}"), 500)
        sun = Sun(number)
        (two,) = gateway.receive(sun.first((vendor_ids.FRAGMENTATION,)), path)
        message = sun.second(two)
        if not third:
            assert gateway.receive(message, path)
        for piece in range(1, 40):
            gateway.receive(fragment(sun, piece, bytes(1400)), path)
            held.append(gateway.endpoint.half_open._octets)
    assert most // 2 < max(held) <= most
    assert "fragment" in gateway.drops
    # Who needs no fragments is served all the same.
    late, path = Sun(99), Path(PATH.local, 500, ip_address("192.0.2.200"), 500)
    (two,) = gateway.receive(late.first(), path)
    (four,) = gateway.receive(late.second(two), path)
    assert gateway.receive(late.third(four), path)


def test_t7_one_sources_fragments_end_with_the_largest_message() -> None:
    gateway, sun, message = at_the_proof()
    for ident in range(20):
        for number in range(1, 200):
            gateway.receive(fragment(sun, number, bytes(1400), ident=ident))
            assert gateway.endpoint.half_open._octets <= MAX_REASSEMBLED
    assert gateway.receive(message)
    assert gateway.endpoint.half_open._octets == 0


def test_v5_impossible_fragments_of_ikev1_leave_the_exchange_as_it_was() -> None:
    gateway, sun, message = at_the_proof()
    header = sun.header(Exchange.MAIN_MODE)
    for number, flags in ((255, 0), (255, 1), (1, 1), (2, 0)):
        assert gateway.receive(encode(header, [FragmentPayload(3, number, b"x", flags)])) == []
    nested = encode(header, [FragmentPayload(4, 1, fragment(sun, 1, message, last=True), 1)])
    assert gateway.receive(nested) == []
    assert gateway.receive(message)
    assert state(gateway) == [("ESTABLISHED", [])]


def test_t10_initial_contact_that_nobody_authenticated_ends_nothing() -> None:
    gateway, sun, _ = up()
    elsewhere = Path(PATH.local, 500, ip_address("198.51.100.7"), 500)
    said: list[Payload] = [
        NotifyPayload(Protocol.ISAKMP, cookies(sun), kind, b"")
        for kind in (Notify.INITIAL_CONTACT, Notify.INVALID_COOKIE, Notify.AUTHENTICATION_FAILED)
    ]
    said += [
        DeletePayload(Protocol.ISAKMP, (cookies(sun),)),
        DeletePayload(Protocol.ESP, (b"\x01\x02\x03\x04",)),
    ]
    (before,) = [one.state for one in gateway.endpoint.by_number.values()]
    for payload in said:
        for path in (PATH, elsewhere):
            gateway.receive(encode(sun.header(Exchange.INFORMATIONAL, 4), [payload]), path)
            assert gateway.drops[-1] == "unprotected-hint"
            assert [one.state for one in gateway.endpoint.by_number.values()] == [before]
    assert state(gateway) == [("ESTABLISHED", ["INSTALLED"])]


def test_t10_initial_contact_in_clear_behind_a_good_proof_is_not_the_peers() -> None:
    """Aggressive mode's third message may come in clear, and its proof covers nothing else of it."""
    said = NotifyPayload(Protocol.ISAKMP, bytes(16), Notify.INITIAL_CONTACT, b"")
    for flags in (0, n.Flags.ENCRYPTION):
        header = replace(Sun().header(Exchange.AGGRESSIVE), flags=flags)
        message = wire.Message(header, (HashPayload(bytes(32)), said), (b"", b""))
        assert contacts(message) == bool(flags)


def test_t14_a_version_2_connection_is_never_had_in_version_1() -> None:
    gateway = moon(version=2)
    for answer in gateway.receive(Sun().first()):
        assert wire.decode(answer).one(NotifyPayload).type == Notify.NO_PROPOSAL_CHOSEN
    assert not list(gateway.endpoint.sas())


@pytest.mark.parametrize("version", [0, 2])
def test_t14_who_starts_with_version_2_never_goes_on_with_version_1(version: int) -> None:
    """A man in the middle who drops IKEv2, or says in clear that it is not spoken, gets no IKEv1."""
    gateway = moon(version=version)
    gateway.initiate("peer")
    (first,) = gateway.sent
    spi = first[:8]
    invalid = (
        bytes.fromhex("29202220") + bytes(4) + (36).to_bytes(4, "big") + bytes.fromhex("0000000800000005")
    )
    forged = spi + b"forger!!" + invalid
    gateway.receive(forged)
    down = (
        spi
        + b"forger!!"
        + bytes((0, 0x10, Exchange.INFORMATIONAL, Flags.RESPONSE))
        + bytes(4)
        + (28).to_bytes(4, "big")
    )
    gateway.receive(down)
    for _ in range(60):
        deadline = gateway.endpoint.next_timeout()
        if deadline is None:
            break
        gateway.now = replace(gateway.now, monotonic=deadline)
        gateway.endpoint.handle_timeout(gateway.now)
        gateway.carry_out()
    assert len(gateway.sent) > 3
    assert {datagram[17] >> 4 for datagram in gateway.sent} == {2}
    assert gateway.failures
    assert not gateway.endpoint.by_number


def test_v37_transactions_and_quick_modes_before_phase_1_is_over_are_nothing() -> None:
    gateway, sun = moon(), Sun()
    (two,) = gateway.receive(sun.first())
    (four,) = gateway.receive(sun.second(two))
    sun.third(four)
    sun.last_block = sun.iv
    ok = AttributesPayload(n.CfgType.SET, 1, (Attribute(n.CfgAttribute.XAUTH_STATUS, 1),))
    nonce = NoncePayload(sun.entropy.octets(32))
    assert gateway.receive(sun.sealed(Exchange.TRANSACTION, [ok], 3)) == []
    assert (
        gateway.receive(sun.sealed(Exchange.QUICK_MODE, (child_offer(), nonce, subnet(2), subnet(1)), 4))
        == []
    )
    assert gateway.untouched


def test_v35_an_answer_is_a_function_of_the_question() -> None:
    """CVE-2016-6415: answers to SA payloads held memory. Two gateways differ in nothing but their cookies."""
    answers = []
    for _ in range(2):
        gateway, sun = moon(), Sun()
        (answer,) = gateway.receive(sun.first())
        answers.append(answer[:8] + answer[16:])
        assert wire.decode(answer).one(SaPayload).proposals[0].transforms == sun.offer.proposals[0].transforms
    assert answers[0] == answers[1]


def aggressive(*, secret_for: str, remote: str, options: bool = True) -> Moon:
    """Moon, answering aggressive mode: the identity that its key is for, and the one that it takes."""
    text = TOML.format(version=1, aggressive="true", secret=SECRET.decode())
    text = text.replace('id = "sun.example.org"', f'id = "{remote}"')
    text += f'id-1 = "{secret_for}"\nid-2 = "moon.example.org"\n'
    text += f"[options]\ni_dont_care_about_security_and_use_aggressive_mode_psk = {str(options).lower()}\n"
    loaded = load(FilePath("moon.toml"), text)
    return Moon(loaded.credentials(), *loaded.connections, options=loaded.gateway.options)


def asks_as(sun: Sun, name: bytes) -> bytes:
    payloads = (sun.offer, KePayload(sun.key.public), NoncePayload(sun.nonce), IdPayload(2, 0, 0, name))
    return encode(sun.header(Exchange.AGGRESSIVE), payloads)


@pytest.mark.parametrize(
    ("remote", "reason"),
    [("*.example.org", Reason.PSK_NOT_FOUND), ("sun.example.org", Reason.PEER_ID_MISMATCH)],
    ids=["no key is for it", "no connection takes it"],
)
def test_t12_aggressive_mode_answers_who_is_unknown_like_who_is_known(remote: str, reason: Reason) -> None:
    """Else anybody could find out which identities there are. People are told, the peer is not."""
    shapes = []
    for name in (b"sun.example.org", b"sux.example.org"):
        gateway, sun = aggressive(secret_for="sun.example.org", remote=remote), Sun()
        (answer,) = gateway.receive(asks_as(sun, name))
        decoded = wire.decode(answer)
        assert decoded.header.exchange == Exchange.AGGRESSIVE
        shapes.append((len(answer), [type(one) for one in decoded.payloads]))
        # The proof of who does not have the key, as it goes out encrypted: nothing comes back for either.
        sun.theirs = decoded.header.responder_spi
        assert gateway.receive(wire.encode_sealed(sun.header(Exchange.AGGRESSIVE), 8, b"x" * 48)) == []
        assert gateway.untouched
        told = [failure.reason for failure in gateway.failures]
        assert told == ([] if name == b"sun.example.org" else [reason])
    assert shapes[0] == shapes[1]
    assert HashPayload in shapes[0][1]


def test_t12_a_known_identity_is_let_in_by_its_key_and_an_unknown_one_by_none() -> None:
    for name, up_now in ((b"sun.example.org", True), (b"sux.example.org", False)):
        gateway, sun = aggressive(secret_for="sun.example.org", remote="sun.example.org"), Sun()
        (answer,) = gateway.receive(asks_as(sun, name))
        decoded = wire.decode(answer)
        sun.theirs = decoded.header.responder_spi
        identity = IdPayload(2, 0, 0, name)
        main = sun.third(answer, identity=identity)
        assert main
        # The third message is HASH_I alone.
        keys = sun.keys_now
        theirs = decoded.one(KePayload).data
        proof = ikev1.phase1_hash(
            SUITE, keys.skeyid, sun.key.public, theirs, sun.cookie, sun.theirs, sun.offer.emit(),
            identity.emit(),
        )  # fmt: skip
        first, octets = wire.encode_payloads((HashPayload(proof),))
        sealed = SUITE.encrypt(keys.encryption, ikev1.phase1_iv(SUITE, sun.key.public, theirs), octets)
        gateway.receive(wire.encode_sealed(sun.header(Exchange.AGGRESSIVE), first, sealed))
        assert bool(gateway.established) is up_now


def test_t12_xauth_behind_a_pre_shared_key_in_aggressive_mode_is_off_as_well() -> None:
    text = TOML.format(version=1, aggressive="true", secret=SECRET.decode())
    login = 'remote-2 = { auth = "xauth", round = 2 }\n[connections.peer.children.net]'
    text = text.replace("[connections.peer.children.net]", login)
    for asked in (False, True):
        option = f"[options]\ni_dont_care_about_security_and_use_aggressive_mode_psk = {str(asked).lower()}\n"
        loaded = load(FilePath("moon.toml"), text + option)
        gateway = Moon(loaded.credentials(), *loaded.connections, options=loaded.gateway.options)
        sun = Sun()
        sun.offer = offer(method=n.Authentication.XAUTH_INIT_PSK)
        (answer,) = gateway.receive(asks_as(sun, b"sun.example.org"))
        assert (HashPayload in [type(one) for one in wire.decode(answer).payloads]) is asked
