"""IKE_AUTH: who the two are, the proof, and the first Child SA (RFC 7296, section 1.2).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {IDi, [CERT,] [CERTREQ,]
        [IDr,] AUTH, [CP,] SAi2,
        TSi, TSr}  -->
                                 <--  HDR, SK {IDr, [CERT,] AUTH,
                                          [CP,] SAr2, TSi, TSr}

A verification gives an `AuthenticatedPeer`; only with it can the SA be established and a Child SA be
made. A Child SA that fails leaves the IKE SA standing (section 2.21.2).
"""

from __future__ import annotations

from typing import Final

from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.ike import children, proposals
from cygnet.ike.changes import AddChild, ChangeKeys, Establish
from cygnet.ike.configuration import Connection, Unique
from cygnet.ike.effects import Installed, InstallFailed, Leased
from cygnet.ike.errors import Difference, IkeError, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.lifetimes import ike_deadlines
from cygnet.ike.remote_access import NetworkSettings
from cygnet.ike.state import Attempt, AttemptKind
from cygnet.ike.steps import (
    Context,
    Steps,
    answer,
    apply,
    begin,
    complain,
    enqueue,
    install,
    lease,
    obtain_child,
    use_given,
    use_policy,
)
from cygnet.ike.v2 import child as offers
from cygnet.ike.v2 import configuration_payload, lookup, modes, rounds
from cygnet.ike.v2.announced import announcement
from cygnet.ike.v2.ike_sa_init import Initial
from cygnet.ike.v2.notifications import error_of
from cygnet.ike.v2.proving import certificate_requests, remote_of
from cygnet.ike.wanted import CreateChild
from cygnet.policy.selectors import IpAddress
from cygnet.records import replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Notify
from cygnet.wire.payloads import (
    ConfigPayload,
    NotifyPayload,
    Payload,
    SaPayload,
)

REAUTH_MARGIN: Final = 30.0
"""Seconds before the end of AUTH_LIFETIME at which we authenticate anew, at the latest."""
MIN_LIFETIME: Final = 60
"""Shortest AUTH_LIFETIME that is obeyed: a peer does not make us authenticate without end."""
MAX_NOBODIES: Final = 256
"""IKE SAs with peers that prove nothing (RFC 7619, section 3.2): they must not keep others out."""
INITIAL_CONTACT: Final = NotifyPayload(0, b"", Notify.INITIAL_CONTACT, b"")


# -- initiator ----------------------------------------------------------------------------------


def initiate(context: Context, initial: Initial, wanted: CreateChild | None) -> Steps[None]:
    """HDR, SK {IDi, ..., AUTH, SAi2, TSi, TSr}  -->  <--  HDR, SK {IDr, ..., AUTH, SAr2, TSi, TSr}"""
    connection = context.connection
    offer = None
    child_payloads: tuple[Payload, ...] = ()
    asked = context.addresses_wanted()
    later = _comes_later(connection, initial, wanted, _is_bundle(context, wanted))
    if wanted is not None and not later:
        loaded = children.connection_children(context, connection).child(wanted.name)
        if loaded is None:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"no child {wanted.name} in {connection.name}")
        spi, pair = yield from obtain_child()
        offer = offers.make_offer(context, loaded, wanted.index, pair, spi, key_exchange=False)
        child_payloads = (*offer.wishes.payloads, offer.sa, *offer.payloads)

    def along(local_id: Identity) -> tuple[Payload, ...]:
        return (
            *_initial_contact(context, connection, local_id, remote_of(connection).id),
            *certificate_requests(context.credentials, (connection,)),
            *announcement((connection,)),
            *lookup.supported(context),
            *configuration_payload.request(asked),
            *child_payloads,
        )

    met = yield from rounds.initiate(context, initial, along)
    peer, local_id, message = met.peer, met.local_id, met.last
    if met.keys != initial.keys:
        yield from apply(ChangeKeys(met.keys))
    yield from apply(_establish(context, connection, peer, local_id, told=_told_lifetime(message)))
    problem = yield from _take_addresses(message, asked)
    if problem is not None and (offer is None or message.maybe(SaPayload) is not None):
        yield from complain(problem, wanted.name if wanted is not None else "")
        if offer is not None:
            yield from offers.withdraw(offer)
        return
    if wanted is not None and later:
        yield from enqueue(wanted)
    if offer is not None:
        yield from _first_child(context, peer, offer, message, initial)


