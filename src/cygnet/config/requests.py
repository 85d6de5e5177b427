"""What the control socket's commands carry: credentials, pools and authorities as values, and back.

The readers take decoded VICI messages (values are octets) and raise `ConfigurationError`; the writers
make what `swanctl` would send. Connections are in `from_vici` and `to_vici`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cygnet.auth import crl
from cygnet.auth.certificate import Certificate, parse_any
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.revocation import Places
from cygnet.config import model
from cygnet.config.check import validate
from cygnet.config.problems import ConfigurationError, KeyPath, Position, Problem, dotted, show
from cygnet.config.tree import Tree
from cygnet.config.values import MAX_SECRET, pool_addresses
from cygnet.ike.configuration import AddressRange
from cygnet.ike.remote_access import NetworkSettings
from cygnet.policy.selectors import IpAddress, TrafficSelector, format_addresses

Value = str | bytes | list[str | bytes] | dict[str, Any]
Message = dict[str, Value]
"""A VICI message before encoding: text, octets, lists of them, sections."""

SOCKET = Position("control socket")
SHARED_KINDS = ("ike", "eap", "xauth", "ntlm", "scrypt", "ppk")


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """`kind` is ike, eap, xauth, ntlm, ppk, or scrypt, which is Cygnet's own: what is kept of a password.
    Without owners it is everybody's. `groups`: what its owners are members of."""

    id: str
    kind: str
    secret: bytes = field(repr=False)
    owners: tuple[Identity, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateEntry:
    """A certificate in DER; `ca`: it is trusted as an authority."""

    der: bytes
    ca: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """`attributes` as they are written, `settings` what they mean to clients."""

    name: str
    addresses: AddressRange
    attributes: Mapping[str, tuple[str, ...]]
    settings: NetworkSettings = field(default_factory=NetworkSettings)


@dataclass(frozen=True, slots=True)
class Authority:
    """`places`: where to ask whether its certificates were revoked."""

    name: str
    certificate: bytes
    places: Places = field(default_factory=Places)


@dataclass(frozen=True, slots=True)
class RadiusServer:
    name: str
    address: IpAddress
    secret: bytes = field(repr=False)
    auth_port: int = 1812
    acct_port: int = 1813


@dataclass(frozen=True, slots=True)
class Radius:
    """The `radius` section. Times are seconds; `dae_port` 0: nobody is listened to."""

    servers: tuple[RadiusServer, ...] = ()
    nas_identifier: str = "cygnet"
    accounting: bool = False
    interval: float = 0.0
    timeout: float = 2.0
    tries: int = 3
    dae_address: IpAddress | None = None
    dae_port: int = 0
    dae_secret: bytes = field(default=b"", repr=False)


def refusal(path: KeyPath, text: str, found: object = None, allowed: str = "") -> ConfigurationError:
    """A single problem of a message."""
    shown = "" if found is None else show(found, path)
    return ConfigurationError([Problem(SOCKET, dotted(path), text, shown, allowed)])


def plain(value: Any, path: KeyPath = ()) -> Any:
    """A decoded message with its octets as text, except where they are contents (certs, data, secret)."""
    if isinstance(value, dict):
        return {key: plain(entry, (*path, key)) for key, entry in value.items()}
    if path and path[-1] in CONTENT_KEYS:
        return value
    if isinstance(value, list):
        return [plain(entry, (*path, index)) for index, entry in enumerate(value)]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise refusal(path, "is not UTF-8 text", value) from None
    return value


CONTENT_KEYS = frozenset({"certs", "cacerts", "cacert", "pubkeys", "data", "secret"})


def message_tree(data: dict[str, Any]) -> Tree:
    """A message as a tree whose position is the control socket."""
    return Tree(data, lambda path: SOCKET, lambda path: SOCKET.file)


def read_certificate(data: bytes) -> Certificate:
    """PEM or DER. Raises `CredentialError`."""
    return parse_any(data)


def _octets(message: Mapping[str, Any], key: str) -> bytes:
    value = message.get(key)
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes) or not value:
        raise refusal((key,), "is missing")
    return value


def _word(message: Mapping[str, Any], key: str, default: str = "") -> str:
    value = message.get(key, default)
    text = plain(value, (key,))
    if not isinstance(text, str):
        raise refusal((key,), "must be text")
    return text


# -- load-shared --------------------------------------------------------------------------------------


