"""How images are sampled: by which sampler, over which sigmas, under what guidance.

The sigmas of a `Sampling` are those that a sampler walks: noise levels in model range, where the std of the data is 0.5. Only
the interval of guidance is *unshifted* (for 64 pixels), as the noise range of a recipe is.
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
from pixelpath.noise import DATA_STD, RHO, NoiseRange
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

    def sigmas(self, noise: NoiseRange, steps: int, start: float | None = None, rho: float = RHO) -> Float[Tensor, "levels"]:
        """The shifted sigmas of `steps` steps from the highest (or from `start`, shifted) to 0."""
        return (noise.consistency_sigmas if self is Sampler.CONSISTENCY else noise.sigmas)(steps, start, rho)

    def cold_std(self, sigma: float) -> float:
        """The std of the noise that sampling begins with at sigma: sqrt(sigma^2 + 0.5^2), that of noised images.

        Consistency models are given noise of std sigma, as published (Song et al. 2023, arXiv 2303.01469, algorithm 1).
        """
        return sigma if self is Sampler.CONSISTENCY else math.hypot(sigma, DATA_STD)


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
    """Sigmas (in model range, std of the data 0.5) to visit between the first one and 0, instead of steps."""
    guide_with: Path | None = None
    """Guide against another, weaker run (autoguidance) instead of against the same model without label."""
    start: Path | None = None
    """Begin at a start that `pixelpath start fit RUN` wrote, at its sigma, instead of at pure noise."""
    sigma_max: float | None = None
    """First sigma of sampling from pure noise (in model range, std of the data 0.5); images must be hidden at it. Default: 80 for
    64 pixels, 40 for 32, if the run's noise range reaches so far; a one-step model begins at its highest sigma."""
    rho: float | None = None
    """Curvature of the sigmas of a number of steps, at least 1: a higher one puts more of them at low noise. Default: 7."""

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
        if self.sigma_max is not None and not 0 < self.sigma_max < math.inf:
            raise UserError(f"`sigma_max` must be above 0 and finite, got {self.sigma_max}.", setting="sigma_max")
        if self.rho is not None and not 1 <= self.rho <= MOST_RHO:
            raise UserError(f"`rho` must be from 1 to {MOST_RHO}, got {self.rho}: choose for example 7.", setting="rho")
        for one, two, of in (("sigma_max", "start", "the first sigma"), ("rho", "sigmas", "all sigmas")):
            if vars(self)[one] is not None and vars(self)[two] is not None:
                raise UserError(f"`{two}` says {of} already: omit `{one}`.", setting=one)

    def over(self, other: Sampling) -> Sampling:
        """These choices, and those of the other one where this one has none; what these choices rule out is not taken over."""
        own = {field.name: vars(self)[field.name] for field in fields(self) if vars(self)[field.name] is not None}
        for group in (LENGTHS, ("rho", "sigmas"), ("start", "sigma_max")):
            if any(name in own for name in group):
                other = replace(other, **dict.fromkeys(group))
        return replace(other, **own)

    def schedule(self, noise: NoiseRange, start: float | None = None) -> Float[Tensor, "sigmas"]:
        """The shifted sigmas, falling from the first one (`sigma_max`, or `start`, shifted) to 0 (float64).

        Everything must be chosen (`over`). Raises UserError if chosen sigmas do not fall within the range.
        """
        assert self.sampler is not None
        low, high = noise.sigma_min * noise.shift, noise.sigma_max * noise.shift
        if self.sigma_max is not None and not low < self.sigma_max <= high * (1 + 1e-9):
            raise UserError(
                f"`sigma_max` must lie in the noise range of the run, {low:g} to {high:g}, got {self.sigma_max:g}.", "sigma_max"
            )
        first = start or self.sigma_max or high
        if self.sigmas is None:
            return self.sampler.sigmas(noise, self.count, first, self.rho or RHO)
        given = (first, *self.sigmas)
        if any(not below < sigma for sigma, below in pairwise(given)) or given[-1] < low * (1 - 1e-9):  # a grid's own is rounded
            raise UserError(f"`sigmas` must fall from below {first:g} to {low:g} or above, got {self.sigmas}.", setting="sigmas")
        return torch.tensor([first, *self.sigmas, 0.0], dtype=torch.float64)

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


def hidden(noise: NoiseRange) -> float:
    """The shifted sigma at which images are just hidden: 80 for 64 pixels, or the highest of the range if that is lower.

    The divergence of N(0, sigma^2 + 0.5^2) from the noised data is about the squared size of what their covariance holds beyond
    0.5^2, divided by 4 sigma^4, and large parts of images are alike, so that it grows with the pixels as the shift does.
    """
    return min(HIDDEN, noise.sigma_max) * noise.shift


LENGTHS = ("steps", "nfe", "sigmas")
MOST_STEPS = 100_000
MOST_RHO = 100
HIDDEN = 80.0


def usual(one_step: bool) -> Sampling:
    """The default: one step of a consistency model, 12 of DPM-Solver++(2M) of any other."""
    if one_step:
        return Sampling(1, 1.0, (0.0, math.inf), sampler=Sampler.CONSISTENCY)
    return Sampling(12, 1.5, (0.0, math.inf), sampler=Sampler.DPMPP_2M)
