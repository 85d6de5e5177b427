"""What the supervisor passes on, and the data plane process at the end of its pair."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cygnet.dataplane import messages, process
from cygnet.dataplane.descriptors import (
    DescriptorError,
    Inherited,
    Options,
    ike_program,
    nat_program,
    options_from,
)
from cygnet.dataplane.guard import KernelError
from cygnet.dataplane.tun import Offloads
from cygnet.policy.spd import Policy

TAG = 0xABCD


def run(program: bytes, datagram: bytes) -> int:
    """Classic BPF as Linux runs it, the instructions that are used."""
    accumulator, at = 0, 0
    code = [struct.unpack_from("=HBBI", program, n) for n in range(0, len(program), 8)]
    while True:
        what, true, false, k = code[at]
        at += 1
        if what == 0x80:
            accumulator = len(datagram)
        elif what in (0x20, 0x28):
            size = 4 if what == 0x20 else 2
            if k + size > len(datagram):
                return 0
            accumulator = int.from_bytes(datagram[k : k + size], "big")
        elif what == 0x15:
            at += true if accumulator == k else false
        elif what == 0x35:
            at += true if accumulator >= k else false
        else:
            assert what == 0x06
            return int(k)


def test_the_lane_programs_pick_the_owner_of_every_datagram() -> None:
    ours = TAG.to_bytes(2, "big")
    theirs = b"\x11\x22"
    initiated = ours + bytes(6) + theirs + bytes(6) + bytes(12)
    responded = theirs + bytes(6) + ours + bytes(6) + bytes(12)
    foreign = theirs + bytes(6) + bytes(8) + bytes(12)
    for datagram, lane in (
        (initiated, 1),
        (responded, 1),
        (foreign, 0),
        (b"", 0),
        (b"\xff", 0),
        (foreign[:9], 0),
    ):
        assert run(ike_program(TAG), datagram) == lane
        if len(datagram) > 9:
            assert run(nat_program(TAG), bytes(4) + datagram) == lane
    for datagram, lane in (
        (b"\xff", 0),
        (b"", 0),
        (bytes(7), 0),
        (b"\0\0\1\0" + bytes(3), 0),
        (b"\0\0\1\0" + bytes(4), 2),
        (b"\0\0\1\0" + bytes(60), 2),
        (bytes(4) + foreign[:8], 0),
    ):
        assert run(nat_program(TAG), datagram) == lane


def test_offloads_and_mtu_may_be_switched_by_the_environment() -> None:
    assert options_from({}) == Options()
    assert options_from({"CYGNET_GSO": "off", "CYGNET_TUN_MTU": "1300"}) == Options(gso=False, tun_mtu=1300)
    assert options_from({"CYGNET_TUN_OFFLOAD": "off", "CYGNET_GRO": "off"}) == Options(
        tun_offload=False, gro=False
    )
    for name, value in (("CYGNET_GSO", "no"), ("CYGNET_TUN_MTU", "x"), ("CYGNET_TUN_MTU", "70000")):
        with pytest.raises(DescriptorError, match=name):
            options_from({name: value})


class Kernel:
    def __init__(self) -> None:
        self.commits = 0
        self.policies: set[int] = set()

    def put(self, policy: Policy) -> None:
        self.policies.add(policy.id)

    def remove(self, policy: int) -> None:
        self.policies.discard(policy)

    def commit(self, tun: str) -> None:
        if 666 in self.policies:
            raise KernelError("refused")
        self.commits += 1

    def refresh(self, tun: str) -> bool:
        return False

    def take_precedence(self) -> None:
        return

    def sweep(self) -> None:
        pass

    def clear(self) -> None:
        pass


class Device:
    name = "stand-in"

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def start(self, mtu: int, offloads: Offloads, *, bursts: bool) -> None:
        offloads.tun_tso = offloads.tun_uso = bursts

    def set_mtu(self, mtu: int) -> None:
        pass

    def set_burst_size(self, octets: int) -> None:
        pass


class Running:
    """A process object whose turns the test takes itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "Device", Device)
        tun, self.tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pair, self.pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tun.setblocking(False)
        self.pair.setblocking(False)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        self.kernel = Kernel()
        self._tun = tun
        self.process = process.Process(
            Inherited(tun.fileno(), (udp.detach(),), (), -1, -1, pair.detach(), (500, 4500), Options()),
            self.kernel,
        )

    def say(self, *commands: messages.Command) -> list[Any]:
        for command in commands:
            self.pair.send(messages.encode(command))
        self.process._drain_commands()
        answers = []
        while True:
            try:
                answers.append(messages.decode_report(self.pair.recv(messages.MAX_MESSAGE)))
            except BlockingIOError:
                return answers


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    made = Running(monkeypatch)
    yield made
    # Its threads would read from the ends of all tests to come.
    made.process.engine.close()


