"""From seeds to images: one entry that previews, evaluations, the sample command and Python users share.

A *seed* belongs to one image: what it starts from and all noise on the way come from its own generator, always on the CPU, so the
same seed is the same image (up to rounding) at any batch size, on any device. A *cold* plan starts from noise alone at the
highest level, a *warm* one from a fitted start at a level of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pixelpath.models.denoiser import Denoiser
from pixelpath.noise import NoiseRange
from pixelpath.randomness import generators, normal, seed_of
from pixelpath.recipes.recipe import Recipe
from pixelpath.sampling.checks import check_sigmas
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.samplers import euler_ancestral, heun_stochastic, euler, heun, dpmpp_2m, consistency
from pixelpath.starts.warm import WarmStart
from pixelpath.types import Conditioning, Denoise, Images, Labels, Noise, classes_of

Sampler = Callable[[Denoise, Images, Tensor, Noise], Images]

SAMPLERS: dict[str, Sampler] = {
    "euler": lambda denoise, x, sigmas, noise: euler(denoise, x, sigmas),
    "heun": lambda denoise, x, sigmas, noise: heun(denoise, x, sigmas),
    "heun_stochastic": heun_stochastic,
    "euler_ancestral": euler_ancestral,
    "dpmpp_2m": lambda denoise, x, sigmas, noise: dpmpp_2m(denoise, x, sigmas),
    "consistency": consistency,
}


def default_sampler(recipe: Recipe) -> str:
    """The name of the sampler that suits what the recipe trains: renoise for a consistency model, else heun."""
    return "consistency" if recipe.is_one_step else "heun"


@dataclass(frozen=True)
class Plan:
    """How to sample: `sampler` over `levels`, guided by `scale` between two unshifted sigmas.

    The levels are those of `noise.sigmas(steps)`, for renoise those of `noise.consistency_sigmas(steps)`, built anew below the sigma of `warm`
    if sampling begins at a fitted start; unless `visit` names the unshifted sigmas to visit between the first level and 0: `steps`
    is then not used. Raises ValueError if these do not fall within the range, or the start lies outside it. `reference` is the
    denoiser that guidance pushes away from: None for the same one without label (classifier-free), which needs classes.
    """

    noise: NoiseRange
    steps: int = 32
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, math.inf)
    sampler: Sampler = SAMPLERS["heun"]
    reference: Denoiser | None = None
    visit: tuple[float, ...] | None = None
    warm: WarmStart | None = None

    def __post_init__(self) -> None:
        inner = (self.highest, *(self.visit or ()), self.noise.sigma_min)
        if self.visit and any(not below < sigma for sigma, below in pairwise(inner)):
            raise ValueError(
                f"The levels to visit must fall strictly between {self.highest:g} and {self.noise.sigma_min:g}, got {self.visit}."
            )
        if self.warm is not None:
            check_sigmas(self.sigmas, self.warm.sigma, self.noise)

    @property
    def highest(self) -> float:
        """The unshifted level at which sampling begins."""
        return self.noise.sigma_max if self.warm is None else self.warm.sigma / self.noise.shift

    @property
    def sigmas(self) -> Tensor:
        """The shifted levels, falling from the first to 0 (float64)."""
        if self.visit is not None:
            return torch.tensor([self.highest, *self.visit, 0.0], dtype=torch.float64) * self.noise.shift
        start = None if self.warm is None else self.warm.sigma
        return self.noise.consistency_sigmas(self.steps, start) if self.sampler is consistency else self.noise.sigmas(self.steps, start)

    def first(self, sources: list[torch.Generator], shape: tuple[int, int, int], labels: Labels | None) -> Images:
        """The noisy images at the first level, one per generator, on the CPU; ValueError if a start gives what it cannot."""
        if self.warm is None:
            return float(self.sigmas[0]) * normal(sources, shape)
        return self.warm.draw(sources, shape, labels)


def steps_below(noise: NoiseRange, steps: int, sigma: float) -> int:
    """How many steps as fine a grid as one of `steps` from the highest level takes from sigma on; at least 1."""
    return max(1, int((noise.sigmas(steps)[:-1] < sigma).sum()))


def balanced(seeds: Sequence[int], num_classes: int) -> Labels:
    """Label seed mod num_classes for every seed: classes in turn; 0 ("no class") where there are none."""
    return torch.tensor([seed % num_classes if num_classes else 0 for seed in seeds], dtype=torch.int64)


def generate(
    denoiser: Denoiser, shape: tuple[int, int, int], seeds: Sequence[int], labels: Conditioning, plan: Plan, batch_size: int = 64
) -> Iterator[Images]:
    """Batches of images [<= batch_size, *shape] in model range on the CPU, one image per seed and label, in their order.

    Raises ValueError for a batch size below 1, no steps, or guidance between levels that do not rise.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, got {batch_size}.")
    for start in range(0, len(seeds), batch_size):
        sources = generators([seed_of(seed) for seed in seeds[start : start + batch_size]])
        yield from_sources(denoiser, shape, sources, labels[start : start + batch_size], plan)


@torch.no_grad()
def from_sources(
    denoiser: Denoiser, shape: tuple[int, int, int], sources: list[torch.Generator], labels: Conditioning, plan: Plan
) -> Images:
    """Images [generator, *shape] in model range on the CPU, all their randomness from their own generators."""
    device, by_class = next(denoiser.parameters()).device, denoiser.backbone.num_classes > 0
    denoise = _guided(denoiser, labels.to(device), plan)
    first = plan.first(sources, shape, classes_of(labels) if by_class else None).to(device)
    return plan.sampler(denoise, first, plan.sigmas, lambda: normal(sources, shape).to(device)).float().cpu()


def _guided(denoiser: Denoiser, labels: Conditioning, plan: Plan) -> Denoise:
    conditional = denoiser.backbone.conditional
    estimate = denoiser.bind(labels if conditional else None)
    if plan.reference is None and not conditional:
        return estimate
    reference = denoiser.bind(None)
    if plan.reference is not None:
        reference = plan.reference.bind(labels if conditional and plan.reference.backbone.conditional else None)
    low, high = (limit * plan.noise.shift for limit in plan.guidance_interval)
    return guide(estimate, reference, plan.guidance, (low, high))
