"""A cell small enough to train in seconds: tiny tubes, a small network, a plan made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minivess import networks
from minivess.config import ExperimentConfig, ModelConfig
from minivess.contracts import Case, CellResult, CellSpec, ComputePlan, Fold, Loss, LossTerm, Window
from minivess.training import trainer
from tests.conftest import tube, write_nifti

SHAPE = (24, 24, 8)


def make_cases(root: Path, n: int = 5, spacing: tuple[float, ...] = (1, 1, 1)) -> dict[str, Case]:
    """Tubes on disk, by case id."""
    cases = {}
    for index in range(n):
        image, mask = tube(SHAPE, seed=index)
        cases[f"vol{index}"] = Case(
            case=f"vol{index}",
            image=write_nifti(root / f"images/vol{index}.nii.gz", image, spacing),
            label=write_nifti(root / f"labels/vol{index}.nii.gz", mask, spacing),
        )
    return cases


def make_config(evaluation: dict[str, Any] | None = None, **training: Any) -> ExperimentConfig:
    """Three epochs, topology metrics every second one."""
    return ExperimentConfig.model_validate(
        {
            "training": {"max_epochs": 3, "learning_rate": 5e-3, "figure_interval": 2, **training},
            "evaluation": {"interval_epochs": 2, **(evaluation or {})},
        }
    )


def make_spec(
    terms: tuple[LossTerm, ...] = (LossTerm(loss="dice_ce"),), **changes: Any
) -> CellSpec:
    """Fold 0 of five volumes, DynUNet with three levels."""
    model = {"name": "dynunet", "family": "dynunet", "builder": "minivess.networks:dynunet"}
    network = networks.resolve(
        ModelConfig.model_validate({**model, "filters": (4, 8, 16), **changes.pop("model", {})}),
        in_channels=1,
        out_channels=len(changes.get("classes", (0, 1))),
        min_shape=SHAPE,
    )
    spec = CellSpec(
        key="a-key",
        model="dynunet",
        loss=Loss(name="a_loss", terms=terms),
        seed=7,
        fold=Fold(index=0, train=("vol2", "vol0", "vol1"), val=("vol3", "vol4")),
        network=network,
        window=Window(patch_size=(16, 16, 8), overlap=0.25, normalisation="zscore"),
        label_map={},
        classes=(0, 1),
    )
    return spec.replace(**changes)


def make_plan(spec: CellSpec, **changes: Any) -> ComputePlan:
    """One thread, everything in memory."""
    plan = ComputePlan(
        tier="cpu",
        device="cpu",
        patch_size=spec.window.patch_size,
        batch_size=2,
        num_workers=0,
        cache_rate=1.0,
        mixed_precision="none",
        threads=1,
        iterations_per_epoch=4,
        divisor=(4, 4, 2),
        predicted_memory_gb=0.1,
        memory_budget_gb=1.0,
        choices={},
    )
    return plan.replace(**changes)


class Heard:
    """What the callbacks of a training were told."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.metrics: list[dict[str, float]] = []
        self.figures: list[Path] = []

    def epoch(self, epoch: int, metrics: dict[str, float], left_s: float | None) -> None:
        """Note one epoch."""
        self.epochs.append(epoch)
        self.metrics.append(dict(metrics))


def train(
    folder: Path,
    cases: dict[str, Case],
    *,
    spec: CellSpec | None = None,
    plan: dict[str, Any] | None = None,
    config: ExperimentConfig | None = None,
    heard: Heard | None = None,
    resume: bool = True,
) -> CellResult:
    """Train the tiny cell."""
    spec, heard = spec or make_spec(), heard or Heard()
    return trainer.train_cell(
        spec,
        make_plan(spec, **(plan or {})),
        config or make_config(),
        cases,
        folder=folder,
        callbacks=trainer.Callbacks(heard.epoch, heard.figures.append),
        resume=resume,
    )
