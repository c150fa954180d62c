"""The adaptive decision."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivess import config, networks
from minivess.compute import judging, plan
from minivess.compute.patch import step_down
from minivess.contracts import ComputePlan, DatasetProfile, Hardware, Network, Shape
from minivess.data.profiling.profile import as_loaded
from minivess.errors import PlanError, UsageError

SHAPES: list[Shape] = [(48, 52, 16), (64, 72, 24), (60, 60, 20)]


@pytest.fixture
def make_plan(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> Callable[..., ComputePlan]:
    """Plan for a dataset on a machine, with words as a user types them."""

    def make(*words: str, shapes: list[Shape] = SHAPES, **machine: Any) -> ComputePlan:
        profile = make_profile(shapes)
        return plan.resolve(
            config.load([], list(words)),
            make_network(profile.min_shape),
            profile,
            make_machine(**machine),
            n_train=6,
        )

    return make


def gpu(vram: float, count: int = 1) -> dict[str, Any]:
    return {
        "gpu_count": count, "gpu_model": "test", "gpu_vram_gb": vram, "gpu_free_gb": vram,
        "gpu_driver": "1", "bf16_is_fast": True,
    }  # fmt: skip


@pytest.mark.parametrize(("machine", "name"), [
    ({}, "cpu"), (gpu(4), "cpu"), (gpu(5.6), "gpu_low"), (gpu(9.4), "gpu_low"),
    (gpu(10), "gpu_high"), (gpu(23.6), "dgx_spark"), (gpu(47.5), "cloud_single"),
    (gpu(80, count=4), "cloud_multi"),
])  # fmt: skip
def test_the_tier_follows_the_nominal_memory_of_the_gpu(
    make_machine: Callable[..., Hardware], machine: dict[str, Any], name: str
) -> None:
    assert plan.tier(make_machine(**machine), config.ComputeConfig())[0].name == name


def test_a_cell_on_one_of_several_gpus_takes_the_batch_of_its_own_tier(
    make_machine: Callable[..., Hardware],
) -> None:
    several, _ = plan.tier(make_machine(**gpu(16, count=4)), config.ComputeConfig())
    assert (several.batch_size, several.num_workers) == (4, 16)


@pytest.mark.parametrize(("name", "budget"), [
    ("cpu", (1, (64, 64, 16), 2, True)),
    ("gpu_low", (2, (96, 96, 24), 4, True)),
    ("gpu_high", (4, (128, 128, 32), 8, True)),
    ("dgx_spark", (8, (128, 128, 48), 12, True)),
    ("cloud_single", (8, (128, 128, 64), 16, True)),
    ("cloud_multi", (32, (128, 128, 64), 16, True)),
])  # fmt: skip
def test_the_tiers_start_from_the_documented_budgets(name: str, budget: tuple[Any, ...]) -> None:
    tier = config.tier(name)
    assert (tier.batch_size, tier.patch_size, tier.num_workers, tier.mixed_precision) == budget


def test_a_tier_may_be_asked_for(make_plan: Callable[..., ComputePlan]) -> None:
    chosen = make_plan("compute.profile=gpu_low")
    assert (chosen.tier, chosen.batch_size, chosen.device) == ("gpu_low", 2, "cpu")


def test_a_tier_of_ones_own_is_a_file(
    make_plan: Callable[..., ComputePlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs/tiers").mkdir(parents=True)
    (tmp_path / "configs/tiers/ours.yaml").write_text(
        "batch_size: 3\npatch_size: [40, 40, 12]\nnum_workers: 1\nmixed_precision: false\n"
    )
    monkeypatch.chdir(tmp_path)
    chosen = make_plan("compute.profile=ours")
    assert (chosen.tier, chosen.batch_size, chosen.patch_size) == ("ours", 3, (40, 40, 12))
    assert chosen.choices["batch_size"].bound == "tier ours"
    fast = make_plan("compute.profile=ours", bf16_is_fast=True)
    assert fast.mixed_precision == "none"
    assert fast.choices["mixed_precision"].reason == "tier ours says mixed_precision: false"


def test_the_threads_of_the_environment_count_unless_a_word_says_otherwise(
    make_plan: Callable[..., ComputePlan],
) -> None:
    stated = make_plan(omp_threads=3)
    assert (stated.threads, stated.choices["threads"].reason) == (3, "OMP_NUM_THREADS=3")
    assert make_plan("training.threads=2", omp_threads=3).threads == 2
    assert config.environment({"OMP_NUM_THREADS": "3,1"}).omp_num_threads == 3
    with pytest.raises(UsageError, match="OMP_NUM_THREADS=many"):
        config.environment({"OMP_NUM_THREADS": "many"})


def test_a_fixed_patch_is_kept_where_it_fits(make_plan: Callable[..., ComputePlan]) -> None:
    chosen = make_plan("compute.patch_strategy=fixed", "training.patch_size=[32,16,8]")
    assert (chosen.patch_size, chosen.padded) == ((32, 16, 8), {})


def test_the_patch_lies_within_the_smallest_volume_and_divides(
    make_plan: Callable[..., ComputePlan],
) -> None:
    assert make_plan(shapes=[(50, 66, 5), (64, 64, 40)]).patch_size == (48, 64, 5)


@pytest.mark.slow
def test_a_network_of_coarse_steps_starts_above_a_thin_tier(
    make_profile: Callable[..., DatasetProfile], make_machine: Callable[..., Hardware]
) -> None:
    profile = make_profile([(64, 64, 40)] * 3)
    network = networks.resolve(
        config.model("swinunetr", {"filters": [12]}),
        in_channels=1, out_channels=2, min_shape=profile.min_shape,
    )  # fmt: skip
    words = ["training.losses=[dice_ce]"]
    chosen = plan.resolve(config.load([], words), network, profile, make_machine(), n_train=2)
    assert (chosen.tier, chosen.patch_size) == ("cpu", (64, 64, 32))


def test_a_small_volume_may_be_padded_instead(make_plan: Callable[..., ComputePlan]) -> None:
    chosen = make_plan(
        "compute.patch_strategy=median_pad", shapes=[(64, 64, 6), *[(64, 64, 16)] * 4]
    )
    assert chosen.patch_size == (64, 64, 16)
    assert chosen.padded == {"v0": (0, 0, 10)}


def test_every_value_says_why_and_what_overrides_it(make_plan: Callable[..., ComputePlan]) -> None:
    chosen = make_plan()
    for name, choice in chosen.choices.items():
        assert getattr(chosen, name) == choice.value
        assert choice.reason
        assert choice.override.strip("'").startswith(("training.", "compute."))


def test_each_override_is_a_word_that_gives_the_same_value(
    make_plan: Callable[..., ComputePlan],
) -> None:
    chosen = make_plan()
    for name, choice in chosen.choices.items():
        word = choice.override.strip("'").replace(" ", "")
        assert getattr(make_plan(word), name) == choice.value


@pytest.mark.parametrize(("word", "field", "value"), [
    ("training.patch_size=[32,32,8]", "patch_size", (32, 32, 8)),
    ("training.batch_size=3", "batch_size", 3),
    ("training.num_workers=1", "num_workers", 1),
    ("training.cache_rate=0.25", "cache_rate", 0.25),
    ("training.threads=1", "threads", 1),
    ("training.mixed_precision=bf16", "mixed_precision", "bf16"),
    ("training.iterations_per_epoch=7", "iterations_per_epoch", 7),
    ("training.device=cpu", "device", "cpu"),
])  # fmt: skip
def test_a_value_that_is_given_is_used_as_it_is(
    make_plan: Callable[..., ComputePlan], word: str, field: str, value: Any
) -> None:
    chosen = make_plan(word)
    assert getattr(chosen, field) == value
    assert "given as" in chosen.choices[field].reason


@pytest.mark.parametrize(("word", "nearest"), [
    ("training.patch_size=[30,32,8]", r"\[32,32,8\]"),
    ("training.patch_size=[64,64,16]", r"\[48,52,16\]"),
])  # fmt: skip
def test_a_patch_that_does_not_fit_is_refused_naming_the_nearest_that_does(
    make_plan: Callable[..., ComputePlan], word: str, nearest: str
) -> None:
    with pytest.raises(PlanError, match=nearest):
        make_plan(word)


def test_a_patch_above_the_limit_of_a_model_file_is_refused(
    make_limited: Callable[..., ComputePlan],
) -> None:
    with pytest.raises(PlanError, match=r"(?s)dynunet\.yaml allows.*\[16,16,8\]"):
        make_limited("training.patch_size=[32,32,8]", max_patch_xy=16)


def test_a_gpu_that_is_not_there_is_refused(make_plan: Callable[..., ComputePlan]) -> None:
    with pytest.raises(PlanError, match="torch sees no GPU"):
        make_plan("training.device=cuda")


def test_the_plan_shrinks_until_it_fits_the_memory(make_plan: Callable[..., ComputePlan]) -> None:
    chosen = make_plan(
        "compute.profile=gpu_high", shapes=[(128, 128, 32)] * 3, ram_available_gb=1.0
    )
    assert chosen.predicted_memory_gb <= chosen.memory_budget_gb < 0.8
    assert chosen.patch_size < (128, 128, 32)
    assert "shrunk" in chosen.choices["patch_size"].reason


def test_what_never_fits_is_refused_with_the_memory_it_needs(
    make_plan: Callable[..., ComputePlan],
) -> None:
    with pytest.raises(PlanError, match=r"batch 1 needs \d+ MB, and \d+ MB"):
        make_plan(ram_available_gb=0.1)


def test_a_step_down_takes_the_largest_axis_then_halves_the_batch() -> None:
    divisor = (8, 8, 2)
    assert step_down((64, 48, 16), 4, divisor=divisor) == ((56, 48, 16), 4)
    assert step_down((16, 16, 16), 4, divisor=divisor) == ((16, 16, 16), 2)
    assert step_down((16, 16, 16), 1, divisor=divisor) is None
    assert step_down((64, 48, 16), 4, divisor=divisor, keep_patch=True) == ((64, 48, 16), 2)
    assert step_down((16, 16, 5), 4, divisor=divisor, keep_batch=True) is None


def test_little_memory_and_no_swap_lower_cache_and_workers(
    make_plan: Callable[..., ComputePlan],
) -> None:
    large: list[Shape] = [(256, 256, 100)] * 160
    rich = make_plan(shapes=large)
    poor = make_plan(shapes=large, ram_available_gb=4.0, swap_total_gb=0.0)
    assert poor.cache_rate < rich.cache_rate
    assert poor.num_workers < rich.num_workers


def test_the_cache_gives_way_to_the_smallest_step(make_plan: Callable[..., ComputePlan]) -> None:
    volumes: list[Shape] = [(512, 512, 60)] * 30
    words = ("training.losses=[dice_ce]", "compute.profile=cpu")
    least = make_plan(*words, shapes=volumes, ram_available_gb=2.2, swap_total_gb=0.0)
    assert least.cache_rate < 0.3  # half of 60 % of 2.2 GB, for volumes that take as much
    assert "are left to the step" in least.choices["cache_rate"].reason
    assert least.predicted_window_gb <= least.memory_budget_gb


def test_two_cores_both_train(make_plan: Callable[..., ComputePlan]) -> None:
    chosen = make_plan(cores=2)
    assert (chosen.threads, chosen.num_workers) == (2, 0)


def test_bf16_is_chosen_where_the_cpu_computes_it(make_plan: Callable[..., ComputePlan]) -> None:
    assert make_plan(bf16_is_fast=True).mixed_precision == "bf16"
    assert make_plan(bf16_is_fast=False).mixed_precision == "none"


def test_an_epoch_shows_each_patch_once(make_plan: Callable[..., ComputePlan]) -> None:
    words = (
        "training.samples_per_volume=4",
        "training.batch_size=2",
        "training.accumulation_steps=3",
    )
    assert make_plan(*words).iterations_per_epoch == 4  # 6 volumes x 4 patches / 6


def test_a_large_cache_set_by_hand_warns(
    make_plan: Callable[..., ComputePlan], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        make_plan("training.cache_rate=1.0", shapes=[(256, 256, 100)] * 160, ram_available_gb=6.9)
    assert "training.cache_rate=1" in caplog.text


def test_the_guard_passes_what_was_planned(
    make_plan: Callable[..., ComputePlan], make_profile: Callable[..., DatasetProfile]
) -> None:
    plan.guard(make_plan(), make_profile(SHAPES))


@pytest.mark.parametrize(("change", "complaint"), [
    ({"patch_size": (64, 64, 16)}, "does not fit v0"),
    ({"patch_size": (46, 48, 16)}, "not divisible"),
])  # fmt: skip
def test_the_guard_stops_a_plan_that_does_not_suit_the_data(
    make_plan: Callable[..., ComputePlan],
    make_profile: Callable[..., DatasetProfile],
    change: dict[str, Any],
    complaint: str,
) -> None:
    with pytest.raises(PlanError, match=complaint):
        plan.guard(make_plan().replace(**change), make_profile(SHAPES))


def test_the_guard_stops_a_cache_or_a_disk_that_is_too_small(
    make_plan: Callable[..., ComputePlan],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> None:
    chosen = make_plan()
    with pytest.raises(PlanError, match="cache"):
        plan.guard(chosen, make_profile(SHAPES), hardware=make_machine(ram_available_gb=0.0001))
    with pytest.raises(PlanError, match="MINIVESS_HOME"):
        plan.guard(chosen, make_profile(SHAPES), hardware=make_machine(), disk_gb=1e6)


def test_resampling_is_planned_for_the_shape_that_is_trained(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> None:
    words = ["data.resampling.enabled=true", "data.resampling.method=spacing",
             "data.resampling.target_spacing=[2,2,1]"]  # fmt: skip
    settings = config.load([], words)
    native = make_profile([(96, 96, 16)] * 3, spacing=(1, 1, 1))
    profile = as_loaded(native, settings.data.resampling)
    chosen = plan.resolve(settings, make_network(), profile, make_machine(), n_train=2)
    assert chosen.patch_size == (48, 48, 16)


def test_the_safe_patch_is_the_largest_that_needs_no_padding(
    make_network: Callable[..., Network], make_profile: Callable[..., DatasetProfile]
) -> None:
    profile = make_profile([(101, 90, 5), (200, 200, 90)])
    assert plan.safe_patch(make_network(profile.min_shape), profile) == (100, 88, 5)


def test_a_volume_below_the_divisor_is_named(
    make_network: Callable[..., Network], make_profile: Callable[..., DatasetProfile]
) -> None:
    network = make_network(strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)))
    with pytest.raises(PlanError, match="v1 has 3 voxels along z"):
        plan.safe_patch(network, make_profile([(64, 64, 9), (64, 64, 3)]))


@pytest.fixture
def make_limited(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> Callable[..., ComputePlan]:
    """Plan with what the model's own file says."""

    def make(*words: str, **said: Any) -> ComputePlan:
        network = make_network((64, 64, 16), **said)
        profile = make_profile([(64, 64, 16)] * 3)
        machine = make_machine(bf16_is_fast=True)
        return plan.resolve(config.load([], list(words)), network, profile, machine, n_train=2)

    return make


