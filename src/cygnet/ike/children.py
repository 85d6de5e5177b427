"""Child SAs, whichever version negotiates them: selectors, parameters for the data plane, sending on them.

The inbound SA is installed before the peer is told its SPI; the outbound one when the peer is known to
hold it. What each version offers and chooses, and how its keys come about, is in `v2.child` and
`v1.quick_mode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.integrity import integrity
from cygnet.crypto.kdf import ChildKeys, KeyLengths
from cygnet.crypto.proposals import Proposal
from cygnet.crypto.suites import suite
from cygnet.ike.changes import ChangeChild
from cygnet.ike.configuration import Connection
from cygnet.ike.connections import Loaded, LoadedChild
from cygnet.ike.effects import Installed, InstallFailed, TimedOut
from cygnet.ike.errors import (
    Difference,
    Failure,
    IkeError,
    LocalMisuse,
    PeerIncompatible,
    PeerMisbehaved,
    Reason,
)
from cygnet.ike.lifetimes import child_deadlines, child_volume
from cygnet.ike.proposals import Selected
from cygnet.ike.state import Around, ChildSa, Half, SaState, child_suite
from cygnet.ike.steps import Context, Steps, apply, complain, enqueue, install
from cygnet.ike.wanted import DeleteChild
from cygnet.policy.narrowing import narrow
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol, UdpEncapsulation, Volume
from cygnet.policy.selectors import IpAddress, TrafficSelector, format_selector, resolve_all
from cygnet.records import dataclass, replace
from cygnet.wire.numbers import Notify, Protocol

REDUNDANT: Final = Failure(Reason.REPLACED, "both ends made one at once")
REPLACED: Final = Failure(Reason.REPLACED, "rekeyed")

Selectors = tuple[TrafficSelector, ...]


def format_selectors(local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector]) -> str:
    return " ".join(map(format_selector, local)) + " === " + " ".join(map(format_selector, remote))


def flow_selectors(context: Context, loaded: LoadedChild, index: int) -> tuple[Selectors, Selectors]:
    """The flow's two sides with the tunnel's ends put in for `dynamic`."""
    flow, state = loaded.child.flows[index], context.state
    # Who must have an address of ours is behind none but that.
    nowhere = context.connection.pools and not state.leases
    local = resolve_all(flow.local, state.local_hosts)
    remote = resolve_all(flow.remote, () if nowhere else state.remote_hosts)
    # Virtual addresses come in two families, and no packet is of both.
    families = {one.family for one in local} & {one.family for one in remote}
    if not families:
        return local, remote
    return (
        tuple([one for one in local if one.family in families]),
        tuple([one for one in remote if one.family in families]),
    )


@dataclass(frozen=True, slots=True)
class Agreed:
    """What both ends said yes to. `local` is our side.

    `ipcomp_in` is our CPI, `ipcomp_out` the peer's, 0 without compression; `tfc`: the peer takes padding;
    `original_local`, `original_remote`: as in `policy.sa.SaParameters`.
    """

    selected: Selected
    local: Selectors
    remote: Selectors
    mode: int = Mode.TUNNEL
    ipcomp_in: int = 0
    ipcomp_out: int = 0
    tfc: bool = True
    ah: Selected | None = None
    """A bundle that one proposal offers: what goes around `selected`."""
    original_local: IpAddress | None = None
    original_remote: IpAddress | None = None


def to_given_addresses(context: Context, loaded: LoadedChild, index: int, agreed: Agreed) -> Agreed:
    """An answer to what we offered before we knew our addresses, cut to them. Raises `PeerMisbehaved`."""
    local, remote = flow_selectors(context, loaded, index)
    narrowed = narrow(agreed.local, agreed.remote, local, remote)
    if narrowed is None:
        raise PeerMisbehaved(
            Reason.SELECTOR_MISMATCH,
            "the peer's traffic selectors do not hold the address that it gave us",
            notify=Notify.TS_UNACCEPTABLE,
            difference=Difference(
                format_selectors(local, remote), format_selectors(agreed.local, agreed.remote), "selectors"
            ),
        )
    return replace(agreed, local=narrowed.initiator, remote=narrowed.responder)


def through_nat(proposals: Sequence[Proposal], state: SaState) -> tuple[Proposal, ...]:
    """Those that can pass between the two ends. Raises `PeerIncompatible` where that leaves none."""
    if not (state.nat_local or state.nat_remote):
        return tuple(proposals)
    left = tuple([proposal for proposal in proposals if proposal.protocol != Protocol.AH])
    if not left:
        raise PeerIncompatible(
            Reason.MODE_MISMATCH,
            "there is a NAT on the way, and AH protects the addresses that it changes: use ESP",
            notify=Notify.NO_PROPOSAL_CHOSEN,
        )
    return left


def key_lengths(selected: Selected) -> KeyLengths:
    """Of the keys that one SA of the suite takes. Raises crypto's UnsupportedAlgorithm."""
    if selected.protocol == Protocol.AH:
        return KeyLengths(0, integrity(selected.integrity).key_length)
    ciphers = suite(selected.encryption, selected.key_bits, selected.integrity)
    return KeyLengths(ciphers.encryption_key_length, ciphers.integrity_key_length)


