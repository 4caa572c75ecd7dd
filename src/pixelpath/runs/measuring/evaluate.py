"""How close samples are to real images, every number with its protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixelpath import processes
from pixelpath.data import sources
from pixelpath.data.sources import Source
from pixelpath.evaluation.distances import frechet_of_sets, real_floor
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor, Pixels
from pixelpath.evaluation.held_out import HeldOutRow, held_out_loss
from pixelpath.evaluation.inception import Inception
from pixelpath.log import progress, say
from pixelpath.randomness import seed_of
from pixelpath.runs.devices import joined
from pixelpath.runs.measuring import curves, judgements
from pixelpath.runs.measuring.comparison import (
    BATCH,
    MOST,
    Real,
    RealStatistics,
    batches_of,
    extractors,
    features_of,
    inception_features,
    keep,
    kept,
    own_network,
    protocol,
    quality,
    real_statistics,
)
from pixelpath.runs.measuring.extremes import extremes
from pixelpath.runs.measuring.judgements import Features, save_pictures
from pixelpath.runs.measuring.pixel_values import pixel_values
from pixelpath.runs.measuring.report import write_report
from pixelpath.runs.measuring.verdict import verdict
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import Samples, sample, scratch
from pixelpath.runs.sample_conditions import as_held_out, same_classes
from pixelpath.runs.sharing.bundled import check_writable
from pixelpath.sampling.sampler import Sampling
from pixelpath.types import Conditioning, Images, Sigmas

LEVELS = 10  # noise levels of the held-out loss
RESULTS = "evaluation.json"


@dataclass(frozen=True)
class Judges:
    """In which features images are compared."""

    encoder: Path | None = None
    """Run of stage one whose features to measure in. Default: the one that the first run began with."""
    use_inception: bool = True
    """Measure in Inception features too, where the images allow it; for curves only if `inception` is given."""
    inception: Path | None = None
    """File of the Inception weights. Default: the one in torch's cache, if it is there; nothing is downloaded."""
    use_own: bool = True
    """Measure in the run's own features where there is no encoder; they cost an evaluation of the network an image."""
    losses: int = 1024
    """Images of either side, at most, by which losses per noise level are measured, each at ten levels; 0 measures none."""

    def extractors(self, run: OpenRun, data: PreparedData, curves: bool) -> list[FeatureExtractor]:
        """The features that these images have; a network's own only if there are no others and one run is measured in full."""
        found = extractors(run, data, self.encoder, tell=self.use_own)
        found += own_network(run, found) if self.use_own and not curves else []
        if self.use_inception and (self.inception is not None or not curves):
            found += inception_features(run, self.inception)
        return found


def check_runs(runs: Sequence[OpenRun], *, in_full: bool) -> None:
    """UserError for runs that cannot be evaluated, better said before their data are read: in full, or together as curves."""
    for run in runs:
        run.denoiser  # noqa: B018 (a run of stage one cannot be sampled)
        check_writable(run.path)
        kept(run.path / (RESULTS if in_full else curves.RESULTS))
    curves.check_same_images(runs)


