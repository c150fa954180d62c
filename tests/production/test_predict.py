"""`predict` says which model it uses, and asks where it cannot know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minivess import names, networks
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.contracts import Window
from minivess.formats import volume
from minivess.home import Home, open_home
from minivess.tracking.run import model
from minivess.tracking.run.params import data_params, preparation_params
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store import registry
from minivess.tracking.store.store import open_store
from tests.conftest import tube, write_nifti
from tests.tracking.conftest import NETWORK, QUIET, profile_of

WINDOW = Window(patch_size=(16, 16, 4), overlap=0.25, normalisation="zscore")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, stock: Callable[[Home], None]) -> dict[str, str]:
    """A home with the models of two experiments; `home`, and the training run of each."""
    torch.set_num_threads(1)
    home = open_home(tmp_path_factory.mktemp("two"))
    stock(home)
    store = open_store(home, TrackingConfig())
    runs = {"home": str(home.root)}
    for seed, name in enumerate(("demo", "vessels")):
        profile = profile_of().replace(dataset=name, dataset_path=f"/data/{name}")
        weights = home.root / f"{name}.pth"
        torch.save({"weights": networks.initial(NETWORK, seed).state_dict()}, weights)
        common: dict[str, Any] = {
            "key": name,
            "note": "n",
            "dataset": name,
            "config": QUIET,
            "ingredients": {},
        }
        with mlflow_run(store, experiment="p", name=name, kind=names.PROFILE, **common) as first:
            first.json(profile, names.PROFILE_ARTIFACT)
        with mlflow_run(store, experiment=name, name="family", kind=names.FAMILY, **common) as run:
            run.json(profile, names.PROFILE_ARTIFACT)
            run.params(data_params(profile) | {names.UPSTREAM_PROFILE: first.run_id})
            run.params(preparation_params(QUIET))
            run.metrics({"eval_dice": 0.75 + seed / 10}, step=0)
            model.log_model(run, network=NETWORK, window=WINDOW, checkpoint=weights)
        version = registry.register(store, name=name, run_id=run.run_id, note="n", tags={})
        registry.set_alias(store, name, names.CHAMPION_ALIAS, version)
        runs |= {name: run.run_id, f"{name}_profile": first.run_id}
    return runs


@pytest.fixture
def folder(tmp_path: Path, two: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where one volume lies in `in`; commands use the home with two models."""
    monkeypatch.setenv("MINIVESS_HOME", two["home"])
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    write_nifti(tmp_path / "in" / "v.nii.gz", tube((20, 17, 6), 1)[0])
    return tmp_path


@pytest.mark.slow
def test_a_model_that_was_exported_segments_elsewhere_as_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "m.zip"
    assert predict(folder, "--upstream", "demo@champion", "--measure") == 0
    assert (folder / "out" / "measures.csv").read_text().startswith("file,class,unit")
    other = folder / "other" / "measures.csv"
    other.parent.mkdir()
    other.write_text("mouse,weight\n")
    words = ["predict", str(folder / "in"), str(other.parent), "--measure"]
    assert main.main([*words, "--upstream", "demo@champion"]) == 2
    assert [*other.parent.iterdir()] == [other]  # refused before it segments
    assert main.main(["export", str(file), "--upstream", "demo@champion"]) == 0
    assert main.main(["export", str(file), "--upstream", "demo@champion"]) == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.setenv("MINIVESS_HOME", str(folder / "elsewhere"))
    words = ["predict", str(folder / "in"), str(folder / "there"), "--model", str(file)]
    assert main.main(words) == 0
    here, there = (volume.read_volume(folder / one / "v_mask.nii.gz") for one in ("out", "there"))
    assert np.array_equal(here.array, there.array)
    assert main.main([*words, "name=demo"]) == 2
    assert "decides by itself about name=demo" in capsys.readouterr().err


def predict(folder: Path, *words: str) -> int:
    """The verb on the folder's volume."""
    return main.main(["predict", str(folder / "in"), str(folder / "out"), *words])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["analyse", "predict"])
def test_an_id_of_another_experiment_than_the_one_named_is_refused(
    verb: str, folder: Path, two: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / "in"), str(folder / "out")] if verb == "predict" else []
    assert main.main([verb, *files, "--upstream", two["vessels"], "name=elsewhere"]) == 1
    assert ", but name says 'elsewhere'" in capsys.readouterr().err


def test_with_several_experiments_and_none_named_it_asks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder) == 2
    said = capsys.readouterr().err
    assert "models of 2 experiments, and none is named: name=demo, name=vessels" in said
    assert "name=demo" in said
    assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "word",
    ["name=vessels", "--upstream={vessels}", "--upstream=vessels@champion", "--upstream=vessels/1"],
)
def test_the_model_that_is_named_segments_and_is_said_with_its_data_and_its_dice(
    word: str, folder: Path, two: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, word.format(**two), "--json") == 0
    out, err = capsys.readouterr()
    assert "vessels version 1" in err
    assert "out-of-fold Dice 0.850" in err
    assert "/data/vessels" in err
    used = json.loads(out)["model"]
    assert (used["name"], used["version"], used["out_of_fold_dice"]) == ("vessels", "1", 0.85)
    assert (used["training_run_id"], used["dataset"]) == (two["vessels"], "vessels")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["name=vesels"],
            "'vesels' here; there are name=demo, name=vessels.\n  Try: name=vessels",
        ),
        (["--upstream={vessels_profile}"], "is of kind 'profile' and holds no model"),
        (["--upstream={vessels},{demo}"], "2 upstream ids were given"),
        (["--upstream=vessels@production"], "no registered model vessels@production"),
    ],
)
def test_what_names_no_model_is_refused(
    words: list[str], said: str, folder: Path, two: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert predict(folder, *(word.format(**two) for word in words)) > 0
    assert said in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.usefixtures("folder")
def test_only_models_in_production_or_champion_are_offered(
    tmp_path: Path, two: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(open_home(Path(two["home"])), TrackingConfig())
    store.client.delete_registered_model_alias("demo", names.CHAMPION_ALIAS)
    try:
        assert predict(tmp_path, "name=vesels") == 1
        assert "there are name=vessels." in capsys.readouterr().err
        assert predict(tmp_path, "--json") == 0
        assert "vessels version 1 (champion)" in capsys.readouterr().err
        assert predict(tmp_path, "name=demo") == 1
        assert "run `minivess analyse name=demo` first" in capsys.readouterr().err
    finally:
        store.client.set_registered_model_alias("demo", names.CHAMPION_ALIAS, "1")


def test_the_remedy_for_data_without_a_model_trains_on_those_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, f"data.root={folder / 'in'}") == 1
    assert f"run `minivess experiment data.root={folder / 'in'}` first" in capsys.readouterr().err


def test_a_refused_file_is_named_in_summary_and_json_and_exits_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nifti(folder / "in" / "flat.nii.gz", tube((20, 17, 6), 1)[0] * 0)
    assert predict(folder, "name=demo", "--json") == 1
    out, err = capsys.readouterr()
    assert "1 of 2 volumes could not be segmented: flat.nii.gz (constant)" in err
    found = json.loads(out)
    assert len(found["files"]) == 1
    assert found["refused"][0]["findings"][0]["code"] == "constant"
