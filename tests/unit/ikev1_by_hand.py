"""The other end of an IKEv1 SA, played by hand: it says whatever a test wants, with the right keys.

It is sun (192.0.2.2) and initiates: main mode with a pre-shared key, AES-128, SHA-256, X25519. Chains of IVs
are kept here, for each message id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path as FilePath

from cygnet.config.load import load
from cygnet.crypto import ikev1
from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.key_exchange import generate
from cygnet.ike.configuration import Options
from cygnet.wire.message import Header
from cygnet.wire.numbers import KeMethod
from cygnet.wire.v1 import message as wire
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import (
    Authentication,
    Encapsulation,
    Encryption,
    EspTransform,
    Exchange,
    Hash,
    IdType,
    IntegrityAlgorithm,
    Phase1Attribute,
    Phase2Attribute,
    Protocol,
)
from cygnet.wire.v1.payloads import (
    Attribute,
    HashPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    VendorIdPayload,
)
from tests.unit.ike_by_hand import NOW, PATH, Moon

SECRET = b"a secret that nobody guesses"
SUITE = ikev1.phase1_suite(Encryption.AES_CBC, 128, Hash.SHA2_256)
TOML = """
[connections.peer]
version = {version}
aggressive = {aggressive}
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
proposals = ["aes128-sha256-x25519"]
encap = "no"
local = {{ auth = "psk", id = "moon.example.org" }}
remote = {{ auth = "psk", id = "sun.example.org" }}
[connections.peer.children.net]
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16"]
esp_proposals = ["aes128-sha256"]
[secrets.ike-any]
secret = "{secret}"
"""


def moon(version: int = 1, *, anywhere: bool = False, options: Options | None = None, more: str = "") -> Moon:
    """`anywhere`: the peer may come from any address. `more`: what its connection has besides."""
    text = TOML.format(version=version, aggressive="false", secret=SECRET.decode())
    text = text.replace('encap = "no"', f'encap = "no"\n{more}')
    if anywhere:
        text = text.replace("192.0.2.2", "%any")
    loaded = load(FilePath("moon.toml"), text)
    return Moon(loaded.credentials(), *loaded.connections, options=options)


def offer(encryption: int = Encryption.AES_CBC, method: int = Authentication.PSK) -> SaPayload:
    attributes = (
        Attribute(Phase1Attribute.ENCRYPTION, encryption),
        Attribute(Phase1Attribute.KEY_LENGTH, 128),
        Attribute(Phase1Attribute.HASH, Hash.SHA2_256),
        Attribute(Phase1Attribute.GROUP, KeMethod.CURVE_25519),
        Attribute(Phase1Attribute.AUTHENTICATION, method),
    )
    return SaPayload((Proposal(1, Protocol.ISAKMP, b"", (Transform(1, 1, attributes),)),))


def child_offer(spi: bytes = b"\x01\x02\x03\x04") -> SaPayload:
    attributes = (
        Attribute(Phase2Attribute.ENCAPSULATION, Encapsulation.TUNNEL),
        Attribute(Phase2Attribute.AUTHENTICATION, IntegrityAlgorithm.HMAC_SHA2_256),
        Attribute(Phase2Attribute.KEY_LENGTH, 128),
    )
    return SaPayload((Proposal(1, Protocol.ESP, spi, (Transform(1, EspTransform.AES_CBC, attributes),)),))


def subnet(number: int) -> IdPayload:
    """All of 10.N.0.0/16."""
    return IdPayload(IdType.IPV4_ADDR_SUBNET, 0, 0, bytes((10, number, 0, 0, 255, 255, 0, 0)))


SUN_ID = IdPayload(IdType.FQDN, 0, 0, b"sun.example.org")


class Sun:
    """`number` makes cookies, nonces and keys of its own."""

    def __init__(self, number: int = 1) -> None:
        self.entropy = SeededEntropy(number)
        self.cookie, self.theirs = self.entropy.octets(8), bytes(8)
        self.nonce, self.key = self.entropy.octets(32), generate(KeMethod.CURVE_25519, self.entropy)
        self.offer = offer()
        self.keys: ikev1.Phase1Keys | None = None
        self.iv = b""
        self.last_block = b""
        self.ivs: dict[int, bytes] = {}
        self.public_r = self.nonce_r = b""

    def header(self, exchange: int, message_id: int = 0) -> Header:
        return Header(self.cookie, self.theirs, 0, 1, 0, exchange, 0, message_id)

    # -- main mode ------------------------------------------------------------------------------

    def first(self, vendors: Iterable[bytes] = (vendor_ids.DPD, vendor_ids.FRAGMENTATION)) -> bytes:
        vids = map(VendorIdPayload, vendors)
        return wire.encode(self.header(Exchange.MAIN_MODE), (self.offer, *vids))

    def second(self, answer: bytes) -> bytes:
        self.theirs = wire.decode(answer).header.responder_spi
        payloads = (KePayload(self.key.public), NoncePayload(self.nonce))
        return wire.encode(self.header(Exchange.MAIN_MODE), payloads)

    def third(self, answer: bytes, secret: bytes = SECRET, identity: IdPayload = SUN_ID) -> bytes:
        decoded = wire.decode(answer)
        self.public_r, self.nonce_r = decoded.one(KePayload).data, decoded.one(NoncePayload).data
        shared = self.key.shared(self.public_r)
        skeyid = ikev1.skeyid_of_secret(SUITE, secret, self.nonce, self.nonce_r)
        self.keys = ikev1.phase1_keys(SUITE, skeyid, shared, self.cookie, self.theirs)
        proof = ikev1.phase1_hash(
            SUITE, skeyid, self.key.public, self.public_r, self.cookie, self.theirs,
            self.offer.emit(), identity.emit(),
        )  # fmt: skip
        iv = ikev1.phase1_iv(SUITE, self.key.public, self.public_r)
        first, octets = wire.encode_payloads((identity, HashPayload(proof)))
        sealed = SUITE.encrypt(self.keys.encryption, iv, octets)
        self.iv = sealed[-SUITE.block :]
        return wire.encode_sealed(self.header(Exchange.MAIN_MODE), first, sealed)

    def establish(self, moon: Moon) -> Sun:
        """Main mode, whole."""
        (two,) = moon.receive(self.first())
        (four,) = moon.receive(self.second(two))
        (six, *_) = moon.receive(self.third(four))
        self.last_block = wire.decode(six).sealed[-SUITE.block :]
        return self

    # -- what follows ---------------------------------------------------------------------------

    def sealed(
        self,
        exchange: int,
        payloads: Sequence[Payload],
        message_id: int = 0x11223344,
        digest: bytes | None = None,
        first: int | None = None,
    ) -> bytes:
        """An encrypted message with HASH(1) before `payloads`; or with `digest`; or, where `first` is given,
        with exactly these payloads."""
        keys = self.keys_now
        kind, octets = wire.encode_payloads(payloads)
        if first is None:
            right = ikev1.quick_hash_1(SUITE, keys.skeyid_a, message_id, octets)
            kind, octets = wire.prefix_hash(kind, octets, right if digest is None else digest)
        iv = self.ivs.get(message_id) or ikev1.phase2_iv(SUITE, self.last_block, message_id)
        ciphertext = SUITE.encrypt(keys.encryption, iv, octets)
        self.ivs[message_id] = ciphertext[-SUITE.block :]
        return wire.encode_sealed(self.header(exchange, message_id), kind, ciphertext)

    @property
    def keys_now(self) -> ikev1.Phase1Keys:
        if self.keys is None:
            raise RuntimeError("main mode has not come so far")
        return self.keys

    def opened(self, datagram: bytes) -> Message:
        """Of an exchange of theirs, or the next message of one of ours."""
        message = wire.decode(datagram)
        number = message.header.message_id
        iv = self.ivs.get(number) or ikev1.phase2_iv(SUITE, self.last_block, number)
        self.ivs[number] = message.sealed[-SUITE.block :]
        plaintext = SUITE.decrypt(self.keys_now.encryption, iv, message.sealed)
        if plaintext is None:
            raise ValueError("no whole blocks")
        return wire.opened(message, plaintext)

    def quick_mode(self, moon: Moon, message_id: int = 0x5000, spi: bytes = b"\x01\x02\x03\x04") -> bytes:
        """A Child SA; its SPI at moon's."""
        nonce = self.entropy.octets(32)
        offered = (child_offer(spi), NoncePayload(nonce), subnet(2), subnet(1))
        (two,) = moon.receive(self.sealed(Exchange.QUICK_MODE, offered, message_id))
        answer = self.opened(two)
        nr = answer.one(NoncePayload).data
        digest = ikev1.quick_hash_3(SUITE, self.keys_now.skeyid_a, message_id, nonce, nr)
        moon.receive(self.sealed(Exchange.QUICK_MODE, (HashPayload(digest),), message_id, first=8))
        return answer.one(SaPayload).proposals[0].spi


__all__ = ["NOW", "PATH", "Moon", "Sun", "child_offer", "moon", "offer", "subnet"]
