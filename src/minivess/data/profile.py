"""The dataset in numbers: each volume measured once for its content, then summed up."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from minivess import files, keys
from minivess.config import DataConfig
from minivess.contracts import (
    Case,
    DatasetProfile,
    Finding,
    Pairing,
    Shape,
    Spacing,
    VolumeStats,
)
from minivess.data import quality
from minivess.data.cases import curated_names
from minivess.data.versioning import Version
from minivess.data.volume import Array, read, relabel, whole
from minivess.errors import DataError

log = logging.getLogger(__name__)

CODE = ("data/profile.py", "data/quality.py", "data/volume.py")
PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
GIB = 2**30
CHUNK = 1 << 22  # voxels counted at once; bincount widens them to 8 bytes
PARALLEL_BYTES = 200_000_000  # below this, starting processes costs more than it saves

Result = tuple[VolumeStats | None, list[Finding]]


@dataclass(frozen=True)
class Measured:
    """All volumes of a set: the usable ones in numbers, and what was found."""

    stats: tuple[VolumeStats, ...]
    findings: tuple[Finding, ...]
    quarantined: tuple[str, ...]
    rescanned: int


def measure(case: Case, *, config: DataConfig) -> Result:
    """Measure one volume at native resolution; None where a file cannot be used at all."""
    try:
        image, label = read(case.image), read(cast(Path, case.label))
    except DataError as error:
        code = "wrong_dimensions" if "-D " in error.problem else "unreadable"
        return None, [_error(case, code, error)]
    try:
        classes = relabel(whole(label.array, cast(Path, case.label)), config.label_map)
    except DataError as error:
        return None, [_error(case, "label_values", error)]
    findings = quality.check(case.case, image, label, classes)
    if any(finding.severity == "error" for finding in findings):
        return None, findings
    return _stats(case, image.array, classes, (image.spacing, image.unit)), findings


def profile(
    pairing: Pairing,
    hashes: Mapping[Path, str],
    *,
    config: DataConfig,
    cache: Path,
    on_volume: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure every volume whose content, settings or profiler changed; take the rest from `cache`.

    `on_volume(done, total)` is called after each volume.

    Raises:
        DataError: nothing usable is left, label values need a map, or (strict) any error.
    """
    rule = {"code": keys.code(CODE), "label_map": config.counted()["label_map"]}
    results: dict[str, Result] = {}
    fresh: list[Case] = []
    for case in pairing.cases:
        known = _recall(cache, _key(case, hashes, rule), case)
        if known is None:
            fresh.append(case)
        else:
            results[case.case] = known
    for done, (case, result) in enumerate(_measure_all(fresh, config), start=1):
        results[case.case] = _remember(cache, _key(case, hashes, rule), result)
        if on_volume is not None:
            on_volume(len(pairing.cases) - len(fresh) + done, len(pairing.cases))
    measured = _gather(pairing, results, len(fresh), config)
    _refuse(measured, strict=config.strict)
    return measured


def summarise(
    measured: Measured,
    *,
    dataset: str,
    dataset_path: str,
    version: Version,
    label_map: dict[int, int],
) -> DatasetProfile:
    """Sum up the usable volumes of one version of the data.

    Raises:
        DataError: nothing usable is left, or label values need a map.
    """
    _refuse(measured, strict=False)
    stats = measured.stats
    shapes = np.array([volume.shape for volume in stats])
    spacings = np.array([volume.voxel_spacing for volume in stats])
    total = float(shapes.prod(axis=1).sum()) * 4 / GIB
    return DatasetProfile(
        dataset=dataset,
        dataset_path=dataset_path,
        dataset_hash=version.dataset_hash,
        curated=version.relative(version.curated),
        dvc_file=version.relative(version.dvc_file),
        remote=version.remote,
        n_volumes=len(stats),
        min_shape=_shape(shapes.min(axis=0)),
        max_shape=_shape(shapes.max(axis=0)),
        median_shape=_shape(np.median(shapes, axis=0)),
        spacing_range=(_spacing(spacings.min(axis=0)), _spacing(spacings.max(axis=0))),
        is_anisotropic=_is_anisotropic(spacings),
        total_size_gb=total,
        per_volume_mean_gb=total / len(stats),
        outliers=tuple(
            sorted({f.case for f in measured.findings if f.code == "outlier" and f.case})
        ),
        warnings=tuple(
            f"{f.case or dataset}: {f.message}"
            for f in measured.findings
            if f.severity == "warning"
        ),
        classes=tuple(sorted({0}.union(*(volume.label_values for volume in stats)))),
        label_map=label_map,
        volumes=stats,
        findings=measured.findings,
        quarantined=measured.quarantined,
    )


