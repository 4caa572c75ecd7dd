"""Stage two, consistency: one network evaluation from any level to the image, learned without a teacher (EPG, arXiv 2510.12586).

A *pair* is one image under one noise at two levels, sigma and a *lower* one; the estimate at the first is drawn to that at the
second, which is the image itself at the lowest level. The *gap* between the two shrinks as training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixelpath.models.representation import Representation
from pixelpath.noise import Draw, LogNormal, NoiseRange, expand
from pixelpath.objectives.features import Comparing, FeatureLoss, NoFeatures
from pixelpath.objectives.pairs import Gap, InverseGap, PairWeight, StagedGap
from pixelpath.randomness import generators, normal, seed_of, uniform
from pixelpath.types import Batch, Images, Losses

DROPOUT = 2  # keeps the seed of the dropout masks apart from all others made of an image's seed


def alike(module: nn.Module, seed: int) -> Callable[..., Tensor]:
    """The module, except that each of its calls draws the same dropout masks: those of `seed`, on any device.

    A call leaves torch's own generators, of the CPU and of all devices, at a state that follows from the seed.
    """

    def call(*inputs: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return module(*inputs)

    return call


@dataclass(frozen=True)
class Pairs:
    """What a step draws: standard normal noise, unshifted levels sigma >= lower, and which labels to drop."""

    noise: Images
    sigma: Float[Tensor, "batch"]
    lower: Float[Tensor, "batch"]
    drop: Bool[Tensor, "batch"]


@dataclass(frozen=True)
class Consistency(Comparing):
    """w(t, r) S / stopgrad sqrt(S + c^2), S = sum |D(x + t e, t) - stopgrad D(x + r e, r)|^2 over pixels, plus a feature loss.

    t comes from `draw`, r from `gap`, w from `weight`, c is `softening`: consistency training made easy (Geng et al. 2024,
    arXiv 2406.14548) with the settings of EPG (arXiv 2510.12586). The target is the student's own estimate, under the same
    dropout masks; at the lowest level it is the noisy image, whatever the scalings; in a stage 0 it is x. `features` compares the
    estimate with x, see `through`. A label is replaced by "no class" with probability `label_drop`. `student` is a Denoiser,
    as a rule with Preconditioned scalings whose boundary is the lowest shifted level (a recipe fills it in). Raises ValueError
    unless softening > 0.
    """

    noise: NoiseRange
    gap: Gap = StagedGap()
    draw: Draw = LogNormal(-0.4, 1.6)
    weight: PairWeight = InverseGap()
    features: FeatureLoss = NoFeatures()
    softening: float = 0.06
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.softening < math.inf:
            raise ValueError(
                f"The softening of the consistency loss must be above 0 and finite, got {self.softening}: choose 0.06."
            )

    def __call__(
        self, student: nn.Module, ema: nn.Module, batch: Batch, step: int, frozen: Representation | None = None
    ) -> Losses:
        """The mean loss of this process's share, and its two terms."""
        teacher = None if self.gap.denoises(step) else student
        consistency, features = self.terms(student, teacher, batch, self.pairs(batch, step), frozen)
        parts = {"consistency": consistency.detach().mean()}
        if self.needs_encoder:
            parts["features"] = features.detach().mean()
        return Losses((consistency + features).mean(), parts)

    def pairs(self, batch: Batch, step: int) -> Pairs:
        """What each image of the batch draws at `step`."""
        sources = generators(batch.seeds, batch.images.device)
        sigma = self.draw(sources, self.noise)
        drop = uniform(sources, ()) < self.label_dropout
        return Pairs(normal(sources, batch.images.shape[1:]), sigma, self.gap(sigma, self.noise, step), drop)

    def terms(
        self, student: nn.Module, teacher: nn.Module | None, batch: Batch, pairs: Pairs, frozen: Representation | None = None
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Both terms per image, float32; `teacher` makes the targets (the student itself, as a rule), without it they are x."""
        estimate, target = self.estimates(student, teacher, batch, pairs)
        error = (estimate - target).square().sum((1, 2, 3))
        distance = error / (error.detach() + self.softening**2).sqrt()
        lowest = estimate.new_tensor(self.noise.sigma_min * self.noise.shift)
        weight = self.weight(pairs.sigma, pairs.lower, self.noise)
        return weight * distance, self.features(frozen, estimate, batch.images, lowest)

    def estimates(self, student: nn.Module, teacher: nn.Module | None, batch: Batch, pairs: Pairs) -> tuple[Images, Images]:
        """The student's estimate at the upper level, and its target, float32; both are x where nothing was measured."""
        seed = seed_of(batch.seeds[0], DROPOUT)
        high, low = pairs.sigma * self.noise.shift, pairs.lower * self.noise.shift
        noisier, cleaner = (batch.images + expand(level, pairs.noise) * pairs.noise for level in (high, low))
        estimate = batch.where_valid(alike(student, seed)(noisier, high, batch.labels, pairs.drop).float())
        if teacher is None:
            return estimate, batch.images
        with torch.no_grad():
            target = alike(teacher, seed)(cleaner, low, batch.labels, pairs.drop).float()
        above = (pairs.lower > self.noise.sigma_min).reshape(-1, 1, 1, 1)
        return estimate, batch.where_valid(torch.where(above, target, cleaner))
