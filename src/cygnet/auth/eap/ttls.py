"""EAP-TTLS (RFC 5281; with TLS 1.3: RFC 9427): the server proves itself, then the client inside the tunnel:

    PAP        User-Name, User-Password                               (section 11.2.5)
    MSCHAPv2   User-Name, MS-CHAP-Challenge, MS-CHAP2-Response        (section 11.2.4)
    EAP        EAP-Message                                            (section 11.2.1)

What is inside are AVPs as Diameter has them:

    |                          AVP Code                         |
    |V M r r r r r r|             AVP Length                    |
    |  [Vendor-ID]  |  Data ...  padded to 4 octets
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from struct import Struct
from typing import Any, Final

from cygnet.auth.ask import AuthQuestion
from cygnet.auth.eap import mschapv2, session
from cygnet.auth.eap.gtc import check_password
from cygnet.auth.eap.method import (
    ClientMaker,
    ClientMethod,
    EapFailed,
    Outcome,
    Reply,
    ServerMaker,
    ServerMethod,
    wrong_password,
)
from cygnet.auth.eap.packet import Code, EapType, Packet, decode
from cygnet.auth.eap.session import Finished
from cygnet.auth.eap.tls_engine import Side
from cygnet.auth.eap.tunnel import ClientTunnel, Inside, ServerTunnel
from cygnet.auth.errors import Kind
from cygnet.auth.passwords import Stored
from cygnet.crypto.entropy import Entropy
from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed

_HEAD: Final = Struct("!II")
_VENDOR, _MANDATORY = 0x80, 0x40
MAX_AVPS: Final = 64
USER_NAME, USER_PASSWORD, EAP_MESSAGE = (1, 0), (2, 0), (79, 0)
MICROSOFT: Final = 311
CHAP_CHALLENGE, CHAP2_RESPONSE, CHAP2_SUCCESS = (11, MICROSOFT), (25, MICROSOFT), (26, MICROSOFT)
_KNOWN: Final = frozenset(
    (USER_NAME, USER_PASSWORD, EAP_MESSAGE, CHAP_CHALLENGE, CHAP2_RESPONSE, CHAP2_SUCCESS)
)


# -- AVPs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Avp:
    """`key` is (code, vendor), vendor 0 for the IETF's."""

    key: tuple[int, int]
    data: bytes
    mandatory: bool = True

    def encode(self) -> bytes:
        code, vendor = self.key
        head = 12 if vendor else 8
        length = head + len(self.data)
        flags = (_VENDOR if vendor else 0) | (_MANDATORY if self.mandatory else 0)
        octets = _HEAD.pack(code, flags << 24 | length)
        if vendor:
            octets += vendor.to_bytes(4, "big")
        return octets + self.data + bytes(-length % 4)


def decode_avps(plain: bytes) -> Iterator[Avp]:
    """Raises `Malformed` for a length that holds not even its header, or reaches too far (CVE-2026-25075)."""
    cursor = Cursor(plain)
    count = 0
    while cursor.left:
        count += 1
        if count > MAX_AVPS:
            raise Malformed(f"more than {MAX_AVPS} AVPs")
        code, word = cursor.unpack(_HEAD)
        flags, length = word >> 24, word & 0xFFFFFF
        head = 12 if flags & _VENDOR else 8
        if length < head:
            raise Malformed(f"an AVP of {length} octets, whose header has {head}")
        vendor = cursor.u32() if flags & _VENDOR else 0
        data = cursor.take(length - head)
        cursor.take(min(-length % 4, cursor.left))
        yield Avp((code, vendor), data, bool(flags & _MANDATORY))


def _table(plain: bytes) -> dict[tuple[int, int], bytes]:
    """AVPs by key, those of one key joined, as EAP-Message wants it."""
    table: dict[tuple[int, int], bytes] = {}
    for avp in decode_avps(plain):
        if avp.key not in _KNOWN and avp.mandatory:
            raise EapFailed(f"TTLS: an AVP {avp.key[0]} of vendor {avp.key[1]} that must be understood")
        table[avp.key] = table.get(avp.key, b"") + avp.data
    return table


# -- server -------------------------------------------------------------------------------------


def server(side: Side, inside: Inside, inner: Sequence[ServerMaker]) -> ServerMaker:
    """`inner`: EAP's methods that are offered inside, best first."""

    def start(name: bytes, entropy: Entropy) -> ServerMethod:
        tunnel = ServerTunnel(side, EapType.TTLS)
        plain = yield from tunnel.open()
        avps = _table(plain)
        if EAP_MESSAGE in avps or not avps:
            finished = yield from _eap_inside(tunnel, inner, avps.get(EAP_MESSAGE, b""), entropy)
        elif USER_NAME in avps and USER_PASSWORD in avps:
            user = avps[USER_NAME]
            stored = yield from check_password(
                inside.lookup, user, avps[USER_PASSWORD].rstrip(b"\0"), "PAP in eap-ttls"
            )
            finished = Finished(b"", user, EapType.TTLS, Outcome(groups=stored.groups))
        elif USER_NAME in avps and CHAP_CHALLENGE in avps and CHAP2_RESPONSE in avps:
            finished = yield from _mschapv2_inside(tunnel, inside, avps, entropy)
        else:
            raise EapFailed("TTLS: neither PAP, nor MSCHAPv2, nor EAP inside", Kind.EAP_METHOD_MISMATCH)
        return tunnel.outcome(finished)

    return ServerMaker(EapType.TTLS, start)


