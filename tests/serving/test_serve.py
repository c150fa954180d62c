"""`minivess serve`: the model in production at an address, also while the alias moves."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import psutil
import pytest
import torch

import minivess as mv
from minivess import names, networks
from minivess.config import TrackingConfig
from minivess.contracts import AliasMove, Composition, Network, Window
from minivess.data.profiling.domain import domain_of
from minivess.errors import ServingError
from minivess.formats import volume
from minivess.home import Home, open_home
from minivess.inference import Predictor
from minivess.runtime.servers import free_port, is_free
from minivess.serving import client, export, package, predict, request_log
from minivess.tracking.run import model
from minivess.tracking.run.ensemble import Member, Members
from minivess.tracking.run.params import data_params, preparation_params
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store import registry
from minivess.tracking.store.store import Store, open_store
from tests.commands import Command
from tests.conftest import tube, write_nifti
from tests.tracking.conftest import QUIET, profile_of

pytestmark = pytest.mark.slow

PATIENCE_S = 300
TOKEN = "a-token-of-24-characters"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that servers ask for and commands send."""
    monkeypatch.setenv("MINIVESS_TOKEN", TOKEN)
    monkeypatch.setenv("MINIVESS_REQUESTS_PER_MINUTE", "0")


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, stock: Callable[[Home], None],
    network: Network, window: Window, composition: Composition,
) -> Home:  # fmt: skip
    """A home with two versions of the model `tubes`, each with its service; 1 is in production."""
    home = open_home(tmp_path_factory.mktemp("home"))
    stock(home)
    store, profile = open_store(home, TrackingConfig()), profile_of().replace(classes=(0, 1, 2))
    common: dict[str, Any] = {"note": "n", "dataset": "tubes", "config": QUIET, "ingredients": {}}
    with mlflow_run(
        store, experiment="p", name="p", kind=names.PROFILE, key="p", **common
    ) as first:
        first.json(profile, names.PROFILE_ARTIFACT)
    for seed in (3, 4):
        weights = home.root / f"{seed}.pth"
        torch.save({"weights": networks.initial(network, seed).state_dict()}, weights)
        with mlflow_run(
            store, experiment="tubes", name="f", kind=names.FAMILY, key=str(seed), **common
        ) as run:
            run.json(profile, names.PROFILE_ARTIFACT)
            run.params(data_params(profile) | {names.UPSTREAM_PROFILE: first.run_id})
            run.params(preparation_params(QUIET))
            model.log_model(run, network=network, window=window, checkpoint=weights)
        version = registry.register(store, name="tubes", run_id=run.run_id, note="n", tags={})
        onnx = export.to_onnx(network, weights, home.root / f"{version}.onnx")
        package.build(
            home.served, onnx=[onnx], composition=composition, lineage={"seed": str(seed)},
            name="tubes", version=version, classes=(0, 1, 2), domain=domain_of(profile),
        )  # fmt: skip
    add_ensemble(home, store, Members(how="mean", families=("a", "b"), members=tuple(
        Member(family=family, fold=fold, run_id=registry.by_version(store, "tubes", version).run_id,
               artifact="model/artifacts/checkpoint.pth", network=network, window=window)
        for family, fold, version in (("a", 0, "1"), ("a", 1, "2"), ("b", 0, "2"))
    )), data_params(profile))  # fmt: skip
    return home


def add_ensemble(home: Home, store: Store, members: Members, params: dict[str, Any]) -> None:
    """Register an ensemble of trainings of this home as the next version, with its service."""
    with mlflow_run(
        store, experiment="e", name="mean_all", kind=names.ENSEMBLE, key="e", note="n",
        dataset="tubes", config=QUIET, ingredients={},
    ) as run:  # fmt: skip
        run.params(params | {names.UPSTREAM_TRAINING: members.members[0].run_id})
        model.log_ensemble(run, members)
    version = registry.register(store, name="tubes", run_id=run.run_id, note="n", tags={})
    trained = model.trained(store, run.run_id)
    package.build(
        home.served, onnx=export.each(*trained, home.root / "ensemble"), name="tubes",
        composition=trained.composition, lineage={}, version=version, classes=(0, 1, 2),
    )  # fmt: skip


