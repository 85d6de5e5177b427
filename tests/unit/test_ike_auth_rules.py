"""IKE_AUTH under attack: a peer with the right keys of IKE_SA_INIT, and everything else wrong.

RFC 7296, sections 2.15, 2.21.2, 3.5 to 3.8. Whatever it says, nobody is authenticated who is not: V2, V3,
V6 (CVE-2014-2338), V9 (CVE-2015-4171), T24, T25 of the security bar.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from cygnet.auth.credentials import Credentials, OwnKey
from cygnet.auth.identity import Identity
from cygnet.auth.proof import Proof, prove_with_secret
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth, Unique
from cygnet.ike.errors import Reason
from cygnet.wire.message import Message, decode, encode
from cygnet.wire.numbers import AuthMethod, CertEncoding, Exchange, IdType, Notify, Prf, Protocol
from cygnet.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertReqPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
)
from tests.unit.auth_material import NOW, Held, ca, entity, holding, key
from tests.unit.ike_by_hand import (
    HASHES,
    Moon,
    Prover,
    Sun,
    connection,
    esp_proposal,
    selectors,
    with_key,
    with_secret,
)

MOON, SUN, VENUS = (Identity.parse(f"{name}.example.org") for name in ("moon", "sun", "venus"))
SECRET = b"the secret of moon and sun, long"
ROOT, OTHER = ca("CN=Root"), ca("CN=Other")
SUN_HELD = entity(ROOT, "CN=sun", ["dns:sun.example.org", "ip:192.0.2.2"], holder=key("p256", "sun"))
MOON_HELD = entity(ROOT, "CN=moon", ["dns:moon.example.org"], holder=key("p256", "moon"))

PSK = connection("peer", LocalAuth(AuthClass.PSK, MOON), RemoteAuth(AuthClass.PSK, SUN))
CERT = connection(
    "peer",
    LocalAuth(AuthClass.PUBKEY, MOON, (MOON_HELD.der,)),
    RemoteAuth(AuthClass.PUBKEY, SUN, ca_certificates=(ROOT.der,)),
)
BOTH_ROLES = pytest.mark.parametrize("initiator", [True, False], ids=["we answer", "we initiate"])


def store() -> Credentials:
    """Moon's: a secret with sun; its own key; two CAs."""
    credentials = holding(MOON_HELD)
    credentials.add_shared("sun", "ike", SECRET, [MOON, SUN])
    for one in (ROOT, OTHER):
        credentials.add_certificate(one.der, ca=True)
    return credentials


def own(held: Held, identity: Identity | None = None) -> OwnKey:
    return holding(held).own_key([held.der], identity)


def meet(
    initiator: bool, *connections: Connection, credentials: Credentials | None = None, announce: bool = True
) -> tuple[Moon, Sun]:
    """Moon, and a sun that has done IKE_SA_INIT with it; `initiator`: sun starts."""
    moon = Moon(credentials or store(), *connections)
    sun = Sun(initiator, announce=announce)
    if not initiator:
        moon.initiate(connections[0].name)
    return moon, sun.first(moon)


def say(moon: Moon, sun: Sun, payloads: Iterable[Payload]) -> list[Message]:
    """Sun's IKE_AUTH message; what moon says to it."""
    if sun.initiator:
        answer = sun.request(moon, payloads)
        return [] if answer is None else [answer]
    return sun.answer(moon, payloads)


def good(sun: Sun, way: Connection = CERT) -> list[Payload]:
    if way is PSK:
        return sun.authentication(SUN, with_secret(SECRET), asked=MOON)
    return sun.authentication(SUN, with_key(own(SUN_HELD)), [SUN_HELD.der], asked=MOON)


def notifies(messages: list[Message]) -> list[int]:
    return [p.type for m in messages for p in m.payloads if isinstance(p, NotifyPayload)]


def refused(moon: Moon, said: list[Message], *, why: Reason | None = None) -> None:
    """Nothing came of it, the peer heard no more than that it failed, and people hear why."""
    assert moon.untouched
    told = set(notifies(said))
    assert told <= {Notify.AUTHENTICATION_FAILED, Notify.INVALID_SYNTAX}
    for message in said:
        assert not [p for p in message.payloads if isinstance(p, (AuthPayload, IdrPayload, CertPayload))]
    assert moon.failures
    if why is not None:
        assert moon.failures[-1].reason == why


