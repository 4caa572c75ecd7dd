"""In which features two sets can be compared, and the rows of numbers of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelpath.data.sources import Source
from pixelpath.errors import UserError
from pixelpath.evaluation.dinov2 import dinov2
from pixelpath.evaluation.distances import drawn, frechet, frechet_of_sets
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor
from pixelpath.evaluation.inception import AllInception, adm_parts, fidelity_parts, inception, inception_score
from pixelpath.evaluation.protocol import protocol_of
from pixelpath.evaluation.statistics import Moments
from pixelpath.randomness import Streams, permutation
from pixelpath.runs.measuring.compare_sets import POOLED, SPATIAL_NAME, ImageSet
from pixelpath.runs.measuring.comparison import Real, encoder_features, features_of, pixels, quality
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import PreparedData

MEASURES = ("frechet", "kernel", "precision", "score", "copies", "values")
FEATURES = ("pixels", "encoder", "inception", "dinov2")
KINDS = {
    "kernel": ("kernel_distance", "kernel_distance_std"),
    "precision": ("precision", "recall", "density", "coverage"),
}
SPLITS = 10  # of the Inception Score of torch-fidelity
ALL, FEW, FLOOR = "all images", "few images", "floor: reference itself"


@dataclass(frozen=True)
class Weights:
    """Where the weights of feature extractors are, and how images come to them."""

    encoder: Path | None = None
    """Run of stage one in whose features to compare."""
    inception: Path | None = None
    """File of the Inception weights. Default: the one in torch's cache, if it is there; nothing is downloaded."""
    dinov2: Path | None = None
    """File of the DINOv2 weights (ViT-L/14 for FD-DINOv2). Default: the one in torch's cache, if it is there."""
    value_range: tuple[float, float] | None = None
    """The values that mean black and white where images are not 8-bit. Features of Inception and DINOv2 need them."""

    def __post_init__(self) -> None:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            black, white = self.value_range
            raise UserError(f"`value_range` is black, then white, which is larger: got {black:g} and {white:g}.", "value_range")


@dataclass(frozen=True)
class Comparing:
    """In which features two sets are compared, and by which measures; UserError for unknown ones.

    `features` are any of pixels, encoder, inception, dinov2; empty: pixels, and the others whose weights are given or in torch's
    cache. `measures` are any of frechet, kernel, precision (with recall, density, coverage), score (Inception Score), copies,
    values (spectra, histograms, quantiles); empty: all that the two sets allow.
    """

    features: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    weights: Weights = Weights()

    def __post_init__(self) -> None:
        for name, chosen, known in (("features", self.features, FEATURES), ("measures", self.measures, MEASURES)):
            wrong = [each for each in chosen if each not in known]
            if wrong:
                raise UserError(f"`{name}` are any of {', '.join(known)}, got {wrong[0] or 'an empty word'}.", setting=name)

    def wants(self, measure: str) -> bool:
        """Whether this measure was asked for, by name or as a part of everything."""
        return not self.measures or measure in self.measures

    def refuse(self, measure: str, needed: str) -> str:
        """The sentence that a measure is left out for want of what it needs; UserError if it was asked for by name."""
        sentence = f"{measure} cannot be measured without {needed}"
        if measure in self.measures:
            raise UserError(f"`measures` {sentence}: give these, or omit it.", setting="measures")
        return f"Left out: {sentence}."


