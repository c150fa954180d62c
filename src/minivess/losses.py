"""Losses: a weighted sum of terms, each built in or found by its import path.

Resolving imports no torch, so that deciding what to reuse stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minivess.config import LossConfig, imported
from minivess.contracts import Loss, LossTerm
from minivess.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import nn

    from minivess.loss_terms import WeightedSum

BUILT_IN = {
    "dice_ce": "minivess.loss_terms:DiceCE",
    "cldice": "minivess.loss_terms:CenterlineDice",
    "cbdice": "minivess.loss_terms:CenterlineBoundaryDice",
    "dice_ce_cldice": "minivess.loss_terms:DiceCECenterlineDice",
    "skeleton_recall": "minivess.loss_terms:SkeletonRecall",
}


def resolve(config: LossConfig) -> Loss:
    """The loss of a file in configs/losses, its terms checked by name.

    Raises:
        UsageError: a term that is neither built in nor an import path, or none from the start.
    """
    if all(term.from_epoch for term in config.terms):
        raise UsageError(
            f"configs/losses/{config.name}.yaml has no term that counts from epoch 0 on.",
            remedy="leave out `from_epoch` of one term",
        )
    for term in config.terms:
        if term.loss not in BUILT_IN and ":" not in term.loss:
            near = nearest(term.loss, BUILT_IN)
            raise UsageError(
                f"configs/losses/{config.name}.yaml names {term.loss!r}, which is no loss.",
                remedy=f"{f'did you mean {near}? ' if near else ''}Known: {', '.join(BUILT_IN)}, "
                "or an import path such as monai.losses:TverskyLoss",
            )
    return Loss(name=config.name, terms=config.terms)


def build(loss: Loss, out_channels: int, *, ignores: bool = False) -> WeightedSum:
    """A module: (logits (B, C, X, Y, Z), target (B, 1, X, Y, Z) of class indices) -> values.

    A second channel of the target may hold the tubed skeleton, for the terms that look at it.
    The values are `loss`, to be minimised, and beside it, where there are several terms, each
    term unweighted and detached. Logits of deep supervision, (B, heads, C, X, Y, Z), are taken
    too. All terms compute in float32, and all count unless an epoch is given, `epoch=3`. With
    `ignores`, voxels whose target is IGNORED do not count.

    Raises:
        UsageError: a term that cannot be imported, or that refuses its arguments.
    """
    from minivess.loss_terms import WeightedSum

    return WeightedSum(
        names=names(loss),
        records=loss.terms,
        terms=[_term(term, loss.name, out_channels) for term in loss.terms],
        ignores=ignores,
    )


def needs_skeleton(loss: Loss) -> bool:
    """Whether a term looks at the tubed skeleton, which is best made once for each volume."""
    return any(term.loss == "skeleton_recall" for term in loss.terms)


def names(loss: Loss) -> list[str]:
    """How each term is called in metrics: `cldice`, `TverskyLoss`, `TverskyLoss_2`."""
    found: list[str] = []
    for term in loss.terms:
        name = term.loss.rpartition(":")[2]
        earlier = sum(1 for other in found if other.partition("_#")[0] == name)
        found.append(f"{name}_#{earlier + 1}" if earlier else name)
    return [name.replace("_#", "_") for name in found]


def _term(term: LossTerm, loss: str, out_channels: int) -> nn.Module:
    from minivess.loss_terms import adapted

    kind = imported(BUILT_IN.get(term.loss, term.loss))
    try:
        return adapted(kind, term.arguments, out_channels)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The term {term.loss} of configs/losses/{loss}.yaml refuses its arguments: {error}.",
            remedy=f"change `arguments` in configs/losses/{loss}.yaml",
        ) from error
