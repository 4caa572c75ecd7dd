"""The Student mixture against closed forms and integrals that do not use its quadrature."""

import math
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from pixelpath import randomness
from pixelpath.evaluation.statistics import of
from pixelpath.starts.files import restore
from pixelpath.starts.start import Density
from pixelpath.starts.student import ConvolvedStudentMixture, atoms, fit_student

TURN = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)


def single(freedom: float, variance: list[float], turned: bool = False) -> ConvolvedStudentMixture:
    values = len(variance)
    mean, axes = torch.zeros(1, values).double(), TURN[None] if turned else torch.zeros(1, 0, 0).double()
    scale = torch.tensor([variance], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return ConvolvedStudentMixture((1, 1, values), 0, torch.zeros(1).long(), one, mean, scale, axes, one * freedom)


def several() -> ConvolvedStudentMixture:
    """Three full components in two values; the classes are 0, 2, 2 of 3."""
    return ConvolvedStudentMixture(
        shape=(2, 1, 1),
        num_classes=3,
        classes=torch.tensor([0, 2, 2]),
        shares=torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
        mean=torch.tensor([[0.0, 0.0], [3.0, 1.0], [-2.0, 2.0]], dtype=torch.float64),
        variance=torch.tensor([[1.0, 0.2], [0.3, 0.1], [0.5, 2.0]], dtype=torch.float64),
        axes=torch.stack([TURN, torch.eye(2).double(), TURN.T]),
        freedom=torch.tensor([3.0, 1.5, 20.0], dtype=torch.float64),
    )


def student(count: int, values: int, freedom: float, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    return chance.standard_normal((count, values)) / np.sqrt(chance.chisquare(freedom, (count, 1)) / freedom)


def student_log_density(scatter: np.ndarray, freedom: float, points: np.ndarray) -> np.ndarray:
    density: Any = stats.multivariate_t(cast(Any, np.zeros(len(scatter))), cast(Any, scatter), cast(Any, freedom))
    return density.logpdf(points)


def images(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows).reshape(len(rows), 1, 1, -1)


def convolved(radius: float, freedom: float, sigma: float) -> float:
    """ln of the density in the plane of a Student image plus noise, integrating over where the clean image lies."""

    def integrand(at: float) -> float:
        clean = freedom / (2 * math.pi * freedom) * (1 + at**2 / freedom) ** (-(freedom + 2) / 2)
        near = math.exp(-((radius - at) ** 2) / (2 * sigma**2)) * special.i0e(radius * at / sigma**2) / sigma**2
        return clean * near * at

    ends = sorted({max(0.0, radius - 12 * sigma), radius, radius + 12 * sigma, *(x for x in (0.0, 3.0) if radius < 12 * sigma)})
    within = sum(integrate.quad(integrand, *pair, epsrel=1e-10, limit=400)[0] for pair in pairwise(ends))
    return math.log(within)


@pytest.mark.parametrize("freedom", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("sigma", [0.3, 1.05, 5.0])
def test_the_noised_density_to_radius_400_agrees_with_an_integral_over_clean_images(freedom: float, sigma: float) -> None:
    radii = [0.0, 0.5, 2.0, 7.0, 30.0, 120.0, 400.0]
    points = (
        torch.tensor([[math.cos(r), math.sin(r)] for r in radii], dtype=torch.float64) * torch.tensor(radii).double()[:, None]
    )
    found = single(freedom, [1.0, 1.0]).log_prob(points.reshape(-1, 1, 1, 2), sigma)
    assert found.tolist() == pytest.approx([convolved(r, freedom, sigma) for r in radii], abs=2e-5)


@pytest.mark.parametrize(("freedom", "values"), [(0.5, 2), (1.5, 64), (3.0, 2), (3.0, 300), (200.0, 16)])
def test_without_noise_the_density_is_the_student_density(freedom: float, values: int) -> None:
    scale = np.exp(np.random.default_rng(0).normal(size=values))
    points = student(6, values, 5.0, seed=1) * np.array([[0.01], [1.0], [3.0], [20.0], [60.0], [200.0]]) / math.sqrt(values)
    found = single(freedom, (scale**2).tolist()).log_prob(images(points * scale), 0.0)
    expected = student_log_density(np.diag(scale**2), freedom, points * scale)
    assert found.numpy() == pytest.approx(expected, abs=2e-6)


def test_the_atoms_are_a_law_of_precisions_with_the_moments_of_the_gamma_law() -> None:
    for freedom in (0.3, 3.0, 50.0):
        nodes, logs = atoms(freedom, 16)
        assert float(logs.exp().sum()) == pytest.approx(1, abs=2e-6)
        assert float((logs + nodes).exp().sum()) == pytest.approx(1, rel=1e-5)
        assert float((logs + 2 * nodes).exp().sum()) == pytest.approx(1 + 2 / freedom, rel=1e-5)
        assert len(nodes) < 130


def test_the_noised_density_of_a_turned_scatter_agrees_with_gauss_hermite_in_clean_space() -> None:
    """p(x) = E t(x - sigma z): a rule over the noise, not over the precision."""
    density, sigma = single(4.0, [2.0, 0.7], turned=True), 0.4
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    scatter = (TURN @ torch.diag(density.variance[0]) @ TURN.T).numpy()
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weight = np.outer(weights, weights).ravel() / (2 * math.pi)
    points = np.array([[0.0, 0.0], [1.0, -2.0], [5.0, 3.0]])
    expected = [math.log(float(weight @ np.exp(student_log_density(scatter, 4.0, point - sigma * grid)))) for point in points]
    assert density.log_prob(images(points), sigma).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_denoiser_is_the_gradient_of_the_density() -> None:
    density = several()
    assert isinstance(density, Density)
    for labels in (None, torch.tensor([0, 2, 3, 2, 0])):
        for sigma in (0.1, 1.0, 9.0):
            noisy = torch.randn(5, 2, 1, 1, dtype=torch.float64) * torch.tensor([0.1, 1, 4, 30, 300]).reshape(-1, 1, 1, 1)
            noisy.requires_grad_(True)
            (slope,) = torch.autograd.grad(density.log_prob(noisy, sigma, labels).sum(), noisy)
            expected = noisy + sigma**2 * slope
            found = density.denoise(noisy, torch.tensor(sigma, dtype=torch.float64), labels)
            assert float(((found - expected).abs() / (1 + noisy.abs())).detach().max()) < 1e-10


def test_a_sigma_for_each_image_is_the_same_as_one_at_a_time() -> None:
    density, noisy, sigma = several(), torch.randn(4, 2, 1, 1), torch.tensor([0.5, 2.0, 0.5, 0.0])
    together = density.denoise(noisy, sigma)
    assert together.dtype == torch.float32
    alone = torch.cat([density.denoise(noisy[i : i + 1], sigma[i]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)
    assert torch.equal(together[3], noisy[3])


def test_the_density_without_a_class_is_that_of_the_classes_by_their_shares() -> None:
    density, points = several(), torch.randn(6, 2, 1, 1, dtype=torch.float64) * 3
    given = [density.log_prob(points, 0.7, torch.full((6,), label)).exp() for label in (0, 2)]
    assert density.log_prob(points, 0.7).exp().tolist() == pytest.approx((0.2 * given[0] + 0.8 * given[1]).tolist(), rel=1e-9)
    assert torch.equal(density.log_prob(points, 0.7, torch.full((6,), 3)), density.log_prob(points, 0.7))
    with pytest.raises(ValueError, match="not fitted to images of class 1"):
        density.sample(randomness.Streams(range(6)), 1.0, torch.full((6,), 1))


def test_samples_follow_the_law_and_depend_on_their_own_generator_alone() -> None:
    """Along an axis of a single component the noised law has a distribution function that is one integral of normal ones."""
    density, sigma, count = single(3.0, [4.0, 0.25], turned=True), 0.8, 4000
    drawn = density.sample(randomness.Streams(range(count)), sigma)
    assert drawn.dtype == torch.float32
    along = (drawn.double().flatten(1) @ density.axes[0])[:, 0].numpy()
    precision = stats.gamma.ppf((np.arange(2000) + 0.5) / 2000, 1.5, scale=1 / 1.5)

    def below(x: np.ndarray) -> np.ndarray:
        return stats.norm.cdf(x[:, None] / np.sqrt(4.0 / precision + sigma**2)).mean(1)

    assert stats.kstest(along, below).pvalue > 0.01
    assert stats.kstest(along * 1.04, below).pvalue < stats.kstest(along, below).pvalue
    again = density.sample(randomness.Streams(range(3, 5)), sigma)
    assert torch.equal(again, drawn[3:5])


def test_the_mean_square_of_samples_is_that_of_the_law() -> None:
    """In 64 values x^2 / variance averages nu / (nu - 2), and noise adds sigma^2; 2000 draws fix it to half a percent."""
    density = single(50.0, [4.0] * 32 + [0.01] * 32)
    clean, noised = (density.sample(randomness.Streams(range(2000)), sigma).double().flatten(1) for sigma in (0.0, 0.5))
    assert float((clean.square() / density.variance).mean()) == pytest.approx(50 / 48, rel=0.015)
    assert float((noised - clean).square().mean()) == pytest.approx(0.25, rel=0.012)


def test_labels_choose_the_components() -> None:
    density = several()
    drawn = density.sample(randomness.Streams(range(3000)), 0.0, torch.tensor([2]).expand(3000)).flatten(1)
    left = float((drawn @ torch.tensor([-1.0, 0.2]) > 0).double().mean())  # a line between the two components of class 2
    assert left == pytest.approx(0.3 / 0.8, abs=0.04)


def test_a_fit_finds_freedom_place_and_scatter() -> None:
    shape = np.array([[1.0, 0.5], [0.0, 0.3]])
    for freedom in (1.5, 3.0, 10.0):
        density = fit_student(images(student(20000, 2, freedom, seed=1) @ shape + [1, 2]))
        assert float(density.freedom) == pytest.approx(freedom, rel=0.06)
        assert density.mean[0].tolist() == pytest.approx([1, 2], abs=0.02)
        scatter = density.axes[0] @ torch.diag(density.variance[0]) @ density.axes[0].T
        assert scatter.numpy() == pytest.approx(shape.T @ shape, rel=0.05)


def test_a_fit_of_one_component_has_the_greatest_likelihood() -> None:
    """Against scipy's own Student fit in one value, and no change of a parameter by 2 % does better."""
    rows = student(2000, 1, 3.0, seed=3) * 0.5 + 1
    density = fit_student(images(rows), tolerance=1e-9)
    freedom, place, scale = stats.t.fit(rows.ravel())
    assert float(density.freedom) == pytest.approx(freedom, rel=2e-3)
    assert float(density.mean) == pytest.approx(place, abs=1e-3)
    assert float(density.variance.sqrt()) == pytest.approx(scale, rel=2e-3)


def test_a_mixture_is_found_with_its_tails_diagonal_and_by_class() -> None:
    first, second = student(3000, 2, 2.5, seed=1) * 0.2 + [3, 0], student(6000, 2, 8.0, seed=2) * [0.4, 0.1] + [-3, 1]
    both, labels = images(np.concatenate([first, second])), torch.tensor([1] * 3000 + [0] * 6000)
    for density in (fit_student(both, components=2, diagonal=True), fit_student(both, labels, 2, diagonal=True)):
        one, other = density.mean[:, 0].argsort(descending=True).tolist()
        assert density.shares[one].item() == pytest.approx(1 / 3, abs=0.005)
        assert density.freedom[one].item() == pytest.approx(2.5, rel=0.1)
        assert density.freedom[other].item() == pytest.approx(8.0, rel=0.2)
        assert density.variance[other].sqrt().tolist() == pytest.approx([0.4, 0.1], rel=0.04)
        assert density.axes.numel() == 0
    assert density.classes.tolist() == [0, 1]


def test_the_likelihood_of_the_fitted_law_is_that_of_the_noised_data_at_every_level() -> None:
    """One fit to clean images serves every sigma: its entropy agrees with held-out data to a hundredth of a nat."""
    data, fresh = images(student(20000, 2, 3.0, seed=5)), images(student(20000, 2, 3.0, seed=6))
    density, truth = fit_student(data), single(3.0, [1.0, 1.0])
    for sigma in (0.0, 1.0, 10.0):
        noised = fresh + sigma * torch.randn_like(fresh)
        assert float((truth.log_prob(noised, sigma) - density.log_prob(noised, sigma)).mean()) == pytest.approx(0, abs=1e-3)


def test_the_freedom_can_be_set() -> None:
    density = fit_student(images(student(4000, 2, 3.0, seed=1)), freedom=10.0)
    assert density.freedom.tolist() == [10.0]


def test_pixels_that_never_change_do_no_harm() -> None:
    rows = np.concatenate([student(500, 2, 3.0, seed=1), np.zeros((500, 1))], 1)
    density = fit_student(images(rows))
    drawn = density.sample(randomness.Streams(range(100)), 0.0)
    assert of(drawn.flatten(1)).covariance[2, 2] < 1e-3


def test_state_there_and_back_is_the_same_law() -> None:
    for density in (several(), single(3.0, [1.0, 2.0])):
        metadata, tensors = density.state()
        assert metadata["family"] == "student"
        again = restore(metadata, tensors)
        assert torch.equal(again.sample(randomness.Streams(range(3)), 1.0), density.sample(randomness.Streams(range(3)), 1.0))


def test_mistakes_are_named() -> None:
    few = images(student(50, 64, 3.0, seed=1))
    with pytest.raises(ValueError, match=r"full scatter of 64 values need at least 65 images, got 50: use diagonal=True"):
        fit_student(few)
    with pytest.raises(ValueError, match="all alike"):
        fit_student(torch.zeros(20, 1, 1, 2))
    with pytest.raises(ValueError, match="not finite"):
        fit_student(torch.full((20, 1, 1, 2), math.nan))
    with pytest.raises(ValueError, match="at least 1 component"):
        fit_student(few, components=0)
    with pytest.raises(ValueError, match="A freedom lies in"):
        fit_student(few, diagonal=True, freedom=-1.0)
    with pytest.raises(ValueError, match=r"has not settled after 2 iterations"):
        fit_student(images(student(500, 2, 3.0, seed=1)), iterations=2)
    twice = np.concatenate([student(300, 3, 5.0, seed=1), student(4, 3, 5.0, seed=1) * 1e-3 + 9])
    with pytest.raises(ValueError, match=r"has collapsed onto \d\.\d images"):
        fit_student(images(twice), components=12)
    with pytest.raises(ValueError, match="fitted to images of shape"):
        several().log_prob(torch.zeros(1, 1, 2, 1), 1.0)
