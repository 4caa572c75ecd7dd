"""The table of a sampler does what the sampler does."""

import pytest
import torch
from torch import Tensor

from pixelpath.interop.walk import walk_of
from pixelpath.noise import NoiseRange
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.sampler import Sampler

NOISE = NoiseRange().for_resolution(8)


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("steps", [1, 6])
def test_following_the_table_ends_where_the_sampler_does(sampler: Sampler, steps: int) -> None:
    sigmas = sampler.sigmas(NOISE, steps)
    noises = list(torch.randn(steps + 2, 3, 1, 4, 4, dtype=torch.float64))

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return torch.sin(noisy / (1 + sigma)) / 2  # no linear one: rows of estimates must not be mixed up

    def none(noisy: Tensor, sigma: Tensor) -> Tensor:
        return torch.cos(noisy) / (2 + sigma)

    first, *rest = noises
    draws = iter(rest)
    start = sampler.cold_std(float(sigmas[0])) * first
    expected = sampler(guide(denoise, none, 2.0, (0.1, 3.0)), start, sigmas, lambda: next(draws))

    walk = walk_of(sampler, sigmas, 2.0, (0.1, 3.0))
    assert len(walk.sigmas) == sampler.nfe(steps)
    assert {scale for sigma, scale in zip(walk.sigmas, walk.guidance, strict=True) if 0.1 < sigma <= 3.0} <= {2.0}
    known = noises[: walk.noises]
    for sigma, scale, row in zip(walk.sigmas, walk.guidance, walk.rows, strict=False):
        noisy = sum((weight * image for weight, image in zip(row, known, strict=True)), torch.zeros(3, 1, 4, 4).double())
        level = torch.tensor(sigma, dtype=torch.float64)
        plain, other = denoise(noisy, level), none(noisy, level)
        known.append(other + scale * (plain - other))
    made = sum((weight * image for weight, image in zip(walk.rows[-1], known, strict=True)), torch.zeros(3, 1, 4, 4).double())
    assert torch.allclose(made, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(1.01 * made, expected, rtol=1e-9, atol=1e-9)
