"""Which noise levels exist, how often training visits each, and how much each counts.

A *noise range* runs from `sigma_min` to `sigma_max`, both given for images of 64 pixels. Its `shift` = pixels / 64 scales every
sigma for another resolution (Hoogeboom et al. 2023, "simple diffusion", arXiv 2301.11093). *Unshifted* sigmas come before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, uniform
from pixelpath.types import Images, Sigmas

RHO = 7.0  # curvature of the Karras grid
DATA_STD = 0.5  # of images in model range


def expand(sigma: Sigmas, images: Images) -> Tensor:
    """Sigma [batch] or [] shaped to multiply images [batch, channel, row, column], on their device and in their dtype."""
    return sigma.to(images).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class NoiseRange:
    """The sigmas that exist: from `sigma_min` to `sigma_max` (for 64 pixels), all times `shift`.

    Raises UserError unless 0 < sigma_min < sigma_max < infinity and shift > 0.

    Examples:
        >>> [round(sigma, 3) for sigma in NoiseRange(0.002, 80).sigmas(4).tolist()]
        [80.0, 9.723, 0.47, 0.002, 0.0]
    """

    sigma_min: float = 0.002
    """Lowest noise level, above 0, for images of 64 pixels."""
    sigma_max: float = 80.0
    """Highest noise level, for images of 64 pixels. At it an image must be invisible: 80 for values of std 0.5."""
    shift: float = 1.0
    """Factor of every sigma: pixels / 64. A recipe sets it from the size of the images."""

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max, "objective.noise")
        if not 0 < self.shift < math.inf:
            raise UserError(f"The shift of a noise range must be above 0 and finite, got {self.shift}.", setting="shift")

    def for_resolution(self, pixels: float) -> NoiseRange:
        """The same range for images `pixels` high (for images that are not square: the root of height x width)."""
        return replace(self, shift=pixels / 64)

    def grid(self, count: int, beyond: int = 0, dtype: torch.dtype = torch.float64, rho: float = RHO) -> Float[Tensor, "levels"]:
        """The `count` unshifted sigmas of Karras et al. 2022 (arXiv 2206.00364, eq. 5), falling, computed in `dtype`.

        `beyond` continues the formula by that many sigmas below the lowest. A higher `rho` puts more of them at low sigmas.
        Raises UserError if count < 2.
        """
        if count < 2:
            raise UserError(f"A grid needs at least 2 levels, got {count}.")
        position = torch.arange(count + beyond, dtype=dtype) / (count - 1)
        top, bottom = self.sigma_max ** (1 / rho), self.sigma_min ** (1 / rho)
        return (top + position * (bottom - top)) ** rho

    def sigmas(self, count: int, start: float | None = None, rho: float = RHO) -> Float[Tensor, "levels"]:
        """The `count` + 1 shifted sigmas of `count` sampling steps: they fall from sigma_max (or `start`) and end in 0.

        `start` is a shifted sigma in the range. The grid of `rho` is then built between it and sigma_min. Raises UserError if
        count < 1 or `start` is outside the range.
        """
        _check_count(count)
        below = self._below(start)
        levels = below.grid(count, rho=rho) if count > 1 else torch.tensor([below.sigma_max], dtype=torch.float64)
        return torch.cat([levels * self.shift, levels.new_zeros(1)])

    def consistency_sigmas(self, count: int, start: float | None = None, rho: float = RHO) -> Float[Tensor, "levels"]:
        """The shifted sigmas of `count` steps of the consistency sampler: the grid of count + 1 without its lowest, then 0.

        A last estimate at sigma_min would change nothing. `start`, `rho` and errors are as in `sigmas`.
        """
        _check_count(count)
        levels = self._below(start).grid(count + 1, rho=rho) * self.shift
        return torch.cat([levels[:-1], levels.new_zeros(1)])

    def _below(self, start: float | None) -> NoiseRange:
        """This range, or its part below the shifted sigma `start`."""
        sigma_max = self.sigma_max if start is None else start / self.shift
        if not self.sigma_min < sigma_max <= self.sigma_max * (1 + 1e-9):
            low, high = self.sigma_min * self.shift, self.sigma_max * self.shift
            raise UserError(f"Sampling cannot start at sigma {start}: this range runs from {low:g} to {high:g}.", "start")
        return replace(self, sigma_max=sigma_max)

    def nearest(self, sigma: Float[Tensor, "batch"], count: int) -> Int[Tensor, "batch"]:
        """The index, on the grid of `count` sigmas, of the one closest to each unshifted sigma."""
        grid = _grid_like(self, count, sigma.dtype, sigma.device)
        after = torch.searchsorted(-grid, -sigma).clamp(1, count - 1)
        closer_before = (grid[after - 1] - sigma) <= (sigma - grid[after])
        return torch.where(closer_before, after - 1, after)


@lru_cache(maxsize=64)
def _grid_like(noise: NoiseRange, count: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "levels"]:
    """The grid in a dtype on a device, made once; not to be written to."""
    return noise.grid(count).to(dtype).to(device)


@lru_cache(maxsize=64)
def _weights_like(noise: NoiseRange, count: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "levels"]:
    """The weight of every sigma of the grid, likewise."""
    # In float32, as the reference has it: neighbours nearly cancel, which moves the weights by up to 2e-4.
    grid = noise.grid(count, beyond=1, dtype=torch.float32)
    return (1 / (grid[:-1] - grid[1:])).to(dtype).to(device)


def _check_range(low: float, high: float, of: str) -> None:
    if not 0 < low < high < math.inf:
        raise UserError(
            f"`{of}.sigma_min` must be above 0 and below `{of}.sigma_max`, got {low} and {high}: change one of them.",
            setting=f"{of}.sigma_min",
        )


def _check_count(steps: int) -> None:
    if steps < 1:
        raise UserError(f"Sampling needs at least 1 step, got {steps}.", setting="steps")


@dataclass(frozen=True)
class LogNormal:
    """Draws ln sigma ~ N(p_mean, p_std^2), unshifted, clamped to the range (Karras et al. 2022, arXiv 2206.00364, table 1).

    Raises UserError unless p_mean is finite and p_std positive and finite.
    """

    p_mean: float = -1.2
    """Mean of ln sigma (sigma for 64 pixels)."""
    p_std: float = 1.2
    """Std of ln sigma, above 0."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.p_mean):
            raise UserError(f"`objective.draw.p_mean` must be finite, got {self.p_mean}.", setting="objective.draw.p_mean")
        if not 0 < self.p_std < math.inf:
            raise UserError(
                f"`objective.draw.p_std` must be above 0 and finite, got {self.p_std}: choose for example 1.2.",
                setting="objective.draw.p_std",
            )

    def __call__(self, streams: Streams, noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch]."""
        sigma = torch.exp(self.p_mean + self.p_std * normal(streams, ()))
        return sigma.clamp(noise.sigma_min, noise.sigma_max)

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted sigma inside the range."""
        return math.erfc((self.p_mean - math.log(sigma)) / (self.p_std * math.sqrt(2))) / 2


