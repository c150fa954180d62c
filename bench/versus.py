"""Dice and clDice against nnU-Net v2, trained for the same processor time on the same folds.

Each side gets `--budget` processor seconds for the training of a fold, in one thread; processor
time, because a shared clock is nobody's. nnU-Net's augmenting process is not counted. Ours trains
a shipped experiment file, with as many epochs as fit. Of both the weights after the last step are
judged, whatever the file says, and all masks by our metrics.
    just bench versus --data FOLDER --nnunet PYTHON [--words data.label_map.255=1 ...]
`--data two-photon` makes large stacks of our own. A third row is the best fixed threshold: of the
raw intensities, chosen on the training volumes of each fold. Beside the figures of our masks stands
how much of their foreground another place of the windows changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from minivess import config as configs
from minivess import home, inference, names
from minivess.contracts import CellResult, ComputePlan, Spacing
from minivess.data.pairing.cases import pair_files
from minivess.demo import phantom
from minivess.evaluation import metrics, statistics
from minivess.formats import volume
from minivess.grid import context, families
from minivess.inference import Predictor
from minivess.orchestration.session import Session, open_orchestrator
from minivess.stages.dataset_scan import scan_dataset
from minivess.stages.profile import measure, summary
from minivess.training import trainer

HERE = Path(__file__).parent
STACKS = "two-photon"
LEVELS = np.linspace(0.5, 0.995, 100)
"""Quantiles of the intensities that are tried as thresholds."""
SHOWN = ("dice", "cldice", "masd", "hd95", "nsd", names.PRIMARY)
Loaded = tuple[inference.Array, npt.NDArray[np.uint8], Spacing]
Rows = dict[str, dict[str, float | None]]


def main() -> None:
    """Train every fold on both sides, judge, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder, or two-photon")
    parser.add_argument("--nnunet", type=Path, help="python of an environment with nnunetv2")
    parser.add_argument("--budget", type=float, default=600, help="processor seconds for a fold")
    parser.add_argument("--file", type=Path, default=Path("configs/experiments/lite.yaml"))
    parser.add_argument("--words", nargs="*", default=[])
    parser.add_argument("--folds", type=int, nargs="+", help="which; none: all")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if str(options.data) == STACKS and not options.data.exists():
            made = Path(folder) / STACKS
            options.data = phantom.make_phantoms(made, n=8, seed=7, like=STACKS)
        side = Ours(options, Path(folder))
        found: dict[str, Rows] = {"ours": {}, "threshold": {}, "nnU-Net": {}}
        for cell in side.family.cells:
            if options.folds and cell.fold.index not in options.folds:
                continue
            found["ours"] |= side.train(cell)
            found["threshold"] |= thresholded(side, cell)
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
        """Trainings of two and of six epochs tell how many fit, then those are trained."""
        (_, short), (_, longer) = (self.cell(cell, n, f"short{n}") for n in (2, 6))
        each = (longer - short) / 4
        epochs = max(2, int((self.budget - (short - 2 * each)) / each))
        result, seconds = self.cell(cell, epochs, "whole")
        print(
            f"ours, fold {cell.fold.index}: {self.family.name}, {epochs} epochs of "
            f"{self.plan.iterations_per_epoch} iterations, {seconds:.0f} processor seconds, "
            f"patch {self.plan.patch_size}, batch {self.plan.batch_size}, "
            f"{self.plan.mixed_precision}, {result.trainable_parameters} parameters; "
            f"shares {json.dumps({n: round(x, 4) for n, x in result.time_shares.items()})}",
            flush=True,
        )
        self.print_marks(cell, self.folder / f"whole{cell.fold.index}" / result.checkpoint)
        return {row.case: row.values for row in result.volumes}

    def print_marks(self, cell: families.Cell, checkpoint: Path) -> None:
        """The share of the foreground that changes where windows begin elsewhere."""
        spec = self.grid.spec(self.family, cell)
        predictor = Predictor.of(spec.network, spec.window, checkpoint)
        images = (self.loaded(case)[0] for case in cell.fold.val)
        counted = np.sum([window_marks(predictor, image) for image in images], axis=0)
        shares = (f"{changed / max(1, total):.1%}" for changed, total in counted)
        print("  changed by other windows: {} in their overlaps, {} elsewhere".format(*shares))

    def loaded(self, case: str) -> Loaded:
        """The image with raw intensities, the class indices of its label, and its spacing."""
        profile, config = self.grid.profile, self.session.config
        image, label, read = volume.load(
            self.grid.cases[case], label_map=profile.label_map, resampling=config.data.resampling
        )
        assert label is not None
        return image, volume.class_indices(label, profile.classes, case), read.spacing

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


