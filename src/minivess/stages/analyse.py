"""Flow 3, for the research scientist: judge, combine, choose a champion, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import keys, names
from minivess.analysis import formatting, workspace
from minivess.config import ExperimentConfig, ResamplingConfig
from minivess.contracts import (
    AnalysisResult,
    DatasetProfile,
    FoldModel,
    Interval,
    TrainingResult,
    Uncertainty,
)
from minivess.errors import StoreError
from minivess.grid import context, family_run
from minivess.orchestration import handoff
from minivess.orchestration.model_versions import (
    champion_tags,
    restore_aliases,
    tag_champion,
    version_numbers,
    version_of,
)
from minivess.orchestration.session import Session
from minivess.orchestration.stage import stage
from minivess.stages import dataset_identity
from minivess.stages.ensemble_runs import store_ensembles
from minivess.text import several, three_decimals
from minivess.tracking.run import params
from minivess.tracking.store import export, fold_models, sql_reader

if TYPE_CHECKING:
    from minivess.tracking.run.run import Run


def analyse(session: Session, upstream: Sequence[str] = ()) -> AnalysisResult:
    """Judge every family out of fold and choose the champion, unless that was done.

    Args:
        upstream: ids of parent training runs; default, the latest of each name.
    """
    session.need_store()
    dataset_identity.require(session)
    training = handoff.receive_training(session, upstream)
    session.print(f"Analyse   {several(len(training.families), 'family')} of {training.experiment}")
    inputs = key_inputs(session, training)
    key = keys.digest(inputs)
    return stage(
        session,
        names.ANALYSIS,
        key,
        lambda: _analyse(session, training, inputs, key),
        reuse=lambda found: with_registered(
            session, training, version_numbers(session, training), found
        ),
        follow=lambda result, _: set_aliases(session, result),
    )


def set_aliases(session: Session, result: AnalysisResult) -> None:
    """Move `champion` to the analysis's version, and set the aliases of families that are gone."""
    tag_champion(session, result)
    restore_aliases(session, result.experiment)


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
    champion, test = analysis.champion, analysis.winner_on_test
    return {
        "family": champion.family,
        "run_id": champion.run_id,
        "metric": champion.metric,
        "value": champion.value,
        "dice": analysis.winner.intervals["dice"].mean,
        "expected": analysis.selection and analysis.selection.expected,
        "untrained_dice": analysis.untrained["dice"],
        "threshold_dice": analysis.baseline and analysis.baseline.intervals["dice"].mean,
        **({"test_dice": test.intervals["dice"].mean} if test else {}),
        "reason": champion.reason,
    }


def report_page(session: Session, analysis_run_id: str) -> Path:
    """The report of an analysis on this machine, downloaded if it is not here yet."""
    path = session.home.reports / analysis_run_id / "report.html"
    if path.is_file():
        return path
    if names.TRADEOFFS_ARTIFACT in session.store.artifacts(analysis_run_id, "report"):
        session.store.download(analysis_run_id, names.TRADEOFFS_ARTIFACT, path.parent)
    return session.store.download(analysis_run_id, names.REPORT_ARTIFACT, path.parent)


def _analyse(
    session: Session, training: TrainingResult, inputs: keys.Ingredients, key: str
) -> AnalysisResult:
    store, task, name = session.store, session.orchestrator.task, training.experiment
    profile = handoff.profile_used(session, store.get(training.run_ids[0]))
    note = f"Out-of-fold judgement of {several(len(training.families), 'family')} of {name}"
    with session.run(names.ANALYSIS, name, key, note, inputs, dataset=profile.dataset) as run:
        # Everything that is needed from MLflow comes first: an outage later stops nothing.
        registered = version_numbers(session, training)
        models = task(
            "fetch members", fold_models.fetch, store, training.run_ids, session.home.cells
        )
        result = task("judge", judge, session, run, profile, models)
        result = store_ensembles(session, run, training, profile, models, result)
        result = with_registered(session, training, registered, result)
        store_analysis(session, run, training, profile, result)
    session.ask(lambda _: refresh_workspace(session))
    print_champion(session, result)
    return result.replace(run_id=run.run_id)


