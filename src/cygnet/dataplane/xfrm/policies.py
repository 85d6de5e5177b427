"""The SPD in the kernel: what must be there, what is there, and the messages from one to the other.

Each rule claims its selectors in three directions: out, in (to this machine) and forward (through it). Of the
claims to one selector the first in the SPD's order is installed. PROTECT asks for SAs of the flow's request
number (`reqid`) in the flow's shape; without knowing where the peer is it blocks. So a policy needs no SA to
hold: until there is one the kernel drops and asks (ACQUIRE), after it too.

Policies are told from other programs' by their index, which the kernel lets us choose. A process that
starts finds those of the one before; what is the same is taken over without a word, the rest stays in
force until `sweep`. Changes make nothing weaker meanwhile: what protects comes first, what allows after it,
removals last.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cygnet.dataplane.nftables import KernelError
from cygnet.dataplane.xfrm import codec
from cygnet.dataplane.xfrm.codec import (
    ALLOW,
    BLOCK,
    FORWARD,
    IN,
    OUT,
    PolicyKey,
    PolicySeen,
    Selector,
    Template,
    Verdict,
)
from cygnet.dataplane.xfrm.exempt import (
    DISCOVERY,
    LOOPBACK,
    MAX_OWN,
    SAYING_TOO_BIG,
    link_scope,
    to_itself,
    touches_link_scope,
)
from cygnet.dataplane.xfrm.netlink import Message, XfrmSocket
from cygnet.dataplane.xfrm.rules import DIRECTIONS, LEFT_BEHIND, Order, directed, selectors
from cygnet.policy.names import ICMPV6
from cygnet.policy.sa import Mode, SaProtocol
from cygnet.policy.selectors import IpAddress
from cygnet.policy.spd import Action, Policy, PolicyRule

REQID, REQID_MASK = 0x43000000, 0xFF000000
"""Request numbers of ours, 24 bits each ("C")."""
_INDEX, _INDEX_MASK = 0x43000000, 0xFF000000
_INDEX_STEP, _INDEXES = 8, 1 << 21
_LINK_SCOPE, _TOO_BIG, _DEFAULT = (-1, 0), (1 << 79, 0), (1 << 80, 0)
_PRIORITY_LINK_SCOPE, _PRIORITY_DEFAULT = 1 << 15, (1 << 32) - 1
_PRIORITY_TOO_BIG = _PRIORITY_DEFAULT - 1

Place = tuple[int, int]
_Claim = tuple[Place, int, Action, int]
"""Place of the policy, of the rule in it, what it does, its flow."""
_ITSELF: _Claim = (_LINK_SCOPE, 0, Action.BYPASS, 0)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the SAs of a flow look like: of its policy first, of its newest SA then."""

    mode: int
    protocols: tuple[int, ...]
    ipcomp: bool
    local: IpAddress | None
    remote: IpAddress | None
    outer_reqid: int = 0
    """Of the AH SA around ESP, where that has a flow of its own; 0: the flow's."""


def shape_of(policy: Policy) -> Shape:
    return Shape(policy.mode, policy.protocols, policy.ipcomp, policy.local, policy.remote)


