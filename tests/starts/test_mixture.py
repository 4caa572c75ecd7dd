"""Mixtures against SciPy and scikit-learn, against their own derivatives, and against numerical noise."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
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
from pixelpath.starts.gaussian import Diagonal, Full, fit_gaussian
from pixelpath.starts.mixture import ConvolvedMixture, fit_mixture
from pixelpath.starts.start import Density

FORMS = [Full(), Diagonal()]


def clusters(count: int, *shape: int, seed: int = 0, apart: float = 3.0) -> tuple[Tensor, Tensor]:
    """Three clusters of unequal covariances with shares 1/2, 1/4 and 1/4; the last is class 1, the others class 0."""
    source = torch.Generator().manual_seed(seed)
    width = int(np.prod(shape))
    which = torch.tensor([0, 0, 1, 2])[torch.arange(count) % 4]
    centres = torch.randn(3, width, generator=source, dtype=torch.float64) * apart / width**0.5
    turns = torch.randn(3, width, width, generator=source, dtype=torch.float64) / width**0.5 * 0.5
    noise = torch.randn(count, width, generator=source, dtype=torch.float64)
    rows = centres[which] + torch.einsum("bi,bij->bj", noise, turns[which])
    return rows.reshape(count, *shape), (which == 2).long()


def by_hand() -> ConvolvedMixture:
    """Two components of one class and one of another, of two values held in full."""
    rot90 = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    return ConvolvedMixture(
        shape=(1, 1, 2),
        num_classes=2,
        classes=torch.tensor([0, 0, 1]),
        shares=torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
        centre=torch.tensor([0.3, -0.2], dtype=torch.float64),
        basis=torch.eye(2, dtype=torch.float64),
        means=torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -2.0]], dtype=torch.float64),
        axes=torch.stack([rot90, rot90.T, torch.eye(2, dtype=torch.float64)]),
        variances=torch.tensor([[0.5, 0.1], [0.2, 0.3], [0.05, 0.4]], dtype=torch.float64),
        rest=torch.tensor(0.0, dtype=torch.float64),
    )


def scipy_density(density: ConvolvedMixture, rows: np.ndarray, sigma: float, parts: list[int]) -> np.ndarray:
    """The density of some components, from covariances written out in full."""
    total = np.zeros(len(rows))
    basis, turned = density.basis.numpy(), density.axes.shape[1]
    width, held = basis.shape
    for part in parts:
        rot90 = np.eye(held)
        rot90[:turned, :turned] = density.axes[part].numpy()
        own = basis @ rot90 @ np.diag(density.variances[part].numpy()) @ rot90.T @ basis.T
        covariance = own + float(density.rest) * (np.eye(width) - basis @ basis.T) + sigma**2 * np.eye(width)
        mean = density.centre.numpy() + basis @ density.means[part].numpy()
        total += float(density.shares[part] / density.shares[parts].sum()) * np.exp(gaussian_log_density(rows, mean, covariance))
    return total


@pytest.mark.parametrize("labels", [None, 0, 1, 2])
def test_the_density_integrates_to_one(labels: int | None) -> None:
    assert isinstance(by_hand(), Density)
    assert integral(by_hand(), 0.4, 9.0, labels) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_the_density_of_a_fit_integrates_to_one(form: Full | Diagonal) -> None:
    density = fit_mixture(*clusters(80, 1, 1, 2), 2, components=2, form=form)
    assert integral(density, 0.3, 9.0) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("label", "parts"), [(0, [0, 1]), (1, [2]), (2, [0, 1, 2])])
def test_the_density_is_the_sum_over_the_components_of_the_class(label: int, parts: list[int]) -> None:
    at = clusters(7, 1, 1, 2)[0]
    found = by_hand().log_prob(at, 0.6, torch.full((7,), label)).exp()
    np.testing.assert_allclose(found.numpy(), scipy_density(by_hand(), at.flatten(1).numpy(), 0.6, parts), rtol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_the_density_where_the_rest_is_isotropic(form: Full | Diagonal) -> None:
    images = clusters(20, 1, 3, 3)[0]
    density = fit_mixture(images, components=2, coordinates=2, form=form)
    assert density.basis.shape == (9, 5)
    assert density.axes.shape == ((2, 2, 2) if form == Full() else (2, 0, 0))
    expected = scipy_density(density, images[:6].flatten(1).numpy(), 0.4, [0, 1])
    np.testing.assert_allclose(density.log_prob(images[:6], 0.4).exp().numpy(), expected, rtol=1e-9)


def test_with_all_coordinates_the_fit_is_scikit_learns() -> None:
    images = clusters(400, 1, 1, 3)[0]
    density = fit_mixture(images, components=3, coordinates=3, seed=4)
    rows = images.flatten(1).numpy()
    turned = (rows - density.centre.numpy()) @ density.basis.numpy()
    other = GaussianMixture(3, reg_covar=1e-6 * turned.var(0, ddof=1).mean(), max_iter=300, random_state=4).fit(turned)
    np.testing.assert_allclose(density.log_prob(images[:20], 0.0).numpy(), other.score_samples(turned[:20]), rtol=1e-9)


def test_clusters_far_apart_are_found_with_their_moments() -> None:
    images, _ = clusters(2000, 1, 1, 3, apart=40.0)
    density = fit_mixture(images, components=3)
    which = torch.tensor([0, 0, 1, 2])[torch.arange(2000) % 4]
    order = density.shares.argsort(descending=True)
    torch.testing.assert_close(density.shares[order], torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), rtol=1e-6, atol=0)
    part, rows = int(order[0]), images[which == 0].flatten(1)
    torch.testing.assert_close(density.centre + density.basis @ density.means[part], rows.mean(0), rtol=0, atol=1e-6)
    covariance = density.basis @ density.axes[part] @ density.variances[part].diag() @ density.axes[part].T @ density.basis.T
    torch.testing.assert_close(covariance, torch.cov(rows.T, correction=0), rtol=1e-3, atol=1e-3)


def test_one_component_is_the_moment_gaussian() -> None:
    images = clusters(500, 1, 2, 2)[0]
    density, gaussian = fit_mixture(images, components=1), fit_gaussian(images, form=Full())
    # Variances of maximum likelihood divide by the count, those of the moments by one less.
    torch.testing.assert_close(density.log_prob(images[:9], 0.5), gaussian.log_prob(images[:9], 0.5), rtol=0, atol=0.02)
    sigma = torch.tensor(0.5)
    torch.testing.assert_close(density.denoise(images[:9], sigma), gaussian.denoise(images[:9], sigma), rtol=0, atol=0.005)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 2, 2, 0])])
@pytest.mark.parametrize("coordinates", [3, 9])
@pytest.mark.parametrize("form", FORMS)
def test_the_denoiser_follows_the_slope_of_the_density(labels: Tensor | None, coordinates: int, form: Full | Diagonal) -> None:
    density = fit_mixture(clusters(32, 1, 3, 3)[0], torch.arange(32) % 2, 2, components=2, coordinates=coordinates, form=form)
    assert density.basis.shape == (9, max(8, coordinates))
    sigma = torch.tensor([0.2, 1.5, 30.0, 1.5, 0.7], dtype=torch.float64)
    assert score_gap(density, clusters(5, 1, 3, 3, seed=3)[0], sigma, labels) < 1e-10


def test_a_clean_image_is_its_own_estimate() -> None:
    images = clusters(5, 1, 1, 2)[0]
    assert torch.equal(by_hand().denoise(images, torch.tensor(0.0)), images)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_noise_adds_in_closed_form_as_it_does_in_numbers(label: int) -> None:
    at, labels = clusters(3, 1, 1, 2)[0], torch.full((3,), label)
    expected = noised_density(by_hand(), at, 0.3, 0.9, labels)
    torch.testing.assert_close(by_hand().log_prob(at, 0.9, labels).exp(), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_samples_have_the_moments_of_the_components(label: int) -> None:
    density, labels = by_hand(), torch.full((40_000,), label)
    shares = torch.where((density.classes == label) | (label == 2), density.shares, 0.0)
    shares = shares / shares.sum()
    mean = shares @ density.means
    within = torch.einsum("k,kij,kj,klj->il", shares, density.axes, density.variances, density.axes)
    expected = within + (density.means - mean).T * shares @ (density.means - mean) + 0.25 * torch.eye(2)
    found = mean_and_covariance(density, 0.5, 40_000, labels)
    torch.testing.assert_close(found[0], density.centre + mean, rtol=0, atol=0.035)
    torch.testing.assert_close(found[1], expected, rtol=0.03, atol=0.03)


def test_samples_of_wide_images_have_the_moments_of_coordinates_and_rest() -> None:
    density = fit_mixture(clusters(20, 1, 3, 3)[0], components=2, coordinates=2)
    mean, covariance = mean_and_covariance(density, 0.5, 30_000)
    torch.testing.assert_close(mean, density.centre + density.basis @ (density.shares @ density.means), rtol=0, atol=0.05)
    across = covariance - density.basis @ density.basis.T @ covariance @ density.basis @ density.basis.T
    assert float(across.trace()) == pytest.approx(4 * (float(density.rest) + 0.25), rel=0.02)


@pytest.mark.parametrize("count", [20, 200])
@pytest.mark.parametrize("sigma", [0.02, 3.0])
def test_samples_are_as_far_from_the_mean_as_the_density_says(count: int, sigma: float) -> None:
    density = fit_mixture(clusters(count, 3, 4, 4)[0], components=1, coordinates=4)
    assert density.basis.shape == (48, 5 if count == 20 else 48)
    assert squared_distance(density, density.centre + density.basis @ density.means[0], sigma, 8000) == pytest.approx(
        1, abs=0.008
    )


def test_the_variance_of_the_data_is_kept() -> None:
    images = clusters(20, 1, 3, 3)[0]
    density = fit_mixture(images, components=1, coordinates=2)
    held = density.variances.sum() * 20 / 19 + 4 * density.rest  # maximum likelihood in the coordinates, unbiased in the rest
    torch.testing.assert_close(held, images.flatten(1).var(0).sum(), rtol=1e-5, atol=0)


def test_an_image_is_a_function_of_its_seed_and_label() -> None:
    density = fit_mixture(*clusters(40, 3, 4, 4), 2, components=2, coordinates=3)
    assert is_a_function_of_its_seed(density, 1.5)
    assert is_a_function_of_its_seed(density, 1.5, torch.tensor([0, 1, 2, 0, 1, 2]))


def test_the_fit_is_a_function_of_its_seed() -> None:
    images = clusters(200, 1, 3, 3)[0]
    first, again = (fit_mixture(images, components=4, seed=1) for _ in range(2))
    for name, tensor in first.state()[1].items():
        assert torch.equal(tensor, again.state()[1][name])


def test_a_collapsed_mixture() -> None:
    images = clusters(60, 1, 1, 2)[0]
    images[7] = 1e4
    with pytest.raises(ValueError, match=r"of 2 collapsed onto 1 images: choose fewer components .* Student mixture"):
        fit_mixture(images, components=2)
    labels = torch.tensor([0, 4] * 30)
    with pytest.raises(ValueError, match="of class 4 collapsed onto 1 images"):
        fit_mixture(images, labels, 5, components=2)


def test_fits_that_cannot_be() -> None:
    images = clusters(10, 1, 2, 2)[0]
    with pytest.raises(ValueError, match="6 components need at least 12 images, got 10: choose at most 5"):
        fit_mixture(images, components=6)
    with pytest.raises(ValueError, match="at least 1 component and 1 coordinate, got 0 and 32"):
        fit_mixture(images, components=0)
    with pytest.raises(ValueError, match="9 coordinates need more than 9 images, got 9"):
        fit_mixture(clusters(9, 1, 3, 3)[0], components=2)
    with pytest.raises(ValueError, match="not finite"):
        fit_mixture(images / 0)


def test_requests_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"not fitted to images of class -1 \(its classes: \[0, 1\]\)"):
        by_hand().sample(Streams([0]), 1.0, torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"shape \[1, 1, 2\], got \[1, 2, 2\]"):
        by_hand().denoise(clusters(3, 1, 2, 2)[0], torch.tensor(1.0))
    flat = clusters(60, 1, 1, 2)[0]
    flat[:, :, :, 1] = 0.0
    density = fit_mixture(flat, components=1, coordinates=1)
    with pytest.raises(ValueError, match="no density at sigma 0"):
        density.log_prob(flat, 0.0)
    assert density.log_prob(flat, 0.1).isfinite().all()
