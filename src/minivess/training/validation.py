"""Evaluate a network on whole validation volumes: sliding window, mask, metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from minivess import inference, names
from minivess.compute import judging
from minivess.config import EvaluationConfig
from minivess.contracts import IGNORED, CellSpec, ComputePlan, VolumeMetrics
from minivess.evaluation import metrics
from minivess.inference import Predictor
from minivess.names import PRIMARY
from minivess.training.loaders import Volumes
from minivess.training.monitoring.figures import Panel
from minivess.training.monitoring.watchdog import Heartbeat
from minivess.training.transforms import Sample

EACH_EPOCH = ("dice", "f1")
AT_INTERVALS = ("cldice", "masd", PRIMARY)
SHOWN = 3
"""Volumes in a prediction figure."""


@dataclass(frozen=True)
class Judgement:
    """The metrics of each volume."""

    volumes: tuple[VolumeMetrics, ...]

    @property
    def means(self) -> dict[str, float]:
        """The mean over volumes of each metric that is defined somewhere."""
        found = metrics.mean([volume.values for volume in self.volumes])
        return {name: value for name, value in found.items() if value is not None}

    def logged(self) -> dict[str, float]:
        """The epoch's metrics by their names in MLflow; `val_masd_nan_count` counts undefined,
        and with several classes `val_masd_nan_count_class<k>`."""
        rows = [volume.values for volume in self.volumes]
        wanted = {name: x for name, x in self.means.items() if names.stem(name) in _LOGGED}
        found = {_logged_name(name): x for name, x in wanted.items()}
        for name in {name for row in rows for name in row if names.stem(name) == "masd"}:
            count = float(metrics.undefined(rows, name))
            found[name.replace("masd", "val_masd_nan_count", 1)] = count
        return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Judging:
    """A judgement in progress: threads compare masks and labels while training continues."""

    loss: float
    panels: Sequence[Panel]
    volumes: Sequence[Future[VolumeMetrics]]

    @property
    def logged_loss(self) -> dict[str, float]:
        """The loss by its name in MLflow, if it is a number."""
        return {"val_loss": self.loss} if math.isfinite(self.loss) else {}

    def wait(self) -> Judgement:
        """The judgement, once every volume is judged."""
        return Judgement(tuple(volume.result() for volume in self.volumes))


@dataclass
class Validation:
    """The validation volumes of a cell; labels are prepared once and kept."""

    spec: CellSpec
    plan: ComputePlan
    config: EvaluationConfig
    volumes: Volumes
    loss: nn.Module
    judges: Executor
    heartbeat: Heartbeat
    labels: Path | None = None
    _seconds: list[float] = field(default_factory=list)
    _truths: dict[tuple[str, bool], metrics.Truth] = field(default_factory=dict)
    _parts: dict[str, tuple[slice, ...]] = field(default_factory=dict)

    def run(
        self,
        network: nn.Module,
        *,
        topology: bool,
        shown: int = 0,
        reported: bool = False,
        whole: bool = False,
    ) -> Judging:
        """Judge the network in eval mode; the first `shown` volumes come back as panels.

        `reported` figures are computed as analysis and service do, without the loss; others as
        training does. Where the plan says so, a part of each volume is judged unless `whole`.
        """
        predictor = Predictor(
            network.eval(), self.spec.window, self.plan.divisor, device=self.plan.device,
            precision=inference.REPORTED if reported else self.plan.mixed_precision,
        )  # fmt: skip
        found, losses, panels = [], [], []
        for position in range(len(self.volumes)):
            sample = self.volumes[position]
            if not whole and self.plan.validation_share < 1:
                sample = self._part(sample)
            logits = predictor.logits(sample["image"].numpy())
            mask = inference.mask(logits)
            if not reported:
                losses.append(self._loss(logits, sample["label"]))
            found.append(
                self.judges.submit(self._judged, sample, mask, topology=topology, whole=whole)
            )
            if position < shown:
                image, label = sample["image"][0].numpy(), sample["label"][0].numpy()
                panels.append(Panel(sample["case"], image, *metrics.judged(label, mask)))
            self.heartbeat.tick("volume")
        loss = float(np.mean(losses)) if losses else math.nan
        return Judging(loss, panels, found)

    def processor_seconds(self) -> float:
        """Return the processor seconds of the judging threads since the last call."""
        seconds, self._seconds = self._seconds, []
        return sum(seconds)

    def _loss(self, logits: NDArray[np.float32], label: torch.Tensor) -> float:
        with torch.no_grad():
            guess = torch.from_numpy(logits)[None].to(self.plan.device)
            target = label[None].to(self.plan.device).long()
            return float(self.loss(guess, target)["loss"])

    def _part(self, sample: Sample) -> Sample:
        """The part of a volume around the middle of its foreground, the same at each epoch."""
        case, label = sample["case"], sample["label"]
        if case not in self._parts:
            x, y, z = label.shape[1:]
            sides = judging.part((x, y, z), self.plan.patch_size, self.plan.validation_share)
            places = ((label[0] > 0) & (label[0] != IGNORED)).nonzero().float()
            middle = places.median(dim=0).values if len(places) else torch.tensor((x, y, z)) / 2
            begins = [
                max(0, min(int(at) - side // 2, extent - side))
                for at, side, extent in zip(middle, sides, (x, y, z), strict=True)
            ]
            self._parts[case] = tuple(
                slice(begin, begin + side) for begin, side in zip(begins, sides, strict=True)
            )
        inside = (slice(None), *self._parts[case])
        return {**sample, "image": sample["image"][inside], "label": label[inside]}

    def _judged(
        self, sample: Sample, mask: NDArray[np.uint8], *, topology: bool, whole: bool
    ) -> VolumeMetrics:
        case, begun = sample["case"], time.thread_time()
        truth = self._truths.get((case, whole))
        if truth is None:
            label = sample["label"][0].numpy()
            truth = metrics.Truth(label, self.spec.classes, kept=self.labels)
            if not whole or self.plan.validation_share == 1:  # others are judged once
                self._truths[case, whole] = truth
        values = metrics.judge(
            mask,
            truth,
            classes=self.spec.classes,
            config=self.config,
            spacing=sample["spacing"],
            topology=topology,
        )
        self._seconds.append(time.thread_time() - begun)
        return VolumeMetrics(case=case, group=sample["group"], values=values)


_LOGGED: Sequence[str] = (*EACH_EPOCH, *AT_INTERVALS)


def _logged_name(name: str) -> str:
    """`f1_class2` -> `val_f1_foreground_class2`; others only gain `val_`."""
    stem = names.stem(name)
    return f"val_{'f1_foreground' if stem == 'f1' else stem}{name[len(stem) :]}"
