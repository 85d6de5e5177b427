"""Everything that needs privilege to open, opened once, in a fixed order, and inherited (design, section 6).

    UDP 500:   lane 0 (doubtful)  lane 1 (our IKE SAs)
    UDP 4500:  lane 0             lane 1                lane 2 (ESP)
    raw protocol 50 (IPv4, IPv6), raw protocol 51 (the same; they also send whole packets), TUN

Lanes 0 and 1 are the daemon's, the rest the data plane's. The sockets of a port share it by
SO_REUSEPORT, and a classic BPF program picks the lane: an optimisation, not a guarantee, because
receive GRO merges before the program runs. So every reader cuts aggregates by the control message,
and UDP_GRO is on for all sockets of a group or for none. Closing one socket of a group would
renumber the others: the supervisor keeps a copy of each for as long as it lives.

Every socket carries `MARK`; the routing rule of the tunnels skips packets so marked, or sealed
packets would be routed into the tunnel again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from cygnet.dataplane.tun import TunUnavailable, open_tun
from cygnet.dataplane.xfrm import sockets

MARK = 0x43790000
"""SO_MARK of everything Cygnet sends outside its tunnels ("Cy"): routes and guard let it by."""
IKE_PORT, NAT_PORT = 500, 4500
DEFAULT_TUN = "cygnet0"
RECEIVE_BUFFER = SEND_BUFFER = 8 << 20
"""Octets; a burst of 64 KB is charged about twice its size."""
ENGINES = ("auto", "kernel", "native", "portable")
LANE_DOUBTFUL, LANE_OURS, LANE_ESP = 0, 1, 2

_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_ATTACH_REUSEPORT_CBPF = 33, 32, 51
_UDP_GRO = 104
_IP_PKTINFO, _IP_RECVTOS, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 8, 13, 10, 3
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE = 23, 3
_IPV6_HDRINCL, _IPV6_RECVHOPOPTS, _IPV6_RECVRTHDR, _IPV6_RECVDSTOPTS = 36, 53, 56, 58
_ESP, _AH = 50, 51

# Classic BPF (linux/filter.h): load, jump, return.
_LD_LEN, _LD_W, _LD_H, _JEQ, _JGE, _RET = 0x80, 0x20, 0x28, 0x15, 0x35, 0x06


class DescriptorError(Exception):
    """What could not be opened and why, in a sentence for the operator."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`gso` and `tun_offload`: whether bursts may be used on UDP and on the TUN (they are still probed).
    `tun_mtu` 0: from the path. `raw` false: no plain ESP.
    `default_discard`: what no rule matches is dropped rather than left alone. `resolver`: who is told name
    servers (dataplane.resolver). `engine`: one of `ENGINES`, where `auto` is never the kernel: that is
    settled before anything is opened (engines.settle); `why`: for people."""

    tun: str = DEFAULT_TUN
    tun_mtu: int = 0
    gso: bool = True
    gro: bool = True
    tun_offload: bool = True
    raw: bool = True
    default_discard: bool = False
    resolver: str = "none"
    engine: str = "auto"
    why: str = ""


def options_from(environment: Mapping[str, str]) -> Options:
    """What an operator may switch without a configuration: CYGNET_GSO, CYGNET_GRO and CYGNET_TUN_OFFLOAD
    (`off`), CYGNET_TUN_MTU, CYGNET_ENGINE. Raises DescriptorError for other values."""
    chosen: dict[str, Any] = {"engine": environment.get("CYGNET_ENGINE", "auto")}
    if chosen["engine"] not in ENGINES:
        raise DescriptorError(f"CYGNET_ENGINE is {chosen['engine']!r}; it may be one of {', '.join(ENGINES)}")
    for name in ("gso", "gro", "tun_offload"):
        value = environment.get(f"CYGNET_{name.upper()}", "auto")
        if value not in ("auto", "off"):
            raise DescriptorError(f"CYGNET_{name.upper()} is {value!r}; it may be 'auto' or 'off'")
        chosen[name] = value == "auto"
    mtu = environment.get("CYGNET_TUN_MTU", "0")
    if not mtu.isascii() or not mtu.isdecimal() or not (mtu == "0" or 576 <= int(mtu) <= 65535):
        raise DescriptorError(f"CYGNET_TUN_MTU is {mtu!r}; it may be 0 (from the path) or 576 to 65535")
    return msgspec.structs.replace(Options(), **chosen, tun_mtu=int(mtu))


class Inherited(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data plane's one argument, as JSON: descriptors by number. -1: not there."""

    tun: int
    lanes4: tuple[int, ...]
    lanes6: tuple[int, ...]
    raw4: int
    raw6: int
    pair: int
    ports: tuple[int, int]
    """UDP ports of IKE, without and with the non-ESP marker."""
    options: Options
    wire4: int = -1
    wire6: int = -1
    """Raw sockets of AH, which take whole packets of any protocol."""


