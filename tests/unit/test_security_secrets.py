"""Secrets stay where they are, what a peer writes stays text, comparisons take constant time.

Marked secrets are put in at every place there is and looked for in everything that anybody gets to see.
"""

from __future__ import annotations

import ast
import base64
import gc
import os
import random
import re
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cygnet.auth import proof
from cygnet.auth.certificate import parse
from cygnet.auth.credentials import Credentials
from cygnet.auth.identity import Identity
from cygnet.config.load import load
from cygnet.config.problems import ConfigurationError
from cygnet.crypto.kdf import IkeKeys
from cygnet.daemon.guard import Guard
from cygnet.ike.configuration import AuthClass, LocalAuth, RemoteAuth
from cygnet.testing import Pair
from cygnet.testing.configurations import SECRET as SIMULATED
from cygnet.testing.mutate import mutate
from cygnet.vici import shapes
from cygnet.vici.client import Client, ViciError
from cygnet.vici.codec import PacketType, decode_packet, encode_packet
from cygnet.vici.server import MAX_CLIENTS
from cygnet.wire.cursor import Malformed
from cygnet.wire.numbers import Exchange, IdType, Notify
from cygnet.wire.payloads import (
    CertPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
    VendorIdPayload,
)
from tests.unit.auth_material import NOW, YEAR, Held, ca, entity, holding, key, usage
from tests.unit.ike_by_hand import connection, with_key, with_secret
from tests.unit.security_by_hand import (
    MOON,
    ROLES,
    SECRET,
    SUN,
    Talk,
    Watched,
    first_request,
    good_first,
    product,
    shown,
)
from tests.unit.security_transcript import transcript
from tests.unit.test_daemon_commands import CONN, Bench, bench

__all__ = ["bench"]

SOURCE = FilePath(__file__).parents[2] / "src" / "cygnet"
MARKER = "Marker-0815-of-a-Secret-that-nobody-may-see"


# T46: nothing shows a secret


def disguises(secret: bytes) -> list[str]:
    """The spellings in which octets are printed."""
    inside = repr(secret)[2:-1]
    found = [secret.hex(), secret.hex().upper(), secret.hex(" "), base64.b64encode(secret).decode(), inside]
    found += [repr(bytearray(secret))[12:-2], str(list(secret))[1:-1], str(int.from_bytes(secret, "big"))]
    return found


def hide(texts: Iterable[str], secrets: Iterable[bytes]) -> None:
    """No text shows one of the secrets, in whatever spelling."""
    everything = "\n".join(dict.fromkeys(texts))
    for secret in secrets:
        assert len(secret) >= 16
        for spelling in disguises(secret):
            at = everything.find(spelling)
            assert at < 0, everything[max(at - 200, 0) : at]


def alive() -> list[object]:
    """Every object of ours that there is."""
    return [
        one
        for one in gc.get_objects()
        if str(type(one).__module__).startswith("cygnet") and not isinstance(one, type)
    ]


def said_by(objects: Iterable[object]) -> set[str]:
    """What they say of themselves."""
    return {text for one in objects for text in (repr(one), str(one))}


class Newcomers:
    """What has come to be since: other tests' leavings are not looked at again and again."""

    def __init__(self) -> None:
        gc.collect()
        self._before = {id(one): one for one in alive()}

    def __iter__(self) -> Iterator[object]:
        return iter([one for one in alive() if id(one) not in self._before])


def derived(moon: Watched, since: Newcomers) -> list[bytes]:
    """All keys that were made on the way."""
    found: list[bytes] = []
    for one in since:
        if isinstance(one, IkeKeys):
            found += [getattr(one, name) for name in IkeKeys.__slots__ if getattr(one, name)]
    for effect in moon.installed:
        found += [key_ for key_ in (effect.sa.encryption_key, effect.sa.integrity_key) if key_]
    return list(dict.fromkeys(found))


