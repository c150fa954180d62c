"""What is written is kept through any kill and stored once, in order."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivess import names
from minivess.config import TrackingConfig
from minivess.errors import StoreUnreachable
from minivess.home import open_home
from minivess.runtime import liveness
from minivess.tracking.journal import upload, uploader
from minivess.tracking.journal.journal import Journal, encode_line, parse_lines
from minivess.tracking.journal.uploader import PendingUpload
from minivess.tracking.run import metric_files
from minivess.tracking.run.dead_runs import settle_runs, upload_journals
from minivess.tracking.run.run import Run
from minivess.tracking.run.run_lifecycle import mlflow_run, opening_operation
from minivess.tracking.store.store import Store, open_store, store_at
from tests.tracking.conftest import QUIET, OpenRun
from tests.tracking.replay import require_whole, written

pytestmark = pytest.mark.slow

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OPERATIONS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=8)


@given(OPERATIONS, st.data())
def test_any_beginning_of_a_journal_reads_as_the_beginning_of_its_operations(
    operations: list[dict[str, Any]], data: st.DataObject
) -> None:
    lines = [encode_line(seq, operation) for seq, operation in enumerate(operations)]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    found, length = parse_lines(whole[:cut])
    assert found == operations[: len(found)]
    assert length == sum(map(len, lines[: len(found)]))
    # Nothing whole is dropped.
    assert len(found) == len(operations) or length + len(lines[len(found)]) > cut


@given(OPERATIONS.filter(bool), st.data())
def test_a_changed_byte_ends_what_is_believed(
    operations: list[dict[str, Any]], data: st.DataObject
) -> None:
    lines = [encode_line(seq, operation) for seq, operation in enumerate(operations)]
    whole = bytearray(b"".join(lines))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    found, length = parse_lines(bytes(whole))
    assert length <= place
    assert found == operations[: len(found)]


def test_a_torn_last_line_is_cut_off_before_the_next(tmp_path: Path) -> None:
    first = Journal(tmp_path, "u")
    first.append({"op": "log", "step": 0})
    first.release()
    with first.path.open("ab") as stream:
        stream.write(encode_line(1, {"op": "log", "step": 1})[:-9])
    second = Journal(tmp_path, "u")
    second.append({"op": "log", "step": 2})
    second.release()
    found, _ = parse_lines(second.path.read_bytes())
    assert [operation["step"] for operation in found] == [0, 2]


def test_a_number_that_is_none_is_refused_before_it_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "u")
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"op": "log", "metrics": {"a": math.nan}})
    journal.append({"op": "log"})
    assert journal.read(0, 0)[0] == [{"op": "log"}]
    journal.release()


def test_a_text_that_names_a_run_has_no_size_and_hash_yet(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "u")
    held = {"plain.txt": b"plain", "named.txt": b"of uid-0", "image.png": b"uid-"}
    for to, content in held.items():
        journal.put(to, partial(Path.write_bytes, data=content))
    assert {to: one["size"] for to, one in journal.written.items()} == {
        "plain.txt": 5, "image.png": 4,
    }  # fmt: skip
    journal.release()


def test_one_journal_has_one_holder(tmp_path: Path) -> None:
    held = Journal(tmp_path, "u")
    with pytest.raises(BlockingIOError):
        Journal(tmp_path, "u")
    held.release()
    Journal(tmp_path, "u").release()


WRITER = """
import sys
from functools import partial
from pathlib import Path
from minivess.tracking.journal.journal import Journal
from minivess.tracking.run.run import Run
journal = Journal(Path(sys.argv[1]), sys.argv[2])
journal.keep()
run = Run(journal, "r", uid=sys.argv[2], name="r", kind="cell")
step = 0
while True:
    run.metrics({"a": float(step)}, step=step)
    if step % 50 == 0:
        run.text(f"step {step}", f"figures/{step}.txt")
    # What was said here has been written.
    sys.stdout.write(f"{step}\\n")
    sys.stdout.flush()
    step += 1
