"""After any order of commands and changes by hand, aliases, pointers and the store agree."""

from __future__ import annotations

import itertools
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from minivess import config, files, keys, names
from minivess.cli import maintenance
from minivess.contracts import (
    AnalysisResult,
    Champion,
    DeploymentResult,
    FamilyRun,
    Interval,
    Parity,
    RunRecord,
    Scores,
    Smoke,
    TrainingResult,
)
from minivess.errors import StoreError
from minivess.home import Home, open_home
from minivess.orchestration import handoff, model_versions, publication, results
from minivess.orchestration.model_versions import register_families
from minivess.orchestration.session import Session, open_session
from minivess.production import predict
from minivess.serving import model_record, package
from minivess.stages import deploy as deploys
from minivess.stages.analyse import analyse, key_inputs
from minivess.stages.deploy import deploy
from minivess.text import slug
from minivess.tracking.store import artifacts, registry, sql_reader
from minivess.tracking.store.store import open_store
from minivess.upkeep import purge
from minivess.upkeep.audit import audit
from tests.tracking.conftest import NETWORK, profile_of
from tests.tracking.test_chain import WINDOW

pytestmark = pytest.mark.slow

FAMILIES = ("dynunet_dice_ce", "dynunet_cbdice")
NUMBERS = itertools.count()


