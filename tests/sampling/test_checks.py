"""Every check is held to what it measures on Gaussian data N(m, s^2), whose denoiser and residual energy are known."""

import math
import re

import pytest
import torch

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, normal
from pixelpath.sampling.checks import (
    check_finite,
    check_noise,
    check_residual,
    check_scale,
    check_sigmas,
    noised,
    residual_energy,
)
from pixelpath.starts.student import fit_student
from pixelpath.types import Denoise, Images, Sigmas

MEAN, DEVIATION = 0.3, 0.5
RANGE = NoiseRange(sigma_min=0.002, sigma_max=80.0, shift=0.5)


def gaussian(noisy: Images, sigma: Sigmas) -> Images:
    return MEAN + DEVIATION**2 / (DEVIATION**2 + float(sigma) ** 2) * (noisy - MEAN)


def images(count: int) -> Images:
    return MEAN + DEVIATION * normal(Streams(range(count)), (2, 4, 4)).double()


def other_seeds(times: int) -> range:
    """Seeds for 2,000 images that did not make them: noise must not depend on its image."""
    return range(2000 * times, 2000 * (times + 1))


def energies(level: float, sigma: float, times: int = 1):
    """Of images noised to one level, seen as if noised to another."""
    return residual_energy(gaussian, noised(images(2000), level, other_seeds(times)), sigma)


@pytest.mark.parametrize(("level", "sigma"), [(1.5, 1.5), (1.5, 1.2), (0.2, 0.4)])
def test_residual_energy_of_a_gaussian(level: float, sigma: float) -> None:
    """Each is its mean times a chi square of d = 32 over d, so that its relative deviation is sqrt(2 / 32)."""
    found = energies(level, sigma)
    expected = sigma**2 * (DEVIATION**2 + level**2) / (DEVIATION**2 + sigma**2) ** 2
    assert found.shape == (2000,)
    assert float(found.mean()) == pytest.approx(expected, rel=4 * 0.25 / 2000**0.5)
    assert float(found.std()) == pytest.approx(expected * 0.25, rel=0.08)


def test_residual_energy_by_hand() -> None:
    def halved(noisy: Images, sigma: Sigmas) -> Images:
        return noisy / 2

    noisy = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 2.0]]]])
    assert residual_energy(halved, noisy, 2.0).tolist() == pytest.approx([25 / 4 / 2 / 4, 1 / 2 / 4], rel=1e-12)


def test_noise_is_a_function_of_the_seed_of_an_image() -> None:
    clean = images(5)
    together = noised(clean, 0.7, range(5))
    assert torch.equal(together[3:4], noised(clean[3:4], 0.7, [3]))
    assert torch.allclose(noised(clean, 1.4, range(5)) - clean, 2 * (together - clean), atol=1e-12)
    with pytest.raises(UserError, match="got 5 images and 4 seeds"):
        noised(clean, 0.7, range(4))


@pytest.mark.parametrize(("sigma", "ratio"), [(1.2, 2.5 / 1.69), (1.9, 2.5 / 3.86)])
def test_a_start_at_one_and_a_half_under_another_schedule(sigma: float, ratio: float) -> None:
    """(s^2 + 1.5^2) / (s^2 + sigma^2): 1.48 and 0.65."""
    start, held_out = energies(1.5, sigma), energies(sigma, sigma)  # of the same noise, so that the ratio is nearly exact
    with pytest.raises(UserError, match=r"At sigma .* do not match") as error:
        check_residual(start, held_out, sigma)
    said = re.search(r"start images is (\d\.\d\d) of", str(error.value))
    assert said is not None
    assert float(said[1]) == pytest.approx(ratio, abs=0.01)
    agreed = check_residual(energies(1.5, 1.5, times=2), energies(1.5, 1.5), 1.5)
    assert agreed == pytest.approx(1.0, abs=4 * 0.25 * (2 / 2000) ** 0.5)


