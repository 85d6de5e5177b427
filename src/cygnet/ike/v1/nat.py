"""Is there a NAT on the way, and which NAT traversal do both ends speak? (RFC 3947, and its drafts 02 and 03)

Both announce what they know by vendor ID; then each sends HASH(CKY-I | CKY-R | address | port) of the other
end first, and of its own. What arrives is compared with what the datagram shows. The drafts have other
payload numbers and other encapsulation modes, and are the same otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cygnet.crypto.ikev1 import Phase1Suite
from cygnet.ike.children import Agreed
from cygnet.ike.seen import unknown
from cygnet.ike.state import SaState
from cygnet.ike.v1.notifications import wrong
from cygnet.ike.v1.protection import isakmp_of
from cygnet.ike.world import Path
from cygnet.policy.selectors import IpAddress
from cygnet.records import replace
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import IdType
from cygnet.wire.v1.payloads import NatDPayload, NatOaPayload, VendorIdPayload

SPOKEN: Final = vendor_ids.NAT_T_BEST_FIRST


def choose(theirs: Collection[bytes]) -> bytes:
    """The best NAT traversal that the peer announced, empty if none."""
    return next((one for one in SPOKEN if one in theirs), b"")


def is_draft(nat_t: bytes) -> bool:
    return nat_t != vendor_ids.NAT_T_RFC


def announced(message: Message) -> tuple[bytes, ...]:
    """The peer's vendor IDs."""
    return tuple([payload.data for payload in message.all(VendorIdPayload)])


def digest(suite: Phase1Suite, cky_i: bytes, cky_r: bytes, address: IpAddress, port: int) -> bytes:
    return suite.hash_of(cky_i + cky_r + address.packed + port.to_bytes(2, "big"))


def payloads(
    nat_t: bytes, suite: Phase1Suite, cky_i: bytes, cky_r: bytes, path: Path, *, pretend: bool
) -> tuple[NatDPayload, ...]:
    """What we send: the peer's address first, then ours (section 3.2). `pretend` (swanctl `encap`): a
    source that no path has, so that the peer sees a NAT."""
    if not nat_t:
        return ()
    draft = is_draft(nat_t)
    source = bytes(suite.hash_length) if pretend else digest(suite, cky_i, cky_r, path.local, path.local_port)
    return (
        NatDPayload(digest(suite, cky_i, cky_r, path.remote, path.remote_port), draft),
        NatDPayload(source, draft),
    )


def detect(
    message: Message, suite: Phase1Suite, cky_i: bytes, cky_r: bytes, path: Path
) -> tuple[bool, bool, bool]:
    """(we are behind a NAT, the peer is or pretends it, it pretends as we do)."""
    digests = [payload.data for payload in message.all(NatDPayload)]
    if len(digests) < 2:
        return False, False, False
    behind = digests[0] != digest(suite, cky_i, cky_r, path.local, path.local_port)
    peer = digest(suite, cky_i, cky_r, path.remote, path.remote_port) not in digests[1:]
    return behind, peer, bytes(suite.hash_length) in digests[1:]


def floated(path: Path, port: int, port_nat_t: int) -> Path:
    """From identification on everything travels on port 4500 (section 4)."""
    return Path(
        path.local, port_nat_t, path.remote, port_nat_t if path.remote_port == port else path.remote_port
    )


# -- transport mode (section 5.2) -------------------------------------------------------------------

Originals = tuple[IpAddress | None, IpAddress | None]
"""Our address and the peer's as the peer knows them, None where it has not said."""


def original_addresses(state: SaState, *, initiator: bool) -> tuple[NatOaPayload, ...]:
    """NAT-OAi and NAT-OAr as we know them, where it goes in UDP. `initiator`: of the quick mode."""
    if not state.encapsulated:
        return ()
    draft = is_draft(isakmp_of(state).nat_t)
    ends = state.path.local, state.path.remote
    return tuple(
        [
            NatOaPayload(IdType.IPV4_ADDR if one.version == 4 else IdType.IPV6_ADDR, one.packed, draft)
            for one in (ends if initiator else ends[::-1])
        ]
    )


def with_originals(agreed: Agreed, told: Originals, state: SaState) -> Agreed:
    """The peer's checksums were made with the addresses that it has told."""
    return replace(
        agreed,
        original_local=_original(told[0], state.path.local, behind=state.nat_local),
        original_remote=_original(told[1], state.path.remote, behind=state.nat_remote),
    )


def _original(told: IpAddress | None, ours: IpAddress, *, behind: bool) -> IpAddress | None:
    if told is None or told.version != ours.version:
        return unknown(ours) if behind else None
    return told if told != ours else None


def told_addresses(message: Message, *, from_initiator: bool) -> tuple[IpAddress | None, IpAddress | None]:
    """(the initiator's, the responder's) address as the sender knows them, None where it does not say. Of one
    alone, as drafts have it, the sender means its own. Raises `PeerMisbehaved`."""
    told = [_address(payload) for payload in message.all(NatOaPayload)]
    if len(told) == 2:
        return told[0], told[1]
    own = told[0] if told else None
    return (own, None) if from_initiator else (None, own)


def _address(payload: NatOaPayload) -> IpAddress:
    if payload.id_type == IdType.IPV4_ADDR and len(payload.data) == 4:
        return IPv4Address(payload.data)
    if payload.id_type == IdType.IPV6_ADDR and len(payload.data) == 16:
        return IPv6Address(payload.data)
    raise wrong("NAT-OA holds no address")
