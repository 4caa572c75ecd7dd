"""How much of a one-step run's target is rounding: the noise of half precision beside the distance of a pair.

    python -m benchmarks.rounding --run sprites

The estimates D at both sigmas of a pair are computed in float32 and under autocast. *distance* is |D(t) - D(r)|, *noise* what
autocast changes in that difference, both as norms over an image, medians over images, and *share* the noise by the distance. The
pairs are those of small-32-onestep, in the middle of the run and at its end. The run should be a diffusion run.
"""

from __future__ import annotations

import sys

import torch
import tyro
from torch import Tensor

from benchmarks.measure import DTYPES
from pixelpath import recipes
from pixelpath.models.denoiser import Denoiser
from pixelpath.noise import expand
from pixelpath.objectives.consistency import Consistency
from pixelpath.randomness import Streams, normal
from pixelpath.runs.opened import open_run
from pixelpath.sampling.samplers import dpmpp_2m

SIGMAS = (0.1, 0.5, 2.0, 8.0)
PROGRESS = (0.5, 0.99)


@torch.no_grad()
def differences(denoiser: Denoiser, x: Tensor, noise: Tensor, pair: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """D(t) - D(r), float32."""
    high, low = (denoiser(x + expand(sigma, noise) * noise, sigma, labels).float() for sigma in pair)
    return high - low


@torch.no_grad()
def rows(run: str, images: int, precision: torch.dtype) -> list[tuple[float, float, float, float, float]]:
    """Sigma, progress, gap as a share of sigma, distance and noise."""
    opened = open_run(run)
    denoiser, streams = opened.denoiser, Streams(range(images))
    objective = recipes.small_32_onestep().objective
    assert isinstance(objective, Consistency)
    labels = torch.arange(images) % max(1, len(opened.classes))
    sigmas = opened.noise.sigmas(12)
    x = dpmpp_2m(denoiser.bind(labels), sigmas[0] * normal(streams, opened.shape), sigmas)
    noise, found = normal(streams, opened.shape), []
    for sigma in SIGMAS:
        for progress in PROGRESS:
            high = torch.full((images,), sigma)
            pair = high, objective.gap(high, objective.noise, progress)
            exact = differences(denoiser, x, noise, pair, labels)
            with torch.autocast("cpu", precision):
                rounded = differences(denoiser, x, noise, pair, labels)
            distance, error = (value.flatten(1).norm(dim=1).median().item() for value in (exact, rounded - exact))
            found.append((sigma, progress, 1 - float(pair[1][0]) / sigma, distance, error))
    return found


def main(run: str = "sprites", images: int = 24, precision: tuple[str, ...] = ("bfloat16", "float16")) -> None:
    """Print the table.

    Args:
        run: folder or name of a diffusion run.
        images: number of its samples to look at.
        precision: dtypes of autocast.
    """
    for name in precision:
        sys.stdout.write(f"{run}, {name}\n{'sigma':>6} {'progress':>9} {'gap':>7} {'distance':>9} {'noise':>8} {'share':>7}\n")
        for sigma, progress, gap, distance, noise in rows(run, images, DTYPES[name]):
            sys.stdout.write(f"{sigma:>6} {progress:>9} {gap:>7.4f} {distance:>9.3f} {noise:>8.4f} {noise / distance:>7.1%}\n")


if __name__ == "__main__":
    tyro.cli(main)
