"""What writes files that matter: each with the state it starts from, and what holds afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from minivess import files
from minivess.analysis import workspace
from minivess.config import DataConfig, TrackingConfig
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import profile as profiling
from minivess.data.versions import versioning
from minivess.data.versions.curated import file_index
from minivess.home import open_home
from minivess.orchestration.base import Orchestrator
from minivess.review import decide, queue
from minivess.tracking.journal.journal import Journal
from minivess.tracking.run import metric_files
from minivess.tracking.run.dead_runs import upload_journals
from minivess.tracking.store import registry
from minivess.tracking.store.store import Store, open_store
from minivess.training import checkpoint
from tests.conftest import tube, write_nifti
from tests.faults import checker, laws
from tests.tracking.replay import written


class Writer:
    """One kind of write below a folder.

    `prepare` makes the state before; `write` is what a fault interrupts; `check` states the laws:
    `done` says whether `write` returned, so that all of it has to be there.
    """

    def prepare(self, folder: Path) -> None:
        """Make what is there before."""

    def write(self, folder: Path) -> None:
        """Write; returning means that all of it is kept."""
        raise NotImplementedError

    def check(self, folder: Path, *, done: bool) -> None:
        """Assert what holds after a fault, then that the same write succeeds."""
        raise NotImplementedError


class Checkpoint(Writer):
    """The state to resume from, with the one before it."""

    def prepare(self, folder: Path) -> None:
        self._save(folder, 1)
        self._save(folder, 2)

    def write(self, folder: Path) -> None:
        self._save(folder, 3)

    def check(self, folder: Path, *, done: bool) -> None:
        assert self._epoch(folder) in ((3,) if done else (2, 3))
        self._save(folder, 4)
        assert self._epoch(folder) == 4

    def _save(self, folder: Path, epoch: int) -> None:
        weights = {"w": torch.full((5_000,), float(epoch))}
        state = {"epoch": epoch, "weights": weights}
        checkpoint.save(folder / "last.ckpt", state, keep_previous=True)

    def _epoch(self, folder: Path) -> int:
        found = checkpoint.load(folder / "last.ckpt")
        assert found is not None
        assert bool((found["weights"]["w"] == found["epoch"]).all())
        return int(found["epoch"])


class JournalOfRun(Writer):
    """The journal of a run with a file in its spool."""

    LINES = tuple({"op": "log", "step": step} for step in range(4))

    def write(self, folder: Path) -> None:
        journal = Journal(folder, "u")
        kept = len(journal.operations)
        for line in self.LINES[kept:]:
            journal.append(line)
        journal.put("a/b.txt", lambda path: path.write_text("content"))
        journal.close({"op": "close"})
        if journal.refusal is not None:
            raise journal.refusal

    def check(self, folder: Path, *, done: bool) -> None:
        journal = Journal(folder, "u")
        found = journal.operations
        logged = [one for one in found if one["op"] == "log"]
        assert logged == list(self.LINES[: len(logged)])
        for one in found:
            if one["op"] == "file":
                assert files.sha256(journal.spool / one["path"]) == one["sha256"]
        if done:
            assert [one["op"] for one in found] == ["log"] * 4 + ["file", "close"]
        journal.append({"op": "log", "step": 99})
        journal.release()
        again = Journal(folder, "u")
        assert again.operations == [*found, {"op": "log", "step": 99}]
        again.release()


class UploadOfJournal(Writer):
    """A dead command's journal is uploaded to the store: each value once, in order."""

    STEPS = 3

    def prepare(self, folder: Path) -> None:
        store = self._store(folder)
        uid = written(store, "tubes", steps=self.STEPS)
        files.copy(store.home.journal / f"{uid}.jsonl", folder / "journal")

    def write(self, folder: Path) -> None:
        store = self._store(folder)
        upload_journals(store)
        if any(store.home.journal.glob("*.jsonl")):
            raise OSError("the journal waits for the next command")

    def check(self, folder: Path, *, done: bool) -> None:
        store = self._store(folder)
        if not done:
            upload_journals(store)
        assert not list(store.home.journal.glob("*.jsonl"))
        assert checker.differences(folder / "journal", store.home.database) == []

    def _store(self, folder: Path) -> Store:
        return open_store(open_home(folder / "home"), TrackingConfig())


