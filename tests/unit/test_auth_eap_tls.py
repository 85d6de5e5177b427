"""EAP-TLS, TTLS and PEAP: both sides in memory, with TLS 1.2 and 1.3, and what must not pass."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from cygnet.auth.credentials import Credentials
from cygnet.auth.eap import gtc, md5, methods, mschapv2, peap, ttls
from cygnet.auth.eap import tls as tls_method
from cygnet.auth.eap import tls_framing as framing
from cygnet.auth.eap.method import ClientMaker, EapFailed, ServerMaker
from cygnet.auth.eap.packet import Code, EapType, Packet
from cygnet.auth.eap.session import Finished
from cygnet.auth.eap.tls_engine import Engine, Side
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.issue import Issued
from cygnet.auth.passwords import Stored
from cygnet.wire.cursor import Malformed
from tests.unit.eap_material import CAROL, SERVER, WALL, certificate, converse, credentials, der

VERSIONS = pytest.mark.parametrize("newest", [(1, 2), (1, 3)], ids=["TLS 1.2", "TLS 1.3"])
MALLORY = Identity.parse("mallory@example.org")


@dataclass
class Ends:
    """What both sides are; a test changes one thing."""

    server: Credentials
    client: Credentials
    newest: tuple[int, int] = (1, 3)
    expected: Identity | None = SERVER
    kind: int = EapType.TLS
    inside: str = ""

    def serving(self) -> ServerMaker:
        tls = methods.Tls((), SERVER, None, WALL)
        (maker,) = methods.server_makers([self.kind], self.server, tls)
        return maker

    def calling(self) -> ClientMaker:
        tls = methods.Tls((), CAROL, self.expected, WALL)
        (maker,) = methods.client_makers([self.kind], CAROL.data, self.client, tls, self.inside)
        return maker

    def talk(self) -> tuple[Finished, Finished, list[Packet]]:
        return converse([self.serving()], [self.calling()])


def ends(**changes: object) -> Ends:
    made = Ends(credentials(certificate(SERVER)), credentials(certificate(CAROL)))
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def limited(monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int]) -> None:
    """Both sides speak at most this version of TLS."""
    begin = Engine.__init__

    def lower(self: Engine, side: Side) -> None:
        begin(self, Side(side.server, side.own, side.judge, newest))

    monkeypatch.setattr(Engine, "__init__", lower)


INNER = {
    "tls": (EapType.TLS, ""),
    "ttls with EAP": (EapType.TTLS, ""),
    "ttls with PAP": (EapType.TTLS, "pap"),
    "ttls with MSCHAPv2": (EapType.TTLS, "mschapv2"),
    "peap": (EapType.PEAP, ""),
}


@VERSIONS
@pytest.mark.parametrize("way", list(INNER))
def test_both_sides_come_to_the_same_key(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], way: str
) -> None:
    limited(monkeypatch, newest)
    kind, inside = INNER[way]
    ours, theirs, packets = ends(kind=kind, inside=inside).talk()
    assert ours.outcome.msk == theirs.outcome.msk
    assert len(ours.outcome.msk) == 64
    assert ours.outcome.mutual
    assert theirs.outcome.mutual
    assert packets[-1].code == Code.SUCCESS
    if kind == EapType.TLS:
        assert ours.outcome.chain[0] == der(certificate(CAROL))
    else:
        assert ours.outcome.identity == CAROL.data
        assert ours.outcome.groups == {"staff"}


# PEAP carries methods that make keys, and GTC.
@pytest.mark.parametrize(
    ("kind", "inner"),
    [
        (EapType.TTLS, "md5"),
        (EapType.TTLS, "gtc"),
        (EapType.TTLS, "mschapv2"),
        (EapType.PEAP, "gtc"),
        (EapType.PEAP, "mschapv2"),
    ],
)
def test_the_methods_inside_are_agreed_on_there(kind: int, inner: str) -> None:
    makers = {
        "md5": md5.client(CAROL.data, b"open sesame"),
        "gtc": gtc.client(b"open sesame"),
        "mschapv2": mschapv2.client(CAROL.data, found(credentials())),
    }
    made = ends(kind=kind)
    side = Side(False, None, methods._server_judge(made.client, methods.Tls((), CAROL, SERVER, WALL)))
    make = ttls.client_with_eap if kind == EapType.TTLS else peap.client
    ours, _, _ = converse([made.serving()], [make(side, CAROL.data, [makers[inner]])])
    assert ours.outcome.identity == CAROL.data


def found(store: Credentials) -> Stored:
    stored = store.user(CAROL.data)
    assert stored is not None
    return stored


@pytest.mark.parametrize("way", [way for way in INNER if way != "tls"])
def test_a_wrong_password_inside_is_refused(way: str) -> None:
    kind, inside = INNER[way]
    with pytest.raises(EapFailed) as refused:
        ends(kind=kind, inside=inside, client=credentials(password=b"another")).talk()
    assert refused.value.kind is Kind.EAP_PASSWORD_WRONG


SERVERS: dict[str, tuple[Issued, str, Kind]] = {
    "of another CA": (certificate(SERVER, "Other"), "CA", Kind.CERTIFICATE_UNTRUSTED),
    "expired": (certificate(SERVER, age=10_000_000.0), "CA", Kind.CERTIFICATE_EXPIRED),
    "for somebody else": (certificate(MALLORY), "CA", Kind.CERTIFICATE_ID_MISMATCH),
}


@VERSIONS
@pytest.mark.parametrize("way", list(INNER))
@pytest.mark.parametrize("fault", list(SERVERS))
def test_v9_nothing_is_said_to_a_server_whose_certificate_is_no_good(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], way: str, fault: str
) -> None:
    """Neither our certificate, nor a word inside: after the server's certificate nothing leaves."""
    limited(monkeypatch, newest)
    issued, trusted, kind = SERVERS[fault]
    server = credentials(issued)
    method, inside = INNER[way]
    said: list[int] = []
    shown = False

    def listen(number: int, octets: bytes, is_server: bool) -> bytes:
        nonlocal shown
        if is_server:
            shown = shown or (len(octets) > 20 and octets[4] == method)
        elif shown:
            said.append(len(octets))
        return octets

    made = ends(server=server, client=credentials(certificate(CAROL), trusted), kind=method, inside=inside)
    tls = methods.Tls((der(issued),), SERVER, None, WALL)
    (maker,) = methods.server_makers([method], server, tls)
    with pytest.raises(AuthenticationError) as refused:
        converse([maker], [made.calling()], tamper=listen)
    assert refused.value.kind is kind
    # Acknowledgements of fragments: a header, a type, flags.
    assert shown
    assert set(said) <= {6}


