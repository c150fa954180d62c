"""The champion trained on every volume: a model of its own that no volume ever judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from minivess import config, names
from minivess.contracts import CellResult, FamilyRun
from minivess.errors import StoreError
from minivess.grid.cell_run import read_result
from minivess.home import Home
from minivess.orchestration.session import Session, open_session
from minivess.stages.analyse import analyse
from minivess.stages.profile import profile_data
from minivess.stages.refit import refit, shortened, stopping_epoch
from minivess.stages.train import train
from minivess.tracking.run import model
from minivess.tracking.store import registry
from minivess.upkeep import audit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]

SMOKE = Path("configs/experiments/smoke.yaml")
WORDS = ("name=tubes", "training.max_epochs=3", "training.warmup_epochs=1")


@contextmanager
def opened(root: Path, home: Home, *words: str) -> Iterator[Session]:
    """A session without Prefect on a tiny set."""
    env = config.Environment(home=home.root, prefect_disabled=True)
    asked = config.load([SMOKE], [f"data.root={root}", *WORDS, *words], env)
    with open_session(asked, env, yes=True) as session:
        yield session


def result_of(session: Session, run_id: str) -> dict[str, Any]:
    return json.loads(session.store.read_text(run_id, names.RESULT_ARTIFACT))


def test_the_champion_trains_on_all_volumes_and_is_never_scored_on_them(
    make_dataset: Callable[..., Path], home: Home
) -> None:
    root = make_dataset(5)
    with opened(root, home, "training.test_fraction=0.2", "training.refit=all") as session:
        profile = profile_data(session)
        family = train(session).families[0]
        with pytest.raises(StoreError, match="minivess analyse"):
            refit(session)
        champion = analyse(session).champion
        run_id = refit(session)

        parent = session.store.get(run_id)
        (child,) = session.store.search(parent=run_id)
        held_out = set(json.loads(child.params["data_test_volume_ids"]))
        everything = {stats.case for stats in profile.volumes}
        assert set(json.loads(child.params["data_train_volume_ids"])) == everything - held_out
        assert len(held_out) == 1
        for run in (parent, child):
            assert not [name for name in run.metrics if name.startswith(("val_", "eval_"))]
        assert "train_loss" in child.metrics
        assert result_of(session, child.run_id)["volumes"] == []
        assert result_of(session, child.run_id)["checkpoint"] == names.FINAL

        folds = [read_result(session, fold) for fold in family.child_run_ids]
        assert int(child.params["max_epochs"]) == stopping_epoch(folds)
        assert str(stopping_epoch(folds)) in parent.tags["stopping_rule"]

        found = registry.by_alias(session.store, "tubes", names.REFIT_ALIAS)
        assert (found.run_id, found.tags["refit_of"]) == (run_id, champion.family)
        assert registry.by_alias(session.store, "tubes", names.CHAMPION_ALIAS).run_id == (
            champion.run_id
        )
        assert model.load(session.store, "tubes", names.REFIT_ALIAS).metadata.signature is not None
        assert refit(session) == run_id
        assert audit.audit(session.store, [run_id, child.run_id]) == []

    with (
        opened(root, home, "training.refit=all", "training.learning_rate=0.2") as session,
        pytest.raises(StoreError, match="not trained with these settings"),
    ):
        refit(session)


def test_the_epoch_to_stop_at_is_the_mean_of_the_judged_ones() -> None:
    def fold(judged_epoch: int) -> CellResult:
        return CellResult(
            key="k", judged_epoch=judged_epoch, epochs=9, stopped_early=False,
            training_time_seconds=1, trainable_parameters=1, best={}, untrained={}, volumes=(),
            time_shares={}, checkpoint="last.pth", files={},
        )  # fmt: skip

    assert stopping_epoch([fold(3), fold(6), fold(8)]) == 7
    assert stopping_epoch([fold(0)]) == 1


def test_a_champion_that_went_on_from_a_shorter_training_is_refit_from_the_start() -> None:
    words = ["training.extends=100", "training.max_epochs=200", "training.warmup_epochs=5"]
    found = shortened(config.load([], words), 3).training
    assert (found.max_epochs, found.extends, found.warmup_epochs) == (3, None, 2)


def test_the_best_family_of_each_loss_has_the_alias_of_that_loss() -> None:
    from minivess.orchestration.model_versions import best_of_each_loss

    def family(name: str, loss: str, value: float) -> FamilyRun:
        return FamilyRun(
            run_id=name, run_name=name, experiment_name="e", artifact_uri="", model="m", loss=loss,
            seed=1, key=name, cells=(), child_run_ids=(), metrics={f"eval_{names.PRIMARY}": value},
        )  # fmt: skip

    found = best_of_each_loss(
        [family("a_x", "x", 0.5), family("b_x", "x", 0.6), family("a_y", "y", 0.1)]
    )
    assert {loss: run.run_name for loss, run in found.items()} == {"x": "b_x", "y": "a_y"}
