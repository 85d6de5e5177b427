"""The pair to the data plane: commands and answers, nothing blocks, names that survive a restart."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest

from cygnet.daemon.plane import START_WITHIN, Names, Plane
from cygnet.dataplane import messages
from cygnet.ike import effects
from cygnet.ike.world import Path
from cygnet.policy.sa import Direction, SaParameters, UdpEncapsulation
from cygnet.policy.selectors import of_range
from cygnet.policy.spd import Action, Policy, PolicyRule

NET_A = of_range(ip_address("10.1.0.0"), ip_address("10.1.255.255"))
NET_B = of_range(ip_address("10.2.0.0"), ip_address("10.2.255.255"))


def policy(number: int, flows: tuple[int, ...], name: str = "gw/net", priority: int = 0) -> Policy:
    rules = tuple(PolicyRule(Action.PROTECT, NET_A, NET_B, flow) for flow in flows)
    return Policy(number, name, priority, rules, True, ip_address("192.0.2.1"), ip_address("192.0.2.2"))


def sa(pair: int = 7, flow: int = 3, direction: Direction = Direction.IN) -> SaParameters:
    return SaParameters(
        direction, 50, 1, 0xC0FFEE00, pair, flow, ip_address("192.0.2.1"), ip_address("192.0.2.2"),
        UdpEncapsulation(4500, 4501), 20, 256, 0, bytes(36), b"", True, 64, (NET_A,), (NET_B,),
    )  # fmt: skip


class Bench:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reports: list[messages.Report] = []
        self.answers: list[messages.Report | None] = []
        self.answered = asyncio.Event()
        self.lost = asyncio.Event()
        self.plane = Plane(loop, self._report, lambda: None, self.lost.set, epoch=5)
        ours, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.other.settimeout(5)
        self.plane.attach(ours)

    def _report(self, report: messages.Report) -> None:
        self.reports.append(report)
        self.answered.set()

    def answer(self, report: messages.Report | None) -> None:
        self.answers.append(report)
        self.answered.set()

    def command(self) -> messages.Command:
        return messages.decode_command(self.other.recv(messages.MAX_MESSAGE))

    async def say(self, report: messages.Report) -> None:
        self.answered.clear()
        self.other.send(messages.encode(report))
        await self.answered.wait()


def on_loop(body: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench()
        try:
            await asyncio.wait_for(body(bench), 10)
        finally:
            bench.plane.detach()
            bench.other.close()

    asyncio.run(run())


def test_an_sa_travels_whole_and_its_answer_comes_back() -> None:
    async def body(bench: Bench) -> None:
        bench.plane.install_sa(sa(), bench.answer)
        command = bench.command()
        assert isinstance(command, messages.InstallSa)
        assert command.request != 0
        assert (command.spi, command.local_port, command.remote_port) == (0xC0FFEE00, 4500, 4501)
        assert command.local == bytes([192, 0, 2, 1])
        assert command.local_selectors[0].last == bytes([10, 1, 255, 255])
        await bench.say(messages.Done(command.request, ""))
        assert bench.answers == [messages.Done(command.request, "")]

    on_loop(body)


def test_a_command_without_interest_in_its_answer_carries_no_number() -> None:
    async def body(bench: Bench) -> None:
        bench.plane.remove_sa(effects.RemoveSa(0, 1, ip_address("192.0.2.2"), 7, 5.0))
        assert bench.command() == messages.RemoveSa(
            0, 0, 1, bytes([192, 0, 2, 2]), 5.0, bench.plane.names.pair(7)
        )

    on_loop(body)


def test_ports_of_zero_mean_plain_esp() -> None:
    async def body(bench: Bench) -> None:
        path = Path(ip_address("192.0.2.1"), 4500, ip_address("192.0.2.9"), 4510)
        bench.plane.update_sa(effects.UpdateSa(7, path, False))
        bench.plane.update_sa(effects.UpdateSa(7, path, True))
        plain, udp = bench.command(), bench.command()
        assert isinstance(plain, messages.UpdateSa)
        assert isinstance(udp, messages.UpdateSa)
        assert (plain.local_port, plain.remote_port) == (0, 0)
        assert (udp.local_port, udp.remote_port) == (4500, 4510)

    on_loop(body)


def test_reports_reach_the_listener_and_garbage_is_counted() -> None:
    async def body(bench: Bench) -> None:
        bench.other.send(b"\x93garbage")
        bench.other.send(messages.encode(messages.Dump(1)))
        await bench.say(messages.Warned("offload", "UDP_GRO is off"))
        assert bench.reports == [messages.Warned("offload", "UDP_GRO is off")]
        assert bench.plane.counters["malformed"] == 2

    on_loop(body)


def test_an_answer_that_nobody_waits_for_is_counted() -> None:
    async def body(bench: Bench) -> None:
        bench.other.send(messages.encode(messages.Done(12345, "")))
        await bench.say(messages.Warned("x", ""))
        assert bench.plane.counters["late"] == 1

    on_loop(body)


def test_what_the_pair_does_not_take_waits_and_leaves_in_order() -> None:
    async def body(bench: Bench) -> None:
        for number in range(2000):
            bench.plane.remove_sa(effects.RemoveSa(0, number, ip_address("192.0.2.2"), 1, 0.0))
        assert bench.plane.counters["queued"] > 0
        bench.other.setblocking(False)
        loop = asyncio.get_running_loop()
        spis = []
        for _ in range(2000):
            command = messages.decode_command(await loop.sock_recv(bench.other, messages.MAX_MESSAGE))
            assert isinstance(command, messages.RemoveSa)
            spis.append(command.spi)
        assert spis == list(range(2000))

    on_loop(body)


def test_a_data_plane_that_does_not_read_costs_commands_and_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cygnet.daemon.plane.MAX_QUEUED", 100_000)

    async def body(bench: Bench) -> None:
        for _ in range(2000):
            bench.plane.install_sa(sa(), bench.answer)
        assert bench.plane.counters["refused"] > 0
        assert len(bench.answers) == bench.plane.counters["refused"]
        assert set(bench.answers) == {None}

    on_loop(body)


def test_when_the_pair_ends_every_question_is_answered_with_nothing() -> None:
    async def body(bench: Bench) -> None:
        bench.plane.install_sa(sa(), bench.answer)
        bench.plane.dump(bench.answer)
        bench.other.close()
        await bench.lost.wait()
        assert bench.answers == [None, None]
        assert not bench.plane.attached
        bench.plane.install_sa(sa(), bench.answer)
        assert bench.answers == [None, None, None]

    on_loop(body)


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    async def body(bench: Bench) -> None:
        bench.plane.install_sa(sa(), bench.answer)
        done = messages.Done(bench.command().request, "")
        await bench.say(done)
        bench.plane.dump(bench.answer)
        present = asyncio.get_running_loop().time()
        bench.plane.give_up_late(present)
        assert bench.answers == [done]
        bench.plane.give_up_late(present + 11)
        assert bench.answers == [done, None]

    on_loop(body)


def test_a_data_plane_that_has_just_been_started_may_take_longer() -> None:
    async def body(bench: Bench) -> None:
        bench.plane.dump(bench.answer)
        present = asyncio.get_running_loop().time()
        bench.plane.give_up_late(present + START_WITHIN - 1)
        assert bench.answers == []
        bench.plane.give_up_late(present + START_WITHIN + 1)
        assert bench.answers == [None]

    on_loop(body)


def test_a_data_plane_that_is_busy_and_answers_is_waited_for() -> None:
    async def body(bench: Bench) -> None:
        bench.plane.install_sa(sa(), bench.answer)
        bench.plane.dump(lambda _: None)
        present = asyncio.get_running_loop().time()
        first, _ = bench.command(), bench.command()
        await bench.say(messages.Done(first.request, ""))
        bench.plane.give_up_late(present + 9.9)
        assert bench.plane.counters["late"] == 0

    on_loop(body)


def test_a_quiet_data_plane_is_asked_something_and_one_that_stays_silent_is_told_of_once() -> None:
    async def body(bench: Bench) -> None:
        stuck: list[float] = []
        bench.plane.stuck = lambda: stuck.append(bench.plane.silent)
        bench.plane.dump(bench.answer)
        await bench.say(messages.Done(bench.command().request, ""))
        present = asyncio.get_running_loop().time()
        bench.plane.give_up_late(present + 4)
        bench.plane.give_up_late(present + 6)
        asked = bench.command()
        assert isinstance(asked, messages.ReadCounters)
        assert len(asked.pairs) == 1  # not the counters of all
        for second in range(7, 66):
            bench.plane.give_up_late(present + second)
        assert stuck == []
        bench.plane.give_up_late(present + 10_000)  # the whole machine slept: it counts as a second
        assert stuck == []
        bench.plane.give_up_late(present + 10_001)
        bench.plane.give_up_late(present + 10_002)
        assert stuck == [61]
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        bench.plane.attach(ours)
        assert bench.plane.silent == 0
        other.close()

    on_loop(body)


def test_whatever_a_data_plane_says_is_a_sign_of_life() -> None:
    async def body(bench: Bench) -> None:
        stuck: list[float] = []
        bench.plane.stuck = lambda: stuck.append(bench.plane.silent)
        bench.plane.dump(bench.answer)
        await bench.say(messages.Done(bench.command().request, ""))
        bench.plane.dump(lambda _: None)
        present = asyncio.get_running_loop().time()
        for second in range(200):
            bench.plane.give_up_late(present + second)
            if second % 50 == 0:
                await bench.say(messages.Warned("policy_restored", ""))
        assert stuck == []

    on_loop(body)


def test_a_command_that_is_too_large_fails_alone() -> None:
    async def body(bench: Bench) -> None:
        rule = PolicyRule(Action.PROTECT, NET_A, NET_B, 1)
        huge = Policy(1, "gw/huge", 0, (rule,) * 20_000, True, None, None)
        bench.plane.install_policy(huge, bench.answer)
        (answer,) = bench.answers
        assert isinstance(answer, messages.Done)
        assert "too much" in answer.error
        bench.plane.dump(bench.answer)
        assert isinstance(bench.command(), messages.Dump)

    on_loop(body)


def test_a_sweep_spares_what_is_ours_and_names_the_policies_in_force() -> None:
    async def body(bench: Bench) -> None:
        bench.plane.install_policy(policy(1, (1,)))
        bench.plane.install_sa(sa(pair=7))
        bench.plane.sweep()
        installed, _, sweep = bench.command(), bench.command(), bench.command()
        assert isinstance(installed, messages.InstallPolicy)
        assert isinstance(sweep, messages.Sweep)
        assert sweep.policies == (installed.policy,)
        assert sweep.pairs == (bench.plane.names.pair(7),)

    on_loop(body)


def test_policies_of_one_priority_keep_the_endpoints_order() -> None:
    async def body(bench: Bench) -> None:
        for number in (1, 2):
            bench.plane.install_policy(policy(number, (number,), f"gw/{number}"))
        bench.plane.install_policy(policy(3, (3,), "gw/first", priority=-1))
        one, two, first = bench.command(), bench.command(), bench.command()
        assert isinstance(one, messages.InstallPolicy)
        assert isinstance(two, messages.InstallPolicy)
        assert isinstance(first, messages.InstallPolicy)
        assert first.priority < one.priority < two.priority

    on_loop(body)


def test_the_same_policy_has_the_same_names_in_the_next_daemon() -> None:
    before, after = Names(1), Names(2)
    before.add(policy(1, (1, 2)))
    after.add(policy(1, (9,), "other/net"))
    after.add(policy(2, (4, 5)))
    assert before.policies()[0] == after.policies()[1]
    assert (before.flow(1), before.flow(2)) == (after.flow(4), after.flow(5))
    assert before.flow(1) != before.flow(2)
    assert after.endpoint_flow(before.flow(2)) == 5


def test_a_policy_with_other_selectors_has_other_flows() -> None:
    before, after = Names(1), Names(2)
    before.add(policy(1, (1,)))
    after.add(Policy(1, "gw/net", 0, (PolicyRule(Action.PROTECT, NET_B, NET_A, 1),), True, None, None))
    assert before.flow(1) != after.flow(1)


def test_a_replaced_policy_forgets_its_former_flows() -> None:
    names = Names(1)
    names.add(policy(1, (1, 2)))
    old = names.flow(2)
    names.add(policy(1, (1,)))
    assert names.endpoint_flow(old) is None
    names.remove(1)
    assert names.policies() == ()


def test_a_flow_keeps_its_name_as_long_as_a_policy_has_it() -> None:
    names = Names(1)
    names.add(policy(1, (1,)))
    name = names.flow(1)
    names.add(Policy(1, "gw/net", 0, (PolicyRule(Action.PROTECT, NET_B, NET_A, 1),), True, None, None))
    names.add(policy(2, (1,), "gw/other"))
    names.remove(1)
    assert names.flow(1) == name
    assert names.endpoint_flow(name) == 1
    names.remove(2)
    assert names.endpoint_flow(name) is None


def test_pairs_of_a_former_daemon_are_not_ours() -> None:
    before, after = Names(1), Names(2)
    assert after.endpoint_pair(after.pair(7)) == 7
    assert after.endpoint_pair(before.pair(7)) is None


def test_policies_of_several_peers_under_one_name_stay_apart() -> None:
    """A connection for anybody: each peer's policy and flow has a name of its own, beside the child's."""
    names = Names(1)
    of_child = names.add(policy(1, (11,)))
    of_peers = [names.add(policy(number, (number + 10,))) for number in (2, 3)]
    assert len({of_child, *of_peers}) == 3
    flows = [names.flow(flow) for flow in (11, 12, 13)]
    assert len(set(flows)) == 3
    assert [names.endpoint_flow(flow) for flow in flows] == [11, 12, 13]
    assert names.remove(2) == of_peers[0]
    assert names.policies() == (of_child, of_peers[1])
    assert Names(2).add(policy(1, (11,))) == of_child


def test_a_changed_child_whose_flows_are_as_before_is_still_asked_for_them() -> None:
    names = Names(7)
    names.add(policy(1, (1,)))
    former = names.flow(1)
    names.add(policy(1, (2,)))
    assert names.flow(2) == former
    assert names.endpoint_flow(former) == 2
    names.remove(1)
    assert names.endpoint_flow(former) is None
