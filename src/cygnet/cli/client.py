"""`cygnet client`: users for a remote-access gateway, and files that set up their devices.

`hash` prints what is kept of a password. `add` writes a user's line into a file of users and makes a profile:

    windows     a PowerShell script: Add-VpnConnection, and algorithms better than Windows' own (MODP 1024)
    apple       a configuration profile (.mobileconfig) for iOS, iPadOS and macOS
    strongswan  a profile (.sswan) for strongSwan's app on Android
    android     what to type into Android's own client, which takes no file

A profile holds no password: the device asks for it.
"""

from __future__ import annotations

import base64
import getpass
import json
import os
import plistlib
import sys
import uuid
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cygnet.auth.certificate import Certificate, parse_any
from cygnet.auth.eap import mschapv2
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.passwords import NT, hash_password
from cygnet.cli.terminal import fail, out
from cygnet.crypto import legacy
from cygnet.crypto.entropy import SystemEntropy

client_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Users of a remote-access gateway, and files that set up their devices.",
)
MIN_PASSWORD = 8


class Device(StrEnum):
    windows = "windows"
    apple = "apple"
    strongswan = "strongswan"
    android = "android"


@client_app.command("hash")
def hash_command(
    method: Annotated[
        str, typer.Option("--for", help="`mschapv2` (an NT hash), `gtc` (scrypt), or `all`.")
    ] = "all",
) -> None:
    """Print what is kept of a password (`hash` of a `secrets.eap` section, a file of users). Asks for it."""
    for line in hashes(_password(), method):
        sys.stdout.write(line + "\n")


def hashes(password: bytes, method: str = "all") -> list[str]:
    """The forms of a password: what each method needs."""
    kept = []
    if method in ("all", "mschapv2"):
        if not legacy.available():
            fail(legacy.MISSING)
        kept.append(NT + mschapv2.nt_hash(password).hex())
    if method in ("all", "gtc"):
        kept.append(hash_password(password, SystemEntropy()))
    if not kept:
        fail(f"{method!r} is none of mschapv2, gtc, all")
    return kept


@client_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The user's name, as in EAP: carol or carol@example.org.")],
    gateway: Annotated[str, typer.Option("--gateway", help="The gateway's name, as in its certificate.")],
    ca: Annotated[Path, typer.Option("--ca", help="The CA of the gateway's certificate, PEM or DER.")],
    users: Annotated[
        Path | None, typer.Option("--users", help="File of users (`secrets.users`) to write the user into.")
    ] = None,
    device: Annotated[
        list[Device] | None, typer.Option("--for", help="Which device; may be repeated.")
    ] = None,
    directory: Annotated[Path, typer.Option("--out", help="Where the files go.")] = Path(),
    groups: Annotated[str, typer.Option("--groups", help="Groups of the user, joined by commas.")] = "",
) -> None:
    """Add a user who proves itself by EAP-MSCHAPv2, and write files that set up its devices."""
    try:
        identity = Identity.parse(name)
        authority = parse_any(ca.read_bytes())
    except (BadIdentity, CredentialError, OSError) as error:
        fail(str(error))
    if not gateway.isprintable():
        fail("the gateway's name holds a control character")
    if identity.has_wildcards or any(letter.isspace() for letter in name):
        fail(f"{name!r} is no name of one user")
    if users is not None:
        write_user(users, name, hashes(_password(), "mschapv2"), groups)
        out.print(f"{name} stands in {users}; `cygnet reload` lets it in")
    makers: dict[Device, tuple[str, Callable[[str, str, Certificate], bytes]]] = {
        Device.windows: ("ps1", windows),
        Device.apple: ("mobileconfig", apple),
        Device.strongswan: ("sswan", strongswan),
    }
    for one in device or list(makers):
        if one is Device.android:
            out.print(android(name, gateway))
            continue
        suffix, make = makers[one]
        path = directory / f"{identity_file(name)}.{suffix}"
        path.write_bytes(make(name, gateway, authority))
        out.print(f"wrote {path}")


def identity_file(name: str) -> str:
    """A name as a file's."""
    safe = "".join(letter if letter.isalnum() or letter in "-_.@" else "_" for letter in name)
    return safe.lstrip(".") or "user"


