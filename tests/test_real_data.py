"""Real volumes beside the project: thin ones, grouped ones, several classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.contracts import CellSpec
from minivess.home import Home
from minivess.tracking.store.store import open_store
from tests.conftest import shared

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]

SMOKE = ("configs/experiments/smoke.yaml", "training.max_epochs=1")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Run a verb in plain Python; returns what --json prints."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def call(*words: str) -> dict[str, Any]:
        assert main.main([*words, "--json"]) == 0, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return call


def specs(home: Home, experiment: str) -> list[CellSpec]:
    """What each finished cell was made of, as MLflow holds it."""
    store = open_store(home, TrackingConfig())
    cells = store.search(experiment=experiment, kind=names.CELL, status="FINISHED")
    return [
        CellSpec.model_validate(store.read_json(cell.run_id, names.SPEC_ARTIFACT)) for cell in cells
    ]


def test_octa_crops_of_one_quadrant_never_straddle_training_and_validation(
    run: Callable[..., dict[str, Any]], home: Home
) -> None:
    result = run("experiment", *SMOKE, f"data.root={shared('octa_vessels')}")
    assert result["deployment_run_id"]
    cells = specs(home, "octa_vessels-smoke")
    assert len(cells) == 2
    for spec in cells:
        quadrants = [
            {case.split("_")[1][0] for case in part} for part in (spec.fold.train, spec.fold.val)
        ]
        assert quadrants[0].isdisjoint(quadrants[1])
        assert spec.window.patch_size[2] <= 5


def test_hippocampus_is_judged_with_its_three_classes(
    run: Callable[..., dict[str, Any]], home: Home, tmp_path: Path
) -> None:
    root = tmp_path / "hippocampus"
    for role in ("images", "labels"):
        (root / role).mkdir(parents=True)
        for file in sorted((shared("hippocampus") / role).iterdir())[:8]:
            (root / role / file.name).symlink_to(file)
    words = (f"data.root={root}", "flows=[profile,train,analyse]")
    result = run("experiment", *SMOKE, *words)
    assert {spec.classes for spec in specs(home, "hippocampus-smoke")} == {(0, 1, 2)}
    store = open_store(home, TrackingConfig())
    metrics = store.get(result["analysis_run_id"]).metrics
    assert {"champion_dice", "champion_dice_class1", "champion_dice_class2"} <= set(metrics)


def test_natively_thin_spinal_cords_are_profiled_and_planned_without_padding(
    run: Callable[..., dict[str, Any]],
) -> None:
    root = f"data.root={shared('spinal_cord_thin')}"
    assert run("profile", root)["n_volumes"] == 3
    plan = run("plan", root)["models"]["dynunet"]["plan"]
    assert plan["patch_size"][2] == 5
    assert plan["padded"] == {}
