"""Conformal risk control: thresholds of the foreground probability whose expected loss is bounded.

Angelopoulos et al. 2024: with n exchangeable volumes, losses of 0 to 1 that grow in one direction,
and (sum of losses + 1) / (n + 1) at most alpha, the expected loss of a new volume is at most alpha.
Of volumes in groups, groups are exchangeable: losses are means over each, and so is the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from minivess.contracts import LossName, Risk

Losses = NDArray[np.float64]
"""(volumes or groups, thresholds)"""
STEPS = 255
SPLITS = 200
HELD_OUT = 0.2
LOSSES: tuple[LossName, ...] = get_args(LossName)


def curves(
    foreground: NDArray[np.float32], truth: NDArray[np.bool_], annotated: NDArray[np.bool_],
    centreline: NDArray[np.integer[Any]],
) -> dict[LossName, NDArray[np.float64]]:  # fmt: skip
    """Return each loss of a volume at thresholds 0, 1/255, ... 1 and one above, in steps.

    Missed voxels of the foreground or of its centreline are shares of these; false foreground is
    counted against the size of the true one, at most 1.
    """
    levels = np.rint(foreground * STEPS).astype(np.uint8)
    size = int(truth.sum())
    false = _below(levels[annotated & ~truth])
    too_much = np.minimum((false[-1] - false) / size, 1) if size else 1.0 * (false < false[-1])
    return {
        "missed_foreground": _below(levels[truth]) / max(size, 1),
        "false_foreground": too_much,
        "missed_centreline": _below(levels[tuple(centreline.T)]) / max(len(centreline), 1),
    }


def _below(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How many lie below each threshold."""
    return np.concatenate([[0.0], np.bincount(levels, minlength=STEPS + 1).cumsum()])


def choose(losses: Losses, alpha: float, *, rising: bool) -> int | None:
    """Return the threshold, in steps, that is nearest to no loss of the other kind.

    Args:
        rising: whether the loss grows with the threshold.

    Returns:
        None if no threshold keeps the bound, because alpha is below 1 / (n + 1).
    """
    allowed = np.flatnonzero(bound(losses) <= alpha)
    return None if not len(allowed) else int(allowed[-1 if rising else 0])


def bound(losses: Losses) -> NDArray[np.float64]:
    """Return what the expected loss of a new volume is at most, by threshold."""
    found: NDArray[np.float64] = (losses.sum(axis=0) + 1) / (len(losses) + 1)
    return found


def control(losses: Mapping[LossName, Losses], alpha: float, *, grouped: bool) -> tuple[Risk, ...]:
    """Choose a threshold for each loss, and simulate it on volumes or groups held out."""
    return tuple(_control(name, losses, alpha, grouped=grouped) for name in LOSSES)


def _control(
    name: LossName, losses: Mapping[LossName, Losses], alpha: float, *, grouped: bool
) -> Risk:
    n, rising = len(losses[name]), name != "false_foreground"
    step = choose(losses[name], alpha, rising=rising)
    held = {} if step is None else simulate(losses, name, alpha, rising=rising)
    return Risk(
        loss=name,
        alpha=alpha,
        n=n,
        unit="group" if grouped else "volume",
        smallest_alpha=1 / (n + 1),
        # The service rounds to steps as well.
        threshold=None if step is None else max(0.0, (step - 0.5) / STEPS),
        bound=None if step is None else float(bound(losses[name])[step]),
        splits=SPLITS if held else 0,
        simulated=float(held[name].mean()) if held else None,
        within=float((held[name] <= alpha).mean()) if held else None,
        others={other: float(each.mean()) for other, each in held.items() if other != name},
    )


def simulate(
    losses: Mapping[LossName, Losses], name: LossName, alpha: float, *, rising: bool
) -> dict[LossName, NDArray[np.float64]]:
    """Choose on four fifths and look at the others, many times; empty if four fifths are too few.

    Returns:
        Every loss of each unit held out, at the threshold that bounds the loss `name`.
    """
    n, rng = len(losses[name]), np.random.default_rng(0)
    left_out = max(1, int(HELD_OUT * n))
    found: dict[LossName, list[NDArray[np.float64]]] = {loss: [] for loss in losses}
    for _ in range(SPLITS if n > left_out else 0):
        order = rng.permutation(n)
        step = choose(losses[name][order[left_out:]], alpha, rising=rising)
        if step is None:
            return {}
        for loss, each in losses.items():
            found[loss].append(each[order[:left_out], step])
    return {loss: np.concatenate(each) for loss, each in found.items() if each}
