"""From the validated model to what `ike` obeys: `Connection`, `Child`, `Options`, `Gateway`.

What the model cannot see alone is judged here: references to access lists, values that contradict
each other, what starts without a peer to start to. Nothing here reads a file: certificates come
through `Certificates`, which the loader fills from files and the control socket from its messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from cygnet.auth.eap import tls_engine
from cygnet.auth.eap.packet import MUTUAL, EapType, name_of
from cygnet.auth.identity import Identity
from cygnet.auth.revocation import Policy
from cygnet.config import model
from cygnet.config.problems import Complaints, KeyPath
from cygnet.config.typed import EAP_DYNAMIC, AuthChoice, NamedRules
from cygnet.config.version_one import judge_version
from cygnet.crypto import legacy
from cygnet.crypto.proposals import Proposal, default_proposals, has_additional
from cygnet.ike.configuration import (
    AuthClass,
    Child,
    Connection,
    LocalAuth,
    Manual,
    Options,
    RemoteAuth,
    Retransmission,
    SendCert,
    StartAction,
    Unique,
)
from cygnet.ike.manual import manual_key_lengths
from cygnet.policy.access_list import AccessList, BadAccessRule, parse_access_list
from cygnet.policy.expansion import Expansion, TooManyRanges, expand, from_selectors
from cygnet.policy.sa import Mode, TunnelHeader
from cygnet.policy.selectors import AnySelector, DynamicSelector, IpAddress, TrafficSelector
from cygnet.policy.spd import Action
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


class AccessLists:
    """The access lists that names can mean, each read once; the inner ones come before the outer ones.

    `title` is the name that the rules of a list without a name of its own are shown with.
    """

    def __init__(
        self,
        path: KeyPath,
        lists: Mapping[str, NamedRules],
        outer: AccessLists | None = None,
        title: str = "",
    ) -> None:
        self.path = path
        self.lists = lists
        self.outer = outer
        self.title = title
        self._read: dict[str, AccessList | None] = {}
        self._expanded: dict[tuple[str, bool], Expansion | None] = {}

    def names(self) -> list[str]:
        return [*self.lists, *(self.outer.names() if self.outer else ())]

    def rules(self, name: str) -> NamedRules | None:
        """The rules as written, None if there is no such list."""
        if name in self.lists:
            return self.lists[name]
        return self.outer.rules(name) if self.outer else None

    def get(self, name: str, complaints: Complaints) -> AccessList | None:
        """The list, or None, having complained (once)."""
        if name not in self._read:
            rules = self.lists[name]
            self._read[name] = None
            try:
                self._read[name] = parse_access_list(self.title or name, [rule for _, rule in rules])
            except BadAccessRule as first:
                for error in (first, *first.others):
                    place = (*self.path, name, rules[error.entry][0])
                    complaints.add(place, f"cannot be read: {error.key} is {error.found!r}", error.allowed)
        return self._read[name]

    def expansion(self, name: str, per_rule: bool, complaints: Complaints) -> Expansion | None:
        """What the list comes to, or None, having complained (once)."""
        if name not in self.lists and self.outer is not None:
            return self.outer.expansion(name, per_rule, complaints)
        if (name, per_rule) not in self._expanded:
            rules = self.get(name, complaints)
            self._expanded[name, per_rule] = None
            if rules is not None:
                try:
                    expansion = expand(rules, per_rule)
                except TooManyRanges as error:
                    complaints.add((*self.path, name), f"cannot be used: {error}")
                else:
                    complaints.notes.extend(((*self.path, name), note) for note in expansion.notes)
                    self._expanded[name, per_rule] = expansion
        return self._expanded[name, per_rule]


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
        children=tuple(_children(section, path, own_lists, complaints)),
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


# -- children -----------------------------------------------------------------------------------------


def _children(
    section: model.Connection, path: KeyPath, lists: AccessLists, complaints: Complaints
) -> Iterator[Child]:
    ranges, hosts = section.remote_addrs
    startable = bool(hosts) or any(entry.first == entry.last for entry in ranges)
    for name, child in section.children.items():
        here = (*path, "children", name)
        if not startable:
            for key in ("start_action", "close_action", "dpd_action"):
                action = getattr(child, key)
                if action != "none" and child.mode in _PROTECTING:
                    complaints.add(
                        (*here, key),
                        "needs a peer to start to",
                        "none, or one address or host name in remote_addrs",
                    )
        single = [entry for entry in (*ranges, *section.local_addrs[0]) if entry.first == entry.last]
        if child.manual is not None and len(single) < 2:
            complaints.add(
                (*here, "manual"), "needs both ends", "one address in local_addrs and remote_addrs"
            )
        if child.bundle and section.childless == "never" and section.version != 1:
            complaints.add(
                (*here, "bundle"), "is made behind IKE_AUTH, and childless is never", "childless = allow"
            )
        yield _child(name, child, here, lists, complaints, *_interface(section, child, here, complaints))


def _child(
    name: str,
    child: model.Child,
    path: KeyPath,
    lists: AccessLists,
    complaints: Complaints,
    interface: str,
    if_id: int,
) -> Child:
    policy = _policy(name, child, path, lists, complaints)
    life, rand = _limits(child.rekey_time, child.life_time, child.rand_time, "time", path, complaints)
    life_bytes, rand_bytes = _limits(
        child.rekey_bytes, child.life_bytes, child.rand_bytes, "bytes", path, complaints
    )
    life_packets, rand_packets = _limits(
        child.rekey_packets, child.life_packets, child.rand_packets, "packets", path, complaints
    )
    return Child(
        name=name,
        proposals=_proposals(child),
        around=_around(child, path, complaints),
        flows=policy.flows,
        rules=policy.rules,
        rekey_time=child.rekey_time,
        life_time=life,
        rand_time=rand,
        rekey_bytes=child.rekey_bytes,
        life_bytes=int(life_bytes),
        rand_bytes=int(rand_bytes),
        rekey_packets=child.rekey_packets,
        life_packets=int(life_packets),
        rand_packets=int(rand_packets),
        start_action=StartAction(child.start_action),
        close_action=StartAction(child.close_action),
        dpd_action=StartAction(child.dpd_action),
        replay_window=child.replay_window,
        priority=child.priority,
        header=_header(child.copy_dscp, child.copy_ecn, child.copy_df, child.fragment),
        mode=Mode.TRANSPORT if child.mode == "transport" else Mode.TUNNEL,
        ipcomp=child.ipcomp,
        tfc_padding=child.tfc_padding,
        dummy_interval=child.dummy_interval,
        mark=child.set_mark_out,
        hw_offload=child.hw_offload,
        interface=interface,
        if_id=if_id,
        manual=_manual(child, policy, path, complaints),
    )


def _interface(
    section: model.Connection, child: model.Child, path: KeyPath, complaints: Complaints
) -> tuple[str, int]:
    """The route-based child's device and its number; empty and 0 where it is policy-based."""
    numbers = {
        number
        for own, general in ((child.if_id_in, section.if_id_in), (child.if_id_out, section.if_id_out))
        if (number := general if own is None else own) is not None
    }
    if len(numbers) > 1:
        complaints.add((*path, "if_id_out"), "differs from if_id_in", "the same number")
    if_id = max(numbers, default=0)
    return child.interface or section.interface or (f"cygnet{if_id}" if if_id else ""), if_id