class KernelSpd:
    """`put` and `remove` change what must be there; `commit` makes it so."""

    def __init__(self, sock: XfrmSocket, default: Action) -> None:
        self._socket = sock
        self._order = Order()
        self._default = default
        self._policies: dict[int, Policy] = {}
        self._looking: set[int] = set()
        """Policies with a rule that looks at ports."""
        self._left_looking = False
        """So do some that a former process left."""
        self._claims: dict[PolicyKey, list[_Claim]] = {}
        self._of_policy: dict[int, list[tuple[PolicyKey, _Claim]]] = {}
        self._of_flow: dict[int, set[PolicyKey]] = {}
        self._inbound: dict[int, Shape] = {}
        self._outbound: dict[int, Shape] = {}
        self._remembered: dict[tuple[int, bool], Shape] = {}
        """Of flows whose SAs were here before their policy."""
        self._reqids: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        self._changed: set[PolicyKey] = set()
        self._refused: set[PolicyKey] = set()
        """What the kernel did not take, mostly because another program's policy is in its place."""
        self._installed: dict[PolicyKey, Verdict] = {}
        self._indexes: dict[PolicyKey, int] = {}
        self._used: set[int] = set()
        self._next = 0
        self._link_scope: set[int] = set()
        self._own: set[int] = set()
        """This machine's addresses of IPv6 that have a policy towards themselves, or will have with the first
        rule of that family."""
        self._six = default is Action.DISCARD

    # -- request numbers -----------------------------------------------------------------------

    def reqid(self, flow: int) -> int:
        """The kernel's number of a flow: from its name, so that it is the same after a restart."""
        known = self._reqids.get(flow)
        if known is None:
            known = REQID | (flow & 0xFFFFFF) ^ (flow >> 24 & 0xFFFFFF) ^ (flow >> 48 & 0xFFFFFF)
            while self._taken.get(known, flow) != flow:
                known = REQID | (known + 1 & 0xFFFFFF)
            self.know(flow, known)
        return known

    def know(self, flow: int, reqid: int) -> None:
        """An SA that was here before us has this number for this flow."""
        self._reqids.setdefault(flow, reqid)
        self._taken.setdefault(reqid, flow)

    def flow(self, reqid: int) -> int:
        """0: none of ours."""
        return self._taken.get(reqid, 0)

    # -- what must be there --------------------------------------------------------------------

    def get(self, policy: int) -> Policy | None:
        return self._policies.get(policy)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._policies.values())

    def __len__(self) -> int:
        return len(self._policies)

    @property
    def sees_ports(self) -> bool:
        """Must policies see ports, or types of ICMP? Then no packet may come in fragments."""
        return self._left_looking or bool(self._looking)

    def put(self, policy: Policy) -> None:
        """In place of what had the same id. Raises KernelError; then it is as before."""
        if self._policies.get(policy.id) == policy:
            return
        compiled = [
            (selector, place, rule) for place, rule in enumerate(policy.rules) for selector in selectors(rule)
        ]
        self.remove(policy.id)
        self._policies[policy.id] = policy
        if any(_looks_at_ports(selector) for selector, _, _ in compiled):
            self._looking.add(policy.id)
        if self._order.place(policy):
            self._changed.update(self._claims)
        claims = self._of_policy[policy.id] = []
        for selector, place, rule in compiled:
            claim = (policy.priority, policy.id), place, rule.action, rule.flow
            for direction in DIRECTIONS:
                key = PolicyKey(direction, codec.packed_selector(directed(selector, direction)), policy.if_id)
                claims.append((key, claim))
            if self._default is Action.DISCARD and rule.action is Action.PROTECT:
                # On its way into the tunnel, through this machine: else the default would stop it.
                through = (*claim[:2], Action.BYPASS, 0)
                key = PolicyKey(FORWARD, codec.packed_selector(selector), policy.if_id)
                claims.append((key, through))
            if rule.flow:
                shape = shape_of(policy)
                for inbound, known in ((True, self._inbound), (False, self._outbound)):
                    if rule.flow not in known:
                        known[rule.flow] = self._remembered.pop((rule.flow, inbound), shape)
        for key, claim in claims:
            self._claim(key, claim)
            if claim[3]:
                self._of_flow.setdefault(claim[3], set()).add(key)
        if not policy.if_id:
            restricting = [rule for rule in policy.rules if rule.action is not Action.BYPASS]
            self._mind_link_scope(restricting)
            if not self._six and any(rule.remote.family == 6 for rule in restricting):
                self._six = True
                self._let_speak(self._own)
            if self._default is Action.DISCARD:
                self._block_by_default()

    def remove(self, policy: int) -> None:
        """Nothing happens if there is none."""
        former = self._policies.pop(policy, None)
        if former is None:
            return
        self._looking.discard(policy)
        for key, claim in self._of_policy.pop(policy):
            self._disclaim(key, claim)
            if claim[3]:
                self._of_flow[claim[3]].discard(key)
        for flow in {rule.flow for rule in former.rules}:
            if flow in self._of_flow and not self._of_flow[flow]:
                del self._of_flow[flow], self._inbound[flow], self._outbound[flow]
        self._order.remove(former)

    def shape(self, flow: int, *, inbound: bool, shape: Shape) -> None:
        """A flow's SA looks like this from now on; `commit` tells the kernel if that is new."""
        known = self._inbound if inbound else self._outbound
        if flow not in known:
            return
        before, known[flow] = known[flow], shape
        if inbound:
            before, shape = (replace(one, local=None, remote=None) for one in (before, shape))
        if before != shape:
            self._changed |= {key for key in self._of_flow[flow] if (key.direction != OUT) == inbound}

    def remember(self, flow: int, *, inbound: bool, shape: Shape) -> None:
        """What an SA looks like whose policy is still to come."""
        self._remembered[flow, inbound] = shape

    def shape_now(self, flow: int, *, inbound: bool) -> Shape | None:
        return (self._inbound if inbound else self._outbound).get(flow)

    def _claim(self, key: PolicyKey, claim: _Claim) -> None:
        claims = self._claims.setdefault(key, [])
        claims.append(claim)
        claims.sort()
        self._changed.add(key)

    def _disclaim(self, key: PolicyKey, claim: _Claim) -> None:
        claims = self._claims[key]
        claims.remove(claim)
        if not claims:
            del self._claims[key]
        self._changed.add(key)

    def _mind_link_scope(self, rules: Iterable[PolicyRule]) -> None:
        """What cannot cross a router is never a tunnel's: neighbour discovery, link-local groups."""
        families = {rule.remote.family for rule in rules if touches_link_scope(rule)}
        if self._default is Action.DISCARD:
            families |= {4, 6}
        for family in families - self._link_scope:
            self._link_scope.add(family)
            for selector, direction, action in link_scope(family):
                key = PolicyKey(direction, codec.packed_selector(selector))
                self._claim(key, (_LINK_SCOPE, 0, action, 0))

    def own_addresses(self, found: Iterable[int]) -> None:
        """This machine's of IPv6, now; its talk with itself is nobody's business."""
        own = {LOOPBACK, *sorted(found)[:MAX_OWN]}
        come, gone = own - self._own, self._own - own
        self._own = own
        if self._six:
            self._let_speak(come)
            for key in _to_themselves(gone):
                self._disclaim(key, _ITSELF)

    def _let_speak(self, addresses: Iterable[int]) -> None:
        for key in _to_themselves(addresses):
            self._claim(key, _ITSELF)

    def _block_by_default(self) -> None:
        for family in (4, 6):
            for direction in DIRECTIONS:
                key = PolicyKey(direction, codec.packed_selector(Selector(family)))
                if all(claim[0] != _DEFAULT for claim in self._claims.get(key, ())):
                    self._claim(key, (_DEFAULT, 0, Action.DISCARD, 0))
        # What paths and this gateway say of their MTU; not what is forwarded.
        for selector in SAYING_TOO_BIG:
            for direction in (IN, OUT):
                key = PolicyKey(direction, codec.packed_selector(selector))
                if all(claim[0] != _TOO_BIG for claim in self._claims.get(key, ())):
                    self._claim(key, (_TOO_BIG, 0, Action.BYPASS, 0))

    # -- to the kernel -------------------------------------------------------------------------

    def adopt(self) -> None:
        """Find what a former process left. Raises OSError."""
        for _, body in self._socket.dump(codec.GET_POLICY, b""):
            seen = codec.policy_from(body)
            if is_ours(seen):
                self._installed[seen.key] = seen.verdict
                self._indexes[seen.key] = seen.index
                self._used.add(seen.index & ~7)
                self._left_looking |= _looks_at_ports(codec.selector_from(seen.key.selector))

    def commit(self) -> None:
        """Raises KernelError with the first refusal, after all were tried; what was refused waits for
        `retry`."""
        changed, self._changed = self._changed, set()
        self._refused -= changed
        restraining, protecting, allowing, removing = [], [], [], []
        for key in changed:
            wanted, present = self._wanted(key), self._installed.get(key)
            if wanted == present:
                if wanted is None:
                    self._forget_index(key)
                continue
            if wanted is None:
                removing.append((key, wanted))
            elif _restrains(wanted):
                protecting.append((key, wanted))
            elif present is not None and not _restrains(present) and wanted.priority > present.priority:
                restraining.append((key, wanted))
            else:
                allowing.append((key, wanted))
        # Nothing is weaker in between: what allows and comes later in the order than before goes there first,
        # or what protects would stand behind it for a while; what comes earlier, or is new, goes last.
        self._carry_out([*restraining, *protecting, *allowing, *removing])

    def retry(self) -> int:
        """How many that were refused are in force now, or are wanted no more. Raises KernelError."""
        waiting = set(self._refused)
        self._changed |= waiting
        if waiting:
            self.commit()
        return len(waiting)

    def _carry_out(self, changes: Sequence[tuple[PolicyKey, Verdict | None]]) -> None:
        if not changes:
            return
        messages = [self._message(key, verdict) for key, verdict in changes]
        try:
            refusals = self._socket.change(messages)
        except OSError as error:
            self._refused.update(key for key, _ in changes)
            raise KernelError(f"the kernel takes no policies: {error.strerror}") from error
        first = ""
        for (key, verdict), refusal in zip(changes, refusals, strict=True):
            gone = verdict is None and refusal is not None and refusal.errno == errno.ENOENT
            if refusal is not None and not gone:
                self._refused.add(key)
                first = first or _why(key, refusal)
            elif verdict is None:
                self._installed.pop(key, None)
                self._forget_index(key)
            else:
                self._installed[key] = verdict
        if first:
            raise KernelError(first)

    def _message(self, key: PolicyKey, verdict: Verdict | None) -> Message:
        if verdict is None:
            return codec.policy_removal(key)
        there = key in self._installed
        if key not in self._indexes:
            self._indexes[key] = self._free_index() | key.direction
        return codec.policy_message(key, verdict, self._indexes[key], replace=there)

    def _forget_index(self, key: PolicyKey) -> None:
        self._used.discard(self._indexes.pop(key, 0) & ~7)

    def _free_index(self) -> int:
        for _ in range(_INDEXES):
            self._next = (self._next + 1) % _INDEXES
            index = _INDEX | self._next * _INDEX_STEP
            if index not in self._used:
                self._used.add(index)
                return index
        raise KernelError(f"more than {_INDEXES} policies")

    def _wanted(self, key: PolicyKey) -> Verdict | None:
        claims = self._claims.get(key)
        if not claims:
            return None
        place, number, action, flow = claims[0]
        if place == _LINK_SCOPE:
            priority = _PRIORITY_LINK_SCOPE
        elif place == _TOO_BIG:
            priority = _PRIORITY_TOO_BIG
        elif place == _DEFAULT:
            priority = _PRIORITY_DEFAULT
        else:
            priority = self._order.base(place) + number
        if action is Action.BYPASS:
            return Verdict(priority, ALLOW)
        if action is Action.DISCARD:
            return Verdict(priority, BLOCK)
        shape = (self._outbound if key.direction == OUT else self._inbound)[flow]
        templates = self._templates(key, flow, shape)
        return Verdict(priority, ALLOW if templates else BLOCK, templates)

    def _templates(self, key: PolicyKey, flow: int, shape: Shape) -> tuple[Template, ...]:
        """From the inside out. Empty: nobody knows where to send."""
        reqid = self.reqid(flow)
        mode = codec.TUNNEL if shape.mode == Mode.TUNNEL else codec.TRANSPORT
        family = codec.family_of(key.selector)
        source = destination = None
        if key.direction == OUT and mode == codec.TUNNEL:
            if shape.remote is None:
                return ()
            source, destination, family = shape.local, shape.remote, shape.remote.version
        protocols = [codec.IPCOMP] * shape.ipcomp + [
            codec.AH if protocol == SaProtocol.AH else codec.ESP for protocol in shape.protocols
        ]
        made = []
        for place, protocol in enumerate(protocols):
            optional = protocol == codec.IPCOMP and key.direction != OUT
            if place:  # around what has its outer header already
                own = shape.outer_reqid if protocol == codec.AH and shape.outer_reqid else reqid
                made.append(Template(protocol, codec.TRANSPORT, own, family=family))
            else:
                made.append(Template(protocol, mode, reqid, source, destination, family, optional))
        return tuple(made)

    # -- drift and the end ---------------------------------------------------------------------

    def lost(self, key: PolicyKey) -> bool:
        """Somebody removed it: was it ours? It is wanted again with the next commit."""
        if key not in self._installed:
            return False
        del self._installed[key]
        self._forget_index(key)
        self._changed.add(key)
        return key in self._claims

    def altered(self, seen: PolicySeen) -> bool:
        """Somebody changed it: was it ours? It will be as it was with the next commit."""
        if self._installed.get(seen.key, seen.verdict) == seen.verdict:
            return False
        self._installed[seen.key] = seen.verdict
        self._changed.add(seen.key)
        return True

    def compare(self) -> int:
        """How many of ours are missing from the kernel or not as they were: wanted again with the next
        commit. Raises OSError."""
        present = {}
        for _, body in self._socket.dump(codec.GET_POLICY, b""):
            seen = codec.policy_from(body)
            present[seen.key] = seen
        missing = 0
        for key in list(self._installed):
            missing += self.altered(present[key]) if key in present else self.lost(key)
        for key in self._refused & present.keys():
            if key not in self._installed and is_ours(present[key]):  # an answer that got lost
                self._installed[key], self._indexes[key] = present[key].verdict, present[key].index
                self._used.add(present[key].index & ~7)
        return missing

    def take_precedence(self) -> None:
        """All policies are here: those that a former process left, in their order, come after them all. Until
        now they had to stay where they were, for they may have protected what one of ours not yet put does.
        Raises KernelError."""
        left = [
            key
            for key in self._installed.keys() - self._claims.keys()
            if self._installed[key].priority < _PRIORITY_DEFAULT
        ]
        left.sort(key=lambda key: self._installed[key].priority)
        later = {
            key: self._installed[key]._replace(priority=LEFT_BEHIND + number)
            for number, key in enumerate(left)
        }
        if not later:
            return
        try:
            refusals = self._socket.change([self._message(key, verdict) for key, verdict in later.items()])
        except OSError as error:
            raise KernelError(f"the kernel takes no policies: {error.strerror}") from error
        for (key, verdict), refusal in zip(later.items(), refusals, strict=True):
            if refusal is None:
                self._installed[key] = verdict

    def sweep(self) -> None:
        """What no policy asks for is gone. Raises KernelError."""
        self._changed |= self._installed.keys() - self._claims.keys()
        self.commit()
        self._left_looking = False

    def clear(self) -> None:
        """Nothing of ours is left. Raises KernelError."""
        for policy in list(self._policies):
            self.remove(policy)
        self._changed |= self._claims.keys()
        self._claims.clear()
        self._link_scope.clear()
        self._own.clear()
        self._six = self._default is Action.DISCARD
        self.sweep()


