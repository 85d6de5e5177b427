"""Connections coming up, staying up, and changing under a running gateway.

Bringing up finds the IKE SA that there is to the peer, or begins one: there is one between two
peers, however many rules. What was lost comes back as the child's `start_action`, `close_action` and
`dpd_action` say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from cygnet.ike import collisions, running
from cygnet.ike.changes import ChangeChild
from cygnet.ike.configuration import Child, Connection, StartAction
from cygnet.ike.connections import Loaded, LoadedChild, single_address
from cygnet.ike.errors import Failure, Reason
from cygnet.ike.policies import unprotected_before
from cygnet.ike.state import ChildPhase, ChildSa, Phase, SaState
from cygnet.ike.timers import Timers
from cygnet.ike.wanted import CloseOther, CreateChild, DeleteChild, Wanted
from cygnet.ike.world import Path

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint
    from cygnet.ike.sa import IkeSa

TIMER: Final = 0
"""The key of our timer among those of the SAs, whose numbers start at 1."""
NOWHERE: Final = IPv4Address(0)
PAUSES: Final = (1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds between attempts to connect, the last one for ever."""

MEANT: Final = (
    Reason.OPERATOR,
    Reason.CONFIGURATION_CHANGED,
    Reason.SHUTDOWN,
    Reason.REPLACED,
    Reason.PEER_RESTARTED,
)
"""Reasons after which nothing comes back by itself."""
GRACE: Final = 10.0
"""Seconds that the peer has to close an IKE SA of its own that lost against one of ours."""

Flows = Sequence[tuple[str, int]]


def bring_up(gateway: Endpoint, loaded: Loaded, flows: Flows, operation: int) -> None:
    """See to it that these flows have Child SAs; an `operation` hears about each."""
    sa = _current(gateway, loaded.connection.name)
    wanted = [CreateChild(name, index, operation) for name, index in flows]
    if sa is not None:
        for one in wanted:
            if operation or not _on_its_way(sa, one):
                running.enqueue(sa, one)
        if not wanted:
            gateway.operation_ended(operation, None)
        return
    _begin(gateway, loaded.connection, wanted, operation)


def _begin(
    gateway: Endpoint,
    connection: Connection,
    wanted: Sequence[CreateChild],
    operation: int,
    version: int = 0,
) -> IkeSa:
    """A new IKE SA, initiated, with its first Child SA. `version` 0: the connection's own."""
    first = wanted[0] if wanted else None
    nat_t = connection.remote_port != gateway.options.port and connection.local_port == gateway.options.port
    path = Path(
        single_address(connection.local_addrs) or NOWHERE,
        gateway.options.port_nat_t if nat_t else connection.local_port,
        single_address(connection.remote_addrs) or NOWHERE,
        connection.remote_port,
    )
    state = SaState(
        phase=Phase.CONNECTING,
        original_initiator=True,
        began=True,
        spi_i=gateway.obtain_spi(),
        spi_r=bytes(8),
        path=path,
        created=gateway.now.monotonic,
        version=version or connection.version or 2,
    )
    sa = gateway.create(gateway.kinds[state.version], connection, state)
    for one in wanted[1:]:
        running.enqueue(sa, one)
    sa.set_up(first, operation)
    return sa


def reauthenticate(gateway: Endpoint, sa: IkeSa, operation: int) -> None:
    """A new IKE SA with all that this one carries, and only then this one goes (RFC 7296, section 2.8.3)."""
    loaded = gateway.book.get(sa.connection.name)
    if loaded is None or not can_initiate(loaded.connection):
        failure = Failure(
            Reason.NO_SUCH_OBJECT, f"connection {sa.connection.name} names no address to initiate to"
        )
        gateway.operation_ended(operation, failure)
        return
    up = dict.fromkeys([(child.name, child.flow_index) for child in sa.state.children])
    wanted = [CreateChild(name, index) for name, index in up if _exists(loaded, name, index)]
    if sa.state.version == 1:
        # The Child SAs themselves move to the new phase 1 (`IkeSa.takes_over`).
        wanted = []
    new = _begin(gateway, loaded.connection, wanted, 0, sa.state.version)
    failure = Failure(Reason.REPLACED, "authenticated anew")
    running.enqueue(new, CloseOther(sa.unique_id, failure, operation))


