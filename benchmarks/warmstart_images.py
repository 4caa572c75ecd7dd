"""Warm against cold sampling of trained runs on real images: distance over network evaluations, and what the start cost.

An *arm* is a sampler and where it begins. The usual cold arm is Heun's method from the highest sigma; the best ones are
DPM-Solver++(2M) from where images are just hidden, and from the highest sigma. A start has an arm of each sampler too.

Runs of one recipe that differ in their seed are one *problem*; every number is a mean over its runs, with the standard deviation.
The evaluations *needed* for a distance are read off a run's curve, ln distance being linear in ln evaluations between points.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pixelpath.runs.measuring import curves
from pixelpath.runs.measuring.comparison import pixels
from pixelpath.runs.measuring.curves import DistanceCurve
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.starting.families import FAMILIES, Family
from pixelpath.runs.starting.files import RunSamples, check_generator, save_start
from pixelpath.runs.starting.fit_start import known_of
from pixelpath.runs.starting.search import find_start
from pixelpath.sampling.sampler import Sampler, Sampling, hidden
from pixelpath.starts.warm import WarmStart

WORSE = 1.05  # of the distance of the most evaluations: what counts as equal to it


@dataclass(frozen=True)
class Measured:
    """One run: its curves by the name of the arm, those from starts by the name of each (with 2M), and what was chosen."""

    run: str
    arms: dict[str, DistanceCurve]
    warm: dict[str, DistanceCurve]
    chosen: str
    sigma: float
    seconds: float
    numbers: int


def measured(
    path: Path,
    families: Sequence[str],
    nfe: Sequence[int],
    count: int,
    points: int,
    generator: Path | None = None,
    sigmas: Sequence[float] = (),
) -> Measured:
    """The curves of one run, unguided, of `count` samples; with a generator also from its samples noised to each of `sigmas`."""
    run = open_run(path)
    data = read_data_of(run, None)
    known = known_of(run, data)
    chosen: dict[str, Family] | None = {name: FAMILIES[name] for name in families} or None
    search = find_start(run.denoiser, run.noise, known, chosen, points=points)
    starts = {f"{search.chosen.name} at {search.warm.sigma:.2f}": search.warm}
    if generator is not None:
        other = open_run(generator)
        check_generator(other, run)
        starts |= {f"one-step samples at {sigma:g}": WarmStart(RunSamples(other), sigma) for sigma in sigmas}
    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder) / str(number) for number, name in enumerate(starts)}
        for name, start in starts.items():
            save_start(places[name], start, run, {"name": name})

        def curve(sampler: Sampler, start: Path | None = None, sigma_max: float | None = None) -> DistanceCurve:
            own = Sampling(guidance=1.0, sampler=sampler, start=start, sigma_max=sigma_max)
            (found,) = curves.curves([run], data, range(count), [replace(own, nfe=number) for number in nfe], [pixels(data)])
            return found

        first, highest = next(iter(places.values())), run.noise.sigma_max * run.noise.shift
        arms = {
            "cold Heun": curve(Sampler.HEUN, sigma_max=highest),
            "cold 2M": curve(Sampler.DPMPP_2M, sigma_max=hidden(run.noise)),
            "cold 2M, highest": curve(Sampler.DPMPP_2M, sigma_max=highest),
            "warm Heun": curve(Sampler.HEUN, first),
        }
        warm = {name: curve(Sampler.DPMPP_2M, place) for name, place in places.items()}
    best = search.chosen
    return Measured(
        str(path), arms | {"warm 2M": warm[next(iter(warm))]}, warm, best.name, search.warm.sigma, search.seconds, best.numbers
    )


def needed(curve: DistanceCurve, distance: float) -> float:
    """The fewest network evaluations from which on, by the curve, the distance is no greater; infinite if it never is."""
    points = sorted(curve.points, key=lambda point: point.nfe)
    for above, below in zip([None, *points], points, strict=False):
        if below.frechet <= distance:
            if above is None:
                return below.nfe
            share = math.log(above.frechet / distance) / math.log(above.frechet / below.frechet)
            return above.nfe * (below.nfe / above.nfe) ** share
    return math.inf


def table(found: Sequence[Measured]) -> str:
    """Distances by evaluations, of every arm, and the evaluations that each needs for the distance of the most cold ones."""
    arms = {name: [each.arms[name] for each in found] for name in found[0].arms}
    rows = [f"| evaluations | {' | '.join(arms)} |", f"|---|{'---|' * len(arms)}"]
    for place, point in enumerate(arms["cold Heun"][0].points):
        cells = [_spread([curve.points[place].frechet for curve in curves]) for curves in arms.values()]
        rows.append(f"| {point.nfe:g} | {' | '.join(cells)} |")
    goals = [WORSE * curve.points[-1].frechet for curve in arms["cold Heun"]]
    enough = {name: [needed(*pair) for pair in zip(curves, goals, strict=True)] for name, curves in arms.items()}
    best = [min(pair) for pair in zip(enough["cold 2M"], enough["cold 2M, highest"], strict=True)]
    factors = [before / after for before, after in zip(best, enough["warm 2M"], strict=True)]
    first = arms["cold Heun"][0]
    rows += [
        "",
        f"Evaluations needed for {WORSE:g} times the distance of {first.points[-1].nfe:g} of cold Heun: "
        f"{', '.join(f'{name} {_spread(values, 3)}' for name, values in enough.items())}. Warm 2M needs {_spread(factors, 2)} "
        f"times fewer than the better of cold 2M. Floor {first.floor:.4g} ({first.few} held-out images in place of samples).",
        f"Starts: {', '.join(f'{each.chosen} sigmas sigma {each.sigma:.2f}' for each in found)}; chosen in "
        f"{_spread([each.seconds for each in found], 3)} s, {found[0].numbers:,} numbers.",
    ]
    for name in list(found[0].warm)[1:]:
        points = ", ".join(f"{point.nfe:g}: {point.frechet:.4g}" for point in found[0].warm[name].points)
        rows.append(f"From {name}, evaluations of the diffusion model and distance: {points}.")
    return "\n".join(rows) + "\n"


def _spread(values: Sequence[float], digits: int = 4) -> str:
    mean = f"{statistics.mean(values):.{digits}g}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1g}"
