"""What an exchange may ask of its driver. Only these helpers `yield`, so `mypy` knows what each returns.

An exchange is a generator of `Step`s. It reads the SA through its `Context` and never writes it:
what it achieves are `Change`s, carried by the step that makes them true. What it obtains (SPIs,
inbound SAs, a successor) stands in its ledger until a change takes it over; whatever is left there
when the exchange ends, however it ends, the driver gives back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from cygnet.auth.credentials import Credentials
from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.entropy import Entropy
from cygnet.ike.changes import Change, Lend, UseKeys
from cygnet.ike.configuration import Connection, Options
from cygnet.ike.connections import Connections, LoadedChild
from cygnet.ike.effects import Installed, InstallFailed, LeaseAddresses, Leased, Question, TimedOut
from cygnet.ike.errors import Failure, IkeError
from cygnet.ike.remote_access import Given, Lease, NetworkSettings
from cygnet.ike.state import Attempt, ChildSa, SaState
from cygnet.ike.wanted import Wanted
from cygnet.ike.world import Instant, Path
from cygnet.policy.sa import SaParameters
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.payloads import Payload

T = TypeVar("T")

LEASE_PATIENCE: Final = 10.0
"""Seconds that a lease may take."""


class Context(Protocol):
    """What an exchange sees of its SA and of the gateway; all of it afresh after each step."""

    @property
    def unique_id(self) -> int: ...
    @property
    def state(self) -> SaState: ...
    @property
    def connection(self) -> Connection: ...
    @property
    def connections(self) -> Connections: ...
    @property
    def options(self) -> Options: ...
    @property
    def credentials(self) -> Credentials: ...
    @property
    def entropy(self) -> Entropy: ...
    @property
    def now(self) -> Instant: ...
    def has_contact(self, local: Identity, remote: Identity) -> bool:
        """Whether there is another IKE SA between these two."""
        ...

    def is_carried(self, local: Identity, remote: Identity, flow: int) -> bool:
        """Whether packets of this flow go to the peer already, on a pair of another IKE SA with it."""
        ...

    def nobodies(self) -> int:
        """How many IKE SAs there are with peers that prove nothing."""
        ...

    def is_calling(self) -> bool:
        """Whether we are setting up another IKE SA of the same connection ourselves."""
        ...

    def leases_of(self, local: Identity, user: Identity, connection: str) -> tuple[Lease, ...]:
        """What this user has leased from the same address and port, over other IKE SAs of the connection."""
        ...

    def addresses_wanted(self) -> tuple[IpAddress, ...]:
        """The virtual addresses to ask the peer for, one entry each; unspecified: any of its family."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """A message that belongs here: decoded, opened if it was sealed. `octets` is the datagram as it came
    (of a fragmented one, nothing needs them)."""

    message: Message
    octets: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class Exchanged(Generic[T]):
    """What `expect` made of the answer, the octets that went out, and the answer itself."""

    value: T
    sent: bytes
    received: Received


# -- the steps --------------------------------------------------------------------------------


class MessageStep:
    """A step that is a message: the versions exchange them differently (`IkeSa.message_step`)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SendRequest(MessageStep):
    exchange: int
    payloads: Sequence[Payload]
    expect: Callable[[Received], Any]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class SendAnswer(MessageStep):
    payloads: Sequence[Payload]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class AwaitRequest(MessageStep):
    exchange: int
    expect: Callable[[Received], Any]


@dataclass(frozen=True, slots=True)
class AwaitFollowup(MessageStep):
    link: bytes
    expect: Callable[[Received], Any]


@dataclass(frozen=True, slots=True)
class Apply:
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Install:
    """`held`: the ledger answers for it until a change takes it over; else a Child SA in the state does."""

    sa: SaParameters
    held: bool


@dataclass(frozen=True, slots=True)
class AskWorld:
    question: Question
    patience: float


@dataclass(frozen=True, slots=True)
class UseGiven:
    given: Given


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class ObtainChild:
    pass


@dataclass(frozen=True, slots=True)
class ObtainSpi:
    pass


@dataclass(frozen=True, slots=True)
class CreateSuccessor:
    original_initiator: bool
    keys: UseKeys


@dataclass(frozen=True, slots=True)
class Dismiss:
    successor: int
    ours: bool


@dataclass(frozen=True, slots=True)
class CloseSa:
    number: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class UsePolicy:
    loaded: LoadedChild
    index: int
    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]
    replaced: ChildSa | None


@dataclass(frozen=True, slots=True)
class Begin:
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Enqueue:
    wanted: Wanted
    delay: float


@dataclass(frozen=True, slots=True)
class Complain:
    error: IkeError
    child: str


Step = (
    MessageStep | Apply | Install | AskWorld | UseGiven | Pause | ObtainChild | ObtainSpi
    | CreateSuccessor | Dismiss | CloseSa | UsePolicy | Begin | Enqueue | Complain
)  # fmt: skip
Steps = Generator[Step, Any, T]


def send(
    exchange: int,
    payloads: Sequence[Payload],
    expect: Callable[[Received], T],
    *changes: Change,
) -> Steps[Exchanged[T]]:
    """Send a request, retransmitted until an answer comes that `expect` accepts.

    `expect` is pure. An unprotected answer that it refuses (any `IkeError`) is dropped and changes nothing; a
    protected one is the peer's last word, and its error is raised here.
    """
    exchanged: Exchanged[T] = yield SendRequest(exchange, payloads, expect, changes)
    return exchanged


