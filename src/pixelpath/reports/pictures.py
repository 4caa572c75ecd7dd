"""The plots of a run's measurements, and what all plots share.

A *row* of a plot is a dataclass of the evaluation, or the same as read from JSON. A *panel* is one of several plots in a picture.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pixelpath.atomic import whole
from pixelpath.errors import UserError
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.probe import ProbeRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Metrics = Sequence[Mapping[str, Any]]
"""Lines of metrics.jsonl."""
JSONRows = Sequence[Mapping[str, Any]]

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#0b6fb8", "#d9822b", "#12936f", "#8e5bb5", "#c8373b", "#6b7280"
MARKS = "osD^vP*"
ACROSS = 44  # letters of nine points that stand side by side in half of a figure
HEAVY = 30.0  # a share so many times the median one hides the others on a linear axis
NOT_LOSSES = {"step", "gradient_norm", "lr", "images_per_second", "seconds", "memory_bytes", "skipped"}
PANELS = (
    ("lr", "learning rate", ORANGE),
    ("gradient_norm", "gradient norm (unclipped)", PURPLE),
    ("images_per_second", "images per second", GREEN),
    ("feature_std", "standard deviation of features", BLUE),
    ("effective_rank", "effective rank of features", BLUE),
    ("by_content", "share known by content at sigma 1", BLUE),
    ("sample_distance", "Frechet distance of one-step samples (pixels)", RED),
)


def save_png(path: Path, picture: Image.Image | Figure) -> None:
    """Write the picture or plot, whole or not at all, into a folder made if missing; an older file of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        rendered(picture).save(file, "PNG")


