"""Several networks on one volume: packed probabilities, votes, averaged weights.

Analysis and served ensembles combine networks here, so that a loaded model gives the judged mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minivess import files, inference, networks
from minivess.contracts import Composition, How, Network, Shape, Window
from minivess.inference import Forward, Predictor

Probabilities = npt.NDArray[np.float32]
Packed = npt.NDArray[np.uint8]
LARGEST = 255
KEPT_NETWORKS = 16


def pack(probabilities: Probabilities) -> Packed:
    """Round (C, X, Y, Z) to 255 steps without changing the most likely class of any voxel.

    Two classes are held as the second alone, (1, X, Y, Z).
    """
    packed: Packed = np.rint(probabilities * LARGEST).astype(np.uint8)
    likely = inference.mask(probabilities)
    if len(packed) == 2:
        second = packed[1]
        np.clip(second, LARGEST // 2 + 1, None, out=second, where=likely == 1)
        np.clip(second, None, LARGEST // 2, out=second, where=likely == 0)
        return packed[1:]
    tied = np.nonzero(packed.argmax(axis=0) != likely)
    packed[(likely[tied], *tied)] += 1
    return packed


def unpack(packed: Packed) -> Probabilities:
    """Return probabilities (C, X, Y, Z) of a packed volume."""
    whole = np.concatenate([LARGEST - packed, packed]) if len(packed) == 1 else packed
    return whole.astype(np.float32) / np.float32(LARGEST)


def mean(packed: Iterable[Packed]) -> Probabilities:
    """Return the mean probabilities of several networks."""
    first, *others = map(unpack, packed)
    for other in others:
        first += other
    return first / np.float32(1 + len(others))


def share(said: Probabilities, how: How, voters: int) -> Probabilities:
    """Return what one voter of several adds: its probabilities, or its vote.

    A vote is 1 for the likeliest class of each voxel, and a remainder that decides ties alone.
    """
    if how != "vote":
        return said / np.float32(voters)
    votes = said / np.float32(2 * voters)
    likely = inference.mask(said)
    for index, of_class in enumerate(votes):
        of_class += likely == index
    return votes / np.float32(voters)


@lru_cache(maxsize=KEPT_NETWORKS)
def averaged(record: str, checkpoints: tuple[Path, ...], device: str) -> Any:
    """Return the network of a record (JSON) with the mean weights of its checkpoints."""
    found = [networks.load(Network.model_validate_json(record), path) for path in checkpoints]
    if len(found) > 1:
        weights = [one.state_dict() for one in found]
        found[0].load_state_dict(
            {name: sum(one[name] for one in weights) / len(weights) for name in weights[0]}
        )
    return found[0].to(device)


def divisor(found: Sequence[Shape]) -> Shape:
    """Return the least common multiple of several divisors, axis by axis."""
    x, y, z = (int(np.lcm.reduce(sides)) for sides in zip(*found, strict=True))
    return x, y, z


def stored(network: Network, checkpoints: Sequence[Path], target: Path) -> Path:
    """Return a checkpoint of the mean weights of several, written to `target`; one is kept."""
    import torch

    if len(checkpoints) == 1:
        return checkpoints[0]
    found = averaged(network.model_dump_json(), tuple(checkpoints), "cpu")
    return files.write(target, lambda path: torch.save({"weights": found.state_dict()}, path))


@dataclass(frozen=True)
class Combined:
    """Several networks that segment volumes together, in place of one `Predictor`.

    Attributes:
        voters: the networks of each voter, whose probabilities are averaged.
        classes: the label value of each output channel; None where the channel is the value.
    """

    voters: tuple[tuple[Predictor, ...], ...]
    how: How
    classes: tuple[int, ...] | None = None

    @property
    def window(self) -> Window:
        """The window of the first network; all have the same resampling."""
        return self.voters[0][0].window

    @property
    def in_channels(self) -> int:
        """Channels of the volumes."""
        return self.voters[0][0].in_channels

    @property
    def divisor(self) -> Shape:
        """The sides of windows are multiples of it, for every network."""
        return divisor([one.divisor for voter in self.voters for one in voter])

    def probabilities(self, image: Probabilities) -> Probabilities:
        """Raw intensities (C, X, Y, Z) -> shares of classes or votes (C_out, X, Y, Z)."""
        first, *others = (
            share(mean(pack(one.probabilities(image)) for one in voter), self.how, len(self.voters))
            for voter in self.voters
        )
        for other in others:
            first += other
        return first

    def segment(self, image: Probabilities) -> npt.NDArray[np.uint8]:
        """Raw intensities (C, X, Y, Z) -> label values (X, Y, Z)."""
        indices = inference.mask(self.probabilities(image))
        return indices if self.classes is None else np.asarray(self.classes, np.uint8)[indices]


Segmenting = Predictor | Combined


def segmenting(
    model: Composition,
    forwards: Sequence[Forward | Path],
    *,
    classes: tuple[int, ...] | None = None,
) -> Segmenting:
    """Return what segments with the networks of a model.

    Args:
        forwards: of each network its checkpoint, or what runs it.
    """
    voters: dict[int, list[Predictor]] = {}
    for part, forward in zip(model.parts, forwards, strict=True):
        found = Predictor.of(part.network, part.window, forward)
        voters.setdefault(part.voter, []).append(found)
    if len(model.parts) == 1:
        return replace(found, classes=classes)
    return Combined(tuple(map(tuple, voters.values())), model.how, classes)
