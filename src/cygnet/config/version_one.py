"""What a connection asks for and IKEv1 cannot say, and what is dangerous in it: judged when it is loaded.

`version = 1`: what cannot be said is an error, never narrowed silently. `version = 0`: such a connection is
IKEv2's alone, with a note; proposals are left out one by one as long as something is left. The reasons are
RFC 2409's (one pair of identities, one port each, in a quick mode; no key before the peer's identity in main
mode) and security's (the hash that aggressive mode gives to anybody who asks).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from cygnet.config.problems import Complaints, KeyPath
from cygnet.config.requests import SharedSecret
from cygnet.config.typed import SIGNATURE_HASHES
from cygnet.crypto.proposals import Proposal, default_proposals, keywords_of, legacy_keywords
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth
from cygnet.ike.v1.vocabulary import groups, phase1_fault, phase2_fault, usable
from cygnet.policy.selectors import PORT_MAX, PORT_MIN, AnySelector
from cygnet.policy.spd import Flow
from cygnet.wire.numbers import IdType, KeMethod, Protocol

MIN_AGGRESSIVE_SECRET: Final = 20
"""Octets: below this, a pre-shared key in aggressive mode can be guessed from what is given to anybody."""

_ICMP: Final = (1, 58)
_TWO_ROUNDS: Final = ((AuthClass.PSK, AuthClass.XAUTH), (AuthClass.PUBKEY, AuthClass.XAUTH))

Fault = tuple[KeyPath, str, str]
"""(where, what is wrong, what is allowed)"""


def judge_version(connection: Connection, path: KeyPath, complaints: Complaints) -> Connection:
    """The connection with the versions that it can be had in; complains of what cannot be."""
    _warn_of_legacy(connection, path, complaints)
    kinds = [*(one.method for one in connection.local), *(one.method for one in connection.remote)]
    logs_in = AuthClass.XAUTH in kinds
    if logs_in and connection.version != 1:
        complaints.add((*path, "version"), "xauth stands in a round, and is IKEv1's", "1")
    _refuse_identity_of_login(connection, path, complaints)
    if connection.version == 2:
        return connection
    _note_one_group(connection, path, complaints)
    faults = [
        *_secret_faults(connection, path),
        *_proposal_faults(connection, path),
        *_auth_faults(connection, path),
        *_child_faults(connection, path),
    ]
    if connection.version == 1:
        for place, text, allowed in faults:
            complaints.add(place, text, allowed)
        return connection
    if not faults:
        return connection
    place, text, _ = faults[0]
    complaints.notes.append((place, f"{text}: so this connection is IKEv2's alone (version = 0)"))
    return replace(connection, version=2)


def _refuse_identity_of_login(connection: Connection, path: KeyPath, complaints: Complaints) -> None:
    """A login behind phase 1 has a name and no ID payload: an `id` beside it would hold nobody off. In hybrid
    the round is the only one, and its `id` is phase 1's."""
    for one in connection.remote[1:]:
        if one.method is AuthClass.XAUTH and one.id is not None and str(one.id) != "%any":
            complaints.add(
                (*path, "remote", "id"),
                f"{one.id} stands in a round of xauth, which has no identity payload: it would let in every"
                " user",
                "eap_id (the names that may log in), or groups",
            )


def _note_one_group(connection: Connection, path: KeyPath, complaints: Complaints) -> None:
    """The first message of aggressive mode holds a public value, so it is of one group."""
    known = groups(usable(connection.proposals)) if connection.aggressive else ()
    if len(known) > 1:
        first, *others = map(KeMethod.name_of, known)
        complaints.notes.append(
            (
                (*path, "proposals"),
                f"aggressive mode offers one group, the first: {first};"
                f" {', '.join(others)} can only be answered",
            )
        )


def _warn_of_legacy(connection: Connection, path: KeyPath, complaints: Complaints) -> None:
    named: list[tuple[KeyPath, Sequence[Proposal]]] = [((*path, "proposals"), connection.proposals)]
    for child in connection.children:
        for key, protocol in (("esp_proposals", Protocol.ESP), ("ah_proposals", Protocol.AH)):
            chosen = [p for p in (*child.proposals, *child.around) if p.protocol == protocol]
            named.append(((*path, "children", child.name, key), chosen))
    for place, proposals in named:
        weak = legacy_keywords(proposals)
        if weak:
            complaints.notes.append((place, f"{', '.join(weak)}: too weak for today, for old peers alone"))


# -- what IKEv1 cannot say ----------------------------------------------------------------------


