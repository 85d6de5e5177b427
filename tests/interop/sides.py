"""Cygnet on moon, strongSwan on sun, both configured in swanctl.conf's syntax from one description.

Where the test asks for it they change places: then `Sides.moon` is Cygnet on sun all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cygnet.lab.capture import Capture, Seen
from cygnet.lab.gateway import Gateway
from cygnet.lab.namespaces import Namespace
from cygnet.lab.strongswan import StrongSwan
from cygnet.lab.topology import (
    ALICE,
    ALICE6,
    BOB,
    BOB6,
    MOON6,
    MOON_NET,
    MOON_NET6,
    SUN,
    SUN6,
    SUN_NET,
    SUN_NET6,
    TwoGateways,
    two_gateways,
)
from cygnet.lab.traffic import Report, Traffic
from tests.userspace import USERSPACE
from tests.waiting import until

SECRET = "a shared secret of thirty octets"
# Six seconds until a peer counts as unreachable, on both sides (see Setup.options).
CYGNET_OPTIONS = f"options {{ engine = {USERSPACE}\n retransmit_timeout = 0.5s\n retransmit_tries = 3 }}"
MOON_ID, SUN_ID = "moon.example", "sun.example"


@dataclass(frozen=True)
class Setup:
    """What both sides are configured with; `moon` and `sun` are further lines for one side's sections.

    `moon_children` and `sun_children` stand in place of the child `net`.
    """

    ike: str = "aes256gcm16-prfsha384-x25519"
    esp: str = "aes256gcm16"
    auth: str = "psk"
    outer6: bool = False
    inner6: bool = False
    connection: str = ""
    child: str = ""
    moon_ts: str = ""
    sun_ts: str = ""
    moon_ts_at_sun: str = ""
    moon_connection: str = ""
    sun_connection: str = ""
    moon_children: str = ""
    sun_children: str = ""
    moon_child: str = ""
    sun_child: str = ""
    moon_extra: str = ""
    sun_extra: str = ""
    moon_id: str = MOON_ID
    sun_id: str = SUN_ID
    moon_expects: str = ""
    sun_expects: str = ""
    moon_secret: str = SECRET
    sun_secret: str = SECRET
    moon_cert: str = "moon.pem"
    sun_cert: str = "sun.pem"
    moon_ike: str = ""
    sun_ike: str = ""
    moon_esp: str = ""
    sun_esp: str = ""
    # The contents of the sections, instead of auth, id and certs.
    moon_local: str = ""
    moon_remote: str = ""
    sun_local: str = ""
    sun_remote: str = ""
    moon_version: int = 2
    sun_version: int = 2
    options: str = "retransmit_tries = 3\n retransmit_timeout = 0.5"
    # strongSwan on the kernel's ESP, which not every machine has.
    kernel: bool = False

    def but(self, **changes: object) -> Setup:
        return replace(self, **changes)  # type: ignore[arg-type]


def swanctl_conf(setup: Setup, side: str, net: TwoGateways, cygnet: str = "moon") -> str:
    """swanctl.conf for `moon` or `sun`; `cygnet` is the side where Cygnet is."""
    moon = side == "moon"
    addresses = (MOON6, SUN6) if setup.outer6 else (net.moon_address, SUN)
    nets = (MOON_NET6, SUN_NET6) if setup.inner6 else (MOON_NET, SUN_NET)
    local_ts, remote_ts = setup.moon_ts or nets[0], setup.sun_ts or nets[1]
    ids = (setup.moon_id, setup.sun_id)
    if not moon:
        local_ts, remote_ts, ids, addresses = remote_ts, local_ts, ids[::-1], addresses[::-1]
        remote_ts = setup.moon_ts_at_sun or remote_ts
    remote_addrs = addresses[1]
    if net.router and not moon:
        remote_addrs = "%any"
    local_addrs = addresses[0]
    expects = (setup.moon_expects if moon else setup.sun_expects) or ids[1]
    certificate = f"certs = {setup.moon_cert if moon else setup.sun_cert}" if setup.auth == "pubkey" else ""
    secrets = (
        f'secrets {{ ike-peer {{ secret = "{setup.moon_secret if moon else setup.sun_secret}" }} }}'
        if setup.auth == "psk"
        else ""
    )
    children = (
        (setup.moon_children if moon else setup.sun_children)
        or f"""
      net {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = {(setup.moon_esp if moon else setup.sun_esp) or setup.esp}
        {setup.child}
        {setup.moon_child if moon else setup.sun_child}
      }}"""
    )
    own = (setup.moon_local if moon else setup.sun_local) or (
        f'auth = {setup.auth}\n id = "{ids[0]}"\n {certificate}'
    )
    peers = (setup.moon_remote if moon else setup.sun_remote) or f'auth = {setup.auth}\n id = "{expects}"'
    # Several rounds come with sections of their own.
    own = own if "{" in own else f"local {{\n {own}\n }}"
    peers = peers if "{" in peers else f"remote {{\n {peers}\n }}"
    return f"""
