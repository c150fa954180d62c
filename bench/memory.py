"""Predicted against measured memory of a step and of judging a volume, each in a fresh process."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

MODELS = ("dynunet", "unet", "segresnet", "swinunetr", "vista3d")
PATCHES = ("64x64x32", "96x96x32", "96x96x64")
KINDS = ("step", "window")
STEPS = 3
FIRST_S, AGAIN_S = 10.0, 0.1
"""The most that a prediction may take, the first time and from the cache."""

Row = dict[str, Any]


def main(words: Sequence[str] | None = None) -> None:
    """Print the table; with --one, be the fresh process of one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precision", nargs="+", default=["none", "bf16"])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--losses", nargs="+", default=["dice_ce"])
    parser.add_argument("--patches", nargs="+", default=PATCHES)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--kept", type=Path, help="JSON lines; what is there is not measured again")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.one:
        print(json.dumps(one(**json.loads(options.one))))
        return
    rows = list(measured(options))
    settings = {(row["model"], row["precision"], row["loss"]) for row in rows}
    predictions = {
        (model, precision, loss): fresh(
            {
                "model": model,
                "precision": precision,
                "loss": loss,
                "patches": options.patches,
                "device": options.device,
            },
            kind="predict",
        )
        for model, precision, loss in sorted(settings)
    }
    for row in rows:
        found = predictions[row["model"], row["precision"], row["loss"]]
        row["predicted"] = found[f"{row['kind']} {row['patch']}"]
    print(table(rows, options.patches))
    print(summary(rows, list(predictions.values())))


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """Each row, from the file where it is kept or from a fresh process."""
    kept = options.kept.read_text().splitlines() if options.kept and options.kept.exists() else []
    known = {name(row): row for row in map(json.loads, kept)}
    for model, precision, loss, kind, patch in product(
        options.models, options.precision, options.losses, options.kinds, options.patches
    ):
        asked = {
            "model": model,
            "precision": precision,
            "loss": loss,
            "patch": patch,
            "device": options.device,
        }
        row = {**asked, "kind": kind}
        if name(row) not in known:
            known[name(row)] = row | fresh(asked, kind=kind)
            print(known[name(row)], file=sys.stderr, flush=True)
            if options.kept:
                with options.kept.open("a") as lines:
                    lines.write(json.dumps(known[name(row)]) + "\n")
        yield known[name(row)]


def name(row: Row) -> tuple[str, ...]:
    """What tells one measurement from another."""
    return tuple(row[key] for key in ("model", "precision", "loss", "kind", "patch", "device"))


def fresh(asked: Row, *, kind: str) -> dict[str, float]:
    """The last line that a fresh process prints."""
    ran = subprocess.run(
        [sys.executable, "-P", __file__, "--one", json.dumps({**asked, "kind": kind})],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


# --- in the fresh process -----------------------------------------------------------------


def one(
    model: str, kind: str, precision: Any, loss: str, device: str, **sizes: Any
) -> dict[str, float]:
    """What one fresh process finds: of one `patch`, or as predicted of all `patches`."""
    from minivess import config, networks

    network = networks.resolve(
        config.model(model), in_channels=1, out_channels=2, min_shape=(128, 128, 64)
    )
    if kind == "predict":
        patches = [sides(patch) for patch in sizes["patches"]]
        return predicted(network, loss, patches, precision, device)
    work = {"step": trained, "window": judged}[kind]
    work(network, loss, sides(sizes["patch"]), precision, device)
    return {"measured": peak_gb(device)}


def peak_gb(device: str) -> float:
    """GiB at the peak; on a GPU the driver's context and torch's kernels are in it."""
    from minivess.compute.reporting import peak_memory

    peak = peak_memory.peak_gb(device)
    if device == "cpu":
        return peak
    import pynvml
    import torch

    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    held = {p.pid: p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)}
    context = int(held[os.getpid()]) - int(torch.cuda.memory_reserved())
    return peak + context / 2**30


def predicted(
    network: Any, loss: str, patches: Any, precision: Any, device: str
) -> dict[str, float]:
    """GiB as the plan sees them for every patch, and seconds of the first and a later question."""
    from minivess import config
    from minivess.compute.memory import cache as memo
    from minivess.compute.memory.prediction import Footprint

    asked = config.load([], [f"training.losses=[{loss}]"])

    def ask(cache: Path) -> tuple[Footprint, float]:
        begun = time.process_time()
        found = Footprint(asked, network, precision, device=device, cache=cache)
        found.step_gb(patches[0], 1)
        found.window_gb(patches[0], patches[0])
        return found, time.process_time() - begun

    with tempfile.TemporaryDirectory() as folder:
        found, first = ask(Path(folder))
        memo.KNOWN.clear()
        _, again = ask(Path(folder))
    rows = {f"step {text(patch)}": found.step_gb(patch, 1) for patch in patches}
    rows |= {f"window {text(patch)}": found.window_gb(patch, volume(patch)) for patch in patches}
    return {**rows, "first_s": first, "again_s": again}