def key_inputs(session: Session, training: TrainingResult) -> keys.Ingredients:
    """Everything that decides an analysis."""
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


def as_trained(config: ExperimentConfig, models: Sequence[FoldModel]) -> ExperimentConfig:
    """The settings with the resampling of the networks in place of this command's.

    Raises:
        StoreError: networks of different resampling, which cannot be compared.
    """
    first, *others = (model.settings["resampling"] for model in models)
    if any(other != first for other in others):
        raise StoreError(
            "These networks were trained on volumes that were resampled in different ways.",
            remedy="analyse them apart: `minivess analyse --upstream ID`",
        )
    resampling = ResamplingConfig.model_validate(first)
    data = config.data.model_copy(update={"resampling": resampling})
    return config.model_copy(update={"data": data})


def judge(
    session: Session, run: Run, profile: DatasetProfile, models: Sequence[FoldModel]
) -> AnalysisResult:
    """Predict, score, combine, choose and report, all of it out of fold."""
    from minivess.analysis import pipeline

    progress = session.orchestrator.progress("analysis-progress", "volumes judged")
    runs = {run.run_id, *(model.parent_run_id for model in models)}
    analysis = pipeline.analyse(
        models,
        context.restore(session, profile),
        profile,
        as_trained(session.config, models),
        session.home.reports / run.run_id,
        lambda done, total: progress(done / total),
        cache=session.home.judged,
        run_id=run.run_id,
        links={run_id: session.page_of(run_id) for run_id in runs},
    )
    for path, to in analysis.files.items():
        run.file(path, str(Path(to).parent))
    return analysis.result


def with_registered(
    session: Session,
    training: TrainingResult,
    registered: Mapping[str, str],
    result: AnalysisResult,
) -> AnalysisResult:
    """The result with the champion's name and version in the model registry."""
    champion, name = result.champion, training.experiment
    version = registered.get(champion.family) or version_of(session, name, champion.run_id)
    champion = champion.replace(model_name=name, model_version=version)
    return result.replace(champion=champion, experiment=training.experiment)


def store_analysis(
    session: Session,
    run: Run,
    training: TrainingResult,
    profile: DatasetProfile,
    result: AnalysisResult,
) -> None:
    """Store params, metrics, tags, tables and the result in its run, and show it in Prefect."""
    from minivess.analysis.report import report

    trained = next(one for one in training.families if one.run_name in result.winner.members)
    known = {
        f"eval_{name}{end}" for name in names.METRICS for end in ("", "_ci_lower", "_ci_upper")
    }
    upstream = {names.UPSTREAM_PROFILE: training.data_profile_run_id}
    run.params(
        params.evaluation_params(session.config.evaluation)
        | params.upstream_metrics(
            {k: v for k, v in trained.metrics.items() if k in known and not result.winner.combined}
        )
        | params.data_params(profile)
        | upstream
        | {
            names.UPSTREAM_TRAINING: trained.run_id,
            names.UPSTREAM_EXPERIMENT: training.experiment,
            names.UPSTREAM_COUNT: len(training.families),
        }
    )
    run.dataset(profile)
    runs = {"upstream_training_run_ids": list(training.run_ids)}
    run.json(upstream | runs, names.UPSTREAM_ARTIFACT)
    run.metrics(metrics(result), step=0)
    run.tags(champion_tags(result.champion))
    rows = report.family_rows(result)
    run.table(report.volume_rows(result), names.PER_VOLUME_ARTIFACT)
    run.table(rows, names.FAMILIES_ARTIFACT)
    if result.comparisons:
        run.table(report.comparison_rows(result), names.COMPARISONS_ARTIFACT)
    if result.faults:
        run.table(report.fault_rows(result), names.FAULTS_ARTIFACT)
    if result.measured:
        run.table(report.measure_rows(result), names.MEASURES_ARTIFACT)
    if result.test:
        run.table(report.family_rows(result, result.test), names.TEST_ARTIFACT)
        run.table(report.volume_rows(result, result.test), names.TEST_VOLUMES_ARTIFACT)
    if result.uncertainty:
        run.json(result.uncertainty.model_dump(mode="json"), names.UNCERTAINTY_ARTIFACT)
    run.json(result.model_dump(mode="json"), names.ANALYSIS_ARTIFACT)
    show, unit = session.orchestrator, formatting.distance_unit(profile)
    show.markdown("analysis-report", report.markdown(result, unit))
    show.table("families", rows, "Out-of-fold means")
    show.link("mlflow-run", session.page_of(run.run_id), "This analysis in MLflow")


