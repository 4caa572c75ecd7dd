"""Whether a start pays: the distance of warm and cold samples from real images, at equal network evaluations (NFE).

*Cold* samples begin at noise alone: by DPM-Solver++(2M) from the sigma that just hides the data, which is the best control, and
as the recipe samples. *Warm* ones begin at the start. Every distance is the mean of several *sets* of seeds, the same ones for
warm and cold samples, and a difference counts only beyond their spread.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pixelpath.errors import UserError
from pixelpath.evaluation.distances import frechet_of_sets
from pixelpath.log import say
from pixelpath.runs.measuring.comparison import Real, RealStatistics, batches_of, features_of, pixels, protocol, real_statistics
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import sample
from pixelpath.runs.sample_conditions import as_held_out
from pixelpath.sampling.sampler import Sampler, Sampling

EQUAL, CLOSER = 1.05, 0.9  # of distances: no worse than, and closer than
SETS = 3  # of seeds
KINDS = ("cold", "warm")  # with which the names of curves begin
ERRORS = 2.0  # standard errors of a difference beyond which it counts


@dataclass(frozen=True)
class Quality:
    """How warm and cold samples are compared: by three sets of `count` samples at each of some numbers of evaluations."""

    count: int = 500
    """Samples in each of three sets of seeds, at every number of evaluations; 0 leaves the comparison out."""
    nfe: tuple[int, ...] = (3, 5, 7, 9, 13, 17)
    """Network evaluations (NFE) of one sample; at odd ones Heun's method is compared too."""

    def __post_init__(self) -> None:
        if self.count < 0 or self.count == 1 or min(self.nfe, default=0) < 1:
            raise UserError(
                f"`quality.count` must be 0 or at least 2 and `quality.nfe` at least 1, got {self.count} and {self.nfe}."
            )


@dataclass(frozen=True)
class QualityPoint:
    """The Frechet distance of each set of samples that took `nfe` evaluations each, and their mean.

    `frechet_of_few` is `frechet`: a set has as many samples as the floor has images.
    """

    steps: int
    nfe: float
    distances: tuple[float, ...]
    frechet: float
    frechet_of_few: float
    seconds: float

    @property
    def spread(self) -> float:
        """The std of a set's distance, as a share of the mean."""
        return statistics.stdev(self.distances) / self.frechet if self.frechet > 0 else 0.0


@dataclass(frozen=True)
class QualityCurve:
    """A way to sample and its points in one kind of features, with the floor of `few` real images and the protocol of all."""

    name: str
    sampler: str
    features: str
    floor: float
    few: int
    points: tuple[QualityPoint, ...]
    protocol: dict[str, Any]

    @property
    def evaluations(self) -> float:
        """Of the network, by all samples of all points."""
        return sum(point.nfe * len(point.distances) * self.few for point in self.points)


@dataclass(frozen=True)
class Verdict:
    """Whether a start pays, in words; if it does, the fewest evaluations and the sampler to use it with.

    `saved` are the evaluations that this saves for one sample.
    """

    pays: bool
    sentence: str
    nfe: int | None = None
    sampler: str | None = None
    saved: float = 0.0

    def repaid(self, spent: float) -> str:
        """After how many samples a fit that `spent` so many evaluations is repaid; empty where nothing is saved."""
        return f"It is repaid after {math.ceil(spent / self.saved):,} samples." if self.saved else ""


def measure_quality(folder: Path, run: OpenRun, data: PreparedData, quality: Quality, hidden: float | None) -> list[QualityCurve]:
    """Distance in pixels over evaluations, unguided: cold by the recipe and from the sigma that hides the data, warm."""
    if quality.count == 0:
        return []
    odd = [number for number in quality.nfe if number % 2]
    usual = Sampling(steps=run.recipe.usual_sampling.count, guidance=1.0)
    cold = {"cold, as the recipe": [usual]}
    high = "" if hidden is None else f" from sigma {hidden:.3g}"
    cold |= {f"cold, 2M{high}": [Sampling(nfe=number, sampler=Sampler.DPMPP_2M, sigma_max=hidden) for number in quality.nfe]}
    warm = {"warm, 2M": [Sampling(nfe=number, sampler=Sampler.DPMPP_2M, start=folder) for number in quality.nfe]}
    warm |= {"warm, Heun": [Sampling(nfe=number, sampler=Sampler.HEUN, start=folder) for number in odd]} if odd else {}
    real = Real(data)
    known, _, _ = real_statistics(pixels(data), real, max(2, min(quality.count, real.few)), run.device)
    return [_curve(name, run, known, real, [replace(way, guidance=1.0) for way in ways]) for name, ways in (cold | warm).items()]


