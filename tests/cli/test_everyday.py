"""Verbs of every day: runs as a table, deleted, the disk, settings, templates, completion."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pkgutil
import pty
import re
import select
import shlex
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import minivess as package
from minivess import config, errors, files, names
from minivess.cli import main, reference
from minivess.config import TrackingConfig
from minivess.data.checks import CHECKS
from minivess.errors import MinivessError
from minivess.home import Home, open_home
from minivess.tracking.run import metric_files
from minivess.tracking.store.store import Store, open_store
from minivess.verbs import VERBS

Verb = Callable[..., tuple[int, Any]]


@pytest.fixture
def minivess(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Type a verb; its exit code, and its JSON object, its lines or its error."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def run(*words: str) -> tuple[int, Any]:
        code = main.main(list(words))
        said = capsys.readouterr()
        if "--json" in words and said.out:
            return code, json.loads(said.out.splitlines()[-1])
        return code, said.out if code == 0 else said.err

    return run


# --- without a store ------------------------------------------------------------------------


def test_settings_are_listed_by_part_with_default_meaning_and_values(minivess: Verb) -> None:
    _, shown = minivess("settings", "analysis", "training.folds")
    assert "training.folds=3\n      cross-validation folds (a whole number" in shown
    assert "training.max_epochs" not in shown
    _, everything = minivess("settings", "--json")
    assert [one["key"] for one in everything["settings"]] == list(config.leaves())
    code, refused = minivess("settings", "trainingg")
    assert (code, "training" in refused) == (2, True)


def test_a_setting_and_a_code_are_explained_and_the_nearest_is_named(minivess: Verb) -> None:
    _, setting = minivess("explain", "max_epochs")
    assert "another value trains again; read by minivess experiment" in setting
    _, free = minivess("explain", "training.num_workers")
    assert "changes no result" in free
    _, code = minivess("explain", "constant")
    assert "constant (error)" in code
    assert "Try: export the image again" in code
    assert minivess("explain", "max_epoch") == (
        2, "'max_epoch' is no setting and no code of a check or an error.\n"
        "  Try: did you mean max_epochs?\n",
    )  # fmt: skip


def test_each_error_is_explained_and_each_explanation_is_of_an_error(minivess: Verb) -> None:
    from mlflow.protos.databricks_pb2 import ErrorCode

    from minivess.tracking.store import connection

    kinds, waiting = {MinivessError}, [MinivessError]
    for module in pkgutil.walk_packages(package.__path__, "minivess."):
        text = importlib.util.find_spec(module.name)
        if text and text.origin and "Error):" in Path(text.origin).read_text():
            importlib.import_module(module.name)
    while waiting:
        below = waiting.pop().__subclasses__()
        kinds |= {*below}
        waiting += below
    ours = {kind.__name__ for kind in kinds if kind.__module__.startswith("minivess.")}
    explained = {*errors.texts()}
    assert ours == explained - {*ErrorCode.keys(), *connection.ANSWERS}
    assert {*connection.ANSWERS} <= explained
    assert {getattr(kind, "code", "") for kind in kinds} <= {"", *CHECKS, *explained}
    code, said = minivess("explain", "StoreUnreachable")
    assert (code, "waits in the journal" in said, "Try: start it" in said) == (0, True, True)


def test_the_disk_is_listed_by_what_lies_there(minivess: Verb, home: Home) -> None:
    home.cells.mkdir()
    (home.cells / "weights").write_bytes(bytes(5000))
    (home.cells / "again").hardlink_to(home.cells / "weights")
    code, shown = minivess("disk")
    assert code == 0
    assert shown.splitlines()[0].split()[:3] == ["5", "kB", "cells"]
    assert minivess("disk", "--json")[1]["bytes"]["cells"] == 5000


@pytest.mark.parametrize("kind", ["model", "loss", "tier", "experiment"])
def test_a_template_is_written_once_and_is_read(
    kind: str, minivess: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told = minivess("new", kind, "mine", "--json")
    assert code == 0
    assert all(Path(file).is_file() for file in told["files"])
    readers: dict[str, Callable[[], object]] = {
        "model": lambda: config.model("mine"), "loss": lambda: config.loss("mine"),
        "tier": lambda: config.tier("mine"),
        "experiment": lambda: config.load([Path("configs/experiments/mine.yaml")]),
    }  # fmt: skip
    assert readers[kind]()
    code, refused = minivess("new", kind, "mine")
    assert (code, "is there already" in refused) == (2, True)


def test_a_template_of_another_kind_or_an_impossible_name_is_refused(minivess: Verb) -> None:
    assert "minivess new model x" in minivess("new", "modelx", "x")[1]
    assert "my_net" in minivess("new", "model", "my-net")[1]


def fitting(line: str, home: Path) -> list[str]:
    return reference.fitting(f" minivess {line}", home)


def test_verbs_options_settings_and_values_are_completed(tmp_path: Path) -> None:
    assert fitting("", tmp_path) == sorted(VERBS)
    assert "--upstream" in fitting("train --up", tmp_path)
    assert fitting("train training.max_e", tmp_path) == ["training.max_epochs="]
    assert fitting("analyse training.max_e", tmp_path) == []
    assert "training.losses=cbdice" in fitting("train training.losses=cb", tmp_path)
    assert fitting("train training.device=c", tmp_path) == [
        "training.device=cpu", "training.device=cuda"
    ]  # fmt: skip
    assert fitting("explain few_v", tmp_path) == ["few_values"]
    assert fitting("new l", tmp_path) == ["loss"]


def test_aliases_of_models_and_run_ids_are_completed(store: Store) -> None:
    run = make(store, names.FAMILY)
    assert fitting(f"delete {run[:6]}", store.home.root) == [run]
    assert fitting(f"predict in out --upstream {run[:6]}", store.home.root) == [run]
    store.client.create_registered_model("vessels")
    store.client.create_model_version("vessels", source="runs:/x/model")
    store.client.set_registered_model_alias("vessels", "champion", "1")
    assert fitting("predict in out --upstream ves", store.home.root) == ["vessels@champion"]
    assert fitting("lineage v", store.home.root) == ["vessels@champion"]


def test_bash_completes_what_is_typed() -> None:
    minivess = Path(sys.executable).with_name("minivess")
    script = subprocess.run(
        [minivess, "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    lines = ["minivess train training.losses=cbdice_", "minivess lin"]
    typed = "; ".join(
        f"COMP_WORDS=({shlex.quote(str(minivess))}); COMP_LINE={shlex.quote(line)};"
        f"COMP_POINT={len(line)}; _minivess; echo ${{COMPREPLY[@]}}"
        for line in lines
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{typed}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["cbdice_cldice", "lineage"]


def test_another_shell_is_refused(minivess: Verb) -> None:
    assert "bash or zsh" in minivess("completion", "fish")[1]


# --- with a store ---------------------------------------------------------------------------


def make(store: Store, kind: str, name: str = "run", status: str = "FINISHED", **tags: str) -> str:
    experiment = store.experiment_id("vessels", dataset="vessels", note="n")
    tags = {names.KIND: kind, **{key.replace("__", "."): value for key, value in tags.items()}}
    run = store.client.create_run(experiment, tags=tags, run_name=name)
    if status != "RUNNING":
        store.client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def fold(store: Store, family: str) -> str:
    return make(store, names.CELL, "fold", mlflow__parentRunId=family)


def test_runs_are_results_and_on_request_everything(store: Store, minivess: Verb) -> None:
    assert minivess("runs")[1] == "  0 runs\n"
    family = make(store, names.FAMILY, "dynunet_dice_ce")
    store.client.log_metric(family, "eval_dice", 0.8123)
    cell, dead = fold(store, family), make(store, names.FAMILY, "other", "FAILED")
    _, shown = minivess("runs")
    assert "dynunet_dice_ce  FINISHED  0.812" in shown
    assert cell not in shown
    assert dead not in shown
    found = minivess("runs", "--all", "--json")[1]["runs"]
    assert {row["run_id"] for row in found} == {family, cell, dead}
    assert [row["run_id"] for row in minivess("runs", "cell", "--json")[1]["runs"]] == [cell]
    assert minivess("runs", "name=other", "--json")[1]["runs"] == []
    assert "did you mean family?" in minivess("runs", "familyy")[1]


@pytest.mark.slow
def test_a_run_is_deleted_with_its_folds_its_model_and_its_files(
    store: Store, minivess: Verb
) -> None:
    family, other = make(store, names.FAMILY), make(store, names.FAMILY)
    cell = fold(store, family)
    store.client.log_text(cell, "x" * 2000, "a.txt")
    store.client.create_registered_model("vessels", tags={"project": names.PROJECT})
    store.client.create_model_version("vessels", source=f"runs:/{family}/model", run_id=family)
    code, shown = minivess("delete", family)
    assert (code, "2 runs, 2 kB would be deleted for good; do it with --yes" in shown) == (0, True)
    assert minivess("delete", family, "--json")[1]["deleted"] == []
    told = minivess("delete", family, "--yes", "--json")[1]
    assert set(told["deleted"]) == {family, cell}
    assert not list((store.home.root / "artifacts").rglob("a.txt"))
    assert [row["run_id"] for row in minivess("runs", "--json")[1]["runs"]] == [other]
    assert list(store.client.search_model_versions("name='vessels'")) == []


def test_a_misspelt_model_and_a_folder_without_its_setting_are_corrected(
    store: Store, minivess: Verb, tmp_path: Path
) -> None:
    store.client.create_registered_model("vessels", tags={"project": names.PROJECT})
    code, refused = minivess("lineage", "vesels@production")
    assert (code, "did you mean vessels@production?" in refused) == (1, True)
    assert f"minivess plan data.root={tmp_path}" in minivess("plan", str(tmp_path))[1]


def test_a_misspelt_loss_or_model_is_corrected_before_any_volume_is_read(
    minivess: Verb, tmp_path: Path, home: Home
) -> None:
    for word, meant in (("losses=dice_c", "dice_ce"), ("models=dynunt", "dynunet")):
        code, refused = minivess("train", f"data.root={tmp_path / 'away'}", f"training.{word}")
        assert (code, f"did you mean {meant}?" in refused) == (2, True)
    assert not home.logs.exists()


def test_an_id_that_there_is_not_is_looked_up_where_ids_are_shown(
    store: Store, minivess: Verb
) -> None:
    assert "minivess runs --all" in minivess("delete", "0" * 32)[1]


def test_a_shortened_id_is_taken_where_one_run_begins_so_and_refused_by_name_where_several_do(
    store: Store, minivess: Verb
) -> None:
    first, second = make(store, names.FAMILY, "net_a"), make(store, names.FAMILY, "net_b")
    shown = minivess("delete", first[:8], second[:12])[1]
    assert all(f"{run}:" in shown for run in (f"net_a, run {first}", f"net_b, run {second}"))
    assert "family" in minivess("deploy", "--upstream", first[:8])[1]
    twin = _renamed(store, second, first[:8] + second[8:])
    code, refused = minivess("delete", first[:8], "--yes")
    assert (code, f"{first} (net_a)" in refused, f"{twin} (net_b)" in refused) == (2, True, True)
    store.client.delete_run(first)
    assert first in minivess("purge", first[:9])[1]
    assert "There is no run 00000000" in minivess("delete", "00000000")[1]


def _renamed(store: Store, run_id: str, new: str) -> str:
    """A run under another id, as chance may give it."""
    with closing(sqlite3.connect(store.home.database)) as database, database:
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            database.execute(f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (new, run_id))
    return new


def test_a_report_is_of_an_analysis_that_has_ended(store: Store, minivess: Verb) -> None:
    make(store, names.ANALYSIS, "slow", "RUNNING")
    assert "no finished analyse run" in minivess("open")[1]
    assert "no finished profile run of 'x'" in minivess("open", "gallery", "data.name=x")[1]


def test_a_page_is_opened_by_its_name_by_a_run_or_by_a_server_that_answers(
    store: Store, minivess: Verb
) -> None:
    profile, family = make(store, names.PROFILE), make(store, names.FAMILY)
    store.client.log_text(profile, "all volumes", names.GALLERY_ARTIFACT)
    page = store.home.reports / profile / "gallery.html"
    for given in (["gallery"], [profile[:10]], ["gallery", "--upstream", profile]):
        told = minivess("open", *given, "--json")[1]
        assert told == {"page": page.as_uri(), "run_id": profile, "opened": False}
    assert page.read_text() == "all volumes"
    assert minivess("open", "gallery")[1] == f"  {page.as_uri()}\n"
    for words, said in {
        (family,): "MLflow's server does not answer", ("prefect",): "minivess up",
        ("galery",): "did you mean open gallery?", ("none_such",): "none_such",
        ("gallery", "--upstream", family): f"minivess open {family}",
        ("mlflow", "--upstream", family): f"minivess open {family}",
    }.items():  # fmt: skip
        code, refused = minivess("open", *words)
        assert (code > 0, said in refused) == (True, True), refused
    assert "did you mean `minivess open mlflow`?" in minivess("mlflow")[1]
    assert minivess("report")[1] == minivess("open", "report")[1]


@pytest.mark.slow
def test_a_deleted_run_is_no_longer_in_the_plain_files_that_summary_reads(
    store: Store, minivess: Verb
) -> None:
    place = metric_files.folder(store.home, "vessels")
    gone, kept = (make(store, names.CELL, minivess__uid=letter * 32) for letter in "ab")
    for letter in "ab":
        row = {"family": f"net_{letter}", "fold": 0, "run": letter * 32, "dice": 0.5}
        metric_files.add_fold(place, row)
        files.write_text(place / "history" / f"run-{letter * 8}.csv", "time\n")
    minivess("delete", gone, "--yes")
    shown = minivess("summary", "name=vessels", "--json")[1]["rows"]
    assert [row["family"] for row in shown] == ["net_b"]
    assert [path.stem for path in (place / "history").iterdir()] == ["run-bbbbbbbb"]
    assert "minivess summary name=vessels" in minivess("summary", "name=vesels")[1]
    minivess("delete", kept, "--yes")
    code, refused = minivess("summary", "name=vessels")
    assert (code, "or its runs were deleted" in refused) == (1, True)


@pytest.mark.slow
def test_what_is_needed_or_goes_on_is_not_deleted(store: Store, minivess: Verb) -> None:
    family = make(store, names.FAMILY)
    store.client.create_registered_model("vessels", tags={"project": names.PROJECT})
    store.client.create_model_version("vessels", source=f"runs:/{family}/model", run_id=family)
    store.client.set_registered_model_alias("vessels", "production", "1")
    code, refused = minivess("delete", family, "--yes")
    assert (code, "needed by model vessels@production" in refused) == (2, True)
    running = make(store, names.FAMILY, "slow", "RUNNING")
    code, refused = minivess("delete", running, "--yes")
    assert (code, f"minivess settle {running}" in refused) == (1, True)
    assert minivess("delete", family, "--yes", "--force", "--json")[1]["deleted"] == [family]


def test_what_can_be_made_again_is_removed_on_request_up_to_a_budget(
    store: Store, minivess: Verb
) -> None:
    home, key = store.home, "a" * 32
    make(store, names.CELL, content_key=key)
    kept, orphan = home.cells / key, home.cells / ("b" * 32)
    for folder, size in ((kept, 9_000), (orphan, 5_000), (home.skeletons, 3_000)):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(size))
    _, shown = minivess("clean")
    assert [line.split()[:3] for line in shown.splitlines()[:2]] == [
        ["5", "kB", f"cells/{'b' * 32}"], ["3", "kB", "skeletons"],
    ]  # fmt: skip
    assert "skeletons are made again, seconds a volume" in shown
    assert "2 parts, 8 kB would be removed; do it with --apply" in shown
    assert minivess("clean", "100", "--json")[1]["removed"] == []
    whole = sum(minivess("disk", "--json")[1]["bytes"].values())
    told = minivess("clean", str((whole - 4_000) / 1e9), "--apply", "--json")[1]
    assert told["removed"] == [str(orphan)]
    minivess("clean", "--apply")
    assert (kept.exists(), orphan.exists(), home.skeletons.exists()) == (True, False, False)
    assert "minivess clean 50" in minivess("clean", "much")[1]


@pytest.mark.slow
def test_own_model_and_loss_train_as_they_are_written(
    minivess: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stocked: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    minivess("new", "model", "own_net")
    minivess("new", "loss", "own_loss")
    smoke = Path(__file__).resolve().parents[2] / "configs" / "experiments" / "smoke.yaml"
    words = [str(smoke), "training.models=own_net", "training.losses=own_loss", "--json"]
    code, told = minivess("train", *words)
    assert code == 0
    assert told["training_run_ids"]


# --- the view that goes on -------------------------------------------------------------------


@pytest.mark.slow
def test_what_runs_fills_a_terminal_and_survives_its_resize(store: Store) -> None:
    run = make(store, names.FAMILY, "vessels [net]", "RUNNING", content_key="k")
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    with subprocess.Popen(FOLLOW, stdout=terminal, env=quiet(store, TERM="xterm")) as command:
        wide = until(screen, "vessels [net]")
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
        until(screen, "Ctrl-C")
        store.client.set_terminated(run, "FAILED")
        gone = until(screen, "unfinished vessels")
        command.send_signal(signal.SIGINT)
        until(screen, "\x1b[?1049l")  # the screen is as it was before
        assert command.wait() == 130
    assert "1 run" in wide
    narrow = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", gone.rpartition("\x1b[H")[2]).splitlines()
    assert max(len(line.rstrip()) for line in narrow) <= 60


@pytest.mark.slow
def test_without_a_terminal_what_runs_is_said_in_lines_and_again_when_it_changes(
    store: Store,
) -> None:
    with subprocess.Popen(FOLLOW, stdout=subprocess.PIPE, text=True, env=quiet(store)) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "0 runs\n"
        make(store, names.FAMILY, "net")
        assert command.stdout.readline() == "1 run\n"  # and only that: nothing else has changed
        command.send_signal(signal.SIGINT)
        assert "\x1b" not in command.stdout.read()


FOLLOW = [str(Path(sys.executable).with_name("minivess")), "status", "--follow"]


def quiet(store: Store, **variables: str) -> dict[str, str]:
    # pytest's processes state a width, which would stand for that of the terminal.
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    own = {"MINIVESS_HOME": str(store.home.root), "PREFECT_DISABLED": "1"}
    return {**inherited, **own, **variables}


def until(screen: int, text: str) -> str:
    """What a terminal gets, up to a text."""
    seen, latest = "", time.monotonic() + 120
    while text not in seen:
        assert time.monotonic() < latest, seen
        assert select.select([screen], [], [], 120)[0]
        seen += os.read(screen, 65536).decode()
    return seen


# --- terminals and folders that others have --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("around", [
    {"COLUMNS": "20"}, {"TERM": "dumb"}, {"LC_ALL": "C", "LANG": "C"}, {"NO_COLOR": "1"},
])  # fmt: skip
def test_lines_stay_whole_and_plain_in_any_terminal_and_a_folder_of_any_name(
    around: dict[str, str], tmp_path: Path, blank: Path
) -> None:
    root = tmp_path / 'Zoë\'s "own" folder ä'
    shutil.copy(blank, open_home(root).database)
    make(open_store(open_home(root), TrackingConfig()), names.FAMILY, "größer_als_20_Zeichen_breit")
    variables = {**os.environ, **around, "MINIVESS_HOME": str(root), "PREFECT_DISABLED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "minivess.cli.main", "runs"], env=variables, capture_output=True,
        check=True,
    )  # fmt: skip
    shown = done.stdout.decode()
    (line,) = [line for line in shown.splitlines() if "größer_als_20_Zeichen_breit" in line]
    assert "FINISHED" in line
    assert "\x1b" not in shown
    assert done.stderr == b""


def test_a_reader_that_goes_away_ends_a_list_in_peace(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "minivess.cli.main", "settings"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "MINIVESS_HOME": str(tmp_path)},
    ) as command:  # fmt: skip
        assert command.stdout is not None
        assert command.stdout.readline()
        command.stdout.close()
        _, said = command.communicate()
    assert (command.returncode, said) == (0, b"")
