"""Fragments beside the kernel's policies: they are put together before any policy is asked.

The kernel asks its policies for each fragment on its own, and later ones show no ports: where a rule
names ports or ICMP types, what is forwarded in fragments would pass it by, in clear. The chain of the
userspace guard that makes the kernel put fragments together (dataplane.guard) is all that this engine
needs of nftables, and only as long as there is such a rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from cygnet.dataplane.guard import DEFRAGMENT, TABLE, defragmenting
from cygnet.dataplane.nftables import chain_names, nft


@dataclass(slots=True)
class Fragments:
    standing: bool = False

    def need(self) -> None:
        """Before the first policy that looks at ports. Beside a former engine's guard it changes nothing.
        Raises KernelError."""
        if not self.standing:
            nft("\n".join(defragmenting()) + "\n")
            self.standing = True

    def drop(self) -> None:
        """After the last one. Raises KernelError."""
        if self.standing:
            nft(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")
            self.standing = False

    def refresh(self) -> bool:
        """Put back what somebody else took away: True if it was missing. Raises KernelError."""
        if not self.standing or DEFRAGMENT in chain_names(TABLE):
            return False
        self.standing = False
        self.need()
        return True
