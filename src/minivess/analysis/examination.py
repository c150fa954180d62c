"""The champion's predictions out of fold, examined: calibration, risk, breaks and merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minivess import inference
from minivess.analysis.ensembling import Ensemble
from minivess.analysis.predictions import OutOfFoldPredictor
from minivess.combination import Probabilities
from minivess.config import EvaluationConfig
from minivess.contracts import IGNORED, Case, Fault, LossName, Scores, Uncertainty
from minivess.evaluation import calibration, centrelines, metrics, risk
from minivess.evaluation.regions import Region
from minivess.formats import volume


class Predicted(NamedTuple):
    """One volume with what unseen networks say of it."""

    case: Case
    image: Probabilities
    """(1, X, Y, Z)"""
    truth: NDArray[np.uint8]
    """(X, Y, Z) of class indices."""
    probabilities: Probabilities
    geometry: volume.Volume


class Examined(NamedTuple):
    """What is kept of one volume."""

    unit: str
    """Its group, or itself."""
    voxels: calibration.Voxels
    losses: Mapping[LossName, NDArray[np.float64]]
    faults: tuple[Fault, ...]
    short: int
    """Pieces of centreline that are too short to count."""


def examine(
    predictor: OutOfFoldPredictor, ensemble: Ensemble, winner: Scores, cases: Sequence[Case],
    maps: Path,
) -> tuple[Uncertainty, tuple[Fault, ...], int]:  # fmt: skip
    """Examine the volumes on which the winner was judged, one at a time.

    Args:
        maps: folder of the maps of uncertainty, written if `analysis.uncertainty_maps` asks.

    Returns:
        Calibration and risk, faults with the longest first, and the number of shorter pieces.
    """
    known = [_examined(one, predictor) for one in predicted(predictor, ensemble, cases)]
    found = _uncertainty(known, winner, predictor)
    if predictor.config.analysis.uncertainty_maps:
        for one in predicted(predictor, ensemble, cases):
            write_map(one, found.temperature, maps)
    faults = [fault for one in known for fault in one.faults]
    longest = tuple(sorted(faults, key=lambda fault: -fault.length))
    return found, longest, sum(one.short for one in known)


def predicted(
    predictor: OutOfFoldPredictor, ensemble: Ensemble, cases: Sequence[Case]
) -> Iterator[Predicted]:
    """Yield volumes one by one with their kept probabilities, summing to 1 in each voxel."""
    for case in cases:
        image, truth, geometry = predictor.load(case)
        assert truth is not None
        said = predictor.combined(case, ensemble, image)
        yield Predicted(case, image, truth, said / said.sum(axis=0), geometry)


def _examined(one: Predicted, predictor: OutOfFoldPredictor) -> Examined:
    annotated, kept = one.truth != IGNORED, predictor.cache / "skeletons"
    inside = annotated & (one.truth > 0)
    return Examined(
        one.case.group or one.case.case,
        calibration.sample(one.probabilities, one.truth, one.geometry.spacing),
        risk.curves(1 - one.probabilities[0], inside, annotated, Region(inside, kept).skeleton),
        *faults(one, predictor.spec.classes, predictor.config.evaluation, kept),
    )


def faults(
    one: Predicted, classes: Sequence[int], config: EvaluationConfig, kept: Path | None = None
) -> tuple[tuple[Fault, ...], int]:
    """Return the breaks and merges of each class, lengths in header units; count short pieces."""
    found, short = [], 0
    truth, guess = metrics.judged(one.truth, inference.mask(one.probabilities))
    where, spacing = one.geometry.affine, one.geometry.spacing
    for index, label in enumerate(classes[1:], start=1):
        real = Region(truth == index, kept)
        pieces = centrelines.compare(Region(guess == index), real, spacing, config.nsd_tolerance)
        for piece in pieces:
            if centrelines.is_short(piece, spacing, config):
                short += 1
                continue
            x, y, z = (where @ [*piece.voxel, 1])[:3].tolist()
            fault = Fault(
                case=one.case.case, label=label, place=(x, y, z), unit=one.geometry.unit,
                **piece._asdict(),
            )  # fmt: skip
            found.append(fault)
    return tuple(found), short


def _uncertainty(
    known: Sequence[Examined], winner: Scores, predictor: OutOfFoldPredictor
) -> Uncertainty:
    """Fit, choose and judge; volumes of one group are one unit."""
    units: dict[str, list[Examined]] = {}
    for one in known:
        units.setdefault(one.unit, []).append(one)
    temperature, parts, reliability = calibration.judge(
        [calibration.joined([one.voxels for one in of]) for of in units.values()],
        predictor.spec.classes,
    )
    losses = {
        name: np.array([np.mean([one.losses[name] for one in of], axis=0) for of in units.values()])
        for name in risk.LOSSES
    }
    grouped = any(one.group is not None for one in winner.volumes)
    return Uncertainty(
        name=winner.name,
        volumes=len(known),
        temperature=temperature,
        parts=parts,
        reliability=reliability,
        risks=risk.control(losses, predictor.config.analysis.alpha, grouped=grouped),
    )


def entropy(found: Predicted, temperature: float) -> NDArray[np.float32]:
    """Return that of the calibrated probabilities, (X, Y, Z): 0 is sure, 1 knows nothing."""
    said = calibration.scaled(found.probabilities, temperature, axis=0)
    bits = -(said * np.log(said.clip(1e-12))).sum(axis=0)
    share: NDArray[np.float32] = (bits / np.log(len(said))).astype(np.float32)
    return share


def write_map(found: Predicted, temperature: float, folder: Path) -> Path:
    """Write the entropy of a volume as NIfTI."""
    like = replace(found.geometry, array=entropy(found, temperature))
    return volume.write_volume(folder / f"{found.case.case}.nii.gz", like)
