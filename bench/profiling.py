"""Profile against bare inflating, MONAI's DataAnalyzer and nnU-Net's fingerprint; memory; caching.

Volumes of 256 x 256 x 64 (uint16, label uint8) in .nii.gz, put together from the demo volumes with
fresh noise. Start-up of processes is excluded and they are kept; rounds alternate; medians of time
by the clock and of processor time, which a busy machine disturbs less. nnU-Net runs in its own
environment: --nnunet /path/to/its/python (nnunetv2 2.5.2, dynamic-network-architectures 0.3.1).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
import psutil

from minivess.config import DataConfig
from minivess.contracts import Case
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import profile as profiles
from minivess.data.profiling import quality
from minivess.data.profiling.measurement import measure
from minivess.data.versions.file_hashes import FileHashes
from minivess.demo import vessels
from minivess.formats.decode import read_block
from minivess.formats.volume import read_volume

SHAPE = (256, 256, 64)
VOXELS = int(np.prod(SHAPE))
BYTES = 3 * VOXELS  # of an image and its label
MIB = 2**20
DIFFERENT = 12  # volumes; more are copies of them
TILE = 40
Timing = dict[str, list[tuple[float, float]]]

NNUNET = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor as Extractor,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

def run(pool, pairs):
    jobs = [
        pool.submit(Extractor.analyze_case, [image], label, SimpleITKIO, int(10e7 // len(pairs)))
        for image, label in pairs
    ]
    return [job.result() for job in jobs]

if True:
    pairs = [line.split("|") for line in sys.argv[2:]]
    with ProcessPoolExecutor(int(sys.argv[1]), mp_context=get_context("spawn")) as pool:
        run(pool, pairs)
        print("ready", flush=True)
        for _ in sys.stdin:
            run(pool, pairs)
            print("done", flush=True)
"""


def make(root: Path, n: int) -> list[Case]:
    """`n` volumes: `DIFFERENT` of them made, the others copies."""
    tiles = [vessels.make_vessels(index, 7) for index in range(DIFFERENT)]
    for index in range(n):
        made = volume(index, tiles) if index < DIFFERENT else None
        for turn, part in enumerate(("images", "labels")):
            path = root / part / f"v{index:03d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            if made is None:
                shutil.copy(path.with_name(f"v{index % DIFFERENT:03d}.nii.gz"), path)
            else:
                nib.save(nib.Nifti1Image(made[turn], np.eye(4)), path)
    return list(pair_files(root).cases)


