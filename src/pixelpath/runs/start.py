"""A start fitted for a run: where its sampling may begin instead of at pure noise, chosen and certified.

*Warm* samples begin at the start, *cold* ones at noise alone, as the control. A start's folder holds the start, search.json with
everything that was compared, pictures and a report.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pixelpath.atomic import write_json
from pixelpath.data import sources
from pixelpath.errors import UserError
from pixelpath.evaluation.distances import nearest
from pixelpath.log import say
from pixelpath.randomness import Streams, seed_of
from pixelpath.reports.pictures import distance_over_nfe, save_png
from pixelpath.reports.start import write_start_report
from pixelpath.reports.start_plots import Certificates, certificate_plot, neighbours_plot, shown, side_by_side, tails_plot
from pixelpath.runs import curves
from pixelpath.runs.comparison import Real, pixels
from pixelpath.runs.conditions import choose_labels
from pixelpath.runs.curves import DistanceCurve
from pixelpath.runs.families import FAMILIES, Family, Known
from pixelpath.runs.fit_start import Candidate, Search, fit_start
from pixelpath.runs.generate import steps_below
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import sample
from pixelpath.runs.starts import RunSamples, check_generator, save_start
from pixelpath.sampling.checks import noised
from pixelpath.sampling.sampler import Sampling

DensityName = Literal[
    "auto", "moment", "moment-by-class", "mixture", "mixture-by-class", "student", "pareto-tail", "symlog", "flow", "samples"
]
assert set(get_args(DensityName)) - {"auto", "samples"} == set(FAMILIES)
MEMORY = 2**28  # bytes of training images, in model range, that a start is fitted to
NEIGHBOURS = 500  # images of each kind whose nearest training image is looked for


@dataclass(frozen=True)
class Quality:
    """How warm and cold samples are compared: `count` samples at each of some numbers of steps."""

    count: int = 500
    """Samples at every number of steps; 0 leaves the comparison out."""
    steps: tuple[int, ...] = ()
    """Numbers of steps; an eighth, a fourth, half and all of the recipe's if not given."""

    def __post_init__(self) -> None:
        if self.count < 0 or self.count == 1 or min(self.steps, default=1) < 1:
            raise UserError(f"`quality.count` must be 0 or at least 2 and steps at least 1, got {self.count} and {self.steps}.")


USUAL = Quality()


