"""What parent runs and analyses hold of their folds, as MLflow metrics."""

from __future__ import annotations

from minivess import names
from minivess.config import EvaluationConfig
from minivess.contracts import AnalysisResult, CellResult, Champion, Scores, VolumeMetrics
from minivess.evaluation import statistics
from minivess.grid import family_run
from minivess.stages import analyse

CONFIG = EvaluationConfig(bootstrap_n=100)


def fold(primary: float, *masd: float | None, best: float = 0.5) -> CellResult:
    volumes = tuple(
        VolumeMetrics(
            case=f"{primary}-{place}",
            values={"dice": primary, names.PRIMARY: primary, "masd_class2": value},
        )
        for place, value in enumerate(masd)
    )
    return CellResult(
        key="k", judged_epoch=1, epochs=2, stopped_early=False, training_time_seconds=1,
        time_shares={}, trainable_parameters=7, best={f"val_{names.PRIMARY}": best}, untrained={},
        volumes=volumes, checkpoint=names.FINAL, files={},
    )  # fmt: skip


def test_a_parent_counts_what_is_undefined_and_says_what_its_bounds_are() -> None:
    found = family_run.aggregate(CONFIG, [fold(0.5, 2.0, None, 4.0), fold(0.7, None, None, 3.0)])
    assert (found["eval_masd_class2"], found["eval_masd_class2_n_undefined"]) == (3, 3)
    assert found["eval_fold1_masd_class2_n_undefined"] == 2
    assert found["eval_fold0_dice_ci_level"] == 0.75  # the range of three
    assert found["eval_dice_ci_level"] == 0.95
    assert "eval_fold1_masd_class2_ci_lower" not in found
    assert "eval_fold1_masd_class2_ci_level" not in found


def test_the_registered_fold_is_the_one_whose_judged_weights_did_best() -> None:
    assert family_run.best_fold([fold(0.5, 1.0, best=0.9), fold(0.7, 1.0, best=0.6)]) == 1


def test_an_analysis_holds_the_champions_test_set_apart() -> None:
    def judged(name: str, values: list[float]) -> Scores:
        return Scores(
            name=name, members=(name,), trainable_parameters=1,
            intervals={m: statistics.interval(values, config=CONFIG)
                       for m in ("dice", names.PRIMARY)},
            volumes=tuple(VolumeMetrics(case=str(i), values={"dice": x})
                          for i, x in enumerate(values)),
        )  # fmt: skip

    result = AnalysisResult(
        experiment="e", dataset_hash="h", training_run_ids=("t",), ensembles=(), untrained={},
        families=(judged("a", [0.5] * 6), judged("b", [0.4] * 6)),
        test=(judged("a", [0.3, 0.2]), judged("b", [0.9, 0.8])),
        champion=Champion(family="a", run_id="t", metric=names.PRIMARY, value=0.5, reason="r"),
    )  # fmt: skip
    found = analyse.metrics(result)
    assert (found["champion_dice"], found["test_dice"], found["test_n_volumes"]) == (0.5, 0.25, 2)
    assert (found["test_dice_ci_lower"], found["test_dice_ci_level"]) == (0.2, 0.5)
    assert analyse.format_interval(result.test[0].intervals["dice"]) == (
        "0.250 [0.200, 0.300] (n=2, range of 2)"
    )


def test_a_result_of_an_earlier_release_is_read() -> None:
    stored = fold(0.5, 1.0).model_dump(mode="json")
    stored["best_epoch"] = stored.pop("judged_epoch")
    assert CellResult.model_validate(stored) == fold(0.5, 1.0)
