"""Volumes cached in memory, and training batches prepared ahead by threads.

Which volume, which patch and which augmentation stand at a place of an epoch is a function of
(seed, epoch, place), so neither the number of threads nor a restart changes a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Self

import numpy as np
import torch
from monai.data.dataset import CacheDataset
from monai.transforms.compose import Compose
from numpy.typing import NDArray

from minivess.config import ExperimentConfig, TrainingConfig
from minivess.contracts import Case, CellSpec, ComputePlan, Shape
from minivess.errors import DataError, MinivessError
from minivess.training import distributed, transforms


@dataclass(frozen=True)
class Batch:
    """Patches of one step: image (B, 1, X, Y, Z) float32, label (B, 1, X, Y, Z) uint8."""

    cases: tuple[str, ...]
    image: torch.Tensor
    label: torch.Tensor


def validation_volumes(
    spec: CellSpec, plan: ComputePlan, config: ExperimentConfig, cases: Mapping[str, Case]
) -> Volumes:
    """Load the volumes that validate, whole."""
    fixed = transforms.fixed(spec, config.data.resampling)
    return Volumes(chosen(cases, spec.fold.val), fixed, plan.cache_rate)


def chosen(cases: Mapping[str, Case], ids: Sequence[str]) -> list[Case]:
    """The cases of a fold, sorted: the order in which a fold lists them means nothing.

    Raises:
        DataError: a fold names a case that the curated set lacks.
    """
    absent = sorted(set(ids) - set(cases))
    if absent:
        raise DataError(
            f"The fold names {absent[0]}, which is not in the curated set.",
            remedy="profile the data again: minivess profile",
        )
    return [cases[case] for case in sorted(ids)]


class Volumes:
    """The fixed part of each case, kept in memory as far as the plan allows."""

    def __init__(self, cases: Sequence[Case], fixed: Compose, cache_rate: float) -> None:
        # The cache fills when a volume is first asked for. Nothing that follows writes into a
        # cached volume, so it is handed out without a copy.
        self._cached = CacheDataset(
            cases,
            fixed,
            cache_rate=cache_rate,
            num_workers=None,
            progress=False,
            copy_cache=False,
            runtime_cache="threads",
        )

    def __len__(self) -> int:
        return len(self._cached)

    def __getitem__(self, position: int) -> transforms.Sample:
        """The sample of one case.

        Raises:
            DataError, PlanError: the case cannot be used; MONAI wraps these, here they are bare.
        """
        try:
            sample: transforms.Sample = self._cached[position]
        except RuntimeError as error:
            if isinstance(error.__cause__, MinivessError):
                raise error.__cause__ from error
            raise
        return sample


@dataclass(frozen=True)
class Batches:
    """The training batches of any epoch, in a fixed order."""

    volumes: Volumes
    plan: ComputePlan
    training: TrainingConfig
    seed: int

    @classmethod
    def of(
        cls, spec: CellSpec, plan: ComputePlan, config: ExperimentConfig, cases: Mapping[str, Case]
    ) -> Self:
        """Load those of a cell: its training volumes in the order of their names."""
        fixed = transforms.fixed_for_training(spec, plan, config.data.resampling)
        volumes = Volumes(chosen(cases, spec.fold.train), fixed, plan.cache_rate)
        return cls(volumes, plan, config.training, spec.seed)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch: those of one optimizer step times the steps."""
        return self.plan.iterations_per_epoch * self.training.accumulation_steps

    def patch(self, epoch: int) -> Shape:
        """The size of the patches of an epoch."""
        return self.plan.patch_at(epoch, self.training.max_epochs)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch, some made ahead where the plan has workers."""
        order = self.order(epoch)
        workers = self.plan.num_workers
        if not workers:
            yield from (self.batch(epoch, step, order) for step in range(self.per_epoch))
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="patches") as pool:
            steps = iter(range(self.per_epoch))
            ahead: deque[Future[Batch]] = deque(
                pool.submit(self.batch, epoch, step, order) for step in islice(steps, workers + 1)
            )
            try:
                while ahead:
                    yield ahead.popleft().result()
                    ahead.extend(
                        pool.submit(self.batch, epoch, step, order) for step in islice(steps, 1)
                    )
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Volume of each place: every volume `samples_per_volume` times, shuffled, repeated."""
        pool = np.repeat(np.arange(len(self.volumes)), self.training.samples)
        places = self.per_epoch * self.plan.batch_size
        rounds = [
            np.random.default_rng(transforms.seed_of("order", self.seed, epoch, turn)).permutation(
                pool
            )
            for turn in range(-(-places // len(pool)))
        ]
        return np.concatenate(rounds)[:places]

    def batch(self, epoch: int, step: int, order: NDArray[np.int64]) -> Batch:
        """One batch, or this process's share; its transform is its own, as shared ones race."""
        transform = transforms.drawn(
            self.patch(epoch),
            foreground_ratio=self.training.foreground_ratio,
            augment=self.training.augment,
        )
        size = self.plan.batch_size
        patches = [
            transforms.draw(
                transform,
                self.volumes[int(order[place])],
                transforms.seed_of("patch", self.seed, epoch, place),
            )
            for place in distributed.own_share(range(step * size, (step + 1) * size))
        ]
        return Batch(
            cases=tuple(patch["case"] for patch in patches),
            image=torch.stack([patch["image"] for patch in patches]),
            label=torch.stack([patch["label"] for patch in patches]),
        )
