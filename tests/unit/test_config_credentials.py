"""Certificates, keys and secrets of a configuration: found, judged, refused with a reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from cygnet.auth import issue
from cygnet.auth.certificate import parse_any
from cygnet.auth.identity import Identity
from cygnet.auth.revocation import Places
from cygnet.config import requests
from cygnet.config.load import load
from cygnet.config.problems import ConfigurationError
from cygnet.daemon import bundle
from tests.unit.auth_material import ca
from tests.unit.config_files import BEGIN, END, credentials, loaded, problems, put, write
from tests.unit.revocation_material import revocation_list

CERT = """
[connections.branch]
remote_addrs = ["192.0.2.2"]
local = { auth = "pubkey", certs = ["gw.pem"], id = "moon.example" }
remote = { auth = "pubkey", id = "sun.example", cacerts = ["ca.pem"] }
children.net = { local_ts = ["10.1.0.0/16"], remote_ts = ["10.2.0.0/16"] }
"""


def test_files_are_found_in_swanctls_directories(tmp_path: Path) -> None:
    credentials(tmp_path)
    configuration = loaded(tmp_path, CERT)
    (connection,) = configuration.connections
    ca = parse_any((tmp_path / "x509ca/ca.pem").read_bytes()).der
    own = parse_any((tmp_path / "x509/gw.pem").read_bytes()).der
    assert connection.local[0].certificates == (own,)
    assert connection.remote[0].ca_certificates == (ca,)
    assert {entry.der: entry.ca for entry in configuration.certificates} == {ca: True, own: False}
    store = configuration.credentials()
    assert store.key_for(own) is not None
    assert [anchor.der for anchor in store.anchors()] == [ca]


def test_files_may_be_der_absolute_or_beside_the_configuration(tmp_path: Path) -> None:
    credentials(tmp_path)
    own = parse_any((tmp_path / "x509/gw.pem").read_bytes()).der
    (tmp_path / "x509/gw.pem").unlink()
    put(tmp_path / "own.der", own)
    elsewhere = put(tmp_path / "elsewhere/ca.der", parse_any((tmp_path / "x509ca/ca.pem").read_bytes()).der)
    text = CERT.replace("gw.pem", "own.der").replace("ca.pem", str(elsewhere))
    assert loaded(tmp_path, text).connections[0].local[0].certificates == (own,)


def test_certificates_may_be_sections_with_a_file(tmp_path: Path) -> None:
    credentials(tmp_path)
    text = CERT.replace('certs = ["gw.pem"]', 'cert-1 = { file = "gw.pem" }').replace(
        'cacerts = ["ca.pem"]', 'cacert-x = { file = "ca.pem" }'
    )
    assert loaded(tmp_path, text).connections == loaded(tmp_path, CERT).connections


def key_of(directory: Path) -> bytes:
    return (directory / "private/gw.key").read_bytes()


def encrypted(directory: Path, encoding: Encoding) -> bytes:
    key = load_pem_private_key(key_of(directory), None)
    return key.private_bytes(encoding, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_an_encrypted_key_opens_with_its_secret(tmp_path: Path, encoding: Encoding) -> None:
    credentials(tmp_path)
    plain = loaded(tmp_path, CERT).keys
    put(tmp_path / "private/gw.key", encrypted(tmp_path, encoding))
    (problem,) = [one for one in problems(tmp_path, CERT) if "gw.key" in one.text]
    assert "encrypted" in problem.text
    secret = CERT + '\n[secrets.private-gw]\nfile = "gw.key"\nsecret = "SESAME"\n'
    assert loaded(tmp_path, secret.replace("SESAME", "open sesame")).keys == plain
    found = problems(tmp_path, secret.replace("SESAME", "open barley"))
    assert any(one.key == "secrets.private-gw.file" and "passphrase is wrong" in one.text for one in found)


def asking(*words: str) -> tuple[Callable[[Path], bytes | None], list[str]]:
    """Somebody who answers so, and the names of the files they were asked about."""
    answers, about = [word.encode() or None for word in words], list[str]()

    def ask(path: Path) -> bytes | None:
        about.append(path.name)
        return answers.pop(0)

    return ask, about


@pytest.mark.parametrize("kind", ["gw.key", "gw.p12"])
def test_an_encrypted_key_is_asked_for_where_somebody_is(tmp_path: Path, kind: str) -> None:
    credentials(tmp_path)
    plain, text = loaded(tmp_path, CERT).keys, CERT
    if kind == "gw.key":
        put(tmp_path / "private/gw.key", encrypted(tmp_path, Encoding.PEM))
    else:
        key = load_pem_private_key(key_of(tmp_path), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        sealed = serialize_key_and_certificates(
            b"gw", key, None, None, BestAvailableEncryption(b"open sesame")
        )
        put(tmp_path / "pkcs12/gw.p12", sealed)
        (tmp_path / "private/gw.key").unlink()
        text += '\n[secrets.pkcs12-gw]\nfile = "gw.p12"\n'
    file = write(tmp_path, text)
    ask, about = asking("open barley", "open sesame")
    assert load(file, ask=ask).keys == plain
    assert about == [kind, kind]
    ask, about = asking("open barley", "open wheat", "open rye", "open sesame")
    with pytest.raises(ConfigurationError, match="passphrase is wrong"):
        load(file, ask=ask)
    assert len(about) == 3
    # At the start there is nobody: the gateway comes up without it, and says so.
    found = load(file, ask=asking("")[0])
    assert not found.keys
    assert any(kind in str(warning) for warning in found.warnings)
    assert any(kind in one.text for one in problems(tmp_path, text))
    descriptor, _ = bundle.obtain(file, locked=True)
    assert not [command for command, _ in bundle.read(descriptor).commands if command == "load-key"]
    os.close(descriptor)
    with pytest.raises(bundle.NotReadable, match=kind):
        bundle.obtain(file)


def test_a_key_may_stand_anywhere_and_be_named(tmp_path: Path) -> None:
    credentials(tmp_path)
    put(tmp_path / "gateway.pem", key_of(tmp_path))
    (tmp_path / "private/gw.key").unlink()
    assert loaded(tmp_path, CERT + '\n[secrets.private]\nfile = "gateway.pem"\n').keys
    (problem,) = problems(tmp_path, CERT)
    assert (problem.key, problem.text) == (
        "connections.branch", "authenticates with a private key, and there is none"
    )  # fmt: skip


def test_a_key_store_brings_its_key_and_certificates(tmp_path: Path) -> None:
    credentials(tmp_path)
    key = load_pem_private_key(key_of(tmp_path), None)
    own = x509.load_pem_x509_certificate((tmp_path / "x509/gw.pem").read_bytes())
    ca = x509.load_pem_x509_certificate((tmp_path / "x509ca/ca.pem").read_bytes())
    store = pkcs12.serialize_key_and_certificates(b"gw", key, own, [ca], BestAvailableEncryption(b"pass"))  # type: ignore[arg-type]
    expected = loaded(tmp_path, CERT)
    for path in ("private/gw.key", "x509ca/ca.pem"):
        (tmp_path / path).unlink()
    put(tmp_path / "pkcs12/all.p12", store)
    text = (
        CERT.replace(', cacerts = ["ca.pem"]', "")
        + '\n[secrets.pkcs12-1]\nfile = "all.p12"\nsecret = "pass"\n'
    )
    configuration = loaded(tmp_path, text)
    assert configuration.keys == expected.keys
    assert {entry.der: entry.ca for entry in configuration.certificates} == {
        entry.der: entry.ca for entry in expected.certificates
    }
    (problem,) = [one for one in problems(tmp_path, text.replace('"pass"', '"word"')) if "pkcs12" in one.key]
    assert "passphrase is wrong" in problem.text


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    credentials(tmp_path)
    (tmp_path / "private/gw.key").chmod(0o644)
    found = problems(tmp_path, CERT)
    assert any("everybody can read it (mode 0644): chmod 600" in one.text for one in found)


def test_a_certificate_without_its_key_is_an_error(tmp_path: Path) -> None:
    credentials(tmp_path)
    ca = issue.make_ca("CN=Other", not_before=BEGIN, not_after=END)
    other = issue.issue(ca, [Identity.parse("moon.example")], not_before=BEGIN, not_after=END)
    put(tmp_path / "private/gw.key", other.key)
    (problem,) = problems(tmp_path, CERT)
    assert "no private key belongs to one of them" in problem.text


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_told_with_its_file(tmp_path: Path, content: bytes) -> None:
    credentials(tmp_path)
    put(tmp_path / "x509/gw.pem", content)
    found = problems(tmp_path, CERT)
    assert any(one.key == "connections.branch.local.certs" and "x509/gw.pem" in one.text for one in found)


def test_what_is_no_key_is_told_with_its_file(tmp_path: Path) -> None:
    credentials(tmp_path)
    put(tmp_path / "private/gw.key", b"hello")
    assert any("gw.key is no private key in PEM or DER" in one.text for one in problems(tmp_path, CERT))


def test_an_authority_must_be_one(tmp_path: Path) -> None:
    credentials(tmp_path)
    text = CERT + '\n[authorities.corp]\ncacert = "ca.pem"\n'
    configuration = loaded(tmp_path, text)
    assert [authority.name for authority in configuration.authorities] == ["corp"]
    (problem,) = problems(tmp_path, text.replace('cacert = "ca.pem"', f'file = "{tmp_path}/x509/gw.pem"'))
    assert (problem.key, "no CA" in problem.text) == ("authorities.corp.file", True)
    (problem,) = problems(tmp_path, text.replace('cacert = "ca.pem"', ""))
    assert "exactly one certificate" in problem.text
    asked = text + 'crl_uris = ["http://a/ca.crl", "http://b/"]\nocsp_uris = "http://ocsp/"\n'
    (authority,) = loaded(tmp_path, asked).authorities
    assert authority.places == Places(("http://a/ca.crl", "http://b/"), ("http://ocsp/",))
    assert requests.authority(requests.authority_message(authority)) == authority
    for url in ("https://a/", "file:///etc/passwd", "http://a b/"):
        (problem,) = problems(tmp_path, text + f'crl_uris = "{url}"\n')
        assert (problem.key, problem.text) == ("authorities.corp.crl_uris", "is no http URL")


def test_revocation_lists_come_from_their_directory(tmp_path: Path) -> None:
    credentials(tmp_path)
    (tmp_path / "x509crl").mkdir()
    file = tmp_path / "x509crl" / "ca.crl"
    old = revocation_list(ca("CN=Elsewhere"))
    file.write_bytes(old)
    configuration = loaded(tmp_path, CERT)
    assert configuration.crls == (old,)
    assert any("served until" in warning.text for warning in configuration.warnings)
    sent = [message for name, message in configuration.commands() if message.get("type") == "X509_CRL"]
    assert [requests.revocation_list(message) for message in sent] == [old]
    assert [one.der for one in configuration.credentials().revocations.crls()] == [old]
    file.write_bytes(old[:-5])
    (problem,) = problems(tmp_path, CERT)
    assert "not a CRL" in problem.text


def test_short_secrets_are_warned_of(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, '[secrets.ike-1]\nsecret = "stubby"\n')
    assert "secrets.ike-1.secret" in [warning.key for warning in configuration.warnings]
    assert "stubby" not in repr(configuration)


def test_an_expired_certificate_is_warned_of(tmp_path: Path) -> None:
    credentials(tmp_path)
    ca = issue.make_ca("CN=Test CA", not_before=1e9, not_after=1.1e9)
    put(tmp_path / "x509ca/ca.pem", ca.certificate)
    warnings = loaded(tmp_path, CERT).warnings
    assert any("expired" in warning.text and "ca.pem" in warning.text for warning in warnings)
