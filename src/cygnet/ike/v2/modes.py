"""What goes along with a Child SA's proposals: transport mode, IPComp, TFC padding (RFC 7296, 1.3.1, 2.22).

    N(USE_TRANSPORT_MODE)  both ends must say it, or it is a tunnel (or nothing, where that is no use to us)
    N(IPCOMP_SUPPORTED)    each end's CPI and DEFLATE; compression happens only if both say it
    N(ESP_TFC_PADDING_NOT_SUPPORTED)  what is said where padding cannot be told from the payload

Behind a NAT, transport mode's traffic selectors are addresses that the other end does not see (section
2.23.1): the responder puts those that it sees in their place, decides, and puts the peer's own back into
its answer. AH goes through no NAT at all, and says so.
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.entropy import Entropy
from cygnet.ike.children import Agreed, Selectors
from cygnet.ike.connections import LoadedChild
from cygnet.ike.errors import PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.seen import Seen, as_seen, unknown
from cygnet.ike.state import SaState
from cygnet.policy.sa import Mode
from cygnet.records import dataclass, replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Notify
from cygnet.wire.payloads import NotifyPayload

DEFLATE: Final = 2
CPI_MIN, CPI_MAX = 256, 61439
"""Negotiated CPIs (RFC 3173, section 3.3)."""
_NO_TFC: Final = NotifyPayload(0, b"", Notify.ESP_TFC_PADDING_NOT_SUPPORTED, b"")
_TRANSPORT: Final = NotifyPayload(0, b"", Notify.USE_TRANSPORT_MODE, b"")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What we say with an offer, or with an answer. `cpi` is ours, 0 without IPComp."""

    transport: bool
    cpi: int

    @property
    def payloads(self) -> tuple[NotifyPayload, ...]:
        said: tuple[NotifyPayload, ...] = ()
        if self.cpi:
            data = self.cpi.to_bytes(2, "big") + bytes((DEFLATE,))
            said += (NotifyPayload(0, b"", Notify.IPCOMP_SUPPORTED, data),)
        if self.transport:
            # A tunnel's inner packet has its own length; upper layers have not (RFC 4303, section 2.7).
            said += (_TRANSPORT, _NO_TFC)
        return said


def wishes(loaded: LoadedChild, entropy: Entropy) -> Wishes:
    child = loaded.child
    return Wishes(child.mode == Mode.TRANSPORT, _cpi(entropy) if child.ipcomp else 0)


def _cpi(entropy: Entropy) -> int:
    return CPI_MIN + int.from_bytes(entropy.octets(4), "big") % (CPI_MAX - CPI_MIN + 1)


def agreed_by_peer(wanted: Wishes, message: Message, agreed: Agreed, state: SaState) -> Agreed:
    """The initiator's side: what of our wishes the answer grants. Raises `PeerMisbehaved`,
    `PeerIncompatible`."""
    granted = message.notify(Notify.USE_TRANSPORT_MODE) is not None
    if granted and not wanted.transport:
        raise PeerMisbehaved(
            Reason.PEER_MISBEHAVED,
            "the peer chose transport mode, which was not offered",
            notify=Notify.INVALID_SYNTAX,
        )
    if wanted.transport and not granted:
        raise PeerIncompatible(
            Reason.MODE_MISMATCH, "the peer makes a tunnel, you want transport mode; first difference: mode"
        )
    theirs = _offered_cpi(message) if wanted.cpi else 0
    agreed = replace(
        agreed,
        mode=Mode.TRANSPORT if granted else Mode.TUNNEL,
        ipcomp_in=wanted.cpi if theirs else 0,
        ipcomp_out=theirs,
        tfc=_takes_tfc(message),
    )
    if granted:
        # What the responder's checksums were made with, nobody tells: they are made anew.
        agreed = replace(
            agreed,
            original_local=unknown(state.path.local) if state.nat_local else None,
            original_remote=unknown(state.path.remote) if state.nat_remote else None,
        )
    return agreed


def grant(loaded: LoadedChild, message: Message, agreed: Agreed, entropy: Entropy) -> Agreed:
    """The responder's side: what of the peer's wishes this child grants. Raises `PeerIncompatible`."""
    asked = message.notify(Notify.USE_TRANSPORT_MODE) is not None
    transport = loaded.child.mode == Mode.TRANSPORT
    if transport and not asked:
        raise PeerIncompatible(
            Reason.MODE_MISMATCH,
            "the peer wants a tunnel, you accept transport mode; first difference: mode",
            notify=Notify.NO_PROPOSAL_CHOSEN,
        )
    theirs = _offered_cpi(message) if loaded.child.ipcomp else 0
    return replace(
        agreed,
        mode=Mode.TRANSPORT if transport else Mode.TUNNEL,
        ipcomp_in=_cpi(entropy) if theirs else 0,
        ipcomp_out=theirs,
        tfc=_takes_tfc(message),
    )


def granted(agreed: Agreed) -> tuple[NotifyPayload, ...]:
    """What the responder's answer says of it."""
    return Wishes(agreed.mode == Mode.TRANSPORT, agreed.ipcomp_in).payloads


def _takes_tfc(message: Message) -> bool:
    return message.notify(Notify.ESP_TFC_PADDING_NOT_SUPPORTED) is None


def _offered_cpi(message: Message) -> int:
    """The peer's CPI with DEFLATE, 0 if it names none that can be."""
    for payload in message.all(NotifyPayload):
        if payload.type == Notify.IPCOMP_SUPPORTED and len(payload.data) == 3 and payload.data[2] == DEFLATE:
            cpi = int.from_bytes(payload.data[:2], "big")
            if CPI_MIN <= cpi <= CPI_MAX or cpi == DEFLATE:
                return cpi
    return 0


# -- behind a NAT -----------------------------------------------------------------------------------


def seen(message: Message, local: Selectors, remote: Selectors, state: SaState) -> Seen:
    """RFC 7296, section 2.23.1, at the responder: transport mode between addresses of which one is not what
    the other end sees."""
    asked = message.notify(Notify.USE_TRANSPORT_MODE) is not None
    return as_seen(local, remote, state) if asked else Seen(local, remote)
