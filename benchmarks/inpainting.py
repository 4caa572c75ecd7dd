"""In-painting of Gaussian images by several ways, against their closed-form law: how far means and covariances are off.

Images of six pixels of std 0.5, neighbours correlated by 0.9, three of them known. Means are in conditional stds, covariances in
the mean conditional variance: the largest of any pixel or pair. All but `conditioned` and `consistency_inpaint` are here only to
be compared with. With --sprites the bundled model makes parts of its own images anew instead.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

import pixelpath as pp
from pixelpath.noise import NoiseRange
from pixelpath.runs.edit import inpaint, inpainting_sigmas
from pixelpath.runs.edit_inputs import given_images, open_pixels
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


def repaint(denoise: Denoise, sigmas: Tensor, repeats: int, below_sigma: float = math.inf) -> Images:
    """Known pixels put back at every step under its noise, each step below a sigma repeated (RePaint: arXiv 2201.09865)."""
    x = KNOWN + float(sigmas[0]) * noise()
    for sigma, below in pairwise(sigmas):
        for repeat in range(repeats if below > 0 and sigma <= below_sigma else 1):
            x = x if repeat == 0 else x + float((sigma**2 - below**2).sqrt()) * noise()
            x = stepped(denoise, x, float(sigma), float(below))
            x = torch.where(OPEN, x, KNOWN + float(below) * noise())
    return x


def stepped(denoise: Denoise, x: Images, sigma: float, below: float) -> Images:
    """From one noise level to a lower one, by fresh noise."""
    x = torch.lerp(denoise(x, torch.tensor(sigma)), x, (below / sigma) ** 2)
    return x + below * math.sqrt(1 - (below / sigma) ** 2) * noise()


def pigdm(x: Images, sigma: Sigmas) -> Images:
    """D + V P' (y - P D) / r^2, r^2 = sigma^2 s^2 / (sigma^2 + s^2) (Song et al. 2023, "Pseudoinverse-guided diffusion")."""
    with torch.enable_grad():
        given = x.detach().requires_grad_(True)
        clean = estimate(given, sigma)
        gap = torch.where(OPEN, 0.0, KNOWN - clean.detach())
        (through,) = torch.autograd.grad(clean, given, gap)
    moved = clean.detach() + through * (float(sigma) ** 2 + 0.25) / 0.25
    return torch.where(OPEN, moved, KNOWN)


def langevin(denoise: Denoise, sigmas: Tensor, rounds: int) -> Images:
    """Known pixels put back under noise, and `rounds` of Langevin's equation at every level, as LanPaint corrects a replacement
    (arXiv 2502.03491; here overdamped, a round being sigma of noise and the step back from sqrt(2) sigma).
    """
    x = KNOWN + float(sigmas[0]) * noise()
    for sigma, below in pairwise(sigmas):
        x = stepped(denoise, x, float(sigma), float(below))
        for _ in range(rounds if below > 0 else 0):
            x = torch.where(OPEN, x, KNOWN + float(below) * noise()) + float(below) * noise()
            x = stepped(denoise, x, math.sqrt(2) * float(below), float(below))
        x = torch.where(OPEN, x, KNOWN + float(below) * noise())
    return x


def decoupled(denoise: Denoise, sigmas: Tensor, inner: int) -> Images:
    """A clean image by the flow, known pixels put back, noise of the next level (DAPS: Zhang et al. 2024, arXiv 2407.01521)."""
    x = KNOWN + float(sigmas[0]) * noise()
    for sigma, below in pairwise(sigmas):
        clean = dpmpp_2m(denoise, x, NOISE.sigmas(inner, float(sigma))) if below > 0 else denoise(x, sigma)
        x = torch.where(OPEN, clean, KNOWN)
        x = x + float(below) * noise() if below > 0 else x
    return x