@BOTH_ROLES
@pytest.mark.parametrize("way", [PSK, CERT], ids=["psk", "certificate"])
def test_a_good_peer_gets_its_tunnel(initiator: bool, way: Connection) -> None:
    moon, sun = meet(initiator, way)
    said = say(moon, sun, good(sun, way))
    (up,) = moon.established
    assert up.sa.remote_id == SUN
    assert moon.failures == []
    if initiator:
        assert [p for p in said[0].payloads if isinstance(p, TsrPayload)]


# V6: before authentication there is nothing but IKE_AUTH


def other_requests(sun: Sun) -> dict[str, tuple[int, list[Payload]]]:
    child: list[Payload] = [esp_proposal(), NoncePayload(b"\x44" * 32)]
    traffic: list[Payload] = [TsiPayload(selectors("2")), TsrPayload(selectors("1"))]
    return {
        "CREATE_CHILD_SA": (Exchange.CREATE_CHILD_SA, [*child, *traffic]),
        "INFORMATIONAL": (Exchange.INFORMATIONAL, []),
        "delete": (Exchange.INFORMATIONAL, [DeletePayload(Protocol.IKE, ())]),
        "INITIAL_CONTACT": (
            Exchange.INFORMATIONAL,
            [NotifyPayload(0, b"", Notify.INITIAL_CONTACT, b"")],
        ),
        "AUTHENTICATION_FAILED": (
            Exchange.INFORMATIONAL,
            [NotifyPayload(0, b"", Notify.AUTHENTICATION_FAILED, b"")],
        ),
        "IKE_SA_INIT": (Exchange.IKE_SA_INIT, [*child, *traffic]),
        "IKE_INTERMEDIATE": (43, []),
        "IKE_FOLLOWUP_KE": (44, child),
        "IKE_SESSION_RESUME": (38, child),
        "unknown": (99, []),
        "IKE_AUTH of the other direction": (
            Exchange.IKE_AUTH,
            good(replace(sun, initiator=not sun.initiator)),
        ),
    }


@BOTH_ROLES
@pytest.mark.parametrize("message_id", [0, 1, 2])
def test_no_exchange_but_ike_auth_does_anything_before_authentication(
    initiator: bool, message_id: int
) -> None:
    """CVE-2014-2338: CREATE_CHILD_SA made an IKE SA ESTABLISHED without any credential."""
    moon, sun = meet(initiator, CERT)
    for title, (exchange, payloads) in other_requests(sun).items():
        if title.startswith("IKE_AUTH") and initiator:
            continue
        answer = moon.receive(sun.seal(payloads, exchange, message_id))
        assert answer == [], title
        assert moon.untouched, title
    # It has done no harm either.
    say(moon, sun, good(sun))
    assert len(moon.established) == 1


@BOTH_ROLES
def test_answers_of_another_exchange_do_nothing(initiator: bool) -> None:
    moon, sun = meet(initiator, CERT)
    for exchange, payloads in other_requests(sun).values():
        if exchange == Exchange.IKE_AUTH:
            continue
        for message_id in range(3):
            moon.receive(sun.seal(payloads, exchange, message_id, response=True))
            assert moon.untouched
    say(moon, sun, good(sun))
    assert len(moon.established) == 1


def test_ike_auth_outside_of_sk_is_nothing() -> None:
    moon, sun = meet(True, CERT)
    clear = encode(sun.header(Exchange.IKE_AUTH, 1, response=False), good(sun))
    assert moon.receive(clear) == []
    assert moon.untouched
    assert sun.request(moon, good(sun)) is not None
    assert len(moon.established) == 1


def test_keys_of_another_ike_sa_open_nothing() -> None:
    moon, sun = meet(True, CERT)
    stranger = Sun(True, spi_i=b"\x44" * 8, nonce=b"\x55" * 32).first(moon)
    sun.keys, keys = stranger.keys, sun.keys
    assert moon.receive(sun.seal(good(sun), Exchange.IKE_AUTH, 1)) == []
    assert moon.untouched
    assert moon.drops[-1] == "integrity"
    sun.keys = keys


