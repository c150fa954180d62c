"""What a GPU does with a training: one script of under six minutes for when one can be had.

    just bench gpu [--nnunet PYTHON] [--minutes 6] [--json FILE]
Four parts, each in a process of its own with its share of the time: variants of the bare step
(compiled, channels last, fused optimiser), the training loop against the bare step and nnU-Net's
`train_step` with the share of time in which the GPU computes, memory predicted against measured,
and windows at once in a prediction. A part that runs out of time says so and the others go on.
`--device cpu` tries the script itself on a machine without a GPU; its figures then mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench import train  # noqa: E402
from minivess import networks  # noqa: E402
from minivess.demo import phantom  # noqa: E402

SHARES = {"variants": 0.2, "loop": 0.35, "memory": 0.25, "windows": 0.1}
"""Parts, and how much of the whole time each may take; the rest is for starting them."""
BATCHES = (1, 2, 4, 8, 16)
Step = Callable[[], object]


def main(words: Sequence[str] | None = None) -> None:
    """Run the parts, print their lines, end with 1 if one is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 16))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--filters", type=int, nargs="+", default=(32, 64, 128, 256))
    parser.add_argument("--nnunet", type=Path, help="python of an environment with nnunetv2")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--part", choices=SHARES, help=argparse.SUPPRESS)
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here. Try: --device cpu, which tries the script alone")
    if options.part:
        found = {"variants": variants, "loop": loop, "memory": memory, "windows": windows}
        options.figures.write_text(json.dumps(found[options.part](options)))
        return
    print(f"{date.today().isoformat()}, {card(options.device)}, torch {torch.__version__}")
    given = list(sys.argv[1:] if words is None else words)
    figures = {part: in_time(part, given, options.minutes) for part in SHARES}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if missing := [part for part, found in figures.items() if found is None]:
        raise SystemExit(f"no figures of: {', '.join(missing)}")


def card(device: str) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(0) if device == "cuda" else "no GPU: cpu"


