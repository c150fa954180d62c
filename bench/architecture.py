"""The picture of docs/architecture.md, drawn from the import contracts of pyproject.toml.

`just bench architecture` prints it; with --write it replaces the one on the page. A row of boxes is
one layer, which imports only from rows below it; dotted arrows lead to packages that no other room
may import.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[1]
PAGE = CLONE / "docs" / "architecture.md"
START, END = "```mermaid\n", "```\n"


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
    """The picture in Mermaid's language."""
    rows = [[room.removeprefix("minivess.") for room in row] for row in layers()]
    lines, heads = ["flowchart TD"], []
    for number, row in enumerate(rows):
        heads.append(row[0] if len(row) == 1 else f"row{number}")
        if len(row) > 1:
            boxes = [f"        {room}[{room}]" for room in row]
            lines += [f'    subgraph row{number}[" "]', "        direction LR", *boxes, "    end"]
    lines += [f"    {upper} --> {lower}" for upper, lower in pairwise(heads)]
    lines += [f"    {room} -.-> {package}([{package}])" for room, package in services()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the picture, or put it on the page."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--write", action="store_true", help=f"replace the one in {PAGE.name}")
    if not words.parse_args().write:
        print(picture(), end="")
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}{picture()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