# V3: every payload missing, doubled, or in another's place


@BOTH_ROLES
@pytest.mark.parametrize("way", [PSK, CERT], ids=["psk", "certificate"])
def test_without_any_payload_that_proves_nobody_is_authenticated(initiator: bool, way: Connection) -> None:
    """The power set of removals: an IKE SA stands only if identity, proof and certificate were there."""
    _, sun = meet(initiator, way)
    count = len(good(sun, way))
    for kept in itertools.product([True, False], repeat=count):
        moon, sun = meet(initiator, way)
        payloads = [p for p, wanted in zip(good(sun, way), kept, strict=True) if wanted]
        here = {type(p) for p in payloads}
        said = say(moon, sun, payloads)
        needed: set[type[object]] = {IdiPayload if initiator else IdrPayload, AuthPayload}
        if way is CERT:
            needed.add(CertPayload)
        # Part of what a Child SA needs makes the message illegal as a whole.
        child = {SaPayload, TsiPayload, TsrPayload}
        legal = child & here in (set(), child)
        if not needed <= here:
            refused(moon, said)
        elif legal:
            assert len(moon.established) == 1
        else:
            assert len(moon.established) <= 1
        if not child <= here:
            assert not [event for event in moon.events if type(event).__name__ == "ChildSaUp"]


@BOTH_ROLES
def test_doubled_payloads_are_refused(initiator: bool) -> None:
    _, sun = meet(initiator, CERT)
    for index in range(len(good(sun))):
        moon, sun = meet(initiator, CERT)
        payloads = good(sun)
        doubled = payloads[index]
        said = say(moon, sun, [*payloads, doubled])
        if isinstance(doubled, CertPayload):
            assert len(moon.established) == 1
        else:
            refused(moon, said)


@BOTH_ROLES
def test_the_identity_of_the_other_side_is_no_identity(initiator: bool) -> None:
    moon, sun = meet(initiator, CERT)
    payloads = good(sun)
    swapped: list[Payload] = []
    for payload in payloads:
        if isinstance(payload, IdiPayload):
            swapped.append(IdrPayload(payload.id_type, payload.data))
        elif isinstance(payload, IdrPayload):
            swapped.append(IdiPayload(payload.id_type, payload.data))
        else:
            swapped.append(payload)
    refused(moon, say(moon, sun, swapped))


@BOTH_ROLES
def test_payloads_of_later_methods_stand_in_for_no_proof(initiator: bool) -> None:
    for extra in ([], [EapPayload(b"\x03\x01\x00\x04")], [EapPayload(b"\x02\x01\x00\x05\x01")]):
        moon, sun = meet(initiator, CERT)
        payloads = [p for p in good(sun) if not isinstance(p, AuthPayload)]
        refused(moon, say(moon, sun, [*payloads, *extra]))


# 2.15: what is signed


def broken_provers(prove: Prover) -> dict[str, Prover]:
    """Proofs over nearly the right octets, and nearly right proofs."""

    def over(change: Callable[[bytes], bytes]) -> Prover:
        return lambda octets: prove(change(octets))

    def after(change: Callable[[Proof], Proof]) -> Prover:
        return lambda octets: change(prove(octets))

    return {
        "nothing": over(lambda octets: b""),
        "another message": over(lambda octets: octets[:30] + bytes((octets[30] ^ 1,)) + octets[31:]),
        "another nonce": over(lambda octets: octets[:-40] + bytes((octets[-40] ^ 1,)) + octets[-39:]),
        "another identity": over(lambda octets: octets[:-1] + bytes((octets[-1] ^ 1,))),
        "one octet less": over(lambda octets: octets[:-1]),
        "one octet more": over(lambda octets: octets + b"\x00"),
        "a flipped bit": after(lambda made: Proof(made.method, made.data[:-1] + bytes((made.data[-1] ^ 1,)))),
        "cut off": after(lambda made: Proof(made.method, made.data[:-1])),
        "empty": after(lambda made: Proof(made.method, b"")),
        **{
            f"method {number}": after(lambda made, number=number: Proof(number, made.data))  # type: ignore[misc]
            for number in (0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 201, 255)
        },
    }


