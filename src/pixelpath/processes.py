"""The processes of one run: who this one is, and sums and gathers over all of them that gradients pass through.

Without torch.distributed there is one process, rank 0 of 1, and every function here is the identity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def count() -> int:
    """How many processes take part in this run (1 without torch.distributed)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, 0 for the main one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


LOST = (
    "closed by peer",
    "reset by peer",
    "broken pipe",
    "timed out waiting",
    "operation timeout",
    "remote process exited",
    "connection refused",
)


def is_lost(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process of the run is gone."""
    return count() > 1 and any(words in str(error).lower() for words in LOST)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.length = value.shape[0]
        parts = [torch.empty_like(value) for _ in range(count())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.length :][: ctx.length]


def add(value: Tensor) -> Tensor:
    """The sum of every process's `value` (any shape, equal on all), with the gradient of the sum of every process's loss."""
    return value if count() == 1 else _Sum.apply(value)


def gather(value: Tensor) -> Tensor:
    """Every process's rows in the order of ranks, [count * batch, ...], with the gradient of the sum of every process's loss."""
    return value if count() == 1 else _Gather.apply(value)


def mean(value: Tensor) -> Tensor:
    """The mean of every process's detached `value`, for logging."""
    return add(value.detach()) / count()


def barrier() -> None:
    """Wait until every process has come here."""
    if count() > 1:
        dist.barrier()
