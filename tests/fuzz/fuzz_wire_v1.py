"""Fuzz target: IKEv1's datagrams and decrypted bodies through decoder, proposals, lifetimes, vendor IDs."""

from __future__ import annotations

from contextlib import suppress

from cygnet.crypto.proposals import parse_proposals
from cygnet.ike.errors import PeerIncompatible, PeerMisbehaved
from cygnet.ike.v1 import lifetimes, proposals
from cygnet.testing import corpus_v1, fuzzing
from cygnet.testing.mutate import with_fitting_length
from cygnet.wire.cursor import Malformed
from cygnet.wire.numbers import Protocol
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import Message, decode, encode, encode_payloads, opened
from cygnet.wire.v1.numbers import Authentication
from cygnet.wire.v1.payloads import NotifyPayload, SaPayload, VendorIdPayload

IKE = parse_proposals("aes256-sha256-modp2048,3des-md5-modp1024", Protocol.IKE)
ESP = parse_proposals("aes128gcm16-esn-noesn,aes128-sha256-modp2048", Protocol.ESP)


def one(data: bytes) -> None:
    """First octet odd: a datagram, whose length is made right unless bit 1 is set; even: a decrypted body
    (type of its first payload, the chain, padding)."""
    if len(data) < 2:
        return
    selector, octets = data[0], data[1:]
    if selector & 1:
        datagram = octets if selector & 2 else with_fitting_length(octets)
        with suppress(Malformed):
            message = decode(datagram)
            if (
                not message.encrypted
                and encode(message.header, message.payloads, message.padding) != datagram
            ):
                raise AssertionError("decode and encode gave other octets")
            judged(message)
        return
    sealed = Message(corpus_v1.header(32, 1), (), (), b"", octets[1:])
    with suppress(Malformed):
        object.__setattr__(sealed.header, "next_payload", octets[0])
        message = opened(sealed, octets[1:])
        if encode_payloads(message.payloads)[1] + message.padding != octets[1:]:
            raise AssertionError("decode and encode gave other octets")
        if b"".join(message.octets) + message.padding != octets[1:]:
            raise AssertionError("the octets of the payloads are not those received")
        with suppress(Malformed):
            message.hashed()
        judged(message)


def judged(message: Message) -> None:
    repr(message)
    for offer in message.all(SaPayload):
        proposals.describe_phase1(offer)
        proposals.describe_phase2(offer)
        with suppress(PeerIncompatible):
            proposals.select_phase1(offer, IKE, (Authentication.PSK,))
        for group in (0, 14):
            with suppress(PeerIncompatible):
                proposals.select_phase2(offer, ESP, proposals.TUNNELS, group)
        with suppress(PeerMisbehaved):
            proposals.check_phase1_answer(corpus_v1.PHASE1_OFFER, offer)
        with suppress(PeerMisbehaved):
            proposals.check_phase2_answer(corpus_v1.PHASE2_OFFER, offer)
    for notify in message.all(NotifyPayload):
        lifetimes.told(notify, 2)
    for vendor in message.all(VendorIdPayload):
        vendor_ids.name_of(vendor.data)


def seeds() -> list[bytes]:
    return [b"\1" + datagram for datagram in corpus_v1.clear_messages().values()] + [
        bytes((0, first)) + octets for first, octets in corpus_v1.plaintexts().values()
    ]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
