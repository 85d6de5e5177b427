"""A conversation of EAP from its first packet to its last (RFC 3748, RFC 4137), as generators of packets.

    Server                                  Client
    [Request/Identity            -->
                                 <--  Response/Identity]
    Request/method               -->
                                 <--  Response/method, or Nak(others), once
    ...
    Success, or Failure          -->

`serve` yields octets to send (or questions), is sent the peer's octets, and returns `Finished`; `respond` is
sent the server's octets, yields our answers, and returns when the server says Success and the method agrees.
Beneath is a channel that loses and reorders nothing (IKE_AUTH, a TLS tunnel): what does not fit is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from cygnet.auth.ask import AuthQuestion
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
from cygnet.auth.eap.packet import Code, EapType, Packet, decode, name_of
from cygnet.auth.errors import Kind
from cygnet.crypto.entropy import Entropy
from cygnet.records import dataclass
from cygnet.wire.cursor import Malformed

MAX_ROUNDS: Final = 100
"""Requests of one conversation: a TLS handshake of 64 KiB in fragments of 1 KiB stays below."""
MAX_NAME: Final = 253
"""Octets of a user's name (RFC 4282, section 2.2)."""


@dataclass(frozen=True, slots=True)
class Finished:
    """`packet`: the Success to send, or that came. `method` is the type that authenticated."""

    packet: bytes
    identity: bytes
    method: int
    outcome: Outcome


Conversation = Generator[bytes | AuthQuestion, Any, Finished]
Relay = Callable[[bytes, Packet], Conversation]
"""Hands the whole conversation on, beginning with the response that named the user."""
Choose = Callable[[bytes], Sequence[ServerMaker] | Relay]
"""The methods for a user with this name, best first. Raises `EapFailed`."""


# -- server -------------------------------------------------------------------------------------


def serve(choose: Choose, entropy: Entropy, name: bytes = b"", *, ask_name: bool = True) -> Conversation:
    """Authenticate a client. `name`: who it is where it is not asked."""
    identifier = entropy.octets(1)[0]
    if ask_name:
        octets = yield Packet(Code.REQUEST, identifier, EapType.IDENTITY).encode()
        response = _response(octets, identifier)
        if response.type != EapType.IDENTITY:
            raise EapFailed(f"{name_of(response.type)} came where the user's name was due")
    else:
        response = Packet(Code.RESPONSE, identifier, EapType.IDENTITY, name)
    return (yield from serve_named(choose, entropy, response))


def serve_named(choose: Choose, entropy: Entropy, response: Packet) -> Conversation:
    """Authenticate a client that has said who it is, in `response`."""
    name = response.data
    if not 0 < len(name) <= MAX_NAME:
        raise EapFailed(f"a user's name of {len(name)} octets")
    chosen = choose(name)
    if callable(chosen):
        return (yield from chosen(name, response))
    return (yield from _methods(list(chosen), name, response.identifier, entropy))


def _methods(makers: list[ServerMaker], name: bytes, identifier: int, entropy: Entropy) -> Conversation:
    tried: set[int] = set()
    maker: ServerMaker | None = makers[0] if makers else None
    while maker is not None:
        tried.add(maker.type)
        running = maker.start(name, entropy)
        asked = yield from _until_request(running, None)
        if isinstance(asked, Outcome):
            raise EapFailed("a method that asks nothing")
        identifier = (identifier + 1) % 256
        octets = yield Packet(Code.REQUEST, identifier, maker.type, asked).encode()
        response = _response(octets, identifier)
        if response.type == EapType.NAK:
            maker = next((m for m in makers if m.type in response.data and m.type not in tried), None)
            if maker is None:
                raise _disagree(makers, response)
            continue
        outcome, identifier = yield from _run(running, maker.type, response)
        # The Success answers the last response (RFC 3748, section 4.2).
        success = Packet(Code.SUCCESS, identifier).encode()
        return Finished(success, name, maker.type, outcome)
    raise EapFailed("no EAP method is configured", Kind.EAP_METHOD_MISMATCH)


def _run(
    running: ServerMethod, method: int, response: Packet
) -> Generator[bytes | AuthQuestion, Any, tuple[Outcome, int]]:
    for _ in range(MAX_ROUNDS):
        if response.type != method:
            raise EapFailed(f"{name_of(response.type)} came in the middle of {name_of(method)}")
        asked = yield from _until_request(running, response)
        if isinstance(asked, Outcome):
            return asked, response.identifier
        identifier = (response.identifier + 1) % 256
        octets = yield Packet(Code.REQUEST, identifier, method, asked).encode()
        response = _response(octets, identifier)
    raise EapFailed(f"{name_of(method)} does not come to an end")


