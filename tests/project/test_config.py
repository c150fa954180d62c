"""Settings: words, files and variables become one configuration, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivess import config
from minivess.config import CONTRADICTIONS, Environment, ExperimentConfig, leaves, load, parse
from minivess.errors import UsageError

EMPTY = Environment()

# Every key that a user may type, with a value that is not its default. Words behind the first
# are what it needs beside it.
OTHER = {
    "name": ["name=another"],
    "flows": ["flows=[profile]"],
    "data.root": ["data.root=/data/vessels"],
    "data.name": ["data.name=vessels-2"],
    "data.image": ["data.image=*_img.nii.gz", "data.label={case}_seg.nii.gz"],
    "data.label": ["data.label={case}_seg.nii.gz", "data.image=*_img.nii.gz"],
    "data.group": [r"data.group=^(mouse\d+)_"],
    "data.label_map": ["data.label_map.255=1"],
    "data.ignore_label": ["data.ignore_label=255"],
    "data.spacing": ["data.spacing=[1,1,2]", "data.unit=micron"],
    "data.unit": ["data.unit=micron", "data.spacing=[1,1,2]"],
    "data.resampling.enabled": [
        "data.resampling.enabled=true",
        "data.resampling.method=spacing",
        "data.resampling.target_spacing=[1,1,2]",
    ],
    "data.resampling.method": [
        "data.resampling.method=mine:resample",
        "data.resampling.enabled=true",
    ],
    "data.resampling.target_spacing": [
        "data.resampling.target_spacing=[1,1,2]",
        "data.resampling.enabled=true",
        "data.resampling.method=spacing",
    ],
    "data.normalisation": ["data.normalisation=minmax"],
    "data.strict": ["data.strict=true"],
    "data.outlier_z": ["data.outlier_z=4"],
    "data.analyzer": ["data.analyzer=monai"],
    "data.remote": ["data.remote=s3://bucket/volumes"],
    "data.git_commit": ["data.git_commit=true"],
    "data.time_limit_s": ["data.time_limit_s=60"],
    "data.watch_interval_s": ["data.watch_interval_s=60"],
    "data.demo_volumes": ["data.demo_volumes=5"],
    "data.demo_seed": ["data.demo_seed=8"],
    "compute.profile": ["compute.profile=gpu_low"],
    "compute.ram_gb": ["compute.ram_gb=4"],
    "compute.vram_gb": ["compute.vram_gb=6.5"],
    "compute.patch_strategy": ["compute.patch_strategy=median_pad"],
    "model": ["model.filters=[8,16,32]"],
    "training.models": ["training.models=[dynunet,segresnet]"],
    "training.losses": ["training.losses=[cbdice]"],
    "training.folds": ["training.folds=5"],
    "training.seeds": ["training.seeds=[1,2]"],
    "training.axes": ["training.axes.filters=[[8,16,32],[16,32,64]]"],
    "training.stratify": ["training.stratify=foreground"],
    "training.splits": ["training.splits=/data/splits.json"],
    "training.test_fraction": ["training.test_fraction=0.2"],
    "training.max_epochs": ["training.max_epochs=7"],
    "training.extends": ["training.extends=2"],
    "training.init": ["training.init=vessels@champion"],
    "training.iterations_per_epoch": ["training.iterations_per_epoch=9"],
    "training.samples_per_volume": ["training.samples_per_volume=2"],
    "training.foreground_ratio": ["training.foreground_ratio=0.5"],
    "training.augment": ["training.augment=false"],
    "training.patch_size": ["training.patch_size=[32,32,4]"],
    "training.patch_schedule": ["training.patch_schedule=growing"],
    "training.batch_size": ["training.batch_size=3"],
    "training.accumulation_steps": ["training.accumulation_steps=2"],
    "training.learning_rate": ["training.learning_rate=0.01"],
    "training.optimizer": ["training.optimizer=sgd"],
    "training.weight_decay": ["training.weight_decay=0"],
    "training.scheduler": ["training.scheduler=poly"],
    "training.warmup_epochs": ["training.warmup_epochs=3"],
    "training.gradient_clip_val": ["training.gradient_clip_val=0"],
    "training.gradient_checkpointing": ["training.gradient_checkpointing=true"],
    "training.ema_decay": ["training.ema_decay=0.99"],
    "training.average_from": ["training.average_from=5"],
    "training.early_stopping_patience": ["training.early_stopping_patience=4"],
    "training.mixed_precision": ["training.mixed_precision=bf16"],
    "training.sliding_window_overlap": ["training.sliding_window_overlap=0.5"],
    "training.prediction_window": ["training.prediction_window=[64,64,8]"],
    "training.validation_interval": ["training.validation_interval=3"],
    "training.validation_share": ["training.validation_share=0.5"],
    "hours": ["hours=2"],
    "training.mirroring": ["training.mirroring=plane"],
    "training.cache_rate": ["training.cache_rate=0.5"],
    "training.num_workers": ["training.num_workers=1"],
    "training.threads": ["training.threads=1"],
    "training.device": ["training.device=cpu"],
    "training.figure_interval": ["training.figure_interval=3"],
    "training.parallel_cells": ["training.parallel_cells=2"],
    "training.time_limit_s": ["training.time_limit_s=7200"],
    "training.processes_per_cell": ["training.processes_per_cell=2"],
    "training.deployment": ["training.deployment=train-cell/local"],
    "training.slots": ["training.slots=gpus", "training.deployment=train-cell/local"],
    "search.space": ["search.space={training.learning_rate: {low: 0.001, high: 0.1}}"],
    "search.trials": ["search.trials=7"],
    "search.hours": ["search.hours=2.5"],
    "search.metric": ["search.metric=dice"],
    "search.sampler": ["search.sampler=random"],
    "search.sampler_seed": ["search.sampler_seed=1"],
    "search.pruner": ["search.pruner=none"],
    "search.startup_trials": ["search.startup_trials=2"],
    "training.judged_epoch": ["training.judged_epoch=best"],
    "training.refit": ["training.refit=all"],
    "training.retrain": ["training.retrain=always"],
    "evaluation.interval_epochs": ["evaluation.interval_epochs=2"],
    "evaluation.masd_cap": ["evaluation.masd_cap=20"],
    "evaluation.nsd_tolerance": ["evaluation.nsd_tolerance=2"],
    "evaluation.fault_length": ["evaluation.fault_length=3"],
    "evaluation.bootstrap_n": ["evaluation.bootstrap_n=200"],
    "evaluation.ci_method": ["evaluation.ci_method=percentile"],
    "evaluation.ci_level": ["evaluation.ci_level=0.9"],
    "analysis.ensembles": ["analysis.ensembles=[]"],
    "analysis.eligible": ["analysis.eligible=[families,ensembles]"],
    "analysis.alpha": ["analysis.alpha=0.3"],
    "analysis.uncertainty_maps": ["analysis.uncertainty_maps=true"],
    "analysis.kept_gb": ["analysis.kept_gb=1"],
    "analysis.metric": ["analysis.metric=dice"],
    "analysis.ties": ["analysis.ties=mean"],
    "analysis.figures": ["analysis.figures=2"],
    "deployment.parity_volumes": ["deployment.parity_volumes=4"],
    "deployment.max_logit_difference": ["deployment.max_logit_difference=0.1"],
    "deployment.min_mask_agreement": ["deployment.min_mask_agreement=0.99"],
    "deployment.engine": ["deployment.engine=onnxruntime"],
    "deployment.out_of_range": ["deployment.out_of_range=refuse"],
    "deployment.request_limit_s": ["deployment.request_limit_s=60"],
    "deployment.start_timeout_s": ["deployment.start_timeout_s=60"],
    "tracking.uri": ["tracking.uri=http://127.0.0.1:5000"],
    "tracking.artifact_root": ["tracking.artifact_root=/data/artifacts"],
    "tracking.log_system_metrics": ["tracking.log_system_metrics=false"],
    "tracking.system_metrics_interval_s": ["tracking.system_metrics_interval_s=1"],
}
ONE_CHOICE = {"deployment.target"}

CLASHES: dict[tuple[str, ...], list[str]] = {
    ("data.spacing", "data.unit"): ["data.spacing=[1,1,2]"],
    ("data.ignore_label", "data.label_map"): ["data.ignore_label=255", "data.label_map.255=1"],
    ("data.image", "data.root"): ["data.root=null", "data.image=*", "data.label=*"],
    ("training.patch_size", "compute.patch_strategy"): [
        "training.patch_size=[32,32,4]",
        "compute.patch_strategy=median_pad",
    ],
    ("compute.patch_strategy", "training.patch_size"): ["compute.patch_strategy=fixed"],
    ("data.image", "data.label"): ["data.image=*_img.nii.gz"],
    ("data.resampling.enabled", "data.resampling.method"): ["data.resampling.enabled=true"],
    ("data.resampling.method", "data.resampling.target_spacing"): [
        "data.resampling.enabled=true",
        "data.resampling.method=spacing",
    ],
    ("data.resampling.target_spacing", "data.resampling.enabled"): [
        "data.resampling.target_spacing=[1,1,2]"
    ],
    ("training.deployment", "training.parallel_cells"): [
        "training.deployment=train-cell/local",
        "training.parallel_cells=2",
    ],
    ("training.slots", "training.deployment"): ["training.slots=gpus"],
    ("training.splits", "training.folds"): ["training.splits=a.json", "training.folds=2"],
    ("training.splits", "training.stratify"): [
        "training.splits=a.json",
        "training.stratify=foreground",
    ],
    ("model", "training.axes"): ["model.filters=[8,16]", "training.axes.filters=[[8,16],[4,8]]"],
    ("training.splits", "training.test_fraction"): [
        "training.splits=a.json",
        "training.test_fraction=0.2",
    ],
    ("training.extends", "training.max_epochs"): ["training.extends=5", "training.max_epochs=5"],
    ("training.warmup_epochs", "training.max_epochs"): [
        "training.warmup_epochs=5",
        "training.max_epochs=5",
    ],
    ("training.average_from", "training.max_epochs"): [
        "training.average_from=5",
        "training.max_epochs=5",
    ],
    ("training.validation_share", "training.judged_epoch"): [
        "training.validation_share=0.5",
        "training.judged_epoch=best",
    ],
    ("compute.profile", "training.device"): ["compute.profile=cpu", "training.device=cuda"],
    ("training.device", "training.mixed_precision"): [
        "training.device=cpu",
        "training.mixed_precision=fp16",
    ],
}

OWN_DATA = "data.root=/data/vessels"


def rooted(*words: str) -> list[str]:
    """These words, with data of the user's own unless they say which."""
    own = not any(word.startswith("data.root=") for word in words)
    return [OWN_DATA, *words] if own else list(words)