class Fabricated:
    """Finished runs of an experiment, written by a bare client: nothing is trained or exported."""

    def __init__(self, session: Session) -> None:
        self.session, self.store = session, session.store
        self.name = session.config.experiment
        self.profile = self.run(names.PROFILE_EXPERIMENT, "tubes", names.PROFILE, "profile", {})
        self.families: list[FamilyRun] = []

    def run(
        self, experiment: str, name: str, kind: str, key: str, params: dict[str, str]
    ) -> RunRecord:
        client = self.store.client
        place = self.store.experiment_id(experiment, dataset="demo", note="n")
        tags = {names.KIND: kind, names.KEY: key, names.GROUP: self.name, names.NOTE: "n"}
        made = client.create_run(place, tags=tags, run_name=name).info.run_id
        data = {names.DATASET_HASH: profile_of().dataset_hash, names.DATASET_NAME: "demo"}
        for param, value in {**data, **params}.items():
            client.log_param(made, param, value)
        client.set_terminated(made)
        return self.store.get(made)

    def hold(self, record: RunRecord, **held: Any) -> None:
        root = artifacts.local_folder(record.artifact_uri)
        assert root is not None
        for path, value in held.items():
            files.write_json(root / path, value)

    def family(self, name: str) -> None:
        upstream = {names.UPSTREAM_PROFILE: self.profile.run_id, "data_resampling_enabled": "False"}
        key = f"{name}{len(self.families)}"
        record = self.run(self.name, name, names.FAMILY, key, upstream)
        made = FamilyRun(
            run_id=record.run_id, run_name=name, experiment_name=self.name, artifact_uri="-",
            model="dynunet", loss=name.removeprefix("dynunet_"), seed=1, key=key, cells=(key,),
            child_run_ids=(), metrics={},
        )  # fmt: skip
        self.hold(record, **{
            names.TRAINING_ARTIFACT: made.model_dump(mode="json"), "model/MLmodel": {},
            names.PROFILE_ARTIFACT: profile_of().model_dump(mode="json"),
        })  # fmt: skip
        self.families.append(made)

    def trained(self, families: list[FamilyRun]) -> TrainingResult:
        """What `train` hands on and publishes."""
        result = TrainingResult(
            experiment=self.name, data_profile_run_id=self.profile.run_id,
            dataset_hash=profile_of().dataset_hash, families=tuple(families),
        )  # fmt: skip
        publication.publish(self.session, result, lambda _: register_families(self.session, result))
        return result

    def analysed(self, upstream: tuple[str, ...]) -> None:
        """The analysis that these runs would get, unless it is there; the newest one wins."""
        training = handoff.receive_training(self.session, upstream)
        key = keys.digest(key_inputs(self.session, training))
        if self.store.find(key, experiment=names.EVALUATION_EXPERIMENT) is None:
            best = max(training.families, key=lambda family: self.families.index(family))
            interval = Interval(mean=0.5, lower=0.4, upper=0.6, level=0.95, n=2)
            judged = Scores(
                name=best.run_name, members=(best.run_name,), trainable_parameters=1,
                intervals={"dice": interval}, volumes=(),
            )  # fmt: skip
            result = AnalysisResult(
                experiment=self.name, dataset_hash=training.dataset_hash,
                training_run_ids=training.run_ids, families=(judged,), ensembles=(),
                untrained={"dice": 0.1},
                champion=Champion(
                    family=best.run_name, run_id=best.run_id, metric="dice", value=0.5, reason="r"
                ),
            )  # fmt: skip
            upstream_of = {names.UPSTREAM_EXPERIMENT: self.name}
            record = self.run(
                names.EVALUATION_EXPERIMENT, self.name, names.ANALYSIS, key, upstream_of
            )
            plain = result.model_dump(mode="json")
            self.hold(record, **{names.ANALYSIS_ARTIFACT: plain, names.REPORT_ARTIFACT: {}})

    def deployed(self, upstream: tuple[str, ...]) -> None:
        """The deployment that this analysis would get, and the service that it builds."""
        found = handoff.receive_analysis(self.session, upstream)
        analysis = model_versions.with_version(self.session, found)
        champion, key = analysis.champion, keys.digest(deploys.key_inputs(self.session, analysis))
        name, version = slug(self.name), str(champion.model_version)
        place = package.bento_home(self.session.home.served) / "bentos" / name / version / "src"
        lineage = {
            names.UPSTREAM_ANALYSIS: str(analysis.run_id),
            names.UPSTREAM_TRAINING: champion.run_id,
        }
        service = model_record.ServedModel(
            name=name, version=version, network=NETWORK, window=WINDOW, divisor=(1, 1, 1),
            classes=(0, 1), lineage=lineage,
        )  # fmt: skip
        model_record.write(place, service)
        if self.store.find(key, experiment=names.DEPLOYMENT_EXPERIMENT) is None:
            result = DeploymentResult(
                analysis_run_id=str(analysis.run_id), model_name=self.name, model_version=version,
                bento_tag=service.label, engines=(),
                parity=Parity(volumes=(), max_logit_difference=0, mask_agreement=1, passed=True),
                smoke=Smoke(case="a", seconds=0, mask_agreement=1, lineage={}),
            )  # fmt: skip
            upstream_of = {names.UPSTREAM_EXPERIMENT: self.name}
            record = self.run(
                names.DEPLOYMENT_EXPERIMENT, self.name, names.DEPLOYMENT, key, upstream_of
            )
            plain = result.model_dump(mode="json")
            self.hold(record, **{names.DEPLOYMENT_ARTIFACT: plain, names.ONNX_ARTIFACT: {}})


