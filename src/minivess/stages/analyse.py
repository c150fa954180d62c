"""Flow 3, for the research scientist: judge, combine, choose a champion, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import keys, names
from minivess.config import ExperimentConfig, ResamplingConfig
from minivess.contracts import (
    AnalysisResult,
    DatasetProfile,
    FoldModel,
    Interval,
    TrainingResult,
)
from minivess.errors import StoreError
from minivess.grid import context, family_run
from minivess.orchestration import handoff
from minivess.orchestration.model_versions import champion_tags, tag_champion, version_numbers
from minivess.orchestration.session import Session
from minivess.orchestration.stage import stage
from minivess.stages import dataset_identity
from minivess.text import several

if TYPE_CHECKING:
    from minivess.analysis.formatting import Unit
    from minivess.tracking.run.run import Run


def analyse(session: Session, upstream: Sequence[str] = ()) -> AnalysisResult:
    """Judge every family out of fold and choose the champion, or find that this was done."""
    session.need_store()
    dataset_identity.require(session)
    training = handoff.receive_training(session, upstream)
    session.say(f"Analyse   {several(len(training.families), 'family')} of {training.experiment}")
    inputs = key_inputs(session, training)
    key = keys.digest(inputs)
    return stage(
        session,
        names.ANALYSIS,
        key,
        lambda: _analyse(session, training, inputs, key),
        reuse=lambda found: named(training, version_numbers(session, training), found),
        follow=lambda result, _: tag_champion(session, result),
    )


def outcome(session: Session, result: AnalysisResult) -> dict[str, Any]:
    """Ids, champion and report of the analysis for `--json` and Prefect."""
    return {
        "analysis_run_id": result.run_id,
        "training_run_ids": list(result.training_run_ids),
        "champion": champion_figures(result),
        "report": str(report_page(session, str(result.run_id))),
        "reused": session.reused,
    }


def champion_figures(analysis: AnalysisResult) -> dict[str, Any]:
    """The champion with the figures that a reader asks for first."""
    judged = next(f for f in analysis.families if f.name == analysis.champion.family)
    test = [one.intervals["dice"].mean for one in analysis.test if one.name == judged.name]
    return {
        "family": analysis.champion.family,
        "run_id": analysis.champion.run_id,
        "metric": analysis.champion.metric,
        "value": analysis.champion.value,
        "dice": judged.intervals["dice"].mean,
        "untrained_dice": analysis.untrained["dice"],
        **({"test_dice": test[0]} if test else {}),
        "reason": analysis.champion.reason,
    }


def report_page(session: Session, analysis_run_id: str) -> Path:
    """The report of an analysis on this machine, fetched from MLflow where it is not here."""
    path = session.home.reports / analysis_run_id / "report.html"
    if path.is_file():
        return path
    return session.store.download(analysis_run_id, names.REPORT_ARTIFACT, path.parent)


def _analyse(
    session: Session, training: TrainingResult, inputs: keys.Ingredients, key: str
) -> AnalysisResult:
    name, profile = training.experiment, profile_used(session, training)
    note = f"Out-of-fold judgement of {several(len(training.families), 'family')} of {name}"
    with session.run(names.ANALYSIS, name, key, note, inputs, dataset=profile.dataset) as run:
        # Everything that is needed from MLflow comes first: an outage later stops nothing.
        registered = version_numbers(session, training)
        members = session.orchestrator.task("fetch members", fetch, session, training)
        result = session.orchestrator.task("judge", judge, session, run, profile, members)
        result = named(training, registered, result)
        store_analysis(session, run, training, profile, result)
    result = result.replace(run_id=run.run_id)
    session.ask(lambda _: refresh_workspace(session))
    tell(session, result)
    return result


def profile_used(session: Session, training: TrainingResult) -> DatasetProfile:
    """The profile that the networks were trained on."""
    return handoff.profile_used(session, session.store.get(training.run_ids[0]))


def key_inputs(session: Session, training: TrainingResult) -> keys.Ingredients:
    """What decides an analysis."""
    config = session.config
    return {
        "cells": sorted(key for family in training.families for key in family.cells),
        "families": sorted(training.run_ids),
        "dataset": training.dataset_hash,
        "analysis": config.analysis.key_fields(),
        "evaluation": config.evaluation.key_fields(),
        "code": keys.code(keys.ANALYSIS_CODE),
        "versions": keys.versions(),
    }


def fetch(session: Session, training: TrainingResult) -> list[FoldModel]:
    """Every fold's network, from this home or from MLflow."""
    from minivess.tracking.store import fold_models

    return fold_models.fetch(session.store, training.run_ids, session.home.cells)


def as_trained(config: ExperimentConfig, members: Sequence[FoldModel]) -> ExperimentConfig:
    """The settings with the resampling of the networks, whatever this command says of it.

    Raises:
        StoreError: networks of different resampling, which cannot be compared.
    """
    first, *others = (member.settings["resampling"] for member in members)
    if any(other != first for other in others):
        raise StoreError(
            "These networks were trained on volumes that were resampled in different ways.",
            remedy="analyse them apart: `minivess analyse --upstream ID`",
        )
    resampling = ResamplingConfig.model_validate(first)
    data = config.data.model_copy(update={"resampling": resampling})
    return config.model_copy(update={"data": data})


