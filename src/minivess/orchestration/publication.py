"""Publish finished results: pointers to their runs, and the order in which flows find runs.

MLflow decides. The latest result is the newest FINISHED run; Prefect Variables (or pointers.json)
are a published copy, written after the run is FINISHED and its artifacts read back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from minivess import names
from minivess.contracts import (
    AnalysisResult,
    DatasetProfile,
    DeploymentResult,
    RunRecord,
    TrainingResult,
)
from minivess.errors import PrefectUnreachable, StoreError
from minivess.orchestration import handoff
from minivess.orchestration.results import KINDS
from minivess.orchestration.session import Session
from minivess.text import slug
from minivess.tracking.store.store import Store, publication_time

Result = DatasetProfile | TrainingResult | AnalysisResult | DeploymentResult


class Pointer(NamedTuple):
    """Run ids published under `latest_...` and under the name of one dataset or experiment."""

    kind: str
    scope: str
    holds: dict[str, Any]
    rank: int = 0

    @property
    def name(self) -> str:
        """The name of one dataset or experiment, for example `training-tubes`."""
        return f"{names.LATEST[self.kind].removeprefix('latest_')}-{slug(self.scope)}"


def pointer_to(result: Result) -> Pointer:
    """The pointer that publishes a result."""
    holds: dict[str, Any] = {}
    if not isinstance(result, TrainingResult):
        holds["run_id"] = result.run_id
    match result:
        case DatasetProfile():
            holds |= {"dataset_hash": result.dataset_hash, "dataset": result.dataset}
            return Pointer(names.PROFILE, result.dataset, holds)
        case TrainingResult():
            holds |= {"run_ids": list(result.run_ids), "experiment": result.experiment}
            holds["data_profile_run_id"] = result.data_profile_run_id
            return Pointer(names.FAMILY, result.experiment, holds)
        case AnalysisResult():
            holds["training_run_ids"] = list(result.training_run_ids)
            holds["champion"] = result.champion.run_id
            return Pointer(names.ANALYSIS, result.experiment, holds)
        case DeploymentResult():
            holds["model_version"] = f"{result.model_name}/{result.model_version}"
            holds["analysis_run_id"] = result.analysis_run_id
            return Pointer(names.DEPLOYMENT, result.model_name, holds)


def write(session: Session, pointer: Pointer) -> None:
    """Write a pointer under both of its names, where they hold something else."""
    for name in (names.LATEST[pointer.kind], pointer.name):
        if session.orchestrator.get(name) != pointer.holds:
            session.orchestrator.put(name, pointer.holds)


def publish(
    session: Session, result: Result, follow: Callable[[bool], object] = lambda first: None
) -> None:
    """Publish a result: update aliases (by `follow`), the order of runs, and the pointers.

    Every command compares them with the FINISHED runs and writes what differs, so that neither a
    kill in between nor a change by hand lasts. `follow` is called with whether it is the first
    time.
    """
    pointer = pointer_to(result)

    def hold_back(why: str) -> None:
        session.print(
            f"  {KINDS[pointer.kind].command} is not published yet: {why}", warning="store"
        )
        session.held_back[pointer.kind] = partial(publish, session, result, follow)

    records = session.ask(lambda store: [store.get(run_id) for run_id in run_ids_of(result)])
    if not records or any(record.status != "FINISHED" for record in records):
        hold_back("MLflow does not hold all of it")
        return

    def carry_out(store: Store) -> None:
        follow(names.PUBLISHED not in records[-1].tags)
        make_current(store, pointer.kind, records)
        write(session, pointer._replace(holds=store.resolved(pointer.holds)))

    try:
        session.ask(carry_out)
    except PrefectUnreachable as error:  # a finished result does not fail for a page
        hold_back(error.problem)


def run_ids_of(result: Result) -> Sequence[str]:
    """The runs that hold a result: those of a training's families, or its own one."""
    return result.run_ids if isinstance(result, TrainingResult) else (str(result.run_id),)


def make_current(store: Store, kind: str, records: Sequence[RunRecord]) -> None:
    """Let later flows find these runs, even where newer ones were made since."""
    experiment = names.EXPERIMENTS.get(kind, records[0].experiment)
    rivals: dict[str, RunRecord] = {}
    for record in store.search(experiment=experiment, kind=kind, status="FINISHED"):
        rivals.setdefault(_scope(kind, record), record)
    earlier = (publication_time(rival) + 1 for rival in rivals.values())
    stamp = max([time.time_ns() // 1_000_000, *earlier])
    for record in records:
        newest = rivals[_scope(kind, record)]
        if newest.run_id != record.run_id or names.PUBLISHED not in record.tags:
            store.set_tags(record.run_id, {names.PUBLISHED: str(stamp)})


def _scope(kind: str, record: RunRecord) -> str:
    """Of the runs of one scope, one is current."""
    param = KINDS[kind].scope
    return record.params.get(param, "") if param else record.name


RECEIVE: tuple[Callable[[Session], Result], ...] = (
    handoff.receive_profile,
    handoff.receive_training,
    handoff.receive_analysis,
    handoff.receive_deployment,
)


def current(session: Session) -> list[Pointer]:
    """The pointers of the dataset and experiment in the settings, from MLflow alone."""
    found = []
    try:
        for receive in RECEIVE:
            result = receive(session)
            newest = publication_time(session.store.get(run_ids_of(result)[-1]))
            found.append(pointer_to(result)._replace(rank=newest))
    except StoreError as missing:
        # The chain of this experiment ends here; there are no later results to point at.
        session.print(f"  {missing.problem}")
    return found
