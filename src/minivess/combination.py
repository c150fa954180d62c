"""Several networks on one volume: packed probabilities, votes, averaged weights.

Analysis and served ensembles combine networks here, so that a loaded model gives the judged mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from minivess import inference, networks
from minivess.contracts import Network

How = Literal["mean", "vote", "soup"]
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
