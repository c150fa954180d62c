"""What flows hand to each other: run ids, published for others and looked up in MLflow.

MLflow is the truth. The latest result is the newest FINISHED run; Prefect Variables (or
pointers.json) are a published copy, written after the run is FINISHED and its artifact reads back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flows.session import Session
from minivess import keys, names
from minivess.contracts import (
    AnalysisResult,
    DatasetProfile,
    DeploymentResult,
    FamilyRun,
    RunRecord,
    TrainingResult,
    Versioned,
)
from minivess.errors import StoreError
from minivess.tracking.store import SETTLE_FIRST, Store

Result = TypeVar("Result", bound=Versioned)

COMMANDS = {
    names.PROFILE: "profile",
    names.FAMILY: "train",
    names.ANALYSIS: "analyse",
    names.DEPLOYMENT: "deploy",
}


# --- publishing ---------------------------------------------------------------------------


def publish(session: Session, kind: str, scope: str, pointer: dict[str, Any]) -> None:
    """Point `latest_...` and the name of one dataset or experiment at finished runs."""
    latest = names.LATEST[kind]
    scoped = f"{latest.removeprefix('latest_')}-{slug(scope)}"
    for name in (latest, scoped):
        if session.orchestra.get(name) != pointer:
            session.orchestra.put(name, pointer)


def complete(
    session: Session,
    kind: str,
    scope: str,
    pointer: dict[str, Any],
    *,
    run_ids: Sequence[str],
    follow: Callable[[], object] = lambda: None,
) -> None:
    """Carry out what follows a FINISHED run, once: aliases by `follow`, then the pointer.

    The last run is marked afterwards, so that a kill in between is made good by the next command;
    so is one that still waits in the journal.
    """
    records = session.ask(lambda store: [store.get(run_id) for run_id in run_ids])
    if not records or any(record.status != "FINISHED" for record in records):
        session.say(f"  {COMMANDS[kind]} is not published yet: MLflow does not hold all of it")
        return
    final = session.store.resolved(pointer)
    mark = keys.digest(final)

    def carry_out(store: Store) -> None:
        follow()
        publish(session, kind, scope, final)
        store.set_tags(records[-1].run_id, {names.PUBLISHED: mark})

    if records[-1].tags.get(names.PUBLISHED) != mark:
        session.ask(carry_out)


def slug(text: str) -> str:
    """A name that Prefect Variables accept: lower case, digits, - and _."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")


def profile_pointer(profile: DatasetProfile) -> dict[str, Any]:
    """What `latest_data_profile` holds."""
    return {
        "run_id": profile.run_id,
        "dataset_hash": profile.dataset_hash,
        "dataset": profile.dataset,
    }


def training_pointer(result: TrainingResult) -> dict[str, Any]:
    """What `latest_training` holds."""
    return {
        "run_ids": list(result.run_ids),
        "experiment": result.experiment,
        "data_profile_run_id": result.data_profile_run_id,
    }


def analysis_pointer(result: AnalysisResult) -> dict[str, Any]:
    """What `latest_analysis` holds."""
    return {
        "run_id": result.run_id,
        "training_run_ids": list(result.training_run_ids),
        "champion": result.champion.run_id,
    }


def deployment_pointer(result: DeploymentResult) -> dict[str, Any]:
    """What `latest_deployment` holds."""
    return {
        "run_id": result.run_id,
        "model_version": f"{result.model_name}/{result.model_version}",
        "analysis_run_id": result.analysis_run_id,
    }


# --- receiving ----------------------------------------------------------------------------


def receive_profile(session: Session, upstream: Sequence[str] = ()) -> DatasetProfile:
    """The profile given by id, else the latest of this dataset.

    Raises:
        StoreError: no such run, not FINISHED, not a profile, or of other data.
    """
    dataset = session.config.dataset
    if len(upstream) == 1 and upstream[0] in session.profiles:
        return session.profiles[upstream[0]]
    record = _given(session, upstream, names.PROFILE) or _latest_profile(session)
    profile = read(session, record, names.PROFILE_ARTIFACT, DatasetProfile)
    if profile.dataset != dataset:
        raise StoreError(
            f"Run {record.run_id} profiles {profile.dataset!r}, "
            f"but this command is about {dataset!r}.",
            remedy=f"set data.root to the folder of {profile.dataset}, or give another --upstream",
        )
    return profile.replace(run_id=record.run_id)


def profile_of(session: Session, run_id: str) -> DatasetProfile:
    """The profile that a run holds, whichever dataset it is of."""
    if run_id in session.profiles:
        return session.profiles[run_id]
    record = _checked(session, run_id, names.PROFILE)
    return read(session, record, names.PROFILE_ARTIFACT, DatasetProfile).replace(run_id=run_id)


def receive_training(session: Session, upstream: Sequence[str] = ()) -> TrainingResult:
    """The parent runs given by id, else the newest of each name in this experiment.

    Raises:
        StoreError: an id is absent, not FINISHED, no parent run, or two are of different data.
    """
    if upstream:
        records = [_checked(session, run_id, names.FAMILY) for run_id in upstream]
    else:
        records = _latest_families(session)
    hashes = {record.params[names.DATASET_HASH] for record in records}
    if len(hashes) > 1:
        raise StoreError(
            f"The training runs given belong to different data: {', '.join(sorted(hashes))}.",
            remedy="give --upstream ids of one dataset version only",
        )
    families = [family_of(session, record) for record in records]
    return TrainingResult(
        experiment=records[0].experiment,
        data_profile_run_id=records[0].params[names.UPSTREAM_PROFILE],
        dataset_hash=hashes.pop(),
        families=tuple(families),
    )


