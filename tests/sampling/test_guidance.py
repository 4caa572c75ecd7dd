"""Guidance is a line through two estimates, and only where it is asked for."""

import pytest
import torch

from pixelpath.errors import UserError
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.samplers import heun
from pixelpath.types import Images, Sigmas


def estimate(noisy: Images, sigma: Sigmas) -> Images:
    return noisy + 2


def reference(noisy: Images, sigma: Sigmas) -> Images:
    return noisy - 1


def forbidden(noisy: Images, sigma: Sigmas) -> Images:
    raise AssertionError("the reference is not needed here")


NOISY = torch.randn(2, 3, 4, 4, dtype=torch.float64)


def at(sigma: float) -> torch.Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def test_guidance_of_one_is_the_identity() -> None:
    assert guide(estimate, forbidden, 1.0) is estimate


@pytest.mark.parametrize("guidance", [-0.5, 0.0, 0.3, 1.7, 2.5])
def test_the_estimate_moves_away_from_the_reference(guidance: float) -> None:
    guided = guide(estimate, reference, guidance)(NOISY, at(0.5))
    assert torch.allclose(guided, NOISY - 1 + guidance * 3)


def test_a_reference_that_agrees_changes_nothing() -> None:
    assert torch.allclose(guide(estimate, estimate, 3.0)(NOISY, at(0.5)), estimate(NOISY, at(0.5)))


@pytest.mark.parametrize(("sigma", "inside"), [(0.1, False), (0.19, False), (0.1901, True), (1.61, True), (1.6101, False)])
def test_bounds_of_the_interval(sigma: float, inside: bool) -> None:
    guided = guide(estimate, reference, 2.0, (0.19, 1.61))
    assert torch.allclose(guided(NOISY, at(sigma)), NOISY + (5 if inside else 2))
    if not inside:
        guide(estimate, forbidden, 2.0, (0.19, 1.61))(NOISY, at(sigma))


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0)])
def test_an_empty_interval(interval: tuple[float, float]) -> None:
    with pytest.raises(UserError) as caught:
        guide(estimate, reference, 2.0, interval)
    assert caught.value.setting == "guidance_interval"


def test_guided_gaussians() -> None:
    """Two Gaussians of one std and means 1 and 0: guidance by w is the denoiser of mean w, so sampling ends there."""

    def gaussian(mean: float):
        return lambda noisy, sigma: mean + 0.5**2 / (0.5**2 + float(sigma) ** 2) * (noisy - mean)

    levels = torch.cat([torch.logspace(1.5, -2, 100, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    start = NOISY * float(levels[0])
    guided = heun(guide(gaussian(1.0), gaussian(0.0), 2.5), start, levels)
    assert torch.allclose(guided, heun(gaussian(2.5), start, levels), atol=1e-10)
