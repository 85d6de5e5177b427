"""What people hear of what did not come about: of which connection, of which child, and the two offers."""

from __future__ import annotations

from cygnet.ike.errors import Reason
from cygnet.ike.events import NegotiationFailed
from cygnet.testing import Gateway, Pair, connection_text

PLAIN = 'proposals = ["aes256gcm16-prfsha384-x25519"]'
NO_PFS = 'esp_proposals = ["aes256gcm16"]'
MORE = ("10.101.1.0/24", "10.102.1.0/24")


def ended(gateway: Gateway, operation: int) -> Reason | None:
    assert gateway.network.run_until(lambda: operation in gateway.operations, timeout=400)
    failure = gateway.operations[operation]
    return failure.reason if failure is not None else None


def up_but_for_more(settings: str = NO_PFS, b_settings: str = NO_PFS, moved: str = "") -> Pair:
    """`net` is up; of `more`, `b` has its side elsewhere (`moved`), or other algorithms."""
    pair = Pair(3, connection=PLAIN, children=("net", "more"), settings=settings)
    pair.network.detach(pair.b)
    text = pair.b_text.replace(MORE[1], moved or MORE[1])
    head, mark, more = text.partition("[connections.peer.children.more]")
    pair.b = Gateway(pair.network, "b", str(pair.b.address), head + mark + more.replace(settings, b_settings))
    assert ended(pair.a, pair.a.initiate("peer", "net")) is None
    assert ended(pair.a, pair.a.initiate("peer", "more")) is not None
    return pair


def test_selectors_refused_in_create_child_sa_are_shown_of_the_child_that_was_refused() -> None:
    pair = up_but_for_more(moved="10.77.1.0/24")
    (ours,), (theirs,) = pair.a.of(NegotiationFailed), pair.b.of(NegotiationFailed)
    assert ours.failure.reason is theirs.failure.reason is Reason.SELECTOR_MISMATCH
    assert ours.child == "more"
    assert ours.failure.difference.ours == " === ".join(MORE)
    assert ours.failure.difference.theirs == ""
    assert "10.77.1.0/24 === 10.101.1.0/24" in theirs.failure.difference.ours
    assert theirs.failure.difference.theirs == " === ".join(reversed(MORE))


def test_algorithms_refused_in_create_child_sa_are_told_of_the_child_at_both_ends() -> None:
    pair = up_but_for_more(b_settings='esp_proposals = ["aes128-sha256"]')
    (ours,), (theirs,) = pair.a.of(NegotiationFailed), pair.b.of(NegotiationFailed)
    assert ours.child == theirs.child == "more"
    assert ours.failure.reason is theirs.failure.reason is Reason.CHILD_PROPOSAL_MISMATCH
    assert "AES_GCM_16" in ours.failure.difference.ours
    assert "AES_CBC" in theirs.failure.difference.ours
    assert "AES_GCM_16" in theirs.failure.difference.theirs


def test_a_mismatch_of_whose_addresses_fit_one_connection_stands_there() -> None:
    pair = Pair(1, a_only=PLAIN, b_only='proposals = ["aes256gcm16-prfsha384-modp3072"]')
    assert ended(pair.a, pair.a.initiate("peer", "net")) is Reason.IKE_PROPOSAL_MISMATCH
    entries = list(pair.b.endpoint.history)
    assert {entry.connection for entry in entries} == {"peer"}
    entry = entries[0]
    assert not entry.initiator
    assert entry.peer == str(pair.a.address)
    assert entry.failure.reason is Reason.IKE_PROPOSAL_MISMATCH
    assert entry.failure.difference is not None
    assert "CURVE_25519" in entry.failure.difference.theirs
    assert "MODP_3072" in entry.failure.difference.ours


def test_a_mismatch_of_whom_several_connections_may_mean_stands_at_none_of_them() -> None:
    other = 'proposals = ["aes256gcm16-prfsha384-modp3072"]'
    pair = Pair(1, a_only=PLAIN, b_only=other)
    second = connection_text("second", 2, 1, connection=other, children=("further",))
    pair.network.detach(pair.b)
    pair.b = Gateway(pair.network, "b", str(pair.b.address), pair.b_text + second.partition("[secrets")[0])
    assert ended(pair.a, pair.a.initiate("peer", "net")) is Reason.IKE_PROPOSAL_MISMATCH
    assert {entry.connection for entry in pair.b.endpoint.history} == {""}


def test_a_rekey_that_the_peer_refuses_is_called_one_until_the_next_one_comes_about() -> None:
    """The peer takes no second IKE SA within a second of the first (T30): who asked for it hears so."""
    pair = Pair(2, connection=PLAIN)
    assert ended(pair.a, pair.a.initiate("peer", "net")) is None
    (sa,) = pair.a.sas()
    assert ended(pair.a, pair.a.rekey()) is Reason.PEER_BUSY
    (told,) = pair.a.of(NegotiationFailed)
    assert told.ike_sa == sa.unique_id
    assert told.failure.detail.startswith(f"rekey of IKE_SA #{sa.unique_id}: the peer is busy")
    assert told.failure.detail.endswith("; it is tried again")
    assert len(pair.a.endpoint.history.of("peer")) == 1
    pair.network.run_for(5)
    assert ended(pair.a, pair.a.rekey()) is None
    assert pair.a.endpoint.history.of("peer") == ()
