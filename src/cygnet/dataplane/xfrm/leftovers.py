"""When the engine changes: what the former kind left goes as soon as the new kind's policy is in force.

Until then both protect: what is sealed by nobody is dropped. Afterwards the kernel's policies would take what
is meant for the TUN, and the guard would drop what the kernel is about to seal.
"""

from __future__ import annotations

import contextlib

from cygnet.dataplane.guard import TABLE, defragmenting
from cygnet.dataplane.nftables import KernelError, nft
from cygnet.dataplane.xfrm import codec, states
from cygnet.dataplane.xfrm.netlink import XfrmSocket
from cygnet.dataplane.xfrm.policies import is_ours

_GUARD = f"inet {TABLE}"


def remove_kernels() -> int:
    """Policies and SAs of a former kernel engine; how many there were. Raises KernelError."""
    try:
        sock = XfrmSocket()
    except OSError:
        return 0  # a kernel without XFRM has none
    try:
        with contextlib.closing(sock):
            seen = [codec.policy_from(body) for _, body in sock.dump(codec.GET_POLICY, b"")]
            changes = [codec.policy_removal(one.key) for one in seen if is_ours(one)]
            sas = [codec.sa_from(body) for _, body in sock.dump(codec.GET_SA, b"")]
            changes += [codec.sa_removal(one.key) for one in sas if states.adopted(one) is not None]
            sock.change(changes)
    except OSError as error:
        raise KernelError(f"policies of the kernel engine stay: {error.strerror}") from error
    return len(changes)


def remove_guard(*, defragment: bool) -> None:
    """The nftables table of a former userspace engine, if there is nftables at all; its part that puts
    fragments together may have to stay."""
    kept = defragmenting() if defragment else []
    with contextlib.suppress(KernelError, OSError):
        nft("\n".join([f"add table {_GUARD}", f"delete table {_GUARD}", *kept]) + "\n")
