"""Certificates between Cygnet and strongSwan; the certificates are made by strongSwan's own `pki`."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.sides import Setup, sides

BY = pytest.mark.parametrize("by", ["cygnet", "strongswan"])


def pki(*arguments: str, feed: bytes = b"") -> bytes:
    return subprocess.run(["pki", *arguments], input=feed, capture_output=True, check=True).stdout


@dataclass
class Authority:
    """A CA in `directory`; `key_options` are `pki --gen`'s. `issuer`: it is an intermediate one."""

    directory: Path
    name: str = "ca"
    key_options: tuple[str, ...] = ("--type", "ecdsa", "--size", "256")
    issuer: Authority | None = None

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.key = self.directory / f"{self.name}.key"
        self.certificate = self.directory / f"{self.name}.pem"
        self.key.write_bytes(pki("--gen", *self.key_options, "--outform", "pem"))
        if self.issuer is not None:
            public = pki("--pub", "--type", "priv", feed=self.key.read_bytes())
            self.certificate.write_bytes(
                pki(
                    "--issue", "--ca", "--cacert", str(self.issuer.certificate),
                    "--cakey", str(self.issuer.key), "--type", "pub",
                    "--dn", f"C=CH, O=Test, CN={self.name}", "--outform", "pem",
                    feed=public,
                )
            )  # fmt: skip
            return
        self.certificate.write_bytes(
            pki(
                "--self",
                "--ca",
                "--in",
                str(self.key),
                "--dn",
                f"C=CH, O=Test, CN={self.name}",
                "--lifetime",
                "100",
                "--outform",
                "pem",
            )
        )

    def issue(self, side: str, san: str, *options: str) -> tuple[bytes, bytes]:
        """(private key, certificate), both PEM."""
        key = pki("--gen", *self.key_options, "--outform", "pem")
        # pki maps a file that it is given into memory, which a pipe cannot be; its standard input may be one.
        public = pki("--pub", "--type", "priv", feed=key)
        certificate = pki(
            "--issue", "--cacert", str(self.certificate), "--cakey", str(self.key), "--type", "pub",
            "--dn", f"C=CH, O=Test, CN={side}", "--san", san, *options, "--outform", "pem",
            feed=public,
        )  # fmt: skip
        return key, certificate

    def equip(self, side: Path, name: str, san: str, *options: str, trusted: Path | None = None) -> None:
        """Put a certificate, its key and the trusted CA where swanctl looks for them, in `side`."""
        key, certificate = self.issue(name, san, *options)
        root = self.certificate if self.issuer is None else self.issuer.certificate
        files = [
            ("x509", f"{name}.pem", certificate),
            ("private", f"{name}.pem", key),
            ("x509ca", "ca.pem", (trusted or root).read_bytes()),
        ]
        if self.issuer is not None:
            files.append(("x509", f"{self.name}.pem", self.certificate.read_bytes()))
        for folder, file, data in files:
            # strongSwan's folder is below `swanctl`, Cygnet's configuration lies beside its own.
            for base in (side, side / "swanctl"):
                target = base / folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                target.chmod(0o600)


KEYS = {
    "rsa": ("--type", "rsa", "--size", "2048"),
    "ecdsa256": ("--type", "ecdsa", "--size", "256"),
    "ecdsa384": ("--type", "ecdsa", "--size", "384"),
    "ed25519": ("--type", "ed25519"),
}


@BY
@pytest.mark.parametrize("kind", list(KEYS))
def test_certificates_of_each_kind_authenticate_both_sides(tmp_path: Path, by: str, kind: str) -> None:
    """Each side sends the intermediate CA along; the other knows the root only."""
    root = Authority(tmp_path / "ca", key_options=KEYS[kind])
    ca = Authority(tmp_path / "ca", "intermediate", KEYS[kind], root)
    ca.equip(tmp_path / "moon", "moon", "moon.example")
    ca.equip(tmp_path / "sun", "sun", "sun.example")
    with sides(tmp_path, Setup(auth="pubkey")) as both:
        both.up(by)
        both.assert_traffic_passes()