def replaces(sa: IkeSa, other: IkeSa) -> bool:
    """Whether this IKE SA was set up to replace that one, and closes it itself."""
    return any(isinstance(one, CloseOther) and one.number == other.unique_id for one in sa.queue or ())


def _current(gateway: Endpoint, name: str) -> IkeSa | None:
    """The IKE SA of the connection that new Child SAs go on: an established one, else one that comes up."""
    members = [sa for sa in gateway.by_connection.get(name, {}).values() if not sa.close_at]
    for phase in (Phase.ESTABLISHED, Phase.CONNECTING):
        for sa in reversed(members):
            if sa.state.phase is phase and (phase is Phase.ESTABLISHED or sa.state.original_initiator):
                return sa
    return None


def _on_its_way(sa: IkeSa, wanted: CreateChild) -> bool:
    key = (wanted.name, wanted.index)
    queued = [*(sa.queue or ()), *[later for _, later in sa.later], *[task.wanted for task in sa.tasks()]]
    return any(isinstance(one, CreateChild) and (one.name, one.index) == key for one in queued)


def load(gateway: Endpoint, connection: Connection) -> None:
    """A connection, new or changed. Equal children, and equal flows of children of which only the rules have
    changed, keep their numbers and SAs."""
    old = gateway.book.get(connection.name)
    if old is not None and old.connection == connection:
        return
    kept = {child.child.name: child for child in old.children} if old is not None else {}
    children = tuple([_numbered(gateway, child, kept.get(child.name)) for child in connection.children])
    loaded = gateway.book.add(connection, children)
    gateway.policies.load(loaded)
    gateway.manual.load(loaded)
    if old is not None:
        remaining = {child.policy for child in children}
        _change(gateway, old, loaded)
        for child in old.children:
            if child.policy not in remaining:
                gateway.policies.remove(child.policy)
    starting = [
        (child.child.name, index)
        for child in children
        if child.child.start_action in (StartAction.START, StartAction.TRAP_START)
        and child.child.manual is None
        for index in range(len(child.flows))
    ]
    if starting:
        gateway.reconnecting.schedule(connection.name, starting, 0.0)


def _numbered(gateway: Endpoint, child: Child, old: LoadedChild | None) -> LoadedChild:
    if old is not None and old.child == child:
        return old
    known: dict[object, int] = {}
    if old is not None and child.manual is None and _but_for_rules(old.child) == _but_for_rules(child):
        # Rules are renumbered where one is put between them: what a flow carries is what it is.
        known = {(f.local, f.remote): n for f, n in zip(old.child.flows, old.flows, strict=True)}
    flows = [known.pop((flow.local, flow.remote), 0) or gateway.book.number() for flow in child.flows]
    return LoadedChild(child, old.policy if old is not None else gateway.book.number(), tuple(flows))


def _but_for_rules(child: Child) -> Child:
    return replace(child, flows=(), rules=())


class _Moves:
    """Where the flows of a connection stand after it was loaded anew: those that carry what they carried keep
    their number, and with it their SAs."""

    def __init__(self, old: Loaded, new: Loaded) -> None:
        self._old, self._new = old, new

    def index(self, name: str, index: int) -> int | None:
        """None: the flow is there no more, or carries something else now."""
        old, new = self._old.child(name), self._new.child(name)
        if old is None or new is None or index >= len(old.flows) or old.flows[index] not in new.flows:
            return None
        return new.flows.index(old.flows[index])

    def unharmed(self, child: ChildSa) -> bool:
        """Whether the pair serves as it is. A policy that was made for one peer (`Policies.use`) holds the
        rules before the flow's own as well."""
        index = self.index(child.name, child.flow_index)
        old, new = self._old.child(child.name), self._new.child(child.name)
        if index is None or old is None or new is None:
            return False
        return child.policy == new.policy or unprotected_before(
            old.child, child.flow_index
        ) == unprotected_before(new.child, index)

    def followed(self, wanted: Wanted) -> Wanted:
        """What is still to be created, by its new place."""
        if isinstance(wanted, CreateChild):
            index = self.index(wanted.name, wanted.index)
            return wanted if index is None else replace(wanted, index=index)
        return wanted


