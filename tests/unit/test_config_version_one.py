"""IKEv1 in the configuration: what it cannot say, what is dangerous in it, what `version = 0` makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.config.version_one import quick_mode_fault
from cygnet.ike.configuration import AuthClass, Connection
from cygnet.policy.selectors import parse_selector
from cygnet.policy.spd import Flow
from tests.unit.config_files import PSK, credentials, loaded, problems

V1 = PSK.replace("[connections.branch]\n", "[connections.branch]\nversion = 1\n")
OPTION = "i_dont_care_about_security_and_use_aggressive_mode_psk"
SHORT = "only nineteen octet"
assert len(SHORT) == 19


def connection(tmp_path: Path, text: str) -> Connection:
    (found,) = loaded(tmp_path, text).connections
    return found


def warnings(tmp_path: Path, text: str) -> list[str]:
    return [f"{one.key}: {one.text}" for one in loaded(tmp_path, text).warnings]


def with_key(text: str, line: str) -> str:
    return text.replace("version = 1\n", f"version = 1\n{line}\n")


def test_a_connection_of_ikev1_has_its_own_keys(tmp_path: Path) -> None:
    text = with_key(V1, "aggressive = true\npull = false\ndpd_timeout = '60s'")
    found = connection(tmp_path, text)
    assert (found.version, found.aggressive, found.pull, found.dpd_timeout) == (1, True, False, 60.0)
    plain = connection(tmp_path, V1)
    assert (plain.aggressive, plain.pull, plain.dpd_timeout) == (False, True, 150.0)


def test_either_version_is_said_by_0(tmp_path: Path) -> None:
    assert connection(tmp_path, V1.replace("version = 1", "version = 0")).version == 0
    assert connection(tmp_path, PSK).version == 2


@pytest.mark.parametrize(
    ("line", "key", "said"),
    [
        ("proposals = 'aes256gcm16-prfsha256-x25519'", "proposals", "holds nothing that IKEv1 can say"),
        (
            "proposals = 'aes128-sha256-x25519,aes256gcm16-prfsha256-x25519'",
            "proposals",
            "combined-mode cipher",
        ),
        ("proposals = 'aes128-aesxcbc-modp2048,aes128-sha1-modp2048'", "proposals", "no hash"),
    ],
)
def test_proposals_that_phase_1_cannot_say_are_refused_in_version_1(
    tmp_path: Path, line: str, key: str, said: str
) -> None:
    (problem,) = problems(tmp_path, with_key(V1, line))
    assert problem.key == f"connections.branch.{key}"
    assert said in problem.text


def test_chacha20_is_refused_in_version_1_and_left_out_by_default(tmp_path: Path) -> None:
    text = V1.replace("remote_ts =", "esp_proposals = 'chacha20poly1305'\nremote_ts =")
    (problem,) = problems(tmp_path, text)
    assert problem.key == "connections.branch.children.net.esp_proposals"
    assert not problems(tmp_path, V1)


def test_with_version_0_what_ikev1_cannot_say_is_left_out_and_nothing_left_means_ikev2(
    tmp_path: Path,
) -> None:
    either = V1.replace("version = 1", "version = 0")
    both = either.replace(
        "version = 0", "version = 0\nproposals = 'aes256gcm16-prfsha256-x25519,aes128-sha1-x25519'"
    )
    assert connection(tmp_path, both).version == 0
    none = either.replace("version = 0", "version = 0\nproposals = 'aes256gcm16-prfsha256-x25519'")
    assert connection(tmp_path, none).version == 2
    (warning,) = warnings(tmp_path, none)
    assert "holds nothing that IKEv1 can say: so this connection is IKEv2's alone" in warning


PPK = "ppk_id = 'quantum'\nppk_required = true"


def with_ppk(version: int) -> str:
    secret = '\n[secrets.ppk-1]\nsecret = "0x00112233445566778899aabbccddeeff"\nid = ["quantum"]\n'
    return with_key(V1, PPK).replace("version = 1", f"version = {version}") + secret


def test_a_postquantum_key_that_is_required_cannot_be_got_around_by_speaking_ikev1(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, with_ppk(1))
    assert problem.key == "connections.branch.ppk_required"
    assert "IKEv1, which has no postquantum key" in problem.text
    assert connection(tmp_path, with_ppk(0)).version == 2
    (warning,) = warnings(tmp_path, with_ppk(0))
    assert warning.startswith("connections.branch.ppk_required: cannot be kept in IKEv1")
    assert "IKEv2's alone" in warning
    assert connection(tmp_path, with_ppk(0).replace("ppk_required = true", "")).version == 0


@pytest.mark.parametrize(
    ("version", "line", "said"),
    [
        (1, "childless = 'never'", "has no effect in IKEv1"),
        (1, "ocsp = 'both'", "has no effect in IKEv1"),
        (1, "ppk_id = 'quantum'", "has no effect in IKEv1"),
        (0, "ppk_id = 'quantum'", "has no effect in IKEv1, which version = 0 speaks too"),
        (0, "pull = false", ""),
        (2, "ppk_id = 'quantum'", ""),
        (2, "childless = 'never'", ""),
        (2, "pull = false", "has no effect in IKEv2"),
        (2, "dpd_timeout = '60s'", "has no effect in IKEv2"),
    ],
)
def test_what_a_version_has_no_word_for_is_said(tmp_path: Path, version: int, line: str, said: str) -> None:
    text = with_ppk(version).replace(PPK, line)
    key = f"connections.branch.{line.split()[0]}"
    assert warnings(tmp_path, text) == ([f"{key}: {said}"] if said else [])


def test_a_postquantum_key_that_is_not_there_is_missed(tmp_path: Path) -> None:
    text = with_ppk(2).replace('id = ["quantum"]', 'id = ["another"]')
    (warning,) = warnings(tmp_path, text)
    assert warning.startswith("connections.branch.ppk_required: lets nothing come up")
    (warning,) = warnings(tmp_path, text.replace("ppk_required = true", ""))
    assert warning == "connections.branch.ppk_id: has no effect: secrets.ppk-... holds no key of quantum"


@pytest.mark.parametrize("side", ["local", "remote"])
@pytest.mark.parametrize(
    ("auth", "fault"),
    [
        ("pubkey", ""),
        ("ike:pubkey", ""),
        ("ike:rsa", ""),
        ("ike:ecdsa", ""),
        ("ike:rsa/pss-sha256-sha384-sha512-rsa", ""),
        ("ike:rsa/pss-sha256", "signs with rsa/pss"),
        ("ike:rsa/pss", "signs with rsa/pss"),
        ("ike:ed25519", "signs with ed25519"),
        ("ike:rsa-ed448", "signs with ed448"),
        ("ike:rsa-sha256", "names a hash"),
        ("ike:ecdsa-sha384", "names a hash"),
        ("ike:pubkey-sha384", "names a hash"),
    ],
)
def test_signatures_that_ikev1_cannot_keep_to_are_ikev2s(
    tmp_path: Path, side: str, auth: str, fault: str
) -> None:
    credentials(tmp_path)
    text = with_key(V1, "")
    for end, name in (("local", "moon.example"), ("remote", "sun.example")):
        own = ', certs = ["gw.pem"]' if end == "local" else ""
        text = text.replace(
            f'{end} = {{ auth = "psk", id = "{name}" }}',
            f'{end} = {{ auth = "{auth if end == side else "pubkey"}", id = "{name}"{own} }}',
        )
    assert [one.key for one in problems(tmp_path, text)] == [f"connections.branch.{side}.auth"] * bool(fault)
    assert all(fault in one.text for one in problems(tmp_path, text))
    either = text.replace("version = 1", "version = 0")
    assert connection(tmp_path, either).version == (2 if fault else 0)
    assert [f"{side}.auth" in one and fault in one for one in warnings(tmp_path, either)] == [True] * bool(
        fault
    )


@pytest.mark.parametrize(
    ("proposals", "version"),
    [
        ("aes256-sha256-x25519-ke1_mlkem768", 2),
        ("aes256-sha256-x25519-ke1_mlkem768-ke1_none", 0),
        ("aes256-sha256-x25519-ke1_mlkem768,aes256-sha256-x25519", 0),
    ],
)
def test_a_further_key_exchange_that_is_required_cannot_be_got_around_by_speaking_ikev1(
    tmp_path: Path, proposals: str, version: int
) -> None:
    either = V1.replace("version = 1", "version = 0")
    ike = either.replace("version = 0", f"version = 0\nproposals = '{proposals}'")
    assert connection(tmp_path, ike).version == version
    esp = either.replace("remote_ts =", f"esp_proposals = '{proposals}'\nremote_ts =")
    assert connection(tmp_path, esp).version == version


@pytest.mark.parametrize(
    ("local", "remote", "fault"),
    [
        ("10.1.0.0/16", "10.2.0.0/16", ""),
        ("10.1.0.1-10.1.0.9[tcp/443]", "10.2.0.0/16[tcp]", ""),
        ("dynamic[udp/53]", "2001:db8::/32[udp]", ""),
        ("10.1.0.0/16[tcp/80-90]", "10.2.0.0/16[tcp]", "a range of ports"),
        ("10.1.0.0/16[tcp]", "10.2.0.0/16[tcp/1-65535]", "a range of ports"),
        ("10.1.0.0/16[icmp/8]", "10.2.0.0/16[icmp]", "an ICMP type"),
        ("10.1.0.0/16[icmp]", "10.2.0.0/16[icmp]", ""),
        ("10.1.0.0/16[tcp]", "10.2.0.0/16[udp]", "different protocols on both sides"),
    ],
)
def test_one_pair_and_one_port_is_all_that_quick_mode_can_say(local: str, remote: str, fault: str) -> None:
    assert quick_mode_fault(Flow((parse_selector(local),), (parse_selector(remote),))) == fault


RULES = """
[connections.branch.children.net]
acl = [{rules}]
sa = "{sa}"
"""


def ruled(sa: str, *rules: str, version: int = 1) -> str:
    text = V1.replace("version = 1", f"version = {version}")
    head, _, tail = text.partition("[connections.branch.children.net]")
    rest = tail[tail.index("[secrets") :]
    return head + RULES.format(rules=", ".join(f'"{rule}"' for rule in rules), sa=sa) + rest


PLAIN = "permit tcp 10.1.0.0/16 10.2.0.0/16 eq 443"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("permit tcp 10.1.0.0/16 10.2.0.0/16 range 80 90", "a range of ports"),
        ("permit tcp 10.1.0.0/16 10.2.0.0/16 lt 1024", "a range of ports"),
        ("permit tcp 10.1.0.0/16 10.2.0.0/16 gt 1024", "a range of ports"),
        ("permit tcp 10.1.0.0/16 10.2.0.0/16 neq 25", "a range of ports"),
        ("permit icmp 10.1.0.0/16 10.2.0.0/16 echo", "an ICMP type"),
    ],
)
def test_a_rule_that_quick_mode_cannot_say_is_refused_with_the_reason(
    tmp_path: Path, rule: str, said: str
) -> None:
    (problem,) = problems(tmp_path, ruled("per-rule", PLAIN, rule))
    assert problem.key == "connections.branch.children.net"
    assert said in problem.text
    assert connection(tmp_path, ruled("per-rule", PLAIN, rule, version=0)).version == 2
    assert connection(tmp_path, ruled("per-rule", PLAIN, version=0)).version == 0


def test_an_aggregate_of_several_rules_is_refused_and_of_one_is_not(tmp_path: Path) -> None:
    second = "permit ip 10.3.0.0/16 10.4.0.0/16"
    (problem,) = problems(tmp_path, ruled("aggregate", "permit ip 10.1.0.0/16 10.2.0.0/16", second))
    assert "several selectors in one SA" in problem.text
    assert not problems(tmp_path, ruled("aggregate", PLAIN))
    assert not problems(tmp_path, ruled("per-rule", PLAIN, second))


# -- authentication -----------------------------------------------------------------------------


def authenticated(local: str, remote: str, version: int = 1) -> str:
    text = V1.replace("version = 1", f"version = {version}")
    for side, rounds in (("local", local), ("remote", remote)):
        name = "moon" if side == "local" else "sun"
        old = f'{side} = {{ auth = "psk", id = "{name}.example" }}\n'
        assert old in text
        lines = [
            f'{side}-{at} = {{ auth = "{kind}", round = {at} }}\n'
            for at, kind in enumerate(rounds.split(), 1)
        ]
        text = text.replace(old, "".join(lines))
    return text


@pytest.mark.parametrize(
    ("local", "remote"),
    [
        ("psk", "psk"),
        ("pubkey", "pubkey"),
        ("psk xauth", "psk"),
        ("psk", "psk xauth"),
        ("pubkey", "pubkey xauth"),
        ("pubkey", "xauth"),
        ("xauth", "pubkey"),
    ],
)
def test_the_ways_of_ikev1_to_authenticate(tmp_path: Path, local: str, remote: str) -> None:
    credentials(tmp_path)
    found = connection(tmp_path, authenticated(local, remote))
    assert [str(one.method) for one in found.local] == local.split()
    assert [str(one.method) for one in found.remote] == remote.split()


@pytest.mark.parametrize(
    ("local", "remote", "said"),
    [
        ("psk", "pubkey", "both sides authenticate alike"),
        ("psk", "eap-md5", "IKEv1 has xauth"),
        ("psk", "xauth", "needs a certificate on the other side"),
        ("xauth", "xauth", "needs a certificate on the other side"),
        ("psk xauth", "psk xauth", "one side logs in"),
        ("psk psk", "psk", "rounds that IKEv1 does not know"),
        ("xauth psk", "psk", "rounds that IKEv1 does not know"),
    ],
)
def test_v37_what_would_leave_a_side_unproven_is_no_connection(
    tmp_path: Path, local: str, remote: str, said: str
) -> None:
    credentials(tmp_path)
    texts = [problem.text for problem in problems(tmp_path, authenticated(local, remote))]
    assert any(said in text for text in texts), texts


def test_xauth_needs_version_1_and_noauth_does_not_exist(tmp_path: Path) -> None:
    for version in (0, 2):
        (problem,) = problems(tmp_path, authenticated("psk", "psk xauth", version))
        assert problem.key == "connections.branch.version"
    (problem,) = problems(tmp_path, authenticated("psk", "psk xauth-noauth"))
    assert "without a password" in problem.text


def test_our_name_in_xauth_is_kept(tmp_path: Path) -> None:
    text = authenticated("psk xauth", "psk").replace(
        'auth = "xauth", ', 'auth = "xauth", xauth_id = "alice", '
    )
    login = connection(tmp_path, text).local[1]
    assert login.method is AuthClass.XAUTH
    assert str(login.xauth_id) == "alice"


def test_an_identity_in_a_round_of_xauth_is_refused_because_nobody_would_be_held_off(tmp_path: Path) -> None:
    text = authenticated("psk", "psk xauth")
    login = 'remote-2 = { auth = "xauth", '
    assert login in text
    (problem,) = problems(tmp_path, text.replace(login, login + 'id = "bob", '))
    assert problem.key == "connections.branch.remote.id"
    assert "no identity payload" in problem.text
    assert "eap_id" in str(problem)
    found = connection(tmp_path, text.replace(login, login + 'eap_id = "bob", '))
    assert str(found.remote[1].eap_id) == "bob"
    assert not problems(tmp_path, text.replace(login, login + 'id = "%any", '))


def test_the_identity_of_hybrid_is_that_of_phase_1(tmp_path: Path) -> None:
    credentials(tmp_path)
    text = authenticated("pubkey", "xauth").replace('auth = "xauth", ', 'auth = "xauth", id = "group", ')
    assert str(connection(tmp_path, text).remote[0].id) == "group"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("ipcomp = true", "ipcomp"),
        ("tfc_padding = 1200", "tfc_padding"),
        ("tfc_padding = 'mtu'", "tfc_padding"),
    ],
)
def test_what_no_quick_mode_negotiates_is_refused_in_version_1_and_makes_version_0_ikev2s(
    tmp_path: Path, line: str, key: str
) -> None:
    text = V1.replace("remote_ts =", f"{line}\nremote_ts =")
    (problem,) = problems(tmp_path, text)
    assert problem.key == f"connections.branch.children.net.{key}"
    assert connection(tmp_path, text.replace("version = 1", "version = 0")).version == 2
    assert not problems(tmp_path, text.replace("version = 1", "version = 2"))


# -- aggressive mode and pre-shared keys --------------------------------------------------------


def aggressive(secret: str = "twenty octets or more", answers: str = "") -> str:
    one_group = 'aggressive = true\nproposals = ["aes256-sha256-x25519"]'
    text = with_key(V1, one_group).replace("a secret that nobody guesses", secret)
    return text + (f'\n[options]\n{OPTION} = "{answers}"\n' if answers else "")


def test_t12_aggressive_mode_with_a_key_is_not_answered_unless_asked_for_and_then_warned_of(
    tmp_path: Path,
) -> None:
    by_default = loaded(tmp_path, aggressive())
    assert not by_default.gateway.options.aggressive_psk
    (warning,) = warnings(tmp_path, aggressive())
    assert "can be started from here, but is not answered" in warning
    forced = loaded(tmp_path, aggressive(answers="yes"))
    assert forced.gateway.options.aggressive_psk
    (warning,) = warnings(tmp_path, aggressive(answers="yes"))
    assert "guessed offline" in warning


@pytest.mark.parametrize("answers", ["", "yes"])
def test_t12_a_key_of_fewer_than_20_octets_is_refused_in_aggressive_mode(
    tmp_path: Path, answers: str
) -> None:
    (problem,) = problems(tmp_path, aggressive(SHORT, answers))
    assert problem.key == "secrets.ike-branch"
    assert "has 19 octets and serves aggressive mode (branch)" in problem.text
    assert not problems(tmp_path, aggressive(SHORT + "s", answers))
    assert SHORT not in str(problem)


def test_t12_a_short_key_must_be_forced_and_concerns_nobody_else(tmp_path: Path) -> None:
    assert loaded(tmp_path, aggressive(SHORT, "force")).gateway.options.aggressive_psk
    other = aggressive() + f'\n[secrets.ike-other]\nid = "mars.example"\nsecret = "{SHORT}"\n'
    assert not problems(tmp_path, other)
    everybodys = aggressive() + f'\n[secrets.ike-other]\nsecret = "{SHORT}"\n'
    assert len(problems(tmp_path, everybodys)) == 1
    assert not problems(tmp_path, V1.replace("a secret that nobody guesses", SHORT))


@pytest.mark.parametrize("addresses", ['remote_addrs = ["%any"]', 'remote_addrs = ["192.0.2.0/24"]', ""])
def test_check_says_that_a_key_for_an_unknown_address_needs_aggressive_mode(
    tmp_path: Path, addresses: str
) -> None:
    text = V1.replace('remote_addrs = ["192.0.2.2"]', addresses)
    (warning,) = warnings(tmp_path, text)
    assert "can only use aggressive mode" in warning
    assert not warnings(tmp_path, V1)
    assert not warnings(tmp_path, text.replace('id = "sun.example"\nsecret', "secret"))


def test_aggressive_has_no_effect_in_ikev2_and_that_is_said(tmp_path: Path) -> None:
    (warning,) = warnings(
        tmp_path, PSK.replace("[connections.branch]\n", "[connections.branch]\naggressive = true\n")
    )
    assert "no effect in IKEv2" in warning


def test_weak_algorithms_are_warned_of_where_they_are_named(tmp_path: Path) -> None:
    text = with_key(V1, "proposals = '3des-md5-modp1024,aes128-sha1-modp2048'")
    (warning,) = warnings(tmp_path, text)
    assert warning.startswith("connections.branch.proposals: 3des, md5, prfmd5, modp1024: too weak")


def test_check_says_that_aggressive_mode_offers_one_group(tmp_path: Path) -> None:
    text = aggressive(answers="yes")
    several = text.replace("-x25519", "-modp3072-x25519")
    said = "aggressive mode offers one group, the first: MODP_3072; CURVE_25519 can only be answered"
    assert f"connections.branch.proposals: {said}" in warnings(tmp_path, several)
    assert not [note for note in warnings(tmp_path, text) if "one group" in note]
