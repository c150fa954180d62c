"""Random schedules of commands on two machines that publish runs and move aliases.

    python -m tests.faults.commands 1 1000      seeds 1 to 1000; prints what breaks a law

Publication, aliases and settling are the product's own, on a shared store and shared pointers in
memory. Two commands run at once, and at each of their requests the seed says which goes on, and
whether its process is killed there. The same commands then run again undisturbed.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from minivess import config, names
from minivess.config import Environment
from minivess.contracts import DeploymentResult, FamilyRun, RunRecord, TrainingResult
from minivess.errors import StoreError
from minivess.home import open_home
from minivess.orchestration import handoff, model_versions, publication
from minivess.orchestration.base import Orchestrator, Pointer
from minivess.orchestration.session import Session
from minivess.production import promotion
from minivess.text import slug
from minivess.tracking.store import registry
from tests.faults import laws
from tests.faults.memory_store import Death, MemoryClient, MemoryStore, StoredRun, StoredVersion
from tests.faults.simulation import SimulatedStore, play_seeds

MODEL = "tubes"
ACTIONS = {"train": 4, "deploy": 5, "promote": 3, "rollback": 3, "settle": 3}
MOVES = ("deploy", "promote", "rollback")
"""Of two at once none is killed: MLflow cannot move an alias and store the move as one."""
ROUNDS, MACHINES = 6, 2
DIES = 0.02
"""How likely a process is killed at one request."""
Step = tuple[tuple[str, ...], int]
"""The commands that run at once, and the seed of whatever is drawn."""


class Baton:
    """Lets one of several threads go on at a time; a seed says which, at each request."""

    def __init__(self) -> None:
        self.draw = random.Random(0)
        self.changed = threading.Condition()
        self.waiting: set[threading.Thread] = set()
        self.alive: set[threading.Thread] = set()
        self.turn: threading.Thread | None = None

    def run(self, works: list[Callable[[], None]]) -> None:
        """Run all of them to their ends, interleaved."""
        threads = [threading.Thread(target=self._work, args=(work,)) for work in works]
        self.alive = set(threads)
        for thread in threads:
            thread.start()
        with self.changed:
            while self.alive:
                self.changed.wait_for(lambda: self.turn is None and self.waiting == self.alive)
                order = [thread for thread in threads if thread in self.waiting]
                if order:
                    self.turn = self.draw.choice(order)
                self.changed.notify_all()
        for thread in threads:
            thread.join()

    def pause(self) -> None:
        """Wait for the next turn; a thread that is none of ours goes on."""
        me = threading.current_thread()
        if me not in self.alive:
            return
        with self.changed:
            self.waiting.add(me)
            self.turn = None if self.turn is me else self.turn
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.turn is me)
            self.waiting.discard(me)

    def _work(self, work: Callable[[], None]) -> None:
        self.pause()
        try:
            work()
        finally:
            with self.changed:
                self.alive.discard(threading.current_thread())
                self.turn = None
                self.changed.notify_all()


class SharedPointers(Orchestrator):
    """Pointers that machines share, as Prefect's Variables are."""

    def __init__(self, world: Commands, home: Any) -> None:
        super().__init__(home)
        self.world = world

    def get(self, name: str) -> Pointer | None:
        """As published."""
        self.world.baton.pause()
        return self.world.pointers.get(name)

    def put(self, name: str, value: Pointer) -> None:
        """Publish, unless the process is killed first."""
        self.world.request()
        self.world.pointers[name] = value


class PacedClient(MemoryClient):
    """Waits for its turn before each request."""

    def __init__(self, world: Commands) -> None:
        super().__init__(world.server, world.fate)
        self.world = world

    def _reach(self) -> None:
        self.world.baton.pause()


