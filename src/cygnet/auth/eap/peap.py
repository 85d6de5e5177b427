"""PEAP version 0 ([MS-PEAP]; draft-kamath-pppext-peapv0): EAP inside of TLS, as Windows speaks it.

Inside, a packet of EAP goes without its header of 4 octets, but for the Extensions method (33), which ends
the conversation with a Result TLV from the server and the client's agreement:

    | 01 or 02 | id | 00 0b | 21 | 80 03 | 00 02 | 00 01 (success) or 00 02 |
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from struct import Struct
from typing import Any, Final

from cygnet.auth.ask import AuthQuestion
from cygnet.auth.eap import session
from cygnet.auth.eap.method import ClientMaker, ClientMethod, EapFailed, Reply, ServerMaker, ServerMethod
from cygnet.auth.eap.packet import Code, EapType, Packet, decode
from cygnet.auth.eap.session import Finished
from cygnet.auth.eap.tls_engine import Side
from cygnet.auth.eap.tunnel import ClientTunnel, ServerTunnel
from cygnet.auth.errors import Kind
from cygnet.crypto.entropy import Entropy
from cygnet.wire.cursor import Cursor, Malformed

_TLV: Final = Struct("!HH")
RESULT: Final = 3
MANDATORY: Final = 0x8000
SUCCESS, FAILURE = 1, 2
MAX_TLVS: Final = 16


def server(side: Side, inner: Sequence[ServerMaker]) -> ServerMaker:
    """`inner`: EAP's methods that are offered inside, best first."""

    def start(name: bytes, entropy: Entropy) -> ServerMethod:
        tunnel = ServerTunnel(side, EapType.PEAP)
        if (yield from tunnel.open()):
            raise EapFailed("PEAP: the client speaks first inside")
        finished = yield from _eap_inside(tunnel, inner, entropy)
        plain = yield from tunnel.exchange(result(Code.REQUEST, SUCCESS))
        if read_result(decode(plain)) != SUCCESS:
            raise EapFailed("PEAP: the client does not agree to success")
        return tunnel.outcome(finished)

    return ServerMaker(EapType.PEAP, start)


def _eap_inside(
    tunnel: ServerTunnel, inner: Sequence[ServerMaker], entropy: Entropy
) -> Generator[bytes | AuthQuestion, Any, Finished]:
    conversation = session.serve(lambda name: inner, entropy)
    value: Any = None
    while True:
        try:
            step = conversation.send(value)
        except StopIteration as end:
            finished: Finished = end.value
            return finished
        if not isinstance(step, bytes):
            value = yield step
            continue
        asked = decode(step)
        plain = yield from tunnel.exchange(bytes((asked.type,)) + asked.data)
        value = whole(Code.RESPONSE, asked.identifier, plain).encode()


def client(side: Side, name: bytes, inner: Sequence[ClientMaker]) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        packet = yield None
        tunnel = ClientTunnel(side, EapType.PEAP)
        plain = yield from tunnel.open(packet)
        running = session.respond(name, inner, entropy)
        next(running)
        identifier = 0
        while not plain:
            plain = yield from tunnel.say(b"")
        while not is_extension(plain):
            identifier += 1
            reply = _ask(running, whole(Code.REQUEST, identifier % 256, plain))
            plain = yield from tunnel.say(reply.data[4:])
        if read_result(decode(plain)) != SUCCESS:
            raise EapFailed("PEAP: the gateway refuses us inside the tunnel", Kind.EAP_PASSWORD_WRONG)
        # The method inside must agree, as it would to EAP's own Success.
        with contextlib.suppress(StopIteration):
            running.send(Packet(Code.SUCCESS, identifier % 256).encode())
        answer = result(Code.RESPONSE, SUCCESS, decode(plain).identifier)
        while True:
            yield from tunnel.say(answer, tunnel.outcome())

    return ClientMaker(EapType.PEAP, start)


def _ask(running: session.Client, packet: Packet) -> Reply:
    try:
        reply = running.send(packet.encode())
    except StopIteration:
        raise EapFailed("PEAP: success inside, and the gateway goes on") from None
    # No method inside a tunnel makes one of its own.
    return reply if isinstance(reply, Reply) else Reply(b"")


def whole(code: int, identifier: int, plain: bytes) -> Packet:
    """The packet whose header was left out. Raises `Malformed` for nothing at all."""
    cursor = Cursor(plain)
    return Packet(code, identifier, cursor.u8(), cursor.rest())


def is_extension(plain: bytes) -> bool:
    """Whether it is a whole packet of the Extensions method."""
    cursor = Cursor(plain)
    if cursor.left < 5:
        return False
    head = cursor.take(5)
    return (
        head[0] == Code.REQUEST
        and head[4] == EapType.EXTENSIONS
        and head[2:4] == len(plain).to_bytes(2, "big")
    )


def result(code: int, status: int, identifier: int = 1) -> bytes:
    data = _TLV.pack(MANDATORY | RESULT, 2) + status.to_bytes(2, "big")
    return Packet(code, identifier, EapType.EXTENSIONS, data).encode()


def read_result(packet: Packet) -> int:
    """The status of its Result TLV. Raises `Malformed`, and `EapFailed` for a TLV that must be understood."""
    if packet.type != EapType.EXTENSIONS:
        raise EapFailed("PEAP: a result was due")
    cursor = Cursor(packet.data)
    status = 0
    for _ in range(MAX_TLVS):
        if not cursor.left:
            break
        kind, length = cursor.unpack(_TLV)
        value = cursor.take(length)
        if kind & ~MANDATORY == RESULT:
            if length != 2:
                raise Malformed(f"a Result TLV of {length} octets")
            status = int.from_bytes(value, "big")
        elif kind & MANDATORY:
            raise EapFailed(f"PEAP: TLV {kind & 0x3FFF} must be understood, and is not")
    cursor.expect_end()
    return status
