"""Bad input: each problem has file, line, key, what was found, what is allowed; all of them are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.config.load import load
from tests.unit.config_files import PSK, problems, put, write

CONNECTION = "[connections.branch.children.net]"

# (the line that is added, the key of the problem, words of its message)
IN_CONNECTION = [
    (
        "local_adrs = '10.0.0.1'",
        "connections.branch.local_adrs",
        ["not a known key", "did you mean local_addrs"],
    ),
    ("xyzzy = 1", "connections.branch.xyzzy", ["not a known key", "allowed: version, "]),
    ("version = 3", "connections.branch.version", ["found 3", "allowed: 2, 1, or 0"]),
    ("proposals = ['aes256-sha256']", "connections.branch.proposals", ["no key exchange", "modp2048"]),
    ("proposals = ['rot13-sha256-x25519']", "connections.branch.proposals", ["rot13", "allowed: ", "x448"]),
    (
        "dpd_delay = '5 weeks'",
        "connections.branch.dpd_delay",
        ["must be a time", "'5 weeks'", "30s, 5m, 4h, 1d"],
    ),
    ("dpd_delay = -1", "connections.branch.dpd_delay", ["must be a time", "found -1"]),
    ("rekey_time = true", "connections.branch.rekey_time", ["must be a time", "found true"]),
    ("rekey_time = '4000d'", "connections.branch.rekey_time", ["too long"]),
    ("local_port = 0", "connections.branch.local_port", ["out of range", "found 0", "1 to 65535"]),
    ("local_port = 'http'", "connections.branch.local_port", ["whole number", "'http'"]),
    ("encap = 'maybe'", "connections.branch.encap", ["yes or no", "'maybe'"]),
    ("unique = 'sometimes'", "connections.branch.unique", ["not a known value", "no, never, keep, replace"]),
    ("local_addrs = ['10.0.0.300']", "connections.branch.local_addrs", ["no address and no host name"]),
    ("local_addrs = ['10.0.0.9-10.0.0.1']", "connections.branch.local_addrs", ["range from low to high"]),
    (
        "local_addrs = ['moon.example']",
        "connections.branch.local_addrs",
        ["host name", "not supported here yet"],
    ),
    ("local_addrs = 5.5", "connections.branch.local_addrs", ["no address"]),
    ("children = 5", "connections.branch.children", []),
    ("vips = 'one'", "connections.branch.vips", ["not an IP address", "'one'"]),
    ("vips = '0.0.0.0, 0.0.0.0, 0.0.0.0, ::, ::, ::, ::, ::, ::'", "connections.branch.vips", ["up to 8"]),
    ("reauth_time = 'often'", "connections.branch.reauth_time", ["found 'often'"]),
    ("childless = 'yes'", "connections.branch.childless", ["allow, prefer, force", "never"]),
    ("pools = ['a']", "connections.branch.pools", ["names a, which is no pool"]),
    ("rand_time = '5h'", "connections.branch.rand_time", ["not less than rekey_time"]),
    ("remote-1 = { auth = 'xauth-noauth' }", "connections.branch.remote-1.auth", ["without a password"]),
    (
        "remote-1 = { auth = 'kerberos' }",
        "connections.branch.remote-1.auth",
        ["not a known auth", "psk, pubkey"],
    ),
    ("remote-1 = { auth = 'rsa-2048' }", "connections.branch.remote-1.auth", ["certificate chain", "ike:"]),
    ("remote-1 = { auth = 'ike:rsa-2048' }", "connections.branch.remote-1.auth", ["minimum key strength"]),
    ("remote-1 = { auth = 'ike:rsa-md5' }", "connections.branch.remote-1.auth", ["'md5'"]),
    ("remote-1 = { id = 'a*b' }", "connections.branch.remote-1.id", ["no identity", "wildcard"]),
    (
        "remote-1 = { revocation = 'no' }",
        "connections.branch.remote-1.revocation",
        ["strict, ifuri"],
    ),
    ("remote-1 = { certs = 'nowhere.pem' }", "connections.branch.remote-1.certs", ["no file 'nowhere.pem'"]),
    ("remote-1 = { cacerts = '0xzz' }", "connections.branch.remote-1.cacerts", ["cannot be decoded"]),
    ("remote-1 = { cert-1 = {} }", "connections.branch.remote-1.cert-1.file", ["is missing"]),
    (
        "remote-1 = { cert-1 = { file = 'x', slot = 4 } }",
        "connections.branch.remote-1.cert-1.slot",
        ["not supported"],
    ),
]
IN_CHILD = [
    ("start_action = 'go'", "start_action", ["not a known value", "none, trap, route, start"]),
    ("mode = 'beet'", "mode", ["not supported yet", "tunnel, transport, pass, drop"]),
    ("mode = 'teleport'", "mode", ["not a known value"]),
    ("replay_window = 16", "replay_window", ["out of range", "found 16", "32 to 4096"]),
    ("replay_window = 0", "replay_window", ["out of range", "32 to 4096"]),
    ("life_time = '30m'", "life_time", ["not more than rekey_time"]),
    ("rand_time = '1h'", "rand_time", ["not less than rekey_time"]),
    ("rekey_bytes = '10 apples'", "rekey_bytes", ["number of bytes", "500k"]),
    ("rekey_packets = 1.5", "rekey_packets", ["number of packets", "found 1.5"]),
    ("esp_proposals = 'aes256'", "esp_proposals", ["no integrity"]),
    ("ah_proposals = 'aes128-sha256'", "ah_proposals", ["no place in an AH proposal"]),
    ("tfc_padding = 70000", "tfc_padding", ["out of range"]),
    ("set_mark_out = '0x10000'", "set_mark_out", ["out of range", "0 to 65535"]),
    ("copy_df = 'perhaps'", "copy_df", ["yes, no"]),
    ("updown = '/bin/true'", "updown", ["not supported yet"]),
    ("acl = 'nowhere'", "local_ts", ["beside acl"]),
    ("copy_dscp = 'sideways'", "copy_dscp", ["not a known value"]),
    ("hw_offload = 'all'", "hw_offload", ["not a known value", "crypto"]),
]


@pytest.mark.parametrize(("line", "key", "words"), IN_CONNECTION, ids=[case[0] for case in IN_CONNECTION])
def test_a_bad_key_in_a_connection_is_told(tmp_path: Path, line: str, key: str, words: list[str]) -> None:
    text = PSK
    for part in ("local", "remote"):
        if line.startswith(part + "-1"):
            text = "\n".join(old for old in PSK.splitlines() if not old.startswith(f"{part} ="))
    text = text.replace(CONNECTION, f"{line}\n{CONNECTION}")
    if line.startswith("children"):
        text = text.split(CONNECTION)[0] + "\n[secrets.ike-1]\nsecret = 'a long enough secret'\n"
    found = problems(tmp_path, text)
    (problem,) = [problem for problem in found if problem.key == key]
    assert problem.position.file == str(tmp_path / "cygnet.toml")
    assert problem.position.line == text.splitlines().index(line) + 1
    for word in words:
        assert word in str(problem)


@pytest.mark.parametrize(("line", "key", "words"), IN_CHILD, ids=[case[0] for case in IN_CHILD])
def test_a_bad_key_in_a_child_is_told(tmp_path: Path, line: str, key: str, words: list[str]) -> None:
    text = PSK.replace(CONNECTION, f"{CONNECTION}\n{line}")
    (problem,) = [
        problem
        for problem in problems(tmp_path, text)
        if problem.key == f"connections.branch.children.net.{key}"
    ]
    if key in line:
        assert problem.position.line == text.splitlines().index(line) + 1
    for word in words:
        assert word in str(problem)


def test_all_problems_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """
[options]
port = 70000
[acls]
a = ["10 permit tcp"]
b = ["permit ip any any", "permit udp any gibberish"]
[connections.one]
version = 7
local = { auth = "psk", idd = "x" }
children.x = { local_ts = ["10.0.0.0/33"], remote_ts = [] }
[secrets.ike-1]
id = "x"
[pools.p]
addrs = "10.0.0.0/24, 10.0.1.0/24"
[frobnicate]
"""
    found = problems(tmp_path, text)
    assert [(problem.position.line, problem.key) for problem in found] == [
        (3, "options.port"),
        (8, "connections.one.version"),
        (9, "connections.one.local.idd"),
        (10, "connections.one.children.x.local_ts"),
        (10, "connections.one.children.x.remote_ts"),
        (11, "secrets.ike-1.secret"),
        (14, "pools.p.addrs"),
        (15, "frobnicate"),
    ]


def test_bad_rules_are_told_one_for_each_list_with_their_lines(tmp_path: Path) -> None:
    text = """
