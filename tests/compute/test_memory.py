"""The memory of a step, asked of the network."""

from __future__ import annotations

import json
import math
import re
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivess import config, networks
from minivess.compute.memory import cache as memo
from minivess.compute.memory.prediction import Footprint
from minivess.contracts import Network

pytestmark = pytest.mark.slow

BENCH = Path(__file__).resolve().parents[2] / "bench" / "memory.py"
SHAPES = ((32, 32, 8), (64, 64, 16), (96, 32, 16))


def footprint(
    network: Network, *words: str, precision: Any = "none", cache: Path | None = None
) -> Footprint:
    """On a CPU, with words as a user types them."""
    loss = [] if any("losses" in word for word in words) else ["training.losses=[dice_ce]"]
    asked = config.load([], [*loss, *words])
    return Footprint(asked, network, precision, device="cpu", cache=cache)


def test_a_real_step_takes_what_was_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "rows.jsonl"
    runpy.run_path(str(BENCH))["main"]([
        "--models", "dynunet", "--precision", "none", "--kinds", "step", "--patches", "64x64x16",
        "--kept", str(kept),
    ])  # fmt: skip
    (measured,) = map(json.loads, kept.read_text().splitlines())
    row = re.search(r"^\| dynunet \| none \| step \| (\S+) / (\S+) \((.*)%\) \|$",
                    capsys.readouterr().out, re.MULTILINE)  # fmt: skip
    assert row is not None
    assert float(row[2]) == pytest.approx(measured["measured"], abs=0.01)
    assert -5 <= int(row[3]) <= 25


def test_voxels_that_do_not_count_cost_copies_of_the_logits(
    make_network: Callable[..., Network], tmp_path: Path
) -> None:
    network, volume = make_network(), (256, 256, 128)
    without, given = (
        footprint(network, *words, cache=tmp_path).window_gb((32, 32, 8), volume)
        for words in ((), ("data.ignore_label=255",))
    )
    copy = 4 * network.out_channels * math.prod(volume) / 2**30
    assert 1.5 * copy < given - without < 3 * copy


def test_memory_grows_in_a_straight_line_with_voxels_and_batch(
    make_network: Callable[..., Network],
) -> None:
    found = footprint(make_network())
    points = [
        (math.prod(patch) * batch, found.step_gb(patch, batch))
        for patch in SHAPES
        for batch in (2, 8)
    ]
    slopes = {round((y - points[0][1]) / (x - points[0][0]) * 1e9, 6) for x, y in points[1:]}
    assert len(slopes) == 1
    assert slopes.pop() > 0


def test_the_update_of_many_weights_outweighs_a_small_patch(
    make_network: Callable[..., Network],
) -> None:
    wide = footprint(make_network(filters=[8, 64, 256]))
    floor = wide.step_gb((16, 16, 8), 1)
    assert wide.step_gb((16, 16, 16), 1) == pytest.approx(floor, rel=0.01)
    assert wide.step_gb((128, 128, 64), 1) > 1.5 * floor


def test_half_precision_and_checkpointing_take_less(make_network: Callable[..., Network]) -> None:
    network, size = make_network(filters=[16, 32, 64]), ((64, 64, 16), 4)
    plain = footprint(network).step_gb(*size)
    assert footprint(network, precision="bf16").step_gb(*size) < plain
    assert footprint(network, "training.gradient_checkpointing=true").step_gb(*size) < plain


def test_averaged_weights_and_summed_gradients_take_more(
    make_network: Callable[..., Network],
) -> None:
    network, size = make_network(filters=[8, 64, 256]), ((64, 64, 16), 4)
    weights = networks.parameters(networks.initial(network, seed=0)) * 4 / 1024**3
    plain = footprint(network).step_gb(*size)
    for word in ("training.ema_decay=0.999", "training.accumulation_steps=2"):
        assert footprint(network, word).step_gb(*size) - plain > 0.5 * weights


def test_deep_supervision_is_counted(make_network: Callable[..., Network]) -> None:
    deep, plain = footprint(make_network(deep_supervision=True)), footprint(make_network())
    assert deep.step_gb((64, 64, 16), 4) > plain.step_gb((64, 64, 16), 4)


def test_a_hungrier_loss_takes_more_in_a_step_and_over_a_volume(
    make_network: Callable[..., Network],
) -> None:
    plain, skeletons = (
        footprint(make_network(), f"training.losses=[{names}]")
        for names in ("dice_ce", "dice_ce,dice_ce_cldice")
    )
    assert plain.step_gb((64, 64, 16), 2) < skeletons.step_gb((64, 64, 16), 2)
    volume = (512, 512, 100)
    assert plain.window_gb((64, 64, 16), volume) < skeletons.window_gb((64, 64, 16), volume)


def test_judging_a_volume_takes_room_for_its_maps(make_network: Callable[..., Network]) -> None:
    found = footprint(make_network())
    sides = (256, 512, 1024)
    small, middle, large = (found.window_gb((64, 64, 16), (side, 512, 100)) for side in sides)
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.01)
    assert middle - small > 256 * 512 * 100 * 7 * 4 / 1024**3 * 0.99


def test_numbers_of_a_model_file_take_the_place_of_what_is_found(
    make_network: Callable[..., Network],
) -> None:
    given = footprint(make_network(vram_base_mb=1024, vram_per_voxel_train_bytes=1024))
    assert given.step_gb((64, 64, 16), 16) == pytest.approx(1 + 1)
    based = footprint(make_network(vram_base_mb=10240))
    assert based.step_gb((16, 16, 16), 1) == pytest.approx(10, rel=0.1)


def test_what_was_found_is_read_back_by_another_process(
    make_network: Callable[..., Network], tmp_path: Path
) -> None:
    memo.KNOWN.clear()
    first = footprint(make_network(), cache=tmp_path).step_gb((64, 64, 16), 2)
    memo.KNOWN.clear()
    begun = time.process_time()
    assert footprint(make_network(), cache=tmp_path).step_gb((64, 64, 16), 2) == first
    assert time.process_time() - begun < 0.1
    footprint(make_network(filters=[4, 8, 8]), cache=tmp_path).step_gb((64, 64, 16), 2)
    assert len(list(tmp_path.glob("*.json"))) == 5  # the loss, divisor and step of two networks


def test_a_torn_record_is_found_again(make_network: Callable[..., Network], tmp_path: Path) -> None:
    memo.KNOWN.clear()
    first = footprint(make_network(), cache=tmp_path).step_gb((64, 64, 16), 2)
    for file in tmp_path.glob("*.json"):
        file.write_text("[1,")
    memo.KNOWN.clear()
    assert footprint(make_network(), cache=tmp_path).step_gb((64, 64, 16), 2) == first


@pytest.mark.parametrize("name", ["unet", "segresnet", "swinunetr", "vista3d", "resenc", "mednext"])
def test_every_shipped_network_is_sized_with_its_sliding_window(name: str) -> None:
    narrow = {
        "unet": [4, 8], "segresnet": [8, 16], "swinunetr": [12], "vista3d": [8, 16],
        "resenc": [4, 8], "mednext": [8, 16],
    }  # fmt: skip
    model = config.model(name, {"filters": narrow[name]})
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=(64, 64, 32))
    found = footprint(network)
    step, window = found.step_gb((64, 64, 32), 2), found.window_gb((64, 64, 32), (64, 64, 32))
    assert 0.7 < window < step < 6
