"""What the data plane may still do once it runs: network configuration and raw packets, nothing else.

Capabilities leave all sets including the bounding set, so that children (nft) cannot have more
either; no_new_privs closes the way back (capabilities(7), PR_SET_NO_NEW_PRIVS(2)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
KEPT = (CAP_NET_ADMIN, CAP_NET_RAW)
_LAST = 63
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_VERSION_3 = 0x20080522


def keep_only(kept: tuple[int, ...] = KEPT) -> None:
    """Raises OSError where the kernel refuses; a process without any of this loses nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST + 1):
        if capability in kept or not libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            continue
        if ctypes.get_errno() != errno.EPERM:  # EPERM: we never had the right to; EINVAL: no more of them
            break
    mask = sum(1 << capability for capability in kept) & _permitted()
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _permitted() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0
