"""The pictures of a full evaluation: nearest pairs, losses by level, spectra and histograms.

A *pair* is a sample and the training image nearest to it; drawing it needs images, so that is done once, when samples
were measured. Plots need only the *rows* that evaluation.json keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from pixelpath.data import sources
from pixelpath.data.sources import Source
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import (
    BLUE,
    GREY,
    ORANGE,
    JSONRows,
    blank,
    by_level,
    logarithmic,
    noise_levels_plot,
    plain_numbers,
    rendered,
    save_png,
)
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDES = (
    ("training", "training images", GREY, "-"),
    ("held_out", "held-out images", ORANGE, "--"),
    ("samples", "samples", BLUE, "-"),
)
HEAVY = 30.0  # a share so many times the median one makes the others invisible on a linear axis


def save_pictures(run: Path, data: PreparedData, made: Samples, result: Mapping[str, Any]) -> None:
    """Write held_out.png, nearest.png, spectrum.png and histograms.png of a result into the run's folder, over older ones."""
    gap, copies, domain = result["loss_gap"], result["copies"], result["domain"]
    if result["held_out_loss"]:
        save_png(run / "held_out.png", loss_gap_plot(gap["sigmas"]) if gap else noise_levels_plot(result["held_out_loss"]))
    if copies:
        save_png(run / "nearest.png", nearest_picture(data, made, copies["pairs"]))
    save_png(run / "spectrum.png", spectrum_plot(domain["spectra"]))
    save_png(run / "histograms.png", histograms_plot(domain["histograms"]))


def in_short(evaluation: Any, *, curves: bool = True) -> Any:
    """An evaluation for the report: without held-out losses that stand beside training losses, and with `curves` or without."""
    if not isinstance(evaluation, Mapping):
        return evaluation
    left_out = ({"held_out_loss"} if evaluation.get("loss_gap") else set()) | (set() if curves else {"spectra", "histograms"})
    found = {key: value for key, value in evaluation.items() if key not in left_out}
    if isinstance(found.get("domain"), Mapping):
        found["domain"] = {key: value for key, value in found["domain"].items() if key not in left_out}
    return found


def nearest_picture(data: PreparedData, made: Samples, pairs: JSONRows) -> Image.Image:
    """A column per pair: the sample, below it its nearest training image, and the nearest held-out image if there are such."""
    rows = [made.native[[pair["sample"] for pair in pairs]]]
    for name, side in (("training", data.training), ("held_out", data.held_out)):
        if name in pairs[0]:
            rows.append(_chosen(side, [pair[name] for pair in pairs], [pair[f"{name}_mirrored"] for pair in pairs]))
    return grid(torch.cat(rows), len(pairs), metadata=data.metadata, seen=data.normaliser.shown)


def loss_gap_plot(rows: JSONRows) -> Image.Image:
    """Denoising error of training and of held-out images by noise level, with bars of two standard errors to either side."""
    figure = blank(3.4)
    axes = figure.add_subplot()
    sigmas = [row["sigma"] for row in rows]
    for key, label, colour, line in SIDES[:2]:
        errors = [2 * row[f"{key}_error"] for row in rows]
        axes.errorbar(
            sigmas, [row[key] for row in rows], errors, fmt=f"o{line}", color=colour, capsize=3, markersize=4, label=label
        )
    axes.set_ylabel("mean squared error (model range)")
    by_level(axes)
    logarithmic(axes, np.array([row[key] for row in rows for key in ("training", "held_out")]))
    return rendered(figure)


def spectrum_plot(rows: JSONRows) -> Image.Image:
    """Power per mode against frequency, both logarithmic, a panel per channel."""

    def draw(axes: Axes, chosen: JSONRows, key: str, **look: Any) -> None:
        values = np.array([row[key] for row in chosen], np.float64)
        axes.plot([row["frequency"] for row in chosen], np.where(values > 0, values, np.nan), markersize=3, marker="o", **look)

    def finish(axes: Axes, drawn: np.ndarray) -> None:
        axes.set(xscale="log", xlabel="frequency (cycles per pixel)", ylabel="power per mode")
        plain_numbers(axes.xaxis, 10.0)
        logarithmic(axes, drawn[drawn > 0])

    return _panels(rows, draw, finish)


def histograms_plot(rows: JSONRows) -> Image.Image:
    """The share of values in bins of equal width, a panel per channel; logarithmic where few bins hold most of the values."""

    def draw(axes: Axes, chosen: JSONRows, key: str, **look: Any) -> None:
        edges = [*(row["lower"] for row in chosen), chosen[-1]["upper"]]
        values = np.array([row[key] for row in chosen], np.float64)
        axes.stairs(np.where(values > 0, values, np.nan), edges, **look)

    def finish(axes: Axes, drawn: np.ndarray) -> None:
        positive = drawn[drawn > 0]
        if positive.size and positive.max() > HEAVY * np.median(positive):
            logarithmic(axes, positive)
        else:
            axes.set_ylim(bottom=0)
        axes.set(xlabel="value", ylabel="share of values")

    return _panels(rows, draw, finish)


def _panels(rows: JSONRows, draw: Any, finish: Any) -> Image.Image:
    """A panel per channel, two side by side, the sets over one another in each."""
    channels = list(dict.fromkeys(row["channel"] for row in rows))
    columns = min(2, len(channels))
    figure = blank(0.5 + 2.9 * math.ceil(len(channels) / columns))
    for place, channel in enumerate(channels):
        axes = figure.add_subplot(math.ceil(len(channels) / columns), columns, place + 1)
        chosen = [row for row in rows if row["channel"] == channel]
        sides = [side for side in SIDES if chosen[0][side[0]] is not None]
        for key, label, colour, line in sides:
            look = {"color": colour, "linestyle": line, "linewidth": 1.3, "label": label if place == 0 else None}
            draw(axes, chosen, key, **look)
        finish(axes, np.array([row[key] for row in chosen for key, *_ in sides], np.float64))
        if len(channels) > 1:
            axes.annotate(f"channel {channel}", (0.98, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=9)
    return rendered(figure)


def _chosen(side: Source, indices: Sequence[int], mirrored: Sequence[bool]) -> torch.Tensor:
    images = torch.from_numpy(sources.gather(side, indices))
    return torch.where(torch.tensor(mirrored).reshape(-1, 1, 1, 1), images.flip(-1), images)
