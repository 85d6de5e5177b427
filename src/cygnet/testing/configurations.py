"""Configurations for simulated gateways: text as it would stand in a `cygnet.toml`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SECRET: Final = "simulated and long enough to be no word"  # noqa: S105 - protects nothing
GATEWAY: Final = """
[connections.{name}]
version = {version}
local_addrs = ["{local}"]
remote_addrs = ["{remote}"]
{connection}
[connections.{name}.local]
auth = "psk"
id = "{local_id}"
[connections.{name}.remote]
auth = "psk"
id = "{remote_id}"
{children}
"""
CHILD: Final = """
[connections.{connection}.children.{name}]
local_ts = ["{local_ts}"]
remote_ts = ["{remote_ts}"]
{settings}
"""
SECRETS: Final = """
[secrets.ike-{name}]
secret = "{secret}"
id-1 = "{local_id}"
id-2 = "{remote_id}"
"""


def site(number: int) -> str:
    """The network behind the gateway with this number."""
    return f"10.{number}.0.0/16"


def gateway_address(number: int) -> str:
    return f"192.0.2.{number}"


def connection_text(
    name: str,
    local: int,
    remote: int,
    *,
    connection: str = "",
    children: Iterable[str] = ("net",),
    settings: str = "",
    local_address: str = "",
    remote_address: str = "",
    secret: str = SECRET,
    version: int = 2,
) -> str:
    """A connection between the gateways with these numbers as `cygnet.toml`, its secret included.

    ESP is plain unless `connection` has an `encap` of its own.

    `connection` and `settings` are more lines of TOML for the connection and for each child. Children
    after the first protect networks of their own (10.N.0.0/16 for the first, 10.N+100.k.0/24 for more).
    """
    ids = f"g{local}.example.org", f"g{remote}.example.org"
    texts = []
    for k, child in enumerate(children):
        ours, theirs = (
            (site(local), site(remote))
            if k == 0
            else (f"10.{local + 100}.{k}.0/24", f"10.{remote + 100}.{k}.0/24")
        )
        texts.append(
            CHILD.format(connection=name, name=child, local_ts=ours, remote_ts=theirs, settings=settings)
        )
    if "encap" not in connection:
        connection += '\nencap = "no"\n'
    body = GATEWAY.format(
        name=name,
        version=version,
        local=local_address or gateway_address(local),
        remote=remote_address or gateway_address(remote),
        connection=connection,
        local_id=ids[0],
        remote_id=ids[1],
        children="".join(texts),
    )
    return body + SECRETS.format(name=name, secret=secret, local_id=ids[0], remote_id=ids[1])
