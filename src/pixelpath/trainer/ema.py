"""The EMA of a run: a twin of the student whose weights are an exponential moving average of the student's.

The twin is kept in float32 whatever the student's precision. It is the teacher of stage one and the model to sample from in stage
two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pixelpath.errors import UserError
from pixelpath.trainer.shard import share


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel and torch.compile, whose parameters have their plain names."""
    while True:
        if isinstance(module, DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = module.get_submodule("_orig_mod")
        else:
            return module


def twin(student: nn.Module) -> nn.Module:
    """A copy of the bare student in float32 and evaluation mode that collects no gradients: the EMA before step 1."""
    return copy.deepcopy(unwrapped(student)).float().requires_grad_(False).eval()


def ramped(decay: float) -> Callable[[int], float]:
    """The decay at a step, counted from 1: step / (9 + step) until that reaches `decay`, so that early weights are forgotten."""
    return lambda step: min(decay, step / (9 + step))


@torch.no_grad()
def update(ema: nn.Module, student: nn.Module, decay: float, skipped: Tensor | None = None) -> None:
    """ema <- decay ema + (1 - decay) student, for every parameter in the EMA's precision; buffers are copied.

    After k updates with a constant decay r: r^k ema_0 + (1 - r) sum_i r^(k - i) student_i. Buffers (running statistics, counters)
    have no meaningful average and take the student's values. Where `skipped` [] is True, parameters stay. Raises UserError
    unless 0 <= decay <= 1, and ValueError unless both have the same parameters.
    """
    if not 0 <= decay <= 1:
        raise UserError(f"`ema_decay` must lie in [0, 1], got {decay}: choose for example 0.9999.", setting="ema_decay")
    kept, new = dict(unwrapped(ema).named_parameters()), dict(unwrapped(student).named_parameters())
    if kept.keys() != new.keys():
        some = sorted(kept.keys() ^ new.keys())[:3]
        raise ValueError(f"The EMA and the student differ in their parameters ({', '.join(some)}): make it with twin(student).")
    olds: list[Tensor] = [share(old) for old in kept.values()]
    news = [share(new[name]).to(old.dtype) for name, old in kept.items()]
    if skipped is None:
        torch._foreach_lerp_(olds, news, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    else:
        weight = torch.full((), 1 - decay, device=skipped.device).masked_fill(skipped, 0.0)
        for old, current in zip(olds, news, strict=True):
            old.lerp_(current, weight)
    for old, current in zip(unwrapped(ema).buffers(), unwrapped(student).buffers(), strict=True):
        old.copy_(current)