class Orders(RuleBasedStateMachine):
    """Commands and changes by hand, in any order."""

    home: Path

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        env = config.Environment(home=self.home, prefect_disabled=True)
        asked = config.load(overrides=[f"name=tubes{next(NUMBERS)}"], env=env)
        session = self.stack.enter_context(open_session(asked, env))
        self.session, self.made = session, Fabricated(session)
        self.analysis: AnalysisResult | None = None

    def teardown(self) -> None:
        self.stack.close()

    @initialize()
    def begin(self) -> None:
        for name in FAMILIES:
            self.made.family(name)
        self.made.trained(self.made.families)

    # --- commands -------------------------------------------------------------------------

    @rule(name=st.sampled_from(FAMILIES))
    def train_another(self, name: str) -> None:
        self.made.family(name)
        self.made.trained([self.made.families[-1]])

    @rule(number=st.integers(0, 1))
    def train_as_before(self, number: int) -> None:
        """Settings of earlier on: the run is found again, and counts from now on."""
        family = self.made.families[number]
        self.made.trained([family])
        now = {f.run_name: f.run_id for f in handoff.receive_training(self.session).families}
        assert now[family.run_name] == family.run_id
        pointer = self.session.orchestrator.get("latest_training")
        assert pointer is not None
        assert pointer["run_ids"] == [family.run_id]

    @rule(part=st.sampled_from([None, 0, 1, -1]))
    def analyse(self, part: int | None) -> None:
        upstream = () if part is None else (self.made.families[part].run_id,)
        self.made.analysed(upstream)
        self.analysis = analyse(self.session, upstream)
        champion = self.analysis.champion
        self.agrees(names.CHAMPION_ALIAS, champion.run_id, champion.model_version)
        assert handoff.receive_analysis(self.session).run_id == self.analysis.run_id
        pointer = self.session.orchestrator.get("latest_analysis")
        assert pointer is not None
        assert (pointer["run_id"], pointer["champion"]) == (self.analysis.run_id, champion.run_id)

    @precondition(lambda self: self.analysis is not None)
    @rule(asked=st.booleans())
    def deploy(self, asked: bool) -> None:
        assert self.analysis is not None
        upstream = (str(self.analysis.run_id),) if asked else ()
        self.made.deployed(upstream)
        result = deploy(self.session, upstream)
        assert result.analysis_run_id == self.analysis.run_id
        run_id = self.analysis.champion.run_id
        self.agrees(names.PRODUCTION_ALIAS, run_id, result.model_version)
        assert handoff.receive_deployment(self.session).run_id == result.run_id
        pointer = self.session.orchestrator.get("latest_deployment")
        assert pointer is not None
        assert pointer["model_version"] == f"{self.made.name}/{result.model_version}"

    def agrees(self, alias: str, run_id: str, version: str | None) -> None:
        found = registry.by_alias(self.session.store, self.made.name, alias)
        assert (found.run_id, found.version) == (run_id, version)

    # --- changes by hand ------------------------------------------------------------------

    @rule(alias=st.sampled_from([names.CHAMPION_ALIAS, names.PRODUCTION_ALIAS]), data=st.data())
    def move_an_alias(self, alias: str, data: st.DataObject) -> None:
        found = registry.versions(self.session.store, self.made.name)
        if found:
            version = data.draw(st.sampled_from(found)).version
            self.session.store.client.set_registered_model_alias(self.made.name, alias, version)

    @rule(data=st.data())
    def delete_a_version(self, data: st.DataObject) -> None:
        found = registry.versions(self.session.store, self.made.name)
        if found:
            version = data.draw(st.sampled_from(found)).version
            self.session.store.client.delete_model_version(self.made.name, version)

    @rule()
    def delete_the_model(self) -> None:
        if registry.versions(self.session.store, self.made.name):
            self.session.store.client.delete_registered_model(self.made.name)

    @rule(name=st.sampled_from(sorted(names.LATEST.values())))
    def change_a_pointer(self, name: str) -> None:
        self.session.orchestrator.put(name, {"run_id": "of somebody else"})


