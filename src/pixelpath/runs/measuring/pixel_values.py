"""Whether samples have the pixel values and scales of the data: spectra, histograms and quantiles, channel by channel.

The *few* are as many samples as there are held-out images, whose difference from training images is the floor: only numbers of
few samples can be compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped

from pixelpath.data import sources
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.sources import Source
from pixelpath.evaluation import histograms
from pixelpath.evaluation.histograms import PROBABILITIES, Values
from pixelpath.evaluation.spectrum import Spectrum, SpectrumRow, SpectrumSum, log_distance
from pixelpath.runs.measuring.comparison import BATCH, MOST
from pixelpath.runs.prepare import PreparedData

DRAWN = 4  # channels that are drawn, at most: those whose values or spectra are most in error
ENOUGH, LEAST = 2**28, 1024  # values of a set whose spectrum and histograms are measured, and images that it has in any case

Native = Shaped[np.ndarray, "_ channel row column"]


@dataclass(frozen=True, eq=False)
class _Measured:
    """The spectrum of a set of images and the sorted values of its channels."""

    count: int
    spectrum: Spectrum
    values: list[Float[np.ndarray, "_"]]


@dataclass(frozen=True, eq=False)
class _Sets:
    """The sets that are compared; without held-out images there is no floor."""

    training: _Measured
    held_out: _Measured | None
    samples: _Measured

    def each(self, measure: Callable[[_Measured], Any]) -> dict[str, Any]:
        """A measurement of every set by its name, None for a set that is not there."""
        return {name: None if each is None else measure(each) for name, each in vars(self).items()}


def pixel_values(data: PreparedData, images: Source, normaliser: Normaliser | None = None) -> dict[str, Any]:
    """Spectra, histograms and quantiles of every channel of native samples and of training images, JSON-ready.

    In the data's own units. Only measured pixels count: of samples by the `normaliser` that made them, if there is one.
    """
    shape, most = data.shape, min(MOST, holding(ENOUGH, data.shape))
    count, few = min(most, len(images)), min(most, len(data.held_out), len(images)) if len(data.held_out) >= 2 else 0
    training = _measure(native_batches(data.training, most), min(most, len(data.training)), shape, data.normaliser)
    held_out = _measure(native_batches(data.held_out, few), few, shape, data.normaliser) if few else None
    samples = _measure(native_batches(images, most), count, shape, normaliser)
    fewer = samples if few in (0, count) else _measure(native_batches(images, few), few, shape, normaliser)
    channels, sets = _channels(data), _Sets(training, held_out, samples)
    rows = _differences(channels, sets, fewer)
    errors = [max(row["total_variation"], row["spectrum"] or 0) for row in rows]
    worst = sorted(range(shape[0]), key=lambda number: -errors[number])[:DRAWN]
    whole = data.training.dtype.kind in "iu"
    return {
        "images": {
            **{name: each or 0 for name, each in sets.each(lambda measured: measured.count).items()},
            "few": few,
            "values_of_a_channel": len(training.values[0]),
            "drawn": [channels[number] for number in worst],
        },
        "channels": rows,
        "quantiles": [row for number, name in enumerate(channels) for row in _quantiles(name, number, sets)],
        "frequent": [_frequent(name, number, sets) for number, name in enumerate(channels)],
        "half_transparent": _half_transparent(sets) if data.metadata.alpha else None,
        "spectra": [row for number in worst for row in _spectrum(channels[number], number, sets)],
        "histograms": [row for number in worst for row in _histogram(channels[number], number, sets, whole=whole)],
    }


def sentence(found: dict[str, Any]) -> str:
    """The channel whose values are most in error, and the worst of its quantiles."""
    ending = "_of_few" if "total_variation_of_few" in found["channels"][0] else ""
    row = max(found["channels"], key=lambda row: row[f"total_variation{ending}"])
    parts = []
    for key, name in (("spectrum", "ln spectrum"), ("total_variation", "share of values")):
        value, floor = row[f"{key}{ending}"], row.get(f"{key}_floor_of_few")
        if value is not None:
            parts.append(f"{name} off by {value:.3g}" + ("" if floor is None else f" (floor {floor:.3g})"))
    off = [each for each in found["quantiles"] if each["channel"] == row["channel"] and each["error"] is not None]
    if off:
        worst = max(off, key=lambda each: abs(each["error"]))
        parts.append(f"quantile {worst['probability']:g} is {worst['samples']:.4g}, of the data {worst['training']:.4g}")
    return f"Values, channel {row['channel']}: {', '.join(parts) or 'constant'}."


def holding(values: int, shape: tuple[int, int, int]) -> int:
    """How many images of a shape hold about so many values, a thousand in any case."""
    return max(LEAST, values // math.prod(shape))


def values_of(batches: Iterable[Native], count: int, shape: tuple[int, int, int], normaliser: Normaliser) -> Values:
    """The pixel values of batches that hold so many native images, those that were measured."""
    found = Values(count, *shape)
    for images in batches:
        found.add(images, _known(images, normaliser))
    return found


def _known(images: Native, normaliser: Normaliser | None) -> histograms.Valid | None:
    """Which pixels were measured, None for all; the normaliser knows."""
    valid = None if normaliser is None else normaliser.valid(torch.from_numpy(images))
    return None if valid is None else valid.numpy()


def native_batches(side: Source, most: int) -> Iterator[Native]:
    """At most so many images of a source, evenly chosen, in memory-sized batches."""
    chosen = sources.evenly(len(side), most)
    for first in range(0, len(chosen), BATCH):
        yield sources.gather(side, chosen[first : first + BATCH])


def _channels(data: PreparedData) -> list[str]:
    """The names of the channels, with their units where these are known, if every one has its own; else their numbers."""
    known, count = data.metadata, data.shape[0]
    if len(set(known.channels)) == count or (count == 1 and known.called(0, 1)):
        return [known.called(number, count) for number in range(count)]
    return [str(number) for number in range(count)]


def _measure(batches: Iterable[Native], count: int, shape: tuple[int, int, int], normaliser: Normaliser | None) -> _Measured:
    """One pass over the images; the normaliser knows which pixels were measured, None: all."""
    power, values = SpectrumSum(*shape), Values(count, *shape)
    for images in batches:
        mask = _known(images, normaliser)
        power.add(images, mask)
        values.add(images, mask)
    return _Measured(count, power.spectrum(), [values.channel(number) for number in range(shape[0])])


def _differences(channels: Sequence[str], sets: _Sets, few: _Measured) -> list[dict[str, Any]]:
    """A row per channel: how far samples, few of them, and held-out images are from training images."""
    training, compared = sets.training, {"": sets.samples}
    compared |= {} if sets.held_out is None else {"_of_few": few, "_floor_of_few": sets.held_out}
    rows: list[dict[str, Any]] = [{"channel": name} for name in channels]
    spectra = {suffix: log_distance(each.spectrum, training.spectrum) for suffix, each in compared.items()}
    for number, row in enumerate(rows):
        apart = {key: histograms.difference(training.values[number], each.values[number]) for key, each in compared.items()}
        row |= {f"spectrum{suffix}": spectra[suffix][number] for suffix in compared}
        row |= {f"total_variation{suffix}": apart[suffix].total_variation for suffix in compared}
        row |= {f"wasserstein{suffix}": apart[suffix].wasserstein for suffix in compared}
        row["training_std"] = float(training.values[number].std())
    return rows


def _quantiles(name: str, number: int, sets: _Sets) -> list[dict[str, Any]]:
    """The quantiles of a channel in every set; errors of samples and of the floor in standard deviations of training values."""
    found, std = (
        sets.each(lambda each: np.quantile(each.values[number], PROBABILITIES)),
        float(sets.training.values[number].std()),
    )
    rows = []
    for at, probability in enumerate(PROBABILITIES):
        values = {key: None if each is None else float(each[at]) for key, each in found.items()}
        real = float(found["training"][at])
        errors = {key: None if value is None or std == 0 else (value - real) / std for key, value in values.items()}
        row = {"channel": name, "probability": probability, **values, "error": errors["samples"], "floor": errors["held_out"]}
        rows.append(row)
    return rows


def _frequent(name: str, number: int, sets: _Sets) -> dict[str, Any]:
    """The share of the most frequent value of training images, and of zeros, in every set."""
    value = histograms.atom(sets.training.values[number])
    row: dict[str, Any] = {"channel": name, "value": value}
    for what, wanted in (("share", value), ("zeros", 0.0)):
        found = sets.each(lambda each, wanted=wanted: histograms.share_of(each.values[number], wanted))
        row |= {f"{what}_{key}": share for key, share in found.items()}
    return row


def _half_transparent(sets: _Sets) -> dict[str, float | None]:
    """The share of pixels neither transparent nor opaque: whose fourth channel is neither 0 nor its largest training value."""
    full = float(sets.training.values[3][-1])
    return sets.each(lambda each: float(((each.values[3] > 0) & (each.values[3] < full)).mean()))


def _spectrum(name: str, number: int, sets: _Sets) -> list[dict[str, Any]]:
    found = sets.each(lambda each: each.spectrum.power[number].tolist())
    rows = []
    for at, frequency in enumerate(sets.training.spectrum.frequency.tolist()):
        powers: dict[str, Any] = {key: None if power is None else power[at] for key, power in found.items()}
        rows.append(asdict(SpectrumRow(name, frequency, **powers)))
    return rows


def _histogram(name: str, number: int, sets: _Sets, *, whole: bool) -> list[dict[str, Any]]:
    found = sets.each(lambda each: each.values[number])
    return [asdict(row) for row in histograms.histogram(name, **found, whole=whole)]
