"""The whole chain: profile, train, analyse, deploy, each handing its run ids to the next."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from minivess import names
from minivess.contracts import AnalysisResult, Contract, DatasetProfile, TrainingResult
from minivess.orchestration.session import Session
from minivess.stages.analyse import analyse
from minivess.stages.deploy import deploy
from minivess.stages.profile import profile_data
from minivess.stages.refit import refit
from minivess.stages.train import train


def experiment(session: Session) -> dict[str, Any]:
    """Run the stages that `flows` selects; a stage left out is taken from its latest run.

    Returns:
        The ids and main results that `--json` prints.
    """
    stages, started = session.config.flows, time.monotonic()
    results: dict[str, Contract] = {}
    profile = profile_data(session) if "profile" in stages else None
    if "train" in stages:
        training = train(session, _ids(profile))
        results["train"] = training
    if "analyse" in stages:
        results["analyse"] = analyse(session, training.run_ids if "train" in stages else ())
    if session.config.training.refit == "all":
        refitted = refit(session, _ids(results.get("analyse")))
    if "deploy" in stages:
        analysis = results.get("analyse")
        results["deploy"] = deploy(session, _ids(analysis))
    if profile is not None:
        results["profile"] = profile
    found = summary(session, results)
    if session.config.training.refit == "all":
        found["refit_run_id"] = refitted
    session.say()
    session.say(f"Done in {time.monotonic() - started:.0f} s.")
    tell(session, found)
    return found


def _ids(result: Any) -> list[str]:
    return [] if result is None else [result.run_id]


def summary(session: Session, results: dict[str, Contract]) -> dict[str, Any]:
    """The ids of every stage that ran, the champion, the report, and what was reused."""
    found: dict[str, Any] = {"experiment": session.config.experiment}
    profile, training = results.get("profile"), results.get("train")
    analysis, deployment = results.get("analyse"), results.get("deploy")
    if isinstance(profile, DatasetProfile):
        found["data_profile_run_id"] = profile.run_id
        found["dataset_hash"] = profile.dataset_hash
    if isinstance(training, TrainingResult):
        found["training_run_ids"] = list(training.run_ids)
    if isinstance(analysis, AnalysisResult):
        found["analysis_run_id"] = analysis.run_id
        found["champion"] = champion(analysis)
        found["report"] = str(report(session, str(analysis.run_id)))
    if deployment is not None:
        found["deployment_run_id"] = _ids(deployment)[0]
    found["reused"] = session.reused
    return found


def champion(analysis: AnalysisResult) -> dict[str, Any]:
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


def report(session: Session, analysis_run_id: str) -> Path:
    """The report of an analysis on this machine, fetched from MLflow where it is not here."""
    path = session.home.reports / analysis_run_id / "report.html"
    if path.is_file():
        return path
    return session.store.download(analysis_run_id, names.REPORT_ARTIFACT, path.parent)


def tell(session: Session, found: dict[str, Any]) -> None:
    """The champion, the report, and where to go from here."""
    if "champion" in found:
        best = found["champion"]
        held_out = f", held-out test set {best['test_dice']:.3f}" if "test_dice" in best else ""
        session.say(
            f"  champion   {best['family']}   out-of-fold Dice {best['dice']:.3f}{held_out} "
            f"(untrained network: {best['untrained_dice']:.3f})"
        )
        session.say(f"  report     {found['report']}")
    name = f"name={session.config.experiment}"
    session.say("  pages      minivess ui        then Prefect at :4200, MLflow at :5000")
    if "deployment_run_id" in found:
        verb = "predict IMAGE_OR_FOLDER OUTPUT_FOLDER"
        session.say(f"  predict    {session.command(verb, name)}")
    if session.config.data.root is None:
        session.say("  own data   minivess experiment data.root=/path/to/folder")
