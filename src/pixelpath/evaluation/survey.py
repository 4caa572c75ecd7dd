"""What images hold before anything is trained on them: ranges, shares, tails and damage of each channel, a few numbers an image.

A value is *missing* if it is the nodata of the data, *damaged* if it is NaN or infinite and not missing; all others *count*. A
*signature* is an image in 8 x 8 blocks: the mean of each block and channel, less the channel's own mean in the image, in units of
the channel's deviation over all images. Everything is taken in one pass and in constant memory but for some 50 bytes an image,
a dozen more for each channel.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from pixelpath.data.formats.pictures import decoders
from pixelpath.data.sources import Source, gather
from pixelpath.evaluation.histograms import Values, atom, share_of
from pixelpath.evaluation.tails import hill

CHUNK_BYTES = 8 * 2**20
BLOCKS = 8
DIGEST = 16  # bytes of a hash
COPIED = 0.9999  # correlation from which on a channel is a copy of another
PROBABILITIES = (0.001, 0.01, 0.5, 0.99, 0.999)
TAIL = 2**20  # values, evenly chosen, by which skewness and tail are judged
SAME = 1e-5  # deviations of a channel, below which blocks differ but for rounding
CORRELATED = 64  # channels, at most, that are held against each other

Native = Shaped[np.ndarray, "image channel row column"]
Rows = Float[np.ndarray, "image channel"]


@dataclass(frozen=True)
class Channel:
    """One channel of all images, in native values; shares are of all its values, `nan` and `infinite` count damaged ones.

    Lowest, highest, mean, deviation, zeros and the shares at the limits of the dtype are exact. Quantiles, the most frequent
    value (`atom`), skewness and the tail index of |value - median| (Hill 1975, by the greatest hundredth) are of evenly chosen
    values. All are of values that count, and None if there are none; the index is None where a tail cannot be told.
    """

    name: str
    count: int
    lowest: float | None
    highest: float | None
    mean: float | None
    std: float | None
    quantiles: dict[str, float] = field(default_factory=dict)
    zeros: float = 0.0
    atom: float | None = None
    atom_share: float = 0.0
    next_to_atom: float | None = None
    at_lowest_limit: float | None = None
    at_highest_limit: float | None = None
    missing: float = 0.0
    nan: int = 0
    infinite: int = 0
    skewness: float | None = None
    tail_index: float | None = None

    @property
    def dead(self) -> bool:
        """Whether it has one value everywhere, or none."""
        return self.lowest is None or self.lowest == self.highest


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found. `lowest`, `highest` and `mean` are those of every image and channel, NaN where no value counts.

    `digests` are hashes of the native bytes; `damaged` and `missing` the share of such values in each image; `even` says which
    images are of one value throughout. `unreadable` maps the numbers of images that cannot be decoded to the reason, and all
    rows of these are NaN. `signatures` are those of the images numbered by `signed`.
    """

    channels: tuple[Channel, ...]
    copies: tuple[tuple[int, int], ...]
    values: Values
    digests: Shaped[np.ndarray, "image"]
    lowest: Rows
    highest: Rows
    mean: Rows
    damaged: Float[np.ndarray, "image"]
    missing: Float[np.ndarray, "image"]
    even: Bool[np.ndarray, "image"]
    unreadable: dict[int, str]
    signed: Int[np.ndarray, "signed"]
    signatures: Float[np.ndarray, "signed channel block column"]


def survey(
    source: Source, workers: int | None = 0, signed: Int[np.ndarray, "signed"] | None = None, nodata: float | None = None
) -> Survey:
    """One pass over all images; those numbered by `signed` (rising; None: all) have their signatures kept.

    `nodata` is that of the source's facts if None. Images that cannot be decoded are noted and passed over. Raises ValueError for
    an empty source, or if no image can be decoded.
    """
    if len(source) == 0:
        raise ValueError("There are no images to look at: give at least one.")
    nodata = source.metadata.nodata if nodata is None else nodata
    chosen = np.arange(len(source)) if signed is None else np.asarray(signed, np.int64)
    taking = _Taking(source, nodata, chosen)
    for first, images, bad in _chunks(source, workers):
        taking.unreadable |= bad
        kept = np.array([place for place in range(len(images)) if first + place not in bad], np.int64)
        if len(kept):
            taking.add(first + kept, images[kept] if bad else images)
    if len(taking.unreadable) == len(source):
        raise ValueError(f"No image can be decoded; of the first it is said: {next(iter(taking.unreadable.values()))}")
    return taking.result()


def missing_in(images: Native, nodata: float | None) -> Bool[np.ndarray, "image channel row column"] | None:
    """Where native images have the nodata value; None if there is none that they could have."""
    if nodata is None:
        return None
    if math.isnan(nodata):
        return np.isnan(images) if images.dtype.kind == "f" else None
    if images.dtype.kind in "iu":
        limits = np.iinfo(images.dtype)
        return images == int(nodata) if nodata == int(nodata) and limits.min <= nodata <= limits.max else None
    with np.errstate(over="ignore"):
        return images == images.dtype.type(nodata)


