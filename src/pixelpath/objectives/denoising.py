"""Stage two, diffusion: estimate the clean image from a noisy one at every level."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixelpath.noise import Draw, GridLogNormal, GridWeight, NoiseRange, Weight, expand
from pixelpath.randomness import generators, normal, uniform
from pixelpath.types import Batch, Images, Losses, Sigmas


@dataclass(frozen=True)
class Denoising:
    """w(sigma) |D(x + sigma e, sigma) - x|^2, mean over pixels and images (Karras et al. 2022, arXiv 2206.00364, eq. 2).

    Levels come from `draw`, weights from `weight`; a label is replaced by "no class" with probability `label_drop`, so that one
    network serves as its own unconditional reference (Ho & Salimans 2022, arXiv 2207.12598). `student` is a Denoiser.
    """

    noise: NoiseRange
    draw: Draw = GridLogNormal()
    weight: Weight = GridWeight()
    label_dropout: float = 0.1

    def __call__(self, student: nn.Module, ema: nn.Module, batch: Batch, step: int) -> Losses:
        """The mean loss of this process's share, and the unweighted mean squared error."""
        sources = generators(batch.seeds, batch.images.device)
        sigma = self.draw(sources, self.noise)
        drop = uniform(sources, ()) < self.label_dropout
        errors = self.errors(student, batch, normal(sources, batch.images.shape[1:]), sigma, drop)
        loss = (self.weight(sigma, self.noise) * errors).mean()
        return Losses(loss, {"squared_error": errors.detach().mean()})

    def errors(
        self, student: nn.Module, batch: Batch, noise: Images, sigma: Sigmas, drop: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Mean squared error per image over measured values, float32, at unshifted sigma [batch], for given noise and drops."""
        shifted = sigma * self.noise.shift
        estimate = student(batch.images + expand(shifted, noise) * noise, shifted, batch.labels, drop)
        return ((batch.where_valid(estimate.float()) - batch.images) ** 2).mean((1, 2, 3)) / batch.valid_share()
