"""Heavy tails of real data: rain radar sampled cold, warm, and by a diffusion under Student noise, at one size and training.

    python -m benchmarks.radar --data fmi_radar_rainrate_64x64.npz --out radar.json --seeds 0 1 --steps 3000 --picture radar.png

The file holds rain rates in mm/h, `train` and `test` [image, 1, row, column], and `train_time`, the time of each image; crops of
it (benchmarks/rain.py) train three models: of ln(1 + rate), of the rate itself, and of the rate under Student noise (t-EDM:
Pandey et al. 2025, "Heavy-tailed diffusion models", arXiv 2410.14171). *Cold* runs begin at noise of deviation 80, *warm* ones at
a law fitted to training crops, at the lowest level that its certificate and tail gate allow, by validation crops. All that is
reported is against the test crops. Weights, laws and rows stay beside --out: the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.controls import Empirical, Naive
from benchmarks.rain import (
    DRY,
    MODELS,
    PIXELS,
    SHAPE,
    Crops,
    Model,
    Rates,
    Trained,
    maxima,
    measured,
    quantile,
    read,
    say,
    spread,
    trained,
)
from pixelpath.evaluation.certificate import certify
from pixelpath.evaluation.tails import hill, radii, tail_gate
from pixelpath.noise import DATA_STD
from pixelpath.randomness import Streams, seed_of
from pixelpath.sampling.checks import check_finite
from pixelpath.sampling.sampler import hidden
from pixelpath.sampling.samplers import dpmpp_2m, heun
from pixelpath.starts import files
from pixelpath.starts.gaussian import LowRank, fit_gaussian
from pixelpath.starts.mixture import ConvolvedMixture, fit_mixture
from pixelpath.starts.start import Density, Saved, Start
from pixelpath.starts.student import fit_student
from pixelpath.starts.tails import SymLog, fit_pareto_tail, symlog
from pixelpath.types import Denoise, Images, Labels, Sigmas

LEVELS = tuple(float(sigma) for sigma in np.geomspace(40, 0.3, 15))  # where starts are certified, in model range
BUDGET = 0.1  # nats
Walk = Callable[[Denoise, Images, torch.Tensor], Images]
COLD, WARM = (9, 18, 32), 9  # steps of Heun's method: 17, 35 and 63 evaluations, and 17
BATCH = 512
SHOWN = {
    "log-cold-63": "log, cold, 63 evaluations",
    "log-splice-17": "log, warm (splice), 17",
    "raw-cold-63": "raw, cold, 63",
    "raw-splice-17": "raw, warm (splice), 17",
    "t-EDM-cold-63": "t-EDM, cold, 63",
}  # file of samples -> words of the picture
SAMPLED = -3  # key that keeps the seeds of samples apart from those of training


@dataclass(frozen=True)
class Cold:
    """The cold start of a model: its own noise."""

    model: Model

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """Sigma times the model's noise."""
        return sigma * self.model.noise(streams)


@dataclass(frozen=True)
class Fit:
    """A start, the seconds that its fit computed, and the lowest level down to which it passes the tail gate (None: nowhere)."""

    start: Start
    seconds: float
    gate: float | None


def starts(images: Images, validation: Images, logarithm: bool, folder: Path) -> dict[str, Fit]:
    """Every start that can be fitted to training images in model range, kept below `folder`.

    The freedom of the Student law is Hill's index of the radii, for that of greatest likelihood is far too low here.
    """
    makes: dict[str, Callable[[], Start]] = {
        "gaussian": lambda: fit_gaussian(images, form=LowRank(64)),
        "mixture": lambda: mixture(images),
        "student": lambda: fit_student(images, freedom=hill(radii(images)).value, tolerance=1e-3),
        "pareto-tail": lambda: fit_pareto_tail(images, found["mixture"].start),
        "soft log": lambda: SymLog(mixture(symlog(images))),
    }
    found: dict[str, Fit] = {}
    for name in [name for name in makes if not (logarithm and name == "soft log")]:
        kept = folder / name.replace(" ", "-")
        try:
            if not (kept / files.FACTS).exists():
                started = time.process_time()
                start = makes[name]()
                seconds = time.process_time() - started + (found["mixture"].seconds if name == "pareto-tail" else 0)
                files.save(start, kept, {"seconds": seconds, "gate": gate(start, validation)})
            found[name] = Fit(files.load(kept), files.about(kept)["seconds"], files.about(kept)["gate"])
            say(f"{name}: fitted in {found[name].seconds:.1f} s, passes the gate down to {found[name].gate}")
        except (KeyError, ValueError) as error:
            say(f"{name} cannot be fitted: {error}")
    return found


