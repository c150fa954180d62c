"""Steps a second of cells side by side, and the processor time of a step, by number of threads.

Each cell is a process of its own that trains DynUNet on one patch in bf16. On a machine that is
shared compare processor milliseconds, not steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch

from minivess import config, losses, networks

POLICIES = {"asleep": "PASSIVE", "spinning": "ACTIVE"}


def main() -> None:
    """Print one line for each layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 16))
    parser.add_argument("--filters", type=int, nargs="+", default=(8, 16, 32))
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--cells", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell is not None:
        print(json.dumps(cell(options)), flush=True)
        return
    for threads in options.threads:
        for cells in options.cells:
            for waiting in POLICIES if threads > 1 else ["asleep"]:
                found = side_by_side(threads, cells, POLICIES[waiting])
                steps = sum(one["steps_s"] for one in found)
                cpu = 1000 * sum(one["cpu_s"] for one in found) / cells
                print(
                    f"{cells} cells of {threads} threads, waiting {waiting}: {steps:.1f} steps a "
                    f"second, {cpu:.0f} ms of processor time for each",
                    flush=True,
                )


def side_by_side(threads: int, cells: int, policy: str) -> list[dict[str, float]]:
    """What so many processes did, which begin together."""
    words = [sys.executable, "-m", "bench.layouts", *sys.argv[1:], "--cell", str(threads)]
    variables = config.child_environment(without=("OMP_NUM_THREADS",), OMP_WAIT_POLICY=policy)
    processes = [
        subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env=variables) for _ in range(cells)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    return [json.loads(process.communicate("\n")[0]) for process in begun(processes)]


def begun(processes: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """Let all of them go."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def cell(options: Any) -> dict[str, float]:
    """Train until the time is over, once the starter says so."""
    torch.set_num_threads(options.cell)
    patch = (options.patch[0], options.patch[1], options.patch[2])
    model = config.model("dynunet").model_copy(update={"filters": tuple(options.filters)})
    record = networks.resolve(model, in_channels=1, out_channels=2, min_shape=patch)
    network = networks.initial(record, 1).train()
    loss = losses.build(losses.resolve(config.loss("dice_ce")), 2)
    updater = torch.optim.AdamW(network.parameters())
    image, label = torch.randn(1, 1, *patch), (torch.rand(1, 1, *patch) > 0.9).long()

    def step() -> None:
        updater.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(image)
        loss(logits, label)["loss"].backward()
        updater.step()

    step()
    print("ready", flush=True)
    sys.stdin.readline()
    clock, processor, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - clock < options.seconds:
        step()
        steps += 1
    wall = time.perf_counter() - clock
    return {"steps_s": steps / wall, "cpu_s": (time.process_time() - processor) / steps}


if __name__ == "__main__":
    main()
