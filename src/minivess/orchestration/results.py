"""Results that finished runs hold: read, checked for completeness, and found by content key."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from minivess import names
from minivess.contracts import (
    AnalysisResult,
    CellResult,
    Contract,
    DatasetProfile,
    DeploymentResult,
    FamilyRun,
    RunRecord,
)
from minivess.errors import StoreError, StoreUnreachable
from minivess.orchestration.session import Session
from minivess.tracking.store import run_files

Result = TypeVar("Result", bound=Contract)

HASHED_AT_MOST = 64 * 2**20
"""Larger files are compared by their size; `minivess audit` reads them."""


class Kind(NamedTuple):
    """The finished runs of one kind.

    Args:
        command: the verb that makes them.
        contract: what the first of their artifacts holds.
        needed: artifacts without which a run is not reused; a folder ends in `/`.
        scope: the param whose value later flows look for; else it is the run's name.
    """

    command: str
    contract: type[Contract] | None
    needed: tuple[str, ...]
    scope: str | None = None


KINDS = {
    names.PROFILE: Kind(
        "profile",
        DatasetProfile,
        (names.PROFILE_ARTIFACT, names.DVC_ARTIFACT),
        names.DATASET_NAME,
    ),
    names.FAMILY: Kind(
        "train",
        FamilyRun,
        (names.TRAINING_ARTIFACT, names.PROFILE_ARTIFACT, f"{names.MODEL_ARTIFACT}/"),
    ),
    names.REFIT: Kind("train", None, (names.PROFILE_ARTIFACT, f"{names.MODEL_ARTIFACT}/")),
    names.CELL: Kind(
        "train", CellResult, (names.RESULT_ARTIFACT, names.SPEC_ARTIFACT, "checkpoints/")
    ),
    names.ANALYSIS: Kind(
        "analyse",
        AnalysisResult,
        (names.ANALYSIS_ARTIFACT, names.REPORT_ARTIFACT),
        names.UPSTREAM_EXPERIMENT,
    ),
    names.DEPLOYMENT: Kind(
        "deploy",
        DeploymentResult,
        (names.DEPLOYMENT_ARTIFACT, names.ONNX_ARTIFACT),
        names.UPSTREAM_EXPERIMENT,
    ),
}
ARTIFACTS = {kind.contract: kind.needed[0] for kind in KINDS.values() if kind.contract}


def read(session: Session, record: RunRecord, contract: type[Result]) -> Result:
    """Load and validate a result that a run holds.

    Raises:
        StoreError: it is absent, damaged or of another release.
    """
    delete = session.store.command(f"runs delete --run-id {record.run_id}")
    return session.store.read_contract(
        record.run_id,
        ARTIFACTS[contract],
        contract,
        remedy=f"the same command again, once this run is deleted: {delete}",
    )


def require_complete(session: Session, record: RunRecord, kind: str) -> None:
    """Check that a finished run still holds all artifacts of its kind.

    Raises:
        StoreError: something is gone or damaged, or the run is not FINISHED any more.
    """
    store, (command, contract, needed, _) = session.store, KINDS[kind]
    held = run_files.artifact_names(store, record)
    gone = [name for name in needed if not any(path.startswith(name) for path in held)]
    wrong = [f"{name} is gone" for name in gone] or run_files.damaged_files(
        store, record, needed, hashed=HASHED_AT_MOST
    )
    if record.status != "FINISHED":
        wrong = [f"it is {record.status}"]
    if contract is not None and not wrong:
        read(session, record, contract)
    if wrong:
        raise StoreError(
            f"Run {record.run_id} ({record.name}) is not complete: {', '.join(wrong)}.",
            remedy=f"run `{session.command(command)}` again, which notices it",
        )


def is_complete(session: Session, record: RunRecord, kind: str) -> bool:
    """Whether a run holds all artifacts of its kind; prints what it lacks."""
    try:
        require_complete(session, record, kind)
    except StoreUnreachable:
        raise
    except StoreError as error:
        session.print(f"  {kind} of {record.name} is not reused: {error.problem}", warning="store")
        return False
    return True


def find(session: Session, kind: str, key: str) -> Any:
    """The result of a content key if a complete run holds it, else None."""
    record, contract = session.find(key, experiment=names.EXPERIMENTS[kind]), KINDS[kind].contract
    if record is None or contract is None or not is_complete(session, record, kind):
        return None
    found = read(session, record, contract).replace(run_id=record.run_id)
    session.reuse(f"{kind} of {record.name}", record.run_id)
    return found
