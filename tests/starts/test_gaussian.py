"""Gaussian laws against SciPy, against their own derivatives, and against numerical noise."""

import numpy as np
import pytest
import torch
from tests.starts.densities import (
    gaussian_log_density,
    integral,
    is_a_function_of_its_seed,
    mean_and_covariance,
    noised_density,
    score_gap,
    squared_distance,
)
from torch import Tensor

from pixelpath.randomness import Streams
from pixelpath.starts.gaussian import Diagonal, Form, Full, LowRank, MomentGaussian, fit_gaussian, form_for
from pixelpath.starts.start import Density

FORMS: list[Form] = [Full(), Diagonal(), LowRank(2), LowRank(1, seed=3)]


def data(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Images of correlated values with unequal means and deviations, in float64."""
    source = torch.Generator().manual_seed(seed)
    width = int(np.prod(shape))
    rot90, mean = (torch.randn(size, generator=source, dtype=torch.float64) for size in ((width, width), (width,)))
    rows = torch.randn(count, width, generator=source, dtype=torch.float64) @ rot90 / width**0.5 + 0.5 * mean
    return rows.reshape(count, *shape)


def two_classes(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    """`count` images of class 0 around -1, and half as many of class 2 of 3 around 1.5."""
    images = torch.cat([data(count, *shape) - 1, 0.5 * data(count // 2, *shape, seed=1) + 1.5])
    return images, torch.tensor([0] * count + [2] * (count // 2))


@pytest.mark.parametrize("form", FORMS)
def test_the_density_integrates_to_one(form: Form) -> None:
    density = fit_gaussian(data(40, 1, 1, 2), form=form)
    assert isinstance(density, Density)
    assert integral(density, 0.4, 16.0) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("labels", [None, 0, 2, 3])
def test_the_density_of_every_class_and_of_none_integrates_to_one(labels: int | None) -> None:
    density = fit_gaussian(*two_classes(40, 1, 1, 1), 3, form=Full())
    assert integral(density, 0.3, 12.0, labels) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("sigma", [0.0, 0.02, 1.3, 80.0])
def test_the_full_law_is_that_of_the_sample_covariance(sigma: float) -> None:
    images = data(60, 2, 2, 3)
    rows = images.flatten(1).numpy()
    expected = gaussian_log_density(rows[:9], rows.mean(0), np.cov(rows, rowvar=False) + sigma**2 * np.eye(12))
    np.testing.assert_allclose(fit_gaussian(images, form=Full()).log_prob(images[:9], sigma).numpy(), expected, rtol=1e-9)


def test_the_diagonal_law_is_that_of_the_variances() -> None:
    images = data(60, 1, 3, 2)
    rows = images.flatten(1).numpy()
    expected = gaussian_log_density(rows[:9], rows.mean(0), np.diag(rows.var(0, ddof=1) + 0.49))
    np.testing.assert_allclose(fit_gaussian(images, form=Diagonal()).log_prob(images[:9], 0.7).numpy(), expected, rtol=1e-12)


def test_a_low_rank_law_keeps_the_principal_covariance_and_every_variance() -> None:
    images = data(80, 1, 3, 4)
    covariance = np.cov(images.flatten(1).numpy(), rowvar=False)
    spread, rot90 = np.linalg.eigh(covariance)
    kept = rot90[:, -3:] * spread[-3:] @ rot90[:, -3:].T
    expected = kept + np.diag(np.diag(covariance - kept)) + 0.25 * np.eye(12)
    density = fit_gaussian(images, form=LowRank(3))
    reference = gaussian_log_density(images[:5].flatten(1).numpy(), images.flatten(1).mean(0).numpy(), expected)
    np.testing.assert_allclose(density.log_prob(images[:5], 0.5).numpy(), reference, rtol=1e-7)
    own = density.basis[0] * density.spread[0] @ density.basis[0].T + density.remainder[0].diag()
    np.testing.assert_allclose(own.diagonal().numpy(), np.diag(covariance), rtol=1e-12)


@pytest.mark.parametrize("rank", [3, 12])
def test_low_rank_and_full_are_one_where_the_rank_is_enough(rank: int) -> None:
    narrow = data(50, 1, 1, 3).flatten(1) @ data(3, 1, 3, 4).flatten(1)
    images = narrow.reshape(50, 1, 3, 4) if rank == 3 else data(50, 1, 3, 4)
    low, full = (fit_gaussian(images, form=form) for form in (LowRank(rank), Full()))
    noisy = images[:8] + 0.3 * data(8, 1, 3, 4, seed=5)
    torch.testing.assert_close(low.log_prob(noisy, 0.3), full.log_prob(noisy, 0.3), rtol=1e-9, atol=1e-9)
    sigma = torch.tensor(0.3)
    torch.testing.assert_close(low.denoise(noisy, sigma), full.denoise(noisy, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_the_denoiser_follows_the_slope_of_the_density(form: Form, sigma: float) -> None:
    density = fit_gaussian(data(40, 2, 2, 2), form=form)
    noisy = data(5, 2, 2, 2, seed=2) * (1 + sigma)
    assert score_gap(density, noisy, torch.tensor(sigma, dtype=torch.float64)) < 1e-10


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 2, 3, 2, 0])])
def test_the_denoiser_of_classes_follows_the_slope_at_a_sigma_of_each_image(labels: Tensor | None) -> None:
    density = fit_gaussian(*two_classes(40, 1, 2, 2), 3, form=Full())
    sigma = torch.tensor([0.3, 2.0, 2.0, 0.9, 0.3], dtype=torch.float64)
    assert score_gap(density, data(5, 1, 2, 2, seed=2), sigma, labels) < 1e-10


def test_a_clean_image_is_its_own_estimate() -> None:
    images = data(40, 1, 2, 2)
    density = fit_gaussian(images, form=Full())
    assert torch.equal(density.denoise(images, torch.tensor(0.0)), images)
    mixed = density.denoise(images[:2], torch.tensor([0.0, 0.5]))
    assert torch.equal(mixed[0], images[0])
    torch.testing.assert_close(mixed[1:], density.denoise(images[1:2], torch.tensor(0.5)))


@pytest.mark.parametrize("form", FORMS)
def test_noise_adds_in_closed_form_as_it_does_in_numbers(form: Form) -> None:
    images, labels = two_classes(40, 1, 1, 2)
    density = fit_gaussian(images, labels, 3, form=form)
    at, chosen = images[[0, 50, 7]], torch.tensor([0, 2, 3])
    expected = noised_density(density, at, 0.6, 1.1, chosen)
    torch.testing.assert_close(density.log_prob(at, 1.1, chosen).exp(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_samples_have_the_moments_of_the_data_and_the_noise(form: Form) -> None:
    images = data(200, 1, 1, 3)
    density = fit_gaussian(images, form=form)
    mean, covariance = mean_and_covariance(density, 0.4, 40_000)
    expected = density.basis[0] * density.spread[0] @ density.basis[0].T + (density.remainder[0] + 0.16).expand(3).diag()
    # Five standard errors of a mean and of a covariance.
    assert ((mean - images.flatten(1).mean(0)).abs() < 5 * (expected.diagonal() / 40_000).sqrt()).all()
    error = ((expected.diagonal()[:, None] * expected.diagonal() + expected**2) / 40_000).sqrt()
    assert ((covariance - expected).abs() < 5 * error).all()
    torch.testing.assert_close(expected.diagonal(), images.flatten(1).var(0) + 0.16)


@pytest.mark.parametrize("form", [*FORMS, LowRank(30)])
@pytest.mark.parametrize("sigma", [0.02, 3.0])
def test_samples_are_as_far_from_the_mean_as_the_density_says(form: Form, sigma: float) -> None:
    density = fit_gaussian(data(200, 3, 4, 4), form=form)
    assert squared_distance(density, density.mean[0], sigma, 8000) == pytest.approx(1, abs=0.008)


def test_samples_without_a_class_have_the_moments_of_all_classes() -> None:
    images, labels = two_classes(200, 1, 1, 2)
    density = fit_gaussian(images, labels, 3, form=Full())
    rows = images.flatten(1)
    mean, covariance = mean_and_covariance(density, 0.2, 40_000)
    torch.testing.assert_close(mean, rows.mean(0), rtol=0, atol=0.04)
    torch.testing.assert_close(covariance, torch.cov(rows.T) + 0.04 * torch.eye(2), rtol=0.03, atol=0.03)
    of_two = mean_and_covariance(density, 0.2, 20_000, torch.full((20_000,), 2))[0]
    torch.testing.assert_close(of_two, rows[200:].mean(0), rtol=0, atol=0.03)


def test_the_class_law_is_that_of_the_class_alone() -> None:
    images, labels = two_classes(40, 1, 2, 2)
    density, alone = fit_gaussian(images, labels, 3, form=Full()), fit_gaussian(images[labels == 2], form=Full())
    noisy, chosen, sigma = images[:6] + 1, torch.full((6,), 2), torch.tensor(0.8)
    torch.testing.assert_close(density.log_prob(noisy, 0.8, chosen), alone.log_prob(noisy, 0.8), rtol=1e-13, atol=0)
    torch.testing.assert_close(density.denoise(noisy, sigma, chosen), alone.denoise(noisy, sigma), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_is_a_function_of_its_seed_and_label(form: Form) -> None:
    density = fit_gaussian(*two_classes(60, 3, 4, 4), 3, form=Diagonal() if form == Full() else form)
    assert is_a_function_of_its_seed(density, 1.5)
    assert is_a_function_of_its_seed(density, 1.5, torch.tensor([0, 2, 3, 0, 2, 3]))
    assert not torch.equal(density.sample(Streams([1]), 1.5), density.sample(Streams([2]), 1.5))


def test_the_search_for_directions_is_a_function_of_its_seed() -> None:
    images = data(60, 3, 8, 8).float()
    first, again, other = (fit_gaussian(images, form=LowRank(4, seed)) for seed in (1, 1, 2))
    assert torch.equal(first.basis, again.basis)
    assert torch.equal(first.spread, again.spread)
    assert not torch.equal(first.basis, other.basis)
    torch.testing.assert_close(first.basis[0].T @ first.basis[0], torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_results_have_the_dtype_of_the_images() -> None:
    density = fit_gaussian(data(40, 1, 2, 2).float(), form=Full())
    noisy = data(3, 1, 2, 2).float()
    assert density.log_prob(noisy, 0.5).dtype == density.denoise(noisy, torch.tensor(0.5)).dtype == torch.float32
    assert density.mean.dtype == torch.float64


def test_the_form_that_the_data_support() -> None:
    assert form_for(2000, 64) == Full()
    assert form_for(2000, 3072) == LowRank(64)
    assert form_for(100, 64) == LowRank(25)
    assert form_for(3, 64) == Diagonal()
    assert fit_gaussian(data(300, 1, 2, 2)).remainder.shape == (1, 1)


def test_a_singular_covariance_has_a_density_only_under_noise() -> None:
    images = data(40, 1, 2, 2)
    images[:, 0, 0, 0] = 1.0
    for form in (Full(), Diagonal(), LowRank(2)):
        density = fit_gaussian(images, form=form)
        assert density.log_prob(images, 0.01).isfinite().all()
        with pytest.raises(ValueError, match="no density at sigma 0: ask for a sigma above 0"):
            density.log_prob(images, 0.0)


def test_too_few_images_for_the_form() -> None:
    with pytest.raises(ValueError, match=r"12 values is singular unless fitted to more than 12 images, got 12: .* LowRank\(3\)"):
        fit_gaussian(data(12, 1, 3, 4), form=Full())
    images, labels = two_classes(20, 1, 3, 4)
    with pytest.raises(ValueError, match="got 10 of class 2: fit the form LowRank"):
        fit_gaussian(images, labels, 3, form=Full())
    with pytest.raises(ValueError, match="got 5 images of 12 values: choose a rank of at most 4"):
        fit_gaussian(data(5, 1, 3, 4), form=LowRank(5))
    with pytest.raises(ValueError, match="rank of at most 12"):
        fit_gaussian(data(50, 1, 3, 4), form=LowRank(13))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        fit_gaussian(data(1, 1, 3, 4), form=Diagonal())
    with pytest.raises(ValueError, match="rank of at least 1"):
        LowRank(0)


def test_images_that_cannot_be_fitted() -> None:
    images, labels = two_classes(20, 1, 2, 2)
    with pytest.raises(ValueError, match="not finite"):
        fit_gaussian(torch.where(images > 1, torch.nan, images))
    with pytest.raises(ValueError, match="one label for each of 30 images"):
        fit_gaussian(images, None, 3)
    with pytest.raises(ValueError, match=r"class in 0 \.\. 1"):
        fit_gaussian(images, labels, 2)


def conditional() -> MomentGaussian:
    return fit_gaussian(*two_classes(20, 1, 2, 2), 3, form=Diagonal())


def test_requests_that_do_not_fit() -> None:
    density, images = conditional(), data(4, 1, 2, 2)
    with pytest.raises(ValueError, match=r"not fitted to images of class 1 \(its classes: \[0, 2\]\).* no class with label 3"):
        density.sample(Streams([0]), 1.0, torch.tensor([1]))
    with pytest.raises(ValueError, match="class 4"):
        density.log_prob(images, 1.0, torch.tensor([0, 2, 3, 4]))
    with pytest.raises(ValueError, match="one label for each of 4 images, got 1"):
        density.sample(Streams(range(4)), 1.0, torch.tensor([2]))
    with pytest.raises(ValueError, match=r"shape \[1, 2, 2\], got \[1, 2, 3\]"):
        density.log_prob(data(4, 1, 2, 3), 1.0)
    with pytest.raises(ValueError, match="or one for each of 4 images, got 3"):
        density.denoise(images, torch.ones(3))
    for sigma in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number of at least 0"):
            density.sample(Streams([0]), sigma)
        with pytest.raises(ValueError, match="finite number of at least 0"):
            density.denoise(images, torch.tensor(sigma))
