"""Tuning how a run is sampled: for a few numbers of network evaluations (NFE), the first sigma, the sampler and its sigmas.

A *way* is a way to sample, with a name. Ways are *searched* by the Frechet distance of samples of the search seeds from held-out
images, or from training images where the held-out ones are of another law. Those chosen are *reported* with samples of fresh
seeds and training images, as `evaluate` measures distances. Of several kinds of features ways are compared by the geometric mean
of their distances. Where pixel values of the data have a heavy tail, their .999 quantile is compared with that of training images
too: a Frechet distance hardly sees it (`pixelpath.runs.ways`).
"""

from __future__ import annotations

import math
import statistics as numbers
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pixelpath.errors import UserError
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet_of_sets, real_floor
from pixelpath.evaluation.features import FeatureExtractor
from pixelpath.evaluation.statistics import Statistics
from pixelpath.evaluation.tails import ValueTail, tail_error, value_tails
from pixelpath.log import progress, say
from pixelpath.reports.tuning import write_tuning_page
from pixelpath.runs.generate import generate
from pixelpath.runs.measuring.comparison import BATCH, Real, extractors, features_of, keep, kept, own_network
from pixelpath.runs.measuring.curves import start_name
from pixelpath.runs.measuring.pixel_values import holding, native_batches, values_of
from pixelpath.runs.measuring.report import write_report
from pixelpath.runs.measuring.verdict import FEW, shift_in_words, shifted
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import Samples, completed, sample
from pixelpath.runs.sample_conditions import as_held_out
from pixelpath.runs.sharing.bundled import check_writable
from pixelpath.runs.tuned import FILE
from pixelpath.runs.ways import Reported, Way, cheapest, closest, ratios
from pixelpath.sampling.learned import learned_sigmas
from pixelpath.sampling.sampler import Sampler, Sampling, hidden
from pixelpath.sampling.samplers import SigmaSchedule
from pixelpath.types import Images

PAGE = "tuning.html"
REPEATS = 3  # sets of fresh seeds that reported numbers are of
MOST = 1000  # samples in each of them, unless told otherwise
LEARNED = 2  # ways at a number of evaluations, the best ones, whose sigmas are learned
LEARNED_UP_TO = 7  # evaluations: with more, learned sigmas gained nothing (docs/results.md), and take the longest to learn
PAIRED_VALUES, PAIRED = 2**20, 32  # values, and images, at most, by which sigmas are learned
TAILED = 2**24  # values of training images, about, in which a heavy tail is looked for
FINE = 32  # steps of Heun's method whose images sigmas are learned from
CONTROL = 18  # steps of the usual control: Heun's method from the highest sigma


@dataclass(frozen=True)
class Tune:
    """What to tune for, and by how many samples."""

    nfe: tuple[int, ...] = (3, 4, 5, 7, 9, 13)
    """Numbers of network evaluations (NFE) of the sampler, each at least 2; guidance doubles their cost."""
    guidance: tuple[float, ...] = ()
    """Guidance scales to tune for; 1 is no guidance. Default: 1, and that of the run's recipe."""
    count: int = 500
    """Samples by which ways are compared, at least 2."""
    reported: int | None = None
    """Samples in each of three sets of fresh seeds that are reported. Default: as many as training images, at most 1,000."""
    start: Path | None = None
    """A start of the run to try too. Default: the newest one in RUN/starts."""
    learned: bool = True
    """Learn the sigmas of the best ways too, which takes most of the time of few samples."""
    use_own: bool = True
    """Compare in features of the run's own network too, where it has no encoder of stage one: pixels favour smooth images."""
    controls: bool = True
    """Report what the recipe says and 18 steps of Heun's method too."""

    def __post_init__(self) -> None:
        if not self.nfe or min(self.nfe) < 2:
            raise UserError(f"`nfe` takes numbers from 2 on, got {self.nfe}.", setting="nfe")
        for name in ("count", "reported"):
            if vars(self)[name] is not None and vars(self)[name] < 2:
                raise UserError(f"`{name}` must be at least 2, got {vars(self)[name]}.", setting=name)


USUAL = Tune()


def check_can_tune(run: OpenRun) -> None:
    """UserError for a run that cannot be tuned, better said before its data are read."""
    run.denoiser  # noqa: B018 (a run of stage one cannot be sampled)
    check_writable(run.path)
    kept(run.path / FILE)
    if run.recipe.is_one_step:
        raise UserError(f"{run.path} is a one-step model, which has no steps to tune: name a diffusion run.", setting="run")


