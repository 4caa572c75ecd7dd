"""What the values of each channel of a source are like, measured in one pass and in constant memory.

Dtypes of up to 16 bits are *counted*: a histogram of every value that there can be, so all that follows is exact. Of others a
*reservoir* keeps some values besides 0, drawn by their place alone, so that nothing depends on how the pass is cut up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt

from pixelpath.data.formats.pictures import decoders
from pixelpath.data.normalise.curves import Identity, Transform, spread
from pixelpath.data.sources import Source, gather

CHUNK = 2**19  # values measured at once: enough for numpy, and little memory even as 64-bit numbers
RESERVOIR = 2**16  # values kept of a channel at most
COUNTED = 128  # channels of which histograms are kept at most: 64 MiB of 16-bit values
GOLDEN = 0x9E3779B1  # 2^32 over the golden ratio: its multiples spread evenly, along rows and columns alike


@dataclass(frozen=True)
class Sums:
    """The number of some values, their mean, and the sum of their squared distances from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(
        cls, values: Float64[np.ndarray, "value"], weights: Float64[np.ndarray, "value"] | None = None, count: int = 0
    ) -> Sums:
        """Those of values that occur as often as `weights` say (None: once), `count` in all."""
        if weights is None:
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is answered later
                mean = float(values.mean())
                return cls(len(values), mean, float(np.square(values - mean).sum()))
        mean = float((values * weights).sum() / weights.sum())
        return cls(count, mean, float((np.square(values - mean) * weights).sum()))

    def __add__(self, other: Sums) -> Sums:
        """Both together (Chan, Golub and LeVeque 1979: merging the sums of squares of two sets)."""
        total = self.count + other.count
        if total == 0:
            return self
        step = other.mean - self.mean
        # step * step may overflow to infinity, which is answered later; step**2 would raise
        squares = self.squares + other.squares + step * step * (self.count * other.count / total)
        return Sums(total, self.mean + step * (other.count / total), squares)


@dataclass(frozen=True, eq=False)
class Seen:
    """What was found of one channel's measured values: `count` of them, of which `least` are exactly `lowest` and `zeros` are 0.

    `above` is the smallest value but the lowest (infinity if there is none); `values`, rising, stand for `weights` values each:
    all of them if the channel was `counted`, else those of the reservoir. `sums` are those of the transformed values, if they
    were asked for.
    """

    count: int
    zeros: int
    lowest: float
    least: int
    above: float
    highest: float
    values: Float64[np.ndarray, "value"]
    weights: Float64[np.ndarray, "value"]
    counted: bool
    sums: Sums = Sums()

    @property
    def most(self) -> int:
        """How many are exactly `highest`, of a counted channel."""
        return int(self.weights[-1])

    def quantiles(self, probabilities: Float64[np.ndarray, "probability"]) -> Float64[np.ndarray, "probability"]:
        """For each probability p the smallest value that p of all values do not exceed."""
        reached = self.weights.cumsum()
        places = np.searchsorted(reached, probabilities * reached[-1] * (1 - 1e-12))
        return self.values[np.minimum(places, len(self.values) - 1)]

    def where(self, kept: Shaped[np.ndarray, "value"]) -> Seen:
        """The same with a part of the values and weights only."""
        return replace(self, values=self.values[kept], weights=self.weights[kept])


def measure(
    source: Source, workers: int | None = 0, nodata: float | None = None, transforms: tuple[Transform, ...] = (Identity(),)
) -> tuple[Seen, ...]:
    """What the measured values of every channel are like, with the sums of the transformed values (one transform, or one each).

    Raises ValueError for an empty source, an image with infinity or, unless `nodata` is NaN, with NaN, naming it, and for a
    channel without a single measured value.
    """
    if len(source) == 0:
        raise ValueError("There are no images to measure the mean and deviation of: give at least one.")
    channels = source.shape[0]
    counted = source.dtype.itemsize <= 2 and channels <= COUNTED
    tallies = [(_Counts if counted else _Reservoir)(source.dtype, nodata, each) for each in spread(transforms, channels)]
    for first, images in _chunks(source, workers):
        _check_finite(source, first, images, nodata)
        places = _places(first, images)
        for channel, tally in enumerate(tallies):
            tally.add(images[:, channel].ravel(), places)
    found = tuple(tally.seen() for tally in tallies)
    for channel, seen in enumerate(found):
        if seen is None:
            raise ValueError(
                f"Channel {channel} (the first is 0) holds no measured value in any image, only nodata ({nodata}): leave the "
                f"channel out, or give another --data.nodata."
            )
    return tuple(seen for seen in found if seen is not None)


