"""Search for settings: trials below a parent run, and the winner as an experiment file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from minivess import config as configs
from minivess import files, keys, names
from minivess.config import ExperimentConfig
from minivess.contracts import DatasetProfile
from minivess.errors import PlanError, TrainingError, UsageError
from minivess.grid import cell_run, cell_training, families, family_run, trials
from minivess.grid.context import CellContext, Watch, prepare
from minivess.grid.initial_weights import pin
from minivess.grid.trials import Suggestion, Trials
from minivess.orchestration.session import Session
from minivess.stages import dataset_identity, search_page
from minivess.stages.profile import profile_for
from minivess.text import format_duration, several, slug
from minivess.tracking.run import params
from minivess.training.grid import GRID_FIELDS

if TYPE_CHECKING:
    from minivess.tracking.run.run import Run


def search(
    session: Session, upstream: Sequence[str] = (), *, explain: bool = False
) -> dict[str, Any]:
    """Try settings until there are as many trials, or hours, as asked; returns the winner.

    With `explain`, print of each trial why it was tried and how it ended.

    Raises:
        UsageError: nothing to search, a grid of several families, or no Optuna.
        TrainingError: no trial came to an end.
    """
    require_one_family(session.config)
    session.need_store()
    dataset_identity.require_experiment(session)
    session = pin(session)
    profile = profile_for(session, upstream)
    inputs = key_inputs(session.config, profile)
    key = keys.digest(inputs)
    study = Trials(session.home.searches / "trials.db", key, session.config.search)
    asked = session.config.search.trials
    found = session.store.find(trials_key(key, asked), experiment=session.config.experiment)
    hours = session.config.search.hours
    within = "" if hours is None else f" within {format_duration(3600 * hours)}"
    session.print(f"Search    {asked} trials{within} of {', '.join(session.config.search.space)}")
    if found is not None and is_over(session.config, study):
        session.reuse("search", found.run_id)
        run_id = found.run_id
    else:
        run_id = session.orchestrator.flow(
            "search", _search, session, profile, study, inputs, parameters=session.parameters,
            title=f"search · {session.config.experiment} · {several(asked, 'trial')}",
        )  # fmt: skip
    if explain:
        for one in study.explained():
            session.print(f"  trial {one['trial']}: {one['why']}; {one['end']}")
    return outcome(session, study, run_id)


def is_over(config: ExperimentConfig, study: Trials) -> bool:
    """Whether there are as many trials as asked, or their hours are spent."""
    asked = config.search
    spent = asked.hours is not None and study.seconds >= 3600 * asked.hours
    return spent or len(study.ended) >= asked.trials


def key_inputs(config: ExperimentConfig, profile: DatasetProfile) -> keys.Ingredients:
    """Everything that decides the trials; their number does not."""
    parts = ("data", "compute", "model", "training", "evaluation", "search")
    return {
        "dataset_hash": profile.dataset_hash,
        "settings": {name: value for name, value in config.key_fields().items() if name in parts},
        "code": keys.code(keys.CELL_CODE),
        "versions": keys.versions((*keys.NUMERIC_PACKAGES, "optuna")),
    }


def trials_key(key: str, asked: int) -> str:
    """Content key of the parent run of this many trials."""
    return keys.digest([key, asked])


def require_one_family(config: ExperimentConfig) -> None:
    """Check that there is a space, and that a trial is one model, one loss and one seed.

    Raises:
        UsageError: there is none, or a trial would be several.
    """
    space, training = config.search.space, config.training
    if not space:
        raise UsageError(
            "A search needs a space, and search.space is empty.",
            remedy="minivess search configs/experiments/search.yaml, which shows one",
        )
    for name in ("models", "losses", "seeds"):
        given = getattr(training, name)
        if len(given) > 1 and f"training.{name}" not in space:
            raise UsageError(
                f"A trial has one of training.{name}, and {len(given)} are given.",
                remedy=f"training.{name}=[{given[0]}], or choices of training.{name} in the space",
            )
    fixed = {f"training.{name}" for name in GRID_FIELDS - {"models", "losses", "seeds"}}
    if training.axes or fixed & space.keys():
        raise UsageError(
            f"Trials are compared on the same folds, and each is one model; {sorted(fixed)} "
            "cannot be searched.",
            remedy="search over model.filters and the like, without training.axes",
        )


def _search(
    session: Session, profile: DatasetProfile, study: Trials, inputs: keys.Ingredients
) -> str:
    asked = session.config.search
    name, key = session.config.experiment, trials_key(keys.digest(inputs), asked.trials)
    note = f"{asked.trials} trials of {', '.join(asked.space)}, by {asked.metric}"
    with session.run(
        names.SEARCH, f"search_{slug(name)}", key, note, inputs, dataset=profile.dataset
    ) as run:
        run.params(
            {f"search_{name}": value for name, value in asked.model_dump(mode="json").items()}
            | params.data_params(profile)
            | {names.UPSTREAM_PROFILE: str(profile.run_id)}
        )
        run.dataset(profile)
        run.json({names.UPSTREAM_PROFILE: profile.run_id}, names.UPSTREAM_ARTIFACT)
        for row in study.rows():
            # Trials of an attempt that was killed belong to the one that resumes it.
            if row[trials.RUN_ID]:
                earlier = session.store.resolve(row[trials.RUN_ID])
                session.store.set_tags(earlier, {names.PARENT: run.run_id})
        progress = session.orchestrator.progress("search", "trials ended")
        while not is_over(session.config, study):
            one_trial(session, study, profile, run)
            progress(len(study.ended) / asked.trials)
        conclude(session, study, run)
        return run.run_id


def one_trial(session: Session, study: Trials, profile: DatasetProfile, run: Run) -> None:
    """Train the folds of one suggestion; a pruned or failed trial counts."""
    number, suggestion = len(study.ended), study.ask()
    own = session.with_config(configs.changed(session.config, suggestion.settings))
    tried = trials.shown(suggestion.settings)
    session.print(f"  trial {number}: {tried}")
    (family,) = families.families(own.config, profile)
    pruned = trials.optuna().TrialPruned
    try:
        grid = prepare(own, profile, [family])
        grid.probe([family], cells=1)  # chooses the threads of cells that train one by one
        with own.run(
            names.TRIAL, f"trial_{number}", keys.digest([names.TRIAL, family.key]), tried,
            family.ingredients, dataset=profile.dataset, parent=run,
            tags=cell_run.tags(grid, family),
        ) as child:  # fmt: skip
            suggestion.opened(child.run_id)
            cell_run.describe(grid, family, child)
            watched = replace(grid, watch=watcher(own.config, suggestion))
            results = [
                cell_training.train_cell(CellContext(watched, family, cell, child))
                for cell in family.cells
            ]
            metrics = family_run.aggregate(own.config.evaluation, [r for _, r in results])
            child.metrics(metrics, step=0)
        value = metrics.get(f"eval_{own.config.search.metric}")
        study.tell(suggestion, value)
        session.print(f"  trial {number}: {own.config.search.metric} {value}")
    except pruned as error:
        study.tell(suggestion, pruned=True, note=str(error))
        session.print(f"  trial {number}: {error}")
    except (TrainingError, PlanError) as error:
        study.tell(suggestion, note=error.problem)
        session.print(f"  trial {number} failed: {error.problem}", warning="other")


def watcher(config: ExperimentConfig, suggestion: Suggestion) -> Watch:
    """A callback that reports the metric of each epoch; steps count through all folds."""
    name, total = f"val_{config.search.metric}", config.training.max_epochs

    def watch(fold: int, epoch: int, metrics: dict[str, float]) -> None:
        if name in metrics:
            suggestion.report(metrics[name], fold * total + epoch)

    return watch


def conclude(session: Session, study: Trials, run: Run) -> None:
    """Store the table of trials, the winner and its file in the parent run.

    Raises:
        TrainingError: there is no winner.
    """
    rows = study.rows()
    run.table(rows, "search/trials.json")
    counts = {
        state: sum(row["state"] == state for row in rows)
        for state in ("complete", "pruned", "fail")
    }
    run.metrics({f"n_trials_{state}": float(count) for state, count in counts.items()}, step=0)
    if study.best is None:
        raise TrainingError(
            f"None of {several(len(rows), 'trial')} came to an end.",
            remedy="look at the notes of the trial runs in MLflow, and narrow search.space",
        )
    number, value, found = study.best
    run.metrics({f"best_{session.config.search.metric}": value}, step=0)
    run.tags({
        "best_trial": f"trial_{number}",
        **{f"best_{key}": json.dumps(setting) for key, setting in found.items()},
    })  # fmt: skip
    run.file(winner_file(session, study, run.run_id), "search")
    run.file(search_page.write(session, study, run.run_id), "search")


def winner_file(session: Session, study: Trials, run_id: str) -> Path:
    """Write the winner as an experiment file: the settings of the search with those it found."""
    assert study.best is not None
    number, value, found = study.best
    config = configs.changed(session.config, found)
    tree = config.model_dump(mode="json", exclude_unset=True, exclude={"search"})
    if session.env.mlflow_tracking_uri:
        tree.get("tracking", {}).pop("uri", None)
    title = (
        f"# trial_{number}, the best of {len(study.ended)}: {session.config.search.metric} "
        f"{value:.4f}.\n# Found by the search in MLflow run {run_id}.\n"
    )
    place = session.home.searches / f"{slug(session.config.experiment)}.yaml"
    return files.write_text(place, title + yaml.safe_dump(tree, sort_keys=False))


def outcome(session: Session, study: Trials, run_id: str) -> dict[str, Any]:
    """Print the winner; returns what `--json` prints."""
    assert study.best is not None
    number, value, found = study.best
    file = winner_file(session, study, run_id)
    session.print(
        f"  best of {len(study.ended)}, chosen on the folds that judged it: trial {number}, "
        f"{session.config.search.metric} {value:.4f}, {trials.shown(found)}"
    )
    session.print(f"  page  {search_page.path(session, run_id)}")
    session.print(f"  next: minivess experiment {file}")
    return {
        "search_run_id": run_id,
        "trials": study.explained(),
        "page": str(search_page.path(session, run_id)),
        "best": {"trial": number, "value": value, "settings": found},
        "file": str(file),
        "reused": session.reused,
    }
