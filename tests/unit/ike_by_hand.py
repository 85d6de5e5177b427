"""The other end of an IKE SA, played by hand: it says whatever a test wants, with the right keys.

Only AES-256-GCM-16, HMAC-SHA-256 and X25519. Sealing and AUTH octets are made here, not by the code
under test.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path as FilePath

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cygnet.auth.credentials import Credentials, OwnKey
from cygnet.auth.identity import Identity
from cygnet.auth.proof import Proof, prove_with_key, prove_with_secret
from cygnet.config.load import load
from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.kdf import IkeKeys, ike_sa_keys
from cygnet.crypto.key_exchange import generate
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import suite
from cygnet.ike.configuration import Connection, LocalAuth, Options, RemoteAuth
from cygnet.ike.effects import Emit, Installed, InstallSa, SendDatagram
from cygnet.ike.endpoint import Endpoint
from cygnet.ike.errors import Failure
from cygnet.ike.events import ChildSaUp, Dropped, Event, IkeSaUp, NegotiationFailed
from cygnet.ike.world import Instant, Path
from cygnet.wire.message import Header, Message, decode, decode_payloads, encode, encode_payloads
from cygnet.wire.numbers import (
    CertEncoding,
    Encr,
    Exchange,
    Flags,
    KeMethod,
    Notify,
    PayloadType,
    Prf,
    Protocol,
    TransformType,
)
from cygnet.wire.payloads import (
    Attribute,
    AuthPayload,
    CertPayload,
    EncryptedPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    WireSelector,
)
from tests.unit.auth_material import WALL

US, THEM = ip_address("192.0.2.1"), ip_address("192.0.2.2")
PATH = Path(US, 500, THEM, 500)
NOW = Instant(1000.0, WALL)
HASHES = frozenset({2, 3, 4, 5})

TOML = """
[connections.peer]
version = 2
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
proposals = ["aes256gcm16-prfsha256-x25519"]
[connections.peer.local]
auth = "psk"
id = "moon.example.org"
[connections.peer.remote]
auth = "psk"
id = "sun.example.org"
[connections.peer.children.net]
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16"]
esp_proposals = ["aes256gcm16"]
[secrets.ike-any]
secret = "needed by the reader only"
"""


def connection(name: str, local: LocalAuth, remote: RemoteAuth) -> Connection:
    """Moon's connection to sun, with these ways of authentication."""
    (made,) = load(FilePath("cygnet.toml"), TOML).connections
    child = replace(made.children[0], name=f"{name}-net")
    return replace(made, name=name, local=(local,), remote=(remote,), children=(child,))


class Moon:
    """The endpoint under test (192.0.2.1), its data plane always willing."""

    def __init__(
        self, credentials: Credentials, *connections: Connection, options: Options | None = None
    ) -> None:
        self.endpoint = Endpoint(options or Options(), credentials, SeededEntropy(1), NOW)
        self.sent: list[bytes] = []
        self.events: list[Event] = []
        self.installed: list[InstallSa] = []
        self.now = NOW
        for one in connections:
            self.endpoint.load(one, NOW)
        self.carry_out()

    def initiate(self, name: str) -> None:
        self.endpoint.initiate(name, "", self.now)
        self.carry_out()

    def receive(self, datagram: bytes, path: Path = PATH) -> list[bytes]:
        """What it answers."""
        before = len(self.sent)
        self.endpoint.receive(datagram, path, self.now)
        self.carry_out()
        return self.sent[before:]

    def carry_out(self) -> None:
        while effects := self.endpoint.effects():
            for effect in effects:
                if isinstance(effect, SendDatagram):
                    marked = effect.path.local_port == 4500
                    self.sent.append(effect.data[4:] if marked else effect.data)
                elif isinstance(effect, InstallSa):
                    self.installed.append(effect)
                    if effect.ask_id:
                        self.endpoint.resume(effect.ask_id, Installed(), self.now)
                elif isinstance(effect, Emit):
                    self.events.append(effect.event)

    @property
    def established(self) -> list[IkeSaUp]:
        return [event for event in self.events if isinstance(event, IkeSaUp)]

    @property
    def failures(self) -> list[Failure]:
        return [event.failure for event in self.events if isinstance(event, NegotiationFailed)]

    @property
    def drops(self) -> list[str]:
        return [event.drop.value for event in self.events if isinstance(event, Dropped)]

    @property
    def untouched(self) -> bool:
        """Nobody got anything: no IKE SA, no Child SA, nothing installed."""
        up = [event for event in self.events if isinstance(event, (IkeSaUp, ChildSaUp))]
        alive = [view for view in self.endpoint.sas() if view.state not in ("CONNECTING", "DELETING")]
        return not up and not alive and not self.installed


