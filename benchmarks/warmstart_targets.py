"""Warm and cold sampling of the targets, over several seeds: how near samples come to true ones, and what they cost.

The *floor* F of a distance is its value between two sets of true samples; a *cold* run begins at sigma 80, a *warm* at a start.
Cold controls have the reference number of evaluations and, at least, once, twice and four times that of the warm runs. The best
cold control, of DPM-Solver++(2M) from several sigmas, with the variance of the data on the noise's, has theirs and twice as many.
Every start is sampled from by 2M too, in as many evaluations as by Heun's method.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks import targets
from benchmarks.controls import Naive
from benchmarks.targets import Target
from pixelpath.evaluation import statistics as moments
from pixelpath.evaluation.distances import frechet
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, seed_of
from pixelpath.sampling.samplers import dpmpp_2m, heun
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.mixture import fit_mixture
from pixelpath.starts.start import Saved, Start
from pixelpath.starts.student import fit_student
from pixelpath.starts.tails import fit_pareto_tail
from pixelpath.types import Denoise, Images, Sigmas

Fit = Callable[[Images], Start]
COLD = 80.0
FIRSTS = (10.0, 20.0, COLD)  # sigmas from which the best cold control begins
Walk = Callable[[Denoise, Images, Tensor], Images]
USUAL = NoiseRange()
WALKS = ("heun", "2m")
FLOORS = 4  # pairs of true sets of which the floor is the mean
BULK = 0.99  # share of images within the radius at which heavy-tailed coordinates are held for the distance


@dataclass(frozen=True)
class Warm:
    """A start to be fitted to clean samples, the level to begin at, and the steps of Heun's method from there."""

    fit: Fit
    sigma: float
    steps: int


@dataclass(frozen=True)
class Problem:
    """A target, its warm starts by name, the steps of the cold reference, and how many points are sampled and fitted to.

    `trained` are steps of training, with the run's seed, of a small network in the place of the exact denoiser; 0: none.
    """

    target: Target
    warm: dict[str, Warm]
    reference: int
    count: int = 10_000
    fitted: int = 20_000
    trained: int = 0

    @property
    def name(self) -> str:
        """The target's, and whose denoiser it is."""
        return self.target.name + (", trained denoiser" if self.trained else "")


@dataclass(frozen=True)
class Run:
    """Samples, evaluations of the denoiser for each (counted), and seconds of sampling."""

    images: Images
    nfe: int
    seconds: float


@dataclass
class Counted:
    """A denoiser that counts its calls."""

    denoise: Denoise
    calls: int = field(default=0)

    def __call__(self, noisy: Images, sigma: Sigmas) -> Images:
        """The estimate of the denoiser within."""
        self.calls += 1
        return self.denoise(noisy, sigma)


@torch.no_grad()
def sampled(denoise: Denoise, start: Start, sigma: float, steps: int, seeds: Sequence[int], walk: Walk = heun) -> Run:
    """A point for each seed: drawn from the start at sigma, then down the grid built anew from there, in float32."""
    began, counted = time.perf_counter(), Counted(denoise)
    images = walk(counted, start.sample(Streams(seeds), sigma), USUAL.sigmas(steps, start=sigma))
    return Run(images, counted.calls, time.perf_counter() - began)