@pytest.fixture
def store(home: Home) -> Store:
    """Its store, with version 1 in production."""
    store = open_store(home, TrackingConfig())
    registry.set_alias(store, "tubes", names.PRODUCTION_ALIAS, "1")
    return store


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A volume."""
    return write_nifti(tmp_path / "v.nii.gz", tube((24, 20, 5), 3)[0], (0.5, 0.5, 2.0))


@pytest.fixture
def expected(home: Home, network: Network, window: Window, image: Path) -> dict[str, np.ndarray]:
    """The mask of each version."""
    return {
        f"tubes:{version}": predict.segment(
            volume.read_volume(image),
            Predictor.of(network, window, export.forward(home.root / f"{version}.onnx")),
        )
        for version in ("1", "2")
    }


def minivess(home: Home, *words: str) -> Command:
    """Start a command on the home."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    variables = {**clean, "MINIVESS_HOME": str(home.root), "PREFECT_DISABLED": "1"}
    return Command(words, variables, home.root / f"{words[0]}-{time.monotonic_ns()}")


@pytest.fixture
def serving(home: Home, store: Store) -> Iterator[tuple[Command, str]]:
    """`minivess serve` with its address, ended by Ctrl-C."""
    port = free_port()
    command = minivess(home, "serve", "name=tubes", "--port", str(port))
    try:
        command.wait_for("Ctrl-C ends it")
        yield command, f"http://127.0.0.1:{port}"
    finally:
        if command.alive:
            command.send_signal(2)
        command.wait()
    assert is_free(port)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def serves(url: str) -> str | None:
    """The model that answers."""
    answer = httpx.get(f"{url}/readyz", timeout=30)
    return answer.headers.get("X-Minivess-Model")


def test_the_model_in_production_is_served_and_a_command_asks_it(
    serving: tuple[Command, str], home: Home, image: Path, tmp_path: Path,
    expected: dict[str, np.ndarray],
) -> None:  # fmt: skip
    command, url = serving
    assert "tubes@production: tubes:1 at http://127.0.0.1:" in command.out
    done = minivess(home, "predict", str(image), str(tmp_path / "out"), "--url", url, "--json")
    assert done.wait() == 0, done.err
    found = json.loads(done.out)
    assert found["model"]["model"] == "tubes:1"
    mask = volume.read_volume(Path(found["files"][0]))
    assert np.array_equal(mask.array, expected["tubes:1"])
    assert found["warnings"][0]["findings"][0]["code"] == "out_of_range"
    with pytest.raises(ServingError, match=r"rejected v\.nii\.gz \(404\).*has no thresholds"):
        client.post(url, image, "thresholds")
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}):
        refused = httpx.post(f"{url}/predict", headers=headers, files={"image": b"..."})
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "MINIVESS_TOKEN" in refused.json()["remedy"]
    said = minivess(home, "serve", "status", "--json")
    assert said.wait() == 0
    assert json.loads(said.out)["servers"][0]["model"] == "tubes:1"
    large = write_nifti(tmp_path / "large.nii.gz", tube((160, 160, 32), 5)[0])
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(client.post(url, large)))
    asking.start()
    wait_until(lambda: "minivess_requests_in_queue 1.0" in httpx.get(f"{url}/metrics").text)
    (private,) = (home.serving / "uploads").iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    wait_until(lambda: any(private.rglob("upload*")))
    command.send_signal(2)
    asking.join()
    assert [answer.status_code for answer in answers] == [200]
    assert (command.wait(), "Ended." in command.out) == (0, True)
    assert not any((home.serving / "uploads").iterdir())
    logs = command.out + command.err + (home.logs / "serve" / "tubes-1.log").read_text()
    assert not any(word in logs for word in (TOKEN, image.name, large.name))


def test_no_request_is_lost_while_the_alias_moves_and_each_answer_is_that_of_its_model(
    serving: tuple[Command, str], store: Store, image: Path, expected: dict[str, np.ndarray]
) -> None:
    _, url = serving
    answers: list[httpx.Response] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(client.post(url, image))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for one in clients:
        one.start()
    wait_until(lambda: len(answers) > 4)
    registry.set_alias(store, "tubes", names.PRODUCTION_ALIAS, "2")
    wait_until(lambda: serves(url) == "tubes:2")
    seen = len(answers)
    wait_until(lambda: len(answers) > seen + 8)
    done.set()
    for one in clients:
        one.join()
    models = Counter(answer.headers["X-Minivess-Model"] for answer in answers)
    assert set(models) == {"tubes:1", "tubes:2"}
    assert all(
        np.array_equal(client.mask_of(answer).array, expected[answer.headers["X-Minivess-Model"]])
        for answer in answers
    )


BEARER = {"Authorization": f"Bearer {TOKEN}"}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "platform-engineer.md"