def volume(seed: int, tiles: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Demo volumes side by side until the shape is filled, in noise of their own."""
    rng = np.random.default_rng(seed)
    image, label = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint8)
    for x in range(0, SHAPE[0], TILE):
        for y in range(0, SHAPE[1], TILE):
            z = 0
            while z < SHAPE[2]:
                grey, mask, _ = tiles[int(rng.integers(len(tiles)))]
                ends = (min(x + TILE, SHAPE[0]), min(y + TILE, SHAPE[1]), z + grey.shape[2])
                here = np.s_[x : ends[0], y : ends[1], z : min(ends[2], SHAPE[2])]
                size = image[here].shape
                part = tuple(slice(step) for step in size)
                image[here] = grey[part] + rng.integers(0, 32, size, dtype=np.uint16)
                label[here] = mask[part]
                z = ends[2]
    return image, label


# --- what is compared ---------------------------------------------------------------------


def inflate(case: Case) -> int:
    """The fastest inflater at hand, nothing kept."""
    image = read_block(case.image, 2 * VOXELS, skip=352, packing="gzip")
    return image.size + read_block(Path(str(case.label)), VOXELS, skip=352, packing="gzip").size


def profiled(pool: ProcessPoolExecutor, cases: Sequence[Case], folder: Path) -> int:
    """Hashes of all files, then all volumes in the pool, then the checks of the set."""
    config = DataConfig()
    index = FileHashes(folder / f"{time.monotonic_ns()}.json")
    hashes = index.hashes([path for case in cases for path in (case.image, case.label) if path])
    jobs = [
        pool.submit(
            measure, case, config=config, hashes=[hashes[p] for p in (case.image, case.label) if p]
        )
        for case in cases
    ]
    measured = [job.result() for job in jobs]
    stats = [result.stats for result in measured if result.stats is not None]
    signatures = {r.stats.case: r.signature for r in measured if r.stats is not None}
    quality.check_set(stats, signatures, outlier_z=config.outlier_z)
    return len(stats)


def analyse(cases: Sequence[Case], folder: str, threads: int) -> int:
    """MONAI's DataAnalyzer on the CPU."""
    import logging

    import torch
    from monai.apps.auto3dseg import DataAnalyzer

    logging.disable()
    torch.set_num_threads(threads)
    listed = [{"image": str(case.image), "label": str(case.label)} for case in cases]
    out = f"{folder}/{os.getpid()}.yaml"
    found = DataAnalyzer(
        {"training": listed}, folder, out, device="cpu", worker=0, fmt="yaml",
        image_key="image", label_key="label",
    ).get_all_case_stats()  # fmt: skip
    return len(found["stats_by_cases"])


@contextmanager
def fingerprint(python: str, cores: int, cases: Sequence[Case]) -> Iterator[Callable[[], object]]:
    """nnU-Net's analysis of each case in its own warmed processes; calling it runs all once."""
    words = [f"{case.image}|{case.label}" for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "fingerprint.py"
        script.write_text(NNUNET.replace("if True:", 'if __name__ == "__main__":'))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with subprocess.Popen(
            [python, script, str(cores), *words], text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            heard = cast(IO[str], process.stdout)
            asked = cast(IO[str], process.stdin)

            def wait(word: str) -> None:  # it prints of other things too
                while (line := heard.readline()) != f"{word}\n":
                    if not line:
                        raise SystemExit(f"{python} cannot run nnU-Net's fingerprint")

            def once() -> None:
                asked.write("run\n")
                asked.flush()
                wait("done")

            wait("ready")
            yield once
            asked.close()


# --- measuring ----------------------------------------------------------------------------


def family() -> list[psutil.Process]:
    """This process and all below it."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def processor_s() -> float:
    """Processor time of this process and all that live below it."""
    times = [process.cpu_times() for process in family()]
    return sum(each.user + each.system for each in times)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processors."""
    before, start = processor_s(), time.perf_counter()
    work()
    return time.perf_counter() - start, processor_s() - before


def peak_mib(work: Callable[[], object]) -> float:
    """Most memory of this process and all below it beyond what they held before, sampled (USS)."""

    def held() -> int:
        return sum(process.memory_full_info().uss for process in family())

    base, highest, done = held(), 0, threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, held() - base)

    sampler = threading.Thread(target=sample)
    sampler.start()
    work()
    done.set()
    sampler.join()
    return highest / MIB


def warmed(cores: int, case: Case, times: int = 4) -> ProcessPoolExecutor:
    """A pool whose processes have loaded what they need."""
    pool = profiles.pool_of(cores)
    for job in [pool.submit(measure, case, config=DataConfig()) for _ in range(times * cores)]:
        job.result()
    return pool


def compare(cases: Sequence[Case], cores: int, options: argparse.Namespace, folder: Path) -> None:
    """Alternate all on the same files, and print medians and ratios."""
    few = cases[: options.compared]
    parts = [few[index::cores] for index in range(cores)]
    with warmed(cores, few[0]) as pool, warmed(cores, few[0]) as other:
        runs: dict[str, Callable[[], object]] = {
            "inflate": lambda: list(pool.map(inflate, few)),
            "profile": lambda: profiled(pool, few, folder),
        }
        if not options.without_monai:
            for job in [other.submit(analyse, few[:1], str(folder), 1) for _ in range(cores)]:
                job.result()
            runs["DataAnalyzer, 1 process"] = lambda: other.submit(
                analyse, few, str(folder), cores
            ).result()
            runs[f"DataAnalyzer, {cores} processes"] = lambda: list(
                other.map(analyse, parts, [str(folder)] * cores, [1] * cores)
            )
        if options.nnunet is None:
            return alternate(runs, options.rounds, few)
        with fingerprint(options.nnunet, cores, few) as once:
            runs[f"nnU-Net, {cores} processes"] = once
            return alternate(runs, options.rounds, few)


def alternate(runs: dict[str, Callable[[], object]], rounds: int, cases: Sequence[Case]) -> None:
    """Each in turn, as many times; then the medians."""
    found: Timing = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            found[name].append(timed(run))
        print(f"round {turn + 1}: " + ", ".join(f"{t[-1][0]:.2f} s" for t in found.values()))
    size = sum(path.stat().st_size for case in cases for path in (case.image, case.label) if path)
    print(f"{len(cases)} volumes, {size / 1e6:.0f} MB; medians of {rounds} rounds")
    middle = {
        name: [statistics.median(column) for column in zip(*seconds, strict=True)]
        for name, seconds in found.items()
    }
    for name, (clock, processor) in middle.items():
        of = [
            value / floor
            for value, floor in zip((clock, processor), middle["inflate"], strict=True)
        ]
        to = [value / own for value, own in zip((clock, processor), middle["profile"], strict=True)]
        print(
            f"  {name:26s} clock {clock:7.2f} s (x {of[0]:5.2f} of inflating, x {to[0]:5.2f} of "
            f"profile)   processors {processor:7.2f} s (x {of[1]:5.2f}, x {to[1]:5.2f})"
        )


def grow(cases: Sequence[Case], counts: Sequence[int], cores: int, folder: Path) -> None:
    """Time for each number of volumes, and memory of processes that have seen a tiny one only."""
    bound = cores * 3 * BYTES / MIB
    tiny = folder / "tiny"
    for part, array in zip(("images", "labels"), vessels.make_vessels(0, 7)[:2], strict=True):
        (tiny / part).mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tiny / part / "v.nii")
    for n in counts:
        some = cases[:n]
        with warmed(cores, pair_files(tiny).cases[0], times=8) as pool:
            run = partial(profiled, pool, some, folder)
            memory = peak_mib(run)
            clock, processor = timed(run)
        print(
            f"{n:4d} volumes: {clock:6.2f} s, processors {processor:6.2f} s, "
            f"peak {memory:4.0f} MiB (bound {bound:.0f})"
        )


def again(root: Path, cache: Path) -> None:
    """A whole profile with its cache: first, with nothing changed, one touched, one changed."""

    def whole() -> Any:
        pairing = pair_files(root)
        paths = [path for case in pairing.cases for path in (case.image, case.label) if path]
        hashes = FileHashes(cache / "index.json").hashes(paths)
        return profiles.profile(pairing, hashes, config=DataConfig(), cache=cache)

    image = sorted((root / "images").iterdir())[0]
    changes: dict[str, Callable[[], object]] = {
        "first": lambda: None,
        "nothing changed": lambda: None,
        "one touched": image.touch,
        "one changed": lambda: nib.save(
            nib.Nifti1Image(read_volume(image).array[::-1], np.eye(4)), image
        ),
    }
    time.sleep(2)  # the index trusts a file once it is two seconds old
    for name, change in changes.items():
        change()
        start = time.perf_counter()
        measured = whole()
        print(
            f"{name:16s} {time.perf_counter() - start:6.2f} s, {measured.rescanned} of "
            f"{len(measured.stats)} measured"
        )


def main() -> None:
    """Print all of it."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--volumes", type=int, nargs="*", default=[12, 100, 300])
    words.add_argument("--rounds", type=int, default=5, help="0: no comparison")
    words.add_argument("--compared", type=int, default=DIFFERENT, help="volumes in a round")
    words.add_argument("--without-monai", action="store_true")
    words.add_argument("--nnunet", metavar="PYTHON", help="the Python of an nnU-Net environment")
    options = words.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases = make(folder / "set", max([options.compared, *options.volumes]))
        load = os.getloadavg()[0]
        print(f"{cores} processes; load of the machine before: {load:.1f}")
        if options.rounds:
            compare(cases, cores, options, folder)
        if options.volumes:
            grow(cases, options.volumes, cores, folder)
            again(folder / "set", folder / "cache")


if __name__ == "__main__":
    main()
