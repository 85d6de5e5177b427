"""The stage of the security tests: moon, watched in all it does, and a sun that says whatever a test wants.

`Watched` keeps a ledger (what was installed is removed once, what is asked for is answered once), shows
every event to every reader there is (log lines plain and as JSON, VICI events, the ladder), and demands that
what is shown is printable. `Talk` is an IKE SA with sun at its other end, in either role.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path as FilePath
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cygnet.auth.credentials import Credentials
from cygnet.auth.identity import Identity
from cygnet.cli import ladder
from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.key_exchange import generate
from cygnet.daemon.log import Severity, Sink, line_of, printable
from cygnet.ike import events
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, Options, RemoteAuth
from cygnet.ike.effects import (
    Emit,
    Installed,
    InstallFailed,
    InstallPolicy,
    InstallSa,
    RemovePolicy,
    RemoveSa,
    SendDatagram,
)
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.ike.view import IkeSaView
from cygnet.ike.world import Instant, Path
from cygnet.vici import messages, shapes
from cygnet.vici.codec import PacketType, decode_packet, encode_packet, texts
from cygnet.wire.message import Message, decode, encode, encode_header
from cygnet.wire.numbers import Exchange, KeMethod, Notify, PayloadType, Protocol
from cygnet.wire.payloads import (
    DeletePayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    VendorIdPayload,
)
from tests.unit.ike_by_hand import (
    PATH,
    Moon,
    Sun,
    connection,
    esp_proposal,
    ike_proposal,
    selectors,
    with_secret,
)

MOON, SUN = (Identity.parse(f"{name}.example.org") for name in ("moon", "sun"))
SECRET = b"the secret of moon and sun, long"
SUN_SPI = b"\x01\x02\x03\x04"
"""What sun's first Child SA is received on."""
ELSEWHERE = replace(PATH, remote=PATH.remote + 77, remote_port=4711)


@cache
def psk_connection() -> Connection:
    return connection("peer", LocalAuth(AuthClass.PSK, MOON), RemoteAuth(AuthClass.PSK, SUN))


def store() -> Credentials:
    credentials = Credentials()
    credentials.add_shared("sun", "ike", SECRET, [MOON, SUN])
    return credentials


