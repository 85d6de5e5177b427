"""Certificates and private keys from files, with the rights of whoever runs this.

A relative name is looked for as swanctl does, in `x509/`, `x509ca/`, `private/` ... beside the
configuration, then beside the configuration itself. A file with a private key, or a configuration
with a secret in it, that everybody can read is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from cygnet.auth import raw_keys
from cygnet.auth.certificate import Certificate, parse_any
from cygnet.auth.crl import Crl
from cygnet.auth.crl import parse as parse_crl
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.passwords import read_hash

MAX_FILE = 1 << 20
"""Octets of a certificate or key file."""

KEY_DIRECTORIES = ("private", "rsa", "ecdsa", "pkcs8")
CERTIFICATE_DIRECTORIES = (("x509", False), ("x509ca", True))
PUBLIC_KEYS = "pubkey"
CRL_DIRECTORY = "x509crl"
MAX_CRL_FILE = 65535
"""Octets in DER: what one value of the control socket's messages carries. Longer lists are fetched."""


@dataclass(frozen=True, slots=True)
class User:
    """A line of a file of users. `kept`: (kind of secret, what it is)."""

    name: Identity
    kept: tuple[tuple[str, bytes], ...] = field(repr=False)
    groups: tuple[str, ...]


class FileProblem(Exception):
    """A file that cannot be used; the text is one clause that follows its name."""


Found = TypeVar("Found")
Ask = Callable[[Path], bytes | None]
"""Asks a person for the passphrase of this file; None: it stays locked."""
ASKED: Final = 3
"""Passphrases that are tried."""


class Locked(FileProblem):
    """It is encrypted, and its passphrase is not known."""


