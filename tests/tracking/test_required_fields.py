"""A run is compared with what its kind must hold: each absent name is reported, no other."""

from __future__ import annotations

import pytest

from minivess import names
from minivess.contracts import RunRecord
from minivess.tracking.run import required_fields
from minivess.tracking.run.required_fields import Contract

KINDS = sorted(required_fields.KINDS)
CHILD = {names.PARENT: "the parent's id"}


def asked(kind: str, tags: dict[str, str], params: dict[str, str]) -> Contract:
    """What a finished run of this kind must hold."""
    return required_fields.of(record(Contract(), {names.KIND: kind, **tags}, params))


def record(held: Contract, tags: dict[str, str], params: dict[str, str]) -> RunRecord:
    """A finished run that holds these names."""
    return RunRecord(
        run_id="r", name="n", experiment="e", status="FINISHED", start_time=1, end_time=2,
        artifact_uri="", params=dict.fromkeys(held.params, "v") | params,
        tags=dict.fromkeys(held.tags, "v") | tags, metrics=dict.fromkeys(held.metrics, 0.5),
    )  # fmt: skip


def files(held: Contract) -> set[str]:
    """Artifacts with these names; `*` stands for a text."""
    return {name.replace("*", "x") for name in held.artifacts}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_holds_all_of_its_contract_lacks_nothing(kind: str) -> None:
    contract = asked(kind, {}, {})
    run = record(contract, {names.KIND: kind}, {})
    assert required_fields.missing(run, files(contract)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_name_that_a_run_lacks_is_reported_and_no_other(kind: str) -> None:
    contract = asked(kind, {}, {})
    whole, artifacts = record(contract, {names.KIND: kind}, {}), files(contract)
    for sort, held in {"param": "params", "tag": "tags", "metric": "metrics"}.items():
        for name in set(getattr(contract, held)) - {names.KIND}:
            rest = {key: value for key, value in getattr(whole, held).items() if key != name}
            found = required_fields.missing(whole.replace(**{held: rest}), artifacts)
            assert set(found) == {f"{sort} {name}"}
    for name in set(contract.artifacts):
        found = required_fields.missing(whole, artifacts - {name.replace("*", "x")})
        assert f"artifact {name}" in found


def test_a_refit_is_asked_for_its_model_and_its_analysis_and_for_no_score() -> None:
    contract = asked(names.REFIT, {}, {})
    assert {names.UPSTREAM_TRAINING, names.UPSTREAM_ANALYSIS} <= set(contract.params)
    assert f"{names.MODEL_ARTIFACT}/MLmodel" in contract.artifacts
    assert names.PLAN_ARTIFACT in contract.artifacts
    assert not [name for name in contract.metrics if name.startswith(("val_", "eval_"))]
    assert names.PER_VOLUME_ARTIFACT not in contract.artifacts


def test_the_cell_of_a_refit_is_asked_for_all_that_a_cell_holds_but_its_scores() -> None:
    scored = asked(names.CELL, CHILD, {"data_n_val_volumes": "2"})
    unscored = asked(names.CELL, CHILD, {"data_n_val_volumes": "0"})
    assert set(scored.params) == set(unscored.params)
    assert set(scored.tags) - set(unscored.tags) == {"best_val_loss"}
    assert set(scored.metrics) - set(unscored.metrics) == {
        "val_loss", "train_dice", "val_dice", "val_f1_foreground",
    }  # fmt: skip
    assert set(scored.artifacts) - set(unscored.artifacts) == {"checkpoints/best_*.pth"}
    assert f"checkpoints/{names.LAST}" in unscored.artifacts


@pytest.mark.parametrize("kind", [names.REFIT, names.CELL, names.FAMILY])
def test_a_run_that_failed_is_asked_for_its_cause(kind: str) -> None:
    run = record(Contract(), {names.KIND: kind}, {}).replace(status="FAILED")
    assert f"tag {names.ERROR_TYPE}" in required_fields.missing(run, set())
    assert required_fields.of(run).params == ()
