"""The security policy database: which flows are protected, bypassed, discarded (RFC 4301, section 4.4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from cygnet.policy.selectors import AnySelector, IpAddress, TrafficSelector


class Action(IntEnum):
    PROTECT = 1
    BYPASS = 2
    DISCARD = 3


@dataclass(frozen=True, slots=True)
class ChildRule:
    """One ordered rule of a child: `flow` is the index into the child's flows for PROTECT, else -1."""

    action: Action
    local: AnySelector
    remote: AnySelector
    flow: int


@dataclass(frozen=True, slots=True)
class Flow:
    """What one Child SA pair carries, as put into TSi and TSr: a product of two lists (RFC 7296, 2.9)."""

    local: tuple[AnySelector, ...]
    remote: tuple[AnySelector, ...]
    rule: str = ""
    """The access list rule it came from, for people: `branch/10`; empty with traffic selectors."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A `ChildRule` in force: concrete selectors, and the endpoint-wide flow id (0 where not PROTECT)."""

    action: Action
    local: TrafficSelector
    remote: TrafficSelector
    flow: int


@dataclass(frozen=True, slots=True)
class Policy:
    """One child of one connection in force. Policies are ordered by (`priority`, `id`), lower first."""

    id: int
    name: str
    priority: int
    rules: tuple[PolicyRule, ...]
    trap: bool
    local: IpAddress | None
    remote: IpAddress | None
