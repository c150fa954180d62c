"""No network judges what it trained on: not the volume, its group, nor a copy of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minivess.contracts import Case, FoldModel
from minivess.errors import DataError

REMEDY = (
    "keep apart what trains and what judges: change the split (training.splits, data.group) and "
    "train again, the folds that it changes get new keys"
)


def refuse(model: FoldModel, case: Case) -> None:
    """Raise where this model trained on this volume.

    Raises:
        DataError: it did.
    """
    if case.case in model.spec.fold.train:
        raise DataError(
            f"{model.family} fold {model.spec.fold.index} trained on {case.case}, "
            "so it cannot judge it.",
            remedy=REMEDY,
        )


def check(models: Sequence[FoldModel], cases: Mapping[str, Case]) -> None:
    """Look at the sides of every fold: no volume on both, no group on both, one set of classes.

    Raises:
        DataError: the first leak found, by name.
    """
    for model in models:
        where = f"{model.family} fold {model.spec.fold.index}"
        trained = set(model.spec.fold.train)
        unseen = {*model.spec.fold.val, *model.spec.test}
        if both := sorted(trained & unseen):
            raise DataError(
                f"Leak: {where} trained on {both[0]}, which is also to judge it.",
                remedy=REMEDY,
            )
        groups = {cases[case].group: case for case in trained if case in cases}
        for case in sorted(unseen & set(cases)):
            group = cases[case].group
            if group is not None and group in groups:
                raise DataError(
                    f"Leak: {where} trained on {groups[group]} and is judged on {case}, "
                    f"and both belong to group {group!r}.",
                    remedy=REMEDY,
                )
    _same_classes(models)


def saw(model: FoldModel, case: Case, contents: Mapping[str, str]) -> bool:
    """Whether the model trained on this volume or on a copy of it under another name.

    `contents` maps a case to the hash of its bytes.
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
                remedy="analyse them apart: `minivess analyse --upstream ID`",
            )
