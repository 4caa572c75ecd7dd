"""The pictures of a full evaluation: samples and their nearest images, losses by noise level, spectra and histograms.

Plots need only the *rows* that evaluation.json keeps. Samples and their nearest images are drawn once, when they are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelpath.data.metadata import Metadata
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import (
    BLUE,
    GREY,
    HEAVY,
    ORANGE,
    JSONRows,
    blank,
    by_level,
    logarithmic,
    noise_levels_plot,
    plain_numbers,
    save_png,
    styled,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = (
    ("training", "training images", GREY, "-"),
    ("held_out", "held-out images", ORANGE, "--"),
    ("samples", "samples", BLUE, "-"),
)


def save_plots(folder: Path, result: Mapping[str, Any]) -> None:
    """Write held_out.png, spectrum.png and histograms.png of a result of evaluation.json, over older ones."""
    gap, values = result["loss_gap"], result["pixel_values"]
    if result["held_out_loss"]:
        drawn = loss_gap_plot(gap["noise_levels"]) if gap else noise_levels_plot(result["held_out_loss"])
        save_png(folder / "held_out.png", drawn)
    save_png(folder / "spectrum.png", spectrum_plot(values["spectra"]))
    save_png(folder / "histograms.png", histograms_plot(values["histograms"]))


def nearest_picture(
    rows: Sequence[Tensor], metadata: Metadata, ranges: Sequence[tuple[float, float]] | None, labels: Sequence[str] | None = None
) -> Image.Image:
    """Native samples above their nearest training images (and their nearest held-out images): a column per sample."""
    return grid(torch.cat([*rows]), len(rows[0]), metadata=metadata, seen=ranges, labels=labels)


def loss_gap_plot(rows: JSONRows) -> Figure:
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
    return styled(figure)


def spectrum_plot(rows: JSONRows) -> Figure:
    """Power per mode against frequency, both logarithmic, a panel per channel."""

    def draw(axes: Axes, chosen: JSONRows, key: str, **look: Any) -> None:
        values = np.array([row[key] for row in chosen], np.float64)
        axes.plot([row["frequency"] for row in chosen], np.where(values > 0, values, np.nan), markersize=3, marker="o", **look)

    def finish(axes: Axes, drawn: np.ndarray) -> None:
        axes.set(xscale="log", xlabel="frequency (cycles per pixel)", ylabel="power per mode")
        plain_numbers(axes.xaxis, 10.0)
        logarithmic(axes, drawn[drawn > 0])

    return _panels(rows, draw, finish)


def histograms_plot(rows: JSONRows) -> Figure:
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


def _panels(rows: JSONRows, draw: Any, finish: Any) -> Figure:
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
            name = wrapped(f"channel {channel}" if channel.isdecimal() else channel)
            told = axes.annotate(name, (0.98, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=9)
            told.set_in_layout(False)  # it must not push the plot aside
    return styled(figure)
