"""The session of one command: its settings, home folder, MLflow store and orchestrator."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from minivess import config as configs
from minivess import keys, names
from minivess.config import DEMO, Environment, ExperimentConfig, calm_libraries
from minivess.contracts import DatasetProfile, RunRecord
from minivess.data.versions.versioning import known_as, recorded_places
from minivess.errors import StoreError, StoreUnreachable
from minivess.home import Home, open_home
from minivess.home import lock as home_lock
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.progress import GridProgress
from minivess.runtime import logs, output, signals
from minivess.text import several
from minivess.tracking.journal import uploader
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.run.run import Run
from minivess.tracking.run.run_lifecycle import mlflow_run, status_of_error
from minivess.tracking.store.store import SETTLE_FIRST, Store, store_at
from minivess.upkeep import short_ids
from minivess.verbs import VERBS

MLFLOW_PAGE = "http://127.0.0.1:5000"

log = logging.getLogger(__name__)
course = logging.getLogger(logs.COURSE)
Answer = TypeVar("Answer")


@dataclass
class Session:
    """Everything that the stages of one command share."""

    config: ExperimentConfig
    env: Environment
    home: Home
    orchestrator: Orchestrator
    launched_by: str = "cli"
    yes: bool = False
    json: bool = False
    quiet: bool = False
    """Print warnings only."""
    words: tuple[str, ...] = ()
    """The files and settings typed on the command line."""
    reused: list[str] = field(default_factory=list)
    settled: list[RunRecord] = field(default_factory=list)
    """Runs of killed processes that this command found and ended."""
    held_back: dict[str, Callable[[], object]] = field(default_factory=dict)
    """By kind: publishes a result once MLflow holds all of it."""
    profiles: dict[str, DatasetProfile] = field(default_factory=dict)
    """Profiles that this command made or read, by run id."""

    @cached_property
    def store(self) -> Store:
        """The MLflow store, connected at first use; runs of killed processes are ended then.

        While it does not answer, runs are kept in the journal.
        """
        store = store_at(self.home, self.config.tracking)
        try:
            store.connect()
            self.settled = settle_runs(store) if self.home.writable else []
            for record in self.settled:
                self.print(
                    "A run that died earlier is now marked KILLED: "
                    f"{record.name} ({record.run_id})",
                    warning="store",
                )
        except StoreUnreachable as away:
            self.print(
                f"{away.problem} Work continues; runs are kept in {self.home.journal}.",
                warning="store",
            )
        return store

    def with_config(self, config: ExperimentConfig) -> Session:
        """The same session with other settings."""
        other = replace(self, config=config)
        other.__dict__["store"] = self.store
        return other

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of this command's flows on Prefect's page."""
        return {
            "dataset": self.config.dataset,
            "experiment": self.config.experiment,
            "data_root": str(self.config.data.root) if self.config.data.root else None,
            "home": str(self.home.root),
        }

    def run(
        self,
        kind: str,
        name: str,
        key: str,
        note: str,
        inputs: keys.Ingredients,
        *,
        dataset: str,
        parent: Run | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[Run]:
        """Open an MLflow run for the length of a `with` block; it ends as the block ends.

        Args:
            kind: `names.PROFILE` and so on; decides the MLflow experiment.
            key: content key, the digest of `inputs`.
            note: Markdown for MLflow's page.
            parent: the run above this one, for a fold or a trial.
        """
        return mlflow_run(
            self.store,
            experiment=names.EXPERIMENTS.get(kind, self.config.experiment),
            name=name,
            kind=kind,
            key=key,
            note=note,
            dataset=dataset,
            config=self.config,
            ingredients=inputs,
            launched_by=self.launched_by,
            parent=parent,
            tags=tags,
        )

    def ask(self, question: Callable[[Store], Answer]) -> Answer | None:
        """The answer of MLflow to `question`; None, without a wait, while it does not answer."""
        if self.store.unreachable:
            return None
        try:
            return question(self.store)
        except StoreUnreachable as away:
            log.warning("%s Work continues without the answer.", away.problem)
            return None

    def find(self, key: str, *, experiment: str) -> RunRecord | None:
        """The finished run of a content key; None if there is none or MLflow does not answer."""
        return self.ask(lambda store: store.find(key, experiment=experiment))

    def full_ids(self, words: Iterable[str]) -> list[str]:
        """The words, shortened run ids in full; the store is asked only if there is one."""
        given = list(words)
        is_short = any(map(short_ids.SHORT.fullmatch, given))
        return short_ids.expand(self.store, given) if is_short else given

    def need_store(self) -> None:
        """Upload what this command has written, before a stage that reads it from MLflow.

        Raises:
            StoreUnreachable: it does not answer.
        """
        try:
            self.store.connect()
        except StoreUnreachable as away:
            raise StoreUnreachable(
                f"{away.problem} The next stage builds on what lies there.", remedy=SETTLE_FIRST
            ) from away
        uploader.of(self.store).flush_all()

    def finish(self) -> None:
        """Upload what is left in the journal and publish results, or print that they wait."""
        if "store" not in vars(self):
            return
        if self.store.unreachable:
            with suppress(StoreError):  # it may be back by now
                self.store.connect()
        left = uploader.of(self.store).flush_all()
        for publish in [] if left else list(self.held_back.values()):
            publish()
        if left:
            self.print(
                f"{several(len(left), 'run', 'wait')} in {self.home.journal} for MLflow; once it "
                f"takes them, `{self.command('settle')}` stores and publishes them.",
                warning="store",
            )

    @cached_property
    def grid_progress(self) -> GridProgress:
        """Progress of the grid on the terminal."""
        return GridProgress(self.print, live=sys.stdout.isatty() and not (self.json or self.quiet))

    def page_of(self, run_id: str) -> str:
        """Address of a run in MLflow's page: its server's, or that of `minivess ui`."""
        uri = self.config.tracking.uri or ""
        page = uri if uri.startswith("http") else MLFLOW_PAGE
        return self.ask(lambda store: store.url(run_id, page)) or page

    def print(self, text: str = "", *, warning: str | None = None) -> None:
        """Print a line for the user, and log it in runs: as progress, or with category `warning`.

        With --json or --quiet it goes to standard error; standard output holds the outcome.
        """
        if warning or not self.quiet:
            output.print_line(sys.stderr if self.json or self.quiet else sys.stdout, text)
        if text.strip():
            level = logging.WARNING if warning else logging.INFO
            course.log(level, "%s", text.strip(), extra={"category": warning or "other"})

    def command(self, verb: str, *own: str) -> str:
        """A follow-up command: the typed words that it uses, or `own` ones and the store."""
        row, uri = VERBS[verb.split()[0]], self.config.tracking.uri
        if own and uri and uri != self.env.mlflow_tracking_uri:
            own = (*own, f"tracking.uri={uri}")
        typed = [w for w in self.words if row.reads(w.partition("=")[0]) or "=" not in w]
        if row.reads("data.image") and any(word.startswith("name=") for word in typed):
            typed += self._data_of_experiment()
        return " ".join(["minivess", verb, *map(shlex.quote, own or typed)])

    def _data_of_experiment(self) -> list[str]:
        """The override without which a named experiment would be one of demo data."""
        if self.config.data.root is not None:
            return []
        known = self.ask(lambda store: store.experiments()) or {}
        dataset = next(iter(known.get(self.config.experiment, ())), None)
        place = recorded_places(self.home).get(str(dataset)) or "/path/to/the/data"
        return [] if dataset == DEMO else [f"data.root={place}"]

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A function `(done, total)` that moves a bar on the terminal and on Prefect's page."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(file=sys.stderr if self.json else sys.stdout)
        columns = (
            "  {task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            "left", TimeRemainingColumn(),
        )  # fmt: skip
        hidden = self.quiet or not console.is_terminal
        shown = Progress(*columns, console=console, transient=True, disable=hidden)
        move = self.orchestrator.progress(what, what)
        with shown:
            bar = shown.add_task(what, total=None)

            def update(done: int, total: int) -> None:
                shown.update(bar, completed=done, total=total)
                move(done / total)

            yield update

    def reuse(self, what: str, run_id: str) -> None:
        """Print and note that a finished result is reused."""
        self.reused.append(run_id)
        self.print(f"  reused   {what} (run {run_id})")


@contextmanager
def open_orchestrator(home: Home, env: Environment) -> Iterator[Orchestrator]:
    """The orchestrator of one command: Prefect, or plain Python with PREFECT_DISABLED.

    Prefect is imported with the first flow only: a command that reuses everything starts no
    server. What was started is ended on leaving.
    """
    if env.prefect_disabled:
        yield Orchestrator(home)
        return
    from minivess.orchestration.prefect import PrefectOrchestrator

    with ExitStack() as stack:
        yield PrefectOrchestrator(home, env, stack)


@contextmanager
def open_session(
    config: ExperimentConfig,
    env: Environment,
    *,
    what: str = "minivess",
    launched_by: str = "cli",
    lock: bool = True,
    wait: bool = False,
    yes: bool = False,
    json: bool = False,
    quiet: bool = False,
    words: Sequence[str] = (),
) -> Iterator[Session]:
    """Open the home folder, hold its lock while stages run, and end what was started.

    Flows that an event or a deployment starts wait for the lock; a command typed by a user
    does not (`wait=False`) and ends with who holds it.
    """
    calm_libraries()
    logs.before.records.clear()
    home = open_home(env.home, reading=not lock)
    with ExitStack() as stack:
        stack.enter_context(signals.terminable())
        if lock:
            stack.enter_context(home_lock(home.root / "lock", what=what, wait=wait))
        orchestrator = stack.enter_context(open_orchestrator(home, env))
        name = known_as(home, config)
        if name:
            config = configs.changed(config, {"data.name": name})
        session = Session(
            config, env, home, orchestrator,
            launched_by=launched_by, yes=yes, json=json, quiet=quiet, words=tuple(words),
        )  # fmt: skip
        if name:
            session.print(f"  note: {config.data.root} is the dataset {name!r} of this home")
        yield session
        session.finish()


@contextmanager
def deployed_session(
    settings: Sequence[str], files: Sequence[str], *, lock: bool = True
) -> Iterator[Session]:
    """The session of a deployed flow, whose parameters are what the command line takes."""
    env = configs.environment()
    asked = configs.load([Path(file) for file in files], settings, env)
    try:
        # No user is there to confirm a long grid. Of two events at once, the second waits and
        # finds the work done.
        with open_session(
            asked, env, what="deployment", launched_by="deployment", lock=lock, wait=True, yes=True,
            words=[*files, *settings],
        ) as session:  # fmt: skip
            scope = session.config.experiment
            with session.orchestrator.on_page(scope, (session.config.dataset, scope)):
                yield session
    except SystemExit as leave:
        # Prefect takes every exit for a crash; the outcome in MLflow decides.
        if status_of_error(leave) == "FAILED":
            raise RuntimeError(f"exit code {leave.code}") from leave
        if status_of_error(leave) == "KILLED":
            raise
