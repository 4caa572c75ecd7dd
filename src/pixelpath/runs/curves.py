"""Quality over cost: how far samples are from real images, by how often the network is evaluated for one of them.

A *way* to sample is a `Sampling`; one with a certain number of steps is a *point*: its distance and its network evaluations an image
(of Heun's method 2 steps - 1, of renoising one a step, twice as many under guidance). A *curve* is a name and its points in one
kind of features. Curves measured together are one *result*; RUN/evaluations.json of every run among them keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet
from pixelpath.evaluation.features import FeatureExtractor, extract
from pixelpath.log import say
from pixelpath.reports.pictures import evaluations_plot, save_png
from pixelpath.runs.comparison import BATCH, Known, Real, keep, known, protocol
from pixelpath.runs.conditions import as_held_out
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.report import write_report
from pixelpath.runs.sample import Samples, sample
from pixelpath.sampling.sampler import Sampling
from pixelpath.starts import files

RESULTS = "evaluations.json"


@dataclass(frozen=True)
class Point:
    """The Frechet distance of all samples and of the first few of them, at `steps` that took `evaluations` an image."""

    steps: int
    nfe: float
    frechet: float
    frechet_of_few: float
    seconds: float


@dataclass(frozen=True)
class Curve:
    """A name and its points in one kind of features, with the floor of `few` real images and the protocol of all points."""

    name: str
    run: str
    recipe: str
    step: int
    features: str
    floor: float
    few: int
    points: tuple[Point, ...]
    protocol: dict[str, Any]


def check_same_images(runs: Sequence[OpenRun]) -> None:
    """ValueError if a run is named twice, or was trained on images of another shape or normaliser than the first one."""
    first, places = runs[0], [run.path.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{run.path} is named twice: name every run once.")
        if (run.shape, run.normaliser) != (first.shape, first.normaliser):
            raise ValueError(
                f"{run.path} was trained on other images than {first.path}, so their distances cannot be compared: "
                "evaluate them one at a time."
            )


def curves(
    runs: Sequence[OpenRun],
    data: PreparedData,
    seeds: Sequence[int],
    ways: Sequence[Sampling],
    found: Sequence[FeatureExtractor],
    batch_size: int = 64,
) -> list[Curve]:
    """A curve per run, start and kind of features: samples of `seeds` in each of the ways, compared with the same real images.

    Raises ValueError for fewer than two seeds.
    """
    if len(seeds) < 2:
        raise ValueError(f"A Frechet distance needs at least 2 samples, got {len(seeds)}: raise --count.")
    real, device = Real(data), next(runs[0].denoiser.parameters()).device
    features = [known(extractor, real, len(seeds), device)[0] for extractor in found]
    measured: list[Curve] = []
    for run, name in zip(runs, names([run.path for run in runs]), strict=True):
        for start in dict.fromkeys(how.start for how in ways):
            named = f"{name} ({run.recipe.name})" + ("" if start is None else f" from {start_name(start)}")
            own = [how for how in ways if how.start == start]
            measured += _curves_of(run, named, data, seeds, own, features, batch_size)
    return measured


def start_name(start: Path) -> str:
    """What a curve is called that begins at the start in a folder."""
    metadata = files.about(start)
    return f"start {metadata.get('name', start.name)} at sigma {metadata['sigma']:.3g}"


def names(paths: Sequence[Path]) -> list[str]:
    """The last part of every path, or as many of the last parts as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    tails = (["/".join(part[-count:]) for part in parts] for count in range(1, max(map(len, parts)) + 1))
    return next((tail for tail in tails if len(set(tail)) == len(paths)), [str(path) for path in paths])


def write(runs: Sequence[OpenRun], found: Sequence[Curve]) -> None:
    """Add the curves to RUN/evaluations.json of every run, draw them as RUN/evaluations.png, and write its report again."""
    result = {"curves": [asdict(curve) for curve in found]}
    picture = evaluations_plot(result["curves"])
    for run in runs:
        keep(run.path / RESULTS, result)
        save_png(run.path / "evaluations.png", picture)
        say(f"Curves of distance over evaluations: {run.path / RESULTS}, {write_report(run.path)}.")


def _curves_of(
    run: OpenRun,
    name: str,
    data: PreparedData,
    seeds: Sequence[int],
    ways: Sequence[Sampling],
    features: Sequence[Known],
    batch_size: int,
) -> list[Curve]:
    """The run's curves, one per kind of features; says every point as soon as it is measured."""
    labels, device = as_held_out(run, data, seeds), next(run.denoiser.parameters()).device
    points: list[list[Point]] = []
    about: list[dict[str, Any]] = []
    for how in ways:
        made = sample(run, seeds, labels, how, batch_size)
        points.append([_point(known, made, device) for known in features])
        about = [_about(known, Real(data).look, made, run) for known in features]
        distances = ", ".join(f"{p.frechet:.4g} ({known.extractor.name})" for known, p in zip(features, points[-1], strict=True))
        cost = f"steps {made.settings['steps']}, network evaluations an image {made.nfe:g}, {made.seconds:.1f} s"
        say(f"{name}: {cost}; Frechet distance {distances}.")
    return [
        Curve(name, str(run.path), run.recipe.name, run.step, known.extractor.name, known.floor, known.few, found, protocol)
        for known, found, protocol in zip(features, zip(*points, strict=True), about, strict=True)
    ]


def _point(known: Known, made: Samples, device: torch.device) -> Point:
    generated = extract(known.extractor, made.native.split(BATCH), device)
    every = frechet(known.statistics, statistics.of(generated))
    few = every if known.few == len(generated) else frechet(known.statistics, statistics.of(generated[: known.few]))
    return Point(made.settings["steps"], made.nfe, every, few, made.seconds)


def _about(known: Known, look: str, made: Samples, run: OpenRun) -> dict[str, Any]:
    """The protocol of every point alike: steps and evaluations stand in the points."""
    alike = replace(protocol(known.extractor, known.count, look, made, run), steps=None, nfe=None)
    return asdict(alike)
