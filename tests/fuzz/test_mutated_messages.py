"""Mutated messages through the parser: nothing but `Malformed` comes out, and quickly."""

from __future__ import annotations

import contextlib
import time
from random import Random

import pytest

from cygnet.crypto.proposals import parse_proposals
from cygnet.ike.errors import PeerIncompatible, PeerMisbehaved
from cygnet.ike.proposals import check_answer, select
from cygnet.ike.v2.legality import judge
from cygnet.testing import corpus
from cygnet.testing.mutate import mutate, with_fitting_length
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import MAX_MESSAGE, Header, Message, decode, decode_payloads, encode, encode_payloads
from cygnet.wire.numbers import Exchange
from cygnet.wire.payloads import Proposal, SaPayload, Transform

CLEAR = list(corpus.clear_messages().values())
INNER = list(corpus.plaintexts().values())
OURS = {3: parse_proposals("default", 3), 1: parse_proposals("default", 1)}


def judged(message: Message, *, protected: bool) -> None:
    repr(message)
    try:
        judge(message, protected=protected)
    except PeerMisbehaved:
        return
    for offer in message.all(SaPayload):
        protocol = 1 if offer.proposals[0].protocol == 1 else 3
        with contextlib.suppress(PeerIncompatible):
            select(offer, OURS[protocol])
        with contextlib.suppress(PeerMisbehaved):
            check_answer(corpus.IKE_OFFER, offer)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_datagrams_are_decoded_or_malformed(seed: int) -> None:
    random = Random(seed)
    for _ in range(5_000):
        datagram = mutate(random.choice(CLEAR), random, CLEAR)
        if random.random() < 0.9:
            datagram = with_fitting_length(datagram)
        try:
            message = decode(datagram)
        except Malformed:
            continue
        assert encode(message.header, message.payloads) == datagram
        judged(message, protected=False)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_contents_are_decoded_or_malformed(seed: int) -> None:
    random = Random(1000 + seed)
    octets_of = [octets for _, _, _, octets in INNER]
    for _ in range(5_000):
        exchange, flags, first, octets = random.choice(INNER)
        changed = mutate(octets, random, octets_of)
        if random.random() < 0.1:
            first = random.randrange(256)
        try:
            payloads = decode_payloads(first, changed)
        except Malformed:
            continue
        if first:
            assert encode_payloads(payloads) == (first, changed)
        judged(Message(Header(bytes(8), bytes(8), 0, 2, 0, exchange, flags, 1), payloads), protected=True)


def _timed(datagram: bytes) -> float:
    best = 1.0
    for _ in range(3):
        start = time.perf_counter()
        try:
            message = decode(datagram)
            judge(message, protected=False)
        except (Malformed, PeerMisbehaved):
            pass
        best = min(best, time.perf_counter() - start)
    return best


def test_the_costliest_messages_are_judged_in_bounded_time() -> None:
    """security.md V32, T22: at most 5 ms a message, whatever it holds."""
    many = tuple(Transform(1, 12) for _ in range(16))
    heavy = SaPayload(tuple(Proposal(n, 1, b"", many) for n in range(1, 65)))
    _, octets = encode_payloads([heavy])
    for body in (
        octets * (MAX_MESSAGE // len(octets)),
        b"\x29\0\0\4" * 16_000,
        b"\x21\0\0\4" * 16_000,
        b"\x2f\0\xff\xff\1\0\0\0" + bytes(60_000),
        b"\x2c\0\xff\xff\xff\0\0\0" + b"\7\0\0\x10" * 15_000,
    ):
        header = Header(bytes(8), bytes(8), body[0] or 33, 2, 0, Exchange.IKE_SA_INIT, 8, 0)
        datagram = bytearray(encode(header, []) + body)
        datagram[16] = 33
        assert _timed(with_fitting_length(bytes(datagram))) < 0.02
