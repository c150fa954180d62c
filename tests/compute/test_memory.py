"""The memory of a step, asked of the network."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable

import pytest

from minivess.compute import memory
from minivess.contracts import Network

PLAIN = {"precision": "none", "optimizer": "adamw", "checkpointing": False}
NO_LOSS_SHAPES = ((32, 32, 8), (64, 64, 16), (96, 32, 16))

STEP = """
import resource, sys, torch
from minivess import networks
from minivess.contracts import Network
torch.set_num_threads(1)
network = Network.model_validate_json(sys.stdin.read())
module = networks.build(network).train()
optimizer = torch.optim.AdamW(module.parameters())
for _ in range(2):
    module(torch.randn(2, 1, 64, 64, 32)).softmax(1).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_real_step_takes_what_was_predicted(make_network: Callable[..., Network]) -> None:
    network = make_network((64, 64, 32), filters=[16, 32, 64])
    predicted = memory.predict(network, patch=(64, 64, 32), batch=2, **PLAIN)
    ran = subprocess.run(
        [sys.executable, "-c", STEP],
        input=network.model_dump_json(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Peak resident memory is in KiB on Linux and in bytes on macOS.
    measured = json.loads(ran.stdout) / (1024**2 if sys.platform == "linux" else 1024**3)
    assert predicted == pytest.approx(measured, rel=0.25)


def test_memory_grows_in_a_straight_line_with_voxels_and_batch(
    make_network: Callable[..., Network],
) -> None:
    network = make_network()
    points = [
        (math.prod(patch) * batch, memory.predict(network, patch=patch, batch=batch, **PLAIN))
        for patch in NO_LOSS_SHAPES
        for batch in (1, 4)
    ]
    slopes = {round((y - points[0][1]) / (x - points[0][0]) * 1e9, 6) for x, y in points[1:]}
    assert len(slopes) == 1
    assert slopes.pop() > 0


def test_half_precision_and_checkpointing_take_less(make_network: Callable[..., Network]) -> None:
    network, size = make_network(filters=[16, 32, 64]), {"patch": (64, 64, 16), "batch": 4}
    plain = memory.predict(network, **size, **PLAIN)
    assert memory.predict(network, **size, **{**PLAIN, "precision": "bf16"}) < plain
    assert memory.predict(network, **size, **{**PLAIN, "checkpointing": True}) < plain


def test_deep_supervision_is_counted(make_network: Callable[..., Network]) -> None:
    size = {"patch": (64, 64, 16), "batch": 4}
    deep = make_network(deep_supervision=True)
    assert memory.predict(deep, **size, **PLAIN) > memory.predict(make_network(), **size, **PLAIN)
