"""Stage two, distillation: one network evaluation from pure noise to the image that a diffusion model makes of it in many.

The *teacher* is a diffusion run on the same images. Its walk from noise at sigma_max to an image has no randomness of its own, so
the image is a function of the noise, which regression can learn (Luhman & Luhman 2021, "Knowledge distillation in iterative
generative models for improved sampling speed", arXiv 2101.02388).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.types import Batch, Losses


@dataclass(frozen=True)
class Distillation:
    """mean_p sqrt(|D(n, sigma_max)_p - x_p|^2 + c^2) - c over the pixels p of an image x that the teacher made of the noise n.

    The norm is over the channels of a pixel, and c is `softening`: the pseudo-Huber loss of consistency training (Song &
    Dhariwal 2023, arXiv 2310.14189), of pixels instead of images. Of several possible colours its minimum is near their
    median, not their mean, so they mix less (docs/decisions/0026). The batch is of images that the teacher made, under its
    conditions and with its seeds, of which the noise follows. Raises UserError unless images >= 1, nfe >= 1 and softening >
    0.
    """

    noise: NoiseRange
    """Noise levels of the teacher, up to the one at which its sampling begins."""
    images: int = 12_000
    """Images that the teacher makes before training begins; training goes over them again and again."""
    nfe: int = 8
    """Network evaluations of the teacher for an image, by DPM-Solver++(2M); guidance doubles their cost."""
    guidance: float = 1.0
    """Guidance scale of the teacher; 1 is no guidance."""
    softening: float = 0.06
    """Errors (Euclidean norm over a pixel's channels) far below this count squared, far above it once; above 0."""

    def __post_init__(self) -> None:
        for name, least in {"images": 1, "nfe": 1}.items():
            if vars(self)[name] < least:
                raise UserError(f"`{name}` must be at least {least}, got {vars(self)[name]}.", setting=name)
        for name in ("softening", "guidance"):
            if not math.isfinite(vars(self)[name]):
                raise UserError(f"`{name}` must be finite, got {vars(self)[name]}.", setting=name)
        if self.softening <= 0:
            raise UserError(f"`softening` must be above 0, got {self.softening}: choose 0.06.", setting="softening")

    @property
    def first(self) -> float:
        """The shifted sigma of the noise."""
        return self.noise.sigma_max * self.noise.shift

    def __call__(self, student: nn.Module, ema: nn.Module, batch: Batch, progress: float) -> Losses:
        """The mean loss of this process's share."""
        streams = Streams([seed_of(seed) for seed in batch.seeds], batch.images.device)  # as those of sampling
        noise = self.first * normal(streams, batch.images.shape[1:])
        sigma = torch.full((len(noise),), self.first, device=noise.device)
        drop = torch.zeros(len(noise), dtype=torch.bool, device=noise.device)
        estimate = batch.where_valid(student(noise, sigma, batch.labels, drop).float())
        error = (estimate - batch.images).square().sum(1)
        pixels = (error + self.softening**2).sqrt() - self.softening
        return Losses((pixels.mean((1, 2)) / batch.valid_share()).mean())
