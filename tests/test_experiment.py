"""The whole chain on a tiny set, through the command line, then read with a bare MLflow client."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from minivess import names
from minivess.contracts import AnalysisResult
from minivess.home import Home, open_home
from tests.commands import Command
from tests.conftest import tube, write_nifti
from tests.faults import deaths
from tests.faults.limits import read_only

pytestmark = pytest.mark.slow

WORDS = ("configs/experiments/smoke.yaml", "training.losses=[dice_ce,dice_ce_cldice]", "name=tubes")


@dataclass(frozen=True)
class Chain:
    """One finished `minivess experiment` and where it left things."""

    home: Path
    root: Path
    printed: str
    result: dict[str, Any]
    client: MlflowClient

    def run(self, run_id: str) -> Run:
        return self.client.get_run(run_id)

    def artifacts(self, run_id: str, path: str | None = None) -> set[str]:
        found = set()
        for item in self.client.list_artifacts(run_id, path):
            found |= self.artifacts(run_id, item.path) if item.is_dir else {item.path}
        return found

    def children(self, parent: str) -> list[Run]:
        experiment = self.run(parent).info.experiment_id
        return list(self.client.search_runs([experiment], f"tags.`{names.PARENT}` = '{parent}'"))


def minivess(*words: str, home: Path, **environment: str) -> Command:
    """Run the command line as a user does."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    environment = {**clean, "MINIVESS_HOME": str(home), **environment}
    command = Command(words, environment, home.with_name(f"{home.name}-command"))
    command.wait()
    return command


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory,
    stock: Callable[[Home], None],
    warm_prefect: Callable[[Home], None],
) -> Chain:
    """The four flows with a real Prefect server and a real MLflow store, once for all tests."""
    root, home = tmp_path_factory.mktemp("data") / "tubes", tmp_path_factory.mktemp("home")
    stock(open_home(home))
    warm_prefect(open_home(home))
    for index in range(6):
        image, mask = tube((24, 24 + 2 * index, 5 + index), seed=index)
        write_nifti(root / "images" / f"v{index}.nii.gz", image)
        write_nifti(root / "labels" / f"v{index}.nii.gz", mask)
    done = minivess("experiment", *WORDS, f"data.root={root}", "--json", home=home)
    assert done.wait() == 0, done.err
    result = json.loads(done.out.splitlines()[-1])
    return Chain(home, root, done.err, result, MlflowClient(f"sqlite:///{home}/mlflow.db"))


def test_every_stage_says_which_run_holds_its_result(chain: Chain) -> None:
    ids = [
        chain.result["data_profile_run_id"],
        *chain.result["training_run_ids"],
        chain.result["analysis_run_id"],
        chain.result["deployment_run_id"],
    ]
    assert len(chain.result["training_run_ids"]) == 2
    assert {chain.run(run_id).info.status for run_id in ids} == {"FINISHED"}
    assert chain.result["reused"] == []


def test_the_chain_is_walked_from_the_served_model_to_the_data_hash(chain: Chain) -> None:
    (served,) = chain.client.search_registered_models("name = 'tubes'")
    version = chain.client.get_model_version_by_alias(served.name, names.PRODUCTION_ALIAS)
    training = chain.run(str(version.run_id))
    deployment = chain.run(chain.result["deployment_run_id"])
    assert deployment.data.params[names.UPSTREAM_TRAINING] == training.info.run_id
    analysis = chain.run(deployment.data.params[names.UPSTREAM_ANALYSIS])
    assert analysis.data.params[names.UPSTREAM_TRAINING] == training.info.run_id
    profile = chain.run(training.data.params[names.UPSTREAM_PROFILE])
    assert profile.data.params[names.DATASET_HASH] == training.data.params[names.DATASET_HASH]
    dvc = chain.client.download_artifacts(profile.info.run_id, names.DVC_ARTIFACT)
    assert profile.data.params[names.DATASET_HASH] in Path(dvc).read_text()


def test_lineage_prints_the_same_chain(chain: Chain) -> None:
    done = minivess("lineage", "tubes@production", "--json", home=chain.home)
    found = json.loads(done.out.splitlines()[-1])
    kinds = [step["kind"] for step in found["chain"]]
    assert kinds[-1] == names.PROFILE
    assert names.FAMILY in kinds
    profile = chain.run(chain.result["data_profile_run_id"])
    assert found["dataset_hash"] == profile.data.params[names.DATASET_HASH]
    page = Path(found["page"]).read_text()
    assert all(step["run_id"] in page for step in found["chain"])
    assert found["dataset_hash"] in page


