from __future__ import annotations

import csv
import json
import re
import shlex

import numpy as np
import pytest

from minivess import names
from minivess.analysis import ensembling, formatting, pipeline
from minivess.analysis.ensembling import Ensemble
from minivess.analysis.report import choice, figures, limitations, methods, overlays, report
from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import Fault, Interval, Uncertainty
from minivess.evaluation import calibration, risk
from tests.analysis.conftest import interval


@pytest.fixture
def page(result, profile, tmp_path):
    drawn = figures.draw(result, tmp_path, formatting.Unit("µm"))
    strip = _strip(tmp_path / "vol02.png")
    drawn.append(figures.Drawn("panel vol02", strip, None, "hardest", "vol02"))
    links = {"parent_good": "http://127.0.0.1:5000/#/runs/parent_good"}
    path = report.render(result, profile(), drawn, links=links, path=tmp_path / "report.html")
    return path.read_text(encoding="utf-8")


def _strip(path):
    truth = np.zeros((16, 20, 4), dtype=np.uint8)
    truth[4:9, 4:9] = 1
    return overlays.draw(
        truth * 100.0, truth, np.roll(truth, 2, axis=0), spacing=(0.5, 0.5, 1.0), unit="micron",
        path=path,
    )  # fmt: skip


def test_the_first_screen_names_the_champion_and_why(page, result):
    head = page[page.index("<main>") : page.index('id="families"')]
    assert "<h1>dynunet_good</h1>" in head
    assert result.champion.reason in head
    assert "0.800" in head
    assert "untrained <b>0.010</b>" in head


def test_the_report_needs_nothing_but_itself(page):
    fetched = re.findall(r'(?:src|xlink:href|href)="([^"#][^"]*)"', page)
    beside = [target for target in fetched if not target.startswith("data:")]
    assert {target for target in beside if "127.0.0.1:5000/#/runs" not in target} == {
        "tradeoffs.html"
    }
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", page)


def test_families_ensembles_and_the_untrained_network_stand_in_one_table(page):
    table = page[page.index('id="families"') : page.index('id="volumes"')]
    for name in ("dynunet_good", "dynunet_fair", "mean_all", "untrained"):
        assert name in table
    assert f"{formatting.MINUS}0.217" in table


def test_lineage_ids_are_linked_where_an_address_is_known(page):
    chain = page[page.index('id="lineage"') :]
    assert 'href="http://127.0.0.1:5000/#/runs/parent_good">parent_good</a>' in chain
    for part in ("analysis0", "profile0", "0123456789abcdef.dir", "parent_fair"):
        assert part in chain


def test_figures_follow_the_colours_of_the_page(page):
    assert page.count("<svg") == 2
    assert "var(--accent)" in page[page.index("<svg") :]
    assert figures.ACCENT not in page[page.index("<svg") :]


def test_names_from_users_are_escaped(result, profile, tmp_path):
    strange = result.replace(experiment="<script>alert(1)</script>")
    path = report.render(strange, profile(), [], links={}, path=tmp_path / "report.html")
    assert "<script>" not in path.read_text()


def test_several_classes_are_told_apart(judged, result, profile, tmp_path):
    best = judged("dynunet_good", [0.7, 0.8], classes=(1, 2))
    several = result.replace(families=(best, judged("dynunet_fair", [0.1, 0.2])))
    path = report.render(
        several, profile(2, classes=(0, 1, 2)), [], links={}, path=tmp_path / "report.html"
    )
    text = path.read_text()
    assert "class by class" in text
    assert "class 2" in text


def test_one_volume_makes_a_report_without_intervals(judged, result, profile, tmp_path):
    alone = result.replace(families=(judged("dynunet_good", [0.7]),), ensembles=(), untrained={})
    drawn = figures.draw(alone, tmp_path)
    path = report.render(alone, profile(1), drawn, links={}, path=tmp_path / "report.html")
    assert "There is only 1 volume" in path.read_text()