@BOTH_ROLES
@pytest.mark.parametrize("way", [PSK, CERT], ids=["psk", "certificate"])
def test_a_proof_over_anything_else_authenticates_nobody(initiator: bool, way: Connection) -> None:
    prove = with_secret(SECRET) if way is PSK else with_key(own(SUN_HELD))
    certificates = [] if way is PSK else [SUN_HELD.der]
    genuine = {"method 2"} if way is PSK else {"method 14"}
    for title, broken in broken_provers(prove).items():
        moon, sun = meet(initiator, way)
        said = say(moon, sun, sun.authentication(SUN, broken, certificates))
        if title in genuine:
            assert len(moon.established) == 1
        else:
            refused(moon, said)


@BOTH_ROLES
def test_the_octets_of_the_other_direction_are_no_proof(initiator: bool) -> None:
    """One's own message, nonce and key in the other's place: the roles must not be exchangeable."""
    for swap in ("message", "nonce", "key"):
        moon, sun = meet(initiator, PSK)
        odd = replace(sun)
        if swap == "message":
            odd.sent = sun.received
        elif swap == "nonce":
            odd.their_nonce = sun.nonce
        else:
            assert sun.keys is not None
            odd.keys = replace(sun.keys, sk_pi=sun.keys.sk_pr, sk_pr=sun.keys.sk_pi)
        payloads = odd.authentication(SUN, with_secret(SECRET))
        refused(moon, say(moon, sun, payloads), why=Reason.PSK_MISMATCH)


def test_our_own_proof_sent_back_is_none() -> None:
    """Reflection: the peer knows no secret and repeats ours, where anybody is let in."""
    way = replace(PSK, remote=(RemoteAuth(AuthClass.PSK, None),))
    credentials = Credentials()
    credentials.add_shared("any", "ike", SECRET)
    moon, sun = meet(False, way, credentials=credentials)
    request = sun.open(moon.sent[-1])
    mine = request.one(IdiPayload)
    reflected: list[Payload] = [
        IdrPayload(mine.id_type, mine.data),
        request.one(AuthPayload),
        esp_proposal(),
        TsiPayload(selectors("1")),
        TsrPayload(selectors("2")),
    ]
    refused(moon, sun.answer(moon, reflected), why=Reason.PSK_MISMATCH)


@BOTH_ROLES
def test_the_reserved_octets_of_the_identity_are_signed_as_they_were_sent(initiator: bool) -> None:
    """RFC 7296, 2.15: RestOfIDPayload includes RESERVED; 3.5: which is ignored on receipt."""
    moon, sun = meet(initiator, PSK)
    payloads = sun.authentication(SUN, with_secret(SECRET))
    kind = IdiPayload if initiator else IdrPayload
    odd = kind(SUN.type, SUN.data, reserved=b"\x01\x02\x03")
    say(moon, sun, [odd, sun.proof(odd, with_secret(SECRET)), *payloads[2:]])
    assert len(moon.established) == 1
    moon, sun = meet(initiator, PSK)
    payloads = sun.authentication(SUN, with_secret(SECRET))
    refused(moon, say(moon, sun, [odd, *payloads[1:]]), why=Reason.PSK_MISMATCH)


@BOTH_ROLES
def test_a_failed_proof_has_no_second_chance(initiator: bool) -> None:
    moon, sun = meet(initiator, PSK)
    said = say(moon, sun, sun.authentication(SUN, with_secret(b"x" * 32)))
    refused(moon, said, why=Reason.PSK_MISMATCH)
    for message_id in range(4):
        for response in (True, False):
            moon.receive(sun.seal(good(sun, PSK), Exchange.IKE_AUTH, message_id, response=response))
    assert moon.untouched