def value(settings: ExperimentConfig, key: str) -> Any:
    """The value behind a dotted key."""
    found: Any = settings
    for name in key.split("."):
        found = getattr(found, name)
    return found


def yaml_file(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    """A YAML file with these settings."""
    (folder / name).write_text(text)
    return folder / name


# --- words --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["*_img.nii.gz", "{case}_label", "on", "0123", "1e3", "a: b", "~"])
def test_a_word_for_a_text_field_is_taken_verbatim(text: str):
    assert parse(f"name={text}") == ("name", text)


def _says(text: str) -> bool:
    return text != "null" and bool(text.strip())


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(_says))
def test_any_text_survives_as_a_word(text: str):
    assert parse(f"data.image={text}") == ("data.image", text)


def test_null_takes_a_text_field_back():
    assert load([], [OWN_DATA, "name=null"], EMPTY).name is None


def test_one_label_value_is_mapped_by_its_key():
    settings = load([], [OWN_DATA, "data.label_map.255=1", "data.label_map.128=2"], EMPTY)
    assert settings.data.label_map == {255: 1, 128: 2}


def test_a_mapping_given_whole_replaces_the_one_before(tmp_path: Path):
    file = yaml_file(tmp_path, "data:\n  label_map: {255: 1, 128: 2}\n")
    settings = load([file], [OWN_DATA, "data.label_map={7: 3}"], EMPTY)
    assert settings.data.label_map == {7: 3}


