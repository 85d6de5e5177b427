"""RADIUS packets: what verifies, and that nothing else does."""

from __future__ import annotations

from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest
from pyrad.packet import AcctPacket, AuthPacket, CoAPacket

from cygnet.auth import radius
from cygnet.auth.ask import AskRadius, RadiusAnswer
from cygnet.auth.eap.method import EapFailed
from cygnet.auth.eap.packet import Code, EapType, Packet
from cygnet.auth.eap.relay import relay
from cygnet.auth.eap.session import Finished
from cygnet.auth.identity import Identity
from cygnet.auth.radius import Attribute, Invalid
from cygnet.ike.configuration import AuthClass, RemoteAuth
from cygnet.ike.errors import IkeError, Reason
from cygnet.ike.v2.candidates import Candidate, Candidates

SECRET = b"a secret of RADIUS"
HERE = IPv4Address("192.0.2.1")
MSK = bytes(range(64))


def asked() -> radius.Request:
    eap = Packet(Code.RESPONSE, 1, EapType.IDENTITY, b"carol").encode()
    return radius.access_request(5, SECRET, ((Attribute.USER_NAME, b"carol"),), eap, (b"s",))


def answered(request: radius.Request, code: int = radius.ACCESS_ACCEPT, *, signed: bool = True) -> bytes:
    """What a server says, by pyrad's other half."""
    received = AuthPacket(packet=request.octets, secret=SECRET)
    reply = received.CreateReply(message_authenticator=signed)
    reply.code = code
    eap = {2: Code.SUCCESS, 3: Code.FAILURE, 11: Code.REQUEST}[code]
    reply[79] = [Packet(eap, 1, EapType.MD5 if eap == Code.REQUEST else 0, b"x").encode()]
    reply[25] = [b"staff"]
    reply.request_authenticator = received.authenticator
    keys = [reply.SaltCrypt(MSK[:32]), reply.SaltCrypt(MSK[32:])]
    reply[26] = [
        (311).to_bytes(4, "big") + bytes((kind, 2 + len(key))) + key
        for kind, key in zip((17, 16), keys, strict=True)
    ]
    octets: bytes = reply.ReplyPacket()
    return octets


def test_an_answer_gives_the_key_and_what_else_was_said() -> None:
    request = asked()
    answer = radius.judge_access(request, answered(request), "one")
    assert answer.msk == MSK
    assert ("Class", b"staff") in answer.attributes
    assert answer.code == radius.ACCESS_ACCEPT


def test_blast_radius_an_answer_without_a_message_authenticator_is_none() -> None:
    """CVE-2024-3596: MD5 alone proves nothing."""
    request = asked()
    for code in (radius.ACCESS_ACCEPT, radius.ACCESS_REJECT, radius.ACCESS_CHALLENGE):
        with pytest.raises(Invalid):
            radius.judge_access(request, answered(request, code, signed=False), "one")


def test_no_flipped_octet_of_an_answer_verifies() -> None:
    request = asked()
    good = answered(request)
    for place in range(len(good)):
        for bit in (0x01, 0x80):
            bad = good[:place] + bytes((good[place] ^ bit,)) + good[place + 1 :]
            with pytest.raises(Invalid):
                radius.judge_access(request, bad, "one")


def test_an_answer_to_another_request_is_none() -> None:
    one, other = asked(), asked()
    with pytest.raises(Invalid):
        radius.judge_access(one, answered(other), "one")


def test_a_proxy_state_that_was_not_sent_is_a_forgery() -> None:
    request = asked()
    received = AuthPacket(packet=request.octets, secret=SECRET)
    reply = received.CreateReply()
    reply[33] = [b"prefix"]
    with pytest.raises(Invalid):
        radius.judge_access(request, reply.ReplyPacket(), "one")


@pytest.mark.parametrize("kind", [1, 24, 26, 79, 80])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 255])
def test_v58_an_attribute_of_any_length_is_refused_before_it_is_looked_at(kind: int, length: int) -> None:
    """CVE-2026-35333: lengths 0 and 1 looped or underflowed."""
    octets = bytes((2, 5)) + (23).to_bytes(2, "big") + bytes(16) + bytes((kind, length, 0))
    with pytest.raises(Invalid):
        radius.judge_access(asked(), octets, "one")
    with pytest.raises(Invalid):
        radius.read_dynamic(octets, SECRET)
    with pytest.raises(Invalid):
        radius.judge_accounting(radius.accounting_request(5, SECRET, ()), octets)


@pytest.mark.parametrize("length", range(20))
def test_v58_a_packet_that_is_cut_is_none(length: int) -> None:
    request = asked()
    with pytest.raises(Invalid):
        radius.judge_access(request, answered(request)[:length], "one")