@BOTH_ROLES
def test_a_classic_method_is_refused_where_hashes_were_announced(initiator: bool) -> None:
    """RFC 7427, section 3; the same method serves a peer that announced nothing."""
    old = with_key(own(SUN_HELD), None)
    moon, sun = meet(initiator, CERT)
    said = say(moon, sun, sun.authentication(SUN, old, [SUN_HELD.der]))
    refused(moon, said, why=Reason.AUTH_METHOD_MISMATCH)
    moon, sun = meet(initiator, CERT, announce=False)
    say(moon, sun, sun.authentication(SUN, old, [SUN_HELD.der]))
    assert len(moon.established) == 1
    moon, sun = meet(initiator, CERT, announce=False)
    said = say(moon, sun, sun.authentication(SUN, with_key(own(SUN_HELD), HASHES), [SUN_HELD.der]))
    refused(moon, said, why=Reason.AUTH_METHOD_MISMATCH)


# V9, T24: who it is


def rogues() -> dict[str, tuple[Held, Identity, Reason]]:
    past, future = NOW - timedelta(days=1), NOW + timedelta(days=1)
    sun = ["dns:sun.example.org"]
    return {
        "another trusted CA": (entity(OTHER, "CN=sun", sun), SUN, Reason.CERTIFICATE_UNTRUSTED),
        "self-signed": (entity(None, "CN=sun", sun), SUN, Reason.CERTIFICATE_UNTRUSTED),
        "another gateway of our CA": (
            entity(ROOT, "CN=venus", ["dns:venus.example.org"]),
            SUN,
            Reason.CERTIFICATE_ID_MISMATCH,
        ),
        "another gateway that says so": (
            entity(ROOT, "CN=venus", ["dns:venus.example.org"]),
            VENUS,
            Reason.PEER_ID_MISMATCH,
        ),
        "the name only in CN": (entity(ROOT, "CN=sun.example.org", []), SUN, Reason.CERTIFICATE_ID_MISMATCH),
        "expired": (entity(ROOT, "CN=sun", sun, end=past), SUN, Reason.CERTIFICATE_EXPIRED),
        "not yet valid": (entity(ROOT, "CN=sun", sun, start=future), SUN, Reason.CERTIFICATE_NOT_YET_VALID),
        "the CA itself": (ROOT, SUN, Reason.CERTIFICATE_INVALID),
        "issued by a gateway": (entity(SUN_HELD, "CN=sun", sun), SUN, Reason.CERTIFICATE_UNTRUSTED),
        "ourselves": (MOON_HELD, MOON, Reason.PEER_ID_MISMATCH),
        "our certificate": (MOON_HELD, SUN, Reason.CERTIFICATE_ID_MISMATCH),
    }


@BOTH_ROLES
@pytest.mark.parametrize("title", rogues())
def test_a_rogue_gets_nothing_and_people_hear_why(initiator: bool, title: str) -> None:
    held, claimed, why = rogues()[title]
    moon, sun = meet(initiator, CERT)
    said = say(moon, sun, sun.authentication(claimed, with_key(own(held)), [held.der]))
    refused(moon, said, why=why)


@BOTH_ROLES
def test_the_certificate_of_the_peer_without_its_key_is_worth_nothing(initiator: bool) -> None:
    moon, sun = meet(initiator, CERT)
    impostor = entity(ROOT, "CN=venus", ["dns:venus.example.org"], holder=key("p256", "venus"))
    prove = with_key(own(impostor))
    said = say(moon, sun, sun.authentication(SUN, prove, [SUN_HELD.der, impostor.der]))
    refused(moon, said, why=Reason.SIGNATURE_INVALID)


@BOTH_ROLES
def test_a_secret_does_not_open_what_asks_for_a_certificate_nor_the_reverse(initiator: bool) -> None:
    moon, sun = meet(initiator, CERT)
    said = say(moon, sun, sun.authentication(SUN, with_secret(SECRET), [SUN_HELD.der]))
    refused(moon, said, why=Reason.AUTH_METHOD_MISMATCH)
    moon, sun = meet(initiator, PSK)
    said = say(moon, sun, sun.authentication(SUN, with_key(own(SUN_HELD)), [SUN_HELD.der]))
    refused(moon, said, why=Reason.AUTH_METHOD_MISMATCH)


