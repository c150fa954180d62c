"""What the grid will cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from minivess import config
from minivess.compute import judging, plan
from minivess.compute.reporting import forecast, plan_page
from minivess.compute.reporting.forecast import Times
from minivess.contracts import (
    CellResult,
    ComputePlan,
    DatasetProfile,
    Forecast,
    Hardware,
    Network,
)

pytestmark = pytest.mark.slow

TIMES = Times(step=0.5, load=0.1, window=0.2, judge=1e-6, steps=3)
Scene = tuple[config.ExperimentConfig, Network, ComputePlan, DatasetProfile, Hardware]


@pytest.fixture
def make_scene(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> Callable[..., Scene]:
    """Everything that a forecast needs, with words as a user types them."""

    def make(*words: str) -> Scene:
        patches = ["training.patch_size=[16,16,8]", "training.samples_per_volume=4"]
        settings = config.load([], [*patches, "training.folds=2", "training.threads=1", *words])
        profile, network, machine = make_profile([(32, 32, 8)] * 4), make_network(), make_machine()
        chosen = plan.resolve(settings, network, profile, machine, n_train=2)
        return settings, network, chosen, profile, machine

    return make


def cost(scene: Scene, cells: int = 4, times: Times = TIMES) -> Forecast:
    return forecast.forecast(*scene[:4], times, n_train=[2] * cells, held_gb=0.8)


def test_a_grid_costs_its_cells_times_its_epochs(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene("training.max_epochs=10", "training.num_workers=0")
    found = cost(scene)
    assert found.total_hours == pytest.approx(4 * 10 * found.seconds_per_epoch / 3600)
    # 8 patches one by one; 2 of 4 volumes validate: a window of 9 and its metrics after each
    # epoch, and the same of the untrained network and all of it, in float32, once.
    voxels = 2 * 32 * 32 * 8 * 1e-6
    between = 2 * 0.2 + voxels / 9 / scene[0].evaluation.interval_epochs
    once = judging.REPORTED * 2 * 10 * 0.2 + voxels * 10 / 9
    steps = 8 * (0.5 + 0.1)
    assert found.seconds_per_epoch == pytest.approx(steps + between + once / 10)
    assert found.steps_share == pytest.approx(steps / found.seconds_per_epoch)


def test_folds_of_other_sizes_count_with_their_own_updates(
    make_scene: Callable[..., Scene],
) -> None:
    scene = make_scene("training.max_epochs=10", "training.num_workers=0")
    small, large = (forecast.forecast(*scene[:4], TIMES, n_train=n, held_gb=0.8).total_hours
                    for n in ([2, 2], [3, 3]))  # fmt: skip
    mixed = forecast.forecast(*scene[:4], TIMES, n_train=[2, 3], held_gb=0.8).total_hours
    assert small < mixed < large
    assert mixed == pytest.approx((small + large) / 2)


def test_workers_make_batches_while_a_step_runs(make_scene: Callable[..., Scene]) -> None:
    alone = cost(make_scene("training.num_workers=0"))
    helped = cost(make_scene("training.num_workers=2"))
    swamped = cost(make_scene("training.num_workers=2"), times=TIMES._replace(load=2.0))
    assert alone.seconds_per_epoch - helped.seconds_per_epoch == pytest.approx(8 * 0.1)
    assert swamped.seconds_per_epoch - helped.seconds_per_epoch == pytest.approx(8 * 0.5)


def test_disk_grows_with_the_cells_and_what_an_optimizer_keeps(
    make_scene: Callable[..., Scene],
) -> None:
    scene, lean = make_scene(), make_scene("training.optimizer=sgd")
    assert cost(scene, cells=8).disk_gb == pytest.approx(2 * cost(scene, cells=4).disk_gb)
    assert cost(lean).disk_gb < cost(scene).disk_gb


def test_main_memory_and_gpu_memory_are_told_apart(make_scene: Callable[..., Scene]) -> None:
    settings, network, chosen, profile, machine = make_scene()
    on_cpu = cost((settings, network, chosen, profile, machine))
    on_gpu = cost((settings, network, chosen.replace(device="cuda"), profile, machine))
    assert (on_cpu.vram_gb, on_gpu.vram_gb) == (0, chosen.predicted_memory_gb)
    assert on_cpu.ram_gb > chosen.predicted_memory_gb
    assert 0.8 < on_gpu.ram_gb < on_cpu.ram_gb


def test_what_a_cell_took_counts_its_folder_and_its_run(
    make_scene: Callable[..., Scene], tmp_path: Path
) -> None:
    (tmp_path / "last.pth").write_bytes(bytes(2048))
    (tmp_path / "more.txt").write_bytes(bytes(1024))
    result = CellResult(
        key="k", judged_epoch=1, epochs=4, stopped_early=False, training_time_seconds=8.0,
        time_shares={},
        trainable_parameters=1, best={}, untrained={}, volumes=(), checkpoint="last.pth",
        files={"last.pth": 2048},
    )  # fmt: skip
    chosen = make_scene()[2]
    again = forecast.actual_metrics(result, chosen, tmp_path, trained=False)
    assert again == {
        "actual_seconds_per_epoch": 2.0, "actual_seconds": 8.0,
        "actual_disk_gb": (2048 + 1024 + 2048) / 1024**3,
    }  # fmt: skip
    fresh = forecast.actual_metrics(result, chosen, tmp_path, trained=True)
    expected = forecast.forecast_metrics(cost(make_scene()), epochs=4)
    assert {name.replace("forecast", "actual") for name in expected} == set(fresh)
    assert fresh["actual_ram_gb"] > 0.1


def test_the_decision_is_shown_whole(make_scene: Callable[..., Scene]) -> None:
    settings, network, chosen, profile, machine = make_scene("training.batch_size=2")
    found = cost((settings, network, chosen, profile, machine))
    shown = plan_page.machine_text(machine) + plan_page.text("dynunet", chosen, found)
    table = plan_page.markdown(chosen, found, machine)
    said = " ".join(shown.split())
    for name, choice in chosen.choices.items():
        value = plan_page.shown(choice.value)
        assert f"{name} {value} {choice.reason}" in said
        assert choice.more in said
        assert f"| {name} | {value} | {choice.bound} | {choice.reason} |" in table
        given = choice.bound == "your setting"
        assert given or (choice.override in said and choice.override in table)
    assert "dynunet, 4 cells" in shown
    assert "s for an epoch" in shown
    assert max(map(len, shown.splitlines())) <= 100
