"""Load trained fold models from MLflow: records and local checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minivess import names
from minivess.contracts import CellResult, CellSpec, FamilyRun, FoldModel, RunRecord
from minivess.errors import StoreError
from minivess.tracking.store import run_files
from minivess.tracking.store.store import Store

RETRAIN = "it was made by another release; train again with training.retrain=always"


def fetch(store: Store, run_ids: Sequence[str], into: Path) -> list[FoldModel]:
    """Return the fold models of these parent runs, with local checkpoints.

    A local checkpoint of the recorded size and hash is used; others are downloaded to
    `into`/<cell key>.

    Raises:
        StoreError: a run is not FINISHED, or lacks an artifact of training.
    """
    return [model for run_id in run_ids for model in _family(store, run_id, into)]


def _family(store: Store, run_id: str, into: Path) -> list[FoldModel]:
    _require_finished(store, run_id)
    family = store.read_contract(run_id, names.TRAINING_ARTIFACT, FamilyRun, remedy=RETRAIN)
    return [_member(store, family, child, into) for child in family.child_run_ids]


def _member(store: Store, family: FamilyRun, child: str, into: Path) -> FoldModel:
    params = _require_finished(store, child).params
    spec = store.read_contract(child, names.SPEC_ARTIFACT, CellSpec, remedy=RETRAIN)
    result = store.read_contract(child, names.RESULT_ARTIFACT, CellResult, remedy=RETRAIN)
    made_of = store.read_json(child, names.INGREDIENTS_ARTIFACT)
    return FoldModel(
        run_id=child,
        parent_run_id=family.run_id,
        cell_key=spec.key,
        family=family.run_name,
        spec=spec,
        checkpoint=_checkpoint(store, child, result, into),
        seconds=result.training_time_seconds,
        params=params,
        **result.model_dump(include={"stopped_early", "trainable_parameters", "untrained"}),
        history=store.read_json(child, names.HISTORY_ARTIFACT),
        settings={"training": made_of["training"], "resampling": made_of["data"]["resampling"]},
    )


def _checkpoint(store: Store, run_id: str, result: CellResult, into: Path) -> Path:
    artifact = f"checkpoints/{Path(result.checkpoint).name}"
    size = {"size": result.files[result.checkpoint]}
    entry = run_files.listed_files(store, store.get(run_id)).get(artifact, size)
    for folder in (store.home.cells / result.key, into / result.key):
        if run_files.is_listed_file(folder / result.checkpoint, entry):
            return folder / result.checkpoint
    (into / result.key / result.checkpoint).unlink(missing_ok=True)
    fetched = store.download(run_id, artifact, into / result.key)
    if not run_files.is_listed_file(fetched, entry):
        raise StoreError(
            f"{artifact} of run {run_id} is not what training wrote: it should have "
            f"{entry['size']} bytes and has {fetched.stat().st_size}.",
            remedy="run `minivess train` with its settings, which detects this and trains again",
        )
    return fetched


def _require_finished(store: Store, run_id: str) -> RunRecord:
    record = store.get(run_id)
    if record.status != "FINISHED":
        raise StoreError(
            f"Run {run_id} ({record.name}) is {record.status}; only FINISHED runs can be used.",
            remedy="run `minivess train` with the same settings again; finished folds are reused",
        )
    return record
