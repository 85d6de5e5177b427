"""The vocabulary for machines and for people: JSON schema and reference tables, both made from `model`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from cygnet.config import model
from cygnet.config.check import subsection
from cygnet.config.model import Section


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of `cygnet.toml`, for editors. Sections with a suffix are patterns."""
    schema = model.Root.model_json_schema()
    for section in _sections():
        name = section.__name__
        node = schema if section is model.Root else schema["$defs"].get(name)
        if node is None:
            continue
        properties = node.get("properties", {})
        for prefix, field in section.GATHER.items():
            gathered = properties.pop(field)
            inner = gathered.get("additionalProperties", {})
            node.setdefault("patternProperties", {})[f"^{prefix}"] = inner
        for key, defaults in section.LATER.items():
            properties[key] = {
                "description": "Not supported yet" + (f"; only {defaults[0]}." if defaults else "."),
                "enum": [*defaults, ""],
            }
        properties.pop("x", None)
    schema["properties"]["include"] = {
        "description": "Further files; may hold wildcards.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    schema["title"] = "cygnet.toml"
    return schema


def _sections() -> list[type[Section]]:
    """Every section class, from the root."""
    found: list[type[Section]] = []
    rest: list[type[Section]] = [model.Root]
    while rest:
        section = rest.pop()
        if section in found:
            continue
        found.append(section)
        for field in section.model_fields.values():
            inner, _ = subsection(field)
            if inner is not None:
                rest.append(inner)
    return found


PLACES: tuple[tuple[str, type[Section]], ...] = (
    ("options", model.Options),
    ("connections.<name>", model.Connection),
    ("connections.<name>.local<suffix>", model.Local),
    ("connections.<name>.remote<suffix>", model.Remote),
    ("connections.<name>.children.<name>", model.Child),
    ("secrets.ike<suffix>", model.Shared),
    ("secrets", model.Secrets),
    ("secrets.eap<suffix>", model.Password),
    ("secrets.private<suffix>", model.Key),
    ("radius", model.Radius),
    ("radius.servers.<name>", model.RadiusServer),
    ("radius.dae", model.RadiusChanges),
    ("authorities.<name>", model.Authority),
    ("pools.<name>", model.Pool),
)


def reference() -> str:
    """Tables in Markdown: every key, its kind, its default, what it means; then those not supported yet."""
    parts = []
    for place, section in PLACES:
        parts.append(f"### `{place}`\n")
        parts.append("| key | kind | default | meaning |\n|---|---|---|---|")
        properties = section.model_json_schema().get("properties", {})
        for name, field in section.model_fields.items():
            shape = properties.get(name, {})
            prefix = next((prefix for prefix, gathered in section.GATHER.items() if gathered == name), "")
            inner, _ = subsection(field)
            kind = "section" if inner is not None else shape.get("x-kind", _inner_kind(shape))
            kind = kind.replace("|", "\\|")
            shown = f"{prefix}<suffix>" if prefix else name
            meaning = re.sub(r"^`\w+<suffix>`: ", "", field.description or "")
            meaning = meaning[:1].upper() + meaning[1:]
            parts.append(f"| `{shown}` | {kind} | {_default(name, section, kind)} | {_cell(meaning)} |")
        if section.LATER:
            later = ", ".join(
                f"`{key}`" + (f" ({defaults[0]})" if defaults else "")
                for key, defaults in section.LATER.items()
            )
            parts.append(f"\nKnown and not supported yet, taken only with their default: {later}.")
        parts.append("")
    return "\n".join(parts)


def _inner_kind(shape: dict[str, Any]) -> str:
    """The kind of what a dictionary holds."""
    inner = shape.get("additionalProperties", {})
    kind = inner.get("x-kind", "text") if isinstance(inner, dict) else "text"
    return "access lists" if kind == "rules" else str(kind)


def _default(name: str, section: type[Section], kind: str) -> str:
    field = section.model_fields[name]
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "x-default" in extra:
        return str(extra["x-default"])
    if field.is_required():
        return "(must be given)"
    value = field.default
    if field.default_factory is not None or value is None or value in ((), "", {}):
        return ""
    return (
        "yes"
        if value is True
        else "no"
        if value is False
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


BEGIN, END = "<!-- made by python -m cygnet.config.schema -->", "<!-- end -->"


def with_reference(text: str) -> str:
    """A Markdown text with the reference between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def main() -> None:
    """`python -m cygnet.config.schema DOCUMENT SCHEMA`: write both anew."""
    document, schema = Path(sys.argv[1]), Path(sys.argv[2])
    document.write_text(with_reference(document.read_text()))
    schema.write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
