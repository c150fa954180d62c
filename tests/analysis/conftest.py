"""Judgements made by hand, and tiny trained-looking members on real files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from minivess import names
from minivess.analysis import champion, paired
from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import (
    AnalysisResult,
    Case,
    CellSpec,
    Champion,
    DatasetProfile,
    Fold,
    FoldModel,
    Interval,
    Loss,
    LossTerm,
    Network,
    Scores,
    VolumeMetrics,
    VolumeStats,
    Window,
)
from minivess.evaluation import statistics

SCORES = ("dice", "cldice", "nsd", "f1", names.PRIMARY)
NETWORK = Network(
    name="tiny", family="dynunet", builder="minivess.networks:dynunet", in_channels=1,
    out_channels=2, filters=(4, 8, 16), kernel_size=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 1), (2, 2, 1)), norm="instance", deep_supervision=False,
    dropout=0.0,
)  # fmt: skip


@pytest.fixture
def judged() -> Callable[..., Scores]:
    """Make a judgement from one score per volume; distances follow from the score."""

    def make(
        name: str,
        scores: Sequence[float | None],
        *,
        parameters: int = 1000,
        members: tuple[str, ...] = (),
        groups: Sequence[str | None] | None = None,
        classes: Sequence[int] = (),
        **evaluation: str,
    ) -> Scores:
        volumes = tuple(
            VolumeMetrics(
                case=f"vol{index:02d}",
                group=groups[index] if groups else None,
                values=_values(score, classes),
            )
            for index, score in enumerate(scores)
        )
        metrics = volumes[0].values
        return Scores(
            name=name,
            members=members or (name,),
            trainable_parameters=parameters,
            intervals={
                metric: statistics.interval(
                    [volume.values[metric] for volume in volumes],
                    config=EvaluationConfig.model_validate({"bootstrap_n": 200, **evaluation}),
                    groups=groups,
                )
                for metric in metrics
            },
            volumes=volumes,
        )

    return make


def _values(score: float | None, classes: Sequence[int]) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys(SCORES, score)
    values |= dict.fromkeys(("masd", "hd95"), None if score is None else 10 * (1 - score))
    for value in classes:
        values |= {f"{name}_class{value}": values[name] for name in names.METRICS}
    return values


@pytest.fixture
def result(judged: Callable[..., Scores]) -> AnalysisResult:
    """Two families and their ensemble on six volumes."""
    families = (
        judged("dynunet_good", [0.7, 0.8, 0.75, 0.9, 0.85, 0.8]),
        judged("dynunet_fair", [0.5, 0.6, 0.45, 0.7, 0.65, 0.6]),
    )
    ensemble = judged(
        "mean_all", [0.6, 0.7, 0.6, 0.8, 0.7, 0.7], parameters=2000,
        members=("dynunet_good", "dynunet_fair"),
    )  # fmt: skip
    return AnalysisResult(
        run_id="analysis0",
        experiment="tubes",
        dataset_hash="0123456789abcdef.dir",
        training_run_ids=("parent_good", "parent_fair"),
        families=families,
        ensembles=(ensemble,),
        untrained={"dice": 0.01, "masd": 12.0, names.PRIMARY: 0.3},
        champion=Champion(
            family="dynunet_good", run_id="parent_good", metric=names.PRIMARY, value=0.8,
            reason="dynunet_good has the highest mean.",
        ),
        baseline=judged("threshold", [0.3, 0.4, 0.3, 0.5, 0.4, 0.4]),
        comparisons=paired.every_pair([*families, ensemble], ExperimentConfig()),
        selection=champion.select_again(families, ExperimentConfig()),
    )  # fmt: skip


@pytest.fixture
def profile() -> Callable[..., DatasetProfile]:
    """Make a profile of n volumes."""

    def make(n: int = 6, *, classes: tuple[int, ...] = (0, 1)) -> DatasetProfile:
        volumes = tuple(_stats(f"vol{index:02d}") for index in range(n))
        return DatasetProfile(
            run_id="profile0", dataset="tubes", dataset_path="tubes",
            dataset_hash="0123456789abcdef.dir", curated="dvc/tubes", dvc_file="dvc/tubes.dvc",
            remote=None, n_volumes=n, min_shape=(16, 16, 5), max_shape=(16, 28, 10),
            median_shape=(16, 20, 7), spacing_range=((1, 1, 1), (1, 1, 2)), is_anisotropic=False,
            total_size_gb=0.01, per_volume_mean_gb=0.001, outliers=(), warnings=(),
            classes=classes, label_map={}, volumes=volumes, findings=(),
        )  # fmt: skip

    return make


def _stats(case: str) -> VolumeStats:
    return VolumeStats(
        case=case, filename=f"images/{case}.nii.gz", label_filename=f"labels/{case}.nii.gz",
        group=None, shape=(16, 18, 5), voxel_spacing=(1, 1, 1), unit="micron", dtype="uint16",
        intensity_min=0, intensity_max=9, intensity_mean=4, intensity_std=1, percentiles={},
        foreground_ratio=0.1, label_values=(0, 1), components=1, size_bytes=9, content_hash=case,
    )  # fmt: skip


@pytest.fixture
def cases(make_dataset: Callable[..., Path]) -> dict[str, Case]:
    """Four tiny volumes as files."""
    root = make_dataset(n=4, size=16)
    return {
        name: Case(
            case=name,
            image=root / "images" / f"{name}.nii.gz",
            label=root / "labels" / f"{name}.nii.gz",
        )
        for name in (f"vol{index:02d}" for index in range(4))
    }


@pytest.fixture
def member(tmp_path: Path) -> Callable[..., FoldModel]:
    """Make a member with the weights of a seed, which trained on some volumes."""

    def make(
        family: str, index: int, train: Sequence[str], val: Sequence[str], **spec: object
    ) -> FoldModel:
        import torch

        from minivess import networks

        torch.set_num_threads(1)
        network = networks.initial(NETWORK, seed=len(family) + index)
        checkpoint = tmp_path / f"{family}_{index}" / names.FINAL
        checkpoint.parent.mkdir()
        torch.save({"weights": network.state_dict()}, checkpoint)
        values = {
            "key": f"{family}{index}", "model": "tiny", "seed": 42, "network": NETWORK,
            "loss": Loss(name=family.split("_")[1], terms=(LossTerm(loss="dice_ce"),)),
            "fold": Fold(index=index, train=tuple(train), val=tuple(val)),
            "window": Window(patch_size=(16, 16, 4), overlap=0.25, normalisation="zscore"),
            "label_map": {}, "classes": (0, 1), **spec,
        }  # fmt: skip
        return FoldModel(
            run_id=f"run_{family}{index}", parent_run_id=f"parent_{family}",
            cell_key=f"{family}{index}", family=family, spec=CellSpec.model_validate(values),
            checkpoint=checkpoint, trainable_parameters=networks.parameters(network),
            untrained={"dice": 0.1 * (index + 1), names.PRIMARY: 0.2},
        )  # fmt: skip

    return make


@pytest.fixture
def two_folds(member: Callable[..., FoldModel]) -> Callable[[str], list[FoldModel]]:
    """Both folds of a family over the four cases."""

    def make(family: str) -> list[FoldModel]:
        first, second = ("vol00", "vol01"), ("vol02", "vol03")
        return [member(family, 0, second, first), member(family, 1, first, second)]

    return make


def interval(mean: float) -> Interval:
    """An interval of no width."""
    return Interval(mean=mean, lower=mean, upper=mean, level=0.95, n=1)
