"""CREATE_CHILD_SA: more Child SAs, and new keys for them (RFC 7296, section 1.3).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,]
        TSi, TSr}  -->
                                 <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}

Further key exchanges follow in IKE_FOLLOWUP_KE (`followup`); the pair comes to be with the last of them.

A rekey is two exchanges: this one, and the Delete of the old SA by whoever began (section 2.8). When
both ends rekey at once, both answer as usual; `collisions` says whose SA is redundant. The same
exchange rekeys the IKE SA: `rekey_ike`.
"""

from __future__ import annotations

from typing import Final

from cygnet.auth.peer import AuthenticatedPeer
from cygnet.ike import children, collisions, proposals
from cygnet.ike.changes import AddChild, ChangeChild, DropChild, ForgetAttempt, NoteAttempt, Postpone
from cygnet.ike.connections import LoadedChild
from cygnet.ike.errors import Difference, IkeError, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.lifetimes import pause_before_retry
from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, Half, SaState
from cygnet.ike.steps import (
    Context,
    Received,
    Steps,
    answer,
    apply,
    begin,
    complain,
    enqueue,
    install,
    obtain_child,
    send,
    use_policy,
)
from cygnet.ike.v2 import bundles, followup, modes, rekey_ike
from cygnet.ike.v2 import child as offers
from cygnet.ike.v2.collisions import Request, admit
from cygnet.ike.v2.fresh_keys import (
    Refusal,
    answer_keys,
    public_value,
)
from cygnet.ike.v2.ike_auth import additional
from cygnet.ike.v2.ike_sa_init import NONCE_LENGTH
from cygnet.ike.v2.informational import anything, delete_payloads
from cygnet.ike.v2.notifications import error_of
from cygnet.ike.v2.offering import Unacceptable, ask, check_child_nonce
from cygnet.ike.wanted import CreateChild, DeleteChild, RekeyChild
from cygnet.records import dataclass, replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify, Protocol
from cygnet.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
)

GRACE: Final = 10.0
"""Seconds that the peer has to close what lost a collision and is its own; then we close it."""
MAX_CHILDREN: Final = 1024
"""Child SAs of one IKE SA; beyond it the peer gets NO_ADDITIONAL_SAS (T30)."""


# -- Child SAs, ours ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Created:
    made: children.Pair
    nonce: bytes


def create(context: Context, wanted: CreateChild) -> Steps[None]:
    """HDR, SK {SA, Ni, [KEi,] TSi, TSr}  -->  <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}"""
    attempt = Attempt(AttemptKind.CREATE_CHILD, ours=True)
    yield from begin(attempt)
    outcome = yield from _negotiate(context, wanted.name, wanted.index, None, attempt)
    if outcome is None:
        return
    if isinstance(outcome, Refusal):
        if outcome.notify.type in (Notify.TEMPORARY_FAILURE, Notify.STATE_NOT_FOUND):
            yield from enqueue(wanted, pause_before_retry(context.now.monotonic, 0.0, context.entropy))
        raise _child_error(context, outcome, wanted.name, wanted.index, None)
    made = replace(outcome.made.child, nonce=outcome.nonce)
    if _was_deleted(context, made):
        raise children.closed_early(wanted.name)
    twin = collisions.twin(context.state, made)
    if twin is not None and collisions.loses(made.nonce, twin.nonce):
        loser = replace(made, announced=False, redundant=True, phase=ChildPhase.REKEYED)
        yield from apply(AddChild(loser))
        yield from _delete(context, loser)
    elif twin is not None:
        yield from apply(*_beats_twin(made, twin))
        yield from enqueue(DeleteChild(twin.pair, children.REDUNDANT), 0.0 if twin.initiator else GRACE)
    else:
        yield from apply(AddChild(made))


def _beats_twin(winner: ChildSa, twin: ChildSa) -> tuple[ChangeChild, AddChild]:
    """Both ends made a pair for the same flow at once: one takes the other's place, as in section 2.8.1."""
    loser = replace(twin, announced=False, redundant=True, phase=ChildPhase.REKEYED)
    return ChangeChild(loser), AddChild(replace(winner, replaces=twin.pair))