def test_a_rogue_responder_learns_no_more_than_the_first_message() -> None:
    """CVE-2015-4171: what we send after a bad answer is one notification, and then nothing."""
    rogue = entity(OTHER, "CN=sun", ["dns:sun.example.org"])
    moon, sun = meet(False, CERT)
    (said,) = sun.answer(moon, sun.authentication(SUN, with_key(own(rogue)), [rogue.der]))
    assert said.header.exchange == Exchange.INFORMATIONAL
    assert [type(p) for p in said.payloads] == [NotifyPayload]
    assert notifies([said]) == [Notify.AUTHENTICATION_FAILED]
    answer = sun.seal([], Exchange.INFORMATIONAL, 2, response=True)
    assert moon.receive(answer) == []
    assert moon.untouched


def test_an_answer_that_cannot_be_read_or_obeyed_is_reported_and_the_ike_sa_deleted() -> None:
    """RFC 7296, 2.21.2: the responder thinks that it stands; two errors alone say that it does not."""
    unknown = UnknownPayload(200, critical=True, data=b"")
    eap = EapPayload(b"")
    for extra, error, deletes in (
        (unknown, Notify.UNSUPPORTED_CRITICAL_PAYLOAD, 1),
        (eap, Notify.INVALID_SYNTAX, 0),
    ):
        moon, sun = meet(False, CERT)
        (said,) = sun.answer(moon, [*good(sun), extra])
        assert said.header.exchange == Exchange.INFORMATIONAL
        assert notifies([said]) == [error]
        assert len(said.all(DeletePayload)) == deletes
        assert moon.untouched
        moon.receive(sun.seal([], Exchange.INFORMATIONAL, 2, response=True))
        assert list(moon.endpoint.sas()) == []


@pytest.mark.parametrize(
    ("id_type", "data"),
    [
        (IdType.FQDN, b""),
        (IdType.FQDN, b"sun.example.org\x00"),
        (IdType.FQDN, b"sun.example.org\r\nforged: line"),
        (IdType.FQDN, b"*.example.org"),
        (IdType.FQDN, b"*"),
        (IdType.FQDN, b"sun.example.org" * 4000),
        (IdType.IPV4_ADDR, b"\xc0\x00\x02"),
        (IdType.IPV6_ADDR, b"\xc0\x00\x02\x02"),
        (IdType.DER_ASN1_DN, b"\x30\x00"),
        (IdType.DER_ASN1_DN, SUN_HELD.certificate.subject + b"\x00"),
        (IdType.DER_ASN1_DN, SUN_HELD.certificate.subject[:-1]),
        (IdType.DER_ASN1_GN, b"sun.example.org"),
        (IdType.KEY_ID, b"sun.example.org"),
        (IdType.NULL, b""),
        (0, b"sun.example.org"),
        (4, b"\xc0\x00\x02\x02\xff\xff\xff\xff"),
        (255, b"sun.example.org"),
    ],
)
@BOTH_ROLES
def test_an_odd_identity_is_nobody(initiator: bool, id_type: int, data: bytes) -> None:
    """V4, V34, V36: lengths, terminators, patterns and unknown types."""
    for way, prove, certificates in (
        (PSK, with_secret(SECRET), []),
        (CERT, with_key(own(SUN_HELD)), [SUN_HELD.der]),
    ):
        moon, sun = meet(initiator, way)
        said = say(moon, sun, sun.authentication(Identity(id_type, data), prove, certificates))
        refused(moon, said)
        assert all(failure.detail.isprintable() for failure in moon.failures)


def test_who_asks_for_somebody_else_does_not_get_us() -> None:
    moon, sun = meet(True, CERT)
    payloads = sun.authentication(SUN, with_key(own(SUN_HELD)), [SUN_HELD.der], asked=VENUS)
    refused(moon, say(moon, sun, payloads), why=Reason.LOCAL_ID_REFUSED)


