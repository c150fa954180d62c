"""One fold of one family: reused, published from a whole local result, or trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows import handoff
from flows.grid import Cell, Family
from flows.ground import Ground
from flows.session import Session
from minivess import files, home, names
from minivess.contracts import CellResult, CellSpec
from minivess.errors import StoreError

if TYPE_CHECKING:
    from minivess.tracking.run import Run

Trained = tuple[str, CellResult]
"""The child run's id and what the cell left behind."""


def train_cell(session: Session, ground: Ground, axes: tuple[Family, Cell, Run]) -> Trained:
    """The result of one cell, whichever of three ways leads to it."""
    family, cell, parent = axes
    title = f"{family.name} fold {cell.fold.index}"
    found = reusable(session, cell)
    if found is not None:
        session.reuse(title, found[0])
        return found
    folder = session.home.cells / cell.key
    with home.lock(folder.with_suffix(".lock"), what=f"training {title}", wait=True):
        if session.config.training.retrain == "always":
            shutil.rmtree(folder, ignore_errors=True)
        return train_and_publish(session, ground, (family, cell, parent), folder)


def train_and_publish(
    session: Session, ground: Ground, axes: tuple[Family, Cell, Run], folder: Path
) -> Trained:
    """Open the child run, train or take the finished local result, and store all of it."""
    from minivess.tracking.run import recorded
    from minivess.training import trainer

    family, cell, parent = axes
    spec = ground.spec(session, family, cell)
    plan = ground.models[family.model.name][1]
    progress = session.orchestra.progress(
        f"training-{handoff.slug(family.name).replace('_', '-')}-{cell.fold.index}",
        "epochs trained",
    )
    with recorded(
        session.store,
        experiment=session.config.experiment,
        name=f"{family.name}_fold{cell.fold.index}",
        kind=names.CELL,
        key=cell.key,
        note=f"{spec.model}, {spec.loss.formula}, fold {cell.fold.index}: "
        f"{len(cell.fold.train)} volumes train, {len(cell.fold.val)} validate",
        dataset=ground.profile.dataset,
        config=session.config,
        ingredients=cell.ingredients,
        launched_by=session.launched_by,
        parent=parent,
        tags=tags(session, ground, family) | {"fold_id": str(cell.fold.index)},
    ) as run:
        describe(session, ground, family, run, cell=cell)

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            run.metrics(metrics, step=epoch)
            progress((epoch + 1) / session.config.training.max_epochs)
            tell(session, family, cell, epoch, metrics)

        result = trainer.complete(folder, cell.key)
        if result is not None:
            for epoch, metrics in history(folder):
                run.metrics(metrics, step=epoch)
        else:
            result = trainer.train_cell(
                spec,
                plan,
                session.config,
                ground.cases,
                folder=folder,
                on_epoch=on_epoch,
                on_figure=lambda figure: run.file(figure, "figures/predictions"),
            )
        publish(run, folder, spec, result)
    return run.run_id, result


def publish(run: Run, folder: Path, spec: CellSpec, result: CellResult) -> None:
    """Everything that a finished cell left behind, into its run."""
    from minivess import networks

    run.params({
        "training_time_seconds": round(result.training_time_seconds, 3),
        "trainable_parameters": result.trainable_parameters,
    })  # fmt: skip
    run.metrics({f"untrained_{name}": value for name, value in result.untrained.items()}, step=0)
    run.metrics({"trainable_parameters": float(result.trainable_parameters)}, step=0)
    run.tags({f"best_{name}": f"{value:.6g}" for name, value in result.best.items()})
    for name in names.CHECKPOINTS:
        if name in result.files:
            run.file(folder / name, "checkpoints")
    run.file(folder / names.HISTORY, str(Path(names.HISTORY_ARTIFACT).parent))
    for figure in sorted((folder / "figures").rglob("*.png")):
        run.file(figure, figure.parent.relative_to(folder).as_posix())
    run.text(str(networks.build(spec.network)), "model_summary.txt")
    run.table(volume_rows(spec.fold.index, result), names.PER_VOLUME_ARTIFACT)
    run.json(spec.model_dump(mode="json"), names.SPEC_ARTIFACT)
    run.json(result.model_dump(mode="json"), names.RESULT_ARTIFACT)


