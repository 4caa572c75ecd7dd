"""Which noise levels exist, how often training visits each, and how much each counts.

A *noise range* runs from `lowest` to `highest` sigma, both given for images of 64 pixels; `shift` = pixels / 64 scales every
level for another resolution (Hoogeboom et al. 2023, "simple diffusion", arXiv 2301.11093). *Unshifted* sigmas come before it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.types import Images, Sigmas

RHO = 7.0  # curvature of the Karras grid


def seed_of(*key: int) -> int:
    """A 63-bit seed that is a function of the integers `key` alone: the same on every machine, unrelated for unequal keys."""
    text = ",".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generators(seeds: Iterable[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator per seed, so that what an image draws does not depend on the images beside it."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def normal(sources: list[torch.Generator], shape: Iterable[int]) -> Float[Tensor, "batch *shape"]:
    """Standard normal draws [batch, *shape], row i from generator i alone."""
    shape = tuple(shape)
    return torch.stack([torch.randn(shape, generator=source, device=source.device) for source in sources])


def uniform(sources: list[torch.Generator], shape: Iterable[int]) -> Float[Tensor, "batch *shape"]:
    """Draws from [0, 1) of shape [batch, *shape], row i from generator i alone."""
    shape = tuple(shape)
    return torch.stack([torch.rand(shape, generator=source, device=source.device) for source in sources])


def expand(sigma: Sigmas, images: Images) -> Tensor:
    """Sigma [batch] or [] shaped to multiply images [batch, channel, row, column], on their device and in their dtype."""
    return sigma.to(images).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class NoiseRange:
    """The levels that exist: from `lowest` to `highest` (for 64 pixels), all times `shift`.

    Raises ValueError unless 0 < lowest < highest and shift > 0.
    """

    lowest: float = 0.002
    highest: float = 80.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest or not self.shift > 0:
            raise ValueError(
                f"A noise range needs 0 < lowest < highest and shift > 0, got lowest={self.lowest}, highest={self.highest}, "
                f"shift={self.shift}: choose a smaller lowest or a larger highest."
            )

    def for_resolution(self, pixels: float) -> NoiseRange:
        """The same range for images `pixels` high (for images that are not square: the root of height x width)."""
        return replace(self, shift=pixels / 64)

    def grid(self, count: int, beyond: int = 0, dtype: torch.dtype = torch.float64) -> Float[Tensor, "levels"]:
        """The `count` unshifted levels of Karras et al. 2022 (arXiv 2206.00364, eq. 5), highest to lowest, computed in `dtype`.

        `beyond` continues the formula by so many levels below the lowest. Raises ValueError if count < 2.
        """
        if count < 2:
            raise ValueError(f"A grid needs at least 2 levels, got {count}.")
        position = torch.arange(count + beyond, dtype=dtype) / (count - 1)
        top, bottom = self.highest ** (1 / RHO), self.lowest ** (1 / RHO)
        return (top + position * (bottom - top)) ** RHO

    def steps(self, count: int, start: float | None = None) -> Float[Tensor, "levels"]:
        """The `count` + 1 shifted levels of a sampling run of `count` steps: falling from highest (or `start`), ending in 0.

        `start` is a shifted sigma, at most the highest of the range: the grid is built anew between it and the lowest level.
        Raises ValueError if count < 1 or `start` is outside the range.
        """
        if count < 1:
            raise ValueError(f"A sampling run needs at least 1 step, got {count}.")
        below = self._below(start)
        levels = below.grid(count) if count > 1 else torch.tensor([below.highest], dtype=torch.float64)
        return torch.cat([levels * self.shift, levels.new_zeros(1)])

    def visits(self, count: int, start: float | None = None) -> Float[Tensor, "levels"]:
        """The shifted levels of `count` estimates under fresh noise: those of the grid of count + 1 but its lowest, then 0.

        A last estimate at the lowest level itself, as in `steps`, would change nothing. `start` and errors are as in `steps`.
        """
        if count < 1:
            raise ValueError(f"A sampling run needs at least 1 step, got {count}.")
        levels = self._below(start).grid(count + 1) * self.shift
        return torch.cat([levels[:-1], levels.new_zeros(1)])

    def _below(self, start: float | None) -> NoiseRange:
        """This range, or its part below the shifted sigma `start`."""
        highest = self.highest if start is None else start / self.shift
        if not self.lowest < highest <= self.highest * (1 + 1e-9):
            low, high = self.lowest * self.shift, self.highest * self.shift
            raise ValueError(f"Sampling cannot start at sigma {start}: this range runs from {low:g} to {high:g}.")
        return replace(self, highest=highest)

    def nearest(self, sigma: Float[Tensor, "batch"], count: int) -> Int[Tensor, "batch"]:
        """The index, on the grid of `count` levels, of the level closest to each unshifted sigma."""
        grid = self.grid(count).to(sigma)
        after = torch.searchsorted(-grid, -sigma).clamp(1, count - 1)
        closer_before = (grid[after - 1] - sigma) <= (sigma - grid[after])
        return torch.where(closer_before, after - 1, after)


@dataclass(frozen=True)
class LogNormal:
    """Draws ln sigma ~ N(mean, deviation^2), unshifted (Karras et al. 2022, arXiv 2206.00364, table 1), held inside the range.

    Raises ValueError unless the mean is finite and the deviation positive.
    """

    mean: float = -1.2
    deviation: float = 1.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.deviation < math.inf):
            raise ValueError(
                f"Logarithms of levels are drawn around a finite mean with a positive deviation, got {self.mean} and "
                f"{self.deviation}: choose another --objective.draw.mean or --objective.draw.deviation."
            )

    def __call__(self, sources: list[torch.Generator], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch]."""
        sigma = torch.exp(self.mean + self.deviation * normal(sources, ()))
        return sigma.clamp(noise.lowest, noise.highest)

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted level inside the range."""
        return math.erfc((self.mean - math.log(sigma)) / (self.deviation * math.sqrt(2))) / 2


@dataclass(frozen=True)
class GridLogNormal:
    """As LogNormal, then moved to the nearest of the `count` levels of the grid (Lei et al. 2025, EPG, arXiv 2510.12586)."""

    mean: float = -1.2
    deviation: float = 1.6
    count: int = 1280

    def __post_init__(self) -> None:
        LogNormal(self.mean, self.deviation)

    def __call__(self, sources: list[torch.Generator], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch], each a level of `noise.grid(count)`."""
        sigma = LogNormal(self.mean, self.deviation)(sources, noise)
        return noise.grid(self.count).to(sigma)[noise.nearest(sigma, self.count)]

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted level inside the range, before they are moved."""
        return LogNormal(self.mean, self.deviation).below(sigma)


@dataclass(frozen=True)
class LogUniform:
    """Draws ln sigma evenly between two unshifted levels: every octave of noise is visited equally often.

    Raises ValueError unless 0 < lowest < highest.
    """

    lowest: float = 0.002
    highest: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < math.inf:
            raise ValueError(
                f"Levels are drawn between a positive one and a higher one, got {self.lowest} and {self.highest}: choose another "
                f"--objective.draw.lowest or --objective.draw.highest."
            )

    def __call__(self, sources: list[torch.Generator], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch]."""
        low, high = math.log(self.lowest), math.log(self.highest)
        return torch.exp(low + (high - low) * uniform(sources, ())).clamp(noise.lowest, noise.highest)

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted level inside the range."""
        return min(1.0, max(0.0, math.log(sigma / self.lowest) / math.log(self.highest / self.lowest)))


Draw = LogNormal | GridLogNormal | LogUniform


@dataclass(frozen=True)
class GridWeight:
    """The reference's weight 1 / (sigma_i - sigma_(i+1)), of neighbours on the unshifted grid of `count` (EPG, arXiv 2510.12586).

    The neighbour of the lowest level is the one that the grid would have next.
    """

    count: int = 1280

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of unshifted sigmas."""
        # In float32, as the reference has it: neighbours nearly cancel, which moves the weights by up to 2e-4.
        grid = noise.grid(self.count, beyond=1, dtype=torch.float32)
        return (1 / (grid[:-1] - grid[1:])).to(sigma)[noise.nearest(sigma, self.count)]


