"""INFORMATIONAL: deletes, liveness, errors (RFC 7296, section 1.4).

Initiator                         Responder
-------------------------------------------------------------------
HDR, SK {[N,] [D,]
    [CP,] ...}  -->
                             <--  HDR, SK {[N,] [D,]
                                      [CP,] ...}
"""

from __future__ import annotations

from collections.abc import Sequence

from cygnet.ike import collisions
from cygnet.ike.changes import (
    Change,
    ChangeChild,
    ChangePhase,
    DropChild,
    DropHalves,
    Handover,
    NoteEarlyDelete,
)
from cygnet.ike.children import activate
from cygnet.ike.errors import Failure, Reason
from cygnet.ike.remote_access import NetworkSettings
from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, Phase
from cygnet.ike.steps import Context, Received, SaClosed, Steps, answer, apply, begin, close_sa, send
from cygnet.ike.v2 import configuration_payload
from cygnet.records import replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify, Protocol
from cygnet.wire.payloads import ConfigPayload, DeletePayload, NotifyPayload, Payload

# -- ours ---------------------------------------------------------------------------------------


def check_liveness(context: Context) -> Steps[None]:
    """HDR, SK {}  -->  <--  HDR, SK {}   (RFC 7296, section 2.4)"""
    yield from send(Exchange.INFORMATIONAL, (), anything)


def report(context: Context, notify: int, failure: Failure) -> Steps[None]:
    """HDR, SK {N, [D]}  -->  <--  HDR, SK {}   and the IKE SA is gone at both ends.

    Only two errors say that by themselves (RFC 7296, section 2.21.2); behind any other a Delete must.
    """
    payloads: tuple[Payload, ...] = (NotifyPayload(0, b"", notify, b""),)
    if notify not in (Notify.AUTHENTICATION_FAILED, Notify.INVALID_SYNTAX):
        payloads += (DeletePayload(Protocol.IKE, ()),)
    yield from send(Exchange.INFORMATIONAL, payloads, anything)
    raise SaClosed(failure, linger=False)


def delete_ike(context: Context, failure: Failure) -> Steps[None]:
    """HDR, SK {D}  -->  <--  HDR, SK {}   The children go with it, and go first: nothing is sent any more."""
    yield from begin(Attempt(AttemptKind.DELETE_IKE, ours=True))
    if context.state.phase is not Phase.REKEYED:
        drops = [DropChild(child.pair, failure) for child in context.state.children]
        yield from apply(ChangePhase(Phase.DELETING), *drops)
    yield from send(Exchange.INFORMATIONAL, (DeletePayload(Protocol.IKE, ()),), anything)
    raise SaClosed(failure, linger=False)


def close_other(number: int, failure: Failure) -> Steps[None]:
    """HDR, SK {}  -->  <--  HDR, SK {}   This IKE SA serves; the one that crossed its setting up can go."""
    yield from send(Exchange.INFORMATIONAL, (), anything)
    yield from close_sa(number, failure)


def delete_child(context: Context, pair: int, failure: Failure) -> Steps[None]:
    """HDR, SK {D}  -->  <--  HDR, SK {[D]}   A crossing Delete of the peer's has no D in its answer."""
    child = context.state.child(pair)
    if child is None:
        return
    closing = [child]
    if not child.redundant:
        if child.phase is ChildPhase.REKEYED and failure.reason is Reason.EXPIRED:
            # It was replaced in time; whoever did that closes it.
            return
        # What it has only just replaced goes along, or the peer would serve on with that (C5); and what
        # has replaced it while the wish to close it waited for its turn.
        closing += [c for c in context.state.children if c.pair == child.replaces or c.replaces == pair]
    for one in closing:
        yield from begin(Attempt(AttemptKind.DELETE_CHILD, ours=True, pair=one.pair))
        if one.phase is not ChildPhase.REKEYED:
            yield from apply(ChangeChild(replace(one, phase=ChildPhase.DELETING)))
    yield from send(Exchange.INFORMATIONAL, delete_payloads(closing), anything)
    left = [one.pair for one in closing if context.state.child(one.pair) is not None]
    yield from apply(*[DropChild(number, failure) for number in left])


def delete_payloads(children: Sequence[ChildSa]) -> tuple[DeletePayload, ...]:
    """One payload for each protocol (RFC 7296, section 3.11); both halves of a bundle."""
    made = []
    halves = [half for one in children for half in one.halves]
    for protocol in (Protocol.ESP, Protocol.AH):
        spis = tuple([ours.to_bytes(4, "big") for kind, ours, _ in halves if kind == protocol])
        if spis:
            made.append(DeletePayload(protocol, spis))
    return tuple(made)


def anything(received: Received) -> Message:
    return received.message


# -- the peer's -----------------------------------------------------------------------------------


