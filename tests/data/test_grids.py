"""Labels come onto the grid of their image without loss; a stated voxel size is the one used."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from minivess.config import DataConfig, ResamplingConfig
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import intensities, measurement
from minivess.data.profiling.grids import align_label
from minivess.data.profiling.measurement import measure
from minivess.data.profiling.profile import summarise
from minivess.data.versions.curated import curate, folder_hash
from minivess.formats.volume import Volume, load, read_volume
from minivess.home import Home
from tests.conftest import tube

SHAPE = (16, 18, 6)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.5, 0.5, 2.0]), [3, -40, 7]
)
ORIENTATIONS = [
    np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def stored(array: np.ndarray, affine: np.ndarray, orientation: np.ndarray) -> nib.Nifti1Image:
    """The same voxels in the same places, with axes in another order or direction."""
    return nib.Nifti1Image(array, affine).as_reoriented(orientation)


def save(folder: Path, image: nib.Nifti1Image, label: nib.Nifti1Image, case: str = "a") -> Path:
    for kind, each in (("images", image), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(each, folder / kind / f"{case}.nii.gz")
    return folder


def test_a_label_in_any_orientation_of_its_world_lies_on_the_grid_of_its_image() -> None:
    image, mask = tube(SHAPE, 0)
    fixed = Volume(image, (0.5, 0.5, 2.0), "micron", OBLIQUE)
    for orientation in ORIENTATIONS:
        label = stored(mask, OBLIQUE, orientation)
        affine = np.diag([1e-3, 1e-3, 1e-3, 1]) @ label.affine  # and in another unit
        x, y, z = (float(step) for step in nib.affines.voxel_sizes(affine))
        turned = align_label(Volume(np.asarray(label.dataobj), (x, y, z), "mm", affine), fixed)
        np.testing.assert_array_equal(turned.array, mask)


def test_the_curated_set_holds_the_label_on_the_grid_of_its_image(
    tmp_path: Path, home: Home, run
) -> None:
    arrays = [tube(SHAPE, seed) for seed in range(2)]
    for orientation, case, (image, mask) in zip(ORIENTATIONS[5::20], "ab", arrays, strict=False):
        whole = nib.Nifti1Image(image, OBLIQUE)
        save(tmp_path / "set", whole, stored(mask, OBLIQUE, orientation), case)
    measured = run(tmp_path / "set")
    assert [(f.code, f.severity) for f in measured.findings] == [("reoriented", "info")] * 2
    assert [list(stats.converted) for stats in measured.stats] == [["label"]] * 2
    folder = curate(home, "set", measured.cases)
    assert folder_hash(folder) == measured.dataset_hash
    for stats, (image, mask) in zip(measured.stats, arrays, strict=True):
        case = next(case for case in measured.cases if case.case == stats.case)
        kept = case.replace(image=folder / stats.filename, label=folder / stats.label_filename)
        seen, label, _ = load(kept, label_map={}, resampling=ResamplingConfig())
        np.testing.assert_array_equal(label, mask)
        np.testing.assert_array_equal(seen[0], image)
    assert run(tmp_path / "set").rescanned == 0
    lost, damaged = (case.label for case in measured.cases)
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    again = run(tmp_path / "set")
    assert again.rescanned == 2
    assert again.dataset_hash == measured.dataset_hash
    assert folder_hash(curate(home, "set", again.cases)) == measured.dataset_hash


def shifted(affine: np.ndarray) -> np.ndarray:
    return nib.affines.from_matvec(affine[:3, :3], affine[:3, 3] + [4, 0, 0])


def turned(affine: np.ndarray) -> np.ndarray:
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2)) @ affine


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (shifted, "shifted by 4 x 0 x 0"),
        (turned, "turned by 11.5 degrees"),
        (lambda affine: affine @ np.diag([2, 1, 1, 1]), "voxels are 1 x 0.5 x 2"),
    ],
)
def test_other_world_spaces_stay_a_mismatch_that_says_how(tmp_path: Path, change, text) -> None:
    image, mask = tube(SHAPE, 0)
    folder = save(tmp_path, nib.Nifti1Image(image, OBLIQUE), nib.Nifti1Image(mask, change(OBLIQUE)))
    stats, (found,), *_ = measure(pair_files(folder).cases[0], config=DataConfig())
    assert (found.code, found.severity, stats.converted) == ("affine_mismatch", "warning", {})
    assert text in found.message
    assert "resample" in found.remedy


def test_a_stated_voxel_size_is_used_everywhere_and_names_what_it_overrides(
    tmp_path: Path, home: Home, run
) -> None:
    image, mask = tube(SHAPE, 0)
    label = stored(mask, OBLIQUE, ORIENTATIONS[3])
    folder = save(tmp_path / "set", nib.Nifti1Image(image, OBLIQUE), label)
    measured = run(folder, spacing=(250, 250, 1000), unit="nm")
    assert {f.code for f in measured.findings} == {"reoriented", "spacing_overridden"}
    assert "the file states 0.5 x 0.5 x 2" in measured.findings[0].message
    (stats,) = measured.stats
    assert (stats.voxel_spacing, stats.unit) == ((0.25, 0.25, 1.0), "micron")
    kept = read_volume(curate(home, "set", measured.cases) / stats.filename)
    assert (kept.spacing, kept.unit) == (pytest.approx((0.25, 0.25, 1.0)), "micron")
    np.testing.assert_array_equal(kept.array, image)
    profile = summarise(measured, dataset="set", dataset_path="", version=None, label_map={})
    assert profile.spacing_range == ((0.25, 0.25, 1.0),) * 2
    assert run(folder).dataset_hash != measured.dataset_hash


def test_a_library_that_fails_over_one_volume_keeps_out_this_volume_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    for case in "ab":
        image, mask = (nib.Nifti1Image(each, np.eye(4)) for each in tube(SHAPE, ord(case)))
        save(tmp_path, image, mask, case)
    counted = intensities.sort_values
    odd = read_volume(tmp_path / "images" / "b.nii.gz").array

    def fails(array: np.ndarray) -> object:
        if np.array_equal(array, odd):
            raise ZeroDivisionError("within a library")
        return counted(array)

    monkeypatch.setattr(measurement, "sort_values", fails)
    measured = run(tmp_path)
    assert measured.quarantined == ("b",)
    (found,) = measured.findings
    assert (found.case, found.code) == ("b", "unreadable")
    assert "b.nii.gz" in found.message
    assert "ZeroDivisionError: within a library" in found.message


def test_a_full_disk_is_no_fault_of_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    image, mask = tube(SHAPE, 0)
    save(tmp_path, nib.Nifti1Image(image, OBLIQUE), stored(mask, OBLIQUE, ORIENTATIONS[3]))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(measurement, "write_volume", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)
