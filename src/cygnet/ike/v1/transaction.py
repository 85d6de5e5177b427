"""The transaction exchange, which carries XAUTH and mode config (draft-dukes-ike-mode-cfg-02, section 3.1).

    HDR*, HASH, ATTR(REQUEST or SET)  -->
                                      <--  HDR*, HASH, ATTR(REPLY or ACK)

    HASH = prf(SKEYID_a, M-ID | ATTR)

Either end may begin one. Whatever its HASH does not prove is dropped before anything looks at it.
"""

from __future__ import annotations

from typing import Final

from cygnet.ike.changes import Change
from cygnet.ike.effects import TimedOut
from cygnet.ike.errors import PeerIncompatible, Reason
from cygnet.ike.steps import Context, Steps
from cygnet.ike.v1.notifications import wrong
from cygnet.ike.v1.protection import check_hash, hash_1, isakmp_of
from cygnet.ike.v1.steps import HashOf, Received, answer, begin_exchange, next_exchange
from cygnet.records import dataclass
from cygnet.wire.v1.numbers import CfgType, Exchange
from cygnet.wire.v1.payloads import Attribute, AttributesPayload

ANSWERS: Final = {CfgType.REQUEST: CfgType.REPLY, CfgType.SET: CfgType.ACK}
PATIENCE: Final = 60.0
"""Seconds until the peer must have begun what it has to begin: a person may be typing a password there."""

Attributes = tuple[Attribute, ...]


def identifier(context: Context) -> int:
    """A number for a transaction of ours (section 3.2)."""
    return int.from_bytes(context.entropy.octets(2), "big")


def exchange(context: Context, cfg_type: int, number: int, attributes: Attributes) -> Steps[Attributes]:
    """Send a REQUEST or a SET; the attributes of the answer."""
    hashed = hash_1(isakmp_of(context.state))
    payload = AttributesPayload(cfg_type, number, attributes)
    judge = _Judge(hashed, (ANSWERS[cfg_type],))
    exchanged = yield from begin_exchange(Exchange.TRANSACTION, (payload,), judge.expect, hashed=hashed)
    return exchanged.value.attributes


def heard(context: Context, what: str) -> Steps[AttributesPayload]:
    """Wait for the peer's next REQUEST or SET, which is for `what`. Raises `PeerIncompatible`: none comes."""
    judge = _Judge(hash_1(isakmp_of(context.state)), tuple(ANSWERS))
    exchanged = yield from next_exchange(Exchange.TRANSACTION, judge.expect, PATIENCE)
    if isinstance(exchanged, TimedOut):
        raise PeerIncompatible(Reason.PEER_UNREACHABLE, f"the peer does not begin {what}")
    return exchanged.value


def reply(
    context: Context, asked: AttributesPayload, attributes: Attributes, *changes: Change
) -> Steps[None]:
    """The answer to what the peer has just sent."""
    payload = AttributesPayload(ANSWERS[asked.cfg_type], asked.identifier, attributes)
    yield from answer((payload,), *changes, hashed=hash_1(isakmp_of(context.state)))


@dataclass(frozen=True, slots=True)
class _Judge:
    """The identifier is not looked at: strongSwan answers with one of its own. What belongs together says the
    message id, and HASH covers that."""

    hashed: HashOf
    types: tuple[int, ...]

    def expect(self, received: Received) -> AttributesPayload:
        """HDR*, HASH, ATTR"""
        check_hash(received, self.hashed)
        payload = received.message.one(AttributesPayload)
        if payload.cfg_type not in self.types:
            raise wrong(f"a transaction's {CfgType.name_of(payload.cfg_type)} out of turn")
        return payload
