"""Do large grids and volumes cost more than their share? `[--cells 200 2000] [--volumes 300]`.

Grids of so many cells are planned, and finished ones, made as records without a training, found,
listed and queried: the time of a cell in the largest grid may be twice that in the smallest.
`--volumes 300` sparse NIfTI files of 500 MB each are paired and planned: where a header, or what is
known of a file, says enough, no voxel may be read. `--measured 3` others are profiled.
"""

from __future__ import annotations

import argparse
import base64
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # `just bench` runs scripts with -P

from bench.age import GROWN_MB, SLOWER, resident_mb
from bench.scale import FAMILY, fill, refresh, uid
from minivess import config as configs
from minivess import files, names
from minivess.config import Environment
from minivess.contracts import CellResult, DatasetProfile, FamilyRun, TrainingResult
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import duplicates
from minivess.data.profiling.cache import Cache
from minivess.data.profiling.measurement import Measurement, measure
from minivess.data.profiling.profile import measuring_rule
from minivess.data.versions.file_hashes import FileHashes
from minivess.formats import volume
from minivess.grid import families
from minivess.home import Home, open_home
from minivess.orchestration import model_versions
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import Session
from minivess.stages import profile, train
from minivess.stages.dataset_scan import DatasetScan, scan_dataset
from minivess.tracking.store.store import Store
from minivess.upkeep import listing, status
from tests.compute.shapes import profile_of, stats

LOSSES = ("dice_ce", "cbdice", "dice_focal", "dice_ce_cldice")
SIZES = {"params": 60, "metrics": 20, "steps": 10}
WARM = 20
SAMPLE = 20
"""Families whose look-up is timed."""
SHAPE, HEADER = (640, 640, 640), 352
WRITTEN = 80
"""Slices of a volume to profile that lie on the disk; a file with less is refused as sparse."""
READ_KB = 64.0
"""Headers of image and label with what Python's buffers read beside them, and what is known."""


def session_at(home: Home, *words: str) -> Session:
    """The session of a command with these settings."""
    env = Environment(home=home.root, prefect_disabled=True)
    return Session(configs.load([], list(words)), env, home, Orchestrator(home), json=True)


# --- a grid of many cells -----------------------------------------------------------------


