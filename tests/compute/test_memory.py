"""The memory of a step, asked of the network."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minivess import config, losses, networks
from minivess.compute import memo, memory
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


def test_a_hungrier_loss_takes_more(make_network: Callable[..., Network]) -> None:
    network, size = make_network(), {"patch": (64, 64, 16), "batch": 2}
    plain, skeletons = (
        memory.predict(network, **size, **PLAIN, losses=[losses.resolve(config.loss(name))])
        for name in ("dice_ce", "dice_ce_cldice")
    )
    assert memory.predict(network, **size, **PLAIN) <= plain < skeletons


def test_judging_a_volume_takes_room_for_its_logits(make_network: Callable[..., Network]) -> None:
    small, large = (
        memory.predict_window(
            make_network(), patch=(64, 64, 16), volume=volume, device="cpu", precision="none",
            optimizer="adamw",
        )
        for volume in ((64, 64, 16), (512, 512, 100))
    )  # fmt: skip
    assert large - small == pytest.approx((512 * 512 * 100 - 64 * 64 * 16) * 7 * 4 / 1024**3)


def test_numbers_of_a_model_file_take_the_place_of_what_is_found(
    make_network: Callable[..., Network],
) -> None:
    network = make_network(vram_base_mb=1024, vram_per_voxel_train_bytes=1024)
    found = memory.predict(network, patch=(64, 64, 16), batch=16, **PLAIN)
    assert found == pytest.approx(1 + 1)
    based = make_network(vram_base_mb=10240)
    assert memory.predict(based, patch=(16, 16, 16), batch=1, **PLAIN) == pytest.approx(10, rel=0.1)


def test_what_was_found_is_read_back_by_another_process(
    make_network: Callable[..., Network], tmp_path: Path
) -> None:
    ask = {"patch": (64, 64, 16), "batch": 2, **PLAIN, "cache": tmp_path}
    memo.KNOWN.clear()
    first = memory.predict(make_network(), **ask)
    memo.KNOWN.clear()
    begun = time.process_time()
    assert memory.predict(make_network(), **ask) == first
    assert time.process_time() - begun < 0.1
    memory.predict(make_network(filters=[4, 8, 8]), **ask)
    assert len(list(tmp_path.glob("*.json"))) == 4  # divisor and line of two networks


def test_a_torn_record_is_found_again(make_network: Callable[..., Network], tmp_path: Path) -> None:
    ask = {"patch": (64, 64, 16), "batch": 2, **PLAIN, "cache": tmp_path}
    memo.KNOWN.clear()
    first = memory.predict(make_network(), **ask)
    for file in tmp_path.glob("*.json"):
        file.write_text("[1,")
    memo.KNOWN.clear()
    assert memory.predict(make_network(), **ask) == first


@pytest.mark.parametrize("name", ["unet", "segresnet", "swinunetr", "vista3d"])
def test_every_shipped_network_is_sized_with_its_sliding_window(name: str) -> None:
    narrow = {"unet": [4, 8], "segresnet": [8, 16], "swinunetr": [12], "vista3d": [8, 16]}
    model = config.model(name, {"filters": narrow[name]})
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=(64, 64, 32))
    step = memory.predict(network, patch=(64, 64, 32), batch=2, **PLAIN)
    window = memory.predict_window(
        network, patch=(64, 64, 32), volume=(64, 64, 32), device="cpu", precision="none",
        optimizer="adamw",
    )  # fmt: skip
    assert memory.PROCESS_GB < window < step
