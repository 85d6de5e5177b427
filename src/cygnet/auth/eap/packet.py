"""The packets of EAP (RFC 3748, section 4): octets to values and back, every length checked.

     0                   1                   2                   3
    |     Code      |  Identifier   |            Length             |
    |     Type      |  Type-Data ...                                 (Request and Response only)

No state and no secrets. Octets behind `Length` are padding of the layer beneath (section 4.1) and are refused
here: IKEv2 and RADIUS carry the packet alone.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed

_HEADER: Final = Struct("!BBH")
MAX_PACKET: Final = 16_384
"""Octets of one EAP packet that are looked at; fragments of TLS are of 1 to 2 KiB."""


class Code:
    REQUEST = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


class EapType:
    """IANA's method types, and their names as swanctl spells them."""

    IDENTITY = 1
    NOTIFICATION = 2
    NAK = 3
    MD5 = 4
    GTC = 6
    TLS = 13
    TTLS = 21
    PEAP = 25
    MSCHAPV2 = 26
    EXTENSIONS = 33
    EXPANDED = 254


NAMES: Final = {
    EapType.MD5: "eap-md5",
    EapType.GTC: "eap-gtc",
    EapType.TLS: "eap-tls",
    EapType.TTLS: "eap-ttls",
    EapType.PEAP: "eap-peap",
    EapType.MSCHAPV2: "eap-mschapv2",
    EapType.IDENTITY: "eap-identity",
}


KEYED: Final = frozenset((EapType.TLS, EapType.TTLS, EapType.PEAP, EapType.MSCHAPV2))
"""Methods that make a key: success without one is none."""
MUTUAL: Final = frozenset((EapType.TLS, EapType.TTLS, EapType.PEAP))
"""Methods by which the server proves itself with a certificate: those that may stand alone (RFC 5998)."""
TUNNELS: Final = frozenset((EapType.TTLS, EapType.PEAP))
"""Methods inside which another proves who the user is."""


def name_of(method: int) -> str:
    """As swanctl names it, or by its number."""
    return NAMES.get(method, f"EAP method {method}")


@dataclass(frozen=True, slots=True)
class Packet:
    """`type` and `data` are 0 and empty for Success and Failure."""

    code: int
    identifier: int
    type: int = 0
    data: bytes = b""

    def encode(self) -> bytes:
        if self.code in (Code.SUCCESS, Code.FAILURE):
            return _HEADER.pack(self.code, self.identifier, 4)
        return _HEADER.pack(self.code, self.identifier, 5 + len(self.data)) + bytes((self.type,)) + self.data


def decode(octets: bytes) -> Packet:
    """One whole packet. Raises `Malformed`: a code that there is not, a length that lies."""
    if len(octets) > MAX_PACKET:
        raise Malformed(f"an EAP packet of {len(octets)} octets")
    cursor = Cursor(octets)
    (code, identifier, _), body = cursor.structure(_HEADER)
    cursor.expect_end()
    if code in (Code.SUCCESS, Code.FAILURE):
        body.expect_end()
        return Packet(code, identifier)
    if code not in (Code.REQUEST, Code.RESPONSE):
        raise Malformed(f"EAP code {code}")
    kind = body.u8()
    return Packet(code, identifier, kind, body.rest())
