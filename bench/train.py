"""Seconds per iteration of the training loop against the bare step, nnU-Net v2, plain MONAI.

Contenders take turns, `--rounds` times `--iterations` each; medians are printed, by the clock and
by processor time, because a clock on a shared machine measures the others too. All train the same
network (nnU-Net its own of the same levels and widths) with Dice and cross-entropy on the same
patches; the plain loop is that of MONAI's spleen tutorial.
nnU-Net runs in an environment of its own: --nnunet PYTHON (bench/nnunet_side.py says which).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from minivess import config, losses, networks
from minivess.contracts import Case, CellSpec, ComputePlan, Fold, Window
from minivess.data.pairing.cases import pair_files
from minivess.demo import phantom
from minivess.formats import volume
from minivess.training import context, epochs, loaders
from minivess.training.monitoring.watchdog import Heartbeat
from minivess.training.state import State

SETS: tuple[config.Augmentation, ...] = ("none", "light", "full")
HERE = Path(__file__).parent


class Times(NamedTuple):
    """Seconds per iteration, by the clock and of processor time."""

    wall: float
    cpu: float


Contender = Callable[[int], Times]
"""Runs so many iterations."""


class Setting(NamedTuple):
    """What all contenders share."""

    cases: dict[str, Case]
    spec: CellSpec
    plan: ComputePlan
    training: config.TrainingConfig


def main() -> None:
    """Print one table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of images and labels; none: demo data",
    )
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 16))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--filters", type=int, nargs="+", default=(16, 32, 64))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", nargs="+", default=("none", "bf16"))
    parser.add_argument("--nnunet", type=Path, help="python of an environment with nnunetv2")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.data or phantom.make_phantoms(Path(folder) / "demo", n=12, seed=7)
        found = {p: compare(options, root, Path(folder), p) for p in options.precisions}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def compare(options: Any, root: Path, folder: Path, precision: str) -> dict[str, Any]:
    """Medians of each contender at one precision."""
    plain, light, full = (setting(options, root, precision, augment=s) for s in SETS)
    with ExitStack() as stack:
        torch.set_num_threads(options.threads)
        contenders = {
            "bare step": bare(plain),
            "ours, no augmentation": ours(plain),
            "ours, augmented": ours(light),
            "ours, augment=full": ours(full),
            "batches of augment=light": drawing(light),
            "batches of augment=full": drawing(full),
            "MONAI tutorial, 0 workers": tutorial(plain, 0),
            f"MONAI tutorial, {options.threads} workers": tutorial(plain, options.threads),
        }
        if precision == "none" and options.nnunet:
            for name, augment in (("nnU-Net, no augmentation", False), ("nnU-Net", True)):
                side = nnunet(options, plain, root, folder, augment=augment)
                contenders[name] = stack.enter_context(side)
        elif not options.nnunet:
            print("nnU-Net is left out: no --nnunet PYTHON")
        medians = measure(contenders, options.rounds, options.iterations)
    report(options, precision, medians)
    return {name: times._asdict() for name, times in medians.items()}


def measure(contenders: dict[str, Contender], rounds: int, iterations: int) -> dict[str, Times]:
    """One warm-up each, then rounds in turn."""
    for run in contenders.values():
        run(3)
    found: dict[str, list[Times]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            found[name].append(run(iterations))
    return {
        name: Times(*(statistics.median(column) for column in zip(*times, strict=True)))
        for name, times in found.items()
    }


def report(options: Any, precision: str, medians: dict[str, Times]) -> None:
    """The table, with the bare step as 100 %."""
    patch, bare_step = "x".join(map(str, options.patch)), medians["bare step"]
    print(
        f"{options.device}, precision {precision}, patch {patch}, batch {options.batch}, filters "
        f"{'-'.join(map(str, options.filters))}, {options.threads} threads, medians of "
        f"{options.rounds} rounds of {options.iterations} iterations"
    )
    for name, times in medians.items():
        shares = [bare / own for bare, own in zip(bare_step, times, strict=True)]
        print(
            f"  {name:<28} {times.wall * 1000:8.1f} ms  {shares[0]:6.1%} of bare | "
            f"processor {times.cpu * 1000:8.1f} ms  {shares[1]:6.1%}",
            flush=True,
        )


def setting(options: Any, root: Path, precision: Any, *, augment: config.Augmentation) -> Setting:
    """A cell as the product would train it, on the volumes that hold a patch."""
    patch = (options.patch[0], options.patch[1], options.patch[2])
    labelled = [case for case in pair_files(root).cases if case.label]
    cases = {
        case.case: case
        for case in labelled
        if all(
            have >= need
            for have, need in zip(volume.read_volume(case.image).array.shape, patch, strict=True)
        )
    }
    model = config.model("dynunet").model_copy(update={"filters": tuple(options.filters)})
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=patch)
    spec = CellSpec(
        key="bench",
        model="dynunet",
        loss=losses.resolve(config.loss("dice_ce")),
        seed=1,
        fold=Fold(index=0, train=tuple(sorted(cases)), val=()),
        network=network,
        window=Window(patch_size=patch, overlap=0.25, normalisation="zscore"),
        label_map={},
        classes=(0, 1),
    )
    plan = ComputePlan(
        tier="bench",
        device=options.device,
        patch_size=patch,
        batch_size=options.batch,
        num_workers=options.workers,
        cache_rate=1.0,
        mixed_precision=precision,
        threads=options.threads,
        iterations_per_epoch=options.iterations,
        divisor=(1, 1, 1),
        predicted_memory_gb=0,
        memory_budget_gb=0,
        choices={},
    )
    return Setting(cases, spec, plan, config.TrainingConfig(augment=augment))


