"""Revoked and not revoked, by CRL and OCSP over HTTP, between Cygnet and strongSwan, either starting.

`pki --signcrl` makes the lists; OpenSSL's `ocsp` and Python's `http.server` answer in Cygnet's namespace.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cygnet.lab.namespaces import Namespace
from tests.interop.sides import Setup, Sides, sides
from tests.interop.test_certificates import BY, Authority, pki

CRL_URL, OCSP_URL = "http://127.0.0.1:8880/ca.crl", "http://127.0.0.1:8881/"
STRICT = Setup(
    auth="pubkey",
    moon_remote="auth = pubkey\n id = sun.example\n cacerts = ca.pem\n revocation = strict",
    sun_connection="send_cert = always",
)


def equipped(directory: Path, *options: str) -> Authority:
    ca = Authority(directory / "ca")
    ca.equip(directory / "moon", "moon", "moon.example")
    ca.equip(directory / "sun", "sun", "sun.example", *options)
    return ca


def sun_certificate(directory: Path) -> Path:
    return directory / "sun" / "x509" / "sun.pem"


def sign_list(ca: Authority, to: Path, *revoked: Path) -> None:
    chosen = [word for one in revoked for word in ("--reason", "key-compromise", "--cert", str(one))]
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(
        pki("--signcrl", "--cacert", str(ca.certificate), "--cakey", str(ca.key), "--lifetime", "9", *chosen)
    )


def serve_list(space: Namespace, folder: Path) -> None:
    server = [sys.executable, "-u", "-m", "http.server", "8880", "--bind", "127.0.0.1", "-d", str(folder)]
    started = space.start(*server)
    assert started.stdout is not None
    assert "Serving" in started.stdout.readline()


def serve_ocsp(space: Namespace, ca: Authority, certificate: Path, *, revoked: bool) -> None:
    serial = f"{x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number:X}"
    serial = serial.zfill(len(serial) + len(serial) % 2)
    state = "R\t360101000000Z\t240101000000Z" if revoked else "V\t360101000000Z\t"
    index = ca.directory / "index.txt"
    index.write_text(f"{state}\t{serial}\tunknown\t/CN=sun\n")
    started = space.start(
        "openssl", "ocsp", "-index", str(index), "-port", "8881", "-CA", str(ca.certificate),
        "-rsigner", str(ca.certificate), "-rkey", str(ca.key), "-rmd", "sha256",
    )  # fmt: skip
    assert started.stdout is not None
    assert "ACCEPT" in started.stdout.readline()


@contextmanager
def strict(directory: Path) -> Iterator[Sides]:
    with sides(directory, STRICT) as both:
        yield both


def outcome(both: Sides, by: str) -> str:
    """Everything that Cygnet says of the attempt."""
    if by == "cygnet":
        done = both.moon.cygnet("up", "net")
        return done.stdout + done.stderr
    both.sun.swanctl("--initiate", "--child", "net", "--timeout", "15")
    return both.moon.cygnet("status").stdout


@BY
@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
@pytest.mark.parametrize("way", ["file", "crl", "ocsp"])
def test_a_revoked_certificate_is_refused_and_another_passes(
    tmp_path: Path, by: str, way: str, revoked: bool
) -> None:
    options = {"file": (), "crl": ("--crl", CRL_URL), "ocsp": ("--ocsp", OCSP_URL)}[way]
    ca = equipped(tmp_path, *options)
    certificate = sun_certificate(tmp_path)
    listed = (certificate,) if revoked else ()
    if way == "file":
        sign_list(ca, tmp_path / "moon" / "x509crl" / "ca.crl", *listed)
    with strict(tmp_path) as both:
        if way == "crl":
            sign_list(ca, tmp_path / "web" / "ca.crl", *listed)
            serve_list(both.net.moon, tmp_path / "web")
        elif way == "ocsp":
            serve_ocsp(both.net.moon, ca, certificate, revoked=revoked)
        if revoked:
            said = outcome(both, by)
            assert "certificate-revoked" in said, said + both.moon.log()[-2000:]
        else:
            both.up(by)
            both.assert_traffic_passes()


def test_strongswan_refuses_ours_when_it_is_revoked(tmp_path: Path) -> None:
    ca = equipped(tmp_path)
    ours = tmp_path / "moon" / "x509" / "moon.pem"
    sign_list(ca, tmp_path / "sun" / "swanctl" / "x509crl" / "ca.crl", ours)
    sun_remote = "auth = pubkey\n id = moon.example\n cacerts = ca.pem\n revocation = strict"
    with sides(tmp_path, Setup(auth="pubkey", sun_remote=sun_remote)) as both:
        said = outcome(both, "cygnet")
        assert "peer-refused-authentication" in said
        assert "certificate was revoked" in both.sun.log()


@BY
def test_where_nobody_answers_strict_refuses(tmp_path: Path, by: str) -> None:
    equipped(tmp_path, "--crl", CRL_URL)
    with strict(tmp_path) as both:
        said = outcome(both, by)
        assert "certificate-status-unknown" in said, said + both.moon.log()[-2000:]


@BY
def test_ikev1_asks_too(tmp_path: Path, by: str) -> None:
    ca = equipped(tmp_path, "--crl", CRL_URL)
    old = STRICT.but(ike="aes256-sha256-modp2048", esp="aes256-sha256", moon_version=1, sun_version=1)
    with sides(tmp_path, old) as both:
        sign_list(ca, tmp_path / "web" / "ca.crl", sun_certificate(tmp_path))
        serve_list(both.net.moon, tmp_path / "web")
        said = outcome(both, by)
        assert "certificate-revoked" in said, said + both.moon.log()[-2000:]


@BY
def test_a_certificate_by_hash_and_url_is_fetched(tmp_path: Path, by: str) -> None:
    """RFC 7296, section 3.6; both send theirs so, and both fetch the other's."""
    equipped(tmp_path)
    (tmp_path / "web").mkdir()
    for side in ("moon", "sun"):
        pem = (tmp_path / side / "x509" / f"{side}.pem").read_bytes()
        der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        (tmp_path / "web" / hashlib.sha1(der).hexdigest()).write_bytes(der)
    place = "authorities { ca { cacert = ca.pem\n cert_uri_base = http://127.0.0.1:8880/ } }"
    setup = Setup(
        auth="pubkey",
        options=Setup.options + "\n hash_and_url = yes",
        sun_connection="send_cert = always",
        moon_extra=f"options {{ hash_and_url = yes }}\n{place}",
        sun_extra=place,
    )
    with sides(tmp_path, setup) as both:
        for space in (both.net.moon, both.net.sun):
            serve_list(space, tmp_path / "web")
        both.up(by)
        both.assert_traffic_passes()
        assert "fetching certificate from" in both.sun.log()
        with both.moon.session() as session:
            assert dict(session.request("daemon-stats")["fetches"]) == {"fetched": b"1"}
