"""Runs whose process died without a word."""

from __future__ import annotations

import logging
import time

from minivess import names
from minivess.contracts import RunRecord
from minivess.errors import StoreError
from minivess.tracking import oom, process
from minivess.tracking.connection import door
from minivess.tracking.run import attach
from minivess.tracking.store import Store

log = logging.getLogger(__name__)


def settle(store: Store) -> list[RunRecord]:
    """End runs of this host whose process is gone as KILLED; returns them as they now are.

    `error_type` is OutOfMemoryKill where the kernel killed it for memory, else ProcessDied.

    A run of another host, of a living process, or of a process that cannot be seen from here
    stays as it is, and so does every run that has ended.
    """
    return [
        _end(store, record)
        for record in store.search(status="RUNNING")
        if names.UID in record.tags and process.is_gone(record.tags)
    ]


def _end(store: Store, record: RunRecord) -> RunRecord:
    if store.get(record.run_id).status != "RUNNING":
        return store.get(record.run_id)
    ended = _last_sign(store, record)
    _store_logs(store, record)
    store.set_tags(record.run_id, _cause(record) | {"run_status": "KILLED"})
    with door(f"end run {record.run_id}"):
        store.client.set_terminated(record.run_id, "KILLED", ended)
    settled = store.get(record.run_id)
    log.info(
        "Run %s (%s) is KILLED: %s.", record.name, record.run_id, settled.tags["error_message"]
    )
    return settled


def _cause(record: RunRecord) -> dict[str, str]:
    """Tags that say what ended the process, with the evidence."""
    for_memory, evidence = oom.verdict(record.tags)
    pid = record.tags.get(process.PID)
    if for_memory:
        kind, message = names.OUT_OF_MEMORY_KILL, f"the kernel killed process {pid} for its memory"
    else:
        kind, message = names.PROCESS_DIED, f"process {pid} ended before its run"
    return {names.ERROR_TYPE: kind, "error_message": message, **evidence}


def _last_sign(store: Store, record: RunRecord) -> int:
    """When the run last wrote a metric, in milliseconds; now, if it never did."""
    steady = sorted(record.metrics, key=lambda name: not name.startswith("system/"))
    with door(f"read metrics of run {record.run_id}"):
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
        attach(store, record.run_id).folder(folder, "logs")
    except StoreError as error:
        log.warning("The logs of run %s were not stored: %s", record.run_id, error.problem)
