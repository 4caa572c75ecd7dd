"""Whether a start pays: the distance of warm and cold samples from real images, at equal network evaluations (NFE).

*Cold* samples begin at noise alone: by DPM-Solver++(2M) from the sigma that just hides the data, which is the best control, and
as the recipe samples. *Warm* ones begin at the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pixelpath.errors import UserError
from pixelpath.reports.pictures import distance_over_nfe, save_png
from pixelpath.runs import curves
from pixelpath.runs.comparison import Real, pixels
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.sampling.sampler import Sampler, Sampling

EQUAL, CLOSER = 1.05, 0.9  # of distances: no worse than, and closer than


@dataclass(frozen=True)
class Quality:
    """How warm and cold samples are compared: `count` samples at each of some numbers of network evaluations."""

    count: int = 500
    """Samples at every number of evaluations; 0 leaves the comparison out."""
    nfe: tuple[int, ...] = (3, 5, 7, 9, 13, 17)
    """Network evaluations (NFE) of one sample; at odd ones Heun's method is compared too."""

    def __post_init__(self) -> None:
        if self.count < 0 or self.count == 1 or min(self.nfe, default=0) < 1:
            raise UserError(
                f"`quality.count` must be 0 or at least 2 and `quality.nfe` at least 1, got {self.count} and {self.nfe}."
            )


def measure_quality(
    folder: Path, run: OpenRun, data: PreparedData, quality: Quality, hidden: float | None
) -> list[curves.DistanceCurve]:
    """Distance in pixels over evaluations, unguided: cold by the recipe and from the sigma that hides the data, warm; drawn."""
    if quality.count == 0:
        return []
    odd = [number for number in quality.nfe if number % 2]
    usual = Sampling(steps=run.recipe.usual_sampling.count, guidance=1.0)
    cold = {"cold, as the recipe": [usual]}
    high = "" if hidden is None else f" from sigma {hidden:.3g}"
    cold |= {f"cold, 2M{high}": [Sampling(nfe=number, sampler=Sampler.DPMPP_2M, sigma_max=hidden) for number in quality.nfe]}
    warm = {"warm, 2M": [Sampling(nfe=number, sampler=Sampler.DPMPP_2M, start=folder) for number in quality.nfe]}
    warm |= {"warm, Heun": [Sampling(nfe=number, sampler=Sampler.HEUN, start=folder) for number in odd]} if odd else {}
    seeds = range(min(quality.count, max(2, Real(data).few)))
    found = []
    for name, ways in (cold | warm).items():
        unguided = [replace(way, guidance=1.0) for way in ways]
        (curve,) = curves.curves([run], data, seeds, unguided, [pixels(data)])
        found.append(replace(curve, name=name))
    save_png(folder / "distance_over_nfe.png", distance_over_nfe([asdict(curve) for curve in found]))
    return found


def start_pays(found: Sequence[curves.DistanceCurve]) -> tuple[bool, str]:
    """Whether warm samples need fewer evaluations than the best cold ones for the same distance, and the sentence that says so.

    The goal is 1.05 times the least cold distance. At the fewest evaluations at which warm samples reach it, they must also be
    closer by a tenth than cold ones of as many or fewer.
    """
    cold, warm = (
        [(point.nfe, point.frechet, curve.name) for curve in found if curve.name.startswith(kind) for point in curve.points]
        for kind in ("cold", "warm")
    )
    goal = EQUAL * min(distance for _, distance, _ in cold)
    least, _, control = min(point for point in cold if point[1] <= goal)
    reached = [point for point in warm if point[1] <= goal]
    if not reached:
        best = min(distance for _, distance, _ in warm)
        return (
            False,
            f"No start pays here: the distance of warm samples is {best:.3g} at best, that of cold ones {goal / EQUAL:.3g}.",
        )
    fewest, distance, name = min(reached)
    equal = min((each for nfe, each, _ in cold if nfe <= fewest), default=math.inf)
    numbers = f"{fewest:g} evaluations ({name}) and {least:g} ({control}) reach a distance of {goal:.3g}"
    if fewest >= least or distance > CLOSER * equal:
        return False, f"No start pays here: {numbers}."
    return True, f"The start needs {least / fewest:.1f} times fewer evaluations than the best cold samples: {numbers}."
