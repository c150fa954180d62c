"""Plans of eight machines x five models x three datasets: writes the tables of docs/compute.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CLONE))

MODELS = ("dynunet", "unet", "segresnet", "swinunetr", "vista3d")
PAGE = CLONE / "docs" / "compute.md"
BEGIN, END = "<!-- plans: begin (just bench plans) -->", "<!-- plans: end -->"
DATASETS = {
    # 70 volumes of 512x512 with 5 to 110 slices, spread evenly.
    "MiniVess": [(512, 512, 5 + round(105 * place / 69)) for place in range(70)],
    "OCTA": [(64, 64, z) for z in (5, 6, 7, 9, 9, 12, 15, 21, 24, 40, 44, 60)],
    "hippocampus": [(33, 48, 38), (36, 46, 43), (42, 51, 28), (34, 53, 34), *[(36, 50, 36)] * 28],
}


def main() -> None:
    """Write the tables between the two marks of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="print instead of writing")
    parser.add_argument("--models", nargs="+", default=MODELS)
    options = parser.parse_args()
    tables = "\n".join(table(name, options.models) for name in DATASETS)
    if options.print:
        print(tables)
        return
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables}\n{END}{tail}", encoding="utf-8")


def table(dataset: str, models: Any) -> str:
    """One dataset: machines down, models across."""
    from tests.compute.machines import EIGHT, replay

    shapes = DATASETS[dataset]
    lines = [
        f"### {dataset}: {len(shapes)} volumes, smallest "
        f"{'x'.join(str(min(axis)) for axis in zip(*shapes, strict=True))}",
        "",
        "| machine | " + " | ".join(models) + " |",
        "|---" * (len(models) + 1) + "|",
    ]
    for name in EIGHT:
        with tempfile.TemporaryDirectory() as folder:
            machine = replay(name, Path(folder))
        cells = [cell(machine, model, shapes) for model in models]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join([*lines, ""])


def cell(machine: Any, model: str, shapes: Any) -> str:
    """Patch, batch, precision and memory, or why there is no plan."""
    from minivess import config, networks
    from minivess.compute import plan
    from minivess.errors import PlanError

    profile = dataset(shapes)
    network = networks.resolve(
        config.model(model), in_channels=1, out_channels=2, min_shape=profile.min_shape
    )
    settings = config.load([], ["training.losses=[dice_ce]"])
    # The tables are of the machines named, not of this one, where torch may see no GPU.
    plan._device = lambda asked, tier, found: (
        ("cuda", "a GPU") if tier.name != "cpu" else ("cpu", "no GPU")
    )
    try:
        found = plan.resolve(settings, network, profile, machine, n_train=2 * len(shapes) // 3)
    except PlanError as error:
        return "none: " + ("too thin" if "voxels along" in error.problem else "too little memory")
    patch = "x".join(map(str, found.patch_size))
    needed = max(found.predicted_memory_gb, found.predicted_window_gb)
    return f"{patch}, batch {found.batch_size}, {found.mixed_precision}, {needed:.1f} GB"


def dataset(shapes: Any) -> Any:
    """A profile known by its shapes."""
    from tests.compute.shapes import profile_of

    return profile_of(shapes)


if __name__ == "__main__":
    main()
