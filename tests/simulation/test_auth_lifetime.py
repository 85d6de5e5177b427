"""AUTH_LIFETIME (RFC 4478): who begins authenticates anew in time, as the responder says."""

from __future__ import annotations

from cygnet.ike.events import IkeSaUp, MessageSeen
from cygnet.testing import Pair, assert_agreement
from cygnet.wire.numbers import Notify
from cygnet.wire.payloads import NotifyPayload

PLAIN = 'proposals = ["aes256gcm16-prfsha256-x25519"]\n'


def test_the_initiator_authenticates_anew_before_the_responder_s_time_is_over() -> None:
    pair = Pair(5, connection=PLAIN, b_only=PLAIN + 'reauth_time = "600s"\n')
    pair.a.endpoint.observe = True
    pair.up()
    told = [
        int.from_bytes(payload.data, "big")
        for seen in pair.a.of(MessageSeen)
        for payload in seen.message.payloads
        if isinstance(payload, NotifyPayload) and payload.type == Notify.AUTH_LIFETIME
    ]
    assert told == [600]
    before = len(pair.a.of(IkeSaUp))
    pair.network.run_for(500.0)
    assert len(pair.a.of(IkeSaUp)) == before
    pair.network.run_for(60.0)
    assert len(pair.a.of(IkeSaUp)) == before + 1
    assert_agreement(pair.a, pair.b, up=[("peer", "net")])


def test_without_it_nothing_is_said_and_nothing_done() -> None:
    pair = Pair(5, connection=PLAIN).up()
    before = len(pair.a.of(IkeSaUp))
    pair.network.run_for(1000.0)
    assert len(pair.a.of(IkeSaUp)) == before