@ROLES
def test_t46_no_log_line_no_event_and_no_object_shows_a_secret_or_a_key(we_answer: bool) -> None:
    marker, since = MARKER.encode(), Newcomers()
    credentials = Credentials()
    credentials.add_shared(MARKER[:6], "ike", marker, [MOON, SUN])
    held = entity(ca("CN=Root"), "CN=moon", ["dns:moon.example.org"], holder=key("p256", "hidden"))
    credentials.add_private_key(held.key_pem)
    private = held.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    scalar = held.key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    moon = Watched(credentials=credentials, loud=True)
    talk = Talk(we_answer, moon)
    # One proof that fails, one that holds, rekeys of both kinds, and all of it closed again.
    talk.authenticate(talk.sun.authentication(SUN, with_secret(b"another secret, also a long one")))
    talk.close()
    moon.wait(400)
    talk = Talk(we_answer, moon, spi=b"\x21" * 8, nonce=b"\x38" * 32)
    talk.authenticate(talk.sun.authentication(SUN, with_secret(marker)))
    assert len(moon.established) == 1
    moon.wait(2)
    talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request())
    (view, *_) = moon.views
    moon.endpoint.rekey(view.unique_id, 0, moon.now)
    moon.carry_out()
    secrets = [marker, private, scalar, *derived(moon, since)]
    assert len(secrets) > 8
    status = [repr(shapes.list_sa(one, 5.0)) for one in moon.views] + [repr(moon.views)]
    listed = [repr(shapes.list_conn(loaded)) for loaded in moon.endpoint.connections()]
    hide([*moon.lines, *map(repr, moon.events), *map(str, moon.events), *status, *listed], secrets)
    hide(said_by(since), secrets)
    hide([repr(moon.endpoint), repr(credentials), repr(moon.endpoint.history)], secrets)


def test_t46_a_configuration_shows_no_secret_of_its_own_whatever_is_wrong_with_it() -> None:
    text = f"""
[connections.peer]
remote_addrs = ["192.0.2.2"]
[connections.peer.local]
auth = "psk"
[connections.peer.remote]
auth = "psk"
[connections.peer.children.net]
remote_ts = ["10.2.0.0/16"]
[secrets.ike-1]
id = "sun.example.org"
secret = "{MARKER}"
"""
    since = Newcomers()
    loaded = load(FilePath("cygnet.toml"), text)
    credentials = loaded.credentials()
    hide([repr(loaded), str(loaded), repr(credentials), *said_by(since)], [MARKER.encode()])
    assert credentials.psk(MOON, SUN) == MARKER.encode()
    chance = random.Random(4)
    told = []
    for _ in range(150):
        # The secret stays whole, everything around it is broken.
        head, tail = text.split(MARKER)
        broken = mutate(head.encode(), chance, [head.encode()]).decode("utf-8", "replace") + MARKER + tail
        try:
            told.append(repr(load(FilePath("cygnet.toml"), broken)))
        except ConfigurationError as error:
            told += [str(error), *map(repr, error.problems)]
    assert len(told) > 100
    hide(told, [MARKER.encode()])


def test_t46_an_exception_with_a_secret_in_its_text_is_reported_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    guard = Guard(lambda *report: told.extend(report))
    talk = Talk(True)

    def breaks(secret: bytes, *arguments: object) -> bytes:
        raise ValueError(f"cannot use {secret!r} of {MARKER}")

    datagram = talk.sun.seal(talk.good(), Exchange.IKE_AUTH, 1)
    monkeypatch.setattr(proof, "_mac", breaks)
    guard.run("datagram", talk.moon.receive, datagram)
    assert guard.total == 1
    assert told
    hide([*told, repr(guard), repr(guard.escaped)], [SECRET, MARKER.encode()])
    assert "ValueError" in told[1]


