"""Images and labels by the user's own patterns: * within a folder, ** any folders, {case}."""

from __future__ import annotations

import re
from pathlib import Path

from minivess.data.filenames import stem
from minivess.data.layouts import Reading, collect
from minivess.errors import DataError


def by_pattern(root: Path, found: list[Path], image: str, label: str) -> Reading:
    """Images and labels by the user's patterns; a file that both fit goes to the longer one."""
    reading = Reading("pattern", {}, {})
    first, second = sorted((image, label), key=_literal_length, reverse=True)
    taken: dict[str, dict[Path, str]] = {}
    for pattern in (first, second):
        matched = _matches(root, found, pattern)
        taken[pattern] = {p: c for p, c in matched.items() if p not in taken.get(first, {})}
        if not taken[pattern]:
            raise _no_match(
                root, found, pattern, "data.image" if pattern == image else "data.label"
            )
    for files_of, pattern in ((reading.images, image), (reading.labels, label)):
        collect(files_of, taken[pattern], taken[pattern].__getitem__, reading.notes)
    return reading


def _literal_length(pattern: str) -> int:
    return len(re.sub(r"\*+|\{case\}", "", pattern))


def _no_match(root: Path, found: list[Path], pattern: str, key: str) -> DataError:
    seen = ", ".join(path.relative_to(root).as_posix() for path in found[:4])
    return DataError(
        f"{key}={pattern} fits no file in {root} that is not taken (first files: {seen}).",
        remedy=f"{key}='<pattern of those names>', with * or {{case}} for what differs",
    )


def _matches(root: Path, found: list[Path], pattern: str) -> dict[Path, str]:
    """File -> case, for files that fit. A pattern without / is held against names alone."""
    rule = re.compile(_regex(pattern))
    matched = {}
    for path in found:
        name = path.relative_to(root).as_posix() if "/" in pattern else path.name
        if match := rule.fullmatch(name):
            parts = match.groupdict()
            chosen = (
                [parts["case"]] if "case" in parts else [part for part in parts.values() if part]
            )
            matched[path] = "_".join(chosen).replace("/", "_") or stem(path)
    return matched


def _regex(pattern: str) -> str:
    """`*` is anything within one folder, `**` any folders, `{case}` the same text throughout."""
    text, seen = "", False
    for index, piece in enumerate(re.split(r"(\*\*/|\*+|\{case\})", pattern.removeprefix("./"))):
        if piece == "{case}":
            text += "(?P=case)" if seen else "(?P<case>[^/]+)"
            seen = True
        elif piece == "**/":
            text += f"(?P<w{index}>(?:[^/]+/)*)"
        elif piece.startswith("*"):
            text += f"(?P<w{index}>{'.*' if piece == '**' else '[^/]*'})"
        else:
            text += re.escape(piece)
    return text
