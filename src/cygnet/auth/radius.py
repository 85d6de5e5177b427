"""RADIUS packets: what we ask, and whether an answer is the server's (RFCs 2865, 2866, 3579, 5176, 2548).

Packets are `pyrad`'s, which signs and verifies them; sockets are the daemon's. An answer to an Access-Request
must carry a Message-Authenticator (CVE-2024-3596, Blast-RADIUS), and every attribute must be as long as it
says before any of them is looked at. What does not verify is `Invalid`: dropped as if it had not come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from cygnet.auth.ask import RadiusAnswer
from cygnet.auth.eap.packet import Code
from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed

MISSING: Final = "RADIUS needs pyrad: pip install 'cygnet[radius]'"
MAX_PACKET: Final = 4096
MAX_ATTRIBUTES: Final = 250

ACCESS_REQUEST, ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE = 1, 2, 3, 11
ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE = 4, 5
DISCONNECT_REQUEST, DISCONNECT_ACK, DISCONNECT_NAK = 40, 41, 42
COA_REQUEST, COA_ACK, COA_NAK = 43, 44, 45


class Attribute:
    """IANA's numbers of the attributes that are used here."""

    USER_NAME = 1
    USER_PASSWORD = 2
    NAS_IP_ADDRESS = 4
    NAS_PORT = 5
    SERVICE_TYPE = 6
    FRAMED_IP_ADDRESS = 8
    FILTER_ID = 11
    REPLY_MESSAGE = 18
    STATE = 24
    CLASS = 25
    VENDOR = 26
    SESSION_TIMEOUT = 27
    CALLED_STATION_ID = 30
    CALLING_STATION_ID = 31
    NAS_IDENTIFIER = 32
    PROXY_STATE = 33
    ACCT_STATUS_TYPE = 40
    ACCT_INPUT_OCTETS = 42
    ACCT_OUTPUT_OCTETS = 43
    ACCT_SESSION_ID = 44
    ACCT_AUTHENTIC = 45
    ACCT_SESSION_TIME = 46
    ACCT_INPUT_PACKETS = 47
    ACCT_OUTPUT_PACKETS = 48
    ACCT_TERMINATE_CAUSE = 49
    ACCT_INPUT_GIGAWORDS = 52
    ACCT_OUTPUT_GIGAWORDS = 53
    EVENT_TIMESTAMP = 55
    NAS_PORT_TYPE = 61
    EAP_MESSAGE = 79
    MESSAGE_AUTHENTICATOR = 80
    ACCT_INTERIM_INTERVAL = 85
    NAS_PORT_ID = 87
    NAS_IPV6_ADDRESS = 95
    ERROR_CAUSE = 101
    FRAMED_IPV6_ADDRESS = 168


MICROSOFT: Final = 311
MPPE_SEND_KEY, MPPE_RECV_KEY = 16, 17
NAMES: Final = {
    Attribute.USER_NAME: "User-Name",
    Attribute.FRAMED_IP_ADDRESS: "Framed-IP-Address",
    Attribute.FILTER_ID: "Filter-Id",
    Attribute.CLASS: "Class",
    Attribute.SESSION_TIMEOUT: "Session-Timeout",
    Attribute.ACCT_INTERIM_INTERVAL: "Acct-Interim-Interval",
    Attribute.ACCT_SESSION_ID: "Acct-Session-Id",
    Attribute.CALLING_STATION_ID: "Calling-Station-Id",
    Attribute.FRAMED_IPV6_ADDRESS: "Framed-IPv6-Address",
    Attribute.REPLY_MESSAGE: "Reply-Message",
}
"""Those that are handed on, by the names of FreeRADIUS's dictionary."""
VIRTUAL, FRAMED, BY_RADIUS = 5, 2, 1
"""NAS-Port-Type, Service-Type, Acct-Authentic."""

Pair = tuple[int, bytes]


class Invalid(Exception):
    """No answer of the server's, or no request of it: forged, cut, or for another question."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it goes out; `packet` is pyrad's, which its answer is verified with."""

    octets: bytes = field(repr=False)
    packet: Any = field(repr=False)