def shared_secret(message: Mapping[str, Any]) -> SharedSecret:
    """`load-shared {id, type, data, owners[]}`, and Cygnet's own `groups[]`."""
    kind = _word(message, "type").lower()
    if kind not in SHARED_KINDS:
        raise refusal(("type",), "is no kind of secret", kind, ", ".join(SHARED_KINDS))
    secret = _octets(message, "data")
    if len(secret) > MAX_SECRET:
        raise refusal(("data",), "is too long", allowed=f"up to {MAX_SECRET} octets")
    given = plain(message.get("owners", []), ("owners",))
    owners = []
    for owner in [given] if isinstance(given, str) else given:
        try:
            owners.append(Identity.parse(owner))
        except BadIdentity as error:
            raise refusal(("owners",), f"is no identity: {error}", owner) from None
    groups = plain(message.get("groups", []), ("groups",))
    return SharedSecret(
        _word(message, "id"),
        kind,
        secret,
        tuple(owners),
        tuple([groups] if isinstance(groups, str) else groups),
    )


def shared_message(secret: SharedSecret) -> Message:
    message: Message = {"id": secret.id, "type": secret.kind.upper(), "data": secret.secret}
    if secret.owners:
        message["owners"] = [str(owner) for owner in secret.owners]
    if secret.groups:
        message["groups"] = list(secret.groups)
    return message


# -- load-cert, load-key ------------------------------------------------------------------------------


def is_crl(message: Mapping[str, Any]) -> bool:
    """Whether a `load-cert` is of a revocation list."""
    return _word(message, "type", "X509").upper() == "X509_CRL"


def revocation_list(message: Mapping[str, Any]) -> bytes:
    """`load-cert {type = X509_CRL, data}`: in DER."""
    try:
        return crl.parse(_octets(message, "data")).der
    except CredentialError as error:
        raise refusal(("data",), str(error), allowed="a CRL in PEM or DER") from None


def crl_message(der: bytes) -> Message:
    return {"type": "X509_CRL", "flag": "NONE", "data": der}


def certificate(message: Mapping[str, Any]) -> CertificateEntry:
    """`load-cert {type, flag, data}`; X509 only, lists are `revocation_list`'s."""
    kind = _word(message, "type", "X509").upper()
    if kind not in ("X509", "X509CA"):
        raise refusal(("type",), "is not supported yet", kind, "X509, X509_CRL")
    flag = _word(message, "flag", "NONE").upper()
    if flag not in ("NONE", "CA"):
        raise refusal(("flag",), "is not supported yet", flag, "NONE, CA")
    try:
        read = read_certificate(_octets(message, "data"))
    except CredentialError as error:
        raise refusal(("data",), str(error), allowed="a certificate in PEM or DER") from None
    return CertificateEntry(read.der, flag == "CA" or kind == "X509CA")


def certificate_message(entry: CertificateEntry) -> Message:
    return {"type": "X509", "flag": "CA" if entry.ca else "NONE", "data": entry.der}


def key_data(message: Mapping[str, Any]) -> bytes:
    """`load-key {type, data}`: the key as it came, PEM or DER; the credentials look into it."""
    kind = _word(message, "type", "any").lower()
    if kind not in ("any", "rsa", "ecdsa"):
        raise refusal(("type",), "is not supported yet", kind, "any, rsa, ecdsa")
    return _octets(message, "data")


def key_message(key: bytes) -> Message:
    return {"type": "any", "data": key}


# -- load-radius --------------------------------------------------------------------------------------


def build_radius(section: model.Radius) -> Radius:
    """Raises `ConfigurationError`."""
    if section.dae.enable and not section.dae.secret:
        raise refusal(("radius", "dae", "secret"), "is missing: anybody could disconnect everybody")
    return Radius(
        servers=tuple(
            RadiusServer(name, one.address, one.secret, one.auth_port, one.acct_port)
            for name, one in section.servers.items()
        ),
        nas_identifier=section.nas_identifier,
        accounting=section.accounting,
        interval=section.accounting_interval,
        timeout=section.retransmit_timeout,
        tries=section.retransmit_tries,
        dae_address=section.dae.listen,
        dae_port=section.dae.port if section.dae.enable else 0,
        dae_secret=section.dae.secret or b"",
    )


def radius(message: Mapping[str, Any]) -> Radius:
    """`load-radius {servers, accounting, dae, ...}`: Cygnet's own, the section as it is written."""
    root, problems = validate(model.Root, message_tree({"radius": plain(dict(message))}))
    if root is None:
        raise ConfigurationError(problems)
    return build_radius(root.radius)


