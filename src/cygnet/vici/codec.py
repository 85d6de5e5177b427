"""VICI's octets: packets and messages (strongSwan, src/libcharon/plugins/vici/README.md).

    packet  := length:u32 · type:u8 · [name_length:u8 · name] · message
    message := element*
    element := KEY_VALUE name value | SECTION_START name message SECTION_END | LIST_START name item* LIST_END

A decoded message is a dictionary: sections are dictionaries, lists are lists of octets, values octets.
Encoding also takes text and integers. Everything is bounded; what does not parse is `Malformed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from cygnet.wire.cursor import Cursor, Malformed

MAX_PACKET = 512 * 1024
"""Octets of a packet after its length, as strongSwan has it."""
MAX_DEPTH = 16
"""Sections within sections; strongSwan's messages have four."""
MAX_ELEMENTS = 65536
MAX_NAME = 255
MAX_VALUE = 65535

Message = dict[str, Any]
Outgoing = Mapping[str, Any]


class PacketType(IntEnum):
    CMD_REQUEST = 0
    CMD_RESPONSE = 1
    CMD_UNKNOWN = 2
    EVENT_REGISTER = 3
    EVENT_UNREGISTER = 4
    EVENT_CONFIRM = 5
    EVENT_UNKNOWN = 6
    EVENT = 7


NAMED = frozenset(
    {PacketType.CMD_REQUEST, PacketType.EVENT_REGISTER, PacketType.EVENT_UNREGISTER, PacketType.EVENT}
)

SECTION_START, SECTION_END, KEY_VALUE, LIST_START, LIST_ITEM, LIST_END = range(1, 7)


class Unencodable(ValueError):
    """A message that VICI cannot carry: a name or a value is too long, or the whole."""


@dataclass(frozen=True, slots=True)
class Packet:
    type: PacketType
    name: str
    message: Message = field(repr=False)
    """It may hold secrets."""


def decode_packet(data: bytes) -> Packet:
    """A packet without its length. Raises `Malformed`."""
    cursor = Cursor(data)
    number = cursor.u8()
    try:
        packet_type = PacketType(number)
    except ValueError:
        raise Malformed(f"packet type {number} is unknown") from None
    name = _name(cursor) if packet_type in NAMED else ""
    return Packet(packet_type, name, decode_message(cursor))


def decode_message(cursor: Cursor) -> Message:
    """All that is left, as a message. A key that comes twice keeps its last value. Raises `Malformed`."""
    root: Message = {}
    open_sections: list[Message] = [root]
    elements = 0
    while cursor.left:
        elements += 1
        if elements > MAX_ELEMENTS:
            raise Malformed(f"more than {MAX_ELEMENTS} elements")
        kind = cursor.u8()
        if kind == KEY_VALUE:
            name = _name(cursor)
            open_sections[-1][name] = cursor.take(cursor.u16())
        elif kind == SECTION_START:
            if len(open_sections) > MAX_DEPTH:
                raise Malformed(f"sections deeper than {MAX_DEPTH}")
            section: Message = {}
            open_sections[-1][_name(cursor)] = section
            open_sections.append(section)
        elif kind == SECTION_END:
            if len(open_sections) == 1:
                raise Malformed("a section ends that has not begun")
            open_sections.pop()
        elif kind == LIST_START:
            name = _name(cursor)
            items = _items(cursor, MAX_ELEMENTS - elements)
            elements += len(items)
            open_sections[-1][name] = items
        else:
            raise Malformed(f"element type {kind} has no place here")
    if len(open_sections) > 1:
        raise Malformed("a section does not end")
    return root


def _items(cursor: Cursor, most: int) -> list[bytes]:
    items: list[bytes] = []
    while (kind := cursor.u8()) == LIST_ITEM:
        if len(items) >= most:
            raise Malformed(f"more than {MAX_ELEMENTS} elements")
        items.append(cursor.take(cursor.u16()))
    if kind != LIST_END:
        raise Malformed(f"element type {kind} stands in a list")
    return items


def _name(cursor: Cursor) -> str:
    raw = cursor.take(cursor.u8())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed("a name is not UTF-8") from None


def encode_packet(packet_type: PacketType, name: str = "", message: Outgoing | None = None) -> bytes:
    """A packet with its length. Raises `Unencodable`."""
    out = bytearray(4)
    out.append(packet_type)
    if packet_type in NAMED:
        out += _encode_name(name)
    if message:
        _encode_section(out, message, 0)
    size = len(out) - 4
    if size > MAX_PACKET:
        raise Unencodable(f"a packet of {size} octets; at most {MAX_PACKET} are possible")
    out[:4] = size.to_bytes(4, "big")
    return bytes(out)


def _encode_section(out: bytearray, section: Outgoing, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Unencodable(f"sections deeper than {MAX_DEPTH}")
    for name, value in section.items():
        if isinstance(value, Mapping):
            out.append(SECTION_START)
            out += _encode_name(name)
            _encode_section(out, value, depth + 1)
            out.append(SECTION_END)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
            out.append(LIST_START)
            out += _encode_name(name)
            for item in value:
                out.append(LIST_ITEM)
                out += _encode_value(item)
            out.append(LIST_END)
        else:
            out.append(KEY_VALUE)
            out += _encode_name(name)
            out += _encode_value(value)


def _encode_name(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > MAX_NAME:
        raise Unencodable(f"a name of {len(raw)} octets; at most {MAX_NAME} are possible")
    return bytes((len(raw),)) + raw


def _encode_value(value: object) -> bytes:
    if isinstance(value, bool):
        raw = b"yes" if value else b"no"
    elif isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
    else:
        raw = str(value).encode()
    if len(raw) > MAX_VALUE:
        raise Unencodable(f"a value of {len(raw)} octets; at most {MAX_VALUE} are possible")
    return len(raw).to_bytes(2, "big") + raw


def texts(message: Mapping[str, Any]) -> Message:
    """A decoded message with its octets as text, for showing; what is no UTF-8 keeps its escapes."""
    return {name: _as_text(value) for name, value in message.items()}


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return texts(value)
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
