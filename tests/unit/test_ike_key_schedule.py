"""The key schedule of RFC 9370 and what RFC 9242 adds to AUTH, computed here with nothing but HMAC.

Only the secrets of the key exchanges are taken from the code; nonces and SPIs are read from the wire.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from cygnet.crypto import key_exchange, ml_kem
from cygnet.ike.v2 import fresh_keys, ike_sa_init, mutual, proving, rounds
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.testing import Pair
from cygnet.wire.message import decode
from cygnet.wire.payloads import NoncePayload

HYBRID = 'proposals = ["aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke2_ecp256"]'
CHILD = 'esp_proposals = ["aes256gcm16-x25519-ke1_mlkem1024"]'


def prf(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def prf_plus(key: bytes, seed: bytes, length: int) -> bytes:
    """RFC 7296, section 2.13."""
    block, stream, counter = b"", b"", 1
    while len(stream) < length:
        block = prf(key, block + seed + bytes((counter,)))
        stream, counter = stream + block, counter + 1
    return stream[:length]


def cut(stream: bytes) -> dict[str, bytes]:
    """SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr; with AES-GCM-256 no integrity keys."""
    keys, at = {}, 0
    for name, length in (("d", 32), ("ei", 36), ("er", 36), ("pi", 32), ("pr", 32)):
        keys[name] = stream[at : at + length]
        at += length
    return keys


class Recorded:
    """Secrets of the responder in order, and what AUTH covered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.secrets: list[bytes] = []
        self.publics: list[tuple[bytes, bytes]] = []
        self.signed: list[bytes] = []
        genuine, genuine_octets = key_exchange.respond, proving.octets_of

        def respond(group: int, public: bytes, entropy: Any) -> key_exchange.Response:
            made = genuine(group, public, entropy)
            self.secrets.append(made.shared)
            self.publics.append((public, made.public))
            return made

        def octets_of(*arguments: Any) -> bytes:
            signed = genuine_octets(*arguments)
            self.signed.append(signed)
            return signed

        patch.setattr(ike_sa_init, "respond_to", respond)
        patch.setattr(fresh_keys, "respond", respond)
        for module in (rounds, mutual):
            patch.setattr(module, "octets_of", octets_of)


def nonces(pair: Pair) -> tuple[bytes, bytes, bytes, bytes]:
    """(Ni, Nr, SPIi, SPIr) of the last IKE_SA_INIT, from the wire."""
    request, reply = [
        decode(f.data) for f in pair.network.trace if f.header is not None and f.header.exchange == 34
    ]
    spis = reply.header.initiator_spi, reply.header.responder_spi
    return request.one(NoncePayload).data, reply.one(NoncePayload).data, *spis


def only_sa(pair: Pair, end: int) -> IkeV2Sa:
    (sa,) = pair.both[end].endpoint.by_number.values()
    assert isinstance(sa, IkeV2Sa)
    return sa


def test_the_keys_after_two_further_key_exchanges_are_those_of_rfc_9370(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Recorded(monkeypatch)
    pair = Pair(connection=HYBRID).up()
    ni, nr, spi_i, spi_r = nonces(pair)
    first, *further = recorded.secrets
    assert len(further) == 2
    tail = ni + nr + spi_i + spi_r
    keys = cut(prf_plus(prf(ni + nr, first), tail, 168))
    spoken = {"pi": b"", "pr": b""}
    for number, (secret, (public, answered)) in enumerate(zip(further, recorded.publics[1:], strict=True), 1):
        method = (36, 19)[number - 1]
        for who, flags, data in (("pi", 8, public), ("pr", 32, answered)):
            body = (
                bytes((0, 0))
                + (8 + len(data)).to_bytes(2, "big")
                + method.to_bytes(2, "big")
                + bytes(2)
                + data
            )
            length = 28 + 4 + len(body)
            header = spi_i + spi_r + bytes((46, 0x20, 43, flags)) + number.to_bytes(4, "big")
            header += length.to_bytes(4, "big")
            sealed = bytes((34, 0)) + (4 + len(body)).to_bytes(2, "big")
            spoken[who] = prf(keys[who], spoken[who] + header + sealed + body)
        keys = cut(prf_plus(prf(keys["d"], secret + ni + nr), tail, 168))
    for end in (0, 1):
        state = only_sa(pair, end).state
        assert state.keys is not None
        assert state.keys.sk_d == keys["d"]
        assert (state.keys.sk_ei, state.keys.sk_er) == (keys["ei"], keys["er"])
        assert (state.keys.sk_pi, state.keys.sk_pr) == (keys["pi"], keys["pr"])
    assert len(recorded.signed) >= 4
    for signed in recorded.signed:
        # IKE_AUTH is message 3.
        assert signed.endswith(spoken["pi"] + spoken["pr"] + bytes((0, 0, 0, 3)))


def test_a_rekeyed_child_takes_all_its_secrets_into_keymat(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(connection=HYBRID, settings=CHILD).up()
    state = only_sa(pair, 0).state
    assert state.keys is not None
    recorded = Recorded(monkeypatch)
    seeds: list[tuple[bytes, bytes]] = []
    from cygnet.crypto.prf import Prf

    genuine = Prf.plus

    def plus(self: Prf, key: bytes, seed: bytes, length: int) -> bytes:
        seeds.append((key, seed))
        return genuine(self, key, seed, length)

    monkeypatch.setattr(Prf, "plus", plus)
    pair.a.rekey("net")
    pair.settle(10)
    secret, further = recorded.secrets
    assert len(seeds) == 2
    assert seeds[0] == seeds[1]
    key, seed = seeds[0]
    assert key == state.keys.sk_d
    assert seed.startswith(secret)
    assert seed.endswith(further)
    assert len(seed) == len(secret) + 32 + 32 + len(further)
    (view,) = pair.a.sas()
    assert view.children[0].additional_key_exchanges == (ml_kem.METHODS[1],)
    assert pair.talk(3) == (3, 3)
