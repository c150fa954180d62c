"""Volumes that show the same are found, in other numbers or in part; others are left in peace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from minivess.data.pairing.cases import pair_files
from minivess.data.profiling.duplicates import find_duplicates, signature
from minivess.data.profiling.profile import Measured
from minivess.demo import phantom
from minivess.formats.volume import read_volume
from tests.conftest import shared, tube, write_nifti

WHOLE, _ = tube((64, 60, 20), seed=1)
Run = Callable[..., Measured]


def alike(**images: np.ndarray) -> list[tuple[str, str, str]]:
    signed = {name: (image.shape, signature(image)) for name, image in images.items()}
    return [(match[0], match[1], match[2]) for match in find_duplicates(signed)]


@given(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 6)))
@settings(max_examples=25)
def test_a_part_is_found_wherever_it_was_cut_from(start: tuple[int, int, int]) -> None:
    x, y, z = start
    part = WHOLE[x : x + 44, y : y + 40, z : z + 14]
    (found,) = alike(whole=WHOLE, part=part)
    assert found == ("whole", "part", f"shares a part with {{}}, {start} voxels apart")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(np.float32) * 0.37 - 12,
        lambda a: np.sqrt(a.astype(np.float64)),
        lambda a: a.astype(">i4"),
    ],
    ids=["scaled", "square root", "big-endian int32"],
)
def test_a_part_in_other_numbers_is_found(change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert len(alike(whole=WHOLE, part=change(WHOLE[8:48, 4:44, 3:17]))) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda a: (a / a.max() * 255).astype(np.uint8),
        lambda a: np.clip(a, *np.percentile(a, [2, 98])),
        lambda a: a + np.random.default_rng(0).normal(0, 4, a.shape),
        lambda a: a[::-1, :, ::-1],
    ],
    ids=["8 bits", "clipped", "with noise", "mirrored"],
)
def test_an_image_of_the_same_shape_is_found(change: Callable[[np.ndarray], np.ndarray]) -> None:
    ((first, second, how),) = alike(a=WHOLE, b=change(WHOLE))
    assert (first, second) == ("a", "b")
    assert how.startswith("shows the image of {}")


@given(st.sets(st.integers(0, 10_000), min_size=6, max_size=6))
@settings(max_examples=15)
def test_other_images_of_one_kind_are_not_alike(seeds: set[int]) -> None:
    assert alike(**{str(seed): tube((32, 30, 8), seed)[0] for seed in seeds}) == []


def test_smooth_images_of_one_kind_are_not_alike_and_their_parts_are_found() -> None:
    smooth = {str(n): gaussian_filter(tube((48, 40, 16), n)[0].astype("f4"), 1) for n in range(8)}
    assert alike(**smooth) == []
    assert len(alike(a=smooth["0"], b=smooth["0"][2:44, 3:38])) == 1


@pytest.mark.parametrize("value", [0, 7])
def test_images_of_nothing_are_not_alike(value: int) -> None:
    empty = np.full((32, 32, 8), value, np.uint8)
    assert alike(a=empty, b=empty[:30]) == alike(a=empty, b=empty.copy()) == []


def test_each_of_many_parts_of_one_image_is_found() -> None:
    parts = {f"{n:03d}": WHOLE[n % 10 : n % 10 + 50, n // 10 :] for n in range(100)}
    found = alike(whole=WHOLE, **parts)
    assert {second for _, second, _ in found} == set(parts)


@pytest.mark.parametrize("name", ["octa_vessels", "hippocampus", "spinal_cord_thin"])
def test_real_sets_of_different_volumes_raise_no_alarm(name: str) -> None:
    volumes = {case.case: read_volume(case.image).array for case in pair_files(shared(name)).cases}
    assert alike(**volumes) == []


def test_the_demo_volumes_raise_no_alarm(tmp_path: Path) -> None:
    cases = pair_files(phantom.make_phantoms(tmp_path, n=6, seed=7)).cases
    assert alike(**{case.case: read_volume(case.image).array for case in cases}) == []


def leaky(root: Path) -> Path:
    """Five volumes of which one is a crop of another, saved as float32."""
    for index in range(4):
        image, mask = tube((48, 40, 12), index)
        save(root, f"m{index}_day1", image, mask)
        if index == 2:
            part = np.s_[4:44, 2:38, 1:11]
            save(root, "m9_copy", image[part].astype(np.float32) / 4095, mask[part])
    return root


def save(root: Path, case: str, image: np.ndarray, mask: np.ndarray) -> None:
    write_nifti(root / "images" / f"{case}.nii.gz", image)
    write_nifti(root / "labels" / f"{case}.nii.gz", mask)


def found(measured: Measured) -> list[tuple[str, str, str | None]]:
    codes = ("duplicate", "near_duplicate")
    return [(f.code, f.severity, f.case) for f in measured.findings if f.code in codes]


def test_a_crop_in_another_group_is_a_warning_on_every_run(tmp_path: Path, run: Run) -> None:
    root = leaky(tmp_path / "set")
    expected = [("near_duplicate", "warning", "m9_copy")]
    assert found(run(root)) == found(run(root)) == found(run(root, group=r"^(m\d)")) == expected


def test_a_crop_in_the_same_group_is_an_information(tmp_path: Path, run: Run) -> None:
    root = leaky(tmp_path / "set")
    (root / "groups.json").write_text(
        '{"m0_day1": "a", "m1_day1": "b", "m2_day1": "c", "m3_day1": "d", "m9_copy": "c"}'
    )
    assert found(run(root)) == [("near_duplicate", "info", "m9_copy")]


def test_of_two_that_are_alike_the_one_in_another_group_is_named(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "set"
    for case in ("a_day1", "b_day1", "b_day2"):
        save(root, case, *tube((24, 24, 6), seed=1))
    measured = run(root, group=r"^(.)_")
    assert found(measured) == [
        ("duplicate", "warning", "b_day1"), ("duplicate", "warning", "b_day2"),
    ]  # fmt: skip


def test_the_same_bytes_within_a_group_are_an_information(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "set"
    for case in ("m1_a", "m1_b", "m2_a"):
        save(root, case, *tube((24, 24, 6), seed=int(case[1])))
    assert found(run(root)) == [("duplicate", "warning", "m1_b")]
    assert found(run(root, group=r"^(m\d)")) == [("duplicate", "info", "m1_b")]
