"""EAP-MD5 (RFC 3748, section 5.4): MD5(identifier | password | challenge). No key, and whoever hears it
can try words offline: for inside a tunnel, and for gateways that have proved themselves by certificate."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

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
from cygnet.crypto.entropy import Entropy
from cygnet.wire.cursor import Cursor, Malformed

CHALLENGE: Final = 16
MAX_VALUE: Final = 64


def server(lookup: Lookup) -> ServerMaker:
    def start(name: bytes, entropy: Entropy) -> ServerMethod:
        stored = lookup(name)
        if stored is not None and not stored.text:
            raise no_form(name, "eap-md5", "the text of the password")
        challenge = entropy.octets(CHALLENGE)
        response: Packet = yield bytes((CHALLENGE,)) + challenge
        value = _value(response.data)
        # Who is not there is compared with what nobody can know.
        password = stored.text if stored is not None else entropy.octets(CHALLENGE)
        outcome: object = hmac.compare_digest(_digest(response.identifier, password, challenge), value)
        if outcome is not True or stored is None:
            raise wrong_password(name)
        return Outcome(groups=stored.groups)

    return ServerMaker(EapType.MD5, start)


def client(name: bytes, password: bytes) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        request = yield None
        while True:
            challenge = _value(request.data)
            answer = _digest(request.identifier, password, challenge)
            request = yield Reply(bytes((len(answer),)) + answer + name, Outcome())

    return ClientMaker(EapType.MD5, start)


def _value(data: bytes) -> bytes:
    cursor = Cursor(data)
    value = cursor.take(cursor.u8())
    if not 0 < len(value) <= MAX_VALUE:
        raise Malformed(f"an EAP-MD5 value of {len(value)} octets")
    return value


def _digest(identifier: int, password: bytes, challenge: bytes) -> bytes:
    return hashlib.md5(bytes((identifier,)) + password + challenge, usedforsecurity=False).digest()
