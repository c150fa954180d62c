"""Processes that train the tiny cell and are killed by SIGKILL at a chosen call.

They are forked from a process that has imported everything, so each death is cheap.
"""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import torch

from tests.commands import LIMIT_S, forks
from tests.training import scene

Point = tuple[str, int | str]
TORN = "torch.save"


def run(root: Path, folder: Path, death: Point | None, **options: Any) -> int:
    """Train in a process of its own; returns its exit code (-9: killed)."""
    process = forks().Process(target=_train, args=(root, folder, death, options))
    process.start()
    process.join(LIMIT_S)
    return process.exitcode


def _train(root: Path, folder: Path, death: Point | None, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if death is not None:
        die_at(*death)
    scene.train(folder, scene.make_cases(root), **options)


def die_at(place: str, call: int | str) -> None:
    """Let a function's n-th call, or the one whose last argument ends so, kill the process."""
    owner_path, _, name = place.rpartition(".")
    owner = _found(owner_path)
    original, calls = getattr(owner, name), []

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call or str(args[-1] if args else "").endswith(str(call)):
            if place == TORN:
                Path(args[1]).write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)


def _found(path: str) -> Any:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        parent, _, name = path.rpartition(".")
        return getattr(_found(parent), name)