class Watched(Moon):
    """`loud`: every event is shown to all readers. `refuse` says which SAs the data plane does not take."""

    def __init__(
        self,
        *connections: Connection,
        credentials: Credentials | None = None,
        options: Options | None = None,
        loud: bool = False,
    ) -> None:
        self.loud = loud
        self.in_force: set[tuple[int, int, int]] = set()
        """(direction, SPI, pair) of each SA in the data plane."""
        self.ended: Counter[tuple[int, int, int]] = Counter()
        self.refused: set[tuple[int, int, int]] = set()
        self.policies: set[int] = set()
        self.objections: list[str] = []
        self.lines: list[str] = []
        self.bytes_out = 0
        self.refuse: Callable[[InstallSa], bool] = lambda effect: False
        super().__init__(
            credentials or store(), *(connections or (psk_connection(),)), options=options or Options()
        )
        self.endpoint.observe = loud

    def carry_out(self) -> None:
        while effects := self.endpoint.effects():
            for effect in effects:
                self._carry_out_one(effect)

    def _carry_out_one(self, effect: object) -> None:
        match effect:
            case SendDatagram():
                marked = effect.path.local_port == 4500
                self.bytes_out += len(effect.data)
                self.sent.append(effect.data[4:] if marked else effect.data)
            case InstallSa():
                self._install(effect)
            case RemoveSa():
                key = (int(effect.direction), effect.spi, effect.pair)
                if key in self.refused:
                    return
                if key not in self.in_force:
                    self.objections.append(f"{key} is removed, but not there")
                self.in_force.discard(key)
                self.ended[key] += 1
            case InstallPolicy():
                self.policies.add(effect.policy.id)
            case RemovePolicy():
                if effect.policy not in self.policies:
                    self.objections.append(f"policy {effect.policy} is removed, but not there")
                self.policies.discard(effect.policy)
            case Emit():
                self.events.append(effect.event)
                if self.loud:
                    self.lines += shown(effect.event)

    def _install(self, effect: InstallSa) -> None:
        sa = effect.sa
        if self.refuse(effect):
            self.refused.add((int(sa.direction), sa.spi, sa.pair))
            self.endpoint.resume(effect.ask_id, InstallFailed("refused by the test"), self.now)
            return
        key = (int(sa.direction), sa.spi, sa.pair)
        if key in self.in_force:
            self.objections.append(f"{key} is installed twice")
        self.in_force.add(key)
        self.installed.append(effect)
        if effect.ask_id:
            self.endpoint.resume(effect.ask_id, Installed(), self.now)

    # -- time ------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Time goes by, timers are served."""
        end = self.now.monotonic + seconds
        while (due := self.endpoint.next_timeout()) is not None and due <= end:
            self._at(max(due, self.now.monotonic))
            self.endpoint.handle_timeout(self.now)
            self.carry_out()
        self._at(end)

    def _at(self, monotonic: float) -> None:
        self.now = Instant(monotonic, self.now.wall + monotonic - self.now.monotonic)

    # -- looking ---------------------------------------------------------------------------------

    @property
    def views(self) -> list[IkeSaView]:
        return list(self.endpoint.sas())

    def picture(self) -> tuple[object, ...]:
        """All that a message may change, to be compared with what it was before."""
        return (
            tuple(
                (
                    sa.state,
                    sa.window,
                    sa.close_at,
                    sa.reassembly is None,
                    len(sa.queue or ()),
                    sa.own is None,
                    sa.request and (sa.request.message_id, sa.request.refusals),
                )
                for sa in self.endpoint.by_number.values()
                if isinstance(sa, IkeV2Sa)
            ),
            len(self.endpoint.half_open),
            tuple(sorted(self.in_force)),
            tuple(sorted(self.policies)),
        )

    def nothing_left(self) -> None:
        """Every SA, SPI, pair, question, timer, attempt and per-peer policy has been given back, once."""
        endpoint = self.endpoint
        assert self.objections == []
        for book in (
            endpoint.by_number, endpoint.by_spi, endpoint.by_pair, endpoint.by_connection, endpoint.by_peer,
            endpoint._child_spis, endpoint._asks, endpoint._touched,
        ):  # fmt: skip
            assert not book
        assert len(endpoint.half_open) == len(endpoint.operations) == 0
        assert endpoint._timers.next() is None
        assert self.in_force == set()
        assert all(count == 1 for count in self.ended.values())
        assert endpoint.policies._users == {}


# -- everything that an event may be shown as ------------------------------------------------------

_NOWHERE = Sink(Severity.DEBUG, descriptor=os.open(os.devnull, os.O_WRONLY))
_AS_JSON = Sink(Severity.DEBUG, as_json=True, descriptor=os.open(os.devnull, os.O_WRONLY))


def shown(event: events.Event) -> list[str]:
    """Every line that anybody gets to see of it; AssertionError if one of them could steer a terminal."""
    lines: list[str] = []
    line = line_of(event)
    if line is not None:
        text = printable(line.text)
        lines.append(_NOWHERE._render(line, text)[len("00:00:00 ") :])
        record = json.loads(_AS_JSON._render(line, text))
        del record["time"]
        lines += [str(value) for value in record.values()]
        lines += _leaves(shapes.log(line.group, line.level, text, line.connection, line.ike_sa))
    _NOWHERE.tell(event)
    _AS_JSON.tell(event)
    for name, shape in vici_events(event):
        packet = encode_packet(PacketType.EVENT, name, shape)
        back = texts(decode_packet(packet[4:]).message)
        lines += _leaves(back)
        if name == "ike-message":
            letters = ladder.Letters()
            lines += [ladder.title(back), ladder.ends(back), *ladder.draw(back, letters)]
    bad = [one for one in lines if not one.isprintable()]
    if bad:
        raise AssertionError(f"control characters are shown: {bad[0]!r}")
    return lines


