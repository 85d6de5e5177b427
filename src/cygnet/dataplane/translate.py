"""Messages of the pair into the types that policy and ipsec speak. Raises Refused with a sentence."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from cygnet.dataplane import messages
from cygnet.policy.sa import (
    OFFLOADS,
    Direction,
    Mode,
    SaParameters,
    SaProtocol,
    TunnelHeader,
    UdpEncapsulation,
    Volume,
)
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.policy.spd import Action, Policy, PolicyRule


class Refused(Exception):
    """Why a command was not carried out; becomes `Done.error`."""


def address(data: bytes) -> IpAddress:
    if len(data) == 4:
        return IPv4Address(data)
    if len(data) == 16:
        return IPv6Address(data)
    raise Refused(f"an address of {len(data)} octets")


def traffic_selector(value: messages.Selector) -> TrafficSelector:
    size = {4: 4, 6: 16}.get(value.family)
    if size is None or len(value.first) != size or len(value.last) != size:
        raise Refused("a selector whose addresses do not fit its family")
    return TrafficSelector(
        value.family,
        value.protocol,
        int.from_bytes(value.first, "big"),
        int.from_bytes(value.last, "big"),
        value.port_first,
        value.port_last,
    )


def selector(value: TrafficSelector) -> messages.Selector:
    size = 4 if value.family == 4 else 16
    return messages.Selector(
        value.family,
        value.protocol,
        value.first.to_bytes(size, "big"),
        value.last.to_bytes(size, "big"),
        value.port_first,
        value.port_last,
    )


def policy(message: messages.InstallPolicy) -> Policy:
    try:
        rules = tuple(
            PolicyRule(
                Action(rule.action), traffic_selector(rule.local), traffic_selector(rule.remote), rule.flow
            )
            for rule in message.rules
        )
    except ValueError as error:
        raise Refused(str(error)) from error
    return Policy(
        message.policy,
        message.name,
        message.priority,
        rules,
        message.trap,
        address(message.local) if message.local else None,
        address(message.remote) if message.remote else None,
        message.mode,
        message.protocols,
        message.ipcomp,
        message.interface,
        message.if_id,
    )


def sa_parameters(message: messages.InstallSa) -> SaParameters:
    """What no engine can do is refused here; what one of them lacks, that one refuses."""
    if message.protocol not in (SaProtocol.ESP, SaProtocol.AH):
        raise Refused(f"IP protocol {message.protocol}: only ESP (50) and AH (51) are carried")
    if message.mode not in (Mode.TUNNEL, Mode.TRANSPORT):
        raise Refused(f"mode {message.mode}: only tunnel (1) and transport (2) are carried")
    if not 0 <= message.ipcomp <= 0xFFFF or not 0 <= message.mark <= 0xFFFF:
        raise Refused("a CPI or a mark of more than 16 bits")
    if message.hw_offload not in OFFLOADS:
        raise Refused(f"offload {message.hw_offload!r}")
    if message.direction not in (Direction.IN, Direction.OUT):
        raise Refused(f"direction {message.direction}")
    if not 256 <= message.spi <= 0xFFFFFFFF:
        raise Refused(f"SPI {message.spi:#x}: below 256 is reserved (RFC 4303, section 2.1)")
    local, remote = address(message.local), address(message.remote)
    if local.version != remote.version:
        raise Refused("tunnel ends of two address families")
    encapsulation = None
    if message.local_port or message.remote_port:
        encapsulation = UdpEncapsulation(message.local_port, message.remote_port)
        if message.protocol == SaProtocol.AH:
            raise Refused("AH cannot go through UDP: it protects the addresses that a NAT changes (RFC 3948)")
    return SaParameters(
        direction=Direction(message.direction),
        protocol=message.protocol,
        mode=message.mode,
        spi=message.spi,
        pair=message.pair,
        flow=message.flow,
        local=local,
        remote=remote,
        encapsulation=encapsulation,
        encryption=message.encryption,
        key_bits=message.key_bits,
        integrity=message.integrity,
        encryption_key=message.encryption_key,
        integrity_key=message.integrity_key,
        esn=message.esn,
        replay_window=message.replay_window,
        local_selectors=tuple(map(traffic_selector, message.local_selectors)),
        remote_selectors=tuple(map(traffic_selector, message.remote_selectors)),
        volume=Volume(message.soft_bytes, message.hard_bytes, message.soft_packets, message.hard_packets),
        hard_seconds=message.hard_seconds,
        header=TunnelHeader(
            message.copy_dscp_out,
            message.copy_dscp_in,
            message.copy_ecn,
            message.copy_df,
            message.set_df,
            message.fragment_before,
        ),
        notify_first_use=message.notify_first_use,
        ipcomp=message.ipcomp,
        tfc_padding=message.tfc_padding,
        dummy_interval=message.dummy_interval,
        bundle=message.bundle,
        manual=message.manual,
        original_local=address(message.original_local) if message.original_local else None,
        original_remote=address(message.original_remote) if message.original_remote else None,
        interface=message.interface,
        if_id=message.if_id,
        mark=message.mark,
        hw_offload=message.hw_offload,
    )
