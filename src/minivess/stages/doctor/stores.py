"""Checks of stores and servers: MLflow, Prefect, DVC, and whether they agree."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from minivess import files, names
from minivess.errors import StoreError
from minivess.orchestration import prefect_server
from minivess.orchestration.pages import MLFLOW_PORT
from minivess.runtime import liveness
from minivess.runtime.servers import is_free, listener
from minivess.stages.doctor.surroundings import Answer, Surroundings
from minivess.text import first_of, format_size, several
from minivess.tracking.store import artifacts, registry, sql_reader
from minivess.tracking.store.connection import redact

LARGE_BYTES = 2e9


def mlflow(around: Surroundings) -> Answer:
    """Whether the store answers and is of this release."""
    return "ok", f"{redact(around.store.uri)} answers"


def mlflow_database(around: Surroundings) -> Answer:
    """MLflow's SQLite file."""
    if around.config.tracking.uri:
        return "note", "the store is not the file of this folder"
    return _database(around.home.database)


def prefect_database(around: Surroundings) -> Answer:
    """Prefect's SQLite file."""
    return _database(prefect_server.folder_of(around.home, around.env) / "prefect.db")


def _database(path: Path) -> Answer:
    if not path.exists():
        return "ok", "not made yet"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    size = files.size(path)
    if said != "ok":
        return "error", f"{path.name} is damaged: {said}"
    return "warning" if size > LARGE_BYTES else "ok", f"{path.name}, {format_size(size)}, whole"


def dead_runs(around: Surroundings) -> Answer:
    """Runs that are RUNNING in MLflow and whose process has ended."""
    running = [one for one in sql_reader.records(around.store) if one.status == "RUNNING"]
    dead = [one.name for one in running if liveness.is_gone(one.tags)]
    return (
        ("warning", first_of(dead, 3)) if dead else ("ok", several(len(running), "run") + " go on")
    )


def aliases(around: Surroundings) -> Answer:
    """Whether aliases of models point at runs that exist."""
    lost, found = [], 0
    for name, held in registry.models(around.store).items():
        for alias, version in held.items():
            try:
                around.store.get(registry.by_version(around.store, name, version).run_id)
                found += 1
            except StoreError:
                lost.append(f"{name}@{alias}")
    return ("error", f"of runs that are gone: {first_of(lost, 3)}") if lost else (
        "ok", f"{found} aliases of runs that exist"
    )  # fmt: skip


def pointers(around: Surroundings) -> Answer:
    """Whether the published run ids exist in MLflow."""
    known = {record.run_id for record in sql_reader.records(around.store)}
    found = {name: list(_run_ids(value)) for name, value in _pointers(around).items()}
    lost = [name for name, ids in found.items() if not set(ids) <= known]
    if lost:
        return "warning", f"of runs that are gone: {first_of(lost, 3)}"
    return "ok", f"{several(len(found), 'pointer')} to runs that exist"


def _pointers(around: Surroundings) -> dict[str, Any]:
    if around.env.prefect_disabled:
        path = around.home.pointers
        return dict(files.read_json(path)) if path.exists() else {}
    stored = {
        name: prefect_server.stored_variable(around.home, around.env, name)
        for name in names.LATEST.values()
    }
    return {name: value for name, value in stored.items() if value is not None}


def _run_ids(value: Any) -> Iterator[str]:
    """The ids of runs that a pointer holds, whatever their keys."""
    for key, inside in value.items() if isinstance(value, dict) else ():
        if key.endswith("run_id") and isinstance(inside, str):
            yield inside
        elif key.endswith("run_ids"):
            yield from inside


def artifact_store(around: Surroundings) -> Answer:
    """Whether files of runs can be written."""
    stated = around.config.tracking.artifact_root or str(around.home.artifacts)
    folder = artifacts.local_folder(stated)
    if folder is None or around.config.tracking.uri:
        return "note", "MLflow's server decides where files go"
    lowest = next(path for path in (folder, *folder.parents) if path.exists())
    can = os.access(lowest, os.W_OK)
    return ("ok", str(folder)) if can else ("error", f"{lowest} may not be written")


def prefect(around: Surroundings) -> Answer:
    """Prefect's server."""
    if around.env.prefect_disabled:
        return "note", "PREFECT_DISABLED: flows run without it"
    if around.env.prefect_api_url:
        prefect_server.probe(around.env.prefect_api_url)
        return "ok", f"{around.env.prefect_api_url} answers"
    server = prefect_server.running(prefect_server.folder_of(around.home, around.env))
    if server is None:
        return "ok", "the next command that has work starts one, which stays for those after it"
    return "ok", f"{server.api} answers, version {server.version}, pid {server.process.pid}"


def port_prefect(_: Surroundings) -> Answer:
    """The port of Prefect's page."""
    return _port(prefect_server.PREFECT_PORT)


def port_mlflow(_: Surroundings) -> Answer:
    """The port of MLflow's page."""
    return _port(MLFLOW_PORT)


def _port(port: int) -> Answer:
    return ("ok", f"{port} is free") if is_free(port) else ("note", f"{port}: {listener(port)}")


def remote(around: Surroundings) -> Answer:
    """The DVC remote that keeps the versions of the data."""
    stated = around.config.data.remote
    if stated and "://" in stated:
        return "note", f"{stated} is asked by the next profile"
    folder = Path(stated).expanduser() if stated else around.home.dvc / "remote"
    if not stated and not folder.exists():
        return "ok", "not made yet"
    can = folder.is_dir() and os.access(folder, os.W_OK)
    return ("ok", str(folder)) if can else ("error", f"{folder} is absent or may not be written")


CHECKS = {
    "mlflow": mlflow, "mlflow_database": mlflow_database, "dead_runs": dead_runs,
    "aliases": aliases, "pointers": pointers, "artifacts": artifact_store, "prefect": prefect,
    "prefect_database": prefect_database, "port_prefect": port_prefect, "port_mlflow": port_mlflow,
    "remote": remote,
}  # fmt: skip
