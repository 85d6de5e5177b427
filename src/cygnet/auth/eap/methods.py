"""The methods that there are, made ready for one conversation: by what is configured and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.auth import certificate as certificates
from cygnet.auth.credentials import Credentials
from cygnet.auth.eap import gtc, md5, mschapv2, peap, ttls
from cygnet.auth.eap import tls as tls_method
from cygnet.auth.eap.method import ClientMaker, EapFailed, ServerMaker, ServerMethod, no_form, printable
from cygnet.auth.eap.packet import EapType, name_of
from cygnet.auth.eap.tls_engine import Judge, Side
from cygnet.auth.eap.tunnel import Inside
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.passwords import Stored
from cygnet.crypto.entropy import Entropy
from cygnet.records import dataclass
from cygnet.wire.numbers import IdType

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
    """The server's side of each. Raises `AuthenticationError` where what one needs is missing."""
    return tuple(_server(kind, credentials, tls) for kind in kinds)


def _server(kind: int, credentials: Credentials, tls: Tls) -> ServerMaker:
    lookup = credentials.user
    match kind:
        case EapType.MSCHAPV2:
            return mschapv2.server(lookup)
        case EapType.MD5:
            return md5.server(lookup)
        case EapType.GTC:
            return gtc.server(lookup)
        case EapType.TLS:
            own = credentials.own_key(tls.certificates, tls.identity)

            def start(name: bytes, entropy: Entropy) -> ServerMethod:
                return tls_method.server(Side(True, own, _by_name(credentials, tls, name))).start(
                    name, entropy
                )

            return ServerMaker(EapType.TLS, start)
        case EapType.TTLS:
            side = Side(True, credentials.own_key(tls.certificates, tls.identity), None)
            inner = (mschapv2.server(lookup), gtc.server(lookup), md5.server(lookup))
            return ttls.server(side, Inside(lookup), inner)
        case EapType.PEAP:
            side = Side(True, credentials.own_key(tls.certificates, tls.identity), None)
            return peap.server(side, (mschapv2.server(lookup), gtc.server(lookup)))
    raise EapFailed(f"{name_of(kind)} is not supported", Kind.EAP_METHOD_MISMATCH)


def _by_name(credentials: Credentials, tls: Tls, name: bytes) -> Judge:
    """The client's certificate must be for the user that it says it is: one of its names, as text."""

    def judge(sent: list[bytes]) -> None:
        try:
            names = certificates.parse(sent[0]).identities()
        except CredentialError as error:
            raise EapFailed(f"the user's certificate: {error}", Kind.CERTIFICATE_INVALID) from None
        wanted = name.lower()
        found = next((one for one in names if name_text(one).lower() == wanted), None)
        if found is None:
            shown = ", ".join(map(str, names)) or "nobody"
            raise EapFailed(
                f"the user says it is {printable(name)}, its certificate is for {shown[:500]}",
                Kind.CERTIFICATE_ID_MISMATCH,
            )
        _trust(credentials, tls, found, sent)

    return judge


def _server_judge(credentials: Credentials, tls: Tls) -> Judge:
    """The server's certificate must be for whom we expect; where that is anybody, under our CAs at least."""

    def judge(sent: list[bytes]) -> None:
        expected = tls.peer
        if expected is None or expected.is_any:
            try:
                names = certificates.parse(sent[0]).identities()
            except CredentialError as error:
                raise EapFailed(f"the server's certificate: {error}", Kind.CERTIFICATE_INVALID) from None
            expected = names[0] if names else Identity.any()
        _trust(credentials, tls, expected, sent)

    return judge


def _trust(credentials: Credentials, tls: Tls, identity: Identity, sent: list[bytes]) -> None:
    credentials.trusted_key(
        identity, sent, wall=tls.wall, ca_certificates=tls.ca_certificates, pinned=tls.pinned
    )


def client_makers(
    kinds: Sequence[int], name: bytes, credentials: Credentials, tls: Tls, inside: str = ""
) -> tuple[ClientMaker, ...]:
    """The client's side of each that we have something for to prove ourselves. `inside`: what TTLS carries
    instead of EAP, `pap` or `mschapv2`. Raises `AuthenticationError` if none."""
    stored = credentials.user(name)
    makers = []
    refusal: AuthenticationError | None = None
    for kind in kinds:
        try:
            if kind == EapType.TLS:
                own = credentials.own_key(tls.certificates, tls.identity)
                makers.append(tls_method.client(Side(False, own, _server_judge(credentials, tls))))
            else:
                makers.append(_client(kind, name, stored, _server_judge(credentials, tls), inside))
        except AuthenticationError as error:
            refusal = refusal or error
    if not makers:
        raise refusal or EapFailed("no EAP method is configured", Kind.EAP_METHOD_MISMATCH)
    return tuple(makers)


def _client(kind: int, name: bytes, stored: Stored | None, judge: Judge, inside: str) -> ClientMaker:
    if stored is None:
        raise EapFailed(f"no password is loaded for {printable(name)} (secrets.eap)", Kind.EAP_PASSWORD_WRONG)
    side = Side(False, None, judge)
    match kind:
        case EapType.MSCHAPV2:
            return mschapv2.client(name, stored)
        case EapType.PEAP:
            return peap.client(side, name, _inside(name, stored)[:2])
        case EapType.TTLS if inside == "mschapv2":
            return ttls.client_with_mschapv2(side, name, stored)
        case EapType.TTLS if inside != "pap":
            return ttls.client_with_eap(side, name, _inside(name, stored))
        case EapType.MD5 | EapType.GTC | EapType.TTLS if not stored.text:
            raise no_form(name, name_of(kind), "the text of the password")
        case EapType.TTLS:
            return ttls.client_with_pap(side, name, stored.text)
        case EapType.MD5:
            return md5.client(name, stored.text)
        case EapType.GTC:
            return gtc.client(stored.text)
    raise EapFailed(f"{name_of(kind)} is not supported", Kind.EAP_METHOD_MISMATCH)


def _inside(name: bytes, stored: Stored) -> tuple[ClientMaker, ...]:
    """What we take inside a tunnel, best first."""
    if not stored.text:
        return (mschapv2.client(name, stored),)
    return mschapv2.client(name, stored), gtc.client(stored.text), md5.client(name, stored.text)


def name_text(identity: Identity) -> bytes:
    """An identity as a user's name."""
    named = (IdType.FQDN, IdType.RFC822_ADDR, IdType.KEY_ID)
    return identity.data if identity.type in named else str(identity).encode()