@dataclass(frozen=True)
class GridLogNormal:
    """As LogNormal, then moved to the nearest of the `count` sigmas of the grid (Lei et al. 2025, EPG, arXiv 2510.12586)."""

    p_mean: float = -1.2
    """Mean of ln sigma (sigma for 64 pixels)."""
    p_std: float = 1.6
    """Std of ln sigma, above 0."""
    count: int = 1280
    """Sigmas of the grid, at least 2."""

    def __post_init__(self) -> None:
        LogNormal(self.p_mean, self.p_std)
        _check_grid(self.count, "objective.draw.count")

    def __call__(self, streams: Streams, noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch], each one of `noise.grid(count)`."""
        sigma = LogNormal(self.p_mean, self.p_std)(streams, noise)
        return _grid_like(noise, self.count, sigma.dtype, sigma.device)[noise.nearest(sigma, self.count)]

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted sigma inside the range, before they are moved."""
        return LogNormal(self.p_mean, self.p_std).below(sigma)


@dataclass(frozen=True)
class LogUniform:
    """Draws ln sigma evenly between two unshifted sigmas: every octave of noise is visited equally often.

    Raises UserError unless 0 < sigma_min < sigma_max < infinity.
    """

    sigma_min: float = 0.002
    """Lowest sigma drawn, above 0, for 64 pixels."""
    sigma_max: float = 80.0
    """Highest sigma drawn, for 64 pixels."""

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max, "objective.draw")

    def __call__(self, streams: Streams, noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Unshifted sigmas [batch]."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return torch.exp(low + (high - low) * uniform(streams, ())).clamp(noise.sigma_min, noise.sigma_max)

    def below(self, sigma: float) -> float:
        """The share of draws below an unshifted sigma inside the range."""
        return min(1.0, max(0.0, math.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)))


Draw = LogNormal | GridLogNormal | LogUniform


def _check_grid(count: int, setting: str) -> None:
    if count < 2:
        raise UserError(f"`{setting}` must be at least 2, got {count}.", setting=setting)


@dataclass(frozen=True)
class GridWeight:
    """The published weight 1 / (sigma_i - sigma_(i+1)) of neighbours on the unshifted grid of `count` (EPG, arXiv 2510.12586).

    The neighbour of the lowest sigma is the next one by the formula of the grid.
    """

    count: int = 1280
    """Sigmas of the grid, at least 2."""

    def __post_init__(self) -> None:
        _check_grid(self.count, "objective.weight.count")

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of unshifted sigmas."""
        return _weights_like(noise, self.count, sigma.dtype, sigma.device)[noise.nearest(sigma, self.count)]


@dataclass(frozen=True)
class EDMWeight:
    """(s^2 + sigma_data^2) / (s sigma_data)^2 of shifted sigma s, up to `limit` (Karras et al. 2022, arXiv 2206.00364, table 1).

    Every sigma then has the same loss at the start of training. The limit bounds the weight of the lowest sigmas.
    """

    sigma_data: float = 0.5
    """Std of the images in model range, above 0."""
    limit: float = math.inf
    """Largest weight."""

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Weights [batch] of unshifted sigmas."""
        shifted = sigma * noise.shift
        return ((shifted**2 + self.sigma_data**2) / (shifted * self.sigma_data) ** 2).clamp(max=self.limit)


@dataclass(frozen=True)
class FlatWeight:
    """Weight 1 at every sigma: with LogUniform draws the squared error counts equally in every octave of noise."""

    def __call__(self, sigma: Float[Tensor, "batch"], noise: NoiseRange) -> Float[Tensor, "batch"]:
        """Ones [batch]."""
        return torch.ones_like(sigma)


Weight = GridWeight | EDMWeight | FlatWeight