CLIENTS: dict[str, tuple[Issued | None, Kind]] = {
    "of another CA": (certificate(CAROL, "Other"), Kind.CERTIFICATE_UNTRUSTED),
    "expired": (certificate(CAROL, age=10_000_000.0), Kind.CERTIFICATE_EXPIRED),
    "of somebody else": (certificate(MALLORY), Kind.CERTIFICATE_ID_MISMATCH),
}


@VERSIONS
@pytest.mark.parametrize("fault", list(CLIENTS))
def test_v57_a_clients_certificate_is_judged_before_its_key_is_used(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], fault: str
) -> None:
    """CVE-2023-26463."""
    limited(monkeypatch, newest)
    issued, kind = CLIENTS[fault]
    assert issued is not None
    store = credentials(issued)
    tls = methods.Tls((der(issued),), CAROL, SERVER, WALL)
    (client,) = methods.client_makers([EapType.TLS], CAROL.data, store, tls)
    with pytest.raises(AuthenticationError) as refused:
        converse([ends().serving()], [client])
    assert refused.value.kind is kind


@VERSIONS
def test_v57_a_client_without_a_certificate_is_refused(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int]
) -> None:
    limited(monkeypatch, newest)
    judge = methods._server_judge(credentials(), methods.Tls((), CAROL, SERVER, WALL))
    with pytest.raises(EapFailed):
        converse([ends().serving()], [tls_method.client(Side(False, None, judge))])


def test_a_certificate_serves_the_user_whose_name_it_holds_as_text() -> None:
    named = certificate(Identity.parse("carol"), subject="C=CH, O=Test, CN=carol")
    store = credentials(named)
    for name in (b"carol", b"CAROL", b"C=CH, O=Test, CN=carol"):
        tls = methods.Tls((der(named),), CAROL, SERVER, WALL)
        (client,) = methods.client_makers([EapType.TLS], name, store, tls)
        converse([ends().serving()], [client], name=name)


@VERSIONS
@pytest.mark.parametrize("way", list(INNER))
def test_v56_success_before_the_end_is_a_forgery(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], way: str
) -> None:
    """At every step of each method; in TLS 1.3 before the octet that says that all is said (RFC 9190)."""
    limited(monkeypatch, newest)
    kind, inside = INNER[way]
    made = ends(kind=kind, inside=inside)
    _, _, packets = made.talk()
    requests = sum(packet.code == Code.REQUEST for packet in packets)
    for step in range(1, requests + 1):
        count = itertools.count(1)

        def forge(number: int, octets: bytes, is_server: bool) -> bytes:
            if is_server and next(count) == step:  # noqa: B023
                return Packet(Code.SUCCESS, octets[1]).encode()
            return octets

        with pytest.raises(AuthenticationError):
            converse([made.serving()], [made.calling()], tamper=forge)


