"""The vocabulary: every section and key, its kind, its default, its meaning (swanctl.conf(5), plus ours).

`docs/configuration.md` and the JSON schema are made from this package, so that they cannot differ from
it. Keys of swanctl.conf that Cygnet knows and cannot do yet stand in `LATER`: their default passes,
anything else is refused by name, so that nobody believes in protection that is not there.

Sections and keys with a suffix (`local-1`, `ike-branch`, `id2`) are gathered into one field before
validation (`GATHER`); `check` leaves these fields out of the paths that it reports.
"""

from __future__ import annotations

from pydantic import Field

from cygnet.config.model.child import Child, Manual
from cygnet.config.model.connection import CertificateFile, Connection, Local, Remote
from cygnet.config.model.gateway import Options, Pool, Radius, RadiusChanges, RadiusServer
from cygnet.config.model.kinds import Name, Rules
from cygnet.config.model.secrets import Authority, Key, Password, Secrets, Shared
from cygnet.config.model.section import Section, key

__all__ = [
    "Authority",
    "CertificateFile",
    "Child",
    "Connection",
    "Key",
    "Local",
    "Manual",
    "Options",
    "Password",
    "Pool",
    "Radius",
    "RadiusChanges",
    "RadiusServer",
    "Remote",
    "Root",
    "Secrets",
    "Section",
    "Shared",
]


class Root(Section):
    options: Options = Field(default_factory=Options, description="The gateway itself.")
    acls: dict[Name, Rules] = key({}, "Access lists, by name.")
    connections: dict[Name, Connection] = key({}, "Connections, by name.")
    secrets: Secrets = Field(
        default_factory=Secrets, description="Pre-shared keys, passphrases, private keys."
    )
    pools: dict[Name, Pool] = key(
        {}, "Pools of virtual addresses, by name: what connections with `pools` lease to their peers."
    )
    authorities: dict[Name, Authority] = key({}, "Certification authorities, by name.")
    radius: Radius = Field(default_factory=Radius, description="RADIUS servers.")
