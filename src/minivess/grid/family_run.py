"""Parent runs: opened before training; aggregate their folds' metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from minivess import files, names
from minivess.config import EvaluationConfig
from minivess.contracts import CellResult, CellSpec, FamilyRun, Interval, VolumeMetrics
from minivess.evaluation import statistics
from minivess.grid import cell_run
from minivess.grid.cell_run import Trained, volume_rows
from minivess.grid.context import GridContext
from minivess.grid.families import Family, explain_change
from minivess.orchestration.session import Session
from minivess.text import several
from minivess.tracking.run.run import Run


@contextmanager
def opened(grid: GridContext, family: Family) -> Iterator[Run]:
    """Open the parent run and describe it before any of its cells trains."""
    session = grid.session
    changed = explain_change(session, family)
    if changed:
        session.print(f"  {family.name} trains again, changed: {changed}")
    with session.run(
        names.FAMILY, family.name, family.key, note(grid, family), family.ingredients,
        dataset=grid.profile.dataset, tags=cell_run.tags(grid, family),
    ) as parent:  # fmt: skip
        cell_run.describe(grid, family, parent)
        yield parent


def note(grid: GridContext, family: Family) -> str:
    """One sentence about the run for MLflow's page."""
    network, plan, _ = grid.model(family)
    filters = "-".join(map(str, network.filters))
    return (
        f"{family.model.family}, {family.loss.name} loss, {several(len(family.cells), 'fold')} x "
        f"{grid.session.config.training.max_epochs} epochs, filters {filters}, "
        f"patch {'x'.join(map(str, plan.patch_size))}, data {grid.profile.dataset}"
    )


def finish(session: Session, family: Family, parent: Run, results: Sequence[Trained]) -> FamilyRun:
    """Store aggregates, intervals and the model of the best fold in the parent run."""
    metrics = aggregate(session.config.evaluation, [result for _, result in results])
    parent.metrics(metrics, step=0)
    parent.params({
        "training_time_seconds": round(sum(r.training_time_seconds for _, r in results), 3),
        "trainable_parameters": results[0][1].trainable_parameters,
    })  # fmt: skip
    rows = [row for fold, (_, result) in enumerate(results) for row in volume_rows(fold, result)]
    parent.table(rows, names.PER_VOLUME_ARTIFACT)
    log_best_model(session, parent, results)
    run = FamilyRun(
        run_id=parent.run_id,
        run_name=family.name,
        experiment_name=session.config.experiment,
        artifact_uri=f"runs:/{parent.run_id}",
        model=family.model.name,
        loss=family.loss.name,
        seed=family.seed,
        key=family.key,
        cells=tuple(cell.key for cell in family.cells),
        child_run_ids=tuple(run_id for run_id, _ in results),
        metrics=metrics,
    )
    parent.json(run.model_dump(mode="json"), names.TRAINING_ARTIFACT)
    return run


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
    """Mean, interval (by groups) and number of undefined values of each metric over volumes."""
    found: dict[str, float] = {}
    groups = [volume.group or volume.case for volume in volumes]
    for metric in sorted({name for volume in volumes for name in volume.values}):
        values = [volume.values.get(metric) for volume in volumes]
        found |= named(
            prefix + metric,
            statistics.interval(
                values, config=config, groups=groups, within=statistics.range_of(metric)
            ),
        )
    return found


def named(name: str, interval: Interval) -> dict[str, float]:
    """An interval as MLflow metrics; an undefined mean and its bounds are left out."""
    found = {
        name: interval.mean,
        f"{name}_ci_lower": interval.lower,
        f"{name}_ci_upper": interval.upper,
        f"{name}_ci_level": None if interval.lower is None else interval.level,
        f"{name}_n_undefined": float(interval.n_undefined),
    }
    return {key: value for key, value in found.items() if value is not None}


def best_fold(results: Sequence[CellResult]) -> int:
    """The fold whose judged weights have the highest mean primary metric, else the first."""

    def score(fold: int) -> float:
        return cell_run.fold_row(results[fold]).get(names.PRIMARY, -math.inf)

    return max(range(len(results)), key=score)


def log_best_model(session: Session, parent: Run, results: Sequence[Trained]) -> None:
    """Log the best fold's checkpoint as the parent run's MLflow model."""
    from minivess.tracking.run import model

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
    """The specification stored by a cell; its patch may differ from the one planned now."""
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


def summary_text(run: FamilyRun) -> str:
    """One line about a family: its means over the volumes of all folds, with intervals."""
    parts = []
    for name in ("dice", "cldice", names.PRIMARY):
        found = [run.metrics.get(f"eval_{name}{end}") for end in ("", "_ci_lower", "_ci_upper")]
        mean, lower, upper = found
        if mean is not None:
            bounds = "" if lower is None or upper is None else f" [{lower:.3f}, {upper:.3f}]"
            parts.append(f"{name} {mean:.3f}{bounds}")
    return f"  {run.run_name}: {', '.join(parts)} (run {run.run_id})"


def comparison(runs: Iterable[FamilyRun]) -> list[dict[str, object]]:
    """One row per family for Prefect's page and MLflow's table."""
    return [
        {"family": run.run_name, "run_id": run.run_id}
        | {
            name: float(f"{run.metrics[f'eval_{name}']:.4g}")
            for name in names.METRICS
            if f"eval_{name}" in run.metrics
        }
        for run in runs
    ]
