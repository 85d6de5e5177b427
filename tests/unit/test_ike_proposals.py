"""The choice between proposals: whose order, what must be refused, and the words for a disagreement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cygnet.crypto.proposals import Proposal, Transform, parse_proposals
from cygnet.ike.errors import PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.proposals import (
    Selected,
    answer,
    check_answer,
    describe,
    difference,
    from_wire,
    groups,
    offer,
    select,
)
from cygnet.testing import corpus
from cygnet.wire import payloads as wire
from cygnet.wire.numbers import Encr, Integ, KeMethod, Notify, Prf, Protocol, TransformType

SPI = b"\x12\x34\x56\x78"


def ike(*texts: str) -> tuple[Proposal, ...]:
    return parse_proposals(list(texts), Protocol.IKE)


def esp(*texts: str) -> tuple[Proposal, ...]:
    return parse_proposals(list(texts), Protocol.ESP)


def agree(theirs: tuple[Proposal, ...], ours: tuple[Proposal, ...], **options: object) -> Selected:
    return select(offer(theirs, SPI), ours, **options)  # type: ignore[arg-type]


# -- offering ---------------------------------------------------------------------------------


def test_an_offer_numbers_its_proposals_and_carries_key_lengths_where_they_belong() -> None:
    payload = offer(ike("aes256-sha256-x25519", "chacha20poly1305-prfsha256-x25519"), b"")
    assert [p.number for p in payload.proposals] == [1, 2]
    cbc, chacha = (p.transforms[0] for p in payload.proposals)
    assert (cbc.id, cbc.key_bits) == (Encr.AES_CBC, 256)
    # RFC 7634, section 4: ChaCha20-Poly1305 has no Key Length attribute.
    assert (chacha.id, chacha.attributes) == (Encr.CHACHA20_POLY1305, ())


def test_the_child_of_ike_auth_is_offered_without_key_exchange_and_without_twins() -> None:
    payload = offer(esp("aes256gcm16-x25519", "aes256gcm16-ecp256"), SPI, key_exchange=False)
    assert len(payload.proposals) == 1
    assert all(t.type != TransformType.KE for t in payload.proposals[0].transforms)
    assert payload.proposals[0].spi == SPI


def test_the_group_that_goes_along_is_named_first() -> None:
    payload = offer(ike("aes256-sha256-x25519-ecp256"), b"", first_group=KeMethod.ECP_256)
    named = [t.id for t in payload.proposals[0].transforms if t.type == TransformType.KE]
    assert named == [KeMethod.ECP_256, KeMethod.CURVE_25519]


def test_groups_are_listed_in_order_each_once_without_none() -> None:
    proposals = esp("aes256gcm16-ecp256-x25519-none", "aes128gcm16-x25519-ecp384")
    assert groups(proposals) == (KeMethod.ECP_256, KeMethod.CURVE_25519, KeMethod.ECP_384)


# -- choosing ---------------------------------------------------------------------------------


def test_our_order_of_proposals_decides() -> None:
    theirs = ike("aes128-sha256-modp2048", "aes256gcm16-prfsha384-x25519")
    ours = ike("aes256gcm16-prfsha384-x25519", "aes128-sha256-modp2048")
    chosen = agree(theirs, ours)
    assert chosen.number == 2
    assert (chosen.encryption, chosen.key_bits, chosen.integrity) == (Encr.AES_GCM_16, 256, 0)
    assert (chosen.prf, chosen.key_exchange) == (Prf.PRF_HMAC_SHA2_384, KeMethod.CURVE_25519)


def test_our_order_of_algorithms_decides() -> None:
    chosen = agree(
        ike("aes128-aes256-sha1-sha256-modp2048-x25519"), ike("aes256-aes128-sha256-x25519-modp2048")
    )
    assert (chosen.key_bits, chosen.integrity, chosen.key_exchange) == (
        256,
        Integ.HMAC_SHA2_256_128,
        KeMethod.CURVE_25519,
    )


def test_the_group_of_the_peers_ke_payload_is_taken_if_asked_and_acceptable() -> None:
    theirs, ours = ike("aes256-sha256-ecp256-x25519"), ike("aes256-sha256-x25519-ecp256")
    assert agree(theirs, ours).key_exchange == KeMethod.CURVE_25519
    assert agree(theirs, ours, prefer_group=KeMethod.ECP_256).key_exchange == KeMethod.ECP_256
    assert agree(theirs, ours, prefer_group=KeMethod.MODP_2048).key_exchange == KeMethod.CURVE_25519


def test_key_lengths_are_part_of_an_algorithm() -> None:
    with pytest.raises(PeerIncompatible):
        agree(ike("aes128-sha256-x25519"), ike("aes256-sha256-x25519"))


def test_the_answer_holds_one_transform_of_each_type_and_passes_the_initiators_check() -> None:
    offered = offer(ike("default"), b"")
    chosen = select(offered, ike("aes128-sha384-prfsha256-ecp384"))
    accepted = answer(chosen, b"")
    (proposal,) = accepted.proposals
    assert sorted(t.type for t in proposal.transforms) == [1, 2, 3, 4]
    assert proposal.number == 3
    assert check_answer(offered, accepted).proposal.transforms == chosen.transforms


def test_the_peers_spi_is_kept_and_ours_goes_into_the_answer() -> None:
    chosen = agree(esp("aes256gcm16"), esp("aes256gcm16"))
    assert chosen.spi == SPI
    assert answer(chosen, b"ours").proposals[0].spi == b"ours"


def test_perfect_forward_secrecy_is_a_demand_unless_none_stands_beside_it() -> None:
    with pytest.raises(PeerIncompatible):
        agree(esp("aes256gcm16"), esp("aes256gcm16-x25519"))
    with pytest.raises(PeerIncompatible):
        agree(esp("aes256gcm16-x25519"), esp("aes256gcm16"))
    assert agree(esp("aes256gcm16"), esp("aes256gcm16-x25519-none")).key_exchange == 0
    assert agree(esp("aes256gcm16-x25519-none"), esp("aes256gcm16")).key_exchange == 0
    assert agree(esp("aes256gcm16-x25519"), esp("aes256gcm16-x25519-none")).key_exchange == 31


def test_in_ike_auth_the_groups_of_both_sides_are_passed_over() -> None:
    chosen = agree(esp("aes256gcm16-ecp256"), esp("aes256gcm16-x25519"), key_exchange=False)
    assert chosen.key_exchange == 0
    assert all(t.type != TransformType.KE for t in chosen.transforms)


def test_extended_sequence_numbers_are_chosen_by_our_order_and_absence_means_no() -> None:
    assert agree(esp("aes256gcm16-esn-noesn"), esp("aes256gcm16-esn-noesn")).esn
    assert not agree(esp("aes256gcm16-esn-noesn"), esp("aes256gcm16-noesn-esn")).esn
    with pytest.raises(PeerIncompatible):
        agree(esp("aes256gcm16-esn"), esp("aes256gcm16"))
    offered = offer(esp("aes256gcm16"), SPI)
    (proposal,) = offered.proposals
    silent = replace(proposal, transforms=tuple(t for t in proposal.transforms if t.type != 5))
    assert not select(wire.SaPayload((silent,)), esp("aes256gcm16")).esn


def _wire(protocol: int, *transforms: wire.Transform) -> wire.SaPayload:
    return wire.SaPayload((wire.Proposal(1, protocol, SPI, transforms),))


def _t(kind: int, number: int, bits: int = 0) -> wire.Transform:
    return wire.Transform(kind, number, (wire.Attribute(14, bits),) if bits else ())


def test_a_combined_mode_cipher_takes_no_integrity_and_others_need_one() -> None:
    """RFC 7296, section 3.3; a peer that mixes both gets what goes together."""
    mixed = _wire(3, _t(1, 20, 256), _t(1, 12, 256), _t(3, 12), _t(5, 0))
    chosen = select(mixed, esp("aes256gcm16", "aes256-sha256"))
    assert (chosen.encryption, chosen.integrity) == (Encr.AES_CBC, Integ.HMAC_SHA2_256_128)
    with pytest.raises(PeerIncompatible):
        select(_wire(3, _t(1, 12, 256), _t(5, 0)), esp("aes256-sha256"))
    with pytest.raises(PeerIncompatible):
        select(_wire(3, _t(1, 12, 256), _t(3, 0), _t(5, 0)), esp("aes256-sha256"))
    spelled_out = select(_wire(3, _t(1, 20, 256), _t(3, 0), _t(5, 0)), esp("aes256gcm16"))
    assert Transform(TransformType.INTEG, 0) in spelled_out.transforms
    assert spelled_out.integrity == 0


def test_an_ike_proposal_without_key_exchange_or_prf_is_refused() -> None:
    """CVE-2016-5391."""
    full = (_t(1, 20, 256), _t(2, 5), _t(4, 31))
    ours = ike("aes256gcm16-prfsha256-x25519")
    assert select(_wire(1, *full), ours).key_exchange == 31
    for missing in full:
        with pytest.raises(PeerIncompatible):
            select(_wire(1, *(t for t in full if t is not missing)), ours)
    with pytest.raises(PeerIncompatible):
        select(_wire(1, *full[:2], _t(4, 0)), ours)


def test_a_transform_with_an_attribute_not_understood_is_passed_over() -> None:
    """RFC 7296, section 3.3.6."""
    odd = wire.Transform(1, 12, (wire.Attribute(14, 256), wire.Attribute(15, 1)))
    long_form = wire.Transform(1, 12, (wire.Attribute(14, b"\x01\x00"),))
    ours = esp("aes256-sha256", "aes128-sha256")
    for bad in (odd, long_form, _t(1, 12), wire.Transform(1, 12, (wire.Attribute(14, 256),) * 2)):
        sa = _wire(3, bad, _t(1, 12, 128), _t(3, 12), _t(5, 0))
        assert select(sa, ours).key_bits == 128
    with_length = _wire(3, _t(1, 28, 256), _t(5, 0))
    with pytest.raises(PeerIncompatible):
        select(with_length, esp("chacha20poly1305"))


def test_a_transform_type_not_understood_refuses_its_proposal_unless_it_may_be_none() -> None:
    ours = ike("aes256gcm16-prfsha256-x25519")
    base = (_t(1, 20, 256), _t(2, 5), _t(4, 31))
    with pytest.raises(PeerIncompatible):
        select(_wire(1, *base, _t(6, 36)), ours)
    chosen = select(_wire(1, *base, _t(6, 36), _t(6, 0)), ours)
    assert Transform(TransformType.ADDITIONAL_KE_1, 0) in chosen.transforms
    offered = _wire(1, *base, _t(6, 36), _t(6, 0))
    assert check_answer(offered, answer(chosen, b"")).key_exchange == 31


@pytest.mark.parametrize("protocol", [0, 2, 4, 99])
def test_a_proposal_for_another_protocol_is_refused(protocol: int) -> None:
    with pytest.raises(PeerIncompatible):
        select(_wire(protocol, _t(1, 20, 256), _t(5, 0)), esp("aes256gcm16"))


def test_ah_has_no_cipher() -> None:
    ah = Proposal(Protocol.AH, (Transform(3, 12), Transform(5, 0)))
    chosen = select(offer((ah,), SPI), (ah,))
    assert (chosen.encryption, chosen.integrity, chosen.protocol) == (0, 12, Protocol.AH)


def test_an_empty_proposal_is_refused_and_not_chosen() -> None:
    for protocol in (1, 2, 3):
        assert from_wire(protocol, ()) is not None
        with pytest.raises(PeerIncompatible):
            select(_wire(protocol), esp("aes256gcm16") if protocol == 3 else ike("aes256-sha256-x25519"))


def test_the_largest_offer_is_judged_in_time() -> None:
    """security.md T22: selection is linear."""
    proposal = offer(ike("default"), b"").proposals[0]
    junk = tuple(_t(2, 100 + i) for i in range(240))
    many = wire.SaPayload(tuple(replace(proposal, number=i, transforms=junk) for i in range(1, 5)))
    with pytest.raises(PeerIncompatible):
        select(many, ike("default"))


# -- the initiator's check (security.md T15) --------------------------------------------------

OFFERED = offer(esp("aes256gcm16-aes128gcm16-x25519-ecp256", "aes256-sha256-sha384-x25519-none"), SPI)


def _answered(number: int, *transforms: wire.Transform, protocol: int = 3) -> wire.SaPayload:
    return wire.SaPayload((wire.Proposal(number, protocol, b"peer", transforms),))


def test_an_answer_inside_the_offer_is_accepted() -> None:
    got = check_answer(OFFERED, _answered(1, _t(1, 20, 128), _t(4, 19), _t(5, 0)))
    assert (got.encryption, got.key_bits, got.key_exchange, got.spi) == (20, 128, 19, b"peer")


def test_what_may_be_none_may_be_left_out_of_the_answer() -> None:
    got = check_answer(OFFERED, _answered(2, _t(1, 12, 256), _t(3, 13), _t(5, 0)))
    assert (got.integrity, got.key_exchange) == (13, 0)


@pytest.mark.parametrize(
    "accepted",
    [
        wire.SaPayload(()),
        wire.SaPayload(OFFERED.proposals),
        _answered(3, _t(1, 20, 128), _t(4, 19), _t(5, 0)),
        _answered(0, _t(1, 20, 128), _t(4, 19), _t(5, 0)),
        _answered(1, _t(1, 20, 128), _t(4, 19), _t(5, 0), protocol=2),
        _answered(1, _t(1, 20, 192), _t(4, 19), _t(5, 0)),
        _answered(1, _t(1, 20), _t(4, 19), _t(5, 0)),
        _answered(1, _t(1, 12, 256), _t(4, 19), _t(5, 0)),
        _answered(1, _t(1, 20, 128), _t(4, 14), _t(5, 0)),
        _answered(1, _t(1, 20, 128), _t(4, 0), _t(5, 0)),
        _answered(1, _t(1, 20, 128), _t(4, 19), _t(5, 1)),
        _answered(1, _t(1, 20, 128), _t(5, 0)),
        _answered(1, _t(4, 19), _t(5, 0)),
        _answered(1, _t(1, 20, 128), _t(1, 20, 256), _t(4, 19), _t(5, 0)),
        _answered(1, _t(1, 20, 128), _t(4, 19), _t(5, 0), _t(3, 12)),
        _answered(2, _t(1, 12, 256), _t(4, 31), _t(5, 0)),
        _answered(1),
    ],
)
def test_an_answer_outside_the_offer_ends_the_exchange(accepted: wire.SaPayload) -> None:
    with pytest.raises(PeerMisbehaved):
        check_answer(OFFERED, accepted)


def test_the_order_of_an_answer_does_not_matter() -> None:
    assert check_answer(OFFERED, _answered(1, _t(5, 0), _t(4, 19), _t(1, 20, 128))).key_bits == 128


# -- why not ----------------------------------------------------------------------------------


def test_a_refusal_names_both_sides_and_where_they_first_part() -> None:
    with pytest.raises(PeerIncompatible) as caught:
        agree(ike("aes256-sha256-modp2048"), ike("aes256-sha256-x25519-ecp256"))
    error = caught.value
    assert error.reason == Reason.IKE_PROPOSAL_MISMATCH
    assert error.notify == Notify.NO_PROPOSAL_CHOSEN
    assert error.difference is not None
    assert error.difference.first == (
        "peer offers MODP_2048, you accept CURVE_25519 and ECP_256; first difference: key exchange"
    )
    assert error.difference.theirs == "IKE:AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048"
    assert "CURVE_25519/ECP_256" in error.difference.ours


@pytest.mark.parametrize(
    ("theirs", "ours", "kind"),
    [
        ("aes128-sha256-x25519", "aes256-sha256-x25519", "encryption"),
        ("aes256-sha1-prfsha256-x25519", "aes256-sha256-x25519", "integrity"),
        ("aes256gcm16-prfsha384-x25519", "aes256gcm16-prfsha256-x25519", "PRF"),
        ("aes256gcm16-prfsha256-modp3072", "aes256gcm16-prfsha256-x25519", "key exchange"),
    ],
)
def test_the_first_differing_kind_is_named(theirs: str, ours: str, kind: str) -> None:
    with pytest.raises(PeerIncompatible, match=f"first difference: {kind}"):
        agree(ike(theirs), ike(ours))


def test_of_several_proposals_the_closest_is_explained() -> None:
    theirs = ike("aes128-sha1-modp2048", "aes256gcm16-prfsha256-ecp384")
    with pytest.raises(PeerIncompatible, match=r"ECP_384, you accept CURVE_25519; .* key exchange"):
        agree(theirs, ike("aes256gcm16-prfsha256-x25519", "aes256-sha512-modp8192"))


def test_a_child_proposal_is_explained_too() -> None:
    with pytest.raises(PeerIncompatible) as caught:
        agree(esp("aes256gcm16-esn"), esp("aes256gcm16"))
    assert caught.value.reason == Reason.CHILD_PROPOSAL_MISMATCH
    assert caught.value.detail == (
        "peer offers EXT_SEQ, you accept NO_EXT_SEQ; first difference: sequence numbers"
    )
    with pytest.raises(PeerIncompatible, match="peer offers NONE, you accept CURVE_25519"):
        agree(esp("aes256gcm16"), esp("aes256gcm16-x25519"))


def test_unknown_numbers_are_explained() -> None:
    with pytest.raises(PeerIncompatible, match="peer offers UNKNOWN_1024_256, you accept AES_GCM_16_256"):
        select(_wire(3, _t(1, 1024, 256), _t(5, 0)), esp("aes256gcm16"))
    assert "UNKNOWN_1024" in describe(_wire(3, _t(1, 1024)))


def test_without_the_peers_offer_ours_is_told() -> None:
    found = difference(ike("aes256-sha256-x25519"), None)
    assert found.ours == "IKE:AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/CURVE_25519"
    assert (found.theirs, found.first) == ("", "")


def test_every_pair_of_default_and_corpus_offers_can_be_explained() -> None:
    for sa in (corpus.IKE_OFFER, corpus.ESP_OFFER, corpus.IKE_CHOICE, corpus.ESP_CHOICE):
        for ours in (ike("default"), esp("default")):
            assert difference(ours, sa).theirs


def test_whatever_is_accepted_can_be_built() -> None:
    """security.md V10: accepted means usable, for every algorithm that a proposal can name."""
    from cygnet.crypto.proposals import KEYWORDS
    from cygnet.crypto.suites import is_aead, suite

    for transform in KEYWORDS.values():
        if transform.type != TransformType.ENCR:
            continue
        integrity = 0 if is_aead(transform.id) else Integ.HMAC_SHA2_256_128
        proposal = Proposal(
            Protocol.ESP,
            (transform, *((Transform(3, integrity),) if integrity else ()), Transform(5, 0)),
        )
        chosen = select(offer((proposal,), SPI), (proposal,))
        assert suite(chosen.encryption, chosen.key_bits, chosen.integrity)
