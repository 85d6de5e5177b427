"""A load of IKEv2 initiators: as many complete handshakes with one responder as it can take.

A bench tool, much simpler than `cygnet.ike` on purpose: what it costs is not what is measured. It
offers one suite (AES-256-GCM, HMAC-SHA-256, X25519), proves itself with a PSK, and asks for one
Child SA, all on port 4500 (RFC 7296, section 2.23: allowed from the start). Each source address
has one handshake in flight, so that half-open limits never bite; every handshake has an identity
and a traffic selector of its own. Lost answers are asked for again.
"""

from __future__ import annotations

import ipaddress
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha1

from cygnet.crypto.entropy import SystemEntropy
from cygnet.crypto.kdf import IkeKeys, ike_sa_keys
from cygnet.crypto.key_exchange import KeyExchange, generate
from cygnet.crypto.prf import prf
from cygnet.crypto.suites import suite
from cygnet.wire import message, payloads
from cygnet.wire.numbers import (
    AuthMethod,
    Encr,
    Esn,
    Exchange,
    Flags,
    IdType,
    KeMethod,
    Notify,
    PayloadType,
    Prf,
    Protocol,
    TransformType,
    TsType,
)

NON_ESP_MARKER = bytes(4)
PRF = prf(Prf.PRF_HMAC_SHA2_256)
SUITE = suite(Encr.AES_GCM_16, 256)
KEY_PAD = b"Key Pad for IKEv2"
RESEND_AFTER = 1.0
GIVE_UP_AFTER = 15.0


class LoadFailed(Exception):
    """The responder refused, or does not answer."""


def _transform(kind: int, number: int, key_bits: int = 0) -> payloads.Transform:
    attributes = (payloads.Attribute(14, key_bits),) if key_bits else ()
    return payloads.Transform(kind, number, attributes)


def _offer(group: int) -> payloads.SaPayload:
    return payloads.SaPayload(
        (
            payloads.Proposal(
                1,
                Protocol.IKE,
                b"",
                (
                    _transform(TransformType.ENCR, Encr.AES_GCM_16, 256),
                    _transform(TransformType.PRF, Prf.PRF_HMAC_SHA2_256),
                    _transform(TransformType.KE, group),
                ),
            ),
        )
    )


EVERYWHERE = payloads.WireSelector(TsType.IPV4_ADDR_RANGE, 0, 0, 65535, bytes(4), b"\xff" * 4)


@dataclass(slots=True)
class Session:
    """One established IKE SA as its initiator remembers it."""

    spi_i: bytes
    spi_r: bytes
    keys: IkeKeys
    source: int
    next_id: int = 2
    iv: int = 2


@dataclass(slots=True)
class _Attempt:
    number: int
    spi_i: bytes
    nonce: bytes
    request: bytes
    started: float
    resend_at: float
    session: Session | None = None


@dataclass(slots=True)
class Source:
    """One source address: a socket, and the exchange it has in flight."""

    index: int
    sock: socket.socket
    address: str
    attempt: _Attempt | None = None
    waiting: list[bytes] = field(default_factory=list)


def _seal(session: Session, exchange: int, message_id: int, inner: Iterable[payloads.Payload]) -> bytes:
    first, body = message.encode_payloads(tuple(inner))
    plaintext = body + b"\x00"
    iv = session.iv.to_bytes(8, "big")
    session.iv += 1
    sealed_length = 4 + 8 + len(plaintext) + 16
    header = message.Header(
        session.spi_i, session.spi_r, PayloadType.SK, 2, 0, exchange, Flags.INITIATOR, message_id
    )
    aad = message.encode_header(header, PayloadType.SK, 28 + sealed_length)
    aad += struct.pack("!BBH", first, 0, sealed_length)
    return aad + iv + SUITE.protector(session.keys.sk_ei).seal(aad, iv, plaintext)


def _open(session: Session, datagram: bytes) -> tuple[payloads.Payload, ...]:
    sealed = message.decode(datagram).one(payloads.EncryptedPayload)
    body = datagram[sealed.offset + 4 :]
    plaintext = SUITE.protector(session.keys.sk_er).open(datagram[: sealed.offset + 4], body[:8], body[8:])
    return message.decode_payloads(sealed.first_inner, plaintext[: -1 - plaintext[-1]])