def sliced(first: Tensor, second: Tensor, bulk: float = math.inf) -> float:
    """The mean over 64 fixed directions of the Wasserstein-1 distance of equal numbers of points, coordinates held in +-bulk."""
    source = torch.Generator().manual_seed(1)
    directions = torch.randn(first[0].numel(), 64, generator=source, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    along = [(each.double().flatten(1) @ directions).clamp(-bulk, bulk).sort(0).values for each in (first, second)]
    return float((along[0] - along[1]).abs().mean())


def pixels(first: Tensor, second: Tensor) -> float:
    """The squared Frechet distance of the points themselves."""
    return frechet(*(moments.of(each.flatten(1)) for each in (first, second)))


def nearest(images: Tensor, known: Tensor) -> float:
    """The mean distance of images from the nearest of `known` ones."""
    parts = images.double().flatten(1).split(2048)
    return float(torch.cat([torch.cdist(part, known.double().flatten(1)).amin(1) for part in parts]).mean())


@cache
def quantile(target: Target, probability: float) -> float:
    """The radius that a true point exceeds with 1 - probability: exact where it is known, else of two million points."""
    if target.quantile is not None:
        return target.quantile(probability)
    return float(target.sample(2_000_000, seed=1).flatten(1).norm(dim=1).kthvalue(int(probability * 2_000_000)).values)


def tail(target: Target, images: Images, probability: float) -> float:
    """The relative error of the quantile of the radius |x|."""
    radius = images.double().flatten(1).norm(dim=1)
    return float(radius.kthvalue(math.ceil(probability * len(radius))).values) / quantile(target, probability) - 1


def apart(target: Target, first: Images, second: Images) -> float:
    """The distance that suits the target: of Frechet for digits, else sliced, of heavy tails the bulk alone."""
    if target.values == 64:
        return pixels(first, second)
    return sliced(first, second, quantile(target, BULK) if target.heavy else math.inf)


def judged(problem: Problem, images: Images, truth: Images, floor: float) -> dict[str, float]:
    """Everything that is measured of samples."""
    target = problem.target
    found = {"distance": apart(target, images, truth)}
    found["over_floor"] = found["distance"] / floor
    if target.heavy:
        found |= {f"q{probability}": tail(target, images, probability) for probability in (0.99, 0.999)}
    if target.values == 64:
        found["nearest"] = nearest(images, target.means) / nearest(truth, target.means)
    return found


def floor_of(target: Target, count: int, seed: int) -> float:
    """The mean distance between pairs of true sets, none of which is used otherwise."""
    pairs = [[target.sample(count, seed_of(seed, 10 + side, place)) for side in (0, 1)] for place in range(FLOORS)]
    return statistics.mean(apart(target, *pair) for pair in pairs)


def numbers_of(start: Start) -> int:
    """How many numbers the start holds."""
    return sum(tensor.numel() for tensor in start.state()[1].values()) if isinstance(start, Saved) else 0


def colds(problem: Problem) -> dict[str, int]:
    """The steps of the cold runs by name; twice the steps is twice the evaluations and one more."""
    steps = max(warm.steps for warm in problem.warm.values())
    named = {"cold, reference": problem.reference} | {f"cold, {times}x": times * steps for times in (1, 2, 4)}
    return {name: count for name, count in named.items() if name == "cold, reference" or count != problem.reference}


def denoiser_of(problem: Problem, seed: int) -> Denoise:
    """The exact denoiser, or one trained with the seed."""
    return targets.train_small(problem.target, seed, problem.trained) if problem.trained else problem.target.denoise


def measured(
    problem: Problem,
    seed: int,
    cold: Mapping[str, int] | None = None,
    warm: Sequence[str] | None = None,
    walks: Sequence[str] = WALKS,
) -> list[dict[str, Any]]:
    """One row for every run of a problem with one seed: cold ones of so many steps (None: all), warm ones by name (None: all).

    Of `walks`, heun are the runs by Heun's method, and 2m those by DPM-Solver++(2M), the cold one if `cold` is None.
    """
    target, count = problem.target, problem.count
    truth, floor = target.sample(count, seed_of(seed, 0)), floor_of(target, count, seed)
    clean, denoise = target.sample(problem.fitted, seed_of(seed, 1)), denoiser_of(problem, seed)
    rows: list[dict[str, Any]] = []

    def add(name: str, start: Start, sigma: float, steps: int, seconds: float, walk: Walk = heun) -> None:
        run = sampled(denoise, start, sigma, steps, [seed_of(seed, 2, place) for place in range(count)], walk)
        row = {"problem": problem.name, "name": name, "seed": seed, "sigma": sigma, "nfe": run.nfe, "floor": floor}
        cost = {"fit_seconds": seconds, "numbers": numbers_of(start), "sample_seconds": run.seconds}
        rows.append(row | judged(problem, run.images, truth, floor) | cost)

    if "heun" in walks:
        for name, steps in (colds(problem) if cold is None else cold).items():
            add(name, Naive(target.shape), COLD, steps, 0.0)
    if cold is None and "2m" in walks:
        spread, most = float(clean.square().mean().sqrt()), max(each.steps for each in problem.warm.values())
        for sigma, (times, evaluations) in itertools.product(FIRSTS, {"": 2 * most - 1, ", 2x": 4 * most - 2}.items()):
            add(f"cold from {sigma:g}, 2M{times}", Naive(target.shape, spread), sigma, evaluations, 0.0, dpmpp_2m)
    for name in problem.warm if warm is None else warm:
        began, own = time.perf_counter(), problem.warm[name]
        try:
            start = own.fit(clean)
        except ValueError as error:  # a law may refuse data, as mixtures do that outliers pull apart: the others still count
            sys.stderr.write(f"{problem.name}, seed {seed}, {name}: {error}\n")
            continue
        seconds = time.perf_counter() - began
        if "heun" in walks:
            add(name, start, own.sigma, own.steps, seconds)
        if "2m" in walks:
            add(f"{name}, 2M", start, own.sigma, 2 * own.steps - 1, seconds, dpmpp_2m)
    return rows


def problems(quick: bool = False) -> dict[str, Problem]:
    """Every problem by the name that the command line knows; `quick` ones have few points, and tell nothing but that they run."""

    def mixture(components: int) -> Fit:
        return lambda images: fit_mixture(images, components=components)

    def spliced(images: Images) -> Start:
        return fit_pareto_tail(images, fit_mixture(images, components=20))

    many, tails = (2000, 4000) if quick else (10_000, 50_000)
    t3, named = targets.student(), {"moment": fit_gaussian, "Student": fit_student}
    naive = Warm(lambda images: Naive((1, 1, 2)), 1.05, 9)
    return {
        "modes": Problem(targets.modes(), {"mixture": Warm(mixture(25), 0.4, 7)}, 18, many),
        "sixteen": Problem(
            targets.sixteen(), {"moment": Warm(fit_gaussian, 3.0, 9), "mixture": Warm(mixture(10), 1.5, 9)}, 18, many
        ),
        "digits": Problem(
            targets.digits(),
            {"moment": Warm(fit_gaussian, 3.0, 9), "mixture of 40": Warm(mixture(40), 1.5, 9)},
            18,
            many // 5 if quick else 8000,
        ),
        "student": Problem(t3, {name: Warm(fit, 1.05, 9) for name, fit in named.items()} | {"naive": naive}, 40, tails),
        "trained": Problem(
            t3, {name: Warm(fit, 2.3, 9) for name, fit in named.items()}, 40, tails, trained=200 if quick else 12_000
        ),
        "spiral": Problem(
            targets.spiral(),
            {
                "moment": Warm(fit_gaussian, 1.0, 9),
                "mixture": Warm(mixture(20), 1.0, 9),
                "Student": Warm(fit_student, 1.0, 9),
                "Student mixture": Warm(lambda images: fit_student(images, components=8), 1.0, 9),
                "pareto-tail": Warm(spliced, 1.0, 9),
            },
            40,
            many if quick else 20_000,
        ),
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for every problem and run: the mean and the standard deviation over seeds of each number."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["problem"], row["name"]].append(row)
    found = []
    for (problem, name), own in groups.items():
        line: dict[str, Any] = {"problem": problem, "name": name, "seeds": len(own)}
        for key in own[0]:
            if key not in ("problem", "name", "seed"):
                values = [row[key] for row in own]
                line[key] = {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
        found.append(line)
    return found


HEADS = (
    "problem",
    "start",
    "sigma",
    "NFE",
    "distance / F",
    "q.99 error",
    "q.999 error",
    "nearest",
    "fit s",
    "numbers",
    "sampling s",
    "seeds",
)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The summary in Markdown."""

    def both(line: dict[str, Any], key: str, form: str) -> str:
        return f"{line[key]['mean']:{form}} ± {line[key]['sd']:{form.lstrip('+')}}" if key in line else ""

    rows = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for line in lines:
        cells = [line["problem"], line["name"], f"{line['sigma']['mean']:g}", f"{line['nfe']['mean']:.0f}"]
        cells += [both(line, "over_floor", ".2f"), both(line, "q0.99", "+.1%"), both(line, "q0.999", "+.1%")]
        cells += [both(line, "nearest", ".3f"), f"{line['fit_seconds']['mean']:.1f}", f"{line['numbers']['mean']:.0f}"]
        rows.append("| " + " | ".join([*cells, f"{line['sample_seconds']['mean']:.1f} | {line['seeds']} |"]))
    return "\n".join(rows) + "\n"


def run(seeds: Sequence[int], quick: bool, names: Sequence[str], walks: Sequence[str] = WALKS) -> Iterator[dict[str, Any]]:
    """After every problem (of all, or those named) and seed what is known: {"rows": every run, "summary": over seeds}."""
    chosen = problems(quick)
    unknown = [name for name in names if name not in chosen]
    if unknown:
        raise ValueError(f"There is no problem {unknown[0]}: choose from {', '.join(chosen)}.")
    if not seeds:
        raise ValueError("Nothing would be measured: give at least one of --seeds.")
    rows: list[dict[str, Any]] = []
    for name in names or chosen:
        for seed in seeds:
            rows += measured(chosen[name], seed, walks=walks)
            sys.stderr.write(f"{name}, seed {seed}\n")
            yield {"seeds": list(seeds), "quick": quick, "rows": rows, "summary": summary(rows)}
