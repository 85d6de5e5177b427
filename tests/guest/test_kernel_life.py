"""What becomes of SAs and policies in the kernel: expiries, acquires, moves, restarts; nothing in clear.

The other end is our portable engine on the machine outside.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from bench.plane import Pair, Side, packed, selector
from cygnet.dataplane import messages
from cygnet.dataplane.xfrm import codec
from cygnet.dataplane.xfrm.netlink import Message, XfrmSocket, attribute
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import (
    ALICE,
    ALICE6,
    BOB,
    BOB6,
    MOON,
    MOON_INNER,
    MOON_NET,
    MOON_NET6,
    SUN,
    SUN_NET,
    SUN_NET6,
)  # fmt: skip
from tests.guest.moon import Moon, echoed, moon_and_alice
from tests.guest.peer import ECHO_PORT
from tests.waiting import until

pytestmark = pytest.mark.timeout(150)

Host = Callable[..., Any]
LEFT, RIGHT = Side(MOON, (MOON_NET, MOON_NET6)), Side(SUN, (SUN_NET, SUN_NET6))


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[Namespace, Namespace]]:
    with moon_and_alice() as made:
        yield made


@pytest.fixture(scope="module")
def sun(spaces: object, host: Host) -> Iterator[Host]:
    host("tests.guest.peer:start", "portable")
    yield host
    assert host("tests.guest.peer:stop") == []  # nothing was seen in clear


@pytest.fixture
def moon(spaces: tuple[Namespace, Namespace], sun: Host) -> Iterator[Moon]:
    made = Moon(*spaces)
    yield made
    made.close()
    sun("tests.guest.peer:do", hexed(lambda request: messages.Sweep(request, (), ())))


def hexed(make: Callable[[int], messages.Command]) -> str:
    return messages.encode(make(0)).hex()


def tunnel(number: int, port: int = 0, **changed: Any) -> Pair:
    return Pair(LEFT, RIGHT, number, port=port, changed=changed)


def set_up(moon: Moon, sun: Host, pair: Pair, *, policy: bool = True, **at_moon: Any) -> None:
    if policy:
        moon.do(pair.policy(True))
        assert sun("tests.guest.peer:do", hexed(pair.policy(False))) == [""]
    for direction in (0, 1):
        moon.do(pair.sa(True, direction, **at_moon))
        assert sun("tests.guest.peer:do", hexed(pair.sa(False, direction))) == [""]


def test_soft_and_hard_limits_of_packets_octets_and_seconds(moon: Moon, sun: Host) -> None:
    for number, limits, soft, hard in (
        (1, {"soft_packets": 3, "hard_packets": 6}, "packets", "packets"),
        (2, {"soft_bytes": 500, "hard_bytes": 2000}, "bytes", "bytes"),
        (3, {"hard_seconds": 2.0}, "", "seconds"),
    ):
        pair = tunnel(number)
        set_up(moon, sun, pair, **limits)
        for size in (200,) * (0 if number == 3 else 12):
            if not any(isinstance(one, messages.Expire) and one.hard for one in moon.reports):
                try_echo(moon, size)
                moon.space.inside(moon.engine.readable)
        told: list[messages.Expire] = []
        while not (told and told[-1].hard):
            told.append(moon.wait_for(messages.Expire))
        assert [(one.hard, one.why) for one in told if one.direction == 1 or number == 3][-1] == (True, hard)
        assert not soft or any(not one.hard and one.why == soft for one in told)
        assert all(one.pair == number for one in told)
        ends = {entry.direction for entry in moon.engine.book}
        assert len(ends) < 2, "the SA that expired is gone"
        try_echo(moon, 100)  # must not leave in clear: judged at the end
        moon.clear()
        sun("tests.guest.peer:do", hexed(lambda request: messages.Sweep(request, (), ())))


def try_echo(moon: Moon, size: int) -> None:
    """One datagram of this size, and a moment for its echo."""
    with moon.alice.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(0.2)
        with suppress(OSError):  # nothing comes, or the kernel has no SA yet
            sock.sendto(bytes(size), (BOB, ECHO_PORT))
            sock.recv(1 << 16)


def test_the_first_packet_is_told_once(moon: Moon, sun: Host) -> None:
    pair = tunnel(11)
    set_up(moon, sun, pair, notify_first_use=True)
    echoed(moon.alice, ALICE, BOB)
    first = moon.wait_for(messages.FirstUse)
    assert (first.pair, first.spi) == (11, 0x10000 * 11 + 256 + 2)
    echoed(moon.alice, ALICE, BOB)
    moon.space.inside(moon.engine.tick)
    moon.space.inside(moon.engine.readable)
    assert not any(isinstance(one, messages.FirstUse) for one in moon.reports)


def test_a_packet_asks_for_its_sa_once_and_gets_through_when_it_comes(moon: Moon, sun: Host) -> None:
    pair = tunnel(21)
    moon.do(pair.policy(True, trap=True))
    sun("tests.guest.peer:do", hexed(pair.policy(False)))
    for _ in range(3):
        try_echo(moon, 10)
    asked = moon.wait_for(messages.Acquire)
    assert asked.flow == 21
    assert (asked.local.first, asked.remote.first) == (packed(ALICE), packed(BOB))
    moon.space.inside(moon.engine.readable)
    assert not any(isinstance(one, messages.Acquire) for one in moon.reports)
    set_up(moon, sun, pair, policy=False)
    echoed(moon.alice, ALICE, BOB)


def test_replayed_packets_are_dropped_and_counted(moon: Moon, sun: Host) -> None:
    pair = tunnel(31)
    set_up(moon, sun, pair)
    sun("tests.guest.peer:record")
    echoed(moon.alice, ALICE, BOB)
    before = moon.counters()[31].packets_in
    again = sun("tests.guest.peer:send_again")
    assert again >= 4
    until(lambda: moon.counters()[31].drops.get("replay", 0) >= again, 20, "the replays were counted")
    assert moon.counters()[31].packets_in == before


def test_sequence_numbers_end_and_never_repeat(moon: Moon, sun: Host) -> None:
    pair = tunnel(41)
    set_up(moon, sun, pair)
    (entry,) = (one for one in moon.engine.book if one.direction == 1)
    last = (1 << 32) - 1

    def age(packets: int, sequence: int) -> None:
        """As if the SA had sent so many packets."""
        sock = XfrmSocket()
        head = codec.event_threshold(entry.keys[0], entry.local, entry.reqid, 0).body[:48]
        lifetime = attribute(9, b"".join(value.to_bytes(8, "little") for value in (0, packets, 1, 1)))
        replay = attribute(10, sequence.to_bytes(4, "little") + bytes(8))
        sock.change_one(Message(codec.NEW_AE, head + lifetime + replay, 0x100))
        sock.close()

    moon.space.inside(lambda: age(int(last * 0.8) + 1, 7))
    try_echo(moon, 10)
    soft = moon.wait_for(messages.Expire)
    assert (soft.hard, soft.why, soft.direction) == (False, "sequence", 1)
    moon.space.inside(lambda: age(5, last - 2))
    for _ in range(5):
        try_echo(moon, 10)
    assert moon.counters()[41].sequence_out == last
    statistics = moon.space.run("cat", "/proc/net/xfrm_stat").stdout
    assert int(statistics.split("XfrmOutStateSeqError")[1].split()[0]) >= 3


def test_ends_move_and_keys_and_numbers_stay(moon: Moon, sun: Host) -> None:
    pair = tunnel(51, port=4500)
    set_up(moon, sun, pair)
    echoed(moon.alice, ALICE, BOB)
    before = moon.counters()[51]
    other = "192.0.2.77"
    moon.space.ip(f"addr add {other}/24 dev eth0")
    moved = messages.UpdateSa(0, 51, packed(other), packed(SUN), 4500, 4500)
    mirrored = messages.UpdateSa(0, 51, packed(SUN), packed(other), 4500, 4500)
    moon.do(lambda _: moved)
    assert sun("tests.guest.peer:do", hexed(lambda _: mirrored)) == [""]
    echoed(moon.alice, ALICE, BOB)
    after = moon.counters()[51]
    assert after.packets_out > before.packets_out
    assert after.sequence_out > before.sequence_out
    assert after.packets_in > before.packets_in
    assert other in moon.show()
    moon.space.ip(f"addr del {other}/24 dev eth0")


def test_a_peer_behind_a_nat_that_changed_its_mapping_is_told(moon: Moon, sun: Host) -> None:
    pair = tunnel(61, port=4500)
    set_up(moon, sun, pair)
    echoed(moon.alice, ALICE, BOB)
    sun("tests.guest.peer:change_port", 4500, 5511)
    try:
        try_echo(moon, 10)
        moved = moon.wait_for(messages.PeerMoved)
        assert (moved.pair, moved.remote, moved.remote_port) == (61, packed(SUN), 5511)
        ports = messages.UpdateSa(0, 61, packed(MOON), packed(SUN), 4500, 5511)
        moon.do(lambda _: ports)
        assert "dport 5511" in moon.show()
    finally:
        sun("tests.guest.peer:change_port", 0, 0)


def test_a_process_that_dies_leaves_all_and_the_next_takes_it_over(moon: Moon, sun: Host) -> None:
    pair = tunnel(71, ipcomp=0x1001)
    set_up(moon, sun, pair)
    echoed(moon.alice, ALICE, BOB)
    moon.kill()
    echoed(moon.alice, ALICE, BOB)
    moon.start()
    assert moon.engine.held() == ((), (71,), (71,))
    moon.do(pair.policy(True))
    moon.space.inside(lambda: moon.engine.sweep((71,), (71,)))
    echoed(moon.alice, ALICE, BOB)
    assert moon.counters()[71].packets_out >= 9
    moon.space.inside(lambda: moon.engine.sweep((71,), ()))
    left = re.findall(r"proto \S+ spi (\S+)", moon.space.run("ip", "xfrm", "state").stdout)
    assert set(left) <= {"0x00000000"}  # those that packets only ask for
    try_echo(moon, 10)  # the policy holds


def test_an_sa_that_somebody_removes_is_missed(moon: Moon, sun: Host) -> None:
    pair = tunnel(81)
    set_up(moon, sun, pair)
    moon.space.run("ip", "xfrm", "state", "flush")
    gone = {moon.wait_for(messages.Expire).direction for _ in range(2)}
    assert gone == {0, 1}
    assert any(isinstance(one, messages.Warned) and one.code == "sa_lost" for one in moon.reports)


def test_a_new_pair_takes_over_and_the_old_one_lingers_without_a_loss(moon: Moon, sun: Host) -> None:
    old, new = tunnel(91), replace(tunnel(92), changed={"flow": 91})
    set_up(moon, sun, old)
    echoed(moon.alice, ALICE, BOB)
    set_up(moon, sun, new, policy=False)
    echoed(moon.alice, ALICE, BOB, sizes=(9, 99, 999))
    spi = 0x10000 * 91 + 256
    moon.do(lambda _: messages.RemoveSa(0, 1, spi + 1, packed(SUN), 0.0, 91))
    moon.do(lambda _: messages.RemoveSa(0, 0, spi + 2, packed(SUN), 1.0, 91))
    assert moon.counters()[92].packets_out >= 3
    assert len(moon.engine.book) == 3
    echoed(moon.alice, ALICE, BOB)


def test_an_xfrm_interface_carries_what_is_routed_into_it(moon: Moon, sun: Host) -> None:
    pair = Pair(
        replace(LEFT, inner=("0.0.0.0/0",)), replace(RIGHT, inner=("0.0.0.0/0",)), 101,
        changed={"if_id": 42, "interface": "vpn0"},
    )  # fmt: skip
    narrow = tunnel(101)
    command = pair.policy(True)(1)
    assert isinstance(command, messages.InstallPolicy)
    moon.do(lambda _: msgspec.structs.replace(command, interface="vpn0", if_id=42))
    assert sun("tests.guest.peer:do", hexed(narrow.policy(False))) == [""]
    for direction in (0, 1):
        moon.do(pair.sa(True, direction, local_port=0, remote_port=0))
        assert sun("tests.guest.peer:do", hexed(narrow.sa(False, direction))) == [""]
    moon.space.ip("route add 10.2.0.0/16 dev vpn0")
    echoed(moon.alice, ALICE, BOB)
    assert "vpn0" in moon.space.run("ip", "link").stdout
    moon.clear()
    assert "vpn0" not in moon.space.run("ip", "link").stdout


def test_what_is_forwarded_in_fragments_is_sealed_by_the_rules_of_its_ports(moon: Moon, sun: Host) -> None:
    pair = tunnel(111)

    def ruled(here: bool) -> Callable[[int], messages.Command]:
        """UDP to bob's echo only."""
        nets = ((MOON_NET, SUN_NET), (MOON_NET6, SUN_NET6))
        rules = []
        for near, far in nets:
            sides = selector(near, 17), selector(far, 17, (ECHO_PORT, ECHO_PORT))
            rules.append(messages.Rule(1, *(sides if here else sides[::-1]), 111))
        command = pair.policy(here)(0)
        assert isinstance(command, messages.InstallPolicy)
        return lambda request: msgspec.structs.replace(command, request=request, rules=tuple(rules))

    moon.do(ruled(True))
    assert sun("tests.guest.peer:do", hexed(ruled(False))) == [""]
    with moon.alice.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.sendto(bytes(4000), (BOB, ECHO_PORT))  # no SA yet: dropped; the capture is judged at the end
    set_up(moon, sun, pair, policy=False)
    echoed(moon.alice, ALICE, BOB, sizes=(100, 4000))
    echoed(moon.alice, ALICE6, BOB6, sizes=(4000,))
    assert moon.counters()[111].packets_out >= 3