def test_a_model_file_may_limit_the_patch(make_limited: Callable[..., ComputePlan]) -> None:
    chosen = make_limited(max_patch_xy=40, max_patch_z=8)
    assert chosen.patch_size == (40, 40, 8)
    assert "configs/models/dynunet.yaml" in chosen.choices["patch_size"].bound


def test_a_model_file_may_refuse_mixed_precision(
    make_limited: Callable[..., ComputePlan],
) -> None:
    assert make_limited().mixed_precision == "bf16"
    assert make_limited(supports_amp=False).mixed_precision == "none"
    with pytest.raises(PlanError, match="supports_amp"):
        make_limited("training.mixed_precision=bf16", supports_amp=False)


def test_a_model_file_may_give_divisor_and_memory(
    make_limited: Callable[..., ComputePlan],
) -> None:
    chosen = make_limited(divisibility_factor=16, vram_base_mb=512, vram_per_voxel_train_bytes=1024)
    assert chosen.divisor == (16, 16, 16)
    assert chosen.predicted_memory_gb == pytest.approx(0.5 + 64 * 64 * 16 / 1024**2, abs=1e-3)


def test_the_limit_that_a_patch_meets_is_named_with_what_one_more_step_would_need(
    make_plan: Callable[..., ComputePlan],
) -> None:
    patch = make_plan(shapes=[(50, 66, 5), (64, 70, 40)]).choices["patch_size"]
    assert patch.bound == "v0 along xz, tier cpu along y"
    assert "48x68x5 would need" in patch.more
    short = make_plan("compute.profile=gpu_high", shapes=[(128, 128, 32)] * 3, ram_available_gb=1.2)
    assert short.choices["patch_size"].bound == "memory"


