"""From the validated model to what `ike` obeys: `Connection`, `Options`, `Gateway`; children are
`build_children`'s.

What the model cannot see alone is judged here: references to access lists, values that contradict
each other, what starts without a peer to start to. Nothing here reads a file: certificates come
through `Certificates`, which the loader fills from files and the control socket from its messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cygnet.auth.eap import tls_engine
from cygnet.auth.eap.packet import MUTUAL, EapType, name_of
from cygnet.auth.identity import Identity
from cygnet.auth.revocation import Policy
from cygnet.config import model
from cygnet.config.build_children import children
from cygnet.config.lists import AccessLists
from cygnet.config.problems import Complaints, KeyPath
from cygnet.config.typed import EAP_DYNAMIC, AuthChoice
from cygnet.config.version_one import judge_version
from cygnet.crypto import legacy
from cygnet.crypto.proposals import default_proposals
from cygnet.ike.configuration import (
    AuthClass,
    Connection,
    LocalAuth,
    Options,
    RemoteAuth,
    Retransmission,
    SendCert,
    Unique,
)
from cygnet.policy.selectors import DynamicSelector, IpAddress, TrafficSelector
from cygnet.records import replace
from cygnet.wire.numbers import Protocol

Round = TypeVar("Round", model.Local, model.Remote)
CertificateReader = Callable[[KeyPath, str, str | bytes], bytes | None]
"""(key path, directory, file name or content) to DER; None if it cannot be had, having said why."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The `options` section: what `ike` needs in `options`, and what the daemon and data plane need."""

    options: Options
    control_socket: str
    control_socket_group: str
    engine: str
    gso: str
    listen: tuple[IpAddress, ...]
    tun: str
    default_discard: bool
    log_level: str
    state_directory: str
    resolver: str


def build_gateway(options: model.Options) -> Gateway:
    return Gateway(
        options=Options(
            retransmission=Retransmission(
                timeout=options.retransmit_timeout,
                base=options.retransmit_base,
                tries=options.retransmit_tries,
                jitter=options.retransmit_jitter,
                limit=options.retransmit_limit,
            ),
            half_open_timeout=options.half_open_timeout,
            # The daemon switches it off where the kernel is the engine.
            encapsulate=True,
            cookie_threshold=options.cookie_threshold,
            cookie_threshold_per_source=options.cookie_threshold_ip,
            block_threshold=options.block_threshold,
            init_limit_half_open=options.init_limit_half_open,
            aggressive_psk=options.i_dont_care_about_security_and_use_aggressive_mode_psk != "no",
            keep_alive=options.keep_alive,
            hash_and_url=options.hash_and_url,
            delete_rekeyed_delay=options.delete_rekeyed_delay,
            fragment_size=options.fragment_size,
            port=options.port,
            port_nat_t=options.port_nat_t,
        ),
        control_socket=options.control_socket,
        control_socket_group=options.control_socket_group,
        engine=options.engine,
        gso=options.gso,
        listen=options.listen,
        tun=options.tun,
        default_discard=options.default_action == "discard",
        log_level=options.log_level,
        state_directory=options.state_directory,
        resolver=options.resolver,
    )


def build_connection(
    name: str,
    section: model.Connection,
    path: KeyPath,
    lists: AccessLists,
    certificates: CertificateReader,
    complaints: Complaints,
) -> Connection | None:
    """The connection, or None, having complained. `path` is where the section stands."""
    before = len(complaints.found)
    own_lists = AccessLists((*path, "acls"), section.acls, lists)
    for list_name in section.acls:
        own_lists.get(list_name, complaints)
    ranges, hosts = section.local_addrs
    if hosts:
        complaints.add(
            (*path, "local_addrs"), "a host name is not supported here yet", "addresses, prefixes, ranges"
        )
    remote_ranges, remote_hosts = section.remote_addrs
    if len(remote_hosts) > 1:
        complaints.add((*path, "remote_addrs"), "several host names are not supported yet", "one host name")
    rekey, over, rand = _ike_lifetime(section, path, complaints)
    connection = Connection(
        name=name,
        proposals=section.proposals or default_proposals(Protocol.IKE),
        local=_local(section.local_rounds, path, certificates, complaints),
        remote=_remote(section.remote_rounds, path, certificates, complaints),
        children=tuple(children(section, path, own_lists, complaints)),
        version=section.version,
        local_addrs=ranges,
        remote_addrs=remote_ranges,
        remote_host=remote_hosts[0] if remote_hosts else "",
        local_port=section.local_port,
        remote_port=section.remote_port,
        encap=_encapsulation(section, path, complaints),
        unique=Unique(section.unique),
        rekey_time=rekey,
        over_time=over,
        rand_time=rand,
        reauth_time=section.reauth_time,
        ocsp=section.ocsp,
        childless=section.childless,
        dpd_delay=section.dpd_delay,
        dpd_on_demand=section.dpd_mode == "on-demand",
        keyingtries=section.keyingtries,
        send_cert=SendCert(section.send_cert),
        send_certreq=section.send_certreq,
        fragmentation=section.fragmentation,
        ppk_id=section.ppk_id,
        ppk_required=section.ppk_required,
        aggressive=section.aggressive,
        vips=section.vips,
        translate=_translated(section, path, complaints),
        pools=section.pools,
        dpd_timeout=section.dpd_timeout or 150.0,
        pull=section.pull,
    )
    _check_alone(connection, path, complaints)
    connection = _with_nobody(connection, path, complaints)
    connection = judge_version(connection, path, complaints)
    return connection if len(complaints.found) == before else None