class Pointers(Writer):
    """The published pointers to runs."""

    def prepare(self, folder: Path) -> None:
        self._put(folder, "latest_training", 1)
        self._put(folder, "latest_analysis", 1)

    def write(self, folder: Path) -> None:
        self._put(folder, "latest_training", 2)

    def check(self, folder: Path, *, done: bool) -> None:
        of = self._orchestrator(folder)
        assert of.get("latest_training") in ({"n": 2},) if done else ({"n": 1}, {"n": 2})
        assert of.get("latest_analysis") == {"n": 1}
        self._put(folder, "latest_training", 3)
        assert of.get("latest_training") == {"n": 3}

    def _put(self, folder: Path, name: str, number: int) -> None:
        self._orchestrator(folder).put(name, {"n": number})

    def _orchestrator(self, folder: Path) -> Orchestrator:
        return Orchestrator(open_home(folder / "home"))


class FoldTable(Writer):
    """The table to which each fold that ends adds its row."""

    def prepare(self, folder: Path) -> None:
        metric_files.add_fold(folder, {"family": "a", "fold": 0, "dice": 0.5})

    def write(self, folder: Path) -> None:
        metric_files.add_fold(folder, {"family": "a", "fold": 1, "dice": 0.6})
        metric_files.summarise(folder)

    def check(self, folder: Path, *, done: bool) -> None:
        folds = [row["fold"] for row in metric_files.read(folder / "metrics.csv")]
        assert folds in (["0", "1"],) if done else (["0"], ["0", "1"])
        if "1" not in folds:
            metric_files.add_fold(folder, {"family": "a", "fold": 1, "dice": 0.6})
        (row,) = metric_files.summarise(folder)
        assert (row["n_folds"], row["mean"]) == (2, 0.55)


class Measurements(Writer):
    """The measurements of a data set, by the hashes of its files."""

    def prepare(self, folder: Path) -> None:
        volumes(folder / "data", 2)

    def write(self, folder: Path) -> None:
        self._measure(folder)

    def check(self, folder: Path, *, done: bool) -> None:
        measured = self._measure(folder)
        assert [stats.case for stats in measured.stats] == ["vol0", "vol1"]
        again = self._measure(folder)
        assert again.stats == measured.stats

    def _measure(self, folder: Path) -> profiling.Measured:
        home = open_home(folder / "home")
        pairing = pair_files(folder / "data")
        hashes = file_index(home).hashes([p for case in pairing.cases for p in case.files])
        return profiling.profile(
            pairing, hashes, config=DataConfig(), cache=home.profile_cache, accepted=frozenset()
        )


class ReviewQueue(Writer):
    """A decision about a volume, with the file that replaces its label."""

    def prepare(self, folder: Path) -> None:
        volumes(folder / "data", 1)
        home, pairing = open_home(folder / "home"), pair_files(folder / "data")
        hashes = file_index(home).hashes([p for case in pairing.cases for p in case.files])
        queue.record_seen(home, "tubes", pairing, hashes, (), in_force={})
        write_nifti(folder / "better.nii.gz", tube((24, 24, 5), 9)[1])

    def write(self, folder: Path) -> None:
        self._decide(folder)

    def check(self, folder: Path, *, done: bool) -> None:
        home = open_home(folder / "home")
        decided = queue.find(home, "tubes", "vol0").decisions
        assert len(decided) == 1 if done else len(decided) <= 1
        self._decide(folder)
        entry = queue.find(home, "tubes", "vol0")
        assert [made.verdict for made in entry.decisions] == ["fix"]
        kept = queue.current_files(home, entry)["label"]
        assert files.md5(kept) == files.md5(folder / "better.nii.gz")

    def _decide(self, folder: Path) -> None:
        home = open_home(folder / "home")
        entry = queue.find(home, "tubes", "vol0")
        better: dict[queue.Role, Path] = {"label": folder / "better.nii.gz"}
        decide.decide(home, entry, "fix", who="Ada", why="looked", replacements=better)


