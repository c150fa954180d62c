"""Measurements by content: a volume whose bytes, settings and profiler are as before is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from minivess import files, keys
from minivess.contracts import Case, Finding, VolumeStats
from minivess.data.filenames import curated_names
from minivess.data.measurement import Result


def key_of(case: Case, hashes: Mapping[Path, str], rule: dict[str, Any]) -> str:
    """The key of a volume: bytes of both files, and the rule they are measured by."""
    return keys.digest([hashes[case.image], hashes[cast(Path, case.label)], rule])


def recall(cache: Path, key: str, case: Case) -> Result | None:
    """What is known under a key, under the names that the case has now."""
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


def remember(cache: Path, key: str, result: Result) -> Result:
    """Keep usable volumes; unusable ones are looked at again, they fail fast."""
    stats, findings = result
    if stats is not None:
        content = {
            "stats": stats.model_dump(mode="json"),
            "findings": [finding.model_dump(mode="json") for finding in findings],
        }
        files.write_json(cache / "volumes" / f"{key}.json", content)
    return result
