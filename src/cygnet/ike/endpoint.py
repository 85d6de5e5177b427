"""All IKE SAs of a gateway: who a datagram belongs to, what strangers get, what people and packets ask.

Flow: a verb sets `now`, does its work through the SAs and their drivers, then `_settle` starts what
waits in queues and sets the timers of every SA that was touched. Everything that should happen in
the world is in `effects()`.

An endpoint answers first messages without state (cookies, INVALID_KE_PAYLOAD, refusals: `v2.first`);
an SA exists only once a request has passed all that can be judged without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from cygnet.auth.credentials import Credentials
from cygnet.crypto.entropy import Entropy
from cygnet.ike import children, reconnect, running, succession, upkeep
from cygnet.ike.admission import Cookies, HalfOpen, RateLimit
from cygnet.ike.books import ZERO_SPI, Books
from cygnet.ike.changes import ChangePath, UseKeys
from cygnet.ike.clients import Clients
from cygnet.ike.configuration import Connection, Options, Unique
from cygnet.ike.connections import Connections
from cygnet.ike.effects import Effect, Emit, Leased, ReturnAddresses, SendDatagram
from cygnet.ike.errors import Difference, Drop, Failure, LocalMisuse, Reason
from cygnet.ike.events import (
    Dropped,
    Event,
    IkeSaDown,
    NegotiationFailed,
)
from cygnet.ike.history import Entry, History
from cygnet.ike.manual import ManualSas
from cygnet.ike.operations import Operations
from cygnet.ike.policies import Policies
from cygnet.ike.running import Task
from cygnet.ike.sa import IkeSa
from cygnet.ike.state import ChildSa, Phase, SaState
from cygnet.ike.timers import Timers
from cygnet.ike.transport import NON_ESP_MARKER
from cygnet.ike.v1 import first as first_v1
from cygnet.ike.v1.sa import IkeV1Sa
from cygnet.ike.v2 import first
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.ike.view import IkeSaView
from cygnet.ike.wanted import DeleteChild, RekeyChild
from cygnet.ike.world import Instant, Path
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import HEADER_LENGTH, Header, decode_header, encode
from cygnet.wire.numbers import Exchange, Flags, Notify
from cygnet.wire.payloads import NotifyPayload

ANSWERS_PER_SECOND: Final = 10.0
"""Refusals in clear that one source gets (B12)."""
NEWCOMERS_PER_SECOND: Final = 50.0
"""Half-open SAs of one source that may take the place of older ones: each costs a key exchange."""
MAX_IKE_SAS_PER_PEER: Final = 32
"""Established IKE SAs of one pair of identities, unless `unique = never`; beyond it the oldest is closed."""
ORDINARY_ENDS: Final = frozenset(
    {
        Reason.OPERATOR,
        Reason.REPLACED,
        Reason.CONFIGURATION_CHANGED,
        Reason.SHUTDOWN,
        Reason.PEER_CLOSED,
        Reason.PEER_RESTARTED,
    }
)
"""What somebody wanted; whatever else ends an IKE SA that was up is a line of history."""
Sa = TypeVar("Sa", bound=IkeSa)
KEEPALIVE: Final = b"\xff"


class Endpoint(Books):
    """`observe`: build a `MessageSeen` for every message (costs a decoded copy each)."""

    kinds: Final[dict[int, type[IkeSa]]] = {1: IkeV1Sa, 2: IkeV2Sa}
    """What an IKE SA is, by IKE version."""

    def __init__(self, options: Options, credentials: Credentials, entropy: Entropy, now: Instant) -> None:
        super().__init__(entropy)
        self.options = options
        self.credentials = credentials
        self.now = now
        self.observe = False
        self.history = History()
        self.book = Connections()
        self.policies = Policies(self)
        self.manual = ManualSas(self)
        self.clients = Clients(self)
        self.operations = Operations(self)
        self.half_open = HalfOpen()
        self.cookies = Cookies(entropy)
        self.strangers = RateLimit(ANSWERS_PER_SECOND, ANSWERS_PER_SECOND)
        self.newcomers = RateLimit(NEWCOMERS_PER_SECOND, NEWCOMERS_PER_SECOND)
        self.reconnecting = reconnect.Reconnecting(self)
        self._asks: dict[int, tuple[IkeSa, Task]] = {}
        self._effects: list[Effect] = []
        self._touched: dict[int, IkeSa] = {}
        self._timers: Timers[int] = Timers()
        self._last_ask = 0

    # -- verbs: datagrams and time ---------------------------------------------------------------

    def receive(self, datagram: bytes, path: Path, now: Instant) -> None:
        """A UDP payload, its non-ESP marker already stripped."""
        self.now = now
        if datagram == KEEPALIVE:
            self.event(Dropped(Drop.KEEPALIVE, "NAT keepalive", path, 0))
            return
        try:
            header = decode_header(datagram)
        except Malformed as error:
            self.event(Dropped(Drop.MALFORMED, str(error), path, 0))
            return
        if header.major == 1:
            self._receive_v1(header, datagram, path)
        elif header.major != 2:
            self._other_version(header, path)
        elif header.responder_spi == ZERO_SPI and header.from_initiator and not header.response:
            if header.exchange == Exchange.IKE_SA_INIT:
                first.receive(self, header, datagram, path)
            else:
                self.event(Dropped(Drop.WRONG_EXCHANGE, "no responder SPI", path, 0))
        else:
            spi = header.responder_spi if header.from_initiator else header.initiator_spi
            sa = self.by_spi.get(spi)
            if sa is None:
                self._unknown_spi(header, path)
            else:
                sa.receive(header, datagram, path)
        self._settle()

    def _receive_v1(self, header: Header, datagram: bytes, path: Path) -> None:
        """IKEv1 has no flag that says whose message it is: a cookie of ours does."""
        if header.responder_spi == ZERO_SPI:
            sa = self.by_spi.get(header.initiator_spi)
            if sa is None:
                first_v1.receive(self, header, datagram, path)
                return
        else:
            sa = self.by_spi.get(header.responder_spi) or self.by_spi.get(header.initiator_spi)
        if isinstance(sa, IkeV1Sa):
            sa.receive(header, datagram, path)
        elif sa is not None:
            self.event(Dropped(Drop.WRONG_VERSION, "IKEv1 with the SPI of an IKEv2 SA", path, 0))
        else:
            self.event(Dropped(Drop.UNKNOWN_SPI, "no such phase 1 SA", path, 0))

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called, monotonic seconds."""
        return self._timers.next()

    def handle_timeout(self, now: Instant) -> None:
        self.now = now
        while (key := self._timers.pop_due(now.monotonic)) is not None:
            if key == reconnect.TIMER:
                self.reconnecting.handle_timeout()
                continue
            sa = self.by_number.get(key)
            if sa is not None:
                running.handle_timeout(sa)
                if self.by_number.get(key) is sa and not sa.close_at:
                    upkeep.lifetimes_due(sa)
            self._settle()
        self._settle()

    def resume(self, ask_id: int, result: Any, now: Instant) -> None:
        """The answer to an `Ask` or `InstallSa`. Answers to what has ended are ignored."""
        self.now = now
        self.manual.answered(ask_id, result)
        waiting = self._asks.pop(ask_id, None)
        if waiting is not None:
            running.resume(*waiting, result)
        elif isinstance(result, Leased) and result.leases:
            # Whoever asked has ended meanwhile.
            self.emit(ReturnAddresses(result.leases))
        self._settle()

    def effects(self) -> list[Effect]:
        """What should happen in the world since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    # -- verbs: configuration --------------------------------------------------------------------

    def load(self, connection: Connection, now: Instant) -> None:
        """Put a connection into force. An equal one changes nothing; a changed one is set up anew."""
        self.now = now
        reconnect.load(self, connection)
        self._settle()

    def unload(self, name: str, now: Instant) -> None:
        """Take a connection out of force, its SAs with it. Raises LocalMisuse if there is none."""
        self.now = now
        if self.book.get(name) is None:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"no connection {name} is loaded")
        reconnect.unload(self, name)
        self._settle()

    def connections(self) -> tuple[Connection, ...]:
        return tuple([loaded.connection for loaded in self.book])

    # -- verbs: people ---------------------------------------------------------------------------

    def initiate(self, connection: str, child: str, now: Instant) -> int:
        """Bring up a child of a connection, or all of its children where `child` is empty.

        Returns the number that `OperationDone` will carry. Raises LocalMisuse for unknown names.
        """
        self.now = now
        loaded = self.book.get(connection)
        if loaded is None:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"no connection {connection} is loaded")
        if child and loaded.child(child) is None:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"connection {connection} has no child {child}")
        flows = [
            (one.child.name, index)
            for one in loaded.children
            if child in ("", one.child.name) and one.child.manual is None
            for index in range(len(one.flows))
        ]
        if any(one.child.manual is not None for one in loaded.children if child == one.child.name):
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"child {child} is keyed by hand: it is up already")
        if child and not flows:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"child {child} protects nothing: it needs no SA")
        operation = self.operations.begin(max(len(flows), 1))
        self.reconnecting.forget(connection)
        reconnect.bring_up(self, loaded, flows, operation)
        self._settle()
        return operation

    def terminate(self, ike_sa: int, pair: int, force: bool, now: Instant) -> int:
        """Close an IKE SA (by its number), or one child of it (by its pair, not 0). `force`: do not wait
        for the peer. Raises LocalMisuse when there is none."""
        self.now = now
        sa = self._existing(ike_sa, pair)
        failure = Failure(Reason.OPERATOR, "closed on request")
        operation = self.operations.begin(1)
        if pair:
            running.enqueue(sa, DeleteChild(pair, failure, operation))
        elif sa.state.phase is Phase.CONNECTING or force:
            self.reconnecting.forget(sa.connection.name)
            running.close(sa, failure, linger=False)
            self.operation_ended(operation, None)
        else:
            running.begin_closing(sa, failure, operation)
        self._settle()
        return operation

    def rekey(self, ike_sa: int, pair: int, now: Instant) -> int:
        """Rekey an IKE SA, or one child of it. Raises LocalMisuse when there is none."""
        self.now = now
        sa = self._existing(ike_sa, pair)
        operation = self.operations.begin(1)
        if pair:
            running.enqueue(sa, RekeyChild(pair, operation))
        else:
            sa.rekey(operation)
        self._settle()
        return operation

    def reauthenticate(self, ike_sa: int, now: Instant) -> int:
        """Set an IKE SA up anew, with all that it carries, and then close the old one. Raises LocalMisuse
        when there is none."""
        self.now = now
        sa = self._existing(ike_sa, 0)
        operation = self.operations.begin(1)
        reconnect.reauthenticate(self, sa, operation)
        self._settle()
        return operation

    def _existing(self, ike_sa: int, pair: int) -> IkeSa:
        sa = self.by_number.get(ike_sa)
        if sa is None or sa.close_at or sa.state.phase is Phase.REKEYED:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"no IKE SA {ike_sa}")
        if pair and sa.state.child(pair) is None:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"IKE SA {ike_sa} has no Child SA {pair}")
        return sa

    # -- verbs: the data plane -------------------------------------------------------------------

    def acquire(self, flow: int, local: TrafficSelector, remote: TrafficSelector, now: Instant) -> None:
        """A packet of this flow has no SA to go in."""
        self.now = now
        owner = self.book.owner(flow)
        loaded = self.book.get(owner.connection) if owner is not None else None
        child = loaded.child(owner.child) if owner is not None and loaded is not None else None
        if owner is not None and loaded is not None and child is not None and child.child.manual is None:
            reconnect.bring_up(self, loaded, [(owner.child, owner.index)], 0)
        self._settle()

    def expire(self, pair: int, direction: int, hard: bool, why: str, now: Instant) -> None:
        """An SA came to its end: by bytes, packets, seconds or sequence numbers; hard: it is gone."""
        self.now = now
        sa = self.by_pair.get(pair)
        if sa is not None:
            upkeep.child_expired(sa, pair, hard, why)
        self._settle()

    def first_use(self, pair: int, spi: int, now: Instant) -> None:
        """The first authentic packet came on an inbound SA: the peer holds the pair."""
        self.now = now
        sa = self.by_pair.get(pair)
        child = sa.state.child(pair) if sa is not None else None
        if sa is not None and child is not None and child.spi_in == spi and child.outbound is not None:
            running.begin_local(sa, children.activate(sa, pair))
        self._settle()

    def peer_moved(self, pair: int, remote: IpAddress, port: int, now: Instant) -> None:
        """An authentic, newest ESP packet came from elsewhere (RFC 7296, section 2.23)."""
        self.now = now
        sa = self.by_pair.get(pair)
        if sa is not None:
            state = sa.state
            path = Path(state.path.local, state.path.local_port, remote, port)
            if state.nat_remote and not state.nat_local and path != state.path:
                sa.commit((ChangePath(path),))
                self.touch(sa)
        self._settle()

    def data_plane_restarted(self, now: Instant) -> None:
        """It holds the policies again; what no peer renews with us is installed once more."""
        self.now = now
        self.manual.install_again()
        self._settle()

    # -- looking ---------------------------------------------------------------------------------

    def keyed_by_hand(self) -> Iterable[IkeSaView]:
        """What stands without a negotiation, each connection's together (`ike.manual`)."""
        return self.manual.views()

    def sas(self) -> Iterable[IkeSaView]:
        """Every IKE SA that lives or is being set up, each pictured when its turn comes."""
        return (
            sa.view()
            for sa in tuple(self.by_number.values())
            if not sa.close_at and not sa.parent and sa.state.phase is not Phase.REKEYED
        )

    # -- for SAs and drivers ---------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def event(self, event: Event) -> None:
        self._effects.append(Emit(event))

    def touch(self, sa: IkeSa) -> None:
        """Something changed: its queue and its timer are looked at when the verb ends."""
        self._touched[sa.unique_id] = sa

    def _settle(self) -> None:
        while self._touched:
            number, sa = self._touched.popitem()
            if self.by_number.get(number) is not sa:
                self._timers.arm(number, None)
                continue
            sa.start_next()
            self._timers.arm(number, sa.due())

    def arm_reconnect(self, due: float | None) -> None:
        self._timers.arm(reconnect.TIMER, due)

    def next_ask(self) -> int:
        self._last_ask += 1
        return self._last_ask

    def ask(self, sa: IkeSa, task: Task) -> int:
        number = self.next_ask()
        self._asks[number] = (sa, task)
        return number

    def forget_ask(self, ask_id: int) -> None:
        self._asks.pop(ask_id, None)

    def create(self, kind: type[Sa], connection: Connection, state: SaState, parent: int = 0) -> Sa:
        """A new IKE SA on the books. One that may take over from a `parent` is not the connection's yet."""
        sa = kind(self, self.next_number(), connection, state)
        sa.parent = parent
        self.enter(sa)
        self.touch(sa)
        return sa

    def create_successor(self, sa: IkeSa, original_initiator: bool, keys: UseKeys) -> int:
        return succession.create_successor(self, sa, original_initiator, keys)

    def handover(self, sa: IkeSa, before: SaState, number: int) -> None:
        succession.handover(self, sa, before, number)

    def relieve(self, sa: IkeSa, gone: ChildSa) -> None:
        succession.relieve(self, sa, gone)

    def dismiss(self, number: int, *, ours: bool) -> None:
        succession.dismiss(self, number, ours=ours)

    def abandon(self, number: int) -> None:
        succession.abandon(self, number)

    def closing(self, sa: IkeSa, failure: Failure, *, telling: bool = False) -> None:
        succession.closing(self, sa, failure, telling=telling)

    def connecting_failed(self, sa: IkeSa, failure: Failure) -> None:
        """Our attempt to connect has failed, though the SA still has something to say."""
        self.leave_connection(sa)
        self.reconnecting.failed(sa, failure)

    def established(self, sa: IkeSa, initial_contact: bool) -> None:
        """Uniqueness (swanctl `unique`), INITIAL_CONTACT, and who else waits for this peer."""
        self.has_come(sa)
        others = self.others_of_peer(sa)
        self.join_peer(sa)
        unique = sa.connection.unique
        for other in others:
            if sa.takes_over(other, initial_contact) or reconnect.replaces(sa, other):
                continue
            if reconnect.crossing(sa, other, initial_contact):
                reconnect.settle_crossing(sa, other)
            elif initial_contact and unique is not Unique.NEVER:
                # RFC 7296, section 2.4: the peer has forgotten all others; it needs no Delete.
                running.close(
                    other,
                    Failure(Reason.PEER_RESTARTED, "the peer has no other IKE SA with us"),
                    linger=False,
                )
            elif unique is Unique.REPLACE:
                failure = Failure(Reason.REPLACED, "replaced by a newer IKE SA of the same peer")
                running.begin_closing(other, failure)
        if unique is not Unique.NEVER:
            for surplus in others[: max(len(others) + 1 - MAX_IKE_SAS_PER_PEER, 0)]:
                failure = Failure(
                    Reason.LIMIT_REACHED, f"{MAX_IKE_SAS_PER_PEER} IKE SAs of one peer are enough"
                )
                running.begin_closing(surplus, failure)
        self.reconnecting.succeeded(sa)

    def closed(self, sa: IkeSa, failure: Failure) -> None:
        """It is over: tell, and see who has to be called again."""
        was_up = sa.state.peer is not None and sa.state.phase is not Phase.REKEYED
        was_up = self.leave_peer(sa) and was_up
        self.leave_connection(sa)
        self.half_open.release(sa)
        self.give_back(sa.state, sa.unique_id)
        if was_up:
            self.event(IkeSaDown(sa.view(), failure))
            if failure.reason not in ORDINARY_ENDS:
                self._note_end(sa, failure)

    def give_back(self, state: SaState, number: int) -> None:
        """The addresses of an IKE SA that has ended, the peer's and our own."""
        if state.leases:
            self.emit(ReturnAddresses(state.leases))
        self.clients.drop(number)

    def forget(self, sa: IkeSa) -> None:
        """Off the books."""
        self.strike(sa)
        self.half_open.release(sa)
        self._timers.arm(sa.unique_id, None)
        self._touched.pop(sa.unique_id, None)

    def complain(
        self, sa: IkeSa, failure: Failure, child: str, *, initiator: bool, rekey: bool = False
    ) -> None:
        """Something did not come about: an event and a line of history."""
        name, path, peer = sa.connection.name, sa.state.path, _peer_of(sa)
        self.event(NegotiationFailed(name, child, initiator, path, peer, failure, sa.unique_id))
        self.history.add(Entry(self.now.wall, name, child, initiator, peer, failure, rekey))

    def _note_end(self, sa: IkeSa, failure: Failure) -> None:
        """A line of history, unless the exchange whose failure ended the SA has left one just now."""
        known = self.history.of(sa.connection.name)[-1:]
        if not known or (known[0].wall, known[0].failure) != (self.now.wall, failure):
            name, began = sa.connection.name, sa.state.original_initiator
            self.history.add(Entry(self.now.wall, name, "", began, _peer_of(sa), failure))

    def failed(
        self, connection: str, child: str, initiator: bool, path: Path | None, peer: str, failure: Failure
    ) -> None:
        """The same where there is no IKE SA."""
        self.event(NegotiationFailed(connection, child, initiator, path, peer, failure))
        self.history.add(Entry(self.now.wall, connection, child, initiator, peer, failure))

    def operation_ended(self, operation: int, failure: Failure | None) -> None:
        if operation:
            self.operations.ended(operation, failure)

    def retransmit_after(self, tries: int) -> float:
        """Seconds from the transmission number `tries` (0 the first) to the next."""
        rule = self.options.retransmission
        wait = rule.timeout * rule.base**tries
        if rule.limit > 0:
            wait = min(wait, rule.limit)
        if rule.jitter > 0:
            wait -= wait * min(rule.jitter, 100.0) / 100.0 * self.entropy.uniform()
        return wait

    # -- strangers -------------------------------------------------------------------------------

    def answer_in_clear(self, header: Header, path: Path, payloads: tuple[NotifyPayload, ...]) -> None:
        """A stateless answer: same SPIs, message id and exchange type (RFC 7296, sections 1.5 and 2.6)."""
        flags = Flags.RESPONSE | (0 if header.from_initiator else Flags.INITIATOR)
        out = Header(
            header.initiator_spi, header.responder_spi, 0, 2, 0, header.exchange, flags, header.message_id
        )
        data = encode(out, payloads)
        marker = NON_ESP_MARKER if path.local_port == self.options.port_nat_t else b""
        self.emit(SendDatagram(path, marker + data))

    def _other_version(self, header: Header, path: Path) -> None:
        """A peer that begins with another version: answered as RFC 7296, section 1.5 says, noted."""
        self.event(Dropped(Drop.WRONG_VERSION, f"major version {header.major}", path, 0))
        if header.response or header.responder_spi != ZERO_SPI or not self._answers(path):
            return
        loaded = next(iter(self.book.for_address(path.local, path.remote)), None)
        # Nobody has proved anything: it is worth a note only where no peer has.
        if loaded is not None and not self.by_connection.get(loaded.connection.name):
            connection = loaded.connection
            detail = f"the peer begins with IKEv{header.major}, connection {connection.name} is IKEv2"
            difference = Difference("IKEv2", f"IKEv{header.major}", "version")
            self.failed(
                connection.name, "", False, path, str(path.remote),
                Failure(Reason.VERSION_MISMATCH, detail, difference),
            )  # fmt: skip
        if header.major > 2:
            notify = NotifyPayload(0, b"", Notify.INVALID_MAJOR_VERSION, b"")
            self.answer_in_clear(header, path, (notify,))

    def _unknown_spi(self, header: Header, path: Path) -> None:
        self.event(Dropped(Drop.UNKNOWN_SPI, "no such IKE SA", path, 0))
        # Never larger than the question (T8).
        if not header.response and header.length >= HEADER_LENGTH + 8 and self._answers(path):
            self.answer_in_clear(header, path, (NotifyPayload(0, b"", Notify.INVALID_IKE_SPI, b""),))

    def _answers(self, path: Path) -> bool:
        return self.strangers.allows(path.remote, self.now.monotonic)


def _peer_of(sa: IkeSa) -> str:
    peer = sa.state.peer
    return str(peer.identity) if peer is not None else str(sa.state.path.remote)
