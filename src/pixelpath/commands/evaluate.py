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

from pixelpath.commands.folder import write_json
from pixelpath.commands.pictures import noise_levels_plot, save_png
from pixelpath.commands.prepare import Data, choose_device, read_data_of, say
from pixelpath.commands.sample import AS_TRAINED, How, Made, choose_labels, make
from pixelpath.data import sources
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet, kernel, precision_recall, real_floor
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor, Pixels, extract, fewer, hash_of, inception
from pixelpath.evaluation.held_out import HeldOutRow, held_out_loss
from pixelpath.evaluation.protocol import Protocol, protocol_of
from pixelpath.noise import seed_of
from pixelpath.recipes.run import Run, open_run

Native = Shaped[Tensor, "batch channel row column"]
BATCH = 256
LEVELS = 10  # noise levels of the held-out loss
MOST = 50_000  # real images, and samples unless told otherwise, that are compared
JUDGED = 10_000  # of these, how many have their precision and recall measured


@dataclass(frozen=True)
class Real:
    """Real native images in memory-sized batches: training images (at most `MOST`, evenly chosen), and held-out ones."""

    data: Data

    @property
    def look(self) -> str:
        """What the images were brought to before anything else."""
        size = "x".join(map(str, self.data.shape)) + f" {self.data.training.dtype}"
        return f"{size}, as stored" if self.data.resize is None else f"{size}, resized by the shorter side, cropped at the centre"

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
    how: Annotated[How, tyro.conf.arg(name="")] = AS_TRAINED,
    encoder: Path | None = None,
    inception_features: Annotated[bool, tyro.conf.arg(name="use-inception")] = True,
    inception_weights: Annotated[Path | None, tyro.conf.arg(name="inception")] = None,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure how close a run's samples are to its images, in several features, and its held-out loss per noise level.

    Args:
        run: Folder of a stage-two run.
        data: Images to compare with, brought to the run's size; the run's own data if not given.
        count: How many samples; as many as training images, at most 50,000, if not given.
        first_seed: Seed of the first sample.
        how: How to sample.
        encoder: Run of stage one whose features to measure in; the one this run began with if not given.
        inception_features: Also measure in Inception features, where the images allow it.
        inception_weights: File of the Inception weights, for machines that cannot download them.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    if (count is not None and count < 1) or first_seed < 0:
        raise ValueError(f"--count must be at least 1 and --first-seed at least 0, got {count} and {first_seed}.")
    chosen = choose_device(device)
    opened = open_run(run, checkpoint, chosen)
    opened.denoiser  # noqa: B018 (a run of stage one cannot be sampled: better said before the data are read)
    results(run)  # if nothing can be added to them, better said now
    content = read_data_of(opened, data)
    seeds = range(first_seed, first_seed + (count or min(len(content.training), MOST)))
    found = extractors(opened, content, encoder, chosen)
    found += _inception(opened, inception_weights, chosen) if inception_features else []
    made = make(opened, seeds, choose_labels(opened, seeds, ()), how, chosen)
    result = measure(opened, content, made, found, chosen)
    append(run, result)
    say(summary(result))
    if made.images[0].numel() > len(made.images):
        say(
            f"{len(made.images)} samples are fewer than the {made.images[0].numel()} values of an image: read the distance in "
            "pixels only against the floor, or evaluate more samples (--count)."
        )
    if result["held_out_loss"]:
        save_png(run / "held_out.png", noise_levels_plot([HeldOutRow(**row) for row in result["held_out_loss"]]))
    say(f"All numbers with their protocols: {run / 'evaluation.json'}.")


