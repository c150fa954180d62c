"""On a GPU a killed cell ends as docs/data-scientist.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minivess import names
from tests.training import dying, scene

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
OPTIONS: dict[str, Any] = {"plan": {"device": "cuda"}}


def test_killed_in_its_second_epoch_it_comes_to_the_same_weights_within_the_tolerance(
    tmp_path: Path,
) -> None:
    cases = scene.make_cases(tmp_path)
    whole = scene.train(tmp_path / "whole", cases, **OPTIONS)
    death = ("minivess.training.epochs.Steps._update", 6)
    assert dying.run(tmp_path, tmp_path / "killed", death, **OPTIONS) == -9
    again = scene.train(tmp_path / "killed", cases, **OPTIONS)
    mine, theirs = (
        torch.load(tmp_path / folder / names.LAST, weights_only=True)["weights"]
        for folder in ("whole", "killed")
    )
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-2, atol=1e-3)
    for one, two in zip(whole.volumes, again.volumes, strict=True):
        assert two.values["dice"] == pytest.approx(one.values["dice"], abs=0.01)