def rekey(context: Context, wanted: RekeyChild) -> Steps[None]:
    """HDR, SK {N(REKEY_SA), SA, Ni, [KEi,] TSi, TSr}  -->  <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}

    then  HDR, SK {D(old)}  -->  <--  HDR, SK {D}
    """
    old = context.state.child(wanted.pair)
    if old is None or old.phase is not ChildPhase.INSTALLED:
        return
    attempt = Attempt(AttemptKind.REKEY_CHILD, ours=True, pair=old.pair)
    yield from begin(attempt)
    outcome = yield from _negotiate(context, old.name, old.flow_index, old, attempt)
    rival = collisions.rival(context.state, AttemptKind.REKEY_CHILD, old.pair)
    if outcome is None:
        if rival is not None:
            yield from apply(ForgetAttempt(rival))
        return
    if isinstance(outcome, Refusal):
        yield from _rekey_refused(context, old, outcome, rival)
        return
    made, state = outcome.made, context.state
    made = replace(made, child=replace(made.child, nonce=old.nonce))
    if _was_deleted(context, made.child):
        # C14: the peer closed it before its own answer came.
        return
    if rival is not None and collisions.loses(outcome.nonce, rival.nonce):
        # Ours was made with the lowest nonce: the peer's stays, we close ours (section 2.8.1).
        loser = replace(made.child, announced=False, redundant=True, phase=ChildPhase.REKEYED)
        yield from apply(AddChild(loser), *_replaced_by_peer(state, old.pair, rival), ForgetAttempt(rival))
        yield from _delete(context, loser)
        return
    beaten = state.child(rival.result) if rival is not None else None
    changes = [ChangeChild(replace(beaten, redundant=True, phase=ChildPhase.REKEYED))] if beaten else []
    present = state.child(old.pair)
    if present is not None:
        changes.append(ChangeChild(replace(present, phase=ChildPhase.REKEYED)))
    forget = [ForgetAttempt(rival)] if rival is not None else []
    yield from apply(*changes, AddChild(made.child), *forget)
    if present is not None:
        yield from _delete(context, present)


def _replaced_by_peer(state: SaState, old: int, rival: Attempt) -> list[ChangeChild]:
    """The peer's rekey stands: its pair is the one to be seen, the old one waits for the peer's Delete."""
    winner, present = state.child(rival.result), state.child(old)
    changes = []
    if present is not None and present.phase is ChildPhase.INSTALLED:
        changes.append(ChangeChild(replace(present, phase=ChildPhase.REKEYED)))
    if winner is not None and winner.phase is ChildPhase.INSTALLED and not winner.announced:
        changes.append(ChangeChild(replace(winner, announced=True)))
    return changes


def _delete(context: Context, child: ChildSa) -> Steps[None]:
    """The Delete that ends a rekey; the traffic is on another pair already."""
    yield from begin(Attempt(AttemptKind.DELETE_CHILD, ours=True, pair=child.pair))
    yield from send(Exchange.INFORMATIONAL, delete_payloads((child,)), anything)
    if context.state.child(child.pair) is not None:
        yield from apply(DropChild(child.pair))


def _rekey_refused(context: Context, old: ChildSa, refusal: Refusal, rival: Attempt | None) -> Steps[None]:
    """RFC 7296, section 2.25: whether the refusal matters depends on what the peer did meanwhile."""
    present = context.state.child(old.pair)
    if rival is not None or present is None or present.phase is not ChildPhase.INSTALLED:
        # The peer has rekeyed or closed it: nothing is left to do (C15, C16, C20).
        if rival is not None:
            yield from apply(*_replaced_by_peer(context.state, old.pair, rival), ForgetAttempt(rival))
        return
    if refusal.notify.type == Notify.CHILD_SA_NOT_FOUND:
        # C6: the peer lost it. Drop it in silence and make a new one.
        yield from apply(DropChild(old.pair))
        yield from enqueue(CreateChild(old.name, old.flow_index))
        return
    now = context.now.monotonic
    yield from apply(Postpone(old.pair, now + pause_before_retry(now, old.expires_at, context.entropy)))
    raise _child_error(context, refusal, old.name, old.flow_index, old)


