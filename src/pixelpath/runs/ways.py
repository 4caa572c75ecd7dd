"""Ways to sample a run, what was measured of them, and which of them are chosen.

A *way* is a `Sampling` with a name. Of several kinds of features ways are compared by the geometric mean of their distances. The
*tail error* is that of the .999 quantile of pixel values (evaluation/tails.py), where the data have a heavy tail.
"""

from __future__ import annotations

import math
import statistics as numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixelpath.sampling.sampler import Sampling

TOLERANCE = 1.02  # of the best distance: ways this near are as good
TAIL_TOLERANCE = 1.15  # the same where tails are heavy, so that those of the samples can decide
TAILS_ALIKE = 0.05  # tail errors no further apart are as good: that is the std of the error of 500 samples of rain


@dataclass(frozen=True, eq=False)
class Way:
    """A way to sample, its evaluations, and its distance in the search in each kind of features.

    `tail_error` is None where the data have no heavy tail.
    """

    name: str
    sampling: Sampling
    nfe: int
    searched: Mapping[str, float]
    tail_error: float | None = None

    @property
    def distance(self) -> float:
        """By which ways are compared."""
        return geometric_mean(self.searched)

    @property
    def off(self) -> float:
        """The size of the tail error; 0 where tails are light."""
        return abs(self.tail_error or 0.0)


def geometric_mean(distances: Mapping[str, float]) -> float:
    """Of the distances in several kinds of features, whose units differ."""
    return math.exp(sum(math.log(max(each, 1e-12)) for each in distances.values()) / len(distances))


@dataclass(frozen=True)
class Reported:
    """Of each set of fresh seeds the distance, in each kind of features, and the tail error; none where tails are light."""

    distances: dict[str, list[float]]
    tail_errors: list[float]

    def to_json(self) -> dict[str, Any]:
        """The part of a row that holds them."""
        return {"reported": self.distances} | ({"tail_errors": self.tail_errors} if self.tail_errors else {})


def ratios(reported: Mapping[str, Sequence[float]], control: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The distances of each set of fresh seeds by those that the control has with the same seeds, in each kind of features."""
    return {name: [own / other for own, other in zip(reported[name], control[name], strict=True)] for name in reported}


def closest(ways: Sequence[Way]) -> Way:
    """The way of least distance; where tails are heavy, of those within 15 % of it that have about the least tail error."""
    best = min(ways, key=lambda way: way.distance)
    return min(_keeping_tails(ways, TAIL_TOLERANCE * best.distance), key=lambda way: way.distance)


def cheapest(ways: Sequence[Way], reports: Sequence[Mapping[str, Sequence[float]]]) -> Way:
    """The way of fewest evaluations whose distance in the search is within 2 % of the best one's, beyond the spread.

    The spread is the relative std of the best way's distance over the sets of fresh seeds, of whose distances nothing else is
    used: a number is not chosen for being low where it is reported. Where tails are heavy distances may be 15 % apart, and only
    ways whose tail error is within .05 of the least one count.
    """
    best = min(range(len(ways)), key=lambda place: ways[place].distance)
    sets = [geometric_mean(dict(zip(reports[best], each, strict=True))) for each in zip(*reports[best].values(), strict=True)]
    spread = numbers.stdev(sets) / numbers.fmean(sets)
    tolerance = TOLERANCE if ways[best].tail_error is None else TAIL_TOLERANCE
    return min(_keeping_tails(ways, (tolerance + spread) * ways[best].distance), key=lambda way: way.nfe)


def _keeping_tails(ways: Sequence[Way], farthest: float) -> list[Way]:
    """The ways up to a distance whose tail error is about the least of them; where tails are light, all."""
    near = [way for way in ways if way.distance <= farthest]
    least = min(way.off for way in near)
    return [way for way in near if way.off <= least + TAILS_ALIKE]