@pytest.mark.parametrize(("n_train", "updates"), [(21, 42), (22, 44)])
def test_folds_of_unequal_size_draw_as_many_patches_from_each_volume(
    make_plan: Callable[..., ComputePlan], n_train: int, updates: int
) -> None:
    words = ["training.batch_size=2", "training.samples_per_volume=4"]
    mine = judging.for_fold(make_plan(*words), config.load([], words), n_train)
    assert mine.iterations_per_epoch == updates
    assert mine.choices["iterations_per_epoch"].reason.startswith(f"{n_train} volumes x 4 patches")


def test_windows_of_prediction_grow_to_the_largest_volume_within_the_memory(
    make_plan: Callable[..., ComputePlan],
) -> None:
    shapes: list[Shape] = [(64, 64, 8), (500, 512, 26)]
    roomy = make_plan(shapes=shapes)
    tight = make_plan("training.patch_size=[64,64,8]", shapes=shapes, ram_available_gb=2.0)
    assert roomy.window[2] >= 26 > roomy.patch_size[2]
    assert roomy.window[0] >= 128
    assert all(side >= patch for side, patch in zip(tight.window, tight.patch_size, strict=True))
    assert tight.window <= roomy.window
    for made in (roomy, tight):
        assert made.predicted_window_gb <= made.memory_budget_gb