def _looks_at_ports(selector: Selector) -> bool:
    """Discovery of neighbours and what says "too big", which never come in fragments, are not meant."""
    discovery = selector.protocol == ICMPV6 and selector.source_port in DISCOVERY
    looks = bool(selector.source_mask or selector.destination_mask)
    return looks and not discovery and selector not in SAYING_TOO_BIG


def _restrains(verdict: Verdict) -> bool:
    return verdict.action == BLOCK or bool(verdict.templates)


def _to_themselves(addresses: Iterable[int]) -> Iterator[PolicyKey]:
    for address in addresses:
        for selector, direction in to_itself(address):
            yield PolicyKey(direction, codec.packed_selector(selector))


def is_ours(seen: PolicySeen) -> bool:
    return seen.index & _INDEX_MASK == _INDEX


def _why(key: PolicyKey, refusal: OSError) -> str:
    if refusal.errno == errno.EEXIST:
        return f"another program has a policy for {_text(key)}; both cannot be in force"
    return f"the kernel refused a policy for {_text(key)}: {refusal.strerror}"


def _text(key: PolicyKey) -> str:
    one = codec.selector_from(key.selector)
    kind = codec.address_of
    ways = {IN: "in", OUT: "out", FORWARD: "forward"}
    return (
        f"{kind(one.source, one.family)}/{one.source_length} to "
        f"{kind(one.destination, one.family)}/{one.destination_length} ({ways.get(key.direction, '?')})"
    )