def test_a_relative_root_means_the_folder_of_the_caller(tmp_path: Path):
    settings = load([], ["data.root=volumes"], EMPTY, folder=tmp_path)
    assert settings.data.root == tmp_path / "volumes"


def test_a_word_without_equals_is_refused():
    with pytest.raises(UsageError, match="key=value"):
        load([], ["experiment"], EMPTY)


@pytest.mark.parametrize("key", ["data.root", "data.group", "name", "training.max_epochs"])
def test_a_word_without_a_value_is_refused(key: str):
    with pytest.raises(UsageError, match=rf"'{key}=' gives no value"):
        load([], [f"{key}="], EMPTY)


@pytest.mark.parametrize("key", ["data.root", "data.name", "name", "tracking.uri", "model.norm"])
@pytest.mark.parametrize("text", ["", " "])
def test_empty_text_is_refused_from_a_file_and_from_python(key: str, text: str, tmp_path: Path):
    part, _, leaf = key.rpartition(".")
    tree = {part: {leaf: text}} if part else {leaf: text}
    file = yaml_file(tmp_path, json.dumps(tree))
    said = rf"{key}='{text}' is refused: empty text gives no value"
    with pytest.raises(UsageError, match=rf"mine\.yaml: {said}"):
        load([file], [], EMPTY)
    with pytest.raises(UsageError, match=said):
        config.validated(ExperimentConfig, tree)