def receive_analysis(session: Session, upstream: Sequence[str] = ()) -> AnalysisResult:
    """The analysis given by id, else the latest of this experiment."""
    record = _given(session, upstream, names.ANALYSIS) or _latest(
        session,
        names.ANALYSIS,
        names.EVALUATION_EXPERIMENT,
        {names.UPSTREAM_EXPERIMENT: session.config.experiment},
    )
    result = read(session, record, names.ANALYSIS_ARTIFACT, AnalysisResult)
    return result.replace(run_id=record.run_id)


def family_of(session: Session, record: RunRecord) -> FamilyRun:
    """The record that a parent run holds about itself."""
    return FamilyRun.model_validate(session.store.read_json(record.run_id, names.TRAINING_ARTIFACT))


def read(session: Session, record: RunRecord, artifact: str, kind: type[Result]) -> Result:
    """Load and validate the result that a run holds."""
    return kind.model_validate(session.store.read_json(record.run_id, artifact))


def _given(session: Session, upstream: Sequence[str], kind: str) -> RunRecord | None:
    if len(upstream) > 1:
        raise StoreError(
            f"{len(upstream)} upstream ids were given where one {COMMANDS[kind]} run is needed.",
            remedy="give one id: --upstream ID",
        )
    return _checked(session, upstream[0], kind) if upstream else None


def _checked(session: Session, run_id: str, kind: str) -> RunRecord:
    record = session.store.get(run_id)
    found = record.tags.get(names.KIND, "unknown")
    if found != kind:
        raise StoreError(
            f"Run {run_id} is of kind {found!r}, and a {kind!r} run is needed here.",
            remedy=f"give the id that `minivess {COMMANDS[kind]} --json` prints",
        )
    if record.status == "RUNNING" and session.store.waits(record):
        raise StoreError(
            f"Run {run_id} ({record.name}) is done, but MLflow has not taken all of it.",
            remedy=f"{SETTLE_FIRST} (its log says what was refused)",
        )
    if record.status != "FINISHED":
        raise StoreError(
            f"Run {run_id} ({record.name}) is {record.status}, "
            "and only FINISHED runs are built on.",
            remedy=f"run `minivess {COMMANDS[kind]}` again, or give another --upstream",
        )
    return record


def _latest_profile(session: Session) -> RunRecord:
    return _latest(
        session,
        names.PROFILE,
        names.PROFILE_EXPERIMENT,
        {names.DATASET_NAME: session.config.dataset},
    )


def _latest(session: Session, kind: str, experiment: str, params: dict[str, str]) -> RunRecord:
    """The newest FINISHED run of a kind that carries these params."""
    found = session.store.latest(experiment=experiment, kind=kind, params=params)
    if found is not None:
        return found
    wanted = ", ".join(f"{name}={value}" for name, value in params.items())
    raise StoreError(
        f"There is no finished {COMMANDS[kind]} run for {wanted}.",
        remedy=f"run `minivess {COMMANDS[kind]}` with the same settings first",
    )


def _latest_families(session: Session) -> list[RunRecord]:
    """Newest FINISHED parent run of each name, all of the newest one's data."""
    experiment = session.config.experiment
    records = session.store.search(experiment=experiment, kind=names.FAMILY, status="FINISHED")
    if not records:
        raise StoreError(
            f"The experiment {experiment!r} has no finished training run.",
            remedy="run `minivess train` with the same settings first",
        )
    newest: dict[str, RunRecord] = {}
    for record in records:
        if record.params[names.DATASET_HASH] == records[0].params[names.DATASET_HASH]:
            newest.setdefault(record.name, record)
    return [newest[name] for name in sorted(newest)]


def rebuild(session: Session) -> dict[str, dict[str, Any]]:
    """Write every pointer anew from MLflow alone; returns what they now hold."""
    pointers: dict[str, dict[str, Any]] = {}
    try:
        profile = receive_profile(session)
        pointers[names.PROFILE] = profile_pointer(profile)
        publish(session, names.PROFILE, profile.dataset, pointers[names.PROFILE])
        training = receive_training(session)
        pointers[names.FAMILY] = training_pointer(training)
        publish(session, names.FAMILY, training.experiment, pointers[names.FAMILY])
        analysis = receive_analysis(session)
        pointers[names.ANALYSIS] = analysis_pointer(analysis)
        publish(session, names.ANALYSIS, analysis.experiment, pointers[names.ANALYSIS])
        deployment = receive_deployment(session)
        pointers[names.DEPLOYMENT] = deployment_pointer(deployment)
        publish(session, names.DEPLOYMENT, deployment.model_name, pointers[names.DEPLOYMENT])
    except StoreError as missing:
        # A chain that has not got further yet has no more to point at.
        session.say(f"  {missing.problem}")
    return pointers


def receive_deployment(session: Session) -> DeploymentResult:
    """The latest deployment of this experiment."""
    record = _latest(
        session,
        names.DEPLOYMENT,
        names.DEPLOYMENT_EXPERIMENT,
        {names.UPSTREAM_EXPERIMENT: session.config.experiment},
    )
    result = read(session, record, names.DEPLOYMENT_ARTIFACT, DeploymentResult)
    return result.replace(run_id=record.run_id)
