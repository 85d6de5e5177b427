"""Live SAs, connections, events and messages as dictionaries; the real swanctl prints them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path as FilePath
from typing import Any

import pytest

from cygnet.auth.identity import Identity
from cygnet.config import from_vici, requests
from cygnet.config.load import load
from cygnet.ike import events
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import Difference, Drop, Failure, Reason
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.ike.world import Path
from cygnet.policy.selectors import parse_selector, resolve
from cygnet.vici import shapes
from cygnet.vici.codec import Outgoing, PacketType, decode_packet, encode_packet
from cygnet.vici.messages import ike_message
from cygnet.vici.server import Request, ViciServer
from cygnet.wire.message import Header, Message
from cygnet.wire.numbers import Exchange, Flags, KeMethod, Notify
from cygnet.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertReqPayload,
    ConfigAttribute,
    ConfigPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    UnknownPayload,
    VendorIdPayload,
    WireSelector,
)
from tests.unit.config_files import PSK, credentials, loaded, write
from tests.unit.test_config_credentials import CERT
from tests.unit.test_config_swanctl import CONF
from tests.unit.test_config_toml import ACL

NOW = 1000.0
PATH = Path(ip_address("192.0.2.1"), 4500, ip_address("192.0.2.2"), 4501)
CHILD = ChildSaView(
    name="net", rule="office/10", pair=3, flow=7, state="INSTALLED", mode=1, protocol=50, encapsulated=True,
    spi_in=0xC0FFEE, spi_out=0xDEADBEEF, encryption=20, key_bits=256, integrity=0, key_exchange=31, esn=True,
    local_selectors=(resolve(parse_selector("10.1.0.0/16[tcp/80]"), PATH.local),),
    remote_selectors=(resolve(parse_selector("10.2.0.0/16"), PATH.local),),
    installed=990.0, rekey_at=4000.0, expires_at=4600.4,
)  # fmt: skip
SA = IkeSaView(
    unique_id=5, connection="branch", version=2, state="ESTABLISHED", initiator=True, initiator_spi=0xAB,
    responder_spi=(1 << 64) - 1, path=PATH, local_id=Identity.parse("moon.example"), remote_id=None,
    nat_local=False, nat_remote=True, nat_fake=False, encryption=12, key_bits=128, integrity=12, prf=5,
    key_exchange=14,
    established=900.0,     rekey_at=5000.0, expires_at=6000.0, children=(CHILD,),
)  # fmt: skip
FAILURE = Failure(
    Reason.IKE_PROPOSAL_MISMATCH,
    "no common key exchange",
    Difference("IKE:MODP_2048", "IKE:CURVE_25519", "key exchange"),
)


def test_an_ike_sa_has_the_keys_and_values_that_swanctl_reads() -> None:
    assert shapes.list_sa(SA, NOW, {3: shapes.Traffic(840, 10, 2.9, 84, 1)}) == {
        "branch": {
            "uniqueid": "5", "version": "2", "state": "ESTABLISHED", "local-host": "192.0.2.1",
            "local-port": "4500", "local-id": "moon.example", "remote-host": "192.0.2.2",
            "remote-port": "4501", "remote-id": "%any",
            "initiator": "yes", "initiator-spi": "00000000000000ab", "responder-spi": "ffffffffffffffff",
            "nat-remote": "yes", "nat-any": "yes", "encr-alg": "AES_CBC", "encr-keysize": "128",
            "integ-alg": "HMAC_SHA2_256_128", "prf-alg": "PRF_HMAC_SHA2_256", "dh-group": "MODP_2048",
            "established": "100", "rekey-time": "4000",
            "child-sas": {
                "net-3": {
                    "name": "net", "uniqueid": "3", "reqid": "7", "state": "INSTALLED", "mode": "TUNNEL",
                    "protocol": "ESP", "rule": "office/10", "encap": "yes", "spi-in": "00c0ffee",
                    "spi-out": "deadbeef", "encr-alg": "AES_GCM_16", "encr-keysize": "256",
                    "dh-group": "CURVE_25519", "esn": "1",
                    "bytes-in": "840", "packets-in": "10", "use-in": "2", "bytes-out": "84",
                    "packets-out": "1",
                    "rekey-time": "3000", "life-time": "3600", "install-time": "10",
                    "local-ts": ["10.1.0.0/16[tcp/80]"], "remote-ts": ["10.2.0.0/16"],
                }
            },
        }
    }  # fmt: skip


def test_what_does_not_apply_is_left_out() -> None:
    connecting = replace(SA, state="CONNECTING", established=0, encryption=0, key_bits=0, integrity=0, prf=0,
                         key_exchange=0, initiator=False, nat_remote=False, children=())  # fmt: skip
    shape = shapes.list_sa(connecting, NOW)["branch"]
    assert not {"established", "rekey-time", "encr-alg", "integ-alg", "initiator", "nat-any"} & set(shape)
    assert shape["child-sas"] == {}
    child = shapes.child_sa(
        replace(CHILD, encapsulated=False, esn=False, rekey_at=0, expires_at=0, rule=""), NOW
    )
    assert not {"encap", "esn", "rekey-time", "life-time", "bytes-in", "rule"} & set(child)


def test_updown_events_say_up_and_why_down() -> None:
    assert shapes.ike_updown(SA, True, NOW)["up"] == "yes"
    assert "child-sas" not in shapes.ike_updown(SA, True, NOW)["branch"]
    down = shapes.child_updown(SA, CHILD, False, NOW, failure=Failure(Reason.PEER_DEAD, "silent"))
    assert "up" not in down
    assert (down["reason"], down["detail"]) == ("peer-dead", "silent")
    assert list(down["branch"]["child-sas"]) == ["net-3"]
    rekeyed = shapes.child_rekey(SA, CHILD, replace(CHILD, pair=4), NOW)["branch"]["child-sas"]["net"]
    assert (rekeyed["old"]["uniqueid"], rekeyed["new"]["uniqueid"]) == ("3", "4")
    both = shapes.ike_rekey(SA, replace(SA, unique_id=6), NOW)["branch"]
    assert (both["old"]["uniqueid"], both["new"]["uniqueid"]) == ("5", "6")


def test_a_failure_carries_its_reason_and_both_offers() -> None:
    shape = shapes.ike_failure(
        events.NegotiationFailed("branch", "net", True, PATH, "192.0.2.2", FAILURE), 1_700_000_000.5
    )
    assert shape["reason"] == "ike-proposal-mismatch"
    assert (shape["ours"], shape["theirs"], shape["first"]) == (
        "IKE:MODP_2048",
        "IKE:CURVE_25519",
        "key exchange",
    )
    assert (shape["ike"], shape["child"], shape["initiator"], shape["time"]) == (
        "branch", "net", "yes", "1700000000.500"
    )  # fmt: skip
    drop = shapes.ike_drop(events.Dropped(Drop.MALFORMED, "short", PATH, 0), 1.0)
    assert (drop["drop"], drop["detail"], drop["remote-host"]) == ("malformed", "short", "192.0.2.2")


def test_a_connection_shows_what_is_configured(tmp_path: FilePath) -> None:
    credentials(tmp_path)
    shape = shapes.list_conn(loaded(tmp_path, CERT).connections[0])["branch"]
    assert shape["local_addrs"] == ["%any"]
    assert shape["remote_addrs"] == ["192.0.2.2"]
    assert shape["version"] == "IKEv2"
    assert shape["local-1"] == {"class": "public key", "id": "moon.example", "certs": ["CN=moon.example"]}
    assert shape["remote-1"] == {"class": "public key", "id": "sun.example", "cacerts": ["CN=Test CA"]}
    assert shape["children"]["net"]["local-ts"] == ["10.1.0.0/16"]
    acl = (
        ACL.replace("192.0.2.2", "198.51.100.0/24") + '[acls]\noffice = ["permit ip 10.1.0.0/16 10.2.0.0/16"]'
    )
    shape = shapes.list_conn(loaded(tmp_path, acl).connections[0])["branch"]
    assert shape["remote_addrs"] == ["198.51.100.0/24"]
    assert shape["children"]["net"]["rules"] == ["office/10"]


def test_pass_and_drop_show_their_mode(tmp_path: FilePath) -> None:
    text = PSK.replace('remote_ts = ["10.2.0.0/16"]', 'remote_ts = ["10.2.0.0/16"]\nmode = "drop"')
    (connection,) = loaded(tmp_path, text).connections
    assert shapes.list_policy("branch", connection.children[0]) == {
        "branch/net": {
            "child": "net", "ike": "branch", "mode": "DROP",
            "local-ts": ["10.1.0.0/16"], "remote-ts": ["10.2.0.0/16"],
        }
    }  # fmt: skip


# -- what a file says arrives over the socket ---------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        PSK,
        ACL + '[acls]\noffice = ["10 deny tcp any any eq 22", "permit ip 10.1.0.0/16 10.2.0.0 0.0.255.255"]',
        ACL + "[connections.branch.acls.office]\n"
        '10 = { action = "permit", protocol = "tcp", source = "10.1.0.0/16", destination_port = "443" }',
        ACL + "[acls]\noffice = ['permit ip any4 any4', { action = 'permit', protocol = 'udp' }]",
        ACL.replace('acl = "office"', 'acl = ["permit ip 10.1.0.0/16 10.2.0.0/16"]\nsa = "aggregate"'),
        CERT,
        CERT.replace('certs = ["gw.pem"]', 'cert-1 = { file = "gw.pem" }'),
    ],
)
def test_the_control_socket_carries_a_configuration_whole(tmp_path: FilePath, text: str) -> None:
    credentials(tmp_path)
    configuration = loaded(tmp_path, text)
    got: list[Connection] = []
    secrets, keys, certificates = [], [], []
    for command, message in configuration.commands():
        packet = decode_packet(encode_packet(PacketType.CMD_REQUEST, command, message)[4:])
        if command == "load-conn":
            got.extend(from_vici.connections(packet.message))
        elif command == "load-shared":
            secrets.append(requests.shared_secret(packet.message))
        elif command == "load-key":
            keys.append(requests.key_data(packet.message))
        elif command == "load-cert":
            certificates.append(requests.certificate(packet.message))
    assert tuple(got) == configuration.connections
    assert tuple(secrets) == configuration.secrets
    assert tuple(keys) == configuration.keys
    assert tuple(certificates) == configuration.certificates


# -- the real swanctl ---------------------------------------------------------------------------------

needs_swanctl = pytest.mark.skipif(shutil.which("swanctl") is None, reason="swanctl is not installed")


def swanctl(directory: FilePath, handlers: dict[str, Any], *arguments: str) -> str:
    async def main() -> tuple[int, str]:
        server = ViciServer(directory / "vici", handlers)
        await server.start()
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                ["swanctl", *arguments, "--uri", f"unix://{directory}/vici"],
                capture_output=True, text=True, timeout=30, check=False,
                env={**os.environ, "SWANCTL_DIR": str(directory)},
            )  # fmt: skip
        finally:
            await server.close()
        return done.returncode, done.stdout + done.stderr

    code, said = asyncio.run(main())
    assert code == 0, said
    return said


@needs_swanctl
def test_swanctl_lists_our_sas_connections_and_policies(tmp_path: FilePath) -> None:
    (connection,) = loaded(tmp_path, PSK).connections

    async def list_sas(request: Request) -> Outgoing:
        await request.stream("list-sa", shapes.list_sa(SA, NOW, {3: shapes.Traffic(840, 10, 2.9, 84, 1)}))
        return {}

    async def list_conns(request: Request) -> Outgoing:
        await request.stream("list-conn", shapes.list_conn(connection))
        return {}

    async def list_policies(request: Request) -> Outgoing:
        await request.stream("list-policy", shapes.list_policy("branch", connection.children[0]))
        return {}

    handlers = {"list-sas": list_sas, "list-conns": list_conns, "list-policies": list_policies}
    said = swanctl(tmp_path, handlers, "--list-sas")
    for words in (
        "branch: #5, ESTABLISHED, IKEv2, 00000000000000ab_i* ffffffffffffffff_r",
        "local  'moon.example' @ 192.0.2.1[4500]",
        "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
        "established 100s ago, rekeying in 4000s",
        "net: #3, reqid 7, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256/CURVE_25519/ESN",
        "in  00c0ffee,    840 bytes,    10 packets,     2s ago",
        "out deadbeef,     84 bytes,     1 packets",
        "local  10.1.0.0/16[tcp/80]",
    ):
        assert words in said, said
    said = swanctl(tmp_path, handlers, "--list-conns")
    for words in (
        "branch: IKEv2, no reauthentication, rekeying every 14400s",
        "id: moon.example",
        "net: TUNNEL",
    ):
        assert words in said, said
    assert "branch/net, TUNNEL" in swanctl(tmp_path, handlers, "--list-pols")


@needs_swanctl
def test_swanctl_loads_its_configuration_and_we_read_it(tmp_path: FilePath) -> None:
    credentials(tmp_path)
    text = (
        CONF.replace("local { auth = psk", "local { certs = gw.pem")
        .replace("remote {\n      auth = psk", "remote {\n      cacerts = ca.pem")
        .replace(
            "remote_addrs = 192.0.2.2 ",
            "proposals = aes256-sha256-modp2048, default\n remote_addrs = 192.0.2.2, a.example ",
        )
        + "pools {\n p {\n addrs = 10.9.0.0/24\n dns = 1.1.1.1, 8.8.8.8\n"
        + " banner = hello\n save_password = yes\n }\n}\n"
        + "authorities {\n a {\n cacert = ca.pem\n }\n}\n"
    )
    path = write(tmp_path, text, "swanctl.conf")
    got: dict[str, list[Any]] = {}
    readers: dict[str, Any] = {
        "load-conn": from_vici.connections, "load-shared": requests.shared_secret,
        "load-key": requests.key_data,
        "load-cert": requests.certificate, "load-pool": requests.pool, "load-authority": requests.authority,
    }  # fmt: skip

    def reading(name: str) -> Any:
        async def handler(request: Request) -> Outgoing:
            got.setdefault(name, []).append(readers[name](request.message))
            return {"success": "yes", "id": "00" * 20}

        return handler

    def answering(answer: Outgoing) -> Any:
        async def handler(request: Request) -> Outgoing:
            return answer

        return handler

    handlers = {name: reading(name) for name in readers}
    for name, answer in {
        "get-conns": {"conns": []}, "get-shared": {"keys": []}, "get-keys": {"keys": []}, "get-pools": {},
        "get-authorities": {"authorities": []}, "clear-creds": {"success": "yes"},
    }.items():  # fmt: skip
        handlers[name] = answering(answer)  # type: ignore[arg-type]
    said = swanctl(tmp_path, handlers, "--load-all", "--clear", "--file", str(path))
    assert "loaded connection 'branch'" in said
    expected = load(path)
    assert got["load-conn"] == [expected.connections]
    assert tuple(got["load-shared"]) == expected.secrets
    assert {entry.der: entry.ca for entry in got["load-cert"]} == {
        entry.der: entry.ca for entry in expected.certificates
    }
    assert got["load-pool"] == list(expected.pools)
    assert got["load-authority"] == list(expected.authorities)
    assert len(got["load-key"]) == 1


# -- messages -----------------------------------------------------------------------------------------


def seen(exchange: int, *payloads: Any, sent: bool = True, response: bool = False) -> dict[str, Any]:
    flags = (0 if response else Flags.INITIATOR) | (Flags.RESPONSE if response else 0)
    header = Header(bytes.fromhex("a1" * 8), bytes(8), 0, 2, 0, exchange, flags, 0)
    return ike_message(events.MessageSeen(sent, PATH, Message(header, payloads), 5, "branch", False), 12.5)


def notations(shape: dict[str, Any]) -> list[str]:
    return [payload["notation"] for payload in shape["payloads"].values()]


SA_PAYLOAD = SaPayload((Proposal(1, 1, b"", (Transform(1, 20), Transform(2, 5), Transform(4, 31))),))


def test_payloads_have_the_notations_of_the_rfc() -> None:
    init = (SA_PAYLOAD, KePayload(KeMethod.CURVE_25519, bytes(32)), NoncePayload(bytes(32)))
    assert notations(seen(Exchange.IKE_SA_INIT, *init)) == ["SAi1", "KEi", "Ni"]
    assert notations(seen(Exchange.IKE_SA_INIT, *init, response=True)) == ["SAr1", "KEr", "Nr"]
    selectors = (WireSelector(7, 0, 0, 65535, bytes([10, 1, 0, 0]), bytes([10, 1, 255, 255])),)
    auth = (
        IdiPayload(2, b"moon"),
        IdrPayload(2, b"sun"),
        AuthPayload(2, bytes(32)),
        SA_PAYLOAD,
        TsiPayload(selectors),
    )
    assert notations(seen(Exchange.IKE_AUTH, *auth)) == ["IDi", "IDr", "AUTH", "SAi2", "TSi"]
    assert notations(seen(Exchange.CREATE_CHILD_SA, SA_PAYLOAD, response=True)) == ["SA"]


def test_a_message_shows_its_header_and_what_its_payloads_say() -> None:
    shape = seen(Exchange.IKE_SA_INIT, SA_PAYLOAD, KePayload(31, bytes(32)), sent=False)
    assert shape["exchange"] == "IKE_SA_INIT"
    assert (shape["direction"], shape["response"], shape["protected"]) == ("received", "no", "no")
    assert shape["initiator-spi"] == "a1" * 8
    assert shape["payloads"]["1"]["detail"] == ["proposal 1: IKE: AES_GCM_16, PRF_HMAC_SHA2_256, CURVE_25519"]
    assert shape["payloads"]["1"]["proposals"]["1"]["transforms"][2] == "CURVE_25519"
    assert shape["payloads"]["2"]["group"] == "CURVE_25519"
    assert seen(Exchange.INFORMATIONAL)["protected"] == "yes"
    # It must fit the socket.
    assert decode_packet(encode_packet(PacketType.EVENT, "ike-message", shape)[4:]).name == "ike-message"


def test_every_kind_of_payload_is_shown_and_peer_text_is_escaped(tmp_path: FilePath) -> None:
    credentials(tmp_path)
    der = loaded(tmp_path, CERT).connections[0].local[0].certificates[0]
    payloads = (
        CertPayload(4, der), CertPayload(4, b"junk"), CertReqPayload(4, bytes(40)), IdiPayload(2, b"\xff\n"),
        NotifyPayload(0, b"", Notify.COOKIE, bytes(50)), NotifyPayload(3, b"abcd", Notify.REKEY_SA, b""),
        NotifyPayload(0, b"", Notify.INVALID_KE_PAYLOAD, b"\x00\x13"), NotifyPayload(0, b"", 40961, b""),
        DeletePayload(3, (b"abcd",)), DeletePayload(1, ()), VendorIdPayload(b"x" * 100),
        EapPayload(b"\x01\x02\x00\x04"),
        ConfigPayload(1, (ConfigAttribute(1, bytes([10, 0, 0, 1])), ConfigAttribute(3, b""))),
        UnknownPayload(99, True, b"abc"), IdrPayload(9, b"\x30\x00"),
    )  # fmt: skip
    shape = seen(Exchange.INFORMATIONAL, *payloads)
    lines = [line for payload in shape["payloads"].values() for line in payload["detail"]]
    assert all(line.isprintable() for line in lines)
    text = "\n".join(lines)
    for words in (
        "CN=moon.example",
        "2 authorities",
        "wants ECP_256",
        "ESP 61626364",
        "10.0.0.1",
        "3 octets, critical",
    ):
        assert words in text
    assert notations(shape)[4:9] == [
        "N(COOKIE)", "N(REKEY_SA)", "N(INVALID_KE_PAYLOAD)", "N(UNKNOWN_40961)", "D"
    ]  # fmt: skip
    encode_packet(PacketType.EVENT, "ike-message", shape)


def test_a_child_that_comes_up_says_that_it_carried_nothing_yet() -> None:
    """swanctl --monitor-sa prints these keys always."""
    body = shapes.child_updown(SA, SA.children[0], True, NOW)[SA.connection]
    (child,) = body["child-sas"].values()
    assert (child["bytes-in"], child["packets-in"], child["bytes-out"], child["packets-out"]) == ("0",) * 4


@pytest.mark.parametrize("banner", ["hello", "hello, world: be good"])
def test_a_pool_with_a_banner_is_the_same_pool_over_the_socket(tmp_path: FilePath, banner: str) -> None:
    pools = f'[pools.four]\naddrs = "10.3.0.0/24"\nbanner = "{banner}"\nsave_password = true\n'
    (written,) = load(write(tmp_path, pools, "cygnet.toml")).pools
    assert (written.settings.banner, written.settings.save_password) == (banner, True)
    packet = encode_packet(PacketType.CMD_REQUEST, "load-pool", requests.pool_message(written))
    assert requests.pool(decode_packet(packet[4:]).message) == written
    # `swanctl` splits at commas.
    split: dict[str, object] = {"banner": banner.encode().split(b", "), "save_password": [b"yes"]}
    assert requests.pool({"four": {"addrs": b"10.3.0.0/24", **split}}) == written
