"""Two processes train one cell as one process does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minivess import names
from minivess.contracts import CellResult
from minivess.errors import PlanError
from minivess.training import cell_folder, distributed, loaders
from tests.training import scene

CLONE = Path(__file__).resolve().parents[2]


def share(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the cell in two processes."""
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    return subprocess.run(
        [sys.executable, *run, "tests.training.sharing", *map(str, words)],
        cwd=CLONE, check=False, timeout=300, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_a_cell_as_one_does_and_go_on_after_a_death(tmp_path: Path) -> None:
    alone = scene.train(tmp_path / "alone", scene.make_cases(tmp_path / "data"))
    assert share(tmp_path / "data", tmp_path / "shared", "dying").returncode != 0
    assert not (tmp_path / "shared" / names.CELL_RESULT).exists()
    done = share(tmp_path / "data", tmp_path / "shared")
    assert done.returncode == 0, done.stderr

    together = cell_folder.complete(tmp_path / "shared", "a-key")
    assert isinstance(together, CellResult)
    mine, theirs = (
        torch.load(tmp_path / folder / names.LAST, weights_only=True)
        for folder in ("alone", "shared")
    )
    for name, weight in mine["weights"].items():
        torch.testing.assert_close(theirs["weights"][name], weight, rtol=1e-3, atol=1e-4)
    histories = (cell_folder.read_history(tmp_path / folder) for folder in ("alone", "shared"))
    for one, two in zip(*histories, strict=True):
        assert one["metrics"].keys() == two["metrics"].keys()
        assert two["metrics"]["train_loss"] == pytest.approx(one["metrics"]["train_loss"], rel=1e-4)
        assert two["metrics"]["val_dice"] == pytest.approx(one["metrics"]["val_dice"], abs=0.01)
    assert together.volumes[0].values["dice"] == pytest.approx(
        alone.volumes[0].values["dice"], abs=0.01
    )


@pytest.mark.slow
def test_a_broken_volume_is_named_whichever_process_had_it(tmp_path: Path) -> None:
    spec, config = scene.make_spec(), scene.make_config()
    plan = scene.make_plan(spec)
    batches = loaders.Batches.of(spec, plan, config, scene.make_cases(tmp_path / "data"))
    seen: set[str] = set()
    for step in range(batches.per_epoch):
        pair = batches.batch(0, step, batches.order(0)).cases
        if pair[1] not in {pair[0], *seen}:
            break
        seen |= {*pair}
    done = share(tmp_path / "data", tmp_path / "shared", pair[1])
    assert f"on patches of {', '.join(sorted(pair))}." in done.stderr


def test_a_batch_that_does_not_split_and_batch_norm_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 2)
    distributed.require_shareable(torch.nn.InstanceNorm3d(1), 4)
    with pytest.raises(PlanError, match=r"training.batch_size=4"):
        distributed.require_shareable(torch.nn.InstanceNorm3d(1), 3)
    with pytest.raises(PlanError, match=r"model.norm=instance"):
        distributed.require_shareable(torch.nn.Sequential(torch.nn.BatchNorm3d(1)), 4)
