"""A model as one file that other programs, and machines without the store, run."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minivess.cli.main import main
from minivess.combination import segmenting
from minivess.contracts import Case, Composition, Window
from minivess.errors import ServingError
from minivess.formats import volume
from minivess.serving import model_record, portable, predict
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


def test_what_is_no_exported_model_is_refused(tmp_path: Path) -> None:
    (text := tmp_path / "a.zip").write_text("text")
    with pytest.raises(ServingError, match="no exported model"), portable.opened(text):
        pass


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
