"""The command `pixelpath evaluate`: how close samples are to real images, every number with its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from pixelpath.runs import curves, judgements
from pixelpath.runs.conditions import as_held_out
from pixelpath.runs.comparison import (
    BATCH,
    MOST,
    Known,
    Real,
    extractors,
    inception_features,
    keep,
    kept,
    known,
    own_network,
    protocol,
)
from pixelpath.reports.evaluation import save_pictures
from pixelpath.runs.judgements import Features
from pixelpath.runs.prepare import Data, choose_device, read_data_of, say
from pixelpath.runs.sample import AS_TRAINED, How, Made, make
from pixelpath.data import sources
from pixelpath.data.sources import Source
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet, kernel, precision_recall
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor, Pixels, extract
from pixelpath.evaluation.held_out import HeldOutRow, held_out_loss
from pixelpath.randomness import seed_of
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.starts import open_start

LEVELS = 10  # noise levels of the held-out loss
JUDGED = 10_000  # of the images compared, how many have their precision and recall measured
RESULTS = "evaluation.json"


def evaluate(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    data: Path | None = None,
    count: int | None = None,
    first_seed: int = 0,
    steps: Annotated[str, tyro.conf.arg(metavar="INT[,INT ...]")] = "",
    how: Annotated[How, tyro.conf.arg(name="")] = AS_TRAINED,
    encoder: Path | None = None,
    use_inception: bool = True,
    inception: Path | None = None,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure how close samples are to real images: of one run in full, of several runs or steps as distance over evaluations.

    One run at one number of steps: distances, precision and recall in several features, and the held-out loss per noise level.
    Otherwise: the Frechet distance alone, drawn over the network evaluations an image, a curve per run, in every run's report;
    with --start a second curve, from that start.

    Args:
        runs: Folders of stage-two runs, all on the same images.
        data: Images to compare with, brought to the size of the first run's; the first run's own data if not given.
        count: How many samples; if not given as many as training images, at most 50,000, or for curves as many as held-out ones.
        first_seed: Seed of the first sample.
        steps: Steps of the sampler, for example 1,2,4,8,16,32 for a curve; as the recipe says if not given.
        how: How to sample.
        encoder: Run of stage one whose features to measure in; the one that the first run began with if not given.
        use_inception: Also measure in Inception features, where the images allow it; for curves only if --inception is given.
        inception: File of the Inception weights, for machines that cannot download them.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    numbers = numbers_of(steps)
    several = len(runs) > 1 or len(numbers) > 1
    _check(runs, count, first_seed, checkpoint, how.start)
    ways = [replace(how, steps=number) for number in numbers] or [how]
    if several and how.start is not None:
        ways = [replace(way, start=None) for way in ways] + ways
    chosen = choose_device(device)
    opened = [open_run(run, checkpoint, chosen) for run in runs]
    for run in opened:
        run.denoiser  # noqa: B018 (a run of stage one cannot be sampled: better said before the data are read)
        if how.start is not None:
            open_start(how.start, run)  # a start that does not fit is better said before anything is measured
        kept(run.path / (curves.RESULTS if several else RESULTS))  # if nothing can be added to them, better said now
    curves.check_same_images(opened)
    content = read_data_of(opened[0], data)
    found = extractors(opened[0], content, encoder, chosen)
    found += [] if several else own_network(opened[0], found)
    if use_inception and (inception is not None or not several):
        found += inception_features(opened[0], inception, chosen)
    if several:
        seeds = range(first_seed, first_seed + (count or Real(content).few))
        curves.write(opened, curves.curves(opened, content, seeds, ways, found, chosen))
    else:
        seeds = range(first_seed, first_seed + (count or min(len(content.training), MOST)))
        _in_full(opened[0], content, seeds, ways[0], found, chosen)


def numbers_of(steps: str) -> list[int]:
    """The numbers of steps in words like "1,2,4", rising, each once; ValueError if they are anything but numbers from 1 on."""
    words = [word.strip() for word in steps.split(",")] if steps else []
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 and int(word) >= 1 for word in words):
        raise ValueError(f"--steps takes numbers of at least 1 step with commas between them, as in 1,2,4,8, got {steps[:40]}.")
    return sorted({int(word) for word in words})


def _check(runs: Sequence[Path], count: int | None, first_seed: int, checkpoint: Path | None, start: Path | None) -> None:
    if not runs:
        raise ValueError("There is no run to evaluate: name the folder that `pixelpath train ... --out` wrote.")
    if (count is not None and count < 1) or first_seed < 0:
        raise ValueError(f"--count must be at least 1 and --first-seed at least 0, got {count} and {first_seed}.")
    if start is not None and len(runs) > 1:
        raise ValueError(f"--start {start} belongs to one run, and {len(runs)} are named: leave it away, or name one.")
    if checkpoint is not None and len(runs) > 1:
        raise ValueError(f"--checkpoint {checkpoint} belongs to one run, and {len(runs)} are named: leave it away, or name one.")


def _in_full(run: OpenRun, data: Data, seeds: Sequence[int], how: How, found: list[FeatureExtractor], device: torch.device) -> None:
    """Everything about one run at one number of steps: measured, kept, said."""
    made = make(run, seeds, as_held_out(run, data, seeds), how, device)
    result = measure(run, data, made, found, device)
    append(run.path, result)
    say(summary(result))
    if made.images[0].numel() > len(made.images):
        say(
            f"{len(made.images)} samples are fewer than the {made.images[0].numel()} values of an image: read the distance in "
            "pixels only against the floor, or evaluate more samples (--count)."
        )
    save_pictures(run.path, data, made, result)
    say(f"All numbers with their protocols: {run.path / RESULTS}.")


def measure(run: OpenRun, data: Data, made: Made, found: list[FeatureExtractor], device: torch.device) -> dict[str, Any]:
    """Every distance in every kind of features, the losses per level, and the judgements of `judgements`, JSON-ready.

    Copies are looked for in pixels and in encoders' features, and only among the images that the run was trained on.
    """
    real, own = Real(data), judgements.trained_on(run, data)
    distances, compared = [], []
    for extractor in found:
        about, training, held_out = known(extractor, real, len(made.images), device)
        features = Features(extractor, training, held_out, extract(extractor, made.images.split(BATCH), device))
        distances.append(_distances(features, about, real, made, run))
        compared += [features] if own and isinstance(extractor, Pixels | EncoderFeatures) else []
    if not own:
        say("These are not the images that the run was trained on, so neither copies nor memorising are looked for.")
    rows = loss_by_level(run, data, device)
    seen = loss_by_level(run, data, device, rows[0].count, data.training) if own and rows else []
    return {
        "run": str(run.path),
        "checkpoint": run.checkpoint.name,
        "step": run.step,
        "sampling": {key: made.settings[key] for key in made.settings if key not in ("labels", "levels")},
        "seconds_sampling": made.seconds,
        "distances": distances,
        "held_out_loss": [asdict(row) for row in rows],
        "copies": judgements.copies(run, data, made, compared, device) if compared else None,
        "loss_gap": judgements.loss_gap(run, seen, rows) if seen else None,
        "domain": judgements.domain(data, made),
    }


def _distances(features: Features, about: Known, real: Real, made: Made, run: OpenRun) -> dict[str, Any]:
    training, generated = features.training, features.samples
    spread, quality = kernel(training, generated), precision_recall(training[:JUDGED], generated[:JUDGED])
    values = {
        "frechet": frechet(about.statistics, statistics.of(generated)),
        "frechet_of_few": frechet(about.statistics, statistics.of(generated[: about.few])),
        "frechet_floor_of_few": about.floor,
        "few": about.few,
        "kernel": spread.mean,
        "kernel_deviation": spread.std,
        "precision": quality.precision,
        "recall": quality.recall,
    }
    extractor = features.extractor
    return {"features": extractor.name, **protocol(extractor, len(training), real.look, made, run).record(**values)}


def loss_by_level(run: OpenRun, data: Data, device: torch.device, limit: int = 1024, side: Source | None = None) -> list[HeldOutRow]:
    """The mean squared error on held-out images (or those of `side`, evenly chosen) at ten levels from the lowest to the highest.

    Empty without two images. The noise of the n-th image is the same on every side.
    """
    chosen = range(min(limit, len(data.held_out))) if side is None else sources.evenly(len(side), limit)
    side = data.held_out if side is None else side
    count = len(chosen)
    if count < 2:
        say("Fewer than 2 held-out images, so no held-out loss is measured.")
        return []
    labels = torch.from_numpy(sources.labels(side)[chosen]) if run.classes else None
    if run.classes and data.training.classes != run.classes:
        say("The images have other classes than the run, so the held-out loss is measured without labels.")
        labels = None
    given = data.given_held_out if side is data.held_out else data.given
    if given is not None:
        none = torch.full((count,), run.denoiser.backbone.no_label)
        labels = given.condition(chosen, none if labels is None else labels)
    native = torch.from_numpy(sources.gather(side, chosen))
    images, valid = run.normaliser.encode(native), run.normaliser.valid(native)
    low, high = run.noise.sigma_min * run.noise.shift, run.noise.sigma_max * run.noise.shift
    levels = np.geomspace(low, high, LEVELS).tolist()
    seeds = [seed_of(index) for index in range(count)]
    return held_out_loss(run.denoiser, images, labels, levels, seeds, device=device, valid=valid)


def append(run: Path, result: dict[str, Any]) -> None:
    """Add a result to RUN/evaluation.json, which keeps all of them."""
    keep(run / RESULTS, result)


def summary(result: dict[str, Any]) -> str:
    """The distances as a table, with the floor that perfect samples would have, and the judgements in a line each."""
    few = result["distances"][0]["few"]
    head = (
        f"{'features':<20} {'Frechet':>9} {f'of {few}':>9} {'floor':>9} {'kernel':>10} {'precision':>9} {'recall':>7}"
        f"   (floor: {few} other real images in place of samples)"
    )
    lines = [
        f"{row['features']:<20} {row['frechet']:>9.4g} {row['frechet_of_few']:>9.4g} {row['frechet_floor_of_few']:>9.4g} "
        f"{row['kernel']:>10.3g} {row['precision']:>9.1%} {row['recall']:>7.1%}"
        for row in result["distances"]
    ]
    return "\n".join([head, *lines, *judgements.sentences(result)])
