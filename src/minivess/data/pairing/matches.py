"""Match images with labels by their longest shared name, from both sides.

Every file has names by which it may be matched. A pair is an image and a label each of which is the
nearest to the other: they share the longest name. Two that are equally near are not chosen from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from minivess.contracts import Finding
from minivess.errors import DataError

Name = tuple[str, ...]  # folders, then the file's own part
Names = Mapping[Path, set[Name]]
Pair = tuple[Path, Path]


class Ambiguous(Exception):  # noqa: N818 (a question, which `pair` turns into an error)
    """An image with several labels, or a label with several images."""

    def __init__(self, pairs: list[Pair]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


@dataclass
class Reading:
    """Files by case as one layout reads them, files that were set aside, and remarks."""

    layout: str
    cases: dict[str, Pair] = field(default_factory=dict)
    images: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    examples: list[Pair] = field(default_factory=list)  # what may have been meant


def match_files(
    images: Names, labels: Names, fits: Callable[[Path, Path], bool] = lambda *_: True
) -> dict[Pair, Name]:
    """Return pairs, with the name that both files share.

    Raises:
        Ambiguous: two labels are equally near to one image, or two images to one label.
    """
    forth = _nearest(images, labels, fits)
    back = _nearest(labels, images, lambda label, image: fits(image, label))
    pairs = [(i, label) for i in forth for label in sorted(forth[i]) if i in back[label]]
    partners: dict[Path, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for path in pair:
            partners[path].append(pair)
    if crowd := next((together for together in partners.values() if len(together) > 1), None):
        raise Ambiguous(crowd)
    return {
        (i, label): max(images[i] & labels[label], key=lambda name: (len(name[-1]), len(name)))
        for i, label in pairs
    }


def _nearest(
    these: Names, those: Names, fits: Callable[[Path, Path], bool]
) -> dict[Path, set[Path]]:
    """Return for each file those on the other side that share its longest name."""
    by_name: dict[Name, list[Path]] = defaultdict(list)
    for path, names in those.items():
        for name in names:
            by_name[name].append(path)
    nearest: dict[Path, set[Path]] = {}
    for path, names in these.items():
        shared = {
            name: near
            for name in names
            if (
                near := {
                    other for other in by_name.get(name, ()) if other != path and fits(path, other)
                }
            )
        }
        longest = max((len(name[-1]) for name in shared), default=0)
        nearest[path] = set().union(*(n for name, n in shared.items() if len(name[-1]) == longest))
    return nearest


def common_start(one: str, other: str) -> str:
    """Return the common prefix."""
    pairs = zip(one, other, strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def by_case_name(cases: Iterable[tuple[str, Pair]]) -> dict[str, Pair]:
    """Return pairs by case name.

    Raises:
        DataError: two pairs would bear one name.
    """
    found: dict[str, Pair] = {}
    for case, pair in cases:
        if found.setdefault(case, pair) != pair:
            raise DataError(
                f"{found[case][0]} and {pair[0]} would both be called {case}.",
                remedy="rename one of the two, or its folder",
            )
    return found
