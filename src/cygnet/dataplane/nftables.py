"""nftables two ways: the nft program for tables, chains and rules, netlink for the elements of sets.

Elements come by the hundred thousand and change with every policy. Written as text, half of the time is
spent on making and parsing text and another part on starting nft; packed here they go in one netlink
batch, which the kernel takes as a whole or not at all (linux/netfilter/nf_tables.h, nfnetlink.h).
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

NFT_SECONDS = 60.0
ANSWER_SECONDS = 30.0

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 10 << 8
_NEW_ELEMENTS, _DELETE_ELEMENTS = _SUBSYSTEM | 12, _SUBSYSTEM | 14
_BATCH_BEGIN, _BATCH_END, _ERROR = 0x10, 0x11, 2
_REQUEST, _ACK, _CREATE = 1, 4, 0x400
_INET = 1
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_NESTED = 0x8000
_LIST_ELEMENT, _KEY, _KEY_END, _VALUE = _NESTED | 1, _NESTED | 1, _NESTED | 10, 1
_HEADER = struct.Struct("=IHHII")
_FAMILY_HEADER = struct.Struct(">BBH")
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SEND_BUFFER, _RECEIVE_BUFFER = 64 << 20, 4 << 20
MAX_LIST = 60_000
"""Octets of elements in one message: the length of an attribute is 16 bits."""


class KernelError(Exception):
    """What the kernel or a tool refused, in one sentence."""


def nft(text: str) -> None:
    """Run nft on a script: all of it or nothing. Raises KernelError."""
    _run_nft(["-f", "-"], text)


def set_names(table: str) -> list[str]:
    """Names of the sets in an inet table; none if it is not there. Raises KernelError."""
    return _names("set", table)


def chain_names(table: str) -> list[str]:
    """Names of the chains in an inet table; none if it is not there. Raises KernelError."""
    return _names("chain", table)


def listing(table: str) -> str:
    """An inet table as nft writes it, without the elements of sets and what counters count; "" if it is not
    there. Raises KernelError."""
    # Asked for one table, nft reads every element before it leaves them out.
    lines = _run_nft(["--stateless", "--terse", "list", "ruleset", "inet"]).splitlines(keepends=True)
    head = f"table inet {table} {{\n"
    if head not in lines:
        return ""
    start = lines.index(head)
    return "".join(lines[start : lines.index("}\n", start) + 1])


def _names(kind: str, table: str) -> list[str]:
    listed = listing(table)
    words = [line.split() for line in listed.splitlines()]
    return [word[1] for word in words if len(word) == 3 and word[0] == kind]


def _run_nft(arguments: Sequence[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, text=True, capture_output=True, timeout=NFT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise KernelError("nft is missing: install nftables, without which nothing fails closed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"nft could not be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise KernelError(f"nftables refused the guard: {said[0] if said else 'no reason given'}")
    return done.stdout


Element = tuple[bytes, bytes]
"""The first and the last key: the fields of a concatenation, each padded to 4 octets. The last is empty in
sets without ranges."""


def change_elements(
    table: str,
    removed: Iterable[tuple[str, Iterable[Element]]],
    added: Iterable[tuple[str, Iterable[Element]]],
) -> None:
    """Elements of sets, in one transaction: (set, elements) each. Raises OSError; what then
    stands in the sets is what stood there before."""
    messages = [
        *_element_messages(table, _DELETE_ELEMENTS, 0, removed),
        *_element_messages(table, _NEW_ELEMENTS, _CREATE, added),
    ]
    if not messages:
        return
    batch = [_message(_BATCH_BEGIN, _REQUEST, 1, _FAMILY_HEADER.pack(0, 0, _SUBSYSTEM >> 8))]
    for number, (kind, flags, body) in enumerate(messages, 2):
        last = _ACK if number == len(messages) + 1 else 0
        batch.append(_message(kind, flags | _REQUEST | last, number, body))
    batch.append(
        _message(_BATCH_END, _REQUEST, len(messages) + 2, _FAMILY_HEADER.pack(0, 0, _SUBSYSTEM >> 8))
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        sock.settimeout(ANSWER_SECONDS)
        sock.bind((0, 0))
        sock.send(b"".join(batch))
        _await(sock, len(messages) + 1)


def _await(sock: socket.socket, last: int) -> None:
    """Until the last message is answered; a refusal of the batch's head is all that comes then."""
    refusal = 0
    while True:
        data = sock.recv(1 << 16)
        at = 0
        while at + _HEADER.size + 4 <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                refusal = refusal or code
                if sequence == last or (code and sequence == 1):
                    if refusal:
                        raise OSError(refusal, os.strerror(refusal))
                    return
            at += max(length + 3 & ~3, _HEADER.size)


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _element_messages(
    table: str, kind: int, flags: int, changes: Iterable[tuple[str, Iterable[Element]]]
) -> Iterator[tuple[int, int, bytes]]:
    for name, given in changes:
        elements = list(given)
        if not elements:
            continue
        head = _FAMILY_HEADER.pack(_INET, 0, 0) + _text(_TABLE, table) + _text(_SET, name)
        before, between = _around(*elements[0])
        many = MAX_LIST // (len(before) + len(between) + 2 * len(elements[0][0]))
        for start in range(0, len(elements), many):
            packed = [before + first + between + last for first, last in elements[start : start + many]]
            yield kind, flags, head + _attribute(_NESTED | _ELEMENTS, b"".join(packed))


def _around(first: bytes, last: bytes) -> tuple[bytes, bytes]:
    """What stands before each key: NFTA_LIST_ELEM { KEY { value }, KEY_END { value } }, all of one length."""
    value, key = 4 + len(first), 8 + len(first)
    attributes = struct.Struct("=HHHH")
    between = attributes.pack(key, _KEY_END, value, _VALUE) if last else b""
    whole = 4 + key + (key if last else 0)
    return struct.pack("=HH", whole, _LIST_ELEMENT) + attributes.pack(key, _KEY, value, _VALUE), between


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
