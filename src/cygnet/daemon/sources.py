"""From which local address does one reach a peer? The route says it, asked by connecting a UDP socket.

The sockets carry the lanes' mark, so that the tunnels' own routes are passed over (with 0.0.0.0/0
protected, the answer would else be an address inside). Marks need privilege: `Sources` is made before
it is given up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct

from cygnet.daemon.lanes import address
from cygnet.policy.selectors import IpAddress

SO_MARK = 36
_DISCONNECT = struct.pack("=H14x", socket.AF_UNSPEC)
_libc = ctypes.CDLL(None, use_errno=True)


class Sources:
    """`mark` as the lanes have it; without the privilege to set it, the sockets go unmarked."""

    def __init__(self, mark: int) -> None:
        self._sockets: dict[int, socket.socket] = {}
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            with contextlib.suppress(OSError):  # a kernel without IPv6
                sock = socket.socket(family, socket.SOCK_DGRAM)
                self._sockets[version] = sock
                sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)

    def towards(self, remote: IpAddress) -> IpAddress | None:
        """None: there is no route."""
        sock = self._sockets.get(remote.version)
        if sock is None:
            return None
        # A connected socket keeps its source address; connecting to "unspecified" frees it (connect(2)).
        _libc.connect(sock.fileno(), _DISCONNECT, len(_DISCONNECT))
        try:
            sock.connect((str(remote), 9))
        except OSError:
            return None
        return address(sock.getsockname()[0])

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()


def mark_of(descriptor: int) -> int:
    """The mark of an inherited socket; 0 where there is none."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, SO_MARK)
