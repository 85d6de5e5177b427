"""IKEv1's proposals: what is offered, what is chosen, lifetimes, and where two sides first part."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cygnet.config.typed import auth_choice
from cygnet.crypto.entropy import SeededEntropy
from cygnet.crypto.proposals import Proposal, format_proposal, parse_proposals
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth
from cygnet.ike.errors import LocalMisuse, PeerIncompatible, PeerMisbehaved
from cygnet.ike.v1 import lifetimes, proposals, vocabulary
from cygnet.ike.v1.lifetimes import Lifetime
from cygnet.ike.v1.methods import method_of
from cygnet.wire.message import Header
from cygnet.wire.numbers import Encr, Integ, KeMethod, Protocol
from cygnet.wire.v1 import message
from cygnet.wire.v1.numbers import (
    AhTransform,
    Authentication,
    Encapsulation,
    Encryption,
    EspTransform,
    Exchange,
    Hash,
    Phase1Attribute,
    Phase2Attribute,
)
from cygnet.wire.v1.payloads import Attribute, SaPayload, Transform
from cygnet.wire.v1.payloads import Proposal as WireProposal
from tests.unit import ikev1_vectors as vectors
from tests.unit.auth_material import key

DAY = Lifetime(86400)
PSK = (Authentication.PSK,)
TUNNEL = proposals.TUNNELS
SPI = b"\x12\x34\x56\x78"


def ike(*texts: str) -> tuple[Proposal, ...]:
    return parse_proposals(list(texts), Protocol.IKE)


def esp(*texts: str) -> tuple[Proposal, ...]:
    return parse_proposals(list(texts), Protocol.ESP)


def over_the_wire(sa: SaPayload) -> SaPayload:
    header = Header(b"i" * 8, bytes(8), 0, 1, 0, Exchange.MAIN_MODE, 0, 0)
    return message.decode(message.encode(header, [sa])).one(SaPayload)


def one(sa: SaPayload) -> Transform:
    return sa.proposals[0].transforms[0]


# -- phase 1 ------------------------------------------------------------------------------------


def test_every_combination_is_a_transform_best_first() -> None:
    sa = over_the_wire(proposals.offer_phase1(ike("aes256-aes128-sha256-sha1-modp2048-x25519"), PSK, DAY))
    assert proposals.describe_phase1(sa).split(", ") == [
        f"AES_CBC_{bits}/{name}/PSK/{group}"
        for bits in (256, 128)
        for name in ("SHA2_256", "SHA1")
        for group in ("MODP_2048", "CURVE_25519")
    ]
    assert [t.number for t in sa.proposals[0].transforms] == list(range(1, 9))
    assert all(lifetimes.read(t.attributes, 1) == DAY for t in sa.proposals[0].transforms)


def test_aggressive_mode_offers_one_group() -> None:
    sa = proposals.offer_phase1(ike("aes256-sha256-modp2048-x25519"), PSK, DAY, KeMethod.CURVE_25519)
    assert proposals.describe_phase1(sa) == "AES_CBC_256/SHA2_256/PSK/CURVE_25519"
    with pytest.raises(LocalMisuse, match="no configured proposal"):
        proposals.offer_phase1(ike("aes256-sha256-modp2048"), PSK, DAY, KeMethod.CURVE_25519)


def test_an_offer_has_no_more_transforms_than_a_proposal_can_count() -> None:
    text = "aes128-aes192-aes256-camellia128-camellia192-camellia256-sha1-sha256-sha384-sha512"
    groups = "modp2048-modp3072-modp4096-modp6144-modp8192-ecp256-ecp384-ecp521-x25519-x448-ecp256bp"
    with pytest.raises(LocalMisuse, match="264 combinations"):
        proposals.offer_phase1(ike(f"{text}-{groups}"), PSK, DAY)
    over_the_wire(proposals.offer_phase1(parse_proposals("default", Protocol.IKE), PSK, DAY))


def test_the_responder_takes_the_first_of_the_initiators_transforms_that_it_accepts() -> None:
    sa = over_the_wire(
        proposals.offer_phase1(ike("3des-aes128-sha1-modp1024", "aes256-sha256-modp2048"), PSK, DAY)
    )
    chosen = proposals.select_phase1(sa, ike("aes256-sha256-modp2048", "aes128-sha1-modp1024"), PSK)
    assert (chosen.encryption, chosen.key_bits, chosen.hash) == (Encryption.AES_CBC, 128, Hash.SHA1)
    assert chosen.group == KeMethod.MODP_1024
    assert format_proposal(chosen.proposal) == "IKE:AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1024"
    assert chosen.suite.block == 16
    answer = over_the_wire(proposals.answer_phase1(chosen))
    assert one(answer) == sa.proposals[0].transforms[1]
    assert proposals.check_phase1_answer(sa, answer) == chosen


def test_a_ciscos_recorded_choice_is_one_of_the_recorded_offer() -> None:
    offer, answer = (message.decode(bytes.fromhex(text)).one(SaPayload) for text in vectors.MAIN_MODE[:2])
    chosen = proposals.check_phase1_answer(offer, answer)
    assert format_proposal(chosen.proposal) == "IKE:AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1024"
    assert chosen.life == Lifetime(28800)
    assert proposals.select_phase1(offer, ike("aes128-sha1-modp1024"), PSK).transform == one(offer)


FULL = (
    Attribute(Phase1Attribute.ENCRYPTION, Encryption.AES_CBC),
    Attribute(Phase1Attribute.KEY_LENGTH, 128),
    Attribute(Phase1Attribute.HASH, Hash.SHA2_256),
    Attribute(Phase1Attribute.AUTHENTICATION, Authentication.PSK),
    Attribute(Phase1Attribute.GROUP, KeMethod.MODP_2048),
)


def phase1(*attributes: Attribute, protocol: int = 1, ident: int = 1, spi: bytes = b"") -> SaPayload:
    return over_the_wire(SaPayload((WireProposal(1, protocol, spi, (Transform(1, ident, attributes),)),)))


@given(
    order=st.permutations(FULL),
    forms=st.lists(st.sampled_from([0, 2, 4, 8]), min_size=5, max_size=5),
)
def test_attributes_may_come_in_any_order_and_form(order: list[Attribute], forms: list[int]) -> None:
    written = [
        Attribute(a.type, a.number.to_bytes(size, "big")) if size and a.number is not None else a
        for a, size in zip(order, forms, strict=True)
    ]
    chosen = proposals.select_phase1(phase1(*written), ike("aes128-sha256-modp2048"), PSK)
    assert (chosen.key_bits, chosen.group, chosen.life) == (128, KeMethod.MODP_2048, Lifetime())


@pytest.mark.parametrize(
    "attributes",
    [
        FULL[1:],
        FULL[:2] + FULL[3:],
        FULL[:4],
        (*FULL, Attribute(Phase1Attribute.PRF, 1)),
        (*FULL, Attribute(Phase1Attribute.GROUP_TYPE, 1)),
        (*FULL, Attribute(Phase1Attribute.GROUP_PRIME, b"p" * 128)),
        (*FULL, Attribute(16383, 1)),
        (*FULL, FULL[0]),
        (FULL[0], *FULL[2:]),
        (*FULL[:4], Attribute(Phase1Attribute.GROUP, bytes(9))),
        (*FULL, Attribute(Phase1Attribute.LIFE_DURATION, 3600)),
    ],
)
def test_a_transform_with_something_missing_foreign_or_twice_is_passed_over(
    attributes: tuple[Attribute, ...],
) -> None:
    with pytest.raises(PeerIncompatible, match=r"transforms can be understood|encryption"):
        proposals.select_phase1(phase1(*attributes), ike("aes128-sha256-modp2048"), PSK)


def test_another_protocol_or_transform_id_is_no_phase_1() -> None:
    for sa in (phase1(*FULL, protocol=3), phase1(*FULL, ident=2)):
        with pytest.raises(PeerIncompatible):
            proposals.select_phase1(sa, ike("aes128-sha256-modp2048"), PSK)
    # Some peers put their cookie there (RFC 2409, section 5: its content is ignored).
    assert (
        proposals.select_phase1(phase1(*FULL, spi=b"c" * 8), ike("aes128-sha256-modp2048"), PSK).number == 1
    )


@pytest.mark.parametrize(
    "method", [Authentication.RSA_ENCRYPTION, Authentication.REVISED_RSA_ENCRYPTION, 65007, 65009, 64223]
)
def test_v38_encrypted_nonces_are_refused_like_any_other_proposal(method: int) -> None:
    """CVE-2018-0131, -8753, -9129, CVE-2017-17305: the methods with Bleichenbacher's oracle."""
    attributes = (*FULL[:3], Attribute(Phase1Attribute.AUTHENTICATION, method), FULL[4])
    with pytest.raises(PeerIncompatible) as caught:
        proposals.select_phase1(phase1(*attributes), ike("aes128-sha256-modp2048"), PSK)
    assert caught.value.notify == 14
    assert caught.value.detail == (
        f"peer offers {Authentication.name_of(method)}, you accept PSK; "
        "first difference: authentication method"
    )


