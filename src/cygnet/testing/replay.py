"""A negotiation that was recorded: either end in any stage, again and again, and a peer that knows the keys.

Endpoints draw all randomness from their entropy, so the same seed and the same datagrams lead to the
same state and the same keys. That makes thousands of fresh endpoints a second, each of them to be
attacked from within: `seal` encrypts whatever it is given as the other end would.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.kdf import IkeKeys
from cygnet.crypto.suites import CipherSuite, suite
from cygnet.ike.state import IkeSuite
from cygnet.ike.world import Path
from cygnet.testing.gateway import Gateway, hash_of
from cygnet.testing.network import Network
from cygnet.testing.pairs import Pair
from cygnet.wire.message import HEADER_LENGTH, Header, encode_header
from cygnet.wire.numbers import Flags, PayloadType

_SK: Final = Struct("!BBH")
_IV_BEYOND: Final = 1 << 40
"""Our IVs start where no recorded one is: none is used twice with a key."""


class Recording:
    """Pair(seed) as it came up: `a` began. Stages are counted in datagrams that the end has received:

    responder: 0 nothing yet, 1 half open, 2 established; initiator: 0 asked, 1 keys, 2 established.
    """

    def __init__(self, seed: int = 1, **how: str) -> None:
        how.setdefault("connection", 'proposals = ["aes256gcm16-prfsha256-x25519"]')
        self.pair = pair = Pair(seed, **how)  # type: ignore[arg-type]
        self.seed = seed
        pair.a.initiate("peer", "net")
        pair.network.run_for(1.0)
        flights = [flight for flight in pair.network.trace if flight.is_ike]
        self.from_a = [flight.message for flight in flights if flight.source == pair.a.address]
        self.from_b = [flight.message for flight in flights if flight.source == pair.b.address]
        state = next(iter(pair.a.endpoint.by_number.values())).state
        if state.keys is None or state.suite is None or len(self.from_a) != 2:
            raise RuntimeError("the recorded negotiation did not come about in four messages")
        self.keys: IkeKeys = state.keys
        self.suite: IkeSuite = state.suite
        self.spis = state.spi_i, state.spi_r
        self._iv = _IV_BEYOND

    def responder(self, stage: int) -> Gateway:
        """A fresh `b` that has received the first `stage` datagrams of `a`."""
        return self._fresh(self.pair.b, self.from_a[:stage])

    def initiator(self, stage: int) -> Gateway:
        """A fresh `a` that has begun and received the first `stage` answers of `b`."""
        gateway = self._fresh(self.pair.a, [])
        gateway.initiate("peer", "net")
        for datagram in self.from_b[:stage]:
            self.deliver(gateway, datagram)
        return gateway

    def _fresh(self, model: Gateway, datagrams: list[bytes]) -> Gateway:
        network = Network(self.seed)
        gateway = Gateway(
            network,
            model.name,
            str(model.address),
            connections=model.endpoint.connections(),
            credentials=model.credentials,
            options=model.options,
            entropy=SeededEntropy(hash_of(self.seed, model.name)),
        )
        for datagram in datagrams:
            self.deliver(gateway, datagram)
        return gateway

    def path(self, gateway: Gateway) -> Path:
        """How a datagram of the other end comes in."""
        other = self.pair.b if gateway.name == "a" else self.pair.a
        return Path(gateway.address, 500, other.address, 500)

    def deliver(self, gateway: Gateway, datagram: bytes) -> None:
        """Let the datagram arrive, and what follows from it at once (installations) happen."""
        gateway.receive(datagram, self.path(gateway))
        gateway.network.run_for(0.0)

    def seal(
        self,
        gateway: Gateway,
        exchange: int,
        message_id: int,
        first: int,
        plaintext: bytes,
        *,
        response: bool,
    ) -> bytes:
        """An SK message to `gateway` with this plaintext, encrypted as its peer would."""
        by_initiator = gateway.name == "b"
        ciphers: CipherSuite = suite(self.suite.encryption, self.suite.key_bits, self.suite.integrity)
        key, mac = (self.keys.sk_ei, self.keys.sk_ai) if by_initiator else (self.keys.sk_er, self.keys.sk_ar)
        flags = (Flags.INITIATOR if by_initiator else 0) | (Flags.RESPONSE if response else 0)
        header = Header(*self.spis, 0, 2, 0, exchange, flags, message_id)
        missing = -(len(plaintext) + 1) % ciphers.block
        padded = plaintext + bytes(missing) + bytes((missing,))
        length = HEADER_LENGTH + 4 + ciphers.iv_length + len(padded) + ciphers.icv_length
        head = encode_header(header, PayloadType.SK, length) + _SK.pack(first, 0, length - HEADER_LENGTH)
        self._iv += 1
        iv = self._iv.to_bytes(ciphers.iv_length, "big")
        return head + iv + ciphers.protector(key, mac).seal(head, iv, padded)
