"""What happens when a gateway dies, restarts, or is told something new, between two Cygnets under traffic."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.lab.topology import ALICE6, BOB6, MOON_NET6, SUN_NET6
from tests.network.gateways import NET, NET_AT_SUN, Ladder, configuration, two
from tests.network.probes import SILENCE, UDP, Probe, Probes
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(90)]

TRAP = 'start_action = "trap"\ndpd_action = "restart"\n'


def test_a_peer_that_is_killed_is_noticed_and_the_tunnel_returns_with_it(tmp_path: Path) -> None:
    with two(tmp_path, NET + TRAP, NET_AT_SUN, connection='dpd_delay = "1s"') as pair:
        traffic = pair.traffic(interval=0.01)
        assert traffic.wait_for(20, 10)
        pair.sun.stop(kill=True)
        until(lambda: "peer-dead" in pair.moon.cygnet("status").stdout, 20, "the peer's death")
        before = traffic.echoed
        pair.sun.start()
        # By itself: what alice sends is still to be protected.
        assert traffic.wait_for(before + 20, 20), pair.logs()
        traffic.stop()
        for side in pair.both():
            assert len(side.sas()) == 1


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_gateway_that_comes_back_replaces_what_its_peer_still_has(tmp_path: Path, kill: bool) -> None:
    with two(tmp_path, NET, NET_AT_SUN + 'start_action = "start"\n') as pair:
        until(lambda: pair.children(), 10, "a tunnel from the start")
        old = pair.spis()
        traffic = pair.traffic(interval=0.01)
        assert traffic.wait_for(20, 10)
        pair.sun.stop(kill=kill)
        if not kill:
            until(lambda: not pair.moon.sas(), 5, "the goodbye")
        before = traffic.echoed
        pair.sun.start()
        assert traffic.wait_for(before + 20, 20), pair.logs()
        traffic.stop()
        until(lambda: len(pair.moon.sas()) == 1, 5, "one IKE SA")
        assert not old & pair.spis()
        assert "peer-dead" not in pair.moon.cygnet("status").stdout


def both_families(esp: str = "aes256gcm16", six: bool = True) -> str:
    text = NET + 'start_action = "trap"\n'
    if six:
        text += f"""
[connections.gw.children.net6]
local_ts = "{MOON_NET6}"
remote_ts = "{SUN_NET6}"
esp_proposals = "{esp}"
start_action = "trap"
"""
    return text


def test_reloading_changes_what_has_changed_and_nothing_else(tmp_path: Path) -> None:
    sun = (
        NET_AT_SUN
        + f"""
[connections.gw.children.net6]
local_ts = "{SUN_NET6}"
remote_ts = "{MOON_NET6}"
esp_proposals = "aes256gcm16, chacha20poly1305"
"""
    )
    with two(tmp_path, both_families(), sun, clear=True) as pair:
        probes = Probes(pair.net)
        six = Probe(UDP, 7, source=ALICE6, destination=BOB6)
        pair.up()
        traffic = pair.traffic()
        assert traffic.wait_for(50, 10)
        ladder = Ladder(pair.moon)

        def spis(name: str) -> set[str]:
            return {child["spi-in"] for child in pair.children(name=name)}

        def reload(text: str) -> str:
            pair.moon.configure(text)
            done = pair.moon.cygnet("reload", str(pair.moon.file))
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        net, net6 = spis("net"), spis("net6")
        # Nothing new: nothing is said to the peer.
        reload(configuration(pair.net, "moon", both_families()) + "\n# only a comment is new\n")
        assert (spis("net"), spis("net6")) == (net, net6)
        assert ladder.told() == []
        # Wrong: the command says what, and nothing changes.
        pair.moon.configure(configuration(pair.net, "moon", both_families("aes256gcm17")))
        done = pair.moon.cygnet("reload", str(pair.moon.file))
        assert done.returncode == 1
        assert "aes256gcm17" in done.stderr
        assert "cygnet.toml:" in done.stderr
        assert "Traceback" not in done.stderr
        assert (spis("net"), spis("net6")) == (net, net6)
        assert ladder.told() == []
        # One child has another cipher: it alone is made anew.
        reload(configuration(pair.net, "moon", both_families("chacha20poly1305")))
        until(lambda: not net6 & spis("net6"), 5, "the old pair's end")
        assert probes.send(six, patience=5) == ["tunnel"]
        (child,) = pair.children(name="net6")
        assert child["encr-alg"] == "CHACHA20_POLY1305"
        assert spis("net") == net
        # And is gone, with its policy: its traffic is nobody's business any more.
        reload(configuration(pair.net, "moon", both_families(six=False)))
        until(lambda: not pair.children(pair.sun, "net6"), 5, "sun's pair")
        assert spis("net6") == set()
        # At sun it is still protected, and refused in clear.
        until(lambda: probes.send(six, patience=SILENCE) == ["leaked"], 5, "the policy's end")
        assert "net6" not in pair.moon.cygnet("status").stdout
        assert spis("net") == net
        report = traffic.stop()
        assert (report.lost, report.duplicated) == (0, 0), report
        probes.close()
        ladder.close()


def test_a_connection_whose_secret_or_peer_has_changed_is_set_up_anew(tmp_path: Path) -> None:
    with two(tmp_path, NET + TRAP) as pair:
        pair.up("net")
        (old,) = pair.moon.sas()
        ladder = Ladder(pair.moon)
        for gateway, side, children in ((pair.sun, "sun", NET_AT_SUN), (pair.moon, "moon", NET + TRAP)):
            gateway.configure(configuration(pair.net, side, children, connection='rekey_time = "1h"'))
            assert gateway.cygnet("reload", str(gateway.file)).returncode == 0
        traffic = pair.traffic()
        assert traffic.wait_for(50, 10), pair.logs()
        traffic.stop()
        until(lambda: len(pair.moon.sas()) == 1, 5, "one IKE SA")
        (new,) = pair.moon.sas()
        assert new["initiator-spi"] != old["initiator-spi"]
        down = [told for told in ladder.of("ike-updown") if "up" not in told]
        assert down[0]["reason"] in ("configuration-changed", "peer-closed")
        ladder.close()


def test_unloading_the_last_policy_leaves_traffic_alone(tmp_path: Path) -> None:
    with two(tmp_path, NET + TRAP, NET_AT_SUN, clear=True) as pair:
        probes = Probes(pair.net)
        assert probes.send(Probe(UDP, 7), patience=5) == ["tunnel"]
        pair.ask(pair.moon, "terminate", ike="gw")
        assert pair.children() == []
        until(lambda: not pair.sun.sas(), 5, "sun's side")
        # The policy outlives its SAs.
        pair.sun.stop()
        assert probes.send(Probe(UDP, 7), patience=SILENCE) == ["lost"]
        pair.ask(pair.moon, "unload-conn", name="gw")
        # Sun's kernel still refuses it.
        until(lambda: probes.send(Probe(UDP, 7), patience=SILENCE) == ["leaked"], 5, "the policy's end")
        probes.close()
