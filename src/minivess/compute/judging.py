"""Decide how much of the validation volumes is judged, how often, and how long an epoch is.

Costs are counted in windows of the sliding window, not in seconds: how busy the machine is when a
plan is made changes nothing that a training decides.
"""

from __future__ import annotations

import math
import statistics
from typing import Literal, NamedTuple

from minivess import inference
from minivess.compute.choices import found, given
from minivess.compute.patch import shapes_of
from minivess.config import ExperimentConfig, TrainingConfig
from minivess.contracts import Choice, ComputePlan, DatasetProfile, Shape


class Sizes(NamedTuple):
    """What the cost of judging depends on."""

    patch: Shape
    window: Shape
    divisor: Shape


STEP = 3.0
"""Windows in the time of one patch of a step: forward, backward, update."""
BETWEEN, AT_END = 0.04, 0.05
"""Shares of the time of the steps for judging after epochs, and for whole volumes at the end."""
REPORTED = 2.0
"""Windows in the time of one in float32 with all metrics of its voxels, as volumes are judged at
the end."""
LARGE = 32
"""Windows of a volume from which on judging it takes longer than training on it."""
LONGER = "time goes into steps"
POINTS = 10
"""Judgements of a training, at least, where it has so many epochs."""
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.06, 0.03, 0.015, 0.007, 0.003, 0.001)


def part(shape: Shape, patch: Shape, share: float) -> Shape:
    """The sides of about this share of a volume, at least those of a patch."""
    root = share ** (1 / 3)
    x, y, z = (
        min(extent, max(side, math.ceil(root * extent)))
        for extent, side in zip(shape, patch, strict=True)
    )
    return x, y, z


def windows(config: ExperimentConfig, profile: DatasetProfile, sizes: Sizes, share: float) -> float:
    """Passes over a patch for a volume in the mean, or for a share of it."""
    window = inference.window_for(config, sizes.window, profile.volumes)
    parts = [part(shape, sizes.patch, share) for shape in shapes_of(profile).values()]
    voxels = [
        inference.windows(sides, window, sizes.divisor)
        * math.prod(inference.roi(sides, window, sizes.divisor))
        for sides in parts
    ]
    return inference.passes(window) * statistics.fmean(voxels) / math.prod(sizes.patch)


def n_val(config: ExperimentConfig, profile: DatasetProfile, n_train: int) -> float:
    """Volumes that validate beside so many that train; of a refit, which has none, as in a fold."""
    left = (1 - config.training.test_fraction) * profile.n_volumes - n_train
    return left if left >= 1 else n_train / (config.training.folds - 1)


def iterations(
    config: ExperimentConfig, n_train: int, batch: int, whole: float = 0.0, volumes: float = 0.0
) -> Choice:
    """Optimizer updates in an epoch of a fold that trains on `n_train`.

    Each patch sample once; where a volume has many windows (`whole`) so many that judging so
    many volumes after the last epoch takes a twentieth of the time.
    """
    training = config.training
    if training.iterations_per_epoch != "auto":
        return given("iterations_per_epoch", training.iterations_per_epoch)
    per_step = batch * training.accumulation_steps
    count = max(1, math.ceil(n_train * training.samples / per_step))
    end = REPORTED * whole * volumes
    longer = math.ceil(end / (AT_END * STEP * training.max_epochs * per_step))
    if training.samples_per_volume == "auto" and whole > LARGE and longer > count:
        return found(
            "iterations_per_epoch",
            longer,
            f"a volume has {whole:.0f} windows; judging {volumes:.0f} whole ones at "
            f"the end takes {AT_END:.0%} of the time of {training.max_epochs} epochs",
            bound=LONGER,
            more=f"each of {training.samples} patches of a volume once would be {count}",
        )
    samples = count * per_step // n_train + 1
    return found(
        "iterations_per_epoch",
        count,
        f"{n_train} volumes x {training.samples} patches, {per_step} in each update",
        bound="each patch once",
        more=f"{count + 1} would need training.samples_per_volume={samples}",
    )


def decides(training: TrainingConfig) -> bool:
    """Whether figures of the epochs decide weights: then whole volumes are judged."""
    return training.judged_epoch == "best" or training.early_stopping_patience > 0


def chosen(
    config: ExperimentConfig,
    profile: DatasetProfile,
    sizes: Sizes,
    *,
    n_train: int,
    patches: float,
) -> dict[str, Choice]:
    """How often, and how much of each volume is judged after epochs of so many patches.

    Smaller patches of a schedule count as parts of one.
    """
    training, volumes = config.training, n_val(config, profile, n_train)
    allowed = BETWEEN * STEP * patches

    def cost(share: float) -> float:
        return volumes * windows(config, profile, sizes, share)

    cheapest = (share for share in SHARES if cost(share) <= allowed)
    default = 1.0 if decides(training) else next(cheapest, SHARES[-1])
    asked = training.validation_share, training.validation_interval
    share: float = default if asked[0] == "auto" else asked[0]
    most = max(1, training.max_epochs // POINTS)
    interval: int = min(math.ceil(cost(share) / allowed), most) if asked[1] == "auto" else asked[1]
    why = (
        f"{'the figures decide; ' if decides(training) else ''}judging takes about "
        f"{cost(share) / interval / (STEP * patches):.1%} of the time of the steps"
    )
    return {
        "validation_interval": _choice(training, "validation_interval", interval, why),
        "validation_share": _choice(training, "validation_share", share, why),
    }


def _choice(
    training: TrainingConfig,
    name: Literal["validation_interval", "validation_share"],
    value: float,
    why: str,
) -> Choice:
    if getattr(training, name) != "auto":
        return given(name, value)
    return found(name, value, why, bound=LONGER, more="the end judges all, whole")


def for_fold(plan: ComputePlan, config: ExperimentConfig, n_train: int) -> ComputePlan:
    """The plan with the updates of a fold that trains on so many volumes."""
    choice = iterations(config, n_train, plan.batch_size, plan.windows, plan.n_val)
    return plan.replace(
        iterations_per_epoch=choice.value,
        choices=plan.choices | {"iterations_per_epoch": choice},
    )
