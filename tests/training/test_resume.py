"""A cell killed anywhere ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minivess import files, names
from minivess.contracts import CellResult, LossTerm
from minivess.training import cell_folder, checkpoint, trainer
from tests.training import dying, scene

pytestmark = pytest.mark.slow

TRAINING = "minivess.training"
OPTIONS: dict[str, Any] = {
    "config": scene.make_config(max_epochs=3, ema_decay=0.5, accumulation_steps=2),
    "spec": scene.make_spec(
        terms=(LossTerm(loss="dice_ce", weight=0.5), LossTerm(loss="cldice", weight=0.5)),
        model={"dropout": 0.2},
    ),
    "plan": {
        "num_workers": 2,
        "iterations_per_epoch": 2,
        "patch_schedule": ((8, 8, 8), (16, 16, 8)),
    },
}
DEATHS: dict[str, dying.Point] = {  # one after another; topology is judged after epochs 1 and 2
    "the untrained network goes through its window": ("minivess.inference.Predictor.logits", 1),
    "the untrained network's masks are judged beside epoch 0": (
        "minivess.evaluation.metrics.judge",
        1,
    ),
    "in the first epoch": (f"{TRAINING}.epochs.Steps._update", 2),
    "best weights are stored, their epoch is not": (f"{TRAINING}.checkpoint.save", 2),
    "in the second epoch": (f"{TRAINING}.epochs.Steps._update", 4),
    "in the validation of an epoch": ("minivess.inference.Predictor.logits", 2),
    "in the epoch after an unsettled one": (f"{TRAINING}.epochs.Steps._update", 3),
    "an unsettled epoch is judged again": ("minivess.evaluation.regions._skeleton", 1),
    "half of last.pth is written": (dying.TORN, names.LAST),
    "last.pth is set aside, its heir not yet named": ("pathlib.Path.replace", names.LAST),
    "an epoch is stored, the history not yet": (f"{TRAINING}.cell_folder.write_history", 1),
    "the last epoch is settled, not reported": (f"{TRAINING}.deferred_validation._report", 1),
    "all epochs are done, their weights not judged": (f"{TRAINING}.trainer.networks.load", 1),
    "everything but the result is written": (f"{TRAINING}.cell_folder.write_result", 1),
}
FIRST_STORED = list(DEATHS).index("in the second epoch")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, Path, CellResult, scene.Heard]:
    """The same cell, trained in one go."""
    root = tmp_path_factory.mktemp("cells")
    heard = scene.Heard()
    result = scene.train(root / "whole", scene.make_cases(root), heard=heard, **OPTIONS)
    return root, root / "whole", result, heard


def story(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(entry["epoch"], entry["metrics"]) for entry in cell_folder.read_history(folder)]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (torch.load(path, weights_only=True)["weights"] for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_killed_at_every_point_it_comes_to_the_same_bits_and_metrics(uninterrupted):
    root, whole, expected, _ = uninterrupted
    folder = root / "killed"
    for place, (point, death) in enumerate(DEATHS.items()):
        assert dying.run(root, folder, death, **OPTIONS) == -9, point
        assert trainer.complete(folder, "a-key") is None, point
        held = (folder / names.LAST).exists()
        assert held == (place >= FIRST_STORED and death[0] != "pathlib.Path.replace"), point
    heard = scene.Heard()
    result = scene.train(folder, scene.make_cases(root), heard=heard, **OPTIONS)
    assert story(folder) == story(whole)
    assert heard.epochs == [0, 1, 2]
    assert all(
        same_weights(folder / name, whole / name) for name in (*names.CHECKPOINTS, names.FINAL)
    )
    ignored = {"training_time_seconds": 0.0, "time_shares": {}, "files": {}}
    assert result.replace(**ignored) == expected.replace(**ignored)
    assert sorted(result.files) == sorted(expected.files)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_the_results_of_a_finished_cell_are_reported_without_training(uninterrupted):
    root, whole, expected, first = uninterrupted
    again = scene.Heard()
    assert scene.train(whole, scene.make_cases(root), heard=again, **OPTIONS) == expected
    assert (again.epochs, again.metrics) == (first.epochs, first.metrics)
    assert sorted(again.figures) == sorted(first.figures)


def test_a_torn_last_checkpoint_costs_one_epoch_and_no_bit(uninterrupted):
    root, whole, _, _ = uninterrupted
    folder = root / "torn"
    death = ("minivess.training.epochs.Steps._update", 5)
    assert dying.run(root, folder, death, **OPTIONS) == -9
    assert checkpoint.load(folder / names.LAST)["epoch"] == 1
    last = folder / names.LAST
    last.write_bytes(last.read_bytes()[:1000])
    assert checkpoint.load(last)["epoch"] == 0
    scene.train(folder, scene.make_cases(root), **OPTIONS)
    assert story(folder) == story(whole)
    assert same_weights(folder / names.BEST_PRIMARY, whole / names.BEST_PRIMARY)


def test_a_cell_goes_on_with_the_plan_that_it_was_started_with(uninterrupted):
    root, whole, _, _ = uninterrupted
    folder = root / "replanned"
    death = ("minivess.training.epochs.Steps._update", 3)
    assert dying.run(root, folder, death, **OPTIONS) == -9
    scene.train(folder, scene.make_cases(root), **{**OPTIONS, "plan": {"batch_size": 1}})
    assert story(folder) == story(whole)


def test_an_unfinished_cell_starts_again_on_another_device_and_a_finished_one_stays(tmp_path):
    spec = scene.make_spec()
    here, elsewhere = scene.make_plan(spec), scene.make_plan(spec, device="cuda")
    cell_folder.open_cell(tmp_path, spec, elsewhere, resume=True)
    assert cell_folder.open_cell(tmp_path, spec, here, resume=True) == here
    config = scene.make_config(max_epochs=1)
    result = scene.train(tmp_path, scene.make_cases(tmp_path), config=config)
    assert cell_folder.open_cell(tmp_path, spec, elsewhere, resume=True) == here
    assert trainer.complete(tmp_path, spec.key) == result


@pytest.mark.parametrize("harm", ["size", "missing", "key", "torn"])
def test_a_result_whose_files_are_not_as_recorded_is_no_result(tmp_path, harm):
    spec, cases = scene.make_spec(), scene.make_cases(tmp_path)
    result = scene.train(tmp_path / "cell", cases, config=scene.make_config(max_epochs=1))
    assert trainer.complete(tmp_path / "cell", spec.key) == result
    damaged = tmp_path / "cell" / names.BEST_LOSS
    key = "another" if harm == "key" else spec.key
    if harm == "size":
        damaged.write_bytes(damaged.read_bytes() + b"x")
    if harm == "missing":
        damaged.unlink()
    if harm == "torn":
        (tmp_path / "cell" / names.CELL_RESULT).write_text("{")
    assert trainer.complete(tmp_path / "cell", key) is None


def test_without_resume_and_for_another_key_a_folder_starts_afresh(tmp_path):
    cases, config = scene.make_cases(tmp_path), scene.make_config(max_epochs=1)
    scene.train(tmp_path / "cell", cases, config=config)
    stored = files.read_json(tmp_path / "cell" / cell_folder.PLAN)
    longer = scene.make_config(max_epochs=2)
    assert scene.train(tmp_path / "cell", cases, config=longer, resume=False).epochs == 2
    other = scene.make_spec(key="another")
    assert scene.train(tmp_path / "cell", cases, config=config, spec=other).key == "another"
    assert files.read_json(tmp_path / "cell" / cell_folder.PLAN) == stored
