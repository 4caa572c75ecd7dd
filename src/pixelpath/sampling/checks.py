"""Checks before a sampler goes down from a start: start, sigmas and denoiser must agree about the noise.

The *residual energy* of a noisy image x at sigma is |x - D(x, sigma)|^2 / (d sigma^2), d its number of values: the share of the
noise of that sigma which the denoiser finds. Start images and *held-out* images noised to the same sigma must have the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath import randomness
from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.sampling.samplers import checked
from pixelpath.types import Denoise, Images

BAND = 0.1  # how far the ratio of two mean residual energies may be from 1; a sigma 25 % off gives 1.52 or 0.63
SLOPES = (0.75, 1.33)  # of clean images over estimates; twice the range that the denoiser knows gives 1.6 and more
ERRORS = 3.0  # standard errors by which a slope or offset must leave its band
OFFSET = 0.35  # of clean images from estimates, in stds of the images

Energies = Float[Tensor, "_"]
"""Residual energies, one for each image."""


def noised(images: Images, sigma: float, seeds: Sequence[int]) -> Images:
    """images + sigma e, e standard normal from the seed of each image; UserError unless there is a seed for each."""
    if len(seeds) != len(images):
        raise UserError(f"Noise needs a seed for each image, got {len(images)} images and {len(seeds)} seeds.", "seeds")
    return images + sigma * randomness.normal(randomness.Streams(seeds), images.shape[1:]).to(images)


@torch.no_grad()
def residual_energy(denoise: Denoise, noisy: Images, sigma: float) -> Energies:
    """|x - D(x, sigma)|^2 / (d sigma^2) of every noisy image x (float64, CPU; pieces of a large set may be concatenated).

    For Gaussian data of std s and noise of std a in x its mean is sigma^2 (s^2 + a^2) / (s^2 + sigma^2)^2.
    """
    estimate = denoise(noisy, torch.tensor(sigma, dtype=torch.float64))
    return (noisy - estimate).double().square().flatten(1).mean(1).cpu() / sigma**2


def check_residual(start: Energies, held_out: Energies, sigma: float) -> float:
    """mean(start) / mean(held_out), residual energies of start images and of held-out images noised to sigma: 1 if they agree.

    Raises UserError if the ratio leaves [0.9, 1.1]: the start was then made for another sigma than sampling begins at. Raises it
    too if energies are not finite, or if three standard errors of so few images do not fit into that band.
    """
    ratio, error = _ratio(start, held_out)
    if 3 * error > BAND and abs(ratio - 1) < BAND + 3 * error:
        more = (3 * error / BAND) ** 2
        raise UserError(
            f"The residual energy of {len(start)} start images over that of {len(held_out)} held-out ones, {ratio:.2f} +- "
            f"{error:.2f}, does not tell whether start and sigmas agree: give about {more:.1f} times as many."
        )
    if abs(ratio - 1) > BAND:
        raise UserError(
            f"At sigma {sigma:g} the residual energy of start images is {ratio:.2f} of that of held-out images noised to it: "
            "start and sigmas do not match. Sample the start in model range, at exactly the first sigma."
        )
    return ratio


@torch.no_grad()
def check_scale(denoise: Denoise, images: Images, sigma: float, seeds: Sequence[int]) -> tuple[float, float]:
    """The slope of held-out images x over their estimates D at sigma, and the offset: (1, 0) for the exact denoiser.

    slope = <x, D - m> / |D - m|^2 with m the mean of D over images; offset = |mean(x - D)| over the std of x, of the channel
    where it is largest. Gaussian images c times as wide as the denoiser's, of std s, have the slope
    c^2 (s^2 + sigma^2) / (c^2 s^2 + sigma^2). Choose sigma at one to three times the std of the data: far above it estimates hold
    too little of the image. Give some dozen images or more, and seeds that did not make them. Raises UserError if the slope is
    outside [0.75, 1.33] by more than 3 of its standard errors, or the offset exceeds 0.35 by as much.
    """
    estimate = denoise(noised(images, sigma, seeds), torch.tensor(sigma, dtype=torch.float64)).double()
    clean = images.double()
    slope, error = _slope(clean, estimate - estimate.mean(0))
    apart = (clean - estimate).mean((2, 3))
    offsets, spreads = apart.mean(0).abs() / clean.std(), apart.std(0) / (len(apart) ** 0.5 * clean.std())
    offset = float(offsets.max())
    inside = _inside(slope, error) and bool((offsets - ERRORS * spreads <= OFFSET).all())
    if not inside:
        raise UserError(
            f"At sigma {sigma:g} held-out images are {slope:.2f} +- {error:.2f} times their estimates and {offset:.2f} stds off: "
            "they are not in the range that the denoiser knows. Give images in its range, its adapter the right scale and shift, "
            "or train it for longer."
        )
    return slope, offset


@torch.no_grad()
def check_noise(denoise: Denoise, images: Images, sigma: float, seeds: Sequence[int]) -> float:
    """The slope of the noise e in held-out images over the noise that the denoiser finds, f = (x + sigma e - D) / sigma: about 1.

    slope = <e, f> / |f|^2 is 1 for the exact denoiser, as f is the mean of e for what it sees. A denoiser that takes sigma for r
    times as much has 1 / r^2 on smooth images. Choose sigma well below the std of the data. Raises UserError if the slope is
    outside [0.75, 1.33] by more than 3 of its standard errors: the network was then trained with another schedule than the one
    by which sigma becomes its own coordinate.
    """
    noisy = noised(images, sigma, seeds)
    found = (noisy - denoise(noisy, torch.tensor(sigma, dtype=torch.float64))).double() / sigma
    slope, error = _slope((noisy - images).double() / sigma, found)
    if not _inside(slope, error):
        raise UserError(
            f"At sigma {sigma:g} the noise of held-out images is {slope:.2f} +- {error:.2f} times the noise that the denoiser "
            "finds in them: it takes sigma for another noise. Give its adapter the schedule (alphas_cumprod, data_at, sigmas) "
            "and the prediction that it was trained with, or train it for longer."
        )
    return slope


def _slope(values: Images, estimates: Images) -> tuple[float, float]:
    """<values, estimates> / |estimates|^2 over all images, and its standard error over images (of a ratio, to first order)."""
    products, squares = (values * estimates).flatten(1).sum(1), estimates.square().flatten(1).sum(1)
    slope = products.sum() / squares.sum()
    return float(slope), float((products - slope * squares).square().sum().sqrt() / squares.sum())


def _inside(slope: float, error: float) -> bool:
    return SLOPES[0] - ERRORS * error <= slope <= SLOPES[1] + ERRORS * error


def check_sigmas(sigmas: Float[Tensor, "sigmas"], sigma: float, learned: NoiseRange) -> None:
    """UserError unless `sigmas` fall strictly, begin at `sigma` (shifted) and lie in the learned range, except for a last 0.

    `learned.sigmas(count, start=sigma)` is such a grid, built between sigma and sigma_min. The tail of the grid from sigma_max
    would spend its steps elsewhere.
    """
    values = checked(sigmas)
    rebuild = f"build them with noise.sigmas(count, start={sigma:g})"
    if abs(float(values[0]) - sigma) > 1e-6 * sigma:
        raise UserError(f"Sigmas begin at {float(values[0]):g} and the start is at {sigma:g}: {rebuild}.", "sigmas")
    low, high = learned.sigma_min * learned.shift, learned.sigma_max * learned.shift
    last = float(values[-1] if values[-1] > 0 else values[-2])
    if sigma > high * (1 + 1e-6) or last < low * (1 - 1e-6):
        raise UserError(
            f"Sigmas run from {sigma:g} to {last:g}, and the denoiser learned {low:g} to {high:g}: choose a start inside that "
            "range, and its own noise.sigmas.",
            setting="sigmas",
        )


def check_finite(values: Float[Tensor, "..."], what: str, remedy: str) -> None:
    """UserError if a value of these rows is not finite: such rows are never dropped or filled with zeros."""
    rows = (~torch.isfinite(values)).flatten(1).any(1)
    if bool(rows.any()):
        first = int(rows.nonzero()[0, 0])
        raise UserError(f"{int(rows.sum())} of {len(values)} {what} are not finite, the first of them number {first}: {remedy}.")


def _ratio(start: Energies, held_out: Energies) -> tuple[float, float]:
    """The ratio of the means and its standard error, to first order in that of each."""
    if min(len(start), len(held_out)) < 2:
        raise UserError(f"Residual energies need at least 2 images each, got {len(start)} and {len(held_out)}: give more.")
    if not bool(torch.isfinite(torch.cat([start, held_out])).all()) or not held_out.mean() > 0:
        raise UserError(
            "Residual energies must be finite, and above 0 for held-out images: check that start samples are "
            "finite, and that the denoiser removes noise and returns finite values."
        )
    ratio = float(start.mean() / held_out.mean())
    relative = [float(each.var() / len(each) / held_out.mean() ** 2) for each in (start, held_out)]
    return ratio, (relative[0] + ratio**2 * relative[1]) ** 0.5
