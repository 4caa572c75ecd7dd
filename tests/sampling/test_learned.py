"""Learned sigmas: nearer to the exact flow than any grid of as many steps, and the optimum where it is known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.sampling.learned import learned_sigmas
from pixelpath.sampling.samplers import SigmaSchedule, dpmpp_2m, euler, heun
from pixelpath.types import Denoise, Images, Sigmas

Walk = Callable[[Denoise, Images, Tensor], Images]
FIRST, LOWEST = 10.0, 0.01
STDS = torch.tensor([0.2, 0.8], dtype=torch.float64).reshape(1, 1, 1, 2)


def gaussian(noisy: Images, sigma: Sigmas) -> Images:
    return STDS**2 / (STDS**2 + float(sigma) ** 2) * noisy


def start() -> Images:
    generator = torch.Generator().manual_seed(1)
    return (FIRST**2 + STDS**2).sqrt() * torch.randn(200, 1, 1, 2, dtype=torch.float64, generator=generator)


def exact(x: Images) -> Images:
    return x * STDS / (FIRST**2 + STDS**2).sqrt()


def error(images: Images, x: Images) -> float:
    return float((images - exact(x)).square().mean())


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_learned_sigmas_are_nearer_than_those_of_any_grid(sampler: Walk, count: int) -> None:
    x = start()
    grids = [NoiseRange(low, FIRST).sigmas(count, rho=rho) for low in (0.02, 0.1, 0.3) for rho in (2.0, 4.0, 7.0)]
    found = learned_sigmas(lambda sigmas: sampler(gaussian, x, sigmas), exact(x), grids[2], LOWEST, rounds=30)
    assert (float(found[0]), float(found[-1]), len(found)) == (pytest.approx(FIRST), 0.0, count + 1)
    assert bool((found[:-1] > found[1:]).all())
    assert float(found[-2]) > LOWEST
    best = min(error(sampler(gaussian, x, grid), x) for grid in grids)
    assert error(sampler(gaussian, x, found), x) < best


def test_two_steps_of_euler_end_at_the_optimum_of_a_scan() -> None:
    """One gap is free, so that its best value can be looked up."""
    x = start()

    def apart(sigma: float) -> float:
        return error(euler(gaussian, x, torch.tensor([FIRST, sigma, 0.0])), x)

    found = learned_sigmas(lambda sigmas: euler(gaussian, x, sigmas), exact(x), torch.tensor([FIRST, 1.0, 0.0]), LOWEST, 40)
    scan = [math.exp(place / 500) for place in range(-2000, 1000)]
    assert float(found[1]) == pytest.approx(min(scan, key=apart), rel=0.01)


def test_one_step_has_nothing_to_learn() -> None:
    def refuse(sigmas: SigmaSchedule) -> Tensor:
        raise AssertionError

    assert learned_sigmas(refuse, torch.zeros(1, 1, 1, 1), torch.tensor([FIRST, 0.0]), LOWEST).tolist() == [FIRST, 0.0]
    with pytest.raises(UserError):
        learned_sigmas(refuse, torch.zeros(1, 1, 1, 1), torch.tensor([1.0, 2.0, 0.0]), LOWEST)
