"""Volumes come from disk with their geometry, and bad files are named."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivess.config import ResamplingConfig
from minivess.contracts import Case
from minivess.errors import DataError
from minivess.formats.volume import (
    DimensionsError,
    Volume,
    apply_label_map,
    class_indices,
    load,
    read_volume,
    write_mask,
)
from tests.conftest import tube, write_nifti

OFF = ResamplingConfig()


def case_of(folder: Path, image: np.ndarray, label: np.ndarray) -> Case:
    return Case(
        case="a",
        image=write_nifti(folder / "image.nii.gz", image, (0.5, 0.5, 2.0)),
        label=write_nifti(folder / "label.nii.gz", label, (0.5, 0.5, 2.0)),
    )


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_a_volume_keeps_values_dtype_and_spacing(tmp_path: Path, name: str, dtype: str) -> None:
    array = np.arange(4 * 5 * 6, dtype=dtype).reshape(4, 5, 6)
    volume = read_volume(write_nifti(tmp_path / name, array, (0.5, 0.6, 2.0)))
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array, array)
    assert volume.spacing == pytest.approx((0.5, 0.6, 2.0))


def test_reading_agrees_with_nibabel_on_big_endian_scaled_files(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4), dtype=">i2")
    image.header.set_slope_inter(0.5, 10)
    image = nib.Nifti1Image(np.linspace(10, 60, 60).reshape(3, 4, 5), np.eye(4), image.header)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(
        volume.array, nib.Nifti1Image.from_filename(tmp_path / "a.nii.gz").get_fdata(), rtol=1e-6
    )


def test_a_trailing_axis_of_length_one_is_dropped(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.ones((4, 5, 6, 1), np.uint8))
    assert read_volume(path).shape == (4, 5, 6)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4, 2)])
def test_other_than_three_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_nifti(tmp_path / "flat.nii.gz", np.ones(shape, np.uint8))
    with pytest.raises(DimensionsError, match=r"flat.nii.gz is \d-D"):
        read_volume(path)


def text(path: Path) -> None:
    path.write_text("not a volume")


def packed_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"not a volume" * 1000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    write_nifti(path, np.random.default_rng(0).integers(0, 999, (16, 16, 16)).astype(np.int16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_a_header(path: Path) -> None:
    write_nifti(path, np.ones((8, 8, 8), np.int16))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:200]))


def half_the_voxels(path: Path) -> None:
    write_nifti(path, np.ones((8, 8, 8), np.int16))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:500]))


def broken_checksum(path: Path) -> None:
    write_nifti(path, np.random.default_rng(0).integers(0, 999, (16, 16, 16)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def colour(path: Path) -> None:
    rgb = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), path)


SPOILERS = [
    text, packed_text, empty, half, half_a_header, half_the_voxels, broken_checksum, colour,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_file_that_is_no_volume_is_refused_by_name(tmp_path: Path, spoil) -> None:
    spoil(tmp_path / "bad.nii.gz")
    with pytest.raises(DataError, match=r"bad\.nii\.gz"):
        read_volume(tmp_path / "bad.nii.gz")


def test_a_header_that_promises_a_petabyte_takes_no_memory(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    for name, pack in (("a.nii", bytes), ("a.nii.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(header.binaryblock + bytes(4096)))
        with pytest.raises(DataError, match="truncated"):
            read_volume(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        read_volume(tmp_path / "gone.nii.gz")


def test_loading_gives_writable_float_images_and_class_labels(tmp_path: Path) -> None:
    image, mask = tube((16, 18, 7), seed=0)
    loaded, label, volume = load(case_of(tmp_path, image, mask), label_map={}, resampling=OFF)
    assert loaded.shape == (1, 16, 18, 7)
    assert (loaded.dtype, label.dtype) == (np.float32, np.uint8)
    assert loaded.flags.writeable
    assert label.flags.writeable
    assert np.array_equal(loaded[0], image)
    assert np.array_equal(label, mask)
    assert volume.unit == "unknown"


def test_a_label_map_replaces_named_values_only_and_all_at_once(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.int16)
    label[0], label[1], label[2] = 1, 2, 3
    case = case_of(tmp_path, label.astype(np.float32), label)
    _, mapped, _ = load(case, label_map={1: 2, 2: 1}, resampling=OFF)
    assert [int(mapped[i, 0, 0]) for i in range(4)] == [2, 1, 3, 0]


@given(st.lists(st.integers(0, 5), min_size=1), st.permutations(range(6)))
@settings(max_examples=25, deadline=None)
def test_a_permutation_of_labels_is_undone_by_its_inverse(values, order) -> None:
    there: dict[Any, int] = dict(enumerate(order))
    back: dict[Any, int] = {new: old for old, new in there.items()}
    labels = np.array(values)
    assert np.array_equal(apply_label_map(apply_label_map(labels, there), back), labels)


@pytest.mark.parametrize(("value", "remedy"), [(300, "data.label_map.300=1"), (0.5, "class")])
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, value: float, remedy: str) -> None:
    label = np.zeros((4, 4, 4), np.float32)
    label[0] = value
    with pytest.raises(DataError, match=remedy):
        load(case_of(tmp_path, label, label), label_map={}, resampling=OFF)


def test_a_label_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    case = case_of(tmp_path, np.ones((4, 4, 4), np.uint8), np.ones((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"\(4, 4, 3\).*\(4, 4, 4\)"):
        load(case, label_map={}, resampling=OFF)


def test_a_mask_is_written_with_the_geometry_of_its_image(tmp_path: Path) -> None:
    affine = np.array([[0, -0.5, 0, 3], [0.5, 0, 0, 4], [0, 0, 2.0, 5], [0, 0, 0, 1]])
    source = nib.Nifti1Image(np.zeros((5, 6, 7), np.float32), affine)
    source.header.set_xyzt_units(xyz="micron")
    nib.save(source, tmp_path / "image.nii.gz")
    volume = read_volume(tmp_path / "image.nii.gz")
    mask = np.ones((5, 6, 7), bool)
    written = read_volume(write_mask(tmp_path / "out" / "mask.nii.gz", mask, volume))
    assert written.array.dtype == np.uint8
    assert (written.spacing, written.unit) == (volume.spacing, "micron")
    np.testing.assert_array_equal(written.affine, volume.affine)
    header = nib.Nifti1Image.from_filename(tmp_path / "out" / "mask.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (2, 2)
    np.testing.assert_allclose(header.get_qform(), volume.affine, atol=1e-6)


def test_a_header_that_is_corrected_prints_nothing_and_is_noted_with_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4)).to_bytes())
    content[80:84] = np.float32(-0.5).tobytes()
    (tmp_path / "image.nii").write_bytes(content)
    with caplog.at_level("INFO"):
        read_volume(tmp_path / "image.nii")
    assert "".join(capfd.readouterr()) == ""
    (note,) = [text for text in caplog.messages if "pixdim" in text]
    assert note.startswith(f"{tmp_path / 'image.nii'}: pixdim")


def test_a_mask_of_another_shape_is_not_written(tmp_path: Path) -> None:
    like = Volume(np.zeros((3, 3, 3)), (1.0, 1.0, 1.0), "mm", np.eye(4))
    with pytest.raises(DataError, match="shape"):
        write_mask(tmp_path / "mask.nii.gz", np.zeros((3, 3, 2)), like)
    assert not (tmp_path / "mask.nii.gz").exists()


def test_label_values_become_class_indices_and_strange_ones_are_refused():
    label = np.array([[[0, 3, 7]]], np.uint8)
    assert class_indices(label, (0, 3, 7), "a").ravel().tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"holds 7.*\n.*data.label_map.7=1"):
        class_indices(label, (0, 3), "a")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_says_what_nibabel_reads_in_it(tmp_path: Path, kind: Any, ending: str) -> None:
    affine = np.array([[0, -0.5, 0, 3], [0.6, 0, 0, 4], [0, 0, 2.0, 5], [0, 0, 0, 1.0]])
    header = kind.header_class(endianness=">")
    header.set_data_dtype(np.int16)
    header.set_xyzt_units(xyz="micron")
    image = kind(np.arange(105.0).reshape(5, 7, 3) / 4, affine, header)
    image.header.set_slope_inter(0.25, 0)
    nib.save(image, tmp_path / f"a{ending}")
    mine = read_volume(tmp_path / f"a{ending}")
    theirs: Any = nib.load(tmp_path / f"a{ending}")
    np.testing.assert_allclose(mine.array, theirs.get_fdata())
    np.testing.assert_array_equal(mine.affine, theirs.affine)
    assert mine.spacing == pytest.approx(theirs.header.get_zooms())
    assert (mine.unit, mine.spacing_known, mine.remarks) == ("micron", True, ())
