"""AH around ESP, negotiated: two halves that come, go and are rekeyed together, whatever the line does."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest

from cygnet.ike.errors import Reason
from cygnet.ike.events import ChildSaDown
from cygnet.ike.v1 import informational as v1
from cygnet.ike.v2 import informational as v2
from cygnet.ike.view import ChildSaView
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol
from cygnet.testing import (
    Conditions,
    Flight,
    Gateway,
    Nat,
    Network,
    Pair,
    assert_agreement,
    connection_text,
)
from cygnet.testing.network import Deliveries
from cygnet.wire.numbers import Integ, Protocol

UP = [("peer", "net")]
BUNDLE = 'bundle = true\nesp_proposals = "aes256gcm16-x25519"\nah_proposals = "sha256-x25519-esn"'
VERSIONS = pytest.mark.parametrize("version", [1, 2])


def child(gateway: Gateway) -> ChildSaView:
    (view,) = gateway.sas()
    (one,) = view.children
    return one


def in_use(gateway: Gateway) -> dict[int, list[SaParameters]]:
    """By pair: what stands, both directions."""
    plane = gateway.plane
    found: dict[int, list[SaParameters]] = {}
    for entry in (
        *(e for e in plane.inbound.values() if not e.dies_at),
        *(e for entries in plane.outbound.values() for e in entries),
        *plane.around_out.values(),
    ):
        found.setdefault(entry.sa.pair, []).append(entry.sa)
    return found


def assert_bundled(pair: Pair) -> None:
    assert_agreement(*pair.both, up=UP)
    for gateway in pair.both:
        one = child(gateway)
        assert one.around is not None
        assert one.protocol == SaProtocol.ESP
        esp, ah = in_use(gateway)[one.pair], in_use(gateway)[one.around.pair]
        assert {sa.direction for sa in esp} == {sa.direction for sa in ah} == set(Direction)
        assert {(sa.protocol, sa.bundle) for sa in esp} == {(SaProtocol.ESP, one.around.pair)}
        assert {(sa.protocol, sa.mode, sa.bundle) for sa in ah} == {(SaProtocol.AH, Mode.TRANSPORT, one.pair)}
        assert {sa.integrity for sa in ah} == {Integ.HMAC_SHA2_256_128}
        assert len(in_use(gateway)) == 2
        # Four keys of AH and ESP, none twice.
        keys = [key for sa in (*esp, *ah) for key in (sa.encryption_key, sa.integrity_key) if key]
        assert len(keys) == len(set(keys)) == 4
    assert pair.talk(3) == (3, 3)
    assert not any(gateway.plane.drops for gateway in pair.both)


def nothing_stands(pair: Pair) -> None:
    pair.settle(30)
    for gateway in pair.both:
        assert in_use(gateway) == {}
    assert_agreement(*pair.both)


@VERSIONS
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_a_bundle_comes_is_rekeyed_from_either_end_and_goes_as_one(version: int, mode: str) -> None:
    settings = f'{BUNDLE}\nmode = "{mode}"'
    pair = Pair(settings=settings, version=version).up()
    if mode == "tunnel":
        assert_bundled(pair)
    for gateway in (pair.a, pair.b):
        before = child(pair.a)
        gateway.rekey(child="net")
        pair.settle(60)
        after = child(pair.a)
        assert before.around is not None
        assert after.around is not None
        assert before.spi_in != after.spi_in
        assert before.around.spi_in != after.around.spi_in
        if mode == "tunnel":
            assert_bundled(pair)
    pair.b.terminate(child="net")
    nothing_stands(pair)


@VERSIONS
@pytest.mark.parametrize("seed", range(6))
def test_both_ends_rekey_at_once_and_one_bundle_is_left(version: int, seed: int) -> None:
    pair = Pair(seed, settings=BUNDLE, version=version).up()
    pair.a.rekey("net")
    pair.b.rekey("net")
    # While halves of three bundles stand side by side, each packet goes through two of one.
    assert pair.talk(20, apart=0.05) == (20, 20)
    pair.settle()
    assert_bundled(pair)


@VERSIONS
@pytest.mark.parametrize("seed", range(4))
def test_both_ends_begin_at_once_and_one_bundle_is_left(version: int, seed: int) -> None:
    pair = Pair(seed, settings=BUNDLE, version=version)
    for gateway in pair.both:
        gateway.initiate("peer", "net")
    pair.settle()
    assert_bundled(pair)


@VERSIONS
@pytest.mark.parametrize("seed", range(4))
def test_on_a_bad_line_both_ends_agree_in_the_end(version: int, seed: int) -> None:
    pair = Pair(seed, settings=BUNDLE, version=version).up()
    pair.network.conditions = Conditions(loss=0.25, duplicate=0.1, jitter=0.5)
    pair.a.rekey("net")
    pair.network.run_for(40)
    pair.b.rekey("net")
    pair.settle()
    pair.network.conditions = Conditions()
    pair.settle()
    if pair.a.sas():
        assert_bundled(pair)
    else:
        assert_agreement(*pair.both)


@pytest.mark.parametrize("half", ["esp", "ah"])
@VERSIONS
def test_one_half_that_is_refused_is_the_end_of_both(version: int, half: str) -> None:
    other = BUNDLE.replace("aes256gcm16", "aes128gcm16") if half == "esp" else BUNDLE.replace("256-", "512-")
    pair = Pair(a_settings=BUNDLE, b_settings=other, version=version)
    operation = pair.a.initiate("peer", "net")
    pair.settle(30)
    failure = pair.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.CHILD_PROPOSAL_MISMATCH
    (theirs,) = pair.b.failures()
    assert theirs.reason is Reason.CHILD_PROPOSAL_MISMATCH
    assert ("AES_GCM" if half == "esp" else "SHA2") in theirs.detail
    nothing_stands(pair)


@pytest.mark.parametrize("half", [SaProtocol.ESP, SaProtocol.AH])
@VERSIONS
def test_one_half_that_cannot_be_installed_is_the_end_of_both(version: int, half: int) -> None:
    pair = Pair(settings=BUNDLE, version=version)
    pair.b.plane.refuse = lambda sa: "no room" if sa.protocol == half else ""
    operation = pair.a.initiate("peer", "net")
    pair.settle(300)
    assert pair.a.operations[operation] is not None
    nothing_stands(pair)


@pytest.mark.parametrize("half", [Protocol.ESP, Protocol.AH])
@VERSIONS
def test_a_delete_of_one_half_deletes_both(version: int, half: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4306, section 1.4. Whoever knows no bundles, or has lost one half, names the other one alone."""
    pair = Pair(settings=BUNDLE, version=version).up()
    module, name = (v2, "delete_payloads") if version == 2 else (v1, "payloads")
    both = getattr(module, name)

    def one(children: object) -> tuple[object, ...]:
        return tuple(payload for payload in both(children) if payload.protocol == half)

    monkeypatch.setattr(module, name, one)
    pair.a.terminate(child="net")
    nothing_stands(pair)
    assert len(pair.b.of(ChildSaDown)) == 1


