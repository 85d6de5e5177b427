"""The lab's own eyes: what a frame shows."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from cygnet.lab.capture import classify

PROTECTED = [ip_network("10.1.0.0/16"), ip_network("fd01::/64")]
ETHERNET = bytes(12)


def ipv4(source: str, protocol: int, payload: bytes = b"") -> bytes:
    address = bytes(int(part) for part in source.split("."))
    return (
        ETHERNET
        + b"\x08\x00\x45"
        + bytes(8)
        + bytes([protocol])
        + bytes(2)
        + address
        + bytes([192, 0, 2, 2])
        + payload
    )


def udp(port: int, data: bytes) -> bytes:
    return port.to_bytes(2, "big") + port.to_bytes(2, "big") + bytes(4) + data


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (ipv4("192.0.2.1", 50, bytes(40)), "esp"),
        (ipv4("192.0.2.1", 17, udp(500, bytes(40))), "ike"),
        (ipv4("192.0.2.1", 17, udp(4500, bytes(40))), "ike"),
        (ipv4("192.0.2.1", 17, udp(4500, b"\x01" * 40)), "esp"),
        (ipv4("192.0.2.1", 17, udp(4500, b"\xff")), "keepalive"),
        (ipv4("10.1.0.10", 50, bytes(40)), "clear"),
        (ipv4("10.1.0.10", 1, bytes(40)), "clear"),
        (ipv4("192.0.2.1", 6, bytes(40)), "other"),
        (ETHERNET + b"\x08\x06" + bytes(28), "other"),
        (ipv4("192.0.2.1", 50, b"..secret.."), "clear"),
    ],
)
def test_a_frame_is_sorted_by_what_an_eavesdropper_sees(frame: bytes, kind: str) -> None:
    assert classify(frame, PROTECTED, [b"secret"]) == kind
