"""How heavy the tails of images are, and whether samples have the same.

The *index* of a tail is nu where P(value > r) falls like r^-nu: moments of order nu and above do not exist. A quantile's
*exceedances* are the held-out images beyond it. The *worst direction* is that in which a quantile of the samples errs most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.data.normalise.propose import CERTAIN, pareto_shape
from pixelpath.errors import UserError
from pixelpath.evaluation.histograms import Values
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.sampling.checks import check_finite, noised
from pixelpath.starts.start import Start
from pixelpath.types import Images

HeldOut = Float[Tensor, "held_out _ _ _"]

LEAST = 20  # exceedances, at least, to judge a quantile by
HEAVY = 6.0  # an estimated index below this means a heavy tail; above about 5 the number itself is unreliable
WIDER = 5  # times the values of an index, by which it is told whether the tail is heavy
AXES = 16  # principal axes along which tails are compared, and as many random directions
SEARCHED = 4096  # images of each set, at most, in which principal axes are looked for
REPLICATES = 1000
POWER = 0.8  # share of repetitions in which a detectable error is found
MOST_LOG = 700.0  # of a ratio: it has no bound where a quantile reaches down to the centre, and exp overflows
LOWEST = 0.8  # lowest probability whose quantile counts as tail
PROBABILITIES = (0.99, 0.999, 0.9999)
EXTREME = 0.999  # probability of the quantile by which pixel values of heavy tails are compared


@dataclass(frozen=True)
class Index:
    """An estimated tail index with its standard error, from the `count` greatest of `total` values.

    `shape` is that of the excesses of five times as many (see `pareto_shape`), which is 0 for an
    exponential tail: its Hill index is low too.
    """

    value: float
    error: float
    count: int
    total: int
    shape: float
    shape_error: float

    @property
    def heavy(self) -> bool:
        """Whether the tail is heavy: its index is low, and it is certainly heavier than an exponential one."""
        return self.value < HEAVY and self.shape > CERTAIN * self.shape_error


def hill(values: Float[Tensor, "value"], count: int | None = None) -> Index:
    """The tail index by the `count` greatest values (None: one in a hundred): 1 / mean of ln(X_(i) / X_(count + 1)).

    Hill 1975 ("A simple general approach to inference about the tail of a distribution"); the standard error is index /
    sqrt(count). Raises UserError for fewer than 20 values in the tail, or if the tail reaches down to 0.
    """
    total = len(values)
    count = total // 100 if count is None else count
    if not LEAST <= count < total:
        raise UserError(
            f"A tail index from {count} of {total} values cannot be relied on: give at least {LEAST} exceedances, which is "
            f"{100 * LEAST} images at one in a hundred, and fewer than there are values."
        )
    greatest = values.detach().cpu().double().topk(count + 1).values
    if not greatest.isfinite().all() or greatest[-1] <= 0:
        raise UserError("A tail index needs finite values that are positive in the tail: give radii, and more images than that.")
    spread = float(log_spread(greatest))
    index = 1 / spread if spread > 0 else math.inf
    more = min(WIDER * count, total - 1)
    wider = values.detach().cpu().double().topk(more + 1).values
    shape = pareto_shape((wider[:-1] - wider[-1]).numpy(), np.ones(more))
    return Index(index, index / math.sqrt(count), count, total, *shape)


def log_spread(greatest: Float[Tensor, "rank *column"]) -> Float[Tensor, "*column"]:
    """1 / Hill's index of each column, from its greatest values in falling order: the mean of ln(X_(i) / X_(count + 1)).

    The last one, X_(count + 1), is that beyond which the tail is taken; where it is not positive, there is no index.
    """
    return (greatest[:-1] / greatest[-1]).log().mean(0)


def radii(images: Images) -> Float[Tensor, "batch"]:
    """The distance of every image from the median image (pixel by pixel), in float64 on the CPU."""
    rows = images.detach().cpu().double().flatten(1)
    return (rows - rows.median(0).values).norm(dim=1)


@dataclass(frozen=True)
class ValueTail:
    """A channel whose pixel values have a heavy tail: their median, and the .999 quantile of their distances from it."""

    channel: int
    median: float
    quantile: float


def value_tails(values: Values, channels: int) -> tuple[ValueTail, ...]:
    """The channels of the data whose pixel values have a heavy tail (see `Index.heavy`), with at least 20 beyond the quantile."""
    found = []
    for channel in range(channels):
        known = values.channel(channel)
        median = float(np.median(known))
        away = np.sort(np.abs(known - median))
        enough = len(away) * (1 - EXTREME) >= LEAST and away[-1 - len(away) // 100] > 0
        if enough and hill(torch.from_numpy(away)).heavy:
            found.append(ValueTail(channel, median, float(np.quantile(away, EXTREME))))
    return tuple(found)


def tail_error(tails: Sequence[ValueTail], values: Values) -> float:
    """The relative error of the .999 quantile of samples, samples / data - 1, in the worst of these channels.

    It is below 0 where extremes are lost.
    """
    errors = (np.quantile(np.abs(values.channel(each.channel) - each.median), EXTREME) / each.quantile - 1 for each in tails)
    return float(max(errors, key=abs))


def require_light_tails(index: Index) -> None:
    """UserError for data of heavy tails, to which no density with the tail of a Gaussian is fitted.

    What such a density lacks lies in images so rare that some hundred held-out ones hold none: its certificate would be praise
    (docs/results.md, "How often the limit of a certificate holds").
    """
    if index.heavy:
        raise UserError(
            f"The data's tails are heavy (index {index.value:.2f} +- {index.error:.2f}), those of a Gaussian are not, and what "
            "it lacks is too rare for held-out images to show: use a Student mixture, or add a Pareto tail to the density."
        )


@dataclass(frozen=True)
class TailQuantile:
    """One quantile of samples against held-out images.

    `error` is samples / held out - 1. `interval` is its 99 % confidence interval by the bootstrap, over all directions at once
    for the worst one. `detectable` are the nearest errors below and above 0 that this comparison would find wrong in 8 of 10
    repetitions: it could not have seen smaller ones. `exceedances` counts held-out images beyond their own quantile, `beyond`
    samples beyond that value, and `expected` is what `beyond` would be with equal tails.
    """

    what: str
    probability: float
    held_out: float
    samples: float
    error: float
    interval: tuple[float, float]
    detectable: tuple[float, float]
    exceedances: int
    beyond: int
    expected: float

    @property
    def certified(self) -> bool:
        """Whether there are enough exceedances to judge by."""
        return self.exceedances >= LEAST

    def wrong(self, tolerance: float) -> bool:
        """Whether the error is certified, greater than the tolerance, and beyond chance."""
        return self.certified and abs(self.error) > tolerance and not self.interval[0] <= 0 <= self.interval[1]

    def sentence(self) -> str:
        """What was found, in words."""
        found = (
            f"{self.what}, quantile {self.probability:g}: {self.error:+.1%} [{self.interval[0]:+.1%}, {self.interval[1]:+.1%}], "
            f"{self.beyond} samples beyond it where {self.expected:.0f} are expected; errors between {self.detectable[0]:+.0%} "
            f"and {self.detectable[1]:+.0%} could not have been seen"
        )
        return found if self.certified else f"{found}; not certified, with {self.exceedances} exceedances of {LEAST}"


@dataclass(frozen=True)
class TailReport:
    """The quantiles of radius and worst direction, and the relative error allowed."""

    quantiles: tuple[TailQuantile, ...]
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether no certified quantile is wrong."""
        return not any(quantile.wrong(self.tolerance) for quantile in self.quantiles)

    @property
    def certified_to(self) -> float:
        """The greatest probability at which there are enough exceedances."""
        return max(quantile.probability for quantile in self.quantiles if quantile.certified)

    def sentence(self) -> str:
        """What the gate says of the furthest certified radius: that it is wrong, or not rejected, and what it could have seen."""
        last = next(each for each in self.quantiles if each.probability == self.certified_to)
        low, high = last.detectable
        seen = f"errors of its radius between {low:+.0%} and {high:+.0%} could not have been seen"
        return f"tails {'not rejected' if self.passes else 'rejected'} to the {self.certified_to:g} quantile ({seen})"


