"""How images are sampled: by which sampler, over which sigmas, under what guidance.

Sigmas that a user chooses are *unshifted* (for 64 pixels), as everywhere in a recipe; those that a sampler walks are shifted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import Enum
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.sampling.guidance import check_interval
from pixelpath.sampling.samplers import consistency, dpmpp_2m, euler, euler_ancestral, heun, heun_stochastic
from pixelpath.types import Denoise, Images, Noise

Walk = Callable[[Denoise, Images, Tensor, Noise], Images]


class Sampler(Enum):
    """A sampler of `pixelpath.sampling.samplers`; call it as (denoise, x, sigmas, noise), whether it uses noise or not."""

    HEUN = "heun"
    EULER = "euler"
    HEUN_STOCHASTIC = "heun_stochastic"
    EULER_ANCESTRAL = "euler_ancestral"
    DPMPP_2M = "dpmpp_2m"
    CONSISTENCY = "consistency"

    def __call__(self, denoise: Denoise, x: Images, sigmas: Tensor, noise: Noise) -> Images:
        """Images at the last of the sigmas, from x at the first."""
        return _WALKS[self](denoise, x, sigmas, noise)

    def nfe(self, steps: int) -> int:
        """How often `steps` steps to 0 evaluate the denoiser: 2 steps - 1 for Heun's method, else steps."""
        return 2 * steps - 1 if self in _TWICE else steps

    def steps_for(self, nfe: int) -> int:
        """The steps that evaluate the denoiser `nfe` times; UserError for an even number with Heun's method."""
        steps = (nfe + 1) // 2 if self in _TWICE else nfe
        if nfe < 1 or self.nfe(steps) != nfe:
            rule = "takes an odd number, 2 steps - 1" if self in _TWICE else "takes at least 1"
            raise UserError(f"`nfe` is {nfe}, but {self.value} {rule}: choose another.", setting="nfe")
        return steps

    def sigmas(self, noise: NoiseRange, steps: int, start: float | None = None) -> Float[Tensor, "levels"]:
        """The shifted sigmas of `steps` steps from the highest (or from `start`, shifted) to 0."""
        return noise.consistency_sigmas(steps, start) if self is Sampler.CONSISTENCY else noise.sigmas(steps, start)


_TWICE = {Sampler.HEUN, Sampler.HEUN_STOCHASTIC}
_WALKS: dict[Sampler, Walk] = {
    Sampler.HEUN: lambda denoise, x, sigmas, noise: heun(denoise, x, sigmas),
    Sampler.EULER: lambda denoise, x, sigmas, noise: euler(denoise, x, sigmas),
    Sampler.HEUN_STOCHASTIC: heun_stochastic,
    Sampler.EULER_ANCESTRAL: euler_ancestral,
    Sampler.DPMPP_2M: lambda denoise, x, sigmas, noise: dpmpp_2m(denoise, x, sigmas),
    Sampler.CONSISTENCY: consistency,
}


@dataclass(frozen=True)
class Sampling:
    """How images are sampled. Another `Sampling` makes the choices that are None, and finally `usual` does.

    Raises UserError for numbers that cannot be, and for more than one of steps, nfe and sigmas.
    """

    steps: int | None = None
    """Steps of the sampler."""
    guidance: float | None = None
    """Guidance scale; 1 is no guidance. Without classes (or `guide_with`) there is no guidance."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only where the first < sigma <= the second (sigmas for 64 pixels)."""
    nfe: int | None = None
    """Network evaluations (NFE) of the sampler, instead of steps; guidance doubles their cost."""
    sampler: Sampler | None = None
    """Sampler. Heun's methods evaluate the network twice a step, the others once."""
    sigmas: tuple[float, ...] | None = None
    """Sigmas (for 64 pixels) to visit between the highest one and 0, instead of steps."""
    guide_with: Path | None = None
    """Guide against another, weaker run (autoguidance) instead of against the same model without label."""
    start: Path | None = None
    """Begin at a start that `pixelpath start fit RUN` wrote, at its sigma, instead of at pure noise."""

    def __post_init__(self) -> None:
        lengths = [name for name in LENGTHS if vars(self)[name] is not None]
        if self.sampler is not None and not isinstance(self.sampler, Sampler):
            names = ", ".join(each.name for each in Sampler)
            raise UserError(f"`sampler` must be a pixelpath.sampling.Sampler ({names}), got {self.sampler!r}.", "sampler")
        if len(lengths) > 1:
            raise UserError(f"`{lengths[0]}` and `{lengths[1]}` both say how many steps to take: give one.", lengths[0])
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise UserError(f"`steps` must be from 1 to {MOST_STEPS:,}, got {self.steps}.", setting="steps")
        if self.nfe is not None and not 1 <= self.nfe <= 2 * MOST_STEPS:
            raise UserError(f"`nfe` must be from 1 to {2 * MOST_STEPS:,}, got {self.nfe}.", setting="nfe")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise UserError(f"`guidance` must be finite, got {self.guidance}: 1 is no guidance.", setting="guidance")
        if self.guidance_interval is not None:
            check_interval(*self.guidance_interval)

    def over(self, other: Sampling) -> Sampling:
        """These choices, and those of the other one where this one has none; of steps, nfe and sigmas one is kept."""
        own = {field.name: vars(self)[field.name] for field in fields(self) if vars(self)[field.name] is not None}
        if any(name in own for name in LENGTHS):
            other = replace(other, steps=None, nfe=None, sigmas=None)
        return replace(other, **own)

    def schedule(self, noise: NoiseRange, start: float | None = None) -> Float[Tensor, "sigmas"]:
        """The shifted sigmas, falling from the highest of the range (or from `start`, shifted) to 0 (float64).

        Everything must be chosen (`over`). Raises UserError if chosen sigmas do not fall within the range.
        """
        assert self.sampler is not None
        if self.sigmas is not None:
            top = noise.sigma_max if start is None else start / noise.shift
            if any(not below < sigma for sigma, below in pairwise((top, *self.sigmas, noise.sigma_min))):
                raise UserError(
                    f"`sigmas` must fall strictly between {top:g} and {noise.sigma_min:g}, got {self.sigmas}.", setting="sigmas"
                )
            return torch.tensor([top, *self.sigmas, 0.0], dtype=torch.float64) * noise.shift
        return self.sampler.sigmas(noise, self.count, start)

    @property
    def count(self) -> int:
        """How many steps are taken."""
        assert self.sampler is not None
        if self.sigmas is not None:
            return len(self.sigmas) + 1
        if self.nfe is not None:
            return self.sampler.steps_for(self.nfe)
        assert self.steps is not None
        return self.steps


LENGTHS = ("steps", "nfe", "sigmas")
MOST_STEPS = 100_000


def usual(one_step: bool) -> Sampling:
    """The default: one step of a consistency model, 32 steps of Heun's method of any other."""
    if one_step:
        return Sampling(1, 1.0, (0.0, math.inf), sampler=Sampler.CONSISTENCY)
    return Sampling(32, 1.5, (0.0, math.inf), sampler=Sampler.HEUN)
