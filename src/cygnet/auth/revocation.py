"""Whether a certificate of a trusted chain was revoked, as far as is known, and what to ask for to know it.

    wanted(chain)      what should be fetched now: OCSP first, then CRLs, then deltas of CRLs
    take(wanted, ...)  what came of it; kept only if the certificate's own CA (or its responder) signed it
    check(chain)       raises if a certificate is revoked, or, by the policy, if nobody could be asked

Nothing here waits or connects. Only certificates of a chain that has been validated, of a peer that has
proved to hold its key, are asked about: a stranger's makes this gateway fetch nothing (CVE-2022-40617).
What is kept has bounds in number and octets; what cannot be had is not asked for again at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from cygnet.auth import crl as crls
from cygnet.auth import ocsp
from cygnet.auth.ask import Fetch
from cygnet.auth.certificate import Certificate
from cygnet.auth.crl import MAX_URLS, Crl, day, urls_of
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.crypto.entropy import Entropy

MAX_ANSWERS = 4096
MAX_FETCHED = 64
MAX_FETCHED_OCTETS = 4 * crls.MAX_CRL
MAX_FAILED = 1024
MAX_OWN = 64
MAX_KEPT_OCTETS = 1 << 20
AGAIN = 60.0
"""Seconds after which something that could not be had is asked for again."""
MAX_ROUNDS = 4
"""Fetches one after the other for one chain: OCSP, CRL, delta."""
OCSP_REQUEST = "application/ocsp-request"


class Policy(StrEnum):
    """As swanctl's `remote.revocation`: `strict` wants every certificate's state known; `ifuri` that of those
    which say where to ask; `relaxed` refuses only what is known to be revoked."""

    STRICT = "strict"
    IFURI = "ifuri"
    RELAXED = "relaxed"


class State(StrEnum):
    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`detail` follows the certificate's name in a sentence. `old`: it is held on to beyond its time, and may
    be asked about again."""

    state: State
    detail: str = ""
    old: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Something to fetch about a certificate of a chain, by position. `nonce` is of OCSP only."""

    position: int
    fetch: Fetch
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class Places:
    """Where to ask besides what a certificate says (`authorities`), of the CA with this subject and key."""

    crl_urls: tuple[str, ...] = ()
    ocsp_urls: tuple[str, ...] = ()
    certificate_base: str = ""
    """Where its certificates are, each under its SHA-1 in hex (hash and URL)."""


class Kept:
    """Certificates that were fetched, by their SHA-1; a bounded number of octets, the oldest go first."""

    def __init__(self) -> None:
        self._found: dict[bytes, bytes] = {}
        self._octets = 0

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._found

    def get(self, digest: bytes) -> bytes | None:
        return self._found.get(digest)

    def put(self, digest: bytes, content: bytes) -> None:
        if digest in self._found:
            return
        self._found[digest] = content
        self._octets += len(content)
        while self._octets > MAX_KEPT_OCTETS:
            self._octets -= len(self._found.pop(next(iter(self._found))))

    def clear(self) -> None:
        self._found.clear()
        self._octets = 0


class Revocations:
    """What one gateway knows: lists that were loaded, and what was fetched."""

    def __init__(self) -> None:
        self._loaded: dict[bytes, Crl] = {}
        self._fetched: dict[str, Crl] = {}
        self._answers: dict[tuple[bytes, bytes, int], ocsp.Answer] = {}
        self._failed: dict[tuple[str, int], float] = {}
        self._places: dict[bytes, Places] = {}
        # Of our own certificates: the answers as they came, for peers that ask (RFC 4806).
        self._own: dict[tuple[bytes, bytes, int], tuple[bytes, float]] = {}
        self.kept_certificates = Kept()
        # (list, key of the CA): a list is long, its signature is checked once.
        self._signed: dict[tuple[int, bytes], tuple[Crl, bool]] = {}

    # Loading

    def add_crl(self, data: bytes) -> Crl:
        """A list from PEM or DER, for as long as it is not removed. Raises `CredentialError`."""
        parsed = crls.parse(data)
        self._loaded[parsed.der] = parsed
        return parsed

    def remove_crl(self, der: bytes) -> bool:
        """Whether there was one."""
        self._signed.clear()
        return self._loaded.pop(der, None) is not None

    def crls(self) -> tuple[Crl, ...]:
        """Loaded and fetched."""
        return (*self._loaded.values(), *self._fetched.values())

    def set_places(self, authority: bytes, places: Places) -> None:
        """Where to ask about certificates of the CA with this certificate (DER)."""
        if places == Places():
            self._places.pop(authority, None)
        else:
            self._places[authority] = places

    @property
    def certificate_bases(self) -> tuple[str, ...]:
        """Where certificates may be fetched from."""
        return tuple(one.certificate_base for one in self._places.values() if one.certificate_base)

    def places(self) -> tuple[tuple[bytes, Places], ...]:
        """(certificate of the CA, its places)"""
        return tuple(self._places.items())

    def forget_fetched(self) -> None:
        """As if nothing had ever been fetched."""
        self._own.clear()
        self.kept_certificates.clear()
        self._fetched.clear()
        self._answers.clear()
        self._failed.clear()
        self._signed.clear()

    def clear(self) -> None:
        self._loaded.clear()
        self.forget_fetched()

    # Judging

    def check(self, chain: Sequence[Certificate], policy: Policy, wall: float) -> None:
        """Raises `AuthenticationError`: CERTIFICATE_REVOKED; CERTIFICATE_STATUS_UNKNOWN if the policy wants
        to know. The anchor, last of the chain, is trusted by configuration and not asked about."""
        unknown: AuthenticationError | None = None
        for certificate, issuer in pairwise(chain):
            judgement = self.judge(certificate, issuer, wall)
            if judgement.state is State.REVOKED:
                raise AuthenticationError(
                    Kind.CERTIFICATE_REVOKED, f"the certificate {certificate.title} {judgement.detail}"
                )
            if judgement.state is State.GOOD or policy is Policy.RELAXED:
                continue
            if policy is Policy.IFURI and not any(self._pointers(certificate, issuer)):
                continue
            unknown = unknown or AuthenticationError(
                Kind.CERTIFICATE_STATUS_UNKNOWN,
                f"nobody says whether the certificate {certificate.title} was revoked: {judgement.detail}",
            )
        if unknown is not None:
            raise unknown

    def judge(self, certificate: Certificate, issuer: Certificate, wall: float) -> Judgement:
        """What is known of a certificate; `issuer` is the CA that the chain has for it."""
        answer = self._answers.get(_key(certificate, issuer))
        fresh = answer if answer is not None and wall <= answer.until else None
        listed = self._by_lists(certificate, issuer, wall)
        if listed.state is State.REVOKED:
            return listed
        if answer is not None and answer.revoked is not None:
            # As an old list does: whoever keeps the responder from us does not get in by that.
            return _revoked(answer.revoked, answer.reason, "by OCSP", old=fresh is None)
        if fresh is not None:
            return Judgement(State.GOOD)
        return listed

    def _by_lists(self, certificate: Certificate, issuer: Certificate, wall: float) -> Judgement:
        base, delta = self._lists(certificate, issuer, wall)
        if base is None:
            return Judgement(State.UNKNOWN, "no CRL and no OCSP answer of its CA is there")
        serial = certificate.handle.serial_number
        entry = delta.find(serial) if delta is not None else None
        entry = entry or base.find(serial)
        if entry is not None and not entry.removed:
            return _revoked(entry.since, entry.reason, f"by {base.title}")
        if not base.is_fresh(wall):
            return Judgement(State.UNKNOWN, f"{base.title} served until {day(base.next_update)}")
        return Judgement(State.GOOD)

    def _lists(
        self, certificate: Certificate, issuer: Certificate, wall: float
    ) -> tuple[Crl | None, Crl | None]:
        """The newest whole list that covers the certificate, and the newest delta that goes with it."""
        urls, _, _ = self._pointers(certificate, issuer)
        mine = [
            one
            for one in self.crls()
            if one.issuer == issuer.handle.subject
            and one.covers(certificate, urls)
            and one.this_update <= wall + crls.SKEW
            and self._is_signed(one, issuer)
        ]
        whole = [one for one in mine if one.base is None]
        base = max(whole, key=lambda one: (one.number, one.this_update), default=None)
        deltas = [
            one
            for one in mine
            if base is not None and one.base is not None and one.base <= base.number < one.number
        ]
        # One that is too old takes nothing back, and a base that came later knows what it said.
        return base, max(deltas, key=lambda one: one.number, default=None)

    def _is_signed(self, one: Crl, issuer: Certificate) -> bool:
        key = id(one), issuer.der
        known = self._signed.get(key)
        if known is None or known[0] is not one:
            if len(self._signed) >= MAX_FAILED:
                self._signed.clear()
            known = self._signed[key] = one, one.signed_by(issuer)
        return known[1]

    # Fetching

    def wanted(self, chain: Sequence[Certificate], wall: float, entropy: Entropy) -> tuple[Wanted, ...]:
        """What to fetch now, so that more is known of this chain; empty: there is nothing, or not now."""
        found: dict[tuple[str, int], Wanted] = {}
        for position, (certificate, issuer) in enumerate(pairwise(chain)):
            for one in self._wanted(position, certificate, issuer, wall, entropy):
                # A certificate has its own answer of a responder; a list is the same for all.
                found.setdefault((one.fetch.url, position if one.nonce else -1), one)
        return tuple(found.values())

    def _wanted(
        self, position: int, certificate: Certificate, issuer: Certificate, wall: float, entropy: Entropy
    ) -> Iterator[Wanted]:
        crl_urls, ocsp_urls, delta_urls = self._pointers(certificate, issuer)
        serial = certificate.handle.serial_number
        judgement = self.judge(certificate, issuer, wall)
        if judgement.state is State.UNKNOWN or judgement.old:
            for url in ocsp_urls:
                if self._may_ask(url, serial, wall):
                    nonce = entropy.octets(ocsp.NONCE_LENGTH)
                    asked = ocsp.request(certificate, issuer, nonce)
                    yield Wanted(position, Fetch(url, ocsp.MAX_ANSWER, asked, OCSP_REQUEST), nonce)
                    return
            for url in crl_urls:
                if self._may_ask(url, 0, wall):
                    yield Wanted(position, Fetch(url, crls.MAX_CRL))
                    return
            return
        if judgement.state is State.REVOKED:
            return
        base, delta = self._lists(certificate, issuer, wall)
        if base is None or (delta is not None and delta.is_fresh(wall)):
            return
        for url in dict.fromkeys((*delta_urls, *base.freshest)):
            if self._may_ask(url, 0, wall):
                yield Wanted(position, Fetch(url, crls.MAX_CRL))
                return

    def take(self, chain: Sequence[Certificate], wanted: Wanted, body: bytes | None, wall: float) -> str:
        """Keep what was fetched, if it is what it should be; else why not, for the operator. `body` None: it
        could not be had."""
        certificate, issuer = chain[wanted.position], chain[wanted.position + 1]
        url, serial = wanted.fetch.url, certificate.handle.serial_number
        if body is None:
            self._fail(url, 0, wall)
            return f"{url} could not be fetched"
        try:
            if wanted.nonce:
                answer = ocsp.judge(body, certificate, issuer, wanted.nonce, wall)
                self._remember(certificate, issuer, answer)
                return ""
            parsed = crls.parse(body)
            self._keep(url, parsed, certificate, issuer, wall)
        except CredentialError as error:
            self._fail(url, serial if wanted.nonce else 0, wall)
            return f"{url}: {error}"
        return ""

    # Inside IKE (RFC 4806)

    def take_stapled(self, chain: Sequence[Certificate], answers: Sequence[bytes], wall: float) -> None:
        """Keep what the peer brought along of its chain, as far as it is what it should be. It takes back
        nothing that is known: an older answer, of before a revocation, may be good for days yet."""
        for certificate, issuer in pairwise(chain):
            known = self._answers.get(_key(certificate, issuer))
            if known is not None and (known.revoked is not None or wall <= known.until):
                continue
            for data in answers:
                try:
                    answer = ocsp.judge(data, certificate, issuer, b"", wall)
                except CredentialError:
                    continue
                self._remember(certificate, issuer, answer)
                break

    def own_wanted(self, chain: Sequence[Certificate], wall: float, entropy: Entropy) -> tuple[Wanted, ...]:
        """What to ask about our own chain, so that there is a fresh answer for each that has a responder."""
        found = []
        for position, (certificate, issuer) in enumerate(pairwise(chain)):
            if self._own.get(_key(certificate, issuer), (b"", 0.0))[1] >= wall:
                continue
            serial = certificate.handle.serial_number
            for url in self._pointers(certificate, issuer)[1]:
                if self._may_ask(url, serial, wall):
                    nonce = entropy.octets(ocsp.NONCE_LENGTH)
                    asked = ocsp.request(certificate, issuer, nonce)
                    found.append(Wanted(position, Fetch(url, ocsp.MAX_ANSWER, asked, OCSP_REQUEST), nonce))
                    break
        return tuple(found)

    def take_own(self, chain: Sequence[Certificate], wanted: Wanted, body: bytes | None, wall: float) -> None:
        """An answer about ourselves, if it is one; also if it says that we are revoked."""
        certificate, issuer = chain[wanted.position], chain[wanted.position + 1]
        serial = certificate.handle.serial_number
        try:
            if body is None:
                raise CredentialError("could not be fetched")
            answer = ocsp.judge(body, certificate, issuer, wanted.nonce, wall)
        except CredentialError:
            self._fail(wanted.fetch.url, serial, wall)
            return
        while len(self._own) >= MAX_OWN:
            del self._own[next(iter(self._own))]
        self._own[_key(certificate, issuer)] = body, answer.until

    def own_answers(self, chain: Sequence[Certificate], wall: float) -> dict[bytes, bytes]:
        """By our certificate (DER): what goes along with it."""
        found = {}
        for certificate, issuer in pairwise(chain):
            data, until = self._own.get(_key(certificate, issuer), (b"", 0.0))
            if data and wall <= until:
                found[certificate.der] = data
        return found

    def _remember(self, certificate: Certificate, issuer: Certificate, answer: ocsp.Answer) -> None:
        while len(self._answers) >= MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[_key(certificate, issuer)] = answer

    def _keep(
        self, url: str, parsed: Crl, certificate: Certificate, issuer: Certificate, wall: float
    ) -> None:
        """Raises `CredentialError` for a list that says nothing of this certificate now."""
        if not parsed.signed_by(issuer):
            raise CredentialError(f"{parsed.title} is not signed by {issuer.title}")
        if not parsed.is_fresh(wall):
            raise CredentialError(f"{parsed.title} served until {day(parsed.next_update)}")
        if not parsed.covers(certificate, self._pointers(certificate, issuer)[0]):
            raise CredentialError(f"{parsed.title} is not for {certificate.title}")
        former = self._fetched.pop(url, None)
        if former is not None and former.number > parsed.number:
            self._fetched[url] = former
            raise CredentialError(f"{parsed.title} is older than number {former.number}, which came before")
        self._fetched[url] = parsed
        self._signed.clear()
        # Until it is due again, or a while if its delta or successor is overdue.
        self._fail(url, 0, wall)
        while len(self._fetched) > MAX_FETCHED or self._octets() > MAX_FETCHED_OCTETS:
            del self._fetched[next(iter(self._fetched))]

    def _octets(self) -> int:
        return sum(len(one.der) for one in self._fetched.values())

    def _may_ask(self, url: str, serial: int, wall: float) -> bool:
        # A clock that was set back must not forbid it for long.
        return all(not wall <= self._failed.get((url, of), 0.0) <= wall + AGAIN for of in (0, serial))

    def _fail(self, url: str, serial: int, wall: float) -> None:
        while len(self._failed) >= MAX_FAILED:
            del self._failed[next(iter(self._failed))]
        self._failed[(url, serial)] = wall + AGAIN

    def _pointers(
        self, certificate: Certificate, issuer: Certificate
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Where to ask: (CRLs, OCSP responders, delta CRLs), the operator's word before the certificate's."""
        places = self._places.get(issuer.der, Places())
        crl_urls: tuple[str, ...] = ()
        ocsp_urls: tuple[str, ...] = ()
        delta_urls: tuple[str, ...] = ()
        for extension in certificate.handle.extensions:
            value = extension.value
            if isinstance(value, x509.CRLDistributionPoints):
                crl_urls = urls_of(value)
            elif isinstance(value, x509.FreshestCRL):
                delta_urls = urls_of(value)
            elif isinstance(value, x509.AuthorityInformationAccess):
                ocsp_urls = tuple(
                    one.access_location.value
                    for one in value
                    if one.access_method == AuthorityInformationAccessOID.OCSP
                    and isinstance(one.access_location, x509.UniformResourceIdentifier)
                    and one.access_location.value.lower().startswith("http://")
                )[:MAX_URLS]
        return (
            tuple(dict.fromkeys((*places.crl_urls, *crl_urls))),
            tuple(dict.fromkeys((*places.ocsp_urls, *ocsp_urls))),
            delta_urls,
        )


def _key(certificate: Certificate, issuer: Certificate) -> tuple[bytes, bytes, int]:
    return issuer.subject, issuer.spki, certificate.handle.serial_number


def _revoked(since: float, reason: str, by: str, *, old: bool = False) -> Judgement:
    why = "" if reason == "unspecified" else f" ({reason})"
    return Judgement(State.REVOKED, f"was revoked {day(since)}{why}, {by}", old)
