"""A connection as the control socket's `load-conn` message: what `swanctl` would send, and our own keys.

Values go as they were written, so that the daemon judges the same text; files go as their contents,
the access lists that children name go along inside the connection, so that a message is complete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cygnet.config import model
from cygnet.config.build import in_rounds
from cygnet.config.lists import AccessLists
from cygnet.config.requests import Message
from cygnet.config.typed import NamedRules
from cygnet.ike.configuration import Connection
from cygnet.policy.access_list import NUMBER_STEP, parse_rule

_NUMBER = re.compile(r"^\s*(?:rule\s+)?(?:\d+\s+)?", re.IGNORECASE)


def connection_message(
    connection: Connection, section: model.Connection, raw: Mapping[str, Any], lists: AccessLists
) -> Message:
    """`{<name>: {...}}` from the section as it was written (`raw`) and as it was understood."""
    result = {key: _value(value) for key, value in raw.items() if key != "acls"}
    for (name, _), local in zip(in_rounds(section.local_rounds), connection.local, strict=False):
        result[name] = _round(raw[name], {"certs": local.certificates, "pubkeys": local.public_keys})
    for (name, _), remote in zip(in_rounds(section.remote_rounds), connection.remote, strict=False):
        contents = {
            "certs": remote.certificates,
            "cacerts": remote.ca_certificates,
            "pubkeys": remote.public_keys,
        }
        result[name] = _round(raw[name], contents)
    children: dict[str, Any] = {}
    acls: dict[str, Any] = {}
    for name, child in section.children.items():
        children[name] = {key: _value(value) for key, value in raw["children"][name].items()}
        if isinstance(child.acl, str):
            rules = section.acls.get(child.acl) or lists.rules(child.acl) or ()
            acls[child.acl] = _rules(rules)
        elif child.acl is not None:
            children[name]["acl"] = _rules(child.acl)
    if children:
        result["children"] = children
    if acls:
        result["acls"] = acls
    return {connection.name: result}


def _round(raw: Mapping[str, Any], contents: Mapping[str, tuple[bytes, ...]]) -> dict[str, Any]:
    """An authentication round with its certificates' contents in place of their files."""
    result = {
        key: _value(value)
        for key, value in raw.items()
        if not isinstance(value, dict) and key not in contents
    }
    result.update({key: list(ders) for key, ders in contents.items() if ders})
    return result


def _rules(rules: NamedRules) -> dict[str, Any]:
    """A section of number = rule, however the list was written."""
    result: dict[str, Any] = {}
    last = 0
    for _, given in rules:
        number = parse_rule(given, (last // NUMBER_STEP + 1) * NUMBER_STEP).number
        result[str(number)] = _NUMBER.sub("", given) if isinstance(given, str) else _value(given)
        last = number
    return result


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return {key: _value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_value(entry) for entry in value]
    return value if isinstance(value, bytes) else str(value)