def submitted(url: str, image: Path) -> str:
    """Submit a job; returns its address."""
    with image.open("rb") as stream:
        files = {"image": (image.name, stream)}
        answer = httpx.post(f"{url}/jobs", headers=BEARER, files=files, timeout=60)
    assert answer.status_code == 202, answer.text
    return f"{url}/jobs/{answer.json()['id']}"


def state(job: str) -> str:
    """State of a job."""
    return str(httpx.get(job, headers=BEARER, timeout=PATIENCE_S).json().get("state"))


def test_the_documented_commands_submit_a_job_and_fetch_its_mask(
    serving: tuple[Command, str], image: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    _, url = serving
    block = DOCS.read_text().partition("### Large volumes")[2].split("\n\n")[2]
    script = block.replace("http://127.0.0.1:3000", url).replace("volume.nii.gz", image.name)
    done = subprocess.run(
        ["bash", "-euc", script.replace("sleep 10", "sleep 0.2")], cwd=tmp_path, timeout=PATIENCE_S
    )
    assert done.returncode == 0
    mask = volume.read_volume(tmp_path / "mask.nii.gz").array
    assert np.array_equal(mask, expected["tubes:1"])
    (bad := tmp_path / "bad.nii.gz").write_text("garbage")
    job = submitted(url, bad)
    wait_until(lambda: state(job) == "failed")
    refused = httpx.get(f"{job}/result", headers=BEARER)
    assert (refused.status_code, refused.json()["code"]) == (422, "unreadable")
    job = submitted(url, write_nifti(tmp_path / "large.nii.gz", tube((256, 256, 48), 5)[0]))
    early = httpx.get(f"{job}/result", headers=BEARER)
    assert (early.status_code, early.headers["Retry-After"]) == (409, "10")
    wait_until(lambda: state(job) == "running")
    assert httpx.delete(job, headers=BEARER).json()["state"] == "cancelled"
    assert httpx.get(job, headers=BEARER).status_code == 404
    assert client.post(url, image).status_code == 200
    assert httpx.post(f"{url}/jobs", headers=BEARER, json={}).status_code == 415
    assert httpx.get(job).status_code == 401


def test_a_service_that_dies_is_started_again_and_requests_and_jobs_wait(
    serving: tuple[Command, str], home: Home, image: Path, tmp_path: Path
) -> None:
    command, url = serving
    large = write_nifti(tmp_path / "large.nii.gz", tube((160, 160, 32), 5)[0])
    job = submitted(url, large)
    wait_until(lambda: state(job) == "running")
    (supervisor,) = (
        one
        for one in psutil.process_iter(["cmdline", "environ"])
        if "minivess.runtime.supervisor" in (one.info["cmdline"] or [])
        and "tubes:1" in one.info["cmdline"]
        and str(home.root) in one.info["environ"].get("TMPDIR", "")
    )
    for process in supervisor.children(recursive=True):
        process.kill()
    assert client.post(url, image).headers["X-Minivess-Model"] == "tubes:1"
    command.wait_for("the service tubes:1 died and is started again")
    wait_until(lambda: state(job) == "done")
    answer = httpx.get(f"{job}/result", headers=BEARER)
    assert answer.headers["X-Minivess-Model"] == "tubes:1"
    again = client.mask_of(client.post(url, large)).array
    assert np.array_equal(client.mask_of(answer).array, again)


def test_a_version_without_a_service_is_not_served_and_what_is_served_stays(
    serving: tuple[Command, str], store: Store, home: Home, image: Path
) -> None:
    command, url = serving
    (home.served / "bentoml/bentos/tubes/2/src").rename(home.root / "aside")
    try:
        registry.set_alias(store, "tubes", names.PRODUCTION_ALIAS, "2")
        command.wait_for("tubes:1 stays: No service of tubes version 2 is built")
        assert client.post(url, image).headers["X-Minivess-Model"] == "tubes:1"
    finally:
        (home.root / "aside").rename(home.served / "bentoml/bentos/tubes/2/src")
    wait_until(lambda: serves(url) == "tubes:2")


def test_an_ensemble_in_the_background_answers_as_elsewhere_and_is_stopped(
    home: Home, store: Store, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    started = minivess(home, "serve", "tubes/3", "--detach", "--port", str(port), "--json")
    assert started.wait() == 0, started.err
    found = json.loads(started.out)
    assert serves(found["url"]) == "tubes:3"
    mask = client.mask_of(client.post(found["url"], image)).array
    array = volume.read_volume(image).array
    with monkeypatch.context() as patch:
        patch.setenv("MINIVESS_HOME", str(home.root))
        patch.setenv("MLFLOW_TRACKING_URI", store.uri)
        with pytest.warns(UserWarning, match="out_of_range"):
            loaded = mv.load("tubes/3")(array, spacing=(0.5, 0.5, 2.0), unit="micron")
        plain = mlflow.pyfunc.load_model("models:/tubes/3")
        shares = plain.predict(array[None, None].astype(np.float32))[0]
    assert np.array_equal(mask, loaded)
    assert np.array_equal(mask, shares.argmax(axis=0))
    again = minivess(home, "serve", "tubes/1", "--port", str(port))
    assert again.wait() == 1
    assert f"Port {port} is taken by" in again.err
    below = psutil.Process(found["pid"]).children(recursive=True)
    stopped = minivess(home, "serve", "stop")
    assert (stopped.wait(), f"http://127.0.0.1:{port} ended" in stopped.out) == (0, True)
    assert is_free(port)
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
    assert minivess(home, "serve", "status").wait() == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "tubes@staging"], "no registered model tubes@staging"),
        (["serve", "tubes/9"], "no registered model tubes/9"),
        (["serve", "a", "b"], "takes [MODEL]"),
        (["predict", "IN", "OUT", "--url", "http://127.0.0.1:9"], "Nothing answers at"),
        (["predict", "IN", "OUT", "--url", "http://x", "name=tubes"], "decides by itself"),
    ],
    ids=["alias", "version", "two", "nothing-there", "two-choices"],
)
def test_what_names_no_model_or_service_is_refused(
    words: list[str], said: str, home: Home, store: Store, image: Path, tmp_path: Path
) -> None:
    places = {"IN": str(image), "OUT": str(tmp_path / "out")}
    done = minivess(home, *(places.get(word, word) for word in words))
    assert done.wait() > 0
    assert said in done.err


