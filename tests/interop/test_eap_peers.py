"""Our EAP against others' without a tunnel: FreeRADIUS as server, wpa_supplicant's `eapol_test` as client.

Both speak RADIUS on loopback. Our client's packets go to FreeRADIUS by `auth.radius`; towards `eapol_test` a
few lines here play the RADIUS server whose EAP is ours.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from pyrad.packet import AuthPacket

from cygnet.auth import passwords, radius
from cygnet.auth.ask import AskRadius, CheckPassword
from cygnet.auth.credentials import Credentials
from cygnet.auth.eap import methods, session
from cygnet.auth.eap.packet import EapType, Packet, decode
from cygnet.auth.eap.relay import relay
from cygnet.auth.eap.session import Finished
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity
from cygnet.crypto.entropy import SystemEntropy
from cygnet.lab import freeradius
from cygnet.lab.freeradius import FreeRadius
from tests.unit.eap_material import authority, certificate, der, told

SECRET = b"testing123"
NAME = b"carol@example.org"
PASSWORD = b"Ar3etTnp"
SERVER = Identity.parse("radius.example.org")
CAROL = Identity.parse(NAME.decode())
USERS = """\
carol@example.org Cleartext-Password := "Ar3etTnp"
\tClass = "staff",
\tFramed-IP-Address = 10.9.0.7
"""


def store(identity: Identity) -> Credentials:
    """Who has this certificate, trusts the CA, and knows carol's password."""
    made = Credentials()
    own = certificate(identity, now=True)
    made.add_certificate(authority(now=True).certificate, ca=True)
    made.add_certificate(own.certificate)
    made.add_private_key(own.key)
    made.add_shared("eap-carol", "eap", PASSWORD, [CAROL])
    return made


def tls(identity: Identity, peer: Identity | None) -> methods.Tls:
    return methods.Tls((der(certificate(identity, now=True)),), identity, peer, time.time())


# -- our client, FreeRADIUS -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreeRadius]:
    if not freeradius.available():
        pytest.skip("FreeRADIUS is not installed: make packages")
    directory = tmp_path_factory.mktemp("radius")
    own = certificate(SERVER, now=True)
    (directory / "server.pem").write_bytes(own.certificate)
    (directory / "server.key").write_bytes(own.key)
    (directory / "ca.pem").write_bytes(authority(now=True).certificate)
    running = FreeRadius(directory, USERS, port=freeradius.free_ports())
    yield running
    running.stop()


def ask(question: AskRadius, port: int) -> Any:
    """One Access-Request over a socket of its own; the verified answer."""
    request = radius.access_request(7, SECRET, question.attributes, question.eap, question.state)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(20)
        sock.connect(("127.0.0.1", port))
        sock.send(request.octets)
        return radius.judge_access(request, sock.recv(8192), "freeradius")


def through(
    server: FreeRadius, kind: int, inside: str = "", *, credentials: Credentials | None = None
) -> tuple[Finished, Finished]:
    """Our client's conversation with FreeRADIUS, by way of our relay: (relay's, client's)."""
    made = credentials or store(CAROL)
    makers = methods.client_makers([kind], NAME, made, tls(CAROL, SERVER), inside)
    client = session.respond(NAME, makers, SystemEntropy())
    next(client)
    address = IPv4Address("127.0.0.1")
    first = Packet(2, 0, EapType.IDENTITY, NAME)
    conversation = relay(address, address, 1)(NAME, first)
    value: Any = None
    while True:
        try:
            step = conversation.send(value)
        except StopIteration as end:
            with pytest.raises(StopIteration) as ended:
                client.send(end.value.packet)
            return end.value, ended.value.value
        if isinstance(step, AskRadius):
            value = ask(step, server.port)
        else:
            assert isinstance(step, bytes)
            reply = told(client, step)
            assert reply is not None
            value = reply.data


