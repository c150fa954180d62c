"""The gallery is one page that needs nothing else, and shows every volume."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from minivess.config import DataConfig
from minivess.contracts import Case, DatasetProfile
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import profile as profiles
from minivess.data.versions.file_hashes import FileHashes
from minivess.home import Home
from minivess.review.pages import gallery


@pytest.fixture
def shown(make_dataset, home: Home) -> tuple[DatasetProfile, list[Case]]:
    root = make_dataset(3, name="<tubes>")
    (root / "images" / "vol02.nii.gz").write_text("no volume")
    pairing = pair_files(root)
    paths = [path for case in pairing.cases for path in case.files]
    hashes = FileHashes(home.profile_cache / "index.json").hashes(paths)
    measured = profiles.profile(pairing, hashes, config=DataConfig(), cache=home.profile_cache)
    profile = profiles.summarise(
        measured, dataset="<tubes>", dataset_path=str(root), version=None, label_map={}
    )
    return profile, list(pairing.cases)


def test_every_volume_has_four_views_and_findings_are_shown(shown, tmp_path: Path) -> None:
    profile, cases = shown
    page = gallery.render(
        profile, cases, tmp_path / "gallery.html", left_out=cases[-1:]
    ).read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 4
    assert "<b>unreadable</b>" in page
    assert "minivess review accept vol02 --dataset &#39;&lt;tubes&gt;&#39;" in page
    assert "&lt;tubes&gt;" in page
    assert "<tubes>" not in page


def test_what_was_decided_is_shown_with_who_when_and_why(shown, tmp_path: Path) -> None:
    profile, cases = shown
    made = {"verdict": "accept", "who": "Ada", "at": "2026-01-02T03:04", "why": "a <blank>"}
    page = gallery.render(
        profile, cases, tmp_path / "gallery.html", history={"vol01": [made]}
    ).read_text()
    assert "<b>accept</b> by Ada on 2026-01-02: a &lt;blank&gt;" in page
    assert page.count("minivess review reopen") == 1


def test_a_volume_left_out_is_shown_as_far_as_it_can_be_read(shown, tmp_path: Path) -> None:
    profile, cases = shown
    fewer = profile.replace(volumes=profile.volumes[:1], quarantined=("vol01", "vol02"))
    page = gallery.render(fewer, cases, tmp_path / "gallery.html", left_out=cases[1:]).read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 4
    assert page.count(">left out<") == 2


def test_the_page_asks_for_nothing_else(shown, tmp_path: Path) -> None:
    profile, cases = shown
    page = gallery.render(profile, cases, tmp_path / "gallery.html").read_text()
    addresses = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "<script" not in page


def test_plots_are_images(shown, tmp_path: Path) -> None:
    paths = gallery.plots(shown[0], tmp_path / "figures")
    assert [path.name for path in paths] == [
        "shapes.png", "spacings.png", "intensities.png", "foreground.png",
    ]  # fmt: skip
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 300
