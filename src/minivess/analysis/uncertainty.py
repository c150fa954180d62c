"""How far the champion's probabilities can be trusted, from its predictions out of fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minivess.analysis.ensembling import Ensemble
from minivess.analysis.predictions import OutOfFoldPredictor
from minivess.combination import Probabilities
from minivess.contracts import IGNORED, Case, LossName, Scores, Uncertainty
from minivess.evaluation import calibration, risk
from minivess.evaluation.regions import Region
from minivess.formats import volume


class Predicted(NamedTuple):
    """One volume with what unseen networks say of it."""

    case: Case
    truth: NDArray[np.uint8]
    """(X, Y, Z) of class indices."""
    probabilities: Probabilities
    geometry: volume.Volume


def predicted(
    predictor: OutOfFoldPredictor, ensemble: Ensemble, cases: Sequence[Case]
) -> Iterator[Predicted]:
    """Yield volumes one by one with their kept probabilities, summing to 1 in each voxel."""
    for case in cases:
        image, truth, geometry = predictor.load(case)
        assert truth is not None
        found = predictor.combined(case, ensemble, image)
        yield Predicted(case, truth, found / found.sum(axis=0), geometry)


class Measured:
    """What is kept of each volume, by group where there are groups."""

    def __init__(self) -> None:
        self.voxels: dict[str, list[calibration.Voxels]] = {}
        self.losses: dict[str, list[dict[LossName, NDArray[np.float64]]]] = {}

    def add(self, one: Predicted) -> None:
        """Sample voxels of a volume, and compute its losses at every threshold."""
        unit = one.case.group or one.case.case
        sampled = calibration.sample(one.probabilities, one.truth, one.geometry.spacing)
        self.voxels.setdefault(unit, []).append(sampled)
        annotated = one.truth != IGNORED
        inside = annotated & (one.truth > 0)
        losses = risk.curves(1 - one.probabilities[0], inside, annotated, Region(inside).skeleton)
        self.losses.setdefault(unit, []).append(losses)

    def conclude(self, winner: Scores, classes: Sequence[int], alpha: float) -> Uncertainty:
        """Fit, choose and judge."""
        losses = list(self.losses.values())
        units = [calibration.joined(each) for each in self.voxels.values()]
        fitted, parts, reliability = calibration.judge(units, classes)
        means = {
            name: np.array([np.mean([one[name] for one in unit], axis=0) for unit in losses])
            for name in risk.LOSSES
        }
        grouped = any(one.group is not None for one in winner.volumes)
        return Uncertainty(
            name=winner.name,
            volumes=len(winner.volumes),
            temperature=fitted,
            parts=parts,
            reliability=reliability,
            risks=risk.control(means, alpha, grouped=grouped),
        )


def write_map(found: Predicted, temperature: float, folder: Path) -> Path:
    """Write the entropy of the calibrated probabilities as NIfTI: 0 is sure, 1 knows nothing."""
    said = calibration.scaled(found.probabilities, temperature, axis=0)
    entropy = -(said * np.log(said.clip(1e-12))).sum(axis=0) / np.log(len(said))
    like = replace(found.geometry, array=entropy.astype(np.float32))
    return volume.write_volume(folder / f"{found.case.case}.nii.gz", like)


def measure(
    predictor: OutOfFoldPredictor,
    ensemble: Ensemble,
    winner: Scores,
    cases: Sequence[Case],
    folder: Path,
) -> Uncertainty:
    """Measure calibration and risk over the volumes on which the winner was judged.

    Args:
        folder: where maps are written, if `analysis.uncertainty_maps` asks for them.
    """
    measured, config = Measured(), predictor.config.analysis
    for one in predicted(predictor, ensemble, cases):
        measured.add(one)
    found = measured.conclude(winner, predictor.spec.classes, config.alpha)
    if config.uncertainty_maps:
        for one in predicted(predictor, ensemble, cases):
            write_map(one, found.temperature, folder)
    return found
