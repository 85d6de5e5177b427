"""Classification by structure: which of many ordered boxes holds a point first, in time that does not grow
with their number.

An entry is a box in five dimensions, a packet a point in them. Ports run from -1, the port that cannot be
seen, so that "all ports" is -1..65535 and OPAQUE is -1..-1 (RFC 4301, section 4.4.1.1).

The root is one sorted list of the places where an address range begins or ends. Between two of them, in a
cell, the same entries apply; a table of prefixes tells which when the cell is first met. Below a cell
stands a decision tree, grown where packets go: a branch cuts one dimension at all the bounds of its
entries, so a packet passes a handful of branches however many entries there are. An entry is filed under
the address that it narrows more, so that "any" on one side does not stand in every cell of that side.

Change is local: adding or removing an entry forgets the cells that it meets, and no others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from cygnet.policy.selectors import NO_PORT, PORT_MAX

REMOTE, LOCAL, PROTOCOL, REMOTE_PORT, LOCAL_PORT = range(5)

Entry = tuple[Any, ...]
"""(priority, policy, place, verdict, then first and last of each dimension in order)."""
Leaf = tuple[Entry | None, Any]
"""The entry and its verdict, or (None, None) where no entry applies."""
Prefixes = Iterable[tuple[int, int]]

MISS: Leaf = (None, None)

VERDICT, BOUNDS = 3, 4

MAX_CUTS = 256
"""Of one branch; more are taken in two steps, so that growing a child does not look at all the others."""
MAX_GROWN = 4_000_000
"""Children of all branches of an index, 8 octets each; beyond it they are dropped and grow again."""
FEW_CUTS = 16
"""So many new cuts are inserted one by one; more, and the root is made anew."""


class Branch:
    """A cut in one dimension: child `bisect_right(cuts, value)` holds value. None: not grown yet."""

    __slots__ = ("children", "cuts", "dimension", "entries", "region")

    def __init__(
        self, dimension: int, cuts: list[int], entries: list[Entry], region: tuple[int, ...]
    ) -> None:
        self.dimension = dimension
        self.cuts = cuts
        self.children: list[Branch | Leaf | None] = [None] * (len(cuts) + 1)
        self.entries = entries
        self.region = region

    def grow(self, child: int) -> Branch | Leaf:
        low, high = 2 * self.dimension, 2 * self.dimension + 1
        first = self.cuts[child - 1] if child else self.region[low]
        last = self.cuts[child] - 1 if child < len(self.cuts) else self.region[high]
        inside = [e for e in self.entries if e[BOUNDS + low] <= last and e[BOUNDS + high] >= first]
        return grown(inside, (*self.region[:low], first, last, *self.region[high + 1 :]))


def grown(entries: list[Entry], region: tuple[int, ...]) -> Branch | Leaf:
    """A tree for entries in first-match order that all meet the region."""
    cuts: tuple[set[int], ...] = (set(), set(), set(), set(), set())
    for count, entry in enumerate(entries, 1):
        whole = True
        for dimension in range(5):
            first, last = entry[BOUNDS + 2 * dimension], entry[BOUNDS + 2 * dimension + 1]
            if first > region[2 * dimension]:
                cuts[dimension].add(first)
                whole = False
            if last < region[2 * dimension + 1]:
                cuts[dimension].add(last + 1)
                whole = False
        if whole:  # it takes all that is left: nothing after it is ever reached here
            if count == 1:
                return entry, entry[VERDICT]
            entries = entries[:count]
            break
    if not entries:
        return MISS
    dimension = max(range(5), key=lambda one: len(cuts[one]))
    chosen = sorted(cuts[dimension])
    if len(chosen) > MAX_CUTS:
        chosen = chosen[:: len(chosen) // MAX_CUTS + 1]
    return Branch(dimension, chosen, entries, region)


class Index:
    """The entries of one address family that are filed under one address dimension."""

    def __init__(self, dimension: int, bits: int) -> None:
        self.starts: list[int] = []
        self.cells: list[Branch | Leaf | None] = [None]
        self.count = 0
        self.unsettled = False
        self._dimension = dimension
        self._bits = bits
        self._last = (1 << bits) - 1
        self._by_prefix: dict[int, dict[int, list[Entry]]] = {}
        self._uses: dict[int, int] = {}
        self._new: list[int] = []
        self._unused = 0
        self._grown = 0

    def add(self, entry: Entry, prefixes: Prefixes) -> None:
        """`prefixes` are those of the entry's range in this index's dimension: (first, length) each."""
        for first, length in prefixes:
            table = self._by_prefix.setdefault(length, {})
            table.setdefault(first >> (self._bits - length), []).append(entry)
        self.count += 1
        for cut in self._cuts(entry):
            uses = self._uses.get(cut)
            if uses is None:
                self._new.append(cut)
                self.unsettled = True
            self._uses[cut] = (uses or 0) + 1
        self._forget(entry)

    def discard(self, entry: Entry, prefixes: Prefixes) -> None:
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
        for cut in self._cuts(entry):
            self._uses[cut] -= 1
            self._unused += not self._uses[cut]
        self._forget(entry)

    def settle(self) -> None:
        """Take in the cuts of what was added since the last lookup."""
        self.unsettled = False
        if self._unused > len(self.starts) // 2:
            self._uses = {cut: uses for cut, uses in self._uses.items() if uses}
            self._unused = 0
        elif len(self._new) <= FEW_CUTS:
            for cut in self._new:
                place = bisect_right(self.starts, cut)
                self.starts.insert(place, cut)
                self.cells[place : place + 1] = [None, None]
            self._new.clear()
            return
        self._new.clear()
        self.starts = sorted(self._uses)
        self.drop_trees()

    def drop_trees(self) -> None:
        self.cells = [None] * (len(self.starts) + 1)
        self._grown = 0

    def cell(self, place: int) -> Branch | Leaf:
        """Grow the tree of a cell."""
        first = self.starts[place - 1] if place else 0
        last = self.starts[place] - 1 if place < len(self.starts) else self._last
        entries: list[Entry] = []
        for length, table in self._by_prefix.items():
            entries += table.get(first >> (self._bits - length), ())
        entries.sort()
        region = [0, self._last, 0, self._last, 0, 255, NO_PORT, PORT_MAX, NO_PORT, PORT_MAX]
        region[2 * self._dimension : 2 * self._dimension + 2] = first, last
        node = grown(entries, tuple(region))
        self._count(node)
        self.cells[place] = node
        return node

    def find(self, point: tuple[int, int, int, int, int]) -> Leaf:
        """The first entry in order that holds the point. `unsettled` must be false."""
        place = bisect_right(self.starts, point[self._dimension])
        node = self.cells[place]
        if node is None:
            node = self.cell(place)
        while type(node) is Branch:
            number = bisect_right(node.cuts, point[node.dimension])
            child = node.children[number]
            if child is None:
                child = node.children[number] = node.grow(number)
                self._count(child)
            node = child
        return node  # type: ignore[return-value]

    def _count(self, node: Branch | Leaf) -> None:
        if type(node) is Branch:
            self._grown += len(node.children)
            if self._grown > MAX_GROWN:
                self.drop_trees()

    def _span(self, entry: Entry) -> tuple[int, int]:
        at = BOUNDS + 2 * self._dimension
        return entry[at], entry[at + 1]

    def _cuts(self, entry: Entry) -> tuple[int, ...]:
        first, last = self._span(entry)
        return (first, last + 1) if last < self._last else (first,)

    def _forget(self, entry: Entry) -> None:
        first, last = self._span(entry)
        low, high = bisect_right(self.starts, first), bisect_right(self.starts, last) + 1
        self.cells[low:high] = [None] * (high - low)
