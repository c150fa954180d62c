"""Measurements by content: a volume whose bytes, settings and profiler are as before is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from minivess import files, keys
from minivess.contracts import Case, Finding, VolumeStats
from minivess.data.curated import as_curated, standing
from minivess.data.filenames import curated_names
from minivess.data.measurement import Measurement


def key_of(case: Case, hashes: Mapping[Path, str], rule: dict[str, Any]) -> str:
    """The key of a volume: bytes of both files, and the rule they are measured by."""
    return keys.digest([hashes[case.image], hashes[cast(Path, case.label)], rule])


def store_of(cache: Path, key: str) -> Path:
    """Where what a volume is curated as lies, if not as in its folder."""
    return cache / "converted" / key


def recall(cache: Path, key: str, case: Case) -> Measurement | None:
    """What is known under a key, under the names that the case has now."""
    try:
        content = files.read_json(cache / "volumes" / f"{key}.json")
        stats = VolumeStats.model_validate(content["stats"])
        findings = [Finding.model_validate(entry) for entry in content["findings"]]
        signature = str(content["signature"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # lost or damaged: measure again
        return None
    kept = as_curated(case, stats.converted, store_of(cache, key))
    if not all(standing(store_of(cache, key), role).is_file() for role in stats.converted):
        return None
    filename, label_filename = curated_names(kept)
    named = stats.replace(
        case=case.case, group=case.group, filename=filename, label_filename=label_filename
    )
    about = [finding.replace(case=case.case) for finding in findings]
    return Measurement(named, about, signature)


def remember(cache: Path, key: str, result: Measurement) -> Measurement:
    """Keep usable volumes; unusable ones are looked at again, they fail fast."""
    if result.stats is not None:
        content = {
            "stats": result.stats.model_dump(mode="json"),
            "findings": [finding.model_dump(mode="json") for finding in result.findings],
            "signature": result.signature,
        }
        files.write_json(cache / "volumes" / f"{key}.json", content)
    return result
