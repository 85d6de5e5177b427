"""From a tree to the validated model, and every error to file, line, key, found, allowed.

Pydantic finds them all in one pass; here its locations are translated back to the keys that people
wrote, and unknown keys get a did-you-mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cygnet.config.model import Root, Section
from cygnet.config.problems import KeyPath, Problem, did_you_mean, dotted, show
from cygnet.config.tree import Tree

_S = TypeVar("_S", bound=Section)


def validate(section: type[_S], tree: Tree) -> tuple[_S | None, list[Problem]]:
    """The model, or None and all that is wrong, in the order of the file."""
    try:
        return section.model_validate(tree.data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, in_order(one for detail in details for one in _problems(section, tree, detail))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Without repetitions, by file and line."""
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.position)


def problem_at(tree: Tree, path: KeyPath, text: str, allowed: str = "", found: bool = True) -> Problem:
    """A problem of the key at `path` of the tree; `found` shows what stands there."""
    value = value_at(tree.data, path) if found else None
    return Problem(tree.where(path), dotted(path), text, "" if value is None else show(value, path), allowed)


def value_at(data: Any, path: KeyPath) -> Any:
    """What stands at a key path, None where nothing does."""
    for element in path:
        if isinstance(data, dict):
            data = data.get(element)
        elif isinstance(data, list) and isinstance(element, int) and element < len(data):
            data = data[element]
        else:
            return None
    return data


def _problems(root: type[Section], tree: Tree, detail: ErrorDetails) -> list[Problem]:
    """One, or where a list has several that are wrong, each of them."""
    listed = detail.get("ctx", {}).get("several", ())
    if not listed:
        return [_problem(root, tree, detail)]
    path, _ = _as_written(root, detail["loc"])
    where, key = tree.where(path), dotted(path)
    return [Problem(where, key, text, show(found, path), allowed) for found, text, allowed in listed]


def _problem(root: type[Section], tree: Tree, detail: ErrorDetails) -> Problem:
    path, owner = _as_written(root, detail["loc"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "cygnet":
        return problem_at(tree, path, context["text"], context["allowed"])
    if kind == "extra_forbidden":
        return _unknown(tree, path, owner)
    if kind == "missing":
        return problem_at(tree, path, "is missing", found=False)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        # Shown is what it was: pydantic also says so of a section, where it wanted another kind of value.
        found = value_at(tree.data, path)
        wanted = "a single value" if isinstance(found, dict) else "a section"
        return problem_at(tree, path, f"must be {wanted}")
    return problem_at(tree, path, detail["msg"])


def _unknown(tree: Tree, path: KeyPath, owner: type[Section]) -> Problem:
    name = str(path[-1])
    if name in owner.LATER:
        defaults = owner.LATER[name]
        why = owner.WHY.get(name, "is not supported yet")
        return problem_at(tree, path, why, f"only its default, {defaults[0]}" if defaults else "nothing")
    known = known_keys(owner)
    guess = did_you_mean(name, [key.rstrip("*") for key in known])
    if guess == name:  # known, but not as what stands here
        guess = ""
    text = "is not a known key" + (f"; did you mean {guess}?" if guess else "")
    return Problem(tree.where(path), dotted(path), text, allowed="" if guess else ", ".join(known))


def known_keys(section: type[Section]) -> list[str]:
    """The keys of a section as people write them; those with a suffix end in `*`."""
    gathered = {field: f"{prefix}*" for prefix, field in section.GATHER.items()}
    return [gathered.get(name, name) for name in section.model_fields] + list(section.LATER)


def subsection(field: FieldInfo) -> tuple[type[Section] | None, bool]:
    """The section class in a field, and whether the field is a dictionary of them."""
    annotation: Any = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    arguments = get_args(annotation)
    if len(arguments) == 2 and isinstance(arguments[1], type) and issubclass(arguments[1], Section):
        return arguments[1], True
    return None, False


def _as_written(root: type[Section], location: tuple[str | int, ...]) -> tuple[KeyPath, type[Section]]:
    """The path without the fields that gather a prefix, and the section that the last key stands in."""
    section = root
    path: KeyPath = ()
    rest: list[str | int] = [element for element in location if element != "[key]"]
    while rest:
        element = rest.pop(0)
        if element not in section.GATHER.values():
            path = (*path, element)
        field = section.model_fields.get(str(element))
        if field is None:
            return (*path, *rest), section
        inner, many = subsection(field)
        if many and rest:
            path = (*path, rest.pop(0))
        if not rest or inner is None:
            return (*path, *rest), section
        section = inner
    return path, section


def check_root(tree: Tree) -> tuple[Root | None, list[Problem]]:
    """The whole configuration's model; see `validate`."""
    return validate(Root, tree)