def test_a_number_is_the_one_that_is_written():
    assert load([], ["training.max_epochs=010"], EMPTY).training.max_epochs == 10
    assert load([], ["training.learning_rate=1e-4"], EMPTY).training.learning_rate == 1e-4
    with pytest.raises(UsageError, match="'1:30' is refused"):
        load([], ["training.max_epochs=1:30"], EMPTY)
    with pytest.raises(UsageError, match=r"data\.label_map\.1:2=None is refused"):
        load([], ["data.label_map={1:2}"], EMPTY)


def test_a_folder_named_like_a_file_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load([tmp_path], [], EMPTY)


# --- every setting ------------------------------------------------------------------------


def test_the_table_of_this_file_knows_every_setting():
    assert set(OTHER) | ONE_CHOICE == set(leaves())


@pytest.mark.parametrize("key", OTHER)
def test_a_setting_takes_the_value_it_is_given(key: str):
    default = load([], [] if key == "data.root" else [OWN_DATA], EMPTY)
    assert value(load([], rooted(*OTHER[key]), EMPTY), key) != value(default, key)


@pytest.mark.parametrize("key", OTHER)
def test_a_setting_refuses_a_part_below_it(key: str):
    if key not in {"model", "data.label_map", "training.axes", "search.space"}:
        with pytest.raises(UsageError, match="no setting"):
            load([], [f"{key}.inside=1"], EMPTY)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("training.max_epoch", "training.max_epochs"),
        ("training.lerning_rate", "training.learning_rate"),
        ("data.lable_map.255", "data.label_map"),
        ("tracking.sytem_metrics", "tracking.log_system_metrics"),
    ],
)
def test_an_unknown_key_is_refused_naming_the_nearest(typed: str, meant: str, tmp_path: Path):
    part, _, name = typed.partition(".")
    file = yaml_file(tmp_path, f"{part}:\n  {name.split('.')[0]}: 1\n")
    for files, words in (([], [f"{typed}=1"]), ([file], [])):
        with pytest.raises(UsageError, match=f"did you mean {meant}"):
            load(files, words, EMPTY)


