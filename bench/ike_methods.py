"""What each way to authenticate costs the responder, beside the bare cryptographic operations that it needs.

The same daemon and account of CPU as in `ike`. The load is Cygnet's own negotiation as initiator, on sockets,
in this process: what it costs is not measured. Beyond the operations a handshake is to cost at most 0.8 ms,
and 0.3 ms for each exchange beyond the first two.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from bench import ike_responders
from bench.ike_load import LoadFailed
from cygnet.auth import issue
from cygnet.auth.eap import mschapv2
from cygnet.auth.identity import Identity
from cygnet.config.load import load
from cygnet.crypto import signatures
from cygnet.crypto.entropy import SystemEntropy
from cygnet.crypto.kdf import child_keys, further_ike_keys, ike_sa_keys
from cygnet.crypto.key_exchange import generate, respond
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import suite
from cygnet.ike import effects, events
from cygnet.ike.endpoint import Endpoint
from cygnet.ike.world import Instant
from cygnet.ike.world import Path as Way
from cygnet.records import replace
from cygnet.wire.numbers import Encr, KeMethod, Prf

AIM, AIM_PER_EXCHANGE = 0.8, 0.3
CLIENTS = 20
"""Each has an identity, a user and a certificate of its own: who has many SAs is looked for among them."""
PATIENCE = 20.0
SECRET = "a secret for measuring only"
GATEWAY = "gateway.example"
HEAD = '[options]\ncontrol_socket = "{directory}/vici"\nport = {port}\nport_nat_t = {port_nat_t}\n'
CONNECTION = """
[connections.bench]
proposals = "aes256gcm16-prfsha256-x25519{further}"
unique = "never"
send_cert = "always"
{addresses}
[connections.bench.local]
{local}
[connections.bench.remote]
{remote}
[connections.bench.children.net]
{child}
esp_proposals = "aes256gcm16"
[secrets.ike-all]
secret = "{secret}"
{users}
"""
USER = '[secrets.eap-{number}]\nid = "user{number}"\nsecret = "{secret}"\n'


@dataclass(frozen=True)
class Method:
    """How both prove themselves (lines of `local`, of the gateway and of the client), and with which key."""

    gateway: str
    client: str
    key: tuple[str, int] = ("ecdsa", 256)
    further: str = ""


PSK_LINE, CERT_LINE, EAP_LINE = 'auth = "psk"', 'auth = "pubkey"', 'auth = "eap-mschapv2"'
METHODS = {
    "psk": Method(PSK_LINE, PSK_LINE),
    "ecdsa-p256": Method(CERT_LINE, CERT_LINE),
    "rsa-2048": Method(CERT_LINE, CERT_LINE, ("rsa", 2048)),
    "x25519-mlkem768": Method(PSK_LINE, PSK_LINE, further="-ke1_mlkem768"),
    "eap-mschapv2": Method(CERT_LINE, EAP_LINE),
}


def texts(method: Method) -> tuple[str, str]:
    """(the daemon's configuration, the initiators'); the latter with {number} in place of theirs."""

    def proving(line: str, who: str) -> str:
        certs = f'\ncerts = "{who}.pem"' if line == CERT_LINE else ""
        name = '\neap_id = "user{number}"' if line == EAP_LINE else ""
        return f'{line}\nid = "{who}"{certs}{name}'

    users = "".join(USER.format(number=number, secret=SECRET) for number in range(CLIENTS))
    shared = {"further": method.further, "secret": SECRET, "users": users}
    gateway = HEAD + CONNECTION.format(
        addresses="",
        local=proving(method.gateway, GATEWAY),
        remote=f'{method.client}\nid = "*.example"\neap_id = "%any"',
        child='local_ts = "0.0.0.0/0"\nremote_ts = "10.0.0.0/8"',
        **shared,
    )
    client = CONNECTION.format(
        addresses='remote_addrs = "127.0.0.1"\nlocal_addrs = "127.0.2.{number}"',
        local=proving(method.client, "client{number}.example"),
        remote=f'{method.gateway}\nid = "{GATEWAY}"',
        child='local_ts = "10.0.0.0/8"\nremote_ts = "0.0.0.0/0"',
        **shared,
    )
    return gateway, client


Certified = tuple[issue.Issued, dict[str, issue.Issued]]
Ports = tuple[int, int]


def certified(method: Method) -> Certified:
    """A CA, and what it issued for the gateway and the clients, by name."""
    begin, end = time.time() - 3600, time.time() + 400 * 86400
    kind, size = method.key
    authority = issue.make_ca("CN=Bench CA", kind=kind, size=size, not_before=begin, not_after=end)
    return authority, {
        who: issue.issue(
            authority, [Identity.parse(who)], kind=kind, size=size, not_before=begin, not_after=end
        )
        for who in (GATEWAY, *(f"client{number}.example" for number in range(CLIENTS)))
    }


def equip(held: Certified, whose: Sequence[str], directory: Path) -> None:
    """The certificates and keys, in the files that the configurations name."""
    authority, issued = held
    files = {("x509ca", "ca.pem"): authority.certificate}
    for who in whose:
        one = issued[who]
        files["x509", f"{who}.pem"] = one.certificate
        files["private", f"{who}.key"] = one.key
    for (folder, name), data in files.items():
        target = directory / folder / name
        target.parent.mkdir(exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(data)


class Initiator:
    """One endpoint on sockets of an address of its own; a handshake at a time."""

    def __init__(self, held: Certified, directory: Path, text: str, number: int, ports: Ports) -> None:
        name = f"client{number}.example"
        directory /= name
        directory.mkdir()
        equip(held, (name,), directory)
        source = f"127.0.2.{number}"
        loaded = load(directory / "cygnet.toml", text.replace("{number}", str(number)))
        self.options = replace(loaded.gateway.options, port=ports[0], port_nat_t=ports[1], encapsulate=False)
        self.credentials = loaded.credentials()
        (connection,) = loaded.connections
        self.connection = replace(connection, remote_port=ports[0], local_port=ports[0])
        self.address = ipaddress.ip_address(source)
        self.sockets: dict[int, socket.socket] = {}
        for port in ports:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((source, port))
            sock.setblocking(False)
            self.sockets[port] = sock
        self.nat_t = ports[1]
        self.done: dict[int, events.OperationDone] = {}
        self.exchanges = 0
        self.endpoint = self.fresh()

    def fresh(self) -> Endpoint:
        """One that knows nobody yet."""
        made = Endpoint(self.options, self.credentials, SystemEntropy(), now())
        made.load(self.connection, now())
        return made

    def begin(self) -> int:
        self.endpoint = self.fresh()
        self.done.clear()
        operation = self.endpoint.initiate("bench", "net", now())
        self.carry_out()
        return operation

    def read(self, sock: socket.socket) -> None:
        port = sock.getsockname()[1]
        while True:
            try:
                data, (host, remote_port) = sock.recvfrom(65535)
            except BlockingIOError:
                return
            if port == self.nat_t:
                if data[:4] != bytes(4):
                    continue
                data = data[4:]
            way = Way(self.address, port, ipaddress.ip_address(host), remote_port)
            self.endpoint.receive(data, way, now())
            self.carry_out()

    def carry_out(self) -> None:
        waiting = list(self.endpoint.effects())
        while waiting:
            effect = waiting.pop(0)
            if isinstance(effect, effects.SendDatagram):
                way = effect.path
                head = effect.data[4:] if way.local_port == self.nat_t else effect.data
                self.exchanges = max(self.exchanges, int.from_bytes(head[20:24], "big") + 1)
                self.sockets[way.local_port].sendto(effect.data, (str(way.remote), way.remote_port))
            elif isinstance(effect, effects.InstallSa) and effect.ask_id:
                self.endpoint.resume(effect.ask_id, effects.Installed(), now())
                waiting += self.endpoint.effects()
            elif isinstance(effect, effects.Emit) and isinstance(effect.event, events.OperationDone):
                self.done[effect.event.operation] = effect.event

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()


def now() -> Instant:
    return Instant(time.monotonic(), time.time())


def handshakes(initiators: list[Initiator], count: int) -> int:
    """So many, one at a time from each; the exchanges that one takes. Raises LoadFailed."""
    ready = selectors.DefaultSelector()
    for one in initiators:
        for sock in one.sockets.values():
            ready.register(sock, selectors.EVENT_READ, (one, sock))
    left = count - len(initiators)
    running = {id(one): (one, one.begin()) for one in initiators}
    deadline = time.monotonic() + PATIENCE + count
    while running:
        for key, _ in ready.select(0.5):
            one, sock = key.data
            one.read(sock)
        for one, operation in list(running.values()):
            one.endpoint.handle_timeout(now())
            one.carry_out()
            if operation not in one.done:
                continue
            failure = one.done[operation].failure
            if failure is not None:
                raise LoadFailed(f"{failure.reason}: {failure.detail}")
            del running[id(one)]
            if left > 0:
                left -= 1
                running[id(one)] = one, one.begin()
        if time.monotonic() > deadline:
            raise LoadFailed("the responder does not answer")
    ready.close()
    return max(one.exchanges for one in initiators)


def per_handshake(method: Method, directory: Path, batches: int, batch: int) -> tuple[float, int]:
    """(CPU ms of the daemon, the median of batches; exchanges). Raises LabError, LoadFailed."""
    gateway, client = texts(method)
    held = certified(method)
    with ike_responders.daemon(gateway, partial(equip, held, (GATEWAY,))) as (pid, port, port_nat_t):
        ports = port, port_nat_t
        initiators = [Initiator(held, directory, client, number, ports) for number in range(CLIENTS)]
        try:
            exchanges = handshakes(initiators, batch)
            cpu = []
            for _ in range(batches):
                started = ike_responders.usage(pid).cpu
                handshakes(initiators, batch)
                cpu.append((ike_responders.usage(pid).cpu - started) / batch * 1e3)
        finally:
            for one in initiators:
                one.close()
    return statistics.median(cpu), exchanges


# -- bare operations ------------------------------------------------------------------------------------


def bare(method: Method, rounds: int = 40) -> float:
    """CPU ms of the cryptography that a responder cannot do without: key exchanges, signatures, certificates,
    key derivation, what EAP computes."""
    total = sum(_timed(operation, rounds) for operation in _operations(method))
    return total * 1e3


def _timed(operation: Callable[[], object], rounds: int) -> float:
    operation()
    taken = []
    for _ in range(3):
        started = time.process_time()
        for _ in range(rounds):
            operation()
        taken.append((time.process_time() - started) / rounds)
    return min(taken)


def _operations(method: Method) -> list[Callable[[], object]]:
    entropy, function, ciphers = SystemEntropy(), prf(Prf.PRF_HMAC_SHA2_256), suite(Encr.AES_GCM_16, 256)
    public = generate(KeMethod.CURVE_25519, entropy).public
    nonce, spi = bytes(32), bytes(8)
    keys = ike_sa_keys(function, nonce, nonce, spi, spi, nonce, ciphers)
    found: list[Callable[[], object]] = [
        lambda: respond(KeMethod.CURVE_25519, public, entropy),
        lambda: ike_sa_keys(function, nonce, nonce, spi, spi, nonce, ciphers),
        lambda: child_keys(function, keys.sk_d, nonce, nonce, None, ciphers),
    ]
    if method.further:
        encapsulation = generate(KeMethod.ML_KEM_768, entropy).public
        found.append(lambda: respond(KeMethod.ML_KEM_768, encapsulation, entropy))
        found.append(lambda: further_ike_keys(function, keys, nonce, nonce, nonce, spi, spi, ciphers))
    if method.gateway == CERT_LINE:
        authority, issued = certified(method)
        held = issued[GATEWAY]
        key = load_key(held.key)
        scheme = signatures.schemes_for(key)[0]
        data = bytes(600)
        found.append(lambda: signatures.sign(key, scheme, data))
        if method.client == CERT_LINE:
            signature = signatures.sign(key, scheme, data)
            found.append(lambda: signatures.verify(key.public_key(), scheme, signature, data))
            certificate, issuer = read(held.certificate), read(authority.certificate)
            found.append(lambda: certificate.verify_directly_issued_by(issuer))
            found.append(lambda: read(held.certificate).public_key())
    if method.client == EAP_LINE:
        hashed = mschapv2.nt_hash(SECRET.encode())
        challenge = bytes(16)
        found.append(lambda: mschapv2.nt_response(challenge, challenge, b"carol", hashed))
        found.append(
            lambda: mschapv2.authenticator_response(hashed, bytes(24), challenge, challenge, b"carol")
        )
    return found


def load_key(data: bytes) -> Any:
    return load_pem_private_key(data, None)


def read(data: bytes) -> Any:
    return load_pem_x509_certificate(data)


def measure(batches: int, batch: int, directory: Path) -> dict[str, dict[str, float]]:
    """By method: `responder_cpu_ms_per_handshake`, `bare_operations_ms`, `rest_ms`, `exchanges`, `aim_ms`."""
    found = {}
    for name, method in METHODS.items():
        place = directory / name
        place.mkdir(parents=True)
        cpu, exchanges = per_handshake(method, place, batches, batch)
        operations = bare(method)
        found[name] = {
            "responder_cpu_ms_per_handshake": round(cpu, 3),
            "bare_operations_ms": round(operations, 3),
            "rest_ms": round(cpu - operations, 3),
            "exchanges": exchanges,
            "aim_ms": round(AIM + AIM_PER_EXCHANGE * (exchanges - 2), 1),
        }
    return found