def test_t46_what_the_control_socket_lists_holds_no_secret(bench: Bench) -> None:
    marker = MARKER.encode()
    session = bench.session()
    session.load_conn(CONN)
    session.load_shared({"id": "one", "type": "IKE", "data": marker, "owners": ["sun"]})
    answers: list[object] = [session.get_shared(), session.get_conns(), session.get_keys(), session.stats()]
    answers += [list(session.list_conns()), list(session.list_sas()), list(session.list_policies())]
    for wrong in (
        {"id": "two", "type": "nonsense", "data": marker},
        {"id": "two", "type": "IKE", "data": marker, "owner": ["sun"]},
        {"type": "IKE", "data": marker, "owners": [b"\xff\xfe" * 50]},
    ):
        try:
            answers.append(session.load_shared(wrong))
        except Exception as error:  # noqa: BLE001 - whatever the library makes of the refusal
            answers += [str(error), "".join(traceback.format_exception(error)[-1:])]
    try:
        session.load_key({"type": "any", "data": b"-----BEGIN PRIVATE KEY-----\n" + marker})
    except Exception as error:  # noqa: BLE001
        answers.append(str(error))
    hide(map(repr, answers), [marker])
    hide([repr(bench.control), repr(bench.control.shared), repr(bench.commands)], [marker])


def test_t47_a_removed_secret_is_no_longer_referred_to_by_the_store() -> None:
    """Python's octets cannot be wiped; what can be had is that nothing of ours keeps them."""
    secret = os.urandom(40)
    credentials = Credentials()
    credentials.add_shared("s", "ike", secret, [SUN])
    assert credentials.psk(MOON, SUN) == secret
    credentials.remove_shared("s")
    gc.collect()
    holders = [one for one in gc.get_referrers(secret) if str(type(one).__module__).startswith("cygnet")]
    assert holders == []


def test_t47_the_keys_of_an_ike_sa_go_with_it() -> None:
    talk = Talk(True).established()
    assert [one for one in gc.get_objects() if type(one) is IkeKeys and one.sk_d == talk.sun.keys.sk_d]  # type: ignore[union-attr]
    sk_d = talk.sun.keys.sk_d  # type: ignore[union-attr]
    talk.delete_ike()
    moon = talk.moon
    moon.wait(700)
    moon.installed.clear()
    moon.events.clear()
    del talk
    gc.collect()
    assert [one for one in gc.get_objects() if type(one) is IkeKeys and one.sk_d == sk_d] == []


# T48: constant time

SECRETIVE = re.compile(
    r"^(secret|psk|password|passphrase|token|cookie|mac|icv|auth|proof|shared|sk_\w+|\w*_(secret|mac|icv|token))$"
)
ALLOWED = {
    # Whoever may load secrets over the control socket compares its own with its own.
    ("daemon/control.py", "self.shared.get(secret.id) == secret"),
    # The first octet of a cookie numbers its secret, for everybody to read.
    ("ike/admission.py", "cookie[0] == self._generation"),
}


def named(node: ast.expr) -> Iterator[str]:
    """The names that an operand ends in."""
    match node:
        case ast.Name(name):
            yield name
        case ast.Attribute(_, name):
            yield name
        case ast.Subscript(value):
            yield from named(value)
        case ast.Call(function):
            yield from named(function)
        case ast.Starred(value):
            yield from named(value)


def test_t48_no_equality_compares_secrets() -> None:
    found = set()
    for path, nodes in product():
        for node in nodes:
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant) and not isinstance(side.value, bytes) for side in sides):
                continue
            if not any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
                continue
            if any(SECRETIVE.match(name) for side in sides for name in named(side)):
                found.add((path, ast.unparse(node)))
    assert found - ALLOWED == set()