def test_accounting_is_taken_from_who_knows_the_secret() -> None:
    request = radius.accounting_request(9, SECRET, ((Attribute.ACCT_STATUS_TYPE, radius.number(1)),))
    received = AcctPacket(packet=request.octets, secret=SECRET)
    assert received.VerifyAcctRequest()
    good = received.CreateReply().ReplyPacket()
    radius.judge_accounting(request, good)
    stranger = AcctPacket(packet=request.octets, secret=b"another").CreateReply().ReplyPacket()
    with pytest.raises(Invalid):
        radius.judge_accounting(request, stranger)


def dynamic(code: int, secret: bytes = SECRET) -> bytes:
    packet = CoAPacket(code, 3, secret)
    packet[Attribute.USER_NAME] = [b"carol"]
    octets: bytes = packet.RequestPacket()
    return octets


@pytest.mark.parametrize("code", [radius.DISCONNECT_REQUEST, radius.COA_REQUEST])
def test_a_disconnect_is_obeyed_only_with_the_secret(code: int) -> None:
    request = radius.read_dynamic(dynamic(code), SECRET)
    assert request.attributes["User-Name"] == [b"carol"]
    assert radius.answer_dynamic(request, done=True)[0] == code + 1
    assert radius.answer_dynamic(request, done=False, error_cause=503)[0] == code + 2
    with pytest.raises(Invalid):
        radius.read_dynamic(dynamic(code, b"another"), SECRET)


def relayed(answer: Any) -> Any:
    conversation = relay(HERE, HERE, 1)(b"carol", Packet(Code.RESPONSE, 0, EapType.IDENTITY, b"carol"))
    assert isinstance(next(conversation), AskRadius)
    return conversation.send(answer)


@pytest.mark.parametrize("code", [2, 3, 11])
@pytest.mark.parametrize("text", ["", "0101000504", "03010004", "04010004", "0201000504"])
def test_v56_what_radius_says_and_what_eap_says_must_agree(code: int, text: str) -> None:
    """RFC 3579, section 2.6.3: an Accept with a Failure inside, a Challenge with a Success."""
    eap = bytes.fromhex(text)
    answer = RadiusAnswer(code, eap, (), "one", MSK)
    if (code, eap[:1]) == (11, b"\x01"):
        assert relayed(answer) == eap
    elif (code, eap[:1]) == (2, b"\x03"):
        with pytest.raises(StopIteration):
            relayed(answer)
    else:
        with pytest.raises(EapFailed):
            relayed(answer)


def accepted(method: int, *attributes: tuple[str, bytes]) -> Finished:
    """What a relay comes to when the server asks by this method once, and accepts with these attributes."""
    conversation = relay(HERE, HERE, 1)(b"boss", Packet(Code.RESPONSE, 0, EapType.IDENTITY, b"boss"))
    next(conversation)
    conversation.send(RadiusAnswer(11, Packet(Code.REQUEST, 1, method, b"x").encode(), (), "one", b""))
    conversation.send(Packet(Code.RESPONSE, 1, method, b"y").encode())
    success = Packet(Code.SUCCESS, 1).encode()
    with pytest.raises(StopIteration) as end:
        conversation.send(RadiusAnswer(2, success, (), "one", MSK, attributes))
    finished: Finished = end.value.value
    return finished


TUNNELS = [EapType.TTLS, EapType.PEAP]


@pytest.mark.parametrize("method", [*TUNNELS, EapType.MSCHAPV2, EapType.TLS])
def test_t25_who_the_user_is_says_the_server_not_the_name_outside_of_a_tunnel(method: int) -> None:
    said = accepted(method, ("User-Name", b"mallory"))
    assert (said.outcome.identity, said.outcome.claimed) == (b"mallory", False)
    assert accepted(method).outcome.claimed == (method in TUNNELS)


@pytest.mark.parametrize("eap_id", ["boss", "*", None])
@pytest.mark.parametrize("named", [b"mallory", b"boss", b""])
def test_t25_a_name_outside_of_a_tunnel_opens_no_connection_of_its_own(
    eap_id: str | None, named: bytes
) -> None:
    """It comes in as boss, is somebody else inside, and the connection is for boss."""
    remote = RemoteAuth(AuthClass.EAP, radius=True, eap_id=Identity.parse(eap_id) if eap_id else None)
    loaded: Any = SimpleNamespace(connection=SimpleNamespace(remote=(remote,)))
    context: Any = None
    table = Candidates(context, [Candidate(loaded, Identity.parse("gw.example.org"))], alone=False)
    finished = accepted(EapType.PEAP, *((("User-Name", named),) if named else ()))
    if (eap_id == "boss" and named != b"boss") or (eap_id == "*" and not named):
        with pytest.raises(IkeError) as refused:
            table.check(finished)
        assert refused.value.reason is Reason.PEER_ID_MISMATCH
    else:
        table.check(finished)


@pytest.mark.parametrize("answer", [None, True, "yes"])
def test_no_answer_is_no_success(answer: object) -> None:
    with pytest.raises(EapFailed):
        relayed(answer)
