"""Informational exchanges: one message each, HASH(1) first (RFC 2409, section 5.7; RFC 3706).

    HDR*, HASH(1), N/D   -->

Nothing acknowledges them. So a Delete of a Child SA is answered by the Delete of the other half, which says
that it has come, and is sent again until then; R-U-THERE is answered by R-U-THERE-ACK.
"""

from __future__ import annotations

from typing import Final

from cygnet.ike.changes import Change, ChangeChild, ChangePhase, DropChild
from cygnet.ike.children import activate
from cygnet.ike.effects import TimedOut
from cygnet.ike.errors import Drop, Failure, Reason
from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, Phase
from cygnet.ike.steps import Context, SaClosed, Steps, apply, begin, close_sa, complain, pause
from cygnet.ike.v1.halves import Half, halves, payloads
from cygnet.ike.v1.notifications import error_of
from cygnet.ike.v1.protection import hash_1, isakmp_of
from cygnet.ike.v1.steps import Received, Unproven, insist, listen, tell
from cygnet.records import dataclass, replace
from cygnet.wire.v1.numbers import Exchange, Notify, Protocol
from cygnet.wire.v1.payloads import DeletePayload, NotifyPayload, Payload

DELETE_TRIES: Final = 3
"""Times that a Delete is sent; who does not answer them may have obeyed the first."""
WINDOW: Final = 16
"""R-U-THERE may come so far behind the last: the peer may ask several questions at once."""
CLOSED: Final = Failure(Reason.PEER_CLOSED, "the peer closed it")
SETTLED_AFTER: Final = 2.0
"""Seconds after which the peer has surely accepted phase 1's last message."""
DELETE_PATIENCE: Final = 2.0
"""Seconds that the peer has to delete its half."""


def inform(context: Context, *payloads: Payload) -> Steps[None]:
    """HDR*, HASH(1), N/D -->"""
    yield from tell(Exchange.INFORMATIONAL, payloads, hashed=hash_1(isakmp_of(context.state)))


def cookies(context: Context) -> bytes:
    """The SPI of a phase 1 SA."""
    return context.state.spi_i + context.state.spi_r


# -- dead peer detection --------------------------------------------------------------------------


def check_liveness(context: Context, sequence: int, told: tuple[NotifyPayload, ...] = ()) -> Steps[None]:
    """HDR*, HASH(1), [N,] N(R-U-THERE) -->  <-- HDR*, HASH(1), N(R-U-THERE-ACK)   (RFC 3706, section 5.4)

    A repeat is an exchange of its own, with the same sequence number. What is `told` with it has come when
    the answer comes. Nothing that proves life within
    `dpd_timeout`: the peer is dead.
    """
    data = sequence.to_bytes(4, "big")
    rule = context.options.retransmission
    began, wait = context.now.monotonic, rule.timeout
    while True:
        left = began + context.connection.dpd_timeout - context.now.monotonic
        if left <= 0 and told:
            # Not asked for life's sake; and there may be peers that read the first notify alone.
            return
        if left <= 0:
            failure = Failure(Reason.PEER_DEAD, f"{context.state.path.remote} does not answer any more")
            raise SaClosed(failure, linger=False)
        asked = NotifyPayload(Protocol.ISAKMP, cookies(context), Notify.R_U_THERE, data)
        yield from inform(context, *told, asked)
        heard = yield from listen(_Ack(context, data).expect, min(wait, left))
        if not isinstance(heard, TimedOut):
            return
        wait *= rule.base


@dataclass(frozen=True, slots=True)
class _Ack:
    context: Context
    data: bytes

    def expect(self, received: Received) -> None:
        """R-U-THERE-ACK of our sequence number, for this phase 1 SA (sections 5.3 and 6.1)."""
        notify = received.message.notify(Notify.R_U_THERE_ACK)
        if notify is None or notify.data != self.data or notify.spi != cookies(self.context):
            raise Unproven(Drop.UNEXPECTED_RESPONSE, "no acknowledgement of our R-U-THERE")