def _secret_faults(connection: Connection, path: KeyPath) -> Iterator[Fault]:
    """A postquantum key that there must be, and that a peer would get around by speaking IKEv1."""
    if connection.ppk_required:
        yield (*path, "ppk_required"), "cannot be kept in IKEv1, which has no postquantum key", "version = 2"


def _proposal_faults(connection: Connection, path: KeyPath) -> Iterator[Fault]:
    place = (*path, "proposals")
    yield from _faults_of(connection, connection.proposals, place)
    for child in connection.children:
        if child.flows:
            key = "esp_proposals"
            yield from _faults_of(connection, child.proposals, (*path, "children", child.name, key))
            if child.around:
                place = (*path, "children", child.name, "ah_proposals")
                yield from _faults_of(connection, child.around, place)


def _faults_of(connection: Connection, proposals: tuple[Proposal, ...], place: KeyPath) -> Iterator[Fault]:
    allowed = "version = 2, or proposals of IKEv1"
    if not usable(proposals):
        yield place, "holds nothing that IKEv1 can say", allowed
    elif connection.version == 1:
        for proposal in proposals:
            if proposal in default_proposals(proposal.protocol):
                continue
            fault = phase2_fault(proposal) if proposal.protocol != 1 else phase1_fault(proposal)
            if fault:
                yield place, f"cannot be said in IKEv1: {keywords_of(proposal)}: {fault}", allowed


def _auth_faults(connection: Connection, path: KeyPath) -> Iterator[Fault]:
    allowed = "psk, pubkey, each alone or with a second round of xauth; xauth alone towards pubkey (hybrid)"
    sides: list[tuple[AuthClass, ...]] = []
    for side, rounds in (("local", connection.local), ("remote", connection.remote)):
        kinds = tuple(one.method for one in rounds)
        sides.append(kinds)
        if AuthClass.EAP in kinds:
            yield (*path, side, "auth"), "is EAP, which is IKEv2's; IKEv1 has xauth", allowed
            return
        if any(one.public_keys for one in rounds):
            yield (*path, side, "pubkeys"), "are IKEv2's", "certs"
            return
        if AuthClass.NULL in kinds:
            yield (*path, side, "auth"), "is null, which is IKEv2's", allowed
            return
        fault = next(filter(None, (signature_fault(one.schemes) for one in rounds)), "")
        if fault:
            yield (*path, side, "auth"), fault, "pubkey, ike:rsa, ike:ecdsa; or version = 2"
            return
        if len(kinds) != 1 and kinds not in _TWO_ROUNDS:
            yield (*path, side), "has rounds that IKEv1 does not know", allowed
            return
    local, remote = sides
    hybrid = (AuthClass.XAUTH,)
    if hybrid in (local, remote):
        if (AuthClass.PUBKEY,) not in (local, remote):
            yield (
                (*path, "remote", "auth"),
                "hybrid authentication needs a certificate on the other side",
                allowed,
            )
    elif local[0] != remote[0]:
        yield (*path, "remote", "auth"), "both sides authenticate alike in IKEv1", f"{local[0]}, as local"
    elif len(local) == 2 and len(remote) == 2:
        yield (*path, "remote", "auth"), "one side logs in, not both", "xauth on one side"


def signature_fault(schemes: Collection[str]) -> str:
    """Why IKEv1 cannot keep to these signatures, or "". There a method names the kind of key; the
    hash that is signed is phase 1's (RFC 2409, section 5.1) or the curve's (RFC 4754)."""
    hashes: dict[str, set[str]] = {}
    for scheme in schemes:
        kind, _, digest = scheme.partition("-")
        hashes.setdefault(kind, set()).add(digest)
    for kind, named in hashes.items():
        if kind not in ("rsa", "rsa/pss", "ecdsa") or (kind == "rsa/pss" and "rsa" not in hashes):
            return f"is IKEv2's: no authentication method of IKEv1 signs with {kind}"
        if not named >= set(SIGNATURE_HASHES):
            return "names a hash, which IKEv1 cannot keep to: the hash that is signed is phase 1's"
    return ""


def _child_faults(connection: Connection, path: KeyPath) -> Iterator[Fault]:
    for child in connection.children:
        if child.manual is None:
            place = (*path, "children", child.name)
            if child.ipcomp:
                yield (
                    (*place, "ipcomp"),
                    "cannot be negotiated: IKEv1 here knows no IPComp",
                    "no, or version = 2",
                )
            if child.tfc_padding:
                yield (
                    (*place, "tfc_padding"),
                    "is used only where the peer agrees to it (RFC 4303, section 2.7), and IKEv1 cannot ask",
                    "0, or version = 2",
                )
        for flow in child.flows:
            fault = quick_mode_fault(flow)
            if fault:
                rule = f"rule {flow.rule} " if flow.rule else ""
                yield (
                    (*path, "children", child.name),
                    f"{rule}cannot be said in a quick mode: {fault}",
                    "one prefix or range on each side, all ports or one; or version = 2",
                )