def test_a_refused_value_is_named_with_its_key():
    with pytest.raises(UsageError, match=r"training\.max_epochs='many'"):
        load([], ["training.max_epochs=many"], EMPTY)


@pytest.mark.parametrize(("word", "said"), [
    ("training.patch_size=[1,2]", "[x,y,z], each of it a whole number above 0, or auto"),
    ("training.batch_size=0", "a whole number above 0, or auto"),
    ("training.cache_rate=5", "at most 1"),
    ("training.learning_rate=.inf", "a number above 0"),
    ("training.folds=true", "no numbers"),
    ("training.optimizer=sdg", "one of adamw, adam, sgd"),
    ("training.seeds=1", "Try: 'training.seeds=[1]'"),
    ("training.seeds=[42,42]", "42 stands there twice"),
    ("training.losses=dice_ce,dice_ce", "'dice_ce' stands there twice"),
    ("training.axes={filters: [[4], [8], [4]]}", "[4] stands there twice"),
    ("flows=[train,train]", "'train' stands there twice"),
    ("training.losses=dice_ce,", "gives no value"),
    ("model.filters=4", "Try: 'model.filters=[4]'"),
    ("model.filtres=[4]", "did you mean model.filters?"),
    ("training.axes.filters=[4,8]", "Try: 'training.axes.filters=[[4]]'"),
    ("training.axes.filtres=[[4]]", "did you mean training.axes.filters?"),
    ("data.label_map.a=1", "its name must be a whole number"),
    ("search.space={training.ema_decay: {lo: 1}}", "ema_decay.low?"),
])  # fmt: skip
def test_a_refused_value_is_told_what_its_key_takes(word: str, said: str):
    with pytest.raises(UsageError) as refusal:
        load([], [OWN_DATA, word], EMPTY)
    assert said in str(refusal.value)
    assert "tuple[" not in str(refusal.value)
    assert word.partition("=")[0] in str(refusal.value)


def test_a_refused_value_of_a_file_names_the_file(tmp_path: Path, monkeypatch: Any):
    with pytest.raises(UsageError, match=r"mine\.yaml: training\.max_epochs='many'"):
        load([yaml_file(tmp_path, "training: {max_epochs: many}")], [OWN_DATA], EMPTY)
    with pytest.raises(
        UsageError, match=r"mine\.yaml: model\.filters=4 .*\s.*'model\.filters=\[4\]'"
    ):
        load([yaml_file(tmp_path, "model: {filters: 4}")], [OWN_DATA], EMPTY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/tiers").mkdir(parents=True)
    yaml_file(tmp_path / "configs/tiers", "batch_size: 0\npatch_size: [8,8,8]\nnum_workers: 0")
    with pytest.raises(UsageError, match=r"tiers/mine\.yaml: batch_size=0"):
        config.tier("mine")
    with pytest.raises(UsageError, match=r"dynunet, as set here: model.filters='big'"):
        config.model("dynunet", {"filters": "big"})


def test_one_name_is_a_list_of_one(tmp_path: Path):
    file = yaml_file(tmp_path, "training: {models: unet}\nflows: profile")
    settings = load([file], [OWN_DATA, "training.losses=dice_ce,cbdice"], EMPTY)
    assert (settings.training.models, settings.flows) == (("unet",), ("profile",))
    assert settings.training.losses == ("dice_ce", "cbdice")


def test_a_name_that_is_near_nothing_gets_no_guess():
    for word in ("xyzzy=3", "training.xyzzy=3"):
        with pytest.raises(UsageError) as refusal:
            load([], [word], EMPTY)
        assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize("words", [
    ["training.folds=2", "training.folds=3"],
    ["data.label_map.255=1", "data.label_map={7: 1}"],
])  # fmt: skip
def test_two_words_for_one_key_are_refused(words: list[str]):
    with pytest.raises(UsageError, match="contradict each other"):
        load([], [OWN_DATA, *words], EMPTY)


def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path: Path):
    file = yaml_file(tmp_path, "training: {folds: 2}\ntraining: {max_epochs: 3}\n")
    with pytest.raises(UsageError, match=r"mine\.yaml .*'training' stands there twice"):
        load([file], [], EMPTY)


