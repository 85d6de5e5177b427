"""The daemon's control socket, read by the independent `vici` library and by swanctl where it is installed.

The endpoint behind it is played: what the commands ask of it and what they make of its answers is tested.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path as FilePath
from types import SimpleNamespace
from typing import Any, cast

import pytest
import vici
from vici.exception import CommandException

from cygnet.auth.credentials import Credentials
from cygnet.auth.identity import Identity
from cygnet.config import from_vici
from cygnet.daemon import commands, loads
from cygnet.daemon.commands import Commands, Server
from cygnet.daemon.control import Control, Refused
from cygnet.daemon.guard import Guard
from cygnet.daemon.log import Severity, line_of
from cygnet.daemon.plane import ANSWER_WITHIN
from cygnet.daemon.process import Daemon
from cygnet.daemon.sources import Sources
from cygnet.dataplane import messages as plane
from cygnet.ike import effects, events
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import Difference, Drop, Failure, Reason
from cygnet.ike.history import Entry
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.ike.world import Instant, Path
from cygnet.policy.selectors import of_range
from tests.unit.auth_material import ca, key

PATH = Path(ip_address("192.0.2.1"), 500, ip_address("192.0.2.2"), 500)
NET_A = of_range(ip_address("10.1.0.0"), ip_address("10.1.255.255"))
NET_B = of_range(ip_address("10.2.0.0"), ip_address("10.2.255.255"))
CHILD = ChildSaView(
    "net", "", 3, 1, "INSTALLED", 1, 50, False, 0xC1, 0xC2, 20, 256, 0, 31, False, (NET_A,), (NET_B,),
    1.0, 2.0, 3.0,
)  # fmt: skip
SA = IkeSaView(
    7, "gw", 2, "ESTABLISHED", True, 0x11, 0x22, PATH, Identity.parse("moon"), Identity.parse("sun"), False,
    False, False, 20, 256, 0, 5, 31, 1.0, 2.0, 3.0, (CHILD, replace(CHILD, name="voice", pair=4)),
)  # fmt: skip
CONN = {
    "gw": {
        "version": "2",
        "local_addrs": ["192.0.2.1"],
        "remote_addrs": ["192.0.2.2"],
        "proposals": ["aes256gcm16-prfsha256-x25519"],
        "local": {"auth": "psk", "id": "moon"},
        "remote": {"auth": "psk", "id": "sun"},
        "children": {"net": {"local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"]}},
    }
}
MISMATCH = Failure(
    Reason.IKE_PROPOSAL_MISMATCH, "no common key exchange", Difference("MODP_2048", "CURVE_25519", "ke")
)


class PlayedEndpoint:
    """`outcome` is how operations end; None with `pending` never."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.up: list[IkeSaView] = []
        self.history: list[Entry] = []
        self.outcome: Failure | None = None
        self.pending = False
        self.meanwhile: list[events.Event] = []
        self._effects: list[effects.Effect] = []
        self._operations = 0

    def load(self, connection: Connection, now: Instant) -> None:
        self.calls.append(("load", connection.name))

    def unload(self, name: str, now: Instant) -> None:
        self.calls.append(("unload", name))

    def sas(self) -> list[IkeSaView]:
        return self.up

    def keyed_by_hand(self) -> list[IkeSaView]:
        return []

    def next_timeout(self) -> None:
        return None

    def effects(self) -> list[effects.Effect]:
        taken, self._effects = self._effects, []
        return taken

    def say(self, event: events.Event) -> None:
        self._effects.append(effects.Emit(event))

    def initiate(self, *arguments: Any) -> int:
        return self._operation("initiate", *arguments)

    def terminate(self, *arguments: Any) -> int:
        return self._operation("terminate", *arguments)

    def reauthenticate(self, *arguments: Any) -> int:
        return self._operation("reauthenticate", *arguments)

    def rekey(self, *arguments: Any) -> int:
        return self._operation("rekey", *arguments)

    def _operation(self, *call: Any) -> int:
        self.calls.append(call[:-1])
        self._operations += 1
        for event in self.meanwhile:
            self.say(event)
        if not self.pending:
            self.say(events.Noted("x", f"operation on {call[1]}", "gw"))
            self.say(events.OperationDone(self._operations, self.outcome))
        return self._operations


