"""Patch and batch: from the tier, within the data, in steps of the network, under the memory."""

from __future__ import annotations

from minivess.compute.footprint import Footprint
from minivess.compute.patch import fitting, nearest, shape_text, shapes_of, step_down
from minivess.config import ExperimentConfig, TierConfig
from minivess.contracts import Choice, DatasetProfile, Shape
from minivess.errors import PlanError

USER, MEMORY = "your setting", "memory"


class Sizes:
    """Patch and batch within data and memory."""

    def __init__(
        self,
        config: ExperimentConfig,
        found: Footprint,
        profile: DatasetProfile,
        start: TierConfig,
    ) -> None:
        self.training = config.training
        self.strategy = config.compute.patch_strategy
        self.found = found
        self.network = found.network
        self.start = start
        self.divisor = found.divisor
        self.shapes = shapes_of(profile)
        self.largest = profile.max_shape
        self.budget_gb = 0.0
        self.notes: list[str] = []

    def shrunk_to(self, budget_gb: float, n_train: int) -> tuple[Shape, int]:
        """(patch, batch): the start, stepped down until step and window fit the budget."""
        self.budget_gb = budget_gb
        patch = self.first_patch()
        batch = self.first_batch(n_train)
        needed = self.needed(patch, batch)
        while needed > budget_gb:
            down = step_down(
                patch,
                batch,
                divisor=self.divisor,
                keep_patch=self.training.patch_size != "auto",
                keep_batch=self.training.batch_size != "auto",
            )
            if down is None:
                raise self._too_large(patch, batch, needed)
            patch, batch = down
            needed = self.needed(patch, batch)
            self.notes = [f"shrunk until it needs under 80 % of the free memory ({needed:.1f} GB)"]
        if not self.found.accepts(patch, batch):
            raise self._refused(patch)
        return patch, batch

    def needed(self, patch: Shape, batch: int) -> float:
        """GiB of a training process at its worst: a step, or the judgement of a volume."""
        return max(self.found.step_gb(patch, batch), self.found.window_gb(patch, self.largest))

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
                volume = (extents[len(extents) // 2][0], "median volume")
            else:
                volume = (extents[0][0], f"smallest volume ({extents[0][1]})")
            model = [] if most is None else [(most, f"configs/models/{self.network.name}.yaml")]
            bounds.append([(side, f"tier {self.start.name}"), volume, *model])
        return bounds

    def given_patch(self, patch: Shape) -> Shape:
        """The user's patch, unless it does not divide or does not fit.

        Raises:
            PlanError: naming the nearest patch that does.
        """
        smallest = min(self.shapes, key=lambda case: min(self._slack(case, patch)))
        if any(side % step for side, step in zip(patch, self.divisor, strict=True)):
            problem = (
                f"is not divisible by {shape_text(self.divisor)}, which {self.network.name} needs"
            )
        elif min(self._slack(smallest, patch)) < 0:
            problem = (
                f"does not fit {smallest}, which has {shape_text(self.shapes[smallest])} voxels"
            )
        else:
            return patch
        near = nearest(patch, self.divisor, self.shapes)
        raise PlanError(
            f"training.patch_size={shape_text(patch)} {problem}.",
            remedy=f"'training.patch_size=[{near[0]},{near[1]},{near[2]}]', or leave it out",
        )

    def _slack(self, case: str, patch: Shape) -> tuple[int, ...]:
        return tuple(a - b for a, b in zip(self.shapes[case], patch, strict=True))

    def first_batch(self, n_train: int) -> int:
        """The batch before memory is looked at: never more patches than an epoch has."""
        if self.training.batch_size != "auto":
            return self.training.batch_size
        return max(1, min(self.start.batch_size, n_train * self.training.samples_per_volume))

    # --- why ------------------------------------------------------------------------------

    def patch_choice(self, patch: Shape, batch: int) -> Choice:
        """Why this patch."""
        given = self.training.patch_size != "auto"
        limit = "the median volume" if self.strategy == "median_pad" else "the smallest volume"
        reasons = [
            f"{shape_text(self.start.patch_size)} of tier {self.start.name}, "
            f"within {limit}, in multiples of {shape_text(self.divisor)} "
            f"(strides of {self.network.name})",
            *self.notes,
        ]
        return Choice(
            value=patch,
            reason=f"given as training.patch_size={shape_text(patch)}"
            if given
            else "; ".join(reasons),
            override=f"'training.patch_size=[{patch[0]},{patch[1]},{patch[2]}]'",
            bound=USER if given else self._patch_bound(patch),
            more=self._more(*self._next_patch(patch), batch),
        )

    def _patch_bound(self, patch: Shape) -> str:
        if self.notes and patch != self.first_patch():
            return MEMORY
        names = [min(axis)[1] for axis in self._bounds()]
        together = {name: "".join("xyz"[i] for i, n in enumerate(names) if n == name) for name in
                    dict.fromkeys(names)}  # fmt: skip
        return ", ".join(f"{name} along {axes}" for name, axes in together.items())

    def _next_patch(self, patch: Shape) -> tuple[str, Shape]:
        """The largest axis with one divisor more: what a step down takes away."""
        axis = max(range(3), key=lambda axis: patch[axis])
        sides = [side + self.divisor[axis] * (i == axis) for i, side in enumerate(patch)]
        larger = (sides[0], sides[1], sides[2])
        return shape_text(larger), larger

    def _more(self, name: str, patch: Shape, batch: int) -> str:
        needed = self.needed(patch, batch)
        return f"{name} would need {needed:.2f} GB of {self.budget_gb:.2f} GB"

    def batch_choice(self, patch: Shape, batch: int) -> Choice:
        """Why this batch."""
        given = self.training.batch_size != "auto"
        reasons = [f"{self.start.batch_size} of tier {self.start.name}", *self.notes]
        bound = MEMORY if self.notes and batch < self.start.batch_size else self.start.name
        return Choice(
            value=batch,
            reason=f"given as training.batch_size={batch}" if given else "; ".join(reasons),
            override=f"training.batch_size={batch}",
            bound=USER if given else bound if bound == MEMORY else f"tier {bound}",
            more=self._more(str(batch + 1), patch, batch + 1),
        )

    # --- refusals -------------------------------------------------------------------------

    def _too_large(self, patch: Shape, batch: int, needed: float) -> PlanError:
        judging = needed > self.found.step_gb(patch, batch)
        what = f"Judging a volume of {shape_text(self.largest)} by" if judging else "A step of"
        return PlanError(
            f"{what} {self.network.name} with patch {shape_text(patch)} and batch {batch} needs "
            f"{needed * 1024:.0f} MB, and {self.budget_gb * 1024:.0f} MB may be used.",
            remedy="a smaller network (model.filters=[8,16,32]), "
            "training.gradient_checkpointing=true, a lower training.cache_rate, "
            "or close other programs",
        )

    def _refused(self, patch: Shape) -> PlanError:
        return PlanError(
            f"{self.network.name} takes no patch of {shape_text(patch)}: at its deepest level "
            "one voxel would be left.",
            remedy="fewer levels (model.filters=[8,16,32]), or leave out training.patch_size",
        )
