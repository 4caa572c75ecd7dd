"""Stage two, diffusion: estimate the clean image from a noisy one at every sigma."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.noise import Draw, GridLogNormal, GridWeight, NoiseRange, Weight, expand
from pixelpath.randomness import Streams, normal, uniform
from pixelpath.types import Batch, Images, Losses, Sigmas


@dataclass(frozen=True)
class Denoising:
    """w(sigma) |D(x + sigma e, sigma) - x|^2, mean over pixels and images (Karras et al. 2022, arXiv 2206.00364, eq. 2).

    Sigmas come from `draw`, weights from `weight`. The condition of an image is dropped with probability `label_dropout`, so
    that one network is its own unconditional reference (Ho & Salimans 2022, arXiv 2207.12598). `student` is a Denoiser. Raises
    UserError unless 0 <= label_dropout <= 1.
    """

    noise: NoiseRange
    """Noise levels of the run."""
    draw: Draw = GridLogNormal()
    """Distribution of sigma."""
    weight: Weight = GridWeight()
    """Weight of the squared error as a function of sigma."""
    label_dropout: float = 0.1
    """Probability of dropping an image's condition, in [0, 1]; guidance needs some."""

    def __post_init__(self) -> None:
        check_label_dropout(self.label_dropout)

    def __call__(self, student: nn.Module, ema: nn.Module, batch: Batch, progress: float) -> Losses:
        """The mean loss of this process's share, and the unweighted mean squared error."""
        streams = Streams(batch.seeds, batch.images.device)
        sigma = self.draw(streams, self.noise)
        drop = uniform(streams, ()) < self.label_dropout
        weight = self.weight(sigma, self.noise)
        errors = self.errors(student, batch, normal(streams, batch.images.shape[1:]), sigma, drop)
        loss = (weight * errors).mean()
        return Losses(loss, {"squared_error": errors.detach().mean()})

    def errors(
        self, student: nn.Module, batch: Batch, noise: Images, sigma: Sigmas, drop: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Mean squared error per image over valid values, float32, at unshifted sigma [batch], for given noise and drops."""
        shifted = sigma * self.noise.shift
        estimate = student(batch.images + expand(shifted, noise) * noise, shifted, batch.labels, drop)
        return ((batch.where_valid(estimate.float()) - batch.images) ** 2).mean((1, 2, 3)) / batch.valid_share()


def check_label_dropout(value: float) -> None:
    """UserError unless it is a probability."""
    if not 0 <= value <= 1:
        raise UserError(f"`objective.label_dropout` must lie in [0, 1], got {value}.", setting="objective.label_dropout")