class Bench:
    """A daemon with its control socket in a loop on a thread of its own; `session` is an outsider's."""

    def __init__(self, directory: FilePath) -> None:
        self.path = directory / "cygnet.vici"
        self.endpoint = PlayedEndpoint()
        self.loop = asyncio.new_event_loop()
        guard = Guard(lambda *_: None)
        self.daemon = Daemon(self.loop, cast(Any, self.endpoint), [], guard, 1, Sources(0))
        self.control = Control(self.daemon, Credentials(), lambda *_: None)
        self.commands = Commands(self.daemon, self.control)
        self.server = Server(self.path, self.commands.handlers, on_error=guard.escape)
        self.commands.attach(self.server)
        self.guard = guard
        self.plane_hangs = False

    def emit(self, event: events.Event) -> None:
        def say() -> None:
            self.endpoint.say(event)
            self.daemon.flush()

        self.loop.call_soon_threadsafe(say)

    def session(self) -> Any:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(str(self.path))
        return vici.Session(sock)


@pytest.fixture
def bench(tmp_path: FilePath) -> Iterator[Bench]:
    made = Bench(tmp_path)
    stop = asyncio.Event()

    async def serve() -> None:
        await made.server.start()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.daemon.start(ours)
        theirs.setblocking(False)
        made.loop.add_reader(theirs, answer, theirs)
        started.set()
        await stop.wait()
        await made.server.close()
        made.daemon.stop()
        made.daemon.plane.detach()
        made.loop.remove_reader(theirs)
        theirs.close()

    def answer(theirs: socket.socket) -> None:
        command = plane.decode_command(theirs.recv(plane.MAX_MESSAGE))
        if isinstance(command, plane.ReadCounters) and not made.plane_hangs:
            counted = tuple(
                plane.PairCounters(p, 840, 10, 1.0, 84, 1, -1.0, 10, 1, {}) for p in command.pairs
            )
            theirs.send(plane.encode(plane.Counters(command.request, counted, {"replay": 2})))

    import threading

    started = threading.Event()
    thread = threading.Thread(target=made.loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield made
    made.loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    made.loop.close()
    assert made.guard.total == 0


def text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [text(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value


def test_a_connection_is_loaded_listed_and_unloaded(bench: Bench) -> None:
    session = bench.session()
    session.load_conn(CONN)
    assert text(session.get_conns()) == {"conns": ["gw"]}
    (shape,) = [text(entry) for entry in session.list_conns()]
    assert shape["gw"]["children"]["net"]["remote-ts"] == ["10.2.0.0/16"]
    session.unload_conn({"name": "gw"})
    assert text(session.get_conns()) == {"conns": []}
    assert bench.endpoint.calls == [("load", "gw"), ("unload", "gw")]


def test_loading_the_same_again_leaves_the_tunnel_alone(bench: Bench) -> None:
    session = bench.session()
    for _ in range(3):
        session.load_conn(CONN)
    assert bench.endpoint.calls == [("load", "gw")]


def test_what_is_said_in_the_same_words_again_is_not_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def connections(message: Mapping[str, Any]) -> tuple[Connection, ...]:
        read.extend(message)
        return from_vici.connections(message)

    monkeypatch.setattr(loads, "from_vici", SimpleNamespace(connections=connections))
    session = bench.session()
    other = {"gw": {**CONN["gw"], "local_addrs": ["192.0.2.9"]}}
    for message, times in ((CONN, 1), (CONN, 1), (other, 2), (CONN, 3), (CONN, 3)):
        session.load_conn(message)
        assert len(read) == times
    session.unload_conn({"name": "gw"})
    session.load_conn(CONN)
    assert len(read) == 4
    assert bench.endpoint.calls == [("load", "gw")] * 3 + [("unload", "gw"), ("load", "gw")]


def test_a_bad_connection_is_refused_with_key_and_allowed_values_and_the_old_one_stays(bench: Bench) -> None:
    session = bench.session()
    session.load_conn(CONN)
    with pytest.raises(CommandException, match=r"connections\.gw\.local_adrs.*did you mean local_addrs"):
        session.load_conn({"gw": {**CONN["gw"], "local_adrs": "192.0.2.9"}})
    assert bench.endpoint.calls == [("load", "gw")]


def test_secrets_come_and_go_by_name(bench: Bench) -> None:
    session = bench.session()
    session.load_shared({"id": "ike-1", "type": "IKE", "data": "a secret of good length", "owners": ["sun"]})
    assert text(session.get_shared()) == {"keys": ["ike-1"]}
    assert bench.control.credentials.psk(Identity.parse("moon"), Identity.parse("sun")) is not None
    session.unload_shared({"id": "ike-1"})
    assert text(session.get_shared()) == {"keys": []}
    with pytest.raises(CommandException, match="no shared secret ike-1"):
        session.unload_shared({"id": "ike-1"})


def test_clearing_credentials_forgets_them_all(bench: Bench) -> None:
    session = bench.session()
    session.load_shared({"id": "ike-1", "type": "IKE", "data": "a secret of good length"})
    session.clear_creds()
    assert text(session.get_shared()) == {"keys": []}
    assert bench.control.credentials.psk(Identity.parse("moon"), Identity.parse("sun")) is None


def test_pools_and_authorities_are_listed(bench: Bench) -> None:
    session = bench.session()
    session.load_pool({"road": {"addrs": "10.3.0.0/24"}})
    assert text(session.get_pools({}))["road"]["size"] == "254"
    session.unload_pool({"name": "road"})
    assert text(session.get_pools({})) == {}
    assert text(session.get_authorities()) == {"authorities": []}


def test_version_and_stats_say_who_is_there(bench: Bench) -> None:
    session = bench.session()
    bench.endpoint.up = [SA]
    assert text(session.version())["daemon"] == "cygnet"
    assert text(session.stats())["ikesas"] == {"total": "1", "half-open": "0"}


def test_live_sas_are_listed_with_what_they_carried(bench: Bench) -> None:
    bench.endpoint.up = [SA]
    ((name, sa),) = text(next(iter(bench.session().list_sas()))).items()
    assert (name, sa["state"], sa["remote-id"]) == ("gw", "ESTABLISHED", "sun")
    assert set(sa["child-sas"]) == {"net-3", "voice-4"}
    assert sa["child-sas"]["net-3"]["bytes-in"] == "840"
    assert sa["child-sas"]["net-3"]["use-in"] == "1"
    assert "use-out" not in sa["child-sas"]["net-3"]


def test_beside_a_data_plane_that_hangs_the_rest_is_shown_at_once_and_it_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOOK_WITHIN", 0.1)
    bench.endpoint.up, bench.plane_hangs = [SA], True
    session = bench.session()
    began = time.monotonic()
    ((_, sa),) = text(next(iter(session.list_sas()))).items()
    assert "bytes-in" not in sa["child-sas"]["net-3"]
    assert text(session.request("daemon-stats"))["dataplane-silent"].endswith(" s")
    assert time.monotonic() - began < ANSWER_WITHIN - 1


def test_listing_can_be_narrowed_to_a_child(bench: Bench) -> None:
    bench.endpoint.up = [SA]
    (entry,) = [text(entry) for entry in bench.session().list_sas({"child": "voice"})]
    assert set(entry["gw"]["child-sas"]) == {"voice-4"}
    assert list(bench.session().list_sas({"ike": "other"})) == []


def test_initiating_waits_for_the_end_and_the_log_of_it_comes_along(bench: Bench) -> None:
    session = bench.session()
    session.load_conn(CONN)
    lines = [text(entry)["msg"] for entry in session.initiate({"child": "net"})]
    assert lines == ["operation on gw"]
    assert bench.endpoint.calls[-1] == ("initiate", "gw", "net")


def test_who_waits_hears_nothing_of_what_strangers_try(bench: Bench) -> None:
    session = bench.session()
    session.load_conn(CONN)
    bench.endpoint.meanwhile = [
        events.NegotiationFailed("", "", False, PATH, "203.0.113.9", MISMATCH),
        events.NegotiationFailed("other", "", False, PATH, "203.0.113.9", MISMATCH),
    ]
    assert [text(entry)["msg"] for entry in session.initiate({"child": "net"})] == ["operation on gw"]


def test_a_failed_initiation_says_why_with_both_offers(bench: Bench) -> None:
    session = bench.session()
    session.load_conn(CONN)
    bench.endpoint.outcome = MISMATCH
    with pytest.raises(CommandException, match="ike-proposal-mismatch: no common key exchange"):
        list(session.initiate({"child": "net"}))


def test_an_initiation_with_a_timeout_answers_in_time_and_one_without_waiting_at_once(bench: Bench) -> None:
    session = bench.session()
    session.load_conn(CONN)
    bench.endpoint.pending = True
    with pytest.raises(CommandException, match="not done after 50 ms"):
        list(session.initiate({"child": "net", "timeout": "50"}))
    assert list(session.initiate({"child": "net", "timeout": "-1"})) == []


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"child": "nett"}, "there is no child nett"),
        ({"ike": "branch"}, "there is no connection branch"),
        ({"ike": "gw", "child": "nett"}, "connection gw has no child nett"),
        ({}, "missing configuration name"),
        ({"child": "net", "timeout": "soon"}, "whole number"),
    ],
)
def test_what_cannot_be_initiated_is_refused_in_a_sentence(
    bench: Bench, message: dict[str, str], why: str
) -> None:
    session = bench.session()
    session.load_conn(CONN)
    with pytest.raises(CommandException, match=why):
        list(session.initiate(message))


