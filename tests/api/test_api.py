"""The library door: `import minivess as mv`."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import minivess as mv
from minivess.errors import DataError, TrainingError, UsageError
from minivess.home import Home, open_home
from tests.conftest import tube, write_nifti

CLONE = Path(__file__).resolve().parents[2]
PAGE = CLONE / "docs" / "python.md"
SMALL = '"model.filters=[4,8,8]", "tracking.log_system_metrics=false", '


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, minivess; sys.exit(any(m in sys.modules for m in ('pydantic', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there_and_stands_on_the_page() -> None:
    page = PAGE.read_text()
    for name in mv.__all__:
        assert getattr(mv, name).__doc__
        assert re.search(rf"`(mv\.)?{name}\b", page), name
    with pytest.raises(AttributeError, match="predcit"):
        mv.predcit  # noqa: B018


@pytest.mark.parametrize("kind", ["model", "loss"])
def test_a_definition_in_a_notebook_is_refused_with_the_files_to_put_it_in(kind: str) -> None:
    with pytest.raises(UsageError, match=f"minivess new {kind} NAME writes NAME.py"):
        exec(f"import minivess as mv\n@mv.{kind}\ndef own(): ...", {})


@pytest.fixture(scope="module")
def cells(
    stock: Callable[[Home], None], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The page's cell, run on a folder of tiny volumes: where, and the names that it made."""
    folder = tmp_path_factory.mktemp("notebook")
    stock(open_home(folder / "home"))
    for index in range(4):
        image, mask = tube((24, 24 + 2 * index, 5 + index), seed=index)
        write_nifti(folder / "vessels" / "images" / f"vol{index:02d}.nii.gz", image)
        write_nifti(folder / "vessels" / "labels" / f"vol{index:02d}.nii.gz", mask)
    cell, beside = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    cell = cell.replace("/data/vessels", str(folder / "vessels"))
    cell = cell.replace("mv.train(data, ", f"mv.train(data, {SMALL}")
    made: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        at_home(patch, folder)
        exec(cell.replace("mv.sql(", "found = mv.sql("), made)
    made["beside"] = beside.replace("mv.start(data, ", f"mv.start(data, {SMALL}")
    return folder, made


