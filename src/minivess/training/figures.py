"""What a training looks like: its curves, and what the network predicts so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from minivess import files
from minivess.training.cell import History

CURVES = (
    ("loss", ("train_loss", "val_loss")),
    ("Dice", ("train_dice", "val_dice")),
    ("topology", ("val_cldice", "val_compound_masd_cldice")),
    ("learning rate", ("learning_rate",)),
)


@dataclass(frozen=True)
class Panel:
    """One volume to draw: image, truth and prediction, each (X, Y, Z)."""

    case: str
    image: NDArray[np.float32]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def curves(path: Path, history: History) -> Path:
    """Draw loss, Dice, topology metrics and learning rate over the epochs."""
    figure = Figure(figsize=(12, 3), layout="constrained")
    for place, (title, names) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
        for name in names:
            known = [(e["epoch"], e["metrics"][name]) for e in history if name in e["metrics"]]
            place.plot(*zip(*known, strict=True), marker=".", label=name) if known else None
        place.set(title=title, xlabel="epoch")
        if place.lines:
            place.legend(fontsize="small", frameon=False)
    return _save(figure, path)


def predictions(path: Path, panels: Sequence[Panel], title: str) -> Path:
    """Draw each volume seen from above: image, truth, prediction, and where the two differ."""
    figure = Figure(figsize=(10, 2.6 * len(panels)), layout="constrained")
    figure.suptitle(title)
    rows = figure.subplots(len(panels), 4, squeeze=False)
    for row, panel in zip(rows, panels, strict=True):
        low, high = np.percentile(panel.image, (1, 99.8))
        top = max(1, int(panel.truth.max()), int(panel.prediction.max()))
        _draw(row[0], panel.image.max(axis=2), panel.case, cmap="gray", vmin=low, vmax=high)
        _draw(row[1], panel.truth.max(axis=2), "truth", cmap="viridis", vmin=0, vmax=top)
        _draw(row[2], panel.prediction.max(axis=2), "prediction", cmap="viridis", vmin=0, vmax=top)
        _draw(row[3], _differences(panel), "missed red, invented blue")
    return _save(figure, path)


def _differences(panel: Panel) -> NDArray[np.float64]:
    """RGB of (X, Y): white where both agree on foreground, red missed, blue invented."""
    truth, guess = panel.truth.max(axis=2) > 0, panel.prediction.max(axis=2) > 0
    colours = np.zeros((*truth.shape, 3))
    colours[truth & guess] = (0.85, 0.85, 0.85)
    colours[truth & ~guess] = (0.9, 0.25, 0.2)
    colours[~truth & guess] = (0.25, 0.45, 0.95)
    return colours


def _draw(place: Any, picture: NDArray[Any], title: str, **style: Any) -> None:
    # The first array axis is x, which lies across the page.
    place.imshow(np.swapaxes(picture, 0, 1), origin="lower", interpolation="nearest", **style)
    place.set_title(title, fontsize="small")
    place.set_axis_off()


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    return files.write(path, lambda temporary: figure.savefig(temporary, dpi=80, format="png"))
