"""Watches a link: every frame, sorted by what an eavesdropper can see of it.

What the outer link may show is IKE, ESP, AH and neighbour discovery. A frame that carries an address
of a protected network in its outermost IP header went in clear.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from cygnet.lab.namespaces import Namespace

ETH_P_ALL, PACKET_OUTGOING = 3, 4
KEPT_IN_CLEAR = 50
FRAME = 1 << 17


@dataclass(slots=True)
class Seen:
    """Counts of frames by kind: `esp`, `ah`, `ike`, `keepalive`, `clear`, `other`; some clear ones."""

    frames: Counter[str] = field(default_factory=Counter)
    octets: int = 0
    clear: list[bytes] = field(default_factory=list)


class Capture:
    """Captures a link from construction to `stop`, at its `ends` (namespace and interface).

    At one end all that passes is seen. At two, what each of them sends: a kernel that does ESP shows what it
    has opened on the interface that it came by, where no eavesdropper could have seen it.

    `protected`: networks that must not appear in an outermost header. `markers`: octets that must
    not appear anywhere in a frame. `pcap`: also write all frames there. `seen` grows meanwhile.
    """

    def __init__(
        self,
        *ends: tuple[Namespace, str],
        protected: Sequence[str] = (),
        markers: Sequence[bytes] = (),
        pcap: Path | None = None,
    ) -> None:
        self._protected = [ip_network(network) for network in protected]
        self._markers = tuple(markers)
        self.seen = Seen()
        self._file = pcap.open("wb") if pcap else None
        if self._file:
            self._file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, FRAME, 1))
        self._sockets = [space.inside(partial(_packet_socket, name)) for space, name in ends]
        self._sent_only = len(ends) > 1
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> Seen:
        """End the capture, after everything already queued was read; again, nothing more happens."""
        if self._wake.fileno() < 0:
            return self.seen
        self._wake.close()
        self._thread.join()
        for watched in self._sockets:
            watched.close()
        self._woken.close()
        if self._file:
            self._file.close()
        return self.seen

    def _watch(self) -> None:
        stopping = False
        while True:
            ready, _, _ = select.select(
                self._sockets if stopping else [*self._sockets, self._woken], [], [], 0 if stopping else None
            )
            if stopping and not ready:
                return
            for watched in ready:
                if watched is self._woken:
                    stopping = True
                    continue
                try:
                    frame, (_, _, kind, *_) = watched.recvfrom(FRAME)
                except OSError:
                    return  # the link is gone
                if kind == PACKET_OUTGOING or not self._sent_only:
                    self._take(frame)

    def _take(self, frame: bytes) -> None:
        kind = classify(frame, self._protected, self._markers)
        self.seen.frames[kind] += 1
        self.seen.octets += len(frame)
        if kind == "clear" and len(self.seen.clear) < KEPT_IN_CLEAR:
            self.seen.clear.append(frame)
        if self._file:
            self._file.write(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame)


def _packet_socket(interface: str) -> socket.socket:
    watched = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    watched.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    watched.bind((interface, ETH_P_ALL))
    return watched


def classify(
    frame: bytes, protected: Sequence[IPv4Network | IPv6Network], markers: Sequence[bytes] = ()
) -> str:
    """What an Ethernet frame shows: `esp`, `ah`, `ike`, `keepalive`, `clear` or `other`."""
    if any(marker in frame for marker in markers):
        return "clear"
    ethertype = frame[12:14]
    if ethertype == b"\x08\x00":
        source, destination, protocol = frame[26:30], frame[30:34], frame[23]
        payload = frame[14 + (frame[14] & 15) * 4 :]
    elif ethertype == b"\x86\xdd":
        source, destination, protocol = frame[22:38], frame[38:54], frame[20]
        payload = frame[54:]
    else:
        return "other"
    if any(
        address in network
        for address in (ip_address(source), ip_address(destination))
        for network in protected
        if network.version == address.version
    ):
        return "clear"
    if protocol in (50, 51):
        return "esp" if protocol == 50 else "ah"
    if protocol == 17 and len(payload) >= 8:
        ports = struct.unpack_from("!HH", payload)
        data = payload[8:]
        if 4500 in ports:
            if len(data) == 1:
                return "keepalive"
            return "ike" if data[:4] == bytes(4) else "esp"
        if 500 in ports:
            return "ike"
    return "other"
