"""Every format gives the same voxels and the same geometry, and goes through the whole room."""

from __future__ import annotations

import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile

from minivess.config import DataConfig, ResamplingConfig
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling.measurement import measure
from minivess.data.versions.curated import curate
from minivess.errors import DataError
from minivess.formats.filenames import SUFFIXES, stem, suffix
from minivess.formats.volume import DimensionsError, load, read_volume, write_mask
from minivess.home import Home
from tests.conftest import tube

Array = np.ndarray
SPACING = (0.5, 0.6, 2.0)
ARRAY = np.random.default_rng(0).integers(0, 4000, (12, 10, 6)).astype(np.uint16)


def ome(path: Path, array: Array = ARRAY, **options: Any) -> Path:
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
    volume = read_volume(write(tmp_path / f"a{ending}"))
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.spacing == pytest.approx(SPACING)
    assert (volume.unit, volume.spacing_known) == (unit, True)
    np.testing.assert_allclose(volume.affine, np.diag([*SPACING, 1]), atol=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_a_mask_is_nifti_on_the_grid_of_its_volume(tmp_path: Path, name: str) -> None:
    ending, write, unit = WRITERS[name]
    volume = read_volume(write(tmp_path / f"a{ending}"))
    mask = read_volume(write_mask(tmp_path / "mask.nii.gz", volume.array > 2000, volume))
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
    (case,) = pair_files(tmp_path / "set").cases
    stats, findings, *_ = measure(case, config=DataConfig())
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
    stats, findings, *_ = measure(pair_files(tmp_path).cases[0], config=DataConfig())
    assert stats is not None
    assert findings == []


def test_the_longest_suffix_is_the_format() -> None:
    for ending in SUFFIXES:
        assert (stem(Path(f"a.b{ending}")), suffix(Path(f"a.b{ending}"))) == ("a.b", ending)


@pytest.mark.parametrize("codec", ["lzw", "zstd", "jpeg2000", "packbits"])
def test_packed_stacks_are_read(tmp_path: Path, codec: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ARRAY.T, compression=codec)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, ARRAY)


def test_one_bit_masks_are_whole_and_white_may_be_zero(tmp_path: Path) -> None:
    mask = ARRAY > 2000
    tifffile.imwrite(tmp_path / "a.tif", mask.T, photometric="minisblack")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, mask)
    tifffile.imwrite(tmp_path / "b.tif", 255 * (1 - mask.T.astype("u1")), photometric="miniswhite")
    white = read_volume(tmp_path / "b.tif")
    np.testing.assert_array_equal(white.array, 255 * mask.astype("u1"))
    assert "inverted" in white.remarks[0][1]


