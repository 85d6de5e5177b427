"""Deletes that the peer may not have heard (RFC 2408, section 3.15: nothing acknowledges them).

Law: two ends do not go on believing different things. Whoever closes a Child SA insists: the Delete is sent
again, at growing intervals, until the peer's Delete of the other half shows that it has come, or for as long
as any other message is repeated. Whoever obeys remembers what it closed, and shows it again. A peer that
shows nothing costs a handful of small messages for each Child SA.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cygnet.ike import running
from cygnet.ike.state import Phase
from cygnet.ike.v1.halves import Half
from cygnet.ike.v1.informational import inform
from cygnet.records import dataclass, replace
from cygnet.wire.v1.payloads import DeletePayload

if TYPE_CHECKING:
    from cygnet.ike.v1.sa import IkeV1Sa

INTERVALS: Final = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Seconds before each repeat; together longer than any other message is repeated."""
MAX_UNHEARD: Final = 256
"""Deletes that are insisted on at once; beyond it the oldest are forgotten."""
MAX_ECHOES: Final = 8
"""Times that a Delete is shown to have come. Whoever deleted first shows nothing; this is for when both think
that the other was first."""
MAX_BURIED: Final = 256
"""Closed Child SAs that are remembered for the peer's repeats."""


@dataclass(frozen=True, slots=True)
class Unheard:
    """A Delete of our SPI `ours`, in the pair of the peer's `half`; repeated so often, again at `due`."""

    half: Half
    ours: bytes
    repeats: int
    due: float


def insist(sa: IkeV1Sa, half: Half, ours: bytes) -> None:
    """The Delete of a pair that is gone here has found no echo yet."""
    one = Unheard(half, ours, 0, sa.now.monotonic + INTERVALS[0])
    sa.unheard = (*sa.unheard, one)[-MAX_UNHEARD:]
    sa.gateway.touch(sa)


def move(sa: IkeV1Sa, heir: IkeV1Sa) -> None:
    """Another phase 1 goes on with all of it, from the start: over this one perhaps nothing came."""
    at = sa.now.monotonic + INTERVALS[0]
    moved = [replace(one, repeats=0, due=at) for one in sa.unheard]
    heir.unheard = (*heir.unheard, *moved)[-MAX_UNHEARD:]
    sa.unheard = ()
    for half, (ours, left) in sa.buried.items():
        bury(heir, half, ours, left)
    sa.buried.clear()
    heir.gateway.touch(heir)


def due(sa: IkeV1Sa) -> None:
    """Repeat what is due; what was repeated to no end is forgotten."""
    now = sa.now.monotonic
    if not any(one.due <= now for one in sa.unheard):
        return
    ready = [one for one in sa.unheard if one.due <= now]
    left = [one for one in sa.unheard if one.due > now]
    if sa.state.phase is not Phase.ESTABLISHED or sa.close_at:
        # It ends: another phase 1 may go on with them.
        sa.unheard = (*left, *[replace(one, due=now + INTERVALS[0]) for one in ready])
        return
    again = [one for one in ready if one.repeats + 1 < len(INTERVALS)]
    left += [replace(one, repeats=one.repeats + 1, due=now + INTERVALS[one.repeats + 1]) for one in again]
    sa.unheard = tuple(left)
    for protocol in sorted({one.half[0] for one in ready}):
        spis = tuple([one.ours for one in ready if one.half[0] == protocol])
        running.begin_local(sa, inform(sa, DeletePayload(protocol, spis)))


def bury(sa: IkeV1Sa, half: Half, ours: bytes, echoes: int = MAX_ECHOES) -> None:
    """The peer's Delete has closed this pair."""
    sa.buried.pop(half, None)
    sa.buried[half] = (ours, echoes)
    if len(sa.buried) > MAX_BURIED:
        del sa.buried[next(iter(sa.buried))]


def echoes(sa: IkeV1Sa, deletes: Iterable[DeletePayload]) -> tuple[DeletePayload, ...]:
    """The peer's Deletes have come: what shows it where the pair is gone by now. And what we insisted on is
    heard."""
    shown: list[DeletePayload] = []
    heard: set[Half] = set()
    for delete in deletes:
        halves = [(delete.protocol, spi) for spi in delete.spis]
        heard.update(halves)
        known = [(half, *sa.buried[half]) for half in dict.fromkeys(halves) if half in sa.buried]
        for half, ours, left in known:
            sa.buried[half] = (ours, left - 1)
            if left == 1:
                del sa.buried[half]
        if known:
            shown.append(DeletePayload(delete.protocol, tuple([ours for _, ours, _ in known])))
    if sa.unheard:
        sa.unheard = tuple([one for one in sa.unheard if one.half not in heard])
    return tuple(shown)