def test_a_family_that_was_judged_alone_is_said_to_be_no_choice(result, profile, tmp_path):
    alone = result.replace(families=result.families[:1], ensembles=(), comparisons=())
    html = report.render(alone, profile(), [], links={}, path=tmp_path / "report.html").read_text(
        encoding="utf-8"
    )
    assert "One family alone was judged, so nothing was chosen." in html
    assert "What other rules would choose" not in html


def test_an_undefined_volume_comes_first_among_the_failures(judged):
    ranked = figures.worst_first(judged("dynunet_good", [0.5, None, 0.1]))
    assert [volume.case for volume in ranked] == ["vol01", "vol02", "vol00"]


def test_tables_for_papers_hold_the_same_numbers(result, tmp_path):
    families, volumes, pairs, _, latex = report.tables(result, tmp_path)
    rows = list(csv.DictReader(families.read_text().splitlines()))
    first = next(row for row in rows if row["name"] == "dynunet_good" and row["metric"] == "dice")
    assert float(first["mean"]) == pytest.approx(0.8)
    assert (first["champion"], first["n"], first["untrained"]) == ("True", "6", "0.01")
    assert len(list(csv.DictReader(volumes.read_text().splitlines()))) == 18
    assert len(list(csv.DictReader(pairs.read_text().splitlines()))) == 3
    text = latex.read_text()
    assert r"\textbf{dynunet\_good} & 0.800 (" in text
    assert text.count(r"\\") == 5


def test_markdown_for_prefect_starts_with_the_champion(result):
    text = report.markdown(result)
    assert text.startswith("# Champion: dynunet_good")
    assert "| untrained | 0.300 | 0.010 |" in text
    assert text.count("\n|") == 7


def test_figures_are_files_of_their_own_too(result, tmp_path):
    drawn = figures.draw(result, tmp_path)
    assert [one.name for one in drawn] == ["comparison", "per_volume"]
    assert all(one.path.read_bytes().startswith(b"\x89PNG") for one in drawn)


def test_the_difference_tile_tells_found_missed_and_extra_apart():
    truth, said = np.zeros((3, 1, 2), np.uint8), np.zeros((3, 1, 2), np.uint8)
    truth[0], said[0], truth[1], said[2] = 1, 1, 1, 1
    found, missed, extra = overlays.difference(truth, said)[:, 0]
    assert found.min() > 0.9
    assert missed[2] > missed[0]
    assert extra[0] > extra[2]


def test_confused_classes_have_a_colour_of_their_own():
    truth, said = np.full((1, 1, 1), 1, np.uint8), np.full((1, 1, 1), 2, np.uint8)
    confused = overlays.difference(truth, said)[0, 0]
    assert confused[0] > confused[1] < confused[2]


@pytest.mark.parametrize(
    ("about", "length"), [(0.9, 0.5), (1.0, 1), (4.99, 2), (5.2, 5), (130, 100), (0.02, 0.02)]
)
def test_scale_bars_have_round_lengths(about, length):
    assert overlays.round_length(about) == pytest.approx(length)


def test_few_volumes_are_said_to_give_no_interval_or_one_that_is_too_narrow(judged, result):
    def first(scores, **options):
        best = judged("dynunet_good", scores, **options)
        return limitations.notes(result, best, ExperimentConfig())[0]

    assert first([0.5, 0.6, 0.7, 0.8, 0.9]) == "All intervals rest on 5 volumes."
    assert "83 % of trials" in first([0.5, 0.6, 0.7, 0.8, 0.9], ci_method="percentile")
    groups = ["m1", "m1", "m1", "m2", "m3"]
    few = first([0.5, 0.6, 0.7, 0.8, 0.9], groups=groups)
    assert "3 groups, too few for a confidence interval" in few