def mixture(images: Images) -> ConvolvedMixture:
    """A mixture of ten Gaussians, or as many fewer as it takes that none collapses; ValueError if one of two does."""
    for components in (10, 5, 3):
        try:
            return fit_mixture(images, components=components)
        except ValueError as error:
            say(str(error))
    return fit_mixture(images, components=2)


def gate(start: Start, validation: Images) -> float | None:
    """The last of the falling levels down to which the start has the tails of the noised validation images."""
    kept = None
    for sigma in LEVELS:
        try:
            if not tail_gate(start, validation, sigma).passes:
                break
        except ValueError as error:
            say(f"no gate at {sigma:.3g}: {error}")
            break
        kept = sigma
    return kept


@dataclass(frozen=True)
class Choice:
    """Where a start begins: `sigma`, and whether budget and gate are both kept to there."""

    sigma: float
    kept: bool


def choose(run: Trained, fits: dict[str, Fit], validation: Images) -> dict[str, Choice]:
    """For each start the lowest level that keeps to the budget and passes the gate.

    Where there is none, the one of the two that can be had decides, or the highest of LEVELS. A splice takes the divergence of
    its bulk law, the mixture; of soft log, which has no density, the gate alone decides.
    """
    densities = {name: fit.start for name, fit in fits.items() if isinstance(fit.start, Density)}
    found = certify(lambda x, sigma, _: run.denoiser(x, sigma), densities, spread(validation, 1500), None, LEVELS, enough=10.0)
    for name, each in found.items():
        say(f"{run.model.name}, {name}: " + "; ".join(row.sentence() for row in each.rows[::3]))
    choices = {}
    for name, fit in fits.items():
        of = "mixture" if name == "pareto-tail" else name
        bounds = [fit.gate, found[of].sigma_for(BUDGET)] if of in found else [fit.gate]
        known = [bound for bound in bounds if bound is not None]
        choices[name] = Choice(max(known, default=LEVELS[0]), known == bounds)
    return choices


@torch.no_grad()
def draw(run: Trained, start: Start, sigma: float, steps: int, count: int, walk: Walk = heun) -> tuple[Rates, int, float]:
    """`count` samples in mm/h by `steps` steps of a sampler from sigma, the evaluations for each, the seconds for all."""
    levels = run.recipe.noise.sigmas(steps, start=sigma)
    made, calls = [], 0

    def denoise(noisy: Images, level: Sigmas) -> Images:
        nonlocal calls
        calls += len(noisy)
        return run.denoiser(noisy, level)

    started = time.process_time()
    for first in range(0, count, BATCH):
        places = range(first, min(first + BATCH, count))
        noisy = start.sample(Streams(seed_of(run.recipe.seed, SAMPLED, place) for place in places), sigma)
        check_finite(noisy, "start samples", "fit the start again")
        made.append(walk(denoise, noisy, levels))
    rates = run.model.rates(run.normaliser.decode(torch.cat(made)))
    return rates, calls // count, time.process_time() - started


@dataclass(frozen=True)
class Settings:
    """What a study is told."""

    folder: Path
    seeds: tuple[int, ...]
    steps: int
    samples: int
    sigma: float | None


