"""Fuzz target: a peer that knows the keys and says anything, before and after IKE_AUTH, in both roles."""

from __future__ import annotations

import functools

from cygnet.ike.state import Phase
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.testing import Gateway, corpus, fuzzing
from cygnet.testing.replay import Recording
from cygnet.wire.message import decode_payloads, encode_payloads
from cygnet.wire.numbers import Exchange
from cygnet.wire.payloads import AuthPayload

AUTH_TO_B, AFTER_TO_B, AUTH_TO_A, AFTER_TO_A, ANSWER_TO_A = range(5)
EXCHANGES = (Exchange.IKE_AUTH, Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL, 43)
COMMANDS = ("initiate", "rekey child", "rekey", "terminate child", "terminate")


@functools.cache
def recording() -> Recording:
    return Recording()


@functools.cache
def kept() -> dict[int, Gateway]:
    """Gateways that are still as good as new, by stage."""
    return {}


def one(data: bytes) -> None:
    """First octet: who is attacked, when; second: exchange, or what a has asked; third: first payload."""
    if len(data) < 3:
        return
    stage, second, first, plaintext = data[0] % 5, data[1], data[2], data[3:]
    gateway = kept().pop(stage, None) or fresh(stage)
    sa = next(sa for sa in gateway.endpoint.by_number.values() if isinstance(sa, IkeV2Sa))
    was_authenticated = sa.state.peer is not None
    if stage == ANSWER_TO_A:
        command(gateway, COMMANDS[second % len(COMMANDS)])
    request = sa.request
    response = stage in (AUTH_TO_A, ANSWER_TO_A) and request is not None
    exchange = EXCHANGES[second % len(EXCHANGES)]
    message_id = sa.window.next_in
    if response and request is not None:
        exchange, message_id = request.exchange, request.message_id
    datagram = recording().seal(gateway, exchange, message_id, first, plaintext, response=response)
    recording().deliver(gateway, datagram)
    repr(gateway.events[-3:])
    if gateway.plane.objections:
        raise AssertionError(gateway.plane.objections)
    if not was_authenticated and sa.state.phase is not Phase.CONNECTING and not is_genuine(stage, plaintext):
        if sa.state.peer is not None:
            raise AssertionError("authenticated by a message whose AUTH was not the genuine one")
        if gateway.plane.inbound or gateway.plane.outbound:
            raise AssertionError("a Child SA without authentication")
    alive = sa.unique_id in gateway.endpoint.by_number and not sa.close_at and sa.own is None
    if (
        stage in (AFTER_TO_B, AFTER_TO_A)
        and alive
        and sa.state.phase is Phase.ESTABLISHED
        and sa.state.children
    ):
        gateway.events.clear()
        kept()[stage] = gateway
        return
    finish(gateway)


def fresh(stage: int) -> Gateway:
    if stage in (AUTH_TO_B, AFTER_TO_B):
        return recording().responder(1 if stage == AUTH_TO_B else 2)
    return recording().initiator(1 if stage == AUTH_TO_A else 2)


def command(gateway: Gateway, what: str) -> None:
    if what == "initiate":
        gateway.initiate("peer", "net")
    elif what.startswith("rekey"):
        gateway.rekey("net" if "child" in what else "")
    else:
        gateway.terminate("net" if "child" in what else "")


def is_genuine(stage: int, plaintext: bytes) -> bool:
    """Whether the AUTH payload is untouched: then whatever else it says comes from the true peer."""
    return genuine_auth(stage) in plaintext


@functools.cache
def genuine_auth(stage: int) -> bytes:
    _, _, plaintext = opened(AUTH_TO_B if stage == AUTH_TO_B else AUTH_TO_A)
    payloads = decode_payloads(plaintext[0], plaintext[1:])
    return next(p for p in payloads if isinstance(p, AuthPayload)).data


@functools.cache
def opened(stage: int) -> tuple[int, int, bytes]:
    """(exchange, message id, first payload type and plaintext) of the recorded IKE_AUTH to b or to a."""
    from cygnet.ike.v2.protection import open_sealed
    from cygnet.wire.message import decode
    from cygnet.wire.payloads import EncryptedPayload

    datagram = (recording().from_a if stage == AUTH_TO_B else recording().from_b)[1]
    message = decode(datagram)
    sealed = message.one(EncryptedPayload)
    content = open_sealed(datagram, sealed, recording().suite, recording().keys, stage == AUTH_TO_B)
    return message.header.exchange, message.header.message_id, bytes((sealed.first_inner,)) + content


def finish(gateway: Gateway) -> None:
    """Whatever was left half done ends, and nothing remains."""
    gateway.network.run_for(200.0)
    for view in gateway.sas():
        gateway.endpoint.terminate(view.unique_id, 0, True, gateway.network.now)
    gateway.handle_timeout()
    gateway.network.run_for(30.0)
    endpoint = gateway.endpoint
    left = len(endpoint.by_number), len(endpoint.by_pair), len(endpoint._child_spis), len(endpoint.by_spi)
    if any(left) or gateway.plane.inbound or gateway.plane.outbound:
        raise AssertionError(f"left over: {left}, {gateway.plane.inbound}")


def seeds() -> list[bytes]:
    found = []
    for stage in (AUTH_TO_B, AUTH_TO_A):
        _, _, plaintext = opened(stage)
        found.append(bytes((stage, 0)) + plaintext)
    for stage in range(5):
        for exchange, _, payloads in corpus.INNER.values():
            first, octets = encode_payloads(payloads)
            second = EXCHANGES.index(exchange) if exchange in EXCHANGES else 0
            found.append(bytes((stage, second, first)) + octets)
    return found


if __name__ == "__main__":
    fuzzing.run(one, seeds())
