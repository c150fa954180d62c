"""Draw training curves and predictions of validation volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from minivess import files
from minivess.training.cell_folder import History

CURVES = (
    ("loss", ("train_loss", "val_loss")),
    ("Dice", ("train_dice", "val_dice")),
    ("topology", ("val_cldice", "val_compound_masd_cldice")),
    ("learning rate", ("learning_rate",)),
)

COLOURS = (  # background, then one for each class
    (0.0, 0.0, 0.0),
    (0.95, 0.75, 0.2),
    (0.2, 0.7, 0.6),
    (0.8, 0.4, 0.7),
    (0.4, 0.6, 0.95),
)
VERDICTS = ((0.85, 0.85, 0.85), (0.9, 0.25, 0.2), (0.25, 0.45, 0.95))  # agreed, missed, invented


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
    height = 2.5 * len(panels) + 0.4
    figure = Figure(figsize=(10, height))
    # One axes for a row and margins by hand: this is drawn often, and axes are what costs.
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.6 / height, hspace=0.12)
    figure.suptitle(title, y=1 - 0.1 / height, va="top", fontsize="medium")
    for place, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        place.imshow(_row(panel), origin="lower", interpolation="nearest")
        text = f"{panel.case}: image | truth | prediction | missed red, invented blue"
        place.set_title(text, fontsize="small", y=1.0, pad=3)
        place.set_axis_off()
    return _save(figure, path)


def _row(panel: Panel) -> NDArray[np.float64]:
    """Four pictures side by side; the first array axis is x and lies across the page."""
    pictures = (
        _brightness(panel.image),
        _classes(panel.truth),
        _classes(panel.prediction),
        _differences(panel),
    )
    gap = np.ones((max(1, panel.image.shape[0] // 25), panel.image.shape[1], 3))
    side_by_side = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1])
    return np.swapaxes(side_by_side, 0, 1)


def _brightness(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Brightest voxel of each column, grey RGB (X, Y, 3)."""
    seen = image.max(axis=2).astype(np.float64)
    low, high = np.percentile(seen, (1, 99.8))
    grey = np.clip((seen - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def _classes(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Highest class of each column in its colour."""
    colours: NDArray[np.float64] = np.array(COLOURS)[mask.max(axis=2) % len(COLOURS)]
    return colours


def _differences(panel: Panel) -> NDArray[np.float64]:
    """Each column mixed from its voxels: agreed grey, missed red, invented blue."""
    agreed = (panel.truth > 0) & (panel.truth == panel.prediction)
    missed = (panel.truth > 0) & ~agreed
    invented = (panel.prediction > 0) & ~agreed & ~missed
    counts = np.stack([part.sum(axis=2) for part in (agreed, missed, invented)], axis=-1)
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    mixed: NDArray[np.float64] = shares @ np.array(VERDICTS)
    return mixed


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    return files.write(path, lambda temporary: figure.savefig(temporary, dpi=80, format="png"))
