"""What annotation tools get can be opened, and what people did there comes back as decisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from minivess.contracts import Case, Fault, Pairing
from minivess.data.checks import finding
from minivess.data.pairing.cases import pair_files
from minivess.data.versions.curated import file_index
from minivess.errors import DataError
from minivess.home import Home
from minivess.review import exchange, queue
from tests.conftest import write_nifti


@pytest.fixture
def entries(make_dataset: Callable[..., Path], home: Home) -> list[queue.Entry]:
    """Three volumes in the queue's database."""
    pairing = pair_files(make_dataset(3))
    hashes = file_index(home).hashes([p for c in pairing.cases for p in c.files])
    queue.record_seen(home, "tubes", pairing, hashes, [], in_force={})
    return queue.entries(home, "tubes")


def test_a_scene_names_files_that_are_there(
    entries: list[queue.Entry], home: Home, tmp_path: Path
) -> None:
    assert exchange.to_slicer(home, entries, tmp_path / "out") == ["vol00", "vol01", "vol02"]
    scene = ElementTree.parse(tmp_path / "out" / "scene.mrml").getroot()
    storages = {n.get("id"): str(n.get("fileName")) for n in scene.iter("VolumeArchetypeStorage")}
    labels = list(scene.iter("LabelMapVolume"))
    assert len(storages) == 6
    assert [node.get("name") for node in labels] == ["vol00-label", "vol01-label", "vol02-label"]
    for node in [*labels, *scene.iter("Volume")]:
        file = tmp_path / "out" / storages[node.get("storageNodeRef")]
        assert nib.Nifti1Image.from_filename(file).shape[0] == 24
    with pytest.raises(DataError, match="not empty"):
        exchange.to_slicer(home, entries, tmp_path / "out")


def test_a_label_changed_in_slicer_becomes_a_fix(
    entries: list[queue.Entry], home: Home, tmp_path: Path
) -> None:
    exchange.to_slicer(home, entries, tmp_path / "out")
    write_nifti(tmp_path / "out/labels/vol01.nii.gz", np.ones((24, 26, 6), np.uint8))
    write_nifti(tmp_path / "out/labels/Segmentation.nii.gz", np.ones((24, 26, 6), np.uint8))
    assert exchange.read_back(home, tmp_path / "out", who="Ada", why="gap closed") == (
        ["vol01"], ["labels/Segmentation.nii.gz"],
    )  # fmt: skip
    fixed = queue.find(home, "tubes", "vol01")
    assert set(fixed.replaced) == {"label"}
    assert queue.current_files(home, fixed)["label"].parent == queue.replacements_folder(home)


def test_label_studio_gets_pictures_and_gives_verdicts(
    entries: list[queue.Entry], home: Home, tmp_path: Path
) -> None:
    assert exchange.to_label_studio(home, entries, tmp_path / "ls") == ["vol00", "vol01", "vol02"]
    tasks = json.loads((tmp_path / "ls" / "tasks.json").read_text())
    for task in tasks:
        _, _, place = task["data"]["image"].partition("?d=")
        with Image.open(tmp_path / place) as picture:
            assert picture.size[0] == 24
    for task, verdict in zip(tasks, ("accept", "reject", "fix"), strict=True):
        result = [
            {"from_name": "verdict", "value": {"choices": [verdict]}},
            {"from_name": "why", "value": {"text": ["seen"]}},
        ]
        task["annotations"] = [{"completed_by": {"email": "ada@lab"}, "result": result}]
    (tmp_path / "answers.json").write_text(json.dumps(tasks))
    for _ in range(2):  # reading twice decides once
        taken = exchange.read_back(home, tmp_path / "answers.json", who=None, why="")
        assert taken == (["vol00", "vol01"], ["vol02"])
    (made,) = queue.find(home, "tubes", "vol01").decisions
    assert (made.verdict, made.why, made.who) == ("reject", "seen", "ada@lab (Label Studio)")


def test_a_volume_that_nobody_can_accept_is_left(
    entries: list[queue.Entry], home: Home, tmp_path: Path
) -> None:
    broken = finding("non_finite", "9 voxels are NaN.").replace(case="vol00")
    paths = [entries[0].image, entries[0].label]
    case = Case(case="vol00", image=paths[0], label=paths[1])
    marks = dict(zip(paths, (entries[0].image_md5, entries[0].label_md5), strict=True))
    queue.record_seen(
        home, "tubes", Pairing(layout="", cases=(case,)), marks, [broken], in_force={}
    )
    exchange.to_label_studio(home, queue.entries(home, "tubes"), tmp_path / "ls")
    (task,) = json.loads((tmp_path / "ls" / "tasks.json").read_text())
    said = {"from_name": "verdict", "value": {"choices": ["accept"]}}
    task["annotations"] = [{"completed_by": 1, "result": [said]}]
    (tmp_path / "answers.json").write_text(json.dumps([task]))
    assert exchange.read_back(home, tmp_path / "answers.json", who=None, why="") == (
        [], ["vol00 (vol00 cannot be used as it is: 9 voxels are NaN.)"],
    )  # fmt: skip


def test_something_else_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="neither"):
        exchange.read_back(home, tmp_path / "x.json", who=None, why="")


def test_a_scene_that_names_files_outside_its_folder_is_refused(
    entries: list[queue.Entry], home: Home, tmp_path: Path
) -> None:
    exchange.to_slicer(home, entries, tmp_path / "out")
    manifest = tmp_path / "out" / exchange.MANIFEST
    manifest.write_text(manifest.read_text().replace("labels/vol01.nii.gz", "../secret.nii.gz"))
    with pytest.raises(DataError, match="outside its folder"):
        exchange.read_back(home, tmp_path / "out", who="Ada", why="from elsewhere")


def test_marks_open_beside_the_volumes_and_a_correction_there_becomes_a_fix(
    entries: list[queue.Entry], home: Home, tmp_path: Path
) -> None:
    gap = Fault(
        case="vol01", label=1, kind="false break", voxel=(3, 4, 2), place=(3.0, -4.0, 2.5),
        length=6.0, lumen=2.0, unit="micron",
    )  # fmt: skip
    exchange.to_slicer(home, entries, tmp_path / "out", [gap, gap.replace(unit="mm")])
    scene = ElementTree.parse(tmp_path / "out" / "scene.mrml").getroot()
    (storage,) = scene.iter("MarkupsJsonStorage")
    (node,) = scene.iter("MarkupsFiducial")
    assert node.get("storageNodeRef") == storage.get("id")
    (shown,) = json.loads((tmp_path / "out" / str(storage.get("fileName"))).read_text())["markups"]
    points = shown["controlPoints"]
    assert [point["position"] for point in points] == [[0.003, -0.004, 0.0025], [3.0, -4.0, 2.5]]
    assert points[0]["label"] == "false break 1"
    write_nifti(tmp_path / "out/labels/vol01.nii.gz", np.ones((24, 26, 6), np.uint8))
    assert exchange.read_back(home, tmp_path / "out", who="Ada", why="gap") == (["vol01"], [])