def test_three_groups_are_nowhere_called_a_confidence_interval(judged, result, profile, tmp_path):
    groups = ["m1", "m1", "m2", "m2", "m3", "m3"]
    scores = [0.7, 0.8, 0.75, 0.9, 0.85, 0.8]
    best = judged("dynunet_good", scores, groups=groups)
    few = result.replace(families=(best,), ensembles=(), baseline=None)
    path = report.render(few, profile(), [], links={}, path=tmp_path / "report.html")
    text = path.read_text()
    assert "range of 3" in text
    assert "6 volumes in 3 groups" in text
    assert "95 %" not in text + report.markdown(few)
    assert formatting.bounds(best.intervals["dice"]) == "range of 3 0.750 to 0.825"


def test_distances_are_told_in_a_unit_of_the_voxels_size_and_never_as_nothing(profile):
    def told(unit, edge, value):
        volumes = [one.replace(unit=unit, voxel_spacing=(edge,) * 3) for one in profile(2).volumes]
        known = formatting.metric(
            "masd_class2", formatting.distance_unit(profile(2).replace(volumes=volumes))
        )
        return f"{known.label} {known.number(value)} {known.unit}"

    assert told("mm", 0.0005, 0.00123) == "MASD, class 2 1.23 µm"
    assert told("micron", 0.05, 0.0123) == "MASD, class 2 12.3 nm"
    assert told("micron", 2000, 1234.5) == "MASD, class 2 1.23 mm"
    assert told("meter", 0.001, 0.02) == "MASD, class 2 20.0 mm"
    assert told("unknown", 1, 0.00123) == "MASD, class 2 0.00123 header units"
    assert told("mm", 1, 0.0) == "MASD, class 2 0 mm"


def test_undefined_distances_are_counted_beside_each_mean_class_by_class(
    judged, result, profile, tmp_path
):
    best = judged("dynunet_good", [0.7, 0.8, 0.6, 0.9, 0.5, 0.4], classes=(1, 2))
    lost = [
        one.replace(values=one.values | {"masd_class2": None, "hd95_class2": None})
        for one in best.volumes[:2]
    ]
    best = ensembling.judged(
        best.name, Ensemble(()), [*lost, *best.volumes[2:]], [], EvaluationConfig()
    )
    best = best.replace(members=(best.name,))
    several = result.replace(families=(best,), ensembles=())
    path = report.render(
        several, profile(classes=(0, 1, 2)), [], links={}, path=tmp_path / "report.html"
    )
    text = path.read_text()
    assert text.partition("class by class")[2].count("2 undefined") == 2
    assert "masd_class2 of dynunet_good: 2 of 6" in text
    rows = {row["metric"]: row["n_undefined"] for row in report.family_rows(several)}
    assert (rows["masd"], rows["masd_class1"], rows["masd_class2"]) == (0, 0, 2)


def test_volumes_are_ordered_by_dice_and_the_lowest_is_never_typical(judged):
    best = judged("dynunet_good", [0.5, 0.1, 0.6, 0.7, 0.8])
    compound = {"vol00": 0.1, "vol01": 0.7, "vol02": 0.9, "vol03": 0.9, "vol04": 0.9}
    volumes = [
        one.replace(values=one.values | {names.PRIMARY: compound[one.case]}) for one in best.volumes
    ]
    found = pipeline.shown(best.replace(volumes=volumes), 2)
    assert [case for case, _ in found] == ["vol02", "vol01", "vol00"]


def test_the_methods_tell_what_the_networks_were_trained_with(two_folds, result, profile):
    asked = ExperimentConfig().training.key_fields()
    long = [one.replace(settings={"training": asked}) for one in two_folds("dynunet_good")]
    short = [
        one.replace(settings={"training": {**asked, "max_epochs": 5}})
        for one in two_folds("dynunet_fair")
    ]
    other = ExperimentConfig.model_validate({"training": {"max_epochs": 7}})
    text = " ".join(methods.paragraphs(result, profile(), other, long + short))
    assert "at most 100 epochs (" in text
    assert " or 5 epochs (" in text
    assert "7 epochs" not in text


