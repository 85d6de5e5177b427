"""Proposals in swanctl's keywords: what they mean, what they imply, and how a mistake is named."""

from __future__ import annotations

import re

import pytest

from cygnet.crypto.entropy import SystemEntropy
from cygnet.crypto.key_exchange import generate, public_length
from cygnet.crypto.prf import prf
from cygnet.crypto.proposals import (
    DEFAULT_ESP,
    DEFAULT_IKE,
    KEYWORDS,
    BadProposal,
    Proposal,
    Transform,
    default_proposals,
    format_proposal,
    has_additional,
    keywords_for,
    keywords_of,
    legacy_keywords,
    parse_proposals,
    without_key_exchange,
)
from cygnet.crypto.suites import is_aead, suite
from cygnet.wire.numbers import Encr, Esn, Integ, KeMethod, Prf, Protocol, TransformType

IKE, ESP = Protocol.IKE, Protocol.ESP


def one(text: str, protocol: int) -> str:
    (proposal,) = parse_proposals(text, protocol)
    return format_proposal(proposal)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("aes256gcm16-prfsha384-x25519", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE_25519"),
        ("aes128-sha256-modp2048", "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048"),
        ("aes-sha-curve25519", "IKE:AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/CURVE_25519"),
        ("chacha20poly1305-prfsha256-ecp256", "IKE:CHACHA20_POLY1305/PRF_HMAC_SHA2_256/ECP_256"),
        ("aes256ctr-aesxcbc-x448", "IKE:AES_CTR_256/AES_XCBC_96/PRF_AES128_XCBC/CURVE_448"),
        ("aes192-aescmac-ecp512bp", "IKE:AES_CBC_192/AES_CMAC_96/PRF_AES128_CMAC/ECP_512_BP"),
        ("aes128gcm64-prfaescmac-ecp256bp", "IKE:AES_GCM_8_128/PRF_AES128_CMAC/ECP_256_BP"),
        # An integrity keyword beside an AEAD only names the PRF, as strongSwan takes it.
        ("aes256gcm16-sha512-ecp521", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_512/ECP_521"),
        ("AES128-SHA256-MODP3072", "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_3072"),
        (
            "aes128-aes256-sha256-sha384-modp2048-ecp256",
            "IKE:AES_CBC_128/AES_CBC_256/HMAC_SHA2_256_128/HMAC_SHA2_384_192"
            "/PRF_HMAC_SHA2_256/PRF_HMAC_SHA2_384/MODP_2048/ECP_256",
        ),
        (
            "aes128-sha256-prfsha512-prfsha256-modp8192",
            "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_512/PRF_HMAC_SHA2_256/MODP_8192",
        ),
    ],
)
def test_ike_keywords_mean_transforms(text: str, meaning: str) -> None:
    assert one(text, IKE) == meaning


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("aes256-sha256-esn", "ESP:AES_CBC_256/HMAC_SHA2_256_128/EXT_SEQ"),
        ("aes256-sha256", "ESP:AES_CBC_256/HMAC_SHA2_256_128/NO_EXT_SEQ"),
        ("aes256-sha256-esn-noesn", "ESP:AES_CBC_256/HMAC_SHA2_256_128/EXT_SEQ/NO_EXT_SEQ"),
        ("null-sha256", "ESP:NULL/HMAC_SHA2_256_128/NO_EXT_SEQ"),
        ("aes192ccm12", "ESP:AES_CCM_12_192/NO_EXT_SEQ"),
        ("aes128ctr-sha384", "ESP:AES_CTR_128/HMAC_SHA2_384_192/NO_EXT_SEQ"),
        ("aes256gcm16-x25519-modp2048", "ESP:AES_GCM_16_256/CURVE_25519/MODP_2048/NO_EXT_SEQ"),
        ("aes256gcm128-ecp384-modpnone", "ESP:AES_GCM_16_256/ECP_384/NONE/NO_EXT_SEQ"),
        ("aes128gcm16-sha256", "ESP:AES_GCM_16_128/NO_EXT_SEQ"),
        ("aes128-sha1-aes128", "ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ"),
    ],
)
def test_esp_keywords_mean_transforms(text: str, meaning: str) -> None:
    assert one(text, ESP) == meaning


def test_several_proposals_come_from_a_comma_or_a_list_in_their_order() -> None:
    first, second = "aes256gcm16-x25519", "aes128-sha256"
    expected = (*parse_proposals(first, ESP), *parse_proposals(second, ESP))
    assert parse_proposals(f"{first}, {second}", ESP) == expected
    assert parse_proposals([first, second], ESP) == expected
    assert parse_proposals([f"{first},{second}", first], ESP) == expected