# --- contenders ---------------------------------------------------------------------------


def timed(work: Callable[[], object], iterations: int, device: str) -> Times:
    """Seconds of `work`, threads and ended child processes of this process included."""
    before, begun = spent(), time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return Times((time.perf_counter() - begun) / iterations, (spent() - before) / iterations)


def spent() -> float:
    """Processor seconds so far."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


def batches_of(case: Setting) -> loaders.Batches:
    """The training batches of a cell."""
    settings = config.ExperimentConfig(training=case.training)
    return loaders.Batches.of(case.spec, case.plan, settings, case.cases)


def ours(case: Setting) -> Contender:
    """The epochs of a cell, loaders included."""
    every = batches_of(case)
    state = State.start(case.spec, case.plan, case.training)

    def run(iterations: int) -> Times:
        plan = case.plan.replace(iterations_per_epoch=iterations)
        steps = epochs.Steps.of(case.spec, replace(every, plan=plan), Heartbeat.silent())
        state.epoch += 1
        with context.machine(plan):
            return timed(lambda: steps.run(state), iterations, plan.device)

    return run


def drawing(case: Setting) -> Contender:
    """The batches alone, drawn and augmented in this thread."""
    every = batches_of(case)

    def run(iterations: int) -> Times:
        plan = case.plan.replace(iterations_per_epoch=iterations, num_workers=0)
        epoch = replace(every, plan=plan).epoch(1)
        with context.machine(plan):
            return timed(lambda: deque(epoch, maxlen=0), iterations, "cpu")

    return run


def step_of(
    case: Setting, *, fused: bool = False, channels_last: bool = False, compiled: bool = False
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Forward, loss, backward, clipping, update; nothing else."""
    layout = torch.channels_last_3d if channels_last else torch.preserve_format
    network = networks.initial(case.spec.network, 1).to(case.plan.device).train()
    network = network.to(memory_format=layout)  # type: ignore[call-overload]  # not of four axes
    loss = losses.build(case.spec.loss, 2).to(case.plan.device)
    updater = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=fused)
    forward = torch.compile(network) if compiled else network
    half = case.plan.mixed_precision == "bf16"

    def step(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        updater.zero_grad(set_to_none=True)
        with torch.autocast(case.plan.device, dtype=torch.bfloat16, enabled=half):
            logits = forward(image)
        value: torch.Tensor = loss(logits, target)["loss"]
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), case.training.gradient_clip_val)
        updater.step()
        return value.detach()

    return step


def bare(case: Setting) -> Contender:
    """The step on batches that lie in the device's memory already."""
    batches = replace(batches_of(case), seed=1)
    device, step = case.plan.device, step_of(case)
    with context.machine(case.plan):
        made = list(batches.epoch(0))
    held = [(batch.image.to(device), batch.label.to(device).long()) for batch in made[:8]]

    def run(iterations: int) -> Times:
        def work() -> None:
            for image, target in islice(cycle(held), iterations):
                step(image, target)

        return timed(work, iterations, device)

    return run


def tutorial(case: Setting, workers: int) -> Contender:
    """MONAI's spleen tutorial: CacheDataset, DataLoader, random crops, `loss.item()` each step."""
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        RandCropByPosNegLabeld,
    )

    keys = ["image", "label"]
    transform = Compose([
        LoadImaged(keys), EnsureChannelFirstd(keys), NormalizeIntensityd("image"),
        RandCropByPosNegLabeld(
            keys, label_key="label", spatial_size=case.plan.patch_size, pos=2, neg=1,
            num_samples=1, image_key="image", image_threshold=-1e9,
        ),
    ])  # fmt: skip
    files = [{"image": str(c.image), "label": str(c.label)} for c in case.cases.values()]
    dataset = CacheDataset(files, transform, cache_rate=1.0, num_workers=1, progress=False)
    step, device = step_of(case), case.plan.device

    def run(iterations: int) -> Times:
        sampler = torch.utils.data.RandomSampler(
            dataset, replacement=True, num_samples=iterations * case.plan.batch_size
        )
        loader = DataLoader(
            dataset, batch_size=case.plan.batch_size, sampler=sampler, num_workers=workers,
            pin_memory=device == "cuda",
        )  # fmt: skip

        def work() -> None:
            total = 0.0
            for batch in loader:
                total += step(batch["image"].to(device), batch["label"].to(device).long()).item()

        return timed(work, iterations, device)

    return run


@contextmanager
def nnunet(
    options: Any, case: Setting, root: Path, folder: Path, *, augment: bool
) -> Iterator[Contender]:
    """nnU-Net's own loaders and `train_step` in a process of its environment."""
    network = case.spec.network
    asked = {
        "cases": {c.case: [str(c.image), str(c.label)] for c in case.cases.values()},
        "folder": str(folder / "nnunet"),
        "patch": list(case.plan.patch_size), "batch": case.plan.batch_size,
        "filters": list(network.filters), "strides": network.strides,
        "kernels": network.kernel_size, "threads": options.threads, "device": options.device,
        "augment": augment,
    }  # fmt: skip
    with subprocess.Popen(
        [options.nnunet, "-P", HERE / "nnunet_side.py", "steps", json.dumps(asked)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def told() -> dict[str, float]:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("TOLD "):
                    return dict(json.loads(line.removeprefix("TOLD ")))
            raise SystemExit("nnU-Net's process ended; its messages stand above")

        def run(iterations: int) -> Times:
            assert process.stdin is not None
            process.stdin.write(f"{iterations}\n")
            process.stdin.flush()
            return Times(**told())

        print(f"nnU-Net's network has {told()['parameters']} parameters", flush=True)
        yield run
        process.communicate()


if __name__ == "__main__":
    main()
