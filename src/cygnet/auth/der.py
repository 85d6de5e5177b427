"""The little DER that identities and certificates need: elements with a tag and a length, none nested.

Every length must be definite and in its shortest form (X.690, section 10.1). Raises `Malformed`.
"""

from __future__ import annotations

from cygnet.wire.cursor import Cursor, Malformed

INTEGER, BIT_STRING, OCTET_STRING, OID, ENUMERATED, SEQUENCE, SET = 0x02, 0x03, 0x04, 0x06, 0x0A, 0x30, 0x31
EXPLICIT_0 = 0xA0


def any_element(cursor: Cursor) -> tuple[int, Cursor]:
    """The next element's tag and a cursor over its content."""
    tag, length = cursor.u8(), cursor.u8()
    if length >= 0x80:
        size = length - 0x80
        if size not in (1, 2):
            raise Malformed("a DER length of more than two octets, or none")
        length = int.from_bytes(cursor.take(size), "big")
        if length < (0x80 if size == 1 else 0x100):
            raise Malformed("a DER length that is not the shortest")
    return tag, cursor.sub(length)


def element(cursor: Cursor, tag: int) -> Cursor:
    """The content of the next element, which must have this tag."""
    found, content = any_element(cursor)
    if found != tag:
        raise Malformed(f"DER tag {found} where {tag} must be")
    return content


def bits(cursor: Cursor) -> bytes:
    """The octets of the next element, a bit string of whole octets."""
    content = element(cursor, BIT_STRING)
    if content.u8() != 0:
        raise Malformed("a bit string that is not of whole octets")
    return content.rest()


def encode(tag: int, content: bytes) -> bytes:
    """One element."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
