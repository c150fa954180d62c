"""The profile is exact, measures what changed, and survives bad volumes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minivess.config import DataConfig, ResamplingConfig
from minivess.contracts import DatasetProfile
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import profile as profiles
from minivess.data.profiling.intensities import sort_values
from minivess.data.profiling.measurement import measure
from minivess.data.versions.file_hashes import FileHashes
from minivess.errors import DataError
from minivess.home import Home
from tests.conftest import shared, tube, write_nifti

MakeDataset = Callable[..., Path]


def summarised(measured: profiles.Measured) -> DatasetProfile:
    return profiles.summarise(
        measured, dataset="tubes", dataset_path="tubes", version=None, label_map={}
    )


@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "float32"]).flatmap(
        lambda dtype: arrays(
            dtype,
            (3, 5, 7),
            elements=st.floats(-1e6, 1e6, width=32) if dtype == "float32" else None,
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_intensities_agree_with_numpy(image: np.ndarray) -> None:
    found = sort_values(image).numbers()
    exact = image.astype(np.float64)
    assert found["intensity_min"] == exact.min()
    assert found["intensity_max"] == exact.max()
    scale = float(np.abs(exact).max()) + 1e-12
    assert found["intensity_mean"] == pytest.approx(exact.mean(), abs=1e-9 * scale)
    assert found["intensity_std"] == pytest.approx(exact.std(), abs=1e-6 * scale)
    for q, value in found["percentiles"].items():
        assert value == pytest.approx(np.percentile(exact, float(q)), abs=1e-9 * scale)


def test_stats_of_a_volume_are_those_of_its_arrays(make_dataset: MakeDataset) -> None:
    (case, *_) = pair_files(make_dataset(1)).cases
    _, mask = tube((24, 24, 5), seed=0)
    stats, *_ = measure(case, config=DataConfig())
    assert (stats.shape, stats.dtype) == ((24, 24, 5), "uint16")
    assert stats.foreground_ratio == pytest.approx(mask.mean())
    assert (stats.label_values, stats.components) == ((0, 1), 1)
    assert stats.size_bytes == case.image.stat().st_size + case.label.stat().st_size
    assert stats.filename == "images/vol00.nii.gz"


def test_components_touch_at_corners(tmp_path: Path) -> None:
    label = np.zeros((8, 8, 8), np.uint8)
    label[1, 1, 1] = label[2, 2, 2] = label[6, 6, 6] = 1
    write_nifti(tmp_path / "labels" / "a.nii.gz", label)
    write_nifti(tmp_path / "images" / "a.nii.gz", tube((8, 8, 8), 0)[0])
    stats, *_ = measure(pair_files(tmp_path).cases[0], config=DataConfig())
    assert stats.components == 2


def test_the_profile_sums_up_the_set(make_dataset: MakeDataset, run) -> None:
    profile = summarised(run(make_dataset(3)))
    assert profile.n_volumes == 3
    assert (profile.min_shape, profile.max_shape) == ((24, 24, 5), (24, 28, 7))
    assert profile.median_shape == (24, 26, 6)
    assert profile.total_size_gb == pytest.approx(
        (24 * 24 * 5 + 24 * 26 * 6 + 24 * 28 * 7) * 4 / 2**30
    )
    assert profile.classes == (0, 1)
    assert not profile.is_anisotropic
    assert DatasetProfile.model_validate_json(profile.model_dump_json()) == profile


def test_a_voxel_longer_than_wide_makes_a_set_anisotropic(tmp_path: Path, run) -> None:
    image, mask = tube((12, 12, 6), seed=0)
    write_nifti(tmp_path / "images" / "a.nii.gz", image, (0.5, 0.5, 1.5))
    write_nifti(tmp_path / "labels" / "a.nii.gz", mask, (0.5, 0.5, 1.5))
    assert summarised(run(tmp_path)).is_anisotropic


def test_a_second_profile_measures_nothing(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(3)
    first, second = run(root), run(root)
    assert (first.rescanned, second.rescanned) == (3, 0)
    assert (second.stats, second.findings) == (first.stats, first.findings)


def test_a_touched_file_is_not_measured_again(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(2)
    run(root)
    (root / "images" / "vol00.nii.gz").touch()
    assert run(root).rescanned == 0


def test_one_changed_volume_is_measured_alone(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(3)
    before = run(root)
    write_nifti(root / "images" / "vol01.nii.gz", tube((24, 26, 6), seed=9)[0])
    after = run(root)
    assert after.rescanned == 1
    assert after.stats[0] == before.stats[0]
    assert after.stats[1] != before.stats[1]
    assert after.dataset_hash != before.dataset_hash


def test_touching_one_of_many_measures_none_and_changing_it_one(tmp_path: Path, run) -> None:
    root = tmp_path / "many"
    image, mask = tube((12, 12, 6), seed=0)
    for index in range(60):
        image[0, 0, 0] = index
        write_nifti(root / "images" / f"v{index:03d}.nii", image)
        write_nifti(root / "labels" / f"v{index:03d}.nii", mask)
    assert run(root).rescanned == 60
    (root / "images" / "v030.nii").touch()
    assert run(root).rescanned == 0
    write_nifti(root / "images" / "v030.nii", image[::-1].copy())
    assert run(root).rescanned == 1


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"stats": 1}', '{"stats": {}, "findings": []}']
)
def test_a_damaged_cache_entry_is_made_again(
    make_dataset: MakeDataset, run, home: Home, content: str
) -> None:
    root = make_dataset(2)
    before = run(root)
    entry = next((home.profile_cache / "volumes").iterdir())
    entry.write_text(content)
    after = run(root)
    assert after.rescanned == 1
    assert after.stats == before.stats
    assert run(root).rescanned == 0


PROFILE = """
import sys
from pathlib import Path
from minivess.config import DataConfig
from minivess.data.pairing import cases
from minivess.data.profiling import profile
from minivess.data.versions import file_hashes
root, cache = map(Path, sys.argv[1:3])
pairing = cases.pair_files(root)
paths = [path for case in pairing.cases for path in case.files]
hashes = file_hashes.FileHashes(cache / "index.json").hashes(paths)
print(len(profile.profile(pairing, hashes, config=DataConfig(), cache=cache).stats))
"""


@pytest.mark.slow
def test_two_processes_that_share_a_cache_do_no_harm(
    make_dataset: MakeDataset, run, home: Home
) -> None:
    root = make_dataset(6)
    command = [sys.executable, "-c", PROFILE, str(root), str(home.profile_cache)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=600)[0] for process in both] == ["6\n", "6\n"]
    measured = run(root)
    assert (measured.rescanned, len(measured.stats)) == (0, 6)


def test_a_renamed_volume_is_known_by_its_bytes(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(2)
    run(root)
    for part in ("images", "labels"):
        (root / part / "vol00.nii.gz").rename(root / part / "new.nii.gz")
    measured = run(root)
    assert measured.rescanned == 0
    assert measured.stats[0].filename == "images/new.nii.gz"


def test_another_label_map_measures_again(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(2)
    run(root)
    assert run(root, label_map={1: 1}).rescanned == 2


def test_a_bad_volume_is_quarantined_and_the_others_go_on(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(4)
    (root / "images" / "vol02.nii.gz").write_text("no volume")
    measured = run(root)
    assert measured.quarantined == ("vol02",)
    profile = summarised(measured)
    assert profile.n_volumes == 3
    assert [f.code for f in profile.findings if f.severity == "error"] == ["unreadable"]


def test_strict_stops_at_a_bad_volume(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(4)
    (root / "images" / "vol02.nii.gz").write_text("no volume")
    with pytest.raises(DataError, match="vol02"):
        run(root, strict=True)


def test_a_set_with_nothing_usable_ends_with_one_message(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(3)
    for path in (root / "images").iterdir():
        path.write_text("no volume")
    with pytest.raises(DataError, match=r"None of 3 volumes can be used \(3 unreadable\)"):
        run(root)


def test_masks_of_0_and_255_need_one_line_and_go_on_with_it(make_dataset: MakeDataset, run) -> None:
    root = make_dataset(3, value=255)
    with pytest.raises(DataError) as caught:
        run(root)
    assert caught.value.remedy == "data.label_map.255=1"
    measured = run(root, label_map={255: 1})
    assert summarised(measured).classes == (0, 1)


def test_one_good_volume_alone_has_a_profile(make_dataset: MakeDataset, run) -> None:
    assert summarised(run(make_dataset(1))).n_volumes == 1


def test_progress_is_told_after_each_volume(make_dataset: MakeDataset, home: Home) -> None:
    pairing = pair_files(make_dataset(3))
    paths = [path for case in pairing.cases for path in case.files]
    told: list[tuple[int, int]] = []
    profiles.profile(
        pairing,
        FileHashes(home.profile_cache / "index.json").hashes(paths),
        config=DataConfig(),
        cache=home.profile_cache,
        on_volume=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_processes_give_what_one_process_gives(
    make_dataset: MakeDataset, run, monkeypatch, tmp_path: Path
) -> None:
    root = make_dataset(3)
    alone = run(root)
    for file in (tmp_path / "home" / "profile_cache" / "volumes").iterdir():
        file.unlink()
    monkeypatch.setattr(profiles, "PARALLEL_BYTES", 0)
    together = run(root)
    assert together.rescanned == 3
    assert together == alone


POOL = """
import os, sys, time
from minivess.data.profiling.profile import pool_of
if __name__ == "__main__":
    with pool_of(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(2)}, flush=True)
        time.sleep(600)
"""


def test_measuring_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(POOL)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert psutil.wait_procs(children, timeout=300)[1] == []


def test_hippocampus_has_three_classes(run) -> None:
    profile = summarised(run(shared("hippocampus")))
    assert profile.classes == (0, 1, 2)
    assert profile.n_volumes == 32


def test_natively_thin_volumes_are_profiled(run) -> None:
    profile = summarised(run(shared("spinal_cord_thin")))
    assert profile.min_shape[2] == 5
    assert not profile.quarantined


def test_planning_sees_the_shapes_that_are_loaded(make_dataset: MakeDataset, run) -> None:
    profile = summarised(run(make_dataset(2)))
    config = ResamplingConfig(enabled=True, method="spacing", target_spacing=(1, 1, 0.5))
    assert profiles.as_loaded(profile, ResamplingConfig()) is profile
    loaded = profiles.as_loaded(profile, config)
    assert (loaded.min_shape, loaded.max_shape) == ((24, 24, 10), (24, 26, 12))
    assert loaded.total_size_gb == pytest.approx(2 * profile.total_size_gb)
