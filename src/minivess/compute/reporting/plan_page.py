"""Format a plan for people: measurements, each value, its reason and its override."""

from __future__ import annotations

import textwrap
from typing import Any

from minivess.compute.choices import USER
from minivess.contracts import Choice, ComputePlan, Forecast, Hardware
from minivess.text import format_range, format_shape

WIDTH = 100
HEAD = 10


def text(name: str, plan: ComputePlan, forecast: Forecast) -> str:
    """One model's plan for the terminal."""
    lines = [f"{name}, {_cells(forecast)}", "", *_table(plan)]
    for head, line in _cost(plan, forecast):
        lines += _wrapped(head, line)
    overrides = [choice.override for choice in plan.choices.values() if choice.bound != USER]
    lines += ["", "Override: add any of these to the command; the value given is the value used."]
    lines += _wrapped("", " ".join(overrides))
    return "\n".join(lines)


def machine_text(hardware: Hardware) -> str:
    """What was measured, for the terminal."""
    return "\n".join(_wrapped("Machine", machine(hardware)))


def markdown(plan: ComputePlan, forecast: Forecast, hardware: Hardware) -> str:
    """For Prefect's and MLflow's pages."""
    rows = [
        f"| {name} | {shown(c.value)} | {c.bound} | {c.reason} | {c.more} | {_override(c)} |"
        for name, c in plan.choices.items()
    ]
    return "\n".join(
        [
            f"# Compute plan for {_cells(forecast)}",
            "",
            f"Machine: {machine(hardware)}.",
            "",
            "| what | value | limited by | why | one step more | to override |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *(f"{head}: {line}.  " for head, line in _cost(plan, forecast)),
            "",
        ]
    )


def machine(hardware: Hardware) -> str:
    """What was measured, in one sentence."""
    gain = hardware.bf16_gains.get("cpu")
    swap = (
        f"swap {hardware.swap_total_gb:.1f} GB, never counted"
        if hardware.swap_total_gb
        else "no swap"
    )
    parts = [
        f"{hardware.environment}; {hardware.cpu_model}, "
        f"{hardware.cores} core{'s' if hardware.cores > 1 else ''}"
        + ("" if gain is None else f", bf16 {gain:.1f} times as fast as float32"),
        f"{hardware.ram_available_gb:.1f} of {hardware.ram_total_gb:.1f} GB memory free",
        swap,
        _gpu(hardware),
        f"{hardware.disk_free_gb:.0f} GB disk free",
    ]
    if hardware.shm_gb is not None:
        parts.append(f"{hardware.shm_gb:.3g} GB shared memory, not needed")
    return "; ".join(parts)


def _gpu(hardware: Hardware) -> str:
    if not hardware.gpu_count:
        return "no GPU" + (f" behind driver {hardware.gpu_driver}" if hardware.gpu_driver else "")
    total, free = hardware.gpu_vram_gb or 0.0, hardware.gpu_free_gb or 0.0
    gain = hardware.bf16_gains.get("cuda")
    return (
        f"{hardware.gpu_count} x {hardware.gpu_model}, {total:.1f} GB of which {total - free:.1f} "
        f"are used by others, driver {hardware.gpu_driver}"
        + ("" if gain is None else f", bf16 {gain:.1f} times as fast as float32")
    )


def _table(plan: ComputePlan) -> list[str]:
    """For each value why it is so, then its limit and what one more step would need."""
    names = max(len(name) for name in plan.choices)
    values = max(len(shown(choice.value)) for choice in plan.choices.values())
    lines = []
    for name, choice in plan.choices.items():
        head = f"  {name:<{names}}  {shown(choice.value):<{values}}  "
        limit = "" if choice.bound == USER else f"limit: {choice.bound}"
        for part in (choice.reason, "; ".join(filter(None, (limit, choice.more)))):
            for line in textwrap.wrap(part, WIDTH - len(head), break_on_hyphens=False):
                lines.append(head + line)
                head = " " * len(head)
    return [*lines, ""]


def _override(choice: Choice) -> str:
    return "" if choice.bound == USER else f"`{choice.override}`"


def shown(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, list | tuple):
        x, y, z = value
        return format_shape((x, y, z))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cells(forecast: Forecast) -> str:
    return f"{forecast.cells} cell{'s' if forecast.cells > 1 else ''}"


def _cost(plan: ComputePlan, forecast: Forecast) -> list[tuple[str, str]]:
    vram = f", {forecast.vram_gb:.1f} GB on the GPU" if forecast.vram_gb else ""
    padded = [f"{case} by {format_shape(lacks)}" for case, lacks in plan.padded.items()]
    lines = [
        (
            "Needs",
            f"{plan.predicted_memory_gb:.2f} GB for a step and {plan.predicted_window_gb:.2f} GB "
            f"to judge the largest volume, of {plan.memory_budget_gb:.2f} GB that may be used",
        ),
        (
            "Forecast",
            f"{duration(forecast)}, for {_cells(forecast)}: {forecast.seconds_per_step:.3f} s for "
            f"a step, {forecast.seconds_per_epoch:.1f} s for an epoch, {forecast.steps_share:.0%} "
            f"of it steps; {forecast.ram_gb:.1f} GB memory{vram}, {forecast.disk_gb:.2f} GB disk",
        ),
        ("Timed", forecast.method),
    ]
    if plan.mixed_precision != "none":
        kind = plan.mixed_precision
        during = f"training and the validation of its epochs (val_*) compute in {kind}"
        lines.append(("Scores", f"{during}; every figure that is reported (eval_*), in float32"))
    return [*([("Padded", ", ".join(padded))] if padded else []), *lines]


def duration(forecast: Forecast) -> str:
    """The range of a forecast, and the load under which it was timed."""
    hours = format_range(3600 * forecast.low_hours, 3600 * forecast.high_hours)
    return f"{hours} at a load of {forecast.load:.1f}"


def _wrapped(head: str, sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, initial_indent=f"{head:<{HEAD}}", subsequent_indent=" " * HEAD,
        break_on_hyphens=False,
    )  # fmt: skip
