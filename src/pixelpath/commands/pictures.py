"""The pictures a run makes: grids and files of images, and plots of what was measured.

*Native* images are [image, channel, row, column] in the dtype the data were stored in. The *display range* (lowest, highest) of
native values is what a picture shows as black and white; values outside are shown as its ends. A *row* of a plot is a dataclass
of the evaluation or the same as read from JSON.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from pixelpath.commands.folder import whole
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.probe import ProbeRow
from pixelpath.training.journal import METRICS, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Native = Shaped[Tensor, "image channel row column"] | Shaped[np.ndarray, "image channel row column"]
Metrics = list[dict[str, Any]]
JSONRows = Sequence[Mapping[str, Any]]

WIDEST, HIGHEST, LARGEST_SCALE = 1000, 2000, 32  # of a grid of enlarged images: pixels, pixels, pixels per pixel
GAP, GAP_GREY = 2, 128
TILE, LIGHT, DARK = 8, 255, 204  # the checkerboard behind transparent pixels
PERCENTILES = (0.5, 99.5)
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#0b6fb8", "#d9822b", "#12936f", "#8e5bb5", "#c8373b", "#6b7280"
MARKS = "osD^vP*"
NOT_LOSSES = {"step", "gradient_norm", "rate", "images_per_second", "seconds", "memory_bytes", "skipped"}
PANELS = (
    ("rate", "learning rate", ORANGE),
    ("gradient_norm", "gradient norm (unclipped)", PURPLE),
    ("images_per_second", "images per second", GREEN),
    ("feature_deviation", "deviation of features", BLUE),
    ("effective_rank", "effective rank of features", BLUE),
    ("sample_distance", "Frechet distance of one-step samples (pixels)", RED),
)


def grid(images: Native, columns: int, lowest: int | float | None = None, highest: int | float | None = None) -> Image.Image:
    """Native images in rows of `columns`, small ones enlarged by a whole number until the grid is 600 to 1000 pixels wide.

    One channel is grey, three are RGB, four are RGBA over a checkerboard; of any other number only the first channel is shown, as
    grey. Without a display range floats are shown between the 0.5th and 99.5th percentile of their finite values, and integers
    between the limits of their dtype. Raises ValueError for no images, fewer than one column, or a range that is empty.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"A grid needs at least one image and one column, got {len(images)} images and {columns} columns.")
    shown = _displayed(_array(images), lowest, highest)
    count, height, width, _ = shown.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    room = min((WIDEST - GAP * (columns - 1)) // (columns * width), HIGHEST // (rows * height))
    scale = max(1, min(room, LARGEST_SCALE))
    tiles = _opaque(shown.repeat(scale, axis=1).repeat(scale, axis=2))
    height, width = tiles.shape[1] + GAP, tiles.shape[2] + GAP
    canvas = np.full((rows * height - GAP, columns * width - GAP, tiles.shape[3]), GAP_GREY, np.uint8)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        canvas[row * height :, column * width :][: tile.shape[0], : tile.shape[1]] = tile
    return Image.fromarray(canvas.squeeze(2) if canvas.shape[2] == 1 else canvas)


def save_png(path: Path, picture: Image.Image) -> None:
    """Write the picture, whole or not at all; an older file of that name is replaced."""
    with whole(path) as file:
        picture.save(file, "PNG")


def save_images(folder: Path, images: Native, first_seed: int = 0, *, npy: bool = False) -> list[Path]:
    """Write native images, numbered by their seeds from `first_seed` on, and return the files.

    8-bit images of 1, 3 or 4 channels and 16-bit grey ones become 000000.png, 000001.png, ...; others, or all if `npy`, become
    one 000000-000099.npy, [image, channel, row, column] in their dtype. Raises ValueError for no images, and rather than
    overwrite a file (then nothing is written).
    """
    values = _array(images)
    if len(values) == 0:
        raise ValueError("There are no images to save: ask for at least one.")
    last = first_seed + len(values) - 1
    drawable = (values.dtype == np.uint8 and values.shape[1] in (1, 3, 4)) or (values.dtype == np.uint16 and values.shape[1] == 1)
    if drawable and not npy:
        paths = [folder / f"{seed:06d}.png" for seed in range(first_seed, last + 1)]
    else:
        paths = [folder / f"{first_seed:06d}-{last:06d}.npy"]
    for path in paths:
        if path.exists():
            raise ValueError(f"{path} exists already and is not overwritten: choose another folder, or another first seed.")
    folder.mkdir(parents=True, exist_ok=True)
    if paths[0].suffix == ".npy":
        with whole(paths[0]) as file:
            np.save(file, values)
        return paths
    for path, image in zip(paths, values, strict=True):
        save_png(path, Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))))
    return paths