def _take_addresses(message: Message, asked: tuple[IpAddress, ...]) -> Steps[IkeError | None]:
    """What the peer's CFG_REPLY gives us, in place on this host; or why it is not."""
    if not asked:
        return None
    given = configuration_payload.given(message.maybe(ConfigPayload), asked)
    if not given.addresses:
        return PeerIncompatible(
            Reason.ADDRESS_REFUSED, "the peer gives us none of the addresses that we ask for"
        )
    result = yield from use_given(given)
    if isinstance(result, Installed):
        return None
    detail = result.error if isinstance(result, InstallFailed) else "the data plane does not answer"
    return LocalMisuse(Reason.INSTALL_FAILED, f"the addresses could not be configured: {detail}")


def _is_bundle(context: Context, wanted: CreateChild | None) -> bool:
    loaded = context.connections.get(context.connection.name) if wanted is not None else None
    child = loaded.child(wanted.name) if loaded is not None and wanted is not None else None
    return child is not None and bool(child.child.around)


def _comes_later(connection: Connection, initial: Initial, wanted: CreateChild | None, bundle: bool) -> bool:
    """Whether IKE_AUTH goes without a Child SA, which is made by CREATE_CHILD_SA (RFC 6023): a `bundle` is,
    by two. Raises `PeerIncompatible` where that must be and the peer cannot."""
    if initial.childless and (wanted is None or bundle or connection.childless in ("prefer", "force")):
        return True
    if wanted is None or bundle or connection.childless == "force":
        raise PeerIncompatible(
            Reason.MODE_MISMATCH, "the peer does not set up IKE SAs without a Child SA (RFC 6023)"
        )
    return False


def _first_child(
    context: Context, peer: AuthenticatedPeer, offer: offers.Offer, message: Message, initial: Initial
) -> Steps[None]:
    """The peer's answer to the Child SA that went along; its failure is not the IKE SA's."""
    error = message.error()
    if message.maybe(SaPayload) is None:
        ours = Difference(children.format_selectors(offer.local, offer.remote))
        if error is not None and error.type == Notify.NO_PROPOSAL_CHOSEN:
            ours = proposals.difference(offer.loaded.child.proposals, None, key_exchange=False)
        failed = (
            error_of(error, ours, child=True)
            if error is not None
            else PeerMisbehaved(Reason.PEER_MISBEHAVED, "the answer has no Child SA and no reason")
        )
        yield from complain(failed, offer.name)
        return
    try:
        agreed = offers.check_accepted(context, offer, message)
        if context.connection.vips:
            agreed = children.to_given_addresses(context, offer.loaded, offer.index, agreed)
        policy = yield from use_policy(offer.loaded, offer.index, agreed.local, agreed.remote)
        made = offers.make_pair(
            context,
            peer,
            offer.loaded,
            offer.index,
            agreed,
            pair=offer.pair,
            spi_in=offer.spi,
            policy=policy,
            ni=initial.nonce_i,
            nr=initial.nonce_r,
            shared=None,
            initiator=True,
        )
    except IkeError as unacceptable:
        yield from complain(unacceptable, offer.name)
        yield from offers.withdraw(offer)
        return
    yield from begin(Attempt(AttemptKind.CREATE_CHILD, ours=True))
    for parameters in (made.inbound, made.outbound):
        result = yield from install(parameters)
        failure = children.installation_error(result, offer.name)
        if failure is not None:
            yield from complain(failure, offer.name)
            yield from offers.withdraw(offer)
            return
    if made.child.spi_out in context.state.deleted_early:
        yield from complain(children.closed_early(offer.name), offer.name)
        return
    yield from apply(AddChild(made.child))


# -- responder ----------------------------------------------------------------------------------