Edit = Callable[[list[Payload]], Iterable[Payload]]
Prover = Callable[[bytes], Proof]


def keep(payloads: list[Payload]) -> Iterable[Payload]:
    return payloads


def with_secret(secret: bytes) -> Prover:
    return lambda octets: prove_with_secret(secret, Prf.PRF_HMAC_SHA2_256, octets)


def with_key(own: OwnKey, hashes: frozenset[int] | None = HASHES) -> Prover:
    return lambda octets: prove_with_key(own, octets, hashes)


def ike_proposal() -> SaPayload:
    transforms = (
        Transform(TransformType.ENCR, Encr.AES_GCM_16, (Attribute(14, 256),)),
        Transform(TransformType.PRF, Prf.PRF_HMAC_SHA2_256),
        Transform(TransformType.KE, KeMethod.CURVE_25519),
    )
    return SaPayload((Proposal(1, Protocol.IKE, b"", transforms),))


def esp_proposal() -> SaPayload:
    transforms = (
        Transform(TransformType.ENCR, Encr.AES_GCM_16, (Attribute(14, 256),)),
        Transform(TransformType.ESN, 0),
    )
    return SaPayload((Proposal(1, Protocol.ESP, b"\x01\x02\x03\x04", transforms),))


def selectors(network: str) -> tuple[WireSelector, ...]:
    """All of 10.N.0.0/16."""
    number = int(network)
    return (WireSelector(7, 0, 0, 65535, bytes((10, number, 0, 0)), bytes((10, number, 255, 255))),)


