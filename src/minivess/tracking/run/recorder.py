"""Record a run: its journal, the upload of the journal, and its metric files."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path

from minivess import files, names
from minivess.errors import StoreError
from minivess.runtime import logs
from minivess.text import several
from minivess.tracking.journal import uploader
from minivess.tracking.journal.journal import Journal, Operation
from minivess.tracking.run import metric_files
from minivess.tracking.run.run import Run
from minivess.tracking.store.store import Store

log = logging.getLogger(__name__)
performance = logging.getLogger(logs.PERFORMANCE_LOGGER)


class RunRecorder:
    """A run with its locked journal; a new journal starts with `opening`."""

    def __init__(self, store: Store, journal: Journal, opening: Operation) -> None:
        self.store, self.journal, self.opening = store, journal, opening
        if not journal.operations:
            journal.append(opening)
        name, tags = opening["name"], opening["tags"]
        history = metric_files.folder(store.home, opening["experiment"]) / "history"
        self.history = metric_files.History(journal, history / f"{name}-{journal.uid[:8]}.csv")
        journal.keep(self.history.update)
        self.pending = uploader.of(store).take(journal)
        run_id = uploader.of(store).opened(self.pending) or f"uid-{journal.uid}"
        self.run = Run(journal, run_id, uid=journal.uid, name=name, kind=tags[names.KIND])

    def store_logs(self, folder: Path, status: str) -> None:
        """Add a closing line to the logs, and store them."""
        performance.info("%s", self._summary(status))
        self.run.folder(folder, "logs")

    def _summary(self, status: str) -> str:
        """One line: minutes, number of folds, and means over folds if there are any."""
        means = {
            name.removeprefix("eval_"): f"{value:.4g}"
            for name, value in sorted(self.run.latest.items())
            if name.startswith("eval_") and not re.search(r"fold\d|_ci_|_n_undefined", name)
        }
        n_folds = self.opening["tags"].get("num_folds")
        facts = {"minutes": f"{self.minutes:.2f}", "n_folds": n_folds, **means}
        shown = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
        return f"{self.run.kind} {self.run.name} {status} {shown}"

    @property
    def minutes(self) -> float:
        """Minutes since the run began."""
        return (time.time() - int(self.opening["t"]) / 1000) / 60

    def close(self, status: str, tags: Mapping[str, str], ended: int | None = None) -> None:
        """Write the end and wait for the upload; a failing store is left to the next command.

        Raises:
            DiskFull: files of a finished run found no room; the run is FAILED.
            StoreError: the end could be written neither to the disk nor to the store.
        """
        if status == "FINISHED":
            self.run.json(self.journal.written, names.FILES_ARTIFACT)
        stamp = ended or time.time_ns() // 1_000_000
        self.history.finish()
        self.journal.sync()
        failure = None
        if self.journal.refusal and (lost := self.journal.give_up()):
            tags = {**tags, "files_lost": ", ".join(lost)[:500]}
            if status == "FINISHED":
                failure = files.disk_full(f"{several(len(lost), 'file')} of run {self.run.name}")
                cause = {names.ERROR_TYPE: type(failure).__name__, "error_message": failure.problem}
                status, tags = "FAILED", tags | cause
        self.journal.close({"op": "close", "status": status, "t": stamp, "tags": dict(tags)})
        stored = uploader.of(self.store).flush(self.pending, hurry=status == "KILLED")
        if failure is not None:
            raise failure
        if stored:
            return
        refusal = self.journal.refusal
        if refusal is not None:
            raise StoreError(
                f"The end of run {self.run.name} could not be written to {self.journal.path}: "
                f"{refusal.strerror}.",
                remedy="free disk space, then run the same command again",
            )
        log.log(
            # The reason was reported at its start.
            logging.INFO if self.store.unreachable else logging.WARNING,
            "Run %s (%s) is not complete in MLflow yet; the next command uploads the rest from %s.",
            self.run.name, status, self.journal.path,
        )  # fmt: skip

    def add_fold(self, family: str) -> None:
        """Add a row to the experiment's metrics.csv."""
        place = metric_files.folder(self.store.home, self.opening["experiment"])
        row = {
            "family": family,
            "fold": self.opening["tags"].get("fold_id"),
            "run": self.run.uid,
            "ended": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "minutes": round(self.minutes, 3),
            **self.run.row,
        }
        try:
            metric_files.add_fold(place, row)
        except OSError as error:
            log.warning("%s lacks the row of %s: %s", place, self.run.name, error.strerror)
