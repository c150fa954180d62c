"""Predict the memory of a training from its network, without running it.

Memory is affine in voxels x batch, so two dry runs size any patch. Results are cached on disk by
content. A model file may give its own numbers instead.
"""

from __future__ import annotations

import math
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import config as configuration
from minivess import inference, losses, networks
from minivess.compute.memory.cache import cached
from minivess.compute.memory.settings import Line, StepSettings
from minivess.config import ExperimentConfig
from minivess.contracts import Limits, Loss, Network, Shape
from minivess.inference import Precision
from minivess.runtime.cgroups import GIB

if TYPE_CHECKING:
    from minivess.compute.memory.dry_run import DryRun

PROCESS_GB = {"cpu": 0.72, "cuda": 0.6}
"""Python, torch and MONAI in main memory; the driver's context and kernels on a GPU (an H200)."""

JUDGING_PROCESS_GB = {"cpu": 0.65, "cuda": 0.6}
"""The same while a volume is judged: 0.58 GB were measured, and 0.62 in networks of many small
tensors, which leave more of the heap in holes."""

CUDA_BUILD_GB = 0.27
"""More of it where torch is built for CUDA: its libraries are loaded without a GPU, too (measured:
0.76 GB after the imports of a training, 0.48 with the build for the CPU)."""

UNSEEN = 1.15
"""Holes that allocators leave between tensors, and workspaces that no rule names."""

SIDE = 48
"""Voxels along each axis of the smaller patch of a dry run. Shifted windows waste more of a small
one, so that their line is on the safe side."""

BLENDING_MAPS = 3
"""Maps as large as a volume beside its logits: image, weights of the windows, their sum."""

DIVISOR = "divisor"
MASK_BYTES = 9
"""For each voxel of a judged volume: its mask, and the class numbers that its loss takes."""


def process_gb(device: str, *, judging: bool = False) -> float:
    """GiB that a training process holds beside tensors, on this machine's build of torch."""
    held = (JUDGING_PROCESS_GB if judging else PROCESS_GB)[device]
    return held + CUDA_BUILD_GB * (device == "cpu" and _built_for_cuda())


@cache
def _built_for_cuda() -> bool:
    """Whether torch brings CUDA's kernels; to import it for that would take seconds."""
    torch = find_spec("torch")
    places = torch.submodule_search_locations if torch else None
    return any(any(Path(place, "lib").glob("*torch_cuda*")) for place in places or ())


def map_bytes(network: Network) -> int:
    """Bytes in main memory for each voxel of a volume whose windows are put together."""
    return 4 * (2 * network.out_channels + BLENDING_MAPS)


class Footprint:
    """What one network takes under the settings of one experiment; `cache` keeps the answers."""

    def __init__(
        self,
        config: ExperimentConfig,
        network: Network,
        precision: Precision,
        *,
        device: str,
        cache: Path | None = None,
    ) -> None:
        training = config.training
        self.network = network
        self.device = device
        self.cache = cache
        self.ignores = config.data.ignore_label is not None
        self.processes = training.processes_per_cell
        self.losses = [losses.resolve(configuration.loss(name)) for name in training.losses]
        self.settings = StepSettings(
            precision=precision,
            optimizer=training.optimizer,
            checkpointing=training.gradient_checkpointing,
            average=training.averages,
            accumulating=training.accumulation_steps > 1,
            on_gpu=device == "cuda",
        )

    @cached_property
    def divisor(self) -> Shape:
        """What each axis of a patch must be divisible by."""
        x, y, z = self._found(DIVISOR, lambda: networks.divisor(self.network))
        return x, y, z

    def accepts(self, patch: Shape, batch: int) -> bool:
        """Whether a training step takes this patch."""
        record = {"accepts": patch, "batch": batch}
        return bool(self._found(record, lambda: networks.accepts(self.network, patch, batch)))

    def step_gb(self, patch: Shape, batch: int) -> float:
        """GiB at the peak of a step with the hungriest loss, in one process of the cell.

        Cached volumes come on top.
        """
        share = max(1, batch // self.processes)
        limits, voxels = self.network.limits, math.prod(patch) * share
        base, slope = limits.vram_base_mb, limits.vram_per_voxel_train_bytes
        if base is not None and slope is not None:
            return base / 1024 + slope * voxels / GIB
        return max(
            (base / 1024 if base is not None else self._process_gb(fixed))
            + (slope if slope is not None else UNSEEN * each) * voxels / GIB
            for fixed, each in self._step_lines
        )

    def window_gb(self, window: Shape, volume: Shape) -> float:
        """GiB at the peak of the judgement of a volume: its windows, or its loss."""
        sides = [min(side, extent) for side, extent in zip(window, volume, strict=True)]
        at_once = inference.at_once(window, self.device) * math.prod(sides)
        windows = max(UNSEEN * (fixed + each * at_once) / GIB for fixed, each in self._window_lines)
        maps = map_bytes(self.network) if self.device == "cpu" else 0
        judged = 4 * self.network.out_channels + MASK_BYTES + self._loss_bytes(gradients=False)
        at_rest = UNSEEN * min(fixed for fixed, _ in self._window_lines) / GIB
        voxels = math.prod(volume)
        more = max(windows + maps * voxels / GIB, at_rest + judged * voxels / GIB)
        return process_gb(self.device, judging=True) + more

    def _process_gb(self, fixed: float) -> float:
        return process_gb(self.device) + UNSEEN * fixed / GIB

    @cached_property
    def _training(self) -> DryRun:
        from minivess.compute.memory.dry_run import DryRun

        return DryRun(self.network, self.settings)

    @cached_property
    def _step_lines(self) -> list[Line]:
        loss = self._loss_bytes(gradients=True)
        return self._lines(
            {"step": loss},
            lambda small: self._training.step_lines(small, loss),
        )

    @cached_property
    def _window_lines(self) -> list[Line]:
        return self._lines("window in float32", lambda small: self._training.window_lines(small))

    def _lines(self, what: Any, find: Any) -> list[Line]:
        x, y, z = (step * max(2, SIDE // step) for step in self.divisor)
        record = {"lines": what, "settings": vars(self.settings)}
        return [(fixed, each) for fixed, each in self._found(record, lambda: find((x, y, z)))]

    def _loss_bytes(self, *, gradients: bool) -> float:
        return max(self._loss_bytes_of(loss, gradients=gradients) for loss in self.losses)

    def _loss_bytes_of(self, loss: Loss, *, gradients: bool) -> float:
        channels = self.network.out_channels

        def measure() -> float:
            from minivess.compute.memory import dry_run

            return dry_run.loss_bytes(loss, channels, gradients=gradients, ignores=self.ignores)

        what = {"loss": loss.model_dump(mode="json"), "channels": channels, "gradients": gradients}
        if self.ignores:
            what["ignores"] = True
        return float(cached(self.cache, what, measure, own=[term.loss for term in loss.terms]))

    def _found(self, what: Any, work: Any) -> Any:
        network = self.network.replace(limits=Limits()) if what != DIVISOR else self.network
        record = {"network": network.model_dump(mode="json"), "what": what}
        return cached(self.cache, record, work, own=[self.network.builder])
