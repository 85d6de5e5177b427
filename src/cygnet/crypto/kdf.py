"""All key derivation of IKEv2: SKEYSEED and the seven SK_ keys (RFC 7296, 2.14 and 2.18), KEYMAT (2.17)."""

from __future__ import annotations

from dataclasses import field

from cygnet.crypto.prf import Prf
from cygnet.crypto.suites import CipherSuite
from cygnet.records import dataclass


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """The keys of an IKE SA. The `i` keys protect what the original initiator sends, `r` the responder."""

    sk_d: bytes = field(repr=False)
    sk_ai: bytes = field(repr=False)
    sk_ar: bytes = field(repr=False)
    sk_ei: bytes = field(repr=False)
    sk_er: bytes = field(repr=False)
    sk_pi: bytes = field(repr=False)
    sk_pr: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyLengths:
    """Octets of the keys of one SA, salts included; AH has no encryption key."""

    encryption_key_length: int
    integrity_key_length: int


@dataclass(frozen=True, slots=True)
class ChildKeys:
    """The keys of a Child SA pair by direction: `initiator` is who started the exchange that made it."""

    encryption_initiator: bytes = field(repr=False)
    integrity_initiator: bytes = field(repr=False)
    encryption_responder: bytes = field(repr=False)
    integrity_responder: bytes = field(repr=False)


def _seed_key(prf: Prf, ni: bytes, nr: bytes) -> bytes:
    return ni[:8] + nr[:8] if prf.half_nonces else ni + nr


def ike_sa_keys(
    prf: Prf,
    ni: bytes,
    nr: bytes,
    spi_i: bytes,
    spi_r: bytes,
    shared: bytes,
    suite: CipherSuite,
    old_sk_d: bytes | None = None,
    old_prf: Prf | None = None,
    further: bytes = b"",
) -> IkeKeys:
    """The keys of a new IKE SA (RFC 7296, section 2.14).

    `shared` is g^ir, `ni`/`nr` the nonces without headers, `spi_i`/`spi_r` the new SA's, 8 octets each.
    A rekey gives the old SA's SK_d and its PRF, which makes SKEYSEED while the new one expands it
    (section 2.18); `old_prf` None: they are the same. `further`: the secrets of the key exchanges that
    followed it, one after the other (RFC 9370, section 2.2.4).
    """
    if old_sk_d is None:
        skeyseed = prf.compute(_seed_key(prf, ni, nr), shared)
    else:
        skeyseed = (old_prf or prf).compute(old_sk_d, shared + ni + nr + further)
    return _expanded(prf, skeyseed, ni + nr + spi_i + spi_r, suite)


def _expanded(prf: Prf, skeyseed: bytes, seed: bytes, suite: CipherSuite) -> IkeKeys:
    """{SK_d | SK_ai | ... | SK_pr} = prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr)"""
    size, auth, encr = prf.key_length, suite.integrity_key_length, suite.encryption_key_length
    stream = prf.plus(skeyseed, seed, 3 * size + 2 * auth + 2 * encr)
    keys, start = [], 0
    for length in (size, auth, auth, encr, encr, size, size):
        keys.append(stream[start : start + length])
        start += length
    return IkeKeys(*keys)


def further_ike_keys(
    prf: Prf,
    keys: IkeKeys,
    shared: bytes,
    ni: bytes,
    nr: bytes,
    spi_i: bytes,
    spi_r: bytes,
    suite: CipherSuite,
) -> IkeKeys:
    """The keys behind a further key exchange in IKE_INTERMEDIATE, whose secret is `shared`: SKEYSEED(n) =
    prf(SK_d(n-1), SK(n) | Ni | Nr) (RFC 9370, section 2.2.2): the formula of a rekey (section 2.18)."""
    return ike_sa_keys(prf, ni, nr, spi_i, spi_r, shared, suite, keys.sk_d)


def with_ppk(prf: Prf, keys: IkeKeys, ppk: bytes) -> IkeKeys:
    """The keys with a pre-shared key mixed in: SK_d = prf+ (PPK, SK_d'), and SK_pi, SK_pr likewise (RFC 8784,
    section 3). What protects the messages stays."""
    return IkeKeys(
        prf.plus(ppk, keys.sk_d, len(keys.sk_d)),
        keys.sk_ai,
        keys.sk_ar,
        keys.sk_ei,
        keys.sk_er,
        prf.plus(ppk, keys.sk_pi, len(keys.sk_pi)),
        prf.plus(ppk, keys.sk_pr, len(keys.sk_pr)),
    )


def with_ppk_inside(
    prf: Prf, keys: IkeKeys, ppk: bytes, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes, suite: CipherSuite
) -> IkeKeys:
    """All keys anew with a pre-shared key, behind IKE_INTERMEDIATE: SKEYSEED' = prf+ (PPK, SK_d) (RFC 9867,
    section 3.1.1)."""
    skeyseed = prf.plus(ppk, keys.sk_d, len(keys.sk_d))
    return _expanded(prf, skeyseed, ni + nr + spi_i + spi_r, suite)


def child_keymat(
    prf: Prf, sk_d: bytes, ni: bytes, nr: bytes, shared: bytes | None, length: int, further: bytes = b""
) -> bytes:
    """KEYMAT (RFC 7296, section 2.17); `shared` is g^ir of this CREATE_CHILD_SA, None without PFS, `further`
    the secrets of the key exchanges that followed, one after the other (RFC 9370, section 2.2.4)."""
    return prf.plus(sk_d, (shared or b"") + ni + nr + further, length)


def child_keymat_length(suite: CipherSuite | KeyLengths) -> int:
    """How many octets of KEYMAT a pair of SAs of this suite takes."""
    return 2 * (suite.encryption_key_length + suite.integrity_key_length)


def split_child_keymat(suite: CipherSuite | KeyLengths, keymat: bytes) -> ChildKeys:
    """Initiator-to-responder first, encryption before integrity (RFC 7296, section 2.17)."""
    encr, auth = suite.encryption_key_length, suite.integrity_key_length
    half = encr + auth
    return ChildKeys(keymat[:encr], keymat[encr:half], keymat[half : half + encr], keymat[half + encr :])


def child_keys(
    prf: Prf,
    sk_d: bytes,
    ni: bytes,
    nr: bytes,
    shared: bytes | None,
    suite: CipherSuite | KeyLengths,
    further: bytes = b"",
) -> ChildKeys:
    """The keys of a Child SA, derived and split."""
    keymat = child_keymat(prf, sk_d, ni, nr, shared, child_keymat_length(suite), further)
    return split_child_keymat(suite, keymat)
