"""Messages of IKEv1 made by hand with the keys of a live phase 1: what a peer, or a stranger, could send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from cygnet.ike.events import Dropped
from cygnet.ike.state import Isakmp
from cygnet.ike.v1.protection import first_iv, hash_1, seal
from cygnet.ike.v1.sa import IkeV1Sa
from cygnet.testing import Gateway, Pair
from cygnet.wire.message import Header
from cygnet.wire.v1.message import encode, encode_payloads, encode_sealed, prefix_hash
from cygnet.wire.v1.numbers import Exchange
from cygnet.wire.v1.payloads import Payload

CONNECTION = 'proposals = ["aes128-sha256-x25519"]\ndpd_delay = "60s"\n'
CHILD = 'esp_proposals = ["aes128-sha256"]'
AGGRESSIVE_PSK = "i_dont_care_about_security_and_use_aggressive_mode_psk = true"


def pair(connection: str = CONNECTION, **how: str) -> Pair:
    return Pair(3, connection=connection, settings=CHILD, version=1, **how)  # type: ignore[arg-type]


def sa_of(gateway: Gateway) -> IkeV1Sa:
    """The newest phase 1 SA."""
    return [sa for sa in gateway.endpoint.by_number.values() if isinstance(sa, IkeV1Sa)][-1]


def isakmp_of(gateway: Gateway) -> Isakmp:
    isakmp = sa_of(gateway).state.isakmp
    assert isakmp is not None
    return isakmp


class Forger:
    """Sends to `victim` in the name of `peer`, with whatever protection it likes."""

    def __init__(self, both: Pair, victim: Gateway, peer: Gateway) -> None:
        self.both = both
        self.victim = victim
        self.peer = peer
        self.last_id = 0x01020304

    def header(self, exchange: int, message_id: int, spis: tuple[bytes, bytes] | None = None) -> Header:
        state = sa_of(self.victim).state
        cky_i, cky_r = spis or (state.spi_i, state.spi_r)
        return Header(cky_i, cky_r, 0, 1, 0, exchange, 0, message_id)

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def send(self, datagram: bytes) -> list[str]:
        """Deliver it; returns the names of what was dropped for it."""
        before = len(self.victim.events)
        self.both.network.send(self.peer.address, self.victim.address, (500, 500), datagram)
        self.both.network.run_for(0.5)
        return [str(e.drop) for e in self.victim.events[before:] if isinstance(e, Dropped)]

    def clear(
        self,
        payloads: Sequence[Payload],
        exchange: int = Exchange.INFORMATIONAL,
        spis: tuple[bytes, bytes] | None = None,
    ) -> list[str]:
        """In clear, as anybody could."""
        return self.send(encode(self.header(exchange, self.next_id(), spis), payloads))

    def sealed(
        self,
        payloads: Sequence[Payload],
        exchange: int = Exchange.INFORMATIONAL,
        *,
        hashed: bool = True,
        message_id: int = 0,
        flip: Iterable[int] = (),
    ) -> list[str]:
        """Encrypted with the live keys; `hashed`: behind the right HASH(1). `flip`: octets of the plaintext
        that are changed after it was made."""
        isakmp = isakmp_of(self.victim)
        message_id = message_id or self.next_id()
        first, octets = encode_payloads(payloads)
        if hashed:
            first, octets = prefix_hash(first, octets, hash_1(isakmp)(message_id, octets))
        broken = bytearray(octets)
        for at in flip:
            broken[at] ^= 0x01
        iv = first_iv(isakmp, isakmp.last_block, message_id)
        sealed, _ = seal(isakmp, iv, bytes(broken))
        return self.send(encode_sealed(self.header(exchange, message_id), first, sealed))


def picture(gateway: Gateway) -> object:
    """What a message may change."""
    return [
        (sa.state, sa.close_at, len(sa.queue or ()), len(sa.active), sa.unconfirmed, len(sa.background))
        for sa in gateway.endpoint.by_number.values()
        if isinstance(sa, IkeV1Sa)
    ]


STRANGER = ip_address("203.0.113.77")