@dataclass
class Sun:
    """The peer by hand (192.0.2.2). `initiator`: it starts the IKE SA. `more`: what else its IKE_SA_INIT
    carries."""

    initiator: bool
    announce: bool = True
    spi_i: bytes = b"\x11" * 8
    spi_r: bytes = b"\x22" * 8
    nonce: bytes = b"\x33" * 32
    keys: IkeKeys | None = None
    sent: bytes = b""
    received: bytes = b""
    their_nonce: bytes = b""
    iv: int = 0
    exchange_key: bytes = field(default=b"")
    proposal: SaPayload | None = None
    more: tuple[Payload, ...] = ()

    def header(self, exchange: int, message_id: int, *, response: bool) -> Header:
        flags = (Flags.INITIATOR if self.initiator else 0) | (Flags.RESPONSE if response else 0)
        return Header(self.spi_i, self.spi_r, 0, 2, 0, exchange, flags, message_id)

    def first(self, moon: Moon) -> Sun:
        """IKE_SA_INIT, in the role that we have; `moon` has initiated where it is the other one's."""
        ours = generate(KeMethod.CURVE_25519, SeededEntropy(2))
        hashes = NotifyPayload(
            0, b"", Notify.SIGNATURE_HASH_ALGORITHMS, b"".join(n.to_bytes(2, "big") for n in sorted(HASHES))
        )
        payloads: list[Payload] = [
            self.proposal or ike_proposal(),
            KePayload(KeMethod.CURVE_25519, ours.public),
            NoncePayload(self.nonce),
            *([hashes] if self.announce else []),
            *self.more,
        ]
        if self.initiator:
            self.spi_r = bytes(8)
            self.sent = encode(self.header(Exchange.IKE_SA_INIT, 0, response=False), payloads)
            (self.received,) = moon.receive(self.sent)
            message = decode(self.received)
            if (cookie := message.notify(Notify.COOKIE)) is not None:
                header = self.header(Exchange.IKE_SA_INIT, 0, response=False)
                self.sent = encode(header, [cookie, *payloads])
                (self.received,) = moon.receive(self.sent)
                message = decode(self.received)
            self.spi_r = message.header.responder_spi
        else:
            self.received = moon.sent[-1]
            message = decode(self.received)
            self.spi_i = message.header.initiator_spi
            self.sent = encode(self.header(Exchange.IKE_SA_INIT, 0, response=True), payloads)
        self.their_nonce = message.one(NoncePayload).data
        shared = ours.shared(message.one(KePayload).data)
        ni, nr = (self.nonce, self.their_nonce) if self.initiator else (self.their_nonce, self.nonce)
        ciphers = suite(Encr.AES_GCM_16, 256, 0)
        self.keys = ike_sa_keys(prf(Prf.PRF_HMAC_SHA2_256), ni, nr, self.spi_i, self.spi_r, shared, ciphers)
        if not self.initiator:
            moon.receive(self.sent)
        return self

    # -- what both sides of IKE_AUTH say ----------------------------------------------------------

    def proof(self, identity: IdiPayload | IdrPayload, prove: Prover) -> AuthPayload:
        """RFC 7296, section 2.15, by hand."""
        assert self.keys is not None
        body = bytes((identity.id_type,)) + identity.reserved + identity.data
        sk_p = self.keys.sk_pi if self.initiator else self.keys.sk_pr
        made = prove(self.sent + self.their_nonce + hmac.digest(sk_p, body, "sha256"))
        return AuthPayload(made.method, made.data)

    def authentication(
        self,
        identity: Identity,
        prove: Prover,
        certificates: Sequence[bytes] = (),
        asked: Identity | None = None,
    ) -> list[Payload]:
        """The payloads of our IKE_AUTH message, all of them good."""
        kind = IdiPayload if self.initiator else IdrPayload
        mine = kind(identity.type, identity.data)
        net_i, net_r = ("2", "1") if self.initiator else ("1", "2")
        return [
            mine,
            *(CertPayload(CertEncoding.X509_SIGNATURE, one) for one in certificates),
            *([IdrPayload(asked.type, asked.data)] if asked is not None and self.initiator else []),
            self.proof(mine, prove),
            esp_proposal(),
            TsiPayload(selectors(net_i)),
            TsrPayload(selectors(net_r)),
        ]

    # -- SK ---------------------------------------------------------------------------------------

    def seal(
        self, payloads: Iterable[Payload], exchange: int, message_id: int, *, response: bool = False
    ) -> bytes:
        assert self.keys is not None
        key = self.keys.sk_ei if self.initiator else self.keys.sk_er
        first, plaintext = encode_payloads(tuple(payloads))
        self.iv += 1
        iv = self.iv.to_bytes(8, "big")
        body_length = 8 + len(plaintext) + 1 + 16
        header = self.header(exchange, message_id, response=response)
        whole = encode(header, [EncryptedPayload(first, bytes(body_length))])
        associated = whole[: len(whole) - body_length]
        assert associated[16] == PayloadType.SK
        sealed = AESGCM(key[:-4]).encrypt(key[-4:] + iv, plaintext + b"\x00", associated)
        return associated + iv + sealed

    def open(self, datagram: bytes) -> Message:
        assert self.keys is not None
        key = self.keys.sk_er if self.initiator else self.keys.sk_ei
        outer = decode(datagram)
        (sk,) = outer.payloads
        assert isinstance(sk, EncryptedPayload)
        associated, iv, sealed = datagram[: sk.offset + 4], sk.body[:8], sk.body[8:]
        plaintext = AESGCM(key[:-4]).decrypt(key[-4:] + iv, sealed, associated)
        return Message(outer.header, decode_payloads(sk.first_inner, plaintext[: -1 - plaintext[-1]]))

    def request(
        self, moon: Moon, payloads: Iterable[Payload], exchange: int = Exchange.IKE_AUTH, message_id: int = 1
    ) -> Message | None:
        """Moon's answer to our request, or None for silence."""
        answers = moon.receive(self.seal(payloads, exchange, message_id))
        answers = [one for one in answers if decode(one).header.response]
        return self.open(answers[-1]) if answers else None

    def answer(self, moon: Moon, payloads: Iterable[Payload], message_id: int = 1) -> list[Message]:
        """Answer moon's IKE_AUTH; what it says next."""
        said = moon.receive(self.seal(payloads, Exchange.IKE_AUTH, message_id, response=True))
        return [self.open(one) for one in said]
