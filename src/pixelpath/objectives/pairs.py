"""Pairs of noise levels: with which lower sigma consistency training pairs a sigma, and how much such a pair counts.

The *gap* of a pair is the distance of its sigmas. It narrows while training proceeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange


@dataclass(frozen=True)
class StagedGap:
    """r = max(sigma_min, t (1 - base^-stage (1 + k sigmoid(-b t)))), the sigma with which consistency training pairs a sigma t.

    From Geng et al. 2024, "Consistency models made easy", arXiv 2406.14548; k is `widening`, b is `steepness`, t and r
    unshifted. The run has `stages` stages of equal length: stage = first + floor(stages progress), and the last one stays. In a
    stage 0 every sigma is paired with sigma_min, which is plain denoising. 7 stages from 1 are EPG's (arXiv 2510.12586). Raises
    UserError unless base > 1, first >= 0, stages >= 1 and widening >= 0.
    """

    stages: int = 7
    """Stages of equal length, at least 1."""
    first: int = 1
    """Number of the first stage, at least 0. Stage 0 is plain denoising."""
    base: float = 2.0
    """Factor by which each stage narrows the gap, above 1."""
    widening: float = 8.0
    """How much wider the gap is at low sigmas, at least 0."""
    steepness: float = 1.0
    """How fast the widening fades as sigma grows, per unit of sigma."""

    def __post_init__(self) -> None:
        for name, least in {"stages": 1, "first": 0, "widening": 0}.items():
            if not least <= vars(self)[name] < math.inf:
                raise _wrong(name, f"must be at least {least} and finite, got {vars(self)[name]}.")
        if not self.base > 1:
            raise _wrong("base", f"must be above 1, got {self.base}: choose for example 2.")

    @property
    def narrowest(self) -> float:
        """The last gap's share of its sigma, apart from the widening at low ones."""
        return self.base ** -(self.first + self.stages - 1)

    def stage(self, progress: float) -> int:
        """The number of the stage at `progress` in [0, 1]."""
        # Rounded, because a border k / stages times stages may come out just below k.
        return self.first + min(math.floor(round(self.stages * progress, 9)), self.stages - 1)

    def denoises(self, progress: float) -> bool:
        """Whether `progress` lies in a stage 0, where the target is the clean image."""
        return self.stage(progress) == 0

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange, progress: float) -> Float[Tensor, "batch"]:
        """The unshifted sigmas [batch], from sigma_min to `sigma`, that the unshifted sigmas `sigma` are paired with."""
        share = self.base ** -self.stage(progress) * (1 + self.widening * torch.sigmoid(-self.steepness * sigma))
        return (sigma * (1 - share)).clamp_min(noise.sigma_min)


def _wrong(field: str, what: str) -> UserError:
    return UserError(f"`objective.gap.{field}` {what}", setting=f"objective.gap.{field}")


def inverse_gap(sigma: Float[Tensor, "batch"], lower: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
    """1 / (t - r), shifted, the weight of a pair (Geng et al. 2024, arXiv 2406.14548); 0 where the two sigmas are one."""
    gap = (sigma - lower) * noise.shift
    return torch.where(gap > 0, 1 / gap, torch.zeros_like(gap))