class DataVersion(Writer):
    """A new version of a data set: the DVC file, its cache and remote, and the Git commit."""

    def prepare(self, folder: Path) -> None:
        volumes(folder / "data", 1)
        version = self._commit(folder)
        (folder / "before").write_text(version.dvc_file.read_text())
        volumes(folder / "data", 2)

    def write(self, folder: Path) -> None:
        self._commit(folder)

    def check(self, folder: Path, *, done: bool) -> None:
        version = self._commit(folder)
        home = open_home(folder / "home")
        assert versioning.is_at(home, "tubes", version.dataset_hash, git=True)
        restored = versioning.restore(
            home,
            dataset="tubes",
            dataset_hash=version.dataset_hash,
            dvc_text=version.dvc_file.read_text(),
            remote=str(version.remote),
        )
        assert len(pair_files(restored).cases) == 2

    def _commit(self, folder: Path) -> versioning.Version:
        home, cases = open_home(folder / "home"), pair_files(folder / "data").cases
        return versioning.commit(home, "tubes", cases, remote=None, git=True)


class Workspace(Writer):
    """The DuckDB file of all runs."""

    def prepare(self, folder: Path) -> None:
        self._refresh(folder, "a")

    def write(self, folder: Path) -> None:
        self._refresh(folder, "b")

    def check(self, folder: Path, *, done: bool) -> None:
        found = self._runs(folder)
        assert found in (["a", "b"],) if done else (["a"], ["a", "b"])
        self._refresh(folder, "b")
        assert self._runs(folder) == ["a", "b"]

    def _refresh(self, folder: Path, run_id: str) -> None:
        rows = {"runs": [{"run_id": run_id, "kind": "family", "status": "FINISHED"}]}
        workspace.refresh(folder / "workspace.duckdb", rows)

    def _runs(self, folder: Path) -> list[str]:
        sql = "SELECT run_id FROM runs ORDER BY run_id"
        return [row["run_id"] for row in workspace.query(folder / "workspace.duckdb", sql)]


class Alias(Writer):
    """A model is registered and an alias moved to it, in MLflow's database."""

    def prepare(self, folder: Path) -> None:
        store = open_store(open_home(folder / "home"), TrackingConfig())
        client = store.client
        client.create_registered_model("tubes", tags={"project": "minivess"})
        for number in (1, 2):
            client.create_model_version("tubes", source=f"runs:/{number}/model")
        registry.set_alias(store, "tubes", "champion", "1")

    def write(self, folder: Path) -> None:
        self._move(folder)

    def check(self, folder: Path, *, done: bool) -> None:
        store = open_store(open_home(folder / "home"), TrackingConfig())
        found = registry.by_alias(store, "tubes", "champion").version
        assert found in ("2",) if done else ("1", "2")
        self._require_laws(store)
        self._move(folder)
        self._require_laws(store)
        assert registry.by_alias(store, "tubes", "champion").version == "2"

    def _require_laws(self, store: Store) -> None:
        aliases = registry.models(store)["tubes"]
        history = registry.history(store, "tubes")
        assert laws.misplaced(aliases, ("1", "2"), (), history) == []

    def _move(self, folder: Path) -> None:
        store = open_store(open_home(folder / "home"), TrackingConfig())
        registry.set_alias(store, "tubes", "champion", "2")


class InPlace(Writer):
    """A writer that breaks the laws, to show that a sweep notices."""

    def prepare(self, folder: Path) -> None:
        (folder / "file").write_text("a" * 100)

    def write(self, folder: Path) -> None:
        (folder / "file").write_text("b" * 100)

    def check(self, folder: Path, *, done: bool) -> None:
        assert (folder / "file").read_text() in ("a" * 100, "b" * 100)


def volumes(folder: Path, count: int) -> None:
    """Write tiny labelled volumes."""
    for index in range(count):
        image, mask = tube((24, 24, 5), seed=index)
        for kind, array in (("images", image), ("labels", mask)):
            path = folder / kind / f"vol{index}.nii.gz"
            if not path.exists():
                write_nifti(path, np.asarray(array))


WRITERS: dict[str, Writer] = {
    type(writer).__name__: writer
    for writer in (
        Checkpoint(), JournalOfRun(), UploadOfJournal(), Pointers(), FoldTable(),
        Measurements(), ReviewQueue(), DataVersion(), Workspace(), Alias(), InPlace(),
    )
}  # fmt: skip