class Descriptors:
    """All of them, held open. `lanes` are the daemon's: (descriptor, non-ESP marker used)."""

    def __init__(
        self,
        tun: int,
        daemon_lanes: list[tuple[socket.socket, bool]],
        esp_lanes: list[socket.socket],
        raw: list[socket.socket],
        ports: tuple[int, int],
        options: Options,
        tag: int,
        wire: list[socket.socket] | None = None,
    ) -> None:
        self.tun = tun
        self.ports = ports
        self.options = options
        self.tag = tag
        """16 bits that the SPIs of our IKE SAs begin with, so that lane 1 gets them."""
        self._daemon_lanes = daemon_lanes
        self._esp_lanes = esp_lanes
        self._raw = raw
        self._wire = wire or []

    @property
    def lanes(self) -> tuple[tuple[int, bool], ...]:
        return tuple((sock.fileno(), marker) for sock, marker in self._daemon_lanes)

    def for_dataplane(self, pair: int) -> tuple[list[str], list[int]]:
        """Arguments of `python -m cygnet.dataplane`, and the descriptors to pass on."""

        def numbers(sockets: list[socket.socket], family: int) -> tuple[int, ...]:
            return tuple(s.fileno() for s in sockets if s.family == family)

        lanes4, lanes6 = numbers(self._esp_lanes, socket.AF_INET), numbers(self._esp_lanes, socket.AF_INET6)
        raw4, raw6 = numbers(self._raw, socket.AF_INET), numbers(self._raw, socket.AF_INET6)
        wire4, wire6 = numbers(self._wire, socket.AF_INET), numbers(self._wire, socket.AF_INET6)
        inherited = Inherited(
            self.tun,
            lanes4,
            lanes6,
            raw4[0] if raw4 else -1,
            raw6[0] if raw6 else -1,
            pair,
            self.ports,
            self.options,
            wire4[0] if wire4 else -1,
            wire6[0] if wire6 else -1,
        )
        fds = [*((self.tun,) if self.tun >= 0 else ()), *lanes4, *lanes6, *raw4, *raw6, *wire4, *wire6, pair]
        return [msgspec.json.encode(inherited).decode()], fds

    def close(self) -> None:
        if self.tun >= 0:
            os.close(self.tun)
        for sock in [*(s for s, _ in self._daemon_lanes), *self._esp_lanes, *self._raw, *self._wire]:
            sock.close()


def open_all(
    ike_port: int = IKE_PORT, nat_port: int = NAT_PORT, options: Options | None = None
) -> Descriptors:
    """Open everything; raises DescriptorError and leaves nothing open then."""
    options = options or options_from(os.environ)
    tag = secrets.randbelow(0xFFFF) + 1
    opened: list[socket.socket] = []
    in_kernel = options.engine == "kernel"
    if in_kernel:  # merged datagrams would reach its ESP as one
        options = msgspec.structs.replace(options, gro=False, raw=False)
    try:
        tun = open_tun(options.tun)
    except TunUnavailable as error:
        if not in_kernel:
            raise DescriptorError(str(error)) from error
        tun = -1  # only virtual addresses would stand on it
    try:
        daemon_lanes: list[tuple[socket.socket, bool]] = []
        esp_lanes: list[socket.socket] = []
        if in_kernel:
            sockets.prepare()
        for family in _families():
            for lane in range(2):
                sock = _udp(family, ike_port, options)
                opened.append(sock)
                if in_kernel:
                    sockets.exempt(sock)
                daemon_lanes.append((sock, False))
                if lane == 0:
                    _attach(sock, ike_program(tag))
            for lane in range(3):
                sock = _udp(family, nat_port, options)
                opened.append(sock)
                if in_kernel:
                    sockets.exempt(sock)
                    sockets.decapsulate(sock)
                if lane == LANE_ESP:
                    esp_lanes.append(sock)
                else:
                    daemon_lanes.append((sock, True))
                if lane == 0:
                    _attach(sock, nat_program(tag))
        raw: list[socket.socket] = []
        wire: list[socket.socket] = []
        if options.raw:
            for family in _families():
                sock = _raw(family)
                opened.append(sock)
                raw.append(sock)
            for family in _families():
                sock = _wire(family)
                opened.append(sock)
                wire.append(sock)
    except (DescriptorError, sockets.SocketRefused) as error:
        if tun >= 0:
            os.close(tun)
        for sock in opened:
            sock.close()
        if isinstance(error, sockets.SocketRefused):
            raise DescriptorError(str(error)) from error
        raise
    return Descriptors(tun, daemon_lanes, esp_lanes, raw, (ike_port, nat_port), options, tag, wire)