def curves(run: Path) -> Path:
    """Draw RUN/curves.png from RUN/metrics.jsonl: losses (raw faint, smoothed strong), held-out loss, rate, gradient norm, speed.

    Stage one adds its signs of collapse; skipped steps and alarms are marked. Raises ValueError if there is nothing to draw yet.
    """
    rows = lines(run)
    if not rows:
        raise ValueError(f"{run / METRICS} holds no line: name the folder of a run that has taken a step.")
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
    save_png(run / "curves.png", rendered(figure))
    return run / "curves.png"


def probe_plot(rows: Sequence[ProbeRow] | JSONRows) -> Image.Image:
    """Accuracy against noise level: a colour per kind of features, solid for nearest neighbours, dashed for linear."""
    figure = blank(3.4)
    axes = figure.add_subplot()
    table = _sorted(rows)
    for name, colour in zip(dict.fromkeys(row["name"] for row in table), colours(), strict=False):
        chosen = [row for row in table if row["name"] == name]
        sigmas = [row["sigma"] for row in chosen]
        axes.plot(
            sigmas,
            [100 * row["nearest"] for row in chosen],
            "o-",
            color=colour,
            markersize=4,
            label=f"{name}, nearest neighbours",
        )
        axes.plot(sigmas, [100 * row["linear"] for row in chosen], "s--", color=colour, markersize=4, label=f"{name}, linear")
    axes.set(ylim=(0, 102), ylabel="test images recognised, %")
    by_level(axes)
    return rendered(figure)


def noise_levels_plot(rows: Sequence[HeldOutRow] | JSONRows) -> Image.Image:
    """Held-out denoising error against noise level, both logarithmic, with bars of two standard errors to either side."""
    figure = blank(3.4)
    axes = figure.add_subplot()
    table = _sorted(rows)
    sigmas, losses, errors = ([row[key] for row in table] for key in ("sigma", "loss", "standard_error"))
    axes.errorbar(sigmas, losses, [2 * error for error in errors], fmt="o-", color=BLUE, capsize=3, markersize=4)
    axes.set_ylabel("mean squared error (model range)")
    by_level(axes)
    logarithmic(axes, np.array(losses))
    return rendered(figure)