@dataclass(frozen=True)
class Fit:
    """What a start is chosen from and by."""

    density: tuple[DensityName, ...] = ("auto",)
    """Families to compare. auto takes those that suit the data; samples are those of another run (`generator`)."""
    budget: float | None = None
    """How many nats the start may be from the noised data. Default: 0.02 up to 64 values an image, else 0.05."""
    sigma: float | None = None
    """Begin at this sigma, whatever the budget (in model range, where data have a standard deviation of about 0.5)."""
    generator: Path | None = None
    """A one-step run on the same data whose samples, noised to `sigma`, are the start."""
    points: int = 2048
    """Noisy held-out images at each noise level by which densities are compared."""
    quality: Quality = USUAL
    """How warm and cold samples are compared."""
    seed: int = 0
    """All randomness of the fit is a function of it."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"`seed` must be at least 0, got {self.seed}.", setting="seed")
        if self.points < 2:
            raise UserError(f"`points` must be at least 2, got {self.points}: 1000 and more tell densities apart.", "points")


def check_can_start(run: OpenRun, fit: Fit) -> None:
    """UserError for a run that no start can be fitted to, or choices that do not go together: before its data are read."""
    _check_names(fit)
    run.denoiser  # noqa: B018 (a run of stage one cannot be sampled)
    if run.recipe.is_one_step:
        raise UserError(
            f"{run.path} is a one-step model, which does not predict posterior means: fit the start on a diffusion run, perhaps "
            "with this one as its `generator`."
        )
    if run.conditions.numbers or run.conditions.other:
        raise UserError(
            f"{run.path} takes numbers or images as conditions, and a start is a density of images alone: fit starts to runs "
            "without such conditions."
        )


def fit_run_start(run: OpenRun, data: PreparedData, folder: Path, fit: Fit | None = None) -> Path:
    """Fit a start for a run into a new folder: the start, search.json, pictures and report.html; the folder."""
    fit = fit or Fit()
    check_can_start(run, fit)
    device = next(run.denoiser.parameters()).device
    families = _families(fit, run, device)
    known = known_of(run, data)
    say(f"Fitting to {len(known.training)} training images, comparing on {len(known.held_out)} held-out ones.")
    search = fit_start(run.denoiser, run.noise, known, families, fit.budget, fit.sigma, fit.seed, fit.points, device)
    usual = run.recipe.usual_sampling.count
    fewer = steps_below(run.noise, usual, search.warm.sigma)
    savings = f"As fine a grid as the recipe's {usual} steps takes {fewer} of them from there on."
    about = {"name": search.chosen.name, "divergence": search.chosen.divergence(), "budget": search.budget, "steps": fewer}
    save_start(folder, search.warm, run, about)
    write_json(folder / "search.json", record(search, savings))  # now, so that a start is never without its record
    _tell(search, savings)
    _pictures(folder, run, known, search, device)
    found = _quality(folder, run, data, fit.quality, search, device)
    near = _neighbours(folder, run, known, fit.quality, fewer, device)
    write_json(folder / "search.json", record(search, savings) | {"quality": found, "neighbours": near})
    say(f"Start: {folder}; report: {write_start_report(folder)}.")
    say(f"Use it: pixelpath sample {run.path} --start {folder} --steps {fewer}")
    return folder


def _tell(search: Search, savings: str) -> None:
    """What was found, in sentences."""
    say(f"{search.sentence()} {savings}")
    for candidate in search.candidates:
        say(f"  {line(candidate)}")
    for remark in search.remarks:
        say(remark)
    for name, why in search.left_out.items():
        say(f"  {name}: left out. {why}")


def known_of(run: OpenRun, data: PreparedData) -> Known:
    """Training and held-out images in model range, evenly chosen where they would take too much memory.

    Where the recipe flips images, its denoiser has learned the flipped ones too: every second image is flipped, and small
    training sets hold each both ways. Raises UserError for images of other classes than the run's.
    """
    most = max(2, MEMORY // (4 * math.prod(run.shape)))
    sides = [_encoded(run, side, most) for side in (data.training, data.held_out)]
    if run.classes and data.training.classes != run.classes:
        raise UserError(
            f"{run.path} makes images by class ({', '.join(run.classes[:10])}), so its start needs images of the same classes, "
            f"and these have {', '.join(data.training.classes[:10]) or 'none'}: give images with those."
        )
    classes = len(run.classes)
    (training, own), (held_out, other) = sides
    if run.recipe.flip and 2 * len(training) <= most:
        training, own = torch.cat([training, training.flip(3)]), own.repeat(2)
    elif run.recipe.flip:
        training = _every_second_flipped(training)
    held_out = _every_second_flipped(held_out) if run.recipe.flip else held_out
    return Known(training, held_out, own if classes else None, other if classes else None, classes).shuffled(0)


def line(candidate: Candidate) -> str:
    """One candidate in words."""
    if candidate.against:
        return f"{candidate.name}: not used, {candidate.against}."
    found = candidate.divergence()
    nats = "no density" if found is None else f"{found:.3g} nats"
    remark = f", {candidate.remark}" if candidate.remark else ""
    tails = "tails not judged" if candidate.tails is None else f"tails judged to the {candidate.tails.certified_to:g} quantile"
    return f"{candidate.name}: sigma {candidate.sigma:.3g}, {nats}, {tails}, fitted in {candidate.seconds:.1f} s{remark}."


def record(search: Search, savings: str) -> dict[str, Any]:
    """Everything that was compared, JSON-ready."""
    return {
        "sentence": search.sentence(),
        "savings": savings,
        "budget": search.budget,
        "sigma": search.warm.sigma,
        "chosen": search.chosen.name,
        "index": None if search.index is None else asdict(search.index),
        "candidates": [_record(candidate) for candidate in search.candidates],
        "left_out": search.left_out,
        "remarks": list(search.remarks),
        "seconds": search.seconds,
    }


def _record(candidate: Candidate) -> dict[str, Any]:
    certificate, tails, found = candidate.certificate, candidate.tails, candidate.divergence()
    return {
        "name": candidate.name,
        "sigma": candidate.sigma,
        "divergence": found,
        "error": None if found is None else candidate.error(),
        "seconds": candidate.seconds,
        "numbers": candidate.numbers,
        "against": candidate.against,
        "remark": candidate.remark,
        "tails": None if tails is None else [asdict(each) | {"certified": each.certified} for each in tails.quantiles],
        "certificate": None if certificate is None else [asdict(row) for row in certificate.rows],
    }


def _check_names(fit: Fit) -> None:
    """UserError for names of families that do not go together, or need what is not given."""
    names = fit.density
    if ("samples" in names) != (fit.generator is not None):
        raise UserError("`density` samples and `generator` belong together: give both, or neither.", setting="density")
    if not names:
        raise UserError(f"`density` needs the name of a family: auto, {', '.join(FAMILIES)} or samples.", setting="density")
    if "auto" in names and len(names) > 1:
        sentence = "`density` auto compares the families that suit the data: name it alone, or name the others alone."
        raise UserError(sentence, setting="density")
    without = [name for name in names if name in ("samples", "symlog")]
    if without and fit.sigma is None:
        sentence = f"`density` {without[0]} has no log-density, so no sigma can be chosen for it: give `sigma`, and try several."
        raise UserError(sentence, setting="sigma")


def _families(fit: Fit, run: OpenRun, device: torch.device) -> dict[str, Family] | None:
    """The families named, None for the usual ones; UserError for a generator of other images."""
    if "auto" in fit.density:
        return None
    families = {name: FAMILIES[name] for name in fit.density if name != "samples"}
    if fit.generator is not None:
        other = open_run(fit.generator, device=device)
        check_generator(other, run)
        families["samples"] = lambda known, noise, seed: RunSamples(other)
    return families


def _encoded(run: OpenRun, side: sources.Source, most: int) -> tuple[Tensor, Tensor]:
    places = sources.evenly(len(side), most)
    native = torch.from_numpy(sources.gather(side, places))
    return run.normaliser.encode(native), torch.from_numpy(sources.labels(side)[places])


def _every_second_flipped(images: Tensor) -> Tensor:
    return torch.where(torch.arange(len(images))[:, None, None, None] % 2 == 1, images.flip(3), images)


def _pictures(folder: Path, run: OpenRun, known: Known, search: Search, device: torch.device) -> None:
    """The certificates; start samples and noised held-out images, their tails, some of them side by side."""
    certificates = {candidate.name: candidate.certificate for candidate in search.candidates}
    compared = Certificates(certificates, search.chosen.name, search.warm.sigma, search.budget)
    save_png(folder / "certificate.png", certificate_plot(compared))
    count, sigma = min(4096, len(known.held_out)), search.warm.sigma
    labels = None if known.held_out_labels is None else known.held_out_labels[:count]
    true = noised(known.held_out[:count], sigma, [seed_of(place, 8) for place in range(count)])
    drawn = search.warm.draw(Streams(seed_of(place, 9) for place in range(count)), run.shape, labels)
    save_png(folder / "tails.png", tails_plot(drawn, true, search.chosen.name))
    few = min(shown(run.shape), count)
    own = None if labels is None else labels[:few].to(device)
    level = torch.full((few,), sigma, device=device)
    with torch.no_grad():
        first, second = (run.denoiser(side[:few].to(device), level, own).cpu() for side in (true, drawn))
    save_png(folder / "side-by-side.png", side_by_side(true[:few], drawn[:few], first, second, run.normaliser.decode))


def _quality(
    folder: Path, run: OpenRun, data: PreparedData, quality: Quality, search: Search, device: torch.device
) -> list[dict[str, Any]]:
    """Distance in pixels over evaluations, cold and warm, unguided; drawn and returned."""
    if quality.count == 0:
        return []
    usual = run.recipe.usual_sampling.count
    steps = sorted({max(1, usual // part) for part in (8, 4, 2, 1)}) if not quality.steps else sorted(set(quality.steps))
    ways = [Sampling(steps=number, guidance=1.0, start=where) for where in (None, folder) for number in steps]
    seeds = range(min(quality.count, max(2, Real(data).few)))
    measured: list[DistanceCurve] = curves.curves([run], data, seeds, ways, [pixels(data)])
    found = [asdict(curve) for curve in measured]
    save_png(folder / "distance_over_nfe.png", distance_over_nfe(found))
    return found


def _neighbours(
    folder: Path, run: OpenRun, known: Known, quality: Quality, steps: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Distances of held-out images, warm and cold samples to the nearest training image: drawn, and their quantiles."""
    count = min(quality.count, NEIGHBOURS, len(known.held_out))
    if count == 0:
        return {}
    seeds, found = range(count), {"held-out images": known.held_out[:count]}
    for name, how in (
        ("warm samples", Sampling(steps=steps, guidance=1.0, start=folder)),
        ("cold samples", Sampling(guidance=1.0)),
    ):
        made = sample(run, seeds, choose_labels(run, seeds, ()), how)
        found[name] = run.normaliser.encode(made.native)
    distances = {name: nearest(images.flatten(1), known.training.flatten(1)) for name, images in found.items()}
    save_png(folder / "neighbours.png", neighbours_plot(distances))
    return {
        name: {"median": float(each.median()), "q05": float(each.double().quantile(0.05)), "least": float(each.min())}
        for name, each in distances.items()
    }
