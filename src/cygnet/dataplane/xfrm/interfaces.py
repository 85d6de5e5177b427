"""XFRM interfaces: devices whose packets take the policies with the interface's number, and no others.

They are made before the first policy that names them and go after the last. Where the configuration gives
no number, one is made of the name, so that it is the same after a restart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b

from cygnet.dataplane.nftables import KernelError
from cygnet.dataplane.rtnetlink import RouteSocket
from cygnet.policy.spd import Policy


class Interfaces:
    def __init__(self) -> None:
        self._made: dict[str, int] = {}
        self._needed: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._made)

    @staticmethod
    def number(name: str) -> int:
        return int.from_bytes(blake2b(name.encode(), digest_size=4).digest()) or 1

    def numbered(self, policy: Policy) -> Policy:
        """A route-based policy has a number in the kernel, always."""
        if policy.interface and not policy.if_id:
            return replace(policy, if_id=self.number(policy.interface))
        return policy

    def need(self, policies: Iterable[Policy]) -> None:
        """Make those that these policies name. Raises KernelError."""
        self._needed = {one.interface: one.if_id for one in policies if one.interface}
        for name, number in self._needed.items():
            if self._made.get(name) != number:
                with _links() as sock:
                    sock.add_xfrm_interface(name, number)
                self._made[name] = number

    def drop_unneeded(self) -> None:
        """Remove those that no policy names any more. Raises KernelError."""
        for name in self._made.keys() - self._needed.keys():
            with _links() as sock:
                sock.delete_link(name)
            del self._made[name]


@contextlib.contextmanager
def _links() -> Iterator[RouteSocket]:
    try:
        with contextlib.closing(RouteSocket()) as sock:
            yield sock
    except OSError as error:
        raise KernelError(f"an XFRM interface was refused: {error.strerror}") from error
