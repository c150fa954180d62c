"""The terms of losses as torch modules; each takes logits (B, C, X, Y, Z) and class indices.

Soft skeletons after Shit et al., "clDice", CVPR 2021; centerline boundary Dice after
Shi et al., "Centerline Boundary Dice Loss for Vascular Segmentation", MICCAI 2024; skeleton
recall after Kirchhoff et al., "Skeleton Recall Loss", ECCV 2024.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minivess import soft_skeleton
from minivess.contracts import IGNORED, LossTerm

MAX_RADIUS = 10
"""Erosions at most; fewer where the thickest vessel of the target is thinner, in voxels."""
FAR = 1e4
"""Above any logit."""
CERTAIN = 100.0
"""A logit so far above the others, 0, that float32 knows no doubt and no gradient is left."""


class WeightedSum(nn.Module):
    """Terms times weights; heads of deep supervision count 1, 1/2, 1/4, ...

    With `ignores`, voxels without annotation are background of target and prediction alike;
    what is cut at their border is cut in both. Means of cross-entropy leave them out.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        records: Sequence[LossTerm],
        terms: Sequence[Any],
        ignores: bool = False,
    ) -> None:
        super().__init__()
        self.ignores = ignores
        self.names = tuple(names)
        self.records = tuple(records)
        self.terms = nn.ModuleList(terms)

    def forward(
        self, logits: Tensor, target: Tensor, epoch: int | None = None
    ) -> dict[str, Tensor]:
        """`loss`, and each term where there are several; with an epoch, of those begun by then."""
        heads = logits.unbind(1) if logits.ndim == target.ndim + 1 else (logits,)
        ignored = target[:, :1] == IGNORED if self.ignores else None
        if ignored is not None:
            heads = tuple(_background(head.float(), ignored) for head in heads)
            target = target.masked_fill(ignored, 0)
        shares = [0.5**level for level in range(len(heads))]
        every = zip(self.names, self.records, self.terms, strict=True)
        begun = [one for one in every if epoch is None or epoch >= one[1].from_epoch]
        with torch.autocast(logits.device.type, enabled=False):
            values = {
                name: sum(
                    share * _value(term, seen(head.float(), target, record), target, ignored)
                    for share, head in zip(shares, heads, strict=True)
                )
                / sum(shares)
                for name, record, term in begun
            }
        total = sum(record.weight * values[name] for name, record, _ in begun)
        if len(self.terms) == 1:
            return {"loss": total}
        return {"loss": total, **{name: value.detach() for name, value in values.items()}}


def _value(term: Any, logits: Tensor, target: Tensor, ignored: Tensor | None) -> Any:
    """A term with what it takes: one looks at the skeleton beside the labels, some take means."""
    shown = target if isinstance(term, SkeletonRecall) else target[:, :1]
    takes_means = isinstance(term, DiceCE | DiceCECenterlineDice | Indexed)
    return term(logits, shown, ignored) if takes_means else term(logits, shown)


def seen(logits: Tensor, target: Tensor, record: LossTerm) -> Tensor:
    """The logits that a term sees: those of each voxel, or of the worst of its class beside it.

    After Valverde et al., "Topology-aware segmentation by Same Class Neighbor Penalization", 2025:
    a class has its lowest logit of 3 x 3 x 3 voxels where it is right, its highest where not.
    """
    if not record.worst_neighbour:
        return logits
    own = _one_hot(target[:, :1], logits.shape[1]).bool()
    lowest = -soft_skeleton.dilated(torch.where(own, -logits, -FAR))
    highest = soft_skeleton.dilated(torch.where(own, -FAR, logits))
    return torch.where(own, lowest, highest)


def _background(logits: Tensor, ignored: Tensor) -> Tensor:
    """Logits without any doubt that ignored voxels are background."""
    certain = torch.zeros_like(logits)
    certain[:, 0] = CERTAIN
    return torch.where(ignored, certain, logits)


