"""Any order of actions, with kills in between, leaves what a small model of them says."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minivess import files, names
from minivess.contracts import Pairing
from minivess.data.checks import finding
from minivess.data.pairing.cases import pair_files
from minivess.data.versions import versioning
from minivess.errors import DataError, StoreError
from minivess.home import open_home
from minivess.orchestration import model_versions, results
from minivess.production import promotion
from minivess.review import apply, decide, queue
from minivess.tracking.journal.journal import Journal
from minivess.tracking.store import registry
from tests.conftest import tube, write_nifti
from tests.faults import laws
from tests.faults.commands import MODEL, Commands, quiet
from tests.faults.memory_store import Death, StoredRun
from tests.faults.writers import volumes
from tests.tracking.conftest import profile_of

Machine = type[RuleBasedStateMachine]


class InFolder(RuleBasedStateMachine):
    """Each example has a folder of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="minivess-"))

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Production(InFolder):
    """Versions are registered, deployed, promoted and rolled back; a process may be killed."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Commands(self.folder)
        self.session = self.world.sessions[0]
        self.moved: list[tuple[str, str]] = []
        """Kind and version of each move that took place."""
        self.requests = 0
        self.session.store.client.fate = self._fate  # type: ignore[attr-defined]

    def _fate(self) -> str:
        self.requests -= 1
        return "dead" if self.requests == 0 else "done"

    @property
    def _served(self) -> str | None:
        return self.moved[-1][1] if self.moved else None

    @rule()
    def train(self) -> None:
        """A newly trained run is a new version; the alias of its family names it."""
        before = len(self.world.versions)
        with quiet():
            self.world._train(self.session)
        assert len(self.world.versions) == before + 1

    @precondition(lambda self: self.world.versions)
    @rule(
        kind=st.sampled_from(["deploy", "promote"]),
        pick=st.integers(0, 9),
        dies=st.integers(0, 4),
    )
    def move(self, kind: Literal["deploy", "promote"], pick: int, dies: int) -> None:
        """A version serves after its move, or the one before if its process was killed."""
        known = registry.versions(self.session.store, MODEL)
        version = known[pick % len(known)].version
        self._move(kind, version, dies)

    @precondition(lambda self: self.moved)
    @rule(dies=st.integers(0, 3))
    def roll_back(self, dies: int) -> None:
        """The version that served before serves again; without one it is refused."""
        served = self._served
        assert served is not None
        try:
            earlier = promotion.version_before(self.session, MODEL, served)
        except StoreError:
            assert not [1 for kind, v in self.moved[1:] if v == served and kind != "rollback"]
            return
        assert earlier in {version for _, version in self.moved}
        self._move("rollback", earlier, dies)

    def _move(self, kind: Any, version: str, dies: int) -> None:
        result = self.world.proved.get(version) or self.world._prove(version)
        stays = version == self._served or (kind == "deploy" and self._was_rolled_back(version))
        self.requests = dies
        try:
            with quiet():
                model_versions.promote(self.session, result, kind=kind, who="ann", why="w")
        except Death:
            assert not stays
            if self._alias() == self._served:
                return
        finally:
            self.requests = 0
        if not stays:
            self.moved.append((kind, version))

    def _was_rolled_back(self, version: str) -> bool:
        """Whether the last move was a roll-back away from this version."""
        if len(self.moved) < 2 or self.moved[-1][0] != "rollback":
            return False
        return self.moved[-2][1] == version

    def _alias(self) -> str | None:
        model = self.world.server.models.get(MODEL)
        return model.aliases.get(names.PRODUCTION_ALIAS) if model else None

    @invariant()
    def the_alias_names_the_last_move_and_the_history_tells_all(self) -> None:
        """Nothing else moved it."""
        assert self._alias() == self._served
        if (model := self.world.server.models.get(MODEL)) is None:
            return
        history = registry.history(self.session.store, MODEL)
        assert [(move.kind, move.version) for move in history] == self.moved
        assert laws.misplaced(model.aliases, model.versions, self.world.proved, history) == []


class Review(InFolder):
    """Volumes are seen, change, and are decided about."""

    CASES = ("vol0", "vol1")

    @initialize()
    def seen_first(self) -> None:
        """Two flagged volumes."""
        volumes(self.folder / "data", 2)
        for seed in (7, 8):
            write_nifti(self.folder / f"better{seed}.nii.gz", tube((24, 24, 5), seed)[1])
        self.home = open_home(self.folder / "home")
        self.pairing: Pairing = pair_files(self.folder / "data")
        self.bytes = dict.fromkeys(self.CASES, 0)
        self.made: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
        self.waits = dict.fromkeys(self.CASES, True)
        self.see()

    def _hashes(self) -> dict[Path, str]:
        return {
            path: f"{path.name}-{self.bytes[case.case]}"
            for case in self.pairing.cases
            for path in case.files
        }

    def _made(self, case: str) -> list[tuple[Any, ...]]:
        return self.made.setdefault((case, self.bytes[case]), [])

    def _verdict(self, case: str) -> str | None:
        last = self._made(case)[-1:] or [("reopen",)]
        return None if last[0][0] == "reopen" else str(last[0][0])

    @rule()
    def see(self) -> None:
        """Those wait of which the last word is no verdict, or a fix not looked at since."""
        try:
            in_force = self._applied().in_force
        except DataError:
            assert all(self._verdict(case) == "reject" for case in self.CASES)
            return
        flagged = [finding("constant", "one value", case=case) for case in self.CASES]
        waiting = queue.record_seen(
            self.home, "tubes", self.pairing, self._hashes(), flagged, in_force=in_force
        )
        for case in self.CASES:
            self.waits[case] = self._verdict(case) in (None, "fix")
        assert {entry.case for entry in waiting} == {c for c in self.CASES if self.waits[c]}

    @rule(case=st.sampled_from(CASES))
    def change(self, case: str) -> None:
        """Other bytes, about which nothing is decided."""
        self.bytes[case] += 1
        self.see()

    @rule(
        case=st.sampled_from(CASES),
        verdict=st.sampled_from(["reject", "reopen"]),
        why=st.sampled_from(["a", "b"]),
    )
    def say(self, case: str, verdict: queue.Verdict, why: str) -> None:
        """A word that is repeated counts once."""
        entry = queue.find(self.home, "tubes", case)
        decide.decide(self.home, entry, verdict, who="Ada", why=why)
        self._note(case, (verdict, why, None))

    @rule(case=st.sampled_from(CASES), seed=st.sampled_from([7, 8]))
    def fix(self, case: str, seed: int) -> None:
        """Another label."""
        better = self.folder / f"better{seed}.nii.gz"
        entry = queue.find(self.home, "tubes", case)
        decide.decide(self.home, entry, "fix", who="Ada", why="w", replacements={"label": better})
        self._note(case, ("fix", "w", files.md5(better)))

    def _note(self, case: str, word: tuple[Any, ...]) -> None:
        if self._made(case)[-1:] != [word]:
            self._made(case).append(word)

    def _applied(self) -> apply.Reviewed:
        return apply.after_review(self.home, "tubes", self.pairing, self._hashes())

    @invariant()
    def what_was_decided_about_these_bytes_is_kept_and_applied(self) -> None:
        """The newest verdict decides, and no decision is ever lost."""
        stored = queue.decisions(self.home, "tubes")
        for (case, number), words in self.made.items():
            kept = stored.get(self._mark(case, number), ())
            found = [(one.verdict, one.why, one.file_md5) for one in kept]
            assert found == words
        rejected = {case for case in self.CASES if self._verdict(case) == "reject"}
        if len(rejected) == len(self.CASES):
            with pytest.raises(DataError, match="rejected all"):
                self._applied()
            return
        applied = self._applied()
        assert set(applied.rejected) == rejected
        for pair in applied.pairing.cases:
            fixes: list[str] = []
            for verdict, _, md5 in self._made(pair.case):
                fixes = [] if verdict == "reopen" else [*fixes, md5] if md5 else fixes
            assert pair.label is not None
            if fixes:
                assert files.md5(pair.label) == fixes[-1]
            else:
                assert pair.label.parent == self.folder / "data" / "labels"

    def _mark(self, case: str, number: int) -> queue.Mark:
        pair = next(one for one in self.pairing.cases if one.case == case)
        assert pair.label is not None
        return case, f"{pair.image.name}-{number}", f"{pair.label.name}-{number}"


class OfJournal(InFolder):
    """A run's journal is written, synced, and left by a killed process or a power cut."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal(self.folder, "u")
        self.written: list[dict[str, Any]] = []
        self.safe = 0

    @rule(value=st.floats(allow_nan=False, allow_infinity=False), text=st.text(max_size=5))
    def append(self, value: float, text: str) -> None:
        """A line."""
        operation = {"op": "log", "value": value, "text": text}
        self.journal.append(operation)
        self.written.append(operation)

    @rule(content=st.binary(max_size=20))
    def put(self, content: bytes) -> None:
        """A file and the line that names it."""
        self.journal.put("a/b.bin", lambda path: path.write_bytes(content))
        self.written.append({"op": "file", "content": content})

    @rule()
    def sync(self) -> None:
        """From here on everything is safe."""
        self.journal.sync()
        self.safe = len(self.written)

    @rule(part=st.floats(0, 1))
    def lose_power(self, part: float) -> None:
        """What no disk has confirmed is lost in part; the next process goes on after it."""
        path = self.journal.path
        self.journal.release()
        lines = path.read_bytes().splitlines(keepends=True)
        kept = sum(map(len, lines[: self.safe]))
        with path.open("r+b") as file:
            file.truncate(kept + round(part * (sum(map(len, lines)) - kept)))
        self.journal = Journal(self.folder, "u")
        assert self.safe <= len(self.journal.operations) <= len(self.written)
        del self.written[len(self.journal.operations) :]

    @invariant()
    def every_line_reads_back_once_in_order(self) -> None:
        """With the files that lines name."""
        found, _ = self.journal.read(0, 0)
        assert len(found) == len(self.written)
        for there, wanted in zip(found, self.written, strict=True):
            if there["op"] == "file":
                assert (self.journal.spool / there["path"]).read_bytes() == wanted["content"]
            else:
                assert there == wanted

    def teardown(self) -> None:
        """Free the lock."""
        self.journal.release()
        super().teardown()


