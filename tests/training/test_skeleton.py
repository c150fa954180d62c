"""Skeleton recall in a training: the skeleton is made once for each volume and cut with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minivess import losses, soft_skeleton
from minivess.contracts import LossTerm
from minivess.training import loaders
from tests.training import scene

pytestmark = pytest.mark.slow

TERMS = (LossTerm(loss="dice_ce"), LossTerm(loss="skeleton_recall"))


def test_a_patch_carries_the_skeleton_of_its_volume(tmp_path: Path) -> None:
    spec, config = scene.make_spec(TERMS), scene.make_config(augment=True)
    plan = scene.make_plan(spec)
    batches = loaders.Batches.of(spec, plan, config, scene.make_cases(tmp_path))
    whole = batches.volumes[0]["label"]
    assert torch.equal(whole[1:], soft_skeleton.tubed(whole[None, :1])[0])
    found = [batches.batch(0, step, batches.order(0)).label for step in range(4)]
    labels, lines = torch.cat(found)[:, 0], torch.cat(found)[:, 1]
    assert lines.any()
    assert torch.equal(labels[lines > 0], lines[lines > 0])


def test_a_cell_trains_with_it_and_reports_it(tmp_path: Path) -> None:
    heard = scene.Heard()
    spec = scene.make_spec(TERMS)
    assert losses.needs_skeleton(spec.loss)
    scene.train(tmp_path / "cell", scene.make_cases(tmp_path), spec=spec, heard=heard)
    assert (
        heard.metrics[-1]["train_loss_skeleton_recall"]
        < (heard.metrics[0]["train_loss_skeleton_recall"])
    )