def _manual(child: model.Child, policy: Expansion, path: KeyPath, complaints: Complaints) -> Manual | None:
    """SPIs and keys, as long as the one suite wants them."""
    section = child.manual
    if section is None:
        return None
    here = (*path, "manual")
    keyword = "ah_proposals" if child.ah_proposals and not child.esp_proposals else "esp_proposals"
    proposals = child.esp_proposals or child.ah_proposals or ()
    kinds = [t.type for proposal in proposals for t in proposal.transforms]
    if len(proposals) != 1 or len(kinds) != len(set(kinds)):
        complaints.add(
            (*path, keyword), "is a choice, but nobody negotiates here", "one algorithm of each kind"
        )
        return None
    if len(policy.flows) != 1:
        complaints.add(here, "is one SA pair, and this child needs several", "sa = aggregate, or local_ts")
    made = Manual(
        section.spi_in,
        section.spi_out,
        section.encryption_key_in or b"",
        section.integrity_key_in or b"",
        section.encryption_key_out or b"",
        section.integrity_key_out or b"",
        section.replay_window,
    )
    encryption, integrity = manual_key_lengths(proposals[0])
    if encryption < 0:
        complaints.add(
            (*path, keyword), "cannot be keyed by hand: a restart would repeat its IVs (RFC 8221, section 3)",
            "AES-CBC, Camellia-CBC or NULL with integrity; AH with a hash",
        )  # fmt: skip
        return None
    for name, length in (
        ("encryption_key_in", encryption), ("integrity_key_in", integrity),
        ("encryption_key_out", encryption), ("integrity_key_out", integrity),
    ):  # fmt: skip
        if len(getattr(made, name)) != length:
            complaints.add((*here, name), "has another length than the algorithm wants", f"{length} octets")
    return made


