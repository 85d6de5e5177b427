"""The access lists of a configuration by their names: where each is found, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping

from cygnet.config.problems import Complaints, KeyPath
from cygnet.config.typed import NamedRules
from cygnet.policy.access_list import AccessList, BadAccessRule, parse_access_list
from cygnet.policy.expansion import Expansion, TooManyRanges, expand


class AccessLists:
    """The access lists that names can mean, each read once; the inner ones come before the outer ones.

    `title` is the name that the rules of a list without a name of its own are shown with.
    """

    def __init__(
        self,
        path: KeyPath,
        lists: Mapping[str, NamedRules],
        outer: AccessLists | None = None,
        title: str = "",
    ) -> None:
        self.path = path
        self.lists = lists
        self.outer = outer
        self.title = title
        self._read: dict[str, AccessList | None] = {}
        self._expanded: dict[tuple[str, bool], Expansion | None] = {}

    def names(self) -> list[str]:
        return [*self.lists, *(self.outer.names() if self.outer else ())]

    def rules(self, name: str) -> NamedRules | None:
        """The rules as written, None if there is no such list."""
        if name in self.lists:
            return self.lists[name]
        return self.outer.rules(name) if self.outer else None

    def get(self, name: str, complaints: Complaints) -> AccessList | None:
        """The list, or None, having complained (once)."""
        if name not in self._read:
            rules = self.lists[name]
            self._read[name] = None
            try:
                self._read[name] = parse_access_list(self.title or name, [rule for _, rule in rules])
            except BadAccessRule as first:
                for error in (first, *first.others):
                    place = (*self.path, name, rules[error.entry][0])
                    complaints.add(place, f"cannot be read: {error.key} is {error.found!r}", error.allowed)
        return self._read[name]

    def expansion(self, name: str, per_rule: bool, complaints: Complaints) -> Expansion | None:
        """What the list comes to, or None, having complained (once)."""
        if name not in self.lists and self.outer is not None:
            return self.outer.expansion(name, per_rule, complaints)
        if (name, per_rule) not in self._expanded:
            rules = self.get(name, complaints)
            self._expanded[name, per_rule] = None
            if rules is not None:
                try:
                    expansion = expand(rules, per_rule)
                except TooManyRanges as error:
                    complaints.add((*self.path, name), f"cannot be used: {error}")
                else:
                    complaints.notes.extend(((*self.path, name), note) for note in expansion.notes)
                    self._expanded[name, per_rule] = expansion
        return self._expanded[name, per_rule]
