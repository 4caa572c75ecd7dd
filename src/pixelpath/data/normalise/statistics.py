"""What the values of each channel of a source are like, found in one pass and in constant memory.

A value is *missing* if it is the nodata of the data, *damaged* if it is NaN or infinite and not missing; all others are *valid*.
Channels of dtypes up to 16 bits are *counted*: a histogram of every value there can be makes all that follows exact. Of other
channels a *reservoir* keeps some values other than 0, drawn by their place alone, so that the result does not depend on chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Shaped, UInt

from pixelpath.data import dtypes
from pixelpath.data.normalise.curves import Identity, Transform, spread
from pixelpath.data.passes import Native, Numbers, chunks
from pixelpath.data.sources import Source
from pixelpath.errors import UserError

RESERVOIR = 2**16  # values kept of a channel at most
COUNTED = 128  # channels of which histograms are kept at most: 64 MiB of 16-bit values
GOLDEN = 0x9E3779B1  # 2^32 over the golden ratio: its multiples spread evenly, along rows and columns alike

Mask = Bool[np.ndarray, "image channel row column"]
Values = Float64[np.ndarray, "value"]


@dataclass(frozen=True)
class Sums:
    """The number of some values, their mean, and the sum of their squared distances from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.squares / self.count)

    @classmethod
    def of(cls, values: Values, weights: Values | None = None, count: int = 0) -> Sums:
        """Those of values that occur as often as `weights` say (None: once), `count` in all."""
        if weights is None:
            with np.errstate(over="ignore", invalid="ignore"):  # callers refuse what overflows
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
        # step * step may overflow to infinity, which callers refuse; step**2 would raise
        squares = self.squares + other.squares + step * step * (self.count * other.count / total)
        return Sums(total, self.mean + step * (other.count / total), squares)


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """The valid values of one channel: `count` of them, `least` exactly `lowest`, `most` exactly `highest`, and `zeros` 0.

    `above` is the smallest value other than the lowest (infinity if there is none). `values`, rising, stand for `weights` values
    each: all of them if the channel was `counted`, else those of the reservoir. `sums` are those of the transformed values.
    """

    zeros: int
    lowest: float
    least: int
    above: float
    highest: float
    most: int
    values: Values
    weights: Values
    counted: bool
    sums: Sums

    @property
    def count(self) -> int:
        """How many values there are."""
        return self.sums.count

    def quantiles(self, probabilities: Float64[np.ndarray, "probability"]) -> Float64[np.ndarray, "probability"]:
        """For each probability p the smallest value that p of all values do not exceed."""
        reached = self.weights.cumsum()
        places = np.searchsorted(reached, probabilities * reached[-1] * (1 - 1e-12))
        return self.values[np.minimum(places, len(self.values) - 1)]

    def where(self, kept: Shaped[np.ndarray, "value"]) -> ChannelStatistics:
        """The same with a part of the values and weights only."""
        return replace(self, values=self.values[kept], weights=self.weights[kept])


class Marks(NamedTuple):
    """Where native images have nodata, and where they are damaged; None where no such value is possible."""

    missing: Mask | None
    damaged: Mask | None

    @classmethod
    def of(cls, images: Native, nodata: float | None) -> Marks:
        """The marks of images whose nodata is `nodata` (None: there is none)."""
        missing = missing_in(images, nodata)
        if images.dtype.kind != "f":
            return cls(missing, None)
        damaged = ~np.isfinite(images)
        return cls(missing, damaged if missing is None else damaged & ~missing)

    @property
    def valid(self) -> Mask | None:
        """Where values are valid; None if all are."""
        if self.missing is None:
            return None if self.damaged is None else ~self.damaged
        return ~self.missing if self.damaged is None else ~(self.missing | self.damaged)


def is_counted(source: Source) -> bool:
    """Whether the channels of a source are counted."""
    return source.dtype.itemsize <= 2 and source.shape[0] <= COUNTED


class Tallies:
    """The statistics of every channel while a pass goes on: `add` images, then ask what was `found`."""

    def __init__(self, source: Source, transforms: tuple[Transform, ...] = (Identity(),)) -> None:
        self.counted = is_counted(source)
        kind = _Counts if self.counted else _Reservoir
        self._each = [kind(source.dtype, transform) for transform in spread(transforms, source.shape[0])]

    def add(self, numbers: Numbers, images: Native, valid: Mask | None) -> None:
        """The images with these numbers; only their `valid` values count (None: all)."""
        places = None if self.counted else _places(numbers, images)
        for channel, tally in enumerate(self._each):
            values, kept = images[:, channel].ravel(), slice(None) if valid is None else valid[:, channel].ravel()
            tally.add(values[kept], None if places is None else places[kept])

    def merge(self, other: Tallies) -> None:
        """Take over what another one counted; both must be `counted`."""
        for ours, theirs in zip(self._each, other._each, strict=True):
            assert isinstance(ours, _Counts)
            assert isinstance(theirs, _Counts)
            ours.counts += theirs.counts

    def found(self) -> tuple[ChannelStatistics | None, ...]:
        """The statistics of every channel; None of one without a valid value."""
        return tuple(tally.found() for tally in self._each)


