"""Agreement of vessel measures: out-of-fold masks against the ground truth (Bland and Altman)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from minivess.analysis import predictions
from minivess.config import EvaluationConfig
from minivess.contracts import IGNORED, Agreement, Case, Measured
from minivess.evaluation import statistics
from minivess.morphometry import measures
from minivess.morphometry.network import VesselNetwork

COMPARED = (
    "length_density", "volume_density", "diameter_mean", "branch_points", "tortuosity", "parts",
    "loops",
)  # fmt: skip
LIMIT = 1.96


def measured(
    predictor: predictions.OutOfFoldPredictor,
    found: Iterable[predictions.Prediction],
    cases: Mapping[str, Case],
) -> tuple[Measured, ...]:
    """Measure the vessels of each volume and class in the ground truth and in the mask."""
    rows = []
    for one in found:
        case = cases[one.metrics.case]
        _, truth, geometry = predictor.load(case)
        assert truth is not None
        ignored, guess = truth == IGNORED, predictions.read_mask(one.mask)
        tissue = float(np.count_nonzero(~ignored) * np.prod(geometry.spacing))
        for index, label in enumerate(predictor.spec.classes[1:], start=1):
            real, said = (
                measures.row(VesselNetwork((mask == index) & ~ignored, geometry.spacing), tissue)
                for mask in (truth, guess)
            )
            rows += [
                Measured(
                    case=case.case, group=case.group, label=label, measure=name,
                    truth=real[name], predicted=said[name], unit=geometry.unit,
                )
                for name in COMPARED
            ]  # fmt: skip
    return tuple(rows)


def agree(rows: Sequence[Measured], config: EvaluationConfig) -> tuple[Agreement, ...]:
    """Summarise each measure of each class; a volume without one of both values is left out."""
    keys = dict.fromkeys((row.label, row.measure) for row in rows)
    return tuple(
        _agreement([row for row in rows if (row.label, row.measure) == key], config) for key in keys
    )


def _agreement(rows: Sequence[Measured], config: EvaluationConfig) -> Agreement:
    truth, said = [row.truth for row in rows], [row.predicted for row in rows]
    groups = [row.group for row in rows]
    bias = statistics.difference(said, truth, config=config, groups=groups)
    pairs = [(b, a) for a, b in zip(truth, said, strict=True) if a is not None and b is not None]
    gaps = np.array([b - a for b, a in pairs])
    limits = None
    if bias.n_units >= statistics.FEWEST:
        spread, reach = float(gaps.std(ddof=1)), _reach(bias.n_units, config.ci_level)
        middle = float(gaps.mean())
        limits = (
            (middle - (LIMIT + reach) * spread, middle - (LIMIT - reach) * spread),
            (middle + (LIMIT - reach) * spread, middle + (LIMIT + reach) * spread),
        )
    return Agreement(
        label=rows[0].label,
        measure=rows[0].measure,
        truth=float(np.mean([a for _, a in pairs])) if pairs else None,
        bias=bias,
        limits=limits,
    )


def _reach(n: int, level: float) -> float:
    """Half the width of the interval of a limit, in standard deviations (Bland and Altman 1999)."""
    from scipy import stats

    t = stats.t.ppf((1 + level) / 2, n - 1)
    return float(t * np.sqrt(1 / n + LIMIT**2 / (2 * (n - 1))))
