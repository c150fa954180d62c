"""Two experiments, or two analyses of one, are compared; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from minivess import files, names
from minivess.cli import main
from minivess.config import AnalysisConfig, EvaluationConfig
from minivess.contracts import AnalysisResult, Champion, Scores, VolumeMetrics
from minivess.evaluation import statistics
from minivess.tracking.store import artifacts
from minivess.tracking.store.store import Store
from tests.tracking.conftest import profile_of

Verb = Callable[..., tuple[int, Any]]
FROZEN = "environment/frozen_deps.txt"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Type the verb; its exit code, and its JSON object, its lines or its error."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def run(*words: str) -> tuple[int, Any]:
        code = main.main(["compare", *words])
        said = capsys.readouterr()
        if "--json" in words and code == 0:
            return code, json.loads(said.out.splitlines()[-1])
        return code, said.out if code == 0 else said.err

    return run


def hold(
    store: Store, experiment: str, kind: str, params: Mapping[str, str], held: Mapping[str, Any]
) -> str:
    place = store.experiment_id(experiment, dataset="tubes", note="n")
    run = store.client.create_run(place, tags={names.KIND: kind}, run_name=kind).info
    for name, value in params.items():
        store.client.log_param(run.run_id, name, value)
    root = artifacts.local_folder(store.get(run.run_id).artifact_uri)
    assert root is not None
    for path, value in held.items():
        write = files.write_text if isinstance(value, str) else files.write_json
        write(root / path, value)
    store.client.set_terminated(run.run_id)
    return str(run.run_id)


def analysed(
    store: Store,
    experiment: str,
    dice: Mapping[str, float],
    *,
    groups: Sequence[str | None] = (),
    metric: str = "dice",
    epochs: int = 10,
    torch: str = "2.0",
    status: str = "FINISHED",
) -> str:
    """An analysis of volumes whose content is named by the last letter of their case."""
    volumes = tuple(
        VolumeMetrics(case=case, group=group, values={"dice": value, "cldice": value / 2})
        for (case, value), group in zip(dice.items(), groups or [None] * len(dice), strict=True)
    )
    profile = profile_of(tuple(dice))
    profile = profile.replace(
        volumes=tuple(one.replace(content_hash=one.case[-1]) for one in profile.volumes)
    )
    data = {names.DATASET_NAME: "tubes"}
    profiled = hold(store, names.PROFILE_EXPERIMENT, names.PROFILE, data,
                    {names.PROFILE_ARTIFACT: profile.model_dump(mode="json")})  # fmt: skip
    cell = {
        "data": {"dataset_hash": profile.dataset_hash}, "training": {"max_epochs": epochs},
        "fold": {"train": [], "val": [*dice]}, "code": {}, "own_modules": {}, "versions": {},
    }  # fmt: skip
    training = hold(store, experiment, names.FAMILY, {**data, "sys_git_commit": f"c{epochs}"},
                    {names.INGREDIENTS_ARTIFACT: {"fold 0": cell},
                     FROZEN: f"torch=={torch}\n"})  # fmt: skip
    intervals = {
        name: statistics.interval([one.values[name] for one in volumes], config=EvaluationConfig())
        for name in ("dice", "cldice")
    }
    best = Scores(name="net_loss", members=("net_loss",), trainable_parameters=1,
                  intervals=intervals, volumes=volumes)  # fmt: skip
    result = AnalysisResult(
        experiment=experiment, dataset_hash=profile.dataset_hash, training_run_ids=(training,),
        families=(best,), ensembles=(), untrained={}, champion=Champion(
            family=best.name, run_id=training, metric=metric, value=0.5, reason="r",
        ),
    )  # fmt: skip
    made_of = {"code": {}, "analysis": AnalysisConfig().key_fields(),
               "evaluation": EvaluationConfig().key_fields()}  # fmt: skip
    run = hold(
        store, names.EVALUATION_EXPERIMENT, names.ANALYSIS,
        {**data, names.UPSTREAM_EXPERIMENT: experiment, names.UPSTREAM_PROFILE: profiled},
        {names.ANALYSIS_ARTIFACT: result.model_dump(mode="json"),
         names.INGREDIENTS_ARTIFACT: made_of},
    )  # fmt: skip
    if status != "FINISHED":
        store.client.set_terminated(run, status)
    return run


OLD = dict(zip(("a", "b", "c", "d", "e", "f", "x"), (0.5, 0.6, 0.55, 0.7, 0.6, 0.5, 0.1),
               strict=True))  # fmt: skip


def renamed(gain: Sequence[float]) -> dict[str, float]:
    """The volumes of OLD but x under other names, and another one that is called x."""
    return {f"new_{case}": OLD[case] + more for case, more in zip("abcdef", gain, strict=True)} | {
        "xy": 0.9
    }


def test_experiments_are_compared_on_volumes_of_the_same_bytes_whatever_they_are_called(
    store: Store, compare: Verb
) -> None:
    old = analysed(store, "first", OLD)
    new = analysed(store, "second", renamed([0.1, 0.12, 0.11, 0.09, 0.1, 0.08]), epochs=20,
                   torch="2.1")  # fmt: skip
    code, found = compare("first", "second", "--json")
    assert (code, found["analyses"]) == (0, [old, new])
    assert found["common"] == [f"new_{case}" for case in "abcdef"]
    assert (found["only_old"], found["only_new"]) == (["x"], ["xy"])
    dice, cldice = found["metrics"]
    assert (dice["metric"], cldice["metric"]) == ("dice", "cldice")
    assert dice["old"] == pytest.approx(0.575)
    assert dice["new"] == pytest.approx(0.675)
    gap = dice["compared"]["difference"]
    assert (gap["mean"], gap["n"]) == (pytest.approx(0.1), 6)
    assert gap["lower"] > 0
    assert (dice["compared"]["p_value"], dice["compared"]["p_holm"]) == (2 / 64, 4 / 64)
    changed = {one["what"]: (one["old"], one["new"]) for one in found["changed"]}
    assert changed["training.max_epochs"] == (10, 20)
    assert changed["training.commit"] == ("c10", "c20")
    assert changed["package torch"] == ("2.0", "2.1")
    assert found["sentences"][0] == "Dice: 0 lies outside of the interval; new is better."
    assert "the figures do not tell which" in found["sentences"][-1]
    page = Path(found["page"]).read_text()
    assert "training.max_epochs" in page
    assert "new is better" in page


def test_two_dates_of_an_experiment_are_named_by_shortened_ids_and_groups_stay_whole(
    store: Store, compare: Verb
) -> None:
    groups = ["m", "m", "n", "n", "o", "o", None]
    old = analysed(store, "first", OLD, groups=groups)
    new = analysed(store, "first", renamed([0.1, -0.1, 0.05, -0.05, 0.02, -0.02]))
    code, told = compare(old[:10], new[:10])
    assert code == 0
    lines = [line.split() for line in told.splitlines()]
    (dice,) = [words for words in lines if words[:1] == ["Dice"]]
    assert dice[-4:-2] == ["6", "3"]
    assert "3 volumes or groups are too few for an interval" in told
    code, found = compare("first", new, "--json")
    assert (code, "Both are the analysis" in found) == (2, True)


def test_a_difference_within_its_interval_is_said_with_the_one_that_would_show(
    store: Store, compare: Verb
) -> None:
    analysed(store, "first", OLD)
    analysed(store, "second", renamed([0.1, -0.1, 0.05, -0.05, 0.02, -0.02]))
    code, told = compare("first", "second")
    assert code == 0
    assert "Dice: 0 lies inside the interval, so no difference is shown; one of 0." in told


def test_what_cannot_be_compared_is_refused_with_its_remedy(store: Store, compare: Verb) -> None:
    analysed(store, "first", OLD)
    analysed(store, "other", {"z": 0.5})
    analysed(store, "by_topology", OLD, metric="cldice")
    failed = analysed(store, "broken", OLD, status="FAILED")
    for words, wanted in {
        ("first", "first2"): "did you mean first",
        ("first", "other"): "No volume of first",
        ("first", "by_topology"): "by cldice, with figures of",
        ("first", failed): "only FINISHED runs are built on",
        ("first", "broken"): "minivess analyse name=broken",
        ("first", "first/1"): "first/1 names a model, and the other does not",
        ("first", "other", "name=first"): "name=first decides nothing",
    }.items():
        code, told = compare(*words)
        assert code != 0, words
        assert wanted in " ".join(told.split()), told
