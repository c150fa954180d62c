"""Features of served volumes in one SQLite file, bounded in number; it holds no voxels."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minivess import units
from minivess.contracts import DatasetProfile
from minivess.data.profiling.domain import PERCENTILES, sampled
from minivess.formats.decode import Volume

MOST = 10_000
FEATURES = ("size_x", "size_y", "size_z", "voxel_x", "voxel_y", "voxel_z", "dark", "median",
            "bright", "foreground")  # fmt: skip
Rows = npt.NDArray[np.float64]
TABLE = "create table if not exists requests (at real, model text, features text)"


def features_of(image: Volume, mask: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    """Return the features of a volume and its mask, in the order of FEATURES."""
    scale = units.in_micron(image.unit) or 1.0
    return (
        *map(float, image.shape),
        *(step * scale for step in image.spacing),
        *(float(value) for value in np.percentile(sampled(image), [*map(float, PERCENTILES)])),
        float((mask != 0).mean()),
    )


def reference_of(profile: DatasetProfile) -> Rows:
    """Return the same features of the volumes trained on, a row each."""
    return np.array(
        [
            (
                *volume.shape,
                *(step * (units.in_micron(volume.unit) or 1.0) for step in volume.voxel_spacing),
                *(volume.percentiles[name] for name in PERCENTILES),
                volume.foreground_ratio,
            )
            for volume in profile.volumes
        ],
        dtype=np.float64,
    )


def add(file: Path, model: str, features: Sequence[float]) -> None:
    """Store the features of one request; beyond MOST the oldest are removed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=30)) as database, database:
        database.execute(TABLE)
        row = (time.time(), model, json.dumps(list(features)))
        database.execute("insert into requests values (?, ?, ?)", row)
        database.execute(
            "delete from requests where rowid <= (select max(rowid) from requests) - ?", (MOST,)
        )


def read(file: Path, model: str, most: int) -> Rows:
    """Return the features of the newest requests to a model, the oldest first."""
    if not file.is_file():
        return np.empty((0, len(FEATURES)))
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as database:
        query = "select features from requests where model = ? order by rowid desc limit ?"
        rows = database.execute(query, (model, most)).fetchall()
    found = [json.loads(features) for (features,) in reversed(rows)]
    return np.array(found, dtype=np.float64).reshape(-1, len(FEATURES))