class Commands:
    """A store and pointers that two machines share."""

    def __init__(self, folder: Path) -> None:
        self.server, self.baton = MemoryStore(), Baton()
        self.pointers: dict[str, Pointer] = {}
        self.proved: dict[str, DeploymentResult] = {}
        self.mortal, self.now = False, 1_700_000_000.0
        self.sessions = [self._session(folder / f"home{k}") for k in range(MACHINES)]
        store = self.sessions[0].store
        self.place = store.experiment_id(MODEL, dataset=MODEL, note="n")
        self.deployments = store.experiment_id(names.DEPLOYMENT_EXPERIMENT, dataset=MODEL, note="n")

    def _session(self, root: Path) -> Session:
        home = open_home(root)
        env = Environment(home=root, prefect_disabled=True)
        asked = config.load([], [f"name={MODEL}", f"data.name={MODEL}"])
        session = Session(asked, env, home, SharedPointers(self, home), json=True)
        store = SimulatedStore("memory:", home, "memory:", _client=PacedClient(self))  # type: ignore[arg-type]
        session.__dict__["store"] = store
        return session

    @property
    def versions(self) -> dict[str, StoredVersion]:
        """The versions of the model that both machines register."""
        model = self.server.models.get(MODEL)
        return model.versions if model else {}

    def fate(self) -> str:
        """What becomes of a request."""
        if self.mortal and self.baton.draw.random() < DIES:
            return self.baton.draw.choice(["dead", "dying"])
        return "done"

    def request(self) -> None:
        """One request that is not MLflow's; the process may be killed before it."""
        self.baton.pause()
        if self.fate() == "dead":
            raise Death

    def play(self, schedule: list[Step]) -> list[str]:
        """Let it happen; return the laws that do not hold after a round or at the end."""
        with mock.patch.object(time, "time_ns", self._tick), quiet():
            for commands, seed in schedule:
                self.baton.draw = random.Random(seed)
                self.mortal = sum(name in MOVES for name in commands) < 2
                self.baton.run([self._work(k, name) for k, name in enumerate(commands)])
                if found := laws.misdirected(self.pointers, self._finished()):
                    return found
            self.mortal = False
            self._settle(self.sessions[0])
            return self._broken()

    def _tick(self) -> int:
        self.now += 0.001
        return int(self.now * 1e9)

    def _work(self, machine: int, name: str) -> Callable[[], None]:
        session = self.sessions[machine]

        def work() -> None:
            with contextlib.suppress(Death, StoreError):
                getattr(self, f"_{name}")(session)

        return work

    # --- commands --------------------------------------------------------------------------

    def _train(self, session: Session) -> None:
        """A family is trained and published; which one, and its figure, are drawn."""
        loss = self.baton.draw.choice(["dice", "cldice"])
        run_id = f"{len(self.server.runs):032x}"
        family = FamilyRun(
            run_id=run_id, run_name=f"net_{loss}", experiment_name=MODEL, artifact_uri="memory:",
            model="net", loss=loss, seed=0, key=run_id, cells=(), child_run_ids=(),
            metrics={f"eval_{names.PRIMARY}": self.baton.draw.random()},
        )  # fmt: skip
        found = {
            names.TRAINING_ARTIFACT: family.model_dump_json().encode(),
            f"{names.MODEL_ARTIFACT}/MLmodel": b"model",
        }
        params = {names.DATASET_HASH: "d", names.UPSTREAM_PROFILE: "p", names.DATASET_NAME: MODEL}
        self._finish(run_id, self.place, names.FAMILY, family.run_name, params, found)
        result = TrainingResult(
            experiment=MODEL, data_profile_run_id="p", dataset_hash="d", families=(family,)
        )
        publication.publish(
            session, result, lambda _: model_versions.register_families(session, result)
        )

    def _deploy(self, session: Session) -> None:
        """The newest version, or an older one, is proved and deployed."""
        self._move(session, "deploy")

    def _promote(self, session: Session) -> None:
        """Some version is proved and promoted by hand."""
        self._move(session, "promote")

    def _rollback(self, session: Session) -> None:
        """The version before is proved again and served."""
        served = registry.by_alias(session.store, MODEL, names.PRODUCTION_ALIAS)
        earlier = promotion.version_before(session, MODEL, served.version)
        result = self.proved[earlier]
        model_versions.promote(session, result, kind="rollback", who="ann", why="worse")

    def _move(self, session: Session, kind: Any) -> None:
        versions = registry.versions(session.store, MODEL)
        if not versions:
            return
        version = self.baton.draw.choice(versions).version
        result = self.proved.get(version) or self._prove(version)
        publication.publish(
            session,
            result,
            lambda _: model_versions.promote(session, result, kind=kind, who="ann", why="w"),
        )

    def _prove(self, version: str) -> DeploymentResult:
        run_id = f"{len(self.server.runs):032x}"
        result = DeploymentResult.model_construct(
            run_id=run_id, analysis_run_id="a", model_name=MODEL, model_version=version
        )
        params = {names.UPSTREAM_EXPERIMENT: MODEL, names.DATASET_NAME: MODEL}
        self._finish(run_id, self.deployments, names.DEPLOYMENT, MODEL, params, {})
        self.proved[version] = result
        return result

    def _settle(self, session: Session) -> None:
        """Aliases of families, the latest deployment, and pointers are set again."""
        trained = self._latest(session, names.FAMILY)
        if trained is not None:
            result = handoff.receive_training(session)
            model_versions.register_families(session, result)
            publication.write(session, publication.pointer_to(result))
        deployed = self._latest(session, names.DEPLOYMENT)
        if deployed is not None:
            by_run = {proof.run_id: proof for proof in self.proved.values()}
            model_versions.restore_production(session, by_run[deployed.run_id])
            publication.write(session, publication.pointer_to(by_run[deployed.run_id]))

    def _latest(self, session: Session, kind: str) -> RunRecord | None:
        experiment = names.EXPERIMENTS.get(kind, MODEL)
        return session.store.latest(experiment=experiment, kind=kind)

    def _finish(
        self, run_id: str, place: str, kind: str, name: str, params: dict[str, str],
        found: dict[str, bytes],
    ) -> None:  # fmt: skip
        tags = {names.KIND: kind, names.GROUP: MODEL, names.UID: run_id}
        self.server.runs[run_id] = StoredRun(
            run_id, place, name, self._tick() // 1_000_000, tags, "FINISHED", params=params,
            files=found,
        )  # fmt: skip

    # --- laws ------------------------------------------------------------------------------

    def _finished(self) -> set[str]:
        return {run.run_id for run in self.server.runs.values() if run.status == "FINISHED"}

    def _broken(self) -> list[str]:
        wrong = laws.misdirected(self.pointers, self._finished())
        model, session = self.server.models.get(MODEL), self.sessions[0]
        if model is None:
            return wrong
        history = registry.history(session.store, MODEL)
        wrong += laws.misplaced(model.aliases, model.versions, self.proved, history)
        result = handoff.receive_training(session)
        latest = self.pointers[names.LATEST[names.FAMILY]]["run_ids"]
        if latest != list(result.run_ids):
            wrong.append(f"latest_training is {latest}, MLflow holds {result.run_ids}")
        for family in result.families:
            named = model.versions[model.aliases[slug(family.run_name)]]
            if named.run_id != family.run_id:
                wrong.append(f"{family.run_name} names version {named.version}, not its latest run")
        return wrong


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed for a user."""
    with mock.patch.object(Session, "print"):
        yield


def schedule_of(seed: int) -> list[Step]:
    """The schedule of a seed."""
    draw = random.Random(seed)
    rounds = [
        tuple(draw.choices(list(ACTIONS), list(ACTIONS.values()), k=draw.randint(1, MACHINES)))
        for _ in range(ROUNDS)
    ]
    return [(("train",), draw.getrandbits(32)), *((one, draw.getrandbits(32)) for one in rounds)]


def play(schedule: list[Step]) -> list[str]:
    """Play a schedule in a folder of its own; return the laws that it breaks."""
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="minivess-", dir=root) as folder:
        return Commands(Path(folder)).play(schedule)


if __name__ == "__main__":
    sys.exit(play_seeds(lambda seed: play(schedule_of(seed)), lambda _: None))
