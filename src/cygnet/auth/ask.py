"""Questions that authentication asks the outside world: what takes long, or needs a socket.

Whoever runs a verification hands them on (`ike` as an `Ask` effect) and comes back with the answer.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from cygnet.records import dataclass


@dataclass(frozen=True, slots=True)
class CheckPassword:
    """Does the password belong to this hash (`passwords.check`)? It costs some 50 ms by intention, so it is
    worked out elsewhere. Answered with the very value True, or anything else for no."""

    stored: str = field(repr=False)
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskRadius:
    """One Access-Request. `attributes` by number, in order; `state`: the server's State of the last
    challenge; `server`: who gave it, empty for any. Answered with a `RadiusAnswer`, or None: no server
    answers."""

    attributes: tuple[tuple[int, bytes], ...] = field(repr=False)
    eap: bytes
    state: tuple[bytes, ...] = ()
    server: str = ""


@dataclass(frozen=True, slots=True)
class RadiusAnswer:
    """A verified answer: `code` is the packet's, `eap` its EAP-Message put together, `msk` the two keys of
    RFC 2548 decrypted and joined, `attributes` the rest by name."""

    code: int
    eap: bytes
    state: tuple[bytes, ...]
    server: str
    msk: bytes = field(default=b"", repr=False)
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Fetch:
    """One document over HTTP, of at most `limit` octets: GET, or POST of `request` as `content_type`."""

    url: str
    limit: int
    request: bytes = field(default=b"", repr=False)
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class FetchAll:
    """What a trusted chain's certificates point to. Answered with a tuple, for each its octets, or None where
    it could not be had."""

    fetches: tuple[Fetch, ...]


AuthQuestion = CheckPassword | AskRadius | FetchAll