@pytest.mark.parametrize(
    ("text", "protocol", "said"),
    [
        ("aes128-sha257-modp2048", IKE, "'sha257'"),
        ("aes128-sha256-modp1024s160", IKE, "'modp1024s160'"),
        ("blowfish128-sha1", ESP, "'blowfish128'"),
        ("aes128--sha256", ESP, "''"),
        ("", IKE, "''"),
        ("null-sha256-modp2048", IKE, "'null' has no place in an IKE proposal"),
        ("aes128-sha256-none", IKE, "'none' has no place"),
        ("aes128-sha256-modp2048-esn", IKE, "'esn' has no place"),
        ("aes128-sha256-prfsha256", ESP, "'prfsha256' has no place in an ESP proposal"),
        ("sha256-modp2048", IKE, "no encryption algorithm"),
        ("aes128-modp2048", IKE, "no integrity algorithm"),
        ("aes128-prfsha256-modp2048", IKE, "no integrity algorithm"),
        ("aes256gcm16-x25519", IKE, "no PRF algorithm"),
        ("aes256gcm16-prfsha256", IKE, "no key exchange algorithm"),
        ("aes128", ESP, "no integrity algorithm"),
        ("null", ESP, "no integrity algorithm"),
        ("aes128ctr-x25519", ESP, "no integrity algorithm"),
        ("esn", ESP, "no encryption algorithm"),
        ("aes128-aes128gcm16-sha256", ESP, "write two proposals"),
        ("a" * 2000, ESP, "2000 characters"),
    ],
)
def test_a_bad_proposal_names_the_keyword_or_the_lack(text: str, protocol: int, said: str) -> None:
    with pytest.raises(BadProposal) as caught:
        parse_proposals(text, protocol)
    assert said in str(caught.value)


def test_a_bad_proposal_says_what_is_allowed() -> None:
    with pytest.raises(BadProposal, match=r"key exchange: .*modp2048.*x25519") as caught:
        parse_proposals("aes128-sha256-modp9999", IKE)
    assert "esn" not in str(caught.value)
    with pytest.raises(BadProposal, match="allowed: sha1, sha256"):
        parse_proposals("aes128", ESP)


def test_no_proposal_at_all_is_refused() -> None:
    with pytest.raises(BadProposal):
        parse_proposals([], IKE)


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_every_keyword_names_something_that_works(keyword: str) -> None:
    transform = KEYWORDS[keyword]
    if transform.type == TransformType.ENCR:
        mac = Integ.NONE if is_aead(transform.id) else Integ.HMAC_SHA2_256_128
        assert suite(transform.id, transform.key_bits, mac).encryption == transform.id
    elif transform.type == TransformType.INTEG:
        assert suite(Encr.NULL, 0, transform.id).integrity == transform.id
    elif transform.type == TransformType.PRF:
        assert prf(transform.id).id == transform.id
    elif transform.type == TransformType.KE and transform.id != KeMethod.NONE:
        assert public_length(transform.id) > 0
    else:
        assert transform.id in (KeMethod.NONE, Esn.EXT_SEQ, Esn.NO_EXT_SEQ)


@pytest.mark.parametrize(
    ("text", "protocol"), [*((t, IKE) for t in DEFAULT_IKE), *((t, ESP) for t in DEFAULT_ESP)]
)
def test_keywords_survive_there_and_back(text: str, protocol: int) -> None:
    (proposal,) = parse_proposals(text, protocol)
    assert keywords_of(proposal) == text
    assert parse_proposals(keywords_of(proposal), protocol) == (proposal,)


@pytest.mark.parametrize("protocol", [IKE, ESP])
def test_the_default_is_good_practice(protocol: int) -> None:
    proposals = parse_proposals("default", protocol)
    assert proposals == default_proposals(protocol)
    used = {keyword for proposal in proposals for keyword in keywords_of(proposal).split("-")}
    assert {re.sub("^ke[1-7]_", "", keyword) for keyword in used} <= set(keywords_for(protocol))
    assert not used & {"sha1", "prfsha1", "null", "aesxcbc", "aes128gcm8", "aes256ccm8"}
    assert is_aead(proposals[0].of_type(TransformType.ENCR)[0].id)
    assert proposals[0].of_type(TransformType.KE)[0].id == KeMethod.CURVE_25519


