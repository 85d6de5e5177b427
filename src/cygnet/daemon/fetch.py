"""Fetches small documents over HTTP: CRLs and OCSP answers, whose own signatures say whether they are true.

Bounded in all: octets, seconds, redirects, fetches at once. HTTP/1.0 is spoken (RFC 1945), so that the end of
the connection, or Content-Length, is the end of the document, and nothing is chunked. No https: its
certificate would have to be checked for revocation in turn. Any failure is None and a counter.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from urllib.parse import SplitResult, urljoin, urlsplit

from cygnet.auth.ask import Fetch

PATIENCE = 5.0
"""Seconds for one document, redirects included."""
MAX_REDIRECTS = 3
MAX_HEAD = 16 * 1024
MAX_URL = 2048
MAX_AT_ONCE = 16
MAX_WAITING = 256
_PIECE = 64 * 1024


class Failed(Exception):
    """A document that cannot be had; the text is the counter's name."""


class Fetcher:
    """`counters`: fetched, and why not."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.counters: Counter[str] = Counter()
        self._patience = patience
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting = 0

    async def all(self, fetches: tuple[Fetch, ...]) -> tuple[bytes | None, ...]:
        """Each document, or None, all at once."""
        return tuple(await asyncio.gather(*map(self.one, fetches)))

    async def one(self, fetch: Fetch) -> bytes | None:
        if self._waiting >= MAX_WAITING:
            self.counters["refused"] += 1
            return None
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience), self._free:
                body = await _follow(fetch)
        except TimeoutError:
            self.counters["too-slow"] += 1
        except OSError:
            self.counters["unreachable"] += 1
        except Failed as failed:
            self.counters[str(failed)] += 1
        else:
            self.counters["fetched"] += 1
            return body
        finally:
            self._waiting -= 1
        return None


async def _follow(fetch: Fetch) -> bytes:
    url = fetch.url
    for _ in range(MAX_REDIRECTS + 1):
        status, headers, body = await _exchange(_split(url), fetch)
        if status in (301, 302, 303, 307, 308) and not fetch.request:
            url = urljoin(url, headers.get("location", ""))
            continue
        if status != 200:
            raise Failed("status")
        if fetch.request and headers.get("content-type", "").partition(";")[0].strip().lower() not in (
            "application/ocsp-response",
            "",
        ):
            raise Failed("content-type")
        return body
    raise Failed("redirects")


def _split(url: str) -> SplitResult:
    """Raises `Failed` for what is no plain http URL: what stands in it goes into a request's lines."""
    if len(url) > MAX_URL or not all("!" <= character <= "~" for character in url):
        raise Failed("url")
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() == "http" and parts.hostname and parts.username is None and parts.port != 0:
            return parts
    except ValueError:
        raise Failed("url") from None
    raise Failed("url")


async def _exchange(parts: SplitResult, fetch: Fetch) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=MAX_HEAD)
    try:
        writer.write(_request(parts, fetch))
        await writer.drain()
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise Failed("head") from None
        status, headers = _head(head)
        return status, headers, await _body(reader, _length(headers, fetch.limit), fetch.limit)
    finally:
        writer.transport.abort()


def _request(parts: SplitResult, fetch: Fetch) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc
    lines = [f"{'POST' if fetch.request else 'GET'} {path} HTTP/1.0", f"Host: {host}", "Connection: close"]
    if fetch.request:
        lines += [f"Content-Type: {fetch.content_type}", f"Content-Length: {len(fetch.request)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + fetch.request


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and header fields, names in lower case; the last of a name counts. Raises `Failed`."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise Failed("head")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding", "identity").lower() != "identity":
        raise Failed("transfer-encoding")
    return int(words[1][:4]), headers


def _length(headers: dict[str, str], limit: int) -> int | None:
    """Content-Length; None: until the connection ends. Raises `Failed`."""
    text = headers.get("content-length")
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 12 or int(text) > limit:
        raise Failed("too-large")
    return int(text)


async def _body(reader: asyncio.StreamReader, length: int | None, limit: int) -> bytes:
    body = bytearray()
    while (length is None or len(body) < length) and (piece := await reader.read(_PIECE)):
        body += piece
        if len(body) > limit:
            raise Failed("too-large")
    if length is not None and len(body) != length:
        raise Failed("cut-off")
    return bytes(body)
