"""Every sampler is held to a flow that is known in closed form.

Gaussian data N(m, s^2) has the denoiser m + s^2/(s^2 + sigma^2) (x - m), whose flow keeps (x - m)/sqrt(s^2 + sigma^2) constant.
Data that are one point c have the denoiser c: a sampler, random or not, must leave x at level sigma distributed as N(c, sigma^2).
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.sampling.sampler import Sampler as Named
from pixelpath.sampling.sampler import Sampling
from pixelpath.sampling.samplers import consistency, dpmpp_2m, euler, euler_ancestral, heun, heun_stochastic
from pixelpath.types import Denoise, Images, Noise, Sigmas

MEAN, DEVIATION = 0.3, 0.7
RANGE = NoiseRange(sigma_min=0.05, sigma_max=20.0)
Sampler = Callable[[Denoise, Images, Tensor], Images]
PLAIN: list[Sampler] = [euler, heun, dpmpp_2m]


def gaussian(noisy: Images, sigma: Sigmas) -> Images:
    return MEAN + DEVIATION**2 / (DEVIATION**2 + float(sigma) ** 2) * (noisy - MEAN)


def point(noisy: Images, sigma: Sigmas) -> Images:
    return torch.full_like(noisy, MEAN)


def flow(x: Images, before: float, after: float) -> Images:
    return MEAN + (x - MEAN) * math.sqrt((DEVIATION**2 + after**2) / (DEVIATION**2 + before**2))


def start(level: Tensor, pixels: int = 4) -> Images:
    return MEAN + float((level**2 + DEVIATION**2).sqrt()) * torch.randn(1, 1, pixels, pixels, dtype=torch.float64)


def constant(value: float) -> Noise:
    return lambda: torch.full((1, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_accuracy(sampler: Sampler, order: int) -> None:
    """Twice the steps divide the distance to the exact flow by 2^order."""
    errors = []
    for count in (64, 128, 256):
        sigmas = RANGE.sigmas(count + 1)[:-1]
        x = start(sigmas[0])
        exact = flow(x, float(sigmas[0]), float(sigmas[-1]))
        errors.append(float((sampler(gaussian, x, sigmas) - exact).abs().max() / (x - MEAN).abs().max()))
    measured = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert measured == pytest.approx([order, order], abs=0.12)
    assert errors[-1] < 0.02 / 256 ** (order - 1)


@pytest.mark.parametrize("sampler", PLAIN)
def test_a_step_to_zero_is_the_denoiser(sampler: Sampler) -> None:
    sigmas = RANGE.sigmas(1)
    x = start(sigmas[0])
    assert torch.equal(sampler(gaussian, x, sigmas), gaussian(x, sigmas[0]))


@pytest.mark.parametrize("sampler", PLAIN)
@given(count=st.integers(1, 12))
def test_a_point_is_reached_exactly(sampler: Sampler, count: int) -> None:
    x = torch.tensor([[[[5.0, -3.0]]]], dtype=torch.float64)
    sigmas = RANGE.sigmas(count + 1)
    assert torch.allclose(sampler(point, x, sigmas), torch.full_like(x, MEAN), atol=1e-12)
    stopped = sampler(point, x, sigmas[:-1])
    assert torch.allclose(stopped, MEAN + (x - MEAN) * float(sigmas[-2] / sigmas[0]), atol=1e-12)


def test_multistep_takes_the_slope_of_the_estimate_from_the_step_before() -> None:
    """An estimate linear in ln(sigma): the second step is exact to second order in a way that can be written down."""
    sigmas = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    denoise: Denoise = lambda noisy, sigma: torch.full_like(noisy, math.log2(float(sigma)))  # noqa: E731
    first = 0.5 * 2.0
    second = 0.5 * first + 0.5 * (1.5 * 1.0 - 0.5 * 2.0)
    assert float(dpmpp_2m(denoise, x, sigmas)) == pytest.approx(second, rel=1e-14)


SCHEDULES = [RANGE.sigmas(2)[:-1], RANGE.sigmas(7)[:-1], torch.tensor([3.0, 2.9, 0.4])]
churned = partial(heun_stochastic, amount=40.0, interval=(0.05, 50.0), inflation=1.0)


@pytest.mark.parametrize("sampler", [euler_ancestral, churned])
@pytest.mark.parametrize("sigmas", SCHEDULES)
def test_added_noise_makes_up_for_what_is_taken(sampler: Callable[..., Images], sigmas: Tensor) -> None:
    """On point data x is linear in the start and every draw: the squares of the coefficients sum to the last level's variance."""
    sigma, count = float(sigmas[0]), len(sigmas) - 1
    origin = torch.full((1, 1, 1, 1), MEAN, dtype=torch.float64)
    variance = float(sampler(point, origin + sigma, sigmas, constant(0.0)) - MEAN) ** 2
    for number in range(count):
        draws = iter([float(number == other) for other in range(count)])
        pulse: Noise = lambda draws=draws: torch.full((1, 1, 1, 1), next(draws), dtype=torch.float64)  # noqa: E731
        variance += float(sampler(point, origin, sigmas, pulse) - MEAN) ** 2
    assert variance == pytest.approx(float(sigmas[-1]) ** 2, rel=1e-6)