def _negotiate(
    context: Context, name: str, index: int, old: ChildSa | None, attempt: Attempt
) -> Steps[_Created | Refusal | None]:
    """All that makes a pair, or a bundle of two; it is installed when it returns. None: it was stopped before
    its further key exchanges, because the peer's rekey wins."""
    loaded = children.connection_children(context, context.connection).child(name)
    if loaded is None or index >= len(loaded.child.flows):
        raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"child {name} is not configured any more")
    if not loaded.child.around:
        return (yield from _exchange(context, loaded, index, old, attempt, None))
    half = yield from bundles.begin(context, loaded)
    if isinstance(half, Refusal):
        return replace(half, of_outer=True)
    try:
        outcome = yield from _exchange(context, loaded, index, old, attempt, half)
    except IkeError:
        yield from bundles.withdraw(half)
        raise
    if not isinstance(outcome, _Created):
        yield from bundles.withdraw(half)
    return outcome


def _exchange(
    context: Context,
    loaded: LoadedChild,
    index: int,
    old: ChildSa | None,
    attempt: Attempt,
    half: Half | None,
) -> Steps[_Created | Refusal | None]:
    """The exchange itself; `half`: the AH that goes around what it makes."""
    name, peer = loaded.child.name, _peer(context)
    spi, pair = yield from obtain_child()

    def make(group: int) -> offers.Offer:
        offer = offers.make_offer(context, loaded, index, pair, spi, key_exchange=True, first_group=group)
        if old is not None:
            # RFC 7296, section 2.9.2: a rekey asks for what the old SA carries.
            offer = replace(offer, local=old.local_selectors, remote=old.remote_selectors)
        return offer

    group = old.suite.key_exchange if old is not None else 0
    answered = yield from ask(context, loaded.child.proposals, make, _rekeyed(old), group)
    if isinstance(answered, Refusal):
        return answered
    if isinstance(answered, Unacceptable):
        yield from complain(answered.error, name)
        yield from offers.withdraw(make(0))
        raise answered.error
    agreed, nonces = answered.agreed, (answered.ours, answered.theirs)
    further = b""
    if agreed.selected.additional:
        if old is not None and _loses_now(context, old, min(nonces)):
            return None
        yield from apply(ForgetAttempt(attempt))
        yield from begin(replace(attempt, following=True))
        followed = yield from followup.initiate(context, agreed.selected.additional, answered.message)
        if isinstance(followed, Refusal):
            return followed
        further = followed
    policy = yield from use_policy(loaded, index, agreed.local, agreed.remote, old)
    made = offers.make_pair(
        context,
        peer,
        loaded,
        index,
        agreed,
        pair=pair,
        spi_in=spi,
        policy=policy,
        ni=answered.ours,
        nr=answered.theirs,
        shared=answered.shared,
        further=further,
        initiator=True,
        replaces=old.pair if old is not None else 0,
        half=half,
    )
    for parameters in (*made.around, made.inbound, made.outbound):
        result = yield from install(parameters)
        error = children.installation_error(result, name)
        if error is not None:
            yield from offers.withdraw(make(0))
            raise error
    return _Created(made, min(nonces))


def _loses_now(context: Context, old: ChildSa, nonce: bytes) -> bool:
    """Whether the peer's rekey of the same beats ours: then no further key exchange begins (RFC 9370,
    section 2.2.4)."""
    rival = collisions.rival(context.state, AttemptKind.REKEY_CHILD, old.pair)
    return rival is not None and collisions.loses(nonce, rival.nonce)


def _rekeyed(old: ChildSa | None) -> tuple[NotifyPayload, ...]:
    if old is None:
        return ()
    return (NotifyPayload(old.ike_protocol, old.spi_in.to_bytes(4, "big"), Notify.REKEY_SA, b""),)


