"""The pictures of an audit.

*Typical* images are evenly chosen. *Extreme* ones have the largest or smallest value or mean of all, in standard deviations of
their channel. *Unusual* ones are farthest from their nearest training image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from pixelpath.data.sources import evenly, gather
from pixelpath.evaluation.histograms import drawn_edges, shares
from pixelpath.evaluation.inspection import Inspection, Part
from pixelpath.evaluation.survey import Survey
from pixelpath.reports.display import grid, panels
from pixelpath.reports.names import short
from pixelpath.reports.pictures import BLUE, HEAVY, ORANGE, blank, logarithmic, save_png, styled, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TYPICAL, EXTREME, SHOWN_PAIRS = 32, 8, 8
WIDE = 1000  # pixels across, that the images of a row should not exceed
DRAWN = 12  # channels of which histograms are drawn

CAPTIONS = {
    "typical.png": "Evenly chosen training images.",
    "highest.png": "The training images with the highest values, the highest first.",
    "lowest.png": "The training images with the lowest values, the lowest first.",
    "largest-mean.png": "The training images with the largest means.",
    "smallest-mean.png": "The training images with the smallest means.",
    "unusual.png": "The training images farthest from their nearest training image.",
    "damaged.png": "Images with NaN or infinite values.",
    "nearest.png": "Pairs of training images that are nearly (or exactly) the same, one above the other, the nearest first.",
    "leaked.png": "Held-out images, and below each the training image that is nearly (or exactly) the same.",
    "histograms.png": "How often values occur, channel by channel: training (filled) and held-out images (line).",
}
EXTREMES = tuple(CAPTIONS)[1:7]


def save_pictures(folder: Path, seen: Inspection) -> list[str]:
    """Draw what there is to draw into the folder; the names of the files."""
    part = seen.training
    pictures: dict[str, Image.Image | Figure] = {
        name: _grid(part, name, numbers) for name, numbers in _chosen(seen).items() if len(numbers)
    }
    couples = [(group[0], group[1]) for group in seen.duplicates]
    couples += [(pair.first, pair.second) for pair in seen.near_duplicates]
    across = [*seen.leaked, *((pair.first, pair.second) for pair in seen.near_leaked)]
    if couples:
        pictures["nearest.png"] = _couples(part, part, _spread(couples))
    if across and seen.held_out is not None:
        pictures["leaked.png"] = _couples(seen.held_out, part, _spread(across))
    histograms = histograms_plot(part, seen.held_out)
    pictures |= {} if histograms is None else {"histograms.png": histograms}
    for name, picture in pictures.items():
        save_png(folder / name, picture)
    return [name for name in CAPTIONS if name in pictures]


def histograms_plot(training: Part, held_out: Part | None) -> Figure | None:
    """Shares of values of the first channels, on a logarithmic axis where one value has nearly all; None without any."""
    known = [number for number, channel in enumerate(training.found.channels) if channel.count][:DRAWN]
    if not known:
        return None
    columns = 1 if len(known) == 1 else 2
    down = math.ceil(len(known) / columns)
    plot = blank(2.4 * down + 0.4)
    for place, number in enumerate(known):
        _histogram(plot.add_subplot(down, columns, place + 1), number, training, held_out)
    return styled(plot)


def _histogram(axes: Axes, number: int, training: Part, held_out: Part | None) -> None:
    """The shares of values of one channel."""
    channel, source = training.found.channels[number], training.source
    metadata = source.metadata
    name = channel.name if metadata.channels else f"channel {channel.name}"
    units = metadata.units_of(number)
    axes.set(xlabel=wrapped(f"{name} ({units})" if units else name), ylabel="share")
    try:
        values = training.found.values.channel(number)
    except ValueError:  # none of its few values was among those chosen
        return
    edges = drawn_edges(values, whole=source.dtype.kind in "iu")
    drawn = shares(values, edges)
    axes.stairs(drawn, edges, fill=True, color=BLUE, alpha=0.45, label="training")
    if held_out is not None and held_out.found.channels[number].count:
        theirs = shares(held_out.found.values.channel(number), edges)
        axes.stairs(theirs, edges, color=ORANGE, linewidth=1.2, label="held out")
        drawn = np.concatenate([drawn, theirs])
    drawn = drawn[drawn > 0]
    if drawn.max() > HEAVY * np.median(drawn):
        logarithmic(axes, drawn)


def _chosen(seen: Inspection) -> dict[str, Int[np.ndarray, "chosen"]]:
    """Which training images each grid shows."""
    part, found = seen.training, seen.training.found
    readable = np.setdiff1d(np.arange(len(part.source)), list(found.unreadable))
    several = len(found.channels) > 1 and len(panels(part.source[int(readable[0])][None], part.source.metadata)) > 1
    typical = TYPICAL // 2 if several else TYPICAL  # of several variables each has a sheet
    chosen = {"typical.png": readable[evenly(len(readable), typical)]}
    if len(readable) > EXTREME:
        for name, (rows, sign) in _orders(found).items():
            chosen[name] = _extreme(sign * _standard(found, rows))
        finite = np.flatnonzero(np.isfinite(seen.nearest.difference))
        farthest = finite[np.argsort(-seen.nearest.difference[finite], kind="stable")[:EXTREME]]
        chosen["unusual.png"] = found.signed[farthest]
    chosen["damaged.png"] = np.flatnonzero(found.damaged > 0)[:EXTREME]
    return chosen


def _orders(found: Survey) -> dict[str, tuple[Float[np.ndarray, "image channel"], int]]:
    """By what the images of each sheet of extremes are chosen, and whether the largest (1) or the smallest (-1) come first."""
    return {
        "highest.png": (found.highest, 1),
        "lowest.png": (found.lowest, -1),
        "largest-mean.png": (found.mean, 1),
        "smallest-mean.png": (found.mean, -1),
    }


def _standard(found: Survey, rows: Float[np.ndarray, "_ channel"]) -> Float[np.ndarray, "_ channel"]:
    """Native values in standard deviations of their channel, from its mean."""
    centre = np.array([channel.mean or 0.0 for channel in found.channels])
    scale = np.array([channel.std or 1.0 for channel in found.channels])
    return (rows - centre) / scale


def _extreme(rows: Float[np.ndarray, "image channel"]) -> Int[np.ndarray, "chosen"]:
    """The images with the largest of these in any channel; none if half of all images have it."""
    known = np.where(np.isnan(rows), -np.inf, rows).max(1)
    if (known == known.max()).mean() > 0.5:
        return np.zeros(0, np.int64)
    order = np.argsort(-known, kind="stable")[:EXTREME]
    return order[np.isfinite(known[order])]


def _spread(couples: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The nearest, and evenly chosen others."""
    return [couples[place] for place in evenly(len(couples), SHOWN_PAIRS)]


