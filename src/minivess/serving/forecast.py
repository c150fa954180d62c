"""What a volume will take to be segmented, known from its shape before: memory and seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minivess import inference
from minivess.combination import Combined, Segmenting
from minivess.compute import hardware
from minivess.contracts import Shape
from minivess.errors import DataError
from minivess.formats import volume
from minivess.formats.decode import check_shape
from minivess.text import format_duration, format_shape, format_size

TOO_LARGE = "too_large"
FORGOTTEN = 0.7
"""How much of what was measured before counts beside the latest volume."""


def memory_gb(shape: Shape, predictor: Segmenting) -> float:
    """Return GiB above those of an idle process; `shape` is that which the network sees.

    A network whose classes are not named counts as one of two.
    """
    classes = len(predictor.classes or (0, 1))
    # One network holds logits, weights of the blending and the volume; several also their sum.
    copies = 3 * classes + 2 if isinstance(predictor, Combined) else classes + 2
    return 4 * copies * math.prod(shape) / 2**30


def require_memory(shape: Shape, predictor: Segmenting) -> None:
    """Require that a volume can be segmented in the memory that is free.

    Raises:
        DataError: it cannot.
    """
    needed, (_, free) = memory_gb(shape, predictor), hardware.memory()
    if needed > free:
        raise DataError(
            f"A volume of {format_shape(shape)} takes {needed:.1f} GiB of memory to be segmented, "
            f"and {free:.1f} GiB are free.",
            remedy="cut it into blocks, end other programs, or take a machine with more memory",
            code=TOO_LARGE,
        )


def require_header(source: Path, predictor: Segmenting) -> None:
    """Require it of a file, before a voxel is read; where volumes are resampled, `admit` does."""
    if predictor.window.resampling is None:
        require_memory(check_shape(source, volume.header_shape(source)), predictor)


def text(sources: Iterable[Path], predictor: Segmenting) -> str:
    """Return the memory that the largest of some files takes; unreadable ones do not count."""
    if predictor.window.resampling is not None:
        return "what memory each takes is known when it is resampled"
    largest = max(_shapes(sources), key=math.prod, default=None)
    if largest is None:
        return "no volume whose header can be read"
    return (
        f"the largest, {format_shape(largest)}, takes "
        f"{format_size(memory_gb(largest, predictor) * 2**30)} of memory beside the network's own, "
        f"{format_size(hardware.memory()[1] * 2**30)} are free"
    )


def _shapes(sources: Iterable[Path]) -> Iterator[Shape]:
    for source in sources:
        try:
            yield check_shape(source, volume.header_shape(source))
        except DataError:  # said when its turn comes
            continue


def work(shape: Shape, predictor: Segmenting) -> int:
    """Return the voxels that go through all networks, those of overlapping windows each time."""
    if isinstance(predictor, Combined):
        return sum(work(shape, one) for voter in predictor.voters for one in voter)
    window, divisor = predictor.window, predictor.divisor
    size = math.prod(inference.roi(shape, window, divisor))
    return size * inference.windows(shape, window, divisor) * inference.passes(window)


class Speed:
    """Seconds of a network on this host, measured at each volume that it segments."""

    def __init__(self) -> None:
        self._seconds, self._work = 0.0, 0.0

    @contextmanager
    def measured(self, shape: Shape, predictor: Segmenting) -> Iterator[None]:
        """Measure a `with` block in which the network segments a volume."""
        begun = time.perf_counter()
        yield
        self._seconds = FORGOTTEN * self._seconds + time.perf_counter() - begun
        self._work = FORGOTTEN * self._work + work(shape, predictor)

    def seconds(self, shape: Shape, predictor: Segmenting) -> float:
        """Return the seconds that a volume will take, after one was measured."""
        return work(shape, predictor) * self._seconds / self._work

    def require(self, shape: Shape, predictor: Segmenting, limit_s: float) -> None:
        """Require that a volume can be segmented in `limit_s` seconds.

        Raises:
            DataError: it cannot.
        """
        needed = self.seconds(shape, predictor)
        if needed > limit_s:
            raise DataError(
                f"A volume of {format_shape(shape)} will take {format_duration(needed)} "
                f"({needed:.0f} s), and a request may take {limit_s:g} s.",
                remedy="submit it as a job, which has no limit (POST /jobs), or deploy with "
                f"deployment.request_limit_s={math.ceil(1.5 * needed)}",
                code=TOO_LARGE,
            )