WAYS = {
    "md5": (EapType.MD5, ""),
    "gtc": (EapType.GTC, ""),
    "mschapv2": (EapType.MSCHAPV2, ""),
    "tls": (EapType.TLS, ""),
    "ttls-eap": (EapType.TTLS, ""),
    "ttls-pap": (EapType.TTLS, "pap"),
    "ttls-mschapv2": (EapType.TTLS, "mschapv2"),
    "peap": (EapType.PEAP, ""),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_our_client_is_authenticated_by_freeradius(server: FreeRadius, way: str) -> None:
    """The server may speak TLS 1.3, and does; the key that it sends is the one that the client has."""
    kind, inside = WAYS[way]
    relayed, ours = through(server, kind, inside)
    assert relayed.method == kind
    if kind in (EapType.MD5, EapType.GTC):
        return
    assert ours.outcome.msk
    assert relayed.outcome.msk == ours.outcome.msk
    if kind != EapType.TLS:
        assert relayed.outcome.groups == {"staff"}
        assert ("Framed-IP-Address", bytes((10, 9, 0, 7))) in relayed.outcome.attributes


def test_freeradius_refuses_a_wrong_password_of_our_client(server: FreeRadius) -> None:
    wrong = store(CAROL)
    wrong.add_shared("eap-carol", "eap", b"another", [CAROL])
    for kind, inside in ((EapType.MSCHAPV2, ""), (EapType.TTLS, "pap"), (EapType.PEAP, "")):
        with pytest.raises(AuthenticationError) as refused:
            through(server, kind, inside, credentials=wrong)
        assert refused.value.kind is Kind.EAP_PASSWORD_WRONG


# -- eapol_test, our server -------------------------------------------------------------------------


class Authenticator:
    """A RADIUS server on loopback whose EAP is ours: one conversation at a time."""

    def __init__(self, kinds: list[int]) -> None:
        self.kinds = kinds
        self.credentials = store(SERVER)
        self.finished: Finished | None = None
        self.failed: AuthenticationError | None = None
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def makers(self, name: bytes) -> Any:
        return methods.server_makers(self.kinds, self.credentials, tls(SERVER, None))

    def serve(self) -> None:
        conversation: Any = None
        while True:
            try:
                data, peer = self.socket.recvfrom(8192)
            except OSError:
                return
            request = AuthPacket(packet=data, secret=SECRET)
            eap = b"".join(bytes(value) for value in request[79])
            try:
                packet = decode(eap)
                if packet.type == EapType.IDENTITY:
                    conversation = session.serve_named(self.makers, SystemEntropy(), packet)
                    step = conversation.send(None)
                else:
                    step = conversation.send(eap)
                while isinstance(step, CheckPassword):
                    step = conversation.send(passwords.check(step.stored, step.password))
                code, answer = 11, step
            except StopIteration as end:
                self.finished = end.value
                code, answer = 2, end.value.packet
            except AuthenticationError as error:
                self.failed = error
                code, answer = 3, session.failure_to(eap)
            reply = request.CreateReply()
            reply.code = code
            reply[79] = [answer[at : at + 253] for at in range(0, len(answer), 253)]
            reply[24] = [b"state"]
            if code == 2 and self.finished is not None and self.finished.outcome.msk:
                msk = self.finished.outcome.msk
                for kind, key in ((17, msk[:32]), (16, msk[32:64])):
                    reply.request_authenticator = request.authenticator
                    reply[(311, kind)] = [reply.SaltCrypt(key)]
            self.socket.sendto(reply.ReplyPacket(), peer)

    def close(self) -> None:
        self.socket.close()


PEERS = {
    "tls": ([EapType.TLS], 'eap=TLS\n private_key="{dir}/carol.key"\n client_cert="{dir}/carol.pem"'),
    "ttls-pap": ([EapType.TTLS], 'eap=TTLS\n phase2="auth=PAP"'),
    "ttls-mschapv2": ([EapType.TTLS], 'eap=TTLS\n phase2="auth=MSCHAPV2"'),
    "ttls-eap-mschapv2": ([EapType.TTLS], 'eap=TTLS\n phase2="autheap=MSCHAPV2"'),
    "ttls-eap-gtc": ([EapType.TTLS], 'eap=TTLS\n phase2="autheap=GTC"'),
    "peap-mschapv2": ([EapType.PEAP], 'eap=PEAP\n phase1="peapver=0"\n phase2="auth=MSCHAPV2"'),
    "peap-gtc": ([EapType.PEAP], 'eap=PEAP\n phase1="peapver=0"\n phase2="auth=GTC"'),
    "nak": ([EapType.MSCHAPV2, EapType.PEAP], 'eap=PEAP\n phase1="peapver=0"\n phase2="auth=MSCHAPV2"'),
}  # fmt: skip


@pytest.mark.parametrize("newest", ["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("way", list(PEERS))
def test_wpa_supplicants_client_is_authenticated_by_our_server(tmp_path: Path, way: str, newest: str) -> None:
    program = shutil.which("eapol_test")
    if program is None:
        pytest.skip("eapol_test is not installed: make packages")
    kinds, lines = PEERS[way]
    own = certificate(CAROL, now=True)
    (tmp_path / "carol.pem").write_bytes(own.certificate)
    (tmp_path / "carol.key").write_bytes(own.key)
    (tmp_path / "ca.pem").write_bytes(authority(now=True).certificate)
    flags = "tls_disable_tlsv1_3=1" if newest == "TLS 1.2" else "tls_disable_tlsv1_3=0"
    lines = lines.format(dir=tmp_path)
    if "phase1" in lines:
        lines = lines.replace('phase1="', f'phase1="{flags} ')
    else:
        lines += f'\n phase1="{flags}"'
    (tmp_path / "peer.conf").write_text(
        f'network={{\n key_mgmt=WPA-EAP\n {lines}\n identity="{NAME.decode()}"\n'
        f' password="{PASSWORD.decode()}"\n'
        f' ca_cert="{tmp_path}/ca.pem"\n domain_match="{SERVER}"\n}}\n'
    )
    with closing(Authenticator(kinds)) as ours:
        done = subprocess.run(
            [program, "-c", str(tmp_path / "peer.conf"), "-a", "127.0.0.1", "-p", str(ours.port),
             "-s", SECRET.decode(), "-t", "40"],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{ours.failed}\n{done.stdout[-3000:]}"
        assert done.stdout.rstrip().endswith("SUCCESS")
        assert ours.finished is not None
        # It compares the key that it was sent with its own, and says so.
        assert "MPPE keys OK: 1" in done.stdout
        assert ("TLSv1.3" in done.stdout) == (newest == "TLS 1.3")
