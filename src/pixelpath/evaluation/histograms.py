"""The distribution of pixel values, channel by channel, in the units of the data.

The *atom* of a channel is its most frequent value: no rain, background, fully transparent. Large sets are
represented by evenly chosen values, at most `MOST` of all channels together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pixelpath.errors import UserError

Native = Shaped[np.ndarray, "image channel row column"]
Valid = Bool[np.ndarray, "image channel row column"]
Sorted = Float[np.ndarray, "_"]

MOST, MOST_OF_CHANNEL = 2**24, 2**22
BINS = 64
PROBABILITIES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class HistogramRow:
    """The share of values of one channel in [lower, upper) in three sets of images; None where there is no such set."""

    channel: str
    lower: float
    upper: float
    training: float
    held_out: float | None
    samples: float


@dataclass(frozen=True)
class Difference:
    """How other values differ from those of training images.

    `total_variation` is half the sum of |difference of shares| over bins of equal share of the training values, the atom a bin
    of its own: 0 to 1. `wasserstein` is the mean |difference of quantiles|, in the data's units. `errors` are the differences
    of the quantiles of PROBABILITIES, other - training, in these units.
    """

    total_variation: float
    wasserstein: float
    errors: tuple[float, ...]


class Values:
    """Values of a stream of `count` native images of one shape, evenly chosen: `add` batches, then ask for a `channel`.

    Every s-th pixel is taken, where s and the pixels of an image have no common divisor, so that all places count equally.
    """

    def __init__(self, count: int, channels: int, rows: int, columns: int) -> None:
        most = min(MOST_OF_CHANNEL, MOST // channels)
        self._pixels = rows * columns
        self.stride = max(1, math.ceil(count * self._pixels / most))
        while math.gcd(self.stride, self._pixels) != 1:
            self.stride += 1
        self._first = 0  # of the next batch, the first pixel that is taken
        self._parts: list[list[np.ndarray]] = [[] for _ in range(channels)]

    def add(self, images: Native, valid: Valid | None = None) -> None:
        """Add a batch; pixels that are not `valid`, NaN or infinite are left out."""
        for number, parts in enumerate(self._parts):
            chosen = images[:, number].reshape(-1)[self._first :: self.stride]
            seen = np.isfinite(chosen)
            if valid is not None:
                seen &= valid[:, number].reshape(-1)[self._first :: self.stride]
            parts.append(chosen[seen])
        self._first = (self._first - len(images) * self._pixels) % self.stride

    def channel(self, number: int) -> Sorted:
        """The values of one channel, sorted; UserError if none is valid."""
        found = np.sort(np.concatenate([*self._parts[number], np.empty(0, np.float64)]).astype(np.float64))
        if len(found) == 0:
            raise UserError(f"Channel {number} holds no valid value to compare: look for nodata and NaN in the images.")
        return found


def difference(training: Sorted, other: Sorted) -> Difference:
    """How the sorted values `other` differ from the sorted ones of training images."""
    edges = _even(training)
    apart = np.abs(shares(training, edges) - shares(other, edges)).sum() / 2
    far = np.quantile(other, PROBABILITIES) - np.quantile(training, PROBABILITIES)
    return Difference(float(apart), wasserstein(training, other), tuple(far.tolist()))


def wasserstein(first: Sorted, second: Sorted) -> float:
    """The 1-Wasserstein distance of two sets of sorted values: the integral of |F_1 - F_2|, their distribution functions."""
    both = np.sort(np.concatenate([first, second]))
    apart = np.searchsorted(first, both[:-1], "right") / len(first) - np.searchsorted(second, both[:-1], "right") / len(second)
    return float(np.abs(apart) @ np.diff(both))


def atom(values: Sorted) -> float:
    """The most frequent value; of several the smallest."""
    found, counts = np.unique(values, return_counts=True)
    return float(found[counts.argmax()])


def share_of(values: Sorted, value: float) -> float:
    """The share of sorted values that are exactly this one."""
    return float(np.searchsorted(values, value, "right") - np.searchsorted(values, value, "left")) / len(values)


def shares(values: Sorted, edges: Float[np.ndarray, "edge"]) -> Float[np.ndarray, "bin"]:
    """The share of sorted values between each two edges, the lower one included; the outer bins have no end."""
    inner = np.searchsorted(values, edges[1:-1], "left") / len(values)
    return np.diff(np.concatenate([[0.0], inner, [1.0]]))


def drawn_edges(training: Sorted, *, whole: bool) -> Float[np.ndarray, "edge"]:
    """The edges of bins of equal width to draw, over all training values; edges of whole numbers lie between two of them."""
    lowest, highest = float(training[0]), float(training[-1])
    if whole:
        width = max(1, math.ceil((highest - lowest + 1) / BINS))
        return lowest - 0.5 + width * np.arange(math.ceil((highest - lowest + 1) / width) + 1, dtype=np.float64)
    if not highest > lowest:
        return np.array([lowest - 0.5, lowest + 0.5])
    return np.linspace(lowest, highest, BINS + 1)


def histogram(channel: str, training: Sorted, held_out: Sorted | None, samples: Sorted, *, whole: bool) -> list[HistogramRow]:
    """Bins of equal width of one channel in all sets, for a picture; the outer ones include all values beyond."""
    edges = drawn_edges(training, whole=whole)
    real, made = shares(training, edges), shares(samples, edges)
    floor = None if held_out is None else shares(held_out, edges)
    return [
        HistogramRow(channel, low, high, float(real[at]), None if floor is None else float(floor[at]), float(made[at]))
        for at, (low, high) in enumerate(pairwise(edges.tolist()))
    ]


def _even(training: Sorted) -> Float[np.ndarray, "edge"]:
    """The edges of bins of about equal share of the training values, the atom in a bin of its own."""
    value = atom(training)
    quantiles = np.quantile(training, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf")
    inner = np.unique([*quantiles, value, np.nextafter(value, math.inf)])
    return np.concatenate([[-math.inf], inner, [math.inf]])