def test_t48_macs_cookies_and_proofs_are_compared_by_the_librarys_function() -> None:
    for path, function in (
        ("auth/proof.py", "verify_secret"),
        ("ike/admission.py", "good"),
        ("crypto/suites.py", "open"),
    ):
        tree = ast.parse((SOURCE / path).read_text())
        bodies = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
        assert bodies
        names = {n.attr for body in bodies for n in ast.walk(body) if isinstance(n, ast.Attribute)}
        assert names & {"compare_digest", "decrypt", "verify"}, path


# V36: what a peer writes

NASTY = (
    b"\x1b[2J\x1b]0;owned\x07", b"a\nforged: line", b"\r\x00\x08", b"$(reboot)`id`;|&",
    b"%s%n%x{0}{__class__}", b"\xe2\x80\xae\xe2\x80\xa8\xff\xfe", b"<script>alert(1)</script>",
    b"../../etc/passwd\x00", "\u202e\u2066".encode(),
)  # fmt: skip


@ROLES
@pytest.mark.parametrize("text", NASTY)
def test_v36_a_peers_text_is_escaped_wherever_it_is_shown(we_answer: bool, text: bytes) -> None:
    """CVE-2023-28771 (exploited): error text from an IKE packet reached a shell."""
    for kind in (IdType.FQDN, IdType.RFC822_ADDR, IdType.KEY_ID, IdType.DER_ASN1_DN, 200):
        moon = Watched(loud=True)
        talk = Talk(we_answer, moon)
        mine = (IdiPayload if we_answer else IdrPayload)(kind, text)
        extra: list[Payload] = [
            NotifyPayload(0, text[:8], 40961, text), VendorIdPayload(text), CertPayload(4, text),
            NotifyPayload(0, b"", Notify.AUTHENTICATION_FAILED, text),
        ]  # fmt: skip
        talk.authenticate([mine, talk.sun.proof(mine, with_secret(SECRET)), *talk.good()[2:], *extra])
        moon.receive(first_request([*good_first(), *extra], spi=b"\x67" * 8))
        assert moon.established == []
        assert moon.failures
        told = [moon.failures[-1].detail, str(moon.failures[-1].difference), *moon.lines]
        assert all(line.isprintable() for line in told)
    assert moon.endpoint.history.of("peer")[-1].peer.isprintable()


def with_name(root: Held, text: str) -> Held:
    """A certificate whose subject is made of this text, control characters and all."""
    holder = key("p256", "named")
    subject = x509.Name(
        [x509.NameAttribute(oid, text) for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)]
    )
    builder = x509.CertificateBuilder(
        root.subject, subject, holder.public_key(), x509.random_serial_number(), NOW - YEAR, NOW + YEAR
    )
    made = builder.add_extension(usage(), True).sign(root.key, hashes.SHA256())
    return Held(parse(made.public_bytes(Encoding.DER)), holder)


@pytest.mark.parametrize(
    "text", ["a\nb", "\x1b[31m", "$(id)", "%s", "x" * 300, "\u202e", "<b>", "a,b=c/d\\e"]
)
def test_v36_the_names_in_a_certificate_are_escaped_wherever_they_are_shown(text: str) -> None:
    root = ca("CN=Root")
    held = with_name(root, text[:60])
    assert parse(held.der).title.isprintable()
    subject = Identity(IdType.DER_ASN1_DN, held.certificate.subject)
    assert str(subject).isprintable()
    way = connection(
        "peer",
        LocalAuth(AuthClass.PSK, MOON),
        RemoteAuth(AuthClass.PUBKEY, None, ca_certificates=(root.der,)),
    )
    credentials = Credentials()
    credentials.add_shared("s", "ike", SECRET)
    credentials.add_certificate(root.der, ca=True)
    moon = Watched(way, credentials=credentials, loud=True)
    talk = Talk(True, moon)
    own = holding(held).own_key([held.der], None)
    talk.authenticate(talk.sun.authentication(subject, with_key(own), [held.der]))
    assert len(moon.established) == 1
    (up,) = moon.established
    assert all(line.isprintable() for line in shown(up))


