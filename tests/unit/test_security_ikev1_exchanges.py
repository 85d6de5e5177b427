"""IKEv1's cases of the catalogue that are about a live SA: what is forged with its own keys, what follows.

Cases that a peer by hand shows, before there is an SA or beside it, are in `test_security_ikev1`.
"""

from __future__ import annotations

import time

import pytest

from cygnet.ike.errors import PeerIncompatible, Reason
from cygnet.ike.events import NegotiationFailed, Noted
from cygnet.ike.v1 import client_ids
from cygnet.ike.v1.protection import MAX_REASSEMBLED, Reassembly, split
from cygnet.ike.v1.steps import Unproven
from cygnet.policy.selectors import TrafficSelector
from cygnet.testing import ACTS, Fault, Pair, assert_agreement, connection_text
from cygnet.testing.gateway import Gateway
from cygnet.wire.message import Header
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import decode, encode
from cygnet.wire.v1.numbers import Exchange, IdType, Notify, Protocol
from cygnet.wire.v1.payloads import (
    DeletePayload,
    FragmentPayload,
    HashPayload,
    IdPayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
)
from tests.unit.ikev1_forger import AGGRESSIVE_PSK, CONNECTION, Forger, pair, sa_of

NOTIFIES = (*range(1, 31), 8192, 16384, 24576, 24577, 24578, 36136, 36137, 40501, 65535)
UP = (("peer", "net"),)


def notify(kind: int, spi: bytes = b"", data: bytes = bytes(4)) -> NotifyPayload:
    return NotifyPayload(Protocol.ISAKMP, spi, kind, data)


def test_v1_r_u_there_for_another_sa_gets_no_answer() -> None:
    both = pair().up()
    forger = Forger(both, both.b, both.a)
    sent = both.network.ike_datagrams_of(both.b.address)
    for spi in (b"", b"\x33" * 16, bytes(16)):
        forger.sealed([notify(Notify.R_U_THERE, spi)])
    assert both.network.ike_datagrams_of(both.b.address) == sent
    forger.sealed([notify(Notify.R_U_THERE, sa_of(both.b).state.spi_i + sa_of(both.b).state.spi_r)])
    assert both.network.ike_datagrams_of(both.b.address) == sent + 1


def test_v17_t10_a_delete_or_notify_counts_only_behind_a_hash_that_is_right() -> None:
    """CVE-2019-10155: the HASH of informational messages was never verified. Each octet of HASH and of the
    body flipped; no HASH, one that is not first, a wrong one, two of them."""
    both = pair().up()
    forger = Forger(both, both.b, both.a)
    [child] = sa_of(both.b).state.children
    delete = DeletePayload(Protocol.ESP, (child.spi_out.to_bytes(4, "big"),))
    before = sa_of(both.b).state
    cookies = before.spi_i + before.spi_r
    for said, length in (
        (delete, 4 + 32 + 4 + 12),
        (DeletePayload(Protocol.ISAKMP, (cookies,)), 4 + 32 + 4 + 24),
        (notify(Notify.INITIAL_CONTACT, cookies, b""), 4 + 32 + 4 + 24),
    ):
        for at in range(4, length):
            assert forger.sealed([said], flip=[at]), at
            assert sa_of(both.b).state.children == (child,)
        assert forger.sealed([said], hashed=False) == ["malformed"]
        assert forger.sealed([said, HashPayload(bytes(32))], hashed=False) == ["malformed"]
        for wrong in (bytes(32), b"x" * 31, b""):
            assert forger.sealed([HashPayload(wrong), said], hashed=False) in (["integrity"], ["malformed"])
        assert forger.sealed([HashPayload(bytes(32)), said]) == ["malformed"]
        assert sa_of(both.b).state == before
    assert forger.sealed([delete]) == []
    assert sa_of(both.b).state.children == ()


def test_v17_what_was_said_once_under_a_message_id_cannot_be_said_again() -> None:
    both = pair().up()
    forger = Forger(both, both.b, both.a)
    [child] = sa_of(both.b).state.children
    assert forger.sealed([notify(Notify.REPLAY_STATUS)], message_id=7) == []
    delete = DeletePayload(Protocol.ESP, (child.spi_out.to_bytes(4, "big"),))
    assert forger.sealed([delete], message_id=7) == ["message-id"]
    both.settle(200)
    assert forger.sealed([delete], message_id=7) == ["message-id"]
    assert len(sa_of(both.b).state.children) == 1