def off(images: Images) -> str:
    """How far mean and covariance of the open pixels are from those of the law."""
    gain = COVARIANCE[~SEEN][:, SEEN] @ torch.linalg.inv(COVARIANCE[SEEN][:, SEEN])
    law = COVARIANCE[~SEEN][:, ~SEEN] - gain @ COVARIANCE[SEEN][:, ~SEEN]
    found = images.flatten(1)[:, ~SEEN]
    mean = ((found.mean(0) - gain @ VALUES[SEEN]).abs() / law.diag().sqrt()).max()
    return f"mean {mean:.2f}, covariance {(torch.cov(found.T) - law).abs().max() / law.diag().mean():.2f}"


def compare(name: str, given: Denoise, sigmas: Tensor) -> None:
    """Print a line for two samplers over a denoiser that knows pixels."""
    start = math.hypot(float(sigmas[0]), 0.5) * noise()
    made = {"euler_ancestral": euler_ancestral(given, start, sigmas, noise), "dpmpp_2m": dpmpp_2m(given, start, sigmas)}
    for sampler, images in made.items():
        sys.stdout.write(f"{name}, {sampler}, {len(sigmas) - 1} steps: {off(images)}\n")


def sprites() -> None:
    """Print how far parts made anew are from the images themselves (levels of 255), and how large steps across the border are."""
    run = pp.load("sprites", device="cpu")
    own = run.sample(12, seed=100)
    rows, columns = run.shape[1:]
    half, middle = np.zeros((2, rows, columns), bool)
    half[:, columns // 2 :] = middle[rows // 4 : -rows // 4, columns // 4 : -columns // 4] = True
    given, labels = given_images(run, own.images), torch.tensor(own.settings["labels"])
    for name, mask in (("half", half), ("middle", middle)):
        sys.stdout.write(f"{name}, the images themselves: seam {seam(own.images, mask):.1f}\n")
        for rounds in (1, 2, 3):
            pixels, knowing = open_pixels(run, mask, len(given)), partial(conditioned, rounds=rounds)
            made = inpaint(run, given, pixels, range(7, 7 + len(given)), labels, knowing=knowing).images
            apart = np.sqrt(((made.astype(float) - own.images)[:, :, mask] ** 2).mean((1, 2)))
            found = f"RMSE {apart.mean():.1f}, worst {apart.max():.0f}, seam {seam(made, mask):.1f}"
            sys.stdout.write(f"{name}, {rounds} round(s): {found}\n")


def seam(images: np.ndarray, mask: np.ndarray) -> float:
    """The mean absolute step between neighbouring values of which one is in the mask."""
    wide, steps = images.astype(float), []
    for axis in (0, 1):
        steps.append(np.abs(np.diff(wide, axis=axis + 2))[:, :, np.diff(mask, axis=axis)].ravel())
    return float(np.concatenate(steps).mean())


def main() -> None:
    """Print a line for every way and number of steps."""
    torch.manual_seed(0)
    for steps in (12, 24, 50):
        sigmas = NOISE.sigmas(steps)
        for rounds in (1, 2, 3):
            compare(f"conditioned, {rounds} round(s)", conditioned(estimate, KNOWN, OPEN, rounds), sigmas)
        compare("pseudo-inverse guidance", pigdm, sigmas)
        for repeats, limit in ((5, math.inf), (20, math.inf), (10, 1.0), (20, 0.5)):
            found = repaint(estimate, sigmas, repeats, limit)
            sys.stdout.write(f"repaint, {repeats} repeats below sigma {limit:g}, {steps} steps: {off(found)}\n")
        sys.stdout.write(f"replaced and 3 rounds of Langevin, {steps} steps: {off(langevin(estimate, sigmas, 3))}\n")
        sys.stdout.write(f"noise decoupled, {steps} times 8 steps: {off(decoupled(estimate, sigmas, 8))}\n")
    for steps in (16, 32, 64, 128):
        sigmas = inpainting_sigmas(NOISE, steps)
        made = consistency_inpaint(one_step, float(sigmas[0]) * noise(), sigmas, noise, KNOWN, OPEN)
        sys.stdout.write(f"one step, {steps} steps: {off(made)}\n")


if __name__ == "__main__":
    sprites() if "--sprites" in sys.argv else main()
