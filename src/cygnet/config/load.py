"""From a file to everything that a gateway needs, or to all that is wrong with it.

    loaded = load(Path("/etc/cygnet/cygnet.toml"))

`.toml` is read as TOML, anything else as swanctl.conf. Certificates and keys are read here, by whoever
runs this, because the daemon cannot: `loaded.commands()` is the whole configuration as the control
socket's commands, which is how it reaches the daemon, at the start and at every reload.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cygnet.auth import radius, raw_keys
from cygnet.auth.credentials import Credentials
from cygnet.auth.crl import day
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity
from cygnet.auth.passwords import read_hash
from cygnet.config import model
from cygnet.config.build import Gateway, build_connection, build_gateway
from cygnet.config.check import check_root, in_order, problem_at
from cygnet.config.files import (
    CERTIFICATE_DIRECTORIES,
    CRL_DIRECTORY,
    KEY_DIRECTORIES,
    PUBLIC_KEYS,
    Ask,
    CredentialFiles,
    FileProblem,
    Locked,
    refuse_if_public,
)
from cygnet.config.lists import AccessLists
from cygnet.config.oddities import oddities
from cygnet.config.problems import Complaints, ConfigurationError, KeyPath, Problem
from cygnet.config.requests import (
    Authority,
    CertificateEntry,
    Message,
    Pool,
    Radius,
    SharedSecret,
    authority_message,
    build_radius,
    certificate_message,
    crl_message,
    implicit_pool,
    key_message,
    places_of,
    pool_message,
    pool_of,
    radius_message,
    read_certificate,
    shared_message,
)
from cygnet.config.swanctl_syntax import read_swanctl
from cygnet.config.to_vici import connection_message
from cygnet.config.toml_syntax import read_toml
from cygnet.config.tree import Tree
from cygnet.config.version_one import judge_secrets
from cygnet.ike.configuration import AddressRange, AuthClass, Connection, LocalAuth


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is right. `warnings` are worth a look and no errors. Keys are PKCS#8 DER."""

    path: Path
    gateway: Gateway
    connections: tuple[Connection, ...]
    secrets: tuple[SharedSecret, ...]
    keys: tuple[bytes, ...] = field(repr=False)
    certificates: tuple[CertificateEntry, ...]
    crls: tuple[bytes, ...]
    """Revocation lists of `x509crl/`, DER."""
    authorities: tuple[Authority, ...]
    pools: tuple[Pool, ...]
    radius: Radius
    warnings: tuple[Problem, ...]
    messages: tuple[Message, ...] = field(repr=False)
    """One `load-conn` message for each connection."""

    def credentials(self) -> Credentials:
        """A store filled with the secrets, keys and certificates."""
        store = Credentials()
        for certificate in self.certificates:
            store.add_certificate(certificate.der, certificate.ca)
        for crl in self.crls:
            store.revocations.add_crl(crl)
        for authority in self.authorities:
            store.revocations.set_places(authority.certificate, authority.places)
        for key in self.keys:
            store.add_private_key(key)
        for secret in self.secrets:
            store.add_shared(secret.id, secret.kind, secret.secret, secret.owners, secret.groups)
        return store

    def commands(self) -> Iterator[tuple[str, Message]]:
        """The control socket's commands that load all this, credentials before what uses them."""
        for certificate in self.certificates:
            yield "load-cert", certificate_message(certificate)
        for crl in self.crls:
            yield "load-cert", crl_message(crl)
        for key in self.keys:
            yield "load-key", key_message(key)
        for secret in self.secrets:
            yield "load-shared", shared_message(secret)
        for authority in self.authorities:
            yield "load-authority", authority_message(authority)
        if self.radius.servers or self.radius.dae_port:
            yield "load-radius", radius_message(self.radius)
        for pool in self.pools:
            yield "load-pool", pool_message(pool)
        for message in self.messages:
            yield "load-conn", message


def read(path: Path, text: str | None = None) -> Tree:
    """The tree of a configuration in either spelling. `text` replaces the file's content."""
    return read_toml(path, text) if path.suffix == ".toml" else read_swanctl(path, text)