@pytest.mark.parametrize(("ratio", "agree"), [(0.895, False), (0.905, True), (1.095, True), (1.105, False)])
def test_band_of_the_residual_energy(ratio: float, agree: bool) -> None:
    held_out = torch.linspace(0.9, 1.1, 1000, dtype=torch.float64)
    if agree:
        assert check_residual(ratio * held_out, held_out, 1.0) == pytest.approx(ratio)
    else:
        with pytest.raises(UserError, match="do not match"):
            check_residual(ratio * held_out, held_out, 1.0)


def test_too_few_images_do_not_pass() -> None:
    """Ten images with energies 0 and 2 each: the ratio 1 has the error sqrt(2 (10 / 9) / 10), which is 0.47."""
    few = torch.tensor([0.0, 2.0] * 5, dtype=torch.float64)
    with pytest.raises(UserError, match=r"1\.00 \+- 0\.47, does not tell .* about 200\.0 times as many"):
        check_residual(few, few, 1.0)
    with pytest.raises(UserError, match="do not match"):
        check_residual(5 * few.repeat(10), few.repeat(100), 1.0)
    with pytest.raises(UserError, match="at least 2 images each"):
        check_residual(few[:1], few, 1.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_energies_must_be_finite(wrong: float) -> None:
    start = torch.ones(10, dtype=torch.float64)
    with pytest.raises(UserError, match="must be finite"):
        check_residual(torch.cat([start, 0 * start + wrong]), start, 1.0)
    with pytest.raises(UserError, match="above 0"):
        check_residual(start, 0 * start, 1.0)


def moved(scale: float, shift: float) -> Images:
    return scale * (images(2000) - MEAN) + MEAN + shift


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.05, 2.0])
def test_slope_of_images_over_estimates(scale: float, sigma: float) -> None:
    clean, seeds = moved(scale, 0.0), other_seeds(3)
    expected = scale**2 * (DEVIATION**2 + sigma**2) / (scale**2 * DEVIATION**2 + sigma**2)
    if 0.75 <= expected <= 1.33:
        slope, offset = check_scale(gaussian, clean, sigma, seeds)
        assert slope == pytest.approx(expected, rel=0.02)
        assert offset < 0.02
    else:
        with pytest.raises(UserError, match="times their estimates") as error:
            check_scale(gaussian, clean, sigma, seeds)
        said = re.search(r"are (\d\.\d\d) \+- \d\.\d\d times", str(error.value))
        assert said is not None
        assert float(said[1]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("shift", "inside"), [(0.0, True), (0.2, True), (-0.3, False), (1.0, False)])
def test_offset_of_images_from_estimates(shift: float, inside: bool) -> None:
    """At sigma = 2 s the estimate takes over 1/5 of a shift: 4/5 of it remains, over s."""
    clean, expected = moved(1.0, shift), abs(shift) * 0.8 / DEVIATION
    if inside:
        assert check_scale(gaussian, clean, 1.0, other_seeds(3))[1] == pytest.approx(expected, abs=0.01)
    else:
        with pytest.raises(UserError, match=r"stds off") as error:
            check_scale(gaussian, clean, 1.0, other_seeds(3))
        said = re.search(r"and (\d\.\d\d) stds", str(error.value))
        assert said is not None
        assert float(said[1]) == pytest.approx(expected, abs=0.015)


def test_a_denoiser_without_an_answer_is_out_of_scale() -> None:
    constant: Denoise = lambda noisy, sigma: torch.zeros_like(noisy)  # noqa: E731
    with pytest.raises(UserError, match=r"nan \+- nan times"):
        check_scale(constant, images(20), 1.0, range(20))


def test_chance_alone_refuses_no_exact_denoiser() -> None:
    """Of 12 heavy-tailed images the slope is often far from 1 by chance; its standard error says so, and none is refused."""
    heavy, slopes = fit_student(heavy_images(5000), freedom=2.2), []
    for seed in range(40):
        slopes.append(check_scale(heavy.denoise, heavy_images(12, seed + 1), 1.0, range(9000, 9012))[0])
    assert min(slopes) < 0.75
    assert max(slopes) > 1.33


