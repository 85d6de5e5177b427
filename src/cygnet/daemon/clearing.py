"""What a stopped Cygnet left in the kernel goes: only when an operator says so (`cygnet clear`)."""

from __future__ import annotations

from cygnet.daemon import alone
from cygnet.daemon.privileges import missing
from cygnet.dataplane.nftables import KernelError
from cygnet.dataplane.routes import Kernel
from cygnet.dataplane.xfrm.leftovers import remove_kernels


class NotCleared(Exception):
    """Why something may still be there, in a sentence."""


def clear() -> None:
    """Routes, guard, the kernel engine's policies and SAs, in this network namespace. Raises NotCleared."""
    lacking = missing((12, "CAP_NET_ADMIN"))
    if lacking:
        raise NotCleared(f"this needs the privilege {lacking[0]}: run it as root")
    running = alone.running()
    if running is not None:
        raise NotCleared(f"{alone.Taken(running)}; stop it first, or unload what it protects")
    try:
        Kernel().clear()
        remove_kernels()
    except KernelError as error:
        raise NotCleared(str(error)) from error
