"""Every param name that the contract promises, made from records alone."""

from __future__ import annotations

import json
from typing import Any

from minivess import names
from minivess.config import EvaluationConfig, ExperimentConfig, ModelConfig, TrainingConfig
from minivess.contracts import Choice, ComputePlan
from minivess.tracking.run import params
from minivess.tracking.run.encoding import param_text
from tests.tracking.conftest import LOSS, NETWORK, SPLIT, profile_of

PLAN = ComputePlan(
    tier="gpu_low",
    device="cuda",
    patch_size=(96, 96, 4),
    batch_size=2,
    num_workers=4,
    cache_rate=0.5,
    mixed_precision="bf16",
    threads=8,
    iterations_per_epoch=24,
    divisor=(4, 4, 1),
    predicted_memory_gb=3.0,
    memory_budget_gb=6.0,
    choices={"batch_size": Choice(value=2, reason="tier", override="training.batch_size=2")},
)
ASKED = {
    "learning_rate",
    "batch_size",
    "max_epochs",
    "optimizer",
    "scheduler",
    "seed",
    "weight_decay",
    "warmup_epochs",
    "gradient_clip_val",
    "gradient_checkpointing",
    "early_stopping_patience",
    "patch_size",
    "cache_rate",
    "num_workers",
    "mixed_precision",
    "device",
    "compute_profile",
    "sliding_window_overlap",
}


def test_every_training_setting_is_a_param_except_the_grids_own() -> None:
    found = params.training_params(ExperimentConfig(), PLAN, seed=7)
    of_the_grid = {"models", "losses", "seeds", "parallel_cells", "time_limit_s"}
    assert (set(TrainingConfig.model_fields) - of_the_grid) | ASKED <= set(found)
    assert not of_the_grid & set(found)


def test_training_params_are_the_resolved_values_and_never_auto() -> None:
    found = params.training_params(ExperimentConfig(), PLAN, seed=7)
    assert found["seed"] == 7
    assert found["patch_size"] == (96, 96, 4)
    assert found["compute_profile"] == "gpu_low"
    assert "auto" not in found.values()


def test_every_field_of_the_model_config_has_an_arch_param() -> None:
    found = params.arch_params(NETWORK)
    assert {f"arch_{name}" for name in ModelConfig.model_fields} <= set(found)
    assert (found["model_family"], found["model_name"]) == ("DynUNet", "dynunet")
    assert param_text(found["arch_filters"]) == "[4, 8, 8]"


def test_a_loss_is_its_name_its_formula_and_its_weights() -> None:
    found = params.loss_params(LOSS)
    assert found["loss_name"] == "cbdice_cldice"
    assert found["loss_config"] == "0.5*cbdice + 0.5*dice_ce_cldice"
    assert json.loads(param_text(found["loss_weights"])) == {"cbdice": 0.5, "dice_ce_cldice": 0.5}


def test_every_evaluation_setting_is_a_param() -> None:
    found = params.evaluation_params(EvaluationConfig())
    assert set(found) == {f"eval_{name}" for name in EvaluationConfig.model_fields}
    assert found["eval_bootstrap_n"] == 1000


def test_a_child_says_which_volumes_train_and_validate() -> None:
    found = params.data_params(profile_of(), SPLIT, SPLIT.folds[1])
    assert found["data_n_train_volumes"] == 2
    assert param_text(found["data_val_volume_ids"]) == '["b"]'
    assert found["data_test_volume_ids"] == ("d",)
    assert found["data_split_hash"]
    assert found["data_test_set_hash"]


def test_hashes_of_split_and_test_set_change_with_the_bytes_of_their_volumes() -> None:
    def hashes(changed: str) -> tuple[str, str]:
        profile = profile_of()
        volumes = (
            v.replace(content_hash="new") if v.case == changed else v for v in profile.volumes
        )
        found = params.data_params(profile.replace(volumes=tuple(volumes)), SPLIT, SPLIT.folds[1])
        return found["data_split_hash"], found["data_test_set_hash"]

    before, trained, tested = hashes(""), hashes("b"), hashes("d")
    assert len({before[0], trained[0], tested[0]}) == 3
    assert before[1] == trained[1] != tested[1]


def test_a_parent_says_it_for_each_fold() -> None:
    found = params.data_params(profile_of(), SPLIT)
    assert found["data_n_val_volumes"] == [1, 1]
    assert json.loads(param_text(found["data_val_volume_ids"])) == {"0": ["a"], "1": ["b"]}


def test_a_dataset_is_described_in_the_words_of_the_contract() -> None:
    found = params.data_params(profile_of())
    assert found["data_shape_range"] == "(512,512,5)-(512,512,110)"
    assert found["data_spacing_range"] == "(0.5,0.5,1)-(4.97,4.97,2)"
    assert found[names.DATASET_HASH] == profile_of().dataset_hash
    assert "data_split_hash" not in found


def test_words_stay_words_and_lists_are_json() -> None:
    values: list[Any] = ["auto", 1e-3, True, None, (1, 2), {"a": {1}}, []]
    written = [param_text(value) for value in values]
    assert written == ["auto", "0.001", "True", "None", "[1, 2]", '{"a": [1]}', "[]"]
