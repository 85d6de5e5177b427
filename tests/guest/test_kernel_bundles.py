"""AH around ESP, negotiated by two Cygnets: moon on the guest's kernel, sun on the portable engine outside.

Only with CYGNET_GUEST=all: what the kernel makes of a bundle is tried by hand-made commands
(test_transforms), and the negotiation on the network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cygnet.lab.gateway import Gateway
from cygnet.lab.topology import ALICE, ALICE6, BOB, BOB6, MOON, MOON_NET, MOON_NET6, SUN, SUN_NET, SUN_NET6
from tests.guest.extent import EVERYTHING
from tests.guest.moon import echoed, moon_and_alice
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not EVERYTHING, reason="repeats ways that others go: CYGNET_GUEST=all"),
]

Host = Callable[..., Any]
NETWORKS = f"{MOON_NET}, {MOON_NET6}", f"{SUN_NET}, {SUN_NET6}"


def configuration(version: int, moon: bool) -> str:
    ends, names, nets = (MOON, SUN), ("moon.example", "sun.example"), NETWORKS
    if version == 1:  # its quick mode carries one network a side
        nets = MOON_NET, SUN_NET
    if not moon:
        ends, names, nets = ends[::-1], names[::-1], nets[::-1]
    return f"""
connections {{
  gw {{
    version = {version}
    local_addrs = {ends[0]}
    remote_addrs = {ends[1]}
    proposals = aes256-sha256-modp2048
    local {{
      auth = psk
      id = {names[0]}
    }}
    remote {{
      auth = psk
      id = {names[1]}
    }}
    children {{
      net {{
        local_ts = {nets[0]}
        remote_ts = {nets[1]}
        bundle = yes
        esp_proposals = aes128-sha256
        ah_proposals = sha256
      }}
    }}
  }}
}}
secrets {{
  ike-peer {{
    secret = "a shared secret of thirty octets"
  }}
}}
options {{
  engine = {"kernel" if moon else "portable"}
  retransmit_timeout = 4s
}}
"""


@pytest.mark.parametrize("version", [1, 2])
def test_a_bundle_stands_in_the_kernel_and_after_a_rekey_there_is_one(host: Host, version: int) -> None:
    with moon_and_alice() as (moon, alice), TemporaryDirectory(dir="/var/tmp") as directory:
        host("tests.guest.gateway:start", configuration(version, False))
        gateway = Gateway(moon, Path(directory), configuration(version, True), "swanctl.conf")
        try:
            done = gateway.cygnet("up", "net", timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr + gateway.log()[-3000:]
            for families in ((ALICE, BOB), (ALICE6, BOB6))[:version]:
                echoed(alice, *families)
            states = moon.run("ip", "xfrm", "state").stdout
            assert (states.count("proto ah"), states.count("proto esp")) == (2, 2)
            (before,) = host("tests.guest.gateway:children", "net")
            done = gateway.cygnet("rekey", "net", timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr

            def one_of_each() -> bool:
                states = moon.run("ip", "xfrm", "state").stdout
                return (states.count("proto ah"), states.count("proto esp")) == (2, 2)

            def others() -> bool:
                found = host("tests.guest.gateway:children", "net")
                return len(found) == 1 and all(found[0][k] != before[k] for k in ("spi-in", "ah-spi-in"))

            until(others, 60, "new SPIs of both")
            until(one_of_each, 60, "the old ones are gone")
            echoed(alice, ALICE, BOB)
            (after,) = host("tests.guest.gateway:children", "net")
            assert not [key for key in after if key.startswith("drops-")], after
        finally:
            gateway.stop()
            host("tests.guest.gateway:stop")
