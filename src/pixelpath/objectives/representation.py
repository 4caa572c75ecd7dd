"""Stage one: an encoder learns, without labels, to tell images apart at every noise level (EPG, arXiv 2510.12586).

Two terms: *contrast* between two augmented views at sigma_min, with the EMA of the run as teacher; *consistency* of the
features of one image at two neighbouring sigmas of a grid, which grows finer as training goes on.

As published, both pairs can be found by their noise alone at high levels, which both images of a pair share and no other image
has. `one_noise` and `view_draw`, chosen here, leave only the content to find them by (decision 14).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.noise import LogNormal, NoiseRange, expand
from pixelpath.objectives.contrast import info_nce
from pixelpath.randomness import Streams, normal, seed_of, uniform
from pixelpath.types import Losses, Views

ONE_NOISE, VIEW_NOISE = 1, 2  # keep the seeds of these draws apart from those of the step and of its images
PUBLISHED = 600_000  # steps of the published run, which rounds the length of a stage up to whole steps


@dataclass(frozen=True)
class Curriculum:
    """The grid at a progress: min(first 2^ceil(progress / span), last) + 1 sigmas, span = 1 / log2(ceil(last / first) + 1).

    From EPG (arXiv 2510.12586). Raises UserError unless 1 <= first <= last.
    """

    first: int = 20
    """Intervals between sigmas of the first grid, at least 1."""
    last: int = 1280
    """Intervals of the last grid, at least as many as of the first."""

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise UserError(
                f"`objective.curriculum.first` must be at least 1 and at most `objective.curriculum.last`, got {self.first} and "
                f"{self.last}.",
                setting="objective.curriculum.first",
            )

    def __call__(self, progress: float) -> int:
        """How many sigmas the grid has at `progress` in [0, 1]."""
        span = math.ceil(PUBLISHED / math.log2(math.ceil(self.last / self.first) + 1)) / PUBLISHED
        return min(self.first * 2 ** math.ceil(round(progress / span, 9)), self.last) + 1


@dataclass(frozen=True)
class ConstantTemperature:
    """One temperature at every sigma and step. Raises UserError unless it is positive."""

    value: float = 0.1
    """Temperature of the consistency loss, above 0."""

    def __post_init__(self) -> None:
        check_temperature(self.value, "objective.temperature.value")

    def __call__(self, sigma: float, noise: NoiseRange, progress: float) -> float:
        """The temperature at the unshifted sigma."""
        return self.value


@dataclass(frozen=True)
class InterpolatedTemperature:
    """Linear in sigma from `lowest` (at sigma_min) to a top that falls from `highest` to `lowest` in the run, along a sine.

    top(progress) = lowest + (highest - lowest) (1 - sin(pi/2 progress)) (EPG, arXiv 2510.12586). Raises UserError unless both
    are positive.
    """

    lowest: float = 0.1
    """Temperature at sigma_min, above 0."""
    highest: float = 0.2
    """Temperature at sigma_max when the run begins, above 0."""

    def __post_init__(self) -> None:
        check_temperature(self.lowest, "objective.temperature.lowest")
        check_temperature(self.highest, "objective.temperature.highest")

    def top(self, progress: float) -> float:
        """The temperature at sigma_max."""
        return self.lowest + (self.highest - self.lowest) * (1 - math.sin(math.pi / 2 * min(progress, 1.0)))

    def __call__(self, sigma: float, noise: NoiseRange, progress: float) -> float:
        """The temperature at the unshifted sigma."""
        share = (sigma - noise.sigma_min) / (noise.sigma_max - noise.sigma_min)
        return self.lowest + (self.top(progress) - self.lowest) * share


def check_temperature(value: float, setting: str) -> None:
    """UserError unless it is positive and finite."""
    if not 0 < value < math.inf:
        raise UserError(f"`{setting}` must be above 0 and finite, got {value}: choose for example 0.1.", setting=setting)


Temperature = ConstantTemperature | InterpolatedTemperature


@dataclass(frozen=True)
class Lowest:
    """All views are at the lowest level, under the same noise as the teacher's (EPG, arXiv 2510.12586)."""