@pytest.mark.parametrize(
    ("shapes", "grown"),
    [([(32, 44, 24), (43, 59, 47)], (False, False, False)),
     ([(64, 64, 5), (64, 64, 60)], (False, False, True))],
)  # fmt: skip
def test_where_few_patches_are_a_volume_only_thin_sides_of_a_window_grow(
    make_plan: Callable[..., ComputePlan], shapes: list[Shape], grown: tuple[bool, ...]
) -> None:
    made = make_plan(shapes=shapes)
    pairs = zip(made.window, made.patch_size, strict=True)
    assert tuple(side > patch for side, patch in pairs) == grown


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([(64, 64, 5), (64, 64, 60)], ((32, 32, 5), (48, 48, 5), (64, 64, 5))),
     ([(16, 16, 5)], ((16, 16, 5),))],
)  # fmt: skip
def test_patches_grow_from_half_to_the_whole_and_thin_sides_stay(
    make_plan: Callable[..., ComputePlan], shapes: list[Shape], expected: tuple[Shape, ...]
) -> None:
    assert make_plan(shapes=shapes).patch_schedule == expected[-1:]
    made = make_plan("training.patch_schedule=growing", shapes=shapes)
    assert made.patch_schedule == expected
    assert made.choices["patch_schedule"].value.endswith("x5")


