"""Mode config: addresses and news of the network, by pull or by push (draft-dukes-ike-mode-cfg-02).

    pull, by the client:   ATTR(REQUEST, IP4_ADDRESS="")          -->
                                                      <--  ATTR(REPLY, IP4_ADDRESS="10.3.0.1", ...)
    push, by the gateway:  ATTR(SET, IP4_ADDRESS="10.3.0.1", ...) -->
                                                      <--  ATTR(ACK, IP4_ADDRESS="", ...)

Cisco's Unity attributes (banner, saving of passwords, default domain, split networks and DNS) go to those
who announce Unity, and are taken from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.ike import configuration_attributes as common
from cygnet.ike.changes import Unlend
from cygnet.ike.configuration import Connection, Unique
from cygnet.ike.effects import Installed, InstallFailed
from cygnet.ike.errors import IkeError, LocalMisuse, PeerIncompatible, Reason
from cygnet.ike.remote_access import Given, Lease, NetworkSettings
from cygnet.ike.state import SaState
from cygnet.ike.steps import Context, Steps, apply, complain, lease, use_given
from cygnet.ike.v1 import transaction
from cygnet.ike.v1.protection import isakmp_of
from cygnet.policy.selectors import IpAddress, TrafficSelector, prefixes
from cygnet.records import replace
from cygnet.wire.payloads import ConfigAttribute
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.numbers import CfgAttribute, CfgType
from cygnet.wire.v1.payloads import Attribute, AttributesPayload

MAX_BANNER: Final = 4096
"""Octets of a banner that are kept."""
_UNITY_NETWORK: Final = 14
"""Octets of a split network: address, mask, and six of protocol and ports that nobody uses."""
_TEXTS: Final = (
    CfgAttribute.UNITY_BANNER,
    CfgAttribute.UNITY_DEF_DOMAIN,
    CfgAttribute.UNITY_SPLITDNS_NAME,
)

ANY: Final = (IPv4Address(0), IPv6Address(0))

Attributes = tuple[Attribute, ...]


# -- client -------------------------------------------------------------------------------------


def obtain(context: Context, connection: Connection) -> Steps[None]:
    """Get our addresses, as `pull` says, and have them in place. Raises `IkeError` if we get none."""
    asked = context.addresses_wanted()
    if not asked:
        return
    if connection.pull:
        attributes = yield from transaction.exchange(
            context, CfgType.REQUEST, transaction.identifier(context), _request(context.state, asked)
        )
    else:
        pushed = yield from transaction.heard(context, "the mode config that it is to push")
        if pushed.cfg_type != CfgType.SET:
            raise PeerIncompatible(
                Reason.ADDRESS_REFUSED, "the peer asks us for addresses, where it was to give us some"
            )
        attributes = pushed.attributes
        ours = {common.ADDRESS[one.version] for one in given_by(attributes, asked).addresses}
        unwanted = set(common.ADDRESS.values()) - ours
        taken = [Attribute(one.type, b"") for one in attributes if one.type not in unwanted]
        yield from transaction.reply(context, pushed, tuple(taken))
    given = given_by(attributes, asked)
    if not given.addresses:
        raise PeerIncompatible(
            Reason.ADDRESS_REFUSED, "the peer gives us none of the addresses that we ask for"
        )
    result = yield from use_given(given)
    if not isinstance(result, Installed):
        detail = result.error if isinstance(result, InstallFailed) else "the data plane does not answer"
        raise LocalMisuse(Reason.INSTALL_FAILED, f"the addresses could not be configured: {detail}")


def _request(state: SaState, asked: Iterable[IpAddress]) -> Attributes:
    wanted = [Attribute(one.type, one.value) for one in common.request(asked)]
    if speaks_unity(state):
        kinds = (
            CfgAttribute.UNITY_BANNER, CfgAttribute.UNITY_SAVE_PASSWD, CfgAttribute.UNITY_DEF_DOMAIN,
            CfgAttribute.UNITY_SPLITDNS_NAME, CfgAttribute.UNITY_SPLIT_INCLUDE, CfgAttribute.UNITY_LOCAL_LAN,
        )  # fmt: skip
        wanted += [Attribute(kind, b"") for kind in kinds]
    return tuple(wanted)


def given_by(attributes: Iterable[Attribute], asked: Iterable[IpAddress]) -> Given:
    """What a REPLY or a SET gives us."""
    sent = _in_octets(attributes)
    settings = common.settings(sent)
    texts = {one.type: one.value[:MAX_BANNER] for one in sent if one.type in _TEXTS}
    names = b",".join(
        (texts.get(CfgAttribute.UNITY_DEF_DOMAIN, b""), texts.get(CfgAttribute.UNITY_SPLITDNS_NAME, b""))
    )
    included = _networks(sent, CfgAttribute.UNITY_SPLIT_INCLUDE)
    return Given(
        common.addresses(sent, asked),
        replace(
            settings,
            subnets=tuple(dict.fromkeys((*settings.subnets, *included)))[: common.MAX_SUBNETS],
            excluded=tuple(_networks(sent, CfgAttribute.UNITY_LOCAL_LAN)),
            domains=common.domains([name.strip() for name in names.replace(b" ", b",").split(b",")]),
            banner=_printable(texts.get(CfgAttribute.UNITY_BANNER, b"")),
            save_password=any(
                one.type == CfgAttribute.UNITY_SAVE_PASSWD and one.value[-1:] == b"\1" for one in sent
            ),
        ),
    )


def _networks(attributes: Iterable[ConfigAttribute], kind: int) -> list[TrafficSelector]:
    """Split networks: several may stand in one attribute."""
    pieces = [
        ConfigAttribute(CfgAttribute.INTERNAL_IP4_SUBNET, one.value[at : at + 8])
        for one in attributes
        if one.type == kind
        for at in range(0, len(one.value) - 7, _UNITY_NETWORK)
    ]
    return list(common.settings(pieces).subnets)


def _printable(text: bytes) -> str:
    """A banner may have lines; control characters of any other kind are no text."""
    lines = text.decode("utf-8", "replace").splitlines()
    return "\n".join("".join(one if one.isprintable() else " " for one in line) for line in lines).strip()


# -- gateway ------------------------------------------------------------------------------------


def push(
    context: Context, connection: Connection, local_id: Identity, peer: AuthenticatedPeer, *, alone: bool
) -> Steps[None]:
    """Give the peer an address of each family that the pools have, unasked."""
    # Who authenticates anew keeps what it has: its Child SAs use it.
    held = context.leases_of(local_id, peer.user, connection.name)
    had = {one.address.version: one.address for one in held}
    wanted = tuple([had.get(one.version, one) for one in ANY])
    leased = yield from lease(context, connection, local_id, peer, wanted, alone=alone)
    if not leased.leases:
        raise PeerIncompatible(
            Reason.ADDRESS_REFUSED, f"there is no address for {peer.user}: {leased.refused}"
        )
    attributes = _told(context.state, leased.leases, leased.settings)
    number = transaction.identifier(context)
    acknowledged = yield from transaction.exchange(context, CfgType.SET, number, attributes)
    # Section 2: what is not named was not accepted. Who names nothing at all has just said that it came.
    accepted = {one.type for one in acknowledged} & set(common.ADDRESS.values())
    unwanted = [one for one in leased.leases if common.ADDRESS[one.address.version] not in accepted]
    if accepted and unwanted:
        yield from apply(Unlend(tuple(unwanted)))


def respond(context: Context, connection: Connection, asked: AttributesPayload) -> Steps[None]:
    """The peer's REQUEST, or a SET that nobody waited for. A REPLY always comes, empty if need be."""
    peer, local_id = context.state.peer, context.state.local_id
    if asked.cfg_type != CfgType.REQUEST or peer is None or local_id is None:
        # Section 2: what is not accepted is not named in the ACK; and we accept nothing unasked.
        yield from transaction.reply(context, asked, ())
        return
    held = context.state.leases
    wanted = common.wanted(_in_octets(asked.attributes))[len(held) :]
    settings, problem = NetworkSettings(), None
    if connection.pools:
        # Two who come at once from one identity are told apart by what is configured, not by who asks last.
        alone = connection.unique is Unique.REPLACE
        leased = yield from lease(context, connection, local_id, peer, wanted, alone=alone)
        settings = leased.settings
        if wanted and not leased.leases:
            problem = f"there is no address for {peer.user}: {leased.refused}"
    yield from transaction.reply(context, asked, _told(context.state, context.state.leases, settings))
    if problem is not None:
        error: IkeError = PeerIncompatible(Reason.ADDRESS_REFUSED, problem)
        yield from complain(error)