def heavy_images(count: int, seed: int = 0) -> Images:
    """Student points of 2.2 degrees of freedom in the plane."""
    source = torch.Generator().manual_seed(seed)
    chi = torch.distributions.Gamma(1.1, 1.1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        precision = chi.sample((count, 1, 1, 1))
    return 0.5 * torch.randn(count, 1, 1, 2, generator=source) / precision.sqrt()


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0, 1.25, 2.0])
def test_noise_that_is_taken_for_another(ratio: float) -> None:
    """Gaussian data, D of ratio * sigma: slope (sigma^2 / (s^2 + sigma^2)) (s^2 + r^2 sigma^2) / (r sigma)^2."""
    sigma, clean = 0.1, images(2000)
    level = ratio * sigma
    expected = sigma**2 / (DEVIATION**2 + sigma**2) * (DEVIATION**2 + level**2) / level**2

    def denoise(noisy: Images, sigma: Sigmas) -> Images:
        return gaussian(noisy, ratio * sigma)

    if 0.75 <= expected <= 1.33:
        assert check_noise(denoise, clean, sigma, other_seeds(3)) == pytest.approx(expected, rel=0.03)
    else:
        with pytest.raises(UserError, match="it takes sigma for another noise") as error:
            check_noise(denoise, clean, sigma, other_seeds(3))
        said = re.search(r"images is (\d\.\d\d) \+-", str(error.value))
        assert said is not None
        assert float(said[1]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("count", [1, 2, 18])
@pytest.mark.parametrize("sigma", [0.0011, 1.5, 40.0])
def test_a_grid_built_anew_passes(count: int, sigma: float) -> None:
    check_sigmas(RANGE.sigmas(count, start=sigma), sigma, RANGE)
    check_sigmas(RANGE.sigmas(count, start=sigma).float(), sigma, RANGE)
    lower = NoiseRange(RANGE.sigma_min, sigma / RANGE.shift, RANGE.shift)
    assert torch.allclose(lower.sigmas(count), RANGE.sigmas(count, start=sigma), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("sigmas", "sigma", "message"),
    [
        ([1.5, 1.5, 0.0], 1.5, "fall strictly"),
        ([1.5, 0.5, 0.7, 0.0], 1.5, "fall strictly"),
        ([1.5, 0.5, -0.1], 1.5, "end in 0 or above"),
        ([1.5], 1.5, "fall strictly"),
        ([1.5, math.nan, 0.0], 1.5, "fall strictly"),
        ([40.0, 1.0, 0.0], 1.5, r"begin at 40 and the start is at 1\.5"),
        ([1.5, 1.0, 0.0], 1.501, "begin at 1.5"),
        ([50.0, 1.0, 0.0], 50.0, r"run from 50 to 1, and the denoiser learned 0\.001 to 40"),
        ([1.5, 0.0005, 0.0], 1.5, r"to 0\.0005, and the denoiser learned 0\.001 to 40"),
    ],
)
def test_sigmas_that_do_not_fit_the_start(sigmas: list[float], sigma: float, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_sigmas(torch.tensor(sigmas, dtype=torch.float64), sigma, RANGE)
    assert caught.value.setting == "sigmas"


def test_samples_must_be_finite() -> None:
    samples = images(6)
    check_finite(samples, "start samples", "fit it again")
    samples[2, 0, 1, 1], samples[4, 1, 0, 0] = math.nan, -math.inf
    with pytest.raises(UserError, match="2 of 6 start samples are not finite, the first of them number 2"):
        check_finite(samples, "start samples", "fit it again")
    assert int(torch.isfinite(samples).logical_not().sum()) == 2  # nothing was filled
