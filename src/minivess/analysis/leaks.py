"""Detect leaks: a network must not be evaluated on training volumes, their groups or copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minivess.contracts import Case, FoldModel
from minivess.errors import DataError

REMEDY = (
    "separate training and evaluation volumes: change the split (training.splits, data.group) and "
    "train again, the folds that it changes get new keys"
)


def check(models: Sequence[FoldModel], cases: Mapping[str, Case]) -> None:
    """Require that training and evaluation share no volume and no group, and that classes agree.

    Raises:
        DataError: the first leak found.
    """
    for model in models:
        where = f"{model.family} fold {model.spec.fold.index}"
        trained = set(model.spec.fold.train)
        unseen = {*model.spec.fold.val, *model.spec.test}
        if both := sorted(trained & unseen):
            raise DataError(
                f"Leak: {where} trained on {both[0]} and would also be evaluated on it.",
                remedy=REMEDY,
            )
        groups = {cases[case].group: case for case in trained if case in cases}
        for case in sorted(unseen & set(cases)):
            group = cases[case].group
            if group is not None and group in groups:
                raise DataError(
                    f"Leak: {where} trained on {groups[group]} and is evaluated on {case}, "
                    f"and both belong to group {group!r}.",
                    remedy=REMEDY,
                )
    _same_classes(models)


def saw(model: FoldModel, case: Case, contents: Mapping[str, str]) -> bool:
    """Whether a model trained on this volume or on a copy of it under another name.

    Args:
        contents: case -> hash of its bytes.
    """
    trained = model.spec.fold.train
    if case.case in trained:
        return True
    content = contents.get(case.case)
    return content is not None and any(contents.get(other) == content for other in trained)


def _same_classes(models: Sequence[FoldModel]) -> None:
    first = models[0]
    for model in models:
        if (model.spec.classes, model.spec.label_map) != (
            first.spec.classes,
            first.spec.label_map,
        ):
            raise DataError(
                f"{model.family} knows the classes {model.spec.classes} and {first.family} "
                f"{first.spec.classes}, so they cannot be compared.",
                remedy="analyse them separately: `minivess analyse --upstream ID`",
            )
