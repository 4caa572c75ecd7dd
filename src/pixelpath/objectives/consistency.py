"""Stage two, consistency: one network evaluation from any sigma to the image, learned without a teacher (EPG, arXiv
2510.12586).

A *pair* is one image under one noise at two sigmas, the second *lower*. Training moves the estimate at the first to that at the
second, which at sigma_min is the image itself. The *gap* between the two shrinks as training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.models.representation import Representation
from pixelpath.noise import Draw, LogNormal, NoiseRange, expand
from pixelpath.objectives.denoising import check_label_dropout
from pixelpath.objectives.features import FeatureLoss, NoFeatures
from pixelpath.objectives.pairs import StagedGap, inverse_gap
from pixelpath.randomness import Streams, normal, seed_of, uniform
from pixelpath.types import Batch, Condition, Images, Losses, Objective

DROPOUT = 2  # keeps the seed of the dropout masks apart from other seeds made of an image's seed


def alike(module: nn.Module, seed: int) -> Callable[..., Tensor]:
    """The module with the same dropout masks in every call: those of `seed`, on any device.

    A call leaves torch's global Streams, of the CPU and of all devices, at a state that follows from the seed.
    """

    def call(*inputs: Tensor | Condition) -> Tensor:
        torch.manual_seed(seed)
        return module(*inputs)

    return call


@dataclass(frozen=True)
class Pairs:
    """What a step draws: standard normal noise, unshifted sigma >= lower, and which conditions to drop."""

    noise: Images
    sigma: Float[Tensor, "batch"]
    lower: Float[Tensor, "batch"]
    drop: Bool[Tensor, "batch"]


@dataclass(frozen=True)
class Consistency:
    """S / ((t - r) stopgrad sqrt(S + c^2)), S = sum |D(x + t e, t) - stopgrad D(x + r e, r)|^2 over pixels, plus a feature
    loss.

    t comes from `draw`, r from `gap`, c is `softening`: consistency training made easy (Geng et al. 2024, arXiv 2406.14548)
    with the settings of EPG (arXiv 2510.12586). The target is the student's own estimate, under the same dropout masks. At
    sigma_min it is the noisy image, whatever the preconditioning; in a stage 0 of the gap it is x. `features` compares the
    estimate with x (see `through`). The condition of an image is dropped with probability `label_dropout`. `student` is a
    Denoiser, as a rule with a preconditioning whose boundary is the shifted sigma_min (a recipe fills it in). Raises UserError
    unless softening > 0 and 0 <= label_dropout <= 1.
    """

    noise: NoiseRange
    """Noise levels of the run."""
    gap: StagedGap = StagedGap()
    """Distance of the two sigmas of a pair, which narrows in stages."""
    draw: Draw = LogNormal(-0.4, 1.6)
    """Distribution of the upper sigma."""
    features: FeatureLoss = NoFeatures()
    """Loss on features of a frozen encoder of stage one."""
    softening: float = 0.06
    """Errors (Euclidean norm over an image) far below this count squared, far above it once; above 0."""
    label_dropout: float = 0.1
    """Probability of dropping an image's condition, in [0, 1]; guidance needs some."""

    def __post_init__(self) -> None:
        if not 0 < self.softening < math.inf:
            raise UserError(
                f"`objective.softening` must be above 0 and finite, got {self.softening}: choose 0.06.", "objective.softening"
            )
        check_label_dropout(self.label_dropout)

    @property
    def needs_encoder(self) -> bool:
        """Whether it compares features, and so must be called through the frozen encoder of a stage one."""
        return not isinstance(self.features, NoFeatures)

    def through(self, representation: Representation) -> Objective:
        """This objective with its features seen by `representation`, which is frozen here and belongs to no student."""
        return cast(Objective, partial(self, frozen=representation.requires_grad_(False).eval()))

    def __call__(
        self, student: nn.Module, ema: nn.Module, batch: Batch, progress: float, frozen: Representation | None = None
    ) -> Losses:
        """The mean loss of this process's share, and its two terms."""
        teacher = None if self.gap.denoises(progress) else student
        consistency, features = self.terms(student, teacher, batch, self.pairs(batch, progress), frozen)
        parts = {"consistency": consistency.detach().mean()}
        if self.needs_encoder:
            parts["features"] = features.detach().mean()
        return Losses((consistency + features).mean(), parts)

    def pairs(self, batch: Batch, progress: float) -> Pairs:
        """What each image of the batch draws."""
        streams = Streams(batch.seeds, batch.images.device)
        sigma = self.draw(streams, self.noise)
        drop = uniform(streams, ()) < self.label_dropout
        return Pairs(normal(streams, batch.images.shape[1:]), sigma, self.gap(sigma, self.noise, progress), drop)

    def terms(
        self, student: nn.Module, teacher: nn.Module | None, batch: Batch, pairs: Pairs, frozen: Representation | None = None
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Both terms per image, float32. `teacher` makes the targets (the student itself, as a rule); None: they are x."""
        weight = inverse_gap(pairs.sigma, pairs.lower, self.noise)
        estimate, target = self.estimates(student, teacher, batch, pairs)
        error = (estimate - target).square().sum((1, 2, 3))
        distance = error / (error.detach() + self.softening**2).sqrt()
        lowest = torch.full((), self.noise.sigma_min * self.noise.shift, device=estimate.device)
        return weight * distance, self.features(frozen, estimate, batch, lowest)

    def estimates(self, student: nn.Module, teacher: nn.Module | None, batch: Batch, pairs: Pairs) -> tuple[Images, Images]:
        """The student's estimate at the upper sigma, and its target, float32; both are x where pixels are not valid."""
        seed = seed_of(batch.seeds[0], DROPOUT)
        high, low = pairs.sigma * self.noise.shift, pairs.lower * self.noise.shift
        noisier, cleaner = (batch.images + expand(sigma, pairs.noise) * pairs.noise for sigma in (high, low))
        estimate = batch.where_valid(alike(student, seed)(noisier, high, batch.labels, pairs.drop).float())
        if teacher is None:
            return estimate, batch.images
        with torch.no_grad():
            target = alike(teacher, seed)(cleaner, low, batch.labels, pairs.drop).float()
        above = (pairs.lower > self.noise.sigma_min).reshape(-1, 1, 1, 1)
        return estimate, batch.where_valid(torch.where(above, target, cleaner))