@dataclass(frozen=True)
class EDMWeight:
    """(s^2 + sigma_data^2) / (s sigma_data)^2 of shifted sigma s, up to `limit` (Karras et al. 2022, arXiv 2206.00364, table 1).

    It gives every level the same loss at the start of training; the limit spares the lowest levels their enormous weight.
    """

    sigma_data: float = 0.5
    limit: float = math.inf

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of unshifted sigmas."""
        shifted = sigma * noise.shift
        return ((shifted**2 + self.sigma_data**2) / (shifted * self.sigma_data) ** 2).clamp(max=self.limit)


@dataclass(frozen=True)
class FlatWeight:
    """Weight 1 at every level: with LogUniform draws the squared error counts equally in every octave of sigma."""

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Ones [batch]."""
        return torch.ones_like(sigma)


Weight = GridWeight | EDMWeight | FlatWeight


def _below(
    sigma: Float[Tensor, "batch"], noise: NoiseRange, share: float, widening: float, steepness: float
) -> Float[Tensor, "batch"]:
    """max(lowest, sigma (1 - share (1 + widening sigmoid(-steepness sigma)))): the gap's share of sigma grows at low levels."""
    return (sigma * (1 - share * (1 + widening * torch.sigmoid(-steepness * sigma)))).clamp_min(noise.lowest)