def judge(
    session: Session, run: Run, profile: DatasetProfile, members: Sequence[FoldModel]
) -> AnalysisResult:
    """Predict, score, combine, choose, draw and write, all of it out of fold."""
    from minivess.analysis import pipeline

    folder = session.home.reports / run.run_id
    cases = context.restore(session, profile)
    progress = session.orchestrator.progress("analysis-progress", "volumes judged")
    parents = {member.parent_run_id for member in members}
    analysis = pipeline.analyse(
        members,
        cases,
        profile,
        as_trained(session.config, members),
        folder,
        lambda done, total: progress(done / total),
        cache=session.home.judged,
        run_id=run.run_id,
        links={run_id: session.page_of(run_id) for run_id in {run.run_id, *parents}},
    )
    for path, to in analysis.files.items():
        run.file(path, str(Path(to).parent))
    return analysis.result


def named(
    training: TrainingResult, registered: Mapping[str, str], result: AnalysisResult
) -> AnalysisResult:
    """The champion with its place in the registry."""
    champion = result.champion.replace(
        model_name=training.experiment, model_version=registered[result.champion.family]
    )
    return result.replace(champion=champion, experiment=training.experiment)


def store_analysis(
    session: Session,
    run: Run,
    training: TrainingResult,
    profile: DatasetProfile,
    result: AnalysisResult,
) -> None:
    """Params, metrics, tags and the result itself into the analysis run."""
    from minivess.analysis import formatting
    from minivess.analysis.report import report
    from minivess.tracking.run import params

    trained = next(one for one in training.families if one.run_id == result.champion.run_id)
    known = {
        f"eval_{name}{end}" for name in names.METRICS for end in ("", "_ci_lower", "_ci_upper")
    }
    run.params(
        params.evaluation_params(session.config.evaluation)
        | params.upstream_metrics({k: v for k, v in trained.metrics.items() if k in known})
        | params.data_params(profile)
        | {
            names.UPSTREAM_PROFILE: training.data_profile_run_id,
            names.UPSTREAM_TRAINING: result.champion.run_id,
            names.UPSTREAM_EXPERIMENT: training.experiment,
            names.UPSTREAM_COUNT: len(training.families),
        }
    )
    run.dataset(profile)
    run.json(
        {
            names.UPSTREAM_PROFILE: training.data_profile_run_id,
            "upstream_training_run_ids": list(training.run_ids),
        },
        names.UPSTREAM_ARTIFACT,
    )
    run.metrics(metrics(result), step=0)
    run.tags(champion_tags(result.champion))
    run.table(report.volume_rows(result), names.PER_VOLUME_ARTIFACT)
    run.table(report.family_rows(result), names.FAMILIES_ARTIFACT)
    if result.test:
        run.table(report.family_rows(result, result.test), names.TEST_ARTIFACT)
        run.table(report.volume_rows(result, result.test), names.TEST_VOLUMES_ARTIFACT)
    run.json(result.model_dump(mode="json"), names.ANALYSIS_ARTIFACT)
    publish_to_prefect(session, run, result, formatting.distance_unit(profile))


def metrics(result: AnalysisResult) -> dict[str, float]:
    """The champion out of fold and on a test set, and the untrained network, with intervals."""
    found = {f"untrained_{name}": value for name, value in result.untrained.items()}
    for prefix, judged in (("champion", result.families), ("test", result.test)):
        for best in (one for one in judged if one.name == result.champion.family):
            for name, interval in best.intervals.items():
                found |= family_run.named(f"{prefix}_{name}", interval)
            found[f"{prefix}_n_volumes"] = float(len(best.volumes))
            found[f"{prefix}_n_units"] = float(best.intervals[result.champion.metric].n_units)
    return found


def refresh_workspace(session: Session) -> None:
    """The DuckDB file over all runs, with what is new since it was last read."""
    from minivess.analysis import workspace
    from minivess.tracking.store.export import rows

    path = session.home.workspace
    known = workspace.known(path)
    workspace.refresh(path, rows(session.store, known), unchanged=known)


def publish_to_prefect(session: Session, run: Run, result: AnalysisResult, unit: Unit) -> None:
    """Report and tables in Prefect's page."""
    from minivess.analysis.report import report

    session.orchestrator.markdown("analysis-report", report.markdown(result, unit))
    session.orchestrator.table("families", report.family_rows(result), "Out-of-fold means")
    session.orchestrator.link("mlflow-run", session.page_of(run.run_id), "This analysis in MLflow")


def tell(session: Session, result: AnalysisResult) -> None:
    """The champion and the untrained network beside it."""
    champion = result.champion
    best = next(judged for judged in result.families if judged.name == champion.family)
    dice = best.intervals["dice"]
    session.say(f"  champion: {champion.reason}")
    session.say(
        f"  out-of-fold Dice: {shown(dice)}; untrained network: {result.untrained['dice']:.3f}"
    )
    for held_out in (one for one in result.test if one.name == champion.family):
        test = shown(held_out.intervals["dice"])
        session.say(f"  held-out test set, Dice of one fold's network: {test}")


def shown(interval: Interval) -> str:
    """A mean with what is known of its precision: 0.842 [0.801, 0.877] (n=12)."""
    mean = "undefined" if interval.mean is None else f"{interval.mean:.3f}"
    if interval.lower is None or interval.upper is None:
        return f"{mean} (n={interval.n}, too few for an interval)"
    called = f", {interval.called}" if interval.method == "range" else ""
    return f"{mean} [{interval.lower:.3f}, {interval.upper:.3f}] (n={interval.n}{called})"