def volume(patch: Any) -> Any:
    """A volume of several windows."""
    return 2 * patch[0], 2 * patch[1], patch[2]


def trained(network: Any, loss: str, patch: Any, precision: Any, device: str) -> None:
    """Take real steps."""
    import torch

    module, criterion = built(network, loss, device)
    image = torch.randn(1, 1, *patch).to(device)
    batch = image, (torch.rand(1, 1, *patch) > 0.9).long().to(device)
    updater = torch.optim.AdamW(module.parameters())
    for _ in range(STEPS):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = module.train()(batch[0])
        criterion(logits, batch[1])["loss"].backward()
        updater.step()
        updater.zero_grad(set_to_none=True)


def judged(network: Any, loss: str, patch: Any, precision: Any, device: str) -> None:
    """A volume's windows, mask and loss, as validation runs them."""
    import torch

    from minivess import inference
    from minivess.compute.reporting import peak_memory
    from minivess.contracts import Window
    from minivess.inference import Predictor

    module, criterion = built(network, loss, device)
    # A training process has loaded what an update needs, and holds Adam's two moments.
    updater = torch.optim.AdamW(module.parameters())
    for weight in module.parameters():
        weight.grad = torch.zeros_like(weight)
    updater.step()
    updater.zero_grad(set_to_none=True)
    peak_memory.reset_peak(device)
    image = torch.randn(1, *volume(patch)).numpy()
    target = (torch.rand(1, 1, *volume(patch)) > 0.9).long()
    window = Window(patch_size=patch, overlap=0.25, normalisation="none")
    logits = Predictor(module.eval(), window, (1, 1, 1), device=device).logits(image)
    inference.mask(logits)
    with torch.no_grad():
        criterion(torch.from_numpy(logits)[None].to(device), target.to(device))


def built(network: Any, loss: str, device: str) -> tuple[Any, Any]:
    """Network and loss, in a process that has loaded what a training process has."""
    from minivess import config, losses, networks
    from minivess.training import trainer  # noqa: F401

    criterion = losses.build(losses.resolve(config.loss(loss)), network.out_channels)
    return networks.initial(network, seed=0).to(device), criterion.to(device)


def sides(patch: str) -> tuple[int, int, int]:
    """Voxels along each axis, from for example `64x64x32`."""
    x, y, z = (int(side) for side in patch.split("x"))
    return x, y, z


def text(patch: Any) -> str:
    """For example `64x64x32`."""
    return "x".join(map(str, patch))


# --- what is told -------------------------------------------------------------------------


def over(row: Row) -> float:
    """Share by which the prediction lies above the measurement."""
    return float(row["predicted"] / row["measured"] - 1)


def table(rows: list[Row], patches: Sequence[str]) -> str:
    """Models and settings down, patches across."""
    lines = [
        "| model | precision | what | " + " | ".join(patches) + " |",
        "|---|---|---|" + "---|" * len(patches),
    ]
    groups = dict.fromkeys(name(row)[:4] for row in rows)
    for group in groups:
        cells = [
            f"{row['predicted']:.2f} / {row['measured']:.2f} ({over(row):+.0%})"
            for row in rows
            if name(row)[:4] == group
        ]
        model, precision, _, kind = group
        lines.append(f"| {model} | {precision} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: list[Row], predictions: list[dict[str, float]]) -> str:
    """What decides: the median, the worst on either side, and the time against its limits."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        shares = [over(row) for row in rows if row["kind"] == kind]
        lines.append(
            f"{kind}, {len(shares)} rows: median {statistics.median(shares):+.1%}, "
            f"least {min(shares):+.1%}, most {max(shares):+.1%}"
        )
    first, again = (max(row[key] for row in predictions) for key in ("first_s", "again_s"))
    lines.append(
        f"prediction, processor time: first {first:.1f} s ({first / FIRST_S:.0%} of the limit), "
        f"again {again * 1000:.0f} ms ({again / AGAIN_S:.0%} of the limit)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
