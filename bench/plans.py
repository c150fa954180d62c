"""Plans for eight machines, every shipped model and some datasets: writes docs/plans.md."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[1]
MODELS = ("dynunet", "unet", "segresnet", "swinunetr", "vista3d")
MINIVESS = [(512, 512, 5 + round(105 * place / 69)) for place in range(70)]
PREDECESSOR = {
    "dynunet": (700, 8, 16), "segresnet": (50, 8, 16), "swinunetr": (250, 12, 24),
    "vista3d": (800, 12, 24),
}  # fmt: skip
"""minivess-mlops, configs/model_profiles: MB at no voxel, bytes for each voxel of each patch with
mixed precision and without."""

HEAD = """# Plans for eight machines

Made by `just bench plans {words}`
on {day}: what `minivess plan` would decide where only `training.losses=[dice_ce]` is given.
The machines are the recorded readings of `tests/compute/machines.py`. MiniVess is known by its
published shapes (70 volumes, 512x512 with 5 to 110 slices, spread evenly), the others by the
headers of their files.

Each cell: patch x batch, precision, memory at the peak (of a step, or where a `J` stands of
judging the largest volume) of what may be used. In brackets what the predecessor's formula gives
for the same step: a fixed number of MB and 8 to 24 bytes for each voxel. It said 0.7 GB for a
DynUNet that took 3.5; it has no line for the UNet. On GPUs nothing was measured: those rows are
predictions.
"""


def main(words: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=PATH",
                        help="a dataset of your own, known by its headers")  # fmt: skip
    parser.add_argument("--machines", nargs="+", help="names in tests/compute/machines.py")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--cache", type=Path, help="keep what was found about networks here")
    parser.add_argument("--out", type=Path, default=CLONE / "docs" / "plans.md")
    options = parser.parse_args(words)
    sys.path.insert(0, str(CLONE))
    given = [folder.partition("=")[::2] for folder in options.folder]
    datasets = {"MiniVess": MINIVESS} | {name: shapes(Path(path)) for name, path in given}
    called = " ".join(f"--folder {name}=..." for name, _ in given)
    with tempfile.TemporaryDirectory() as scratch:
        cache = options.cache or Path(scratch)
        tables = [table(name, found, options, cache) for name, found in datasets.items()]
    head = HEAD.format(words=called, day=date.today().isoformat())
    options.out.write_text("\n".join([head, *tables]), encoding="utf-8")


def shapes(root: Path) -> list[tuple[int, ...]]:
    """The shapes of a folder's volumes, from their headers."""
    from nibabel import Nifti1Image

    from minivess.data.pairing import cases

    read = Nifti1Image.from_filename
    return [tuple(read(case.image).shape[:3]) for case in cases.pair_files(root).cases]


def table(dataset: str, found: Any, options: argparse.Namespace, cache: Path) -> str:
    """One dataset: machines down, models across."""
    from tests.compute.machines import EIGHT

    smallest, largest = ("x".join(str(pick(axis)) for axis in zip(*found, strict=True))
                         for pick in (min, max))  # fmt: skip
    rows = [
        f"## {dataset}: {len(found)} volumes, {smallest} to {largest}",
        "",
        "| machine | tier | " + " | ".join(options.models) + " |",
        "|---" * (len(options.models) + 2) + "|",
    ]
    for name in options.machines or EIGHT:
        rows.append("| " + " | ".join([name, *row(name, options.models, found, cache)]) + " |")
        print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join([*rows, ""])


def row(name: str, models: Sequence[str], found: Any, cache: Path) -> Iterator[str]:
    """The tier of a machine, then the plan of each model on it."""
    from minivess import config
    from minivess.compute import plan
    from tests.compute.machines import replay

    with tempfile.TemporaryDirectory() as folder:
        machine = replay(name, Path(folder))
    yield plan.tier(machine, config.ComputeConfig())[0].name
    for model in models:
        yield cell(machine, model, found, cache)


def cell(machine: Any, model: str, found: Any, cache: Path) -> str:
    """One plan, or why there is none."""
    from minivess import config, networks
    from minivess.compute import plan
    from minivess.errors import PlanError
    from tests.compute.shapes import profile_of

    profile = profile_of(found)
    network = networks.resolve(
        config.model(model), in_channels=1, out_channels=2, min_shape=profile.min_shape
    )
    asked = config.load([], ["training.losses=[dice_ce]"])
    try:
        made = plan.resolve(
            asked, network, profile, machine, n_train=2 * len(found) // 3, cache=cache
        )
    except PlanError as error:
        return "too thin" if "voxels along" in error.problem else "too little memory"
    step, window = made.predicted_memory_gb, made.predicted_window_gb
    return (
        f"{'x'.join(map(str, made.patch_size))} x {made.batch_size}, {made.mixed_precision}, "
        f"{max(step, window):.2f}{' J' if window > step else ''} of {made.memory_budget_gb:.1f} GB "
        f"({predecessor(model, made)})"
    )


def predecessor(model: str, made: Any) -> str:
    """GB by the predecessor's formula."""
    if model not in PREDECESSOR:
        return "-"
    base, mixed, plain = PREDECESSOR[model]
    voxels = math.prod(made.patch_size) * made.batch_size
    each = plain if made.mixed_precision == "none" else mixed
    return f"{base / 1024 + voxels * each / 1024**3:.2f}"


if __name__ == "__main__":
    main()