@dataclass(frozen=True, eq=False)
class Sets:
    """Both sets, what is known of their images (None: both are statistics alone), and where features are extracted."""

    images: ImageSet
    reference: ImageSet
    data: PreparedData | None
    device: torch.device | str
    options: Comparing
    bytes: str  # how images become 8-bit

    def features(self, extractor: FeatureExtractor, source: Source | None) -> Tensor | None:
        """The features of a set; None for images that are not at hand."""
        if source is None or self.data is None:
            return None
        return features_of(extractor, Real(self.data).batches(source), len(source), torch.device(self.device))


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of features of both sets; None for images that are not at hand."""

    name: str
    extractor: FeatureExtractor
    images: Tensor | None
    reference: Tensor | None


def extractors(sets: Sets, left_out: list[str]) -> Iterator[FeatureExtractor]:
    """The extractors that were asked for, or that can be had; UserError for one that was asked for and cannot."""
    options, data = sets.options, sets.data
    if data is None:
        if options.features:
            sentence = "Both sets are statistics, so `features` cannot be extracted: omit it, or give images."
            raise UserError(sentence, setting="features")
        return
    alone = next((each for each in (sets.images, sets.reference) if each.source is None), None)
    held = set() if alone is None else {name.partition("-")[0] for name in alone.moments}
    for name in FEATURES:
        given = vars(options.weights).get(name)
        asked = name in options.features or given is not None or name in held
        if name not in options.features if options.features else name == "encoder" and given is None:
            continue
        if alone is not None and name not in held:
            sentence = f"{alone.name} holds statistics alone, and none of features '{name}'"
            if name in options.features:
                raise UserError(f"{sentence}: give its images.", setting="features")
            left_out.append(f"Left out: {sentence}.")
            continue
        try:
            yield _extractor(name, sets, data)
        except UserError as error:
            if asked or name == "pixels":
                raise
            left_out.append(f"Left out: {error}")


def _extractor(name: str, sets: Sets, data: PreparedData) -> FeatureExtractor:
    weights = sets.options.weights
    ends = weights.value_range
    if name == "pixels":
        return pixels(data) if ends is None else replace(pixels(data), lowest=ends[0], highest=ends[1])
    if name == "encoder":
        return _encoder(weights.encoder, data, sets.device)
    if data.shape[0] not in (1, 3):
        sentence = f"Features '{name}' need images of 1 or 3 channels, and these have {data.shape[0]}: use other features."
        raise UserError(sentence, setting="features")
    if data.training.dtype != "uint8" and ends is None:
        what = f"Features '{name}' need 8-bit images, and these are {data.training.dtype}"
        raise UserError(f"{what}: say which values are black and white with `value_range`.", setting="value_range")
    if name == "inception":
        return AllInception(replace(inception(weights.inception, sets.device), value_range=ends))
    return replace(dinov2(weights.dinov2, sets.device), value_range=ends)


def _encoder(path: Path | None, data: PreparedData, device: torch.device | str) -> EncoderFeatures:
    if path is None:
        raise UserError("Features 'encoder' need a run of stage one: name it as `encoder`.", setting="encoder")
    run = open_run(path, device=device)
    ours, theirs = (data.shape, data.training.dtype.name), (run.shape, run.normaliser.dtype)
    if ours != theirs:
        sizes = ["x".join(map(str, shape)) + f" {dtype}" for shape, dtype in (theirs, ours)]
        raise UserError(f"The encoder {path} takes images of {sizes[0]}, not {sizes[1]}: give one of such images.", "encoder")
    return encoder_features(run)


def kinds(sets: Sets, extractor: FeatureExtractor) -> tuple[list[Kind], list[dict[str, Any]]]:
    """The features of both sets by one extractor, by kind, and the Inception Scores where it is Inception."""
    sides = [sets.features(extractor, each.source) for each in (sets.images, sets.reference)]
    if not isinstance(extractor, AllInception):
        return [Kind(extractor.name, extractor, *sides)], []
    parts = [None if side is None else extractor.parts(side) for side in sides]
    found = [
        Kind(POOLED, extractor, *(None if part is None else part.pool for part in parts)),
        Kind(SPATIAL_NAME, extractor, *(None if part is None else part.spatial for part in parts)),
    ]
    scores = [
        row
        for name, part in zip(("images", "reference"), parts, strict=True)
        if part is not None and sets.options.wants("score")
        for row in _scores(name, part.logits, extractor)
    ]
    return found, scores


def _scores(of: str, logits: Tensor, extractor: FeatureExtractor) -> list[dict[str, Any]]:
    """The Inception Scores by both conventions; torch-fidelity's needs an image in each of ten parts."""
    ways = {"ADM: parts of 5,000 in their order": adm_parts(len(logits))}
    if len(logits) >= SPLITS:
        ways = {"torch-fidelity: 10 parts, shuffled with seed 2020": fidelity_parts(len(logits), SPLITS), **ways}
    rows = []
    for convention, parts in ways.items():
        score = inception_score(logits, parts)
        protocol = {"images": len(logits), "parts": score.splits, "convention": convention, "extractor_hash": extractor.hash}
        rows.append(
            {"of": of, "convention": convention.partition(":")[0], "mean": score.mean, "std": score.std, "protocol": protocol}
        )
    return rows