def vici_events(event: events.Event) -> list[tuple[str, shapes.Shape]]:
    match event:
        case events.MessageSeen():
            return [("ike-message", messages.ike_message(event, 1.8e9))]
        case events.Dropped():
            return [("ike-drop", shapes.ike_drop(event, 1.8e9))]
        case events.NegotiationFailed():
            return [("ike-failure", shapes.ike_failure(event, 1.8e9))]
        case events.IkeSaUp():
            return [
                ("ike-updown", shapes.ike_updown(event.sa, True, 5.0)),
                ("list-sa", shapes.list_sa(event.sa, 5.0)),
            ]
        case events.IkeSaDown():
            return [("ike-updown", shapes.ike_updown(event.sa, False, 5.0, event.failure))]
        case events.ChildSaUp():
            return [("child-updown", shapes.child_updown(event.sa, event.child, True, 5.0))]
        case events.ChildSaDown():
            shape = shapes.child_updown(event.sa, event.child, False, 5.0, failure=event.failure)
            return [("child-updown", shape)]
        case events.IkeSaRekeyed():
            return [("ike-rekey", shapes.ike_rekey(event.old, event.new, 5.0))]
        case events.ChildSaRekeyed():
            return [("child-rekey", shapes.child_rekey(event.sa, event.old, event.new, 5.0))]
    return []


def _leaves(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in (str(key), *_leaves(inner))]
    if isinstance(value, list | tuple):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)]


# -- an IKE SA with sun at its other end ------------------------------------------------------------


class Talk:
    """Moon and sun after IKE_SA_INIT (`meet`) or with everything up (`established`).

    `we_answer`: sun has begun, moon is the responder. `next_id` is the id of sun's next request.
    """

    def __init__(
        self,
        we_answer: bool,
        moon: Watched | None = None,
        *,
        spi: bytes = b"\x11" * 8,
        nonce: bytes = b"\x33" * 32,
    ) -> None:
        self.moon = moon or Watched()
        self.sun = Sun(we_answer, spi_i=spi, nonce=nonce) if we_answer else Sun(False, nonce=nonce)
        self.we_answer = we_answer
        if not we_answer:
            self.moon.initiate("peer")
        self.sun.first(self.moon)
        self.next_id = 1 if we_answer else 0
        self.said: list[Message] = []

    def good(self) -> list[Payload]:
        """Sun's IKE_AUTH message."""
        return self.sun.authentication(SUN, with_secret(SECRET))

    def authenticate(self, payloads: Iterable[Payload] | None = None) -> list[Message]:
        chosen = list(self.good() if payloads is None else payloads)
        if self.we_answer:
            answer = self.sun.request(self.moon, chosen)
            self.next_id = 2
            self.said = [] if answer is None else [answer]
        else:
            # Moon may have more to say at once: what it says next is its own request.
            self.said = self.sun.answer(self.moon, chosen)
        return self.said

    def established(self) -> Talk:
        self.authenticate()
        assert [view.state for view in self.moon.views] == ["ESTABLISHED"]
        return self

    @property
    def moon_spi(self) -> bytes:
        """What moon receives its newest Child SA on."""
        return self.moon.views[-1].children[-1].spi_in.to_bytes(4, "big")

    def ask(self, exchange: int, payloads: Iterable[Payload] = (), *, path: Path = PATH) -> Message | None:
        """Sun's next request; moon's answer, None for silence."""
        datagram = self.sun.seal(payloads, exchange, self.next_id)
        self.next_id += 1
        return self._answer_to(datagram, path)

    def ask_raw(
        self, exchange: int, first: int, plaintext: bytes, *, path: Path = PATH, message_id: int | None = None
    ) -> Message | None:
        """The same with the octets inside SK as they are given."""
        if message_id is None:
            message_id, self.next_id = self.next_id, self.next_id + 1
        return self._answer_to(seal_raw(self.sun, first, plaintext, exchange, message_id), path)

    def _answer_to(self, datagram: bytes, path: Path) -> Message | None:
        answers = [one for one in self.moon.receive(datagram, path) if decode(one).header.response]
        return self.sun.open(answers[-1]) if answers else None

    def answers(self, payloads: Iterable[Payload], exchange: int, message_id: int) -> list[Message]:
        """Sun answers moon's request; what moon says next."""
        datagram = self.sun.seal(payloads, exchange, message_id, response=True)
        return [self.sun.open(one) for one in self.moon.receive(datagram)]

    def close(self) -> None:
        """All of moon's IKE SAs go, by force."""
        for view in self.moon.views:
            self.moon.endpoint.terminate(view.unique_id, 0, True, self.moon.now)
        self.moon.carry_out()

    def delete_ike(self) -> Message | None:
        return self.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.IKE, ())])

    def child_request(self, nonce: bytes = b"\x44" * 32, spi: bytes = b"\x0a\x0b\x0c\x0d") -> list[Payload]:
        """A CREATE_CHILD_SA for one more pair."""
        (proposal,) = esp_proposal().proposals
        ends = ("2", "1")
        return [
            SaPayload((replace(proposal, spi=spi),)),
            NoncePayload(nonce),
            TsiPayload(selectors(ends[0])),
            TsrPayload(selectors(ends[1])),
        ]

    def rekey_request(self, old: bytes = SUN_SPI, **changed: bytes) -> list[Payload]:
        return [NotifyPayload(Protocol.ESP, old, Notify.REKEY_SA, b""), *self.child_request(**changed)]


