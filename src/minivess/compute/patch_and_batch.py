"""Choose patch and batch: start at the tier, fit data and network, shrink to the memory."""

from __future__ import annotations

import math
from typing import Any

from minivess.compute.choices import MEMORY, found, given
from minivess.compute.memory.prediction import Footprint
from minivess.compute.patch import fitting, growing, nearest, shapes_of, step_down, within
from minivess.config import ExperimentConfig, TierConfig
from minivess.contracts import Choice, DatasetProfile, Shape
from minivess.errors import PlanError
from minivess.text import format_shape

ROUNDING_GB = 1e-6
WINDOW_GB = 0.5
"""What windows of prediction may take beyond the plan's need: cells still run in parallel."""
LARGE, THIN = 32, 8
"""Patches in the largest volume, and voxels of a patch's side, from where a window may be larger:
where a few thick patches are a volume, Dice was .15 lower in windows of a whole one."""


class PatchAndBatch:
    """Patch and batch within data and memory."""

    def __init__(
        self,
        config: ExperimentConfig,
        footprint: Footprint,
        profile: DatasetProfile,
        start: TierConfig,
    ) -> None:
        self.training = config.training
        self.strategy = config.compute.patch_strategy
        self.footprint = footprint
        self.network = footprint.network
        self.start = start
        self.divisor = footprint.divisor
        self.shapes = shapes_of(profile)
        self.largest = profile.max_shape
        self.budget_gb = 0.0
        self.n_train = 0
        self.notes: list[str] = []

    def shrunk_to(self, budget_gb: float, n_train: int) -> tuple[Shape, int]:
        """(patch, batch): the start, stepped down until step and window fit the budget."""
        self.budget_gb, self.n_train = budget_gb, n_train
        patch = self.first_patch()
        batch = self.first_batch(n_train)
        needed = self.needed(patch, batch)
        while needed > budget_gb + ROUNDING_GB:
            down = self._down(patch, batch)
            if down is None:
                raise self._too_large(patch, batch, needed)
            patch, batch = down
            needed = self.needed(patch, batch)
            self.notes = [f"shrunk until it needs under 80 % of the free memory ({needed:.1f} GB)"]
        if not self.footprint.accepts(patch, batch):
            raise self._refused(patch)
        return patch, batch

    def least_gb(self, n_train: int) -> float:
        """What the smallest plan needs that may be stepped down to."""
        smallest = self.first_patch(), self.first_batch(n_train)
        while (down := self._down(*smallest)) is not None:
            smallest = down
        return self.needed(*smallest)

    def _down(self, patch: Shape, batch: int) -> tuple[Shape, int] | None:
        return step_down(
            patch,
            batch,
            divisor=self.divisor,
            keep_patch=self.training.patch_size != "auto",
            keep_batch=self.training.batch_size != "auto",
        )

    def needed(self, patch: Shape, batch: int) -> float:
        """GiB of a training process at its worst: a step, or the judgement of a volume."""
        asked = self.training.prediction_window
        window = patch if asked == "auto" else asked
        return max(
            self.footprint.step_gb(patch, batch), self.footprint.window_gb(window, self.largest)
        )

    # --- where it starts ------------------------------------------------------------------

    def first_patch(self) -> Shape:
        """The patch before memory is looked at."""
        if self.training.patch_size != "auto":
            return self.given_patch(self.training.patch_size)
        sides = [min(axis)[0] for axis in self._bounds()]
        return fitting((sides[0], sides[1], sides[2]), self.divisor, self.shapes)

    def _bounds(self) -> list[list[tuple[int, str]]]:
        """For each axis, what it may not exceed and the name of that limit."""
        xy, z = self.network.limits.max_patch_xy, self.network.limits.max_patch_z
        bounds = []
        for axis, (side, most) in enumerate(zip(self.start.patch_size, (xy, xy, z), strict=True)):
            extents = sorted((shape[axis], case) for case, shape in self.shapes.items())
            if self.strategy == "median_pad":
                volume = (extents[len(extents) // 2][0], "the median volume")
            else:
                volume = extents[0]
            model = [] if most is None else [(most, f"configs/models/{self.network.name}.yaml")]
            # A tier says where to start, not that a network of coarse steps is out of question.
            side = max(side, self.divisor[axis])
            bounds.append([(side, f"tier {self.start.name}"), volume, *model])
        return bounds

    def given_patch(self, patch: Shape) -> Shape:
        """The user's patch, unless it does not divide or does not fit.

        Raises:
            PlanError: naming the nearest patch that does.
        """
        smallest = min(self.shapes, key=lambda case: min(self._slack(case, patch)))
        limits = self.network.limits
        most = (limits.max_patch_xy, limits.max_patch_xy, limits.max_patch_z)
        x, y, z = (min(side, m or side) for side, m in zip(patch, most, strict=True))
        if any(side % step for side, step in zip(patch, self.divisor, strict=True)):
            problem = (
                f"is not divisible by {format_shape(self.divisor)}, which {self.network.name} needs"
            )
        elif min(self._slack(smallest, patch)) < 0:
            problem = (
                f"does not fit {smallest}, which has {format_shape(self.shapes[smallest])} voxels"
            )
        elif patch != (x, y, z):
            problem = f"is larger than configs/models/{self.network.name}.yaml allows"
        else:
            return patch
        near = nearest((x, y, z), self.divisor, self.shapes)
        raise PlanError(
            f"training.patch_size={format_shape(patch)} {problem}.",
            remedy=f"'training.patch_size=[{near[0]},{near[1]},{near[2]}]', or leave it out",
        )

    def _slack(self, case: str, patch: Shape) -> tuple[int, ...]:
        return tuple(a - b for a, b in zip(self.shapes[case], patch, strict=True))

    def first_batch(self, n_train: int) -> int:
        """The batch before memory is looked at: never more patches than an epoch has."""
        if self.training.batch_size != "auto":
            return self.training.batch_size
        return max(1, min(self.start.batch_size, n_train * self.training.samples))

    def first_window(self, patch: Shape, batch: int) -> Shape:
        """The window of prediction: the one given, or the patch doubled while memory allows.

        Norms see more of a volume in a larger window: where a dark one holds no vessel, they would
        make vessels of its noise. Where a few patches are a volume only thin sides grow.

        Raises:
            PlanError: the one given does not divide.
        """
        asked = self.training.prediction_window
        if asked != "auto":
            return self._given_window(asked)
        large = math.prod(self.largest) > LARGE * math.prod(patch)
        most = [
            -(-extent // step) * step if large or side < THIN else side
            for extent, step, side in zip(self.largest, self.divisor, patch, strict=True)
        ]
        limit_gb = min(self.budget_gb, self.needed(patch, batch) + WINDOW_GB)
        window = patch
        while True:
            x, y, z = (
                max(side, min(2 * side, end)) for side, end in zip(window, most, strict=True)
            )
            if (x, y, z) == window or self.footprint.window_gb((x, y, z), self.largest) > limit_gb:
                return window
            window = (x, y, z)

    def _given_window(self, window: Shape) -> Shape:
        x, y, z = (
            max(1, round(side / step)) * step
            for side, step in zip(window, self.divisor, strict=True)
        )
        if (x, y, z) == window:
            return window
        raise PlanError(
            f"training.prediction_window={format_shape(window)} is not divisible by "
            f"{format_shape(self.divisor)}, which {self.network.name} needs.",
            remedy=f"'training.prediction_window=[{x},{y},{z}]', or leave it out",
        )

    def schedule(self, patch: Shape) -> tuple[Shape, ...]:
        """The patches of a training, that of the plan last.

        Raises:
            PlanError: one that is given does not divide, or is no part of the plan's.
        """
        asked = self.training.patch_schedule
        if asked == "none":
            return (patch,)
        if asked == "growing":
            smaller = growing(patch, self.divisor)
            return *(one for one in smaller if self.footprint.accepts(one, 1)), patch
        for one in asked:
            self._require_part(one, patch)
        return *asked, patch

    def _require_part(self, part: Shape, patch: Shape) -> None:
        divides = not any(side % step for side, step in zip(part, self.divisor, strict=True))
        if within(part, patch) and divides and self.footprint.accepts(part, 1):
            return
        x, y, z = (
            max(step, min(side // step * step, most))
            for side, step, most in zip(part, self.divisor, patch, strict=True)
        )
        problem = (
            f"does not divide by {format_shape(self.divisor)} or leaves too little at the deepest "
            f"level of {self.network.name}"
            if within(part, patch)
            else f"is larger than the last patch, {format_shape(patch)}, which fits every volume"
        )
        raise PlanError(
            f"{format_shape(part)} in training.patch_schedule {problem}.",
            remedy=f"give [{x},{y},{z}] in its place, or training.patch_schedule=growing",
        )

    def schedule_choice(self, patches: tuple[Shape, ...]) -> dict[str, Choice]:
        """Why these patches one after the other; nothing where there is one."""
        asked = self.training.patch_schedule
        if asked == "none":
            return {}
        words = [f"[{x},{y},{z}]" for x, y, z in patches[:-1]]
        made = given("patch_schedule", "growing" if asked == "growing" else f"[{','.join(words)}]")
        sides = ", ".join(map(format_shape, patches))
        return {
            "patch_schedule": made.replace(value=sides, override="training.patch_schedule=none")
        }

    # --- why ------------------------------------------------------------------------------

    def patch_choice(self, patch: Shape, batch: int) -> Choice:
        """Why this patch."""
        axis = max(range(3), key=lambda axis: patch[axis])  # what a step down takes from
        x, y, z = (side + self.divisor[i] * (i == axis) for i, side in enumerate(patch))
        more = self._more(format_shape((x, y, z)), (x, y, z), batch)
        if self.training.patch_size != "auto":
            return given("patch_size", patch).replace(more=more)
        limit = "median" if self.strategy == "median_pad" else "smallest"
        reason = (
            f"tier {self.start.name} starts with {format_shape(self.start.patch_size)}; within the "
            f"{limit} volume, in multiples of {format_shape(self.divisor)} (strides of "
            f"{self.network.name})"
        )
        return self._sized("patch_size", patch, reason, bound=self._patch_bound(patch), more=more)

    def window_choice(self, patch: Shape, batch: int) -> Choice:
        """Why windows of this size over a whole volume."""
        window = self.first_window(patch, batch)
        if self.training.prediction_window != "auto":
            return given("prediction_window", window)
        reason = (
            "the patch; in volumes of many patches, or along its thin sides, doubled up to the "
            "largest volume while memory allows: norms see more"
        )
        return found(
            "prediction_window", window, reason, bound="the largest volume or memory", more=""
        )

    def batch_choice(self, patch: Shape, batch: int) -> Choice:
        """Why this batch."""
        more = self._more(str(batch + 1), patch, batch + 1)
        if self.training.batch_size != "auto":
            return given("batch_size", batch).replace(more=more)
        tier = f"tier {self.start.name}"
        bound = tier if batch == self.start.batch_size else "patches of an epoch"
        if batch < self.first_batch(self.n_train):
            bound = MEMORY
        reason = f"{tier} starts with {self.start.batch_size}"
        return self._sized("batch_size", batch, reason, bound=bound, more=more)

    def _sized(self, name: str, value: Any, reason: str, *, bound: str, more: str) -> Choice:
        shrunk = self.notes if bound == MEMORY else []
        return found(name, value, "; ".join([reason, *shrunk]), bound=bound, more=more)

    def _more(self, name: str, patch: Shape, batch: int) -> str:
        needed = self.needed(patch, batch)
        return f"{name} would need {needed:.2f} GB of {self.budget_gb:.2f} GB"

    def _patch_bound(self, patch: Shape) -> str:
        if self.notes and patch != self.first_patch():
            return MEMORY
        names = [min(axis)[1] for axis in self._bounds()]
        together = {name: "".join("xyz"[i] for i, n in enumerate(names) if n == name) for name in
                    dict.fromkeys(names)}  # fmt: skip
        return ", ".join(f"{name} along {axes}" for name, axes in together.items())

    # --- refusals -------------------------------------------------------------------------

    def _too_large(self, patch: Shape, batch: int, needed: float) -> PlanError:
        judging = needed > self.footprint.step_gb(patch, batch)
        lighter = "losses that take less over a whole volume (training.losses=[dice_ce])"
        what = f"Judging a volume of {format_shape(self.largest)} by" if judging else "A step of"
        return PlanError(
            f"{what} {self.network.name} with patch {format_shape(patch)} and batch {batch} needs "
            f"{needed * 1024:.0f} MB, and {self.budget_gb * 1024:.0f} MB may be used.",
            remedy=f"{lighter if judging else 'a smaller network (model.filters=[8,16,32])'}, "
            f"{'' if judging else 'training.gradient_checkpointing=true, '}"
            "a lower training.cache_rate, or close other programs",
        )

    def _refused(self, patch: Shape) -> PlanError:
        return PlanError(
            f"{self.network.name} takes no patch of {format_shape(patch)}: at its deepest level "
            "one voxel would be left.",
            remedy="fewer levels (model.filters=[8,16,32]), or leave out training.patch_size",
        )