def test_epochs_are_shared_among_the_patches_and_the_last_one_has_the_whole(
    make_plan: Callable[..., ComputePlan],
) -> None:
    made = make_plan("training.patch_schedule=[[16,16,8],[32,16,8]]")
    small, middle, whole = made.patch_schedule
    assert [made.patch_at(n, 6) for n in range(6)] == [small] * 2 + [middle] * 2 + [whole] * 2
    assert [made.patch_at(n, 4) for n in range(4)] == [small, middle, whole, whole]
    assert made.patch_at(0, 1) == made.patch_at(1, 2) == whole


@pytest.mark.parametrize(
    ("asked", "problem"),
    [("[[96,96,8]]", "is larger than the last patch"), ("[[30,30,8]]", "does not divide by")],
)
def test_a_schedule_beyond_the_smallest_volume_or_that_does_not_divide_is_refused(
    make_plan: Callable[..., ComputePlan], asked: str, problem: str
) -> None:
    with pytest.raises(PlanError, match=problem) as refused:
        make_plan(f"training.patch_schedule={asked}")
    assert "in its place" in str(refused.value.remedy)


def test_a_window_of_prediction_is_used_as_it_is_given_or_refused(
    make_plan: Callable[..., ComputePlan],
) -> None:
    assert make_plan("training.prediction_window=[32,32,8]").window == (32, 32, 8)
    with pytest.raises(PlanError, match="is not divisible by") as refused:
        make_plan("training.prediction_window=[30,32,8]")
    assert "training.prediction_window=[32,32,8]" in str(refused.value.remedy)
