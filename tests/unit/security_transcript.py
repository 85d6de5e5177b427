"""What a gateway answers and drops in a hostile hour, as one digest: the same in every process.

Run as a program it prints the digest, so that a test can compare `python -O` and another hash seed with what
it sees itself.
"""

from __future__ import annotations

import hashlib
import random
import sys

from cygnet.testing import corpus
from cygnet.testing.mutate import mutate
from cygnet.wire.numbers import Flags
from tests.unit.security_by_hand import OPEN_DOOR, Talk, Watched, seal_raw, with_fixed_length


def transcript(rounds: int = 250) -> str:
    """Both roles; strangers' messages and sealed ones, valid and mutated; before and after authentication."""
    digest = hashlib.sha256()
    chance = random.Random(11)
    datagrams = sorted(corpus.clear_messages().values())
    chains = sorted(corpus.plaintexts().values())
    for we_answer in (True, False):
        moon = Watched(options=OPEN_DOOR, loud=True)
        talk = Talk(we_answer, moon)
        for number in range(rounds):
            wild = mutate(chance.choice(datagrams), chance, datagrams)
            moon.receive(with_fixed_length(wild.ljust(28)) if number % 2 else wild)
            exchange, flags, first, octets = chance.choice(chains)
            octets = mutate(octets, chance, [chain[3] for chain in chains]) if number % 3 else octets
            response = bool(flags & Flags.RESPONSE)
            moon.receive(
                seal_raw(talk.sun, first, octets, exchange, chance.choice((0, 1, 2)), response=response)
            )
            if number % 20 == 19:
                talk.close()
                talk = Talk(
                    we_answer, moon, spi=(number << 16).to_bytes(8, "big"), nonce=chance.randbytes(32)
                )
                if number % 40 == 39:
                    talk.authenticate()
        moon.wait(700)
        for part in (moon.sent, [line.encode() for line in moon.lines], [d.encode() for d in moon.drops]):
            for one in part:
                digest.update(len(one).to_bytes(4, "big") + one)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(transcript() + "\n")
