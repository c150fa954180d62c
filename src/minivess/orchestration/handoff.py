"""What flows hand to each other: run ids, published for others and looked up in MLflow.

MLflow is the truth. The latest result is the newest FINISHED run; Prefect Variables (or
pointers.json) are a published copy, written after the run is FINISHED and its artifact reads back.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from minivess import names
from minivess.contracts import (
    AnalysisResult,
    CellResult,
    Contract,
    DatasetProfile,
    DeploymentResult,
    FamilyRun,
    RunRecord,
    TrainingResult,
)
from minivess.errors import PrefectAway, StoreError, StoreUnreachable
from minivess.orchestration.session import Session
from minivess.tracking.store import run_files
from minivess.tracking.store.store import SETTLE_FIRST, Store, rank

Result = TypeVar("Result", bound=Contract)

RESULTS: dict[str, tuple[str, type[Contract]]] = {
    names.PROFILE: (names.PROFILE_ARTIFACT, DatasetProfile),
    names.FAMILY: (names.TRAINING_ARTIFACT, FamilyRun),
    names.CELL: (names.RESULT_ARTIFACT, CellResult),
    names.ANALYSIS: (names.ANALYSIS_ARTIFACT, AnalysisResult),
    names.DEPLOYMENT: (names.DEPLOYMENT_ARTIFACT, DeploymentResult),
}
COMMANDS = {
    names.PROFILE: "profile",
    names.FAMILY: "train",
    names.ANALYSIS: "analyse",
    names.DEPLOYMENT: "deploy",
}


# --- publishing ---------------------------------------------------------------------------


def publish(session: Session, kind: str, scope: str, pointer: dict[str, Any]) -> None:
    """Point `latest_...` and the name of one dataset or experiment at finished runs."""
    for name in (names.LATEST[kind], scoped(kind, scope)):
        if session.orchestrator.get(name) != pointer:
            session.orchestrator.put(name, pointer)


def scoped(kind: str, scope: str) -> str:
    """The pointer of one dataset or experiment."""
    return f"{names.LATEST[kind].removeprefix('latest_')}-{slug(scope)}"


def complete(
    session: Session,
    kind: str,
    result: Contract,
    follow: Callable[[bool], object] = lambda first: None,
) -> None:
    """Publish a result: update aliases (by `follow`), the order of runs, and the pointers.

    Every command compares them with the FINISHED runs and writes what differs, so that neither a
    kill in between nor a change by hand lasts. `follow` is called with whether it is the first
    time.
    """
    _, scope, pointer_of = CHAIN[kind]
    pointer = pointer_of(result)

    def hold_back(why: str) -> None:
        session.print(f"  {COMMANDS[kind]} is not published yet: {why}")
        session.held_back[kind] = partial(complete, session, kind, result, follow)

    records = session.ask(lambda store: [store.get(run_id) for run_id in run_ids_of(result)])
    if not records or any(record.status != "FINISHED" for record in records):
        hold_back("MLflow does not hold all of it")
        return

    def carry_out(store: Store) -> None:
        follow(names.PUBLISHED not in records[-1].tags)
        make_current(store, kind, records)
        publish(session, kind, getattr(result, scope), store.resolved(pointer))

    try:
        session.ask(carry_out)
    except PrefectAway as error:  # what is done does not end badly for a page
        hold_back(error.problem)


def run_ids_of(result: Any) -> Sequence[str]:
    """The runs that hold a result: those of a training's families, or its own one."""
    return result.run_ids if isinstance(result, TrainingResult) else (str(result.run_id),)


