"""The constants of a normaliser, chosen on what was measured of each channel: its transform, hurdle, mean and std."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from pixelpath.data import dtypes
from pixelpath.data.normalise.atoms import Ceiling, Hurdle
from pixelpath.data.normalise.curves import (
    Asinh,
    Identity,
    Log1p,
    Normalisation,
    Quantile,
    SignedLog,
    Transform,
    Window,
    lowest_of,
)
from pixelpath.data.normalise.statistics import ChannelStatistics, Sums, added, below, measure, pooled, sums, transformed
from pixelpath.data.sources import Source
from pixelpath.errors import UserError

MANY = 0.05  # share of a channel's values: so many equal ones are an atom
GAP = 0.5  # between an atom and the next value in model range: one std of the data
ALPHA_GAP = 0.25  # where both ends are atoms: the std of these alone must stay below that of the data
SCORES = np.linspace(-4, 4, 65)  # of a quantile transform's knots: to 3 in 100 000; closer ones would be too steep for float32
SHOWN = np.array([0.005, 0.995])  # quantiles between which a channel is shown, and is straight in a window


@dataclass(frozen=True)
class ChannelRange:
    """What was measured of a channel, native, to show it by: extremes, 0.5 % and 99.5 % quantiles, shares of 0 and the lowest."""

    lowest: float
    highest: float
    low: float
    high: float
    zeros: float
    least: float


@dataclass(frozen=True)
class Constants:
    """All that a normaliser needs to know of one channel."""

    mean: float
    std: float
    transform: Transform
    hurdle: Hurdle | None
    ceiling: Ceiling | None
    range: ChannelRange


def fitted(
    source: Source,
    workers: int | None,
    each_how: tuple[Normalisation, ...],
    nodata: float | None,
    counted: tuple[ChannelStatistics, ...] | None = None,
) -> tuple[Constants, ...]:
    """The constants of every channel, by one normalisation for all or one each; raises as `Normaliser.fit`.

    What a pass over the images has `counted` already needs no other.
    """
    hows = each_how * source.shape[0] if len(each_how) == 1 else each_how
    per_channel, given = hows[0].per_channel, tuple(map(_given, hows))
    through = tuple(Identity() if counted else transform or Identity() for transform in given)
    each = counted or measure(source, workers, nodata, through)
    found = each if per_channel else (pooled(each),) * len(each)
    whole = source.dtype.kind in "iu" and found[-1].counted
    alpha = len(found) - 1 if source.metadata.alpha and per_channel and whole else None
    ends = tuple(
        _ends(how, seen, source.dtype if channel == alpha else None)
        for channel, (how, seen) in enumerate(zip(hows, found, strict=True))
    )
    hurdles = tuple(hurdle for hurdle, _ in ends)
    if any(how.hurdle for how in hows) and not any(hurdles):
        raise UserError(
            f"In no channel do {MANY:.0%} of the values equal the lowest, of 0 or more, so there is nothing to keep apart by a "
            f"hurdle: leave `data.normaliser.hurdle` away.",
            "data.normaliser.hurdle",
        )
    chosen = tuple(
        transform or _chosen(how, seen, hurdle) for how, transform, seen, hurdle in zip(hows, given, found, hurdles, strict=True)
    )
    for channel, (seen, transform) in enumerate(zip(each, chosen, strict=True)):
        _check_domain(source, workers, nodata, channel, seen, transform)
    found_sums = tuple(seen.sums for seen in each) if chosen == through else _sums(source, workers, nodata, each, chosen)
    if not per_channel:
        found_sums = (added(found_sums),) * len(each)
    rows = zip(found_sums, found, chosen, ends, strict=True)
    centred = [_centred(*row, integer=source.dtype.kind in "iu") for row in rows]
    for channel, (constants, seen, transform) in enumerate(zip(centred, each, chosen, strict=True)):
        _check_span(source.dtype, channel, seen, transform, *constants)
    return tuple(
        Constants(mean, std, transform, *both, _range(seen))
        for (mean, std), transform, both, seen in zip(centred, chosen, ends, each, strict=True)
    )


def _given(how: Normalisation) -> Transform | None:
    """The transform of all channels, if it does not depend on the data."""
    if how.kind == "affine":
        return Identity()
    if how.window is not None:
        return Window(*how.window)
    if how.scale is not None:
        return {"log1p": Log1p, "signed-log": SignedLog, "asinh": Asinh}[how.kind](how.scale)
    return None


def _chosen(how: Normalisation, seen: ChannelStatistics, hurdle: Hurdle | None) -> Transform:
    """The transform of a channel, its constants chosen on the data: see `Normalisation`."""
    if how.kind == "window":
        low, high = seen.quantiles(SHOWN).tolist()
        return Window(low, high) if low < high else Window(low - 0.5, low + 0.5)
    if how.kind == "quantile":
        return _quantile(seen if hurdle is None else seen.where(seen.values > hurdle.value))
    if how.kind == "log1p":
        positive = seen.where(seen.values > 0)
        return Log1p(_median(positive))
    there = seen.where(seen.values != 0)
    order = np.argsort(np.abs(there.values), kind="stable")
    scale = _median(replace(there, values=np.abs(there.values)[order], weights=there.weights[order]))
    return SignedLog(scale) if how.kind == "signed-log" else Asinh(scale)


def _median(seen: ChannelStatistics) -> float:
    return float(seen.quantiles(np.array([0.5]))[0]) if len(seen.values) else 1.0  # of nothing but 0 any scale is right


def _quantile(seen: ChannelStatistics) -> Quantile:
    """Knots at evenly spaced scores; where several fall on one value it takes their mean."""
    if len(seen.values) == 0:
        return Quantile((0.0, 1.0), (0.0, 1.0))
    found = seen.quantiles(torch.special.ndtr(torch.from_numpy(SCORES)).numpy())
    values, which = np.unique(found, return_inverse=True)
    if len(values) == 1:
        return Quantile((float(values[0]), float(values[0]) + 1), (0.0, 1.0))
    scores = np.bincount(which, SCORES) / np.bincount(which)
    return Quantile(tuple(values.tolist()), tuple(scores.tolist()))


def _ends(how: Normalisation, seen: ChannelStatistics, alpha: np.dtype | None) -> tuple[Hurdle | None, Ceiling | None]:
    """The atoms of a channel: the lowest value, or of `alpha` of that integer dtype transparent and opaque."""
    if seen.lowest < 0 or seen.lowest == seen.highest or how.hurdle is False:
        return None, None
    if alpha is not None and how.kind != "window":
        opaque = float((dtypes.limits(alpha) or (0, 0))[1])
        lower = Hurdle(0.0, 1.0, ALPHA_GAP) if seen.lowest == 0 and seen.least >= MANY * seen.count else None
        upper = Ceiling(opaque, opaque - 1, ALPHA_GAP) if seen.highest == opaque and seen.most >= MANY * seen.count else None
        return lower, upper
    if not (how.hurdle or how.kind == "log1p") or seen.least < MANY * seen.count:
        return None, None
    return Hurdle(seen.lowest, seen.above, GAP), None


def _check_domain(
    source: Source, workers: int | None, nodata: float | None, channel: int, seen: ChannelStatistics, transform: Transform
) -> None:
    bound = lowest_of(transform)
    if seen.lowest <= bound:
        name = below(source, workers, nodata, channel, bound)
        raise UserError(
            f"Image {name} holds values of {bound:g} or less in channel {channel} (the first is 0; the lowest of all is "
            f"{seen.lowest:g}), of which log1p with a scale of {-bound:g} knows no logarithm: choose "
            f"`data.normaliser.kind` asinh or signed-log.",
            "data.normaliser.kind",
        )


def _check_span(dtype: np.dtype, channel: int, seen: ChannelStatistics, transform: Transform, mean: float, std: float) -> None:
    """UserError for floats whose distances from the mean, or whose std, exceed the floats that they are computed in."""
    width = np.finfo(np.float32 if dtype.itemsize < 8 and isinstance(transform, Identity) else np.float64)
    ends = (seen.lowest, seen.highest) if isinstance(transform, Identity) else (mean, mean)
    farthest = max(2 * std, ends[1] - mean, mean - ends[0])
    if dtype.kind != "f" or (farthest <= float(width.max) and 2 * std >= float(width.tiny)):
        return
    raise UserError(
        f"Channel {channel} (the first is 0) spans {seen.lowest:g} to {seen.highest:g} with a std of {std:g}, which "
        f'{width.dtype} cannot work with: say what means "not measured" with `data.nodata`, or bring the values nearer to 1.',
        "data.nodata",
    )


def _sums(
    source: Source,
    workers: int | None,
    nodata: float | None,
    each: tuple[ChannelStatistics, ...],
    chosen: tuple[Transform, ...],
) -> tuple[Sums, ...]:
    """The sums of the transformed values of every channel, by a second pass only if the first could not know the transform."""
    if all(seen.counted for seen in each):
        rows = zip(each, chosen, strict=True)
        return tuple(Sums.of(transformed(transform, seen.values), seen.weights, seen.count) for seen, transform in rows)
    return sums(source, workers, nodata, chosen)


def _centred(
    total: Sums, seen: ChannelStatistics, transform: Transform, ends: tuple[Hurdle | None, Ceiling | None], integer: bool
) -> tuple[float, float]:
    """The mean and std of the transformed values, with the gaps of hurdle and ceiling.

    A value lies at X + d Z: X is its own place, or the next value's for an atom, and Z is -2 gap for the lower atom, 2 gap for
    the upper and else 0. Then d solves d^2 (1 - var Z) - 2 d cov(X, Z) - var X = 0 and has one positive root, as var Z < 1.
    """
    if seen.lowest == seen.highest:
        return total.mean, 1.0
    std, mean = total.std, total.mean
    if ends == (None, None):
        return mean, max(std, _step(transform, mean)) if integer else std
    atoms = _atoms(seen, transform, ends)
    others = total.count - sum(count for count, _, _, _ in atoms)
    centre = mean + sum((mean - own) * count for count, own, _, _ in atoms) / max(others, 1)
    squares = total.squares - others * (centre - mean) ** 2 - sum(count * (own - mean) ** 2 for count, own, _, _ in atoms)
    groups = [(others / total.count, centre, 0.0), *((count / total.count, near, away) for count, _, near, away in atoms)]
    middle, shift = (sum(group[0] * group[which] for group in groups) for which in (1, 2))
    spread = sum(share * (near - middle) ** 2 for share, near, _ in groups) + max(squares, 0.0) / total.count
    together = sum(share * (near - middle) * (away - shift) for share, near, away in groups)
    apart = 1 - sum(share * (away - shift) ** 2 for share, _, away in groups)
    std = (together + math.sqrt(together**2 + apart * spread)) / apart
    if integer:
        std = max(std, _step(transform, centre))
    elif ends[0] is not None and ends[0].above == seen.highest:  # one value and the atom: the gap is all, whatever the std
        std = max(std, max(abs(near - own) for _, own, near, _ in atoms) or 1.0)
    return middle + shift * std, std


def _atoms(
    seen: ChannelStatistics, transform: Transform, ends: tuple[Hurdle | None, Ceiling | None]
) -> list[tuple[int, float, float, float]]:
    """Of each atom how often it occurs, its place and the next value's, and how far from it it goes, in units of the std."""
    hurdle, ceiling = ends
    lower = [] if hurdle is None else [(seen.least, hurdle.value, hurdle.above, -2 * hurdle.gap)]
    upper = [] if ceiling is None else [(seen.most, ceiling.value, ceiling.below, 2 * ceiling.gap)]
    return [(count, _at(transform, value), _at(transform, near), away) for count, value, near, away in lower + upper]


def _step(transform: Transform, mean: float) -> float:
    """How far a step of 1 at the mean goes behind the transform."""
    place = float(transform.inverse(torch.tensor(mean, dtype=torch.float64)))
    return _at(transform, round(place) + 1.0) - _at(transform, float(round(place)))


def _at(transform: Transform, value: float) -> float:
    return float(transform(torch.tensor(value, dtype=torch.float64)))


def _range(seen: ChannelStatistics) -> ChannelRange:
    low, high = seen.quantiles(SHOWN).tolist()
    return ChannelRange(seen.lowest, seen.highest, low, high, seen.zeros / seen.count, seen.least / seen.count)
