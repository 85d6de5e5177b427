"""B8, T25: a gateway with 20 connections, 20 who come: only who belongs to a connection gets into it.

Who comes says that it is the one that connection i is for, and has what client j has: shared secrets,
passwords, one round or two. Whatever the gateway switches to on the way, nothing but the diagonal passes.
"""

from __future__ import annotations

import pytest

from cygnet.testing import Gateway, Network

COUNT = 20
WAYS = ("psk", "eap-mschapv2", "eap-md5", "eap-gtc", "psk then eap-mschapv2")
PLAIN = 'proposals = ["aes256gcm16-prfsha256-x25519"]\nencap = "no"\n'


def way_of(number: int) -> str:
    return WAYS[number % len(WAYS)]


def rounds(side: str, way: str, first: str, second: str) -> str:
    """The sections of one side: a shared secret, EAP, or both in turn."""
    parts = way.split(" then ")
    texts = []
    for index, auth in enumerate(parts):
        lines = first if auth == "psk" else f"{first}{second}"
        texts.append(f'[connections.NAME.{side}-{index}]\nround = {index}\nauth = "{auth}"\n{lines}')
    return "".join(texts)


def gateway_text() -> str:
    parts = []
    for number in range(COUNT):
        name = f"c{number}"
        demand = rounds(
            "remote", way_of(number), f'id = "{name}.example.org"\n', f'eap_id = "user{number}"\n'
        )
        parts.append(
            f'[connections.{name}]\nlocal_addrs = ["192.0.2.1"]\nremote_addrs = ["0.0.0.0/0"]\n{PLAIN}'
            f'[connections.{name}.local]\nauth = "psk"\nid = "gw.example.org"\n'
            + demand.replace("NAME", name)
            + f'[connections.{name}.children.net]\nlocal_ts = ["10.1.0.0/16"]\n'
            f'remote_ts = ["10.2.{number}.0/24"]\n'
            f'[secrets.ike-{name}]\nsecret = "the shared secret of number {number}"\n'
            f'id-1 = "{name}.example.org"\n'
            f'[secrets.eap-{name}]\nsecret = "password {number}"\nid = "user{number}"\n'
        )
    return "".join(parts)


def client_text(claimed: int, owned: int) -> str:
    """Claims to be whom connection `claimed` is for, by its way; has the secrets of client `owned`."""
    name = f"c{claimed}.example.org"
    shared = owned if way_of(claimed).startswith("psk") else claimed
    proof = rounds("local", way_of(claimed), f'id = "{name}"\n', f'eap_id = "user{owned}"\n')
    return (
        f'[connections.peer]\nlocal_addrs = ["192.0.2.9"]\nremote_addrs = ["192.0.2.1"]\n{PLAIN}'
        + proof.replace("NAME", "peer")
        + '[connections.peer.remote]\nauth = "psk"\nid = "gw.example.org"\n'
        f'[connections.peer.children.net]\nlocal_ts = ["10.2.{claimed}.0/24"]\nremote_ts = ["10.1.0.0/16"]\n'
        # What the gateway proves itself with is known to both: it is the client that is tried.
        f'[secrets.ike-gateway]\nsecret = "the shared secret of number {shared}"\n'
        f'id-1 = "gw.example.org"\n[secrets.eap-own]\nsecret = "password {owned}"\nid = "user{owned}"\n'
    )


@pytest.mark.parametrize("claimed", range(COUNT))
def test_t25_only_the_diagonal_of_connections_and_credentials_passes(claimed: int) -> None:
    network = Network(claimed)
    gateway = Gateway(network, "gateway", "192.0.2.1", gateway_text())
    let_in = []
    for owned in range(COUNT):
        client = Gateway(network, f"client{owned}", "192.0.2.9", client_text(claimed, owned))
        operation = client.initiate("peer", "net")
        network.run_for(3.0)
        views = [sa for sa in gateway.sas() if sa.state == "ESTABLISHED"]
        if client.operations.get(operation, True) is None or views:
            let_in.append((owned, [sa.connection for sa in views]))
            for view in views:
                gateway.endpoint.terminate(view.unique_id, 0, True, network.now)
        client.die()
        network.run_for(40.0)
    assert let_in == [(claimed, [f"c{claimed}"])]


@pytest.mark.parametrize("demand", ["", 'eap_id = "%any"\n'], ids=["default", "every user"])
def test_t25_what_a_user_calls_itself_in_ike_opens_nothing_of_another_s(demand: str) -> None:
    """EAP proves the user, not the identity in IKE: unless `eap_id` says otherwise, both are one."""
    server = (
        f'[connections.boss]\nlocal_addrs = ["192.0.2.1"]\n{PLAIN}[connections.boss.local]\nauth = "psk"\n'
        'id = "gw.example.org"\n[connections.boss.remote]\nauth = "eap-mschapv2"\nid = "boss@example.org"\n'
        f'{demand}[connections.boss.children.net]\nlocal_ts = ["10.1.0.0/16"]\nremote_ts = ["10.2.0.0/16"]\n'
        '[secrets.ike-all]\nsecret = "known to every client of it"\n'
        + "".join(
            f'[secrets.eap-{who}]\nid = "{who}@example.org"\nsecret = "of {who} alone"\n'
            for who in ("boss", "carol")
        )
    )

    def client(user: str) -> str:
        return (
            f'[connections.peer]\nlocal_addrs = ["192.0.2.9"]\nremote_addrs = ["192.0.2.1"]\n{PLAIN}'
            '[connections.peer.local]\nauth = "eap-mschapv2"\nid = "boss@example.org"\n'
            f'eap_id = "{user}@example.org"\n[connections.peer.remote]\nauth = "psk"\nid = "gw.example.org"\n'
            '[connections.peer.children.net]\nlocal_ts = ["10.2.0.0/16"]\nremote_ts = ["10.1.0.0/16"]\n'
            '[secrets.ike-all]\nsecret = "known to every client of it"\n'
            f'[secrets.eap-own]\nid = "{user}@example.org"\nsecret = "of {user} alone"\n'
        )

    came = {}
    for user in ("boss", "carol"):
        network = Network(1)
        gateway = Gateway(network, "gateway", "192.0.2.1", server)
        peer = Gateway(network, "client", "192.0.2.9", client(user))
        operation = peer.initiate("peer", "net")
        network.run_for(5.0)
        came[user] = peer.operations[operation] is None
        if not came[user]:
            assert gateway.failures()[0].reason == "peer-id-mismatch"
    assert came == {"boss": True, "carol": bool(demand)}
