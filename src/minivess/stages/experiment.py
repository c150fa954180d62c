"""Run the whole chain: profile, train, analyse, deploy, each with the run ids of the one before."""

from __future__ import annotations

import time
from typing import Any

from minivess.errors import ServingError
from minivess.orchestration.session import Session
from minivess.stages import analyse, deploy, hours, profile, refit, train


def experiment(session: Session) -> dict[str, Any]:
    """Run the stages that `flows` selects; a stage left out is taken from its latest run.

    Returns:
        The outcomes of all stages in one object, as `--json` prints it.
    """
    stages, started = session.config.flows, time.monotonic()
    found: dict[str, Any] = {"experiment": session.config.experiment}

    def ids(name: str) -> list[str]:
        return [found[name]] if name in found else []

    if "profile" in stages:
        found |= profile.outcome(session, profile.profile_data(session))
    if session.config.hours is not None:
        profiled = profile.profile_for(session, ids("data_profile_run_id"))
        session = hours.fitted(session, profiled, chain={"analyse", "deploy"} <= set(stages))
    if "train" in stages:
        found |= train.outcome(session, train.train(session, ids("data_profile_run_id")))
    if "analyse" in stages:
        training = found.get("training_run_ids", ())
        found |= analyse.outcome(session, analyse.analyse(session, training))
    if session.config.training.refit == "all":
        found["refit_run_id"] = refit.refit(session, ids("analysis_run_id"))
    if "deploy" in stages:
        try:
            found |= deploy.outcome(session, deploy.deploy(session, ids("analysis_run_id")))
        except ServingError:
            session.print("  What was trained and judged is kept:")
            print_outcome(session, found)
            raise
    session.print()
    session.print(f"Done in {time.monotonic() - started:.0f} s.")
    print_outcome(session, found)
    return found | {"reused": session.reused}


def print_outcome(session: Session, found: dict[str, Any]) -> None:
    """Print the champion, the report, and commands to continue with."""
    if "champion" in found:
        best = found["champion"]
        held_out = f", held-out test set {best['test_dice']:.3f}" if "test_dice" in best else ""
        session.print(
            f"  champion   {best['family']}   out-of-fold Dice {best['dice']:.3f}{held_out} "
            f"(untrained network: {best['untrained_dice']:.3f})"
        )
        session.print(f"  report     {found['report']}")
    name = f"name={session.config.experiment}"
    api = session.env.prefect_api_url
    prefect = api.removesuffix("/api") if api else ":4200"
    session.print(f"  pages      minivess up        then Prefect at {prefect}, MLflow at :5000")
    if "deployment_run_id" in found:
        verb = "predict IMAGE_OR_FOLDER OUTPUT_FOLDER"
        session.print(f"  predict    {session.command(verb, name)}")
        session.print(f"  serve      {session.command('serve', name)}")
    if session.config.data.root is None:
        session.print("  own data   minivess experiment data.root=/path/to/folder")
