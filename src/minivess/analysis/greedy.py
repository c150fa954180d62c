"""A greedy choice of families to average, nested: a fold's volumes never choose what judges them.

Caruana et al. 2004: start with the family of the highest mean Dice, add the one that raises it
most, stop when none does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from minivess import inference
from minivess.analysis.ensembling import Ensemble
from minivess.analysis.predictions import OutOfFoldPredictor
from minivess.contracts import Case
from minivess.evaluation import metrics

Families = frozenset[str]
Table = dict[str, dict[Families, float]]
"""Case -> families -> Dice of their mean probability."""


def choose(predictor: OutOfFoldPredictor, cases: Iterable[Case]) -> Ensemble | None:
    """Choose families on all volumes, and for each fold on the volumes of the others.

    Returns:
        None with one family, or where a fold has no other to choose on.
    """
    names = list(predictor.families)
    usable = [
        case
        for case in cases
        if case.label is not None
        and case.case in predictor.folds
        and all(predictor.unseen(case, family) for family in names)
    ]
    folds = sorted({predictor.folds[case.case] for case in usable})
    if len(names) < 2 or len(folds) < 2:
        return None
    judges: dict[int | None, list[Case]] = {None: usable}
    judges |= {k: [case for case in usable if predictor.folds[case.case] != k] for k in folds}
    chosen = dict.fromkeys(judges, Families())
    table: Table = {case.case: {} for case in usable}
    growing = set(judges)
    while growing:
        _fill(table, predictor, usable, names, {k: chosen[k] for k in growing}, judges)
        for k in sorted(growing, key=str):
            best = _better(table, chosen[k], names, judges[k])
            if best is None:
                growing.remove(k)
            else:
                chosen[k] = best
    by_fold = {k: _ordered(of, names) for k, of in chosen.items() if k is not None}
    return Ensemble(_ordered(chosen[None], names), "mean", by_fold)


def _ordered(families: Families, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in families)


def _candidates(families: Families, names: Sequence[str]) -> list[Families]:
    return [families | {name} for name in names if name not in families]


def _better(
    table: Table, families: Families, names: Sequence[str], cases: Sequence[Case]
) -> Families | None:
    """The candidate of the highest mean Dice, if it is above that of the present choice."""

    def mean(candidate: Families) -> float:
        return float(np.mean([table[case.case][candidate] for case in cases]))

    best = max(_candidates(families, names), key=mean, default=None)
    if best is None or (families and mean(best) <= mean(families)):
        return None
    return best


def _fill(
    table: Table,
    predictor: OutOfFoldPredictor,
    cases: Sequence[Case],
    names: Sequence[str],
    chosen: Mapping[int | None, Families],
    judges: Mapping[int | None, Sequence[Case]],
) -> None:
    """Compute Dice of every candidate on the volumes that choose it; each volume is read once."""
    for case in cases:
        asked = {
            candidate
            for k, families in chosen.items()
            if case in judges[k]
            for candidate in _candidates(families, names)
        }
        if missing := asked - set(table[case.case]):
            table[case.case] |= _dice(predictor, case, missing)


def _dice(
    predictor: OutOfFoldPredictor, case: Case, asked: Iterable[Families]
) -> dict[Families, float]:
    asked, classes = list(asked), predictor.spec.classes
    image, truth, _ = predictor.load(case)
    assert truth is not None
    said: dict[str, NDArray[np.float32]] = {
        name: predictor.mean(case, [(one,) for one in predictor.unseen(case, name)], lambda: image)
        for name in frozenset().union(*asked)
    }
    known = metrics.Truth(truth, classes)
    found = {}
    for families in asked:
        mask = inference.mask(np.sum([said[name] for name in sorted(families)], axis=0))
        scores = metrics.judge(
            mask, known, classes=classes, config=predictor.config.evaluation, topology=False
        )
        found[families] = float(scores["dice"] or 0.0)
    return found