@pytest.mark.parametrize(("sampler", "count"), [(euler_ancestral, 500), (churned, 100)])
def test_a_gaussian_keeps_its_deviation(sampler: Callable[..., Images], count: int) -> None:
    sigmas = RANGE.sigmas(count)
    images = sampler(gaussian, start(sigmas[0], pixels=200), sigmas, lambda: torch.randn(1, 1, 200, 200, dtype=torch.float64))
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(images.std()) == pytest.approx(DEVIATION, rel=0.015)


def test_churn_inside_its_interval_only() -> None:
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    seen: list[float] = []

    def watched(noisy: Images, sigma: Sigmas) -> Images:
        seen.append(float(sigma))
        return point(noisy, sigma)

    draws: list[int] = []

    def counted() -> Images:
        draws.append(1)
        return torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    heun_stochastic(watched, x, sigmas, counted, amount=0.3, interval=(2.0, 4.0), inflation=1.003)
    assert seen == pytest.approx([8.0, 4.0, 4.4, 2.0, 2.2, 1.0])
    assert len(draws) == 2


def test_inflation_is_the_deviation_of_the_added_noise() -> None:
    sigmas = torch.tensor([2.0, 1.0], dtype=torch.float64)
    origin = torch.full((1, 1, 1, 1), MEAN, dtype=torch.float64)
    moved = [
        float(heun_stochastic(point, origin, sigmas, constant(1.0), 40.0, (0.0, 9.0), inflation) - MEAN)
        for inflation in (1.0, 1.1)
    ]
    assert moved[0] == pytest.approx(2.0 / (2.0 * math.sqrt(2.0)))  # sqrt(raised^2 - sigma^2) = sigma for the largest raise
    assert moved[1] == pytest.approx(1.1 * moved[0])


def test_without_churn_it_is_heun() -> None:
    sigmas = RANGE.sigmas(6)
    x = start(sigmas[0])
    assert torch.equal(
        heun_stochastic(gaussian, x, sigmas, constant(1.0), amount=0.0, interval=(30.0, 40.0)), heun(gaussian, x, sigmas)
    )


@pytest.mark.parametrize(("sampler", "nfe"), [(euler, 8), (heun, 15), (dpmpp_2m, 8)])
def test_evaluations(sampler: Sampler, nfe: int) -> None:
    seen: list[float] = []

    def watched(noisy: Images, sigma: Sigmas) -> Images:
        assert sigma.shape == ()
        seen.append(float(sigma))
        return noisy / 2

    sampler(watched, torch.ones(1, 1, 1, 1), RANGE.sigmas(8))
    assert len(seen) == nfe
    assert min(seen) > 0


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 1.0, 0.0], [1.0, 2.0], [1.0, -0.1], [1.0, math.nan]])
@pytest.mark.parametrize("sampler", PLAIN)
def test_sigmas_that_do_not_fall(sampler: Sampler, sigmas: list[float]) -> None:
    with pytest.raises(UserError) as caught:
        sampler(point, torch.ones(1, 1, 1, 1), torch.tensor(sigmas))
    assert caught.value.setting == "sigmas"


