"""EAP without a network: the methods' arithmetic by the RFCs' vectors, and conversations of both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cygnet.auth import passwords
from cygnet.auth.ask import CheckPassword
from cygnet.auth.credentials import Credentials
from cygnet.auth.eap import gtc, md5, mschapv2, session
from cygnet.auth.eap.method import ClientMaker, EapFailed, Lookup, Outcome, ServerMaker
from cygnet.auth.eap.packet import Code, EapType, Packet, decode
from cygnet.auth.errors import CredentialError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.passwords import Stored
from cygnet.crypto.entropy import SeededEntropy
from cygnet.wire.cursor import Malformed
from tests.unit.eap_material import converse as talk

CHALLENGE = bytes.fromhex("5B5D7C7D7B3F2F3E3C2C602132262628")
PEER = bytes.fromhex("21402324255E262A28295F2B3A337C7E")
RESPONSE = bytes.fromhex("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF")


def users(*stored: Stored) -> Lookup:
    known = {one.name: one for one in stored}
    return lambda name: known.get(name)


CAROL = Stored(b"carol", text="Schlüssel 7".encode(), groups=frozenset({"staff"}))


def converse(
    makers: Sequence[ServerMaker], clients: Sequence[ClientMaker]
) -> tuple[session.Finished, session.Finished, list[Packet]]:
    return talk(makers, clients, name=b"carol")


def test_mschapv2_computes_what_rfc_2759_section_9_2_shows() -> None:
    nt = mschapv2.nt_hash(b"clientPass")
    assert nt.hex().upper() == "44EBBA8D5312B8D611474411F56989AE"
    assert mschapv2.challenge_hash(PEER, CHALLENGE, b"User").hex().upper() == "D02E4386BCE91226"
    assert mschapv2.nt_response(nt, PEER, CHALLENGE, b"User") == RESPONSE
    proof = mschapv2.authenticator_response(nt, RESPONSE, PEER, CHALLENGE, b"User")
    assert proof == b"S=407A5589115FD0D6209F510FE9C04566932CDA56"


def test_mschapv2_makes_the_keys_of_rfc_3079_section_3_5_3() -> None:
    msk = mschapv2.master_session_key(mschapv2.nt_hash(b"clientPass"), RESPONSE)
    # The server's sending key is the client's receiving key: the second half.
    assert msk[16:32].hex().upper() == "8B7CDC149B993A1BA118CB153F56DCCB"
    assert len(msk) == 64
    assert msk[32:] == bytes(32)


def test_a_domain_in_front_of_the_name_is_not_hashed() -> None:
    assert mschapv2.challenge_hash(PEER, CHALLENGE, b"CORP\\User").hex().upper() == "D02E4386BCE91226"


METHODS: dict[str, tuple[Callable[[Lookup], ServerMaker], Callable[[], ClientMaker], int]] = {
    "md5": (md5.server, lambda: md5.client(b"carol", CAROL.text), 0),
    "gtc": (gtc.server, lambda: gtc.client(CAROL.text), 0),
    "mschapv2": (mschapv2.server, lambda: mschapv2.client(b"carol", CAROL), 64),
}


@pytest.mark.parametrize("method", list(METHODS))
def test_both_sides_of_a_method_come_to_the_same(method: str) -> None:
    make, client, length = METHODS[method]
    ours, theirs, packets = converse([make(users(CAROL))], [client()])
    assert ours.outcome.msk == theirs.outcome.msk
    assert len(ours.outcome.msk) == length
    assert ours.identity == b"carol"
    assert ours.outcome.groups == {"staff"}
    assert packets[-1].code == Code.SUCCESS
    assert packets[-1].identifier == packets[-2].identifier


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("who", ["wrong password", "no such user"])
def test_another_password_and_no_such_user_are_one_and_the_same_refusal(method: str, who: str) -> None:
    make, client, _ = METHODS[method]
    known = users(Stored(b"carol", text=b"another")) if who == "wrong password" else users()
    with pytest.raises(EapFailed) as refused:
        converse([make(known)], [client()])
    assert refused.value.kind is Kind.EAP_PASSWORD_WRONG
    assert "Schl" not in refused.value.detail


@pytest.mark.parametrize(
    ("method", "stored"),
    [
        ("mschapv2", Stored(b"carol", nt=mschapv2.nt_hash(CAROL.text))),
        ("gtc", Stored(b"carol", scrypt=passwords.hash_password(CAROL.text, SeededEntropy(3)))),
    ],
)
def test_a_hash_serves_the_method_that_it_is_for(method: str, stored: Stored) -> None:
    make, client, _ = METHODS[method]
    converse([make(users(stored))], [client()])


@pytest.mark.parametrize(
    ("method", "stored"),
    [
        ("md5", Stored(b"carol", nt=bytes(16), scrypt="$scrypt$")),
        ("mschapv2", Stored(b"carol", scrypt="$scrypt$")),
        ("gtc", Stored(b"carol", nt=bytes(16))),
    ],
)
def test_a_form_that_a_method_cannot_use_is_named(method: str, stored: Stored) -> None:
    make, client, _ = METHODS[method]
    with pytest.raises(EapFailed) as refused:
        converse([make(users(stored))], [client()])
    assert refused.value.kind is Kind.EAP_METHOD_MISMATCH
    assert f"eap-{method} needs" in refused.value.detail


def test_a_client_that_lacks_the_first_method_gets_one_that_it_names() -> None:
    makers = [mschapv2.server(users(CAROL)), gtc.server(users(CAROL)), md5.server(users(CAROL))]
    ours, _, packets = converse(makers, [md5.client(b"carol", CAROL.text)])
    assert ours.method == EapType.MD5
    assert [packet.type for packet in packets if packet.code == Code.RESPONSE] == [
        EapType.IDENTITY, EapType.NAK, EapType.MD5,
    ]  # fmt: skip


def test_no_common_method_says_what_each_side_has() -> None:
    with pytest.raises(EapFailed) as refused:
        converse([mschapv2.server(users(CAROL))], [gtc.client(b"x")])
    assert refused.value.kind is Kind.EAP_METHOD_MISMATCH
    assert "the client takes eap-gtc, we offer eap-mschapv2" in refused.value.detail


def test_v56_a_client_takes_no_success_before_its_method_has_come_to_one() -> None:
    """CVE-2021-45079, CVE-2015-8023: every code at every step of each method."""
    for name, (make, client, _) in METHODS.items():
        _, _, packets = converse([make(users(CAROL))], [client()])
        requests = [packet for packet in packets if packet.code == Code.REQUEST]
        for steps in range(len(requests)):
            replayed = session.respond(b"carol", [client()], SeededEntropy(2))
            next(replayed)
            for request in requests[:steps]:
                replayed.send(request.encode())
            with pytest.raises(EapFailed):
                replayed.send(Packet(Code.SUCCESS, 9).encode())
        assert requests, name


def test_v56_an_mschapv2_client_wants_the_servers_proof() -> None:
    client = session.respond(b"carol", [mschapv2.client(b"carol", CAROL)], SeededEntropy(2))
    next(client)
    begin = bytes((16,)) + CHALLENGE + b"rogue"
    client.send(Packet(Code.REQUEST, 1, EapType.MSCHAPV2, mschapv2.encode(1, 1, begin)).encode())
    for proof in (b"", b"S=", b"S=" + b"0" * 40):
        fresh = session.respond(b"carol", [mschapv2.client(b"carol", CAROL)], SeededEntropy(2))
        next(fresh)
        fresh.send(Packet(Code.REQUEST, 1, EapType.MSCHAPV2, mschapv2.encode(1, 1, begin)).encode())
        with pytest.raises(EapFailed):
            fresh.send(Packet(Code.REQUEST, 2, EapType.MSCHAPV2, mschapv2.encode(3, 1, proof)).encode())


def test_v56_a_server_takes_each_code_and_type_at_its_time_only() -> None:
    for name, (make, client, _) in METHODS.items():
        _, _, packets = converse([make(users(CAROL))], [client()])
        responses = [packet for packet in packets if packet.code == Code.RESPONSE]
        for step, right in enumerate(responses):
            for code in range(6):
                for kind in (1, 2, 3, 4, 6, 13, 26, 254):
                    if (code, kind) == (right.code, right.type) or (step, kind) == (1, EapType.NAK):
                        continue
                    server = session.serve(lambda user: [make(users(CAROL))], SeededEntropy(1))  # noqa: B023
                    next(server)
                    for sent in responses[:step]:
                        advance(server, sent.encode())
                    odd = bytes((code, right.identifier)) + (5).to_bytes(2, "big") + bytes((kind,))
                    with pytest.raises(EapFailed):
                        advance(server, odd)
        assert len(responses) >= 2, name


def advance(server: session.Conversation, octets: bytes) -> None:
    step: Any = server.send(octets)
    while isinstance(step, CheckPassword):
        step = server.send(passwords.check(step.stored, step.password))


@pytest.mark.parametrize("method", list(METHODS))
def test_v58_every_length_of_every_message_is_refused_or_read_whole(method: str) -> None:
    """CVE-2025-62291: MS-CHAPv2 messages of 6 to 8 octets; and all others."""
    make, client, _ = METHODS[method]
    _, _, packets = converse([make(users(CAROL))], [client()])
    responses = [packet for packet in packets if packet.code == Code.RESPONSE]
    for step in range(1, len(responses)):
        for length in range(len(responses[step].data)):
            cut = Packet(
                Code.RESPONSE, responses[step].identifier, responses[step].type, responses[step].data[:length]
            )
            server = session.serve(lambda user: [make(users(CAROL))], SeededEntropy(1))
            next(server)
            for sent in responses[:step]:
                advance(server, sent.encode())
            if method == "mschapv2" and step == 2 and length == 1:
                continue  # the op code alone is what Windows says last
            if method == "md5" and length >= 17:
                continue  # what is left out is the name
            with pytest.raises(EapFailed):
                advance(server, cut.encode())
    requests = [packet for packet in packets if packet.code == Code.REQUEST]
    for step in range(1, len(requests)):
        for length in range(len(requests[step].data)):
            peer = session.respond(b"carol", [client()], SeededEntropy(2))
            next(peer)
            for sent in requests[:step]:
                peer.send(sent.encode())
            cut = Packet(
                Code.REQUEST, requests[step].identifier, requests[step].type, requests[step].data[:length]
            )
            try:
                peer.send(cut.encode())
            except EapFailed:
                continue
            # A prompt, a server's name and a greeting may be of any length.
            free = {"gtc": 0, "md5": 17, "mschapv2": 21}[method]
            assert length >= free or step == 2


LYING = (
    "",
    "01",
    "010200",
    "01020004",
    "0102000301",
    "0301000500",
    "0901000501",
    "0201000601",
    "020100050100",
)


@pytest.mark.parametrize("octets", [bytes.fromhex(text) for text in LYING])
def test_v58_a_packet_whose_length_lies_is_malformed(octets: bytes) -> None:
    with pytest.raises(Malformed):
        decode(octets)


def test_a_user_is_found_by_name_whatever_its_case_or_domain() -> None:
    store = Credentials()
    store.add_shared("eap-carol", "eap", b"secret words", [Identity.parse("Carol")], ["staff"])
    store.add_shared("hash", "ntlm", bytes(16), [Identity.parse("carol")], ["vpn"])
    store.add_shared("dave", "xauth", b"other words", [Identity.parse("dave@example.org")])
    store.add_shared("all", "eap", b"for everybody")
    found = store.user(b"CORP\\CAROL")
    assert found is not None
    assert (found.text, found.nt) == (b"secret words", bytes(16))
    assert found.groups == {"staff", "vpn"}
    assert store.user(b"dave@EXAMPLE.org") is not None
    assert store.user(b"%any") is None
    assert store.user(b"mallory") is None
    assert store.remove_shared("eap-carol")
    left = store.user(b"carol")
    assert left is not None
    assert not left.text
    assert store.remove_shared("hash")
    assert store.user(b"carol") is None


def test_v63_a_name_with_an_equals_sign_is_text() -> None:
    store = Credentials()
    store.add_shared("dn", "eap", b"secret words", [Identity.parse("C=CH, O=x, CN=carol")])
    store.add_shared("carol", "eap", b"secret words", [Identity.parse("carol")])
    for name in (b"CN=carol", b"carol=", b"=" * 65536, b"a=b," * 16384, b"keyid:carol", b"*", b"@carol"):
        assert store.user(name) is None


@pytest.mark.parametrize(
    "text",
    ["", "$scrypt$", "$scrypt$ln=15$$", "$scrypt$ln=40,r=8,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
     "$scrypt$ln=2,r=8,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "$nt$00", "$nt$zz", "secret"],
)  # fmt: skip
def test_a_hash_that_is_none_or_costs_too_much_is_refused(text: str) -> None:
    with pytest.raises(CredentialError):
        passwords.read_hash(text)


def test_a_password_is_checked_by_its_hash() -> None:
    stored = passwords.hash_password(b"open sesame", SeededEntropy(5))
    assert passwords.check(stored, b"open sesame") is True
    assert passwords.check(stored, b"open Sesame") is False
    assert passwords.check(stored, b"x" * 300) is False
    assert passwords.read_hash(stored) == ("scrypt", stored.encode())


def test_a_conversation_without_end_ends() -> None:
    def endless(name: bytes, entropy: object) -> Any:
        while True:
            yield b"again"

    server = session.serve(lambda user: [ServerMaker(99, endless)], SeededEntropy(1))
    octets: Any = next(server)
    rounds = 0

    def go_on() -> None:
        nonlocal octets, rounds
        while rounds < 2 * session.MAX_ROUNDS:
            packet = decode(octets)
            rounds += 1
            octets = server.send(Packet(Code.RESPONSE, packet.identifier, packet.type, b"carol").encode())

    with pytest.raises(EapFailed):
        go_on()


def test_an_outcome_shows_no_key() -> None:
    assert "secret" not in repr(Outcome(msk=b"secret" * 11))
    assert "secret" not in repr(Stored(b"carol", text=b"secret", scrypt="secret"))
