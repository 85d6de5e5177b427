"""The control socket's server: strongSwan's clients are served, and no client costs more than its share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import vici
from vici.exception import CommandException, EventUnknownException, SessionException

from cygnet.config.problems import ConfigurationError, Position, Problem
from cygnet.vici import client as our_client
from cygnet.vici import server as module
from cygnet.vici.codec import MAX_PACKET, Outgoing, PacketType, encode_packet
from cygnet.vici.server import CommandFailed, Handler, Request, ViciServer


async def version(request: Request) -> Outgoing:
    return {"daemon": "cygnet", "version": "1"}


async def echo(request: Request) -> Outgoing:
    return request.message


async def fails(request: Request) -> Outgoing:
    raise CommandFailed("there is no such thing", {"reason": "no-such-object"})


async def misconfigured(request: Request) -> Outgoing:
    raise ConfigurationError([Problem(Position("control socket"), "a.b", "is wrong", "1", "2")])


async def breaks(request: Request) -> Outgoing:
    raise KeyError("surprise")


async def conns(request: Request) -> Outgoing:
    for number in range(request.number("count", 3)):
        await request.stream("list-conn", {f"c{number}": {"version": "IKEv2", "filler": "x" * 1000}})
    return {}


async def too_much(request: Request) -> Outgoing:
    return {"a": "x" * 70_000}


HANDLERS: dict[str, Handler] = {
    "version": version,
    "echo": echo,
    "fails": fails,
    "misconfigured": misconfigured,
    "breaks": breaks,
    "list-conns": conns,
    "too-much": too_much,
}


@asynccontextmanager
async def serving(
    path: Path, **more: Handler
) -> AsyncIterator[tuple[ViciServer, list[tuple[str, Exception]]]]:
    errors: list[tuple[str, Exception]] = []
    server = ViciServer(path, {**HANDLERS, **more}, on_error=lambda *error: errors.append(error))
    await server.start()
    try:
        yield server, errors
    finally:
        await server.close()


def run(
    path: Path,
    scenario: Callable[[ViciServer, list[tuple[str, Exception]]], Awaitable[None]],
    **more: Handler,
) -> None:
    async def main() -> None:
        async with serving(path, **more) as (server, errors):
            await scenario(server, errors)

    asyncio.run(main())


def session(path: Path) -> vici.Session:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(path))
    return vici.Session(connection)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


def test_the_independent_library_gets_answers_streams_and_refusals(tmp_path: Path) -> None:
    def outsider() -> None:
        them = session(tmp_path / "s")
        assert them.version()["daemon"] == b"cygnet"
        assert [next(iter(entry)) for entry in them.list_conns()] == ["c0", "c1", "c2"]
        assert dict(them.request("echo", {"a": "b", "c": {"d": ["e", "f"]}})) == {
            "a": b"b",
            "c": {"d": [b"e", b"f"]},
        }
        with pytest.raises(CommandException, match="there is no such thing"):
            them.request("fails")
        with pytest.raises(CommandException, match=r"a\.b: is wrong"):
            them.request("misconfigured")
        with pytest.raises(SessionException):
            them.request("frobnicate")
        with pytest.raises(EventUnknownException):
            next(iter(them.listen(["frobnicate"])))

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        await asyncio.to_thread(outsider)
        assert not errors

    run(tmp_path / "s", scenario)


def test_many_commands_go_out_before_the_first_is_answered() -> None:
    ours, theirs = socket.socketpair()
    answer = encode_packet(PacketType.CMD_RESPONSE, "", {"success": "yes"})

    def slow() -> None:
        # Whoever waits for its first answer before it sends the second command waits for ever.
        data = bytearray()
        while len(data) < 3 * len(packet):
            data += theirs.recv(65536)
        theirs.sendall(answer * 3)

    packet = encode_packet(PacketType.CMD_REQUEST, "echo", {"a": "1"})
    ours.settimeout(10)
    with ours, theirs, contextlib.closing(our_client.Client(ours)) as client:
        thread = threading.Thread(target=slow)
        thread.start()
        done = list(client.pipeline([("echo", {"a": str(n)}) for n in range(3)], timeout=30))
        thread.join()
    assert [command for command, _ in done] == ["echo"] * 3


def test_of_many_commands_the_first_refusal_is_told_and_the_connection_goes_on(tmp_path: Path) -> None:
    def outsider() -> None:
        with our_client.Client.connect(tmp_path / "s") as client:
            many = [("echo", {"a": str(n)}) for n in range(200)]
            answers = [message["a"] for _, message in client.pipeline(many)]
            assert answers == [str(n).encode() for n in range(200)]
            done = client.pipeline([*many[:100], ("fails", {}), ("misconfigured", {}), *many[100:]])
            heard: list[bytes] = []
            with pytest.raises(our_client.Refused, match="there is no such thing"):
                heard.extend(message["a"] for _, message in done)
            assert heard[:100] == [str(n).encode() for n in range(100)]
            assert len(heard) < 100 + our_client.WINDOW
            assert client.request("version")["version"] == b"1"

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        await asyncio.to_thread(outsider)
        assert not errors

    run(tmp_path / "s", scenario)


def test_a_handler_that_breaks_is_reported_and_takes_nothing_with_it(tmp_path: Path) -> None:
    def outsider() -> None:
        them = session(tmp_path / "s")
        for command in ("breaks", "too-much"):
            with pytest.raises(CommandException, match="internal error"):
                them.request(command)
        assert them.version()["version"] == b"1"

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        await asyncio.to_thread(outsider)
        assert [(command, type(error).__name__) for command, error in errors] == [
            ("breaks", "KeyError"), ("too-much", "Unencodable")
        ]  # fmt: skip

    run(tmp_path / "s", scenario)


def test_events_reach_those_who_registered_and_nobody_else(tmp_path: Path) -> None:
    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        assert not server.listening("ike-updown")
        server.raise_event("ike-updown", {"up": "yes"})
        listener = await asyncio.to_thread(our_client.Client.connect, tmp_path / "s")
        await asyncio.to_thread(listener.register, "ike-updown")
        bystander = await asyncio.to_thread(session, tmp_path / "s")
        assert server.listening("ike-updown")
        server.raise_event("ike-updown", {"up": "yes", "gw": {"uniqueid": 4}})
        server.raise_event("child-updown", {"up": "yes"})
        assert await asyncio.to_thread(listener.next_event, 5) == (
            "ike-updown",
            {"up": b"yes", "gw": {"uniqueid": b"4"}},
        )
        assert await asyncio.to_thread(listener.next_event, 0.1) is None
        assert (await asyncio.to_thread(bystander.version))["version"] == b"1"
        listener.close()
        await until(lambda: not server.listening("ike-updown"))

    run(tmp_path / "s", scenario)


def test_only_the_owner_may_use_the_socket_and_it_goes_with_the_server(tmp_path: Path) -> None:
    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        with pytest.raises(OSError, match="in use"):
            await ViciServer(tmp_path / "s", {}).start()

    run(tmp_path / "s", scenario)
    assert not (tmp_path / "s").exists()


def test_a_socket_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "s"))
    left.close()

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        assert (await asyncio.to_thread(lambda: session(tmp_path / "s").version()))["version"] == b"1"

    run(tmp_path / "s", scenario)


@pytest.mark.parametrize(
    "data",
    [
        (MAX_PACKET + 1).to_bytes(4, "big"),
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\1\x09",
        encode_packet(PacketType.CMD_RESPONSE, message={"a": "b"}),
        encode_packet(PacketType.EVENT, "log", {"a": "b"}),
        b"\0\0\0\3\0\1x" * 3 + b"\0\0\0\4\0\1x\x07",
    ],
)
def test_who_sends_what_is_no_request_is_disconnected(tmp_path: Path, data: bytes) -> None:
    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert not errors
        assert (await asyncio.to_thread(lambda: session(tmp_path / "s").version()))["version"] == b"1"

    run(tmp_path / "s", scenario)


def test_a_client_that_never_reads_is_disconnected_and_delays_nobody(tmp_path: Path) -> None:
    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(tmp_path / "s"))
        slow.sendall(encode_packet(PacketType.EVENT_REGISTER, "log"))
        await until(lambda: server.listening("log"))
        message = {"msg": "x" * 10_000}
        for _ in range(module.MAX_BACKLOG // 10_000 + 200):
            server.raise_event("log", message)
        await until(lambda: not server.listening("log"))
        assert not server.clients
        slow.close()

    run(tmp_path / "s", scenario)


def test_a_streaming_command_waits_for_its_client_and_for_nobody_else(tmp_path: Path) -> None:
    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(tmp_path / "s"))
        slow.sendall(encode_packet(PacketType.EVENT_REGISTER, "list-conn"))
        slow.sendall(encode_packet(PacketType.CMD_REQUEST, "list-conns", {"count": 5000}))
        assert (await asyncio.to_thread(lambda: session(tmp_path / "s").version()))["version"] == b"1"
        (client,) = [one for one in server.clients if one.registered]
        assert client.transport is not None
        await until(lambda: client.transport is not None and client.transport.get_write_buffer_size() > 0)
        assert client.transport.get_write_buffer_size() < 2 * module.HIGH_WATER

        def drain() -> int:
            slow.settimeout(10)
            total = 0
            while total < 5000 * 1000:
                total += len(slow.recv(1 << 20))
            return total

        assert await asyncio.to_thread(drain) >= 5000 * 1000
        slow.close()

    run(tmp_path / "s", scenario)


def test_who_stops_in_the_middle_of_a_packet_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALLED_AFTER", 0.1)

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(encode_packet(PacketType.CMD_REQUEST, "version"))
        await reader.read(100)
        writer.write(b"\0\0\1\0half a packet")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        idle, idler = await asyncio.open_unix_connection(str(tmp_path / "s"))
        await asyncio.sleep(0.3)
        idler.write(encode_packet(PacketType.CMD_REQUEST, "version"))
        assert await asyncio.wait_for(idle.read(100), 5)
        idler.close()

    run(tmp_path / "s", scenario)


def test_commands_of_one_client_are_done_in_order_one_at_a_time(tmp_path: Path) -> None:
    running: list[str] = []

    async def slow(request: Request) -> Outgoing:
        running.append("in")
        assert running.count("in") - running.count("out") == 1
        await asyncio.sleep(0.02)
        running.append("out")
        return request.message

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        for number in range(200):
            writer.write(
                encode_packet(PacketType.CMD_REQUEST, "slow" if number < 5 else "echo", {"n": number})
            )
        for number in range(200):
            length = int.from_bytes(await asyncio.wait_for(reader.readexactly(4), 5), "big")
            assert str(number).encode() in await reader.readexactly(length)
        writer.close()
        assert not errors

    run(tmp_path / "s", scenario, slow=slow)


def test_a_command_ends_when_its_client_goes_away(tmp_path: Path) -> None:
    ended = asyncio.Event

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(encode_packet(PacketType.CMD_REQUEST, "waits"))
        await asyncio.wait_for(begun.wait(), 5)
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 5)

    begun, cancelled = ended(), ended()

    async def waits(request: Request) -> Outgoing:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    run(tmp_path / "s", scenario, waits=waits)


def test_clients_beyond_the_limit_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 3)

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        held = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(5)]
        await until(lambda: len(server.clients) == 3)
        gone = [await asyncio.wait_for(reader.read(1), 5) for reader, _ in held[3:]]
        assert gone == [b"", b""]
        for _, writer in held:
            writer.close()

    run(tmp_path / "s", scenario)


def test_requests_read_their_values_strictly() -> None:
    def request(**message: Any) -> Request:
        return Request("x", message, None)  # type: ignore[arg-type]

    assert request(a=b"x").text("a") == "x"
    assert request().text("a", "y") == "y"
    assert request(a=b"12").number("a", 0) == 12
    assert request(a=b"").number("a", 5) == 5
    assert request(a=b"yes").flag("a")
    assert not request(a=b"no").flag("a")
    bad: list[dict[str, Any]] = [{"a": b"\xff"}, {"a": {}}, {"a": [b"x"]}]
    for message in bad:
        with pytest.raises(CommandFailed):
            request(**message).text("a")
    with pytest.raises(CommandFailed, match="whole number"):
        request(a=b"one").number("a", 0)


# -- the client ---------------------------------------------------------------------------------------


def test_the_client_says_in_one_sentence_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(our_client.NotRunning, match="no Cygnet is running"):
        our_client.Client.connect(tmp_path / "nothing")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "dead"))
    left.close()
    with pytest.raises(our_client.NotRunning):
        our_client.Client.connect(tmp_path / "dead")

    def ours() -> None:
        with our_client.Client.connect(tmp_path / "s") as client:
            with pytest.raises(our_client.Refused, match="no such thing") as refused:
                client.request("fails")
            assert refused.value.answer["reason"] == "no-such-object"
            with pytest.raises(our_client.Unknown, match="does not know the command"):
                client.request("frobnicate")
            with pytest.raises(our_client.Unknown, match="does not know the event"):
                client.register("frobnicate")
            assert len(client.stream("list-conns", "list-conn", {"count": 300})) == 300
            assert client.request("version")["version"] == b"1"

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        await asyncio.to_thread(ours)

    run(tmp_path / "s", scenario)


def test_the_client_gives_up_in_time_and_notices_that_the_daemon_goes(tmp_path: Path) -> None:
    entered: list[Request] = []

    async def waits(request: Request) -> Outgoing:
        entered.append(request)
        await asyncio.sleep(30)
        return {}

    def times_out() -> None:
        with our_client.Client.connect(tmp_path / "s") as client, pytest.raises(our_client.TimedOut):
            client.request("waits", timeout=0.1)

    def is_left() -> None:
        with our_client.Client.connect(tmp_path / "s") as client, pytest.raises(our_client.ConnectionLost):
            client.request("waits")

    async def scenario(server: ViciServer, errors: list[tuple[str, Exception]]) -> None:
        await asyncio.to_thread(times_out)
        waiting = asyncio.create_task(asyncio.to_thread(is_left))
        await until(lambda: len(entered) == 2)
        await server.close()
        await waiting

    run(tmp_path / "s", scenario, waits=waits)


def test_what_came_of_a_packet_stays_when_time_is_up(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    client = our_client.Client(ours)
    packet = encode_packet(PacketType.EVENT, "log", {"msg": "x"})
    theirs.sendall(packet[:9])
    assert client.next_event(0.05) is None
    theirs.sendall(packet[9:])
    assert client.next_event(5) == ("log", {"msg": b"x"})
    theirs.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(our_client.ConnectionLost):
        client.next_event(5)
    theirs.close()
    ours.close()