@pytest.mark.parametrize(
    ("offered", "accepted", "said"),
    [
        ("aes128-3des-sha1-modp2048", "aes256-sha1-modp2048",
         "peer offers AES_CBC_128 and 3DES_CBC, you accept AES_CBC_256; first difference: encryption"),
        ("aes256-sha1-modp2048", "aes256-sha256-modp2048",
         "peer offers SHA1, you accept SHA2_256; first difference: hash"),
        ("aes256-sha256-modp1024", "aes256-sha256-modp2048-x25519",
         "peer offers MODP_1024, you accept MODP_2048 and CURVE_25519; first difference: key exchange"),
    ],
)  # fmt: skip
def test_the_error_names_where_the_offers_part(offered: str, accepted: str, said: str) -> None:
    sa = proposals.offer_phase1(ike(offered), PSK, DAY)
    with pytest.raises(PeerIncompatible) as caught:
        proposals.select_phase1(sa, ike(accepted), PSK)
    assert caught.value.detail == said
    assert caught.value.difference is not None
    assert caught.value.difference.first == said
    assert caught.value.difference.ours.startswith("IKE:AES_CBC_256/")


def test_algorithms_that_match_only_across_combinations_are_told_apart() -> None:
    sa = proposals.offer_phase1(ike("aes128-sha1-modp2048", "aes256-sha256-modp2048"), PSK, DAY)
    with pytest.raises(PeerIncompatible, match="not in the combinations"):
        proposals.select_phase1(sa, ike("aes128-sha256-modp2048", "aes256-sha1-modp2048"), PSK)


