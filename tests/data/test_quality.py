"""Every kind of bad volume has its code and severity, and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minivess.config import DataConfig
from minivess.contracts import Case, Finding, VolumeStats
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling.measurement import measure
from minivess.data.profiling.quality import check_pairing, check_set, robust_z
from tests.conftest import tube, write_nifti


def case_of(
    root: Path, image: np.ndarray | None = None, label: np.ndarray | None = None, **spacing: tuple
) -> Case:
    good_image, good_label = tube((16, 18, 6), seed=0)
    return Case(
        case="a",
        image=write_nifti(
            root / "images" / "a.nii.gz",
            good_image if image is None else image,
            spacing.get("spacing", (1, 1, 1)),
        ),
        label=write_nifti(
            root / "labels" / "a.nii.gz",
            good_label if label is None else label,
            spacing.get("label_spacing", spacing.get("spacing", (1, 1, 1))),
        ),
    )


def test_a_good_volume_has_no_findings(tmp_path: Path) -> None:
    assert measure(case_of(tmp_path, spacing=(0.5, 0.5, 2)), config=DataConfig())[1] == []


def test_last_digits_of_an_affine_are_no_mismatch(tmp_path: Path) -> None:
    spacing, label_spacing = (0.5, 0.5, 2.0), (0.500001, 0.5, 1.99999)
    case = case_of(tmp_path, spacing=spacing, label_spacing=label_spacing)
    assert measure(case, config=DataConfig())[1] == []


def test_unpaired_files_are_findings(make_dataset: Callable[..., Path]) -> None:
    root = make_dataset(3)
    (root / "labels" / "vol01.nii.gz").unlink()
    (root / "images" / "vol02.nii.gz").unlink()
    codes = {finding.code: finding.case for finding in check_pairing(pair_files(root))}
    assert codes == {"missing_label": "vol01", "extra_label": "vol02"}


# --- the set ------------------------------------------------------------------------------


def stats_of(index: int, **changes: object) -> VolumeStats:
    values: dict[str, object] = {
        "case": f"v{index}",
        "filename": f"images/v{index}.nii.gz",
        "label_filename": f"labels/v{index}.nii.gz",
        "group": None,
        "shape": (512, 512, 5 + 3 * index),
        "voxel_spacing": (0.5 + 0.01 * index, 0.5 + 0.01 * index, 1.0 + 0.1 * index),
        "unit": "micron",
        "dtype": "uint16",
        "intensity_min": 0.0,
        "intensity_max": 4095.0,
        "intensity_mean": 300.0 + 5 * index,
        "intensity_std": 80.0,
        "percentiles": {},
        "foreground_ratio": 0.05 + 0.002 * index,
        "label_values": (0, 1),
        "components": 3,
        "size_bytes": 1000,
        "content_hash": str(index),
    }
    return VolumeStats.model_validate(values | changes)


def codes(findings: list[Finding]) -> set[tuple[str, str | None]]:
    return {(finding.code, finding.case) for finding in findings}


def test_an_ordinary_set_has_no_findings() -> None:
    assert check_set([stats_of(i) for i in range(20)], {}, outlier_z=6.0) == []


def test_a_planted_spacing_of_4_97_um_is_flagged() -> None:
    stats = [stats_of(i) for i in range(20)]
    stats[7] = stats_of(7, voxel_spacing=(4.97, 4.97, 5.0))
    assert codes(check_set(stats, {}, outlier_z=6.0)) == {("outlier", "v7")}


def test_one_different_spacing_among_equal_ones_is_flagged() -> None:
    stats = [stats_of(i, voxel_spacing=(0.5, 0.5, 1.0)) for i in range(8)]
    stats[3] = stats_of(3, voxel_spacing=(1.0, 0.5, 1.0))
    assert codes(check_set(stats, {}, outlier_z=6.0)) == {("outlier", "v3")}


def test_equal_sizes_in_other_units_are_no_outliers_but_said() -> None:
    stats = [stats_of(i, voxel_spacing=(0.5, 0.5, 1.0)) for i in range(8)]
    stats[3] = stats_of(3, voxel_spacing=(0.0005, 0.0005, 0.001), unit="mm")
    (found,) = check_set(stats, {}, outlier_z=6.0)
    assert found.code == "mixed_units"
    assert "micron, mm" in found.message


@pytest.mark.parametrize(
    "odd", [{"shape": (32, 512, 20)}, {"intensity_mean": 9000.0}, {"foreground_ratio": 0.9}]
)
def test_other_outliers_are_flagged(odd: dict[str, object]) -> None:
    stats = [stats_of(i) for i in range(20)]
    stats[4] = stats_of(4, **odd)
    assert codes(check_set(stats, {}, outlier_z=6.0)) == {("outlier", "v4")}


def test_the_limit_is_the_users() -> None:
    stats = [stats_of(i) for i in range(20)]
    stats[7] = stats_of(7, voxel_spacing=(4.97, 4.97, 5.0))
    assert check_set(stats, {}, outlier_z=1000.0) == []


def test_a_robust_z_is_in_units_of_a_normal_standard_deviation() -> None:
    values = np.random.default_rng(0).normal(5, 2, 20000)
    assert np.std(robust_z(values, 1e-9)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "same", [{"content_hash": "0"}, {"shape": (512, 512, 5), "intensity_mean": 300.0}]
)
def test_equal_bytes_or_equal_voxels_are_named(same: dict[str, object]) -> None:
    stats = [stats_of(0), stats_of(1, **same), stats_of(2)]
    (finding,) = check_set(stats, {}, outlier_z=6.0)
    assert (finding.code, finding.case, finding.severity) == ("duplicate", "v1", "warning")
    assert "v0" in finding.message


def test_masks_of_0_and_255_stop_with_the_one_line_that_goes_on() -> None:
    stats = [stats_of(i, label_values=(0, 255)) for i in range(3)]
    (finding,) = check_set(stats, {}, outlier_z=6.0)
    assert (finding.code, finding.severity, finding.case) == ("label_values", "error", None)
    assert finding.remedy == "data.label_map.255=1"


def test_classes_may_be_missing_from_single_volumes() -> None:
    values = ((0, 1, 2), (0, 1), (0,), (0, 2))
    stats = [stats_of(i, label_values=present) for i, present in enumerate(values)]
    assert check_set(stats, {}, outlier_z=6.0) == []


def test_labels_without_any_foreground_stop_the_set() -> None:
    (finding,) = check_set([stats_of(i, label_values=(0,)) for i in range(3)], {}, outlier_z=6.0)
    assert (finding.code, finding.severity, finding.case) == ("empty_label", "error", None)
