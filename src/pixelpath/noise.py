"""Which noise levels exist, how often training visits each, and how much each counts.

A *noise range* runs from `lowest` to `highest` sigma, both given for images of 64 pixels; `shift` = pixels / 64 scales every
level for another resolution (Hoogeboom et al. 2023, "simple diffusion", arXiv 2301.11093). *Unshifted* sigmas come before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.randomness import normal, uniform
from pixelpath.types import Images, Sigmas

RHO = 7.0  # curvature of the Karras grid


def expand(sigma: Sigmas, images: Images) -> Tensor:
    """Sigma [batch] or [] shaped to multiply images [batch, channel, row, column], on their device and in their dtype."""
    return sigma.to(images).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class NoiseRange:
    """The levels that exist: from `lowest` to `highest` (for 64 pixels), all times `shift`.

    Raises ValueError unless 0 < lowest < highest and shift > 0.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max or not self.shift > 0:
            raise ValueError(
                f"A noise range needs 0 < lowest < highest and shift > 0, got lowest={self.sigma_min}, highest={self.sigma_max}, "
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
        top, bottom = self.sigma_max ** (1 / RHO), self.sigma_min ** (1 / RHO)
        return (top + position * (bottom - top)) ** RHO

    def sigmas(self, count: int, start: float | None = None) -> Float[Tensor, "levels"]:
        """The `count` + 1 shifted levels of a sampling run of `count` steps: falling from highest (or `start`), ending in 0.

        `start` is a shifted sigma, at most the highest of the range: the grid is built anew between it and the lowest level.
        Raises ValueError if count < 1 or `start` is outside the range.
        """
        if count < 1:
            raise ValueError(f"A sampling run needs at least 1 step, got {count}.")
        below = self._below(start)
        levels = below.grid(count) if count > 1 else torch.tensor([below.sigma_max], dtype=torch.float64)
        return torch.cat([levels * self.shift, levels.new_zeros(1)])

    def consistency_sigmas(self, count: int, start: float | None = None) -> Float[Tensor, "levels"]:
        """The shifted levels of `count` estimates under fresh noise: those of the grid of count + 1 but its lowest, then 0.

        A last estimate at the lowest level itself, as in `steps`, would change nothing. `start` and errors are as in `steps`.
        """
        if count < 1:
            raise ValueError(f"A sampling run needs at least 1 step, got {count}.")
        levels = self._below(start).grid(count + 1) * self.shift
        return torch.cat([levels[:-1], levels.new_zeros(1)])

    def _below(self, start: float | None) -> NoiseRange:
        """This range, or its part below the shifted sigma `start`."""
        sigma_max = self.sigma_max if start is None else start / self.shift
        if not self.sigma_min < sigma_max <= self.sigma_max * (1 + 1e-9):
            low, high = self.sigma_min * self.shift, self.sigma_max * self.shift
            raise ValueError(f"Sampling cannot start at sigma {start}: this range runs from {low:g} to {high:g}.")
        return replace(self, sigma_max=sigma_max)

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

    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.p_mean) and 0 < self.p_std < math.inf):
            raise ValueError(
                f"Logarithms of levels are drawn around a finite mean with a positive deviation, got {self.p_mean} and "
                f"{self.p_std}: choose another --objective.draw.p-mean or --objective.draw.p-std."
            )

    def __call__(self, sources: list[torch.Generator], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch]."""
        sigma = torch.exp(self.p_mean + self.p_std * normal(sources, ()))
        return sigma.clamp(noise.sigma_min, noise.sigma_max)

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted level inside the range."""
        return math.erfc((self.p_mean - math.log(sigma)) / (self.p_std * math.sqrt(2))) / 2


@dataclass(frozen=True)
class GridLogNormal:
    """As LogNormal, then moved to the nearest of the `count` levels of the grid (Lei et al. 2025, EPG, arXiv 2510.12586)."""

    p_mean: float = -1.2
    p_std: float = 1.6
    count: int = 1280

    def __post_init__(self) -> None:
        LogNormal(self.p_mean, self.p_std)

    def __call__(self, sources: list[torch.Generator], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch], each a level of `noise.grid(count)`."""
        sigma = LogNormal(self.p_mean, self.p_std)(sources, noise)
        return noise.grid(self.count).to(sigma)[noise.nearest(sigma, self.count)]

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted level inside the range, before they are moved."""
        return LogNormal(self.p_mean, self.p_std).below(sigma)


@dataclass(frozen=True)
class LogUniform:
    """Draws ln sigma evenly between two unshifted levels: every octave of noise is visited equally often.

    Raises ValueError unless 0 < lowest < highest.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"Levels are drawn between a positive one and a higher one, got {self.sigma_min} and {self.sigma_max}: choose another "
                f"--objective.draw.sigma-min or --objective.draw.sigma-max."
            )

    def __call__(self, sources: list[torch.Generator], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch]."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return torch.exp(low + (high - low) * uniform(sources, ())).clamp(noise.sigma_min, noise.sigma_max)

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted level inside the range."""
        return min(1.0, max(0.0, math.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)))


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
