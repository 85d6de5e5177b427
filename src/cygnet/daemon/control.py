"""What is loaded: connections, credentials, pools and authorities, and how each comes and goes.

The start and a reload by signal come as one whole (`apply`): all of it is judged before any of it is
done; then what is new or different is loaded, what is the same is left alone, what is gone is unloaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import CredentialError
from cygnet.auth.expiry import Expiring, expiring
from cygnet.auth.revocation import Places
from cygnet.config import requests
from cygnet.config.from_vici import connections as read_connections
from cygnet.config.problems import ConfigurationError
from cygnet.config.requests import Authority, CertificateEntry, Pool, Radius, SharedSecret
from cygnet.daemon.bundle import Commands
from cygnet.daemon.kept import Change, Kept, Key
from cygnet.daemon.process import Daemon, now
from cygnet.daemon.turns import Turns
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import IkeError

Message = Mapping[str, Any]
T = TypeVar("T")


class Refused(Exception):
    """A command that cannot be carried out; the text is for a person."""


class Control:
    """`note(code, text)` is told what is worth a line in the log (a short secret, for example). `kept` is
    told each change before anyone is answered."""

    def __init__(
        self,
        daemon: Daemon,
        credentials: Credentials,
        note: Callable[[str, str], None],
        kept: Kept | None = None,
    ) -> None:
        self.daemon = daemon
        self.credentials = credentials
        self.connections: dict[str, Connection] = {}
        self._said: dict[str, bytes] = {}
        self.shared: dict[str, SharedSecret] = {}
        self.keys: dict[str, bytes] = {}
        self.certificates: dict[bytes, bool] = {}
        self.crls: set[bytes] = set()
        self.pools: dict[str, Pool] = {}
        self.authorities: dict[str, Authority] = {}
        self._note = note
        self._kept = kept
        daemon.expiring = self.expiring

    def expiring(self) -> tuple[Expiring, ...]:
        """Certificates of ours and CAs that end soon."""
        named = [
            der
            for connection in self.connections.values()
            for local in connection.local
            for der in local.certificates
        ]
        return expiring(self.credentials, named, time.time())

    def _keep(self, kind: str, name: str, message: Message | None) -> None:
        """Loaded by this message, or unloaded (None). Raises Refused."""
        if self._kept is None:
            return
        try:
            if message is None:
                self._kept.unload(kind, name)
            else:
                self._kept.load(kind, name, message)
        except OSError as error:
            raise Refused(
                f"{name} is changed, but only until the daemon ends: it cannot be kept: {error.strerror}"
            ) from error

    # -- connections ---------------------------------------------------------------------------

    def load_connection(self, connection: Connection, message: Message) -> None:
        """Load or replace one, which `message` says in the words of `load-conn`; the same again changes
        nothing. Raises Refused."""
        self._said.pop(connection.name, None)
        said = _digest(message[connection.name])
        if self.connections.get(connection.name) == connection:
            self._said[connection.name] = said
            return
        try:
            self.daemon.endpoint.load(connection, now())
        except IkeError as error:
            raise Refused(error.detail) from error
        finally:
            self.daemon.flush()
        self.connections[connection.name] = connection
        self._said[connection.name] = said
        self._keep("load-conn", connection.name, {connection.name: message[connection.name]})

    def has_loaded(self, message: Message) -> bool:
        """Whether all that this `load-conn` says is in force in the same words."""
        return all(self._said.get(name) == _digest(section) for name, section in message.items())

    def unload_connection(self, name: str) -> None:
        """Its SAs are deleted and its policies removed. Raises Refused."""
        if self.connections.pop(name, None) is None:
            raise Refused(f"there is no connection {name}")
        self._said.pop(name, None)
        try:
            self.daemon.endpoint.unload(name, now())
        except IkeError as error:
            raise Refused(error.detail) from error
        finally:
            self.daemon.flush()
        self._keep("load-conn", name, None)

    # -- credentials ---------------------------------------------------------------------------

    def load_shared(self, secret: SharedSecret) -> None:
        """Raises Refused."""
        if self.shared.get(secret.id) == secret:
            return
        try:
            notes = self.credentials.add_shared(
                secret.id, secret.kind.lower(), secret.secret, secret.owners, secret.groups
            )
        except CredentialError as error:
            raise Refused(str(error)) from error
        self.shared[secret.id] = secret
        for note in notes:
            self._note("weak-secret", note)
        self._keep("load-shared", secret.id, requests.shared_message(secret))

    def unload_shared(self, name: str) -> None:
        if self.shared.pop(name, None) is None:
            raise Refused(f"there is no shared secret {name}")
        self.credentials.remove_shared(name)
        self._keep("load-shared", name, None)

    def load_key(self, data: bytes) -> str:
        """The key's id. Raises Refused."""
        try:
            key_id = self.credentials.add_private_key(data)
        except CredentialError as error:
            raise Refused(str(error)) from error
        self.keys[key_id] = data
        self._keep("load-key", _name_of(data), requests.key_message(data))
        return key_id

    def unload_key(self, key_id: str) -> None:
        data = self.keys.pop(key_id.lower(), None)
        if data is None:
            raise Refused(f"there is no private key {key_id}")
        self.credentials.remove_private_key(key_id)
        self._keep("load-key", _name_of(data), None)

    def load_certificate(self, entry: CertificateEntry) -> None:
        """Raises Refused."""
        if self.certificates.get(entry.der) == entry.ca:
            return
        try:
            self.credentials.add_certificate(entry.der, entry.ca)
        except CredentialError as error:
            raise Refused(str(error)) from error
        self.certificates[entry.der] = entry.ca
        self._keep("load-cert", _name_of(entry.der), requests.certificate_message(entry))

    def load_crl(self, der: bytes) -> None:
        """A revocation list. Raises Refused."""
        if der in self.crls:
            return
        try:
            self.credentials.revocations.add_crl(der)
        except CredentialError as error:
            raise Refused(str(error)) from error
        self.crls.add(der)
        self._keep("load-cert", _name_of(der), requests.crl_message(der))

    def unload_crl(self, der: bytes) -> None:
        self.crls.discard(der)
        self.credentials.revocations.remove_crl(der)
        self._keep("load-cert", _name_of(der), None)

    def _load_certificate_or_crl(self, one: CertificateEntry | bytes) -> None:
        if isinstance(one, bytes):
            self.load_crl(one)
        else:
            self.load_certificate(one)

    def load_authority(self, authority: Authority) -> None:
        """Its certificate becomes an anchor. Raises Refused."""
        former = self.authorities.get(authority.name)
        if former == authority:
            return
        try:
            self.credentials.add_certificate(authority.certificate, True)
        except CredentialError as error:
            raise Refused(str(error)) from error
        self.authorities[authority.name] = authority
        self._ask_at(authority.certificate)
        if former is not None:
            self._drop_anchor(former)
        self._keep("load-authority", authority.name, requests.authority_message(authority))

    def unload_authority(self, name: str) -> None:
        former = self.authorities.pop(name, None)
        if former is None:
            raise Refused(f"there is no authority {name}")
        self._drop_anchor(former)
        self._keep("load-authority", name, None)

    def _ask_at(self, certificate: bytes) -> None:
        """Where to ask about this CA's certificates: all that its authorities say."""
        told = [one.places for one in self.authorities.values() if one.certificate == certificate]
        places = Places(
            tuple(dict.fromkeys(url for one in told for url in one.crl_urls)),
            tuple(dict.fromkeys(url for one in told for url in one.ocsp_urls)),
            next((one.certificate_base for one in told if one.certificate_base), ""),
        )
        self.credentials.revocations.set_places(certificate, places)

    def _drop_anchor(self, authority: Authority) -> None:
        self._ask_at(authority.certificate)
        held = authority.certificate in self.certificates
        if not held and all(one.certificate != authority.certificate for one in self.authorities.values()):
            self.credentials.remove_certificate(authority.certificate)

    def unload_certificate(self, der: bytes) -> None:
        self.certificates.pop(der, None)
        if all(one.certificate != der for one in self.authorities.values()):
            self.credentials.remove_certificate(der)
        self._keep("load-cert", _name_of(der), None)

    def clear_credentials(self) -> None:
        """Everything that proves something; authorities stay what they are called, and lose nothing."""
        gone = [("load-shared", name) for name in self.shared]
        gone += [("load-key", _name_of(data)) for data in self.keys.values()]
        gone += [("load-cert", _name_of(der)) for der in (*self.certificates, *self.crls)]
        self.credentials.clear()
        self.shared.clear()
        self.keys.clear()
        self.certificates.clear()
        self.crls.clear()
        for authority in self.authorities.values():
            self.credentials.add_certificate(authority.certificate, True)
        for kind, name in gone:
            self._keep(kind, name, None)

    # -- pools ---------------------------------------------------------------------------------

    def load_pool(self, pool: Pool) -> None:
        if self.pools.get(pool.name) != pool:
            self.pools[pool.name] = pool
            self.daemon.leases.load(pool)
            self._keep("load-pool", pool.name, requests.pool_message(pool))

    def unload_pool(self, name: str) -> None:
        """Raises Refused, also while peers have addresses of it: another pool could lease them again."""
        if name not in self.pools:
            raise Refused(f"there is no pool {name}")
        online = self.daemon.leases.online(name)
        if online:
            raise Refused(f"pool {name} has {online} addresses in use")
        del self.pools[name]
        self.daemon.leases.unload(name)
        self._keep("load-pool", name, None)

    # -- RADIUS --------------------------------------------------------------------------------

    def load_radius(self, settings: Radius) -> None:
        self.daemon.accounting.load(settings)
        self._keep("load-radius", "radius", requests.radius_message(settings))

    # -- the whole -----------------------------------------------------------------------------

    async def apply(self, commands: Commands, changes: Iterable[Change] | None = None) -> None:
        """Make this configuration the one in force. `changes`: at the start, what has come after it.

        Raises Refused, having changed nothing, if any of it cannot be read. What the endpoint refuses
        afterwards (an overlap that only it can see) is told at the end, the rest being in force. The loop
        gets its turns in between: thousands of connections take seconds.
        """
        whole, turns = _Whole(), Turns()
        self.daemon.collector.busy(now().monotonic)
        try:
            for name, message in commands:
                whole.take(name, message)
                await turns.give()
            for change in changes or ():
                whole.follow(change)
                await turns.give()
        except (ConfigurationError, CredentialError) as error:
            raise Refused(str(error)) from error
        if changes is not None and self._kept is not None:
            self._kept.start_with(Change(*key, dict(whole.messages[key])) for key in whole.entries)
        problems: list[str] = []
        self.daemon.collector.busy(now().monotonic)
        for kind, load in (
            ("load-cert", self._load_certificate_or_crl),
            ("load-key", self.load_key),
            ("load-shared", self.load_shared),
            ("load-authority", self.load_authority),
            ("load-pool", self.load_pool),
            ("load-radius", self.load_radius),
            ("load-conn", lambda one: self.load_connection(one, whole.messages["load-conn", one.name])),
        ):
            await _each(load, whole.of(kind), problems, turns)
        if not whole.names("load-radius"):
            self.load_radius(Radius())
        self._sweep(whole)
        if problems:
            raise Refused("\n".join(problems))

    def _sweep(self, whole: _Whole) -> None:
        for name in self.connections.keys() - whole.names("load-conn"):
            self.unload_connection(name)
        for name in self.shared.keys() - whole.names("load-shared"):
            self.unload_shared(name)
        keys = whole.names("load-key")
        for key_id in [key for key, data in self.keys.items() if _name_of(data) not in keys]:
            self.unload_key(key_id)
        for name in self.authorities.keys() - whole.names("load-authority"):
            self.unload_authority(name)
        certificates = whole.names("load-cert")
        for der in [der for der in self.certificates if _name_of(der) not in certificates]:
            self.unload_certificate(der)
        for der in [der for der in self.crls if _name_of(der) not in certificates]:
            self.unload_crl(der)
        for name in self.pools.keys() - whole.names("load-pool"):
            try:
                self.unload_pool(name)
            except Refused as refused:
                self._note("pool-in-use", f"{refused}; it stays until they are returned and it is unloaded")