def _told(state: SaState, leases: Iterable[Lease], news: NetworkSettings) -> Attributes:
    told = [Attribute(one.type, one.value) for one in common.told(leases, news)]
    if speaks_unity(state):
        told += _unity(news)
    return tuple(told)


def _unity(news: NetworkSettings) -> Iterator[Attribute]:
    if news.banner:
        yield Attribute(CfgAttribute.UNITY_BANNER, news.banner.encode()[:MAX_BANNER])
    if news.save_password:
        yield Attribute(CfgAttribute.UNITY_SAVE_PASSWD, 1)
    if news.domains:
        yield Attribute(CfgAttribute.UNITY_DEF_DOMAIN, news.domains[0].encode())
    if len(news.domains) > 1:
        yield Attribute(CfgAttribute.UNITY_SPLITDNS_NAME, ",".join(news.domains).encode())
    for kind, networks in (
        (CfgAttribute.UNITY_SPLIT_INCLUDE, news.subnets),
        (CfgAttribute.UNITY_LOCAL_LAN, news.excluded),
    ):
        packed = b"".join(
            [_packed(*prefix) for one in networks if one.family == 4 for prefix in prefixes(one)]
        )
        if packed:
            yield Attribute(kind, packed)


def _packed(first: int, length: int) -> bytes:
    mask = (0xFFFFFFFF << 32 - length) & 0xFFFFFFFF
    return first.to_bytes(4, "big") + mask.to_bytes(4, "big") + bytes(6)


# -- both ---------------------------------------------------------------------------------------


def speaks_unity(state: SaState) -> bool:
    return any(one.startswith(vendor_ids.UNITY[:14]) for one in isakmp_of(state).vendor_ids)


def _in_octets(attributes: Iterable[Attribute]) -> tuple[ConfigAttribute, ...]:
    """Whatever form they came in."""
    return tuple(
        [
            ConfigAttribute(
                one.type, one.value if isinstance(one.value, bytes) else one.value.to_bytes(2, "big")
            )
            for one in attributes
        ]
    )
