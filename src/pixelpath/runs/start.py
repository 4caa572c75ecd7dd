"""The command `pixelpath start fit`: where sampling of a run may begin instead of at noise alone, chosen and certified.

*Warm* samples begin at the start, *cold* ones at noise alone, as the control. A start's folder holds the start, search.json with
everything that was compared, pictures and a report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro
from torch import Tensor

from pixelpath.runs import curves
from pixelpath.runs.conditions import choose_labels
from pixelpath.runs.comparison import Real, pixels
from pixelpath.runs.curves import Curve
from pixelpath.runs.folder import write_json
from pixelpath.reports.pictures import evaluations_plot, save_png
from pixelpath.runs.prepare import Data, choose_device, read_data_of, say
from pixelpath.runs.sample import How, free_folder, make
from pixelpath.reports.start_pictures import side_by_side, certificate_plot, neighbours_plot, shown, tails_plot
from pixelpath.reports.start_report import write_start_report
from pixelpath.data import sources
from pixelpath.evaluation.distances import nearest
from pixelpath.randomness import generators, seed_of
from pixelpath.runs.families import FAMILIES, Family, Known
from pixelpath.runs.fit_start import Candidate, Search, fit_start
from pixelpath.runs.generate import steps_below
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.starts import RunSamples, check_generator, save_start
from pixelpath.sampling.checks import noised

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
            raise ValueError(f"--quality.count must be 0 or at least 2 and steps at least 1, got {self.count} and {self.steps}.")


USUAL = Quality()


def start(
    action: Annotated[Literal["fit"], tyro.conf.Positional],
    run: Annotated[Path, tyro.conf.Positional],
    density: tuple[DensityName, ...] = ("auto",),
    budget: float | None = None,
    sigma: float | None = None,
    generator: Path | None = None,
    data: Path | None = None,
    points: int = 2048,
    quality: Quality = USUAL,
    seed: int = 0,
    checkpoint: Path | None = None,
    out: Path | None = None,
    device: str | None = None,
) -> None:
    """Fit a start for sampling a run in fewer steps: choose its law and level by held-out images, and report how good it is.

    Then: pixelpath sample RUN --start START --steps N.

    Args:
        action: What to do: fit.
        run: Folder of a stage-two run.
        law: Families to compare: auto takes those that suit the data; samples are those of another run (--generator).
        budget: How many nats the start may be from the noised data; 0.02 up to 64 values an image, else 0.05, if not given.
        sigma: Begin at this level, budget or not: deviation of the noise in model range, where data have about 0.5.
        generator: A one-step run on the same data whose samples, noised to --sigma, are the start.
        data: Images to fit it to, brought to the size of the run's; the run's own data if not given.
        points: Noisy held-out images at each level by which laws are compared.
        quality: How to compare warm and cold samples.
        seed: All randomness of the fit is a function of it.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New or empty folder; RUN/starts/1, 2, ... if not given.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}.")
    if points < 2:
        raise ValueError(f"--points must be at least 2, got {points}: 1000 and more tell laws apart.")
    chosen = choose_device(device)
    opened = open_run(run, checkpoint, chosen)
    denoiser = opened.denoiser
    if opened.recipe.is_one_step:
        raise ValueError(
            f"{run} is a one-step model, whose estimates are images and not means of them, so nothing certifies a start for it: "
            "fit one for a diffusion run, perhaps with this one as its --generator."
        )
    if opened.conditions.numbers or opened.conditions.other:
        raise ValueError(
            f"{run} is asked for numbers or images beside, which no law of its images knows: starts are fitted to runs without."
        )
    families = _families(density, opened, generator, sigma, chosen)
    folder = free_folder(run / "starts", out)
    content = read_data_of(opened, data)
    known = known_of(opened, content)
    say(f"Fitting to {len(known.training)} training images, comparing on {len(known.held_out)} held-out ones.")
    search = fit_start(denoiser, opened.noise, known, families, budget, sigma, seed, points, chosen)
    usual = opened.recipe.sampling.steps
    fewer = steps_below(opened.noise, usual, search.warm.sigma)
    savings = f"As fine a grid as the recipe's {usual} steps takes {fewer} of them from there on."
    about = {"name": search.chosen.name, "divergence": search.chosen.divergence(), "budget": search.budget, "steps": fewer}
    save_start(folder, search.warm, opened, about)
    write_json(folder / "search.json", record(search, savings))  # now, so that a start is never without its record
    say(f"{search.sentence()} {savings}")
    for candidate in search.candidates:
        say(f"  {line(candidate)}")
    for remark in search.remarks:
        say(remark)
    for name, why in search.left_out.items():
        say(f"  {name}: left out. {why}")
    _pictures(folder, opened, known, search, chosen)
    found = _quality(folder, opened, content, quality, search, chosen)
    near = _neighbours(folder, opened, known, quality, fewer, chosen)
    write_json(folder / "search.json", record(search, savings) | {"quality": found, "neighbours": near})
    say(f"Start: {folder}; report: {write_start_report(folder)}.")
    say(f"Use it: pixelpath sample {run} --start {folder} --steps {fewer}")


