"""Which normalisation data ask for, and why, by some of their images.

The *tail index* says how heavy a tail is: P(|x - median| > t) falls like t^-index, so a variance exists only above 2, a kurtosis
above 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.normalise.fitting import MANY
from pixelpath.data.normalise.statistics import ChannelStatistics, measure
from pixelpath.data.sources import Source, evenly, subset

IMAGES = 256  # are looked at, at most
VALUES = 2**26  # in all of them, at most
TAIL = 0.01  # share of the values that the tail index is estimated from
LEAST = 50  # values in a tail to judge by
CERTAIN = 2.0  # standard errors that a tail must be away from an exponential one
HEAVY = 4.0  # a tail index below it means that not even the kurtosis exists
SKEWED = 2.0  # the skewness of an exponential distribution
HOUNSFIELD = (-1000.0, 1000.0)  # air to dense bone


@dataclass(frozen=True)
class Proposal:
    """A normalisation, and one sentence for every observation and decision that led to it.

    `each` has one normalisation for all channels or one each; where they differ, `how` is of kind auto.
    """

    how: Normalisation
    why: tuple[str, ...]
    each: tuple[Normalisation, ...]


@dataclass(frozen=True)
class Shape:
    """The shape of a channel's density: is it negative anywhere, share of the lowest value, skewness, and tail index."""

    negative: bool
    least: float
    skewness: float
    index: float

    @property
    def heavy(self) -> bool:
        """Whether a tail is heavier than a normaliser without transform can hold."""
        return self.index < HEAVY