def _digest(section: object) -> bytes:
    """Of what a connection is said to be, as it came from the control socket."""
    return sha256(msgspec.msgpack.encode(section)).digest()


def _name_of(data: bytes) -> str:
    """What is kept of a key or a certificate is called so."""
    return sha256(data).hexdigest()


async def _each(load: Callable[[T], object], items: list[T], problems: list[str], turns: Turns) -> None:
    for item in items:
        try:
            load(item)
        except Refused as refused:
            problems.append(str(refused))
        await turns.give()


class _Whole:
    """A configuration read from commands, before any of it is done: what each loads, by what it is called."""

    def __init__(self) -> None:
        self.entries: dict[Key, Any] = {}
        self.messages: dict[Key, Message] = {}

    def of(self, kind: str) -> list[Any]:
        return [entry for (command, _), entry in self.entries.items() if command == kind]

    def names(self, kind: str) -> set[str]:
        return {name for command, name in self.entries if command == kind}

    def take(self, kind: str, message: Message) -> None:
        """Raises ConfigurationError, CredentialError."""
        for name, entry, source in _read(kind, message):
            self.entries[kind, name] = entry
            self.messages[kind, name] = source

    def follow(self, change: Change) -> None:
        """Raises ConfigurationError, CredentialError."""
        if not change.kind:
            self.entries.clear()
        elif change.message is None:
            self.entries.pop((change.kind, change.name), None)
        else:
            self.take(change.kind, change.message)


def _read(kind: str, message: Message) -> list[tuple[str, Any, Message]]:
    """What the command loads: its name, itself, the message for it alone. Raises as `_Whole.take`."""
    match kind:
        case "load-conn":
            return [(one.name, one, {one.name: message[one.name]}) for one in read_connections(message)]
        case "load-shared":
            secret = requests.shared_secret(message)
            return [(secret.id, secret, message)]
        case "load-key":
            data = requests.key_data(message)
            return [(_name_of(data), data, message)]
        case "load-cert" if requests.is_crl(message):
            der = requests.revocation_list(message)
            return [(_name_of(der), der, message)]
        case "load-cert":
            entry = requests.certificate(message)
            return [(_name_of(entry.der), entry, message)]
        case "load-authority":
            authority = requests.authority(message)
            return [(authority.name, authority, message)]
        case "load-pool":
            pool = requests.pool(message)
            return [(pool.name, pool, message)]
        case "load-radius":
            return [("radius", requests.radius(message), message)]
    raise requests.refusal((kind,), "is no command that loads something")
