"""A folder to hand on replaces only what it wrote itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivess import files, names
from minivess.errors import UsageError
from minivess.production.share.folder import require_own
from minivess.runtime.archives import MANIFEST, hashes


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What `share` wrote of analysis `a1`."""
    folder = tmp_path / "shared"
    files.write_text(folder / "index.html", "<p>all</p>")
    manifest = {names.UPSTREAM_ANALYSIS: "a1", "sha256": hashes(folder)}
    files.write_json(folder / MANIFEST, manifest)
    return folder


def test_a_new_an_empty_and_its_own_folder_are_written(shared: Path, tmp_path: Path) -> None:
    require_own(tmp_path / "new", "a1")
    (tmp_path / "empty").mkdir()
    require_own(tmp_path / "empty", "a1")
    require_own(shared, "a1")


def test_a_folder_of_other_files_of_another_analysis_or_with_changes_by_hand_is_refused(
    shared: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds other files"):
        require_own(tmp_path, "a1")
    with pytest.raises(UsageError, match="of analysis a1, and a2 is asked for"):
        require_own(shared, "a2")
    (shared / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt differs from its manifest"):
        require_own(shared, "a1")
    (shared / "notes.txt").unlink()
    (shared / "index.html").write_text("filled in")
    with pytest.raises(UsageError, match=r"index\.html differs"):
        require_own(shared, "a1")
    with pytest.raises(UsageError, match="is a file"):
        require_own(shared / "index.html", "a1")
