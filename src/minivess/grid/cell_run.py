"""The MLflow run of one cell: progress, parameters, results, and whether it can be reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from minivess import names
from minivess.compute.reporting import network_summary, plan_page
from minivess.contracts import CellResult, CellSpec, ComputePlan
from minivess.errors import StoreError
from minivess.grid import initial_weights
from minivess.grid.context import CellContext, GridContext
from minivess.grid.families import Cell, Family
from minivess.orchestration import results
from minivess.orchestration.progress import share
from minivess.orchestration.session import Session
from minivess.text import dashed
from minivess.tracking.run import params
from minivess.tracking.run.run import Run
from minivess.tracking.store import run_files
from minivess.training.monitoring.watchdog import HEARTBEAT_S, ProgressEvent, progress_text

if TYPE_CHECKING:
    from minivess.training.trainer import Callbacks

SENT_S = 60.0
"""Seconds between checkpoints that a cell on a work pool sends to the store."""
SHOWN = ("train_loss", "val_loss", "val_dice", f"val_{names.PRIMARY}")
Trained = tuple[str, CellResult]
"""Id of the child run, and the result of the cell."""


@contextmanager
def callbacks(context: CellContext, run: Run) -> Iterator[Callbacks]:
    """Callbacks that report progress to the child run, the terminal and Prefect's page.

    The training waits for one write per epoch and for the grid's `watch`, which may raise to end
    the cell; pages are updated by a thread.
    """
    from minivess.training.trainer import Callbacks

    session, cell = context.session, context.cell
    total = session.config.training.max_epochs
    slug = dashed(f"{context.family.name}-{cell.fold.index}")
    progress = session.orchestrator.progress(f"training-{slug}", "epochs trained")
    beaten, send = 0.0, checkpoint_sender(context, run)
    with session.grid_progress.cell(context.title) as bar:

        def epoch(number: int, metrics: dict[str, float], left_s: float | None) -> None:
            run.metrics(metrics, step=number)
            if left_s is not None:  # None: trained before a resume and only repeated
                shown = " ".join(f"{name} {metrics[name]:.3f}" for name in SHOWN if name in metrics)
                bar.epoch(ProgressEvent(number, total, 1, 1, left_s), shown)
                send()
            context.grid.watch(cell.fold.index, number, metrics)

        def figure(path: Path) -> None:
            run.file(path, (Path("figures") / path.parent.relative_to(context.folder)).as_posix())

        def beat(now: ProgressEvent) -> None:
            nonlocal beaten
            bar.beat(now)
            progress(share(now))
            if time.monotonic() - beaten >= HEARTBEAT_S:
                beaten = time.monotonic()
                run.tags({names.HEARTBEAT: f"{datetime.now(UTC):%FT%TZ} {progress_text(now)}"})

        def stall(stack: Path | None) -> None:
            what = "over since" if stack is None else "since"
            run.tags({names.STALLED: f"{what} {datetime.now(UTC):%FT%TZ}"})
            if stack is not None:
                run.file(stack, "logs")

        def resumed(done: int) -> None:
            session.print(f"  {context.title} resumes after epoch {done}")

        yield Callbacks(epoch, figure, beat, stall, resumed)
    progress(1.0)


def checkpoint_sender(context: CellContext, run: Run) -> Callable[[], None]:
    """A function that sends checkpoints to the store at times, for another worker to resume from.

    It does nothing where all processes of the grid share this folder.
    """
    sent = -SENT_S if context.session.config.training.deployment else float("inf")

    def send() -> None:
        nonlocal sent
        if time.monotonic() - sent < SENT_S:
            return
        sent = time.monotonic()
        for path in (context.folder / name for name in names.CHECKPOINTS):
            if path.exists():
                run.file(path, "checkpoints")

    return send


def publish(run: Run, folder: Path, spec: CellSpec, result: CellResult) -> None:
    """Store everything that a finished cell left in its folder in its run."""
    run.params({
        "training_time_seconds": round(result.training_time_seconds, 3),
        "trainable_parameters": result.trainable_parameters,
    })  # fmt: skip
    run.metrics({f"untrained_{name}": value for name, value in result.untrained.items()}, step=0)
    run.metrics({f"time_share_{part}": x for part, x in result.time_shares.items()}, step=0)
    run.metrics({"trainable_parameters": float(result.trainable_parameters)}, step=0)
    best = {f"best_{name}": value for name, value in result.best.items()}
    run.tags({name: f"{value:.6g}" for name, value in best.items()})
    run.row = best | fold_row(result) | {"n_volumes": len(result.volumes)}
    for name in (*names.CHECKPOINTS, names.FINAL):
        if name in result.files:
            run.file(folder / name, "checkpoints")
    run.file(folder / names.HISTORY, str(Path(names.HISTORY_ARTIFACT).parent))
    run.text(network_summary.summary(spec.network, spec.patch), "model_summary.txt")
    run.table(volume_rows(spec.fold.index, result), names.PER_VOLUME_ARTIFACT)
    run.json(spec.model_dump(mode="json"), names.SPEC_ARTIFACT)
    run.json(result.model_dump(mode="json"), names.RESULT_ARTIFACT)


def fold_row(result: CellResult) -> dict[str, float]:
    """The mean of each metric over the validation volumes in which it is defined.

    `<distance>_n_undefined` is the number of volumes for which a distance is undefined.
    """
    from minivess.evaluation import metrics

    rows = [volume.values for volume in result.volumes]
    means = metrics.mean(rows)
    undefined = {
        f"{name}_n_undefined": float(metrics.undefined(rows, name))
        for name in means
        if names.stem(name) in names.DISTANCES
    }
    return {name: value for name, value in means.items() if value is not None} | undefined


def reusable(session: Session, cell: Cell) -> Trained | None:
    """The finished child run of this key, if it is complete and may be reused."""
    if session.config.training.retrain == "always":
        return None
    record = session.find(cell.key, experiment=session.config.experiment)
    if record is None:
        return None
    try:
        return record.run_id, read_result(session, record.run_id)
    except StoreError as error:
        session.print(f"  fold {cell.fold.index} is not reused: {error.problem}", warning="other")
        return None


def read_result(session: Session, run_id: str) -> CellResult:
    """The result that a complete child run holds.

    Raises:
        StoreError: its result is missing, or a checkpoint has another size than was recorded.
    """
    record = session.store.get(run_id)
    results.require_complete(session, record, names.CELL)
    result = results.read(session, record, CellResult)
    held = run_files.artifact_names(session.store, record)
    for name in (*names.CHECKPOINTS, names.FINAL):
        if name in result.files and held.get(f"checkpoints/{name}") != result.files[name]:
            raise StoreError(
                f"checkpoints/{name} of run {run_id} has {held.get(f'checkpoints/{name}')} bytes "
                f"where {result.files[name]} were written.",
                remedy="let the cell train again: it will, unless training.retrain=never",
            )
    return result


def describe(
    grid: GridContext,
    family: Family,
    run: Run,
    *,
    plan: ComputePlan | None = None,
    cell: Cell | None = None,
) -> None:
    """Every param and input artifact of a parent run, or of the child run of `cell`.

    `plan` is the cell's own where it differs from its model's.
    """
    profile, split, (network, shared, cost) = grid.profile, family.split, grid.model(family)
    plan = plan or shared
    cells = [cell] if cell else family.cells
    begun = initial_weights.upstream(grid.session)
    run.params(
        params.training_params(grid.session.config, plan, seed=family.seed)
        | params.arch_params(network, plan.divisor)
        | params.loss_params(family.loss)
        | params.evaluation_params(grid.session.config.evaluation)
        | params.data_params(profile, split, cell.fold if cell else None)
        | {
            names.UPSTREAM_PROFILE: str(profile.run_id),
            **({names.UPSTREAM_INIT: begun} if begun else {}),
            "fold_ids": ",".join(str(one.fold.index) for one in cells),
        }
    )
    run.dataset(profile)
    run.json(plan.model_dump(mode="json"), names.PLAN_ARTIFACT)
    if cost is not None:
        run.text(plan_page.markdown(plan, cost, grid.hardware), names.PLAN_PAGE_ARTIFACT)
    run.json(profile.model_dump(mode="json"), names.PROFILE_ARTIFACT)
    above = {names.UPSTREAM_PROFILE: profile.run_id, names.UPSTREAM_INIT: begun}
    run.json({name: run_id for name, run_id in above.items() if run_id}, names.UPSTREAM_ARTIFACT)
    split_file = f"splits/{len(split.folds)}fold_seed{split.seed}.json"
    run.json(split.model_dump(mode="json"), split_file)
    run.json(fold_details(family), "splits/fold_details.json")


def fold_details(family: Family) -> list[dict[str, object]]:
    """The folds with their sizes and keys."""
    return [
        {
            "fold": cell.fold.index,
            "key": cell.key,
            "n_train": len(cell.fold.train),
            "n_val": len(cell.fold.val),
            "train": list(cell.fold.train),
            "val": list(cell.fold.val),
        }
        for cell in family.cells
    ]


def tags(grid: GridContext, family: Family) -> dict[str, str]:
    """Tags that MLflow's page filters training runs by."""
    network, plan, _ = grid.model(family)
    return {
        "loss_function": family.loss.name,
        "loss_type": family.loss.name,
        "num_folds": str(len(family.cells)),
        "model_family": network.family,
        "model_name": network.name,
        "compute_profile": plan.tier,
    }


def volume_rows(fold: int, result: CellResult) -> list[dict[str, object]]:
    """One row per validation volume."""
    return [
        {"fold": fold, "case": volume.case, "group": volume.group, **volume.values}
        for volume in result.volumes
    ]
