"""Demo volumes are vessels that brightness alone does not find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from minivess.data.pairing.cases import pair_files
from minivess.demo import phantom, vessels
from minivess.errors import DataError
from minivess.formats.volume import read_volume

SEED = 7


@pytest.fixture(scope="module")
def volumes() -> list[tuple[np.ndarray, np.ndarray, tuple[float, float, float]]]:
    return [vessels.make_vessels(index, SEED) for index in range(12)]


def best_dice(scores: list[np.ndarray], labels: list[np.ndarray]) -> float:
    """Dice of the best single threshold over all volumes."""
    score = np.concatenate([array.ravel() for array in scores])
    truth = np.concatenate([array.ravel() for array in labels]).astype(bool)
    found = [score > level for level in np.quantile(score, np.linspace(0.5, 0.999, 120))]
    return max(2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask in found)


@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.2])
def test_no_threshold_finds_the_vessels(volumes, sigma: float) -> None:
    smooth = [ndimage.gaussian_filter(image.astype(float), sigma) for image, _, _ in volumes]
    normed = [(image - image.mean()) / image.std() for image in smooth]
    labels = [label for _, label, _ in volumes]
    assert best_dice(smooth, labels) < 0.6
    assert best_dice(normed, labels) < 0.6


def test_shapes_differ_natively_and_start_at_five_slices(volumes) -> None:
    shapes = [image.shape for image, _, _ in volumes]
    assert len(set(shapes)) == 12
    assert min(shape[2] for shape in shapes) == 5
    assert max(shape[2] for shape in shapes) == 24
    assert all(48 <= size <= 72 for shape in shapes for size in shape[:2])


def test_vessels_are_one_to_four_voxels_in_radius_and_fill_a_few_percent(volumes) -> None:
    for _, label, _ in volumes:
        assert 0.03 < label.mean() < 0.15
    thickest = max(
        ndimage.distance_transform_edt(label, sampling=(1, 1, 2.5)).max() for _, label, _ in volumes
    )
    assert 2.5 < thickest < 6


def test_signal_fades_with_depth(volumes) -> None:
    for image, _, _ in volumes:
        assert image[:, :, 0].mean() > 1.2 * image[:, :, -1].mean()


@pytest.mark.slow
def test_two_photon_stacks_are_large_mostly_empty_and_thick_or_thin(tmp_path: Path) -> None:
    folder = phantom.make_phantoms(tmp_path / "stacks", n=2, seed=3, like="two-photon")
    cases = pair_files(folder).cases
    assert {case.group for case in cases} == {"animal0"}
    labels = [read_volume(case.label).array for case in cases if case.label]
    assert all(320 <= side <= 512 for label in labels for side in label.shape[:2])
    assert all(0.01 < label.mean() < 0.06 for label in labels)
    thick, thin = (ndimage.distance_transform_edt(label).max() for label in labels)
    assert thick > 1.3 * thin
    assert all(ndimage.uniform_filter(label * 1.0, (99, 99, 1)).min() < 1e-9 for label in labels)


def test_a_folder_is_made_once_and_again_the_same(tmp_path: Path) -> None:
    first = phantom.make_phantoms(tmp_path / "a", n=4, seed=3)
    again = phantom.make_phantoms(tmp_path / "b", n=4, seed=3)
    names = sorted(path.relative_to(first) for path in first.rglob("*.nii.gz"))
    assert len(names) == 8
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_a_complete_folder_is_kept_and_a_broken_one_made_anew(tmp_path: Path) -> None:
    folder = phantom.make_phantoms(tmp_path / "a", n=4, seed=3)
    path = next((folder / "images").iterdir())
    before = path.stat().st_mtime_ns
    phantom.make_phantoms(folder, n=4, seed=3)
    assert path.stat().st_mtime_ns == before
    path.unlink()
    phantom.make_phantoms(folder, n=4, seed=3)
    assert path.exists()
    assert len(list((phantom.make_phantoms(folder, n=5, seed=3) / "images").iterdir())) == 5


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="holds files already"):
        phantom.make_phantoms(tmp_path, n=4, seed=3)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_the_folder_pairs_and_carries_spacing_in_micrometres(tmp_path: Path) -> None:
    found = pair_files(phantom.make_phantoms(tmp_path / "demo", n=4, seed=3))
    assert len(found.cases) == 4
    assert found.notes == found.left == ()
    volume = read_volume(found.cases[0].image)
    assert volume.unit == "micron"
    assert volume.array.dtype == np.uint16
    assert 0.5 < volume.spacing[0] < 0.7
    assert 1.3 < volume.spacing[2] < 1.7
