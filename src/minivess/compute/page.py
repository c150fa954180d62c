"""The whole decision on one page: what was measured, each value, why, and what would change it."""

from __future__ import annotations

import textwrap
from typing import Any

from minivess.compute.patch import shape_text
from minivess.contracts import Choice, ComputePlan, Forecast, Hardware

WIDTH = 100


def text(plan: ComputePlan, forecast: Forecast, hardware: Hardware) -> str:
    """For the terminal."""
    lines = [*_wrapped("Machine", machine(hardware)), "", *_table(plan), "", *_cost(plan, forecast)]
    return "\n".join(lines)


def markdown(plan: ComputePlan, forecast: Forecast, hardware: Hardware) -> str:
    """For Prefect's and MLflow's pages."""
    rows = [
        f"| {name} | {shown(c.value)} | {c.bound} | {c.reason} | {c.more} | {_override(c)} |"
        for name, c in plan.choices.items()
    ]
    return "\n".join(
        [
            "# Compute plan",
            "",
            f"Machine: {machine(hardware)}.",
            "",
            "| what | value | bound by | why | one more step | to override |",
            "|---|---|---|---|---|---|",
            *rows,
            *(["", *_padded(plan)] if plan.padded else []),
            "",
            *(f"{line}  " for line in _cost(plan, forecast)),
            "",
        ]
    )


def machine(hardware: Hardware) -> str:
    """What was measured, in one sentence."""
    parts = [
        f"{hardware.environment}; {hardware.cpu_model}, {hardware.cores} cores"
        + (", fast bf16" if hardware.bf16_is_fast and not hardware.gpu_count else ""),
        f"{hardware.ram_available_gb:.1f} of {hardware.ram_total_gb:.1f} GB memory free",
        f"swap {hardware.swap_total_gb:.1f} GB, never counted",
        _gpu(hardware),
        f"{hardware.disk_free_gb:.0f} GB disk free",
    ]
    if hardware.shm_gb is not None:
        parts.append(f"{hardware.shm_gb:.2f} GB shared memory, not needed")
    return "; ".join(parts)


def _gpu(hardware: Hardware) -> str:
    if not hardware.gpu_count:
        return "no GPU" + (f" behind driver {hardware.gpu_driver}" if hardware.gpu_driver else "")
    total, free = hardware.gpu_vram_gb or 0.0, hardware.gpu_free_gb or 0.0
    return (
        f"{hardware.gpu_count} x {hardware.gpu_model}, {total:.1f} GB of which {total - free:.1f} "
        f"are used by others, driver {hardware.gpu_driver}"
    )


def _table(plan: ComputePlan) -> list[str]:
    names = max(len(name) for name in plan.choices)
    values = max(len(shown(choice.value)) for choice in plan.choices.values())
    lines = []
    for name, choice in plan.choices.items():
        head = f"{name:<{names}}  {shown(choice.value):<{values}}  "
        indent = " " * len(head)
        reason = textwrap.wrap(choice.reason, WIDTH - len(head)) or [""]
        lines += [head + reason[0], *(indent + line for line in reason[1:])]
        notes = [f"bound by {choice.bound}" if choice.bound else "", choice.more]
        for note in filter(None, notes):
            lines += [indent + line for line in textwrap.wrap(note, WIDTH - len(head))]
        if _override(choice):
            lines.append(f"{indent}to override: {choice.override}")
    return lines + _padded(plan)


def _padded(plan: ComputePlan) -> list[str]:
    return [f"padded: {case} by {shape_text(lacks)} voxels" for case, lacks in plan.padded.items()]


def _override(choice: Choice) -> str:
    return "" if "given as" in choice.reason else choice.override


def shown(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, list | tuple):
        x, y, z = value
        return shape_text((x, y, z))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cost(plan: ComputePlan, forecast: Forecast) -> list[str]:
    hours = forecast.total_hours
    total = f"{hours * 60:.1f} min" if hours < 1 else f"{hours:.1f} h"
    return [
        f"Memory: a step needs {plan.predicted_memory_gb:.2f} GB, judging the largest volume "
        f"{plan.predicted_window_gb:.2f} GB, of {plan.memory_budget_gb:.2f} GB that may be used",
        f"Forecast for {forecast.cells} cells: {total} ({forecast.seconds_per_step:.3f} s per "
        f"step, {forecast.seconds_per_epoch:.1f} s per epoch), {forecast.ram_gb:.1f} GB memory, "
        f"{forecast.disk_gb:.2f} GB disk",
        *textwrap.wrap(f"How it was measured: {forecast.method}.", WIDTH),
    ]


def _wrapped(head: str, sentence: str) -> list[str]:
    return textwrap.wrap(f"{head}: {sentence}", WIDTH)
