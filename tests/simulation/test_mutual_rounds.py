"""Several rounds of authentication of either side (RFC 4739): all that is demanded is proved."""

from __future__ import annotations

import pytest

from cygnet.testing import ACTS, Fault, Gateway, Network, assert_agreement, connection_text

PLAIN = 'proposals = ["aes256gcm16-prfsha256-x25519"]\ndpd_delay = "60s"\nencap = "no"\n'
SECRETS = """
[secrets.ike-second]
id = ["g1.example.org", "g2.example.org", "a2.example.org", "b2.example.org"]
secret = "a second secret that is long enough"
[secrets.eap-carol]
id = "carol"
secret = "Ar3etTnp"
"""
REFUSED = "peer-refused-authentication"
WAYS = {
    # The rounds of the initiator `a` and of the responder `b`: identities, `carol` by password.
    "gateway twice": (["g1"], ["g2", "b2"]),
    "both twice": (["g1", "a2"], ["g2", "b2"]),
    "gateway three times": (["g1"], ["g2", "b2", "b2"]),
    "gateway twice, user by password": (["carol"], ["g2", "b2"]),
    "gateway twice, machine and user": (["g1", "carol"], ["g2", "b2"]),
}


def sections(side: str, rounds: list[str]) -> str:
    found = []
    for number, who in enumerate(rounds, 1):
        auth, more = 'auth = "psk"', f'id = "{who}.example.org"'
        if who == "carol":
            auth, more = 'auth = "eap-md5"', 'id = "g1.example.org"\neap_id = "carol"'
        found.append(f"[connections.peer.{side}-{number}]\nround = {number}\n{auth}\n{more}\n")
    return "".join(found)


def text(local: int, remote: int, ours: list[str], theirs: list[str]) -> str:
    whole = connection_text("peer", local, remote, connection=PLAIN)
    start, end = whole.index("[connections.peer.local]"), whole.index("[connections.peer.children")
    return whole[:start] + sections("local", ours) + sections("remote", theirs) + whole[end:] + SECRETS


class Pair:
    """`a` begins. Each side proves `rounds`, and wants of the other what `wanted` says."""

    def __init__(self, rounds: tuple[list[str], list[str]], wanted: tuple[list[str], list[str]]) -> None:
        self.network = Network(11)
        self.a = Gateway(self.network, "a", "192.0.2.1", text(1, 2, rounds[0], wanted[1]))
        self.b = Gateway(self.network, "b", "192.0.2.2", text(2, 1, rounds[1], wanted[0]))

    def run(self) -> int:
        operation = self.a.initiate("peer", "net")
        self.network.run_for(400.0)
        return operation


@pytest.mark.parametrize("way", list(WAYS))
def test_all_rounds_of_both_sides_are_gone_through(way: str) -> None:
    pair = Pair(WAYS[way], WAYS[way])
    operation = pair.run()
    assert pair.a.operations[operation] is None
    assert_agreement(pair.a, pair.b, up=[("peer", "net")])
    ours, theirs = WAYS[way]
    assert str(pair.a.sas()[0].remote_id) == "g2.example.org"
    messages = sum(flight.ike_index >= 0 for flight in pair.network.trace if flight.source == pair.a.address)
    assert messages >= 1 + max(len(ours), len(theirs))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["g2"], ["g2", "b2"]),
        (["g2", "b2"], ["g2"]),
        (["b2"], ["g2", "b2"]),
        (["g2", "g2"], ["g2", "b2"]),
        (["g2", "b2"], ["g2", "b2", "b2"]),
    ],
    ids=["second left out", "one too many", "first left out", "the first twice", "third left out"],
)
def test_a_gateway_that_does_not_prove_all_that_is_demanded_is_no_gateway(
    given: list[str], wanted: list[str]
) -> None:
    # With two rounds of its own it announces that it does several.
    pair = Pair((["g1", "a2"], given), (["g1", "a2"], wanted))
    operation = pair.run()
    failure = pair.a.operations[operation]
    assert failure is not None
    # A gateway that is somebody else is not the one that was asked for, and says so itself.
    asked = given[0] == wanted[0]
    assert failure.reason in (("auth-method-mismatch", "peer-id-mismatch") if asked else (REFUSED,))
    assert not pair.a.sas()
    assert not pair.b.sas()


def test_a_wrong_second_secret_of_the_gateway_is_found() -> None:
    pair = Pair(WAYS["gateway twice"], WAYS["gateway twice"])
    pair.b.endpoint.credentials.add_shared("ike-second", "ike", b"another secret, just as long as the other")
    operation = pair.run()
    failure = pair.a.operations[operation]
    assert failure is not None
    assert failure.reason == "psk-mismatch"
    assert not pair.a.sas()


@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize("way", ["both twice", "gateway twice, user by password"])
def test_any_single_fault_ends_with_both_sides_agreeing(way: str, act: str) -> None:
    quiet = Pair(WAYS[way], WAYS[way])
    quiet.a.initiate("peer", "net")
    quiet.network.run_for(2.0)
    for gateway in (quiet.a, quiet.b):
        count = sum(f.source == gateway.address and f.ike_index >= 0 for f in quiet.network.trace)
        for position in range(1, count):
            pair = Pair(WAYS[way], WAYS[way])
            fault = Fault(gateway.address, position, ACTS[act])
            pair.network.meddlers.append(fault)
            operation = pair.run()
            assert fault.hit
            if act != "doubled late":
                assert pair.a.operations[operation] is None
            if pair.a.operations[operation] is None:
                assert_agreement(pair.a, pair.b, up=[("peer", "net")])
            else:
                assert not pair.a.sas()
                assert not pair.b.sas()