def study(model: Model, data: Crops, seed: int, settings: Settings) -> list[dict[str, Any]]:
    """The rows of one model and seed: cold and, under Gaussian noise, from every start; kept in a file."""
    kept = settings.folder / f"{model.name}-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    run = trained(model, data, settings.steps, seed, kept.with_suffix(".pt"))
    highest = run.recipe.noise.sigma_max * run.recipe.noise.shift
    plans = [("cold", Fit(Cold(model), 0.0, None), Choice(highest, True), steps, heun) for steps in COLD]
    if math.isinf(model.freedom):
        best = Fit(Naive(SHAPE, DATA_STD), 0.0, None)  # with 2M the best cold control, hidden or from the top
        levels = {"cold-2M": hidden(run.recipe.noise), "cold-2M-highest": highest}
        plans += [(name, best, Choice(sigma, True), 2 * WARM - 1, dpmpp_2m) for name, sigma in levels.items()]
        plans += [(*each, heun) for each in warm(run, data, settings)]
    found = []
    for name, fit, choice, steps, walk in plans:
        rates, nfe, seconds = draw(run, fit.start, choice.sigma, steps, settings.samples, walk)
        values = sum(each.numel() for each in fit.start.state()[1].values()) if isinstance(fit.start, Saved) else 0
        about = {"model": model.name, "start": name, "evaluations": nfe, "seed": seed}
        level = {"sigma": choice.sigma, "kept": choice.kept, "values": values}
        cost = {"fit": fit.seconds, "sampling": seconds, "training": run.seconds}
        found.append(about | level | cost | measured(rates, data.test))
        say(line(found[-1:]))
        if seed == settings.seeds[0]:
            np.save(settings.folder / f"{model.name}-{name}-{nfe}.npy", rates.numpy())
    kept.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def warm(run: Trained, data: Crops, settings: Settings) -> list[tuple[str, Fit, Choice, int]]:
    """The name, start, level and steps of every warm run, and of two controls where the Gaussian law begins.

    Noise alone, the *naive* start, is what a law must beat; noised training crops, the *empirical* one, know the law as well as
    can be, so that what they lose is the network's own.
    """
    training, validation = (run.normaliser.encode(run.model.values(part)) for part in (data.training, data.validation))
    fits = starts(training, validation, run.model.logarithm, settings.folder / run.model.name)
    given = settings.sigma
    choices = choose(run, fits, validation) if given is None else {name: Choice(given, True) for name in fits}
    plans = [(name, fit, choices[name], WARM) for name, fit in fits.items()]
    controls = {"naive": Naive(SHAPE), "empirical": Empirical(training, allow_memorising=True)}
    return plans + [(name, Fit(start, 0.0, None), choices["gaussian"], WARM) for name, start in controls.items()]


COLUMNS = {
    "sigma": "level",
    "pixel 0.99": "q.99",
    "pixel 0.999": "q.999",
    "beyond pixel 0.999": "beyond q.999",
    "maximum 0.99": "maxima q.99",
    "maximum 0.999": "maxima q.999",
    "beyond maximum 0.99": "maxima beyond q.99",
    "index": "tail index",
    "spectrum": "spectrum",
    "dry": "dry",
    "sampling": "seconds",
    "fit": "fit seconds",
    "values": "fit values",
}


def line(found: list[dict[str, Any]]) -> str:
    """A row of the Markdown table, the mean over seeds +- their deviation; a star where budget or gate were not kept to."""
    words = [f"{found[0]['model']}, {found[0]['start']}", str(found[0]["evaluations"])]
    for key in COLUMNS:
        values = [row[key] for row in found if key in row]
        if not values:
            words.append("")
            continue
        scale = 100 if key.startswith(("pixel", "maximum")) else 1
        form = "{:+.0f} %" if scale == 100 else "{:,.0f}" if key == "values" else "{:.3g}"
        word = form.format(scale * float(np.mean(values)))
        if len(values) > 1 and np.ptp(values) > 0:
            word += f" ± {scale * float(np.std(values, ddof=1)):.2g}"
        words.append(word + ("*" if key == "sigma" and not all(row["kept"] for row in found) else ""))
    return "| " + " | ".join(words) + " |"


