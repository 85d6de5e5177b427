"""From a child's section to what `ike` obeys: policy, proposals, limits, keys set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from cygnet.config import model
from cygnet.config.lists import AccessLists
from cygnet.config.problems import Complaints, KeyPath
from cygnet.crypto.proposals import Proposal, default_proposals, has_additional
from cygnet.ike.configuration import (
    Child,
    Manual,
    StartAction,
)
from cygnet.ike.manual import manual_key_lengths
from cygnet.policy.expansion import Expansion, from_selectors
from cygnet.policy.sa import Mode, TunnelHeader
from cygnet.policy.selectors import AnySelector, DynamicSelector
from cygnet.policy.spd import Action
from cygnet.wire.numbers import Protocol


def children(
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
