"""What TTLS and PEAP have in common: a TLS handshake in which the server proves itself, then records."""

from __future__ import annotations

from collections.abc import Generator

from cygnet.auth.eap import tls_framing as framing
from cygnet.auth.eap.method import EapFailed, Lookup, Outcome, Reply, Shown
from cygnet.auth.eap.packet import Packet
from cygnet.auth.eap.session import Finished
from cygnet.auth.eap.tls import MAX_FLIGHTS, master_session_key
from cygnet.auth.eap.tls_engine import Engine, Side
from cygnet.records import dataclass

MAX_TURNS = 24
"""Messages inside a tunnel."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a server's tunnel needs: the users."""

    lookup: Lookup


class ServerTunnel:
    """The server's end: `open` shakes hands, `exchange` sends plain text and returns the client's."""

    def __init__(self, side: Side, method: int) -> None:
        self.engine = Engine(side)
        self.method = method
        self.pending = b""

    def open(self) -> Generator[bytes, Packet, bytes]:
        """Ends with what the client said first inside, empty if it waits for us."""
        first = yield framing.frame(b"", framing.START)
        received = yield from framing.take(first)
        for _ in range(MAX_FLIGHTS):
            flight = self.engine.handshake(received)
            if self.engine.done:
                # With TLS 1.3 the client's first words may stand behind its Finished.
                early = self.engine.read(b"")
                if early:
                    self.pending = flight
                    return early
                received = yield from framing.turn(flight)
                return self.engine.read(received)
            if not flight:
                raise EapFailed("TLS: the client's flight is incomplete")
            received = yield from framing.turn(flight)
        raise EapFailed("TLS does not come to an end")

    def exchange(self, plain: bytes) -> Generator[bytes, Packet, bytes]:
        flight, self.pending = self.pending + self.engine.write(plain), b""
        received = yield from framing.turn(flight)
        return self.engine.read(received)

    def outcome(self, finished: Finished) -> Outcome:
        """The tunnel's key, for the user inside. The server was proved by the tunnel itself."""
        return Outcome(
            msk=master_session_key(self.engine, self.method),
            mutual=True,
            identity=finished.identity,
            groups=finished.outcome.groups,
        )


class ClientTunnel:
    """The client's end. `open` ends when the server's certificate has passed and the handshake is done."""

    def __init__(self, side: Side, method: int) -> None:
        self.engine = Engine(side)
        self.method = method
        self.version = 0

    def open(self, packet: Packet) -> Generator[Reply | Shown, Packet, bytes]:
        """Ends with what the server said first inside, empty if it waits for us. Before anything of ours goes
        inside, the server's certificates are shown (`Shown`)."""
        framing.begins(packet)  # a server that offers a later version takes version 0 as well
        received = b""
        for _ in range(MAX_FLIGHTS):
            flight = self.engine.handshake(received)
            if self.engine.done:
                yield Shown(self.engine.chain)
                if not flight:
                    return self.engine.read(b"")
            last = yield from framing.fragments(flight, self.version)
            packet = yield Reply(last)
            received = yield from framing.gather(packet, self.version)
            if self.engine.done:
                return self.engine.read(received)
        raise EapFailed("TLS does not come to an end")

    def say(self, plain: bytes, outcome: Outcome | None = None) -> Generator[Reply, Packet, bytes]:
        """Send plain text (nothing: an empty packet), take the server's."""
        flight = self.engine.write(plain) if plain else b""
        last = yield from framing.fragments(flight, self.version)
        packet = yield Reply(last, outcome)
        received = yield from framing.gather(packet, self.version)
        return self.engine.read(received)

    def outcome(self) -> Outcome:
        return Outcome(msk=master_session_key(self.engine, self.method), mutual=True, chain=self.engine.chain)
