"""Receive what earlier flows made: by run ids, else the newest finished runs in MLflow."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from minivess import names
from minivess.contracts import (
    AnalysisResult,
    DatasetProfile,
    DeploymentResult,
    FamilyRun,
    RunRecord,
    TrainingResult,
)
from minivess.errors import StoreError
from minivess.orchestration.results import KINDS, read
from minivess.orchestration.session import Session
from minivess.tracking.store.store import SETTLE_FIRST


def receive_profile(session: Session, upstream: Sequence[str] = ()) -> DatasetProfile:
    """The profile given by id, else the latest of this dataset.

    Raises:
        StoreError: no such run, not FINISHED, not a profile, or of other data.
    """
    dataset = session.config.dataset
    if len(upstream) == 1 and upstream[0] in session.profiles:
        return session.profiles[upstream[0]]
    record = _given(session, upstream, names.PROFILE) or _latest(session, names.PROFILE)
    profile = read(session, record, DatasetProfile)
    if profile.dataset != dataset:
        raise StoreError(
            f"Run {record.run_id} profiles {profile.dataset!r}, "
            f"but this command is about {dataset!r}.",
            remedy=f"{shlex.quote(f'data.root={profile.dataset_path}')}, or another --upstream",
        )
    return profile.replace(run_id=record.run_id)


def profile_of(session: Session, run_id: str) -> DatasetProfile:
    """The profile that a run holds, whichever dataset it is of."""
    if run_id in session.profiles:
        return session.profiles[run_id]
    record = _checked(session, run_id, names.PROFILE)
    return read(session, record, DatasetProfile).replace(run_id=run_id)


def profile_used(session: Session, training: RunRecord) -> DatasetProfile:
    """The profile that a training run was made with, from the run's own copy."""
    training = first_member(session, training)
    profile = read(session, training, DatasetProfile)
    return profile.replace(run_id=training.param(names.UPSTREAM_PROFILE))


def first_member(session: Session, training: RunRecord) -> RunRecord:
    """The training run itself; of an ensemble, that of its first member."""
    if training.tags.get(names.KIND) != names.ENSEMBLE:
        return training
    return session.store.get(training.param(names.UPSTREAM_TRAINING))


def receive_training(session: Session, upstream: Sequence[str] = ()) -> TrainingResult:
    """The parent runs given by id, else the newest of each name in this experiment.

    Raises:
        StoreError: an id is absent, not FINISHED, no parent run, or two are of different data.
    """
    if upstream:
        records = [_checked(session, run_id, names.FAMILY) for run_id in upstream]
        for record in records:
            require_named(session, record, record.tags.get(names.GROUP, record.experiment))
    else:
        records = _latest_families(session)
    hashes = {record.param(names.DATASET_HASH) for record in records}
    if len(hashes) > 1:
        raise StoreError(
            f"The training runs given belong to different data: {', '.join(sorted(hashes))}.",
            remedy="give --upstream ids of one dataset version only",
        )
    families = [read(session, record, FamilyRun) for record in records]
    return TrainingResult(
        experiment=records[0].tags.get(names.GROUP, records[0].experiment),
        data_profile_run_id=records[0].param(names.UPSTREAM_PROFILE),
        dataset_hash=hashes.pop(),
        families=tuple(families),
    )


def receive_analysis(session: Session, upstream: Sequence[str] = ()) -> AnalysisResult:
    """The analysis given by id, else the latest of this experiment."""
    record = _given(session, upstream, names.ANALYSIS)
    if record is not None:
        require_named(session, record, record.param(names.UPSTREAM_EXPERIMENT))
    else:
        record = _latest(session, names.ANALYSIS)
    result = read(session, record, AnalysisResult)
    return result.replace(run_id=record.run_id)


def require_named(session: Session, record: RunRecord, experiment: str) -> None:
    """A run that is given belongs to the experiment and the data that the settings name, if any.

    Raises:
        StoreError: it is of others; which of both is meant would be a guess.
    """
    asked, dataset = session.config, record.param(names.DATASET_NAME)
    for word, stated, named, found in (
        ("name", asked.name, asked.experiment, experiment),
        ("data.root", asked.data.root, asked.dataset, dataset),
        ("data.name", asked.data.name, asked.dataset, dataset),
    ):
        if stated is not None and named != found:
            raise StoreError(
                f"Run {record.run_id} ({record.name}) is of {found!r}, but {word} says {named!r}.",
                remedy=f"leave out {word}, or give the id of another run",
            )


def _given(session: Session, upstream: Sequence[str], kind: str) -> RunRecord | None:
    if len(upstream) > 1:
        raise StoreError(
            f"{len(upstream)} upstream ids were given where one {KINDS[kind].command} run is "
            "needed.",
            remedy="give one id: --upstream ID",
        )
    return _checked(session, upstream[0], kind) if upstream else None


def _checked(session: Session, run_id: str, kind: str) -> RunRecord:
    record, command = session.store.get(run_id), KINDS[kind].command
    found = record.tags.get(names.KIND, "unknown")
    if found != kind:
        raise StoreError(
            f"Run {run_id} is of kind {found!r}, and a {kind!r} run is needed here.",
            remedy=f"give the id that `{session.command(command)} --json` prints",
        )
    if record.status == "RUNNING" and session.store.has_journal(record):
        raise StoreError(
            f"Run {run_id} ({record.name}) goes on, or is done and MLflow has not taken all of it.",
            remedy=f"wait for the command that `minivess status` shows; without one: {SETTLE_FIRST}"
            " (its log names what was rejected)",
        )
    if record.status != "FINISHED":
        raise StoreError(
            f"Run {run_id} ({record.name}) is {record.status}, "
            "and only FINISHED runs are built on.",
            remedy=f"run `{session.command(command)}` again, or give another --upstream",
        )
    return record


def _latest(session: Session, kind: str) -> RunRecord:
    """The newest FINISHED run of a kind, of the dataset or experiment in the settings."""
    config, param = session.config, str(KINDS[kind].scope)
    wanted = config.dataset if kind == names.PROFILE else config.experiment
    found = session.store.latest(
        experiment=names.EXPERIMENTS[kind], kind=kind, params={param: wanted}
    )
    if found is not None:
        return found
    raise StoreError(
        f"There is no finished {KINDS[kind].command} run of {wanted!r}.",
        remedy=f"run `{session.command(KINDS[kind].command)}` first",
    )


def _latest_families(session: Session) -> list[RunRecord]:
    """Newest FINISHED parent run of each name, all of the newest one's data."""
    experiment = session.config.experiment
    records = session.store.search(experiment=experiment, kind=names.FAMILY, status="FINISHED")
    if not records:
        raise StoreError(
            f"The experiment {experiment!r} has no finished training run.",
            remedy=session.store.restoring(experiment) or f"run `{session.command('train')}` first",
        )
    newest: dict[str, RunRecord] = {}
    for record in records:
        if record.params.get(names.DATASET_HASH) == records[0].params.get(names.DATASET_HASH):
            newest.setdefault(record.name, record)
    return [newest[name] for name in sorted(newest)]


def receive_deployment(session: Session) -> DeploymentResult:
    """The latest deployment of this experiment."""
    record = _latest(session, names.DEPLOYMENT)
    result = read(session, record, DeploymentResult)
    return result.replace(run_id=record.run_id)
