"""Base classes of records: frozen, no extra fields, a schema version where stored."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Severity = Literal["error", "warning", "info"]
SCHEMA_VERSION: Literal[1] = 1


class Contract(BaseModel):
    """A record whose fields are all known: a typo fails at the boundary, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**self.model_dump(), **changes})


class Versioned(Contract):
    """A record stored for other processes and later releases."""

    schema_version: Literal[1] = SCHEMA_VERSION