def check_spi(selected: Selected) -> int:
    """The peer's SPI. 1 to 255 are reserved, 0 is none (RFC 4303, section 2.1)."""
    spi = int.from_bytes(selected.spi, "big")
    if len(selected.spi) != 4 or spi < 256:
        raise PeerMisbehaved(
            Reason.PEER_MISBEHAVED, f"the peer's SPI is {spi:#x}", notify=Notify.INVALID_SYNTAX
        )
    return spi


# -- making -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """`around`: both directions of a bundle's AH, which are installed first."""

    child: ChildSa
    inbound: SaParameters
    outbound: SaParameters
    around: tuple[SaParameters, ...] = ()


def make_pair(
    context: Context,
    peer: AuthenticatedPeer,
    loaded: LoadedChild,
    index: int,
    agreed: Agreed,
    *,
    pair: int,
    spi_in: int,
    policy: tuple[int, int],
    keys: ChildKeys,
    initiator: bool,
    replaces: int,
    notify_first_use: bool,
    half: Half | None = None,
) -> Pair:
    """Both SAs of a pair. It takes the authenticated peer: there is no Child SA without one.

    `policy`: the numbers of its policy and flow; `initiator`: we began the exchange that makes it;
    `notify_first_use`: its first packet says that the peer holds it; `half`: the AH that goes around it.
    """
    state = context.state
    if state.peer not in (None, peer):
        raise LocalMisuse(Reason.INTERNAL, "a Child SA is its own peer's")
    selected, child, path = agreed.selected, loaded.child, state.path
    ours = (keys.encryption_initiator, keys.integrity_initiator)
    theirs = (keys.encryption_responder, keys.integrity_responder)
    if not initiator:
        ours, theirs = theirs, ours
    spi_out = int.from_bytes(selected.spi, "big")
    now = context.now.monotonic
    rekey_at, expires_at = child_deadlines(child, now, context.entropy)
    is_ah = selected.protocol == Protocol.AH
    encapsulated = state.encapsulated and not is_ah and half is None
    encapsulation = None
    if encapsulated:
        encapsulation = UdpEncapsulation(context.options.port_nat_t, path.remote_port)
    inbound = SaParameters(
        direction=Direction.IN,
        protocol=SaProtocol.AH if is_ah else SaProtocol.ESP,
        mode=agreed.mode,
        spi=spi_in,
        pair=pair,
        flow=policy[1],
        local=path.local,
        remote=path.remote,
        encapsulation=encapsulation,
        encryption=selected.encryption,
        key_bits=selected.key_bits,
        integrity=selected.integrity,
        encryption_key=theirs[0],
        integrity_key=theirs[1],
        esn=selected.esn,
        replay_window=child.replay_window,
        local_selectors=agreed.local,
        remote_selectors=agreed.remote,
        volume=child_volume(child, context.entropy),
        hard_seconds=child.life_time,
        header=child.header,
        notify_first_use=notify_first_use,
        ipcomp=agreed.ipcomp_in,
        original_local=agreed.original_local,
        original_remote=agreed.original_remote,
        interface=child.interface,
        if_id=child.if_id,
        bundle=half.around.pair if half is not None else 0,
    )
    pads = agreed.tfc and agreed.mode == Mode.TUNNEL and not is_ah
    outbound = replace(
        inbound,
        direction=Direction.OUT,
        spi=spi_out,
        encryption_key=ours[0],
        integrity_key=ours[1],
        notify_first_use=False,
        ipcomp=agreed.ipcomp_out,
        original_local=None,
        original_remote=None,
        tfc_padding=child.tfc_padding if pads else 0,
        dummy_interval=0.0 if is_ah else child.dummy_interval,
        mark=child.mark,
        hw_offload=child.hw_offload,
    )
    record = ChildSa(
        pair=pair,
        name=child.name,
        flow_index=index,
        flow=policy[1],
        policy=policy[0],
        spi_in=spi_in,
        spi_out=spi_out,
        mode=agreed.mode,
        protocol=inbound.protocol,
        encapsulated=encapsulated,
        suite=child_suite(
            selected.encryption,
            selected.key_bits,
            selected.integrity,
            selected.key_exchange,
            selected.esn,
            selected.additional,
        ),
        local_selectors=agreed.local,
        remote_selectors=agreed.remote,
        installed=now,
        rekey_at=rekey_at,
        expires_at=expires_at,
        initiator=initiator,
        replaces=replaces,
        around=half.around if half is not None else None,
    )
    if half is None:
        return Pair(record, inbound, outbound)
    around = (
        _outer(inbound, half, half.around.spi_in, half.key_in),
        _outer(outbound, half, half.around.spi_out, half.key_out),
    )
    return Pair(record, inbound, outbound, around)


