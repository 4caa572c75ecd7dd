"""How a run's weights move: the optimizer, and its schedule.

A *schedule* maps (step, steps), the number of a step counted from 1 and the length of the run, to a factor of the learning rate.
*Warm-up* is its linear rise from 0, counted in steps. The rest depends on the share of the run
that is done, step / steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.head import PixelHead
from pixelpath.networks.projector import Projector
from pixelpath.trainer.ema import unwrapped
from pixelpath.trainer.muon import OrthogonalMomentum

GREATEST = 1e30  # learning rate: beyond it, an update overflows float32 whatever the gradient


def _warm(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


def _check_warmup(warmup: int) -> None:
    if warmup < 0:
        raise UserError(f"`schedule.warmup` must be at least 0 steps, got {warmup}.", setting="schedule.warmup")


@dataclass(frozen=True)
class Constant:
    """min(1, step / warmup). Raises UserError unless warmup >= 0."""

    warmup: int = 0
    """Steps in which the learning rate rises from 0, at least 0."""

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)

    def __call__(self, step: int, steps: int) -> float:
        """The factor of step `step`, counted from 1."""
        return _warm(step, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """step / warmup, then max(floor, (1 + cos(pi (step - warmup) / (steps + 1 - warmup))) / 2).

    The falling half wave is that of Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, without restarts. It reaches 0 only
    after the last step. Raises UserError unless warmup >= 0 and 0 <= floor <= 1.
    """

    warmup: int = 0
    """Steps in which the learning rate rises from 0, at least 0."""
    floor: float = 0.0
    """Lowest factor at the end of the run, in [0, 1]."""

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)
        if not 0 <= self.floor <= 1:
            raise UserError(f"`schedule.floor` must lie in [0, 1], got {self.floor}.", setting="schedule.floor")

    def __call__(self, step: int, steps: int) -> float:
        """The factor of step `step`, counted from 1."""
        if step < self.warmup:
            return _warm(step, self.warmup)
        progress = min(1.0, (step - self.warmup) / max(1, steps + 1 - self.warmup))
        return max(self.floor, (1 + math.cos(math.pi * progress)) / 2)


@dataclass(frozen=True)
class Steps:
    """step / warmup, times the factor of the last border below step / steps (1 before the first).

    The borders are EPG's, 400,000 and 500,000 of 700,000 steps (arXiv 2510.12586). Raises UserError unless warmup >= 0 and the
    borders rise within [0, 1].
    """

    warmup: int = 0
    """Steps in which the learning rate rises from 0, at least 0."""
    borders: tuple[tuple[float, float], ...] = ((400_000 / 700_000, 0.3), (500_000 / 700_000, 0.08))
    """Pairs of a share of the run, in [0, 1], and the factor of the learning rate from there on; shares rise."""

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)
        shares = [share for share, _ in self.borders]
        if not all(0 <= share <= 1 for share in shares) or any(after <= before for before, after in pairwise(shares)):
            raise UserError(
                f"`schedule.borders` must be shares of the run that rise within [0, 1], got {shares}.", setting="schedule.borders"
            )

    def __call__(self, step: int, steps: int) -> float:
        """The factor of step `step`, counted from 1."""
        factors = [factor for share, factor in self.borders if step / steps > share]
        return _warm(step, self.warmup) * (factors[-1] if factors else 1.0)


Schedule = Constant | Cosine | Steps
"""(step counted from 1, steps of the run) -> factor of the learning rate."""


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), and the limit of the gradient's norm.

    Parameters of one dimension (biases, norms) do not decay unless `decay_all`. From step `clip_after` + 1 on, counted from 1,
    the gradient's norm over all parameters is limited to `clip`. Raises UserError for values out of range.
    """

    lr: float = 1e-4
    """Learning rate before the schedule, above 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running mean of the gradient and of its square per step, in [0, 1)."""
    weight_decay: float = 0.01
    """Decay of the weights, at least 0: a step multiplies them by 1 - lr weight_decay."""
    clip: float | None = None
    """Largest norm of the gradient, above 0. Default: no limit."""
    clip_after: int = 0
    """Steps before the gradient's norm is limited."""
    decay_all: bool = False
    """Decay biases and norms too."""

    def __post_init__(self) -> None:
        _check(self)

    def limit(self, step: int) -> float | None:
        """The largest norm of the gradient at step `step`, counted from 1, or None."""
        return self.clip if step > self.clip_after else None

    def build(self, student: nn.Module) -> torch.optim.AdamW:
        """The optimizer of all parameters that require gradients (ValueError if none does), fused."""
        return _adamw(_free(student), self.lr, self.betas, self.weight_decay, self.decay_all)


