"""The sheet of extremes: the samples at the ends of what a run makes, beside the images at the ends of real data.

A *group* is one question, such as the highest values of rain. Its *rows* are sets of images that answer it: samples, and as many
real images. A *tile* is an image of a row, with its value and its seed or name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from pixelpath.data import sources
from pixelpath.data.sources import Source
from pixelpath.evaluation.copies import Neighbours
from pixelpath.reports.display import are_photographs, choices
from pixelpath.reports.tiles import ACROSS, Shot, legend, sheet
from pixelpath.runs.comparison import BATCH, MOST
from pixelpath.runs.prepare import PreparedData

ENDS = ("farthest", "nearest")
VARIABLES = 4  # channels, at most, whose values are looked at
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
    """Groups by the values of each variable: samples, and as many training images."""
    found: list[dict[str, Any]] = []
    real = sources.subset(data.training, sources.evenly(len(data.training), len(images)))
    sides = {"samples": images, "training": real}
    kept = {"samples": range(len(images)), "training": sources.evenly(len(data.training), len(images)).tolist()}
    for channel in range(min(VARIABLES, data.shape[0])):
        measured = {name: _statistics(source, channel, data) for name, source in sides.items()}
        for what, key, sign, percent in _questions(measured["training"]):
            rows = []
            for name, source in sides.items():
                values = sign * measured[name][key]
                order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")[:ACROSS].tolist()
                tiles = [
                    {
                        "image": int(kept[name][place]),
                        "name": _name(source, place, first_seed if name == "samples" else None),
                        "value": _spelled(measured[name][key][place], percent=percent),
                    }
                    for place in order
                ]
                rows.append({"of": name, "among": len(source), "tiles": tiles})
            title = data.metadata.called(channel, data.shape[0]) or "values"
            found.append({"what": what.format(title), "channels": [channel], "rows": rows})
    return found


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


def _questions(real: Mapping[str, Any]) -> list[tuple[str, str, int, bool]]:
    """The groups of a variable: a title with a place for its name, the statistic, its sign, and whether it is a share."""
    found = [("Highest values: {}", "maximum", 1, False)]
    if np.nanmean(real["share"]) < COMMON:
        return [*found, ("Lowest values: {}", "minimum", -1, False)]
    least = f"{real['least']:.4g}"
    return [
        *found,
        (f"Largest share of pixels at {least}: {{}}", "share", 1, True),
        (f"Smallest share of pixels at {least}: {{}}", "share", -1, True),
    ]


def _statistics(source: Source, channel: int, data: PreparedData) -> dict[str, Any]:
    """Of every image the lowest and the highest measured value of a channel, and the share of those that are `least` in training.

    NaN for an image of which nothing was measured.
    """
    least = _least(data, channel)
    parts: list[Float[np.ndarray, "statistic _"]] = []
    for first in range(0, len(source), BATCH):
        native = sources.gather(source, range(first, min(first + BATCH, len(source))))
        valid = data.normaliser.valid(torch.from_numpy(native))
        values = native[:, channel].astype(np.float64).reshape(len(native), -1)
        known = np.isfinite(values)
        known &= True if valid is None else valid[:, channel].numpy().reshape(len(native), -1)
        some = known.any(1)
        high = np.where(some, np.where(known, values, -np.inf).max(1), np.nan)
        low = np.where(some, np.where(known, values, np.inf).min(1), np.nan)
        share = np.where(some, (known & (values <= least)).sum(1) / np.maximum(1, known.sum(1)), np.nan)
        parts.append(np.stack([low, high, share]))
    low, high, share = np.concatenate(parts, axis=1)
    return {"minimum": low, "maximum": high, "share": share, "least": least}


def _least(data: PreparedData, channel: int) -> float:
    """The lowest value that training images have in a channel, by evenly chosen ones."""
    chosen = sources.evenly(len(data.training), 10 * BATCH)
    native = sources.gather(data.training, chosen)
    valid = data.normaliser.valid(torch.from_numpy(native))
    values = native[:, channel].astype(np.float64)
    known = np.isfinite(values) & (True if valid is None else valid[:, channel].numpy())
    return float(values[known].min()) if known.any() else 0.0


def _name(source: Source, place: int, first_seed: int | None) -> str:
    return source.name(place) if first_seed is None else f"seed {first_seed + place}"


def _spelled(value: float, *, percent: bool) -> str:
    return f"{100 * value:.3g} %" if percent else f"{value:.4g}"