def measure(
    source: Source, workers: int | None = 0, nodata: float | None = None, transforms: tuple[Transform, ...] = (Identity(),)
) -> tuple[ChannelStatistics, ...]:
    """The statistics of every channel, with the sums of the transformed values (one transform, or one each).

    Raises UserError for an empty source, a damaged image, naming it, and a channel without a valid value.
    """
    if len(source) == 0:
        raise UserError("There are no images to measure the mean and std of: give at least one.")
    tallies = Tallies(source, transforms)
    for numbers, images in chunks(source, workers):
        marks = Marks.of(images, nodata)
        _check_undamaged(source, numbers, marks, nodata)
        tallies.add(numbers, images, marks.missing if marks.missing is None else ~marks.missing)
    return complete(tallies, nodata)


def complete(tallies: Tallies, nodata: float | None) -> tuple[ChannelStatistics, ...]:
    """The statistics of every channel after a pass; UserError for a channel without a valid value."""
    found = tallies.found()
    if None in found:
        raise UserError(
            f"Channel {found.index(None)} (the first is 0) holds no measured value in any image, only nodata ({nodata}): "
            f"leave the channel out, or give another `data.nodata`.",
            "data.nodata",
        )
    return tuple(each for each in found if each is not None)


def sums(source: Source, workers: int | None, nodata: float | None, transforms: tuple[Transform, ...]) -> tuple[Sums, ...]:
    """The sums of every channel's transformed values, in one more pass."""
    each = spread(transforms, source.shape[0])
    found = [Sums()] * len(each)
    for _, images in chunks(source, workers):
        for channel, transform in enumerate(each):
            values = measured(images[:, channel], nodata)
            if len(values):
                found[channel] += Sums.of(transformed(transform, values))
    return tuple(found)


def pooled(found: tuple[ChannelStatistics, ...]) -> ChannelStatistics:
    """All channels as one."""
    lowest, highest = min(each.lowest for each in found), max(each.highest for each in found)
    values = np.concatenate([each.values for each in found])
    order = np.argsort(values, kind="stable")
    candidates = [value for each in found for value in (each.lowest, each.above) if value > lowest]
    return ChannelStatistics(
        zeros=sum(each.zeros for each in found),
        lowest=lowest,
        least=sum(each.least for each in found if each.lowest == lowest),
        above=min(candidates, default=math.inf),
        highest=highest,
        most=sum(each.most for each in found if each.highest == highest),
        values=values[order],
        weights=np.concatenate([each.weights for each in found])[order],
        counted=all(each.counted for each in found),
        sums=added(each.sums for each in found),
    )


def added(each: Iterable[Sums]) -> Sums:
    """All sums as one."""
    total = Sums()
    for one in each:
        total += one
    return total


def below(source: Source, workers: int | None, nodata: float | None, channel: int, bound: float) -> str:
    """The name of the first image with a valid value of at most `bound` in this channel."""
    for numbers, images in chunks(source, workers):
        for number, image in zip(numbers, images, strict=True):
            if (measured(image[channel], nodata) <= bound).any():
                return source.name(int(number))
    raise AssertionError("some image has such a value")


def transformed(transform: Transform, values: Values) -> Values:
    """The values after the transform."""
    return values if isinstance(transform, Identity) else transform(torch.from_numpy(values)).numpy()


def missing_in(values: Shaped[np.ndarray, "..."], nodata: float | None) -> Bool[np.ndarray, "..."] | None:
    """Where native values are nodata; None if none can be."""
    held = None if nodata is None else dtypes.held(nodata, values.dtype)
    if held is None:
        return None
    return np.isnan(values) if math.isnan(held) else values == values.dtype.type(held)


def measured(values: Shaped[np.ndarray, "..."], nodata: float | None) -> Float64[np.ndarray, "measured"]:
    """The values that are not nodata, in float64 and one row."""
    missing = missing_in(values, nodata)
    return (values.ravel() if missing is None else values[~missing]).astype(np.float64)