@BOTH_ROLES
def test_the_first_certificate_counts_and_garbage_around_it_does_not(initiator: bool) -> None:
    moon, sun = meet(initiator, CERT)
    below = ca("CN=Below", ROOT)
    held = entity(below, "CN=sun", ["dns:sun.example.org"])
    payloads = sun.authentication(SUN, with_key(own(held)), [held.der, b"garbage", OTHER.der, below.der])
    odd = [
        CertPayload(CertEncoding.X509_HASH_AND_URL, bytes(20) + b"http://127.0.0.1/"),
        CertPayload(CertEncoding.CRL, b"crl"),
        *payloads,
    ]
    say(moon, sun, odd)
    assert len(moon.established) == 1
    moon, sun = meet(initiator, CERT)
    payloads = sun.authentication(SUN, with_key(own(SUN_HELD)), [OTHER.der, SUN_HELD.der])
    refused(moon, say(moon, sun, payloads))
    moon, sun = meet(initiator, CERT)
    payloads = sun.authentication(SUN, with_key(own(SUN_HELD)), [b"garbage", SUN_HELD.der])
    refused(moon, say(moon, sun, payloads), why=Reason.CERTIFICATE_INVALID)


@BOTH_ROLES
def test_too_many_or_too_large_certificates_are_refused(initiator: bool) -> None:
    for certificates in ([SUN_HELD.der] * 15, [bytes(40_000)], [SUN_HELD.der] * 40):
        moon, sun = meet(initiator, CERT)
        said = say(moon, sun, sun.authentication(SUN, with_key(own(SUN_HELD)), certificates))
        refused(moon, said)


# T25: which connection


def numbered(
    number: int, *, by_identity: bool, psk: bool, authority: Held
) -> tuple[Connection, Held, Identity, bytes]:
    identity = Identity.parse(f"peer{number}.example.org")
    held = entity(authority, f"CN=peer{number}", [f"dns:{identity}"], holder=key("p256", f"n{number}"))
    remote = RemoteAuth(
        AuthClass.PSK if psk else AuthClass.PUBKEY,
        identity if by_identity else None,
        ca_certificates=() if psk else (authority.der,),
    )
    local = LocalAuth(AuthClass.PUBKEY, MOON, (MOON_HELD.der,))
    return connection(f"c{number}", local, remote), held, identity, f"secret of number {number:020}".encode()


def test_twenty_peers_and_twenty_credentials_meet_on_the_diagonal_only() -> None:
    credentials = holding(MOON_HELD)
    peers = [numbered(n, by_identity=True, psk=bool(n % 2), authority=ROOT) for n in range(20)]
    for n, (_, _, identity, secret) in enumerate(peers):
        credentials.add_shared(f"s{n}", "ike", secret, [identity])
    credentials.add_certificate(ROOT.der, ca=True)
    passed = []
    for mine, claimed, as_psk in itertools.product(range(20), range(20), (True, False)):
        moon, sun = meet(True, *[one[0] for one in peers], credentials=credentials)
        _, held, _, secret = peers[mine]
        prove = with_secret(secret) if as_psk else with_key(own(held))
        say(moon, sun, sun.authentication(peers[claimed][2], prove, [] if as_psk else [held.der]))
        if moon.established:
            assert moon.established[0].sa.connection == f"c{claimed}"
            passed.append((mine, claimed, as_psk))
        else:
            assert moon.untouched
    assert passed == [(n, n, bool(n % 2)) for n in range(20)]


def test_connections_that_differ_by_their_ca_only_are_told_apart_by_it() -> None:
    authorities = [ca(f"CN=CA {n}") for n in range(20)]
    peers = [
        numbered(n, by_identity=False, psk=False, authority=authority)
        for n, authority in enumerate(authorities)
    ]
    credentials = holding(MOON_HELD)
    for authority in authorities:
        credentials.add_certificate(authority.der, ca=True)
    for n, (_, held, identity, _) in enumerate(peers):
        moon, sun = meet(True, *[one[0] for one in peers], credentials=credentials)
        say(moon, sun, sun.authentication(identity, with_key(own(held)), [held.der]))
        (up,) = moon.established
        assert up.sa.connection == f"c{n}"


