"""The journal of a run that nobody has uploaded, and what the store holds of it afterwards."""

from __future__ import annotations

import os
import time

from mlflow.entities import ViewType

from minivess import names
from minivess.tracking.journal.journal import Journal
from minivess.tracking.run.run import Run
from minivess.tracking.run.run_lifecycle import opening_operation
from minivess.tracking.store.store import Store


def written(store: Store, experiment: str, *, steps: int = 30, parent: str | None = None) -> str:
    """The journal of a run that nobody has sent yet; returns its uid."""
    uid = os.urandom(16).hex()
    above = {names.PARENT: f"uid-{parent}"} if parent else {}
    tags = {names.UID: uid, names.KIND: names.CELL, **above}
    journal = Journal(store.home.journal, uid)
    journal.append(opening_operation(experiment, "tubes", "r", tags))
    run = Run(journal, f"uid-{uid}", uid=uid, name="r", kind=names.CELL)
    for step in range(steps):
        run.metrics({"a": step / 7, "b": float("nan")}, step=step)
    run.params({"learning_rate": 0.1})
    run.json({"me": run.run_id, "parent": parent and f"uid-{parent}"}, "a/b.json")
    run.tags({"seen": "1"})
    run.tags({"seen": "2"})
    journal.close({"op": "close", "status": "FINISHED", "t": int(time.time() * 1000), "tags": {}})
    journal.release()
    return uid


def require_whole(store: Store, uid: str, *, steps: int = 30) -> str:
    """The run of this uid is there once, with every value once and in order; returns its id."""
    ids = [experiment.experiment_id for experiment in store.client.search_experiments()]
    (run,) = store.client.search_runs(ids, f"tags.`{names.UID}` = '{uid}'", ViewType.ACTIVE_ONLY)
    run_id = str(run.info.run_id)
    history = store.client.get_metric_history(run_id, "a")
    assert [(one.step, one.value) for one in history] == [(s, s / 7) for s in range(steps)]
    assert len(store.client.get_metric_history(run_id, "b")) == steps
    assert (run.info.status, run.data.tags["seen"]) == ("FINISHED", "2")
    assert run.data.params["learning_rate"] == "0.1"
    assert store.read_json(run_id, "a/b.json")["me"] == run_id
    return run_id
