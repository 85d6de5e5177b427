"""Fuzz target: datagrams and sealed contents through the decoder and the table of legality."""

from __future__ import annotations

from cygnet.ike.errors import PeerMisbehaved
from cygnet.ike.v2.legality import judge
from cygnet.testing import corpus, fuzzing
from cygnet.testing.mutate import with_fitting_length
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Message, decode, decode_payloads, encode, encode_payloads


def one(data: bytes) -> None:
    """First octet odd: a datagram, whose length is made right; even: the content of an SK payload."""
    if not data:
        return
    selector, octets = data[0], data[1:]
    if selector & 1:
        datagram = with_fitting_length(octets)
        try:
            message = decode(datagram)
        except Malformed:
            return
        if encode(message.header, message.payloads) != datagram:
            raise AssertionError("decode and encode gave other octets")
        protected = False
    else:
        first, content = octets[:1] or b"\0", octets[2:]
        try:
            payloads = decode_payloads(first[0], content)
        except Malformed:
            return
        if first[0] and encode_payloads(payloads) != (first[0], content):
            raise AssertionError("decode and encode gave other octets")
        exchange = octets[1] if len(octets) > 1 else 35
        message = Message(corpus.header(exchange, 0x20 if selector & 2 else 0), payloads)
        protected = True
    repr(message)
    try:
        judge(message, protected=protected)
    except PeerMisbehaved:
        return


def seeds() -> list[bytes]:
    return [b"\1" + datagram for datagram in corpus.clear_messages().values()] + [
        bytes((2 if flags & 0x20 else 0, first, exchange)) + octets
        for exchange, flags, first, octets in corpus.plaintexts().values()
    ]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