@pytest.mark.parametrize(("direction", "hard"), [(0, False), (1, False), (1, True)])
def test_either_half_that_wears_out_is_the_wear_of_both(direction: int, hard: bool) -> None:
    pair = Pair(settings=BUNDLE).up()
    before = child(pair.a)
    assert before.around is not None
    pair.a.expire(before.around.pair, direction, hard=hard, why="sequence")
    pair.settle(60)
    if hard:
        nothing_stands(pair)
        return
    after = child(pair.a)
    assert after.around is not None
    assert {before.pair, before.around.pair}.isdisjoint({after.pair, after.around.pair})
    assert_bundled(pair)


@pytest.mark.parametrize("version", [1, 2])
def test_behind_a_nat_a_bundle_is_refused_with_the_reason(version: int) -> None:
    outside, inside = "203.0.113.9", "10.9.9.9"
    network = Network(3)
    how = {"settings": BUNDLE, "version": version}
    a_text = connection_text("peer", 1, 2, local_address=inside, **how)  # type: ignore[arg-type]
    b_text = connection_text("peer", 2, 1, remote_address=outside, **how)  # type: ignore[arg-type]
    a, b = Gateway(network, "a", inside, a_text), Gateway(network, "b", "192.0.2.2", b_text)
    Nat(network, ip_address(outside), ip_address(inside), timeout=1e9)
    operation = a.initiate("peer", "net")
    network.run_for(60)
    failure = a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.MODE_MISMATCH
    assert "NAT" in failure.detail
    assert not a.plane.outbound
    assert not b.plane.inbound


def test_esp_without_its_ah_is_refused_where_a_bundle_is_wanted() -> None:
    for ours, theirs in (("", BUNDLE), (BUNDLE, "")):
        pair = Pair(a_settings=ours or 'esp_proposals = "aes256gcm16-x25519"', b_settings=theirs)
        operation = pair.a.initiate("peer", "net")
        pair.settle(30)
        assert pair.a.operations[operation] is not None
        nothing_stands(pair)


def test_an_ah_whose_esp_does_not_come_is_forgotten() -> None:
    pair = Pair(settings=BUNDLE, connection='proposals = ["aes256gcm16-prfsha256-x25519"]')
    pair.network.meddlers.append(without_esp)
    pair.a.initiate("peer", "net")
    pair.network.run_for(5)
    endpoint = pair.b.endpoint
    (sa,) = endpoint.by_number.values()
    assert len(sa.state.halves) == len(endpoint._child_spis) == 1
    pair.network.run_for(70)
    assert len(sa.state.halves) == len(endpoint._child_spis) == 0


def without_esp(flight: Flight, random: Random) -> Deliveries | None:
    """Lost is all that `a` asks behind its second CREATE_CHILD_SA."""
    number = int.from_bytes(flight.data[20:24], "big")
    return () if flight.source == ip_address("192.0.2.1") and number >= 3 else None
