"""Two sides of EAP that talk to each other in memory, and what they prove themselves with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from cygnet.auth import passwords
from cygnet.auth.ask import CheckPassword
from cygnet.auth.certificate import parse_any
from cygnet.auth.credentials import Credentials
from cygnet.auth.eap import session
from cygnet.auth.eap.method import ClientMaker, Reply, ServerMaker, Shown
from cygnet.auth.eap.packet import Packet, decode
from cygnet.auth.identity import Identity
from cygnet.auth.issue import Issued, issue, make_ca
from cygnet.crypto.entropy import SeededEntropy

WALL = 1_800_000_000.0
YEAR = 31_536_000.0
SERVER, CAROL = Identity.parse("vpn.example.org"), Identity.parse("carol@example.org")
PASSWORD = b"open sesame"


def authority(name: str = "CA", *, now: bool = False) -> Issued:
    """A CA, valid at `WALL`, or `now`; the same at each call."""
    return _authority(name, now)


@lru_cache(maxsize=4)
def _authority(name: str, now: bool) -> Issued:
    wall = time.time() if now else WALL
    return make_ca(f"C=CH, O=Test, CN={name}", not_before=wall - YEAR, not_after=wall + YEAR)


def certificate(
    identity: Identity, ca: str = "CA", age: float = 0.0, subject: str = "", *, now: bool = False
) -> Issued:
    """One under that CA, for this identity; the same at each call."""
    return _certificate(identity, ca, age, subject, now)


@lru_cache(maxsize=32)
def _certificate(identity: Identity, ca: str, age: float, subject: str, now: bool) -> Issued:
    wall = (time.time() if now else WALL) - age
    begin, end = wall - YEAR / 2, wall + YEAR / 4
    return issue(authority(ca, now=now), [identity], not_before=begin, not_after=end, subject=subject)


def der(issued: Issued) -> bytes:
    return parse_any(issued.certificate).der


def credentials(own: Issued | None = None, trusted: str = "CA", *, password: bytes = PASSWORD) -> Credentials:
    """What one side has: its certificate, whom it trusts, and carol's password."""
    store = Credentials()
    store.add_certificate(authority(trusted).certificate, ca=True)
    if own is not None:
        store.add_certificate(own.certificate)
        store.add_private_key(own.key)
    store.add_shared("eap-carol", "eap", password, [CAROL], ["staff"])
    return store


def told(client: session.Client, octets: bytes) -> Reply | None:
    """What a client answers to a packet; whatever certificates it shows are not revoked."""
    step = client.send(octets)
    while isinstance(step, Shown):
        step = client.send(b"")
    return step


Tamper = Callable[[int, bytes, bool], bytes]
"""(number of the packet, its octets, whether the server sent it) to what arrives."""


def converse(
    makers: Sequence[ServerMaker],
    clients: Sequence[ClientMaker],
    *,
    name: bytes = CAROL.data,
    tamper: Tamper | None = None,
    seed: int = 1,
) -> tuple[session.Finished, session.Finished, list[Packet]]:
    """Both sides until both have come to success; (server's, client's, every packet). Else raises."""
    server = session.serve(lambda user: makers, SeededEntropy(seed))
    client = session.respond(name, clients, SeededEntropy(seed + 1))
    next(client)
    packets: list[Packet] = []
    change = tamper or (lambda number, octets, is_server: octets)
    value: Any = None
    while True:
        try:
            step = server.send(value)
        except StopIteration as end:
            finished: session.Finished = end.value
            packets.append(decode(finished.packet))
            try:
                client.send(change(len(packets), finished.packet, True))
            except StopIteration as ended:
                return finished, ended.value, packets
            raise AssertionError("the client goes on after success") from None
        if isinstance(step, CheckPassword):
            value = passwords.check(step.stored, step.password)
            continue
        assert isinstance(step, bytes)
        packets.append(decode(step))
        reply = told(client, change(len(packets), step, True))
        assert reply is not None
        packets.append(decode(reply.data))
        value = change(len(packets), reply.data, False)