def test_an_answer_outside_of_the_offer_is_refused() -> None:
    sa = proposals.offer_phase1(ike("aes256-sha256-modp2048"), PSK, DAY)
    for foreign in ("aes128-sha256-modp2048", "aes256-sha1-modp2048", "aes256-sha256-modp1024"):
        with pytest.raises(PeerMisbehaved, match="which was not offered"):
            proposals.check_phase1_answer(sa, proposals.offer_phase1(ike(foreign), PSK, DAY))
    with pytest.raises(PeerMisbehaved, match="which was not offered"):
        proposals.check_phase1_answer(
            sa, proposals.offer_phase1(ike("aes256-sha256-modp2048"), (Authentication.XAUTH_INIT_PSK,), DAY)
        )
    two = proposals.offer_phase1(ike("aes256-sha256-modp2048-x25519"), PSK, DAY)
    with pytest.raises(PeerMisbehaved, match="more than one transform"):
        proposals.check_phase1_answer(two, two)
    shorter = proposals.offer_phase1(ike("aes256-sha256-modp2048"), PSK, Lifetime(3600))
    assert proposals.check_phase1_answer(sa, shorter).life == Lifetime(3600)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aes256gcm16-prfsha256-x25519", "combined-mode cipher"),
        ("aes128-aesxcbc-modp2048", "no hash"),
        ("aes128ctr-sha256-modp2048", "no number in phase 1"),
        ("aes128-sha256-prfsha384-modp2048", "leave the PRF out"),
    ],
)
def test_what_phase_1_cannot_say_has_a_reason_and_is_left_out_of_offers(text: str, said: str) -> None:
    (proposal,) = ike(text)
    assert said in vocabulary.phase1_fault(proposal)
    with pytest.raises(LocalMisuse, match="no configured proposal"):
        proposals.offer_phase1([proposal], PSK, DAY)
    both = (proposal, *ike("aes128-sha256-modp2048"))
    assert vocabulary.usable(both) == both[1:]
    assert vocabulary.phase1_fault(both[1]) == ""