def seal_raw(
    sun: Sun, first: int, plaintext: bytes, exchange: int, message_id: int, *, response: bool = False
) -> bytes:
    """A message whose SK holds these octets, authentic whatever they are."""
    return _sealed(sun, first, plaintext, exchange, message_id, response, None)


def seal_fragment(
    sun: Sun,
    number: int,
    total: int,
    chunk: bytes,
    exchange: int,
    message_id: int,
    *,
    first: int = 0,
    response: bool = False,
    forged: bool = False,
) -> bytes:
    """One SKF, authentic unless `forged`."""
    datagram = _sealed(sun, first, chunk, exchange, message_id, response, (number, total))
    return datagram[:-1] + bytes((datagram[-1] ^ 1,)) if forged else datagram


def _sealed(
    sun: Sun,
    first: int,
    plaintext: bytes,
    exchange: int,
    message_id: int,
    response: bool,
    fragment: tuple[int, int] | None,
) -> bytes:
    assert sun.keys is not None
    key = sun.keys.sk_ei if sun.initiator else sun.keys.sk_er
    sun.iv += 1
    iv = sun.iv.to_bytes(8, "big")
    kind = PayloadType.SK if fragment is None else PayloadType.SKF
    numbers = b"" if fragment is None else b"".join(n.to_bytes(2, "big") for n in fragment)
    size = 4 + len(numbers) + 8 + len(plaintext) + 1 + 16
    header = encode_header(sun.header(exchange, message_id, response=response), kind, 28 + size)
    associated = header + bytes((first, 0)) + size.to_bytes(2, "big") + numbers
    return associated + iv + AESGCM(key[:-4]).encrypt(key[-4:] + iv, plaintext + b"\x00", associated)


@cache
def product() -> list[tuple[str, list[ast.AST]]]:
    """The files of the product, and everything that stands in them, for lints."""
    source = FilePath(__file__).parents[2] / "src" / "cygnet"
    return [
        (str(path.relative_to(source)), list(ast.walk(ast.parse(path.read_text()))))
        for path in sorted(source.rglob("*.py"))
    ]


def notifies(message: Message | None) -> list[int]:
    return [] if message is None else [p.type for p in message.payloads if isinstance(p, NotifyPayload)]


def with_fixed_length(datagram: bytes) -> bytes:
    return datagram[:24] + len(datagram).to_bytes(4, "big") + datagram[28:]


def first_request(
    payloads: Iterable[Payload] | None = None, *, spi: bytes = b"\x66" * 8, message_id: int = 0
) -> bytes:
    """An IKE_SA_INIT request that moon has not seen before."""
    sun = Sun(True, spi_i=spi, spi_r=bytes(8))
    header = sun.header(Exchange.IKE_SA_INIT, message_id, response=False)
    return encode(header, good_first() if payloads is None else list(payloads))


