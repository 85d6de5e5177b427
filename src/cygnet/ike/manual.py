"""SAs keyed by hand: SPIs and keys from the configuration, nobody to negotiate with (RFC 4301, 4.5.1).

They stand from the moment their connection is loaded until it is unloaded or changed. Nothing rekeys them,
and after a restart their numbers begin anew: so anti-replay is off unless it is asked for (RFC 4303, section
3.3.3), and ciphers whose IV must not come twice are refused (`config`, and once more the data plane).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cygnet.crypto.integrity import integrity
from cygnet.crypto.proposals import Proposal
from cygnet.crypto.suites import suite
from cygnet.ike.configuration import Manual
from cygnet.ike.connections import Loaded, LoadedChild, single_address
from cygnet.ike.effects import InstallFailed, InstallSa, RemoveSa
from cygnet.ike.events import Noted
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.ike.world import Path
from cygnet.policy.sa import Direction, SaParameters, SaProtocol
from cygnet.policy.selectors import resolve_all
from cygnet.records import dataclass, replace
from cygnet.wire.numbers import Protocol, TransformType

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class ManualPair:
    """What was installed for a child of this connection."""

    connection: str
    child: LoadedChild
    inbound: SaParameters
    outbound: SaParameters


class ManualSas:
    __slots__ = ("_failed", "_gateway", "_pairs", "_since", "_waiting")

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._pairs: dict[int, ManualPair] = {}
        """By policy."""
        self._waiting: dict[int, ManualPair] = {}
        """By the number of the question to the data plane."""
        self._failed: set[int] = set()
        """Pairs that the data plane did not take."""
        self._since: dict[int, float] = {}
        """When pairs were installed."""

    def views(self) -> tuple[IkeSaView, ...]:
        """As if each connection had an IKE SA that carries them: state MANUAL, version and numbers 0."""
        children: dict[str, list[ChildSaView]] = {}
        ends: dict[str, SaParameters] = {}
        for pair in self._pairs.values():
            children.setdefault(pair.connection, []).append(self._view(pair))
            ends[pair.connection] = pair.inbound
        return tuple(
            [_carrier(name, ends[name], tuple(carried)) for name, carried in sorted(children.items())]
        )

    def _view(self, pair: ManualPair) -> ChildSaView:
        sa = pair.inbound
        waits = any(one is pair for one in self._waiting.values())
        return ChildSaView(
            name=pair.child.child.name,
            rule=pair.child.child.flows[0].rule,
            pair=sa.pair,
            flow=sa.flow,
            state="FAILED" if sa.pair in self._failed else "INSTALLING" if waits else "INSTALLED",
            mode=sa.mode,
            protocol=sa.protocol,
            encapsulated=False,
            spi_in=sa.spi,
            spi_out=pair.outbound.spi,
            encryption=sa.encryption,
            key_bits=sa.key_bits,
            integrity=sa.integrity,
            key_exchange=0,
            esn=False,
            local_selectors=sa.local_selectors,
            remote_selectors=sa.remote_selectors,
            installed=self._since.get(sa.pair, 0.0),
            rekey_at=0.0,
            expires_at=0.0,
        )

    def load(self, loaded: Loaded) -> None:
        """What has not changed is left alone; the policies are in force already."""
        wanted = {child.policy: child for child in loaded.children if child.child.manual is not None}
        for policy, pair in tuple(self._pairs.items()):
            if pair.connection == loaded.connection.name and wanted.get(policy) != pair.child:
                self._remove(policy)
        for policy, child in wanted.items():
            manual = child.child.manual
            if policy not in self._pairs and manual is not None:
                made = self._pairs[policy] = self._made(loaded, child, manual)
                self._install(made)

    def unload(self, loaded: Loaded) -> None:
        for child in loaded.children:
            if child.policy in self._pairs:
                self._remove(child.policy)

    def install_again(self) -> None:
        """The data plane was restarted and knows none of them."""
        for pair in self._pairs.values():
            self._install(pair)

    def answered(self, ask_id: int, result: object) -> None:
        """The data plane's answer to one of our installations."""
        pair = self._waiting.pop(ask_id, None)
        if pair is not None and isinstance(result, InstallFailed):
            self._failed.add(pair.inbound.pair)
            text = f"the manual SA of {pair.child.child.name} could not be installed: {result.error}"
            self._gateway.event(Noted("manual-sa-failed", text, pair.connection))

    def _install(self, pair: ManualPair) -> None:
        self._failed.discard(pair.inbound.pair)
        self._since[pair.inbound.pair] = self._gateway.now.monotonic
        for parameters in (pair.inbound, pair.outbound):
            ask_id = self._gateway.next_ask()
            self._waiting[ask_id] = pair
            self._gateway.emit(InstallSa(ask_id, parameters))

    def _remove(self, policy: int) -> None:
        pair = self._pairs.pop(policy)
        self._failed.discard(pair.inbound.pair)
        self._since.pop(pair.inbound.pair, None)
        for sa in (pair.outbound, pair.inbound):
            self._gateway.emit(RemoveSa(sa.direction, sa.spi, sa.remote, sa.pair, 0.0))
        self._gateway.release_child_spi(pair.inbound.spi)

    def _made(self, loaded: Loaded, child: LoadedChild, manual: Manual) -> ManualPair:
        connection, configured = loaded.connection, child.child
        local, remote = single_address(connection.local_addrs), single_address(connection.remote_addrs)
        if local is None or remote is None:
            raise ValueError(f"{connection.name}: a manual SA between ends that are not known")
        flow = configured.flows[0]
        (proposal,) = configured.proposals
        pair = self._gateway.obtain_pair(manual.spi_in)
        is_ah = proposal.protocol == Protocol.AH
        cipher = _first(proposal, TransformType.ENCR)
        inbound = SaParameters(
            direction=Direction.IN,
            protocol=SaProtocol.AH if is_ah else SaProtocol.ESP,
            mode=configured.mode,
            spi=manual.spi_in,
            pair=pair,
            flow=child.flows[0],
            local=local,
            remote=remote,
            encapsulation=None,
            encryption=cipher[0],
            key_bits=cipher[1],
            integrity=_first(proposal, TransformType.INTEG)[0],
            encryption_key=manual.encryption_key_in,
            integrity_key=manual.integrity_key_in,
            esn=False,
            replay_window=manual.replay_window,
            local_selectors=resolve_all(flow.local, (local,)),
            remote_selectors=resolve_all(flow.remote, (remote,)),
            header=configured.header,
            manual=True,
            interface=configured.interface,
            if_id=configured.if_id,
        )
        outbound = replace(
            inbound,
            direction=Direction.OUT,
            spi=manual.spi_out,
            encryption_key=manual.encryption_key_out,
            integrity_key=manual.integrity_key_out,
            tfc_padding=configured.tfc_padding,
            dummy_interval=configured.dummy_interval,
            mark=configured.mark,
            hw_offload=configured.hw_offload,
        )
        return ManualPair(connection.name, child, inbound, outbound)


