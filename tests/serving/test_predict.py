from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile

from minivess import networks
from minivess.contracts import Network, Window
from minivess.data import volume
from minivess.errors import DataError, ServingError, UsageError
from minivess.serving import export, predict
from tests.conftest import shared, tube, write_nifti


@pytest.fixture
def how(onnx: Path, network: Network, window: Window) -> dict[str, Any]:
    """How the tiny network is run."""
    divisor = networks.divisor(network)
    return {
        "forward": export.forward(onnx), "window": window, "divisor": divisor, "in_channels": 1,
    }  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder of two volumes, one packed and one not, and a text."""
    write_nifti(tmp_path / "in" / "a.nii.gz", tube((20, 17, 5), 1)[0], (0.5, 0.5, 2))
    write_nifti(tmp_path / "in" / "b.nii", tube((16, 20, 9), 2)[0])
    (tmp_path / "in" / "notes.txt").write_text("not a volume")
    return tmp_path / "in"


def test_a_folder_gives_one_mask_for_each_volume(
    inputs: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    written = predict.predict(inputs, tmp_path / "out", **how)
    assert [path.name for path in written] == ["a_mask.nii.gz", "b_mask.nii.gz"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a_mask.nii.gz", "b_mask.nii.gz"]


def test_a_mask_lies_on_the_grid_of_its_volume(
    inputs: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    (path, _) = predict.predict(inputs, tmp_path / "out", **how)
    mask, image = nib.load(path), nib.load(inputs / "a.nii.gz")
    assert mask.shape == image.shape
    assert np.array_equal(mask.affine, image.affine)
    assert mask.header.get_zooms() == image.header.get_zooms()
    assert mask.get_data_dtype() == np.uint8


def test_a_stack_gives_a_nifti_mask(tmp_path: Path, how: dict[str, Any]) -> None:
    image, _ = tube((20, 17, 5), 1)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.ome.tif", image.T)
    (path,) = predict.predict(tmp_path / "in", tmp_path / "out", **how)
    assert path.name == "a_mask.nii.gz"
    assert nib.load(path).shape == image.shape


def test_a_file_may_name_its_mask(inputs: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    assert predict.predict(inputs / "b.nii", tmp_path / "my.nii.gz", **how) == [
        tmp_path / "my.nii.gz"
    ]
    assert predict.predict(inputs / "b.nii", tmp_path / "out", **how) == [
        tmp_path / "out" / "b_mask.nii.gz"
    ]


def test_masks_hold_the_label_values_of_the_data(
    inputs: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    channels = volume.read(predict.predict(inputs / "a.nii.gz", tmp_path / "a", **how)[0]).array
    (path,) = predict.predict(inputs / "a.nii.gz", tmp_path / "b", classes=(0, 2, 5), **how)
    assert np.array_equal(volume.read(path).array, np.array([0, 2, 5])[channels])


def test_a_bad_file_is_named_and_the_others_are_segmented(
    inputs: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    (inputs / "bad.nii.gz").write_text("no volume")
    with pytest.raises(DataError, match=r"1 of 3 volumes.*bad\.nii\.gz"):
        predict.predict(inputs, tmp_path / "out", **how)
    assert len(os.listdir(tmp_path / "out")) == 2


@pytest.mark.parametrize("name", ["absent", "empty", "in/notes.txt"])
def test_nothing_to_segment_is_said(
    name: str, inputs: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        predict.predict(tmp_path / name, tmp_path / "out", **how)


def test_masks_do_not_land_among_the_volumes(inputs: Path, how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="among the volumes"):
        predict.predict(inputs, inputs, **how)


def test_a_volume_is_refused_by_a_network_of_several_channels(
    inputs: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    with pytest.raises(ServingError, match="2 channels"):
        predict.predict(inputs, tmp_path / "out", **{**how, "in_channels": 2})


def test_real_volumes_of_five_slices_are_segmented(tmp_path: Path, how: dict[str, Any]) -> None:
    source = sorted((shared("spinal_cord_thin")).rglob("*.nii*"), key=lambda p: p.stat().st_size)[0]
    (path,) = predict.predict(source, tmp_path, **how)
    assert nib.load(path).shape == nib.load(source).shape