def grid_costs(home: Home, cells: int) -> dict[str, float]:
    """Processor seconds of each step for one cell in a grid of so many."""
    folds = FAMILY - 1
    seeds = [*range(cells // folds // len(LOSSES))]
    session = session_at(
        home, "name=scale", f"training.losses={json.dumps(LOSSES)}", f"training.folds={folds}",
        f"training.seeds={seeds}",
    )  # fmt: skip
    data = profile_of([(64, 64, 16)] * 20)
    costs = {}

    def clocked(name: str, what: Callable[[], object], per: int) -> None:
        begun = time.process_time()
        what()
        costs[name] = (time.process_time() - begun) / per

    clocked("planned", lambda: families.families(session.config, data), cells)
    asked = families.families(session.config, data)
    finished = list(finished_grid(session.store, asked, data))
    some, result = asked[-SAMPLE:], training_of(finished, data)
    find = [partial(train.reusable, session, one, data) for one in some]
    clocked("found", lambda: [look() for look in find], len(some) * folds)
    clocked("opened", lambda: [families.explain_change(session, one) for one in some], len(some))
    register = partial(model_versions.register_families, session, result)
    clocked("registered", register, len(finished))
    clocked("registered again", register, len(finished))
    clocked("status", lambda: status.look(session.store), cells)
    clocked("runs", lambda: listing.rows(session.store, every=True), cells)
    clocked("sql, first time", lambda: refresh(session.store), cells)
    clocked("sql, nothing new", lambda: refresh(session.store), cells)
    return costs


def training_of(finished: Sequence[FamilyRun], data: DatasetProfile) -> TrainingResult:
    """The training that these families make."""
    return TrainingResult(
        experiment="scale", data_profile_run_id=uid(0), dataset_hash=data.dataset_hash,
        families=tuple(finished),
    )  # fmt: skip


def finished_grid(
    store: Store, asked: Sequence[families.Family], data: DatasetProfile
) -> Iterator[FamilyRun]:
    """Records of finished families and cells, as a training would have left them."""
    fill(store, {**SIZES, "runs": FAMILY * len(asked)})
    with closing(sqlite3.connect(store.home.database)) as database, database:
        for number, family in enumerate(asked):
            for place, key in enumerate([family.key, *(cell.key for cell in family.cells)]):
                run = uid(number * FAMILY + place)
                known = "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?"
                database.execute(known, (key, run, names.KEY))
                renamed = "UPDATE runs SET name = ? WHERE run_uuid = ?"
                database.execute(renamed, (family.name, run))
            hashed = "INSERT INTO params VALUES (?, ?, ?)"
            parent = uid(number * FAMILY)
            database.execute(hashed, (names.DATASET_HASH, data.dataset_hash, parent))
    for number, family in enumerate(asked):
        yield write_artifacts(store.home, number * FAMILY, family, data)


def write_artifacts(
    home: Home, first: int, family: families.Family, data: DatasetProfile
) -> FamilyRun:
    """What a family and its cells hold, in the folders of their runs."""
    cells = [uid(first + 1 + place) for place in range(len(family.cells))]
    run = FamilyRun(
        run_id=uid(first), run_name=family.name, experiment_name="scale", artifact_uri="",
        model=family.model.name, loss=family.loss.name, seed=family.seed, key=family.key,
        cells=tuple(cell.key for cell in family.cells), child_run_ids=tuple(cells), metrics={},
    )  # fmt: skip
    held = {
        names.TRAINING_ARTIFACT: run.model_dump(mode="json"),
        names.PROFILE_ARTIFACT: data.model_dump(mode="json"),
        names.INGREDIENTS_ARTIFACT: family.ingredients,
        f"{names.MODEL_ARTIFACT}/MLmodel": {},
    }
    write_all(home, uid(first), held)
    for run_id, cell in zip(cells, family.cells, strict=True):
        result = CellResult(
            key=cell.key, judged_epoch=1, epochs=2, stopped_early=False, training_time_seconds=1,
            time_shares={}, trainable_parameters=1, best={}, untrained={}, volumes=(),
            checkpoint=names.FINAL, files={},
        )  # fmt: skip
        table = {
            "columns": ["fold", "case", "group", "dice"],
            "data": [[cell.fold.index, case, None, 0.5] for case in cell.fold.val],
        }
        held = {
            names.RESULT_ARTIFACT: result.model_dump(mode="json"), names.SPEC_ARTIFACT: {},
            names.PER_VOLUME_ARTIFACT: table, f"checkpoints/{names.FINAL}": {},
        }  # fmt: skip
        write_all(home, run_id, held)
    return run


def write_all(home: Home, run_id: str, held: Mapping[str, object]) -> None:
    """Artifacts of a run, each as JSON."""
    for name, content in held.items():
        path = home.artifacts / "scale" / run_id / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


# --- many large volumes -------------------------------------------------------------------


def write_volumes(root: Path, count: int, *, slices: int = 0) -> None:
    """Pairs of NIfTI files of 500 and 250 MB; slices that are not written are holes."""
    draw = np.random.default_rng(0)
    for number in range(count):
        for folder, dtype in (("images", np.uint16), ("labels", np.uint8)):
            path = root / folder / f"v{number:03}.nii"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                stream.write(header(dtype))
                for place in range(slices):
                    noise = draw.integers(0, 4000, SHAPE[:2])
                    tubes = (noise < 1) | (place % 8 == 0)
                    stream.write((noise if folder == "images" else tubes).astype(dtype).tobytes())
                stream.truncate(HEADER + int(np.prod(SHAPE)) * np.dtype(dtype).itemsize)


def header(dtype: type) -> bytes:
    """The header of a `.nii` with cubic voxels of a micron."""
    made = nib.Nifti1Header()
    made.set_data_shape(SHAPE)
    made.set_data_dtype(dtype)
    made.set_xyzt_units("micron")
    made.set_sform(np.eye(4), code=1)
    made["magic"], made["vox_offset"] = b"n+1", HEADER
    return bytes(made.binaryblock) + bytes(HEADER - 348)


def planned_volumes(home: Home, root: Path) -> Iterator[tuple[str, float, float, float]]:
    """Each step over all volumes: its name, seconds and kilobytes read a volume, megabytes grown.

    The last step is what `init` and `plan` do with volumes that a profile has measured before.
    """
    session = session_at(home, f"data.root={root}")
    session.store.search()
    paths = sorted(root.rglob("*.nii"))
    process, count = psutil.Process(), len(paths) / 2

    def clocked(name: str, what: Callable[[], object]) -> tuple[str, float, float, float]:
        before, held, begun = process.io_counters().read_chars, resident_mb(), time.process_time()
        what()
        took = time.process_time() - begun
        read = process.io_counters().read_chars - before
        return name, took / count, read / 1024 / count, resident_mb() - held

    yield clocked("headers", lambda: [volume.header_shape(path) for path in paths])
    remember_hashes(home, paths)
    yield clocked("scan", lambda: scan_dataset(session))
    remember_measurements(session, scan_dataset(session))
    yield clocked("plan", lambda: planned(session))


def planned(session: Session) -> None:
    """What `init` and `plan` do before they time training steps."""
    scan = scan_dataset(session)
    found = profile.summary(session, scan, profile.measure(session, scan))
    assert found.n_volumes == len(scan.pairing.cases), found.findings
    families.families(session.config, found)


def remember_hashes(home: Home, paths: Sequence[Path]) -> None:
    """Leave the index of hashes that an earlier command left."""
    index = FileHashes(home.profile_cache / "index.json")
    marks = {path: path.stat() for path in paths}
    files.write_json(index.path, {
        str(path): {
            "md5": f"{number:032x}",
            "mark": [mark.st_size, mark.st_mtime_ns, mark.st_ino, mark.st_ctime_ns],
        }
        for number, (path, mark) in enumerate(marks.items())
    })  # fmt: skip


def remember_measurements(session: Session, scan: DatasetScan) -> None:
    """Leave the measurements that an earlier command left."""
    draw, grid = np.random.default_rng(0), int(np.prod(duplicates.GRID))
    known = Cache(session.home.profile_cache, scan.hashes, measuring_rule(session.config.data))
    for case in scan.pairing.cases:
        shown = draw.integers(-127, 127, grid, dtype=np.int8).tobytes()
        numbers = stats(case.case, SHAPE, (1, 1, 1))
        signature = base64.b64encode(shown).decode()
        known.remember(case, Measurement(numbers, [], signature, case))


def profiled_volumes(root: Path) -> Iterator[tuple[float, float]]:
    """Seconds and the most megabytes of each volume that is hashed and measured."""
    config = configs.load([], [f"data.root={root}"]).data
    for case in pair_files(root).cases:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        begun = time.process_time()
        found = measure(case, config=config)
        assert found.stats is not None, found.findings
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        yield time.process_time() - begun, peak


def main() -> int:
    """Make, measure, print; 1 if a limit is exceeded."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--cells", type=int, nargs="*", default=[200, 2000])
    asked.add_argument("--volumes", type=int, default=300)
    asked.add_argument("--measured", type=int, default=3)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="minivess-large-") as folder:
        slow = show_cells(Path(folder), sorted(given.cells))
        wrong = show_volumes(Path(folder), given.volumes, given.measured)
    return int(slow or wrong)


def show_cells(folder: Path, sizes: Sequence[int]) -> bool:
    """Print the cost of a cell at each size; whether one exceeds the limit."""
    if not sizes:
        return False
    grid_costs(open_home(folder / "warm"), WARM)  # imports and first connections
    costs = {size: grid_costs(open_home(folder / f"grid{size}"), size) for size in sizes}
    worst = 0.0
    for name in costs[sizes[0]]:
        ms = [1000 * costs[size][name] for size in sizes]
        worst = max(worst, ms[-1] / ms[0])
        shown = " / ".join(f"{one:8.3f}" for one in ms)
        print(f"{name:<17} {shown} ms at {sizes} cells: {ms[-1] / ms[0]:.2f} x (limit {SLOWER:g})")
    return worst > SLOWER


def show_volumes(folder: Path, count: int, measured: int) -> bool:
    """Print what large volumes cost; whether voxels were read in vain, or memory grew."""
    wrong = False
    if count:
        write_volumes(folder / "many", count)
        home = open_home(folder / "volumes")
        for name, took, kb, grown in planned_volumes(home, folder / "many"):
            print(f"{name:<8} {1000 * took:7.2f} ms, {kb:6.1f} kB read a volume, {grown:+.1f} MB")
            wrong |= kb > READ_KB or grown > GROWN_MB
    if measured:
        write_volumes(folder / "few", measured, slices=WRITTEN)
        peaks = []
        for took, peak in profiled_volumes(folder / "few"):
            peaks.append(peak)
            print(f"measured {took:7.2f} s, at most {peak:.0f} MB")
        wrong |= peaks[-1] > peaks[0] + GROWN_MB
    return wrong


if __name__ == "__main__":
    sys.exit(main())
