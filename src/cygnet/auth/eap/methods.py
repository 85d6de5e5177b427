"""The methods that there are, made ready for one conversation: by what is configured and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cygnet.auth.credentials import Credentials
from cygnet.auth.eap import gtc, md5, mschapv2
from cygnet.auth.eap.method import ClientMaker, EapFailed, ServerMaker, no_form, printable
from cygnet.auth.eap.packet import EapType, name_of
from cygnet.auth.eap.session import Relay
from cygnet.auth.errors import Kind
from cygnet.auth.identity import Identity
from cygnet.auth.passwords import Stored
from cygnet.records import dataclass

Address = IPv4Address | IPv6Address
ANY_CLIENT: Final = (EapType.MSCHAPV2, EapType.TLS, EapType.TTLS, EapType.PEAP)
"""What a client takes that names no method: those that make a key."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What methods with TLS need: our certificates (DER, else any that vouches for `identity`), who the other
    side must be (None: anybody under the CAs), the time, and which CAs or certificates count."""

    certificates: tuple[bytes, ...]
    identity: Identity
    peer: Identity | None
    wall: float
    ca_certificates: tuple[bytes, ...] = ()
    pinned: tuple[bytes, ...] = ()


def server_makers(kinds: Sequence[int], credentials: Credentials, tls: Tls) -> tuple[ServerMaker, ...]:
    """The server's side of each. Raises `EapFailed` for one that is not built."""
    return tuple(_server(kind, credentials, tls) for kind in kinds)


def _server(kind: int, credentials: Credentials, tls: Tls) -> ServerMaker:
    match kind:
        case EapType.MSCHAPV2:
            return mschapv2.server(credentials.user)
        case EapType.MD5:
            return md5.server(credentials.user)
        case EapType.GTC:
            return gtc.server(credentials.user)
    raise EapFailed(f"{name_of(kind)} is not supported", Kind.EAP_METHOD_MISMATCH)


def client_makers(
    kinds: Sequence[int], name: bytes, credentials: Credentials, tls: Tls
) -> tuple[ClientMaker, ...]:
    """The client's side of each that we have something for to prove ourselves. Raises `EapFailed` if none."""
    stored = credentials.user(name)
    makers = []
    refusal: EapFailed | None = None
    for kind in kinds:
        try:
            makers.append(_client(kind, name, stored, credentials, tls))
        except EapFailed as error:
            refusal = refusal or error
    if not makers:
        raise refusal or EapFailed("no EAP method is configured", Kind.EAP_METHOD_MISMATCH)
    return tuple(makers)


def _client(kind: int, name: bytes, stored: Stored | None, credentials: Credentials, tls: Tls) -> ClientMaker:
    if stored is None:
        raise EapFailed(f"no password is loaded for {printable(name)} (secrets.eap)", Kind.EAP_PASSWORD_WRONG)
    match kind:
        case EapType.MSCHAPV2:
            return mschapv2.client(name, stored)
        case EapType.MD5 | EapType.GTC if not stored.text:
            raise no_form(name, name_of(kind), "the text of the password")
        case EapType.MD5:
            return md5.client(name, stored.text)
        case EapType.GTC:
            return gtc.client(stored.text)
    raise EapFailed(f"{name_of(kind)} is not supported", Kind.EAP_METHOD_MISMATCH)


def relay(name: bytes, local: Address, remote: Address, session: int) -> Relay:
    """Hand the conversation on to a RADIUS server."""
    raise EapFailed("RADIUS is not supported", Kind.EAP_METHOD_MISMATCH)