def answer(payloads: Sequence[Payload], *changes: Change) -> Steps[bytes]:
    """Answer the request in hand; `changes` become true with it. Returns the octets that went out."""
    sent: bytes = yield SendAnswer(payloads, changes)
    return sent


def next_request(exchange: int, expect: Callable[[Received], T]) -> Steps[Exchanged[T]]:
    """Before authentication one responder takes all requests in turn: wait for the next one."""
    exchanged: Exchanged[T] = yield AwaitRequest(exchange, expect)
    return exchanged


def next_followup(link: bytes, expect: Callable[[Received], T]) -> Steps[Exchanged[T] | TimedOut]:
    """Wait for the IKE_FOLLOWUP_KE request that brings this link back; for a while (RFC 9370, 2.2.4)."""
    exchanged: Exchanged[T] | TimedOut = yield AwaitFollowup(link, expect)
    return exchanged


def apply(*changes: Change) -> Steps[None]:
    """Make changes true now."""
    yield Apply(changes)


def install(sa: SaParameters, *, held: bool = True) -> Steps[Installed | InstallFailed | TimedOut]:
    """Install an SA in the data plane and wait until it says so. `held` False: it belongs to a Child SA
    in the state already, which takes it down with it."""
    result: Installed | InstallFailed | TimedOut = yield Install(sa, held)
    return result


def ask(question: Question, patience: float) -> Steps[Any]:
    """Ask the outside world; after `patience` seconds the answer is `TimedOut`."""
    result: Any = yield AskWorld(question, patience)
    return result


def lease(
    context: Context, connection: Connection, local_id: Identity, peer: AuthenticatedPeer,
    wanted: tuple[IpAddress, ...], *, alone: bool,
) -> Steps[Leased]:  # fmt: skip
    """Lease addresses for a peer that proved who it is; they are the SA's from then on, until it ends."""
    here = context.leases_of(local_id, peer.user, connection.name)
    question = LeaseAddresses(peer, connection.pools, wanted, here, alone)
    leased = yield from ask(question, LEASE_PATIENCE)
    if not isinstance(leased, Leased):
        return Leased((), NetworkSettings(), "nobody says which addresses are free")
    if leased.leases:
        yield from apply(Lend(peer, leased.leases))
    return leased


def use_given(given: Given) -> Steps[Installed | InstallFailed | TimedOut]:
    """Take what the peer gave us, and wait until this host is set up with it."""
    result: Installed | InstallFailed | TimedOut = yield UseGiven(given)
    return result


def pause(seconds: float) -> Steps[None]:
    """Go on after a while."""
    yield Pause(seconds)


def obtain_child() -> Steps[tuple[int, int]]:
    """(SPI to receive on, pair number) for a new Child SA."""
    obtained: tuple[int, int] = yield ObtainChild()
    return obtained


def obtain_spi() -> Steps[bytes]:
    """An SPI of ours for a new IKE SA."""
    spi: bytes = yield ObtainSpi()
    return spi


def create_successor(original_initiator: bool, keys: UseKeys) -> Steps[int]:
    """A new IKE SA beside this one, with the same peer; returns its number."""
    successor: int = yield CreateSuccessor(original_initiator, keys)
    return successor


def dismiss(successor: int, *, ours: bool) -> Steps[None]:
    """A successor that lost a collision goes: `ours`, we began it and tell the peer; else the peer will."""
    yield Dismiss(successor, ours)


def close_sa(number: int, failure: Failure) -> Steps[None]:
    """Close another IKE SA, if it is still there."""
    yield CloseSa(number, failure)


def use_policy(
    loaded: LoadedChild,
    index: int,
    local: tuple[TrafficSelector, ...],
    remote: tuple[TrafficSelector, ...],
    replaced: ChildSa | None = None,
) -> Steps[tuple[int, int]]:
    """(policy, flow) in force for an SA pair of this flow between these selectors; of `replaced` if given."""
    used: tuple[int, int] = yield UsePolicy(loaded, index, local, remote, replaced)
    return used


def begin(attempt: Attempt) -> Steps[None]:
    """Put an attempt on record, ours or the one of the peer's that this exchange answers; it is struck off
    when the exchange ends, however it ends."""
    yield Begin(attempt)


def enqueue(wanted: Wanted, delay: float = 0.0) -> Steps[None]:
    """Want this next, or after `delay` seconds."""
    yield Enqueue(wanted, delay)


def complain(error: IkeError, child: str = "") -> Steps[None]:
    """Something failed, is told, and the exchange goes on (a Child SA in IKE_AUTH, say)."""
    yield Complain(error, child)


class SaClosed(Exception):
    """Raised by an exchange that ends its IKE SA. `linger`: its last answer may have to be repeated."""

    def __init__(self, failure: Failure, *, linger: bool) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.linger = linger


class Refused(Exception):
    """Raised by `expect` of an unprotected exchange: the peer says no, or proves nothing, as anyone could
    have. The driver believes it only when it is said again."""

    def __init__(self, error: IkeError) -> None:
        super().__init__(error.detail)
        self.error = error
