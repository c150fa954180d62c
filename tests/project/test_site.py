"""The site of docs/ and the notebook: whole, without a network, and nothing by accident."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[2]
PAGES = sorted((CLONE / "docs").rglob("*.md"))


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip(module)
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=CLONE,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_site_is_built_with_every_page_no_dead_link_and_a_search_that_needs_no_network(
    tmp_path: Path,
) -> None:
    done = run("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    made = {page.relative_to(CLONE / "docs").with_suffix(".html") for page in PAGES}
    assert {page for page in made if not (tmp_path / page).exists()} == set()
    assert (tmp_path / "search" / "search_index.js").is_file()  # read without a server
    index = (tmp_path / "index.html").read_text()
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', index)
    assert fetched == []
    if browser := shutil.which("chromium"):
        address = f"{(tmp_path / 'index.html').as_uri()}?q=champion"
        words = ["--headless", "--no-sandbox", "--virtual-time-budget=20000", "--dump-dom"]
        seen = subprocess.run(
            [browser, *words, f"--user-data-dir={tmp_path / 'browser'}", address],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert re.search(r"\d+ matching documents", seen)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_and_tables_stand_after_an_empty_line_without_which_the_site_has_none(
    page: Path,
) -> None:
    lines = page.read_text().splitlines()
    torn = [
        line for before, line in itertools.pairwise(lines)
        if before.strip() and (
            (line.startswith("- ") and not before.startswith(("- ", "  ")))
            or (line.startswith("|") and not before.startswith("|")))
    ]  # fmt: skip
    assert torn == []


def test_the_notebook_keeps_to_the_rules_of_its_kind() -> None:
    done = run("marimo", "check", "--strict", "notebooks/workspace.py")
    assert done.returncode == 0, done.stdout + done.stderr
