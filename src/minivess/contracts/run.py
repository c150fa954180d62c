"""A run, as any reader of MLflow sees it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from minivess.contracts.record import Contract


class RunRecord(Contract):
    """A run as MLflow holds it, in plain values."""

    run_id: str
    name: str
    experiment: str
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
    start_time: int = Field(description="milliseconds since 1970, UTC")
    end_time: int | None
    artifact_uri: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
