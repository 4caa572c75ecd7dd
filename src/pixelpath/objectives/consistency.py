"""Stage two, consistency: one network evaluation from any level to the image, learned without a teacher (EPG, arXiv 2510.12586).

A *pair* is one image under one noise at two levels, sigma and a *lower* one; the estimate at the first is drawn to that at the
second, which is the image itself at the lowest level. The *gap* between the two shrinks as training goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixelpath.models.representation import Representation
from pixelpath.noise import (
    Draw,
    Gap,
    InverseGap,
    LogNormal,
    NoiseRange,
    PairWeight,
    StagedGap,
    expand,
    generators,
    normal,
    seed_of,
    uniform,
)
from pixelpath.objectives.features import FeatureLoss, NoFeatures
from pixelpath.types import Batch, Images, Losses, Objective

_DROPOUT = 2  # keeps the seed of the dropout masks apart from all others made of an image's seed


def alike(student: nn.Module, seed: int) -> Callable[..., Tensor]:
    """The student, except that each of its calls draws the same dropout masks: those of `seed`, on any device.

    A call leaves torch's own generators, of the CPU and of all devices, at a state that follows from the seed.
    """

    def call(*inputs: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return student(*inputs)

    return call


@dataclass(frozen=True)
class Consistency:
    """w(t, r) S / sqrt(S + c^2), S = sum |D(x + t e, t) - stopgrad D(x + r e, r)|^2 over pixels, plus a loss on features.

    t comes from `draw`, r from `gap`, w from `weight`, c is `softening` (pseudo-Huber: Song & Dhariwal 2024, arXiv 2310.14189; this
    form of it and the pairs are those of Geng et al. 2024, arXiv 2406.14548). The target is the student's own estimate, under the same
    dropout masks; at the lowest level it is the noisy image, whatever the scalings. `features` compares the estimate with x, see
    `through`. A label is replaced by "no class" with probability `label_drop`. `student` is a Denoiser, as a rule with Preconditioned
    scalings whose boundary is the lowest shifted level (a recipe fills it in). Raises ValueError unless softening > 0.
    """

    noise: NoiseRange
    gap: Gap = StagedGap()  # noqa: RUF009 (frozen, so sharing it is safe)
    draw: Draw = LogNormal(-0.4, 1.6)  # noqa: RUF009
    weight: PairWeight = InverseGap()  # noqa: RUF009
    features: FeatureLoss = NoFeatures()  # noqa: RUF009
    softening: float = 0.06
    label_drop: float = 0.1

    def __post_init__(self) -> None:
        if not self.softening > 0:
            raise ValueError(f"The softening of the consistency loss must be above 0, got {self.softening}: choose for example 0.06.")

    @property
    def needs_encoder(self) -> bool:
        """Whether it compares features, and so must be called through the frozen encoder of a stage one."""
        return not isinstance(self.features, NoFeatures)

    def through(self, representation: Representation) -> Objective:
        """This objective with its features seen by `representation`, which is frozen here: it trains and is saved with nothing."""
        return partial(self, frozen=representation.requires_grad_(False).eval())

    def __call__(
        self, student: nn.Module, average: nn.Module, batch: Batch, step: int, frozen: Representation | None = None
    ) -> Losses:
        """The mean loss of this process's share, and its two terms."""
        sources = generators(batch.seeds, batch.images.device)
        sigma = self.draw(sources, self.noise)
        drop = uniform(sources, ()) < self.label_drop
        noise = normal(sources, batch.images.shape[1:])
        lower = self.gap(sigma, self.noise, step)
        consistency, features = self.terms(student, batch, noise, sigma, lower, drop, frozen)
        parts = {"consistency": consistency.detach().mean()}
        if self.needs_encoder:
            parts["features"] = features.detach().mean()
        return Losses((consistency + features).mean(), parts)

    def terms(
        self,
        student: nn.Module,
        batch: Batch,
        noise: Images,
        sigma: Float[Tensor, "batch"],
        lower: Float[Tensor, "batch"],
        drop: Bool[Tensor, "batch"],
        frozen: Representation | None = None,
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Both terms per image, float32, at unshifted levels `sigma` >= `lower` [batch], for given standard normal noise and drops."""
        estimate, target = self.estimates(student, batch, noise, sigma, lower, drop)
        error = (estimate - target).square().sum((1, 2, 3))
        distance = error / (error + self.softening**2).sqrt()
        lowest = noise.new_tensor(self.noise.lowest * self.noise.shift)
        return self.weight(sigma, lower, self.noise) * distance, self.features(frozen, estimate, batch.images, lowest)

    def estimates(
        self,
        student: nn.Module,
        batch: Batch,
        noise: Images,
        sigma: Float[Tensor, "batch"],
        lower: Float[Tensor, "batch"],
        drop: Bool[Tensor, "batch"],
    ) -> tuple[Images, Images]:
        """The estimate at `sigma`, and its target: that at `lower` without a gradient, or the noisy image at the lowest level."""
        denoise = alike(student, seed_of(batch.seeds[0], _DROPOUT))
        high, low = sigma * self.noise.shift, lower * self.noise.shift
        noisier, cleaner = (batch.images + expand(level, noise) * noise for level in (high, low))
        estimate = denoise(noisier, high, batch.labels, drop).float()
        with torch.no_grad():
            target = denoise(cleaner, low, batch.labels, drop).float()
            return estimate, torch.where(expand(lower > self.noise.lowest, noise) > 0, target, cleaner)
