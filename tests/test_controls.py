"""The controls of benchmarks: noise alone, and the mean of Gaussians at the images."""

import numpy as np
import pytest
import torch
from benchmarks.controls import Empirical, Naive
from torch import Tensor

from pixelpath.randomness import Streams, normal
from pixelpath.starts.start import Density
from tests.starts.densities import (
    gaussian_log_density,
    integral,
    is_a_function_of_its_seed,
    mean_and_covariance,
    noised_density,
    score_gap,
)


def images(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def empirical(*shape: int) -> Empirical:
    return Empirical(images(5, *shape), torch.tensor([0, 0, 2, 2, 2]), 3, allow_memorising=True)


def test_the_naive_start_is_the_cold_start() -> None:
    cold = 80.0 * normal(Streams([3, 4]), (3, 8, 8))
    assert torch.equal(Naive((3, 8, 8)).sample(Streams([3, 4]), 80.0), cold)
    assert isinstance(Naive((3, 8, 8)), Density)


def test_the_best_cold_start_is_gaussian_noise_with_the_variance_of_the_data() -> None:
    density, noisy, sigma = Naive((1, 1, 2), 0.5), images(6, 1, 1, 2), torch.tensor(1.2, dtype=torch.float64)
    expected = gaussian_log_density(noisy.flatten(1).numpy(), np.zeros(2), (0.25 + 1.44) * np.eye(2))
    np.testing.assert_allclose(density.log_prob(noisy, 1.2).numpy(), expected, rtol=1e-13)
    assert score_gap(density, noisy, sigma) < 1e-14
    assert float(density.sample(Streams(range(20_000)), 1.2).std()) == pytest.approx(1.3, rel=0.02)


def test_the_naive_law_is_noise_alone() -> None:
    density, noisy = Naive((1, 1, 2)), images(6, 1, 1, 2)
    expected = gaussian_log_density(noisy.flatten(1).numpy(), np.zeros(2), 0.49 * np.eye(2))
    np.testing.assert_allclose(density.log_prob(noisy, 0.7).numpy(), expected, rtol=1e-13)
    assert integral(density, 0.7, 9.0) == pytest.approx(1, abs=1e-10)
    assert score_gap(density, noisy, torch.tensor(0.7, dtype=torch.float64)) < 1e-14
    assert is_a_function_of_its_seed(density, 2.0)
    with pytest.raises(ValueError, match="no density at sigma 0"):
        density.log_prob(noisy, 0.0)
    with pytest.raises(ValueError, match=r"shape \[1, 1, 2\]"):
        density.denoise(images(6, 1, 2, 2), torch.tensor(1.0))


def test_an_empirical_start_needs_its_flag() -> None:
    with pytest.raises(ValueError, match=r"allow_memorising=True for diagnostics, or fit a density"):
        Empirical(images(5, 1, 2, 2))
    with pytest.raises(ValueError, match="2 classes need one label for each of 5 images"):
        Empirical(images(5, 1, 2, 2), None, 2, allow_memorising=True)


@pytest.mark.parametrize(("label", "chosen"), [(None, slice(None)), (0, slice(0, 2)), (2, slice(2, 5)), (3, slice(None))])
def test_the_empirical_law_is_the_mean_of_gaussians_at_the_images(label: int | None, chosen: slice) -> None:
    density, noisy = empirical(1, 2, 2), images(4, 1, 2, 2)
    own = density.images[chosen].flatten(1).numpy()
    densities = [np.exp(gaussian_log_density(noisy.flatten(1).numpy(), centre, 0.36 * np.eye(4))) for centre in own]
    labels = None if label is None else torch.full((4,), label)
    np.testing.assert_allclose(density.log_prob(noisy, 0.6, labels).numpy(), np.log(np.mean(densities, 0)), rtol=1e-11)
    weights = np.array(densities) / np.sum(densities, 0)
    np.testing.assert_allclose(density.denoise(noisy, torch.tensor(0.6), labels).flatten(1).numpy(), weights.T @ own, rtol=1e-6)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 2, 3])])
def test_the_empirical_law_keeps_the_laws(labels: Tensor | None) -> None:
    density, noisy = empirical(1, 1, 2), images(3, 1, 1, 2)
    assert score_gap(density, noisy, torch.tensor([0.3, 2.0, 0.3], dtype=torch.float64), labels) < 1e-10
    assert integral(density, 0.4, 8.0) == pytest.approx(1, abs=1e-8)
    expected = noised_density(density, noisy, 0.5, 0.9, labels)
    torch.testing.assert_close(density.log_prob(noisy, 0.9, labels).exp(), expected, rtol=1e-7, atol=1e-12)


def test_empirical_samples_are_images_with_noise() -> None:
    density, labels = empirical(1, 1, 2), torch.tensor([0, 2, 3] * 2)
    clean = density.sample(Streams(range(6)), 0.0, labels)
    own = density.images.float()
    assert all(any(torch.equal(image, each) for each in own[:2]) for image in clean[[0, 3]])
    assert all(any(torch.equal(image, each) for each in own[2:]) for image in clean[[1, 4]])
    mean, covariance = mean_and_covariance(density, 0.5, 30_000)
    torch.testing.assert_close(mean, density.images.flatten(1).mean(0), rtol=0, atol=0.04)
    expected = torch.cov(density.images.flatten(1).T, correction=0) + 0.25 * torch.eye(2)
    torch.testing.assert_close(covariance, expected, rtol=0.04, atol=0.03)
    assert is_a_function_of_its_seed(density, 0.7, labels)
    with pytest.raises(ValueError, match="class 1"):
        density.sample(Streams([0]), 0.5, torch.tensor([1]))
    with pytest.raises(ValueError, match="no density at sigma 0"):
        density.log_prob(own, 0.0)
