"""Algorithms, public values and nonces under attack, in both roles: what is accepted is sound and usable.

RFC 6989, RFC 7296, sections 2.10, 2.12 and 3.3 (docs/security.md has the list of cases).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from cygnet.crypto import modp
from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.key_exchange import SUPPORTED_GROUPS, generate, public_length
from cygnet.crypto.proposals import KEYWORDS, parse_proposals
from cygnet.ike.errors import Reason
from cygnet.wire.message import decode, encode
from cygnet.wire.numbers import (
    Encr,
    Exchange,
    Flags,
    Integ,
    KeMethod,
    Notify,
    Prf,
    Protocol,
    TransformType,
)
from cygnet.wire.payloads import (
    Attribute,
    AuthPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Proposal,
    SaPayload,
    Transform,
)
from tests.unit.ike_by_hand import Sun, esp_proposal, ike_proposal
from tests.unit.security_by_hand import (
    OPEN_DOOR,
    ROLES,
    Talk,
    Watched,
    first_request,
    good_first,
    notifies,
    psk_connection,
    requests_of,
)


def test_v7_no_group_number_is_taken_that_is_not_configured() -> None:
    """CVE-2014-9221: an internal number was reachable from the wire. INVALID_KE_PAYLOAD or silence."""
    numbers = [*range(300), *range(1000, 1050), *range(1050, 65536, 331), 65535]
    moon = Watched(options=OPEN_DOOR)
    for group in numbers:
        if group == KeMethod.CURVE_25519:
            continue
        spi = (1 << 32 | group).to_bytes(8, "big")
        sa, _, nonce = good_first()
        for answer in moon.receive(first_request([sa, KePayload(group, bytes(32)), nonce], spi=spi)):
            message = decode(answer)
            assert notifies(message) == [Notify.INVALID_KE_PAYLOAD]
            assert message.one(NotifyPayload).data == b"\x00\x1f"
    assert len(moon.endpoint.half_open) == 0
    assert moon.endpoint.by_number == {}


def test_v7_an_offer_of_nothing_but_foreign_groups_is_refused() -> None:
    moon = Watched(options=OPEN_DOOR)
    (proposal,) = ike_proposal().proposals
    for group in [*range(60), *range(1020, 1030), 65535]:
        if group == KeMethod.CURVE_25519:
            continue
        transforms = [t for t in proposal.transforms if t.type != TransformType.KE]
        sa = SaPayload((replace(proposal, transforms=(*transforms, Transform(TransformType.KE, group))),))
        spi = (2 << 32 | group).to_bytes(8, "big")
        request = first_request([sa, KePayload(group, bytes(32)), good_first()[2]], spi=spi)
        for answer in moon.receive(request):
            assert notifies(decode(answer)) == [Notify.NO_PROPOSAL_CHOSEN]
    assert moon.endpoint.by_number == {}


KEYWORD_OF_GROUP = {
    transform.id: keyword for keyword, transform in KEYWORDS.items() if transform.type == TransformType.KE
}


def bad_values(group: int) -> dict[str, bytes]:
    """Public values that RFC 6989 forbids, and lengths that are none."""
    size = public_length(group)
    good = generate(group, SeededEntropy(9)).public
    values = {
        "empty": b"",
        "short": good[:-1],
        "long": good + b"\0",
        "half": good[: size // 2],
        "zeros": bytes(size),
    }
    if group in modp.GROUPS:
        prime = modp.prime(group)
        for name, number in (("1", 1), ("p-1", prime - 1), ("p", prime), ("p+1", prime + 1)):
            values[name] = number.to_bytes(size, "big")
        values["ones"] = b"\xff" * size
    elif group in (KeMethod.CURVE_25519, KeMethod.CURVE_448):
        field = 2**255 - 19 if group == KeMethod.CURVE_25519 else 2**448 - 2**224 - 1
        for name, number in (("1", 1), ("p-1", field - 1), ("p", field), ("p+1", field + 1)):
            values[name] = number.to_bytes(size, "little")
    else:
        half = size // 2
        values["off the curve"] = good[:-1] + bytes((good[-1] ^ 1,))
        values["x twice"] = good[:half] * 2
        values["x beyond p"] = b"\xff" * half + good[half:]
        values["ones"] = b"\xff" * size
    return values


TRIED_GROUPS = [
    g for g in SUPPORTED_GROUPS if g not in modp.GROUPS or g in (KeMethod.MODP_2048, KeMethod.MODP_3072)
]


@pytest.mark.parametrize("group", TRIED_GROUPS, ids=KeMethod.name_of)
def test_v12_v80_t19_no_bad_public_value_of_an_initiator_makes_a_state(group: int) -> None:
    """CVE-2015-3240, CVE-2023-41913, and invalid curve points: silence, and no SA."""
    connection = _with_group(group)
    moon = Watched(connection, options=OPEN_DOOR)
    (proposal,) = ike_proposal().proposals
    others = tuple([t for t in proposal.transforms if t.type != TransformType.KE])
    sa = SaPayload((replace(proposal, transforms=(*others, Transform(TransformType.KE, group))),))
    for number, (title, value) in enumerate(bad_values(group).items(), 1):
        request = first_request([sa, KePayload(group, value), good_first()[2]], spi=number.to_bytes(8, "big"))
        assert moon.receive(request) == [], title
        assert moon.endpoint.by_number == {}, title
        assert moon.drops[-1] == "illegal-payload"
    good = generate(group, SeededEntropy(9)).public
    assert len(moon.receive(first_request([sa, KePayload(group, good), good_first()[2]]))) == 1


@pytest.mark.parametrize("group", TRIED_GROUPS, ids=KeMethod.name_of)
def test_v79_v80_no_bad_public_value_of_a_responder_is_taken(group: int) -> None:
    """Thirteen operators' phones took a shared secret of zero: our initiator goes on waiting instead."""
    moon = Watched(_with_group(group))
    moon.initiate("peer")
    sun = Sun(False)
    offer = decode(moon.sent[0])
    sun.spi_i = offer.header.initiator_spi
    before = moon.picture()
    header = sun.header(Exchange.IKE_SA_INIT, 0, response=True)
    sa = offer.one(SaPayload)
    for title, value in bad_values(group).items():
        assert (
            moon.receive(encode(header, [sa, KePayload(group, value), NoncePayload(b"\x33" * 32)])) == []
        ), title
        assert moon.picture() == before, title
    good = generate(group, SeededEntropy(9)).public
    moon.receive(encode(header, [sa, KePayload(group, good), NoncePayload(b"\x33" * 32)]))
    assert decode(moon.sent[-1]).header.exchange == Exchange.IKE_AUTH