def test_what_a_shipped_file_says_gives_way_to_what_the_user_stated(tmp_path: Path):
    lite = next(file for file in config.known_experiments() if file.name == "lite.yaml")
    training = load([lite], [OWN_DATA, "training.splits=a.json"], EMPTY).training
    assert (training.folds, training.learning_rate) == (3, 0.005)
    assert "folds" not in training.model_fields_set
    assert load([lite], [OWN_DATA, "training.max_epochs=1"], EMPTY).training.warmup_epochs == 0
    mine = yaml_file(tmp_path, "training: {folds: 2}", "lite.yaml")
    with pytest.raises(UsageError, match=r"training\.folds"):
        load([mine], [OWN_DATA, "training.splits=a.json"], EMPTY)


def test_every_shipped_experiment_is_known_as_one():
    clone = Path(__file__).resolve().parents[2] / "configs" / "experiments"
    assert {file.stem for file in clone.glob("*.yaml")} == set(config.files.SHIPPED)


def test_every_contradiction_has_an_example_here():
    assert {clash.keys for clash in CONTRADICTIONS} == set(CLASHES)


@pytest.mark.parametrize("clash", CONTRADICTIONS, ids=lambda clash: " and ".join(clash.keys))
def test_a_contradiction_is_refused_naming_both_settings(clash: config.Clash):
    with pytest.raises(UsageError) as refusal:
        load([], rooted(*CLASHES[clash.keys]), EMPTY)
    assert all(key in str(refusal.value) for key in clash.keys)


# --- where values come from ---------------------------------------------------------------


def test_words_win_over_variables_over_files_over_defaults(tmp_path: Path):
    file = yaml_file(tmp_path, "tracking: {uri: from-file}\nname: from-file\n")
    variables = Environment(mlflow_tracking_uri="from-variable")
    assert load([], [OWN_DATA], EMPTY).tracking.uri is None
    assert load([file], [OWN_DATA], EMPTY).tracking.uri == "from-file"
    assert load([file], [OWN_DATA], variables).tracking.uri == "from-variable"
    words = [OWN_DATA, "tracking.uri=from-word"]
    assert load([file], words, variables).tracking.uri == "from-word"


def test_the_later_file_wins(tmp_path: Path):
    first = yaml_file(tmp_path, "training: {folds: 2, max_epochs: 3}\n", "a.yaml")
    second = yaml_file(tmp_path, "training: {folds: 4}\n", "b.yaml")
    training = load([first, second], [OWN_DATA], EMPTY).training
    assert (training.folds, training.max_epochs) == (4, 3)


def test_without_a_root_the_demo_file_lies_under_all_words():
    demo = load([], ["training.max_epochs=3"], EMPTY).training
    own = load([], [OWN_DATA], EMPTY).training
    assert (demo.folds, demo.max_epochs, len(demo.losses)) == (2, 3, 2)
    assert (own.folds, own.max_epochs, len(own.losses)) == (3, 100, 4)


def test_only_what_was_given_counts_as_set():
    settings = load([], [OWN_DATA, "training.folds=3"], EMPTY)
    assert settings.training.model_fields_set == {"folds"}


def test_an_empty_variable_is_an_absent_one():
    assert config.environment({"MLFLOW_TRACKING_URI": ""}).mlflow_tracking_uri is None