def radius_message(settings: Radius) -> Message:
    message: Message = {
        "nas_identifier": settings.nas_identifier,
        "accounting": "yes" if settings.accounting else "no",
        "accounting_interval": f"{settings.interval:g}s",
        "retransmit_timeout": f"{settings.timeout:g}s",
        "retransmit_tries": str(settings.tries),
        "servers": {
            one.name: {
                "address": str(one.address),
                "secret": one.secret,
                "auth_port": str(one.auth_port),
                "acct_port": str(one.acct_port),
            }
            for one in settings.servers
        },
    }
    if settings.dae_port:
        dae: dict[str, Any] = {"enable": "yes", "port": str(settings.dae_port), "secret": settings.dae_secret}
        if settings.dae_address is not None:
            dae["listen"] = str(settings.dae_address)
        message["dae"] = dae
    return message


# -- load-pool, load-authority ------------------------------------------------------------------------


def _single(message: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if len(message) != 1:
        raise refusal((), "a message with exactly one section is expected")
    ((name, section),) = message.items()
    if not isinstance(section, dict):
        raise refusal((name,), "must be a section", section)
    return name, section


SINGLE_ATTRIBUTES = frozenset({"banner", "save_password"})
"""Attributes of a pool that are one value, which travels as a list as all of them do."""


def pool(message: Mapping[str, Any]) -> Pool:
    """`load-pool {<name>: {addrs, <attribute>[]}}`."""
    name, section = _single(message)
    given = plain(section, (name,))
    for key in SINGLE_ATTRIBUTES & given.keys():
        if isinstance(given[key], list):
            # `swanctl` makes a list of every attribute, and takes a text to pieces at its commas.
            given[key] = ", ".join(map(str, given[key]))
    root, problems = validate(model.Root, message_tree({"pools": {name: given}}))
    if root is None:
        raise ConfigurationError(problems)
    return pool_of(name, root.pools[name])


def pool_of(name: str, section: model.Pool) -> Pool:
    """The pool that a section describes."""
    attributes: dict[str, tuple[str, ...]] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if key == "addrs" or not value:
            continue
        values = value if isinstance(value, tuple) else (value,)
        attributes[key] = tuple(map(_as_written, values))
    settings = NetworkSettings(
        dns=section.dns,
        nbns=section.nbns,
        dhcp=section.dhcp,
        subnets=tuple(dict.fromkeys((*section.subnet, *section.split_include))),
        excluded=section.split_exclude,
        domains=section.domains,
        banner=section.banner,
        save_password=section.save_password,
    )
    return Pool(name, section.addrs, attributes, settings)


def _as_written(value: object) -> str:
    if isinstance(value, TrafficSelector):
        return format_addresses(value)
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def implicit_pool(text: str) -> Pool | None:
    """The pool that `pools = 10.3.0.7` or `10.3.0.0/24` names by its addresses; None if it is a name."""
    try:
        return Pool(text, pool_addresses(text), {})
    except ValueError:
        return None


def pool_message(pool: Pool) -> Message:
    return {
        pool.name: {
            "addrs": format_range(pool.addresses),
            **{key: list(value) for key, value in pool.attributes.items()},
        }
    }


def format_range(span: AddressRange) -> str:
    """`10.3.0.1`, `10.3.0.0/24`, or `10.3.0.1-10.3.0.9`."""
    if span.first == span.last:
        return str(span.first)
    low, size = int(span.first), int(span.last) - int(span.first) + 1
    if size & (size - 1) == 0 and low % size == 0:
        return f"{span.first}/{span.first.max_prefixlen - size.bit_length() + 1}"
    return f"{span.first}-{span.last}"


def authority(message: Mapping[str, Any]) -> Authority:
    """`load-authority {<name>: {cacert, ...}}`."""
    name, section = _single(message)
    root, problems = validate(model.Root, message_tree({"authorities": {name: plain(section, (name,))}}))
    if root is None:
        raise ConfigurationError(problems)
    given = root.authorities[name].cacert
    if len(given) != 1 or not isinstance(given[0], bytes):
        raise refusal((name, "cacert"), "must be the content of one certificate")
    try:
        return Authority(name, read_certificate(given[0]).der, places_of(root.authorities[name]))
    except CredentialError as error:
        raise refusal((name, "cacert"), str(error), allowed="a certificate in PEM or DER") from None


def places_of(section: model.Authority) -> Places:
    return Places(section.crl_uris, section.ocsp_uris, section.cert_uri_base)


def authority_message(authority: Authority) -> Message:
    message: dict[str, Any] = {"cacert": authority.certificate}
    if authority.places.crl_urls:
        message["crl_uris"] = list(authority.places.crl_urls)
    if authority.places.ocsp_urls:
        message["ocsp_uris"] = list(authority.places.ocsp_urls)
    if authority.places.certificate_base:
        message["cert_uri_base"] = authority.places.certificate_base
    return {authority.name: message}
