"""Dice and clDice against nnU-Net v2, trained for the same processor time on the same folds.

Each side gets `--budget` processor seconds for the training of a fold, in one thread; processor
time, because a shared clock is nobody's. nnU-Net's augmenting process is not counted. Ours trains
a shipped experiment file, with as many epochs as fit. Of both the weights after the last step are
judged, whatever the file says, and all masks by our metrics.
    just bench versus --data FOLDER --nnunet PYTHON [--words data.label_map.255=1 ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from minivess import config as configs
from minivess import home, names
from minivess.contracts import CellResult, ComputePlan
from minivess.data.formats import volume
from minivess.data.pairing.cases import pair_files
from minivess.evaluation import metrics, statistics
from minivess.grid import context, families
from minivess.orchestration.session import Session, open_orchestrator
from minivess.stages.dataset_scan import scan_dataset
from minivess.stages.profile import measure, summary
from minivess.training import trainer

HERE = Path(__file__).parent
SHOWN = ("dice", "cldice", "masd", "hd95", "nsd", names.PRIMARY)
Rows = dict[str, dict[str, float | None]]


def main() -> None:
    """Train every fold on both sides, judge, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, help="python of an environment with nnunetv2")
    parser.add_argument("--budget", type=float, default=600, help="processor seconds for a fold")
    parser.add_argument("--file", type=Path, default=Path("configs/experiments/lite.yaml"))
    parser.add_argument("--words", nargs="*", default=[])
    parser.add_argument("--folds", type=int, nargs="+", help="which; none: all")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        side = Ours(options, Path(folder))
        found: dict[str, Rows] = {"ours": {}, "nnU-Net": {}}
        for cell in side.family.cells:
            if options.folds and cell.fold.index not in options.folds:
                continue
            found["ours"] |= side.train(cell)
            if options.nnunet:
                found["nnU-Net"] |= theirs(options, side, cell)
            else:
                print("nnU-Net is left out: no --nnunet PYTHON")
            report(side, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


class Ours:
    """Profile, folds and plan as `minivess train` makes them, and the training itself."""

    def __init__(self, options: Any, folder: Path) -> None:
        self.budget, self.folder = options.budget, folder
        env = configs.Environment(home=folder / "home", prefect_disabled=True)
        asked = [f"data.root={options.data}", "training.threads=1", *options.words]
        config = configs.load([options.file], asked, env)
        with open_orchestrator(home.open_home(env.home), env) as orchestrator:
            self.session = Session(config, env, orchestrator.home, orchestrator)
            scan = scan_dataset(self.session)
            profile = summary(self.session, scan, measure(self.session, scan))
            self.family = families.families(config, profile)[-1]
            hardware = context.measure_hardware(self.session)
            model = context.plan_model(self.session, profile, hardware, self.family)
        cases = {case.case: case for case in pair_files(options.data).cases}
        models = {self.family.model.name: model}
        self.grid = context.GridContext(self.session, profile, cases, hardware, models)

    @property
    def plan(self) -> ComputePlan:
        """What the product chose for this machine."""
        return self.grid.model(self.family).plan

    def train(self, cell: families.Cell) -> Rows:
        """Two epochs tell how many fit, then those are trained."""
        _, short = self.cell(cell, 2, "short")
        epochs = max(2, int(self.budget / (short / 2)))
        result, seconds = self.cell(cell, epochs, "whole")
        print(
            f"ours, fold {cell.fold.index}: {self.family.name}, {epochs} epochs of "
            f"{self.plan.iterations_per_epoch} iterations, {seconds:.0f} processor seconds, "
            f"patch {self.plan.patch_size}, batch {self.plan.batch_size}, "
            f"{self.plan.mixed_precision}, {result.trainable_parameters} parameters; "
            f"shares {json.dumps({n: round(x, 4) for n, x in result.time_shares.items()})}",
            flush=True,
        )
        return {row.case: row.values for row in result.volumes}

    def cell(self, cell: families.Cell, epochs: int, name: str) -> tuple[CellResult, float]:
        """The cell trained for so many epochs, and the processor seconds that this took."""
        asked = {"max_epochs": epochs, "judged_epoch": "last"}
        training = self.session.config.training.model_copy(update=asked)
        config = self.session.config.model_copy(update={"training": training})
        begun = time.process_time()
        result = trainer.train_cell(
            self.grid.spec(self.family, cell), self.plan, config,
            self.grid.cases, folder=self.folder / f"{name}{cell.fold.index}",
            callbacks=trainer.Callbacks(epoch=lambda *_: None, figure=lambda _: None),
        )  # fmt: skip
        return result, time.process_time() - begun


def theirs(options: Any, side: Ours, cell: families.Cell) -> Rows:
    """nnU-Net with its own plans on the same fold, judged by our metrics."""
    folder = side.folder / f"nnunet{cell.fold.index}"
    asked = {
        "cases": {
            case: [str(side.grid.cases[case].image), str(side.grid.cases[case].label)]
            for case in (*cell.fold.train, *cell.fold.val)
        },
        "split": {"train": list(cell.fold.train), "val": list(cell.fold.val)},
        "folder": str(folder), "budget": side.budget, "threads": 1, "device": "cpu",
    }  # fmt: skip
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [options.nnunet, "-P", HERE / "nnunet_side.py", "fit", json.dumps(asked)],
        capture_output=True, text=True, check=False, env=outside,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(ran.stdout[-2000:] + ran.stderr)
    print(
        f"nnU-Net, fold {cell.fold.index}: {ran.stdout.rpartition('TOLD ')[2].strip()}", flush=True
    )
    return {
        case: judged(side, case, folder / "predicted" / f"{case}.nii.gz") for case in cell.fold.val
    }


def judged(side: Ours, case: str, mask: Path) -> dict[str, float | None]:
    """nnU-Net's mask by the metrics of `train_cell`; its class numbers are those of the label."""
    profile, config = side.grid.profile, side.session.config
    _, label, read = volume.load(
        side.grid.cases[case], label_map=profile.label_map, resampling=config.data.resampling
    )
    guess, truth = (
        volume.class_indices(array, profile.classes, case)
        for array in (
            volume.read_volume(mask).array.astype(np.uint8),
            cast(npt.NDArray[np.uint8], label),
        )
    )
    return metrics.judge(
        guess, truth, classes=profile.classes, config=config.evaluation, spacing=read.spacing
    )


def report(side: Ours, found: dict[str, Rows]) -> None:
    """Mean and interval of each side, and of their difference, groups resampled whole."""
    config = side.session.config.evaluation
    cases = sorted(found["ours"])
    groups = [side.grid.cases[case].group or case for case in cases]
    for metric in SHOWN:
        columns = {who: [rows.get(c, {}).get(metric) for c in cases] for who, rows in found.items()}
        shown = [
            f"{who} {interval(statistics.interval(values, config=config, groups=groups))}"
            for who, values in columns.items()
        ]
        gap = statistics.difference(*columns.values(), config=config, groups=groups)
        print(f"  {metric:<22} {'   '.join(shown)}   difference {interval(gap)}", flush=True)


def interval(found: Any) -> str:
    """`0.812 [0.790, 0.834]`."""
    if found.mean is None:
        return "-"
    ends = "" if found.lower is None else f" [{found.lower:.3f}, {found.upper:.3f}]"
    return f"{found.mean:.3f}{ends}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
