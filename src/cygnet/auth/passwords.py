"""What is kept of a password, and in which of its forms a method can use it.

    text                                  any method (only where somebody chose to keep it so)
    $nt$<32 hex digits>                   EAP-MSCHAPv2: the NT hash (RFC 2759), to it as good as the password
    $scrypt$ln=15,r=8,p=1$<salt>$<hash>   EAP-GTC, PAP inside TTLS, XAUTH (RFC 7914; base64 without =)

A user may have several of them. `check` is slow by intention and belongs into a worker.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import field
from typing import Final

from cygnet.auth.errors import CredentialError
from cygnet.crypto.entropy import Entropy
from cygnet.records import dataclass

SCRYPT: Final = "$scrypt$"
NT: Final = "$nt$"
_LOG_N, _R, _P = 15, 8, 1
"""32 MiB and some 60 ms: what RFC 7914, section 2, and OWASP's sheet recommend for interactive logins."""
MAX_LOG_N, MAX_R, MAX_P = 18, 16, 4
MAX_PASSWORD: Final = 256


@dataclass(frozen=True, slots=True)
class Stored:
    """The forms in which one user's password is known; empty: not in that one."""

    name: bytes
    text: bytes = field(default=b"", repr=False)
    nt: bytes = field(default=b"", repr=False)
    scrypt: str = field(default="", repr=False)
    groups: frozenset[str] = frozenset()


def hash_password(password: bytes, entropy: Entropy) -> str:
    """The `$scrypt$` form of a password."""
    salt = entropy.octets(16)
    digest = _scrypt(password, salt, _LOG_N, _R, _P)
    return f"{SCRYPT}ln={_LOG_N},r={_R},p={_P}${_base64(salt)}${_base64(digest)}"


def check(stored: str, password: bytes) -> bool:
    """Whether the password has this `$scrypt$` hash. The caller takes the very value True for yes."""
    salt, wanted, (log_n, r, p) = _parse(stored)
    if len(password) > MAX_PASSWORD:
        return False
    return hmac.compare_digest(_scrypt(password, salt, log_n, r, p, len(wanted)), wanted)


def read_hash(text: str) -> tuple[str, bytes]:
    """(kind, what is kept): ("scrypt", the text) or ("ntlm", 16 octets). Raises `CredentialError`."""
    if text.startswith(NT):
        try:
            digest = bytes.fromhex(text.removeprefix(NT))
        except ValueError:
            digest = b""
        if len(digest) != 16:
            raise CredentialError("an NT hash has 32 hexadecimal digits")
        return "ntlm", digest
    _parse(text)
    return "scrypt", text.encode()


def check_hash(secret: bytes) -> None:
    """That it is a `$scrypt$` hash within bounds, else `CredentialError`."""
    _parse(secret.decode("ascii", "replace"))


def _parse(text: str) -> tuple[bytes, bytes, tuple[int, int, int]]:
    """(salt, hash, parameters). Raises `CredentialError`."""
    parts = text.split("$")
    try:
        if len(parts) != 5 or parts[:2] != ["", "scrypt"]:
            raise ValueError
        named = dict(part.split("=", 1) for part in parts[2].split(","))
        log_n, r, p = (int(named[key]) for key in ("ln", "r", "p"))
        salt, digest = _from_base64(parts[3]), _from_base64(parts[4])
    except (ValueError, KeyError, binascii.Error):
        raise CredentialError("a hash is $scrypt$ln=15,r=8,p=1$salt$hash, or $nt$ and 32 digits") from None
    if not (10 <= log_n <= MAX_LOG_N and 1 <= r <= MAX_R and 1 <= p <= MAX_P):
        raise CredentialError(f"scrypt with ln={log_n},r={r},p={p}: too cheap, or too dear")
    if not (8 <= len(salt) <= 64 and 16 <= len(digest) <= 64):
        raise CredentialError("scrypt with a salt or hash of unusual length")
    return salt, digest, (log_n, r, p)


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int, length: int = 32) -> bytes:
    return hashlib.scrypt(
        password,
        salt=salt,
        n=1 << log_n,
        r=r,
        p=p,
        dklen=length,
        maxmem=(1 << log_n) * r * 129 + (1 << 20) * p,
    )


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
