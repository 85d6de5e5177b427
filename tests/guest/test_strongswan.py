"""Cygnet and its portable engine against strongSwan with the guest kernel's ESP, AH and IPComp, both roles.

strongSwan is moon, in the guest; Cygnet is sun, outside. There is a child for each case, told apart by the
UDP port that moon's side of it protects.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cygnet.lab.namespaces import Namespace
from cygnet.lab.strongswan import StrongSwan
from cygnet.lab.topology import (
    ALICE,
    ALICE6,
    BOB,
    BOB6,
    MOON,
    MOON6,
    MOON_NET,
    MOON_NET6,
    SUN,
    SUN6,
    SUN_NET,
    SUN_NET6,
)
from tests.guest.extent import EVERYTHING
from tests.guest.moon import moon_and_alice
from tests.guest.peer import ECHO_PORT

pytestmark = pytest.mark.timeout(300)
Host = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A tunnel of this inner version, 0: transport mode. `words`: further lines for both sides' child."""

    name: str
    outer: int
    inner: int
    words: str

    @property
    def port(self) -> int:
        return 7100 + CASES.index(self)

    def child(self, moon: bool) -> str:
        nets = {0: ("dynamic", "dynamic"), 4: (MOON_NET, SUN_NET), 6: (MOON_NET6, SUN_NET6)}[self.inner]
        sides = [f"{nets[0]}[udp/{self.port}]", f"{nets[1]}[udp/{ECHO_PORT}]"]
        here, there = sides if moon else sides[::-1]
        return f"""
      {self.name} {{
        local_ts = {here}
        remote_ts = {there}
        mode = {"tunnel" if self.inner else "transport"}
        rekey_time = 0
        {self.words}
      }}"""


def esp(keywords: str) -> str:
    return f"esp_proposals = {keywords}"


def ah(keywords: str) -> str:
    return f"ah_proposals = {keywords}"


CASES = [
    Case("transport4", 4, 0, esp("aes128gcm16")),
    Case("transport4-esn", 4, 0, esp("aes256gcm16-esn")),
    Case("transport6", 6, 0, esp("aes128-sha256")),
    Case("transport4-ipcomp", 4, 0, esp("aes128gcm16") + "\n ipcomp = yes"),
    Case("ah4-transport", 4, 0, ah("sha256")),
    Case("ah4-transport-esn", 4, 0, ah("sha384-esn")),
    Case("ah6-transport", 6, 0, ah("sha1")),
    Case("ah6-transport-sha256", 6, 0, ah("sha256-esn")),
    Case("ah4-tunnel", 4, 4, ah("sha512")),
    Case("ah6-tunnel4", 6, 4, ah("aesxcbc")),
    Case("tunnel4-in-4", 4, 4, esp("aes256gcm16-esn")),
    Case("tunnel6-in-4", 4, 6, esp("aes128ccm16")),
    Case("tunnel4-in-6", 6, 4, esp("chacha20poly1305-esn")),
    Case("tunnel6-in-6", 6, 6, esp("aes256ctr-sha256")),
    Case("tunnel4-ipcomp", 4, 4, esp("aes128gcm16") + "\n ipcomp = yes"),
    Case("gmac", 4, 4, esp("aes128gmac")),
    Case("camellia", 4, 4, esp("camellia256-sha512")),
    Case("triple-des", 4, 4, esp("3des-sha1")),
    Case("null", 4, 4, esp("null-sha256")),
    Case("xcbc", 4, 4, esp("aes128-aesxcbc")),
    Case("cmac", 4, 4, esp("aes128-aescmac")),
    Case("md5", 4, 4, esp("aes128-md5")),
    Case("ccm8", 4, 4, esp("aes256ccm8")),
    Case("gcm12", 4, 4, esp("aes256gcm12")),
]
ELSEWHERE = {"camellia", "triple-des", "cmac", "md5", "ccm8", "gcm12"}
"""Ciphers that test_transforms tries with the same kernel."""
CASES = [case for case in CASES if EVERYTHING or case.name not in ELSEWHERE]


TYPES = "[icmp/13(0)]", "[icmp/14(0)]"
"""Timestamp and its reply: where others have ports the kernel's policies have type and code, and take type 0,
an echo's reply, for any."""


def of_types(moon: bool) -> str:
    """A child of some ICMP types between the networks. strongSwan has numbers: type * 256 + code."""
    here, there = (MOON_NET, SUN_NET) if moon else (SUN_NET, MOON_NET)
    types = ("[icmp/3328]", "[icmp/3584]") if moon else TYPES
    sides = [",".join(network + kind for kind in types) for network in (here, there)]
    return f"""
      types {{
        local_ts = {sides[0]}
        remote_ts = {sides[1]}
        esp_proposals = aes128gcm16
        rekey_time = 0
      }}"""


def configuration(side: str) -> str:
    moon = side == "moon"
    sections = []
    for version, ends in ((4, (MOON, SUN)), (6, (MOON6, SUN6))):
        here, there = ends if moon else ends[::-1]
        ids = ("moon.example", "sun.example") if moon else ("sun.example", "moon.example")
        children = "".join(case.child(moon) for case in CASES if case.outer == version)
        children += of_types(moon) if version == 4 else ""
        sections.append(f"""
  peer{version} {{
    version = 2
    local_addrs = {here}
    remote_addrs = {there}
    proposals = aes256gcm16-prfsha384-x25519
    encap = no
    local {{
      auth = psk
      id = {ids[0]}
    }}
    remote {{
      auth = psk
      id = {ids[1]}
    }}
    children {{{children}
    }}
  }}""")
    return f"""
connections {{{"".join(sections)}
}}
secrets {{
  ike-peer {{
    secret = "a shared secret of thirty octets"
  }}
}}
"""