def blocks_of(planes: Float[np.ndarray, "image channel row column"]) -> Float[np.ndarray, "image channel block columns"]:
    """Sums over 8 x 8 blocks of about equal size, fewer where an image is smaller."""
    down, across = (np.floor(np.arange(min(BLOCKS, side)) * side / min(BLOCKS, side)).astype(int) for side in planes.shape[2:])
    return np.add.reduceat(np.add.reduceat(planes, down, axis=2), across, axis=3)


class _Taking:
    """A survey while it is taken."""

    def __init__(self, source: Source, nodata: float | None, signed: Int[np.ndarray, "signed"]) -> None:
        count, channels = len(source), source.shape[0]
        self.source, self.nodata, self.signed = source, nodata, signed
        self.values = Values(count, *source.shape)
        self.digests = np.zeros(count, f"S{2 * DIGEST}")
        self.rows = {name: np.full((count, channels), np.nan) for name in ("lowest", "highest", "mean")}
        self.damaged, self.missing, self.even = np.full(count, np.nan), np.full(count, np.nan), np.zeros(count, bool)
        self.unreadable: dict[int, str] = {}
        sides = [min(BLOCKS, side) for side in source.shape[1:]]
        self.blocks = np.full((len(signed), channels, *sides), np.nan, np.float32)
        self.sums = {
            name: np.zeros(channels) for name in ("count", "sum", "squares", "zeros", "missing", "nan", "infinite", "all")
        }
        self.limits = np.zeros((2, channels))
        self.shift: np.ndarray | None = None
        self.held = min(channels, CORRELATED)
        self.products, self.firsts, self.together = np.zeros((self.held, self.held)), np.zeros(self.held), 0

    def add(self, numbers: Int[np.ndarray, "image"], images: Native) -> None:
        """The images with these numbers."""
        axes = (0, 2, 3)
        finite = np.isfinite(images) if images.dtype.kind == "f" else np.ones(images.shape, bool)
        absent = missing_in(images, self.nodata)
        valid = finite if absent is None else finite & ~absent
        odd = ~finite if absent is None else ~finite & ~absent
        wide = np.where(valid, images, 0).astype(np.float64)
        self._look(numbers, images, wide, valid, odd, absent)
        if self.shift is None:
            self.shift = wide.sum(axes) / np.maximum(valid.sum(axes), 1)
        zeros = (wide == 0) & valid
        shift = np.asarray(self.shift)[:, None, None]
        moved = np.where(valid, wide - shift, 0)
        found = {"count": valid, "sum": moved, "squares": moved**2, "zeros": zeros, "all": np.ones_like(valid)}
        if images.dtype.kind == "f":
            found |= {"nan": odd & np.isnan(images), "infinite": odd & np.isinf(images)}
        if absent is not None:
            found["missing"] = absent
        for name, planes in found.items():
            self.sums[name] += planes.sum(axes)
        if images.dtype.kind in "iu":
            ends = np.iinfo(images.dtype)
            self.limits += [((images == end) & valid).sum(axes) for end in (ends.min, ends.max)]
        self._correlate(moved[:, : self.held], valid[:, : self.held])
        self.values.add(images, valid)

    def _look(
        self, numbers: np.ndarray, images: Native, wide: np.ndarray, valid: np.ndarray, odd: np.ndarray, absent: np.ndarray | None
    ) -> None:
        """What is kept of every image."""
        for number, image in zip(numbers, images, strict=True):
            self.digests[number] = hashlib.blake2b(image.tobytes(), digest_size=DIGEST).hexdigest().encode()
        counts = valid.sum((2, 3))
        with np.errstate(invalid="ignore", divide="ignore"):
            self.rows["mean"][numbers] = np.where(counts > 0, wide.sum((2, 3)) / counts, np.nan)
        self.rows["lowest"][numbers] = _ends(np.where(valid, wide, np.inf).min((2, 3)))
        self.rows["highest"][numbers] = _ends(np.where(valid, wide, -np.inf).max((2, 3)))
        self.damaged[numbers] = odd.mean((1, 2, 3))
        self.missing[numbers] = 0.0 if absent is None else absent.mean((1, 2, 3))
        flat = images.reshape(len(images), -1)
        self.even[numbers] = (flat == flat[:, :1]).all(1)
        places = np.searchsorted(self.signed, numbers)
        inside = places < len(self.signed)
        inside[inside] = self.signed[places[inside]] == numbers[inside]
        if inside.any():
            share = blocks_of(valid[inside].astype(np.float64))
            with np.errstate(invalid="ignore", divide="ignore"):
                self.blocks[places[inside]] = np.where(share > 0, blocks_of(wide[inside]) / share, np.nan)

    def _correlate(self, moved: np.ndarray, valid: np.ndarray) -> None:
        """Products of channels, where all of them count."""
        if self.held < 2:
            return
        columns = moved.transpose(1, 0, 2, 3).reshape(self.held, -1)[:, valid.all(1).reshape(-1)]
        self.products += columns @ columns.T
        self.firsts += columns.sum(1)
        self.together += columns.shape[1]

    def result(self) -> Survey:
        """Everything."""
        channels = tuple(self._channel(number) for number in range(self.source.shape[0]))
        means = np.array([channel.mean or 0.0 for channel in channels], np.float32)[:, None, None]
        scale = np.array([channel.std or 1.0 for channel in channels], np.float32)[:, None, None]
        blocks = (np.where(np.isnan(self.blocks), means, self.blocks) - means) / scale
        blocks -= blocks.mean((2, 3), keepdims=True)
        blocks[np.abs(blocks).max((1, 2, 3)) < SAME] = 0
        return Survey(
            channels=channels,
            copies=self._copies(channels),
            values=self.values,
            digests=self.digests,
            damaged=self.damaged,
            missing=self.missing,
            even=self.even,
            unreadable=self.unreadable,
            signed=self.signed,
            signatures=blocks,
            **self.rows,
        )

    def _channel(self, number: int) -> Channel:
        sums = {name: float(row[number]) for name, row in self.sums.items()}
        names, count, total = self.source.metadata.channels, sums["count"], sums["all"]
        name = names[number] if number < len(names) else str(number)
        rest: dict[str, Any] = {"missing": sums["missing"] / total, "nan": int(sums["nan"]), "infinite": int(sums["infinite"])}
        if count == 0 or self.shift is None:
            return Channel(name, 0, None, None, None, None, **rest)
        centre = sums["sum"] / count
        std = math.sqrt(max(0.0, sums["squares"] / count - centre**2))
        limits = (self.limits[:, number] / total).tolist() if self.source.dtype.kind in "iu" else (None, None)
        return Channel(
            name,
            int(count),
            float(np.nanmin(self.rows["lowest"][:, number])),
            float(np.nanmax(self.rows["highest"][:, number])),
            float(self.shift[number]) + centre,
            std,
            zeros=sums["zeros"] / total,
            at_lowest_limit=limits[0],
            at_highest_limit=limits[1],
            **rest,
            **_law(self.values, number),
        )

    def _copies(self, channels: tuple[Channel, ...]) -> tuple[tuple[int, int], ...]:
        """Pairs of channels that are not dead and correlate nearly perfectly, of every channel the first that it copies."""
        if self.held < 2 or self.together < 2:
            return ()
        centred = self.products / self.together - np.outer(self.firsts, self.firsts) / self.together**2
        spread = np.sqrt(np.maximum(np.diag(centred), 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.abs(centred / np.outer(spread, spread))
        found = []
        for later in range(1, self.held):
            alike = [earlier for earlier in range(later) if correlation[earlier, later] > COPIED]
            if alike and not channels[later].dead:
                found.append((alike[0], later))
        return tuple(found)


def _law(values: Values, number: int) -> dict[str, Any]:
    """Quantiles, most frequent value, skewness and tail of evenly chosen values of a channel."""
    try:
        found = values.channel(number)
    except ValueError:  # so few values count that none of them was chosen
        return {}
    few = found[:: max(1, len(found) // TAIL)]
    std = float(few.std())
    skewness = float((((few - few.mean()) / std) ** 3).mean()) if std > 0 else None
    most = atom(found)
    others = found[found != most]
    nearest = float(others[np.abs(others - most).argmin()]) if len(others) else None
    try:
        index = hill(torch.from_numpy(np.abs(few - np.median(few)))).value
    except ValueError:  # too few, or a tail that reaches down to 0
        index = math.inf
    quantiles = np.quantile(found, PROBABILITIES).tolist()
    return {
        "quantiles": {f"{probability:g}": value for probability, value in zip(PROBABILITIES, quantiles, strict=True)},
        "atom": most,
        "atom_share": share_of(found, most),
        "next_to_atom": nearest,
        "skewness": skewness,
        "tail_index": index if math.isfinite(index) else None,
    }


def _ends(found: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(found), found, np.nan)


def _chunks(source: Source, workers: int | None) -> Iterator[tuple[int, np.ndarray, dict[int, str]]]:
    """The first number, the images and the undecodable ones (number: reason) of one stretch after another."""
    size = max(1, CHUNK_BYTES // (math.prod(source.shape) * source.dtype.itemsize))
    with decoders(workers) as pool:
        for first in range(0, len(source), size):
            numbers = range(first, min(first + size, len(source)))
            try:
                yield first, gather(source, numbers, pool), {}
            except ValueError:
                yield first, *_singly(source, numbers, pool)


def _singly(source: Source, numbers: range, pool: Executor | None) -> tuple[np.ndarray, dict[int, str]]:
    """The images one by one, zeros where one cannot be decoded."""
    images, bad = np.zeros((len(numbers), *source.shape), source.dtype), {}
    for place, number in enumerate(numbers):
        try:
            images[place] = gather(source, [number], pool)[0]
        except ValueError as error:
            bad[number] = str(error)
    return images, bad