def test_aliases_pointers_and_the_store_agree_after_any_order(
    tmp_path: Path, stock: Callable[..., None]
) -> None:
    Orders.home = tmp_path / "home"
    stock(open_home(Orders.home))
    slow = settings(
        max_examples=8, stateful_step_count=12, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_machine(Orders, settings=slow)


# --- what was deleted, damaged or renamed behind our back -------------------------------------


@pytest.fixture
def made(home: Home, stocked: None) -> Iterator[Fabricated]:
    """An experiment with two fabricated families."""
    env = config.Environment(home=home.root, prefect_disabled=True)
    with open_session(config.load(overrides=["name=tubes"], env=env), env) as session:
        fabricated = Fabricated(session)
        for name in FAMILIES:
            fabricated.family(name)
        fabricated.trained(fabricated.families)
        yield fabricated


def test_what_is_damaged_or_gone_is_not_reused_and_audit_says_so(made: Fabricated) -> None:
    record = made.store.get(made.families[0].run_id)
    root = artifacts.local_folder(record.artifact_uri)
    assert root is not None
    path = root / "model" / "MLmodel"
    size = path.stat().st_size
    entry = {"size": size, "sha256": files.sha256(path)}
    made.hold(record, **{names.FILES_ARTIFACT: {"model/MLmodel": entry}})
    results.require_complete(made.session, record, names.FAMILY)
    path.write_bytes(bytes(size))
    with pytest.raises(StoreError, match="model/MLmodel holds other bytes than were written"):
        results.require_complete(made.session, record, names.FAMILY)
    (gap,) = audit(made.store, [record.run_id])
    assert "model/MLmodel holds other bytes than were written" in gap.missing
    path.unlink()
    with pytest.raises(StoreError, match="model/ is gone"):
        results.require_complete(made.session, record, names.FAMILY)


def test_a_renamed_experiment_is_found_by_its_runs(made: Fabricated) -> None:
    client = made.store.client
    place = client.get_experiment_by_name("tubes")
    assert place is not None
    client.rename_experiment(place.experiment_id, "kept for the paper")
    key = made.families[0].key
    found = made.store.find(key, experiment="tubes")
    assert found is not None
    assert found.run_id == made.families[0].run_id
    assert handoff.receive_training(made.session).experiment == "tubes"
    assert made.store.experiment_id("tubes", dataset="demo", note="n") == place.experiment_id
    client.delete_experiment(client.create_experiment("tubes"))
    assert handoff.receive_training(made.session).experiment == "tubes"


def test_after_a_rename_in_mlflow_settle_and_sql_say_the_name_it_was_made_under(
    made: Fabricated, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = profile_of().replace(dataset="demo").model_dump(mode="json")
    made.hold(made.profile, **{names.PROFILE_ARTIFACT: profile})
    made.analysed(())
    analyse(made.session)
    client = made.store.client
    place = made.store.experiment_id("tubes", dataset="demo", note="n")
    client.rename_experiment(place, "kept for the paper")
    fresh = open_store(made.session.home, made.session.config.tracking)
    assert "tubes" in fresh.experiments()
    named = {record.experiment for record in sql_reader.records(fresh)}
    assert named == {record.experiment for record in fresh.search()}
    assert "kept for the paper" not in named
    made.session.__dict__["store"] = fresh
    capsys.readouterr()
    pointers = maintenance.settle(made.session, [])["pointers"]
    assert {"training-tubes", "analysis-tubes"} <= pointers.keys()
    assert "no finished analyse run" not in capsys.readouterr().out


def test_an_experiment_of_an_earlier_release_is_known_by_its_runs(made: Fabricated) -> None:
    client = made.store.client
    place = made.store.experiment_id("tubes", dataset="demo", note="n")
    client.delete_experiment_tag(place, names.GROUP)
    client.rename_experiment(place, "kept")
    fresh = open_store(made.session.home, made.session.config.tracking)
    assert "tubes" in fresh.experiments()
    assert fresh.experiment_id("tubes", dataset="demo", note="n") == place


def test_a_remedy_names_the_data_of_an_experiment_that_is_none_of_demo_data(
    made: Fabricated,
) -> None:
    made.store.experiment_id("theirs", dataset="scans", note="n")
    for name, data in (("tubes", ""), ("theirs", " data.root=/data/scans"),
                       ("unheard of", " data.root=/path/to/the/data")):  # fmt: skip
        files.write_text(made.session.home.dvc / "scans.dvc", "meta: {place: /data/scans}")
        typed = (f"name={name}",)
        asked = config.changed(made.session.config, {"name": name})
        other = replace(made.session, config=asked, words=typed)
        assert other.command("train") == f"minivess train {shlex.quote(*typed)}{data}"
        assert other.command("analyse") == f"minivess analyse {shlex.quote(*typed)}"


def test_analyse_brings_back_the_aliases_that_went_with_a_deleted_version(
    made: Fabricated,
) -> None:
    made.analysed(())
    analyse(made.session)
    before = registry.models(made.store)["tubes"]
    assert {"best_dice_ce", "best_cbdice", "champion", *map(slug, FAMILIES)} <= before.keys()
    for one in registry.versions(made.store, "tubes"):
        made.store.client.delete_model_version("tubes", one.version)
    analyse(made.session)
    assert registry.models(made.store)["tubes"].keys() == before.keys()


@pytest.mark.parametrize("tagged", [True, False], ids=["tagged", "of an earlier release"])
def test_a_model_renamed_in_mlflow_is_used_and_none_made_beside_it(
    made: Fabricated, tagged: bool
) -> None:
    made.analysed(())
    analyse(made.session)
    made.store.client.rename_registered_model("tubes", "vessels")
    if not tagged:
        made.store.client.delete_registered_model_tag("vessels", names.GROUP)
    champion = analyse(made.session).champion
    assert [one.name for one in made.store.client.search_registered_models()] == ["vessels"]
    found = registry.by_alias(made.store, "tubes", names.CHAMPION_ALIAS)
    assert (found.name, found.run_id) == ("vessels", champion.run_id)
    assert registry.by_alias(made.store, "vessels", names.CHAMPION_ALIAS) == found
    assert predict.choose(made.session, []).version == found


def test_audit_names_a_family_whose_fold_run_is_gone(made: Fabricated) -> None:
    family = made.families[0]
    fold = made.run("tubes", "fold 0", names.CELL, "c", {})
    whole = family.replace(child_run_ids=(fold.run_id,)).model_dump(mode="json")
    made.hold(made.store.get(family.run_id), **{names.TRAINING_ARTIFACT: whole})
    (gap,) = audit(made.store, [family.run_id])
    assert not [one for one in gap.missing if "fold run" in one]
    made.store.client.delete_run(fold.run_id)
    (gap,) = audit(made.store, [family.run_id])
    (said,) = (one for one in gap.missing if "fold run" in one)
    assert said.startswith(f"fold run {fold.run_id} was deleted: ")


def test_a_run_that_is_not_ours_is_named_with_what_it_lacks(made: Fabricated) -> None:
    client, place = made.store.client, made.store.experiment_id("tubes", dataset="demo", note="n")
    run_id = client.create_run(place, tags={names.KIND: names.FAMILY}, run_name="alien").info.run_id
    client.set_terminated(run_id)
    with pytest.raises(StoreError, match=f"{run_id} \\(alien\\) lacks the param"):
        analyse(made.session, [run_id])


def test_a_deleted_run_comes_back_by_the_command_printed(made: Fabricated) -> None:
    run_id = made.families[0].run_id
    with pytest.raises(StoreError) as refused:
        purge.look(made.store, [run_id])
    assert run_shell(refused.value.remedy, "by ") == 0
    with pytest.raises(StoreError) as deleted:
        made.store.get(run_id)
    assert run_shell(deleted.value.remedy) == 0
    assert made.store.get(run_id).status == "FINISHED"


def test_a_deleted_experiment_comes_back_by_the_command_printed(made: Fabricated) -> None:
    place = made.store.client.get_experiment_by_name("tubes")
    assert place is not None
    made.store.client.delete_experiment(place.experiment_id)
    with pytest.raises(StoreError) as deleted:
        made.store.get(made.families[0].run_id)
    with pytest.raises(StoreError) as empty:
        handoff.receive_training(made.session)
    assert deleted.value.remedy.startswith(empty.value.remedy)
    assert run_shell(deleted.value.remedy) == 0
    assert handoff.receive_training(made.session).experiment == "tubes"


def run_shell(remedy: str, after: str = "") -> int:
    """The exit code of the command in a remedy."""
    command = remedy.partition(after)[2] if after else remedy
    return subprocess.run(command.partition(", or")[0], shell=True, capture_output=True).returncode