@pytest.mark.parametrize("text", ["[1, 2]", "training: [", "just words"])
def test_a_file_without_settings_is_refused_by_name(text: str, tmp_path: Path):
    with pytest.raises(UsageError, match=r"mine\.yaml"):
        load([yaml_file(tmp_path, text)], [], EMPTY)


def test_an_absent_file_is_refused_naming_those_that_exist(tmp_path: Path):
    with pytest.raises(UsageError, match=r"configs/experiments/lite\.yaml"):
        load([tmp_path / "none.yaml"], [], EMPTY)


def test_the_files_that_exist_are_named_as_one_may_type_them_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "configs" / "experiments" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.touch()
    found = config.known_experiments()
    assert Path("configs/experiments/mine.yaml") in found
    assert "lite.yaml" in {file.name for file in found}
    assert all(file.is_file() for file in found)


def test_an_unknown_loss_is_refused_naming_the_nearest():
    with pytest.raises(UsageError, match="did you mean dice_ce"):
        config.loss("dice_cee")


# --- what counts --------------------------------------------------------------------------


def test_settings_that_change_no_result_stay_out_of_content_keys():
    plain = load([], [OWN_DATA], EMPTY)
    words = ["training.num_workers=1", "training.cache_rate=0.1", "tracking.uri=x", "name=y"]
    assert load([], [OWN_DATA, *words], EMPTY).key_fields() == plain.key_fields()
    assert load([], [OWN_DATA, "training.augment=false"], EMPTY).key_fields() != plain.key_fields()


def test_a_configuration_cannot_be_changed():
    settings = load([], [OWN_DATA], EMPTY)
    with pytest.raises(ValueError, match="frozen"):
        settings.training.folds = 5


@pytest.mark.parametrize("key", OTHER)
def test_words_of_a_configuration_make_it_again(key: str) -> None:
    asked = load(overrides=rooted(*OTHER[key]), env=EMPTY)
    again = load(overrides=config.overrides(asked), env=EMPTY)
    assert again.model_copy(update={"tracking": asked.tracking}) == asked
    assert not any(word.startswith("tracking") for word in config.overrides(asked))


def test_a_root_in_storage_stays_an_address_and_names_the_dataset():
    found = load(overrides=["data.root=s3://bucket/some/vessels"], env=EMPTY)
    assert found.data.root == "s3://bucket/some/vessels"
    assert found.dataset == found.experiment == "vessels"
    assert load(overrides=config.overrides(found), env=EMPTY) == found


def test_settings_are_changed_by_their_keys_and_the_others_stay():
    settings = load([], [OWN_DATA, "training.max_epochs=7"], EMPTY)
    other = config.changed(settings, {"training.learning_rate": 0.5, "model.filters": [4, 8]})
    assert (other.training.learning_rate, other.training.max_epochs) == (0.5, 7)
    assert other.model == {"filters": [4, 8]}
    assert "folds" not in other.training.model_fields_set
    with pytest.raises(UsageError, match="learning_rate"):
        config.changed(settings, {"training.learning_rate": -1})


@pytest.mark.parametrize(
    "space", [{}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": 1}]
)
def test_a_dimension_that_says_nothing_is_refused(space: dict):
    with pytest.raises(ValueError, match="low"):
        config.Dimension(**space)


def test_what_only_a_shipped_file_sets_gives_way_to_an_axis_beside_a_field_that_is_stated():
    axes = "training.axes.filters=[[8,16,32],[16,32,64]]"
    settings = config.load([], [axes, "model.dropout=0.1"], config.Environment())
    assert settings.model == {"dropout": 0.1}
    with pytest.raises(UsageError, match=r"training\.axes"):
        config.load([], [axes, "model.filters=[4,8,16]"], config.Environment())


def test_each_setting_is_described():
    described = {key: config.field_of(key).description for key in leaves()}
    assert [key for key, text in described.items() if not text] == []