def compare_tails(
    samples: Images,
    held_out: HeldOut,
    probabilities: Sequence[float] = PROBABILITIES,
    tolerance: float = 0.1,
    seed: int = 0,
) -> TailReport:
    """Quantiles of samples against those of held-out images at the same level: of the radius, and along the worst direction.

    Both sets are centred on the held-out median image. Directions are the principal axes of both sets together and random ones,
    each both ways; the worst has the greatest absolute error. Without twice as many images as values directions are random alone:
    principal axes are then what tells two sets of one law apart. A quantile p of n values is the ceil(p n)-th smallest; the
    bootstrap replaces its rank by a draw from the ranks that the quantile of n redrawn values has, n Beta(ceil(p n), n -
    ceil(p n) + 1). Raises UserError for samples that are not finite or of another shape, and where no quantile has 20
    exceedances.
    """
    _check(samples, held_out, probabilities)
    rows = [each.detach().cpu().double().flatten(1) for each in (held_out, samples)]
    centre = rows[0].median(0).values
    truth, drawn = rows[0] - centre, rows[1] - centre
    directions = _directions(truth, drawn, seed)
    along = [torch.cat([each @ directions, -(each @ directions)], 1).T.sort(1).values for each in (truth, drawn)]
    far = [each.norm(dim=1, keepdim=True).T.sort(1).values for each in (truth, drawn)]
    chance = np.random.default_rng(seed)
    return TailReport(
        tuple(
            _quantile(what, probability, sets[0], sets[1], tolerance, chance)
            for what, sets in (("radius", far), ("worst direction", along))
            for probability in probabilities
        ),
        tolerance,
    )


