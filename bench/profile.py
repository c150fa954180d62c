"""Profile against bare inflating and MONAI's DataAnalyzer, time and memory: [--volumes 12 100 300].

Made-up volumes of 256 x 256 x 64 (uint16, label uint8) in .nii.gz; start-up of processes excluded;
rounds alternate, medians are printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil

from minivess.config import DataConfig
from minivess.contracts import Case
from minivess.data.cases import pair
from minivess.data.index import Index
from minivess.data.measurement import measure
from minivess.data.payload import block
from minivess.data.profile import measure_in

SHAPE = (256, 256, 64)
VOXELS = int(np.prod(SHAPE))
MIB = 2**20


def make(root: Path, n: int) -> list[Case]:
    """A dozen different volumes, copied to make `n`."""
    from scipy.ndimage import gaussian_filter

    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for index in range(n):
        source = index % 12
        if index < 12:
            rng = np.random.default_rng(index)
            smooth = gaussian_filter(rng.normal(0, 1, SHAPE).astype(np.float32), 2)
            image = (smooth * 3000 + 800 + rng.normal(0, 40, SHAPE)).clip(0, 4095)
            volumes = {"images": image.astype(np.uint16), "labels": (smooth > 0.08).astype("u1")}
            for part, array in volumes.items():
                nib.save(nib.Nifti1Image(array, np.eye(4)), root / part / f"v{index:03d}.nii.gz")
        else:
            for part in ("images", "labels"):
                here = root / part
                shutil.copy(here / f"v{source:03d}.nii.gz", here / f"v{index:03d}.nii.gz")
    return list(pair(root).cases)


def inflate(case: Case) -> int:
    """The fastest inflater at hand, nothing kept."""
    image = block(case.image, 2 * VOXELS, skip=352, packing="gzip")
    return image.size + len(block(Path(str(case.label)), VOXELS, skip=352, packing="gzip"))


def analyse(root: Path, cases: list[Case]) -> None:
    """MONAI's DataAnalyzer on the CPU, one loading process; start-up is not excluded."""
    from monai.apps.auto3dseg import DataAnalyzer

    listed = [{"image": str(case.image), "label": str(case.label)} for case in cases]
    DataAnalyzer(
        {"training": listed},
        str(root),
        output_path=str(root / "analysis.yaml"),
        device="cpu",
        worker=0,
        fmt="yaml",
        image_key="image",
        label_key="label",
    ).get_all_case_stats()


def profile(pool: ProcessPoolExecutor, cases: list[Case], home: Path) -> None:
    """Hash every file and measure every volume, nothing known before."""
    index = Index(home / f"{time.monotonic_ns()}.json")
    hashes = index.hashes([path for case in cases for path in (case.image, case.label) if path])
    for _ in measure_in(pool, cases, DataConfig(), hashes):
        pass


def timed(function: Callable[[], object]) -> float:
    """Seconds by the clock."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def peak(cases: list[Case], pool: ProcessPoolExecutor, home: Path) -> float:
    """MiB above a warmed pool, sampled as each result arrives: true peaks lie higher."""
    processes = [psutil.Process(pid) for pid in pool._processes]
    before = sum(process.memory_info().rss for process in processes)
    highest = before
    hashes = Index(home / "peak.json").hashes(
        [path for case in cases for path in (case.image, case.label) if path]
    )
    for _ in measure_in(pool, cases, DataConfig(), hashes):
        highest = max(highest, sum(process.memory_info().rss for process in processes))
    return (highest - before) / MIB


def warmed(cores: int, case: Case) -> ProcessPoolExecutor:
    """A pool whose processes have loaded what they need."""
    pool = ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn"))
    for _ in [pool.submit(measure, case, config=DataConfig()) for _ in range(4 * cores)]:
        _.result()
    return pool


def main() -> None:
    """Print the ratios, and memory for each number of volumes."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--volumes", type=int, nargs="+", default=[12, 100, 300])
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--without-monai", action="store_true")
    words = words.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cases = make(root / "set", max(words.volumes))
        with warmed(cores, cases[0]) as pool:
            few = cases[:12]
            runs: dict[str, list[float]] = {"inflate": [], "profile": [], "DataAnalyzer": []}
            for turn in range(words.rounds):
                runs["inflate"].append(timed(lambda: list(pool.map(inflate, few))))
                runs["profile"].append(timed(lambda: profile(pool, few, root)))
                if not words.without_monai and turn < 2 + words.rounds:
                    runs["DataAnalyzer"].append(timed(lambda: analyse(root, few)))
            report(runs, few, cores)
            bound = cores * 3 * 3 * VOXELS / MIB
            for n in words.volumes:
                seconds = timed(lambda n=n: profile(pool, cases[:n], root))  # type: ignore[misc]
                memory = peak(cases[:n], pool, root)
                print(f"{n:4d} volumes: {seconds:6.2f} s, {memory:5.0f} MiB (bound {bound:.0f})")


def report(runs: dict[str, list[float]], cases: list[Case], cores: int) -> None:
    """Medians and their ratios."""
    size = sum(path.stat().st_size for case in cases for path in (case.image, case.label) if path)
    print(f"{len(cases)} volumes, {size / 1e6:.0f} MB, {cores} processes, medians of rounds:")
    floor = statistics.median(runs["inflate"])
    own = statistics.median(runs["profile"])
    for name, seconds in runs.items():
        if seconds:
            middle = statistics.median(seconds)
            print(
                f"  {name:13s} {middle:7.3f} s   x {middle / floor:5.2f} of inflating, "
                f"x {middle / own:5.2f} of profile"
            )


if __name__ == "__main__":
    main()
