"""`load-conn`: the control socket's dictionaries to connections, by the same model as the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cygnet.auth import raw_keys
from cygnet.auth.errors import CredentialError
from cygnet.config import model
from cygnet.config.build import build_connection
from cygnet.config.check import in_order, problem_at, validate
from cygnet.config.files import PUBLIC_KEYS
from cygnet.config.lists import AccessLists
from cygnet.config.problems import Complaints, ConfigurationError, KeyPath
from cygnet.config.requests import message_tree, plain, read_certificate
from cygnet.ike.configuration import Connection


def connections(message: Mapping[str, Any]) -> tuple[Connection, ...]:
    """The connections of a `load-conn` message, each a top-level section.

    Values are octets as the codec gives them. Certificates are contents, PEM or DER; access lists that
    children name stand in the connection's own `acls`. Raises `ConfigurationError` with all problems.
    """
    sections = {name: plain(section, (name,)) for name, section in message.items()}
    tree = message_tree({"connections": sections})
    root, problems = validate(model.Root, tree)
    if root is None:
        raise ConfigurationError(problems)
    complaints = Complaints()
    nothing = AccessLists(("acls",), {})

    def certificate(path: KeyPath, directory: str, content: str | bytes) -> bytes | None:
        try:
            if isinstance(content, bytes) and directory == PUBLIC_KEYS:
                return raw_keys.parse(content)
            if isinstance(content, bytes):
                return read_certificate(content).der
            complaints.add(
                path, "is a file name; the control socket takes contents", "a certificate in PEM or DER"
            )
        except CredentialError as error:
            complaints.add(path, str(error), "a certificate in PEM or DER")
        return None

    built = [
        build_connection(name, section, ("connections", name), nothing, certificate, complaints)
        for name, section in root.connections.items()
    ]
    if complaints.found:
        raise ConfigurationError(
            in_order(problem_at(tree, path, text, allowed) for path, text, allowed in complaints.found)
        )
    return tuple(connection for connection in built if connection is not None)