def make_current(store: Store, kind: str, records: Sequence[RunRecord]) -> None:
    """Let these runs be the ones that later flows find, also where newer ones were made since."""
    experiment = names.EXPERIMENTS.get(kind, records[0].experiment)
    rivals: dict[str, RunRecord] = {}
    for record in store.search(experiment=experiment, kind=kind, status="FINISHED"):
        rivals.setdefault(_scope(record), record)
    stamp = max([time.time_ns() // 1_000_000, *(rank(rival) + 1 for rival in rivals.values())])
    for record in records:
        if rivals[_scope(record)].run_id != record.run_id or names.PUBLISHED not in record.tags:
            store.set_tags(record.run_id, {names.PUBLISHED: str(stamp)})


def _scope(record: RunRecord) -> str:
    """Runs of one scope stand for the same thing, and one of them is current."""
    scopes = {
        names.PROFILE: names.DATASET_NAME,
        names.ANALYSIS: names.UPSTREAM_EXPERIMENT,
        names.DEPLOYMENT: names.UPSTREAM_EXPERIMENT,
    }
    param = scopes.get(record.tags.get(names.KIND, ""))
    return record.params.get(param, "") if param else record.name


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


# --- finding again ------------------------------------------------------------------------

NEEDED = {
    names.PROFILE: (names.PROFILE_ARTIFACT, names.DVC_ARTIFACT),
    names.FAMILY: (names.TRAINING_ARTIFACT, names.PROFILE_ARTIFACT, f"{names.MODEL_ARTIFACT}/"),
    names.REFIT: (names.PROFILE_ARTIFACT, f"{names.MODEL_ARTIFACT}/"),
    names.CELL: (names.RESULT_ARTIFACT, names.SPEC_ARTIFACT, "checkpoints/"),
    names.ANALYSIS: (names.ANALYSIS_ARTIFACT, names.REPORT_ARTIFACT),
    names.DEPLOYMENT: (names.DEPLOYMENT_ARTIFACT, names.ONNX_ARTIFACT),
}
"""What a finished run has to hold to serve again."""
READ_AT_MOST = 64 * 2**20
"""Larger files are compared by their size; `minivess audit` reads them."""


def require_whole(session: Session, record: RunRecord, kind: str) -> None:
    """A finished run still holds what it promises.

    Raises:
        StoreError: something is gone or damaged, or the run is not FINISHED any more.
    """
    store, needed = session.store, NEEDED[kind]
    held = run_files.artifact_names(store, record)
    gone = [name for name in needed if not any(path.startswith(name) for path in held)]
    wrong = [f"{name} is gone" for name in gone] or run_files.damage(
        store, record, needed, hashed=READ_AT_MOST
    )
    if record.status != "FINISHED":
        wrong = [f"it is {record.status}"]
    if kind in RESULTS and not wrong:
        read(session, record, *RESULTS[kind])
    if wrong:
        raise StoreError(
            f"Run {record.run_id} ({record.name}) is not whole: {', '.join(wrong)}.",
            remedy=f"run `{session.command(COMMANDS.get(kind, 'train'))}` again, which notices it",
        )


def is_whole(session: Session, record: RunRecord, kind: str) -> bool:
    """Whether it holds them; what it lacks is said."""
    try:
        require_whole(session, record, kind)
    except StoreUnreachable:
        raise
    except StoreError as error:
        session.print(f"  {kind} of {record.name} is not reused: {error.problem}")
        return False
    return True


def find(session: Session, kind: str, key: str) -> Any:
    """The result of a content key, if its run is there and whole, else None."""
    record = session.find(key, experiment=names.EXPERIMENTS[kind])
    if record is None or not is_whole(session, record, kind):
        return None
    found = read(session, record, *RESULTS[kind]).replace(run_id=record.run_id)
    session.reuse(f"{kind} of {record.name}", record.run_id)
    return found


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
            remedy=f"{shlex.quote(f'data.root={profile.dataset_path}')}, or another --upstream",
        )
    return profile.replace(run_id=record.run_id)


def profile_of(session: Session, run_id: str) -> DatasetProfile:
    """The profile that a run holds, whichever dataset it is of."""
    if run_id in session.profiles:
        return session.profiles[run_id]
    record = _checked(session, run_id, names.PROFILE)
    return read(session, record, names.PROFILE_ARTIFACT, DatasetProfile).replace(run_id=run_id)


def profile_used(session: Session, training: RunRecord) -> DatasetProfile:
    """The profile that a training run was made with, from the run's own copy."""
    profile = read(session, training, names.PROFILE_ARTIFACT, DatasetProfile)
    return profile.replace(run_id=training.param(names.UPSTREAM_PROFILE))


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
    families = [family_of(session, record) for record in records]
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
        wanted = {names.UPSTREAM_EXPERIMENT: session.config.experiment}
        record = _latest(session, names.ANALYSIS, wanted)
    result = read(session, record, names.ANALYSIS_ARTIFACT, AnalysisResult)
    return result.replace(run_id=record.run_id)


def family_of(session: Session, record: RunRecord) -> FamilyRun:
    """The record that a parent run holds about itself."""
    return read(session, record, names.TRAINING_ARTIFACT, FamilyRun)


def read(session: Session, record: RunRecord, artifact: str, kind: type[Result]) -> Result:
    """Load and validate the result that a run holds.

    Raises:
        StoreError: it is absent, damaged or of another release.
    """
    try:
        return kind.model_validate(session.store.read_json(record.run_id, artifact))
    except ValidationError as error:
        raise StoreError(
            f"{artifact} of run {record.run_id} ({record.name}) is no {kind.__name__}: "
            f"{error.errors()[0]['msg']}.",
            remedy="the same command again, once this run is deleted: "
            + session.store.command(f"runs delete --run-id {record.run_id}"),
        ) from error


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
            remedy=f"give the id that `{session.command(COMMANDS[kind])} --json` prints",
        )
    if record.status == "RUNNING" and session.store.has_journal(record):
        raise StoreError(
            f"Run {run_id} ({record.name}) is done, but MLflow has not taken all of it.",
            remedy=f"{SETTLE_FIRST} (its log says what was refused)",
        )
    if record.status != "FINISHED":
        raise StoreError(
            f"Run {run_id} ({record.name}) is {record.status}, "
            "and only FINISHED runs are built on.",
            remedy=f"run `{session.command(COMMANDS[kind])}` again, or give another --upstream",
        )
    return record


