"""Asks the world whether a peer's certificates were revoked, once the peer has proved to hold their key.

Only then: a chain that is not trusted, or somebody who merely shows another's certificate, makes this gateway
fetch nothing (V55). What is known is enough most of the time; then nothing is asked and nobody waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.auth.ask import FetchAll
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.peer import AuthenticatedPeer, Phase1Peer
from cygnet.auth.revocation import MAX_ROUNDS
from cygnet.ike.configuration import RemoteAuth
from cygnet.ike.errors import PeerMisbehaved, Reason
from cygnet.ike.steps import Context, Steps, ask
from cygnet.wire.numbers import Notify

PATIENCE: Final = 6.0
"""Seconds for what is fetched at once; the daemon gives up before."""


def check_revocation(
    context: Context,
    remote: RemoteAuth,
    peer: AuthenticatedPeer | Phase1Peer,
    stapled: Sequence[bytes] = (),
) -> Steps[None]:
    """Fetch what is missing, and refuse a peer whose certificate `remote.revocation` does not let pass.
    `stapled`: OCSP answers that the peer brought along."""
    yield from check_chain(context, remote, peer.chain, stapled)


def check_chain(
    context: Context, remote: RemoteAuth, chain: Sequence[bytes], stapled: Sequence[bytes] = ()
) -> Steps[None]:
    """The same of certificates (DER, the end entity's first), whose key the peer has shown to hold."""
    if not chain:
        return
    revocations = context.credentials.revocations
    notes: list[str] = []
    try:
        path = context.credentials.path_of(
            chain,
            wall=context.now.wall,
            ca_certificates=remote.ca_certificates,
            pinned=remote.certificates,
        )
        if stapled:
            revocations.take_stapled(path, stapled, context.now.wall)
        for _ in range(MAX_ROUNDS):
            wanted = revocations.wanted(path, context.now.wall, context.entropy)
            if not wanted:
                break
            bodies = yield from ask(FetchAll(tuple(one.fetch for one in wanted)), PATIENCE)
            if not isinstance(bodies, tuple) or len(bodies) != len(wanted):
                bodies = (None,) * len(wanted)
            for one, body in zip(wanted, bodies, strict=True):
                note = revocations.take(path, one, body, context.now.wall)
                if note:
                    notes.append(note)
        revocations.check(path, remote.revocation, context.now.wall)
    except AuthenticationError as error:
        told = "; ".join([error.detail, *notes]) if _wants_reasons(error) else error.detail
        raise PeerMisbehaved(Reason(error.kind.value), told, notify=Notify.AUTHENTICATION_FAILED) from None


def _wants_reasons(error: AuthenticationError) -> bool:
    return error.kind is Kind.CERTIFICATE_STATUS_UNKNOWN
