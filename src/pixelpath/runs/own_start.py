"""A start for a denoiser of your own."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pixelpath.noise import NoiseRange
from pixelpath.runs import fit_start as search
from pixelpath.runs.families import Known
from pixelpath.starts.warm import WarmStart
from pixelpath.types import Denoise, Images, Labels, Sigmas


def fit_start(
    denoise: Denoise,
    noise: NoiseRange,
    train_images: Float[Tensor, "training channel row column"],
    held_out_images: Float[Tensor, "held_out _ _ _"],
    *,
    budget: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    points: int = search.POINTS,
) -> WarmStart:
    """Fit where sampling with `denoise` may begin instead of at pure noise; draw from it with `start.draw(generators)`.

    Args:
        denoise: (noisy, sigma) to the estimate of the clean images, in the range of the images.
        noise: The noise levels that the denoiser has learned.
        train_images: Clean images in model range (about mean 0 and standard deviation 0.5) that densities are fitted to.
        held_out_images: Clean images by which densities and sigma are chosen.
        budget: How many nats the start may be from the noised data. Default: 0.02 up to 64 values an image, else 0.05.
        sigma: Begin at this sigma, whatever the budget.
        seed: All randomness of the fit is a function of it.
        points: Noisy held-out images at each level by which densities are compared.

    Raises UserError if images are not in the denoiser's range, or if no start will do. `start.sigma` is where the sigmas of a
    sampler begin: `noise.sigmas(steps, start.sigma)`.

    Example:
        >>> import torch
        >>> noise, images = NoiseRange(0.002, 80), 0.5 * torch.randn(600, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> denoise = lambda noisy, sigma: noisy * 0.25 / (0.25 + sigma.to(noisy).reshape(-1, 1, 1, 1) ** 2)
        >>> start = fit_start(denoise, noise, images[:300], images[300:], points=256)
        >>> 0 < start.sigma < 80
        True
    """

    def labelled(noisy: Images, sigma: Sigmas, labels: Labels | None) -> Images:
        return denoise(noisy, sigma)

    known = Known(train_images, held_out_images)
    return search.fit_start(labelled, noise, known, None, budget, sigma, seed, points).warm
