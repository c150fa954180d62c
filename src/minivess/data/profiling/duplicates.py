"""Duplicate images: a small signature of each volume, and which signatures agree.

A signature has two parts. A coarse grid of voxels, as ranks, finds volumes of one shape that hold
the same image with other values. A sketch finds parts of one image wherever they lie: along x,
whether each voxel is brighter than the one before; short runs of that, on three neighbouring
lines, are selected by a rule on the run itself (MinHash after Broder 1997, sampled by
content, as Schleimer et al. 2003 do with text). Shared runs count only if they agree on one shift.
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minivess.contracts import Shape
from minivess.formats.decode import Array

GRID = (12, 12, 8)
EQUAL = 0.985  # rank correlation of two grids; scans of different subjects stay far below
RUN = 18  # comparisons in a run
# Each sum adds the sum before to itself, some places on; all stay within a run and are independent.
CHAINS = ((6, 4, 3, 1, 2), (1, 1, 1, 7, 3), (4, 4, 3, 4, 1))
FEWEST, MOST = 512, 1024  # runs in a sketch
SHARED, AGREED = 6, 0.75  # runs on one shift, and their share of all; by chance two, and a third
LARGEST = 1 << 32  # voxels whose places are counted in four bytes
MIX = np.uint64(0x9E3779B97F4A7C15)

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
SKETCH = np.dtype([("run", "<u4"), ("place", "<u4")])


class Duplicate(NamedTuple):
    """Two volumes that show the same image; `how` says so of the second, with {} for the first."""

    first: str
    second: str
    how: str


def signature(image: Array) -> str:
    """Return the signature of an image (X, Y, Z) as text, about 8 kB."""
    shape: Any = image.shape
    flat = image.ravel(order="F")[:LARGEST]
    parts = _ranks(image).tobytes() + _sketch(flat, shape).tobytes()
    return base64.b64encode(parts).decode()


def find_duplicates(volumes: Mapping[str, tuple[Shape, str]]) -> list[Duplicate]:
    """Return pairs that show the same image, from (shape, signature) of each volume.

    Each pair comes once, and each volume that is like others in at least one of them.
    """
    if len(volumes) < 2:
        return []
    raw = {name: base64.b64decode(text) for name, (_, text) in volumes.items()}
    shapes = {name: shape for name, (shape, _) in volumes.items()}
    size = int(np.prod(GRID))
    grids = {name: np.frombuffer(data[:size], np.int8).reshape(GRID) for name, data in raw.items()}
    sketches = {name: np.frombuffer(data[size:], SKETCH) for name, data in raw.items()}
    found: dict[tuple[str, str], Duplicate] = {}
    for match in (*_same_shape(shapes, grids), *_same_runs(shapes, sketches)):
        found.setdefault((match.first, match.second), match)
    return list(found.values())


# --- the grid -----------------------------------------------------------------------------


def _ranks(image: Array) -> npt.NDArray[np.int8]:
    """Return voxels on a grid that is symmetrical along each axis, as ranks from -127 to 127."""
    chosen = image[np.ix_(*(_symmetrical(n, k) for n, k in zip(image.shape, GRID, strict=True)))]
    _, where, counts = np.unique(chosen, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # equal values share their mean rank
    scaled = middle / max(chosen.size - 1, 1) * 254 - 127
    return np.rint(scaled[where]).astype(np.int8).reshape(GRID)


def _symmetrical(n: int, count: int) -> Ints:
    half = np.arange(count // 2) * (n - 1) // (count - 1)
    return np.concatenate([half, n - 1 - half[::-1]])


def _same_shape(
    shapes: Mapping[str, Shape], grids: Mapping[str, npt.NDArray[np.int8]]
) -> Iterator[Duplicate]:
    by_shape: dict[Shape, list[str]] = defaultdict(list)
    for name, shape in shapes.items():
        by_shape[shape].append(name)
    for names in by_shape.values():
        stack = np.stack([grids[name] for name in names]).astype(np.float32)
        for flips in product((1, -1), repeat=3):
            mirrored = stack[:, :: flips[0], :: flips[1], :: flips[2]]
            how = "shows the image of {}" + ("" if flips == (1, 1, 1) else ", mirrored")
            for one, other in np.argwhere(np.triu(_correlation(stack, mirrored), 1) > EQUAL):
                yield Duplicate(names[one], names[other], how)


def _correlation(these: Array, those: Array) -> Array:
    one, other = (_unit(grids.reshape(len(grids), -1)) for grids in (these, those))
    return np.asarray(one @ other.T)


def _unit(rows: Array) -> Array:
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-6))


# --- the sketch ---------------------------------------------------------------------------


def _sketch(flat: Array, shape: Shape) -> npt.NDArray[Any]:
    """Return selected runs and their places; `flat` has x fastest."""
    rising = np.packbits(flat[1:] > flat[:-1], bitorder="little")
    padded = np.concatenate([rising, np.zeros(16 + -rising.size % 8, np.uint8)])
    places = _places(_chosen(padded.view("<u8")))
    x, y, z = np.unravel_index(places % flat.size, shape, order="F")
    inside = (x + RUN < shape[0]) & (y + 1 < shape[1]) & (z + 1 < shape[2]) & (places < flat.size)
    places = places[inside]
    runs = np.zeros(places.size, np.uint64)
    for step in (0, shape[0], shape[0] * shape[1]):
        runs = (runs ^ _runs_at(padded, places + step)) * MIX
        runs ^= runs >> np.uint64(29)
    # A run that occurs twice does not locate itself.
    found, first, counts = np.unique(runs >> np.uint64(32), return_index=True, return_counts=True)
    once = counts == 1
    sketch = np.empty(int(once.sum()), SKETCH)
    sketch["run"], sketch["place"] = found[once], places[first[once]]
    return sketch[:MOST]


def _chosen(bits: Words) -> Words:
    """Return a bit for each run that the rule selects: all its sums of comparisons are odd."""
    taken, fewer, later, carry = bits.copy(), *(np.zeros_like(bits) for _ in range(3))
    for chain in CHAINS:
        summed = bits.copy()
        for step in chain:  # each bit plus the one `step` places on
            np.right_shift(summed, np.uint64(step), out=later)
            np.left_shift(summed[1:], np.uint64(64 - step), out=carry[:-1])
            later |= carry
            summed ^= later
            np.bitwise_and(taken, summed, out=fewer)
            if np.count_nonzero(fewer) < FEWEST:
                return taken
            taken, fewer = fewer, taken
    return taken


def _places(bits: Words) -> Ints:
    """Return the places of set bits in a sparse stream."""
    words = np.flatnonzero(bits)
    spread = np.unpackbits(bits[words].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    word, bit = np.nonzero(spread)
    return words[word] * 64 + bit


def _runs_at(stream: npt.NDArray[np.uint8], places: Ints) -> Words:
    """Return RUN bits from each place on."""
    first = places >> 3
    wide = sum(stream[first + byte].astype(np.uint64) << np.uint64(8 * byte) for byte in range(4))
    return np.asarray(wide, np.uint64) >> (places & 7).astype(np.uint64) & np.uint64((1 << RUN) - 1)


def _same_runs(
    shapes: Mapping[str, Shape], sketches: Mapping[str, npt.NDArray[Any]]
) -> Iterator[Duplicate]:
    names = list(sketches)
    owner = np.repeat(np.arange(len(names)), [sketches[name].size for name in names])
    runs = np.concatenate([sketches[name]["run"] for name in names])
    where = [np.unravel_index(sketches[one]["place"], shapes[one], order="F") for one in names]
    place = np.concatenate([np.stack(axes, axis=1) for axes in where])
    order = np.argsort(runs, kind="stable")
    starts = np.flatnonzero(np.diff(runs[order].astype(np.int64), prepend=-1, append=-1))
    shifts: dict[tuple[int, int], Counter[tuple[int, ...]]] = defaultdict(Counter)
    for index in np.flatnonzero(np.diff(starts) > 1):
        # Each is held against the first alone: what many show is many times like the first.
        one, *others = order[starts[index] : starts[index + 1]]
        for other in others:
            shift = tuple(int(step) for step in place[one] - place[other])
            shifts[owner[one], owner[other]][shift] += 1
    for (one, other), seen in shifts.items():
        shift, count = seen.most_common(1)[0]
        if count >= max(SHARED, AGREED * seen.total()):
            yield Duplicate(
                names[one], names[other], f"shares a part with {{}}, {shift} voxels apart"
            )