def tune_run(run: OpenRun, data: PreparedData, choices: Tune = USUAL) -> dict[str, Any]:
    """Find the best way to sample at every number of evaluations, with the run's guidance and without it, and report them.

    Adds the result to RUN/sampling.json, which sampling then follows, and writes RUN/tuning.html. Raises UserError for a run that
    cannot be tuned.
    """
    check_can_tune(run)
    began = time.perf_counter()
    reported = choices.reported or min(MOST, len(data.training))
    search = range(choices.count)
    fresh = [range(choices.count + place * reported, choices.count + (place + 1) * reported) for place in range(REPEATS)]
    judge = _judge(run, data, choices)
    tables = [_table(judge, guidance, choices, search, fresh) for guidance in _guidances(run, choices)]
    result = {
        "checkpoint": run.checkpoint.name,
        "step": run.step,
        "features": [each.name for each in judge.extractors],
        "searched": {"seeds": [search[0], search[-1]], "compared_with": judge.searched_in},
        "reported": {"seeds": [[each[0], each[-1]] for each in fresh], "compared_with": "training images"},
        "tables": tables,
        "seconds": time.perf_counter() - began,
    }
    keep(run.path / FILE, result)
    page = write_tuning_page(run.path / PAGE, run.path.name, result)
    write_report(run.path)
    say("\n".join(_sentences(result)))
    say(f"From now on samples of {run.path} are made like this. Everything that was compared: {page}.")
    return result


@dataclass(frozen=True, eq=False)
class _Judge:
    """Measures ways of a run."""

    run: OpenRun
    data: PreparedData
    extractors: list[FeatureExtractor]
    training: list[Statistics]
    reference: list[Statistics]
    searched_in: str
    tails: tuple[ValueTail, ...]

    def searched(self, name: str, sampling: Sampling, seeds: Sequence[int]) -> Way:
        """The way with its distances, and its tail error, in the search."""
        made = self._sample(sampling, seeds)
        return Way(name, sampling, _nfe(sampling, made), self._distances(made, self.reference), self._tail_error(made))

    def reported(self, sampling: Sampling, fresh: Sequence[Sequence[int]]) -> Reported:
        """The distances of each set of fresh seeds, in each kind of features, and the tail errors."""
        sets = []
        for seeds in fresh:
            made = self._sample(sampling, seeds)
            sets.append((self._distances(made, self.training), self._tail_error(made)))
        distances = {name: [found[name] for found, _ in sets] for name in sets[0][0]}
        return Reported(distances, [error for _, error in sets if error is not None])

    def _sample(self, sampling: Sampling, seeds: Sequence[int]) -> Samples:
        return sample(self.run, seeds, as_held_out(self.run, self.data, seeds), sampling, BATCH)

    def _tail_error(self, made: Samples) -> float | None:
        values = values_of([made.images], len(made), self.run.shape, self.run.normaliser) if self.tails else None
        return None if values is None else tail_error(self.tails, values)

    def _distances(self, made: Samples, real: Sequence[Statistics]) -> dict[str, float]:
        found = {}
        for extractor, known in zip(self.extractors, real, strict=True):
            features = features_of(extractor, made.native.split(BATCH), len(made), self.run.device)
            found[extractor.name] = frechet_of_sets(features, known)
        return found


def _judge(run: OpenRun, data: PreparedData, choices: Tune) -> _Judge:
    real, found = Real(data), extractors(run, data, None, tell=not choices.use_own)
    found += own_network(run, found) if choices.use_own else []
    sides = [data.training, *([data.held_out] if len(data.held_out) >= 2 else [])]
    known, rows = list[list[Statistics]](), list[dict[str, float]]()
    for each in found:
        features = [features_of(each, real.batches(side), len(side), run.device) for side in sides]
        known.append([statistics.of(part) for part in features])
        if len(data.held_out) >= FEW:
            training, held_out = features
            apart, within = (real_floor(training, len(held_out), others).distance for others in (held_out, None))
            rows.append({"frechet_floor_of_few": apart, "frechet_floor_of_training": within})
    shift = shifted({"distances": rows})
    if shift is not None:
        say(f"{shift_in_words(shift).capitalize()}: the search compares with training images, which the run is to be like.")
    elif len(sides) == 1:
        say("There are no held-out images, so the search compares with training images too.")
    searched = -1 if shift is None else 0  # the side that the search compares with
    compared = "held-out images" if len(sides) == 2 and shift is None else "training images"
    return _Judge(run, data, found, [each[0] for each in known], [each[searched] for each in known], compared, _tails(data))