def _latest_profile(session: Session) -> RunRecord:
    return _latest(session, names.PROFILE, {names.DATASET_NAME: session.config.dataset})


def _latest(session: Session, kind: str, params: dict[str, str]) -> RunRecord:
    """The newest FINISHED run of a kind that carries these params."""
    found = session.store.latest(experiment=names.EXPERIMENTS[kind], kind=kind, params=params)
    if found is not None:
        return found
    wanted = ", ".join(f"{name}={value}" for name, value in params.items())
    raise StoreError(
        f"There is no finished {COMMANDS[kind]} run for {wanted}.",
        remedy=f"run `{session.command(COMMANDS[kind])}` first",
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


class Pointer(NamedTuple):
    """What `latest_...` of a kind and the name of one dataset or experiment hold."""

    kind: str
    scope: str
    rank: int
    holds: dict[str, Any]


def current(session: Session) -> list[Pointer]:
    """The pointers of the dataset and experiment in the settings, from MLflow alone."""
    found = []
    try:
        for kind, (receive, scope, holds) in CHAIN.items():
            result = receive(session)
            newest = rank(session.store.get(run_ids_of(result)[-1]))
            found.append(Pointer(kind, getattr(result, scope), newest, holds(result)))
    except StoreError as missing:
        # A chain that has not got further yet has no more to point at.
        session.print(f"  {missing.problem}")
    return found


def receive_deployment(session: Session) -> DeploymentResult:
    """The latest deployment of this experiment."""
    wanted = {names.UPSTREAM_EXPERIMENT: session.config.experiment}
    record = _latest(session, names.DEPLOYMENT, wanted)
    result = read(session, record, names.DEPLOYMENT_ARTIFACT, DeploymentResult)
    return result.replace(run_id=record.run_id)


CHAIN: dict[str, tuple[Callable[[Session], Any], str, Callable[[Any], dict[str, Any]]]] = {
    names.PROFILE: (receive_profile, "dataset", profile_pointer),
    names.FAMILY: (receive_training, "experiment", training_pointer),
    names.ANALYSIS: (receive_analysis, "experiment", analysis_pointer),
    names.DEPLOYMENT: (receive_deployment, "model_name", deployment_pointer),
}
"""Each kind with its current result, the scope of that and what its pointer holds."""