def _until_request(
    running: ServerMethod, value: Packet | None
) -> Generator[bytes | AuthQuestion, Any, bytes | Outcome]:
    """The method's next request, its questions answered on the way, or what it came to."""
    sent: Any = value
    while True:
        try:
            step = running.send(sent)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        except Malformed as error:
            raise EapFailed(f"the client's EAP cannot be read: {error}") from None
        if isinstance(step, bytes):
            return step
        sent = yield step


def _response(octets: bytes, identifier: int) -> Packet:
    packet = _decode(octets)
    if packet.code != Code.RESPONSE or packet.identifier != identifier:
        raise EapFailed(
            f"EAP code {packet.code}, identifier {packet.identifier}: response {identifier} was due"
        )
    return packet


def _disagree(makers: Sequence[ServerMaker], nak: Packet) -> EapFailed:
    ours = ", ".join(name_of(maker.type) for maker in makers)
    theirs = ", ".join(name_of(kind) for kind in nak.data[:16] if kind) or "none"
    return EapFailed(
        f"no common EAP method: the client takes {theirs}, we offer {ours}", Kind.EAP_METHOD_MISMATCH
    )


def failure_to(octets: bytes) -> bytes:
    """The Failure that ends a conversation whose last packet was this (RFC 3748, section 4.2)."""
    return Packet(Code.FAILURE, octets[1] if len(octets) > 1 else 0).encode()


def is_failure(octets: bytes) -> bool:
    """Whether this packet is a Failure."""
    return octets[:1] == bytes((Code.FAILURE,))


# -- client -------------------------------------------------------------------------------------


Client = Generator[Reply | Shown | None, bytes, Finished]
"""Yields what to send, `outcome` as a method says it; or what it is to be asked before going on, with
an empty packet."""


def respond(name: bytes, makers: Sequence[ClientMaker], entropy: Entropy) -> Client:
    """Let a server authenticate us as `name`. Primed with `next`; then the server's packets are sent in."""
    running: ClientMethod | None = None
    method = 0
    outcome: Outcome | None = None
    refusal = ""
    octets = yield None
    for _ in range(MAX_ROUNDS):
        packet = _decode(octets)
        if packet.code == Code.SUCCESS:
            if outcome is None:
                raise EapFailed("the gateway says success before the method has come to one")
            return Finished(octets, name, method, outcome)
        if packet.code == Code.FAILURE:
            if refusal:
                raise EapFailed(refusal, Kind.EAP_PASSWORD_WRONG)
            raise EapFailed("the gateway refuses us by EAP: our name, our password, or the method")
        if packet.code != Code.REQUEST:
            raise EapFailed(f"EAP code {packet.code} came where a request was due")
        if packet.type == EapType.NOTIFICATION:
            octets = yield Reply(Packet(Code.RESPONSE, packet.identifier, EapType.NOTIFICATION).encode())
            continue
        if running is None:
            if packet.type == EapType.IDENTITY:
                octets = yield Reply(
                    Packet(Code.RESPONSE, packet.identifier, EapType.IDENTITY, name).encode()
                )
                continue
            maker = next((m for m in makers if m.type == packet.type), None)
            if maker is None:
                wanted = bytes([m.type for m in makers]) or b"\0"
                octets = yield Reply(Packet(Code.RESPONSE, packet.identifier, EapType.NAK, wanted).encode())
                continue
            running, method = maker.start(entropy), maker.type
            next(running)
        elif packet.type != method:
            raise EapFailed(f"{name_of(packet.type)} came in the middle of {name_of(method)}")
        reply = yield from _ask(running, packet)
        outcome, refusal = reply.outcome, reply.refusal
        response = Packet(Code.RESPONSE, packet.identifier, method, reply.data).encode()
        octets = yield Reply(response, outcome)
    raise EapFailed("the gateway's EAP does not come to an end")


def _ask(running: ClientMethod, packet: Packet) -> Generator[Shown, bytes, Reply]:
    try:
        reply = running.send(packet)
        while isinstance(reply, Shown):
            yield reply
            reply = running.send(packet)
    except StopIteration:
        raise EapFailed("the gateway goes on after the method's end") from None
    except Malformed as error:
        raise EapFailed(f"the gateway's EAP cannot be read: {error}") from None
    if reply is None:
        raise EapFailed("a method without an answer")
    return reply


def _decode(octets: bytes) -> Packet:
    try:
        return decode(octets)
    except Malformed as error:
        raise EapFailed(f"an EAP packet that cannot be read: {error}") from None