def tail_gate(
    start: Start,
    held_out: HeldOut,
    sigma: float,
    labels: Int[Tensor, "held_out"] | None = None,
    count: int | None = None,
    tolerance: float = 0.1,
    seed: int = 0,
    probabilities: Sequence[float] = PROBABILITIES,
) -> TailReport:
    """`compare_tails` of `count` draws from a start (None: as many as held out) with held-out clean images noised to sigma.

    The draws take the `labels` of the held-out images in turn. All draws are functions of `seed`.
    """
    count = len(held_out) if count is None else count
    noisy = noised(held_out.detach().cpu(), sigma, [seed_of(seed, 0, index) for index in range(len(held_out))])
    streams = Streams(seed_of(seed, 1, index) for index in range(count))
    chosen = None if labels is None else labels.cpu()[torch.arange(count) % len(labels)]
    return compare_tails(start.sample(streams, sigma, chosen), noisy, probabilities, tolerance, seed)


def within_reach(count: int) -> tuple[float, ...]:
    """The probabilities to compare quantiles at that `count` held-out images allow: the usual ones, led by one of 20
    exceedances.

    Empty if they reach no further than the .8 quantile, which is no tail.
    """
    reached = math.floor(1000 * (1 - LEAST / count)) / 1000 if count else 0.0
    least = min(reached, PROBABILITIES[0])
    return (least, *(each for each in PROBABILITIES if each > least)) if least >= LOWEST else ()


def _check(samples: Images, held_out: HeldOut, probabilities: Sequence[float]) -> None:
    if samples.shape[1:] != held_out.shape[1:]:
        raise UserError(
            f"Tails are compared between images of one shape, got samples {list(samples.shape[1:])} and held-out "
            f"{list(held_out.shape[1:])}: fit the start to data of that shape."
        )
    check_finite(samples, "samples", "look for overflow in the start")
    check_finite(held_out, "held-out images", "look for NaN in the data")
    if not all(0 < probability < 1 for probability in probabilities):
        raise UserError(f"Quantiles are of probabilities between 0 and 1, got {list(probabilities)}: give some of these.")
    lowest = min(probabilities)
    exceedances = len(held_out) - _rank(lowest, len(held_out))
    if exceedances < LEAST:
        raise UserError(
            f"Even the {lowest:g} quantile of {len(held_out)} held-out images has {exceedances} exceedances, fewer than {LEAST}: "
            f"hold out at least {math.ceil(LEAST / (1 - lowest) - 1e-6)} images."
        )


