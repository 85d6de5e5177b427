"""cygnet.toml: what people write becomes what `ike` obeys, with swanctl's names and defaults."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from cygnet.auth.identity import Identity
from cygnet.config.check import check_root
from cygnet.config.load import load, read
from cygnet.config.problems import ConfigurationError
from cygnet.crypto.proposals import default_proposals, parse_proposals
from cygnet.ike.configuration import AddressRange, AuthClass, Options, StartAction, Unique
from cygnet.policy.selectors import DynamicSelector, parse_selector
from cygnet.policy.spd import Action
from cygnet.testing import connection_text
from cygnet.wire.numbers import Protocol
from tests.unit.config_files import PSK, loaded, problems, write


def test_a_small_file_becomes_a_connection_with_swanctls_defaults(tmp_path: Path) -> None:
    (connection,) = loaded(tmp_path, PSK).connections
    assert connection.name == "branch"
    assert connection.version == 2
    assert connection.proposals == default_proposals(Protocol.IKE)
    assert connection.local_addrs == ()
    assert connection.remote_addrs == (AddressRange(ip_address("192.0.2.2"), ip_address("192.0.2.2")),)
    assert connection.local[0].method is AuthClass.PSK
    assert connection.local[0].id == Identity.parse("moon.example")
    assert connection.remote[0].id == Identity.parse("sun.example")
    assert (connection.rekey_time, connection.over_time, connection.rand_time) == (14400, 1440, 1440)
    assert connection.unique is Unique.NO
    assert (connection.local_port, connection.remote_port, connection.keyingtries) == (500, 500, 1)
    (child,) = connection.children
    assert child.proposals == default_proposals(Protocol.ESP)
    assert (child.rekey_time, child.life_time, child.rand_time) == (3600, 3960, 360)
    assert (child.start_action, child.close_action, child.dpd_action) == (StartAction.NONE,) * 3
    assert child.replay_window == 32
    (flow,) = child.flows
    assert flow.local == (parse_selector("10.1.0.0/16"),)
    assert flow.remote == (parse_selector("10.2.0.0/16"),)
    (rule,) = child.rules
    assert (rule.action, rule.flow) == (Action.PROTECT, 0)


def test_an_empty_file_is_a_gateway_with_default_options(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, "")
    assert configuration.connections == ()
    assert configuration.gateway.options == Options(encapsulate=True)
    assert configuration.gateway.control_socket == "/run/cygnet/cygnet.vici"


def test_options_reach_the_negotiation_and_the_gateway(tmp_path: Path) -> None:
    gateway = loaded(
        tmp_path,
        """
        [options]
        retransmit_timeout = "0.5"
        retransmit_tries = 3
        retransmit_jitter = 20
        cookie_threshold_ip = 7
        port = 1500
        port_nat_t = 1501
        control_socket = "/tmp/x"
        listen = ["192.0.2.1", "2001:db8::1"]
        gso = "off"
        """,
    ).gateway
    assert gateway.options.retransmission.timeout == 0.5
    assert gateway.options.retransmission.tries == 3
    assert gateway.options.retransmission.jitter == 20
    assert gateway.options.cookie_threshold_per_source == 7
    assert (gateway.options.port, gateway.options.port_nat_t) == (1500, 1501)
    assert gateway.control_socket == "/tmp/x"
    assert gateway.listen == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert gateway.gso == "off"


def test_lists_may_be_written_as_lists_or_with_commas(tmp_path: Path) -> None:
    text = PSK.replace('"192.0.2.2"', '"192.0.2.2", "198.51.100.0/24", "203.0.113.1-203.0.113.9"')
    as_list = loaded(tmp_path, text).connections
    as_text = loaded(
        tmp_path, PSK.replace('["192.0.2.2"]', '"192.0.2.2, 198.51.100.0/24, 203.0.113.1-203.0.113.9"')
    ).connections
    assert as_list == as_text
    assert as_list[0].remote_addrs[1] == AddressRange(
        ip_address("198.51.100.0"), ip_address("198.51.100.255")
    )
    assert as_list[0].remote_addrs[2] == AddressRange(ip_address("203.0.113.1"), ip_address("203.0.113.9"))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), ('"90"', 90), ('"90s"', 90), ('"2m"', 120), ('"3h"', 10800), ('"1d"', 86400), ("0.5", 0.5)],
)
def test_times_take_suffixes(tmp_path: Path, written: str, seconds: float) -> None:
    text = PSK.replace(
        "[connections.branch.children.net]", f"dpd_delay = {written}\n[connections.branch.children.net]"
    )
    assert loaded(tmp_path, text).connections[0].dpd_delay == seconds


@pytest.mark.parametrize("written", ["true", '"yes"', '"enabled"', '"1"', '"TRUE"'])
def test_yes_has_swanctls_spellings(tmp_path: Path, written: str) -> None:
    text = PSK.replace(
        "[connections.branch.children.net]", f"encap = {written}\n[connections.branch.children.net]"
    )
    assert loaded(tmp_path, text).connections[0].encap is True


def test_a_host_name_is_kept_for_each_initiation(tmp_path: Path) -> None:
    (connection,) = loaded(tmp_path, PSK.replace("192.0.2.2", "vpn-1.example.org")).connections
    assert connection.remote_host == "vpn-1.example.org"
    assert connection.remote_addrs == ()


def test_without_selectors_a_child_protects_the_tunnels_ends(tmp_path: Path) -> None:
    text = PSK.replace('local_ts = ["10.1.0.0/16"]', "").replace('remote_ts = ["10.2.0.0/16"]', "")
    (connection,) = loaded(tmp_path, text).connections
    assert connection.children[0].flows[0].local == (DynamicSelector(),)


def test_pass_and_drop_are_rules_without_a_flow(tmp_path: Path) -> None:
    for mode, action in (("pass", Action.BYPASS), ("drop", Action.DISCARD)):
        text = PSK.replace('remote_ts = ["10.2.0.0/16"]', f'remote_ts = ["10.2.0.0/16"]\nmode = "{mode}"')
        child = loaded(tmp_path, text).connections[0].children[0]
        assert child.flows == ()
        assert [rule.action for rule in child.rules] == [action]


def test_lifetimes_follow_each_other_as_swanctl_has_it(tmp_path: Path) -> None:
    text = PSK.replace(
        "[connections.branch.children.net]",
        'rekey_time = "2h"\n[connections.branch.children.net]\nrekey_bytes = "1g"\n'
        "rekey_packets = 100\nlife_packets = 150\nrand_packets = 10\nrekey_time = 0\n",
    )
    (connection,) = loaded(tmp_path, text).connections
    assert (connection.rekey_time, connection.over_time, connection.rand_time) == (7200, 720, 720)
    child = connection.children[0]
    assert (child.rekey_time, child.life_time, child.rand_time) == (0, 0, 0)
    assert child.rekey_bytes == 1 << 30
    assert child.life_bytes == (1 << 30) * 11 // 10
    assert child.rand_bytes == child.life_bytes - child.rekey_bytes
    assert (child.rekey_packets, child.life_packets, child.rand_packets) == (100, 150, 10)


def test_signature_schemes_are_limited_by_name(tmp_path: Path) -> None:
    text = PSK.replace(
        'remote = { auth = "psk"', 'remote = { auth = "ike:rsa/pss-sha384-sha256-ecdsa-sha384-ed25519"'
    )
    (connection,) = loaded(tmp_path, text).connections
    assert connection.remote[0].method is AuthClass.PUBKEY
    assert connection.remote[0].schemes == ("rsa/pss-sha384", "rsa/pss-sha256", "ecdsa-sha384", "ed25519")


def test_identities_of_a_secret_may_be_one_several_or_suffixed(tmp_path: Path) -> None:
    text = (
        PSK
        + '[secrets.ike-2]\nsecret = "0x00ff00ff00ff00ff00ff"\nid = ["a", "b"]\nid-3 = "C=CH, O=x, CN=y"\n'
    )
    first, second = loaded(tmp_path, text).secrets
    assert first.owners == (Identity.parse("sun.example"),)
    assert second.owners == tuple(map(Identity.parse, ("a", "b", "C=CH, O=x, CN=y")))
    assert second.secret == bytes.fromhex("00ff00ff00ff00ff00ff")
    assert "secret that nobody guesses" not in repr(loaded(tmp_path, text))
    tree = read(write(tmp_path, text))
    assert "secret that nobody guesses" not in repr((tree, check_root(tree)))


def test_proposals_are_parsed_by_their_protocol(tmp_path: Path) -> None:
    text = PSK.replace(
        "[connections.branch.children.net]",
        'proposals = ["aes256-sha256-modp2048", "default"]\n[connections.branch.children.net]\n'
        'esp_proposals = "aes128gcm16-x25519-esn, aes256-sha256"',
    )
    (connection,) = loaded(tmp_path, text).connections
    assert connection.proposals == parse_proposals(["aes256-sha256-modp2048", "default"], Protocol.IKE)
    assert connection.children[0].proposals == parse_proposals(
        "aes128gcm16-x25519-esn,aes256-sha256", Protocol.ESP
    )


# -- access lists -------------------------------------------------------------------------------------

ACL = PSK.replace('local_ts = ["10.1.0.0/16"]\nremote_ts = ["10.2.0.0/16"]', 'acl = "office"')


@pytest.mark.parametrize(
    "acls",
    [
        '[acls]\noffice = ["10 deny tcp any any eq 22", "20 permit ip 10.1.0.0/16 10.2.0.0 0.0.255.255"]',
        '[acls.office]\n20 = "permit ip 10.1.0.0/16 10.2.0.0/16"\n10 = "deny tcp any any eq 22"',
        "[connections.branch.acls]\noffice = "
        '["10 deny tcp any any eq 22", "20 permit ip 10.1.0.0/16 10.2.0.0 0.0.255.255"]',
    ],
)
def test_an_access_list_gives_flows_and_rules_in_the_order_of_numbers(tmp_path: Path, acls: str) -> None:
    child = loaded(tmp_path, ACL + acls).connections[0].children[0]
    assert child.rules[0].action is Action.BYPASS
    assert child.rules[-1].action is Action.PROTECT
    assert [flow.rule for flow in child.flows] == ["office/20"]


def test_each_permit_has_a_flow_of_its_own_unless_they_share_one(tmp_path: Path) -> None:
    acls = '[acls]\noffice = ["permit ip 10.1.0.0/16 10.2.0.0/16", "permit ip 10.1.0.0/16 10.3.0.0/16"]'
    assert len(loaded(tmp_path, ACL + acls).connections[0].children[0].flows) == 2
    shared = ACL.replace('acl = "office"', 'acl = "office"\nsa = "aggregate"')
    assert len(loaded(tmp_path, shared + acls).connections[0].children[0].flows) == 1


def test_a_child_may_hold_its_rules_itself(tmp_path: Path) -> None:
    text = ACL.replace('acl = "office"', 'acl = ["permit ip 10.1.0.0/16 10.2.0.0/16"]')
    assert loaded(tmp_path, text).connections[0].children[0].flows[0].rule == "net/10"


def test_a_rule_may_be_a_table(tmp_path: Path) -> None:
    acls = '[acls.office]\n10 = { action = "permit", source = "10.1.0.0/16", destination = "10.2.0.0/16" }'
    assert loaded(tmp_path, ACL + acls).connections[0].children[0].flows[0].rule == "office/10"


def test_what_the_peer_cannot_be_told_is_a_warning_with_its_place(tmp_path: Path) -> None:
    acls = '[acls]\noffice = ["10 deny tcp 10.1.9.0/24 any eq 22", "20 permit ip 10.1.0.0/16 10.2.0.0/16"]'
    (warning,) = loaded(tmp_path, ACL + acls).warnings
    assert warning.key == "acls.office"
    assert warning.position.line == (ACL + acls).splitlines().index(acls.splitlines()[1]) + 1


# -- includes -----------------------------------------------------------------------------------------


def test_included_files_add_connections_and_keep_their_own_lines(tmp_path: Path) -> None:
    write(tmp_path, PSK, "conf.d/a.toml")
    write(
        tmp_path,
        PSK.replace("branch", "second").replace("ike-second", "ike-2").replace("sun", "mars"),
        "conf.d/b.toml",
    )
    path = write(tmp_path, 'include = ["conf.d/*.toml"]')
    assert [connection.name for connection in load(path).connections] == ["branch", "second"]
    write(tmp_path, PSK.replace("branch", "second").replace("ike-", "x-"), "conf.d/b.toml")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert [(Path(problem.position.file).name, problem.key) for problem in caught.value.problems] == [
        ("b.toml", "secrets.x-second")
    ]


def test_a_name_in_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path, PSK, "b.toml")
    (first, second) = problems(tmp_path, 'include = "b.toml"\n' + PSK)
    assert (Path(first.position.file).name, first.key) == ("b.toml", "connections.branch")
    assert "cygnet.toml:3" in first.text
    assert second.key == "secrets.ike-branch"


def test_an_included_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, '\ninclude = ["conf.d/*.toml", "other.toml"]\n')
    assert (problem.position.line, problem.key) == (2, "include")
    assert "other.toml" in problem.text


def test_a_right_configuration_is_not_searched_for_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand connections would take seconds more."""

    def search(text: str) -> None:
        raise AssertionError("lines were searched")

    monkeypatch.setattr("cygnet.config.toml_syntax.toml_lines", search)
    text = "".join(
        PSK.replace("branch", f"b{number}")
        .replace("sun.example", f"{number}.example")
        .replace("192.0.2.2", f"198.51.100.{number}")
        for number in range(50)
    )
    assert len(loaded(tmp_path, text).connections) == 50


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ('ah_proposals = "sha256-x25519-ke1_mlkem768"', "in a bundle those are ESP's"),
        ("manual = { spi_in = 4096, spi_out = 4097 }", "keyed by hand"),
    ],
)
def test_what_no_bundle_can_be_is_said(settings: str, complaint: str) -> None:
    text = connection_text("peer", 1, 2, settings=f"bundle = true\n{settings}")
    with pytest.raises(ConfigurationError) as raised:
        load(Path("cygnet.toml"), text)
    assert complaint in str(raised.value)
