"""Every ESP transform that strongSwan has in userspace (kernel-libipsec, in UDP), on one pair of daemons.

A child each, told apart by its UDP port, and one for ICMP; a packet each way says that both mean the same by
it. The matrix of IKE's own algorithms, of who begins and of families is `test_tunnel`'s.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.lab.topology import MOON_NET, SUN_NET
from cygnet.vici.client import Client
from tests.interop.sides import Setup, sides
from tests.network.probes import ICMP, UDP, Probe, Probes

ESP = (
    *(f"aes{bits}{mode}" for bits in (128, 192, 256) for mode in ("gcm8", "gcm12", "gcm16")),
    *(f"aes{bits}{mode}" for bits in (128, 192, 256) for mode in ("ccm8", "ccm12", "ccm16")),
    "chacha20poly1305",
    *(f"aes{bits}-sha256" for bits in (128, 192, 256)),
    *(f"aes{bits}ctr-sha256" for bits in (128, 192, 256)),
    *(f"camellia{bits}-sha256" for bits in (128, 192, 256)),
    "3des-sha1",
    *(f"aes128-{mac}" for mac in ("md5", "sha1", "sha384", "sha512", "aesxcbc", "aescmac")),
    "null-sha256",
)  # fmt: skip
"""All that `ipsec_esp` of 5.9.8 makes: it has no AES-GMAC, no implicit IVs, no extended numbers."""
FIRST_PORT = 7100


def child(number: int, esp: str, ours: str, theirs: str) -> str:
    port = FIRST_PORT + number
    return f"""
      n{number} {{
        local_ts = {ours}[udp/{port}]
        remote_ts = {theirs}[udp/{port}]
        esp_proposals = {esp}
      }}"""


def icmp(ours: str, theirs: str) -> str:
    return f"""
      icmp {{
        local_ts = {ours}[icmp]
        remote_ts = {theirs}[icmp]
        esp_proposals = aes256gcm16
      }}"""


@pytest.mark.timeout(120)
def test_both_mean_the_same_by_every_transform(tmp_path: Path) -> None:
    sections = [
        icmp(*ends) + "".join(child(number, esp, *ends) for number, esp in enumerate(ESP))
        for ends in ((MOON_NET, SUN_NET), (SUN_NET, MOON_NET))
    ]
    with sides(tmp_path, Setup(moon_children=sections[0], sun_children=sections[1])) as both:
        with Client.connect(both.moon.socket) as client:
            # First: ICMP is what answers datagrams that nobody listens for.
            client.request("initiate", {"child": "icmp"}, timeout=20)
            for number, esp in enumerate(ESP):
                # By turns, so that each has chosen and been chosen.
                if number % 2:
                    client.request("initiate", {"child": f"n{number}"}, timeout=20)
                else:
                    said = both.sun.swanctl("--initiate", "--child", f"n{number}", "--timeout", "20")
                    assert said.returncode == 0, (esp, said.stdout, both.moon.log()[-3000:])
        probes = Probes(both.net)
        there = [Probe(UDP, FIRST_PORT + number, FIRST_PORT + number) for number in range(len(ESP))]
        there.append(Probe(ICMP, 13))
        sent = probes.send(*there, *[probe.back() for probe in there], patience=20)
        probes.close()
        ways = [*ESP, "icmp", *(f"{esp} back" for esp in ESP), "icmp back"]
        assert dict(zip(ways, sent, strict=True)) == dict.fromkeys(ways, "tunnel")
