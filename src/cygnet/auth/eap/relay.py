"""EAP that a RADIUS server conducts; we carry its packets (RFC 3579).

    Client           here                    Server
    Response  -->    Access-Request     -->
    Request   <--    Access-Challenge   <--
    ...
    Success   <--    Access-Accept      <--  with the MSK in two attributes (RFC 2548)

What the server says and what EAP says must agree (RFC 3579, section 2.6.3).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cygnet.auth import radius
from cygnet.auth.ask import AskRadius, RadiusAnswer
from cygnet.auth.eap.method import EapFailed, Outcome, printable
from cygnet.auth.eap.packet import MUTUAL, TUNNELS, Code, EapType, Packet, decode
from cygnet.auth.eap.session import MAX_NAME, MAX_ROUNDS, Conversation, Finished, Relay
from cygnet.auth.errors import Kind
from cygnet.auth.radius import Attribute
from cygnet.wire.cursor import Malformed

GROUP_ATTRIBUTES: Final = ("Class", "Filter-Id")
"""Whose text names a group that the user is a member of."""


def session_pairs(
    name: bytes, local: IPv4Address | IPv6Address, remote: IPv4Address | IPv6Address, session: int
) -> tuple[radius.Pair, ...]:
    """Who asks, from where, for which IKE SA; `local` and `remote`: the outer addresses."""
    return (
        (Attribute.USER_NAME, name),
        (Attribute.SERVICE_TYPE, radius.number(radius.FRAMED)),
        radius.address(local),
        (Attribute.NAS_PORT, radius.number(session)),
        (Attribute.NAS_PORT_TYPE, radius.number(radius.VIRTUAL)),
        (Attribute.CALLED_STATION_ID, str(local).encode()),
        (Attribute.CALLING_STATION_ID, str(remote).encode()),
    )


def relay(local: IPv4Address | IPv6Address, remote: IPv4Address | IPv6Address, session: int) -> Relay:
    """`local` and `remote`: the outer addresses; `session`: the number of the IKE SA."""

    def run(name: bytes, response: Packet) -> Conversation:
        pairs = session_pairs(name, local, remote, session)
        octets, server, method = response.encode(), "", 0
        state: tuple[bytes, ...] = ()
        for _ in range(MAX_ROUNDS):
            answer = yield AskRadius(pairs, octets, state, server)
            if not isinstance(answer, RadiusAnswer):
                raise EapFailed("no RADIUS server answers", Kind.EAP_FAILED)
            packet = _judge(answer, name)
            if packet.code == Code.SUCCESS:
                return Finished(answer.eap, name, method, _outcome(answer, method))
            if packet.type not in (EapType.IDENTITY, EapType.NOTIFICATION):
                method = packet.type
            state, server = answer.state, answer.server
            octets = yield answer.eap
            _check_response(octets, packet)
        raise EapFailed("the RADIUS server does not come to an end")

    return run


def _judge(answer: RadiusAnswer, name: bytes) -> Packet:
    if answer.code == radius.ACCESS_REJECT:
        raise EapFailed(f"the RADIUS server refuses {printable(name)}", Kind.EAP_PASSWORD_WRONG)
    try:
        packet = decode(answer.eap)
    except Malformed as error:
        raise EapFailed(f"the RADIUS server's EAP cannot be read: {error}") from None
    if packet.code != radius.session_key_code(answer.code):
        raise EapFailed(f"the RADIUS server says {answer.code}, and EAP code {packet.code}")
    return packet


def _check_response(octets: bytes, request: Packet) -> None:
    try:
        response = decode(octets)
    except Malformed as error:
        raise EapFailed(f"an EAP packet that cannot be read: {error}") from None
    if response.code != Code.RESPONSE or response.identifier != request.identifier:
        raise EapFailed(f"EAP code {response.code}: response {request.identifier} was due")


def groups_of(answer: RadiusAnswer) -> frozenset[str]:
    """The groups that the user is a member of."""
    return frozenset(
        [value.decode("utf-8", "replace") for kind, value in answer.attributes if kind in GROUP_ATTRIBUTES]
    )


def _outcome(answer: RadiusAnswer, method: int) -> Outcome:
    # That the server proved itself inside is for the client to see; here it is the method's property.
    mutual = method in MUTUAL
    # Who is meant is the server's to say (RFC 2865, section 5.1): what came outside of a tunnel is a claim.
    named = [value for kind, value in answer.attributes if kind == "User-Name" and 0 < len(value) <= MAX_NAME]
    return Outcome(
        msk=answer.msk,
        mutual=mutual,
        identity=named[0] if named else b"",
        groups=groups_of(answer),
        attributes=answer.attributes,
        claimed=not named and method in TUNNELS,
    )
