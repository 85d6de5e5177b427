"""What a hostile message may cost: bounded time, whatever it holds (security.md V32, T22)."""

from __future__ import annotations

import time
from contextlib import suppress

from cygnet.ike.errors import PeerMisbehaved
from cygnet.ike.v2.legality import judge
from cygnet.testing.mutate import with_fitting_length
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import MAX_MESSAGE, Header, decode, encode, encode_payloads
from cygnet.wire.numbers import Exchange
from cygnet.wire.payloads import Proposal, SaPayload, Transform


def _timed(datagram: bytes) -> float:
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        with suppress(Malformed, PeerMisbehaved):
            judge(decode(datagram), protected=False)
        best = min(best, time.perf_counter() - start)
    return best


def test_the_costliest_messages_are_judged_in_bounded_time() -> None:
    """5 ms on an idle machine; here with room for a busy one."""
    many = tuple(Transform(1, n) for n in range(16))
    heavy = SaPayload(tuple(Proposal(n, 1, b"", many) for n in range(1, 65)))
    _, octets = encode_payloads([heavy])
    for body in (
        octets * (MAX_MESSAGE // len(octets)),
        b"\x29\0\0\4" * 16_000,
        b"\x21\0\0\4" * 16_000,
        b"\x2f\0\xff\xff\1\0\0\0" + bytes(60_000),
        b"\x2c\0\xff\xff\xff\0\0\0" + b"\7\0\0\x10" * 15_000,
    ):
        header = Header(bytes(8), bytes(8), 0, 2, 0, Exchange.IKE_SA_INIT, 8, 0)
        datagram = bytearray(encode(header, []) + body)
        datagram[16] = 33
        assert _timed(with_fitting_length(bytes(datagram))) < 0.02
