"""Edits are held to Gaussian images, whose laws given some pixels, a noisy version or another noise are known.

For N(m, C) the estimate of the mean is m + C (C + s^2)^-1 (x - m), and the flow to sigma 0, which a consistency model learns, is
m + C^(1/2) (C + s^2)^(-1/2) (x - m). Given the known pixels y, the open ones are N(m_o + K (y - m_k), C_oo - K C_ko), where
K = C_ok C_kk^-1.
"""

import math
from collections.abc import Callable

import pytest
import torch
from tests.refusal import refused
from torch import Tensor

from pixelpath.noise import NoiseRange
from pixelpath.sampling.editing import conditioned, consistency_inpaint, on_sphere, strength_sigma
from pixelpath.sampling.samplers import consistency, dpmpp_2m, heun
from pixelpath.types import Denoise, Images, Sigmas

Sampler = Callable[[Denoise, Images, Tensor], Images]
COUNT, PIXELS = 6_000, 6
RANGE = NoiseRange(0.002, 40.0)
PLACES = torch.arange(PIXELS, dtype=torch.float64)
COVARIANCE = 0.25 * 0.9 ** (PLACES[:, None] - PLACES).abs()
MEAN = torch.linspace(-0.3, 0.4, PIXELS, dtype=torch.float64)
KNOWN = torch.tensor([True, False, False, True, False, True])
VALUES = MEAN + torch.tensor([0.5, 0, 0, -0.4, 0, 0.6], dtype=torch.float64)
GAIN = COVARIANCE[~KNOWN][:, KNOWN] @ torch.linalg.inv(COVARIANCE[KNOWN][:, KNOWN])
POSTERIOR_MEAN = MEAN[~KNOWN] + GAIN @ (VALUES - MEAN)[KNOWN]
POSTERIOR = COVARIANCE[~KNOWN][:, ~KNOWN] - GAIN @ COVARIANCE[KNOWN][:, ~KNOWN]
ERROR_OF_MEAN, ERROR_OF_COVARIANCE = 4 / math.sqrt(COUNT), 4 * math.sqrt(2 / COUNT)  # in stds, and in variances

VARIANCES, AXES = torch.linalg.eigh(COVARIANCE)


def along_axes(x: Images, factors: Tensor) -> Images:
    return (MEAN + ((x.flatten(1) - MEAN) @ AXES * factors) @ AXES.T).reshape(x.shape)


def estimate(x: Images, sigma: Sigmas) -> Images:
    return along_axes(x, VARIANCES / (VARIANCES + float(sigma) ** 2))


def flow(x: Images, sigma: Sigmas) -> Images:
    return along_axes(x, (VARIANCES / (VARIANCES + float(sigma) ** 2)).sqrt())


def draws() -> Images:
    return torch.randn(COUNT, 1, 1, PIXELS, dtype=torch.float64)


def images_of(values: Tensor) -> Tensor:
    return values.expand(COUNT, 1, 1, PIXELS)


def gaps(images: Images, mean: Tensor, covariance: Tensor, which: Tensor | None = None) -> tuple[float, float]:
    """How far mean and covariance are from those of the law, in stds and in variances."""
    found, variances = images.flatten(1) if which is None else images.flatten(1)[:, which], covariance.diag()
    apart = (torch.cov(found.T) - covariance).abs() / (variances[:, None] * variances).sqrt()
    return float(((found.mean(0) - mean).abs() / variances.sqrt()).max()), float(apart.max())


@pytest.mark.parametrize("sampler", [heun, dpmpp_2m])
def test_a_conditioned_denoiser_samples_the_law_given_the_known_pixels(sampler: Sampler) -> None:
    sigmas = RANGE.sigmas(100)
    denoise = conditioned(estimate, images_of(VALUES), images_of(~KNOWN), rounds=3, error=1e-4)
    made = sampler(denoise, float(sigmas[0]) * draws(), sigmas)
    assert torch.equal(made.flatten(1)[:, KNOWN], images_of(VALUES).flatten(1)[:, KNOWN])
    mean, covariance = gaps(made, POSTERIOR_MEAN, POSTERIOR, ~KNOWN)
    assert mean < ERROR_OF_MEAN
    assert covariance < ERROR_OF_COVARIANCE


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_a_conditioned_estimate_is_the_mean_given_the_noisy_and_the_known_pixels(sigma: float) -> None:
    """Of Gaussian images, by the law of all of x + sigma e and the known pixels of x together."""
    noisy = MEAN.reshape(1, 1, 1, PIXELS) + torch.randn(1, 1, 1, PIXELS, dtype=torch.float64)
    both = torch.cat([torch.eye(PIXELS, dtype=torch.float64), torch.eye(PIXELS, dtype=torch.float64)[KNOWN]])
    seen = both @ COVARIANCE @ both.T
    seen[:PIXELS, :PIXELS] += sigma**2 * torch.eye(PIXELS)
    given = torch.cat([noisy.flatten() - MEAN, (VALUES - MEAN)[KNOWN]])
    exact = MEAN + COVARIANCE @ both.T @ torch.linalg.solve(seen, given)
    found = conditioned(estimate, VALUES.reshape(noisy.shape), (~KNOWN).reshape(noisy.shape), rounds=3, error=1e-7)(
        noisy, torch.tensor(sigma)
    )
    torch.testing.assert_close(found.flatten(), exact, rtol=1e-6, atol=1e-7)