def _change(gateway: Endpoint, old: Loaded, new: Loaded) -> None:
    """Carry a changed connection over to its live SAs, as gently as the change allows."""
    failure = Failure(Reason.CONFIGURATION_CHANGED, "the configuration has changed")
    same_ike = replace(old.connection, children=()) == replace(new.connection, children=())
    moves = _Moves(old, new)
    for sa in tuple(gateway.by_connection.get(new.connection.name, {}).values()):
        up = [(child.name, child.flow_index) for child in sa.state.children]
        if not same_ike:
            again = [flow for flow in dict.fromkeys((*up, *wanted_flows(sa))) if _exists(new, *flow)]
            running.begin_closing(sa, failure)
            if again and can_initiate(new.connection):
                gateway.reconnecting.schedule(new.connection.name, again, 0.0)
            continue
        sa.connection = new.connection
        sa.queue = deque(map(moves.followed, sa.queue)) if sa.queue else sa.queue
        sa.later = tuple([(at, moves.followed(wanted)) for at, wanted in sa.later])
        for child in sa.state.children:
            index = moves.index(child.name, child.flow_index)
            if not moves.unharmed(child):
                anew = child.flow_index if index is None else index
                running.enqueue(sa, DeleteChild(child.pair, failure))
                if _exists(new, child.name, anew):
                    running.enqueue(sa, CreateChild(child.name, anew))
            elif index is not None and index != child.flow_index:
                sa.commit((ChangeChild(replace(child, flow_index=index)),))


def _exists(loaded: Loaded, name: str, index: int) -> bool:
    child = loaded.child(name)
    return child is not None and index < len(child.flows)


def can_initiate(connection: Connection) -> bool:
    """Whether the peer's address is known."""
    return bool(connection.remote_host) or single_address(connection.remote_addrs) is not None


def wanted_flows(sa: IkeSa) -> list[tuple[str, int]]:
    """What an IKE SA that comes up is to carry."""
    return [(w.name, w.index) for w in (sa.first, *(sa.queue or ())) if isinstance(w, CreateChild)]


def unload(gateway: Endpoint, name: str) -> None:
    """The connection, its SAs and its policies go."""
    gateway.reconnecting.forget(name)
    failure = Failure(Reason.CONFIGURATION_CHANGED, "the connection was unloaded")
    for sa in tuple(gateway.by_connection.get(name, {}).values()):
        running.begin_closing(sa, failure)
    gateway.clients.forget(name)
    loaded = gateway.book.remove(name)
    if loaded is not None:
        gateway.manual.unload(loaded)
        gateway.policies.unload(loaded)


