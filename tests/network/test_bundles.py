"""AH around ESP, negotiated by two Cygnets, on the wire."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.lab.topology import BOB
from tests.network.gateways import NET, NET_AT_SUN, two
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]

BUNDLE = 'bundle = true\nesp_proposals = "aes256gcm16-x25519"\nah_proposals = "sha256-x25519-esn"\n'


@pytest.mark.parametrize("version", [1, 2])
def test_every_packet_wears_both_before_and_after_a_rekey(tmp_path: Path, version: int) -> None:
    words, proposals = BUNDLE, "aes256gcm16-prfsha384-x25519"
    if version == 1:
        words, proposals = BUNDLE.replace("-x25519", "").replace("-esn", ""), "aes256-sha256-modp2048"
    with two(
        tmp_path, NET + words + 'start_action = "trap"\n', NET_AT_SUN + words,
        connection=f"version = {version}\n", proposals=proposals,
    ) as pair:  # fmt: skip
        alice = pair.net.alice
        # The first packet asks for both, and waits until the ESP inside is there.
        first = alice.run("ping", "-c1", "-W20", BOB, check=False)
        assert first.returncode == 0, first.stdout + pair.logs()

        def echoed() -> bool:
            return alice.run("ping", "-c1", "-W1", BOB, check=False).returncode == 0

        until(echoed, 20, pair.logs())
        (before,) = pair.children()
        assert before["protocol"] == "ESP"
        assert before["ah-integ-alg"] == "HMAC_SHA2_256_128"
        assert before["ah-spi-in"] == pair.children(pair.sun)[0]["ah-spi-out"]
        pair.rekey("net")
        until(lambda: pair.spis() != {before["spi-in"]}, 20, "the new bundle")
        until(echoed, 20, pair.logs())
        (after,) = pair.children()
        assert after["ah-spi-in"] != before["ah-spi-in"]
        seen = pair.capture.stop()
        assert seen.clear == []
        assert seen.frames["ah"] >= 4
        assert not seen.frames["esp"], "ESP without its AH"
        pair.ask(pair.sun, "terminate", child="net")
        until(lambda: not pair.children() and not pair.children(pair.sun), 20, "both are gone")
