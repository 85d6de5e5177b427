"""Fuzz target: certificates as peers send them, up to the judgement of a chain (security.md V53)."""

from __future__ import annotations

import functools
from contextlib import suppress

from cygnet.auth import certificate, issue
from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import AuthenticationError, CredentialError
from cygnet.auth.identity import Identity
from cygnet.crypto.errors import UnsupportedAlgorithm
from cygnet.testing import fuzzing

NOW = 1.8e9
GATEWAY = Identity.parse("a.example.org")


@functools.cache
def material() -> tuple[Credentials, list[bytes]]:
    ca = issue.make_ca("C=CH, O=Cygnet, CN=CA", not_before=NOW - 100, not_after=NOW + 1e6)
    found = [certificate.parse_any(ca.certificate).der]
    for kind in ("ecdsa", "ed25519"):
        made = issue.issue(
            ca,
            [GATEWAY, Identity.parse("192.0.2.1"), Identity.parse("gw@example.org")],
            not_before=NOW - 50,
            not_after=NOW + 1e5,
            kind=kind,
        )
        found.append(certificate.parse_any(made.certificate).der)
    store = Credentials()
    store.add_certificate(ca.certificate, True)
    return store, found


def one(data: bytes) -> None:
    with suppress(CredentialError, AuthenticationError, UnsupportedAlgorithm):
        parsed = certificate.parse(data)
        for identity in parsed.identities():
            if not str(identity).isprintable():
                raise AssertionError("control characters are shown")
        if not (parsed.title.isprintable() and parsed.issuer_title.isprintable()):
            raise AssertionError("control characters are shown")
        parsed.vouches_for(GATEWAY)


def seeds() -> list[bytes]:
    return material()[1]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
