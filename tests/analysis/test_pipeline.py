from __future__ import annotations

import json

import pytest

from minivess import names
from minivess.analysis import pipeline
from minivess.config import ExperimentConfig

CONFIG = ExperimentConfig.model_validate({"name": "tubes", "analysis": {"figures": 2}})


@pytest.fixture
def analysis(two_folds, cases, profile, tmp_path):
    members = two_folds("tiny_a") + two_folds("tiny_bb")
    return pipeline.analyse(members, cases, profile(4), CONFIG, tmp_path / "out", run_id="run0")


def test_one_call_judges_chooses_and_writes(analysis):
    result = analysis.result
    assert {one.name for one in result.families} == {"tiny_a", "tiny_bb"}
    assert [one.name for one in result.ensembles] == ["mean_all"]
    assert result.champion.run_id == f"parent_{result.champion.family}"
    assert result.training_run_ids == ("parent_tiny_a", "parent_tiny_bb")
    assert (result.run_id, result.experiment) == ("run0", "tubes")
    assert all(one.intervals["dice"].n == 4 for one in (*result.families, *result.ensembles))


def test_the_files_stand_where_other_flows_look_for_them(analysis):
    places = set(analysis.files.values())
    assert {names.REPORT_ARTIFACT, "tables/families.csv", "figures/comparison.png"} <= places
    assert all(path.stat().st_size > 0 for path in analysis.files)
    stored = next(path for path, at in analysis.files.items() if at == names.PER_VOLUME_ARTIFACT)
    table = json.loads(stored.read_text())
    assert table["columns"][:3] == ["name", "case", "group"]
    assert len(table["data"]) == 3 * 4


def test_as_many_failures_are_shown_as_asked_for(analysis):
    report = next(path for path, at in analysis.files.items() if at == names.REPORT_ARTIFACT)
    text = report.read_text()
    assert text.count('class="panel"') == 3
    assert "Networks: tiny (dynunet, filters 4-8-16" in text


def test_untrained_metrics_are_means_over_all_validated_volumes(member):
    members = [
        member("tiny_a", 0, ("vol03",), ("vol00", "vol01", "vol02")),
        member("tiny_a", 1, ("vol00",), ("vol03",)),
    ]
    assert pipeline.untrained(members)["dice"] == pytest.approx((3 * 0.1 + 0.2) / 4)


def test_a_volume_that_nobody_could_judge_is_told(two_folds, cases, profile, tmp_path):
    members = two_folds("tiny_a")[:1]
    result = pipeline.analyse(members, cases, profile(4), CONFIG, tmp_path / "out").result
    assert len(result.notes) == 2
    assert result.notes[0].startswith("vol02 was not judged by tiny_a")
