"""What a full evaluation says beside distances: are samples copies, does the network memorise, do pixels and scales look right.

A *judgement* is a JSON-ready mapping for RUN/evaluation.json, in which rows of measurements are flat. The *few* are as many
samples as there are held-out images to set a floor: only numbers of few can be read against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pixelpath.data import sources
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.sources import Source
from pixelpath.evaluation import histograms, memorising
from pixelpath.evaluation.copies import Neighbours, closeness, quantiles, search, suspects
from pixelpath.evaluation.features import FeatureExtractor, extract
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.histograms import PROBABILITIES, Values
from pixelpath.evaluation.spectrum import Spectrum, SpectrumRow, SpectrumSum, log_distance
from pixelpath.reports.pictures import series
from pixelpath.runs.comparison import BATCH, MOST, Real, protocol
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import Samples
from pixelpath.training import checkpoint
from pixelpath.training.journal import lines

SEARCHED = 10_000  # samples, at most, whose neighbours are looked for
PAIRS = 12  # of these, how many are shown
CHANNELS = 4  # that are drawn, at most
ENOUGH, LEAST = 2**28, 1024  # values of a set whose spectrum and histograms are measured, and images that it has in any case

Native = Shaped[np.ndarray, "_ channel row column"]


@dataclass(frozen=True, eq=False)
class Features:
    """The features of training images, held-out images (None: fewer than two) and samples, by one extractor."""

    extractor: FeatureExtractor
    training: Float[Tensor, "training feature"]
    held_out: Float[Tensor, "held_out feature"] | None
    samples: Float[Tensor, "sample feature"]


@dataclass(frozen=True, eq=False)
class _Looked:
    """The spectrum of a set of images and the sorted values of its channels."""

    count: int
    spectrum: Spectrum
    values: list[Float[np.ndarray, "_"]]


Sides = Mapping[str, _Looked | None]  # training, held_out, samples


def trained_on(run: OpenRun, data: PreparedData) -> bool:
    """Whether these are the images that the run was trained on, as far as their numbers on both sides of the split tell."""
    about = checkpoint.read(run.checkpoint, "data")
    return (about["training"], about["held_out"]) == (len(data.training), len(data.held_out))


def copies(run: OpenRun, data: PreparedData, made: Samples, found: Sequence[Features], device: torch.device) -> dict[str, Any]:
    """Neighbours of samples among training and held-out images in each kind of features; pairs and duplicates by the first."""
    real = Real(data)
    searched = [_searched(features, real, run, device) for features in found]
    rows = [_closeness(features, each, real, made, run) for features, each in zip(found, searched, strict=True)]
    first = searched[0]
    return {
        "duplicates": _duplicates(made.native, data.training, first.to_training),
        "held_out_duplicates": None if first.real is None else _real_duplicates(data, first.real),
        "mirrored": run.recipe.flip,
        "closeness": rows,
        "neighbours": [row for features, each in zip(found, searched, strict=True) for row in _distances(features, each)],
        "pairs": _pairs(data, made, first),
    }


def loss_gap(run: OpenRun, training: Sequence[HeldOutRow], held_out: Sequence[HeldOutRow]) -> dict[str, Any]:
    """The loss on training images against that on held-out ones, level by level, and whether to train on."""
    rows = memorising.gaps(training, held_out)
    seen = [line for line in lines(run.path) if line["step"] <= run.step]
    steps, losses = series(seen, "held_out_loss")
    best = None if run.recipe.is_one_step else memorising.best_step(steps.tolist(), losses.tolist())
    kept = {int(path.name[5:]): path for path in checkpoint.complete(run.path)}
    near = None if best is None or not kept else kept[min(kept, key=lambda step: abs(step - best))]
    return {
        "advice": memorising.advice(rows, best),
        "best_step": best,
        "checkpoint": None if near is None else near.name,
        "images": training[0].count,
        "levels": [asdict(row) for row in rows],
    }


def domain(data: PreparedData, made: Samples) -> dict[str, Any]:
    """Spectra, histograms and quantiles of every channel of samples against training images, in the data's own units.

    Of real images only pixels that were measured count.
    """
    shape, whole = data.shape, data.training.dtype.kind in "iu"
    most = min(MOST, max(LEAST, ENOUGH // math.prod(shape)))
    few = min(most, len(data.held_out), len(made)) if len(data.held_out) >= 2 else 0
    training = _look(_batches(data.training, most), min(most, len(data.training)), shape, data.normaliser)
    held_out = _look(_batches(data.held_out, few), few, shape, data.normaliser) if few else None
    samples = _look(_split(made.native[:most]), min(most, len(made)), shape, None)
    fewer = samples if few in (0, samples.count) else _look(_split(made.native[:few]), few, shape, None)
    channels = _channels(data)
    sides: Sides = {"training": training, "held_out": held_out, "samples": samples}
    rows = _differences(channels, training, held_out, samples, fewer)
    worst = sorted(range(shape[0]), key=lambda number: -rows[number]["total_variation"])[:CHANNELS]
    return {
        "images": {
            **{key: 0 if look is None else look.count for key, look in sides.items()},
            "few": few,
            "values_of_a_channel": len(training.values[0]),
            "drawn": [channels[number] for number in worst],
        },
        "channels": rows,
        "quantiles": [row for number, name in enumerate(channels) for row in _quantiles(name, number, sides)],
        "frequent": [_frequent(name, number, sides) for number, name in enumerate(channels)],
        "half_transparent": _half_transparent(sides) if data.metadata.alpha else None,
        "spectra": [row for number in worst for row in _spectrum(channels[number], number, sides)],
        "histograms": [row for number in worst for row in _histogram(channels[number], number, sides, whole=whole)],
    }


def sentences(result: dict[str, Any]) -> list[str]:
    """The judgements of a result in a line each."""
    found = [_copies_sentence(result["copies"])] if result.get("copies") else []
    if result.get("loss_gap"):
        gap = result["loss_gap"]
        found.append(gap["advice"] + (f" The nearest one kept is {gap['checkpoint']}." if gap["checkpoint"] else ""))
    return [*found, _domain_sentence(result["domain"])] if result.get("domain") else found


@dataclass(frozen=True, eq=False)
class _Searched:
    """The neighbours of samples among training and held-out images, those of held-out images among training ones, and hits."""

    to_training: Neighbours
    to_held_out: Neighbours | None
    real: Neighbours | None
    hits: Tensor


def _searched(features: Features, real: Real, run: OpenRun, device: torch.device) -> _Searched:
    training = _views(features.extractor, features.training, real, real.data.training, run, device)
    samples = features.samples[:SEARCHED]
    if features.held_out is None:
        (near,), hits = search(samples, [training])
        return _Searched(near, None, None, hits)
    held_out = _views(features.extractor, features.held_out, real, real.data.held_out, run, device)
    (near, other), hits = search(samples, [training, held_out])
    return _Searched(near, other, search(features.held_out, [training])[0][0], hits)


def _views(
    extractor: FeatureExtractor, features: Tensor, real: Real, side: Source, run: OpenRun, device: torch.device
) -> Float[Tensor, "view image feature"]:
    """The features of real images, and those of their mirror images if the run was trained on these too."""
    if not run.recipe.flip:
        return features[None]
    return torch.stack([features, extract(extractor, (images.flip(-1) for images in real.batches(side)), device)])


def _closeness(features: Features, found: _Searched, real: Real, made: Samples, run: OpenRun) -> dict[str, Any]:
    """How many samples are suspiciously near to training images; without held-out ones there is nothing to tell it by."""
    values: dict[str, Any] = (
        {} if found.real is None else asdict(closeness(found.to_training.distance, found.real.distance, found.hits))
    )
    held_out = 0 if features.held_out is None else len(features.held_out)
    counts = {"samples": len(found.to_training.distance), "training": len(features.training), "held_out": held_out}
    about = protocol(features.extractor, len(features.training), real.look, made, run)
    return {"features": features.extractor.name, **about.record(**counts, **values)}


def _distances(features: Features, found: _Searched) -> list[dict[str, Any]]:
    """Quantiles of the distances of samples, and of held-out images, to the nearest image of each side."""
    sides = (
        ("samples", "training", found.to_training),
        ("samples", "held out", found.to_held_out),
        ("held out", "training", found.real),
    )
    return [
        {"features": features.extractor.name, "from": here, "to": there, **quantiles(near.distance)}
        for here, there, near in sides
        if near is not None
    ]


def _pairs(data: PreparedData, made: Samples, found: _Searched) -> list[dict[str, Any]]:
    """The samples nearest to training images, with the images that they are near to."""
    first, _ = made.settings["seeds"]
    rows = []
    for place in suspects(found.to_training, found.to_held_out, PAIRS):
        row: dict[str, Any] = {"sample": place, "seed": first + place}
        for name, side, near in (("training", data.training, found.to_training), ("held_out", data.held_out, found.to_held_out)):
            if near is not None:
                index = int(sources.evenly(len(side), MOST)[near.index[place]])
                row |= {name: index, f"{name}_name": side.name(index), f"{name}_mirrored": bool(near.view[place])}
                row[f"{name}_distance"] = float(near.distance[place])
        rows.append(row)
    return rows


def _duplicates(images: Shaped[Tensor, "image channel row column"], side: Source, near: Neighbours) -> int:
    """How many of the images are, value for value, an image of the other side (or its mirror image)."""
    places = (near.distance == 0).nonzero().flatten()
    chosen, count = sources.evenly(len(side), MOST), 0
    for part in places.split(BATCH):
        others = torch.from_numpy(sources.gather(side, chosen[near.index[part].numpy()]))
        mirrored = near.view[part].bool().reshape(-1, 1, 1, 1)
        others = torch.where(mirrored, others.flip(-1), others)
        count += int((others == images[part]).flatten(1).all(1).sum())
    return count


def _real_duplicates(data: PreparedData, near: Neighbours) -> int:
    places = (near.distance == 0).nonzero().flatten()
    chosen = sources.evenly(len(data.held_out), MOST)
    images = torch.from_numpy(sources.gather(data.held_out, chosen[places.numpy()]))
    part = Neighbours(near.index[places], near.view[places], near.distance[places])
    return _duplicates(images, data.training, part)


def _batches(side: Source, most: int) -> Iterator[np.ndarray]:
    chosen = sources.evenly(len(side), most)
    for first in range(0, len(chosen), BATCH):
        yield sources.gather(side, chosen[first : first + BATCH])


def _split(images: Tensor) -> Iterator[np.ndarray]:
    for part in images.split(BATCH):
        yield part.numpy()


def _channels(data: PreparedData) -> list[str]:
    """What the channels are called: by their names if they have any of their own, else by number."""
    names = data.metadata.channels
    return list(names) if len(set(names)) == data.shape[0] else [str(number) for number in range(data.shape[0])]


def _look(batches: Iterable[Native], count: int, shape: tuple[int, int, int], normaliser: Normaliser | None) -> _Looked:
    """Both in one pass over the images; the normaliser knows which of their pixels were measured, of samples (None) all were."""
    power, values = SpectrumSum(*shape), Values(count, *shape)
    for images in batches:
        valid = None if normaliser is None else normaliser.valid(torch.from_numpy(images))
        mask = None if valid is None else valid.numpy()
        power.add(images, mask)
        values.add(images, mask)
    return _Looked(count, power.spectrum(), [values.channel(number) for number in range(shape[0])])


def _differences(
    channels: Sequence[str], training: _Looked, held_out: _Looked | None, samples: _Looked, few: _Looked
) -> list[dict[str, Any]]:
    """A row per channel: how far samples, few of them, and held-out images are from training images."""
    looked = {"": samples} if held_out is None else {"": samples, "_of_few": few, "_floor_of_few": held_out}
    rows: list[dict[str, Any]] = [{"channel": name} for name in channels]
    spectra = {suffix: log_distance(look.spectrum, training.spectrum) for suffix, look in looked.items()}
    for number, row in enumerate(rows):
        apart = {key: histograms.difference(training.values[number], look.values[number]) for key, look in looked.items()}
        row |= {f"spectrum{suffix}": spectra[suffix][number] for suffix in looked}
        row |= {f"total_variation{suffix}": apart[suffix].total_variation for suffix in looked}
        row |= {f"wasserstein{suffix}": apart[suffix].wasserstein for suffix in looked}
        row["scale"] = float(training.values[number].std())
    return rows


def _each(sides: Sides, measure: Callable[[_Looked], Any]) -> dict[str, Any]:
    return {key: None if look is None else measure(look) for key, look in sides.items()}


def _quantiles(name: str, number: int, sides: Sides) -> list[dict[str, Any]]:
    """The quantiles of a channel in every set; errors of samples and of the floor in deviations of the training values."""
    found = _each(sides, lambda look: np.quantile(look.values[number], PROBABILITIES))
    scale = _scale(sides, number)
    rows = []
    for at, probability in enumerate(PROBABILITIES):
        values = {key: None if each is None else float(each[at]) for key, each in found.items()}
        real = float(found["training"][at])
        errors = {key: None if value is None or scale == 0 else (value - real) / scale for key, value in values.items()}
        row = {"channel": name, "probability": probability, **values, "error": errors["samples"], "floor": errors["held_out"]}
        rows.append(row)
    return rows


def _scale(sides: Sides, number: int) -> float:
    training = sides["training"]
    assert training is not None
    return float(training.values[number].std())


def _frequent(name: str, number: int, sides: Sides) -> dict[str, Any]:
    """The share of the most frequent value of training images, and of zeros, in every set."""
    training = sides["training"]
    assert training is not None
    value = histograms.atom(training.values[number])
    row: dict[str, Any] = {"channel": name, "value": value}
    for what, wanted in (("share", value), ("zeros", 0.0)):
        found = _each(sides, lambda look, wanted=wanted: histograms.share_of(look.values[number], wanted))
        row |= {f"{what}_{key}": share for key, share in found.items()}
    return row


def _half_transparent(sides: Sides) -> dict[str, float | None]:
    """The share of pixels neither transparent nor opaque: whose fourth channel is neither 0 nor its largest training value."""
    training = sides["training"]
    assert training is not None
    full = float(training.values[3][-1])
    return _each(sides, lambda look: float(((look.values[3] > 0) & (look.values[3] < full)).mean()))


def _spectrum(name: str, number: int, sides: Sides) -> list[dict[str, Any]]:
    found = _each(sides, lambda look: look.spectrum.power[number].tolist())
    training = sides["training"]
    assert training is not None
    rows = []
    for at, frequency in enumerate(training.spectrum.frequency.tolist()):
        powers: dict[str, Any] = {key: None if power is None else power[at] for key, power in found.items()}
        rows.append(asdict(SpectrumRow(name, frequency, **powers)))
    return rows


def _histogram(name: str, number: int, sides: Sides, *, whole: bool) -> list[dict[str, Any]]:
    found = _each(sides, lambda look: look.values[number])
    return [asdict(row) for row in histograms.histogram(name, **found, whole=whole)]


def _copies_sentence(found: dict[str, Any]) -> str:
    """Whether samples are copies, by the features in which they look most like it."""
    rows = [row for row in found["closeness"] if "closer" in row]
    floor = "" if found["held_out_duplicates"] is None else f" ({found['held_out_duplicates']} of the held-out images)"
    equal = f"{found['duplicates']} samples are exact copies of training images{floor}"
    if not rows:
        return f"Copies: {equal}; without held-out images near ones cannot be told."
    worst = max(rows, key=lambda row: (row["closer"] - 0.5) / max(row["closer_error"], 1e-12))
    return (
        f"Copies: {worst['closer']:.1%} +- {worst['closer_error']:.1%} of samples are nearer to training images than to as many "
        f"held-out ones (50 % without copying; in {worst['features']}), {worst['below']:.1%} nearer than the nearest "
        f"hundredth of held-out ones ({worst['below_expected']:.1%} without copying), {equal}."
    )


def _domain_sentence(found: dict[str, Any]) -> str:
    """The channel whose values are most in error, and the worst of its quantiles."""
    few = "total_variation_of_few" in found["channels"][0]
    ending = "_of_few" if few else ""
    row = max(found["channels"], key=lambda row: row[f"total_variation{ending}"])
    parts = []
    for key, name in (("spectrum", "ln spectrum"), ("total_variation", "share of values")):
        value, floor = row[f"{key}{ending}"], row.get(f"{key}_floor_of_few")
        if value is not None:
            parts.append(f"{name} off by {value:.3g}" + ("" if floor is None else f" (floor {floor:.3g})"))
    off = [each for each in found["quantiles"] if each["channel"] == row["channel"] and each["error"] is not None]
    if off:
        worst = max(off, key=lambda each: abs(each["error"]))
        parts.append(f"quantile {worst['probability']:g} {worst['samples']:.4g} for {worst['training']:.4g}")
    return f"Values, channel {row['channel']}: {', '.join(parts)}." if parts else f"Values, channel {row['channel']}: constant."
