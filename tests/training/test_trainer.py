"""A cell trains: what it measures, what it leaves, and that each setting is the one used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from minivess import names, networks
from minivess.config import TrainingConfig
from minivess.contracts import CellResult, LossTerm
from minivess.errors import TrainingError
from minivess.training import cell_folder, checkpoint
from minivess.training.monitoring import timing
from tests.conftest import write_nifti
from tests.training import scene

pytestmark = pytest.mark.slow

EACH_EPOCH = {
    "train_loss", "val_loss", "train_dice", "val_dice", "val_f1_foreground", "learning_rate",
}  # fmt: skip
AT_INTERVALS = {"val_cldice", "val_masd", "val_compound_masd_cldice", "val_masd_nan_count"}
COMPOUND = (LossTerm(loss="dice_ce", weight=0.5), LossTerm(loss="cldice", weight=0.5))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return scene.make_cases(tmp_path_factory.mktemp("volumes"), spacing=(0.5, 0.5, 0.5))


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / names.BEST_LOSS, weights_only=True)["weights"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cases) -> tuple[scene.Heard, CellResult, dict[str, torch.Tensor]]:
    """The cell as it is without any change of settings: what was heard, its result, its weights."""
    folder, heard = tmp_path_factory.mktemp("plain"), scene.Heard()
    result = scene.train(folder, cases, heard=heard)
    return heard, result, weights(folder)


def test_every_epoch_reports_its_metrics_and_topology_at_intervals_and_at_the_end(trained):
    heard, _, _ = trained
    assert heard.epochs == [0, 1, 2]
    assert set(heard.metrics[0]) == EACH_EPOCH
    assert set(heard.metrics[1]) == set(heard.metrics[2]) == EACH_EPOCH | AT_INTERVALS


def test_the_result_holds_each_validation_volume_and_files_with_their_sizes(trained, cases):
    heard, result, _ = trained
    assert [volume.case for volume in result.volumes] == ["vol3", "vol4"]
    assert set(result.volumes[0].values) == set(result.untrained) == set(names.METRICS)
    assert result.best["val_loss"] == min(metrics["val_loss"] for metrics in heard.metrics)
    primary = [metrics.get(f"val_{names.PRIMARY}", 0) for metrics in heard.metrics]
    assert result.best[f"val_{names.PRIMARY}"] == max(primary)
    left = {*names.CHECKPOINTS, names.FINAL, names.HISTORY, names.CELL_SPEC, cell_folder.CURVES}
    assert left <= set(result.files)


def test_the_shares_of_the_wall_time_are_told_part_by_part(trained):
    _, result, _ = trained
    assert set(result.time_shares) == {*timing.PARTS, timing.BESIDE}
    assert sum(result.time_shares[part] for part in timing.PARTS) == pytest.approx(1)
    assert result.time_shares[timing.STEPPING] > 0
    assert result.time_shares[timing.BESIDE] > 0


@pytest.mark.parametrize("judged", ["last", "best"])
def test_the_last_epoch_is_judged_unless_the_best_is_asked_for(judged, cases, tmp_path):
    heard = scene.Heard()
    # At this rate the last epoch is not the best.
    config = scene.make_config(judged_epoch=judged, ema_decay=0.5, learning_rate=0.9)
    result = scene.train(tmp_path, cases, config=config, heard=heard)
    primary = [metrics.get(f"val_{names.PRIMARY}", -1) for metrics in heard.metrics]
    best = primary.index(max(primary))
    assert best < len(primary) - 1
    expected = {"last": (2, names.FINAL), "best": (best, names.BEST_PRIMARY)}[judged]
    assert (result.judged_epoch, result.checkpoint) == expected
    for name in ("dice", "cldice"):
        mean = sum(volume.values[name] for volume in result.volumes) / len(result.volumes)
        assert mean == pytest.approx(heard.metrics[result.judged_epoch][f"val_{name}"])
    if judged == "last":
        average = checkpoint.load(tmp_path / names.LAST)["average"]
        final = checkpoint.load(tmp_path / names.FINAL)["weights"]
        assert all(torch.equal(final[name], average[f"module.{name}"]) for name in final)


def test_training_beats_the_untrained_network(cases, tmp_path):
    result = scene.train(tmp_path, cases, config=scene.make_config(max_epochs=8))
    trained = sum(volume.values["dice"] for volume in result.volumes) / 2
    assert trained > result.untrained["dice"] + 0.2
    assert trained > 0.85


def test_figures_come_at_their_interval_and_at_the_end(trained):
    heard, _, _ = trained
    found = [path.name for path in heard.figures]
    assert found == ["epoch_0001.png", "epoch_0002.png", "training_curves.png"]


def test_a_figure_that_fails_warns_and_never_stops_training(cases, tmp_path, caplog):
    def fails(_: Path) -> None:
        raise ZeroDivisionError

    spec = scene.make_spec()
    (tmp_path / cell_folder.PREDICTIONS).write_text("a file where the folder should be")
    scene.trainer.train_cell(
        spec,
        scene.make_plan(spec),
        scene.make_config(max_epochs=1),
        cases,
        folder=tmp_path,
        callbacks=scene.trainer.Callbacks(lambda *_: None, fails),
    )
    assert len([r for r in caplog.records if "training goes on" in r.message]) == 2


# --- each setting is the one used ---------------------------------------------------------

CHANGED: list[dict[str, Any]] = [
    {"samples_per_volume": 1},
    {"foreground_ratio": 0.0},
    {"augment": "none"},
    {"augment": "full"},
    {"accumulation_steps": 2},
    {"learning_rate": 1e-3},
    {"optimizer": "adam", "weight_decay": 0.5},
    {"weight_decay": 0.5},
    {"scheduler": "constant"},
    {"warmup_epochs": 1},
    {"gradient_clip_val": 0.01},
    {"optimizer": "muon"},
    {"ema_decay": 0.9},
    {"average_from": 1},
    {"max_epochs": 4},
]
PLANNED = {"batch_size": 1, "iterations_per_epoch": 2, "mixed_precision": "bf16"}
JUDGED = {"validation_interval": 2, "validation_share": 0.3}
ELSEWHERE = {  # tested in other files or below, or no business of a cell
    "models", "axes", "losses", "folds", "seeds", "splits", "stratify", "test_fraction", "retrain",
    "refit", "parallel_cells", "processes_per_cell", "deployment", "slots",
    "patch_size", "patch_schedule", "time_limit_s", "sliding_window_overlap", "prediction_window",
    "mirroring", "gradient_checkpointing", "early_stopping_patience",
    "threads", "device", "extends", "init", "judged_epoch",
}  # fmt: skip
UNCOUNTED = [
    {"plan": {"num_workers": 2}},
    {"plan": {"cache_rate": 0.0}},
    {"config": scene.make_config(figure_interval=1)},
    {"config": scene.make_config(retrain="always", num_workers=1, cache_rate=0.1, device="cpu")},
]


def test_no_training_field_is_forgotten_here():
    listed = {name for change in CHANGED for name in change} | set(PLANNED) | ELSEWHERE
    listed |= {"num_workers", "cache_rate", "figure_interval", *JUDGED}
    assert listed == set(TrainingConfig.model_fields)


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: "-".join(change))
def test_a_setting_that_counts_changes_the_weights(change, cases, tmp_path, trained):
    scene.train(tmp_path, cases, config=scene.make_config(**change))
    assert not same(weights(tmp_path), trained[2])


@pytest.mark.parametrize("field", PLANNED)
def test_a_planned_value_is_the_one_used(field, cases, tmp_path, trained):
    scene.train(tmp_path, cases, plan={field: PLANNED[field]})
    assert not same(weights(tmp_path), trained[2])


@pytest.mark.parametrize("options", UNCOUNTED, ids=["workers", "cache", "figures", "asked"])
def test_a_setting_that_does_not_count_changes_no_weight(options, cases, tmp_path, trained):
    result = scene.train(tmp_path, cases, **options)
    assert same(weights(tmp_path), trained[2])
    assert result.volumes == trained[1].volumes


@pytest.mark.parametrize("field", JUDGED)
def test_what_is_judged_between_changes_neither_weights_nor_what_is_reported(
    field, cases, tmp_path, trained
):
    heard = scene.Heard()
    result = scene.train(tmp_path, cases, plan={field: JUDGED[field]}, heard=heard)
    assert result.volumes == trained[1].volumes
    val = [metrics.get("val_dice") for metrics in heard.metrics]
    if field == "validation_interval":
        assert [value is not None for value in val] == [False, True, True]
        assert set(heard.metrics[1]) >= AT_INTERVALS
    else:
        assert val != [metrics["val_dice"] for metrics in trained[0].metrics]
        assert result.untrained != trained[1].untrained


def test_a_cell_killed_after_an_epoch_that_is_not_judged_comes_to_the_same_result(
    cases, tmp_path, trained
):
    def dies(epoch, *_):
        if epoch == 0:
            raise KeyboardInterrupt

    spec, heard = scene.make_spec(), scene.Heard()
    plan = scene.make_plan(spec, validation_interval=3)
    killed = scene.trainer.Callbacks(dies, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        scene.trainer.train_cell(
            spec, plan, scene.make_config(), cases, folder=tmp_path, callbacks=killed
        )
    result = scene.train(tmp_path, cases, heard=heard)
    assert heard.epochs == [0, 1, 2]
    assert "val_loss" not in heard.metrics[1]
    assert result.volumes == trained[1].volumes


def test_the_seed_decides_the_weights_and_the_order_of_the_fold_does_not(cases, tmp_path, trained):
    scene.train(tmp_path / "seed", cases, spec=scene.make_spec(seed=8))
    assert not same(weights(tmp_path / "seed"), trained[2])
    fold = scene.make_spec().fold.replace(train=("vol0", "vol1", "vol2"))
    scene.train(tmp_path / "order", cases, spec=scene.make_spec(fold=fold))
    assert same(weights(tmp_path / "order"), trained[2])


def test_gradient_checkpointing_recomputes_and_comes_to_the_same_weights(cases, tmp_path, trained):
    config = scene.make_config(gradient_checkpointing=True, ema_decay=0.0)
    scene.train(tmp_path, cases, config=config)
    found = weights(tmp_path)
    assert all(torch.allclose(found[n], trained[2][n], atol=1e-5) for n in found)


def test_gradient_checkpointing_leaves_the_average_alone(cases, tmp_path):
    for name, recompute in (("plain", False), ("recomputed", True)):
        config = scene.make_config(gradient_checkpointing=recompute, ema_decay=0.9, max_epochs=2)
        scene.train(tmp_path / name, cases, config=config)
    plain, recomputed = weights(tmp_path / "plain"), weights(tmp_path / "recomputed")
    assert all(torch.allclose(plain[name], recomputed[name], atol=1e-5) for name in plain)


def test_the_windows_overlap_is_used_in_validation(cases, tmp_path, trained):
    window = scene.make_spec().window.replace(overlap=0.75)
    heard = scene.Heard()
    spec = scene.make_spec(window=window)
    scene.train(tmp_path, cases, spec=spec, config=scene.make_config(max_epochs=1), heard=heard)
    assert heard.metrics[0]["train_loss"] == trained[0].metrics[0]["train_loss"]
    assert heard.metrics[0]["val_loss"] != trained[0].metrics[0]["val_loss"]


def test_torch_gets_the_planned_threads_and_its_own_back(cases, tmp_path):
    before, seen = torch.get_num_threads(), []
    spec = scene.make_spec()
    scene.trainer.train_cell(
        spec,
        scene.make_plan(spec, threads=2, iterations_per_epoch=1),
        scene.make_config(max_epochs=1),
        cases,
        folder=tmp_path,
        callbacks=scene.trainer.Callbacks(
            lambda *_: seen.append(torch.get_num_threads()), lambda _: None
        ),
    )
    assert (seen, torch.get_num_threads()) == ([2], before)


# --- other shapes of a training -----------------------------------------------------------


def test_early_stopping_ends_with_topology_metrics_of_its_last_epoch(cases, tmp_path):
    config = scene.make_config(
        {"interval_epochs": 50}, max_epochs=30, early_stopping_patience=1, learning_rate=0.5
    )
    heard = scene.Heard()
    result = scene.train(tmp_path, cases, config=config, heard=heard)
    losses = [metrics["val_loss"] for metrics in heard.metrics]
    assert result.stopped_early
    assert result.epochs == len(losses) == losses.index(min(losses)) + 2
    assert set(heard.metrics[-1]) >= AT_INTERVALS


def test_early_stopping_waits_for_the_next_judged_epoch(cases, tmp_path):
    config = scene.make_config(max_epochs=30, early_stopping_patience=1, learning_rate=0.5)
    heard = scene.Heard()
    plan = {"validation_interval": 4}
    result = scene.train(tmp_path, cases, config=config, heard=heard, plan=plan)
    judged = [epoch for epoch in heard.epochs if "val_loss" in heard.metrics[epoch]]
    assert result.stopped_early
    assert judged == list(range(3, result.epochs, 4))
    assert result.epochs % 4 == 0


def test_components_of_a_compound_loss_are_reported(cases, tmp_path):
    heard = scene.Heard()
    config = scene.make_config(max_epochs=1)
    scene.train(tmp_path, cases, spec=scene.make_spec(terms=COMPOUND), config=config, heard=heard)
    found = heard.metrics[0]
    parts = 0.5 * found["train_loss_dice_ce"] + 0.5 * found["train_loss_cldice"]
    assert found["train_loss"] == pytest.approx(parts, rel=1e-5)


def test_deep_supervision_trains_and_its_checkpoint_serves(cases, tmp_path):
    spec = scene.make_spec(model={"deep_supervision": True})
    scene.train(tmp_path, cases, spec=spec, config=scene.make_config(max_epochs=1))
    network = networks.load(spec.network, tmp_path / names.BEST_PRIMARY)
    assert network(torch.zeros(1, 1, 16, 16, 8)).shape == (1, 2, 16, 16, 8)


def test_classes_are_indices_inside_and_label_values_in_the_metrics(tmp_path):
    cases = scene.make_cases(tmp_path)
    for name, case in cases.items():
        mask = scene.tube(scene.SHAPE, seed=int(name[-1]))[1] * 4
        mask[:8][mask[:8] > 0] = 9
        write_nifti(case.label, mask)
    heard = scene.Heard()
    scene.train(
        tmp_path / "cell",
        cases,
        spec=scene.make_spec(classes=(0, 4, 9)),
        config=scene.make_config(max_epochs=1),
        heard=heard,
    )
    found = heard.metrics[0]
    assert {"val_dice_class4", "val_dice_class9", "val_f1_foreground_class4"} <= set(found)
    assert found["val_dice"] == pytest.approx(
        (found["val_dice_class4"] + found["val_dice_class9"]) / 2
    )


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_loss_that_is_not_finite_names_its_own_volumes_and_the_remedy(cases, tmp_path):
    image = scene.tube(scene.SHAPE, seed=1)[0].astype("float32")
    image[4, 4, 4] = math.inf
    file = write_nifti(tmp_path / "vol1.nii.gz", image)
    broken = cases | {"vol1": cases["vol1"].replace(image=file)}
    # What follows is not finite either: by then the weights are broken, whatever the volume.
    found = r"on patches of vol1\.[\s\S]*training.learning_rate=0.0025"
    with pytest.raises(TrainingError, match=found):
        scene.train(tmp_path / "cell", broken, plan={"batch_size": 1, "iterations_per_epoch": 6})