def in_time(part: str, given: list[str], minutes: float) -> Any:
    """The figures of one part; None if it failed or took longer than its share."""
    limit, begun = SHARES[part] * minutes * 60, time.monotonic()
    print(f"{part}, at most {limit:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, "-P", str(Path(__file__)), *given]
        process = subprocess.Popen(
            [*command, "--part", part, "--figures", str(figures)], start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            process.wait()
            print(f"  not done within {limit:.0f} s", flush=True)
            return None
        print(f"  ended with {code} after {time.monotonic() - begun:.0f} s", flush=True)
        return json.loads(figures.read_text()) if code == 0 else None


# --- parts --------------------------------------------------------------------------------


def variants(options: Any) -> dict[str, float]:
    """Milliseconds of a bare step, each way of running it beside the plain one."""
    case = setting(options, "bf16")
    image, target = held(case)
    ways = {
        "plain": step(case, image, target),
        "fused optimiser": step(case, image, target, fused=True),
        "channels last": step(
            case, image.to(memory_format=torch.channels_last_3d), target, channels_last=True
        ),
        "compiled": step(case, image, target, compiled=True),
    }
    found = {}
    for name, run in ways.items():
        seconds(run, 3, options.device)  # the first calls choose algorithms, or compile
        found[name] = min(seconds(run, 10, options.device) for _ in range(3)) * 1000
        ratio = found[name] / found["plain"]
        print(f"  {name:<18} {found[name]:8.1f} ms  {ratio:5.2f} x plain", flush=True)
    return found


def loop(options: Any) -> dict[str, Any]:
    """The training loop against the bare step and nnU-Net; share of time the GPU computes."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.make_phantoms(Path(folder) / "demo", n=12, seed=7)
        asked = argparse.Namespace(**vars(options), threads=1, workers=2, iterations=1)
        plain, light = (
            train.setting(asked, root, "bf16", augment=augment) for augment in train.SETS[:2]
        )
        contenders = {"bare step": train.bare(plain), "ours, augmented": train.ours(light)}
        side = train.nnunet(asked, plain, root, Path(folder), augment=True)
        with side if options.nnunet else none() as other:
            if other is not None:
                contenders["nnU-Net, in float32"] = other
            for name, run in contenders.items():
                run(5)
                with sampled(options.device) as busy:
                    per_step = statistics.median(run(20).wall for _ in range(3))
                share = statistics.mean(busy) if busy else None
                found[name] = {"seconds": per_step, "busy_percent": share}
                said = "busy share unknown" if share is None else f"GPU computes {share:.0f} %"
                ratio = per_step / found["bare step"]["seconds"]
                print(
                    f"  {name:<20} {per_step * 1000:8.1f} ms  {ratio:5.2f} x bare  {said}",
                    flush=True,
                )
    if not options.nnunet:
        print("  nnU-Net is left out: no --nnunet PYTHON")
    return found


def memory(options: Any) -> list[dict[str, Any]]:
    """Predicted against measured peak of a step, by bench/memory.py."""
    patch = "x".join(map(str, options.patch))
    command = [
        sys.executable, "-P", str(HERE / "memory.py"), "--device", options.device, "--models",
        "dynunet", "--kinds", "step", "--patches", patch,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "rows.jsonl"
        subprocess.run([*command, "--kept", str(kept)], check=True)
        return [json.loads(line) for line in kept.read_text().splitlines()]


def windows(options: Any) -> dict[str, float]:
    """Megavoxels a second of the network alone, by the number of windows at once."""
    case = setting(options, "bf16")
    network = networks.initial(case.spec.network, 1).to(options.device).eval()
    found = {}
    for several in BATCHES:
        image = torch.rand(several, 1, *options.patch, device=options.device)

        def run(image: torch.Tensor = image) -> object:
            with torch.inference_mode(), torch.autocast(options.device, dtype=torch.bfloat16):
                return network(image)

        seconds(run, 2, options.device)
        best = min(seconds(run, 5, options.device) for _ in range(3))
        found[str(several)] = image.numel() / best / 1e6
        print(
            f"  {several:2d} windows at once  {found[str(several)]:8.2f} megavoxels a second",
            flush=True,
        )
    return found


# --- what the parts share -----------------------------------------------------------------


def setting(options: Any, precision: str) -> train.Setting:
    """A cell without augmentation on demo volumes that hold the patch."""
    asked = argparse.Namespace(**vars(options), threads=1, workers=0, iterations=1)
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.make_phantoms(Path(folder) / "demo", n=12, seed=7)
        return train.setting(asked, root, precision, augment="none")


def held(case: train.Setting) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch on the device: noise and a label of two classes; their content costs nothing."""
    shape = (case.plan.batch_size, 1, *case.plan.patch_size)
    image = torch.randn(shape, device=case.plan.device)
    return image, (image > 1).long()


def step(
    case: train.Setting, image: torch.Tensor, target: torch.Tensor, *,
    fused: bool = False, channels_last: bool = False, compiled: bool = False,
) -> Step:  # fmt: skip
    """Forward, loss, backward, update, in one of the ways that are compared."""
    call = train.step_of(case, fused=fused, channels_last=channels_last, compiled=compiled)
    return lambda: call(image, target)


def seconds(run: Step, times: int, device: str) -> float:
    """Seconds of one call, of so many in a row."""
    begun = time.perf_counter()
    for _ in range(times):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times


@contextmanager
def none() -> Iterator[None]:
    """No other side."""
    yield None


@contextmanager
def sampled(device: str) -> Iterator[list[float]]:
    """Per cent of time in which the GPU computes, read five times a second by nvidia-smi."""
    found: list[float] = []
    if device != "cuda":
        yield found
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    with subprocess.Popen([*command, "-lms", "200"], stdout=subprocess.PIPE, text=True) as reader:
        yield found
        reader.terminate()
        assert reader.stdout is not None
        found += [float(line) for line in reader.stdout.read().split() if line.isdigit()]


if __name__ == "__main__":
    main()