def good_first(nonce: bytes = b"\x33" * 32) -> list[Payload]:
    ours = generate(KeMethod.CURVE_25519, SeededEntropy(2))
    return [ike_proposal(), KePayload(KeMethod.CURVE_25519, ours.public), NoncePayload(nonce)]


ROLES = pytest.mark.parametrize("we_answer", [True, False], ids=["we answer", "we initiate"])


OPEN_DOOR = Options(cookie_threshold=0, cookie_threshold_per_source=0, block_threshold=0)
"""No cookies and no limits: what lies behind them is what is tested."""


DEFINED = frozenset(
    {
        Notify.UNSUPPORTED_CRITICAL_PAYLOAD, Notify.INVALID_SYNTAX, Notify.NO_PROPOSAL_CHOSEN,
        Notify.INVALID_KE_PAYLOAD, Notify.AUTHENTICATION_FAILED, Notify.TS_UNACCEPTABLE,
        Notify.CHILD_SA_NOT_FOUND, Notify.TEMPORARY_FAILURE, Notify.NO_ADDITIONAL_SAS,
        Notify.ESP_TFC_PADDING_NOT_SUPPORTED, Notify.ADDITIONAL_TS_POSSIBLE,
    }
)  # fmt: skip
"""Notifies that an answer to a protected message may carry here."""


def power_set(payloads: list[Payload]) -> Iterable[list[Payload]]:
    for kept in itertools.product((True, False), repeat=len(payloads)):
        yield [p for p, wanted in zip(payloads, kept, strict=True) if wanted]


def requests_of(talk: Talk) -> dict[str, tuple[int, list[Payload]]]:
    ours = generate(KeMethod.CURVE_25519, SeededEntropy(3))
    ke = KePayload(KeMethod.CURVE_25519, ours.public)
    (proposal,) = ike_proposal().proposals
    return {
        "create child": (Exchange.CREATE_CHILD_SA, [*talk.child_request(), ke]),
        "rekey child": (Exchange.CREATE_CHILD_SA, [*talk.rekey_request(), ke]),
        "rekey ike": (
            Exchange.CREATE_CHILD_SA,
            [SaPayload((replace(proposal, spi=b"\x99" * 8),)), NoncePayload(b"\x45" * 32), ke],
        ),
        "delete child": (
            Exchange.INFORMATIONAL,
            [
                DeletePayload(Protocol.ESP, (SUN_SPI,)),
                NotifyPayload(0, b"", 40961, b"new"),
                VendorIdPayload(b"v"),
            ],
        ),
    }


def work(steps: Iterable[object]) -> int:
    """How many calls, Python's and C's, it takes to go through: a measure that no busy machine can change."""
    count = 0

    def hook(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hook)
    try:
        for _ in steps:
            pass
    finally:
        sys.setprofile(None)
    return count


def everything(talk: Talk) -> Iterator[tuple[int, list[Payload]]]:
    """One message of every exchange there is, and of some that there are not."""
    yield Exchange.IKE_SA_INIT, good_first()
    yield Exchange.IKE_AUTH, []
    yield Exchange.CREATE_CHILD_SA, talk.child_request()
    yield Exchange.CREATE_CHILD_SA, talk.rekey_request()
    (proposal,) = ike_proposal().proposals
    rekeyed = SaPayload((replace(proposal, spi=b"\x99" * 8),))
    yield Exchange.CREATE_CHILD_SA, [rekeyed, *good_first()[1:]]
    yield Exchange.INFORMATIONAL, []
    yield Exchange.INFORMATIONAL, [DeletePayload(Protocol.IKE, ())]
    yield Exchange.INFORMATIONAL, [DeletePayload(Protocol.ESP, (SUN_SPI,))]
    yield Exchange.INFORMATIONAL, [NotifyPayload(0, b"", Notify.INITIAL_CONTACT, b"")]
    yield Exchange.INFORMATIONAL, [NotifyPayload(0, b"", Notify.AUTHENTICATION_FAILED, b"")]
    for number in (0, 33, 38, 43, 44, 99, 255):
        yield number, talk.child_request()


def swapped() -> list[Payload]:
    """The selectors of moon's own request: its side first."""
    return [TsiPayload(selectors("1")), TsrPayload(selectors("2"))]
