"""A section of the configuration: which keys it takes, and how those with a suffix are gathered."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cygnet.config import values


class Section(BaseModel):
    """A section: unknown keys are errors, keys in `LATER` are taken with their default only."""

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, frozen=True, hide_input_in_errors=True
    )

    LATER: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that are known and not supported yet, with the values that mean their default."""
    WHY: ClassVar[dict[str, str]] = {}
    """Of these, why some are not."""
    GATHER: ClassVar[dict[str, str]] = {}
    """Prefix of a key to the field that gathers the keys with it."""
    GATHER_VALUES: ClassVar[frozenset[str]] = frozenset()
    """Prefixes whose keys are values; the others' are sections."""

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        result: dict[str, Any] = {}
        for key, value in data.items():
            if key in cls.__pydantic_fields__ and key not in cls.GATHER.values():
                result[key] = value
            elif key in cls.LATER and values.is_default(value, cls.LATER[key]):
                continue
            elif (prefix := cls.prefix_of(key, value)) is not None:
                result.setdefault(cls.GATHER[prefix], {})[key] = value
            else:
                result[key] = value
        return result

    @classmethod
    def prefix_of(cls, key: object, value: Any) -> str | None:
        """Which prefix of `GATHER` a key that is no field has."""
        for prefix in cls.GATHER:
            if str(key).startswith(prefix) and (prefix in cls.GATHER_VALUES) != isinstance(value, dict):
                return prefix
        return None


def key(default: Any, description: str, shown: str | None = None) -> Any:
    """A key; `shown` is its default as people write it where the value does not show it."""
    return Field(
        default=default,
        description=description,
        json_schema_extra=None if shown is None else {"x-default": shown},
    )
