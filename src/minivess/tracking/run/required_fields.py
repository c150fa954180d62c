"""Params, tags, metrics and artifacts that each kind of run must hold: required_fields.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from minivess import names
from minivess.config import EvaluationConfig, TrainingConfig
from minivess.contracts import Network, RunRecord
from minivess.tracking.run.params import GRID

TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
UNSHOWN = {"in_channels", "out_channels", "limits"}
FIELDS = {
    "training": [field for field in TrainingConfig.model_fields if field not in GRID],
    "evaluation": [f"eval_{field}" for field in EvaluationConfig.model_fields],
    "network": [f"arch_{field}" for field in Network.model_fields if field not in UNSHOWN],
}


@dataclass(frozen=True)
class Contract:
    """Names that a run must hold, of each sort."""

    params: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()

    def __add__(self, other: Contract) -> Contract:
        """Return the union."""
        both = zip(astuple(self), astuple(other), strict=True)
        return Contract(*(mine + theirs for mine, theirs in both))


def _contract(table: Mapping[str, Any]) -> Contract:
    """Read a table with the parts that it names."""
    fields = [field for part in table.get("fields", ()) for field in FIELDS[part]]
    own = Contract(
        (*fields, *table.get("params", ())),
        *(tuple(table.get(sort, ())) for sort in ("tags", "metrics", "artifacts")),
    )
    parts = (_contract(TABLES["parts"][part]) for part in table.get("with", ()))
    return sum(parts, Contract()) + own


PARTS, KINDS = (
    {name: _contract(table) for name, table in TABLES[sort].items()} for sort in ("parts", "kinds")
)
SYS = [name.removeprefix("sys_") for name in PARTS["common"].params if name.startswith("sys_")]


def of(record: RunRecord) -> Contract:
    """Return what this run must hold; of a FAILED or KILLED run only its cause is required."""
    if record.status != "FINISHED":
        return PARTS["identity"] + Contract(tags=(names.ERROR_TYPE,))
    kind = record.tags.get(names.KIND, "")
    unscored = names.PARENT in record.tags and record.params.get("data_n_val_volumes") == "0"
    own = PARTS["cell"] if unscored else KINDS.get(kind, Contract())
    return PARTS["identity"] + PARTS["common"] + own


def missing(record: RunRecord, artifacts: set[str]) -> list[str]:
    """Return what a run lacks, as `param x`, `tag y`, `metric z`, `artifact w`."""
    wanted = of(record)
    held = {
        "param": (wanted.params, set(record.params)),
        "tag": (wanted.tags, set(record.tags)),
        "metric": (wanted.metrics, set(record.metrics)),
        "artifact": (wanted.artifacts, artifacts),
    }
    return [
        f"{sort} {name}"
        for sort, (expected, found) in held.items()
        for name in expected
        if name not in found and not any(fnmatchcase(one, name) for one in found)
    ]
