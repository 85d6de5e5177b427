"""IKEv2's algorithm numbers in IKEv1's registries, and what IKEv1 cannot say at all.

Configuration, views and the data plane speak IKEv2's numbers. What IKEv1 lacks: combined-mode ciphers, a PRF
of its own and hashes that are none (AES-XCBC, AES-CMAC) in phase 1; ChaCha20 and implicit IVs in phase 2;
additional key exchanges. `version = 1` refuses such a proposal when it is loaded, `version = 0` leaves it out
in IKEv1, with all its alternatives where an additional key exchange is not optional: a peer would get around
that by speaking IKEv1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cygnet.crypto.proposals import ADDITIONAL, PRF_OF_INTEGRITY, Proposal, Transform
from cygnet.crypto.suites import is_aead
from cygnet.wire.numbers import Encr, Integ, KeMethod, TransformType
from cygnet.wire.v1.numbers import AhTransform, Encryption, EspTransform, Hash, IntegrityAlgorithm, Protocol

_ENCR, _INTEG, _PRF = TransformType.ENCR, TransformType.INTEG, TransformType.PRF
_KE, _ESN = TransformType.KE, TransformType.ESN

ENCRYPTION: Final[dict[int, int]] = {
    Encr.AES_CBC: Encryption.AES_CBC,
    Encr.CAMELLIA_CBC: Encryption.CAMELLIA_CBC,
    Encr.TRIPLE_DES_CBC: Encryption.TRIPLE_DES_CBC,
    Encr.DES_CBC: Encryption.DES_CBC,
}
HASH: Final[dict[int, int]] = {
    Integ.HMAC_MD5_96: Hash.MD5,
    Integ.HMAC_SHA1_96: Hash.SHA1,
    Integ.HMAC_SHA2_256_128: Hash.SHA2_256,
    Integ.HMAC_SHA2_384_192: Hash.SHA2_384,
    Integ.HMAC_SHA2_512_256: Hash.SHA2_512,
}
ESP: Final[dict[int, int]] = {
    **{
        number: number
        for number in (
            Encr.DES_CBC, Encr.TRIPLE_DES_CBC, Encr.NULL, Encr.AES_CBC, Encr.AES_CTR, Encr.AES_CCM_8,
            Encr.AES_CCM_12, Encr.AES_CCM_16, Encr.AES_GCM_8, Encr.AES_GCM_12, Encr.AES_GCM_16,
        )
    },
    Encr.CAMELLIA_CBC: EspTransform.CAMELLIA_CBC,
    Encr.NULL_AES_GMAC: EspTransform.NULL_AES_GMAC,
}  # fmt: skip
MAC: Final[dict[int, int]] = {
    Integ.HMAC_MD5_96: IntegrityAlgorithm.HMAC_MD5,
    Integ.HMAC_SHA1_96: IntegrityAlgorithm.HMAC_SHA1,
    Integ.HMAC_SHA2_256_128: IntegrityAlgorithm.HMAC_SHA2_256,
    Integ.HMAC_SHA2_384_192: IntegrityAlgorithm.HMAC_SHA2_384,
    Integ.HMAC_SHA2_512_256: IntegrityAlgorithm.HMAC_SHA2_512,
    Integ.AES_XCBC_96: IntegrityAlgorithm.AES_XCBC_MAC,
    Integ.AES_128_GMAC: IntegrityAlgorithm.AES_128_GMAC,
    Integ.AES_192_GMAC: IntegrityAlgorithm.AES_192_GMAC,
    Integ.AES_256_GMAC: IntegrityAlgorithm.AES_256_GMAC,
}
AH: Final[dict[int, int]] = {
    Integ.HMAC_MD5_96: AhTransform.MD5,
    Integ.HMAC_SHA1_96: AhTransform.SHA,
    Integ.HMAC_SHA2_256_128: AhTransform.SHA2_256,
    Integ.HMAC_SHA2_384_192: AhTransform.SHA2_384,
    Integ.HMAC_SHA2_512_256: AhTransform.SHA2_512,
    Integ.AES_XCBC_96: AhTransform.AES_XCBC_MAC,
    Integ.AES_128_GMAC: AhTransform.AES_128_GMAC,
    Integ.AES_192_GMAC: AhTransform.AES_192_GMAC,
    Integ.AES_256_GMAC: AhTransform.AES_256_GMAC,
}


def phase1_fault(proposal: Proposal) -> str:
    """Why this IKE proposal cannot be said in IKEv1, or ""."""
    for transform in proposal.of_type(_ENCR):
        if is_aead(transform.id):
            return f"{Encr.name_of(transform.id)} is a combined-mode cipher: phase 1 of IKEv1 has none"
        if transform.id not in ENCRYPTION:
            return f"{Encr.name_of(transform.id)} has no number in phase 1 of IKEv1"
    prfs = {transform.id for transform in proposal.of_type(_PRF)}
    for transform in proposal.of_type(_INTEG):
        if transform.id not in HASH:
            return f"{Integ.name_of(transform.id)} is no hash, and phase 1 of IKEv1 has nothing else"
        if PRF_OF_INTEGRITY[transform.id] not in prfs:
            return "in IKEv1 the hash is the PRF as well: leave the PRF out, or name the same"
    if any(t.type not in (_ENCR, _INTEG, _PRF, _KE) for t in proposal.transforms):
        return "IKEv1 has no additional key exchanges"
    return ""


def phase2_fault(proposal: Proposal) -> str:
    """Why this ESP or AH proposal cannot be said in IKEv1, or ""."""
    known = ESP if proposal.protocol == Protocol.ESP else AH
    for transform in proposal.of_type(_ENCR):
        if transform.id not in known:
            return f"{Encr.name_of(transform.id)} has no number in quick mode"
    for transform in proposal.of_type(_INTEG):
        if transform.id not in MAC:
            return f"{Integ.name_of(transform.id)} has no number in quick mode"
    if any(t.type not in (_ENCR, _INTEG, _KE, _ESN) for t in proposal.transforms):
        return "IKEv1 has no additional key exchanges"
    return ""


@lru_cache(maxsize=256)
def usable(proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
    """The proposals without what IKEv1 cannot say, and without those of which nothing is left."""
    kept = (_usable(proposal) for proposal in proposals)
    return tuple(dict.fromkeys(proposal for proposal in kept if proposal is not None))


def _usable(proposal: Proposal) -> Proposal | None:
    fault = phase1_fault if proposal.protocol == Protocol.ISAKMP else phase2_fault
    if not fault(proposal):
        return proposal
    if any(
        proposal.of_type(kind) and Transform(kind, KeMethod.NONE) not in proposal.of_type(kind)
        for kind in ADDITIONAL
    ):
        # Not optional: `none` is not among them.
        return None
    prfs = proposal.of_type(_PRF)
    rest = Proposal(
        proposal.protocol,
        tuple(t for t in proposal.transforms if not fault(Proposal(proposal.protocol, (t, *prfs)))),
    )
    needed = {Protocol.ISAKMP: (_ENCR, _INTEG), Protocol.ESP: (_ENCR,), Protocol.AH: (_INTEG,)}
    if any(not rest.of_type(kind) for kind in needed[proposal.protocol]):
        return None
    if rest.protocol == Protocol.ESP and not rest.of_type(_INTEG):
        # Only combined-mode ciphers do without.
        alone = all(is_aead(t.id) for t in rest.of_type(_ENCR))
        return rest if alone else None
    return rest


def groups(proposals: Sequence[Proposal]) -> tuple[int, ...]:
    """The groups of all proposals in order of preference, each once; 0 stands for none."""
    return tuple(dict.fromkeys(t.id for p in proposals for t in p.of_type(_KE)))


def pfs_group(proposals: Sequence[Proposal], phase1_group: int, replaced: int | None = None) -> int:
    """The one group that a quick mode of ours offers, 0 for none: that of the SA which it replaces, as the
    peer may know no other, else phase 1's, where they are among ours; else our first."""
    wanted = groups(proposals)
    without = any(not proposal.of_type(_KE) for proposal in proposals)
    if replaced is not None and (replaced in wanted or (replaced == KeMethod.NONE and without)):
        return replaced
    return phase1_group if phase1_group in wanted else next(iter(wanted), KeMethod.NONE)
