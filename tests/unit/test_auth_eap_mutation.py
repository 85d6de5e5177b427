"""B7: more than 20,000 changed proofs of EAP, none of which authenticates."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from cygnet.auth.ask import CheckPassword
from cygnet.auth.eap import gtc, md5, mschapv2, session
from cygnet.auth.eap.method import EapFailed, Outcome
from cygnet.auth.eap.packet import Code, EapType, Packet
from cygnet.auth.eap.session import Finished
from cygnet.auth.errors import AuthenticationError
from cygnet.auth.identity import Identity
from cygnet.auth.passwords import Stored
from cygnet.auth.proof import Proof, prove_with_secret, verify_eap
from cygnet.crypto.entropy import SeededEntropy
from tests.unit.eap_material import told

CAROL = Identity.parse("carol@example.org")
SK_P = bytes(range(32))
OCTETS = bytes(range(200)) * 2
PRF = 5
USER = Stored(b"carol", text=b"open sesame")


def changed(data: bytes, random: Random) -> bytes:
    kind = random.randrange(4)
    if kind == 0 or not data:
        at = random.randrange(8 * len(data)) if data else 0
        return (int.from_bytes(data, "big") ^ 1 << at).to_bytes(len(data), "big") if data else b"x"
    if kind == 1:
        return data[: random.randrange(len(data))]
    if kind == 2:
        return data + random.randbytes(1 + random.randrange(4))
    return random.randbytes(len(data))


def finished(method: int, msk: bytes) -> Finished:
    return Finished(b"", b"carol", method, Outcome(msk=msk))


@pytest.mark.parametrize(
    "method", [EapType.MSCHAPV2, EapType.TLS, EapType.TTLS, EapType.PEAP, EapType.MD5, EapType.GTC]
)
def test_no_changed_auth_authenticates_after_eap(method: int) -> None:
    random = Random(method)
    msk = bytes(range(64)) if method not in (EapType.MD5, EapType.GTC) else b""
    key = msk or SK_P
    good = prove_with_secret(key, PRF, OCTETS)
    done = finished(method, msk)
    assert verify_eap(good, CAROL, None, done, SK_P, PRF, OCTETS).identity == CAROL
    refused = 0
    for number in range(2100):
        proof, octets, sk_p, outcome, method_number = good, OCTETS, SK_P, done, good.method
        match number % 5:
            case 0 | 1:
                proof = Proof(good.method, changed(good.data, random))
            case 2:
                octets = changed(OCTETS, random)
            case 3 if msk:
                outcome = finished(method, changed(msk, random))
            case 3:
                sk_p = changed(SK_P, random)
            case _:
                method_number = random.choice([0, 1, 3, 9, 13, 14, 255])
                proof = Proof(method_number, good.data)
        with pytest.raises(AuthenticationError):
            verify_eap(proof, CAROL, None, outcome, sk_p, PRF, octets)
        refused += 1
    assert refused == 2100


def test_a_method_that_makes_keys_and_made_none_authenticates_nobody() -> None:
    """CVE-2021-45079: success without a key is none, though SK_p would fit."""
    proof = prove_with_secret(SK_P, PRF, OCTETS)
    for method in (EapType.MSCHAPV2, EapType.TLS, EapType.TTLS, EapType.PEAP):
        with pytest.raises(AuthenticationError):
            verify_eap(proof, CAROL, None, finished(method, b""), SK_P, PRF, OCTETS)


def test_t26_auth_made_with_the_ordinary_key_is_refused_where_eap_made_one() -> None:
    proof = prove_with_secret(SK_P, PRF, OCTETS)
    with pytest.raises(AuthenticationError):
        verify_eap(proof, CAROL, None, finished(EapType.MSCHAPV2, bytes(range(64))), SK_P, PRF, OCTETS)


@pytest.mark.parametrize("outcome", [True, False, None, 1, 0, -1, "yes", b"", object()])
def test_v50_nothing_but_true_is_a_right_password(outcome: object) -> None:
    hashed = Stored(
        b"carol", scrypt="$scrypt$ln=15,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAA"
    )
    running = gtc.server(lambda name: hashed).start(b"carol", SeededEntropy(1))
    next(running)
    assert isinstance(running.send(Packet(Code.RESPONSE, 1, EapType.GTC, b"x")), CheckPassword)
    with pytest.raises(StopIteration if outcome is True else EapFailed):
        running.send(outcome)


SERVERS: dict[str, Any] = {"md5": md5.server, "gtc": gtc.server, "mschapv2": mschapv2.server}


@pytest.mark.parametrize("method", list(SERVERS))
def test_no_changed_response_authenticates(method: str) -> None:
    """What a method does not look at (names, reserved octets) is left as it is."""
    random = Random(len(method))
    kind = {"md5": EapType.MD5, "gtc": EapType.GTC, "mschapv2": EapType.MSCHAPV2}[method]

    def begin() -> tuple[session.Conversation, bytes]:
        server = session.serve(
            lambda name: [SERVERS[method](lambda name: USER)], SeededEntropy(3), b"carol", ask_name=False
        )
        request = next(server)
        assert isinstance(request, bytes)
        return server, request

    _, request = begin()
    make = {
        "md5": lambda: md5.client(b"carol", USER.text),
        "gtc": lambda: gtc.client(USER.text),
        "mschapv2": lambda: mschapv2.client(b"carol", USER),
    }[method]()
    client = session.respond(b"carol", [make], SeededEntropy(4))
    next(client)
    reply = told(client, request)
    assert reply is not None
    good = reply.data
    spans = {"md5": [(5, 22)], "gtc": [(5, len(good))], "mschapv2": [(5, 6), (10, 26), (34, 58)]}[method]
    for _ in range(2800):
        at = random.choice([place for start, end in spans for place in range(start, end)])
        bad = good[:at] + bytes((good[at] ^ random.randrange(1, 256),)) + good[at + 1 :]
        server, _ = begin()
        try:
            step = server.send(bad)
        except EapFailed:
            continue
        except StopIteration:
            raise AssertionError(f"octet {at} of {kind}") from None
        # MSCHAPv2 would go on with its own success.
        raise AssertionError(f"octet {at} is not looked at: {step!r}")
