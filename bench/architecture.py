"""The picture of docs/architecture.md, drawn from the import contracts of pyproject.toml.

`just bench architecture` prints it; with --write it replaces the one of the page. A row of boxes is
one layer, which imports only from rows below it; below a room stand packages that no other room may
import.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[1]
PAGE = CLONE / "docs" / "architecture.md"
PICTURE = PAGE.parent / "images" / "architecture.svg"
WIDE, HIGH, GAP, ROW = 200, 34, 12, 46
STYLE = """<style>
  rect { fill: #eef3fb; stroke: #5b7db1; rx: 4 }
  text { font: 13px sans-serif; text-anchor: middle; fill: #12233d }
  .package { font-size: 10px; fill: #5b7db1 }
</style>"""


def contracts() -> list[dict[str, Any]]:
    """The import contracts, which `just check` holds the code against."""
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))
    listed: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return listed


def layers() -> list[list[str]]:
    """Rooms from the top down; those of one layer stand side by side."""
    whole = next(c for c in contracts() if c["type"] == "layers" and "containers" not in c)
    return [re.split(r"\s*[|:]\s*", layer) for layer in whole["layers"]]


def services() -> list[tuple[str, str]]:
    """Which room may import which package of others: the exceptions of the contracts."""
    listed = [line.split(" -> ") for c in contracts() for line in c.get("ignore_imports", ())]
    pairs = {(module.removeprefix("minivess.").split(".")[0], name) for module, name in listed}
    return sorted(pairs)


def picture() -> str:
    """The picture as SVG."""
    rows = [[room.removeprefix("minivess.") for room in row] for row in layers()]
    packages: dict[str, list[str]] = {}
    for room, package in services():
        packages.setdefault(room, []).append(package)
    across = max(map(len, rows)) * (WIDE + GAP) + GAP
    boxes = [
        box
        for level, row in enumerate(rows)
        for place, room in enumerate(row)
        for box in _box(
            room,
            ", ".join(packages.get(room, ())),
            across / 2 + (place - (len(row) - 1) / 2) * (WIDE + GAP),
            level * ROW + GAP,
        )
    ]
    size = f'width="{across}" height="{len(rows) * ROW + GAP}"'
    title = "<title>The rooms of minivess; each imports only from rows below it</title>"
    background = '<rect width="100%" height="100%" style="fill: white; stroke: none"/>'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([opening, title, STYLE, background, *boxes, "</svg>"]) + "\n"


def _box(room: str, packages: str, middle: float, top: float) -> Iterator[str]:
    yield f'<rect x="{middle - WIDE / 2:g}" y="{top:g}" width="{WIDE}" height="{HIGH}"/>'
    yield f'<text x="{middle:g}" y="{top + (15 if packages else 22):g}">{room}</text>'
    if packages:
        yield f'<text class="package" x="{middle:g}" y="{top + 28:g}">{packages}</text>'


def main() -> None:
    """Print the picture, or write its file."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--write", action="store_true", help=f"write {PICTURE.name}")
    if words.parse_args().write:
        PICTURE.write_text(picture(), encoding="utf-8")
    else:
        print(picture(), end="")


if __name__ == "__main__":
    main()