def _eap_inside(
    tunnel: ServerTunnel, inner: Sequence[ServerMaker], first: bytes, entropy: Entropy
) -> Generator[bytes | AuthQuestion, Any, Finished]:
    if first:
        packet = decode(first)
        if packet.code != Code.RESPONSE or packet.type != EapType.IDENTITY:
            raise EapFailed("TTLS: the user's name was due inside")
        conversation = session.serve_named(lambda name: inner, entropy, packet)
    else:
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
        plain = yield from tunnel.exchange(Avp(EAP_MESSAGE, step).encode())
        value = _table(plain).get(EAP_MESSAGE, b"")


def _mschapv2_inside(
    tunnel: ServerTunnel, inside: Inside, avps: dict[tuple[int, int], bytes], entropy: Entropy
) -> Generator[bytes | AuthQuestion, Any, Finished]:
    user = avps[USER_NAME]
    challenge, identifier = _challenge(tunnel)
    value = Cursor(avps[CHAP2_RESPONSE])
    if avps[CHAP_CHALLENGE] != challenge or value.u8() != identifier:
        raise EapFailed("TTLS: a challenge that the tunnel did not give")
    value.u8()
    stored = inside.lookup(user)
    nt = mschapv2.hash_of(stored, "MSCHAPv2 in eap-ttls") if stored is not None else entropy.octets(16)
    # Flags where EAP-MSCHAPv2 has them last; the 48 octets before are the same.
    proof, _ = mschapv2.check_response(nt, value.rest() + b"\0", challenge, user, user)
    if stored is None:
        raise wrong_password(user)
    success = Avp(CHAP2_SUCCESS, bytes((identifier,)) + proof).encode()
    if (yield from tunnel.exchange(success)):
        raise EapFailed("TTLS: more after MSCHAPv2's success")
    return Finished(b"", user, EapType.TTLS, Outcome(groups=stored.groups))


def _challenge(tunnel: ServerTunnel | ClientTunnel) -> tuple[bytes, int]:
    """Challenge and identifier that both sides know of the tunnel (section 11.1)."""
    octets = tunnel.engine.export(b"ttls challenge", mschapv2.CHALLENGE_LENGTH + 1)
    return octets[:-1], octets[-1]


# -- client -------------------------------------------------------------------------------------


def client_with_eap(side: Side, name: bytes, inner: Sequence[ClientMaker]) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        packet = yield None
        tunnel = ClientTunnel(side, EapType.TTLS)
        plain = yield from tunnel.open(packet)
        running = session.respond(name, inner, entropy)
        next(running)
        octets = _table(plain).get(EAP_MESSAGE, b"")
        response = Packet(Code.RESPONSE, 0, EapType.IDENTITY, name).encode()
        reply = Reply(response) if not octets else _ask(running, octets)
        while True:
            outcome = tunnel.outcome() if reply.outcome is not None else None
            plain = yield from tunnel.say(Avp(EAP_MESSAGE, reply.data).encode(), outcome)
            reply = _ask(running, _table(plain).get(EAP_MESSAGE, b""))

    return ClientMaker(EapType.TTLS, start)


def _ask(running: session.Client, octets: bytes) -> Reply:
    try:
        reply = running.send(octets)
    except StopIteration:
        raise EapFailed("TTLS: success inside, and the gateway goes on") from None
    # No method inside a tunnel makes one of its own.
    return reply if isinstance(reply, Reply) else Reply(b"")


def client_with_pap(side: Side, name: bytes, password: bytes) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        packet = yield None
        tunnel = ClientTunnel(side, EapType.TTLS)
        plain = yield from tunnel.open(packet)
        padded = password + bytes(-len(password) % 16)
        said = Avp(USER_NAME, name).encode() + Avp(USER_PASSWORD, padded).encode()
        while True:
            if plain:
                raise EapFailed("TTLS: the gateway wants something else than PAP inside")
            plain = yield from tunnel.say(said, tunnel.outcome())

    return ClientMaker(EapType.TTLS, start)


def client_with_mschapv2(side: Side, name: bytes, stored: Stored) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        nt = mschapv2.hash_of(stored, "MSCHAPv2 in eap-ttls")
        packet = yield None
        tunnel = ClientTunnel(side, EapType.TTLS)
        if (yield from tunnel.open(packet)):
            raise EapFailed("TTLS: the gateway wants something else than MSCHAPv2 inside")
        challenge, identifier = _challenge(tunnel)
        ours = entropy.octets(mschapv2.CHALLENGE_LENGTH)
        response = mschapv2.nt_response(nt, ours, challenge, name)
        value = bytes((identifier, 0)) + ours + bytes(8) + response
        said = (Avp(USER_NAME, name), Avp(CHAP_CHALLENGE, challenge), Avp(CHAP2_RESPONSE, value))
        plain = yield from tunnel.say(b"".join(avp.encode() for avp in said))
        proof = mschapv2.authenticator_response(nt, response, ours, challenge, name)
        mschapv2.check_proof(_table(plain).get(CHAP2_SUCCESS, b"")[1:], proof)
        while True:
            yield from tunnel.say(b"", tunnel.outcome())

    return ClientMaker(EapType.TTLS, start)
