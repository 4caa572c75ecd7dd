"""The Pareto tail and the density of logarithms against the distributions that they are made of."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pixelpath import randomness
from pixelpath.starts.files import restore
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.start import Density, Start
from pixelpath.starts.student import ConvolvedStudentMixture, fit_student
from pixelpath.starts.tails import SymLog, fit_pareto, fit_pareto_tail, symlog


def student(count: int, values: int, freedom: float, seed: int) -> torch.Tensor:
    chance = np.random.default_rng(seed)
    rows = chance.standard_normal((count, values)) / np.sqrt(chance.chisquare(freedom, (count, 1)) / freedom)
    return torch.from_numpy(rows).reshape(count, 1, 1, values)


def radii(images: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    return (images.double().flatten(1) - centre).norm(dim=1)


@pytest.mark.parametrize(("heaviness", "scale"), [(0.5, 3.0), (0.0, 1.0), (-0.2, 0.01)])
def test_the_tail_law_is_that_of_greatest_likelihood(heaviness: float, scale: float) -> None:
    draws = stats.genpareto.rvs(heaviness, scale=scale, size=4000, random_state=1)
    found = fit_pareto(torch.from_numpy(draws))
    assert found.heaviness == pytest.approx(heaviness, abs=0.05)
    assert found.scale == pytest.approx(scale, rel=0.06)

    def likelihood(shape: float, width: float) -> float:
        return float(stats.genpareto.logpdf(draws, shape, scale=width).sum())

    best = likelihood(found.heaviness, found.scale)
    for shape, width in ((0.004, 1.0), (-0.004, 1.0), (0.0, 1.004), (0.0, 0.996)):
        assert likelihood(found.heaviness + shape, found.scale * width) < best


def test_the_interval_of_the_heaviness_holds_it_in_95_of_100_cases() -> None:
    chance = np.random.default_rng(0)
    fits = [fit_pareto(torch.from_numpy(stats.genpareto.rvs(0.4, size=400, random_state=chance))) for _ in range(100)]
    assert 90 <= sum(low <= 0.4 <= high for low, high in (fit.interval for fit in fits)) <= 99
    assert fits[0].interval[1] - fits[0].interval[0] == pytest.approx(2 * 1.96 * (1 + fits[0].heaviness) / 20)


def test_a_gaussian_with_a_pareto_tail_has_the_radii_of_the_data() -> None:
    """A Gaussian of the same moments loses a third of the 0.999 radius of Student data; with the tail it has it."""
    data = student(20000, 2, 3.0, seed=1)
    pareto_tail = fit_pareto_tail(data, fit_gaussian(data))
    assert isinstance(pareto_tail, Start)
    assert not isinstance(pareto_tail, Density)
    assert float(pareto_tail.lower) < 1 / 3 < float(pareto_tail.upper)
    assert float(pareto_tail.lower) < float(pareto_tail.heaviness) < float(pareto_tail.upper)
    drawn = radii(pareto_tail.sample(randomness.Streams(range(8000)), 0.0), pareto_tail.centre)
    beyond = drawn > pareto_tail.threshold
    assert float(beyond.double().mean()) == pytest.approx(0.05, abs=0.008)
    tail = stats.genpareto(float(pareto_tail.heaviness), scale=float(pareto_tail.scale))
    assert stats.kstest((drawn[beyond] - pareto_tail.threshold).numpy(), tail.cdf).pvalue > 0.01
    truth = math.sqrt(2 * stats.f.ppf(0.999, 2, 3))  # radius^2 / 2 of a Student in the plane is F(2, freedom)
    assert tail.ppf(1 - 0.001 / 0.05) + float(pareto_tail.threshold) == pytest.approx(truth, rel=0.12)
    assert (
        float(fit_gaussian(data).sample(randomness.Streams(range(8000)), 0.0).flatten(1).norm(dim=1).quantile(0.999))
        < 0.7 * truth
    )


def test_inside_the_threshold_the_tail_is_the_bulk() -> None:
    data = student(4000, 2, 3.0, seed=2)
    pareto_tail = fit_pareto_tail(data, fit_student(data))
    assert isinstance(pareto_tail.bulk, ConvolvedStudentMixture)
    drawn = radii(pareto_tail.sample(randomness.Streams(range(4000)), 0.0), pareto_tail.centre)
    bulk = radii(pareto_tail.bulk.sample(randomness.Streams(range(4000, 8000)), 0.0), pareto_tail.centre)
    inside, expected = (each[each <= pareto_tail.threshold].numpy() for each in (drawn, bulk))
    agreement: Any = stats.ks_2samp(inside, expected)
    assert agreement.pvalue > 0.01


def test_directions_of_the_tail_are_those_of_the_bulk_law() -> None:
    """Data ten times as wide along one axis have nearly all their far images along it."""
    data = student(4000, 2, 3.0, seed=3) * torch.tensor([10.0, 1.0])
    pareto_tail = fit_pareto_tail(data, fit_student(data))
    drawn = pareto_tail.sample(randomness.Streams(range(4000)), 0.0).double().flatten(1) - pareto_tail.centre
    far = drawn[drawn.norm(dim=1) > pareto_tail.threshold]
    assert float((far[:, 0].abs() > 5 * far[:, 1].abs()).double().mean()) > 0.95
    assert float((far[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.12)


def test_noise_is_added_to_the_clean_sample_and_an_image_is_its_own_generators() -> None:
    data = student(2000, 2, 3.0, seed=4)
    pareto_tail = fit_pareto_tail(data, fit_student(data))
    clean, noised = (pareto_tail.sample(randomness.Streams(range(4000)), sigma) for sigma in (0.0, 2.0))
    assert float((noised - clean).double().std()) == pytest.approx(2.0, rel=0.03)
    assert torch.equal(pareto_tail.sample(randomness.Streams(range(7, 12)), 2.0), noised[7:12])


def test_every_class_has_its_own_tail() -> None:
    data = torch.cat([student(4000, 2, 2.0, seed=5), student(4000, 2, 8.0, seed=6) + 9])
    labels = torch.arange(2).repeat_interleave(4000)
    pareto_tail = fit_pareto_tail(data, fit_student(data, labels, 3), labels, 3)
    assert pareto_tail.heaviness.tolist() == pytest.approx([1 / 2, 1 / 8], abs=0.2)
    drawn = pareto_tail.sample(randomness.Streams(range(600)), 0.0, torch.ones(600).long())
    assert float(drawn.double().flatten(1).median(0).values.mean()) == pytest.approx(9, abs=0.2)
    either = pareto_tail.sample(randomness.Streams(range(600)), 0.0).flatten(1)
    assert float((either.mean(1) > 4.5).double().mean()) == pytest.approx(0.5, abs=0.07)
    with pytest.raises(ValueError, match="not fitted to images of class 2"):
        pareto_tail.sample(randomness.Streams(range(2)), 0.0, torch.tensor([0, 2]))


def test_the_logarithms_of_a_symlog_start_have_its_density() -> None:
    density = fit_gaussian(torch.randn(500, 1, 1, 1, dtype=torch.float64) * 1.5 + 0.5)
    start = SymLog(density)
    assert not isinstance(start, Density)
    drawn = start.sample(randomness.Streams(range(4000)), 0.0).double().flatten()
    logs = drawn.sign() * drawn.abs().log1p()
    assert stats.kstest(logs.numpy(), stats.norm(float(density.mean), float(density.remainder.sqrt())).cdf).pvalue > 0.01
    noised = start.sample(randomness.Streams(range(4000)), 3.0).double().flatten()
    assert float((noised - drawn).std()) == pytest.approx(3.0, rel=0.04)
    assert symlog(torch.tensor([[[[math.e - 1, 1 - math.e]]]]))[0, 0, 0].tolist() == pytest.approx([1, -1])


def test_states_there_and_back() -> None:
    data = student(2000, 2, 3.0, seed=4)
    pareto_tail, logarithm = fit_pareto_tail(data, fit_student(data)), SymLog(fit_gaussian(symlog(data)))
    for start, again in (
        (pareto_tail, restore(*pareto_tail.state())),
        (logarithm, restore(*logarithm.state())),
    ):
        assert torch.equal(again.sample(randomness.Streams(range(9)), 1.0), start.sample(randomness.Streams(range(9)), 1.0))


def test_mistakes_are_named() -> None:
    data = student(2000, 2, 3.0, seed=4)
    with pytest.raises(ValueError, match="at least 20 images beyond its threshold, all finite, got 10"):
        fit_pareto_tail(data[:200], fit_gaussian(data))
    with pytest.raises(ValueError, match="ends at a bound"):
        fit_pareto(torch.linspace(0.01, 1, 1000))
    with pytest.raises(ValueError, match=r"puts 0.0% of its draws beyond the radius"):
        fit_pareto_tail(data, fit_gaussian(data * 0.01))
    with pytest.raises(ValueError, match=r"share of images in \(0, 0.5\]"):
        fit_pareto_tail(data, fit_gaussian(data), beyond=0.9)
    with pytest.raises(ValueError, match="not finite"):
        SymLog(fit_gaussian(data * 300)).sample(randomness.Streams(range(50)), 1.0)