def _rank(probability: float, count: int) -> int:
    return min(count, max(1, math.ceil(round(probability * count, 6))))


def _directions(truth: Float[Tensor, "held_out value"], drawn: Float[Tensor, "sample value"], seed: int) -> Tensor:
    """Unit vectors [value, direction]: principal axes of as many images of each set, if they are enough, and random ones."""
    from sklearn.utils.extmath import randomized_svd

    same = min(len(truth), len(drawn), SEARCHED)
    values = truth.shape[1]
    others = normal(Streams([seed]), (values, AXES), torch.float64)[0]
    others = others / others.norm(dim=0)
    if same < 2 * values:  # their first axis would be the difference of their noise
        return others
    both = torch.cat([truth[:same], drawn[:same]])
    axes = randomized_svd(both.numpy(), min(AXES, values), random_state=seed % 2**32)[2].T.copy()
    return torch.cat([torch.from_numpy(axes).double(), others], 1)


def _quantile(
    what: str,
    probability: float,
    truth: Float[Tensor, "direction held_out"],
    drawn: Float[Tensor, "direction sample"],
    tolerance: float,
    chance: np.random.Generator,
) -> TailQuantile:
    """The comparison along the worst of some directions, whose values are sorted.

    The band is the 99 % quantile of the greatest deviation of a bootstrapped log ratio over all directions, drawn
    independently: no narrower than with their dependence. An error of the log ratio is found in POWER of repetitions if it is
    that much greater, by the ratio's own standard error, than what band and tolerance let pass.
    """
    ranks = [_rank(probability, each.shape[1]) for each in (truth, drawn)]
    found = [each[:, rank - 1].clamp(min=1e-300) for each, rank in zip((truth, drawn), ranks, strict=True)]
    ratio = (found[1] / found[0]).log()
    redrawn = [_redrawn(each, rank, chance).log() for each, rank in zip((truth, drawn), ranks, strict=True)]
    deviations = redrawn[1] - redrawn[0] - ratio[:, None]
    band = float(deviations.abs().amax(0).quantile(0.99))
    errors = ratio.expm1()
    worst = int(errors.abs().argmax())
    far = min(float(ratio[worst]) + band, MOST_LOG)
    beyond_chance = NormalDist().inv_cdf(POWER) * float(deviations[worst].std())
    seen = [max(band, least) + beyond_chance for least in (-math.log1p(-tolerance), math.log1p(tolerance))]
    return TailQuantile(
        what,
        probability,
        held_out=float(found[0][worst]),
        samples=float(found[1][worst]),
        error=float(errors[worst]),
        interval=(math.expm1(float(ratio[worst]) - band), math.expm1(far)),
        detectable=(math.expm1(-seen[0]), math.expm1(min(seen[1], MOST_LOG))),
        exceedances=truth.shape[1] - ranks[0],
        beyond=int((drawn[worst] > found[0][worst]).sum()),
        expected=(truth.shape[1] - ranks[0]) * drawn.shape[1] / truth.shape[1],
    )


def _redrawn(values: Float[Tensor, "direction count"], rank: int, chance: np.random.Generator) -> Tensor:
    """Bootstrap replicates [direction, replicate] of the rank-th smallest value."""
    count = values.shape[1]
    places = np.minimum(count - 1, (count * chance.beta(rank, count - rank + 1, (len(values), REPLICATES))).astype(np.int64))
    return values.gather(1, torch.from_numpy(places)).clamp(min=1e-300)