def load(path: Path, text: str | None = None, ask: Ask | None = None) -> Loaded:
    """Read, validate and build. `ask`: for passphrases of private keys; without it, or where it opens
    nothing, an encrypted one that no secret opens is wrong; where it gives None, that is a warning.
    Raises `ConfigurationError` with everything that is wrong."""
    with _collector_off():
        tree = read(path, text)
        root, problems = check_root(tree)
        if root is None:
            raise ConfigurationError(problems)
        return _Loader(tree, CredentialFiles(path.absolute().parent, ask)).run(path, root)


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Loading makes millions of objects and no cycles: looking for them takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Loader:
    def __init__(self, tree: Tree, files: CredentialFiles) -> None:
        self.tree = tree
        self.files = files
        self.complaints = Complaints()
        self.certificates: dict[bytes, CertificateEntry] = {}
        self.keys: dict[bytes, None] = {}
        self.locked = False
        self.store = Credentials()

    def run(self, path: Path, root: model.Root) -> Loaded:
        gateway = build_gateway(root.options)
        lists = AccessLists(("acls",), root.acls)
        for name in root.acls:
            lists.get(name, self.complaints)
        secrets = tuple(self._secrets(root.secrets))
        self._keys(root.secrets)
        authorities = tuple(self._authorities(root.authorities))
        for directory, ca in CERTIFICATE_DIRECTORIES:
            self._directory(directory, ca)
        crls = tuple(self._crls())
        connections = []
        for name, section in root.connections.items():
            place: KeyPath = ("connections", name)
            connection = build_connection(name, section, place, lists, self._certificate, self.complaints)
            if connection is not None:
                connections.append(connection)
        pools = tuple(self._pools(root.pools))
        servers = self._radius(root.radius, connections)
        self._references(connections, secrets)
        answers = root.options.i_dont_care_about_security_and_use_aggressive_mode_psk
        judge_secrets(connections, secrets, answers, self.complaints)
        self._pool_references(connections, pools)
        self._shared_pools(connections)
        self.complaints.notes.extend(oddities(connections, secrets))
        if root.options.port == root.options.port_nat_t:
            self.complaints.add(("options", "port_nat_t"), "is the same as options.port", "another port")
        self._finish()
        self.complaints.notes.extend(((), note) for note in self.files.validity_notes(time.time()))
        messages = tuple(
            connection_message(
                connection, root.connections[connection.name], self._raw(connection.name), lists
            )
            for connection in connections
        )
        return Loaded(
            path=path,
            gateway=gateway,
            connections=tuple(connections),
            secrets=secrets,
            keys=tuple(self.keys),
            certificates=tuple(self.certificates.values()),
            crls=crls,
            authorities=authorities,
            pools=pools,
            radius=servers,
            warnings=tuple(self._problems(self.complaints.notes)),
            messages=messages,
        )

    def _raw(self, name: str) -> Mapping[str, object]:
        raw = self.tree.data["connections"][name]
        return raw if isinstance(raw, dict) else {}

    def _problems(self, notes: list[tuple[KeyPath, str]]) -> list[Problem]:
        return in_order(problem_at(self.tree, path, text, found=False) for path, text in notes)

    def _finish(self) -> None:
        if self.complaints.found:
            raise ConfigurationError(
                in_order(
                    problem_at(self.tree, path, text, allowed)
                    for path, text, allowed in self.complaints.found
                )
            )

    # -- credentials ------------------------------------------------------------------------------

    def _certificate(self, path: KeyPath, directory: str, name: str | bytes) -> bytes | None:
        try:
            if directory == PUBLIC_KEYS:
                return raw_keys.parse(name) if isinstance(name, bytes) else self.files.public_key(name)
            if isinstance(name, bytes):
                certificate = read_certificate(name)
            else:
                certificate = self.files.certificate(directory, name)
        except (FileProblem, ValueError) as error:
            what = "public key" if directory == PUBLIC_KEYS else "certificate"
            self.complaints.add(path, str(error), f"a {what} in PEM or DER")
            return None
        return certificate.der

    def _directory(self, directory: str, ca: bool) -> None:
        try:
            for file in self.files.listed(directory):
                self._keep(self.files.certificate(directory, file.name).der, ca)
        except (FileProblem, CredentialError) as error:
            self.complaints.add((), str(error))

    def _crls(self) -> Iterator[bytes]:
        try:
            for file in self.files.listed(CRL_DIRECTORY):
                crl = self.files.crl(file)
                if not crl.is_fresh(time.time()):
                    text = f"{file} ({crl.title}) served until {day(crl.next_update)}"
                    self.complaints.notes.append(((), text))
                yield crl.der
        except FileProblem as error:
            self.complaints.add((), str(error))

    def _secrets(self, section: model.Secrets) -> Iterator[SharedSecret]:
        owners_seen: dict[tuple[str, frozenset[Identity]], str] = {}
        judged: set[str] = set()
        for kind in ("ike", "ntlm", "ppk"):
            for name, entry in getattr(section, kind).items():
                place: KeyPath = ("secrets", name)
                self._refuse_public_configuration((*place, "secret"), judged)
                owners = tuple(identity for group in entry.ids.values() for identity in group)
                first = owners_seen.setdefault((kind, frozenset(owners)), name)
                if first != name:
                    who = "these identities" if owners else "everybody"
                    self.complaints.add(place, f"is a second secret for {who}, beside {first}", "one of them")
                notes = self.store.add_shared(name, kind, entry.secret, owners)
                self.complaints.notes.extend(((*place, "secret"), note) for note in notes)
                yield SharedSecret(name, kind, entry.secret, owners)
        for kind in ("eap", "xauth"):
            for name, entry in getattr(section, kind).items():
                self._refuse_public_configuration(("secrets", name), judged)
                yield from self._password(kind, name, entry)
        for file in section.users:
            yield from self._users(file)

    def _password(self, kind: str, name: str, entry: model.Password) -> Iterator[SharedSecret]:
        place: KeyPath = ("secrets", name)
        owners = tuple(identity for group in entry.ids.values() for identity in group)
        kept: list[tuple[str, bytes]] = [] if entry.secret is None else [(kind, entry.secret)]
        try:
            kept.extend(read_hash(text) for text in entry.hash)
            for form, secret in kept:
                self.store.add_shared(
                    name if form == kind else f"{name} {form}", form, secret, owners, entry.groups
                )
        except CredentialError as error:
            self.complaints.add((*place, "hash"), str(error), "$scrypt$..., $nt$...")
            return
        if not kept:
            self.complaints.add(place, "holds neither the password nor what is kept of it", "secret, or hash")
        if not owners:
            self.complaints.notes.append((place, "names nobody (id), so it is nobody's password"))
        for form, secret in kept:
            yield SharedSecret(name if form == kind else f"{name} {form}", form, secret, owners, entry.groups)

    def _users(self, file: str | bytes) -> Iterator[SharedSecret]:
        place: KeyPath = ("secrets", "users")
        try:
            for user in self.files.users(file) if isinstance(file, str) else ():
                for form, secret in user.kept:
                    name = f"user {user.name} {form}"
                    self.store.add_shared(name, form, secret, (user.name,), user.groups)
                    yield SharedSecret(name, form, secret, (user.name,), user.groups)
        except (FileProblem, CredentialError) as error:
            self.complaints.add(place, str(error), "lines of name, hash, groups=...")

    def _keep(self, der: bytes, ca: bool) -> None:
        """Remember a certificate; one that was an authority stays one. Raises `CredentialError`."""
        known = self.certificates.get(der)
        self.store.add_certificate(der, ca)
        self.certificates[der] = CertificateEntry(der, ca or (known is not None and known.ca))

    def _refuse_public_configuration(self, path: KeyPath, judged: set[str]) -> None:
        file = self.tree.file(path)
        if file in judged or not Path(file).is_file():
            return
        judged.add(file)
        try:
            refuse_if_public(Path(file))
        except FileProblem as error:
            self.complaints.add(path, str(error))

    def _keys(self, section: model.Secrets) -> None:
        named: set[Path] = set()
        for directory in (*KEY_DIRECTORIES, "pkcs12"):
            for name, entry in getattr(section, directory).items():
                place: KeyPath = ("secrets", name)
                try:
                    named.add(self.files.find(directory, entry.file))
                    self._key(place, directory, entry.file, entry.secret)
                except (FileProblem, CredentialError) as error:
                    self.complaints.add((*place, "file"), str(error), "a file with a private key")
        for directory in KEY_DIRECTORIES:
            try:
                for file in self.files.listed(directory):
                    if file not in named:
                        self._key((), directory, file.name, None)
            except (FileProblem, CredentialError) as error:
                self.complaints.add((), str(error))

    def _key(self, place: KeyPath, directory: str, name: str, passphrase: bytes | None) -> None:
        try:
            self._open(directory, name, passphrase)
        except Locked as locked:
            if self.files.ask is None:
                raise
            self.locked = True
            self.complaints.notes.append((place, str(locked)))

    def _open(self, directory: str, name: str, passphrase: bytes | None) -> None:
        if directory == "pkcs12":
            key, certificates = self.files.key_store(directory, name, passphrase)
            for certificate in certificates:
                self._keep(certificate.der, certificate.is_ca)
        else:
            key = self.files.private_key(directory, name, passphrase)
        self.store.add_private_key(key)
        self.keys.setdefault(key)

    def _authorities(self, sections: Mapping[str, model.Authority]) -> Iterator[Authority]:
        for name, section in sections.items():
            place: KeyPath = ("authorities", name)
            given = [*section.cacert, *([section.file] if section.file else [])]
            key = "cacert" if section.cacert else "file"
            if len(given) != 1:
                self.complaints.add(place, "needs exactly one certificate", "cacert, or file")
                continue
            der = self._certificate((*place, key), "x509ca", given[0])
            if der is None:
                continue
            try:
                self._keep(der, True)
            except CredentialError as error:
                self.complaints.add((*place, key), str(error), "the certificate of an authority")
            else:
                yield Authority(name, der, places_of(section))

    def _pools(self, sections: Mapping[str, model.Pool]) -> Iterator[Pool]:
        seen: list[tuple[str, AddressRange]] = []
        for name, section in sections.items():
            for other, span in seen:
                if span.first.version == section.addrs.first.version and not (
                    int(section.addrs.last) < int(span.first) or int(span.last) < int(section.addrs.first)
                ):
                    self.complaints.add(
                        ("pools", name, "addrs"), f"overlaps with pool {other}", "pools apart"
                    )
            seen.append((name, section.addrs))
            yield pool_of(name, section)

    def _radius(self, section: model.Radius, connections: list[Connection]) -> Radius:
        place: KeyPath = ("radius",)
        for name in section.servers:
            self._refuse_public_configuration((*place, "servers", name), set())
        if section.dae.enable and not section.dae.secret:
            self.complaints.add((*place, "dae"), "lets anybody disconnect everybody", "a secret")
            return Radius()
        asking = [one.name for one in connections if any(remote.radius for remote in one.remote)]
        if (asking or section.servers) and not radius.available():
            self.complaints.add(place, radius.MISSING)
        elif asking and not section.servers:
            self.complaints.add(
                ("connections", asking[0]), "asks a RADIUS server, and there is none", "radius.servers.<name>"
            )
        return build_radius(section)

    def _pool_references(self, connections: list[Connection], pools: tuple[Pool, ...]) -> None:
        known = {pool.name for pool in pools}
        for connection in connections:
            for name in connection.pools:
                if name not in (*known, "radius") and implicit_pool(name) is None:
                    self.complaints.add(
                        ("connections", connection.name, "pools"),
                        f"names {name}, which is no pool and no range of addresses",
                        ", ".join(sorted(known)) or "a section pools.<name>",
                    )

    def _shared_pools(self, connections: list[Connection]) -> None:
        """Who proves nothing gets no address that anybody else could have (RFC 7619, section 2.5)."""
        of_nobody = {
            pool
            for connection in connections
            if any(one.method is AuthClass.NULL for one in connection.remote)
            for pool in connection.pools
        }
        for connection in connections:
            if any(one.method is AuthClass.NULL for one in connection.remote):
                continue
            for pool in of_nobody.intersection(connection.pools):
                self.complaints.add(
                    ("connections", connection.name, "pools"),
                    f"names {pool}, which peers that prove nothing get addresses of",
                    "a pool of its own for remote.auth = null",
                )

    def _references(self, connections: list[Connection], secrets: tuple[SharedSecret, ...]) -> None:
        """What a connection needs to authenticate must be there at all."""
        have_psk = any(secret.kind == "ike" for secret in secrets)
        for connection in connections:
            place: KeyPath = ("connections", connection.name)
            methods = {one.method for one in connection.local} | {one.method for one in connection.remote}
            if AuthClass.PSK in methods and not have_psk:
                self.complaints.add(
                    place, "authenticates with a pre-shared key, and there is none", "secrets.ike-..."
                )
            for local in connection.local:
                if local.method is AuthClass.PUBKEY:
                    self._need_key(place, local)

    def _need_key(self, place: KeyPath, local: LocalAuth) -> None:
        if self.locked:
            return  # it may be that one
        if not self.keys:
            self.complaints.add(
                place,
                "authenticates with a private key, and there is none",
                "auth = psk, or secrets.private-...",
            )
        elif local.public_keys:
            if not any(self.store.has_key_of(spki) for spki in local.public_keys):
                self.complaints.add(place, "has public keys of its own, and the private key of none of them")
        elif local.certificates and not any(self.store.key_for(der) for der in local.certificates):
            self.complaints.add(
                place, "has certificates of its own, but no private key belongs to one of them"
            )
