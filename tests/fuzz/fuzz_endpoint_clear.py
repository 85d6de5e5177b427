"""Fuzz target: datagrams of anybody, at endpoints in every stage; no state of an SA with keys may change."""

from __future__ import annotations

import functools

from cygnet.ike.state import SaState
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.testing import Gateway, corpus, fuzzing
from cygnet.testing.mutate import with_fitting_length
from cygnet.testing.replay import Recording

STAGES = 6


@functools.cache
def recording() -> Recording:
    return Recording()


@functools.cache
def endpoints() -> dict[int, Gateway]:
    return {}


def endpoint(stage: int) -> Gateway:
    """Stages 0 to 2: a responder, 3 to 5: an initiator. Kept while nothing has changed in it."""
    if stage not in endpoints():
        made = recording().responder(stage) if stage < 3 else recording().initiator(stage - 3)
        endpoints()[stage] = made
    return endpoints()[stage]


def states(gateway: Gateway) -> dict[int, tuple[SaState, int]]:
    """Of every SA its immutable state (the very same object if nothing changed) and the next request's id.

    What we send does not count: a hint in clear may make us ask whether the peer is alive (T11).
    """
    sas = [sa for sa in gateway.endpoint.by_number.values() if isinstance(sa, IkeV2Sa)]
    return {sa.unique_id: (sa.state, sa.window.next_in) for sa in sas}


def one(data: bytes) -> None:
    """First octet: the stage, and bit 7: leave the length in the header alone."""
    if not data:
        return
    stage = (data[0] & 0x7F) % STAGES
    datagram = data[1:] if data[0] & 0x80 else with_fitting_length(data[1:])
    gateway = endpoint(stage)
    before, children = states(gateway), dict(gateway.plane.inbound)
    recording().deliver(gateway, datagram)
    after = states(gateway)
    repr(gateway.events[-1:])
    gateway.events.clear()
    if gateway.plane.objections:
        raise AssertionError(gateway.plane.objections)
    if stage in (2, 5):
        # Established: authentic messages alone may change anything, and a repeat changes nothing.
        for number, (state, next_in) in before.items():
            known = after.get(number)
            if known is None or known[0] is not state or known[1] != next_in:
                del endpoints()[stage]
                raise AssertionError("an SA was changed by a datagram that nobody authenticated")
        if gateway.plane.inbound != children:
            raise AssertionError("the data plane was touched")
    if len(after) > 50 or (stage in (1, 3, 4) and after != before):
        # Half-open SAs of strangers, and answers in clear that were as good as the peer's own.
        del endpoints()[stage]


def seeds() -> list[bytes]:
    found = []
    for stage in range(STAGES):
        own = recording().from_a if stage < 3 else recording().from_b
        found += [bytes((stage,)) + datagram for datagram in (*own, *corpus.clear_messages().values())]
    return found


if __name__ == "__main__":
    fuzzing.run(one, seeds())
