"""Base class of configuration sections: frozen, no extra keys, marks fields outside the key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Auto = Literal["auto"]
TEXTS: dict[str, dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("settings.toml").read_text(encoding="utf-8")
)


def setting(default: Any, **limits: Any) -> Any:
    """Define a field that decides results, so that it enters content keys."""
    return Field(default=default, **limits)


def not_in_key(default: Any, **limits: Any) -> Any:
    """Define a field that changes no result, so that it is left out of content keys."""
    return setting(default, json_schema_extra={"counts": False}, **limits)


class Part(BaseModel):
    """One section of the configuration: no extra keys, frozen; settings.toml describes it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Give each field its description."""
        for name, text in TEXTS.get(cls.__name__.removesuffix("Config").lower(), {}).items():
            cls.model_fields[name].description = text

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {annotation, *get_args(annotation)}:
            message = "true and false are no numbers"
            raise ValueError(message)
        listed = get_origin(annotation) is tuple and get_args(annotation)[-1] is Ellipsis
        if listed and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        for said in value if isinstance(value, list | tuple) else (value,):
            if isinstance(said, str) and not said.strip():
                message = "empty text gives no value"
                raise ValueError(message)
        return value

    def key_fields(self) -> dict[str, Any]:
        """Return the fields that decide results, as JSON values, for content keys."""
        plain = self.model_dump(mode="json")
        found = {}
        for name, field in type(self).model_fields.items():
            if (field.json_schema_extra or {}) != {"counts": False}:
                part = getattr(self, name)
                found[name] = part.key_fields() if isinstance(part, Part) else plain[name]
        return found


def each_once(values: Any) -> Any:
    """Refuse a list, or a list of a mapping, that holds a value twice."""
    for listed in values.values() if isinstance(values, Mapping) else (values or (),):
        if twice := [one for place, one in enumerate(listed) if one in listed[:place]]:
            message = f"{twice[0]!r} stands there twice"
            raise ValueError(message)
    return values
