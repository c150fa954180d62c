"""nnU-Net v2's side of bench/train.py and bench/versus.py, run by a Python that has nnunetv2.

steps ASKED: its loaders and train_step, so many iterations for each number on standard input.
fit ASKED: preprocess, train for a budget of processor time, predict the validation volumes.
Tried with nnunetv2 2.5.2 and dynamic-network-architectures 0.3.1, whose learning-rate scheduler
passes an argument too many to the torch of today (the third of its `super().__init__`; drop it).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ASKED: dict[str, Any] = json.loads(sys.argv[2])
FOLDER = Path(ASKED["folder"])
NAME = "Dataset901_Bench"
for part in ("raw", "preprocessed", "results"):
    os.environ[f"nnUNet_{part}"] = str(FOLDER / part)
os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}

import nibabel as nib  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from nnunetv2.experiment_planning import plan_and_preprocess_api as planning  # noqa: E402
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO  # noqa: E402
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: E402
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import (  # noqa: E402
    nnUNetTrainer_5epochs,
)


def main() -> None:
    """Be one of the two."""
    torch.set_num_threads(ASKED["threads"])
    torch.set_num_interop_threads(1)
    if not (FOLDER / "preprocessed" / NAME / "nnUNetPlans.json").exists():
        prepare()
    plans = read(FOLDER / "preprocessed" / NAME / "nnUNetPlans.json")
    {"steps": steps, "fit": fit}[sys.argv[1]](plans)


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def prepare() -> None:
    """The dataset in nnU-Net's layout, its fingerprint, plans and preprocessed volumes."""
    raw = FOLDER / "raw" / NAME
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    highest = 0
    for case, (image, label) in ASKED["cases"].items():
        nib.save(nib.Nifti1Image.from_filename(image), raw / "imagesTr" / f"{case}_0000.nii.gz")
        mask = nib.Nifti1Image.from_filename(label)
        highest = max(highest, int(mask.get_fdata().max()))
        nib.save(mask, raw / "labelsTr" / f"{case}.nii.gz")
    described = {
        "channel_names": {"0": "image"},
        "labels": {"background": 0, **{f"class{i}": i for i in range(1, highest + 1)}},
        "numTraining": len(ASKED["cases"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))
    planning.extract_fingerprints([901], num_processes=1)
    planning.plan_experiments([901])
    planning.preprocess([901], configurations=("3d_fullres",), num_processes=(1,))
    if "split" in ASKED:
        splits = FOLDER / "preprocessed" / NAME / "splits_final.json"
        splits.write_text(json.dumps([ASKED["split"]]))


def trainer(plans: Any, kind: type[nnUNetTrainer], fold: int | str) -> nnUNetTrainer:
    """A trainer that has its network; progress goes to its own log file only."""
    made = kind(
        plans, "3d_fullres", fold, read(FOLDER / "preprocessed" / NAME / "dataset.json"),
        device=torch.device(ASKED["device"]),
    )  # fmt: skip
    made.plot_network_architecture = lambda: None
    made.initialize()
    return made


# --- steps --------------------------------------------------------------------------------


class Plain(nnUNetTrainer):
    """Without deep supervision, and without augmentation where that is asked."""

    def initialize(self) -> None:
        self.enable_deep_supervision = False
        super().initialize()

    def get_dataloaders(self) -> Any:
        if not ASKED["augment"]:
            self.get_training_transforms = lambda *a, **k: self.get_validation_transforms(a[2])
        return super().get_dataloaders()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if ASKED["augment"]:
            return found
        return *found[:2], self.configuration_manager.patch_size, None


def steps(plans: Any) -> None:
    """Train as many iterations as each line says, and tell what they took."""
    configuration = plans["configurations"]["3d_fullres"]
    levels = len(ASKED["filters"])
    configuration |= {"patch_size": ASKED["patch"][::-1], "batch_size": ASKED["batch"]}
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": levels,
        "features_per_stage": ASKED["filters"],
        "strides": [stride[::-1] for stride in ASKED["strides"]],
        "kernel_sizes": [kernel[::-1] for kernel in ASKED["kernels"]],
        "n_conv_per_stage": [2] * levels,
        "n_conv_per_stage_decoder": [2] * (levels - 1),
    }
    made = trainer(plans, Plain, "all")
    made.on_train_start()
    made.on_train_epoch_start()
    tell({"parameters": sum(weight.numel() for weight in made.network.parameters())})
    for line in sys.stdin:
        begun, before = time.perf_counter(), spent()
        for _ in range(int(line)):
            made.train_step(next(made.dataloader_train))
        if ASKED["device"] == "cuda":
            torch.cuda.synchronize()
        found = {"wall": time.perf_counter() - begun, "cpu": spent() - before}
        tell({name: x / int(line) for name, x in found.items()})
    end(made)


def end(made: nnUNetTrainer) -> None:
    """Leave no augmenting process behind."""
    for loader in (made.dataloader_train, made.dataloader_val):
        loader._finish()
    os._exit(0)


# --- fit ----------------------------------------------------------------------------------


def fit(plans: Any) -> None:
    """Train on the fold for `budget` processor seconds of this process, then predict.

    The rate falls by nnU-Net's own rule, with the share of the budget in place of the share of
    epochs. Its augmenting process and its mirrored predictions cost it nothing here.
    """
    made = trainer(plans, nnUNetTrainer_5epochs, 0)
    made.on_train_start()
    begun, iterations = spent(children=False), 0
    while (done := (spent(children=False) - begun) / ASKED["budget"]) < 1:
        for group in made.optimizer.param_groups:
            group["lr"] = made.initial_lr * (1 - done) ** 0.9
        made.network.train()
        for _ in range(5):
            made.train_step(next(made.dataloader_train))
        iterations += 5
    seconds = spent(children=False) - begun
    predict(made, plans)
    configuration = plans["configurations"]["3d_fullres"]
    tell({
        "iterations": iterations, "seconds": seconds, "patch": configuration["patch_size"],
        "batch": configuration["batch_size"],
        "parameters": sum(weight.numel() for weight in made.network.parameters()),
    })  # fmt: skip
    end(made)


def predict(made: nnUNetTrainer, plans: Any) -> None:
    """The masks of the fold's validation volumes, by nnU-Net's own predictor with its defaults."""
    made.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=torch.device(ASKED["device"]), allow_tqdm=False)
    predictor.manual_initialization(
        made.network, made.plans_manager, made.configuration_manager,
        [made.network.state_dict()], made.dataset_json, "nnUNetTrainer_5epochs",
        made.inference_allowed_mirroring_axes,
    )  # fmt: skip
    out = FOLDER / "predicted"
    out.mkdir(exist_ok=True)
    for case in ASKED["split"]["val"]:
        image = FOLDER / "raw" / NAME / "imagesTr" / f"{case}_0000.nii.gz"
        array, properties = SimpleITKIO().read_images([str(image)])
        predictor.predict_single_npy_array(array, properties, None, str(out / case), False)


# --- either -------------------------------------------------------------------------------


def tell(found: dict[str, Any]) -> None:
    """One line for whoever started this; nnU-Net prints many others."""
    print(f"TOLD {json.dumps(found)}", flush=True)


def spent(*, children: bool = True) -> float:
    """Processor seconds of this process and of its augmenting processes."""
    me = psutil.Process()
    all_of_us = [me, *(me.children(recursive=True) if children else [])]
    return sum(sum(process.cpu_times()[:2]) for process in all_of_us)


if __name__ == "__main__":
    main()