@BY
@pytest.mark.parametrize("kind", ["rsa", "ecdsa256"])
def test_the_classic_methods_serve_a_peer_without_signature_hashes(
    tmp_path: Path, by: str, kind: str
) -> None:
    ca = Authority(tmp_path / "ca", key_options=KEYS[kind])
    ca.equip(tmp_path / "moon", "moon", "moon.example")
    ca.equip(tmp_path / "sun", "sun", "sun.example")
    old = Setup(auth="pubkey")
    old = old.but(options=old.options + "\n signature_authentication = no")
    with sides(tmp_path, old) as both:
        both.up(by)
        both.assert_traffic_passes()


@BY
@pytest.mark.parametrize(
    ("moon_id", "sun_id", "moon_san", "sun_san"),
    [
        ("C=CH, O=Test, CN=moon", "C=CH, O=Test, CN=sun", "moon.example", "sun.example"),
        ("moon@example.org", "sun@example.org", "moon@example.org", "sun@example.org"),
        ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"),
    ],
    ids=["dn", "email", "address"],
)
def test_identities_of_each_type_are_proved_by_the_certificate(
    tmp_path: Path, by: str, moon_id: str, sun_id: str, moon_san: str, sun_san: str
) -> None:
    ca = Authority(tmp_path / "ca")
    ca.equip(tmp_path / "moon", "moon", moon_san)
    ca.equip(tmp_path / "sun", "sun", sun_san)
    with sides(tmp_path, Setup(auth="pubkey", moon_id=moon_id, sun_id=sun_id)) as both:
        both.up(by)
        both.assert_traffic_passes()


@BY
def test_large_messages_travel_in_fragments(tmp_path: Path, by: str) -> None:
    """RSA certificates under an intermediate CA, on a link that carries no more than IPv6 must (RFC 7383)."""
    root = Authority(tmp_path / "ca", key_options=KEYS["rsa"])
    ca = Authority(tmp_path / "ca", "intermediate", ("--type", "rsa", "--size", "3072"), root)
    ca.equip(tmp_path / "moon", "moon", "moon.example")
    ca.equip(tmp_path / "sun", "sun", "sun.example")
    setup = Setup(auth="pubkey", connection="fragmentation = yes")
    with sides(tmp_path, setup.but(options=setup.options + "\n fragment_size = 1280")) as both:
        for space in (both.net.moon, both.net.sun):
            space.ip("link set outer mtu 1280")
        both.up(by)
        log = both.sun.log()
        assert re.search(r"received fragment #\d+ of [2-9]", log)
        assert re.search(r"splitting IKE message .* into [2-9] fragments", log)
        both.assert_traffic_passes()


@BY
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_public_keys_without_certificates_authenticate_both_sides(tmp_path: Path, by: str, kind: str) -> None:
    """RFC 7670."""
    for side, other in (("moon", "sun"), ("sun", "moon")):
        key = pki("--gen", "--type", kind, "--outform", "pem")
        public = pki("--pub", "--type", "priv", "--outform", "pem", feed=key)
        for whose, folder, name, data in (
            (side, "private", f"{side}.key", key),
            (side, "pubkey", f"{side}.pub", public),
            (other, "pubkey", f"{side}.pub", public),
        ):
            base = tmp_path / whose / ("swanctl" if whose == "sun" else "") / folder
            base.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(data)
            (base / name).chmod(0o600)
    setup = Setup(
        auth="raw",
        connection="send_cert = always",
        moon_local="auth = pubkey\n id = moon.example\n pubkeys = moon.pub",
        moon_remote="auth = pubkey\n id = sun.example\n pubkeys = sun.pub",
        sun_local="auth = pubkey\n id = sun.example\n pubkeys = sun.pub",
        sun_remote="auth = pubkey\n id = moon.example\n pubkeys = moon.pub",
    )
    with sides(tmp_path, setup) as both:
        both.up(by)
        both.assert_traffic_passes()
