"""Voxel sizes change only where asked for, over the same box of space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minivess.config import ResamplingConfig
from minivess.contracts import Case
from minivess.errors import DataError
from minivess.formats.resampling import by_spacing
from minivess.formats.volume import load
from tests.conftest import tube, write_nifti


@pytest.fixture
def case(tmp_path: Path) -> Case:
    image, mask = tube((16, 20, 6), seed=1)
    return Case(
        case="a",
        image=write_nifti(tmp_path / "image.nii.gz", image, (1, 1, 2)),
        label=write_nifti(tmp_path / "label.nii.gz", mask, (1, 1, 2)),
    )


def test_spacing_makes_isotropic_voxels_of_image_and_label_alike(case: Case) -> None:
    config = ResamplingConfig(enabled=True, method="spacing", target_spacing=(1, 1, 1))
    image, label, volume = load(case, label_map={}, resampling=config)
    assert image.shape == (1, 16, 20, 12)
    assert label.shape == (16, 20, 12)
    assert volume.spacing == pytest.approx((1, 1, 1))
    assert set(np.unique(label)) == {0, 1}


def test_the_resampled_grid_covers_the_same_box(case: Case) -> None:
    native = load(case, label_map={}, resampling=ResamplingConfig())[2]
    config = ResamplingConfig(enabled=True, method="spacing", target_spacing=(2, 2, 1))
    other = load(case, label_map={}, resampling=config)[2]
    for volume in (native, other):
        low = volume.affine @ np.array([-0.5, -0.5, -0.5, 1])
        high = volume.affine @ np.array([*(np.array(volume.shape) - 0.5), 1])
        np.testing.assert_allclose(low[:3], (-0.5, -0.5, -1.0), atol=1e-6)
        np.testing.assert_allclose(high[:3], (15.5, 19.5, 11.0), atol=1e-6)


def test_a_target_like_the_source_changes_nothing() -> None:
    image, mask = tube((12, 12, 6), seed=2)
    same = by_spacing(image, mask, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert np.array_equal(same[0], image)
    assert np.array_equal(same[1], mask)


def test_a_linear_ramp_stays_a_ramp() -> None:
    ramp = np.repeat(np.arange(8, dtype=np.float32)[:, None, None], 4, axis=1).repeat(4, axis=2)
    finer, _ = by_spacing(ramp, None, (1.0, 1.0, 1.0), (0.5, 1.0, 1.0))
    np.testing.assert_allclose(np.diff(finer[1:-1, 0, 0]), 0.5, atol=1e-5)


def test_the_researchers_own_method_is_imported(case: Case, tmp_path: Path, monkeypatch) -> None:
    source = "def halve(image, label, spacing, target):\n    return image[::2], label[::2]\n"
    (tmp_path / "my_method.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = ResamplingConfig(enabled=True, method="my_method:halve")
    assert load(case, label_map={}, resampling=config)[0].shape == (1, 8, 20, 6)


def test_a_method_that_cannot_be_imported_is_named(case: Case) -> None:
    config = ResamplingConfig(enabled=True, method="nowhere:nothing")
    with pytest.raises(DataError, match="nowhere:nothing"):
        load(case, label_map={}, resampling=config)
