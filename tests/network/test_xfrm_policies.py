"""Policies in this machine's kernel, whose SPD works though it may have no ESP; `ip xfrm` is the judge."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import pytest

from bench.plane import Pair, Plane, Side
from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines import EngineUnavailable, settle
from cygnet.dataplane.engines.kernel import REFRESH_EVERY, KernelEngine
from cygnet.dataplane.xfrm import codec
from cygnet.dataplane.xfrm.netlink import XfrmSocket
from cygnet.dataplane.xfrm.probe import probe
from cygnet.lab.capture import Capture
from cygnet.lab.namespaces import Namespace, connect
from cygnet.lab.topology import BOB, BOB6, MOON, MOON6, SUN, SUN6, two_gateways
from cygnet.policy.sa import Mode, SaProtocol
from cygnet.policy.selectors import TrafficSelector, parse_selector
from cygnet.policy.spd import Action, Policy, PolicyRule
from tests.network.test_guard import receiver

pytestmark = pytest.mark.network

HERE, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace("xfrm") as near, Namespace("xfrm-peer") as far:
        connect(near, "outer", far, "outer")
        near.ip("addr add 192.0.2.1/24 dev outer", "addr add 10.1.0.1/32 dev lo")
        yield near


class Running:
    """An engine inside a namespace, and what it reports."""

    def __init__(self, space: Namespace, **options: Any) -> None:
        self.space = space
        self.reports: list[messages.Report] = []
        try:
            self.engine = space.inside(lambda: KernelEngine(Options(**options), self.reports.append))
        except OSError as error:
            pytest.skip(f"this kernel has no XFRM: {error}")

    def change(self, *changes: Policy | int) -> list[str]:
        return self.space.inside(lambda: self.engine.change_policies(changes))

    def policies(self) -> list[dict[str, str]]:
        return shown(self.space)

    def look(self) -> None:
        """What the engine does every few seconds, in its namespace."""
        self.engine._refreshed = -REFRESH_EVERY
        self.space.inside(self.engine.tick)

    def kill(self) -> None:
        """As a process does that dies: the sockets are closed, nothing else."""
        self.engine.close()


def shown(space: Namespace) -> list[dict[str, str]]:
    """What `ip xfrm policy` says, in the order of the directions and priorities."""
    text = space.run("ip", "-d", "xfrm", "policy").stdout
    found = []
    for block in re.split(r"^(?=src )", text, flags=re.MULTILINE):
        lines = [line.strip() for line in block.splitlines()]
        if not lines or "socket" in block:
            continue
        heads = dict(re.findall(r"(dir|action|priority|index) (\S+)", block))
        found.append({
            "selector": lines[0].split(" uid")[0].strip(), "dir": heads["dir"],
            "action": heads.get("action", "allow"), "priority": heads["priority"],
            "tmpl": " ".join(re.sub(r"\s+", " ", block).partition("ptype main ")[2].split()),
        })  # fmt: skip
    return sorted(found, key=lambda one: (one["dir"], int(one["priority"]), one["selector"]))


def dumped() -> list[codec.Selector]:
    found = XfrmSocket().dump(codec.GET_POLICY, b"")
    return [codec.selector_from(codec.policy_from(body).key.selector) for _, body in found]


def side(text: str) -> TrafficSelector:
    found = parse_selector(text)
    assert isinstance(found, TrafficSelector)
    return found


def policy(number: int, *rules: tuple[str, str, Action], priority: int = 0, **more: Any) -> Policy:
    made = tuple(
        PolicyRule(action, side(local), side(remote), number * 100 + place if action is Action.PROTECT else 0)
        for place, (local, remote, action) in enumerate(rules, 1)
    )
    values: dict[str, Any] = {"trap": True, "local": HERE, "remote": PEER, **more}
    return Policy(number, f"gw/{number}", priority, made, **values)


ESP = (
    "ip xfrm state add src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x999 mode transport "
    "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128"
)
NET = ("10.1.0.0/16", "10.2.0.0/16", Action.PROTECT)


def test_one_rule_is_three_policies_that_ask_for_the_flows_sa(space: Namespace) -> None:
    running = Running(space)
    assert running.change(policy(1, NET)) == [""]
    out, fwd, inward = (
        [one for one in running.policies() if one["dir"] == way] for way in ("out", "fwd", "in")
    )
    assert [one["selector"] for one in out] == ["src 10.1.0.0/16 dst 10.2.0.0/16"]
    assert [one["selector"] for one in (*fwd, *inward)] == ["src 10.2.0.0/16 dst 10.1.0.0/16"] * 2
    assert "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp" in out[0]["tmpl"]
    assert "mode tunnel" in out[0]["tmpl"]
    assert "tmpl src 0.0.0.0 dst 0.0.0.0 proto esp" in inward[0]["tmpl"]
    reqids = {re.findall(r"reqid (\S+)", one["tmpl"])[0] for one in running.policies()}
    assert len(reqids) == 1


def test_priorities_keep_the_order_of_rules_and_policies_deny_included(space: Namespace) -> None:
    running = Running(space)
    first = policy(
        1, ("10.1.0.0/16", "10.2.9.0/24", Action.BYPASS), ("10.1.0.0/16", "10.2.8.0/24", Action.DISCARD), NET
    )
    running.change(policy(2, ("10.0.0.0/8", "10.0.0.0/8", Action.PROTECT), priority=5), first)
    running.change(policy(3, ("10.1.0.7/32", "10.2.9.0/24", Action.PROTECT), priority=-1))
    out = [one for one in running.policies() if one["dir"] == "out"]
    assert [(one["selector"].split("dst ")[1], one["action"], bool(one["tmpl"])) for one in out] == [
        ("10.2.9.0/24", "allow", True),
        ("10.2.9.0/24", "allow", False),
        ("10.2.8.0/24", "block", False),
        ("10.2.0.0/16", "allow", True),
        ("10.0.0.0/8", "allow", True),
    ]


def test_ports_ranges_and_icmp_types_become_values_under_masks(space: Namespace) -> None:
    running = Running(space)
    rules = [
        ("10.1.0.0/16[tcp]", "10.2.0.0/16[tcp/80-83]", Action.PROTECT),
        ("10.1.0.0/16[icmp/8]", "10.2.0.0/16[icmp/8]", Action.PROTECT),
        ("10.1.0.4-10.1.0.6", "10.3.0.0/16", Action.PROTECT),
    ]
    running.change(policy(1, *rules))
    out = [one["selector"] for one in running.policies() if one["dir"] == "out"]
    assert out == [
        "src 10.1.0.0/16 dst 10.2.0.0/16 proto tcp dport 80",
        "src 10.1.0.0/16 dst 10.2.0.0/16 proto icmp type 8",
        "src 10.1.0.4/31 dst 10.3.0.0/16",
        "src 10.1.0.6/32 dst 10.3.0.0/16",
    ]
    masks = space.inside(lambda: {one.destination_mask for one in dumped() if one.destination_port == 80})
    assert masks == {0xFFFC}  # `ip` does not show it
    inward = [one["selector"] for one in running.policies() if one["dir"] == "in"]
    assert "src 10.2.0.0/16 dst 10.1.0.0/16 proto tcp sport 80" in inward
    assert "src 10.2.0.0/16 dst 10.1.0.0/16 proto icmp type 8" in inward


def test_the_first_of_equal_selectors_counts_and_the_next_takes_its_place(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, NET), policy(2, (*NET[:2], Action.DISCARD)))
    assert {one["action"] for one in running.policies()} == {"allow"}
    running.change(1)
    assert {one["action"] for one in running.policies()} == {"block"}
    running.change(2)
    assert running.policies() == []


def test_without_knowing_where_the_peer_is_the_policy_blocks(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, NET, remote=None, trap=False))
    (out,) = (one for one in running.policies() if one["dir"] == "out")
    assert out["action"] == "block"


def test_bundles_compression_and_transport_are_templates_from_the_inside_out(space: Namespace) -> None:
    running = Running(space)
    both = (int(SaProtocol.ESP), int(SaProtocol.AH))
    hosts = ("192.0.2.1/32", "192.0.2.2/32", Action.PROTECT)
    running.change(
        policy(1, NET, protocols=both, ipcomp=True), policy(2, hosts, mode=Mode.TRANSPORT, priority=1)
    )
    bundle, transport = (one["tmpl"] for one in running.policies() if one["dir"] == "out")
    assert re.findall(r"proto (\S+) reqid \d+ mode (\S+)", bundle) == [
        ("comp", "tunnel"), ("esp", "transport"), ("ah", "transport")
    ]  # fmt: skip
    assert re.findall(r"proto (\S+) reqid \d+ mode (\S+)", transport) == [("esp", "transport")]


def test_a_new_process_takes_over_what_is_wanted_and_sweeps_the_rest(space: Namespace) -> None:
    theirs = "xfrm policy add src 10.9.0.0/24 dst 10.8.0.0/24 dir out action block priority 7"
    space.ip(theirs)
    former = Running(space)
    former.change(policy(1, NET), policy(2, ("10.1.0.0/16", "10.3.0.0/16", Action.PROTECT), priority=1))
    before = former.policies()
    former.kill()
    monitor = space.start("ip", "xfrm", "monitor", "policy")
    running = Running(space)
    running.change(policy(1, NET))
    assert running.policies() == before  # nothing is weaker before everything is known
    space.inside(running.engine.take_precedence)
    ours = [one for one in running.policies() if "10.2" in one["selector"]]
    theirs_before = [one for one in running.policies() if "10.3" in one["selector"]]
    assert len(theirs_before) == len([one for one in before if "10.3" in one["selector"]]) > 0
    assert min(int(one["priority"]) for one in theirs_before) > max(int(one["priority"]) for one in ours)
    space.inside(lambda: running.engine.sweep((1,), ()))
    left = [one for one in running.policies() if one["priority"] != "7"]
    assert [one["selector"] for one in left] == [
        one["selector"] for one in before if "10.2" in one["selector"]
    ]
    assert any(one["priority"] == "7" for one in running.policies())
    space.inside(running.engine.clear)
    assert [one["priority"] for one in running.policies()] == ["7"]
    space.ip("xfrm policy add src 10.9.0.0/24 dst 10.7.0.0/24 dir out action block")
    told = []
    assert monitor.stdout is not None
    for line in monitor.stdout:
        told.append(line)
        if "10.7.0.0/24" in line:
            break
    monitor.kill()
    # What was taken over cost no message: only the rest, and the last line of somebody else.
    assert all(line.startswith("Deleted") for line in told if line.startswith(("src", "Deleted"))) or (
        [line for line in told if line.startswith("src")] == [told[-1]]
    )


def test_what_somebody_removes_is_back_and_told(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, NET))
    before = running.policies()
    space.ip("xfrm policy delete src 10.1.0.0/16 dst 10.2.0.0/16 dir out")
    space.inside(running.engine.readable)
    assert running.policies() == before
    space.ip("xfrm policy flush")
    space.inside(running.engine.readable)
    assert running.policies() == before
    told = [report for report in running.reports if isinstance(report, messages.Warned)]
    assert [report.code for report in told] == ["policy_restored"] * 2


OUTWARD = ("src", "10.1.0.0/16", "dst", "10.2.0.0/16", "dir", "out")


def test_what_somebody_alters_is_as_it_was_at_once(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, NET))
    before = running.policies()
    space.run("ip", "xfrm", "policy", "update", *OUTWARD, "priority", "5")
    assert running.policies() != before
    space.inside(running.engine.readable)
    assert running.policies() == before
    assert [one.code for one in running.reports if isinstance(one, messages.Warned)] == ["policy_restored"]


def test_a_place_that_another_program_took_is_ours_again_when_it_leaves(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, NET))
    before = running.policies()
    space.run("ip", "xfrm", "policy", "delete", *OUTWARD)
    space.run("ip", "xfrm", "policy", "add", *OUTWARD, "priority", "5")
    space.inside(running.engine.readable)
    later = policy(2, ("10.1.0.0/16", "10.4.0.0/16", Action.PROTECT))
    assert running.change(later) == [""]  # whose place nobody contests
    assert running.change(2) == [""]
    for _ in range(2):
        running.look()
    space.run("ip", "xfrm", "policy", "delete", *OUTWARD)
    running.look()
    assert running.policies() == before
    told = [one.code for one in running.reports if isinstance(one, messages.Warned)]
    assert told == ["policy_lost", "policy_restored"]


def test_anothers_policy_that_differs_in_its_mark_alone_is_none_of_ours(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, NET))
    for more in (("mark", "7"), ("if_id", "7")):
        template = ("tmpl", "proto", "esp", "mode", "tunnel")
        space.run("ip", "xfrm", "policy", "add", *OUTWARD, *more, *template)
        space.run("ip", "xfrm", "policy", "delete", *OUTWARD, *more)
    space.inside(running.engine.readable)
    assert running.reports == []


def test_after_an_overrun_policies_are_looked_at(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, NET))
    before = running.policies()
    running.engine._events._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    altered = f"xfrm policy update {' '.join(OUTWARD)} priority 5"
    space.ip(*[altered] * 20, "xfrm policy flush")  # of the end nobody hears
    assert running.policies() == []
    space.inside(running.engine.readable)
    assert running.policies() == before


def heard(sock: socket.socket, own: str) -> bool:
    """Of what is sent to itself; an address that is a moment old may not answer yet."""
    with suppress(TimeoutError, PermissionError, ConnectionRefusedError):
        sock.sendto(b"self", (own, 7777))
        return sock.recv(9) == b"self"
    return False


def test_this_machine_may_speak_to_itself(space: Namespace) -> None:
    """The kernel exempts its loopback device for IPv4 alone."""
    space.ip("link set lo up", "addr add fd01::1/64 dev outer nodad")
    running = Running(space, default_discard=True)
    assert running.change(policy(1, ("fd01::/64", "::/0", Action.PROTECT))) == [""]
    space.ip("addr add fd01::2/64 dev outer nodad")
    running.look()
    for own in ("127.0.0.1", "10.1.0.1", "::1", "fd01::1", "fd01::2"):
        with receiver(space, socket.SOCK_DGRAM, own, 7777) as sock:
            assert any(heard(sock, own) for _ in range(20)), own
    space.inside(running.engine.clear)
    assert running.policies() == []


def test_what_we_change_ourselves_is_no_drift(space: Namespace) -> None:
    running = Running(space)
    for _ in range(3):
        assert running.change(policy(1, NET)) == [""]
        assert running.change(1) == [""]
    assert running.change(policy(1, NET)) == [""]
    space.inside(running.engine.readable)
    assert running.change(policy(2, ("10.1.0.0/16", "10.4.0.0/16", Action.PROTECT), priority=1)) == [""]
    assert running.reports == []


def test_anothers_policy_for_the_same_selector_is_a_refusal_and_stays(space: Namespace) -> None:
    space.ip("xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out action block priority 3")
    running = Running(space)
    wanted = policy(2, ("10.1.0.0/16", "10.4.0.0/16", Action.PROTECT), priority=1)
    first, second = running.change(policy(1, NET), wanted)
    assert "another program has a policy for 10.1.0.0/16 to 10.2.0.0/16 (out)" in first
    assert second == ""
    assert {one["selector"].split("dst ")[1] for one in running.policies() if one["dir"] == "out"} == {
        "10.2.0.0/16", "10.4.0.0/16"
    }  # fmt: skip
    assert [one["action"] for one in running.policies() if "10.2" in one["selector"]] == ["block"]


def test_default_discard_closes_everything_but_what_cannot_cross_a_router(space: Namespace) -> None:
    running = Running(space, default_discard=True)
    assert running.change(policy(1, NET)) == [""]
    out = [one for one in running.policies() if one["dir"] == "out"]
    assert [one["selector"] for one in out if one["action"] == "block"] == [
        "src 0.0.0.0/0 dst 0.0.0.0/0", "src ::/0 dst ::/0"
    ]  # fmt: skip
    assert any("dst fe80::/10" in one["selector"] and one["action"] == "allow" for one in out)
    too_big = [one for one in running.policies() if "proto icmp type 3 code 4" in one["selector"]]
    assert {(one["dir"], one["action"]) for one in too_big} == {("in", "allow"), ("out", "allow")}
    through = [one for one in running.policies() if one["dir"] == "fwd" and not one["tmpl"]]
    assert "src 10.1.0.0/16 dst 10.2.0.0/16" in [
        one["selector"] for one in through if one["action"] == "allow"
    ]


def test_a_socket_bound_to_nothing_speaks_as_a_protected_host(space: Namespace) -> None:
    running = Running(space)
    running.change(policy(1, ("10.1.0.0/16", "10.2.9.0/24", Action.BYPASS), NET))
    assert "src 10.1.0.1" in space.run("ip", "route", "get", "10.2.0.5").stdout
    carved = subprocess.run(
        space.argv(["ip", "route", "get", "10.2.9.5"]), capture_output=True, text=True, check=False
    )
    assert "10.1.0.1" not in carved.stdout
    space.inside(running.engine.clear)
    assert space.run("ip", "route", "show", "table", str(0x4379)).stdout == ""


def test_five_thousand_policies_go_in_a_few_system_calls(space: Namespace) -> None:
    running = Running(space)
    many = [
        policy(number, ("10.1.0.0/16", f"10.{2 + number // 250}.{number % 250}.0/24", Action.PROTECT))
        for number in range(1, 5001)
    ]
    assert not any(running.change(*many))
    assert len(running.policies()) == 15_000
    assert running.change(*(one.id for one in many)) == [""] * 5000
    assert running.policies() == []


def test_a_change_of_the_engine_leaves_nothing_of_the_former(space: Namespace) -> None:
    """The fence stands all the while: the new one is up before the old one goes."""
    pair = Pair(Side("192.0.2.1", ("10.1.0.0/16",)), Side("192.0.2.2", ("10.2.0.0/16",)))
    former = Running(space)
    former.change(policy(1, NET))
    former.kill()
    with Plane(space, Options(tun="sun0", engine="portable")) as plane:
        plane.do(pair.policy(True))
        assert shown(space) == []
        assert "table inet cygnet" in space.run("nft", "list", "tables").stdout
    again = Running(space)
    assert again.change(policy(1, NET)) == [""]
    assert "table inet cygnet" not in space.run("nft", "list", "tables").stdout
    assert len(shown(space)) == 3


def test_a_probe_says_what_the_kernel_has(space: Namespace) -> None:
    found = space.inside(probe)
    installed = subprocess.run(space.argv(ESP.split()), capture_output=True, check=False)
    has_esp = installed.returncode == 0
    assert found.usable == has_esp
    assert ("has ESP" in found.text) == has_esp
    assert space.inside(lambda: settle("auto"))[0] in ("native", "portable")
    if not has_esp:
        with pytest.raises(EngineUnavailable, match="engine kernel is not here"):
            space.inside(lambda: settle("kernel"))
    left = space.run("ip", "xfrm", "state").stdout.count("src ")
    assert left == int(has_esp)


@pytest.mark.parametrize("inner", [BOB, BOB6], ids=["4", "6"])
def test_fragments_of_what_is_forwarded_meet_the_rules_of_their_ports(inner: str) -> None:
    with two_gateways() as net:
        net.moon.ip(f"route add 10.2.0.0/16 via {SUN}", f"route add fd02::/64 via {SUN6}")
        net.sun.ip(f"route add 10.1.0.0/16 via {MOON}", f"route add fd01::/64 via {MOON6}")
        running = Running(net.moon)
        nets = ("10.1.0.0/16", "10.2.0.0/16") if ":" not in inner else ("fd01::/64", "fd02::/64")
        big = bytes(4000)

        def seen(port: int, whole: bool) -> bool:
            """Does anything of a large datagram reach the outer link? Fails unless it came as is said."""
            capture = Capture(*net.outer_link, protected=nets)
            with receiver(net.bob, socket.SOCK_DGRAM, inner, port) as there:

                def send() -> None:
                    with socket.socket(there.family, socket.SOCK_DGRAM) as here:
                        here.sendto(big, (inner, port))

                arrived = False
                for _ in range(3):  # neighbours may have to be found first
                    net.alice.inside(send)
                    with suppress(TimeoutError):
                        arrived = there.recv(8000) == big
                    if arrived:
                        break
            assert arrived == whole
            return bool(capture.stop().clear)

        assert seen(7000, whole=True)
        ports = (nets[0] + "[udp]", nets[1] + "[udp/7000]", Action.PROTECT)
        assert running.change(policy(1, ports)) == [""]
        assert not seen(7000, whole=False)
        assert seen(7001, whole=True)
        # A process that starts finds such rules, and lets go only when they are gone for good.
        running.kill()
        again = Running(net.moon)
        assert again.change(policy(2, NET)) == [""]
        assert not seen(7000, whole=False)
        net.moon.inside(lambda: again.engine.sweep((2,), ()))
        assert "table inet cygnet" not in net.moon.run("nft", "list", "tables").stdout


def test_what_puts_fragments_together_comes_back_when_somebody_flushes_it(space: Namespace) -> None:
    running = Running(space)
    assert running.change(policy(1, ("10.1.0.0/16[tcp]", "10.2.0.0/16[tcp/80]", Action.PROTECT))) == [""]
    assert "tproxy" in space.run("nft", "list", "table", "inet", "cygnet").stdout
    space.run("nft", "flush", "ruleset")
    running.engine._refreshed = 0.0
    space.inside(running.engine.tick)
    assert "tproxy" in space.run("nft", "list", "table", "inet", "cygnet").stdout
    assert any("fragments" in one.text for one in running.reports if isinstance(one, messages.Warned))
    assert running.change(1) == [""]
    assert "table inet cygnet" not in space.run("nft", "list", "tables").stdout
