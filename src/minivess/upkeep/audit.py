"""Audit runs: missing fields, damaged files, contradictions, broken lineage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from minivess import names
from minivess.contracts import RunRecord
from minivess.errors import DeletedRunError, StoreError
from minivess.tracking.run import required_fields
from minivess.tracking.store import sql_reader
from minivess.tracking.store.run_files import artifact_names, damaged_files
from minivess.tracking.store.store import Store

UPSTREAM = (names.UPSTREAM_PROFILE, names.UPSTREAM_TRAINING, names.UPSTREAM_ANALYSIS)
EQUAL_TAGS = ("loss_function", "loss_type")


class Gap(NamedTuple):
    """A run that lacks something or contradicts itself."""

    run_id: str
    name: str
    kind: str
    status: str
    missing: tuple[str, ...]


def audit(store: Store, run_ids: Collection[str] = ()) -> list[Gap]:
    """Return every ended run (or those given) with a gap, newest first.

    Raises:
        StoreError: a run given does not exist.
    """
    everything = sql_reader.records(store)
    known = {record.run_id: record for record in everything}
    chosen = [known.get(run_id) or store.get(run_id) for run_id in run_ids] or everything
    found = [_judged(store, record, known) for record in chosen if record.end_time is not None]
    return [gap for gap in found if gap.missing]


def _judged(store: Store, record: RunRecord, known: Mapping[str, RunRecord]) -> Gap:
    artifacts = (
        set(artifact_names(store, record)) if required_fields.of(record).artifacts else set()
    )
    lacking = [*required_fields.missing(record, artifacts), *damaged_files(store, record)]
    kind = record.tags.get(names.KIND, "unknown")
    return Gap(
        record.run_id,
        record.name,
        kind,
        record.status,
        (
            *lacking,
            *_contradictions(record),
            *_broken(store, record, known),
            *_folds(store, record, known),
        ),
    )


def _contradictions(record: RunRecord) -> list[str]:
    """Values that are stored in two places and differ."""
    found = []
    tagged = record.tags.get("run_status", record.status)
    if tagged != record.status:
        found.append(f"tag run_status is {tagged}")
    losses = {record.tags[name] for name in EQUAL_TAGS if name in record.tags}
    losses |= {record.params["loss_name"]} if "loss_name" in record.params else set()
    if len(losses) > 1:
        found.append(f"loss is named {' and '.join(sorted(losses))}")
    return found


def _broken(store: Store, record: RunRecord, known: Mapping[str, RunRecord]) -> list[str]:
    """Upstream runs that are absent, not FINISHED, or of other data."""
    found = []
    for param in UPSTREAM:
        run_id = record.params.get(param)
        if run_id is None:
            continue
        above = known.get(run_id)
        if above is None:
            found.append(f"{param} {run_id} {_gone(store, run_id)}")
        elif above.status != "FINISHED":
            found.append(f"{param} {run_id} is {above.status}")
        elif above.params.get(names.DATASET_HASH) != record.params.get(names.DATASET_HASH):
            found.append(f"{param} {run_id} is of other data")
    return found


def _folds(store: Store, record: RunRecord, known: Mapping[str, RunRecord]) -> list[str]:
    """Fold runs of a family that are absent or not FINISHED."""
    if names.TRAINING_ARTIFACT not in artifact_names(store, record, "evaluation"):
        return []
    try:
        folds = store.read_json(record.run_id, names.TRAINING_ARTIFACT).get("child_run_ids", ())
    except StoreError as damaged:
        return [damaged.problem]
    found = {run_id: known.get(run_id) for run_id in folds}
    return [
        f"fold run {run_id} " + (f"is {fold.status}" if fold else _gone(store, run_id))
        for run_id, fold in found.items()
        if fold is None or fold.status != "FINISHED"
    ]


def _gone(store: Store, run_id: str) -> str:
    try:
        store.get(run_id)
    except DeletedRunError as deleted:
        return f"was deleted: {deleted.remedy}"
    except StoreError:
        pass
    return "is no run here"
