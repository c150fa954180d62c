from __future__ import annotations

import json
import re
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from minivess import names
from minivess.analysis import pipeline
from minivess.config import ExperimentConfig
from minivess.errors import DataError

pytestmark = pytest.mark.slow

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


def test_vessels_of_the_masks_are_measured_beside_those_of_the_ground_truth(analysis):
    result = analysis.result
    rows = [one for one in result.measured if one.measure == "volume_density"]
    assert {one.case for one in rows} == {one.case for one in result.winner.volumes}
    found = next(one for one in result.agreement if one.measure == "volume_density")
    gaps = [one.predicted - one.truth for one in rows]
    assert found.bias.mean == pytest.approx(np.mean(gaps))
    assert (found.bias.n, found.limits) == (4, None)  # four volumes give no limits
    page = next(path for path, at in analysis.files.items() if at == names.REPORT_ARTIFACT)
    assert "Limits of agreement" in page.read_text()
    assert "tables/measures.csv" in analysis.files.values()


def test_the_files_stand_where_other_flows_look_for_them(analysis):
    places = set(analysis.files.values())
    assert {names.REPORT_ARTIFACT, "tables/families.csv", "figures/comparison.png"} <= places
    assert all(path.stat().st_size > 0 for path in analysis.files)
    stored = next(path for path, at in analysis.files.items() if at == names.PER_VOLUME_ARTIFACT)
    table = json.loads(stored.read_text())
    assert table["columns"][:3] == ["name", "case", "group"]
    assert len(table["data"]) == 3 * 4


SPLIT = ((("vol00",), ("vol01",)), (("vol01",), ("vol00",)))


def test_other_test_labels_change_nothing_but_the_test_table(member, cases, profile, tmp_path):
    members = [
        member(family, index, *sides, test=("vol02", "vol03"))
        for family in ("tiny_a", "tiny_bb")
        for index, sides in enumerate(SPLIT)
    ]

    def found(name):
        folder = tmp_path / name
        done = pipeline.analyse(members, cases, profile(4), CONFIG, folder, run_id="run0")
        texts = {
            place: re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", path.read_text())
            for path, place in done.files.items()
            if path.suffix != ".png"
        }
        page, below = texts.pop(names.REPORT_ARTIFACT).split('id="test"')
        texts["report"] = page + below[below.index("</section>") :]
        texts["report.md"] = texts.pop("report/report.md").partition("Held-out test set")[0]
        on_test = {place: texts.pop(place) for place in list(texts) if "test" in place}
        return done.result.model_dump(exclude={"test"}), texts, (done.result.test, on_test)

    before = found("before")
    for case in ("vol02", "vol03"):
        label: Any = nib.load(cases[case].label)
        data = np.asarray(label.dataobj)[::-1]
        nib.save(nib.Nifti1Image(data, label.affine, label.header), cases[case].label)
    after = found("after")
    assert before[:2] == after[:2]
    assert before[2][0] != after[2][0]
    assert set(before[2][1]) == {"tables/test.csv", "tables/test_volumes.csv"}
    assert {one.name for one in before[2][0]} == {"tiny_a", "tiny_bb", "mean_all"}
    judged = {volume["case"] for one in before[0]["families"] for volume in one["volumes"]}
    assert judged == {"vol00", "vol01"}
    assert [volume.case for volume in before[2][0][0].volumes] == ["vol02", "vol03"]


def test_a_volume_that_only_some_trainings_held_out_is_judged_for_none(
    member, cases, profile, tmp_path
):
    members = [member("tiny_a", index, *sides) for index, sides in enumerate(SPLIT)]
    members += [
        member("tiny_bb", index, *sides, test=("vol02",)) for index, sides in enumerate(SPLIT)
    ]
    known = {name: case for name, case in cases.items() if name != "vol03"}
    result = pipeline.analyse(members, known, profile(4), CONFIG, tmp_path / "out").result
    assert result.test == ()
    assert "vol02: test volumes of some" in result.notes[-1]


def test_families_are_compared_on_the_volumes_that_all_were_judged_on(
    two_folds, cases, profile, tmp_path
):
    members = two_folds("tiny_a") + two_folds("tiny_bb")[:1]
    result = pipeline.analyse(members, cases, profile(4), CONFIG, tmp_path / "out").result
    assert {one.intervals["dice"].n for one in (*result.families, *result.ensembles)} == {2}
    assert result.notes[-1].startswith("Families are compared on the 2 volumes that all of them")
    apart = [two_folds("tiny_ccc")[0], two_folds("tiny_dddd")[1]]
    with pytest.raises(DataError, match="not judged on any common volume"):
        pipeline.analyse(apart, cases, profile(4), CONFIG, tmp_path / "apart")


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


def test_uncertainty_is_of_the_champion_and_its_maps_are_written_when_asked_for(
    two_folds, cases, profile, tmp_path
):
    config = CONFIG.model_copy(
        update={"analysis": CONFIG.analysis.model_copy(update={"uncertainty_maps": True})}
    )
    done = pipeline.analyse(two_folds("tiny_a"), cases, profile(4), config, tmp_path / "out")
    found = done.result.uncertainty
    assert (found.name, found.volumes) == ("tiny_a", 4)
    assert {one.n for one in found.risks} == {4}
    assert {one.smallest_alpha for one in found.risks} == {0.2}
    assert {one.case for one in done.result.faults} <= set(cases)
    lengths = [one.length for one in done.result.faults]
    assert lengths == sorted(lengths, reverse=True)
    maps = {place: path for path, place in done.files.items() if place.startswith("uncertainty/")}
    assert set(maps) == {f"uncertainty/{case}.nii.gz" for case in cases}
    for case, of in cases.items():
        written: Any = nib.load(maps[f"uncertainty/{case}.nii.gz"])
        image: Any = nib.load(of.image)
        assert written.shape == image.shape
        np.testing.assert_allclose(written.affine, image.affine)
        values = written.get_fdata()
        assert 0 <= values.min() < values.max() <= 1


def test_without_asking_no_map_is_written(analysis):
    assert not any(place.startswith("uncertainty/") for place in analysis.files.values())
