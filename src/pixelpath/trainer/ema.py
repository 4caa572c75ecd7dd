"""The average of a run: a twin of the student that follows it as an exponential moving average.

The twin is kept in float32 whatever the student's precision. It is the teacher of stage one and the model to sample from in stage
two.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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
    """A copy of the bare student in float32 and evaluation mode that collects no gradients: where every average begins."""
    return copy.deepcopy(unwrapped(student)).float().requires_grad_(False).eval()


@torch.no_grad()
def update(ema: nn.Module, student: nn.Module, decay: float) -> None:
    """average <- rate average + (1 - rate) student, for every parameter in the average's precision; buffers are copied.

    After k updates with a constant rate r: r^k average_0 + (1 - r) sum_i r^(k - i) student_i. Buffers (running statistics,
    counters) have no meaningful average and take the student's values. Raises ValueError unless 0 <= rate <= 1 and both have the
    same parameters.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"The rate of the average must lie between 0 and 1, got {decay}: choose for example 0.9999.")
    kept, new = dict(unwrapped(ema).named_parameters()), dict(unwrapped(student).named_parameters())
    if kept.keys() != new.keys():
        some = sorted(kept.keys() ^ new.keys())[:3]
        raise ValueError(
            f"The average and the student differ in their parameters ({', '.join(some)}): build it with twin(student)."
        )
    olds: list[Tensor] = list(kept.values())
    news = [new[name].to(old.dtype) for name, old in kept.items()]
    torch._foreach_lerp_(olds, news, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for old, current in zip(unwrapped(ema).buffers(), unwrapped(student).buffers(), strict=True):
        old.copy_(current)
