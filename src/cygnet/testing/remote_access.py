"""A gateway that leases addresses and clients that ask for them, in virtual time.

office = RemoteAccess(seed=7)
office.up()
assert office.client.host.addresses == (ip_address("10.3.0.1"),)
"""

from __future__ import annotations

from typing import Final

from cygnet.testing.configurations import SECRET
from cygnet.testing.gateway import Gateway
from cygnet.testing.network import Conditions, Network
from cygnet.testing.pairs import QUIET

CLIENT: Final = """
[options]
{options}
[connections.office]
local_addrs = ["192.0.2.{number}"]
remote_addrs = ["192.0.2.1"]
vips = [{vips}]
encap = "no"
{connection}
[connections.office.local]
{proof}
id = "{identity}"
[connections.office.remote]
auth = "{gateway_auth}"
id = "gw.example.org"
{login}
[connections.office.children.net]
remote_ts = [{networks}]
{child}
[secrets.ike-1]
secret = "{secret}"
"""
SERVER: Final = """
[options]
{options}
[connections.clients]
local_addrs = ["192.0.2.1"]
pools = [{pools}]
encap = "no"
{connection}
[connections.clients.local]
auth = "{gateway_auth}"
id = "gw.example.org"
[connections.clients.remote]
auth = "{proof}"
{login}
[connections.clients.children.net]
local_ts = [{networks}]
{child}
[secrets.ike-1]
secret = "{secret}"
{sections}
"""
CLIENT_ROUND: Final = """
[connections.office.local-2]
auth = "xauth"
xauth_id = "joe{number}"
"""
CLIENT_USER: Final = """
[secrets.xauth-joe]
id = "joe{number}"
secret = "{password}"
"""
SERVER_LOGIN: Final = """
[connections.clients.remote-2]
auth = "{login}"
"""
USER: Final = """
[secrets.xauth-joe{number}]
id = "joe{number}"
secret = "{password}"
"""
PASSWORD: Final = "opensesame"  # noqa: S105 - protects nothing
POOLS: Final = """
[pools.four]
addrs = "10.3.0.0/24"
dns = ["10.1.0.53"]
nbns = ["10.1.0.54"]
subnet = ["10.1.0.0/16"]
domains = ["example.org", "corp.example.org"]
[pools.six]
addrs = "2001:db8:3::/112"
dns = ["2001:db8:1::53"]
"""


class RemoteAccess:
    """`server` (192.0.2.1, behind it 10.1.0.0/16) and `clients`, 192.0.2.11 and upward, `client` the first.

    `vips`, `pools` and `networks` (behind the server) as in TOML lists; `sections` are the pools,
    `server_sections` and `client_sections` whatever else.
    `login`: "xauth" or "xauth-chap", with `version = 1` in `connection`: clients log in as joeN, with
    `password`, where the server knows them by PASSWORD; `same_user`: all as the first of them. `proof`:
    "psk", "pubkey" (certificates are still to be put into everybody's `credentials`), or "hybrid", where
    the gateway alone has one.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        clients: int = 1,
        vips: str = '"0.0.0.0"',
        pools: str = '"four", "six"',
        sections: str = POOLS,
        connection: str = "",
        client_connection: str = "",
        server_connection: str = "",
        child: str = "",
        client_child: str = "",
        options: str = "",
        same_identity: bool = False,
        same_user: bool = False,
        login: str = "",
        password: str = PASSWORD,
        proof: str = "psk",
        server_sections: str = "",
        client_sections: str = "",
        networks: str = '"10.1.0.0/16", "2001:db8:1::/48"',
        conditions: Conditions | None = None,
    ) -> None:
        self.network = Network(seed, conditions=conditions)
        numbers = range(11, 11 + clients)
        hybrid = proof == "hybrid"
        gateway_auth = "pubkey" if hybrid else proof
        users = "".join(USER.format(number=number, password=PASSWORD) for number in numbers)
        self.server_text = SERVER.format(
            options=options,
            pools=pools,
            connection=connection + "\n" + server_connection,
            child=child,
            secret=SECRET,
            networks=networks,
            sections=sections + server_sections + (users if login else ""),
            gateway_auth=gateway_auth,
            proof=login if hybrid else proof,
            login=SERVER_LOGIN.format(login=login) if login and not hybrid else "",
        )
        self.server = Gateway(self.network, "server", "192.0.2.1", self.server_text)
        user = {number: 11 if same_user else number for number in numbers}
        self.client_texts = [
            CLIENT.format(
                options=options,
                number=number,
                vips=vips,
                connection=connection + "\n" + client_connection,
                identity="user@example.org" if same_identity else f"user{number}@example.org",
                child=child + "\n" + client_child,
                secret=SECRET,
                networks=networks,
                gateway_auth=gateway_auth,
                proof=f'auth = "xauth"\nxauth_id = "joe{user[number]}"' if hybrid else f'auth = "{proof}"',
                login=(CLIENT_ROUND.format(number=user[number]) if login and not hybrid else "")
                + (CLIENT_USER.format(number=user[number], password=password) if login else "")
                + client_sections,
            )
            for number in numbers
        ]
        self.clients = [self._client(index) for index in range(clients)]

    def _client(self, index: int) -> Gateway:
        return Gateway(self.network, f"client{index}", f"192.0.2.{11 + index}", self.client_texts[index])

    @property
    def client(self) -> Gateway:
        return self.clients[0]

    @property
    def everybody(self) -> tuple[Gateway, ...]:
        return (self.server, *self.clients)

    def up(self) -> RemoteAccess:
        """Each client initiates; returns when all are up. RuntimeError if one does not come up."""
        asked = [(client, client.initiate("office", "net")) for client in self.clients]
        done = self.network.run_until(lambda: all(o in client.operations for client, o in asked))
        failed = [f for client, o in asked if (f := client.operations.get(o)) is not None]
        if not done or failed:
            raise RuntimeError(f"seed {self.network.seed}: did not come up: {failed}")
        self.network.run_for(2.0)
        return self

    def settle(self, seconds: float = QUIET) -> None:
        """Let everything that is under way come to its end."""
        self.network.settle(seconds)

    def restart_client(self, index: int = 0) -> Gateway:
        """It loses power and comes back with nothing but its configuration."""
        self.clients[index].die()
        self.clients[index] = self._client(index)
        return self.clients[index]

    def restart_server(self) -> Gateway:
        """The same; its leases are what it kept."""
        old = self.server
        old.die()
        self.server = Gateway(self.network, "server", "192.0.2.1", self.server_text)
        for pool, address, identity in old.leases.assignments():
            self.server.leases.restore(pool, address, identity)
        return self.server
