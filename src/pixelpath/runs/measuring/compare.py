"""How far a set of images is from a reference set, in every kind of features that can be had, each number with its protocol.

The *floor* of a number is the same measured within the reference: *few* images of one random half against the other half. Beside
it stands the number of equally many of the compared images against the same half, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pixelpath.data import sources
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source
from pixelpath.errors import UserError
from pixelpath.evaluation.distances import JUDGED
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor, Pixels
from pixelpath.evaluation.protocol import Protocol, protocol_of
from pixelpath.log import say
from pixelpath.randomness import Streams, permutation
from pixelpath.reports.compare import CALLED, write_comparison
from pixelpath.reports.display import grid
from pixelpath.reports.evaluation import nearest_picture
from pixelpath.reports.page import Verdict
from pixelpath.runs.examined import fitted
from pixelpath.runs.measuring import judgements
from pixelpath.runs.measuring.compare_features import (
    ALL,
    FEW,
    FLOOR,
    Comparing,
    Kind,
    Sets,
    extractors,
    kinds,
    of_statistics,
    rows,
)
from pixelpath.runs.measuring.compare_sets import Given, ImageSet, Reading, open_held_out, open_sets
from pixelpath.runs.measuring.comparison import Real
from pixelpath.runs.measuring.judgements import Features, Made
from pixelpath.runs.measuring.pixel_values import pixel_values
from pixelpath.runs.measuring.report_results import tree
from pixelpath.runs.measuring.verdict import Sides, level, verdict
from pixelpath.runs.prepare import PreparedData

SHOWN = 36  # images of each set
SURVEYED = 1024  # images whose range is looked at
APART = 50.0  # ranges that differ by so much are taken for different scales of values
COLUMNS = ("frechet", "kernel_distance", "kernel_distance_std", "precision", "recall", "density", "coverage")
SIDES = Sides("images", "the reference", "of its own")
DEFAULTS, READING = Comparing(), Reading()


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What a comparison found: prints as a table, and writes itself into a folder.

    `document` holds all numbers with their protocols, as comparison.json keeps them.
    """

    document: dict[str, Any]
    pictures: dict[str, Image.Image] = field(default_factory=dict)

    @property
    def distances(self) -> list[dict[str, Any]]:
        """Three rows per kind of features: of all images, of few, and the floor of these."""
        return self.document["distances"]

    def __str__(self) -> str:
        return "\n".join(_lines(self.document))

    def __repr__(self) -> str:
        return str(self)

    def write(self, folder: Path | str) -> Path:
        """Write comparison.json, pictures and report.html into the folder; the page."""
        values = self.document.get("pixel_values")
        shown = "" if values is None else tree(values)
        return write_comparison(Path(folder), self.document, self.pictures, _verdict(self.document), shown)


def compare(
    images: Given, reference: Given, held_out: Given | None = None, options: Comparing = DEFAULTS, how: Reading = READING
) -> Comparison:
    """Compare images with a reference: distances in several features, copies, spectra, histograms and quantiles.

    Raises UserError for sets that cannot be compared, and for features or measures that were asked for and cannot be had.
    """
    ours, theirs = open_sets(images, reference, how)
    kept = theirs.held_out if held_out is None else open_held_out(held_out, theirs, how).source
    base = ours.source if theirs.source is None else theirs.source
    data = None if base is None else _data(base, kept, how.settings)
    seen, left_out = _surveyed(ours, theirs, options), []
    sets = Sets(ours, theirs, data, how.device, options, _bytes(seen, options))
    document: dict[str, Any] = {
        "pixelpath": version("pixelpath"),
        "images": ours.about,
        "reference": theirs.about,
        "held_out": 0 if kept is None else len(kept),
        "value_range": seen,
        "distances": of_statistics(sets) if data is None else [],
        "inception_score": [],
    }
    own: list[Kind] = []
    for extractor in extractors(sets, left_out):
        found, scores = kinds(sets, extractor)
        document["distances"] += [row for kind in found for row in rows(sets, kind, left_out)]
        document["inception_score"] += scores
        own += found if isinstance(extractor, Pixels | EncoderFeatures) else []
    pictures: dict[str, Image.Image] = {}
    if data is None or ours.source is None or theirs.source is None:
        left_out += [options.refuse(each, "the images of both sets") for each in ("copies", "values") if options.wants(each)]
    else:
        pictures = {"images.png": _shown(ours.source, data), "reference.png": _shown(theirs.source, data)}
        if options.wants("copies") and own:
            document["copies"], pictures["nearest.png"] = _copies(own, sets, data)
        if options.wants("values"):
            document["pixel_values"] = pixel_values(_halves(data), ours.source, data.normaliser)
    if "score" in options.measures and not document["inception_score"]:
        options.refuse("score", "Inception features of images")
    if not document["distances"] and not document["inception_score"]:
        raise UserError(f"Nothing can be compared. {' '.join(left_out)}", setting="features")
    document["left_out"] = list(dict.fromkeys(left_out))
    for sentence in document["left_out"]:
        say(sentence)
    return Comparison(document, pictures)


def _data(source: Source, held_out: Source | None, settings: DataSettings) -> PreparedData:
    """The reference as the data that the judgements of evaluations take."""
    return PreparedData(source, held_out or sources.subset(source, []), fitted(source, settings), False, settings.resize)


