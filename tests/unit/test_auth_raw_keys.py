"""Public keys without certificates (RFC 7670): the key is who the peer is."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cygnet.auth import raw_keys
from cygnet.auth.certificate import key_id_of
from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import AuthenticationError, CredentialError
from cygnet.auth.identity import Identity
from cygnet.config.from_vici import connections
from cygnet.testing import Gateway, Network, assert_agreement
from cygnet.wire.numbers import IdType
from tests.unit.auth_material import ca, entity, key
from tests.unit.config_files import problems, put
from tests.unit.test_security_remote_access import encoded

KINDS = {"moon": "p256", "sun": "ed25519", "eve": "p256"}
CAROL = Identity.parse("carol@example.org")


def spki(name: str) -> bytes:
    public = key(KINDS[name], name).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def private_pem(name: str) -> bytes:
    return entity(None, f"CN={name}", [], holder=key(KINDS[name], name)).key_pem


class Sites:
    """`moon` and `sun`, each with its key; `sun` takes `accepted`."""

    def __init__(self, *accepted: str, remote: str = "moon.example", moon: str = "moon", **more: Any) -> None:
        self.network = Network(3)
        common = {"proposals": ["aes256-sha256-x25519"], "encap": "no"} | more
        here = common | {
            "local_addrs": ["192.0.2.1"],
            "remote_addrs": ["192.0.2.2"],
            "local": {"auth": "pubkey", "id": "moon.example", "pubkeys": [spki(moon)]},
            "remote": {"auth": "pubkey", "id": "sun.example", "pubkeys": [spki("sun")]},
            "children": {"net": {"local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"]}},
        }
        there = common | {
            "local_addrs": ["192.0.2.2"],
            "remote_addrs": ["192.0.2.1"],
            "local": {"auth": "pubkey", "id": "sun.example", "pubkeys": [spki("sun")]},
            "remote": {"auth": "pubkey", "id": remote, "pubkeys": [spki(one) for one in accepted]},
            "children": {"net": {"local_ts": ["10.2.0.0/16"], "remote_ts": ["10.1.0.0/16"]}},
        }
        self.moon = self.gateway("moon", "192.0.2.1", here, moon)
        self.sun = self.gateway("sun", "192.0.2.2", there, "sun")

    def gateway(self, name: str, address: str, section: dict[str, Any], held: str) -> Gateway:
        store = Credentials()
        store.add_private_key(private_pem(held))
        made = connections(_encoded(section))
        return Gateway(self.network, name, address, connections=made, credentials=store)

    def tries(self) -> str:
        operation = self.moon.initiate("peer", "net")
        self.network.run_for(60.0)
        failure = self.moon.operations[operation]
        return failure.reason.value if failure is not None else ""


def _encoded(section: dict[str, Any]) -> Any:
    return {"peer": {name: _keys(value) for name, value in section.items()}}


def _keys(value: Any) -> Any:
    if isinstance(value, dict) and "pubkeys" in value:
        rest = {name: one for name, one in value.items() if name != "pubkeys"}
        return encoded(rest) | {"pubkeys": value["pubkeys"]}
    return encoded(value)


@pytest.mark.parametrize("send_cert", ["always", "ifasked", "never"])
def test_each_side_knows_the_others_key(send_cert: str) -> None:
    sites = Sites("moon", send_cert=send_cert)
    assert sites.tries() == ""
    assert_agreement(sites.moon, sites.sun, up=[("peer", "net")])
    assert str(sites.sun.sas()[0].remote_id) == "moon.example"


def test_of_several_keys_the_peer_says_which_it_has() -> None:
    assert Sites("eve", "moon").tries() == ""
    assert Sites("eve", "moon", send_cert="never").tries() == "peer-refused-authentication"


@pytest.mark.parametrize("send_cert", ["always", "never"])
def test_another_key_authenticates_nobody(send_cert: str) -> None:
    sites = Sites("moon", moon="eve", send_cert=send_cert)
    assert sites.tries() == "peer-refused-authentication"
    expected = "certificate-untrusted" if send_cert == "always" else ("signature-invalid")
    assert sites.sun.failures()[0].reason == expected


@pytest.mark.parametrize("remote", ["%any", "*.example"])
def test_where_no_name_is_demanded_the_key_is_the_identity(remote: str) -> None:
    """Else the holder of any key of the connection could be whoever it says, and take what is that one's."""
    sites = Sites("moon", "eve", remote=remote)
    assert sites.tries() == ""
    expected = Identity(IdType.KEY_ID, key_id_of(spki("moon")))
    assert sites.sun.sas()[0].remote_id == expected


def test_only_accepted_keys_are_trusted() -> None:
    accepted = [spki("moon"), spki("sun")]
    assert raw_keys.trusted_key(CAROL, CAROL, [spki("sun")], accepted).identity == CAROL
    for sent, of in (([spki("eve")], accepted), ([b""], accepted), ([], accepted), ([b"\0" * 9], [])):
        with pytest.raises(AuthenticationError):
            raw_keys.trusted_key(CAROL, CAROL, sent, of)


def test_a_certificate_of_a_trusted_ca_does_not_stand_in_for_the_key() -> None:
    sites = Sites("moon", moon="eve")
    root = ca()
    certified = entity(root, "CN=moon", ["dns:moon.example"], holder=key("p256", "eve"))
    sites.sun.endpoint.credentials.add_certificate(root.der, ca=True)
    sites.sun.endpoint.credentials.add_certificate(certified.der)
    assert sites.tries() == "peer-refused-authentication"


def test_what_is_no_key_is_refused() -> None:
    whole = spki("moon")
    for data in (b"", b"x", b"-----BEGIN PUBLIC KEY-----\n", bytes(9000), whole[:-1], whole[1:]):
        with pytest.raises(CredentialError):
            raw_keys.parse(data)


def test_the_loader_reads_files_and_wants_our_private_key(tmp_path: Any) -> None:
    text = """
[connections.peer]
remote_addrs = ["192.0.2.2"]
local = { auth = "pubkey", pubkeys = ["moon.pub"] }
remote = { auth = "pubkey", id = "sun.example", pubkeys = ["sun.pub"] }
[connections.peer.children.net]
remote_ts = ["10.2.0.0/16"]
"""
    put(tmp_path / "pubkey" / "sun.pub", spki("sun"))
    put(tmp_path / "pubkey" / "moon.pub", spki("moon"))
    put(tmp_path / "private" / "eve.key", private_pem("eve"))
    assert "private key of none" in str(problems(tmp_path, text)[0])
    put(tmp_path / "private" / "moon.key", private_pem("moon"))
    assert problems(tmp_path, text) == []
    put(tmp_path / "pubkey" / "sun.pub", b"nothing")
    assert "public key" in str(problems(tmp_path, text)[0])
    assert "IKEv2" in str(
        problems(tmp_path, text.replace("[connections.peer]", "[connections.peer]\nversion = 1"))
    )
