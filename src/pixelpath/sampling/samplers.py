"""Samplers take a noisy image down falling sigmas to a clean one.

All solve dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, arXiv 2206.00364, eq. 1 with sigma(t) = t); some add noise on
the way. `x` is the image at sigmas[0]. `sigmas` [count + 1] must fall strictly and end in 0, or in any sigma at which to stop;
otherwise samplers raise UserError. They stay on the CPU, so that a step never waits for the device. A denoiser gets one of them
as sigma [].
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.types import Denoise, Images, Noise

SigmaSchedule = Float[Tensor, "sigmas"]


def checked(sigmas: SigmaSchedule) -> SigmaSchedule:
    """Sigmas in float64 on the CPU; UserError unless they fall strictly and end in 0 or above."""
    values = sigmas.double().cpu()
    if len(values) < 2 or not bool((values[:-1] > values[1:]).all()) or values[-1] < 0:
        shown = [round(value, 4) for value in values.tolist()]
        raise UserError(
            f"Sigmas must fall strictly and end in 0 or above, got {shown}: build them with noise.sigmas(count).", "sigmas"
        )
    return values


def euler(denoise: Denoise, x: Images, sigmas: SigmaSchedule) -> Images:
    """First order, one evaluation a step: x <- D + (next / sigma) (x - D). Over [sigma_max, 0] it is one-step generation."""
    for sigma, below in pairwise(checked(sigmas)):
        x = torch.lerp(denoise(x, sigma), x, float(below / sigma))
    return x


def heun(denoise: Denoise, x: Images, sigmas: SigmaSchedule) -> Images:
    """Second order, two evaluations a step, one in a step to 0 (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""
    for sigma, below in pairwise(checked(sigmas)):
        x = _heun_step(denoise, x, sigma, below)
    return x


def _heun_step(denoise: Denoise, x: Images, sigma: Tensor, below: Tensor) -> Images:
    estimate = denoise(x, sigma)
    if below == 0:
        return estimate
    slope = (x - estimate) / float(sigma)
    guess = x + float(below - sigma) * slope
    slope_below = (guess - denoise(guess, below)) / float(below)
    return x + float(below - sigma) / 2 * (slope + slope_below)


def heun_stochastic(
    denoise: Denoise,
    x: Images,
    sigmas: SigmaSchedule,
    noise: Noise,
    amount: float = 40.0,
    interval: tuple[float, float] = (0.05, 50.0),
    inflation: float = 1.003,
) -> Images:
    """Heun after raising the noise a little at every step inside `interval` (Karras et al. 2022, arXiv 2206.00364, algorithm 2).

    `amount` is S_churn, split evenly over the steps. `inflation` is S_noise, the std of the added noise.
    """
    sigmas = checked(sigmas)
    raise_by = min(amount / (len(sigmas) - 1), math.sqrt(2) - 1)
    for sigma, below in pairwise(sigmas):
        if interval[0] <= sigma <= interval[1]:
            raised = sigma * (1 + raise_by)
            x = x + inflation * float((raised**2 - sigma**2).sqrt()) * noise()
            sigma = raised
        x = _heun_step(denoise, x, sigma, below)
    return x


def euler_ancestral(denoise: Denoise, x: Images, sigmas: SigmaSchedule, noise: Noise) -> Images:
    """Euler steps that go below the next sigma and come back with fresh noise (Song et al. 2021, arXiv 2011.13456, eq. 47).

    A step from sigma to s goes down to s^2 / sigma, then adds noise of variance s^2 (sigma^2 - s^2) / sigma^2.
    """
    for sigma, below in pairwise(checked(sigmas)):
        x = torch.lerp(denoise(x, sigma), x, float((below / sigma) ** 2))
        if below > 0:
            x = x + float(below * (1 - (below / sigma) ** 2).sqrt()) * noise()
    return x


def dpmpp_2m(denoise: Denoise, x: Images, sigmas: SigmaSchedule) -> Images:
    """Second order, one evaluation a step, from two estimates (DPM-Solver++(2M): Lu et al. 2022, arXiv 2211.01095, alg. 2).

    With h = ln(sigma / next): x <- (next / sigma) x + (1 - next / sigma) ((1 + h / 2h') D - h / 2h' D'), where ' marks the step
    before. The first step and a step to 0 are of first order.
    """
    previous: tuple[Images, float] | None = None
    for sigma, below in pairwise(checked(sigmas)):
        estimate = denoise(x, sigma)
        step = math.log(sigma / below) if below > 0 else math.inf
        target = estimate
        if previous is not None and below > 0:
            before, step_before = previous
            target = torch.lerp(before, estimate, 1 + step / (2 * step_before))
        x = torch.lerp(target, x, float(below / sigma))
        previous = estimate, step
    return x


def consistency(denoise: Denoise, x: Images, sigmas: SigmaSchedule, noise: Noise, sigma_min: float = 0.0) -> Images:
    """One estimate per sigma, each of the one before under fresh noise (Song et al. 2023, arXiv 2303.01469, algorithm 1).

    For consistency models: x <- D(x, sigma), then + sqrt(next^2 - sigma_min^2) e. `sigma_min` is the noise that estimates still
    hold. Raises UserError unless it lies between 0 and the lowest of the sigmas above 0.
    """
    sigmas = checked(sigmas)
    if sigma_min < 0 or any(0 < below < sigma_min for below in sigmas[1:].tolist()):
        raise UserError(f"`sigma_min` must lie between 0 and the lowest sigma above 0, got {sigma_min}.", setting="sigma_min")
    for sigma, below in pairwise(sigmas):
        x = denoise(x, sigma)
        if below > 0:
            x = x + math.sqrt(float(below) ** 2 - sigma_min**2) * noise()
    return x
