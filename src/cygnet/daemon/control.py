"""What is loaded: connections, credentials, pools and authorities, and how each comes and goes.

The start and a reload by signal come as one whole (`apply`): all of it is judged before any of it is
done; then what is new or different is loaded, what is the same is left alone, what is gone is unloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import CredentialError
from cygnet.config import requests
from cygnet.config.from_vici import connections as read_connections
from cygnet.config.problems import ConfigurationError
from cygnet.config.requests import Authority, CertificateEntry, Pool, Radius, SharedSecret
from cygnet.daemon.bundle import Commands
from cygnet.daemon.process import Daemon, now
from cygnet.daemon.turns import Turns
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import IkeError

Message = Mapping[str, Any]
T = TypeVar("T")


class Refused(Exception):
    """A command that cannot be carried out; the text is for a person."""


class Control:
    """`note(code, text)` is told what is worth a line in the log (a short secret, for example)."""

    def __init__(self, daemon: Daemon, credentials: Credentials, note: Callable[[str, str], None]) -> None:
        self.daemon = daemon
        self.credentials = credentials
        self.connections: dict[str, Connection] = {}
        self.shared: dict[str, SharedSecret] = {}
        self.keys: dict[str, bytes] = {}
        self.certificates: dict[bytes, bool] = {}
        self.pools: dict[str, Pool] = {}
        self.authorities: dict[str, Authority] = {}
        self._note = note

    # -- connections ---------------------------------------------------------------------------

    def load_connection(self, connection: Connection) -> None:
        """Load or replace one; the same again changes nothing. Raises Refused."""
        if self.connections.get(connection.name) == connection:
            return
        try:
            self.daemon.endpoint.load(connection, now())
        except IkeError as error:
            raise Refused(error.detail) from error
        finally:
            self.daemon.flush()
        self.connections[connection.name] = connection

    def unload_connection(self, name: str) -> None:
        """Its SAs are deleted and its policies removed. Raises Refused."""
        if self.connections.pop(name, None) is None:
            raise Refused(f"there is no connection {name}")
        try:
            self.daemon.endpoint.unload(name, now())
        except IkeError as error:
            raise Refused(error.detail) from error
        finally:
            self.daemon.flush()

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

    def unload_shared(self, name: str) -> None:
        if self.shared.pop(name, None) is None:
            raise Refused(f"there is no shared secret {name}")
        self.credentials.remove_shared(name)

    def load_key(self, data: bytes) -> str:
        """The key's id. Raises Refused."""
        try:
            key_id = self.credentials.add_private_key(data)
        except CredentialError as error:
            raise Refused(str(error)) from error
        self.keys[key_id] = data
        return key_id

    def unload_key(self, key_id: str) -> None:
        if self.keys.pop(key_id.lower(), None) is None:
            raise Refused(f"there is no private key {key_id}")
        self.credentials.remove_private_key(key_id)

    def load_certificate(self, entry: CertificateEntry) -> None:
        """Raises Refused."""
        if self.certificates.get(entry.der) == entry.ca:
            return
        try:
            self.credentials.add_certificate(entry.der, entry.ca)
        except CredentialError as error:
            raise Refused(str(error)) from error
        self.certificates[entry.der] = entry.ca

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
        if former is not None:
            self._drop_anchor(former)

    def unload_authority(self, name: str) -> None:
        former = self.authorities.pop(name, None)
        if former is None:
            raise Refused(f"there is no authority {name}")
        self._drop_anchor(former)

    def _drop_anchor(self, authority: Authority) -> None:
        held = authority.certificate in self.certificates
        if not held and all(one.certificate != authority.certificate for one in self.authorities.values()):
            self.credentials.remove_certificate(authority.certificate)

    def unload_certificate(self, der: bytes) -> None:
        self.certificates.pop(der, None)
        if all(one.certificate != der for one in self.authorities.values()):
            self.credentials.remove_certificate(der)

    def clear_credentials(self) -> None:
        """Everything that proves something; authorities stay what they are called, and lose nothing."""
        self.credentials.clear()
        self.shared.clear()
        self.keys.clear()
        self.certificates.clear()
        for authority in self.authorities.values():
            self.credentials.add_certificate(authority.certificate, True)

    # -- pools ---------------------------------------------------------------------------------

    def load_pool(self, pool: Pool) -> None:
        if self.pools.get(pool.name) != pool:
            self.pools[pool.name] = pool
            self.daemon.leases.load(pool)

    def unload_pool(self, name: str) -> None:
        """Raises Refused, also while peers have addresses of it: another pool could lease them again."""
        if name not in self.pools:
            raise Refused(f"there is no pool {name}")
        online = self.daemon.leases.online(name)
        if online:
            raise Refused(f"pool {name} has {online} addresses in use")
        del self.pools[name]
        self.daemon.leases.unload(name)

    # -- RADIUS --------------------------------------------------------------------------------

    def load_radius(self, settings: Radius) -> None:
        self.daemon.accounting.load(settings)

    # -- the whole -----------------------------------------------------------------------------

    async def apply(self, commands: Commands) -> None:
        """Make this configuration the one in force.

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
        except (ConfigurationError, CredentialError) as error:
            raise Refused(str(error)) from error
        problems: list[str] = []
        self.daemon.collector.busy(now().monotonic)
        await _each(self.load_certificate, whole.certificates, problems, turns)
        await _each(self.load_key, whole.keys, problems, turns)
        await _each(self.load_shared, whole.shared, problems, turns)
        await _each(self.load_authority, whole.authorities, problems, turns)
        await _each(self.load_pool, whole.pools, problems, turns)
        self.load_radius(whole.radius)
        await _each(self.load_connection, whole.connections, problems, turns)
        self._sweep(whole)
        if problems:
            raise Refused("\n".join(problems))

    def _sweep(self, whole: _Whole) -> None:
        for name in self.connections.keys() - {one.name for one in whole.connections}:
            self.unload_connection(name)
        for name in self.shared.keys() - {one.id for one in whole.shared}:
            self.unload_shared(name)
        for key_id in [key for key, data in self.keys.items() if data not in whole.keys]:
            self.unload_key(key_id)
        for name in self.authorities.keys() - {one.name for one in whole.authorities}:
            self.unload_authority(name)
        for der in self.certificates.keys() - {one.der for one in whole.certificates}:
            self.unload_certificate(der)
        for name in self.pools.keys() - {one.name for one in whole.pools}:
            try:
                self.unload_pool(name)
            except Refused as refused:
                self._note("pool-in-use", f"{refused}; it stays until they are returned and it is unloaded")


async def _each(load: Callable[[T], object], items: list[T], problems: list[str], turns: Turns) -> None:
    for item in items:
        try:
            load(item)
        except Refused as refused:
            problems.append(str(refused))
        await turns.give()


class _Whole:
    """A configuration read from commands, before any of it is done."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.shared: list[SharedSecret] = []
        self.keys: list[bytes] = []
        self.certificates: list[CertificateEntry] = []
        self.authorities: list[Authority] = []
        self.pools: list[Pool] = []
        self.radius = Radius()

    def take(self, name: str, message: Message) -> None:
        """Raises ConfigurationError."""
        match name:
            case "load-conn":
                self.connections.extend(read_connections(message))
            case "load-shared":
                self.shared.append(requests.shared_secret(message))
            case "load-key":
                self.keys.append(requests.key_data(message))
            case "load-cert":
                self.certificates.append(requests.certificate(message))
            case "load-authority":
                self.authorities.append(requests.authority(message))
            case "load-pool":
                self.pools.append(requests.pool(message))
            case "load-radius":
                self.radius = requests.radius(message)
            case _:
                raise requests.refusal((name,), "is no command that loads something")