def road_warriors(remote_id: str | None) -> tuple[Connection, Credentials]:
    """A connection for many, by a secret that all of them have."""
    pattern = None if remote_id is None else Identity.parse(remote_id)
    credentials = store()
    credentials.remove_shared("sun")
    credentials.add_shared("group", "ike", SECRET, [] if pattern is None else [pattern])
    local = LocalAuth(AuthClass.PSK, MOON)
    return connection("warriors", local, RemoteAuth(AuthClass.PSK, pattern)), credentials


@pytest.mark.parametrize("remote_id", [None, "*.example.org"])
@pytest.mark.parametrize("first", [True, False])
def test_a_member_of_a_group_cannot_be_one_who_has_a_connection_of_its_own(
    remote_id: str | None, first: bool
) -> None:
    """RFC 4945, section 3.1.10: the most specific policy is used; else a weaker one lets impostors in."""
    warriors, credentials = road_warriors(remote_id)
    ways = [warriors, CERT] if first else [CERT, warriors]
    moon, sun = meet(True, *ways, credentials=credentials)
    refused(moon, say(moon, sun, sun.authentication(SUN, with_secret(SECRET))))
    moon, sun = meet(True, *ways, credentials=credentials)
    say(moon, sun, sun.authentication(VENUS, with_secret(SECRET)))
    assert moon.established[0].sa.connection == "warriors"
    moon, sun = meet(True, *ways, credentials=credentials)
    say(moon, sun, good(sun))
    assert moon.established[0].sa.connection == "peer"


@pytest.mark.parametrize("unique", list(Unique))
def test_initial_contact_of_an_impostor_closes_nothing(unique: Unique) -> None:
    way = replace(CERT, unique=unique)
    moon, sun = meet(True, way)
    say(moon, sun, good(sun))
    impostor = Sun(True, spi_i=b"\x55" * 8).first(moon)
    rogue = entity(OTHER, "CN=sun", ["dns:sun.example.org"])
    payloads = impostor.authentication(SUN, with_key(own(rogue)), [rogue.der])
    say(moon, impostor, [*payloads, NotifyPayload(0, b"", Notify.INITIAL_CONTACT, b"")])
    assert [view.state for view in moon.endpoint.sas()] == ["ESTABLISHED"]
    assert len(moon.established) == 1


# Our own side


@BOTH_ROLES
def test_without_our_own_credential_nothing_is_established(initiator: bool) -> None:
    bare = Credentials()
    for one in (ROOT, OTHER):
        bare.add_certificate(one.der, ca=True)
    moon, sun = meet(True, CERT, credentials=bare) if initiator else (Moon(bare, CERT), Sun(False))
    if initiator:
        refused(moon, say(moon, sun, good(sun)), why=Reason.PRIVATE_KEY_MISSING)
        return
    moon.initiate("peer")
    sun.first(moon)
    assert moon.untouched
    assert moon.failures[-1].reason == Reason.PRIVATE_KEY_MISSING
    assert decode(moon.sent[-1]).header.exchange == Exchange.IKE_SA_INIT


def test_a_certificate_is_asked_for_and_given_as_configured() -> None:
    moon, sun = meet(False, CERT)
    request = sun.open(moon.sent[-1])
    (asked,) = request.all(CertReqPayload)
    assert asked.data == ROOT.certificate.key_hash()
    # IKE_SA_INIT's answer carried no CERTREQ: nothing but the proof is sent.
    assert request.all(CertPayload) == ()
    assert request.one(AuthPayload).method == AuthMethod.DIGITAL_SIGNATURE
    moon, sun = meet(True, CERT)
    wanted = CertReqPayload(CertEncoding.X509_SIGNATURE, ROOT.certificate.key_hash())
    (answer,) = say(moon, sun, [*good(sun), wanted])
    assert [p.data for p in answer.all(CertPayload)] == [MOON_HELD.der]


def test_the_prf_of_the_proof_is_the_negotiated_one() -> None:
    moon, sun = meet(True, PSK)
    payloads = sun.authentication(
        SUN, lambda octets: prove_with_secret(SECRET, Prf.PRF_HMAC_SHA2_512, octets)
    )
    refused(moon, say(moon, sun, payloads), why=Reason.PSK_MISMATCH)