# -- phase 2 ------------------------------------------------------------------------------------


def test_a_quick_mode_offers_and_chooses_in_both_ends_words() -> None:
    configured = esp("aes256gcm16-modp2048", "aes128-sha256-modp2048", "null-sha1-modp2048")
    life = Lifetime(3600, 4096000)
    sa = over_the_wire(
        proposals.offer_phase2(configured, SPI, Encapsulation.UDP_TUNNEL, life, KeMethod.MODP_2048)
    )
    assert proposals.describe_phase2(sa).split(", ")[0] == (
        "ESP/AES_GCM_16_256/none/MODP_2048/NO_EXT_SEQ in UDP_TUNNEL"
    )
    chosen = proposals.select_phase2(sa, esp("aes128-sha256-modp2048"), TUNNEL, KeMethod.MODP_2048)
    selected = chosen.selected
    assert (selected.encryption, selected.key_bits, selected.integrity, selected.spi) == (
        Encr.AES_CBC, 128, Integ.HMAC_SHA2_256_128, SPI
    )  # fmt: skip
    assert (chosen.group, chosen.encapsulation, chosen.life) == (KeMethod.MODP_2048, 3, life)
    assert not chosen.transport
    assert not selected.esn
    answer = over_the_wire(proposals.answer_phase2(chosen, b"mine"))
    checked = proposals.check_phase2_answer(sa, answer)
    assert checked.selected.spi == b"mine"
    assert checked.selected.transforms == selected.transforms


def test_ah_is_said_twice_as_transform_and_as_attribute() -> None:
    sa = over_the_wire(
        proposals.offer_phase2(
            parse_proposals("sha256-sha1", Protocol.AH), SPI, Encapsulation.TRANSPORT, Lifetime(), 0
        )
    )
    assert [t.id for t in sa.proposals[0].transforms] == [AhTransform.SHA2_256, AhTransform.SHA]
    chosen = proposals.select_phase2(sa, parse_proposals("sha1", Protocol.AH), proposals.TRANSPORTS, 0)
    assert (chosen.selected.protocol, chosen.selected.integrity, chosen.transport) == (
        Protocol.AH, Integ.HMAC_SHA1_96, True
    )  # fmt: skip


def test_extended_sequence_numbers_are_said_by_an_attribute() -> None:
    """RFC 4304, section 2."""
    sa = over_the_wire(proposals.offer_phase2(esp("aes128-sha256-esn-noesn"), SPI, 1, Lifetime(), 0))
    assert proposals.select_phase2(sa, esp("aes128-sha256-noesn"), TUNNEL, 0).selected.esn is False
    chosen = proposals.select_phase2(sa, esp("aes128-sha256-esn-noesn"), TUNNEL, 0)
    assert chosen.selected.esn
    assert Attribute(Phase2Attribute.EXT_SEQ, 1) in chosen.transform.attributes


def test_pfs_is_wanted_or_not_and_the_group_is_that_of_the_public_value() -> None:
    with_pfs = proposals.offer_phase2(
        esp("aes128-sha256-modp2048-x25519"), SPI, 1, Lifetime(), KeMethod.CURVE_25519
    )
    assert [t.attributes[0] for t in with_pfs.proposals[0].transforms] == [Attribute(3, KeMethod.CURVE_25519)]
    with pytest.raises(PeerIncompatible, match="you accept NONE; first difference: key exchange"):
        proposals.select_phase2(with_pfs, esp("aes128-sha256"), TUNNEL, KeMethod.CURVE_25519)
    without = proposals.offer_phase2(esp("aes128-sha256"), SPI, 1, Lifetime(), 0)
    with pytest.raises(PeerIncompatible, match="peer offers NONE, you accept CURVE_25519"):
        proposals.select_phase2(without, esp("aes128-sha256-x25519"), TUNNEL, 0)
    optional = esp("aes128-sha256-x25519-none")
    assert proposals.select_phase2(without, optional, TUNNEL, 0).group == 0
    assert proposals.select_phase2(with_pfs, optional, TUNNEL, KeMethod.CURVE_25519).group == 31
    with pytest.raises(PeerIncompatible, match="public value of NONE"):
        proposals.select_phase2(with_pfs, optional, TUNNEL, 0)
    assert vocabulary.pfs_group(optional, KeMethod.CURVE_25519) == KeMethod.CURVE_25519
    assert vocabulary.pfs_group(optional, KeMethod.MODP_2048) == KeMethod.CURVE_25519
    assert vocabulary.pfs_group(esp("aes128-sha256"), KeMethod.MODP_2048) == 0


