"""Does this kernel have IPsec? Asked by installing a throw-away SA of each kind and taking it away again."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from ipaddress import ip_address

from cygnet.dataplane.xfrm import codec
from cygnet.dataplane.xfrm.algorithms import Algorithm
from cygnet.dataplane.xfrm.netlink import XfrmSocket

_GCM, _SHA = "rfc4106(gcm(aes))", "hmac(sha256)"
_KINDS = (
    ("ESP", 4, codec.ESP),
    ("ESP over IPv6", 6, codec.ESP),
    ("AH", 4, codec.AH),
    ("IPComp", 4, codec.IPCOMP),
)
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True, slots=True)
class Found:
    """`usable`: ESP for IPv4 at least. `text`: what there is and is not, for people."""

    usable: bool
    text: str


def probe() -> Found:
    """In the network namespace of the caller. Raises nothing: what is refused is an answer."""
    try:
        sock = XfrmSocket()
    except OSError as error:
        return Found(False, f"the kernel has no XFRM: {error.strerror}")
    has: list[str] = []
    lacks: list[str] = []
    why = ""
    with contextlib.closing(sock):
        for name, version, protocol in _KINDS:
            refusal = _try(sock, version, protocol)
            (lacks if refusal else has).append(name)
            why = why or refusal
    if "ESP" not in has:
        return Found(False, f"the kernel has no ESP: {why}")
    text = f"the kernel has {', '.join(has)}" + (f", and lacks {', '.join(lacks)}" if lacks else "")
    return Found(True, text)


def _try(sock: XfrmSocket, version: int, protocol: int) -> str:
    """The kernel's refusal, empty if it takes such an SA."""
    address = ip_address(_LOOPBACK[version])
    spi = 0x100 + secrets.randbelow(0xFEFF) if protocol == codec.IPCOMP else 1 << 31 | secrets.randbits(31)
    algorithms = {
        codec.ESP: codec.aead(Algorithm(_GCM, secrets.token_bytes(20), 128)),
        codec.AH: codec.mac(Algorithm(_SHA, secrets.token_bytes(32), 128)),
        codec.IPCOMP: codec.deflate(),
    }
    key = codec.SaKey(address, spi, protocol)
    limits = codec.Limits(hard_seconds=5)
    sa = codec.Sa(key, address, codec.TRANSPORT, 0, (algorithms[protocol],), limits=limits)
    try:
        sock.change_one(codec.sa_message(sa))
        sock.change_one(codec.sa_removal(key))
    except OSError as error:
        return error.strerror or str(error)
    return ""
