"""The virtual network: gateways that negotiate for real, in virtual time, with faults, from a seed.

What this is for: testing a configuration without touching a machine, and testing Cygnet itself.

    from cygnet.testing import Gateway, Network, Packet, assert_agreement

    network = Network(seed=1)
    a = Gateway(network, "a", "192.0.2.1", open("a/cygnet.toml").read())
    b = Gateway(network, "b", "192.0.2.2", open("b/cygnet.toml").read())
    operation = a.initiate("branch", "net")
    network.run_for(10)
    assert a.operations[operation] is None, a.operations[operation]
    assert a.send(Packet(6, ip("10.1.0.5"), ip("10.2.0.5"), 40000, 443)) == "sent"
    assert_agreement(a, b)

`Pair` and `Mesh` are ready-made; `Fault` and `When` do something to a chosen message; `Conditions`
and `Nat` are about the way between; `corpus` holds valid messages to mutate.
"""

from cygnet.testing.configurations import connection_text
from cygnet.testing.dataplane import DataPlane
from cygnet.testing.faults import ACTS, Fault, When, exchange_is
from cygnet.testing.gateway import Gateway
from cygnet.testing.network import Conditions, Flight, Livelock, Nat, Network, Packet
from cygnet.testing.oracle import Disagreement, assert_agreement, assert_nothing_left, disagreements
from cygnet.testing.pairs import Mesh, Pair

__all__ = [
    "ACTS",
    "Conditions",
    "DataPlane",
    "Disagreement",
    "Fault",
    "Flight",
    "Gateway",
    "Livelock",
    "Mesh",
    "Nat",
    "Network",
    "Packet",
    "Pair",
    "When",
    "assert_agreement",
    "assert_nothing_left",
    "connection_text",
    "disagreements",
    "exchange_is",
]
