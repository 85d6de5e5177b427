"""Two Cygnets, moon and sun, from a few words of configuration; and the daemon's events as a ladder.

    with two(directory, MOON_TOML, SUN_TOML) as pair:
        pair.up("net")

Every `[connections.gw.children.*]` section and access list is written out by the test; what all need is
here. Nothing is shared between two pairs but the machine: namespaces are anonymous, files in `directory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cygnet.lab.capture import Capture
from cygnet.lab.gateway import Gateway
from cygnet.lab.topology import (
    ALICE,
    BOB,
    MOON_NET,
    MOON_NET6,
    SUN,
    SUN_NET,
    SUN_NET6,
    TwoGateways,
    two_gateways,
)
from cygnet.lab.traffic import Traffic
from cygnet.vici.client import Client, Refused
from cygnet.vici.codec import texts
from tests.userspace import USERSPACE
from tests.waiting import until

SECRET = "a-secret-that-must-not-be-seen-0123456789"
PROTECTED = (MOON_NET, SUN_NET, MOON_NET6, SUN_NET6)
NET = f'[connections.gw.children.net]\nlocal_ts = "{MOON_NET}"\nremote_ts = "{SUN_NET}"\n'
NET_AT_SUN = f'[connections.gw.children.net]\nlocal_ts = "{SUN_NET}"\nremote_ts = "{MOON_NET}"\n'

CONFIGURATION = """
[connections.gw]
local_addrs = "{here}"
remote_addrs = "{there}"
proposals = "{proposals}"
local = {{ auth = "psk", id = "{me}" }}
remote = {{ auth = "psk", id = "{peer}" }}
{connection}
{children}
[secrets.ike-1]
secret = "{secret}"
[options]
engine = "{engine}"
retransmit_timeout = "0.5s"
retransmit_tries = 3
{options}
"""


def configuration(
    net: TwoGateways,
    side: str,
    children: str = "",
    *,
    connection: str = "",
    options: str = "",
    proposals: str = "aes256gcm16-prfsha384-x25519",
) -> str:
    """cygnet.toml of `moon` or `sun`. `children`: sections as this side sees them."""
    moon = side == "moon"
    here, there = (net.moon_address, SUN) if moon else (SUN, "%any" if net.router else net.moon_address)
    return CONFIGURATION.format(
        here=here,
        there=there,
        me=f"{side}.example",
        peer="sun.example" if moon else "moon.example",
        secret=SECRET,
        proposals=proposals,
        connection=connection,
        children=children or (NET if moon else NET_AT_SUN),
        options=options,
        engine=USERSPACE,
    )


class Ladder:
    """What a daemon tells of its messages and SAs while this is open, in order."""

    EVENTS = (
        "ike-message",
        "ike-updown",
        "child-updown",
        "ike-rekey",
        "child-rekey",
        "ike-failure",
        "ike-drop",
    )

    def __init__(self, gateway: Gateway) -> None:
        self._client = Client.connect(gateway.socket)
        self._client.register(*self.EVENTS)
        self._told: list[tuple[str, dict[str, Any]]] = []

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """All events so far: the daemon answers in order, so that none is on its way any more."""
        self._client.request(
            "version", on_event=lambda name, content: self._told.append((name, dict(texts(content))))
        )
        while self._client.pending():
            found = self._client.next_event(0)
            if found is not None:
                self._told.append((found[0], dict(texts(found[1]))))
        return self._told

    def messages(self, repeats: bool = False) -> list[str]:
        """`sent IKE_AUTH request`, one for each message; retransmissions only if asked for."""
        return [
            f"{message['direction']} {message['exchange']} "
            f"{'response' if message['response'] == 'yes' else 'request'}"
            for event, message in self.told()
            if event == "ike-message" and (repeats or message["repeat"] != "yes")
        ]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [message for name, message in self.told() if name == event]

    def close(self) -> None:
        self._client.close()


@dataclass
class Two:
    """Both gateways, up; the outer link is watched."""

    net: TwoGateways
    moon: Gateway
    sun: Gateway
    capture: Capture

    def both(self) -> tuple[Gateway, Gateway]:
        return self.moon, self.sun

    def ask(self, side: Gateway, command: str, **message: str) -> Mapping[str, Any]:
        """A command of the control socket; its answer as text. Raises Refused."""
        with Client.connect(side.socket) as client:
            return dict(texts(client.request(command, message, timeout=60)))

    def up(self, child: str = "", side: Gateway | None = None) -> None:
        """Bring up a child, or all of the connection."""
        message = {"ike": "gw", **({"child": child} if child else {})}
        try:
            self.ask(side or self.moon, "initiate", **message)
        except Refused as error:
            raise AssertionError(f"{error}\n{self.logs()}") from error
        # In IKEv1 the other end has its pair one message later.
        other = self.sun if side in (None, self.moon) else self.moon
        until(lambda: self.children(other, child), 10, "the other end's Child SA")

    def rekey(self, what: str, side: Gateway | None = None) -> None:
        """Rekey `ike`, or a child by its name, and wait for it."""
        message = {"ike": "gw"} if what == "ike" else {"child": what}
        if what == "ike":
            self.settled()
        self.ask(side or self.moon, "rekey", wait="yes", **message)

    def settled(self) -> None:
        """Wait until the IKE SA stands for more than a second: sooner the peer refuses to replace it."""
        until(lambda: all(int(sa["established"]) >= 2 for sa in self.moon.sas()), 5, "an IKE SA of some age")

    def children(self, side: Gateway | None = None, name: str = "") -> list[dict[str, Any]]:
        """The installed Child SAs of a side."""
        return [
            child
            for sa in (side or self.moon).sas()
            for child in sa["child-sas"].values()
            if child["state"] == "INSTALLED" and name in ("", child["name"])
        ]

    def spis(self, side: Gateway | None = None) -> set[str]:
        return {child["spi-in"] for child in self.children(side)}

    def drops(self, side: Gateway) -> dict[str, int]:
        """Packets that the data plane dropped, by reason."""
        found = self.ask(side, "daemon-stats")["dataplane-drops"]
        return {reason: int(count) for reason, count in found.items()}

    def traffic(self, interval: float = 0.004, port: int = 7007) -> Traffic:
        return Traffic(self.net.alice, ALICE, self.net.bob, BOB, interval, port=port)

    def logs(self) -> str:
        return f"moon:\n{self.moon.log()[-3000:]}\nsun:\n{self.sun.log()[-3000:]}"


@contextmanager
def two(
    directory: Path,
    moon: str = "",
    sun: str = "",
    *,
    nat: bool = False,
    clear: bool = False,
    markers: tuple[bytes, ...] = (),
    **both: str,
) -> Iterator[Two]:
    """Both gateways up. `moon` and `sun` are sections (see `configuration`), `both` its further arguments.

    At the end nothing protected may have been seen outside, unless `clear` says that the test expects it.
    """
    with ExitStack() as stack:
        net = stack.enter_context(two_gateways(nat=nat))
        capture = Capture(*net.outer_link, protected=PROTECTED, markers=(SECRET.encode(), *markers))
        stack.callback(capture.stop)
        gateways = [
            Gateway(space, directory / side, configuration(net, side, children, **both), start=False)
            for side, space, children in (("moon", net.moon, moon), ("sun", net.sun, sun))
        ]
        for gateway in gateways:
            stack.callback(gateway.stop)
            gateway.start(wait=False)
        for gateway in gateways:
            gateway.wait_until_ready()
        moon_gateway, sun_gateway = gateways
        yield Two(net, moon_gateway, sun_gateway, capture)
        seen = capture.stop()
        assert clear or not seen.clear, f"in clear on the outer link: {seen.clear[0].hex()}"