def available() -> bool:
    """Whether the library is installed."""
    try:
        import pyrad.packet  # noqa: F401
    except ImportError:
        return False
    return True


def number(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "big")


def address(value: IPv4Address | IPv6Address) -> Pair:
    """The NAS's own address."""
    kind = Attribute.NAS_IP_ADDRESS if value.version == 4 else Attribute.NAS_IPV6_ADDRESS
    return kind, value.packed


# -- access -------------------------------------------------------------------------------------


def access_request(
    identifier: int, secret: bytes, pairs: Iterable[Pair], eap: bytes, state: Sequence[bytes]
) -> Request:
    """An Access-Request with an EAP message or a password, signed (RFC 3579, sections 3.1 and 3.2).

    User-Password comes as it is and leaves hidden (RFC 2865, section 5.2).
    """
    from pyrad.packet import AuthPacket

    packet = AuthPacket(ACCESS_REQUEST, identifier, secret)
    packet.add_message_authenticator()
    for kind, value in pairs:
        _add(packet, kind, packet.PwCrypt(value) if kind == Attribute.USER_PASSWORD else value)
    for at in range(0, len(eap), 253):
        _add(packet, Attribute.EAP_MESSAGE, eap[at : at + 253])
    for value in state:
        _add(packet, Attribute.STATE, value)
    return Request(packet.RequestPacket(), packet)


def judge_access(request: Request, octets: bytes, server: str) -> RadiusAnswer:
    """The verified answer. Raises `Invalid`."""
    _check_lengths(octets)
    from pyrad.packet import PacketError

    try:
        reply = request.packet.CreateReply(packet=octets)
        outcome: object = request.packet.VerifyReply(reply, enforce_ma=True)
    except (PacketError, ValueError) as error:
        raise Invalid(f"it cannot be read: {error}") from None
    if outcome is not True:
        raise Invalid("it is not signed with our secret, or lacks a Message-Authenticator")
    if reply.code not in (ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE):
        raise Invalid(f"an answer of code {reply.code} to an Access-Request")
    reply.request_authenticator = request.packet.authenticator
    return RadiusAnswer(
        reply.code,
        b"".join(_values(reply, Attribute.EAP_MESSAGE)),
        tuple(_values(reply, Attribute.STATE)),
        server,
        _session_key(reply) if reply.code == ACCESS_ACCEPT else b"",
        tuple((name, value) for kind, name in NAMES.items() for value in _values(reply, kind)),
    )


def _session_key(reply: Any) -> bytes:
    """The MSK: the key to receive with, then the one to send with (RFC 3579, section 3.16; RFC 2548, 2.4)."""
    from pyrad.packet import PacketError

    keys = []
    for kind in (MPPE_RECV_KEY, MPPE_SEND_KEY):
        values = [
            value for vendor in _values(reply, Attribute.VENDOR) for value in _of_microsoft(vendor, kind)
        ]
        if not values:
            return b""
        try:
            keys.append(bytes(reply.SaltDecrypt(values[0])))
        except PacketError as error:
            raise Invalid(f"a key that cannot be decrypted: {error}") from None
    joined = b"".join(keys)
    return joined + bytes(max(64 - len(joined), 0)) if joined else b""


# -- accounting ---------------------------------------------------------------------------------


def accounting_request(identifier: int, secret: bytes, pairs: Iterable[Pair]) -> Request:
    from pyrad.packet import AcctPacket

    packet = AcctPacket(ACCOUNTING_REQUEST, identifier, secret)
    for kind, value in pairs:
        _add(packet, kind, value)
    return Request(packet.RequestPacket(), packet)


def judge_accounting(request: Request, octets: bytes) -> None:
    """That the server has taken the record. Raises `Invalid`."""
    _check_lengths(octets)
    from pyrad.packet import PacketError

    try:
        reply = request.packet.CreateReply(packet=octets)
        outcome: object = request.packet.VerifyReply(reply)
    except (PacketError, ValueError) as error:
        raise Invalid(f"it cannot be read: {error}") from None
    if outcome is not True or reply.code != ACCOUNTING_RESPONSE:
        raise Invalid("it is not signed with our secret")


