"""A run, as any reader of MLflow sees it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from minivess.contracts.record import Contract
from minivess.errors import StoreError


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

    def param(self, name: str) -> str:
        """A param that must be there.

        Raises:
            StoreError: the run lacks it.
        """
        return self._held("param", self.params, name)

    def tag(self, name: str) -> str:
        """A tag that must be there, likewise."""
        return self._held("tag", self.tags, name)

    def _held(self, sort: str, values: dict[str, str], name: str) -> str:
        if name not in values:
            raise StoreError(
                f"Run {self.run_id} ({self.name}) lacks the {sort} {name}, so it was not made by "
                "these flows or was changed since.",
                remedy="give another run, or delete that one on MLflow's page and run the same "
                "command again",
            )
        return values[name]
