"""When an SA is rekeyed (soft) and when it must not be used any more (hard), with jitter.

Jitter is subtracted, as strongSwan does it: two ends with the same configuration seldom rekey at
once (RFC 7296, section 2.8.1). Deadlines are monotonic seconds; 0 means never.
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.entropy import Entropy
from cygnet.ike.configuration import Child, Connection
from cygnet.policy.sa import Volume

RETRY_AFTER: Final = 10.0
"""Seconds, and up to as many again at random, until what the peer was too busy for is tried anew (RFC 7296,
section 2.25: never at once)."""
RETRY_AT_LEAST: Final = 1.0
"""Seconds of that pause, however near the hard end is: else the tries come ever faster towards it."""


def _soft(limit: float, random_part: float, entropy: Entropy) -> float:
    """`limit` less a random part of `random_part`, but never less than half of it."""
    if limit <= 0:
        return 0.0
    return max(limit - min(random_part, limit) * entropy.uniform(), limit / 2)


def ike_deadlines(connection: Connection, now: float, entropy: Entropy) -> tuple[float, float, float]:
    """(rekey at, reauthenticate at, expire at) of an IKE SA established now."""
    rekey = _soft(connection.rekey_time, connection.rand_time, entropy)
    reauth = _soft(connection.reauth_time, connection.rand_time, entropy)
    limits = [limit for limit in (connection.rekey_time, connection.reauth_time) if limit > 0]
    expire = min(limits) + connection.over_time if limits else 0.0
    return (now + rekey if rekey else 0.0, now + reauth if reauth else 0.0, now + expire if expire else 0.0)


def child_deadlines(child: Child, now: float, entropy: Entropy) -> tuple[float, float]:
    """(rekey at, expire at) of a Child SA installed now."""
    soft = _soft(child.rekey_time, child.rand_time, entropy)
    hard = child.life_time
    return (now + soft if soft else 0.0, now + hard if hard > 0 else 0.0)


def pause_before_retry(now: float, expires_at: float, entropy: Entropy) -> float:
    """Seconds until another try: at most half of what is left before the hard end (0: there is none), but
    never less than a second."""
    pause = RETRY_AFTER
    if expires_at:
        pause = max(min(pause, (expires_at - now) / 4), RETRY_AT_LEAST)
    return pause * (1.0 + entropy.uniform())


def child_volume(child: Child, entropy: Entropy) -> Volume:
    """The limits that the data plane counts."""
    return Volume(
        soft_bytes=int(_soft(child.rekey_bytes, child.rand_bytes, entropy)),
        hard_bytes=max(child.life_bytes, 0),
        soft_packets=int(_soft(child.rekey_packets, child.rand_packets, entropy)),
        hard_packets=max(child.life_packets, 0),
    )
