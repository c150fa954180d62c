"""The stories as Prefect flows that deployments/prefect.yaml registers.

The only module that decorates at import: a deployment needs Flow objects. Parameters are what the
command line takes: `settings` are key=value words, `files` are YAML files, `upstream` are run ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow

from minivess import config

if TYPE_CHECKING:
    from flows.session import Session

Words = tuple[str, ...]
Ids = dict[str, Any]


@flow(name="profile-data", persist_result=False)
def profile_data(settings: Words = (), files: Words = ()) -> Ids:
    """Profile and version a dataset."""
    from flows import profile_data as stories

    with _session(settings, files) as session:
        profile = stories.profile_data(session)
        return {"data_profile_run_id": profile.run_id, "dataset_hash": profile.dataset_hash}


@flow(name="watch-data", persist_result=False)
def watch_data(settings: Words = (), files: Words = ()) -> Ids:
    """One look at the data, for a schedule: announce what nobody profiled yet."""
    from flows import watching

    with _session(settings, files, lock=False) as session:
        return watching.data_changed(session)


@flow(name="train", persist_result=False)
def train(settings: Words = (), files: Words = (), upstream: Words = ()) -> Ids:
    """Train the grid on the latest profile, or on the profile run given."""
    from flows import train as stories

    with _session(settings, files) as session:
        result = stories.train(session, upstream)
        return {"experiment": result.experiment, "training_run_ids": list(result.run_ids)}


@flow(name="train-cell", persist_result=False)
def train_cell(order: Ids) -> None:
    """Train one cell for a coordinator, which reads the result from MLflow."""
    from flows import cell_process
    from minivess.contracts import CellOrder

    cell_process.run(CellOrder.model_validate(order))


@flow(name="analyse", persist_result=False)
def analyse(settings: Words = (), files: Words = (), upstream: Words = ()) -> Ids:
    """Judge the latest training runs, or those given, and choose the champion."""
    from flows import analyse as stories

    with _session(settings, files) as session:
        result = stories.analyse(session, upstream)
        return {"analysis_run_id": result.run_id, "champion": result.champion.run_id}


@flow(name="deploy", persist_result=False)
def deploy(settings: Words = (), files: Words = (), upstream: Words = ()) -> Ids:
    """Export, prove and serve the champion of the latest analysis, or of the one given."""
    from flows import deploy as stories

    with _session(settings, files) as session:
        result = stories.deploy(session, upstream)
        version = f"{result.model_name}/{result.model_version}"
        return {"deployment_run_id": result.run_id, "model_version": version}


@contextmanager
def _session(settings: Words, files: Words, *, lock: bool = True) -> Iterator[Session]:
    from flows.session import open_session
    from minivess.tracking.life import outcome

    env = config.environment()
    asked = config.load([Path(file) for file in files], settings, env)
    try:
        # Nobody is there to confirm a long grid. Of two events at once, the second waits and
        # finds the work done.
        with open_session(
            asked, env, what="deployment", launched_by="deployment", lock=lock, wait=True, yes=True,
            words=[*files, *settings],
        ) as session:  # fmt: skip
            yield session
    except SystemExit as leave:
        # Prefect takes every exit for a crash; MLflow's runs say what it was.
        if outcome(leave) == "FAILED":
            raise RuntimeError(f"exit code {leave.code}") from leave
        if outcome(leave) == "KILLED":
            raise