def test_v36_no_program_is_started_with_what_a_peer_wrote() -> None:
    """There is no updown script yet. What reads a peer's messages starts no program."""
    starting = {"Popen", "check_output", "check_call", "create_subprocess_exec", "execv", "execve", "spawnv"}
    for path, nodes in product():
        if path.split("/")[0] in ("wire", "crypto", "auth", "policy", "ike", "vici", "ipsec", "config"):
            assert not starting & {node.attr for node in nodes if isinstance(node, ast.Attribute)}, path


def test_v62_no_frame_of_the_control_socket_reads_beyond_itself() -> None:
    """strongSwan 20b07f2c, CVE-2018-5388: lengths of lists, sections and names were not checked."""
    whole = encode_packet(PacketType.CMD_REQUEST, "load-conn", {"a": {"b": "c", "d": ["e", "f"]}})[4:]
    for size in range(len(whole)):
        try:
            assert decode_packet(whole[:size]).message == {}
        except Malformed:
            continue
    for at in range(len(whole)):
        for value in (0, 1, 2, 3, 4, 5, 6, 7, 127, 255):
            odd = whole[:at] + bytes((value,)) + whole[at + 1 :]
            try:
                decode_packet(odd)
            except Malformed:
                continue


def test_v62_t45_every_command_survives_every_message(bench: Bench) -> None:
    """Commands and messages that belong together or not, mutated: an answer each time, no harm done."""
    chance = random.Random(8)
    messages_: list[dict[str, Any]] = [
        {}, CONN, {"name": "gw"}, {"id": "x", "type": "IKE", "data": b"y" * 20, "owners": ["z"]},
        {"type": "X509", "flag": "CA", "data": b"\x30\x00"}, {"child": "net", "ike": "gw", "timeout": "1"},
        {"ike-id": "1", "child-id": "99999999999"}, {"gw": []}, {"gw": {"children": "net"}}, {"": {"": ""}},
        {"noblock": "yes", "loglevel": "-5", "limits": "maybe"}, {"pool": {"addrs": "10.0.0.0/0"}},
        {"authority": {"cacert": b"\xff" * 100}}, {"a" * 200: "b"}, {"name": "\x1b[31m\n"},
        {"names": ["a"] * 500},
    ]  # fmt: skip
    refusals: list[str] = []
    for command in sorted(bench.commands.handlers):
        for message in messages_:
            odd = {
                key_: mutate(value, chance) if isinstance(value, bytes) and chance.random() < 0.5 else value
                for key_, value in message.items()
            }
            with Client.connect(bench.path, 5.0) as client:
                refusals.append("")
                try:
                    client.request(command, odd)
                except ViciError as error:
                    refusals[-1] = str(error)
    lines = [line for refusal in refusals for line in refusal.split("\n")]
    assert [line for line in lines if not line.isprintable()] == []
    assert any(refusals)
    assert bench.guard.total == 0
    assert bench.session().version()


def test_t45_clients_are_bounded() -> None:
    assert 8 <= MAX_CLIENTS <= 1024


# python -O


@pytest.mark.parametrize("arguments", [["-O"], ["-OO"], []])
def test_a3_without_assertions_and_with_another_hash_seed_everything_is_the_same(
    arguments: list[str],
) -> None:
    """python-vpn checked with `assert`. A hostile hour is answered and logged octet for octet the same."""
    done = subprocess.run(
        [sys.executable, *arguments, "-m", "tests.unit.security_transcript"],
        cwd=SOURCE.parents[1],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.strip() == transcript()


# the list itself


def test_simulated_secrets_are_no_exception() -> None:
    """`cygnet.testing` is public: its gateways hide theirs too."""
    since = Newcomers()
    pair = Pair(1).up()
    texts = [repr(pair.a), repr(pair.a.events), repr(pair.a.sas()), repr(pair.a.credentials), *said_by(since)]
    hide(texts, [SIMULATED.encode()])
