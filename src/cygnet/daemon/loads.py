"""The control socket's commands that load, unload and name what is loaded; `control` holds it.

Cygnet's own: `get-certs`, `unload-cert`, `load-radius`; an object is named by what `get-...` says.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from cygnet.config import from_vici, requests
from cygnet.daemon.control import Control, Refused
from cygnet.daemon.log import printable
from cygnet.store.leases import Leases, PoolView
from cygnet.vici.codec import Outgoing
from cygnet.vici.server import DONE, CommandFailed, Handler, Request


class Loads:
    """`handlers` for the server."""

    def __init__(self, control: Control, leases: Leases) -> None:
        self._control = control
        self._leases = leases
        self.handlers: dict[str, Handler] = {
            "load-conn": self.load_conn,
            "unload-conn": self.unload_conn,
            "load-shared": self.load_shared,
            "unload-shared": self.unload_shared,
            "load-cert": self.load_cert,
            "unload-cert": self.unload_cert,
            "load-key": self.load_key,
            "unload-key": self.unload_key,
            "load-authority": self.load_authority,
            "unload-authority": self.unload_authority,
            "load-pool": self.load_pool,
            "load-radius": self.load_radius,
            "unload-pool": self.unload_pool,
            "clear-creds": self.clear_creds,
            "flush-certs": self.flush_certs,
            "get-conns": self.get_conns,
            "get-shared": self.get_shared,
            "get-keys": self.get_keys,
            "get-certs": self.get_certs,
            "get-authorities": self.get_authorities,
            "get-pools": self.get_pools,
        }

    async def load_conn(self, request: Request) -> Outgoing:
        if self._control.has_loaded(request.message):
            # Of a reload most is as it was, and to understand a connection takes longer than all the rest.
            return DONE
        for connection in from_vici.connections(request.message):
            _try(self._control.load_connection, connection, request.message)
        return DONE

    async def unload_conn(self, request: Request) -> Outgoing:
        return _try(self._control.unload_connection, request.text("name"))

    async def load_shared(self, request: Request) -> Outgoing:
        return _try(self._control.load_shared, requests.shared_secret(request.message))

    async def unload_shared(self, request: Request) -> Outgoing:
        return _try(self._control.unload_shared, request.text("id"))

    async def load_cert(self, request: Request) -> Outgoing:
        if requests.is_crl(request.message):
            return _try(self._control.load_crl, requests.revocation_list(request.message))
        return _try(self._control.load_certificate, requests.certificate(request.message))

    async def unload_cert(self, request: Request) -> Outgoing:
        """Cygnet's own: by the SHA-256 of its octets, in hex, as `get-certs` says it."""
        wanted = request.text("id").lower()
        for der in self._control.certificates:
            if sha256(der).hexdigest() == wanted:
                return _try(self._control.unload_certificate, der)
        for der in self._control.crls:
            if sha256(der).hexdigest() == wanted:
                return _try(self._control.unload_crl, der)
        raise CommandFailed(f"no-such-object: there is no certificate {printable(wanted, 80)}")

    async def load_key(self, request: Request) -> Outgoing:
        try:
            return {**DONE, "id": self._control.load_key(requests.key_data(request.message))}
        except Refused as refused:
            raise CommandFailed(printable(str(refused))) from refused

    async def unload_key(self, request: Request) -> Outgoing:
        return _try(self._control.unload_key, request.text("id"))

    async def load_authority(self, request: Request) -> Outgoing:
        return _try(self._control.load_authority, requests.authority(request.message))

    async def unload_authority(self, request: Request) -> Outgoing:
        return _try(self._control.unload_authority, request.text("name"))

    async def load_pool(self, request: Request) -> Outgoing:
        return _try(self._control.load_pool, requests.pool(request.message))

    async def load_radius(self, request: Request) -> Outgoing:
        """Cygnet's own: the `radius` section; an empty one takes all servers out of use."""
        return _try(self._control.load_radius, requests.radius(request.message))

    async def unload_pool(self, request: Request) -> Outgoing:
        return _try(self._control.unload_pool, request.text("name"))

    async def clear_creds(self, request: Request) -> Outgoing:
        return _try(self._control.clear_credentials)

    async def flush_certs(self, request: Request) -> Outgoing:
        """Forget what was fetched: CRLs, OCSP answers, and what could not be had."""
        return _try(self._control.credentials.revocations.forget_fetched)

    async def get_conns(self, request: Request) -> Outgoing:
        return {"conns": list(self._control.connections)}

    async def get_shared(self, request: Request) -> Outgoing:
        return {"keys": list(self._control.shared)}

    async def get_keys(self, request: Request) -> Outgoing:
        return {"keys": list(self._control.keys)}

    async def get_certs(self, request: Request) -> Outgoing:
        """Cygnet's own: the loaded certificates and CRLs, by the SHA-256 of their octets in hex."""
        held = self._control.certificates.items()
        certs = {sha256(der).hexdigest(): {"flag": "CA" if ca else "NONE"} for der, ca in held}
        lists = {sha256(der).hexdigest(): {"flag": "CRL"} for der in self._control.crls}
        return {"certs": {**certs, **lists}}

    async def get_authorities(self, request: Request) -> Outgoing:
        return {"authorities": list(self._control.authorities)}

    async def get_pools(self, request: Request) -> Outgoing:
        with_leases = request.text("leases") == "yes"
        pools = self._leases.views(request.text("name"), leases=with_leases)
        return {pool.name: _pool(pool, with_leases) for pool in pools}


def _try(function: Callable[..., None], *arguments: object) -> Outgoing:
    try:
        function(*arguments)
    except Refused as refused:
        raise CommandFailed(printable(str(refused))) from refused
    return DONE


def _pool(pool: PoolView, with_leases: bool) -> Outgoing:
    shape: dict[str, Any] = {
        "base": str(pool.base),
        "size": str(pool.size),
        "online": str(pool.online),
        "offline": str(pool.offline),
    }
    if with_leases:
        shape["leases"] = {
            str(number): {
                "address": str(address),
                "identity": str(identity),
                "status": "online" if is_online else "offline",
            }
            for number, (address, identity, is_online) in enumerate(pool.leases)
        }
    return shape
