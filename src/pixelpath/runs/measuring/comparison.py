"""What samples are compared with: real images of a run, in several kinds of features, and the floor that these set.

*Real* are a run's own images, or others brought to its size. The *floor* is the Frechet distance of a few real images from the
training images: no generator is expected below it, and only a distance of as many samples can be read against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pixelpath.atomic import read_json, write_json
from pixelpath.data import sources
from pixelpath.errors import UserError
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import kernel, manifolds, real_floor, rounded
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor, Pixels, extract, fewer, hash_of
from pixelpath.evaluation.inception import inception
from pixelpath.evaluation.protocol import Protocol, protocol_of
from pixelpath.evaluation.statistics import Statistics
from pixelpath.log import followed, say
from pixelpath.runs.folder import own_encoder
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import Samples
from pixelpath.runs.sample_conditions import same_classes

Native = Shaped[Tensor, "batch channel row column"]
BATCH = 256
DENSITY_NEIGHBOURS = 5
MOST = 50_000  # real images, and samples unless told otherwise, that are compared


@dataclass(frozen=True)
class Real:
    """Real native images in memory-sized batches: training images (at most `MOST`, evenly chosen), and held-out ones."""

    data: PreparedData

    @property
    def look(self) -> str:
        """What the images were brought to before anything else."""
        size = "x".join(map(str, self.data.shape)) + f" {self.data.training.dtype}"
        return f"{size}, as stored" if self.data.resize is None else f"{size}, resized by the shorter side, cropped at the centre"

    @property
    def few(self) -> int:
        """How many real images the floor can compare with others: the held-out ones; without them, half of the training ones."""
        held_out, training = (min(len(side), MOST) for side in (self.data.held_out, self.data.training))
        return held_out if held_out >= 2 else training // 2

    def batches(self, side: sources.Source) -> Iterator[Native]:
        """Native batches of one side; pixels that were not measured are the channel's mean, as the network sees them.

        UserError naming the first image that holds NaN or infinity elsewhere.
        """
        chosen = sources.evenly(len(side), MOST)
        for start in range(0, len(chosen), BATCH):
            images = filled(torch.from_numpy(sources.gather(side, chosen[start : start + BATCH])), self.data)
            wrong = (~images.isfinite()).flatten(1).any(1).nonzero()
            if len(wrong):
                name = side.name(int(chosen[start + int(wrong[0])]))
                raise UserError(f"The image {name} holds NaN or infinity: replace such values or leave it out.", "data")
            yield images


def filled(images: Native, data: PreparedData) -> Native:
    """Native images with the channel's mean where nothing was measured."""
    measured = data.normaliser.valid(images)
    if measured is None:
        return images
    return torch.where(measured, images, data.normaliser.decode(torch.zeros(1, images.shape[1], 1, 1)))


def batches_of(made: Samples, data: PreparedData) -> Iterator[Native]:
    """Samples in memory-sized batches, as `Real.batches` gives real images."""
    return (filled(part, data) for part in made.native.split(BATCH))


@dataclass(frozen=True, eq=False)
class RealStatistics:
    """Statistics of `count` training images in one kind of features, and the floor: the distance of `few` other real ones."""

    extractor: FeatureExtractor
    count: int
    statistics: Statistics
    floor: float
    few: int


def real_statistics(
    extractor: FeatureExtractor, real: Real, samples: int, device: torch.device
) -> tuple[RealStatistics, Float[Tensor, "training feature"], Float[Tensor, "held_out feature"] | None]:
    """What is known of the real images, its floor of as many images as there are samples or can be had.

    And the features of training and held-out images, None for fewer than two of the latter.
    """
    training = features_of(extractor, real.batches(real.data.training), len(real.data.training), device)
    others = real.data.held_out
    held_out = features_of(extractor, real.batches(others), len(others), device) if len(others) >= 2 else None
    if real.few < 2 or len(training) < 2:
        raise UserError(
            f"There are only {len(training)} real images to compare with, too few for a floor: give more as `data`.",
            setting="data",
        )
    few = min(real.few, samples)
    floor = real_floor(training, few, held_out).distance
    return RealStatistics(extractor, len(training), statistics.of(training), floor, few), training, held_out


def features_of(
    extractor: FeatureExtractor, batches: Iterable[Native], images: int, device: torch.device
) -> Float[Tensor, "images feature"]:
    """The features of batches that hold so many images (of real ones at most `MOST`), with progress."""
    count = math.ceil(min(images, MOST) / BATCH)
    return extract(extractor, followed(batches, f"features ({extractor.name})", count), device)


def extractors(run: OpenRun, data: PreparedData, encoder: Path | None, *, tell: bool = True) -> list[FeatureExtractor]:
    """Pixels, and the features of a stage-one encoder if there is one to be had; `tell` says so if there is none."""
    found: list[FeatureExtractor] = [pixels(data)]
    origin = encoder or own_encoder(run.path)
    if origin is None and not tell:
        return found
    if origin is None:
        say("No encoder of stage one: give one with `encoder` RUN to measure in its features too.")
        return found
    stage_one = open_run(origin, device=run.device)
    stage_one.representation  # noqa: B018 (UserError for a run of stage two)
    if stage_one.shape != run.shape:
        shapes = ["x".join(map(str, shape)) for shape in (stage_one.shape, run.shape)]
        sentence = f"The encoder {origin} takes images of {shapes[0]}, not {shapes[1]}"
        if encoder is not None:
            raise UserError(f"{sentence}: give one that was trained on such images.")
        say(f"{sentence}, so its features are left out.")
        return found
    found.append(encoder_features(stage_one))
    return found