@pytest.mark.parametrize("sampler", PLAIN)
def test_float32_images_stay_float32(sampler: Sampler) -> None:
    assert sampler(gaussian, torch.ones(1, 1, 2, 2), RANGE.sigmas(3)).dtype == torch.float32


def test_one_step_of_renoising_is_the_denoiser() -> None:
    x = start(torch.tensor(20.0))
    assert torch.equal(consistency(gaussian, x, torch.tensor([20.0, 0.0]), constant(9.0)), gaussian(x, torch.tensor(20.0)))


@pytest.mark.parametrize("sigma_min", [0.0, 0.3])
def test_renoising_keeps_the_variance_of_every_level(sigma_min: float) -> None:
    """With the exact consistency function of a Gaussian, down to `lowest`, x at each level has the noised data's variance."""
    seen: dict[float, float] = {}

    def exact(noisy: Images, sigma: Sigmas) -> Images:
        seen[float(sigma)] = float(noisy.var())
        return flow(noisy, float(sigma), sigma_min)

    x = start(torch.tensor(5.0), pixels=600)
    sigmas = torch.tensor([5.0, 1.5, 0.6, 0.0])
    images = consistency(exact, x, sigmas, lambda: torch.randn_like(x), sigma_min)
    assert list(seen) == pytest.approx([5.0, 1.5, 0.6])
    for sigma, variance in [*seen.items(), (sigma_min, float(images.var()))]:
        assert variance == pytest.approx(DEVIATION**2 + sigma**2, rel=0.01)


def test_noise_of_renoising() -> None:
    seen: list[float] = []

    def watched(noisy: Images, sigma: Sigmas) -> Images:
        seen.append(float(noisy.mean()))
        return torch.full_like(noisy, MEAN)

    consistency(watched, torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([5.0, 3.0, 1.0, 0.0]), constant(2.0), 0.5)
    assert seen == pytest.approx([1, MEAN + 2 * math.sqrt(9 - 0.25), MEAN + 2 * math.sqrt(1 - 0.25)])
    for wrong in (-0.1, 1.1):
        with pytest.raises(UserError) as caught:
            consistency(watched, torch.ones(1, 1, 1, 1), torch.tensor([5.0, 1.0, 0.0]), constant(2.0), wrong)
        assert caught.value.setting == "sigma_min"
    with pytest.raises(UserError, match="fall strictly"):
        consistency(watched, torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0]), constant(2.0))


@pytest.mark.parametrize("sigma_min", [0.002, 0.004, 0.008, 0.016, 0.02])
def test_the_sigmas_of_a_grid_can_be_given_back(sigma_min: float) -> None:
    """They end at the lowest one but for rounding, at every size of image; anything clearly lower is refused."""
    for side in range(4, 257):
        noise = NoiseRange(sigma_min, 160.0).for_resolution(side)
        for steps, first in product((2, 7, 9, 12), (noise.sigma_max, 5.0)):
            own = Sampling(steps=steps, sampler=Named.DPMPP_2M, sigma_max=first * noise.shift).schedule(noise)
            again = Sampling(sigma_max=float(own[0]), sigmas=tuple(own[1:-1].tolist()), sampler=Named.DPMPP_2M)
            torch.testing.assert_close(again.schedule(noise), own, rtol=0, atol=0)
        low = sigma_min * side / 64
        with pytest.raises(UserError, match="must fall from below"):
            Sampling(sigmas=(1.0, 0.999 * low), sampler=Named.DPMPP_2M).schedule(noise)
