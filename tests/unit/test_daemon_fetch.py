"""Documents over HTTP: what is had, and every bound on what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cygnet.auth.ask import Fetch
from cygnet.daemon.fetch import MAX_REDIRECTS, Fetcher

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def ask(
    serve: Handler, path: str = "/x", limit: int = 1000, request: bytes = b"", patience: float = 20.0
) -> tuple[bytes | None, dict[str, int], list[bytes]]:
    """(what was had, counters, the heads that the server got)."""
    heads: list[bytes] = []

    async def run() -> tuple[bytes | None, dict[str, int]]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            try:
                await serve(head, reader, writer)
            except ConnectionError:
                return  # the client has had enough
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            fetcher = Fetcher(patience)
            kind = "application/ocsp-request" if request else ""
            body = await fetcher.one(Fetch(f"http://127.0.0.1:{port}{path}", limit, request, kind))
            return body, dict(fetcher.counters)

    body, counters = asyncio.run(run())
    return body, counters, heads


def saying(data: bytes) -> Handler:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return serve


OK = b"HTTP/1.1 200 OK\r\n"


def test_a_document_comes_whole_with_or_without_its_length() -> None:
    assert ask(saying(OK + b"Content-Length: 5\r\n\r\nhello"))[:2] == (b"hello", {"fetched": 1})
    body, _, heads = ask(saying(OK + b"\r\nhello"), "/a/b?c=d")
    assert body == b"hello"
    assert heads[0].startswith(b"GET /a/b?c=d HTTP/1.0\r\nHost: 127.0.0.1:")


def test_an_ocsp_request_is_posted() -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Content-Type: application/ocsp-request\r\nContent-Length: 7\r\n" in head
        got = await reader.readexactly(7)
        writer.write(OK + b"Content-Type: application/ocsp-response\r\n\r\n" + got[::-1])

    assert ask(serve, request=b"request")[0] == b"tseuqer"
    page = saying(OK + b"Content-Type: text/html\r\n\r\n<html>")
    assert ask(page, request=b"request")[:2] == (None, {"content-type": 1})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (OK + b"Content-Length: 1001\r\n\r\n", "too-large"),
        (OK + b"\r\n" + bytes(1001), "too-large"),
        (OK + b"Content-Length: -5\r\n\r\n", "too-large"),
        (OK + b"Content-Length: 9\r\n\r\nhello", "cut-off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer-encoding"),
        (b"HTTP/1.1 404 Not Found\r\n\r\nhello", "status"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "head"),
        (b"HTTP/1.1 2OO OK\r\n\r\n", "head"),
        (OK + b"X: " + bytes(20_000), "head"),
        (OK, "head"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "url"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\n\r\n", "url"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://user@127.0.0.1/\r\n\r\n", "url"),
        (b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", "redirects"),
    ],
)
def test_v55_what_is_no_small_document_is_not_had(said: bytes, why: str) -> None:
    body, counters, heads = ask(saying(said))
    assert (body, counters) == (None, {why: 1})
    assert len(heads) == (MAX_REDIRECTS + 1 if why == "redirects" else 1)


def test_a_redirect_is_followed() -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = head.startswith(b"GET /x ")
        writer.write(b"HTTP/1.1 301 Moved\r\nLocation: y\r\n\r\n" if first else OK + b"\r\nthere")

    assert ask(serve)[0] == b"there"


def test_v55_a_server_that_drips_is_left_in_time() -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    assert ask(serve, patience=0.5)[:2] == (None, {"too-slow": 1})


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http:///x", "http://[::1", "http://a/\r\nX: y"])
def test_what_cannot_be_reached_is_nothing(url: str) -> None:
    async def run() -> bytes | None:
        return await Fetcher().one(Fetch(url, 1000))

    assert asyncio.run(run()) is None