def metrics(result: AnalysisResult) -> dict[str, float]:
    """The champion out of fold and on a test set, and the baselines, with intervals."""
    found = {f"untrained_{name}": value for name, value in result.untrained.items()}
    if result.selection and result.selection.expected is not None:
        found["champion_expected"] = result.selection.expected
        found["champion_chosen_share"] = result.selection.chosen[result.champion.family]
    judged = {
        "champion": result.winner, "test": result.winner_on_test, "threshold": result.baseline,
    }  # fmt: skip
    for prefix, best in judged.items():
        if best is not None:
            for name, interval in best.intervals.items():
                found |= family_run.named(f"{prefix}_{name}", interval)
            found[f"{prefix}_n_volumes"] = float(len(best.volumes))
            found[f"{prefix}_n_units"] = float(best.intervals[result.champion.metric].n_units)
    return found | (uncertainty_metrics(result.uncertainty) if result.uncertainty else {})


def uncertainty_metrics(found: Uncertainty) -> dict[str, float]:
    """Calibration of each class and region, and each threshold with its loss on held-out units."""
    values = {"calibration_temperature": found.temperature} | {
        f"calibration_error_{one.region.replace(' ', '_')}_class{one.label}": one.error
        for one in found.reliability
    }
    for one in found.risks:
        if one.threshold is not None:
            values[f"risk_{one.loss}_threshold"] = one.threshold
        if one.simulated is not None:
            values[f"risk_{one.loss}_simulated"] = one.simulated
    return values


def refresh_workspace(session: Session) -> None:
    """Add to the DuckDB file over all runs what is new in MLflow."""
    path, version = session.home.workspace, sql_reader.version(session.store)
    if version is not None and version == workspace.source(path):
        return
    known = workspace.known(path)
    rows = export.export_rows(session.store, known)
    workspace.refresh(path, rows, unchanged=known, source=version)


def print_champion(session: Session, result: AnalysisResult) -> None:
    """Print the champion, and the baselines beside it."""
    from minivess.analysis.report import choice

    dice, untrained = result.winner.intervals["dice"], result.untrained["dice"]
    session.print(f"  champion: {result.champion.reason}")
    if expected := choice.expectation(result):
        session.print(f"  {expected}")
    threshold = result.baseline and format_interval(result.baseline.intervals["dice"])
    session.print(
        f"  out-of-fold Dice: {format_interval(dice)}; untrained network: {untrained:.3f}"
        + (f"; tuned threshold: {threshold}" if threshold else "")
    )
    if result.winner_on_test:
        test = format_interval(result.winner_on_test.intervals["dice"])
        session.print(f"  held-out test set, Dice of one fold's network: {test}")


def format_interval(interval: Interval) -> str:
    """A mean with its bounds and number of volumes: 0.842 [0.801, 0.877] (n=12)."""
    mean = "undefined" if interval.mean is None else three_decimals(interval.mean)
    if interval.lower is None or interval.upper is None:
        return f"{mean} (n={interval.n}, too few for an interval)"
    called = f", {interval.called}" if interval.method == "range" else ""
    bounds = f"{three_decimals(interval.lower)}, {three_decimals(interval.upper)}"
    return f"{mean} [{bounds}] (n={interval.n}{called})"