# -- deletes --------------------------------------------------------------------------------------


def delete_phase_1(context: Context) -> Steps[None]:
    """HDR*, HASH(1), D -->   of a phase 1 that came to no SA; once, the peer's timers do the rest."""
    yield from inform(context, DeletePayload(Protocol.ISAKMP, (cookies(context),)))


def delete_child(context: Context, pair: int, failure: Failure) -> Steps[None]:
    """HDR*, HASH(1), D -->  [<-- HDR*, HASH(1), D   of the other half]"""
    child = context.state.child(pair)
    if child is None:
        return
    closing = [child]
    if not child.redundant and child.phase is not ChildPhase.REKEYED:
        # What it has only just replaced goes along, or the peer would serve on with that.
        closing += [c for c in context.state.children if c.pair == child.replaces]
    for one in closing:
        yield from begin(Attempt(AttemptKind.DELETE_CHILD, ours=True, pair=one.pair))
        phase = one.phase if one.phase is ChildPhase.REKEYED else ChildPhase.DELETING
        yield from apply(ChangeChild(replace(one, phase=phase, deleted=True)))
    unheard = {half: ours for one in closing for half, ours in halves(one)}
    for _ in range(DELETE_TRIES):
        yield from inform(context, *payloads(closing))
        if all(context.state.child(one.pair) is None for one in closing):
            return
        heard = yield from listen(_Deleted(frozenset(unheard)).expect, DELETE_PATIENCE)
        if not isinstance(heard, TimedOut):
            for half in heard.value:
                unheard.pop(half, None)
            break
    for (protocol, theirs), ours in unheard.items():
        yield from insist(protocol, ours, theirs)
    left = [one.pair for one in closing if context.state.child(one.pair) is not None]
    yield from apply(*[DropChild(number, _quietly(context, number, failure)) for number in left])
    yield from _announced(context, closing)


def _quietly(context: Context, pair: int, failure: Failure) -> Failure | None:
    """A pair that another has replaced, or that was redundant, goes without a word."""
    child = context.state.child(pair)
    quiet = child is not None and child.phase is ChildPhase.REKEYED
    return None if quiet else failure


@dataclass(frozen=True, slots=True)
class _Deleted:
    halves: frozenset[Half]

    def expect(self, received: Received) -> tuple[Half, ...]:
        """The peer deletes its half of what we delete, or of part of it."""
        heard = [(one.protocol, spi) for one in received.message.all(DeletePayload) for spi in one.spis]
        if not heard or not self.halves >= set(heard):
            raise Unproven(Drop.UNEXPECTED_RESPONSE, "no Delete of the other half")
        return tuple(heard)


def delete_ike(context: Context, failure: Failure, farewell: tuple[DeletePayload, ...]) -> Steps[None]:
    """HDR*, HASH(1), D(ESP) -->  HDR*, HASH(1), D(ISAKMP) -->   and it is gone; `farewell`: its children."""
    yield from begin(Attempt(AttemptKind.DELETE_IKE, ours=True))
    if context.state.phase is not Phase.REKEYED:
        yield from apply(ChangePhase(Phase.DELETING))
    if farewell:
        yield from inform(context, *farewell)
    yield from inform(context, DeletePayload(Protocol.ISAKMP, (cookies(context),)))
    raise SaClosed(failure, linger=True)


def close_other(liveness: Steps[None] | None, number: int, failure: Failure) -> Steps[None]:
    """This phase 1 SA serves, which the peer shows by an answer or has had time for; the other can go."""
    if liveness is not None:
        yield from liveness
    else:
        yield from pause(SETTLED_AFTER)
    yield from close_sa(number, failure)


def report(context: Context, notify: int, failure: Failure) -> Steps[None]:
    """HDR*, HASH(1), N, D -->   and the SA is gone."""
    yield from inform(
        context,
        NotifyPayload(Protocol.ISAKMP, cookies(context), notify, b""),
    )
    raise SaClosed(failure, linger=False)


