"""Error rates of the statistics of an analysis, by simulation with known truth.

Coverage of intervals called 95 %, false positives of the sign-flip test alone and after Holm,
coverage of effect sizes, power at the detectable difference, bias of the champion's value.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from minivess.analysis import champion, paired
from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import Comparison, Scores, VolumeMetrics
from minivess.evaluation import statistics
from minivess.names import PRIMARY

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
    parser.add_argument("--choices", type=int, default=200)
    options = parser.parse_args()
    print(f"{options.trials} trials; share of intervals that hold the true mean (mean width)")
    for n in SIZES:
        for kind in SCORES:
            found = [f"{m} {told(*cover(kind, n, m, options.trials))}" for m in METHODS]
            print(f"  n = {n:<3} {kind:<20} {'   '.join(found)}", flush=True)
    print(
        "pairs: p < 0.05 at equal truth, sign flip and t test; the same for any of 6 pairs, Holm;"
    )
    print("       intervals that exclude 0; coverage of the effect; power at the detectable gap")
    for n in SIZES:
        for kind, draw in GAPS.items():
            print(f"  n = {n:<3} {kind:<20} {pairs(draw, n, options.trials)}", flush=True)
    print("the champion of k families: picked minus true, expected minus true")
    for n in SIZES:
        for k, spread in ((2, 0.0), (2, 0.02), (8, 0.0), (8, 0.02)):
            found_bias = "  ".join(f"{b:+.4f}" for b in choice_bias(n, k, spread, options.choices))
            print(f"  n = {n:<3} k = {k} truths +- {spread}: {found_bias}", flush=True)


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


GAPS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "uniform": lambda rng, n: rng.uniform(-1.7, 1.7, n),
    "heavy tails": lambda rng, n: rng.standard_t(4, n) / np.sqrt(2),
    "skewed": lambda rng, n: rng.gamma(4, 0.5, n) - 2,
    "groups of 3": lambda rng, n: np.repeat(rng.normal(0, 1, n), 3) + rng.normal(0, 0.4, 3 * n),
}
"""Differences of mean 0 and standard deviation of about 1."""


def scores(name: str, values: NDArray[np.float64], groups: list[str] | None = None) -> Scores:
    """A judgement with these values of the primary metric."""
    volumes = tuple(
        VolumeMetrics(
            case=f"v{place}", group=groups[place] if groups else None, values={PRIMARY: value}
        )
        for place, value in enumerate(values.tolist())
    )
    found = statistics.interval(values.tolist(), config=CONFIG.evaluation)
    return Scores(
        name=name,
        members=(name,),
        trainable_parameters=1,
        intervals={PRIMARY: found},
        volumes=volumes,
    )


CONFIG = ExperimentConfig.model_validate({"evaluation": {"bootstrap_n": 400}})


def pairs(draw: Draw, n: int, trials: int) -> str:
    """Error rates of the comparison of a pair, and of six pairs among four families."""
    from scipy import stats

    rng = np.random.default_rng(1)
    hits = dict.fromkeys(("flip", "t", "any of 6", "CI", "effect", "power"), 0)
    for _ in range(trials):
        gap, shift = draw(rng, n), 0.8
        groups = [str(i // (len(gap) // n)) for i in range(len(gap))] if len(gap) > n else None
        zero = scores("zero", np.zeros(len(gap)), groups)
        null = paired.compare(scores("null", gap, groups), zero, CONFIG)
        hits["flip"] += rejected(null.p_value)
        units = gap.reshape(n, -1).mean(axis=1)
        hits["t"] += stats.ttest_1samp(units, 0).pvalue < 0.05
        hits["CI"] += not null.tied
        moved = paired.compare(scores("moved", gap + shift, groups), zero, CONFIG)
        assert moved.effect is not None
        assert null.detectable is not None
        true_effect = shift / (1.0 if groups is None else np.sqrt(1 + 0.16 / 3))
        assert moved.effect.lower is not None
        assert moved.effect.upper is not None
        hits["effect"] += moved.effect.lower <= true_effect <= moved.effect.upper
        known = null.detectable * expected_error(draw, n) / error_of(gap, n)
        hits["power"] += not paired.compare(scores("more", gap + known, groups), zero, CONFIG).tied
        table = [scores(str(k), draw(rng, n), groups) for k in range(4)]
        found: tuple[Comparison, ...] = paired.every_pair(table, CONFIG)
        hits["any of 6"] += any(rejected(one.p_holm) for one in found)
    return "  ".join(f"{name} {hit / trials:.3f}" for name, hit in hits.items())


def rejected(p_value: float | None) -> bool:
    """Whether a p-value is below 0.05."""
    return p_value is not None and p_value < 0.05


def error_of(gap: NDArray[np.float64], n: int) -> float:
    """Standard error of the mean over units."""
    return float(gap.reshape(n, -1).mean(axis=1).std(ddof=1) / np.sqrt(n))


def expected_error(draw: Draw, n: int) -> float:
    """The true standard error, from many draws."""
    rng = np.random.default_rng(2)
    return float(np.std([draw(rng, n).mean() for _ in range(500)]))


def choice_bias(n: int, k: int, spread: float, trials: int) -> tuple[float, float]:
    """How far the champion's mean, and its expected value, lie above its true mean."""
    rng, found = np.random.default_rng(3), []
    for _ in range(trials):
        truth = 0.8 + spread * rng.standard_normal(k)
        difficulty = rng.normal(0, 0.08, n)
        values = truth[:, None] + difficulty + rng.normal(0, 0.03, (k, n))
        judged = [scores(str(row), one) for row, one in enumerate(values)]
        chosen = champion.choose(judged, CONFIG, {str(row): "run" for row in range(k)})
        again = champion.select_again(judged, CONFIG)
        assert again is not None
        assert again.expected is not None
        true = truth[int(chosen.family)] + difficulty.mean()  # which both share
        found.append((chosen.value - true, again.expected - true))
    picked, expected = np.mean(found, axis=0)
    return float(picked), float(expected)


def told(share: float, width: float) -> str:
    """`0.947 (0.171)`."""
    return f"{share:.3f} ({width:.3f})"


if __name__ == "__main__":
    main()
