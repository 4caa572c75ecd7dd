"""What images hold, before training: ranges, shares, tails and damage of each channel, and a few numbers for each image.

Values are *missing*, *damaged* or *valid* (see `data.normalise.statistics`, whose pass this is). A *signature* is an image in 8
x 8 blocks: the mean of each block and channel, less the channel's own mean in the image, in units of the channel's std over all
images. One pass takes everything, in constant memory plus some 50 bytes an image and a dozen for each of its channels.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.normalise.propose import tail_index
from pixelpath.data.normalise.statistics import ChannelStatistics, Marks, Mask, Tallies
from pixelpath.data.passes import Native, Numbers, chunks
from pixelpath.data.sources import Source
from pixelpath.errors import UserError
from pixelpath.evaluation.histograms import Values, atom, share_of
from pixelpath.log import progress

BLOCKS = 8
DIGEST = 16  # bytes of a hash
COPIED = 0.9999  # correlation above which a channel is a copy of another
PROBABILITIES = (0.001, 0.01, 0.5, 0.99, 0.999)
TAIL = 2**20  # evenly chosen values, at most, by which skewness and tail are judged
SAME = 1e-5  # stds of a channel: blocks that differ by less differ by rounding alone
CORRELATED = 64  # channels, at most, that are compared with each other

Rows = Float[np.ndarray, "image channel"]


@dataclass(frozen=True)
class Channel:
    """One channel of all images, in native values; shares are of all its values, `nan` and `infinite` count damaged ones.

    Lowest, highest, mean, std, zeros and the shares at the limits of the dtype are exact. Quantiles, the most frequent value
    (`atom`), skewness and the tail index of |value - median| (as of `propose`) are of evenly chosen values. All are of valid
    values, and None if there are none; the index is None where a tail is not certainly heavier than an exponential one.
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
    """What was found. `lowest`, `highest` and `mean` are of every image and channel, NaN where no value is valid.

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

    `nodata` is that of the source's metadata if None. Images that cannot be decoded are noted and passed over. Raises UserError
    for an empty source, or if no image can be decoded.
    """
    if len(source) == 0:
        raise UserError("There are no images to look at: give at least one.")
    nodata = source.metadata.nodata if nodata is None else nodata
    chosen = np.arange(len(source)) if signed is None else np.asarray(signed, np.int64)
    taking = _Taking(source, nodata, chosen)
    with progress("reading images", len(source)) as advance:
        for numbers, images in chunks(source, workers, taking.unreadable):
            taking.add(numbers, images)
            advance(len(numbers))
    if len(taking.unreadable) == len(source):
        raise UserError(f"No image can be decoded; the first error: {next(iter(taking.unreadable.values()))}")
    return taking.result()


def blocks_of(planes: Float[np.ndarray, "image channel row column"]) -> Float[np.ndarray, "image channel block columns"]:
    """Sums over 8 x 8 blocks of about equal size, fewer where an image is smaller."""
    down, across = (np.floor(np.arange(min(BLOCKS, side)) * side / min(BLOCKS, side)).astype(int) for side in planes.shape[2:])
    return np.add.reduceat(np.add.reduceat(planes, down, axis=2), across, axis=3)


