"""Every message of IKE_AUTH with EAP-TLS, TTLS and PEAP: lost, doubled, delayed, reordered, corrupted, cut.

A conversation is made of some twenty messages, in fragments where they are large.
"""

from __future__ import annotations

from typing import Any

import pytest

from cygnet.auth.eap import tls_engine
from cygnet.auth.identity import Identity
from cygnet.config.from_vici import connections
from cygnet.testing import ACTS, Fault, Gateway, Network, assert_agreement
from tests.unit.auth_material import Held, ca, entity, holding, key
from tests.unit.test_security_remote_access import encoded

pytestmark = pytest.mark.skipif(not tls_engine.available(), reason=tls_engine.MISSING)
ROOT = ca()
SERVER = entity(ROOT, "CN=gw.example.org", ["dns:gw.example.org"], holder=key("p256", "gateway"))
USER = entity(ROOT, "CN=carol", ["email:carol@example.org"], holder=key("p256", "carol"))
METHODS = ["eap-tls", "eap-ttls", "eap-peap"]
CAROL = "carol@example.org"


def gateway(network: Network, name: str, address: str, section: dict[str, Any], held: Held) -> Gateway:
    store = holding(held)
    store.add_certificate(ROOT.der, ca=True)
    store.add_shared("eap-carol", "eap", b"Ar3etTnp", (Identity.parse(CAROL),))
    certs = section["local"].pop("certs", [])
    message = encoded({"peer": section})
    if certs:
        message["peer"]["local"]["certs"] = certs
    common = {"proposals": [b"aes256gcm16-prfsha256-x25519"], "dpd_delay": b"60s", "encap": b"no"}
    made = connections({"peer": message["peer"] | common})
    return Gateway(network, name, address, connections=made, credentials=store)


class Pair:
    """`a` is carol, `b` the gateway, which proves itself by certificate first."""

    def __init__(
        self,
        method: str,
        *,
        held: Held = SERVER,
        named: str = "gw.example.org",
        alone: bool = False,
        **remote: Any,
    ) -> None:
        """`held`, `named`: the gateway's certificate, and what it calls itself; `alone`: EAP is all that
        proves it; `remote`: what else carol says of it."""
        kind = method.removesuffix("-pap").removesuffix("-mschapv2")
        self.network = Network(5)
        ours: dict[str, Any] = {"auth": method, "id": CAROL, "eap_id": CAROL}
        if method == "eap-tls":
            ours["certs"] = [USER.der]
        here = {
            "local_addrs": ["192.0.2.1"],
            "remote_addrs": ["192.0.2.2"],
            "local": ours,
            "remote": {"auth": kind if alone else "pubkey", "id": "gw.example.org", **remote},
            "children": {"net": {"local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"]}},
        }
        there = {
            "local_addrs": ["192.0.2.2"],
            "remote_addrs": ["192.0.2.1"],
            "local": {"auth": kind if alone else "pubkey", "id": named, "certs": [held.der]},
            "remote": {"auth": kind, "eap_id": "%any"},
            "children": {"net": {"local_ts": ["10.2.0.0/16"], "remote_ts": ["10.1.0.0/16"]}},
        }
        self.a = gateway(self.network, "a", "192.0.2.1", here, USER)
        self.b = gateway(self.network, "b", "192.0.2.2", there, held)

    def run(self) -> int:
        operation = self.a.initiate("peer", "net")
        self.network.run_for(400.0)
        return operation


def lengths(method: str) -> dict[str, int]:
    """Messages of each side when nothing goes wrong."""
    pair = Pair(method)
    operation = pair.a.initiate("peer", "net")
    pair.network.run_for(2.0)
    assert pair.a.operations[operation] is None, pair.b.failures()
    return {
        side: sum(f.source == getattr(pair, side).address and f.ike_index >= 0 for f in pair.network.trace)
        for side in ("a", "b")
    }


@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize("method", METHODS)
def test_any_single_fault_ends_with_both_sides_agreeing(method: str, act: str) -> None:
    for side, count in lengths(method).items():
        for position in range(1, count):
            pair = Pair(method)
            fault = Fault(getattr(pair, side).address, position, ACTS[act])
            pair.network.meddlers.append(fault)
            operation = pair.run()
            assert fault.hit, (side, position)
            if act != "doubled late":
                assert pair.a.operations[operation] is None, (side, position, pair.b.failures())
            if pair.a.operations[operation] is None:
                assert_agreement(pair.a, pair.b, up=[("peer", "net")])
                assert str(pair.b.sas()[0].remote_eap_id) == CAROL
            else:
                assert not pair.a.sas()
                assert not pair.b.sas()