def counted(moon: Moon, reason: str) -> int:
    return int(moon.space.run("cat", "/proc/net/xfrm_stat").stdout.split(reason)[1].split()[0])


def tried(source: Namespace, here: str) -> None:
    """A datagram from this address to bob, whose echo must not come."""
    with source.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind((here, 0))
        sock.settimeout(0.3)
        came = b""
        with suppress(OSError):  # it was refused, or nothing comes
            sock.sendto(bytes(50), (BOB, ECHO_PORT))
            came = sock.recv(100)
        assert came == b""


def test_selectors_that_the_peer_narrowed_hold_in_both_directions(moon: Moon, sun: Host) -> None:
    """moon's SAs are for alice alone, the policy and sun's SAs for moon's whole network."""
    pair = tunnel(121, replay_window=0)  # for below numbers begin anew
    alice, net = (selector(f"{ALICE}/32"),), (selector(SUN_NET),)
    set_up(moon, sun, pair, local_selectors=alice, remote_selectors=net)
    echoed(moon.alice, ALICE, BOB)
    tried(moon.space, MOON_INNER)  # no SA is for it; that it is not in clear is judged at the end
    assert moon.counters()[121].packets_out == moon.counters()[121].packets_in
    # Now moon sends it, and the peer's answer is what the inbound SA is not for.
    spi = 0x10000 * 121 + 256 + 1
    moon.do(lambda _: messages.RemoveSa(0, 1, spi, packed(SUN), 0.0, 121))
    moon.do(pair.sa(True, 1))
    before = counted(moon, "XfrmInStateMismatch")

    def refused() -> bool:
        tried(moon.space, MOON_INNER)
        return counted(moon, "XfrmInStateMismatch") > before

    until(refused, 20, "the answer was for nobody")


