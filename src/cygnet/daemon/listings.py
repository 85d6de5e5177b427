"""The control socket's lists of what can be loaded and used: certificates, authorities, algorithms."""

from __future__ import annotations

from typing import Any

from cygnet.auth.certificate import parse
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity
from cygnet.crypto.integrity import SUPPORTED_INTEGRITY
from cygnet.crypto.key_exchange import SUPPORTED_GROUPS
from cygnet.crypto.prf import SUPPORTED_PRFS
from cygnet.crypto.suites import SUPPORTED_ENCRYPTION
from cygnet.daemon.control import Control
from cygnet.vici.server import Handler, Request
from cygnet.wire.numbers import Encr, IdType, Integ, KeMethod, Prf


class Listings:
    """`handlers` for the server."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.handlers: dict[str, Handler] = {
            "list-certs": self.list_certs,
            "list-authorities": self.list_authorities,
            "get-algorithms": self.get_algorithms,
        }

    async def list_certs(self, request: Request) -> dict[str, Any]:
        """X.509 alone: `type`, `flag` (NONE, CA, ANY) and `subject` narrow it down."""
        kind, flag, subject = request.text("type"), request.text("flag"), request.text("subject")
        if kind.upper() not in ("", "ANY", "X509"):
            return {}
        held = dict(self._control.certificates)
        held.update((one.certificate, True) for one in self._control.authorities.values())
        for der, ca in held.items():
            if flag.upper() in ("", "ANY", "CA" if ca else "NONE") and subject in ("", _subject(der)):
                shape: dict[str, Any] = {"type": "X509", "flag": "CA" if ca else "NONE", "data": der}
                if self._has_key(der):
                    shape["has_privkey"] = "yes"
                await request.stream("list-cert", shape)
        return {}

    async def list_authorities(self, request: Request) -> dict[str, Any]:
        only = request.text("name")
        for authority in tuple(self._control.authorities.values()):
            if only in ("", authority.name):
                shape = {"cacert": _subject(authority.certificate)}
                await request.stream("list-authority", {authority.name: shape})
        return {}

    async def get_algorithms(self, request: Request) -> dict[str, Any]:
        """By kind; what strongSwan names a plugin is always Cygnet."""
        kinds: tuple[tuple[str, Any, Any], ...] = (
            ("encryption", Encr, SUPPORTED_ENCRYPTION),
            ("integrity", Integ, SUPPORTED_INTEGRITY),
            ("prf", Prf, SUPPORTED_PRFS),
            ("ke", KeMethod, SUPPORTED_GROUPS),
        )
        return {
            kind: {registry.name_of(number): "cygnet" for number in numbers}
            for kind, registry, numbers in kinds
        }

    def _has_key(self, der: bytes) -> bool:
        try:
            return self._control.credentials.key_for(der) is not None
        except CredentialError:
            return False


def _subject(der: bytes) -> str:
    return str(Identity.from_wire(IdType.DER_ASN1_DN, parse(der).subject))
