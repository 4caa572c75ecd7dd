"""Sample a denoiser of your own, here the exact one of Gaussian pixels, from pure noise and from a fitted start."""

import torch

import pixelpath as pp
from pixelpath.randomness import Streams


def denoise(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The mean of clean pixels ~ N(0, 0.5^2) given noisy ones."""
    return noisy * 0.25 / (0.25 + sigma.to(noisy).reshape(-1, 1, 1, 1) ** 2)


noise = pp.NoiseRange(0.002, 80)
sigmas = noise.sigmas(9)
images = pp.sampling.dpmpp_2m(denoise, sigmas[0] * torch.randn(1000, 1, 4, 4), sigmas)
print(f"from pure noise, 9 evaluations: standard deviation {images.std():.3f} (0.5 is right)")

start = pp.fit_start(denoise, noise, 0.5 * torch.randn(500, 1, 4, 4), 0.5 * torch.randn(500, 1, 4, 4))
sigmas = noise.sigmas(3, start.sigma)
images = pp.sampling.dpmpp_2m(denoise, start.draw(Streams(range(1000))), sigmas)
print(f"from a start at sigma {start.sigma:.3g}, 3 evaluations: standard deviation {images.std():.3f}")