def test_numbers_are_spelled_in_one_way():
    gap = Interval(mean=-0.5, lower=-0.25, upper=0.1, level=0.95, n=3)
    assert formatting.bounds(gap) == f"95 % CI {formatting.MINUS}0.250 to 0.100"
    assert formatting.number(None) == formatting.UNDEFINED
    assert formatting.metric("masd_class2").number(1.234) == "1.23"
    assert formatting.metric(f"{names.PRIMARY}_class3").label == "Compound, class 3"
    assert [formatting.nth(rank) for rank in (1, 2, 3, 11, 22)] == [
        "hardest", "2nd hardest", "3rd hardest", "11th hardest", "22nd hardest",
    ]  # fmt: skip
    assert [formatting.count(n) for n in (812, 45_300, 1_190_000)] == ["812", "45.3 k", "1.19 M"]


def test_bright_structures_are_projected_and_dark_ones_shown_in_a_slice():
    truth = np.zeros((6, 6, 4), np.uint8)
    truth[2:4, 2:4, 1] = 1
    title, plane = overlays.view(1.0 * truth, truth)
    assert (title, plane.max()) == ("image", 1.0)
    title, plane = overlays.view(1.0 - truth, truth)
    assert (title, plane[2, 2]) == ("image, slice 1", 0.0)


@pytest.fixture
def uncertainty():
    """Of five volumes, from random probabilities."""
    rng, voxels, losses = np.random.default_rng(0), [], []
    for _ in range(5):
        truth = np.zeros((8, 8, 4), dtype=np.uint8)
        truth[2:5, 2:6] = 1
        vessel = (0.2 + 0.6 * truth + rng.uniform(-0.2, 0.2, truth.shape)).astype(np.float32)
        voxels.append(calibration.sample(np.stack([1 - vessel, vessel]), truth, (1.0, 1.0, 2.0)))
        losses.append(risk.curves(vessel, truth > 0, truth < 9, np.argwhere(truth)[:4]))
    by_loss = {name: np.array([one[name] for one in losses]) for name in risk.LOSSES}

    def make(alpha, *, grouped=False):
        fitted, parts, reliability = calibration.judge(voxels, (0, 1))
        return Uncertainty(
            name="dynunet_good", volumes=5, temperature=fitted, parts=parts,
            reliability=reliability, risks=risk.control(by_loss, alpha, grouped=grouped),
        )  # fmt: skip

    return make


def trust(result, profile, folder):
    """The section on uncertainty."""
    drawn = figures.draw(result, folder)
    text = report.render(result, profile(), drawn, links={}, path=folder / "x.html").read_text()
    assert 'aria-label="Voxels by the probability' in text
    section = text[text.index('id="uncertainty"') : text.index('id="care"')]
    return " ".join(re.sub("<[^>]+>", " ", section).split())


def test_thresholds_stand_with_their_loss_bound_and_what_was_held_out(
    result, profile, uncertainty, tmp_path
):
    found = uncertainty(0.3)
    text = trust(result.replace(uncertainty=found), profile, tmp_path)
    for one in found.risks:
        assert f"{one.threshold:.3f} {one.bound:.3f} {one.simulated:.3f}" in text
    for one in found.reliability:
        assert f"class 1 {one.region} {one.error:.3f} {one.scaled_error:.3f}" in text
    assert "on average over new volumes like these" in text


def test_too_few_volumes_or_groups_are_said_with_the_smallest_alpha(
    result, profile, uncertainty, tmp_path
):
    text = trust(result.replace(uncertainty=uncertainty(0.1, grouped=True)), profile, tmp_path)
    assert text.count("5 groups are too few: the smallest alpha is 0.167") == 3
    assert "Losses are means over each group" in text