connections {{
  peer {{
    version = {setup.moon_version if moon else setup.sun_version}
    local_addrs = {local_addrs}
    remote_addrs = {remote_addrs}
    proposals = {(setup.moon_ike if moon else setup.sun_ike) or setup.ike}
    {setup.connection}
    {setup.moon_connection if moon else setup.sun_connection}
    {own}
    {peers}
    children {{
      {children}
    }}
  }}
}}
{secrets}
{CYGNET_OPTIONS if side == cygnet else ""}
{setup.moon_extra if moon else setup.sun_extra}
"""


def drops(host: Namespace) -> str:
    """What the kernel dropped there: UDP's counters, and each link's."""
    counters = host.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = [line.split()[1:] for line in counters if line.startswith("Udp:")]
    udp = [f"{n} {v}" for n, v in zip(names, values, strict=True) if n.endswith(("Errors", "NoPorts"))]
    links = [
        f"{link['ifname']} rx {link['stats64']['rx']['dropped']} tx {link['stats64']['tx']['dropped']}"
        for link in json.loads(host.run("ip", "-s", "-j", "link").stdout)
    ]
    return f"UDP {', '.join(udp)}; dropped by links: {', '.join(links)}"


def _installed(sas: list[dict[str, Any]]) -> bool:
    return any(child["state"] == "INSTALLED" for sa in sas for child in sa["child-sas"].values())


@dataclass
class Sides:
    """The two gateways, up, and a capture on the outer link that is judged at the end."""

    net: TwoGateways
    setup: Setup
    moon: Gateway
    sun: StrongSwan
    capture: Capture
    seen: Seen = field(default_factory=Seen)

    def up(self, by: str, child: str = "net") -> None:
        """Bring the child up from `cygnet` or `strongswan`; fails with what the command said."""
        if by == "cygnet":
            done = self.moon.cygnet("up", child)
        else:
            done = self.sun.swanctl("--initiate", "--child", child, "--timeout", "20")
        assert done.returncode == 0, done.stdout + done.stderr + self.moon.log()[-3000:]
        # In IKEv1 the other end has its pair one message later.
        until(lambda: _installed(self.moon.sas()) and _installed(self.sun.sas()), 10, "both ends' Child SA")

    def hosts(self) -> tuple[str, str]:
        return (ALICE6, BOB6) if self.setup.inner6 else (ALICE, BOB)

    def traffic(self, interval: float = 0.005) -> Traffic:
        alice, bob = self.hosts()
        return Traffic(self.net.alice, alice, self.net.bob, bob, interval)

    def assert_lossless(self, report: Report) -> None:
        """Not a packet was lost; and if one was, where: `RcvbufErrors` at sun are strongSwan's own, whose
        socket was full (the lab gives it room for seconds), everything else is for us to explain."""
        if report.lost:
            raise AssertionError(f"{report}\nmoon: {drops(self.net.moon)}\nsun: {drops(self.net.sun)}")

    def assert_traffic_passes(self, packets: int = 20) -> None:
        traffic = self.traffic()
        try:
            passed = traffic.wait_for(packets, 10)
        finally:
            report = traffic.stop()
        assert passed, f"{report}\n{self.moon.log()[-3000:]}"

    def ping(self, source: Namespace, target: str, *options: str) -> bool:
        done = source.run("ping", "-c", "3", "-i", "0.2", "-W", "2", *options, target, check=False)
        return done.returncode == 0


@contextmanager
def sides(
    directory: Path,
    setup: Setup,
    nat: bool = False,
    prepare: object = None,
    clear: bool = False,
    cygnet: str = "moon",
) -> Iterator[Sides]:
    """Cygnet and strongSwan up with `setup`. At the end nothing may have been seen in clear, unless `clear`
    says that the test expects it."""
    with ExitStack() as stack:
        net = stack.enter_context(two_gateways(nat=nat))
        protected = (MOON_NET, SUN_NET, MOON_NET6, SUN_NET6)
        capture = Capture(*net.outer_link, protected=protected, pcap=directory / "outer.pcap")
        if callable(prepare):
            prepare(directory)
        ours, theirs = ("moon", "sun") if cygnet == "moon" else ("sun", "moon")
        spaces = {"moon": net.moon, "sun": net.sun}
        configured = swanctl_conf(setup, ours, net, cygnet)
        moon = Gateway(spaces[ours], directory / ours, configured, name="swanctl.conf", start=False)
        stack.callback(moon.stop)
        moon.start(wait=False)
        configured = swanctl_conf(setup, theirs, net, cygnet)
        sun = StrongSwan(spaces[theirs], directory / theirs, configured, setup.options, kernel=setup.kernel)
        stack.callback(sun.stop)
        moon.wait_until_ready()
        both = Sides(net, setup, moon, sun, capture)
        try:
            yield both
        finally:
            both.seen = capture.stop()
        assert clear or not both.seen.clear, (
            f"in clear on the outer link: {[f.hex() for f in both.seen.clear[:3]]}"
        )
