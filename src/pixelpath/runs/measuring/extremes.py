"""The sheet of extremes: the samples at the ends of what a run makes, beside the images at the ends of real data.

A *group* is one question, such as the highest values of rain. Its *rows* are sets of images that answer it: samples, and as many
real images. A *tile* is an image of a row, with its value and its seed or name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image

from pixelpath.data import sources
from pixelpath.data.sources import Source
from pixelpath.evaluation.copies import Neighbours
from pixelpath.reports.display import are_photographs, choices
from pixelpath.reports.page import number
from pixelpath.reports.tiles import ACROSS, Shot, legend, sheet
from pixelpath.runs.measuring.comparison import BATCH, MOST
from pixelpath.runs.prepare import PreparedData

ENDS = ("farthest", "nearest")
VARIABLES = 4  # channels, at most, whose values are looked at
SURVEYED = 512  # training images by which the lowest value of a variable is known
COMMON = 0.05  # share of pixels from which on the lowest value of a variable has its own groups: dry pixels of rain


def by_distance(
    data: PreparedData, images: Source, first_seed: int | None, near: Neighbours, real: Neighbours | None
) -> list[dict[str, Any]]:
    """The samples, and the held-out images, farthest from and nearest to training images, JSON-ready."""
    held_out = sources.subset(data.held_out, sources.evenly(len(data.held_out), MOST))
    rows: list[dict[str, Any]] = []
    for side, found, source in (("samples", near, images), ("held_out", real, held_out)):
        if found is None:
            continue
        order = found.distance.argsort(stable=True).tolist()
        for end, chosen in (("farthest", order[::-1][:ACROSS]), ("nearest", order[:ACROSS])):
            rows += [
                {"end": end, "of": side, "among": len(order), "image": place, "distance": float(found.distance[place])}
                | {"name": _name(source, place, first_seed if side == "samples" else None)}
                for place in chosen
            ]
    return rows


def extremes(
    data: PreparedData, images: Source, first_seed: int | None, copies: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The groups of a sheet, JSON-ready: by distance to training images, and of measured data by the values of each variable."""
    found = [] if copies is None else [group for end in ENDS for group in _distance_groups(copies, end, _shown(data))]
    if not are_photographs(data.training[0][None], data.metadata):
        found += _by_value(data, images, first_seed)
    few = sources.gather(images, range(min(ACROSS, len(images))))
    return [group | {"bar": legend(Shot(few, tuple(group["channels"])), data.metadata, data.normaliser.shown)} for group in found]


def _by_value(data: PreparedData, images: Source, first_seed: int | None) -> list[dict[str, Any]]:
    """Groups by the values of each variable: samples, and as many training images, evenly chosen."""
    chosen, least = sources.evenly(len(data.training), len(images)), _least(data)
    real = sources.subset(data.training, chosen)
    ours, theirs = (_statistics(source, data, least) for source in (images, real))
    found: list[dict[str, Any]] = []
    for channel in range(min(VARIABLES, data.shape[0])):
        title = data.metadata.called(channel, data.shape[0])
        for what, key, sign in _questions(theirs["share"][:, channel], least[channel]):
            first, second = (_tiles(key, values[key][:, channel], sign) for values in (ours, theirs))
            first = [tile | {"name": _name(images, tile["image"], first_seed)} for tile in first]
            second = [tile | {"name": real.name(tile["image"]), "image": int(chosen[tile["image"]])} for tile in second]
            sides = (("samples", images, first), ("training", real, second))
            rows = [{"of": name, "among": len(source), "tiles": tiles} for name, source, tiles in sides]
            found.append({"what": f"{what}: {title}" if title else what, "channels": [channel], "rows": rows})
    return found


def _tiles(key: str, values: Float[np.ndarray, "image"], sign: int) -> list[dict[str, Any]]:
    """The images with the largest values (sign 1) or the smallest (-1), those of which nothing was measured left out."""
    order = np.argsort(np.where(np.isnan(values), np.inf, -sign * values), kind="stable")[:ACROSS].tolist()

    def spelled(value: float) -> str:
        return f"{100 * value:.3g} %" if key == "share" else number(value)

    return [{"image": place, "value": spelled(float(values[place]))} for place in order if not np.isnan(values[place])]


