"""Fuzz target: pieces of an IKEv1 message before there are keys, which anybody may send in any order.

What comes whole is the pieces of one id in their order; what waits stays within bounds.
"""

from __future__ import annotations

from cygnet.ike.v1.protection import MAX_REASSEMBLED, Reassembly
from cygnet.ike.v1.steps import Unproven
from cygnet.testing import fuzzing
from cygnet.wire.v1.payloads import FragmentPayload

HEAD = 4
GROWS = 64
"""Octets of a piece for each that its length says: so that a few reach the bound."""


def one(data: bytes) -> None:
    """Pieces: id, number, flags, length, each an octet."""
    reassembly = Reassembly(0.0)
    first: dict[tuple[int, int], list[bytes]] = {}
    for at in range(0, len(data) - HEAD + 1, HEAD):
        ident, number, flags, length = data[at : at + HEAD]
        number = max(number % 16, 1)
        content = bytes((at // HEAD & 0xFF,)) * ((length + 1) * GROWS)
        first.setdefault((ident, number), []).append(content)
        try:
            whole = reassembly.add(FragmentPayload(ident, number, content, flags & 1))
        except Unproven:
            whole = None
        if reassembly.octets > MAX_REASSEMBLED:
            raise AssertionError("more waits than may")
        if whole is not None:
            rest = whole
            for place in range(1, 17):
                known = first.get((ident, place), [])
                part = next((one for one in known if one and rest.startswith(one)), b"")
                rest = rest[len(part) :]
            if rest:
                raise AssertionError("it holds what no piece of its id held, or out of order")
            reassembly = Reassembly(0.0)
            first.clear()


def seeds() -> list[bytes]:
    orders = ([1, 2, 3, 4], [4, 3, 2, 1], [2, 2, 1, 3, 4])
    found = [b"".join(bytes((7, number, number == 4, 9 + number)) for number in order) for order in orders]
    return [*found, b"".join(bytes((number & 1, number, 0, 255)) for number in range(1, 16))]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