@pytest.fixture
def notebook(cells: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the page's cell made, in its folder and home."""
    folder, made = cells
    at_home(monkeypatch, folder)
    return made


def at_home(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Work in this folder, with its home."""
    patch.setenv("PREFECT_DISABLED", "1")
    patch.setenv("MINIVESS_HOME", str(folder / "home"))
    patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "dvc-site"))
    patch.chdir(folder)


@pytest.mark.slow
def test_the_cell_on_the_page_goes_from_a_folder_to_masks(
    notebook: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, job, study, model = (notebook[name] for name in ("data", "job", "study", "model"))
    assert list(data.volumes["case"]) == ["vol00", "vol01", "vol02", "vol03"]
    assert study.report.is_file()
    assert study.champion == "dynunet_dice_ce"
    assert {path.name for path in Path("masks").iterdir()} == {
        f"vol{index:02d}_mask.{end}" for index in range(4) for end in ("csv", "nii.gz", "png")
    }
    assert set(notebook["found"]["kind"]) == {"profile", "family", "cell", "analysis"}
    for result in (data, job, study, model):
        assert "\n\n" not in repr(result)

    assert data.show("vol01").width > data.show("vol01").height > 100
    with pytest.raises(UsageError, match="did you mean 'vol01'"):
        data.show("vol1")

    image, _ = tube((24, 26, 6), seed=1)
    file = tmp_path / "new.nii.gz"
    nib.save(nib.Nifti1Image(image, np.diag([0.5, 0.5, 2.0, 1.0])), file)
    (path,) = model.predict(file, tmp_path / "new")
    mask = model(image, spacing=(1.0, 1.0, 1.0))
    assert np.array_equal(mask, np.asarray(nib.Nifti1Image.from_filename(path).dataobj))

    capsys.readouterr()
    again = mv.train(
        data, "model.filters=[4,8,8]", "tracking.log_system_metrics=false", losses=["dice_ce"],
        folds=2, max_epochs=2,
    )  # fmt: skip
    assert again.run_ids == job.run_ids
    assert "reused" in capsys.readouterr().out
    with pytest.raises(DataError, match="Every voxel"):
        model(np.zeros((8, 8, 8)), spacing=(1, 1, 1))
    with pytest.raises(DataError, match="no volume"):
        model(image[None], spacing=(1, 1, 1))


@pytest.mark.slow
def test_a_job_trains_beside_the_notebook_and_is_waited_for_or_stopped(
    notebook: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    exec(notebook["beside"], notebook)
    job, study, data = notebook["job"], notebook["study"], notebook["data"]
    assert job.done
    shown = capsys.readouterr().out
    assert "reused   dynunet_dice_ce" in shown
    assert "dynunet_cbdice fold 1 epoch 2/2" in shown
    assert study.compare("dynunet_dice_ce", "dynunet_cbdice")["against"] == "dynunet_cbdice"
    with pytest.raises(UsageError, match="dynunet_cbdice"):
        study.compare("dynunet_dice_ce", "unet")
    assert "<table" in study._repr_html_()
    assert set(mv.runs("family")["name"]) == {"dynunet_dice_ce", "dynunet_cbdice"}

    stopped = mv.start(data, "model.filters=[4,8,8]", max_epochs=500, losses=["dice_ce"])
    while "epoch 1/500" not in stopped.tail():
        assert not stopped.done, stopped.tail()
        time.sleep(0.1)
    stopped.stop()
    with pytest.raises(TrainingError, match="Terminated"):
        stopped.wait()
    assert "ended with 143" in repr(stopped)


@pytest.mark.usefixtures("stocked")
def test_runs_are_a_frame_and_a_kind_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    assert list(mv.runs().columns) == [
        "started", "seconds", "kind", "experiment", "dataset", "name", "status", "dice",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="family"):
        mv.runs("familyy")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mv.train(max_epoch=5), "training.max_epochs"),
        (lambda: mv.profile(None, "training.max_epochs=5"), "mv.profile does not use"),
        (lambda: mv.analyse(None, "training.max_epochs=5"), "mv.analyse does not use"),
        (lambda: mv.train(seed=1), "mv.train does not use"),
        (lambda: mv.start(seed=1), "mv.train does not use"),
        (lambda: mv.search(max_epoch=5), "training.max_epochs"),
    ],
)
def test_a_setting_that_a_verb_does_not_use_is_refused(
    call: Callable[[], object], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        call()
    assert said in str(refused.value)


@pytest.mark.slow
def test_the_page_of_results_says_where_nothing_is_and_its_button_starts_what_is_typed(
    stocked: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("marimo")
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    app = runpy.run_path(str(CLONE / "notebooks" / "workspace.py"))["app"]
    jobs: list[mv.Job] = []
    typed = {
        "root": str(tmp_path / "away"), "losses": "dice_ce, cbdice", "epochs": 1, "train": False,
        "stop": False,
    }  # fmt: skip
    for pressed in (False, True):
        given = {name: SimpleNamespace(value=value) for name, value in typed.items()}
        given["train"].value = pressed
        outputs, _ = app.run(
            defs={**given, "job": lambda: (jobs or [None])[-1], "set_job": jobs.append}
        )
        assert any("no runs in this output folder yet" in getattr(o, "text", "") for o in outputs)
        assert len(jobs) == pressed
    assert 'training.losses=["dice_ce", "cbdice"]' in jobs[0].overrides
    with pytest.raises(TrainingError, match="away does not exist"):
        jobs[0].wait()
    given["train"].value = False
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    outputs, _ = app.run(defs={**given, "job": lambda: None, "set_job": jobs.append})
    assert any("The store does not answer" in getattr(o, "text", "") for o in outputs)


def test_a_mask_is_judged_as_the_analysis_does() -> None:
    _, label = tube((24, 26, 6), seed=1)
    found = mv.evaluate(2 * label, 2 * label, spacing=(0.5, 0.5, 2.0))
    assert (found["dice"], found["masd"]) == (1.0, 0.0)
    empty = mv.evaluate(np.zeros_like(label), label)
    assert (empty["dice"], empty["masd"]) == (0.0, None)
    ignored = np.where(label == 1, 255, label)
    assert mv.evaluate(label, ignored)["dice"] == 1.0
    with pytest.raises(DataError, match="shape"):
        mv.evaluate(label[:, :, 0], label)