[acls]
a = [
    "10 permit ip 10.0.0.0/8 any",
    "20 permit tcp any gibberish",
]
c = ["10 permit ip any any", "10 deny ip any any"]
d = ["permit ip 10.0.0.0 3.0.1.255 any"]
[acls.b]
10 = "permit ip any any"
20 = "allow ip any any"
"""
    found = problems(tmp_path, text)
    assert [(problem.position.line, problem.key) for problem in found] == [
        (5, "acls.a[1]"), (7, "acls.c[1]"), (11, "acls.b.20")
    ]  # fmt: skip
    assert "gibberish" in str(found[0])
    assert "permit, deny" in str(found[2])


def test_an_access_list_must_exist_and_permit_something(tmp_path: Path) -> None:
    text = PSK.replace('local_ts = ["10.1.0.0/16"]\nremote_ts = ["10.2.0.0/16"]', 'acl = "offce"')
    (problem,) = problems(tmp_path, text + '[acls]\noffice = ["permit ip any any"]')
    assert problem.key == "connections.branch.children.net.acl"
    assert "is no access list; found 'offce'; allowed: office" in str(problem)
    (problem,) = problems(tmp_path, text.replace("offce", "office") + '[acls]\noffice = ["deny ip any any"]')
    assert "permits nothing" in str(problem)


def test_a_wildcard_that_gives_too_many_ranges_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, '[acls]\nx = ["permit ip 10.0.0.0 0.255.170.255 any"]')
    assert problem.key == "acls.x[0]"


def test_selectors_of_different_families_protect_nothing(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, PSK.replace("10.2.0.0/16", "2001:db8::/32"))
    assert problem.key == "connections.branch.children.net.remote_ts"


def test_starting_needs_somebody_to_start_to(tmp_path: Path) -> None:
    text = PSK.replace('remote_addrs = ["192.0.2.2"]', 'remote_addrs = ["192.0.2.0/24"]')
    assert not problems(tmp_path, text)
    (problem,) = problems(tmp_path, text.replace(CONNECTION, f'{CONNECTION}\nstart_action = "trap"'))
    assert problem.key.endswith("start_action")
    assert "needs a peer to start to" in problem.text


def test_two_secrets_for_the_same_peer_are_an_error(tmp_path: Path) -> None:
    (problem,) = problems(
        tmp_path, PSK + "[secrets.ike-again]\nid = 'sun.example'\nsecret = 'another long secret'"
    )
    assert problem.key == "secrets.ike-again"
    assert "ike-branch" in problem.text


def test_overlapping_pools_are_an_error(tmp_path: Path) -> None:
    (problem,) = problems(
        tmp_path,
        "[pools.a]\naddrs = '10.3.0.0/24'\n[pools.b]\naddrs = '10.3.0.200-10.3.1.9'\ndns = '10.0.0.1'",
    )
    assert (problem.key, problem.position.line) == ("pools.b.addrs", 4)
    assert "pool a" in problem.text


def test_a_name_twice_is_refused_by_toml_with_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, PSK + "[connections.branch]\n")
    assert problem.position.line == len(PSK.splitlines()) + 1
    assert "TOML" in problem.text


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"a = \xff", "not UTF-8"), (b"a = [1,", "not TOML"), (b"= 3", "not TOML"), (b"[a]\n[a]\n", "not TOML")],
)
def test_what_is_no_toml_is_told_with_its_file(tmp_path: Path, data: bytes, words: str) -> None:
    path = put(tmp_path / "cygnet.toml", data)
    from cygnet.config.load import load
    from cygnet.config.problems import ConfigurationError

    with pytest.raises(ConfigurationError, match=words) as caught:
        load(path)
    assert caught.value.problems[0].position.file == str(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    from cygnet.config.load import load
    from cygnet.config.problems import ConfigurationError

    for name in ("x.toml", "x.conf"):
        with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
            load(tmp_path / name)


def test_a_secret_is_never_shown_in_a_problem(tmp_path: Path) -> None:
    marker = "0xhunter2hunter2"
    found = problems(tmp_path, f"[secrets.ike-1]\nsecret = '{marker}'\nscret = '{marker}'\n")
    assert found
    assert not any(marker in str(problem) for problem in found if problem.key.endswith("secret"))
    assert marker not in str(found)


def test_a_configuration_with_secrets_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, PSK)
    path.chmod(0o644)
    from cygnet.config.load import load
    from cygnet.config.problems import ConfigurationError

    with pytest.raises(ConfigurationError, match=r"everybody can read it .mode 0644.: chmod 600"):
        load(path)
    path.chmod(0o640)
    load(path)


def test_a_psk_connection_without_any_secret_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, PSK.split("[secrets")[0])
    assert problem.key == "connections.branch"
    assert "there is none" in problem.text


def test_names_must_fit_the_control_socket(tmp_path: Path) -> None:
    for name in ("", " x", "y" * 201, "a\\nb"):
        found = problems(tmp_path, f'[connections."{name}"]\nversion = 2\n')
        assert any("name" in problem.text or "control character" in problem.text for problem in found), name


def test_what_a_second_first_user_tried_is_told(tmp_path: Path) -> None:
    text = PSK.replace(CONNECTION, f"local = 'psk'\n{CONNECTION}", 1)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("local = {"))
    told = "\n".join(map(str, problems(tmp_path, text)))
    assert "did you mean local?" not in told
    assert "must be a section; found a section" not in told
    assert "connections.branch.local" in told
    (same,) = problems(tmp_path, PSK + "\n[options]\nport = 5000\nport_nat_t = 5000\n")
    assert same.key == "options.port_nat_t"
    (zero,) = problems(tmp_path, PSK + "\n[acls]\na = ['0 permit ip any any']\n")
    assert "a number from 1 to" in str(zero)


def test_a_section_where_a_value_belongs_is_told_as_that(tmp_path: Path) -> None:
    text = PSK.replace(CONNECTION, f"{CONNECTION}\n[connections.branch.children.net.replay_window]\nx = 1", 1)
    assert "must be a section; found a section" not in "\n".join(map(str, problems(tmp_path, text)))


def test_doubled_children_and_peers_that_nobody_can_be_are_warned_of(tmp_path: Path) -> None:
    double = """