def _was_deleted(context: Context, child: ChildSa) -> bool:
    """C21: the peer's Delete overtook its answer."""
    return any(theirs in context.state.deleted_early for _, _, theirs in child.halves)


def _child_error(context: Context, refusal: Refusal, name: str, index: int, old: ChildSa | None) -> IkeError:
    """What the peer refused beside what we offered of it: selectors or proposals."""
    loaded = children.connection_children(context, context.connection).child(name)
    ours = None
    if refusal.notify.type == Notify.TS_UNACCEPTABLE:
        if old is not None:
            ours = Difference(children.format_selectors(old.local_selectors, old.remote_selectors))
        elif loaded is not None:
            ours = Difference(children.format_selectors(*children.flow_selectors(context, loaded, index)))
    elif loaded is not None:
        ours = proposals.difference(loaded.child.around if refusal.of_outer else loaded.child.proposals, None)
    error = error_of(refusal.notify, ours, child=True)
    error.child = name
    return error


# -- the peer's -------------------------------------------------------------------------------------


def respond(context: Context, received: Received) -> Steps[None]:
    """Which of the three it is, and whether it may be now (RFC 7296, sections 1.3 and 2.25)."""
    message = received.message
    rekeyed = message.notify(Notify.REKEY_SA)
    if any(proposal.protocol == Protocol.IKE for proposal in message.one(SaPayload).proposals):
        request, old = Request.REKEY_IKE, None
    elif rekeyed is not None:
        request = Request.REKEY_CHILD
        named = int.from_bytes(rekeyed.spi, "big")
        old = context.state.child_by_spi_out(named)
        if old is not None and not old.is_named(rekeyed.protocol, named):
            old = None
    else:
        request, old = Request.CREATE_CHILD, None
    refusal = admit(context.state, request, old)
    if refusal == Notify.CHILD_SA_NOT_FOUND and rekeyed is not None:
        yield from answer((NotifyPayload(rekeyed.protocol, rekeyed.spi, refusal, b""),))
    elif refusal:
        yield from answer((NotifyPayload(0, b"", refusal, b""),))
    elif request is Request.REKEY_IKE:
        yield from rekey_ike.respond(context, message)
    else:
        yield from _respond_child(context, message, old)