def _families() -> list[int]:
    found: list[int] = [socket.AF_INET]
    if socket.has_ipv6:
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                sock.bind(("::", 0))
            found.append(socket.AF_INET6)
        except OSError:
            pass  # a kernel or a namespace without IPv6: the IPv4 half works
    return found


def _udp(family: int, port: int, options: Options) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _common(sock, family)
        if options.gro:
            with suppress(OSError):  # before Linux 5.0: the same for the whole group
                sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise DescriptorError(
                f"UDP port {port} is taken by another program (another IKE daemon?)"
            ) from error
        raise DescriptorError(f"UDP port {port} cannot be opened: {error.strerror}") from error
    return sock


def _raw(family: int, protocol: int = _ESP) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    except PermissionError as error:
        raise DescriptorError("raw sockets for ESP and AH need CAP_NET_RAW: start as root") from error
    except OSError as error:
        raise DescriptorError(f"no raw socket for protocol {protocol}: {error.strerror}") from error
    _common(sock, family)
    if family == socket.AF_INET6:
        # What stood before ESP or AH: AH authenticates it, transport mode gives it back.
        for option in (_IPV6_RECVHOPOPTS, _IPV6_RECVRTHDR, _IPV6_RECVDSTOPTS):
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
    return sock


def _wire(family: int) -> socket.socket:
    """AH comes in, and whole packets go out, header and all."""
    sock = _raw(family, _AH)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    return sock


def _common(sock: socket.socket, family: int) -> None:
    """Mark, buffers, and what a receiver must be told: where to the packet came, with which traffic class."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    except PermissionError as error:
        sock.close()
        raise DescriptorError("sockets cannot be marked without CAP_NET_ADMIN: start as root") from error
    for force, plain, size in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:  # in a user namespace: as much as the system lets anyone have
            sock.setsockopt(socket.SOL_SOCKET, plain, size)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)


def _attach(sock: socket.socket, program: bytes) -> None:
    """Give the socket's group (it is the group's first) its program."""
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HL", len(program) // 8, ctypes.addressof(held))
    with suppress(OSError):  # without it the kernel spreads by hash, and readers hand over what is not theirs
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, header)


def _instruction(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, k)


def _tagged(offset: int, tag: int) -> bytes:
    """Lane 1 if either SPI of the IKE header at `offset` begins with our tag, else lane 0.
    A load past the end of the datagram ends the program with 0: runts are doubtful."""
    return b"".join(
        (
            _instruction(_LD_H, offset),
            _instruction(_JEQ, tag, 2, 0),
            _instruction(_LD_H, offset + 8),
            _instruction(_JEQ, tag, 0, 1),
            _instruction(_RET, LANE_OURS),
            _instruction(_RET, LANE_DOUBTFUL),
        )
    )


def ike_program(tag: int) -> bytes:
    return _tagged(0, tag)


def nat_program(tag: int) -> bytes:
    """Port 4500: four zero octets precede IKE (RFC 3948, section 2.2); a keepalive is shorter than a word."""
    return b"".join(
        (
            _instruction(_LD_LEN, 0),
            _instruction(_JGE, 8, 1, 0),
            _instruction(_RET, LANE_DOUBTFUL),
            _instruction(_LD_W, 0),
            _instruction(_JEQ, 0, 1, 0),
            _instruction(_RET, LANE_ESP),
            _tagged(4, tag),
        )
    )