[connections.NAME]
remote_addrs = ["PEER"]
local = { auth = "psk" }
remote = { auth = "psk" }
children.lan = { local_ts = ["10.7.0.0/16"], remote_ts = ["10.8.0.0/16"] }
"""
    text = PSK
    for name, peer in (
        ("one", "192.0.2.77"),
        ("two", "192.0.2.77"),
        ("elsewhere", "192.0.2.78"),
        ("group", "224.0.0.5"),
        ("nobody", "0.0.0.0"),
    ):
        text += double.replace("NAME", name).replace("PEER", peer)
    (tmp_path / "cygnet.toml").touch(mode=0o600)
    (tmp_path / "cygnet.toml").write_text(text)
    told = [str(one) for one in load(tmp_path / "cygnet.toml").warnings]
    assert (
        len([one for one in told if "connections.two.children.lan: has the selectors of one/lan" in one]) == 1
    )
    assert not [one for one in told if "elsewhere" in one]
    assert [one for one in told if "224.0.0.5 is no address that a peer can have" in one]
    assert [one for one in told if "0.0.0.0 is no address that a peer can have" in one]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("mode = 'transport'", ["mode: transport carries what is between the two ends themselves"]),
        ("mode = 'transport'\nlocal_ts = 'dynamic'\nremote_ts = ['0.0.0.0/0', '192.0.2.9']", []),
        ("ah_proposals = 'sha256'\ntfc_padding = 900", ["tfc_padding: has no effect in AH"]),
        ("ah_proposals = 'md5'", ["ah_proposals: md5: too weak"]),
        (
            "esp_proposals = 'aes128-sha1-modp2048'\nmanual = { spi_in = 257, spi_out = 258, K }",
            ["esp_proposals: names a key exchange"],
        ),
    ],
    ids=["networks", "hosts", "padding", "weak", "manual"],
)
def test_what_has_no_effect_in_a_child_is_warned_of(tmp_path: Path, lines: str, told: list[str]) -> None:
    keys = [f'{kind}_key_{way} = "0x{"11" * n}"' for kind, n in (("encryption", 16), ("integrity", 20))
            for way in ("in", "out")]  # fmt: skip
    given = lines.replace("K", ", ".join(keys))
    text = in_child(given) if "_ts" in given else PSK.replace(CONNECTION, f"{CONNECTION}\n{given}", 1)
    text = text.replace("[connections.branch]", '[connections.branch]\nlocal_addrs = "192.0.2.1"', 1)
    found = [str(one) for one in load(write(tmp_path, text)).warnings]
    assert len(found) == len(told)
    assert all(
        f"connections.branch.children.net.{text}" in one for text, one in zip(told, found, strict=True)
    )


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("remote_addrs = ['10.0.0.300', '192.0.2.1', 'a..b', '10.0.0.9-10.0.0.1']", "remote_addrs"),
        (
            "proposals = ['rot13-sha256-x25519', 'aes256-sha256-x25519', 'aes256-md9-x25519', 'x-y']",
            "proposals",
        ),
        ("vips = ['one', '0.0.0.0', 'two', 'three']", "vips"),
    ],
)
def test_everything_that_is_wrong_in_one_list_is_told(tmp_path: Path, line: str, key: str) -> None:
    text = "\n".join(one for one in PSK.splitlines() if not one.startswith(key))
    found = problems(tmp_path, text.replace("[connections.branch]", f"[connections.branch]\n{line}", 1))
    assert [one.key for one in found] == [f"connections.branch.{key}"] * 3
    assert len({one.found for one in found}) == 3
    assert len({one.position for one in found}) == 1


def in_child(line: str) -> str:
    """The configuration with this in place of the child's selectors."""
    bare = PSK.replace("local_ts", "# local_ts").replace("remote_ts", "# remote_ts")
    return bare.replace(CONNECTION, f"{CONNECTION}\n{line}", 1)


def test_all_selectors_and_all_rules_that_are_wrong_are_told(tmp_path: Path) -> None:
    rules = ["10 permit tcp any any", *[f"{n} permit tcp nowhere{n} any" for n in range(20, 220, 10)]]
    rules += ["permit ip any any", "500 permit tcp any any eq 70000"]
    text = f"acl = {rules}\nlocal_ts = ['10.1.0.0/16', '10.1.0.0/33', 'x']"
    found = problems(tmp_path, in_child(text.partition("\n")[0]))
    assert len(found) == 21
    assert [f"nowhere{n}" in str(one) for n, one in zip(range(20, 220, 10), found, strict=False)] == [
        True
    ] * 20
    assert "70000" in str(found[-1])
    found = problems(tmp_path, in_child(text.partition("\n")[2]))
    assert [one.found for one in found] == ["'10.1.0.0/33'", "'x'"]


def test_words_of_a_rule_may_have_tabs_between_them(tmp_path: Path) -> None:
    rule = r'acl = ["10\tpermit\ttcp 10.1.0.0/16\t10.2.0.0/16"]'
    (connection,) = load(write(tmp_path, in_child(rule))).connections
    assert connection.children[0].flows