def encoder_features(stage_one: OpenRun) -> EncoderFeatures:
    """The features of the encoder of a run of stage one; UserError for another run."""
    sigma = stage_one.noise.sigma_min * stage_one.noise.shift
    weights = hash_of(stage_one.representation.encoder.state_dict())
    return EncoderFeatures(stage_one.representation.features, stage_one.normaliser.encode, sigma, weights)


def own_network(run: OpenRun, found: Sequence[FeatureExtractor]) -> list[FeatureExtractor]:
    """The features of the run's own encoder at the lowest level, where none of a stage one is among those found.

    They see what the network itself sees, so they can be blind to what it gets wrong: better than no features, no judge.
    """
    if any(isinstance(extractor, EncoderFeatures) for extractor in found):
        return []
    denoiser, sigma = run.denoiser, run.noise.sigma_min * run.noise.shift
    weights = hash_of(denoiser.backbone.encoder.state_dict())
    return [EncoderFeatures(denoiser.features, run.normaliser.encode, sigma, weights, "own network")]


def inception_features(run: OpenRun, weights: Path | None) -> list[FeatureExtractor]:
    """The features of Inception if images and machine allow them; else none, and it says why.

    Raises UserError or FileNotFoundError if `weights` were given and cannot be used.
    """
    if run.normaliser.dtype != "uint8" or run.shape[0] not in (1, 3):
        say("Inception features need 8-bit images of 1 or 3 channels: left out.")
        return []
    try:
        return [inception(weights, run.device)]
    except (ValueError, OSError) as error:
        if weights is not None:
            raise
        say(f"Inception features left out: {error}")
        return []


def quality(
    real: Float[Tensor, "real feature"], generated: Float[Tensor, "generated feature"], features: str
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Kernel distance, precision, recall, density and coverage of features, and how they were measured.

    Density and coverage are None where there are too few images for them. Says so where features lie so far from 0 that the
    kernel distance is rounded.
    """
    far = rounded(real, generated)
    if far is not None:
        say(
            f"Features '{features}' lie {far:.1e} times their spread away from 0, so rounding spoils their kernel distance; the "
            "other numbers are measured about their mean."
        )
    few = min(len(real), len(generated)) <= DENSITY_NEIGHBOURS
    spread = kernel(generated, real)
    manifold, dense = manifolds(real, generated, dense=None if few else DENSITY_NEIGHBOURS)
    values = {
        "kernel_distance": spread.mean,
        "kernel_distance_std": spread.std,
        "precision": manifold.precision,
        "recall": manifold.recall,
        "density": None if dense is None else dense.density,
        "coverage": None if dense is None else dense.coverage,
    }
    how = {
        "kernel": f"{spread.subsets} subsets of {spread.size}, seed 2020",
        "precision_and_recall": f"k = {manifold.neighbours}",
        "density_and_coverage": f"k = {DENSITY_NEIGHBOURS}",
        "neighbours_among": f"{manifold.real} real and {manifold.generated} generated images, seed 0 where drawn",
    }
    return values, how


def protocol(extractor: FeatureExtractor, count: int, real: Real, made: Samples, run: OpenRun) -> Protocol:
    """What a comparison of these samples, whose classes `as_held_out` chose, with `count` real images was measured under."""
    chosen = "in the shares of training images" if same_classes(run, real.data) else "balanced"
    labels = f"{chosen}, {len(run.classes)} classes" if run.classes else "none"
    first, last = made.settings["seeds"]
    return replace(
        protocol_of(extractor, count, len(made), labels, real.look),
        sampler=made.settings["sampler"],
        steps=made.settings["steps"],
        nfe=round(made.nfe),
        guidance=made.settings["guidance"],
        seeds=(first, last),
    )


def kept(path: Path) -> list[Any]:
    """All results that a JSON file keeps, none if there is no such file; UserError if it cannot be read."""
    try:
        found = read_json(path) if path.exists() else []
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}), so nothing can be added to it: repair it or move it away.") from error
    if not isinstance(found, list):
        raise UserError(f"{path} holds no list of results, so nothing can be added to it: repair it or move it away.")
    return found


def keep(path: Path, result: Any) -> None:
    """Add a result to a JSON file, which keeps all of them."""
    write_json(path, [*kept(path), result])


def pixels(data: PreparedData) -> Pixels:
    """Pixels as features, scaled by the range of the dtype or, where it has none, by that of some training images."""
    lowest, highest = data.normaliser.lowest, data.normaliser.highest
    if lowest is None or highest is None or data.training.dtype.itemsize > 2:  # no data fill the range of 32 bits
        sample = filled(torch.from_numpy(sources.gather(data.training, range(min(BATCH, len(data.training))))), data).double()
        lowest, highest = float(sample.min()), float(sample.max())
    return Pixels(float(lowest), float(highest), fewer(data.shape))
