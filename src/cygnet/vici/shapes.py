"""Live SAs, connections and events as the dictionaries that swanctl and its kin read (vici README.md).

Pure functions from `ike`'s views to messages; nothing is kept, nothing is looked up. Times are given as
seconds since or until `now` (monotonic). A key that does not apply is left out, as strongSwan does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cygnet.auth.certificate import key_id_of, parse
from cygnet.auth.eap.packet import name_of
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity
from cygnet.auth.revocation import Policy
from cygnet.config.requests import format_range
from cygnet.crypto.proposals import keywords_of
from cygnet.ike import events
from cygnet.ike.configuration import AuthClass, Child, Connection, LocalAuth, RemoteAuth
from cygnet.ike.errors import Failure
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.ike.world import Path
from cygnet.policy.sa import Mode, SaProtocol
from cygnet.policy.selectors import format_selector
from cygnet.policy.spd import Action
from cygnet.wire.numbers import Encr, Integ, KeMethod, Prf
from cygnet.wire.v1 import vendor_ids

Shape = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the data plane counted for one pair. `use_*`: seconds since the last packet, negative: never.

    `drops`: packets that were dropped, by reason.
    """

    bytes_in: int = 0
    packets_in: int = 0
    use_in: float = -1.0
    bytes_out: int = 0
    packets_out: int = 0
    use_out: float = -1.0
    drops: Mapping[str, int] = field(default_factory=dict)


NO_TRAFFIC: Mapping[int, Traffic] = {}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _algorithms(encryption: int, key_bits: int, integrity: int, key_exchange: int) -> Shape:
    shape: Shape = {}
    if encryption:
        shape["encr-alg"] = Encr.name_of(encryption)
    if key_bits:
        shape["encr-keysize"] = str(key_bits)
    if integrity:
        shape["integ-alg"] = Integ.name_of(integrity)
    if key_exchange:
        shape["dh-group"] = KeMethod.name_of(key_exchange)
    return shape


def _additional(methods: Sequence[int]) -> Shape:
    """`ke1`, `ke2` ...: the further key exchanges, as strongSwan 6 shows them."""
    return {f"ke{number}": KeMethod.name_of(method) for number, method in enumerate(methods, 1)}


def _until(moment: float, now: float) -> str:
    return str(max(0, round(moment - now)))


# -- SAs ----------------------------------------------------------------------------------------------


def ike_sa(sa: IkeSaView, now: float) -> Shape:
    """An IKE SA without its children: what stands under its name in list-sa and ike-updown."""
    shape: Shape = {"uniqueid": str(sa.unique_id), "version": str(sa.version), "state": sa.state}
    shape.update(_ends(sa.path, sa.local_id, sa.remote_id))
    if sa.remote_eap_id is not None:
        # strongSwan's names: what EAP authenticates in IKEv2 is XAUTH's in IKEv1.
        shape["remote-xauth-id" if sa.version == 1 else "remote-eap-id"] = str(sa.remote_eap_id)
    if sa.initiator:
        shape["initiator"] = "yes"
    shape["initiator-spi"] = f"{sa.initiator_spi:016x}"
    shape["responder-spi"] = f"{sa.responder_spi:016x}"
    for key, present in (
        ("nat-local", sa.nat_local),
        ("nat-remote", sa.nat_remote),
        ("nat-fake", sa.nat_fake),
        ("nat-any", sa.nat_local or sa.nat_remote),
    ):
        if present:
            shape[key] = "yes"
    shape.update(_algorithms(sa.encryption, sa.key_bits, sa.integrity, 0))
    if sa.prf:
        shape["prf-alg"] = Prf.name_of(sa.prf)
    if sa.key_exchange:
        shape["dh-group"] = KeMethod.name_of(sa.key_exchange)
    shape.update(_additional(sa.additional_key_exchanges))
    for key, addresses in (("local-vips", sa.local_vips), ("remote-vips", sa.remote_vips)):
        if addresses:
            shape[key] = [str(address) for address in addresses]
    if sa.remote_vendor_ids:
        known = (vendor_ids.name_of(data) for data in sa.remote_vendor_ids)
        shape["remote-vendor-ids"] = list(dict.fromkeys(name for name in known if name is not None))
    if sa.established:
        shape["established"] = _until(now, sa.established)
        if sa.rekey_at:
            shape["rekey-time"] = _until(sa.rekey_at, now)
    return shape


