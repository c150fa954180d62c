"""A training that runs against a real limit of its process."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from minivess import files
from minivess.compute import out_of_memory
from minivess.errors import OutOfMemory
from minivess.training import cell_folder
from tests.commands import LIMIT_S, forks
from tests.training import scene

pytestmark = pytest.mark.slow

HEADROOM_MB = 40
"""256 patches of the tiny cell take some 300 MB more than 4, and 4 next to nothing."""


def limited(root: Path) -> None:
    """Train a batch that is too large, then the same cell with a small one; note what came."""
    torch.set_num_threads(1)
    cases, config = scene.make_cases(root), scene.make_config(max_epochs=1)
    options: dict[str, Any] = {"iterations_per_epoch": 1}
    scene.train(root / "first", cases, config=config, plan=options)
    limit = memory_mb() + HEADROOM_MB << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    story: dict[str, Any] = {}
    try:
        scene.train(root / "cell", cases, config=config, plan={**options, "batch_size": 256})
    except OutOfMemory as error:
        story = {"problem": error.problem, "cause": type(error.__cause__).__name__}
    out_of_memory.release()
    spec = scene.make_spec()
    small = scene.make_plan(spec, **options, batch_size=4, number=2)
    cell_folder.open_cell(root / "cell", spec, small, resume=False)
    story["epochs"] = scene.train(root / "cell", cases, config=config).epochs
    files.write_json(root / "story.json", story)


def memory_mb() -> int:
    """What the limit counts: private memory that this process may write."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmData"))


def test_a_real_limit_ends_typed_and_the_process_goes_on_with_a_smaller_plan(tmp_path):
    process = forks().Process(target=limited, args=(tmp_path,))
    process.start()
    process.join(LIMIT_S)
    assert process.exitcode == 0
    story = files.read_json(tmp_path / "story.json")
    assert story["problem"].startswith("dynunet ran out of memory with plan 1 (patch 16x16x8")
    assert story["cause"] == "RuntimeError"
    assert story["epochs"] == 1
    stored = cell_folder.stored_plan(tmp_path / "cell", "a-key")
    assert stored is not None
    assert (stored.number, stored.batch_size) == (2, 4)
