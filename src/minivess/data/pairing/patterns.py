"""Pair by patterns of the user: * within a folder, ** any folders, {case}."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from minivess.data.pairing.matches import (
    Ambiguous,
    Name,
    Pair,
    Reading,
    by_case_name,
    common_start,
    match_files,
)
from minivess.errors import DataError
from minivess.formats.filenames import stem

CASE = "{case}"


class _Fit(NamedTuple):
    """The texts that {case} may stand for in one path, and the folders that wildcards matched."""

    cases: set[Name]
    folders: tuple[str, ...]


def read_patterns(root: Path, found: list[Path], image: str, label: str) -> Reading:
    """Pair by two patterns; a file that both match belongs to the longer one.

    Raises:
        DataError: a pattern fits nothing, or both fit the same file alike.
        Ambiguous: an image fits several labels, or a label several images.
    """
    images, labels = (_fitting(root, found, pattern) for pattern in (image, label))
    for path in sorted(images.keys() & labels.keys()):
        del (labels if _is_longer(image, label, _place(root, path)) else images)[path]
    for key, pattern, fitting in (("image", image, images), ("label", label, labels)):
        if not fitting:
            raise _no_match(root, found, pattern, f"data.{key}")

    alike = len({tuple(re.findall(r"\*+", p.rpartition("/")[0])) for p in (image, label)}) == 1

    def fits(one: Path, other: Path) -> bool:
        """Where both patterns leave folders open in one way, a pair lies in the same ones."""
        both = zip(images[one].folders, labels[other].folders, strict=alike)
        return not alike or all(a == b or not (a and b) for a, b in both)

    pairs = match_files(
        {path: fit.cases for path, fit in images.items()},
        {path: fit.cases for path, fit in labels.items()},
        fits,
    )
    count = Counter(pairs.values())
    paired = {path for pair in pairs for path in pair}
    cases = {
        pair: (*(images[pair[0]].folders if count[name] > 1 else ()), *name)
        for pair, name in pairs.items()
    }
    return Reading(
        "pattern",
        by_case_name(
            ("_".join(filter(None, name)).replace("/", "_"), pair) for pair, name in cases.items()
        ),
        [path for path in images if path not in paired],
        [path for path in labels if path not in paired],
    )


def _is_longer(image: str, label: str, place: str) -> bool:
    """Whether a file that both patterns fit is an image."""
    longer = _literal_length(image) - _literal_length(label)
    if longer == 0:
        raise DataError(
            f"data.image={image} and data.label={label} both fit {place}.",
            remedy="give patterns that distinguish images from labels",
        )
    return longer > 0


def _place(root: Path, path: Path) -> str:
    return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def _literal_length(pattern: str) -> int:
    return len(re.sub(r"\*+|\{case\}", "", pattern))


def _no_match(root: Path, found: list[Path], pattern: str, key: str) -> DataError:
    seen = ", ".join(_place(root, path) for path in found[:4])
    return DataError(
        f"{key}={pattern} fits no file in {root} that is not taken (first files: {seen}).",
        remedy=f"{key}='<pattern of those names>', with * or {{case}} for what differs",
    )


def _fitting(root: Path, found: list[Path], pattern: str) -> dict[Path, _Fit]:
    """Return the files that match; a pattern without / is compared with file names alone."""
    pattern = unicodedata.normalize("NFC", pattern).replace("\\", "/")
    pattern = pattern.removeprefix(f"{root.as_posix()}/").removeprefix("./")
    fitting = {}
    for path in found:
        place = _place(root, path)
        name = place if "/" in pattern else place.rpartition("/")[2]
        if fits := list(_fits(pattern, name)):
            cases: set[Name] = {(case or stem(path),) for case, _ in fits}
            fitting[path] = _Fit(cases, fits[-1][1])
    return fitting


def _fits(pattern: str, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each text that {case} may stand for, with the folders that wildcards matched."""
    tokens = list(_tokens(pattern))
    if CASE not in tokens:
        if fit := re.fullmatch("".join(tokens), name):
            parts = fit.groupdict()
            own = [part for key, part in parts.items() if key[0] == "n"] or list(parts.values())
            yield "_".join(filter(None, own)).replace("/", "_"), _folders(parts)
        return
    at = tokens.index(CASE)
    before, tail = re.compile("".join(tokens[:at])), tokens[at + 1 :]
    wild = [bool(each) and each[0].startswith("(?P<") for each in (tokens[:at][-1:], tail[:1])]
    for start in range(len(name)):
        first = before.fullmatch(name, 0, start)
        for end in range(start + 1, len(name) + 1 if first else 0):
            text = name[start:end]
            if text[-1] == "/" or (CASE in tail and text not in name[end:]):
                break
            rest = "".join(re.escape(text) if token == CASE else token for token in tail)
            if any(open_ and _torn(name, i) for open_, i in zip(wild, (start, end), strict=True)):
                continue
            if first and (second := re.compile(rest).fullmatch(name, end)):
                yield text, _folders({**first.groupdict(), **second.groupdict()})