def _around(child: model.Child, path: KeyPath, complaints: Complaints) -> tuple[Proposal, ...]:
    """The AH of a bundle."""
    if not child.bundle:
        return ()
    if child.manual is not None:
        complaints.add(
            (*path, "bundle"), "is negotiated, and this child is keyed by hand", "no, or no manual"
        )
    made = child.ah_proposals or default_proposals(Protocol.AH)
    if any(has_additional(proposal) for proposal in made):
        complaints.add(
            (*path, "ah_proposals"), "has further key exchanges: in a bundle those are ESP's", "no ke1_..."
        )
    return made


def _proposals(child: model.Child) -> tuple[Proposal, ...]:
    if child.bundle:
        return child.esp_proposals or default_proposals(Protocol.ESP)
    if child.esp_proposals is None and child.ah_proposals is not None:
        return child.ah_proposals
    return (child.esp_proposals or default_proposals(Protocol.ESP)) + (child.ah_proposals or ())


@lru_cache(maxsize=64)
def _header(dscp: str, ecn: bool, df: str, fragment: str) -> TunnelHeader:
    return TunnelHeader(
        copy_dscp_out=dscp in ("out", "yes"),
        copy_dscp_in=dscp in ("in", "yes"),
        copy_ecn=ecn,
        copy_df=df == "copy",
        set_df=df == "set",
        fragment_before=fragment == "inside",
    )


def _limits(
    rekey: float, life: float | None, rand: float | None, unit: str, path: KeyPath, complaints: Complaints
) -> tuple[float, float]:
    """The hard limit and the random part, by swanctl's defaults."""
    if life is None:
        life = rekey * 11 / 10
    elif rekey and life and life <= rekey:
        complaints.add(
            (*path, f"life_{unit}"), f"is not more than rekey_{unit}", f"more than {rekey:g}, or 0"
        )
    if rand is None:
        rand = min(max(life - rekey, 0), rekey)
    elif rekey and rand >= rekey:
        complaints.add((*path, f"rand_{unit}"), f"is not less than rekey_{unit}", f"less than {rekey:g}")
    return life, rand


_DYNAMIC: tuple[AnySelector, ...] = (DynamicSelector(),)
_PROTECTING = ("tunnel", "transport")
_ACTIONS = {
    "tunnel": Action.PROTECT,
    "transport": Action.PROTECT,
    "pass": Action.BYPASS,
    "drop": Action.DISCARD,
}
_NOTHING = Expansion((), ())


def _policy(
    name: str, child: model.Child, path: KeyPath, lists: AccessLists, complaints: Complaints
) -> Expansion:
    if child.acl is None:
        return _from_selectors(child, path, complaints)
    for key in ("local_ts", "remote_ts"):
        if getattr(child, key) is not None:
            complaints.add(
                (*path, key), "stands beside acl, which says the same", "acl, or local_ts and remote_ts"
            )
    if child.mode not in _PROTECTING:
        complaints.add((*path, "mode"), "goes with local_ts and remote_ts, not with acl", "tunnel, transport")
    place = (*path, "acl")
    per_rule = child.sa == "per-rule"
    if not isinstance(child.acl, str):
        return (
            AccessLists(path, {"acl": child.acl}, title=name).expansion("acl", per_rule, complaints)
            or _NOTHING
        )
    if lists.rules(child.acl) is None:
        known = lists.names()
        complaints.add(
            place, "is no access list", ", ".join(known) if known else "none is defined (section acls)"
        )
        return _NOTHING
    expansion = lists.expansion(child.acl, per_rule, complaints) or _NOTHING
    if expansion is not _NOTHING and not expansion.flows:
        complaints.add(place, "permits nothing, so there is nothing to protect", "a list with a permit rule")
    return expansion


def _from_selectors(child: model.Child, path: KeyPath, complaints: Complaints) -> Expansion:
    expansion = _paired(child.local_ts or _DYNAMIC, child.remote_ts or _DYNAMIC, _ACTIONS[child.mode])
    if not expansion.rules:
        complaints.add(
            (*path, "remote_ts"), "has no address family and protocol in common with local_ts",
            "the same family and protocol on both sides",
        )  # fmt: skip
    return expansion


@lru_cache(maxsize=1024)
def _paired(local: tuple[AnySelector, ...], remote: tuple[AnySelector, ...], action: Action) -> Expansion:
    return from_selectors(local, remote, action)
