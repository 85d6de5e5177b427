"""IKEv1 beside IKEv2: the responder's CPU for a tunnel (main and quick mode; IKE_SA_INIT and IKE_AUTH).

The same daemon, load and account of CPU as in `ike`, PSK, for X25519 and MODP 2048. The Diffie-Hellman
operation itself, a key pair and a secret, is told apart: beyond it IKEv1 is to cost at most 1.3 times IKEv2.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench import ike_responders
from bench.ike_responders import GROUPS
from cygnet.crypto.entropy import SystemEntropy
from cygnet.crypto.key_exchange import generate

WARM_UP = 200
AIM = 1.3


def bare_exchange(group: int, rounds: int = 60) -> float:
    """CPU ms of what a responder computes for one exchange: a key pair and the secret."""
    theirs = generate(group, SystemEntropy()).public
    for _ in range(5):
        generate(group, SystemEntropy()).shared(theirs)
    started = time.process_time()
    for _ in range(rounds):
        generate(group, SystemEntropy()).shared(theirs)
    return (time.process_time() - started) / rounds * 1e3


def per_tunnel(version: int, group: int, tunnels: int, batch: int) -> float:
    """CPU ms of the daemon for a tunnel, the median of batches. Raises LabError, LoadFailed."""
    with ike_responders.cygnet(version=version, group=group) as running:
        running.load.handshakes(WARM_UP)
        cpu = []
        for _ in range(max(1, tunnels // batch)):
            started = running.usage().cpu
            running.load.handshakes(batch)
            cpu.append((running.usage().cpu - started) / batch * 1e3)
        return statistics.median(cpu)


def measure(tunnels: int, batch: int) -> dict[str, Any]:
    """`ikev1_responder_cpu_ms_per_tunnel` (X25519), and all figures by group."""
    groups: dict[str, dict[str, float]] = {}
    for group, name in GROUPS.items():
        bare = bare_exchange(group)
        first, second = (per_tunnel(version, group, tunnels, batch) for version in (1, 2))
        groups[name] = {
            "ikev1_responder_cpu_ms_per_tunnel": round(first, 3),
            "ikev2_responder_cpu_ms_per_tunnel": round(second, 3),
            "bare_exchange_cpu_ms": round(bare, 3),
            "ratio_beyond_exchange": round((first - bare) / (second - bare), 2),
        }
    return {
        "ikev1_responder_cpu_ms_per_tunnel": groups["x25519"]["ikev1_responder_cpu_ms_per_tunnel"],
        "ikev1_beside_ikev2": groups,
    }