def _torn(name: str, at: int) -> bool:
    """Whether a cut at this place leaves a part of a number or a word: v1|2."""
    return 0 < at < len(name) and name[at - 1 : at + 1].isalnum()


def _tokens(pattern: str) -> Iterator[str]:
    """Yield regular expressions, and {case} as it is; groups f: folders, n: parts of a name."""
    at = 0
    for index, piece in enumerate(re.split(r"(\*\*/|\*+|\{case\})", pattern)):
        if not piece:
            continue
        group = f"{'f' if at < pattern.rfind('/') else 'n'}{index}"
        if piece == "**/":
            yield f"(?P<{group}>(?:[^/]+/)*)"
        elif piece.startswith("*"):
            yield f"(?P<{group}>{'.*' if piece == '**' else '[^/]*'})"
        else:
            yield piece if piece == CASE else re.escape(piece)
        at += len(piece)


def _folders(parts: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(part.strip("/") for key, part in parts.items() if key[0] == "f")


# --- patterns for files that are there ------------------------------------------------------


def propose_patterns(root: Path, found: list[Path], pairs: Iterable[Pair]) -> dict[str, int]:
    """Return settings that read these pairs, with the number of pairs; most pairs first."""
    best = (max(_readings(root, found, pair), default=None) for pair in pairs)
    ordered = sorted(filter(None, best), key=lambda reading: -reading[0])
    return {" ".join(map(shlex.quote, words)): count for count, _, _, words in ordered}


def _readings(
    root: Path, found: list[Path], pair: Pair
) -> Iterator[tuple[int, int, int, tuple[str, str]]]:
    """Yield the number of pairs, of open folders and other files (negated), and settings."""
    places = [_place(root, path) for path in pair]
    for text in _shared(*places):
        for shared in ([], places):
            image, label = (_pattern(place, text, shared) for place in places)
            try:
                reading = read_patterns(root, found, image, label)
            except (Ambiguous, DataError):  # then these patterns are not proposed
                continue
            if pair in reading.cases.values():
                other = len(reading.images) + len(reading.labels)
                words = (f"data.image={image}", f"data.label={label}")
                yield len(reading.cases), -(image + label).count("**"), -other, words


def _shared(image: str, label: str) -> list[str]:
    """Return texts of both paths that may name the case: folders, and both ends of the names."""
    one, other = (stem(Path(place)) for place in (image, label))
    start, end = common_start(one, other), common_start(one[::-1], other[::-1])[::-1]
    folders = [part for part in image.split("/")[:-1] if part in label.split("/")[:-1]]
    texts = (text.strip("_-. ") for text in (start, end, *folders))
    return [
        text
        for text in dict.fromkeys(texts)
        if text and all(re.search(_whole(text), place) for place in (image, label))
    ]


def _whole(text: str) -> str:
    """Return a regular expression for the text, not within a longer word or number."""
    bounds = [
        r"\d" if c.isdigit() else r"[^\W\d_]" if c.isalpha() else r"(?!)"
        for c in (text[0], text[-1])
    ]
    return f"(?<!{bounds[0]}){re.escape(text)}(?!{bounds[1]})"


def _pattern(place: str, text: str, shared: Iterable[str]) -> str:
    """Return the path with {case} for the text; common folders of `shared` paths become **."""
    *folders, name = re.sub(_whole(text), lambda _: CASE, place).split("/")
    common = [set(path.split("/")[:-1]) for path in shared]
    open_folders = set.intersection(*common) if common else set()
    place = "/".join((*("**" if part in open_folders else part for part in folders), name))
    return re.sub(r"(\*\*/)+", "**/", place)
