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
from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.ike import children, collisions, proposals
from cygnet.ike.changes import AddChild, ChangeChild, DropChild, ForgetAttempt, NoteAttempt, Postpone
from cygnet.ike.effects import Installed
from cygnet.ike.errors import IkeError, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, SaState
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
from cygnet.ike.v2 import child as offers
from cygnet.ike.v2 import followup, modes, rekey_ike
from cygnet.ike.v2.collisions import Request, admit
from cygnet.ike.v2.fresh_keys import (
    OtherGroup,
    Refusal,
    answer_keys,
    pause_before_retry,
    public_value,
    refused,
    shared_secret,
)
from cygnet.ike.v2.ike_auth import additional
from cygnet.ike.v2.ike_sa_init import NONCE_LENGTH, check_nonce
from cygnet.ike.v2.informational import anything
from cygnet.ike.v2.notifications import error_of
from cygnet.ike.wanted import CreateChild, DeleteChild, RekeyChild
from cygnet.records import dataclass, replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify, Protocol
from cygnet.wire.payloads import (
    DeletePayload,
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
            yield from enqueue(wanted, pause_before_retry(context))
        raise _child_error(context, outcome.notify, wanted.name)
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
        yield from _rekey_refused(context, old, outcome.notify, rival)
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
    spi = child.spi_in.to_bytes(4, "big")
    yield from send(Exchange.INFORMATIONAL, (DeletePayload(child.ike_protocol, (spi,)),), anything)
    if context.state.child(child.pair) is not None:
        yield from apply(DropChild(child.pair))


def _rekey_refused(
    context: Context, old: ChildSa, notify: NotifyPayload, rival: Attempt | None
) -> Steps[None]:
    """RFC 7296, section 2.25: whether the refusal matters depends on what the peer did meanwhile."""
    present = context.state.child(old.pair)
    if rival is not None or present is None or present.phase is not ChildPhase.INSTALLED:
        # The peer has rekeyed or closed it: nothing is left to do (C15, C16, C20).
        if rival is not None:
            yield from apply(*_replaced_by_peer(context.state, old.pair, rival), ForgetAttempt(rival))
        return
    if notify.type == Notify.CHILD_SA_NOT_FOUND:
        # C6: the peer lost it. Drop it in silence and make a new one.
        yield from apply(DropChild(old.pair))
        yield from enqueue(CreateChild(old.name, old.flow_index))
        return
    yield from apply(Postpone(old.pair, context.now.monotonic + pause_before_retry(context)))
    raise _child_error(context, notify, old.name)


def _negotiate(
    context: Context, name: str, index: int, old: ChildSa | None, attempt: Attempt
) -> Steps[_Created | Refusal | None]:
    """The exchange itself, with one retry for INVALID_KE_PAYLOAD; the pair is installed when it returns.
    None: it was stopped before its further key exchanges, because the peer's rekey wins."""
    loaded = children.connection_children(context, context.connection).child(name)
    peer = context.state.peer
    if loaded is None or peer is None or index >= len(loaded.child.flows):
        raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"child {name} is not configured any more")
    spi, pair = yield from obtain_child()
    groups = proposals.groups(loaded.child.proposals)
    group = old.suite.key_exchange if old is not None and old.suite.key_exchange in groups else 0
    group = group or (groups[0] if groups else 0)
    ours = generate(group, context.entropy) if group else None
    tried = {group}
    while True:
        nonce = context.entropy.octets(NONCE_LENGTH)
        offer = offers.make_offer(
            context, loaded, index, pair, spi, key_exchange=True, first_group=ours.group if ours else 0
        )
        if old is not None:
            # RFC 7296, section 2.9.2: a rekey asks for what the old SA carries.
            offer = replace(offer, local=old.local_selectors, remote=old.remote_selectors)
        judge = _Judge(context, offer, ours, nonce, frozenset(groups) - tried)
        exchanged = yield from send(
            Exchange.CREATE_CHILD_SA,
            (
                *_rekeyed(old),
                *offer.wishes.payloads,
                offer.sa,
                NoncePayload(nonce),
                *public_value(ours),
                *offer.payloads,
            ),
            judge.expect_child,
        )
        answered = exchanged.value
        if isinstance(answered, OtherGroup):
            ours = generate(answered.group, context.entropy)
            tried.add(answered.group)
            continue
        break
    if isinstance(answered, Refusal):
        return answered
    if isinstance(answered, IkeError):
        yield from complain(answered, name)
        yield from offers.withdraw(offer)
        raise answered
    agreed = answered.agreed
    further = b""
    if agreed.selected.additional:
        if old is not None and _loses_now(context, old, min(nonce, answered.nonce)):
            return None
        yield from apply(ForgetAttempt(attempt))
        yield from begin(replace(attempt, following=True))
        methods, message = agreed.selected.additional, exchanged.received.message
        followed = yield from followup.initiate(context, methods, message)
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
        ni=nonce,
        nr=answered.nonce,
        shared=answered.shared,
        further=further,
        initiator=True,
        replaces=old.pair if old is not None else 0,
    )
    for parameters in (made.inbound, made.outbound):
        result = yield from install(parameters)
        error = children.installation_error(result, name)
        if error is not None:
            yield from offers.withdraw(offer)
            raise error
    return _Created(made, min(nonce, answered.nonce))


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
    return child.spi_out in context.state.deleted_early