# --- one volume ---------------------------------------------------------------------------


def _error(case: Case, code: str, error: DataError) -> Finding:
    return quality.finding(code, "error", error.problem, error.remedy).replace(case=case.case)


def _stats(case: Case, image: Array, classes: Array, geometry: tuple[Spacing, str]) -> VolumeStats:
    import cc3d

    label = cast(Path, case.label)
    spacing, unit = geometry
    foreground = classes != 0
    _, components = cc3d.connected_components(foreground, connectivity=26, return_N=True)
    return VolumeStats(
        case=case.case,
        filename=curated_names(case)[0],
        label_filename=curated_names(case)[1],
        group=case.group,
        shape=_shape(np.array(image.shape)),
        voxel_spacing=spacing,
        unit=unit,
        dtype=str(image.dtype),
        foreground_ratio=float(foreground.mean()),
        label_values=tuple(int(value) for value in np.unique(classes)),
        components=int(components),
        size_bytes=case.image.stat().st_size + label.stat().st_size,
        content_hash=keys.digest([files.md5(case.image), files.md5(label)]),
        **intensities(image),
    )


def intensities(image: Array) -> dict[str, Any]:
    """Exact range, mean, standard deviation and percentiles of raw values.

    Integers of 8 and 16 bits take one counting pass instead of a sort.
    """
    if image.dtype.kind in "iu" and image.dtype.itemsize <= 2:
        low = int(np.iinfo(image.dtype).min)
        counts = _counts(image.ravel(order="K"), low)
        values = np.arange(counts.size, dtype=np.float64) + low
    else:
        values, counts = np.unique(image.astype(np.float64), return_counts=True)
    present = counts > 0
    values, counts = values[present], counts[present]
    n = int(counts.sum())
    mean = float((values * counts).sum() / n)
    return {
        "intensity_min": float(values[0]),
        "intensity_max": float(values[-1]),
        "intensity_mean": mean,
        "intensity_std": float(np.sqrt(((values - mean) ** 2 * counts).sum() / n)),
        "percentiles": {f"{q:g}": _percentile(values, counts, q) for q in PERCENTILES},
    }


def _counts(flat: Array, low: int) -> npt.NDArray[np.int64]:
    width = 1 << (8 * flat.dtype.itemsize)
    counts = np.zeros(width, dtype=np.int64)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK].astype(np.int64) - low
        counts += np.bincount(chunk, minlength=width)
    return counts


def _percentile(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], q: float) -> float:
    """The q-th percentile of a histogram, interpolated linearly as numpy does."""
    ends = np.cumsum(counts)
    position = q / 100 * (int(ends[-1]) - 1)
    below = int(np.floor(position))
    first, second = values[
        np.searchsorted(ends, [below, below + 1], side="right").clip(max=len(values) - 1)
    ]
    return float(first + (second - first) * (position - below))


# --- many volumes -------------------------------------------------------------------------