def _check(chosen: AdamW | Muon) -> None:
    """UserError for values out of the range that both optimizers share."""
    if not 0 < chosen.lr <= GREATEST:
        raise _wrong("lr", f"must be above 0 and at most {GREATEST:g}, got {chosen.lr}: choose for example 1e-4")
    if not all(0 <= beta < 1 for beta in chosen.betas):
        raise _wrong("betas", f"must lie in [0, 1), got {chosen.betas}")
    if not 0 <= chosen.weight_decay < math.inf:
        raise _wrong("weight_decay", f"must be at least 0 and finite, got {chosen.weight_decay}")
    if chosen.clip is not None and not chosen.clip > 0:
        raise _wrong("clip", f"must be above 0, got {chosen.clip}: choose for example 1, or None for no limit")


def _wrong(field: str, what: str) -> UserError:
    return UserError(f"`optimizer.{field}` {what}.", setting=f"optimizer.{field}")


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
    """Orthogonal momentum for hidden matrices (Jordan et al. 2024, "Muon"), AdamW for all other parameters, at one learning rate.

    A matrix's update is 0.2 sqrt(its longer side) times the orthogonal one. That makes it as large as AdamW's, so it takes the
    same learning rate and weight decay (Liu et al. 2025, arXiv 2502.16982). Hidden matrices are the weights of linear layers
    other than the last of decoder and projector: not embeddings, positions, patches, biases or norms. The rest decays and is
    clipped as in AdamW. Raises UserError for values out of range.
    """

    lr: float = 1e-3
    """Learning rate before the schedule, above 0."""
    momentum: float = 0.95
    """Decay of the momentum of hidden matrices per step, in [0, 1)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Betas of AdamW for the other parameters, in [0, 1)."""
    weight_decay: float = 0.01
    """Decay of the weights, at least 0: a step multiplies them by 1 - lr weight_decay."""
    clip: float | None = None
    """Largest norm of the gradient, above 0. Default: no limit."""
    clip_after: int = 0
    """Steps before the gradient's norm is limited."""

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.momentum < 1:
            raise _wrong("momentum", f"must lie in [0, 1), got {self.momentum}: choose for example 0.95")

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
    """The weights of all linear layers, and the kernels of a pixel head, except the last ones.

    The last ones' outputs are images or projections.
    """
    last = [module.out for module in student.modules() if isinstance(module, Decoder | PixelHead)]
    last += [module[-1] for module in student.modules() if isinstance(module, Projector)]
    heads = [module for module in student.modules() if isinstance(module, PixelHead)]
    layers = [module for module in student.modules() if isinstance(module, nn.Linear)]
    layers += [module for head in heads for module in head.modules() if isinstance(module, nn.Conv2d)]
    return {module.weight for module in layers if module not in last}


@torch.no_grad()
def step_unless(skipped: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of the optimizer, or none where `skipped` [] is True.

    For the optimizers that are made here this is decided on the device; with others the host waits for it.
    """
    match optimizer:
        case Together():
            for part in optimizer.parts:
                step_unless(skipped, part)
        case OrthogonalMomentum():
            optimizer.step(skipped=skipped)
        case torch.optim.AdamW() if all(group["fused"] for group in optimizer.param_groups):
            # how torch's GradScaler tells a fused optimizer of a gradient that is not finite
            optimizer.grad_scale, optimizer.found_inf = None, skipped.float()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        case _:
            if not skipped:
                optimizer.step()


class Together(torch.optim.Optimizer):
    """Several optimizers as one: it holds the groups and the state of all, and each part steps its own groups."""

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
        """Restore what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()