@dataclass(frozen=True)
class StagedGap:
    """r = max(lowest, t (1 - base^-stage (1 + k sigmoid(-b t)))), the level with which consistency training pairs a level t.

    From Geng et al. 2024, "Consistency models made easy", arXiv 2406.14548; k is `widening`, b is `steepness`, t and r
    unshifted. The run has `stages` stages of equal length, the first of number `first`: stage = first + floor(stages step /
    total), and the last one stays. In a stage 0 every level is paired with the lowest, which is plain denoising. A total of 0
    stands for the length of the run, which a recipe fills in; total = 700,000 with 7 stages is EPG's schedule (arXiv
    2510.12586). Raises ValueError unless base > 1, first >= 0 and stages >= 1.
    """

    total: int = 0
    stages: int = 7
    first: int = 1
    base: float = 2.0
    widening: float = 8.0
    steepness: float = 1.0

    def __post_init__(self) -> None:
        if not self.base > 1 or self.first < 0 or self.stages < 1 or self.total < 0 or not 0 <= self.widening < math.inf:
            raise ValueError(f"A gap needs base > 1, first >= 0, stages >= 1, total >= 0 and widening >= 0, got {self}.")

    @property
    def narrowest(self) -> float:
        """The last gap's share of its level, but for the widening at low ones."""
        return self.base ** -(self.first + self.stages - 1)

    def stage(self, step: int) -> int:
        """The number of the stage at `step`, counted from 0."""
        return self.first + min(_known(self.total, step) * self.stages // self.total, self.stages - 1)

    def denoises(self, step: int) -> bool:
        """Whether `step` lies in a stage 0, where the target is the clean image."""
        return self.stage(step) == 0

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange, step: int) -> Float[Tensor, "batch"]:
        """The unshifted levels [batch], from the lowest to sigma, that the unshifted levels `sigma` are paired with."""
        return _below(sigma, noise, self.base ** -self.stage(step), self.widening, self.steepness)


@dataclass(frozen=True)
class SmoothGap:
    """As StagedGap, but the exponent of the base rises evenly, from `first` at the start to `last` at `total`, without jumps."""

    total: int = 0
    first: float = 1.0
    last: float = 8.0
    base: float = 2.0
    widening: float = 8.0
    steepness: float = 1.0

    def __post_init__(self) -> None:
        if not self.base > 1 or not 0 <= self.first <= self.last or self.total < 0 or not 0 <= self.widening < math.inf:
            raise ValueError(f"A gap needs base > 1, 0 <= first <= last, total >= 0 and widening >= 0, got {self}.")

    @property
    def narrowest(self) -> float:
        """The last gap's share of its level, but for the widening at low ones."""
        return self.base**-self.last

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange, step: int) -> Float[Tensor, "batch"]:
        """The unshifted levels [batch], from the lowest to sigma, that the unshifted levels `sigma` are paired with."""
        exponent = self.first + (self.last - self.first) * min(_known(self.total, step) / self.total, 1.0)
        return _below(sigma, noise, self.base**-exponent, self.widening, self.steepness)

    def denoises(self, step: int) -> bool:
        """Never: there is no stage 0."""
        return False


def _known(total: int, step: int) -> int:
    """The step; ValueError if the length of the run is not known."""
    if total == 0:
        raise ValueError("This gap does not know the length of its run: give it a total, or close its recipe with for_data.")
    return step


Gap = StagedGap | SmoothGap


@dataclass(frozen=True)
class InverseGap:
    """1 / (t - r), shifted (Geng et al. 2024, arXiv 2406.14548): the slope of the estimate along sigma is what counts."""

    def __call__(self, sigma: Float[Tensor, "batch"], lower: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of pairs of unshifted levels; 0 where the two are one."""
        return _ratio(torch.ones_like(sigma), (sigma - lower) * noise.shift)


@dataclass(frozen=True)
class RelativeGap:
    """t / (t - r): the slope of the estimate along ln sigma is what counts, so that every octave of noise counts alike."""

    def __call__(self, sigma: Float[Tensor, "batch"], lower: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of pairs of unshifted levels; 0 where the two are one."""
        return _ratio(sigma, sigma - lower)


def _ratio(numerator: Tensor, gap: Tensor) -> Tensor:
    """numerator / gap, and 0 where the gap is none."""
    return torch.where(gap > 0, numerator / gap, torch.zeros_like(gap))


PairWeight = InverseGap | RelativeGap
