"""An experiment on own data, followed word for word; what is deleted or damaged is noticed."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.home import Home, open_home
from minivess.tracking.store import registry
from minivess.tracking.store.artifacts import local_folder
from minivess.tracking.store.store import Store, open_store
from tests.conftest import tube, write_nifti

pytestmark = pytest.mark.slow
MODEL = "my vessels-smoke"


@dataclass
class Own:
    """A finished experiment on a folder of one's own, beside a model of the demo."""

    home: Home
    root: Path
    words: tuple[str, ...]
    printed: str = ""
    ids: dict[str, Any] = None

    @property
    def store(self) -> Store:
        return open_store(self.home, TrackingConfig())

    def type(self, *words: str, expected: int = 0) -> tuple[str, dict[str, Any]]:
        """A command; what it said and its JSON."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main.main([*words, "--json"])
        assert code == expected, err.getvalue()
        return err.getvalue(), json.loads(out.getvalue().splitlines()[-1]) if out.getvalue() else {}

    def version(self, alias: str) -> str:
        return registry.by_alias(self.store, MODEL, alias).run_id


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, stock: Callable[[Home], None]) -> Iterator[Own]:
    """Two families of one epoch, trained once for all tests of this file."""
    folder = tmp_path_factory.mktemp("followed")
    root, home = folder / "my vessels", open_home(folder / "a home")
    stock(home)
    for index in range(4):
        image, mask = tube((24, 24 + 2 * index, 5 + index), seed=index)
        write_nifti(root / "images" / f"v{index}.nii.gz", image)
        write_nifti(root / "labels" / f"v{index}.nii.gz", mask * 255)
    words = (
        "configs/experiments/smoke.yaml", f"data.root={root}", "data.label_map={255: 1}",
        "training.max_epochs=1", "training.losses=[dice_ce,dice_ce_cldice]",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_DISABLED", "1")
        patch.setenv("MINIVESS_HOME", str(home.root))
        made = Own(home, root, words)
        made.printed, made.ids = made.type("experiment", *words)
        store, run_id = made.store, made.ids["training_run_ids"][0]
        version = registry.register(store, name="demo", run_id=run_id, note="n", tags={})
        registry.set_alias(store, "demo", names.PRODUCTION_ALIAS, version)
        yield made


@pytest.fixture(autouse=True)
def _here(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    monkeypatch.setenv("MINIVESS_HOME", str(own.home.root))


def printed(text: str, beginning: str) -> list[str]:
    """The words of a command as printed."""
    found = re.search(rf"{beginning}\s+minivess (.*)", text)
    assert found is not None, text
    return shlex.split(found[1])


def test_the_prediction_printed_uses_the_model_of_these_data(own: Own, tmp_path: Path) -> None:
    command = printed(own.printed, "predict")
    places = {"IMAGE_OR_FOLDER": str(own.root / "images"), "OUTPUT_FOLDER": str(tmp_path)}
    said, told = own.type(*[places.get(word, word) for word in command])
    assert len(told["files"]) == 4
    assert f"{MODEL} version" in said
    assert f"{MODEL} version" in own.printed


def test_nothing_changed_is_all_reused(own: Own) -> None:
    said, told = own.type("experiment", *own.words)
    assert len(told["reused"]) == 5
    assert "moves" not in said


def test_what_was_changed_by_hand_is_put_right_and_said(own: Own) -> None:
    store, champion = own.store, own.ids["champion"]["run_id"]
    other = next(v for v in registry.versions(store, MODEL) if v.run_id != champion)
    for alias in (names.CHAMPION_ALIAS, names.PRODUCTION_ALIAS):
        registry.set_alias(store, MODEL, alias, other.version)
    said, _ = own.type("experiment", *own.words)
    assert own.version(names.CHAMPION_ALIAS) == own.version(names.PRODUCTION_ALIAS) == champion
    moved = rf"`production` of {MODEL} moves: version \d \(.*\d\.\d+\) -> version \d \(.*\d\.\d+\)"
    assert re.search(moved, said)


def test_what_is_deployed_is_what_the_analysis_names_wherever_aliases_point(own: Own) -> None:
    (other,) = set(own.ids["training_run_ids"]) - {own.ids["champion"]["run_id"]}
    where = ("name=my vessels-smoke",)
    said, partial = own.type("analyse", *where, "--upstream", other)
    assert "`champion` of my vessels-smoke moves" in said
    assert "chosen among 1 family" in said
    client = own.store.client
    client.delete_registered_model_alias(MODEL, names.CHAMPION_ALIAS)
    _, deployed = own.type("deploy", *where, "--upstream", partial["analysis_run_id"])
    assert own.version(names.PRODUCTION_ALIAS) == other
    record = own.store.get(deployed["deployment_run_id"])
    assert record.params[names.UPSTREAM_TRAINING] == other
    service = own.home.served / "bentoml" / "bentos" / deployed["bento_tag"].replace(":", "/")
    assert other in (service / "src" / "model_config.json").read_text()
    own.type("experiment", *own.words)
    assert own.version(names.PRODUCTION_ALIAS) == own.ids["champion"]["run_id"]


def test_a_damaged_checkpoint_and_a_model_that_is_gone_are_noticed(own: Own) -> None:
    store, parent = own.store, own.ids["training_run_ids"][0]
    child = store.search(parent=parent)[0]
    folder = local_folder(child.artifact_uri)
    assert folder is not None
    checkpoint = next((folder / "checkpoints").glob("last*"))
    checkpoint.write_bytes(bytes(checkpoint.stat().st_size))
    assert own.type("audit", child.run_id, expected=1)[1]["gaps"][0]["missing"] == [
        f"checkpoints/{checkpoint.name} holds other bytes than were written"
    ]
    said, _ = own.type("train", *own.words)
    assert "is not reused" in said
    assert "holds other bytes than were written" in said
    said, told = own.type("train", *own.words)
    assert len(told["reused"]) == 3
    own.ids["training_run_ids"] = told["training_run_ids"]


def test_a_renamed_experiment_is_found_again(own: Own) -> None:
    client = own.store.client
    place = client.get_experiment_by_name(MODEL)
    assert place is not None
    client.rename_experiment(place.experiment_id, "kept for the paper")
    _, told = own.type("train", *own.words)
    assert told["training_run_ids"] == own.ids["training_run_ids"]
    assert len(told["reused"]) == 3
    client.rename_experiment(place.experiment_id, MODEL)