def test_an_address_that_others_reach_needs_a_token(
    home: Home, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MINIVESS_TOKEN")
    done = minivess(home, "serve", "tubes/1", "--host", "0.0.0.0")
    assert done.wait() == 2
    assert "At 0.0.0.0 other machines may ask the service, and no token is set." in done.err
    assert "export MINIVESS_TOKEN=" in done.err


def test_features_of_requests_are_stored_and_drift_is_found(
    serving: tuple[Command, str], home: Home, image: Path
) -> None:
    _, url = serving
    home.requests.unlink(missing_ok=True)
    few = minivess(home, "drift", "tubes/1", "--json")
    assert few.wait() == 0
    for _ in range(20):
        client.post(url, image)
    done = minivess(home, "drift", "tubes/1", "--json")
    assert done.wait() == 1, done.err
    found = json.loads(done.out)
    assert found["requests"] == 20
    assert "size_y" in found["drifted"]
    request_log.add(home.requests, "other:1", [0.0] * len(request_log.FEATURES))
    assert len(request_log.read(home.requests, "tubes:1", 500)) == 20


def test_the_history_leaves_out_a_move_that_a_killed_process_only_stored(store: Store) -> None:
    def move(version: str, before: str | None) -> AliasMove:
        return AliasMove(
            version=version, before=before, kind="promote", who="w", why="w", at="2026-01-01",
            deployment_run_id="d", analysis_run_id="a",
        )  # fmt: skip

    def versions() -> list[str]:
        return [one.version for one in registry.history(store, "tubes")]

    registry.add_move(store, "tubes", move("2", "1"))
    assert versions() == []  # the alias did not follow
    registry.add_move(store, "tubes", move("2", "1"))
    registry.set_alias(store, "tubes", names.PRODUCTION_ALIAS, "2")
    assert versions() == ["2"]
    registry.add_move(store, "tubes", move("1", "2"))
    registry.set_alias(store, "tubes", names.PRODUCTION_ALIAS, "1")
    assert versions() == ["2", "1"]
    registry.add_move(store, "tubes", move("2", "9"))  # 9 was set by hand
    registry.set_alias(store, "tubes", names.PRODUCTION_ALIAS, "2")
    assert versions() == ["2", "1", "2"]
    for number in (1, 2, 3, 4):
        store.client.delete_registered_model_tag("tubes", f"{names.PRODUCTION_MOVE}{number:04d}")


def test_the_store_of_requests_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "MOST", 10)
    for number in range(15):
        request_log.add(tmp_path / "r.db", "m:1", [number] * len(request_log.FEATURES))
    assert request_log.read(tmp_path / "r.db", "m:1", 500)[:, 0].tolist() == list(range(5, 15))
