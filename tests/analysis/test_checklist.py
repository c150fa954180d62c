"""Items of the checklist are answered from the record, or named as missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minivess.contracts import AnalysisResult, DatasetProfile
from minivess.production.share import checklist

METHODS = ["The dataset holds\nvolumes: 6, # of one kind."]


def answers(result: AnalysisResult, profile: DatasetProfile, **params: str) -> dict[str, str]:
    """Answer by standard and number; of one number that several items share, the last."""
    found = checklist.items(
        analysis=result, profile=profile, params=params, methods=METHODS, volumes=False
    )
    return {f"{one.standard} {one.number}": one.answer for one in found}


@pytest.mark.parametrize("grouped", [False, True])
def test_each_item_is_answered_or_empty_and_no_value_breaks_another(
    result: AnalysisResult, profile: Callable[..., DatasetProfile], grouped: bool
) -> None:
    data = profile(6)
    if grouped:
        volumes = [one.model_dump() | {"group": "mouse: #1"} for one in data.volumes]
        data = data.replace(volumes=volumes, quarantined=("a: b", "- c"))
    found = answers(result, data, data_split_grouped=str(grouped), init="None", seed="7")
    claims = [key for key in found if key.startswith("CLAIM 2024 ")]
    assert claims == [f"CLAIM 2024 {number}" for number in range(1, 45)]
    assert found["CLAIM 2024 16"] == found["CLAIM 2024 18"] == found["CLAIM 2024 44"] == ""
    assert f"{result.winner.intervals['dice'].mean:.3f}" in found["CLAIM 2024 32"]
    assert found["CLAIM 2024 9"] == " ".join(METHODS[0].split())
    assert ("groups (1)" in found["CLAIM 2024 20"]) == grouped
    assert ("a: b, - c" in found["CLAIM 2024 8"]) == grouped
    assert not any("None" in answer for key, answer in found.items() if key[-2:] in ("24", "20"))
