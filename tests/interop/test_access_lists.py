"""Access lists of several rules between Cygnet and strongSwan, whose children are what the peer is told.

strongSwan's userspace ESP knows neither ICMP types nor ports of fragments, and takes everything between
the two networks into its TUN: what it does not protect it drops. So what is denied is seen in one
direction only; the rest is tested between two Cygnets (tests/network/test_access_lists.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.lab.topology import ALICE6, BOB6
from tests.interop.sides import Setup, Sides, sides
from tests.network.probes import ICMP, SILENCE, TCP, UDP, Probe, Probes
from tests.waiting import until

LISTS = """
acls {
  office {
    10 = deny   tcp 10.1.0.0/16 10.2.0.0/16 eq 22
    20 = permit tcp 10.1.0.0/16 10.2.0.0/16 range 20 100
    30 = permit udp 10.1.0.0/16 10.2.0.0/16 neq 53
    40 = permit tcp 10.1.0.0/16 gt 60000 10.2.0.0/16
    50 = permit tcp fd01::/64   fd02::/64
  }
}
"""
OFFICE = "office {{ \n acl = office \n sa = {} \n start_action = {} \n esp_proposals = aes256gcm16 \n }}"
SUN_RULES = """
      r20 {
        local_ts = 10.2.0.0/16[tcp/20-21], 10.2.0.0/16[tcp/23-100]
        remote_ts = 10.1.0.0/16[tcp]
        esp_proposals = aes256gcm16
      }
      r30 {
        local_ts = 10.2.0.0/16[udp/0-52], 10.2.0.0/16[udp/54-65535]
        remote_ts = 10.1.0.0/16[udp]
        esp_proposals = aes256gcm16
      }
      r40 {
        local_ts = 10.2.0.0/16[tcp/0-19], 10.2.0.0/16[tcp/101-65535]
        remote_ts = 10.1.0.0/16[tcp/60001-65535]
        esp_proposals = aes256gcm16
      }
      r50 {
        local_ts = fd02::/64[tcp]
        remote_ts = fd01::/64[tcp]
        esp_proposals = aes256gcm16
      }
"""
PERMITTED = [
    Probe(TCP, 20),
    Probe(TCP, 23),
    Probe(TCP, 100),
    Probe(UDP, 52),
    Probe(UDP, 54),
    Probe(TCP, 443, 60001),
    Probe(TCP, 443, source=ALICE6, destination=BOB6),
]
UNHARMED = [
    Probe(TCP, 22),
    Probe(TCP, 101),
    Probe(UDP, 53),
    Probe(ICMP, 13),
    Probe(UDP, 443, source=ALICE6, destination=BOB6),
]


def assert_lists_hold(both: Sides) -> None:
    probes = Probes(both.net)
    try:
        assert probes.send(*PERMITTED) == ["tunnel"] * len(PERMITTED), both.moon.log()[-3000:]
        back = [probe.back() for probe in PERMITTED]
        assert probes.send(*back) == ["tunnel"] * len(back), both.sun.log()[-3000:]
        assert probes.send(*UNHARMED) == ["clear"] * len(UNHARMED)
    finally:
        probes.close()


@pytest.mark.parametrize("by", ["cygnet", "strongswan", "traffic"])
def test_each_rule_has_a_pair_of_its_own_on_one_ike_sa(tmp_path: Path, by: str) -> None:
    action = "trap" if by == "traffic" else "none"
    setup = Setup(moon_children=OFFICE.format("per-rule", action), sun_children=SUN_RULES, moon_extra=LISTS)
    with sides(tmp_path, setup, clear=True) as both:
        if by == "cygnet":
            both.up("cygnet", "office")
        elif by == "strongswan":
            for rule in ("r20", "r30", "r40", "r50"):
                both.up("strongswan", rule)
        else:
            probes = Probes(both.net)
            first = [PERMITTED[0], *PERMITTED[4:]]
            assert probes.send(*first, patience=10) == ["tunnel"] * 4, both.moon.log()[-3000:]
            probes.close()
        until(lambda: len(both.moon.sas()[0]["child-sas"]) == 4, 5, "four pairs")
        (sa,) = both.moon.sas()
        rules = sorted(child["rule"] for child in sa["child-sas"].values())
        assert rules == ["office/20", "office/30", "office/40", "office/50"]
        assert_lists_hold(both)
        assert len(both.moon.sas()) == len(both.sun.sas()) == 1
        # RFC 7296: four messages for the first pair, two for each further one, as strongSwan's log tells.
        log = both.sun.log()
        exchanges = ("IKE_SA_INIT", "IKE_AUTH", "CREATE_CHILD_SA")
        told = [
            sum(
                f"{verb} {exchange} re" in line
                for line in log.splitlines()
                for verb in ("parsed", "generating")
            )
            for exchange in exchanges
        ]
        assert told == [2, 2, 6]


@pytest.mark.parametrize("by", ["cygnet", "strongswan"])
def test_a_whole_list_goes_through_one_pair(tmp_path: Path, by: str) -> None:
    ours = "tcp/0-21", "tcp/23-65535", "udp/0-52", "udp/54-65535"
    all_of_it = f"""
      all {{
        local_ts = {", ".join(f"10.2.0.0/16[{ports}]" for ports in ours)}, fd02::/64[tcp]
        remote_ts = 10.1.0.0/16[tcp], 10.1.0.0/16[udp], fd01::/64[tcp]
        esp_proposals = aes256gcm16
      }}
"""
    setup = Setup(moon_children=OFFICE.format("aggregate", "none"), sun_children=all_of_it, moon_extra=LISTS)
    with sides(tmp_path, setup, clear=True) as both:
        both.up(by, "office" if by == "cygnet" else "all")
        (sa,) = both.moon.sas()
        (child,) = sa["child-sas"].values()
        assert child["rule"] == "office"
        probes = Probes(both.net)
        assert probes.send(*PERMITTED) == ["tunnel"] * len(PERMITTED), both.moon.log()[-3000:]
        assert probes.send(*UNHARMED) == ["clear"] * len(UNHARMED)
        # The peer was told ranges, not pairs: what no rule permits is dropped where the list is.
        (into,) = probes.send(Probe(TCP, 443).back(), patience=SILENCE)
        assert into == "lost"
        child = next(iter(both.moon.sas()[0]["child-sas"].values()))
        assert child["drops-carved_out"] == "1"
        probes.close()
