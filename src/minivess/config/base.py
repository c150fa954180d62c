"""One level of the configuration: closed, fixed, and honest about what changes results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

Auto = Literal["auto"]


def uncounted(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes no result, so it is left out of content keys."""
    return Field(
        default=default, description=description, json_schema_extra={"counts": False}, **limits
    )


class Part(BaseModel):
    """One level of the configuration: closed and fixed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

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

    def counted(self) -> dict[str, Any]:
        """The fields that decide results, as JSON values, for content keys."""
        return {
            name: getattr(self, name).counted()
            if isinstance(getattr(self, name), Part)
            else self.model_dump(mode="json")[name]
            for name, field in type(self).model_fields.items()
            if _counts(field)
        }


def each_once(values: Any) -> Any:
    """A list, or each list of a mapping, refused where a value stands in it twice."""
    for listed in values.values() if isinstance(values, Mapping) else (values or (),):
        if twice := [one for place, one in enumerate(listed) if one in listed[:place]]:
            message = f"{twice[0]!r} stands there twice"
            raise ValueError(message)
    return values


def _counts(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("counts") is False)