@pytest.mark.parametrize("aggressive", [False, True], ids=["main", "aggressive"])
def test_v18_after_a_refusal_nothing_goes_on_with_the_cookie_that_was_given(aggressive: bool) -> None:
    """The proof is wrong: the half-open SA is gone, and its cookie is nobody's."""
    more = "aggressive = true\n" if aggressive else ""
    both = pair(CONNECTION + more, options=AGGRESSIVE_PSK)
    text = connection_text(
        "peer", 2, 1, connection=CONNECTION + more, settings='esp_proposals = ["aes128-sha256"]',
        secret="another one, of more than twenty octets", version=1,
    )  # fmt: skip
    both.b.die()
    both.b = Gateway(both.network, "b'", "192.0.2.2", f"[options]\n{AGGRESSIVE_PSK}\n{text}")
    operation = both.a.initiate("peer", "net")
    both.network.run_for(3)
    responder = sa_of(both.b)
    spis = responder.state.spi_i, responder.state.spi_r
    forger = Forger(both, both.b, both.a)
    both.settle(300)
    failure = both.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.PSK_MISMATCH
    assert not both.b.endpoint.by_number
    header = Header(*spis, 0, 1, 0, Exchange.QUICK_MODE, 1, 99)
    assert forger.send(encode(header, [HashPayload(bytes(32))])) == ["unknown-spi"]


ODD_IDS = [
    IdPayload(kind, 0, 0, data)
    for kind in (*range(13), 99, 200, 255)
    for data in (
        b"",
        b"x" * 3,
        bytes(4),
        bytes(8),
        bytes(16),
        bytes(32),
        b"\xff" * 8,
        b"\xff" * 40,
        b"a" * 300,
    )
]


def test_v20_client_identities_of_any_type_and_length_name_traffic_or_are_refused() -> None:
    named = 0
    for payload in ODD_IDS:
        try:
            selector = client_ids.from_wire(payload)
        except PeerIncompatible:
            continue
        assert payload.id_type in (1, 4, 5, 6, 7, 8)
        assert 0 <= selector.first <= selector.last
        named += 1
    assert 6 <= named < 20


def test_v20_quick_modes_with_odd_identities_leave_the_sa_as_it_was() -> None:
    """CVE-2023-38711: IDcr of an unexpected type."""
    both = pair().up()
    forger = Forger(both, both.b, both.a)
    good = client_ids.to_wire(TrafficSelector(4, 0, 0x0A010000, 0x0A01FFFF))
    theirs = client_ids.to_wire(TrafficSelector(4, 0, 0x0A020000, 0x0A02FFFF))
    offer = _quick_offer(both)
    children = sa_of(both.b).state.children
    for odd in ODD_IDS:
        for ids in ([odd, theirs], [good, odd], [odd], [odd, odd]):
            payloads: list[Payload] = [offer, NoncePayload(bytes(range(32))), *ids]
            forger.sealed(payloads, Exchange.QUICK_MODE)
    both.settle(200)
    assert sa_of(both.b).state.children == children
    assert not sa_of(both.b).active
    assert_agreement(both.a, both.b, up=UP)
    operation = both.a.rekey("net")
    both.settle(30)
    assert both.a.operations[operation] is None
    assert_agreement(both.a, both.b, up=UP)


def _quick_offer(both: Pair) -> SaPayload:
    from cygnet.crypto.proposals import parse_proposals
    from cygnet.ike.v1.lifetimes import Lifetime
    from cygnet.ike.v1.proposals import offer_phase2

    return offer_phase2(
        parse_proposals("aes128-sha256", Protocol.ESP), b"\x0a\x0b\x0c\x0d", 1, Lifetime(3600), 0
    )


def test_v21_deletes_of_the_same_and_notifies_behind_them_each_count_once() -> None:
    both = pair().up()
    forger = Forger(both, both.b, both.a)
    state = sa_of(both.b).state
    [child] = state.children
    spi = child.spi_out.to_bytes(4, "big")
    cookies = state.spi_i + state.spi_r
    delete = DeletePayload(Protocol.ESP, (spi, spi, spi))
    assert forger.sealed([delete, delete, notify(Notify.R_U_THERE, cookies)]) == []
    assert sa_of(both.b).state.children == ()
    both.settle(30)
    gone = [e for e in both.b.events if type(e).__name__ == "ChildSaDown"]
    assert len(gone) == 1
    isakmp = DeletePayload(Protocol.ISAKMP, (cookies, cookies))
    assert forger.sealed([isakmp, delete, isakmp, notify(Notify.INITIAL_CONTACT, cookies)]) == []
    assert not both.b.endpoint.by_number
    assert len([e for e in both.b.events if type(e).__name__ == "IkeSaDown"]) == 1