def _couples(above: Part, below: Part, couples: Sequence[tuple[int, int]]) -> Image.Image:
    """Pairs side by side, one image of each above the other; images of zeros fill the upper row of the last ones."""
    columns = _columns(above, len(couples))
    images = []
    for first in range(0, len(couples), columns):
        part = couples[first : first + columns]
        empty = [above.source[part[0][0]] * 0] * (columns - len(part))
        images += [*(above.source[one] for one, _ in part), *empty, *(below.source[other] for _, other in part)]
    return _drawn(above, np.stack(images), columns)


def _grid(part: Part, name: str, numbers: Int[np.ndarray, "chosen"]) -> Image.Image:
    """The images of a sheet, each above its name, and above the value that it was chosen by."""
    labels = [short(part.source.name(number)) for number in numbers.tolist()]
    if name in _orders(part.found):
        rows, sign = _orders(part.found)[name]
        labels = [f"{value}\n{label}" for value, label in zip(_values(part, rows[numbers], sign), labels, strict=True)]
    return _drawn(part, gather(part.source, numbers), _columns(part, EXTREME), labels)


def _values(part: Part, rows: Float[np.ndarray, "chosen channel"], sign: int) -> list[str]:
    """Of every row the value that is most extreme in standard deviations: with its units, and its channel if it has a name."""
    metadata, several = part.source.metadata, rows.shape[1] > 1
    standard = np.where(np.isnan(rows), -np.inf, sign * _standard(part.found, rows))
    found = []
    for row, channel in zip(rows, standard.argmax(1).tolist(), strict=True):
        channel_name = f"{part.found.channels[channel].name} " if several and metadata.channels else ""
        found.append(f"{channel_name}{row[channel]:.4g} {metadata.units_of(channel)}".rstrip())
    return found


def _columns(part: Part, wanted: int) -> int:
    return max(1, min(EXTREME, wanted, WIDE // part.source.shape[2]))


def _drawn(part: Part, images: np.ndarray, columns: int, labels: Sequence[str] | None = None) -> Image.Image:
    """Native images between the 0.1 % and 99.9 % quantiles of the training values."""
    ranges = [(channel.quantiles.get("0.001", 0.0), channel.quantiles.get("0.999", 1.0)) for channel in part.found.channels]
    return grid(images, columns, metadata=part.source.metadata, seen=ranges, labels=labels)