class Reuse(InFolder):
    """Profiles of content keys are made, fail, are deleted and lose files."""

    KEYS = st.sampled_from(["a", "b"])

    def __init__(self) -> None:
        super().__init__()
        self.world = Commands(self.folder)
        self.session = self.world.sessions[0]
        store = self.session.store
        self.place = store.experiment_id(names.EXPERIMENTS[names.PROFILE], dataset="d", note="n")
        self.runs: dict[str, list[StoredRun]] = {"a": [], "b": []}

    @rule(key=KEYS, status=st.sampled_from(["FINISHED", "FAILED", "KILLED", "RUNNING"]))
    def make(self, key: str, status: str) -> None:
        """A run of this key."""
        run_id = f"{len(self.world.server.runs):032x}"
        tags = {names.KIND: names.PROFILE, names.KEY: key}
        held = {
            names.PROFILE_ARTIFACT: profile_of().model_dump_json().encode(),
            names.DVC_ARTIFACT: b"outs: []",
        }
        made = StoredRun(
            run_id, self.place, "d", len(self.world.server.runs), tags, status, files=held
        )
        self.world.server.runs[run_id] = made
        self.runs[key].append(made)

    @rule(key=KEYS, pick=st.integers(0, 9), part=st.sampled_from([names.DVC_ARTIFACT, "damage"]))
    def lose(self, key: str, pick: int, part: str) -> None:
        """A file of a run goes, or is cut."""
        if runs := self.runs[key]:
            held = runs[pick % len(runs)].files
            held.pop(part, None)
            if part == "damage":
                held[names.PROFILE_ARTIFACT] = held[names.PROFILE_ARTIFACT][:40]

    @rule(key=KEYS, pick=st.integers(0, 9))
    def delete(self, key: str, pick: int) -> None:
        """A run is deleted."""
        if runs := self.runs[key]:
            runs[pick % len(runs)].deleted = True

    @invariant()
    def a_key_finds_its_newest_finished_run_if_that_is_whole_and_no_other(self) -> None:
        """Never one that failed, lacks a file, or is of another key."""
        for key, runs in self.runs.items():
            there = [run for run in runs if run.status == "FINISHED" and not run.deleted]
            whole = there and names.DVC_ARTIFACT in there[-1].files
            whole = whole and len(there[-1].files[names.PROFILE_ARTIFACT]) > 40
            with quiet():
                found = results.find(self.session, names.PROFILE, key)
            assert (found.run_id if found else None) == (there[-1].run_id if whole else None)