def training_curves(rows: Metrics) -> Figure:
    """Losses (raw faint, smoothed strong), held-out loss, learning rate, gradient norm and speed by step.

    Stage one adds its signs of collapse. Skipped steps and alarms are marked. Raises UserError without rows.
    """
    if not rows:
        raise UserError("There are no measurements to draw: a run has some once it has taken a step.")
    panels = [panel for panel in PANELS if len(series(rows, panel[0])[0])]
    columns = {0: 1, 1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    below = math.ceil(len(panels) / columns)
    figure = blank(3.3 + 2.1 * below)
    layout = figure.add_gridspec(1 + below, columns, height_ratios=[3.3] + [2.1] * below)
    _losses(figure.add_subplot(layout[0, :]), rows)
    for place, (key, title, colour) in enumerate(panels):
        axes = figure.add_subplot(layout[1 + place // columns, place % columns])
        axes.set_title(title, loc="left", fontsize=9.5)
        _draw(axes, rows, key, colour)
        if key == "gradient_norm":
            logarithmic(axes, series(rows, key)[1])
        else:
            axes.set_ylim(bottom=0)
    for axes in figure.axes:
        axes.set_xlabel("step")
    return styled(figure)


def probe_plot(rows: Sequence[ProbeRow] | JSONRows) -> Figure:
    """Accuracy against noise level: a colour per kind of features, solid for nearest neighbours, dashed for linear probes."""
    figure = blank(3.4)
    axes = figure.add_subplot()
    table = _sorted(rows)
    for name, colour in zip(dict.fromkeys(row["name"] for row in table), colours(), strict=False):
        chosen = [row for row in table if row["name"] == name]
        sigmas = [row["sigma"] for row in chosen]
        for key, mark, label in (("nearest", "o-", "nearest neighbours"), ("linear", "s--", "linear")):
            shares = [100 * row[key] for row in chosen]
            axes.plot(sigmas, shares, mark, color=colour, markersize=4, label=f"{name}, {label}")
    axes.set(ylim=(0, 102), ylabel="test images recognised, %")
    by_level(axes)
    return styled(figure)


def noise_levels_plot(rows: Sequence[HeldOutRow] | JSONRows) -> Figure:
    """Held-out denoising error against noise level, both logarithmic, with bars of two standard errors to either side."""
    figure = blank(3.4)
    axes = figure.add_subplot()
    table = _sorted(rows)
    sigmas, losses, errors = ([row[key] for row in table] for key in ("sigma", "loss", "standard_error"))
    axes.errorbar(sigmas, losses, [2 * error for error in errors], fmt="o-", color=BLUE, capsize=3, markersize=4)
    axes.set_ylabel("mean squared error (model range)")
    by_level(axes)
    logarithmic(axes, np.array(losses))
    return styled(figure)


def distance_over_nfe(curves: JSONRows) -> Figure:
    """Frechet distance against network evaluations (NFE) per image, both logarithmic: a panel per kind of features.

    A curve has the colour of its name. Its distances are those of as many samples as the floor, dashed, has real images: others
    could not be compared with it.
    """
    kinds, names = (list(dict.fromkeys(curve[key] for curve in curves)) for key in ("features", "name"))
    figure = blank(0.6 + 3.2 * len(kinds))
    for place, (axes, kind) in enumerate(zip(np.ravel(figure.subplots(len(kinds), 1)), kinds, strict=True)):
        chosen = [curve for curve in curves if curve["features"] == kind]
        drawn = [_distances(axes, curve, names.index(curve["name"]), labelled=place == 0) for curve in chosen]
        for few, floor in dict.fromkeys((curve["few"], curve["floor"]) for curve in chosen):
            label = f"floor: {few:,} other real images" if place == 0 else None
            axes.axhline(floor, color="black", linestyle="--", linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        counts = " or ".join(f"{few:,}" for few in dict.fromkeys(curve["few"] for curve in chosen))
        axes.set(xlabel="network evaluations (NFE) per image", ylabel=f"{kind}\nFrechet distance of {counts} samples")
        logarithmic(axes, np.array([*itertools.chain(*drawn), *(curve["floor"] for curve in chosen)]))
    return styled(figure, columns=max(1, min(6, 110 // max(30, *map(len, names)))))


def series(rows: Metrics, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps at which `key` was a finite number, and its values."""
    pairs = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, np.float64), np.array(values, np.float64)


def loss_names(rows: Metrics) -> list[str]:
    """The parts of the loss that the rows hold."""
    others = NOT_LOSSES | {key for key, _, _ in PANELS} | {"loss", "held_out_loss"}
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key not in others and len(series(rows, key)[0])]


def skipped_steps(rows: Metrics) -> list[int]:
    """The steps of the lines whose number of steps skipped so far is larger than in the line before."""
    counts = [(row["step"], row["skipped"]) for row in rows if "skipped" in row]
    return [step for (step, now), (_, before) in zip(counts, [(0, 0), *counts], strict=False) if now > before]


def smooth(values: np.ndarray, std: float) -> np.ndarray:
    """The moving average with Gaussian weights of standard deviation `std`, in places; beyond the ends their values go on."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values.astype(np.float64), std, mode="nearest", truncate=6.0)


def colours() -> tuple[str, ...]:
    """The colours of what is drawn together, in turn."""
    return BLUE, ORANGE, GREEN, PURPLE, GREY


def blank(height: float) -> Figure:
    """An empty figure 9 inches wide: its 9-point letters can be read where it is shown 900 pixels wide."""
    from matplotlib.figure import Figure

    return Figure(figsize=(9, height), dpi=160, layout="constrained", facecolor="white")


def styled(figure: Figure, columns: int = 6) -> Figure:
    """The figure, its axes made plain: faint lines, no frame, small letters, legends of so many columns above."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9ca3af")
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5, color="#9ca3af")
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(9)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                fontsize=8.5, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, columnspacing=1.6
            )
    return figure


def rendered(plot: Image.Image | Figure) -> Image.Image:
    """The plot as a picture; a picture as it is."""
    if isinstance(plot, Image.Image):
        return plot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(plot)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def wrapped(name: str) -> str:
    """A name in lines that a plot of half the width of a figure has room for."""
    return "\n".join(textwrap.wrap(name, ACROSS))


def by_level(axes: Axes) -> None:
    """A horizontal axis of noise levels."""
    axes.set(xscale="log", xlabel="noise level sigma (model range)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def logarithmic(axes: Axes, drawn: np.ndarray) -> None:
    """A logarithmic vertical axis with plain numbers, if all values drawn are positive and not nearly equal."""
    if drawn.size == 0 or drawn.min() <= 0 or drawn.max() < 1.5 * drawn.min():
        return
    axes.set_yscale("log")
    plain_numbers(axes.yaxis, drawn.max() / drawn.min())


def plain_numbers(axis: Axis, ratio: float) -> None:
    """Ticks at 1, 2, 5, 10, ..., or at powers of ten alone, on a logarithmic axis whose ends have this ratio."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 1e4 else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _sorted(rows: Sequence[ProbeRow] | Sequence[HeldOutRow] | JSONRows) -> list[Mapping[str, Any]]:
    """The rows as mappings, by rising sigma."""
    table = [asdict(row) if isinstance(row, ProbeRow | HeldOutRow) else row for row in rows]
    return sorted(table, key=lambda row: row["sigma"])


def _losses(axes: Axes, rows: Metrics) -> None:
    """Every loss, the held-out loss, and marks along the edges where steps were skipped or an alarm was raised."""
    parts = loss_names(rows)
    for key, colour in zip(["loss", *parts], colours(), strict=False):
        _draw(axes, rows, key, colour, label=key.replace("_", " "))
    logarithmic(axes, np.concatenate([series(rows, key)[1] for key in ("loss", *parts)]))
    steps, values = series(rows, "held_out_loss")
    if len(steps):
        axes.plot(steps, values, "o-", color="black", markersize=3, linewidth=1, label="held-out loss")
    for marks, colour, height, shape, label in (
        (skipped_steps(rows), RED, 0.02, "|", "skipped step"),
        ([row["step"] for row in rows if row.get("alarms")], RED, 0.97, "v", "alarm"),
    ):
        if marks:
            places = [height] * len(marks)
            axes.plot(marks, places, shape, color=colour, transform=axes.get_xaxis_transform(), label=label, clip_on=False)
    axes.set_ylabel("loss")


def _distances(axes: Axes, curve: Mapping[str, Any], number: int, *, labelled: bool) -> list[float]:
    """Draw one curve in the colour and mark of this number; the distances drawn."""
    points = sorted(curve["points"], key=lambda point: point["nfe"])
    distances = [point["frechet_of_few"] for point in points]
    colour, mark = colours()[number % len(colours())], MARKS[number % len(MARKS)]
    label = curve["name"] if labelled else None
    axes.plot([point["nfe"] for point in points], distances, f"{mark}-", color=colour, markersize=4, label=label)
    return distances


def _draw(axes: Axes, rows: Metrics, key: str, colour: str, label: str | None = None) -> None:
    """One measurement: raw and faint, and where there are many values, smoothed over a sixtieth of them and strong."""
    steps, values = series(rows, key)
    if len(values) < 60 or key == "lr":
        axes.plot(steps, values, "o-" if len(values) < 2 else "-", color=colour, linewidth=1.3, markersize=3, label=label)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values, len(values) / 60), color=colour, linewidth=1.5, label=label)
