"""The command `cygnet` against a played daemon: what it says, and with which exit status it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cygnet.cli.main import app
from cygnet.cli.status import duration, size
from cygnet.config.load import load
from cygnet.daemon.reader import fingerprint_of
from cygnet.ike import events
from cygnet.vici import shapes
from cygnet.vici.codec import Message, Outgoing, texts
from cygnet.vici.server import CommandFailed, Handler, Request, ViciServer
from tests.unit.config_files import PSK, loaded, write
from tests.unit.test_cli_ladder import INITIAL
from tests.unit.test_vici_shapes import FAILURE, NOW, PATH, SA

TWO = (
    PSK
    + """
[connections.spare]
remote_addrs = ["192.0.2.3"]
local = { auth = "psk" }
remote = { auth = "psk" }
children.net = { start_action = "trap" }
children.voice = { local_ts = ["10.1.0.0/16"], remote_ts = ["10.3.0.0/16"] }
children.lan = { local_ts = ["10.1.0.0/16"], remote_ts = ["10.1.0.0/16"], mode = "pass" }
"""
)


@dataclass
class Played:
    """A daemon that answers what it was given, and remembers what it was asked."""

    path: Path
    conns: list[Outgoing] = field(default_factory=list)
    sas: list[Outgoing] = field(default_factory=list)
    failures: list[Outgoing] = field(default_factory=list)
    asked: list[tuple[str, Message]] = field(default_factory=list)
    refusal: CommandFailed | None = None
    waits: bool = False
    answers: dict[str, Outgoing] = field(default_factory=dict)
    server: ViciServer | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def handlers(self) -> dict[str, Handler]:
        streams = {
            "list-conns": ("list-conn", "conns"), "list-sas": ("list-sa", "sas"),
            "list-failures": ("ike-failure", "failures"),
        }  # fmt: skip

        def handler(name: str) -> Handler:
            async def do(request: Request) -> Outgoing:
                message = texts(request.message)
                if name in streams:
                    event, entries = streams[name]
                    for entry in getattr(self, entries):
                        if message.get("ike", "") in ("", *entry):
                            await request.stream(event, entry)
                    return {}
                self.asked.append((name, message))
                if name in ("initiate", "terminate", "rekey"):
                    await request.stream("control-log", {"msg": f"working on {name}"})
                    if self.waits:
                        await asyncio.Event().wait()
                    if self.refusal is not None:
                        raise self.refusal
                if name in self.answers:
                    return self.answers[name]
                return {"success": "yes", "matches": "1"}

            return do

        names = (
            "initiate", "terminate", "rekey", "load-conn", "unload-conn", "get-conns", "load-shared",
            "unload-shared", "get-shared", "load-key", "unload-key", "get-keys", "load-cert", "get-certs",
            "unload-cert", "get-pools", "load-pool", "unload-pool", "get-authorities", "load-authority",
            "unload-authority", "daemon-stats", *streams,
        )  # fmt: skip
        return {name: handler(name) for name in names}

    def raise_event(self, name: str, message: Outgoing) -> None:
        assert self.server is not None
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.server.raise_event, name, message)

    def listened(self, event: str) -> None:
        assert self.server is not None
        for _ in range(500):
            if self.server.listening(event):
                return
            threading.Event().wait(0.02)
        raise AssertionError(f"nobody listens to {event}")


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    made = Played(tmp_path / "vici")
    made.conns = [shapes.list_conn(connection) for connection in loaded(tmp_path, TWO).connections]
    made.loop = asyncio.new_event_loop()
    stop, started = asyncio.Event(), threading.Event()

    async def serve() -> None:
        made.server = ViciServer(made.path, made.handlers())
        await made.server.start()
        started.set()
        await stop.wait()
        await made.server.close()

    thread = threading.Thread(target=made.loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield made
    made.loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    made.loop.close()


def cygnet(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "NO_COLOR": "1"})


# -- without a daemon ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["up net", "down net", "rekey net", "status", "trace"])
def test_without_a_daemon_there_is_one_sentence_and_status_3(tmp_path: Path, command: str) -> None:
    done = cygnet(*command.split(), "--socket", str(tmp_path / "none"))
    assert done.exit_code == 3
    assert "no Cygnet is running here" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_without_permission_there_is_one_sentence_and_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    done = cygnet("status", "--socket", str(tmp_path / "vici"))
    assert (done.exit_code, "you may not use" in done.stderr) == (3, True)


def test_wrong_usage_is_status_2() -> None:
    assert cygnet("frobnicate").exit_code == 2
    assert cygnet("up", "--timeout", "-4", "net").exit_code == 2
    assert cygnet("run", "--log-level", "shout").exit_code == 2


COMMANDS = [(), *((name,) for name in ["run", "check", "reload", "up", "down", "rekey", "status", "trace"])]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(command: tuple[str, ...]) -> None:
    done = cygnet(*command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout
    if not command:
        assert "Exit status" in done.stdout


def test_the_version_is_shown() -> None:
    done = cygnet("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("cygnet ")


# -- check --------------------------------------------------------------------------------------------


def test_check_counts_what_is_right(tmp_path: Path) -> None:
    done = cygnet("check", str(write(tmp_path, TWO)))
    assert done.exit_code == 0
    assert "is right: 2 connections, 4 children, 3 flows to protect, 1 secret" in done.stdout


def test_check_tells_every_problem_on_a_line_and_ends_with_1(tmp_path: Path) -> None:
    path = write(tmp_path, TWO.replace("192.0.2.2", "192.0.2.999").replace('"trap"', '"trip"'))
    done = cygnet("check", str(path))
    assert done.exit_code == 1
    first, second, last = done.stderr.splitlines()
    assert first.startswith(f"{path}:3: connections.branch.remote_addrs: ")
    assert second.startswith(f"{path}:19: connections.spare.children.net.start_action: ")
    assert "found 'trip'; allowed: none, trap" in second
    assert last == f"cygnet: {path}: 2 problems"


def test_check_speaks_json_and_prints_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path, PSK.replace("branch]", "branch]\nversion = 3", 1))
    done = cygnet("check", "--json", str(path))
    assert done.exit_code == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["line"], problem["key"], problem["found"]) == (3, "connections.branch.version", "3")
    schema = json.loads(cygnet("check", "--schema").stdout)
    assert "connections" in schema["properties"]


def test_check_of_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    done = cygnet("check", str(tmp_path / "none.toml"))
    assert done.exit_code == 1
    assert "cannot be read: No such file or directory" in done.stderr


# -- up, down, rekey ----------------------------------------------------------------------------------


def test_up_brings_up_a_child_by_its_name(played: Played) -> None:
    played.sas = [shapes.list_sa(SA, NOW)]
    done = cygnet("up", "--socket", str(played.path), "voice")
    assert done.exit_code == 0, done.output
    assert played.asked == [("initiate", {"ike": "spare", "loglevel": "1", "timeout": "0", "child": "voice"})]
    assert "spare/voice is up" in done.stdout
    assert "working on initiate" in done.stderr


def test_up_shows_what_came_up(played: Played) -> None:
    played.sas = [shapes.list_sa(SA, NOW)]
    done = cygnet("up", "--socket", str(played.path), "branch/net")
    assert "10.1.0.0/16[tcp/80] === 10.2.0.0/16  AES_GCM_16-256 CURVE_25519" in done.stdout


def test_up_of_a_connection_brings_up_its_tunnels(played: Played) -> None:
    assert cygnet("up", "--socket", str(played.path), "--ike", "spare").exit_code == 0
    assert [message["child"] for _, message in played.asked] == ["net", "voice"]


def test_a_name_of_several_children_must_be_made_exact(played: Played) -> None:
    done = cygnet("up", "--socket", str(played.path), "net")
    assert done.exit_code == 1
    assert "branch/net, spare/net" in done.stderr
    assert not played.asked
    assert cygnet("up", "--socket", str(played.path), "spare/net").exit_code == 0
    assert cygnet("up", "--socket", str(played.path), "--ike", "branch", "--child", "net").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["brench"], "did you mean branch?"),
        (["--ike", "brench"], "did you mean branch?"),
        (["--ike", "spare", "--child", "voic"], "did you mean voice?"),
        (["branch/voice"], "no connection and no child named branch/voice"),
        (["zzzzz"], "no connection and no child named zzzzz"),
    ],
)
def test_a_name_that_is_not_there_is_told(played: Played, arguments: list[str], words: str) -> None:
    done = cygnet("up", "--socket", str(played.path), *arguments)
    assert done.exit_code == 1
    assert words in done.stderr
    assert not played.asked


def test_up_without_a_name_is_wrong_usage(played: Played) -> None:
    assert cygnet("up", "--socket", str(played.path)).exit_code == 2


def test_a_failure_shows_its_reason_and_both_offers_side_by_side(played: Played) -> None:
    played.refusal = CommandFailed("ike-proposal-mismatch: no common key exchange", shapes.failure(FAILURE))
    done = cygnet("up", "--socket", str(played.path), "voice")
    assert done.exit_code == 1
    assert "spare/voice did not come up: ike-proposal-mismatch: no common key exchange" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "MODP_2048" in line]
    assert "CURVE_25519" in line
    assert "this gateway" in done.stderr
    assert "first difference: key exchange" in done.stderr


def test_the_first_difference_is_named_once(played: Played) -> None:
    said = "peer offers MODP_2048, you accept CURVE_25519; first difference: key exchange"
    failure = {"reason": "ike-proposal-mismatch", "ours": "A", "theirs": "B", "first": said}
    played.refusal = CommandFailed("ike-proposal-mismatch", failure)
    done = cygnet("up", "--socket", str(played.path), "voice")
    words = " ".join(done.stderr.split())
    assert words.count("first difference") == 1
    assert said in words


def test_no_result_in_time_is_status_4(played: Played) -> None:
    played.refusal = CommandFailed("not done after 5000 ms; it goes on")
    done = cygnet("up", "--socket", str(played.path), "voice", "--timeout", "5")
    assert done.exit_code == 4
    assert played.asked[0][1]["timeout"] == "5000"


def test_down_and_rekey_name_connections_children_and_numbers(played: Played) -> None:
    socket = ("--socket", str(played.path))
    assert "spare/voice is down (1 SA closed)" in cygnet("down", *socket, "voice").stdout
    assert cygnet("down", *socket, "--ike-id", "7", "--force").exit_code == 0
    assert "branch #7 is down" in cygnet("down", *socket, "branch", "--ike-id", "7").stdout
    assert cygnet("rekey", *socket, "voice", "--ike-id", "7").exit_code == 0
    assert cygnet("rekey", *socket, "--ike-id", "7", "--ike", "gone").exit_code == 0
    assert cygnet("rekey", *socket, "--ike-id", "7", "--child", "net").exit_code == 0
    assert cygnet("down", *socket, "--ike", "gone").exit_code == 0
    assert "net is rekeyed" in cygnet("rekey", *socket, "--child", "net").stdout
    assert cygnet("rekey", *socket, "branch", "--reauth").exit_code == 0
    assert [message for _, message in played.asked] == [
        {"ike": "spare", "child": "voice", "timeout": "0", "loglevel": "1"},
        {"ike-id": "7", "timeout": "0", "loglevel": "1", "force": "yes"},
        {"ike": "branch", "ike-id": "7", "timeout": "0", "loglevel": "1"},
        {"ike": "spare", "child": "voice", "ike-id": "7", "timeout": "0", "wait": "yes"},
        {"ike": "gone", "ike-id": "7", "timeout": "0", "wait": "yes"},
        {"child": "net", "ike-id": "7", "timeout": "0", "wait": "yes"},
        {"ike": "gone", "timeout": "0", "loglevel": "1"},
        {"child": "net", "timeout": "0", "wait": "yes"},
        {"ike": "branch", "timeout": "0", "wait": "yes", "reauth": "yes"},
    ]


def test_ctrl_c_ends_a_command_that_waits_with_status_130(played: Played) -> None:
    played.waits = True
    # Whoever runs the tests in the background may ignore the signal; what they start inherits that.
    waiting = ["env", "--default-signal=INT", sys.executable, "-m", "cygnet.cli.main", "up"]
    command = [*waiting, "--socket", str(played.path), "voice"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "working on initiate" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in said


# -- status -------------------------------------------------------------------------------------------


def failed(connection: str, detail: str = "no common key exchange") -> Outgoing:
    event = events.NegotiationFailed(connection, "", False, PATH, "192.0.2.9", FAILURE)
    return {**shapes.ike_failure(event, 1_700_000_000.0), "detail": detail}


def test_status_shows_what_is_up_and_what_is_down_and_why(played: Played) -> None:
    played.sas = [shapes.list_sa(SA, NOW, {3: shapes.Traffic(5_200_000, 3596, 1, 84, 1)})]
    played.failures = [failed("spare", "the first"), failed("spare"), failed("")]
    played.answers["daemon-stats"] = {
        "engine": "kernel",
        "engine-why": "the kernel has ESP",
        "offloads": ["tun_tso", "udp_gso"],
        "dataplane-silent": "12 s",
    }
    done = cygnet("status", "--socket", str(played.path))
    assert done.exit_code == 0
    for words in (
        "branch  %any ... 192.0.2.2  IKEv2\n",
        "ESTABLISHED  #5  192.0.2.1[4500] moon.example ... 192.0.2.2[4501] %any",
        "net (office/10)  INSTALLED  TUNNEL ESP in UDP  00c0ffee in, deadbeef out",
        "5.2 MB in (3,596 packets)",
        "rekeyed in 50m",
        "spare  %any ... 192.0.2.3  IKEv2  down\n",
        "net  down  negotiated when traffic comes",
        "lan  PASS",
        "192.0.2.9 started: ike-proposal-mismatch: no common key exchange",
        "Negotiations that fit no connection that is loaded",
        "engine kernel: the kernel has ESP; offloads: tun_tso, udp_gso\n",
        "the data plane has not answered for 12 s: counters are missing\n",
        "2 connections, 1 up",
    ):
        assert words in done.stdout, done.stdout
    assert "the first" not in done.stdout
    assert "the first" in cygnet("status", "--socket", str(played.path), "--failures", "5").stdout
    assert not any(line != line.rstrip() for line in done.stdout.splitlines())


def test_status_of_one_connection_and_for_programs(played: Played) -> None:
    played.sas = [shapes.list_sa(SA, NOW)]
    played.failures = [failed("spare"), failed("gone")]
    done = cygnet("status", "--socket", str(played.path), "voice", "--json")
    status = json.loads(done.stdout)
    assert list(status["connections"]) == ["spare"]
    assert status["connections"]["spare"]["failures"][0]["reason"] == "ike-proposal-mismatch"
    everything = json.loads(cygnet("status", "--socket", str(played.path), "--json").stdout)
    assert everything["connections"]["branch"]["sas"][0]["child-sas"]["net-3"]["spi-in"] == "00c0ffee"
    assert everything["failures"][0]["ike"] == "gone"
    assert cygnet("status", "--socket", str(played.path), "nothing").exit_code == 1


def test_an_sa_whose_connection_is_gone_is_shown(played: Played) -> None:
    played.conns.clear()
    played.sas = [shapes.list_sa(SA, NOW)]
    done = cygnet("status", "--socket", str(played.path))
    assert "branch  not configured any more" in done.stdout


def test_an_empty_gateway_says_so(played: Played) -> None:
    played.conns.clear()
    assert "Nothing is configured." in cygnet("status", "--socket", str(played.path)).stdout


def test_durations_and_sizes_are_short() -> None:
    assert [duration(text) for text in ("0", "59", "60", "3601", "90000")] == [
        "0s",
        "59s",
        "1m",
        "1h 1s",
        "1d 1h",
    ]
    assert [size(text) for text in ("0", "999", "1000", "12345678", "5" + "0" * 13)] == [
        "0 B", "999 B", "1.0 kB", "12.3 MB", "50.0 TB"
    ]  # fmt: skip


# -- reload -------------------------------------------------------------------------------------------


def test_reload_loads_what_is_there_and_unloads_what_is_gone(played: Played, tmp_path: Path) -> None:
    played.answers = {
        "get-conns": {"conns": ["branch", "old"]}, "get-shared": {"keys": ["ike-branch", "ike-old"]},
        "get-keys": {"keys": ["aa"]}, "get-authorities": {"authorities": ["ca"]},
        "get-pools": {"pool": {"size": "1"}},
        "get-certs": {"certs": {"00" * 32: {"subject": "CN=x"}}},
    }  # fmt: skip
    done = cygnet("reload", "--socket", str(played.path), str(write(tmp_path, TWO)))
    assert done.exit_code == 0, done.output
    assert done.stdout == "connections loaded: 2, unloaded because they are gone: 1\n"
    looks = ("get-", "daemon-stats")
    did = [(name, message) for name, message in played.asked if not name.startswith(looks)]
    assert [name for name, _ in did[:3]] == ["load-shared", "load-conn", "load-conn"]
    assert did[3:] == [
        ("unload-conn", {"name": "old"}),
        ("unload-shared", {"id": "ike-old"}),
        ("unload-key", {"id": "aa"}),
        ("unload-authority", {"name": "ca"}),
        ("unload-pool", {"name": "pool"}),
        ("unload-cert", {"id": "00" * 32}),
    ]


def test_reload_says_which_changes_wait_for_the_next_start(played: Played, tmp_path: Path) -> None:
    running = load(write(tmp_path, TWO)).gateway
    played.answers = {"daemon-stats": {"options": fingerprint_of(running)}}
    for options, waits in (("", False), ("[options]\nretransmit_tries = 3\n", True),
                           ("[options]\nlog_level = 'debug'\n", True)):  # fmt: skip
        done = cygnet("reload", "--socket", str(played.path), str(write(tmp_path, options + TWO)))
        assert done.exit_code == 0, done.output
        assert ("changed options take effect at the next start" in done.stderr) is waits


def test_a_bad_configuration_is_not_sent_and_the_running_one_stays(played: Played, tmp_path: Path) -> None:
    done = cygnet("reload", "--socket", str(played.path), str(write(tmp_path, TWO + "[nonsense]\n")))
    assert done.exit_code == 1
    assert "nonsense: is not a known key" in done.stderr
    assert "the running configuration stays as it was" in done.stderr
    assert not played.asked


# -- trace --------------------------------------------------------------------------------------------


def follow(played: Played, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cygnet.cli.main", "trace", "--socket", str(played.path), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    )
    played.listened("ike-rekey" if "--drops" not in arguments else "ike-drop")
    return process


def events_of(played: Played) -> None:
    for one in INITIAL:
        played.raise_event("ike-message", {"time": "12.5", **one})
    failure = events.NegotiationFailed("branch", "net", True, PATH, "192.0.2.2", FAILURE)
    played.raise_event("ike-failure", shapes.ike_failure(failure, 13.0))
    played.raise_event("ike-updown", shapes.ike_updown(SA, True, NOW))
    played.raise_event("child-updown", shapes.child_updown(SA, SA.children[0], True, NOW))
    played.raise_event("ike-message", {"time": "14.0", **INITIAL[0], "ike": "other"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_trace_draws_what_passes_and_shows_what_has_arrived_when_it_is_ended(
    played: Played, number: int
) -> None:
    process = follow(played)
    events_of(played)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    said = process.stdout.read()
    assert process.wait(10) == 0
    assert "HDR(A,0), SAi1, KEi, Ni  -->" in said
    assert "<--  HDR(A,B), SAr1, KEr, Nr, CERTREQ" in said
    assert "branch/net failed: ike-proposal-mismatch: no common key exchange" in said
    assert "*** IKE SA branch is up" in said
    assert "*** Child SA net-3 of branch is up" in said
    assert "of other[1]" in said


def test_trace_of_one_connection_in_json(played: Played) -> None:
    process = follow(played, "branch", "--json")
    events_of(played)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.terminate()
    rest = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.wait(10) == 0
    assert (first["event"], first["payloads"]["1"]["notation"]) == ("ike-message", "SAi1")
    assert [entry["event"] for entry in rest] == [
        "ike-message", "ike-message", "ike-message", "ike-failure", "ike-updown", "child-updown"
    ]  # fmt: skip


def test_trace_ends_with_status_3_when_the_daemon_goes_away(played: Played) -> None:
    process = follow(played)
    assert played.server is not None
    assert played.loop is not None
    asyncio.run_coroutine_threadsafe(played.server.close(), played.loop).result(10)
    process.communicate(timeout=10)
    assert process.returncode == 3


def test_a_reader_that_has_enough_ends_the_output_quietly(played: Played) -> None:
    command = f"{sys.executable} -m cygnet.cli.main status --socket {played.path} --json"
    reader, writer = os.pipe()
    process = subprocess.Popen(command.split(), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    os.close(reader)
    _, said = process.communicate(timeout=20)
    assert "Traceback" not in said