def shown(result, profile, folder):
    """Text of the section on failures."""
    text = report.render(result, profile, [], links={}, path=folder / "x.html").read_text()
    section = text[text.index('id="volumes"') : text.index('id="care"')]
    return " ".join(re.sub("<[^>]+>", " ", section).split())


def test_breaks_and_merges_are_listed_with_place_length_and_lumen(result, profile, tmp_path):
    gap = Fault(
        case="vol02", label=1, kind="false break", voxel=(3, 4, 2), place=(1.5, -2.0, 5.0),
        length=12.34, lumen=4.0, unit="micron",
    )  # fmt: skip
    found = result.replace(faults=(gap, gap.replace(kind="false merge")))
    text = shown(found, profile(), tmp_path)
    assert "1 false break, 1 false merge" in text
    assert "vol02 false break 12.3 4.00 1.5, -2, 5 3, 4, 2" in text
    assert "minivess review export FOLDER --faults analysis0" in text
    rows = report.fault_rows(found)
    assert [(row["fault"], row["x"], row["name"]) for row in rows] == [
        ("false break", 1.5, "dynunet_good"), ("false merge", 1.5, "dynunet_good"),
    ]  # fmt: skip
    assert "within the tolerance of each other's masks everywhere" in shown(
        result, profile(), tmp_path
    )


def test_pieces_too_short_to_count_are_said_with_the_limit(result, profile, tmp_path):
    text = shown(result.replace(short_faults=7), profile(), tmp_path)
    assert "7 pieces shorter than 2 edges of the finest voxel axis are left out" in text
    assert "left out" not in shown(result, profile(), tmp_path)


def test_errors_of_topology_stand_in_a_table_of_their_own(judged, result, profile, tmp_path):
    counted = [
        one.replace(intervals=one.intervals | {"betti0_error": interval(place + 0.25)})
        for place, one in enumerate(result.families)
    ]
    path = report.render(
        result.replace(families=tuple(counted), ensembles=()), profile(), [], links={},
        path=tmp_path / "report.html",
    )  # fmt: skip
    section = path.read_text().partition('id="topology"')[2].partition("</table>")[0]
    assert "Components ↓" in section
    assert re.findall(r'class="main">([^<]*)', section) == ["0.250", "1.25"]


def tradeoffs(result, config=None, models=()):
    """What the page of trade-offs holds."""
    page = choice.tradeoffs(result, config or ExperimentConfig(), models, formatting.Unit("µm"))
    assert "http" not in page.replace("http://www.w3.org", "")
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])


def test_the_page_of_tradeoffs_holds_every_family_with_its_criteria(result, two_folds):
    models = [one.replace(seconds=30.0) for one in two_folds("dynunet_good")]
    data = tradeoffs(result, models=models)
    by_name = {one["name"]: one for one in data["points"]}
    assert set(by_name) == {"dynunet_good", "dynunet_fair", "mean_all"}
    good = by_name["dynunet_good"]["values"]
    of = result.families[0].intervals["dice"]
    assert good["dice"] == [of.mean, of.lower, of.upper]
    assert (good["seconds"], good["parameters"]) == ([60.0], [1000])
    assert by_name["dynunet_fair"]["values"]["seconds"] == []
    assert by_name["mean_all"]["kind"] == "ensemble"
    lower = {axis["name"] for axis in data["axes"] if axis["lower"]}
    assert lower == {"masd", "hd95", "seconds", "parameters"}


