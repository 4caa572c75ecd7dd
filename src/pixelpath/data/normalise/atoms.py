"""Values that a large share of a channel has exactly, kept apart from the others.

An *atom* is such a value: rain's zero, or alpha's transparent and opaque. A *hurdle* is the gap between an atom and the values
above it, a *ceiling* that between an atom and the values below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pixelpath.data.normalise.curves import Transform
from pixelpath.errors import UserError


@dataclass(frozen=True)
class Hurdle:
    """The atom `value` lies `gap`, a distance in model range, below `above`, the smallest value of the data that is greater.

    An image whose value is in the lower half of the gap or lower has the atom exactly, one in its upper half has `above`: small
    errors of a network do not make drizzle of dry pixels. Raises UserError unless value < above and 0 < gap < 1.
    """

    value: float
    above: float
    gap: float = 0.5

    @property
    def near(self) -> float:
        """The value next to the atom."""
        return self.above

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value < self.above < math.inf and 0 < self.gap < 1):
            raise UserError(
                f"A hurdle needs a value below the next one and a gap between 0 and 1, got {self}: leave "
                f"`data.normaliser.hurdle` away to have it chosen.",
                "data.normaliser.hurdle",
            )


@dataclass(frozen=True)
class Ceiling:
    """A hurdle at the other end: the atom `value` lies `gap` above `below`, the greatest value of the data that is smaller.

    Raises UserError unless below < value and 0 < gap < 1.
    """

    value: float
    below: float
    gap: float = 0.25

    @property
    def near(self) -> float:
        """The value next to the atom."""
        return self.below

    def __post_init__(self) -> None:
        if not (-math.inf < self.below < self.value < math.inf and 0 < self.gap < 1):
            raise UserError(
                f"A ceiling needs a value above the one before it and a gap between 0 and 1, got {self}: leave "
                f"`data.normaliser.hurdle` away to have it chosen.",
                "data.normaliser.hurdle",
            )


End = Hurdle | Ceiling | None


def places(
    ends: Sequence[End], transforms: Sequence[Transform], means: Sequence[float], stds: Sequence[float], side: int
) -> list[tuple[float, float, float, float]]:
    """For each channel its atom and the value next to it, native; the gap and its middle, in model range.

    Without an atom on this `side` (-1 for the lower, 1 for the upper) the four numbers have no effect.
    """
    rows: list[tuple[float, float, float, float]] = []
    for end, transform, mean, std in zip(ends, transforms, means, stds, strict=True):
        if end is None:
            rows.append((side * math.inf, side * math.inf, 0.0, side * math.inf))
            continue
        place = (float(transform(torch.tensor(end.near, dtype=torch.float64))) - mean) / (2 * std)
        rows.append((end.value, end.near, end.gap, place + side * end.gap / 2))
    return rows
