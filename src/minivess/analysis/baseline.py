"""The baseline a reader asks for: an intensity threshold, tuned and judged out of fold.

For each fold the threshold, and whether foreground is brighter or darker, are those of the highest
mean Dice over its training volumes; its validation volumes are then judged like any mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minivess import files, inference, keys
from minivess.analysis import ensembling
from minivess.config import ExperimentConfig
from minivess.contracts import IGNORED, Case, CellSpec, FoldModel, Scores, VolumeMetrics
from minivess.evaluation import metrics
from minivess.formats import volume

NAME = "threshold"
EDGES = np.linspace(-6, 6, 241, dtype=np.float32)
"""Thresholds tried, in standard deviations from the mean of the volume."""
Counts = NDArray[np.int64]


class Threshold(NamedTuple):
    """Foreground is at or above `level`, or below it if `dark`."""

    level: float
    dark: bool

    def mask(self, scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Segment a volume (X, Y, Z) of zero mean and unit variance."""
        above = scaled >= np.float32(self.level)
        found: NDArray[np.uint8] = (above != self.dark).astype(np.uint8)
        return found


def judge(
    models: Sequence[FoldModel],
    cases: Mapping[str, Case],
    config: ExperimentConfig,
    cache: Path,
    contents: Mapping[str, str],
) -> Scores | None:
    """Judge a tuned threshold on the validation volumes of a family's folds.

    Args:
        models: the fold models of one family; their folds and classes are used.
        contents: case -> hash of its bytes, by which results are kept.

    Returns:
        None with several foreground classes, which one threshold cannot separate.
    """
    spec = models[0].spec
    if len(spec.classes) != 2:
        return None
    known = {name: case for name, case in cases.items() if case.label is not None}
    counts = {name: _counts(case, spec, config) for name, case in known.items()}
    found = []
    for model in models:
        trained = [counts[name] for name in model.spec.fold.train if name in counts]
        if not trained:
            continue
        threshold = tune(trained)
        for name in (name for name in model.spec.fold.val if name in known):
            found.append(_judged(known[name], threshold, spec, config, cache, contents))
    if not found:
        return None
    return ensembling.judged(NAME, ensembling.Ensemble(()), found, models, config.evaluation)


def tune(volumes: Sequence[Counts]) -> Threshold:
    """Return the threshold of the highest mean Dice.

    Args:
        volumes: for each volume the foreground voxels (first row) and all voxels (second) in the
            intervals between EDGES, with what lies beyond at both ends.
    """
    best = (-1.0, Threshold(0.0, dark=False))
    for dark in (False, True):
        dice = np.mean([_dice(one, dark=dark) for one in volumes], axis=0)
        place = int(dice.argmax())
        best = max(best, (float(dice[place]), Threshold(float(EDGES[place]), dark)))
    return best[1]


def _dice(counts: Counts, *, dark: bool) -> NDArray[np.float64]:
    """Dice at each of EDGES."""
    below = counts.cumsum(axis=1)[:, :-1]
    inside = below if dark else counts.sum(axis=1, keepdims=True) - below
    total = inside[1] + counts[0].sum()
    return np.where(total > 0, 2 * inside[0] / np.maximum(total, 1), 1.0)


def _scaled(
    case: Case, spec: CellSpec, config: ExperimentConfig
) -> tuple[NDArray[np.float32], NDArray[np.uint8], volume.Volume]:
    image, label, geometry = volume.load(
        case, label_map=spec.label_map, resampling=config.data.resampling
    )
    assert label is not None
    truth = volume.class_indices(label, spec.classes, case.case)
    window = spec.window.replace(normalisation="zscore", scale=None)
    return inference.normalise(image, window)[0], truth, geometry


def _counts(case: Case, spec: CellSpec, config: ExperimentConfig) -> Counts:
    scaled, truth, _ = _scaled(case, spec, config)
    annotated = truth != IGNORED
    places = np.searchsorted(EDGES, scaled[annotated], side="right")
    length = len(EDGES) + 1
    inside = np.bincount(places[truth[annotated] > 0], minlength=length)
    return np.stack([inside, np.bincount(places, minlength=length)])


def _judged(
    case: Case,
    threshold: Threshold,
    spec: CellSpec,
    config: ExperimentConfig,
    cache: Path,
    contents: Mapping[str, str],
) -> VolumeMetrics:
    key = keys.digest(
        {
            "case": [case.case, case.group, contents.get(case.case)],
            "threshold": list(threshold),
            "classes": [list(spec.classes), [[str(k), v] for k, v in spec.label_map.items()]],
            "resampling": config.data.resampling.key_fields(),
            "evaluation": config.evaluation.key_fields(),
            "code": keys.code(("analysis/baseline.py", *keys.MODELS)),
        }
    )
    path = cache / key / "metrics.json"
    if not path.exists():
        scaled, truth, geometry = _scaled(case, spec, config)
        scores = metrics.judge(
            threshold.mask(scaled),
            truth,
            classes=spec.classes,
            config=config.evaluation,
            spacing=geometry.spacing,
            counts=True,
        )
        kept = VolumeMetrics(case=case.case, group=case.group, values=scores)
        files.write_json(path, kept.model_dump(mode="json"))
    return VolumeMetrics.model_validate(files.read_json(path))
