"""The profile of a dataset: statistics of each volume, cached by content, and their summary."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from minivess import keys, units
from minivess.config import DataConfig, ResamplingConfig
from minivess.contracts import (
    Case,
    DatasetProfile,
    Finding,
    LabelMap,
    Pairing,
    Shape,
    VolumeStats,
)
from minivess.data.profiling import labels, quality
from minivess.data.profiling.cache import Cache
from minivess.data.profiling.measurement import Measurement, measure
from minivess.data.versions.curated import curated_hash
from minivess.data.versions.versioning import Version
from minivess.errors import DataError
from minivess.formats.decode import spacing_of
from minivess.formats.resampling import shape_after
from minivess.text import several

log = logging.getLogger(__name__)

GIB = 2**30
PARALLEL_BYTES = 200_000_000  # below this, starting processes costs more than it saves


@dataclass(frozen=True)
class Measured:
    """Statistics of the usable volumes of a dataset, and all findings.

    `cases` are the usable ones as they are curated, `dataset_hash` is the one that DVC will then
    give them.
    """

    stats: tuple[VolumeStats, ...]
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...]
    quarantined: tuple[str, ...]
    rescanned: int
    dataset_hash: str


def profile(
    pairing: Pairing,
    hashes: Mapping[Path, str],
    *,
    config: DataConfig,
    cache: Path,
    accepted: Set[str] = frozenset(),
    on_volume: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure every volume whose content, settings or profiler changed; take the rest from `cache`.

    Args:
        hashes: MD5 of every file of the pairing.
        cache: folder of measurements.
        accepted: cases that review lets in despite their errors.
        on_volume: called as `on_volume(done, total)` after each volume that is measured.

    Raises:
        DataError: nothing usable is left, label values need a map, or (strict) any error.
    """
    known = Cache(cache, hashes, measuring_rule(config))
    results = known.recall(pairing.cases)
    fresh = [case for case in pairing.cases if case.case not in results]
    jobs = [
        partial(measure, case, config=config, hashes=known.md5s(case), store=known.store(case))
        for case in fresh
    ]
    size = sum(path.stat().st_size for case in fresh for path in case.files)
    for case, result in zip(fresh, _run(jobs, size), strict=True):
        results[case.case] = known.remember(case, result)
        if on_volume is not None:
            on_volume(len(results), len(pairing.cases))
    judged = [_judged(results[case.case], case.case in accepted) for case in pairing.cases]
    measured = _gather(pairing, judged, hashes, config, rescanned=len(fresh))
    _refuse(measured, strict=config.strict)
    return measured


def measuring_rule(config: DataConfig) -> keys.Ingredients:
    """Return what decides a measurement besides the files: the code and some settings."""
    counted = config.key_fields()
    settings = {name: counted[name] for name in ("label_map", "ignore_label", "spacing", "unit")}
    return {"code": keys.code(keys.CHECKS), **settings}


