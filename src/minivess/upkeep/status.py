"""Status of a store: active runs with time left, unfinished runs, outdated results."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from minivess import names
from minivess.contracts import RunRecord
from minivess.runtime import liveness
from minivess.tracking.store import sql_reader
from minivess.tracking.store.connection import translate_errors
from minivess.tracking.store.store import Store, publication_time
from minivess.training.monitoring.watchdog import count_down

EPOCH_METRIC = "train_loss"
CURVE_METRIC = "val_dice"


class Running(NamedTuple):
    """A run that has not ended."""

    record: RunRecord
    where: str
    seconds: float
    epochs: tuple[int, int] | None
    eta_s: float | None
    curve: tuple[float, ...]
    """`val_dice` of the epochs that were judged."""
    memory: int | None
    """Bytes of its process; None on another machine, or where it has ended."""


class Status(NamedTuple):
    """The state of a store."""

    runs: int
    running: list[Running]
    unfinished: list[RunRecord]
    stale: list[str]


def look(store: Store) -> Status:
    """Read the status; metric histories are read of training runs only."""
    records = sql_reader.records(store)
    return Status(
        len(records),
        _running(store, [record for record in records if record.status == "RUNNING"], records),
        _unfinished(records),
        _stale(records),
    )


# --- active runs --------------------------------------------------------------------------


def _running(
    store: Store, records: Iterable[RunRecord], everything: Iterable[RunRecord]
) -> list[Running]:
    now = time.time()
    folds = {record.run_id: _fold(store, record, now) for record in records if _is(record, "cell")}
    found = []
    for record in records:
        fold = folds.get(record.run_id)
        eta = fold[1] if fold else _family_eta(record, everything, folds)
        found.append(
            Running(
                record, _where(record.tags), now - record.start_time / 1000,
                fold[0] if fold else None, eta, _curve(store, record) if fold else (),
                liveness.memory(record.tags),
            )
        )  # fmt: skip
    return found


def _fold(store: Store, record: RunRecord, now: float) -> tuple[tuple[int, int], float | None]:
    """Epochs done and planned, and seconds left at the current pace."""
    total = int(record.params.get("max_epochs", 0))
    with translate_errors(f"read metrics of run {record.run_id}"):
        history = store.client.get_metric_history(record.run_id, EPOCH_METRIC)
    done = max((entry.step + 1 for entry in history), default=0)
    if not history or not total:
        return (done, total), None
    stamps = sorted(entry.timestamp / 1000 for entry in history)
    first = record.start_time / 1000 if len(stamps) == 1 else stamps[0]
    pace = (stamps[-1] - first) / max(len(stamps) - 1, 1)
    left = total - done
    return (done, total), count_down(left * pace, left, now - stamps[-1])


def _curve(store: Store, record: RunRecord) -> tuple[float, ...]:
    with translate_errors(f"read metrics of run {record.run_id}"):
        history = store.client.get_metric_history(record.run_id, CURVE_METRIC)
    return tuple(entry.value for entry in sorted(history, key=lambda entry: entry.step))


def _family_eta(
    record: RunRecord,
    everything: Iterable[RunRecord],
    folds: Mapping[str, tuple[tuple[int, int], float | None]],
) -> float | None:
    """Seconds that its folds still need; folds not begun are assumed to take as long as others."""
    if not _is(record, names.FAMILY):
        return None
    children = [r for r in everything if r.tags.get(names.PARENT) == record.run_id]
    ended = [
        (r.end_time - r.start_time) / 1000
        for r in children
        if r.status == "FINISHED" and r.end_time is not None
    ]
    active = [folds[r.run_id][1] for r in children if r.run_id in folds]
    if None in active or not (ended or active):
        return None
    left = [eta for eta in active if eta is not None]
    waiting = int(record.tags.get("num_folds", len(children))) - len(ended) - len(active)
    whole = sum(ended) / len(ended) if ended else time.time() - record.start_time / 1000 + left[0]
    return sum(left) + max(waiting, 0) * whole


def _where(tags: Mapping[str, str]) -> str:
    pid, host = tags.get(liveness.PID, "?"), tags.get(liveness.HOST)
    if host is None:
        return "started by another tool"
    if liveness.is_gone(tags):
        return f"dead (pid {pid}); `minivess settle` ends it"
    return f"pid {pid}" if host == socket.gethostname() else f"pid {pid} on {host}"


def _is(record: RunRecord, kind: str) -> bool:
    return record.tags.get(names.KIND) == kind


# --- unfinished runs and outdated results -------------------------------------------------


def _unfinished(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Newest FAILED or KILLED run of each key without a FINISHED or RUNNING one."""
    newest: dict[str, RunRecord] = {}
    done = {r.tags.get(names.KEY) for r in records if r.status in ("FINISHED", "RUNNING")}
    for record in records:
        key = record.tags.get(names.KEY)
        if key is not None and key not in done:
            newest.setdefault(key, record)
    return list(newest.values())


def _stale(records: Iterable[RunRecord]) -> list[str]:
    """Newest results whose upstream has a newer version."""
    finished = [record for record in records if record.status == "FINISHED"]
    finished.sort(key=publication_time, reverse=True)
    profiles = _newest(finished, names.PROFILE, names.DATASET_NAME)
    families = _newest(finished, names.FAMILY, None)
    analyses = _newest(finished, names.ANALYSIS, names.UPSTREAM_EXPERIMENT)
    deployments = _newest(finished, names.DEPLOYMENT, names.UPSTREAM_EXPERIMENT)
    found = []
    for experiment, family in families.items():
        profile = profiles.get(family.params.get(names.DATASET_NAME, ""))
        if profile is not None and _hash(profile) != _hash(family):
            found.append(f"training {experiment}: the data have a newer version (minivess train)")
        analysis = analyses.get(experiment)
        if analysis is not None and publication_time(analysis) < publication_time(family):
            found.append(f"analysis of {experiment}: older than its training (minivess analyse)")
    for experiment, deployment in deployments.items():
        analysis = analyses.get(experiment)
        judged = deployment.params.get(names.UPSTREAM_ANALYSIS)
        if analysis is not None and analysis.run_id != judged:
            found.append(f"deployment of {experiment}: older than its analysis (minivess deploy)")
    return found


def _newest(records: Iterable[RunRecord], kind: str, param: str | None) -> dict[str, RunRecord]:
    """Newest run of a kind per value of a param; without a param, per experiment."""
    found: dict[str, RunRecord] = {}
    for record in records:
        if _is(record, kind):
            found.setdefault(record.params.get(param, "") if param else record.experiment, record)
    return found


def _hash(record: RunRecord) -> str | None:
    return record.params.get(names.DATASET_HASH)