def _respond_child(context: Context, message: Message, old: ChildSa | None) -> Steps[None]:
    """-->  HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr}  <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}"""
    name = old.name if old is not None else ""
    peer = _peer(context)
    if len(context.state.children) >= MAX_CHILDREN:
        raise PeerIncompatible(
            Reason.LIMIT_REACHED, f"{MAX_CHILDREN} Child SAs are enough", notify=Notify.NO_ADDITIONAL_SAS
        )
    theirs = message.one(NoncePayload).data
    check_child_nonce(context, theirs, b"")
    try:
        loaded = children.connection_children(context, context.connection)
        if old is None and bundles.is_outer(context, loaded, message):
            yield from bundles.respond(context, loaded, message)
            return
        public = message.maybe(KePayload)
        chosen = offers.choose_child(
            context,
            loaded,
            message,
            key_exchange=True,
            prefer_group=public.group if public is not None else 0,
            only=(old.name, old.flow_index) if old is not None else None,
        )
        name = chosen.loaded.child.name
        ours = answer_keys(context, public, chosen.agreed.selected)
    except IkeError as error:
        error.child = error.child or name
        raise
    nonce = context.entropy.octets(NONCE_LENGTH)
    spi, pair = yield from obtain_child()
    agreed = chosen.agreed
    joined = (yield from obtain_child()) if agreed.ah is not None else None
    policy = yield from use_policy(chosen.loaded, chosen.index, agreed.local, agreed.remote, old)
    accepted: tuple[Payload, ...] = (
        *modes.granted(agreed),
        offers.accepted(agreed, spi, joined),
        NoncePayload(nonce),
        *public_value(ours),
        *chosen.payloads,
        *additional(chosen),
    )
    further = b""
    if agreed.selected.additional:
        link = followup.new_link(context)
        if old is not None and collisions.is_rekeying(context.state, old.pair):
            yield from begin(Attempt(AttemptKind.REKEY_CHILD, False, old.pair, min(theirs, nonce)))
        yield from answer((*accepted, link))
        followed = yield from followup.respond(context, agreed.selected.additional, link)
        if followed is None:
            return
        if old is not None and context.state.child(old.pair) is None:
            # It was closed while the further key exchanges went on: there is nothing to replace any more.
            gone = NotifyPayload(
                old.ike_protocol, old.spi_out.to_bytes(4, "big"), Notify.CHILD_SA_NOT_FOUND, b""
            )
            yield from answer((gone,))
            return
        further, reply = followed
        accepted = (reply,)
    local_id = context.state.local_id
    at_once = any(a.ours and a.kind is AttemptKind.CREATE_CHILD for a in context.state.attempts) or (
        local_id is not None and context.is_carried(local_id, peer.user, policy[1])
    )
    made = offers.make_pair(
        context,
        peer,
        chosen.loaded,
        chosen.index,
        agreed,
        pair=pair,
        spi_in=spi,
        policy=policy,
        ni=theirs,
        nr=nonce,
        shared=ours.shared if ours is not None else None,
        further=further,
        initiator=False,
        replaces=old.pair if old is not None else 0,
        at_once=at_once,
        half=chosen.half,
        joined=joined,
    )
    for parameters in (*made.around, made.inbound):
        failed = children.installation_error((yield from install(parameters)), name)
        if failed is not None:
            raise failed
    # What happened while the data plane worked counts too.
    state = context.state
    present = state.child(old.pair) if old is not None else None
    if present is not None and admit(state, Request.REKEY_CHILD, present):
        # C18: we have begun to close it meanwhile.
        yield from answer((NotifyPayload(0, b"", Notify.TEMPORARY_FAILURE, b""),))
        return
    overtaken = admit(state, Request.CREATE_CHILD, None)
    if overtaken:
        yield from answer((NotifyPayload(0, b"", overtaken, b""),))
        return
    contested = old is not None and collisions.is_rekeying(state, old.pair)
    # A rekey is told when it counts: when the peer is known to hold the new pair, or wins the contest.
    created = min(theirs, nonce) if old is None else old.nonce
    record = replace(made.child, outbound=made.outbound, announced=old is None, nonce=created)
    twin = collisions.twin(state, record) if old is None else None
    changes: list[AddChild | ChangeChild | NoteAttempt] = []
    if twin is None:
        changes.append(AddChild(record))
    elif collisions.loses(record.nonce, twin.nonce):
        record = replace(record, announced=False, redundant=True, phase=ChildPhase.REKEYED)
        changes.append(AddChild(record))
    else:
        changes += _beats_twin(record, twin)
    if old is not None and contested:
        rival = Attempt(AttemptKind.REKEY_CHILD, False, old.pair, min(theirs, nonce), pair)
        changes.append(NoteAttempt(rival))
    elif present is not None and present.phase is ChildPhase.INSTALLED:
        changes.append(ChangeChild(replace(present, phase=ChildPhase.REKEYED)))
    yield from answer(accepted, *changes)
    if twin is not None and record.redundant:
        yield from enqueue(DeleteChild(pair, children.REDUNDANT), GRACE)
    elif twin is not None:
        yield from children.activate(context, pair)
        yield from enqueue(DeleteChild(twin.pair, children.REDUNDANT), 0.0 if twin.initiator else GRACE)
    elif old is None:
        yield from offers.activate_new(context, pair, at_once=at_once)
    elif present is None:
        # A new one carries traffic at once; a rekeyed one when the peer is known to hold it (section 2.8).
        yield from children.activate(context, pair)


def _peer(context: Context) -> AuthenticatedPeer:
    peer = context.state.peer
    if peer is None:
        raise PeerMisbehaved(Reason.AUTHENTICATION_FAILED, "CREATE_CHILD_SA before IKE_AUTH")
    return peer