def _tails(data: PreparedData) -> tuple[ValueTail, ...]:
    """The heavy tails of the pixel values of training images, of so many as tell them."""
    count = min(len(data.training), holding(TAILED, data.shape))
    values = values_of(native_batches(data.training, count), count, data.shape, data.normaliser)
    return value_tails(values, data.shape[0])


def _guidances(run: OpenRun, choices: Tune) -> list[float]:
    """The guidance scales chosen, or none and that of the run's recipe; UserError for guidance that cannot act."""
    conditional = run.denoiser.backbone.conditional
    if any(each != 1 for each in choices.guidance) and not conditional:
        raise UserError(f"{run.path} is unconditional, so `guidance` cannot act: omit it.", setting="guidance")
    usual = run.recipe.usual_sampling.guidance if conditional else 1.0
    assert usual is not None
    return sorted(set(choices.guidance or (1.0, usual)))


def _table(
    judge: _Judge, guidance: float, choices: Tune, search: Sequence[int], fresh: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """All ways at one guidance: searched, the best of every number of evaluations chosen, these and the controls reported."""
    plans = {nfe: _plans(judge, nfe, guidance, choices.start) for nfe in sorted(set(choices.nfe))}
    found: list[Way] = []
    best: list[Way] = []
    learning = {nfe: LEARNED if choices.learned and nfe <= LEARNED_UP_TO else 0 for nfe in plans}
    whole = sum(nfe * (len(each) + 7 * learning[nfe]) for nfe, each in plans.items())
    with progress(f"tuning at guidance {guidance:g}", whole) as advance:
        for nfe, each in plans.items():
            ways = _searched(judge, each, learning[nfe], search)
            advance(nfe * (len(each) + 7 * learning[nfe]))
            found += ways
            best.append(closest(ways))
            say(f"Guidance {guidance:g}, {nfe} evaluations: {best[-1].name}, distance {best[-1].distance:.4g} in the search.")
    reports = [judge.reported(way.sampling, fresh) for way in best]
    default = best.index(cheapest(best, [report.distances for report in reports]))
    compared = _controls(judge.run, guidance) if choices.controls else []
    controls = [judge.searched(name, sampling, search) for name, sampling in compared]
    known = [judge.reported(way.sampling, fresh) for way in controls]
    chosen = [
        _record(judge.run, way)
        | report.to_json()
        | {"default": place == default}
        | ({"ratio": ratios(report.distances, known[0].distances)} if known else {})
        for place, (way, report) in enumerate(zip(best, reports, strict=True))
    ]
    return {
        "guidance": guidance,
        "candidates": [_record(judge.run, way) for way in found],
        "chosen": chosen,
        "controls": [_record(judge.run, way) | each.to_json() for way, each in zip(controls, known, strict=True)],
    }


def _searched(judge: _Judge, plans: Sequence[tuple[str, Sampling]], learning: int, seeds: Sequence[int]) -> list[Way]:
    """The ways of a number of evaluations, and the best so many of them with learned sigmas.

    These are those whose images are functions of where they begin, as sigmas are learned by images from the same noise.
    """
    ways = [judge.searched(name, sampling, seeds) for name, sampling in plans]
    certain = [way for way in ways if way.sampling.sampler is not Sampler.HEUN_STOCHASTIC]
    for way in sorted(certain, key=lambda way: way.distance)[:learning]:
        ways.append(judge.searched(f"{way.name}, learned sigmas", _learn(judge, way, seeds), seeds))
    return ways


def _plans(judge: _Judge, nfe: int, guidance: float, start: Path | None) -> list[tuple[str, Sampling]]:
    """The ways that are searched at a number of evaluations: samplers, first sigmas, and a start if there is one.

    Stochastic Heun keeps more of a heavy tail, and is tried where the data have one.
    """
    run = judge.run
    low, high = run.noise.sigma_min * run.noise.shift, run.noise.sigma_max * run.noise.shift
    firsts = sorted({high, hidden(run.noise), hidden(run.noise) / 2} - {low}, reverse=True)
    found = []
    twice = [] if nfe % 2 == 0 or nfe < 3 else [Sampler.HEUN, *([Sampler.HEUN_STOCHASTIC] if judge.tails else [])]
    for sampler in (Sampler.DPMPP_2M, *twice):
        plain = Sampling(nfe=nfe, guidance=guidance, sampler=sampler)
        own = firsts if sampler is Sampler.DPMPP_2M else [hidden(run.noise)]
        found += [(f"{sampler.value} from sigma {first:.3g}", replace(plain, sigma_max=first)) for first in own]
        folder = start or newest_start(run.path)
        found += [] if folder is None else [(f"{sampler.value} from {start_name(folder)}", replace(plain, start=folder))]
    return found


def newest_start(run: Path) -> Path | None:
    """The newest complete start in the run's folder."""
    complete = [path.parent for path in run.glob("starts/*/search.json") if path.parent.name.isdecimal()]
    return max(complete, key=lambda path: int(path.name), default=None)


def _controls(run: OpenRun, guidance: float) -> list[tuple[str, Sampling]]:
    high = run.noise.sigma_max * run.noise.shift
    heun = Sampling(steps=CONTROL, sampler=Sampler.HEUN, guidance=guidance, sigma_max=high)
    usual = replace(run.recipe.usual_sampling, guidance=guidance)
    return [(f"heun from sigma {high:.3g}", heun), ("as the recipe says", usual)]


def _learn(judge: _Judge, way: Way, seeds: Sequence[int]) -> Sampling:
    """The way with its sigmas learned from fine trajectories of some of the seeds."""
    run = judge.run
    complete, origin = completed(run, way.sampling)
    few = seeds[: max(2, min(PAIRED, PAIRED_VALUES // math.prod(run.shape)))]
    condition = as_held_out(run, judge.data, few)

    def draw(sampling: Sampling) -> Images:
        return torch.cat(list(generate(run.denoiser, origin, sampling, few, condition, BATCH)))

    def named(sigmas: SigmaSchedule) -> Sampling:
        return replace(complete, steps=None, nfe=None, rho=None, sigmas=tuple(sigmas[1:-1].tolist()))

    fine = draw(replace(complete, sampler=Sampler.HEUN, nfe=None, sigmas=None, steps=FINE))
    low = run.noise.sigma_min * run.noise.shift
    return named(learned_sigmas(lambda sigmas: draw(named(sigmas)), fine, origin.schedule(complete), low))


def _nfe(sampling: Sampling, made: Samples) -> int:
    """The evaluations of the sampler, without those of guidance."""
    return Sampler(made.settings["sampler"]).nfe(made.settings["steps"])


def _record(run: OpenRun, way: Way) -> dict[str, Any]:
    """The way, JSON-ready, all its sigmas named."""
    complete, origin = completed(run, way.sampling)
    sigmas = origin.schedule(complete).tolist()
    assert complete.sampler is not None
    folder = way.sampling.start
    start = None if folder is None else str(folder.relative_to(run.path) if folder.is_relative_to(run.path) else folder.resolve())
    return {
        "name": way.name,
        "nfe": way.nfe,
        "sampler": complete.sampler.value,
        "sigma_max": sigmas[0] if folder is None else None,
        "sigmas": sigmas[1:-1],
        "start": start,
        "searched": dict(way.searched),
        **({} if way.tail_error is None else {"tail_error": way.tail_error}),
    }


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """The reported distances, a line each."""
    lines = []
    for table in result["tables"]:
        lines.append(f"Guidance {table['guidance']:g}: Frechet distance, mean +- std over {REPEATS} sets of fresh seeds")
        for row in [*table["chosen"], *table["controls"]]:
            each = ", ".join(f"{_spread(values, 2)} ({name})" for name, values in row["reported"].items())
            mark = " (default)" if row.get("default") else ""
            off = f", tail error {_spread(row['tail_errors'], 1)}" if "tail_errors" in row else ""
            lines.append(f"  {row['nfe']:>3} evaluations, {row['name']}{mark}: {each}{off}")
            if "ratio" in row:
                times = ", ".join(f"{_spread(values, 1)} ({name})" for name, values in row["ratio"].items())
                control = table["controls"][0]
                lines[-1] += f"; times that of {control['nfe']} by {control['name']}: {times}"
    return lines


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{numbers.fmean(values):.4g} +- {numbers.stdev(values):.{digits}g}"
