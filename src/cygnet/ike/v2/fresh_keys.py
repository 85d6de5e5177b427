"""What all uses of CREATE_CHILD_SA share: a key exchange of its own, and the answers that are no agreement.

The initiator's KE payload is of the group that it would like; INVALID_KE_PAYLOAD sends it back with
another of its offer, once for each (RFC 7296, section 1.3).
"""

from __future__ import annotations

from cygnet.crypto.errors import InvalidPublicValue
from cygnet.crypto.key_exchange import KeyExchange, Response, respond
from cygnet.ike.errors import PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.proposals import Selected
from cygnet.ike.steps import Context, Received
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.numbers import KeMethod, Notify
from cygnet.wire.payloads import KePayload, NoncePayload, NotifyPayload, SaPayload


@dataclass(frozen=True, slots=True)
class OtherGroup:
    """INVALID_KE_PAYLOAD with a group that we offered and have not tried."""

    group: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The peer's error in place of an SA; `of_outer`: of the AH of a bundle."""

    notify: NotifyPayload
    of_outer: bool = False


def refused(message: Message, other_groups: frozenset[int]) -> OtherGroup | Refusal | None:
    """The answer, if it is no agreement."""
    other = message.notify(Notify.INVALID_KE_PAYLOAD)
    if other is not None:
        group = int.from_bytes(other.data, "big")
        return OtherGroup(group) if group in other_groups else Refusal(other)
    error = message.error()
    return Refusal(error) if error is not None and message.maybe(SaPayload) is None else None


def shared_secret(
    message: Message, ours: KeyExchange | None, selected: Selected, nonce: bytes
) -> bytes | None:
    """g^ir of this exchange; None where no group was chosen. Raises `PeerMisbehaved`."""
    if message.one(NoncePayload).data == nonce:
        raise wrong("our own nonce came back")
    public = message.maybe(KePayload)
    if not selected.key_exchange:
        return None
    if ours is None or public is None or not public.group == ours.group == selected.key_exchange:
        raise wrong("a key exchange value of another group than the one chosen")
    try:
        return ours.shared(public.data)
    except InvalidPublicValue as error:
        raise wrong(str(error)) from None


def public_value(ours: KeyExchange | Response | None) -> tuple[KePayload, ...]:
    """Our KE payload, if there is a key exchange."""
    return (KePayload(ours.group, ours.public),) if ours is not None else ()


def answer_keys(context: Context, public: KePayload | None, selected: Selected) -> Response | None:
    """Our half for the chosen group, None without one. Raises INVALID_KE_PAYLOAD."""
    group = selected.key_exchange
    if not group:
        return None
    if public is None or public.group != group:
        raise PeerIncompatible(
            Reason.KEY_EXCHANGE_MISMATCH,
            f"the peer's key exchange value is not of {KeMethod.name_of(group)}",
            notify=Notify.INVALID_KE_PAYLOAD,
            notify_data=group.to_bytes(2, "big"),
        )
    try:
        return respond(group, public.data, context.entropy)
    except InvalidPublicValue as error:
        raise wrong(str(error)) from None


@dataclass(frozen=True, slots=True)
class Further:
    """A further key exchange (RFC 9370), in IKE_INTERMEDIATE and in IKE_FOLLOWUP_KE alike: one KE payload
    each way, of the method whose turn it is."""

    method: int

    def public(self, received: Received) -> bytes:
        """The peer's value. Raises `PeerMisbehaved`."""
        public = received.message.maybe(KePayload)
        if public is None:
            raise wrong(f"no key exchange value of {KeMethod.name_of(self.method)}")
        if public.group != self.method:
            raise wrong(
                f"{KeMethod.name_of(public.group)} where {KeMethod.name_of(self.method)} was agreed on"
            )
        return public.data

    def secret(self, ours: KeyExchange, received: Received) -> bytes:
        """The secret in the answer to our value. Raises `PeerMisbehaved`."""
        try:
            return ours.shared(self.public(received))
        except InvalidPublicValue as error:
            raise wrong(str(error)) from None

    def respond(self, public: bytes, context: Context) -> Response:
        """Our half, for the peer's value. Raises `PeerMisbehaved`."""
        try:
            return respond(self.method, public, context.entropy)
        except InvalidPublicValue as error:
            raise wrong(str(error)) from None


def wrong(detail: str) -> PeerMisbehaved:
    """What no honest peer sends."""
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, detail, notify=Notify.INVALID_SYNTAX)