def _ends(path: Path, local_id: Identity | None, remote_id: Identity | None) -> Shape:
    return {
        "local-host": str(path.local),
        "local-port": str(path.local_port),
        "local-id": "%any" if local_id is None else str(local_id),
        "remote-host": str(path.remote),
        "remote-port": str(path.remote_port),
        "remote-id": "%any" if remote_id is None else str(remote_id),
    }


def child_sa(child: ChildSaView, now: float, traffic: Traffic | None = None) -> Shape:
    """A Child SA: what stands in `child-sas`. Without `traffic` its counters are left out."""
    shape: Shape = {
        "name": child.name,
        "uniqueid": str(child.pair),
        "reqid": str(child.flow),
        "state": child.state,
        "mode": Mode(child.mode).name,
        "protocol": SaProtocol(child.protocol).name,
    }
    if child.rule:
        shape["rule"] = child.rule
    if child.encapsulated:
        shape["encap"] = "yes"
    shape["spi-in"] = f"{child.spi_in:08x}"
    shape["spi-out"] = f"{child.spi_out:08x}"
    shape.update(_algorithms(child.encryption, child.key_bits, child.integrity, child.key_exchange))
    shape.update(_additional(child.additional_key_exchanges))
    if child.esn:
        shape["esn"] = "1"
    if child.around is not None:
        # Cygnet's own: the AH around ESP of a bundle.
        shape["ah-spi-in"] = f"{child.around.spi_in:08x}"
        shape["ah-spi-out"] = f"{child.around.spi_out:08x}"
        shape["ah-integ-alg"] = Integ.name_of(child.around.suite.integrity)
        if child.around.suite.esn:
            shape["ah-esn"] = "1"
    if traffic is not None:
        for side in ("in", "out"):
            shape[f"bytes-{side}"] = str(getattr(traffic, f"bytes_{side}"))
            shape[f"packets-{side}"] = str(getattr(traffic, f"packets_{side}"))
            used = getattr(traffic, f"use_{side}")
            if used >= 0:
                shape[f"use-{side}"] = str(int(used))
        for reason, count in sorted(traffic.drops.items()):
            shape[f"drops-{reason}"] = str(count)  # Cygnet's own
    if child.rekey_at:
        shape["rekey-time"] = _until(child.rekey_at, now)
    if child.expires_at:
        shape["life-time"] = _until(child.expires_at, now)
    if child.installed:
        shape["install-time"] = _until(now, child.installed)
    shape["local-ts"] = [format_selector(selector) for selector in child.local_selectors]
    shape["remote-ts"] = [format_selector(selector) for selector in child.remote_selectors]
    return shape


def list_sa(sa: IkeSaView, now: float, traffic: Mapping[int, Traffic] = NO_TRAFFIC) -> Shape:
    """One `list-sa` event: the IKE SA under its connection's name, with its children. `traffic` by pair."""
    shape = ike_sa(sa, now)
    shape["child-sas"] = {
        child_key(child): child_sa(child, now, traffic.get(child.pair)) for child in sa.children
    }
    return {sa.connection: shape}


def child_key(child: ChildSaView) -> str:
    return f"{child.name}-{child.pair}"


# -- connections and policies -------------------------------------------------------------------------


def list_conn(connection: Connection) -> Shape:
    """One `list-conn` event: a connection as it is configured."""
    remote = [format_range(entry) for entry in connection.remote_addrs]
    if connection.remote_host:
        remote.insert(0, connection.remote_host)
    shape: Shape = {
        "local_addrs": [format_range(entry) for entry in connection.local_addrs] or ["%any"],
        "remote_addrs": remote or ["%any"],
        "local_port": str(connection.local_port),
        "remote_port": str(connection.remote_port),
        "version": {1: "IKEv1", 2: "IKEv2"}.get(connection.version, "IKEv1/2"),
        "reauth_time": str(round(connection.reauth_time)),
        "rekey_time": str(round(connection.rekey_time)),
        "unique": f"UNIQUE_{connection.unique.upper()}",
        "proposals": [keywords_of(proposal) for proposal in connection.proposals],
    }
    if connection.dpd_delay:
        shape["dpd_delay"] = str(round(connection.dpd_delay))
    for number, local in enumerate(connection.local, 1):
        shape[f"local-{number}"] = _local(local)
    for number, peer in enumerate(connection.remote, 1):
        shape[f"remote-{number}"] = _remote(peer)
    shape["children"] = {child.name: conn_child(child) for child in connection.children}
    return {connection.name: shape}


