"""Warm against cold sampling of trained runs on real images: distance over network evaluations, and what the start cost.

Runs of one recipe that differ in their seed are one *problem*; every number is a mean over its runs, with the standard deviation.
The evaluations *needed* for a distance are read off a run's curve, ln distance being linear in ln evaluations between points.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelpath.runs import curves
from pixelpath.runs.comparison import pixels
from pixelpath.runs.curves import DistanceCurve
from pixelpath.runs.fit_start import known_of
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.start_families import FAMILIES, Family
from pixelpath.runs.start_files import RunSamples, check_generator, save_start
from pixelpath.runs.start_search import find_start
from pixelpath.sampling.sampler import Sampling
from pixelpath.starts.warm import WarmStart

WORSE = 1.05  # of the distance of the most evaluations: what counts as equal to it


@dataclass(frozen=True)
class Measured:
    """One run: its cold curve, those from starts by the name of each, and what was chosen."""

    run: str
    cold: DistanceCurve
    warm: dict[str, DistanceCurve]
    chosen: str
    sigma: float
    seconds: float
    numbers: int


def measured(
    path: Path,
    families: Sequence[str],
    steps: Sequence[int],
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
        ways = [Sampling(steps=number, guidance=1.0, start=place) for place in (None, *places.values()) for number in steps]
        cold, *warm = curves.curves([run], data, range(count), ways, [pixels(data)])
    best = search.chosen
    return Measured(
        str(path), cold, dict(zip(starts, warm, strict=True)), best.name, search.warm.sigma, search.seconds, best.numbers
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
    """Distances by evaluations, cold and from the chosen start, and the evaluations needed for the best cold distance."""
    chosen = [next(iter(each.warm.values())) for each in found]
    rows = ["| evaluations | cold | warm |", "|---|---|---|"]
    for place, point in enumerate(found[0].cold.points):
        before, after = ([curve.points[place].frechet for curve in curves] for curves in ([each.cold for each in found], chosen))
        rows.append(f"| {point.nfe:g} | {_spread(before)} | {_spread(after)} |")
    goals = [WORSE * each.cold.points[-1].frechet for each in found]
    cold, warm = (
        [needed(*pair) for pair in zip(curves, goals, strict=True)] for curves in ([each.cold for each in found], chosen)
    )
    factors = [before / after for before, after in zip(cold, warm, strict=True)]
    first = found[0].cold
    rows += [
        "",
        f"Evaluations needed for {WORSE:g} times the distance of {first.points[-1].nfe:g} cold ones: cold "
        f"{_spread(cold, 3)}, warm {_spread(warm, 3)}, {_spread(factors, 2)} times fewer. Floor {first.floor:.4g} "
        f"({first.few} held-out images in place of samples).",
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