def measure(run: Run, data: Data, made: Made, found: list[FeatureExtractor], device: torch.device) -> dict[str, Any]:
    """Every distance in every kind of features, and the held-out loss, JSON-ready."""
    real = Real(data)
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
    representation = stage_one.representation
    if stage_one.shape != run.shape:
        shapes = ["x".join(map(str, shape)) for shape in (stage_one.shape, run.shape)]
        sentence = f"The encoder {origin} takes images of {shapes[0]}, not {shapes[1]}"
        if encoder is not None:
            raise ValueError(f"{sentence}: give one that was trained on such images.")
        say(f"{sentence}, so its features are left out.")
        return found
    sigma = stage_one.noise.lowest * stage_one.noise.shift
    weights = hash_of(representation.encoder.state_dict())
    found.append(EncoderFeatures(stage_one.model.features, stage_one.normaliser.encode, sigma, weights))
    return found


def _pixels(data: Data) -> Pixels:
    lowest, highest = data.normaliser.lowest, data.normaliser.highest
    if lowest is None or highest is None:
        sample = sources.gather(data.training, range(min(BATCH, len(data.training)))).astype(np.float64)
        lowest, highest = float(sample.min()), float(sample.max())
    return Pixels(float(lowest), float(highest), fewer(data.shape))


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
    training = extract(extractor, real.batches(real.data.training), device)
    held_out = extract(extractor, real.batches(real.data.held_out), device) if len(real.data.held_out) else None
    generated = extract(extractor, made.images.split(BATCH), device)
    few = min(len(training) // 2 if held_out is None else len(held_out), len(generated))
    floor = real_floor(training, few, held_out)
    known, spread = statistics.of(training), kernel(training, generated)
    quality = precision_recall(training[:JUDGED], generated[:JUDGED])
    values = {
        "frechet": frechet(known, statistics.of(generated)),
        "frechet_of_few": frechet(known, statistics.of(generated[:few])),
        "frechet_floor_of_few": floor.distance,
        "few": few,
        "kernel": spread.mean,
        "kernel_deviation": spread.deviation,
        "precision": quality.precision,
        "recall": quality.recall,
    }
    return {"features": extractor.name, **_protocol(extractor, len(training), real.look, made, run).record(**values)}


def _protocol(extractor: FeatureExtractor, real: int, look: str, made: Made, run: Run) -> Protocol:
    labels = f"balanced over {len(run.classes)} classes" if run.classes else "none"
    first, last = made.settings["seeds"]
    return replace(
        protocol_of(extractor, real, len(made.images), labels, look),
        sampler=made.settings["sampler"],
        steps=made.settings["steps"],
        evaluations=round(made.evaluations),
        guidance=made.settings["scale"],
        seeds=(first, last),
    )


def loss_by_level(run: Run, data: Data, device: torch.device, limit: int = 1024) -> list[HeldOutRow]:
    """The mean squared error on held-out images at ten levels from the lowest to the highest; empty without two images."""
    count = min(limit, len(data.held_out))
    if count < 2:
        say("Fewer than 2 held-out images, so no held-out loss is measured.")
        return []
    labels = torch.from_numpy(sources.labels(data.held_out)[:count]) if run.classes else None
    if run.classes and data.training.classes != run.classes:
        say("The images have other classes than the run, so the held-out loss is measured without labels.")
        labels = None
    images = run.normaliser.encode(torch.from_numpy(sources.gather(data.held_out, range(count))))
    low, high = run.noise.lowest * run.noise.shift, run.noise.highest * run.noise.shift
    levels = np.geomspace(low, high, LEVELS).tolist()
    return held_out_loss(run.denoiser, images, labels, levels, [seed_of(index) for index in range(count)], device=device)


def results(run: Path) -> list[dict[str, Any]]:
    """All evaluations that RUN/evaluation.json keeps; ValueError if it cannot be read."""
    path = run / "evaluation.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}), so nothing can be added to it: repair it or move it away.") from error


def append(run: Path, result: dict[str, Any]) -> None:
    """Add a result to RUN/evaluation.json, which keeps all of them."""
    write_json(run / "evaluation.json", [*results(run), result])


def summary(result: dict[str, Any]) -> str:
    """The distances as a table, with the floor that perfect samples would have."""
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
    return "\n".join([head, *lines])