def test_terminating_a_child_leaves_its_siblings(bench: Bench) -> None:
    bench.endpoint.up = [SA]
    list(bench.session().terminate({"child": "net"}))
    assert bench.endpoint.calls == [("terminate", 7, 3, False)]


def test_terminating_an_ike_sa_takes_the_whole(bench: Bench) -> None:
    bench.endpoint.up = [SA]
    list(bench.session().terminate({"ike": "gw", "force": "yes"}))
    assert bench.endpoint.calls == [("terminate", 7, 0, True)]


def test_terminating_by_name_leaves_what_strangers_have_half_open(bench: Bench) -> None:
    stranger = replace(SA, unique_id=8, initiator=False, state="CONNECTING", children=())
    bench.endpoint.up = [SA, stranger, replace(stranger, unique_id=9, initiator=True)]
    list(bench.session().terminate({"ike": "gw"}))
    assert [call[1] for call in bench.endpoint.calls if call[0] == "terminate"] == [7, 9]
    list(bench.session().terminate({"ike-id": "8"}))
    assert bench.endpoint.calls[-1][1] == 8


def test_terminating_what_is_not_up_fails(bench: Bench) -> None:
    with pytest.raises(CommandException, match="no matching SA"):
        list(bench.session().terminate({"ike": "gw"}))