def evaluate(
    run: OpenRun,
    data: PreparedData,
    sampling: Sampling | None = None,
    judges: Judges | None = None,
    count: int | None = None,
    first_seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Everything about one run at one way of sampling: measured, kept in RUN/evaluation.json, drawn into the report, returned.

    Distances, precision and recall in several features, the held-out loss per noise level, copies, memorising, spectra and
    histograms, each with its protocol. `count` of None: as many samples as training images, at most 50,000. Processes that
    torchrun started share the samples; the main one measures, and the others return an empty result.
    """
    judges = judges or Judges()
    found = judges.extractors(run, data, curves=False)
    seeds = range(first_seed, first_seed + (count or min(len(data.training), MOST)))
    with scratch(run.path / RESULTS) as file:
        with joined():  # to sample alone: the others need not wait until all is measured
            made, is_main = sample(run, seeds, as_held_out(run, data, seeds), sampling, batch_size, file), processes.rank() == 0
            if not is_main:
                return {}
        return _evaluated(run, data, made, found, judges.losses)


def _evaluated(run: OpenRun, data: PreparedData, made: Samples, found: list[FeatureExtractor], losses: int) -> dict[str, Any]:
    """Measured, kept, drawn and said."""
    result = measure(run, data, made, found, losses)
    keep(run.path / RESULTS, result)
    for sentence in verdict(result):
        say(sentence)
    say(summary(result))
    values = math.prod(run.shape)
    if values > len(made):
        say(
            f"{len(made)} samples are fewer than the {values} values of an image: read the distance in pixels only against the "
            "floor, or evaluate more samples (`count`)."
        )
    save_pictures(run.path, data, made, result)
    say(f"All numbers with their protocols: {run.path / RESULTS}, {write_report(run.path)}.")
    return result


def evaluate_curves(
    runs: Sequence[OpenRun],
    data: PreparedData,
    ways: Sequence[Sampling],
    judges: Judges | None = None,
    count: int | None = None,
    first_seed: int = 0,
    batch_size: int = 64,
) -> list[curves.DistanceCurve]:
    """The Frechet distance over network evaluations: a curve per run and start, a point per way of sampling; drawn and kept.

    `count` of None: as many samples as the floor has images.
    """
    found = (judges or Judges()).extractors(runs[0], data, curves=True)
    seeds = range(first_seed, first_seed + (count or Real(data).few))
    measured = curves.curves(runs, data, seeds, ways, found, batch_size)
    curves.write(runs, measured)
    return measured


def measure(run: OpenRun, data: PreparedData, made: Samples, found: list[FeatureExtractor], losses: int = 1024) -> dict[str, Any]:
    """Every distance in every kind of features, the losses per level, and the judgements of `judgements`, JSON-ready.

    Copies are looked for in pixels and in encoders' features, and only among the images that the run was trained on.
    """
    real, own = Real(data), judgements.trained_on(run, data)
    distances, compared = [], []
    for extractor in found:
        about, training, held_out = real_statistics(extractor, real, len(made), run.device)
        generated = features_of(extractor, batches_of(made, data), len(made), run.device)
        features = Features(extractor, training, held_out, generated)
        distances.append(_distances(features, about, real, made, run))
        compared += [features] if own and isinstance(extractor, Pixels | EncoderFeatures) else []
    if not own:
        say("These are not the images that the run was trained on, so neither copies nor memorising are looked for.")
    copied = judgements.copies(data, judgements.of_run(run, data, made), compared) if compared else None
    rows = loss_by_level(run, data, losses) if losses and not run.recipe.is_distilled else []
    seen = loss_by_level(run, data, rows[0].count, data.training) if own and rows else []
    return {
        "run": str(run.path),
        "checkpoint": run.checkpoint.name,
        "step": run.step,
        "sampling": {key: made.settings[key] for key in made.settings if key not in ("labels", "conditions", "sigmas")},
        "seconds_sampling": made.seconds,
        "distances": distances,
        "held_out_loss": [asdict(row) for row in rows],
        "copies": copied,
        "loss_gap": judgements.loss_gap(run, seen, rows) if seen else None,
        "pixel_values": pixel_values(data, judgements.as_source(made), data.normaliser),
        "extremes": extremes(data, judgements.as_source(made), made.settings["seeds"][0], copied),
    }


def _distances(features: Features, about: RealStatistics, real: Real, made: Samples, run: OpenRun) -> dict[str, Any]:
    training, generated = features.training, features.samples
    with progress(f"distances ({features.extractor.name})", 4) as advance:
        spread, how = quality(training, generated, features.extractor.name)
        advance(1)
        far = frechet_of_sets(generated, about.statistics)
        advance(1)
        far_of_few = frechet_of_sets(generated[: about.few], about.statistics)
        advance(1)
        within = {} if features.held_out is None else {"frechet_floor_of_training": real_floor(training, about.few).distance}
        advance(1)
    values = {
        "frechet": far,
        "frechet_of_few": far_of_few,
        "frechet_floor_of_few": about.floor,
        **within,
        "few": about.few,
        **spread,
    }
    extractor = features.extractor
    return {"features": extractor.name, **protocol(extractor, len(training), real, made, run).record(how, **values)}


def loss_by_level(run: OpenRun, data: PreparedData, limit: int = 1024, side: Source | None = None) -> list[HeldOutRow]:
    """The mean squared error on held-out images (or those of `side`, evenly chosen) at ten levels from the lowest to the highest.

    Empty without two images. The noise of the n-th image is the same on every side.
    """
    chosen = range(min(limit, len(data.held_out))) if side is None else sources.evenly(len(side), limit)
    side = data.held_out if side is None else side
    count = len(chosen)
    if count < 2:
        say("Fewer than 2 held-out images, so no held-out loss is measured.")
        return []
    labels = torch.from_numpy(sources.labels(side)[chosen]) if same_classes(run, data) else None
    if run.classes and labels is None:
        say("The images have other classes than the run, so the held-out loss is measured without labels.")
    given = data.given_held_out if side is data.held_out else data.given
    if given is not None:
        none = torch.full((count,), run.denoiser.backbone.no_label)
        labels = given.condition(chosen, none if labels is None else labels)
    native = torch.from_numpy(sources.gather(side, chosen))
    images, valid = run.normaliser.encode(native), run.normaliser.valid(native)
    low, high = run.noise.sigma_min * run.noise.shift, run.noise.sigma_max * run.noise.shift
    levels = np.geomspace(low, high, LEVELS).tolist()
    seeds = [seed_of(index) for index in range(count)]
    with progress("loss by noise level", LEVELS * math.ceil(count / BATCH)) as advance:

        def denoise(noisy: Images, sigma: Sigmas, condition: Conditioning | None) -> Images:
            estimate = run.denoiser(noisy, sigma, condition)
            advance(1)
            return estimate

        return held_out_loss(denoise, images, labels, levels, seeds, BATCH, run.device, valid)


def summary(result: dict[str, Any]) -> str:
    """The distances as a table, with the floor that perfect samples would have, and the judgements in a line each."""
    few = result["distances"][0]["few"]
    head = (
        f"{'features':<20} {'Frechet':>9} {f'of {few}':>9} {'floor':>9} {'kernel':>10} {'precision':>9} {'recall':>7}"
        f"   (floor: {few} other real images in place of samples)"
    )
    lines = [
        f"{row['features']:<20} {row['frechet']:>9.4g} {row['frechet_of_few']:>9.4g} {row['frechet_floor_of_few']:>9.4g} "
        f"{row['kernel_distance']:>10.3g} {row['precision']:>9.1%} {row['recall']:>7.1%}"
        + ("   (FID, KID)" if row["features"] == Inception.name else "")
        for row in result["distances"]
    ]
    return "\n".join([head, *lines, *judgements.sentences(result)])