def window_marks(predictor: Predictor, image: inference.Array) -> npt.NDArray[np.int64]:
    """(changed voxels, voxels) of the foreground, in overlaps of windows and elsewhere."""
    normal, shape = inference.normalise(image, predictor.window), image.shape[1:]
    cuts, overlaps = [], np.zeros(shape, dtype=bool)
    sides = inference.roi(shape, predictor.window, predictor.divisor)
    for axis, (extent, side) in enumerate(zip(shape, sides, strict=True)):
        stride = max(1, int(side * (1 - predictor.window.overlap)))
        starts = [*range(0, max(1, extent - side), stride), max(0, extent - side)]
        cuts.append(stride // 2 if side < extent else 0)
        for start, following in itertools.pairwise(starts):
            band = [slice(None)] * 3
            band[axis] = slice(following, start + side)
            overlaps[tuple(band)] |= side < extent
    cut = tuple(slice(start, None) for start in cuts)
    # Beside the cut both differ for lack of context.
    inside = tuple(slice(8 if start else 0, None) for start in cuts)
    first = inference.mask(predictor.logits(normal))[cut][inside] > 0
    other = inference.mask(predictor.logits(normal[(slice(None), *cut)]))[inside] > 0
    parts = (overlaps[cut][inside], ~overlaps[cut][inside])
    return np.array([[((first != other) & p).sum(), ((first | other) & p).sum()] for p in parts])


def thresholded(side: Ours, cell: families.Cell) -> Rows:
    """Foreground where the raw intensity exceeds what is best over the training volumes."""
    profile, config = side.grid.profile, side.session.config
    if len(profile.classes) > 2:
        return {}
    best = best_threshold([side.loaded(case) for case in cell.fold.train])
    print(f"best threshold of the training volumes: {best:g}", flush=True)
    found: Rows = {}
    for case in cell.fold.val:
        image, label, spacing = side.loaded(case)
        found[case] = metrics.judge(
            (image[0] > best).astype(np.uint8), label,
            classes=profile.classes, config=config.evaluation, spacing=spacing,
        )  # fmt: skip
    return found


def best_threshold(train: list[Loaded]) -> float:
    """The level with the highest Dice over all voxels."""
    levels = np.quantile(np.concatenate([image.ravel()[::7] for image, *_ in train]), LEVELS)
    dice = []
    for level in levels:
        masks = [(image[0] > level, label > 0) for image, label, _ in train]
        both = sum(int((mask & truth).sum()) for mask, truth in masks)
        either = sum(int(mask.sum() + truth.sum()) for mask, truth in masks)
        dice.append(2 * both / max(1, either))
    return float(levels[np.argmax(dice)])


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
    _, truth, spacing = side.loaded(case)
    array = volume.read_volume(mask).array.astype(np.uint8)
    guess = volume.class_indices(array, profile.classes, case)
    return metrics.judge(
        guess, truth, classes=profile.classes, config=config.evaluation, spacing=spacing
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
        print(f"  {metric:<22} {'   '.join(shown)}", flush=True)
        for who in [who for who in found if who != "ours" and found[who]]:
            gap = statistics.difference(columns["ours"], columns[who], config=config, groups=groups)
            print(f"  {'':<22} ours less {who} {interval(gap)}", flush=True)


def interval(found: Any) -> str:
    """`0.812 [0.790, 0.834]`."""
    if found.mean is None:
        return "-"
    ends = "" if found.lower is None else f" [{found.lower:.3f}, {found.upper:.3f}]"
    return f"{found.mean:.3f}{ends}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