def write_user(users: Path, name: str, kept: list[str], groups: str) -> None:
    """Put a user's line in the place of an earlier one, or behind the others. The file stays its owner's."""
    lines = users.read_text().splitlines() if users.exists() else []
    new = " ".join([name, *kept, *([f"groups={groups}"] if groups else [])])
    lines = [line for line in lines if line.split()[:1] != [name]]
    fresh = users.with_name(users.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write("\n".join([*lines, new]) + "\n")
    fresh.replace(users)


def _password() -> bytes:
    """Asked twice of a person; a pipe gives one line."""
    if not sys.stdin.isatty():
        word = sys.stdin.readline().rstrip("\n")
    else:
        word = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != word:
            fail("these are two different passwords")
    if len(word) < MIN_PASSWORD:
        fail(f"a password has at least {MIN_PASSWORD} characters")
    return word.encode()


# -- profiles -----------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    """A string of PowerShell: nothing inside single quotes is expanded."""
    return "'" + text.replace("'", "''") + "'"


def windows(name: str, gateway: str, ca: Certificate) -> bytes:
    """Windows 10 and 11. `Set-VpnConnectionIPsecConfiguration` takes MODP 1024 and SHA-1 out of use; the CA
    goes where machines' certificates are judged, for this computer."""
    vpn = _quoted(gateway)
    data = base64.b64encode(ca.der).decode()
    return f"""\
# Run as administrator. Sets up the VPN {gateway} for {name}; Windows asks for the password when it connects.
$certificate = [Convert]::FromBase64String('{data}')
$ca = New-Object System.Security.Cryptography.X509Certificates.X509Certificate2(,$certificate)
$store = New-Object System.Security.Cryptography.X509Certificates.X509Store('Root', 'LocalMachine')
$store.Open('ReadWrite'); $store.Add($ca); $store.Close()
Add-VpnConnection -Name {vpn} -ServerAddress {vpn} -TunnelType Ikev2 -EncryptionLevel Required `
  -AuthenticationMethod Eap -RememberCredential -Force
Set-VpnConnectionIPsecConfiguration -ConnectionName {vpn} -AuthenticationTransformConstants GCMAES256 `
  -CipherTransformConstants GCMAES256 -EncryptionMethod GCMAES256 -IntegrityCheckMethod SHA384 `
  -DHGroup ECP384 -PfsGroup ECP384 -Force
""".replace("\n", "\r\n").encode()


def apple(name: str, gateway: str, ca: Certificate) -> bytes:
    """A configuration profile: the CA, and an IKEv2 VPN by user name and password."""

    def payload(kind: str, what: str, **content: Any) -> dict[str, Any]:
        identifier = f"org.cygnet.vpn.{gateway}.{what}"
        return {
            "PayloadType": kind,
            "PayloadVersion": 1,
            "PayloadIdentifier": identifier,
            "PayloadUUID": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name} {identifier}")).upper(),
            "PayloadDisplayName": f"{gateway} ({what})",
            **content,
        }

    security = {
        "EncryptionAlgorithm": "AES-256-GCM",
        "IntegrityAlgorithm": "SHA2-384",
        "DiffieHellmanGroup": 20,
        "LifeTimeInMinutes": 1440,
    }
    vpn = payload(
        "com.apple.vpn.managed",
        "vpn",
        UserDefinedName=gateway,
        VPNType="IKEv2",
        IKEv2={
            "RemoteAddress": gateway,
            "RemoteIdentifier": gateway,
            "LocalIdentifier": name,
            "AuthenticationMethod": "None",
            "ExtendedAuthEnabled": 1,
            "AuthName": name,
            "ServerCertificateIssuerCommonName": ca.title.rpartition("CN=")[2],
            "EnablePFS": 1,
            "DisableMOBIKE": 0,
            "IKESecurityAssociationParameters": security,
            "ChildSecurityAssociationParameters": {**security, "LifeTimeInMinutes": 60},
        },
    )
    authority = payload("com.apple.security.root", "ca", PayloadContent=ca.der)
    return plistlib.dumps(payload("Configuration", "profile", PayloadContent=[authority, vpn]))


def strongswan(name: str, gateway: str, ca: Certificate) -> bytes:
    """A profile of strongSwan's app for Android."""
    profile = {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name} {gateway}")),
        "name": gateway,
        "type": "ikev2-eap",
        "remote": {"addr": gateway, "id": gateway, "cert": base64.b64encode(ca.der).decode()},
        "local": {"eap_id": name},
        "ike-proposal": "aes256gcm16-prfsha384-x25519, aes256gcm16-prfsha384-ecp384",
        "esp-proposal": "aes256gcm16-x25519, aes256gcm16-ecp384",
    }
    return (json.dumps(profile, indent=2) + "\n").encode()


def android(name: str, gateway: str) -> str:
    """Android 11 and later: Settings, Network, VPN, +."""
    return (
        f"Android's own client: type IKEv2/IPSec MSCHAPv2, server {gateway}, IPSec identifier {name}, the CA "
        f"as IPSec CA certificate (install it first: Settings, Security, CA certificate), user name {name}"
    )