def quick_mode_fault(flow: Flow) -> str:
    """Why the flow is none that two IDs can say (RFC 2407, section 4.6.2: type, protocol, one port), or
    ""."""
    for selector in (*flow.local, *flow.remote):
        fault = _selector_fault(selector)
        if fault:
            return fault
    if len(flow.local) > 1 or len(flow.remote) > 1:
        return "several selectors in one SA; with `acl`, sa = per-rule makes an SA of each"
    if flow.local and flow.remote and flow.local[0].protocol != flow.remote[0].protocol:
        return "different protocols on both sides"
    return ""


def _selector_fault(selector: AnySelector) -> str:
    ports = selector.port_first, selector.port_last
    if ports == (PORT_MIN, PORT_MAX):
        return ""
    if selector.protocol in _ICMP:
        return "an ICMP type"
    if ports[0] > ports[1]:
        return "ports that are hidden (opaque)"
    # 0 is "any port" in an ID.
    return "" if ports[0] == ports[1] and ports[0] else "a range of ports"


# -- pre-shared keys ----------------------------------------------------------------------------


def judge_secrets(
    connections: Sequence[Connection],
    secrets: Sequence[SharedSecret],
    answers: str,
    complaints: Complaints,
) -> None:
    """What IKEv1 does to pre-shared keys. `answers` is
    `options.i_dont_care_about_security_and_use_aggressive_mode_psk`."""
    keys = [secret for secret in secrets if secret.kind == "ike"]
    for connection in connections:
        if connection.version == 2 or connection.remote[0].method is not AuthClass.PSK:
            continue
        path: KeyPath = ("connections", connection.name)
        if connection.aggressive:
            _judge_aggressive(connection, path, keys, answers, complaints)
        elif not _address_is_known(connection) and all(secret.owners for secret in keys):
            complaints.notes.append(
                (
                    (*path, "remote_addrs"),
                    "main mode finds a pre-shared key by the peer's address, before it says who it is: a peer"
                    " whose address is unknown or changes can only use aggressive mode, a certificate,"
                    " or IKEv2",
                )
            )


def _judge_aggressive(
    connection: Connection,
    path: KeyPath,
    keys: Sequence[SharedSecret],
    answers: str,
    complaints: Complaints,
) -> None:
    place = (*path, "aggressive")
    if answers == "no":
        complaints.notes.append(
            (
                place,
                "with a pre-shared key this connection can be started from here, but is not answered: "
                "options.i_dont_care_about_security_and_use_aggressive_mode_psk",
            )
        )
    else:
        complaints.notes.append(
            (place, "whoever asks gets a hash from which the pre-shared key can be guessed offline")
        )
    for secret in keys:
        if (
            len(secret.secret) < MIN_AGGRESSIVE_SECRET
            and _may_serve(secret, connection)
            and answers != "force"
        ):
            complaints.add(
                ("secrets", secret.id),
                f"has {len(secret.secret)} octets and serves aggressive mode ({connection.name}), "
                "where it can be guessed offline",
                f"{MIN_AGGRESSIVE_SECRET} octets and more (openssl rand -base64 32), or "
                "options.i_dont_care_about_security_and_use_aggressive_mode_psk = force",
            )


def _may_serve(secret: SharedSecret, connection: Connection) -> bool:
    """Whether this key could be the one between the two ends, as far as the configuration shows it."""
    if not secret.owners:
        return True
    ends: list[LocalAuth | RemoteAuth] = [connection.local[0], connection.remote[0]]
    known = [one.id for one in ends if one.id is not None]
    if connection.remote[0].id is None or connection.remote[0].id.has_wildcards:
        return True
    addresses = [r for r in (*connection.local_addrs, *connection.remote_addrs) if r.first == r.last]
    for owner in secret.owners:
        if any(owner.matches(one) or one.matches(owner) for one in known):
            return True
        if owner.type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR) and any(
            owner.data == one.first.packed for one in addresses
        ):
            return True
    return False


def _address_is_known(connection: Connection) -> bool:
    ranges = connection.remote_addrs
    return bool(ranges) and all(one.first == one.last for one in ranges)
