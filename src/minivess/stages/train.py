"""Flow 2, for the data scientist: plan, train the grid, judge each fold, register the models."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minivess import names
from minivess.compute.reporting import plan_page
from minivess.contracts import DatasetProfile, FamilyRun, RunRecord, TrainingResult
from minivess.errors import PlanError, StoreError
from minivess.grid import cell_run, cell_training, families, family_run, parallel
from minivess.grid.context import CellContext, GridContext, prepare
from minivess.grid.initial_weights import pin
from minivess.orchestration import model_versions, publication, results
from minivess.orchestration.base import within
from minivess.orchestration.session import Session
from minivess.stages import dataset_identity, hours
from minivess.stages.profile import profile_for
from minivess.text import dashed, format_duration, format_shape, several

ASK_ABOVE_HOURS = 12.0
LIMIT, SHORTEST_S = 3.0, 1800.0
"""How often its forecast a training may take, and seconds that it may always take."""


def train(session: Session, upstream: Sequence[str] = ()) -> TrainingResult:
    """Train every cell of the grid that is not trained yet, and register the models.

    Args:
        upstream: id of a profile run; default, the data of the settings as they are now.
    """
    dataset_identity.require_experiment(session)
    session = pin(session)
    profile = profile_for(session, upstream)
    session = hours.fitted(session, profile)
    asked = families.families(session.config, profile)
    n_cells = sum(len(family.cells) for family in asked)
    session.print(f"Train     {several(len(asked), 'family')}, {several(n_cells, 'cell')}")
    for note in dict.fromkeys(note for family in asked for note in family.split.notes):
        session.print(f"  note: {note}")
    finished = {family.key: reusable(session, family, profile) for family in asked}
    missing = [family for family in asked if finished[family.key] is None]
    if missing:
        finished |= session.orchestrator.flow(
            "train", _train, session, profile, missing, parameters=session.parameters,
            title=f"train · {session.config.experiment} · {grid_text(missing)}",
        )  # fmt: skip
    result = TrainingResult(
        experiment=session.config.experiment,
        data_profile_run_id=str(profile.run_id),
        dataset_hash=profile.dataset_hash,
        families=tuple(run for family in asked if (run := finished[family.key]) is not None),
    )
    for run in result.families if missing else ():
        session.print(family_run.summary_text(run))
    publication.publish(
        session, result, lambda _: model_versions.register_families(session, result)
    )
    return result


def grid_text(asked: Sequence[families.Family]) -> str:
    """The size of a grid, `1 model x 2 folds`; losses and seeds where there are several."""
    sides: dict[str, set[Any]] = {
        "model": {one.model.name for one in asked},
        "loss": {one.loss.name for one in asked},
        "seed": {one.seed for one in asked},
    }
    shown = [several(len(v), k) for k, v in sides.items() if k == "model" or len(v) > 1]
    return " x ".join([*shown, several(len(asked[0].cells), "fold")])


def outcome(session: Session, result: TrainingResult) -> dict[str, Any]:
    """Ids and metrics of the training for `--json` and Prefect."""
    return {
        "experiment": result.experiment,
        "training_run_ids": list(result.run_ids),
        "data_profile_run_id": result.data_profile_run_id,
        "metrics": {family.run_name: family.metrics for family in result.families},
        "reused": session.reused,
    }


def _train(
    session: Session, profile: DatasetProfile, missing: Sequence[families.Family]
) -> dict[str, FamilyRun | None]:
    if not session.store.unreachable:
        session.store.probe_write()
    grid = prepare(session, profile, missing)
    hours = None if session.config.training.deployment else forecast(grid, missing)
    session.grid_progress.expect(sum(len(family.cells) for family in missing))
    with limited(session, hours):
        if parallel.is_parallel(grid):
            trained = parallel.train(grid, missing)
        else:
            trained = {family.key: train_family(grid, family) for family in missing}
    session.orchestrator.table(
        "losses", family_run.comparison(trained.values()), "Families on their folds"
    )
    for run in trained.values():
        key = f"mlflow-{dashed(run.run_name)}"
        session.orchestrator.link(key, session.page_of(run.run_id), f"{run.run_name} in MLflow")
    return dict(trained)


@contextmanager
def limited(session: Session, hours: float | None) -> Iterator[None]:
    """Stop the block at `training.time_limit_s`, and warn when two thirds of that are over.

    Args:
        hours: the forecast; None where workers of a pool plan for themselves.

    Raises:
        OrchestrationError: the time is over.
    """
    given = session.config.training.time_limit_s
    if given == "auto" and hours is not None:
        given = int(max(LIMIT * 3600 * hours, SHORTEST_S))
    if given is None or given == "auto":
        yield
        return
    warning = threading.Timer(
        given * 2 / 3,
        session.print,
        [f"  the training takes longer than its forecast; in {format_duration(given / 3)} it is "
         "stopped, and the same command resumes it (training.time_limit_s)"],
        {"warning": "time"},
    )  # fmt: skip
    warning.start()
    try:
        with within(given, "train", "training.time_limit_s"):
            yield
    finally:
        warning.cancel()


def train_family(grid: GridContext, family: families.Family) -> FamilyRun:
    """Open a parent run, train each fold in a child run, and aggregate their metrics."""
    session = grid.session
    with family_run.opened(grid, family) as parent:
        cells = [CellContext(grid, family, cell, parent) for cell in family.cells]
        results = [
            session.orchestrator.task(context.title, cell_training.train_cell, context)
            for context in cells
        ]
        return family_run.finish(session, family, parent, results)


def reusable(
    session: Session, family: families.Family, profile: DatasetProfile
) -> FamilyRun | None:
    """The finished parent run of this family, if it holds everything and may be reused."""
    retrain, experiment = session.config.training.retrain, session.config.experiment
    if retrain == "always":
        return None
    record = session.find(family.key, experiment=experiment)
    if record is None and retrain == "never":
        record = newest_of_name(session, family, profile)
    if record is None:
        return None
    try:
        results.require_complete(session, record, names.FAMILY)
        run = results.read(session, record, FamilyRun)
        for child in run.child_run_ids:
            cell_run.read_result(session, child)
    except StoreError as error:
        session.print(f"  {family.name} is not reused: {error.problem}", warning="other")
        return None
    session.reuse(f"{family.name}, {several(len(family.cells), 'fold')}", run.run_id)
    return run


def newest_of_name(session: Session, family: families.Family, profile: DatasetProfile) -> RunRecord:
    """The newest finished run of this name and data, whatever its settings (retrain=never)."""
    for record in session.store.search(
        experiment=session.config.experiment, kind=names.FAMILY, status="FINISHED", name=family.name
    ):
        if record.params.get(names.DATASET_HASH) == profile.dataset_hash:
            return record
    raise StoreError(
        f"training.retrain=never, but {family.name} has no finished run on this data.",
        remedy="leave out training.retrain, so that what is missing trains",
    )


def forecast(grid: GridContext, missing: Sequence[families.Family]) -> float:
    """Print what the grid will cost, in hours; on a CPU, above twelve, go on only with --yes.

    Raises:
        PlanError: the grid is forecast above twelve hours and --yes was not given.
    """
    session, total = grid.session, 0.0
    for name in grid.models:
        those = [family for family in missing if family.model.name == name]
        n_cells = sum(len(family.cells) for family in those)
        cost = grid.probe(those, cells=sum(len(family.cells) for family in missing))
        plan = grid.models[name].plan
        page = plan_page.markdown(plan, cost, grid.hardware)
        session.orchestrator.markdown(f"plan-{dashed(name)}", page)
        total += cost.total_hours
        judged = "" if plan.mixed_precision == "none" else ", reported figures in float32"
        session.print(
            f"  {name}: patch {format_shape(plan.patch_size)}, batch {plan.batch_size}, "
            f"{plan.device}, {plan.mixed_precision} precision{judged}; forecast for "
            f"{several(n_cells, 'cell')}: {cost.seconds_per_epoch:.1f} s per epoch, "
            f"{plan_page.duration(cost)}"
        )
        if plan.parallel_cells > 1:
            session.print(f"  {plan.choices['parallel_cells'].reason}")
    on_cpu = any(model.plan.device == "cpu" for model in grid.models.values())
    if on_cpu and total > ASK_ABOVE_HOURS and not session.yes:
        raise PlanError(
            f"On this CPU the grid would take about {format_duration(3600 * total)}.",
            remedy="add --yes to start it all the same, or use the small grid: "
            + session.command("experiment configs/experiments/lite.yaml"),
        )
    return total
