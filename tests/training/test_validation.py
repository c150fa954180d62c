"""What a judgement says in the metrics of its epoch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from minivess.contracts import IGNORED, LossTerm, VolumeMetrics
from minivess.names import PRIMARY
from minivess.training.epochs import Tally
from minivess.training.state import State
from minivess.training.validation import Judgement, Judging
from tests.conftest import tube, write_nifti
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
    rows = [{"masd": None, "masd_class1": 2.0, "masd_class2": None}] * 2
    classes = Judgement(tuple(VolumeMetrics(case=str(i), values=r) for i, r in enumerate(rows)))
    counts = {k: v for k, v in classes.logged().items() if "nan_count" in k}
    assert counts == {f"val_masd_nan_count{k}": v for k, v in
                      (("", 2), ("_class1", 0), ("_class2", 2))}  # fmt: skip
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


def test_the_training_dice_leaves_out_what_nobody_annotated():
    target = torch.tensor([0, 1, 1, IGNORED]).reshape(1, 1, 4, 1, 1)
    logits = torch.zeros(1, 2, 4, 1, 1)
    logits[0, 1, 1:] = 1
    tally = Tally(2, "cpu", ignores=True)
    tally.add({"loss": torch.tensor(0.0)}, logits, target, ("a",))
    assert tally.metrics()["train_dice"] == 1


def test_a_cell_trains_and_validates_on_labels_that_are_annotated_in_part(tmp_path: Path):
    cases, heard = scene.make_cases(tmp_path / "data"), scene.Heard()
    for index, case in enumerate(cases.values()):
        label = tube(scene.SHAPE, seed=index)[1]
        label[:, 12:] = 254
        write_nifti(case.label, label)
    terms = (LossTerm(loss="dice_ce_cldice"), LossTerm(loss="skeleton_recall"))
    result = scene.train(
        tmp_path / "cell",
        cases,
        spec=scene.make_spec(terms, label_map={254: IGNORED}),
        config=scene.make_config(max_epochs=1),
        heard=heard,
    )
    assert 0 <= heard.metrics[0]["train_dice"] <= 1
    assert all(np.isfinite(value) for value in heard.metrics[0].values())
    assert all(0 <= volume.values["dice"] <= 1 for volume in result.volumes)
