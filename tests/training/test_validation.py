"""What a judgement says in the metrics of its epoch."""

from __future__ import annotations

import math

from minivess.contracts import VolumeMetrics
from minivess.names import PRIMARY
from minivess.training.state import State
from minivess.training.validation import Judgement, Judging
from tests.training import scene


def judged(*masd: float | None) -> Judgement:
    rows = ({"dice": 0.5, "f1": 0.5, "masd": value, PRIMARY: 0.2} for value in masd)
    return Judgement(tuple(VolumeMetrics(case=str(i), values=row) for i, row in enumerate(rows)))


def test_undefined_values_are_left_out_of_the_mean_and_counted():
    found = judged(2.0, None, 4.0, None).logged()
    assert found == {
        "val_dice": 0.5, "val_f1_foreground": 0.5, "val_masd": 3.0, f"val_{PRIMARY}": 0.2,
        "val_masd_nan_count": 2.0,
    }  # fmt: skip
    nowhere = judged(None).logged()
    assert "val_masd" not in nowhere
    assert nowhere["val_masd_nan_count"] == 1


def test_a_value_that_is_undefined_is_never_the_best():
    spec = scene.make_spec()
    state = State.start(spec, scene.make_plan(spec), scene.make_config().training)
    assert Judging(math.nan, [], []).logged_loss == {}
    assert not state.improves("val_loss", None, -1)
    assert state.improves("val_loss", 9.0, -1)
    state.best["val_loss"] = {"value": 9.0, "epoch": 0}
    assert not state.improves("val_loss", None, -1)
