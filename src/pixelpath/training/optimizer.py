"""How a run's weights move: the optimizer, and its schedule.

A *schedule* maps the number of a step, counted from 1, to a factor of the learning *rate*; *warm-up* is its linear rise from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from pixelpath.training.average import unwrapped


def _warm(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


@dataclass(frozen=True)
class Constant:
    """min(1, step / warmup)."""

    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"A schedule needs warmup >= 0, got {self.warmup}.")

    def __call__(self, step: int) -> float:
        """The factor of step `step`, counted from 1."""
        return _warm(step, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """step / warmup, then max(floor, (1 + cos(pi (step - warmup) / (total - warmup))) / 2).

    The falling half wave is that of Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, without restarts. A total of 0
    stands for the length of the run, which a recipe fills in. Raises ValueError unless 0 <= warmup < total and 0 <= floor <= 1.
    """

    warmup: int = 0
    total: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.total < 0 or (self.total and self.warmup >= self.total) or not 0 <= self.floor <= 1:
            raise ValueError(
                f"A cosine schedule needs 0 <= warmup < total and a floor in [0, 1], got warmup={self.warmup}, "
                f"total={self.total}, floor={self.floor}: choose fewer warm-up steps or a longer run."
            )

    def __call__(self, step: int) -> float:
        """The factor of step `step`, counted from 1."""
        if step < self.warmup:
            return _warm(step, self.warmup)
        progress = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        return max(self.floor, (1 + math.cos(math.pi * progress)) / 2)


@dataclass(frozen=True)
class Steps:
    """step / warmup, then the factor of the last border that lies below the step (1 before the first).

    Raises ValueError unless warmup >= 0 and the borders rise.
    """

    warmup: int = 0
    borders: tuple[tuple[int, float], ...] = ((400_000, 0.3), (500_000, 0.08))

    def __post_init__(self) -> None:
        places = [border for border, _ in self.borders]
        if self.warmup < 0 or places != sorted(set(places)):
            raise ValueError(f"A schedule in steps needs warmup >= 0 and rising borders, got {self}.")

    def __call__(self, step: int) -> float:
        """The factor of step `step`, counted from 1."""
        factors = [factor for border, factor in self.borders if step > border]
        return _warm(step, self.warmup) * (factors[-1] if factors else 1.0)


Schedule = Constant | Cosine | Steps
"""Step number, counted from 1 -> factor of the learning rate."""


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), and the limit of the gradient's norm.

    Parameters of one dimension (biases, norms) do not decay unless `decay_all`. The gradient's norm over all parameters is
    limited to `clip` from step `clip_after` + 1 on, counted from 1; None never limits it.
    """

    rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float | None = None
    clip_after: int = 0
    decay_all: bool = False

    def __post_init__(self) -> None:
        if not self.rate > 0 or (self.clip is not None and not self.clip > 0):
            raise ValueError(f"AdamW needs rate > 0 and clip > 0 (or None), got rate={self.rate}, clip={self.clip}.")

    def limit(self, step: int) -> float | None:
        """The largest norm of the gradient at step `step`, counted from 1, or None."""
        return self.clip if step > self.clip_after else None

    def build(self, student: nn.Module) -> torch.optim.AdamW:
        """The optimizer of all parameters that require gradients (ValueError if none does): fused on CUDA, foreach elsewhere."""
        free = [parameter for parameter in unwrapped(student).parameters() if parameter.requires_grad]
        if not free:
            raise ValueError("No parameter of the student requires gradients, so nothing can be trained: unfreeze a part.")
        decaying = [parameter for parameter in free if self.decay_all or parameter.ndim > 1]
        spared = [parameter for parameter in free if not (self.decay_all or parameter.ndim > 1)]
        groups = [{"params": decaying, "weight_decay": self.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=self.rate, betas=self.betas, fused=True)
