"""Recognise out-of-memory errors and choose the next smaller plan."""

from __future__ import annotations

import ctypes
import errno
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minivess.compute import judging
from minivess.compute.memory.prediction import Footprint
from minivess.compute.patch import growing, padding, shapes_of, step_down, within
from minivess.config import ExperimentConfig, TrainingConfig
from minivess.contracts import Choice, ComputePlan, DatasetProfile, Network, Shape
from minivess.errors import MinivessError, OutOfMemory
from minivess.text import format_shape

Sizes = dict[str, Shape | int]

RESTARTS = 5
"""How often a cell may start again with a smaller plan."""

# torch, oneDNN, cuDNN, cuBLAS and C++ each have words of their own, in plain RuntimeErrors.
SIGNS = re.compile(
    r"can.?t allocate memory|cannot allocate memory|out of memory|bad_alloc|alloc_failed"
    r"|could not (create|execute) a (memory object|primitive)(?! descriptor)",
    re.IGNORECASE,
)
REMEDY = (
    "a smaller network (model.filters=[8,16,32]), training.gradient_checkpointing=true, "
    "a lower training.cache_rate, or close other programs"
)


# --- what happened ------------------------------------------------------------------------


@contextmanager
def typed(network: Network, plan: ComputePlan) -> Iterator[None]:
    """Raise OutOfMemory where the block fails for want of memory; other errors pass unchanged."""
    try:
        yield
    except MinivessError:
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{network.name} ran out of memory with {described(plan)}; "
            f"{_mb(plan.predicted_memory_gb)} were predicted, and {_mb(plan.memory_budget_gb)} "
            "seemed free.",
            remedy=REMEDY,
        ) from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was made from, says that memory ran out."""
    if error is None:
        return False
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and bool(SIGNS.search(str(error))))
        or is_out_of_memory(error.__cause__)
    )


def release() -> None:
    """Give back what a failed attempt held: its tensors hang in cycles of frames and errors."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what is freed
    if trim is not None:
        trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


# --- what comes next ----------------------------------------------------------------------


def smaller(
    plan: ComputePlan,
    config: ExperimentConfig,
    network: Network,
    profile: DatasetProfile,
    *,
    n_train: int,
    cache: Path | None = None,
) -> ComputePlan:
    """The plan one step below; a patch or batch that the user gave stays as it is.

    `profile` has the shapes as they are loaded, `n_train` is the number that plans are made for,
    `cache` the folder where memory of networks is kept.

    Raises:
        OutOfMemory: nothing is left to give; the message names the need in MB.
    """
    training = config.training
    down = _down(plan, training)
    found = Footprint(config, network, plan.mixed_precision, device=plan.device, cache=cache)
    if plan.number > RESTARTS or down is None or not found.accepts(*down):
        raise _stuck(plan, training, network)
    patch, batch = down
    iterations = judging.iterations(config, n_train, batch, plan.windows, plan.n_val).value
    window = plan.window if training.prediction_window != "auto" else patch
    changed: Sizes = {
        "patch_size": patch, "batch_size": batch, "iterations_per_epoch": iterations,
        "prediction_window": window,
    }  # fmt: skip
    earlier = (
        growing(patch, plan.divisor)
        if training.patch_schedule == "growing"
        else [one for one in plan.patch_schedule[:-1] if within(one, patch)]
    )
    return plan.replace(
        number=plan.number + 1,
        patch_schedule=(*earlier, patch),
        after_run=None,
        predicted_memory_gb=round(found.step_gb(patch, batch), 3),
        predicted_window_gb=round(found.window_gb(window, profile.max_shape), 3),
        padded=padding(shapes_of(profile), patch),
        choices=_choices(plan, changed),
        **changed,
    )


def _down(plan: ComputePlan, training: TrainingConfig) -> tuple[Shape, int] | None:
    """Patch and batch one step below; the same where only the windows of prediction can shrink."""
    down = step_down(
        plan.patch_size,
        plan.batch_size,
        divisor=plan.divisor,
        keep_patch=training.patch_size != "auto",
        keep_batch=training.batch_size != "auto",
    )
    if down is None and training.prediction_window == "auto" and plan.window != plan.patch_size:
        return plan.patch_size, plan.batch_size
    return down


def described(plan: ComputePlan) -> str:
    """For example `plan 1 (patch 64x64x16, batch 2)`."""
    return f"plan {plan.number} (patch {format_shape(plan.patch_size)}, batch {plan.batch_size})"


def _choices(plan: ComputePlan, now: Sizes) -> dict[str, Choice]:
    """The plan's choices, with the step down as a reason of what changed."""
    changed = {
        name: plan.choices[name].replace(
            value=value,
            reason=f"{plan.choices[name].reason}; one step smaller, as plan {plan.number} ran out "
            "of memory",
        )
        for name, value in now.items()
        if name in plan.choices and value != getattr(plan, name)
    }
    return plan.choices | changed


def _stuck(plan: ComputePlan, training: TrainingConfig, network: Network) -> OutOfMemory:
    """Why there is no smaller plan, and what only the user can change."""
    given = [
        f"{name}={value}"
        for name in ("patch_size", "batch_size")
        if (value := getattr(training, name)) != "auto"
    ]
    below = step_down(plan.patch_size, plan.batch_size, divisor=plan.divisor)
    if plan.number > RESTARTS:
        why, remedy = f"{RESTARTS} restarts with smaller plans did not help", REMEDY
    elif given and below is not None:
        (x, y, z), batch = below
        why = f"what is given is not changed ({', '.join(given)})"
        remedy = (
            f"'training.patch_size=[{x},{y},{z}]' training.batch_size={batch}, or leave them out"
        )
    else:
        why, remedy = "there is no smaller plan", REMEDY
    return OutOfMemory(
        f"{network.name} needs {_mb(plan.predicted_memory_gb)} for {described(plan)} and did not "
        f"get them; {why}.",
        remedy=remedy,
    )


def _mb(gigabytes: float) -> str:
    return f"{gigabytes * 1024:.0f} MB"
