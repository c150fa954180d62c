"""Predicted against measured memory of a step, each model and patch in a fresh process."""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODELS = ("dynunet", "unet", "segresnet", "swinunetr", "vista3d")
PATCHES = ((64, 64, 32), (96, 96, 32), (96, 96, 64))
STEPS = 3


def main() -> None:
    """Print the table; with --one, be the fresh process of one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precision", nargs="+", default=["none", "bf16"])
    parser.add_argument("--losses", nargs="+", default=["dice_ce"])
    parser.add_argument("--windows", action="store_true", help="the sliding window's step too")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--one", help="model, kind, precision, loss and patch as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(**json.loads(options.one))))
        return
    kinds = ["predict", "step", *(["window"] if options.windows else [])]
    rows = []
    for model in options.models:
        for precision in options.precision:
            for loss in options.losses:
                for patch in PATCHES:
                    asked = {"model": model, "precision": precision, "loss": loss, "patch": patch}
                    found = [fresh({**asked, "kind": kind}) for kind in kinds]
                    rows.append({**asked, **{k: v for part in found for k, v in part.items()}})
                    print(line(rows[-1]), flush=True)
    summary(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def fresh(asked: dict[str, Any]) -> dict[str, float]:
    """The last line that a fresh process prints."""
    ran = subprocess.run(
        [sys.executable, "-P", __file__, "--one", json.dumps(asked)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def one(model: str, kind: str, precision: Any, loss: str, patch: list[int]) -> dict[str, Any]:
    """What one fresh process finds."""
    from minivess import config, losses, networks

    network = networks.resolve(
        config.model(model), in_channels=1, out_channels=2, min_shape=(128, 128, 64)
    )
    size = (patch[0], patch[1], patch[2])
    terms = losses.resolve(config.loss(loss))
    work = {"predict": predicted, "step": trained, "window": judged}[kind]
    return work(network, terms, size, precision)


def predicted(network: Any, loss: Any, patch: Any, precision: Any) -> dict[str, Any]:
    """GiB as the plan sees them, the first time and from the cache."""
    import tempfile

    from minivess.compute import memo, memory

    def ask(cache: Path) -> float:
        return memory.predict(
            network, patch=patch, batch=1, precision=precision, optimizer="adamw",
            checkpointing=False, losses=[loss], cache=cache,
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        gb = ask(Path(folder))
        first = time.perf_counter() - begun
        window = memory.predict_window(
            network, patch=patch, volume=patch, device="cpu", precision=precision,
            optimizer="adamw", cache=Path(folder),
        )  # fmt: skip
        memo.KNOWN.clear()
        begun = time.perf_counter()
        ask(Path(folder))
        again = time.perf_counter() - begun
    return {
        "predicted": gb, "predicted_window": window, "first_s": first, "again_s": again,
    }  # fmt: skip


def trained(network: Any, loss: Any, patch: Any, precision: Any) -> dict[str, Any]:
    """Peak resident memory of real steps."""
    import torch

    from minivess.training import trainer  # noqa: F401 (a training process has it loaded)

    batch = torch.randn(1, 1, *patch), (torch.rand(1, 1, *patch) > 0.9).long()
    module, base = networks_and_base(network)
    updater = torch.optim.AdamW(module.parameters())
    from minivess import losses

    criterion = losses.build(loss, network.out_channels)
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = module.train()(batch[0])
        criterion(logits, batch[1])["loss"].backward()
        updater.step()
        updater.zero_grad(set_to_none=True)
    return {"measured": peak_gb(), "base": base}


def judged(network: Any, loss: Any, patch: Any, precision: Any) -> dict[str, Any]:
    """Peak resident memory of the sliding window over a volume of four patches."""
    import torch

    from minivess import inference
    from minivess.contracts import Window
    from minivess.training import trainer  # noqa: F401

    module, _ = networks_and_base(network)
    # A training process holds Adam's two moments beside the weights.
    held = [torch.zeros_like(weight).add_(1) for weight in module.parameters() for _ in range(2)]
    image = torch.randn(1, *patch).numpy()
    window = Window(patch_size=patch, overlap=0.25, normalisation="none")
    for _ in range(2):
        inference.logits(module.eval(), image, window, divisor=(1, 1, 1), precision=precision)
    del held
    return {"measured_window": peak_gb()}


def networks_and_base(network: Any) -> tuple[Any, float]:
    """The built network, and the memory before anything ran."""
    from minivess import networks

    before = peak_gb()
    return networks.initial(network, seed=0), before


def peak_gb() -> float:
    """Largest resident memory so far; KiB on Linux, bytes on macOS."""
    unit = 1024**2 if sys.platform == "linux" else 1024**3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    patch = "x".join(map(str, row["patch"]))
    head = f"{row['model']:<10} {row['precision']:<5} {row['loss']:<10} {patch:<10}"
    text = f"{head} {row['predicted']:6.2f} {row['measured']:6.2f} {over(row):+6.1%}"
    if "measured_window" in row:
        text += f"  window {row['predicted_window']:6.2f} {row['measured_window']:6.2f}"
    return text + f"  {row['first_s']:5.1f} s, again {row['again_s'] * 1000:.0f} ms"


def over(row: dict[str, Any]) -> float:
    """Share by which the prediction lies above the measurement."""
    return float(row["predicted"] / row["measured"] - 1)


def summary(rows: list[dict[str, Any]]) -> None:
    """What decides: the median, and the worst on either side."""
    shares = [over(row) for row in rows]
    voxels = {math.prod(row["patch"]) for row in rows}
    print(
        f"{len(rows)} rows of {len(voxels)} patches: median {statistics.median(shares):+.1%}, "
        f"least {min(shares):+.1%}, most {max(shares):+.1%}; "
        f"first prediction at most {max(row['first_s'] for row in rows):.1f} s"
    )


if __name__ == "__main__":
    main()