def respond(context: Context, received: Received) -> Steps[None]:
    """Whatever the peer tells: one answer, and what follows from it."""
    message = received.message
    for delete in message.all(DeletePayload):
        if delete.protocol == Protocol.IKE:
            # RFC 7296, section 1.4.1: the answer to the Delete of an IKE SA is empty.
            rekeyed = collisions.rival(context.state, AttemptKind.REKEY_IKE, 0)
            if rekeyed is not None and rekeyed.result:
                # C32: the peer never saw our rekey; its own stands.
                yield from answer((), Handover(rekeyed.result))
                raise SaClosed(Failure(Reason.REPLACED, "rekeyed by the peer"), linger=True)
            yield from answer(())
            raise SaClosed(Failure(Reason.PEER_CLOSED, "the peer closed the IKE SA"), linger=True)
    fatal = message.notify(Notify.AUTHENTICATION_FAILED) or message.notify(Notify.INVALID_SYNTAX)
    if fatal is not None:
        yield from answer(())
        reason = (
            Reason.PEER_REFUSED_AUTHENTICATION
            if fatal.type == Notify.AUTHENTICATION_FAILED
            else Reason.PEER_REPORTED_ERROR
        )
        raise SaClosed(Failure(reason, f"the peer reports {Notify.name_of(fatal.type)}"), linger=True)
    closed = _closed_children(context, message)
    changes, ours = _closing(context, closed)
    activated = collisions.successors(context.state, [child.pair for child in closed])
    early = [NoteEarlyDelete(spi) for spi in _unknown_spis(context, message)]
    left = _left_halves(context, message)
    payloads: tuple[Payload, ...] = (*delete_payloads(ours), *left)
    for pair in activated:
        # The peer deletes what it rekeyed: it holds the new pair (RFC 7296, section 2.8).
        yield from activate(context, pair)
    asked = message.maybe(ConfigPayload)
    payloads += configuration_payload.reply(asked, context.state.leases, NetworkSettings())
    payloads += configuration_payload.acknowledge(asked)
    dropped = [int.from_bytes(spi, "big") for one in left for spi in one.spis]
    yield from answer(payloads, *changes, *early, *([DropHalves(tuple(dropped))] if dropped else []))


def _closed_children(context: Context, message: Message) -> list[ChildSa]:
    """The Child SAs that the peer deletes, each once (V21)."""
    closed: list[ChildSa] = []
    for delete in message.all(DeletePayload):
        for spi in delete.spis:
            number = int.from_bytes(spi, "big")
            child = context.state.child_by_spi_out(number)
            if child is not None and child.is_named(delete.protocol, number) and child not in closed:
                closed.append(child)
    return closed


def _left_halves(context: Context, message: Message) -> tuple[DeletePayload, ...]:
    """The AH of a bundle whose ESP did not come about: the peer deletes it, and so do we."""
    spis = {spi for one in message.all(DeletePayload) if one.protocol == Protocol.AH for spi in one.spis}
    gone = [
        half.around.spi_in.to_bytes(4, "big")
        for half in context.state.halves
        if half.around.spi_out.to_bytes(4, "big") in spis
    ]
    return (DeletePayload(Protocol.AH, tuple(gone)),) if gone else ()


def _unknown_spis(context: Context, message: Message) -> list[int]:
    spis = [int.from_bytes(spi, "big") for delete in message.all(DeletePayload) for spi in delete.spis]
    return [spi for spi in spis if context.state.child_by_spi_out(spi) is None]


def _closing(context: Context, closed: list[ChildSa]) -> tuple[list[Change], list[ChildSa]]:
    """What the deletes change, and what the answer deletes in turn."""
    changes: list[Change] = []
    ours: list[ChildSa] = []
    for child in closed:
        if collisions.is_closing(context.state, child.pair):
            # RFC 7296, section 1.4.1: both close it at once. Ours is on its way, the answer holds no D.
            failure = (
                None
                if child.phase is ChildPhase.REKEYED
                else Failure(Reason.PEER_CLOSED, "closed by both ends")
            )
        else:
            ours.append(child)
            failure = (
                None if _is_replaced(context, child) else Failure(Reason.PEER_CLOSED, "the peer closed it")
            )
        changes += _revived(context, child)
        changes.append(DropChild(child.pair, failure))
    return changes, ours


def _is_replaced(context: Context, child: ChildSa) -> bool:
    """Another pair has taken over: the Delete ends a rekey and is no news."""
    return any(other.replaces == child.pair and not other.redundant for other in context.state.children)


def _revived(context: Context, closed: ChildSa) -> list[Change]:
    """C5: the peer gives up what it had just made to replace a pair; the old one serves on."""
    old = context.state.child(closed.replaces) if closed.outbound is not None else None
    if old is None or old.phase is not ChildPhase.REKEYED:
        return []
    return [ChangeChild(replace(old, phase=ChildPhase.INSTALLED))]
