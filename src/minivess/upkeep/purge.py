"""Remove deleted runs permanently: from the store, its artifacts and this home's folders.

MLflow only marks a run as deleted. A run that is upstream of a kept run, or whose model is
registered, is removed only by force.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minivess import config, files, names
from minivess.contracts import RunRecord
from minivess.errors import StoreError
from minivess.tracking.run import metric_files
from minivess.tracking.store import artifacts, registry, run_files, sql_reader
from minivess.tracking.store.connection import all_pages, translate_errors
from minivess.tracking.store.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

RUN_ID = re.compile(r"[0-9a-f]{32}")
UPSTREAM_PREFIX = "upstream_"
HELD_BY = (names.CHAMPION_ALIAS, names.PRODUCTION_ALIAS, names.REFIT_ALIAS)
"""Aliases whose version, and its run, somebody relies on."""


class Doomed(NamedTuple):
    """A deleted run: its folders, its size, and what still needs it."""

    record: RunRecord
    folders: tuple[Path, ...]
    size: int
    needed_by: tuple[str, ...]


def look(store: Store, run_ids: Collection[str] = ()) -> list[Doomed]:
    """Return every deleted run, or those given, with its size in bytes; changes nothing.

    Raises:
        StoreError: a run given is not deleted.
    """
    gone = {run.info.run_id: run for run in deleted(store)}
    for run_id in run_ids:
        if run_id not in gone:
            raise StoreError(
                f"Run {run_id} is not among the deleted runs.",
                remedy="delete it first, on MLflow's page or by "
                f"{store.command(f'runs delete --run-id {run_id}')}",
            )
    chosen = [store.record(gone[run_id]) for run_id in run_ids or gone]
    if not chosen:
        return []
    needed_models = {version.run_id: f"model {name}" for name, version in _versions(store)}
    return _doomed(store, chosen, sql_reader.records(store), needed_models)


def with_children(store: Store, run_ids: Collection[str]) -> list[Doomed]:
    """Return runs that are not deleted, each with all runs below it; changes nothing.

    Raises:
        StoreError: there is no such run, or one of them goes on.
    """
    everything = {record.run_id: record for record in sql_reader.records(store)}
    chosen = {run_id: everything.get(run_id) or store.get(run_id) for run_id in run_ids}
    while more := {
        record.run_id: record for record in everything.values()
        if record.tags.get(names.PARENT) in chosen and record.run_id not in chosen
    }:  # fmt: skip
        chosen |= more
    if going := [record for record in chosen.values() if record.end_time is None]:
        raise StoreError(
            f"Run {going[0].run_id} ({going[0].name}) has not ended.",
            remedy="stop its command (Ctrl-C), or end it if its process is gone: "
            f"minivess settle {going[0].run_id}",
        )
    kept = [record for run_id, record in everything.items() if run_id not in chosen]
    held = {
        f"{name}/{version}": f"model {name}@{alias}"
        for name, aliases in registry.models(store).items()
        for alias, version in aliases.items() if alias in HELD_BY
    }  # fmt: skip
    needed_models = {v.run_id: held[name] for name, v in _versions(store) if name in held}
    return _doomed(store, chosen.values(), kept, needed_models)


def delete(store: Store, doomed: Collection[Doomed]) -> None:
    """Delete runs in MLflow with the model versions made of them, then for good.

    On a server they stay restorable until its database is purged.
    """
    ids = {one.record.run_id for one in doomed}
    with translate_errors("delete runs"):
        for _, version in _versions(store):
            if version.run_id in ids:
                store.client.delete_model_version(version.name, version.version)
        for run_id in ids:
            store.client.delete_run(run_id)
    if sql_reader.is_database(store):
        apply(store, doomed, force=True)
    else:
        _forget(store, doomed)


def apply(store: Store, doomed: Iterable[Doomed], *, force: bool = False) -> list[Doomed]:
    """Remove them, those still needed only by force; return what was removed.

    Raises:
        StoreError: the store is a server, which cannot remove runs permanently.
    """
    chosen = [one for one in doomed if force or not one.needed_by]
    if not chosen:
        return []
    if not sql_reader.is_database(store):
        raise StoreError(
            f"{store.uri} is a server; only its database can remove runs permanently.",
            remedy="on the server's machine: MLFLOW_TRACKING_URI=<the address of its database> "
            "minivess purge --apply",
        )
    _collect(store, [one.record.run_id for one in chosen])
    for one in chosen:
        for folder in one.folders:
            shutil.rmtree(folder, ignore_errors=True)
    _forget(store, chosen)
    return chosen


def _forget(store: Store, gone: Iterable[Doomed]) -> None:
    """Remove them from the plain files, which `summary` reads."""
    uids = {uid for one in gone if (uid := one.record.tags.get(names.UID))}
    metric_files.forget(store.home, uids)


def _collect(store: Store, run_ids: Collection[str]) -> None:
    """Run `mlflow gc`, which also empties remote artifact stores."""
    words = ["gc", "--backend-store-uri", store.uri, "--tracking-uri", store.uri]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *words, "--run-ids", ",".join(run_ids)],
        capture_output=True,
        text=True,
        check=False,
        env=config.child_environment(),
    )
    if done.returncode != 0:
        raise StoreError(
            f"`mlflow gc` failed: {done.stderr.strip().splitlines()[-1:]}",
            remedy="fix what it names, then run the same command again: it continues",
        )


def deleted(store: Store) -> list[Run]:
    """Return every run that was deleted and is not removed yet."""
    from mlflow.entities import ViewType

    with translate_errors("list the deleted runs"):
        experiments = store.client.search_experiments(view_type=ViewType.ALL)
        ids = [one.experiment_id for one in experiments]
        kept = ViewType.DELETED_ONLY
        return list(all_pages(store.client.search_runs, experiment_ids=ids, run_view_type=kept))


def _doomed(
    store: Store,
    chosen: Iterable[RunRecord],
    kept: Collection[RunRecord],
    needed_models: Mapping[str | None, str],
) -> list[Doomed]:
    """The chosen runs, with the kept runs and models (run id -> name) that need them."""
    needed, found = _needed(store, kept), []
    for run_id, model in needed_models.items():
        needed[run_id or ""].append(model)
    keys = {record.tags.get(names.KEY) for record in kept}
    for record in chosen:
        folders = tuple(folder for folder in _local(store, record, keys) if folder.is_dir())
        size = sum(files.size(folder) for folder in folders)
        if artifacts.local_folder(record.artifact_uri) is None:
            size += sum(store.artifacts(record.run_id).values())
        found.append(Doomed(record, folders, size, tuple(needed.get(record.run_id, ()))))
    return found


def _local(store: Store, record: RunRecord, keys: Collection[str | None]) -> list[Path]:
    """Local folders that belong to this run alone."""
    home, key = store.home, record.tags.get(names.KEY)
    root = artifacts.local_folder(record.artifact_uri)
    # Only folders named by the run's own id.
    found = [part for part in (root, *root.parents) if part.name == record.run_id] if root else []
    found += [home.reports / record.run_id, home.served / record.run_id]
    found += [home.served / "champions" / record.run_id]
    if names.UID in record.tags:
        found.append(home.logs / record.tags[names.UID])
    if key and RUN_ID.fullmatch(key) and key not in keys:
        found.append(home.cells / key)
    return found


def _needed(store: Store, kept: Iterable[RunRecord]) -> dict[str, list[str]]:
    """Run id -> kept runs that refer to it."""
    found: dict[str, list[str]] = defaultdict(list)
    for record in kept:
        for run_id in _references(store, record) - {record.run_id}:
            found[run_id].append(f"run {record.run_id} ({record.name})")
    return found


def _versions(store: Store) -> list[tuple[str, ModelVersion]]:
    """Every version of every registered model, as NAME/VERSION."""
    with translate_errors("list the registered models"):
        versions = list(all_pages(store.client.search_model_versions))
    return [(f"{version.name}/{version.version}", version) for version in versions]


def _references(store: Store, record: RunRecord) -> set[str]:
    """Ids that a run names as upstream, parent or folds."""
    texts = [value for name, value in record.params.items() if name.startswith(UPSTREAM_PREFIX)]
    texts += [record.tags.get(names.PARENT, ""), record.tags.get(names.RESTART_OF, "")]
    listed = {names.FAMILY: names.TRAINING_ARTIFACT, names.ANALYSIS: names.UPSTREAM_ARTIFACT}
    path = listed.get(record.tags.get(names.KIND, ""))
    if path and path in run_files.artifact_names(store, record, str(Path(path).parent)):
        texts.append(store.read_text(record.run_id, path))
    return set(RUN_ID.findall(" ".join(texts)))