def _carrier(name: str, ends: SaParameters, children: tuple[ChildSaView, ...]) -> IkeSaView:
    return IkeSaView(
        unique_id=0,
        connection=name,
        version=0,
        state="MANUAL",
        initiator=False,
        initiator_spi=0,
        responder_spi=0,
        path=Path(ends.local, 0, ends.remote, 0),
        local_id=None,
        remote_id=None,
        nat_local=False,
        nat_remote=False,
        nat_fake=False,
        encryption=0,
        key_bits=0,
        integrity=0,
        prf=0,
        key_exchange=0,
        established=0.0,
        rekey_at=0.0,
        expires_at=0.0,
        children=children,
    )


def _first(proposal: Proposal, kind: int) -> tuple[int, int]:
    """Number and key bits of the proposal's transform of this type; zeros: none."""
    for transform in proposal.of_type(kind):
        return transform.id, transform.key_bits
    return 0, 0


def manual_key_lengths(proposal: Proposal) -> tuple[int, int]:
    """Octets of the cipher's and the integrity algorithm's key; -1: this suite is never keyed by hand."""
    mac = _first(proposal, TransformType.INTEG)[0]
    if proposal.protocol == Protocol.AH:
        algorithm = integrity(mac)
        return (-1, -1) if algorithm.iv_length else (0, algorithm.key_length)
    ciphers = suite(*_first(proposal, TransformType.ENCR), mac)
    if ciphers.counter_mode:
        return -1, -1
    return ciphers.encryption_key_length, ciphers.integrity_key_length