_CLASSES = {
    AuthClass.PSK: "pre-shared key",
    AuthClass.PUBKEY: "public key",
    AuthClass.EAP: "EAP",
    AuthClass.XAUTH: "XAuth",
    AuthClass.NULL: "null",
}


def _local(auth: LocalAuth) -> Shape:
    shape: Shape = {"class": _CLASSES[auth.method]}
    if auth.eap_methods:
        shape["eap-type"] = ", ".join(name_of(kind) for kind in auth.eap_methods)
    named = (("id", auth.id), ("eap_id", auth.eap_id), ("aaa_id", auth.aaa_id), ("xauth_id", auth.xauth_id))
    for key, identity in named:
        if identity is not None:
            shape[key] = str(identity)
    if auth.certificates:
        shape["certs"] = [_subject(der) for der in auth.certificates]
    if auth.public_keys:
        shape["pubkeys"] = [key_id_of(spki).hex() for spki in auth.public_keys]
    return shape


def _remote(auth: RemoteAuth) -> Shape:
    shape: Shape = {"class": _CLASSES[auth.method]}
    if auth.radius:
        shape["eap-type"] = "RADIUS"
    elif auth.eap_methods:
        shape["eap-type"] = ", ".join(name_of(kind) for kind in auth.eap_methods)
    for key, identity in (("id", auth.id), ("eap_id", auth.eap_id)):
        if identity is not None:
            shape[key] = str(identity)
    if auth.groups:
        shape["groups"] = list(auth.groups)
    if auth.certificates:
        shape["certs"] = [_subject(der) for der in auth.certificates]
    if auth.public_keys:
        shape["pubkeys"] = [key_id_of(spki).hex() for spki in auth.public_keys]
    if auth.ca_certificates:
        shape["cacerts"] = [_subject(der) for der in auth.ca_certificates]
    if auth.revocation is not Policy.RELAXED:
        shape["revocation"] = str(auth.revocation)
    return shape


def _subject(der: bytes) -> str:
    try:
        return parse(der).title
    except CredentialError as error:
        return f"({error})"


def child_mode(child: Child) -> str:
    """TUNNEL, TRANSPORT, or for a child without flows PASS or DROP."""
    if child.flows:
        return child.mode.name
    return "DROP" if any(rule.action is Action.DISCARD for rule in child.rules) else "PASS"


def conn_child(child: Child) -> Shape:
    """A child as it is configured: what stands in `children` of list-conn."""
    local, remote = _selectors(child)
    shape: Shape = {
        "mode": child_mode(child),
        "rekey_time": str(round(child.rekey_time)),
        "rekey_bytes": str(child.rekey_bytes),
        "rekey_packets": str(child.rekey_packets),
        "start_action": str(child.start_action),
        "dpd_action": str(child.dpd_action),
        "close_action": str(child.close_action),
        "esp_proposals": [keywords_of(proposal) for proposal in child.proposals],
        "local-ts": local,
        "remote-ts": remote,
    }
    rules = [flow.rule for flow in child.flows if flow.rule]
    if rules:
        shape["rules"] = rules
    return shape


def _selectors(child: Child) -> tuple[list[str], list[str]]:
    """What the child protects, each selector once; for pass and drop what its rules name."""
    sides: tuple[dict[str, None], dict[str, None]] = ({}, {})
    pairs = [(flow.local, flow.remote) for flow in child.flows]
    pairs = pairs or [((rule.local,), (rule.remote,)) for rule in child.rules]
    for pair in pairs:
        for side, selectors in zip(sides, pair, strict=True):
            side.update(dict.fromkeys(format_selector(selector) for selector in selectors))
    return list(sides[0]), list(sides[1])


def list_policy(connection: str, child: Child) -> Shape:
    """One `list-policy` event: a child's policy that is in force (trap, pass or drop)."""
    local, remote = _selectors(child)
    return {
        f"{connection}/{child.name}": {
            "child": child.name,
            "ike": connection,
            "mode": child_mode(child),
            "local-ts": local,
            "remote-ts": remote,
        }
    }