def test_a_rekey_offers_the_group_of_what_it_replaces_where_that_is_still_ours() -> None:
    x25519, modp, none = KeMethod.CURVE_25519, KeMethod.MODP_2048, KeMethod.NONE
    optional = esp("aes128-sha256-x25519-modp2048-none")
    assert [vocabulary.pfs_group(optional, x25519, one) for one in (x25519, modp, none)] == [
        x25519,
        modp,
        none,
    ]
    beside = esp("aes128-sha256,aes256-sha256-x25519")
    assert vocabulary.pfs_group(beside, x25519, none) == none
    # Meanwhile we want PFS.
    assert vocabulary.pfs_group(esp("aes128-sha256-x25519"), modp, none) == x25519
    assert vocabulary.pfs_group(esp("aes128-sha256"), modp, x25519) == none


def test_a_tunnel_is_never_made_of_a_transport_mode() -> None:
    sa = proposals.offer_phase2(esp("aes128-sha256"), SPI, Encapsulation.UDP_TRANSPORT_DRAFT, Lifetime(), 0)
    with pytest.raises(PeerIncompatible, match="first difference: encapsulation mode"):
        proposals.select_phase2(sa, esp("aes128-sha256"), TUNNEL, 0)


def phase2(*attributes: Attribute, ident: int = EspTransform.AES_CBC) -> Transform:
    return Transform(1, ident, attributes)


AES128_SHA1 = (Attribute(Phase2Attribute.KEY_LENGTH, 128), Attribute(Phase2Attribute.AUTHENTICATION, 2))


def test_a_bundle_and_ipcomp_are_passed_over_and_no_mode_means_a_tunnel() -> None:
    configured = esp("aes128-sha1")
    transform = phase2(*AES128_SHA1)
    alone = WireProposal(1, Protocol.ESP, SPI, (transform,))
    chosen = proposals.select_phase2(over_the_wire(SaPayload((alone,))), configured, TUNNEL, 0)
    assert chosen.encapsulation == Encapsulation.TUNNEL
    bundle = WireProposal(1, 4, b"\x00\x02", (Transform(1, 2, ()),))
    with pytest.raises(PeerIncompatible):
        proposals.select_phase2(over_the_wire(SaPayload((alone, bundle))), configured, TUNNEL, 0)
    second = WireProposal(2, Protocol.ESP, SPI, (transform,))
    taken = proposals.select_phase2(over_the_wire(SaPayload((alone, bundle, second))), configured, TUNNEL, 0)
    assert taken.number == 2


def test_what_quick_mode_cannot_say_has_a_reason() -> None:
    for text in ("chacha20poly1305", "aes128gcm16iiv", "aes128-aescmac"):
        (proposal,) = esp(text)
        assert "no number in quick mode" in vocabulary.phase2_fault(proposal)
        with pytest.raises(LocalMisuse):
            proposals.offer_phase2([proposal], SPI, 1, Lifetime(), 0)
    over_the_wire(
        proposals.offer_phase2(parse_proposals("default", Protocol.ESP), SPI, 1, DAY, KeMethod.ECP_256)
    )


# -- lifetimes ----------------------------------------------------------------------------------