def sums(source: Source, workers: int | None, nodata: float | None, transforms: tuple[Transform, ...]) -> tuple[Sums, ...]:
    """The sums of every channel's transformed values, in one more pass."""
    each = spread(transforms, source.shape[0])
    found = [Sums()] * len(each)
    for _, images in _chunks(source, workers):
        for channel, transform in enumerate(each):
            values = measured(images[:, channel].ravel(), nodata)
            if len(values):
                found[channel] += Sums.of(transformed(transform, values))
    return tuple(found)


def pooled(found: tuple[Seen, ...]) -> Seen:
    """All channels as one."""
    lowest = min(seen.lowest for seen in found)
    values = np.concatenate([seen.values for seen in found])
    order = np.argsort(values, kind="stable")
    candidates = [value for seen in found for value in (seen.lowest, seen.above) if value > lowest]
    return Seen(
        count=sum(seen.count for seen in found),
        zeros=sum(seen.zeros for seen in found),
        lowest=lowest,
        least=sum(seen.least for seen in found if seen.lowest == lowest),
        above=min(candidates, default=math.inf),
        highest=max(seen.highest for seen in found),
        values=values[order],
        weights=np.concatenate([seen.weights for seen in found])[order],
        counted=all(seen.counted for seen in found),
        sums=added(seen.sums for seen in found),
    )


def added(each: Iterator[Sums] | tuple[Sums, ...]) -> Sums:
    """All sums as one."""
    total = Sums()
    for one in each:
        total += one
    return total


def below(source: Source, workers: int | None, nodata: float | None, channel: int, bound: float) -> str:
    """The name of the first image with a measured value of at most `bound` in this channel."""
    for first, images in _chunks(source, workers):
        for place, image in enumerate(images):
            if (measured(image[channel].ravel(), nodata) <= bound).any():
                return source.name(first + place)
    raise AssertionError("some image has such a value")


def transformed(transform: Transform, values: Float64[np.ndarray, "value"]) -> Float64[np.ndarray, "value"]:
    """The values after the transform."""
    return values if isinstance(transform, Identity) else transform(torch.from_numpy(values)).numpy()


def measured(values: Shaped[np.ndarray, "value"], nodata: float | None) -> Float64[np.ndarray, "measured"]:
    """The values but those that mean "not measured", in float64."""
    wide = values.astype(np.float64)
    if nodata is None:
        return wide
    return wide[~np.isnan(wide)] if math.isnan(nodata) else wide[wide != nodata]


class _Counts:
    """How often one channel of a stream has each of the values of an 8- or 16-bit dtype."""

    def __init__(self, dtype: np.dtype, nodata: float | None, transform: Transform) -> None:
        self.bits = np.dtype(f"u{dtype.itemsize}")
        self.table = np.arange(256**dtype.itemsize).astype(self.bits).view(dtype).astype(np.float64)
        self.counts = np.zeros(len(self.table), np.int64)
        self.nodata, self.transform = nodata, transform

    def add(self, values: Shaped[np.ndarray, "value"], places: UInt[np.ndarray, "value"]) -> None:
        del places
        self.counts += np.bincount(values.view(self.bits), minlength=len(self.counts))

    def seen(self) -> Seen | None:
        there = self.counts > 0
        if self.nodata is not None:
            there &= ~np.isnan(self.table) if math.isnan(self.nodata) else self.table != self.nodata
        if not there.any():
            return None
        values, which = np.unique(self.table[there], return_inverse=True)  # a float has two zeros
        weights = np.bincount(which, self.counts[there])
        count = int(self.counts[there].sum())
        return Seen(
            count,
            zeros=int(weights[values == 0].sum()),
            lowest=float(values[0]),
            least=int(weights[0]),
            above=float(values[1]) if len(values) > 1 else math.inf,
            highest=float(values[-1]),
            values=values,
            weights=weights,
            counted=True,
            sums=Sums.of(transformed(self.transform, values), weights, count),
        )