def rows(sets: Sets, kind: Kind, left_out: list[str]) -> list[dict[str, Any]]:
    """All images against the whole reference; and where the reference is at hand, few of them and the floor, see `compare`."""
    moments = [each.moments.get(kind.name) for each in (sets.images, sets.reference)]
    for each, side, known in zip((sets.images, sets.reference), (kind.images, kind.reference), moments, strict=True):
        if side is None and known is None:
            left_out.append(f"Left out: {each.name} holds no statistics of features '{kind.name}'.")
            return []
        if side is not None and len(side) < 2:
            raise UserError(f"{each.name} holds {len(side)} image, and distances need 2 or more.", setting="images")
    found = [_row(sets, kind, ALL, kind.images, kind.reference, moments, left_out)]
    if kind.reference is None or len(kind.reference) < 4 or kind.images is None:
        return found
    order = permutation(Streams([0]), len(kind.reference))
    half = len(order) // 2
    few, second = min(half, len(kind.images)), kind.reference[order[half:]]
    ours = drawn(kind.images, few, seed=1)
    found.append(_row(sets, kind, FEW, ours, second, [None, None], left_out))
    return [*found, _row(sets, kind, FLOOR, kind.reference[order[:few]], second, [None, None], left_out)]


def of_statistics(sets: Sets) -> list[dict[str, Any]]:
    """The Frechet distances between two files of statistics, which need no network."""
    names = [name for name in sets.images.moments if name in sets.reference.moments]
    if not names:
        raise UserError(
            f"{sets.images.name} and {sets.reference.name} hold statistics of different features "
            f"({', '.join(sets.images.moments)}; {', '.join(sets.reference.moments)}): give images of one of them.",
            setting="images",
        )
    for measure in sets.options.measures:
        if measure != "frechet":
            sets.options.refuse(measure, "images, and both sets are statistics alone")
    return [
        {
            "features": name,
            "of": ALL,
            "frechet": frechet(sets.images.moments[name], sets.reference.moments[name]),
            "protocol": {"moments": "mu and sigma of both files", **_hashes(sets)},
        }
        for name in names
    ]


def _row(
    sets: Sets,
    kind: Kind,
    of: str,
    images: Tensor | None,
    reference: Tensor | None,
    moments: list[Moments | None],
    left_out: list[str],
) -> dict[str, Any]:
    """The numbers of one row. Statistics of a file go before those of its images, of which ADM's files hold only a part."""
    options, values, how = sets.options, {}, {}
    if options.wants("frechet"):
        first, second = (known or side for side, known in zip((images, reference), moments, strict=True))
        assert first is not None
        assert second is not None
        values["frechet"] = frechet_of_sets(first, second)
        how["moments"] = "; ".join(
            f"{name}: {'covariance / (n - 1), float64' if known is None else 'mu and sigma of the file'}"
            for name, known in zip(("images", "reference"), moments, strict=True)
        )
    if kind.name != SPATIAL_NAME and any(map(options.wants, KINDS)):
        counts = [len(side) if side is not None else 0 for side in (images, reference)]
        if min(counts) > 3:
            assert images is not None
            assert reference is not None
            found, about = quality(reference, images, kind.name)
            names = [name for measure, each in KINDS.items() if options.wants(measure) for name in each]
            values |= {name: found[name] for name in names}
            how |= about
        else:
            why = "the images of both sets" if min(counts) == 0 else "more than 3 images of each set"
            left_out += [options.refuse(measure, f"{why} ('{kind.name}', {of})") for measure in KINDS if options.wants(measure)]
    return {"features": kind.name, "of": of, **_record(sets, kind, images, reference, values, how)}


def _record(
    sets: Sets, kind: Kind, images: Tensor | None, reference: Tensor | None, values: Mapping[str, Any], how: Mapping[str, str]
) -> dict[str, Any]:
    """The numbers with how they were measured, and the counts of images in front."""
    counts = {name: None if side is None else len(side) for name, side in (("images", images), ("reference", reference))}
    base = sets.reference if sets.reference.source is not None else sets.images
    extractor = kind.extractor
    about = protocol_of(extractor, counts["reference"] or 0, counts["images"] or 0, "as given", base.about["look"])
    network = extractor.name not in ("pixels", "encoder")
    more = {**how, **({"eight_bit": sets.bytes} if network else {}), **_hashes(sets), "resize_before": base.about["resize"]}
    sampling = {"sampling": sets.images.about["sampling"]} if "sampling" in sets.images.about else {}
    return counts | about.record({**more, **sampling}, **values)


def _hashes(sets: Sets) -> dict[str, str]:
    return {
        "images_path": sets.images.name,
        "images_hash": sets.images.about["hash"],
        "reference_path": sets.reference.name,
        "reference_hash": sets.reference.about["hash"],
    }
