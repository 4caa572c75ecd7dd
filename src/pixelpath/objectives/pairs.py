"""Pairs of noise levels: with which lower level consistency training pairs a level, and how much such a pair counts.

The *gap* of a pair is the distance of its levels; it narrows while training proceeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.noise import NoiseRange


def _below(
    sigma: Float[Tensor, "batch"], noise: NoiseRange, share: float, widening: float, steepness: float
) -> Float[Tensor, "batch"]:
    """max(lowest, sigma (1 - share (1 + widening sigmoid(-steepness sigma)))): the gap's share of sigma grows at low levels."""
    return (sigma * (1 - share * (1 + widening * torch.sigmoid(-steepness * sigma)))).clamp_min(noise.sigma_min)


@dataclass(frozen=True)
class StagedGap:
    """r = max(lowest, t (1 - base^-stage (1 + k sigmoid(-b t)))), the level with which consistency training pairs a level t.

    From Geng et al. 2024, "Consistency models made easy", arXiv 2406.14548; k is `widening`, b is `steepness`, t and r
    unshifted. The run has `stages` stages of equal length, the first of number `first`: stage = first + floor(stages step /
    total), and the last one stays. In a stage 0 every level is paired with the lowest, which is plain denoising. A total of 0
    stands for the length of the run, which a recipe fills in; total = 700,000 with 7 stages is EPG's schedule (arXiv
    2510.12586). Raises ValueError unless base > 1, first >= 0 and stages >= 1.
    """

    total: int = 0
    stages: int = 7
    first: int = 1
    base: float = 2.0
    widening: float = 8.0
    steepness: float = 1.0

    def __post_init__(self) -> None:
        if not self.base > 1 or self.first < 0 or self.stages < 1 or self.total < 0 or not 0 <= self.widening < math.inf:
            raise ValueError(f"A gap needs base > 1, first >= 0, stages >= 1, total >= 0 and widening >= 0, got {self}.")

    @property
    def narrowest(self) -> float:
        """The last gap's share of its level, but for the widening at low ones."""
        return self.base ** -(self.first + self.stages - 1)

    def stage(self, step: int) -> int:
        """The number of the stage at `step`, counted from 0."""
        return self.first + min(_known(self.total, step) * self.stages // self.total, self.stages - 1)

    def denoises(self, step: int) -> bool:
        """Whether `step` lies in a stage 0, where the target is the clean image."""
        return self.stage(step) == 0

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange, step: int) -> Float[Tensor, "batch"]:
        """The unshifted levels [batch], from the lowest to sigma, that the unshifted levels `sigma` are paired with."""
        return _below(sigma, noise, self.base ** -self.stage(step), self.widening, self.steepness)


@dataclass(frozen=True)
class SmoothGap:
    """As StagedGap, but the exponent of the base rises evenly, from `first` at the start to `last` at `total`, without jumps."""

    total: int = 0
    first: float = 1.0
    last: float = 8.0
    base: float = 2.0
    widening: float = 8.0
    steepness: float = 1.0

    def __post_init__(self) -> None:
        if not self.base > 1 or not 0 <= self.first <= self.last or self.total < 0 or not 0 <= self.widening < math.inf:
            raise ValueError(f"A gap needs base > 1, 0 <= first <= last, total >= 0 and widening >= 0, got {self}.")

    @property
    def narrowest(self) -> float:
        """The last gap's share of its level, but for the widening at low ones."""
        return self.base**-self.last

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange, step: int) -> Float[Tensor, "batch"]:
        """The unshifted levels [batch], from the lowest to sigma, that the unshifted levels `sigma` are paired with."""
        exponent = self.first + (self.last - self.first) * min(_known(self.total, step) / self.total, 1.0)
        return _below(sigma, noise, self.base**-exponent, self.widening, self.steepness)

    def denoises(self, step: int) -> bool:
        """Never: there is no stage 0."""
        return False


def _known(total: int, step: int) -> int:
    """The step; ValueError if the length of the run is not known."""
    if total == 0:
        raise ValueError("This gap does not know the length of its run: give it a total, or close its recipe with for_data.")
    return step


Gap = StagedGap | SmoothGap


@dataclass(frozen=True)
class InverseGap:
    """1 / (t - r), shifted (Geng et al. 2024, arXiv 2406.14548): the slope of the estimate along sigma is what counts."""

    def __call__(self, sigma: Float[Tensor, "batch"], lower: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of pairs of unshifted levels; 0 where the two are one."""
        return _ratio(torch.ones_like(sigma), (sigma - lower) * noise.shift)


@dataclass(frozen=True)
class RelativeGap:
    """t / (t - r): the slope of the estimate along ln sigma is what counts, so that every octave of noise counts alike."""

    def __call__(self, sigma: Float[Tensor, "batch"], lower: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of pairs of unshifted levels; 0 where the two are one."""
        return _ratio(sigma, sigma - lower)


def _ratio(numerator: Tensor, gap: Tensor) -> Tensor:
    """numerator / gap, and 0 where the gap is none."""
    return torch.where(gap > 0, numerator / gap, torch.zeros_like(gap))


PairWeight = InverseGap | RelativeGap