def history(folder: Path) -> Sequence[tuple[int, dict[str, float]]]:
    """The metrics of each epoch as the trainer stored them."""
    return [(row["epoch"], row["metrics"]) for row in files.read_json(folder / names.HISTORY)]


def reusable(session: Session, cell: Cell) -> Trained | None:
    """The finished child run of this key, if it is whole and may serve."""
    if session.config.training.retrain == "always":
        return None
    record = session.store.find(cell.key, experiment=session.config.experiment)
    if record is None:
        return None
    try:
        return record.run_id, require_whole(session, record.run_id)
    except StoreError as error:
        session.say(f"  fold {cell.fold.index} is not reused: {error.problem}")
        return None


def require_whole(session: Session, run_id: str) -> CellResult:
    """The result that a child run holds.

    Raises:
        StoreError: its result is missing, or a checkpoint has not the size recorded for it.
    """
    result = CellResult.model_validate(session.store.read_json(run_id, names.RESULT_ARTIFACT))
    held = session.store.artifacts(run_id)
    for name in names.CHECKPOINTS:
        if name in result.files and held.get(f"checkpoints/{name}") != result.files[name]:
            raise StoreError(
                f"checkpoints/{name} of run {run_id} has {held.get(f'checkpoints/{name}')} bytes "
                f"where {result.files[name]} were written.",
                remedy="let the cell train again: it will, unless training.retrain=never",
            )
    return result


def describe(
    session: Session, ground: Ground, family: Family, run: Run, cell: Cell | None = None
) -> None:
    """Every param and input artifact of a parent or child run, before the first step."""
    from minivess.tracking import params

    network, plan = ground.models[family.model.name]
    fold = cell.fold if cell else None
    run.params(
        params.training_params(session.config, plan, seed=family.seed)
        | params.arch_params(network)
        | params.loss_params(family.loss)
        | params.evaluation_params(session.config.evaluation)
        | params.data_params(ground.profile, family.split, fold)
        | {names.UPSTREAM_PROFILE: str(ground.profile.run_id), "fold_ids": fold_ids(family, cell)}
    )
    run.dataset(ground.profile)
    run.json(plan.model_dump(mode="json"), names.PLAN_ARTIFACT)
    run.json(ground.profile.model_dump(mode="json"), names.PROFILE_ARTIFACT)
    run.json({names.UPSTREAM_PROFILE: ground.profile.run_id}, names.UPSTREAM_ARTIFACT)
    split_file = f"splits/{len(family.split.folds)}fold_seed{family.split.seed}.json"
    run.json(family.split.model_dump(mode="json"), split_file)
    run.json(fold_details(family), "splits/fold_details.json")


def fold_ids(family: Family, cell: Cell | None) -> str:
    """`0` in a child, `0,1,2` in a parent."""
    return ",".join(str(part.fold.index) for part in ([cell] if cell else family.cells))


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


def tags(session: Session, ground: Ground, family: Family) -> dict[str, str]:
    """What MLflow's page filters training runs by."""
    network, plan = ground.models[family.model.name]
    return {
        "loss_function": family.loss.name,
        "loss_type": family.loss.name,
        "num_folds": str(len(family.cells)),
        "model_family": network.family,
        "model_name": network.name,
        "compute_profile": plan.tier,
        "experiment_group": session.config.experiment,
    }


def volume_rows(fold: int, result: CellResult) -> list[dict[str, object]]:
    """One row per validation volume."""
    return [
        {"fold": fold, "case": volume.case, "group": volume.group, **volume.values}
        for volume in result.volumes
    ]


def tell(
    session: Session, family: Family, cell: Cell, epoch: int, metrics: dict[str, float]
) -> None:
    """One plain line per epoch, so that a log shows that training lives."""
    shown = " ".join(
        f"{name} {metrics[name]:.3f}"
        for name in ("train_loss", "val_loss", "val_dice", f"val_{names.PRIMARY}")
        if name in metrics
    )
    session.say(
        f"  {family.name} fold {cell.fold.index} "
        f"epoch {epoch + 1}/{session.config.training.max_epochs}  {shown}"
    )
