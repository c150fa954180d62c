"""How often an interval called 95 % holds the true mean, by simulation: studentized, percentile."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from minivess.config import EvaluationConfig
from minivess.evaluation import statistics

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SIZES = (5, 8, 12, 20)
METHODS = ("studentized", "percentile")
SCORES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(0.8, 0.05, n), 0.8),
    "beta": (lambda rng, n: rng.beta(8, 2, n), 0.8),
    "skewed to failures": (lambda rng, n: 1 - rng.gamma(2, 0.05, n), 0.9),
    "groups of 3": (lambda rng, n: grouped(rng, n), 0.8),
    "one in five fails": (
        lambda rng, n: np.where(rng.random(n) < 0.2, rng.uniform(0, 0.5, n), 0.85), 0.73,
    ),
}  # fmt: skip


def main() -> None:
    """Print a row for each size and kind of values: coverage and mean width of both methods."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    options = parser.parse_args()
    print(f"{options.trials} trials; share of intervals that hold the true mean (mean width)")
    for n in SIZES:
        for kind in SCORES:
            found = [f"{m} {told(*cover(kind, n, m, options.trials))}" for m in METHODS]
            print(f"  n = {n:<3} {kind:<20} {'   '.join(found)}", flush=True)


def grouped(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Three volumes in each of `n` groups, which differ more than their volumes do."""
    values: NDArray[np.float64] = np.repeat(rng.normal(0.8, 0.05, n), 3)
    return values + rng.normal(0, 0.02, 3 * n)


def cover(kind: str, n: int, method: str, trials: int) -> tuple[float, float]:
    """The share of intervals that hold the true mean, and how wide they are."""
    draw, truth = SCORES[kind]
    config = EvaluationConfig.model_validate({"ci_method": method})
    rng, held, width = np.random.default_rng(0), 0, 0.0
    groups = [str(i // 3) for i in range(3 * n)] if kind == "groups of 3" else None
    for trial in range(trials):
        values = draw(rng, n).tolist()
        found = statistics.interval(
            values, config=config, seed=trial, groups=groups, within=statistics.range_of("dice")
        )
        assert found.lower is not None
        assert found.upper is not None
        held += found.lower <= truth <= found.upper
        width += found.upper - found.lower
    return held / trials, width / trials


def told(share: float, width: float) -> str:
    """`0.947 (0.171)`."""
    return f"{share:.3f} ({width:.3f})"


if __name__ == "__main__":
    main()
