"""Transport mode behind a NAT: checksums that were made with other addresses (RFC 3948, section 3.1.2).

TCP and UDP sum the addresses of the IP header, which the NAT has changed and could not follow inside of
ESP. The packet is authentic, so where the addresses are known that it was sealed with, the sum is corrected
by the difference: what was wrong when it was sealed stays wrong. Where they are not known it is made anew.
"""

from __future__ import annotations

from cygnet.ipsec.checksum import complement, residue, store, swap

_CHECKSUM_AT = {6: 16, 17: 6}


def readdressed(protocol: int, payload: bytes, sealed_with: bytes, seen: bytes) -> bytes:
    """Upper layers whose checksum was made with the addresses `sealed_with` (source and destination, packed),
    for a header with the addresses `seen`."""
    at = _CHECKSUM_AT.get(protocol)
    if at is None or sealed_with == seen or len(payload) < at + 2:
        return payload
    old = payload[at] | payload[at + 1] << 8
    if protocol == 17 and not old:
        return payload  # none was made (RFC 768)
    total = 0xFFFF - old + 0xFFFF - residue(memoryview(sealed_with)) + residue(memoryview(seen))
    made = bytearray(payload)
    store(made, at, complement(total))
    return bytes(made)


def checked_anew(protocol: int, payload: bytes, seen: bytes) -> bytes:
    """The same, of which nobody told what addresses the checksum was made with."""
    at = _CHECKSUM_AT.get(protocol)
    if at is None or len(payload) < at + 2 or (protocol == 17 and payload[at : at + 2] == b"\0\0"):
        return payload
    made = bytearray(payload)
    made[at : at + 2] = b"\0\0"
    pseudo = residue(memoryview(seen)) + swap(protocol) + swap(len(payload))
    store(made, at, complement(pseudo + residue(memoryview(made))))
    return bytes(made)
