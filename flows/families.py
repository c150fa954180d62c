"""What a parent run says about its folds together: intervals, tables, and the best model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cells import Trained, volume_rows
from flows.session import Session
from minivess import files, names
from minivess.config import EvaluationConfig
from minivess.contracts import CellResult, CellSpec, FamilyRun, Interval, VolumeMetrics

if TYPE_CHECKING:
    from minivess.tracking.run import Run


def aggregate(config: EvaluationConfig, results: Sequence[CellResult]) -> dict[str, float]:
    """`eval_fold<N>_<metric>` with its interval for each fold, and `eval_<metric>` over all."""
    found: dict[str, float] = {}
    for fold, result in enumerate(results):
        found |= intervals(config, result.volumes, prefix=f"eval_fold{fold}_")
    volumes = [volume for result in results for volume in result.volumes]
    found |= intervals(config, volumes, prefix="eval_")
    found["trainable_parameters"] = float(results[0].trainable_parameters)
    for name in results[0].untrained:
        values = [result.untrained[name] for result in results if name in result.untrained]
        found[f"untrained_{name}"] = sum(values) / len(values)
    return found


def intervals(
    config: EvaluationConfig, volumes: Sequence[VolumeMetrics], *, prefix: str
) -> dict[str, float]:
    """Mean and bootstrap interval of each metric over volumes, groups resampled whole."""
    from minivess.evaluation import statistics

    found: dict[str, float] = {}
    groups = [volume.group or volume.case for volume in volumes]
    for metric in sorted({name for volume in volumes for name in volume.values}):
        values = [volume.values.get(metric) for volume in volumes]
        found |= named(prefix + metric, statistics.interval(values, config=config, groups=groups))
        found[f"{prefix}{metric}_n_undefined"] = float(sum(value is None for value in values))
    return found


def named(name: str, interval: Interval) -> dict[str, float]:
    """An interval as MLflow metrics; an undefined mean leaves no metric."""
    if interval.mean is None:
        return {}
    found = {name: interval.mean, f"{name}_ci_level": interval.level}
    if interval.lower is not None and interval.upper is not None:
        found |= {f"{name}_ci_lower": interval.lower, f"{name}_ci_upper": interval.upper}
    return found


def rows(results: Sequence[Trained]) -> list[dict[str, object]]:
    """One row per validation volume of every fold."""
    return [row for fold, (_, result) in enumerate(results) for row in volume_rows(fold, result)]


def best_fold(results: Sequence[CellResult]) -> int:
    """The fold whose best checkpoint scored highest by the primary metric, else by Dice."""

    def score(fold: int) -> float:
        best = results[fold].best
        return best.get(f"val_{names.PRIMARY}", -best.get("val_loss", math.inf))

    return max(range(len(results)), key=score)


def log_best_model(session: Session, parent: Run, results: Sequence[Trained]) -> None:
    """The best fold's checkpoint as the parent's MLflow model."""
    from minivess.tracking import model

    fold = best_fold([result for _, result in results])
    spec = spec_of(session, results[fold])
    model.log_model(
        parent,
        network=spec.network,
        window=spec.window,
        checkpoint=checkpoint(session, results[fold]),
    )
    parent.tags({"best_fold": str(fold)})


def spec_of(session: Session, trained: Trained) -> CellSpec:
    """The cell's own record: it may have been trained with another patch than is planned now."""
    run_id, result = trained
    local = session.home.cells / result.key / names.CELL_SPEC
    if local.is_file():
        return CellSpec.model_validate(files.read_json(local))
    return CellSpec.model_validate(session.store.read_json(run_id, names.SPEC_ARTIFACT))


def checkpoint(session: Session, trained: Trained) -> Path:
    """The judged checkpoint of a cell, from its folder here or from its run."""
    run_id, result = trained
    local = session.home.cells / result.key / result.checkpoint
    if local.is_file() and local.stat().st_size == result.files[result.checkpoint]:
        return local
    return session.store.download(run_id, f"checkpoints/{result.checkpoint}", local.parent)


def comparison(runs: Iterable[FamilyRun]) -> list[dict[str, object]]:
    """One row per family for Prefect's page and MLflow's table."""
    return [
        {"family": run.run_name, "run_id": run.run_id}
        | {
            name: round(run.metrics[f"eval_{name}"], 4)
            for name in names.METRICS
            if f"eval_{name}" in run.metrics
        }
        for run in runs
    ]
