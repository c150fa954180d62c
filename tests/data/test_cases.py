"""Pairs are found in the layouts that people use, and what was left over is said."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minivess.config import load
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling.quality import check_pairing
from minivess.errors import DataError
from minivess.formats.filenames import is_volume, stem, suffix
from minivess.formats.volume import read_volume
from tests.conftest import shared, tube, write_nifti


def lay(root: Path, *names: str) -> Path:
    """Make empty files; pairing reads names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(root: Path, **patterns: str | None) -> dict[str, tuple[str, str]]:
    """Case -> names of its files, relative to the root."""
    return {
        case.case: (
            case.image.relative_to(root).as_posix(),
            case.label.relative_to(root).as_posix(),
        )
        for case in pair_files(root, **patterns).cases
    }


LAYOUTS = {
    "images-labels": ("images/a.nii.gz", "labels/a.nii.gz"),
    "images-labels upper": ("Images/a.nii", "Masks/a.nii.gz"),
    "images-labels roles": ("images/a_img.nii.gz", "labels/a_seg.nii.gz"),
    "images-labels channel": ("images/a_0000.nii.gz", "labels/a.nii.gz"),
    "images-labels beside": ("ct 2020/a.nii.gz", "labels/a.nii.gz"),
    "images-labels above": ("a.nii.gz", "labels/a.nii.gz"),
    "images-labels organ": ("a/ct.nii.gz", "a/segmentations/liver.nii.gz"),
    "images-labels NFD": ("images/a\u0308.nii.gz", "labels/\u00e4.nii.gz"),
    "images-labels endings": ("images/a.NII.GZ", "labels/a.TIF"),
    "nnunet": ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
    "nnunet plain": ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"),
    "suffix": ("a_img.nii.gz", "a_seg.nii.gz"),
    "suffix image": ("a_image.nii.gz", "a_label.nii.gz"),
    "suffix bare": ("a.nii.gz", "a_mask.nii.gz"),
    "suffix dash": ("a-image.nii.gz", "a-gt.nii.gz"),
    "suffix folder": ("a/image.nii.gz", "a/segmentation.nii.gz"),
    "suffix KiTS": ("a/imaging.nii.gz", "a/segmentation.nii.gz"),
    "suffix first word": ("volume-a.nii", "segmentation-a.nii"),
    "suffix cellpose": ("a.tif", "a_cp_masks.tif"),
    "suffix ilastik": ("a.tif", "a_Simple Segmentation.tif"),
    "suffix Slicer": ("a.nrrd", "a.seg.nrrd"),
    "suffix one contrast": ("a_flair.nii.gz", "a_seg.nii.gz"),
    "suffix numbered": ("a.nii.gz", "a_seg_2.nii.gz"),
    "bids": ("sub-1/anat/a.nii.gz", "derivatives/labels/sub-1/anat/a_seg-manual.nii.gz"),
    "bids raw": ("rawdata/sub-1/a.nii.gz", "derivatives/masks/sub-1/a_mask.nii.gz"),
    "bids dseg": ("sub-1/anat/a.nii.gz", "derivatives/manual/sub-1/anat/a_dseg.nii.gz"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_known_layout_is_recognised(tmp_path: Path, layout: str) -> None:
    image, label = LAYOUTS[layout]
    found = pair_files(lay(tmp_path, image, label))
    (case,) = found.cases
    assert case.case == ("\u00e4" if "NFD" in layout else "a")
    assert (case.image, case.label) == (tmp_path / image, tmp_path / label)
    assert found.layout == layout.split()[0]
    assert not found.left


NAMES = {  # names that stored runs rely on
    "a_seg": ("images/a_seg.nii.gz", "labels/a_seg.nii.gz"),
    "p_a": ("images/p/a_img.nii.gz", "labels/p/a.nii.gz"),
    "raw_a": ("raw/a.nii.gz", "raw/a_seg.nii.gz"),
    "p_p_a": ("p/p_a.nii.gz", "p/p_a_mask.nii.gz"),
    "annotations_a": ("annotations/images/a.nii.gz", "annotations/masks/a.nii.gz"),
    "t1_1": ("images/t1_1.nii.gz", "labels/t1_1.nii.gz"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_case_is_named_by_what_its_files_share(tmp_path: Path, case: str) -> None:
    assert pairs(lay(tmp_path, *NAMES[case])) == {case: NAMES[case]}


# --- dataset.json -------------------------------------------------------------------------


def write_list(root: Path, *entries: object, **other: object) -> Path:
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({"training": entries, **other}))
    return root


LISTED = {  # entry as written -> its files
    "decathlon": (("./imagesTr/a.nii.gz", "./labelsTr/a.nii.gz"), "imagesTr/a.nii.gz"),
    "other names": (("x/a.nii.gz", "y/case9.nii.gz"), "x/a.nii.gz"),
    "Windows": ((r".\x\a.nii.gz", r".\y\a.nii.gz"), "x/a.nii.gz"),
    "channel": (("x/a.nii.gz", "y/a.nii.gz"), "x/a_0000.nii.gz"),
    "percent": (("x/%C3%A4%20a.nii.gz", "y/a.nii.gz"), "x/ä a.nii.gz"),
    "NFC": (("x/\u00e4.nii.gz", "y/a.nii.gz"), "x/a\u0308.nii.gz"),
    "list of one": ((["x/a.nii.gz"], ["y/a.nii.gz"]), "x/a.nii.gz"),
    "absolute": (("ROOT/x/a.nii.gz", "ROOT/y/a.nii.gz"), "x/a.nii.gz"),
    "second labels": (("images/a.nii.gz", "labels_2/a.nii.gz"), "images/a.nii.gz"),
}


@pytest.mark.parametrize("what", LISTED)
def test_dataset_json_is_obeyed_as_written(tmp_path: Path, what: str) -> None:
    names, image = LISTED[what]
    listed = json.loads(json.dumps(names).replace("ROOT", tmp_path.as_posix()))
    label = str(names[1][0] if what == "list of one" else names[1]).replace("\\", "/")
    label = label.removeprefix("ROOT/").removeprefix("./")
    lay(tmp_path, image, label, "images/a.nii.gz", "labels/a.nii.gz", "images/b.nii.gz")
    found = pair_files(write_list(tmp_path, {"image": listed[0], "label": listed[1]}))
    assert found.layout == "msd"
    (case,) = found.cases
    assert (case.image, case.label) == (tmp_path / image, tmp_path / label)
    assert tmp_path / "images/b.nii.gz" in found.left


def test_files_of_one_name_in_listed_folders_are_told_apart(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{part}/s{i}/v.nii.gz" for part in ("im", "gt") for i in range(2)))
    write_list(
        tmp_path,
        *({"image": f"im/s{i}/v.nii.gz", "label": f"gt/s{i}/v.nii.gz"} for i in range(2)),
        test=["im/s9/v.nii.gz"],
    )
    assert pairs(tmp_path) == {
        f"s{i}_v": (f"im/s{i}/v.nii.gz", f"gt/s{i}/v.nii.gz") for i in (0, 1)
    }
    assert "1 in `test`" in pair_files(tmp_path).notes[0]


def test_a_null_label_and_several_channels_cost_one_case_each(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{part}/{name}.nii.gz" for part in "xy" for name in "abcd"))
    entries: list[dict[str, Any]] = [
        {"image": f"x/{name}.nii.gz", "label": f"y/{name}.nii.gz"} for name in "abc"
    ]
    entries[1] |= {"label": None}
    entries[2] |= {"image": ["x/c.nii.gz", "x/d.nii.gz"]}
    found = pair_files(write_list(tmp_path, *entries))
    assert [case.case for case in found.cases] == ["a"]
    told = {finding.case: finding.code for finding in check_pairing(found)}
    assert told == {"b": "missing_label", "c": "wrong_dimensions"}


BAD_LISTS = {
    "absent": (({"image": "x/a.nii.gz", "label": "y/gone.nii.gz"},), r"y/gone\.nii\.gz"),
    "outside": (({"image": "../a.nii.gz", "label": "y/a.nii.gz"},), "outside"),
    "unread": (({"image": "x/a.mgz", "label": "y/a.nii.gz"},), "FreeSurfer"),
    "names only": (("x/a.nii.gz",), "not of images and labels"),
    "empty": ((), "not of images and labels"),
    "twice": (
        tuple({"image": "x/a.nii.gz", "label": f"y/{name}.nii.gz"} for name in "ab"),
        "both be called",
    ),
}


@pytest.mark.parametrize("what", BAD_LISTS)
def test_a_list_that_cannot_be_obeyed_stops(tmp_path: Path, what: str) -> None:
    entries, message = BAD_LISTS[what]
    lay(
        tmp_path,
        "a.nii.gz",
        *(f"root/{d}/{n}.nii.gz" for d in ("x", "y", "images", "labels") for n in "ab"),
    )
    lay(tmp_path, "root/x/a.mgz")
    with pytest.raises(DataError, match=message) as caught:
        pair_files(write_list(tmp_path / "root", *entries))
    assert caught.value.remedy


def test_a_list_below_the_folder_is_not_passed_over(tmp_path: Path) -> None:
    lay(tmp_path, "T9/imagesTr/a.nii.gz", "T9/labelsTr/a.nii.gz", "T9/labelsTr2/a.nii.gz")
    write_list(tmp_path / "T9", {"image": "imagesTr/a.nii.gz", "label": "labelsTr2/a.nii.gz"})
    with pytest.raises(DataError) as caught:
        pair_files(tmp_path)
    assert caught.value.remedy == f"data.root={tmp_path / 'T9'}"


def test_a_dataset_json_without_a_list_leaves_the_layout_to_the_folders(tmp_path: Path) -> None:
    lay(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    content = {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert pair_files(tmp_path).layout == "nnunet"
    content["dataset"] = {"b": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert pairs(tmp_path) == {"b": ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")}


def test_a_list_of_monai_under_another_name_is_mentioned(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    listed = {"training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]}
    (tmp_path / "dataset_0.json").write_text(json.dumps(listed))
    (tmp_path / "params.json").write_text('{"lr": 1}')
    said = "dataset_0.json lists pairs and is not read; named dataset.json it would be."
    assert pair_files(tmp_path).notes == (said,)
    lay(tmp_path / "b", "x/a.nii.gz", "y/case9.nii.gz")
    (tmp_path / "b" / "dataset_0.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"dataset_0\.json lists pairs and is not read"):
        pair_files(tmp_path / "b")


# --- what is ambiguous --------------------------------------------------------------------


def words_of(remedy: str) -> list[dict[str, str | None]]:
    """Each way that a remedy offers, read as a shell and the command line read its words."""
    ways = re.findall(r"(?:^|: |or )(\S*data\.image=.*?) \(\d+ pairs?\)", remedy)
    configs = [load(overrides=["data.root=/x", *shlex.split(way)]).data for way in ways]
    return [{"image": config.image, "label": config.label} for config in configs]


AMBIGUOUS = {
    "two words": ("{}.nii.gz", "{}_mask.nii.gz", "{}_seg.nii.gz"),
    "two folders": ("images/{}.nii.gz", "masks/{}_mask.nii.gz", "seg/{}.nii.gz"),
    "two raters": ("images/{}.nii.gz", "rater1/{}.nii.gz", "rater2/{}.nii.gz"),
    "two raters by name": ("{}.nii.gz", "{}_seg_r1.nii.gz", "{}_seg_r2.nii.gz"),
    "a second set": ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", "labelsTr2/{}.nii.gz"),
    "masks beside labelsTr": ("imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", "masks/{}.nii.gz"),
    "a mask beside its image": ("images/{}.nii.gz", "labels/{}.nii.gz", "images/{}_mask.nii.gz"),
    "odd names": (
        "images/v [{}] 50% 'a',b #1.nii.gz",
        "labels/v [{}] 50% 'a',b #1.nii.gz",
        "masks/v [{}] 50% 'a',b #1.nii.gz",
    ),
    "organs": ("{}/ct.nii.gz", "{}/segmentations/liver.nii.gz", "{}/segmentations/spleen.nii.gz"),
    "BIDS": (
        "{0}/anat/{0}_T1w.nii.gz",
        "{0}/anat/{0}_T1w_mask.nii.gz",
        "derivatives/manual/{0}/anat/{0}_T1w_dseg.nii.gz",
    ),
}
SUBJECTS = ("sub-01", "sub-02", "sub-03")


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_two_labels_of_one_image_stop_with_words_that_decide(tmp_path: Path, what: str) -> None:
    image, *labels = AMBIGUOUS[what]
    lay(tmp_path, *(name.format(case) for name in (image, *labels) for case in SUBJECTS))
    with pytest.raises(DataError) as caught:
        pair_files(tmp_path)
    assert all(label.format("sub-01") in caught.value.problem for label in labels)
    read = {
        tuple(sorted(pairs(tmp_path, **words).values())) for words in words_of(caught.value.remedy)
    }
    assert read == {
        tuple(sorted((image.format(case), label.format(case)) for case in SUBJECTS))
        for label in labels
    }


def test_two_images_of_one_label_stop_with_words_that_decide(tmp_path: Path) -> None:
    lay(
        tmp_path,
        *(f"{c}/{c}_{part}.nii.gz" for c in ("b1", "b2") for part in ("t1", "flair", "seg")),
    )
    with pytest.raises(
        DataError, match=r"has 2 images that fit it alike: .*b1_flair.*b1_t1"
    ) as caught:
        pair_files(tmp_path)
    read = [pairs(tmp_path, **words) for words in words_of(caught.value.remedy)]
    assert [set(made) for made in read] == [{"b1", "b2"}] * 2


def test_a_case_that_is_there_twice_stops(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.nii", "images/a.nii.gz", "labels/a.nii.gz")
    with pytest.raises(DataError, match=r"images/a\.nii, images/a\.nii\.gz"):
        pair_files(tmp_path)


NOT_SEEN = [
    ("{0}/ct_{0}.nii.gz", "{0}/liver_{0}.nii.gz"),
    ("{}.nii.gz", "{}_vesselness.nii.gz"),
    ("{}mask.nii.gz", "{}.nii.gz"),
    ("scans/{}/a.nii.gz", "thing/{}/b.nii.gz"),
]


@pytest.mark.parametrize(("image", "label"), NOT_SEEN)
def test_files_that_no_rule_pairs_are_refused_with_patterns_that_fit(
    tmp_path: Path, image: str, label: str
) -> None:
    lay(tmp_path, *(name.format(case) for name in (image, label) for case in SUBJECTS))
    with pytest.raises(DataError, match="No image") as caught:
        pair_files(tmp_path)
    (words,) = words_of(caught.value.remedy)
    assert [{*two} for two in sorted(pairs(tmp_path, **words).values())] == [
        {image.format(case), label.format(case)} for case in SUBJECTS
    ]


def test_one_stem_in_two_folders_is_two_cases_and_never_crossed(tmp_path: Path) -> None:
    lay(tmp_path, *(f"imagesTr/{name}_0000.nii.gz" for name in ("A/v1", "A/v2", "B/v1", "B/v3")))
    lay(tmp_path, *(f"labelsTr/{name}.nii.gz" for name in ("A/v2", "B/v1", "B/v3", "C/v9")))
    expected = {
        f"{site}_{v}": (f"imagesTr/{site}/{v}_0000.nii.gz", f"labelsTr/{site}/{v}.nii.gz")
        for site, v in (("A", "v2"), ("B", "v1"), ("B", "v3"))
    }
    assert pairs(tmp_path) == expected
    assert [path.name for path in pair_files(tmp_path).unpaired_images] == ["v1_0000.nii.gz"]
    open_folders = {"image": "imagesTr/**/{case}_0000.nii.gz", "label": "labelsTr/**/{case}.nii.gz"}
    assert set(pairs(tmp_path, **open_folders).values()) == set(expected.values())


def test_folders_of_different_sites_are_not_crossed(tmp_path: Path) -> None:
    lay(tmp_path, "train/v1.nii.gz", "test_labels/v1.nii.gz", "B/v1.nii.gz", "A_labels/v1.nii.gz")
    lay(tmp_path, "A/v2.nii.gz", "A_labels/v2.nii.gz", "val/v3.nii.gz", "val_labels/v3.nii.gz")
    made = sorted(pairs(tmp_path).values())
    assert made == [
        (f"{part}/{v}.nii.gz", f"{part}_labels/{v}.nii.gz")
        for part, v in (("A", "v2"), ("val", "v3"))
    ]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/A/t1", "labels/A/m1_L"),  # t1 has lost its label, m1_L its image
        ("A/ct/t1", "A/seg/m1_L"),
        ("imagesTr/v1_0000", "labelsTr/v1_2"),
        ("mask_t1", "mask_mask"),
        ("sub-1/T1w", "sub-2/T1w_seg"),
    ],
)
def test_partners_that_are_lost_are_not_replaced(tmp_path: Path, image: str, label: str) -> None:
    lay(tmp_path, f"{image}.nii.gz", f"{label}.nii.gz")
    with pytest.raises(DataError, match="No image"):
        pair_files(tmp_path)


def test_pairs_that_are_named_in_another_way_are_said(tmp_path: Path) -> None:
    lay(tmp_path / "one", "a1.nii", "a1_seg.nii", "b.nii", "b_seg.nii", "c_ct.nii", "c_mask.nii")
    lay(tmp_path / "two", "images/a.nii", "labels/a.nii", "images/b.nii", "masks/b.nii")
    for name, second in (("one", "c_mask.nii"), ("two", "masks/b.nii")):
        (told,) = check_pairing(pair_files(tmp_path / name))
        assert told.code == "mixed_names"
        assert second in told.message


def test_folders_of_parts_are_read_as_one_set_and_said(tmp_path: Path) -> None:
    parts = ("train", "val", "test")
    lay(tmp_path, *(f"{part}/{kind}/v.nii.gz" for part in parts for kind in ("images", "labels")))
    found = pair_files(tmp_path)
    assert [case.case for case in found.cases] == ["test_v", "train_v", "val_v"]
    assert [finding.code for finding in check_pairing(found)] == ["divided"]


def test_further_channels_are_left_out_and_said(tmp_path: Path) -> None:
    lay(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    found = pair_files(tmp_path)
    assert [case.image.name for case in found.cases] == ["a_0000.nii.gz"]
    assert any("further channels" in note for note in found.notes)


PATTERNS = [
    ("*_img.nii.gz", "{case}_seg.nii.gz", ("v1_img.nii.gz", "v1_seg.nii.gz"), "v1"),
    ("*.nii.gz", "{case}.manual.nii.gz", ("v1.nii.gz", "v1.manual.nii.gz"), "v1"),
    ("{case}/ct.nii.gz", "{case}/vessel.nii.gz", ("p1/ct.nii.gz", "p1/vessel.nii.gz"), "p1"),
    ("{case}/{case}_ct.nii", "{case}/{case}_v.nii", ("p1/p1_ct.nii", "p1/p1_v.nii"), "p1"),
    ("raw/**/im*.nii", "seg/**/ma*.nii", ("raw/x/y/im3.nii", "seg/x/y/ma3.nii"), "3"),
    ("**/images/{case}.nii", "**/labels/{case}.nii", ("a/images/v.nii", "a/labels/v.nii"), "v"),
    ("s*/a/{case}_T2.nii", "d/**/{case}_T2_s.nii", ("s1/a/1_T2.nii", "d/s1/a/1_T2_s.nii"), "1"),
    ("{case}*.nii", "{case}_seg*.nii", ("v1_a.nii", "v1_seg_b.nii"), "v1"),
    ("*_{case}_*.nii", "s_{case}.tif", ("x_1_2_y.nii", "s_1_2.tif"), "1_2"),
    ("images/{case}.*", "labels/{case}.*", ("images/v.nii.gz", "labels/v.tif"), "v"),
    (r".\i\{case}.nii", r"l\{case}.nii", ("i/v.nii", "l/v.nii"), "v"),
    ("a [{case}]+(1).nii", "m [{case}]+(1).nii", ("a [7]+(1).nii", "m [7]+(1).nii"), "7"),
    ("{case}/{case}*.nii", "{case}/seg.nii", ("p1/p1_x.nii", "p1/seg.nii"), "p1"),
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
        pair_files(tmp_path, image="*_img.nii.gz", label="*_mask.nii.gz")


def test_what_does_not_pair_is_listed(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "images/b.nii.gz", "labels/c.nii.gz")
    lay(tmp_path, "old/a.nii.gz", "images/d.mhd", "notes.txt", ".cache/e.nii.gz")
    found = pair_files(tmp_path)
    assert [path.name for path in found.unpaired_images] == ["b.nii.gz"]
    assert [path.name for path in found.unpaired_labels] == ["c.nii.gz"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in found.left) == [
        "images/d.mhd",
        "old/a.nii.gz",
    ]


def test_the_case_is_what_exists_on_both_sides(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(1, 11)]  # v1 begins v10, too
    lay(
        tmp_path,
        *(f"{name}_2020_ct.nii.gz" for name in names),
        *(f"{name}_s.nii.gz" for name in names),
    )
    assert pairs(tmp_path, image="{case}_*_ct.nii.gz", label="{case}*s.nii.gz") == {
        name: (f"{name}_2020_ct.nii.gz", f"{name}_s.nii.gz") for name in names
    }


def test_a_number_is_not_cut_to_find_a_partner(tmp_path: Path) -> None:
    lay(tmp_path, "v12_ct.nii.gz", "v1_s.nii.gz", "v2_ct.nii.gz", "v2_s.nii.gz")
    found = pair_files(tmp_path, image="{case}*_ct.nii.gz", label="{case}*_s.nii.gz")
    assert [case.case for case in found.cases] == ["v2"]


def test_patterns_that_fit_the_same_files_alike_are_refused(tmp_path: Path) -> None:
    lay(tmp_path, "a.nii.gz", "a_seg.nii.gz")
    for image in ("{case}.nii.gz", "*.nii.gz"):
        with pytest.raises(DataError, match=r"both fit a\.nii\.gz"):
            pair_files(tmp_path, image=image, label="{case}.nii.gz")
    with pytest.raises(DataError, match="belong together"):
        pair_files(tmp_path, image="{case}.nii.gz")


def test_two_files_that_a_pattern_cannot_tell_apart_stop(tmp_path: Path) -> None:
    lay(tmp_path, "v1_a_ct.nii", "v1_b_ct.nii", "v1_seg.nii", "v2_a_ct.nii", "v2_seg.nii")
    with pytest.raises(DataError, match=r"v1_a_ct\.nii, v1_b_ct\.nii"):
        pair_files(tmp_path, image="{case}_*_ct.nii", label="{case}_seg.nii")


def test_a_finding_about_a_file_elsewhere_is_not_about_the_case_of_its_name(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "images/old/a.nii.gz")
    (told,) = check_pairing(pair_files(tmp_path))
    assert (told.code, told.case) == ("missing_label", None)
    assert "old/a.nii.gz" in told.message


def test_folds_of_nnunet_are_announced(tmp_path: Path) -> None:
    lay(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "splits_final.json")
    (note,) = pair_files(tmp_path).notes
    assert f"training.splits={tmp_path}/splits_final.json" in note


@pytest.mark.parametrize("lost", ["images", "labels"])
def test_a_link_without_content_takes_its_partner_with_it(tmp_path: Path, lost: str) -> None:
    lay(tmp_path, *(f"{part}/{case}.nii.gz" for part in ("images", "labels") for case in "ab"))
    (tmp_path / lost / "b.nii.gz").unlink()
    (tmp_path / lost / "b.nii.gz").symlink_to("../.git/annex/objects/MD5E-s9--b.nii.gz")
    found = pair_files(tmp_path)
    assert [case.case for case in found.cases] == ["a"]
    told = {finding.code: finding.remedy for finding in check_pairing(found)}
    assert "git annex get" in told["unread_format"]
    (tmp_path / "images" / "a.nii.gz").unlink()
    with pytest.raises(DataError, match="git-annex"):
        pair_files(tmp_path)


UNREAD = ["v.czi", "v.lif", "v.nd2", "v.ims", "v.vsi", "v.mnc", "v.MGZ", "v.h5", "v.npy", "v.mhd"]


@pytest.mark.parametrize("name", [*UNREAD, "v.ome.zarr/0/0", "p1/IM0001", "p1/1.2.840.7"])
def test_a_format_that_is_not_read_is_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    lay(tmp_path, name)
    if name.startswith("p1/"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match=r"1 file is not read, .*: ") as caught:
        pair_files(tmp_path)
    assert "data.root" not in caught.value.remedy
    lay(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    (told,) = check_pairing(pair_files(tmp_path))
    assert (told.code, told.remedy) == ("unread_format", caught.value.remedy)


FOLDERS = {
    "empty": ((), "holds no volume"),
    "arrays": (("images/a.npy", "labels/a.npy"), "2 files are not read, an array"),
    "no label": (("images/a.nii.gz",), "No image .* has a label"),
    "strangers": (("images/a.nii.gz", "labels/b.nii.gz"), "No image .* has a label"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_without_pairs_is_refused_with_a_remedy(tmp_path: Path, what: str) -> None:
    files, message = FOLDERS[what]
    with pytest.raises(DataError, match=message) as caught:
        pair_files(lay(tmp_path, *files))
    assert caught.value.remedy


def test_a_folder_that_is_missing_or_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        pair_files(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        pair_files(tmp_path / "file")


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
    assert np.array_equal(read_volume(path).array, array)


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
        read_volume(tmp_path / "v.nii.gz")


# --- groups -------------------------------------------------------------------------------


def mice(root: Path, *names: str) -> Path:
    return lay(root, *(f"{part}/{name}.nii.gz" for part in ("images", "labels") for name in names))


def groups(root: Path, rule: str | None = None) -> dict[str, str | None]:
    return {case.case: case.group for case in pair_files(root, group=rule).cases}


def test_the_beginning_that_names_share_makes_groups_which_are_shown(tmp_path: Path) -> None:
    root = mice(tmp_path, "m1_left", "m1_right", "m2_left")
    assert groups(root, "prefix") == {"m1_left": "m1", "m1_right": "m1", "m2_left": "m2"}
    (note,) = pair_files(root, group="prefix").notes
    assert "2 groups by data.group=prefix: m1 (m1_left, m1_right), m2 (m2_left)." in note


def test_names_that_share_no_beginning_make_no_groups(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"share no beginning.*vol_1, vol_2[^$]*data\.group="):
        pair_files(mice(tmp_path, "vol_1", "vol_2"), group="prefix")


def test_a_regex_names_the_group(tmp_path: Path) -> None:
    root = mice(tmp_path, "m1_a", "m1_b", "m2_a")
    assert groups(root, r"^(m\d)") == {"m1_a": "m1", "m1_b": "m1", "m2_a": "m2"}


@pytest.mark.parametrize("suffix", ["", ".nii.gz"])
def test_a_groups_file_in_the_folder_is_used_and_announced(tmp_path: Path, suffix: str) -> None:
    root = mice(tmp_path, "a", "b")
    (root / "groups.json").write_text(json.dumps({f"a{suffix}": "one", f"b{suffix}": "two"}))
    assert groups(root) == {"a": "one", "b": "two"}
    assert any("groups.json" in note for note in pair_files(root).notes)


def test_a_groups_file_names_one_group_for_each_case(tmp_path: Path) -> None:
    root = mice(tmp_path, "a", "b")
    (root / "groups.json").write_text(json.dumps({"a": "one", "b": None}))
    with pytest.raises(DataError, match="one name"):
        pair_files(root)


def test_a_groups_file_elsewhere_wins_over_the_one_in_the_folder(tmp_path: Path) -> None:
    root = mice(tmp_path / "data", "a", "b")
    (root / "groups.json").write_text(json.dumps({"a": "x", "b": "x"}))
    (tmp_path / "mine.json").write_text(json.dumps({"a": "1", "b": "2"}))
    assert groups(root, str(tmp_path / "mine.json")) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("rule", ["^(m1)", "(", "missing.json"])
def test_a_group_rule_that_does_not_name_every_volume_is_refused(tmp_path: Path, rule: str) -> None:
    with pytest.raises(DataError, match=r"group"):
        pair_files(mice(tmp_path, "m1_a", "m2_a"), group=rule)


SUSPECTED = [
    ({"m1_a": "m1", "m1_b": "m1", "m2a": "m2", "m3": "m3"}),
    ({"STS_001_CT": "STS_001", "STS_001_MR": "STS_001", "STS_002_CT": "STS_002"}),
    ({"sub-01_T1w": "sub-01", "sub-01_T2w": "sub-01", "sub-02_T1w": "sub-02"}),
    ({"sub-01_ses-1_T1w": "sub-01", "sub-01_ses-2_T1w": "sub-01", "sub-02_ses-1_T1w": "sub-02"}),
    ({"m1_day1_left": "m1", "m1_day2_left": "m1", "m2_day1_left": "m2"}),
    ({"m1day1": "m1", "m1day2": "m1", "m2day1": "m2"}),
]


@pytest.mark.parametrize("expected", SUSPECTED)
def test_shared_prefixes_are_warned_about_with_a_rule_that_works(
    tmp_path: Path, expected: dict[str, str]
) -> None:
    root = mice(tmp_path, *expected)
    (note,) = pair_files(root).notes
    assert all(f"{group} (" in note for group in expected.values())
    (word,) = re.findall(r"data\.group=\w+", note)
    assert groups(root, load(overrides=[f"data.root={root}", word]).data.group) == expected


@pytest.mark.parametrize(
    "names", [("vol_1", "vol_2"), ("a", "b"), ("a_1", "b_1"), ("sub-1_ses-1", "sub-2_ses-1")]
)
def test_names_without_shared_subjects_are_not_warned_about(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    assert pair_files(mice(tmp_path, *names)).notes == ()


def test_real_sets_are_paired_with_their_groups() -> None:
    octa = pair_files(shared("octa_vessels"))
    assert len(octa.cases) == 12
    assert {case.group for case in octa.cases} == {"A", "B", "C", "D"}
    assert len(pair_files(shared("hippocampus")).cases) == 32
    assert len(pair_files(shared("spinal_cord_thin")).cases) == 3
