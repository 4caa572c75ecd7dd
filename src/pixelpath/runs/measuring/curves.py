"""Quality over cost: the distance of samples from real images by network evaluations (NFE) per image.

A *way* to sample is a `Sampling` with a certain number of steps. A *curve* is a name and its points, one a way, in one kind of
features. Curves measured together are one *result*, which RUN/distance_over_nfe.json of every run among them keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pixelpath.errors import UserError
from pixelpath.evaluation.distances import frechet_of_sets
from pixelpath.evaluation.features import FeatureExtractor
from pixelpath.log import hushed, say
from pixelpath.reports.pictures import distance_over_nfe, save_png
from pixelpath.runs.measuring.comparison import Real, RealStatistics, batches_of, features_of, keep, protocol, real_statistics
from pixelpath.runs.measuring.report import write_report
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import Samples, completed, sample
from pixelpath.runs.sample_conditions import as_held_out
from pixelpath.runs.titles import names
from pixelpath.sampling.sampler import Sampling
from pixelpath.starts import files

RESULTS, PICTURE = "distance_over_nfe.json", "distance_over_nfe.png"


@dataclass(frozen=True)
class DistancePoint:
    """The Frechet distance of all samples and of the first few of them, after `steps` that took `nfe` evaluations per image."""

    steps: int
    nfe: float
    frechet: float
    frechet_of_few: float
    seconds: float


@dataclass(frozen=True)
class DistanceCurve:
    """A name and its points in one kind of features, with the floor of `few` real images and the protocol of all points."""

    name: str
    run: str
    recipe: str
    step: int
    features: str
    floor: float
    few: int
    points: tuple[DistancePoint, ...]
    protocol: dict[str, Any]


def check_same_images(runs: Sequence[OpenRun]) -> None:
    """UserError if a run is named twice, or was trained on images of another shape or normaliser than the first one."""
    first, places = runs[0], [run.path.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{run.path} is named twice: name every run once.", setting="runs")
        if (run.shape, run.normaliser) != (first.shape, first.normaliser):
            sentence = f"{run.path} was trained on other images than {first.path}, so their distances cannot be compared"
            raise UserError(f"{sentence}: evaluate them one at a time.", setting="runs")


def curves(
    runs: Sequence[OpenRun],
    data: PreparedData,
    seeds: Sequence[int],
    ways: Sequence[Sampling],
    found: Sequence[FeatureExtractor],
    batch_size: int = 64,
) -> list[DistanceCurve]:
    """A curve per run, start and kind of features: samples of `seeds` in each of the ways, compared with the same real images.

    Raises UserError for fewer than two seeds, and for a way that does not fit one of the runs, before anything is sampled.
    """
    if len(seeds) < 2:
        sentence = f"A Frechet distance needs at least 2 samples, got {len(seeds)}: raise `count`."
        raise UserError(sentence, setting="count")
    with hushed():
        for run, way in product(runs, ways):
            completed(run, way)
    real = Real(data)
    features = [real_statistics(extractor, real, len(seeds), runs[0].device)[0] for extractor in found]
    measured: list[DistanceCurve] = []
    for run, name in zip(runs, names([run.path for run in runs]), strict=True):
        condition = as_held_out(run, data, seeds)
        for start in dict.fromkeys(way.start for way in ways):
            named = f"{name} ({run.recipe.name})" + ("" if start is None else f" from {start_name(start)}")
            made = (sample(run, seeds, condition, way, batch_size) for way in ways if way.start == start)
            measured += _curves_of(run, named, made, features, real)
    return measured


def start_name(start: Path) -> str:
    """The name of a start, for its curve."""
    metadata = files.about(start)
    return f"start {metadata.get('name', start.name)} at sigma {metadata['sigma']:.3g}"


def write(runs: Sequence[OpenRun], found: Sequence[DistanceCurve]) -> None:
    """Add the curves to RUN/distance_over_nfe.json of every run, draw them beside it, and write the run's report again."""
    result = {"curves": [asdict(curve) for curve in found]}
    picture = distance_over_nfe(result["curves"])
    for run in runs:
        keep(run.path / RESULTS, result)
        save_png(run.path / PICTURE, picture)
        say(f"Distance over network evaluations: {run.path / RESULTS}, {write_report(run.path)}.")


def _curves_of(
    run: OpenRun, name: str, samples: Iterable[Samples], features: Sequence[RealStatistics], real: Real
) -> list[DistanceCurve]:
    """The run's curves, one per kind of features; says every point as soon as it is measured."""
    points: list[list[DistancePoint]] = []
    about: list[dict[str, Any]] = []
    for made in samples:
        points.append([_point(known, made, real.data) for known in features])
        about = [_about(known, real, made, run) for known in features]
        distances = ", ".join(f"{p.frechet:.4g} ({known.extractor.name})" for known, p in zip(features, points[-1], strict=True))
        cost = f"steps {made.settings['steps']}, {made.nfe:g} network evaluations (NFE) per image, {made.seconds:.1f} s"
        say(f"{name}: {cost}; Frechet distance {distances}.")
    return [
        DistanceCurve(name, str(run.path), run.recipe.name, run.step, each.extractor.name, each.floor, each.few, found, protocol)
        for each, found, protocol in zip(features, zip(*points, strict=True), about, strict=True)
    ]


def _point(known: RealStatistics, made: Samples, data: PreparedData) -> DistancePoint:
    generated = features_of(known.extractor, batches_of(made, data), len(made), made.run.device)
    every = frechet_of_sets(generated, known.statistics)
    few = every if known.few == len(generated) else frechet_of_sets(generated[: known.few], known.statistics)
    return DistancePoint(made.settings["steps"], made.nfe, every, few, made.seconds)


def _about(known: RealStatistics, real: Real, made: Samples, run: OpenRun) -> dict[str, Any]:
    """What the protocols of all points share: steps and network evaluations stand in the points."""
    alike = replace(protocol(known.extractor, known.count, real, made, run), steps=None, nfe=None)
    return asdict(alike)
