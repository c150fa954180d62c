"""Cache results about a network on disk, keyed by the content that they depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from minivess import files, keys

log = logging.getLogger(__name__)

CODE = (
    "networks.py", "architectures.py", "losses.py", "loss_terms.py", "soft_skeleton.py",
    "compute/memory",
)  # fmt: skip
KNOWN: dict[str, Any] = {}
"""Results that this process has computed or read already."""


def cached(
    folder: Path | None, ingredients: Mapping[str, Any], work: Callable[[], Any], *, own: list[str]
) -> Any:
    """Return a JSON value: known to this process, read from `folder`, or computed and stored there.

    Args:
        folder: Where values are stored; None keeps them in this process alone.
        ingredients: What the value depends on, besides code and versions of packages.
        work: Computes the value.
        own: Import paths that `ingredients` names; their files count by their bytes.
    """
    own_code = keys.own_modules(path for path in own if ":" in path)
    key = keys.digest({**ingredients, "own_modules": own_code})
    if key not in KNOWN:
        KNOWN[key] = work() if folder is None else _stored(folder, key, work)
    return KNOWN[key]


def _stored(folder: Path, key: str, work: Callable[[], Any]) -> Any:
    file = folder / f"{keys.digest([key, *_software()])}.json"
    try:
        return files.read_json(file)
    except (FileNotFoundError, ValueError):
        value = work()
    try:
        files.write_json(file, value)
    except OSError as error:
        log.warning("%s cannot be written (%s); it will be computed again", file, error)
    return value


@cache
def _software() -> tuple[dict[str, str], dict[str, str]]:
    return keys.code(CODE), keys.versions()