def known_of(run: OpenRun, data: Data) -> Known:
    """Training and held-out images in model range, evenly chosen where they would take too much memory.

    Where the recipe flips images, its denoiser has learned the flipped ones too: every second image is flipped, and small
    training sets hold each both ways. Raises ValueError for images of other classes than the run's.
    """
    most = max(2, MEMORY // (4 * math.prod(run.shape)))
    sides = [_encoded(run, side, most) for side in (data.training, data.held_out)]
    if run.classes and data.training.classes != run.classes:
        raise ValueError(
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


def _families(
    density: Sequence[DensityName], run: OpenRun, generator: Path | None, sigma: float | None, device: torch.device
) -> dict[str, Family] | None:
    """The families named, None for the usual ones; ValueError for names that do not go together."""
    if ("samples" in density) != (generator is not None):
        raise ValueError("--density samples and --generator RUN belong together: give both, or neither.")
    if not density:
        raise ValueError(f"--density needs the name of a family: auto, {', '.join(FAMILIES)} or samples.")
    if "auto" in density and len(density) > 1:
        raise ValueError("--density auto compares the families that suit the data: name it alone, or name the others alone.")
    if "auto" in density:
        return None
    families = {name: FAMILIES[name] for name in density if name != "samples"}
    if generator is not None:
        other = open_run(generator, device=device)
        check_generator(other, run)
        families["samples"] = lambda known, noise, seed: RunSamples(other)
    without = [name for name in density if name in ("samples", "symlog")]
    if without and sigma is None:
        raise ValueError(f"--density {without[0]} has no density, so no level can be chosen for it: give --sigma, and try several.")
    return families


def _encoded(run: OpenRun, side: sources.Source, most: int) -> tuple[Tensor, Tensor]:
    places = sources.evenly(len(side), most)
    native = torch.from_numpy(sources.gather(side, places))
    return run.normaliser.encode(native), torch.from_numpy(sources.labels(side)[places])


def _every_second_flipped(images: Tensor) -> Tensor:
    return torch.where(torch.arange(len(images))[:, None, None, None] % 2 == 1, images.flip(3), images)


def _pictures(folder: Path, run: OpenRun, known: Known, search: Search, device: torch.device) -> None:
    """The certificates; start samples and noised held-out images, their tails, some of them side by side."""
    save_png(folder / "certificate.png", certificate_plot(search))
    count, sigma = min(4096, len(known.held_out)), search.warm.sigma
    labels = None if known.held_out_labels is None else known.held_out_labels[:count]
    true = noised(known.held_out[:count], sigma, [seed_of(place, 8) for place in range(count)])
    drawn = search.warm.draw(generators(seed_of(place, 9) for place in range(count)), run.shape, labels)
    save_png(folder / "tails.png", tails_plot(drawn, true, search.chosen.name))
    few = min(shown(run.shape), count)
    own = None if labels is None else labels[:few].to(device)
    level = torch.full((few,), sigma, device=device)
    with torch.no_grad():
        first, second = (run.denoiser(side[:few].to(device), level, own).cpu() for side in (true, drawn))
    save_png(folder / "side-by-side.png", side_by_side(true[:few], drawn[:few], first, second, run.normaliser.decode))


def _quality(folder: Path, run: OpenRun, data: Data, quality: Quality, search: Search, device: torch.device) -> list[dict[str, Any]]:
    """Distance in pixels over evaluations, cold and warm, unguided; drawn and returned."""
    if quality.count == 0:
        return []
    usual = run.recipe.sampling.steps
    steps = sorted({max(1, usual // part) for part in (8, 4, 2, 1)}) if not quality.steps else sorted(set(quality.steps))
    ways = [How(steps=number, guidance=1.0, start=where) for where in (None, folder) for number in steps]
    seeds = range(min(quality.count, max(2, Real(data).few)))
    measured: list[Curve] = curves.curves([run], data, seeds, ways, [pixels(data)], device)
    found = [asdict(curve) for curve in measured]
    save_png(folder / "evaluations.png", evaluations_plot(found))
    return found


def _neighbours(
    folder: Path, run: OpenRun, known: Known, quality: Quality, steps: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Distances of held-out images, warm and cold samples to the nearest training image: drawn, and their quantiles."""
    count = min(quality.count, NEIGHBOURS, len(known.held_out))
    if count == 0:
        return {}
    seeds, found = range(count), {"held-out images": known.held_out[:count]}
    for name, how in (("warm samples", How(steps=steps, guidance=1.0, start=folder)), ("cold samples", How(guidance=1.0))):
        made = make(run, seeds, choose_labels(run, seeds, ()), how, device)
        found[name] = run.normaliser.encode(made.images)
    distances = {name: nearest(images.flatten(1), known.training.flatten(1)) for name, images in found.items()}
    save_png(folder / "neighbours.png", neighbours_plot(distances))
    return {
        name: {"median": float(each.median()), "q05": float(each.double().quantile(0.05)), "least": float(each.min())}
        for name, each in distances.items()
    }
