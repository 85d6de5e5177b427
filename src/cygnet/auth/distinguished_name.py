"""X.500 distinguished names: DER (strict, bounded), text (swanctl's and RFC 4514's spelling), comparison.

Law of the file: what is decoded encodes to the same octets, or is refused; no length is trusted and
nothing nests (CVE-2013-6075: a DN compared without its length let a prefix pass as the whole).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cygnet.auth import der
from cygnet.wire.cursor import Cursor, Malformed

MAX_NAME = 2048
MAX_RDNS = 32

UTF8_STRING, PRINTABLE_STRING, T61_STRING, IA5_STRING = 0x0C, 0x13, 0x14, 0x16
_UNIVERSAL_STRING, _BMP_STRING = 0x1C, 0x1E
_CODECS = {
    UTF8_STRING: "utf-8",
    PRINTABLE_STRING: "ascii",
    IA5_STRING: "ascii",
    # Officially T.61; what certificates hold is Latin-1.
    T61_STRING: "latin-1",
    _UNIVERSAL_STRING: "utf-32-be",
    _BMP_STRING: "utf-16-be",
}
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*\Z")

# strongSwan's names; of several for one type the first is what `to_text` writes.
_TYPES = (
    ("C", "2.5.4.6"),
    ("ST", "2.5.4.8"),
    ("L", "2.5.4.7"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("CN", "2.5.4.3"),
    ("E", "1.2.840.113549.1.9.1"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
    ("Email", "1.2.840.113549.1.9.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("S", "2.5.4.4"),
    ("SN", "2.5.4.5"),
    ("serialNumber", "2.5.4.5"),
    ("T", "2.5.4.12"),
    ("D", "2.5.4.13"),
    ("postalAddress", "2.5.4.16"),
    ("postalCode", "2.5.4.17"),
    ("street", "2.5.4.9"),
    ("N", "2.5.4.41"),
    ("G", "2.5.4.42"),
    ("I", "2.5.4.43"),
    ("ID", "2.5.4.45"),
    ("dnQualifier", "2.5.4.46"),
    ("pseudonym", "2.5.4.65"),
    ("UN", "1.2.840.113549.1.9.2"),
    ("unstructuredName", "1.2.840.113549.1.9.2"),
    ("UA", "1.2.840.113549.1.9.8"),
    ("unstructuredAddress", "1.2.840.113549.1.9.8"),
)
_OID_OF = {name.lower(): oid for name, oid in _TYPES}
_NAME_OF = {oid: name for name, oid in reversed(_TYPES)}
# RFC 5280, appendix A.1; strongSwan writes DC as PrintableString all the same.
_IA5_TYPES = (_OID_OF["e"], _OID_OF["dc"], _OID_OF["un"])

_ATTRIBUTE = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*|\d+(?:\.\d+)+)\s*=\s*")
_ESCAPE = re.compile(r"\\(?:([0-9A-Fa-f]{2})|(.))", re.DOTALL)


class BadName(ValueError):
    """Octets or text that are no distinguished name; says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """One attribute: its type in dots, the tag of its string, its text (None: not a string), its octets."""

    oid: str
    tag: int
    text: str | None
    data: bytes


Name = tuple[tuple[Value, ...], ...]


def decode(data: bytes) -> Name:
    """The name that DER octets hold. Raises `BadName` for anything but one whole, canonical name."""
    if len(data) > MAX_NAME:
        raise BadName(f"a distinguished name of {len(data)} octets; at most {MAX_NAME} are accepted")
    try:
        cursor = Cursor(data)
        rdns = der.element(cursor, der.SEQUENCE)
        cursor.expect_end()
        name: list[tuple[Value, ...]] = []
        while rdns.left:
            if len(name) == MAX_RDNS:
                raise BadName(f"a distinguished name of more than {MAX_RDNS} parts")
            name.append(_decode_rdn(der.element(rdns, der.SET)))
    except Malformed as error:
        raise BadName(f"a distinguished name that is not DER: {error}") from None
    return tuple(name)


def encode(name: Name) -> bytes:
    """The DER octets of a name."""
    rdns = []
    for rdn in name:
        # DER orders the members of a SET (X.690, section 11.6).
        members = sorted(
            der.encode(der.SEQUENCE, _encode_oid(value.oid) + der.encode(value.tag, value.data))
            for value in rdn
        )
        rdns.append(der.encode(der.SET, b"".join(members)))
    return der.encode(der.SEQUENCE, b"".join(rdns))


def same_value(first: Value, second: Value) -> bool:
    """The same type and the same characters, in whatever string type: exact, letter case included.

    RFC 5280, section 7.1, would also fold case and white space. Exactness refuses more, and never takes two
    names for one that an issuer holds apart.
    """
    if first.oid != second.oid:
        return False
    if first.text is None or second.text is None:
        return first.tag == second.tag and first.data == second.data
    return first.text == second.text


def same_name(first: Name, second: Name) -> bool:
    """Whether two names have the same parts in the same order."""
    return len(first) == len(second) and all(
        len(one) == len(other) and all(map(same_value, one, other))
        for one, other in zip(first, second, strict=True)
    )