def test_rekeying_names_how_many_it_found(bench: Bench) -> None:
    bench.endpoint.up = [SA]
    assert text(bench.session().rekey({"child-id": "4"}))["matches"] == "1"
    assert bench.endpoint.calls == [("rekey", 7, 4)]


def test_authenticating_anew_is_for_ike_sas(bench: Bench) -> None:
    bench.endpoint.up = [SA]
    assert text(bench.session().rekey({"ike": "gw", "reauth": "yes"}))["matches"] == "1"
    assert bench.endpoint.calls == [("reauthenticate", 7)]
    with pytest.raises(CommandException, match="reauth: is for an IKE SA"):
        bench.session().rekey({"child-id": "4", "reauth": "yes"})


def collect(bench: Bench, names: list[str], count: int, cause: Callable[[], None]) -> list[tuple[str, Any]]:
    session = bench.session()
    stream = session.listen(names)
    heard = []
    cause_once = [cause]
    # The generator registers when it is first advanced; a marker event makes sure that it has.
    import threading

    def act() -> None:
        while not all(bench.server.listening(name) for name in names):
            pass
        cause_once[0]()

    thread = threading.Thread(target=act)
    thread.start()
    for name, event in stream:
        heard.append((name if isinstance(name, str) else name.decode(), text(event)))
        if len(heard) == count:
            break
    thread.join()
    return heard


