"""Fuzz target: identities as people write them and as peers send them (CVE-2013-6075, CVE-2013-2052)."""

from __future__ import annotations

from contextlib import suppress

from cygnet.auth.identity import BadIdentity, Identity
from cygnet.testing import fuzzing

PATTERNS = [
    Identity.parse(text)
    for text in ("%any", "*.example.org", "*@example.org", "C=CH, O=Cygnet, CN=*", "192.0.2.0/24")
]


def one(data: bytes) -> None:
    """First octet: the type; 255: the rest is text to be parsed."""
    if not data:
        return
    with suppress(BadIdentity):
        if data[0] == 255:
            identity = Identity.parse(data[1:].decode("utf-8", "replace"))
        else:
            identity = Identity.from_wire(data[0], data[1:])
        text = str(identity)
        if not text.isprintable():
            raise AssertionError(f"control characters are shown: {text!r}")
        for pattern in PATTERNS:
            identity.matches(pattern)
            pattern.matches(identity)


def seeds() -> list[bytes]:
    texts = (
        "192.0.2.1", "2001:db8::1", "fqdn:a.example.org", "@@user@example.org",
        "C=CH, O=Cygnet AG, OU=a+b, CN=gw",
        "@#deadbeef", "keyid:x", "{9}:abc", "192.0.2.0/24", "10.0.0.1-10.0.0.9",
        "asn1dn:#300d310b3009060355040613024348",
    )  # fmt: skip
    found = [b"\xff" + text.encode() for text in texts]
    for text in texts:
        with suppress(BadIdentity):
            identity = Identity.parse(text)
            found.append(bytes((identity.type % 255,)) + identity.data)
    return found


if __name__ == "__main__":
    fuzzing.run(one, seeds())
