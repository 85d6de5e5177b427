"""A load of IKEv1 initiators: main mode and quick mode with a PSK, as `ike_load` for IKEv2.

AES-256-CBC and SHA-256 in phase 1, AES-256-GCM in the Child SA, no PFS, all on port 4500. Nine messages: the
responder's work on the last one, which nothing answers, falls into the next tunnel's time.
"""

from __future__ import annotations

import ipaddress
import os
import time
from dataclasses import dataclass
from typing import cast

from bench.ike_load import NON_ESP_MARKER, RESEND_AFTER, Load, LoadFailed, Session, Source, _Attempt
from cygnet.crypto import ikev1
from cygnet.crypto.kdf import IkeKeys
from cygnet.wire.message import Header
from cygnet.wire.v1 import message, vendor_ids
from cygnet.wire.v1.numbers import (
    Authentication,
    Encapsulation,
    Encryption,
    EspTransform,
    Exchange,
    Hash,
    IdType,
    Phase1Attribute,
    Phase2Attribute,
    Protocol,
)
from cygnet.wire.v1.payloads import (
    Attribute,
    HashPayload,
    IdPayload,
    KePayload,
    NatDPayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    VendorIdPayload,
)

SUITE = ikev1.phase1_suite(Encryption.AES_CBC, 256, Hash.SHA2_256)
EVERYWHERE = IdPayload(IdType.IPV4_ADDR_SUBNET, 0, 0, bytes(8))
ESP = (
    Attribute(Phase2Attribute.LIFE_TYPE, 1),
    Attribute(Phase2Attribute.LIFE_DURATION, 3600),
    Attribute(Phase2Attribute.ENCAPSULATION, Encapsulation.UDP_TUNNEL),
    Attribute(Phase2Attribute.KEY_LENGTH, 256),
)


def offer(group: int) -> SaPayload:
    attributes = (
        Attribute(Phase1Attribute.ENCRYPTION, Encryption.AES_CBC),
        Attribute(Phase1Attribute.KEY_LENGTH, 256),
        Attribute(Phase1Attribute.HASH, Hash.SHA2_256),
        Attribute(Phase1Attribute.GROUP, group),
        Attribute(Phase1Attribute.AUTHENTICATION, Authentication.PSK),
        Attribute(Phase1Attribute.LIFE_TYPE, 1),
        Attribute(Phase1Attribute.LIFE_DURATION, (86400).to_bytes(4, "big")),
    )
    return SaPayload((Proposal(1, Protocol.ISAKMP, b"", (Transform(1, 1, attributes),)),))


@dataclass(slots=True)
class _Tunnel(_Attempt):
    """`step`: the message that is waited for, 2, 4, 6, and 8 for quick mode's second."""

    step: int = 2
    spi_r: bytes = bytes(8)
    keys: ikev1.Phase1Keys | None = None
    iv: bytes = b""
    message_id: int = 0
    quick_nonce: bytes = b""