def respond(context: Context, initial: Initial) -> Steps[None]:
    """-->  HDR, SK {IDi, ..., AUTH, SAi2, TSi, TSr}  <--  HDR, SK {IDr, ..., AUTH, SAr2, TSi, TSr}"""
    admitted = yield from rounds.respond(context, initial)
    loaded, peer, local_id, message = admitted.loaded, admitted.peer, admitted.local_id, admitted.request
    if admitted.keys != initial.keys:
        yield from apply(ChangeKeys(admitted.keys))
    connection = loaded.connection
    if peer.identity.is_nobody and context.nobodies() >= MAX_NOBODIES:
        raise PeerIncompatible(
            Reason.LIMIT_REACHED,
            f"there are {MAX_NOBODIES} IKE SAs with peers that prove nothing",
            notify=Notify.AUTHENTICATION_FAILED,
        )
    initial_contact = message.notify(Notify.INITIAL_CONTACT) is not None
    has_contact = context.has_contact(local_id, peer.user) and not initial_contact
    if connection.unique is Unique.KEEP and has_contact:
        raise PeerIncompatible(
            Reason.LIMIT_REACHED,
            f"{peer.user} has an IKE SA already, and `unique = keep` keeps it",
            notify=Notify.AUTHENTICATION_FAILED,
        )
    establish = _establish(
        context,
        connection,
        peer,
        local_id,
        initial_contact=initial_contact,
        given=_lifetime(peer),
    )
    proven = (*admitted.proven, *_tell_lifetime(peer, connection))
    alone = connection.unique is Unique.REPLACE or (initial_contact and connection.unique is not Unique.NEVER)
    given, problem = yield from _give_addresses(context, connection, local_id, peer, message, alone)
    proven += given
    if message.maybe(SaPayload) is None:
        if connection.childless == "never":
            raise PeerMisbehaved(
                Reason.MODE_MISMATCH, "the peer wants no Child SA", notify=Notify.INVALID_SYNTAX
            )
        if problem is not None and problem.notify == Notify.INTERNAL_ADDRESS_FAILURE:
            proven += (_refusal(problem),)
        yield from answer(proven, establish)
        return
    try:
        if connection.childless == "force":
            raise PeerIncompatible(
                Reason.MODE_MISMATCH,
                "no Child SA is made in IKE_AUTH here (`childless = force`)",
                notify=Notify.NO_ADDITIONAL_SAS,
            )
        if problem is not None:
            raise problem
        chosen = offers.choose_child(context, loaded, message, key_exchange=False)
        spi, pair = yield from obtain_child()
        agreed = chosen.agreed
        joined = (yield from obtain_child()) if agreed.ah is not None else None
        policy = yield from use_policy(chosen.loaded, chosen.index, agreed.local, agreed.remote)
        # A flow that is carried already (the peer authenticates anew) loses nothing by waiting either.
        at_once = context.is_calling() or context.is_carried(local_id, peer.user, policy[1])
        made = offers.make_pair(
            context,
            peer,
            chosen.loaded,
            chosen.index,
            chosen.agreed,
            pair=pair,
            spi_in=spi,
            policy=policy,
            ni=initial.nonce_i,
            nr=initial.nonce_r,
            shared=None,
            initiator=False,
            at_once=at_once,
            half=chosen.half,
            joined=joined,
        )
    except IkeError as error:
        yield from answer((*proven, _refusal(error)), establish)
        yield from complain(error, error.child)
        return
    for parameters in (*made.around, made.inbound):
        failed = children.installation_error((yield from install(parameters)), made.child.name)
        if failed is not None:
            yield from answer((*proven, _refusal(failed)), establish)
            yield from complain(failed, made.child.name)
            return
    yield from answer(
        (
            *proven,
            *modes.granted(chosen.agreed),
            offers.accepted(chosen.agreed, spi, joined),
            *chosen.payloads,
            *additional(chosen),
        ),
        establish,
        AddChild(replace(made.child, outbound=made.outbound)),
    )
    yield from offers.activate_new(context, pair, at_once=at_once)


