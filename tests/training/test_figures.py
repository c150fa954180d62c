"""What is drawn of a training shows what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from minivess.training.monitoring import figures

RED, BLUE = np.array(figures.VERDICTS[1:])


def shares(path: Path) -> tuple[float, float]:
    """How much of an image is red, and how much is blue."""
    picture = imread(path)[..., :3]
    red, blue = (np.abs(picture - colour).max(axis=-1) < 0.02 for colour in (RED, BLUE))
    return float(red.mean()), float(blue.mean())


def test_missed_vessel_is_red_and_invented_vessel_blue(tmp_path):
    image = np.random.default_rng(0).random((24, 20, 5), np.float32)
    empty, vessel = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    vessel[8:16] = 1

    def drawn(truth, prediction):
        panel = figures.Panel("vol0", image, truth, prediction)
        return shares(figures.predictions(tmp_path / "p.png", [panel], "after epoch 0"))

    assert drawn(vessel, vessel) == (0, 0)
    missed, invented = drawn(vessel, empty), drawn(empty, vessel)
    assert missed[0] == invented[1] > 0.05
    assert missed[1] == invented[0] == 0


def test_curves_are_drawn_whether_or_not_anything_validated(tmp_path):
    metrics = {"train_loss": 1.0, "train_dice": 0.1, "learning_rate": 1e-3}
    bare = [{"epoch": epoch, "metrics": metrics} for epoch in range(3)]
    judged = [{"epoch": e["epoch"], "metrics": {**metrics, "val_loss": 2.0}} for e in bare]
    orange = np.array((1.0, 0.498, 0.055))  # the second line of a plot

    def has_second_line(history):
        picture = imread(figures.curves(tmp_path / "c.png", history))[..., :3]
        return bool((np.abs(picture - orange).max(axis=-1) < 0.02).any())

    assert has_second_line(judged)
    assert not has_second_line(bare)
