"""Lifetimes as IKEv1 says them: attributes of a transform, seconds and kilobytes, in any order and form.

They are no reason to refuse: whoever wants less keeps less, and says so by RESPONDER-LIFETIME (RFC 2407,
sections 4.5.4 and 4.6.3.1). A life type is followed by its duration; a list may hold several such pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.crypto.entropy import Entropy
from cygnet.ike.configuration import Connection
from cygnet.ike.lifetimes import ike_deadlines
from cygnet.ike.v1.methods import remote_login
from cygnet.records import dataclass, replace
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.v1.numbers import LifeType, Notify, Phase1Attribute, Phase2Attribute
from cygnet.wire.v1.payloads import MAX_ATTRIBUTES, Attribute, NotifyPayload
from cygnet.wire.v1.security_association import emit_attributes, parse_attributes

KILOBYTE: Final = 1024
MIN_SECONDS: Final = 60
"""What a peer asks for below this is not obeyed: rekeying all the time is no service to anybody."""
MIN_KILOBYTES: Final = 1024
MIN_MARGIN: Final = 0.1
"""Part of a lifetime that is left for the renewal, whatever the peer made of the lifetime."""

_FIXED_LIMIT: Final = 1 << 16
_PHASE: Final = {
    1: (Phase1Attribute.LIFE_TYPE, Phase1Attribute.LIFE_DURATION),
    2: (Phase2Attribute.LIFE_TYPE, Phase2Attribute.LIFE_DURATION),
}


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds and kilobytes (1024 octets) until an SA must not be used any more; 0: no limit of this kind."""

    seconds: int = 0
    kilobytes: int = 0

    def smaller(self, other: Lifetime) -> Lifetime:
        """The limits that both can keep."""
        return Lifetime(_least(self.seconds, other.seconds), _least(self.kilobytes, other.kilobytes))

    def shorter_than(self, other: Lifetime) -> bool:
        """Whether one of our limits comes earlier than the other's: RESPONDER-LIFETIME should say so."""
        return self.smaller(other) != other


def _least(ours: int, theirs: int) -> int:
    return min(ours, theirs) if ours and theirs else ours or theirs


def attributes_of(life: Lifetime, phase: int) -> tuple[Attribute, ...]:
    """As attributes of a transform. `phase` is 1 or 2. What fits 16 bits is sent in the fixed form."""
    kind, duration = _PHASE[phase]
    attributes: list[Attribute] = []
    for life_type, value in ((LifeType.SECONDS, life.seconds), (LifeType.KILOBYTES, life.kilobytes)):
        if value:
            amount = value if value < _FIXED_LIMIT else min(value, 0xFFFFFFFF).to_bytes(4, "big")
            attributes += Attribute(kind, life_type), Attribute(duration, amount)
    return tuple(attributes)


def read(attributes: Sequence[Attribute], phase: int) -> Lifetime | None:
    """What the attributes say; None when a duration stands without a type, or a type is said twice with
    different durations (RFC 2407, section 4.5.2): such a transform is passed over. Types that have no name
    are passed over by themselves."""
    kind, duration = _PHASE[phase]
    found: dict[int, int] = {}
    life_type: int | None = None
    for attribute in attributes:
        if attribute.type == kind:
            life_type = attribute.number
        elif attribute.type == duration:
            value = attribute.number
            if life_type is None or value is None or found.setdefault(life_type, value) != value:
                return None
            life_type = None
    return Lifetime(found.get(LifeType.SECONDS, 0), found.get(LifeType.KILOBYTES, 0))


def accepted(ours: Lifetime, theirs: Lifetime) -> Lifetime:
    """The smaller of both, but what the peer wants not below the floors."""
    floor = Lifetime(
        max(theirs.seconds, MIN_SECONDS) if theirs.seconds else 0,
        max(theirs.kilobytes, MIN_KILOBYTES) if theirs.kilobytes else 0,
    )
    return ours.smaller(floor)


def soft(ours: float, limit: float, agreed: float) -> float:
    """When to renew what ends at `agreed`: the same margin before the end as configured (`ours` before
    `limit`), at least a tenth and at most half of it all."""
    margin = limit - ours if 0 < ours < limit else agreed * MIN_MARGIN
    latest = agreed - min(max(margin, agreed * MIN_MARGIN), agreed / 2)
    return min(ours, latest) if ours > 0 else latest


def of_phase_1(connection: Connection) -> Lifetime:
    """What we offer: until the new phase 1 must be there. `over_time` is what we grant ourselves beyond."""
    limits = [limit for limit in (connection.rekey_time, connection.reauth_time) if limit > 0]
    return Lifetime(int(min(limits) + connection.over_time)) if limits else Lifetime()


def phase_1_deadlines(
    connection: Connection, life: int, began: float, entropy: Entropy, *, is_initiator: bool
) -> tuple[float, float, float]:
    """(rekey at, reauthenticate at, expire at) of a phase 1 that was established at `began`, which the peer
    keeps for `life` seconds (0: it has not said): the smaller of both. Whoever cannot begin the next one
    leaves that to the peer."""
    ours = of_phase_1(connection)
    kept = accepted(ours, Lifetime(life)).seconds
    rekey, reauth, spread = connection.rekey_time, connection.reauth_time, connection.rand_time
    if kept != ours.seconds:
        if rekey > 0 or (is_initiator and reauth <= 0):
            rekey = soft(rekey, ours.seconds, kept)
        if reauth > 0:
            reauth = soft(reauth, ours.seconds, kept)
        spread = min(spread, kept * MIN_MARGIN)
    if not may_renew(connection, is_initiator=is_initiator):
        rekey = reauth = 0.0
    changed = replace(connection, rekey_time=rekey, reauth_time=reauth, rand_time=spread)
    rekey_at, reauth_at, _ = ike_deadlines(changed, began, entropy)
    return rekey_at, reauth_at, began + kept if kept else 0.0


def may_renew(connection: Connection, *, is_initiator: bool) -> bool:
    """Not who has clients: they log in, and ask for addresses, from where they are."""
    serves = remote_login(connection) is not None or bool(connection.pools)
    return is_initiator or not serves


def responder_lifetime(life: Lifetime, protocol: int, spi: bytes, phase: int) -> NotifyPayload:
    """The notify that tells the initiator of our shorter lifetime. `spi`: both cookies, or our own SPI."""
    data = emit_attributes(attributes_of(life, phase))
    return NotifyPayload(protocol, spi, Notify.RESPONDER_LIFETIME, data)


def told(notify: NotifyPayload, phase: int) -> Lifetime | None:
    """What a RESPONDER-LIFETIME says; None when it says nothing that can be read."""
    try:
        return read(parse_attributes(Cursor(notify.data), MAX_ATTRIBUTES), phase)
    except Malformed:
        return None