# -- events -------------------------------------------------------------------------------------------


def ike_updown(sa: IkeSaView, up: bool, now: float, failure: Failure | None = None) -> Shape:
    """`ike-updown`; `up` is left out when it went down, as strongSwan does. `failure` says why it went."""
    shape: Shape = {"up": "yes"} if up else {}
    if failure is not None:
        shape.update(_reason(failure))
    shape[sa.connection] = ike_sa(sa, now)
    return shape


def child_updown(
    sa: IkeSaView, child: ChildSaView, up: bool, now: float, traffic: Traffic | None = None,
    failure: Failure | None = None,
) -> Shape:  # fmt: skip
    """`child-updown`; `traffic` is what it carried in the end. One that has just come up carried nothing."""
    shape: Shape = {"up": "yes"} if up else {}
    traffic = Traffic() if up and traffic is None else traffic
    if failure is not None:
        shape.update(_reason(failure))
    body = ike_sa(sa, now)
    body["child-sas"] = {child_key(child): child_sa(child, now, traffic)}
    shape[sa.connection] = body
    return shape


def ike_rekey(old: IkeSaView, new: IkeSaView, now: float) -> Shape:
    """`ike-rekey`: the SA before and after."""
    return {new.connection: {"old": ike_sa(old, now), "new": ike_sa(new, now)}}


def child_rekey(
    sa: IkeSaView, old: ChildSaView, new: ChildSaView, now: float, traffic: Traffic | None = None
) -> Shape:
    """`child-rekey`: the pair before, with what it carried, and after."""
    body = ike_sa(sa, now)
    body["child-sas"] = {new.name: {"old": child_sa(old, now, traffic), "new": child_sa(new, now)}}
    return {sa.connection: body}


def _reason(failure: Failure) -> Shape:
    shape: Shape = {"reason": str(failure.reason), "detail": failure.detail}
    if failure.difference is not None:
        shape["ours"] = failure.difference.ours
        shape["theirs"] = failure.difference.theirs
        shape["first"] = failure.difference.first
    return shape


def failure(failure: Failure) -> Shape:
    """Why something failed: `reason` (a stable code), `detail`, and the offers `ours`, `theirs`, `first`."""
    return _reason(failure)


def certificate_expires(event: events.CertificateExpires) -> Shape:
    """`certificate-expires`: what ends, when (Unix seconds), and how soon that is, for people."""
    return {
        "subject": event.title,
        "not-after": str(int(event.ends)),
        "flag": "CA" if event.ca else "NONE",
        "text": event.text,
    }


def ike_failure(event: events.NegotiationFailed, wall: float) -> Shape:
    """`ike-failure`: a negotiation that did not come about. `wall` is when, in Unix seconds."""
    shape: Shape = {
        "ike": event.connection,
        "initiator": _yes(event.initiator),
        "peer": event.peer,
        "time": f"{wall:.3f}",
    }
    if event.child:
        shape["child"] = event.child
    if event.ike_sa:
        shape["ikesa-uniqueid"] = str(event.ike_sa)
    if event.path is not None:
        shape.update(hosts(event.path))
    shape.update(_reason(event.failure))
    return shape


def ike_drop(event: events.Dropped, wall: float) -> Shape:
    """`ike-drop`: a datagram that was dropped in silence, and why."""
    shape: Shape = {"drop": str(event.drop), "detail": event.detail, "time": f"{wall:.3f}"}
    if event.ike_sa:
        shape["ikesa-uniqueid"] = str(event.ike_sa)
    shape.update(hosts(event.path))
    return shape


def hosts(path: Path) -> Shape:
    return {
        "local-host": str(path.local),
        "local-port": str(path.local_port),
        "remote-host": str(path.remote),
        "remote-port": str(path.remote_port),
    }


def log(group: str, level: int, message: str, connection: str = "", unique_id: int = 0) -> Shape:
    """`log` and `control-log`: a line of the log. `group` is strongSwan's: IKE, CFG, NET, CHD ..."""
    shape: Shape = {"group": group, "level": str(level), "thread": "1"}
    if connection:
        shape["ikesa-name"] = connection
    if unique_id:
        shape["ikesa-uniqueid"] = str(unique_id)
    shape["msg"] = message
    return shape