def evaluations_plot(curves: JSONRows) -> Image.Image:
    """Frechet distance against network evaluations an image, both logarithmic: a colour per name, a panel per kind of features.

    Distances are those of as many samples as the floor, dashed, has real images: others could not be read against it.
    """
    kinds, names = (list(dict.fromkeys(curve[key] for curve in curves)) for key in ("features", "name"))
    figure = blank(0.6 + 3.2 * len(kinds))
    for place, (axes, kind) in enumerate(zip(np.ravel(figure.subplots(len(kinds), 1)), kinds, strict=True)):
        chosen = [curve for curve in curves if curve["features"] == kind]
        drawn = [_over_evaluations(axes, curve, names.index(curve["name"]), labelled=place == 0) for curve in chosen]
        for few, floor in dict.fromkeys((curve["few"], curve["floor"]) for curve in chosen):
            label = f"floor: {few:,} other real images" if place == 0 else None
            axes.axhline(floor, color="black", linestyle="--", linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        counts = " or ".join(f"{few:,}" for few in dict.fromkeys(curve["few"] for curve in chosen))
        axes.set(xlabel="network evaluations an image", ylabel=f"{kind}\nFrechet distance of {counts} samples")
        logarithmic(axes, np.array([*itertools.chain(*drawn), *(curve["floor"] for curve in chosen)]))
    return rendered(figure, columns=max(1, min(6, 110 // max(30, *map(len, names)))))


def series(rows: Metrics, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps at which `key` was a finite number, and its values."""
    pairs = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, np.float64), np.array(values, np.float64)


def skipped_steps(rows: Metrics) -> list[int]:
    """The steps of the lines whose number of steps skipped so far is larger than in the line before."""
    counts = [(row["step"], row["skipped"]) for row in rows if "skipped" in row]
    return [step for (step, now), (_, before) in zip(counts, [(0, 0), *counts], strict=False) if now > before]


def smooth(values: np.ndarray, deviation: float) -> np.ndarray:
    """The values under a moving average with Gaussian weights of `deviation` places; the end values go on beyond the ends."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values.astype(np.float64), deviation, mode="nearest", truncate=6.0)


def colours() -> tuple[str, ...]:
    """The colours of what is drawn together, in turn."""
    return BLUE, ORANGE, GREEN, PURPLE, GREY


def blank(height: float) -> Figure:
    """9 inches wide, so that its 9-point letters can be read where it is shown 900 pixels wide."""
    from matplotlib.figure import Figure

    return Figure(figsize=(9, height), dpi=160, layout="constrained", facecolor="white")


def rendered(figure: Figure, columns: int = 6) -> Image.Image:
    """The figure, its axes made plain: faint lines, no frame, small letters, legends of so many columns above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

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
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


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


def _array(images: Native) -> np.ndarray:
    return images.detach().cpu().numpy() if isinstance(images, Tensor) else images


def _displayed(
    values: np.ndarray, lowest: int | float | None, highest: int | float | None
) -> UInt8[np.ndarray, "image row column channel"]:
    values = values if values.shape[1] in (1, 3, 4) else values[:, :1]
    first, last = _range(values)
    lowest, highest = first if lowest is None else lowest, last if highest is None else highest
    if not lowest < highest:
        raise ValueError(f"A display range needs a lowest value below its highest, got {lowest} and {highest}.")
    shown = (values.astype(np.float64) - lowest) / (highest - lowest)
    shown = np.nan_to_num(shown, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    return np.floor(shown * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The display range where none is given."""
    if values.dtype == np.bool_:
        return 0.0, 1.0
    if values.dtype.kind in "iu":
        return float(np.iinfo(values.dtype).min), float(np.iinfo(values.dtype).max)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    lowest, highest = np.percentile(finite, PERCENTILES).tolist()
    return lowest, highest if highest > lowest else lowest + 1.0


def _opaque(tiles: UInt8[np.ndarray, "image row column channel"]) -> UInt8[np.ndarray, "image row column opaque"]:
    """RGBA over a checkerboard; other images as they are."""
    if tiles.shape[3] != 4:
        return tiles
    rows, columns = np.indices(tiles.shape[1:3]) // TILE
    board = np.where((rows + columns) % 2, DARK, LIGHT)[..., None]
    alpha = tiles[..., 3:] / 255
    return np.floor(tiles[..., :3] * alpha + board * (1 - alpha) + 0.5).astype(np.uint8)


def _losses(axes: Axes, rows: Metrics) -> None:
    """Every loss, the held-out loss, and marks along the edges where steps were skipped or an alarm was raised."""
    others = NOT_LOSSES | {key for key, _, _ in PANELS} | {"loss", "held_out_loss"}
    parts = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in others and len(series(rows, key)[0])]
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


def _over_evaluations(axes: Axes, curve: Mapping[str, Any], number: int, *, labelled: bool) -> list[float]:
    """Draw one curve in the colour and mark of this number; the distances drawn."""
    points = sorted(curve["points"], key=lambda point: point["evaluations"])
    distances = [point["frechet_of_few"] for point in points]
    colour, mark = colours()[number % len(colours())], MARKS[number % len(MARKS)]
    label = curve["name"] if labelled else None
    axes.plot([point["evaluations"] for point in points], distances, f"{mark}-", color=colour, markersize=4, label=label)
    return distances


def _draw(axes: Axes, rows: Metrics, key: str, colour: str, label: str | None = None) -> None:
    """One measurement: raw and faint, and where there are many values, smoothed over a sixtieth of them and strong."""
    steps, values = series(rows, key)
    if len(values) < 60 or key == "rate":
        axes.plot(steps, values, "o-" if len(values) < 2 else "-", color=colour, linewidth=1.3, markersize=3, label=label)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values, len(values) / 60), color=colour, linewidth=1.5, label=label)
