from __future__ import annotations

import csv
import gzip
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import cc3d
import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from minivess.combination import Combined
from minivess.config import DataConfig
from minivess.contracts import Domain, Network, Resampling, Window
from minivess.data.checks import CHECKS
from minivess.errors import DataError, ServingError, UsageError
from minivess.formats import volume
from minivess.inference import Predictor
from minivess.serving import export, forecast, predict
from tests.conftest import shared, tube, write_nifti

DATA = DataConfig()
MADE = [f"{name}_mask.{end}" for name in "ab" for end in ("csv", "nii.gz", "png")]
"""What lies in the folder of the masks."""


@pytest.fixture
def predictor(onnx: Path, network: Network, window: Window) -> Predictor:
    """The tiny network as it is run."""
    return Predictor.of(network, window, export.forward(onnx))


def masks(inputs: Path, out: Path, predictor: Predictor) -> list[Path | None]:
    """Where the masks are; none for what was refused."""
    return [outcome.mask for outcome in outcomes(inputs, out, predictor)]


def outcomes(
    inputs: Path, out: Path, predictor: Predictor, data: DataConfig = DATA,
    allowed: predict.Allowed = predict.ANYTHING,
) -> list[predict.Outcome]:  # fmt: skip
    """What became of each file."""
    segmenter = predict.own(predictor, data, allowed)
    return [*predict.each(predict.plan(inputs, out).pairs, segmenter)]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder of two volumes, one packed and one not, and a text."""
    write_nifti(tmp_path / "in" / "a.nii.gz", tube((20, 17, 5), 1)[0], (0.5, 0.5, 2))
    write_nifti(tmp_path / "in" / "b.nii", tube((16, 20, 9), 2)[0])
    (tmp_path / "in" / "notes.txt").write_text("not a volume")
    return tmp_path / "in"


def test_a_second_run_keeps_what_the_same_model_made_of_the_same_bytes(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    def run(recipe: str) -> list[bool]:
        pairs = predict.plan(inputs, tmp_path / "out").pairs
        segmenter = predict.own(predictor, DATA, predict.ANYTHING)
        return [outcome.kept for outcome in predict.each(pairs, segmenter, recipe)]

    assert run("model 1") == [False, False]
    assert run("model 1") == [True, True]
    (tmp_path / "out" / "b_mask.nii.gz").unlink()
    assert run("model 1") == [True, False]
    write_nifti(inputs / "a.nii.gz", tube((20, 17, 5), 9)[0])
    assert run("model 1") == [False, True]
    assert run("model 2") == [False, False]


def test_a_folder_gives_one_mask_for_each_volume(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    written = masks(inputs, tmp_path / "out", predictor)
    assert [path and path.name for path in written] == ["a_mask.nii.gz", "b_mask.nii.gz"]
    assert sorted(os.listdir(tmp_path / "out")) == MADE


def test_a_table_of_the_components_and_a_preview_lie_beside_a_mask(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    (mask, _) = masks(inputs, tmp_path / "out", predictor)
    array = volume.read_volume(mask).array
    with (tmp_path / "out" / "a_mask.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == cc3d.connected_components(array, connectivity=26, return_N=True)[1]
    assert sum(int(row["voxels"]) for row in rows) == np.count_nonzero(array)
    total = np.count_nonzero(array) * 0.5
    assert sum(float(row["volume"]) for row in rows) == pytest.approx(total)
    assert {row["unit"] for row in rows} == {volume.read_volume(mask).unit}
    with Image.open(tmp_path / "out" / "a_mask.png") as picture:
        pixels = np.asarray(picture).astype(int)
        assert picture.width == 660
    assert np.ptp(pixels, axis=2).any()  # the mask is coloured
    assert np.ptp(pixels.mean(axis=2)) > 100


@pytest.mark.parametrize("name", ["a_mask.csv", "a_mask.png"])
def test_another_table_or_picture_is_not_replaced(
    inputs: Path, tmp_path: Path, predictor: Predictor, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name} is there already, and not written by"):
        masks(inputs, tmp_path / "out", predictor)
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.parametrize("ending", [".nii.gz", ".ome.tif", ".nrrd", ".mha"])
def test_a_mask_lies_on_the_grid_of_its_volume_in_its_unit(
    ending: str, tmp_path: Path, predictor: Predictor
) -> None:
    source = written_as(tmp_path / f"a{ending}", tube((20, 17, 5), 1)[0])
    (path,) = masks(source, tmp_path / "out", predictor)
    assert path is not None
    image, mask = volume.read_volume(source), volume.read_volume(path)
    assert (mask.shape, mask.unit, mask.array.dtype) == (image.shape, image.unit, np.uint8)
    assert mask.spacing == pytest.approx(image.spacing)
    assert np.allclose(mask.affine, image.affine, atol=1e-5)


def written_as(path: Path, image: np.ndarray) -> Path:
    """A volume of 0.5 x 0.5 x 2 in any format, turned where the format can say so."""
    if path.name.endswith(".nii.gz"):
        affine = np.array([[0, -0.5, 0, 3], [0.5, 0, 0, 4], [0, 0, 2, 5], [0, 0, 0, 1]])
        nifti = nib.Nifti1Image(image, affine)
        nifti.header.set_xyzt_units("micron")
        nib.save(nifti, path)
    elif path.suffix == ".tif":
        steps = {
            f"PhysicalSize{axis}": step for axis, step in zip("XYZ", (0.5, 0.5, 2.0), strict=True)
        }
        tifffile.imwrite(path, image.T, metadata={"axes": "ZYX", **steps})
    elif path.suffix == ".nrrd":
        nrrd.write(str(path), image, {
            "space": "left-posterior-superior", "space units": ["um"] * 3,
            "space directions": [[0, 0.5, 0], [-0.5, 0, 0], [0, 0, 2]], "space origin": [3, 4, 5],
        })  # fmt: skip
    else:
        size = " ".join(map(str, image.shape))
        path.write_bytes(
            f"ObjectType = Image\nNDims = 3\nDimSize = {size}\nElementType = MET_USHORT\n"
            "ElementSpacing = 0.5 0.5 2\nTransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 3 4 5\n"
            "ElementDataFile = LOCAL\n".encode()
            + image.tobytes(order="F")
        )
    return path


def test_a_file_may_name_its_mask(inputs: Path, tmp_path: Path, predictor: Predictor) -> None:
    assert masks(inputs / "b.nii", tmp_path / "my.nii.gz", predictor) == [tmp_path / "my.nii.gz"]
    assert masks(inputs / "b.nii", tmp_path / "out", predictor) == [
        tmp_path / "out" / "b_mask.nii.gz"
    ]


def test_masks_hold_the_label_values_of_the_data(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    channels, values = (
        volume.read_volume(masks(inputs / "a.nii.gz", tmp_path / name, one)[0]).array
        for name, one in (("a", predictor), ("b", replace(predictor, classes=(0, 2, 5))))
    )
    assert np.array_equal(values, np.array([0, 2, 5])[channels])


def test_a_voxel_size_that_the_user_states_is_that_of_the_mask(
    tmp_path: Path, predictor: Predictor
) -> None:
    source = written_as(tmp_path / "a.nrrd", tube((20, 17, 5), 1)[0])
    stated = DataConfig(spacing=(3.0, 3.0, 5.0), unit="mm")
    (outcome,) = outcomes(source, tmp_path / "out", predictor, stated)
    assert outcome.mask
    mask = volume.read_volume(outcome.mask)
    assert (mask.spacing, mask.unit) == ((3.0, 3.0, 5.0), "mm")


IMAGE = tube((20, 17, 6), 1)[0].astype(np.float64)
UNUSABLE = {
    "nan": (np.where(IMAGE.max() == IMAGE, np.nan, IMAGE), "non_finite"),
    "infinite": (np.where(IMAGE.max() == IMAGE, np.inf, IMAGE), "non_finite"),
    "beyond float32": (IMAGE * 1e38, "non_finite"),
    "all one value": (np.full_like(IMAGE, 7), "constant"),
    "one value in float32": (IMAGE % 8 + 2.0**40, "constant"),
    "one voxel": (IMAGE[:1, :1, :1], "wrong_dimensions"),
    "one slice": (IMAGE[:, :, :1], "wrong_dimensions"),
    "two times": (np.stack([IMAGE, IMAGE], -1), "wrong_dimensions"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_profile_would_quarantine_is_refused_by_code_and_the_others_are_segmented(
    name: str, inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    array, code = UNUSABLE[name]
    write_nifti(inputs / "bad.nii.gz", array)
    good, other, bad = outcomes(inputs, tmp_path / "out", predictor)
    assert good.mask
    assert other.mask
    assert (bad.mask, bad.findings[0].code, bad.findings[0].severity) == (None, code, "error")
    assert bad.findings[0].remedy
    assert code in CHECKS
    assert sorted(os.listdir(tmp_path / "out")) == MADE


DOMAIN = Domain(
    spacing=((0.5, 0.5, 2.0), (0.6, 0.6, 2.0)), unit="micron", min_shape=(16, 16, 5),
    max_shape=(24, 24, 9), intensities={"0.5": (180, 220), "50": (290, 330), "99.5": (780, 840)},
)  # fmt: skip


@pytest.mark.parametrize(
    ("array", "spacing", "said"),
    [
        (IMAGE, (0.5, 0.5, 2.0), ""),
        (IMAGE, (0.5, 0.5, 5.0), r"voxel size, 0\.5 x 0\.5 x 5 micron, is not among"),
        (IMAGE * 60, (0.5, 0.5, 2.0), "intensities.* unlike those trained on"),
        (IMAGE / 4000, (0.5, 0.5, 2.0), "intensities"),
        (IMAGE - 1000, (0.5, 0.5, 2.0), "intensities"),
        (IMAGE[:, :, :4], (0.5, 0.5, 2.0), "has 4 slices; the thinnest volume trained on has 5"),
        (np.tile(IMAGE, (3, 1, 1)), (0.5, 0.5, 2.0), "size, 60x17x6, is far from"),
    ],
    ids=["as-trained", "spacing", "light-sheet", "scaled", "ct", "thin", "large"],
)
def test_a_volume_unlike_those_trained_on_is_segmented_with_a_warning_or_refused(
    array: np.ndarray, spacing: tuple[float, ...], said: str, tmp_path: Path, predictor: Predictor
) -> None:
    image = nib.Nifti1Image(array.astype(np.float32), np.diag([*spacing, 1]))
    image.header.set_xyzt_units("micron")
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "v.nii.gz")
    (warned,), (refused,) = (
        outcomes(tmp_path / "in", tmp_path / how, predictor, allowed=predict.Allowed(DOMAIN, how))
        for how in ("warn", "refuse")
    )
    assert warned.mask
    problems = [one.message for one in warned.findings if one.code == "out_of_range"]
    assert len(problems) == bool(said)
    assert re.search(said, "".join(problems))
    assert (refused.mask is None) == bool(said)


def test_a_network_trained_on_resampled_volumes_sees_them_so_and_the_mask_lies_on_the_files_grid(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    seen: list[tuple[int, ...]] = []

    def forward(part: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(part.shape[2:]))
        return predictor.forward(part)

    how = Resampling(method="spacing", target_spacing=(1.0, 1.0, 1.0))
    large = predictor.window.replace(patch_size=(64, 64, 64), resampling=how.model_dump())
    one = replace(predictor, window=large, forward=forward)
    (outcome,) = outcomes(inputs / "a.nii.gz", tmp_path / "out", one)
    assert seen == [(12, 8, 10)]  # (10, 8, 10) voxels of 1, rounded up to the divisor
    assert outcome.mask
    assert volume.read_volume(outcome.mask).shape == (20, 17, 5)


@pytest.mark.parametrize("step", [0.0, -2.0, float("nan"), float("inf")])
def test_a_voxel_size_that_is_no_number_above_zero_is_refused(
    step: float, predictor: Predictor
) -> None:
    image = volume.Volume(IMAGE, (0.5, 0.5, step), "mm", np.diag([0.5, 0.5, step, 1]))
    with pytest.raises(DataError, match="voxel size") as refused:
        predict.admit(image, replace(predictor, divisor=(4, 4, 2)))
    assert refused.value.code == "implausible_spacing"


def test_a_volume_that_shrinks_to_one_voxel_inside_the_network_is_refused(
    predictor: Predictor,
) -> None:
    image = volume.Volume(IMAGE[:4, :4, :2], (1, 1, 1), "mm", np.eye(4))
    (odd,) = predict.admit(image, replace(predictor, divisor=(4, 4, 1)))
    assert (odd.code, "train" in odd.remedy) == ("few_slices", False)
    with pytest.raises(DataError, match=r"needs more than \(4, 4, 2\)"):
        predict.admit(image, replace(predictor, divisor=(4, 4, 2)))


def test_a_volume_that_takes_more_memory_than_is_free_is_refused_and_the_others_are_segmented(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((8000, 8000, 1000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (inputs / "huge.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    shown = forecast.text(inputs.iterdir(), predictor)
    assert shown.startswith("the largest, 8000x8000x1000, takes 1024.0 GB of memory")
    refused = [one for one in outcomes(inputs, tmp_path / "out", predictor) if one.mask is None]
    assert [one.source.name for one in refused] == ["huge.nii.gz"]
    assert refused[0].findings[0].code == "too_large"
    assert "cut it into blocks" in refused[0].findings[0].remedy


def test_seconds_of_a_volume_grow_with_its_windows_and_are_those_measured(
    predictor: Predictor,
) -> None:
    speed = forecast.Speed()
    with speed.measured((16, 16, 4), predictor):
        time.sleep(0.1)
    assert speed.seconds((16, 16, 4), predictor) == pytest.approx(0.1, rel=0.5)
    one = speed.seconds((16, 16, 4), predictor)
    assert speed.seconds((28, 28, 7), predictor) == pytest.approx(8 * one)
    mirrored = replace(predictor, window=predictor.window.replace(mirrored=(0, 1)))
    assert forecast.work((16, 16, 4), mirrored) == 4 * 16 * 16 * 4
    together = Combined(((predictor, predictor), (predictor,)), "mean")
    assert forecast.work((28, 28, 7), together) == 3 * 8 * 16 * 16 * 4
    with pytest.raises(DataError, match=r"a request may take 0\.01 s") as refused:
        speed.require((28, 28, 7), predictor, 0.01)
    assert "POST /jobs" in refused.value.remedy


def test_warnings_are_told_and_not_refused(tmp_path: Path, predictor: Predictor) -> None:
    write_nifti(tmp_path / "in" / "thin.nii.gz", IMAGE[:, :, :4].astype(np.float32))
    (outcome,) = outcomes(tmp_path / "in", tmp_path / "out", predictor)
    assert outcome.mask
    assert [found.code for found in outcome.findings] == ["few_slices"]


def test_a_negative_distance_of_slices_is_told(tmp_path: Path, predictor: Predictor) -> None:
    stated = {"axes": "ZYX", "spacing": -2.0, "unit": "um"}
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE.T.astype(np.uint16), imagej=True, resolution=(2, 2),
        metadata=stated,
    )  # fmt: skip
    image = volume.read_volume(tmp_path / "a.tif")
    assert image.spacing == (0.5, 0.5, 2.0)
    assert [
        found.code for found in predict.admit(image, replace(predictor, divisor=(4, 4, 1)))
    ] == ["read_as"]


def test_a_file_that_breaks_a_library_is_named_and_the_others_are_segmented(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    (inputs / "bad.nii.gz").write_text("no volume")
    found = outcomes(inputs, tmp_path / "out", predictor)
    assert [one.source.name for one in found if one.mask is None] == ["bad.nii.gz"]


@pytest.mark.parametrize("name", ["absent", "empty", "in/notes.txt"])
def test_nothing_to_segment_is_said(name: str, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        predict.plan(tmp_path / name, tmp_path / "out")


def test_labels_and_earlier_masks_are_left_out_with_the_reason(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    image = inputs / "a.nii.gz"
    for name in ("a_seg.nii.gz", "b_mask.nii", "labels/a.nii.gz", "deep/labelsTr/a.nii.gz"):
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(inputs / name, tube((16, 20, 9), 2)[1])
    masks(image, inputs / "earlier.nii.gz", predictor)
    masks(image, inputs / "masks" / "x" / "new.nii.gz", predictor)
    plan = predict.plan(inputs, inputs / "masks")
    assert [source.name for source, _ in plan.pairs] == ["a.nii.gz", "b.nii"]
    assert {path.name: why for path, why in plan.left.items()}[
        "earlier.nii.gz"
    ] == "predict wrote it"
    assert len(plan.left) == 6


def test_folders_below_are_mirrored_and_endings_of_either_case_read(tmp_path: Path) -> None:
    for name in ("V1.NII.GZ", "m1/v.nii.gz", "m2/v.nii.gz", ".hidden/v.nii.gz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    pairs = predict.plan(tmp_path / "in", tmp_path / "out").pairs
    found = {target.relative_to(tmp_path / "out").as_posix() for _, target in pairs}
    assert found == {"V1_mask.nii.gz", "m1/v_mask.nii.gz", "m2/v_mask.nii.gz"}


def test_masks_may_go_to_a_folder_above_the_volumes(inputs: Path) -> None:
    found = [target.name for _, target in predict.plan(inputs, inputs.parent).pairs]
    assert found == ["a_mask.nii.gz", "b_mask.nii.gz"]


def test_two_files_of_one_name_stop_before_any_is_segmented(tmp_path: Path) -> None:
    for ending in (".nii", ".nii.gz", ".tif"):
        (tmp_path / f"v1{ending}").touch()
    with pytest.raises(DataError, match=r"v1\.nii and .*v1\.nii\.gz and .*v1\.tif would"):
        predict.plan(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "out", ["in", "in/a.nii.gz", "in/notes.txt", "in/notes.txt/out", "m.tif", "m.png", "m.nii.gz"]
)
def test_a_folder_takes_a_folder_for_its_masks(out: str, inputs: Path) -> None:
    with pytest.raises(UsageError):
        predict.plan(inputs, inputs.parent / out)


@pytest.mark.parametrize("out", ["in/a.nii.gz", "in/b.nii", "in/notes.txt", "m.tif", "m.NII"])
def test_a_file_that_is_no_mask_of_ours_is_never_replaced(out: str, inputs: Path) -> None:
    with pytest.raises(UsageError):
        predict.plan(inputs / "a.nii.gz", inputs.parent / out)


def test_an_earlier_mask_is_made_again_and_another_file_is_kept(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    assert masks(inputs, tmp_path / "out", predictor) == masks(inputs, tmp_path / "out", predictor)
    write_nifti(tmp_path / "out" / "a_mask.nii.gz", IMAGE)
    with pytest.raises(UsageError, match=r"a_mask\.nii\.gz is there already"):
        predict.plan(inputs, tmp_path / "out")


def test_a_file_of_the_same_name_from_another_folder_does_not_replace_a_mask(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    masks(inputs / "a.nii.gz", tmp_path / "out", predictor)
    other = write_nifti(tmp_path / "other" / "a.nii.gz", IMAGE)
    with pytest.raises(UsageError, match="the mask of another file"):
        predict.plan(other, tmp_path / "out")


def test_a_mask_that_was_corrected_by_hand_is_not_replaced(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    masks(inputs, tmp_path / "out", predictor)
    path = tmp_path / "out" / "a_mask.nii.gz"
    written = nib.Nifti1Image.from_filename(path)
    corrected = np.asarray(written.dataobj).copy()
    corrected[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(corrected, written.affine, written.header), path)
    with pytest.raises(UsageError, match=r"a_mask\.nii\.gz .* was changed since"):
        predict.plan(inputs, tmp_path / "out")


def test_an_answer_that_is_no_number_is_no_empty_mask(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    broken = replace(predictor, forward=lambda part: predictor.forward(part) * float("nan"))
    found = outcomes(inputs, tmp_path / "out", broken)
    assert {one.findings[0].code for one in found if one.mask is None} == {"non_finite"}
    assert len(found) == 2


def test_a_volume_is_refused_by_a_network_of_several_channels(
    inputs: Path, tmp_path: Path, predictor: Predictor
) -> None:
    with pytest.raises(ServingError, match="2 channels"):
        masks(inputs, tmp_path / "out", replace(predictor, in_channels=2))


def test_real_volumes_of_five_slices_are_segmented(tmp_path: Path, predictor: Predictor) -> None:
    source = sorted((shared("spinal_cord_thin")).rglob("*.nii*"), key=lambda p: p.stat().st_size)[0]
    (path,) = masks(source, tmp_path, predictor)
    mask, image = (nib.Nifti1Image.from_filename(file) for file in (path, source))
    assert mask.shape == image.shape
