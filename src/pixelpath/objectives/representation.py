"""Stage one: an encoder learns, without labels, to tell images apart at every noise level (EPG, arXiv 2510.12586).

Two terms: *contrast* between two augmented views at the lowest noise, against the average of the run as teacher; *consistency* of
the features of one image at two neighbouring levels of a grid, which grows finer as training goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixelpath.noise import NoiseRange, expand
from pixelpath.objectives.contrast import info_nce
from pixelpath.randomness import generators, normal
from pixelpath.types import Losses, Views


@dataclass(frozen=True)
class Curriculum:
    """The grid of a step: min(first 2^ceil(step / span), last) + 1 levels, span = ceil(total / log2(ceil(last / first) + 1)).

    A total of 0 stands for the length of the run, which a recipe fills in. Raises ValueError unless 1 <= first <= last.
    """

    total: int = 0
    first: int = 20
    last: int = 1280

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last or self.total < 0:
            raise ValueError(f"A curriculum needs 1 <= first <= last and total >= 0, got {self}.")

    def __call__(self, step: int) -> int:
        """How many levels the grid has at `step`."""
        if self.total == 0:
            raise ValueError(
                "This curriculum does not know the length of its run: give it a total, or close its recipe with for_data."
            )
        span = math.ceil(self.total / math.log2(math.ceil(self.last / self.first) + 1))
        return min(self.first * 2 ** math.ceil(step / span), self.last) + 1


@dataclass(frozen=True)
class ConstantTemperature:
    """One temperature at every level and step."""

    value: float = 0.1

    def __call__(self, sigma: float, noise: NoiseRange, step: int) -> float:
        """The temperature at the unshifted sigma."""
        return self.value


@dataclass(frozen=True)
class InterpolatedTemperature:
    """Linear in sigma from `lowest` (at the lowest level) to `highest`, which falls to `lowest` over `total` steps along a sine.

    highest(step) = lowest + (highest - lowest) (1 - sin(pi/2 step/total)) (EPG, arXiv 2510.12586). A total of 0 stands for the
    length of the run, which a recipe fills in.
    """

    total: int = 0
    lowest: float = 0.1
    highest: float = 0.2

    def top(self, step: int) -> float:
        """The temperature at the highest level."""
        progress = min(step / self.total, 1.0)
        return self.lowest + (self.highest - self.lowest) * (1 - math.sin(math.pi / 2 * progress))

    def __call__(self, sigma: float, noise: NoiseRange, step: int) -> float:
        """The temperature at the unshifted sigma."""
        share = (sigma - noise.sigma_min) / (noise.sigma_max - noise.sigma_min)
        return self.lowest + (self.top(step) - self.lowest) * share


Temperature = ConstantTemperature | InterpolatedTemperature


@dataclass(frozen=True)
class RepresentationLearning:
    """The objective of stage one: contrast of views plus consistency along the noise; student and average are Representations."""

    noise: NoiseRange
    curriculum: Curriculum
    temperature: Temperature = ConstantTemperature()
    view_temperature: float = 0.2

    def __call__(self, student: nn.Module, ema: nn.Module, batch: Views, step: int) -> Losses:
        """The mean loss of this process's share; `batch` holds the clean images and two views of each."""
        noise = normal(generators(batch.seeds, batch.images.device), batch.images.shape[1:])
        levels = self.curriculum(step)
        index = int(torch.randint(levels - 1, (), generator=generators([batch.seed])[0]))
        contrast = self.contrast(student, ema, batch, noise)
        consistency = self.consistency(student, batch, noise, levels, index, step)
        parts = {"contrast": contrast.mean().detach(), "consistency": consistency.mean().detach()}
        return Losses((contrast + consistency).mean(), parts)

    def contrast(self, student: nn.Module, ema: nn.Module, batch: Views, noise: Tensor) -> Float[Tensor, "batch"]:
        """L_c per image: each view must find the teacher's other view."""
        sigma = noise.new_tensor(self.noise.sigma_min * self.noise.shift)
        first, second = batch.first + sigma * noise, batch.second + sigma * noise
        with torch.no_grad():  # the teacher is in evaluation mode, so one pass over both views is the same as two
            first_target, second_target = ema(torch.cat([first, second]), sigma).projection.chunk(2)
        forth = info_nce(student(first, sigma).projection, second_target, self.view_temperature)
        return forth + info_nce(student(second, sigma).projection, first_target, self.view_temperature)

    def consistency(
        self, student: nn.Module, batch: Views, noise: Tensor, levels: int, index: int, step: int
    ) -> Float[Tensor, "batch"]:
        """L_r per image: features at level `index` must find the same image's features at the next lower level."""
        high, low = self.noise.grid(levels)[index : index + 2].tolist()
        sigmas = noise.new_tensor([high, low]) * self.noise.shift
        noisier, cleaner = (batch.images + expand(sigma, noise) * noise for sigma in sigmas)
        queries = student(noisier, sigmas[0], project=False).cls
        with torch.no_grad():
            targets = student(cleaner, sigmas[1], project=False).cls
        return info_nce(queries, targets, self.temperature(high, self.noise, step))
