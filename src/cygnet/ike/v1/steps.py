"""The steps of IKEv1's exchanges that are messages; all other steps are `ike.steps`'.

A message of IKEv1 is no request with an answer: an exchange is a row of messages of one message id, and
whoever waits for the next one repeats his last. So `send` waits and `answer` does not; what was sent last is
kept in either case, and leaves again whenever the peer repeats what it followed. That heals lost last
messages of main, aggressive and quick mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from cygnet.ike.changes import Change
from cygnet.ike.effects import TimedOut
from cygnet.ike.errors import Drop
from cygnet.ike.steps import MessageStep, Steps
from cygnet.ike.world import Path
from cygnet.records import dataclass
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.payloads import Payload

T = TypeVar("T")

HashOf = Callable[[int, bytes], bytes]
"""The value of a HASH payload that stands first: of the message id and the octets that follow it."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message that belongs here: decoded, and opened if it was encrypted."""

    message: Message
    path: Path


@dataclass(frozen=True, slots=True)
class Exchanged(Generic[T]):
    """What `expect` made of the message, and the message itself."""

    value: T
    received: Received


class Unproven(Exception):
    """Raised by `expect`: nothing shows that the peer sent this. It is dropped and changes nothing."""

    def __init__(self, drop: Drop, detail: str) -> None:
        super().__init__(detail)
        self.drop = drop
        self.detail = detail


# -- the steps --------------------------------------------------------------------------------

NEXT: Final = 0
"""In place of an exchange type: the exchange that the last message belonged to."""


@dataclass(frozen=True, slots=True)
class Send(MessageStep):
    """`exchange` begins a new one, unless it is `NEXT`. `expect` None: nothing is waited for."""

    exchange: int
    payloads: Sequence[Payload]
    hashed: HashOf | None
    unconfirmed: bool
    expect: Callable[[Received], Any] | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Receive(MessageStep):
    """`exchange` `NEXT`: the next message of the exchange in hand; else the first of a new one, waited for so
    many seconds, 0 without end."""

    exchange: int
    expect: Callable[[Received], Any]
    patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Listen(MessageStep):
    """Wait for an informational message of the peer's, so many seconds."""

    expect: Callable[[Received], Any]
    patience: float


@dataclass(frozen=True, slots=True)
class ClosePhase1(MessageStep):
    """Phase 1 has its last message: the IVs of all that follows are made from it."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Insist(MessageStep):
    """This Delete may not have come: `ours` is our SPI, `theirs` the peer's, of the same pair."""

    protocol: int
    ours: bytes
    theirs: bytes


def begin_exchange(
    exchange: int,
    payloads: Sequence[Payload],
    expect: Callable[[Received], T],
    *changes: Change,
    hashed: HashOf | None = None,
) -> Steps[Exchanged[T]]:
    """Send the first message of an exchange, again and again until `expect` accepts the second.

    `expect` is pure. What it raises before the HASH payload is verified (`Unproven`, `Refused`) leaves the
    exchange waiting; an `IkeError` about a message whose HASH is right is the peer's last word, raised here.
    """
    exchanged: Exchanged[T] = yield Send(exchange, payloads, hashed, False, expect, changes)
    return exchanged


def send(
    payloads: Sequence[Payload],
    expect: Callable[[Received], T],
    *changes: Change,
    hashed: HashOf | None = None,
) -> Steps[Exchanged[T]]:
    """Send the next message of the exchange in hand, again and again until `expect` accepts the one after."""
    exchanged: Exchanged[T] = yield Send(NEXT, payloads, hashed, False, expect, changes)
    return exchanged


def answer(payloads: Sequence[Payload], *changes: Change, hashed: HashOf | None = None) -> Steps[None]:
    """Send the next message of the exchange in hand: once, and whenever the peer repeats what it follows."""
    yield Send(NEXT, payloads, hashed, False, None, changes)


def last(payloads: Sequence[Payload], *changes: Change) -> Steps[None]:
    """Send aggressive mode's third message. Nothing answers it: it leaves again with whatever builds on it,
    and by itself, until the peer has sent something that HASH proves."""
    yield Send(NEXT, payloads, None, True, None, changes)


def tell(
    exchange: int, payloads: Sequence[Payload], *changes: Change, hashed: HashOf | None = None
) -> Steps[None]:
    """Send an exchange of one message."""
    yield Send(exchange, payloads, hashed, False, None, changes)


def receive(expect: Callable[[Received], T]) -> Steps[Exchanged[T]]:
    """Wait for the next message of the exchange in hand."""
    exchanged: Exchanged[T] = yield Receive(NEXT, expect)
    return exchanged


def next_exchange(
    exchange: int, expect: Callable[[Received], T], patience: float
) -> Steps[Exchanged[T] | TimedOut]:
    """Wait for the peer to begin an exchange of this type; it is the one in hand then."""
    exchanged: Exchanged[T] | TimedOut = yield Receive(exchange, expect, patience)
    return exchanged


def listen(expect: Callable[[Received], T], patience: float) -> Steps[Exchanged[T] | TimedOut]:
    """Wait for a message that the peer sends in an informational exchange of its own."""
    heard: Exchanged[T] | TimedOut = yield Listen(expect, patience)
    return heard


def close_phase_1(*changes: Change) -> Steps[None]:
    """Phase 1 is over: message ids and their IVs begin. `changes` become true with it."""
    yield ClosePhase1(changes)


def insist(protocol: int, ours: bytes, theirs: bytes) -> Steps[None]:
    """Have the Delete of a pair repeated until the peer shows that it has come (`v1.deletes`)."""
    yield Insist(protocol, ours, theirs)