class Reconnecting:
    """Connections that are to be brought up at a certain time."""

    __slots__ = ("_attempts", "_flows", "_gateway", "_timers")

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._timers: Timers[str] = Timers()
        self._flows: dict[str, tuple[tuple[str, int], ...]] = {}
        self._attempts: dict[str, int] = {}

    def schedule(self, name: str, flows: Flows, pause: float) -> None:
        """Bring these flows up after `pause` seconds, or when others of the connection come up earlier."""
        due = self._gateway.now.monotonic + pause
        earlier = self._timers.due(name)
        self._timers.arm(name, due if earlier is None else min(due, earlier))
        self._flows[name] = tuple(dict.fromkeys((*self._flows.get(name, ()), *flows)))
        self._arm()

    def forget(self, name: str) -> None:
        self._timers.arm(name, None)
        self._flows.pop(name, None)
        self._attempts.pop(name, None)
        self._arm()

    def _arm(self) -> None:
        self._gateway.arm_reconnect(self._timers.next())

    def handle_timeout(self) -> None:
        while (name := self._timers.pop_due(self._gateway.now.monotonic)) is not None:
            planned = self._flows.pop(name, ())
            loaded = self._gateway.book.get(name)
            if loaded is not None:
                flows = [flow for flow in planned if _exists(loaded, *flow)]
                if flows:
                    bring_up(self._gateway, loaded, flows, 0)
        self._arm()

    def succeeded(self, sa: IkeSa) -> None:
        self._attempts.pop(sa.connection.name, None)

    def failed(self, sa: IkeSa, failure: Failure) -> None:
        """Our attempt to connect has failed: `keyingtries` says how often, 0 without end."""
        name = sa.connection.name
        attempts = self._attempts.pop(name, 0) + 1
        tries = sa.connection.keyingtries
        meant = failure.reason in (Reason.OPERATOR, Reason.CONFIGURATION_CHANGED, Reason.SHUTDOWN)
        if meant or (tries and attempts >= tries) or self._gateway.book.get(name) is None:
            return
        flows = wanted_flows(sa)
        if flows:
            self._attempts[name] = attempts
            self.schedule(name, flows, PAUSES[min(attempts, len(PAUSES)) - 1])

    def lost(self, sa: IkeSa, failure: Failure) -> None:
        """An IKE SA that was up is gone; its children say what is to be done."""
        loaded = self._gateway.book.get(sa.connection.name)
        if loaded is not None and failure.reason not in MEANT:
            children = [child for child in sa.state.children if child.phase is not ChildPhase.REKEYED]
            flows = [flow for child in children if (flow := self._return_of(loaded, child, failure))]
            if flows:
                self.schedule(sa.connection.name, flows, PAUSES[0])

    def child_lost(self, sa: IkeSa, child: ChildSa, failure: Failure) -> None:
        """A Child SA is gone and its IKE SA stands."""
        loaded = self._gateway.book.get(sa.connection.name)
        if loaded is not None and failure.reason not in MEANT:
            flow = self._return_of(loaded, child, failure)
            if flow is not None:
                running.enqueue(sa, CreateChild(*flow))

    def _return_of(self, loaded: Loaded, child: ChildSa, failure: Failure) -> tuple[str, int] | None:
        """The flow, if the child's actions want it up again now; a trap is armed for one that is to wait."""
        config = loaded.child(child.name)
        if config is None or child.flow_index >= len(config.flows):
            return None
        action = config.child.start_action
        if failure.reason is Reason.PEER_DEAD:
            action = config.child.dpd_action
        elif failure.reason is Reason.PEER_CLOSED:
            action = config.child.close_action
        if action in (StartAction.TRAP, StartAction.TRAP_START):
            self._gateway.policies.arm_trap(loaded, config)
        if action in (StartAction.START, StartAction.TRAP_START):
            return child.name, child.flow_index
        return None


def crossing(sa: IkeSa, other: IkeSa, initial_contact: bool) -> bool:
    """Whether these two IKE SAs were begun at once, one by each end: neither knew of the other's.

    How long ago does not matter: on a bad line one may take minutes. INITIAL_CONTACT on `sa` means that
    the peer had no other when it sent that: then only one that was established while `sa` was under way
    can have crossed it.
    """
    mine, theirs = sa.state, other.state
    if mine.began == theirs.began or sa.connection.name != other.connection.name:
        return False
    return not (initial_contact and theirs.established < mine.created)


def settle_crossing(sa: IkeSa, other: IkeSa) -> None:
    """One IKE SA between two peers: the one with the lowest nonce is closed by whoever began it, as with
    rekeys (RFC 7296, section 2.8.2); the other side waits for that, in measure. What it has or wants moves
    to the survivor first, and the survivor must have answered before the other goes."""
    loser, winner = (sa, other) if collisions.loses(sa.state.nonce, other.state.nonce) else (other, sa)
    failure = Failure(Reason.REPLACED, "both ends began one at once")
    close = CloseOther(loser.unique_id, failure)
    if not loser.state.original_initiator:
        running.postpone(winner, close, winner.now.monotonic + GRACE)
        return
    wanted = [CreateChild(child.name, child.flow_index) for child in loser.state.children]
    if loser.first is not None:
        wanted.append(CreateChild(loser.first.name, loser.first.index))
    queued = [one for one in loser.queue or () if isinstance(one, CreateChild)]
    loser.queue = deque([one for one in loser.queue or () if not isinstance(one, CreateChild)])
    for one in (*wanted, *queued):
        running.enqueue(winner, one)
    running.enqueue(winner, close)


def follow(gateway: Endpoint, sa: IkeSa, successor: int) -> None:
    """Who was to close an IKE SA that has been rekeyed closes its successor."""

    def turned(wanted: Wanted) -> Wanted:
        if isinstance(wanted, CloseOther) and wanted.number == sa.unique_id:
            return replace(wanted, number=successor)
        return wanted

    for other in gateway.by_connection.get(sa.connection.name, {}).values():
        if other.queue:
            other.queue = deque(map(turned, other.queue))
        other.later = tuple([(at, turned(wanted)) for at, wanted in other.later])