def test_how_a_label_is_read_is_said_as_of_an_image(tmp_path: Path) -> None:
    image, mask = tube((16, 18, 6), 0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    ome(tmp_path / "images" / "a.ome.tif", image)
    tifffile.imwrite(tmp_path / "labels" / "a.tif", ~mask.T, photometric="miniswhite")
    stats, (found,), *_ = measure(pair_files(tmp_path).cases[0], config=DataConfig())
    assert stats is not None
    assert stats.label_values == (0, 1)
    assert found.message == "Its label: The file calls 0 white: its values are read inverted."


BARE = """
import sys
from pathlib import Path
sys.modules["imagecodecs"] = None
from minivess.formats.volume import read_volume
from minivess.errors import DataError
try:
    read_volume(Path(sys.argv[1]))
except DataError as error:
    print(error.problem, "|", error.remedy)
"""


def test_a_decoder_that_is_not_installed_is_named_with_what_installs_it(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ARRAY.T, compression="zstd")
    command = [sys.executable, "-c", BARE, str(tmp_path / "a.tif")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "a.tif needs a decoder that is not installed" in said
    assert said.endswith("| pip install imagecodecs\n")


def sized(unit: str | tuple[str | None, ...], sizes: tuple[float | None, ...], **more: Any):
    """OME-TIFF with its own unit for each axis."""
    units = (unit,) * 3 if isinstance(unit, str) else unit
    stated = {f"PhysicalSize{a}": v for a, v in zip("XYZ", sizes, strict=True) if v is not None}
    named = {f"PhysicalSize{a}Unit": v for a, v in zip("XYZ", units, strict=True) if v}
    return lambda path: tifffile.imwrite(
        path, ARRAY.T, ome=True, metadata={"axes": "ZYX", **stated, **named, **more}
    )


def fiji(unit: str | None, across: float | None, depth: float | None, **more: Any):
    meta = {"axes": "ZYX", "unit": unit, "spacing": depth, **more}
    return lambda path: tifffile.imwrite(
        path,
        ARRAY.T,
        imagej=True,
        resolution=(1 / across, 1 / across) if across else None,
        metadata={key: value for key, value in meta.items() if value is not None},
    )


def plain(across: float, unit: int):
    return lambda path: tifffile.imwrite(
        path, ARRAY.T, resolution=(across, across), resolutionunit=unit
    )


def beside(text: str, write: Callable[[Path], object] = lambda p: tifffile.imwrite(p, ARRAY.T)):
    return lambda path: (write(path), path.with_name("a.json").write_text(text))


TRUE = ((0.5, 0.5, 2.0), "micron", True)
STATED: dict[str, tuple[str, Callable[[Path], object], tuple[object, str, bool]]] = {
    "a unit for each axis": (".ome.tif", sized(("µm", None, "nm"), (0.5, 0.5, 2000)), TRUE),
    "all in nm": (".ome.tif", sized("nm", (500, 500, 2000)), TRUE),
    "angstrom": (".ome.tif", sized("Å", (5000, 5000, 20000)), TRUE),
    "mm": (".ome.tif", sized("mm", (1, 1, 2)), ((1, 1, 2), "mm", True)),
    "a unit that is none": (
        ".ome.tif", sized("pixel", (0.5, 0.5, 2)), ((0.5, 0.5, 2), "unknown", False),
    ),
    "a depth of nothing": (
        ".ome.tif", sized("µm", (0.5, 0.5, 0)), ((0.5, 0.5, 1), "micron", False),
    ),
    "no depth": (".ome.tif", sized("µm", (0.5, 0.5, None)), ((0.5, 0.5, 1), "micron", False)),
    "ImageJ nm": (".tif", fiji("nm", 500, 2000), TRUE),
    "ImageJ cm": (".tif", fiji("cm", 5e-5, 2e-4), TRUE),
    "ImageJ inch": (".tif", fiji("inch", 0.5 / 25400, 2 / 25400), TRUE),
    "ImageJ escape": (".tif", fiji("\\u00B5m", 0.5, 2), TRUE),
    "ImageJ negative": (".tif", fiji("um", 0.5, -2), TRUE),
    "ImageJ z in nm": (".tif", fiji("um", 0.5, 2000, zunit="nm"), TRUE),
    "ImageJ pixel": (".tif", fiji("pixel", 0.5, 2), ((0.5, 0.5, 2), "unknown", False)),
    "ImageJ without depth": (".tif", fiji("um", 0.5, None), ((0.5, 0.5, 1), "micron", False)),
    "72 dpi": (".tif", plain(72, 2), ((1, 1, 1), "unknown", False)),
    "96 dpi in cm": (".tif", plain(37.795, 3), ((1, 1, 1), "unknown", False)),
    "JSON of nnU-Net": (
        ".tif", beside('{"spacing": [2, 0.5, 0.5]}'), ((0.5, 0.5, 2), "unknown", True),
    ),
    "JSON of another kind": (".tif", beside('{"a": 1}'), ((1, 1, 1), "unknown", False)),
    "JSON that differs": (
        ".ome.tif", beside('{"spacing": [9, 9, 9]}', sized("µm", (0.5, 0.5, 2))), TRUE,
    ),
    "MetaImage": (".mha", lambda p: mha(p, ElementSpacing="0.5 0.5 2", DistanceUnits="um"), TRUE),
    "MetaImage without": (
        ".mha", lambda p: mha(p, ElementSpacing="0.5 0.5 2"), ((0.5, 0.5, 2), "mm", True),
    ),
    "MetaImage furlong": (
        ".mha",
        lambda p: mha(p, ElementSpacing="0.5 0.5 2", DistanceUnits="furlong"),
        ((0.5, 0.5, 2), "unknown", False),
    ),
    "NRRD axes in units of their own": (
        ".nrrd",
        lambda p: nrrd_of(
            p, ARRAY,
            **{"space directions": np.diag([0.5, 0.5, 2000]), "space units": ["um", "um", "nm"]},
        ),
        TRUE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_a_voxel_size_is_what_the_file_says(tmp_path: Path, name: str) -> None:
    ending, write, (spacing, unit, known) = STATED[name]
    write(tmp_path / f"a{ending}")
    volume = read_volume(tmp_path / f"a{ending}")
    assert volume.spacing == pytest.approx(spacing)
    assert (volume.unit, volume.spacing_known) == (unit, known)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), volume.spacing)


def test_the_file_goes_before_json_beside_it_and_says_so(tmp_path: Path) -> None:
    STATED["JSON that differs"][1](tmp_path / "a.ome.tif")
    ((code, message),) = read_volume(tmp_path / "a.ome.tif").remarks
    assert code == "forms_disagree"
    assert "0.5 x 0.5 x 2 micron, as used" in message


def test_one_form_gives_size_and_place_where_a_header_holds_several(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ARRAY, np.diag([0.5, 0.5, 0.8, 1]))
    image.set_qform(np.diag([0.5, 0.5, 0.6, 1]), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.spacing == pytest.approx((0.5, 0.5, 0.8))
    np.testing.assert_allclose(np.diag(volume.affine), (0.5, 0.5, 0.8, 1))
    assert "sform (0.5 x 0.5 x 0.8) is used" in volume.remarks[0][1]
    assert "qform (0.5 x 0.5 x 0.6)" in volume.remarks[0][1]


def several(path: Path, *shapes: tuple[int, ...]) -> None:
    with tifffile.TiffWriter(path) as writer:
        for shape in shapes:
            writer.write(np.zeros(shape, np.uint8), photometric="minisblack")


def ome_set(path: Path, *names: str, part: int = 0) -> None:
    """The planes of one file of a set, as microscopes write it."""
    ids = dict(zip(names, ("00000000-0000-0000-0000-000000000001", "0-2"), strict=True))
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="{z % 3}" PlaneCount="1"><UUID FileName="{names[z // 3]}">'
        f"urn:uuid:{ids[names[z // 3]]}</UUID></TiffData>"
        for z in range(6)
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:{ids[names[part]]}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint16" SizeX="12" SizeY="10" SizeZ="6" SizeC="1" SizeT="1" '
        'PhysicalSizeX="0.5" PhysicalSizeY="0.6" PhysicalSizeZ="2.0">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(path) as writer:
        for z in range(3):
            description = xml.encode() if z == 0 else None
            writer.write(
                ARRAY.T[z + 3 * part], description=description, metadata=None, contiguous=False
            )


def emptied(path: Path) -> None:
    """A plane that the file promises and does not hold."""
    tifffile.imwrite(path, ARRAY.T, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.get(2).aspage().tags["StripByteCounts"]
        tag.overwrite([0] * len(tiff.pages.get(2).aspage().databytecounts))


PARTIAL: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "two positions": (".tif", lambda p: several(p, (5, 9, 8), (5, 9, 8)), "holds 2 volumes"),
    "a set of files": (".ome.tif", lambda p: ome_set(p, "a.ome.tif", "gone.tif"), "one of 2 files"),
    "a lost plane": (".tif", emptied, "lacks 1 of its 6 planes"),
    "channels": (
        ".ome.tif",
        lambda p: tifffile.imwrite(p, ARRAY.T[:3], ome=True, metadata={"axes": "CYX"}),
        "channels",
    ),
    "half a pair": (".hdr", lambda p: nib.save(nib.Nifti1Pair(ARRAY, np.eye(4)), p)
                    or p.with_suffix(".img").unlink(), "other half"),
    "JSON of two sizes": (".tif", beside('{"spacing": [2, 0.5]}'), "three sizes"),
    "vectors": (".nrrd", lambda p: nrrd_of(p, kinds=["vector", "domain", "domain"]), "vector"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTIAL)
def test_what_is_less_or_more_than_a_volume_is_refused(tmp_path: Path, name: str) -> None:
    ending, make, text = PARTIAL[name]
    make(tmp_path / f"a{ending}")
    with pytest.raises(DataError, match=text):
        read_volume(tmp_path / f"a{ending}")


def test_a_set_of_files_becomes_one_by_the_command_printed(tmp_path: Path) -> None:
    names = ("a.ome.tif", "a rest.ome.tif")
    ome_set(tmp_path / names[0], *names)
    with pytest.raises(DataError, match=r"of which a rest\.ome\.tif is not there") as lost:
        read_volume(tmp_path / names[0])
    assert lost.value.remedy.startswith("put a rest.ome.tif beside it")
    ome_set(tmp_path / names[1], *names, part=1)
    with pytest.raises(DataError, match="one of 2 files of an OME-TIFF set") as refused:
        read_volume(tmp_path / names[0])
    run_printed(refused.value.remedy, tmp_path)
    whole = read_volume(tmp_path / "a_whole.ome.tif")
    np.testing.assert_array_equal(whole.array, ARRAY)
    assert whole.spacing == pytest.approx(SPACING)


def test_one_hot_labels_are_named_and_become_classes_by_the_command_printed(
    tmp_path: Path,
) -> None:
    image, mask = tube((16, 18, 6), 0)
    for folder, array in (("images", image), ("labels", np.stack([1 - mask, mask], -1))):
        (tmp_path / folder).mkdir()
        nib.save(
            nib.Nifti1Image(array.astype(np.uint16), np.eye(4)), tmp_path / folder / "a.nii.gz"
        )
    _, (found,), *_ = measure(pair_files(tmp_path).cases[0], config=DataConfig())
    assert "has 2 channels (16, 18, 6, 2), as one-hot labels have" in found.message
    run_printed(found.remedy, tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, mask)


def run_printed(remedy: str, folder: Path) -> None:
    """Run the command at the end of a remedy."""
    command = shlex.split(remedy.partition(": ")[2])
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_the_remedy_of_two_voxel_sizes_says_the_unit_of_the_file(tmp_path: Path) -> None:
    image, mask = (array.astype(np.uint16) for array in tube((16, 18, 6), 0))
    for folder, array in (("images", image), ("labels", mask)):
        (tmp_path / folder).mkdir()
        made = nib.Nifti1Image(array, np.diag([0.5, 0.5, 0.8, 1]))
        made.set_qform(np.diag([0.5, 0.5, 0.6, 1]), 1)
        made.header.set_xyzt_units("mm")
        nib.save(made, tmp_path / folder / "a.nii.gz")
    _, findings, *_ = measure(pair_files(tmp_path).cases[0], config=DataConfig())
    (found,) = (one for one in findings if one.code == "forms_disagree")
    assert "data.unit=mm" in found.remedy


def test_the_one_volume_beside_a_thumbnail_is_read_and_said(tmp_path: Path) -> None:
    several(tmp_path / "a.tif", (4, 5), (6, 10, 12))
    volume = read_volume(tmp_path / "a.tif")
    assert volume.shape == (12, 10, 6)
    assert "images of (4, 5), which are not read" in volume.remarks[0][1]


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.AnalyzeImage])
def test_two_files_of_one_volume_are_paired_measured_and_curated_as_one(
    tmp_path: Path, run, kind: type
) -> None:
    for folder, array in zip(("images", "labels"), tube((16, 18, 6), 0), strict=True):
        (tmp_path / "set" / folder).mkdir(parents=True)
        nib.save(kind(array.astype(np.int16), np.diag([*SPACING, 1])),
                 tmp_path / "set" / folder / "a.img")  # fmt: skip
    pairing = pair_files(tmp_path / "set")
    assert (len(pairing.cases), pairing.left) == (1, ())
    measured = run(tmp_path / "set")
    (case,) = measured.cases
    assert measured.stats[0].filename == "images/a.nii.gz"
    np.testing.assert_array_equal(
        read_volume(case.image).array, read_volume(pairing.cases[0].image).array
    )
    assert read_volume(case.image).spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("write", [lambda p: tifffile.imwrite(p, ARRAY.T)])
def test_a_stack_that_states_no_voxel_size_is_a_finding(tmp_path: Path, write) -> None:
    image, mask = tube((16, 18, 6), 0)
    for folder, array in (("images", image), ("labels", mask)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", array.T)
    stats, findings, *_ = measure(pair_files(tmp_path).cases[0], config=DataConfig())
    assert stats is not None
    assert (stats.voxel_spacing, stats.unit) == ((1.0, 1.0, 1.0), "unknown")
    assert [(found.code, found.severity) for found in findings] == [("unknown_spacing", "warning")]


def test_inches_become_micrometres(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ARRAY.T, resolution=(25400, 12700), resolutionunit=2)
    volume = read_volume(tmp_path / "a.tif")
    assert (volume.spacing, volume.unit) == (pytest.approx((1, 2, 1)), "micron")
    assert not volume.spacing_known


def test_a_turned_nrrd_and_mha_keep_their_place(tmp_path: Path) -> None:
    turned = np.array([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 2.0]])
    read_nrrd = read_volume(nrrd_of(tmp_path / "a.nrrd", **{"space directions": turned}))
    read_mha = read_volume(
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
        read_volume(tmp_path / f"a{ending}")


def test_several_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DimensionsError):
        read_volume(mha(tmp_path / "a.mha", ElementNumberOfChannels=3))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 3, 8, 9), "u2"), imagej=True)
    with pytest.raises(DimensionsError):
        read_volume(tmp_path / "a.tif")
