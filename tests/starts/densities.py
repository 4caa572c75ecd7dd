"""What every law promises, checked on any of them: the tests of the laws share these."""

import itertools
from typing import Any

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from pixelpath.randomness import Streams
from pixelpath.starts.start import Density, Start
from pixelpath.types import Labels


def gaussian_log_density(rows: np.ndarray, mean: np.ndarray, covariance: Any) -> np.ndarray:
    """SciPy's, whose type stubs know only numbers as a covariance."""
    return multivariate_normal.logpdf(rows, mean, covariance)


def integral(density: Density, sigma: float, reach: float, labels: int | None = None, points: int = 801) -> float:
    """The trapezium sum of the density over [-reach, reach]^d, of images of one or two values."""
    shape, axis, mass = _small(density), torch.linspace(-reach, reach, points, dtype=torch.float64), 0.0
    grid = torch.cartesian_prod(*[axis] * max(shape)).reshape(-1, *shape)
    for part in grid.split(100_000):
        chosen = None if labels is None else torch.full((len(part),), labels)
        mass += float(density.log_prob(part, sigma, chosen).exp().sum())
    return mass * float(axis[1] - axis[0]) ** max(shape)


def _small(density: Start) -> tuple[int, ...]:
    shape = tuple(density.sample(Streams([0]), 1.0).shape[1:])
    assert sum(size > 1 for size in shape) <= 1
    return shape


def score_gap(density: Density, noisy: Tensor, sigma: Tensor, labels: Labels | None = None) -> float:
    """The largest difference of the denoiser from noisy + sigma^2 times the derivative of the log density (Tweedie's formula)."""
    expected = []
    for place, each in enumerate(sigma.expand(len(noisy)).tolist()):
        image = noisy[place : place + 1].clone().requires_grad_()
        label = None if labels is None else labels[place : place + 1]
        (score,) = torch.autograd.grad(density.log_prob(image, each, label).sum(), image)
        expected.append(image.detach() + each**2 * score)
    return float((density.denoise(noisy, sigma, labels) - torch.cat(expected)).abs().max())


def noised_density(density: Density, at: Tensor, clean: float, sigma: float, labels: Labels | None = None) -> Tensor:
    """The density of the law at level `clean`, convolved with noise numerically, so that it is noised to `sigma` in all [batch].

    Noise is summed over a fine grid of eight deviations to each side.
    """
    added = (sigma**2 - clean**2) ** 0.5
    shape, axis = at.shape[1:], torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * at[0].numel()).reshape(-1, at[0].numel())
    weight = torch.exp(-(grid**2).sum(1) / 2)
    found = []
    for place, image in enumerate(at):
        label = None if labels is None else labels[place].expand(len(grid))
        found_density = density.log_prob(image - added * grid.reshape(-1, *shape), clean, label).exp()
        found.append((found_density * weight).sum() / weight.sum())
    return torch.stack(found)


def mean_and_covariance(start: Start, sigma: float, count: int, labels: Labels | None = None) -> tuple[Tensor, Tensor]:
    """Of `count` samples, in float64."""
    rows = start.sample(Streams(range(count)), sigma, labels).flatten(1).double()
    return rows.mean(0), torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])


def squared_distance(density: Density, mean: Tensor, sigma: float, count: int) -> float:
    """The mean, per value, of the squared Mahalanobis distance of samples of one Gaussian from its mean: 1 +- sqrt(2 / values).

    `values` are those of all samples together. The distance is twice what the log density loses from the mean to the sample.
    """
    samples = density.sample(Streams(range(count)), sigma).double()
    lost = density.log_prob(mean.reshape(1, *samples.shape[1:]), sigma) - density.log_prob(samples, sigma).mean()
    return 2 * float(lost) / mean.numel()


def is_a_function_of_its_seed(start: Start, sigma: float, labels: Labels | None = None) -> bool:
    """Whether one batch of 6, and batches of 1, 2 and 3 of the same seeds, hold the same images."""
    seeds = torch.arange(6)
    whole = start.sample(Streams(seeds.tolist()), sigma, labels)
    parts = [
        start.sample(Streams(seeds[low:high].tolist()), sigma, None if labels is None else labels[low:high])
        for low, high in itertools.pairwise([0, 1, 3, 6])
    ]
    return whole.dtype == torch.float32 and bool((torch.cat(parts) == whole).all())
