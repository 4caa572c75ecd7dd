"""Fitting where sampling may begin instead of at pure noise: for a run, or for a denoiser of your own.

*Warm* samples begin at the start, *cold* ones at noise alone: by DPM-Solver++(2M) from the sigma at which the data are just
hidden, which is the best control, and by the recipe's own sampling. The folder of a run's start holds the start, search.json
with everything that was compared, pictures and a report.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

import torch
from PIL import Image
from torch import Tensor

from pixelpath.atomic import write_json
from pixelpath.data import sources
from pixelpath.errors import UserError
from pixelpath.evaluation.certificate import Divergence
from pixelpath.evaluation.distances import nearest, nearest_shares
from pixelpath.evaluation.radii import radius_quantiles
from pixelpath.interop.pipelines import Pipeline
from pixelpath.log import say
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, seed_of
from pixelpath.reports.pictures import save_png
from pixelpath.reports.start import write_start_report
from pixelpath.reports.start_plots import shown, side_by_side
from pixelpath.runs.generate import steps_below
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import sample
from pixelpath.runs.sample_conditions import as_held_out
from pixelpath.runs.starting.choice import Candidate, Search
from pixelpath.runs.starting.families import FAMILIES, Family, Known
from pixelpath.runs.starting.files import RunSamples, check_generator, save_start
from pixelpath.runs.starting.pipeline import PipelineStart, fit_pipeline_start
from pixelpath.runs.starting.quality import Quality, Verdict, measure_quality, start_pays
from pixelpath.runs.starting.search import POINTS, find_start
from pixelpath.sampling.checks import noised
from pixelpath.sampling.sampler import Sampling
from pixelpath.starts.warm import WarmStart
from pixelpath.types import Denoise, Images, Labels

DensityName = Literal[
    "auto", "moment", "moment-by-class", "mixture", "mixture-by-class", "student", "pareto-tail", "symlog", "flow", "samples"
]
assert set(get_args(DensityName)) - {"auto", "samples"} == set(FAMILIES)
MEMORY = 2**28  # bytes of training images, in model range, that a start is fitted to
NEIGHBOURS = 500  # images of each kind whose nearest training image is looked for


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
    points: int = POINTS
    """Noisy images of either half of the held-out ones at each noise level by which densities are compared."""
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


@overload
def fit_start(
    denoise: Denoise,
    noise: NoiseRange,
    train_images: Images,
    held_out_images: Images,
    *,
    budget: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    points: int = POINTS,
    device: torch.device | str = "cpu",
) -> WarmStart: ...


@overload
def fit_start(
    denoise: Pipeline,
    noise: Images,
    train_images: Labels | None = None,
    *,
    budget: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    points: int = POINTS,
) -> PipelineStart: ...


def fit_start(
    denoise: Any,
    noise: Any,
    train_images: Any = None,
    held_out_images: Any = None,
    *,
    budget: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    points: int = POINTS,
    device: torch.device | str = "cpu",
) -> WarmStart | PipelineStart:
    """Fit where sampling with `denoise` may begin instead of at pure noise; draw from it with `start.draw(streams)`.

    `fit_start(pipeline, images, labels)` does so for a pipeline of diffusers: see `pixelpath.runs.starting.pipeline`.

    Args:
        denoise: (noisy, sigma) to the estimate of the clean images, in the range of the images.
        noise: The noise levels that the denoiser has learned.
        train_images: Clean images in model range (about mean 0 and standard deviation 0.5) that densities are fitted to.
        held_out_images: Clean images: one half chooses density and sigma, the other one confirms them.
        budget: How many nats the start may be from the noised data. Default: 0.02 up to 64 values an image, else 0.05.
        sigma: Begin at this sigma, whatever the budget.
        seed: All randomness of the fit is a function of it.
        points: Noisy images of either half of the held-out ones at each level by which densities are compared.
        device: Where `denoise` works; images may stay on the CPU.

    Raises UserError if images are not in the denoiser's range, or if no start will do. `start.sigma` is where the sigmas of a
    sampler begin: `noise.sigmas(steps, start.sigma)`.

    Examples:
        >>> import torch
        >>> noise, images = NoiseRange(0.002, 80), 0.5 * torch.randn(600, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> denoise = lambda noisy, sigma: noisy * 0.25 / (0.25 + sigma.to(noisy).reshape(-1, 1, 1, 1) ** 2)
        >>> start = fit_start(denoise, noise, images[:300], images[300:], points=256)
        >>> 0 < start.sigma < 80
        True
    """
    if isinstance(denoise, Pipeline):
        return fit_pipeline_start(denoise, noise, train_images, budget, sigma, seed, points)
    known = Known(train_images.cpu(), held_out_images.cpu())
    labelled = lambda noisy, sigma, labels: denoise(noisy, sigma)  # noqa: E731
    return find_start(labelled, noise, known, None, budget, sigma, seed, points, device).warm


def fit_run_start(run: OpenRun, data: PreparedData, folder: Path, fit: Fit | None = None) -> Path:
    """Fit a start for a run into a new folder: the start, search.json, pictures and report.html; the folder."""
    fit = fit or Fit()
    check_can_start(run, fit)
    families, known = _families(fit, run), known_of(run, data)
    say(f"Fitting to {len(known.training)} training images, comparing on {len(known.held_out)} held-out ones.")
    search = find_start(
        run.denoiser, run.noise, known, families, fit.budget, fit.sigma, fit.seed, fit.points, run.device, adapted=False
    )
    usual = run.recipe.usual_sampling
    fewer = steps_below(usual.schedule(run.noise), search.warm.sigma)
    savings = f"As fine a grid as the recipe's {usual.count} steps takes {fewer} of them from there on."
    limit = None if search.bound is None else search.bound.limit
    about = {"name": search.chosen.name, "limit": limit, "budget": search.budget, "steps": fewer}
    save_start(folder, search.warm, run, about)
    record = _record(search, savings)
    write_json(folder / "search.json", record)  # now, so that a start is never without its record
    _tell(search, savings)
    drawn = _drawn(run, known, search)
    save_png(folder / "side-by-side.png", _side_by_side(run, drawn))
    record |= {"radii": radius_quantiles(drawn.samples, drawn.held_out)}
    compared, verdict = _compared(folder, run, data, search, fit.quality)
    neighbours = {"neighbours": _neighbours(folder, run, data, known, fit.quality, fewer)}
    write_json(folder / "search.json", record | compared | neighbours)
    say(compared["verdict"])
    say(f"Search and comparison asked the network about {compared['spent']:,} images.")
    say(f"Start: {folder}; report: {write_start_report(folder)}.")
    if verdict.pays:
        length = f"--steps {fewer}" if verdict.nfe is None else f"--nfe {verdict.nfe}"
        say(f"Use it: pixelpath sample {run.path} --start {folder} --sampler {verdict.sampler or 'dpmpp_2m'} {length}")
    return folder


def _compared(folder: Path, run: OpenRun, data: PreparedData, search: Search, quality: Quality) -> tuple[dict[str, Any], Verdict]:
    """The comparison of warm and cold samples with its verdict, JSON-ready, and the verdict; that of the search without one."""
    found = measure_quality(folder, run, data, quality, search.cold)
    verdict = start_pays(found) if found and search.pays else Verdict(search.pays, search.verdict())
    spent = search.nfe + round(sum(curve.evaluations for curve in found))
    sentence = f"{verdict.sentence} {verdict.repaid(spent)}".strip()
    record = {"quality": [asdict(curve) for curve in found], "verdict": sentence, "pays": verdict.pays, "spent": spent}
    return record, verdict


def known_of(run: OpenRun, data: PreparedData) -> Known:
    """Training and held-out images in model range, evenly chosen where they would take too much memory.

    Where the recipe flips images, its denoiser has learned the flipped ones too: every second image is flipped, and small
    training sets hold each both ways. Raises UserError for images of other classes than the run's.
    """
    most = max(2, MEMORY // (4 * math.prod(run.shape)))
    (training, own), (held_out, other) = (_encoded(run, side, most) for side in (data.training, data.held_out))
    if run.classes and data.training.classes != run.classes:
        raise UserError(
            f"{run.path} makes images by class ({', '.join(run.classes[:10])}), so its start needs images of the same classes, "
            f"and these have {', '.join(data.training.classes[:10]) or 'none'}: give images with those."
        )
    classes = len(run.classes)
    if run.recipe.flip and 2 * len(training) <= most:
        training, own = torch.cat([training, training.flip(3)]), own.repeat(2)
    elif run.recipe.flip:
        training = _every_second_flipped(training)
    held_out = _every_second_flipped(held_out) if run.recipe.flip else held_out
    return Known(training, held_out, own if classes else None, other if classes else None, classes).shuffled(0)


def _encoded(run: OpenRun, side: sources.Source, most: int) -> tuple[Tensor, Tensor]:
    places = sources.evenly(len(side), most)
    return run.normaliser.encode(torch.from_numpy(sources.gather(side, places))), torch.from_numpy(sources.labels(side)[places])


def _every_second_flipped(images: Tensor) -> Tensor:
    return torch.where(torch.arange(len(images))[:, None, None, None] % 2 == 1, images.flip(3), images)


def _tell(search: Search, savings: str) -> None:
    """Say what was found, and of every family what it is worth or why it was left out."""
    say(f"{search.sentence()} {savings}")
    left_out = [f"  {name}: left out. {why}" for name, why in search.left_out.items()]
    for sentence in (*(f"  {_line(candidate)}" for candidate in search.candidates), *search.remarks, *left_out):
        say(sentence)


def _line(candidate: Candidate) -> str:
    """One candidate in words."""
    if candidate.against:
        return f"{candidate.name}: not used, {candidate.against}."
    found = candidate.divergence()
    nats = "no density" if found is None else f"at most {found.limit:.3g} nats by the choosing half (estimate {found.cross:.3g})"
    remark = f", {candidate.remark}" if candidate.remark else ""
    tails = "tails not judged" if candidate.tails is None else candidate.tails.sentence()
    looks = f" after {candidate.looks} looks, each with fresh noise" if candidate.looks > 1 else ""
    return f"{candidate.name}: sigma {candidate.sigma:.3g}, {nats}, {tails}{looks}, fitted in {candidate.seconds:.1f} s{remark}."


def _record(search: Search, savings: str) -> dict[str, Any]:
    """Everything that was compared, JSON-ready."""
    candidates = []
    for each in search.candidates:
        tails, certificate, divergence = each.tails, each.certificate, each.divergence()
        plain = {name: vars(each)[name] for name in ("name", "sigma", "seconds", "numbers", "against", "remark", "looks")}
        candidates.append(
            {
                **plain,
                "divergence": None if divergence is None else divergence.cross,
                "error": None if divergence is None else divergence.cross_error,
                "limit": None if divergence is None else divergence.limit,
                "tails": None if tails is None else [asdict(row) | {"certified": row.certified} for row in tails.quantiles],
                "certificate": None if certificate is None else [_row(row) for row in certificate.rows],
            }
        )
    return {
        "sentence": search.sentence(),
        "verdict": search.verdict(),
        "pays": search.pays,
        "savings": savings,
        "budget": search.budget,
        "sigma": search.warm.sigma,
        "chosen": search.chosen.name,
        "bound": None if search.bound is None else asdict(search.bound),
        "certifying": search.certifying,
        "tries": search.tries,
        "cold": search.cold,
        "nfe": search.nfe,
        "index": None if search.index is None else asdict(search.index),
        "candidates": candidates,
        "left_out": search.left_out,
        "remarks": list(search.remarks),
        "seconds": search.seconds,
    }


def _row(row: Divergence) -> dict[str, Any]:
    """The divergence at a noise level, JSON-ready."""
    return asdict(row) | {"dominated": row.dominated}


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


def _families(fit: Fit, run: OpenRun) -> dict[str, Family] | None:
    """The families named, None for the usual ones; UserError for a generator of other images."""
    if "auto" in fit.density:
        return None
    families = {name: FAMILIES[name] for name in fit.density if name != "samples"}
    if fit.generator is not None:
        other = open_run(fit.generator, device=run.device)
        check_generator(other, run)
        families["samples"] = lambda known, noise, seed: RunSamples(other)
    return families


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Held-out images noised to the sigma of a start, samples of the start, as many, and the labels of both."""

    held_out: Images
    samples: Images
    labels: Labels | None
    sigma: float


def _drawn(run: OpenRun, known: Known, search: Search) -> _Drawn:
    count, sigma = min(4096, len(known.held_out)), search.warm.sigma
    images, labels = known.held(slice(count))
    true = noised(images, sigma, [seed_of(place, 8) for place in range(count)])
    return _Drawn(true, search.warm.draw(Streams(seed_of(place, 9) for place in range(count)), run.shape, labels), labels, sigma)


def _side_by_side(run: OpenRun, drawn: _Drawn) -> Image.Image:
    """The first images of either side, and what the network makes of them."""
    few = min(shown(run.shape), len(drawn.held_out))
    sides = drawn.held_out[:few], drawn.samples[:few]
    own = None if drawn.labels is None else drawn.labels[:few].to(run.device)
    level = torch.full((few,), drawn.sigma, device=run.device)
    with torch.no_grad():
        estimates = [run.denoiser(side.to(run.device), level, own).cpu() for side in sides]
    return side_by_side(*sides, *map(run.normaliser.decode, estimates), south_up=run.metadata.south_up)


def _neighbours(
    folder: Path, run: OpenRun, data: PreparedData, known: Known, quality: Quality, steps: int
) -> dict[str, dict[str, Any]]:
    """Distances of held-out images, warm and cold samples to the nearest training image: their quantiles."""
    count = min(quality.count, NEIGHBOURS, len(known.held_out))
    if count == 0:
        return {}
    seeds, found = range(count), {"held-out images": known.held_out[:count]}
    asked = as_held_out(run, data, seeds)
    warm, cold = Sampling(steps=steps, guidance=1.0, start=folder), Sampling(guidance=1.0)
    for name, how in (("warm samples", warm), ("cold samples", cold)):
        found[name] = run.normaliser.encode(sample(run, seeds, asked, how).native)
    distances = {name: nearest(images.flatten(1), known.training.flatten(1)) for name, images in found.items()}
    return {
        name: {
            "median": float(each.median()),
            "q05": float(each.double().quantile(0.05)),
            "least": float(each.min()),
            "shares": nearest_shares(each),
        }
        for name, each in distances.items()
    }