def test_the_default_comes_with_ml_kem_first_and_can_do_without() -> None:
    hybrid, *others = default_proposals(IKE)
    assert hybrid.of_type(TransformType.ADDITIONAL_KE_1) == (
        Transform(TransformType.ADDITIONAL_KE_1, KeMethod.ML_KEM_768),
    )
    # A second proposal, and no NONE in the first: strongSwan 5.9.8 refuses that.
    assert others
    assert not any(map(has_additional, others))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("aes256gcm16-prfsha384-x25519-ke1_x25519", "the same key exchange twice"),
        ("aes256gcm16-prfsha384-x25519-ke8_mlkem768", "unknown keyword 'ke8_mlkem768'"),
        ("aes256gcm16-prfsha384-x25519-ke1_aes256", "unknown keyword 'ke1_aes256'"),
        ("aes256gcm16-prfsha384-ke1_mlkem768", "has no key exchange algorithm"),
    ],
)
def test_additional_key_exchanges_that_cannot_be_are_refused(text: str, says: str) -> None:
    with pytest.raises(BadProposal, match=says):
        parse_proposals(text, IKE)


def test_additional_key_exchanges_are_written_as_they_are_read() -> None:
    text = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none-ke3_ecp384"
    (proposal,) = parse_proposals(text, IKE)
    assert keywords_of(proposal) == text


def test_the_default_offers_pfs_and_extended_numbers_and_can_do_without() -> None:
    for proposal in default_proposals(ESP):
        assert proposal.of_type(TransformType.KE)[-1].id == KeMethod.NONE
        assert [transform.id for transform in proposal.of_type(TransformType.ESN)] == [
            Esn.EXT_SEQ,
            Esn.NO_EXT_SEQ,
        ]
    (plain,) = parse_proposals("aes256gcm16-x25519-none", ESP)
    assert format_proposal(without_key_exchange(plain)) == "ESP:AES_GCM_16_256/NO_EXT_SEQ"


def test_every_default_group_can_be_generated() -> None:
    for proposal in default_proposals(IKE):
        for transform in proposal.of_type(TransformType.KE):
            assert generate(transform.id, SystemEntropy()).group == transform.id


def test_what_a_peer_offers_is_printable_whatever_it_is() -> None:
    offered = Proposal(
        77,
        (
            Transform(TransformType.ENCR, Encr.IDEA_CBC),
            Transform(TransformType.ENCR, 1234, 99),
            Transform(TransformType.PRF, Prf.PRF_HMAC_MD5),
            Transform(6, KeMethod.ML_KEM_768),
            Transform(241, 3),
        ),
    )
    assert format_proposal(offered) == (
        "UNKNOWN_77:IDEA_CBC/UNKNOWN_1234_99/PRF_HMAC_MD5/KE1_ML_KEM_768/UNKNOWN_241_3"
    )
    assert keywords_of(offered).startswith("IDEA_CBC-")


def test_an_ah_proposal_holds_integrity_and_gmac_is_one_there() -> None:
    (proposal,) = parse_proposals("sha256-aes256gmac-x25519-esn", Protocol.AH)
    assert format_proposal(proposal) == "AH:HMAC_SHA2_256_128/AES_256_GMAC/CURVE_25519/EXT_SEQ"
    assert keywords_of(proposal) == "sha256-aes256gmac-x25519-esn"
    (proposal,) = parse_proposals("sha1", Protocol.AH)
    assert keywords_of(proposal) == "sha1-noesn"
    with pytest.raises(BadProposal, match="has no integrity algorithm"):
        parse_proposals("esn", Protocol.AH)
    with pytest.raises(BadProposal, match="no place in an AH proposal"):
        parse_proposals("aes128-sha256", Protocol.AH)
    assert all(p.protocol == Protocol.AH for p in parse_proposals("default", Protocol.AH))


@pytest.mark.parametrize("keyword", ["aes128gmac", "aes256gcm16iiv", "aes128ccm8iiv", "chacha20poly1305iiv"])
def test_what_is_for_packets_alone_protects_no_ike_message(keyword: str) -> None:
    (proposal,) = parse_proposals(keyword, Protocol.ESP)
    assert keywords_of(proposal) == f"{keyword}-noesn"
    with pytest.raises(BadProposal, match="no place in an IKE proposal"):
        parse_proposals(f"{keyword}-prfsha256-x25519", Protocol.IKE)


def test_what_is_too_weak_for_today_is_in_no_default_and_has_a_name_to_be_asked_by() -> None:
    for protocol in (IKE, ESP):
        assert legacy_keywords(parse_proposals("default", protocol)) == ()
    (old,) = parse_proposals("3des-des-md5-modp768-modp1024-modp1536-modp2048", IKE)
    assert legacy_keywords([old]) == ("3des", "des", "md5", "prfmd5", "modp768", "modp1024", "modp1536")
    assert keywords_of(old) == "3des-des-md5-prfmd5-modp768-modp1024-modp1536-modp2048"
    assert legacy_keywords(parse_proposals("aes128-sha1-modp2048", IKE)) == ()
