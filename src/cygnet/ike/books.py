"""Who is who: every IKE SA under its SPI, its number, its children's pairs, its connection, its peer.

An endpoint is these books and the verbs that use them. Nothing here sends, decides or tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cygnet.auth.identity import Identity
from cygnet.crypto.entropy import Entropy
from cygnet.ike.configuration import Connection
from cygnet.ike.state import Phase

if TYPE_CHECKING:
    from cygnet.ike.sa import IkeSa

ZERO_SPI: Final = bytes(8)


class Books:
    """`spi_tag` are the first two octets of every IKE SPI of ours: by them the kernel can tell live SAs'
    messages from strangers'.
    """

    def __init__(self, entropy: Entropy) -> None:
        self.entropy = entropy
        self.spi_tag = entropy.octets(2)
        self.by_spi: dict[bytes, IkeSa] = {}
        self.by_number: dict[int, IkeSa] = {}
        self.by_pair: dict[int, IkeSa] = {}
        self.by_connection: dict[str, dict[int, IkeSa]] = {}
        # Those of them that come up: few, where a connection may have thousands.
        self._coming: dict[str, dict[int, IkeSa]] = {}
        # Nearly always one, so a tuple: it costs a tenth of a dict.
        self.nobodies: dict[int, None] = {}
        """IKE SAs, by number, whose peers prove nothing."""
        self.by_peer: dict[tuple[Identity, Identity], tuple[IkeSa, ...]] = {}
        self._child_spis: set[int] = set()
        self._last_number = 0
        self._last_pair = 0

    # -- numbers ---------------------------------------------------------------------------------

    def next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def obtain_child(self) -> tuple[int, int]:
        """(SPI, pair). SPIs are random, never 0 to 255, each one once."""
        while True:
            spi = int.from_bytes(self.entropy.octets(4), "big")
            if spi > 255 and spi not in self._child_spis:
                break
        self._child_spis.add(spi)
        self._last_pair += 1
        return spi, self._last_pair

    def obtain_pair(self, spi: int) -> int:
        """A pair whose SPI was chosen by a person: no other SA gets that one."""
        self._child_spis.add(spi)
        self._last_pair += 1
        return self._last_pair

    def release_child_spi(self, spi: int) -> None:
        self._child_spis.discard(spi)

    def obtain_spi(self) -> bytes:
        """An IKE SPI of ours. It is entered with the SA that it is for."""
        while True:
            spi = self.spi_tag + self.entropy.octets(6)
            if spi != ZERO_SPI and spi not in self.by_spi:
                return spi

    # -- entries ---------------------------------------------------------------------------------

    def enter(self, sa: IkeSa) -> None:
        """A new IKE SA. One that may take over from a parent is not the connection's yet."""
        self.by_number[sa.unique_id] = sa
        self.by_spi[sa.state.local_spi] = sa
        if not sa.parent:
            self.join_connection(sa)

    def strike(self, sa: IkeSa) -> None:
        """It is gone."""
        self.leave_peer(sa)
        self.leave_connection(sa)
        self.by_number.pop(sa.unique_id, None)
        if self.by_spi.get(sa.state.local_spi) is sa:
            del self.by_spi[sa.state.local_spi]

    def join_connection(self, sa: IkeSa) -> None:
        """From now on it is one of its connection's."""
        self.by_connection.setdefault(sa.connection.name, {})[sa.unique_id] = sa
        if sa.state.phase is Phase.CONNECTING:
            self._coming.setdefault(sa.connection.name, {})[sa.unique_id] = sa

    def has_come(self, sa: IkeSa) -> None:
        """It comes up no more: it is up, or gone."""
        coming = self._coming.get(sa.connection.name)
        if coming is not None:
            coming.pop(sa.unique_id, None)
            if not coming:
                del self._coming[sa.connection.name]

    def reassign(self, sa: IkeSa, connection: Connection) -> None:
        """Authentication decided for another connection than the address had suggested."""
        if connection.name != sa.connection.name:
            self.leave_connection(sa)
            sa.connection = connection
            self.join_connection(sa)
        sa.connection = connection

    def leave_connection(self, sa: IkeSa) -> None:
        """Its connection knows it no more."""
        self.has_come(sa)
        members = self.by_connection.get(sa.connection.name)
        if members is not None:
            members.pop(sa.unique_id, None)
            if not members:
                del self.by_connection[sa.connection.name]

    def join_peer(self, sa: IkeSa) -> None:
        """From now on it is one of its peer's."""
        state = sa.state
        if state.peer is not None and state.local_id is not None:
            key = (state.local_id, state.peer.user)
            self.by_peer[key] = (*self.by_peer.get(key, ()), sa)
            if state.peer.identity.is_nobody:
                self.nobodies[sa.unique_id] = None

    def leave_peer(self, sa: IkeSa) -> bool:
        """Whether it was one of the peer's IKE SAs: one that never came into use is not."""
        state = sa.state
        if state.peer is None or state.local_id is None:
            return False
        self.nobodies.pop(sa.unique_id, None)
        key = (state.local_id, state.peer.user)
        members = self.by_peer.get(key, ())
        left = tuple([other for other in members if other is not sa])
        if left:
            self.by_peer[key] = left
        else:
            self.by_peer.pop(key, None)
        return len(left) < len(members)

    def has_contact(self, local: Identity, remote: Identity, besides: IkeSa) -> bool:
        members = self.by_peer.get((local, remote), ())
        if besides.state.version == 1:
            # There it kills what is older than the exchange that says it, and nothing else. One that the peer
            # is not known to hold does not count, unless it came up just now; what has come over does.
            mine = besides.state
            return any(child.installed < mine.established for child in mine.children) or any(
                sa is not besides
                and (sa.confirmed or bool(sa.state.children) or sa.state.established >= mine.created)
                for sa in members
            )
        # One that the peer is just beginning counts: to say that there is none would kill it (section 2.4).
        coming = self._coming.get(besides.connection.name, {})
        return any(sa is not besides for sa in members) or any(
            sa is not besides and sa.state.phase is Phase.CONNECTING and not sa.state.original_initiator
            for sa in coming.values()
        )

    def is_calling(self, besides: IkeSa) -> bool:
        """Whether we are initiating to the same peer meanwhile."""
        return any(
            sa is not besides and sa.state.phase is Phase.CONNECTING and sa.state.original_initiator
            for sa in self._coming.get(besides.connection.name, {}).values()
        )

    def is_carried(self, local: Identity, remote: Identity, flow: int, besides: IkeSa) -> bool:
        """Whether packets of this flow go to the peer on a pair of another IKE SA."""
        return any(
            child.flow == flow and child.outbound is None
            for sa in self.by_peer.get((local, remote), ())
            for child in sa.state.children
            if sa is not besides
        )

    def others_of_peer(self, sa: IkeSa) -> list[IkeSa]:
        """The established IKE SAs between the same two identities."""
        state = sa.state
        if state.peer is None or state.local_id is None:
            return []
        members = self.by_peer.get((state.local_id, state.peer.user), ())
        return [other for other in members if other is not sa and other.state.phase is Phase.ESTABLISHED]