def _translated(
    section: model.Connection, path: KeyPath, complaints: Complaints
) -> tuple[TrafficSelector, ...]:
    """What is to be translated needs an address to be translated to."""
    if section.translate and not section.vips:
        complaints.add((*path, "translate"), "needs a virtual address to translate to", "vips as well")
    return section.translate


def _encapsulation(section: model.Connection, path: KeyPath, complaints: Complaints) -> bool | None:
    """AH does not go through UDP, and a NAT that is only pretended would keep the peer from it."""
    with_ah = any(child.ah_proposals or child.bundle for child in section.children.values())
    if with_ah and section.encap:
        complaints.add((*path, "encap"), "goes with ESP alone, and a child has AH", "no")
    return False if with_ah else section.encap


def _ike_lifetime(
    section: model.Connection, path: KeyPath, complaints: Complaints
) -> tuple[float, float, float]:
    rekey = section.rekey_time
    over = max(rekey, section.reauth_time) / 10 if section.over_time is None else section.over_time
    if section.rand_time is not None and rekey and section.rand_time >= rekey:
        complaints.add((*path, "rand_time"), "is not less than rekey_time", f"less than {rekey:g}s")
    rand = min(over, rekey) if section.rand_time is None else section.rand_time
    return rekey, over, rand


# -- authentication -----------------------------------------------------------------------------------


MAX_ROUNDS = 4


def in_rounds(rounds: Mapping[str, Round]) -> list[tuple[str, Round]]:
    """The sections in the order in which they are gone through: by `round`, then as written."""
    return sorted(rounds.items(), key=lambda item: item[1].round)


def _local(
    rounds: Mapping[str, model.Local], path: KeyPath, certificates: CertificateReader, complaints: Complaints
) -> tuple[LocalAuth, ...]:
    built = []
    for name, section in in_rounds(rounds):
        here = (*path, name)
        auth = section.auth or AuthChoice("pubkey")
        if section.id is not None and section.id.has_wildcards:
            complaints.add((*here, "id"), "holds a wildcard, but we are one", "an identity")
        if auth.radius:
            complaints.add((*here, "auth"), "is how a peer is authenticated", "eap, eap-mschapv2, ...")
        built.append(
            LocalAuth(
                method=AuthClass(auth.method),
                id=section.id,
                certificates=_certificates(
                    here, "x509", section.certs, "certs", section.certificate_sections, certificates
                ),
                public_keys=_certificates(here, "pubkey", section.pubkeys, "pubkeys", {}, certificates),
                schemes=auth.schemes,
                eap_methods=_methods(auth, (*here, "auth"), complaints),
                eap_inside=auth.inside,
                eap_id=section.eap_id,
                aaa_id=section.aaa_id,
                xauth_id=section.xauth_id,
            )
        )
    return tuple(built[:MAX_ROUNDS]) or (LocalAuth(AuthClass.PUBKEY),)


