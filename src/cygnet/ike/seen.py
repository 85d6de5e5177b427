"""Transport mode behind a NAT: selectors are addresses that the other end does not see.

Law (RFC 7296, section 2.23.1; RFC 3947, section 5.2): the responder puts the addresses that it sees in their
place, decides, and says the peer's own in its answer. Checksums are put right by what the peer made them
with, where that is known, and are made anew where it is not.
"""

from __future__ import annotations

from cygnet.ike.children import Agreed, Selectors
from cygnet.ike.state import SaState
from cygnet.policy.selectors import IpAddress, addresses
from cygnet.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class Seen:
    """The peer's selectors with the addresses that we see; what stood there before, for the answer."""

    local: Selectors
    remote: Selectors
    original_local: IpAddress | None = None
    original_remote: IpAddress | None = None

    def back(self, agreed: Agreed) -> tuple[Selectors, Selectors]:
        """What the answer says: local and remote as the peer knows them."""
        return _with(agreed.local, self.original_local), _with(agreed.remote, self.original_remote)


def as_seen(local: Selectors, remote: Selectors, state: SaState) -> Seen:
    """At the responder: of transport mode between addresses of which one is not what the other end sees."""
    found = Seen(local, remote)
    if state.nat_remote and (theirs := _one_address(remote)) not in (None, state.path.remote):
        found = replace(found, remote=_with(remote, state.path.remote), original_remote=theirs)
    if state.nat_local and (ours := _one_address(local)) not in (None, state.path.local):
        found = replace(found, local=_with(local, state.path.local), original_local=ours)
    return found


def unknown(address: IpAddress) -> IpAddress:
    """In place of an original address that nobody tells: checksums are made anew."""
    return type(address)(0)


def _one_address(selectors: Selectors) -> IpAddress | None:
    """The address that all of them are, None if they are not one."""
    found = {address for selector in selectors for address in addresses(selector)}
    return found.pop() if len(found) == 1 else None


def _with(selectors: Selectors, address: IpAddress | None) -> Selectors:
    if address is None:
        return selectors
    here = int(address)
    return tuple([replace(s, family=address.version, first=here, last=here) for s in selectors])
