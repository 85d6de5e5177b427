"""`cygnet pki`: a CA of one's own and certificates for gateways, enough for a first deployment.

Private keys are written for their owner only, and no file is ever overwritten without --force.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cygnet.auth import x509
from cygnet.auth.certificate import MAX_CERTIFICATE, Certificate, key_id_of, parse_any
from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import AuthenticationError, CredentialError
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.issue import BACKDATED, DAY, KEY_SIZES, Issued, issue, make_ca
from cygnet.cli.terminal import FAILED, JsonOption, complain, fail, out
from cygnet.crypto.signatures import PublicKey

pki_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make a CA and certificates for gateways; look at certificates and judge them.",
)

# A file of certificates is a chain, not a database.
MAX_FILE = 16 * MAX_CERTIFICATE
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class KeyType(StrEnum):
    ecdsa = "ecdsa"
    rsa = "rsa"
    ed25519 = "ed25519"
    ed448 = "ed448"


_SIZES = "; ".join(
    f"{kind}: {', '.join(map(str, sizes))}" for kind, sizes in KEY_SIZES.items() if len(sizes) > 1
)
TypeOption = Annotated[
    KeyType,
    typer.Option(
        "--type",
        help="Kind of key. ed25519 and ed448 need a peer that knows RFC 8420; every peer knows rsa.",
    ),
]
SizeOption = Annotated[
    int, typer.Option("--size", help=f"Bits of the key ({_SIZES}); 0: the first of these.", min=0)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
SubjectOption = Annotated[
    str,
    typer.Option("--dn", help='Distinguished name, such as "C=CH, O=Example, CN=moon".', show_default=False),
]


@pki_app.command()
def ca(
    subject: SubjectOption = "CN=Cygnet CA",
    kind: TypeOption = KeyType.ecdsa,
    size: SizeOption = 0,
    days: Annotated[int, typer.Option(help="How long it is valid.", min=1, max=36_500)] = 3650,
    certificate: Annotated[Path, typer.Option("--out", "-o", help="Where the certificate goes.")] = Path(
        "ca.pem"
    ),
    key: Annotated[Path, typer.Option("--key", "-k", help="Where its private key goes.")] = Path("ca.key"),
    force: ForceOption = False,
) -> None:
    """Make a CA: its certificate, which every gateway gets, and its key, which none does.

    Whoever has the key can be every gateway: keep it on a machine of its own, off the net.
    """
    now = time.time()
    try:
        made = make_ca(
            subject, not_before=now - BACKDATED, not_after=now + days * DAY, kind=kind.value, size=size
        )
    except CredentialError as error:
        fail(str(error))
    _write_pair(made, certificate, key, force=force)
    _tell(made, certificate, key)


@pki_app.command(name="issue")
def issue_certificate(
    identities: Annotated[
        list[str],
        typer.Argument(
            metavar="IDENTITY...",
            help="What the gateway calls itself: names, addresses, mail addresses. "
            "Its configured id must be one of these, or the DN.",
            show_default=False,
        ),
    ],
    ca_certificate: Annotated[Path, typer.Option("--ca", help="The CA's certificate.")] = Path("ca.pem"),
    ca_key: Annotated[Path, typer.Option("--ca-key", help="The CA's private key.")] = Path("ca.key"),
    subject: SubjectOption = "",
    kind: TypeOption = KeyType.ecdsa,
    size: SizeOption = 0,
    days: Annotated[
        int, typer.Option(help="How long it is valid; no longer than its CA.", min=1, max=36_500)
    ] = 730,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Where the certificate goes; else IDENTITY.pem.", show_default=False
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", "-k", help="Where its private key goes; else IDENTITY.key.", show_default=False
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Issue a certificate and a new private key for a gateway."""
    now = time.time()
    try:
        parsed = [Identity.parse(text) for text in identities]
        authority = Issued(_read(ca_certificate), _read(ca_key))
        made = issue(
            authority,
            parsed,
            not_before=now - BACKDATED,
            not_after=now + days * DAY,
            subject=subject,
            kind=kind.value,
            size=size,
        )
    except (BadIdentity, CredentialError) as error:
        fail(str(error))
    base = re.sub(r"[^A-Za-z0-9.@_-]", "_", identities[0]).lstrip(".") or "gateway"
    certificate = certificate or Path(f"{base}.pem")
    key = key or Path(f"{base}.key")
    _write_pair(made, certificate, key, force=force)
    _tell(made, certificate, key)


