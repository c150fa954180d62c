"""The grid and the keys of its cells."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from minivess import keys
from minivess.config import ExperimentConfig
from minivess.contracts import Fold, Loss, LossTerm, Network
from minivess.errors import UsageError
from minivess.training import grid

NETWORK = Network(
    name="dynunet",
    family="dynunet",
    builder="minivess.networks:dynunet",
    in_channels=1,
    out_channels=2,
    filters=(4, 8, 16),
    kernel_size=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 1), (2, 2, 1)),
    norm="instance",
    deep_supervision=False,
    dropout=0.0,
)
LOSS = Loss(name="dice_ce", terms=(LossTerm(loss="dice_ce"),))


def config(**parts) -> ExperimentConfig:
    return ExperimentConfig.model_validate(parts)


def ingredients(asked: ExperimentConfig | None = None, **changes):
    parts = {
        "profile_hash": "abc.dir",
        "label_map": {},
        "classes": (0, 1),
        "fold": Fold(index=0, train=("a", "b"), val=("c",)),
        "seed": 42,
        "network": NETWORK,
        "loss": LOSS,
    }
    return grid.cell_ingredients(asked or config(), **{**parts, **changes})


def key(*args, **changes) -> str:
    return keys.digest(ingredients(*args, **changes))


def test_the_grid_is_models_by_losses_by_seeds():
    asked = config(training={"losses": ["dice_ce", "cbdice"], "seeds": [1, 2]})
    found = [(model.name, loss, seed) for model, loss, seed in grid.families(asked)]
    assert found == [
        ("dynunet", "dice_ce", 1),
        ("dynunet", "dice_ce", 2),
        ("dynunet", "cbdice", 1),
        ("dynunet", "cbdice", 2),
    ]


def test_any_field_of_a_model_can_be_an_axis() -> None:
    axes = {"filters": [[4, 8, 16], [8, 16, 32]], "arguments": [{}, {"res_block": True}]}
    models = grid.models(config(training={"axes": axes}, model={"dropout": 0.1}))
    assert [model.name for model in models] == [
        "dynunet-filters-4-8-16-arguments",
        "dynunet-filters-4-8-16-arguments-res_block-True",
        "dynunet-filters-8-16-32-arguments",
        "dynunet-filters-8-16-32-arguments-res_block-True",
    ]
    assert [model.filters for model in models] == [(4, 8, 16)] * 2 + [(8, 16, 32)] * 2
    assert models[1].arguments == {"res_block": True}
    assert {model.dropout for model in models} == {0.1}


def test_an_axis_that_no_model_has_is_named() -> None:
    with pytest.raises(UsageError, match=r"filterz'.*\n.*filters"):
        grid.models(config(training={"axes": {"filterz": [[4]]}}))


def test_what_a_model_is_called_changes_no_key() -> None:
    assert key() == key(network=NETWORK.replace(name="dynunet-filters-4-8-16"))


def test_a_run_is_named_by_its_seed_only_among_several():
    assert grid.run_name("dynunet", "dice_ce", 42, (42,)) == "dynunet_dice_ce"
    assert grid.run_name("dynunet", "dice_ce", 42, (42, 43)) == "dynunet_dice_ce_s42"


def test_every_ingredient_changes_the_key():
    others = {
        "profile_hash": "abd.dir",
        "label_map": {255: 1},
        "classes": (0, 2),
        "fold": Fold(index=0, train=("a",), val=("c",)),
        "seed": 43,
        "network": NETWORK.replace(filters=(8, 8, 16)),
        "loss": Loss(name="dice_ce", terms=(LossTerm(loss="dice_ce", weight=2),)),
    }
    found = {name: key(**{name: value}) for name, value in others.items()}
    assert len({key(), *found.values()}) == 1 + len(others)


def test_the_number_of_a_fold_and_the_order_of_its_ids_do_not_count():
    assert key() == key(fold=Fold(index=1, train=("b", "a"), val=("c",)))


def test_the_grids_own_lists_do_not_count_so_adding_a_loss_trains_only_its_cells():
    wider = {"losses": ["dice_ce", "cbdice"], "seeds": [42, 43], "folds": 5, "test_fraction": 0.2}
    assert key() == key(config(training=wider))


def test_fields_that_decide_results_count_and_others_do_not():
    counted: list[dict[str, Any]] = [
        {"training": {"max_epochs": 3}},
        {"training": {"patch_size": [16, 16, 8]}},
        {"data": {"normalisation": "minmax"}},
        {"evaluation": {"interval_epochs": 2}},
        {"compute": {"patch_strategy": "median_pad"}},
    ]
    assert len({key(), *(key(config(**parts)) for parts in counted)}) == 1 + len(counted)
    not_in_key = {
        "training": {"num_workers": 1, "cache_rate": 0.5, "figure_interval": 1, "retrain": "never"},
        "data": {"root": "/elsewhere"},
        "tracking": {"log_system_metrics": False},
        "name": "another",
    }
    assert key() == key(config(**not_in_key))


def test_a_researchers_own_module_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_loss", raising=False)  # of another test
    own = Loss(name="own", terms=(LossTerm(loss="own_loss:Own"),))
    (tmp_path / "own_loss.py").write_text("class Own: ...\n")
    before = key(loss=own)
    (tmp_path / "own_loss.py").write_text("class Own:\n    weight = 2\n")
    assert key(loss=own) != before


def test_a_difference_can_be_named():
    longer = ingredients(config(training={"max_epochs": 3}))
    assert keys.differences(ingredients(), longer) == ["training: max_epochs"]


def test_keys_are_made_without_importing_torch():
    code = (
        "import sys, minivess.training.grid, minivess.training.cell_folder; "
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
