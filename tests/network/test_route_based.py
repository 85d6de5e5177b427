"""Route-based tunnels: a named device that the operator routes into, under hand-made commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import pytest

from bench.plane import Pair, Plane, Side
from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options
from cygnet.lab.capture import Capture
from cygnet.lab.namespaces import Namespace, require
from cygnet.lab.topology import (
    ALICE,
    BOB,
    BOB6,
    MOON,
    MOON_NET,
    MOON_NET6,
    OUTER,
    SUN,
    SUN_NET,
    SUN_NET6,
    TwoGateways,
    two_gateways,
)

pytestmark = [pytest.mark.network, pytest.mark.timeout(180)]

DEVICE = "vpn42"
EVERYTHING = ("0.0.0.0/0", "::/0")
PAIR = Pair(Side(MOON, EVERYTHING), Side(SUN, EVERYTHING), changed={"interface": DEVICE, "if_id": 42})


def route_based(left: bool, pair: Pair = PAIR) -> Callable[[int], messages.Command]:
    made = pair.policy(left)
    return lambda request: msgspec.structs.replace(made(request), interface=DEVICE, if_id=42)


def routes(net: TwoGateways) -> None:
    net.moon.ip(f"route add {SUN_NET} dev {DEVICE}", f"route add {SUN_NET6} dev {DEVICE}")
    net.sun.ip(f"route add {MOON_NET} dev {DEVICE}", f"route add {MOON_NET6} dev {DEVICE}")


@contextmanager
def up(pair: Pair = PAIR) -> Iterator[tuple[TwoGateways, Plane, Plane, Capture]]:
    require()
    with two_gateways() as net:
        capture = Capture(*net.outer_link, protected=(MOON_NET, SUN_NET, MOON_NET6, SUN_NET6))
        try:
            with Plane(net.moon, Options()) as moon, Plane(net.sun, Options()) as sun:
                for plane, left in ((moon, True), (sun, False)):
                    plane.do(route_based(left, pair))
                routes(net)
                for direction in (0, 1):
                    for plane, left in ((moon, True), (sun, False)):
                        plane.do(pair.sa(left, direction))
                yield net, moon, sun, capture
        finally:
            capture.stop()


def ping(source: Namespace, destination: str, *options: str, count: int = 3) -> bool:
    done = source.run("ping", "-c", str(count), "-i", "0.05", "-W", "2", *options, destination, check=False)
    return done.returncode == 0 and f"{count} received" in done.stdout


def test_what_is_routed_into_the_device_goes_through_its_tunnel_and_is_counted() -> None:
    with up() as (net, moon, _, capture):
        assert ping(net.alice, BOB)
        assert ping(net.alice, BOB6)
        assert ping(net.bob, ALICE, "-s", "4000")
        (counted,) = moon.counters().interfaces
        assert counted.name == DEVICE
        assert counted.packets_in >= 9
        assert counted.packets_out >= 9
        assert counted.drops == {}
        assert "mtu 1438 " in net.moon.run("ip", "link", "show", DEVICE).stdout
        assert capture.stop().clear == []


def test_without_an_sa_or_a_process_the_device_keeps_its_routes_and_lets_nothing_out() -> None:
    with up() as (net, moon, _, capture):
        assert ping(net.alice, BOB)
        moon.kill()
        assert not ping(net.alice, BOB, count=2)
        assert DEVICE in net.moon.run("ip", "route", "show", SUN_NET).stdout
        moon.start()
        moon.do(route_based(True))
        assert not ping(net.alice, BOB, count=2)  # no SA yet
        for direction in (0, 1):
            moon.do(PAIR.sa(True, direction))
        # Numbers began anew, and the peer's window remembers: what counts is that the way is open again.
        assert ping(net.bob, ALICE) or moon.counters().pairs[0].packets_in >= 1
        assert capture.stop().clear == []


def test_it_goes_with_its_policy_and_a_former_process_s_goes_when_nobody_asks_for_it() -> None:
    with up() as (net, moon, sun, _):
        moon.do(lambda request: messages.RemovePolicy(request, PAIR.number))
        assert DEVICE not in net.moon.run("ip", "link").stdout
        sun.kill()
        assert DEVICE in net.sun.run("ip", "link").stdout
        sun.start()
        sun.do(lambda request: messages.Sweep(request, (), ()))
        assert DEVICE not in net.sun.run("ip", "link").stdout


def test_selectors_hold_there_too_and_a_policy_may_move_between_the_kinds() -> None:
    narrow = replace(PAIR, left=Side(MOON, (MOON_NET,)), right=Side(SUN, (SUN_NET,)), changed=PAIR.changed)
    with up(narrow) as (net, moon, _, capture):
        assert ping(net.alice, BOB)
        assert not ping(net.alice, BOB6, count=1)
        assert moon.counters().drops["discarded"] >= 1
        moon.do(narrow.policy(True))  # policy-based now: the kernel routes and guards
        assert DEVICE not in net.moon.run("ip", "link").stdout
        moon.do(route_based(True, narrow))
        assert DEVICE in net.moon.run("ip", "link").stdout
        assert capture.stop().clear == []


def test_a_device_that_cannot_be_made_is_a_refusal_with_the_reason() -> None:
    require()
    with two_gateways() as net, Plane(net.moon, Options()) as moon:
        made = PAIR.policy(True)
        done = moon.ask(
            lambda request: msgspec.structs.replace(made(request), interface=OUTER), messages.Done
        )
        assert OUTER in done.error
