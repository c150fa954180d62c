"""One level of the configuration: closed, fixed, and honest about what changes results."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Auto = Literal["auto"]


def uncounted(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes no result, so it is left out of content keys."""
    return Field(
        default=default, description=description, json_schema_extra={"counts": False}, **limits
    )


class Part(BaseModel):
    """One level of the configuration: closed and fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def counted(self) -> dict[str, Any]:
        """The fields that decide results, as JSON values, for content keys."""
        return {
            name: getattr(self, name).counted()
            if isinstance(getattr(self, name), Part)
            else self.model_dump(mode="json")[name]
            for name, field in type(self).model_fields.items()
            if _counts(field)
        }


def _counts(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("counts") is False)