class _Reservoir:
    """One channel of a stream of any dtype: its extremes and sums, and at most RESERVOIR of its values but 0.

    Of level k are the values whose place, spread over 0 to 2^32, is below 2^(32 - k); the lowest level is kept that fits.
    """

    def __init__(self, dtype: np.dtype, nodata: float | None, transform: Transform) -> None:
        del dtype
        self.nodata, self.transform = nodata, transform
        self.sums = Sums()
        self.zeros = self.least = self.level = 0
        self.lowest = self.above = math.inf
        self.highest = -math.inf
        self.values, self.places = np.zeros(0), np.zeros(0, np.uint32)

    def add(self, values: Shaped[np.ndarray, "value"], places: UInt[np.ndarray, "value"]) -> None:
        kept = measured(values, self.nodata)
        if len(kept) < len(values):
            valid = ~np.isnan(values) if math.isnan(self.nodata or 0) else values != self.nodata
            places = places[valid]
        if len(kept) == 0:
            return
        self.sums += Sums.of(transformed(self.transform, kept))
        self.zeros += int((kept == 0).sum())
        self._extremes(kept)
        self._keep(kept, places)

    def _extremes(self, values: Float64[np.ndarray, "value"]) -> None:
        before, lowest = self.lowest, min(self.lowest, float(values.min()))
        others = (float(values.min(where=values > lowest, initial=math.inf)), self.above, before)
        self.above = min((value for value in others if value > lowest), default=math.inf)
        self.least = int((values == lowest).sum()) + (self.least if before == lowest else 0)
        self.lowest, self.highest = lowest, max(self.highest, float(values.max()))

    def _keep(self, values: Float64[np.ndarray, "value"], places: UInt[np.ndarray, "value"]) -> None:
        chosen = (values != 0) & (places >> np.uint32(32 - self.level) == 0) if self.level else values != 0
        self.values = np.concatenate([self.values, values[chosen]])
        self.places = np.concatenate([self.places, places[chosen]])
        while len(self.values) > RESERVOIR:
            self.level += 1
            chosen = self.places >> np.uint32(32 - self.level) == 0
            self.values, self.places = self.values[chosen], self.places[chosen]

    def seen(self) -> Seen | None:
        if self.sums.count == 0:
            return None
        values, weights = self.values, np.full(len(self.values), 1.0)
        if len(values):
            weights *= (self.sums.count - self.zeros) / len(values)
        if self.zeros:
            values, weights = np.append(values, 0.0), np.append(weights, float(self.zeros))
        order = np.argsort(values, kind="stable")
        return Seen(
            self.sums.count,
            self.zeros,
            self.lowest,
            self.least,
            self.above,
            self.highest,
            values=values[order],
            weights=weights[order],
            counted=False,
            sums=self.sums,
        )


def _chunks(source: Source, workers: int | None) -> Iterator[tuple[int, np.ndarray]]:
    size = max(1, CHUNK // int(np.prod(source.shape)))
    with decoders(workers) as pool:
        for first in range(0, len(source), size):
            yield first, gather(source, range(first, min(first + size, len(source))), pool)


def _places(first: int, images: Shaped[np.ndarray, "count channel row column"]) -> UInt[np.ndarray, "value"]:
    """A number below 2^32 for every pixel, spread evenly and given by its place in the source alone."""
    pixels = images.shape[2] * images.shape[3]
    numbers = np.arange(first * pixels, (first + len(images)) * pixels, dtype=np.uint64)
    return ((numbers * np.uint64(GOLDEN)) & np.uint64(2**32 - 1)).astype(np.uint32)


def _check_finite(source: Source, first: int, images: np.ndarray, nodata: float | None) -> None:
    if images.dtype.kind != "f":
        return
    gaps = nodata is not None and math.isnan(nodata)
    odd = (np.isinf(images) if gaps else ~np.isfinite(images)).any((1, 2, 3))
    if odd.any():
        name = source.name(first + int(np.flatnonzero(odd)[0]))
        what = "infinity" if gaps else "NaN or infinity"
        hint = "" if gaps else '; if NaN means "not measured", say --data.nodata nan'
        raise ValueError(f"Image {name} holds {what}: replace such values or leave the image out{hint}.")
