"""The bundle of RFC 4306, section 3.3: AH and ESP under one number, offered by a peer played by hand."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest

from cygnet.auth.identity import Identity
from cygnet.crypto.proposals import parse_proposals
from cygnet.policy.sa import Direction, Mode, SaProtocol
from cygnet.wire.message import Message
from cygnet.wire.numbers import Encr, Exchange, Integ, Notify, Protocol, TransformType
from cygnet.wire.payloads import (
    Attribute,
    DeletePayload,
    Proposal,
    SaPayload,
    Transform,
)
from tests.unit.ike_by_hand import Moon, Sun, with_secret
from tests.unit.security_by_hand import SECRET, psk_connection, store

ESP_SPI, AH_SPI = b"\x01\x02\x03\x04", b"\x0a\x0b\x0c\x0d"
ESP = Proposal(
    1,
    Protocol.ESP,
    ESP_SPI,
    (
        Transform(TransformType.ENCR, Encr.AES_GCM_16, (Attribute(14, 256),)),
        Transform(TransformType.ESN, 0),
    ),
)
AH = Proposal(
    1,
    Protocol.AH,
    AH_SPI,
    (Transform(TransformType.INTEG, Integ.HMAC_SHA2_256_128), Transform(TransformType.ESN, 0)),
)


def moon_with_bundle() -> Moon:
    connection = psk_connection()
    (child,) = connection.children
    around = parse_proposals(["sha256"], Protocol.AH)
    return Moon(store(), replace(connection, children=(replace(child, around=around),)))


def offer(moon: Moon, sun: Sun, *proposals: Proposal) -> Message:
    payloads = [
        SaPayload(proposals) if isinstance(one, SaPayload) else one
        for one in sun.authentication(Identity.parse("sun.example.org"), with_secret(SECRET))
    ]
    answer = sun.request(moon, payloads)
    assert answer is not None
    return answer


def prf_plus(key: bytes, seed: bytes, length: int) -> bytes:
    """RFC 7296, section 2.13, by hand."""
    made, block, count = b"", b"", 1
    while len(made) < length:
        block = hmac.digest(key, block + seed + bytes((count,)), "sha256")
        made, count = made + block, count + 1
    return made[:length]


@pytest.mark.parametrize("order", [(AH, ESP), (ESP, AH)], ids=["ah-esp", "esp-ah"])
def test_both_of_one_number_are_taken_with_keys_in_the_order_of_the_headers(
    order: tuple[Proposal, ...],
) -> None:
    moon, sun = moon_with_bundle(), Sun(True)
    sun.first(moon)
    answer = offer(moon, sun, *order)
    assert [(one.number, one.protocol) for one in answer.one(SaPayload).proposals] == [
        (1, Protocol.AH),
        (1, Protocol.ESP),
    ]
    installed = [effect.sa for effect in moon.installed]
    assert [(sa.protocol, sa.direction) for sa in installed] == [
        (SaProtocol.AH, Direction.IN),
        (SaProtocol.AH, Direction.OUT),
        (SaProtocol.ESP, Direction.IN),
        (SaProtocol.ESP, Direction.OUT),
    ]
    ah_in, ah_out, esp_in, esp_out = installed
    # RFC 4306, section 2.17: what carries data from the initiator first; in it AH, then ESP.
    assert sun.keys is not None
    keymat = prf_plus(sun.keys.sk_d, sun.nonce + sun.their_nonce, 2 * (32 + 36))
    assert ah_in.integrity_key + esp_in.encryption_key == keymat[: 32 + 36]
    assert ah_out.integrity_key + esp_out.encryption_key == keymat[32 + 36 :]
    assert (ah_out.spi.to_bytes(4, "big"), esp_out.spi.to_bytes(4, "big")) == (AH_SPI, ESP_SPI)
    assert {ah_in.bundle, ah_out.bundle} == {esp_in.pair}
    assert {esp_in.bundle, esp_out.bundle} == {ah_in.pair}
    assert (ah_in.mode, esp_in.mode) == (Mode.TRANSPORT, Mode.TUNNEL)
    told = {one.protocol: one.spi for one in answer.one(SaPayload).proposals}
    assert told == {Protocol.AH: ah_in.spi.to_bytes(4, "big"), Protocol.ESP: esp_in.spi.to_bytes(4, "big")}
    # One half deleted, both are gone, and the answer says so (section 1.4).
    gone = sun.request(moon, [DeletePayload(Protocol.AH, (AH_SPI,))], Exchange.INFORMATIONAL, 2)
    assert gone is not None
    assert {one.protocol: one.spis for one in gone.all(DeletePayload)} == {
        protocol: (spi,) for protocol, spi in told.items()
    }
    (view,) = moon.endpoint.sas()
    assert view.children == ()


def test_of_one_number_and_alone_are_never_mixed_up() -> None:
    """Who wants a bundle takes no half; who wants none takes none either, but what is offered beside."""
    for made, proposals, taken in (
        (moon_with_bundle(), (ESP,), ()),
        (moon_with_bundle(), (AH,), ()),
        (moon_with_bundle(), (AH, replace(ESP, number=2)), ()),
        (Moon(store(), psk_connection()), (AH, ESP), ()),
        (Moon(store(), psk_connection()), (AH, ESP, replace(ESP, number=2)), ((2, Protocol.ESP),)),
    ):
        sun = Sun(True)
        sun.first(made)
        answer = offer(made, sun, *proposals)
        sa = answer.maybe(SaPayload)
        found = () if sa is None else tuple((one.number, one.protocol) for one in sa.proposals)
        assert found == taken
        assert (answer.notify(Notify.NO_PROPOSAL_CHOSEN) is None) == bool(taken)


@pytest.mark.parametrize(
    "proposals",
    [(ESP, ESP), (AH, AH), (AH, ESP, ESP), (ESP, replace(ESP, number=2), AH)],
    ids=["two-esp", "two-ah", "three", "apart"],
)
def test_what_shares_a_number_and_is_no_bundle_is_refused(proposals: tuple[Proposal, ...]) -> None:
    moon, sun = moon_with_bundle(), Sun(True)
    sun.first(moon)
    answer = offer(moon, sun, *proposals)
    assert answer.notify(Notify.INVALID_SYNTAX) is not None
    assert not moon.installed
