"""Certificates that end soon: ours and our CAs', noticed before a peer refuses them.

A certificate is told of when it has a month left, two weeks, one, three days, one, and when it has ended.
What goes (replaced, unloaded) is forgotten; what comes is looked at like the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cygnet.auth.certificate import Certificate
from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import CredentialError

DAY = 86_400.0
STAGES = (30 * DAY, 14 * DAY, 7 * DAY, 3 * DAY, DAY, 0.0)
"""Seconds that are left when it is told."""
EVERY = 3600.0
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """`ends` is POSIX seconds; `ca`: one that peers' certificates are judged by."""

    title: str
    ends: float
    ca: bool
    der: bytes

    def text(self, wall: float) -> str:
        """A sentence for people."""
        whose = "the CA certificate" if self.ca else "our certificate"
        left = self.ends - wall
        if left <= 0:
            return f"{whose} {self.title} has expired"
        days = int(left // DAY)
        when = f"in {days} days" if days > 1 else "in a day" if days else f"in {int(left // 3600)} hours"
        return f"{whose} {self.title} expires {when}"


def expiring(credentials: Credentials, named: Iterable[bytes], wall: float) -> tuple[Expiring, ...]:
    """What ends within the first stage, the first to end first. `named`: our certificates (DER) that
    connections hold themselves; of the loaded ones those count that we have the key of, and the CAs."""
    anchors = {one.der for one in credentials.anchors()}
    mine: dict[bytes, Certificate] = {}
    for one in credentials.certificates():
        if one.der in anchors or credentials.key_for(one.der) is not None:
            mine[one.der] = one
    for der in named:
        try:
            mine.setdefault(der, credentials.certificate_of(der))
        except CredentialError:
            # It is told where it is used.
            continue
    found = [
        Expiring(one.title, one.not_after, one.der in anchors, one.der)
        for one in mine.values()
        if one.not_after - wall <= STAGES[0]
    ]
    return tuple(sorted(found, key=lambda one: (one.ends, one.title)))


class Watch:
    """Tells each stage of each certificate once."""

    def __init__(self) -> None:
        self._told: dict[bytes, int] = {}
        self._next = 0.0

    def is_due(self, wall: float) -> bool:
        """Whether it is time to look; a clock that was set back is no reason to wait."""
        return not self._next - EVERY <= wall < self._next

    def news(self, found: Sequence[Expiring], wall: float) -> tuple[Expiring, ...]:
        """Those that have entered a further stage since they were told of last."""
        self._next = wall + EVERY
        reached = {one.der: sum(one.ends - wall <= left for left in STAGES) for one in found}
        told = tuple([one for one in found if reached[one.der] > self._told.get(one.der, 0)])
        self._told = reached
        return told
