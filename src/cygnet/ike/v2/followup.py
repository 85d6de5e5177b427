"""IKE_FOLLOWUP_KE: further key exchanges behind CREATE_CHILD_SA (RFC 9370, section 2.2.4).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {KEi(n), N(ADDITIONAL_KEY_EXCHANGE)(link n)}  -->
                                 <--  HDR, SK {KEr(n)
                                      [, N(ADDITIONAL_KEY_EXCHANGE)(link n+1)]}

The link in the answer to CREATE_CHILD_SA tells which exchange goes on here. What was agreed comes to be
with the last of them, and only the responder's last answer makes it true on its side.
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.ike.effects import TimedOut
from cygnet.ike.steps import Context, Received, Steps, answer, next_followup, send
from cygnet.ike.v2.fresh_keys import Further, Refusal, wrong
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import KePayload, NotifyPayload

LINK_LENGTH: Final = 8
"""Octets of our links: random, so that none is taken for another's."""

Methods = tuple[tuple[int, int], ...]
"""(transform type, method) of each, in order: `proposals.Selected.additional`."""


def new_link(context: Context) -> NotifyPayload:
    """The responder's name for what goes on here."""
    return _link(context.entropy.octets(LINK_LENGTH))


def initiate(context: Context, methods: Methods, answered: Message) -> Steps[bytes | Refusal]:
    """All further key exchanges, begun by the link in the answer to CREATE_CHILD_SA: their secrets, one
    after the other, or the peer's refusal."""
    link, secrets = _required_link(answered), b""
    for position, (_, method) in enumerate(methods, 1):
        ours = generate(method, context.entropy)
        judge = _Judge(Further(method), ours, position == len(methods))
        exchanged = yield from send(
            Exchange.IKE_FOLLOWUP_KE, (KePayload(method, ours.public), link), judge.expect
        )
        if isinstance(exchanged.value, Refusal):
            return exchanged.value
        secrets += exchanged.value
        if position < len(methods):
            link = _required_link(exchanged.received.message)
    return secrets


@dataclass(frozen=True, slots=True)
class _Judge:
    further: Further
    ours: KeyExchange
    last: bool

    def expect(self, received: Received) -> bytes | Refusal:
        error = received.message.error()
        if error is not None:
            return Refusal(error)
        if not self.last:
            _required_link(received.message)
        return self.further.secret(self.ours, received)


def respond(context: Context, methods: Methods, link: NotifyPayload) -> Steps[tuple[bytes, KePayload] | None]:
    """The secrets, and the last answer, which the caller gives when all is in place; None: the peer did not
    go on."""
    secrets = b""
    for position, (_, method) in enumerate(methods, 1):
        further = Further(method)
        exchanged = yield from next_followup(link.data, further.public)
        if isinstance(exchanged, TimedOut):
            return None
        ours = further.respond(exchanged.value, context)
        secrets += ours.shared
        reply = KePayload(method, ours.public)
        if position < len(methods):
            link = new_link(context)
            yield from answer((reply, link))
    return secrets, reply


def not_found() -> Steps[None]:
    """A link that is not ours, or not any more."""
    yield from answer((NotifyPayload(0, b"", Notify.STATE_NOT_FOUND, b""),))


def link_of(message: Message) -> bytes:
    """The link in a request; empty if there is none."""
    link = message.notify(Notify.ADDITIONAL_KEY_EXCHANGE)
    return link.data if link is not None else b""


def _required_link(message: Message) -> NotifyPayload:
    """The responder's link, to be given back as it came. Raises `PeerMisbehaved`."""
    link = message.notify(Notify.ADDITIONAL_KEY_EXCHANGE)
    if link is None:
        raise wrong("further key exchanges were agreed on, and no link to them came")
    return _link(link.data)


def _link(data: bytes) -> NotifyPayload:
    return NotifyPayload(0, b"", Notify.ADDITIONAL_KEY_EXCHANGE, data)