def test_a_key_is_not_exported_before_the_peer_has_passed() -> None:
    own = credentials(certificate(SERVER)).own_key((), SERVER)
    with pytest.raises(EapFailed):
        Engine(Side(True, own, None)).export(b"client EAP encryption", 64)


@pytest.mark.parametrize("length", range(13))
@pytest.mark.parametrize("vendor", [0, 311])
def test_v58_an_avp_shorter_than_its_header_is_malformed(length: int, vendor: int) -> None:
    """CVE-2026-25075: lengths 0 to 7, and with a vendor's number 0 to 11."""
    head = 12 if vendor else 8
    octets = (1).to_bytes(4, "big") + ((0x80 if vendor else 0) << 24 | length).to_bytes(4, "big")
    octets += (vendor.to_bytes(4, "big") if vendor else b"") + bytes(4)
    if length < head:
        with pytest.raises(Malformed):
            list(ttls.decode_avps(octets))
    else:
        assert next(iter(ttls.decode_avps(octets))).key == (1, vendor)


def test_v58_avps_are_bounded_and_end_where_they_say() -> None:
    one = ttls.Avp(ttls.USER_NAME, b"carol").encode()
    assert len(list(ttls.decode_avps(one * ttls.MAX_AVPS))) == ttls.MAX_AVPS
    with pytest.raises(Malformed):
        list(ttls.decode_avps(one * (ttls.MAX_AVPS + 1)))
    for length in range(1, len(one) - 3):
        with pytest.raises(Malformed):
            list(ttls.decode_avps(one[:length]))


@pytest.mark.parametrize("length", range(14))
def test_v58_a_result_tlv_of_any_length_is_read_or_refused(length: int) -> None:
    packet = Packet(Code.RESPONSE, 1, EapType.EXTENSIONS, peap.result(Code.RESPONSE, 1)[5 : 5 + length])
    if length in (0, 6, 7, 8, 9, 10, 11, 12, 13):
        assert peap.read_result(packet) == (1 if length else 0)
    else:
        with pytest.raises(Malformed):
            peap.read_result(packet)


def assemble(packets: list[bytes]) -> framing.Assembly:
    assembly = framing.Assembly()
    for data in packets:
        assembly.add(data)
    return assembly


def test_fragments_of_a_flight_are_bounded_and_advance() -> None:
    for packets in (
        [b"\x40"] * 2,
        [b"\xc0\x00\x01\x00\x01" + b"x" * 10],
        [b"\xc0\x00\x00\x00\x20" + b"x" * 10, b"\x00" + b"x"],
        [b"\x40" + b"x"] * 100,
        [b"\xc0\x00\x00\x00\x20" + b"x", b"\xc0\x00\x00\x00\x21" + b"x"],
        [b""],
        [b"\x80\x00"],
    ):
        with pytest.raises((EapFailed, Malformed)):
            assemble(packets)


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 2000, 12_345])
def test_a_flight_of_any_size_comes_together_again(size: int) -> None:
    flight = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assembly = framing.Assembly()
    more = [assembly.add(data) for data in framing.split(flight)]
    assert assembly.flight == flight
    assert not more[-1]
    assert all(more[:-1])


@VERSIONS
@pytest.mark.parametrize("way", list(INNER))
def test_no_flipped_octet_of_any_packet_authenticates_to_another_key(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], way: str
) -> None:
    limited(monkeypatch, newest)
    kind, inside = INNER[way]
    made = ends(kind=kind, inside=inside)
    _, _, packets = made.talk()
    for number in range(2, len(packets)):
        for place in (0, 1, 5, len(packets[number - 1].data) // 2 + 5, -1):

            def flip(count: int, octets: bytes, is_server: bool) -> bytes:
                if count != number:  # noqa: B023
                    return octets
                at = place % len(octets)  # noqa: B023
                return octets[:at] + bytes((octets[at] ^ 0x11,)) + octets[at + 1 :]

            try:
                ours, theirs, _ = converse([made.serving()], [made.calling()], tamper=flip)
            except AuthenticationError:
                continue
            assert ours.outcome.msk == theirs.outcome.msk
            assert ours.outcome.msk
