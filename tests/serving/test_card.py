from __future__ import annotations

import pytest

from minivess.contracts import (
    AnalysisResult,
    Champion,
    DatasetProfile,
    DeploymentResult,
    Engine,
    Interval,
    Parity,
    Scores,
    Smoke,
    Uncertainty,
    VolumeMetrics,
    VolumeStats,
)
from minivess.serving import card
from tests.serving.conftest import RISKS


@pytest.fixture
def profile() -> DatasetProfile:
    """Two volumes in micron."""
    volumes = tuple(
        VolumeStats(
            case=name, filename=f"images/{name}.nii.gz", label_filename=f"labels/{name}.nii.gz",
            group=None, shape=(24, 24, 5), voxel_spacing=(0.5, 0.5, 2.0), unit="micron",
            dtype="uint16", intensity_min=0, intensity_max=1, intensity_mean=0.5,
            intensity_std=0.1, percentiles={}, foreground_ratio=0.1, label_values=(0, 1),
            components=1, size_bytes=10, content_hash=name,
        )
        for name in ("a", "b")
    )  # fmt: skip
    return DatasetProfile(
        run_id="profile1", dataset="tubes", dataset_path="tubes", dataset_hash="e5f6.dir",
        curated="dvc/tubes", dvc_file="dvc/tubes.dvc", remote=None, n_volumes=2,
        min_shape=(24, 24, 5), max_shape=(24, 24, 5), median_shape=(24, 24, 5),
        spacing_range=((0.5, 0.5, 2.0), (0.5, 0.5, 2.0)), is_anisotropic=True, total_size_gb=0.1,
        per_volume_mean_gb=0.05, outliers=(), warnings=("one is dark",), classes=(0, 1),
        label_map={255: 1}, volumes=volumes, findings=(),
    )  # fmt: skip


@pytest.fixture
def analysis() -> AnalysisResult:
    """A champion with one metric, undefined on no volume."""
    dice = Interval(mean=0.8, lower=0.7, upper=0.9, level=0.95, n=2)
    judged = Scores(
        name="dynunet_dice_ce", members=("dynunet_dice_ce",), trainable_parameters=10,
        intervals={"dice": dice},
        volumes=(
            VolumeMetrics(case="a", values={"dice": 0.7}),
            VolumeMetrics(case="b", values={"dice": 0.9}),
        ),
    )  # fmt: skip
    champion = Champion(
        family="dynunet_dice_ce", run_id="train1", metric="dice", value=0.8, reason="It won."
    )
    return AnalysisResult(
        run_id="analysis1", experiment="demo", dataset_hash="e5f6.dir",
        training_run_ids=("train1",), families=(judged,), ensembles=(),
        untrained={"dice": 0.05}, champion=champion,
    )  # fmt: skip


@pytest.fixture
def result() -> DeploymentResult:
    """A deployment that passed."""
    return DeploymentResult(
        run_id="deploy1", analysis_run_id="analysis1", model_name="demo", model_version="2",
        bento_tag="demo:2",
        parity=Parity(
            volumes=("a", "b"), max_logit_difference=2e-5, mask_agreement=1.0, passed=True
        ),
        engines=(Engine(name="torch", size_mb=1, seconds_per_volume=0.5),),
        smoke=Smoke(case="a", seconds=1.0, mask_agreement=1.0, lineage={}),
    )  # fmt: skip


def test_a_card_gives_metrics_with_intervals_beside_the_untrained_network(
    result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult
) -> None:
    assert "| dice | 0.800 (0.700 to 0.900) | 0.050 |" in card.render(result, profile, analysis)


def test_a_card_gives_a_test_set_apart_and_counts_what_is_undefined(
    result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult
) -> None:
    few = Interval(mean=0.6, lower=0.5, upper=0.7, level=0.75, n=3, n_units=3, method="range")
    masd = Interval(mean=0.0012, lower=None, upper=None, level=0.95, n=1, n_undefined=1)
    (family,) = analysis.families
    judged = family.replace(intervals={"dice": few, "masd": masd})
    text = card.render(result, profile, analysis.replace(families=(judged,), test=(judged,)))
    assert "| dice | 0.600 (0.500 to 0.700) | 0.050 | 0.600 (0.500 to 0.700) |" in text
    assert "| masd (micron) | 0.0012 (1 undefined) | - | 0.0012 (1 undefined) |" in text
    assert "range of 3" in text
    assert "95%" not in text


def test_a_card_names_data_lineage_and_limits(
    result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult
) -> None:
    text = card.render(result, profile, analysis)
    for expected in (
        "255 to 1", "(0.5, 0.5, 2) micron", "e5f6.dir", "train1", "analysis1", "profile1",
        "worst volume is `a`", "one is dark", "demo:2", "It won.",
    ):  # fmt: skip
        assert expected in text


def test_an_undefined_value_is_a_dash(
    result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult
) -> None:
    empty = Interval(mean=None, lower=None, upper=None, level=0.95, n=0)
    (family,) = analysis.families
    undefined = analysis.replace(
        families=(family.replace(intervals={"masd": empty}),), untrained={}
    )
    assert "| masd (micron) | - | - |" in card.render(result, profile, undefined)


def test_a_card_gives_the_thresholds_with_what_they_promise(
    result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult
) -> None:
    known = Uncertainty(
        name="dynunet_dice_ce", volumes=12, temperature=1.1, parts=(), reliability=(), risks=RISKS
    )
    text = card.render(result, profile, analysis.replace(uncertainty=known))
    assert (
        "| 0.310 | missed foreground of a new volume is at most 0.2 on average "
        "(12 volumes out of fold) |"
    ) in text
    assert "| - | no threshold of false foreground: 2 volumes out of fold give alpha 0.333" in text
    other = analysis.replace(uncertainty=known.replace(name="another"))
    assert "guarantee" not in card.render(result, profile, other)
