"""Bad input ends in one paragraph with its remedy, the right exit code, and no half-done state."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.home import Home
from minivess.tracking.store.store import open_store
from tests.conftest import write_nifti

pytestmark = pytest.mark.usefixtures("stocked")

MakeDataset = Callable[..., Path]


@pytest.fixture(autouse=True)
def _plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """These failures come before or apart from Prefect; its own are tried below by address."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; returns its paragraph."""

    def run(*words: str, code: int = 1) -> str:
        assert main.main(list(words)) == code
        paragraph = capsys.readouterr().err
        assert "Try: " in paragraph
        assert "Traceback" not in paragraph
        return paragraph

    return run


def run_statuses(home: Home) -> list[str]:
    """The status of every profile run in this home."""
    store = open_store(home, TrackingConfig())
    return [record.status for record in store.search(experiment=names.PROFILE_EXPERIMENT)]


def test_an_empty_folder_is_named_and_the_layouts_that_are_read_are_listed(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "images/" in refused("profile", f"data.root={tmp_path / 'empty'}")


def test_a_missing_folder_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "nowhere" in refused("profile", f"data.root={tmp_path / 'nowhere'}")


def test_images_without_labels_are_refused_by_name(
    refused: Callable[..., str], make_dataset: MakeDataset
) -> None:
    root = make_dataset(2)
    shutil.rmtree(root / "labels")
    (root / "labels").mkdir()
    assert "label" in refused("profile", f"data.root={root}")


def spoil_text(root: Path) -> None:
    (root / "images" / "vol00.nii.gz").write_text("this is no image")


def spoil_gzip(root: Path) -> None:
    with gzip.open(root / "images" / "vol00.nii.gz", "wb") as stream:
        stream.write(b"this is no image either" * 100)


def spoil_two_dimensions(root: Path) -> None:
    write_nifti(root / "images" / "vol00.nii.gz", np.ones((24, 24), np.uint16))


def spoil_label_shape(root: Path) -> None:
    write_nifti(root / "labels" / "vol00.nii.gz", np.ones((8, 8, 3), np.uint8))


SPOILERS = [spoil_text, spoil_gzip, spoil_two_dimensions, spoil_label_shape]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_set_with_nothing_usable_ends_with_one_message_and_a_failed_run(
    spoil: Callable[[Path], None],
    refused: Callable[..., str],
    make_dataset: MakeDataset,
    home: Home,
) -> None:
    root = make_dataset(1)
    spoil(root)
    assert "vol00" in refused("profile", f"data.root={root}")
    assert run_statuses(home) == ["FAILED"]
    assert not home.pointers.exists()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILERS)
def test_one_bad_volume_is_quarantined_and_the_others_go_on(
    spoil: Callable[[Path], None],
    make_dataset: MakeDataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_dataset(4)
    spoil(root)
    assert main.main(["profile", f"data.root={root}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["quarantined"] == ["vol00"]
    assert result["n_volumes"] == 3


def test_one_good_volume_is_profiled_but_cannot_be_trained_on(
    refused: Callable[..., str], make_dataset: MakeDataset
) -> None:
    root = make_dataset(1)
    assert main.main(["profile", f"data.root={root}"]) == 0
    assert "volume" in refused("train", f"data.root={root}")


def test_labels_of_0_and_255_stop_with_the_one_line_that_goes_on(
    refused: Callable[..., str], make_dataset: MakeDataset
) -> None:
    root = make_dataset(3, value=255)
    assert "data.label_map.255=1" in refused("profile", f"data.root={root}")
    assert main.main(["profile", f"data.root={root}", "data.label_map.255=1"]) == 0


def test_an_unknown_key_is_wrong_usage_and_names_the_nearest(refused: Callable[..., str]) -> None:
    paragraph = refused("train", "training.max_epoch=3", code=2)
    assert "training.max_epochs" in paragraph


def test_contradictory_keys_are_wrong_usage_and_both_are_named(
    refused: Callable[..., str],
) -> None:
    paragraph = refused(
        "train", "training.patch_size=[16,16,4]", "compute.patch_strategy=median_pad", code=2
    )
    assert "training.patch_size" in paragraph
    assert "compute.patch_strategy" in paragraph


def test_a_second_command_in_the_same_folder_is_told_who_holds_it(
    refused: Callable[..., str], home: Home
) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from minivess.home import lock\n"
            "with lock(Path(sys.argv[1]), what='minivess experiment'):\n"
            "    print('held', flush=True); time.sleep(600)",
            str(home.root / "lock"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        paragraph = refused("experiment")
        assert str(holder.pid) in paragraph
    finally:
        holder.kill()
        holder.wait()


def test_an_output_folder_that_cannot_be_written_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIVESS_HOME", "/proc/minivess")
    assert "MINIVESS_HOME" in refused("profile")


def test_a_busy_port_is_named_with_another_way(refused: Callable[..., str]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert str(port) in refused("ui", "--prefect-port", str(port))


def test_an_mlflow_address_that_does_not_answer_is_named_within_seconds(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, make_dataset: MakeDataset
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    paragraph = refused("analyse", f"data.root={make_dataset(2)}")
    assert "127.0.0.1:9" in paragraph
    assert "minivess settle" in paragraph
    assert time.monotonic() - started < 120


def test_a_prefect_address_that_does_not_answer_is_named_and_leaves_no_run(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    make_dataset: MakeDataset,
    home: Home,
) -> None:
    monkeypatch.delenv("PREFECT_DISABLED")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    paragraph = refused("profile", f"data.root={make_dataset(2)}")
    assert "127.0.0.1:9" in paragraph
    assert "RUNNING" not in run_statuses(home)


@pytest.mark.slow
def test_a_grid_of_more_than_twelve_hours_on_a_cpu_asks_before_it_starts(
    refused: Callable[..., str], make_dataset: MakeDataset
) -> None:
    root = make_dataset(4)
    assert main.main(["profile", f"data.root={root}"]) == 0
    paragraph = refused(
        "train", f"data.root={root}", "model.filters=[4,8,16]", "training.max_epochs=1000000"
    )
    assert "--yes" in paragraph
    assert "configs/experiments/lite.yaml" in paragraph