def make_half(selected: Selected, spi_in: int, pair: int, keys: tuple[bytes, bytes]) -> Half:
    """The AH of a bundle; `keys`: of what comes in and of what goes out. Raises `PeerMisbehaved`."""
    suite = child_suite(0, 0, selected.integrity, selected.key_exchange, selected.esn)
    around = Around(pair, spi_in, check_spi(selected), suite)
    return Half(around, selected.proposal, *keys)


def _outer(inner: SaParameters, half: Half, spi: int, key: bytes) -> SaParameters:
    """AH around this ESP: the same ends, no mode of its own (the sealed packet has its outer header), and
    what wears out is counted inside."""
    return replace(
        inner,
        protocol=SaProtocol.AH,
        mode=Mode.TRANSPORT,
        spi=spi,
        pair=half.around.pair,
        bundle=inner.pair,
        encryption=0,
        key_bits=0,
        encryption_key=b"",
        integrity=half.around.suite.integrity,
        integrity_key=key,
        esn=half.around.suite.esn,
        volume=Volume(),
        notify_first_use=False,
        ipcomp=0,
        tfc_padding=0,
        dummy_interval=0.0,
        original_local=None,
        original_remote=None,
    )


def installation_error(result: Installed | InstallFailed | TimedOut, name: str) -> IkeError | None:
    """None if it stands."""
    if isinstance(result, Installed):
        return None
    detail = result.error if isinstance(result, InstallFailed) else "the data plane does not answer"
    error = LocalMisuse(
        Reason.INSTALL_FAILED, f"the SA could not be installed: {detail}", notify=Notify.TEMPORARY_FAILURE
    )
    error.child = name
    return error


def activate(context: Context, pair: int) -> Steps[None]:
    """The peer holds the pair: send on it from now on (RFC 7296, section 2.8)."""
    child = context.state.child(pair)
    if child is None or child.outbound is None:
        return
    newer = [other for other in context.state.children if other.replaces == pair and not other.redundant]
    if any(other.outbound is None for other in newer):
        # It was rekeyed in its turn, and we send on that already: the data plane sends on what came last.
        return
    outbound = child.outbound
    told = child.announced or not (child.redundant or any(other.announced for other in newer))
    yield from apply(ChangeChild(replace(child, outbound=None, announced=told)))
    result = yield from install(outbound, held=False)
    error = installation_error(result, child.name)
    if error is not None and context.state.child(pair) is not None:
        yield from complain(error, child.name)
        yield from enqueue(DeleteChild(pair, error.failure))


def closed_early(name: str) -> PeerIncompatible:
    """C21: the peer's Delete came before our half was installed."""
    error = PeerIncompatible(Reason.PEER_CLOSED, "the peer closed it while it was being installed")
    error.child = name
    return error


def connection_children(context: Context, connection: Connection) -> Loaded:
    """The connection with its numbers. Raises `LocalMisuse` when it was unloaded meanwhile."""
    loaded = context.connections.get(connection.name)
    if loaded is None:
        raise LocalMisuse(
            Reason.NO_SUCH_OBJECT,
            f"connection {connection.name} was unloaded",
            notify=Notify.TEMPORARY_FAILURE,
        )
    return loaded
