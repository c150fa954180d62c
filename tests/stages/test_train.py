"""Training as typed: a network and a loss of one's own, and a training that goes on when asked."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.contracts import RunRecord
from minivess.home import Home
from minivess.tracking.store.store import open_store

CODE = """
import torch


def network(record):
    return torch.nn.Conv3d(record.in_channels, record.out_channels, 3, padding=1)


class Loss(torch.nn.Module):
    def forward(self, logits, target):
        return torch.nn.functional.cross_entropy(logits, target)
"""
SETTINGS = """
name: mine
training:
  models: mine
  losses: mine
  learning_rate: 0.01
  figure_interval: 9
  splits: split.json
  samples_per_volume: 1
evaluation: {bootstrap_n: 100}
tracking: {log_system_metrics: false}
"""
Typed = Callable[..., dict[str, Any]]


@pytest.fixture
def minivess(
    make_dataset: Callable[..., Path], home: Home, blank: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Typed:  # fmt: skip
    """Type a verb in a folder that holds configs/ and a module of one's own, nothing installed."""
    folder = tmp_path / "work"
    for kind, text in (
        ("models", "family: mine\nbuilder: of_this_test:network\nfilters: [4]\nstrides: own\n"),
        ("losses", "terms:\n  - loss: of_this_test:Loss\n"),
    ):
        (folder / "configs" / kind).mkdir(parents=True)
        (folder / "configs" / kind / "mine.yaml").write_text(text)
    (folder / "of_this_test.py").write_text(CODE)
    fold = {"train": ["vol00", "vol01"], "val": ["vol02", "vol03"]}
    (folder / "mine.yaml").write_text(SETTINGS)
    (folder / "split.json").write_text(json.dumps([fold]))
    shutil.copy(blank, home.database)
    root = make_dataset(4)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def run(verb: str, *words: str, expected: int = 0) -> dict[str, Any]:
        code = main.main([verb, "mine.yaml", f"data.root={root}", *words, "--json"])
        said = capsys.readouterr()
        assert code == expected, said.err
        told = json.loads(said.out.splitlines()[-1]) if said.out else {}
        return {**told, "said": said.err}

    return run


@pytest.mark.slow
def test_a_training_of_ones_own_network_serves_again_trains_again_or_goes_on_as_asked(
    minivess: Typed, home: Home
) -> None:
    profile = minivess("profile")["data_profile_run_id"]
    short = minivess("train", "training.max_epochs=2")
    assert rates(home, short) == pytest.approx([0.01, 0.005])
    (run_id,) = short["training_run_ids"]
    assert re.search(rf"  mine_mine: dice 0\.\d+ \[.*\], cldice .* \(run {run_id}\)", short["said"])

    anew = minivess("train", "training.max_epochs=3")
    assert "mine_mine trains again, changed: training: max_epochs" in anew["said"]
    assert rates(home, anew) == pytest.approx([0.01, 0.0075, 0.0025])

    store = open_store(home, TrackingConfig())
    aliases = store.client.get_registered_model("mine").aliases
    assert set(aliases) == {"mine_mine", "best_mine"}
    assert {"model/input_example.json", "model/code/of_this_test.py"} <= set(
        store.artifacts(run_id)
    )

    asked = ("training.max_epochs=3", "training.extends=2")
    goes_on = "goes on after epoch 2 of a finished training"
    for more in ("training.retrain=if_changed", "training.retrain=always"):
        longer = minivess("train", *asked, more)
        assert longer["said"].count(goes_on) == 1
        assert longer["reused"] == [profile]
        assert rates(home, longer) == pytest.approx([0.01, 0.005, 0.0025])
        cell = only_cell(home, longer)
        assert "had the learning rate at 0.005" in cell.tags[names.EXTENSION]
        assert cell.params["extends"] == "2"
        assert cell.params["arch_builder"] == "of_this_test:network"
    again = minivess("train", *asked)
    assert again["training_run_ids"] == longer["training_run_ids"]
    assert again["reused"] == [profile, *longer["training_run_ids"]]

    never = ("training.learning_rate=0.5", "training.retrain=never")
    assert minivess("train", *never)["reused"] == again["reused"]
    refused = minivess("train", "training.losses=[dice_ce]", *never, expected=1)
    assert "mine_dice_ce has no finished run on this data" in refused["said"]


@pytest.mark.slow
def test_a_training_begins_with_the_weights_of_another_and_says_whose(
    minivess: Typed, home: Home
) -> None:
    first = minivess("train", "training.max_epochs=3")
    (source,) = first["training_run_ids"]
    later = ("train", "training.max_epochs=1", "training.learning_rate=1e-6")
    taken = minivess(*later, f"training.init={source}")
    begun, trained = only_cell(home, taken), only_cell(home, first)
    assert begun.params[names.UPSTREAM_INIT] == source
    untrained, final = begun.metrics["untrained_dice"], trained.metrics["val_dice"]
    assert untrained == pytest.approx(final, abs=1e-3)
    again = minivess(*later, "training.init=mine/1")
    assert again["training_run_ids"] == taken["training_run_ids"]
    assert only_cell(home, minivess(*later)).params.get(names.UPSTREAM_INIT) is None


@pytest.mark.slow
def test_weights_of_other_shapes_and_runs_without_a_model_are_refused(
    minivess: Typed, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    first = minivess("train", "training.max_epochs=1")
    cell = only_cell(home, first).run_id
    for ref, words in (
        (first["training_run_ids"][0], ("training.models=[dynunet]", "model.filters=[4,8,16]")),
        (cell, ()),
        ("nothing@champion", ()),
    ):
        minivess("train", "training.max_epochs=2", f"training.init={ref}", *words, expected=1)


def only_cell(home: Home, trained: dict[str, Any]) -> RunRecord:
    (parent,) = trained["training_run_ids"]
    (cell,) = open_store(home, TrackingConfig()).search(parent=parent)
    return cell


def rates(home: Home, trained: dict[str, Any]) -> list[float]:
    """The learning rate of each epoch."""
    run_id = only_cell(home, trained).run_id
    history = open_store(home, TrackingConfig()).read_json(run_id, names.HISTORY_ARTIFACT)
    return [entry["metrics"]["learning_rate"] for entry in history]