def _child_error(context: Context, notify: NotifyPayload, name: str) -> IkeError:
    loaded = children.connection_children(context, context.connection).child(name)
    offers = proposals.difference(loaded.child.proposals, None) if loaded is not None else None
    error = error_of(notify, offers, child=True)
    error.child = name
    return error


@dataclass(frozen=True, slots=True)
class _Answered:
    agreed: children.Agreed
    nonce: bytes
    shared: bytes | None


@dataclass(frozen=True, slots=True)
class _Judge:
    context: Context
    offer: offers.Offer
    ours: KeyExchange | None
    nonce: bytes
    other_groups: frozenset[int]

    def expect_child(self, received: Received) -> _Answered | OtherGroup | Refusal | IkeError:
        """An acceptable pair, or why not. What the peer made and we cannot take is an error as a value: it
        has to be withdrawn (RFC 7296, section 2.21)."""
        message = received.message
        refusal = refused(message, self.other_groups)
        if refusal is not None:
            return refusal
        try:
            agreed = offers.check_accepted(self.context, self.offer, message)
            nonce = message.one(NoncePayload).data
            _check_nonce(self.context, nonce, self.nonce)
            shared = shared_secret(message, self.ours, agreed.selected, self.nonce)
        except IkeError as error:
            return error
        return _Answered(agreed, nonce, shared)


def _check_nonce(context: Context, theirs: bytes, ours: bytes) -> None:
    """The PRF of a Child SA's keys is its IKE SA's (RFC 7296, sections 2.10 and 2.17)."""
    if context.state.suite is not None:
        check_nonce(theirs, ours, context.state.suite.prf)


# -- the peer's -------------------------------------------------------------------------------------


def respond(context: Context, received: Received) -> Steps[None]:
    """Which of the three it is, and whether it may be now (RFC 7296, sections 1.3 and 2.25)."""
    message = received.message
    rekeyed = message.notify(Notify.REKEY_SA)
    if any(proposal.protocol == Protocol.IKE for proposal in message.one(SaPayload).proposals):
        request, old = Request.REKEY_IKE, None
    elif rekeyed is not None:
        request = Request.REKEY_CHILD
        old = context.state.child_by_spi_out(int.from_bytes(rekeyed.spi, "big"))
        if old is not None and rekeyed.protocol != old.ike_protocol:
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
    _check_nonce(context, theirs, b"")
    try:
        loaded = children.connection_children(context, context.connection)
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
        error.child = name
        raise
    nonce = context.entropy.octets(NONCE_LENGTH)
    spi, pair = yield from obtain_child()
    agreed = chosen.agreed
    policy = yield from use_policy(chosen.loaded, chosen.index, agreed.local, agreed.remote, old)
    accepted: tuple[Payload, ...] = (
        *modes.granted(agreed),
        proposals.answer(agreed.selected, spi.to_bytes(4, "big")),
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
    )
    result = yield from install(made.inbound)
    if not isinstance(result, Installed):
        failed = children.installation_error(result, name)
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