def test_another_rule_is_chosen_by_a_command_that_holds_all_that_was_set(judged, result):
    small = judged("dynunet_fair", [0.69, 0.81, 0.74, 0.91, 0.84, 0.8], parameters=10)
    asked = ExperimentConfig.model_validate(
        {"analysis": {"ensembles": ["mean", "vote"]}, "evaluation": {"ci_level": 0.9}}
    )
    data = tradeoffs(result.replace(families=(result.families[0], small)), asked)
    rule = next(one for one in data["rules"] if one["name"] == "dice" and one["command"])
    assert rule["winner"] == "dynunet_fair"
    assert shlex.split(rule["command"]) == [
        "minivess", "analyse", "analysis.ensembles=[mean,vote]", "analysis.metric=dice",
        "analysis.ties=smaller", "evaluation.ci_level=0.9", "--upstream",
        "parent_good,parent_fair",
    ]  # fmt: skip


def test_curves_stand_with_the_gap_and_what_the_best_epoch_would_have_added(
    two_folds, result, profile, tmp_path
):
    epochs = tuple(
        {"epoch": place, "metrics": {"train_dice": train, "val_dice": val}}
        for place, (train, val) in enumerate([(0.5, 0.4), (0.7, 0.66), (0.8, 0.61)])
    )
    models = [one.replace(history=epochs) for one in two_folds("dynunet_good")]
    page = report.render(
        result, profile(), [], links={}, path=tmp_path / "report.html", models=models
    ).read_text()
    section = page.partition('id="training"')[2].partition("</section>")[0]
    assert section.count("<polyline") == 4
    text = " ".join(re.sub("<[^>]+>", " ", section).split())
    assert "dynunet_good 0 3 0.800 0.610 +0.190 0.660 epoch 2 +0.050" in text
    assert "Here the last epoch's weights were judged" in text
    without = report.render(result, profile(), [], links={}, path=tmp_path / "x.html").read_text()
    assert 'id="training"' not in without


def test_methods_hold_steps_batch_precision_time_machine_and_versions(two_folds, result, profile):
    asked = ExperimentConfig().training.key_fields()
    known = {
        "iterations_per_epoch": "96", "batch_size": "2", "mixed_precision": "bf16",
        "weight_decay": "1e-05", "sys_gpu_model": "none", "sys_cpu_model": "EPYC",
        "sys_torch_version": "2.13", "sys_monai_version": "1.6.1", "sys_git_dirty": "True",
        "sys_git_commit_short": "abc", "data_split_grouped": "True",
    }  # fmt: skip
    models = [
        one.replace(settings={"training": asked}, params=known, seconds=3600.0)
        for one in two_folds("dynunet_good")
    ]
    text = " ".join(methods.paragraphs(result, profile(), ExperimentConfig(), models))
    assert "96 steps of 2 patches in bf16 precision, weight decay 1e-05." in text
    assert "2.0 h in all, on EPYC without a GPU, with PyTorch 2.13, MONAI 1.6.1" in text
    assert "at commit abc with uncommitted changes" in text
    assert "Volumes of one group were kept in one fold." in text


def test_each_fold_says_which_volumes_it_judged(two_folds, result, profile, tmp_path):
    page = report.render(
        result, profile(), [], links={}, path=tmp_path / "x.html", models=two_folds("dynunet_good")
    ).read_text()
    rows = page.partition("Which fold judged which volume")[2].partition("</table>")[0]
    assert "fold 0, seed 42</td><td>vol00, vol01" in rows
    assert page.count('class="scroll"') == page.count('class="scroll" tabindex="0"') > 5


def test_segments_are_compared_by_each_property_that_varies(result, profile, tmp_path):
    known = profile()
    volumes = tuple(
        one.replace(shape=(8, 8, 5 if place in (0, 1, 2) else 20))
        for place, one in enumerate(known.volumes)
    )
    text = shown(result, known.replace(volumes=volumes), tmp_path)
    dice = [0.7, 0.8, 0.75, 0.9, 0.85, 0.8]
    low, high = np.mean(dice[:3]), np.mean(dice[3:])
    assert f"slices 12.5 {low:.3f} n = 3 {high:.3f} n = 3 +{high - low:.3f}" in text
    few = known.replace(volumes=volumes[:5])
    assert "Weak segments" not in shown(result, few, tmp_path)