ViewDraw = Lowest | LogNormal
"""Distribution of the noise levels of views."""


@dataclass(frozen=True)
class RepresentationLearning:
    """The objective of stage one: contrast of views plus consistency along the noise; student and EMA are Representations."""

    noise: NoiseRange
    """Noise levels of the run."""
    curriculum: Curriculum
    """Number of sigmas whose neighbours are compared, which doubles in stages."""
    temperature: Temperature = ConstantTemperature()
    """Temperature of the consistency loss as a function of sigma and progress."""
    view_temperature: float = 0.2
    """Temperature of the loss between two views of an image, above 0."""
    one_noise: bool = False
    """Noise all images of a batch alike in the consistency term, so that no pair can be told from others by its noise."""
    view_draw: ViewDraw = Lowest()
    """Distribution of the noise levels of the student's views; those of the teacher are at the lowest level."""

    def __post_init__(self) -> None:
        check_temperature(self.view_temperature, "objective.view_temperature")

    def __call__(self, student: nn.Module, ema: nn.Module, batch: Views, progress: float) -> Losses:
        """The mean loss of this process's share; `batch` holds the clean images and two views of each."""
        noise = normal(Streams(batch.seeds, batch.images.device), batch.images.shape[1:])
        count = self.curriculum(progress)
        index = int((count - 1) * uniform(Streams([batch.seed]), (1,), torch.float64))
        high, low = self.noise.grid(count)[index : index + 2].tolist()
        contrast = self.contrast(student, ema, batch, noise)
        if self.one_noise:
            noise = normal(Streams([seed_of(batch.seed, ONE_NOISE)], noise.device), noise.shape[1:]).expand_as(noise)
        consistency = self.consistency(student, batch, noise, (high, low), self.temperature(high, self.noise, progress))
        parts = {"contrast": contrast.mean().detach(), "consistency": consistency.mean().detach()}
        return Losses((contrast + consistency).mean(), parts)

    def contrast(self, student: nn.Module, ema: nn.Module, batch: Views, noise: Tensor) -> Float[Tensor, "batch"]:
        """L_c per image: each view must find the teacher's other view, which is at sigma_min."""
        sigma = torch.full((), self.noise.sigma_min * self.noise.shift, device=noise.device)
        first, second = batch.first + sigma * noise, batch.second + sigma * noise
        with torch.no_grad():  # the teacher is in evaluation mode, so one pass over both views is the same as two
            first_target, second_target = ema(torch.cat([first, second]), sigma).projection.chunk(2)
        if isinstance(self.view_draw, LogNormal):
            # with other noise than the teacher's, which would tell a view as well as its content
            streams = Streams([seed_of(seed, VIEW_NOISE) for seed in batch.seeds], noise.device)
            sigma = self.view_draw(streams, self.noise) * self.noise.shift
            first, second = (
                view + expand(sigma, noise) * normal(streams, noise.shape[1:]) for view in (batch.first, batch.second)
            )
        forth = info_nce(student(first, sigma).projection, second_target, self.view_temperature, batch.index)
        return forth + info_nce(student(second, sigma).projection, first_target, self.view_temperature, batch.index)

    def consistency(
        self, student: nn.Module, batch: Views, noise: Tensor, pair: tuple[float, float], temperature: float
    ) -> Float[Tensor, "batch"]:
        """L_r per image: features at the first unshifted sigma of `pair` must find the same image's features at the second."""
        sigmas = [torch.full((), sigma, device=noise.device) * self.noise.shift for sigma in pair]
        noisier, cleaner = (batch.images + expand(sigma, noise) * noise for sigma in sigmas)
        queries = student(noisier, sigmas[0], project=False).cls
        with torch.no_grad():
            targets = student(cleaner, sigmas[1], project=False).cls
        return info_nce(queries, targets, temperature, batch.index)
