"""How a run's weights move: the optimizer, and its schedule.

A *schedule* maps the number of a step, counted from 1, to a factor of the learning *rate*; *warm-up* is its linear rise from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pixelpath.networks.decoder import Decoder
from pixelpath.networks.projector import Projector
from pixelpath.trainer.ema import unwrapped
from pixelpath.trainer.muon import OrthogonalMomentum


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

    Borders are steps, or, with a `length`, steps of a run that long: they move with the `total` of the run, which a recipe fills
    in. Raises ValueError unless warmup >= 0 and the borders rise.
    """

    warmup: int = 0
    borders: tuple[tuple[int, float], ...] = ((400_000, 0.3), (500_000, 0.08))
    length: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        places = [border for border, _ in self.borders]
        if self.warmup < 0 or self.length < 0 or self.total < 0 or places != sorted(set(places)):
            raise ValueError(f"A schedule in steps needs warmup, length and total >= 0, and rising borders, got {self}.")

    def __call__(self, step: int) -> float:
        """The factor of step `step`, counted from 1."""
        length, total = (self.length, self.total) if self.length and self.total else (1, 1)
        factors = [factor for border, factor in self.borders if step * length > border * total]
        return _warm(step, self.warmup) * (factors[-1] if factors else 1.0)


Schedule = Constant | Cosine | Steps
"""Step number, counted from 1 -> factor of the learning rate."""


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), and the limit of the gradient's norm.

    Parameters of one dimension (biases, norms) do not decay unless `decay_all`. The gradient's norm over all parameters is
    limited to `clip` from step `clip_after` + 1 on, counted from 1; None never limits it.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float | None = None
    clip_after: int = 0
    decay_all: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0 or (self.clip is not None and not self.clip > 0):
            raise ValueError(f"AdamW needs rate > 0 and clip > 0 (or None), got rate={self.lr}, clip={self.clip}.")

    def limit(self, step: int) -> float | None:
        """The largest norm of the gradient at step `step`, counted from 1, or None."""
        return self.clip if step > self.clip_after else None

    def build(self, student: nn.Module) -> torch.optim.AdamW:
        """The optimizer of all parameters that require gradients (ValueError if none does), fused."""
        return _adamw(_free(student), self.lr, self.betas, self.weight_decay, self.decay_all)


def _free(student: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients; ValueError if none does."""
    free = [parameter for parameter in unwrapped(student).parameters() if parameter.requires_grad]
    if not free:
        raise ValueError("No parameter of the student requires gradients, so nothing can be trained: unfreeze a part.")
    return free


def _adamw(
    free: list[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float, decay_all: bool
) -> torch.optim.AdamW:
    decaying = [parameter for parameter in free if decay_all or parameter.ndim > 1]
    spared = [parameter for parameter in free if not (decay_all or parameter.ndim > 1)]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


@dataclass(frozen=True)
class Muon:
    """Momentum made orthogonal (Jordan et al. 2024, "Muon") for hidden matrices, AdamW for all other parameters, at one rate.

    A matrix's update is 0.2 sqrt(its longer side) times the orthogonal one, so that it is as large as AdamW's and takes its
    rate and decay (Liu et al. 2025, arXiv 2502.16982). Hidden matrices are the weights of linear layers other than the
    decoder's last and the projector's last: not embeddings, positions, patches, biases or norms. What AdamW moves decays as in
    AdamW; `clip` as there.
    """

    lr: float = 1e-3
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float | None = None
    clip_after: int = 0

    def __post_init__(self) -> None:
        if not self.lr > 0 or not 0 <= self.momentum < 1 or (self.clip is not None and not self.clip > 0):
            raise ValueError(f"Muon needs rate > 0, 0 <= momentum < 1 and clip > 0 (or None), got {self}.")

    def limit(self, step: int) -> float | None:
        """The largest norm of the gradient at step `step`, counted from 1, or None."""
        return self.clip if step > self.clip_after else None

    def build(self, student: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of all parameters that require gradients (ValueError if none does)."""
        free, hidden = _free(student), hidden_matrices(unwrapped(student))
        matrices = [parameter for parameter in free if parameter in hidden]
        rest = [parameter for parameter in free if parameter not in hidden]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(OrthogonalMomentum(matrices, self.lr, self.weight_decay, self.momentum))
        if rest:
            parts.append(_adamw(rest, self.lr, self.betas, self.weight_decay, decay_all=False))
        return Together(parts)


def hidden_matrices(student: nn.Module) -> set[Tensor]:
    """The weights of linear layers, but for the last ones, which put out images or projections."""
    last = [module.out for module in student.modules() if isinstance(module, Decoder)]
    last += [module[-1] for module in student.modules() if isinstance(module, Projector)]
    return {module.weight for module in student.modules() if isinstance(module, nn.Linear) and module not in last}


class Together(torch.optim.Optimizer):
    """Several optimizers as one: it has the groups and the state of all, and each part steps its own groups."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give the parts this one's groups, in order, and its state."""
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.param_groups, part.state, first = self.param_groups[first:last], self.state, last

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every part."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()
