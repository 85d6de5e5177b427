"""TLS without a socket: octets in, octets out, keys exported. The one place that knows pyOpenSSL.

Certificates are judged here by our own rules (`auth.x509`), not by OpenSSL's: OpenSSL checks that the peer
holds the key of its certificate, `_judge` that the certificate is one to trust. Nothing leaves that was made
after the peer's certificate came until it has passed (V9, V57): not our own certificate, not a Finished.

No tickets and no cache: a session is never resumed, so each one is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from cygnet.auth.credentials import OwnKey
from cygnet.auth.eap.method import EapFailed
from cygnet.auth.errors import Kind
from cygnet.records import dataclass

if TYPE_CHECKING:
    from OpenSSL import SSL

MISSING: Final = "EAP with TLS needs pyOpenSSL: pip install 'cygnet[eap-tls]'"
CHUNK: Final = 65_536
MAX_PENDING: Final = 131_072
"""Octets of one flight in each direction; certificate chains stay below 32 KiB."""
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:@SECLEVEL=2"

Judge = Callable[[list[bytes]], None]
"""That these certificates (DER, the end entity's first) are the peer's and to be trusted, or raises."""


def available() -> bool:
    """Whether the library is installed."""
    try:
        import OpenSSL.SSL  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a handshake. `own` None: no certificate of ours (a client inside a tunnel). `wants_peer`: a
    server demands the client's certificate. `newest`: the highest version, (1, 2) or (1, 3)."""

    server: bool
    own: OwnKey | None
    judge: Judge | None
    newest: tuple[int, int] = (1, 3)


class Engine:
    """A handshake and its connection. All may raise `EapFailed`, or what the judge raises."""

    def __init__(self, side: Side) -> None:
        try:
            from OpenSSL import SSL
        except ImportError:
            raise EapFailed(MISSING, Kind.EAP_METHOD_MISMATCH) from None
        self._ssl: Any = SSL
        self._side = side
        self._judged = side.judge is None
        self.chain: tuple[bytes, ...] = ()
        self.done = False
        self._connection = self._connect(SSL)

    def _connect(self, ssl: Any) -> SSL.Connection:
        side = self._side
        context = ssl.Context(ssl.TLS_SERVER_METHOD if side.server else ssl.TLS_CLIENT_METHOD)
        context.set_min_proto_version(ssl.TLS1_2_VERSION)
        context.set_max_proto_version(ssl.TLS1_3_VERSION if side.newest == (1, 3) else ssl.TLS1_2_VERSION)
        context.set_options(ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION)
        # strongSwan's own TLS does not speak of renegotiation (RFC 5746), which is never done here anyway.
        context.set_options(ssl.OP_LEGACY_SERVER_CONNECT)
        context.set_session_cache_mode(ssl.SESS_CACHE_OFF)
        context.set_cipher_list(_CIPHERS)
        if side.judge is not None:
            # OpenSSL asks for the certificate and for proof of its key; trust is decided in `_judge`.
            context.set_verify(ssl.VERIFY_PEER | ssl.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        if side.own is not None:
            context.use_privatekey(side.own.key)
            context.use_certificate(side.own.chain[0].handle)
            for issuer in side.own.chain[1:]:
                context.add_extra_chain_cert(issuer.handle)
        connection: SSL.Connection = ssl.Connection(context, None)
        if side.server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        return connection

    @property
    def is_13(self) -> bool:
        return bool(self._connection.get_protocol_version() == self._ssl.TLS1_3_VERSION)

    def handshake(self, received: bytes) -> bytes:
        """One flight in, the next one out; `done` says when there is nothing more to negotiate."""
        self._feed(received)
        try:
            if not self.done:
                self._connection.do_handshake()
                self.done = True
        except self._ssl.WantReadError:
            pass
        except self._ssl.Error as error:
            raise EapFailed(f"TLS: {_text(error)}") from None
        self._look_at_peer()
        return self._flight()

    def write(self, data: bytes) -> bytes:
        """`data` sealed, with whatever else waits to be sent."""
        try:
            self._connection.sendall(data)
        except self._ssl.Error as error:
            raise EapFailed(f"TLS: {_text(error)}") from None
        return self._flight()

    def read(self, received: bytes) -> bytes:
        """What the records held."""
        self._feed(received)
        parts: list[bytes] = []
        while True:
            try:
                parts.append(self._connection.recv(CHUNK))
            except self._ssl.WantReadError:
                break
            except self._ssl.ZeroReturnError:
                raise EapFailed("TLS: the peer closed the tunnel") from None
            except self._ssl.Error as error:
                raise EapFailed(f"TLS: {_text(error)}") from None
            if sum(map(len, parts)) > MAX_PENDING:
                raise EapFailed("TLS: more inside the tunnel than there can be")
        return b"".join(parts)

    def export(self, label: bytes, length: int, context: bytes | None = None) -> bytes:
        """Keying material (RFC 5705; RFC 8446, section 7.5)."""
        if not self.done or not self._judged:
            raise EapFailed("TLS: no key before the end of the handshake")
        return bytes(self._connection.export_keying_material(label, length, context))

    def _feed(self, received: bytes) -> None:
        if received:
            self._connection.bio_write(received)

    def _flight(self) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                parts.append(self._connection.bio_read(CHUNK))
            except self._ssl.WantReadError:
                return b"".join(parts)

    def _look_at_peer(self) -> None:
        judge = self._side.judge
        if judge is None or self._judged:
            return
        leaf = self._connection.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            if self.done:
                raise EapFailed("TLS: the peer showed no certificate", Kind.CERTIFICATE_MISSING)
            return
        from cryptography.hazmat.primitives.serialization import Encoding

        sent = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        chain = dict.fromkeys(
            [leaf.public_bytes(Encoding.DER), *(one.public_bytes(Encoding.DER) for one in sent)]
        )
        judge(list(chain))
        self.chain = tuple(chain)
        self._judged = True


def _text(error: Exception) -> str:
    """OpenSSL's own words, which hold nothing of the peer's."""
    queue = error.args[0] if error.args else ()
    reasons = [str(entry[-1]) for entry in queue if isinstance(entry, tuple) and entry]
    return reasons[-1] if reasons else type(error).__name__
