"""EAP-TLS (RFC 5216; with TLS 1.3: RFC 9190): both sides prove themselves by certificate.

    Server                                     Client
    Start                                 -->
                                          <--  ClientHello
    ServerHello ... [Finished]            -->
                                          <--  [Certificate ...] Finished
    [Finished], with TLS 1.3 0x00         -->
                                          <--  (empty)

In TLS 1.3 the server's octet 0x00 says that nothing more follows: before it a Success means nothing.
"""

from __future__ import annotations

from typing import Final

from cygnet.auth.eap import tls_framing as framing
from cygnet.auth.eap.method import (
    ClientMaker,
    ClientMethod,
    EapFailed,
    Outcome,
    Reply,
    ServerMaker,
    ServerMethod,
    Shown,
)
from cygnet.auth.eap.packet import EapType, Packet
from cygnet.auth.eap.tls_engine import Engine, Side
from cygnet.crypto.entropy import Entropy

MAX_FLIGHTS: Final = 8
COMMITTED: Final = b"\0"
_OLD_LABELS: Final = {
    EapType.TLS: b"client EAP encryption",
    EapType.PEAP: b"client EAP encryption",
    EapType.TTLS: b"ttls keying material",
}


def master_session_key(engine: Engine, method: int) -> bytes:
    """The MSK (RFC 5216, section 2.3; RFC 5281, section 8; RFC 9190 and RFC 9427, section 2.1)."""
    if engine.is_13:
        return engine.export(b"EXPORTER_EAP_TLS_Key_Material", 128, bytes((method,)))[:64]
    return engine.export(_OLD_LABELS[method], 64)


def server(side: Side) -> ServerMaker:
    def start(name: bytes, entropy: Entropy) -> ServerMethod:
        engine = Engine(side)
        first: Packet = yield framing.frame(b"", framing.START)
        received = yield from framing.take(first)
        for _ in range(MAX_FLIGHTS):
            flight = engine.handshake(received)
            if engine.done and engine.is_13:
                flight += engine.write(COMMITTED)
            if not engine.done and not flight:
                raise EapFailed("TLS: the client's flight is incomplete")
            received = yield from framing.turn(flight)
            if engine.done:
                return Outcome(msk=master_session_key(engine, EapType.TLS), mutual=True, chain=engine.chain)
        raise EapFailed("TLS does not come to an end")

    return ServerMaker(EapType.TLS, start)


def client(side: Side) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        packet = yield None
        framing.begins(packet)
        engine = Engine(side)
        received = b""
        for _ in range(MAX_FLIGHTS):
            flight = b""
            if not engine.done:
                flight = engine.handshake(received)
                received = b""
                if engine.done:
                    yield Shown(engine.chain)
            outcome = None
            if engine.done and not flight:
                committed = engine.read(received)
                if not engine.is_13 or committed == COMMITTED:
                    msk = master_session_key(engine, EapType.TLS)
                    outcome = Outcome(msk=msk, mutual=True, chain=engine.chain)
            last = yield from framing.fragments(flight, 0)
            packet = yield Reply(last, outcome)
            received = yield from framing.gather(packet, 0)
        raise EapFailed("TLS does not come to an end")

    return ClientMaker(EapType.TLS, start)