class DiceCE(nn.Module):
    """Dice of the foreground classes over the whole batch, plus cross-entropy."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        from monai.losses.dice import DiceCELoss

        ours = {"to_onehot_y": True, "softmax": True, "include_background": False, "batch": True}
        self.loss = DiceCELoss(**{**ours, **arguments})

    def forward(self, logits: Tensor, target: Tensor, ignored: Tensor | None = None) -> Tensor:
        """From 0 up."""
        loss = self.loss
        if ignored is None:
            value: Tensor = loss(logits, target)
        else:
            entropy = _mean(loss.cross_entropy, logits, target, ignored)
            value = loss.lambda_dice * loss.dice(logits, target) + loss.lambda_ce * entropy
        return value


class CenterlineDice(nn.Module):
    """1 - clDice of the foreground classes: skeletons that lie inside the other mask."""

    def __init__(self, iterations: int = MAX_RADIUS, smooth: float = 1.0) -> None:
        super().__init__()
        self.iterations = iterations
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """From 0 to 1."""
        predicted = logits.softmax(dim=1)[:, 1:]
        truth = _one_hot(target, logits.shape[1])[:, 1:]
        true_line, erosions = soft_skeleton.hard(truth.bool(), self.iterations)
        line = soft_skeleton.soft(predicted, erosions)
        precision = self._share(line, truth)
        sensitivity = self._share(true_line.float(), predicted)
        return 1 - _harmonic_mean(precision, sensitivity).mean()

    def _share(self, line: Tensor, mask: Tensor) -> Tensor:
        """Share of a skeleton inside a mask, for each class over the whole batch."""
        over = [0, 2, 3, 4]
        return ((line * mask).sum(over) + self.smooth) / (line.sum(over) + self.smooth)


class DiceCECenterlineDice(nn.Module):
    """Half Dice with cross-entropy, half clDice."""

    def __init__(self, iterations: int = MAX_RADIUS) -> None:
        super().__init__()
        self.overlap = DiceCE()
        self.centerline = CenterlineDice(iterations)

    def forward(self, logits: Tensor, target: Tensor, ignored: Tensor | None = None) -> Tensor:
        """From 0 up."""
        overlap = self.overlap(logits, target, ignored)
        both: Tensor = 0.5 * overlap + 0.5 * self.centerline(logits, target)
        return both


class CenterlineBoundaryDice(nn.Module):
    """1 - cbDice of all foreground against background.

    Skeleton voxels weigh more where the vessel is thin, and count by how deep they lie in the
    other mask, relative to its thickest vessel, so that an off-centre vessel costs although its
    line lies inside. Masks and skeletons are hard; the gradient flows through the probabilities,
    hence only where something is predicted.
    """

    def __init__(self, iterations: int = MAX_RADIUS, smooth: float = 1.0) -> None:
        super().__init__()
        self.iterations = iterations
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """About 0 to 1."""
        probability = torch.sigmoid(logits[:, 1:].amax(dim=1, keepdim=True) - logits[:, :1])
        with torch.no_grad():
            truth = self._weights(target > 0)
            shape = self._weights(probability > 0.5)
        depth, radius, weight = (part * probability for part in shape)
        true_depth, true_radius, true_weight = truth
        precision = self._share(
            weight * true_depth, weight * torch.where(true_radius > 0, true_radius, radius)
        )
        sensitivity = self._share(
            true_weight * depth, true_weight * torch.where(radius > 0, radius, true_radius)
        )
        return 1 - _harmonic_mean(precision, sensitivity)

    def _share(self, found: Tensor, expected: Tensor) -> Tensor:
        return (found.sum() + self.smooth) / (expected.sum() + self.smooth)

    def _weights(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Relative depth in the mask, depth on its skeleton, and thinness on its skeleton."""
        line = soft_skeleton.hard(mask, self.iterations)[0].float()
        distance = soft_skeleton.distance(mask)
        radius = distance * line
        over = [1, 2, 3, 4]
        widest = radius.amax(over, keepdim=True).clamp(min=1)
        thinnest = torch.where(line > 0, radius, widest).amin(over, keepdim=True).clamp(min=1)
        depth = torch.minimum(distance, widest) / widest
        return depth, depth * line, line * ((widest - radius + thinnest) / widest) ** 2


class SkeletonRecall(nn.Module):
    """1 - the share of the tubed skeleton that is predicted as its class; precision is left out.

    Where the target brings no skeleton along, it is made here, which costs more than the step.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """From 0 to 1."""
        line = target[:, 1:] if target.shape[1] > 1 else soft_skeleton.tubed(target)
        over = [0, 2, 3, 4]
        expected = _one_hot(line, logits.shape[1])[:, 1:]
        found = (logits.softmax(dim=1)[:, 1:] * expected).sum(over)
        recall = (found + self.smooth) / (expected.sum(over) + self.smooth)
        return 1 - recall.mean()


def _harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    return 2 * a * b / (a + b)


def _mean(loss: Any, logits: Tensor, target: Tensor, ignored: Tensor) -> Tensor:
    """A loss of torch that averages over voxels, over those that are annotated; 0 without any."""
    if bool(ignored.all()):
        return logits.sum() * 0
    value: Tensor = loss(logits, target.masked_fill(ignored, loss.ignore_index)[:, 0].long())
    return value


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """(B, 1, X, Y, Z) indices -> (B, classes, X, Y, Z) float."""
    return torch.cat([target == index for index in range(classes)], dim=1).float()


# --- losses of other packages -------------------------------------------------------------


class Indexed(nn.Module):
    """A loss that, as torch's own, takes class indices without a channel, (B, X, Y, Z)."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor, ignored: Tensor | None = None) -> Tensor:
        """The value of the wrapped loss."""
        if ignored is not None and hasattr(self.loss, "ignore_index"):
            return _mean(self.loss, logits, target, ignored)
        value: Tensor = self.loss(logits, target[:, 0].long())
        return value


class OfProbabilities(nn.Module):
    """A loss that wants probabilities; it would clip logits, and clipped ones learn nothing."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The value of the wrapped loss."""
        value: Tensor = self.loss(logits.softmax(dim=1), target)
        return value


def adapted(kind: Any, arguments: Mapping[str, Any], out_channels: int) -> nn.Module:
    """Build a term, so that it takes logits and class indices whatever its own habit is.

    MONAI's losses get `to_onehot_y` and `softmax` where they have them and the file is silent:
    without them several run and learn nothing. So with what the data decide: number of classes,
    dimensions, and equal distances between classes. A loss without `to_onehot_y` takes indices;
    one of MONAI's that has it and no activation of its own takes probabilities.
    """
    known = inspect.signature(kind).parameters
    if kind.__module__ == __name__:
        return _module(kind(**arguments))
    unsaid = {
        **dict.fromkeys(("to_onehot_y", "softmax", "use_softmax"), True),
        "classes": out_channels,
        "dim": 3,
        "dist_matrix": 1 - torch.eye(out_channels),
    }
    loss = _module(
        kind(**{name: value for name, value in unsaid.items() if name in known} | dict(arguments))
    )
    if "to_onehot_y" not in known:
        return Indexed(loss)
    bare = not {"softmax", "use_softmax"} & known.keys()
    return OfProbabilities(loss) if bare and kind.__module__.startswith("monai.") else loss


def _module(loss: Any) -> nn.Module:
    if not isinstance(loss, nn.Module):
        message = f"{type(loss).__name__} is no torch.nn.Module"
        raise TypeError(message)
    return loss