"""


def test_a_writer_killed_at_any_moment_has_written_what_it_said(tmp_path: Path) -> None:
    rng = random.Random(6)
    for trial in range(5):
        uid = f"trial{trial}"
        words = [sys.executable, "-c", WRITER, str(tmp_path), uid]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [next(process.stdout) for _ in range(rng.randrange(1, 400))]
            process.kill()
            said += process.stdout.readlines()
        journal = Journal(tmp_path, uid)
        steps = [one["step"] for one in journal.operations if "metrics" in one]
        assert steps == list(range(len(steps)))
        # The last line of the pipe may itself be torn.
        assert len(steps) >= int(said[-2 if len(said) > 1 else 0]) + 1
        for one in journal.operations:
            if one["op"] == "file":
                step = int(Path(one["to"]).stem)
                assert (journal.spool / one["path"]).read_text() == f"step {step}"
        journal.release()


def test_what_a_full_disk_refuses_is_kept_said_once_and_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path, "u")
    lines = [{"op": "log", "step": step} for step in range(3)]
    journal.append(lines[0])
    assert (tmp_path / "reserve").stat().st_size == 2**20
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for line in lines[1:]:
            journal.append(line)
        assert journal.refusal is not None
        assert journal.read(0, 0) == (lines, journal.size)
    assert caplog.text.count("cannot be written (No space left on device)") == 1
    journal.sync()
    assert journal.refusal is None
    journal.put("a/b.txt", full)
    assert journal.refusal is not None
    assert caplog.text.count("cannot be written") == 2  # there was room in between
    assert journal.give_up() == ["a/b.txt"]
    assert not (tmp_path / "reserve").exists()
    journal.close({"op": "close"})
    journal.release()
    again = Journal(tmp_path, "u")
    assert again.operations == [*lines, {"op": "close"}]
    again.release()


def test_what_found_no_room_is_written_at_the_next_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"{Journal.__module__}.TICK_S", 0.01)
    monkeypatch.setattr(f"{Journal.__module__}.TICKS_PER_SYNC", 10**6)
    journal = Journal(tmp_path, "u")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        journal.append({"op": "log"})
    assert journal.refusal is not None
    journal.keep()
    until = time.monotonic() + 10
    while journal.refusal is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert journal.refusal is None
    journal.release()


def test_a_journal_that_is_removed_or_set_aside_is_closed_and_free(tmp_path: Path) -> None:
    for end in (Journal.set_aside, Journal.remove):
        journal = Journal(tmp_path, "u")
        assert journal.operations == []
        journal.append({"op": "log"})
        journal.put("a.txt", lambda path: path.write_text("a"))
        kept = end(journal)
        assert not journal.path.exists()
        assert (journal.size, journal.read(0, 0)) == (0, ([], 0))
        journal.release()
        if kept is not None:
            assert len(parse_lines(kept.read_bytes())[0]) == 2
    assert not journal.spool.exists()
    journal.remove()  # a second time changes nothing


# --- replay -------------------------------------------------------------------------------


class Death(BaseException):
    """The sender's process ends here."""


class Dying:
    """A client of which some call is the last, before or after it is carried out."""

    def __init__(self, client: Any, after: int, *, done: bool) -> None:
        self.client, self.left, self.done = client, after, done

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*words: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.done:
                raise Death
            answer = method(*words, **named)
            if self.left == 0:
                raise Death
            return answer

        return call


def test_a_sender_that_dies_before_or_after_any_call_doubles_nothing(
    store: Store, experiment: str
) -> None:
    uid, deaths = written(store, experiment), 0
    calls = 1
    while (store.home.journal / f"{uid}.jsonl").exists():
        done = bool(deaths % 2)
        journal = Journal(store.home.journal, uid)
        mortal = Store(store.uri, store.home, store.artifact_root)
        mortal._client = Dying(store.client, calls, done=done)  # type: ignore[assignment]
        try:
            PendingUpload(mortal, journal).send()
        except Death:
            deaths += 1
            journal.release()
        calls += done
    assert deaths >= 18
    require_whole(store, uid)


def test_a_run_made_twice_by_a_lost_answer_stays_once(store: Store, experiment: str) -> None:
    uid = written(store, experiment)
    (journal,) = [Journal(store.home.journal, uid)]
    upload.run_of(store, journal.operations[0])
    twin = dict(journal.operations[0])
    store.client.create_run(
        store.experiment_id(experiment, dataset="tubes", note="n"), twin["t"], twin["tags"]
    )
    PendingUpload(store, journal).send()
    require_whole(store, uid)


def test_parents_are_made_before_their_children_and_known_by_their_ids(
    store: Store, experiment: str
) -> None:
    parent = written(store, experiment)
    child = written(store, experiment, parent=parent)
    assert upload_journals(store) == []
    above, below = require_whole(store, parent), require_whole(store, child)
    assert store.get(below).tags[names.PARENT] == above
    assert store.read_json(below, "a/b.json")["parent"] == above
    assert not list(store.home.journal.glob("*.jsonl"))


