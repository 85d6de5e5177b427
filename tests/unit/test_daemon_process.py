"""The loop between the world and the negotiation: inputs to verbs, effects to deeds, one timer, no waits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, cast

import pytest

from cygnet.daemon import process
from cygnet.daemon.guard import Guard
from cygnet.daemon.lanes import Lane
from cygnet.daemon.process import MAX_RESOLVING, Daemon, Lag, now
from cygnet.daemon.sources import Sources
from cygnet.dataplane import messages
from cygnet.ike import effects, events
from cygnet.ike.errors import Failure, Reason
from cygnet.ike.world import Path
from cygnet.policy.selectors import of_range
from cygnet.policy.spd import Action, Policy, PolicyRule

NET = of_range(ip_address("10.1.0.0"), ip_address("10.1.255.255"))
POLICY = Policy(1, "gw/net", 0, (PolicyRule(Action.PROTECT, NET, NET, 3),), True, None, None)
LOOPBACK = ip_address("127.0.0.1")


class FakeEndpoint:
    """Remembers its verbs; `then` gives the effects of the next call of a verb."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.then: dict[str, list[effects.Effect]] = {}
        self.pending: list[effects.Effect] = []
        self.due: float | None = None
        self.called = asyncio.Event()
        self.fail = False

    def __getattr__(self, verb: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            self.calls.append((verb, *arguments))
            self.called.set()
            self.pending += self.then.pop(verb, [])
            if self.fail:
                raise RuntimeError("injected")

        return call

    def effects(self) -> list[effects.Effect]:
        pending, self.pending = self.pending, []
        return pending

    def next_timeout(self) -> float | None:
        return self.due

    def handle_timeout(self, instant: Any) -> None:
        self.due = None
        self.calls.append(("handle_timeout", instant))
        self.called.set()

    def sas(self) -> list[Any]:
        return []


class Bench:
    def __init__(self) -> None:
        self.endpoint = FakeEndpoint()
        self.reports: list[str] = []
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        self.lane = Lane(sock, marker=True)
        guard = Guard(lambda what, *_: self.reports.append(what))
        self.daemon = Daemon(
            asyncio.get_running_loop(), cast(Any, self.endpoint), [self.lane], guard, 9, Sources(0)
        )
        ours, self.plane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.plane.setblocking(False)
        self.daemon.start(ours)
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.setblocking(False)
        self.peer.connect(("127.0.0.1", self.lane.port))
        self.path = Path(LOOPBACK, self.lane.port, LOOPBACK, self.peer.getsockname()[1])

    async def verb(self) -> tuple[Any, ...]:
        while not self.endpoint.calls:
            self.endpoint.called.clear()
            await self.endpoint.called.wait()
        return self.endpoint.calls.pop(0)

    async def command(self) -> Any:
        loop = asyncio.get_running_loop()
        return messages.decode_command(await loop.sock_recv(self.plane, messages.MAX_MESSAGE))

    def report(self, report: messages.Report) -> None:
        self.plane.send(messages.encode(report))

    def effect(self, *wanted: effects.Effect) -> None:
        self.endpoint.pending += wanted
        self.daemon.flush()


def on_loop(body: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench()
        try:
            await asyncio.wait_for(body(bench), 10)
        finally:
            bench.daemon.stop()
            bench.daemon.plane.detach()
            for sock in (bench.plane, bench.peer, bench.lane.sock):
                sock.close()

    asyncio.run(run())


def test_a_datagram_becomes_a_verb_and_its_answer_leaves() -> None:
    async def body(bench: Bench) -> None:
        bench.endpoint.then["receive"] = [effects.SendDatagram(bench.path, b"\0\0\0\0answer")]
        bench.peer.send(b"\0\0\0\0question")
        verb, data, path, _ = await bench.verb()
        assert (verb, data, path) == ("receive", b"question", bench.path)
        assert await asyncio.get_running_loop().sock_recv(bench.peer, 100) == b"\0\0\0\0answer"

    on_loop(body)


def test_an_exception_costs_its_datagram_and_the_effects_made_before_it_still_happen() -> None:
    async def body(bench: Bench) -> None:
        bench.endpoint.fail = True
        bench.endpoint.then["receive"] = [effects.SendDatagram(bench.path, b"before")]
        bench.peer.send(b"\0\0\0\0one")
        await bench.verb()
        assert await asyncio.get_running_loop().sock_recv(bench.peer, 100) == b"before"
        bench.endpoint.fail = False
        bench.peer.send(b"\0\0\0\0two")
        assert (await bench.verb())[1] == b"two"
        assert bench.reports == ["datagram"]

    on_loop(body)


def test_esp_on_the_wrong_socket_goes_to_the_data_plane_with_its_path() -> None:
    async def body(bench: Bench) -> None:
        bench.peer.send(b"\x11\x22\x33\x44esp")
        command = await bench.command()
        assert isinstance(command, messages.ForwardDatagram)
        assert (command.request, command.data) == (0, b"\x11\x22\x33\x44esp")
        assert command.remote_port == bench.path.remote_port

    on_loop(body)


def test_ike_on_the_data_planes_socket_comes_back_as_a_verb() -> None:
    async def body(bench: Bench) -> None:
        address = LOOPBACK.packed
        bench.report(messages.ForeignDatagram(address, 4500, address, 4501, b"\0\0\0\0ike"))
        verb, data, path, _ = await bench.verb()
        assert (verb, data) == ("receive", b"ike")
        assert path == Path(LOOPBACK, 4500, LOOPBACK, 4501)

    on_loop(body)


def test_installing_is_answered_with_how_it_went() -> None:
    async def body(bench: Bench) -> None:
        from tests.unit.test_daemon_plane import sa  # the same SA as there

        bench.effect(effects.InstallSa(41, sa()))
        command = await bench.command()
        bench.report(messages.Done(command.request, ""))
        assert (await bench.verb())[:3] == ("resume", 41, effects.Installed())
        bench.effect(effects.InstallSa(42, sa()))
        command = await bench.command()
        bench.report(messages.Done(command.request, "no memory"))
        assert (await bench.verb())[:3] == ("resume", 42, effects.InstallFailed("no memory"))

    on_loop(body)


def test_with_the_data_plane_gone_installing_fails_at_once() -> None:
    async def body(bench: Bench) -> None:
        from tests.unit.test_daemon_plane import sa

        bench.effect(effects.InstallSa(41, sa()))
        bench.plane.close()
        verb, ask, result, _ = await bench.verb()
        assert (verb, ask) == ("resume", 41)
        assert isinstance(result, effects.InstallFailed)
        bench.plane = socket.socket(socket.AF_UNIX)

    on_loop(body)


def test_reports_become_verbs_with_the_endpoints_numbers() -> None:
    async def body(bench: Bench) -> None:
        bench.effect(effects.InstallPolicy(POLICY))
        policy = await bench.command()
        flow = policy.rules[0].flow
        pair = bench.daemon.plane.names.pair(7)
        selector = policy.rules[0].local
        bench.report(messages.Acquire(flow, selector, selector))
        bench.report(messages.Expire(pair, 1, 0xC1, False, "bytes"))
        bench.report(messages.FirstUse(pair, 0xC1))
        bench.report(messages.PeerMoved(pair, 0xC1, LOOPBACK.packed, 4567))
        assert (await bench.verb())[:4] == ("acquire", 3, NET, NET)
        assert (await bench.verb())[:5] == ("expire", 7, 1, False, "bytes")
        assert (await bench.verb())[:3] == ("first_use", 7, 0xC1)
        assert (await bench.verb())[:4] == ("peer_moved", 7, LOOPBACK, 4567)

    on_loop(body)


def test_reports_about_a_former_daemons_pairs_and_flows_are_let_go() -> None:
    async def body(bench: Bench) -> None:
        bench.report(messages.Expire(7, 0, 0xC1, True, "seconds"))
        bench.report(messages.FirstUse(7, 0xC1))
        selector = messages.Selector(4, 0, bytes(4), bytes(4), 0, 65535)
        bench.report(messages.Acquire(12345, selector, selector))
        bench.report(messages.FirstUse(bench.daemon.plane.names.pair(1), 0xC2))
        assert (await bench.verb())[0] == "first_use"
        assert bench.endpoint.calls == []

    on_loop(body)


def test_the_timer_follows_the_endpoint_and_fires_when_due() -> None:
    async def body(bench: Bench) -> None:
        bench.endpoint.due = asyncio.get_running_loop().time() + 60
        bench.daemon.flush()
        bench.endpoint.due = due = asyncio.get_running_loop().time() + 0.05
        bench.daemon.flush()
        verb, instant = await bench.verb()
        assert verb == "handle_timeout"
        assert instant.monotonic >= due

    on_loop(body)


def test_a_timer_put_off_does_not_fire_at_its_former_time() -> None:
    async def body(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        bench.endpoint.due = loop.time() + 0.02
        bench.daemon.flush()
        bench.endpoint.due = due = loop.time() + 0.1
        bench.daemon.flush()
        _, instant = await bench.verb()
        assert instant.monotonic >= due

    on_loop(body)


def test_a_name_is_looked_up_away_from_the_loop() -> None:
    async def body(bench: Bench) -> None:
        bench.effect(effects.Ask(5, effects.Resolve("127.0.0.1"), now().monotonic + 5))
        assert (await bench.verb())[:3] == ("resume", 5, (LOOPBACK,))

    on_loop(body)


@pytest.mark.parametrize("remote", ["127.0.0.9", "::1"])
def test_the_source_address_towards_a_peer_is_the_routes(remote: str) -> None:
    async def body(bench: Bench) -> None:
        for ask in (5, 6):
            bench.effect(effects.Ask(ask, effects.Route(ip_address(remote)), now().monotonic + 5))
            assert (await bench.verb())[:3] == ("resume", ask, (ip_address(remote.replace("9", "1")),))

    on_loop(body)


def test_a_name_that_takes_too_long_is_answered_with_timed_out() -> None:
    async def body(bench: Bench) -> None:
        bench.effect(effects.Ask(5, effects.Resolve("127.0.0.1"), now().monotonic - 1))
        assert (await bench.verb())[0:2] == ("resume", 5)

    on_loop(body)


def test_names_in_lookup_are_bounded() -> None:
    async def body(bench: Bench) -> None:
        asks = [
            effects.Ask(number, effects.Resolve("localhost"), now().monotonic + 5)
            for number in range(1, MAX_RESOLVING + 2)
        ]
        bench.effect(*asks)
        assert (await bench.verb())[:3] == ("resume", MAX_RESOLVING + 1, ())
        assert bench.daemon.counters["resolve-refused"] == 1

    on_loop(body)


def test_an_impossible_name_is_answered_with_nothing() -> None:
    async def body(bench: Bench) -> None:
        bench.effect(effects.Ask(5, effects.Resolve("a" * 300 + ".invalid"), now().monotonic + 5))
        assert (await bench.verb())[:3] == ("resume", 5, ())

    on_loop(body)


def test_a_new_data_plane_gets_the_policies_before_anything_else() -> None:
    async def body(bench: Bench) -> None:
        bench.effect(effects.InstallPolicy(POLICY))
        first = await bench.command()
        bench.plane.close()
        ours, bench.plane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        bench.plane.setblocking(False)
        bench.daemon.plane_restarted(ours)
        again = await bench.command()
        assert isinstance(again, messages.InstallPolicy)
        assert (again.policy, again.rules) == (first.policy, first.rules)

    on_loop(body)


def test_a_new_daemon_negotiates_what_the_former_ones_sas_carry() -> None:
    async def body(bench: Bench) -> None:
        bench.effect(effects.InstallPolicy(POLICY))
        policy = await bench.command()
        bench.daemon.take_over((policy.rules[0].flow, 12345))
        assert (await bench.verb())[:4] == ("acquire", 3, NET, NET)
        assert bench.endpoint.calls == []

    on_loop(body)


def test_what_could_not_be_negotiated_anew_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TAKE_OVER_AGAIN", 0.0)

    async def body(bench: Bench) -> None:
        bench.effect(effects.InstallPolicy(POLICY))
        policy = await bench.command()
        bench.daemon.take_over((policy.rules[0].flow,))
        await bench.verb()
        failure = Failure(Reason.PEER_BUSY, "")
        failed = effects.Emit(events.NegotiationFailed("gw", "net", True, None, "sun", failure))
        bench.effect(failed, failed)
        assert (await bench.verb())[:4] == ("acquire", 3, NET, NET)
        assert bench.endpoint.calls == []

    on_loop(body)


def test_a_removed_policy_is_not_put_back() -> None:
    async def body(bench: Bench) -> None:
        bench.effect(effects.InstallPolicy(POLICY), effects.RemovePolicy(1))
        await bench.command()
        assert isinstance(await bench.command(), messages.RemovePolicy)
        assert bench.daemon.policies == {}

    on_loop(body)


def test_a_listener_that_fails_takes_nothing_with_it() -> None:
    async def body(bench: Bench) -> None:
        heard: list[events.Event] = []

        def broken(_: events.Event) -> None:
            raise ValueError

        bench.daemon.listeners += [broken, heard.append]
        bench.effect(effects.Emit(events.Noted("x", "y")))
        assert heard == [events.Noted("x", "y")]
        assert bench.reports == ["listener"]

    on_loop(body)


def test_lag_is_a_histogram_with_a_worst() -> None:
    lag = Lag()
    for _ in range(99):
        lag.note(0.0005)
    lag.note(3.0)
    assert lag.quantile(0.5) == 0.001
    assert lag.quantile(0.99) == 0.001
    assert lag.quantile(1.0) == 3.0
    assert lag.worst == 3.0


def test_what_the_pairs_carried_last_is_read_from_the_data_plane() -> None:
    async def body(bench: Bench) -> None:
        for use, seen in (
            (((3.0, -1.0), (8.0, 4.5)), effects.Traffic(3.0, 4.5)),
            (((-1.0, -1.0),), effects.Traffic(float("inf"), float("inf"))),
            ((), effects.Traffic(float("inf"), float("inf"))),
        ):
            bench.effect(effects.Ask(5, effects.LookAtTraffic((1, 2)), now().monotonic + 10))
            command = await bench.command()
            assert isinstance(command, messages.ReadCounters)
            assert len(command.pairs) == 2
            pairs = tuple(
                messages.PairCounters(n, 0, 0, came, 0, 0, went, 0, 0, {})
                for n, (came, went) in zip(command.pairs, use, strict=False)
            )
            bench.report(messages.Counters(command.request, pairs, {}))
            verb, ask, result, _ = await bench.verb()
            assert (verb, ask, result) == ("resume", 5, seen)

    on_loop(body)
