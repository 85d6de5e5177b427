"""Rekeying the IKE SA with CREATE_CHILD_SA (RFC 7296, sections 1.3.2 and 2.18).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {SA, Ni, KEi}  -->
                                 <--  HDR, SK {SA, Nr, KEr}

Further key exchanges follow in IKE_FOLLOWUP_KE (`followup`), before there is a successor.

Children and queued requests move to the successor in one change. When both ends rekey at once, two
successors are made; the one with the lowest nonce inherits nothing, and who began it closes it
(section 2.8.2). Who began the one that stays closes the old IKE SA.
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.kdf import ike_sa_keys
from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import suite
from cygnet.ike import collisions, proposals
from cygnet.ike.changes import ForgetAttempt, Handover, NoteAttempt, Postpone, UseKeys
from cygnet.ike.errors import Failure, LocalMisuse, Reason
from cygnet.ike.lifetimes import pause_before_retry
from cygnet.ike.proposals import Selected
from cygnet.ike.state import Attempt, AttemptKind, Phase, ike_suite
from cygnet.ike.steps import (
    Context,
    Received,
    SaClosed,
    Steps,
    answer,
    apply,
    begin,
    create_successor,
    dismiss,
    obtain_spi,
    send,
)
from cygnet.ike.v2 import followup
from cygnet.ike.v2.collisions import Request, admit
from cygnet.ike.v2.fresh_keys import (
    OtherGroup,
    Refusal,
    answer_keys,
    refused,
    shared_secret,
    wrong,
)
from cygnet.ike.v2.ike_sa_init import NONCE_LENGTH, check_nonce
from cygnet.ike.v2.informational import anything
from cygnet.ike.v2.notifications import error_of
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

REKEYED_AGAIN: Final = 1.0
"""Seconds that an IKE SA has to stand until the peer may replace it by another."""


def rekey(context: Context) -> Steps[None]:
    """HDR, SK {SA, Ni, KEi}  -->  <--  HDR, SK {SA, Nr, KEr}

    then, on the old one,  HDR, SK {D}  -->  <--  HDR, SK {}
    """
    state = context.state
    attempt = Attempt(AttemptKind.REKEY_IKE, ours=True)
    yield from begin(attempt)
    configured = context.connection.proposals
    groups = proposals.groups(configured)
    group = state.suite.key_exchange if state.suite and state.suite.key_exchange in groups else groups[0]
    ours = generate(group, context.entropy)
    tried = {group}
    spi = yield from obtain_spi()
    while True:
        nonce = context.entropy.octets(NONCE_LENGTH)
        offer = proposals.offer(configured, spi, first_group=ours.group)
        exchanged = yield from send(
            Exchange.CREATE_CHILD_SA,
            (offer, NoncePayload(nonce), KePayload(ours.group, ours.public)),
            _Judge(offer, ours, nonce, frozenset(groups) - tried).expect,
        )
        answered = exchanged.value
        if isinstance(answered, OtherGroup):
            ours = generate(answered.group, context.entropy)
            tried.add(answered.group)
            continue
        break
    rival = collisions.rival(context.state, AttemptKind.REKEY_IKE, 0)
    if isinstance(answered, Refusal):
        if context.state.phase is Phase.REKEYED:
            return
        if rival is not None:
            yield from apply(Handover(rival.result) if rival.result else ForgetAttempt(rival))
            return
        yield from apply(_again(context))
        raise error_of(answered.notify, proposals.difference(configured, None))
    selected, shared, theirs = answered.selected, answered.shared, answered.nonce
    further = b""
    if selected.additional:
        if context.state.phase is Phase.REKEYED:
            return
        if rival is not None and collisions.loses(min(nonce, theirs), rival.nonce):
            # Nothing is there yet that could be deleted: it just stops (RFC 9370, section 2.2.4).
            if rival.result:
                yield from apply(Handover(rival.result))
            else:
                yield from apply(ForgetAttempt(rival))
            return
        yield from apply(ForgetAttempt(attempt))
        yield from begin(replace(attempt, following=True))
        followed = yield from followup.initiate(context, selected.additional, exchanged.received.message)
        if isinstance(followed, Refusal):
            yield from apply(_again(context))
            raise error_of(followed.notify, proposals.difference(configured, None))
        further = followed
        rival = collisions.rival(context.state, AttemptKind.REKEY_IKE, 0)
    keys = _keys(context, selected, spi, selected.spi, nonce, theirs, shared, further)
    successor = yield from create_successor(True, keys)
    if context.state.phase is Phase.REKEYED:
        # The peer was seen to use the one that it made: it knows already that ours has lost.
        yield from dismiss(successor, ours=True)
        return
    if rival is not None and rival.result and collisions.loses(keys.nonce, rival.nonce):
        # Section 2.8.2: the peer's inherits the children, it closes the old one; we close ours.
        yield from apply(Handover(rival.result))
        yield from dismiss(successor, ours=True)
        return
    yield from apply(Handover(successor))
    if rival is not None and rival.result:
        yield from dismiss(rival.result, ours=False)
    failure = Failure(Reason.REPLACED, "rekeyed")
    yield from send(Exchange.INFORMATIONAL, (DeletePayload(Protocol.IKE, ()),), anything)
    raise SaClosed(failure, linger=False)


@dataclass(frozen=True, slots=True)
class _Answered:
    selected: Selected
    nonce: bytes
    shared: bytes


@dataclass(frozen=True, slots=True)
class _Judge:
    offer: SaPayload
    ours: KeyExchange
    nonce: bytes
    other_groups: frozenset[int]

    def expect(self, received: Received) -> _Answered | OtherGroup | Refusal:
        message = received.message
        refusal = refused(message, self.other_groups)
        if refusal is not None:
            return refusal
        selected = proposals.check_answer(self.offer, message.one(SaPayload))
        shared = shared_secret(message, self.ours, selected, self.nonce)
        if shared is None or selected.spi == bytes(8):
            raise wrong("a rekeyed IKE SA without a key exchange or without an SPI")
        theirs = message.one(NoncePayload).data
        check_nonce(theirs, self.nonce, selected.prf)
        return _Answered(selected, theirs, shared)


def _again(context: Context) -> Postpone:
    """Another try, before the hard end."""
    now = context.now.monotonic
    return Postpone(0, now + pause_before_retry(now, context.state.expires_at, context.entropy))


def respond(context: Context, message: Message) -> Steps[None]:
    """-->  HDR, SK {SA, Ni, KEi}  <--  HDR, SK {SA, Nr, KEr}"""
    if context.now.monotonic < context.state.established + REKEYED_AGAIN:
        # T30: each leaves an old IKE SA behind for a while.
        yield from answer((NotifyPayload(0, b"", Notify.TEMPORARY_FAILURE, b""),))
        return
    public = message.one(KePayload)
    selected = proposals.select(
        message.one(SaPayload), context.connection.proposals, prefer_group=public.group
    )
    if selected.spi == bytes(8):
        raise wrong("a rekeyed IKE SA without an SPI")
    ours = answer_keys(context, public, selected)
    if ours is None:
        raise wrong("a rekeyed IKE SA without a key exchange")
    theirs = message.one(NoncePayload).data
    check_nonce(theirs, b"", selected.prf)
    nonce = context.entropy.octets(NONCE_LENGTH)
    spi = yield from obtain_spi()
    accepted: tuple[Payload, ...] = (
        proposals.answer(selected, spi), NoncePayload(nonce), KePayload(ours.group, ours.public)
    )  # fmt: skip
    further = b""
    if selected.additional:
        open_rival = Attempt(AttemptKind.REKEY_IKE, ours=False, nonce=min(theirs, nonce))
        link = followup.new_link(context)
        if _is_rekeying(context):
            yield from begin(open_rival)
        yield from answer((*accepted, link))
        followed = yield from followup.respond(context, selected.additional, link)
        if followed is None:
            return
        yield from apply(ForgetAttempt(open_rival))
        if admit(context.state, Request.REKEY_IKE, None):
            yield from answer((NotifyPayload(0, b"", Notify.TEMPORARY_FAILURE, b""),))
            return
        further, reply = followed
        accepted = (reply,)
    keys = _keys(context, selected, selected.spi, spi, theirs, nonce, ours.shared, further)
    successor = yield from create_successor(False, keys)
    rival = Attempt(AttemptKind.REKEY_IKE, ours=False, nonce=keys.nonce, result=successor)
    done = NoteAttempt(rival) if _is_rekeying(context) else Handover(successor)
    yield from answer(accepted, done)


def _is_rekeying(context: Context) -> bool:
    return any(a.ours and a.kind is AttemptKind.REKEY_IKE for a in context.state.attempts)


def _keys(
    context: Context,
    selected: Selected,
    spi_i: bytes,
    spi_r: bytes,
    ni: bytes,
    nr: bytes,
    shared: bytes,
    further: bytes,
) -> UseKeys:
    """The keys of the new IKE SA: the old SK_d and PRF make SKEYSEED (RFC 7296, section 2.18)."""
    state = context.state
    if state.keys is None or state.suite is None:
        raise LocalMisuse(Reason.INTERNAL, "an IKE SA without keys cannot be rekeyed")
    chosen = ike_suite(
        selected.encryption,
        selected.key_bits,
        selected.integrity,
        selected.prf,
        selected.key_exchange,
        selected.additional,
    )
    ciphers = suite(chosen.encryption, chosen.key_bits, chosen.integrity)
    keys = ike_sa_keys(
        prf(chosen.prf), ni, nr, spi_i, spi_r, shared, ciphers, state.keys.sk_d, prf(state.suite.prf), further
    )
    return UseKeys(
        spi_i=spi_i,
        spi_r=spi_r,
        suite=chosen,
        keys=keys,
        nat_local=state.nat_local,
        nat_remote=state.nat_remote,
        forced=state.forced,
        fragmentation=state.fragmentation,
        nonce=min(ni, nr),
        path=state.path,
    )