class LoadV1(Load):
    """`handshakes` are tunnels: main and quick mode. `delete_all` is not for it."""

    def _begin(self, source: Source) -> None:
        self._started += 1
        now = time.monotonic()
        tunnel = _Tunnel(self._started, os.urandom(8), os.urandom(32), b"", now, now + RESEND_AFTER)
        source.attempt = tunnel
        payloads = (
            offer(self._group),
            VendorIdPayload(vendor_ids.NAT_T_RFC),
            VendorIdPayload(vendor_ids.DPD),
        )
        self._send(source, tunnel, message.encode(self._header(tunnel, Exchange.MAIN_MODE), payloads))

    def _header(self, tunnel: _Tunnel, exchange: int) -> Header:
        return Header(tunnel.spi_i, tunnel.spi_r, 0, 1, 0, exchange, 0, tunnel.message_id)

    def _send(self, source: Source, tunnel: _Tunnel, datagram: bytes) -> None:
        tunnel.request = datagram
        tunnel.resend_at = time.monotonic() + RESEND_AFTER
        source.sock.send(NON_ESP_MARKER + datagram)

    def _answered(self, source: Source, datagram: bytes) -> bool:
        tunnel = cast(_Tunnel | None, source.attempt)
        if tunnel is None or datagram[:8] != tunnel.spi_i:
            return False
        answer = message.decode(datagram)
        if answer.header.exchange == Exchange.INFORMATIONAL:
            if tunnel.keys is None:
                raise LoadFailed(f"the responder says {answer.all(NotifyPayload)}")
            return False
        # Repeats of answers that were taken already: each step is one exchange type and message id.
        if answer.header.message_id != tunnel.message_id or answer.encrypted != (tunnel.step > 4):
            return False
        if tunnel.step == 2 and answer.maybe(SaPayload):
            self._exchange_keys(source, tunnel, answer)
        elif tunnel.step == 4 and answer.maybe(KePayload):
            self._prove(source, tunnel, answer)
        elif tunnel.step == 6:
            self._start_quick_mode(source, tunnel, answer)
        elif tunnel.step == 8:
            self._finish_quick_mode(source, tunnel, answer)
            return True
        return False

    def _exchange_keys(self, source: Source, tunnel: _Tunnel, answer: message.Message) -> None:
        tunnel.spi_r = answer.header.responder_spi
        tunnel.step = 4
        local, local_port = source.sock.getsockname()
        remote, remote_port = self._target
        payloads = (
            KePayload(self._key.public),
            NoncePayload(tunnel.nonce),
            _detection(tunnel, remote, remote_port),
            _detection(tunnel, local, local_port),
        )
        self._send(source, tunnel, message.encode(self._header(tunnel, Exchange.MAIN_MODE), payloads))

    def _prove(self, source: Source, tunnel: _Tunnel, answer: message.Message) -> None:
        theirs, nonce = answer.one(KePayload).data, answer.one(NoncePayload).data
        shared, public = self._key.shared(theirs), self._key.public
        skeyid = ikev1.skeyid_of_secret(SUITE, self._psk, tunnel.nonce, nonce)
        tunnel.keys = ikev1.phase1_keys(SUITE, skeyid, shared, tunnel.spi_i, tunnel.spi_r)
        tunnel.iv = ikev1.phase1_iv(SUITE, public, theirs)
        identity = IdPayload(IdType.FQDN, 0, 0, b"load-%d.example" % tunnel.number)
        proof = ikev1.phase1_hash(
            SUITE,
            skeyid,
            public,
            theirs,
            tunnel.spi_i,
            tunnel.spi_r,
            offer(self._group).emit(),
            identity.emit(),
        )
        tunnel.step = 6
        self._send_sealed(source, tunnel, Exchange.MAIN_MODE, *_chain(identity, HashPayload(proof)))

    def _send_sealed(self, source: Source, tunnel: _Tunnel, exchange: int, first: int, octets: bytes) -> None:
        sealed = SUITE.encrypt(_keys(tunnel).encryption, tunnel.iv, octets)
        tunnel.iv = sealed[-SUITE.block :]
        self._send(source, tunnel, message.encode_sealed(self._header(tunnel, exchange), first, sealed))

    def _open(self, tunnel: _Tunnel, answer: message.Message) -> message.Message:
        plaintext = SUITE.decrypt(_keys(tunnel).encryption, tunnel.iv, answer.sealed)
        if plaintext is None:
            raise LoadFailed("an answer that is no whole blocks")
        tunnel.iv = answer.sealed[-SUITE.block :]
        return message.opened(answer, plaintext)

    def _start_quick_mode(self, source: Source, tunnel: _Tunnel, answer: message.Message) -> None:
        self._open(tunnel, answer).one(HashPayload)
        tunnel.message_id = int.from_bytes(os.urandom(4), "big") | 1
        tunnel.iv = ikev1.phase2_iv(SUITE, tunnel.iv, tunnel.message_id)
        tunnel.quick_nonce = os.urandom(32)
        inner = ipaddress.IPv4Address(0x0A00_0000 + tunnel.number).packed
        first, octets = _chain(
            SaPayload(
                (Proposal(1, Protocol.ESP, os.urandom(4), (Transform(1, EspTransform.AES_GCM_16, ESP),)),)
            ),
            NoncePayload(tunnel.quick_nonce),
            IdPayload(IdType.IPV4_ADDR, 0, 0, inner),
            EVERYWHERE,
        )
        digest = ikev1.quick_hash_1(SUITE, _keys(tunnel).skeyid_a, tunnel.message_id, octets)
        tunnel.step = 8
        self._send_sealed(source, tunnel, Exchange.QUICK_MODE, *message.prefix_hash(first, octets, digest))

    def _finish_quick_mode(self, source: Source, tunnel: _Tunnel, answer: message.Message) -> None:
        nonce = self._open(tunnel, answer).one(NoncePayload).data
        digest = ikev1.quick_hash_3(
            SUITE, _keys(tunnel).skeyid_a, tunnel.message_id, tunnel.quick_nonce, nonce
        )
        self._send_sealed(source, tunnel, Exchange.QUICK_MODE, *_chain(HashPayload(digest)))
        source.attempt = None
        self.sessions.append(Session(tunnel.spi_i, tunnel.spi_r, IkeKeys(*[b""] * 7), source.index))


def _keys(tunnel: _Tunnel) -> ikev1.Phase1Keys:
    if tunnel.keys is None:
        raise LoadFailed("an encrypted message before there are keys")
    return tunnel.keys


def _chain(*payloads: Payload) -> tuple[int, bytes]:
    return message.encode_payloads(payloads)


def _detection(tunnel: _Tunnel, address: str, port: int) -> NatDPayload:
    """RFC 3947, section 3.2: the negotiated hash of cookies, address and port."""
    packed = ipaddress.ip_address(address).packed
    return NatDPayload(SUITE.hash_of(tunnel.spi_i + tunnel.spi_r + packed + port.to_bytes(2, "big")))
