"""Patch and batch: from the tier, within the data, in steps of the network, under the memory."""

from __future__ import annotations

from minivess import networks
from minivess.compute import memory
from minivess.compute.budget import Precision
from minivess.compute.patch import fitting, nearest, shape_text, shapes_of, step_down
from minivess.config import ExperimentConfig, TierConfig
from minivess.contracts import Choice, DatasetProfile, Network, Shape
from minivess.errors import PlanError


class Sizes:
    """Patch and batch within data and memory."""

    def __init__(
        self,
        config: ExperimentConfig,
        network: Network,
        profile: DatasetProfile,
        start: TierConfig,
        precision: Precision,
    ) -> None:
        self.training = config.training
        self.strategy = config.compute.patch_strategy
        self.network = network
        self.start = start
        self.precision = precision
        self.divisor = networks.divisor(network)
        self.shapes = shapes_of(profile)
        self.notes: list[str] = []

    def shrunk_to(self, budget_gb: float, n_train: int) -> tuple[Shape, int, float]:
        """(patch, batch, predicted GiB): the start, stepped down until it fits the budget."""
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
                raise self._too_large(patch, batch, needed, budget_gb)
            patch, batch = down
            needed = self.needed(patch, batch)
            self.notes = [
                f"shrunk until a step needs under 80 % of the free memory ({needed:.1f} GB)"
            ]
        if not networks.accepts(self.network, patch, batch):
            raise self._refused(patch)
        return patch, batch, needed

    def first_patch(self) -> Shape:
        """The patch before memory is looked at."""
        if self.training.patch_size != "auto":
            return self.given_patch(self.training.patch_size)
        axes = list(zip(*self.shapes.values(), strict=True))
        if self.strategy == "median_pad":
            limit = tuple(sorted(axis)[len(axis) // 2] for axis in axes)
        else:
            limit = tuple(min(axis) for axis in axes)
        wanted = [min(a, b) for a, b in zip(self.start.patch_size, limit, strict=True)]
        return fitting((wanted[0], wanted[1], wanted[2]), self.divisor, self.shapes)

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

    def needed(self, patch: Shape, batch: int) -> float:
        """GiB of a step."""
        return memory.predict(
            self.network,
            patch=patch,
            batch=batch,
            precision=self.precision,
            optimizer=self.training.optimizer,
            checkpointing=self.training.gradient_checkpointing,
        )

    def patch_choice(self, patch: Shape) -> Choice:
        """Why this patch."""
        override = f"'training.patch_size=[{patch[0]},{patch[1]},{patch[2]}]'"
        if self.training.patch_size != "auto":
            reason = f"given as training.patch_size={shape_text(patch)}"
        else:
            limit = "the median volume" if self.strategy == "median_pad" else "the smallest volume"
            reason = "; ".join(
                [
                    f"{shape_text(self.start.patch_size)} of tier {self.start.name}, "
                    f"within {limit}, in multiples of {shape_text(self.divisor)} "
                    f"(strides of {self.network.name})",
                    *self.notes,
                ]
            )
        return Choice(value=patch, reason=reason, override=override)

    def batch_choice(self, batch: int) -> Choice:
        """Why this batch."""
        if self.training.batch_size != "auto":
            return _batch(batch, f"given as training.batch_size={batch}")
        reasons = [f"{self.start.batch_size} of tier {self.start.name}", *self.notes]
        return _batch(batch, "; ".join(reasons))

    def _too_large(self, patch: Shape, batch: int, needed: float, budget: float) -> PlanError:
        return PlanError(
            f"A step of {self.network.name} with patch {shape_text(patch)} and batch {batch} needs "
            f"{needed * 1024:.0f} MB, and {budget * 1024:.0f} MB may be used.",
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


def _batch(batch: int, reason: str) -> Choice:
    return Choice(value=batch, reason=reason, override=f"training.batch_size={batch}")