@ROLES
def test_v12_bad_public_values_in_rekeys_end_in_an_error_and_leave_the_old_pair(we_answer: bool) -> None:
    connection = _with_pfs()
    for value in bad_values(KeMethod.CURVE_25519).values():
        talk = Talk(we_answer, Watched(connection)).established()
        before = set(talk.moon.in_force)
        request = [*talk.rekey_request(), KePayload(KeMethod.CURVE_25519, value)]
        request[1] = _pfs_proposal()
        answer = talk.ask(Exchange.CREATE_CHILD_SA, request)
        assert notifies(answer) == [Notify.INVALID_SYNTAX]
        # INVALID_SYNTAX ends the IKE SA at both ends (RFC 7296, section 2.21.3): nothing new, all of it gone.
        assert set(talk.moon.in_force) <= before
        assert talk.moon.objections == []


def _with_group(group: int) -> Any:
    keyword = KEYWORD_OF_GROUP[group]
    return replace(
        psk_connection(), proposals=parse_proposals(f"aes256gcm16-prfsha256-{keyword}", Protocol.IKE)
    )


def _with_pfs() -> Any:
    connection = psk_connection()
    child = replace(connection.children[0], proposals=parse_proposals("aes256gcm16-x25519", Protocol.ESP))
    return replace(connection, children=(child,))


def _pfs_proposal() -> SaPayload:
    (proposal,) = esp_proposal().proposals
    transforms = (*proposal.transforms, Transform(TransformType.KE, KeMethod.CURVE_25519))
    return SaPayload((replace(proposal, transforms=transforms, spi=b"\x0a\x0b\x0c\x0d"),))


