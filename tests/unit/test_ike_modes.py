"""Transport mode, AH, IPComp and TFC padding, agreed on by two gateways; what one of them does not want."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from cygnet.ike.errors import Reason
from cygnet.ike.events import MessageSeen
from cygnet.ike.v1 import nat
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol
from cygnet.policy.selectors import of_address
from cygnet.testing import Gateway, Nat, Network, Pair, assert_agreement
from cygnet.testing.configurations import connection_text
from cygnet.wire.numbers import Encr, Integ
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.numbers import Encapsulation, Exchange, PayloadType, Phase2Attribute
from cygnet.wire.v1.payloads import SaPayload

UP = [("peer", "net")]
AH = 'ah_proposals = ["sha256-x25519-esn"]'
TRANSPORT = 'mode = "transport"'


def sas(gateway: Gateway) -> dict[Direction, SaParameters]:
    """What is in use: the newest of each direction."""
    inbound = [entry.sa for entry in gateway.plane.inbound.values() if not entry.dies_at]
    outbound = [entries[-1].sa for entries in gateway.plane.outbound.values() if entries]
    return {Direction.IN: inbound[-1], Direction.OUT: outbound[-1]}


def all_sas(pair: Pair) -> list[SaParameters]:
    return [sa for gateway in pair.both for sa in sas(gateway).values()]


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_ah_is_negotiated_rekeyed_and_closed(mode: str) -> None:
    pair = Pair(settings=f'{AH}\nmode = "{mode}"').up()
    for sa in all_sas(pair):
        assert (sa.protocol, sa.mode) == (SaProtocol.AH, Mode[mode.upper()])
        assert (sa.encryption, sa.encryption_key, sa.integrity) == (0, b"", Integ.HMAC_SHA2_256_128)
        assert (len(sa.integrity_key), sa.esn, sa.encapsulation) == (32, True, None)
    a, b = sas(pair.a), sas(pair.b)
    assert a[Direction.OUT].integrity_key == b[Direction.IN].integrity_key
    assert a[Direction.IN].integrity_key == b[Direction.OUT].integrity_key != a[Direction.OUT].integrity_key
    assert_agreement(*pair.both, up=UP)
    before = a[Direction.OUT].spi
    pair.b.rekey(child="net")
    pair.settle(30)
    assert sas(pair.a)[Direction.OUT].spi != before
    assert_agreement(*pair.both, up=UP)
    pair.a.terminate(child="net")
    pair.settle(30)
    assert pair.a.plane.outbound == {} or not any(pair.a.plane.outbound.values())
    assert not any(pair.b.plane.outbound.values())


@pytest.mark.parametrize("settings", [TRANSPORT, f"{TRANSPORT}\nipcomp = true"])
def test_transport_mode_needs_both_ends_and_survives_rekeys(settings: str) -> None:
    pair = Pair(settings=settings).up()
    pair.a.rekey(child="net")
    pair.settle(30)
    pair.b.rekey(child="net")
    pair.settle(30)
    assert {(sa.protocol, sa.mode) for sa in all_sas(pair)} == {(SaProtocol.ESP, Mode.TRANSPORT)}
    assert {bool(sa.ipcomp) for sa in all_sas(pair)} == {"ipcomp" in settings}
    assert_agreement(*pair.both, up=UP)


def test_a_tunnel_where_transport_mode_was_wanted_is_not_taken() -> None:
    pair = Pair(a_settings=TRANSPORT, b_settings="")
    operation = pair.a.initiate("peer", "net")
    pair.settle(20)
    failure = pair.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.MODE_MISMATCH
    assert "first difference: mode" in failure.detail
    assert not any(pair.a.plane.outbound.values())
    assert not any(pair.b.plane.outbound.values())


def test_transport_mode_where_a_tunnel_was_wanted_is_refused_with_the_difference() -> None:
    pair = Pair(a_settings="", b_settings=TRANSPORT)
    operation = pair.a.initiate("peer", "net")
    pair.settle(20)
    assert pair.a.operations[operation] is not None
    assert not any(pair.a.plane.outbound.values())
    assert pair.b.plane.inbound == {}


def test_esp_and_ah_do_not_agree_and_say_so() -> None:
    pair = Pair(a_settings=AH, b_settings="")
    operation = pair.a.initiate("peer", "net")
    pair.settle(20)
    failure = pair.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.CHILD_PROPOSAL_MISMATCH


@pytest.mark.parametrize(("ours", "theirs"), [(True, True), (True, False), (False, True)])
def test_ipcomp_is_used_if_both_ends_want_it(ours: bool, theirs: bool) -> None:
    words = {True: "ipcomp = true", False: ""}
    pair = Pair(a_settings=words[ours], b_settings=words[theirs]).up()
    a, b = sas(pair.a), sas(pair.b)
    if ours and theirs:
        assert a[Direction.OUT].ipcomp == b[Direction.IN].ipcomp != 0
        assert b[Direction.OUT].ipcomp == a[Direction.IN].ipcomp != 0
        assert 256 <= a[Direction.OUT].ipcomp <= 61439
    else:
        assert {sa.ipcomp for sa in all_sas(pair)} == {0}


def test_padding_is_for_tunnels_and_for_peers_that_take_it() -> None:
    pair = Pair(settings='tfc_padding = "mtu"\ndummy_interval = "5s"').up()
    assert {sas(g)[Direction.OUT].tfc_padding for g in pair.both} == {0xFFFF}
    assert {sas(g)[Direction.OUT].dummy_interval for g in pair.both} == {5.0}
    assert {sas(g)[Direction.IN].tfc_padding for g in pair.both} == {0}
    pair = Pair(settings=f"tfc_padding = 500\n{TRANSPORT}").up()
    assert {sa.tfc_padding for sa in all_sas(pair)} == {0}


@pytest.mark.parametrize(
    ("keyword", "number", "octets"),
    [
        ("aes256gmac", Encr.NULL_AES_GMAC, 36),
        ("aes128gcm16iiv", Encr.AES_GCM_16_IIV, 20),
        ("chacha20poly1305iiv", Encr.CHACHA20_POLY1305_IIV, 36),
        ("camellia256-sha384", Encr.CAMELLIA_CBC, 32),
        ("3des-md5", Encr.TRIPLE_DES_CBC, 24),
        ("aes192ccm12", Encr.AES_CCM_12, 27),
    ],
)
def test_every_transform_is_negotiated(keyword: str, number: int, octets: int) -> None:
    pair = Pair(settings=f'esp_proposals = ["{keyword}"]').up()
    for sa in all_sas(pair):
        assert (sa.encryption, len(sa.encryption_key)) == (number, octets)
    assert_agreement(*pair.both, up=UP)


def test_gmac_is_negotiated_as_integrity_of_ah() -> None:
    pair = Pair(settings='ah_proposals = ["aes256gmac"]').up()
    for sa in all_sas(pair):
        assert (sa.integrity, len(sa.integrity_key)) == (Integ.AES_256_GMAC, 36)


def test_policies_say_what_is_done_to_their_packets() -> None:
    pair = Pair(settings=f"{AH}\n{TRANSPORT}\nipcomp = true")
    pair.settle(1)
    (policy,) = pair.a.plane.policies.values()
    assert (policy.mode, policy.protocols, policy.ipcomp) == (Mode.TRANSPORT, (SaProtocol.AH,), True)


# -- behind a NAT -----------------------------------------------------------------------------------


def behind_nat(settings: str, version: int = 2, connection: str = "") -> tuple[Network, Gateway, Gateway]:
    """A road warrior at 10.9.9.9 that the gateway 192.0.2.2 sees as 203.0.113.9."""
    network = Network()
    Nat(network, ip_address("203.0.113.9"), ip_address("10.9.9.9"))
    dynamic = f'{settings}\nlocal_ts = ["dynamic"]\nremote_ts = ["dynamic"]'
    texts = []
    for local, remote, here, there in ((1, 2, "10.9.9.9", "192.0.2.2"), (2, 1, "192.0.2.2", "203.0.113.9")):
        text = connection_text(
            "peer",
            local,
            remote,
            connection=connection,
            local_address=here,
            remote_address=there,
            version=version,
        )
        networks = text.split("children.net]")[1].split("\n\n")[0]
        text = text.replace(networks, f"\n{dynamic}\n")
        texts.append(text)
    return (
        network,
        Gateway(network, "road", "10.9.9.9", texts[0]),
        Gateway(network, "gate", "192.0.2.2", texts[1]),
    )


def test_transport_mode_behind_a_nat_has_selectors_that_each_end_sees() -> None:
    # RFC 7296, section 2.23.1.
    network, road, gate = behind_nat(TRANSPORT)
    check = carried(network, road, gate)
    # What the client's checksums were made with is known here, what the gateway's were is not there.
    assert sas(gate)[Direction.IN].original_remote == ip_address("10.9.9.9")
    assert sas(gate)[Direction.IN].original_local is None
    assert sas(road)[Direction.IN].original_local == ip_address("0.0.0.0")
    assert sas(road)[Direction.IN].original_remote is None
    for gateway in (road, gate):
        gateway.rekey(child="net")
        network.run_for(30)
        check()


def carried(network: Network, road: Gateway, gate: Gateway) -> Callable[[], None]:
    """It is brought up from behind the NAT; what comes back judges it, again after each rekey."""
    operation = road.initiate("peer", "net")
    network.run_for(20)
    assert road.operations == {operation: None}

    def check() -> None:
        inside, outside = ip_address("10.9.9.9"), ip_address("203.0.113.9")
        here, there = sas(road), sas(gate)
        assert here[Direction.OUT].local_selectors == (of_address(inside),)
        assert here[Direction.OUT].remote_selectors == (of_address(ip_address("192.0.2.2")),)
        assert there[Direction.IN].remote_selectors == (of_address(outside),)
        assert there[Direction.IN].local_selectors == (of_address(ip_address("192.0.2.2")),)
        assert here[Direction.OUT].encapsulation is not None
        assert {sa.mode for sa in (*here.values(), *there.values())} == {Mode.TRANSPORT}

    check()
    return check


def test_ah_through_a_nat_is_refused_with_the_reason() -> None:
    network, road, gate = behind_nat(AH)
    operation = road.initiate("peer", "net")
    network.run_for(20)
    failure = road.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.MODE_MISMATCH
    assert "NAT" in failure.detail
    assert road.plane.inbound == gate.plane.inbound == {}


def test_esp_is_taken_where_a_nat_leaves_ah_out() -> None:
    network, road, gate = behind_nat(f'{AH}\n{TRANSPORT}\nesp_proposals = ["aes128gcm16"]')
    operation = road.initiate("peer", "net")
    network.run_for(20)
    assert road.operations == {operation: None}
    assert {sa.protocol for g in (road, gate) for sa in sas(g).values()} == {SaProtocol.ESP}


# -- IKEv1 ------------------------------------------------------------------------------------------

V1 = 'proposals = ["aes128-sha256-modp2048"]'


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("algorithms", ['ah_proposals = ["sha256"]', 'esp_proposals = ["aes128-sha256"]'])
def test_quick_mode_has_ah_and_transport_mode_too(mode: str, algorithms: str) -> None:
    pair = Pair(connection=V1, version=1, settings=f'{algorithms}\nmode = "{mode}"').up()
    protocol = SaProtocol.AH if "ah_" in algorithms else SaProtocol.ESP
    for _ in range(2):
        for sa in all_sas(pair):
            assert (sa.protocol, sa.mode, len(sa.integrity_key)) == (protocol, Mode[mode.upper()], 32)
        a, b = sas(pair.a), sas(pair.b)
        assert a[Direction.OUT].integrity_key == b[Direction.IN].integrity_key
        assert_agreement(*pair.both, up=UP)
        pair.b.rekey(child="net")
        pair.settle(30)
    pair.a.terminate(child="net")
    pair.settle(30)
    assert not any(pair.b.plane.outbound.values())


def test_quick_mode_behind_a_nat_tells_original_addresses_for_transport_mode() -> None:
    """RFC 3947, section 5.2: NAT-OAi and NAT-OAr in both messages, so that either end knows what the other's
    checksums were made with; whoever rekeys."""
    network, road, gate = behind_nat(TRANSPORT, 1, V1)
    check = carried(network, road, gate)

    def known() -> None:
        check()
        assert sas(gate)[Direction.IN].original_remote == ip_address("10.9.9.9")
        assert sas(gate)[Direction.IN].original_local is None
        assert sas(road)[Direction.IN].original_local == ip_address("203.0.113.9")
        assert sas(road)[Direction.IN].original_remote is None

    known()
    for gateway in (road, gate):
        before = sas(gateway)[Direction.IN].spi
        gateway.rekey(child="net")
        network.run_for(30)
        assert sas(gateway)[Direction.IN].spi != before
        known()
    assert len(gate.sas()[0].children) == len(road.sas()[0].children) == 1


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("draft", vendor_ids.NAT_T_BEST_FIRST[1:], ids=["03", "02n", "02"])
def test_peers_that_speak_a_draft_of_nat_traversal_alone_go_through_the_nat(
    monkeypatch: pytest.MonkeyPatch, draft: bytes, mode: str
) -> None:
    """The drafts' own payload numbers (NAT-D 130, NAT-OA 131) and encapsulation modes."""
    monkeypatch.setattr(nat, "SPOKEN", (draft,))
    network, road, gate = behind_nat(f'mode = "{mode}"', 1, V1)
    road.endpoint.observe = True
    operation = road.initiate("peer", "net")
    network.run_for(20)
    if mode == "tunnel":
        # Neither end's network is what the other sees: there the selectors are the road's own address.
        assert road.operations[operation] is not None
        assert gate.failures()[0].reason is Reason.SELECTOR_MISMATCH
    else:
        assert road.operations == {operation: None}
        assert sas(gate)[Direction.IN].original_remote == ip_address("10.9.9.9")
        assert sas(road)[Direction.IN].original_local == ip_address("203.0.113.9")
    said = {p.payload_type for e in road.of(MessageSeen) for p in e.message.payloads}
    assert PayloadType.NAT_D_DRAFT in said
    assert PayloadType.NAT_D not in said
    assert (PayloadType.NAT_OA_DRAFT in said) == (mode == "transport")
    (modes,) = {
        attribute.number
        for event in road.of(MessageSeen)
        for payload in event.message.all(SaPayload)
        for attribute in payload.proposals[0].transforms[0].attributes
        if event.message.header.exchange == Exchange.QUICK_MODE
        and attribute.type == Phase2Attribute.ENCAPSULATION
    }
    drafts = {"tunnel": Encapsulation.UDP_TUNNEL_DRAFT, "transport": Encapsulation.UDP_TRANSPORT_DRAFT}
    assert modes == drafts[mode]


def test_where_no_nat_is_quick_mode_tells_no_original_addresses() -> None:
    pair = Pair(connection=V1, version=1, settings=f'{TRANSPORT}\nesp_proposals = ["aes128-sha256"]').up()
    assert {(sa.original_local, sa.original_remote) for sa in all_sas(pair)} == {(None, None)}


def test_quick_mode_does_not_take_one_mode_for_the_other() -> None:
    settings = 'esp_proposals = ["aes128-sha256"]'
    pair = Pair(connection=V1, version=1, a_settings=f"{settings}\n{TRANSPORT}", b_settings=settings)
    pair.a.initiate("peer", "net")
    pair.settle(60)
    assert not any(pair.a.plane.outbound.values())
    assert not any(pair.b.plane.outbound.values())
