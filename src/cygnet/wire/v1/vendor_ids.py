"""Vendor IDs: what implementations say about themselves, and the extensions they announce (RFC 2408, 3.16).

An ID is a hash or a word of its vendor, sometimes followed by a version: so those are matched by prefix.
The constants are what Cygnet sends and acts upon; `name_of` is for people: `status` and traces print it.
Sources: the RFCs and drafts named; hashes are MD5 of the text beside them (tests compute them); the others
are what the implementations send.
"""

from __future__ import annotations

from typing import Final

XAUTH: Final = bytes.fromhex("09002689dfd6b712")
"""draft-beaulieu-ike-xauth-02, section 4."""
DPD: Final = bytes.fromhex("afcad71368a1f1c96b8696fc77570100")
"""RFC 3706, section 5.1; the last two octets are the version, 1.0."""
UNITY: Final = bytes.fromhex("12f5f28c457168a9702d9fe274cc0100")
"""Cisco Unity, protocol 1.0."""
NAT_T_RFC: Final = bytes.fromhex("4a131c81070358455c5728f20e95452f")
"""RFC 3947, section 3.1: MD5 of "RFC 3947"."""
NAT_T_03: Final = bytes.fromhex("7d9419a65310ca6f2c179d9215529d56")
NAT_T_02_NEWLINE: Final = bytes.fromhex("90cb80913ebb696e086381b5ec427b1f")
"""The draft's text, and so most implementations of it, hashed its name with a line feed."""
NAT_T_02: Final = bytes.fromhex("cd60464335df21f87cfdb2fc68b6a448")
FRAGMENTATION: Final = bytes.fromhex("4048b7d56ebce88525e7de7f00d6c2d3")
"""MD5 of "FRAGMENTATION". Cisco adds four octets: bit 31 for main, bit 30 for aggressive mode."""
FRAGMENTATION_CISCO: Final = FRAGMENTATION + bytes.fromhex("c0000000")

NAT_T_BEST_FIRST: Final = (NAT_T_RFC, NAT_T_03, NAT_T_02_NEWLINE, NAT_T_02)
"""The NAT traversals that are spoken, best first; all but the first use the payload numbers of the drafts."""

_EXACT: Final[dict[bytes, str]] = {
    XAUTH: "XAUTH",
    NAT_T_RFC: "NAT-T (RFC 3947)",
    NAT_T_03: "NAT-T draft 03",
    NAT_T_02_NEWLINE: "NAT-T draft 02\\n",
    NAT_T_02: "NAT-T draft 02",
    bytes.fromhex("4485152d18b6bbcd0be8a8469579ddcc"): "NAT-T draft 00",
    bytes.fromhex("16f6ca16e4a4066d83821a0f0aeaa862"): "NAT-T draft 01",
    bytes.fromhex("9909b64eed937c6573de52ace952fa6b"): "NAT-T draft 04",
    bytes.fromhex("80d0bb3def54565ee84645d4c85ce3ee"): "NAT-T draft 05",
    bytes.fromhex("4d1e0e136deafa34c4f3ea9f02ec7285"): "NAT-T draft 06",
    bytes.fromhex("439b59f8ba676c4c7737ae22eab8f582"): "NAT-T draft 07",
    bytes.fromhex("8f8d83826d246b6fc7a8a6a428c11de8"): "NAT-T draft 08",
    bytes.fromhex("882fe56d6fd20dbc2251613b2ebe5beb"): "strongSwan",
    bytes.fromhex("7003cbc1097dbe9c2600ba6983bc8b35"): "KAME racoon",
    bytes.fromhex("621b04bb09882ac1e15935fefa24aeee"): "Microsoft GSSAPI",
    bytes.fromhex("fb1de3cdf341b7ea16b7e5be0855f120"): "Microsoft negotiation discovery",
    bytes.fromhex("26244d38eddb61b3172a36e3d0cfb819"): "Microsoft initial contact",
    bytes.fromhex("e3a5966a76379fe707228231e5ce8652"): "Microsoft IKE CGA 1",
}

_PREFIXES: Final[tuple[tuple[bytes, str], ...]] = (
    (DPD[:14], "DPD"),
    (UNITY[:14], "Cisco Unity"),
    (FRAGMENTATION, "fragmentation"),
    (bytes.fromhex("1e2b516905991c7d7c96fcbfb587e461"), "Microsoft Windows"),
    (bytes.fromhex("1f07f70eaa6514d3b0fa96542a50"), "Cisco VPN 3000"),
    (bytes.fromhex("f4ed19e0c114eb516faaac0ee37daf2807b4381f"), "Check Point"),
    (bytes.fromhex("4865617274426561745f4e6f74696679"), "Juniper ScreenOS heartbeat"),
    (bytes.fromhex("699369228741c6d4ca094c93e242c9de19e7b7c6"), "Juniper"),
    (bytes.fromhex("8299031757a36082c6a621de"), "Fortinet FortiGate"),
    (b"BNES", "Nortel Contivity"),
    (b"OE", "Openswan or Libreswan"),
)


def name_of(data: bytes) -> str | None:
    """What this vendor ID says, or None when it is not known."""
    exact = _EXACT.get(data)
    if exact is not None:
        return exact
    for prefix, name in _PREFIXES:
        if data.startswith(prefix):
            return name
    return None
