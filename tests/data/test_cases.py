"""Pairs are found in the layouts that people use, and what was left over is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minivess.data.cases import pair
from minivess.data.filenames import is_volume, stem, suffix
from minivess.data.volume import read
from minivess.errors import DataError
from tests.conftest import shared, tube, write_nifti


def lay(root: Path, *names: str) -> Path:
    """Make empty files; pairing reads names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(root: Path, **patterns: str) -> dict[str, tuple[str, str]]:
    """Case -> names of its files, relative to the root."""
    return {
        case.case: (
            case.image.relative_to(root).as_posix(),
            case.label.relative_to(root).as_posix(),
        )
        for case in pair(root, **patterns).cases
    }


LAYOUTS = {
    "images-labels": ("images/a.nii.gz", "labels/a.nii.gz"),
    "images-labels upper": ("Images/a.nii", "Masks/a.nii.gz"),
    "images-labels roles": ("images/a_img.nii.gz", "labels/a_seg.nii.gz"),
    "images-labels channel": ("images/a_0000.nii.gz", "labels/a.nii.gz"),
    "nnunet": ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
    "nnunet plain": ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"),
    "suffix": ("a_img.nii.gz", "a_seg.nii.gz"),
    "suffix image": ("a_image.nii.gz", "a_label.nii.gz"),
    "suffix bare": ("a.nii.gz", "a_mask.nii.gz"),
    "suffix dash": ("a-image.nii.gz", "a-gt.nii.gz"),
    "suffix folder": ("a/image.nii.gz", "a/segmentation.nii.gz"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_known_layout_is_recognised(tmp_path: Path, layout: str) -> None:
    image, label = LAYOUTS[layout]
    found = pair(lay(tmp_path, image, label))
    assert pairs(tmp_path) == {"a": (image, label)}
    assert found.layout == layout.split()[0]
    assert not found.left


def test_dataset_json_of_the_decathlon_is_followed(tmp_path: Path) -> None:
    lay(tmp_path, "imagesTr/b_1.nii.gz", "labelsTr/b_1.nii.gz", "imagesTr/._b_1.nii.gz")
    lay(tmp_path, "imagesTs/b_2.nii.gz")
    listed = [
        {"image": f"./imagesTr/b_{i}.nii.gz", "label": f"./labelsTr/b_{i}.nii.gz"} for i in (1, 9)
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    found = pair(tmp_path)
    assert found.layout == "msd"
    assert [case.case for case in found.cases] == ["b_1"]
    assert [path.name for path in found.left] == ["b_2.nii.gz"]
    assert any("b_9" in note for note in found.notes)


def test_further_channels_are_left_out_and_said(tmp_path: Path) -> None:
    lay(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    found = pair(tmp_path)
    assert [case.image.name for case in found.cases] == ["a_0000.nii.gz"]
    assert any("further channels" in note for note in found.notes)


PATTERNS = [
    ("*_img.nii.gz", "{case}_seg.nii.gz", ("v1_img.nii.gz", "v1_seg.nii.gz"), "v1"),
    ("*.nii.gz", "{case}.manual.nii.gz", ("v1.nii.gz", "v1.manual.nii.gz"), "v1"),
    ("{case}/ct.nii.gz", "{case}/vessel.nii.gz", ("p1/ct.nii.gz", "p1/vessel.nii.gz"), "p1"),
    ("{case}/{case}_ct.nii", "{case}/{case}_v.nii", ("p1/p1_ct.nii", "p1/p1_v.nii"), "p1"),
    ("raw/**/im*.nii", "seg/**/ma*.nii", ("raw/x/y/im3.nii", "seg/x/y/ma3.nii"), "x_y__3"),
]


@pytest.mark.parametrize(("image", "label", "files", "case"), PATTERNS)
def test_patterns_say_which_files_belong_together(
    tmp_path: Path, image: str, label: str, files: tuple[str, str], case: str
) -> None:
    lay(tmp_path, *files)
    assert pairs(tmp_path, image=image, label=label) == {case: files}


def test_a_pattern_that_fits_nothing_is_named_with_files_that_are_there(tmp_path: Path) -> None:
    lay(tmp_path, "v1_img.nii.gz", "v1_seg.nii.gz")
    with pytest.raises(DataError, match=r"data\.label=\*_mask.*v1_img\.nii\.gz"):
        pair(tmp_path, image="*_img.nii.gz", label="*_mask.nii.gz")


def test_what_does_not_pair_is_listed(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "images/b.nii.gz", "labels/c.nii.gz")
    lay(tmp_path, "old/a.nii.gz", "images/d.mhd", "notes.txt", ".cache/e.nii.gz")
    found = pair(tmp_path)
    assert [path.name for path in found.unpaired_images] == ["b.nii.gz"]
    assert [path.name for path in found.unpaired_labels] == ["c.nii.gz"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in found.left) == [
        "images/d.mhd",
        "old/a.nii.gz",
    ]


def test_a_case_that_is_there_twice_is_taken_once_and_said(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.nii", "images/a.nii.gz", "labels/a.nii.gz")
    found = pair(tmp_path)
    assert len(found.cases) == 1
    assert any("already is case a" in note for note in found.notes)
    assert len(found.left) == 1


FOLDERS = {
    "empty": ((), "holds no volume"),
    "arrays": (("images/a.npy", "labels/a.npy"), r"2 \.npy files"),
    "no label": (("images/a.nii.gz",), "No image .* has a label"),
    "strangers": (("images/a.nii.gz", "labels/b.nii.gz"), "No image .* has a label"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_without_pairs_is_refused_with_a_remedy(tmp_path: Path, what: str) -> None:
    files, message = FOLDERS[what]
    with pytest.raises(DataError, match=message) as caught:
        pair(lay(tmp_path, *files))
    assert caught.value.remedy


def test_a_folder_that_is_missing_or_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        pair(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        pair(tmp_path / "file")


def test_linked_folders_are_read_and_a_link_upwards_is_harmless(tmp_path: Path) -> None:
    store = lay(tmp_path / "store", "images/a.nii.gz", "labels/a.nii.gz")
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(store / "images")
    (root / "labels").symlink_to(store / "labels")
    (root / "self").symlink_to(root)
    assert pairs(root) == {"a": ("images/a.nii.gz", "labels/a.nii.gz")}


@pytest.mark.parametrize("ending", [".NII.GZ", ".nii.GZ"])
def test_letters_of_either_case_end_a_name(tmp_path: Path, ending: str) -> None:
    array, _ = tube((12, 10, 8), seed=1)
    path = write_nifti(tmp_path / "v.nii.gz", array).rename(tmp_path / f"v{ending}")
    assert (is_volume(path), stem(path), suffix(path)) == (True, "v", ".nii.gz")
    assert np.array_equal(read(path).array, array)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        ("/annex/objects/MD5E-s9--1.nii.gz\n", "git annex get"),
    ],
)
def test_a_pointer_is_named_with_the_command_that_fetches_it(
    tmp_path: Path, text: str, command: str
) -> None:
    (tmp_path / "v.nii.gz").write_text(text)
    with pytest.raises(DataError, match=command):
        read(tmp_path / "v.nii.gz")


# --- groups -------------------------------------------------------------------------------


def mice(root: Path, *names: str) -> Path:
    return lay(root, *(f"{part}/{name}.nii.gz" for part in ("images", "labels") for name in names))


def groups(root: Path, rule: str | None = None) -> dict[str, str | None]:
    return {case.case: case.group for case in pair(root, group=rule).cases}


def test_a_regex_names_the_group(tmp_path: Path) -> None:
    root = mice(tmp_path, "m1_a", "m1_b", "m2_a")
    assert groups(root, r"^(m\d)") == {"m1_a": "m1", "m1_b": "m1", "m2_a": "m2"}


@pytest.mark.parametrize("suffix", ["", ".nii.gz"])
def test_a_groups_file_in_the_folder_is_used_and_announced(tmp_path: Path, suffix: str) -> None:
    root = mice(tmp_path, "a", "b")
    (root / "groups.json").write_text(json.dumps({f"a{suffix}": "one", f"b{suffix}": "two"}))
    assert groups(root) == {"a": "one", "b": "two"}
    assert any("groups.json" in note for note in pair(root).notes)


def test_a_groups_file_elsewhere_wins_over_the_one_in_the_folder(tmp_path: Path) -> None:
    root = mice(tmp_path / "data", "a", "b")
    (root / "groups.json").write_text(json.dumps({"a": "x", "b": "x"}))
    (tmp_path / "mine.json").write_text(json.dumps({"a": "1", "b": "2"}))
    assert groups(root, str(tmp_path / "mine.json")) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("rule", ["^(m1)", "(", "missing.json"])
def test_a_group_rule_that_does_not_name_every_volume_is_refused(tmp_path: Path, rule: str) -> None:
    with pytest.raises(DataError, match=r"group"):
        pair(mice(tmp_path, "m1_a", "m2_a"), group=rule)


def test_shared_prefixes_are_warned_about_with_a_rule_that_works(tmp_path: Path) -> None:
    root = mice(tmp_path, "m1_a", "m1_b", "m2a", "m3")
    (note,) = pair(root).notes
    rule = note.split("data.group=")[1].split("'")[0]
    assert groups(root, rule) == {"m1_a": "m1", "m1_b": "m1", "m2a": "m2", "m3": "m3"}


@pytest.mark.parametrize("names", [("vol_1", "vol_2"), ("a", "b"), ("a_1", "b_1")])
def test_names_without_shared_subjects_are_not_warned_about(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    assert pair(mice(tmp_path, *names)).notes == ()


def test_real_sets_are_paired_with_their_groups() -> None:
    octa = pair(shared("octa_vessels"))
    assert len(octa.cases) == 12
    assert {case.group for case in octa.cases} == {"A", "B", "C", "D"}
    assert len(pair(shared("hippocampus")).cases) == 32
    assert len(pair(shared("spinal_cord_thin")).cases) == 3