def _remote(
    rounds: Mapping[str, model.Remote], path: KeyPath, certificates: CertificateReader, complaints: Complaints
) -> tuple[RemoteAuth, ...]:
    built = []
    for number, (name, section) in enumerate(in_rounds(rounds)):
        here = (*path, name)
        auth = section.auth or AuthChoice("pubkey")
        if number == MAX_ROUNDS:
            complaints.add(here, "is a round too many", f"{MAX_ROUNDS} at most")
        eap = auth.method == "eap"
        if eap and not auth.radius and not auth.eap:
            auth = AuthChoice("eap", eap=EAP_DYNAMIC)
        built.append(
            RemoteAuth(
                method=AuthClass(auth.method),
                id=section.id,
                certificates=_certificates(
                    here, "x509", section.certs, "certs", section.certificate_sections, certificates
                ),
                public_keys=_certificates(here, "pubkey", section.pubkeys, "pubkeys", {}, certificates),
                ca_certificates=_certificates(
                    here, "x509ca", section.cacerts, "cacerts", section.ca_certificate_sections, certificates
                ),
                schemes=auth.schemes,
                eap_methods=_methods(auth, (*here, "auth"), complaints),
                radius=auth.radius,
                # EAP does not prove what a peer calls itself in IKE: where nothing is said of users (None is
                # also what `%any` reads as), that name must be theirs.
                eap_id=section.id if eap and "eap_id" not in section.model_fields_set else section.eap_id,
                groups=section.groups,
                xauth=auth.xauth,
                revocation=Policy(section.revocation),
            )
        )
    return tuple(built) or (RemoteAuth(AuthClass.PUBKEY),)


def _methods(auth: AuthChoice, place: KeyPath, complaints: Complaints) -> tuple[int, ...]:
    """EAP's methods that are meant and that what is installed can do."""
    able = tuple(
        kind
        for kind in auth.eap
        if (kind != EapType.MSCHAPV2 or legacy.available()) and (kind not in MUTUAL or tls_engine.available())
    )
    if auth.eap and not able:
        complaints.add(place, tls_engine.MISSING if auth.eap[0] in MUTUAL else legacy.MISSING)
    return able


def _check_alone(connection: Connection, path: KeyPath, complaints: Complaints) -> None:
    """EAP on both sides is EAP alone (RFC 5998): for methods in which the server proves itself."""
    local, remote = connection.local[0], connection.remote[0]
    if local.method is not AuthClass.EAP or remote.method is not AuthClass.EAP:
        return
    for section, methods in (("remote", remote.eap_methods), ("local", local.eap_methods)):
        if methods and MUTUAL.isdisjoint(methods):
            complaints.add(
                (*path, section, "auth"),
                f"{name_of(methods[0])} cannot prove a gateway, and EAP stands on both sides (RFC 5998)",
                "eap-tls, eap-ttls, eap-peap, or pubkey for the gateway",
            )


def _with_nobody(connection: Connection, path: KeyPath, complaints: Complaints) -> Connection:
    """NULL authentication (RFC 7619) is walled off: it stands alone, for nobody in particular, and a peer
    that may come from anywhere gets its own address and no other's."""
    sides: dict[str, tuple[LocalAuth | RemoteAuth, ...]] = {
        "local": connection.local,
        "remote": connection.remote,
    }
    nothing = {side for side, rounds in sides.items() if any(one.method is AuthClass.NULL for one in rounds)}
    for side in sorted(nothing):
        if len(sides[side]) > 1:
            complaints.add((*path, side), "has null among several rounds", "null alone, or without null")
        if any(one.id is not None for one in sides[side]):
            complaints.add((*path, side, "id"), "is not proved by null", "no id")
    other = {one.method for rounds in sides.values() for one in rounds}
    if nothing and AuthClass.EAP in other:
        complaints.add((*path, "remote", "auth"), "is null on one side and EAP on the other", "pubkey, psk")
    if "remote" not in nothing:
        return connection
    if connection.unique is not Unique.NO:
        complaints.add((*path, "unique"), "tells peers apart, and nobodies are not", "nothing")
    anywhere = not any(entry.first == entry.last for entry in connection.remote_addrs)
    for child in connection.children if anywhere and not connection.remote_host else ():
        if any(not isinstance(rule.remote, DynamicSelector) for rule in child.rules):
            complaints.add(
                (*path, "children", child.name, "remote_ts"),
                "gives a peer that proves nothing more than its own address",
                "dynamic, or one address in remote_addrs",
            )
    complaints.notes.append(
        ((*path, "remote", "auth"), "is null: nobody knows who is at the other end, an attacker perhaps")
    )
    remote = replace(connection.remote[0], id=Identity.nobody())
    return replace(connection, remote=(remote, *connection.remote[1:]), unique=Unique.NEVER)


def _certificates(
    path: KeyPath,
    directory: str,
    files: Sequence[str | bytes],
    key: str,
    sections: Mapping[str, model.CertificateFile],
    certificates: CertificateReader,
) -> tuple[bytes, ...]:
    wanted: list[tuple[KeyPath, str | bytes]] = [((*path, key), file) for file in files]
    wanted.extend(((*path, name, "file"), section.file) for name, section in sections.items())
    read = (certificates(place, directory, file) for place, file in wanted)
    return tuple(der for der in read if der is not None)