def from_text(text: str) -> Name:
    r"""A name from its spelling: `C=CH, O=x, CN=y`, or `/C=CH/O=x/CN=y`; `\,` or quotes keep a separator.

    Raises `BadName`. Types are swanctl's names or dotted numbers; `a=x+b=y` is a part of two attributes.
    """
    text = stripped(text)
    separator = ","
    if text.startswith("/"):
        text, separator = text[1:], "/"
    name: list[tuple[Value, ...]] = []
    rdn: list[Value] = []
    position = 0
    while position < len(text):
        found = _ATTRIBUTE.match(text, position)
        if found is None:
            raise BadName(f"{text[position : position + 40]!r}: TYPE=value expected")
        oid = _oid(found[1])
        value, position = _read_value(text, found.end(), separator)
        rdn.append(_string(oid, value))
        ended = position >= len(text) or text[position] == separator
        if ended:
            name.append(tuple(rdn))
            rdn = []
        position += 1
        if position == len(text):
            raise BadName(f"{text!r} ends with a separator")
    if not name:
        raise BadName("an empty distinguished name")
    if len(name) > MAX_RDNS:
        raise BadName(f"a distinguished name of more than {MAX_RDNS} parts")
    # As encoded, so that the members of a part have DER's order here too.
    return decode(encode(tuple(name)))


def to_text(name: Name) -> str | None:
    """The spelling that `from_text` reads, or None for a value that is not printable text."""
    rdns = []
    for rdn in name:
        values = []
        for value in rdn:
            if value.text is None or not value.text or not value.text.isprintable():
                return None
            values.append(f"{_NAME_OF.get(value.oid, value.oid)}={_escape(value.text)}")
        rdns.append("+".join(values))
    return ", ".join(rdns)


def _read_value(text: str, start: int, separator: str) -> tuple[str, int]:
    """The value that begins at `start`, and the index of what ends it: separator, `+` or the text's end."""
    if text.startswith('"', start):
        end = start + 1
        while end < len(text) and text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        if end >= len(text):
            raise BadName("a quotation mark that is not closed")
        value, after = text[start + 1 : end], end + 1
        while after < len(text) and text[after] == " ":
            after += 1
        if after < len(text) and text[after] not in (separator, "+"):
            raise BadName(f"{text[after : after + 20]!r} follows a quoted value")
        return _unescape(value), after
    end = start
    while end < len(text) and text[end] != separator:
        # A plus sign is a letter like others unless TYPE= follows it.
        if text[end] == "+" and _ATTRIBUTE.match(text, end + 1):
            break
        end += 2 if text[end] == "\\" else 1
    end = min(end, len(text))
    return _unescape(stripped(text[start:end])), end


def stripped(text: str) -> str:
    """Without white space around it, but with a last space that is escaped."""
    bare = text.strip()
    escapes = len(bare) - len(bare.rstrip("\\"))
    return bare + " " if escapes % 2 and len(text.lstrip()) > len(bare) else bare


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    octets, position = bytearray(), 0
    for found in _ESCAPE.finditer(text):
        octets += text[position : found.start()].encode()
        octets += bytes.fromhex(found[1]) if found[1] else found[2].encode()
        position = found.end()
    rest = text[position:]
    if "\\" in rest:
        raise BadName(f"{text!r} ends within an escape")
    try:
        return (octets + rest.encode()).decode()
    except UnicodeDecodeError:
        raise BadName(f"{text!r} is not UTF-8") from None


def _escape(text: str) -> str:
    escaped = re.sub(r'([\\",+])', r"\\\1", text)
    if escaped.endswith(" "):
        escaped = escaped[:-1] + "\\ "
    return "\\" + escaped if escaped.startswith(" ") else escaped


def _oid(name: str) -> str:
    if "." not in name:
        oid = _OID_OF.get(name.lower())
        if oid is None:
            known = ", ".join(dict.fromkeys(known for known, _ in _TYPES))
            raise BadName(f"{name!r} is no attribute type; known are {known}, and numbers such as 2.5.4.3")
        return oid
    arcs = [int(arc) for arc in name.split(".")]
    if len(name) > 64 or arcs[0] > 2 or (arcs[0] < 2 and arcs[1] > 39):
        raise BadName(f"{name!r} is no object identifier")
    return ".".join(map(str, arcs))


def _string(oid: str, text: str) -> Value:
    """The value in the string type that strongSwan's and most other tools write."""
    if not text:
        raise BadName(f"{_NAME_OF.get(oid, oid)} has no value")
    if oid in _IA5_TYPES and text.isascii():
        tag = IA5_STRING
    else:
        tag = PRINTABLE_STRING if _PRINTABLE.match(text) else UTF8_STRING
    return Value(oid, tag, text, text.encode())


def _decode_rdn(content: Cursor) -> tuple[Value, ...]:
    values, encodings = [], []
    while content.left:
        pair = der.element(content, der.SEQUENCE)
        oid_octets = der.element(pair, der.OID).rest()
        tag, string = der.any_element(pair)
        pair.expect_end()
        data = string.rest()
        values.append(Value(_decode_oid(oid_octets), tag, _text(tag, data), data))
        encodings.append(der.encode(der.SEQUENCE, der.encode(der.OID, oid_octets) + der.encode(tag, data)))
        if len(values) > MAX_RDNS:
            raise BadName(f"a part of more than {MAX_RDNS} attributes")
    if not values or encodings != sorted(encodings):
        raise BadName("a part of a distinguished name that is empty or not in DER's order")
    return tuple(values)


def _text(tag: int, data: bytes) -> str | None:
    codec = _CODECS.get(tag)
    if codec is None:
        return None
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        raise BadName(f"a string of type {tag} that does not hold what its type says") from None


def _decode_oid(data: bytes) -> str:
    if not data or len(data) > 32 or data[-1] & 0x80:
        raise BadName("an object identifier that is empty, long or cut off")
    arcs, value, fresh = [], 0, True
    for octet in data:
        if fresh and octet == 0x80:
            raise BadName("an object identifier that is not in its shortest form")
        value = value << 7 | octet & 0x7F
        fresh = not octet & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def _encode_oid(oid: str) -> bytes:
    arcs = [int(arc) for arc in oid.split(".")]
    content = bytearray()
    for arc in (40 * arcs[0] + arcs[1], *arcs[2:]):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return der.encode(der.OID, bytes(content))