class Versions(InFolder):
    """A data set grows and changes, is versioned, and versions are restored."""

    @initialize()
    def first(self) -> None:
        """One volume."""
        volumes(self.folder / "data", 1)
        self.home = open_home(self.folder / "home")
        self.versions: dict[str, tuple[str, list[str]]] = {}
        """By hash: the text of the .dvc file, and the MD5 of each file."""

    @rule()
    def grow(self) -> None:
        """One volume more, which is versioned."""
        volumes(self.folder / "data", len(pair_files(self.folder / "data").cases) + 1)
        self._commit()

    @rule()
    def change(self) -> None:
        """Another first volume, which is versioned."""
        seed = 50 + len(self.versions)
        write_nifti(self.folder / "data/images/vol0.nii.gz", tube((24, 24, 5), seed)[0])
        self._commit()

    @precondition(lambda self: self.versions)
    @rule(pick=st.integers(0, 9))
    def restore(self, pick: int) -> None:
        """A version is again what it was, byte by byte."""
        version, (text, held) = list(self.versions.items())[pick % len(self.versions)]
        place = versioning.restore(
            self.home, dataset="tubes", dataset_hash=version, dvc_text=text, remote=self.remote
        )
        assert self._held(place) == held

    def _commit(self) -> None:
        cases = pair_files(self.folder / "data").cases
        version = versioning.commit(self.home, "tubes", cases, remote=None)
        again = versioning.commit(self.home, "tubes", cases, remote=None)
        assert again.dataset_hash == version.dataset_hash
        held = self._held(self.folder / "data")
        same = [h for h, (_, there) in self.versions.items() if there == held]
        assert [version.dataset_hash] == (same or [version.dataset_hash])
        assert (version.dataset_hash in self.versions) == bool(same)
        self.versions[version.dataset_hash] = version.dvc_file.read_text(), held
        self.remote = str(version.remote)

    def _held(self, folder: Path) -> list[str]:
        cases = pair_files(folder).cases
        return [files.md5(path) for case in cases for path in case.files]


SIZES: dict[Machine, tuple[int, int]] = {
    Production: (15, 14), Review: (6, 12), OfJournal: (20, 12), Reuse: (12, 10), Versions: (2, 3),
}  # fmt: skip
"""Examples, and actions of each."""


@pytest.mark.parametrize("machine", [Production, OfJournal, Reuse])
def test_any_order_of_actions_in_memory_leaves_what_its_model_says(machine: Machine) -> None:
    run(machine)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Review, Versions])
def test_any_order_of_actions_on_files_leaves_what_its_model_says(machine: Machine) -> None:
    run(machine)


def run(machine: Machine) -> None:
    """A few examples of a machine."""
    examples, steps = SIZES[machine]
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True,
        database=None,
    )  # fmt: skip
    case().runTest()