@dataclass(slots=True)
class CredentialFiles:
    """The files beside one configuration; each is read once. `ask`: for passphrases that no secret holds."""

    base: Path
    ask: Ask | None = None
    _certificates: dict[Path, Certificate] = field(default_factory=dict)

    def find(self, directory: str, name: str) -> Path:
        """The path that a name means: absolute, in `directory` beside the configuration, or beside it."""
        for candidate in (self.base / directory / name, self.base / name):
            if candidate.exists():
                return candidate
        raise FileProblem(f"there is no file {name!r} in {self.base / directory} or {self.base}")

    def certificate(self, directory: str, name: str) -> Certificate:
        path = self.find(directory, name)
        if path not in self._certificates:
            try:
                self._certificates[path] = parse_any(read_bounded(path))
            except CredentialError as error:
                raise FileProblem(f"{path} cannot be used: {error}") from None
        return self._certificates[path]

    def public_key(self, name: str) -> bytes:
        """A public key as DER. Raises `FileProblem`."""
        path = self.find(PUBLIC_KEYS, name)
        try:
            return raw_keys.parse(read_bounded(path))
        except CredentialError as error:
            raise FileProblem(f"{path} cannot be used: {error}") from None

    def crl(self, path: Path) -> Crl:
        """A revocation list. Raises `FileProblem`."""
        try:
            found = parse_crl(read_bounded(path))
        except CredentialError as error:
            raise FileProblem(f"{path} cannot be used: {error}") from None
        if len(found.der) > MAX_CRL_FILE:
            raise FileProblem(
                f"{path} is longer than {MAX_CRL_FILE} octets: name its place in authorities.<name>.crl_uris"
            )
        return found

    def validity_notes(self, wall: float) -> Iterator[str]:
        """Certificates that were read and are not valid at `wall` (Unix seconds)."""
        for path, certificate in self._certificates.items():
            if wall > certificate.not_after:
                yield f"{path} ({certificate.title}) expired on {_day(certificate.not_after)}"
            elif wall < certificate.not_before:
                yield f"{path} ({certificate.title}) is not valid before {_day(certificate.not_before)}"

    def private_key(self, directory: str, name: str, passphrase: bytes | None) -> bytes:
        """A private key as PKCS#8 DER. Raises `FileProblem`, also if everybody can read the file."""
        path = self.find(directory, name)
        data = read_bounded(path)
        refuse_if_public(path)
        try:
            return load_key(path, data, passphrase)
        except Locked as locked:
            return self._unlocked(path, locked, lambda word: load_key(path, data, word))

    def _unlocked(self, path: Path, locked: Locked, unlock: Callable[[bytes], Found]) -> Found:
        """What the passphrase that a person gives opens. Raises `Locked`; `FileProblem` for wrong ones."""
        if self.ask is None:
            raise locked
        for left in reversed(range(ASKED)):
            word = self.ask(path)
            if word is None:
                raise locked
            try:
                return unlock(word)
            except FileProblem:
                if not left:
                    raise
        raise locked

    def key_store(
        self, directory: str, name: str, passphrase: bytes | None
    ) -> tuple[bytes, list[Certificate]]:
        """The private key and certificates of a PKCS#12 file."""
        path = self.find(directory, name)
        data = read_bounded(path)
        refuse_if_public(path)
        try:
            store = load_store(path, data, passphrase)
        except Locked as locked:
            store = self._unlocked(path, locked, lambda word: load_store(path, data, word))
        if store.key is None:
            raise FileProblem(f"{path} holds no private key")
        held = [store.cert, *store.additional_certs]
        try:
            certificates = [
                parse_any(entry.certificate.public_bytes(Encoding.DER)) for entry in held if entry is not None
            ]
        except CredentialError as error:
            raise FileProblem(f"{path} cannot be used: {error}") from None
        return _to_der(store.key), certificates

    def users(self, name: str) -> Iterator[User]:
        """The users of a file: lines of a name, hashes, and `groups=a,b`. Raises `FileProblem`."""
        path = self.find("", name)
        refuse_if_public(path)
        for number, line in enumerate(read_bounded(path).decode(errors="replace").splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                groups = [word for word in words[1:] if word.startswith("groups=")]
                hashes = [read_hash(word) for word in words[1:] if word not in groups]
                user = Identity.parse(words[0])
            except (CredentialError, BadIdentity) as error:
                raise FileProblem(f"{path}, line {number}: {error}") from None
            if not hashes:
                raise FileProblem(f"{path}, line {number}: holds no hash")
            members = tuple(one for word in groups for one in word[7:].split(",") if one)
            yield User(user, tuple(hashes), members)

    def listed(self, directory: str) -> list[Path]:
        """The files in one of swanctl's directories, by name."""
        folder = self.base / directory
        if not folder.is_dir():
            return []
        try:
            return sorted(
                path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
            )
        except OSError as error:
            raise FileProblem(f"{folder} cannot be read: {error.strerror}") from None


def _day(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise FileProblem(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise FileProblem(f"{path} is larger than 1 MiB")
    return data


def refuse_if_public(path: Path) -> None:
    """Raise if others than owner and group can read or change the file."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise FileProblem(
            f"{path} holds a secret and everybody can read it (mode {mode:04o}): chmod 600 {path}"
        )


def load_key(path: Path, data: bytes, passphrase: bytes | None) -> bytes:
    """A private key in PEM or DER, encrypted or not, as PKCS#8 DER."""
    load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    try:
        return _to_der(load(data, password=passphrase))
    except TypeError:
        # The library's way to say that it got a passphrase for a plain key, or none for an encrypted one.
        if passphrase is not None:
            return load_key(path, data, None)
        raise Locked(
            f"{path} is encrypted: give its passphrase in secrets.private-... {{ file, secret }}, or to "
            "`cygnet reload`, which asks for it"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        reason = (
            "is no private key, or its passphrase is wrong"
            if passphrase
            else "is no private key in PEM or DER"
        )
        raise FileProblem(f"{path} {reason}") from None


def load_store(path: Path, data: bytes, passphrase: bytes | None) -> pkcs12.PKCS12KeyAndCertificates:
    """A PKCS#12 file. That it is encrypted shows only in that it does not open."""
    try:
        return pkcs12.load_pkcs12(data, passphrase)
    except ValueError:
        problem = FileProblem if passphrase is not None else Locked
        raise problem(f"{path} is no PKCS#12 file, or its passphrase is wrong") from None


def _to_der(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
