"""In-painting by a trained one-step run of digits, in steps of consistency sampling, or by a search in its noise.

RUN is the one-step run of `pixelpath fit digits`. The right half, or the middle quarter, of 90 digits is made anew four times
each, under its class. The energy score (Gneiting & Raftery 2007) is the mean distance of the made parts from the true one, less
half of that between two made ones, in levels of 16: it is least for draws from the conditional law, which have as large a
distance from each other (spread) as from the truth (near). `--gaussian` makes the search on the images of `inpainting`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor

import pixelpath as pp
from benchmarks import inpainting as gaussian
from pixelpath.runs import edit
from pixelpath.runs.edit_inputs import given_images, open_pixels
from pixelpath.sampling.editing import Open, consistency_inpaint
from pixelpath.types import Denoise, Images, Sigmas

COUNT, DRAWS, LEVEL = 90, 4, 255 / 16
Way = Callable[[Denoise, Images, Sigmas, Callable[[], Images], Images, Open], Images]


def searched(rounds: int, iterations: int = 1, error: float = 0.05) -> Way:
    """An image that agrees with the known pixels, found in the noise z of the one evaluation f(z).

    z0 and y + error e are drawn, and |z - z0|^2 + |y + error e - P f(z)|^2 / error^2 is made least by Gauss-Newton (randomised
    maximum likelihood: Oliver, He & Reynolds 1996). It draws from the law given y if f is linear. The system J J' + error^2 is
    solved by `rounds` of conjugate gradients: a derivative, and an evaluation for its transpose by a finite difference, each.
    """

    def way(denoise: Denoise, start: Images, sigmas: Sigmas, noise: Callable[[], Images], known: Images, left: Open) -> Images:
        del start
        top = sigmas[0]
        origin, wanted = noise(), torch.where(left, 0.0, known + error * noise())
        z = origin
        for _ in range(iterations):
            with torch.enable_grad():
                given = z.detach().requires_grad_(True)
                made = denoise(float(top) * given, top)

            def back(v: Images, made: Images = made, given: Images = given) -> Images:
                return torch.autograd.grad(made, given, v, retain_graph=True)[0]

            def forward(v: Images, z: Images = z, made: Images = made) -> Images:
                small = 0.05 / v.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
                return (denoise(float(top) * (z + small * v), top) - made.detach()) / small

            gap = ~left * (wanted - made.detach() + forward(z - origin))
            found = conjugate(lambda v, to=forward, by=back: ~left * to(by(v)) + error**2 * v, gap, rounds)
            z = origin + back(found)
        return torch.where(left, denoise(float(top) * z, top), known).detach()

    return way


def conjugate(matrix: Callable[[Images], Images], b: Images, rounds: int) -> Images:
    """matrix^-1 b by conjugate gradients, every image for itself."""
    x, residual, direction = torch.zeros_like(b), b, b
    for _ in range(rounds):
        through, length = matrix(direction), dot(residual, residual)
        share = length / dot(direction, through).clamp_min(1e-30)
        x, residual = x + share * direction, residual - share * through
        direction = residual + dot(residual, residual) / length.clamp_min(1e-30) * direction
    return x


def dot(one: Images, other: Images) -> Tensor:
    """The products of the images with each other."""
    return (one * other).sum((1, 2, 3), keepdim=True)


def trained(run: pp.Run, way: Way, steps: int, seed: int = 5000) -> str:
    """Scores of a way on digits, of the right half and of the middle quarter."""
    rows, targets = load_digits(return_X_y=True)
    reader = SVC(gamma=0.001).fit(rows, targets)  # pyright: ignore[reportArgumentType]
    chosen = np.repeat(np.random.default_rng(1).choice(len(rows), COUNT, replace=False), DRAWS)
    images, labels = np.round(rows[chosen] * LEVEL).astype(np.uint8).reshape(-1, 1, 8, 8), targets[chosen]
    said = []
    for name, mask in (("half", np.arange(8) >= 4 + np.zeros((8, 1))), ("middle", np.pad(np.ones((4, 4), bool), 2))):
        pixels, sampling = open_pixels(run, mask, len(images)), pp.Sampling(nfe=steps)
        with patch.object(edit, "consistency_inpaint", way):
            seeds = range(seed, seed + len(images))
            made = edit.inpaint(run, given_images(run, images), pixels, seeds, torch.tensor(labels), sampling).images
        drawn, true = (each[:, 0][:, mask].reshape(COUNT, DRAWS, -1) / LEVEL for each in (made, images))
        near = np.linalg.norm(drawn - true, axis=2).mean()
        apart = np.linalg.norm(drawn[:, :, None] - drawn[:, None], axis=3).sum((1, 2)).mean() / (DRAWS * (DRAWS - 1))
        read = (reader.predict(made.reshape(len(made), -1) / LEVEL) == labels).mean()
        said.append(f"{name}: score {near - apart / 2:.1f}, near {near:.1f}, spread {apart:.1f}, read {read:.0%}")
    return "; ".join(said)


def main() -> None:
    """Print a line for every way."""
    torch.manual_seed(0)
    if "--gaussian" in sys.argv:
        sigmas = edit.inpainting_sigmas(gaussian.NOISE, 1)
        for rounds in (1, 2, 3):
            made = searched(rounds, error=0.01)(
                gaussian.one_step, gaussian.noise(), sigmas, gaussian.noise, gaussian.KNOWN, gaussian.OPEN
            )
            sys.stdout.write(f"searched, {rounds} round(s): {gaussian.off(made)}\n")
        return
    run = pp.load(sys.argv[1], device="cpu")
    for steps in (4, 8, 16, 64):
        sys.stdout.write(f"consistency sampling, {steps} steps: {trained(run, consistency_inpaint, steps)}\n")
    for rounds, iterations in ((4, 1), (8, 1), (8, 3)):
        found = trained(run, searched(rounds, iterations), 1)
        sys.stdout.write(f"searched, {rounds} rounds, {iterations} iteration(s): {found}\n")


if __name__ == "__main__":
    main()