class _Counts:
    """How often one channel of a stream has each of the values of an 8- or 16-bit dtype."""

    def __init__(self, dtype: np.dtype, transform: Transform) -> None:
        self.bits = np.dtype(f"u{dtype.itemsize}")
        self.table = np.arange(256**dtype.itemsize).astype(self.bits).view(dtype).astype(np.float64)
        self.counts = np.zeros(len(self.table), np.int64)
        self.transform = transform

    def add(self, values: Shaped[np.ndarray, "value"], places: UInt[np.ndarray, "value"] | None) -> None:
        del places
        if self.bits.itemsize == 1:  # torch counts bytes as they are, numpy makes 64-bit numbers of them first
            bytes_ = torch.from_numpy(np.ascontiguousarray(values).view(self.bits))
            self.counts += torch.bincount(bytes_, minlength=len(self.counts)).numpy()
        else:
            self.counts += np.bincount(values.view(self.bits), minlength=len(self.counts))

    def found(self) -> ChannelStatistics | None:
        there = self.counts > 0
        if not there.any():
            return None
        values, which = np.unique(self.table[there], return_inverse=True)  # a float has two zeros
        weights = np.bincount(which, self.counts[there])
        count = int(self.counts[there].sum())
        return ChannelStatistics(
            zeros=int(weights[values == 0].sum()),
            lowest=float(values[0]),
            least=int(weights[0]),
            above=float(values[1]) if len(values) > 1 else math.inf,
            highest=float(values[-1]),
            most=int(weights[-1]),
            values=values,
            weights=weights,
            counted=True,
            sums=Sums.of(transformed(self.transform, values), weights, count),
        )


class _Reservoir:
    """One channel of a stream of any dtype: its extremes and sums, and at most RESERVOIR of its values other than 0.

    Level k holds the values whose place, spread over 0 to 2^32, is below 2^(32 - k). The lowest level that fits is kept.
    """

    def __init__(self, dtype: np.dtype, transform: Transform) -> None:
        del dtype
        self.transform = transform
        self.sums = Sums()
        self.zeros = self.least = self.most = self.level = 0
        self.lowest = self.above = math.inf
        self.highest = -math.inf
        self.values, self.places = np.zeros(0), np.zeros(0, np.uint32)

    def add(self, values: Shaped[np.ndarray, "value"], places: UInt[np.ndarray, "value"] | None) -> None:
        if len(values) == 0 or places is None:
            return
        wide = values.astype(np.float64)
        self.sums += Sums.of(transformed(self.transform, wide))
        self.zeros += int((wide == 0).sum())
        self._extremes(wide)
        self._keep(wide, places)

    def _extremes(self, values: Values) -> None:
        before, lowest = self.lowest, min(self.lowest, float(values.min()))
        others = (float(values.min(where=values > lowest, initial=math.inf)), self.above, before)
        self.above = min((value for value in others if value > lowest), default=math.inf)
        self.least = int((values == lowest).sum()) + (self.least if before == lowest else 0)
        highest = max(self.highest, float(values.max()))
        self.most = int((values == highest).sum()) + (self.most if self.highest == highest else 0)
        self.lowest, self.highest = lowest, highest

    def _keep(self, values: Values, places: UInt[np.ndarray, "value"]) -> None:
        chosen = (values != 0) & (places >> np.uint32(32 - self.level) == 0) if self.level else values != 0
        self.values = np.concatenate([self.values, values[chosen]])
        self.places = np.concatenate([self.places, places[chosen]])
        while len(self.values) > RESERVOIR:
            self.level += 1
            chosen = self.places >> np.uint32(32 - self.level) == 0
            self.values, self.places = self.values[chosen], self.places[chosen]

    def found(self) -> ChannelStatistics | None:
        if self.sums.count == 0:
            return None
        values, weights = self.values, np.full(len(self.values), 1.0)
        if len(values):
            weights *= (self.sums.count - self.zeros) / len(values)
        if self.zeros:
            values, weights = np.append(values, 0.0), np.append(weights, float(self.zeros))
        order = np.argsort(values, kind="stable")
        return ChannelStatistics(
            self.zeros,
            self.lowest,
            self.least,
            self.above,
            self.highest,
            self.most,
            values=values[order],
            weights=weights[order],
            counted=False,
            sums=self.sums,
        )


def _places(numbers: Numbers, images: Native) -> UInt[np.ndarray, "value"]:
    """A number below 2^32 for every pixel, spread evenly and given by its place in the source alone."""
    pixels = images.shape[2] * images.shape[3]
    places = (numbers[:, None].astype(np.uint64) * np.uint64(pixels) + np.arange(pixels, dtype=np.uint64)).ravel()
    return ((places * np.uint64(GOLDEN)) & np.uint64(2**32 - 1)).astype(np.uint32)


def _check_undamaged(source: Source, numbers: Numbers, marks: Marks, nodata: float | None) -> None:
    if marks.damaged is None or not marks.damaged.any():
        return
    name = source.name(int(numbers[marks.damaged.any((1, 2, 3)).argmax()]))
    if nodata is not None and math.isnan(nodata):
        raise UserError(f"Image {name} holds infinity: replace such values or leave the image out.")
    raise UserError(
        f"Image {name} holds NaN or infinity: replace such values or leave the image out; if NaN means "
        f'"not measured", set `data.nodata` to nan.',
        "data.nodata",
    )