def test_v10_whatever_is_accepted_carries_traffic() -> None:
    """CVE-2018-10811, CVE-2016-3071, CVE-2024-3652: accepted means usable, for every number of the wire."""
    from cygnet.crypto.kdf import child_keys
    from cygnet.crypto.prf import prf
    from cygnet.crypto.suites import suite
    from cygnet.ike.errors import PeerIncompatible
    from cygnet.ike.proposals import select

    everything = [
        p
        for words in (
            "null-aes128-aes192-aes256-aes128ctr-aes192ctr-aes256ctr-sha1-sha256-sha384-sha512-aesxcbc-aescmac",
            "aes128gcm16-aes192gcm16-aes256gcm16-aes128gcm12-aes256gcm12-aes128gcm8-aes256gcm8-aes128ccm16"
            "-aes256ccm16-aes128ccm12-aes256ccm12-aes128ccm8-aes256ccm8-chacha20poly1305",
        )
        for p in parse_proposals(words, Protocol.ESP)
    ]
    accepted = 0
    for cipher, bits, mac in itertools.product(
        [*range(1, 30), 1024, 65535], (None, 64, 128, 192, 256), [None, 0, 1, 2, 5, 8, 9, 12, 13, 14]
    ):
        attributes = () if bits is None else (Attribute(14, bits),)
        transforms = [Transform(TransformType.ENCR, cipher, attributes), Transform(TransformType.ESN, 0)]
        if mac is not None:
            transforms.append(Transform(TransformType.INTEG, mac))
        offer = SaPayload((Proposal(1, Protocol.ESP, b"\x01\x02\x03\x04", tuple(transforms)),))
        try:
            chosen = select(offer, everything)
        except PeerIncompatible:
            continue
        accepted += 1
        ciphers = suite(chosen.encryption, chosen.key_bits, chosen.integrity)
        keys = child_keys(prf(Prf.PRF_HMAC_SHA2_256), bytes(32), bytes(32), b"\1" * 32, None, ciphers)
        assert ciphers.icv_length >= 8
        protector = ciphers.protector(keys.encryption_initiator, keys.integrity_initiator)
        iv = bytes(ciphers.iv_length)
        sealed = protector.seal(b"spi and seq", iv, bytes(ciphers.block * 4))
        assert protector.open(b"spi and seq", iv, sealed) == bytes(ciphers.block * 4)
        if cipher not in (Encr.NULL,):
            assert keys.encryption_initiator != keys.encryption_responder
    assert accepted > 40


def ike_offers() -> dict[str, tuple[Transform, ...]]:
    """The good proposal with each transform type missing, none, or there twice."""
    (proposal,) = ike_proposal().proposals
    whole = proposal.transforms
    offers = {"whole": whole}
    for kind in (TransformType.ENCR, TransformType.PRF, TransformType.KE):
        rest = tuple([t for t in whole if t.type != kind])
        (one,) = [t for t in whole if t.type == kind]
        offers[f"no {kind}"] = rest
        offers[f"none {kind}"] = (*rest, Transform(kind, 0))
        offers[f"twice {kind}"] = (*whole, one)
    offers["integrity beside an AEAD"] = (*whole, Transform(TransformType.INTEG, Integ.HMAC_SHA2_256_128))
    offers["integrity none"] = (*whole, Transform(TransformType.INTEG, 0))
    offers["sequence numbers"] = (*whole, Transform(TransformType.ESN, 0))
    offers["type 241"] = (*whole, Transform(241, 1))
    return offers


@pytest.mark.parametrize("title", ike_offers())
def test_v11_a_transform_type_missing_none_or_twice_is_refused_or_harmless(title: str) -> None:
    """CVE-2016-5391: a proposal without a key exchange."""
    moon = Watched(options=OPEN_DOOR)
    (proposal,) = ike_proposal().proposals
    sa = SaPayload((replace(proposal, transforms=ike_offers()[title]),))
    (answer,) = moon.receive(first_request([sa, *good_first()[1:]]))
    message = decode(answer)
    if title in ("whole", "integrity none") or title.startswith("twice"):
        chosen = message.one(SaPayload).proposals[0].transforms
        assert len({t.type for t in chosen}) == len(chosen)
        assert {TransformType.ENCR, TransformType.PRF, TransformType.KE} <= {t.type for t in chosen}
    elif not message.all(SaPayload):
        assert notifies(message) == [Notify.NO_PROPOSAL_CHOSEN]
        assert moon.endpoint.by_number == {}
    else:
        chosen = message.one(SaPayload).proposals[0].transforms
        assert {(t.type, t.id) for t in chosen} <= {
            (1, Encr.AES_GCM_16), (2, Prf.PRF_HMAC_SHA2_256), (4, KeMethod.CURVE_25519), (5, 0),
        }  # fmt: skip


