"""What labels mean is taken as stated, or asked back with words that work when typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from minivess import config as configs
from minivess.data.profiling import profile as profiles
from minivess.data.profiling.labels import are_object_numbers, proposed_map
from minivess.errors import DataError, UsageError
from tests.conftest import tube, write_nifti

Run = Callable[..., profiles.Measured]
WORD = re.compile(r"data\.(?:label_map|ignore_label)[^\s=]*=[^\s,;']+")
N = 4


def folder(tmp_path: Path, label: Callable[[np.ndarray, int], np.ndarray]) -> Path:
    for index in range(N):
        image, mask = tube((16, 14, 8), seed=index)
        write_nifti(tmp_path / "images" / f"v{index}.nii.gz", image)
        array = label(mask, index)
        nib.save(
            nib.Nifti1Image(array, np.eye(4), dtype=array.dtype),
            write_nifti(tmp_path / "labels" / f"v{index}.nii.gz", mask),
        )
    return tmp_path


def cut(mask: np.ndarray, values: Iterable[int], dtype: Any = np.int32) -> np.ndarray:
    """Pieces of a tube along y get these values."""
    listed, found = list(values), np.zeros(mask.shape, dtype)
    for place, value in enumerate(listed):
        part = slice(place * 14 // len(listed), (place + 1) * 14 // len(listed))
        found[:, part][mask[:, part] > 0] = value
    return found


def ring(mask: np.ndarray, value: int) -> np.ndarray:
    """Nobody annotated the voxels below the tube."""
    found = mask.astype(np.int16)
    found[np.roll(mask, 3, 1) > found] = value
    return found


def words(remedy: str) -> list[list[str]]:
    """Each reading that a remedy names, as the words to type."""
    readings = [WORD.findall(part) for part in remedy.split(", ")]
    return [reading for reading in readings if reading]


def classes(run: Run, root: Path, *typed: str) -> tuple[set[int], set[str]]:
    """The classes of a folder under settings as typed, and the codes of what was found."""
    data = configs.load(overrides=[f"data.root={root}", *typed]).data
    measured = run(root, **data.model_dump(exclude={"root"}))
    held = {value for volume in measured.stats for value in volume.label_values}
    return held, {finding.code for finding in measured.findings}


ASKED = {
    "0 and 255": (lambda m, i: m * np.uint8(255), [{0, 1}]),
    "255 in some, 254 in others": (lambda m, i: m * np.uint8(255 - i % 2), [{0, 1}]),
    "1 in some, 255 in others": (lambda m, i: m * np.uint8(255 if i % 2 else 1), [{0, 1}]),
    "0, 1 and 255": (lambda m, i: ring(m, 255), [{0, 1}, {0, 1, 2}]),
    "-1, 0 and 1": (lambda m, i: ring(m, -1), [{0, 1}, {0, 1}]),
    "1 and 2": (lambda m, i: m + 1, [{0, 1}]),
    "object 1, background 2": (lambda m, i: 2 - m, [{0, 1}]),
    "other numbers of objects": (lambda m, i: cut(m, range(1, 6 + i)), [{0, 1}, set(range(9))]),
    "ids of 32 bits": (lambda m, i: cut(m, [4_000_000_001, 70_000 + i, 90_000 + i], np.uint32), [{0, 1}]),  # noqa: E501
    "ids of 64 bits": (lambda m, i: cut(m, [9, 2**53 + 1, 2**63 + 5], np.uint64), [{0, 9, 10, 11}, {0, 1}]),  # noqa: E501
    "an atlas": (lambda m, i: cut(m, [2, 41, 1006, 2035]), [{0, 2, 41, 42, 43}]),
    "no background": (lambda m, i: cut(m, range(1, 6)) - (1 - m), [set(range(6)), {0, 1}]),
    "an object in each": (lambda m, i: m * np.uint8(3 + i), [{0, 1}, {0, 3, 4, 5, 6}]),
    "many objects": (lambda m, i: m * np.resize(np.arange(99, dtype="i4"), m.shape), [{0, 1}]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ASKED)
def test_values_that_are_no_classes_stop_and_each_reading_named_works_when_typed(
    run: Run, tmp_path: Path, kind: str
) -> None:
    label, readings = ASKED[kind]
    root = folder(tmp_path, label)
    with pytest.raises(DataError) as stopped:
        classes(run, root)
    assert [classes(run, root, *typed)[0] for typed in words(stopped.value.remedy)] == readings


SAID = {
    "inverted": (lambda m, i: 1 - m, "much_foreground", {0, 1}),
    "mostly not annotated": (lambda m, i: np.where(np.arange(8) % 4 == 0, m, np.uint8(2)), "much_foreground", {0, 1}),  # noqa: E501
    "another class in each": (lambda m, i: m * np.uint8(1 + i % 2), "label_meaning", {0, 1}),
    "five classes": (lambda m, i: cut(m, range(1, 6)), "label_meaning", {0, 1}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID)
def test_values_that_may_be_classes_go_on_with_a_warning_whose_words_work(
    run: Run, tmp_path: Path, kind: str
) -> None:
    label, code, after = SAID[kind]
    root = folder(tmp_path, label)
    measured = run(root)
    (finding,) = [one for one in measured.findings if one.code == code]
    assert classes(run, root, *words(finding.remedy)[0]) == (after, set())


@pytest.mark.parametrize("names", [{"background": 0, "ignore": 2}, {"0": "back", "2": "Ignore"}])
def test_what_dataset_json_ignores_is_ignored_or_a_class_as_the_user_says(
    run: Run, tmp_path: Path, names: dict[str, object]
) -> None:
    root = folder(tmp_path, lambda m, i: ring(m, 2))
    (root / "dataset.json").write_text(json.dumps({"labels": names}))
    with pytest.raises(DataError, match=r"dataset\.json calls the label 2 ignore") as stopped:
        classes(run, root)
    found = [classes(run, root, *typed) for typed in words(stopped.value.remedy)]
    assert found == [({0, 1}, set()), ({0, 1}, set())]


@pytest.mark.parametrize("typed", ["data.label_map.255=1", "data.label_map=binary"])
def test_words_that_are_proposed_build_on_those_that_were_typed(
    run: Run, tmp_path: Path, typed: str
) -> None:
    root = folder(tmp_path, lambda m, i: (1 - m) * np.uint8(255))
    data = configs.load(overrides=[f"data.root={root}", typed]).data
    (finding,) = run(root, label_map=data.label_map).findings
    (reading,) = words(finding.remedy)
    assert classes(run, root, *reading)[1] <= {"label_map_unused"}


def test_a_word_changes_one_value_of_a_binary_map(run: Run, tmp_path: Path) -> None:
    root = folder(tmp_path, lambda m, i: cut(m, [1, 2, 3]))
    typed = configs.load(overrides=["data.label_map=binary", "data.label_map.2=0"]).data
    (volume, *_) = run(root, label_map=typed.label_map).stats
    assert (volume.label_values, volume.components) == ((0, 1), 2)


@pytest.mark.parametrize(
    ("label", "code", "severity"),
    [
        (lambda m, i: m * np.float32(1.0004), "label_rounded", "info"),
        (lambda m, i: m * np.float32(0.97) + np.float32(0.01), "label_values", "error"),
        (lambda m, i: np.where(m > 0, np.float32(1), np.float32(np.nan)), "label_values", "error"),
        (lambda m, i: tube((16, 14, 8), seed=i)[0], "label_is_image", "error"),
        (lambda m, i: cut(m, [1, 3] if i == 2 else [1]), "rare_class", "warning"),
        (lambda m, i: np.stack([1 - m, m], axis=-1), "wrong_dimensions", "error"),
    ],
)  # fmt: skip
def test_labels_are_rounded_or_refused_and_said(
    run: Run, tmp_path: Path, label: Callable[..., np.ndarray], code: str, severity: str
) -> None:
    root = folder(tmp_path, lambda m, i: label(m, i) if i == 2 else m)
    found = [(one.code, one.severity) for one in run(root).findings]
    assert (code, severity) in found


def test_what_is_ignored_is_no_class_and_no_foreground(run: Run, tmp_path: Path) -> None:
    root = folder(tmp_path, lambda m, i: np.where(np.arange(8) < 4, m, np.uint8(255)))
    for volume in run(root, ignore_label=255).stats:
        half = tube((16, 14, 8), seed=int(volume.case[1]))[1][:, :, :4]
        assert volume.label_values == (0, 1)
        assert volume.foreground_ratio == half.mean()


def test_a_value_to_ignore_says_nothing_about_the_others(run: Run, tmp_path: Path) -> None:
    root = folder(tmp_path, lambda m, i: np.where(m, cut(m, range(1, 6 + i)), ring(m, 255)))
    with pytest.raises(DataError, match="number their objects"):
        classes(run, root, "data.ignore_label=255")
    assert classes(run, root, "data.ignore_label=255", "data.label_map=binary")[0] == {0, 1}


def test_a_label_without_an_annotated_voxel_is_quarantined(run: Run, tmp_path: Path) -> None:
    root = folder(tmp_path, lambda m, i: m if i else m * 0 + 255)
    assert run(root, ignore_label=255).quarantined == ("v0",)


@pytest.mark.parametrize("typed", ["data.label_map.3=1", "data.ignore_label=254"])
def test_a_statement_about_values_that_no_label_holds_is_said(
    run: Run, tmp_path: Path, typed: str
) -> None:
    root = folder(tmp_path, lambda m, i: m)
    assert classes(run, root, typed) == ({0, 1}, {"label_map_unused"})


@pytest.mark.parametrize(
    "typed",
    [
        ["data.label_map.3=255"],
        ["data.label_map.3=-1"],
        ["data.label_map=everything"],
        ["data.label_map.255=1", "data.ignore_label=255"],
    ],
)
def test_a_map_to_what_is_no_class_is_refused(typed: list[str]) -> None:
    with pytest.raises(UsageError):
        configs.load(overrides=typed)


MAPS = {
    ((0, 1),): {},
    ((0, 1, 2),): {},
    ((0, 1), (0, 1, 2, 4)): {},
    ((0,),): {},
    ((0, 255),): {255: 1},
    ((0, 255), (0, 254)): {254: 1, 255: 1},
    ((0, 1), (0, 255), (0,)): {255: 1},
    ((0, 128, 255), (0, 255)): {128: 1, 255: 2},
    ((0, 2),): {2: 1},
    ((0, 1, 255),): {255: 2},
    ((0, 1, 2, 255), (0, 1)): {255: 3},
    ((1, 2),): {1: 0, 2: 1},
    ((-1, 0, 1),): {-1: 0},
    ((0, 2, 41, 250, 1006),): {250: 42, 1006: 43},
    ((0, 1, 254, 300, 301),): {254: 2, 300: 3, 301: 4},
}


@pytest.mark.parametrize("sets", MAPS)
def test_values_that_are_no_class_numbers_get_a_map(sets: tuple[tuple[int, ...], ...]) -> None:
    assert proposed_map([values for values in sets if any(values)] or [(0, 1)]) == MAPS[sets]


@pytest.mark.parametrize(
    ("sets", "found"),
    [
        ([{1, 2, 3, 4}, {1, 2, 3, 4, 5}, {1, 2, 3}], True),
        ([{3, 17, 250}, {9, 88}, {41, 60, 77}], True),
        ([{1, 2}, {1}, {1, 2, 3}], False),
        ([{1, 2, 3, 4, 5}] * 9, False),
        ([{1, 2, 3, 4, 5}, {1, 2, 3, 4}, {1, 2, 3, 4, 5}], False),
        ([{1, 3, 7, 9, 12}, {1, 3, 9, 12}, {1, 7, 12}], False),
    ],
)
def test_numbers_of_objects_are_told_from_classes(sets: list[set[int]], found: bool) -> None:
    assert are_object_numbers([frozenset(values) for values in sets]) is found
