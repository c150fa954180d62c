"""A model as one file that other programs, and machines without the store, run."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minivess.cli.main import main
from minivess.combination import segmenting
from minivess.contracts import Case, Composition, Window
from minivess.errors import ServingError
from minivess.formats import volume
from minivess.serving import model_record, portable, predict
from tests.faults import mutations
from tests.serving.conftest import make_case

CARD = "# tubes"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A volume that is larger than the window."""
    return make_case(tmp_path_factory.mktemp("in"), "deep", (24, 20, 9))


@pytest.fixture(scope="module")
def expected(case: Case, composition: Composition, checkpoint: Path) -> np.ndarray:
    """Its mask by the trained network."""
    trained = segmenting(composition, [checkpoint], classes=(0, 2, 5))
    return predict.segment(volume.read_volume(case.image), trained)


@pytest.fixture(scope="module", params=portable.FORMATS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
    model: model_record.ServedModel, checkpoint: Path,
) -> Path:  # fmt: skip
    """The network in one of the formats."""
    target = tmp_path_factory.mktemp("out") / f"{request.param}.zip"
    return portable.write(target, request.param, model, [checkpoint], CARD)


def test_every_format_gives_the_mask_of_the_trained_network_without_a_store(
    exported: Path, case: Case, expected: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MINIVESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    words = ["predict", str(case.image), str(tmp_path / "m.nii.gz"), "--model", str(exported)]
    assert main(words) == 0
    assert np.array_equal(volume.read_volume(tmp_path / "m.nii.gz").array, expected)
    assert not list((tmp_path / "home").rglob("*.db"))


def test_a_changed_file_is_refused_by_name(exported: Path, tmp_path: Path) -> None:
    changed = shutil.copy(exported, tmp_path / "changed.zip")
    with zipfile.ZipFile(changed, "a") as archive:
        archive.writestr("more.txt", "x")
    with (
        pytest.raises(ServingError, match=r"more\.txt differs from its manifest"),
        portable.opened(Path(changed)),
    ):
        pass


def text(path: Path) -> None:
    path.write_text("text")


def foreign(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "of another program")


def climbing(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.txt", "out")


def pointing(path: Path) -> None:
    """Name a network that is none of the files of the manifest."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(held["manifest.json"]) | {"networks": ["/etc/passwd"]}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (held | {"manifest.json": json.dumps(manifest)}).items():
            archive.writestr(name, content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("exported", ["onnx"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (text, "it is no archive, or a part of one"),
        (foreign, "it holds no manifest.json"),
        (climbing, "leads out of its own folder"),
        (pointing, "leads out of its own folder"),
        (cut, "it is no archive, or a part of one"),
        (flip, "it is damaged"),
    ],
)
def test_a_file_that_is_damaged_or_none_of_ours_is_refused_with_a_remedy(
    exported: Path, damage: Callable[[Path], None], said: str, case: Case, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    damage(file := Path(shutil.copy(exported, tmp_path / "m.zip")))
    words = ["predict", str(case.image), str(tmp_path / "out.nii.gz"), "--model", str(file)]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "Try: make one where the model is: minivess export FILE.zip" in err
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize("exported", ["onnx", "torchscript"], indirect=True)
def test_of_many_damaged_files_each_is_opened_or_refused(exported: Path, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        with portable.opened(path):
            pass

    found = mutations.read_all(Path(shutil.copy(exported, tmp_path / "m.zip")), read, count=100)
    assert found["wrong"] == []
    assert found["refused"] > 80


def unpacked(target: Path, exported: Path) -> Path:
    """The folder of an exported file."""
    with zipfile.ZipFile(exported) as archive:
        archive.extractall(target)
    return target


@pytest.mark.parametrize("exported", ["monai"], indirect=True)
def test_a_monai_bundle_passes_monais_check_and_gives_the_mask(
    exported: Path, case: Case, expected: np.ndarray, tmp_path: Path
) -> None:
    from monai.bundle import ConfigParser, verify_net_in_out

    folder = unpacked(tmp_path / "bundle", exported)
    config = folder / "configs/inference.json"
    verify_net_in_out(
        net_id="network_def", config_file=str(config), p=1, n=2, device="cpu",
        meta_file=str(config.with_name("metadata.json")), bundle_root=str(folder),
    )  # fmt: skip
    parser = ConfigParser(json.loads(config.read_text()))
    parser["bundle_root"], parser["dataset_dir"] = str(folder), str(case.image.parent)
    parser["output_dir"] = str(tmp_path / "masks")
    parser.get_parsed_content("run")
    (mask,) = (tmp_path / "masks").glob("*")
    assert np.array_equal(volume.read_volume(mask).array, expected)


@pytest.mark.parametrize("exported", ["bioimageio"], indirect=True)
def test_a_bioimageio_file_passes_its_own_check(exported: Path) -> None:
    core = pytest.importorskip("bioimageio.core")
    assert core.test_model(exported).status == "passed"


def test_an_ensemble_goes_into_the_formats_that_hold_one(
    tmp_path: Path, model: model_record.ServedModel, composition: Composition, checkpoint: Path,
    window: Window, case: Case, expected: np.ndarray,
) -> None:  # fmt: skip
    twice = composition.replace(parts=composition.parts * 2)
    ensemble = model.replace(ensemble=twice)
    with pytest.raises(ServingError, match="monai cannot hold an ensemble"):
        portable.write(tmp_path / "e.zip", "monai", ensemble, [checkpoint] * 2, CARD)
    path = portable.write(tmp_path / "e.zip", "onnx", ensemble, [checkpoint] * 2, CARD)
    with portable.opened(path) as (_, predictor):
        assert np.array_equal(predict.segment(volume.read_volume(case.image), predictor), expected)
