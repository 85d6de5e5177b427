"""What a method of EAP is: a conversation, written as one function a side.

Server: yields the type-data of each request (or a question, `auth.ask`), is sent the response, and returns
an `Outcome`. Client: is sent each request and yields a `Reply`; it has no last word, for that is the server's
Success: `Reply.outcome` says that a Success may come now, and what it is worth. Before that, a Success is a
forgery (RFC 4137, `decision`; CVE-2021-45079, CVE-2015-8023).

A method that ends any other way raises `EapFailed`, or `Malformed`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import field
from typing import Any

from cygnet.auth.ask import AuthQuestion
from cygnet.auth.eap.packet import Packet
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.passwords import Stored
from cygnet.crypto.entropy import Entropy
from cygnet.records import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a method that succeeded gives.

    `msk`: 64 octets, empty for a method that makes no key. `mutual`: the server proved itself inside, by a
    certificate that was verified (RFC 5998, section 4). `chain`: the peer's certificates, DER, the end
    entity's first. `identity`: the name inside the tunnel, where there is one. `groups`: the user's.
    `attributes`: what a RADIUS server said besides, by name. `claimed`: the user's name was said outside a
    tunnel and is proved by nobody; who proved itself inside is not known here.
    """

    msk: bytes = field(default=b"", repr=False)
    mutual: bool = False
    chain: tuple[bytes, ...] = ()
    identity: bytes = b""
    groups: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, Any], ...] = ()
    claimed: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's response. `outcome` not None: after it the server may say Success. `refusal`: what a Failure
    would mean that comes next."""

    data: bytes
    outcome: Outcome | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A client asks before it says anything inside a tunnel: the server's certificates (DER, the end entity's
    first), of a chain that is trusted and whose key it holds. Who goes on (with an empty packet) lets the
    server hear the user's name and proof; who does not trust it now (it may be revoked) goes on no more."""

    chain: tuple[bytes, ...]


ServerMethod = Generator[bytes | AuthQuestion, Any, Outcome]
ClientMethod = Generator[Reply | Shown | None, Packet, None]


class EapFailed(AuthenticationError):
    """The conversation failed. `detail` is one sentence for a person, without secrets."""

    def __init__(self, detail: str, kind: Kind = Kind.EAP_FAILED) -> None:
        super().__init__(kind, detail)


@dataclass(frozen=True, slots=True)
class ServerMaker:
    """How a method's server side is begun: `start(name of the user, entropy)`."""

    type: int
    start: Callable[[bytes, Entropy], ServerMethod]


@dataclass(frozen=True, slots=True)
class ClientMaker:
    """How a method's client side is begun."""

    type: int
    start: Callable[[Entropy], ClientMethod]


Lookup = Callable[[bytes], Stored | None]
"""What is kept of the user with this name."""


def printable(name: bytes) -> str:
    """A name of the peer's for a sentence: printable, and not long."""
    text = name[:80].decode("utf-8", "replace")
    return text if text.isprintable() else repr(text)[1:-1]


def wrong_password(name: bytes) -> EapFailed:
    """One sentence for a user that there is not and for a password that is wrong."""
    return EapFailed(f"no such user, or another password: {printable(name)}", Kind.EAP_PASSWORD_WRONG)


def no_form(name: bytes, method: str, needs: str) -> EapFailed:
    return EapFailed(
        f"{method} needs {needs} of {printable(name)}, which is not kept here", Kind.EAP_METHOD_MISMATCH
    )
