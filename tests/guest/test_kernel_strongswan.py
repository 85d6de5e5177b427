"""Cygnet and strongSwan 5.9, both on the kernel's ESP and AH, in namespaces of the guest; both begin."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cygnet.lab.topology import BOB, MOON, SUN
from tests.guest.extent import EVERYTHING
from tests.interop.sides import Setup, Sides, sides
from tests.waiting import until

pytestmark = [pytest.mark.timeout(480), pytest.mark.interop]

CHILDREN: dict[str, tuple[str, str, str]] = {
    # name: (moon's side, sun's side, what is special)
    "gcm": ("10.1.0.0/16", "10.2.0.10/32", "esp_proposals = aes256gcm16"),
    "esn": ("10.1.0.0/16", "10.2.0.11/32", "esp_proposals = aes128-sha256-x25519-esn\n replay_window = 512"),
    "ah": ("10.1.0.0/16", "10.2.0.12/32", "ah_proposals = sha256"),
    "comp": ("10.1.0.0/16", "10.2.0.13/32", "esp_proposals = chacha20poly1305\n ipcomp = yes"),
    "six": ("fd01::/64", "fd02::10/128", "esp_proposals = aes128ccm16"),
    "hosts": (f"{MOON}/32", f"{SUN}/32", "mode = transport\n esp_proposals = aes128gcm16"),
}
TARGETS = {
    "gcm": BOB, "esn": "10.2.0.11", "ah": "10.2.0.12", "comp": "10.2.0.13", "six": "fd02::10", "hosts": SUN
}  # fmt: skip

CASES = [
    ("gcm", "cygnet"), ("gcm", "strongswan"), ("esn", "strongswan"), ("ah", "cygnet"), ("comp", "strongswan"),
    ("six", "cygnet"), ("hosts", "strongswan"),
]  # fmt: skip
if EVERYTHING:
    CASES = [(name, by) for name in CHILDREN for by in ("cygnet", "strongswan")]


def children(moon: bool) -> str:
    found = []
    for name, (left, right, special) in CHILDREN.items():
        local, remote = (left, right) if moon else (right, left)
        found.append(f"{name} {{\n local_ts = {local}\n remote_ts = {remote}\n {special}\n }}")
    return "\n".join(found)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    setup = Setup(
        kernel=True,
        # Under emulation an answer takes its time: who gives up on it has had the peer forget the old SAs.
        moon_extra="options { engine = kernel\n retransmit_timeout = 4s }",
        options="retransmit_tries = 3\n retransmit_timeout = 4",
        moon_children=children(True),
        sun_children=children(False),
    )
    directory: Path = tmp_path_factory.mktemp("both")
    with sides(directory, setup) as made:
        made.net.bob.ip(*(f"addr add 10.2.0.{last}/16 dev eth0" for last in (11, 12, 13)))
        yield made


@pytest.mark.parametrize(("name", "by"), CASES)
def test_every_kind_of_sa_carries_traffic_whoever_begins(both: Sides, name: str, by: str) -> None:
    both.moon.ask("initiate", name) if by == "cygnet" else both.up(by, name)
    source = both.net.moon if name == "hosts" else both.net.alice
    assert both.ping(source, TARGETS[name]), both.net.moon.run("ip", "-s", "xfrm", "state").stdout
    if name == "comp":  # what shrinks is compressed
        assert both.ping(source, TARGETS[name], "-s", "1200", "-p", "00")
    both.sun.swanctl("--terminate", "--child", name)


def test_a_rekey_by_either_loses_no_packet(both: Sides) -> None:
    both.moon.ask("initiate", "gcm")
    traffic = both.traffic(0.02)
    try:
        assert traffic.wait_for(20, 20)
        for by in ("cygnet", "strongswan"):
            before = spis(both)
            if by == "cygnet":
                both.moon.ask("rekey", "gcm")
            else:
                done = both.sun.swanctl("--rekey", "--child", "gcm")
                assert done.returncode == 0, done.stdout + done.stderr
            until(lambda before=before: spis(both) and not spis(both) & before, 40, "new SPIs")  # type: ignore[misc]
            assert traffic.wait_for(traffic.echoed + 20, 20)
    finally:
        report = traffic.stop()
    assert report.lost == 0, report


def spis(both: Sides) -> set[str]:
    return {
        child["spi-in"]
        for sa in both.moon.sas()
        for child in sa["child-sas"].values()
        if child["name"] == "gcm" and child["state"] == "INSTALLED"
    }


def state_of(both: Sides) -> str:
    """What all three know, for who has to find out why nothing passes."""
    held = both.net.moon.run("ip", "-s", "xfrm", "state").stdout
    return f"{both.moon.log()[-5000:]}\n{both.sun.log()[-5000:]}\n{held}"


@pytest.mark.parametrize("kind", ["dataplane", "daemon"])
def test_traffic_goes_on_while_a_process_is_dead(both: Sides, kind: str) -> None:
    both.moon.ask("initiate", "gcm")
    before = spis(both)
    traffic = both.traffic(0.02)
    try:
        assert traffic.wait_for(10, 20)
        os.kill(both.moon.processes()[kind], signal.SIGKILL)
        assert traffic.wait_for(traffic.echoed + 100, 40), state_of(both)
        until(lambda: kind in both.moon.processes(), 40, f"a new {kind}")
        if kind == "dataplane":
            until(lambda: "is back" in both.moon.log(), 60, both.moon.log()[-6000:])
            assert "went on" in both.moon.log(), both.moon.log()[-6000:]
            assert spis(both) == before
        assert traffic.wait_for(traffic.echoed + 50, 40), state_of(both)
    finally:
        report = traffic.stop()
    assert report.lost == 0, f"{report}\n{state_of(both)}"


def test_without_any_process_the_kernel_holds_sas_and_policies(both: Sides) -> None:
    both.moon.ask("initiate", "gcm")
    both.moon.stop(kill=True)
    assert both.ping(both.net.alice, BOB), state_of(both)
    both.net.moon.run("ip", "xfrm", "state", "flush")
    assert not both.ping(
        both.net.alice, BOB, "-W", "1"
    )  # dropped, not in clear: the capture is judged at the end