def propose(
    source: Source,
    workers: int | None = 0,
    nodata: float | None = None,
    given: Normalisation = Normalisation("auto"),  # noqa: B008 (frozen)
) -> Proposal:
    """The normalisation for these data, judged on at most 256 images spread evenly; `nodata` is that of the metadata if None.

    Photographs and 8-bit data: affine. HU: a window from air to bone. Else every channel on its own, or all together where
    they are to share a curve (`per_channel` of what is `given`, which is kept, as is its hurdle). A heavy tail (index below 4)
    or a skewness beyond 2: asinh where anything is negative, else (if to the right) log1p, with a hurdle where a twentieth of a
    channel has its lowest value. Otherwise: affine. Raises as `measure`.
    """
    nodata = source.metadata.nodata if nodata is None else nodata

    def kept(how: Normalisation) -> Normalisation:
        return replace(how, per_channel=given.per_channel, hurdle=how.hurdle if given.hurdle is None else given.hurdle)

    if source.metadata.photographs or source.dtype.itemsize == 1:
        what = (
            "photographs"
            if source.metadata.photographs
            else f"{source.dtype.name}, whose 256 values leave no room for long tails"
        )
        return _alike(kept(Normalisation()), f"The images are {what}, so values are only centred and scaled (affine).")
    if source.metadata.units.strip().upper() == "HU":
        why = f"The units are HU, so a window from {HOUNSFIELD[0]:g} to {HOUNSFIELD[1]:g} stays straight (window)."
        return _alike(kept(Normalisation("window", window=HOUNSFIELD)), why)
    most = max(1, min(IMAGES, VALUES // math.prod(source.shape)))
    shapes = [_shape(seen) for seen in measure(subset(source, evenly(len(source), most)), workers, nodata)]
    seen = [_sentence(channel, shape) for channel, shape in enumerate(shapes)]
    found = [_decide([shape]) for shape in shapes] if given.per_channel else [_decide(shapes)]
    if len({how for how, _ in found}) == 1:
        how, reason = found[0]
        return _alike(kept(how), *seen, reason)
    why = [f"{sentence} {reason}" for sentence, (_, reason) in zip(seen, found, strict=True)]
    kinds = ", ".join(f"{channel} {how.kind}" for channel, (how, _) in enumerate(found))
    last = f"The channels differ in kind, so each has a curve of its own ({kinds})."
    return Proposal(given, (*why, last), tuple(kept(how) for how, _ in found))


def _alike(how: Normalisation, *why: str) -> Proposal:
    return Proposal(how, why, (how,))


def _decide(shapes: Sequence[Shape]) -> tuple[Normalisation, str]:
    """One normalisation for channels of these shapes, and why."""
    negative = any(shape.negative for shape in shapes)
    usable = [shape for shape in shapes if negative or shape.skewness > 0]  # log1p would only lengthen a tail to the left
    heavy, skewed = any(shape.heavy for shape in usable), any(abs(shape.skewness) > SKEWED for shape in usable)
    if not heavy and not skewed:
        return Normalisation(), "None of this needs a curve, so values are only centred and scaled (affine)."
    cause = "Tails are heavy" if heavy else "Values are skewed"
    if negative:
        return Normalisation("asinh"), f"{cause} and some values negative, so values go through asinh(x / scale) (asinh)."
    if not any(shape.least >= MANY for shape in shapes):
        how = Normalisation("log1p", hurdle=False)
        return how, f"{cause} and nothing is negative, so values go through ln(1 + x / scale) (log1p)."
    sentence = "many values are exactly the lowest: values go through ln(1 + x / scale), those kept apart by a gap"
    return Normalisation("log1p"), f"{cause}, nothing is negative, and {sentence} (log1p with a hurdle)."


def _sentence(channel: int, shape: Shape) -> str:
    sign = "some values are negative" if shape.negative else "no value is negative"
    tail = "no heavy tail" if math.isinf(shape.index) else f"tail index {shape.index:.1f}"
    return f"Channel {channel}: {sign}, {shape.least:.0%} are exactly the lowest, skewness {shape.skewness:.1f}, {tail}."


def _shape(seen: ChannelStatistics) -> Shape:
    values, weights = seen.values, seen.weights / seen.weights.sum()
    mean = float((values * weights).sum())
    std = math.sqrt(float(((values - mean) ** 2 * weights).sum()))
    skewness = float((((values - mean) / std) ** 3 * weights).sum()) if std > 0 else 0.0
    return Shape(seen.lowest < 0, seen.least / seen.count, skewness, tail_index(seen))


def tail_index(seen: ChannelStatistics) -> float:
    """The tail index 1 / xi of |x - median| by the greatest hundredth of the values, see `pareto_shape`.

    Infinity where there are too few of them, or where xi is not certainly above 0, as that of an exponential tail is.
    """
    far = np.abs(seen.values - seen.quantiles(np.array([0.5])))
    order = np.argsort(-far, kind="stable")
    far, weights = far[order], seen.weights[order]
    reached = weights.cumsum()
    count = int((reached <= TAIL * reached[-1]).sum())
    if count == 0 or count == len(far) or reached[count - 1] < LEAST:
        return math.inf
    inverse, error = pareto_shape(far[:count] - far[count], weights[:count])
    return 1 / inverse if inverse > CERTAIN * error else math.inf


def pareto_shape(excess: Float[np.ndarray, "value"], weights: Float[np.ndarray, "value"]) -> tuple[float, float]:
    """The shape xi of a generalised Pareto distribution, by falling excesses y over a threshold, and its standard error.

    xi = 2 - a0 / (a0 - 2 a1), a0 being the mean of y and a1 that of y (1 - F); P(y > t) falls like t^(-1/xi), and xi is 0 for
    an exponential tail. The variance for n independent values is (1 - xi)(2 - xi)^2 (1 - xi + 2 xi^2) / ((1 - 2 xi)(3 - 2 xi)
    n), below xi = 1/2; above, that at 0.45 is given. Hosking and Wallis 1987 (Technometrics 29). Unlike Hill's, xi does not
    depend on where 0 lies. Minus infinity if all excesses are equal.
    """
    total = float(weights.sum())
    share, beyond = weights / total, (weights.cumsum() - weights / 2) / total
    mean, least = float((excess * share).sum()), float((excess * share * beyond).sum())
    if mean <= 2 * least:
        return -math.inf, 0.0
    shape = 2 - mean / (mean - 2 * least)
    xi = min(max(shape, -1.0), 0.45)
    variance = (1 - xi) * (2 - xi) ** 2 * (1 - xi + 2 * xi**2) / ((1 - 2 * xi) * (3 - 2 * xi) * total)
    return shape, math.sqrt(variance)