def _measure_all(cases: Sequence[Case], config: DataConfig) -> Iterator[tuple[Case, Result]]:
    size = sum(path.stat().st_size for case in cases for path in (case.image, case.label) if path)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    waiting = list(cases)
    if size >= PARALLEL_BYTES and cores > 1 and len(cases) > 1:
        # spawn: forking a process that holds threads (torch, gRPC) may deadlock.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(cores, len(cases)), mp_context=context) as pool:
            try:
                for pair in _in_pool(pool, cases, config):
                    waiting.pop(0)
                    yield pair
            except BrokenProcessPool:
                log.warning("A measuring process was killed (memory?); going on one by one.")
    for case in waiting:
        yield case, measure(case, config=config)


def _in_pool(
    pool: Executor, cases: Sequence[Case], config: DataConfig
) -> Iterator[tuple[Case, Result]]:
    futures = [pool.submit(measure, case, config=config) for case in cases]
    for case, future in zip(cases, futures, strict=True):
        yield case, future.result()


def _key(case: Case, hashes: Mapping[Path, str], rule: dict[str, Any]) -> str:
    return keys.digest([hashes[case.image], hashes[cast(Path, case.label)], rule])


def _recall(cache: Path, key: str, case: Case) -> Result | None:
    try:
        content = files.read_json(cache / "volumes" / f"{key}.json")
        stats = VolumeStats.model_validate(content["stats"])
        findings = [Finding.model_validate(entry) for entry in content["findings"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # lost or damaged: measure again
        return None
    named = stats.replace(
        case=case.case,
        group=case.group,
        filename=curated_names(case)[0],
        label_filename=curated_names(case)[1],
    )
    return named, [finding.replace(case=case.case) for finding in findings]


def _remember(cache: Path, key: str, result: Result) -> Result:
    """Keep usable volumes; unusable ones are looked at again, they fail fast."""
    stats, findings = result
    if stats is not None:
        content = {
            "stats": stats.model_dump(mode="json"),
            "findings": [finding.model_dump(mode="json") for finding in findings],
        }
        files.write_json(cache / "volumes" / f"{key}.json", content)
    return result


def _gather(
    pairing: Pairing, results: Mapping[str, Result], rescanned: int, config: DataConfig
) -> Measured:
    ordered = [results[case.case] for case in pairing.cases]
    stats = tuple(volume for volume, _ in ordered if volume is not None)
    findings = [
        *quality.check_pairing(pairing),
        *(finding for _, found in ordered for finding in found),
        *quality.check_set(stats, outlier_z=config.outlier_z),
    ]
    good = {volume.case for volume in stats}
    return Measured(
        stats=stats,
        findings=tuple(findings),
        quarantined=tuple(case.case for case in pairing.cases if case.case not in good),
        rescanned=rescanned,
    )


def _refuse(measured: Measured, *, strict: bool) -> None:
    errors = [finding for finding in measured.findings if finding.severity == "error"]
    for error in errors:
        if error.case is None:
            raise DataError(error.message, remedy=error.remedy)
        if strict:
            raise DataError(
                f"{error.case}: {error.message} (data.strict stops at the first unusable volume)",
                remedy=error.remedy,
            )
    if not measured.stats:
        kinds = ", ".join(f"{n} {code}" for code, n in Counter(e.code for e in errors).items())
        raise DataError(
            f"None of {len(measured.quarantined)} volumes can be used ({kinds}). "
            f"{errors[0].case}: {errors[0].message}",
            remedy=errors[0].remedy,
        )


# --- the set ------------------------------------------------------------------------------


def _shape(values: npt.NDArray[Any]) -> Shape:
    return cast(Shape, tuple(int(round(float(value))) for value in values))


def _spacing(values: npt.NDArray[Any]) -> Spacing:
    return cast(Spacing, tuple(float(value) for value in values))


def _is_anisotropic(spacings: npt.NDArray[np.float64]) -> bool:
    """Spacing differs more than twofold between volumes, or within a voxel."""
    positive = np.maximum(spacings, 1e-12)
    across = positive.max(axis=0) / positive.min(axis=0)
    within = positive.max(axis=1) / positive.min(axis=1)
    return bool(max(across.max(), within.max()) > 2)