def test_every_image_of_a_batch_is_conditioned_for_itself() -> None:
    noisy, masks = torch.randn(3, 1, 1, PIXELS, dtype=torch.float64), torch.rand(3, 1, 1, PIXELS) < 0.5
    known, sigma = torch.randn(3, 1, 1, PIXELS, dtype=torch.float64), torch.tensor(0.7)
    whole = conditioned(estimate, known, masks)(noisy, sigma)
    for place in range(3):
        part = slice(place, place + 1)
        torch.testing.assert_close(conditioned(estimate, known[part], masks[part])(noisy[part], sigma), whole[part])


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_inverse_leaves_the_least_residual_of_any_matrix(rounds: int) -> None:
    """Also of a derivative that is no covariance. With as many rounds as known pixels nothing is left."""
    matrix = torch.randn(PIXELS, PIXELS, dtype=torch.float64)
    noisy, sigma, error = torch.randn(1, 1, 1, PIXELS, dtype=torch.float64), 0.8, 0.3
    given = conditioned(
        lambda x, sigma: (x.flatten(1) @ matrix).reshape(x.shape),
        torch.zeros_like(noisy),
        (~KNOWN).expand(noisy.shape),
        rounds,
        error,
    )
    plain = noisy.flatten() @ matrix
    whole = sigma**2 * matrix  # what a gap is multiplied by, of all pixels
    square, gap = whole[KNOWN][:, KNOWN] + error**2 * torch.eye(3, dtype=torch.float64), -plain[KNOWN]
    tried = torch.stack([torch.linalg.matrix_power(square, power) @ gap for power in range(rounds)], 1)
    best = tried @ torch.linalg.lstsq(square @ tried, gap[:, None]).solution
    expected = plain[~KNOWN] + (whole[:, KNOWN] @ best)[~KNOWN, 0]
    torch.testing.assert_close(given(noisy, torch.tensor(sigma)).flatten()[~KNOWN], expected, rtol=1e-6, atol=1e-8)


def test_a_one_step_model_comes_to_the_law_given_the_known_pixels() -> None:
    """With small steps, as each is one of Langevin's equation, whose error falls with sigma."""
    sigmas = torch.cat([torch.tensor([40.0]), torch.logspace(-0.3, -1.6, 800), torch.zeros(1)])
    known, masks = images_of(VALUES), images_of(~KNOWN)
    made = consistency_inpaint(flow, 40.0 * draws(), sigmas, draws, known, masks)
    assert torch.equal(made.flatten(1)[:, KNOWN], known.flatten(1)[:, KNOWN])
    mean, covariance = gaps(made, POSTERIOR_MEAN, POSTERIOR, ~KNOWN)
    assert mean < ERROR_OF_MEAN + 0.02
    assert covariance < ERROR_OF_COVARIANCE + 0.02


@pytest.mark.parametrize("sampler", ["diffusion", "one step"])
def test_a_variation_has_the_law_of_an_image_noised_and_taken_back(sampler: str) -> None:
    """The flow is linear with factors r = (C / (C + s^2))^(1/2): mean m + r (x - m), covariance r^2 s^2."""
    sigma = strength_sigma(0.7, 0.002, 40.0, 7.0)
    x = images_of(VALUES) + sigma * draws()
    if sampler == "one step":
        made = consistency(flow, x, torch.tensor([sigma, 0.0]), draws)
    else:
        made = heun(estimate, x, RANGE.sigmas(80, start=sigma))
    shrunk = AXES @ torch.diag((VARIANCES / (VARIANCES + sigma**2)).sqrt()) @ AXES.T
    mean, covariance = gaps(made, MEAN + shrunk @ (VALUES - MEAN), sigma**2 * shrunk @ shrunk)
    assert mean < ERROR_OF_MEAN
    assert covariance < ERROR_OF_COVARIANCE


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_images_between_two_seeds_have_the_law_of_images(share: float) -> None:
    sigmas, first, second = RANGE.sigmas(80), draws(), draws()
    noise = on_sphere(first, second, torch.full((COUNT,), share))
    mean, covariance = gaps(heun(estimate, 40.0 * noise, sigmas), MEAN, COVARIANCE)
    assert mean < ERROR_OF_MEAN
    assert covariance < ERROR_OF_COVARIANCE
    products = (noise * first).mean(), (noise * second).mean()
    assert [float(each) for each in products] == pytest.approx(
        [math.cos(math.pi / 2 * share), math.sin(math.pi / 2 * share)], abs=0.02
    )


def test_strength_is_the_share_of_a_samplers_steps() -> None:
    sigmas = RANGE.sigmas(11)
    assert strength_sigma(0.4, 0.002, 40.0, 7.0) == pytest.approx(float(sigmas[6]), rel=1e-9)
    assert strength_sigma(1.0, 0.002, 40.0, 7.0) == pytest.approx(40.0)


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.01, float("nan")])
def test_a_strength_outside_is_refused(strength: float) -> None:
    with refused("strength", f"{strength:g}"):
        strength_sigma(strength, 0.002, 40.0, 7.0)


def test_no_rounds_are_refused() -> None:
    with refused("rounds", 0):
        conditioned(estimate, torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2, dtype=torch.bool), rounds=0)
