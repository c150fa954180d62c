"""Opening stores, finding runs, reading artifacts back."""

from __future__ import annotations

import dataclasses
import http.server
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from minivess import names
from minivess.config import TrackingConfig
from minivess.errors import StoreError
from minivess.home import Home, open_home
from minivess.tracking.store.store import Store, open_store
from tests.tracking import stores
from tests.tracking.conftest import OpenRun

pytestmark = pytest.mark.slow


def test_a_key_finds_the_newest_finished_run(
    store: Store, open_run: OpenRun, experiment: str
) -> None:
    with open_run(key="k1"):
        pass
    with open_run(key="k1") as newer:
        pass
    with pytest.raises(ValueError, match="no"), open_run(key="k1"):
        raise ValueError("no")
    found = store.find("k1", experiment=experiment)
    assert found is not None
    assert found.run_id == newer.run_id
    assert found.experiment == experiment
    assert store.find("k2", experiment=experiment) is None
    assert store.find("k1", experiment="nowhere") is None


def test_an_experiment_may_have_a_name_longer_than_the_databases_hold_for_its_folder(
    store: Store, open_run: OpenRun
) -> None:
    places = set()
    for ending in ("a", "b"):
        with open_run(experiment="vessels " + 200 * "x" + ending) as run:
            run.text("kept", "note.txt")
        assert store.read_text(run.run_id, "note.txt") == "kept"
        places.add(str(store.get(run.run_id).artifact_uri).removesuffix(f"{run.run_id}/artifacts"))
    assert len(places) == 2


def test_a_folder_too_long_for_the_database_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    with stores.postgres() as uri:
        root = f"file:///{200 * 'x'}"
        store = open_store(open_home(tmp_path), TrackingConfig(uri=uri, artifact_root=root))
        with pytest.raises(StoreError, match=r"tracking\.artifact_root"):
            store.experiment_id("vessels", dataset="tubes", note="n")


def test_the_latest_of_a_kind_can_be_asked_for_by_param(
    store: Store, open_run: OpenRun, experiment: str
) -> None:
    for dataset in ("octa", "it's"):
        with open_run(kind=names.PROFILE) as run:
            run.params({names.DATASET_NAME: dataset})
    found = store.latest(
        experiment=experiment, kind=names.PROFILE, params={names.DATASET_NAME: "octa"}
    )
    newest = store.latest(experiment=experiment, kind=names.PROFILE)
    assert found is not None
    assert found.params[names.DATASET_NAME] == "octa"
    assert newest is not None
    assert newest.run_id == run.run_id
    assert store.latest(experiment=experiment, kind=names.ANALYSIS) is None


