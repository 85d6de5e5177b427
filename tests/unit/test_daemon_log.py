"""Log lines: made from events, one line each, bounded in rate, never blocking, no terminal steered."""

from __future__ import annotations

import json
import os
import time
from ipaddress import ip_address

import pytest

from cygnet.auth.identity import Identity
from cygnet.daemon.log import MAX_LINE, Bucket, Line, Severity, Sink, describe, line_of, printable, told_at
from cygnet.ike import events
from cygnet.ike.errors import Difference, Drop, Failure, Reason
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.ike.world import Path
from cygnet.policy.selectors import of_range
from cygnet.records import replace
from cygnet.wire.message import Header, Message
from cygnet.wire.numbers import Exchange, Flags, Notify
from cygnet.wire.payloads import NoncePayload, NotifyPayload

PATH = Path(ip_address("192.0.2.1"), 500, ip_address("192.0.2.2"), 500)
NET = of_range(ip_address("10.1.0.0"), ip_address("10.1.255.255"))
CHILD = ChildSaView(
    "net",
    "",
    3,
    1,
    "INSTALLED",
    1,
    50,
    False,
    0xC1,
    0xC2,
    20,
    256,
    0,
    31,
    False,
    (NET,),
    (NET,),
    1.0,
    2.0,
    3.0,
)
SA = IkeSaView(
    7, "gw", 2, "ESTABLISHED", True, 1, 2, PATH, Identity.parse("moon"), Identity.parse("sun"), False, False,
    False, 20, 256, 0, 5, 31, 1.0, 2.0, 3.0, (CHILD,),
)  # fmt: skip


def written(sink_of: int, *lines: Line, **options: bool) -> list[str]:
    reader, writer = os.pipe()
    sink = Sink(Severity(sink_of), descriptor=writer, as_json=options.get("as_json", False))
    for line in lines:
        sink.write(line)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as stream:
        return stream.read().splitlines()


def test_what_an_operator_must_know_is_one_line_each() -> None:
    failure = Failure(
        Reason.IKE_PROPOSAL_MISMATCH,
        "no common key exchange",
        Difference("MODP_2048", "CURVE_25519", "key exchange"),
    )
    unrevealed = replace(failure, difference=Difference("MODP_2048"))
    texts = [
        line.text
        for event in (
            events.IkeSaUp(SA),
            events.ChildSaUp(SA, CHILD),
            events.NegotiationFailed("gw", "net", True, PATH, "sun", failure),
            events.NegotiationFailed("gw", "", True, PATH, "sun", unrevealed, 7),
        )
        if (line := line_of(event))
    ]
    assert texts == [
        "IKE_SA gw[7] established between 192.0.2.1[moon]...192.0.2.2[sun]",
        "CHILD_SA net{3} established: SPIs 000000c1_i 000000c2_o, 10.1.0.0/16 === 10.1.0.0/16",
        "negotiation of gw/net to sun failed: ike-proposal-mismatch (no common key exchange); "
        "we offer MODP_2048; peer offers CURVE_25519",
        "negotiation of gw to sun failed: ike-proposal-mismatch (no common key exchange); "
        "we offer MODP_2048; peer offers (not revealed)",
    ]
    told = line_of(events.NegotiationFailed("gw", "", True, PATH, "sun", unrevealed, 7))
    assert told is not None
    assert (told.connection, told.ike_sa) == ("gw", 7)


def test_messages_and_drops_are_details_for_the_log() -> None:
    message = Message(Header(bytes(8), bytes(8), 40, 2, 0, Exchange.IKE_SA_INIT, Flags.INITIATOR, 0), ())
    assert told_at(events.MessageSeen(True, PATH, message, 0, "", False)) == (Severity.DEBUG, 1)
    assert told_at(events.Dropped(Drop.INTEGRITY, "", PATH, 0)) == (Severity.DEBUG, 2)
    assert told_at(events.IkeSaUp(SA)) == (Severity.INFO, 0)
    line = line_of(events.Dropped(Drop.INTEGRITY, "", PATH, 7))
    assert line is not None
    assert line.text == "dropped integrity from 192.0.2.2[500]"


def test_a_message_reads_like_the_figures_of_the_standard() -> None:
    header = Header(bytes(8), bytes(8), 40, 2, 0, Exchange.IKE_SA_INIT, Flags.RESPONSE, 0)
    message = Message(header, (NoncePayload(bytes(32)), NotifyPayload(0, b"", Notify.COOKIE, b"x")))
    assert describe(message) == "IKE_SA_INIT response 0 [NONCE N(COOKIE)]"


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "\x00", "a\u2028b", "\ud800", "\x9b31m"])
def test_control_characters_never_reach_the_log(text: str) -> None:
    assert printable(text).isprintable()
    (line,) = written(3, Line("IKE", Severity.INFO, 0, "x", text))
    assert line.isprintable()


def test_a_long_text_is_cut() -> None:
    assert len(printable("x" * 100_000)) == MAX_LINE


def test_a_line_above_the_severity_is_not_written() -> None:
    low = Line("IKE", Severity.DEBUG, 2, "low", "low")
    high = Line("IKE", Severity.WARNING, 0, "high", "high", "gw", 7)
    (line,) = written(Severity.INFO, low, high)
    assert line.endswith("[IKE] <gw|7> high")


def test_json_lines_can_be_read_by_a_program() -> None:
    (line,) = written(3, Line("IKE", Severity.WARNING, 0, "failed", 'say "no"\n', "gw", 7), as_json=True)
    record = json.loads(line)
    assert record.pop("time") == pytest.approx(time.time(), abs=60)
    assert record == {
        "group": "IKE", "severity": "warning", "code": "failed", "text": 'say "no"\\n', "connection": "gw",
        "ike_sa": 7,
    }  # fmt: skip


def test_a_flood_of_one_kind_is_held_back_and_others_are_not() -> None:
    flood = Line("NET", Severity.DEBUG, 2, "drop-integrity", "dropped")
    lines = written(3, *[flood] * 1000, Line("IKE", Severity.INFO, 0, "up", "up"))
    assert len(lines) < 40
    assert lines[-1].endswith("up")


def test_the_bucket_says_how_many_it_held_back() -> None:
    bucket = Bucket(100.0)
    taken = [bucket.take(100.0) for _ in range(25)]
    assert taken == [True] * 20 + [False] * 5
    assert bucket.held == 5
    assert bucket.take(101.0)


def test_a_reader_that_does_not_read_costs_lines_and_no_time() -> None:
    reader, writer = os.pipe()
    sink = Sink(Severity.DEBUG, descriptor=writer)
    started = time.monotonic()
    for number in range(2000):
        sink.write(Line("IKE", Severity.INFO, 0, f"code-{number}", "x" * MAX_LINE))
    assert time.monotonic() - started < 5
    assert sink.lost > 0
    os.close(reader)
    os.close(writer)


def test_a_log_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = Sink(Severity.DEBUG, descriptor=writer)
    sink.write(Line("IKE", Severity.INFO, 0, "x", "x"))
    assert sink.lost == 1
    os.close(writer)
