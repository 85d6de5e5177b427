"""Classification by structure: which of many ordered boxes holds a point first, in time that hardly grows
with their number.

An entry is a box in five dimensions, a packet a point in them. Each entry is filed under one of its two
addresses, the one that it narrows more, here called its own; "any" on one side then does not stand
everywhere on that side. Ports run from -1, the port that cannot be seen, so that "all ports" is -1..65535
and OPAQUE is -1..-1 (RFC 4301, section 4.4.1.1).

The places where own ranges begin or end are the cuts; between two of them the same entries apply, and a
table of prefixes tells which. A lookup goes down one tree: the root divides the addresses into slots of
equal size, about as many as there are cuts; a slot with cuts is a branch at them; where no cut is left,
few entries are tried in a chain, and more are told apart by branches in the other dimensions. So a packet
passes a handful of steps however many entries there are. Trees grow where packets go, and a change forgets
only the slots that it meets.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import Any

from cygnet.policy.selectors import NO_PORT, PORT_MAX

Entry = tuple[Any, ...]
"""(priority, policy, place, verdict), then first and last of: own address, other address, protocol, own
port, other port. The first three order the entries and are unique."""

Chain = tuple[Any, ...]
"""(other first, other last, rest, verdict, entry, next chain), or () at its end. `rest` is the bounds of
protocol and ports, or None where they hold for all that comes here."""

Branch = list[Any]
"""[dimension, cuts, entries, region, child, child, ...]: child `bisect_right(cuts, value)`, None until it is
grown. One object instead of several: with packets of many flows, it is memory that costs time."""

Node = Chain | Branch

MISS: Chain = ()
CHAIN_VERDICT, CHAIN_ENTRY = 3, 4
CHILDREN = 4

VERDICT, OWN_FIRST, OWN_LAST, BOUNDS = 3, 4, 5, 6
OWN = 4
"""The dimensions of branches: other address, protocol, own port, other port, own address. The bounds of the
first four stand from `BOUNDS` on."""

ANY_REST = (0, 255, NO_PORT, PORT_MAX, NO_PORT, PORT_MAX)

MAX_CHAIN = 2
MAX_CUTS = 256
"""Of one branch; more are taken in two steps, so that growing a child does not look at all the others."""
MAX_GROWN = 4_000_000
"""Children grown in an index, 8 octets each; beyond it they are dropped and grow again."""
FEW_CUTS = 16
"""So many new cuts are inserted one by one; more are sorted in."""


class Index:
    """The entries of one address family that are filed under one side."""

    def __init__(self, bits: int) -> None:
        self.count = 0
        self._bits = bits
        self._last = (1 << bits) - 1
        self._by_prefix: dict[int, dict[int, list[Entry]]] = {}
        self._cuts: list[int] = []
        self._uses: dict[int, int] = {}
        self._new: list[int] = []
        self._unused = 0
        self._make_root()

    def add(self, entry: Entry, prefixes: Iterable[tuple[int, int]]) -> None:
        """`prefixes` are those of the entry's own range: (first, length) each."""
        for first, length in prefixes:
            table = self._by_prefix.setdefault(length, {})
            table.setdefault(first >> (self._bits - length), []).append(entry)
        self.count += 1
        for cut in self._cuts_of(entry):
            uses = self._uses.get(cut)
            if uses is None:
                self._new.append(cut)
            self._uses[cut] = (uses or 0) + 1
        self._forget(entry)

    def discard(self, entry: Entry, prefixes: Iterable[tuple[int, int]]) -> None:
        """What was given to `add`."""
        for first, length in prefixes:
            table = self._by_prefix[length]
            key = first >> (self._bits - length)
            table[key].remove(entry)
            if not table[key]:
                del table[key]
                if not table:
                    del self._by_prefix[length]
        self.count -= 1
        for cut in self._cuts_of(entry):
            self._uses[cut] -= 1
            self._unused += not self._uses[cut]
        self._forget(entry)
        if self._unused > len(self._cuts) // 2 + FEW_CUTS:
            self._uses = {cut: uses for cut, uses in self._uses.items() if uses}
            self._unused = 0
            self._cuts = sorted(self._uses)
            self._new.clear()
            self._make_root()

    def find(self, own: int, other: int, protocol: int, own_port: int, other_port: int) -> Chain:
        """The chain that begins with the first entry in order that holds the point; `MISS` if none does."""
        if self._new:
            self._settle()
        place = own - self._base >> self._shift
        if not 0 <= place < self._slots:
            place = self._slots if place < 0 else self._slots + 1
        node: Any = self._root[place]
        if node is None:
            node = self._grow_slot(place)
        while node:
            if type(node) is tuple:
                first, last, rest, _, _, following = node
                if first <= other <= last:
                    if rest is None:
                        return node
                    low, high, own_low, own_high, other_low, other_high = rest
                    if (
                        low <= protocol <= high
                        and own_low <= own_port <= own_high
                        and other_low <= other_port <= other_high
                    ):
                        return node
            else:
                value = (other, protocol, own_port, other_port, own)[node[0]]
                child = CHILDREN + bisect_right(node[1], value)
                following = node[child]
                if following is None:
                    following = self._grow_child(node, child)
            node = following
        return MISS

    # -- growing ----------------------------------------------------------------------------------

    def _make_root(self) -> None:
        """Slots from the first to the last cut, then one for all below and one for all above."""
        cuts = self._cuts
        self._base = cuts[0] if cuts else 0
        span = cuts[-1] - self._base if cuts else 1
        self._shift = max((span // (2 * len(cuts) + 1)).bit_length(), 0)
        # Slots that begin at multiples of their size need no cut inside for prefixes of that size.
        self._base = self._base >> self._shift << self._shift
        self._slots = ((cuts[-1] if cuts else 0) - self._base >> self._shift) + 1
        self._made_for = len(cuts)
        self._drop_trees()

    def _drop_trees(self) -> None:
        self._root: list[Node | None] = [None] * (self._slots + 2)
        self._grown = 0

    def _settle(self) -> None:
        """Take in the cuts of what was added since the last lookup."""
        if len(self._new) <= FEW_CUTS:
            for cut in self._new:
                insort(self._cuts, cut)
        else:
            self._cuts = sorted(self._uses)
        self._new.clear()
        if not self._made_for // 4 <= len(self._cuts) <= self._made_for * 2:
            self._make_root()

    def _grow_slot(self, place: int) -> Node:
        first = self._base + (place << self._shift)
        last = min(first + (1 << self._shift) - 1, self._last)
        if place == self._slots:
            first, last = 0, self._base - 1
        elif place > self._slots:
            first, last = self._base + (self._slots << self._shift), self._last
        node = self._root[place] = self._grow_between(first, last)
        return node

    def _grow_between(self, first: int, last: int) -> Node:
        low, high = bisect_right(self._cuts, first), bisect_right(self._cuts, last)
        if low < high:
            return self._branch(OWN, self._cuts[low:high], [], (first, last))
        entries: list[Entry] = []
        for length, table in self._by_prefix.items():
            entries += table.get(first >> (self._bits - length), ())
        entries.sort()
        return self._grow(entries, (0, self._last, *ANY_REST))

    def _grow_child(self, branch: Branch, place: int) -> Node:
        dimension, cuts, entries, region = branch[:CHILDREN]
        low = 0 if dimension == OWN else 2 * dimension
        child = place - CHILDREN
        first = cuts[child - 1] if child else region[low]
        last = cuts[child] - 1 if child < len(cuts) else region[low + 1]
        if dimension == OWN:
            node = self._grow_between(first, last)
        else:
            at = BOUNDS + low
            inside = [entry for entry in entries if entry[at] <= last and entry[at + 1] >= first]
            node = self._grow(inside, (*region[:low], first, last, *region[low + 2 :]))
        branch[place] = node
        return node

    def _grow(self, entries: list[Entry], region: tuple[int, ...]) -> Node:
        """The chain or branch for entries, in order, that all meet the region."""
        cuts: tuple[set[int], ...] = (set(), set(), set(), set())
        for count, entry in enumerate(entries, 1):
            whole = True
            for dimension in range(OWN):
                first, last = entry[BOUNDS + 2 * dimension], entry[BOUNDS + 2 * dimension + 1]
                if first > region[2 * dimension]:
                    cuts[dimension].add(first)
                    whole = False
                if last < region[2 * dimension + 1]:
                    cuts[dimension].add(last + 1)
                    whole = False
            if whole:  # it takes all that is left: nothing after it is ever reached here
                entries = entries[:count]
                break
        if len(entries) <= MAX_CHAIN:
            return _chain(entries, region)
        dimension = max(range(OWN), key=lambda one: len(cuts[one]))
        return self._branch(dimension, sorted(cuts[dimension]), entries, region)

    def _branch(
        self, dimension: int, cuts: list[int], entries: list[Entry], region: tuple[int, ...]
    ) -> Branch:
        if len(cuts) > MAX_CUTS:
            cuts = cuts[:: len(cuts) // MAX_CUTS + 1]
        if self._grown > MAX_GROWN:
            self._drop_trees()
        self._grown += len(cuts) + 1
        compact: Sequence[int] = cuts
        if cuts[-1] < 1 << 63:
            compact = array("i" if cuts[-1] < 1 << 31 else "q", cuts)
        return [dimension, compact, entries, region, *[None] * (len(cuts) + 1)]

    # -- forgetting -------------------------------------------------------------------------------

    def _cuts_of(self, entry: Entry) -> list[int]:
        return [cut for cut in (entry[OWN_FIRST], entry[OWN_LAST] + 1) if 0 < cut <= self._last]

    def _forget(self, entry: Entry) -> None:
        low, high = entry[OWN_FIRST] - self._base >> self._shift, entry[OWN_LAST] - self._base >> self._shift
        if low < 0:
            self._root[self._slots] = None
        if high >= self._slots:
            self._root[self._slots + 1] = None
        low, high = max(low, 0), min(high + 1, self._slots)
        if low < high:
            self._root[low:high] = [None] * (high - low)


def _chain(entries: list[Entry], region: tuple[int, ...]) -> Chain:
    """All numbers and verdicts are made anew, so that what packets touch lies together in memory, apart from
    what only changes touch: with 10,000 flows over 100,000 policies that halves the time."""
    chain = MISS
    for entry in reversed(entries):
        first, last = entry[BOUNDS : BOUNDS + 2]
        rest = entry[BOUNDS + 2 :]
        whole = all(rest[i] <= region[i + 2] and rest[i + 1] >= region[i + 3] for i in (0, 2, 4))
        action, flow = entry[VERDICT]
        chain = (
            first + 1 - 1,
            last + 1 - 1,
            None if whole else tuple([bound + 1 - 1 for bound in rest]),
            (action, flow),
            entry,
            chain,
        )
    return chain
