"""Every format gives the same voxels and the same geometry, and goes through the whole room."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile

from minivess.config import DataConfig, ResamplingConfig
from minivess.data.cases import pair
from minivess.data.curated import curate
from minivess.data.filenames import SUFFIXES, stem, suffix
from minivess.data.measurement import measure
from minivess.data.volume import DimensionsError, load, read, write_mask
from minivess.errors import DataError
from minivess.home import Home
from tests.conftest import tube

Array = np.ndarray
SPACING = (0.5, 0.6, 2.0)
ARRAY = np.random.default_rng(0).integers(0, 4000, (12, 10, 6)).astype(np.uint16)


def ome(path: Path, array: Array = ARRAY, **options: object) -> Path:
    names = {f"PhysicalSize{axis}": step for axis, step in zip("XYZ", SPACING, strict=True)}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
    metadata = {"axes": "ZYX", **names, **units}
    tifffile.imwrite(path, array.T, ome=True, metadata=metadata, **options)
    return path


def imagej(path: Path, array: Array = ARRAY) -> Path:
    metadata = {"axes": "ZYX", "spacing": SPACING[2], "unit": "um"}
    across = (1 / SPACING[0], 1 / SPACING[1])
    tifffile.imwrite(path, array.T, imagej=True, resolution=across, metadata=metadata)
    return path


def deflated(path: Path, array: Array = ARRAY) -> Path:
    return ome(path, array, compression="zlib", predictor=True)


def nrrd_of(path: Path, array: Array = ARRAY, **changes: object) -> Path:
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag(SPACING) * [[-1], [-1], [1]],
        "space origin": [0, 0, 0],
        "space units": ["um"] * 3,
        **changes,
    }
    nrrd.write(str(path), array, header)
    return path


def raw_nrrd(path: Path, array: Array = ARRAY) -> Path:
    return nrrd_of(path, array, encoding="raw")


def mha(path: Path, array: Array = ARRAY, packed: bool = False, **changes: object) -> Path:
    types = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "float32": "MET_FLOAT"}
    voxels = array.tobytes(order="F")
    lines = {
        "ObjectType": "Image",
        "NDims": array.ndim,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed),
        "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": " ".join(map(str, SPACING)),
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": types[str(array.dtype)],
        **changes,
        "ElementDataFile": changes.get("ElementDataFile", "LOCAL"),
    }
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    path.write_bytes(text.encode() + (zlib.compress(voxels) if packed else voxels))
    return path


def packed_mha(path: Path, array: Array = ARRAY) -> Path:
    return mha(path, array, packed=True)


def nifti(path: Path, array: Array = ARRAY) -> Path:
    image = nib.Nifti1Image(array, np.diag([*SPACING, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, path)
    return path


WRITERS: dict[str, tuple[str, Callable[..., Path], str]] = {
    "nifti": (".nii.gz", nifti, "micron"),
    "ome": (".ome.tif", ome, "micron"),
    "deflate": (".ome.tiff", deflated, "micron"),
    "imagej": (".tif", imagej, "micron"),
    "nrrd": (".nrrd", nrrd_of, "micron"),
    "raw nrrd": (".nrrd", raw_nrrd, "micron"),
    "mha": (".mha", mha, "mm"),
    "packed mha": (".mha", packed_mha, "mm"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_gives_voxels_spacing_and_place(tmp_path: Path, name: str) -> None:
    ending, write, unit = WRITERS[name]
    volume = read(write(tmp_path / f"a{ending}"))
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.spacing == pytest.approx(SPACING)
    assert (volume.unit, volume.spacing_known) == (unit, True)
    np.testing.assert_allclose(volume.affine, np.diag([*SPACING, 1]), atol=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_a_mask_is_nifti_on_the_grid_of_its_volume(tmp_path: Path, name: str) -> None:
    ending, write, unit = WRITERS[name]
    volume = read(write(tmp_path / f"a{ending}"))
    mask = read(write_mask(tmp_path / "mask.nii.gz", volume.array > 2000, volume))
    assert mask.spacing == pytest.approx(SPACING)
    assert (mask.shape, mask.unit) == (volume.shape, unit)
    np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_a_pair_of_a_format_is_paired_measured_curated_and_loaded(
    tmp_path: Path, home: Home, name: str
) -> None:
    ending, write, _ = WRITERS[name]
    for folder, array in zip(("images", "labels"), tube((16, 18, 6), 0), strict=True):
        (tmp_path / "set" / folder).mkdir(parents=True)
        write(tmp_path / "set" / folder / f"a{ending}", array)
    (case,) = pair(tmp_path / "set").cases
    stats, findings, _ = measure(case, config=DataConfig())
    assert stats is not None
    assert (stats.case, stats.shape, findings) == ("a", (16, 18, 6), [])
    kept = curate(home, "set", [case]) / stats.filename
    assert kept.name == f"a{ending}"
    assert kept.read_bytes() == case.image.read_bytes()
    image, label, _ = load(case, label_map={}, resampling=ResamplingConfig())
    assert (image.shape, image.dtype, label.dtype) == ((1, 16, 18, 6), np.float32, np.uint8)


def test_an_image_may_have_another_format_than_its_label(tmp_path: Path) -> None:
    image, mask = tube((16, 18, 6), 0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    ome(tmp_path / "images" / "a.ome.tif", image)
    nifti(tmp_path / "labels" / "a.nii.gz", mask)
    stats, findings, _ = measure(pair(tmp_path).cases[0], config=DataConfig())
    assert stats is not None
    assert findings == []


def test_the_longest_suffix_is_the_format() -> None:
    for ending in SUFFIXES:
        assert (stem(Path(f"a.b{ending}")), suffix(Path(f"a.b{ending}"))) == ("a.b", ending)


def test_lzw_is_read_without_imagecodecs(tmp_path: Path) -> None:
    from PIL import Image

    first, *rest = [Image.fromarray(page) for page in ARRAY.T]
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=rest, compression="tiff_lzw")
    np.testing.assert_array_equal(read(path).array, ARRAY)


@pytest.mark.parametrize("write", [lambda p: tifffile.imwrite(p, ARRAY.T)])
def test_a_stack_that_states_no_voxel_size_is_a_finding(tmp_path: Path, write) -> None:
    image, mask = tube((16, 18, 6), 0)
    for folder, array in (("images", image), ("labels", mask)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", array.T)
    stats, findings, _ = measure(pair(tmp_path).cases[0], config=DataConfig())
    assert stats is not None
    assert (stats.voxel_spacing, stats.unit) == ((1.0, 1.0, 1.0), "unknown")
    assert [(found.code, found.severity) for found in findings] == [("unknown_spacing", "warning")]


def test_inches_become_micrometres(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ARRAY.T, resolution=(25400, 12700), resolutionunit=2)
    volume = read(tmp_path / "a.tif")
    assert (volume.spacing, volume.unit) == (pytest.approx((1, 2, 1)), "micron")
    assert not volume.spacing_known


def test_a_turned_nrrd_and_mha_keep_their_place(tmp_path: Path) -> None:
    turned = np.array([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 2.0]])
    read_nrrd = read(nrrd_of(tmp_path / "a.nrrd", **{"space directions": turned}))
    read_mha = read(
        mha(
            tmp_path / "a.mha",
            TransformMatrix="0 1 0 1 0 0 0 0 1",
            ElementSpacing="0.5 0.5 2",
        )
    )
    expected = np.array([[0, -0.5, 0, 0], [-0.5, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(read_nrrd.affine, expected)
    np.testing.assert_allclose(read_mha.affine, expected)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "tif of text": (".tif", lambda p: p.write_text("none"), "cannot be read"),
    "cut tif": (".tif", lambda p: ome(p) and p.write_bytes(p.read_bytes()[:600]), "a.tif"),
    "colour tif": (
        ".tif",
        lambda p: tifffile.imwrite(p, np.zeros((6, 8, 9, 3), "u1"), photometric="rgb"),
        "colour",
    ),
    "detached nrrd": (
        ".nrrd",
        lambda p: p.write_text("NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\n"
                               "encoding: raw\nendian: little\ndata file: a.raw\n\n"),
        "another file",
    ),
    "nrrd of text": (".nrrd", lambda p: p.write_text("none"), "cannot be read"),
    "cut nrrd": (
        ".nrrd",
        lambda p: nrrd_of(p) and p.write_bytes(p.read_bytes()[:-99]),
        "truncated",
    ),
    "nrrd of 1 TB": (
        ".nrrd",
        lambda p: p.write_text("NRRD0004\ntype: uint8\ndimension: 3\nsizes: 10000 10000 10000\n"
                               "encoding: gzip\n\n"),
        "truncated",
    ),
    "mha of text": (".mha", lambda p: p.write_text("none"), "no MetaImage"),
    "detached mha": (".mha", lambda p: mha(p, ElementDataFile="a.raw"), "another file"),
    "mha without type": (".mha", lambda p: mha(p, ElementType="MET_X"), "damaged header"),
    "cut mha": (".mha", lambda p: mha(p) and p.write_bytes(p.read_bytes()[:-99]), "truncated"),
    "cut packed mha": (
        ".mha",
        lambda p: packed_mha(p) and p.write_bytes(p.read_bytes()[:-99]),
        "truncated",
    ),
    "mha of 1 TB": (".mha", lambda p: mha(p, DimSize="10000 10000 10000"), "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_of_any_format_is_refused_by_name(tmp_path: Path, name: str) -> None:
    ending, make, text = BAD[name]
    make(tmp_path / f"a{ending}")
    with pytest.raises(DataError, match=text):
        read(tmp_path / f"a{ending}")


def test_several_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DimensionsError):
        read(mha(tmp_path / "a.mha", ElementNumberOfChannels=3))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 3, 8, 9), "u2"), imagej=True)
    with pytest.raises(DimensionsError):
        read(tmp_path / "a.tif")
