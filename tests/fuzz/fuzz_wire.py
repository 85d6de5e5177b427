"""Fuzz target: datagrams and sealed contents through decoder, table of legality, and choice of proposals."""

from __future__ import annotations

from contextlib import suppress

from cygnet.crypto.proposals import parse_proposals
from cygnet.ike.errors import PeerIncompatible, PeerMisbehaved
from cygnet.ike.proposals import check_answer, select
from cygnet.ike.v2.legality import judge
from cygnet.testing import corpus, fuzzing
from cygnet.testing.mutate import with_fitting_length
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Message, decode, decode_payloads, encode, encode_payloads
from cygnet.wire.numbers import Protocol
from cygnet.wire.payloads import SaPayload

OURS = {protocol: parse_proposals("default", protocol) for protocol in (Protocol.IKE, Protocol.ESP)}


def one(data: bytes) -> None:
    """First octet odd: a datagram, whose length is made right unless bit 1 is set; even: the content of an
    SK payload (type of its first payload, exchange, the chain)."""
    if not data:
        return
    selector, octets = data[0], data[1:]
    if selector & 1:
        datagram = octets if selector & 2 else with_fitting_length(octets)
        with suppress(Malformed):
            message = decode(datagram)
            if encode(message.header, message.payloads) != datagram:
                raise AssertionError("decode and encode gave other octets")
            judged(message, protected=False)
        return
    if len(octets) < 2:
        return
    first, exchange, content = octets[0], octets[1], octets[2:]
    with suppress(Malformed):
        payloads = decode_payloads(first, content)
        if encode_payloads(payloads) != (first, content):
            raise AssertionError("decode and encode gave other octets")
        message = Message(corpus.header(exchange, 0x20 if selector & 2 else 0), payloads)
        judged(message, protected=True)


def judged(message: Message, *, protected: bool) -> None:
    repr(message)
    try:
        judge(message, protected=protected)
    except PeerMisbehaved:
        return
    for offer in message.all(SaPayload):
        with suppress(PeerIncompatible):
            select(offer, OURS[1 if offer.proposals[0].protocol == Protocol.IKE else 3])
        with suppress(PeerMisbehaved):
            check_answer(corpus.IKE_OFFER, offer)


def seeds() -> list[bytes]:
    return [b"\1" + datagram for datagram in corpus.clear_messages().values()] + [
        bytes((2 if flags & 0x20 else 0, first, exchange)) + octets
        for exchange, flags, first, octets in corpus.plaintexts().values()
    ]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
