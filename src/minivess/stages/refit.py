"""Train the champion again on every volume of the folds: a model to use, never to score.

No volume is left to judge it by, so when to stop is fixed beforehand: after as many epochs as the
judged weights of the champion's folds had on average, with the schedule shortened to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from minivess import names
from minivess.config import ExperimentConfig
from minivess.contracts import (
    AnalysisResult,
    CellResult,
    DatasetProfile,
    FamilyRun,
    Fold,
    RunRecord,
)
from minivess.errors import StoreError
from minivess.grid import cell_run, cell_training, families, family_run
from minivess.grid.context import CellContext, prepare
from minivess.grid.initial_weights import pin
from minivess.orchestration import handoff, results
from minivess.orchestration.model_versions import register_refit
from minivess.orchestration.session import Session


def refit(session: Session, upstream: Sequence[str] = ()) -> str:
    """Train the champion of an analysis on all volumes unless that was done; returns the run's id.

    Raises:
        StoreError: no analysis yet, or its champion was trained with other settings than these.
    """
    session.need_store()
    session = pin(session)
    analysis = handoff.receive_analysis(session, upstream)
    record = session.store.get(analysis.champion.run_id)
    profile = handoff.profile_used(session, record)
    champion = champion_family(session, profile, record)
    folds = results.read(session, record, FamilyRun).child_run_ids
    epochs = stopping_epoch([cell_run.read_result(session, run_id) for run_id in folds])
    rule = (
        f"{epochs} epochs: the mean of the judged epochs of the {len(champion.cells)} folds of "
        f"{champion.name}, with the schedule shortened to them"
    )
    session = session.with_config(shortened(session.config, epochs))
    family = on_all_volumes(session, profile, champion)
    session.print(
        f"Refit     {champion.name} on {len(family.split.folds[0].train)} volumes, {rule}"
    )
    found = session.store.find(family.key, experiment=session.config.experiment)
    reusable = session.config.training.retrain != "always"
    if found is not None and reusable and results.is_complete(session, found, names.REFIT):
        session.reuse(family.name, found.run_id)
        run_id = found.run_id
    else:
        run_id = session.orchestrator.flow(
            "refit", _refit, session, analysis, profile, family, rule,
            parameters=session.parameters, title=f"refit · {session.config.experiment}",
        )  # fmt: skip
    register_refit(session, analysis, run_id)
    return run_id


def champion_family(
    session: Session, profile: DatasetProfile, record: RunRecord
) -> families.Family:
    """The champion as a family of the grid of these settings.

    Raises:
        StoreError: it was trained with other settings.
    """
    for family in families.families(session.config, profile):
        if family.key == record.tag(names.KEY):
            return family
    raise StoreError(
        f"The champion {record.name} (run {record.run_id}) was not trained with these settings, so "
        "they cannot train it again.",
        remedy=f"give the settings of that training, or run `{session.command('train')}` and "
        f"`{session.command('analyse')}` first",
    )


def stopping_epoch(folds: Sequence[CellResult]) -> int:
    """Mean number of epochs of the folds' judged weights (`judged_epoch` counts from 0)."""
    return max(1, round(sum(fold.judged_epoch + 1 for fold in folds) / len(folds)))


def shortened(config: ExperimentConfig, epochs: int) -> ExperimentConfig:
    """The settings with this many epochs and without early stopping."""
    training = config.training.model_copy(
        update={
            "max_epochs": epochs,
            "extends": None,
            "warmup_epochs": min(config.training.warmup_epochs, epochs - 1),
            "early_stopping_patience": 0,
        }
    )
    return config.model_copy(update={"training": training})


def on_all_volumes(
    session: Session, profile: DatasetProfile, champion: families.Family
) -> families.Family:
    """The champion with one fold, in which every volume but the held-out test set trains."""
    fold = champion.split.folds[0]
    everything = Fold(index=0, train=tuple(sorted({*fold.train, *fold.val})), val=())
    split = champion.split.replace(folds=(everything,))
    model, loss, seed = champion.model, champion.loss.name, champion.seed
    family = families.family(
        session.config, profile, model=model, loss=loss, seed=seed, parts=split
    )
    return replace(family, name=f"{champion.name}_all")


def _refit(
    session: Session,
    analysis: AnalysisResult,
    profile: DatasetProfile,
    family: families.Family,
    rule: str,
) -> str:
    grid = prepare(session, profile, [family])
    grid.probe([family])  # chooses the threads
    note = f"{analysis.champion.family}, the champion, on all volumes; never scored. {rule}."
    tags = cell_run.tags(grid, family) | {"stopping_rule": rule}
    with session.run(
        names.REFIT, family.name, family.key, note, family.ingredients,
        dataset=profile.dataset, tags=tags,
    ) as run:  # fmt: skip
        cell_run.describe(grid, family, run)
        run.params({
            names.UPSTREAM_TRAINING: analysis.champion.run_id,
            names.UPSTREAM_ANALYSIS: str(analysis.run_id),
        })  # fmt: skip
        trained = cell_training.train_cell(CellContext(grid, family, family.cells[0], run))
        run.metrics({"trainable_parameters": float(trained[1].trainable_parameters)}, step=0)
        family_run.log_best_model(session, run, [trained])
        return run.run_id
