"""Measurements by content: a volume whose bytes, settings and profiler are as before is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from minivess import files, keys
from minivess.contracts import Case
from minivess.data.formats.filenames import curated_names
from minivess.data.profiling.measurement import Measurement
from minivess.data.versions.curated import as_curated, standing

RECORD = TypeAdapter(Measurement)


def key_of(case: Case, hashes: Mapping[Path, str], rule: dict[str, Any]) -> str:
    """The key of a volume: bytes of both files, and the rule they are measured by."""
    return keys.digest([hashes[case.image], hashes[cast(Path, case.label)], rule])


def store_of(cache: Path, key: str) -> Path:
    """Where what a volume is curated as lies, if not as in its folder."""
    return cache / "converted" / key


def recall(cache: Path, key: str, case: Case) -> Measurement | None:
    """What is known under a key, under the names that the case has now."""
    try:
        known = RECORD.validate_python(files.read_json(cache / "volumes" / f"{key}.json"))
    except (FileNotFoundError, ValueError):  # lost or damaged: measure again
        return None
    stats, store = known.stats, store_of(cache, key)
    if stats is None or not all(standing(store, role).is_file() for role in stats.converted):
        return None
    kept = as_curated(case, stats.converted, store)
    filename, label_filename = curated_names(kept)
    named = stats.replace(
        case=case.case, group=case.group, filename=filename, label_filename=label_filename
    )
    about = [finding.replace(case=case.case) for finding in known.findings]
    return known._replace(stats=named, findings=about)


def remember(cache: Path, key: str, result: Measurement) -> Measurement:
    """Keep usable volumes; unusable ones are looked at again, they fail fast."""
    if result.stats is not None:
        files.write_json(cache / "volumes" / f"{key}.json", RECORD.dump_python(result, mode="json"))
    return result
