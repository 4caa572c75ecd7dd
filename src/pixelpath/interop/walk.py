"""A sampler as a table of numbers, which a few lines in any language follow.

Every sampler here is *linear*: the noisy image of each estimate, and the image at the end, is a weighted sum of the noises drawn
and of the estimates so far. A *row* holds the weights of one such sum; so the table is the sampler, for given sigmas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.sampling.sampler import Sampler
from pixelpath.types import Images


@dataclass(frozen=True)
class Walk:
    """For each estimate: its sigma, its guidance scale, and the row of its noisy image; the last row is that of the image.

    A row holds the weights of `noises` standard normal draws, in the order of drawing, and then those of all estimates before.
    """

    sigmas: tuple[float, ...]
    guidance: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    noises: int

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file."""
        return {"sigmas": self.sigmas, "guidance": self.guidance, "rows": self.rows, "noises": self.noises}


def walk_of(
    sampler: Sampler,
    sigmas: Float[Tensor, "sigmas"],
    guidance: float = 1.0,
    interval: tuple[float, float] = (0.0, torch.inf),
    first_std: float | None = None,
) -> Walk:
    """The table of a sampler over shifted sigmas, guided inside a shifted interval, from `first_std` times the first draw.

    `first_std` of None is that of pure noise. The sampler itself walks once, on images whose pixels are the weights. Raises
    UserError as the sampler does.
    """
    steps = len(sigmas) - 1
    first = steps + 1  # more noises are never drawn
    width, drawn = first + sampler.nfe(steps), 0
    seen: list[float] = []
    rows: list[Tensor] = []

    def unit(place: int) -> Images:
        return torch.nn.functional.one_hot(torch.tensor(place), width).double().reshape(1, width, 1, 1)

    def denoise(noisy: Images, sigma: Tensor) -> Images:
        rows.append(noisy.flatten())
        seen.append(float(sigma))
        return unit(first + len(seen) - 1)

    def noise() -> Images:
        nonlocal drawn
        drawn += 1
        return unit(drawn)

    std = sampler.cold_std(float(sigmas[0])) if first_std is None else first_std
    rows.append(sampler(denoise, std * unit(0), sigmas, noise).flatten())
    table = tuple((*row[: drawn + 1].tolist(), *row[first : first + number].tolist()) for number, row in enumerate(rows))
    low, high = interval
    return Walk(tuple(seen), tuple(guidance if low < sigma <= high else 1.0 for sigma in seen), table, drawn + 1)