@pki_app.command()
def show(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Certificates and private keys.", show_default=False),
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what certificates and private keys hold; nothing of a private key but its kind and number."""
    found = [entry for path in files for entry in _describe(path)]
    if as_json:
        out.print_json(json.dumps(found))
        return
    for number, entry in enumerate(found):
        if number:
            out.print()
        for label, value in entry.items():
            for position, line in enumerate(value if isinstance(value, list) else [value]):
                out.print(f"{label if not position else '':<12}{line}", markup=False)


@pki_app.command()
def verify(
    certificate: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The certificate, intermediates behind it.", show_default=False),
    ],
    ca_certificates: Annotated[
        list[Path], typer.Option("--ca", help="A CA that is trusted; may be repeated.", show_default=False)
    ],
    identity: Annotated[
        str, typer.Option("--id", help="Whether it is good for this identity.", show_default=False)
    ] = "",
    at: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="At this time (UTC), not now.", show_default=False
        ),
    ] = None,
) -> None:
    """Judge a certificate as a gateway would when a peer presents it.

    Exit status 1 and one reason if it would not be accepted: certificate-untrusted,
    certificate-expired, certificate-not-yet-valid, certificate-invalid, certificate-id-mismatch.
    """
    wall = time.time() if at is None else at.replace(tzinfo=UTC).timestamp()
    credentials = Credentials()
    try:
        wanted = Identity.parse(identity) if identity else None
        for path in ca_certificates:
            for one in _certificates(path):
                credentials.add_certificate(one.der, ca=True)
        chain = _certificates(certificate)
        if wanted is not None:
            path_found = credentials.trusted_key(wanted, [one.der for one in chain], wall=wall).chain
        else:
            path_found = x509.validate(chain[0], chain[1:], credentials.anchors(), wall)
    except (BadIdentity, CredentialError) as error:
        fail(str(error))
    except AuthenticationError as error:
        fail(f"{error.kind}: {error.detail}")
    until = min(one.not_after for one in path_found)
    out.print(f"trusted until {_date(until)}", markup=False)
    for depth, one in enumerate(path_found):
        out.print(f"{'  ' * depth}{'signed by ' if depth else ''}{one.title}", markup=False)


# -- files ----------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    """The content of a file that a person named; what cannot be read ends the command."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    if len(data) > MAX_FILE:
        fail(f"{path}: more than {MAX_FILE} octets, this is no certificate")
    return data


def _blocks(data: bytes) -> list[tuple[str, bytes]]:
    """(label, block) of each PEM block; DER is one block without a label."""
    found = [(match[1].decode(), match[0] + b"\n") for match in _BLOCK.finditer(data)]
    return found or [("", data)]


def _certificates(path: Path) -> list[Certificate]:
    blocks = [block for label, block in _blocks(_read(path)) if label in ("", "CERTIFICATE")]
    if not blocks:
        raise CredentialError(f"{path} holds no certificate")
    try:
        return [parse_any(block) for block in blocks]
    except CredentialError as error:
        raise CredentialError(f"{path}: {error}") from None


def _write_pair(made: Issued, certificate: Path, key: Path, *, force: bool) -> None:
    """Both files or neither."""
    if certificate.absolute() == key.absolute():
        fail("the certificate and its private key need a file each")
    if not force:
        for path in (key, certificate):
            if os.path.lexists(path):
                fail(f"{path} exists; --force overwrites it")
    staged: list[tuple[Path, Path]] = []
    path = key
    try:
        for path, data, mode in ((key, made.key, 0o600), (certificate, made.certificate, 0o644)):
            staged.append((_stage(path, data, mode), path))
        for temporary, path in staged:
            _place(temporary, path, force=force)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)


def _stage(path: Path, data: bytes, mode: int) -> Path:
    """The whole content under another name beside `path`, with its mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    return Path(name)


def _place(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
    else:
        # A link, other than a rename, does not replace what came to be there meanwhile.
        os.link(temporary, path)


def _tell(made: Issued, certificate: Path, key: Path) -> None:
    parsed = parse_any(made.certificate)
    names = ", ".join(str(one) for one in parsed.identities())
    out.print(f"{certificate}: {names}, valid until {_date(parsed.not_after)}", markup=False)
    out.print(f"{key}: its private key ({_key_text(parsed.public_key)}), readable by you only", markup=False)


# -- descriptions ---------------------------------------------------------------------------------


def _describe(path: Path) -> Iterable[dict[str, Any]]:
    for label, block in _blocks(_read(path)):
        try:
            if "PRIVATE KEY" in label:
                yield {"file": str(path), **_describe_key(block)}
                continue
            try:
                yield {"file": str(path), **_describe_certificate(parse_any(block))}
            except CredentialError as error:
                if label:
                    raise
                # DER does not say what it is.
                try:
                    yield {"file": str(path), **_describe_key(block)}
                except CredentialError:
                    raise error from None
        except CredentialError as error:
            complain(f"{path}: {error}")
            raise typer.Exit(FAILED) from None


def _describe_key(block: bytes) -> dict[str, Any]:
    credentials = Credentials()
    key_id = credentials.add_private_key(block)
    key = credentials.private_key(key_id)
    return {"private key": _key_text(key.public_key()) if key else "", "key id": key_id}


def _describe_certificate(certificate: Certificate) -> dict[str, Any]:
    handle = certificate.handle
    entry: dict[str, Any] = {
        "subject": certificate.title,
        "issuer": certificate.issuer_title + (" (itself)" if certificate.is_self_issued else ""),
        "serial": f"{handle.serial_number:x}",
        "valid": [f"from  {_date(certificate.not_before)}", f"until {_date(certificate.not_after)}"],
        "identities": [str(one) for one in certificate.identities()] or ["none"],
        "key": _key_text(certificate.public_key),
        "key id": key_id_of(certificate.spki).hex(),
    }
    if certificate.is_ca:
        below = "any number of" if certificate.path_length is None else str(certificate.path_length)
        entry["CA"] = f"yes, {below} CAs below it"
    if certificate.fault:
        entry["refused"] = certificate.fault
    elif not certificate.is_ca and not certificate.signs_messages:
        entry["refused"] = "its keyUsage or extendedKeyUsage does not allow IKE signatures"
    return entry


def _key_text(key: PublicKey) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa, {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ecdsa, {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_").lower()


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
