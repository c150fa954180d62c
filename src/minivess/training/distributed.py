"""Share the batches of one cell among processes that torchrun started; alone, nothing changes.

The first process trains the cell as ever; the others only take part in its steps. Each runs the
network on its share of a batch. The loss looks at the logits of all, so that it is the loss of the
whole batch, whichever loss it is, and the gradients of the shares add up to that of one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from minivess.errors import PlanError

T = TypeVar("T")
# The others wait while the first validates, and torchrun ends them if it dies.
PATIENCE = timedelta(days=7)


@contextmanager
def joined() -> Iterator[bool]:
    """Meet the other processes that torchrun started; whether this is the first, or alone."""
    if not dist.is_torchelastic_launched():
        yield True
        return
    gpus = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    if gpus:
        torch.cuda.set_device(rank())
    try:
        yield rank() == 0
        if rank() == 0:
            broadcast(None)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def broadcast(what: Any) -> None:
    """Send an object from the first process to the others."""
    if size() > 1:
        dist.broadcast_object_list([what], src=0, device=torch.device("cpu"))


def receive() -> Any:
    """Wait for the next object that the first process broadcasts."""
    sent = [None]
    dist.broadcast_object_list(sent, src=0, device=torch.device("cpu"))
    return sent[0]


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's share of the places of a batch."""
    each = len(items) // size()
    return items[rank() * each : (rank() + 1) * each]


def gather_items(items: Sequence[T]) -> list[T]:
    """Gather the items of all processes in their order."""
    if size() == 1:
        return list(items)
    parts: list[Any] = [()] * size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def gather(part: Tensor) -> Tensor:
    """Gather the parts of all processes in order; the gradient flows through one's own part."""
    if size() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(size())]
    dist.all_gather(parts, part.detach().contiguous())
    parts[rank()] = part
    return torch.cat(parts)


def add_gradients(network: nn.Module) -> None:
    """Replace each gradient by the sum over all processes."""
    if size() > 1:
        for weight in network.parameters():
            if weight.grad is not None:
                dist.all_reduce(weight.grad)


def require_shareable(network: nn.Module, batch_size: int) -> None:
    """Check that the batches of this network can be shared.

    Raises:
        PlanError: a batch that does not split evenly, or batch norm, which looks at other patches.
    """
    if batch_size % size():
        raise PlanError(
            f"A batch of {batch_size} cannot be shared evenly by {size()} processes.",
            remedy=f"training.batch_size={batch_size // size() * size() + size()}",
        )
    if size() > 1 and any(isinstance(part, _BatchNorm) for part in network.modules()):
        raise PlanError(
            "Batch norm would look at each process's share only, and train another network.",
            remedy="model.norm=instance or model.norm=group, or training.processes_per_cell=1",
        )