def picture(data: PreparedData, images: Source, groups: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The tiles of all groups as one picture without words, a row of it for every row of a group."""
    sides = {"samples": images, "training": data.training}
    sides["held_out"] = sources.subset(data.held_out, sources.evenly(len(data.held_out), MOST))
    shots = [
        Shot(sources.gather(sides[row["of"]], [tile["image"] for tile in row["tiles"]]), tuple(group["channels"]))
        for group in groups
        for row in group["rows"]
    ]
    return sheet(shots, data.metadata, data.normaliser.shown)


def _shown(data: PreparedData) -> list[list[int]]:
    """The choices of channels that images are shown by; none for photographs, which are shown whole."""
    if are_photographs(data.training[0][None], data.metadata):
        return [[]]
    return choices(data.shape[0], data.metadata)[:VARIABLES]


def _distance_groups(copies: Mapping[str, Any], end: str, shown: Sequence[Sequence[int]]) -> Iterable[dict[str, Any]]:
    """A group for every choice of channels, with a row of samples and one of held-out images."""
    features = copies["closeness"][0]["features"]
    chosen = [row for row in copies["extremes"] if row["end"] == end]
    rows = []
    for side in dict.fromkeys(row["of"] for row in chosen):
        ours = [row for row in chosen if row["of"] == side]
        tiles = [{"image": row["image"], "name": row["name"], "value": f"{row['distance']:.3g}"} for row in ours]
        rows.append({"of": side, "among": ours[0]["among"], "tiles": tiles})
    what = f"{end.capitalize()} {'from' if end == 'farthest' else 'to'} training images (distance in {features})"
    return [{"what": what, "channels": list(channels), "rows": rows} for channels in shown]


def _questions(shares: Float[np.ndarray, "image"], least: float) -> list[tuple[str, str, int]]:
    """The groups of a variable: a title, the statistic, and whether its largest (1) or smallest (-1) values are asked for."""
    highest = ("Highest values", "maximum", 1)
    if not np.nanmean(shares) >= COMMON:
        return [highest, ("Lowest values", "minimum", -1)]
    what = f"share of pixels at {number(least)}"
    return [highest, (f"Largest {what}", "share", 1), (f"Smallest {what}", "share", -1)]


def _statistics(
    source: Source, data: PreparedData, least: Float[np.ndarray, "channel"]
) -> dict[str, Float[np.ndarray, "image channel"]]:
    """Of every image and channel the lowest and the highest measured value, and the share of those that are at most `least`.

    NaN where nothing was measured.
    """
    parts: list[list[np.ndarray]] = []
    for first in range(0, len(source), BATCH):
        values, known = _measured(source, range(first, min(first + BATCH, len(source))), data)
        some, count = known.any(2), np.maximum(1, known.sum(2))
        low, high = np.where(known, values, np.inf).min(2), np.where(known, values, -np.inf).max(2)
        share = (known & (values <= least[:, None])).sum(2) / count
        parts.append([np.where(some, each, np.nan) for each in (low, high, share)])
    low, high, share = (np.concatenate(each) for each in zip(*parts, strict=True))
    return {"minimum": low, "maximum": high, "share": share}


def _least(data: PreparedData) -> Float[np.ndarray, "channel"]:
    """The lowest value that evenly chosen training images have in every channel."""
    values, known = _measured(data.training, sources.evenly(len(data.training), SURVEYED), data)
    return np.where(known, values, np.inf).min((0, 2))


def _measured(
    source: Source, places: Sequence[int] | Int[np.ndarray, "_"], data: PreparedData
) -> tuple[Float[np.ndarray, "_ channel pixel"], Bool[np.ndarray, "_ channel pixel"]]:
    """The values of some images, and where they are finite and measured."""
    native = sources.gather(source, places)
    valid = data.normaliser.valid(torch.from_numpy(native))
    values = native.astype(np.float64)
    known = np.isfinite(values) & (True if valid is None else valid.numpy())
    shape = (len(native), data.shape[0], -1)
    return values.reshape(shape), known.reshape(shape)


def _name(source: Source, place: int, first_seed: int | None) -> str:
    return source.name(place) if first_seed is None else f"seed {first_seed + place}"