def _curve(name: str, run: OpenRun, known: RealStatistics, real: Real, ways: Sequence[Sampling]) -> QualityCurve:
    """The curve of some ways to sample; says every point as soon as it is measured."""
    sets = [range(known.few * place, known.few * (place + 1)) for place in range(SETS)]
    conditions = [as_held_out(run, real.data, seeds) for seeds in sets]
    points, about = [], None
    for way in ways:
        made = [sample(run, *each, way) for each in zip(sets, conditions, strict=True)]
        distances = tuple(
            frechet_of_sets(features_of(known.extractor, batches_of(each, real.data), len(each), run.device), known.statistics)
            for each in made
        )
        mean, first = statistics.fmean(distances), made[0]
        seconds = sum(each.seconds for each in made)
        points.append(QualityPoint(first.settings["steps"], first.nfe, distances, mean, mean, seconds))
        about = replace(protocol(known.extractor, known.count, real, first, run), steps=None, nfe=None)
        about = replace(about, seeds=(sets[0][0], sets[-1][-1]))
        spread = f"{mean:.4g} +- {statistics.stdev(distances):.2g} ({known.extractor.name})"
        say(f"{name}: {first.nfe:g} network evaluations (NFE) per image, {seconds:.1f} s; Frechet distance {spread}.")
    assert about is not None
    sampler = str(about.sampler)
    return QualityCurve(name, sampler, known.extractor.name, known.floor, known.few, tuple(points), asdict(about))


def start_pays(found: Sequence[QualityCurve]) -> Verdict:
    """Whether warm samples need fewer evaluations than the best cold ones for the same distance, and the sentence that says so.

    The goal is 1.05 times the least cold distance. At the fewest evaluations at which warm samples reach it, they must also be
    closer than cold ones of as many or fewer, by a tenth and by two standard errors of the difference. That of a mean is the
    spread of the sets, pooled over all points that are less than twice the goal away, over the root of their number.
    """
    cold, warm = ([(point, curve) for curve in found if curve.name.startswith(kind) for point in curve.points] for kind in KINDS)
    goal = EQUAL * min(point.frechet for point, _ in cold)
    near = [point for point, _ in [*cold, *warm] if point.frechet <= 2 * goal]
    error = math.sqrt(2 * statistics.fmean(point.spread**2 for point in near) / min(len(point.distances) for point in near))
    least, control = min((each for each in cold if each[0].frechet <= goal), key=_cheapest)
    reached = [each for each in warm if each[0].frechet <= goal]
    if not reached:
        best = min((point for point, _ in warm), key=lambda point: point.frechet)
        lowest = min((point for point, _ in cold), key=lambda point: point.frechet)
        sentence = f"the distance of warm samples is {_said(best)} at best, that of cold ones {_said(lowest)}"
        return Verdict(False, f"No start pays here: {sentence}.")
    fewest, own = min(reached, key=_cheapest)
    equal = min((point.frechet for point, _ in cold if point.nfe <= fewest.nfe), default=math.inf)
    numbers = (
        f"{fewest.nfe:g} evaluations ({own.name}: {_said(fewest)}) and {least.nfe:g} ({control.name}: {_said(least)}) reach a "
        f"distance of {goal:.3g}, by {len(fewest.distances)} sets of seeds"
    )
    if fewest.nfe >= least.nfe or fewest.frechet > min(CLOSER, 1 - ERRORS * error) * equal:
        return Verdict(False, f"No start pays here: {numbers}.")
    times = f"The start needs {least.nfe / fewest.nfe:.1f} times fewer evaluations than the best cold samples"
    return Verdict(True, f"{times}: {numbers}.", round(fewest.nfe), own.sampler, least.nfe - fewest.nfe)


def _cheapest(each: tuple[QualityPoint, QualityCurve]) -> tuple[float, float]:
    return each[0].nfe, each[0].frechet


def _said(point: QualityPoint) -> str:
    return f"{point.frechet:.3g} +- {point.spread * point.frechet:.1g}"
