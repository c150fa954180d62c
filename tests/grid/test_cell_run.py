"""What is heard of a cell while it trains: in its run, in the terminal, on Prefect's page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minivess import config, names
from minivess.grid import cell_run, families
from minivess.grid.context import CellContext, GridContext, measure_hardware
from minivess.home import Home
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import Session
from minivess.tracking.journal import uploader
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.training.monitoring.watchdog import ProgressEvent
from tests.tracking.conftest import QUIET, profile_of


class Page(Orchestrator):
    """Remembers what it was asked to show."""

    def progress(self, key: str, description: str = "") -> Callable[[float], None]:
        self.key: str = key
        self.shown: list[float] = []
        return self.shown.append


def test_beats_epochs_stalls_and_images_reach_whoever_looks(
    home: Home, blank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(blank, home.database)
    page = Page(home)
    session = Session(QUIET, config.Environment(home=home.root), home, page)
    family = families.families(QUIET, profile_of())[0]
    watched = []
    folder = home.cells / family.cells[1].key
    stack, image = tmp_path / "stall.txt", folder / "predictions" / "epoch_0000.png"
    image.parent.mkdir(parents=True)
    for path in (stack, image):
        path.write_text("content")
    with mlflow_run(
        session.store, experiment="told", name="cell", kind=names.CELL, key="k", note="n",
        dataset="tubes", config=QUIET, ingredients={},
    ) as run:  # fmt: skip
        session.grid_progress.expect(3)
        grid = GridContext(
            session,
            profile_of(),
            {},
            measure_hardware(session),
            {},
            watch=lambda *seen: watched.append(seen),
        )
        context = CellContext(grid, family, family.cells[1], run)
        with cell_run.callbacks(context, run) as tell:
            tell.progress(ProgressEvent(0, 100, 1, 4, None))
            tell.resumed(1)
            tell.epoch(0, {"val_dice": 0.5, "learning_rate": 1e-3}, None)  # told again, not shown
            tell.epoch(0, {"val_dice": 0.5, "learning_rate": 1e-3}, 5940.0)
            tell.figure(image)
            tell.stall(stack)
            uploader.of(session.store).flush_all()
            stalled = session.store.get(run.run_id).tags[names.STALLED]
            tell.stall(None)

    kept = session.store.get(run.run_id)
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(rf"{moment} epoch 1/100, step 1/4", kept.tags[names.HEARTBEAT])
    assert re.fullmatch(f"since {moment}", stalled)
    assert re.fullmatch(f"over since {moment}", kept.tags[names.STALLED])
    assert kept.metrics["val_dice"] == 0.5
    assert watched == [(1, 0, {"val_dice": 0.5, "learning_rate": 1e-3})] * 2
    held = session.store.artifacts(run.run_id)
    assert {"logs/stall.txt", "figures/predictions/epoch_0000.png"} <= set(held)
    lines = [line for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert lines == [
        "  dynunet_dice_ce fold 1 resumes after epoch 1",
        "  dynunet_dice_ce fold 1 epoch 1/100  val_dice 0.500  99 min left, 5.0 h for all cells",
    ]
    assert (page.key, page.shown) == ("training-dynunet-dice-ce-1", [0.25 / 100, 1.0])
