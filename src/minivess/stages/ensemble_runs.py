"""A run for each ensemble of an analysis, with a registered model that names its members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minivess import keys, names
from minivess.contracts import AnalysisResult, DatasetProfile, FoldModel, Scores, TrainingResult
from minivess.grid import family_run
from minivess.orchestration.model_versions import version_of
from minivess.orchestration.session import Session
from minivess.text import several, slug
from minivess.tracking.run import params
from minivess.tracking.store import registry

if TYPE_CHECKING:
    from minivess.tracking.run.run import Run

CODE = ("combination.py", "inference.py", "networks.py", "tracking/run/ensemble.py")


def store_ensembles(
    session: Session,
    parent: Run,
    training: TrainingResult,
    profile: DatasetProfile,
    models: Sequence[FoldModel],
    result: AnalysisResult,
) -> AnalysisResult:
    """Store and register every ensemble; returns the result with the ids of their runs."""
    made = {}
    for one in (*result.ensembles, *(one for one in result.test if one.how == "fold_soup")):
        run_id = store_ensemble(session, parent, training, profile, models, one)
        tags = {"ensemble": one.how, names.DATASET_HASH: profile.dataset_hash}
        version = version_of(session, training.experiment, run_id, tags)
        registry.set_alias(session.store, training.experiment, slug(one.name), version)
        made[one.name] = run_id
    champion = result.champion
    champion = champion.replace(run_id=made.get(champion.family, champion.run_id))
    ensembles, test = (
        tuple(one.replace(run_id=made.get(one.name)) for one in judged)
        for judged in (result.ensembles, result.test)
    )
    return result.replace(ensembles=ensembles, test=test, champion=champion)


def store_ensemble(
    session: Session,
    parent: Run,
    training: TrainingResult,
    profile: DatasetProfile,
    models: Sequence[FoldModel],
    scores: Scores,
) -> str:
    """Store one ensemble as a run below its analysis, unless one has the same key."""
    from minivess.tracking.run import ensemble, model

    families = dict.fromkeys((*scores.members, *sum(scores.by_fold.values(), ())))
    whole = ensemble.Members(
        how="mean" if scores.how == "greedy" else scores.how,
        families=scores.members,
        by_fold=scores.by_fold,
        members=ensemble.members(models, list(families)),
    )
    inputs = {
        "ensemble": scores.name,
        "members": whole.model_dump(mode="json"),
        "scores": [volume.model_dump(mode="json") for volume in scores.volumes],
        "code": keys.code(CODE),
    }
    key = keys.digest(inputs)
    known = session.find(key, experiment=names.EVALUATION_EXPERIMENT)
    if known is not None:
        return known.run_id
    note = f"{scores.how} of {several(len(scores.members), 'family')}: {', '.join(scores.members)}"
    with session.run(
        names.ENSEMBLE, scores.name, key, note, inputs, dataset=profile.dataset, parent=parent
    ) as run:
        upstream = {
            names.UPSTREAM_PROFILE: training.data_profile_run_id,
            names.UPSTREAM_TRAINING: _first_member(training, scores),
            names.UPSTREAM_EXPERIMENT: training.experiment,
        }
        run.params(upstream | params.data_params(profile) | {"ensemble_how": scores.how})
        run.dataset(profile)
        ids = [one.run_id for one in training.families if one.run_name in families]
        run.json(
            upstream | {
                "upstream_training_run_ids": ids,
                "upstream_fold_run_ids": [one.run_id for one in whole.members],
            },
            names.UPSTREAM_ARTIFACT,
        )  # fmt: skip
        for metric, interval in scores.intervals.items():
            run.metrics(family_run.named(f"eval_{metric}", interval), step=0)
        run.metrics({"trainable_parameters": float(scores.trainable_parameters)}, step=0)
        rows = [{"case": one.case, "group": one.group, **one.values} for one in scores.volumes]
        run.table(rows, names.PER_VOLUME_ARTIFACT)
        model.log_ensemble(run, whole)
    return session.store.resolve(run.run_id)


def _first_member(training: TrainingResult, scores: Scores) -> str:
    return next(one.run_id for one in training.families if one.run_name in scores.members)