def summarise(
    measured: Measured,
    *,
    dataset: str,
    dataset_path: str,
    version: Version | None,
    label_map: LabelMap,
) -> DatasetProfile:
    """Sum up the usable volumes; without a version nothing was copied, and no file is named.

    Raises:
        DataError: nothing usable is left, or label values need a map.
    """
    _refuse(measured, strict=False)
    stats = measured.stats
    spacings = np.array([volume.voxel_spacing for volume in stats])
    return DatasetProfile(
        dataset=dataset,
        dataset_path=dataset_path,
        dataset_hash=version.dataset_hash if version else measured.dataset_hash,
        curated=version.relative(version.curated) if version else "",
        dvc_file=version.relative(version.dvc_file) if version else "",
        remote=version.remote if version else None,
        n_volumes=len(stats),
        spacing_range=(spacing_of(spacings.min(axis=0)), spacing_of(spacings.max(axis=0))),
        is_anisotropic=_is_anisotropic(
            spacings * [[units.in_micron(volume.unit) or 1.0] for volume in stats]
        ),
        **_extent(stats),
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


def as_loaded(profile: DatasetProfile, resampling: ResamplingConfig) -> DatasetProfile:
    """Return the profile with the shapes that networks will see, for planning."""
    if not resampling.enabled:
        return profile
    volumes = tuple(
        volume.replace(shape=shape_after(volume.shape, volume.voxel_spacing, resampling))
        for volume in profile.volumes
    )
    return profile.replace(volumes=volumes, **_extent(volumes))


# --- many volumes -------------------------------------------------------------------------


def _run(jobs: Sequence[Callable[[], Measurement]], size: int) -> Iterator[Measurement]:
    """Measure in order, in several processes where `size` bytes are worth it."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    done = 0
    if size >= PARALLEL_BYTES and cores > 1 and len(jobs) > 1:
        with pool_of(min(cores, len(jobs))) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in futures:
                    result = future.result()
                    done += 1
                    yield result
            except BrokenProcessPool:
                log.warning("A measuring process was killed (memory?); continuing one by one.")
    for job in jobs[done:]:
        yield job()


def pool_of(n: int) -> ProcessPoolExecutor:
    """Return processes that measure; forked ones may deadlock beside threads (torch, gRPC)."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(n, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End with the parent: processes of a pool would wait for ever after it is killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _judged(result: Measurement, accepted: bool) -> Measurement:
    """Leave a volume with an error out, unless review accepted it: then errors become warnings."""
    errors = [finding for finding in result.findings if finding.severity == "error"]
    if result.stats is None or not errors:
        return result
    if not accepted:
        return result._replace(stats=None)
    return result._replace(
        findings=[f.replace(severity="warning") if f in errors else f for f in result.findings]
    )


def _gather(
    pairing: Pairing,
    results: Sequence[Measurement],
    hashes: Mapping[Path, str],
    config: DataConfig,
    *,
    rescanned: int,
) -> Measured:
    usable = [result for result in results if result.stats is not None]
    stats = tuple(result.stats for result in usable if result.stats is not None)
    signatures = {result.case.case: result.signature for result in usable}
    findings = [
        *quality.check_pairing(pairing),
        *labels.check_ignored(pairing.ignored, config.labels),
        *(finding for result in results for finding in result.findings),
        *quality.check_set(stats, signatures, outlier_z=config.outlier_z, label_map=config.labels),
    ]
    cases = tuple(result.case for result in usable)
    written = {path: md5 for result in usable for path, md5 in result.written.items()}
    return Measured(
        stats=stats,
        cases=cases,
        findings=tuple(findings),
        quarantined=tuple(result.case.case for result in results if result.stats is None),
        rescanned=rescanned,
        dataset_hash=curated_hash(cases, {**hashes, **written}),
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
            f"None of {several(len(measured.quarantined), 'volume')} can be used ({kinds}). "
            f"{errors[0].case}: {errors[0].message}",
            remedy=errors[0].remedy,
        )


# --- the set ------------------------------------------------------------------------------


def _extent(volumes: Sequence[VolumeStats]) -> dict[str, Any]:
    """Return shapes over the dataset, and memory as float32."""
    shapes = np.array([volume.shape for volume in volumes])
    total = float(shapes.prod(axis=1).sum()) * 4 / GIB
    return {
        "min_shape": _shape(shapes.min(axis=0)),
        "max_shape": _shape(shapes.max(axis=0)),
        "median_shape": _shape(np.median(shapes, axis=0)),
        "total_size_gb": total,
        "per_volume_mean_gb": total / len(volumes),
    }


def _shape(values: npt.NDArray[Any]) -> Shape:
    return cast(Shape, tuple(round(float(value)) for value in values))


def _is_anisotropic(spacings: npt.NDArray[np.float64]) -> bool:
    """Whether spacing differs more than twofold between volumes, or within a voxel."""
    positive = np.maximum(spacings, 1e-12)
    across = positive.max(axis=0) / positive.min(axis=0)
    within = positive.max(axis=1) / positive.min(axis=1)
    return bool(max(across.max(), within.max()) > 2)