def test_lifetimes_of_several_types_are_read_and_the_smaller_counts() -> None:
    """RFC 2407, section 4.5.2, has exactly this list."""
    attributes = (
        Attribute(1, 1), Attribute(2, bytes.fromhex("00015180")),
        Attribute(1, 2), Attribute(2, bytes.fromhex("000186a0")),
    )  # fmt: skip
    assert lifetimes.read(attributes, 2) == Lifetime(86400, 100000)
    assert lifetimes.attributes_of(Lifetime(86400, 100000), 2) == attributes
    assert lifetimes.attributes_of(Lifetime(3600), 1) == (Attribute(11, 1), Attribute(12, 3600))
    assert Lifetime(86400, 100000).smaller(Lifetime(3600)) == Lifetime(3600, 100000)
    assert Lifetime(3600).shorter_than(Lifetime(86400))
    assert Lifetime(3600, 50).shorter_than(Lifetime(3600))
    assert not Lifetime(86400).shorter_than(Lifetime(3600))
    assert not Lifetime().shorter_than(Lifetime(3600, 10))


@pytest.mark.parametrize(
    "attributes",
    [
        (Attribute(2, 3600),),
        (Attribute(1, 1), Attribute(2, 3600), Attribute(2, 7200)),
        (Attribute(1, 1), Attribute(2, 3600), Attribute(1, 1), Attribute(2, 7200)),
        (Attribute(1, 1), Attribute(2, bytes(9))),
    ],
)
def test_a_lifetime_without_type_or_in_conflict_is_none(attributes: tuple[Attribute, ...]) -> None:
    assert lifetimes.read(attributes, 2) is None


def test_a_responder_lifetime_tells_what_was_meant_and_floods_of_rekeys_cannot_be_asked_for() -> None:
    notify = lifetimes.responder_lifetime(Lifetime(1800, 70000), Protocol.ESP, SPI, 2)
    assert lifetimes.told(notify, 2) == Lifetime(1800, 70000)
    assert lifetimes.accepted(Lifetime(3600), Lifetime(1, 1)) == Lifetime(60, 1024)
    assert lifetimes.accepted(Lifetime(30), Lifetime(3600)) == Lifetime(30)
    broken = lifetimes.responder_lifetime(Lifetime(1800), Protocol.ESP, SPI, 2)
    object.__setattr__(broken, "data", b"\x00\x02\x00\xff")
    assert lifetimes.told(broken, 2) is None


@pytest.mark.parametrize(
    ("ours", "life", "expected"),
    [
        # (rekey, reauthentication, over), what the peer says -> (renewed by us as initiator, end)
        ((3000, 0, 300), 0, (3000, 3300)),
        ((3000, 0, 300), 7000, (3000, 3300)),
        ((3000, 0, 300), 2000, (1700, 2000)),
        ((3000, 0, 300), 300, (150, 300)),
        ((0, 0, 0), 1000, (900, 1000)),
        ((0, 0, 0), 0, (0, 0)),
        ((3000, 0, 300), 1, (30, 60)),
    ],
)
def test_the_shorter_phase_1_lifetime_counts(
    ours: tuple[float, float, float], life: int, expected: tuple[float, float]
) -> None:
    rekey, reauth, over = ours
    connection = Connection(
        "c", (), (), (), (), rekey_time=rekey, reauth_time=reauth, over_time=over, rand_time=0.0
    )
    entropy = SeededEntropy(1)
    deadlines = lifetimes.phase_1_deadlines(connection, life, 0.0, entropy, is_initiator=True)
    assert (deadlines[0], deadlines[2]) == expected
    serving = replace(connection, pools=("four",))
    served = lifetimes.phase_1_deadlines(serving, life, 0.0, entropy, is_initiator=False)
    assert served == (0.0, 0.0, expected[1])


def test_our_key_is_of_a_kind_that_the_connection_signs_with() -> None:
    rsa, ecdsa = key("rsa", "own"), key("p256", "own")
    for auth, fitting, other in (("ike:rsa", rsa, ecdsa), ("ike:ecdsa", ecdsa, rsa)):
        local = LocalAuth(AuthClass.PUBKEY, schemes=auth_choice(auth).schemes)
        connection = Connection("branch", (), (local,), (RemoteAuth(AuthClass.PUBKEY),), ())
        assert method_of(connection, True, fitting)
        with pytest.raises(PeerMisbehaved, match="our key signs with"):
            method_of(connection, True, other)
