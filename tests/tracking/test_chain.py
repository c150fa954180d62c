"""A small real chain in MLflow: profile, two families, analysis, deployment, registered model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minivess import combination, inference, names, networks
from minivess.contracts import CellResult, CellSpec, FamilyRun, VolumeMetrics, Window
from minivess.errors import DataError, StoreError
from minivess.inference import Predictor
from minivess.tracking.run import ensemble, model
from minivess.tracking.run.params import data_params
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store import fold_models, registry
from minivess.tracking.store.export import export_rows
from minivess.tracking.store.store import Store
from minivess.upkeep import lineage
from tests.tracking.conftest import LOSS, NETWORK, QUIET, SPLIT, profile_of

pytestmark = pytest.mark.slow

WINDOW = Window(patch_size=(16, 16, 4), overlap=0.25, normalisation="zscore")


@dataclass(frozen=True)
class Chain:
    """Run ids from the data to the service."""

    profile: str
    family: str
    cells: tuple[str, ...]
    analysis: str
    deployment: str


@pytest.fixture(scope="module")
def chain(store: Store) -> Chain:
    """Every run of a whole experiment, written as the flows write them."""
    torch.set_num_threads(1)
    common = {
        "key": "k", "note": "n", "dataset": "tubes", "config": QUIET,
        "ingredients": {"training": {"max_epochs": 2}, "data": {"resampling": {}}},
    }  # fmt: skip
    data = data_params(profile_of())

    def begin(kind: str, name: str, **more: object):
        return mlflow_run(store, experiment="chain", name=name, kind=kind, **common, **more)  # type: ignore[arg-type]

    with begin(names.PROFILE, "tubes") as profile:
        profile.params(data)
    with begin(names.FAMILY, "dynunet_dice_ce") as family:
        family.params(data | {names.UPSTREAM_PROFILE: profile.run_id})
        cells = []
        for fold in SPLIT.folds:
            with begin(names.CELL, f"dynunet_dice_ce_fold{fold.index}", parent=family) as cell:
                cell.params(data | {names.UPSTREAM_PROFILE: profile.run_id})
                cell.metrics({"val_dice": 0.5}, step=0)
                cell.metrics({"val_dice": 0.6}, step=1)
                checkpoint = leave_behind(store, cell, fold.index)
            cells.append(cell)
        model.log_model(family, network=NETWORK, window=WINDOW, checkpoint=checkpoint)
        family.json(
            family_run(family.run_id, [cell.run_id for cell in cells]), names.TRAINING_ARTIFACT
        )
    with begin(names.ANALYSIS, "chain") as analysis:
        analysis.params(
            data
            | {
                names.UPSTREAM_TRAINING: family.run_id,
                names.UPSTREAM_EXPERIMENT: "chain",
                names.UPSTREAM_COUNT: 1,
            }
        )
    with begin(names.DEPLOYMENT, "chain") as deployment:
        deployment.params(data | {names.UPSTREAM_ANALYSIS: analysis.run_id})
    version = registry.register(
        store, name="chain", run_id=family.run_id, note="n", tags={"f": "x"}
    )
    registry.set_alias(store, "chain", names.CHAMPION_ALIAS, version)
    return Chain(
        profile.run_id,
        family.run_id,
        tuple(cell.run_id for cell in cells),
        analysis.run_id,
        deployment.run_id,
    )


def leave_behind(store: Store, cell, fold: int) -> Path:
    """What a finished fold stores, and its local folder."""
    key = f"{fold}" * 32
    folder = store.home.cells / key
    folder.mkdir(parents=True)
    checkpoint = folder / names.BEST_PRIMARY
    torch.save({"weights": networks.initial(NETWORK, fold).state_dict()}, checkpoint)
    cell.file(checkpoint, "checkpoints")
    spec = CellSpec(
        key=key, model="dynunet", loss=LOSS, seed=42, fold=SPLIT.folds[fold], network=NETWORK,
        window=WINDOW, label_map={}, classes=(0, 1),
    )  # fmt: skip
    volume = VolumeMetrics(case=SPLIT.folds[fold].val[0], values={"dice": 0.6, "hd95": None})
    result = CellResult(
        key=key, judged_epoch=1, epochs=2, stopped_early=False, training_time_seconds=1.0,
        time_shares={"steps": 1.0},
        trainable_parameters=10, best={"val_loss": 0.4}, untrained={"dice": 0.1}, volumes=(volume,),
        checkpoint=names.BEST_PRIMARY, files={names.BEST_PRIMARY: checkpoint.stat().st_size},
    )  # fmt: skip
    cell.json(spec, names.SPEC_ARTIFACT)
    cell.json(result, names.RESULT_ARTIFACT)
    cell.json([{"epoch": 0, "metrics": {"val_dice": 0.5}}], names.HISTORY_ARTIFACT)
    cell.table([{"case": volume.case, **volume.values}], names.PER_VOLUME_ARTIFACT)
    return checkpoint


def family_run(run_id: str, children: list[str]) -> FamilyRun:
    return FamilyRun(
        run_id=run_id, run_name="dynunet_dice_ce", experiment_name="chain", artifact_uri="",
        model="dynunet", loss="dice_ce", seed=42, key="k", cells=("0" * 32, "1" * 32),
        child_run_ids=tuple(children), metrics={},
    )  # fmt: skip


def test_members_come_with_spec_and_local_checkpoint(
    store: Store, chain: Chain, tmp_path: Path
) -> None:
    found = fold_models.fetch(store, [chain.family], tmp_path)
    assert [member.spec.fold.index for member in found] == [0, 1]
    assert found[0].checkpoint == store.home.cells / ("0" * 32) / names.BEST_PRIMARY
    assert found[1].untrained == {"dice": 0.1}
    assert found[1].history == ({"epoch": 0, "metrics": {"val_dice": 0.5}},)
    assert found[1].seconds == 1.0
    assert found[1].settings == {"training": {"max_epochs": 2}, "resampling": {}}
    assert not list(tmp_path.iterdir())


def test_members_of_another_machine_are_downloaded(
    store: Store, chain: Chain, tmp_path: Path
) -> None:
    original = store.home.cells / ("0" * 32)
    original.rename(tmp_path / "away")
    try:
        member = fold_models.fetch(store, [chain.family], tmp_path / "here")[0]
        assert member.checkpoint.parent == tmp_path / "here" / ("0" * 32)
        assert networks.load(NETWORK, member.checkpoint)
    finally:
        shutil.move(tmp_path / "away", original)


@pytest.mark.parametrize("how", ["mean", "vote", "soup", "fold_soup"])
def test_a_bare_client_gets_the_mask_of_an_ensemble_that_holds_no_weights(
    store: Store, chain: Chain, tmp_path: Path, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    found = fold_models.fetch(store, [chain.family], tmp_path)
    # The same two networks under two names, so that each fold has two voters.
    both = [*found, *(one.replace(family="again", run_id=chain.cells[0]) for one in found)]
    families = ("dynunet_dice_ce", "again")
    whole = ensemble.Members(how=how, families=families, members=ensemble.members(both, families))
    with mlflow_run(
        store, experiment="chain", name=how, kind=names.ENSEMBLE, key=how, note="n",
        dataset="tubes", config=QUIET, ingredients={},
    ) as run:  # fmt: skip
        model.log_ensemble(run, whole)
    version = registry.register(store, name="mixed", run_id=run.run_id, note="n", tags={})
    folder = store.download(run.run_id, names.MODEL_ARTIFACT, tmp_path / "held")
    assert not [path for path in folder.rglob("*") if path.suffix in (".pth", ".safetensors")]
    # mlflow.set_tracking_uri would leave the variable to the tests that follow.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    loaded = mlflow.pyfunc.load_model(f"models:/mixed/{version}")
    volume = np.random.default_rng(0).normal(size=(1, 16, 16, 5)).astype(np.float32)
    said = loaded.predict(volume[None], params={"fold": 1})[0]
    checkpoints = [found[1].checkpoint, found[0].checkpoint]
    np.testing.assert_array_equal(
        inference.mask(said), inference.mask(combined(how, checkpoints, volume))
    )
    assert loaded.predict(volume[None]).shape == (1, 2, 16, 16, 5)
    with pytest.raises(StoreError, match="of fold 7"):
        loaded.predict(volume[None], params={"fold": 7})


def combined(how: Any, checkpoints: list[Path], volume: Any) -> Any:
    """What two networks say together, as an analysis judges it."""
    if "soup" in how:
        network = combination.averaged(NETWORK.model_dump_json(), tuple(checkpoints), "cpu")
        return Predictor.of(NETWORK, WINDOW, network).probabilities(volume)
    said = [Predictor.of(NETWORK, WINDOW, path).probabilities(volume) for path in checkpoints]
    packed = [combination.unpack(combination.pack(one)) for one in said]
    return sum(combination.share(one, how, 2) for one in packed)


def test_a_model_is_registered_once_for_each_run(store: Store, chain: Chain) -> None:
    again = registry.register(store, name="chain", run_id=chain.family, note="n", tags={})
    found = registry.by_alias(store, "chain", names.CHAMPION_ALIAS)
    assert (found.version, found.run_id, found.tags) == (again, chain.family, {"f": "x"})
    assert len(registry.versions(store, "chain")) == 1


def test_a_run_without_a_model_is_not_registered(store: Store, chain: Chain) -> None:
    with pytest.raises(StoreError, match="holds no model"):
        registry.register(store, name="chain", run_id=chain.profile, note="n", tags={})


def test_a_model_whose_name_holds_a_quote_is_registered_once(store: Store, chain: Chain) -> None:
    asked: dict[str, Any] = {"name": "o'brien", "run_id": chain.family, "note": "n", "tags": {}}
    assert registry.register(store, **asked) == registry.register(store, **asked)
    store.client.delete_registered_model("o'brien")


def test_more_models_than_mlflow_lists_at_once_are_found(store: Store, chain: Chain) -> None:
    for number in range(101):
        store.client.create_registered_model(f"a{number}", tags={"project": names.PROJECT})
    assert "chain" in registry.models(store)
    for number in range(101):
        store.client.delete_registered_model(f"a{number}")


def test_of_a_run_our_own_model_comes_before_one_made_by_hand(store: Store, chain: Chain) -> None:
    source = f"runs:/{chain.family}/{names.MODEL_ARTIFACT}"
    store.client.create_registered_model("lab")
    store.client.create_model_version("lab", source, chain.family)
    assert registry.of_run(store, chain.family).name == "chain"
    store.client.delete_registered_model("lab")


@pytest.mark.parametrize(
    ("alias", "command"),
    [
        (names.PRODUCTION_ALIAS, "minivess deploy name=chain"),
        ("challenger", "minivess train` with its settings"),
    ],
)
def test_an_alias_that_nothing_has_is_named_with_the_verb_that_sets_it(
    store: Store, chain: Chain, alias: str, command: str
) -> None:
    with pytest.raises(StoreError, match=f"chain@{alias}") as refused:
        registry.by_alias(store, "chain", alias)
    assert command in refused.value.remedy


def test_the_registered_model_predicts_what_the_network_does_at_any_size(
    store: Store, chain: Chain
) -> None:
    loaded = model.load(store, "chain", names.CHAMPION_ALIAS)
    network, window, checkpoint = model.parts(
        store.home.served / "champions" / chain.family / "model"
    )
    image = np.random.default_rng(0).normal(300, 40, (1, 20, 18, 7)).astype(np.float32)
    assert checkpoint.name == "weights.safetensors"
    predictor = Predictor.of(network, window, checkpoint.with_name("checkpoint.pth"))
    expected = predictor.probabilities(image)
    found: Any = loaded.predict(image[None])
    assert found.shape == (1, 2, 20, 18, 7)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_the_model_refuses_other_channels_and_types_by_its_signature(
    store: Store, chain: Chain
) -> None:
    loaded = model.load(store, "chain", names.CHAMPION_ALIAS)
    signature = loaded.metadata.signature
    assert signature.inputs.inputs[0].name == "input"
    assert signature.inputs.inputs[0].shape == (-1, 1, -1, -1, -1)
    assert signature.outputs.inputs[0].shape == (-1, 2, -1, -1, -1)
    for volume in (np.zeros((1, 2, 8, 8, 8), np.float32), np.zeros((1, 1, 8, 8, 8), np.float64)):
        with pytest.raises(Exception, match="schema"):
            loaded.predict(volume)


@pytest.mark.parametrize("code", ["non_finite", "constant", "wrong_dimensions"])
def test_the_model_refuses_what_profile_would_quarantine(
    store: Store, chain: Chain, code: str
) -> None:
    loaded = model.load(store, "chain", names.CHAMPION_ALIAS)
    good = np.random.default_rng(0).normal(300, 40, (1, 1, 20, 18, 7)).astype(np.float32)
    bad = {
        "non_finite": good * np.float32("nan"), "constant": good * 0,
        "wrong_dimensions": good[..., :1],
    }  # fmt: skip
    with pytest.raises(DataError, match=rf"{code}: volume \d .*\n  Try: "):
        loaded.predict(np.concatenate([good[..., : bad[code].shape[-1]], bad[code]]))


def test_the_model_brings_its_code_and_pickles_none_of_it(store: Store, chain: Chain) -> None:
    held = {Path(path).name for path in store.artifacts(chain.family, "model")}
    assert {"MLmodel", "model_config.json", "checkpoint.pth", "networks.py"} <= held
    assert "weights.safetensors" in held
    assert not [name for name in held if name.endswith(".pkl")]


@pytest.mark.parametrize("ref", ["deployment", "analysis", "family", "cell", "profile"])
def test_every_run_walks_up_to_its_data(store: Store, chain: Chain, ref: str) -> None:
    order = {
        "deployment": chain.deployment, "analysis": chain.analysis,
        "cell": chain.cells[0], "family": chain.family, "profile": chain.profile,
    }  # fmt: skip
    found = [record.run_id for record in lineage.walk(store, order[ref])]
    kinds = [kind for kind in order if kind != "cell" or ref == "cell"]
    assert found == [order[kind] for kind in kinds[kinds.index(ref) :]]


@pytest.mark.parametrize("ref", ["chain", "chain@champion", "chain/1", "models:/chain@champion"])
def test_a_model_walks_up_to_its_data(store: Store, chain: Chain, ref: str) -> None:
    found = lineage.walk(store, ref)
    assert [record.run_id for record in found] == [chain.family, chain.profile]
    assert found[-1].params[names.DATASET_HASH] == profile_of().dataset_hash


def test_what_is_neither_run_nor_model_is_said(store: Store) -> None:
    with pytest.raises(StoreError, match="neither a run id nor a registered model"):
        lineage.walk(store, "nobody")


def test_a_model_that_lost_its_versions_is_no_stranger(store: Store) -> None:
    store.client.create_registered_model("bare", tags={"project": names.PROJECT})
    with pytest.raises(StoreError, match="has no version any more") as refused:
        lineage.walk(store, "bare")
    assert "minivess analyse name=bare" in refused.value.remedy
    store.client.delete_registered_model("bare")


def test_the_page_of_a_chain_names_every_run_and_the_data(store: Store, chain: Chain) -> None:
    found = lineage.walk(store, chain.deployment)
    page = lineage.page(found, {chain.family: "http://there/run"}, served="chain/1 <x>")
    assert all(record.run_id in page for record in found)
    assert profile_of().dataset_hash in page
    assert 'href="http://there/run"' in page
    assert "chain/1 &lt;x&gt;" in page
    assert "<x>" not in page


def test_the_picture_of_a_chain_leads_from_the_data_to_the_served_model(
    store: Store, chain: Chain
) -> None:
    found = lineage.walk(store, chain.deployment)
    links = {record.run_id: f"http://there/{record.run_id}" for record in found}
    drawn, _, pages = lineage.picture(found, links, served='chain/1 "x"').partition("```\n\n")
    assert drawn.startswith("```mermaid\ngraph TD\n")
    assert drawn.count("-->") == len(found) + 1
    order = [drawn.index(f": {record.name}") for record in found]
    assert order == sorted(order, reverse=True)
    assert profile_of().dataset_hash in drawn
    assert "chain/1 &quot;x&quot;" in drawn
    assert all(link in pages for link in links.values())


def test_a_broken_link_is_named(store: Store, chain: Chain) -> None:
    with mlflow_run(
        store, experiment="chain", name="lost", kind=names.DEPLOYMENT, key="k", note="n",
        dataset="tubes", config=QUIET, ingredients={},
    ) as run:  # fmt: skip
        pass
    with pytest.raises(StoreError, match=names.UPSTREAM_ANALYSIS):
        lineage.walk(store, run.run_id)


def test_a_chain_over_two_versions_of_the_data_is_refused(store: Store, chain: Chain) -> None:
    with mlflow_run(
        store, experiment="chain", name="mixed", kind=names.FAMILY, key="k", note="n",
        dataset="tubes", config=QUIET, ingredients={},
    ) as run:  # fmt: skip
        run.params({names.UPSTREAM_PROFILE: chain.profile} | {names.DATASET_HASH: "other"})
    with pytest.raises(StoreError, match="data_dataset_hash=other"):
        lineage.walk(store, run.run_id)


def test_rows_hold_runs_params_whole_histories_and_volumes(store: Store, chain: Chain) -> None:
    found = export_rows(store)
    cell = next(row for row in found["runs"] if row["run_id"] == chain.cells[1])
    assert (cell["kind"], cell["parent_run_id"]) == (names.CELL, chain.family)
    history = [
        (row["step"], row["value"])
        for row in found["metrics"].to_pylist()
        if row["run_id"] == chain.cells[1] and row["key"] == "val_dice"
    ]
    assert history == [(0, 0.5), (1, 0.6)]
    (volume,) = [row for row in found["volumes"] if row["run_id"] == chain.cells[1]]
    assert (volume["case"], volume["dice"], volume["hd95"]) == ("b", 0.6, None)


def test_rows_of_runs_known_already_come_without_their_metrics_and_volumes(
    store: Store, chain: Chain
) -> None:
    end = store.get(chain.cells[0]).end_time
    found = export_rows(store, {chain.cells[0]: int(end or 0), chain.cells[1]: 1})
    assert {chain.cells[0], chain.cells[1]} <= {row["run_id"] for row in found["runs"]}
    for told in (found["metrics"].to_pylist(), found["volumes"]):
        assert chain.cells[0] not in {row["run_id"] for row in told}
        assert chain.cells[1] in {row["run_id"] for row in told}
