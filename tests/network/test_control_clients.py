"""Other people's clients of the control socket: the `vici` library and the real `swanctl`."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import vici

from cygnet.auth.identity import Identity
from cygnet.auth.issue import issue, make_ca
from cygnet.lab.strongswan import decoded
from cygnet.lab.topology import MOON, MOON_NET, SUN, SUN_NET
from tests.network.gateways import SECRET, Two, two
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]

EVENTS = ["ike-updown", "child-updown", "ike-rekey", "child-rekey", "log"]
CONNECTION: dict[str, Any] = {
    "road": {
        "version": "2",
        "local_addrs": [MOON],
        "remote_addrs": [SUN],
        "local": {"auth": "psk", "id": "moon.example"},
        "remote": {"auth": "psk", "id": "sun.example"},
        "children": {
            "home": {"local_ts": [MOON_NET], "remote_ts": [SUN_NET], "start_action": "trap"},
            "inside": {"local_ts": [MOON_NET], "remote_ts": [MOON_NET], "mode": "pass"},
        },
    }
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two(tmp_path_factory.mktemp("clients")) as made:
        made.ask(made.moon, "unload-conn", name="gw")
        made.ask(made.moon, "clear-creds")
        yield made


class Listener:
    """Events as the `vici` library hears them, on a thread of its own."""

    def __init__(self, pair: Two) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._stack = ExitStack()
        self._session = self._stack.enter_context(pair.moon.session())
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for event, message in self._session.listen(EVENTS):
                self.heard.append((event.decode(), decoded(message)))
        except OSError:
            return  # closed

    def of(self, event: str) -> list[dict[str, Any]]:
        return [message for name, message in self.heard if name == event]

    def close(self) -> None:
        self._session.transport.socket.shutdown(2)
        self._thread.join(10)
        self._stack.close()


def test_a_tunnel_is_loaded_brought_up_rekeyed_and_closed_through_the_vici_library(pair: Two) -> None:
    listener = Listener(pair)
    with pair.moon.session() as session:
        version = decoded(session.version())
        assert version["daemon"] == "cygnet"
        session.load_shared({"id": "ike-1", "type": "IKE", "data": SECRET, "owners": ["sun.example"]})
        assert decoded(session.get_shared()) == {"keys": ["ike-1"]}
        session.load_conn(CONNECTION)
        assert decoded(session.get_conns()) == {"conns": ["road"]}
        (listed,) = [decoded(entry) for entry in session.list_conns()]
        assert listed["road"]["children"]["home"]["local-ts"] == [MOON_NET]
        policies = {name: body for entry in session.list_policies() for name, body in decoded(entry).items()}
        assert policies["road/home"]["mode"] == "TUNNEL"
        assert policies["road/inside"]["mode"] == "PASS"
        lines = [decoded(line) for line in session.initiate({"child": "home", "loglevel": "2"})]
        assert any("IKE_AUTH" in line["msg"] for line in lines)
        (sa,) = [decoded(entry)["road"] for entry in session.list_sas()]
        assert sa["state"] == "ESTABLISHED"
        (child,) = sa["child-sas"].values()
        assert (child["name"], child["state"], child["mode"]) == ("home", "INSTALLED", "TUNNEL")
        assert decoded(session.stats())["ikesas"] == {"total": "1", "half-open": "0"}
        assert int(decoded(session.rekey({"child": "home"}))["matches"]) == 1
        until(lambda: listener.of("child-rekey"), 5, "child-rekey")
        pair.settled()
        assert int(decoded(session.rekey({"ike": "road"}))["matches"]) == 1
        until(lambda: listener.of("ike-rekey"), 5, "ike-rekey")
        list(session.terminate({"ike": "road"}))
        assert list(session.list_sas()) == []
        until(lambda: len(listener.of("ike-updown")) == 2, 5, "down")
        session.unload_conn({"name": "road"})
        session.unload_shared({"id": "ike-1"})
        assert decoded(session.get_conns()) == {"conns": []}
        assert decoded(session.get_shared()) == {"keys": []}
    listener.close()
    up, down = listener.of("ike-updown")
    assert (up["up"], up["road"]["state"]) == ("yes", "ESTABLISHED")
    assert "up" not in down
    child_up, child_down = listener.of("child-updown")
    assert child_up["up"] == "yes"
    assert [body["name"] for body in child_up["road"]["child-sas"].values()] == ["home"]
    assert "up" not in child_down
    (rekeyed,) = listener.of("child-rekey")
    (old_and_new,) = rekeyed["road"]["child-sas"].values()
    assert old_and_new["old"]["spi-in"] != old_and_new["new"]["spi-in"]
    (ike,) = listener.of("ike-rekey")
    assert ike["road"]["old"]["initiator-spi"] != ike["road"]["new"]["initiator-spi"]
    assert any("road" in line["msg"] for line in listener.of("log"))
    assert SECRET not in str(listener.heard)


def test_credentials_pools_and_authorities_come_and_go_through_the_vici_library(pair: Two) -> None:
    now = time.time()
    ca = make_ca("C=CH, O=Test, CN=ca", not_before=now, not_after=now + 86400)
    one = issue(ca, [Identity.parse("moon.example")], not_before=now, not_after=now + 86400)
    with pair.moon.session() as session:
        session.load_cert({"type": "X509", "flag": "CA", "data": ca.certificate})
        session.load_cert({"type": "X509", "flag": "NONE", "data": one.certificate})
        key = decoded(session.load_key({"type": "any", "data": one.key}))["id"]
        assert decoded(session.get_keys()) == {"keys": [key]}
        session.load_authority({"ours": {"cacert": ca.certificate}})
        assert decoded(session.get_authorities()) == {"authorities": ["ours"]}
        session.load_pool({"guests": {"addrs": "10.3.0.0/24", "dns": ["10.3.0.1"]}})
        assert decoded(session.get_pools({}))["guests"]["size"] == "254"
        session.unload_pool({"name": "guests"})
        session.unload_authority({"name": "ours"})
        session.unload_key({"id": key})
        session.clear_creds()
        assert decoded(session.get_pools({})) == {}
        assert decoded(session.get_authorities()) == {"authorities": []}
        assert decoded(session.get_keys()) == {"keys": []}


def test_a_wrong_request_is_refused_in_a_sentence_and_changes_nothing(pair: Two) -> None:
    with pair.moon.session() as session:
        for body, words in (
            ({"road": {**CONNECTION["road"], "remote_adrs": [SUN]}}, "did you mean remote_addrs"),
            ({"road": {**CONNECTION["road"], "proposals": ["aes999"]}}, "aes999"),
            ({"road": {**CONNECTION["road"], "version": "3"}}, "version"),
        ):
            with pytest.raises(vici.exception.CommandException, match=words):
                session.load_conn(body)
        with pytest.raises(vici.exception.CommandException, match="there is no connection nobody"):
            session.unload_conn({"name": "nobody"})
        with pytest.raises(vici.exception.CommandException, match="there is no child nobody"):
            list(session.initiate({"child": "nobody"}))
        assert decoded(session.get_conns()) == {"conns": []}


SWANCTL = shutil.which("swanctl") or shutil.which("swanctl", path="/usr/sbin")
SWANCTL_CONF = f"""
connections {{
  road {{
    local_addrs = {MOON}
    remote_addrs = {SUN}
    local {{
      auth = psk
      id = moon.example
    }}
    remote {{
      auth = psk
      id = sun.example
    }}
    children {{
      home {{
        local_ts = {MOON_NET}
        remote_ts = {SUN_NET}
        start_action = trap
      }}
      inside {{
        local_ts = {MOON_NET}
        remote_ts = {MOON_NET}
        mode = pass
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    id-1 = sun.example
    secret = "{SECRET}"
  }}
}}
pools {{
  guests {{
    addrs = 10.3.0.0/24
  }}
}}
"""


@pytest.mark.skipif(SWANCTL is None, reason="swanctl is not installed: make packages")
def test_the_real_swanctl_says_of_cygnet_what_it_says_of_strongswan(pair: Two, tmp_path: Path) -> None:
    (tmp_path / "swanctl.conf").write_text(SWANCTL_CONF)
    environment = {**os.environ, "SWANCTL_DIR": str(tmp_path)}

    def swanctl(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [str(SWANCTL), *arguments, "--uri", f"unix://{pair.moon.socket}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=environment,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    monitor = subprocess.Popen(
        [str(SWANCTL), "--monitor-sa", "--uri", f"unix://{pair.moon.socket}"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert "successfully loaded 1 connections" in swanctl("--load-all")
        assert "road/inside, PASS" in swanctl("--list-pols")
        assert "home: TUNNEL, rekeying every 3600s" in swanctl("--list-conns")
        assert "10.3.0." in swanctl("--list-pools")
        assert "there is no child nobody" in swanctl("--initiate", "--child", "nobody", status=1)
        assert "initiate completed successfully" in swanctl("--initiate", "--child", "home")
        raw = swanctl("--list-sas", "--raw")
        assert raw.count("{") == raw.count("}")
        assert "state=INSTALLED" in raw
        assert "local  'moon.example' @ 192.0.2.1" in swanctl("--list-sas", "--ike", "road")
        assert "rekey completed successfully" in swanctl("--rekey", "--child", "home")
        pair.settled()
        assert "rekey completed successfully" in swanctl("--rekey", "--ike", "road")
        assert "IKE_SAs: 1 total, 0 half-open" in swanctl("--stats")
        assert "cygnet" in swanctl("--version", "--daemon")
        assert "AES_GCM_16[cygnet]" in swanctl("--list-algs")
        now = time.time()
        ca = make_ca("CN=Lab", not_before=now, not_after=now + 86400)
        with pair.moon.session() as session:
            session.load_authority({"lab": {"cacert": ca.certificate}})
        assert "CN=Lab" in swanctl("--list-authorities")
        assert "CN=Lab" in swanctl("--list-certs")
        pair.ask(pair.moon, "unload-authority", name="lab")
        assert "terminate completed successfully" in swanctl("--terminate", "--ike", "road")
        assert "no matching SA" in swanctl("--terminate", "--ike", "road", status=1)
    finally:
        monitor.terminate()
        told, _ = monitor.communicate(timeout=10)
    assert "road" in told