def test_v40_pieces_in_the_worst_order_cost_what_they_are_long_and_no_more() -> None:
    header = Header(b"\1" * 8, b"\2" * 8, 0, 1, 0, Exchange.MAIN_MODE, 0, 0)
    datagram = bytes(60_000)
    pieces = [decode(one).payloads[0] for one in split(header, datagram, 300)]
    best = float("inf")
    for _ in range(3):
        table = Reassembly(0.0)
        began = time.process_time()
        whole = None
        for piece in reversed(pieces):
            assert isinstance(piece, FragmentPayload)
            whole = table.add(piece)
        best = min(best, time.process_time() - began)
    assert whole == datagram
    assert best < 0.05
    table = Reassembly(0.0)
    for number in range(1, 66):
        table.add(FragmentPayload(1, number, bytes(1000)))
    with pytest.raises(Unproven):
        table.add(FragmentPayload(1, 66, bytes(1000)))
    assert table.octets <= MAX_REASSEMBLED


def test_t7_pieces_are_taken_only_from_a_peer_that_announced_them_and_within_bounds() -> None:
    both = pair()
    # Half open, no keys yet: they are held, and change nothing.
    second = Fault(both.a.address, 1, ACTS["lost"])
    both.network.meddlers.append(second)
    both.a.initiate("peer", "net")
    both.network.run_for(0.5)
    forger = Forger(both, both.b, both.a)
    responder = sa_of(both.b)
    assert responder.state.isakmp is None
    header = forger.header(Exchange.MAIN_MODE, 0)
    assert forger.send(encode(header, [FragmentPayload(1, 1, bytes(900))])) == []
    assert responder.reassembly is not None
    assert responder.reassembly.octets == 900
    both.network.run_for(5)
    assert sa_of(both.b).takes_fragments
    for number in range(1, 120):
        forger.send(encode(header, [FragmentPayload(1, number, bytes(900))]))
        table = sa_of(both.b).reassembly
        assert table is None or table.octets <= MAX_REASSEMBLED
    both.settle(60)
    assert sa_of(both.b).reassembly is None
    assert_agreement(both.a, both.b, up=UP)


def test_t7_a_peer_without_the_vendor_id_sends_no_pieces() -> None:
    both = pair(a_only=CONNECTION + 'fragmentation = "no"').up()
    assert not sa_of(both.b).takes_fragments
    isakmp = sa_of(both.b).state.isakmp
    assert isakmp is not None
    assert not any(one.startswith(vendor_ids.FRAGMENTATION) for one in isakmp.vendor_ids)
    forger = Forger(both, both.b, both.a)
    datagram = encode(forger.header(Exchange.QUICK_MODE, 5), [FragmentPayload(1, 1, bytes(900))])
    assert forger.send(datagram) == ["fragment"]


def test_t10_refusals_in_clear_are_believed_only_when_they_are_said_again() -> None:
    both = pair()
    both.b.die()
    operation = both.a.initiate("peer", "net")
    both.network.run_for(0.1)
    state = sa_of(both.a).state
    forger = Forger(both, both.a, both.b)
    forger.clear([notify(Notify.NO_PROPOSAL_CHOSEN)], spis=(state.spi_i, bytes(8)))
    both.network.run_for(1.5)
    assert operation not in both.a.operations
    forger.clear([notify(Notify.NO_PROPOSAL_CHOSEN)], spis=(state.spi_i, bytes(8)))
    both.network.run_for(3)
    failure = both.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.IKE_PROPOSAL_MISMATCH


def test_who_is_refused_sees_what_it_offered() -> None:
    both = pair(b_only='proposals = ["aes256-sha512-modp2048"]\n')
    operation = both.a.initiate("peer", "net")
    both.settle(300)
    failure = both.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.IKE_PROPOSAL_MISMATCH
    assert failure.difference is not None
    assert "AES_CBC_128" in failure.difference.ours
    assert failure.difference.theirs == ""


def test_who_does_not_go_on_is_told_of_in_words_of_ikev1() -> None:
    both = pair()
    both.a.initiate("peer", "net")
    both.network.run_until(lambda: bool(both.b.endpoint.by_number))
    both.a.die()
    both.settle(300)
    told = [event.text for event in both.b.events if isinstance(event, Noted)]
    assert "the peer did not go on with phase 1" in told


def test_t12_aggressive_mode_with_a_pre_shared_key_is_refused_unless_asked_for() -> None:
    both = pair(CONNECTION + "aggressive = true\n")
    operation = both.a.initiate("peer", "net")
    both.settle(300)
    failure = both.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.IKE_PROPOSAL_MISMATCH
    assert not both.b.endpoint.by_number
    told = [e for e in both.b.events if isinstance(e, NegotiationFailed)]
    assert told
    assert "pre-shared key is off" in told[0].failure.detail
    # A refusal is smaller than what asked for it, and holds no hash.
    assert all(len(e.data) < 80 for e in both.network.trace if e.source == both.b.address)


def test_ids_are_one_of_the_six_that_name_traffic() -> None:
    assert {client_ids.to_wire(TrafficSelector(4, 6, 1, last, 80, 80)).id_type for last in (1, 2)} == {
        IdType.IPV4_ADDR,
        IdType.IPV4_ADDR_RANGE,
    }