def test_what_happens_is_heard_as_events(bench: Bench) -> None:
    def cause() -> None:
        bench.emit(events.IkeSaUp(SA))
        bench.emit(events.ChildSaUp(SA, CHILD))
        bench.emit(events.ChildSaRekeyed(SA, CHILD, replace(CHILD, pair=9)))
        bench.emit(events.IkeSaRekeyed(SA, replace(SA, unique_id=8)))
        bench.emit(events.NegotiationFailed("gw", "net", True, PATH, "sun", MISMATCH))
        bench.emit(events.Dropped(Drop.INTEGRITY, "", PATH, 7))
        bench.emit(events.IkeSaDown(SA, Failure(Reason.PEER_DEAD, "")))

    names = ["ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-failure", "ike-drop"]
    heard = collect(bench, names, 7, cause)
    assert [name for name, _ in heard] == [
        "ike-updown", "child-updown", "child-rekey", "ike-rekey", "ike-failure", "ike-drop", "ike-updown",
    ]  # fmt: skip
    assert heard[0][1]["up"] == "yes"
    assert heard[4][1]["ours"] == "MODP_2048"
    assert heard[5][1]["drop"] == "integrity"
    assert "up" not in heard[6][1]
    assert heard[6][1]["reason"] == "peer-dead"


def test_the_log_is_an_event_too(bench: Bench) -> None:
    heard = collect(bench, ["log"], 1, lambda: bench.emit(events.IkeSaUp(SA)))
    assert heard[0][1]["group"] == "IKE"
    assert heard[0][1]["ikesa-uniqueid"] == "7"
    assert heard[0][1]["msg"].startswith("IKE_SA gw[7] established")


def test_failures_of_the_past_can_be_asked_for(bench: Bench) -> None:
    bench.endpoint.history = [
        Entry(1000.0, "gw", "net", True, "sun", MISMATCH),
        Entry(1001.0, "other", "", False, "203.0.113.9", MISMATCH),
    ]
    session = bench.session()
    found = [text(one) for one in session.streamed_request("list-failures", "ike-failure", {"ike": "gw"})]
    assert [(one["ike"], one["reason"], one["theirs"]) for one in found] == [
        ("gw", "ike-proposal-mismatch", "CURVE_25519")
    ]


def test_the_daemons_own_counters_can_be_asked_for(bench: Bench) -> None:
    bench.emit(events.Dropped(Drop.INTEGRITY, "", PATH, 7))
    answer = text(bench.session().request("daemon-stats"))
    assert answer["drops"] == {"integrity": "1"}
    assert answer["dataplane-drops"] == {"replay": "2"}
    assert answer["dataplane-silent"] == ""
    assert "p99" in answer["lag-ms"]