class _Taking:
    """A survey under way."""

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
        self.tallies, self.total = Tallies(source), 0
        self.marked = {name: np.zeros(channels) for name in ("missing", "nan", "infinite")}
        self.shift: np.ndarray | None = None
        self.held = min(channels, CORRELATED)
        self.products, self.firsts, self.together = np.zeros((self.held, self.held)), np.zeros(self.held), 0

    def add(self, numbers: Numbers, images: Native) -> None:
        """The images with these numbers."""
        marks = Marks.of(images, self.nodata)
        self.tallies.add(numbers, images, marks.valid)
        self.total += images[:, 0].size
        for name, mask in (("missing", marks.missing), ("nan", marks.damaged), ("infinite", marks.damaged)):
            if mask is not None and mask.any():
                chosen = mask if name == "missing" else mask & (np.isnan(images) if name == "nan" else np.isinf(images))
                self.marked[name] += chosen.sum((0, 2, 3))
        valid = np.ones(images.shape, bool) if marks.valid is None else marks.valid
        wide = np.where(valid, images, 0).astype(np.float64)
        self._look(numbers, images, wide, valid)
        self.damaged[numbers], self.missing[numbers] = (_shares(mask, images) for mask in (marks.damaged, marks.missing))
        self._sign(numbers, wide, valid)
        if self.held >= 2:
            self._correlate(wide[:, : self.held], valid[:, : self.held])
        self.values.add(images, valid)

    def _look(self, numbers: Numbers, images: Native, wide: Float[np.ndarray, "image channel row column"], valid: Mask) -> None:
        """What is kept of every image."""
        for number, image in zip(numbers, images, strict=True):
            self.digests[number] = hashlib.blake2b(image.tobytes(), digest_size=DIGEST).hexdigest().encode()
        counts = valid.sum((2, 3))
        with np.errstate(invalid="ignore", divide="ignore"):
            self.rows["mean"][numbers] = np.where(counts > 0, wide.sum((2, 3)) / counts, np.nan)
        self.rows["lowest"][numbers] = _ends(np.where(valid, wide, np.inf).min((2, 3)))
        self.rows["highest"][numbers] = _ends(np.where(valid, wide, -np.inf).max((2, 3)))
        flat = images.reshape(len(images), -1)
        self.even[numbers] = (flat == flat[:, :1]).all(1)

    def _sign(self, numbers: Numbers, wide: Float[np.ndarray, "image channel row column"], valid: Mask) -> None:
        """The block means of the images whose signatures are kept."""
        places = np.searchsorted(self.signed, numbers)
        inside = places < len(self.signed)
        inside[inside] = self.signed[places[inside]] == numbers[inside]
        if inside.any():
            share = blocks_of(valid[inside].astype(np.float64))
            with np.errstate(invalid="ignore", divide="ignore"):
                self.blocks[places[inside]] = np.where(share > 0, blocks_of(wide[inside]) / share, np.nan)

    def _correlate(self, wide: Float[np.ndarray, "image channel row column"], valid: Mask) -> None:
        """Products of channels where all of them are valid, about their approximate means, so that no digits are lost."""
        if self.shift is None:
            self.shift = wide.sum((0, 2, 3)) / np.maximum(valid.sum((0, 2, 3)), 1)
        moved = np.where(valid, wide - np.asarray(self.shift)[:, None, None], 0)
        columns = moved.transpose(1, 0, 2, 3).reshape(self.held, -1)[:, valid.all(1).reshape(-1)]
        self.products += columns @ columns.T
        self.firsts += columns.sum(1)
        self.together += columns.shape[1]

    def result(self) -> Survey:
        """The survey of all images so far."""
        channels = tuple(self._channel(number, found) for number, found in enumerate(self.tallies.found()))
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

    def _channel(self, number: int, found: ChannelStatistics | None) -> Channel:
        names = self.source.metadata.channels
        name = names[number] if number < len(names) else str(number)
        nan, infinite = (int(self.marked[what][number]) for what in ("nan", "infinite"))
        missing = float(self.marked["missing"][number]) / self.total
        if found is None:
            return Channel(name, 0, None, None, None, None, missing=missing, nan=nan, infinite=infinite)
        limits = dtypes.limits(self.source.dtype)
        at_limits = (None, None)
        if limits is not None:
            at_ends = zip(limits, (found.lowest, found.highest), (found.least, found.most), strict=True)
            at_limits = tuple(count / self.total if end == limit else 0.0 for limit, end, count in at_ends)
        return Channel(
            name,
            found.count,
            found.lowest,
            found.highest,
            found.sums.mean,
            found.sums.std,
            zeros=found.zeros / self.total,
            at_lowest_limit=at_limits[0],
            at_highest_limit=at_limits[1],
            missing=missing,
            nan=nan,
            infinite=infinite,
            tail_index=index if math.isfinite(index := tail_index(found)) else None,
            **_by_chosen_values(self.values, number),
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


def _by_chosen_values(values: Values, number: int) -> dict[str, Any]:
    """Quantiles, most frequent value, skewness and tail of evenly chosen values of a channel."""
    try:
        found = values.channel(number)
    except ValueError:  # so few values are valid that none of them was chosen
        return {}
    few = found[:: max(1, len(found) // TAIL)]
    std = float(few.std())
    skewness = float((((few - few.mean()) / std) ** 3).mean()) if std > 0 else None
    most = atom(found)
    others = found[found != most]
    nearest = float(others[np.abs(others - most).argmin()]) if len(others) else None
    quantiles = np.quantile(found, PROBABILITIES).tolist()
    return {
        "quantiles": {f"{probability:g}": value for probability, value in zip(PROBABILITIES, quantiles, strict=True)},
        "atom": most,
        "atom_share": share_of(found, most),
        "next_to_atom": nearest,
        "skewness": skewness,
    }


def _ends(found: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(found), found, np.nan)


def _shares(mask: Mask | None, images: Native) -> Float[np.ndarray, "image"]:
    """The share of marked values in each image."""
    return np.zeros(len(images)) if mask is None else mask.mean((1, 2, 3))
