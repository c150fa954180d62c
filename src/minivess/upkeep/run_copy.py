"""Copy runs from one store to another, with their ids, values and artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from minivess.tracking.store import sql_reader
from minivess.tracking.store.connection import translate_errors
from minivess.tracking.store.store import Store

BATCH = 100
METRICS = 1000


def copy(source: Store, target: Store, run_id: str, *, leave: Collection[str] = ()) -> None:
    """Copy a run of `source` into `target`, a database; artifact folders in `leave` are left out.

    Raises:
        StoreError: there is no such run, or an artifact is not copied completely.
    """
    from mlflow.entities import Param

    record = source.get(run_id)
    client = target.client
    _make(source, target, run_id)
    with translate_errors(f"copy run {run_id}"):
        params = [Param(name, value) for name, value in record.params.items()]
        for start in range(0, len(params), BATCH):
            client.log_batch(run_id, params=params[start : start + BATCH], synchronous=True)
        for name in source.client.get_run(run_id).data.metrics:
            history = source.client.get_metric_history(run_id, name)
            for start in range(0, len(history), METRICS):
                client.log_batch(run_id, metrics=history[start : start + METRICS], synchronous=True)
    with tempfile.TemporaryDirectory(prefix="minivess-") as folder:
        _forget_places()
        for path in source.artifacts(run_id):
            if PurePosixPath(path).parts[0] not in leave:
                into = Path(folder) / path
                source.download(run_id, path, into.parent)
        _forget_places()
        with translate_errors(f"copy the artifacts of run {run_id}"):
            client.log_artifacts(run_id, folder)
    with translate_errors(f"end run {run_id}"):
        client.set_terminated(run_id, record.status, record.end_time)


def _forget_places() -> None:
    """Clear MLflow's cache of artifact locations: it is keyed by run id, whatever the store."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


def _make(source: Store, target: Store, run_id: str) -> None:
    """Create an empty run with this id: MLflow assigns ids, so the new row is renamed."""
    import sqlalchemy as sa

    with translate_errors(f"copy run {run_id}"):
        run = source.client.get_run(run_id)
        experiment = source.client.get_experiment(run.info.experiment_id)
    place = target.experiment_id(
        experiment.name, dataset=experiment.tags.get("dataset", ""), note="Carried over."
    )
    with translate_errors(f"copy run {run_id}"):
        made = target.client.create_run(
            place, run.info.start_time, tags=dict(run.data.tags), run_name=run.info.run_name
        ).info.run_id
    renamed = {"old": made, "new": run_id}
    with sql_reader.database(target) as connection:
        for table in ("runs", "tags"):
            connection.execute(
                sa.text(f"UPDATE {table} SET run_uuid = :new WHERE run_uuid = :old"), renamed
            )
        connection.execute(
            sa.text(
                "UPDATE runs SET artifact_uri = replace(artifact_uri, :old, :new)"
                " WHERE run_uuid = :new"
            ),
            renamed,
        )
    if run.inputs is not None and run.inputs.dataset_inputs:
        with translate_errors(f"copy the inputs of run {run_id}"):
            target.client.log_inputs(run_id, run.inputs.dataset_inputs)