def test_a_spool_file_that_changed_is_refused_and_everything_else_is_stored(
    store: Store, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    uid = written(store, experiment)
    (copy,) = (store.home.journal / uid).glob("*/b.json")
    copy.write_text("{}")
    upload_journals(store)
    (run_id,) = store.by_uid(uid)
    assert store.get(run_id).status == "FINISHED"
    assert "a/b.json" not in store.artifacts(run_id)
    assert "lost or damaged" in caplog.text
    assert (store.home.journal / f"{uid}.refused").exists()


# --- disks and outages --------------------------------------------------------------------

FULL = """
import json, resource, sys
from functools import partial
from pathlib import Path
from minivess.tracking.journal.journal import Journal
from minivess.tracking.run.run import Run

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

journal = Journal(Path(sys.argv[1]), "u")
run = Run(journal, "r", uid="u", name="r", kind="cell")
room(5_000)
for step in range(300):
    run.metrics({"a": float(step)}, step=step)
    if step == 200:
        run.text("x" * 6_000, "notes/long.txt")
        run.text("after", "notes/short.txt")
full = journal.refusal is not None
seen, _ = journal.read(0, 0)
room(resource.RLIM_INFINITY)
journal.close({"op": "close"})
print(json.dumps([full, len(seen), journal.refusal is None]))
"""


def test_a_full_disk_is_said_once_and_everything_is_kept_until_there_is_room(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [True, 300, True]
    assert done.stderr.count("cannot be written") == 1
    found, _ = parse_lines((tmp_path / "u.jsonl").read_bytes())
    assert [one["step"] for one in found if "metrics" in one] == list(range(300))
    files = [one for one in found if one["op"] == "file"]
    assert [one["to"] for one in files] == ["notes/long.txt", "notes/short.txt"]
    assert (tmp_path / "u" / files[0]["path"]).stat().st_size == 6_000
    assert found[-1] == {"op": "close"}


def test_a_call_takes_microseconds_while_values_are_on_their_way(open_run: OpenRun) -> None:
    rounds: list[list[float]] = [[] for _ in range(8)]
    with open_run() as run:
        for number, took in enumerate(rounds):
            for step in range(200):
                begun = time.perf_counter()
                run.metrics({f"m{k}": step + k / 7 for k in range(10)}, step=200 * number + step)
                took.append(time.perf_counter() - begun)
            time.sleep(0.2)
    # Other processes can only add to what a call takes, so the best round is the call's own.
    assert min(statistics.median(took) for took in rounds) < 50e-6
    assert min(sorted(took)[198] for took in rounds) < 1e-3


@pytest.fixture
def away(tmp_path: Path) -> Store:
    """A store at an address where nobody answers."""
    return store_at(open_home(tmp_path / "away"), TrackingConfig(uri="http://127.0.0.1:9"))


def test_a_run_without_a_store_appears_complete_after_the_next_start(
    away: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StoreUnreachable):
        away.connect()
    words: dict[str, Any] = {
        "experiment": "e", "kind": names.CELL, "key": "k", "note": "n", "dataset": "d",
        "config": QUIET, "ingredients": {},
    }  # fmt: skip
    begun = time.monotonic()
    with (
        mlflow_run(away, name="above", **{**words, "kind": names.FAMILY}) as parent,
        mlflow_run(away, name="below", parent=parent, **words) as child,
    ):
        child.metrics({"a": 1.0}, step=0)
        child.row = {"dice": 0.5}
        parent.json({"children": [child.run_id]}, "evaluation/training_result.json")
    assert time.monotonic() - begun < 120
    assert child.run_id == f"uid-{child.uid}"
    with pytest.raises(StoreUnreachable, match="does not answer"):
        away.get(child.run_id)
    for pending in uploader.of(away).pending():
        pending.journal.release()
    back = open_store(away.home, TrackingConfig())
    assert settle_runs(back) == []
    found = back.get(child.run_id)
    assert (found.status, found.metrics) == ("FINISHED", {"a": 1.0})
    assert found.tags[names.PARENT] == back.get(parent.run_id).run_id
    held = back.read_json(parent.run_id, "evaluation/training_result.json")
    assert held == {"children": [found.run_id]}
    assert "logs/train.log" in back.artifacts(found.run_id)
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == []
    (row,) = metric_files.summarise(metric_files.folder(away.home, "e"))[:1]
    assert (row["metric"], row["family"], row["mean"]) == ("dice", "above", 0.5)


def test_a_dead_process_leaves_a_journal_that_settling_ends_as_killed(
    store: Store, experiment: str
) -> None:
    uid = os.urandom(16).hex()
    opened = opening_operation(experiment, "tubes", "r", {names.UID: uid, names.KIND: names.CELL})
    opened["tags"][liveness.STARTED] = "1"
    journal = Journal(store.home.journal, uid)
    journal.append(opened)
    run = Run(journal, uid, uid=uid, name="r", kind=names.CELL)
    run.metrics({"a": 1.0}, step=0)
    (heard,) = {one["t"] for one in journal.read(0, 0)[0] if "metrics" in one}
    journal.release()
    (ended,) = settle_runs(store)
    assert (ended.status, ended.tags["error_type"]) == ("KILLED", "ProcessDied")
    assert (ended.metrics, ended.end_time) == ({"a": 1.0}, heard)
    assert settle_runs(store) == []


def test_metrics_are_rows_of_a_file_while_the_run_goes_on_and_parquet_afterwards(
    store: Store, open_run: OpenRun, experiment: str
) -> None:
    with open_run() as run:
        run.metrics({"val_dice": 0.5}, step=3)
        path = metric_files.folder(store.home, experiment) / "history" / f"run-{run.uid[:8]}.csv"
        deadline = time.monotonic() + 300
        while not path.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        (row,) = metric_files.read(path)
        run.metrics({"val_dice": float("nan")}, step=4)
    assert (row["step"], row["metric"], row["value"]) == ("3", "val_dice", "0.5")
    assert [row["value"] for row in metric_files.read(path)] == ["0.5", ""]
    assert pq.read_table(path.with_suffix(".parquet")).column("step").to_pylist() == [3, 4]


def test_the_newest_row_of_a_fold_counts_and_families_are_ranked(tmp_path: Path) -> None:
    for family, fold, dice, masd in (
        ("a", 0, 0.1, 9.0), ("a", 0, 0.5, 2.0), ("a", 1, 0.7, 4.0), ("b", 0, 0.9, 5.0),
    ):  # fmt: skip
        metric_files.add_fold(
            tmp_path, {"family": family, "fold": fold, "dice": dice, "masd": masd}
        )
    rows = metric_files.summarise(tmp_path)
    first = {row["metric"]: row["family"] for row in rows if row["rank"] == 1}
    assert first == {"dice": "b", "masd": "a"}
    (a,) = [row for row in rows if (row["metric"], row["family"]) == ("dice", "a")]
    assert a["mean"] == pytest.approx(0.6)
    assert a["std"] == pytest.approx(0.1414, abs=1e-3)
    assert a["n_folds"] == 2
    assert len(metric_files.read(tmp_path / "summary.csv")) == 4


def test_distances_of_each_class_rank_upwards_and_say_how_many_volumes_they_are_without(
    tmp_path: Path,
) -> None:
    for family, fold, near, lost in (("a", 0, 2.0, 3), ("a", 1, 8.0, 0), ("b", 0, 9.0, 0)):
        row = {"family": family, "fold": fold, "n_volumes": 4, "dice_class2": near / 10}
        row |= {
            "best_val_loss": near,
            "masd_class1": near,
            "hd95_class2": near,
            "hd95_class2_n_undefined": lost,
        }
        metric_files.add_fold(tmp_path, row)
    nothing = {"n_volumes": 4, "masd_class1": None, "masd_class1_n_undefined": 4}
    metric_files.add_fold(tmp_path, {"family": "c", "fold": 0, **nothing})
    rows = metric_files.summarise(tmp_path)
    first = {row["metric"]: row["family"] for row in rows if row["rank"] == 1}
    (c,) = [row for row in rows if row["family"] == "c"]
    assert (c["metric"], c["mean"], c["n_undefined"], c["rank"]) == ("masd_class1", None, 4, 3)
    assert first == {"masd_class1": "a", "hd95_class2": "a", "dice_class2": "b"}
    (a,) = [row for row in rows if (row["metric"], row["family"]) == ("hd95_class2", "a")]
    assert (a["mean"], a["n_undefined"]) == (pytest.approx((2 + 4 * 8) / 5), 3)