@ROLES
def test_v11_v75_an_esp_proposal_without_integrity_or_cipher_makes_no_child(we_answer: bool) -> None:
    """Paterson and Yau: encryption alone is broken; NULL alone is nothing at all."""
    for transforms in (
        (),
        (Transform(TransformType.ESN, 0),),
        (Transform(TransformType.ENCR, Encr.AES_CBC, (Attribute(14, 256),)), Transform(TransformType.ESN, 0)),
        (
            Transform(TransformType.ENCR, Encr.AES_CBC, (Attribute(14, 256),)),
            Transform(TransformType.INTEG, 0),
        ),
        (Transform(TransformType.ENCR, Encr.NULL), Transform(TransformType.INTEG, 0)),
        (Transform(TransformType.ENCR, Encr.NULL),),
        (Transform(TransformType.INTEG, Integ.HMAC_SHA2_256_128),),
        (Transform(TransformType.ENCR, Encr.AES_GCM_16), Transform(TransformType.ESN, 0)),
        (Transform(TransformType.ENCR, Encr.AES_GCM_16, (Attribute(14, 0),)),),
        (Transform(TransformType.ENCR, Encr.AES_GCM_16, (Attribute(14, 256), Attribute(14, 128))),),
    ):
        connection = replace(
            psk_connection(),
            children=(
                replace(
                    psk_connection().children[0],
                    proposals=parse_proposals("null-sha256,aes256-sha256,aes256gcm16", Protocol.ESP),
                ),
            ),
        )
        talk = Talk(we_answer, Watched(connection)).established()
        before = set(talk.moon.in_force)
        sa = SaPayload((Proposal(1, Protocol.ESP, b"\x0a\x0b\x0c\x0d", transforms),))
        answer = talk.ask(Exchange.CREATE_CHILD_SA, [sa, *talk.child_request()[1:]])
        assert notifies(answer) in ([Notify.NO_PROPOSAL_CHOSEN], [Notify.INVALID_SYNTAX])
        assert set(talk.moon.in_force) <= before


@pytest.mark.parametrize("prf_keyword", ["prfsha256", "prfsha512"])
def test_t20_a_nonce_has_at_least_half_of_the_prfs_key_and_16_to_256_octets(prf_keyword: str) -> None:
    proposals = parse_proposals(f"aes256gcm16-{prf_keyword}-x25519", Protocol.IKE)
    connection = replace(psk_connection(), proposals=proposals)
    number = Prf.PRF_HMAC_SHA2_256 if prf_keyword == "prfsha256" else Prf.PRF_HMAC_SHA2_512
    least = 16 if prf_keyword == "prfsha256" else 32
    moon = Watched(connection, options=OPEN_DOOR)
    (proposal,) = ike_proposal().proposals
    transforms = tuple(
        [replace(t, id=number) if t.type == TransformType.PRF else t for t in proposal.transforms]
    )
    for length in (0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 257, 300):
        payloads = [
            SaPayload((replace(proposal, transforms=transforms),)),
            good_first()[1],
            NoncePayload(bytes(length)),
        ]
        spi = (length + 1).to_bytes(8, "big")
        answers = moon.receive(first_request(payloads, spi=spi))
        assert len(answers) == (least <= length <= 256)


@ROLES
@pytest.mark.parametrize("kind", ["create child", "rekey child", "rekey ike"])
def test_t20_the_nonces_of_later_exchanges_are_judged_too(we_answer: bool, kind: str) -> None:
    for length in (0, 15, 257):
        talk = Talk(we_answer).established()
        before = set(talk.moon.in_force)
        exchange, payloads = requests_of(talk)[kind]
        odd = [NoncePayload(bytes(length)) if isinstance(p, NoncePayload) else p for p in payloads]
        assert notifies(talk.ask(exchange, odd)) == [Notify.INVALID_SYNTAX]
        assert set(talk.moon.in_force) <= before


