"""Editing: images of which something is known already, some of their pixels, a rough version, or two that they lie between.

*Known* images are clean and in model range. A mask of *open* pixels is True where they are to be made anew, False where they are
known. Everything here takes a denoiser and the noise, as samplers do, and knows no run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.sampling.samplers import SigmaSchedule, checked
from pixelpath.types import Denoise, Images, Noise

Open = Bool[Tensor, "batch channel row column"]

ROUNDS = 3  # of minimal residuals: a derivative of the network each
ERROR = 0.01  # std by which known pixels may be off, in model range: it bounds the inverse
SMALL = 1e-12  # of the squared residual, at which it counts as solved
ROUNDED = 100  # eps of a squared length that rounding may have made: such a direction is none


def conditioned(denoise: Denoise, known: Images, open_pixels: Open, rounds: int = ROUNDS, error: float = ERROR) -> Denoise:
    """The estimate given also what is known: a sampler over it draws from the images that agree with the known pixels.

    The clean image, given the noisy one, has about the mean D and the covariance V = sigma^2 dD/dx. Given its known pixels y too,
    its mean is D + V P' (P V P' + error^2)^-1 (y - P D), where P picks the known pixels (moment matching: Rozet et al. 2024,
    arXiv 2405.13712; exact for Gaussian images). The inverse is found in `rounds` of minimal residuals. The derivative of a
    trained network is only nearly symmetric: conjugate gradients then run away; minimal residuals only fall. Estimates of known
    pixels are y itself. Works for estimates of means, so not for one-step models. Costs the memory of a step
    of training. Raises UserError for fewer than one round.
    """
    if rounds < 1:
        raise UserError(f"`rounds` must be at least 1, got {rounds}: choose {ROUNDS}.", "rounds")

    def posterior(noisy: Images, sigma: Tensor) -> Images:
        with torch.enable_grad():
            given = noisy.detach().requires_grad_(True)
            estimate = denoise(given, sigma)

            def covariance(vector: Images) -> Images:
                (product,) = torch.autograd.grad(estimate, given, vector, retain_graph=True)
                return float(sigma) ** 2 * product

            gap = torch.where(open_pixels, 0.0, known - estimate.detach())
            moved = estimate.detach() + _gain(covariance, gap, ~open_pixels, rounds, error**2)
        return torch.where(open_pixels, moved, known)

    return posterior


def _gain(covariance: Callable[[Images], Images], gap: Images, seen: Open, rounds: int, variance: float) -> Images:
    """V P' (P V P' + variance)^-1 gap by minimal residuals, every image of the batch for itself.

    GMRES (Saad & Schultz 1986), in the form that turns each residual into the next direction: the residual is as short as any
    combination of the directions so far makes it, whatever matrix V is.
    """
    moved, residual = torch.zeros_like(gap), gap
    known: list[tuple[Images, Images]] = []  # what V makes of each direction, and what the matrix makes of it, of length 1
    for _ in range(rounds):
        through = covariance(residual)
        image = seen * through + variance * residual
        whole = _dot(image, image)
        for earlier, made in known:
            share = _dot(image, made)
            through, image = through - share * earlier, image - share * made
        length = _dot(image, image)
        independent = (_dot(residual, residual) > SMALL) & (length > ROUNDED * torch.finfo(gap.dtype).eps * whole)
        scale = torch.where(independent, length, 1.0).rsqrt() * independent
        through, image = through * scale, image * scale
        step = _dot(residual, image)
        moved, residual = moved + step * through, residual - step * image
        known.append((through, image))
    return moved


def _dot(one: Images, other: Images) -> Float[Tensor, "batch 1 1 1"]:
    return (one * other).sum((1, 2, 3), keepdim=True)


def consistency_inpaint(
    denoise: Denoise, x: Images, sigmas: SigmaSchedule, noise: Noise, known: Images, open_pixels: Open
) -> Images:
    """In-painting by a one-step model: the consistency sampler, its known pixels put back after each estimate.

    x <- D(x, sigma), known pixels put back, then + next e (Song et al. 2023, arXiv 2303.01469, algorithm 4). Slowly falling small
    sigmas draw from the images that agree with the known pixels, as each is a step of Langevin's equation for the open ones.
    """
    for sigma, below in pairwise(checked(sigmas)):
        x = torch.where(open_pixels, denoise(x, sigma), known)
        x = x + float(below) * noise() if below > 0 else x
    return x


def on_sphere(first: Images, second: Images, share: Float[Tensor, "batch"]) -> Images:
    """cos(pi share / 2) first + sin(pi share / 2) second: from one noise to another; normal noise stays normal on the way.

    The spherical interpolation (Shoemake 1985) of two vectors at a right angle, as independent ones of many values nearly are.
    """
    angle = (math.pi / 2 * share).to(first).reshape(-1, 1, 1, 1)
    return angle.cos() * first + angle.sin() * second


def strength_sigma(strength: float, lowest: float, highest: float, rho: float) -> float:
    """The sigma to which an image is noised to be varied: `lowest` at strength 0 to `highest` at 1, even in sigma^(1/rho).

    That is the share of a sampler's steps which are walked again. Raises UserError unless 0 < strength <= 1.
    """
    if not 0 < strength <= 1:
        raise UserError(f"`strength` must be above 0 and at most 1, got {strength:g}: choose for example 0.5.", "strength")
    low, high = lowest ** (1 / rho), highest ** (1 / rho)
    return (low + strength * (high - low)) ** rho
