"""Single faults at a chosen message: what security.md's case C49 does to every position of every exchange.

    network.meddlers.append(Fault(a.address, 2, drop))      # the third IKE datagram of a is lost

A fault hits once. Positions count the IKE datagrams of one sender, retransmissions included.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from cygnet.testing.network import Deliveries, Flight, IpAddress, flip

Act = Callable[[Flight, Random], Deliveries]


def drop(flight: Flight, random: Random) -> Deliveries:
    return ()


def duplicate(flight: Flight, random: Random) -> Deliveries:
    """A copy follows at once."""
    return ((0.0, flight.data), (0.001, flight.data))


def duplicate_late(flight: Flight, random: Random) -> Deliveries:
    """A copy follows when the sender has long given up waiting for it."""
    return ((0.0, flight.data), (30.0, flight.data))


def delay(flight: Flight, random: Random) -> Deliveries:
    """It comes after its retransmission."""
    return ((5.0, flight.data),)


def reorder(flight: Flight, random: Random) -> Deliveries:
    """It comes after what is sent next."""
    return ((0.1, flight.data),)


def corrupt(flight: Flight, random: Random) -> Deliveries:
    """One bit, anywhere."""
    return ((0.0, flip(flight.data, random.randrange(8 * len(flight.data)))),)


def truncate(flight: Flight, random: Random) -> Deliveries:
    return ((0.0, flight.data[: random.randrange(len(flight.data))]),)


ACTS: Final[dict[str, Act]] = {
    "lost": drop,
    "doubled": duplicate,
    "doubled late": duplicate_late,
    "delayed": delay,
    "reordered": reorder,
    "corrupted": corrupt,
    "truncated": truncate,
}


class Fault:
    """Do `act` to the IKE datagram number `position` (from 0) of `source`, once."""

    def __init__(self, source: IpAddress, position: int, act: Act) -> None:
        self.source = source
        self.position = position
        self.act = act
        self.hit = False

    def __call__(self, flight: Flight, random: Random) -> Deliveries | None:
        if self.hit or flight.source != self.source or flight.ike_index != self.position:
            return None
        self.hit = True
        return self.act(flight, random)


class When:
    """Do `act` to the first `times` IKE datagrams that `condition` picks."""

    def __init__(self, condition: Callable[[Flight], bool], act: Act, times: int = 1) -> None:
        self.condition = condition
        self.act = act
        self.left = times

    def __call__(self, flight: Flight, random: Random) -> Deliveries | None:
        if self.left <= 0 or not self.condition(flight):
            return None
        self.left -= 1
        return self.act(flight, random)


def exchange_is(
    exchange: int, *, response: bool, source: IpAddress | None = None
) -> Callable[[Flight], bool]:
    """A condition for `When`: messages of this exchange type and direction."""

    def condition(flight: Flight) -> bool:
        header = flight.header
        return (
            header is not None
            and header.exchange == exchange
            and header.response == response
            and (source is None or flight.source == source)
        )

    return condition
