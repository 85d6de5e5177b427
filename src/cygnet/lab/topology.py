"""The networks that demo, tests and benchmarks use.

    alice 10.1.0.10            moon                          sun             10.2.0.10 bob
          fd01::10  ==== 10.1.0.1  192.0.2.1 ===== 192.0.2.2  10.2.0.1 ====  fd02::10
                         fd01::1   2001:db8::1   2001:db8::2  fd02::1

What passes between 10.1.0.0/16 and 10.2.0.0/16 (fd01::/64 and fd02::/64) is what a tunnel
protects; the link between moon and sun is the outer link, where a capture must never see it.
With `nat`, a router stands between: moon is 10.9.0.2 behind it, sun sees 192.0.2.1.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cygnet.lab.namespaces import Namespace, connect, namespaces

OUTER = "outer"
INNER = "inner"
MOON, SUN = "192.0.2.1", "192.0.2.2"
MOON6, SUN6 = "2001:db8::1", "2001:db8::2"
MOON_BEHIND_NAT = "10.9.0.2"
MOON_NET, SUN_NET = "10.1.0.0/16", "10.2.0.0/16"
MOON_NET6, SUN_NET6 = "fd01::/64", "fd02::/64"
MOON_INNER, SUN_INNER = "10.1.0.1", "10.2.0.1"
MOON_INNER6, SUN_INNER6 = "fd01::1", "fd02::1"
ALICE, BOB = "10.1.0.10", "10.2.0.10"
ALICE6, BOB6 = "fd01::10", "fd02::10"

# Ports are chosen at random, so that the peer never sees 500 and 4500.
MASQUERADE = """
table ip nat {
    chain post {
        type nat hook postrouting priority 100
        oifname "wan" masquerade random
    }
}
"""


@dataclass(frozen=True, slots=True)
class TwoGateways:
    moon: Namespace
    sun: Namespace
    alice: Namespace
    bob: Namespace
    router: Namespace | None

    @property
    def outer_link(self) -> tuple[tuple[Namespace, str], tuple[Namespace, str]]:
        """Its ends, where it is watched."""
        return (self.moon, OUTER), (self.sun, OUTER)

    @property
    def moon_address(self) -> str:
        return MOON_BEHIND_NAT if self.router else MOON


@contextmanager
def two_gateways(nat: bool = False) -> Iterator[TwoGateways]:
    """The network above, up and forwarding, without any IPsec. Raises LabError."""
    names = ("moon", "sun", "alice", "bob", *(("router",) if nat else ()))
    with namespaces(*names) as made:
        moon, sun, alice, bob = made[:4]
        router = made[4] if nat else None
        for gateway, host, inner, inner6, address, address6 in (
            (moon, alice, MOON_INNER, MOON_INNER6, ALICE, ALICE6),
            (sun, bob, SUN_INNER, SUN_INNER6, BOB, BOB6),
        ):
            connect(gateway, INNER, host, "eth0")
            gateway.ip(f"addr add {inner}/16 dev {INNER}", f"addr add {inner6}/64 dev {INNER} nodad")
            host.ip(
                f"addr add {address}/16 dev eth0",
                f"addr add {address6}/64 dev eth0 nodad",
                f"route add default via {inner}",
                f"route add ::/0 via {inner6}",
            )
            gateway.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        if router:
            connect(moon, OUTER, router, "lan")
            connect(router, "wan", sun, OUTER)
            moon.ip(f"addr add {MOON_BEHIND_NAT}/24 dev {OUTER}", "route add default via 10.9.0.1")
            router.ip("addr add 10.9.0.1/24 dev lan", f"addr add {MOON}/24 dev wan")
            router.sysctl(ipv4__ip_forward=1)
            router.run("nft", "-f", "-", stdin=MASQUERADE)
            sun.ip(f"addr add {SUN}/24 dev {OUTER}", f"route add default via {MOON}")
        else:
            connect(moon, OUTER, sun, OUTER)
            moon.ip(
                f"addr add {MOON}/24 dev {OUTER}",
                f"addr add {MOON6}/64 dev {OUTER} nodad",
                f"route add default via {SUN}",
                f"route add ::/0 via {SUN6}",
            )
            sun.ip(
                f"addr add {SUN}/24 dev {OUTER}",
                f"addr add {SUN6}/64 dev {OUTER} nodad",
                f"route add default via {MOON}",
                f"route add ::/0 via {MOON6}",
            )
        yield TwoGateways(moon, sun, alice, bob, router)


def forget_mappings(router: Namespace) -> None:
    """What a NAT that restarts does: it knows no mapping any more, and chooses other ports for what comes."""
    # Netlink: IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK, no attributes: all; request and acknowledgement.
    request = struct.pack("=IHHII", 20, 1 << 8 | 2, 1 | 4, 1, 0) + bytes((socket.AF_INET, 0, 0, 0))
    with router.inside(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)) as netlink:
        netlink.sendto(request, (0, 0))
        answer = netlink.recv(4096)
    error = struct.unpack_from("=i", answer, 16)[0]
    if error:
        raise OSError(-error, "the mappings cannot be forgotten")