class Load:
    """`sources`: local addresses to send from. `target`: the responder, which has `psk` for any identity."""

    def __init__(
        self,
        sources: list[str],
        target: str,
        psk: bytes,
        port: int = 4500,
        own_id: str = "",
        group: int = KeMethod.CURVE_25519,
    ) -> None:
        self._psk, self._group = psk, group
        self._psk_key = PRF.compute(psk, KEY_PAD)
        self._target = (target, port)
        self._own_id = own_id
        self._key: KeyExchange = generate(group, SystemEntropy())
        self._selector = selectors.DefaultSelector()
        self._sources: list[Source] = []
        self.sessions: list[Session] = []
        self.refused: list[str] = []
        for index, address in enumerate(sources):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.bind((address, 0))
            sock.connect(self._target)
            sock.setblocking(False)
            source = Source(index, sock, address)
            self._sources.append(source)
            self._selector.register(sock, selectors.EVENT_READ, source)
        self._started = 0
        self.resent = 0

    def close(self) -> None:
        self._selector.close()
        for source in self._sources:
            source.sock.close()

    # -- handshakes ----------------------------------------------------------------------------

    def handshakes(self, count: int) -> float:
        """Run `count` handshakes to the end; seconds of wall time. Raises LoadFailed."""
        begun = time.monotonic()
        wanted = len(self.sessions) + count
        to_start = count
        for source in self._sources:
            if to_start:
                self._begin(source)
                to_start -= 1
        while len(self.sessions) < wanted:
            for key, _ in self._selector.select(RESEND_AFTER / 2):
                source = key.data
                for datagram in self._read(source):
                    if self._answered(source, datagram) and to_start:
                        self._begin(source)
                        to_start -= 1
            self._resend()
        return time.monotonic() - begun

    @staticmethod
    def _read(source: Source) -> Iterable[bytes]:
        while True:
            try:
                datagram = source.sock.recv(65535)
            except BlockingIOError:
                return
            except ConnectionRefusedError as error:
                raise LoadFailed("the responder's port is closed") from error
            if datagram[:4] == NON_ESP_MARKER and len(datagram) > 32:
                yield datagram[4:]

    def _begin(self, source: Source) -> None:
        self._started += 1
        spi_i, nonce = os.urandom(8), os.urandom(32)
        header = message.Header(spi_i, bytes(8), 0, 2, 0, Exchange.IKE_SA_INIT, Flags.INITIATOR, 0)
        local, local_port = source.sock.getsockname()
        remote, remote_port = self._target
        request = message.encode(
            header,
            (
                _offer(self._group),
                payloads.KePayload(self._group, self._key.public),
                payloads.NoncePayload(nonce),
                _detection(Notify.NAT_DETECTION_SOURCE_IP, spi_i, local, local_port),
                _detection(Notify.NAT_DETECTION_DESTINATION_IP, spi_i, remote, remote_port),
                payloads.NotifyPayload(0, b"", Notify.FRAGMENTATION_SUPPORTED, b""),
                payloads.NotifyPayload(0, b"", Notify.SIGNATURE_HASH_ALGORITHMS, b"\x00\x02\x00\x03\x00\x04"),
            ),
        )
        now = time.monotonic()
        source.attempt = _Attempt(self._started, spi_i, nonce, request, now, now + RESEND_AFTER)
        source.sock.send(NON_ESP_MARKER + request)

    def _answered(self, source: Source, datagram: bytes) -> bool:
        """Whether this datagram ended the source's handshake."""
        attempt = source.attempt
        if attempt is None or datagram[:8] != attempt.spi_i:
            return False
        exchange, message_id = datagram[18], int.from_bytes(datagram[20:24], "big")
        if attempt.session is None and exchange == Exchange.IKE_SA_INIT:
            self._authenticate(source, attempt, datagram)
            return False
        if attempt.session is not None and exchange == Exchange.IKE_AUTH and message_id == 1:
            self._finish(source, attempt.session, datagram)
            return True
        return False

    def _authenticate(self, source: Source, attempt: _Attempt, datagram: bytes) -> None:
        answer = message.decode(datagram)
        if answer.error() is not None or answer.notify(Notify.COOKIE) is not None:
            raise LoadFailed(f"IKE_SA_INIT was answered with {answer.payloads}")
        spi_r = answer.header.responder_spi
        nonce_r = answer.one(payloads.NoncePayload).data
        shared = self._key.shared(answer.one(payloads.KePayload).data)
        keys = ike_sa_keys(PRF, attempt.nonce, nonce_r, attempt.spi_i, spi_r, shared, SUITE)
        session = attempt.session = Session(attempt.spi_i, spi_r, keys, source.index, iv=0)
        identity = payloads.IdiPayload(IdType.FQDN, b"load-%d.example" % attempt.number)
        octets = attempt.request + nonce_r + PRF.compute(keys.sk_pi, identity.emit())
        inner = ipaddress.IPv4Address(0x0A00_0000 + attempt.number).packed
        inside: list[payloads.Payload] = [
            identity,
            payloads.AuthPayload(AuthMethod.PSK, PRF.compute(self._psk_key, octets)),
            payloads.SaPayload(
                (
                    payloads.Proposal(
                        1,
                        Protocol.ESP,
                        os.urandom(4),
                        (
                            _transform(TransformType.ENCR, Encr.AES_GCM_16, 256),
                            _transform(TransformType.ESN, Esn.NO_EXT_SEQ),
                        ),
                    ),
                )
            ),
            payloads.TsiPayload((payloads.WireSelector(TsType.IPV4_ADDR_RANGE, 0, 0, 65535, inner, inner),)),
            payloads.TsrPayload((EVERYWHERE,)),
        ]
        if self._own_id:
            inside.insert(1, payloads.IdrPayload(IdType.FQDN, self._own_id.encode()))
        attempt.request = _seal(session, Exchange.IKE_AUTH, 1, inside)
        attempt.resend_at = time.monotonic() + RESEND_AFTER
        source.sock.send(NON_ESP_MARKER + attempt.request)

    def _finish(self, source: Source, session: Session, datagram: bytes) -> None:
        found = _open(session, datagram)
        kinds = {type(payload) for payload in found}
        if not {payloads.AuthPayload, payloads.SaPayload} <= kinds:
            raise LoadFailed(f"IKE_AUTH was answered with {found}")
        self.sessions.append(session)
        source.attempt = None

    def _resend(self) -> None:
        now = time.monotonic()
        for source in self._sources:
            attempt = source.attempt
            if attempt is None or attempt.resend_at > now:
                continue
            if now - attempt.started > GIVE_UP_AFTER:
                raise LoadFailed(f"no answer for {GIVE_UP_AFTER:.0f} s")
            attempt.resend_at = now + RESEND_AFTER
            self.resent += 1
            source.sock.send(NON_ESP_MARKER + attempt.request)

    # -- deletes -------------------------------------------------------------------------------

    def delete_all(self) -> None:
        """Delete every IKE SA, one exchange at a time for each source. Raises LoadFailed."""
        by_source: dict[int, list[Session]] = {source.index: [] for source in self._sources}
        for session in self.sessions:
            by_source[session.source].append(session)
        self.sessions = []
        pending = {source.index: self._next_delete(source, by_source) for source in self._sources}
        quiet_since = time.monotonic()
        while any(pending.values()):
            ready = self._selector.select(RESEND_AFTER)
            for key, _ in ready:
                source = key.data
                for datagram in self._read(source):
                    waiting = pending[source.index]
                    if waiting is not None and datagram[:8] == waiting.spi_i and datagram[18] == 37:
                        pending[source.index] = self._next_delete(source, by_source)
                        quiet_since = time.monotonic()
            if time.monotonic() - quiet_since > GIVE_UP_AFTER:
                raise LoadFailed("a Delete is not answered")
            if not ready:
                for source in self._sources:
                    if source.waiting:
                        self.resent += 1
                        source.sock.send(source.waiting[0])

    def _next_delete(self, source: Source, by_source: dict[int, list[Session]]) -> Session | None:
        source.waiting.clear()
        if not by_source[source.index]:
            return None
        session = by_source[source.index].pop()
        request = _seal(
            session, Exchange.INFORMATIONAL, session.next_id, (payloads.DeletePayload(Protocol.IKE, ()),)
        )
        source.waiting.append(NON_ESP_MARKER + request)
        source.sock.send(source.waiting[0])
        return session


def _detection(kind: int, spi_i: bytes, address: str, port: int) -> payloads.NotifyPayload:
    """RFC 7296, section 2.23: SHA-1 over SPIs, address and port."""
    digest = sha1(spi_i + bytes(8) + ipaddress.ip_address(address).packed + port.to_bytes(2, "big"))
    return payloads.NotifyPayload(0, b"", kind, digest.digest())