def test_what_lies_beneath_a_policy_drops_what_the_policy_is_not_for(moon: Moon, sun: Host) -> None:
    """As for a client with a virtual address (`ike.policies`): other addresses do not leave either."""
    pair = tunnel(131)
    command = pair.policy(True)(0)
    assert isinstance(command, messages.InstallPolicy)
    upper = messages.Rule(1, selector(f"{ALICE}/32"), selector(SUN_NET), 131)
    lower = messages.Rule(3, selector("0.0.0.0/0"), selector(SUN_NET), 0)
    beneath = msgspec.structs.replace(command, policy=132, priority=(1 << 31) - 1, rules=(lower,))
    moon.do(lambda _: beneath)
    moon.do(lambda _: msgspec.structs.replace(command, rules=(upper,)))
    assert sun("tests.guest.peer:do", hexed(pair.policy(False))) == [""]
    set_up(moon, sun, pair, policy=False)
    echoed(moon.alice, ALICE, BOB)
    before = counted(moon, "XfrmOutPolBlock")
    tried(moon.space, MOON_INNER)
    tried(moon.space, MOON)
    assert counted(moon, "XfrmOutPolBlock") >= before + 2
    moon.do(lambda _: messages.RemovePolicy(0, 131))
    sealed = moon.counters()[131].packets_out
    tried(moon.alice, ALICE)
    assert moon.counters()[131].packets_out == sealed


def test_discovery_of_neighbours_does_not_get_through_from_inside(moon: Moon, sun: Host) -> None:
    """ICMPv6 134 between global addresses is nothing that a router forwards, neither sealed nor in clear."""
    pair = tunnel(141)
    set_up(moon, sun, pair)
    echoed(moon.alice, ALICE6, BOB6)
    before = counted(moon, "XfrmInPolBlock")
    raw = moon.alice.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
    with raw:
        raw.sendto(bytes((134, 0)) + bytes(38), (BOB6, 0))
        until(lambda: counted(moon, "XfrmInPolBlock") > before, 20, "it was dropped")
