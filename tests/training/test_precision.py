"""What is reported is computed in one precision, whatever training computes in."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivess import names
from minivess.analysis import predictions
from minivess.contracts import FoldModel
from tests.training import scene

pytestmark = pytest.mark.slow


def test_the_figures_of_a_bf16_training_are_those_of_the_analysis_to_the_digit(tmp_path: Path):
    cases, spec = scene.make_cases(tmp_path), scene.make_spec()
    config = scene.make_config(max_epochs=2)
    folder = tmp_path / "cell"
    result = scene.train(folder, cases, plan={"mixed_precision": "bf16"}, config=config)
    member = FoldModel(
        run_id="cell", parent_run_id="parent", cell_key="key", family="dynunet_dice_ce", spec=spec,
        checkpoint=folder / result.checkpoint, trainable_parameters=1, untrained={},
    )  # fmt: skip
    held_out = {case: cases[case] for case in spec.fold.val}
    judged = predictions.out_of_fold([member], held_out, config, tmp_path / "cache").predictions
    for one, trained in zip(judged["dynunet_dice_ce"], result.volumes, strict=True):
        values = {name: one.metrics.values[name] for name in trained.values}
        assert one.metrics.replace(values=values) == trained
        assert one.metrics.values.keys() - trained.values.keys() == {*names.COUNTS}