@dataclass
class Sides:
    moon: Namespace
    alice: Namespace
    strongswan: StrongSwan
    host: Host


@pytest.fixture(scope="module")
def sides(request: pytest.FixtureRequest) -> Iterator[Sides]:
    host: Host = request.getfixturevalue("host")
    with ExitStack() as stack:
        moon, alice = stack.enter_context(moon_and_alice())
        host("tests.guest.gateway:start", configuration("sun"))
        stack.callback(host, "tests.guest.gateway:stop")
        # Not under /run, of which strongSwan gets one of its own.
        directory = Path(stack.enter_context(TemporaryDirectory(dir="/var/tmp")))
        strongswan = StrongSwan(moon, directory, configuration("moon"), kernel=True)
        stack.callback(strongswan.stop)
        yield Sides(moon, alice, strongswan, host)


def echo(sides: Sides, case: Case) -> None:
    """Datagrams of several sizes there and back. Between the hosts themselves the last comes in fragments;
    those that the kernel forwards show no ports, and its policy would not know them."""
    space = sides.alice if case.inner else sides.moon
    ends = {
        (4, 0): (MOON, SUN), (6, 0): (MOON6, SUN6),
        (4, 4): (ALICE, BOB), (6, 4): (ALICE, BOB), (4, 6): (ALICE6, BOB6), (6, 6): (ALICE6, BOB6),
    }[case.outer, case.inner]  # fmt: skip

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in ends[0] else socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(2.0)
        made.bind((ends[0], case.port))
        return made

    with space.inside(bound) as sock:
        for data in (
            b"small",
            b"compressible " * 80,
            random.Random(1).randbytes(1200 if case.inner else 3000),
        ):
            for _ in range(10):  # the first one may find no neighbour yet
                try:
                    sock.sendto(data, (ends[1], ECHO_PORT))
                    answer = sock.recv(1 << 16)
                    break
                except OSError:
                    answer = b""
            assert answer == data


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kernels_ipsec_and_ours_understand_each_other(sides: Sides, case: Case) -> None:
    by = ("cygnet", "strongswan")[CASES.index(case) % 2]  # a guest is slow: each begins every other one
    if by == "cygnet":
        said = sides.host("tests.guest.gateway:up", case.name)
        assert said == "", said + sides.strongswan.log()[-1500:]
    else:
        done = sides.strongswan.swanctl("--initiate", "--child", case.name, "--timeout", "30")
        assert done.returncode == 0, done.stdout + done.stderr
    try:
        echo(sides, case)
        (ours,) = sides.host("tests.guest.gateway:children", case.name)
        (theirs,) = [
            child for sa in sides.strongswan.sas() for child in sa["child-sas"].values()
            if child["name"] == case.name and child["state"] == "INSTALLED"
        ]  # fmt: skip
        assert int(theirs["packets-in"]) >= 3
        assert int(ours["packets-in"]) >= 3
        assert theirs["mode"] == ours["mode"] == ("TUNNEL" if case.inner else "TRANSPORT")
        assert theirs["protocol"] == ours["protocol"] == ("AH" if "ah_" in case.words else "ESP")
        assert theirs.get("esn") == ours.get("esn") == ("1" if "-esn" in case.words else None)
        assert ("cpi-in" in theirs) is ("ipcomp" in case.words)
        assert "encap" not in theirs
        assert not [key for key in ours if key.startswith("drops-")], ours
    finally:
        sides.strongswan.swanctl("--terminate", "--child", case.name)


def test_icmp_types_select_what_is_protected(sides: Sides) -> None:
    """Timestamps take the tunnel there and back; an echo is none of it."""
    said = sides.host("tests.guest.gateway:up", "types")
    assert said == "", said + sides.strongswan.log()[-1500:]
    try:
        sock = sides.alice.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        sock.settimeout(2.0)
        with sock:
            # Type 13, code 0, checksum, identifier 7, number 1, three times of nothing (RFC 792).
            asked = (
                bytes((13, 0))
                + (0xFFFF - 0x0D00 - 7 - 1).to_bytes(2, "big")
                + bytes((0, 7, 0, 1))
                + bytes(12)
            )
            types = []
            for _ in range(10):  # the first one may find no neighbour yet
                sock.sendto(asked, (BOB, 0))
                with contextlib.suppress(TimeoutError):
                    types.append(sock.recv(1500)[20])
                    break
        assert types == [14]
        (ours,) = sides.host("tests.guest.gateway:children", "types")
        before = int(ours["packets-in"]), int(ours["packets-out"])
        assert min(before) >= 1
        sides.alice.run("ping", "-c", "1", "-W", "1", BOB, check=False)
        (ours,) = sides.host("tests.guest.gateway:children", "types")
        assert (int(ours["packets-in"]), int(ours["packets-out"])) == before
    finally:
        sides.strongswan.swanctl("--terminate", "--child", "types")