@ROLES
def test_t20_a_nonce_of_a_rekey_that_is_short_for_the_prf_is_refused(we_answer: bool) -> None:
    """RFC 7296, section 2.10: at least half of the key of the negotiated PRF, here 32 octets."""
    talk = _with_sha512(we_answer)
    before = set(talk.moon.in_force)
    answer = talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request(nonce=b"\x44" * 31))
    assert notifies(answer) == [Notify.INVALID_SYNTAX]
    assert set(talk.moon.in_force) <= before
    talk = _with_sha512(we_answer)
    assert talk.ask(Exchange.CREATE_CHILD_SA, talk.rekey_request(nonce=b"\x44" * 32)).one(SaPayload)  # type: ignore[union-attr]


def _with_sha512(we_answer: bool) -> Talk:
    """An established talk whose IKE SA pretends to have negotiated PRF_HMAC_SHA2_512."""
    talk = Talk(we_answer).established()
    (sa,) = talk.moon.endpoint.by_number.values()
    assert sa.state.suite is not None
    sa.state = replace(sa.state, suite=replace(sa.state.suite, prf=Prf.PRF_HMAC_SHA2_512))
    return talk


def test_t20_a_reflected_first_message_meets_nobody() -> None:
    moon = Watched()
    moon.initiate("peer")
    mine = moon.sent[0]
    before = moon.picture()
    # As it is: a request of somebody with our own SPI; it is answered as any stranger, and cannot go on.
    back = bytearray(mine)
    back[19] = Flags.RESPONSE
    back[8:16] = b"\x22" * 8
    assert moon.receive(bytes(back)) == []
    assert moon.picture() == before
    reflected = decode(mine)
    header = replace(reflected.header, responder_spi=b"\x22" * 8, flags=Flags.RESPONSE)
    sa = reflected.one(SaPayload)
    nonce = reflected.one(NoncePayload)
    theirs = generate(KeMethod.CURVE_25519, SeededEntropy(8)).public
    assert moon.receive(encode(header, [sa, KePayload(KeMethod.CURVE_25519, theirs), nonce])) == []
    assert moon.picture() == before


@ROLES
def test_t20_a_reflected_protected_message_is_dropped(we_answer: bool) -> None:
    """Everything moon has said, sent back at it from the other address: its own role is in the flags."""
    talk = Talk(we_answer).established()
    (view,) = talk.moon.views
    talk.moon.endpoint.rekey(view.unique_id, 0, talk.moon.now)
    talk.moon.carry_out()
    before = talk.moon.picture()
    for datagram in list(talk.moon.sent):
        if (
            not decode(datagram).header.message_id
            and decode(datagram).header.exchange == Exchange.IKE_SA_INIT
        ):
            continue
        for answer in talk.moon.receive(datagram):
            assert notifies(decode(answer)) == [Notify.INVALID_IKE_SPI]
        assert talk.moon.picture() == before
        assert talk.moon.drops[-1] in ("reflected", "unknown-spi")


def test_a3_a_key_keeps_its_leading_zeros() -> None:
    """python-vpn took an X25519 value for a number. Public values and secrets are octets of fixed width."""
    seen = False
    for seed in range(2000):
        ours = generate(KeMethod.CURVE_25519, SeededEntropy(seed))
        assert len(ours.public) == 32
        seen = seen or ours.public[0] == 0
    assert seen


def test_v38_no_method_that_is_not_built_authenticates_anybody() -> None:
    """CVE-2018-0131 and others: RSA encryption is not there; nor are NULL, secure passwords, EAP."""
    for method in (0, 4, 5, 6, 7, 8, 12, 13, 15, 201, 255):
        talk = Talk(True)
        payloads = [AuthPayload(method, p.data) if isinstance(p, AuthPayload) else p for p in talk.good()]
        talk.authenticate(payloads)
        assert talk.moon.established == []
        assert talk.moon.failures[-1].reason == Reason.AUTH_METHOD_MISMATCH