def policy(request: int, number: int) -> messages.InstallPolicy:
    side = messages.Selector(4, 0, bytes(4), b"\xff" * 4, 0, 65535)
    return messages.InstallPolicy(
        request, number, "p", 0, (messages.Rule(1, side, side, number),), True, b"", b""
    )


def sa(request: int, **changed: Any) -> messages.InstallSa:
    side = messages.Selector(4, 0, bytes(4), b"\xff" * 4, 0, 65535)
    made = messages.InstallSa(
        request, 0, 50, 1, 0x1000, 1, 1, b"\x7f\0\0\1", b"\x7f\0\0\2", 4500, 4500, 20, 256, 0, bytes(36), b"",
        False, 64, (side,), (side,), 0, 0, 0, 0, 0.0, True, False, True, True, False,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changed)


def test_policies_that_wait_together_go_to_the_kernel_together_and_before_the_sa(running: Running) -> None:
    answers = running.say(*(policy(n, n) for n in range(1, 20)), sa(20), policy(21, 21))
    assert answers == [messages.Done(n, "") for n in range(1, 22)]
    assert running.kernel.commits == 2


def test_a_refused_policy_is_answered_alone(running: Running) -> None:
    bad = msgspec.structs.replace(policy(4, 4), local=b"xyz")
    answers = running.say(policy(1, 1), policy(2, 666), policy(3, 3), bad)
    assert sorted((a.request, a.error) for a in answers) == [
        (1, ""), (2, "refused"), (3, ""), (4, "an address of 3 octets"),
    ]  # fmt: skip
    (dumped,) = running.say(messages.Dump(5))
    assert dumped.policies == (1, 3)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"protocol": 108}, "protocol 108"),
        ({"protocol": 51}, "AH cannot go through UDP"),
        ({"mode": 3}, "mode 3"),
        ({"direction": 7}, "direction"),
        ({"spi": 255}, "reserved"),
        ({"local": b""}, "address"),
        ({"remote": bytes(16)}, "families"),
        ({"encryption_key": b""}, "key length"),
        ({"replay_window": 9000}, "replay window"),
        ({"local_selectors": (messages.Selector(4, 0, b"", b"", 0, 0),)}, "selector"),
    ],
)
def test_an_impossible_sa_is_refused_with_a_sentence(
    running: Running, changed: dict[str, Any], text: str
) -> None:
    (done,) = running.say(sa(1, **changed))
    assert text in done.error


def test_garbage_is_reported_and_the_next_command_is_carried_out(running: Running) -> None:
    running.pair.send(b"\xc1garbage")
    running.pair.send(b"")
    answers = running.say(messages.Dump(1))
    assert isinstance(answers[0], messages.Warned)
    assert answers[0].code == "command_malformed"
    assert not any(isinstance(answer, messages.Dumped) for answer in answers)  # an empty message is the end
    assert not running.process._running


def test_a_fault_of_our_own_is_told_and_counted_and_ends_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by us")

    monkeypatch.setattr(running.process.engine, "sweep", broken)
    (done,) = running.say(messages.Sweep(1, (), ()))
    assert "ZeroDivisionError" in done.error
    running.process._guarded(lambda: broken())
    warned, counters = running.say(messages.ReadCounters(2, ()))
    assert "by us" in warned.text
    assert counters.drops == {"fault": 2}


def test_an_answer_that_no_message_holds_is_an_error_and_not_waited_for(running: Running) -> None:
    for number in range(1, 300):
        running.say(sa(0, spi=0x1000 + number, pair=number))
    running.process._pair.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    answers = running.say(messages.ReadCounters(7, ()))
    assert answers == [messages.Done(7, "the answer is too long: ask for fewer pairs")]
    assert len(running.say(messages.ReadCounters(8, (3,)))[0].pairs) == 1


def test_reports_wait_for_a_full_pair_and_foreign_datagrams_do_not(running: Running) -> None:
    expire = messages.Expire(1, 0, 2, False, "bytes")
    foreign = messages.ForeignDatagram(b"", 0, b"", 0, bytes(60000))
    for _ in range(200):
        running.process._report(foreign)
    dropped = running.process.engine.drops()["report_full"]
    assert 0 < dropped < 200
    running.process._report(expire)
    assert running.process.engine.drops()["report_full"] == dropped
    while running.say():
        running.process._flush()
    running.process._report(expire)
    assert running.say() == [expire]


def test_shutdown_ends_the_loop(running: Running) -> None:
    assert running.say(messages.Shutdown(1, True)) == [messages.Done(1, "")]
    running.process.run()
