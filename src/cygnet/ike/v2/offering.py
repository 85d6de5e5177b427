"""One CREATE_CHILD_SA of ours: the offer goes out, once more with another group if the peer wants one, and
what comes back is judged (RFC 7296, section 1.3).

    HDR, SK {..., SA, Ni, [KEi,] TSi, TSr}  -->  <--  HDR, SK {..., SA, Nr, [KEr,] TSi, TSr}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.crypto.proposals import Proposal
from cygnet.ike import children, proposals
from cygnet.ike.errors import IkeError
from cygnet.ike.steps import Context, Received, Steps, send
from cygnet.ike.v2 import child as offers
from cygnet.ike.v2.fresh_keys import OtherGroup, Refusal, public_value, refused, shared_secret
from cygnet.ike.v2.ike_sa_init import NONCE_LENGTH, check_nonce
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange
from cygnet.wire.payloads import NoncePayload, Payload


@dataclass(frozen=True, slots=True)
class Answered:
    """What was agreed on, the secret of the exchange's own group (None: it had none), the answer itself."""

    agreed: children.Agreed
    ours: bytes
    theirs: bytes
    shared: bytes | None
    message: Message


@dataclass(frozen=True, slots=True)
class Unacceptable:
    """The peer made what we cannot take: it has to be withdrawn (RFC 7296, section 2.21)."""

    error: IkeError


def ask(
    context: Context,
    configured: Sequence[Proposal],
    make: Callable[[int], offers.Offer],
    before: Sequence[Payload],
    wanted_group: int,
) -> Steps[Answered | Refusal | Unacceptable]:
    """`make`: the offer that names this group first, 0: without any. `before`: what goes ahead of it.
    `wanted_group`: to begin with, if it is among the `configured`."""
    groups = proposals.groups(configured)
    group = wanted_group if wanted_group in groups else 0
    group = group or (groups[0] if groups else 0)
    tried = {group}
    while True:
        ours = generate(group, context.entropy) if group else None
        nonce, offer = context.entropy.octets(NONCE_LENGTH), make(group)
        judge = _Judge(context, offer, ours, nonce, frozenset(groups) - tried)
        exchanged = yield from send(
            Exchange.CREATE_CHILD_SA,
            (
                *before,
                *offer.wishes.payloads,
                offer.sa,
                NoncePayload(nonce),
                *public_value(ours),
                *offer.payloads,
            ),
            judge.expect_child,
        )
        answered = exchanged.value
        if not isinstance(answered, OtherGroup):
            return answered
        group = answered.group
        tried.add(group)


@dataclass(frozen=True, slots=True)
class _Judge:
    context: Context
    offer: offers.Offer
    ours: KeyExchange | None
    nonce: bytes
    other_groups: frozenset[int]

    def expect_child(self, received: Received) -> Answered | OtherGroup | Refusal | Unacceptable:
        message = received.message
        refusal = refused(message, self.other_groups)
        if refusal is not None:
            return refusal
        try:
            agreed = offers.check_accepted(self.context, self.offer, message)
            nonce = message.one(NoncePayload).data
            check_child_nonce(self.context, nonce, self.nonce)
            shared = shared_secret(message, self.ours, agreed.selected, self.nonce)
        except IkeError as error:
            return Unacceptable(error)
        return Answered(agreed, self.nonce, nonce, shared, message)


def check_child_nonce(context: Context, theirs: bytes, ours: bytes) -> None:
    """The PRF of a Child SA's keys is its IKE SA's (RFC 7296, sections 2.10 and 2.17)."""
    if context.state.suite is not None:
        check_nonce(theirs, ours, context.state.suite.prf)
