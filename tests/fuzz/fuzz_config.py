"""Fuzz target: configurations in both spellings; only `ConfigurationError` may come out."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cygnet.config.load import load
from cygnet.config.problems import ConfigurationError
from cygnet.testing import fuzzing
from cygnet.testing.configurations import connection_text

NOWHERE = Path("/nonexistent")
"""Relative includes and files are looked for here, and not found."""

SWANCTL = """
connections {
  branch {
    version = 2
    local_addrs = 192.0.2.1
    remote_addrs = 192.0.2.2, 198.51.100.0/24
    proposals = aes256gcm16-prfsha384-x25519, default
    local-1 { auth = psk
      id = gw@example.org }
    remote { auth = pubkey-rsa-2048-sha256
      id = "C=CH, O=Cygnet, CN=*"
    }
    children { net { # comment
        local_ts = 10.1.0.0/16[tcp/80-90], dynamic[udp/53]
        remote_ts = 10.2.0.0/16
        esp_proposals = aes128gcm16-none
        life_time = 2h
        rekey_bytes = 5000000
        start_action = trap|start
    } }
  }
}
secrets { ike-1 { secret = 0sYWJjZA==
   id = @branch } }
"""
ACLS = """
[acls.office]
rules = [
    "permit tcp 10.1.0.0/16 10.2.0.0 0.0.255.255 eq 443", "deny icmp any any 8 0",
    "permit ip any host 10.2.0.9",
]
"""


def one(data: bytes) -> None:
    """First octet odd: TOML, even: swanctl.conf."""
    if not data:
        return
    text = data[1:].decode("utf-8", "replace")
    if "include" in text and "/" in text:
        return  # it would read what lies on this machine
    with suppress(ConfigurationError):
        loaded = load(NOWHERE / ("x.toml" if data[0] & 1 else "x.conf"), text)
        repr(loaded)
        list(loaded.commands())


def seeds() -> list[bytes]:
    toml = connection_text("branch", 1, 2, connection='dpd_delay = "30s"', settings='rekey_time = "1h"')
    return [
        b"\1" + toml.encode(),
        b"\1" + ACLS.encode(),
        b"\1" + (ACLS + toml).encode(),
        b"\0" + SWANCTL.encode(),
    ]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