def test_certificates_that_end_soon_are_told_once_a_stage_and_stand_in_the_status(bench: Bench) -> None:
    now = datetime.now(UTC)
    root = ca("CN=Old CA", start=now - timedelta(days=400), end=now + timedelta(days=5, hours=1))
    other = ca("CN=New CA", holder=key("p256", "new"), start=now, end=now + timedelta(days=400))
    session = bench.session()
    for one in (root, other):
        session.load_cert({"type": "X509", "flag": "CA", "data": one.der})
    said = text(session.request("daemon-stats"))["expiring"]
    assert said == ["the CA certificate CN=Old CA expires in 5 days"]
    heard: list[events.Event] = []
    bench.daemon.listeners.append(heard.append)
    for _ in range(2):
        bench.daemon.look_at_certificates(now.timestamp())
    (event,) = [one for one in heard if isinstance(one, events.CertificateExpires)]
    assert (event.ca, event.text) == (True, said[0])
    line = line_of(event)
    assert line is not None
    assert (line.severity, line.code, line.text) == (Severity.WARNING, "certificate-expires", said[0])


def test_a_whole_configuration_with_one_fault_changes_nothing(bench: Bench) -> None:
    good = [
        ("load-shared", {"id": "ike-1", "type": "IKE", "data": b"a secret of good length"}),
        ("load-conn", CONN),
    ]

    def on_loop(commands: list[Any]) -> str:
        async def apply() -> str:
            try:
                await bench.control.apply(commands)
            except Refused as refused:
                return str(refused)
            return ""

        return asyncio.run_coroutine_threadsafe(apply(), bench.loop).result(10)

    assert on_loop(good) == ""
    bad = {"gw": {**CONN["gw"], "version": "7"}}
    assert "version" in on_loop(
        [("load-shared", {"id": "x", "type": "IKE", "data": b"other"}), ("load-conn", bad)]
    )
    assert list(bench.control.shared) == ["ike-1"]
    assert on_loop(good) == ""
    assert bench.endpoint.calls == [("load", "gw")]
    assert on_loop([]) == ""
    assert bench.control.shared == {}
    assert bench.endpoint.calls[-1] == ("unload", "gw")


SWANCTL = shutil.which("swanctl") or shutil.which("swanctl", path="/usr/sbin")


@pytest.mark.skipif(SWANCTL is None, reason="swanctl is not installed")
def test_swanctl_loads_lists_initiates_and_terminates(bench: Bench, tmp_path: FilePath) -> None:
    (tmp_path / "swanctl.conf").write_text(
        """
        connections { gw {
          local_addrs = 192.0.2.1
          remote_addrs = 192.0.2.2
          proposals = aes256gcm16-prfsha256-x25519
          local { auth = psk
                  id = moon }
          remote { auth = psk
                   id = sun }
          children { net { local_ts = 10.1.0.0/16
                           remote_ts = 10.2.0.0/16 } }
        } }
        secrets { ike-1 { id-1 = sun
                          secret = "a secret of good length" } }
        pools { road { addrs = 10.3.0.0/24 } }
        """
    )

    def swanctl(*arguments: str) -> str:
        done = subprocess.run(
            [cast(str, SWANCTL), *arguments, "--uri", f"unix://{bench.path}"],
            capture_output=True, text=True, timeout=20, check=False,
            env={"SWANCTL_DIR": str(tmp_path), "PATH": "/usr/bin:/usr/sbin"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "successfully loaded 1 connections" in swanctl(
        "--load-all", "--file", str(tmp_path / "swanctl.conf")
    )
    bench.endpoint.up = [SA]
    assert "gw: IKEv2" in swanctl("--list-conns")
    listed = swanctl("--list-sas")
    assert "gw: #7, ESTABLISHED, IKEv2" in listed
    assert "net: #3" in listed
    assert "840 bytes,    10 packets" in listed
    assert "road" in swanctl("--list-pools")
    assert "IKE_SAs: 1 total, 0 half-open" in swanctl("--stats")
    assert "cygnet" in swanctl("--version", "--daemon")
    assert "initiate completed successfully" in swanctl("--initiate", "--child", "net")
    assert "terminate completed successfully" in swanctl("--terminate", "--ike", "gw")
    assert "rekey completed successfully" in swanctl("--rekey", "--child", "net")
    swanctl("--list-pols")
