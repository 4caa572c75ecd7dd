"""The checks of a fit against closed forms for Gaussians, and on digits: laws that memorise, and laws that do not."""

import math
from dataclasses import replace

import pytest
import torch
from benchmarks.controls import Empirical, Naive
from sklearn.datasets import load_digits
from torch import Tensor

from pixelpath.evaluation.fits import Fit, compare_fit
from pixelpath.starts.flow import fit_flow
from pixelpath.starts.gaussian import Full, LowRank, MomentGaussian, fit_gaussian
from pixelpath.starts.mixture import fit_mixture
from pixelpath.starts.start import Density


def isotropic(values: int, variance: float, mean: float = 0.0) -> MomentGaussian:
    one = torch.ones(1, dtype=torch.float64)
    means, none = torch.full((1, values), mean, dtype=torch.float64), torch.zeros(1, values, 0, dtype=torch.float64)
    return MomentGaussian((1, 1, values), 0, torch.zeros(1).long(), one, means, none, none[:, 0], one[:, None] * variance)


def normal(count: int, values: int, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 1, values, generator=source, dtype=torch.float64)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to fit to, and held-out ones."""
    values, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(values).float().reshape(-1, 1, 8, 8)
    images = (images - images.mean()) / (2 * images.std())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.from_numpy(labels)[order]
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def test_the_gain_and_its_error_are_those_of_two_gaussians() -> None:
    """Of variances a and b (noise included), on images of variance v: (ln(b / a) + v / b - v / a) / 2 a value."""
    v, a, b, values, count = 1.25, 1.5, 0.75, 6, 4000
    fit = compare_fit(
        isotropic(values, a - 0.25), isotropic(values, b - 0.25), normal(3000, values, 0), normal(count, values, 1), 0.5
    )
    expected = values / 2 * (math.log(b / a) + v / b - v / a)
    error = math.sqrt(values / 2 * (v / b - v / a) ** 2 / count)
    assert abs(fit.gain - expected) < 4 * error
    assert fit.gain_error == pytest.approx(error, rel=0.1)
    assert fit.lost_error == pytest.approx(error * math.sqrt(1 + 4000 / 3000), rel=0.1)
    assert fit.excess_error == pytest.approx(error * math.sqrt(4 + 4000 / 3000), rel=0.1)
    assert fit.held_out == pytest.approx(-values / 2 * (math.log(2 * math.pi * a) + v / a), abs=0.15)
    assert fit.gap_error == pytest.approx(v / a * math.sqrt(values / 2 * (1 / 3000 + 1 / 4000)), rel=0.1)
    assert not fit.against
    assert abs(fit.lost) < 4 * fit.lost_error
    worse = compare_fit(
        isotropic(values, b - 0.25), isotropic(values, a - 0.25), normal(3000, values, 0), normal(count, values, 1), 0.5
    )
    assert worse.gain == pytest.approx(-fit.gain)
    assert "worse than the control at sigma 0.5, by " in worse.against


def test_what_a_fitted_covariance_loses_is_what_wishart_moments_say() -> None:
    """d / 2 ((n - 1)(1 + 1/n) / (n - d - 2) - (n - 1) / n) nats, the control being the true law (noise is part of it)."""
    values, count, repeats, sigma = 8, 100, 24, 0.01
    lost = []
    for seed in range(repeats):
        training = normal(count, values, 100 + seed)
        density = fit_gaussian(training, form=Full())
        fit = compare_fit(density, isotropic(values, 1.0), training, normal(2000, values, 1000 + seed), sigma, seed=seed)
        lost.append(fit.lost)
    expected = values / 2 * ((count - 1) * (1 + 1 / count) / (count - values - 2) - (count - 1) / count)
    found = torch.tensor(lost)
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(repeats)
    assert float(found.mean()) == pytest.approx(expected, rel=0.25)


def test_sound_fits_of_digits_pass(digits: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    training, labels, held_out, unseen = digits
    moment, by_class = fit_gaussian(training), fit_gaussian(training, labels, 10)
    mixture = fit_mixture(training, components=10, coordinates=16)
    flow = fit_flow(training, levels=(0.2, 1.6), steps=60)
    for sigma in (0.2, 0.8):
        fits = [compare_fit(density, moment, training, held_out, sigma) for density in (moment, mixture, flow)]
        fits.append(compare_fit(by_class, moment, training, held_out, sigma, labels, unseen))
        assert not any(fit.against for fit in fits)
        assert fits[0].gain == fits[0].lost == fits[0].lost_error == 0
        assert all(fit.gain > 3 * fit.gain_error for fit in fits[1:]) or sigma == 0.8
        assert all("the density gains " in fit.sentence() for fit in fits)


def test_laws_that_memorise_digits_are_refused(digits: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    training, held_out = digits[0][:700], digits[2]
    control = fit_gaussian(training)
    memorising: list[tuple[Density, float]] = [
        (Empirical(training, allow_memorising=True), 0.1),
        (Empirical(training, allow_memorising=True), 0.2),
        (fit_mixture(training, components=40, coordinates=32), 0.1),
    ]
    for density, sigma in memorising:
        fit = compare_fit(density, control, training, held_out, sigma)
        assert fit.overfits
        assert fit.gain + fit.lost > 0
        assert fit.gap == pytest.approx(fit.training - fit.held_out)
        assert fit.against.startswith(f"This density overfits at sigma {sigma}")
    assert not compare_fit(Empirical(training, allow_memorising=True), control, training, held_out, 1.6).overfits


def test_laws_of_too_few_assumptions_are_worse_without_overfitting(digits: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    training, _, held_out, _ = digits
    control = fit_gaussian(training)
    for density in (Naive((1, 8, 8)), fit_gaussian(training, form=LowRank(8))):
        fit = compare_fit(density, control, training, held_out, 0.4)
        assert fit.worse
        assert not fit.overfits
        assert fit.against.startswith("This density is worse than the control at sigma 0.4")


def test_the_rule_at_its_edges() -> None:
    fit = Fit(1.0, 2.0, 1.0, 0.0, gap_error=0.3, gain_error=0.1, lost=1.0, lost_error=0.1, excess_error=0.1, undefined=0)
    assert (fit.gap, fit.gain) == (1.0, 1.0)
    assert not fit.overfits
    assert replace(fit, lost=1.302).overfits
    assert not replace(fit, lost=1.298).overfits
    assert not replace(fit, lost=1.302, gap_error=0.335).overfits
    level = replace(fit, control=1.5, gain_error=0.168)
    assert not level.worse
    assert replace(level, gain_error=0.166).worse
    assert replace(level, lost=0.302).overfits
    assert not replace(level, lost=0.298).overfits


def test_the_noise_is_a_function_of_the_seed() -> None:
    density, control, training, held_out = isotropic(2, 0.8), isotropic(2, 1.0), normal(50, 2, 0), normal(50, 2, 1)
    first = compare_fit(density, control, training, held_out, 0.5, seed=4)
    assert compare_fit(density, control, training, held_out, 0.5, seed=4) == first
    assert compare_fit(density, control, training, held_out, 0.5, seed=5) != first


def test_densities_that_are_not_finite() -> None:
    lost, control, images = isotropic(2, 1.0, mean=math.nan), isotropic(2, 1.0), normal(30, 2, 0)
    fit = compare_fit(lost, control, images, images, 0.5)
    assert fit.worse
    assert not fit.overfits
    assert fit.against.startswith("This density is not finite at sigma 0.5 for 60 images")
    with pytest.raises(ValueError, match="The control has no finite density"):
        compare_fit(control, lost, images, images, 0.5)
    with pytest.raises(ValueError, match="at least 2 training and 2 held-out images, got 30 and 1"):
        compare_fit(control, control, images, images[:1], 0.5)
