"""In-painting of Gaussian images by three ways, against their closed-form law: how far means and covariances are off.

Images of six pixels of std 0.5, neighbours correlated by 0.9, three of them known. Means are in conditional stds, covariances in
the mean conditional variance: the largest of any pixel or pair. `repaint` is here only to be compared with.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import torch
from torch import Tensor

from pixelpath.noise import NoiseRange
from pixelpath.runs.edit import inpainting_sigmas
from pixelpath.sampling.editing import conditioned, consistency_inpaint
from pixelpath.sampling.samplers import dpmpp_2m, euler_ancestral
from pixelpath.types import Denoise, Images, Sigmas

COUNT, PIXELS = 10_000, 6
NOISE = NoiseRange(0.002, 40.0)
PLACES = torch.arange(PIXELS, dtype=torch.float64)
COVARIANCE = 0.25 * 0.9 ** (PLACES[:, None] - PLACES).abs()
VARIANCES, AXES = torch.linalg.eigh(COVARIANCE)
SEEN = torch.tensor([True, False, False, True, False, True])
VALUES = torch.tensor([0.5, 0, 0, -0.4, 0, 0.6], dtype=torch.float64)
KNOWN, OPEN = VALUES.expand(COUNT, 1, 1, PIXELS), (~SEEN).expand(COUNT, 1, 1, PIXELS)


def noise() -> Images:
    """Standard normal images."""
    return torch.randn(COUNT, 1, 1, PIXELS, dtype=torch.float64)


def scaled(x: Images, factors: Tensor) -> Images:
    """The images times factors along the axes of their covariance."""
    return (x.flatten(1) @ AXES * factors @ AXES.T).reshape(x.shape)


def estimate(x: Images, sigma: Sigmas) -> Images:
    """The mean of the clean images."""
    return scaled(x, VARIANCES / (VARIANCES + float(sigma) ** 2))


def one_step(x: Images, sigma: Sigmas) -> Images:
    """The end of the flow, which a consistency model learns."""
    return scaled(x, (VARIANCES / (VARIANCES + float(sigma) ** 2)).sqrt())


def repaint(denoise: Denoise, sigmas: Tensor, repeats: int) -> Images:
    """Known pixels put back at every step under its noise, each step repeated (Lugmayr et al. 2022, arXiv 2201.09865)."""
    x = KNOWN + float(sigmas[0]) * noise()
    for sigma, below in pairwise(sigmas):
        for repeat in range(repeats if below > 0 else 1):
            x = x if repeat == 0 else x + float((sigma**2 - below**2).sqrt()) * noise()
            x = torch.lerp(denoise(x, sigma), x, float((below / sigma) ** 2))
            x = x + float(below * (1 - (below / sigma) ** 2).sqrt()) * noise()
            x = torch.where(OPEN, x, KNOWN + float(below) * noise())
    return x


def off(images: Images) -> str:
    """How far mean and covariance of the open pixels are from those of the law."""
    gain = COVARIANCE[~SEEN][:, SEEN] @ torch.linalg.inv(COVARIANCE[SEEN][:, SEEN])
    law = COVARIANCE[~SEEN][:, ~SEEN] - gain @ COVARIANCE[SEEN][:, ~SEEN]
    found = images.flatten(1)[:, ~SEEN]
    mean = ((found.mean(0) - gain @ VALUES[SEEN]).abs() / law.diag().sqrt()).max()
    return f"mean {mean:.2f}, covariance {(torch.cov(found.T) - law).abs().max() / law.diag().mean():.2f}"


def main() -> None:
    """Print a line for every way and number of steps."""
    torch.manual_seed(0)
    for steps in (12, 24, 50):
        sigmas = NOISE.sigmas(steps)
        for rounds in (1, 3):
            given = conditioned(estimate, KNOWN, OPEN, rounds)
            start = math.hypot(float(sigmas[0]), 0.5) * noise()
            made = euler_ancestral(given, start, sigmas, noise), dpmpp_2m(given, start, sigmas)
            for name, images in zip(("euler_ancestral", "dpmpp_2m"), made, strict=True):
                sys.stdout.write(f"conditioned, {rounds} round(s), {name}, {steps} steps: {off(images)}\n")
        for repeats in (5, 20):
            sys.stdout.write(f"repaint, {repeats} repeats, {steps} steps: {off(repaint(estimate, sigmas, repeats))}\n")
    for steps in (32, 64, 128):
        sigmas = inpainting_sigmas(NOISE, steps)
        made = consistency_inpaint(one_step, float(sigmas[0]) * noise(), sigmas, noise, KNOWN, OPEN)
        sys.stdout.write(f"one step, {steps} steps: {off(made)}\n")


if __name__ == "__main__":
    main()
