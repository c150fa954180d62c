"""Metrics of a predicted mask against its ground truth, as defined by Metrics Reloaded.

Both empty: Dice, clDice, NSD, F1 are 1 and distances 0. One empty: scores are 0 and distances
undefined (None). Several classes: each metric is the mean over the foreground classes, undefined
where one of them is (a class that was missed would else raise the mean), and every class stands
beside it as `<metric>_class<label value>`.

Dice and F1 of voxels are the same number (Maier-Hein et al. 2024, Metrics Reloaded); both names
are kept because readers look for either. The compound metric takes its MASD in voxels; `masd` and
`hd95` are in the unit of `spacing`; NSD counts surface voxels, with its tolerance in voxels.

Voxels without annotation (IGNORED in the truth) are outside in truth and prediction alike, as
what lies beyond the volume is: where a mask reaches them, it ends there in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minivess.config import EvaluationConfig
from minivess.contracts import IGNORED, Spacing
from minivess.evaluation import centrelines
from minivess.evaluation.regions import VOXELS, Region
from minivess.names import PRIMARY

ClassMask = NDArray[np.uint8]
Scores = dict[str, float | None]


class Truth:
    """A label (X, Y, Z) of class indices, prepared once to judge many predictions.

    `classes` are the label values behind the indices, background first. Skeletons and surfaces
    are stored by content in the folder `kept`, so that no later training computes them again.
    """

    def __init__(
        self, mask: ClassMask, classes: Sequence[int], *, kept: Path | None = None
    ) -> None:
        self.shape = mask.shape
        ignored = mask == IGNORED
        self.ignored = ignored if ignored.any() else None
        self.regions = {
            value: Region(mask == index, kept) for index, value in enumerate(classes) if index > 0
        }


def judge(
    prediction: ClassMask,
    truth: ClassMask | Truth,
    *,
    classes: tuple[int, ...],
    config: EvaluationConfig,
    spacing: Spacing = VOXELS,
    topology: bool = True,
    counts: bool = False,
) -> Scores:
    """Every metric of `names.METRICS`, or only Dice and F1 without `topology`.

    Args:
        prediction: class indices 0..C-1, (X, Y, Z).
        truth: the same, or prepared as `Truth`, which keeps its skeleton and surface.
        spacing: voxel size, the unit of `masd` and `hd95`.
        counts: also errors of topology by their number, `names.COUNTS`.
    """
    known = truth if isinstance(truth, Truth) else Truth(truth, classes)
    if prediction.shape != known.shape:
        message = f"Prediction {prediction.shape} and label {known.shape} differ in shape."
        raise ValueError(message)
    if known.ignored is not None:
        prediction = np.where(known.ignored, 0, prediction)
    by_class: dict[int, Scores] = {}
    for index, value in enumerate(classes[1:], start=1):
        guess, real = Region(prediction == index), known.regions[value]
        by_class[value] = _overlap(guess, real)
        if topology:
            by_class[value] |= _topology(guess, real, config, spacing)
        if counts:
            by_class[value] |= centrelines.errors(guess, real, spacing, config)
    scores = {
        name: None if undefined(by_class.values(), name) else value
        for name, value in mean(by_class.values()).items()
    }
    if len(by_class) > 1:
        scores |= {f"{m}_class{v}": x for v, row in by_class.items() for m, x in row.items()}
    return scores


def judged(truth: ClassMask, prediction: ClassMask) -> tuple[ClassMask, ClassMask]:
    """Both masks as they are judged and shown: background where there is no annotation."""
    ignored = truth == IGNORED
    return np.where(ignored, 0, truth), np.where(ignored, 0, prediction)


def mean(rows: Iterable[Mapping[str, float | None]]) -> Scores:
    """The mean of each metric over the rows where it is defined; None where it never is."""
    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row))
    return {name: _mean([row[name] for row in listed if name in row]) for name in names}


def undefined(rows: Iterable[Mapping[str, float | None]], metric: str) -> int:
    """In how many rows a metric is asked for and has no value."""
    return sum(metric in row and row[metric] is None for row in rows)


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _overlap(guess: Region, real: Region) -> Scores:
    total = guess.size + real.size
    shared = int(np.count_nonzero(guess.mask & real.mask)) if total else 0
    dice = 2 * shared / total if total else 1.0
    return {"dice": dice, "f1": dice}


def _topology(guess: Region, real: Region, config: EvaluationConfig, spacing: Spacing) -> Scores:
    if not guess.size and not real.size:
        return {"cldice": 1.0, "masd": 0.0, "hd95": 0.0, "nsd": 1.0, PRIMARY: 1.0}
    if not guess.size or not real.size:
        return {"cldice": 0.0, "masd": None, "hd95": None, "nsd": 0.0, PRIMARY: 0.0}
    cldice = _cldice(guess, real)
    out, back = _surface_distances(guess, real, VOXELS)
    masd_voxels = (out.mean() + back.mean()) / 2
    physical = (out, back) if spacing == VOXELS else _surface_distances(guess, real, spacing)
    return {
        "cldice": cldice,
        "masd": float((physical[0].mean() + physical[1].mean()) / 2),
        "hd95": float(max(np.percentile(directed, 95) for directed in physical)),
        "nsd": float(_within(out, back, config.nsd_tolerance)),
        PRIMARY: float(compound(cldice, masd_voxels, config.masd_cap)),
    }


def compound(cldice: float, masd_voxels: float, cap: float) -> float:
    """0.5*clDice + 0.5*(1 - min(MASD, m)/m), the primary metric; MASD and m in voxels."""
    return 0.5 * cldice + 0.5 * (1 - min(masd_voxels, cap) / cap)


def _cldice(guess: Region, real: Region) -> float:
    """Harmonic mean of topology precision and sensitivity (Shit et al. 2021)."""
    precision = real.contains(guess.skeleton)
    sensitivity = guess.contains(real.skeleton)
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total else 0.0


def _surface_distances(
    guess: Region, real: Region, spacing: Spacing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return real.distances(guess.surface, spacing), guess.distances(real.surface, spacing)


def _within(out: NDArray[np.float64], back: NDArray[np.float64], tolerance: float) -> float:
    close = np.count_nonzero(out <= tolerance) + np.count_nonzero(back <= tolerance)
    return close / (len(out) + len(back))