# -- disconnect and change of authorisation -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class DynamicRequest:
    """A verified Disconnect-Request or CoA-Request (RFC 5176). `attributes` by name."""

    code: int
    attributes: dict[str, list[bytes]]
    packet: Any = field(repr=False)
    timestamp: int = 0


def read_dynamic(octets: bytes, secret: bytes) -> DynamicRequest:
    """Raises `Invalid`: not of a client that knows the secret."""
    _check_lengths(octets)
    from pyrad.packet import CoAPacket, PacketError

    try:
        packet = CoAPacket(secret=secret, packet=octets)
        outcome: object = packet.VerifyCoARequest()
        if outcome is True and packet.message_authenticator:
            outcome = packet.verify_message_authenticator()
    except (PacketError, ValueError) as error:
        raise Invalid(f"it cannot be read: {error}") from None
    if outcome is not True or packet.code not in (DISCONNECT_REQUEST, COA_REQUEST):
        raise Invalid("it is not signed with the secret, or no request for here")
    times = _values(packet, Attribute.EVENT_TIMESTAMP)
    found = {name: _values(packet, kind) for kind, name in NAMES.items() if _values(packet, kind)}
    return DynamicRequest(
        packet.code, found, packet, int.from_bytes(times[0], "big") if times and len(times[0]) == 4 else 0
    )


def answer_dynamic(request: DynamicRequest, *, done: bool, error_cause: int = 0) -> bytes:
    """ACK or NAK, with an Error-Cause (RFC 5176, section 3.6)."""
    reply = request.packet.CreateReply()
    if not done:
        reply.code = DISCONNECT_NAK if request.code == DISCONNECT_REQUEST else COA_NAK
    if error_cause:
        _add(reply, Attribute.ERROR_CAUSE, number(error_cause))
    octets: bytes = reply.ReplyPacket()
    return octets


# -- both ---------------------------------------------------------------------------------------


def _check_lengths(octets: bytes) -> None:
    """Header and attributes are as long as they say (CVE-2026-35333: lengths 0 and 1). Raises `Invalid`."""
    try:
        cursor = Cursor(octets)
        cursor.u16()
        length = cursor.u16()
        if not 20 <= length <= min(len(octets), MAX_PACKET):
            raise Malformed(f"a packet of {len(octets)} octets that says {length}")
        inner = Cursor(octets[:length])
        inner.take(20)
        count = 0
        while inner.left:
            count += 1
            kind, size = inner.u8(), inner.u8()
            if size < 2 or count > MAX_ATTRIBUTES:
                raise Malformed(f"an attribute {kind} of {size} octets")
            value = inner.sub(size - 2)
            if kind == Attribute.MESSAGE_AUTHENTICATOR and value.left != 16:
                raise Malformed("a Message-Authenticator that has not 16 octets")
            if kind == Attribute.VENDOR:
                list(_of_microsoft(value.rest(), 0))
    except Malformed as error:
        raise Invalid(str(error)) from None


def _of_microsoft(data: bytes, wanted: int) -> Iterator[bytes]:
    """The values of this type in a vendor's attribute (RFC 2548). Raises `Malformed` (lengths 0 and 1)."""
    cursor = Cursor(data)
    vendor = cursor.u32()
    while vendor == MICROSOFT and cursor.left:
        kind, size = cursor.u8(), cursor.u8()
        if size < 2:
            raise Malformed(f"a vendor's attribute of {size} octets")
        value = cursor.take(size - 2)
        if kind == wanted:
            yield value


def _add(packet: Any, kind: int, value: bytes) -> None:
    packet[kind] = [*packet.get(kind, []), value]


def _values(packet: Any, kind: int) -> list[bytes]:
    """All values of an attribute, as octets; by number, so that no dictionary is needed."""
    return [bytes(value) for value in packet.get(kind, [])]


def session_key_code(code: int) -> int:
    """EAP's code that must go with an answer of this code (RFC 3579, section 2.6.3)."""
    return {ACCESS_ACCEPT: Code.SUCCESS, ACCESS_REJECT: Code.FAILURE, ACCESS_CHALLENGE: Code.REQUEST}[code]
