"""The command `pixelpath evaluate`: how close samples are to real images, every number with its protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import Shaped
from torch import Tensor

from pixelpath.commands.pictures import noise_levels_plot, save_png
from pixelpath.commands.prepare import Data, choose_device, read_data, say, with_data
from pixelpath.commands.probe import features_of
from pixelpath.commands.sample import How, Made, choose_labels, make
from pixelpath.data import sources
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet, kernel, precision_recall, real_floor
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor, Pixels, extract, hash_of, inception
from pixelpath.evaluation.held_out import HeldOutRow, held_out_loss
from pixelpath.evaluation.protocol import protocol_of
from pixelpath.noise import seed_of
from pixelpath.recipes.run import Run, open_run

Native = Shaped[Tensor, "batch channel row column"]
BATCH = 256
LEVELS = 10  # noise levels of the held-out loss
MOST = 50_000  # real images, and samples unless told otherwise, that are compared


@dataclass(frozen=True)
class Real:
    """Real native images in memory-sized batches: training images (at most `MOST`, evenly chosen), and held-out ones."""

    training: sources.Source
    held_out: sources.Source

    def batches(self, side: sources.Source) -> Iterator[Native]:
        """Native batches of one side."""
        chosen = np.linspace(0, len(side) - 1, min(len(side), MOST)).round().astype(np.int64)
        for start in range(0, len(chosen), BATCH):
            yield torch.from_numpy(sources.gather(side, chosen[start : start + BATCH]))


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    count: int | None = None,
    first_seed: int = 0,
    how: Annotated[How, tyro.conf.arg(name="")] = How(),  # noqa: B008 (frozen, so sharing it is safe)
    encoder: Path | None = None,
    inception_features: Annotated[bool, tyro.conf.arg(name="use-inception")] = True,
    inception_weights: Annotated[Path | None, tyro.conf.arg(name="inception")] = None,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure how close a run's samples are to its images, in several features, and its held-out loss per noise level.

    Args:
        run: Folder of a stage-two run.
        data: Images to compare with; the run's own data if not given.
        count: How many samples; as many as training images, at most 50,000, if not given.
        first_seed: Seed of the first sample.
        how: How to sample.
        encoder: Run of stage one whose features to measure in; the one this run began with if not given.
        inception_features: Also measure in Inception features, where the images allow it.
        inception_weights: File of the Inception weights, for machines that cannot download them.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    chosen = choose_device(device)
    opened = open_run(run, checkpoint, chosen)
    content = read_data(with_data(opened.recipe, data), opened.normaliser)
    seeds = range(first_seed, first_seed + (count or min(len(content.training), 50_000)))
    made = make(opened, seeds, choose_labels(opened, seeds, ()), how, chosen)
    found = extractors(opened, content, encoder, chosen)
    found += _inception(opened, inception_weights, chosen) if inception_features else []
    result = measure(opened, content, made, found, chosen)
    append(run, result)
    say(summary(result))
    save_png(run / "held_out.png", noise_levels_plot([HeldOutRow(**row) for row in result["held_out_loss"]]))
    say(f"All numbers with their protocols: {run / 'evaluation.json'}.")


def measure(run: Run, data: Data, made: Made, found: list[FeatureExtractor], device: torch.device) -> dict[str, Any]:
    """Every distance in every kind of features, and the held-out loss, JSON-ready."""
    real = Real(data.training, data.held_out)
    distances = [_distances(extractor, real, made, run, device) for extractor in found]
    rows = loss_by_level(run, data, device)
    return {
        "run": str(run.path),
        "checkpoint": run.checkpoint.name,
        "step": run.step,
        "sampling": {key: made.settings[key] for key in made.settings if key not in ("labels", "levels")},
        "seconds_sampling": made.seconds,
        "distances": distances,
        "held_out_loss": [asdict(row) for row in rows],
    }


def extractors(run: Run, data: Data, encoder: Path | None, device: torch.device) -> list[FeatureExtractor]:
    """Pixels, and the features of a stage-one encoder if there is one to be had."""
    found: list[FeatureExtractor] = [_pixels(data)]
    origin = encoder or _own_encoder(run.path)
    if origin is None:
        say("No encoder of stage one: give one with --encoder RUN to measure in its features too.")
        return found
    stage_one = open_run(origin, device=device)
    sigma = stage_one.noise.lowest * stage_one.noise.shift
    weights = hash_of(stage_one.representation.encoder.state_dict())
    found.append(EncoderFeatures(features_of(stage_one), stage_one.normaliser.encode, sigma, weights))
    return found


def _pixels(data: Data) -> Pixels:
    lowest, highest = data.normaliser.lowest, data.normaliser.highest
    if lowest is None or highest is None:
        sample = sources.gather(data.training, range(min(BATCH, len(data.training)))).astype(np.float64)
        return Pixels(float(sample.min()), float(sample.max()))
    return Pixels(float(lowest), float(highest))


def _own_encoder(run: Path) -> Path | None:
    origin = run / "origin.json"
    if not origin.exists():
        return None
    name = json.loads(origin.read_text(encoding="utf-8"))["encoder"]
    return Path(name) if name and Path(name).exists() else None


def _inception(run: Run, weights: Path | None, device: torch.device) -> list[FeatureExtractor]:
    if run.normaliser.dtype != "uint8" or run.shape[0] not in (1, 3):
        say("Inception features need 8-bit images of 1 or 3 channels: left out.")
        return []
    try:
        return [inception(weights, device)]
    except (ValueError, OSError) as error:
        if weights is not None:
            raise
        say(f"Inception features left out: {error}")
        return []


def _distances(extractor: FeatureExtractor, real: Real, made: Made, run: Run, device: torch.device) -> dict[str, Any]:
    training = extract(extractor, real.batches(real.training), device)
    held_out = extract(extractor, real.batches(real.held_out), device)
    generated = extract(extractor, made.images.split(BATCH), device)
    few = min(len(held_out), len(generated))
    floor = real_floor(training, few, held_out)
    spread = kernel(training, generated)
    quality = precision_recall(training[:10_000], generated[:10_000])
    labels = f"balanced over {len(run.classes)} classes" if run.classes else "none"
    images = "x".join(map(str, run.shape)) + f" {run.normaliser.dtype}, as stored"
    protocol = replace(
        protocol_of(extractor, len(training), len(generated), labels, images),
        sampler=made.settings["sampler"],
        steps=made.settings["steps"],
        evaluations=round(made.evaluations),
        guidance=made.settings["scale"],
        seeds=tuple(made.settings["seeds"]),
    )
    values = {
        "frechet": frechet(statistics.of(training), statistics.of(generated)),
        "frechet_of_few": frechet(statistics.of(training), statistics.of(generated[:few])),
        "frechet_floor_of_few": floor.distance,
        "few": few,
        "kernel": spread.mean,
        "kernel_deviation": spread.deviation,
        "precision": quality.precision,
        "recall": quality.recall,
    }
    return {"features": extractor.name, **protocol.record(**values)}


def loss_by_level(run: Run, data: Data, device: torch.device, limit: int = 1024) -> list[HeldOutRow]:
    """The mean squared error on held-out images at ten levels from the lowest to the highest of the range."""
    count = min(limit, len(data.held_out))
    images = run.normaliser.encode(torch.from_numpy(sources.gather(data.held_out, range(count))))
    labels = torch.from_numpy(sources.labels(data.held_out)[:count]) if run.classes else None
    low, high = run.noise.lowest * run.noise.shift, run.noise.highest * run.noise.shift
    levels = np.geomspace(low, high, LEVELS).tolist()
    return held_out_loss(run.denoiser, images, labels, levels, [seed_of(index) for index in range(count)], device=device)


def append(run: Path, result: dict[str, Any]) -> None:
    """Add a result to RUN/evaluation.json, which keeps all of them."""
    path = run / "evaluation.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    partial = path.with_name(".evaluation.json.partial")
    partial.write_text(json.dumps([*before, result], indent=2), encoding="utf-8")
    partial.replace(path)


def summary(result: dict[str, Any]) -> str:
    """The distances as a table, with the floor that perfect samples would have."""
    few = result["distances"][0]["few"]
    head = (
        f"{'features':<20} {'Frechet':>9} {f'of {few}':>9} {'floor':>9} {'kernel':>10} {'precision':>9} {'recall':>7}"
        f"   (floor: {few} held-out images in place of samples)"
    )
    lines = [
        f"{row['features']:<20} {row['frechet']:>9.4g} {row['frechet_of_few']:>9.4g} {row['frechet_floor_of_few']:>9.4g} "
        f"{row['kernel']:>10.3g} {row['precision']:>9.1%} {row['recall']:>7.1%}"
        for row in result["distances"]
    ]
    return "\n".join([head, *lines])