def _halves(data: PreparedData) -> PreparedData:
    """With held-out images as it is; without them one random half of the images stands for these, to set the floor."""
    if len(data.held_out) >= 2 or len(data.training) < 4:
        return data
    order = permutation(Streams([0]), len(data.training)).numpy()
    first, second = (np.sort(part) for part in np.split(order, [len(order) // 2]))
    return replace(data, training=sources.subset(data.training, second), held_out=sources.subset(data.training, first))


def _surveyed(ours: ImageSet, theirs: ImageSet, options: Comparing) -> dict[str, dict[str, float]]:
    """Lowest and highest value of about a thousand images of each set; UserError if they are of different scales."""
    found: dict[str, dict[str, float]] = {}
    for name, each in (("images", ours), ("reference", theirs)):
        if each.source is None:
            continue
        values = sources.gather(each.source, sources.evenly(len(each.source), SURVEYED))
        finite = values[np.isfinite(values)]
        if not len(finite):
            raise UserError(f"{each.name} holds no finite value: give other images.", setting="images")
        found[name] = {"lowest": float(finite.min()), "highest": float(finite.max())}
        if options.weights.value_range is not None and values.dtype != np.uint8:
            black, white = options.weights.value_range
            found[name]["outside"] = float(((finite < black) | (finite > white)).mean())
    spreads = [each["highest"] - each["lowest"] for each in found.values()]
    if len(spreads) == 2 and options.weights.value_range is None and min(spreads) > 0 and max(spreads) > APART * min(spreads):
        words = [f"values from {each['lowest']:g} to {each['highest']:g}" for each in found.values()]
        raise UserError(
            f"{ours.name} holds {words[0]}, {theirs.name} {words[1]}, so one of them seems to be scaled: bring both to one "
            "scale, or say with `value_range` what is black and white in both.",
            setting="images",
        )
    return found


def _bytes(seen: Mapping[str, Mapping[str, float]], options: Comparing) -> str:
    """How images become 8-bit for networks that take such."""
    if options.weights.value_range is None or not any("outside" in each for each in seen.values()):
        return "uint8 as stored"
    black, white = options.weights.value_range
    outside = ", ".join(f"{each['outside']:.2%} of the values of the {name}" for name, each in seen.items())
    return f"round(255 (x - {black:g}) / {white - black:g}), limited: {outside} lie outside"


def _copies(own: list[Kind], sets: Sets, data: PreparedData) -> tuple[dict[str, Any], Image.Image]:
    """Copies among the images, at most 10,000 of them drawn at random, in pixels and in the features of the encoder."""
    images = sets.images.source
    assert images is not None
    order = permutation(Streams([2]), len(images))[:JUDGED].sort().values
    chosen = sources.subset(images, order.numpy())
    side = data.held_out if len(data.held_out) >= 2 else None
    found = []
    for kind in own:
        assert kind.images is not None
        assert kind.reference is not None
        found.append(Features(kind.extractor, kind.reference, sets.features(kind.extractor, side), kind.images[order]))

    def about(extractor: FeatureExtractor, real: int) -> Protocol:
        return protocol_of(extractor, real, len(chosen), "as given", Real(data).look)

    seed = sets.images.first_seed if len(chosen) == len(images) else None
    made = Made(chosen, about, False, seed, sets.device)
    result = judgements.copies(data, made, found)
    rows = judgements.nearest_images(data, chosen, result["pairs"])
    return result, nearest_picture(rows, data.metadata, data.normaliser.shown)


def _shown(source: Source, data: PreparedData) -> Image.Image:
    images = torch.from_numpy(sources.gather(source, sources.evenly(len(source), SHOWN)))
    return grid(images, 12, metadata=data.metadata, seen=data.normaliser.shown)


def _lines(document: Mapping[str, Any]) -> list[str]:
    """The rows as a table, then the Inception Scores and the judgements in a line each."""
    used = [name for name in COLUMNS if any(row.get(name) is not None for row in document["distances"])]
    heads = {"frechet": "Frechet", "kernel_distance": "kernel", "kernel_distance_std": "+-"}
    lines = [f"{'features':<20} {'of':<24} {'images':>8} {'reference':>9}" + "".join(f" {heads.get(n, n):>10}" for n in used)]
    for row in document["distances"]:
        counts = [f"{row[side]:,}" if row.get(side) else "mu, sigma" for side in ("images", "reference")]
        cells = "".join(f" {'-' if row.get(name) is None else format(row[name], '.4g'):>10}" for name in used)
        called = f"   ({CALLED[row['features']]})" if row["features"] in CALLED and row["of"] == ALL else ""
        lines.append(f"{row['features']:<20} {row['of']:<24} {counts[0]:>8} {counts[1]:>9}{cells}{called}")
    for row in document["inception_score"]:
        lines.append(f"Inception Score of the {row['of']}, {row['convention']}: {row['mean']:.4g} +- {row['std']:.2g}.")
    said = verdict({key: value for key, value in _as_evaluation(document).items() if key != "copies"}, SIDES)
    return [*lines, *said, *judgements.sentences(dict(document))]


def _verdict(document: Mapping[str, Any]) -> Verdict:
    """As that of an evaluation, by one rule."""
    result = _as_evaluation(document)
    return Verdict(verdict(result, SIDES), level(result))


def _as_evaluation(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a verdict reads, as an evaluation has it."""
    rows = document["distances"]
    pairs = [(few, floor) for few in rows for floor in rows if (few["of"], floor["of"]) == (FEW, FLOOR)]
    distances = [
        {
            "features": few["features"],
            "few": few["images"],
            "frechet_of_few": few["frechet"],
            "frechet_floor_of_few": floor["frechet"],
        }
        for few, floor in pairs
        if few["features"] == floor["features"] and "frechet" in few and "frechet" in floor
    ]
    others = {key: document[key] for key in ("copies", "pixel_values") if document.get(key) is not None}
    return {"distances": distances, **others}
