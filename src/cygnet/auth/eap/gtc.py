"""EAP-GTC (RFC 3748, section 5.6): the password as it is. For inside of what is encrypted and authenticated:
the IKE SA of a gateway that has proved itself, or a tunnel."""

from __future__ import annotations

import hmac
from collections.abc import Generator
from typing import Any, Final

from cygnet.auth.ask import AuthQuestion, CheckPassword
from cygnet.auth.eap.method import (
    ClientMaker,
    ClientMethod,
    Lookup,
    Outcome,
    Reply,
    ServerMaker,
    ServerMethod,
    no_form,
    wrong_password,
)
from cygnet.auth.eap.packet import EapType, Packet
from cygnet.auth.passwords import MAX_PASSWORD, Stored
from cygnet.crypto.entropy import Entropy

PROMPT: Final = b"Password: "
NOBODY: Final = "$scrypt$ln=15,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""What the password of somebody who is not there is compared with: it takes as long, and nothing has it."""


def server(lookup: Lookup) -> ServerMaker:
    def start(name: bytes, entropy: Entropy) -> ServerMethod:
        response: Packet = yield PROMPT
        stored = yield from check_password(lookup, name, response.data, "eap-gtc")
        return Outcome(groups=stored.groups)

    return ServerMaker(EapType.GTC, start)


def client(password: bytes) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        yield None
        while True:
            yield Reply(password, Outcome())

    return ClientMaker(EapType.GTC, start)


def check_password(
    lookup: Lookup, name: bytes, password: bytes, method: str
) -> Generator[bytes | AuthQuestion, Any, Stored]:
    """The user, whose password this is. Raises `EapFailed`. A hash is worked out elsewhere (`auth.ask`)."""
    stored = lookup(name)
    if len(password) > MAX_PASSWORD:
        raise wrong_password(name)
    outcome: object
    if stored is not None and stored.scrypt:
        outcome = yield CheckPassword(stored.scrypt, password)
    elif stored is not None and stored.text:
        outcome = hmac.compare_digest(stored.text, password)
    elif stored is not None:
        raise no_form(name, method, "the text or a scrypt hash of the password")
    else:
        outcome = yield CheckPassword(NOBODY, password)
    if outcome is not True or stored is None:
        raise wrong_password(name)
    return stored