def table(found: list[dict[str, Any]]) -> str:
    """All rows as Markdown, seeds together."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in found:
        groups.setdefault((row["model"], row["start"], row["evaluations"]), []).append(row)
    head = ["model, start", "evaluations", *COLUMNS.values()]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *map(line, groups.values())])


def main(
    data: Path,
    out: Path = Path("radar.json"),
    seeds: tuple[int, ...] = (0, 1),
    steps: int = 3000,
    samples: int = 4096,
    limit: int | None = None,
    sigma: float | None = None,
    picture: Path | None = None,
    threads: int = 1,
) -> None:
    """Train, choose, sample, measure and tabulate; `limit` crops of each part at most, and `sigma` instead of choosing."""
    torch.set_num_threads(threads)
    settings = Settings(out.with_suffix(""), seeds, steps, samples, sigma)
    claim(settings.folder / "settings.json", {"steps": steps, "samples": samples, "limit": limit, "sigma": sigma})
    crops = read(data, limit)
    say(f"{len(crops.training)} crops to train, {len(crops.validation)} to validate, {len(crops.test)} to test")
    found = [
        {"model": name, "start": "data", "evaluations": 0} | measured(part, crops.test)
        for name, part in (("test", crops.test), ("training", crops.training))
    ]
    for seed in seeds:
        for model in MODELS:
            found += study(model, crops, seed, settings)
            about = {"steps": steps, "samples": samples, "rows": found}
            out.write_text(json.dumps(about, indent=2), encoding="utf-8")
    say(table(found))
    if picture is not None:
        draw_picture(picture, crops.test, settings.folder)


def claim(file: Path, told: dict[str, float | None]) -> None:
    """Write down what a study was told; ValueError if what lies there was made under other settings."""
    if file.exists() and (before := json.loads(file.read_text(encoding="utf-8"))) != told:
        raise ValueError(f"The study in {file.parent} was made with {before}, not {told}: name another --out.")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told), encoding="utf-8")


def draw_picture(file: Path, test: Rates, folder: Path) -> None:
    """Test crops beside samples of the first seed, and their quantiles against those of the test crops."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    shown = {"test crops": test} | {words: torch.from_numpy(np.load(folder / f"{name}.npy")) for name, words in SHOWN.items()}
    figure = Figure((11, 6.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 4, width_ratios=(1, 1, 1, 1.6), height_ratios=(1, 1, 0.06))
    norm, image = LogNorm(DRY, 30), None
    for place, (words, rates) in enumerate(shown.items()):
        axes = figure.add_subplot(grid[place // 3, place % 3])
        tiles = spread(rates, 25).reshape(5, 5, PIXELS, PIXELS)
        edged = torch.nn.functional.pad(tiles, (0, 1, 0, 1), value=math.nan).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        image = axes.imshow(np.ma.masked_less(edged.numpy(), DRY), norm=norm, cmap="viridis", interpolation="nearest")
        axes.set_facecolor("0.88")
        axes.set_title(words, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    assert image is not None
    bar = figure.add_subplot(grid[2, :3])
    figure.colorbar(image, cax=bar, orientation="horizontal", label="mm/h (grey: dry)")
    sides = (("pixels", torch.flatten, DRY), ("maxima of crops", maxima, 10 * DRY))
    for row, (title, values, lowest) in enumerate(sides):
        axes = figure.add_subplot(grid[row, 3] if row == 0 else grid[1:, 3])
        held = values(test)
        at = 1 - np.geomspace(0.3, 10 / len(held), 60)
        across = [quantile(held, probability) for probability in at]
        for words, rates in list(shown.items())[1:]:
            axes.plot(across, [quantile(values(rates), probability) for probability in at], label=words, linewidth=1.2)
        axes.plot([lowest, 60], [lowest, 60], color="black", linewidth=0.6)
        axes.set(xscale="log", yscale="log", xlabel=f"test, {title} (mm/h)", ylabel="samples (mm/h)")
        axes.set(xlim=(lowest, 60), ylim=(lowest, 60))
        axes.legend(fontsize=7)
    figure.savefig(file)


if __name__ == "__main__":
    tyro.cli(main)