# -- the peer's -----------------------------------------------------------------------------------


def respond(
    context: Context, received: Received, sequence: int, shown: tuple[DeletePayload, ...] = ()
) -> Steps[None]:
    """Whatever the peer tells, in the order in which it tells it. `sequence`: of its last R-U-THERE, -1:
    none. `shown`: the other halves of what it deletes and we have closed before."""
    message = received.message
    for notify in message.all(NotifyPayload):
        if notify.type == Notify.R_U_THERE:
            yield from _here(context, notify, sequence)
        elif Notify.is_error(notify.type):
            yield from complain(error_of(notify, child=notify.protocol != Protocol.ISAKMP))
    closed: list[ChildSa] = []
    gone = False
    for delete in message.all(DeletePayload):
        if delete.protocol == Protocol.ISAKMP:
            gone = gone or cookies(context) in delete.spis
            continue
        for spi in delete.spis:
            number = int.from_bytes(spi, "big")
            child = context.state.child_by_spi_out(number)
            if child is not None and child.is_named(delete.protocol, number) and child not in closed:
                closed.append(child)
    yield from _closed(context, closed)
    for delete in shown:
        yield from inform(context, delete)
    if gone:
        raise SaClosed(Failure(Reason.PEER_CLOSED, "the peer closed the phase 1 SA"), linger=False)


def _here(context: Context, notify: NotifyPayload, sequence: int) -> Steps[None]:
    """HDR*, HASH(1), N(R-U-THERE-ACK) -->   Only to a number near the last (section 6.2)."""
    number = int.from_bytes(notify.data, "big")
    if len(notify.data) != 4 or notify.spi != cookies(context) or number < sequence - WINDOW:
        return
    yield from inform(context, NotifyPayload(Protocol.ISAKMP, notify.spi, Notify.R_U_THERE_ACK, notify.data))


def _announced(context: Context, closed: list[ChildSa]) -> Steps[None]:
    """Of the pairs that are left for the flows of those that were closed, one is announced."""
    for flow in dict.fromkeys(child.flow for child in closed):
        left = [one for one in context.state.children if one.flow == flow]
        serving = [one for one in left if one.phase is ChildPhase.INSTALLED and one.outbound is None]
        if serving and not any(one.announced for one in left):
            yield from apply(ChangeChild(replace(serving[-1], announced=True)))


def _closed(context: Context, closed: list[ChildSa]) -> Steps[None]:
    """The peer's halves are gone: ours go too, and we say so, unless we said it first (V21: each once)."""
    changes: list[Change] = []
    ours: list[ChildSa] = []
    revived: list[int] = []
    for child in closed:
        if child.phase is not ChildPhase.DELETING:
            ours.append(child)
        successors = [
            other for other in context.state.children if other.replaces == child.pair and not other.redundant
        ]
        for other in successors:
            if other.outbound is not None:
                yield from activate(context, other.pair)
        old = context.state.child(child.replaces)
        gives_up = (
            not successors
            and old is not None
            and old.phase is ChildPhase.REKEYED
            and old not in closed
            and not old.deleted
        )
        if old is not None and gives_up:
            # The peer gives up what it had just made, because it lost a collision: the old one serves on.
            back = replace(old, phase=ChildPhase.INSTALLED, redundant=False)
            if child.announced:
                back = replace(back, announced=True, replaces=child.pair)
            yield from apply(ChangeChild(back))
            revived.append(old.pair)
        quiet = successors or child.redundant or gives_up
        changes.append(DropChild(child.pair, None if quiet else CLOSED))
    yield from apply(*changes)
    for pair in revived:
        # It may still wait to be sent on.
        yield from activate(context, pair)
    yield from _announced(context, closed)
    if ours:
        yield from inform(context, *payloads(ours))