def test_a_deleted_experiment_is_restored_and_said(
    store: Store, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = store.experiment_id(experiment, dataset="a", note="Notes.")
    store.client.delete_experiment(first)
    assert store.experiment_id(experiment, dataset="b", note="Notes.") == first
    assert "restored" in caplog.text
    tags = store.client.get_experiment(first).tags
    assert tags == {
        "project": "minivess",
        "dataset": "a, b",
        names.NOTE: "Notes.",
        names.GROUP: experiment,
    }


def test_what_people_wrote_into_an_experiment_stays(store: Store, experiment: str) -> None:
    made = store.experiment_id(experiment, dataset="a", note="Ours.")
    store.client.set_experiment_tag(made, names.NOTE, "Theirs.")
    store.experiment_id(experiment, dataset="a", note="Ours.")
    assert store.client.get_experiment(made).tags[names.NOTE] == "Theirs."


def test_a_run_that_is_not_there_is_named(store: Store, open_run: OpenRun) -> None:
    with pytest.raises(StoreError, match="no run 0123"):
        store.get("0123")
    with open_run() as run:
        pass
    store.client.delete_run(run.run_id)
    with pytest.raises(StoreError, match="was deleted"):
        store.get(run.run_id)


def test_downloads_land_under_their_own_name_and_whole_ones_stay(
    store: Store, open_run: OpenRun, tmp_path: Path
) -> None:
    with open_run() as run:
        run.text("report", "report/report.html")
    file = store.download(run.run_id, "report/report.html", tmp_path / "here")
    folder = store.download(run.run_id, "report", tmp_path / "there")
    assert (file, folder) == (tmp_path / "here/report.html", tmp_path / "there/report")
    before = file.stat().st_ino
    assert store.download(run.run_id, "report/report.html", tmp_path / "here") == file
    assert file.stat().st_ino == before
    (folder / "report.html").write_text("torn")
    store.download(run.run_id, "report", tmp_path / "there")
    assert (folder / "report.html").read_text() == "report"
    with pytest.raises(StoreError, match=r"no artifact report/none\.html"):
        store.download(run.run_id, "report/none.html", tmp_path)


def test_the_artifact_store_is_tried_and_left_as_it_was(store: Store) -> None:
    store.probe_write()
    assert not list(store.home.artifacts.glob("write-test*"))


def test_an_artifact_store_that_cannot_be_written_is_said_before_any_work(
    store: Store, tmp_path: Path
) -> None:
    blocked = tmp_path / "a file where the folder should be"
    blocked.write_text("")
    with pytest.raises(StoreError, match="artifact store"):
        dataclasses.replace(store, artifact_root=blocked.as_uri()).probe_write()


def test_a_run_has_an_address_in_the_page(store: Store, open_run: OpenRun) -> None:
    with open_run() as run:
        pass
    url = store.url(run.run_id, "http://127.0.0.1:5000/")
    assert url.startswith("http://127.0.0.1:5000/#/experiments/")
    assert url.endswith(run.run_id)


def test_a_server_that_is_not_there_is_named_with_the_variable_to_set(home: Home) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(StoreError, match=uri) as caught:
        open_store(home, TrackingConfig(uri=uri))
    assert "MLFLOW_TRACKING_URI" in caught.value.remedy
    assert time.monotonic() - begun < 60


def test_a_server_that_accepts_and_never_answers_is_given_up_after_five_seconds(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minivess.tracking.store.connection.PROBE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StoreError, match="does not answer"):
            open_store(home, TrackingConfig(uri=uri))


def test_something_else_at_the_address_is_no_mlflow(home: Home) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 (the base class looks for this name)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(StoreError, match="open the MLflow store"):
            open_store(home, TrackingConfig(uri=uri))
        server.shutdown()


def test_a_folder_store_is_refused_with_a_database_beside_it(home: Home) -> None:
    for uri in ("./mlruns", "file:///data/mlruns"):
        with pytest.raises(StoreError, match="folder") as caught:
            open_store(home, TrackingConfig(uri=uri))
        assert "sqlite:///" in caught.value.remedy


def test_a_file_that_is_no_database_is_said_at_once(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_store(home, TrackingConfig(uri=f"sqlite:///{file}"))


def test_a_database_server_that_is_not_there_is_said_at_once(home: Home) -> None:
    uri = "postgresql://ann:secret@127.0.0.1:9/runs"
    with pytest.raises(StoreError) as caught:
        open_store(home, TrackingConfig(uri=uri))
    assert "secret" not in str(caught.value)
    # Without the driver, the package to install is what helps.
    assert "MLFLOW_TRACKING_URI" in caught.value.remedy or "psycopg" in caught.value.remedy


def test_passwords_are_never_shown(home: Home) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(home, TrackingConfig(uri="http://ann:secret@127.0.0.1:9"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_fresh_store_may_be_opened_by_several_processes_at_once(
    kind: str, tmp_path: Path
) -> None:
    open_home(tmp_path / "new")
    program = (
        "import sys; from pathlib import Path; from minivess.home import open_home\n"
        "from minivess.config import TrackingConfig\n"
        "from minivess.tracking.store.store import open_store\n"
        "settings = TrackingConfig(uri=sys.argv[2] or None)\n"
        "store = open_store(open_home(Path(sys.argv[1])), settings)\n"
        "print(store.experiment_id('shared', dataset='d', note='n'), 'torch' in sys.modules)"
    )

    def start(_: int) -> list[str]:
        words = [sys.executable, "-c", program, str(tmp_path / "new"), uri]
        return subprocess.run(words, capture_output=True, text=True).stdout.split()

    place = stores.postgres() if kind == "postgres" else nullcontext("")
    with place as uri, ThreadPoolExecutor() as pool:
        assert list(pool.map(start, range(2))) == [["1", "False"]] * 2


def test_a_kill_while_the_database_is_made_leaves_no_half_of_it(home: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from minivess.home import open_home\n"
        "from minivess.config import TrackingConfig\n"
        "from minivess.tracking.store.store import open_store\n"
        "open_store(open_home(Path(sys.argv[1])), TrackingConfig())"
    )
    making = home.root / "mlflow.db.making"
    with subprocess.Popen([sys.executable, "-c", program, str(home.root)]) as command:
        while command.poll() is None and not (making.exists() and making.stat().st_size):
            time.sleep(0.001)
        command.kill()
    assert making.exists()
    store = open_store(home, TrackingConfig())
    assert store.experiment_id("first", dataset="d", note="n") == "1"
    assert not making.exists()
