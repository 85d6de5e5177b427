"""What every SA counts, whatever its protocol and direction (RFC 4301, section 4.4.2.1)."""

from __future__ import annotations

from cygnet.ipsec.drops import Drop
from cygnet.policy.sa import SaParameters


class Association:
    """`installed_at` and `last_used` are monotonic seconds; -1: never used."""

    __slots__ = ("bytes", "drops", "installed_at", "last_used", "packets", "parameters")

    def __init__(self, parameters: SaParameters, now: float) -> None:
        self.parameters = parameters
        self.bytes = 0
        self.packets = 0
        self.installed_at = now
        self.last_used = -1.0
        self.drops: dict[str, int] = {}

    def drop(self, reason: Drop, count: int = 1) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + count