def _give_addresses(
    context: Context, connection: Connection, local_id: Identity, peer: AuthenticatedPeer, message: Message,
    alone: bool,
) -> Steps[tuple[tuple[ConfigPayload, ...], IkeError | None]]:  # fmt: skip
    """Our CFG_REPLY, with addresses leased to the peer; or why there can be no Child SA (section 2.19)."""
    request = message.maybe(ConfigPayload)
    asked = configuration_payload.wanted(request)
    leased = Leased((), NetworkSettings(), "no pools are configured")
    if request is not None and connection.pools:
        leased = yield from lease(context, connection, local_id, peer, asked, alone=alone)
    problem: IkeError | None = None
    if asked and not leased.leases:
        problem = PeerIncompatible(
            Reason.ADDRESS_REFUSED,
            f"there is no address for {peer.user}: {leased.refused}",
            notify=Notify.INTERNAL_ADDRESS_FAILURE,
        )
    elif connection.pools and not asked:
        problem = PeerIncompatible(
            Reason.ADDRESS_REFUSED,
            f"{peer.user} asks for no address, and `pools` says that it must have one",
            notify=Notify.FAILED_CP_REQUIRED,
        )
    if asked and not leased.leases:
        return (), problem
    return configuration_payload.reply(request, leased.leases, leased.settings), problem


def additional(chosen: offers.Chosen) -> tuple[NotifyPayload, ...]:
    """RFC 7296, section 2.9: other parts of the offer may be asked for separately."""
    if not chosen.additional:
        return ()
    return (NotifyPayload(0, b"", Notify.ADDITIONAL_TS_POSSIBLE, b""),)


def _refusal(error: IkeError) -> NotifyPayload:
    return NotifyPayload(0, b"", error.notify or Notify.NO_PROPOSAL_CHOSEN, error.notify_data)


# -- both ---------------------------------------------------------------------------------------


def _establish(
    context: Context,
    connection: Connection,
    peer: AuthenticatedPeer,
    local_id: Identity,
    *,
    initial_contact: bool = False,
    told: float = 0.0,
    given: float = 0.0,
) -> Establish:
    """`told`: the seconds within which the peer wants us to authenticate anew; `given`: those that it has."""
    now = context.now.monotonic
    rekey_at, reauth_at, expires_at = ike_deadlines(connection, now, context.entropy)
    if told and not 0.0 < reauth_at <= now + told:
        reauth_at = now + max(told - max(told / 10, REAUTH_MARGIN), told / 2)
    ends_at = now + given if given else 0.0
    return Establish(
        peer, connection, local_id, now, rekey_at, reauth_at, expires_at, initial_contact, ends_at
    )


def _lifetime(peer: AuthenticatedPeer) -> float:
    """Seconds that the authentication holds by what a RADIUS server says (Session-Timeout); 0: for ever."""
    said = [value for name, value in peer.attributes if name == "Session-Timeout" and len(value) == 4]
    return float(int.from_bytes(said[0], "big")) if said else 0.0


def _tell_lifetime(peer: AuthenticatedPeer, connection: Connection) -> tuple[NotifyPayload, ...]:
    """RFC 4478: the initiator is to authenticate anew before this ends; we cannot, in its place."""
    limits = [limit for limit in (_lifetime(peer), connection.reauth_time) if limit > 0]
    if not limits:
        return ()
    seconds = min(int(min(limits)), 0xFFFFFFFF)
    return (NotifyPayload(0, b"", Notify.AUTH_LIFETIME, seconds.to_bytes(4, "big")),)


def _told_lifetime(message: Message) -> float:
    notify = message.notify(Notify.AUTH_LIFETIME)
    return float(max(int.from_bytes(notify.data, "big"), MIN_LIFETIME)) if notify is not None else 0.0


def _initial_contact(
    context: Context, connection: Connection, local_id: Identity, remote_id: Identity | None
) -> tuple[NotifyPayload, ...]:
    """RFC 7296, section 2.4: this is our only IKE SA with that peer."""
    unknown = remote_id is None or remote_id.has_wildcards or remote_id.is_nobody or local_id.is_nobody
    if connection.unique is Unique.NEVER or remote_id is None or unknown:
        return ()
    return () if context.has_contact(local_id, remote_id) else (INITIAL_CONTACT,)