def test_the_notebook_shows_what_the_chain_made_and_trains_nothing_by_itself(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("marimo")
    monkeypatch.setenv("MINIVESS_HOME", str(chain.home))
    page = Path(__file__).resolve().parents[1] / "notebooks" / "workspace.py"
    _, shown = runpy.run_path(str(page))["app"].run()
    families = {chain.run(run_id).info.run_name for run_id in chain.result["training_run_ids"]}
    assert families <= set(shown["leaderboard"]["name"])
    assert families == set(shown["scores"]["seconds"].dropna().reset_index()["name"])
    assert shown["front"]
    assert set(shown["volumes"]["case"]) == {f"v{index}" for index in range(6)}
    assert len(shown["curves"])
    links = dict(zip(shown["linked"]["run_id"], shown["linked"]["page"], strict=True))
    assert {f"http://127.0.0.1:5000/#/runs/{run_id}" for run_id in links} == {*links.values()}
    assert [file.parent.name for file in shown["files"]] == ["images", "labels"]
    assert (shown["viewer"] is None) == (find_spec("ipyniivue") is None)
    assert shown["job"]() is None


def test_a_home_that_one_may_only_read_is_read_and_its_writing_refused(
    chain: Chain, tmp_path: Path
) -> None:
    image, masks = chain.root / "images" / "v0.nii.gz", tmp_path / "masks"
    query, settings = "select name from runs", (*WORDS[:1], f"data.root={chain.root}", "name=tubes")
    reading: list[tuple[str, ...]] = [
        ("status",), ("sql", query), ("summary", "name=tubes"), ("lineage", "tubes@production"),
        ("predict", str(image), str(masks), "name=tubes"), ("plan", *settings), ("audit",),
        ("backfill",), ("review", "list"),
    ]  # fmt: skip
    writing: list[tuple[str, ...]] = [
        ("train", *settings), ("profile", *settings), ("settle",), ("backfill", "--apply"),
        ("review", "accept", "v0", "--why", "seen"), ("ui",),
    ]  # fmt: skip
    with read_only(chain.home):
        for words in reading:
            done = minivess(*words, home=chain.home)
            assert (done.wait(), done.err) == (0, ""), words
        for words in writing:
            done = minivess(*words, home=chain.home)
            assert done.wait() == 1, words
            assert "MINIVESS_HOME=/path/to/folder" in done.err, words
            assert len(done.err.splitlines()) == 2, done.err
    assert list(masks.iterdir())


def test_every_run_of_every_flow_holds_what_others_rely_on(chain: Chain) -> None:
    done = minivess("audit", "--json", home=chain.home)
    assert (done.wait(), json.loads(done.out.splitlines()[-1])) == (0, {"gaps": []})


def test_the_command_of_another_rule_runs_as_the_page_prints_it(chain: Chain) -> None:
    page = chain.client.download_artifacts(
        chain.result["analysis_run_id"], names.TRADEOFFS_ARTIFACT
    )
    text = Path(page).read_text().partition('id="data">')[2].partition("</script>")[0]
    data = json.loads(text)
    rule = next(one for one in data["rules"] if one["command"])
    assert rule["winner"] != data["champion"]
    program, *words = shlex.split(rule["command"])
    found = {}
    # The rule of the chain itself comes last, so that its champion is that of other tests.
    rule_alone = ("analysis.metric=", "analysis.ties=")
    for typed in (words, [word for word in words if not word.startswith(rule_alone)]):
        done = minivess(*typed, "--json", home=chain.home, PREFECT_DISABLED="1")
        assert done.wait() == 0, done.err
        outcome = json.loads(done.out.splitlines()[-1])
        version = chain.client.get_model_version_by_alias("tubes", names.CHAMPION_ALIAS)
        found[outcome["champion"]["family"]] = chain.run(str(version.run_id)).info.run_name
    assert program == "minivess"
    assert found == {name: name for name in (rule["winner"], data["champion"])}


def test_ten_questions_are_answered_from_mlflow_alone(chain: Chain) -> None:
    parent = chain.run(chain.result["training_run_ids"][0])
    child = chain.children(parent.info.run_id)[0]
    params = child.data.params
    analysis = chain.run(chain.result["analysis_run_id"])
    answers = {
        "which GPU": params["sys_gpu_model"],
        "model width": params["arch_filters"],
        "loss and weights": params["loss_config"] + params["loss_weights"],
        "volumes per fold": params["data_n_train_volumes"] + params["data_n_val_volumes"],
        "which volumes validated": params["data_val_volume_ids"],
        "software stack": params["sys_torch_version"] + params["sys_monai_version"],
        "code version, dirty": params["sys_git_commit"] + params["sys_git_dirty"],
        "did it crash": child.info.status,
        "which training run is judged": analysis.data.params[names.UPSTREAM_TRAINING],
        "how long": params["training_time_seconds"],
    }
    assert all(answers.values()), answers
    assert float(params["training_time_seconds"]) > 0


def test_parents_open_before_their_folds_and_hold_their_aggregates(chain: Chain) -> None:
    for run_id in chain.result["training_run_ids"]:
        parent, children = chain.run(run_id), chain.children(run_id)
        assert len(children) == 2
        assert all(child.info.start_time >= parent.info.start_time for child in children)
        assert all(child.info.end_time <= parent.info.end_time for child in children)
        for fold in range(2):
            for end in ("", "_ci_lower", "_ci_upper", "_ci_level"):
                assert f"eval_fold{fold}_dice{end}" in parent.data.metrics


def test_training_analysis_and_summary_say_the_same_figures_to_the_digit(chain: Chain) -> None:
    path = chain.client.download_artifacts(chain.result["analysis_run_id"], names.ANALYSIS_ARTIFACT)
    analysis = AnalysisResult.model_validate_json(Path(path).read_text())
    said = minivess("summary", "name=tubes", "--json", home=chain.home).out.splitlines()[-1]
    rows = {(row["family"], row["metric"]): row["mean"] for row in json.loads(said)["rows"]}
    parents = {run.info.run_name: run for run in map(chain.run, chain.result["training_run_ids"])}
    assert {family.name for family in analysis.families} == set(parents)
    for family in analysis.families:
        for metric, interval in family.intervals.items():
            if metric in names.COUNTS:
                continue  # the analysis alone measures it
            trained = parents[family.name].data.metrics.get(f"eval_{metric}")
            assert trained == pytest.approx(interval.mean, abs=1e-12), metric
            assert rows[family.name, metric] == pytest.approx(interval.mean, abs=1e-12), metric


def test_a_child_holds_its_plan_with_what_was_forecast_and_what_it_took(chain: Chain) -> None:
    for parent in chain.result["training_run_ids"]:
        for child in chain.children(parent):
            metrics, names_of = child.data.metrics, ("seconds", "seconds_per_epoch", "ram_gb",
                                                     "vram_gb", "disk_gb")  # fmt: skip
            forecast = {name: metrics[f"forecast_{name}"] for name in names_of}
            actual = {name: metrics[f"actual_{name}"] for name in names_of}
            assert (forecast.pop("vram_gb") > 0) == (actual.pop("vram_gb") > 0)
            assert min(*forecast.values(), *actual.values()) > 0
            assert actual["disk_gb"] == pytest.approx(forecast["disk_gb"], rel=0.9)
            assert actual["ram_gb"] == pytest.approx(forecast["ram_gb"], rel=0.15)
            page = chain.client.download_artifacts(child.info.run_id, names.PLAN_PAGE_ARTIFACT)
            assert f"| batch_size | {child.data.params['batch_size']} |" in Path(page).read_text()


def test_a_child_holds_the_metrics_of_each_epoch(chain: Chain) -> None:
    child = chain.children(chain.result["training_run_ids"][0])[0]
    history = chain.client.get_metric_history(child.info.run_id, "val_dice")
    assert [point.step for point in history] == list(range(int(child.data.params["max_epochs"])))
    assert {
        "train_loss", "val_loss", "train_dice", "val_f1_foreground", "learning_rate",
        "val_cldice", "val_masd", f"val_{names.PRIMARY}",
    } <= set(child.data.metrics)  # fmt: skip


def test_training_runs_hold_every_artifact_of_the_contract(chain: Chain) -> None:
    parent = chain.result["training_run_ids"][0]
    child = chain.children(parent)[0].info.run_id
    assert {
        *(f"checkpoints/{name}" for name in names.CHECKPOINTS),
        "config/resolved_config.yaml", "config/experiment_config.json", names.PLAN_ARTIFACT,
        "environment/frozen_deps.txt", "environment/monai_config.txt",
        "environment/system_info.json", "splits/2fold_seed42.json", "splits/fold_details.json",
        names.PROFILE_ARTIFACT, "logs/train.log", "logs/performance.log", "logs/warnings.log",
        names.HISTORY_ARTIFACT, "figures/training_curves.png", "model_summary.txt",
        names.PER_VOLUME_ARTIFACT, names.UPSTREAM_ARTIFACT,
    } <= chain.artifacts(child)  # fmt: skip
    assert any(path.startswith("figures/predictions/") for path in chain.artifacts(child))
    assert {"model/MLmodel", "model/model_config.json", "model/checkpoint.pth"} <= {
        path.replace("model/artifacts/", "model/") for path in chain.artifacts(parent)
    }


def test_logs_and_descriptions_of_a_run_hold_what_the_terminal_was_told(chain: Chain) -> None:
    parent = chain.result["training_run_ids"][0]
    child = chain.children(parent)[0].info.run_id

    def text(run_id: str, path: str) -> str:
        return Path(chain.client.download_artifacts(run_id, path)).read_text()

    for run_id in (parent, child):
        log = text(run_id, "logs/train.log")
        assert all(word in log for word in ("6 pairs", "patch 24x24", "forecast", "epoch 1/"))
        assert "MONAI flags" in text(run_id, "environment/monai_config.txt")
    assert "Conv3d" in text(child, "model_summary.txt")


def test_figures_of_a_run_stand_as_params_in_those_that_build_on_it(chain: Chain) -> None:
    analysis = chain.run(chain.result["analysis_run_id"])
    deployment = chain.run(chain.result["deployment_run_id"])
    champion = chain.run(chain.result["champion"]["run_id"])
    told = float(analysis.data.params["upstream_eval_dice"])
    assert told == pytest.approx(champion.data.metrics["eval_dice"], rel=1e-4)
    for name in ("champion_dice", "champion_dice_ci_lower", "champion_dice_ci_upper"):
        told = float(deployment.data.params[f"upstream_{name}"])
        assert told == pytest.approx(analysis.data.metrics[name], rel=1e-4)


def test_the_report_and_the_gallery_need_no_network(chain: Chain) -> None:
    report = Path(chain.result["report"]).read_text()
    gallery = chain.client.download_artifacts(
        chain.result["data_profile_run_id"], names.GALLERY_ARTIFACT
    )
    for page in (report, Path(gallery).read_text()):
        assert ";base64," in page
        assert 'src="http' not in page


def test_the_folder_to_hand_on_opens_alone_and_holds_the_numbers_of_the_run(
    chain: Chain, tmp_path: Path
) -> None:
    def shared(*words: str) -> dict[str, Any]:
        asked = ("share", str(folder), "name=tubes", *words, "--json")
        done = minivess(*asked, home=chain.home, PREFECT_DISABLED="1")
        assert done.wait() == 0, done.err
        return dict(json.loads(done.out.splitlines()[-1]))

    folder, run_id = tmp_path / "for reviewers", chain.result["analysis_run_id"]
    found = shared()
    pages = {path: path.read_text() for path in folder.rglob("*.html")}
    assert {path.name for path in pages} >= {"index.html", "report.html", "lineage.html"}
    for path, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"#]+)"', text):
            is_file = link.startswith("data:image/") or (path.parent / unquote(link)).is_file()
            assert is_file, f"{path.name} links {link}"
    texts = [path for path in folder.rglob("*") if path.suffix != ".png" and path.is_file()]
    private = (str(chain.home), str(chain.root), str(Path.home()), "http://127", "https://127")
    for path in texts:
        assert [one for one in private if one in path.read_text()] == [], path

    client = chain.client
    table = Path(client.download_artifacts(run_id, "tables/families.csv"))
    assert (folder / "tables" / "families.csv").read_text() == table.read_text()
    dice = client.get_run(run_id).data.metrics["champion_dice"]
    assert f"Dice<b>{dice:.3f}</b>" in (folder / "index.html").read_text()
    assert (folder / "model_card.md").read_text().startswith("# tubes")
    assert list((folder / "figures" / "predictions").glob("*.png"))
    assert not list(folder.rglob("*.nii.gz"))
    rows = list(csv.DictReader((folder / "tables" / "checklist.csv").open()))
    open_items = [row for row in rows if row["answer"] == "for the author to fill in"]
    assert len(open_items) == len(found["missing"])
    assert all(row["answer"] for row in rows)

    assert set(found["files"]) < set(shared("--volumes")["files"])
    masks = sorted((folder / "volumes" / "masks").iterdir())
    assert [mask.name for mask in masks] == [f"v{index}.nii.gz" for index in range(6)]
    image = nib.Nifti1Image.from_filename(folder / "volumes" / "images" / "v5.nii.gz")
    assert nib.Nifti1Image.from_filename(masks[5]).shape == image.shape


def test_the_users_folder_holds_what_it_held(chain: Chain) -> None:
    names_there = sorted(path.name for path in chain.root.rglob("*") if path.is_file())
    assert names_there == sorted([f"v{index}.nii.gz" for index in range(6)] * 2)


def test_the_registered_model_answers_any_size(chain: Chain) -> None:
    import mlflow.pyfunc
    import numpy as np

    parent = chain.run(chain.result["champion"]["run_id"])
    loaded = mlflow.pyfunc.load_model(f"{parent.info.artifact_uri}/model")
    volume = tube((20, 30, 7), 1)[0].astype(np.float32)[None, None]
    assert loaded.predict(volume).shape == (1, 2, 20, 30, 7)


def test_nothing_changed_means_everything_is_reused_without_a_server(chain: Chain) -> None:
    started = time.monotonic()
    again = minivess("experiment", *WORDS, f"data.root={chain.root}", "--json", home=chain.home)
    result = json.loads(again.out.splitlines()[-1])
    same = ("data_profile_run_id", "training_run_ids", "analysis_run_id", "deployment_run_id")
    assert {key: result[key] for key in same} == {key: chain.result[key] for key in same}
    assert len(result["reused"]) == 5
    assert "Starting Prefect" in chain.printed
    assert "Starting Prefect" not in again.err
    assert time.monotonic() - started < 60


def test_another_loss_trains_only_its_own_cells(chain: Chain) -> None:
    before = len(chain.client.search_runs(["1", "2", "3"]))
    done = minivess(
        "train", "configs/experiments/smoke.yaml", "training.losses=[dice_ce,cbdice]",
        "name=tubes", f"data.root={chain.root}", "--json", home=chain.home, PREFECT_DISABLED="1",
    )  # fmt: skip
    result = json.loads(done.out.splitlines()[-1])
    assert chain.result["training_run_ids"][0] in result["training_run_ids"]
    after = len(chain.client.search_runs(["1", "2", "3"]))
    assert after - before == 3


def test_prediction_writes_a_mask_with_the_geometry_of_the_image(
    chain: Chain, tmp_path: Path
) -> None:
    import nibabel as nib

    source = chain.root / "images" / "v0.nii.gz"
    done = minivess("predict", str(source), str(tmp_path), "name=tubes", "--json", home=chain.home)
    (written,) = json.loads(done.out.splitlines()[-1])["files"]
    mask, image = (nib.Nifti1Image.from_filename(file) for file in (written, source))
    assert mask.shape == image.shape
    assert (mask.affine == image.affine).all()


def test_an_experiment_whose_deployment_fails_still_ends_with_its_report(chain: Chain) -> None:
    strict = "deployment.max_logit_difference=1e-30"
    done = minivess("experiment", *WORDS, f"data.root={chain.root}", strict, home=chain.home)
    assert done.wait() == 1
    assert f"report     {chain.result['report']}" in done.out
    assert "minivess deploy deployment.max_logit_difference=" in done.err


# --- production moves, and back -----------------------------------------------------------------


def in_production(chain: Chain) -> str:
    """The version that `production` names."""
    found = chain.client.get_model_version_by_alias("tubes", names.PRODUCTION_ALIAS)
    return str(found.version)


def moves(chain: Chain) -> list[tuple[str, str]]:
    """The history of `production`."""
    done = minivess("promote", "name=tubes", "--json", home=chain.home)
    assert done.wait() == 0, done.err
    return [(move["kind"], move["version"]) for move in json.loads(done.out)["history"]]


def test_another_version_is_compared_proved_and_promoted_and_who_why_and_when_stay(
    chain: Chain,
) -> None:
    first = in_production(chain)
    other = "2" if first == "1" else "1"
    without = minivess("promote", f"tubes/{other}", home=chain.home)
    assert without.wait() == 2
    assert "needs a reason" in without.err
    done = minivess(
        "promote", f"tubes/{other}", "--why", "thin vessels", "--who", "ann", home=chain.home
    )
    assert done.wait() == 0, done.err
    assert f"Compare   version {first} and version {other} of tubes" in done.out
    assert "masks agree on" in done.out
    assert in_production(chain) == other
    assert moves(chain) == [("deploy", first), ("promote", other)]
    tags = chain.client.get_registered_model("tubes").tags
    last = json.loads(tags["minivess.production.0002"])
    assert (last["who"], last["why"], last["before"]) == ("ann", "thin vessels", first)
    deployment = chain.run(last["deployment_run_id"])
    assert deployment.info.status == "FINISHED"
    assert deployment.data.params[names.UPSTREAM_ANALYSIS] == last["analysis_run_id"]


@pytest.mark.parametrize(
    "place",
    [
        "minivess.stages.deploy.smoke_test",
        "minivess.orchestration.model_versions.promote",
        "minivess.tracking.store.registry.add_move",
        "minivess.tracking.store.registry.set_alias",
    ],
)
def test_a_kill_between_two_steps_of_a_roll_back_leaves_a_true_alias_and_history(
    chain: Chain, place: str
) -> None:
    served, before = in_production(chain), moves(chain)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    killed = Command(
        ("rollback", "name=tubes", "--why", "w"),
        {**clean, "MINIVESS_HOME": str(chain.home), "PREFECT_DISABLED": "1"},
        chain.home.with_name("killed"),
        main=partial(deaths.main, place, 1),
    )
    assert killed.wait() == -9
    assert in_production(chain) == served
    assert moves(chain) == before


def test_a_roll_back_proves_the_older_service_and_is_not_undone_by_the_way(chain: Chain) -> None:
    (_, first), (_, other) = moves(chain)
    done = minivess("rollback", "name=tubes", "--why", "false vessels", home=chain.home)
    assert done.wait() == 0, done.err
    assert f"service tubes:{first} answered" in done.out
    assert in_production(chain) == first
    history = [("deploy", first), ("promote", other), ("rollback", first)]
    assert moves(chain) == history
    again = minivess("rollback", other, "name=tubes", "--why", "w", home=chain.home)
    assert (again.wait(), in_production(chain)) == (0, other)
    back = minivess("rollback", first, "name=tubes", "--why", "w", home=chain.home)
    assert (back.wait(), in_production(chain)) == (0, first)
    settled = minivess("settle", "name=tubes", home=chain.home)
    assert (settled.wait(), in_production(chain)) == (0, first)


def test_two_versions_are_compared_on_the_same_volumes(chain: Chain) -> None:
    done = minivess("compare", "tubes/1", "tubes/2", "--json", home=chain.home)
    assert done.wait() == 0, done.err
    pairs = json.loads(done.out)["volumes"]
    assert len(pairs) == 3
    assert all(0 <= pair["agreement"] <= 1 and len(pair["dice"]) == 2 for pair in pairs)


def test_the_worst_volumes_are_corrected_and_trained_again_by_three_commands(
    chain: Chain, tmp_path: Path
) -> None:
    folder = tmp_path / "worst"
    analysis = chain.result["analysis_run_id"][:8]
    done = minivess("review", "worst", str(folder), "1", "--upstream", analysis, home=chain.home,
                    PREFECT_DISABLED="1")  # fmt: skip
    assert done.wait() == 0, done.err
    (label,) = (folder / "labels").iterdir()
    image = nib.Nifti1Image.from_filename(label)
    corrected = np.asarray(image.dataobj).copy()
    corrected[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(corrected, image.affine), label)
    words = [line.partition(": minivess ")[2] for line in done.out.splitlines()]
    back, again = (shlex.split(line.partition("   (")[0]) for line in words if line)
    taken = minivess(*back, home=chain.home, PREFECT_DISABLED="1")
    assert "1 decided: v" in taken.out
    # What stands in the third command is tested where a training begins with a former model.
    assert again[:2] == ["experiment", f"data.root={chain.root}"]
    assert again[-1] == "training.init=tubes@champion"
    assert {word.partition(".")[0] for word in again[2:-1]} <= {"model"}  # those of its network
    case = label.name.removesuffix(".nii.gz")
    undone = minivess("review", "reopen", case, "--why", "a test", home=chain.home,
                      PREFECT_DISABLED="1")  # fmt: skip
    assert undone.wait() == 0, undone.err
