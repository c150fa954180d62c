"""Detect and close runs whose process was killed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from minivess import names
from minivess.contracts import RunRecord
from minivess.errors import StoreError
from minivess.runtime import liveness, oom
from minivess.tracking.journal import upload, uploader
from minivess.tracking.journal.journal import Journal, Operation, parse_lines
from minivess.tracking.run.recorder import RunRecorder
from minivess.tracking.run.run import attach_run
from minivess.tracking.store.connection import translate_errors
from minivess.tracking.store.store import REFERENCE, Store

FRESH_S, WORKERS_LEAVE_S = 60.0, 10.0
log = logging.getLogger(__name__)


def settle_runs(store: Store) -> list[RunRecord]:
    """Upload journals of earlier commands; end runs of dead processes of this host as KILLED.

    Returns the runs that it ended. `error_type` is OutOfMemoryKill if the kernel's OOM killer ended
    the process, else ProcessDied. Runs of other hosts, of living processes and of processes that
    cannot be seen from here are left alone, and so are ended runs. A run whose journal is not
    stored yet is left for the next call.
    """
    ended = [store.get(run_id) for run_id in upload_journals(store)]
    for record in store.search(status="RUNNING"):
        uid = record.tags.get(names.UID)
        if uid and not store.has_journal(record) and liveness.is_gone(record.tags):
            # A request that arrived after the run had ended has made it a second time.
            first = store.by_uid(uid, deleted=False)[0]
            upload.delete_duplicates(store, first, uid)
            if first == record.run_id:
                ended.append(_end(store, record))
    return ended


def end(store: Store, run_id: str) -> RunRecord:
    """End a run as KILLED on request, because its host no longer can.

    Raises:
        StoreError: it has ended, or its process is alive on this host.
    """
    record = store.get(run_id)
    if record.status != "RUNNING":
        raise StoreError(
            f"Run {run_id} is {record.status}, and an ended run keeps its status.",
            remedy="copy the id of a run that `minivess status` shows as running",
        )
    pid = record.tags.get(liveness.PID, "")
    if liveness.is_here(record.tags) and not liveness.is_gone(record.tags):
        raise StoreError(
            f"Run {run_id} is not dead: process {pid} works on it.", remedy=f"kill {pid}"
        )
    return _end(store, record)


def elsewhere(store: Store) -> list[RunRecord]:
    """Return running runs of hosts whose processes cannot be seen from here."""
    return [r for r in store.search(status="RUNNING") if not liveness.is_here(r.tags)]


def upload_journals(store: Store) -> list[str]:
    """Upload every journal that no living process holds; return the runs that it ended as KILLED.

    Parents go first. A failing store is waited for a few seconds only.
    """
    journals = sorted(_left(store), key=lambda journal: int(journal.operations[0]["t"]))
    uploads, ended = [], []
    for journal in journals:
        if journal.operations[-1]["op"] != "close":
            ended.append(_end_journal(store, journal))
        else:
            uploads.append(uploader.of(store).take(journal))
    for pending in uploads:
        if not store.unreachable:
            uploader.of(store).flush(pending)
    return [run_id for run_id in ended if not REFERENCE.match(run_id)]


def _left(store: Store) -> Iterator[Journal]:
    """Yield, locked, the journals of dead processes and closed journals that are not stored."""
    held = {pending.journal.uid for pending in uploader.of(store).pending()}
    for path in store.home.journal.glob("*.jsonl"):
        if path.stem in held or (journal := _locked(path)) is None:
            continue
        if not journal.operations:
            # Killed before its first line; a younger one is just being made.
            if time.time() - path.stat().st_mtime > FRESH_S:
                journal.remove()
            else:
                journal.release()
        elif journal.operations[-1]["op"] == "close" or liveness.is_gone(
            journal.operations[0]["tags"]
        ):
            yield journal
        else:
            journal.release()


def _locked(path: Path) -> Journal | None:
    """Lock a journal; None if a process holds it. Workers outlive a dead process by seconds."""
    deadline = time.monotonic() + WORKERS_LEAVE_S
    while True:
        try:
            try:
                return Journal(path.parent, path.stem, is_new=False)
            except BlockingIOError:
                operations, _ = parse_lines(path.read_bytes())
        except FileNotFoundError:  # another process has stored it
            return None
        is_dead = bool(operations) and liveness.is_gone(operations[0]["tags"])
        if not is_dead or time.monotonic() > deadline:
            return None
        time.sleep(0.1)


def _end_journal(store: Store, journal: Journal) -> str:
    """Close the journal of a dead process at the time of its last metric; store its logs."""
    opening = journal.operations[0]
    stamps = [one["t"] for one in journal.operations if _is_steady(one)]
    recorder = RunRecorder(store, journal, opening)
    folder = store.home.logs / journal.uid
    if folder.is_dir():
        recorder.run.folder(folder, "logs")
    found = cause(opening["tags"])
    recorder.close("KILLED", found, max(stamps, default=None))
    log.info("Run %s is KILLED: %s.", opening["name"], found["error_message"])
    return recorder.run.run_id


def _is_steady(operation: Operation) -> bool:
    """Whether it has metrics of the work itself; system metrics may be more recent."""
    return any(not name.startswith("system/") for name in operation.get("metrics", {}))


def _end(store: Store, record: RunRecord) -> RunRecord:
    if store.get(record.run_id).status != "RUNNING":
        return store.get(record.run_id)
    ended = _last_sign(store, record)
    _store_logs(store, record)
    store.set_tags(record.run_id, cause(record.tags) | {"run_status": "KILLED"})
    with translate_errors(f"end run {record.run_id}"):
        store.client.set_terminated(record.run_id, "KILLED", ended)
    settled = store.get(record.run_id)
    log.info(
        "Run %s (%s) is KILLED: %s.", record.name, record.run_id, settled.tags["error_message"]
    )
    return settled


def cause(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with the cause of death of the process that wrote `tags`, with evidence."""
    for_memory, evidence = oom.verdict(tags)
    pid = tags.get(liveness.PID)
    if for_memory:
        kind, message = names.OUT_OF_MEMORY_KILL, f"the kernel's OOM killer ended process {pid}"
    else:
        kind, message = names.PROCESS_DIED, f"process {pid} ended before its run"
    return {names.ERROR_TYPE: kind, "error_message": message, **evidence}


def _last_sign(store: Store, record: RunRecord) -> int:
    """When the run last wrote a metric (ms since 1970); now, if it never did."""
    steady = sorted(record.metrics, key=lambda name: not name.startswith("system/"))
    with translate_errors(f"read metrics of run {record.run_id}"):
        stamps = [
            entry.timestamp
            for name in steady[:1]
            for entry in store.client.get_metric_history(record.run_id, name)
        ]
    return max(stamps, default=time.time_ns() // 1_000_000)


def _store_logs(store: Store, record: RunRecord) -> None:
    folder = store.home.logs / record.tags[names.UID]
    if not folder.is_dir():
        return
    try:
        attach_run(store, record.run_id).folder(folder, "logs")
    except StoreError as error:
        log.warning("The logs of run %s were not stored: %s", record.run_id, error.problem)
