"""Summarise a network layer by layer: output shapes and numbers of weights."""

from __future__ import annotations

import logging
from copy import deepcopy
from functools import partial
from typing import Any

from minivess import networks
from minivess.contracts import Network, Shape

Line = tuple[str, str, str, str]
log = logging.getLogger(__name__)


def summary(network: Network, patch: Shape) -> str:
    """One line for each layer as one patch passes it, with the sum of all weights."""
    total = sum(weight.numel() for weight in networks.weightless(network).parameters())
    lines: list[Line] = [("layer", "kind", "output", "weights")]
    try:
        lines += _layers(network, patch)
    except Exception:
        log.warning("The layers of %s are not listed.", network.name, exc_info=True)
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    shape = "x".join(map(str, (1, network.in_channels, *patch)))
    head, foot = f"{network.name} ({network.family}), input {shape}", f"{total:,} weights\n"
    return "\n".join([head, *rows, foot])


def _layers(network: Network, patch: Shape) -> list[Line]:
    import torch

    from minivess.compute.memory.dry_run import make_shape_only
    from minivess.compute.memory.fake_tensors import ShapeOnlyMode

    found: list[Line] = []

    def note(name: str, module: torch.nn.Module, _given: Any, out: Any) -> None:
        shape = "x".join(map(str, out.shape)) if isinstance(out, torch.Tensor) else "several"
        count = sum(weight.numel() for weight in module.parameters())
        found.append((name, type(module).__name__, shape, f"{count:,}"))

    module = deepcopy(networks.weightless(network)).eval()
    with ShapeOnlyMode(), torch.no_grad():  # type: ignore[no-untyped-call]
        make_shape_only(module)
        for name, part in module.named_modules():
            if not list(part.children()):
                part.register_forward_hook(partial(note, name))
        module(torch.empty((1, network.in_channels, *patch)))
    return found
